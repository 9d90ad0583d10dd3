"""What a unit of capacity is worth, learnt from the jobs that came: the value density that still finds room.

A satellite that is offered more than it can do must not promise its capacity to the first who asks. Were the
last hours' arrivals served in falling order of value per unit, capacity would run out at some density: that is
the price. A job below it takes room from a better one that is likely to come.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from flightsw.state import JobSpec

WINDOW_S = 21600.0
"""Four orbits: long enough for some tens of arrivals, short enough to follow a change of demand."""

_PRIOR_S = 5400.0
"""Counted as already observed without arrivals, so that the first few jobs do not look like a flood."""


class _Arrival(NamedTuple):
    at_s: float
    density: float
    units: float


class Demand:
    """The arrivals of the last hours."""

    def __init__(self) -> None:
        self._arrivals: deque[_Arrival] = deque()
        self._since_s: float | None = None

    def note(self, spec: JobSpec, now_s: float) -> None:
        """Take in one submitted job."""
        if self._since_s is None:
            self._since_s = now_s
        self._arrivals.append(_Arrival(now_s, spec.value / spec.work_units, spec.work_units))

    def price(self, now_s: float, capacity_units_s: float) -> float:
        """Return value per unit at which demand of higher density fills `capacity_units_s`; 0 when none does."""
        arrivals = self._arrivals
        while arrivals and arrivals[0].at_s < now_s - WINDOW_S:
            arrivals.popleft()
        if self._since_s is None:
            return 0.0
        observed_s = min(now_s - self._since_s, WINDOW_S) + _PRIOR_S
        room = capacity_units_s * observed_s
        for arrival in sorted(arrivals, key=lambda a: -a.density):
            room -= arrival.units
            if room <= 0.0:
                return arrival.density
        return 0.0

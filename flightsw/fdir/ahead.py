"""Watches the forecast as `monitors` watches sensors: a limit that comes near is reported before it is crossed.

What is judged is the present draw at the worst credible corner: what happens if nobody does anything. The brain
hands in every new forecast. Reports by events and commands nothing: the planner turns away from the limit and the
governor sheds in time, whether or not this has spoken.
"""

from __future__ import annotations

from collections.abc import Mapping

from flightsw.fdir.monitors import PERSISTENCE
from flightsw.state import LIMITS, Ahead, Event

CLEAR_FACTOR = 1.5
"""A limit is clear again when it is this many times farther ahead than where it was reported."""


class _Watch:
    """State of one limit: consecutive forecasts that contradict what was reported last."""

    __slots__ = ("against", "near")

    def __init__(self) -> None:
        self.near = False
        self.against = 0


class AheadMonitor:
    """All limits ahead of one satellite."""

    def __init__(self) -> None:
        self._watches = tuple(_Watch() for _ in LIMITS)

    def check(self, ahead: Ahead | None, parameters: Mapping[str, float]) -> tuple[Event, ...]:
        """Judge one new forecast; None, where there can be none, changes nothing and starts all counts anew."""
        if ahead is None:
            for watch in self._watches:
                watch.against = 0
            return ()
        events: list[Event] = []
        near_s = parameters["limit_ahead_s"]
        for limit, watch, nominal_s, worst_s in zip(LIMITS, self._watches, ahead.present.crossing_s,
                                                    ahead.present_worst.crossing_s, strict=True):
            contradicts = worst_s > CLEAR_FACTOR * near_s if watch.near else worst_s <= near_s
            watch.against = watch.against + 1 if contradicts else 0
            if watch.against < PERSISTENCE:
                continue
            watch.near, watch.against = not watch.near, 0
            name = limit.name.lower()
            if watch.near:
                events.append(Event("limit_ahead", (name, worst_s, "nominal" if nominal_s <= near_s else "worst")))
            else:
                events.append(Event("limit_ahead_cleared", (name,)))
        return tuple(events)

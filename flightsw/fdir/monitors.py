"""Watches every sensor and every limit: persistence before it acts, latch until it has cleared.

The table comes out of the dictionary: a sensor row is its own monitor. A monitor reports by events and
asks for a shed; it commands nothing. It shares no state with planner or governor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from flightsw.dictionary.sensors import SENSORS
from flightsw.state import Event, Quality, Readings

PERSISTENCE = 3
"""Consecutive samples before a sensor counts as lost or back, or a limit as crossed: one bad sample is noise,
three are not."""

WARN_WITHIN_K = 3.0
"""A temperature warns this close to its limit."""

WARN_WITHIN_FRAC = 0.05
"""A charge warns this close to its limit."""


class Verdict(NamedTuple):
    """What the monitors found this tick; `shed` is why all compute must stop, empty when it need not."""

    events: tuple[Event, ...]
    shed: str


class _Limit:
    """State of one limit of one sensor. `sign` is 1 for an upper limit, -1 for a lower one."""

    __slots__ = ("beyond", "crossed", "name", "parameter", "sheds", "sign", "warn_within", "warned")

    def __init__(self, name: str, unit: str, parameter: str, sign: float) -> None:
        self.name = name
        self.parameter = parameter
        self.sign = sign
        self.warn_within = WARN_WITHIN_K if unit == "degC" else WARN_WITHIN_FRAC
        # What is too cold is not helped by shedding: the nodes' heat is what would warm it.
        self.sheds = sign > 0.0 or unit != "degC"
        self.beyond = 0
        self.crossed = False
        self.warned = False

    def judge(self, value: float, limit: float, events: list[Event]) -> str:
        """Compare one value with the limit; return the reason to shed while it is crossed."""
        distance = self.sign * (limit - value)
        self.beyond = self.beyond + 1 if distance < 0.0 else 0
        if self.beyond >= PERSISTENCE and not self.crossed:
            self.crossed = True
            events.append(Event("limit_crossed", (self.name, value, limit)))
        elif self.crossed and distance > 0.3 * self.warn_within:  # hysteresis: not cleared by noise
            self.crossed = False
            events.append(Event("limit_cleared", (self.name, value, limit)))
        if distance > 1.5 * self.warn_within:
            self.warned = False
        elif distance < self.warn_within and not self.warned:
            self.warned = True
            events.append(Event("limit_warning", (self.name, value, limit, self.warn_within)))
        if not (self.crossed and self.sheds):
            return ""
        return f"{self.name} = {value:.2f} {'beyond' if distance < 0.0 else 'not yet clear of'} {limit:.2f}"


class _Watch:
    """State of one sensor's monitor."""

    __slots__ = ("bad_ticks", "good_ticks", "index", "limits", "lost", "name")

    def __init__(self, index: int) -> None:
        row = SENSORS[index]
        self.index = index
        self.name = row.name
        self.limits = tuple(_Limit(row.name, row.unit, parameter, sign)
                            for parameter, sign in ((row.upper, 1.0), (row.lower, -1.0)) if parameter)
        self.bad_ticks = 0
        self.good_ticks = 0
        self.lost = False


_QUIET = Verdict((), "")


class Monitors:
    """All monitors of one satellite; `fitted` names its sensors."""

    def __init__(self, fitted: tuple[str, ...]) -> None:
        self._watches = tuple(_Watch(i) for i, row in enumerate(SENSORS) if row.name in fitted)

    def check(self, readings: Readings, parameters: Mapping[str, float]) -> Verdict:
        """Judge one tick's readings."""
        events: list[Event] = []
        shed = ""
        values = readings.values
        for watch in self._watches:
            value = values[watch.index]
            if value is None:
                watch.good_ticks = 0
                watch.bad_ticks += 1
                if watch.bad_ticks == PERSISTENCE and not watch.lost:
                    watch.lost = True
                    quality = Quality(readings.qualities[watch.index])
                    events.append(Event("sensor_lost", (watch.name, quality.name)))
                # A sensor that falls silent beyond its limit is still beyond it, until the estimator stops
                # compute for want of it (or of its node).
                if readings.now_s - readings.sampled_s[watch.index] <= parameters["blind_after_s"]:
                    for limit in watch.limits:
                        if limit.crossed and limit.sheds:
                            shed = shed or f"{watch.name} was beyond {parameters[limit.parameter]:.2f} and is silent"
                continue
            watch.bad_ticks = 0
            if watch.lost:
                watch.good_ticks += 1
                if watch.good_ticks >= PERSISTENCE:
                    watch.lost = False
                    events.append(Event("sensor_back", (watch.name,)))
            for limit in watch.limits:
                shed = limit.judge(value, parameters[limit.parameter], events) or shed
        return Verdict(tuple(events), shed) if events or shed else _QUIET

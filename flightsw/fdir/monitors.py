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
"""Consecutive ticks before a sensor counts as lost or back: one bad sample is noise, three are not."""

WARN_WITHIN = 3.0
"""A limit warns this close to it, in the sensor's unit (K); charge limits warn within a tenth of it."""


class Verdict(NamedTuple):
    """What the monitors found this tick; `shed` is why all compute must stop, empty when it need not."""

    events: tuple[Event, ...]
    shed: str


class _Watch:
    """State of one sensor's monitor."""

    __slots__ = ("bad_ticks", "crossed", "good_ticks", "index", "lost", "lower", "name", "upper", "warned")

    def __init__(self, index: int, upper: str, lower: str) -> None:
        self.index = index
        self.name = SENSORS[index].name
        self.upper = upper
        self.lower = lower
        self.bad_ticks = 0
        self.good_ticks = 0
        self.lost = False
        self.crossed = False
        self.warned = False


_QUIET = Verdict((), "")


class Monitors:
    """All monitors of one satellite; `fitted` names its sensors."""

    def __init__(self, fitted: tuple[str, ...]) -> None:
        self._watches = tuple(
            _Watch(i, row.upper, row.lower) for i, row in enumerate(SENSORS) if row.name in fitted
        )

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
                continue
            watch.bad_ticks = 0
            if watch.lost:
                watch.good_ticks += 1
                if watch.good_ticks >= PERSISTENCE:
                    watch.lost = False
                    events.append(Event("sensor_back", (watch.name,)))
            if watch.upper:
                distance = parameters[watch.upper] - value
                shed = _judge(watch, value, parameters[watch.upper], distance, WARN_WITHIN, events) or shed
            elif watch.lower:
                limit = parameters[watch.lower]
                shed = _judge(watch, value, limit, value - limit, 0.1 * abs(limit), events) or shed
        return Verdict(tuple(events), shed) if events or shed else _QUIET


def _judge(watch: _Watch, value: float, limit: float, distance: float, warn_within: float,
           events: list[Event]) -> str:
    """Compare one value with one limit; return the reason to shed while the limit is crossed."""
    if distance < 0.0:
        if not watch.crossed:
            watch.crossed = True
            events.append(Event("limit_crossed", (watch.name, value, limit)))
        return f"{watch.name} = {value:.2f} beyond {limit:.2f}"
    if watch.crossed:
        if distance > 0.3 * warn_within:  # hysteresis: not cleared by noise
            watch.crossed = False
            events.append(Event("limit_cleared", (watch.name, value, limit)))
        else:
            return f"{watch.name} = {value:.2f} not yet clear of {limit:.2f}"
    if distance < warn_within:
        if not watch.warned:
            watch.warned = True
            events.append(Event("limit_warning", (watch.name, value, limit, warn_within)))
    elif distance > 1.5 * warn_within:
        watch.warned = False
    return ""

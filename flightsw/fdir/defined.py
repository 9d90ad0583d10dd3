"""Watches housekeeping points as the ground has defined it (PUS 12): persistence before an event, and back.

Called by the supervisor with the pool of all points, now and then. It commands nothing: what follows from an event is
an event-action's. The monitors of sensors and limits are another module, and owe nothing to this one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from flightsw.dictionary.telemetry import POINT_INDEX
from flightsw.state import Event, MonitorDefinition

_EVENTS = {1: "monitor_info", 2: "monitor_low", 3: "monitor_medium", 4: "monitor_high"}


class _Seen:
    """Where one definition stands: samples in a row that contradict it, and what it says."""

    __slots__ = ("against", "crossed", "row")

    def __init__(self, row: MonitorDefinition) -> None:
        self.row = row
        self.against = 0
        self.crossed = False


class DefinedMonitors:
    """The state of all monitoring definitions; a definition that was changed begins afresh."""

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}

    def check(self, definitions: Mapping[int, MonitorDefinition], pool: Sequence[float | int]) -> list[Event]:
        """Judge one sample of the points that are watched; a missing value says nothing either way."""
        events = []
        for number in [number for number in self._seen if number not in definitions]:
            del self._seen[number]
        for number, row in definitions.items():
            seen = self._seen.get(number)
            if seen is None or seen.row != row:
                seen = self._seen[number] = _Seen(row)
            value = float(pool[POINT_INDEX[row.point]])
            if not row.enabled or math.isnan(value):
                continue
            if (not row.low <= value <= row.high) == seen.crossed:
                seen.against = 0
                continue
            seen.against += 1
            if seen.against >= row.samples:
                seen.against, seen.crossed = 0, not seen.crossed
                name = _EVENTS[row.severity] if seen.crossed else "monitor_cleared"
                events.append(Event(name, (number, row.point, value, row.low, row.high)))
        return events

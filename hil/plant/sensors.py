"""What the board's sensors make of the truth: noise, converter steps, constant error, late samples, faults.

Called by `hil.plant.satellite` once a tick. Everything random comes from one seeded generator, in blocks, so a
tick costs little and a seed gives the same readings for ever.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flightsw.declared import number
from flightsw.dictionary.sensors import INDEX, SENSORS, fitted_names
from flightsw.state import RawReading

FAULT_KINDS = ("stuck", "nan", "dropout", "bias", "drift", "noise", "delay", "replay")
_REMEMBERS = frozenset({"delay", "replay"})
_HISTORY_S = 3600
_BLOCK_TICKS = 1024
_CUT_SIGMA = 3.0


@dataclass(frozen=True, slots=True)
class TruthSensor:
    """One kind of sensor, in the unit of its dictionary row. `bias` bounds the constant error of a run."""

    noise: float = number("", 0.0, 100.0)
    step: float = number("", 1e-6, 100.0)
    bias: float = number("", 0.0, 100.0)
    period_s: int = number("s", 1, 600)

    @property
    def worst_error(self) -> float:
        """Greatest error that this sensor can make while it is healthy."""
        return self.bias + _CUT_SIGMA * self.noise + 0.5 * self.step


class SensorFault(NamedTuple):
    """One sensor misbehaves from `from_s` to `to_s`.

    "stuck" repeats the last reading as if it were fresh, "nan" reads NaN, "dropout" gives no value. `amount` is what
    "bias" adds and "noise" has as one sigma (in the sensor's unit), what "drift" adds an hour, and seconds for two:
    "delay" gives readings that much later, with their own stamps, and "replay" gives the `amount` seconds before the
    fault over and over, as if they were fresh.
    """

    from_s: float
    to_s: float
    sensor: str
    kind: str
    amount: float


def sensor_class(name: str) -> str:
    """Name under which the truth file keeps a sensor: all nodes share `die_c` and `node_w`."""
    return "".join(c for c in name if not c.isdigit()) if name.startswith(("die", "node")) else name


class SensorSuite:
    """All sensors of one satellite with `node_count` compute nodes. Raises KeyError for a kind not in `kinds`."""

    def __init__(self, kinds: Mapping[str, TruthSensor], node_count: int, generator: np.random.Generator,
                 faults: Sequence[SensorFault] = ()) -> None:
        names = fitted_names(node_count)
        self._kinds = [kinds[sensor_class(name)] for name in names]
        self._generator = generator
        self._sigma = np.array([kind.noise for kind in self._kinds])
        self._bias = generator.uniform(-1.0, 1.0, len(names)) * [kind.bias for kind in self._kinds]
        self._rows: list[list[float]] = []
        self._row = 0
        self._tick = 0
        rows = [(i, kind.step, 1.0 / kind.step) for i, kind in enumerate(self._kinds)]
        self._every_tick = [row for row, kind in zip(rows, self._kinds, strict=True) if kind.period_s == 1]
        periods = sorted({kind.period_s for kind in self._kinds if kind.period_s > 1})
        self._slower = [
            (period, [row for row, kind in zip(rows, self._kinds, strict=True) if kind.period_s == period])
            for period in periods
        ]
        self._readings: list[RawReading | None] = [None] * len(SENSORS)
        self._errors = generator.spawn(1)[0]  # of noisy faults; the healthy sensors' numbers do not move
        self._history: dict[int, deque[RawReading | None]] = {}
        self._faults: list[SensorFault] = []
        self._active: list[tuple[SensorFault, RawReading]] = []
        self._next_change_s = math.inf
        for fault in faults:
            self.inject(fault)

    def inject(self, fault: SensorFault) -> None:
        """Take in one more fault, of now or of later."""
        self._faults = sorted([*self._faults, fault])
        self._next_change_s = self._faults[0].from_s
        if fault.kind in _REMEMBERS:
            self.remember(fault.sensor)

    def remember(self, sensor: str) -> None:
        """Keep a sensor's last hour from now on, for a fault that will want it."""
        self._history.setdefault(INDEX[sensor], deque(maxlen=_HISTORY_S))

    def read(self, now_s: float, truth: Sequence[float]) -> Sequence[RawReading | None]:
        """Sample what is due; `truth` has the true value of each fitted sensor, in the dictionary's order.

        The result is valid until the next call.
        """
        if self._row == len(self._rows):
            self._draw()
        errors = self._rows[self._row]
        self._row += 1
        readings = self._readings
        for i, step, per_step in self._every_tick:
            readings[i] = RawReading(round((truth[i] + errors[i]) * per_step) * step, now_s)
        tick = self._tick
        self._tick = tick + 1
        for period, rows in self._slower:
            if tick % period == 0:
                for i, step, per_step in rows:
                    readings[i] = RawReading(round((truth[i] + errors[i]) * per_step) * step, now_s)
        for i, past in self._history.items():
            past.append(readings[i])
        if now_s >= self._next_change_s or self._active:
            return self._spoilt(now_s)
        return readings

    def _draw(self) -> None:
        noise = np.clip(self._generator.standard_normal((_BLOCK_TICKS, len(self._kinds))), -_CUT_SIGMA, _CUT_SIGMA)
        self._rows = (noise * self._sigma + self._bias).tolist()
        self._row = 0

    def _spoilt(self, now_s: float) -> Sequence[RawReading | None]:
        """Begin and end faults, and return the readings with the active ones applied."""
        while self._faults and now_s >= self._faults[0].from_s:
            fault = self._faults.pop(0)
            seen = self._readings[INDEX[fault.sensor]]
            if seen is not None:
                self._active.append((fault, seen))
        self._next_change_s = self._faults[0].from_s if self._faults else math.inf
        self._active = [(fault, seen) for fault, seen in self._active if now_s < fault.to_s]
        readings = list(self._readings)
        for fault, seen in self._active:
            i = INDEX[fault.sensor]
            now = readings[i]
            if now is None or now.value is None:
                continue
            readings[i] = self._spoil(fault, seen, now, now.value, now_s)
        return readings

    def _spoil(self, fault: SensorFault, seen: RawReading, now: RawReading, value: float, now_s: float) -> RawReading:
        """Return what a faulty sensor gives; `seen` is what it gave when the fault began."""
        kind, amount = fault.kind, fault.amount
        if kind == "stuck":
            return RawReading(seen.value, now.sampled_s)
        if kind == "nan":
            return RawReading(math.nan, now.sampled_s)
        if kind == "dropout":
            return RawReading(None, seen.sampled_s)
        if kind == "bias":
            return RawReading(value + amount, now.sampled_s)
        if kind == "drift":
            return RawReading(value + amount * (now_s - fault.from_s) / 3600.0, now.sampled_s)
        if kind == "noise":
            return RawReading(value + amount * float(self._errors.standard_normal()), now.sampled_s)
        past, since = self._history[INDEX[fault.sensor]], int(now_s - fault.from_s)
        # Replayed is, of the `amount` seconds before the fault, the one whose turn it is.
        back = 1 + (int(amount) if kind == "delay" else since + max(1, int(amount)) - since % max(1, int(amount)))
        old = past[-back] if back <= len(past) else None
        if old is None:
            return RawReading(None, seen.sampled_s)
        return old if kind == "delay" else RawReading(old.value, now.sampled_s)

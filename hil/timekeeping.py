"""How well a bench in real time kept its time: lateness of ticks, and one clock held against another.

Filled by the serial bench and its rig link while it runs, read when the run is judged. Times go in as the bench has
them, seconds of the mission; `rate` makes them this machine's.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

import numpy as np

_NEAR_SHARE = 0.5  # the half of the echoes with the shortest round trips counts
_ECHOES_MIN = 8


class Punctuality:
    """How late ticks began. An overrun is a tick that began a whole period late or more."""

    def __init__(self, period_s: float, rate: float) -> None:
        self._period_s = period_s
        self._rate = rate
        self._late_s = array("d")

    def __len__(self) -> int:
        return len(self._late_s)

    def add(self, late_s: float) -> None:
        """Note one tick, in seconds of the mission."""
        self._late_s.append(late_s)

    @property
    def overruns(self) -> int:
        """Ticks that began a period late or more."""
        return int(np.count_nonzero(np.frombuffer(self._late_s) >= self._period_s)) if self._late_s else 0

    @property
    def worst_s(self) -> float:
        """Greatest lateness, in seconds of this machine."""
        return max(self._late_s, default=0.0) / self._rate

    def summary(self) -> dict[str, object]:
        """Percentiles in ms of this machine, overruns, and how much later the last tenth began than the first."""
        if not self._late_s:
            return {"ticks": 0}
        late_ms = 1e3 * np.frombuffer(self._late_s) / self._rate
        tenth = max(1, late_ms.size // 10)
        p50, p99, p999 = np.percentile(late_ms, [50.0, 99.0, 99.9]).tolist()
        return {"ticks": late_ms.size, "overruns": self.overruns, "p50_ms": p50, "p99_ms": p99, "p99.9_ms": p999,
                "max_ms": float(late_ms.max()),
                "drift_ms": float(np.median(late_ms[-tenth:]) - np.median(late_ms[:tenth]))}


class Echo(NamedTuple):
    """One answer to a SYNC: sent and heard on the plant's clock, served on the board's."""

    sent_s: float
    heard_s: float
    board_s: float


class ClockSync:
    """The board's clock as seen through SYNC and ECHO (offset by halves, as in RFC 5905)."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._echoes: list[Echo] = []

    def add(self, echo: Echo) -> None:
        """Take in one answer."""
        self._echoes.append(echo)

    def summary(self) -> dict[str, object]:
        """Offset at the end and its spread, drift in parts per million, round trip: those of this machine."""
        if len(self._echoes) < _ECHOES_MIN:
            return {"echoes": len(self._echoes)}
        sent_s, heard_s, board_s = np.array(self._echoes).T / self._rate
        trip_s = heard_s - sent_s
        near = trip_s <= np.quantile(trip_s, _NEAR_SHARE)
        middle_s = (0.5 * (sent_s + heard_s))[near]
        offset_s = board_s[near] - middle_s
        slope, first_s = np.polyfit(middle_s - middle_s[0], offset_s, 1)
        left_ms = 1e3 * (offset_s - first_s - slope * (middle_s - middle_s[0]))
        return {"echoes": len(self._echoes), "offset_s": float(offset_s[-1]), "drift_ppm": 1e6 * float(slope),
                "offset_spread_ms": float(left_ms.std()), "round_trip_p50_ms": 1e3 * float(np.median(trip_s)),
                "round_trip_max_ms": 1e3 * float(trip_s.max())}

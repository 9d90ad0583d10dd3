"""Time as an argument. Nothing below the composition root reads an operating-system clock.

`now_s` is monotonic seconds since this clock began and is for durations and timeouts. On-board time
(OBT) is `now_s` plus an epoch that the ground may correct; it stamps telemetry and is never used for a
timeout.
"""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from typing import Protocol


class Clock(Protocol):
    """What a loop needs of time."""

    def now_s(self) -> float:
        """Monotonic seconds since the clock began."""

    def wait_until(self, deadline_s: float) -> None:
        """Return at `deadline_s` or, where it has passed, at once."""


class VirtualClock:
    """A clock that moves only when it is told to: a whole mission day in seconds, bit for bit the same."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now_s(self) -> float:
        """Virtual seconds."""
        return self._now_s

    def wait_until(self, deadline_s: float) -> None:
        """Jump to `deadline_s`; never backwards."""
        self._now_s = max(self._now_s, deadline_s)


class MonotonicClock:
    """The machine's monotonic clock from `start_s` on, optionally `rate` times as fast (bench runs only)."""

    def __init__(self, rate: float = 1.0, start_s: float = 0.0) -> None:
        if not 0.0 < rate <= 1000.0:
            raise ValueError(f"clock rate {rate} outside 0..1000")
        self._rate = rate
        self._start_s = start_s
        self._origin_s = time.monotonic()

    def now_s(self) -> float:
        """`start_s` and the seconds of this clock since it was made."""
        return self._start_s + (time.monotonic() - self._origin_s) * self._rate

    def wait_until(self, deadline_s: float) -> None:
        """Sleep to the absolute deadline, so that lateness never adds up to drift."""
        remaining_s = self._remaining_s(deadline_s)
        if remaining_s > 0.0:
            time.sleep(remaining_s)

    def wait_ready(self, deadline_s: float, readable: Sequence[int], writable: Sequence[int]) -> bool:
        """Sleep to the absolute deadline or until a descriptor is ready; return whether one is."""
        ready = select.select(readable, writable, (), max(0.0, self._remaining_s(deadline_s)))
        return bool(ready[0] or ready[1])

    def _remaining_s(self, deadline_s: float) -> float:
        """Seconds of the machine until `deadline_s`, negative when it has passed."""
        return (deadline_s - self.now_s()) / self._rate

"""A mean that wild samples hardly move: what the learners of steady quantities share. Pure; no clock."""

from __future__ import annotations

from statistics import median


class RobustMean:
    """Mean over about the last `count` samples.

    Starts at the median of the first `count`; from then on a sample counts with its deviation clipped to `reach`,
    so one that is wrong by any amount moves the mean by no more than `reach / count` (Huber's estimate of a
    location, Ann. Math. Stat. 35 (1964) 73, in steps).
    """

    __slots__ = ("_count", "_first", "_reach", "value")

    def __init__(self, count: int, reach: float) -> None:
        self._count = count
        self._reach = reach
        self._first: list[float] | None = []
        self.value: float | None = None

    def update(self, sample: float) -> None:
        """Take one sample; `value` is None until `count` have come."""
        if self.value is not None:
            off = sample - self.value
            self.value += min(max(off, -self._reach), self._reach) / self._count
        elif self._first is not None:
            self._first.append(sample)
            if len(self._first) == self._count:
                self.value = median(self._first)
                self._first = None

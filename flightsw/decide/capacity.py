"""How much work the nodes can do by when, as the plan affords it, and whether a set of whole jobs fits.

The one question behind every promise: laid out on the nodes in order of deadline, each job whole and on
one node at a time, does every job end in time? Work is laid on the least loaded node and each node is
given an equal share of the plan's capacity, which real dispatch can only better.

Two facts keep the answers cheap. A layout is monotone: more load anywhere lets no later job end earlier.
And load put on all nodes alike moves every later job by as much, so that one more job delays none behind it
by more than it costs itself.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from heapq import heapreplace
from itertools import accumulate
from typing import NamedTuple

from flightsw.state import Plan

_STEPS_IN_TURN = 32768
"""Jobs that a search for a deadline lays out while it tries place after place: all places of 256 jobs."""

_ROUNDING_UNITS = 1e-3
"""Far above what adding up the loads of thousands of jobs can be wrong by, far below any job."""


class Demand(NamedTuple):
    """What one job still asks for; of a node's capacity by its deadline it cannot use `lost_units`."""

    job_id: int
    deadline_s: float
    units: float
    lost_units: float = 0.0


class CapacityCurve:
    """Cumulative work units that one of `nodes` can do from now on, as the plan affords it.

    `held_back_frac` of it is never promised.
    """

    def __init__(self, plan: Plan, now_s: float, nodes: int, rate_max: float, held_back_frac: float) -> None:
        self._times: list[float] = [now_s]
        self._units: list[float] = [0.0]
        at_s, units = now_s, 0.0
        for end_s, rate in zip(plan.slot_end_s, plan.rate_units_s, strict=True):
            if end_s <= at_s:
                continue
            units += min(rate / nodes, rate_max) * (1.0 - held_back_frac) * (end_s - at_s)
            at_s = end_s
            self._times.append(at_s)
            self._units.append(units)
        # Beyond the plan's end the satellite repeats itself: extend at the plan's mean rate.
        span_s = at_s - now_s
        self._mean_rate = units / span_s if span_s > 0.0 else 0.0

    def units_by(self, time_s: float) -> float:
        """Work units that one node can have done by `time_s`."""
        times, units = self._times, self._units
        if time_s >= times[-1]:
            return units[-1] + self._mean_rate * (time_s - times[-1])
        i = bisect_left(times, time_s)
        if i == 0:
            return 0.0
        share = (time_s - times[i - 1]) / (times[i] - times[i - 1])
        return units[i - 1] + share * (units[i] - units[i - 1])

    def time_of(self, wanted: float) -> float | None:
        """Earliest time by which one node has done `wanted` units; None when the plan affords none."""
        times, units = self._times, self._units
        if wanted > units[-1]:
            if self._mean_rate <= 0.0:
                return None
            return times[-1] + (wanted - units[-1]) / self._mean_rate
        i = bisect_left(units, wanted)
        if i == 0:
            return times[0]
        share = (wanted - units[i - 1]) / (units[i] - units[i - 1])
        return times[i - 1] + share * (times[i] - times[i - 1])


class _Task(NamedTuple):
    """A job in the order of the layout."""

    deadline_s: float
    job_id: int
    cost: float  # load that it puts on its node
    room: float  # load that a node may end the job with, for it to be in time
    afforded: float  # load that any node can have worked off by its deadline


class Layout:
    """Whole jobs laid out in order of deadline, each on the least loaded of `nodes`, at `overhead_units` each.

    The nodes' loads before each place in the order are kept: a question about one more job starts there.
    """

    def __init__(self, demands: Iterable[Demand], curve: CapacityCurve, nodes: int, overhead_units: float) -> None:
        self._curve = curve
        self._overhead = overhead_units
        self._tasks = sorted(self._task(demand) for demand in demands)
        self._loads: list[tuple[float, ...]] = [(0.0,) * nodes]  # heaps; one before each place, one after the last
        self._lay_from(0)

    @property
    def fits(self) -> bool:
        """True when every job ends in time."""
        return self._slack[0] >= 0.0

    def takes(self, demand: Demand) -> bool:
        """Return whether every job and one more end in time. O(log n), and O(n) where the packing decides."""
        task = self._task(demand)
        place = bisect_left(self._tasks, task)
        in_time = self._loads[place][0] + task.cost <= task.room
        return self.fits and in_time and self._first_late(place, task.cost) is None

    def add(self, demand: Demand) -> None:
        """Lay out one more job. O(n)."""
        task = self._task(demand)
        place = bisect_left(self._tasks, task)
        self._tasks.insert(place, task)
        self._lay_from(place)

    def earliest_deadline_s(self, units: float, not_before_s: float) -> float | None:
        """Return the deadline after `not_before_s`, to the second, at which a job of `units` is taken. O(n log n).

        None when there is none. Fitting is not monotone in the deadline (a job with a later one is laid out behind
        jobs that may block the only node it could end on in time), so the places in the order are tried in turn
        and the answer is the earliest. Among more than 256 jobs the search may reach `_STEPS_IN_TURN`: it bisects
        the places that are left, and a chance fit ahead of the one that it finds may go unseen.
        """
        cost = units + self._overhead
        places = self._places(cost, not_before_s) if self.fits else []
        if not places:
            return None
        low, high, steps = 0, len(places) - 1, 0  # the last one fits
        while low < high:
            tried = low if steps < _STEPS_IN_TURN else (low + high) // 2
            place = places[tried][0]
            late = self._first_late(place, cost)
            if late is None:
                high = tried
            else:
                low = tried + 1
                steps += late + 1 - place
        return places[high][1]

    def _places(self, cost: float, not_before_s: float) -> list[tuple[int, float]]:
        """Return the places where a job of `cost` ends in time itself, each with the deadline that leads there.

        They begin where enough would be left for all behind if jobs could be divided, and end where all behind
        have more time to spare than the job costs. Empty when the plan affords nothing.
        """
        first = max(bisect_left(self._spare, cost - _ROUNDING_UNITS),
                    bisect_right(self._tasks, not_before_s, key=lambda task: task.deadline_s))
        after_s = max(not_before_s, self._tasks[first - 1].deadline_s) if first else not_before_s
        places: list[tuple[int, float]] = []
        for place in range(first, len(self._tasks) + 1):
            ends_s = self._curve.time_of(self._loads[place][0] + cost)
            if ends_s is None:
                return []
            deadline_s = max(after_s, ends_s) + 1.0
            after_s = self._tasks[place].deadline_s if place < len(self._tasks) else math.inf
            if deadline_s < after_s:
                places.append((place, deadline_s))
                if cost + _ROUNDING_UNITS <= self._slack[place]:
                    break
        return places

    def _first_late(self, place: int, cost: float) -> int | None:
        """Return the first place behind a job of `cost` at `place` whose job it would make late, None for none."""
        loads = list(self._loads[place])
        heapreplace(loads, loads[0] + cost)
        safe = bisect_left(self._slack, cost + _ROUNDING_UNITS)  # from there on no job can be made late
        for behind, task in enumerate(self._tasks[place:safe], place):
            ends = loads[0] + task.cost
            if ends > task.room:
                return behind
            heapreplace(loads, ends)
        return None

    def _task(self, demand: Demand) -> _Task:
        afforded = self._curve.units_by(demand.deadline_s)
        return _Task(demand.deadline_s, demand.job_id, demand.units + self._overhead, afforded - demand.lost_units,
                     afforded)

    def _lay_from(self, place: int) -> None:
        """Lay out the jobs from `place` on; note what each place leaves to all jobs from there on."""
        del self._loads[place + 1:]
        loads = list(self._loads[place])
        for task in self._tasks[place:]:
            heapreplace(loads, loads[0] + task.cost)
            self._loads.append(tuple(loads))
        nodes = len(loads)
        slack = [task.room - (before[0] + task.cost) for task, before in zip(self._tasks, self._loads, strict=False)]
        spare = [nodes * task.afforded - sum(after) for task, after in zip(self._tasks, self._loads[1:], strict=True)]
        self._slack = [*accumulate(reversed(slack), min, initial=math.inf)][::-1]
        self._spare = [*accumulate(reversed(spare), min)][::-1]

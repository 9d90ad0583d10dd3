"""How much work the nodes can do by when, as the plan affords it, and whether a set of whole jobs fits.

The one question behind every promise: laid out on the nodes in order of deadline, each job whole and on
one node at a time, does every job end in time? Work is laid on the least loaded node and each node is
given an equal share of the plan's capacity, which real dispatch can only better.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from flightsw.state import Plan


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


class Misfit(NamedTuple):
    """The first job, in order of deadline, that would end late, and when it would end (None: never)."""

    job_id: int
    ends_s: float | None


def first_misfit(demands: Sequence[Demand], curve: CapacityCurve, nodes: int, overhead_units: float) -> Misfit | None:
    """Lay out `demands`; return the first that would be late, None when all fit. O(n log n)."""
    return _lay([0.0] * nodes, _in_order(demands), curve, overhead_units)


def earliest_deadline_s(units: float, not_before_s: float, others: Sequence[Demand], curve: CapacityCurve, nodes: int,
                        overhead_units: float) -> float | None:
    """Earliest deadline from `not_before_s` on at which a job of `units` fits among `others`, to the second.

    None when there is none. Fitting is not monotone in the deadline (a job with a later one is laid out behind
    jobs that may block the only node it could end on in time), so each place in the order is tried in turn.
    """
    order = _in_order(others)
    loads = [0.0] * nodes
    for place in range(len(order) + 1):
        ends_s = curve.time_of(min(loads) + units + overhead_units)
        if ends_s is None:
            return None
        from_s = max(not_before_s, order[place - 1].deadline_s if place else not_before_s)
        deadline_s = max(from_s, ends_s) + 1.0
        if place == len(order) or deadline_s < order[place].deadline_s:
            tried = loads.copy()
            tried[tried.index(min(tried))] += units + overhead_units
            if _lay(tried, order[place:], curve, overhead_units) is None:
                return deadline_s
        if place < len(order) and _lay(loads, order[place:place + 1], curve, overhead_units) is not None:
            return None
    return None


def _in_order(demands: Sequence[Demand]) -> list[Demand]:
    return sorted(demands, key=lambda d: (d.deadline_s, d.job_id))


def _lay(loads: list[float], order: Sequence[Demand], curve: CapacityCurve, overhead_units: float) -> Misfit | None:
    """Lay each job of `order` on the least loaded node, adding to `loads`; stop at the first that is late."""
    for demand in order:
        node = loads.index(min(loads))
        loads[node] += demand.units + overhead_units
        if curve.units_by(demand.deadline_s) < loads[node] + demand.lost_units:
            return Misfit(demand.job_id, curve.time_of(loads[node] + demand.lost_units))
    return None

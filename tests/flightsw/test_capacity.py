"""Capacity: cumulative work by the plan, and whole jobs laid out on nodes, against brute force."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapreplace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flightsw.decide import capacity
from flightsw.decide.capacity import CapacityCurve, Demand, Layout
from flightsw.state import Plan

RATE_MAX = 1.18


def plan(rates: list[float], slot_s: float = 60.0, start_s: float = 0.0) -> Plan:
    ends = tuple(start_s + slot_s * (i + 1) for i in range(len(rates)))
    watts = tuple(30.0 * rate for rate in rates)
    return Plan(start_s, ends, watts, tuple(rates), 0.8, 1000.0, 5.0, "battery_floor_frac", False)


def curve(rates: list[float], nodes: int = 1, now_s: float = 0.0, held_back: float = 0.0) -> CapacityCurve:
    return CapacityCurve(plan(rates), now_s, nodes, RATE_MAX, held_back)


rate_lists = st.lists(st.sampled_from([0.0, 0.3, 1.0, 2.8, 4.5]), min_size=1, max_size=12)
demand_lists = st.lists(st.tuples(st.integers(1, 900), st.integers(1, 300)), max_size=7).map(
    lambda rows: [Demand(i, float(deadline), float(units)) for i, (deadline, units) in enumerate(rows, 1)])


# --- the curve -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now_s", "nodes", "held_back", "time_s", "units"),
    [
        (0.0, 1, 0.0, 0.0, 0.0),
        (0.0, 1, 0.0, 60.0, 60.0),
        (0.0, 1, 0.0, 90.0, 60.0),  # nothing in the second slot
        (0.0, 1, 0.0, 150.0, 60.0 + 30.0 * RATE_MAX),  # one node does no more than its highest mode
        (0.0, 4, 0.0, 180.0, 0.25 * 60.0 + 60.0),
        (0.0, 1, 0.1, 60.0, 54.0),
        (30.0, 1, 0.0, 60.0, 30.0),  # what is past is past
        (30.0, 1, 0.0, 10.0, 0.0),
    ],
)
def test_units_by(now_s: float, nodes: int, held_back: float, time_s: float, units: float) -> None:
    assert curve([1.0, 0.0, 4.0], nodes, now_s, held_back).units_by(time_s) == pytest.approx(units)


def test_beyond_the_plan_the_mean_goes_on_and_a_plan_that_is_over_affords_nothing() -> None:
    after = curve([1.0, 0.0])
    assert after.units_by(120.0 + 1000.0) == pytest.approx(60.0 + 500.0)
    over = curve([1.0, 1.0], now_s=500.0)
    assert over.units_by(1e6) == 0.0
    assert over.time_of(1.0) is None
    assert curve([0.0, 0.0]).time_of(1.0) is None


@settings(max_examples=200, deadline=None)
@given(rate_lists, st.integers(1, 4), st.floats(0.0, 900.0), st.floats(0.0, 2000.0), st.floats(0.0, 2000.0))
def test_the_curve_is_a_cumulative_sum_and_time_of_its_inverse(
    rates: list[float], nodes: int, now_s: float, one_s: float, other_s: float
) -> None:
    c = curve(rates, nodes, now_s)
    seconds = np.arange(60 * len(rates))
    per_s = np.minimum(np.array(rates)[seconds // 60] / nodes, RATE_MAX)
    low_s, high_s = sorted((one_s, other_s))
    assert c.units_by(low_s) <= c.units_by(high_s)
    if now_s == int(now_s) and now_s < seconds.size:
        assert c.units_by(float(seconds.size)) == pytest.approx(per_s[int(now_s):].sum())
    units = c.units_by(now_s + one_s)
    when_s = c.time_of(units)
    if units > 0.0:
        assert when_s is not None
        assert c.units_by(when_s) == pytest.approx(units, abs=1e-6)
        assert when_s <= now_s + one_s + 1e-6  # the earliest


# --- laying out ----------------------------------------------------------------------------------------


def brute_fits(demands: list[Demand], rates: list[float], nodes: int) -> bool:
    """List scheduling unit by unit: a node that is free takes the next job in order of deadline."""
    waiting = sorted(demands, key=lambda d: (d.deadline_s, d.job_id))
    left, doing, ends_at = [0.0] * nodes, [0] * nodes, {}
    unit = 0
    while waiting or any(left):
        for node in range(nodes):
            if left[node] == 0.0 and waiting:
                doing[node], left[node] = waiting[0].job_id, waiting.pop(0).units
        unit += 1
        for node in range(nodes):
            if left[node] > 0.0:
                left[node] -= 1.0
                if left[node] == 0.0:
                    ends_at[doing[node]] = unit
    per_s = [min(rate / nodes, RATE_MAX) for rate in rates for _ in range(60)]
    per_s += [sum(per_s) / len(per_s)] * 1000
    return all(sum(per_s[: int(d.deadline_s)]) >= ends_at[d.job_id] - 1e-6 for d in demands)


@settings(max_examples=150, deadline=None)
@given(demand_lists, rate_lists, st.integers(1, 3))
def test_what_fits_against_list_scheduling_unit_by_unit(
    demands: list[Demand], rates: list[float], nodes: int
) -> None:
    later = [d._replace(deadline_s=d.deadline_s + 1e-6) for d in demands]
    assert Layout(later, curve(rates, nodes), nodes, 0.0).fits is brute_fits(demands, rates, nodes)


@settings(max_examples=150, deadline=None)
@given(demand_lists.filter(bool), rate_lists, st.integers(1, 4), st.integers(1, 900), st.integers(1, 300))
def test_one_job_more_is_as_if_all_were_laid_out_anew(
    demands: list[Demand], rates: list[float], nodes: int, deadline_s: int, units: int
) -> None:
    c = curve(rates, nodes)
    asked = Demand(99, float(deadline_s), float(units), 5.0)
    grown = Layout([], c, nodes, 10.0)
    for known, demand in enumerate(demands):
        assert grown.takes(demand) is Layout(demands[:known + 1], c, nodes, 10.0).fits
        grown.add(demand)
    for anew in (Layout(demands, c, nodes, 10.0), Layout(demands[::-1], c, nodes, 10.0)):
        assert anew.fits is grown.fits
        assert anew.takes(asked) is grown.takes(asked) is Layout([*demands, asked], c, nodes, 10.0).fits
        found = anew.earliest_deadline_s(asked.units, asked.deadline_s)
        assert found == grown.earliest_deadline_s(asked.units, asked.deadline_s)


def test_each_job_costs_its_overhead_and_what_it_cannot_use_is_not_there_for_it() -> None:
    c = curve([1.0] * 10)
    assert Layout([], c, 1, 10.0).fits
    for lost in (0.0, 20.0):
        assert Layout([Demand(1, 100.0, 90.0 - lost, lost)], c, 1, 10.0).fits
        assert not Layout([Demand(1, 100.0, 90.1 - lost, lost)], c, 1, 10.0).fits
    assert not Layout([Demand(1, 100.0, 90.0)], curve([0.0]), 1, 0.0).fits
    behind = Demand(2, 200.0, 90.0)
    assert Layout([Demand(1, 100.0, 70.0, 20.0), behind], c, 1, 10.0).fits  # another job can use it


@settings(max_examples=200, deadline=None)
@given(demand_lists, rate_lists, st.integers(1, 4), st.integers(1, 900), st.integers(1, 300))
def test_one_more_demand_never_makes_a_misfit_fit(
    demands: list[Demand], rates: list[float], nodes: int, deadline_s: int, units: int
) -> None:
    c = curve(rates, nodes)
    if not Layout(demands, c, nodes, 10.0).fits:
        assert not Layout([*demands, Demand(99, float(deadline_s), float(units))], c, nodes, 10.0).fits


# --- the earliest deadline that fits -----------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(demand_lists, rate_lists, st.integers(1, 3), st.integers(1, 900), st.integers(1, 300))
def test_the_earliest_deadline_fits_and_none_earlier_does(
    others: list[Demand], rates: list[float], nodes: int, from_s: int, units: int
) -> None:
    c = curve(rates, nodes)
    found = Layout(others, c, nodes, 10.0).earliest_deadline_s(float(units), float(from_s))

    def fits(deadline_s: float) -> bool:
        return Layout([*others, Demand(99, deadline_s, float(units))], c, nodes, 10.0).fits

    if found is not None:
        assert found >= from_s
        assert fits(found)
    # Deadlines within a second of another job's are the documented resolution.
    edges = np.array([d.deadline_s for d in others])
    last = found - 2.5 if found is not None else 20_000.0
    for tried in np.arange(float(from_s), max(last, 0.0), max(1.0, (last - from_s) / 300.0)):
        if not edges.size or np.abs(edges - tried).min() > 2.5:
            assert not fits(float(tried)), (tried, found)


def test_a_later_deadline_may_fit_worse_and_the_search_does_not_trip_over_it() -> None:
    """On two nodes: early it has a node to itself, later it waits behind the job that took it."""
    c = curve([2.0] * 60, 2)
    others = [Demand(1, 100.0, 50.0), Demand(2, 102.0, 50.0)]
    fitting = [d for d in range(60, 160) if Layout(others, c, 2, 0.0).takes(Demand(9, float(d), 70.0))]
    assert fitting
    assert fitting != list(range(fitting[0], 160))  # a gap: bisection would be wrong
    assert Layout(others, c, 2, 0.0).earliest_deadline_s(70.0, 60.0) == pytest.approx(fitting[0], abs=1.0)


@settings(max_examples=200, deadline=None)
@given(demand_lists.filter(bool), rate_lists, st.integers(1, 3), st.integers(1, 900), st.integers(1, 300))
def test_one_more_promise_never_makes_an_earlier_deadline_fit(
    others: list[Demand], rates: list[float], nodes: int, from_s: int, units: int
) -> None:
    c = curve(rates, nodes)
    found = Layout(others[1:], c, nodes, 10.0).earliest_deadline_s(float(units), float(from_s))
    with_more = Layout(others, c, nodes, 10.0).earliest_deadline_s(float(units), float(from_s))
    if with_more is not None:
        assert found is not None
        assert found <= with_more + 1e-6


# --- many jobs -----------------------------------------------------------------------------------------


class Counted(float):
    """A number that counts how often it, or one made from it, is compared, added or subtracted."""

    operations = 0


def counted(name: str) -> Callable[[float, float], object]:
    plain = getattr(float, name)

    def operate(self: float, other: float) -> object:
        Counted.operations += 1
        result = plain(self, other)
        return Counted(result) if type(result) is float else result

    return operate


for operator in ("__add__", "__radd__", "__sub__", "__rsub__", "__lt__", "__le__", "__gt__", "__ge__"):
    setattr(Counted, operator, counted(operator))


def full(count: int, nodes: int, seed: int) -> list[Demand]:
    """Jobs that use up all that `nodes` can do, at one unit a second each; in no order."""
    rng = np.random.default_rng(seed)
    units = rng.uniform(60.0, 3000.0, count)
    deadlines = np.sort(rng.uniform(3100.0, 3100.0 + units.sum() / nodes, count))
    free = [0.0] * nodes
    kept = []
    for i in range(count):
        if free[0] + units[i] + 10.0 <= deadlines[i]:
            heapreplace(free, free[0] + float(units[i]) + 10.0)
            kept.append(Demand(i, float(deadlines[i]), float(units[i])))
    return [kept[i] for i in rng.permutation(len(kept))]


def dammed(count: int) -> list[Demand]:
    """Short jobs on four nodes, then one that takes all that is left of its node: only behind it is a place."""
    last_s = 1e6 + 3.0 * count
    units = last_s - 20.0 * ((count - 1) // 4) - 10.0
    return [*(Demand(i, 1e6 + 3.0 * i, 10.0) for i in range(1, count)), Demand(count, last_s, units)]


@settings(max_examples=20, deadline=None)
@given(st.integers(20, 150), st.integers(1, 8), st.integers(0, 2**31), st.integers(60, 3000), st.sampled_from([0, 100]))
def test_a_search_that_bisects_finds_a_deadline_that_fits_and_one_in_turn_the_earliest(
    count: int, nodes: int, seed: int, units: int, in_turn: int
) -> None:
    c, demands = curve([float(nodes)], nodes), full(count, nodes, seed)
    layout = Layout(demands, c, nodes, 10.0)
    earliest = layout.earliest_deadline_s(float(units), 0.0)
    assert earliest is not None
    assert Layout([*demands, Demand(-1, earliest, float(units))], c, nodes, 10.0).fits
    gaps = sorted([0.0, *(d.deadline_s for d in demands), earliest])
    latest = [high - 1.5 for low, high in pairwise(gaps) if high - low > 4.0 and high <= earliest]  # of each place
    assert not any(layout.takes(Demand(-1, at_s, float(units))) for at_s in latest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capacity, "_STEPS_IN_TURN", in_turn)
        found = layout.earliest_deadline_s(float(units), 0.0)
    assert found is not None
    assert found >= earliest
    assert layout.takes(Demand(-1, found, float(units)))


def operations(demands: list[Demand], units: float) -> int:
    """Count what it takes to lay all out, to refuse one job more and to find it a deadline, which it can have."""
    c = curve([4.0], 4)
    counted = [Demand(d.job_id, Counted(d.deadline_s), Counted(d.units)) for d in demands]
    asked = Demand(-1, min(d.deadline_s for d in demands) - 1.0, units)
    Counted.operations = 0
    layout = Layout(counted, c, 4, 10.0)
    assert not layout.takes(asked)
    found = layout.earliest_deadline_s(units, 0.0)
    spent = Counted.operations
    assert found is not None
    assert layout.takes(asked._replace(deadline_s=found))
    return spent


SIZES = (512, 1024, 2048, 4096)


@pytest.mark.parametrize("kind", ["full", "dammed"])
def test_the_cost_of_an_answer_grows_no_worse_than_n_log_n(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def spent_on(count: int) -> int:
        if kind == "full":
            return max(operations(full(count, 4, seed), 2500.0) for seed in range(3))
        return operations(dammed(count), 600.0)

    def growth(sizes: tuple[int, ...]) -> float:
        """Exponent of n, fitted to what is spent for each log n."""
        per_log = [spent_on(n) / np.log2(n) for n in sizes]
        return float(np.polyfit(np.log(sizes), np.log(per_log), 1)[0])

    assert spent_on(4096) > 4096  # it is counted
    assert growth(SIZES) < 1.05
    if kind == "dammed":
        monkeypatch.setattr(capacity, "_STEPS_IN_TURN", 10**9)  # without the bound it is square
        assert growth(SIZES[:3]) > 1.5

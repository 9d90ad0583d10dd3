"""Capacity: cumulative work by the plan, and whole jobs laid out on nodes, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flightsw.decide.capacity import CapacityCurve, Demand, earliest_deadline_s, first_misfit
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


def brute_first_misfit(demands: list[Demand], rates: list[float], nodes: int) -> int | None:
    """List scheduling unit by unit: a node that is free takes the next job in order of deadline."""
    waiting = sorted(demands, key=lambda d: (d.deadline_s, d.job_id))
    order = list(waiting)
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
    return next((d.job_id for d in order if sum(per_s[: int(d.deadline_s)]) < ends_at[d.job_id] - 1e-6), None)


@settings(max_examples=150, deadline=None)
@given(demand_lists, rate_lists, st.integers(1, 3))
def test_first_misfit_against_list_scheduling_unit_by_unit(
    demands: list[Demand], rates: list[float], nodes: int
) -> None:
    c = curve(rates, nodes)
    misfit = first_misfit([d._replace(deadline_s=d.deadline_s + 1e-6) for d in demands], c, nodes, 0.0)
    assert (misfit.job_id if misfit else None) == brute_first_misfit(demands, rates, nodes)


def test_each_job_costs_its_overhead_and_the_misfit_says_when_it_would_end() -> None:
    c = curve([1.0] * 10)
    one = [Demand(1, 100.0, 90.0)]
    assert first_misfit(one, c, 1, 10.0) is None
    misfit = first_misfit(one, c, 1, 10.1)
    assert misfit is not None
    assert misfit.job_id == 1
    assert misfit.ends_s == pytest.approx(100.1)
    never = first_misfit(one, curve([0.0]), 1, 0.0)
    assert never is not None
    assert never.ends_s is None
    assert first_misfit([], c, 1, 10.0) is None


@settings(max_examples=200, deadline=None)
@given(demand_lists, rate_lists, st.integers(1, 4), st.integers(1, 900), st.integers(1, 300))
def test_one_more_demand_never_makes_a_misfit_fit(
    demands: list[Demand], rates: list[float], nodes: int, deadline_s: int, units: int
) -> None:
    c = curve(rates, nodes)
    if first_misfit(demands, c, nodes, 10.0) is not None:
        assert first_misfit([*demands, Demand(99, float(deadline_s), float(units))], c, nodes, 10.0) is not None


# --- the earliest deadline that fits -----------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(demand_lists, rate_lists, st.integers(1, 3), st.integers(1, 900), st.integers(1, 300))
def test_the_earliest_deadline_fits_and_none_earlier_does(
    others: list[Demand], rates: list[float], nodes: int, from_s: int, units: int
) -> None:
    c = curve(rates, nodes)
    found = earliest_deadline_s(float(units), float(from_s), others, c, nodes, 10.0)

    def fits(deadline_s: float) -> bool:
        return first_misfit([*others, Demand(99, deadline_s, float(units))], c, nodes, 10.0) is None

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
    fitting = [d for d in range(60, 160) if first_misfit([*others, Demand(9, float(d), 70.0)], c, 2, 0.0) is None]
    assert fitting
    assert fitting != list(range(fitting[0], 160))  # a gap: bisection would be wrong
    assert earliest_deadline_s(70.0, 60.0, others, c, 2, 0.0) == pytest.approx(fitting[0], abs=1.0)

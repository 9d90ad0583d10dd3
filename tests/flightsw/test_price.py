"""The price of capacity: what the demand of the last hours says a unit is worth."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flightsw.decide.price import WINDOW_S, Demand
from flightsw.state import JobSpec

PRIOR_S = 5400.0  # counted as observed before the first arrival

Job = tuple[float, float, float]  # arrival s, value per unit, units


def price_of(jobs: list[Job], now_s: float, capacity_units_s: float) -> float:
    demand = Demand()
    for i, (at_s, density, units) in enumerate(jobs):
        demand.note(JobSpec(i, "", units, 1.0, density * units, at_s, at_s + 9000.0, at_s), at_s)
    return demand.price(now_s, capacity_units_s)


# Numbers whose sums and quotients are exact: what is equal on paper is equal here.
densities = st.integers(0, 64).map(lambda i: i / 16.0)
units = st.integers(0, 13).map(lambda i: 2.0**i)
arrivals = st.lists(st.tuples(st.integers(0, 40_000).map(float), densities, units), min_size=1, max_size=30).map(sorted)
capacities = st.integers(0, 400).map(lambda i: i / 64.0)
waits = st.integers(0, 30_000).map(float)


def test_without_demand_a_unit_is_worth_nothing() -> None:
    assert Demand().price(0.0, 2.0) == 0.0
    assert Demand().price(1e6, 0.0) == 0.0


def test_demand_below_capacity_is_worth_nothing() -> None:
    room = 2.0 * (PRIOR_S + 600.0)
    assert price_of([(0.0, 3.0, room - 1.0)], 600.0, 2.0) == 0.0
    assert price_of([(0.0, 3.0, 0.5 * room), (600.0, 5.0, 0.5 * room - 1.0)], 600.0, 2.0) == 0.0


def test_the_price_is_the_density_at_which_capacity_runs_out() -> None:
    jobs = [(0.0, 1.0, 4000.0), (10.0, 4.0, 4000.0), (20.0, 2.0, 4000.0), (30.0, 3.0, 4000.0)]
    observed_s = PRIOR_S + 600.0
    for filled, density in ((3999.0, 4.0), (4000.0, 4.0), (4001.0, 3.0), (8001.0, 2.0), (16_000.0, 1.0),
                            (16_001.0, 0.0)):  # fmt: skip
        assert price_of(jobs, 600.0, filled / observed_s) == density


@settings(max_examples=300, deadline=None)
@given(arrivals, waits, capacities)
def test_the_price_agrees_with_its_definition(jobs: list[Job], wait_s: float, capacity_units_s: float) -> None:
    """At the price demand fills the room; above it there is room left."""
    now_s = jobs[-1][0] + wait_s
    price = price_of(jobs, now_s, capacity_units_s)
    room = capacity_units_s * (min(now_s - jobs[0][0], WINDOW_S) + PRIOR_S)
    recent = [(density, units) for at_s, density, units in jobs if at_s >= now_s - WINDOW_S]
    if sum(units for _, units in recent) < room or not recent:
        assert price == 0.0
    else:
        assert price in [density for density, _ in recent]
        assert sum(units for density, units in recent if density >= price) >= room
        if price < max(density for density, _ in recent):
            assert sum(units for density, units in recent if density > price) < room


def test_arrivals_leave_the_window() -> None:
    flood = [(0.0, 9.0, 1e6), (100.0, 5.0, 1e6)]
    assert price_of(flood, WINDOW_S, 2.0) == 9.0
    assert price_of(flood, WINDOW_S + 1.0, 2.0) == 5.0
    assert price_of(flood, WINDOW_S + 101.0, 2.0) == 0.0
    demand = Demand()
    demand.note(JobSpec(1, "", 1e6, 1.0, 9e6, 0.0, 9000.0, 0.0), 0.0)
    assert [demand.price(t, 2.0) for t in (0.0, WINDOW_S, WINDOW_S + 1.0, 10.0 * WINDOW_S)] == [9.0, 9.0, 0.0, 0.0]


def test_the_same_demand_over_more_time_is_worth_less() -> None:
    """Ten jobs are a flood in an hour and little in a day; after the window the time that counts stands still."""
    jobs = [(0.0, density, 2000.0) for density in (5.0, 4.0, 3.0, 2.0, 1.0)]
    prices = [price_of(jobs, now_s, 0.5) for now_s in (0.0, 3600.0, 7200.0, WINDOW_S)]
    assert prices == [4.0, 3.0, 2.0, 0.0]
    steady = [(600.0 * i, float(i % 8), 1800.0) for i in range(200)]
    late = [price_of(steady, steady[-1][0] + 4800.0 * i, 1.5) for i in (0, 1)]
    assert late[0] > 0.0
    assert late[1] <= late[0]


@settings(max_examples=300, deadline=None)
@given(arrivals, waits, capacities, st.floats(0.0, 1.0), densities, units)
def test_more_demand_never_lowers_the_price(
    jobs: list[Job], wait_s: float, capacity_units_s: float, share: float, density: float, more_units: float
) -> None:
    """One more arrival, at any time since the first."""
    now_s = jobs[-1][0] + wait_s
    at_s = jobs[0][0] + share * (now_s - jobs[0][0])
    more = sorted([*jobs, (at_s, density, more_units)], key=lambda one: one[0])
    assert price_of(more, now_s, capacity_units_s) >= price_of(jobs, now_s, capacity_units_s)


@settings(max_examples=100, deadline=None)
@given(arrivals, waits, st.lists(capacities, min_size=2, max_size=5))
def test_more_capacity_never_raises_the_price(jobs: list[Job], wait_s: float, rates: list[float]) -> None:
    prices = [price_of(jobs, jobs[-1][0] + wait_s, rate) for rate in sorted(rates)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(prices))


@settings(max_examples=100, deadline=None)
@given(arrivals, waits, capacities)
def test_asking_changes_nothing(jobs: list[Job], wait_s: float, capacity_units_s: float) -> None:
    """Same arrivals, same price: however often it is asked, and whoever asked before."""
    demand = Demand()
    for i, (at_s, density, units_) in enumerate(jobs):
        demand.note(JobSpec(i, "", units_, 1.0, density * units_, at_s, at_s + 9000.0, at_s), at_s)
        demand.price(at_s, 7.0)
    now_s = jobs[-1][0] + wait_s
    assert demand.price(now_s, capacity_units_s) == demand.price(now_s, capacity_units_s)
    assert demand.price(now_s, capacity_units_s) == price_of(jobs, now_s, capacity_units_s)


@pytest.mark.parametrize(("value", "work_units"), [(1.5, 1092.0), (1.0, 49.0), (0.1, 3.0)])
def test_the_price_is_a_jobs_own_density_to_the_last_bit(value: float, work_units: float) -> None:
    demand = Demand()
    demand.note(JobSpec(1, "", work_units, 1.0, value, 0.0, 9000.0, 0.0), 0.0)
    assert demand.price(0.0, 0.0) == value / work_units

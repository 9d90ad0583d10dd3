"""Limits ahead: the forecast is the model's, worst is worse, and its monitor speaks early, seldom and once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_satellite import (
    WARM_C,
    ZERO_C,
    Corner,
    estimate,
    fly,
    forecaster,
    hot_corner,
    hot_start,
    limits_k,
    mission,
    orbit,
    weather,
)  # fmt: skip

from flightsw.decide.planner import RateCurve, plan
from flightsw.fdir.ahead import CLEAR_FACTOR, AheadMonitor
from flightsw.fdir.monitors import PERSISTENCE
from flightsw.physics.forecast import AHEAD_ORBITS, SLOT_S, STEP_S
from flightsw.state import AHEAD_POINTS, LIMITS, Ahead, Estimate, Event, Limit, Outlook, Plan

M = mission()
NEAR_S = M.parameters["limit_ahead_s"]
FLOOR, DIE, PLATE, RADIATOR, BATTERY = range(5)


def level_plan(now_s: float, watts: float) -> Plan:
    ends = tuple(now_s + SLOT_S * (i + 1) for i in range(180))
    return Plan(now_s, ends, (watts,) * 180, (1.0,) * 180, 0.8, now_s, 5.0, "none", is_fallback=False)


def ahead_of(state: Estimate, watts: float, draws_w: tuple[float, ...] = (0.4,) * 4) -> Ahead:
    return forecaster().ahead(state, level_plan(state.now_s, watts), draws_w, M.parameters)


# --- the forecast --------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 600), st.floats(0.75, 1.0), st.floats(40.0, 80.0), st.floats(0.0, 15.0))
def test_the_worst_case_equals_plain_numpy_at_the_hot_corner(
    steps_in: int, charge: float, watts: float, hot_k: float
) -> None:
    now_s = steps_in * STEP_S
    state = estimate(now_s, charge, tuple(c + hot_k for c in WARM_C))
    ahead = ahead_of(state, watts, (watts / 4.0,) * 4)
    steps = round(AHEAD_POINTS * ahead.step_s / STEP_S)
    start_k, start_frac = hot_start(M, state)
    flown = fly(M, weather("iss_like", 0.0, 600 + steps + 1, STEP_S), STEP_S, np.array([steps_in]), start_k[:, None],
                np.array([start_frac]), np.full((steps, 4, 1), watts / 4.0), hot_corner(M))  # fmt: skip
    at = np.arange(1, AHEAD_POINTS + 1) * round(ahead.step_s / STEP_S) - 1
    hottest_c = flown.temperature_k[at, :4, 0].max(axis=1) - ZERO_C
    np.testing.assert_allclose(ahead.hottest_worst_c, hottest_c, atol=0.15)  # too warm for the heater, unlike below
    margin_k = limits_k(M.parameters) - flown.highest_k[:, 0]
    assert ahead.plan_worst.margin[PLATE] == pytest.approx(margin_k[4], abs=0.15)
    assert ahead.plan_worst.margin[RADIATOR] == pytest.approx(margin_k[5], abs=0.15)
    assert ahead.plan_worst.margin[BATTERY] == pytest.approx(margin_k[7], abs=0.3)
    assert ahead.plan_worst == ahead.present_worst  # the same draw


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 40_000), st.floats(0.7, 1.0), st.floats(2.0, 100.0), st.floats(-5.0, 15.0))
def test_worst_is_never_better_than_nominal(now_s: int, charge: float, watts: float, hot_k: float) -> None:
    state = estimate(float(now_s), charge, tuple(c + hot_k for c in WARM_C))
    ahead = ahead_of(state, watts, (watts / 4.0,) * 4)
    for best, worst in ((ahead.plan, ahead.plan_worst), (ahead.present, ahead.present_worst)):
        assert all(w <= b + 1e-4 for b, w in zip(best.margin, worst.margin, strict=True))
        assert all(w <= b for b, w in zip(best.crossing_s, worst.crossing_s, strict=True))
        for margin, crossing_s in (*zip(*best, strict=True), *zip(*worst, strict=True)):
            assert (margin < 0.0) == (crossing_s < math.inf)
    assert ahead.step_s * AHEAD_POINTS >= AHEAD_ORBITS * orbit().period_s
    assert len(ahead.charge_frac) == len(ahead.charge_worst_frac) == len(ahead.hottest_c) == AHEAD_POINTS


def test_the_plans_slots_are_flown_not_its_mean() -> None:
    """The same energy early and late: the early one is hot early."""
    state, base = estimate(0.0), level_plan(0.0, 0.0)
    early = base._replace(budget_w=(80.0,) * 30 + (2.0,) * 150)
    late = base._replace(budget_w=(2.0,) * 60 + (80.0,) * 30 + (2.0,) * 90)
    one, other = (forecaster().ahead(state, p, (0.4,) * 4, M.parameters) for p in (early, late))
    assert one.hottest_c[2] > other.hottest_c[2] + 10.0
    assert one.present == other.present


def test_beyond_its_end_the_plan_repeats_its_last_orbit() -> None:
    state, period = estimate(0.0), round(orbit().period_s / SLOT_S)
    whole = tuple(80.0 if i % period < period // 2 else 2.0 for i in range(6 * period))
    ends = tuple(SLOT_S * (i + 1) for i in range(6 * period))
    short, long = (level_plan(0.0, 0.0)._replace(slot_end_s=ends[: orbits * period], budget_w=whole[: orbits * period])
                   for orbits in (2, 5))  # fmt: skip
    one, other = (forecaster().ahead(state, p, (0.4,) * 4, M.parameters) for p in (short, long))
    np.testing.assert_allclose(one.charge_frac, other.charge_frac, atol=0.01)


def test_present_draw_crosses_the_floor_where_the_plan_does_not() -> None:
    state = estimate(1000.0, 0.8)
    planned = plan(forecaster(), state, RateCurve(M), M.parameters)
    ahead = forecaster().ahead(state, planned, (22.0,) * 4, M.parameters)
    assert ahead.plan.crossing_s[FLOOR] == math.inf
    assert ahead.present.next_crossing()[0] is Limit.BATTERY_FLOOR_FRAC
    assert ahead.present_worst.next_crossing()[1] <= ahead.present.next_crossing()[1] < 6000.0
    assert Outlook((1.0,) * 5, (math.inf,) * 5).next_crossing() == (Limit.NONE, math.inf)


def test_what_is_beyond_its_limit_now_is_crossed_in_no_time() -> None:
    ahead = ahead_of(estimate(0.0, 0.9, (*WARM_C[:5], 51.0, *WARM_C[6:])), 10.0)
    assert ahead.plan.crossing_s[RADIATOR] == 0.0
    assert ahead.plan.next_crossing() == (Limit.RADIATOR_MAX_C, 0.0)


def test_a_dark_node_has_no_part_in_it() -> None:
    runaway = (120.0, *WARM_C[1:])
    ahead = ahead_of(estimate(0.0, 0.9, runaway, dark=(0,)), 10.0)
    assert ahead.plan_worst.crossing_s[DIE] == math.inf
    assert ahead.hottest_c[0] < 60.0
    all_dark = ahead_of(estimate(0.0, 0.9, (120.0,) * 4 + WARM_C[4:], dark=(0, 1, 2, 3)), 10.0)
    assert all(math.isnan(c) for c in all_dark.hottest_c)


def test_the_cold_end_of_the_battery_is_in_the_worst_case_only() -> None:
    """A cold pack: its heater may come on at worst, and costs charge; nominally it does not."""
    cold = (*WARM_C[:6], 9.5, 9.5, 30.0)
    ahead = ahead_of(estimate(0.0, 0.9, cold), 1.6)
    steps = round(AHEAD_POINTS * ahead.step_s / STEP_S)
    start_k = np.array([c + ZERO_C for c in cold])[:, None]
    flown = fly(M, weather("iss_like", 0.0, steps + 1, STEP_S), STEP_S, np.array([0]), start_k, np.array([0.9]),
                np.full((steps, 4, 1), 0.4), Corner())  # fmt: skip
    floor_frac = M.parameters["battery_floor_frac"]
    assert ahead.plan.margin[FLOOR] == pytest.approx(flown.lowest_frac[0] - floor_frac, abs=2e-3)


# --- the monitor ---------------------------------------------------------------------------------------


def forecast(worst_s: float, nominal_s: float = math.inf, limit: int = PLATE) -> Ahead:
    def outlook(in_s: float) -> Outlook:
        return Outlook((1.0,) * 5, tuple(in_s if i == limit else math.inf for i in range(5)))

    curve = (0.9,) * AHEAD_POINTS
    return Ahead(0.0, 540.0, curve, curve, curve, curve, outlook(math.inf), outlook(0.0), outlook(nominal_s),
                 outlook(worst_s))  # fmt: skip


def told(monitor: AheadMonitor, *forecasts: Ahead | None) -> list[Event]:
    return [event for one in forecasts for event in monitor.check(one, M.parameters)]


@pytest.mark.parametrize("limit", range(5))
def test_a_limit_near_ahead_is_told_once_and_so_is_that_it_is_clear(limit: int) -> None:
    monitor, near = AheadMonitor(), forecast(NEAR_S, limit=limit)
    far = forecast(CLEAR_FACTOR * NEAR_S + 1.0, limit=limit)
    assert told(monitor, *[near] * (PERSISTENCE - 1)) == []
    name = LIMITS[limit].name.lower()
    assert told(monitor, near) == [Event("limit_ahead", (name, NEAR_S, "worst"))]
    assert told(monitor, *[near] * 10, *[far] * (PERSISTENCE - 1)) == []
    assert told(monitor, far) == [Event("limit_ahead_cleared", (name,))]
    assert told(monitor, *[far] * 10) == []


def test_the_nominal_case_is_named_when_it_crosses_as_soon() -> None:
    (event,) = told(AheadMonitor(), *[forecast(0.5 * NEAR_S, NEAR_S)] * PERSISTENCE)
    assert event.args == ("plate_max_c", 0.5 * NEAR_S, "nominal")


def test_neither_noise_nor_a_forecast_between_the_edges_makes_it_chatter() -> None:
    monitor, near, between = AheadMonitor(), forecast(NEAR_S), forecast(1.2 * NEAR_S)
    assert told(monitor, *[near, near, between] * 20) == []
    assert len(told(monitor, *[near] * PERSISTENCE)) == 1
    assert told(monitor, *[between] * 20, *[forecast(math.inf), forecast(math.inf), near] * 20) == []


def test_without_a_forecast_nothing_changes_and_counts_begin_anew() -> None:
    monitor, near = AheadMonitor(), forecast(NEAR_S)
    assert told(monitor, near, near, None, near, near) == []
    assert len(told(monitor, near)) == 1
    assert told(monitor, *[None] * 20) == []


def test_a_planned_crossing_alone_is_no_event() -> None:
    """`plan_worst` of these forecasts crosses at once: what is judged is what happens if nobody does anything."""
    assert told(AheadMonitor(), *[forecast(math.inf)] * 10) == []

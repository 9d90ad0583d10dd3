"""The planner: more is never less, and a plan that is followed crosses nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_satellite import (
    WARM_C,
    estimate,
    fly,
    forecaster,
    hot_corner,
    hot_start,
    limits_k,
    mission,
    start_s,
    weather,
)  # fmt: skip

from flightsw.decide import planner
from flightsw.decide.dispatch import hull_steps
from flightsw.orbit import Orbit, parse_tle
from flightsw.physics.forecast import PLAN_CAUTION, SLOT_S, STEP_S, Forecaster
from flightsw.state import Plan

M = mission()
CURVE = planner.RateCurve(M)
TOP_W = min(CURVE.most_w, CURVE.rail_w(M.parameters))
# The search's grid: twelve levels, then sixths of a level.
GRID_W = (TOP_W - CURVE.least_w) / 11.0 / 6.0

starts = st.integers(0, 2400).map(lambda i: 5.0 * i)
charges = st.floats(0.72, 1.0)


def plan(now_s: float, charge: float, celsius: tuple[float, ...] = WARM_C, **changes: float) -> Plan:
    return planner.plan(forecaster(), estimate(now_s, charge, celsius), CURVE, M.parameters | changes)


def work(p: Plan) -> float:
    return sum(p.rate_units_s) * SLOT_S


def tolerance(p: Plan) -> float:
    """Work that two steps of the grid are worth at the steepest part of the curve (6 % of a good plan)."""
    return 2.0 * GRID_W * 0.0515 * len(p.budget_w) * SLOT_S


# --- more is never less --------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(starts, charges, st.floats(0.0, 0.2))
def test_more_charge_never_plans_less(now_s: float, charge: float, more: float) -> None:
    """Full at the end of an eclipse, with a horizon that ends there, is not a charge to be kept there for ever."""
    poor, rich = plan(now_s, charge), plan(now_s, min(1.0, charge + more))
    assert work(rich) >= work(poor) - tolerance(poor)
    assert rich.is_fallback <= poor.is_fallback


@settings(max_examples=40, deadline=None)
@given(starts, charges, st.floats(0.0, 15.0))
def test_a_cooler_start_never_plans_less(now_s: float, charge: float, cooler_k: float) -> None:
    hot_c = (60.0, 60.0, 60.0, 60.0, 45.0, 38.0, 30.0, 32.0, 40.0)
    hot = plan(now_s, charge, hot_c)
    cool = plan(now_s, charge, tuple(c - cooler_k for c in hot_c))
    assert work(cool) >= work(hot) - tolerance(hot)


@pytest.mark.parametrize("now_s", [0.0, 1500.0, 2500.0, 4000.0])
@pytest.mark.parametrize("charge", [0.8, 0.97])
def test_a_larger_radiator_never_plans_less(now_s: float, charge: float) -> None:
    small = works_with(now_s, charge, radiator_area_m2=0.07)
    reference = works_with(now_s, charge, radiator_area_m2=0.14)
    large = works_with(now_s, charge, radiator_area_m2=0.28)
    slack = tolerance(plan(now_s, charge))
    assert reference >= small - slack
    assert large >= reference - slack
    assert large > small


def works_with(now_s: float, charge: float, **thermal: float) -> float:
    m = dataclasses.replace(M, thermal=dataclasses.replace(M.thermal, **thermal))
    view = Forecaster(m, Orbit(parse_tle(m.orbit.tle, "t")), start_s())
    return work(planner.plan(view, estimate(now_s, charge), planner.RateCurve(m), m.parameters))


@pytest.mark.parametrize(
    ("parameter", "less", "more"),
    [("battery_floor_frac", 0.85, 0.6), ("plate_max_c", 30.0, 55.0), ("radiator_max_c", 14.0, 50.0),
     ("die_max_c", 38.0, 80.0), ("payload_max_w", 20.0, 100.0)],
)  # fmt: skip
def test_each_limit_binds(parameter: str, less: float, more: float) -> None:
    tight, wide = plan(500.0, 0.95, **{parameter: less}), plan(500.0, 0.95, **{parameter: more})
    assert work(tight) < work(wide)
    if parameter.endswith("_c"):
        assert tight.binding_limit == parameter
    if parameter == "payload_max_w":
        assert max(tight.budget_w) <= less / (1.0 + M.margins.draw_frac) + 1e-9


@pytest.mark.parametrize(("rail_w", "carried_w"), [(3.0, 1.6), (12.0, 1.6), (16.0, 15.2), (30.0, 28.8), (300.0, 120.0)])
def test_power_that_no_step_can_draw_is_not_planned(rail_w: float, carried_w: float) -> None:
    """Twelve watts start no node: what cannot run must not be promised."""
    parameters = dict(M.parameters, payload_max_w=rail_w * (1.0 + M.margins.draw_frac))
    assert planner.RateCurve(M).rail_w(parameters) == pytest.approx(carried_w)


# --- a followed plan crosses nothing -------------------------------------------------------------------


def test_no_plan_crosses_a_limit_when_an_independent_model_follows_it() -> None:
    """Forty random plans, followed by plain NumPy as near the hot corner and the worst bound as they were made."""
    rng = np.random.default_rng(2)
    lanes, dt_s, steps = 40, 5.0, 2220
    now_s = dt_s * rng.integers(0, 2000, lanes)
    plans, start_k, charge = [], np.zeros((9, lanes)), np.zeros(lanes)
    for lane in range(lanes):
        plate_c = rng.uniform(0.0, 45.0)
        celsius = (*(plate_c + rng.uniform(0.0, 20.0, 4)), plate_c, plate_c - rng.uniform(0.0, 10.0),
                   rng.uniform(5, 30), rng.uniform(12, 35), rng.uniform(-40, 70))  # fmt: skip
        state = estimate(float(now_s[lane]), rng.uniform(0.75, 1.0), tuple(map(float, celsius)))
        plans.append(planner.plan(forecaster(), state, CURVE, M.parameters))
        start_k[:, lane], charge[lane] = hot_start(M, state, PLAN_CAUTION)
    kept = [i for i, p in enumerate(plans) if not p.is_fallback]
    assert len(kept) > 0.8 * lanes
    draws = np.zeros((steps, 4, lanes))
    for lane, p in enumerate(plans):
        at_s = now_s[lane] + dt_s * (np.arange(steps) + 0.5)
        draws[:, :, lane] = np.array([p.budget_at(t) for t in at_s.tolist()])[:, None] / 4.0
    outside = weather("iss_like", 0.0, 2000 + steps, dt_s)
    flown = fly(M, outside, dt_s, (now_s / dt_s).astype(np.int64), start_k, charge, draws,
                hot_corner(M, PLAN_CAUTION), heater_on=1.0)  # fmt: skip
    horizon = round(len(plans[0].budget_w) * SLOT_S / dt_s) - 2
    room_k = limits_k(M.parameters)[:, None] - flown.temperature_k[:horizon]
    room_frac = flown.charge_frac[:horizon] - M.parameters["battery_floor_frac"]
    assert room_k[:, :, kept].min() > -0.15
    assert room_frac[:, kept].min() > -2e-3
    # And they are no timid plans: each comes near a limit, or keeps its charge and no more.
    for lane in kept:
        nearest = min(room_k[:, :, lane].min() / 1.0, 100.0 * room_frac[:, lane].min())
        need = min(charge[lane], 0.7 + 0.75 * 0.3)
        assert nearest < 3.0 or flown.charge_frac[horizon - 1, lane] < need + 0.05, plans[lane]
    for lane in kept:
        assert plans[lane].battery_min_frac == pytest.approx(flown.lowest_frac[lane], abs=0.01)


# --- the plan ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("charge", "celsius", "limit"),
    [(0.69, WARM_C, "battery_floor_frac"), (0.95, (*WARM_C[:4], 60.0, *WARM_C[5:]), "plate_max_c")],
)
def test_a_fallback_is_flagged_and_asks_for_the_least(charge: float, celsius: tuple[float, ...], limit: str) -> None:
    p = plan(1650.0, charge, celsius)
    assert p.is_fallback
    assert set(p.budget_w) == {CURVE.least_w}
    assert work(p) == 0.0
    assert p.binding_limit == limit
    assert not plan(1650.0, 0.95).is_fallback


@pytest.mark.parametrize("now_s", [0.0, 7.0, 1690.0, 2222.0])
def test_slots_cover_the_horizon_and_budgets_hold_until_their_end(now_s: float) -> None:
    p = plan(now_s, 0.9)
    assert p.made_s == now_s
    assert len(p.slot_end_s) == len(p.budget_w) == len(p.rate_units_s)
    assert p.slot_end_s[0] > now_s > p.slot_end_s[0] - SLOT_S - 1e-9 or now_s == 0.0
    assert p.budget_at(now_s) == p.budget_w[0]
    assert p.budget_at(p.slot_end_s[0]) == p.budget_w[1]
    assert p.budget_at(p.slot_end_s[-1] + 1e6) == p.budget_w[-1]
    assert len(set(p.budget_w)) <= 2
    assert STEP_S <= SLOT_S


def test_the_rate_curve_is_the_hull_of_the_modes() -> None:
    nodes, modes = M.compute.nodes, M.compute.modes
    for mode in modes:
        at_mode = float(CURVE.rate_units_s(np.array(nodes * mode.draw_w)))
        assert at_mode >= nodes * mode.rate - 1e-9
    for step in hull_steps(modes):
        at_step = float(CURVE.rate_units_s(np.array(nodes * modes[step.power_mode].draw_w)))
        assert at_step == pytest.approx(nodes * modes[step.power_mode].rate)
    watts = np.linspace(0.0, 200.0, 400)
    rates = CURVE.rate_units_s(watts)
    assert (np.diff(rates) >= 0.0).all()
    assert (np.diff(rates[watts > CURVE.least_w], 2) <= 1e-9).all()  # concave
    assert rates[0] == 0.0


@pytest.mark.parametrize("activity", [0.1, 0.7, 1.0, 1.5])
def test_the_rate_curve_counts_what_the_jobs_at_hand_draw(activity: float) -> None:
    curve, modes, nodes = planner.RateCurve(M, activity), M.compute.modes, M.compute.nodes
    assert curve.least_w == pytest.approx(nodes * modes[0].draw_w)  # off is off, whatever the job
    assert curve.most_w == pytest.approx(nodes * modes[-1].draw_w * activity)
    for step in hull_steps(modes):
        at_step = float(curve.rate_units_s(np.array(nodes * modes[step.power_mode].draw_w * activity)))
        assert at_step == pytest.approx(nodes * modes[step.power_mode].rate)
    rates = curve.rate_units_s(np.linspace(curve.least_w, curve.most_w, 200))
    assert (np.diff(rates, 2) <= 1e-9).all()  # concave


def test_same_inputs_same_plan() -> None:
    assert plan(1234.0, 0.87) == plan(1234.0, 0.87)

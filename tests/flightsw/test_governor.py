"""The governor: its last word is safe, and it never says more for knowing less."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_satellite import (
    WARM_C,
    cold_corner,
    estimate,
    fly,
    forecaster,
    hot_corner,
    limits_k,
    mission,
    orbit,
    start_s,
    weather,
)  # fmt: skip

from flightsw.decide import governor
from flightsw.errors import KernelError
from flightsw.physics.forecast import Forecaster
from flightsw.state import NodeCommand

M = mission()
PARAMETERS = M.parameters
MODES = M.compute.modes
HEATER_OUT_C = M.battery.heater_off_c + 12.0  # warmer than this, the heater is out of the question

charges = st.floats(0.70, 1.0)
times_s = st.integers(0, 1400).map(lambda i: 5.0 * i)
power_modes = st.lists(st.sampled_from([0, 2, 3, 4, 5]), min_size=4, max_size=4)
activities = st.lists(st.floats(0.7, 1.3), min_size=4, max_size=4)
temperatures = st.tuples(
    *[st.floats(20.0, 79.0)] * 4, st.floats(15.0, 54.0), st.floats(0.0, 48.0), st.floats(0.0, 35.0),
    st.floats(HEATER_OUT_C, 42.0), st.floats(-40.0, 70.0),
)  # fmt: skip


def commands(modes: list[int]) -> tuple[NodeCommand, ...]:
    return tuple(NodeCommand(mode, MODES[mode].cap_w, i + 1) for i, mode in enumerate(modes))


def approve(modes, activity, state, parameters=PARAMETERS):  # type: ignore[no-untyped-def]
    return governor.approve(commands(modes), activity, state, forecaster(), parameters, M)


def approved(modes, activity, state):  # type: ignore[no-untyped-def]
    return [node.power_mode for node in approve(modes, activity, state).nodes]


# --- never more for worse ------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(times_s, charges, temperatures, power_modes, activities, st.integers(0, 8), st.floats(0.0, 30.0))
def test_hotter_never_raises_a_cap(now_s, charge, celsius, modes, activity, node, by_k):  # type: ignore[no-untyped-def]
    hotter = tuple(c + by_k if i == node else c for i, c in enumerate(celsius))
    cool = approved(modes, activity, estimate(now_s, charge, celsius))
    hot = approved(modes, activity, estimate(now_s, charge, hotter))
    assert all(h <= c for h, c in zip(hot, cool, strict=True))


@settings(max_examples=150, deadline=None)
@given(times_s, charges, temperatures, power_modes, activities, st.floats(0.0, 0.1))
def test_less_charge_never_raises_a_cap(now_s, charge, celsius, modes, activity, less):  # type: ignore[no-untyped-def]
    full = approved(modes, activity, estimate(now_s, charge, celsius))
    low = approved(modes, activity, estimate(now_s, charge - less, celsius))
    assert all(a <= b for a, b in zip(low, full, strict=True))


@settings(max_examples=150, deadline=None)
@given(times_s, charges, temperatures, power_modes, activities, st.sampled_from([*range(9), "gauge"]),
       st.floats(0.0, 30.0))  # fmt: skip
def test_a_silent_sensor_never_raises_a_cap(now_s, charge, celsius, modes, activity, lost, silent_s):  # type: ignore[no-untyped-def]  # fmt: skip
    """Silence is a state with the same best value and wider bounds (test_estimator holds the estimator to that)."""
    known = estimate(now_s, charge, celsius)
    if lost == "gauge":
        b = known.battery_j
        wider = b._replace(low=max(0.0, b.low - 200.0 * silent_s), high=b.high + 72.0 * silent_s)
        poorer = known._replace(battery_j=wider)
    else:
        rows = list(known.temperature_k)
        rows[lost] = rows[lost]._replace(low=rows[lost].low - 0.5 * silent_s, high=rows[lost].high + 0.5 * silent_s)
        poorer = known._replace(temperature_k=tuple(rows))
    better, worse = approved(modes, activity, known), approved(modes, activity, poorer)
    assert all(w <= b for w, b in zip(worse, better, strict=True))


@settings(max_examples=150, deadline=None)
@given(times_s, charges, temperatures, power_modes, activities)
def test_a_missing_sun_never_raises_a_cap(now_s, charge, celsius, modes, activity):  # type: ignore[no-untyped-def]
    known = estimate(now_s, charge, celsius)
    lit, shaded = (approved(modes, activity, state) for state in (known, known._replace(is_shaded=True)))
    assert all(s <= b for s, b in zip(shaded, lit, strict=True))


def test_a_sun_that_is_missing_after_an_eclipse_is_not_counted_on():
    sunrise_s = next(s for s in forecaster().sunrises_s(0.0)) + 30.0
    state = estimate(sunrise_s, 0.76)
    assert approved([2, 2, 2, 2], [1.0] * 4, state) == [2, 2, 2, 2]
    dark = approve([2, 2, 2, 2], [1.0] * 4, state._replace(is_shaded=True))
    assert "battery_floor_frac" in dark.shed
    assert all(node.power_mode == 0 for node in dark.nodes)


@settings(max_examples=100, deadline=None)
@given(times_s, charges, temperatures, power_modes, activities, st.integers(0, 3), st.floats(0.0, 0.3))
def test_more_draw_never_raises_the_total(now_s, charge, celsius, modes, activity, node, more):  # type: ignore[no-untyped-def]
    state = estimate(now_s, charge, celsius)
    thirstier = [a + more if i == node else a for i, a in enumerate(activity)]

    def watts(chosen: list[int]) -> float:
        return sum(MODES[mode].draw_w * activity[i] for i, mode in enumerate(chosen))

    # The order of cuts follows the draws, so the last cut may fall on another node: one step of slack.
    step_w = 1.3 * max(MODES[i].draw_w - MODES[i - 1].draw_w for i in range(3, 6))
    assert watts(approved(modes, thirstier, state)) <= watts(approved(modes, activity, state)) + max(step_w, 1.3 * 9.5)


# --- only ever lower -----------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(times_s, st.floats(0.3, 1.0), temperatures, power_modes, activities)
def test_reductions_are_always_approved(now_s, charge, celsius, modes, activity):  # type: ignore[no-untyped-def]
    """What comes out is nowhere above what was asked; all off is always had, whatever the state."""
    state = estimate(now_s, charge, celsius)
    approval = approve(modes, activity, state)
    for node, wanted, index in zip(approval.nodes, commands(modes), range(4), strict=True):
        assert node.power_mode <= wanted.power_mode
        assert node.power_mode != 1  # idle does no work
        assert node.cap_w == MODES[node.power_mode].cap_w
        assert node.job_id == index + 1
    if approval.shed:
        assert all(node.power_mode == 0 for node in approval.nodes)
    again = governor.approve(approval.nodes, activity, state, forecaster(), PARAMETERS, M)
    assert again.nodes == approval.nodes  # what was approved once is approved now
    assert not again.events
    off = approve([0] * 4, activity, state)
    assert off.nodes == commands([0] * 4)
    assert not off.events


def test_each_cut_is_reported() -> None:
    approval = approve([5, 5, 5, 5], [1.0] * 4, estimate(0.0, 0.95))
    assert [e.args[3] for e in approval.events] == ["payload_max_w"] * len(approval.events)
    assert len(approval.events) == sum(5 - node.power_mode for node in approval.nodes) > 0
    hot = approve([4, 4, 4, 4], [1.0] * 4, estimate(0.0, 0.95, (79.0, *WARM_C[1:])))
    assert hot.shed == "die_max_c forecast to be crossed in 0 s"


def test_what_cannot_be_rolled_out_is_shed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> tuple[str, float]:
        raise KernelError("fsw_rollout_run", -13, "a lane left 1..1000 K")

    monkeypatch.setattr(Forecaster, "first_crossing", fail)
    approval = approve([4, 2, 0, 3], [1.0] * 4, estimate())
    assert approval.nodes == commands([0] * 4)
    assert approval.shed == "no forecast: kernel fsw_rollout_run returned -13: a lane left 1..1000 K"


@settings(max_examples=60, deadline=None)
@given(power_modes, activities, st.floats(20.0, 110.0))
def test_the_payload_rail_carries_what_is_approved(modes, activity, rail_w):  # type: ignore[no-untyped-def]
    parameters = PARAMETERS | {"payload_max_w": rail_w}
    nodes = approve(modes, activity, estimate(0.0, 0.98), parameters).nodes
    draws = sum(MODES[n.power_mode].draw_w * (activity[i] if n.power_mode else 1.0) for i, n in enumerate(nodes))
    assert draws * (1.0 + M.margins.draw_frac) <= rail_w + 1e-9


@pytest.mark.parametrize(
    ("mode", "watts", "declared", "expected"),
    [
        (4, None, 1.1, 1.1),  # not measured: as declared
        (4, 22.0, 1.1, 1.1),  # measured below
        (4, 30.3, 1.0, 30.0 / 22.0),  # measured above: believed
        (0, 30.3, 0.9, 0.9),  # off: what it drew before says nothing
        (1, 30.3, 0.9, 0.9),
    ],
)
def test_the_larger_of_declared_and_measured_is_believed(
    mode: int, watts: float | None, declared: float, expected: float
) -> None:
    state = estimate()._replace(node_w=(watts, None, None, None))
    activity = governor.measured_activity(state, commands([mode, 0, 0, 0]), [declared] * 4, M)
    assert activity == pytest.approx([expected] + [declared] * 3)


# --- it holds ------------------------------------------------------------------------------------------

DT_S = 4.0
LANES = 160
STEPS = 1650


@pytest.fixture(scope="module")
def cases():  # type: ignore[no-untyped-def]
    """Random states near the limits, and what the governor approves of much too much for each of them."""
    rng = np.random.default_rng(11)
    now_s = DT_S * rng.integers(0, 1400, LANES)
    states, draws, shed = [], np.zeros((LANES, 4)), 0
    for lane in range(LANES):
        near = rng.integers(0, 5)
        radiator_c = rng.uniform(43, 47.9) if near < 2 else rng.uniform(-10, 35)
        plate_c = rng.uniform(radiator_c + 3, 53.4) if near < 2 else radiator_c + rng.uniform(5, 17)
        dies_c = plate_c + rng.uniform(15 if near < 2 else 0, 27, 4)
        celsius = [*dies_c, plate_c, radiator_c, rng.uniform(0, 45), rng.uniform(3, 42), rng.uniform(-40, 70)]
        charge = rng.uniform(0.71, 0.78) if near == 3 else rng.uniform(0.75, 1.0)
        state = estimate(float(now_s[lane]), charge, tuple(map(float, celsius)))
        activity = rng.uniform(0.75, 1.2, 4).tolist()
        modes = rng.choice([0, 3, 4, 5], 4).tolist()
        approval = approve(modes, activity, state)
        shed += bool(approval.shed)
        for i, node in enumerate(approval.nodes):
            draws[lane, i] = MODES[node.power_mode].draw_w * (activity[i] if node.power_mode else 1.0)
        states.append(None if approval.shed else state)
    assert LANES / 3 < LANES - shed < LANES - 5
    return now_s, states, draws


@pytest.mark.parametrize("corner", ["hot", "cold"])
def test_approved_caps_held_for_lease_and_check_and_then_shed_keep_every_limit(cases, corner):  # type: ignore[no-untyped-def]
    """Every approval, flown at the corners of the box by a plain model with steps of its own."""
    now_s, states, held_w = cases
    keep = [i for i, state in enumerate(states) if state is not None]
    margin_k = M.margins.temperature_k
    sign = 1.0 if corner == "hot" else -1.0
    start_k = np.array([[(b.high if corner == "hot" else b.low) + sign * margin_k for b in states[i].temperature_k]
                        for i in keep]).T  # fmt: skip
    charge = np.array([states[i].battery_j.low for i in keep]) / (M.battery.capacity_wh * 3600.0)
    hold = round((PARAMETERS["lease_s"] + governor.CHECK_EVERY_S) / DT_S)
    draws = np.full((STEPS, 4, len(keep)), MODES[0].draw_w)
    draws[:hold] = held_w[keep].T
    factors = hot_corner(M) if corner == "hot" else cold_corner(M)
    first = (now_s[keep] / DT_S).astype(np.int64)
    flown = fly(M, weather("iss_like", 0.0, 1400 + STEPS, DT_S), DT_S, first, start_k, charge, draws, factors,
                heater_on=1.0)  # fmt: skip
    end_s = [light_again_s(float(now_s[i])) for i in keep]
    within = np.arange(STEPS)[:, None] * DT_S < np.array(end_s) + hold * DT_S
    room_k = np.where(within[:, None], limits_k(PARAMETERS)[:, None] - flown.temperature_k, np.inf)
    room_frac = np.where(within, flown.charge_frac - PARAMETERS["battery_floor_frac"], np.inf)
    assert room_k.min() > -0.1
    assert room_frac.min() > -5e-4
    # It can fail: the property is tried where there is little room, not in the middle of the box.
    assert (room_k.min(axis=(0, 1)) < 1.0).sum() > 3 or corner == "cold"
    assert (room_frac.min(axis=0) < 0.02).sum() > 3
    if corner == "cold":
        assert (flown.heater_s > 300.0).sum() > 3


def light_again_s(now_s: float) -> float:
    """Seconds until the present or next eclipse ends."""
    begin = start_s() + now_s
    return orbit().eclipses(begin, begin + 86400.0)[0].penumbra_exit_unix_s - begin


def test_the_check_has_teeth(cases):  # type: ignore[no-untyped-def]
    """One mode more on each node and ten times the hold crosses a limit in some of the same states."""
    now_s, states, held_w = cases
    worse = 0
    for lane, state in enumerate(states):
        if state is None:
            continue
        limit, _ = forecaster().first_crossing(state, (held_w[lane] + 15.0).tolist(), 300.0, PARAMETERS)
        worse += bool(limit)
    assert worse > 10
    assert now_s.size == LANES


def test_colder_battery_pays_for_its_heater() -> None:
    """The one place where colder is worse: just above the floor, a pack that may need its heater gets less."""

    def lowest(battery_c: float) -> float:
        celsius = (*WARM_C[:6], 10.0, battery_c, 30.0)
        states = ((f, estimate(1650.0, f, celsius, half_frac=0.0)) for f in np.arange(0.72, 0.90, 0.001).tolist())
        return next(f for f, s in states if not forecaster().first_crossing(s, [0.4] * 4, 30.0, PARAMETERS)[0])

    heater_frac = M.battery.heater_w * 2000.0 / (M.battery.capacity_wh * 3600.0)  # through an eclipse
    assert lowest(7.0) - lowest(30.0) == pytest.approx(0.5 * heater_frac, abs=0.5 * heater_frac)
    assert lowest(7.0) > lowest(30.0) + 0.005

"""The forecast against the orbit it samples and against a plain NumPy re-computation of the flight model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_satellite import (
    BATTERY,
    WARM_C,
    ZERO_C,
    estimate,
    fly,
    forecaster,
    fresh_forecaster,
    hot_corner,
    hot_start,
    limits_k,
    mission,
    orbit,
    start_s,
    weather,
)  # fmt: skip

from flightsw.physics.forecast import PLAN_CAUTION, SLOT_S, STEP_S

DAY_S = 86400.0
TIMES_S = (0.0, 7.0, 1234.0, 1695.0, 1705.0, 3000.0, 3999.0, 21595.0, 43100.0)


# --- orbit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["iss_like", "dawn_dusk"])
def test_sky_agrees_with_the_orbit_over_two_days(name: str) -> None:
    view, begin = fresh_forecaster(name), start_s(name)
    eclipses = orbit(name).eclipses(begin, begin + 4 * DAY_S)
    passes = sorted((p for s in mission(name).stations for p in orbit(name).passes(s, begin, begin + 4 * DAY_S)),
                    key=lambda p: p.aos_unix_s)  # fmt: skip
    inside = contacts = 0
    for now_s in np.arange(0.0, 2 * DAY_S, 97.0):
        unix_s, sky = begin + now_s, view.sky(float(now_s))
        eclipse = next(e for e in eclipses if e.penumbra_exit_unix_s > unix_s)
        assert sky.in_eclipse == (eclipse.penumbra_entry_unix_s <= unix_s)
        assert sky.eclipse_in_s == pytest.approx(max(0.0, eclipse.penumbra_entry_unix_s - unix_s), abs=0.01)
        assert sky.sun_in_s == pytest.approx(eclipse.penumbra_exit_unix_s - unix_s if sky.in_eclipse else 0.0, abs=0.01)
        contact = next(p for p in passes if p.los_unix_s > unix_s)
        assert sky.station == contact.station
        assert sky.pass_in_s == pytest.approx(max(0.0, contact.aos_unix_s - unix_s), abs=0.01)
        assert sky.pass_lasts_s == pytest.approx(contact.los_unix_s - contact.aos_unix_s, abs=0.01)
        assert sky.pass_top_deg == pytest.approx(contact.peak_elevation_deg, abs=1e-3)
        inside += sky.in_eclipse
        contacts += sky.pass_in_s == 0.0
    assert inside > 50
    assert contacts > 5


@pytest.mark.parametrize("now_s", TIMES_S)
def test_lit_slots_are_where_the_sun_shines(now_s: float) -> None:
    ends_s, lit = forecaster().lit_slots(now_s)
    assert ends_s[0] - SLOT_S <= now_s < ends_s[0]
    np.testing.assert_allclose(np.diff(ends_s), SLOT_S)
    assert 1.9 < lit.size * SLOT_S / orbit().period_s <= 2.0
    begin = start_s()
    eclipses = orbit().eclipses(begin + now_s, begin + now_s + 3 * orbit().period_s)
    for end_s, is_lit in zip(ends_s, lit, strict=True):
        middle = begin + end_s - SLOT_S / 2
        shadow = any(e.penumbra_entry_unix_s < middle < e.penumbra_exit_unix_s for e in eclipses)
        near_edge = any(abs(middle - t) < SLOT_S for e in eclipses
                        for t in (e.penumbra_entry_unix_s, e.penumbra_exit_unix_s))  # fmt: skip
        assert near_edge or is_lit != shadow


# --- rollouts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("now_s", [t for t in TIMES_S if t > 0.0])
def test_a_forecast_does_not_depend_on_the_block_it_was_sampled_in(now_s: float) -> None:
    late, early = fresh_forecaster(), fresh_forecaster()
    early.sky(0.0)
    early.lit_slots(0.0)  # samples its block from 0, late's begins at now_s
    state, parameters = estimate(now_s, 0.85), mission().parameters
    sun_w, eclipse_w = np.array([2.0, 40.0, 70.0, 100.0]), np.array([2.0, 20.0, 60.0, 10.0])
    one, other = (f.compare_levels(state, sun_w, eclipse_w, parameters) for f in (late, early))
    for name in ("allowed", "battery_min_frac", "battery_min_at_s", "hottest_margin_k", "nearest"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert (one.sunlit_s, one.eclipse_s) == (other.sunlit_s, other.eclipse_s)
    assert late.first_crossing(state, [25.0] * 4, 30.0, parameters) == early.first_crossing(
        state, [25.0] * 4, 30.0, parameters)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    steps_in=st.integers(0, 2000), charge=st.floats(0.72, 1.0), watts=st.floats(1.0, 30.0),
    hot_k=st.floats(0.0, 22.0), name=st.sampled_from(["iss_like", "dawn_dusk"]),
)  # fmt: skip
def test_compare_levels_equals_plain_numpy(steps_in: int, charge: float, watts: float, hot_k: float, name: str) -> None:
    now_s, m = steps_in * STEP_S, mission(name)
    state = estimate(now_s, charge, tuple(c + hot_k for c in WARM_C))
    outcome = forecaster(name).compare_levels(state, np.array([4.0 * watts]), np.array([2.0 * watts]), m.parameters)
    _, lit = forecaster(name).lit_slots(now_s)
    by_step = np.repeat(np.where(lit, watts, 0.5 * watts), round(SLOT_S / STEP_S))
    draws = np.broadcast_to(by_step[:, None, None], (by_step.size, 4, 1))
    flown = fly_corner(name, state, draws, now_s, PLAN_CAUTION)
    assert outcome.battery_min_frac[0] == pytest.approx(flown.lowest_frac[0], abs=2e-4)
    margin_k = (limits_k(m.parameters) - flown.highest_k[:, 0]).min()
    assert outcome.hottest_margin_k[0] == pytest.approx(margin_k, abs=0.02)
    floor = m.parameters["battery_floor_frac"]
    if abs(flown.lowest_frac[0] - floor) > 1e-3 and abs(margin_k) > 0.05:
        crosses = flown.lowest_frac[0] < floor or margin_k < 0.0
        # Charge is compared where the Sun sets: at the last sunset with the first, or with the start.
        per_slot = round(SLOT_S / STEP_S)
        sunsets = [flown.charge_frac[(i + 1) * per_slot - 1, 0] for i in np.flatnonzero(lit[:-1] & ~lit[1:])]
        first = sunsets[0] if len(sunsets) > 1 else hot_start(m, state, PLAN_CAUTION)[1]
        keep = min(first, floor + 0.75 * (1.0 - floor))
        assert sunsets
        if abs(sunsets[-1] - keep) > 1e-3:
            assert outcome.allowed[0] == (not crosses and sunsets[-1] >= keep)


@settings(max_examples=25, deadline=None)
@given(
    steps_in=st.integers(0, 2000), charge=st.floats(0.70, 0.80), watts=st.floats(1.0, 30.0),
    hot_k=st.floats(0.0, 30.0), hold_s=st.floats(1.0, 70.0),
)  # fmt: skip
def test_first_crossing_equals_plain_numpy(
    steps_in: int, charge: float, watts: float, hot_k: float, hold_s: float
) -> None:
    now_s, m = steps_in * STEP_S, mission()
    state = estimate(now_s, charge, tuple(c + hot_k for c in WARM_C))
    limit, at_s = forecaster().first_crossing(state, [watts] * 4, hold_s, m.parameters)
    steps = 650  # more than an orbit: no dark spell ends later
    draws = np.full((steps, 4, 1), m.compute.modes[0].draw_w)
    draws[: int(np.ceil(hold_s / STEP_S))] = watts
    flown = fly_corner("iss_like", state, draws, now_s, 1.0)
    room_k = limits_k(m.parameters)[:, None] - flown.temperature_k[:, :, 0].T
    room_frac = flown.charge_frac[:, 0] - m.parameters["battery_floor_frac"]
    if limit and at_s == 0.0:
        start_k = np.array([b.high + m.margins.temperature_k for b in state.temperature_k])
        assert (start_k > limits_k(m.parameters)).any()
    elif limit:
        step = round(at_s / STEP_S) - 1
        assert (room_k[:, step].min() < 0.01) or room_frac[step] < 1e-4
        if step > 0:
            assert room_k[:, :step].min() > -0.01
            assert room_frac[:step].min() > -1e-4
    else:
        # Nothing until the light is back; what follows is for later checks, when there is Sun again.
        eclipse = next(e for e in orbit().eclipses(start_s() + now_s, start_s() + now_s + DAY_S))
        until = int((eclipse.penumbra_exit_unix_s - start_s() - now_s) / STEP_S)
        assert room_k[:, :until].min() > -0.01
        assert room_frac[:until].min() > -1e-4


def fly_corner(name, state, draws_w, now_s, caution):  # type: ignore[no-untyped-def]
    """Fly one satellite that far to the worst bound and the hot corner, its heater as the forecast assumes it."""
    m = mission(name)
    start_k, charge = hot_start(m, state, caution)
    pack = state.temperature_k[BATTERY]
    shift_k = pack.high - pack.low + 2.0 * m.margins.temperature_k + 3.0
    warm_heater = warmer_heater(m, shift_k)
    outside = weather(name, now_s, draws_w.shape[0], STEP_S)
    return fly(warm_heater, outside, STEP_S, np.zeros(1, np.int64), start_k[:, None], np.array([charge]), draws_w,
               hot_corner(m, caution), heater_on=1.0)  # fmt: skip


def warmer_heater(m, shift_k):  # type: ignore[no-untyped-def]
    import dataclasses

    battery = dataclasses.replace(m.battery, heater_on_c=m.battery.heater_on_c + shift_k,
                                  heater_off_c=m.battery.heater_off_c + shift_k)  # fmt: skip
    return dataclasses.replace(m, battery=battery)


def test_zenith_wings_are_looked_after_until_they_get_light_again() -> None:
    """Wings fixed to the zenith see the Sun late: charge that lasts to the end of the eclipse is not enough."""
    m, view = mission(attitude="nadir"), forecaster(attitude="nadir")
    begin = start_s()
    eclipse = orbit().eclipses(begin, begin + DAY_S)[0]
    now_s = eclipse.penumbra_exit_unix_s - begin - 5.0
    off = [m.compute.modes[0].draw_w] * 4
    states = (estimate(now_s, frac, half_frac=0.0) for frac in np.arange(0.70, 0.80, 0.0005).tolist())
    state = next(s for s in states if not view.first_crossing(s, off, 30.0, m.parameters)[0])
    _, lowest = hot_start(m, state)
    steps = 300
    draws = np.full((steps, 4, 1), off[0])
    start_k = np.array([[c + ZERO_C] for c in WARM_C])
    flown = fly(m, weather("iss_like", now_s, steps, STEP_S, "nadir"), STEP_S, np.zeros(1, np.int64), start_k,
                np.array([lowest]), draws, hot_corner(m))  # fmt: skip
    assert flown.lowest_frac[0] >= m.parameters["battery_floor_frac"]
    assert flown.lowest_frac[0] < lowest - 0.005  # it does go on falling after the eclipse


def test_a_smaller_pack_is_covered_at_the_same_fraction() -> None:
    """Charge is known as a fraction: the corner's smaller pack has less energy above the floor, not as much."""
    m = mission()
    state = estimate(1650.0, 0.78, half_frac=0.0)
    sun_w = np.array([4.0 * 9.0])
    outcome = forecaster().compare_levels(state, sun_w, sun_w, m.parameters)
    flown = fly_corner("iss_like", state, np.full((1110, 4, 1), 9.0), 1650.0, PLAN_CAUTION)
    assert outcome.battery_min_frac[0] == pytest.approx(flown.lowest_frac[0], abs=2e-4)
    assert outcome.battery_min_frac[0] < 0.73  # deep enough for 3 % of the depth to matter


@pytest.mark.parametrize(("floor", "cutoff", "crosses"), [(0.70, 0.60, False), (0.20, 0.60, False), (0.20, 0.76, True)])
def test_the_cutoff_holds_where_the_floor_was_set_below_it(floor: float, cutoff: float, crosses: bool) -> None:
    parameters = mission().parameters | {"battery_floor_frac": floor, "battery_cutoff_frac": cutoff}
    limit, _ = forecaster().first_crossing(estimate(0.0, 0.75), [0.4] * 4, 30.0, parameters)
    assert bool(limit) is crosses


def test_a_dark_node_neither_frees_nor_condemns_the_others() -> None:
    celsius = (125.0, *WARM_C[1:])  # node 0's bound has run away since its sensor fell silent
    parameters = mission().parameters
    assert forecaster().first_crossing(estimate(0.0, 0.9, celsius), [0.4] * 4, 30.0, parameters)[0] == "die_max_c"
    assert forecaster().first_crossing(estimate(0.0, 0.9, celsius, dark=(0,)), [0.4, 22.0, 22.0, 22.0], 30.0,
                                       parameters)[0] == ""  # fmt: skip
    hot_plate = (125.0, 58.0, 58.0, 58.0, 53.4, 48.0, 45.0, 18.0, 30.0)
    beside = (25.0, *hot_plate[1:])
    assert forecaster().first_crossing(estimate(0.0, 0.9, beside), [0.4] * 4, 30.0, parameters)[0] == ""
    assert forecaster().first_crossing(estimate(0.0, 0.9, hot_plate, dark=(0,)), [0.4] * 4, 30.0,
                                       parameters)[0] == "plate_max_c"  # fmt: skip  # the heat in it still counts


def test_a_hold_of_nothing_is_rounded_up_to_a_step() -> None:
    parameters = mission().parameters
    assert forecaster().first_crossing(estimate(), [25.0] * 4, 0.0, parameters) == ("", 0.0)

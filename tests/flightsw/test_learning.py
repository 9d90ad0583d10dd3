"""What is learnt from telemetry of the flight model's own satellite with known faults: right, bounded, robust."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_satellite import BUS, PANEL, PLATE, RADIATOR, ZERO_C, estimate, forecaster, mission, weather

from flightsw.decide.estimator import Estimator
from flightsw.dictionary.sensors import INDEX, SENSORS, fitted_names
from flightsw.kernels import Rollout
from flightsw.physics import model
from flightsw.state import AS_DESIGNED, Estimate, Factor, Learnt, Quality, Readings

DT_S = 10.0
ORBIT_STEPS = 558
BLIND_AFTER_S = 30.0
NAMES = fitted_names(4)
ACCURACY = np.array([SENSORS[INDEX[name]].accuracy for name in NAMES])
LOW, HIGH = (np.array([getattr(SENSORS[INDEX[name]], end) for name in NAMES]) for end in ("low", "high"))


class Truth(NamedTuple):
    """Factors on the mission's numbers."""

    array: float = 1.0
    radiator: float = 1.0
    bus: float = 1.0
    plate_link: float = 1.0
    die_link: float = 1.0
    pack: float = 1.0


@functools.cache
def history(true: Truth, orbits: int = 3, name: str = "iss_like") -> npt.NDArray[np.float64]:
    """Telemetry without errors, (steps, sensors), of such a satellite at loads that change every ten minutes."""
    m = mission(name)
    steps = orbits * ORBIT_STEPS
    rng = np.random.default_rng(1)
    outside = weather(name, 0.0, steps, DT_S)
    loads_w = np.repeat(rng.choice([0.4, 14.0, 14.0, 22.0, 22.0], (steps // 60 + 1, 4)), 60, axis=0)[:steps]
    rollout = Rollout(model.topology(m), n_lanes=1, n_steps=steps, n_slots=steps, dt_s=DT_S, precision=64, trace=True)
    model.fill_constants(rollout, m, 0.0)
    rows = rollout.params
    rows["array_eff_frac"][:] *= true.array
    rows["radiating_m2"][RADIATOR] *= true.radiator
    rows["bus_w"][:] *= true.bus
    rows["link_w_k"][:4] *= true.die_link
    rows["link_w_k"][4] *= true.plate_link
    rows["battery_capacity_j"][:] *= true.pack
    capacity_j = float(rows["battery_capacity_j"][0, 0])
    rows["temperature_k"][:, 0] = ZERO_C + 15.0
    rows["battery_j"][0, 0] = 0.75 * capacity_j
    rollout.array_flux_w_m2[:] = outside.flux_w_m2
    rollout.heat_w[:] = outside.heat_w
    rollout.tx_w[:] = outside.tx_w
    rollout.slot_steps[:] = 1
    rollout.compute_w[:, :, 0] = loads_w
    rollout.run()
    assert rollout.trace is not None
    kelvin, charge_j = rollout.trace[:, :-1, 0], rollout.trace[:, -1, 0]
    before_j = np.concatenate(([0.75 * capacity_j], charge_j[:-1]))
    stored_w = (charge_j - before_j) / DT_S
    b = m.battery
    open_v = b.empty_v + (b.full_v - b.empty_v) * before_j / capacity_j
    amps = stored_w / np.where(stored_w > 0.0, b.charge_efficiency_frac, 1.0) / open_v
    volts = open_v + b.resistance_ohm * amps
    bus_w = m.bus.idle_w * true.bus + outside.tx_w + loads_w.sum(axis=1)
    celsius = kelvin - ZERO_C
    columns = [outside.flux_w_m2 / 1361.0, bus_w + volts * amps, volts, amps, charge_j / capacity_j, bus_w,
               celsius[:, PLATE], celsius[:, RADIATOR], celsius[:, BUS], celsius[:, 7], celsius[:, PANEL]]
    for i in range(4):
        columns += [celsius[:, i], loads_w[:, i]]
    return np.array(columns).T


def learn(telemetry: npt.NDArray[np.float64], name: str = "iss_like") -> list[tuple[Learnt, float]]:
    """What is learnt after each step of such telemetry, NaN being no reading; and the pack."""
    estimator = Estimator(mission(name), forecaster(name))
    known = []
    for step, row in enumerate(telemetry.tolist()):
        now_s = (step + 1) * DT_S
        values = [None if math.isnan(value) else value for value in row] + [None] * (len(SENSORS) - len(row))
        qualities = tuple([int(Quality.MISSING if value is None else Quality.GOOD) for value in values])
        readings = Readings(now_s, tuple(values), qualities, (now_s,) * len(SENSORS))
        estimate = estimator.update(readings, BLIND_AFTER_S)
        known.append((estimate.learnt, estimate.pack_frac))
    return known


def disturbed(telemetry: npt.NDArray[np.float64], seed: int, *, noise: float = 0.0, bias: float = 0.0,
              outliers: float = 0.0) -> npt.NDArray[np.float64]:
    """The same through sensors with errors, in shares of their accuracy; a share `outliers` of readings is anything."""
    rng = np.random.default_rng(seed)
    biases = bias * rng.choice([-1.0, 1.0], len(NAMES))
    seen = telemetry + ACCURACY * (biases + noise * rng.standard_normal(telemetry.shape))
    wild = rng.uniform(size=seen.shape) < outliers
    return np.where(wild, rng.uniform(LOW, HIGH, seen.shape), seen)


def found(factor: Factor | None) -> float:
    assert factor is not None
    return factor.frac


# --- right -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("true", [
    Truth(), Truth(array=0.85), Truth(radiator=0.85), Truth(array=0.7, radiator=0.8, bus=1.3), Truth(pack=0.8),
    Truth(plate_link=0.7, die_link=0.8), Truth(array=1.02, radiator=1.02, bus=0.9, plate_link=1.1, die_link=1.1),
])  # fmt: skip
def test_a_satellite_that_is_not_as_designed_is_recognised(true: Truth) -> None:
    """The array within ten minutes of sunlight, the rest within two orbits, each to about one percent."""
    known = learn(history(true))
    assert found(known[60][0].array) == pytest.approx(true.array, abs=0.003)
    learnt, pack = known[2 * ORBIT_STEPS]
    assert found(learnt.array) == pytest.approx(true.array, abs=0.003)
    assert found(learnt.radiator) == pytest.approx(true.radiator, abs=0.01)
    assert found(learnt.bus) == pytest.approx(true.bus, abs=0.002)
    assert found(learnt.plate_link) == pytest.approx(true.plate_link, abs=0.012)
    for die in learnt.die_links:
        assert found(die) == pytest.approx(true.die_link, abs=0.012)
    assert pack == pytest.approx(true.pack, abs=0.01)


@pytest.mark.parametrize("seed", range(6))
def test_errors_of_sensors_stay_within_the_stated_bounds(seed: int) -> None:
    """Every sensor off by 0.6 of its accuracy, to the worse or the better, and noise up to the rest of it."""
    true = Truth(array=0.85, radiator=0.85, bus=1.1)
    learnt, _ = learn(disturbed(history(true), seed, noise=0.13, bias=0.6))[-1]
    margins = mission().margins
    # The wall stands on the far side of the truth whatever the sensors are off by.
    assert model.scale(learnt.array, margins.array_frac, 1.0) <= true.array
    assert model.scale(learnt.radiator, margins.radiating_frac, 1.0) <= true.radiator
    for factor, value in ((learnt.array, true.array), (learnt.radiator, true.radiator), (learnt.bus, true.bus)):
        assert factor is not None
        assert abs(factor.frac - value) <= factor.error_frac
    assert learnt.array is not None
    assert learnt.array.error_frac < 0.02
    assert learnt.radiator is not None
    assert learnt.radiator.error_frac < 0.025


@pytest.mark.parametrize("seed", range(4))
def test_wild_readings_hardly_matter(seed: int) -> None:
    true = Truth(array=0.85, radiator=0.9, bus=1.1)
    learnt, pack = learn(disturbed(history(true), seed, noise=0.1, outliers=0.005))[-1]
    assert found(learnt.array) == pytest.approx(true.array, abs=0.005)
    assert found(learnt.bus) == pytest.approx(true.bus, abs=0.02)
    assert found(learnt.radiator) == pytest.approx(true.radiator, abs=0.05)
    assert pack == pytest.approx(1.0, abs=0.05)


# --- bounded -----------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(NAMES), st.sampled_from(["stuck", "lost"]), st.integers(0, 2 * ORBIT_STEPS),
       st.integers(1, 2 * ORBIT_STEPS))
def test_a_stuck_or_lost_sensor_never_makes_a_healthy_satellite_look_far_off(name: str, kind: str, begin: int,
                                                                            lasts: int) -> None:  # fmt: skip
    telemetry = history(Truth()).copy()
    at, end = NAMES.index(name), begin + lasts
    telemetry[begin:end, at] = telemetry[begin, at] if kind == "stuck" else math.nan
    for learnt, pack in learn(telemetry)[::50]:
        if learnt.array is not None:
            assert learnt.array.frac == pytest.approx(1.0, abs=0.05)
        for factor in (learnt.radiator, learnt.plate_link, *learnt.die_links):
            assert factor is None or 0.5 <= factor.frac <= 1.3
        assert learnt.bus is None or 0.5 <= learnt.bus.frac <= 4.0
        assert 0.4 <= pack <= 1.0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_noise_alone_teaches_nothing_impossible_and_the_same_every_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    telemetry = rng.uniform(LOW, HIGH, (400, len(NAMES)))
    telemetry[rng.uniform(size=telemetry.shape) < 0.1] = math.nan
    known = learn(telemetry)
    assert known == learn(telemetry)
    for learnt, pack in known:
        for factor, low, high in ((learnt.array, 0.4, 1.1), (learnt.radiator, 0.5, 1.3), (learnt.bus, 0.5, 4.0)):
            assert factor is None or (low <= factor.frac <= high and factor.error_frac > 0.0)
        assert 0.4 <= pack <= 1.0


def test_nothing_is_learnt_from_nothing() -> None:
    for learnt, pack in learn(np.full((700, len(NAMES)), math.nan)):
        assert (learnt.array, learnt.radiator, learnt.bus, pack) == (None, None, None, 1.0)
    without = Estimator(mission())
    for step, row in enumerate(history(Truth())[:100].tolist()):
        readings = Readings(step * DT_S, (*row, *[None] * (len(SENSORS) - len(row))), (0,) * len(SENSORS),
                            (step * DT_S,) * len(SENSORS))
        assert without.update(readings, BLIND_AFTER_S).learnt is AS_DESIGNED


def test_a_full_pack_says_nothing_of_the_array() -> None:
    """What is drawn while the tracker curtails is what is wanted, not what could be had."""
    telemetry = history(Truth()).copy()
    columns = {name: NAMES.index(name) for name in ("battery_soc_frac", "battery_a", "array_w", "bus_w")}
    telemetry[:, columns["battery_soc_frac"]] = 0.99
    telemetry[:, columns["battery_a"]] = 0.3
    telemetry[:, columns["array_w"]] = telemetry[:, columns["bus_w"]] + 0.3 * telemetry[:, NAMES.index("battery_v")]
    assert all(learnt.array is None for learnt, _ in learn(telemetry))


# --- what model and forecast make of it --------------------------------------------------------------


@given(st.floats(0.3, 1.5), st.floats(0.0, 0.2), st.floats(0.0, 0.1), st.floats(0.0, 1.0))
def test_good_news_is_for_plans_only_and_bad_news_for_all(frac: float, error: float, margin: float,
                                                          caution: float) -> None:
    factor = Factor(frac, error)
    for more_is_worse, sign in ((False, 1.0), (True, -1.0)):
        plan, wall = (model.scale(factor, margin, c, more_is_worse=more_is_worse) for c in (caution, 1.0))
        assert sign * plan >= sign * wall - 1e-12  # the wall is never the more trusting
        assert sign * wall <= sign * 1.0
        assert sign * wall <= sign * frac + 1e-12
        best = model.scale(factor, margin, 0.0, more_is_worse=more_is_worse)
        assert sign * best <= sign * 1.0 + margin + 1e-12
        assert model.scale(None, margin, caution, more_is_worse=more_is_worse) == 1.0 - sign * caution * margin


@given(st.floats(0.5, 1.2), st.floats(0.5, 1.2), st.floats(0.0, 1.0))
def test_worse_news_never_give_a_better_model(one: float, other: float, caution: float) -> None:
    low, high = sorted((one, other))
    assert (model.scale(Factor(low, 0.01), 0.03, caution) <= model.scale(Factor(high, 0.01), 0.03, caution))


def test_what_was_learnt_reaches_the_rollout_and_nothing_changes_nothing() -> None:
    m = mission()

    def rows(caution: float, learnt: Learnt) -> dict[str, npt.NDArray[np.float64]]:
        rollout = Rollout(model.topology(m), n_lanes=1, n_steps=1, n_slots=1, dt_s=DT_S)
        model.fill_constants(rollout, m, caution, learnt)
        return {name: rollout.params[name].copy() for name in ("array_eff_frac", "radiating_m2", "bus_w", "link_w_k")}

    designed = rows(1.0, AS_DESIGNED)
    learnt = Learnt(Factor(0.8, 0.01), Factor(0.9, 0.02), Factor(1.2, 0.5), Factor(0.7, 0.1), (Factor(0.6, 0.1),) * 4)
    worse = rows(1.0, learnt)
    assert worse["array_eff_frac"] / designed["array_eff_frac"] == pytest.approx(0.79 / 0.97)
    ratio = worse["radiating_m2"][:9] / np.where(designed["radiating_m2"][:9] > 0.0, designed["radiating_m2"][:9], 1.0)
    assert ratio[RADIATOR] == pytest.approx(0.88 / 0.97)
    assert ratio[BUS] == ratio[PANEL] == 1.0
    assert worse["bus_w"] / designed["bus_w"] == pytest.approx(1.2)
    assert (worse["link_w_k"] / designed["link_w_k"])[:7, 0] == pytest.approx([0.6] * 4 + [0.7, 1.0, 1.0])
    for caution in (0.0, 0.4, 1.0):
        for name, row in rows(caution, Learnt()).items():
            assert (row == rows(caution, AS_DESIGNED)[name]).all()


@settings(max_examples=60, deadline=None)
@given(st.floats(0.0, 6000.0), st.floats(0.70, 0.95), st.floats(-10.0, 30.0), st.floats(10.0, 120.0),
       st.lists(st.floats(0.5, 1.0), min_size=3, max_size=3))  # fmt: skip
def test_worse_news_never_let_the_governor_allow_more(now_s: float, charge: float, warmer_k: float, watts: float,
                                                      news: list[float]) -> None:  # fmt: skip
    """Links are left out: a poor one warms the die and spares the plate."""
    array, radiator, bus = (Factor(frac, 1.0) for frac in news)
    state = estimate(now_s, charge, tuple(20.0 + warmer_k for _ in range(9)))
    told = state._replace(learnt=Learnt(array, radiator, Factor(2.0 - bus.frac, 1.0)))

    def crosses(at: Estimate) -> bool:
        return bool(forecaster().first_crossing(at, [watts / 4.0] * 4, 30.0, mission().parameters)[0])

    assert crosses(told) or not crosses(state)

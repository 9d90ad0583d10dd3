"""The estimator: its bounds hold the truth, run apart in silence, and say when the state is not known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_satellite import BATTERY, BUS, PANEL, PLATE, RADIATOR, ZERO_C, hot_corner, mission

from flightsw.decide.estimator import Estimator
from flightsw.dictionary.sensors import INDEX, SENSORS
from flightsw.kernels import Rollout
from flightsw.physics import model
from flightsw.state import Bounded, Estimate, Quality, Readings

FULL_J = mission().battery.capacity_wh * 3600.0
BLIND_AFTER_S = 30.0
THERMAL = ("die0_c", "die1_c", "die2_c", "die3_c", "plate_c", "radiator_c", "bus_c", "battery_c", "array_c")
NEEDED = ("plate_c", "radiator_c", "bus_c", "battery_c")
STEADY = {"sun_frac": 1.0, "array_w": 80.0, "battery_v": 15.0, "battery_a": 1.0, "battery_soc_frac": 0.8, "bus_w": 60.0,
          "plate_c": 20.0, "radiator_c": 10.0, "bus_c": 15.0, "battery_c": 18.0, "array_c": 40.0,
          **{f"die{i}_c": 30.0 for i in range(4)}, **{f"node{i}_w": 10.0 for i in range(4)}}  # fmt: skip


def readings(now_s: float, values: dict[str, float], ages_s: dict[str, float] | None = None) -> Readings:
    """Believed readings; what is not in `values` is missing."""
    ages_s = ages_s or {}
    listed = tuple(values.get(row.name) for row in SENSORS)
    return Readings(now_s, listed, tuple(int(Quality.GOOD if v is not None else Quality.MISSING) for v in listed),
                    tuple(now_s - ages_s.get(row.name, 0.0) if row.name in values else -math.inf
                          for row in SENSORS))  # fmt: skip


def without(*names: str) -> dict[str, float]:
    return {name: value for name, value in STEADY.items() if name not in names}


def holds(bounded: Bounded, truth: float, slack: float = 1e-9) -> bool:
    return bounded.low - slack <= truth <= bounded.high + slack and bounded.low <= bounded.best <= bounded.high


def contains(outer: Bounded, inner: Bounded, slack: float = 1e-9) -> bool:
    return outer.low <= inner.low + slack and outer.high >= inner.high - slack


# --- the truth is inside -----------------------------------------------------------------------------


def flight(seed: int, ticks: int):  # type: ignore[no-untyped-def]
    """A true satellite off the mission by its margins, at 1 s: temperatures, charge, volts and amperes by the tick."""
    rng = np.random.default_rng(seed)
    m = mission()
    loads = np.repeat(rng.choice([0.4, 4.5, 14.0, 22.0, 30.0], (ticks // 20 + 1, 4)), 20, axis=0)[:ticks]
    corner = hot_corner(m)
    rollout = Rollout(model.topology(m), n_lanes=1, n_steps=ticks, n_slots=ticks, dt_s=1.0, precision=64, trace=True)
    model.fill_constants(rollout, m, float(seed % 2))
    capacity_j = float(rollout.params["battery_capacity_j"][0, 0])
    rollout.params["temperature_k"][:, 0] = ZERO_C + rng.uniform(10.0, 40.0, 9)
    rollout.params["battery_j"][0, 0] = rng.uniform(0.6, 0.95) * capacity_j
    rollout.array_flux_w_m2[:] = np.repeat(rng.choice([0.0, 0.0, 1361.0], ticks // 200 + 1), 200)[:ticks]
    rollout.heat_w[:, RADIATOR], rollout.heat_w[:, BUS], rollout.heat_w[:, PANEL] = 20.0, 40.0, 60.0
    rollout.slot_steps[:] = 1
    rollout.compute_w[:, :, 0] = loads
    start_k = rollout.params["temperature_k"][:, 0].copy()
    start_j = float(rollout.params["battery_j"][0, 0])
    rollout.run()
    assert rollout.trace is not None
    kelvin = np.vstack((start_k, rollout.trace[:, :-1, 0]))
    charge_j = np.concatenate(([start_j], rollout.trace[:, -1, 0]))
    stored_w = np.diff(charge_j)
    open_v = m.battery.empty_v + (m.battery.full_v - m.battery.empty_v) * charge_j[:-1] / capacity_j
    amps = stored_w / np.where(stored_w > 0.0, m.battery.charge_efficiency_frac, 1.0) / open_v
    volts = open_v + m.battery.resistance_ohm * amps
    assert corner.capacity < 1.0
    return kelvin, charge_j / capacity_j, volts, amps


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), bias=st.floats(-1.0, 1.0), silence=st.integers(0, 120), silent=st.sets(
    st.sampled_from((*THERMAL, "battery_soc_frac", "battery_v", "battery_a"))))  # fmt: skip
def test_bounds_hold_the_truth_of_readings_within_accuracy(seed: int, bias: float, silence: int,
                                                           silent: set[str]) -> None:  # fmt: skip
    ticks = 700
    kelvin, charge, volts, amps = flight(seed, ticks)
    rng = np.random.default_rng(seed)
    estimator = Estimator(mission())
    for tick in range(1, ticks):
        truth = dict(zip(THERMAL, kelvin[tick] - ZERO_C, strict=True))
        # What flowed in the second before the tick is what the gauge and the terminals show at the tick.
        truth |= {"battery_soc_frac": charge[tick], "battery_v": volts[tick - 1], "battery_a": amps[tick - 1]}
        seen = STEADY | {
            name: float(value + SENSORS[INDEX[name]].accuracy * np.clip(bias + rng.uniform(-0.5, 0.5), -1.0, 1.0))
            for name, value in truth.items()
        }
        if 300 <= tick < 300 + silence:
            seen = {name: value for name, value in seen.items() if name not in silent}
        estimate = estimator.update(readings(float(tick), seen), BLIND_AFTER_S)
        assert holds(estimate.battery_j, charge[tick] * FULL_J, 1.0), (tick, estimate.battery_j, charge[tick] * FULL_J)
        for i, name in enumerate(THERMAL):
            assert holds(estimate.temperature_k[i], kelvin[tick, i]), (tick, name, estimate.temperature_k[i])


@settings(max_examples=30, deadline=None)
@given(age_s=st.floats(0.0, 30.0), power_w=st.floats(-150.0, 72.0))
def test_an_old_gauge_reading_is_given_its_age(age_s: float, power_w: float) -> None:
    """The gauge may be 30 s old and still good: what has flowed since is not in it."""
    estimator = Estimator(mission())
    seen = without("battery_v", "battery_a") | {"battery_soc_frac": 0.8}
    estimate = estimator.update(readings(100.0, seen, {"battery_soc_frac": age_s}), BLIND_AFTER_S)
    assert holds(estimate.battery_j, 0.8 * FULL_J + power_w * age_s)


def test_counting_is_tighter_than_the_gauge_alone_and_follows_it() -> None:
    estimator = Estimator(mission())
    rng = np.random.default_rng(5)
    for tick in range(600):
        noisy = 0.8 + float(rng.uniform(-0.02, 0.02))
        estimate = estimator.update(readings(float(tick), STEADY | {"battery_soc_frac": noisy, "battery_a": 0.0}),
                                    BLIND_AFTER_S)  # fmt: skip
    width = (estimate.battery_j.high - estimate.battery_j.low) / FULL_J
    assert width < 0.02  # the gauge alone: 0.04
    assert estimate.battery_j.best / FULL_J == pytest.approx(0.8, abs=0.005)


def test_a_gauge_that_contradicts_the_count_is_believed() -> None:
    estimator = Estimator(mission())
    estimator.update(readings(0.0, STEADY | {"battery_soc_frac": 0.9}), BLIND_AFTER_S)
    estimate = estimator.update(readings(1.0, STEADY | {"battery_soc_frac": 0.6}), BLIND_AFTER_S)
    assert estimate.battery_j.low / FULL_J == pytest.approx(0.58)
    assert estimate.battery_j.high / FULL_J == pytest.approx(0.62)


@pytest.mark.parametrize("amps", [-9.0, -6.0, 3.0])
def test_pack_loss_is_counted(amps: float) -> None:
    """At 120 W the pack loses 4 % inside; who counts what the terminals give believes in charge that is not there."""
    m = mission().battery
    estimator = Estimator(mission())
    charge_j, open_v = 0.8 * FULL_J, 15.6
    terminals = {"battery_v": open_v + m.resistance_ohm * amps, "battery_a": amps}
    estimator.update(readings(0.0, STEADY | terminals), BLIND_AFTER_S)
    for tick in range(1, 400):
        charge_j += open_v * amps * (m.charge_efficiency_frac if amps > 0.0 else 1.0)
        seen = without("battery_soc_frac") | terminals
        estimate = estimator.update(readings(float(tick), seen), BLIND_AFTER_S)
    assert estimate.battery_j.best == pytest.approx(charge_j, rel=1e-6)
    assert holds(estimate.battery_j, charge_j)


# --- silence -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*THERMAL, "battery_soc_frac"])
def test_bounds_only_widen_while_a_sensor_is_silent_and_stay_numbers(name: str) -> None:
    estimator = Estimator(mission())
    before = quantity(estimator.update(readings(0.0, STEADY | {"battery_a": 0.0}), BLIND_AFTER_S), name)
    narrowest = before
    for now_s in [*range(1, 60), 100, 1000, 100_000]:
        rest = without(name) | {"battery_a": 0.0}
        after = quantity(estimator.update(readings(float(now_s), rest), BLIND_AFTER_S), name)
        assert contains(after, before)
        assert after.best == narrowest.best
        before = after
    assert before.high - before.low > 5.0 * (narrowest.high - narrowest.low)
    low, high = (0.0, FULL_J) if name == "battery_soc_frac" else (100.0, 500.0)  # what a model can start from
    assert low <= before.low < before.high <= high


@settings(max_examples=60, deadline=None)
@given(st.sets(st.sampled_from(sorted(STEADY)), min_size=1), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_a_lost_sensor_never_narrows_anything(lost: set[str], lost_at: int, seed: int) -> None:
    """Two estimators, one of which loses sensors: whatever it still says holds all that the other says."""
    rng = np.random.default_rng(seed)
    whole, poor = Estimator(mission()), Estimator(mission())
    for tick in range(lost_at + 50):
        seen = STEADY | {
            "battery_soc_frac": 0.8 + float(rng.uniform(-0.01, 0.01)), "battery_a": float(rng.uniform(-0.2, 0.2)),
            "plate_c": 20.0 + 0.1 * math.sin(tick), "die0_c": 30.0 + 0.3 * math.sin(0.3 * tick),
        }  # fmt: skip
        less = {k: v for k, v in seen.items() if not (k in lost and tick >= lost_at)}
        known = whole.update(readings(float(tick), seen), BLIND_AFTER_S)
        guess = poor.update(readings(float(tick), less), BLIND_AFTER_S)
        assert contains(guess.battery_j, known.battery_j)
        for i, name in enumerate(THERMAL):
            # While a sensor is silent the other's last sample moves by no more than its own noise.
            assert contains(guess.temperature_k[i], known.temperature_k[i], 0.7), name
        assert set(known.blind) <= set(guess.blind)
        assert set(known.dark_nodes) <= set(guess.dark_nodes)
        assert all(g is None or g == k for g, k in zip(guess.node_w, known.node_w, strict=True))


# --- unknown -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(STEADY))
@pytest.mark.parametrize("blind_after_s", [5.0, 30.0])
def test_unknown_after_blind_after_s_and_known_again_at_once(name: str, blind_after_s: float) -> None:
    estimator = Estimator(mission())
    for now_s in range(10):
        estimate = estimator.update(readings(float(now_s), STEADY), blind_after_s)
    assert (estimate.blind, estimate.dark_nodes) == ((), ())
    is_needed = name in NEEDED or name == "battery_soc_frac"
    node = int(name[3]) if name.startswith("die") else None
    for now_s in range(10, 60):
        estimate = estimator.update(readings(float(now_s), without(name)), blind_after_s)
        gone = now_s - 9.0 > blind_after_s
        assert estimate.blind == ((name,) if gone and is_needed else ())
        assert estimate.dark_nodes == ((node,) if gone and node is not None else ())
    estimate = estimator.update(readings(60.0, STEADY), blind_after_s)
    assert (estimate.blind, estimate.dark_nodes) == ((), ())


def test_nothing_is_known_before_the_first_reading() -> None:
    estimate = Estimator(mission()).update(readings(0.0, {}), BLIND_AFTER_S)
    assert set(estimate.blind) == {*NEEDED, "battery_soc_frac"}
    assert estimate.dark_nodes == (0, 1, 2, 3)
    assert (estimate.battery_j.low, estimate.battery_j.high) == (0.0, FULL_J)
    for bounded in estimate.temperature_k:
        assert bounded.high - bounded.low > 200.0
    assert estimate.array_w is None
    assert estimate.node_w == (None,) * 4


def test_a_stale_sample_counts_from_when_it_was_taken() -> None:
    estimator = Estimator(mission())
    fresh = estimator.update(readings(100.0, STEADY), BLIND_AFTER_S).temperature_k[PLATE]
    old = Estimator(mission()).update(readings(100.0, STEADY, {"plate_c": 4.0}), BLIND_AFTER_S).temperature_k[PLATE]
    assert old.high > fresh.high
    future = Estimator(mission()).update(readings(100.0, STEADY, {"plate_c": -4.0}), BLIND_AFTER_S)
    assert future.temperature_k[PLATE] == fresh  # a sample from the future is not better than one of now


def test_same_readings_same_estimates() -> None:
    one, other = Estimator(mission()), Estimator(mission())
    rng = np.random.default_rng(3)
    for tick in range(200):
        seen = {k: v * float(rng.uniform(0.99, 1.0)) for k, v in STEADY.items() if rng.uniform() > 0.1}
        assert one.update(readings(float(tick), seen), 5.0) == other.update(readings(float(tick), seen), 5.0)


def quantity(estimate: Estimate, name: str) -> Bounded:
    return estimate.battery_j if name == "battery_soc_frac" else estimate.temperature_k[THERMAL.index(name)]


def test_indices_follow_the_flight_network() -> None:
    estimate = Estimator(mission()).update(readings(0.0, STEADY), BLIND_AFTER_S)
    at = model.node_index(mission())
    assert (at.plate, at.radiator, at.bus, at.battery, at.array) == (PLATE, RADIATOR, BUS, BATTERY, PANEL)
    for i, name in enumerate(THERMAL):
        assert estimate.temperature_k[i].best == pytest.approx(STEADY[name] + ZERO_C)

"""The rollout kernel against a NumPy reference of the same model, bit for bit, and against its own promises."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from flightsw.errors import KernelError
from flightsw.kernels import AVX2_PATH, AVX512_PATH, BASE_PATH, SCALAR_PATH, Rollout, Topology, lib, wrap_buffer

SIGMA = 5.670374419e-8
REFERENCE_K = 288.0
RESULTS = (
    "max_temperature_k", "max_temperature_step", "min_battery_j", "min_battery_step", "end_temperature_k",
    "end_battery_j", "compute_j", "unmet_s", "first_crossing_step", "trace",
)  # fmt: skip


@dataclass
class Reference:
    """The same results, computed over all lanes with NumPy one operation at a time."""

    max_temperature_k: Any
    max_temperature_step: Any
    min_battery_j: Any
    min_battery_step: Any
    end_temperature_k: Any
    end_battery_j: Any
    compute_j: Any
    unmet_s: Any
    first_crossing_step: Any
    trace: Any


def reference(r: Rollout, dt_s: float) -> Reference:
    """The model of `rollout_template.h` in the same order of operations, so that equal bits can be asked for."""
    real = np.float32 if r.precision == 32 else np.float64
    top, n_lanes = r.topology, r.end_battery_j.size
    p = {name: np.broadcast_to(v, (v.shape[0], n_lanes)) for name, v in r.params.items()}
    one = {name: v[0] for name, v in p.items() if v.shape[0]}

    k_per_w = dt_s / p["capacity_j_k"]
    couple, self_ = [], np.zeros((top.n_nodes, n_lanes))
    for i in range(top.n_nodes):
        row = []
        for link, (a, b) in enumerate(top.links):
            if i in (a, b):
                c = k_per_w[i] * p["link_w_k"][link]
                row.append((b if i == a else a, c.astype(real)))
                self_[i] = self_[i] - c
        couple.append(row)
    radiate = (k_per_w * SIGMA * p["radiating_m2"]).astype(real)
    k_per_w, self_ = k_per_w.astype(real), self_.astype(real)
    capacity = one["battery_capacity_j"]
    taper = np.full(n_lanes, 1.0 / dt_s)
    room = (1.0 - one["taper_start_frac"]) * capacity
    gentle = one["charge_limit_w"] < taper * (1.0 - one["taper_start_frac"]) * capacity
    taper[gentle] = one["charge_limit_w"][gentle] / room[gentle]
    ocv_slope = ((one["ocv_full_v"] - one["ocv_empty_v"]) / capacity).astype(real)
    area = one["array_area_m2"] * one["flux_scale_frac"]
    electric = area * one["array_eff_frac"]
    array_0 = (electric * (1.0 + one["array_coeff_per_k"] * (REFERENCE_K - one["array_ref_k"]))).astype(real)
    array_1 = (electric * one["array_coeff_per_k"]).astype(real)
    absorb = (area * one["array_absorpt_frac"]).astype(real)
    per_k = (1.0 / (one["throttle_zero_k"] - one["throttle_full_k"])).astype(real)
    zero_j = (one["throttle_zero_frac"] * capacity).astype(real)
    per_j = (1.0 / ((one["throttle_full_frac"] - one["throttle_zero_frac"]) * capacity)).astype(real)
    four_ohm = (4.0 * one["resistance_ohm"]).astype(real)
    kelvins = ("heater_on_k", "heater_off_k", "throttle_zero_k")
    below = {name: (one[name] - REFERENCE_K).astype(real) for name in kelvins}
    limit = (p["limit_k"] - REFERENCE_K).astype(real)
    f = {name: v.astype(real) for name, v in one.items()}
    taper, dt = taper.astype(real), real(dt_s)

    x = (p["temperature_k"] - REFERENCE_K).astype(real)
    energy, on = f["battery_j"].copy(), f["heater_start_on"].copy()
    hottest, hottest_step = x.copy(), np.full(x.shape, -1, np.int32)
    lowest, lowest_step = energy.copy(), np.full(n_lanes, -1, np.int32)
    crossing = np.full(n_lanes, -1, np.int32)
    unmet = np.zeros(n_lanes, real)
    compute_j = np.zeros((len(top.compute_node), n_lanes))
    trace = np.zeros((len(r.slot_steps), top.n_nodes + 1, n_lanes))
    flux_row, tx_row, heat_row = (v.astype(real) for v in (r.array_flux_w_m2, r.tx_w, r.heat_w))
    zero, unit = real(0), real(1)
    step = 0
    for slot, length in enumerate(r.slot_steps):
        slot_w = (np.broadcast_to(r.compute_w[slot], compute_j.shape) * p["activity_frac"]).astype(real)
        drawn = np.zeros_like(slot_w)
        for _ in range(length):
            flux, tx = flux_row[step], tx_row[step]
            heat = heat_row[step][:, None] * f["heat_scale_frac"]
            on = np.where(x[top.heater_node] > below["heater_off_k"], zero, on)
            on = np.where(x[top.heater_node] < below["heater_on_k"], unit, on)
            heat[top.heater_node] += on * f["heater_w"]
            heat[top.bus_node] += f["bus_w"] + tx * f["tx_heat_frac"]
            load = f["bus_w"] + tx + on * f["heater_w"]
            by_charge = np.maximum(np.minimum((energy - zero_j) * per_j, unit), zero)
            for c, node in enumerate(top.compute_node):
                power = slot_w[c]
                if top.throttle:
                    factor = np.maximum(np.minimum((below["throttle_zero_k"] - x[node]) * per_k, unit), zero)
                    power = power * np.maximum(factor * by_charge, f["throttle_min_frac"])
                drawn[c] += power
                heat[node] += power
                load = load + power
            available = np.maximum(flux * (array_0 + array_1 * x[top.array_node]), zero)
            surplus = available - load
            pack = np.minimum(surplus, np.minimum(f["charge_limit_w"], taper * (f["battery_capacity_j"] - energy)))
            ocv = f["ocv_empty_v"] + ocv_slope * energy
            root = np.sqrt(np.maximum(ocv * ocv + four_ohm * pack, zero))
            stored = pack * ((ocv + ocv) / (ocv + root))
            stored = np.where(pack > zero, stored * f["charge_eff_frac"], stored)
            end = energy + stored * dt
            cutoff = np.minimum(energy, f["battery_cutoff_j"])
            unmet = unmet + (end < cutoff).astype(real)
            energy = np.minimum(np.maximum(end, cutoff), f["battery_capacity_j"])
            lowest_step[energy < lowest] = step
            lowest = np.minimum(energy, lowest)
            heat[top.battery_node] += pack - stored
            heat[top.array_node] += flux * absorb - (available - (surplus - pack))
            after = np.empty_like(x)
            for i in range(top.n_nodes):
                change = heat[i] * k_per_w[i] + self_[i] * x[i]
                for column, c in couple[i]:
                    change = change + c * x[column]
                square = (x[i] + real(REFERENCE_K)) * (x[i] + real(REFERENCE_K))
                after[i] = x[i] + (change - radiate[i] * (square * square))
            x = after
            hottest_step[x > hottest] = step
            hottest = np.maximum(x, hottest)
            crossed = (x > limit).any(axis=0) | (energy < f["battery_floor_j"])
            crossing[crossed & (crossing < 0)] = step
            step += 1
        compute_j += drawn.astype(np.float64) * dt_s
        trace[slot, :-1] = x.astype(np.float64) + REFERENCE_K
        trace[slot, -1] = energy
    return Reference(
        hottest.astype(np.float64) + REFERENCE_K, hottest_step, lowest.astype(np.float64), lowest_step,
        x.astype(np.float64) + REFERENCE_K, energy.astype(np.float64), compute_j,
        unmet.astype(np.float64) * dt_s, crossing, trace,
    )  # fmt: skip


LINKS = ((0, 4), (1, 4), (2, 4), (3, 4), (4, 5), (4, 6), (5, 6), (6, 7), (0, 1), (5, 7))
NODES, COMPUTE = 8, 4


def fill(r: Rollout, seed: int, spread: float = 0.05) -> Rollout:
    """A 16U-class satellite, every number dispersed by `spread`; sun for two thirds, then shade."""
    rng = np.random.default_rng(seed)
    p = r.params
    nominal = {
        "temperature_k": [300, 301, 302, 303, 298, 285, 282, 310],
        "capacity_j_k": [60, 60, 60, 60, 900, 700, 5900, 1100],
        "radiating_m2": [0, 0, 0, 0, 0, 0.12, 0.09, 0.5],
        "limit_k": [353, 353, 353, 353, 328, 323, 318, 400],
        "link_w_k": [1.2, 1.2, 1.2, 1.2, 6.0, 0.35, 0.2, 0.1, 0.3, 0.05],
        "activity_frac": [0.9, 1.0, 1.0, 1.1],
        "battery_j": 395e3, "battery_capacity_j": 522e3, "battery_floor_j": 390e3, "battery_cutoff_j": 380e3,
        "ocv_empty_v": 13.2, "ocv_full_v": 16.4, "resistance_ohm": 0.08, "charge_limit_w": 72.0,
        "taper_start_frac": 0.9, "charge_eff_frac": 0.95, "array_area_m2": 0.3, "array_eff_frac": 0.27,
        "array_ref_k": 301.0, "array_coeff_per_k": -0.0022, "array_absorpt_frac": 0.9, "bus_w": 13.0,
        "tx_heat_frac": 0.7, "heater_w": 6.0, "heater_on_k": 275.0, "heater_off_k": 285.0,
        "flux_scale_frac": 1.0, "heat_scale_frac": 1.0, "throttle_full_k": 320.0, "throttle_zero_k": 350.0,
        "throttle_zero_frac": 0.6, "throttle_full_frac": 0.82, "throttle_min_frac": 0.2,
    }  # fmt: skip
    for name, value in nominal.items():
        wide = np.array(value, float).reshape(-1, 1) * np.ones(p[name].shape)
        kelvin = name.endswith("_k") and name not in ("capacity_j_k", "link_w_k", "array_coeff_per_k")
        scale = 1.0 + (spread * 0.1 if kelvin else spread) * rng.uniform(-1, 1, p[name].shape)
        p[name][:] = wide * scale
    for name in ("charge_eff_frac", "taper_start_frac", "array_absorpt_frac"):
        np.minimum(p[name], 1.0, out=p[name])
    p["battery_j"][:] = np.minimum(p["battery_j"], p["battery_capacity_j"])  # a pack is never more than full
    steps = r.tx_w.size
    r.array_flux_w_m2[:] = np.where(np.arange(steps) < 2 * steps // 3, 1361.0, 0.0)
    r.heat_w[:, 5] = rng.uniform(10, 30, steps)
    r.heat_w[:, 7] = 25.0
    r.tx_w[: steps // 5] = 18.0
    r.compute_w[:] = rng.choice([0.4, 4.5, 14.0, 22.0], r.compute_w.shape)
    return r


def make(
    n_lanes: int, slots: list[int], *, seed: int = 1, precision: int = 64, throttle: bool = True, dt_s: float = 1.0,
    per_lane: bool = True, spread: float = 0.05, own_network: bool = True, max_steps: bool = True,
) -> Rollout:  # fmt: skip
    top = Topology(NODES, LINKS, range(COMPUTE), 7, 6, 6, 6, throttle)
    names = set(Rollout(top, n_lanes=1, n_steps=1, n_slots=1, dt_s=1.0).params) if per_lane else set()
    if not own_network:
        names -= {"capacity_j_k", "radiating_m2", "link_w_k"}
    r = Rollout(
        top, n_lanes=n_lanes, n_steps=sum(slots), n_slots=len(slots), dt_s=dt_s, per_lane=names,
        policy_per_lane=per_lane, precision=precision, max_steps=max_steps, trace=True,
    )  # fmt: skip
    r.slot_steps[:] = slots
    return fill(r, seed, spread)


def results(r: Rollout) -> dict[str, Any]:
    return {name: getattr(r, name).copy() for name in RESULTS if getattr(r, name) is not None}


def assert_equal(left: dict[str, Any], right: dict[str, Any]) -> None:
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name], err_msg=name)


def has_path(path: int) -> bool:
    try:
        make(1, [1]).run(path=path)
    except KernelError as e:
        if e.code != lib.FSW_ROLLOUT_E_PATH:
            raise
        return False
    return True


PATHS = [path for path in (SCALAR_PATH, BASE_PATH, AVX2_PATH, AVX512_PATH) if has_path(path)]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("precision", [32, 64])
@pytest.mark.parametrize("throttle", [False, True])
def test_bits_equal_the_numpy_reference(path: int, precision: int, throttle: bool) -> None:
    r = make(37, [100, 300, 50], precision=precision, throttle=throttle, dt_s=5.0)
    r.params["battery_j"][0, ::5] = r.params["battery_cutoff_j"][0, ::5] + 300.0
    r.array_flux_w_m2[:20] = 0.0
    r.run(path=path)
    assert_equal(results(r), vars(reference(r, 5.0)))
    assert (r.first_crossing_step >= 0).any()  # the case reaches what it claims to test
    assert (r.unmet_s > 0).any()
    assert (r.max_temperature_step >= 0).any()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("precision", [32, 64])
@pytest.mark.parametrize("own_network", [False, True])
def test_bits_hold_where_most_steps_run_unwatched(path: int, precision: int, own_network: bool) -> None:
    """Without maxima's steps the kernel looks for crossings and brown-out only at the end of a stretch of steps."""
    r = make(101, [100, 300, 50], precision=precision, dt_s=5.0, own_network=own_network, max_steps=False)
    p = r.params
    p["battery_floor_j"][:], p["battery_j"][:] = 0.0, 470e3
    p["battery_j"][0, ::5] = p["battery_cutoff_j"][0, ::5] + 3000.0
    p["limit_k"][:4] = np.linspace(300.0, 360.0, 101)  # crossings fall into many stretches, and some never
    p["heater_w"][:] = 0.0 if own_network else p["heater_w"]
    r.array_flux_w_m2[:60] = 0.0
    r.run(path=path)
    assert_equal(results(r), vars(reference(r, 5.0)))
    crossings = np.unique(r.first_crossing_step)
    assert len(crossings) > 10
    assert crossings[0] == -1
    assert crossings[-1] > 150
    assert 0 < (r.unmet_s > 0).sum() < 101


@settings(max_examples=40, deadline=None)
@given(
    n_lanes=st.integers(1, 70),
    slots=st.lists(st.integers(1, 12) | st.integers(60, 140), min_size=1, max_size=3),
    seed=st.integers(0, 2**32 - 1),
    precision=st.sampled_from([32, 64]),
    throttle=st.booleans(),
    dt_s=st.floats(0.1, 8.0),
    spread=st.floats(0.0, 0.15),
    own_network=st.booleans(),
    max_steps=st.booleans(),
)
def test_every_path_gives_the_reference_bits(
    n_lanes: int, slots: list[int], seed: int, precision: int, throttle: bool, dt_s: float, spread: float,
    own_network: bool, max_steps: bool,
) -> None:  # fmt: skip
    r = make(
        n_lanes, slots, seed=seed, precision=precision, throttle=throttle, dt_s=dt_s, spread=spread,
        own_network=own_network, max_steps=max_steps,
    )  # fmt: skip
    expected = vars(reference(r, dt_s))
    for path in PATHS:
        r.run(path=path)
        assert_equal(results(r), expected)
    r.run()
    assert_equal(results(r), expected)


@pytest.mark.parametrize(("precision", "digest"), [(32, "84a323c26e6a6706"), (64, "609fe6ae2ca55d1b")])
def test_bits_are_those_of_every_machine(precision: int, digest: str) -> None:
    """Taken on x86-64; a change here is a change of the model, and recorded runs no longer replay."""
    r = make(37, [100, 300, 50], precision=precision, dt_s=5.0)
    r.run()
    bits = hashlib.sha256(b"".join(getattr(r, name).tobytes() for name in RESULTS))
    assert bits.hexdigest()[:16] == digest


def permute(r: Rollout, order: Any) -> None:
    for values in r.params.values():
        values[:] = values[:, order]
    r.compute_w[:] = r.compute_w[..., order]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), precision=st.sampled_from([32, 64]))
def test_a_lane_does_not_depend_on_its_neighbours(seed: int, precision: int) -> None:
    r = make(50, [20, 30], seed=seed, precision=precision)
    r.run()
    straight = results(r)
    order = np.random.default_rng(seed).permutation(50)
    permute(r, order)
    r.run()
    assert_equal({name: v[..., order] for name, v in straight.items()}, results(r))
    r.run(1)
    assert_equal({name: v[..., :1] for name, v in results(r).items()},
                 {name: v[..., order][..., :1] for name, v in straight.items()})  # fmt: skip


def test_a_shared_row_equals_the_same_value_in_every_lane() -> None:
    shared, wide = make(9, [40], per_lane=False), make(9, [40])
    for name, values in wide.params.items():
        values[:] = shared.params[name]
    wide.compute_w[:], wide.heat_w[:] = shared.compute_w, shared.heat_w
    shared.run()
    wide.run()
    assert_equal(results(shared), results(wide))


def test_fewer_lanes_and_slots_leave_the_rest_untouched() -> None:
    r = make(12, [10, 20, 30])
    for name in RESULTS:
        getattr(r, name)[:] = -77
    r.run(5, 2)
    assert (r.end_battery_j[5:] == -77).all()
    assert (r.trace[2] == -77).all()
    assert (r.end_battery_j[:5] == r.trace[1, -1, :5]).all()
    with pytest.raises(KernelError, match="room is for 12 lanes"):
        r.run(13)


def test_extremes_and_crossings_agree_with_the_trace() -> None:
    r = make(20, [1] * 400, dt_s=8.0)
    r.run()
    temperature, battery = r.trace[:, :-1], r.trace[:, -1]
    start = r.params["temperature_k"] - REFERENCE_K + REFERENCE_K
    np.testing.assert_array_equal(r.max_temperature_k, np.maximum(temperature.max(axis=0), start))
    rose = temperature.max(axis=0) > start
    np.testing.assert_array_equal(r.max_temperature_step, np.where(rose, temperature.argmax(axis=0), -1))
    np.testing.assert_array_equal(r.min_battery_j, np.minimum(battery.min(axis=0), r.params["battery_j"][0]))
    crossed = (temperature > r.params["limit_k"]).any(axis=1) | (battery < r.params["battery_floor_j"])
    np.testing.assert_array_equal(
        r.first_crossing_step, np.where(crossed.any(axis=0), crossed.argmax(axis=0), -1)
    )


def test_single_precision_stays_near_double_over_a_day() -> None:
    narrow, wide = (make(8, [300] * 288, precision=bits) for bits in (32, 64))
    narrow.run()
    wide.run()
    # Heater switching and brown-out may come one step later or earlier; that is in these bounds.
    assert np.abs(narrow.trace[:, :-1] - wide.trace[:, :-1]).max() < 0.05
    assert np.abs(narrow.trace[:, -1] - wide.trace[:, -1]).max() < 0.002 * 522e3
    np.testing.assert_allclose(narrow.compute_j, wide.compute_j, rtol=2e-3)


def test_euler_stays_near_the_exact_solution() -> None:
    """Against LSODA at rtol 1e-10: 20 mK at half-second steps, and ten times the step, ten times the error."""
    errors = []
    for dt_s in (0.5, 5.0):
        n = int(300 / dt_s)
        r = make(1, [n], throttle=False, dt_s=dt_s, per_lane=False, spread=0.0)
        r.params["heater_w"][:] = 0.0
        r.params["resistance_ohm"][:] = 0.0
        r.params["charge_eff_frac"][:] = 1.0
        r.array_flux_w_m2[:], r.tx_w[:] = 0.0, 0.0
        r.heat_w[:], r.heat_w[:, 7] = 0.0, 400.0
        r.run()
        heat = np.zeros(NODES)
        heat[7], heat[6] = 400.0, 13.0
        heat[:COMPUTE] = r.compute_w[0, :, 0] * r.params["activity_frac"][:, 0]
        capacity, area = r.params["capacity_j_k"][:, 0], r.params["radiating_m2"][:, 0]
        laplacian = np.zeros((NODES, NODES))
        for (a, b), g in zip(LINKS, r.params["link_w_k"][:, 0], strict=True):
            laplacian[[a, b], [a, b]] += g
            laplacian[[a, b], [b, a]] -= g
        exact = solve_ivp(
            lambda _, t, q=heat, m=laplacian, c=capacity, s=area: (q - m @ t - SIGMA * s * t**4) / c,
            (0.0, 300.0), r.params["temperature_k"][:, 0], method="LSODA", rtol=1e-10, atol=1e-10,
        ).y[:, -1]  # fmt: skip
        errors.append(np.abs(r.end_temperature_k[:, 0] - exact).max())
    assert errors[0] < 0.02
    assert 8 < errors[1] / errors[0] < 12.5


def test_heat_is_conserved_without_radiators() -> None:
    r = make(6, [500], throttle=False)
    r.params["radiating_m2"][:] = 0.0
    r.params["heater_w"][:] = 0.0
    r.array_flux_w_m2[:] = 0.0
    r.tx_w[:] = 0.0
    r.params["resistance_ohm"][:] = 0.0
    r.params["battery_cutoff_j"][:] = 0.0
    r.run()
    stored = (r.params["capacity_j_k"] * (r.end_temperature_k - r.params["temperature_k"])).sum(axis=0)
    put_in = r.compute_j.sum(axis=0) + 500 * r.params["bus_w"][0]
    drawn = r.params["battery_j"][0] - r.end_battery_j
    np.testing.assert_allclose(drawn, put_in, rtol=1e-9)
    outside = r.heat_w.sum() * r.params["heat_scale_frac"][0]
    np.testing.assert_allclose(stored, put_in + outside, rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), more_w=st.floats(0.0, 8.0), dt_s=st.floats(0.5, 8.0))
def test_more_load_is_never_cooler_nor_fuller(seed: int, more_w: float, dt_s: float) -> None:
    """The governor's one-corner argument; heater and array held out, where it does not hold."""
    r = make(24, [60, 60], seed=seed, throttle=False, dt_s=dt_s)
    r.params["heater_w"][:] = 0.0
    r.array_flux_w_m2[:] = 0.0
    r.run()
    before = results(r)
    r.compute_w[:] += more_w
    r.run()
    assert (r.trace[:, :-1] >= before["trace"][:, :-1] - 1e-9).all()
    assert (r.trace[:, -1] <= before["trace"][:, -1] + 1e-6).all()


def test_an_empty_pack_counts_unmet_time_and_gives_nothing() -> None:
    r = make(1, [100], per_lane=False, throttle=False)
    r.array_flux_w_m2[:] = 0.0
    r.params["battery_j"][:] = r.params["battery_cutoff_j"] + 10.0
    r.run()
    assert r.unmet_s[0] == 100.0  # 10 J do not last one step
    assert r.end_battery_j[0] == r.params["battery_cutoff_j"][0, 0]
    r.params["battery_j"][:] = r.params["battery_cutoff_j"] - 1000.0
    r.run()
    assert r.end_battery_j[0] == r.params["battery_j"][0, 0]  # below the cut-off it is not lifted to it


ENVIRONMENT = ("array_flux_w_m2", "heat_w", "tx_w", "compute_w")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, -1e30])
@pytest.mark.parametrize("name", [*make(1, [1]).params, *ENVIRONMENT])
def test_a_bad_number_is_refused_and_nothing_written(name: str, bad: float) -> None:
    r = make(6, [3, 4])
    array = getattr(r, name) if name in ENVIRONMENT else r.params[name]
    for name_ in RESULTS:
        getattr(r, name_)[:] = -77
    array.flat[array.size - 1] = bad
    with pytest.raises(KernelError) as caught:
        r.run()
    expected = {"compute_w": lib.FSW_ROLLOUT_E_POLICY}.get(
        name, lib.FSW_ROLLOUT_E_ENVIRONMENT if name in ENVIRONMENT else lib.FSW_ROLLOUT_E_PARAM
    )
    assert caught.value.code == expected
    for name_ in RESULTS:
        assert (getattr(r, name_) == -77).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("battery_j", 600e3), ("heater_off_k", 200.0), ("throttle_zero_k", 300.0), ("heater_start_on", 0.5),
        ("throttle_full_frac", 0.5), ("capacity_j_k", 0.0), ("temperature_k", 0.0), ("ocv_full_v", 0.0),
    ],
)  # fmt: skip
def test_parameters_that_contradict_are_refused(name: str, value: float) -> None:
    r = make(6, [3])
    r.params[name][-1, -1] = value
    with pytest.raises(KernelError) as caught:
        r.run()
    assert caught.value.code == lib.FSW_ROLLOUT_E_PARAM


def test_a_step_too_long_for_one_lane_is_refused() -> None:
    r = make(6, [3])
    r.params["capacity_j_k"][0, 5] = 1.0
    with pytest.raises(KernelError, match="too long") as caught:
        r.run()
    assert caught.value.code == lib.FSW_ROLLOUT_E_UNSTABLE


def test_a_diverging_lane_is_reported() -> None:
    r = make(6, [2000])
    r.heat_w[:, 5] = 1e5
    with pytest.raises(KernelError) as caught:
        r.run()
    assert caught.value.code == lib.FSW_ROLLOUT_E_DIVERGED


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"n_nodes": 0}, "COUNT"),
        ({"n_nodes": 17}, "COUNT"),
        ({"links": [(0, 0)]}, "TOPOLOGY"),
        ({"links": [(0, 8)]}, "TOPOLOGY"),
        ({"links": [(0, 1)] * 33}, "COUNT"),
        ({"compute_node": [0] * 9}, "COUNT"),
        ({"compute_node": [-1]}, "TOPOLOGY"),
        ({"array_node": 8}, "TOPOLOGY"),
        ({"battery_node": -1}, "TOPOLOGY"),
        ({"bus_node": 99}, "TOPOLOGY"),
        ({"heater_node": 8}, "TOPOLOGY"),
    ],
)
def test_a_bad_topology_is_refused(change: dict[str, Any], code: str) -> None:
    top = Topology(NODES, LINKS, range(COMPUTE), 7, 6, 6, 6)._replace(**change)
    with pytest.raises(KernelError) as caught:
        Rollout(top, n_lanes=2, n_steps=2, n_slots=1, dt_s=1.0).run()
    # Sizes are refused when the object is made, indices when it runs: slot_steps are still zero here.
    assert caught.value.code == getattr(lib, f"FSW_ROLLOUT_E_{code}")


def test_unknown_names_precisions_and_paths_are_refused() -> None:
    top = Topology(NODES, LINKS, range(COMPUTE), 7, 6, 6, 6)
    with pytest.raises(KernelError, match="no such lane parameter"):
        Rollout(top, n_lanes=1, n_steps=1, n_slots=1, dt_s=1.0, per_lane=("busw",))
    with pytest.raises(KernelError, match="precision"):
        make(1, [1], precision=16).run()
    with pytest.raises(KernelError, match="path"):
        make(1, [1]).run(path=9)
    with pytest.raises(KernelError, match="dt_s"):
        make(1, [1], dt_s=0.0).run()


def test_buffers_are_checked_before_c_sees_them() -> None:
    good = np.zeros((3, 4))
    assert len(wrap_buffer(good, "double", 12, "good", writable=True)) == 12
    frozen = np.zeros(12)
    frozen.flags.writeable = False
    assert wrap_buffer(frozen, "double", 12, "frozen", writable=False)[0] == 0.0
    for array, n_items, complaint in (
        (good.astype(np.float32), 12, "dtype float32"),
        (good.astype(np.int64), 12, "dtype int64"),
        (good[:, ::2], 6, "not contiguous"),
        (good.T, 12, "not contiguous"),
        (good, 13, "12 items, must be 13"),
        (frozen, 12, "read-only"),
    ):
        with pytest.raises(KernelError, match=complaint):
            wrap_buffer(array, "double", n_items, "x", writable=True)

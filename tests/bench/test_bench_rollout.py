"""Rollouts of one orbit by the C kernel beside NumPy on the same work, and the truth plant's cost per tick."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flightsw.kernels import AUTO_PATH, BASE_PATH, Plant, Rollout, Topology

LANES, SLOTS, SLOT_STEPS, DT_S = 2048, 18, 30, 10.0  # one orbit of 5,400 s
STEPS = SLOTS * SLOT_STEPS
LINKS = ((0, 4), (1, 4), (2, 4), (3, 4), (4, 5), (4, 6), (5, 6), (6, 7))
CONDUCTANCE_W_K = (1.2, 1.2, 1.2, 1.2, 6.0, 0.35, 0.2, 0.1)
CAPACITY_J_K = (60.0, 60.0, 60.0, 60.0, 900.0, 700.0, 5900.0, 1100.0)
RADIATING_M2 = (0.0, 0.0, 0.0, 0.0, 0.0, 0.12, 0.09, 0.516)
ARRAY, BATTERY, BUS = 7, 6, 6
SIGMA = 5.670374419e-8


def make(precision: int) -> Rollout:
    """A 16U-class satellite: 8 nodes, 4 of them compute, each lane its own policy, activity and start."""
    top = Topology(8, LINKS, range(4), ARRAY, BATTERY, BUS, BUS, throttle=True)
    r = Rollout(
        top, n_lanes=LANES, n_steps=STEPS, n_slots=SLOTS, dt_s=DT_S, precision=precision,
        per_lane=("temperature_k", "activity_frac", "battery_j", "bus_w"),
    )  # fmt: skip
    rng = np.random.default_rng(1)
    p = r.params
    p["temperature_k"][:] = 290.0 + rng.uniform(0.0, 8.0, p["temperature_k"].shape)
    p["activity_frac"][:] = rng.uniform(0.8, 1.1, p["activity_frac"].shape)
    p["battery_j"][:] = rng.uniform(0.75, 0.9, LANES) * 522e3
    p["bus_w"][:] = rng.uniform(12.0, 14.0, LANES)
    p["capacity_j_k"][:, 0], p["radiating_m2"][:, 0] = CAPACITY_J_K, RADIATING_M2
    p["link_w_k"][:, 0] = CONDUCTANCE_W_K
    for name, value in {
        "battery_capacity_j": 522e3, "ocv_empty_v": 13.2, "ocv_full_v": 16.4, "resistance_ohm": 0.08,
        "charge_limit_w": 72.0, "taper_start_frac": 0.93, "charge_eff_frac": 0.99, "array_area_m2": 0.3,
        "array_eff_frac": 0.27, "array_coeff_per_k": -0.0022, "array_absorpt_frac": 0.91, "tx_heat_frac": 0.7,
        "throttle_full_k": 340.0, "throttle_zero_k": 353.0, "throttle_zero_frac": 0.6, "throttle_full_frac": 0.7,
    }.items():  # fmt: skip
        p[name][:] = value
    r.slot_steps[:] = SLOT_STEPS
    r.array_flux_w_m2[: STEPS * 3 // 5] = 1361.0
    r.heat_w[:, 5], r.heat_w[:, 7] = 20.0, 40.0
    r.tx_w[:48] = 18.0
    r.compute_w[:] = rng.choice([0.4, 4.5, 14.0, 22.0], r.compute_w.shape)
    return r


class NumpyRollout:
    """The same work as one would write it in NumPy for speed: lanes in rows of arrays, matmul, `out=`."""

    def __init__(self, r: Rollout) -> None:
        real = np.float32 if r.precision == 32 else np.float64
        self.real, self.r = real, r
        self.p = {name: values.astype(real) for name, values in r.params.items()}
        self.flux, self.tx, self.heat = (v.astype(real) for v in (r.array_flux_w_m2, r.tx_w, r.heat_w))
        matrix = np.zeros((8, 8))
        for (a, b), w_k in zip(LINKS, CONDUCTANCE_W_K, strict=True):
            matrix[[a, b], [a, b]] -= w_k
            matrix[[a, b], [b, a]] += w_k
        self.matrix = matrix.astype(real)
        self.k_per_w = (DT_S / r.params["capacity_j_k"]).astype(real)
        self.radiate = (SIGMA * r.params["radiating_m2"][5:]).astype(real)
        self.compute_w = [(w * r.params["activity_frac"]).astype(real) for w in r.compute_w]

    def run(self) -> None:
        real, p = self.real, {name: v[0] if len(v) == 1 else v for name, v in self.p.items()}
        t, energy = p["temperature_k"].copy(), p["battery_j"].copy()
        capacity_j, charge_limit = p["battery_capacity_j"], p["charge_limit_w"]
        taper = charge_limit / ((1 - p["taper_start_frac"]) * capacity_j)
        ocv_slope = (p["ocv_full_v"] - p["ocv_empty_v"]) / capacity_j
        four_ohm = 4 * p["resistance_ohm"]
        per_k = 1 / (p["throttle_zero_k"] - p["throttle_full_k"])
        zero_j = p["throttle_zero_frac"] * capacity_j
        per_j = 1 / ((p["throttle_full_frac"] - p["throttle_zero_frac"]) * capacity_j)
        electric = p["array_area_m2"] * p["array_eff_frac"]
        absorb = p["array_area_m2"] * p["array_absorpt_frac"]
        hottest, lowest = t.copy(), energy.copy()
        q, factor, fourth = np.empty_like(t), np.empty_like(t[:4]), np.empty_like(t[5:])
        drawn, watt = np.zeros_like(t[:4]), np.empty_like(t[:4])
        step, dt = 0, real(DT_S)
        for slot_w in self.compute_w:
            for _ in range(SLOT_STEPS):
                flux, tx = self.flux[step], self.tx[step]
                np.subtract(p["throttle_zero_k"], t[:4], out=factor)
                np.multiply(factor, per_k, out=factor)
                np.clip(factor, 0, 1, out=factor)
                np.multiply(factor, np.clip((energy - zero_j) * per_j, 0, 1), out=factor)
                np.multiply(slot_w, factor, out=watt)
                drawn += watt
                load = watt.sum(axis=0) + p["bus_w"] + tx
                available = np.maximum(
                    flux * electric * (1 + p["array_coeff_per_k"] * (t[ARRAY] - p["array_ref_k"])), 0
                )
                surplus = available - load
                pack = np.minimum(surplus, np.minimum(charge_limit, taper * (capacity_j - energy)))
                ocv = p["ocv_empty_v"] + ocv_slope * energy
                stored = pack * (2 * ocv / (ocv + np.sqrt(np.maximum(ocv * ocv + four_ohm * pack, 0))))
                np.multiply(stored, p["charge_eff_frac"], out=stored, where=pack > 0)
                np.matmul(self.matrix, t, out=q)
                np.multiply(t[5:], t[5:], out=fourth)
                np.multiply(fourth, fourth, out=fourth)
                np.multiply(fourth, self.radiate, out=fourth)
                q[5:] -= fourth
                q += self.heat[step][:, None]
                q[:4] += watt
                q[BUS] += p["bus_w"] + tx * p["tx_heat_frac"]
                q[BATTERY] += pack - stored
                q[ARRAY] += flux * absorb - (available - (surplus - pack))
                np.multiply(q, self.k_per_w, out=q)
                t += q
                energy += stored * dt
                np.clip(energy, 0, capacity_j, out=energy)
                np.maximum(hottest, t, out=hottest)
                np.minimum(lowest, energy, out=lowest)
                step += 1
        self.max_temperature_k, self.min_battery_j = hottest, lowest
        self.end_temperature_k, self.end_battery_j, self.compute_j = t, energy, drawn * dt


def test_numpy_does_the_same_work() -> None:
    """Not a benchmark: what is timed below must agree, or the comparison means nothing."""
    r = make(64)
    by_numpy = NumpyRollout(r)
    r.run()
    by_numpy.run()
    for name in ("max_temperature_k", "min_battery_j", "end_temperature_k", "end_battery_j", "compute_j"):
        np.testing.assert_allclose(getattr(by_numpy, name), getattr(r, name), rtol=1e-9, err_msg=name)


def report(benchmark: Any, capsys: Any, what: str) -> None:
    """Put the figure that a reader asks for beside the table, and into the saved results."""
    best_s = benchmark.stats.stats.min
    rollouts_per_s = round(LANES / best_s)
    ns_per_lane_step = round(best_s / (LANES * STEPS) * 1e9, 2)
    benchmark.extra_info.update(rollouts_per_s=rollouts_per_s, ns_per_lane_step=ns_per_lane_step)
    with capsys.disabled():
        print(f"\n{what}: {rollouts_per_s:,} rollouts/s of one orbit, {ns_per_lane_step} ns a lane and step ", end="")


@pytest.mark.benchmark(group=f"rollouts: one orbit, {LANES} lanes x {STEPS} steps x 8 nodes")
@pytest.mark.parametrize("precision", [32, 64], ids=["f32", "f64"])
def test_c_rollouts(benchmark: Any, capsys: Any, precision: int) -> None:
    benchmark(make(precision).run)
    report(benchmark, capsys, f"C, fastest path, f{precision}")


@pytest.mark.benchmark(group=f"rollouts: one orbit, {LANES} lanes x {STEPS} steps x 8 nodes")
@pytest.mark.parametrize("precision", [32, 64], ids=["f32", "f64"])
def test_c_rollouts_baseline_vectors(benchmark: Any, capsys: Any, precision: int) -> None:
    r = make(precision)
    benchmark(lambda: r.run(path=BASE_PATH))
    report(benchmark, capsys, f"C, 128-bit vectors, f{precision}")


@pytest.mark.benchmark(group=f"rollouts: one orbit, {LANES} lanes x {STEPS} steps x 8 nodes")
@pytest.mark.parametrize("precision", [32, 64], ids=["f32", "f64"])
def test_numpy_rollouts(benchmark: Any, capsys: Any, precision: int) -> None:
    benchmark.pedantic(NumpyRollout(make(precision)).run, rounds=5, warmup_rounds=1)
    report(benchmark, capsys, f"NumPy, f{precision}")


@pytest.mark.benchmark(group="rollouts: the governor's check")
@pytest.mark.parametrize("lanes", [1, 8])
def test_one_orbit_for_few_lanes(benchmark: Any, lanes: int) -> None:
    r = make(64)
    benchmark(lambda: r.run(lanes, path=AUTO_PATH))


@pytest.mark.benchmark(group="truth plant: 13 nodes")
@pytest.mark.parametrize("n_steps", [1, 1000], ids=["one step a call", "1000 steps a call"])
def test_plant(benchmark: Any, n_steps: int) -> None:
    plant = Plant()
    m, s = plant.model, plant.state
    m.n_nodes, m.n_links, m.n_compute = 13, 16, 4
    for i in range(13):
        m.heat_capacity_j_k[i], m.radiating_m2[i], s.temperature_k[i] = 500.0, 0.05, 290.0
    for i in range(16):
        m.link_a[i], m.link_b[i], m.link_w_k[i] = i % 13, (i + 1 + i // 13) % 13, 2.0
    m.array_area_m2, m.array_efficiency_frac, m.array_ref_k, m.array_health_frac = 0.3, 0.295, 301.15, 1.0
    m.array_absorptivity_frac, m.mppt_efficiency_frac, m.battery_capacity_j = 0.9, 0.95, 522e3
    m.battery_ocv_v[0], m.battery_resistance_ohm, m.charge_limit_w = 14.4, 0.08, 72.0
    m.taper_start_frac, m.charge_efficiency_frac, m.bus_w, s.battery_j = 0.9, 0.99, 13.0, 400e3
    for i in range(4):
        m.leak_ref_k[i], m.trip_k[i], m.untrip_k[i] = 300.0, 370.0, 350.0
    heat, compute = [1.0] * 13, [14.0] * 4
    benchmark(lambda: plant.advance(700.0, heat, compute, False, 1.0, n_steps))

"""Rollouts of one orbit by the C kernel beside NumPy on the same work, and the truth plant's cost per tick.

The work: 4,096 lanes, 5,400 steps of 1 s, 8 thermal nodes that all radiate and take heat from outside, 32 non-zero
couplings, throttle law on 4 compute nodes, battery. Its speed is also put beside the peak of multiply-adds that
the core reaches in the same run, in the flight build (no contraction, the same bits on every machine) and in a
private build with contraction on.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from c_kernels.build import INCLUDE, NUMERIC, sources
from flightsw.kernels import AUTO_PATH, AVX2_PATH, AVX512_PATH, BASE_PATH, Plant, Rollout, Topology, ffi

LANES, SLOTS, SLOT_STEPS, DT_S = 4096, 18, 300, 1.0  # one orbit of 5,400 s
STEPS = SLOTS * SLOT_STEPS
LINKS = (
    (0, 4), (1, 4), (2, 4), (3, 4), (4, 5), (4, 6), (5, 6), (6, 7),
    (0, 1), (2, 3), (5, 7), (4, 7), (0, 5), (1, 5), (2, 6), (3, 6),
)  # fmt: skip
CONDUCTANCE_W_K = (1.2, 1.2, 1.2, 1.2, 6.0, 0.35, 0.2, 0.1, 0.3, 0.3, 0.05, 0.1, 0.2, 0.2, 0.2, 0.2)
CAPACITY_J_K = (60.0, 60.0, 60.0, 60.0, 900.0, 700.0, 5900.0, 1100.0)
RADIATING_M2 = (0.002, 0.002, 0.002, 0.002, 0.02, 0.12, 0.09, 0.516)
OUTSIDE_W = (0.3, 0.3, 0.3, 0.3, 2.0, 20.0, 9.0, 40.0)
NODES, COMPUTE, ARRAY, BATTERY, BUS = 8, 4, 7, 6, 6
SIGMA = 5.670374419e-8

COUNTING_RULE = "Counted: each + - * / sqrt of the model once; minimum, maximum, compare and select not at all."
FLOPS = (
    3 + 2  # bus and transmitter; throttle by charge
    + 6 * COMPUTE  # throttle by temperature, power, energy drawn, load
    + 24  # array, battery and their heat
    + NODES + (COMPUTE + 3)  # heat from outside scaled; heat of compute nodes, bus, battery and array added
    + NODES * (3 + 5 + 1)  # heat to kelvins and own conduction, radiation, new temperature
    + 2 * 2 * len(LINKS)  # 32 couplings
)  # fmt: skip


def make(precision: int, lanes: int = LANES, *, own_network: bool = False) -> Rollout:
    """A 16U-class satellite: each lane its own policy, activity and start, with `own_network` its own network."""
    top = Topology(NODES, LINKS, range(COMPUTE), ARRAY, BATTERY, BUS, BUS, throttle=True)
    network = ("capacity_j_k", "radiating_m2", "link_w_k") if own_network else ()
    r = Rollout(
        top, n_lanes=lanes, n_steps=STEPS, n_slots=SLOTS, dt_s=DT_S, precision=precision,
        per_lane=("temperature_k", "activity_frac", "battery_j", "bus_w", *network),
    )  # fmt: skip
    rng = np.random.default_rng(1)
    p = r.params
    p["temperature_k"][:] = 290.0 + rng.uniform(0.0, 8.0, p["temperature_k"].shape)
    p["activity_frac"][:] = rng.uniform(0.8, 1.1, p["activity_frac"].shape)
    p["battery_j"][:] = rng.uniform(0.75, 0.9, lanes) * 522e3
    p["bus_w"][:] = rng.uniform(12.0, 14.0, lanes)
    for name, row in (
        ("capacity_j_k", CAPACITY_J_K), ("radiating_m2", RADIATING_M2), ("link_w_k", CONDUCTANCE_W_K),
    ):  # fmt: skip
        p[name][:] = np.array(row)[:, None]
    for name, value in {
        "battery_capacity_j": 522e3, "ocv_empty_v": 13.2, "ocv_full_v": 16.4, "resistance_ohm": 0.08,
        "charge_limit_w": 72.0, "taper_start_frac": 0.93, "charge_eff_frac": 0.99, "array_area_m2": 0.3,
        "array_eff_frac": 0.27, "array_coeff_per_k": -0.0022, "array_absorpt_frac": 0.91, "tx_heat_frac": 0.7,
        "throttle_full_k": 340.0, "throttle_zero_k": 353.0, "throttle_zero_frac": 0.6, "throttle_full_frac": 0.7,
    }.items():  # fmt: skip
        p[name][:] = value
    r.slot_steps[:] = SLOT_STEPS
    r.array_flux_w_m2[: STEPS * 3 // 5] = 1361.0
    r.heat_w[:] = OUTSIDE_W
    r.tx_w[:480] = 18.0
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
        self.radiate = (SIGMA * r.params["radiating_m2"]).astype(real)
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
        q, factor, fourth = np.empty_like(t), np.empty_like(t[:4]), np.empty_like(t)
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
                np.multiply(t, t, out=fourth)
                np.multiply(fourth, fourth, out=fourth)
                np.multiply(fourth, self.radiate, out=fourth)
                q -= fourth
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
    r = make(64, 32)
    by_numpy = NumpyRollout(r)
    r.run()
    by_numpy.run()
    for name in ("max_temperature_k", "min_battery_j", "end_temperature_k", "end_battery_j", "compute_j"):
        np.testing.assert_allclose(getattr(by_numpy, name), getattr(r, name), rtol=1e-9, err_msg=name)


def compile_shared(target: Path, files: list[Path], *options: str) -> ctypes.CDLL:
    """Compile `files` into a library of the benchmark's own and load it; skip where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("not installed: a C compiler")
    command = [compiler, *options, "-shared", "-fPIC", "-I", INCLUDE, "-o", target, *files, "-lm"]
    subprocess.run([str(word) for word in command], check=True)
    return ctypes.CDLL(str(target))


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """GFLOP/s of back-to-back 32-bit multiply-adds, by instruction set; empty where it is not known how."""
    library = compile_shared(
        tmp_path_factory.mktemp("peak") / "peak.so", [Path(__file__).with_name("fma_peak.c")], "-O3"
    )
    found, rounds = {}, 2_000_000
    for name, lanes in (("avx2", 8), ("avx512", 16)):
        if hasattr(library, f"has_{name}") and getattr(library, f"has_{name}")():
            run = getattr(library, f"peak_{name}")
            run.argtypes, run.restype = (ctypes.c_int64,), ctypes.c_float
            times_s = []
            for _ in range(9):
                start_s = time.thread_time()
                run(rounds)
                times_s.append(time.thread_time() - start_s)
            found[name] = rounds * 12 * lanes * 2 / min(times_s) * 1e-9
    return found


@pytest.fixture(scope="module")
def contracted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Rollout, int], None]:
    """The same kernel with contraction on: not bit-identical, not flown, here to show what that costs."""
    files = [path for path in sources("src") if path.stem.startswith("rollout")]
    options = [flag for flag in NUMERIC if not flag.startswith("-ffp-contract")]
    library = compile_shared(
        tmp_path_factory.mktemp("contracted") / "rollout.so", files, *options, "-ffp-contract=fast", "-mavx2", "-mfma"
    )
    run_on = ffi.cast(
        "int (*)(int32_t, struct fsw_rollout_topology *, struct fsw_rollout_inputs *, struct fsw_rollout_results *,"
        " int32_t, void *, int64_t)",
        ctypes.cast(library.fsw_rollout_run_on, ctypes.c_void_p).value,
    )

    def run(r: Rollout, path: int) -> None:
        assert run_on(path, r._topology, r._inputs, r._results, r.precision, r._scratch, r._scratch_len) == 0

    run.library = library  # type: ignore[attr-defined]  # keeps it loaded
    return run


PATHS = {"128-bit vectors": (BASE_PATH, ""), "AVX2": (AVX2_PATH, "avx2"), "AVX-512": (AVX512_PATH, "avx512")}


def report(benchmark: Any, what: str, precision: int, peaks: dict[str, float], peak_of: str = "") -> None:
    """Leave what the summary at the end prints; a 64-bit vector has half the lanes, and half the peak."""
    best_s = benchmark.stats.stats.min
    gflop_per_s = FLOPS * LANES * STEPS / best_s * 1e-9
    benchmark.extra_info.update(
        what=what, precision=precision, rollouts_per_s=round(LANES / best_s), gflop_per_s=round(gflop_per_s, 1),
        ns_per_lane_step=round(best_s / (LANES * STEPS) * 1e9, 3), peaks_f32=peaks,
        counting_rule=f"{COUNTING_RULE} {FLOPS} flops a lane and step.",
    )  # fmt: skip
    if peak_of:
        share = 100.0 * gflop_per_s / (peaks[peak_of] * 32 / precision)
        benchmark.extra_info.update(fma_peak_percent=round(share, 1), peak_of=peak_of)


def skip_without(peaks: dict[str, float], peak_of: str) -> None:
    if peak_of and peak_of not in peaks:
        pytest.skip(f"this machine has no {peak_of}")


# Processor time of the calling thread, as the peak is measured: another program on the core does not count.
ORBIT = pytest.mark.benchmark(
    group=f"rollouts: one orbit, {LANES} lanes x {STEPS} steps x {NODES} nodes", timer=time.thread_time
)


@ORBIT
@pytest.mark.parametrize("precision", [32, 64], ids=["f32", "f64"])
@pytest.mark.parametrize("name", PATHS)
def test_c_rollouts(benchmark: Any, peaks: dict[str, float], name: str, precision: int) -> None:
    path, peak_of = PATHS[name]
    skip_without(peaks, peak_of)
    r = make(precision)
    benchmark.pedantic(lambda: r.run(path=path), rounds=15, warmup_rounds=1)
    report(benchmark, f"C, {name}", precision, peaks, peak_of)


@ORBIT
@pytest.mark.parametrize("name", ["AVX2", "AVX-512"])
def test_c_rollouts_with_a_network_per_lane(benchmark: Any, peaks: dict[str, float], name: str) -> None:
    path, peak_of = PATHS[name]
    skip_without(peaks, peak_of)
    r = make(32, own_network=True)
    benchmark.pedantic(lambda: r.run(path=path), rounds=15, warmup_rounds=1)
    report(benchmark, f"C, {name}, a network per lane", 32, peaks, peak_of)


@ORBIT
@pytest.mark.parametrize("name", ["AVX2", "AVX-512"])
def test_c_rollouts_with_contraction(
    benchmark: Any, peaks: dict[str, float], request: pytest.FixtureRequest, name: str
) -> None:
    path, peak_of = PATHS[name]
    skip_without(peaks, peak_of)
    run = request.getfixturevalue("contracted")
    r = make(32)
    r.run()
    flown_k = r.end_temperature_k.copy()
    benchmark.pedantic(lambda: run(r, path), rounds=15, warmup_rounds=1)
    np.testing.assert_allclose(r.end_temperature_k, flown_k, atol=0.02)
    report(benchmark, f"C, {name}, contraction on (not flown)", 32, peaks, peak_of)


@ORBIT
@pytest.mark.parametrize("precision", [32, 64], ids=["f32", "f64"])
def test_numpy_rollouts(benchmark: Any, peaks: dict[str, float], precision: int) -> None:
    benchmark.pedantic(NumpyRollout(make(precision)).run, rounds=2, warmup_rounds=0)
    report(benchmark, "NumPy", precision, peaks)


@pytest.mark.benchmark(group="rollouts: the governor's check")
@pytest.mark.parametrize("lanes", [1, 8])
def test_one_orbit_for_few_lanes(benchmark: Any, lanes: int) -> None:
    r = make(64, lanes)
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

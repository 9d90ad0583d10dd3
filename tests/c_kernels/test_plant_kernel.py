"""The truth plant against a NumPy reference, `solve_ivp`, an ideal integrator and its own energy account."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from flightsw.errors import KernelError
from flightsw.kernels import Plant, PlantModel, PlantOutput, PlantState, ffi, lib

SIGMA = 5.670374419e-8
N = 13
DIES, MODULES, PLATE, RADIATOR, BUS, BATTERY, ARRAY = range(4), range(4, 8), 8, 9, 10, 11, 12
LINKS = (
    *((die, die + 4, 3.0) for die in DIES),
    *((module, PLATE, 1.2) for module in MODULES),
    (PLATE, RADIATOR, 6.0), (PLATE, BUS, 0.35), (BUS, BATTERY, 0.25), (BUS, ARRAY, 0.1), (4, 5, 0.1), (9, 10, 0.05),
)  # fmt: skip


def make() -> Plant:
    """A 16U-class satellite with four compute nodes."""
    plant = Plant()
    m, s = plant.model, plant.state
    m.n_nodes, m.n_links, m.n_compute = N, len(LINKS), 4
    m.heat_capacity_j_k[0:N] = [25.0] * 4 + [120.0] * 4 + [900.0, 700.0, 5000.0, 900.0, 1100.0]
    m.radiating_m2[RADIATOR], m.radiating_m2[BUS], m.radiating_m2[ARRAY] = 0.14 * 0.87, 0.2 * 0.45, 0.3 * 1.72
    for i, (a, b, w_k) in enumerate(LINKS):
        m.link_a[i], m.link_b[i], m.link_w_k[i] = a, b, w_k
    m.array_node, m.array_area_m2, m.array_efficiency_frac, m.array_ref_k = ARRAY, 0.3, 0.295, 301.15
    m.array_temp_coeff_per_k, m.array_health_frac = -0.0022, 0.96
    m.array_absorptivity_frac, m.mppt_efficiency_frac = 0.91, 0.95
    m.battery_node, m.battery_capacity_j, m.battery_resistance_ohm = BATTERY, 522e3, 0.08
    m.battery_ocv_v[0:4] = [13.2, 4.6, -3.0, 1.6]
    m.charge_limit_w, m.taper_start_frac, m.charge_efficiency_frac = 72.0, 0.93, 0.99
    m.cutoff_frac, m.restart_frac = 0.6, 0.65
    m.heater_node[0], m.heater_w[0], m.heater_on_k[0], m.heater_off_k[0] = BATTERY, 6.0, 278.15, 281.15
    m.bus_node, m.bus_w, m.tx_w, m.tx_heat_frac = BUS, 13.0, 18.0, 0.7
    for i in DIES:
        m.die_node[i], m.module_node[i], m.die_heat_frac[i] = i, i + 4, 0.7
        m.leakage_per_k[i], m.leak_ref_k[i] = 0.002, 300.0
        m.trip_k[i], m.untrip_k[i], m.trip_w[i] = 368.15, 353.15, 4.0
    s.temperature_k[0:N] = [292.0 + i for i in range(N)]
    s.battery_j = 0.8 * m.battery_capacity_j
    return plant


def ideal(plant: Plant) -> Plant:
    """No loss, no taper, no limit, no temperature: what an ideal integrator does."""
    m = plant.model
    m.battery_resistance_ohm, m.charge_efficiency_frac, m.taper_start_frac, m.charge_limit_w = 0.0, 1.0, 1.0, 1e9
    m.array_temp_coeff_per_k, m.cutoff_frac, m.restart_frac = 0.0, 0.0, 0.0
    m.n_compute, m.heater_w[0] = 0, 0.0
    return plant


class Reference:
    """The same plant in NumPy with the network as a matrix; kept in the order a reader thinks of it."""

    def __init__(self, plant: Plant) -> None:
        m, s = plant.model, plant.state
        self.m, self.t = m, np.array([s.temperature_k[i] for i in range(N)])
        self.e, self.on, self.brownout = s.battery_j, False, False
        self.tripped = [False] * m.n_compute
        self.capacity = np.array([m.heat_capacity_j_k[i] for i in range(N)])
        self.area = np.array([m.radiating_m2[i] for i in range(N)])
        self.matrix = np.zeros((N, N))
        for a, b, w_k in LINKS:
            self.matrix[[a, b], [a, b]] += w_k
            self.matrix[[a, b], [b, a]] -= w_k
        self.sums = dict.fromkeys(("harvested_j", "consumed_j", "shunted_j", "battery_loss_j", "unmet_j"), 0.0)

    def compute(self, command_w: list[float]) -> np.ndarray:
        m, out = self.m, []
        for i, command in enumerate(command_w):
            die_k = self.t[m.die_node[i]]
            if die_k >= m.trip_k[i]:
                self.tripped[i] = True
            elif die_k < m.untrip_k[i]:
                self.tripped[i] = False
            w = min(command, m.trip_w[i]) if self.tripped[i] else command
            out.append(w * np.clip(1 + m.leakage_per_k[i] * (die_k - m.leak_ref_k[i]), 0.5, 2.0))
        return np.array(out)

    def step(self, flux: float, heat_w: list[float], command_w: list[float], tx_on: bool, dt_s: float) -> None:
        m = self.m
        frac = self.e / m.battery_capacity_j
        self.on = self.t[BATTERY] < m.heater_on_k[0] or (self.on and not self.t[BATTERY] > m.heater_off_k[0])
        heater = m.heater_w[0] if self.on else 0.0
        tx = m.tx_w if tx_on else 0.0
        derate = max(0.0, 1 + m.array_temp_coeff_per_k * (self.t[ARRAY] - m.array_ref_k))
        cells = m.array_efficiency_frac * m.array_health_frac * m.mppt_efficiency_frac * derate
        available = flux * m.array_area_m2 * cells
        compute = self.compute(command_w)
        load = m.bus_w + tx + heater
        if self.brownout and frac >= m.restart_frac:
            self.brownout = False
        if frac <= m.cutoff_frac and available < load + compute.sum():
            self.brownout = True
        compute = compute * (not self.brownout)
        load += compute.sum()

        wanted = available - load
        taper = (1 - frac) / (1 - m.taper_start_frac) if frac > m.taper_start_frac else 1.0
        wanted = min(wanted, m.charge_limit_w * taper)
        c0, c1, c2, c3 = (m.battery_ocv_v[i] for i in range(4))
        ocv = c0 + c1 * frac + c2 * frac**2 + c3 * frac**3
        r = m.battery_resistance_ohm
        ampere = (math.sqrt(ocv**2 + 4 * r * wanted) - ocv) / (2 * r)
        stored = ocv * ampere * (m.charge_efficiency_frac if wanted > 0 else 1.0)
        assert 0 < self.e + stored * dt_s < m.battery_capacity_j, "the reference knows no full or empty pack"
        self.e += stored * dt_s
        drawn = available if wanted < 0 else load + wanted
        for name, power in (
            ("harvested_j", drawn), ("consumed_j", load), ("shunted_j", available - drawn),
            ("battery_loss_j", wanted - stored),
        ):  # fmt: skip
            self.sums[name] += power * dt_s

        heat = np.array(heat_w)
        heat[ARRAY] += m.array_absorptivity_frac * m.array_area_m2 * flux - drawn
        heat[BATTERY] += wanted - stored + heater
        heat[BUS] += m.bus_w + tx * m.tx_heat_frac
        for i, power in enumerate(compute):
            heat[m.die_node[i]] += 0.7 * power
            heat[m.module_node[i]] += 0.3 * power

        def slope(t: np.ndarray) -> np.ndarray:
            return (heat - self.matrix @ t - SIGMA * self.area * t**4) / self.capacity

        k1 = slope(self.t)
        k2 = slope(self.t + dt_s / 2 * k1)
        k3 = slope(self.t + dt_s / 2 * k2)
        k4 = slope(self.t + dt_s * k3)
        self.t = self.t + dt_s / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def temperatures(plant: Plant) -> np.ndarray:
    return np.array([plant.state.temperature_k[i] for i in range(N)])


def test_python_names_are_the_header_s() -> None:
    for kind, ctype in ((PlantModel, "model"), (PlantState, "state"), (PlantOutput, "output")):
        fields = dict(ffi.typeof(f"struct fsw_plant_{ctype}").fields)
        declared = {name: note for name, note in kind.__annotations__.items() if not name.startswith("_")}
        assert list(declared) == list(fields)
        for name, field in fields.items():
            is_array, item = field.type.kind == "array", field.type
            item = item.item if is_array else item
            expected = {("double", False): "float", ("double", True): "FloatArray",
                        ("int32_t", False): "int", ("int32_t", True): "IntArray"}  # fmt: skip
            assert declared[name] == expected[item.cname, is_array], name


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), charge=st.floats(0.58, 0.97), dt_s=st.floats(0.2, 4.0))
def test_plant_equals_the_numpy_reference(seed: int, charge: float, dt_s: float) -> None:
    rng = np.random.default_rng(seed)
    plant = make()
    plant.state.battery_j = charge * 522e3
    plant.state.temperature_k[0:N] = list(rng.uniform(270.0, 375.0, N))
    by_numpy = Reference(plant)
    for _ in range(12):
        flux, tx_on = float(rng.choice([0.0, 700.0, 1361.0])), bool(rng.integers(2))
        heat, compute = list(rng.uniform(0.0, 40.0, N)), list(rng.uniform(0.0, 30.0, 4))
        steps = int(rng.integers(1, 40))
        plant.advance(flux, heat, compute, tx_on, dt_s, steps)
        for _ in range(steps):
            by_numpy.step(flux, heat, compute, tx_on, dt_s)
    np.testing.assert_allclose(temperatures(plant), by_numpy.t, rtol=1e-10)
    assert plant.state.battery_j == pytest.approx(by_numpy.e, rel=1e-9)
    assert bool(plant.state.brownout) == by_numpy.brownout
    assert [bool(plant.state.tripped[i]) for i in range(4)] == by_numpy.tripped
    for name, joule in by_numpy.sums.items():
        assert getattr(plant.state, name) == pytest.approx(joule, rel=1e-9, abs=1e-3), name


def test_network_agrees_with_solve_ivp() -> None:
    """13 nodes with T^4 and loads that step every 10 minutes, an hour and a half: within 1 uK at 1 s steps."""
    plant = make()
    m = plant.model
    m.array_efficiency_frac, m.heater_w[0], m.battery_resistance_ohm, m.bus_w = 0.0, 0.0, 0.0, 0.0
    m.cutoff_frac, m.restart_frac, m.array_absorptivity_frac = 0.0, 0.0, 0.0
    for i in DIES:
        m.leakage_per_k[i] = 0.0
    reference = Reference(plant)
    exact = reference.t
    for segment in range(9):
        compute = [22.0 if (segment + i) % 3 == 0 else 4.5 for i in DIES]
        heat = [0.0] * N
        heat[ARRAY], heat[RADIATOR] = 300.0 if segment < 6 else 0.0, 20.0
        plant.advance(0.0, heat, compute, False, 1.0, 600)
        held = np.array(heat)
        held[:4] += 0.7 * np.array(compute)
        held[4:8] += 0.3 * np.array(compute)
        exact = solve_ivp(
            lambda _, t, q=held: (q - reference.matrix @ t - SIGMA * reference.area * t**4) / reference.capacity,
            (0.0, 600.0), exact, method="DOP853", rtol=1e-10, atol=1e-10,
        ).y[:, -1]  # fmt: skip
    assert np.abs(temperatures(plant) - exact).max() < 1e-6


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.0, 522e3),
    st.lists(st.tuples(st.floats(0.0, 3000.0), st.floats(0.0, 400.0)), min_size=1, max_size=60),
    st.sampled_from([0.5, 1.0, 3.0]),
)
def test_without_losses_the_pack_is_an_ideal_integrator(
    start_j: float, hours: list[tuple[float, float]], dt_s: float
) -> None:
    plant = ideal(make())
    m = plant.model
    m.array_area_m2, m.array_efficiency_frac, m.array_health_frac, m.mppt_efficiency_frac = 1.0, 1.0, 1.0, 1.0
    m.array_absorptivity_frac = 1.0
    plant.state.battery_j = expected = start_j
    for flux_w, load_w in hours:
        m.bus_w = load_w
        plant.advance(flux_w, [0.0] * N, [], False, dt_s, 1)
        expected = min(max(expected + (flux_w - load_w) * dt_s, 0.0), 522e3)
        assert plant.state.battery_j == expected  # exactly


@settings(max_examples=30, deadline=None)
@given(
    charge=st.floats(0.0, 1.0),
    flux=st.lists(st.sampled_from([0.0, 300.0, 1361.0, 20e3]), min_size=1, max_size=6),
    load_w=st.floats(0.0, 120.0),
    resistance_ohm=st.sampled_from([0.0, 0.08, 3.0]),
    dt_s=st.floats(0.1, 4.0),
)
def test_no_energy_appears_or_vanishes(
    charge: float, flux: list[float], load_w: float, resistance_ohm: float, dt_s: float
) -> None:
    """Full, empty, browned out or beyond the pack's greatest power: the account closes."""
    plant = make()
    m, s = plant.model, plant.state
    m.battery_resistance_ohm = resistance_ohm
    s.battery_j = start_j = charge * m.battery_capacity_j
    available_j = 0.0
    for w_m2 in flux:
        for _ in range(50):
            plant.advance(w_m2, [0.0] * N, [load_w / 4] * 4, True, dt_s, 1)
            available_j += plant.output.array_available_w * dt_s
    scale = available_j + s.consumed_j + 522e3
    assert s.harvested_j - s.consumed_j - s.battery_loss_j == pytest.approx(s.battery_j - start_j, abs=1e-9 * scale)
    assert s.harvested_j + s.shunted_j == pytest.approx(available_j, abs=1e-9 * scale)
    assert min(s.harvested_j, s.consumed_j, s.shunted_j, s.battery_loss_j, s.unmet_j) > -1e-6
    assert 0.0 <= s.battery_j <= m.battery_capacity_j


def test_heat_is_conserved_without_radiators() -> None:
    plant = make()
    m, s = plant.model, plant.state
    for i in range(N):
        m.radiating_m2[i] = 0.0
    m.tx_heat_frac = 1.0
    before = temperatures(plant)
    plant.advance(400.0, [1.0] * N, [10.0] * 4, True, 1.0, 900)
    capacity = np.array([m.heat_capacity_j_k[i] for i in range(N)])
    sunlight = 0.91 * 0.3 * 400.0 * 900
    put_in = 13.0 * 900 + sunlight - s.harvested_j + s.consumed_j + s.battery_loss_j
    assert (capacity * (temperatures(plant) - before)).sum() == pytest.approx(put_in, rel=1e-9)


def test_one_call_of_many_steps_equals_many_calls_of_one() -> None:
    once, often = make(), make()
    once.advance(900.0, [2.0] * N, [15.0] * 4, True, 0.5, 700)
    for _ in range(700):
        often.advance(900.0, [2.0] * N, [15.0] * 4, True, 0.5, 1)
    assert bytes(ffi.buffer(once.state)) == bytes(ffi.buffer(often.state))
    assert bytes(ffi.buffer(once.output)) == bytes(ffi.buffer(often.output))


def test_bits_are_those_of_every_machine() -> None:
    """Taken on x86-64; a change here is a change of the model, and recorded runs no longer replay."""
    plant = make()
    for minute in range(200):
        plant.advance(1361.0 if minute % 90 < 55 else 0.0, [3.0] * N, [float(minute % 23)] * 4, minute < 8, 1.0, 60)
    bits = hashlib.sha256(bytes(ffi.buffer(plant.state)) + bytes(ffi.buffer(plant.output)))
    assert bits.hexdigest()[:16] == "d91688a2dbac16b5"


def test_a_hot_die_trips_and_recovers_with_hysteresis() -> None:
    plant = make()
    plant.model.link_w_k[0] = 0.01  # its thermal interface has come off
    seen = []
    for _ in range(4000):
        plant.advance(1361.0, [0.0] * N, [25.0] * 4, False, 1.0, 1)
        seen.append((plant.state.temperature_k[0], plant.state.tripped[0], plant.output.compute_w[0]))
        if plant.state.tripped[0]:
            plant.model.link_w_k[0] = 3.0
    tripped = [k for k, latched, _ in seen if latched]
    assert max(k for k, _, _ in seen) < 369.5
    assert max(watt for k, latched, watt in seen if latched) <= 4.0 * (1 + 0.002 * 70)
    assert min(tripped) < 356.0
    assert not seen[-1][1]


def test_an_empty_pack_browns_compute_out_until_it_has_recovered() -> None:
    plant = make()
    plant.state.battery_j = 0.601 * 522e3
    frac_at_restart = None
    for tick in range(20000):
        flux = 0.0 if tick < 600 else 1361.0
        plant.advance(flux, [0.0] * N, [10.0] * 4, False, 1.0, 1)
        if tick == 599:
            assert plant.state.brownout
            assert sum(plant.output.compute_w[i] for i in DIES) == 0.0
            assert plant.output.bus_total_w >= 13.0
        if tick > 600 and frac_at_restart is None and not plant.state.brownout:
            frac_at_restart = plant.state.battery_j / 522e3
    assert frac_at_restart == pytest.approx(0.65, abs=1e-3)


def test_heater_keeps_its_hysteresis() -> None:
    plant = make()
    m = plant.model
    plant.state.temperature_k[0:N] = [279.0] * N
    m.radiating_m2[BATTERY], m.link_w_k[10] = 0.01, 0.05
    band = []
    for _ in range(3000):
        plant.advance(1361.0, [0.0] * N, [0.0] * 4, False, 5.0, 1)
        band.append((plant.state.temperature_k[BATTERY], plant.state.heater_on[0]))
    assert {on for _, on in band} == {0, 1}
    assert min(k for k, _ in band) > 277.9
    switched = [k for (k, on), (_, was) in zip(band[1:], band, strict=False) if on != was]
    assert all(abs(k - 278.15) < 0.2 or abs(k - 281.15) < 0.2 for k in switched)


SCALARS = [f for f, t in ffi.typeof("struct fsw_plant_model").fields if t.type.cname == "double"]
ARRAYS = [f for f, t in ffi.typeof("struct fsw_plant_model").fields if t.type.cname.startswith("double[")]


def assert_refused(plant: Plant, code: str, *inputs: Any) -> None:
    before = bytes(ffi.buffer(plant.state)), bytes(ffi.buffer(plant.output))
    with pytest.raises(KernelError) as caught:
        plant.advance(*(inputs or (1361.0, [0.0] * N, [10.0] * 4, True, 1.0, 3)))
    assert caught.value.code == getattr(lib, f"FSW_PLANT_E_{code}"), str(caught.value)
    assert before == (bytes(ffi.buffer(plant.state)), bytes(ffi.buffer(plant.output)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", SCALARS + ARRAYS)
def test_a_model_that_is_not_finite_is_refused(name: str, bad: float) -> None:
    plant = make()
    if name in ARRAYS:
        getattr(plant.model, name)[0] = bad
    else:
        setattr(plant.model, name, bad)
    with pytest.raises(KernelError):
        plant.check(1.0)
    before = bytes(ffi.buffer(plant.state))
    with pytest.raises(KernelError):
        plant.advance(1361.0, [0.0] * N, [10.0] * 4, True, 1.0, 3)
    assert bytes(ffi.buffer(plant.state)) == before


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        ("m.n_nodes = 25", "COUNT"), ("m.n_nodes = 0", "COUNT"), ("m.n_links = 65", "COUNT"),
        ("m.n_compute = 9", "COUNT"), ("m.heat_capacity_j_k[3] = 0.0", "NODE"), ("m.radiating_m2[9] = -1.0", "NODE"),
        ("m.link_a[2] = 13", "LINK"), ("m.link_a[0] = m.link_b[0]", "LINK"), ("m.link_w_k[0] = -1.0", "LINK"),
        ("m.array_node = -1", "ARRAY"), ("m.array_health_frac = 1.1", "ARRAY"), ("m.battery_node = 13", "BATTERY"),
        ("m.battery_capacity_j = 0.0", "BATTERY"), ("m.restart_frac = 0.5", "BATTERY"),
        ("m.battery_ocv_v[1] = -14.0", "BATTERY"), ("m.heater_off_k[0] = 278.0", "HEATER"),
        ("m.heater_node[0] = 77", "HEATER"), ("m.bus_node = 13", "LOAD"), ("m.tx_heat_frac = 2.0", "LOAD"),
        ("m.die_node[1] = 13", "COMPUTE"), ("m.untrip_k[0] = 400.0", "COMPUTE"),
        ("m.heat_capacity_j_k[0] = 1.0", "UNSTABLE"), ("s.battery_j = 600e3", "STATE"),
        ("s.temperature_k[4] = float('nan')", "STATE"), ("s.temperature_k[4] = 0.0", "STATE"),
        ("s.tripped[0] = 2", "STATE"), ("s.harvested_j = float('nan')", "STATE"),
    ],
)  # fmt: skip
def test_each_fault_has_its_code(edit: str, code: str) -> None:
    plant = make()
    exec(edit, {"m": plant.model, "s": plant.state})
    if code == "COUNT":
        sizes = [0.0] * max(plant.model.n_nodes, 0), [1.0] * plant.model.n_compute
        with pytest.raises((KernelError, IndexError)) as caught:
            plant.advance(0.0, sizes[0], sizes[1], False, 1.0, 1)
        assert isinstance(caught.value, IndexError) or caught.value.code == lib.FSW_PLANT_E_COUNT
        with pytest.raises(KernelError, match="n_nodes"):
            plant.check(1.0)
    else:
        assert_refused(plant, code)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1e7, 1e9])
def test_bad_inputs_are_refused(bad: float) -> None:
    heat, compute = [0.0] * N, [10.0] * 4
    assert_refused(make(), "INPUT", bad, heat, compute, True, 1.0, 1)
    assert_refused(make(), "INPUT", 1361.0, [*heat[:-1], bad], compute, True, 1.0, 1)
    assert_refused(make(), "INPUT", 1361.0, heat, [*compute[:-1], bad], True, 1.0, 1)
    assert_refused(make(), "STEP", 1361.0, heat, compute, True, bad, 1)
    assert_refused(make(), "STEP", 1361.0, heat, compute, True, 1.0, -1)
    assert_refused(make(), "INPUT", 1361.0, heat[:-1], compute, True, 1.0, 1)
    assert_refused(make(), "INPUT", 1361.0, heat, [*compute, 1.0], True, 1.0, 1)


def test_a_plant_that_runs_away_is_refused_whole() -> None:
    assert_refused(make(), "DIVERGED", 0.0, [1e6] * N, [0.0] * 4, False, 1.0, 500)


def test_no_steps_change_nothing() -> None:
    plant = make()
    before = bytes(ffi.buffer(plant.state))
    plant.advance(1361.0, [0.0] * N, [10.0] * 4, True, 1.0, 0)
    assert bytes(ffi.buffer(plant.state)) == before


def test_a_step_under_what_is_held_is_an_advance_by_one() -> None:
    stepped, advanced = make(), make()
    heat_w, compute_w = [3.0] * stepped.model.n_nodes, [12.0] * stepped.model.n_compute
    for made in (stepped, advanced):
        made.advance(1200.0, heat_w, compute_w, False, 1.0, 1)
    for watts in (0.0, 20.0, 5.0):
        stepped.held.compute_w[0] = watts
        stepped.step(1.0)
        advanced.advance(1200.0, heat_w, [watts, *compute_w[1:]], False, 1.0, 1)
    assert stepped.state.battery_j == advanced.state.battery_j
    assert list(stepped.state.temperature_k) == list(advanced.state.temperature_k)
    stepped.held.compute_w[0] = float("nan")
    with pytest.raises(KernelError):
        stepped.step(1.0)

"""The true satellite: its network against an adaptive solver, its powers, its sensors, its file."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from flightsw import mission as flight_mission
from flightsw.dictionary.sensors import INDEX, SENSORS, fitted_names
from flightsw.errors import ConfigError
from flightsw.guardian import GuardianConfig, InProcessGuardian
from flightsw.state import NodeCap
from hil.plant.environment import TruthEnvironment
from hil.plant.satellite import (
    StartState,
    TruthSatellite,
    disperse,
    load_truth,
    thermal_nodes,
)
from hil.plant.sensors import SensorFault, SensorSuite, sensor_class

ROOT = Path(__file__).resolve().parents[2]
TRUTH_FILE = ROOT / "hil" / "plant" / "compsat_16u.toml"
TRUTH = load_truth(TRUTH_FILE)
SIGMA = 5.670374419e-8
K = 273.15


def surroundings(solar, albedo, infrared, seconds):
    """The same row of the sky for `seconds`."""
    n = seconds + 2

    def rows(value):
        return np.tile(np.asarray(value, float), (n, 1))

    return TruthEnvironment(0.0, np.arange(n, dtype=float), np.zeros((n, 3)), np.ones(n), np.ones(n), rows(solar),
                            rows(albedo), rows(infrared), ())


LIT = ([0, 0, 0, 0, 0, 1361.0], [30.0, 20, 25, 35, 110, 5], [60.0, 55, 58, 57, 190, 10])
DARK = ([0] * 6, [0] * 6, [62.0, 57, 60, 59, 20, 195])


class Load:
    """Jobs of fixed activity; remembers the rates."""

    def __init__(self, activities):
        self._activities = activities
        self.rates = None

    def activities(self):
        return self._activities

    def work(self, now_s, dt_s, rates):
        self.rates = tuple(rates)


def guardian_with(caps_w, lease_s=60.0, lease_max_s=60.0):
    guardian = InProcessGuardian(GuardianConfig((0.5,) * 4, (34.0,) * 4, lease_max_s))
    guardian.renew(0.0, lease_s, [NodeCap(cap_w, 1.0, 0) for cap_w in caps_w])
    return guardian


class Forever:
    """Caps that never expire: the plant alone is looked at."""

    def __init__(self, caps_w):
        self._status = guardian_with(caps_w).status(0.0)

    def status(self, now_s):
        return self._status


def satellite(sky=LIT, seconds=100, caps=None, load=None, truth=TRUTH, start=None, seed=1, faults=()):
    return TruthSatellite(truth, surroundings(*sky, seconds), caps or Forever((25.0, 15.0, 10.0, 0.5)),
                          load or Load((1.0, 0.9, 1.1, None)), start=start or StartState(),
                          sensors=np.random.default_rng(seed), faults=faults)


def slope(truth, sky, draws_w):
    """The satellite's equations written down once more, continuous in time: dT/dt and d(charge)/dt."""
    solar, albedo, infrared = (np.asarray(row, float) for row in sky)
    array, battery, structure, compute = truth.array, truth.battery, truth.structure, truth.compute
    light = solar + albedo

    def radiated(area_emissivity_m2, kelvin):
        return SIGMA * area_emissivity_m2 * kelvin**4

    def rates(_t, y):
        die, module = y[0:4], y[4:8]
        plate, root, tip, bus, cells, panel, charge_j = y[8:15]
        flux = solar[5]
        available = (flux * array.area_m2 * array.efficiency_frac * array.health_frac * array.mppt_frac
                     * (1 + array.temp_coeff_per_k * (panel - K - array.reference_c)))
        draw = np.array(draws_w) * (1 + compute.leakage_per_k * (die - K - compute.leakage_reference_c))
        load = truth.platform.bus_w + draw.sum()
        charge = charge_j / (battery.capacity_wh * 3600)
        wanted = available - load
        if wanted > 0:
            taper = min(1.0, (1 - charge) / (1 - battery.taper_start_frac))
            wanted = min(wanted, battery.charge_limit_w * taper)
        ocv = sum(c * charge**i for i, c in enumerate(battery.ocv_v))
        amps = (-ocv + math.sqrt(ocv**2 + 4 * battery.resistance_ohm * wanted)) / (2 * battery.resistance_ohm)
        stored = ocv * amps * (battery.charge_efficiency_frac if amps > 0 else 1.0)
        drawn = available if wanted < 0 else load + wanted

        to_module = compute.die_to_module_w_k * (die - module)
        to_plate = np.array(compute.module_to_plate_w_k) * (module - plate)
        to_root = structure.plate_to_radiator_w_k * (plate - root)
        to_tip = structure.root_to_tip_w_k * (root - tip)
        to_bus = structure.plate_to_bus_w_k * (plate - bus)
        cells_to_bus = battery.to_bus_w_k * (cells - bus)
        panel_to_bus = array.to_bus_w_k * (panel - bus)
        radiator_in = structure.radiator_absorptivity * light[4] + structure.radiator_emissivity * infrared[4]
        body_in = (np.array(structure.face_area_m2)
                   * (structure.bus_absorptivity * light + structure.bus_emissivity * infrared)).sum()
        panel_in = array.area_m2 * (
            array.absorptivity_front * (flux + albedo[5]) + array.absorptivity_rear * light[4]
            + array.emissivity_front * infrared[5] + array.emissivity_rear * infrared[4]) - drawn
        e = structure.radiator_emissivity
        return np.concatenate((
            (compute.die_heat_frac * draw - to_module) / compute.die_heat_capacity_j_k,
            ((1 - compute.die_heat_frac) * draw + to_module - to_plate) / compute.module_heat_capacity_j_k,
            [
                (to_plate.sum() - to_root - to_bus) / structure.plate_heat_capacity_j_k,
                (structure.root_area_m2 * radiator_in + to_root - to_tip - radiated(structure.root_area_m2 * e, root))
                / structure.root_heat_capacity_j_k,
                (structure.tip_area_m2 * radiator_in + to_tip - radiated(structure.tip_area_m2 * e, tip))
                / structure.tip_heat_capacity_j_k,
                (body_in + truth.platform.bus_w + to_bus + cells_to_bus + panel_to_bus
                 - radiated(sum(structure.face_area_m2) * structure.bus_emissivity, bus))
                / structure.bus_heat_capacity_j_k,
                (wanted - stored - cells_to_bus) / battery.heat_capacity_j_k,
                (panel_in - panel_to_bus
                 - radiated(array.area_m2 * (array.emissivity_front + array.emissivity_rear), panel))
                / array.heat_capacity_j_k,
                stored,
            ]))

    return rates


def state_of(sat):
    total = thermal_nodes(4).total
    return np.array([*(sat.plant.state.temperature_k[i] for i in range(total)), sat.plant.state.battery_j])


@pytest.mark.parametrize("sky", [LIT, DARK], ids=["sun", "eclipse"])
def test_network_follows_an_adaptive_solver(sky):
    seconds = 1800
    sat = satellite(sky, seconds, start=StartState(charge_frac=0.85, body_c=20.0, battery_c=18.0, array_c=10.0))
    scale = TRUTH.compute.draw_scale
    draws_w = [22.2 * scale[0], 13.9 * 0.9 * scale[1], 9.3 * 1.1 * scale[2], 0.42 * scale[3]]
    began = state_of(sat)
    began[-1] = 0.85 * TRUTH.battery.capacity_wh * 3600
    solved = solve_ivp(slope(TRUTH, sky, draws_w), (0.0, seconds), began, method="DOP853", rtol=1e-10, atol=1e-9,
                       t_eval=[60.0, 600.0, seconds])
    for t, expected in zip(solved.t, solved.y.T, strict=True):
        while sat.now_s < t:
            sat.advance()
        found = state_of(sat)
        # Powers are held over a step of 1 s: the fastest node, the panel at sunrise, sees that most.
        assert np.abs(found[:-1] - expected[:-1]).max() < 0.02
        assert abs(found[-1] - expected[-1]) < 40.0  # J, of 515,000


def test_energy_is_accounted_for():
    sat = satellite(seconds=4000, start=StartState(charge_frac=0.7))
    state = sat.plant.state
    began_j, harvested_j, consumed_j, loss_j = (
        state.battery_j, state.harvested_j, state.consumed_j, state.battery_loss_j)
    for _ in range(4000):
        sat.advance()
    gained_j = state.battery_j - began_j
    assert state.harvested_j - harvested_j == pytest.approx(
        state.consumed_j - consumed_j + state.battery_loss_j - loss_j + gained_j, rel=1e-9)
    assert gained_j > 1000.0


def test_a_cap_allows_the_highest_mode_below_it():
    load = Load((1.0, 1.0, 1.0, 1.0))
    sat = satellite(caps=Forever((34.0, 14.999, 15.0, 6.0)), load=load)
    sat.advance()
    assert [TRUTH.compute.modes[i].name for i in sat.modes] == ["max", "10W", "15W", "idle"]
    assert load.rates == (1.175, 0.415, 0.705, 0.0)


def test_a_node_without_a_job_idles_whatever_its_cap():
    load = Load((None, 1.0, None, None))
    sat = satellite(caps=Forever((34.0, 34.0, 6.0, 0.5)), load=load)
    sat.advance()
    watts = [sat.values[INDEX[f"node{i}_w"]] for i in range(4)]
    assert watts[0] == pytest.approx(watts[2] / TRUTH.compute.draw_scale[2], rel=1e-6)
    assert 3.9 < watts[0] < 4.7
    assert watts[1] > 25.0
    assert watts[3] < 0.45
    assert load.rates == (0.0, 1.175, 0.0, 0.0)


def test_an_expired_lease_drops_the_nodes():
    load = Load((1.0,) * 4)
    sat = satellite(caps=guardian_with((34.0,) * 4, lease_s=5.0), load=load)
    drawn_w = []
    for _ in range(10):
        sat.advance()
        drawn_w.append(sat.values[INDEX["node0_w"]])
    assert min(drawn_w[:5]) > 25.0
    assert max(drawn_w[6:]) < 1.0
    assert load.rates == (0.0,) * 4


def test_a_node_protects_itself():
    hot = dataclasses.replace(TRUTH, compute=dataclasses.replace(TRUTH.compute, trip_c=45.0, untrip_c=40.0))
    load = Load((1.0,) * 4)
    sat = satellite(truth=hot, caps=Forever((34.0,) * 4), load=load, seconds=300, start=StartState(body_c=35.0))
    for _ in range(60):
        sat.advance()
        if sat.values[INDEX["node0_w"]] < 4.0:
            break
    sat.advance()
    assert sat.values[INDEX["node0_w"]] < 4.0
    assert load.rates[0] == 0.0


def test_transmitter_loads_the_bus_only_while_it_is_on():
    sat = satellite(DARK)
    sat.advance()
    quiet_w = sat.values[INDEX["bus_w"]]
    sat.set_transmitter(True)
    sat.advance()
    sending_w = sat.values[INDEX["bus_w"]]
    sat.set_transmitter(False)
    sat.advance()
    assert sending_w - quiet_w == pytest.approx(TRUTH.platform.transmitter_w, abs=0.3)  # dies warm and leak
    assert sat.values[INDEX["bus_w"]] == pytest.approx(quiet_w, abs=0.3)


def test_same_seed_same_readings():
    def run(seed):
        sat = satellite(seed=seed)
        readings = []
        for _ in range(50):
            readings.append(tuple(sat.read_sensors(sat.now_s)))
            sat.advance()
        return readings

    assert run(3) == run(3)
    assert run(3) != run(4)


def test_sensors_stay_within_the_accuracy_that_flight_assumes():
    for name in fitted_names(4):
        kind = TRUTH.sensors[sensor_class(name)]
        assert kind.worst_error <= SENSORS[INDEX[name]].accuracy, name
        assert kind.period_s <= SENSORS[INDEX[name]].max_age_s, name


def test_errors_of_readings_are_bounded_and_not_zero():
    suite = SensorSuite(TRUTH.sensors, 4, np.random.default_rng(5))
    truth = [0.5, 80.0, 15.5, -2.0, 0.8, 60.0, 30.0, 25.0, 20.0, 15.0, 60.0] + [50.0, 20.0] * 4
    errors = np.array([[reading.value - value for reading, value in zip(suite.read(float(t), truth), truth,
                                                                        strict=False)]
                       for t in range(2000)])
    bounds = [TRUTH.sensors[sensor_class(name)].worst_error for name in fitted_names(4)]
    assert (np.abs(errors).max(axis=0) <= np.array(bounds) + 1e-9).all()
    assert (errors.std(axis=0) > 0.0).all()


def test_slow_sensors_keep_their_time():
    suite = SensorSuite(TRUTH.sensors, 4, np.random.default_rng(5))
    ages = [t - suite.read(float(t), [0.5] * 19)[INDEX["battery_soc_frac"]].sampled_s for t in range(25)]
    assert ages == [float(t % 10) for t in range(25)]


def test_unfitted_sensors_are_not_there():
    readings = satellite().read_sensors(0.0)
    assert len(readings) == len(SENSORS)
    assert [row.name for row, reading in zip(SENSORS, readings, strict=True) if reading is not None] == list(
        fitted_names(4))


@pytest.mark.parametrize("kind", ["stuck", "nan", "dropout", "bias"])
def test_sensor_faults_begin_and_end(kind):
    healthy, faulty = satellite(seed=9), satellite(seed=9, faults=[SensorFault(10.0, 20.0, "plate_c", kind, 5.0)])
    at = INDEX["plate_c"]
    for t in range(30):
        good, bad = healthy.read_sensors(float(t))[at], faulty.read_sensors(float(t))[at]
        if not 10 <= t < 20:
            assert bad == good
        elif kind == "stuck":
            held = bad.value if t == 10 else held  # noqa: F821 # set in the first faulty second
            assert bad.value == held
            assert bad.sampled_s == t
        elif kind == "nan":
            assert math.isnan(bad.value)
        elif kind == "dropout":
            assert bad.value is None
            assert bad.sampled_s < t or t == 10
        else:
            assert bad.value == pytest.approx(good.value + 5.0)
        healthy.advance()
        faulty.advance()


def test_dispersion_is_seeded_and_bounded():
    again = [disperse(TRUTH, 1.0, np.random.default_rng(2)) for _ in range(2)]
    assert again[0] == again[1] != TRUTH
    assert disperse(TRUTH, 0.0, np.random.default_rng(2)) is TRUTH
    for seed in range(200):
        other = disperse(TRUTH, 1.0, np.random.default_rng(seed))
        assert abs(other.battery.capacity_wh / TRUTH.battery.capacity_wh - 1.0) <= 0.0201
        satellite(truth=other, seconds=5).advance()  # the kernel takes every one of them


def test_truth_is_the_flight_models_satellite_but_not_its_numbers():
    """The same satellite to a few percent, and different in nearly every number."""
    flight = flight_mission.load(ROOT / "missions" / "iss_like.toml")
    truth = TRUTH
    compute = truth.compute
    series_w_k = [1 / (1 / compute.die_to_module_w_k + 1 / w_k) for w_k in compute.module_to_plate_w_k]
    pairs = {
        "array": (truth.array.area_m2 * truth.array.efficiency_frac * truth.array.mppt_frac * truth.array.health_frac,
                  flight.array.area_m2 * flight.array.efficiency_frac * flight.array.mppt_frac
                  * flight.array.health_frac),
        "battery": (truth.battery.capacity_wh, flight.battery.capacity_wh),
        "bus": (truth.platform.bus_w, flight.bus.idle_w),
        "transmitter": (truth.platform.transmitter_w, flight.bus.transmitter_w),
        "radiator": ((truth.structure.root_area_m2 + truth.structure.tip_area_m2)
                     * truth.structure.radiator_emissivity,
                     flight.thermal.radiator_area_m2 * flight.thermal.radiator_emissivity),
        "die": (sum(series_w_k) / 4, flight.thermal.die_to_plate_w_k),
        "heat pipes": (truth.structure.plate_to_radiator_w_k, flight.thermal.plate_to_radiator_w_k),
        **{mode.name: (mode.draw_w, believed.draw_w)
           for mode, believed in zip(compute.modes, flight.compute.modes, strict=True)},
    }
    for name, (true, believed) in pairs.items():
        assert 0.0 < abs(true / believed - 1.0) < 0.06, name
    assert [mode.cap_w for mode in compute.modes] == [mode.cap_w for mode in flight.compute.modes]


def test_bad_truth_files_name_every_problem(tmp_path):
    text = TRUTH_FILE.read_text("utf-8")
    bad = tmp_path / "bad.toml"
    bad.write_text(text.replace("area_m2 = 0.300 ", "area_m2 = 3000.0 ").replace("capacity_wh =", "capacity_kwh =")
                   .replace("bus_w = 13.2", "bus_w = true"))
    with pytest.raises(ConfigError) as caught:
        load_truth(bad)
    message = str(caught.value)
    assert str(bad) in message
    assert "array.area_m2 = 3000.0 is out of range (range 0.01..50 m2)" in message
    assert "battery.capacity_kwh = 143.0: unknown key" in message
    assert "battery.capacity_wh: missing (range 1..100000 Wh)" in message
    assert "platform.bus_w = True: a number is expected" in message


@pytest.mark.parametrize(("old", "new", "expected"), [
    ("untrip_c = 85.0", "untrip_c = 99.0", "untrip_c = 99 degC is not below trip_c"),
    ("draw_scale = [1.00, 0.985, 1.02, 1.01]", "draw_scale = [1.0]", "the same number"),
    ("[sensors.die_c]", "[sensors.dye_c]", "sensors.die_c: missing"),
    ("heater_off_c = 8.3", "heater_off_c = 4.0", "heater_off_c = 4 degC is not above"),
    ("0.0405, 0.0405, 0.0, 0.034]", "0.0405]", "one for each of"),
])
def test_contradictions_are_found(tmp_path, old, new, expected):
    text = TRUTH_FILE.read_text("utf-8")
    assert old in text
    bad = tmp_path / "bad.toml"
    bad.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=expected):
        load_truth(bad)


def test_a_truth_too_fast_for_the_step_is_refused():
    stiff = dataclasses.replace(TRUTH, compute=dataclasses.replace(TRUTH.compute, die_heat_capacity_j_k=1.0))
    with pytest.raises(ConfigError, match="too long for RK4"):
        satellite(truth=stiff)

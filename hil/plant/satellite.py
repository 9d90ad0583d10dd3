"""The true satellite: parameters of its own, the plant kernel, its sensors and its transmitter switch.

It is the `Board` that the flight software meets in the rig, and what the rig's verdicts are taken from. Caps
come from the guardian that the flight software renews, work goes to the runner. It shares no number and no
model code with the flight's forecast; orbit and surroundings come from `hil.plant.environment`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from flightsw.declared import load, number, text
from flightsw.dictionary.sensors import INDEX, SENSORS, fitted_names
from flightsw.errors import ConfigError, KernelError
from flightsw.guardian import GuardianStatus
from flightsw.kernels import Plant
from flightsw.orbit import FACES
from flightsw.physics.units import J_PER_WH, KELVIN
from flightsw.state import NODE_COUNT_MAX, RawReading
from hil.plant.environment import TOTAL_SOLAR_IRRADIANCE_W_M2, TruthEnvironment
from hil.plant.sensors import SensorFault, SensorSuite, TruthSensor, sensor_class

STEP_S = 1.0
"""Step of the plant kernel; within 0.02 K of an adaptive solver on this network (tests/hil)."""

_HEAT_BLOCK_TICKS = 3600
_NADIR, _ZENITH = FACES.index("+z"), FACES.index("-z")


# --- the truth file ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TruthArray:
    """Solar array on face -z; heat of its own sunlight is absorbed less what is drawn."""

    area_m2: float = number("m2", 0.01, 50.0)
    efficiency_frac: float = number("frac", 0.05, 0.45)
    reference_c: float = number("degC", -50.0, 100.0)
    temp_coeff_per_k: float = number("1/K", -0.01, 0.0)
    mppt_frac: float = number("frac", 0.5, 1.0)
    health_frac: float = number("frac", 0.0, 1.0)
    absorptivity_front: float = number("", 0.0, 1.0)
    absorptivity_rear: float = number("", 0.0, 1.0)
    emissivity_front: float = number("", 0.05, 1.0)
    emissivity_rear: float = number("", 0.05, 1.0)
    heat_capacity_j_k: float = number("J/K", 10.0, 1e6)
    to_bus_w_k: float = number("W/K", 0.0, 10.0)


@dataclass(frozen=True, slots=True)
class TruthBattery:
    """Battery: cubic open-circuit voltage, loss, taper, heater, and the power board's own brown-out."""

    capacity_wh: float = number("Wh", 1.0, 1e5)
    ocv_v: tuple[float, ...] = number("V", -200.0, 200.0)
    resistance_ohm: float = number("ohm", 0.0, 2.0)
    charge_limit_w: float = number("W", 1.0, 1e5)
    taper_start_frac: float = number("frac", 0.5, 0.999)
    charge_efficiency_frac: float = number("frac", 0.7, 1.0)
    brownout_frac: float = number("frac", 0.0, 0.9)
    restart_frac: float = number("frac", 0.0, 1.0)
    heat_capacity_j_k: float = number("J/K", 10.0, 1e6)
    to_bus_w_k: float = number("W/K", 0.0, 50.0)
    heater_w: float = number("W", 0.0, 200.0)
    heater_on_c: float = number("degC", -40.0, 40.0)
    heater_off_c: float = number("degC", -40.0, 50.0)


@dataclass(frozen=True, slots=True)
class TruthStructure:
    """Cold plate, radiator in two lumps, and the body; `face_area_m2` follows `flightsw.orbit.FACES`."""

    plate_heat_capacity_j_k: float = number("J/K", 50.0, 1e6)
    plate_to_radiator_w_k: float = number("W/K", 0.1, 500.0)
    plate_to_bus_w_k: float = number("W/K", 0.0, 50.0)
    plate_heater_w: float = number("W", 0.0, 200.0)
    plate_heater_on_c: float = number("degC", -60.0, 40.0)
    plate_heater_off_c: float = number("degC", -60.0, 50.0)
    root_area_m2: float = number("m2", 0.001, 50.0)
    tip_area_m2: float = number("m2", 0.0, 50.0)
    root_heat_capacity_j_k: float = number("J/K", 20.0, 1e6)
    tip_heat_capacity_j_k: float = number("J/K", 20.0, 1e6)
    root_to_tip_w_k: float = number("W/K", 0.1, 500.0)
    radiator_emissivity: float = number("", 0.05, 1.0)
    radiator_absorptivity: float = number("", 0.0, 1.0)
    face_area_m2: tuple[float, ...] = number("m2", 0.0, 50.0)
    bus_emissivity: float = number("", 0.02, 1.0)
    bus_absorptivity: float = number("", 0.0, 1.0)
    bus_heat_capacity_j_k: float = number("J/K", 50.0, 1e7)


@dataclass(frozen=True, slots=True)
class TruthPlatform:
    """Loads besides compute and heaters."""

    bus_w: float = number("W", 0.1, 1000.0)
    transmitter_w: float = number("W", 0.0, 500.0)
    transmitter_heat_frac: float = number("frac", 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class TruthMode:
    """What a node does under a cap of at least `cap_w`: draw at activity 1 and a warm die, and work rate."""

    name: str = text(r"\S.{0,31}", "1..32 characters")
    cap_w: float = number("W", 0.0, 200.0)
    draw_w: float = number("W", 0.0, 200.0)
    rate: float = number("", 0.0, 10.0)


@dataclass(frozen=True, slots=True)
class TruthCompute:
    """Compute nodes, one entry a node where they differ."""

    modes: tuple[TruthMode, ...]
    die_heat_capacity_j_k: float = number("J/K", 1.0, 1e5)
    module_heat_capacity_j_k: float = number("J/K", 1.0, 1e5)
    die_to_module_w_k: float = number("W/K", 0.05, 100.0)
    module_to_plate_w_k: tuple[float, ...] = number("W/K", 0.05, 100.0)
    die_heat_frac: float = number("frac", 0.0, 1.0)
    draw_scale: tuple[float, ...] = number("", 0.5, 2.0)
    leakage_per_k: float = number("1/K", 0.0, 0.05)
    leakage_reference_c: float = number("degC", -40.0, 120.0)
    trip_c: float = number("degC", 40.0, 130.0)
    untrip_c: float = number("degC", 20.0, 130.0)
    trip_w: float = number("W", 0.0, 50.0)
    restore_s: float = number("s", 0.0, 600.0)

    @property
    def nodes(self) -> int:
        """How many nodes there are."""
        return len(self.module_to_plate_w_k)


@dataclass(frozen=True, slots=True)
class Dispersion:
    """One sigma of what a satellite off the same drawings may differ by."""

    array_frac: float = number("frac", 0.0, 0.5)
    battery_capacity_frac: float = number("frac", 0.0, 0.5)
    resistance_frac: float = number("frac", 0.0, 0.5)
    conductance_frac: float = number("frac", 0.0, 0.5)
    heat_capacity_frac: float = number("frac", 0.0, 0.5)
    radiating_frac: float = number("frac", 0.0, 0.5)
    bus_frac: float = number("frac", 0.0, 0.5)
    draw_frac: float = number("frac", 0.0, 0.5)


@dataclass(frozen=True, slots=True)
class Truth:
    """One true satellite."""

    array: TruthArray
    battery: TruthBattery
    structure: TruthStructure
    platform: TruthPlatform
    compute: TruthCompute
    sensors: dict[str, TruthSensor]
    dispersion: Dispersion
    name: str = text(r"[a-z0-9_]{1,40}", "1..40 of a-z, 0-9 and _")
    attitude: str = text(r"sun|nadir", "sun or nadir")


def load_truth(path: Path) -> Truth:
    """Read and check a truth file; ConfigError lists every problem, one a line."""
    truth = load(Truth, path)
    problems = _contradictions(truth)
    if problems:
        raise ConfigError(str(path), "\n  ".join(problems))
    return truth


def _contradictions(truth: Truth) -> list[str]:
    """Relations between keys that no single range can hold."""
    problems = []
    compute, battery, structure = truth.compute, truth.battery, truth.structure
    if not 1 <= compute.nodes <= NODE_COUNT_MAX or len(compute.draw_scale) != compute.nodes:
        problems.append(f"compute: {compute.nodes} module_to_plate_w_k and {len(compute.draw_scale)} draw_scale, "
                        f"the same number 1..{NODE_COUNT_MAX} is expected")
    if len(compute.modes) < 3 or any(mode.rate > 0.0 for mode in compute.modes[:2]):
        problems.append("compute.modes: off and idle (rate 0) and at least one working mode are expected")
    for low, high in itertools.pairwise(compute.modes):
        if high.cap_w <= low.cap_w or high.draw_w <= low.draw_w or high.rate < low.rate:
            problems.append(f"compute.modes: {high.name} does not lie above {low.name} in cap, draw and rate")
    if compute.untrip_c >= compute.trip_c:
        problems.append(f"compute.untrip_c = {compute.untrip_c:g} degC is not below trip_c = {compute.trip_c:g} degC")
    if len(battery.ocv_v) != 4:
        problems.append(f"battery.ocv_v: {len(battery.ocv_v)} coefficients, 4 are expected")
    if battery.restart_frac < battery.brownout_frac:
        problems.append(f"battery.restart_frac = {battery.restart_frac:g} is below brownout_frac")
    for where, on_c, off_c in (("battery.heater", battery.heater_on_c, battery.heater_off_c),
                               ("structure.plate_heater", structure.plate_heater_on_c, structure.plate_heater_off_c)):
        if off_c <= on_c:
            problems.append(f"{where}_off_c = {off_c:g} degC is not above {where}_on_c = {on_c:g} degC")
    if len(structure.face_area_m2) != len(FACES):
        problems.append(f"structure.face_area_m2: {len(structure.face_area_m2)} areas, one for each of {FACES}")
    wanted = {sensor_class(name) for name in fitted_names(1)}
    for name in sorted(wanted ^ set(truth.sensors)):
        problems.append(f"sensors.{name}: {'missing' if name in wanted else 'no such sensor'}")
    return problems


def disperse(truth: Truth, scale: float, generator: np.random.Generator) -> Truth:
    """Return another satellite off the same drawings; `scale` multiplies its dispersion, 0 returns `truth`."""
    if scale == 0.0:
        return truth
    spread = truth.dispersion

    def vary(group: Any, sigma_frac: float, *names: str) -> Any:  # Any: one of several dataclasses
        factors = 1.0 + scale * sigma_frac * np.clip(generator.standard_normal(len(names)), -2.0, 2.0)
        return dataclasses.replace(group, **{
            name: getattr(group, name) * float(factor) for name, factor in zip(names, factors, strict=True)})

    array = vary(truth.array, spread.array_frac, "area_m2")
    array = vary(array, spread.heat_capacity_frac, "heat_capacity_j_k")
    battery = vary(truth.battery, spread.battery_capacity_frac, "capacity_wh")
    battery = vary(battery, spread.resistance_frac, "resistance_ohm")
    battery = vary(battery, spread.heat_capacity_frac, "heat_capacity_j_k")
    structure = vary(truth.structure, spread.conductance_frac, "plate_to_radiator_w_k", "plate_to_bus_w_k")
    structure = vary(structure, spread.radiating_frac, "root_area_m2", "tip_area_m2")
    structure = vary(structure, spread.heat_capacity_frac, "plate_heat_capacity_j_k", "bus_heat_capacity_j_k")
    compute = vary(truth.compute, spread.heat_capacity_frac, "die_heat_capacity_j_k", "module_heat_capacity_j_k")
    nodes = 1.0 + scale * np.clip(generator.standard_normal((2, compute.nodes)), -2.0, 2.0) * np.array(
        [[spread.conductance_frac], [spread.draw_frac]])
    compute = dataclasses.replace(
        compute,
        module_to_plate_w_k=tuple((nodes[0] * compute.module_to_plate_w_k).tolist()),
        draw_scale=tuple((nodes[1] * compute.draw_scale).tolist()),
    )
    platform = vary(truth.platform, spread.bus_frac, "bus_w")
    return dataclasses.replace(truth, array=array, battery=battery, structure=structure, compute=compute,
                               platform=platform)


# --- the satellite -----------------------------------------------------------------------------------


class Caps(Protocol):
    """Where the caps in force are read: the guardian."""

    def status(self, now_s: float) -> GuardianStatus:
        """Return what is in force at `now_s`."""


class Load(Protocol):
    """What runs on the nodes: draws power, gets work done."""

    def activities(self) -> Sequence[float | None]:
        """True activity of each node's job, None where the node has nothing to run."""

    def work(self, now_s: float, dt_s: float, rates: Sequence[float]) -> None:
        """Get work done from `now_s` for `dt_s` at `rates` (units/s); 0 is a node that is off or stopped."""


@dataclass(frozen=True, slots=True)
class StartState:
    """How full and how warm the satellite is when a run begins."""

    charge_frac: float = number("frac", 0.05, 1.0, 0.90)
    body_c: float = number("degC", -60.0, 80.0, 12.0)
    battery_c: float = number("degC", -30.0, 50.0, 14.0)
    array_c: float = number("degC", -120.0, 120.0, 30.0)


class Nodes(NamedTuple):
    """Numbers of the thermal nodes; dies are 0 .. n-1 and modules n .. 2n-1."""

    plate: int
    root: int
    tip: int
    bus: int
    battery: int
    array: int
    total: int


def thermal_nodes(count: int) -> Nodes:
    """Thermal nodes of a satellite with `count` compute nodes."""
    first = 2 * count
    return Nodes(first, first + 1, first + 2, first + 3, first + 4, first + 5, first + 6)


def fill_model(plant: Plant, truth: Truth) -> None:
    """Write the truth into a plant's model."""
    m, at = plant.model, thermal_nodes(truth.compute.nodes)
    array, battery, structure, compute = truth.array, truth.battery, truth.structure, truth.compute
    dies, modules = range(compute.nodes), range(compute.nodes, 2 * compute.nodes)
    m.n_nodes, m.n_compute = at.total, compute.nodes
    capacities = {
        **dict.fromkeys(dies, compute.die_heat_capacity_j_k),
        **dict.fromkeys(modules, compute.module_heat_capacity_j_k),
        at.plate: structure.plate_heat_capacity_j_k, at.root: structure.root_heat_capacity_j_k,
        at.tip: structure.tip_heat_capacity_j_k, at.bus: structure.bus_heat_capacity_j_k,
        at.battery: battery.heat_capacity_j_k, at.array: array.heat_capacity_j_k,
    }
    for node, capacity_j_k in capacities.items():
        m.heat_capacity_j_k[node] = capacity_j_k
    m.radiating_m2[at.root] = structure.root_area_m2 * structure.radiator_emissivity
    m.radiating_m2[at.tip] = structure.tip_area_m2 * structure.radiator_emissivity
    m.radiating_m2[at.bus] = sum(structure.face_area_m2) * structure.bus_emissivity
    m.radiating_m2[at.array] = array.area_m2 * (array.emissivity_front + array.emissivity_rear)
    links = [
        *((die, module, compute.die_to_module_w_k) for die, module in zip(dies, modules, strict=True)),
        *((module, at.plate, w_k) for module, w_k in zip(modules, compute.module_to_plate_w_k, strict=True)),
        (at.plate, at.root, structure.plate_to_radiator_w_k), (at.root, at.tip, structure.root_to_tip_w_k),
        (at.plate, at.bus, structure.plate_to_bus_w_k), (at.battery, at.bus, battery.to_bus_w_k),
        (at.array, at.bus, array.to_bus_w_k),
    ]
    m.n_links = len(links)
    for i, (a, b, w_k) in enumerate(links):
        m.link_a[i], m.link_b[i], m.link_w_k[i] = a, b, w_k
    m.array_node = at.array
    m.array_area_m2, m.array_efficiency_frac = array.area_m2, array.efficiency_frac
    m.array_ref_k, m.array_temp_coeff_per_k = array.reference_c + KELVIN, array.temp_coeff_per_k
    m.array_health_frac, m.mppt_efficiency_frac = array.health_frac, array.mppt_frac
    m.array_absorptivity_frac = array.absorptivity_front
    m.battery_node, m.battery_capacity_j = at.battery, battery.capacity_wh * J_PER_WH
    for i, coefficient_v in enumerate(battery.ocv_v):
        m.battery_ocv_v[i] = coefficient_v
    m.battery_resistance_ohm, m.charge_limit_w = battery.resistance_ohm, battery.charge_limit_w
    m.taper_start_frac, m.charge_efficiency_frac = battery.taper_start_frac, battery.charge_efficiency_frac
    m.cutoff_frac, m.restart_frac = battery.brownout_frac, battery.restart_frac
    heaters = (
        (at.battery, battery.heater_w, battery.heater_on_c, battery.heater_off_c),
        (at.plate, structure.plate_heater_w, structure.plate_heater_on_c, structure.plate_heater_off_c),
    )
    for i, (node, watts, on_c, off_c) in enumerate(heaters):
        m.heater_node[i], m.heater_w[i] = node, watts
        m.heater_on_k[i], m.heater_off_k[i] = on_c + KELVIN, off_c + KELVIN
    m.bus_node, m.bus_w = at.bus, truth.platform.bus_w
    m.tx_w, m.tx_heat_frac = truth.platform.transmitter_w, truth.platform.transmitter_heat_frac
    for i in dies:
        m.die_node[i], m.module_node[i], m.die_heat_frac[i] = i, compute.nodes + i, compute.die_heat_frac
        m.leakage_per_k[i], m.leak_ref_k[i] = compute.leakage_per_k, compute.leakage_reference_c + KELVIN
        m.trip_k[i], m.untrip_k[i] = compute.trip_c + KELVIN, compute.untrip_c + KELVIN
        m.trip_w[i] = compute.trip_w


def absorbed_w(truth: Truth, around: TruthEnvironment, rows: slice) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Heat (rows, thermal nodes) that reaches each node from outside, without the array's own sunlight."""
    array, structure, at = truth.array, truth.structure, thermal_nodes(truth.compute.nodes)
    albedo, infrared = around.albedo_w_m2[rows], around.infrared_w_m2[rows]
    light = around.solar_w_m2[rows] + albedo
    heat = np.zeros((len(light), at.total))
    radiator = structure.radiator_absorptivity * light[:, _NADIR] + structure.radiator_emissivity * infrared[:, _NADIR]
    heat[:, at.root] = structure.root_area_m2 * radiator
    heat[:, at.tip] = structure.tip_area_m2 * radiator
    heat[:, at.bus] = (structure.bus_absorptivity * light + structure.bus_emissivity * infrared) @ np.array(
        structure.face_area_m2)
    heat[:, at.array] = array.area_m2 * (
        array.absorptivity_front * albedo[:, _ZENITH] + array.emissivity_front * infrared[:, _ZENITH]
        + array.absorptivity_rear * light[:, _NADIR] + array.emissivity_rear * infrared[:, _NADIR])
    return heat


class TruthSatellite:
    """One true satellite in its surroundings; `now_s` is where it stands, in whole ticks of one second.

    `values` are the true values of the fitted sensors in the dictionary's order, `modes` what the caps in force
    let each node do. From `node_lost_s[i]` on node i draws nothing, works nothing and answers nothing. Faults are edits
    of `plant.model`, of `stray_w` (what each node draws beside its load) and calls of the methods below.
    Implements `flightsw.board.base.Board`. Raises ConfigError for a truth that the kernel refuses.
    """

    def __init__(self, truth: Truth, around: TruthEnvironment, caps: Caps, load: Load, *, start: StartState,
                 sensors: np.random.Generator, faults: Sequence[SensorFault] = (),
                 node_lost_s: Sequence[float] = ()) -> None:
        self.truth = truth
        self.plant = Plant()
        self.transmitting = False
        self.tick = 0
        self.modes: Sequence[int] = (0,) * truth.compute.nodes
        self.stray_w = [0.0] * truth.compute.nodes
        self._around = around
        self._caps = caps
        self._load = load
        self._nodes = truth.compute.nodes
        self._at = thermal_nodes(self._nodes)
        self._capacity_j = truth.battery.capacity_wh * J_PER_WH
        self._draw_w = [[mode.draw_w * scale for mode in truth.compute.modes] for scale in truth.compute.draw_scale]
        self._rates = [mode.rate for mode in truth.compute.modes]
        self._mode_of_cap: dict[float, int] = {}
        self._flux: list[float] = []
        self._sun: list[float] = []
        self._heat: list[list[float]] = []
        self._block_from = 0
        self._lost_s = tuple(node_lost_s)
        gone = [SensorFault(lost_s, math.inf, f"{what.format(node)}", "dropout", 0.0)
                for node, lost_s in enumerate(self._lost_s) if lost_s < math.inf for what in ("die{}_c", "node{}_w")]
        self._next_loss_s = min(self._lost_s, default=math.inf)
        self._suite = SensorSuite(truth.sensors, self._nodes, sensors, [*faults, *gone])
        fill_model(self.plant, truth)
        try:
            self.plant.check(STEP_S)
        except KernelError as error:
            raise ConfigError(truth.name, str(error)) from error
        state = self.plant.state
        for node in range(self._at.total):
            state.temperature_k[node] = start.body_c + KELVIN
        state.temperature_k[self._at.battery] = start.battery_c + KELVIN
        state.temperature_k[self._at.array] = start.array_c + KELVIN
        state.battery_j = start.charge_frac * self._capacity_j
        self._load_block()
        # Powers of the first instant, before anything has run.
        self.plant.advance(self._flux[0], self._heat[0], [row[0] for row in self._draw_w], False, 1e-6, 1)
        self.values: Sequence[float] = self._true_values()

    @property
    def now_s(self) -> float:
        """Time that the truth has reached."""
        return self.tick * STEP_S

    @property
    def around(self) -> TruthEnvironment:
        """The surroundings as they are, faults included."""
        return self._around

    def inject(self, fault: SensorFault) -> None:
        """Spoil a sensor from now or later on."""
        self._suite.inject(fault)

    def remember(self, sensor: str) -> None:
        """Keep a sensor's past for a fault that may come."""
        self._suite.remember(sensor)

    def scale_battery(self, capacity_factor: float, resistance_factor: float, returned_j: float = 0.0) -> float:
        """Change the pack; return the charge that went with lost cells, J. Cells that come back bring `returned_j`."""
        model, state = self.plant.model, self.plant.state
        model.battery_capacity_j *= capacity_factor
        model.battery_resistance_ohm *= resistance_factor
        self._capacity_j = model.battery_capacity_j
        before_j = state.battery_j
        kept_j = before_j * min(1.0, capacity_factor)
        state.battery_j = min(kept_j + returned_j, self._capacity_j)
        return before_j - kept_j

    def shade(self, seconds: int) -> None:
        """Take the Sun away for `seconds` from now on: an eclipse that no orbit knows."""
        around = self._around
        lit = np.ones(around.t_s.size)
        lit[self.tick:self.tick + seconds] = 0.0
        self._around = dataclasses.replace(
            around, illumination_frac=around.illumination_frac * lit, direct_w_m2=around.direct_w_m2 * lit,
            solar_w_m2=around.solar_w_m2 * lit[:, np.newaxis])
        self._load_block()

    @property
    def charge_frac(self) -> float:
        """True state of charge."""
        return self.plant.state.battery_j / self._capacity_j

    def read_sensors(self, now_s: float) -> Sequence[RawReading | None]:
        """See `Board`."""
        return self._suite.read(now_s, self.values)

    def _true_values(self) -> list[float]:
        out, state, at = self.plant.output, self.plant.state, self._at
        kelvin, watts = state.temperature_k, out.compute_w
        values = [
            self._sun[self.tick - self._block_from], out.array_w, out.battery_v, out.battery_a,
            state.battery_j / self._capacity_j, out.bus_total_w, kelvin[at.plate] - KELVIN, kelvin[at.root] - KELVIN,
            kelvin[at.bus] - KELVIN, kelvin[at.battery] - KELVIN, kelvin[at.array] - KELVIN,
        ]
        for i in range(self._nodes):
            values.append(kelvin[i] - KELVIN)
            values.append(watts[i])
        return values

    def set_transmitter(self, on: bool) -> None:
        """See `Board`."""
        self.transmitting = on

    def describe(self) -> tuple[str, ...]:
        """See `Board`."""
        return (f"true satellite {self.truth.name}: {self._nodes} compute nodes, {self._at.total} thermal nodes, "
                f"{len(fitted_names(self._nodes))} sensors",)

    def advance(self) -> None:
        """Move one tick on under the caps in force: nodes draw, work, heat and cool."""
        load, state = self._load, self.plant.state
        modes, draws_w, rates = [], [], []
        for node, in_force, activity in zip(range(self._nodes), self._caps.status(self.now_s).nodes,
                                            load.activities(), strict=True):
            mode = self._mode_of_cap.get(in_force.cap_w)
            if mode is None:
                mode = self._mode_of_cap[in_force.cap_w] = self._highest_mode(in_force.cap_w)
            modes.append(mode)
            if activity is None:
                draws_w.append(self._draw_w[node][min(mode, 1)])
                rates.append(0.0)
            else:
                draws_w.append(self._draw_w[node][mode] * (activity if mode > 1 else 1.0))
                rates.append(0.0 if state.tripped[node] or state.brownout else self._rates[mode])
        if self.now_s >= self._next_loss_s:
            for node, lost_s in enumerate(self._lost_s):
                if self.now_s >= lost_s:
                    modes[node], draws_w[node], rates[node] = 0, 0.0, 0.0
        for node, stray_w in enumerate(self.stray_w):
            draws_w[node] += stray_w
        self.modes = modes
        row = self.tick - self._block_from
        self.plant.advance(self._flux[row], self._heat[row], draws_w, self.transmitting, STEP_S, 1)
        load.work(self.now_s, STEP_S, rates)
        self.tick += 1
        if self.tick - self._block_from == len(self._heat):
            self._load_block()
        self.values = self._true_values()

    def _highest_mode(self, cap_w: float) -> int:
        """The highest mode whose clocks a cap allows; off below all."""
        return max((i for i, mode in enumerate(self.truth.compute.modes) if mode.cap_w <= cap_w + 1e-6), default=0)

    def _load_block(self) -> None:
        """Turn the next hour of the surroundings into lists, which the kernel's door takes fastest."""
        rows = slice(self.tick, self.tick + _HEAT_BLOCK_TICKS)
        self._block_from = self.tick
        self._flux = self._around.array_flux_w_m2[rows].tolist()
        self._sun = (self._around.array_flux_w_m2[rows] / TOTAL_SOLAR_IRRADIANCE_W_M2).tolist()
        self._heat = absorbed_w(self.truth, self._around, rows).tolist()


_ORDER = tuple(row.name for row in SENSORS[:11])
if _ORDER != ("sun_frac", "array_w", "battery_v", "battery_a", "battery_soc_frac", "bus_w", "plate_c", "radiator_c",
              "bus_c", "battery_c", "array_c") or INDEX["node0_w"] != 12:
    raise RuntimeError(f"the dictionary's sensors {_ORDER} are not those that `_true_values` lists")

"""Mission file (TOML) -> frozen, bounded description of one satellite as the flight software believes it.

Every key is declared once, below, with unit and range. An unknown, missing or out-of-range key is an
error that names file, key, value and range; all errors of a file are reported together and nothing is
flown. The rig's truth has files and numbers of its own and never reads these.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
from dataclasses import dataclass
from pathlib import Path

from flightsw.declared import Reader, number, parse_toml, problems_error, read_text, text
from flightsw.dictionary import parameters
from flightsw.dictionary.commands import COMMANDS
from flightsw.state import NODE_COUNT_MAX


@dataclass(frozen=True, slots=True)
class Station:
    """A ground station; passes count from `min_elevation_deg`. `may_send` are patterns of verbs."""

    name: str
    latitude_deg: float = number("deg", -90.0, 90.0)
    longitude_deg: float = number("deg", -180.0, 180.0)
    altitude_m: float = number("m", -500.0, 9000.0)
    min_elevation_deg: float = number("deg", 0.0, 60.0)
    may_send: tuple[str, ...] = ("*",)


@dataclass(frozen=True, slots=True)
class OrbitConfig:
    """Where the satellite flies: a two-line element set and the moment the mission starts (UTC)."""

    tle: str
    start_utc: str


@dataclass(frozen=True, slots=True)
class ArrayConfig:
    """Solar array. Power = irradiance x cosine x area x efficiency(T) x MPPT x health.

    `attitude`: "sun" turns the body so that the wings face the Sun and the radiator deep space; "nadir" keeps
    the radiator on the Earth and the wings on the zenith.
    """

    attitude: str
    area_m2: float = number("m2", 0.01, 50.0)
    efficiency_frac: float = number("frac", 0.05, 0.45)
    reference_c: float = number("degC", -50.0, 100.0)
    temp_coeff_per_k: float = number("1/K", -0.01, 0.0)
    mppt_frac: float = number("frac", 0.5, 1.0)
    health_frac: float = number("frac", 0.3, 1.0)
    absorptivity: float = number("", 0.0, 1.0)
    emissivity_both: float = number("", 0.1, 2.0)
    heat_capacity_j_k: float = number("J/K", 10.0, 1e6)


@dataclass(frozen=True, slots=True)
class BatteryConfig:
    """Battery pack at its terminals; charge power tapers linearly from `taper_start_frac` to zero at full."""

    capacity_wh: float = number("Wh", 1.0, 1e5)
    resistance_ohm: float = number("ohm", 0.0, 2.0)
    empty_v: float = number("V", 3.0, 200.0)
    full_v: float = number("V", 3.0, 200.0)
    charge_limit_w: float = number("W", 1.0, 1e5)
    taper_start_frac: float = number("frac", 0.5, 0.999)
    charge_efficiency_frac: float = number("frac", 0.7, 1.0)
    heat_capacity_j_k: float = number("J/K", 10.0, 1e6)
    to_bus_w_k: float = number("W/K", 0.0, 50.0)
    heater_w: float = number("W", 0.0, 200.0)
    heater_on_c: float = number("degC", -20.0, 30.0)
    heater_off_c: float = number("degC", -20.0, 40.0)


@dataclass(frozen=True, slots=True)
class ThermalConfig:
    """Flight thermal network: dies -> plate -> radiator, plate -> bus, battery -> bus."""

    die_heat_capacity_j_k: float = number("J/K", 5.0, 1e5)
    die_to_plate_w_k: float = number("W/K", 0.05, 100.0)
    plate_heat_capacity_j_k: float = number("J/K", 50.0, 1e6)
    plate_to_radiator_w_k: float = number("W/K", 0.1, 500.0)
    plate_to_bus_w_k: float = number("W/K", 0.0, 50.0)
    radiator_area_m2: float = number("m2", 0.01, 50.0)
    radiator_emissivity: float = number("", 0.1, 1.0)
    radiator_absorptivity: float = number("", 0.0, 1.0)
    radiator_heat_capacity_j_k: float = number("J/K", 50.0, 1e6)
    bus_area_m2: float = number("m2", 0.01, 50.0)
    bus_emissivity: float = number("", 0.05, 1.0)
    bus_absorptivity: float = number("", 0.0, 1.0)
    bus_heat_capacity_j_k: float = number("J/K", 50.0, 1e7)


@dataclass(frozen=True, slots=True)
class BusConfig:
    """Platform loads."""

    idle_w: float = number("W", 0.5, 1000.0)
    transmitter_w: float = number("W", 0.0, 500.0)
    transmitter_heat_frac: float = number("frac", 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class PowerMode:
    """One power mode of a compute node: cap, draw at activity 1, work rate relative to the reference mode.

    `clock_khz` is what the board's cpufreq limit is set to (0: the board's own maximum).
    """

    name: str
    cap_w: float = number("W", 0.0, 200.0)
    draw_w: float = number("W", 0.0, 200.0)
    rate: float = number("", 0.0, 10.0)
    clock_khz: int = number("kHz", 0, 10_000_000)


@dataclass(frozen=True, slots=True)
class ComputeConfig:
    """The compute nodes, all alike. `modes` ascend in power; the first two are off and idle."""

    modes: tuple[PowerMode, ...]
    nodes: int = number("", 1, NODE_COUNT_MAX)
    restore_s: float = number("s", 0.0, 600.0)


@dataclass(frozen=True, slots=True)
class MarginConfig:
    """How wrong the flight model may be, as fractions and kelvins: the governor's pessimistic corner."""

    array_frac: float = number("frac", 0.0, 0.5)
    battery_capacity_frac: float = number("frac", 0.0, 0.5)
    radiating_frac: float = number("frac", 0.0, 0.5)
    bus_frac: float = number("frac", 0.0, 0.5)
    draw_frac: float = number("frac", 0.0, 0.5)
    environment_frac: float = number("frac", 0.0, 0.5)
    temperature_k: float = number("K", 0.0, 20.0)


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """Identity on the link (CCSDS 133.0-B-2, 132.0-B-3), the serial line, the stack over it, and who may command.

    `security`: "authenticated" (commands encrypted and authenticated, telemetry authenticated), "encrypted" (telemetry
    as well) or "clear", for tests alone: anyone at the line can command.

    `compress_housekeeping`: housekeeping goes down by CCSDS 124.0-B; the ground takes both as they come.

    `framing`: "cadu" (TM frames and CLTUs) or "cobs" (packets, for a bench). `frame_octets`: 223, or 1115 with
    interleave 5. `reed_solomon` adds a (255,223) code to the TM frames.
    """

    spacecraft_id: int = number("", 0, 1023)
    apid: int = number("", 1, 2039)
    baud: int = number("baud", 1200, 12_000_000)
    store_octets: int = number("octets", 4096, 1_000_000_000)
    framing: str = text("cadu|cobs", "'cadu' or 'cobs'", "cadu")
    reed_solomon: bool = False
    compress_housekeeping: bool = False
    frame_octets: int = number("octets", 223, 1115, 223)
    security: str = text("authenticated|encrypted|clear", "'authenticated', 'encrypted' or 'clear'", "authenticated")


@dataclass(frozen=True, slots=True)
class Mission:
    """One satellite. `parameters` are start values of `dictionary.parameters`, all of them.

    `flight` says that this one really flies: a simulated satellite's readings are refused then.
    """

    name: str
    description: str
    source: str
    safe_exit_autonomous: bool
    orbit: OrbitConfig
    array: ArrayConfig
    battery: BatteryConfig
    thermal: ThermalConfig
    bus: BusConfig
    compute: ComputeConfig
    margins: MarginConfig
    link: LinkConfig
    stations: tuple[Station, ...]
    parameters: dict[str, float]
    flight: bool = False


def load(path: Path) -> Mission:
    """Read and check a mission file; ConfigError lists every problem, one a line."""
    return parse(read_text(path), str(path))


def parse(text: str, where: str) -> Mission:
    """Read and check the text of a mission file; `where` names it in errors."""
    return from_table(parse_toml(text, where), where)


def from_table(table: object, where: str) -> Mission:
    """Check a mission that is already TOML's tables; ConfigError lists every problem, one a line."""
    reader = Reader()
    mission = reader.build(Mission, table)
    reader.problems.extend(_parameter_problems(table))
    if mission is not None and not reader.problems:
        values = {row.name: float(mission.parameters.get(row.name, row.default)) for row in parameters.PARAMETERS}
        mission = dataclasses.replace(mission, parameters=values)
        reader.problems.extend(_consistency_problems(mission))
    if mission is None or reader.problems:
        raise problems_error(where, reader.problems)
    return mission


def _parameter_problems(table: object) -> list[str]:
    """What is wrong with the numbers in `[parameters]`, by the ranges of the dictionary."""
    given = table.get("parameters") if isinstance(table, dict) else None
    numbers = {
        name: value for name, value in (given if isinstance(given, dict) else {}).items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    problems = (parameters.check_value(name, value) for name, value in numbers.items())
    return [f"parameters: {problem}" for problem in problems if problem]


def _consistency_problems(mission: Mission) -> list[str]:
    """Relations between keys that no single range can hold."""
    problems = []
    modes = mission.compute.modes
    if len(modes) < 3:
        problems.append(f"compute.modes: {len(modes)} modes, at least off, idle and one working mode")
    for before, after in itertools.pairwise(modes):
        if after.draw_w <= before.draw_w or after.rate < before.rate or after.cap_w < before.cap_w:
            problems.append(f"compute.modes: {after.name} does not lie above {before.name} in power and rate")
    if any(mode.rate > 0.0 for mode in modes[:2]):
        problems.append("compute.modes: the first two modes are off and idle and do no work (rate 0)")
    for mode in modes[2:]:
        if mode.rate <= 0.0:
            problems.append(f"compute.modes: {mode.name} is a working mode and does no work (rate {mode.rate:g})")
    if mission.battery.full_v <= mission.battery.empty_v:
        problems.append(f"battery.full_v = {mission.battery.full_v:g} V is not above empty_v "
                        f"= {mission.battery.empty_v:g} V")
    if mission.battery.heater_off_c <= mission.battery.heater_on_c:
        problems.append(f"battery.heater_off_c = {mission.battery.heater_off_c:g} degC is not above "
                        f"heater_on_c = {mission.battery.heater_on_c:g} degC")
    floor, cutoff = mission.parameters["battery_floor_frac"], mission.parameters["battery_cutoff_frac"]
    if floor <= cutoff:
        problems.append(f"parameters: battery_floor_frac = {floor:g} is not above "
                        f"battery_cutoff_frac = {cutoff:g}")
    if mission.array.attitude not in {"sun", "nadir"}:
        problems.append(f"array.attitude = {mission.array.attitude!r}: 'sun' (tracks the Sun) or 'nadir' "
                        f"(body-fixed, zenith side)")
    if mission.link.frame_octets not in {223, 1115}:
        problems.append(f"link.frame_octets = {mission.link.frame_octets}: 223 octets, or 1115 (interleave 5)")
    if mission.link.framing == "cobs" and mission.link.reed_solomon:
        problems.append("link.reed_solomon = true: framing 'cobs' has no blocks of one length to code")
    problems += [f"stations: {station.name} may_send {pattern!r}, which is no telecommand"
                 for station in mission.stations for pattern in station.may_send
                 if not fnmatch.filter(COMMANDS, pattern)]
    names = [station.name for station in mission.stations]
    if not names or len(set(names)) != len(names):
        problems.append(f"stations: at least one, with different names; found {names}")
    return problems

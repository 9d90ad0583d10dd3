"""Mission file (TOML) -> frozen, bounded description of one satellite as the flight software believes it.

Every key is declared once, below, with unit and range. An unknown, missing or out-of-range key is an
error that names file, key, value and range; all errors of a file are reported together and nothing is
flown. The rig's truth has files and numbers of its own and never reads these.
"""

from __future__ import annotations

import dataclasses
import itertools
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from flightsw.dictionary import parameters
from flightsw.errors import ConfigError
from flightsw.state import NODE_COUNT_MAX

T = TypeVar("T")


def _q(unit: str, low: float, high: float) -> Any:  # Any: dataclasses.field returns Any by design
    """Declare a required number with its unit and inclusive range."""
    return dataclasses.field(metadata={"unit": unit, "low": low, "high": high})


@dataclass(frozen=True, slots=True)
class Station:
    """A ground station; passes count from `min_elevation_deg`."""

    name: str
    latitude_deg: float = _q("deg", -90.0, 90.0)
    longitude_deg: float = _q("deg", -180.0, 180.0)
    altitude_m: float = _q("m", -500.0, 9000.0)
    min_elevation_deg: float = _q("deg", 0.0, 60.0)


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
    area_m2: float = _q("m2", 0.01, 50.0)
    efficiency_frac: float = _q("frac", 0.05, 0.45)
    reference_c: float = _q("degC", -50.0, 100.0)
    temp_coeff_per_k: float = _q("1/K", -0.01, 0.0)
    mppt_frac: float = _q("frac", 0.5, 1.0)
    health_frac: float = _q("frac", 0.3, 1.0)
    absorptivity: float = _q("", 0.0, 1.0)
    emissivity_both: float = _q("", 0.1, 2.0)
    heat_capacity_j_k: float = _q("J/K", 10.0, 1e6)


@dataclass(frozen=True, slots=True)
class BatteryConfig:
    """Battery pack at its terminals; charge power tapers linearly from `taper_start_frac` to zero at full."""

    capacity_wh: float = _q("Wh", 1.0, 1e5)
    resistance_ohm: float = _q("ohm", 0.0, 2.0)
    empty_v: float = _q("V", 3.0, 200.0)
    full_v: float = _q("V", 3.0, 200.0)
    charge_limit_w: float = _q("W", 1.0, 1e5)
    taper_start_frac: float = _q("frac", 0.5, 0.999)
    charge_efficiency_frac: float = _q("frac", 0.7, 1.0)
    heat_capacity_j_k: float = _q("J/K", 10.0, 1e6)
    to_bus_w_k: float = _q("W/K", 0.0, 50.0)
    heater_w: float = _q("W", 0.0, 200.0)
    heater_on_c: float = _q("degC", -20.0, 30.0)
    heater_off_c: float = _q("degC", -20.0, 40.0)


@dataclass(frozen=True, slots=True)
class ThermalConfig:
    """Flight thermal network: dies -> plate -> radiator, plate -> bus, battery -> bus."""

    die_heat_capacity_j_k: float = _q("J/K", 5.0, 1e5)
    die_to_plate_w_k: float = _q("W/K", 0.05, 100.0)
    plate_heat_capacity_j_k: float = _q("J/K", 50.0, 1e6)
    plate_to_radiator_w_k: float = _q("W/K", 0.1, 500.0)
    plate_to_bus_w_k: float = _q("W/K", 0.0, 50.0)
    radiator_area_m2: float = _q("m2", 0.01, 50.0)
    radiator_emissivity: float = _q("", 0.1, 1.0)
    radiator_absorptivity: float = _q("", 0.0, 1.0)
    radiator_heat_capacity_j_k: float = _q("J/K", 50.0, 1e6)
    bus_area_m2: float = _q("m2", 0.01, 50.0)
    bus_emissivity: float = _q("", 0.05, 1.0)
    bus_absorptivity: float = _q("", 0.0, 1.0)
    bus_heat_capacity_j_k: float = _q("J/K", 50.0, 1e7)


@dataclass(frozen=True, slots=True)
class BusConfig:
    """Platform loads."""

    idle_w: float = _q("W", 0.5, 1000.0)
    transmitter_w: float = _q("W", 0.0, 500.0)
    transmitter_heat_frac: float = _q("frac", 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class PowerMode:
    """One power mode of a compute node: cap, draw at activity 1, work rate relative to the reference mode.

    `clock_khz` is what the board's cpufreq limit is set to (0: the board's own maximum).
    """

    name: str
    cap_w: float = _q("W", 0.0, 200.0)
    draw_w: float = _q("W", 0.0, 200.0)
    rate: float = _q("", 0.0, 10.0)
    clock_khz: int = _q("kHz", 0, 10_000_000)


@dataclass(frozen=True, slots=True)
class ComputeConfig:
    """The compute nodes, all alike. `modes` ascend in power; the first two are off and idle."""

    nodes: int = _q("", 1, NODE_COUNT_MAX)
    restore_s: float = _q("s", 0.0, 600.0)
    modes: tuple[PowerMode, ...] = ()


@dataclass(frozen=True, slots=True)
class MarginConfig:
    """How wrong the flight model may be, as fractions and kelvins: the governor's pessimistic corner."""

    array_frac: float = _q("frac", 0.0, 0.5)
    battery_capacity_frac: float = _q("frac", 0.0, 0.5)
    radiating_frac: float = _q("frac", 0.0, 0.5)
    bus_frac: float = _q("frac", 0.0, 0.5)
    draw_frac: float = _q("frac", 0.0, 0.5)
    environment_frac: float = _q("frac", 0.0, 0.5)
    temperature_k: float = _q("K", 0.0, 20.0)


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """Identity on the link (CCSDS 133.0-B-2, 132.0-B-3) and the serial line."""

    spacecraft_id: int = _q("", 0, 1023)
    apid: int = _q("", 1, 2039)
    baud: int = _q("baud", 1200, 12_000_000)
    store_octets: int = _q("octets", 4096, 1_000_000_000)


@dataclass(frozen=True, slots=True)
class Mission:
    """One satellite. `parameters` are start values of `dictionary.parameters`, all of them."""

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


_KIND_TEXT: dict[object, str] = {bool: "true or false", str: "a text", int: "a whole number", float: "a number"}


class _Reader:
    """Collects every problem of one file, so that an author sees all of them at once."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.problems: list[str] = []

    def build(self, cls: type[T], table: object, path: str) -> T | None:
        """Build dataclass `cls` from a TOML table; None when something was wrong with it."""
        if not isinstance(table, dict):
            self.problems.append(f"{path.rstrip('.')} = {table!r}: a table is expected")
            return None
        hints = get_type_hints(cls)
        fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type] # T is a dataclass
        before = len(self.problems)
        for key in table:
            if key not in fields:
                self.problems.append(f"{path}{key}: unknown key; known here: {', '.join(sorted(fields))}")
        values: dict[str, object] = {}
        for name, field in fields.items():
            if name in table:
                values[name] = self._value(hints[name], table[name], f"{path}{name}", field.metadata)
            else:
                self.problems.append(f"{path}{name}: missing{_range_text(field.metadata)}")
        return cls(**values) if len(self.problems) == before else None

    def _value(self, kind: Any, raw: object, path: str, bounds: Any) -> object:  # Any: typing's own objects
        if dataclasses.is_dataclass(kind):
            return self.build(kind, raw, path + ".")  # type: ignore[arg-type] # a dataclass type, not instance
        if get_origin(kind) is tuple:
            item = get_args(kind)[0]
            if not isinstance(raw, list):
                self.problems.append(f"{path} = {raw!r}: an array of tables is expected")
                return ()
            return tuple(self.build(item, entry, f"{path}[{i}].") for i, entry in enumerate(raw))
        if get_origin(kind) is dict:
            return self._parameters(raw, path)
        if kind is bool or kind is str:
            if not isinstance(raw, kind):
                self.problems.append(f"{path} = {raw!r}: {_KIND_TEXT[kind]} is expected")
            return raw
        if isinstance(raw, bool) or not isinstance(raw, int if kind is int else (int, float)):
            self.problems.append(f"{path} = {raw!r}: {_KIND_TEXT[kind]} is expected{_range_text(bounds)}")
            return raw
        if not bounds["low"] <= raw <= bounds["high"]:  # false for NaN as well
            self.problems.append(f"{path} = {raw!r} is out of range{_range_text(bounds)}")
            return raw
        return raw if kind is int else float(raw)

    def _parameters(self, raw: object, path: str) -> dict[str, float]:
        values = {row.name: row.default for row in parameters.PARAMETERS}
        if not isinstance(raw, dict):
            self.problems.append(f"{path} = {raw!r}: a table is expected")
            return values
        for key, value in raw.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                self.problems.append(f"{path}.{key} = {value!r}: a number is expected")
                continue
            problem = parameters.check_value(key, value)
            if problem:
                self.problems.append(f"{path}: {problem}")
            else:
                values[key] = float(value)
        return values


def _range_text(bounds: Any) -> str:  # Any: a dataclass field's metadata mapping
    if "unit" not in bounds:
        return ""
    unit = f" {bounds['unit']}" if bounds["unit"] else ""
    return f" (range {bounds['low']:g}..{bounds['high']:g}{unit})"


def read_toml(path: Path) -> dict[str, Any]:  # Any: TOML values
    """Read a TOML file; ConfigError names the file and, for a syntax error, line and column."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
    except ValueError as error:  # also text that is no UTF-8 and numbers of thousands of digits
        raise ConfigError(str(path), f"is not valid TOML: {error}") from error


def load(path: Path) -> Mission:
    """Read and check a mission file; ConfigError lists every problem, one a line."""
    reader = _Reader(str(path))
    mission = reader.build(Mission, read_toml(path), "")
    if mission is not None:
        reader.problems.extend(_consistency_problems(mission))
    if mission is None or reader.problems:
        raise ConfigError(str(path), "\n  ".join(reader.problems))
    return mission


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
    names = [station.name for station in mission.stations]
    if not names or len(set(names)) != len(names):
        problems.append(f"stations: at least one, with different names; found {names}")
    return problems

"""Any Linux board's own sensors: thermal zones, hwmon chips, power meters (powercap) and battery gauges in sysfs.

Owns the mapping from device files to the dictionary's sensors, and their units. A board is a list of candidates
for each sensor (`raspberry_pi.py`, `jetson.py`, `CANDIDATES` here) that a board file may replace; the first
candidate whose device is there serves the sensor. Called by the supervisor once a tick. Writes nothing: power
caps are the guardian's alone.

A sensor without a device is not fitted; a device that does not answer, or answers something that is no number,
gives no value. What is fitted is found at the start; a device that comes back is found again, under whatever number
the system gives it then.

A read opens the file, takes at most 64 octets and closes it: some 10 us. It never waits for data, but a driver may
hold it for as long as its bus transfer takes. One that hangs for good stops the loop, and that is what the lease on
the caps is for: they fall to the floor without us.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from flightsw.dictionary.sensors import INDEX, SENSORS, fitted_names
from flightsw.errors import ConfigError
from flightsw.state import NODE_COUNT_MAX, RawReading

SYSFS: Final = Path("/sys")

_NUMBER: Final = re.compile(rb"\s*([+-]?\d{1,18}(?:\.\d{1,9})?)\s*")
_READ_OCTETS: Final = 64
_LOOK_AGAIN_S: Final = 10.0
_J_PER_UJ: Final = 1e-6
_UNIT_OF_CLASS: Final = {"temp": 1e-3, "in": 1e-3, "curr": 1e-3, "power": 1e-6}  # hwmon: m degC, mV, mA, uW
_POWER_SUPPLY_UNIT: Final = {"capacity": 1e-2, "voltage_now": 1e-6, "current_now": 1e-6, "temp": 0.1}
_LABEL: Final = re.compile(r"(temp|in|curr|power)\d+_label")
_CAP_UNITS: Final = ("uw", "mw", "w")


class Candidate(NamedTuple):
    """Where a sensor's value may come from. Empty fields do not matter; `value * scale + offset` is the reading.

    `kind` says how the other fields are meant:
    - `zone`: thermal zone of type `match`;
    - `hwmon`: chip of name `match` (empty: any), its file `file` or, without one, the input labelled `label`;
    - `rail`: power of the hwmon rail labelled `label`: its power input, or else its voltage times its current;
    - `powercap`: power of the zone of name `match`, from the rise of its energy counter;
    - `gauge`: property `file` of a power supply of type `match`;
    - `path`: the file `file` below the root.
    """

    sensor: str
    kind: str
    match: str = ""
    file: str = ""
    label: str = ""
    scale: float = 1.0
    offset: float = 0.0

    def __str__(self) -> str:
        """Return what is looked for, as an operator would say it."""
        words = [self.kind, self.match, self.label and f"label {self.label}", self.file]
        return " ".join(word for word in words if word)


class BoardFile(NamedTuple):
    """What a board file says: candidates that replace the board's for the sensors they name, and the
    guardian's options for this board (cap files, watchdog).
    """

    candidates: tuple[Candidate, ...] = ()
    guardian_options: tuple[str, ...] = ()


CANDIDATES: Final = (
    Candidate("die0_c", "zone", "x86_pkg_temp"),
    Candidate("die0_c", "zone", "cpu-thermal"),
    Candidate("die0_c", "zone", "cpu_thermal"),
    Candidate("die0_c", "hwmon", "coretemp", "temp1_input"),
    Candidate("die0_c", "hwmon", "k10temp", "temp1_input"),
    Candidate("node0_w", "powercap", "package-0"),
    Candidate("battery_soc_frac", "gauge", "Battery", "capacity"),
    Candidate("battery_v", "gauge", "Battery", "voltage_now"),
    Candidate("battery_c", "gauge", "Battery", "temp"),
)
"""A personal computer or a board without a file of its own. A gauge's current is left out: its sign is the
driver's, and charging must not be taken for discharging.
"""


class _Device(NamedTuple):
    """A found device: what it is called in a report, and the function that reads it (None: no value)."""

    where: str
    read: Callable[[float], float | None]


class LinuxBoard:
    """A `Board` made of sysfs files below `root`."""

    def __init__(self, candidates: Sequence[Candidate], root: Path = SYSFS, nodes: int = NODE_COUNT_MAX) -> None:
        """Look for every candidate's device; `nodes` bounds what `describe` expects."""
        self._root = root
        self._nodes = nodes
        self._candidates: dict[int, list[Candidate]] = {}
        for candidate in candidates:
            self._candidates.setdefault(INDEX[candidate.sensor], []).append(candidate)
        self._devices: dict[int, _Device] = {}
        self._readings: list[RawReading | None] = [None] * len(SENSORS)
        self._look_again_at_s: dict[int, float] = {}
        for i in self._candidates:
            self._look_for(i)

    def read_sensors(self, now_s: float) -> Sequence[RawReading | None]:
        """See `Board`. A device that fails is looked for again every 10 s."""
        readings = self._readings
        for i, device in self._devices.items():
            value = device.read(now_s)
            readings[i] = RawReading(value, now_s)
            if value is not None:
                self._look_again_at_s.pop(i, None)
            elif now_s >= self._look_again_at_s.setdefault(i, now_s + _LOOK_AGAIN_S):
                del self._look_again_at_s[i]
                self._look_for(i)
        return tuple(readings)

    def set_transmitter(self, on: bool) -> None:
        """See `Board`. A radio on a serial line keys itself when it is given octets: nothing is switched."""

    def describe(self) -> tuple[str, ...]:
        """One line for each expected sensor: its device, or what was looked for in vain."""
        lines = []
        for name in fitted_names(self._nodes):
            i = INDEX[name]
            device = self._devices.get(i)
            if device is not None:
                lines.append(f"{name:<17} {device.where}")
            elif i in self._candidates:
                sought = "; ".join(map(str, self._candidates[i]))
                lines.append(f"{name:<17} not fitted: found no {sought}")
            else:
                lines.append(f"{name:<17} not fitted: this board has no device for it; a board file may name one")
        return tuple(lines)

    @property
    def fitted(self) -> frozenset[str]:
        """Names of the sensors that have a device."""
        return frozenset(SENSORS[i].name for i in self._devices)

    def _look_for(self, i: int) -> None:
        """Serve sensor `i` by its first candidate that is there; one that was there once stays fitted."""
        for candidate in self._candidates[i]:
            device = _FINDERS[candidate.kind](self._root, candidate)
            if device is not None:
                self._devices[i] = device
                return


def load_board_file(path: Path) -> BoardFile:
    """Read a board file. ConfigError lists everything that is wrong with it, and where.

    Tables `[[sensor]]` have the fields of `Candidate`; `[[cap]]` names a node's cap file: `node`, `path` and `unit`
    (uw, mw or w); `watchdog` is the path of the hardware watchdog. All are optional.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"is not valid TOML: {error}") from error
    problems = [f"{key}: unknown key; known here: cap, sensor, watchdog" for key in table.keys() - _TOP_KEYS]
    candidates = []
    options: list[str] = []
    for kind, rows in (("sensor", table.get("sensor", [])), ("cap", table.get("cap", []))):
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            problems.append(f"{kind}: an array of tables is expected ([[{kind}]])")
            continue
        for at, row in enumerate(rows):
            before = len(problems)
            problems += [f"{kind}[{at}]: {text}" for text in _problems_of(kind, row)]
            if len(problems) > before:
                continue
            if kind == "sensor":
                candidates.append(Candidate(**row))
            else:
                node = row["node"]
                options += ["--cap-path", f"{node}={row['path']}", "--cap-unit", f"{node}={row.get('unit', 'mw')}"]
    watchdog = table.get("watchdog")
    if isinstance(watchdog, str) and watchdog:
        options += ["--watchdog", watchdog]
    elif watchdog is not None:
        problems.append(f"watchdog = {watchdog!r}: the path of a device is expected")
    if problems:
        raise ConfigError(str(path), "\n  ".join(problems))
    return BoardFile(tuple(candidates), tuple(options))


def merge(defaults: Sequence[Candidate], chosen: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Return `chosen` and those of `defaults` whose sensors it does not name."""
    named = {candidate.sensor for candidate in chosen}
    return (*chosen, *(candidate for candidate in defaults if candidate.sensor not in named))


_TOP_KEYS: Final = frozenset({"sensor", "cap", "watchdog"})
_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "zone": ("match",), "hwmon": (), "rail": ("label",), "powercap": ("match",), "gauge": ("match", "file"),
    "path": ("file",),
}


def _problems_of(kind: str, row: Mapping[str, object]) -> list[str]:
    if kind == "cap":
        unknown = row.keys() - {"node", "path", "unit"}
        problems = [f"{key}: unknown key; known here: node, path, unit" for key in unknown]
        node, file, unit = row.get("node"), row.get("path"), row.get("unit", "mw")
        if isinstance(node, bool) or not isinstance(node, int) or not 0 <= node < NODE_COUNT_MAX:
            problems.append(f"node = {node!r}: a whole number 0..{NODE_COUNT_MAX - 1} is expected")
        if not isinstance(file, str) or not file:
            problems.append(f"path = {file!r}: the path of the cap file is expected")
        if unit not in _CAP_UNITS:
            problems.append(f"unit = {unit!r}: one of {', '.join(_CAP_UNITS)} is expected")
        return problems
    fields = Candidate._fields
    problems = [f"{key}: unknown key; known here: {', '.join(fields)}" for key in row.keys() - set(fields)]
    if row.get("sensor") not in INDEX:
        problems.append(f"sensor = {row.get('sensor')!r}: no sensor of the dictionary")
    needed = _NEEDS.get(str(row.get("kind")))
    if needed is None:
        problems.append(f"kind = {row.get('kind')!r}: one of {', '.join(_NEEDS)} is expected")
    else:
        problems += [f"{key}: missing, needed for kind {row['kind']}" for key in needed if not row.get(key)]
        if row["kind"] == "hwmon" and not (row.get("file") or row.get("label")):
            problems.append("file or label: missing, needed for kind hwmon")
    for key in ("match", "file", "label"):
        if not isinstance(row.get(key, ""), str):
            problems.append(f"{key} = {row[key]!r}: a text is expected")
    for key in ("scale", "offset"):
        value = row.get(key, 1.0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            problems.append(f"{key} = {value!r}: a number is expected")
    return problems


# --- finding devices ---------------------------------------------------------------------------------


def _find_zone(root: Path, candidate: Candidate) -> _Device | None:
    for folder in _folders(root / "class" / "thermal", "thermal_zone*"):
        if _text(folder / "type") == candidate.match:
            return _of_file(root, folder / "temp", candidate, 1e-3, f"thermal zone {candidate.match}")
    return None


def _find_hwmon(root: Path, candidate: Candidate) -> _Device | None:
    for folder in _folders(root / "class" / "hwmon", "hwmon*"):
        chip = _text(folder / "name")
        if candidate.match and chip != candidate.match:
            continue
        inputs = _labelled(folder, candidate.label)
        file = folder / candidate.file if candidate.file else next(iter(inputs.values()), None)
        if file is not None and file.exists():
            unit = _UNIT_OF_CLASS.get(re.match(r"[a-z]*", file.name)[0], 1.0)  # type: ignore[index] # always matches
            return _of_file(root, file, candidate, unit, f"hwmon {chip or folder.name} {candidate.label}".rstrip())
    return None


def _find_rail(root: Path, candidate: Candidate) -> _Device | None:
    for folder in _folders(root / "class" / "hwmon", "hwmon*"):
        chip = _text(folder / "name")
        inputs = _labelled(folder, candidate.label)
        if (candidate.match and chip != candidate.match) or not inputs:
            continue
        where = f"hwmon {chip or folder.name} rail {candidate.label}"
        if "power" in inputs:
            return _of_file(root, inputs["power"], candidate, _UNIT_OF_CLASS["power"], where)
        volts = inputs.get("in")
        # ina3221 labels voltages only; a channel's current has the same number.
        amps = inputs.get("curr") or (volts and volts.with_name(volts.name.replace("in", "curr", 1)))
        if volts is None or amps is None or not amps.exists():
            continue
        return _of_product(root, volts, amps, candidate, where)
    return None


def _find_powercap(root: Path, candidate: Candidate) -> _Device | None:
    for folder in _folders(root / "class" / "powercap", "*"):
        if _text(folder / "name") == candidate.match and (folder / "energy_uj").exists():
            meter = _EnergyMeter(folder, candidate)
            return _Device(f"powercap {candidate.match} ({_below(root, folder / 'energy_uj')})", meter.read)
    return None


def _find_gauge(root: Path, candidate: Candidate) -> _Device | None:
    for folder in _folders(root / "class" / "power_supply", "*"):
        if _text(folder / "type") == candidate.match and (folder / candidate.file).exists():
            unit = _POWER_SUPPLY_UNIT.get(candidate.file, 1.0)
            return _of_file(root, folder / candidate.file, candidate, unit, f"power supply {folder.name}")
    return None


def _find_path(root: Path, candidate: Candidate) -> _Device | None:
    path = root / candidate.file
    return _of_file(root, path, candidate, 1.0, "file") if path.exists() else None


_FINDERS: Final[Mapping[str, Callable[[Path, Candidate], _Device | None]]] = {
    "zone": _find_zone, "hwmon": _find_hwmon, "rail": _find_rail, "powercap": _find_powercap,
    "gauge": _find_gauge, "path": _find_path,
}


def _folders(parent: Path, pattern: str) -> list[Path]:
    return sorted(parent.glob(pattern))


def _labelled(folder: Path, label: str) -> dict[str, Path]:
    """Inputs of a hwmon chip that carry `label`, by class: temp, in, curr, power."""
    found: dict[str, Path] = {}
    if not label:
        return found
    for path in sorted(folder.glob("*_label")):
        named = _LABEL.fullmatch(path.name)
        if named and _text(path) == label:
            value = path.with_name(path.name.replace("_label", "_input"))
            if value.exists():
                found.setdefault(named[1], value)
    return found


def _below(root: Path, path: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


# --- reading them ------------------------------------------------------------------------------------


def _of_file(root: Path, path: Path, candidate: Candidate, unit: float, what: str) -> _Device:
    scale, offset = unit * candidate.scale, candidate.offset
    name = os.fspath(path)

    def read(_now_s: float) -> float | None:
        value = _read_number(name)
        return None if value is None else value * scale + offset

    return _Device(f"{what} ({_below(root, path)})", read)


def _of_product(root: Path, volts: Path, amps: Path, candidate: Candidate, what: str) -> _Device:
    scale = _UNIT_OF_CLASS["in"] * _UNIT_OF_CLASS["curr"] * candidate.scale
    volts_name, amps_name = os.fspath(volts), os.fspath(amps)

    def read(_now_s: float) -> float | None:
        millivolts, milliamps = _read_number(volts_name), _read_number(amps_name)
        if millivolts is None or milliamps is None:
            return None
        return millivolts * milliamps * scale + candidate.offset

    return _Device(f"{what} ({_below(root, volts)} x {amps.name})", read)


class _EnergyMeter:
    """Power from an energy counter in microjoules that wraps at `max_energy_range_uj`.

    No value before the second sample; none after a counter that jumped back and has no known range. More than one
    wrap between two reads cannot be seen: the counters of today's packages wrap after minutes, a read comes each
    second.
    """

    def __init__(self, folder: Path, candidate: Candidate) -> None:
        self._energy = os.fspath(folder / "energy_uj")
        self._range = os.fspath(folder / "max_energy_range_uj")
        self._scale = candidate.scale
        self._offset = candidate.offset
        self._last: tuple[float, float] | None = None  # when, counter

    def read(self, now_s: float) -> float | None:
        """Mean power in W since the last read."""
        energy_uj = _read_number(self._energy)
        before, self._last = self._last, None if energy_uj is None else (now_s, energy_uj)
        if energy_uj is None or before is None or now_s <= before[0]:
            return None
        rise_uj = energy_uj - before[1]
        if rise_uj < 0.0:
            range_uj = _read_number(self._range)
            if range_uj is None or rise_uj + range_uj < 0.0:
                return None
            rise_uj += range_uj
        return rise_uj * _J_PER_UJ / (now_s - before[0]) * self._scale + self._offset


def _read_octets(name: str) -> bytes | None:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, _READ_OCTETS)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _read_number(name: str) -> float | None:
    """Return the one decimal number that a file holds; None when it holds anything else or cannot be read."""
    octets = _read_octets(name)
    number = None if octets is None else _NUMBER.fullmatch(octets)
    return None if number is None else float(number[1])


def _text(path: Path) -> str:
    """Return a short attribute without its newline; empty when it cannot be read."""
    octets = _read_octets(os.fspath(path))
    return "" if octets is None else octets.decode("utf-8", "replace").strip("\n\0 ")

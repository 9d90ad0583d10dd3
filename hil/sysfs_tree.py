"""The true satellite's readings as a tree of sysfs files, so that the flight program reads them through its drivers.

`hil serial --sysfs` keeps the tree; the flight program takes it with `--rig-sysfs`. Files, units and resolution are
those of common parts (thermal zones, INA226 and INA3221 power monitors, a fuel gauge, I2C thermometers), so that
finding, scaling and failing are `flightsw.board.linux`'s own. A sensor that gives no value is a file that cannot be
read as a number; how old a sample is a file cannot say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from flightsw.board.rig import BOARD_FILE
from flightsw.dictionary.sensors import INDEX
from flightsw.state import RawReading

_RAIL_MV: Final = 12_000.0


class _Device(NamedTuple):
    """Where one sensor is: the board file's row, the file with its value, and how many of its units are one of ours."""

    sensor: str
    kind: str
    match: str
    row_file: str
    label: str
    scale: float
    path: str
    per_unit: float


def _devices(nodes: int) -> list[_Device]:
    gauge = "class/power_supply/gauge0"
    devices = [
        _Device("sun_frac", "path", "", "bus/iio/devices/iio:device0/in_illuminance_raw", "", 1e-4,
                "bus/iio/devices/iio:device0/in_illuminance_raw", 1e4),
        _Device("battery_soc_frac", "path", "", f"{gauge}/device/rep_soc", "", 1.0 / 25_600.0,
                f"{gauge}/device/rep_soc", 25_600.0),  # a MAX17055 counts in 1/256 %
        _Device("battery_v", "gauge", "Battery", "voltage_now", "", 1.0, f"{gauge}/voltage_now", 1e6),
        _Device("battery_a", "gauge", "Battery", "current_now", "", 1.0, f"{gauge}/current_now", 1e6),
        _Device("battery_c", "gauge", "Battery", "temp", "", 1.0, f"{gauge}/temp", 10.0),
        _Device("array_w", "hwmon", "ina226_array", "power1_input", "", 1.0, "class/hwmon/hwmon0/power1_input", 1e6),
        _Device("bus_w", "hwmon", "ina226_bus", "power1_input", "", 1.0, "class/hwmon/hwmon1/power1_input", 1e6),
    ]
    for i, name in enumerate(("plate", "radiator", "bus", "array"), start=2):
        devices.append(_Device(f"{name}_c", "hwmon", f"tmp117_{name}", "temp1_input", "", 1.0,
                               f"class/hwmon/hwmon{i}/temp1_input", 1e3))
    for node in range(nodes):
        devices.append(_Device(f"die{node}_c", "zone", f"node{node}-thermal", "", "", 1.0,
                               f"class/thermal/thermal_zone{node}/temp", 1e3))
        devices.append(_Device(f"node{node}_w", "rail", "ina3221", "", f"NODE{node}", 1.0,
                               f"class/hwmon/hwmon6/curr{node + 1}_input", 1e6 / _RAIL_MV))
    return devices


class SysfsTree:
    """The tree below `root` for a satellite with so many nodes; made with the first `write`."""

    def __init__(self, root: Path, nodes: int) -> None:
        self._root = root
        self._devices = _devices(nodes)
        self._is_made = False

    def write(self, readings: Sequence[RawReading | None]) -> None:
        """Let the files say what the sensors read. What is not fitted at the first time never is."""
        if not self._is_made:
            self._make(readings)
        for device in self._devices:
            reading = readings[INDEX[device.sensor]]
            if reading is not None:
                self._put(device.path, _text(reading.value, device.per_unit))

    def _make(self, readings: Sequence[RawReading | None]) -> None:
        self._is_made = True
        self._devices = [device for device in self._devices if readings[INDEX[device.sensor]] is not None]
        rows = []
        for device in self._devices:
            folder = (self._root / device.path).parent
            folder.mkdir(parents=True, exist_ok=True)
            if device.kind in ("zone", "gauge"):
                (folder / "type").write_text(f"{device.match}\n")
            elif device.kind in ("hwmon", "rail"):
                (folder / "name").write_text(f"{device.match}\n")
            if device.kind == "rail":
                volts = Path(device.path).name.replace("curr", "in")
                (folder / volts).write_text(f"{_RAIL_MV:.0f}\n")
                (folder / volts.replace("input", "label")).write_text(f"{device.label}\n")
            fields = {"sensor": device.sensor, "kind": device.kind, "match": device.match, "file": device.row_file,
                      "label": device.label}
            rows.append("[[sensor]]\n" + "".join(f'{key} = "{value}"\n' for key, value in fields.items() if value)
                        + f"scale = {device.scale!r}\n")
        (self._root / BOARD_FILE).write_text("\n".join(rows), "utf-8")

    def _put(self, name: str, text: str) -> None:
        """Replace a file's content in one step: a reader sees the old value or the new one."""
        path = self._root / name
        fresh = path.with_name(path.name + ".new")
        fresh.write_text(text)
        fresh.replace(path)


def _text(value: float | None, per_unit: float) -> str:
    """Return what a driver's file says: a whole number, or nothing."""
    return f"{round(value * per_unit)}\n" if value is not None and math.isfinite(value) else ""

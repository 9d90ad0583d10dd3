"""Sensors of a Raspberry Pi and the power monitors that usually sit on its carrier. Data only.

The processor's zone is `cpu-thermal` on every model. An INA219, INA226 or INA260 on the bus rail gives the power of all
loads, a fuel gauge with a `power_supply` driver (MAX17040 to MAX17055) the charge. The board's own power chip tells its
rail currents to the firmware's mailbox alone and not in sysfs: node power needs a monitor of its own, named in a board
file.
"""

from __future__ import annotations

from typing import Final

from flightsw.board.linux import Candidate

CANDIDATES: Final = (
    Candidate("die0_c", "zone", "cpu-thermal"),
    Candidate("die0_c", "hwmon", "cpu_thermal", "temp1_input"),
    Candidate("bus_w", "hwmon", "ina219", "power1_input"),
    Candidate("bus_w", "hwmon", "ina226", "power1_input"),
    Candidate("bus_w", "hwmon", "ina260", "power1_input"),
    Candidate("battery_soc_frac", "gauge", "Battery", "capacity"),
    Candidate("battery_v", "gauge", "Battery", "voltage_now"),
    Candidate("battery_c", "gauge", "Battery", "temp"),
)

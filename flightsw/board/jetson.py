"""Sensors of a Jetson module. Data only.

`tj-thermal` is the hottest junction of the module (Orin); older modules have zones for each block. The INA3221 on the
module measures its input rail: `VDD_IN` (Orin NX and Nano, Xavier NX) or `POM_5V_IN` (Nano). The AGX Orin has no single
input rail; a board file names the one to use there.
"""

from __future__ import annotations

from typing import Final

from flightsw.board.linux import Candidate

CANDIDATES: Final = (
    Candidate("die0_c", "zone", "tj-thermal"),
    Candidate("die0_c", "zone", "CPU-therm"),
    Candidate("die0_c", "zone", "cpu-thermal"),
    Candidate("node0_w", "rail", "ina3221", label="VDD_IN"),
    Candidate("node0_w", "rail", "ina3221", label="POM_5V_IN"),
    Candidate("battery_soc_frac", "gauge", "Battery", "capacity"),
    Candidate("battery_v", "gauge", "Battery", "voltage_now"),
    Candidate("battery_c", "gauge", "Battery", "temp"),
)

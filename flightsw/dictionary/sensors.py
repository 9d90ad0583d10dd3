"""Every sensor, one row each. A row brings its own range and staleness monitor, housekeeping field,
console line and XTCE entry.

`low`..`high` is what the device can truthfully report: outside it the reading has no value. `accuracy` is
the bound of its error (bias, noise and quantisation together) that the estimator and the governor assume.
`upper`/`lower` name the parameter that limits it, if any.
"""

from __future__ import annotations

from typing import NamedTuple

from flightsw.state import NODE_COUNT_MAX


class Sensor(NamedTuple):
    """One sensor row; `packet` is the housekeeping structure that carries it."""

    name: str
    unit: str
    low: float
    high: float
    accuracy: float
    max_age_s: float
    packet: str
    description: str
    upper: str = ""
    lower: str = ""


_PLATFORM = (
    Sensor("sun_frac", "frac", -0.1, 1.1, 0.05, 5.0, "power", "Coarse sun sensor, share of full Sun."),
    Sensor("array_w", "W", -1.0, 600.0, 1.0, 5.0, "power", "Power drawn from the solar array."),
    Sensor("battery_v", "V", 5.0, 40.0, 0.05, 5.0, "power", "Battery terminal voltage."),
    Sensor("battery_a", "A", -60.0, 60.0, 0.05, 5.0, "power", "Battery current, positive when charging."),
    Sensor("battery_soc_frac", "frac", -0.05, 1.05, 0.02, 30.0, "power", "Fuel gauge: share of full charge.",
           lower="battery_floor_frac"),
    Sensor("bus_w", "W", -1.0, 600.0, 1.0, 5.0, "power", "Power of all loads on the bus."),
    Sensor("plate_c", "degC", -60.0, 125.0, 1.0, 5.0, "thermal", "Cold plate.", upper="plate_max_c"),
    Sensor("radiator_c", "degC", -90.0, 125.0, 1.0, 5.0, "thermal", "Radiator.", upper="radiator_max_c"),
    Sensor("bus_c", "degC", -60.0, 125.0, 1.0, 5.0, "thermal", "Avionics and bus structure."),
    Sensor("battery_c", "degC", -40.0, 85.0, 1.0, 5.0, "thermal", "Battery pack.",
           upper="battery_max_c", lower="battery_min_c"),
    Sensor("array_c", "degC", -150.0, 150.0, 3.0, 30.0, "thermal", "Solar array panel."),
)

_NODES = tuple(
    row
    for i in range(NODE_COUNT_MAX)
    for row in (
        Sensor(f"die{i}_c", "degC", -60.0, 130.0, 1.0, 3.0, "nodes_a" if i < 4 else "nodes_b",
               f"Junction of compute node {i}.", upper="die_max_c"),
        Sensor(f"node{i}_w", "W", -0.5, 120.0, 0.3, 3.0, "nodes_a" if i < 4 else "nodes_b",
               f"Input power of compute node {i}."),
    )
)

SENSORS: tuple[Sensor, ...] = _PLATFORM + _NODES
INDEX: dict[str, int] = {row.name: i for i, row in enumerate(SENSORS)}


def fitted_names(node_count: int) -> tuple[str, ...]:
    """Names of the sensors that a satellite with `node_count` compute nodes carries."""
    return tuple(row.name for row in SENSORS[: len(_PLATFORM) + 2 * node_count])

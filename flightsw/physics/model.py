"""The flight model of one satellite: mission numbers laid out for the rollout kernel.

Thermal nodes in this order: one lump per compute node ("die"), cold plate, radiator, bus, battery, array.
The rig's truth is another model with other numbers and never imports this.
"""

from __future__ import annotations

from typing import NamedTuple

from flightsw.dictionary.sensors import INDEX, SENSORS
from flightsw.kernels import Rollout, Topology
from flightsw.mission import Mission
from flightsw.physics.units import J_PER_WH, KELVIN
from flightsw.state import AS_DESIGNED, Factor, Learnt


class NodeIndex(NamedTuple):
    """Where each thermal node stands; dies are 0 .. n_compute - 1."""

    plate: int
    radiator: int
    bus: int
    battery: int
    array: int
    total: int


def node_index(mission: Mission) -> NodeIndex:
    """Thermal node numbers for a mission's number of compute nodes."""
    first = mission.compute.nodes
    return NodeIndex(first, first + 1, first + 2, first + 3, first + 4, first + 5)


def topology(mission: Mission) -> Topology:
    """Who touches whom: dies and radiator on the plate, plate and battery on the bus."""
    at = node_index(mission)
    dies = range(mission.compute.nodes)
    links = [(die, at.plate) for die in dies]
    links += [(at.plate, at.radiator), (at.plate, at.bus), (at.battery, at.bus)]
    return Topology(at.total, links, tuple(dies), at.array, at.battery, at.bus, at.battery)


def scale(factor: Factor | None, margin_frac: float, caution: float, *, more_is_worse: bool = False) -> float:
    """Return the factor on a mission's number at `caution` (0: best guess, 1: the worst credible).

    What telemetry has shown to be worse than the mission says counts in full, for everybody. What it has shown to be
    better counts only below full caution, and no further than the mission's margin: a governor that believed good
    news could be talked out of its wall by a drifting sensor, a plan that did only loses work. The margin shrinks
    to the learnt factor's own bound, which holds the sensors' accuracy and so never falls to nothing.
    """
    best, error_frac = 1.0, margin_frac
    if factor is not None:
        best, error_frac = factor.frac, min(factor.error_frac / factor.frac, margin_frac)
    hope_frac = margin_frac if caution < 1.0 else 0.0
    if more_is_worse:
        return max(best, 1.0 - hope_frac) * (1.0 + caution * error_frac)
    return min(best, 1.0 + hope_frac) * (1.0 - caution * error_frac)


def metered_frac(mission: Mission) -> float:
    """How far a plan's watts may be off: dispatch spends them by the nodes' meters, whatever the jobs declared."""
    efficient_w = max(mission.compute.modes[2:], key=lambda mode: mode.rate / mode.draw_w).draw_w
    return min(mission.margins.draw_frac, SENSORS[INDEX["node0_w"]].accuracy / efficient_w)


_DIE_LINK_FRAC, _PLATE_LINK_FRAC = 0.10, 0.05
"""How far conductances may be off: interfaces are made by hand, and a die is quicker than the lump that it is part of.
Without, `hil governor-search` found dies 0.5 K and plates 0.1 K beyond their limits."""

CONDUCTANCE_ENDS = ((False, False), (True, False), (True, True))
"""Ways from die to plate and from plate to radiator that are bad (False) or good: each end is the worst for one limit.
A bad one keeps the heat where it is, a good one brings a die's heat to the plate, or both to the radiator, at once."""


def fill_conductances(rollout: Rollout, mission: Mission, learnt: Learnt = AS_DESIGNED) -> None:
    """Write one of `CONDUCTANCE_ENDS` into each lane of a rollout whose links are per lane."""
    dies = mission.compute.nodes
    ways = [(mission.thermal.die_to_plate_w_k, link, _DIE_LINK_FRAC) for link in learnt.die_links or (None,) * dies]
    ways.append((mission.thermal.plate_to_radiator_w_k, learnt.plate_link, _PLATE_LINK_FRAC))
    for lane, ends in enumerate(CONDUCTANCE_ENDS):
        for i, (design_w_k, link, margin_frac) in enumerate(ways):
            best = 1.0 if link is None else link.frac
            good, bad = max(best, 1.0) * (1.0 + margin_frac), min(best, 1.0) * (1.0 - margin_frac)
            rollout.params["link_w_k"][i, lane] = design_w_k * (good if ends[i == dies] else bad)


def fill_constants(rollout: Rollout, mission: Mission, caution: float, learnt: Learnt = AS_DESIGNED) -> None:
    """Write the satellite's parameters into a rollout's shared rows.

    `caution` moves each that far (0: not, 1: all the way) to the end of its margin at which the satellite is
    hotter and has less energy; the margins lie around what is `learnt` (see `scale`).
    """
    at = node_index(mission)
    array, battery, thermal, bus, margins = (
        mission.array, mission.battery, mission.thermal, mission.bus, mission.margins
    )
    set_row = rollout.params
    capacity = [thermal.die_heat_capacity_j_k] * mission.compute.nodes + [
        thermal.plate_heat_capacity_j_k, thermal.radiator_heat_capacity_j_k, thermal.bus_heat_capacity_j_k,
        battery.heat_capacity_j_k, array.heat_capacity_j_k,
    ]
    die_links = learnt.die_links or (None,) * mission.compute.nodes
    links = [thermal.die_to_plate_w_k * scale(link, 0.0, caution) for link in die_links] + [
        thermal.plate_to_radiator_w_k * scale(learnt.plate_link, 0.0, caution), thermal.plate_to_bus_w_k,
        battery.to_bus_w_k,
    ]
    radiating = [0.0] * at.total
    radiating[at.radiator] = thermal.radiator_area_m2 * thermal.radiator_emissivity * scale(
        learnt.radiator, margins.radiating_frac, caution)
    as_designed = scale(None, margins.radiating_frac, caution)
    radiating[at.bus] = thermal.bus_area_m2 * thermal.bus_emissivity * as_designed
    radiating[at.array] = array.area_m2 * array.emissivity_both * as_designed
    for i, value in enumerate(capacity):
        set_row["capacity_j_k"][i, :] = value
    for i, value in enumerate(links):
        set_row["link_w_k"][i, :] = value
    for i, value in enumerate(radiating):
        set_row["radiating_m2"][i, :] = value
    for name, value in {
        "battery_capacity_j": battery.capacity_wh * J_PER_WH * (1.0 - caution * margins.battery_capacity_frac),
        "ocv_empty_v": battery.empty_v,
        "ocv_full_v": battery.full_v,
        "resistance_ohm": battery.resistance_ohm,
        "charge_limit_w": battery.charge_limit_w,
        "taper_start_frac": battery.taper_start_frac,
        "charge_eff_frac": battery.charge_efficiency_frac,
        "array_area_m2": array.area_m2,
        "array_eff_frac": array.efficiency_frac * array.mppt_frac * array.health_frac
        * scale(learnt.array, margins.array_frac, caution),
        "array_ref_k": array.reference_c + KELVIN,
        "array_coeff_per_k": array.temp_coeff_per_k,
        "array_absorpt_frac": array.absorptivity,
        "bus_w": bus.idle_w * scale(learnt.bus, margins.bus_frac, caution, more_is_worse=True),
        "tx_heat_frac": bus.transmitter_heat_frac,
        "heater_w": battery.heater_w,
        "heater_on_k": battery.heater_on_c + KELVIN,
        "heater_off_k": battery.heater_off_c + KELVIN,
        "heat_scale_frac": 1.0 + caution * margins.environment_frac,
    }.items():
        set_row[name][0, :] = value
    set_row["activity_frac"][:, :] = 1.0 + caution * (margins.draw_frac if caution >= 1.0 else metered_frac(mission))

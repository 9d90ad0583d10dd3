"""The last word of each tick: caps after which an immediate shed would still come in time.

Argument. Let the proposed caps hold for as long as they can (the guardian's lease and the time until the
next check), then shed everything. Roll that out on the flight model with every parameter at its
pessimistic end and the estimate at its worst bound, to the end of the next eclipse. If no limit is
touched, the caps are safe now: whatever happens later, shedding at the next check keeps every limit. More
load never cools a node nor charges the battery (all thermal couplings push temperatures together, and
the battery falls with load), so the pessimistic corner covers the whole box of parameters. The argument
stops where more heat could help: the battery heater, which the rollout keeps running; and at conductances, which
have no worse end, so that each end that is the worst for some limit is rolled out (`model.CONDUCTANCE_ENDS`).
Reductions are always allowed. The governor shares the flight model with the planner, but no state and no decision.
`hil governor-search` looks for a state from which the shed comes too late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from flightsw.dictionary.sensors import INDEX, SENSORS
from flightsw.errors import KernelError
from flightsw.mission import Mission
from flightsw.physics.forecast import Forecaster
from flightsw.state import Estimate, Event, NodeCommand

CHECK_EVERY_S = 10.0
"""Caps that were found safe are checked again after this time at the latest."""


class Approval(NamedTuple):
    """What may be commanded, and what was cut down."""

    nodes: tuple[NodeCommand, ...]
    events: tuple[Event, ...]
    shed: str


def approve(wanted: Sequence[NodeCommand], activity: Sequence[float], estimate: Estimate, forecaster: Forecaster,
            parameters: Mapping[str, float], mission: Mission) -> Approval:
    """Return `wanted`, or the nearest lower caps that pass the backup check; all off when none does.

    `activity[i]` is the draw of node i's job relative to its mode's nominal, declared or measured,
    whichever is more.
    """
    modes = mission.compute.modes
    hold_s = parameters["lease_s"] + CHECK_EVERY_S
    rail_w = payload_w(parameters, mission)
    nodes = list(wanted)
    events: list[Event] = []
    while True:
        draws = [_draw_w(node, modes[node.power_mode].draw_w, activity[i]) for i, node in enumerate(nodes)]
        if sum(draws) > rail_w:
            limit, at_s = "payload_max_w", 0.0
        else:
            try:
                limit, at_s = forecaster.first_crossing(estimate, draws, hold_s, parameters)
            except KernelError as error:  # what cannot be rolled out is not known to be safe
                off = tuple(NodeCommand(0, modes[0].cap_w, node.job_id) for node in wanted)
                return Approval(off, tuple(events), f"no forecast: {error}")
        if not limit:
            return Approval(tuple(nodes), tuple(events), "")
        highest = max(range(len(nodes)), key=lambda i: (draws[i], i))
        before = nodes[highest]
        if before.power_mode == 0:
            return Approval(tuple(nodes), tuple(events), f"{limit} forecast to be crossed in {at_s:.0f} s")
        lower = before.power_mode - 1 if before.power_mode > 2 else 0  # idle does no work: skip it
        nodes[highest] = NodeCommand(lower, modes[lower].cap_w, before.job_id)
        events.append(Event("cap_reduced", (highest, before.cap_w, modes[lower].cap_w, limit)))


def payload_w(parameters: Mapping[str, float], mission: Mission) -> float:
    """Draw to expect of all nodes together at most: should it be the margin more, the rail still carries it."""
    return parameters["payload_max_w"] / (1.0 + mission.margins.draw_frac)


def _draw_w(node: NodeCommand, nominal_w: float, activity: float) -> float:
    """Power to expect of a node: its mode's draw at this activity; an off node draws what off draws."""
    return nominal_w * activity if node.power_mode > 0 else nominal_w


def measured_activity(estimate: Estimate, nodes: Sequence[NodeCommand], declared: Sequence[float],
                      mission: Mission) -> list[float]:
    """Take the larger of declared and measured activity for each node; an unmeasured node as declared.

    A node that draws more than its job declared is believed, whatever was declared.
    """
    result = []
    accuracy_w = SENSORS[INDEX["node0_w"]].accuracy
    for i, node in enumerate(nodes):
        watts = estimate.node_w[i]
        nominal = mission.compute.modes[node.power_mode].draw_w
        if watts is None or node.power_mode < 2:
            result.append(declared[i])
        else:
            result.append(max(declared[i], (watts - accuracy_w) / nominal))
    return result

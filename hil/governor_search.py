"""`hil governor-search`: look for a state from which the governor's shed comes too late.

Random states (charge and temperatures, implausible ones too, moments of the orbit, learnt factors, silent sensors)
and random commands go before the governor. What it approves is held as long as caps can hold, with every
disturbance that the mission's margins and the estimate's bounds allow, and everything is shed afterwards: on the
flight model, one lane a state with parameters of its own anywhere in the margins (half of them at the pessimistic
corner), and on true satellites that differ from the design as far as the margins go. A limit that is crossed
deeper than it would be by a shed at the very start is a finding.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from flightsw import compose
from flightsw.decide import governor
from flightsw.errors import ConfigError
from flightsw.kernels import Plant, Rollout
from flightsw.mission import Mission
from flightsw.orbit import FACES, Attitude, Orbit
from flightsw.physics import model
from flightsw.physics.forecast import Forecaster
from flightsw.physics.units import J_PER_WH, KELVIN
from flightsw.state import AS_DESIGNED, Bounded, Estimate, Factor, Learnt, NodeCommand
from hil import run
from hil import scenario as scenarios
from hil.plant.environment import TOTAL_SOLAR_IRRADIANCE_W_M2, TruthEnvironment
from hil.plant.satellite import Truth, absorbed_w, disperse, fill_model, thermal_nodes

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

Array = npt.NDArray[np.float64]

SCENARIOS = ("brain/overload15_iss", "brain/overload15_sso")
GROUP = 250
"""States that share a moment, its surroundings and a true satellite; one group is one task."""
EXIT_FOUND = 1
LIMITS = ("battery_floor_frac", "die_max_c", "plate_max_c", "radiator_max_c", "battery_max_c", "payload_max_w")
_TOLERANCE = {
    # The flight model's step of ten seconds, against the finer one here.
    "model": (0.0005, 0.1, 0.1, 0.1, 0.1, 1e-6),
    # The truth is another model as well: dies apart from their modules, and eclipses that begin seconds earlier.
    "truth": (0.001, 0.3, 0.3, 0.3, 0.3, 1e-6),
}
_NEAR = (0.02, 3.0, 3.0, 3.0, 3.0, 3.0)
_STEP_S = 5.0
_TRUTH_STEPS = 10  # of a second, between looks at the truth's temperatures
_DAY_S = 86_400.0
_REACH_S = 12_000.0  # two orbits: every shed is over by then
_LEAST_S = 600.0  # heat put in before the shed has passed through the radiator by then
_PER_LANE = ("temperature_k", "link_w_k", "radiating_m2", "battery_j", "battery_capacity_j", "array_eff_frac", "bus_w",
             "heat_scale_frac", "heater_on_k", "heater_off_k", "heater_start_on")


class Task(NamedTuple):
    """One group of states; `truths` flies them on a true satellite as well."""

    scenario: str
    seed: int
    states: int
    truths: bool


class Case(NamedTuple):
    """One state, what the governor made of it, and what is true: charge in shares of full, kelvin, watts."""

    estimate: Estimate
    parameters: dict[str, float]
    approved: tuple[NodeCommand, ...]
    shed: str
    hold_s: float
    drawn_w: tuple[float, ...]
    charge_frac: float
    temperature_k: Array
    corner: bool

    @property
    def works(self) -> bool:
        """True when something was approved: then there is something to shed."""
        return not self.shed and any(node.power_mode for node in self.approved)


class Tally(NamedTuple):
    """What one task found. `approved` states had work to shed, `near` of them came within 2 % or 3 K of a limit.

    `room` is the least that was left to each limit, by plant, in the states that had work to shed.
    """

    states: int
    approved: int
    near: int
    on_truth: int
    findings: tuple[str, ...]
    room: dict[tuple[str, str], float]


@functools.lru_cache(maxsize=2)
def _site(name: str) -> tuple[scenarios.Scenario, Forecaster, Orbit, TruthEnvironment]:
    scenario = scenarios.load(scenarios.find(name), seed=1, duration=f"{(_DAY_S + _REACH_S) / 3600.0} h")
    where = str(scenario.mission_path)
    return scenario, compose.forecaster_of(scenario.mission, where), Orbit(scenario.tle), run.surroundings(scenario)


def forget() -> None:
    """Make forecasters and surroundings anew with the next task."""
    _site.cache_clear()


# --- states and commands -----------------------------------------------------------------------------


def draw_learnt(rng: np.random.Generator, nodes: int) -> Learnt:
    """Draw what telemetry may have shown."""

    def factor(low: float, high: float) -> Factor | None:
        return Factor(rng.uniform(low, high), rng.uniform(0.005, 0.06)) if rng.random() < 0.8 else None

    return Learnt(factor(0.7, 1.1), factor(0.7, 1.15), factor(0.9, 1.3), factor(0.7, 1.2),
                  tuple(factor(0.7, 1.2) for _ in range(nodes)))


def draw_celsius(rng: np.random.Generator, nodes: int, *, near: bool) -> list[float]:
    """Draw temperatures: near a limit, or as they usually are."""
    radiator_c = rng.uniform(38.0, 50.5) if near else rng.uniform(-25.0, 35.0)
    plate_c = min(radiator_c + rng.uniform(2.0, 14.0), 55.5)
    dies_c = plate_c + rng.uniform(0.0, 29.0 if near else 25.0, nodes)
    battery_c = rng.uniform(35.0, 45.5) if near and rng.random() < 0.3 else rng.uniform(2.0, 35.0)
    return [*dies_c.tolist(), plate_c, radiator_c, rng.uniform(-5.0, 40.0), battery_c, rng.uniform(-70.0, 75.0)]


def draw_estimate(rng: np.random.Generator, now_s: float, mission: Mission) -> Estimate:
    """Draw what the flight software may believe, and how well it knows it; a tenth is beyond what is plausible."""
    nodes, full_j = mission.compute.nodes, mission.battery.capacity_wh * J_PER_WH
    kind = rng.random()
    if kind < 0.1:
        charge, all_c = rng.uniform(0.0, 1.0), rng.uniform(-50.0, 125.0, nodes + 5).tolist()
    else:
        charge = rng.uniform(0.70, 0.80) if kind < 0.5 else rng.uniform(0.78, 1.0)
        all_c = draw_celsius(rng, nodes, near=kind > 0.4)
    half = rng.uniform(0.0, 0.02) * full_j
    battery_j = Bounded(*(min(max(charge * full_j + by, 0.0), full_j) for by in (0.0, -half, half)))
    bounds = []
    for celsius in all_c:
        half_k = 1.0 + (rng.uniform(0.0, 12.0) if rng.random() < 0.03 else 0.0)  # a few are silent, bounds run apart
        bounds.append(Bounded(*(celsius + KELVIN + by for by in (0.0, -half_k, half_k))))
    dark = tuple(i for i in range(nodes) if rng.random() < 0.03)
    learnt, pack_frac = AS_DESIGNED, 1.0
    if rng.random() < 0.5:
        learnt, pack_frac = draw_learnt(rng, nodes), rng.uniform(0.75, 1.0)
    return Estimate(now_s, battery_j, tuple(bounds), None, None, (None,) * nodes, None, (), dark, pack_frac, learnt)


def draw_case(rng: np.random.Generator, now_s: float, mission: Mission, forecaster: Forecaster) -> Case:
    """Draw a state and commands, ask the governor, and draw what is true within all that it allows for."""
    modes, margins = mission.compute.modes, mission.margins
    estimate = draw_estimate(rng, now_s, mission)
    parameters = {**mission.parameters, "lease_s": rng.uniform(2.0, 60.0)}
    if rng.random() < 0.2:
        parameters["payload_max_w"] = rng.uniform(10.0, 130.0)
    wanted = []
    for i in range(mission.compute.nodes):
        power_mode = 0 if i in estimate.dark_nodes else int(rng.choice([0, *range(2, len(modes))]))
        wanted.append(NodeCommand(power_mode, modes[power_mode].cap_w, i + 1))
    activity = rng.uniform(0.5, 1.4, mission.compute.nodes).tolist()
    approval = governor.approve(wanted, activity, estimate, forecaster, parameters, mission)
    corner = rng.random() < 0.5
    more = 1.0 + margins.draw_frac * (np.ones(len(wanted)) if corner else rng.uniform(-1.0, 1.0, len(wanted)))
    drawn_w = tuple(modes[node.power_mode].draw_w * (activity[i] if node.power_mode else 1.0) * float(more[i])
                    for i, node in enumerate(approval.nodes))
    low, high = (np.array([getattr(b, name) for b in estimate.temperature_k]) for name in ("low", "high"))
    where = np.ones(len(low)) if corner else rng.uniform(0.0, 1.0, len(low))
    kelvin = low - margins.temperature_k + where * (high - low + 2.0 * margins.temperature_k)
    for i in estimate.dark_nodes:  # not known, but off, and inside its limit when it was last seen
        kelvin[i] = min(kelvin[i], parameters["die_max_c"] + KELVIN)
    charge_j = estimate.battery_j.low + (0.0 if corner else rng.uniform(0.0, 1.0)) * (
        estimate.battery_j.high - estimate.battery_j.low)
    full_j = mission.battery.capacity_wh * J_PER_WH
    return Case(estimate, parameters, approval.nodes, approval.shed, parameters["lease_s"] + governor.CHECK_EVERY_S,
                drawn_w, charge_j / full_j, np.clip(kelvin, 150.0, 450.0), corner)


def limits_of(case: Case, mission: Mission) -> tuple[float, Array]:
    """Floor of charge and highest temperatures of the thermal nodes of the flight model; inf where there is none."""
    p, nodes = case.parameters, mission.compute.nodes
    highest = np.array([*[p["die_max_c"]] * nodes, p["plate_max_c"], p["radiator_max_c"], np.inf, p["battery_max_c"],
                        np.inf]) + KELVIN
    highest[list(case.estimate.dark_nodes)] = np.inf
    return max(p["battery_floor_frac"], p["battery_cutoff_frac"]), highest


def beyond(case: Case, mission: Mission, least_frac: float, most_k: Array, drawn_w: float) -> Array:
    """How far each of `LIMITS` is crossed by these extremes, negative while it is kept."""
    floor_frac, highest_k = limits_of(case, mission)
    over_k, nodes = most_k - highest_k, mission.compute.nodes
    return np.array([floor_frac - least_frac, over_k[:nodes].max(), over_k[nodes], over_k[nodes + 1],
                     over_k[nodes + 3], drawn_w - case.parameters["payload_max_w"]])


# --- the flight model, anywhere in its margins ---------------------------------------------------------


def fly_model(cases: Sequence[Case], rng: np.random.Generator, mission: Mission, orbit: Orbit, forecaster: Forecaster,
              start_unix_s: float, lasts_s: float) -> Array:
    """Return how far each limit (last axis) is crossed by each case (second), held (0) and shed at once (1)."""
    now_s = cases[0].estimate.now_s
    steps = int(lasts_s / _STEP_S)
    at, lanes, margins = model.node_index(mission), len(cases), mission.margins
    rollout = Rollout(model.topology(mission), n_lanes=lanes, n_steps=steps, n_slots=steps, dt_s=_STEP_S,
                      per_lane=_PER_LANE, precision=64)
    model.fill_constants(rollout, mission, 0.0)
    flux, heat_w, transmits = _surroundings(mission, orbit, forecaster, start_unix_s, now_s, steps)
    rollout.array_flux_w_m2[:], rollout.heat_w[:] = flux, heat_w
    rollout.tx_w[:] = np.where(transmits, mission.bus.transmitter_w, 0.0)
    rollout.slot_steps[:] = 1
    rows = rollout.params
    for lane, case in enumerate(cases):
        def share(case: Case = case) -> float:
            return 1.0 if case.corner else rng.uniform(-1.0, 1.0)

        def worse(factor: Factor | None, margin_frac: float, sign: float = -1.0, case: Case = case) -> float:
            """Factor on the mission's number: what was learnt, as far off as its bound or the margin allows."""
            if factor is None:
                return 1.0 + sign * share(case) * margin_frac
            return factor.frac * (1.0 + sign * share(case) * min(factor.error_frac / factor.frac, margin_frac))

        learnt = case.estimate.learnt
        for i, link in enumerate(learnt.die_links):
            rows["link_w_k"][i, lane] *= worse(link, 0.0)
        rows["link_w_k"][at.plate, lane] *= worse(learnt.plate_link, 0.0)
        rows["radiating_m2"][at.radiator, lane] *= worse(learnt.radiator, margins.radiating_frac)
        rows["radiating_m2"][at.bus:, lane] *= 1.0 - share() * margins.radiating_frac
        rows["array_eff_frac"][0, lane] *= worse(learnt.array, margins.array_frac)
        rows["bus_w"][0, lane] *= worse(learnt.bus, margins.bus_frac, 1.0)
        rows["heat_scale_frac"][0, lane] = 1.0 + share() * margins.environment_frac
        capacity_j = (mission.battery.capacity_wh * J_PER_WH * case.estimate.pack_frac
                      * (1.0 - share() * margins.battery_capacity_frac))
        rows["battery_capacity_j"][0, lane] = capacity_j
        rows["battery_j"][0, lane] = case.charge_frac * capacity_j
        rows["temperature_k"][:, lane] = case.temperature_k
        rows["heater_start_on"][0, lane] = float(case.temperature_k[at.battery] < mission.battery.heater_off_c + KELVIN
                                                 and rng.random() < 0.5)
    found = []
    off_w = mission.compute.modes[0].draw_w * (1.0 + margins.draw_frac)
    for held in (True, False):
        rollout.compute_w[:] = off_w
        for lane, case in enumerate(cases):
            if held and not case.shed:
                rollout.compute_w[:math.ceil(case.hold_s / _STEP_S), :, lane] = case.drawn_w
        rollout.run()
        most_k = np.maximum(rollout.max_temperature_k, rows["temperature_k"])
        least = np.minimum(rollout.min_battery_j, rows["battery_j"][0]) / rows["battery_capacity_j"][0]
        found.append([beyond(case, mission, float(least[lane]), most_k[:, lane],
                             sum(case.drawn_w) if held and not case.shed else 0.0) for lane, case in enumerate(cases)])
    return np.array(found)


def _surroundings(mission: Mission, orbit: Orbit, forecaster: Forecaster, start_unix_s: float, now_s: float,
                  steps: int) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
    """Sunlight on the array, heat that each thermal node absorbs, and passes, as the orbit has them."""
    after_s = now_s + (np.arange(steps, dtype=np.float64) + 0.5) * _STEP_S
    around = orbit.environment(start_unix_s + after_s, Attitude(mission.array.attitude))
    thermal, array, at = mission.thermal, mission.array, model.node_index(mission)
    light, infrared = around.solar_w_m2 + around.albedo_w_m2, around.infrared_w_m2
    heat = np.zeros((steps, at.total))
    radiator = FACES.index("+z")
    heat[:, at.radiator] = thermal.radiator_area_m2 * (
        thermal.radiator_absorptivity * light[:, radiator] + thermal.radiator_emissivity * infrared[:, radiator])
    heat[:, at.bus] = thermal.bus_area_m2 * (
        thermal.bus_absorptivity * light + thermal.bus_emissivity * infrared).mean(axis=1)
    heat[:, at.array] = array.area_m2 * (
        array.absorptivity * around.albedo_w_m2 + array.emissivity_both * infrared).mean(axis=1)
    transmits = np.array([forecaster.sky(float(t)).pass_in_s == 0.0 for t in after_s])
    return around.solar_w_m2[:, FACES.index("-z")], heat, transmits


# --- true satellites -----------------------------------------------------------------------------------


def draw_truth(truth: Truth, mission: Mission, rng: np.random.Generator) -> Truth:
    """Draw a satellite as far from the design as the margins go; what leakage draws is in the nodes' draw."""
    truth = disperse(truth, 1.0, rng)
    m, t, margins = mission, truth, mission.margins

    def off(frac: float) -> float:
        return 1.0 + frac * (rng.choice((-1.0, 1.0)) if rng.random() < 0.5 else rng.uniform(-1.0, 1.0))

    design = m.array.area_m2 * m.array.efficiency_frac * m.array.mppt_frac
    health = (m.array.health_frac * off(margins.array_frac) * design
              / (t.array.area_m2 * t.array.efficiency_frac * t.array.mppt_frac))
    surface_m2 = t.structure.root_area_m2 + t.structure.tip_area_m2
    emissivity = m.thermal.radiator_area_m2 * m.thermal.radiator_emissivity * off(margins.radiating_frac) / surface_m2
    nodes = m.compute.nodes
    return dataclasses.replace(
        t, array=dataclasses.replace(t.array, health_frac=min(1.0, health)),
        battery=dataclasses.replace(t.battery,
                                    capacity_wh=m.battery.capacity_wh * off(margins.battery_capacity_frac)),
        # The payload's own survival heater is in no mission file: a load that no margin speaks of.
        structure=dataclasses.replace(t.structure, radiator_emissivity=min(1.0, emissivity), plate_heater_w=0.0),
        platform=dataclasses.replace(t.platform, bus_w=m.bus.idle_w * off(margins.bus_frac)),
        compute=dataclasses.replace(t.compute, leakage_per_k=0.0, draw_scale=(1.0,) * nodes))


def fly_truth(cases: Sequence[Case], truth: Truth, around: TruthEnvironment, mission: Mission, forecaster: Forecaster,
              lasts_s: float, rng: np.random.Generator) -> Array:
    """As `fly_model`, on one true satellite; cases that learnt another one than this are left out (NaN)."""
    now_s = cases[0].estimate.now_s
    rows = slice(int(now_s), int(now_s + lasts_s), _TRUTH_STEPS)
    flux, heat = around.array_flux_w_m2[rows].tolist(), absorbed_w(truth, around, rows).tolist()
    transmits = [forecaster.sky(float(t)).pass_in_s == 0.0 for t in around.t_s[rows]]
    plant = Plant()
    fill_model(plant, truth)
    plant.check(1.0)
    nodes, at = mission.compute.nodes, thermal_nodes(mission.compute.nodes)
    looked = [*range(nodes), at.plate, at.root, at.bus, at.battery, at.array]
    off_w = [mission.compute.modes[0].draw_w] * nodes
    full_j = truth.battery.capacity_wh * J_PER_WH
    state = plant.state
    found = np.full((2, len(cases), len(LIMITS)), np.nan)
    for number, case in enumerate(cases):
        if case.estimate.learnt != AS_DESIGNED or case.estimate.pack_frac < 1.0:
            continue
        kelvin = case.temperature_k.tolist()
        plate_k = kelvin[nodes]
        in_module = rng.uniform(0.8, 0.9)  # the share of die over plate that lies across the interface
        start_k = [*kelvin[:nodes], *(plate_k + in_module * (k - plate_k) for k in kelvin[:nodes]), plate_k,
                   kelvin[nodes + 1], kelvin[nodes + 1], *kelvin[nodes + 2:]]
        heater_on = int(kelvin[nodes + 3] < truth.battery.heater_off_c + KELVIN)
        blocks = math.ceil(case.hold_s / _TRUTH_STEPS)
        for which, held in enumerate((True, False)):
            if not case.works or not (held or (found[0, number] > 0.0).any()):
                continue  # nothing to shed, or no limit to ask about
            for node, value in enumerate(start_k):
                state.temperature_k[node] = value
            state.battery_j, state.brownout = case.charge_frac * full_j, 0
            for i in range(nodes):
                state.tripped[i] = 0
            state.heater_on[0], state.heater_on[1] = heater_on, 0
            most, least_j = kelvin, state.battery_j
            drawn = case.drawn_w if held else off_w
            for block, (sun, warm, speaks) in enumerate(zip(flux, heat, transmits, strict=True)):
                plant.advance(sun, warm, drawn if block < blocks else off_w, speaks, 1.0, _TRUTH_STEPS)
                now = state.temperature_k
                most = [max(k, now[i]) for k, i in zip(most, looked, strict=True)]
                least_j = min(least_j, state.battery_j)
            found[which, number] = beyond(case, mission, least_j / full_j, np.array(most), sum(drawn) if held else 0.0)
    return found


# --- the search ----------------------------------------------------------------------------------------


def search(task: Task) -> Tally:
    """Work on one group of states."""
    scenario, forecaster, orbit, around = _site(task.scenario)
    mission = scenario.mission
    rng = np.random.Generator(np.random.PCG64((task.seed, zlib.crc32(task.scenario.encode()))))
    now_s = float(10 * rng.integers(0, int(_DAY_S) // 10))
    cases = [draw_case(rng, now_s, mission, forecaster) for _ in range(task.states)]
    longest_s = max(case.hold_s for case in cases)
    dark = around.array_flux_w_m2[int(now_s):] < 0.5 * TOTAL_SOLAR_IRRADIANCE_W_M2
    night = int(dark.argmax())
    day_s = float(night + (~dark[night:]).argmax()) if dark.any() else 0.0
    lasts_s = min(max(day_s, _LEAST_S) + longest_s, _REACH_S)
    plants = {"model": fly_model(cases, rng, mission, orbit, forecaster, scenario.start_unix_s, lasts_s)}
    if task.truths:
        truth = draw_truth(scenario.truth, mission, rng)
        plants["truth"] = fly_truth(cases, truth, around, mission, forecaster, lasts_s, rng)
    works = np.array([case.works for case in cases])
    findings: list[str] = []
    room: dict[tuple[str, str], float] = {}
    near = works & False
    for plant, (held, at_once) in plants.items():
        unavoidable = np.maximum(np.nan_to_num(at_once), 0.0)
        for j, limit in enumerate(LIMITS):
            avoided = works & (unavoidable[:, j] == 0.0) & ~np.isnan(held[:, j])
            room[plant, limit] = -float(held[avoided, j].max(initial=-np.inf))
            near |= avoided & (held[:, j] > -_NEAR[j])
            findings.extend(
                f"{task.scenario} seed {task.seed} state {number} at T+{now_s:.0f} s, {plant}: {limit} crossed by "
                f"{held[number, j]:.3g}, by {unavoidable[number, j]:.3g} when shed at once"
                for number in np.flatnonzero(held[:, j] - unavoidable[:, j] > _TOLERANCE[plant][j]))
    on_truth = int(np.count_nonzero(~np.isnan(plants["truth"][0, :, 0]))) if task.truths else 0
    return Tally(len(cases), int(works.sum()), int(near.sum()), on_truth, tuple(findings), room)


# --- the command -------------------------------------------------------------------------------------


def add_command(commands: Commands) -> None:
    """Add `hil governor-search`."""
    parser = commands.add_parser(
        "governor-search", help="look for a state from which the governor's shed comes too late",
        description="Let the governor judge random states and commands; hold what it approves as long as caps can "
        "hold under the worst disturbances that it must allow for, shed, and see whether a limit is crossed that a "
        "shed at once would have kept: on the flight model and on true satellites.",
        epilog=f"Exit status: 0 none found, {EXIT_FOUND} found, 2 bad input, 130 interrupted.")
    parser.add_argument("--states", type=int, default=100_000, metavar="N", help="how many states (100000)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of the first group of states (1)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), metavar="P", help="processes (2)")
    parser.set_defaults(run=governor_search)


def governor_search(options: argparse.Namespace) -> int:
    """Run the command."""
    from tqdm import tqdm  # noqa: PLC0415 # an extra

    if options.states < 1 or options.jobs < 1 or options.seed < 0:
        raise ConfigError("--states, --jobs, --seed", f"{options.states}, {options.jobs} and {options.seed}: at least "
                          "1, 1 and 0 are expected")
    groups = -(-options.states // GROUP)
    tasks = [Task(SCENARIOS[i % len(SCENARIOS)], options.seed + i, min(GROUP, options.states - i * GROUP), True)
             for i in range(groups)]
    tallies = []
    with ProcessPoolExecutor(options.jobs) as pool, \
            tqdm(total=options.states, unit="state", unit_scale=True, disable=None) as bar:
        for done in as_completed([pool.submit(search, task) for task in tasks]):
            tallies.append(done.result())
            bar.update(tallies[-1].states)
    print(summary(tallies))
    return EXIT_FOUND if any(tally.findings for tally in tallies) else 0


def summary(tallies: Sequence[Tally]) -> str:
    """Return what all tasks found as text."""
    def total(name: str) -> int:
        return sum(getattr(tally, name) for tally in tallies)

    lines = [f"{total('states')} states: in {total('approved')} something was approved, {total('near')} of them came "
             f"within 2 %, 3 K or 3 W of a limit that a shed at once keeps; {total('on_truth')} were flown on true "
             f"satellites as well"]
    for plant, limit in dict.fromkeys(key for tally in tallies for key in tally.room):
        least = min(tally.room.get((plant, limit), np.inf) for tally in tallies)
        lines.append(f"least room on the {plant:5}  {limit:20}{least:10.4f}")
    findings = [line for tally in tallies for line in tally.findings]
    lines.append(f"{len(findings)} sheds came too late")
    return "\n".join([*lines, *findings])

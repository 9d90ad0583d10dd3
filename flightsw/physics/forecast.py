"""What comes: sunlight, passes and, for a given load, charge and temperatures over the next orbits.

Owns the flight model's rollouts. The planner asks it to compare loads, the governor whether a load can
still be shed in time, reporting where the satellite stands in its orbit. Time is the caller's `now_s`;
the orbit is sampled in blocks ahead of it and kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flightsw.errors import KernelError
from flightsw.kernels import Rollout
from flightsw.mission import Mission
from flightsw.orbit import SOLAR_CONSTANT_W_M2, Attitude, Eclipse, Orbit, Pass
from flightsw.physics import model
from flightsw.physics.units import J_PER_WH, KELVIN
from flightsw.state import AHEAD_POINTS, AS_DESIGNED, Ahead, Estimate, Learnt, Outlook, Plan

Array = npt.NDArray[np.float64]

STEP_S = 10.0
"""Euler step of the flight model: 11 mK from an exact solution on such networks, 10 times cheaper than 1 s."""

SLOT_S = 60.0
"""Length of a plan's slot; candidates are rolled out in the very slots that the plan will have."""

HORIZON_ORBITS = 2.0
AHEAD_ORBITS = 3.0
"""At least this far reaches the forecast that is told to the ground."""
_SLOT_STEPS = round(SLOT_S / STEP_S)
_HEATER_SHIFT_K = 3.0
"""The bus, and with it the battery, may be this much colder after an orbit than the hot corner has it."""
_BLOCK_S = 21600.0  # environment is sampled this far at once
_EVENTS_S = 86400.0  # eclipses and passes are searched this far at once
_LANES = 144

PLAN_CAUTION = 0.4
"""How far plans lean to the worst case. The governor goes all the way and keeps the limits; a plan that did
would leave unused what hardly ever happens, one that did not at all would be cut by the governor every day."""


class Surroundings(NamedTuple):
    """What reaches the satellite at one moment, as forecast; `transmits` when a pass is on."""

    array_flux_w_m2: float
    radiator_heat_w: float
    transmits: bool


class Sky(NamedTuple):
    """Where the satellite stands in its orbit; times to events are 0 inside them, inf when none is known."""

    in_eclipse: bool
    eclipse_in_s: float
    sun_in_s: float
    pass_in_s: float
    station: str
    pass_lasts_s: float
    pass_top_deg: float


@dataclass(frozen=True, slots=True)
class LevelOutcome:
    """Result of many rollouts, one entry a candidate.

    `allowed`: no limit crossed and the battery not lived off. `limit_order` names what `nearest` indexes:
    the limit with the least room left, in shares of a typical reserve.
    """

    allowed: npt.NDArray[np.bool_]
    battery_min_frac: Array
    battery_min_at_s: Array
    hottest_margin_k: Array
    nearest: npt.NDArray[np.int64]
    limit_order: tuple[str, ...]
    sunlit_s: float
    eclipse_s: float

    def binding_limit(self, lane: int) -> str:
        """Name of the limit that candidate `lane` comes nearest to."""
        return self.limit_order[int(self.nearest[lane])]


class Forecaster:
    """Forecasts of one satellite. `start_unix_s` is the Unix time at which `now_s` is 0."""

    def __init__(self, mission: Mission, orbit: Orbit, start_unix_s: float) -> None:
        self._mission = mission
        self._orbit = orbit
        self._mission_start_unix_s = self._start_unix_s = start_unix_s
        self._at = model.node_index(mission)
        self._stations = mission.stations
        self._horizon_steps = int(HORIZON_ORBITS * orbit.period_s / SLOT_S) * _SLOT_STEPS
        self._capacity_j = mission.battery.capacity_wh * J_PER_WH
        self._block_from = 0
        self._block_to = 0
        self._events_from_s = self._events_to_s = 0.0
        self._eclipses: list[Eclipse] = []
        self._passes: list[Pass] = []
        points_slots = -(-int(AHEAD_ORBITS * orbit.period_s / SLOT_S) // AHEAD_POINTS)
        self._ahead_slots = AHEAD_POINTS * points_slots
        self._reach_steps = max(self._horizon_steps, self._ahead_slots * _SLOT_STEPS)
        topology = model.topology(mission)
        self._levels = Rollout(topology, n_lanes=_LANES, n_steps=self._horizon_steps, n_slots=64, dt_s=STEP_S,
                               trace=True)
        self._backup = Rollout(topology, n_lanes=len(model.CONDUCTANCE_ENDS), n_steps=self._horizon_steps, n_slots=2,
                               dt_s=STEP_S, per_lane=("link_w_k",), policy_per_lane=False, precision=64)
        # Nominal and worst; lanes are the plan and the present draw.
        self._corners = tuple(Rollout(topology, n_lanes=2, n_steps=self._ahead_slots * _SLOT_STEPS,
                                      n_slots=self._ahead_slots, dt_s=STEP_S, trace=True) for _ in _CORNERS)
        self._filled: dict[Rollout, Learnt] = {}
        for rollout, caution in ((self._levels, PLAN_CAUTION), (self._backup, 1.0),
                                 *zip(self._corners, _CORNERS, strict=True)):
            self._fill(rollout, caution, AS_DESIGNED)
        for rollout in self._corners:
            rollout.slot_steps[:] = _SLOT_STEPS
        self._off_w = mission.compute.modes[0].draw_w

    # --- orbit -------------------------------------------------------------------------------------

    @property
    def start_unix_s(self) -> float:
        """Unix time at which `now_s` is 0, as corrected."""
        return self._start_unix_s

    def correct(self, correction_s: float) -> None:
        """Take the mission to have started `correction_s` later than it was said to; the orbit is looked up anew."""
        start_unix_s = self._mission_start_unix_s + correction_s
        if start_unix_s != self._start_unix_s:
            self._start_unix_s = start_unix_s
            self._block_from = self._block_to = 0
            self._events_from_s = self._events_to_s = 0.0

    def sky(self, now_s: float) -> Sky:
        """Eclipse and pass around `now_s`."""
        self._look_ahead(now_s)
        unix_s = self._start_unix_s + now_s
        eclipse = next((e for e in self._eclipses if e.penumbra_exit_unix_s > unix_s), None)
        contact = next((p for p in self._passes if p.los_unix_s > unix_s), None)
        inside = eclipse is not None and eclipse.penumbra_entry_unix_s <= unix_s
        return Sky(
            inside,
            np.inf if eclipse is None else max(0.0, eclipse.penumbra_entry_unix_s - unix_s),
            0.0 if eclipse is None or not inside else eclipse.penumbra_exit_unix_s - unix_s,
            np.inf if contact is None else max(0.0, contact.aos_unix_s - unix_s),
            "" if contact is None else contact.station,
            0.0 if contact is None else contact.los_unix_s - contact.aos_unix_s,
            0.0 if contact is None else contact.peak_elevation_deg,
        )

    def surroundings(self, now_s: float) -> Surroundings:
        """What reaches the satellite at `now_s`; what the learners hold measurements against."""
        i = self._cover(now_s)
        return Surroundings(float(self._flux[i]), float(self._heat_w[i, self._at.radiator]), bool(self._tx_w[i] > 0.0))

    def lit_slots(self, now_s: float) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Slots of the horizon, `SLOT_S` long: their ends on the `now_s` axis and whether the Sun shines in them."""
        first = self._cover(now_s)
        count = self._horizon_steps // _SLOT_STEPS
        lit = self._lit[first:first + self._horizon_steps].reshape(count, _SLOT_STEPS)
        ends = (np.arange(1, count + 1, dtype=np.float64) * _SLOT_STEPS + first + self._block_from) * STEP_S
        return ends, np.asarray(2 * lit.sum(axis=1) > _SLOT_STEPS)

    def sunrises_s(self, now_s: float) -> tuple[float, ...]:
        """Ends of the horizon's dark spells on the `now_s` axis, to the slot."""
        ends, lit = self.lit_slots(now_s)
        return tuple(ends[:-1][~lit[:-1] & lit[1:]].tolist())

    def _look_ahead(self, now_s: float) -> None:
        """Search eclipses and passes for the next day, when less than half a day of them is left."""
        if self._events_from_s <= now_s < self._events_to_s - 0.5 * _EVENTS_S:
            return
        start = self._start_unix_s + now_s
        self._eclipses = self._orbit.eclipses(start, start + _EVENTS_S)
        passes = [p for station in self._stations for p in self._orbit.passes(station, start, start + _EVENTS_S)]
        self._passes = sorted(passes, key=lambda p: p.aos_unix_s)
        self._events_from_s, self._events_to_s = now_s, now_s + _EVENTS_S

    def _cover(self, now_s: float) -> int:
        """Sample the environment so that all horizons from `now_s` are covered; return its first index."""
        first = int(now_s // STEP_S)
        if not (self._block_from <= first and first + self._reach_steps <= self._block_to):
            self._sample(first, first + self._reach_steps + int(_BLOCK_S / STEP_S))
        return first - self._block_from

    def _sample(self, begin: int, end: int) -> None:
        """Sample flux, absorbed heat and transmitter power at the middle of steps `begin` .. `end` - 1."""
        mission, at = self._mission, self._at
        unix_s = self._start_unix_s + (np.arange(begin, end, dtype=np.float64) + 0.5) * STEP_S
        around = self._orbit.environment(unix_s, Attitude(mission.array.attitude))
        self._flux = around.solar_w_m2[:, _FACE_ARRAY].copy()
        self._lit = self._flux > 0.5 * SOLAR_CONSTANT_W_M2
        thermal, array = mission.thermal, mission.array
        faces = np.ones(around.solar_w_m2.shape[1])
        bus = around.absorbed_w_m2(thermal.bus_absorptivity * faces, thermal.bus_emissivity * faces).mean(axis=1)
        radiator = around.absorbed_w_m2(thermal.radiator_absorptivity * faces,
                                        thermal.radiator_emissivity * faces)[:, _FACE_RADIATOR]
        earth = (array.absorptivity * around.albedo_w_m2 + array.emissivity_both * around.infrared_w_m2).mean(axis=1)
        heat = np.zeros((end - begin, at.total))
        heat[:, at.radiator] = thermal.radiator_area_m2 * radiator
        heat[:, at.bus] = thermal.bus_area_m2 * bus
        heat[:, at.array] = array.area_m2 * earth
        self._heat_w = heat
        self._look_ahead(begin * STEP_S)
        tx_w = np.zeros(end - begin)
        for contact in self._passes:
            tx_w[(unix_s >= contact.aos_unix_s) & (unix_s <= contact.los_unix_s)] = mission.bus.transmitter_w
        self._tx_w = tx_w
        self._block_from, self._block_to = begin, end

    # --- rollouts ----------------------------------------------------------------------------------

    def compare_levels(self, estimate: Estimate, sun_w: Array, eclipse_w: Array,
                       parameters: Mapping[str, float]) -> LevelOutcome:
        """Roll out candidates that draw `sun_w[i]` in sunlight and `eclipse_w[i]` in eclipse (W, all nodes).

        Up to 144 candidates, over the horizon, at the pessimistic corner.
        """
        rollout, steps = self._levels, self._horizon_steps
        lanes = len(sun_w)
        self._prepare(rollout, PLAN_CAUTION, estimate, steps, parameters)
        _, lit = self.lit_slots(estimate.now_s)
        edges = [0, *(np.flatnonzero(np.diff(lit)) + 1).tolist(), lit.size]
        nodes = self._mission.compute.nodes
        for slot, (begin, end) in enumerate(itertools.pairwise(edges)):
            rollout.slot_steps[slot] = (end - begin) * _SLOT_STEPS
            rollout.compute_w[slot, :, :lanes] = (sun_w if lit[begin] else eclipse_w) / nodes
        rollout.run(lanes, len(edges) - 1)
        capacity_j = float(rollout.params["battery_capacity_j"][0, 0])
        battery_min = rollout.min_battery_j[:lanes]
        floor_j = float(rollout.params["battery_floor_j"][0, 0])
        earlier_j, later_j = self._charge_at_nightfall(lanes, lit, edges)
        keep_j = np.minimum(earlier_j, floor_j + 0.75 * (capacity_j - floor_j))
        allowed = (rollout.first_crossing_step[:lanes] < 0) & (later_j >= keep_j)
        margins_k = rollout.params["limit_k"] - rollout.max_temperature_k[:, :lanes]
        # One percent of charge and one kelvin count as equally near.
        room = np.vstack((100.0 * (battery_min - floor_j) / capacity_j, margins_k))
        return LevelOutcome(
            allowed, battery_min / capacity_j,
            np.asarray(estimate.now_s + STEP_S * (rollout.min_battery_step[:lanes] + 1.0)),
            margins_k.min(axis=0), np.argmin(room, axis=0), self._limit_names(),
            float(lit.sum()) * SLOT_S, float(lit.size - lit.sum()) * SLOT_S,
        )

    def _charge_at_nightfall(self, lanes: int, lit: npt.NDArray[np.bool_], edges: Sequence[int]) -> tuple[Array, Array]:
        """Charge of each candidate at the first and the last time that the Sun sets, J.

        That is where charge says whether a load can go on: after an eclipse a low charge is as it should be.
        With one sunset the start is the first; without any the end of the horizon is the last.
        """
        trace, start_j = self._levels.trace, self._levels.params["battery_j"][0, 0]
        if trace is None:  # cannot be: asked for in __init__; states it for the type checker
            raise KernelError("Rollout", -1, "levels have no trace")
        sunsets = [slot for slot, begin in enumerate(edges[:-2]) if lit[begin]]
        last = trace[sunsets[-1] if sunsets else len(edges) - 2, -1, :lanes]
        first = trace[sunsets[0], -1, :lanes] if len(sunsets) > 1 else np.full(lanes, start_j)
        return first, last

    def first_crossing(self, estimate: Estimate, draws_w: Sequence[float], hold_s: float,
                       parameters: Mapping[str, float]) -> tuple[str, float]:
        """Roll out: nodes draw `draws_w` for `hold_s`, then everything is shed until the next dark spell ends.

        Return the limit that is crossed first at the pessimistic corner and in how many seconds; an empty
        name when none is. A Sun that is gone against the forecast is not counted on all that time.
        """
        rollout = self._backup
        hold = max(1, int(-(-hold_s // STEP_S)))
        steps = min(max(self._steps_to_light(estimate.now_s), _BACKUP_STEPS) + hold, self._horizon_steps)
        self._prepare(rollout, 1.0, estimate, steps, parameters)
        if estimate.is_shaded:
            rollout.array_flux_w_m2[:steps] = 0.0
        rollout.slot_steps[0] = hold
        rollout.slot_steps[1] = steps - hold
        for i, watts in enumerate(draws_w):
            rollout.compute_w[0, i, 0] = watts
            rollout.compute_w[1, i, 0] = self._off_w
        rollout.run()
        step = min((step for step in rollout.first_crossing_step.tolist() if step >= 0), default=-1)
        # The highest include the start: what is beyond its limit now counts, even if it cools within a step.
        margins_k = rollout.params["limit_k"][:, 0] - rollout.max_temperature_k.max(axis=1)
        hottest = int(np.argmin(margins_k))
        if step < 0 and margins_k[hottest] >= 0.0:
            return "", 0.0
        name = self._limit_names()[hottest + 1] if margins_k[hottest] < 0.0 else "battery_floor_frac"
        return name, (step + 1) * STEP_S

    def _steps_to_light(self, now_s: float) -> int:
        """Steps until the present or next dark spell is over; the horizon when it ends beyond that.

        Dark is what the array gets, not what the Earth hides: wings fixed to the zenith see little Sun long
        before and after the eclipse.
        """
        first = self._cover(now_s)
        lit = self._lit[first:first + self._horizon_steps]
        dark = int(lit.argmin())
        light = dark + int(lit[dark:].argmax())
        return light if not lit[dark] and lit[light] else self._horizon_steps

    def _prepare(self, rollout: Rollout, caution: float, estimate: Estimate, steps: int,
                 parameters: Mapping[str, float]) -> None:
        """Write environment, limits and the start: the best estimate, moved by `caution` to its worst bound."""
        first = self._cover(estimate.now_s)
        rollout.array_flux_w_m2[:steps] = self._flux[first:first + steps]
        rollout.heat_w[:steps] = self._heat_w[first:first + steps]
        rollout.tx_w[:steps] = self._tx_w[first:first + steps]
        if estimate.learnt != self._filled[rollout]:
            self._fill(rollout, caution, estimate.learnt)
        rows, at = rollout.params, self._at
        start_k, limits = rows["temperature_k"], rows["limit_k"]
        margin_k = self._mission.margins.temperature_k
        for i, bounded in enumerate(estimate.temperature_k):
            start_k[i, 0] = bounded.best + caution * (bounded.high + margin_k - bounded.best)
        die_max_k = parameters["die_max_c"] + KELVIN
        limits[: at.plate, 0] = die_max_k
        limits[at.plate, 0] = parameters["plate_max_c"] + KELVIN
        limits[at.radiator, 0] = parameters["radiator_max_c"] + KELVIN
        limits[at.battery, 0] = parameters["battery_max_c"] + KELVIN
        for i in estimate.dark_nodes:
            # It is off and was inside its limit when it was last seen; nothing that is decided here changes that.
            start_k[i, 0] = min(float(start_k[i, 0]), die_max_k)
            limits[i, 0] = _NO_LIMIT_K
        # The one place where colder is worse: let the heater come on as it would for the coldest credible pack.
        pack_k = estimate.temperature_k[at.battery]
        leans = caution > 0.0
        shift_k = pack_k.high - pack_k.low + 2.0 * margin_k + _HEATER_SHIFT_K if leans else 0.0
        rows["heater_on_k"][0, 0] = self._mission.battery.heater_on_c + KELVIN + shift_k
        rows["heater_off_k"][0, 0] = self._mission.battery.heater_off_c + KELVIN + shift_k
        rows["heater_start_on"][0, 0] = float(leans)
        # Charge is known as a fraction, so floor and charge shrink with the pack: learnt, and by its margin.
        worse = 1.0 - caution * self._mission.margins.battery_capacity_frac
        capacity_j = self._capacity_j * estimate.pack_frac * worse
        rows["battery_capacity_j"][0, 0] = capacity_j
        # A gauge is off by the same all day: a plan that took its word would meet the governor, who does not, at dawn.
        start_j = estimate.battery_j.low if leans else estimate.battery_j.best
        rows["battery_j"][0, 0] = min(start_j / self._capacity_j, 1.0) * capacity_j
        floor_frac = max(parameters["battery_floor_frac"], parameters["battery_cutoff_frac"])
        rows["battery_floor_j"][0, 0] = floor_frac * capacity_j
        rows["battery_cutoff_j"][0, 0] = 0.0

    def _fill(self, rollout: Rollout, caution: float, learnt: Learnt) -> None:
        """Write the satellite's parameters, as learnt, into a rollout's rows."""
        model.fill_constants(rollout, self._mission, caution, learnt)
        if rollout is self._backup:
            model.fill_conductances(rollout, self._mission, learnt)
        self._filled[rollout] = learnt

    def ahead(self, estimate: Estimate, plan: Plan, draws_w: Sequence[float], parameters: Mapping[str, float]) -> Ahead:
        """Roll out the plan, and the nodes' present `draws_w` going on, over three orbits at both corners.

        Beyond its end the plan repeats its last orbit. A crossing is told to the slot; dark nodes have no curve.
        """
        slots, now_s = self._ahead_slots, estimate.now_s
        middle_s = (now_s // STEP_S) * STEP_S + (np.arange(slots) + 0.5) * SLOT_S
        late_s = np.maximum(middle_s - plan.slot_end_s[-1], 0.0)
        middle_s -= np.ceil(late_s / self._orbit.period_s) * self._orbit.period_s
        at = np.searchsorted(np.array(plan.slot_end_s), middle_s, side="right")
        budget_w = np.array(plan.budget_w)[np.minimum(at, len(plan.budget_w) - 1)]
        seen = [i for i in range(self._at.plate) if i not in estimate.dark_nodes]
        outlooks: list[Outlook] = []
        curves: list[tuple[float, ...]] = []
        for rollout, caution in zip(self._corners, _CORNERS, strict=True):
            self._prepare(rollout, caution, estimate, slots * _SLOT_STEPS, parameters)
            rollout.compute_w[:, :, 0] = budget_w[:, np.newaxis] / self._mission.compute.nodes
            rollout.compute_w[:, :, 1] = draws_w
            rollout.run()
            states = rollout.trace
            if states is None:  # cannot be: asked for in __init__; states it for the type checker
                raise KernelError("Rollout", -1, "forecast has no trace")
            capacity_j = float(rollout.params["battery_capacity_j"][0, 0])
            points = states[slots // AHEAD_POINTS - 1::slots // AHEAD_POINTS, :, 0]
            curves.append(tuple((points[:, -1] / capacity_j).tolist()))
            curves.append(tuple((points[:, seen].max(axis=1) - KELVIN).tolist()) if seen else (np.nan,) * AHEAD_POINTS)
            outlooks.extend(self._outlook(rollout, states[:, :, lane]) for lane in (0, 1))
        plan_best, present_best, plan_worst, present_worst = outlooks
        charge, hottest, charge_worst, hottest_worst = curves
        return Ahead(now_s, slots // AHEAD_POINTS * SLOT_S, charge, charge_worst, hottest, hottest_worst, plan_best,
                     plan_worst, present_best, present_worst)

    def _outlook(self, rollout: Rollout, states: Array) -> Outlook:
        """Distance to each of `LIMITS` at the start and at the slots' ends, in one lane of `states`."""
        rows, at = rollout.params, self._at
        start = np.concatenate((rows["temperature_k"][:, 0], rows["battery_j"][0]))
        states = np.vstack((start, states))
        room_k = rows["limit_k"][:, 0] - states[:, :-1]
        room = np.stack((
            (states[:, -1] - rows["battery_floor_j"][0, 0]) / rows["battery_capacity_j"][0, 0],
            room_k[:, : at.plate].min(axis=1), room_k[:, at.plate], room_k[:, at.radiator], room_k[:, at.battery],
        ))
        beyond = room < 0.0
        crossing_s = np.where(beyond.any(axis=1), beyond.argmax(axis=1) * SLOT_S, np.inf)
        return Outlook(tuple(room.min(axis=1).tolist()), tuple(crossing_s.tolist()))

    def _limit_names(self) -> tuple[str, ...]:
        """Name of the limit behind each row: charge first, then one a thermal node."""
        return ("battery_floor_frac", *("die_max_c",) * self._at.plate, "plate_max_c", "radiator_max_c", "none",
                "battery_max_c", "none")


_CORNERS = (0.0, 1.0)  # caution of the forecast's two corners: the best estimate, and the worst credible
_BACKUP_STEPS = 60  # heat put in before the shed has passed through the radiator by then
_NO_LIMIT_K = 1000.0
_FACE_ARRAY = 5  # -z in `orbit.FACES`: the wings look this way
_FACE_RADIATOR = 4  # +z

"""The clairvoyant bound: no schedule that keeps the limits can be worth more on this satellite in this run.

A linear programme over slots that relaxes the true satellite (`hil.plant.satellite`), with the parameters, the
surroundings and the jobs of that very run, all arrivals known and jobs divisible. Solved off line by
`hil.compare`; nothing that flies imports it. Where truth is not linear, the side is taken that allows more:

- *Radiation.* A hot limit is relaxed by losing more heat: T^4 is replaced by its chord over a band, which lies
  above it inside the band. The band of each surface in each slot reaches from where it is on a satellite that never
  computes to where it is on one that runs flat out, or to its limit: couplings push temperatures together, so every
  schedule lies between. The linear network is then stepped exactly (matrix exponential), as an inequality: its
  matrices have no negative entry, so every true trajectory satisfies it.
- *Leakage.* A node draws c (1 + k (T - ref)) under command c. Written as its tangent plane at a reference flight
  (c0, T0), the error is k (c - c0) (T - T0). Summed from the start of the run to any moment it is not negative but
  for the heat stored in the difference: the network passes heat to the cold and radiates more when it is
  hotter, so power put in and the temperature rise where it is put in do work on it (incremental passivity).
  That store, below 0.1 Wh, is given to the battery as slack. The reference is a flight of the truth
  plant under the programme's own commands, so the error is of second order there.
- *Pack.* What is stored is a concave function of terminal power at the highest open-circuit voltage: tangents.
  The charge taper is linear in charge; a slot's mean charge may lie off the mean of its ends by a quarter of what
  the fastest charging moves. Pack heat and both survival heaters are left out (they only cost).
- *Array.* Power is that of the coldest array: everything is drawn, always.
- *Jobs.* One node at a time at most; work flows between arrival and deadline, in groups of slots; each job
  also pays its one restore at the lowest working rate. Modes are time-shared. Which activity meets which mode is
  relaxed to their sums over a slot.
- *Ends.* Charge may end at its floor: no schedule needs to leave more. Nobody on board knows that the run ends, so
  `value` can also be asked for what is possible when the charge ends no lower than given. The bound falls with that
  charge and is concave in it (it is a programme's optimum over its right side), so one solution and its price bound
  schedules that end with any other charge, by the tangent.

Conventions of value: a job counts by the fraction that is done between arrival and deadline, within the run. A
schedule is credited with finished jobs only, so the bound holds for it. A job whose deadline lies beyond the
end still counts by the fraction that the run can do; `closed_only` leaves such jobs out, on both sides.

Left out, and small: the way power is spread within a slot (checked by halving slots), and a lag of half a
minute between a die and its plate. `_LIMIT_SLACK_K` is given to the limits for that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import highspy
import numpy as np
import numpy.typing as npt

from flightsw.errors import FlightError
from flightsw.kernels import Plant
from flightsw.physics.units import J_PER_WH, KELVIN, STEFAN_BOLTZMANN_W_M2_K4
from flightsw.state import JobSpec
from hil.jobs import StreamConfig, true_job
from hil.plant.environment import TruthEnvironment
from hil.plant.satellite import StartState, Truth, absorbed_w, fill_model, thermal_nodes

Array = npt.NDArray[np.float64]
Columns = npt.NDArray[np.int64]
Terms = Sequence[tuple[Columns, Array | float]]

SLOT_S = 180.0
GROUP_SLOTS = 5
_SIM_STEP_S = 10
_LIMIT_SLACK_K = 0.3
_BATTERY_SLACK_WH = 0.1
_TANGENTS_W = (-110.0, -80.0, -55.0, -35.0, -15.0, 0.0, 15.0, 35.0, 60.0)
_PLATE, _ROOT, _TIP, _BUS, _PACK = range(5)


class BoundError(FlightError):
    """The programme has no solution, or a schedule did better than its bound: the bound is wrong."""


class Work(NamedTuple):
    """One job as it really is. `units` includes the one restore that it needs at least, at the lowest rate."""

    job_id: int
    units: float
    activity_frac: float
    value: float
    arrival_s: float
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Solution:
    """What the programme found. `amount` is value or work units; arrays are per slot.

    `fractions` is the share of each job that it did, in the order of the jobs; `end_price_per_wh` is what the least
    end charge costs.
    """

    amount: float
    fractions: Array
    compute_w: Array
    plate_c: Array
    radiator_c: Array
    charge_frac: Array
    end_price_per_wh: float
    command_w: Array
    columns: int
    rows: int
    solve_s: float


class _Reference(NamedTuple):
    """A flight of the truth plant: mean command and mean die temperature (slots, nodes)."""

    command_w: Array
    die_k: Array


class _Flown(NamedTuple):
    """The truth plant under given commands, at the ends of the simulation's steps.

    Dies (steps, nodes), the array, the colder end of each step (steps), and the surfaces that radiate, from the
    start on (steps + 1, 3): root, tip, bus. K.
    """

    die_k: Array
    array_k: Array
    surface_k: Array


def works_of(jobs: Sequence[JobSpec], config: StreamConfig, seed: int, truth: Truth, duration_s: float, *,
             closed_only: bool) -> tuple[Work, ...]:
    """True jobs of a run; `closed_only` leaves out those whose deadline lies beyond its end."""
    restore = truth.compute.restore_s * min(mode.rate for mode in truth.compute.modes if mode.rate > 0.0)
    works = []
    for spec in jobs:
        if spec.arrival_s >= duration_s or (closed_only and spec.deadline_s > duration_s):
            continue
        activity, units = true_job(spec, config, seed)
        works.append(Work(spec.job_id, units + restore, activity, spec.value, spec.arrival_s, spec.deadline_s))
    return tuple(works)


class Relaxation:
    """The programme of one run without its jobs: slots, energy that comes, heat that goes.

    `limits` are the mission's parameters, `transmitting` says for each second whether the transmitter is on,
    node i is gone from `node_lost_s[i]` on.
    """

    def __init__(self, truth: Truth, around: TruthEnvironment, start: StartState, limits: dict[str, float],
                 transmitting: npt.NDArray[np.bool_], *, slot_s: float = SLOT_S,
                 node_lost_s: Sequence[float] = ()) -> None:
        self.truth, self.limits, self.slot_s = truth, limits, slot_s
        self.nodes = truth.compute.nodes
        self._start = start
        width = int(slot_s)
        given = transmitting.size
        self.slots = -(-given // width)
        seconds = self.slots * width  # the last slot is filled up with its last second
        self.duration_s = float(given)
        shape = (self.slots, width)
        transmitting = np.pad(transmitting, (0, seconds - given), mode="edge")
        self._transmit = transmitting.reshape(shape).mean(axis=1)
        heat = np.pad(absorbed_w(truth, around, slice(0, given)), ((0, seconds - given), (0, 0)), mode="edge")
        flux_w_m2 = np.pad(around.array_flux_w_m2[:given], (0, seconds - given), mode="edge")
        at = thermal_nodes(self.nodes)
        self._flux10 = _means(flux_w_m2, _SIM_STEP_S)
        self._heat10 = _means(heat, _SIM_STEP_S)
        self._transmit10 = transmitting[::_SIM_STEP_S]
        self._env_w = heat.reshape(self.slots, width, -1).mean(axis=1)[
            :, [at.plate, at.root, at.tip, at.bus, at.battery]]
        off = truth.compute.modes[0].draw_w
        idle = self._fly(np.full((self.slots, self.nodes), off))
        cold_array_k = idle.array_k
        self.band_k = self._bands(idle)
        array = truth.array
        derate = 1.0 + array.temp_coeff_per_k * (cold_array_k - array.reference_c - KELVIN)
        scale = array.area_m2 * array.efficiency_frac * array.health_frac * array.mppt_frac
        flux = flux_w_m2.reshape(-1, _SIM_STEP_S)
        # The colder end of each step of the simulation bounds it.
        self._available_w = (flux * (scale * derate)[:, None]).reshape(shape).mean(axis=1)
        self._array_c = _means(cold_array_k, width // _SIM_STEP_S) - KELVIN
        ends = np.arange(1, self.slots + 1) * slot_s
        alive = np.ones((self.slots, self.nodes))
        for node, lost_s in enumerate(node_lost_s):
            alive[:, node] = np.clip((lost_s - (ends - slot_s)) / slot_s, 0.0, 1.0)
        self._alive = alive
        self._reference = self._first_reference()

    # --- the truth plant, flown under given commands ---------------------------------------------

    def _fly(self, command_w: Array) -> _Flown:
        """Fly the plant with an endless pack and without survival heaters."""
        plant, truth = Plant(), self.truth
        fill_model(plant, truth)
        model, state, at = plant.model, plant.state, thermal_nodes(self.nodes)
        model.battery_capacity_j, model.charge_limit_w, model.taper_start_frac = 1e12, 1e9, 1.0
        model.battery_resistance_ohm, model.charge_efficiency_frac, model.cutoff_frac = 0.0, 1.0, 0.0
        model.heater_w[0] = model.heater_w[1] = 0.0
        for node in range(at.total):
            state.temperature_k[node] = self._start.body_c + KELVIN
        state.temperature_k[at.battery] = self._start.battery_c + KELVIN
        state.temperature_k[at.array] = self._start.array_c + KELVIN
        state.battery_j = 5e11
        per_slot = int(self.slot_s) // _SIM_STEP_S
        commands = command_w.tolist()
        die_k = np.zeros((len(self._flux10), self.nodes))
        array_k = np.zeros(len(self._flux10))
        surfaces = (at.root, at.tip, at.bus)
        surface_k = np.full((len(self._flux10) + 1, len(surfaces)), self._start.body_c + KELVIN)
        flux, heat, transmit = self._flux10.tolist(), self._heat10.tolist(), self._transmit10.tolist()
        for step in range(len(flux)):
            before_k = state.temperature_k[at.array]
            plant.advance(flux[step], heat[step], commands[step // per_slot], transmit[step], 1.0, _SIM_STEP_S)
            die_k[step] = [state.temperature_k[i] for i in range(self.nodes)]
            array_k[step] = min(before_k, state.temperature_k[at.array])
            surface_k[step + 1] = [state.temperature_k[i] for i in surfaces]
        return _Flown(die_k, array_k, surface_k)

    def _bands(self, idle: _Flown) -> Array:
        """Lowest and highest temperature that any schedule can have in each slot, K (2, slots, 3 surfaces)."""
        compute = self.truth.compute
        most_w = max(mode.draw_w for mode in compute.modes) * _ACTIVITY_MAX
        hot = self._fly(np.full((self.slots, self.nodes), most_w) * np.array(compute.draw_scale))
        low_k, high_k = (_within(flown.surface_k, int(self.slot_s) // _SIM_STEP_S, pick)
                         for flown, pick in ((idle, np.min), (hot, np.max)))
        limit_k = self.limits["radiator_max_c"] + KELVIN + _LIMIT_SLACK_K
        high_k[:, :2] = np.minimum(high_k[:, :2], limit_k)
        return np.stack((low_k, np.maximum(high_k, low_k + _BAND_LEAST_K)))

    def _fly_means(self, command_w: Array) -> _Reference:
        """Fly commands and note the dies' means of each slot."""
        return _Reference(command_w, _means(self._fly(command_w).die_k, int(self.slot_s) // _SIM_STEP_S))

    def _first_reference(self) -> _Reference:
        """All nodes in the most efficient mode without end."""
        compute = self.truth.compute
        best = max(compute.modes, key=lambda mode: mode.rate / mode.draw_w)
        command = np.full((self.slots, self.nodes), best.draw_w) * np.array(compute.draw_scale) * self._alive
        return self._fly_means(command)

    def settle(self, works: Sequence[Work] = (), rounds: int = 2) -> None:
        """Move the reference half the way to where the programme itself would fly, `rounds` times: solve, fly it."""
        activity = float(np.mean([work.activity_frac for work in works])) if works else 1.0
        for _ in range(rounds):
            command = 0.5 * (self._reference.command_w + self._solve((), activity).command_w)
            self._reference = self._fly_means(command)

    # --- what it answers -------------------------------------------------------------------------

    def divisible(self, end_charge_frac: float = 0.0) -> Solution:
        """Most work units without jobs: endless work of activity 1, the charge ending no lower than given."""
        return self._solve((), 1.0, end_charge_frac=end_charge_frac)

    def value(self, works: Sequence[Work], end_charge_frac: float = 0.0) -> Solution:
        """Most value of these jobs, when the charge ends no lower than given."""
        return self._solve(works, 1.0, end_charge_frac=end_charge_frac)

    def admits(self, share: Array, activity_frac: float) -> bool:
        """Tell whether a schedule that was flown is one of the programme's: a check of the relaxation itself.

        `share` (slots, nodes, working modes) is the part of each slot that a node spent in each mode.
        """
        try:
            self._solve((), activity_frac, pinned=share)
        except BoundError:
            return False
        return True

    # --- the programme ---------------------------------------------------------------------------

    def leakage(self) -> tuple[Array, Array, Array]:
        """Tangent plane of the nodes' power: gain on each command (slots, nodes), W per degC of plate, offset W."""
        compute, leak = self.truth.compute, self.truth.compute.leakage_per_k
        command0, die0_k = self._reference
        series_k_w = 1.0 / np.array(compute.module_to_plate_w_k) + compute.die_heat_frac / compute.die_to_module_w_k
        own = 1.0 - leak * command0 * series_k_w
        gain = (1.0 + leak * (die0_k - KELVIN - compute.leakage_reference_c)) / own
        return (gain, (leak * command0 / own).sum(axis=1),
                -(leak * command0 * (die0_k - KELVIN) / own).sum(axis=1))

    def _network(self) -> tuple[Array, Array, Array]:
        """Step matrices of the linear network and the constant heat (W) of its chords in each slot, states in degC."""
        truth = self.truth
        structure, battery, compute = truth.structure, truth.battery, truth.compute
        modules = self.nodes * (compute.die_heat_capacity_j_k + compute.module_heat_capacity_j_k)
        capacity = np.array([structure.plate_heat_capacity_j_k + modules, structure.root_heat_capacity_j_k,
                             structure.tip_heat_capacity_j_k, structure.bus_heat_capacity_j_k,
                             battery.heat_capacity_j_k])
        stiffness = np.zeros((5, 5))
        for a, b, w_k in ((_PLATE, _ROOT, structure.plate_to_radiator_w_k), (_ROOT, _TIP, structure.root_to_tip_w_k),
                          (_PLATE, _BUS, structure.plate_to_bus_w_k), (_BUS, _PACK, battery.to_bus_w_k)):
            stiffness[[a, b], [a, b]] += w_k
            stiffness[[a, b], [b, a]] -= w_k
        stiffness[_BUS, _BUS] += truth.array.to_bus_w_k  # the array is a boundary
        low_k, high_k = self.band_k
        slope = (high_k**4 - low_k**4) / (high_k - low_k)
        stiffness = np.repeat(stiffness[None], self.slots, axis=0)
        constant_w = np.zeros((self.slots, 5))
        for place, (node, m2) in enumerate((
                (_ROOT, structure.root_area_m2 * structure.radiator_emissivity),
                (_TIP, structure.tip_area_m2 * structure.radiator_emissivity),
                (_BUS, sum(structure.face_area_m2) * structure.bus_emissivity))):
            sigma_m2 = STEFAN_BOLTZMANN_W_M2_K4 * m2
            stiffness[:, node, node] += sigma_m2 * slope[:, place]
            constant_w[:, node] = -sigma_m2 * (low_k**4 + slope * (KELVIN - low_k))[:, place]
        root = np.sqrt(capacity)
        rates, modes = np.linalg.eigh(stiffness / np.outer(root, root))
        left, right = modes / root[:, None], np.swapaxes(modes * root[:, None], 1, 2)
        decay = np.exp(-rates * self.slot_s)
        step = (left * decay[:, None]) @ right
        gain = (left * ((1.0 - decay) / rates)[:, None]) @ right / capacity
        return step, gain, constant_w

    def _pack_tangents(self) -> list[tuple[float, float]]:
        """Tangents (slope, offset W) above what the pack stores at a terminal power."""
        battery = self.truth.battery
        charge = np.linspace(0.0, 1.0, 401)
        ocv = float(np.polynomial.polynomial.polyval(charge, battery.ocv_v).max())
        lines = []
        for watts in _TANGENTS_W:
            root = math.sqrt(ocv * ocv + 4.0 * battery.resistance_ohm * watts)
            stored = 2.0 * watts * ocv / (ocv + root)
            slope = ocv / root
            for efficiency in ((battery.charge_efficiency_frac,) if watts > 0.0 else
                               (1.0, battery.charge_efficiency_frac) if watts == 0.0 else (1.0,)):
                lines.append((efficiency * slope, efficiency * (stored - slope * watts)))
        return lines

    def _solve(self, works: Sequence[Work], activity: float, pinned: Array | None = None,
               end_charge_frac: float = 0.0) -> Solution:
        """Build and solve. Without `works` every node has endless work of one activity; `pinned` gives the shares."""
        began = time.perf_counter()
        truth, limits, n, slots, slot_s = self.truth, self.limits, self.nodes, self.slots, self.slot_s
        compute, battery, platform = truth.compute, truth.battery, truth.platform
        working = [mode for mode in compute.modes if mode.rate > 0.0]
        count = len(working)
        rates = np.array([mode.rate for mode in working])
        draws = np.array([mode.draw_w for mode in working])
        scales = np.array(compute.draw_scale)
        capacity_wh = battery.capacity_wh
        low_a = min((work.activity_frac for work in works), default=activity)
        high_a = max((work.activity_frac for work in works), default=activity)
        lp = _Programme()
        alive = self._alive
        # Shares of nodes in each working mode (count), the same weighted with activity and by node (count * n), ...
        share = [lp.columns(slots, 0.0, alive.sum(axis=1)) for _ in range(count)]
        drawn = [[lp.columns(slots, 0.0, high_a * alive[:, i]) for i in range(n)] for _ in range(count)]
        if pinned is not None:
            for m in range(count):
                lp.rows([(share[m], 1.0)], pinned[:, :, m].sum(axis=1), pinned[:, :, m].sum(axis=1))
                for i in range(n):
                    lp.rows([(drawn[m][i], 1.0)], activity * pinned[:, i, m], activity * pinned[:, i, m])
        # ... total power, five temperatures and charge at slot ends, power at the pack's terminals.
        power = lp.columns(slots, 0.0, limits["payload_max_w"])
        upper_c = (limits["plate_max_c"], limits["radiator_max_c"], limits["radiator_max_c"], np.inf, np.inf)
        heat = [lp.columns(slots, -200.0, upper + _LIMIT_SLACK_K) for upper in upper_c]
        full_wh = capacity_wh + _BATTERY_SLACK_WH
        floor_wh = max(limits["battery_floor_frac"], limits["battery_cutoff_frac"]) * capacity_wh
        least_wh = np.full(slots, floor_wh)
        least_wh[-1] = max(floor_wh, end_charge_frac * capacity_wh)
        charge = lp.columns(slots, least_wh - _BATTERY_SLACK_WH, full_wh)
        pack = lp.columns(slots, -400.0, battery.charge_limit_w)
        start_c = np.array([self._start.body_c] * 4 + [self._start.battery_c])
        start_wh = self._start.charge_frac * capacity_wh

        nodes_up = alive.sum(axis=1)
        lp.rows([(column, 1.0) for column in share], -np.inf, nodes_up)
        for i in range(n):
            lp.rows([(drawn[m][i], 1.0) for m in range(count)], -np.inf, high_a * alive[:, i])
        for m in range(count):
            lp.rows([(share[m], -low_a), *((drawn[m][i], 1.0) for i in range(n))], 0.0, np.inf)
            lp.rows([(share[m], -high_a), *((drawn[m][i], 1.0) for i in range(n))], -np.inf, 0.0)

        # Power with leakage, tangent plane at the reference; a node that is off still draws.
        gain_w, slope_w_k, offset_w = self.leakage()
        off_w = compute.modes[0].draw_w * float(scales.min()) * gain_w.min(axis=1)
        terms: list[tuple[Columns, Array | float]] = [(power, -1.0), (heat[_PLATE], 0.5 * slope_w_k)]
        terms += [(drawn[m][i], draws[m] * scales[i] * gain_w[:, i]) for m in range(count) for i in range(n)]
        terms += [(share[m], -off_w) for m in range(count)]
        constant = -offset_w - off_w * nodes_up
        constant[0] -= 0.5 * slope_w_k[0] * start_c[_PLATE]
        lp.rows(terms, constant, constant, previous=[(heat[_PLATE], 0.5 * slope_w_k)])

        # Heat: each temperature at least what the linear network makes of the last ones.
        step, gain, chord_w = self._network()
        inputs_w = self._env_w + chord_w
        inputs_w[:, _BUS] += (platform.bus_w + platform.transmitter_w * platform.transmitter_heat_frac * self._transmit
                              + truth.array.to_bus_w_k * self._array_c)
        fed = np.einsum("tij,tj->ti", gain, inputs_w)
        for node in range(5):
            least = fed[:, node].copy()
            least[0] += float(step[0, node] @ start_c)
            lp.rows([(heat[node], 1.0), (power, -gain[:, node, _PLATE])], least, np.inf,
                    previous=[(heat[other], -step[:, node, other]) for other in range(5)])

        # Energy: array carries bus, transmitter, compute and pack; the pack stores by its tangents.
        load_w = platform.bus_w + platform.transmitter_w * self._transmit
        lp.rows([(power, 1.0), (pack, 1.0)], -load_w, self._available_w - load_w)
        hours = slot_s / J_PER_WH
        for slope, offset in self._pack_tangents():
            most = np.full(slots, offset * hours)
            most[0] += start_wh
            lp.rows([(charge, 1.0), (pack, -slope * hours)], -np.inf, most, previous=[(charge, -1.0)])
        per_wh = battery.charge_limit_w / ((1.0 - battery.taper_start_frac) * capacity_wh)
        slack_wh = 0.25 * (battery.charge_limit_w + limits["payload_max_w"]) * hours + _BATTERY_SLACK_WH
        most = np.full(slots, per_wh * (capacity_wh + slack_wh))
        most[0] -= 0.5 * per_wh * start_wh
        lp.rows([(pack, 1.0), (charge, 0.5 * per_wh)], -np.inf, most, previous=[(charge, 0.5 * per_wh)])

        flows: list[tuple[int, Columns]] = []
        if works:
            self._add_jobs(lp, works, share, drawn, rates, flows)
        else:
            for m in range(count):
                lp.cost(share[m], rates[m] * slot_s)
        amount, x, prices = lp.solve()
        fractions = np.array([float(x[columns].sum()) / work.units * _UNIT for work, (_, columns) in
                              zip(works, flows, strict=True)])
        command = np.einsum("m,i,mit->ti", draws, scales, x[np.array(drawn)])
        return Solution(amount, fractions, x[power], x[heat[_PLATE]], x[heat[_ROOT]], x[charge] / capacity_wh,
                        abs(float(prices[charge[-1]])), command, lp.n_columns, lp.n_rows, time.perf_counter() - began)

    def _add_jobs(self, lp: _Programme, works: Sequence[Work], share: list[Columns], drawn: list[list[Columns]],
                  rates: Array, flows: list[tuple[int, Columns]]) -> None:
        """Let work flow from jobs to groups of slots."""
        group_s = GROUP_SLOTS * self.slot_s
        groups = math.ceil(self.slots / GROUP_SLOTS)
        done_in: list[list[tuple[int, float]]] = [[] for _ in range(groups)]
        most_rate = float(rates.max())
        for work in works:
            until_s = min(work.deadline_s, self.duration_s)
            first, last = int(work.arrival_s // group_s), min(math.ceil(until_s / group_s), groups)
            starts = np.arange(first, last) * group_s
            overlap_s = np.minimum(starts + group_s, until_s) - np.maximum(starts, work.arrival_s)
            columns = lp.columns(len(starts), 0.0, np.maximum(overlap_s, 0.0) * most_rate / _UNIT)
            lp.cost(columns, work.value / work.units * _UNIT)
            lp.row([(int(column), 1.0) for column in columns], -np.inf, work.units / _UNIT)
            flows.append((work.job_id, columns))
            for group, column in zip(range(first, last), columns.tolist(), strict=True):
                done_in[group].append((column, work.activity_frac))
        per_unit = self.slot_s / _UNIT
        for group, done in enumerate(done_in):
            slots = range(group * GROUP_SLOTS, min((group + 1) * GROUP_SLOTS, self.slots))
            can = [(int(share[m][t]), rates[m] * per_unit) for t in slots for m in range(len(rates))]
            lp.row([*can, *((column, -1.0) for column, _ in done)], 0.0, np.inf)
            can = [(int(column[t]), rates[m] * per_unit)
                   for t in slots for m in range(len(rates)) for column in drawn[m]]
            lp.row([*can, *((column, -activity) for column, activity in done)], 0.0, np.inf)


_ACTIVITY_MAX = 1.5  # of any job
_BAND_LEAST_K = 1.0
_UNIT = 1000.0  # work units in the programme's columns: keeps its numbers near one


def _means(rows: Array, width: int) -> Array:
    """Means of consecutive `width` rows."""
    return np.asarray(rows.reshape(len(rows) // width, width, *rows.shape[1:]).mean(axis=1))


def _within(rows: Array, width: int, pick: Callable[..., Array]) -> Array:
    """Least or most of each slot of `width` steps, both its ends included; `rows` begin with the start."""
    inner = rows[1:].reshape(-1, width, rows.shape[1])
    edges = rows[:-1].reshape(-1, width, rows.shape[1])[:, 0]
    return np.asarray(pick(np.stack((pick(inner, axis=1), edges)), axis=0))


class _Programme:
    """Collects columns and rows and hands them to HiGHS (Huangfu and Hall 2018), maximising."""

    def __init__(self) -> None:
        self.n_columns = 0
        self.n_rows = 0
        self._lower: list[Array] = []
        self._upper: list[Array] = []
        self._costs: list[tuple[Columns, Array]] = []
        self._row_lower: list[Array] = []
        self._row_upper: list[Array] = []
        self._at: list[tuple[Columns, Columns, Array]] = []

    def columns(self, count: int, lower: Array | float, upper: Array | float) -> Columns:
        """Add `count` columns and return their numbers."""
        first = self.n_columns
        self.n_columns += count
        self._lower.append(np.broadcast_to(np.asarray(lower, np.float64), count))
        self._upper.append(np.broadcast_to(np.asarray(upper, np.float64), count))
        return np.arange(first, self.n_columns)

    def cost(self, columns: Columns, worth: Array | float) -> None:
        """Set what one unit of each column is worth."""
        self._costs.append((columns, np.broadcast_to(np.asarray(worth, np.float64), len(columns))))

    def rows(self, terms: Terms, lower: Array | float, upper: Array | float,
             previous: Terms = ()) -> None:
        """Add one row a slot; `previous` terms take the column of the slot before, and none in the first."""
        count = len(terms[0][0])
        rows = np.arange(self.n_rows, self.n_rows + count)
        self.n_rows += count
        for columns, factor in terms:
            self._at.append((rows, columns, np.broadcast_to(np.asarray(factor, np.float64), count)))
        for columns, factor in previous:
            self._at.append((rows[1:], columns[:-1], np.broadcast_to(np.asarray(factor, np.float64), count)[1:]))
        self._row_lower.append(np.broadcast_to(np.asarray(lower, np.float64), count))
        self._row_upper.append(np.broadcast_to(np.asarray(upper, np.float64), count))

    def row(self, terms: Sequence[tuple[int, float]], lower: float, upper: float) -> None:
        """Add a single row."""
        columns = np.array([column for column, _ in terms], np.int64)
        self._at.append((np.full(len(terms), self.n_rows), columns, np.array([factor for _, factor in terms])))
        self.n_rows += 1
        self._row_lower.append(np.array([lower]))
        self._row_upper.append(np.array([upper]))

    def solve(self) -> tuple[float, Array, Array]:
        """Return the optimum, the columns' values and their reduced costs; BoundError when there is none."""
        rows, columns, factors = (np.concatenate(part) for part in zip(*self._at, strict=True))
        order = np.lexsort((columns, rows))
        rows, columns, factors = rows[order], columns[order], factors[order]
        fresh = np.concatenate(([True], (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])))
        factors = np.add.reduceat(factors, np.flatnonzero(fresh))
        rows, columns = rows[fresh], columns[fresh]
        cost = np.zeros(self.n_columns)
        for at, worth in self._costs:
            cost[at] += worth
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = self.n_columns, self.n_rows
        lp.col_cost_, lp.col_lower_, lp.col_upper_ = cost, np.concatenate(self._lower), np.concatenate(self._upper)
        lp.row_lower_, lp.row_upper_ = np.concatenate(self._row_lower), np.concatenate(self._row_upper)
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_ = np.searchsorted(rows, np.arange(self.n_rows + 1)).astype(np.int32)
        lp.a_matrix_.index_, lp.a_matrix_.value_ = columns.astype(np.int32), factors
        lp.sense_ = highspy.ObjSense.kMaximize
        solver = highspy.Highs()  # type: ignore[no-untyped-call] # the library leaves it untyped
        solver.setOptionValue("output_flag", False)
        solver.setOptionValue("threads", 1)
        solver.setOptionValue("solver", "ipm")
        solver.setOptionValue("run_crossover", "off")
        solver.passModel(lp)
        solver.run()
        status = solver.getModelStatus()
        if status != highspy.HighsModelStatus.kOptimal:
            raise BoundError(f"bound: {self.n_columns} columns, {self.n_rows} rows: HiGHS says "
                             f"{solver.modelStatusToString(status)}")
        solution = solver.getSolution()
        return (float(solver.getInfo().objective_function_value), np.array(solution.col_value),
                np.array(solution.col_dual))

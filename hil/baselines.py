"""What a user would otherwise take: power and scheduling policies from the field, behind the brain's door.

Flown by `hil.compare` on the same plant, jobs, sensors and estimator as the flight brain; nothing that flies
imports this. Every policy decides how much the nodes may draw; which jobs they get goes by earliest deadline or
by value for work, and a job that no mode could finish in time any more is passed over. They promise every job
on arrival; with "energy" in the name only those whose energy, with that of all promises before, will be there
by their deadlines (charge above the floor and expected sunlight).

Settings are the best of the sweeps given with each class: value over bound without a limit crossed, if any
setting crossed none, mean of the overload-1.5 scenarios of both missions, eight orbits, order of density,
seeds 901 and 902, which no comparison uses. In the sweeps below "best" has the ratio; * crossed a limit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flightsw.decide.brain import Tally
from flightsw.dictionary import commands
from flightsw.dictionary.parameters import PARAMETERS
from flightsw.mission import Mission
from flightsw.physics.forecast import SLOT_S, Forecaster
from flightsw.physics.units import J_PER_WH, KELVIN
from flightsw.state import (
    LEGAL_TRANSITIONS,
    Decision,
    Estimate,
    Inputs,
    JobSpec,
    JobState,
    JobTransition,
    JobView,
    Mode,
    NodeCommand,
    Plan,
    SetMode,
    Verification,
)

_RAIL_FRAC = 0.93
"""Share of the payload rail that declared draws may take: leakage and wrong declarations need the rest."""
_LOSS_FRAC = 0.93
"""What of the array's energy reaches the nodes over an orbit: pack loss and curtailment, usual design figure."""


class View:
    """What a policy may look at: charge, plate, the Sun, and how many jobs wait."""

    def __init__(self, mission: Mission, forecaster: Forecaster) -> None:
        self.mission, self._forecaster = mission, forecaster
        modes = mission.compute.modes
        self.nodes = mission.compute.nodes
        self.draws_w = [mode.draw_w for mode in modes]
        self.rates = [mode.rate for mode in modes]
        self.floor_frac = mission.parameters["battery_floor_frac"]
        self.plate_max_c = mission.parameters["plate_max_c"]
        self.capacity_j = mission.battery.capacity_wh * J_PER_WH
        array, bus = mission.array, mission.bus
        # In full sunlight at 30 degC, the mean of an array that is cold after eclipse and hot before the next.
        self.sun_w = (1361.0 * array.area_m2 * array.efficiency_frac * array.mppt_frac * array.health_frac
                      * (1.0 + array.temp_coeff_per_k * (30.0 - array.reference_c)))
        self.bus_w = bus.idle_w
        ends_s, lit = forecaster.lit_slots(0.0)
        self.lit_frac = float(lit.sum()) * SLOT_S / float(ends_s[-1])
        self.average_w = max(0.0, self.sun_w * self.lit_frac * _LOSS_FRAC - self.bus_w)
        self.now_s = 0.0
        self.charge_frac = 0.0
        self.plate_c = 0.0
        self.jobs: Sequence[JobView] = ()

    def update(self, estimate: Estimate, jobs: Sequence[JobView]) -> None:
        """Take in one tick."""
        self.now_s = estimate.now_s
        self.charge_frac = estimate.battery_j.best / self.capacity_j
        self.plate_c = estimate.temperature_k[self.nodes].best - KELVIN
        self.jobs = jobs

    def harvest_j(self, until_s: float) -> float:
        """Energy for the nodes expected from now until then, without the charge."""
        return max(0.0, until_s - self.now_s) * self.average_w

    def spare_j(self) -> float:
        """Charge above the floor."""
        return max(0.0, self.charge_frac - self.floor_frac) * self.capacity_j


class Levels(ABC):
    """How much the nodes may draw: the part in which the policies differ."""

    @abstractmethod
    def modes(self, view: View, placed: Sequence[JobView | None]) -> list[int]:
        """Power mode that each node may have now."""


@dataclass
class Fixed(Levels):
    """One mode for every node, always. Sweep: 15 W 0.837*, 25 W 0.836*."""

    mode: int = 3

    def modes(self, view: View, placed: Sequence[JobView | None]) -> list[int]:
        """See `Levels`."""
        return [self.mode] * len(placed)


@dataclass
class BangBang(Levels):
    """On in one mode until charge is low or the plate hot, then off until both have recovered (thermostat).

    Sweep: 15 W, off/on 0.712/0.73 0.822*, 0.715/0.73 best 0.822, 0.715/0.76 0.810, 0.72/0.80 0.801; 25 W, the
    same 0.789*, -, 0.760*, 0.742*.
    """

    mode: int = 3
    charge_off_frac: float = 0.715
    charge_on_frac: float = 0.73
    plate_off_c: float = 53.0
    plate_on_c: float = 48.0
    on: bool = True

    def modes(self, view: View, placed: Sequence[JobView | None]) -> list[int]:
        """See `Levels`."""
        if view.charge_frac < self.charge_off_frac or view.plate_c > self.plate_off_c:
            self.on = False
        elif view.charge_frac > self.charge_on_frac and view.plate_c < self.plate_on_c:
            self.on = True
        return [self.mode if self.on else 0] * len(placed)


@dataclass
class StepWise(Levels):
    """Linux `step_wise` (drivers/thermal/gov_step_wise.c): beyond the trip one step down each poll while the trend
    is away from it, below the trip one step up each poll. The plate is one zone, the falling charge another.

    Sweep: charge trip 0.74, 0.78, 0.82 and poll 30, 60 s: 0.818* 0.824* 0.824 0.826 0.820 best 0.827.
    """

    top: int = 4
    plate_trip_c: float = 50.0
    charge_trip_frac: float = 0.82
    poll_s: float = 60.0
    state: int = 0  # cooling state: steps below `top`
    due_s: float = 0.0
    last: tuple[float, float] = (0.0, 0.0)

    def modes(self, view: View, placed: Sequence[JobView | None]) -> list[int]:
        """See `Levels`."""
        if view.now_s >= self.due_s:
            self.due_s = view.now_s + self.poll_s
            plate_c, charge = self.last
            self.last = (view.plate_c, view.charge_frac)
            worse = (view.plate_c > self.plate_trip_c and view.plate_c > plate_c) or (
                view.charge_frac < self.charge_trip_frac and view.charge_frac < charge)
            clear = view.plate_c < self.plate_trip_c and (
                view.charge_frac > self.charge_trip_frac or view.charge_frac > charge)
            if worse:
                self.state = min(self.state + 1, self.top - 1)
            elif clear:
                self.state = max(self.state - 1, 0)
        mode = self.top - self.state
        return [mode if mode >= 2 and view.charge_frac > view.floor_frac + 0.01 else 0] * len(placed)


@dataclass
class PowerAllocator(Levels):
    """Linux `power_allocator` (IPA; drivers/thermal/gov_power_allocator.c, X. Wang et al., ARM 2015): a PID
    controller on the control temperature turns into a power budget, shared by request; each node gets the highest
    mode within its share. A second controller does the same for charge; the smaller budget holds.

    Sweep: charge set point 0.76, 0.80, 0.84 at 300 W 0.840* 0.834 0.817, at 800 W 0.826* 0.818 0.813; 0.78 at
    300 W 0.840; 0.80 at 150 W best 0.842.
    """

    sustainable_frac: float = 1.0  # of the orbit-average power
    plate_set_c: float = 52.0
    charge_set_frac: float = 0.80
    k_w_per_k: float = 6.0
    k_w_per_frac: float = 150.0
    ki_frac_per_s: float = 0.0005
    integral_w: float = 0.0
    last_s: float = 0.0

    def modes(self, view: View, placed: Sequence[JobView | None]) -> list[int]:
        """See `Levels`."""
        sustainable_w = self.sustainable_frac * view.average_w
        error = view.charge_frac - self.charge_set_frac
        step_s, self.last_s = view.now_s - self.last_s, view.now_s
        # The integral is held while the error is large, as IPA's cutoff does.
        if abs(error) < 0.05:
            limit_w = 0.3 * sustainable_w
            self.integral_w += self.ki_frac_per_s * self.k_w_per_frac * error * min(step_s, 60.0)
            self.integral_w = min(max(self.integral_w, -limit_w), limit_w)
        by_charge_w = sustainable_w + self.k_w_per_frac * error + self.integral_w
        by_heat_w = sustainable_w + self.k_w_per_k * (self.plate_set_c - view.plate_c)
        budget_w = max(0.0, min(by_charge_w, by_heat_w))
        asking = [job for job in placed if job is not None]
        if not asking or view.charge_frac < view.floor_frac + 0.01:
            return [0] * len(placed)
        request_w = sum(view.draws_w[-1] * job.spec.activity_frac for job in asking)
        modes = []
        for job in placed:
            if job is None:
                modes.append(0)
                continue
            activity = job.spec.activity_frac
            granted_w = budget_w * view.draws_w[-1] * activity / request_w
            modes.append(max((i for i in range(2, len(view.draws_w)) if view.draws_w[i] * activity <= granted_w),
                             default=0))
        return modes


@dataclass
class Duty(Levels):
    """A static duty cycle from the orbit-average power: in each period all nodes run for their share of it, in the
    lowest mode that can spend it; off near the floor and near the plate's limit.

    Sweep: 0.9, 1.0, 1.1, 1.2 of the average 0.715 0.794 best 0.827 0.875*.
    """

    average_frac: float = 1.10
    period_s: float = 120.0
    guard_frac: float = 0.015

    def modes(self, view: View, placed: Sequence[JobView | None]) -> list[int]:
        """See `Levels`."""
        target_w = self.average_frac * view.average_w
        n = len(placed)
        if view.charge_frac < view.floor_frac + self.guard_frac or view.plate_c > view.plate_max_c - 2.0:
            return [0] * n
        low, high = (0, 3) if view.draws_w[3] * n >= target_w else (3, 4)
        spread_w = (view.draws_w[high] - view.draws_w[low]) * n
        share = min(1.0, (target_w - view.draws_w[low] * n) / spread_w)
        return [high if view.now_s % self.period_s < share * self.period_s else low] * n


@dataclass
class Lazy(Levels):
    """Lazy Scheduling (Moser, Brunelli, Thiele, Benini, Real-Time Systems 37, 2007): the job of earliest deadline
    starts as late as the energy allows at which full power lasts to its deadline, or when the store is full.
    For several nodes each job counts on its share of charge and sunlight.

    Sweep: 15 W, full at 0.76, 0.80, 0.85, 0.95 best 0.795 0.783 0.767 0.720; 25 W, 0.85, 0.95 0.761 0.729.
    """

    mode: int = 3
    full_frac: float = 0.76
    guard_frac: float = 0.015

    def modes(self, view: View, placed: Sequence[JobView | None]) -> list[int]:
        """See `Levels`."""
        if view.charge_frac < view.floor_frac + self.guard_frac or view.plate_c > view.plate_max_c - 2.0:
            return [0] * len(placed)
        modes = []
        for job in placed:
            if job is None:
                modes.append(0)
                continue
            power_w = view.draws_w[self.mode] * job.spec.activity_frac
            energy_j = (view.spare_j() + view.harvest_j(job.spec.deadline_s)) / len(placed)
            start_s = job.spec.deadline_s - energy_j / power_w
            modes.append(self.mode if view.now_s >= start_s or view.charge_frac >= self.full_frac else 0)
        return modes


class Baseline:
    """One policy as a whole: promises, order, levels. Has the members of the brain that its callers use."""

    def __init__(self, mission: Mission, forecaster: Forecaster, levels: Levels, *, by_density: bool,
                 energy_test: bool = False) -> None:
        self.parameters: dict[str, float] = {row.name: mission.parameters[row.name] for row in PARAMETERS}
        self.mode = Mode.BOOT
        self.tally = Tally()
        self._mission = mission
        self._view = View(mission, forecaster)
        self._levels = levels
        self._by_density = by_density
        self._energy_test = energy_test
        self._open: dict[int, JobView] = {}
        self._caps = [mode.cap_w for mode in mission.compute.modes]
        self._nodes: tuple[NodeCommand, ...] = (NodeCommand(0, self._caps[0], 0),) * mission.compute.nodes
        self._dispatched_s = -1e9
        self._look_s = 0.0
        self._plan = Plan(0.0, (1e9,), (self._view.average_w,), (0.0,), 0.0, 0.0, 0.0, "none", is_fallback=False)

    @property
    def open_jobs(self) -> tuple[JobView, ...]:
        """Jobs that are not in a final state."""
        return tuple(self._open.values())

    @property
    def nodes(self) -> tuple[NodeCommand, ...]:
        """What the compute nodes were last commanded."""
        return self._nodes

    def energy_left_j(self, _job_id: int) -> None:
        """Nothing: these reserve no energy."""

    def decide(self, estimate: Estimate, inputs: Inputs) -> Decision:
        """Return this tick's decision."""
        now_s = inputs.now_s
        transitions: list[JobTransition] = []
        verifications: list[Verification] = []
        if self.mode is Mode.BOOT:
            self.mode = Mode.SAFE
        for received in inputs.received:
            row = commands.find(received.service, received.subservice, received.data)
            effects = () if row is None else commands.execute(
                row, received.data, commands.Context(now_s, self.mode, frozenset(self._open), self._open.__contains__))
            for effect in () if isinstance(effects, commands.Rejection) else effects:
                if isinstance(effect, SetMode) and effect.mode in LEGAL_TRANSITIONS[self.mode]:
                    self.mode = effect.mode
        changed = self._follow(inputs, transitions)
        if inputs.submitted:
            self._view.update(estimate, self.open_jobs)
            for spec in inputs.submitted:
                self._answer(spec, transitions)
            changed = True
        if self.mode is not Mode.COMPUTE or estimate.blind:
            self._nodes = tuple(NodeCommand(0, self._caps[0], node.job_id) for node in self._nodes)
        elif changed or now_s - self._dispatched_s >= self.parameters["dispatch_period_s"]:
            self._dispatched_s = now_s
            self._nodes = self._dispatch(estimate)
            self._note_starts(transitions)
        return Decision(now_s, self.mode, self._nodes, self._plan, tuple(transitions), tuple(verifications), (), (), "")

    def _answer(self, spec: JobSpec, transitions: list[JobTransition]) -> None:
        """Promise on arrival."""
        transitions.append(JobTransition(spec.job_id, JobState.QUEUED, "", 0.0, spec))
        if self._energy_test and not self._has_energy(spec):
            self.tally.refused += 1
            transitions.append(JobTransition(spec.job_id, JobState.REFUSED, "ENERGY", 0.0, None))
            return
        self.tally.promised += 1
        self._open[spec.job_id] = JobView(spec, JobState.PROMISED, 0.0, -1)
        transitions.append(JobTransition(spec.job_id, JobState.PROMISED, "", 0.0, None))

    def _has_energy(self, spec: JobSpec) -> bool:
        """Simple energy test: at every deadline the energy of all promises up to it will have come."""
        view = self._view
        efficient = max(range(2, len(view.rates)), key=lambda i: view.rates[i] / view.draws_w[i])
        per_unit_j = view.draws_w[efficient] / view.rates[efficient]
        jobs = sorted([*((job.spec, job.done_units) for job in self._open.values()), (spec, 0.0)],
                      key=lambda entry: entry[0].deadline_s)
        asked_j = 0.0
        for other, done in jobs:
            asked_j += (other.work_units - done) * other.activity_frac * per_unit_j
            if asked_j > view.spare_j() + view.harvest_j(other.deadline_s):
                return False
        return True

    def _follow(self, inputs: Inputs, transitions: list[JobTransition]) -> bool:
        """Take in progress and deadlines; return whether a job ended."""
        ended = False
        for progress in inputs.progress:
            job = self._open.get(progress.job_id)
            if job is None:
                continue
            self._open[progress.job_id] = job._replace(done_units=progress.done_units)
            if progress.ended:
                ended = True
                self._end(progress.job_id, JobState.FINISHED if progress.succeeded else JobState.FAILED, transitions)
                self.tally.finished += 1
                self.tally.value_finished += job.spec.value
        if inputs.now_s >= self._look_s:
            self._look_s = inputs.now_s + 10.0
            for job_id in [i for i, job in self._open.items() if inputs.now_s > job.spec.deadline_s]:
                ended = True
                self.tally.broken += 1
                self._end(job_id, JobState.EXPIRED, transitions)
        return ended

    def _end(self, job_id: int, state: JobState, transitions: list[JobTransition]) -> None:
        job = self._open.pop(job_id)
        transitions.append(JobTransition(job_id, state, "", job.done_units, None))

    def _dispatch(self, estimate: Estimate) -> tuple[NodeCommand, ...]:
        """Place jobs in order, then set what the policy allows within the payload rail."""
        view, modes = self._view, self._mission.compute.modes
        view.update(estimate, ())
        fastest = modes[-1].rate
        able = [job for job in self._open.values()
                if (job.spec.work_units - job.done_units) / fastest <= job.spec.deadline_s - view.now_s]
        if self._by_density:
            able.sort(key=lambda job: (-job.spec.value / max(1.0, job.spec.work_units - job.done_units),
                                      job.spec.job_id))
        else:
            able.sort(key=lambda job: (job.spec.deadline_s, job.spec.job_id))
        usable = [i for i in range(len(self._nodes)) if i not in estimate.dark_nodes]
        chosen = {job.spec.job_id: job for job in able[: len(usable)]}
        placed: list[JobView | None] = [None] * len(self._nodes)
        for i in usable:
            placed[i] = chosen.pop(self._nodes[i].job_id, None)
        waiting = iter(list(chosen.values()))
        for i in usable:
            if placed[i] is None:
                placed[i] = next(waiting, None)
        view.jobs = able
        wanted = self._levels.modes(view, placed)
        left_w = _RAIL_FRAC * self.parameters["payload_max_w"]
        nodes = []
        for job, mode in zip(placed, wanted, strict=True):
            if job is None:
                nodes.append(NodeCommand(0, self._caps[0], 0))
                continue
            activity = job.spec.activity_frac
            while mode > 0 and modes[mode].draw_w * activity > left_w:
                mode = mode - 1 if mode > 2 else 0  # noqa: PLW2901 # steps down from what was wanted
            left_w -= modes[mode].draw_w * (activity if mode > 0 else 1.0)
            nodes.append(NodeCommand(mode, self._caps[mode], job.spec.job_id))
        return tuple(nodes)

    def _note_starts(self, transitions: list[JobTransition]) -> None:
        for i, node in enumerate(self._nodes):
            job = self._open.get(node.job_id)
            if job is not None and node.power_mode >= 2 and job.state is JobState.PROMISED:
                self._open[node.job_id] = job._replace(state=JobState.RUNNING, node=i)
                transitions.append(JobTransition(node.job_id, JobState.RUNNING, f"node {i}", 0.0, None))


LEVELS: dict[str, Callable[[], Levels]] = {
    "fixed": Fixed, "bang_bang": BangBang, "step_wise": StepWise, "power_allocator": PowerAllocator, "duty": Duty,
    "lazy": Lazy,
}
ORDERS = ("edf", "density")
NAMES = (*(f"{levels}-{order}" for levels in LEVELS for order in ORDERS), "duty-density-energy")
"""All baselines: levels, order, and whether the energy test stands before a promise."""


def make(name: str, mission: Mission, forecaster: Forecaster) -> Baseline:
    """Make a baseline by one of `NAMES` (any combination is understood); KeyError for another."""
    levels, order, *test = name.split("-")
    if order not in ORDERS or test not in ([], ["energy"]):
        raise KeyError(name)
    return Baseline(mission, forecaster, LEVELS[levels](), by_density=order == "density", energy_test=bool(test))

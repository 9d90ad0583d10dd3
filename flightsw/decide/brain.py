"""Decide: one tick's inputs and estimate -> one decision. Deterministic: same inputs, same decisions.

Order within a tick: what is wrong (monitors), what the ground asks (telecommands), what the nodes report
(progress), which mode follows, a plan when one is due, answers to waiting jobs, who runs where, and last
the governor. The brain remembers jobs, mode, parameters and the plan; it does no I/O and reads no clock,
so a recorded run replays through it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from flightsw.decide import admission, dispatch, governor, planner
from flightsw.decide.accounts import Accounts, Balance
from flightsw.decide.authority import Authority
from flightsw.decide.draw import JobDraw
from flightsw.decide.price import Demand
from flightsw.decide.standing import Standing
from flightsw.decide.standing import Turn as StandingTurn
from flightsw.decide.windows import NO_WINDOWS
from flightsw.dictionary import commands
from flightsw.dictionary.parameters import PARAMETERS
from flightsw.dictionary.sensors import fitted_names
from flightsw.errors import KernelError
from flightsw.fdir.ahead import AheadMonitor
from flightsw.fdir.monitors import Monitors
from flightsw.mission import Mission
from flightsw.physics.forecast import Forecaster
from flightsw.physics.units import J_PER_WH
from flightsw.state import (
    LEGAL_TRANSITIONS,
    Ahead,
    Arm,
    CancelJob,
    ChangeKey,
    Decision,
    Effect,
    Estimate,
    Event,
    Inputs,
    JobSpec,
    JobState,
    JobTransition,
    JobView,
    LoadSequence,
    Mode,
    NodeCommand,
    OrderChange,
    Plan,
    Promise,
    Received,
    Refusal,
    RefusalReason,
    Request,
    SendReport,
    SetMode,
    SetParameter,
    StartSequence,
    StopSequence,
    SubmitJob,
    Verification,
)

_ACCEPTED, _NOT_ACCEPTED, _COMPLETED = 1, 2, 7
_LASTING = (LoadSequence, StartSequence)
"""Their commands are completed later than they are accepted."""
_ANSWERED = (JobState.PROMISED, JobState.RUNNING, JobState.PAUSED)
_NO_OFFER = "none"
_ACCOUNT_S = 600.0
"""Time over which draw and budget are made equal: jobs are whole and modes are steps, the budget is neither."""
_DECISIONS = 2
"""Dispatch decisions that a job's latest start is ahead of: one that just missed it, and one that is overruled."""


class Tally:
    """Counts since first boot that housekeeping reports."""

    def __init__(self) -> None:
        self.finished = 0
        self.refused = 0
        self.promised = 0
        self.broken = 0
        self.value_finished = 0.0
        self.energy_used_j = 0.0
        self.overdraft_j = 0.0
        self.commands_accepted = 0
        self.commands_rejected = 0
        self.sheds = 0


class _Turn:
    """What one tick has decided so far."""

    __slots__ = ("effects", "events", "orders", "reconsider", "standing", "transitions", "verifications")

    def __init__(self) -> None:
        self.orders: list[OrderChange] = []
        self.transitions: list[JobTransition] = []
        self.verifications: list[Verification] = []
        self.effects: list[Effect] = []
        self.events: list[Event] = []
        self.reconsider = False
        self.standing = StandingTurn(self.orders, self.events, self.verifications)


class Brain:
    """The satellite's decisions. `jobs` are those that the ledger knows, finished ones too, `orders` the standing
    ones that the order book knows.
    """

    def __init__(self, mission: Mission, forecaster: Forecaster, jobs: Iterable[JobView] = (),
                 orders: Iterable[OrderChange] = ()) -> None:
        self._mission = mission
        self._forecaster = forecaster
        self._standing = Standing(orders)
        self._forecaster.correct(self._standing.orders.clock_correction_s)
        self._monitors = Monitors(fitted_names(mission.compute.nodes))
        self._steps = dispatch.hull_steps(mission.compute.modes)
        self._off = NodeCommand(0, mission.compute.modes[0].cap_w, 0)
        self.parameters: dict[str, float] = {row.name: mission.parameters[row.name] for row in PARAMETERS}
        self.mode = Mode.BOOT
        self.tally = Tally()
        self._authority = Authority(mission.stations)
        self._accounts = Accounts(mission)
        self._draw = JobDraw(mission)
        self._open: dict[int, JobView] = {}
        self._known: set[int] = set()
        for job in jobs:
            self._known.add(job.spec.job_id)
            if not job.state.is_final:
                self._open[job.spec.job_id] = job
            if job.state in _ANSWERED:
                self._accounts.reopen(job)
        self._windows = NO_WINDOWS
        self._edge_s = math.inf  # when a job's ban next begins or ends
        self._look_s = -math.inf  # before this time no open job is late and no answer is due
        self._demand = Demand()
        self._plan: Plan | None = None
        self._plan_failed = False  # the last plan was made without a forecast
        self._ahead: Ahead | None = None
        self._ahead_monitor = AheadMonitor()
        self._nodes: tuple[NodeCommand, ...] = (self._off,) * mission.compute.nodes
        self._activity: list[float] = [1.0] * mission.compute.nodes
        self._checked_s = -1e9
        self._dispatched_s = -1e9
        self._credit_j = 0.0
        self._heard_s: float | None = None
        self._time_told_s = -math.inf
        self._blind = False
        self._shaded = False
        self._guardian_answers = True
        self._shed = ""
        self._cut = ""  # why the governor's last check shed everything, empty when it did not
        self._dark: tuple[int, ...] = ()
        self._held = False  # the ground chose SAFE or STANDBY: no way out without its word

    @property
    def open_jobs(self) -> tuple[JobView, ...]:
        """Jobs that are not in a final state, in order of arrival."""
        return tuple(self._open.values())

    @property
    def nodes(self) -> tuple[NodeCommand, ...]:
        """What the compute nodes were last commanded."""
        return self._nodes

    def balance(self, now_s: float) -> Balance:
        """What open promises reserve, and the room that they leave."""
        return self._accounts.balance(now_s, self._promised())

    def energy_left_j(self, job_id: int) -> float | None:
        """Energy of a promise's reserve that is not used up, None without one."""
        return self._accounts.left_j(job_id)

    def decide(self, estimate: Estimate, inputs: Inputs) -> Decision:
        """Return this tick's decision."""
        now_s = inputs.now_s
        turn = _Turn()
        if self._heard_s is None:
            self._heard_s = now_s
        self._accounts.book(now_s, self._nodes, estimate.node_w)
        turn.events.extend(self._draw.look(now_s, self._nodes, estimate.node_w, self._open))
        shed = self._look(inputs, estimate, turn)
        for received in inputs.received:
            self._obey(received, now_s, inputs.storage_works, turn)
        if inputs.storage_works:
            self._keep_orders(inputs, turn)
            for spec in inputs.submitted:
                self._queue(spec, turn)
            self._follow(inputs, turn)
        if inputs.bans:
            self._windows = self._windows.learn(inputs.bans, now_s)
            self._edge_s = self._look_s = now_s
        if now_s >= self._edge_s and inputs.storage_works:
            self._cross_borders(now_s, turn)
        if estimate.dark_nodes != self._dark:
            self._dark = estimate.dark_nodes
            turn.reconsider = True
        self._keep_mode(now_s, estimate, inputs, turn)
        if self._plan is None or now_s - self._plan.made_s >= self.parameters["plan_period_s"]:
            self._make_plan(estimate, turn)
            if inputs.storage_works:
                self._withdraw_hopeless(now_s, turn)
        if self._plan is None:  # cannot be: _make_plan always sets one; states it for the type checker
            raise RuntimeError("no plan")
        dispatch_due = turn.reconsider or now_s - self._dispatched_s >= self.parameters["dispatch_period_s"]
        if dispatch_due and inputs.storage_works:
            self._answer(now_s, estimate, self._plan, turn)
        shed = self._act_on(now_s, estimate, self._plan, shed, turn, dispatch_due=dispatch_due)
        if shed and not self._shed:
            self.tally.sheds += 1
            turn.events.append(Event("shed", (shed,)))
        self._shed = shed
        self._standing.note(turn.events)
        return Decision(now_s, self.mode, self._nodes, self._plan, tuple(turn.transitions),
                        tuple(turn.verifications), tuple(turn.effects), tuple(turn.events), shed,
                        self._ahead, tuple(turn.orders))

    # --- what is wrong ---------------------------------------------------------------------------

    def _look(self, inputs: Inputs, estimate: Estimate, turn: _Turn) -> str:
        """Run the monitors; return why everything must be shed, empty when nothing must."""
        verdict = self._monitors.check(inputs.readings, self.parameters)
        guardian_answers = inputs.guardian_answers
        turn.events.extend(verdict.events)
        blind = bool(estimate.blind)
        if blind != self._blind:
            self._blind = blind
            turn.events.append(Event("blind", (", ".join(estimate.blind),)) if blind else Event("sighted", ()))
        if estimate.is_shaded != self._shaded:
            self._shaded = estimate.is_shaded
            turn.events.append(Event("sun_missing", ()) if self._shaded else Event("sun_back", ()))
        if guardian_answers != self._guardian_answers:
            self._guardian_answers = guardian_answers
            turn.events.append(Event("guardian_back", ()) if guardian_answers
                               else Event("guardian_lost", ("no answer to the last lease",)))
        if blind:
            return f"state unknown without {', '.join(estimate.blind)}"
        if not guardian_answers:
            return "guardian does not answer"
        if not inputs.storage_works:
            return "durable storage failed"
        return verdict.shed

    # --- what the ground asks --------------------------------------------------------------------

    def _obey(self, received: Received, now_s: float, storage_works: bool, turn: _Turn) -> None:
        """Accept or reject one telecommand and take its effects."""
        self._heard_s = now_s
        refused = self._authority.refusal(received, now_s)
        result = self._judge(received, now_s, storage_works) if refused is None else refused
        if isinstance(result, commands.Rejection):
            self.tally.commands_rejected += 1
            turn.verifications.append(Verification(received.request_id, _NOT_ACCEPTED, result.code, result.text))
            return
        self.tally.commands_accepted += 1
        turn.verifications.append(Verification(received.request_id, _ACCEPTED, 0, ""))
        for effect in result:
            if isinstance(effect, LoadSequence):
                self._standing.expect(effect.name, effect.sha256, received.request_id, received.station)
            signed = effect._replace(spi=received.spi) if isinstance(effect, (Arm, ChangeKey)) else effect
            self._take(signed, now_s, turn, received.request_id)
        if not any(isinstance(effect, _LASTING) for effect in result):
            turn.verifications.append(Verification(received.request_id, _COMPLETED, 0, ""))

    def _judge(self, request: Received | Request, now_s: float,
               storage_works: bool) -> tuple[Effect, ...] | commands.Rejection:
        """The one gate that every telecommand goes through, whether it was received now or kept on board."""
        row = commands.find(request.service, request.subservice, request.data)
        if row is None:
            return commands.Rejection(
                commands.FailureCode.UNKNOWN_COMMAND,
                f"no telecommand with service {request.service}, subservice {request.subservice}")
        context = commands.Context(now_s, self.mode, frozenset(self._open), self._known.__contains__,
                                   storage_works, now_s + self._forecaster.start_unix_s, self._standing.orders,
                                   self._standing.running)
        return commands.execute(row, request.data, context)

    def _keep_orders(self, inputs: Inputs, turn: _Turn) -> None:
        """Run what the ground left to be done now: by its time, by an event, by its sequence."""
        standing, now_s = self._standing, inputs.now_s
        if inputs.noticed:
            standing.note(inputs.noticed)
        if inputs.files:
            standing.load(inputs.files, self._authority.may_send, turn.standing)
        obt_s = now_s + self._forecaster.start_unix_s
        period_s = self.parameters["time_report_s"]
        if period_s and now_s - self._time_told_s >= period_s:
            self._time_told_s = now_s
            turn.effects.append(SendReport("time", (obt_s, now_s, standing.orders.clock_correction_s)))
        for due in standing.due(now_s, obt_s, self.parameters["schedule_late_s"], turn.standing):
            if due.sequence and due.sequence not in standing.running:
                continue  # stopped by a command before it
            result = self._judge(due.request, now_s, storage_works=True)
            if isinstance(result, commands.Rejection):
                standing.carried_out(due, result.text, turn.standing)
                continue
            for effect in result:
                self._take(effect, now_s, turn, None)
            standing.carried_out(due, "", turn.standing)

    def _take(self, effect: Effect, now_s: float, turn: _Turn, request_id: int | None) -> None:
        """Carry out what is the brain's own; hand the rest to the link. `request_id` is None for a kept command."""
        if isinstance(effect, SetMode):
            self._held = effect.mode is not Mode.COMPUTE
            self._change_mode(effect.mode, effect.reason, turn)
        elif isinstance(effect, SetParameter):
            self.parameters[effect.name] = effect.value
            self._plan = None
            turn.events.append(Event("parameter_set", (effect.name, effect.value)))
        elif isinstance(effect, SubmitJob):
            self._queue(effect.spec, turn)
        elif isinstance(effect, CancelJob):
            self._end(effect.job_id, JobState.CANCELLED, "telecommand", turn)
            turn.events.append(Event("job_cancelled", (effect.job_id,)))
        elif isinstance(effect, Arm):
            until_s = now_s + self.parameters["arm_valid_s"]
            self._authority.arm(effect.spi, effect.digest, until_s)
            turn.events.append(Event("armed", (effect.digest, self.parameters["arm_valid_s"])))
        elif isinstance(effect, OrderChange):
            before_s = self._forecaster.start_unix_s
            self._standing.change(effect, turn.standing)
            self._forecaster.correct(self._standing.orders.clock_correction_s)
            if self._forecaster.start_unix_s != before_s:
                self._plan = None
                turn.events.append(Event("time_corrected", (self._forecaster.start_unix_s - before_s,)))
        elif isinstance(effect, StartSequence):
            self._standing.start(effect.name, now_s, request_id, turn.standing)
        elif isinstance(effect, StopSequence):
            self._standing.stop(effect.name, "telecommand", turn.standing)
        else:
            turn.effects.append(effect)

    def _change_mode(self, wanted: Mode, reason: str, turn: _Turn) -> None:
        if wanted is self.mode:
            return
        if wanted not in LEGAL_TRANSITIONS[self.mode]:
            turn.events.append(Event("mode_refused", (self.mode.name, wanted.name, reason)))
            return
        turn.events.append(Event("mode_changed", (self.mode.name, wanted.name, reason)))
        self.mode = wanted
        turn.reconsider = True

    # --- jobs --------------------------------------------------------------------------------------

    def _queue(self, spec: JobSpec, turn: _Turn) -> None:
        """Take a job in; the answer comes with this tick's dispatch or, where its owner allows, later."""
        if spec.job_id in self._known:
            return
        self._known.add(spec.job_id)
        self._demand.note(spec, spec.arrival_s)
        if len(self._open) >= self.parameters["jobs_open_max"]:
            self.tally.refused += 1
            reason = RefusalReason.QUEUE_FULL.name
            turn.transitions.append(JobTransition(spec.job_id, JobState.REFUSED, reason, 0.0, spec))
            turn.events.append(Event("job_refused", (spec.job_id, reason, "jobs_open_max", spec.arrival_s, _NO_OFFER)))
            return
        self._open[spec.job_id] = JobView(spec, JobState.QUEUED, 0.0, -1)
        self._look_s = min(self._look_s, self._answer_due_s(spec))
        turn.transitions.append(JobTransition(spec.job_id, JobState.QUEUED, "", 0.0, spec))
        turn.events.append(Event("job_queued", (spec.job_id, spec.work_units, spec.value, spec.deadline_s,
                                                self._answer_due_s(spec))))
        turn.reconsider = True

    def _follow(self, inputs: Inputs, turn: _Turn) -> None:
        """Take in progress, ends and deadlines."""
        for progress in inputs.progress:
            job = self._open.get(progress.job_id)
            if job is None:
                continue
            if not progress.ended:
                self._open[progress.job_id] = job._replace(done_units=progress.done_units)
            elif progress.succeeded:
                self._open[progress.job_id] = job._replace(done_units=progress.done_units)
                self._end(progress.job_id, JobState.FINISHED, progress.detail, turn)
                self.tally.finished += 1
                self.tally.value_finished += job.spec.value
                turn.events.append(Event("job_finished", (progress.job_id, progress.done_units)))
            else:
                self._end(progress.job_id, JobState.FAILED, progress.detail, turn)
                turn.events.append(Event("job_failed", (progress.job_id, progress.detail)))
        if inputs.now_s >= self._look_s:
            self._look_at_times(inputs.now_s, turn)

    def _look_at_times(self, now_s: float, turn: _Turn) -> None:
        """End jobs that are late, see to it that due ones are answered, and note when to look again."""
        for job in [job for job in self._open.values() if now_s > job.spec.deadline_s]:
            if job.state is not JobState.QUEUED:
                self.tally.broken += 1
            self._end(job.spec.job_id, JobState.EXPIRED, "deadline", turn)
            turn.events.append(Event("job_expired", (job.spec.job_id,)))
        queued = [job.spec for job in self._open.values() if job.state is JobState.QUEUED]
        due_s = min(map(self._answer_due_s, queued), default=math.inf)
        if now_s >= due_s:
            turn.reconsider = True
        self._look_s = min([due_s, *(job.spec.deadline_s for job in self._open.values())])

    def _end(self, job_id: int, state: JobState, detail: str, turn: _Turn) -> None:
        """A job leaves for good."""
        job = self._open.pop(job_id)
        turn.transitions.append(JobTransition(job_id, state, detail, job.done_units, None))
        self._draw.forget(job_id)
        settled = self._accounts.settle(job_id)
        if settled is not None:
            self.tally.energy_used_j += settled.used_j
            self.tally.overdraft_j += max(0.0, settled.used_j - settled.reserved_j)
            turn.events.append(Event("promise_settled", (
                job_id, settled.declared_j / J_PER_WH, settled.reserved_j / J_PER_WH, settled.used_j / J_PER_WH,
                (settled.used_j - settled.reserved_j) / J_PER_WH, settled.drew_frac)))
        turn.reconsider = True

    def _answer_due_s(self, spec: JobSpec) -> float:
        """When a waiting job is answered at the latest: when its owner wants it, or while it can still be done."""
        compute = self._mission.compute
        latest_start_s = (spec.deadline_s - (spec.work_units + compute.restore_s) / compute.modes[-1].rate
                          - self._windows.lost_s(spec, spec.arrival_s, spec.deadline_s))
        return max(spec.arrival_s, min(spec.answer_due_s, latest_start_s))

    def _promised(self) -> list[JobView]:
        return [job for job in self._open.values() if job.state in _ANSWERED]

    def _withdraw_hopeless(self, now_s: float, turn: _Turn) -> None:
        """Withdraw, as soon as it is certain, a promise that no power could still keep."""
        rate_max = self._mission.compute.modes[-1].rate
        for job in self._promised():
            left_s = job.spec.deadline_s - now_s - self._windows.lost_s(job.spec, now_s, job.spec.deadline_s)
            need_s = (job.spec.work_units - job.done_units) / rate_max
            if need_s > left_s:
                self.tally.broken += 1
                reason = f"needs {need_s:.0f} s at full power, {left_s:.0f} s are left"
                self._end(job.spec.job_id, JobState.WITHDRAWN, reason, turn)
                turn.events.append(Event("job_withdrawn", (job.spec.job_id, reason)))

    def _answer(self, now_s: float, estimate: Estimate, plan: Plan, turn: _Turn) -> None:
        """Promise or refuse waiting jobs, most valuable per unit first.

        A job whose owner allows it waits for its answer while the nodes have enough to do: a promise given
        early is paid for by every better job that comes later.
        """
        promised = self._promised()
        nodes = self._mission.compute.nodes - len(estimate.dark_nodes)
        waiting = [job for job in self._open.values() if job.state is JobState.QUEUED
                   and (len(promised) < nodes or now_s >= self._answer_due_s(job.spec))]
        if not waiting:
            return
        waiting.sort(key=lambda job: (-job.spec.value / job.spec.work_units, job.spec.job_id))
        desk = admission.Desk(self._draw.as_drawn(promised), plan, self._accounts.room(now_s, promised), estimate,
                              self.mode, self._mission, self._windows)
        price = self._demand.price(now_s, sum(plan.rate_units_s) / len(plan.rate_units_s))
        for job in waiting:
            spec = job.spec
            is_due = now_s >= self._answer_due_s(spec)
            if not is_due and len(promised) >= nodes:
                continue
            answer = desk.answer(spec, counter_offer=is_due)
            if isinstance(answer, Promise) and len(promised) >= nodes and spec.value / spec.work_units < price:
                answer = Refusal(spec.job_id, (RefusalReason.OUTBID,), "value", now_s, None)
            if isinstance(answer, Promise):
                self._open[spec.job_id] = job._replace(state=JobState.PROMISED)
                promised.append(self._open[spec.job_id])
                self._accounts.open(spec, answer.energy_j)
                desk.promise(spec)
                self.tally.promised += 1
                turn.transitions.append(JobTransition(spec.job_id, JobState.PROMISED, "", 0.0, None))
                turn.events.append(Event("job_promised", (spec.job_id, answer.finish_by_s,
                                                          answer.energy_j / J_PER_WH, answer.heat_j / J_PER_WH)))
            elif is_due:
                names = ", ".join(reason.name for reason in answer.reasons)
                self.tally.refused += 1
                self._end(spec.job_id, JobState.REFUSED, names, turn)
                offer = _NO_OFFER if answer.counter_deadline_s is None else f"T+{answer.counter_deadline_s:.0f} s"
                turn.events.append(Event("job_refused", (spec.job_id, names, answer.binding_limit,
                                                         answer.binding_at_s, offer)))

    def _cross_borders(self, now_s: float, turn: _Turn) -> None:
        """A ban began or ended: look again who runs, and hold the running jobs that may not."""
        self._edge_s = self._windows.next_edge_s(now_s)
        turn.reconsider = True
        for job in self._promised():
            ban = self._windows.ban_at(job.spec, now_s)
            if ban is not None and job.state is JobState.RUNNING:
                self._open[job.spec.job_id] = job._replace(state=JobState.PAUSED)
                turn.transitions.append(JobTransition(job.spec.job_id, JobState.PAUSED, f"region {ban.region}",
                                                      job.done_units, None))
                turn.events.append(Event("job_held", (job.spec.job_id, ban.region, ban.to_s)))

    # --- mode, plan, nodes -------------------------------------------------------------------------

    def _keep_mode(self, now_s: float, estimate: Estimate, inputs: Inputs, turn: _Turn) -> None:
        """Autonomous mode changes: downwards at once, upwards only where the mission allows it."""
        if self.mode is Mode.BOOT:
            self._change_mode(Mode.SAFE, "boot", turn)
        if not inputs.guardian_answers:
            self._change_mode(Mode.SAFE, "guardian lost", turn)
        if not inputs.storage_works:
            self._change_mode(Mode.SAFE, "durable storage failed", turn)
        silent_s = now_s - (self._heard_s if self._heard_s is not None else now_s)
        heard = silent_s <= self.parameters["command_loss_s"]
        if not heard and self.mode is not Mode.SAFE:
            turn.events.append(Event("command_loss", (silent_s,)))
            self._change_mode(Mode.SAFE, "command loss", turn)
        able = inputs.guardian_answers and inputs.storage_works and not estimate.blind
        if self._mission.safe_exit_autonomous and heard and not self._held and able:
            charge = estimate.battery_j.low / (self._mission.battery.capacity_wh * 3600.0)
            if self.mode is Mode.SAFE and charge >= self.parameters["safe_exit_charge_frac"]:
                self._change_mode(Mode.STANDBY, "charge recovered", turn)
            elif self.mode is Mode.STANDBY:
                self._change_mode(Mode.COMPUTE, "autonomous exit from SAFE", turn)

    def _make_plan(self, estimate: Estimate, turn: _Turn) -> None:
        was_fallback = self._plan is not None and self._plan.is_fallback
        promised = self._promised()
        activity = 1.0
        if promised:
            activity = sum(job.spec.activity_frac for job in self._draw.as_drawn(promised)) / len(promised)
        curve = planner.RateCurve(self._mission, activity)
        had_failed, self._plan_failed = self._plan_failed, False
        try:
            self._plan = planner.plan(self._forecaster, estimate, curve, self.parameters)
        except KernelError as error:  # a tick is not lost to it: telecommands are obeyed, the next plan is due as ever
            self._plan, self._plan_failed = planner.without_forecast(estimate.now_s, curve), True
            if not had_failed:
                turn.events.append(Event("plan_failed", (str(error),)))
        self._accounts.follow(self._plan, activity, self._forecaster.sunrises_s(estimate.now_s),
                              self.parameters["battery_floor_frac"])
        self._ahead = self._look_ahead(estimate, self._plan)
        turn.events.extend(self._ahead_monitor.check(self._ahead, self.parameters))
        if self._plan.is_fallback and not was_fallback and not self._plan_failed:
            turn.events.append(Event("plan_fallback", (self._plan.binding_limit,)))

    def _look_ahead(self, estimate: Estimate, plan: Plan) -> Ahead | None:
        """Forecast what the plan leads to, and the present draw; None, and told as such, when it is not known."""
        if estimate.blind:
            return None
        modes = self._mission.compute.modes
        draws_w = [
            max(0.0, watts) if watts is not None  # a sensor's bias reads an off node below nothing
            else modes[node.power_mode].draw_w * (activity if node.power_mode else 1.0)
            for watts, node, activity in zip(estimate.node_w, self._nodes, self._activity, strict=True)
        ]
        try:
            return self._forecaster.ahead(estimate, plan, draws_w, self.parameters)
        except KernelError:
            return None

    def _act_on(self, now_s: float, estimate: Estimate, plan: Plan, shed: str, turn: _Turn, *,
                dispatch_due: bool) -> str:
        """Set the nodes for this tick; return why everything is shed, if it is."""
        if shed or self.mode is not Mode.COMPUTE:
            self._nodes = tuple(NodeCommand(0, self._off.cap_w, node.job_id) for node in self._nodes)
            self._cut = ""
            self._credit_j = 0.0
            self._dispatched_s = -1e9  # look again as soon as the reason is gone
            return shed
        if not dispatch_due and now_s - self._checked_s < governor.CHECK_EVERY_S:
            return self._cut
        wanted = self._dispatch(now_s, estimate, plan) if dispatch_due else self._nodes
        activity = governor.measured_activity(estimate, self._nodes, self._activity, self._mission)
        approval = governor.approve(wanted, activity, estimate, self._forecaster, self.parameters, self._mission)
        if approval.nodes != self._nodes:  # the same cut again is no news
            turn.events.extend(approval.events)
        self._nodes = approval.nodes
        self._cut = approval.shed
        self._checked_s = now_s
        self._note_starts(turn)
        return approval.shed

    def _dispatch(self, now_s: float, estimate: Estimate, plan: Plan) -> tuple[NodeCommand, ...]:
        """Place jobs and set modes around the plan's budget and what is left of it from before."""
        modes, nodes = self._mission.compute.modes, self._mission.compute.nodes
        budget_w = plan.budget_at(now_s)
        elapsed_s = now_s - self._dispatched_s
        if elapsed_s < _ACCOUNT_S:
            used_w = sum(
                watts if watts is not None else modes[node.power_mode].draw_w * activity
                for watts, node, activity in zip(estimate.node_w, self._nodes, self._activity, strict=True)
            )
            bound_j = 0.5 * _ACCOUNT_S * modes[-1].draw_w
            self._credit_j = min(max(self._credit_j + (budget_w - used_w) * elapsed_s, -bound_j), bound_j)
        self._dispatched_s = now_s
        free = self._windows.free(self._draw.as_drawn(self._promised()), now_s)
        placed = dispatch.place(free, nodes, estimate.dark_nodes, [n.job_id for n in self._nodes])
        before = [
            dispatch.rung_of(node.power_mode, self._steps) if job is not None and job.spec.job_id == node.job_id else -1
            for job, node in zip(placed, self._nodes, strict=True)
        ]
        for i, job in enumerate(placed):
            self._activity[i] = self._open[job.spec.job_id].spec.activity_frac if job is not None else 1.0
        start_s = self._mission.compute.restore_s + _DECISIONS * self.parameters["dispatch_period_s"]
        return dispatch.set_modes(placed, before, modes, self._steps, budget_w + self._credit_j / _ACCOUNT_S,
                                  governor.payload_w(self.parameters, self._mission), now_s, start_s)

    def _note_starts(self, turn: _Turn) -> None:
        """Record the first time a promised job is on a working node, and its return from a ban."""
        for i, node in enumerate(self._nodes):
            job = self._open.get(node.job_id)
            if job is None or node.power_mode < 2:
                continue
            if job.state is JobState.PROMISED:
                self._open[node.job_id] = job._replace(state=JobState.RUNNING, node=i)
                turn.transitions.append(JobTransition(node.job_id, JobState.RUNNING, f"node {i}", 0.0, None))
                turn.events.append(Event("job_started", (node.job_id, i)))
            elif job.state is JobState.PAUSED:
                self._open[node.job_id] = job._replace(state=JobState.RUNNING, node=i)
                turn.transitions.append(JobTransition(node.job_id, JobState.RUNNING, f"node {i}", job.done_units, None))
                turn.events.append(Event("job_resumed", (node.job_id, i)))


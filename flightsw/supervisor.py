"""The loop: sense, estimate, decide, act, report. One tick is one call of `Supervisor.tick`.

Everything it calls is passed in, so the same supervisor flies in virtual time, on a bench and on the board.
It holds the one broad `except` of the flight software: a tick that fails sheds everything and says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from flightsw.board.base import Board
from flightsw.decide.brain import Brain
from flightsw.decide.estimator import Estimator
from flightsw.dictionary.sensors import INDEX
from flightsw.dictionary.telemetry import MISSING
from flightsw.errors import FlightError, StoreError
from flightsw.facts import FactFile
from flightsw.fdir.overdraw import Overdraw
from flightsw.fdir.plausibility import Plausibility
from flightsw.files import FileService
from flightsw.guardian import GuardianHealth, GuardianLink, GuardianStatus
from flightsw.jobs.base import Placement, Runner
from flightsw.jobs.custody import Custody
from flightsw.jobs.ledger import Ledger, LedgerEntry
from flightsw.jobs.meter import Meter
from flightsw.link.keys import Rollover
from flightsw.link.serial_port import ByteStream
from flightsw.link.services import CommandReceiver
from flightsw.mission import Mission
from flightsw.orderbook import OrderBook
from flightsw.physics.forecast import Forecaster, Sky
from flightsw.physics.units import J_PER_WH
from flightsw.recorder import Recorder, fingerprint
from flightsw.reporting import Counters, Reporting
from flightsw.sensing import sense
from flightsw.state import (
    ChangeKey,
    Decision,
    EraseData,
    Estimate,
    Event,
    ExportAudit,
    FileOrder,
    FileRead,
    Inputs,
    JobSpec,
    JobState,
    JobTransition,
    LoadSequence,
    Mode,
    NodeCap,
    Readings,
    Received,
)

PERIOD_S = 1.0
"""Time from tick to tick."""

_STEP_S = 0.5 * PERIOD_S  # less than this no overrun is noted for, and nothing is made of it
_NOTE_EVERY_S = 600.0
_BALANCE_EVERY_S = 3600.0
_BUS_W = INDEX["bus_w"]
_DROP_KEPT_FRAC = 0.7  # jobs are told ahead of time when the plan affords less than this of what it affords now


class Inbox(Protocol):
    """Where jobs come from besides the ground: instruments and customers on board."""

    def take(self, now_s: float, known: Mapping[int, LedgerEntry]) -> tuple[JobSpec, ...]:
        """Jobs that arrived since the last call; `known` are those of the ledger, which need not come again."""

    def news(self) -> tuple[Event, ...]:
        """What there is to report since the last call."""


class Supervisor:
    """One satellite's loop. `read_upload` reads a file that the ground sent up."""

    def __init__(self, mission: Mission, *, board: Board, guardian: GuardianLink, runner: Runner, inbox: Inbox,
                 port: ByteStream, receiver: CommandReceiver, reporting: Reporting, ledger: Ledger, brain: Brain,
                 facts: FactFile, forecaster: Forecaster, recorder: Recorder, order_book: OrderBook,
                 read_upload: Callable[[str], FileRead], boot_count: int,
                 always_transmit: bool, duty_throttle: bool, custody: Custody | None = None,
                 files: FileService | None = None, rollover: Rollover | None = None) -> None:
        self._mission = mission
        self._board = board
        self._guardian = guardian
        self._runner = runner
        self._inbox = inbox
        self._port = port
        self._receiver = receiver
        self._reporting = reporting
        self._ledger = ledger
        self._brain = brain
        self._forecaster = forecaster
        self._recorder = recorder
        self._facts = facts
        self._noted_s = facts.facts.now_s
        self._plausibility = Plausibility(mission)
        self._overdraw = Overdraw(mission)
        self._estimator = Estimator(mission, forecaster)
        self._order_book = order_book
        self._read_upload = read_upload
        self._noticed: list[Event] = []
        self._files: list[FileRead] = []
        self._boot_count = boot_count
        self._always_transmit = always_transmit
        self._duty_throttle = duty_throttle
        self._custody = custody
        self._file_service = files
        self._rollover = rollover  # None while the link is in clear
        self._meter = Meter({entry.spec.job_id: entry.usage for entry in ledger.open_jobs if entry.usage is not None})
        self._node_w = slice(INDEX["node0_w"], INDEX["node0_w"] + 2 * mission.compute.nodes, 2)
        self._balanced_s = facts.facts.now_s
        self._off_w = mission.compute.modes[0].cap_w
        self._floor = (NodeCap(self._off_w, 0.0, 0),) * mission.compute.nodes
        self._guardian_status: GuardianStatus | None = None
        self._received: list[Received] = []
        self._ticks = 0
        self._overruns = 0
        self._ticked_s: float | None = None
        self._late_s = 0.0  # of the coming tick, as far as it was noted
        self._transmitting = False
        self._failures = 0
        self._recording_ended = False
        self._storage_works = True
        self._eclipse_since_s: float | None = None
        self._sky: Sky | None = None

    @property
    def mode(self) -> Mode:
        """Mode after the last tick."""
        return self._brain.mode

    @property
    def _obt_offset_s(self) -> float:
        """What turns `now_s` into on-board time (Unix); telecommands move it."""
        return self._forecaster.start_unix_s

    @property
    def failures(self) -> int:
        """Ticks that failed since start."""
        return self._failures

    @property
    def brain(self) -> Brain:
        """The decisions' owner, for those who report on a run."""
        return self._brain

    def tick(self, now_s: float) -> Decision | None:
        """Run the five stages once; None when the tick failed and everything was shed."""
        self._ticks += 1
        try:
            self._watch_clock(now_s)
            self.listen()
            readings, doubts = self._plausibility.judge(sense(self._board, now_s))
            for event in (*doubts, *self._look_at_draws(now_s, readings)):
                self._say(event, now_s + self._obt_offset_s)
            estimate = self._estimator.update(readings, self._brain.parameters["blind_after_s"])
            decision = self._decide(now_s, readings, estimate)
            self._act(now_s, decision)
            self._report(now_s, readings, estimate, decision)
        except Exception as error:  # the one broad except: whatever broke, shed and say so
            self._shed(now_s, error)
            return None
        return decision

    def listen(self) -> None:
        """Take in what the line has; cheap, and fit to be called between ticks."""
        octets = self._port.read()
        if octets:
            self._received.extend(self._receiver.push(octets))
            if self._file_service is not None:
                self._file_service.receive(self._receiver.take_file_pdus())

    def close(self) -> None:
        """End the jobs, the recording and the ledger; the guardian is left to let its lease run out."""
        self._runner.close()
        self._recorder.close()
        if self._storage_works:
            with contextlib.suppress(StoreError):  # a bill that is some minutes short must not keep us from ending
                self._ledger.note(self._meter.usages)
        self._ledger.close()
        self._order_book.close()
        if self._custody is not None:
            self._custody.close()
        if self._file_service is not None:
            self._file_service.close()

    def note_overrun(self, now_s: float, late_s: float, left_out: int) -> None:
        """Report ticks that began late or were left out."""
        self._overruns += 1
        self._late_s += late_s
        self._say(Event("tick_overrun", (late_s, left_out)), now_s + self._obt_offset_s)

    def _watch_clock(self, now_s: float) -> None:
        """Report time between two ticks that no overrun accounts for: the clock itself has moved."""
        last_s, late_s = self._ticked_s, self._late_s
        self._ticked_s, self._late_s = now_s, 0.0
        if last_s is None:
            return
        moved_s = now_s - last_s - PERIOD_S
        if moved_s > late_s + _STEP_S or now_s < last_s:
            self._say(Event("clock_stepped", (moved_s - late_s,)), now_s + self._obt_offset_s)

    def _look_at_draws(self, now_s: float, readings: Readings) -> Sequence[Event]:
        """Hold the nodes' draws against the caps of the last tick, where the guardian told them."""
        status = self._guardian_status
        if status is None or not status.nodes:
            return ()
        return self._overdraw.judge(now_s, readings.values[self._node_w], [node.cap_w for node in status.nodes])

    def _say(self, event: Event, obt_s: float) -> None:
        """Report an event that is not decide's; where something waits for it, decide hears of it next tick."""
        self._reporting.event(event, obt_s)
        if self._order_book.orders.awaits(event.name):
            self._noticed.append(event)

    def announce_boot(self, now_s: float, last_mode: str) -> None:
        """Report the start."""
        self._say(Event("boot", (self._boot_count, last_mode)), now_s + self._obt_offset_s)

    def _decide(self, now_s: float, readings: Readings, estimate: Estimate) -> Decision:
        received, self._received = tuple(self._received), []
        self._receiver.begin_tick()
        status = self._guardian_status
        answers = status is None or (status.health is GuardianHealth.ALIVE and status.result == 0)
        submitted = self._inbox.take(now_s, self._ledger.entries)
        correction_s = self._order_book.orders.clock_correction_s
        bans = () if self._custody is None else self._custody.bans(now_s, correction_s)
        progress = self._runner.poll(now_s)
        self._meter.take(now_s, readings.values[_BUS_W], readings.values[self._node_w], self._runner.active())
        inputs = Inputs(now_s, readings, received, submitted, progress, answers, self._storage_works, bans,
                        tuple(self._noticed), tuple(self._files))
        self._noticed.clear()
        self._files.clear()
        decision = self._brain.decide(estimate, inputs)
        self._recorder.record(inputs, fingerprint(decision))
        if self._recorder.failure and not self._recording_ended:
            self._recording_ended = True
            self._say(Event("recording_ended", (self._recorder.failure,)), now_s + self._obt_offset_s)
        return decision

    def _act(self, now_s: float, decision: Decision) -> None:
        """Write down, then run jobs, then renew the caps. The guardian applies reductions at once."""
        if decision.orders:
            try:
                self._order_book.record(decision.orders)
            except StoreError:
                self._storage_works = False
                raise
        if decision.transitions:
            try:
                self._ledger.record(decision.transitions, now_s + self._obt_offset_s, self._meter.usages)
                if self._custody is not None:
                    self._custody.committed(decision.transitions, self._ledger.entries, now_s + self._obt_offset_s)
            except StoreError:
                self._storage_works = False  # for good: a device that failed is not tried again in hope
                raise
            for transition in decision.transitions:
                if transition.state is JobState.FINISHED and self._file_service is not None:
                    self._file_service.finished(self._ledger.entries[transition.job_id].spec)
                if transition.state.is_final:
                    self._runner.end(transition.job_id)
                    self._settle(transition, now_s + self._obt_offset_s)
        for effect in decision.effects:
            if isinstance(effect, LoadSequence):
                self._files.append(self._read_upload(effect.name))
            elif isinstance(effect, EraseData) and self._custody is not None:
                obt_s = now_s + self._obt_offset_s
                gone = self._custody.erase_customer(effect.customer, obt_s, "ground")
                self._say(Event("data_erased", (effect.customer, len(gone))), obt_s)
            elif isinstance(effect, ExportAudit) and self._custody is not None:
                self._custody.export_log()
            elif isinstance(effect, FileOrder) and self._file_service is not None:
                self._file_service.order(effect)
            elif isinstance(effect, ChangeKey):
                self._say(self._change_key(effect, now_s), now_s + self._obt_offset_s)
        if decision.mode.name != self._facts.facts.mode or now_s - self._noted_s >= _NOTE_EVERY_S:
            self._noted_s = now_s  # first: facts that cannot be written fail this tick, not every one from now on
            self._facts.note(decision.mode, now_s)
            self._ledger.note(self._meter.usages)
        placements = self._placements(decision)
        groups = self._runner.place(now_s, placements)
        caps = [
            NodeCap(node.cap_w, placement.duty_frac, group)
            for node, placement, group in zip(decision.nodes, placements, groups, strict=True)
        ]
        for i in self._overdraw.off:
            caps[i] = NodeCap(self._off_w, 0.0, caps[i].pgid)
        self._guardian_status = self._guardian.renew(now_s, self._brain.parameters["lease_s"], caps)

    def _change_key(self, change: ChangeKey, now_s: float) -> Event:
        """Carry out a step to another key; return what came of it."""
        if self._rollover is None:
            return Event("key_refused", ("the link is in clear",))
        return self._rollover.take(change, now_s, self._brain.parameters["key_trial_s"])

    def _settle(self, transition: JobTransition, obt_s: float) -> None:
        """Report what an ended job has used; nothing of one that never ran."""
        usage = self._meter.settle(transition.job_id)
        if usage is None:
            return
        spec = self._ledger.entries[transition.job_id].spec
        value = spec.value if transition.state is JobState.FINISHED else 0.0
        self._say(Event("job_settled", (spec.job_id, *usage, value)), obt_s)

    def _placements(self, decision: Decision) -> list[Placement]:
        """Which job each node holds and how much of the time it runs in the node's power mode."""
        modes = self._mission.compute.modes
        full = modes[-1].rate
        placements = []
        drop_s = decision.plan.drop_after(decision.now_s, _DROP_KEPT_FRAC)
        for node in decision.nodes:
            rate = modes[node.power_mode].rate
            entry = self._ledger.entries.get(node.job_id)
            job = entry.spec if entry is not None and not entry.state.is_final else None
            if job is not None and rate > 0.0 and self._is_stopped(job, decision.now_s):
                job = None
            duty = (rate / full if self._duty_throttle else float(rate > 0.0)) if job is not None else 0.0
            left_j = None if job is None else self._brain.energy_left_j(job.job_id)
            placements.append(Placement(job, duty, drop_s, left_j))
        return placements

    def _is_stopped(self, job: JobSpec, now_s: float) -> bool:
        """Whether a job's data rules forbid that it runs here and now, whatever was decided."""
        if self._custody is None:
            return False
        stopped, events = self._custody.stops(job, now_s, now_s + self._obt_offset_s)
        for event in events:
            self._say(event, now_s + self._obt_offset_s)
        return stopped

    def _report(self, now_s: float, readings: Readings, estimate: Estimate, decision: Decision) -> None:
        obt_s = now_s + self._obt_offset_s
        sky = self._forecaster.sky(now_s)
        self._note_sky(sky, now_s, obt_s)
        if self._custody is not None:
            for event in self._custody.tend(obt_s):
                self._say(event, obt_s)
        for event in (*self._inbox.news(), *self._runner.notes()):
            self._say(event, obt_s)
        if self._rollover is not None:
            for event in self._rollover.tick(now_s, self._brain.parameters["key_trial_s"]):
                self._say(event, obt_s)
        if self._file_service is not None:
            for event in self._file_service.work(now_s, obt_s, self._heard_by(sky)):
                self._say(event, obt_s)
        if now_s - self._balanced_s >= _BALANCE_EVERY_S:
            self._balanced_s = now_s
            meter = self._meter
            self._say(
                Event("energy_balance", (meter.bus_j, meter.jobs_j, meter.house_j, meter.unmetered_s)), obt_s)
        for event in self._reporting.report(obt_s, readings, estimate, decision, sky, self._caps_in_force,
                                            lambda: self._count(now_s), self._receiver.status, self._brain.parameters,
                                            self._order_book.orders.monitors):
            self._say(event, obt_s)
        self._transmit(now_s, sky)

    def _heard_by(self, sky: Sky) -> str | None:
        """Name of the station that we send to, "" for one at the other end of a cable, None for none."""
        if sky.pass_in_s == 0.0:
            return sky.station
        return "" if self._always_transmit else None

    def _transmit(self, now_s: float, sky: Sky) -> None:
        """Switch the transmitter with the pass and send what the line takes."""
        transmit = self._always_transmit or sky.pass_in_s == 0.0
        if transmit != self._transmitting:
            self._transmitting = transmit
            self._board.set_transmitter(transmit)
        if transmit:
            if self._file_service is not None:
                self._reporting.stock_files(now_s, self._file_service.next_pdu)
            self._reporting.transmit(now_s, self._receiver.control_words())

    def _note_sky(self, sky: Sky, now_s: float, obt_s: float) -> None:
        """Report eclipse edges and the beginning of passes."""
        before, self._sky = self._sky, sky
        if before is None:
            return
        if sky.in_eclipse and not before.in_eclipse:
            self._eclipse_since_s = now_s
            self._say(Event("eclipse_entered", ()), obt_s)
        elif before.in_eclipse and not sky.in_eclipse and self._eclipse_since_s is not None:
            self._say(Event("eclipse_left", (now_s - self._eclipse_since_s,)), obt_s)
        if sky.pass_in_s == 0.0 and before.pass_in_s > 0.0:
            self._say(Event("ground_pass", (sky.station, sky.pass_lasts_s, sky.pass_top_deg)), obt_s)

    def _caps_in_force(self) -> tuple[float, ...]:
        """Caps that the guardian says it enforces; MISSING where it does not say."""
        status = self._guardian_status
        if status is None or not status.nodes:
            return (MISSING,) * self._mission.compute.nodes
        return tuple([node.cap_w for node in status.nodes])

    def _count(self, now_s: float) -> Counters:
        """Numbers for the health and job structures."""
        tally = self._brain.tally
        status = self._guardian_status
        flags = 0
        if status is None or status.health is not GuardianHealth.ALIVE:
            flags = 1
        elif status.expired or status.result != 0:
            flags = 2
        states = [job.state for job in self._brain.open_jobs]
        balance = self._brain.balance(now_s)
        return Counters(
            self._boot_count, self._ticks, self._overruns, tally.commands_accepted, tally.commands_rejected,
            self._receiver.frames_rejected, flags,
            tally.sheds + self._failures,
            states.count(JobState.QUEUED), len(states) - states.count(JobState.QUEUED),
            sum(1 for node in self._brain.nodes if node.power_mode >= 2), tally.finished, tally.refused,
            tally.broken, tally.value_finished,
            *(energy_j / J_PER_WH for energy_j in (*balance, tally.energy_used_j, tally.overdraft_j)),
        )

    def _shed(self, now_s: float, error: Exception) -> None:
        """Drop every cap to the floor and report; each step on its own, so that one failure hides no other."""
        text = f"{type(error).__name__}: {error}" if not isinstance(error, FlightError) else str(error)
        self._failures += 1
        with contextlib.suppress(Exception):  # a guardian that cannot be told lets the lease run out
            self._guardian_status = self._guardian.renew(now_s, self._brain.parameters["lease_s"], self._floor)
        name = "store_failed" if isinstance(error, StoreError) else "tick_failed"
        with contextlib.suppress(Exception):  # what cannot be said now is still counted in `failures`
            self._reporting.event(Event(name, (text,)), now_s + self._obt_offset_s)
            if self._sky is not None:
                self._transmit(now_s, self._sky)

"""The brain: every job gets one answer, promises are kept or impossible, and every fault sheds and passes."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from types import FrameType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_satellite import WARM_C, forecaster, mission
from reference_satellite import estimate as state_of

from flightsw.decide import governor
from flightsw.decide.brain import Brain
from flightsw.dictionary.commands import COMMANDS, pack_arguments
from flightsw.dictionary.events import BY_NAME
from flightsw.dictionary.parameters import BY_NAME as PARAMETER
from flightsw.dictionary.sensors import SENSORS
from flightsw.errors import KernelError
from flightsw.jobs.ledger import LEGAL, OPEN_MAX
from flightsw.kernels import Rollout
from flightsw.mission import Mission
from flightsw.physics.forecast import Forecaster
from flightsw.state import (
    LEGAL_TRANSITIONS,
    BanNews,
    Decision,
    Estimate,
    Inputs,
    JobProgress,
    JobSpec,
    JobState,
    JobView,
    Mode,
    Pong,
    Readings,
    Received,
    ReportHousekeeping,
)  # fmt: skip

M = mission()
MODES = M.compute.modes
PROMISED = (JobState.PROMISED, JobState.RUNNING, JobState.PAUSED)
CALM = {"sun_frac": 1.0, "array_w": 80.0, "battery_v": 15.0, "battery_a": 1.0, "battery_soc_frac": 0.95, "bus_w": 60.0,
        "plate_c": 20.0, "radiator_c": 10.0, "bus_c": 15.0, "battery_c": 18.0, "array_c": 30.0,
        **{f"die{i}_c": 25.0 for i in range(4)}, **{f"node{i}_w": 0.4 for i in range(4)}}  # fmt: skip


def spec(job_id: int, work: float = 300.0, in_s: float = 4000.0, *, now_s: float = 0.0, due_s: float | None = None,
         value: float = 1.0, activity: float = 1.0) -> JobSpec:  # fmt: skip
    due = now_s if due_s is None else due_s
    return JobSpec(job_id, f"job{job_id}", work, activity, value, now_s, now_s + in_s, due)


class Flight:
    """A brain with its world: jobs on working nodes make progress; every decision is checked against the rules."""

    def __init__(self, flown: Mission = M, jobs: tuple[JobView, ...] = (), *, to: Mode = Mode.COMPUTE,
                 now_s: float = 0.0) -> None:  # fmt: skip
        self.brain = Brain(flown, forecaster(), jobs)
        self.modes = flown.compute.modes
        self.states: dict[int, JobState] = {job.spec.job_id: job.state for job in jobs}
        self.specs = {job.spec.job_id: job.spec for job in jobs}
        self.done: dict[int, float] = {job.spec.job_id: job.done_units for job in jobs}
        self.answers: Counter[int] = Counter()
        self.events: list[str] = []
        self.requests = 0
        self.now_s = now_s
        self.broken = 0
        self.progress: list[JobProgress] = []
        self.log: list[Decision] = []
        self.tick(0.0)
        for mode in (Mode.STANDBY, Mode.COMPUTE):
            if to in (mode, Mode.COMPUTE) and self.brain.mode is not to:
                self.tick(1.0, sent=[self.command("mode", int(mode))])
        assert self.brain.mode is to

    def command(self, verb: str, *values: float | int | str) -> Received:
        row = COMMANDS[verb]
        self.requests += 1
        return Received(self.requests, row.service, row.subservice, pack_arguments(row, values))

    def tick(self, dt_s: float = 1.0, *, sent: list[Received] | None = None, jobs: list[JobSpec] | None = None,
             guardian: bool = True, charge: float = 0.95, celsius: tuple[float, ...] = WARM_C,
             dark: tuple[int, ...] = (), blind: tuple[str, ...] = (), plate_c: float | None = 20.0,
             failing: set[int] | None = None, bans: tuple[BanNews, ...] = ()) -> Decision:  # fmt: skip
        self.now_s += dt_s
        self._work(dt_s, failing or set())
        seen = CALM | {"plate_c": plate_c}
        values = tuple(seen.get(row.name) for row in SENSORS)
        readings = Readings(self.now_s, values, tuple(int(v is None) for v in values), (self.now_s,) * len(values))
        state = state_of(self.now_s, charge, celsius, dark=dark, blind=blind)
        given_jobs = tuple(jobs or ())
        inputs = Inputs(self.now_s, readings, tuple(sent or ()), given_jobs, tuple(self.progress), guardian,
                        bans=bans)
        self.progress = []
        mode_before = self.brain.mode
        decision = self.brain.decide(state, inputs)
        self._check(decision, mode_before, dark, bool(blind) or not guardian)
        self.log.append(decision)
        return decision

    def ticks(self, count: int, dt_s: float = 1.0, **world) -> Decision:  # type: ignore[no-untyped-def]
        for _ in range(count):
            self.tick(dt_s, **world)
        return self.log[-1]

    def _work(self, dt_s: float, failing: set[int]) -> None:
        for node in self.brain.nodes:
            job_id = node.job_id
            if node.power_mode < 2 or self.states.get(job_id) is not JobState.RUNNING:
                continue
            self.done[job_id] += self.modes[node.power_mode].rate * dt_s
            ended = self.done[job_id] >= self.specs[job_id].work_units or job_id in failing
            self.progress.append(JobProgress(job_id, self.done[job_id], ended, job_id not in failing, ""))

    def _check(self, decision: Decision, mode_before: Mode, dark: tuple[int, ...], must_shed: bool) -> None:
        for transition in decision.transitions:
            job_id, before = transition.job_id, self.states.get(transition.job_id)
            if before is None:
                assert transition.spec is not None
                assert transition.state in (JobState.QUEUED, JobState.REFUSED)
                self.specs[job_id] = transition.spec
                self.done[job_id] = 0.0
            else:
                assert transition.state in LEGAL[before], (before, transition)
            if transition.state in (JobState.PROMISED, JobState.REFUSED):
                self.answers[job_id] += 1
            if transition.state is JobState.WITHDRAWN:
                left_s = self.specs[job_id].deadline_s - self.now_s
                assert (self.specs[job_id].work_units - transition.done_units) / self.modes[-1].rate > left_s
            if transition.state in (JobState.WITHDRAWN, JobState.EXPIRED) and before in PROMISED:
                self.broken += 1
            self.states[job_id] = transition.state
        mode = mode_before
        for event in decision.events:
            row = BY_NAME[event.name]
            assert len(event.args) == len(row.args)
            row.text.format(*event.args)
            self.events.append(event.name)
            if event.name == "mode_changed":
                assert event.args[0] == mode.name
                assert Mode[str(event.args[1])] in LEGAL_TRANSITIONS[mode]
                mode = Mode[str(event.args[1])]
        assert mode is self.brain.mode is decision.mode
        assert self.broken == self.brain.tally.broken
        assert {job.spec.job_id for job in self.brain.open_jobs} == {
            job_id for job_id, state in self.states.items() if not state.is_final}  # fmt: skip
        assert all(self.states[job.spec.job_id] is job.state for job in self.brain.open_jobs)
        working = [node for node in decision.nodes if node.power_mode > 0]
        if must_shed or decision.mode is not Mode.COMPUTE or decision.shed:
            assert not working
        if must_shed:
            assert decision.shed
        for i, node in enumerate(decision.nodes):
            if node.power_mode > 0:
                assert i not in dark
                assert self.states[node.job_id] is JobState.RUNNING
        busy = [node.job_id for node in working]
        assert len(set(busy)) == len(busy)


# --- any mission -------------------------------------------------------------------------------------


def random_mission(seed: int, ticks: int = 700, dt_s: float = 5.0) -> Flight:
    """Jobs, faults and commands at random; `Flight` checks every decision."""
    rng = np.random.default_rng(seed)
    flight = Flight(now_s=float(rng.integers(0, 5000)))
    world: dict[str, object] = {}
    next_id, until = 1, 0
    charge = 0.9
    for tick in range(ticks):
        if tick >= until:
            until = tick + int(rng.integers(1, 40))
            world = {}
            match int(rng.integers(0, 12)):
                case 0:
                    world["guardian"] = False
                case 1:
                    world["blind"] = ("plate_c",)
                case 2:
                    world["plate_c"] = 57.0
                case 3 | 4:
                    world["dark"] = tuple(sorted(rng.choice(4, int(rng.integers(1, 5)), replace=False).tolist()))
                case 5:
                    world["celsius"] = (*WARM_C[:4], 56.0, *WARM_C[5:])
        charge = float(np.clip(charge + rng.normal(0.0, 0.01), 0.69, 1.0))
        jobs, sent = [], []
        for _ in range(rng.poisson(0.12)):
            now_s = flight.now_s + dt_s
            work, slack_s = float(rng.lognormal(6.0, 1.0)) + 1.0, float(rng.uniform(10.0, 6000.0))
            due_s = now_s + float(rng.choice([0.0, 300.0, 2 * slack_s]))
            jobs.append(spec(next_id, work, slack_s, now_s=now_s, due_s=due_s, value=float(rng.uniform(0.1, 5.0)),
                             activity=float(rng.uniform(0.7, 1.3))))  # fmt: skip
            next_id += rng.integers(0, 8) > 0  # some ids come twice
            next_id = int(next_id)
        match int(rng.integers(0, 30)):
            case 0:
                sent.append(flight.command("safe"))
            case 1 | 2:
                sent.append(flight.command("mode", int(Mode.STANDBY)))
            case 3 | 4 | 5 | 6:
                sent.append(flight.command("mode", int(Mode.COMPUTE)))
            case 7 if next_id > 1:
                sent.append(flight.command("job.cancel", int(rng.integers(1, next_id))))
            case 8:
                job_id = 10_000 + int(rng.integers(0, 50))
                sent.append(flight.command("job.submit", job_id, "g", 200.0, 1.0, 1.0, 2000.0, 1))
            case 9:
                sent.append(flight.command("param.set", "plate_max_c", float(rng.uniform(40.0, 55.0))))
        failing = {int(rng.integers(1, next_id + 1))} if rng.integers(0, 40) == 0 else set()
        flight.tick(dt_s, sent=sent, jobs=jobs, charge=charge, failing=failing, **world)  # type: ignore[arg-type]
    return flight


@pytest.mark.parametrize("seed", range(8))
def test_any_mission_keeps_the_rules(seed: int) -> None:
    flight = random_mission(seed)
    finals = Counter(state for state in flight.states.values() if state.is_final)
    assert finals[JobState.FINISHED] == flight.brain.tally.finished
    assert finals[JobState.REFUSED] == flight.brain.tally.refused
    assert set(flight.answers.values()) <= {1}
    for job_id, state in flight.states.items():
        # Unanswered only while it waits, and when its owner took it back.
        if flight.answers[job_id] == 0:
            assert state in (JobState.QUEUED, JobState.CANCELLED), (job_id, state)
    late = [job for job in flight.brain.open_jobs if job.spec.deadline_s < flight.now_s]
    assert not late


def test_random_missions_reach_what_they_claim_to_test() -> None:
    reached: Counter[str] = Counter()
    for seed in range(8):
        flight = random_mission(seed)
        reached.update(state.name for state in flight.states.values())
        reached.update(flight.events)
    for name in ("FINISHED", "REFUSED", "FAILED", "CANCELLED", "blind", "sighted", "guardian_lost", "guardian_back",
                 "shed", "limit_crossed", "plan_fallback", "job_started", "job_promised"):  # fmt: skip
        assert reached[name] > 0, name
    assert reached["EXPIRED"] + reached["WITHDRAWN"] > 0


@settings(max_examples=3, deadline=None)
@given(st.integers(100, 10_000))
def test_same_inputs_same_decisions(seed: int) -> None:
    assert random_mission(seed, 200).log == random_mission(seed, 200).log


# --- planning ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "events"),
    [(("compare_levels", "ahead"), ["plan_failed"]), (("first_crossing",), ["shed"]), (("ahead",), [])],
)
def test_a_forecast_that_fails_costs_no_tick(
    broken: tuple[str, ...], events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a plan the least load, without the governor's check none, without the ground's forecast as before."""
    flight = Flight()
    flight.ticks(200, jobs=[spec(1, 5000.0, 20_000.0, now_s=flight.now_s)])

    def fail(*_: object) -> None:
        raise KernelError("fsw_rollout_run", -13, "a lane left 1..1000 K")

    with monkeypatch.context() as patch:
        for name in broken:
            patch.setattr(Forecaster, name, fail)
        begun = len(flight.log)
        flight.ticks(1200)  # what the account of ten minutes still had is used up by then
        decision = flight.tick(sent=[flight.command("ping")])
        assert [v.stage for v in decision.verifications] == [1, 7]
        told = [event for tick in flight.log[begun:] for event in tick.events
                if event.name in ("plan_failed", "plan_fallback", "shed")]
        assert any(node.power_mode > 1 for node in decision.nodes) == (not events)
        assert [event.name for event in told] == events
        assert all("a lane left 1..1000 K" in str(event.args[0]) for event in told)
        assert decision.plan.is_fallback == ("compare_levels" in broken)
        assert (decision.ahead is None) == ("ahead" in broken)
    flight.ticks(100)
    assert not flight.log[-1].plan.is_fallback
    assert any(node.power_mode > 1 for node in flight.brain.nodes)
    assert flight.states[1] is JobState.RUNNING


def test_a_plan_costs_the_same_whatever_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why no plan is late: three batches of candidates at most, the fallback's one, two corners of what is ahead."""
    sizes: list[int] = []
    run = Rollout.run

    def count(self: Rollout, n_lanes: int | None = None, n_slots: int | None = None) -> None:
        sizes.append(self.min_battery_j.size if n_lanes is None else n_lanes)
        run(self, n_lanes, n_slots)

    monkeypatch.setattr(Rollout, "run", count)
    for charge in (0.60, 0.72, 0.95):
        for jobs in (0, 200):
            flight = Flight()
            flight.tick(charge=charge, jobs=[spec(i, now_s=flight.now_s, in_s=60_000.0) for i in range(1, jobs + 1)])
            sizes.clear()
            turn = flight.tick(61.0, charge=charge, blind=("bus_c",))  # blind: the governor is not asked
            assert turn.plan.made_s == flight.now_s
            assert sizes in ([144, 144, 144], [144, 1])


# --- jobs ----------------------------------------------------------------------------------------------


def test_a_job_is_queued_promised_run_and_finished() -> None:
    flight = Flight()
    first = flight.tick(jobs=[spec(1, now_s=flight.now_s)])
    assert [t.state for t in first.transitions] == [JobState.QUEUED, JobState.PROMISED, JobState.RUNNING]
    (promise,) = [e for e in first.events if e.name == "job_promised"]
    assert flight.brain.balance(flight.now_s).reserved_j == pytest.approx(float(promise.args[2]) * 3600.0)
    flight.ticks(400)
    assert flight.states[1] is JobState.FINISHED
    tally = flight.brain.tally
    assert (tally.finished, tally.promised, tally.refused, tally.broken, tally.value_finished) == (1, 1, 0, 0, 1.0)
    assert flight.brain.balance(flight.now_s).reserved_j == 0.0
    assert flight.events.count("promise_settled") == 1
    assert tally.energy_used_j > 300.0 * 19.0  # no draw is measured here: charged as declared
    assert all(node.power_mode == 0 for node in flight.tick().nodes)


def test_a_known_id_is_not_taken_twice() -> None:
    flight = Flight()
    flight.tick(jobs=[spec(1, now_s=flight.now_s)])
    assert flight.tick(jobs=[spec(1, now_s=flight.now_s)]).transitions == ()
    flight.ticks(400)
    assert flight.tick(jobs=[spec(1, now_s=flight.now_s)]).transitions == ()


def test_a_waiting_job_is_answered_by_its_time_even_between_dispatches() -> None:
    """Busy nodes make it wait; then the answer comes at the very tick, not at the next dispatch."""
    flight = Flight()
    flight.tick(jobs=[spec(i, 2000.0, 20_000.0, now_s=flight.now_s) for i in range(1, 5)])
    due_s = flight.now_s + 127.0
    flight.tick(jobs=[spec(9, 100.0, 20_000.0, now_s=flight.now_s, due_s=due_s)])
    while flight.now_s + 1.0 < due_s:
        flight.tick()
        assert flight.states[9] is JobState.QUEUED
    flight.tick()
    assert flight.now_s >= due_s
    assert flight.answers[9] == 1


@pytest.mark.parametrize("due_in_s", [500.0, 999.0, 1000.0, 1e9])
def test_no_owner_can_make_a_job_wait_past_its_last_moment(due_in_s: float) -> None:
    """An answer that is due when it is too late, or never, is given while the job could still be done."""
    flight = Flight()
    flight.tick(jobs=[spec(i, 2000.0, 20_000.0, now_s=flight.now_s) for i in range(1, 5)])
    begin_s = flight.now_s
    flight.tick(jobs=[spec(9, 400.0, 1000.0, now_s=begin_s, due_s=begin_s + due_in_s)])
    while flight.states[9] is JobState.QUEUED:
        assert flight.now_s < begin_s + 1000.0
        flight.tick()
    assert flight.answers[9] == 1
    assert flight.now_s - begin_s <= min(due_in_s, 1000.0 - 400.0 / MODES[-1].rate) + 1.0


DEAR = [(1000.0, 50.0, 5000.0)] * 30
"""Jobs of five a unit that nobody could do in time: refused at once, but they tell what capacity is worth."""


def beside(busy: int, cheap: float, dear: list[tuple[float, float, float]] = DEAR) -> tuple[JobState, Decision]:
    """Offer a job of 100 units and value `cheap`, due now, while `busy` nodes have long jobs; return what became."""
    flight = Flight()
    flight.tick(jobs=[spec(i, 1000.0, 50_000.0, now_s=flight.now_s, value=9000.0) for i in range(1, busy + 1)])
    assert [flight.states[i] for i in range(1, busy + 1)] == [JobState.RUNNING] * busy
    late = [spec(100 + i, work, in_s, now_s=flight.now_s, value=value) for i, (work, in_s, value) in enumerate(dear)]
    flight.tick(jobs=late)
    assert all(flight.states[job.job_id] is JobState.REFUSED for job in late)
    decision = flight.tick(jobs=[spec(9, 100.0, 20_000.0, now_s=flight.now_s, value=cheap)])
    return flight.states[9], decision


def test_a_job_below_the_price_is_refused_while_all_nodes_are_busy() -> None:
    state, decision = beside(4, 100.0)
    assert state is JobState.REFUSED
    (answer,) = [t for t in decision.transitions if t.state is JobState.REFUSED]
    assert answer.detail == "OUTBID"
    (event,) = [e for e in decision.events if e.name == "job_refused"]
    assert event.args == (9, "OUTBID", "value", decision.now_s, "none")


@pytest.mark.parametrize(
    ("busy", "cheap", "dear"),
    [
        (3, 100.0, DEAR),  # a node is idle: better a cheap job than none
        (4, 500.0, DEAR),  # it pays the price
        (4, 100.0, []),  # what is offered finds room
    ],
)
def test_a_job_is_promised_when_capacity_is_to_spare_or_paid_for(
    busy: int, cheap: float, dear: list[tuple[float, float, float]]
) -> None:
    state, _ = beside(busy, cheap, dear)
    assert state in (JobState.PROMISED, JobState.RUNNING)


def test_a_job_below_the_price_waits_for_an_idle_node_until_its_answer_is_due() -> None:
    flight = Flight()
    works = {1: 500.0, 2: 2500.0, 3: 2500.0, 4: 2500.0}
    flight.tick(jobs=[spec(i, work, 50_000.0, now_s=flight.now_s, value=9e4) for i, work in works.items()])
    flight.tick(jobs=[spec(100 + i, w, s, now_s=flight.now_s, value=v) for i, (w, s, v) in enumerate(DEAR)])
    flight.tick(jobs=[spec(9, 100.0, 20_000.0, now_s=flight.now_s, due_s=flight.now_s + 9000.0, value=1.0)])
    while not flight.states[1].is_final:
        assert flight.states[9] is JobState.QUEUED
        flight.tick()
    flight.tick()
    assert flight.states[9] is JobState.RUNNING


def test_a_job_at_the_very_price_is_not_outbid() -> None:
    """1.5 / 1092 * 1092 is more than 1.5: the price is compared where it was made."""
    flight = Flight()
    flight.tick(jobs=[spec(i, 1000.0, 50_000.0, now_s=flight.now_s, value=9000.0) for i in range(1, 5)])
    same = [spec(100 + i, 1092.0, 50.0, now_s=flight.now_s, value=1.5) for i in range(30)]
    flight.tick(jobs=same)
    flight.tick(jobs=[spec(9, 1092.0, 50_000.0, now_s=flight.now_s, value=1.5)])
    assert flight.states[9] in (JobState.PROMISED, JobState.RUNNING)
    flight.tick(jobs=[spec(10, 1092.0, 50_000.0, now_s=flight.now_s, value=1.49)])
    assert flight.states[10] is JobState.REFUSED


def test_a_flood_is_refused_before_the_ledger_overflows() -> None:
    assert PARAMETER["jobs_open_max"].high == OPEN_MAX >= 4096
    flight = Flight()
    flood = [spec(i, 100.0, 90_000.0, now_s=flight.now_s, due_s=1e9) for i in range(1, 301)]
    decision = flight.tick(jobs=flood)
    assert len(flight.brain.open_jobs) == 256
    refused = [t for t in decision.transitions if t.state is JobState.REFUSED]
    assert [t.job_id for t in refused] == list(range(257, 301))
    assert all(t.detail == "QUEUE_FULL" and t.spec is not None for t in refused)
    assert flight.brain.tally.refused == 44
    full = Flight()
    full.tick(sent=[full.command("param.set", "jobs_open_max", 2.0)])
    full.tick(jobs=[spec(i, 100.0, 90_000.0, now_s=full.now_s, due_s=1e9) for i in (1, 2, 3)])
    assert full.states[3] is JobState.REFUSED


def test_a_quiet_tick_costs_the_same_however_many_jobs_are_open() -> None:
    def steps(count: int) -> list[int]:
        """Instructions that each tick takes beside so many promised and waiting jobs, but for dispatch and plans."""
        jobs = tuple(JobView(spec(i, 100.0, 1e6 + i, due_s=1e5), JobState.QUEUED if i % 3 == 0 else JobState.PROMISED,
                             0.0, -1) for i in range(1, count + 1))  # fmt: skip
        flight = Flight(jobs=jobs)
        flight.ticks(2)
        decide, counts = flight.brain.decide, []

        def follow(frame: FrameType, event: str, _: object) -> object:
            frame.f_trace_opcodes = True
            counts[-1] += event == "opcode"
            return follow

        def counted(state: Estimate, inputs: Inputs) -> Decision:
            counts.append(0)
            before = sys.gettrace()
            sys.settrace(follow)
            try:
                return decide(state, inputs)
            finally:
                sys.settrace(before)

        flight.brain.decide = counted  # type: ignore[method-assign] # it is measured
        flight.ticks(12)
        return sorted(counts)

    few, many = steps(20), steps(1000)
    assert many[:8] == few[:8]
    assert many[-1] > few[-1] + 1000  # the ticks that do look through all jobs are counted


def test_expiry_breaks_a_promise_only_where_there_was_one() -> None:
    standing_by = Flight(to=Mode.STANDBY)
    standing_by.tick(jobs=[spec(1, 100.0, 300.0, now_s=standing_by.now_s)])
    assert standing_by.states[1] is JobState.REFUSED  # nothing runs, and nobody knows for how long
    flight = Flight()
    flight.tick(jobs=[spec(1, 100.0, 300.0, now_s=flight.now_s)])
    assert flight.states[1] in (JobState.PROMISED, JobState.RUNNING)
    flight.tick(sent=[flight.command("mode", int(Mode.STANDBY))])
    flight.ticks(350)
    assert flight.states[1] in (JobState.EXPIRED, JobState.WITHDRAWN)
    assert flight.brain.tally.broken == 1
    waiting = Brain(M, forecaster(), [JobView(spec(7, 100.0, 50.0), JobState.QUEUED, 0.0, -1)])
    values = (None,) * len(SENSORS)
    late = Inputs(100.0, Readings(100.0, values, (1,) * len(values), (0.0,) * len(values)), (), (), (), True)
    decision = waiting.decide(state_of(100.0), late)
    assert [t.state for t in decision.transitions] == [JobState.EXPIRED]
    assert waiting.tally.broken == 0


def test_a_promise_outlives_bad_times_and_is_withdrawn_only_when_impossible() -> None:
    flight = Flight()
    flight.tick(jobs=[spec(1, 1000.0, 6000.0, now_s=flight.now_s)])
    deadline_s = flight.specs[1].deadline_s
    while flight.now_s < deadline_s - 1000.0 / MODES[-1].rate - 2.0:
        flight.tick(charge=0.69)  # no plan affords anything
        assert not flight.states[1].is_final
    flight.ticks(90, charge=0.69)  # what it had done, and the time to the next plan
    assert flight.states[1] is JobState.WITHDRAWN
    assert flight.brain.tally.broken == 1


def test_a_failed_job_ends_and_its_node_is_free() -> None:
    flight = Flight()
    flight.tick(jobs=[spec(i, 500.0, 9000.0, now_s=flight.now_s) for i in range(1, 6)])
    flight.ticks(20)
    flight.tick(failing={1})
    assert flight.states[1] is JobState.FAILED
    assert "job_failed" in flight.events
    assert 1 not in [node.job_id for node in flight.ticks(2).nodes]


def test_jobs_of_the_ledger_are_taken_up() -> None:
    jobs = (JobView(spec(1, 300.0), JobState.PROMISED, 100.0, -1), JobView(spec(2), JobState.FINISHED, 300.0, -1))
    flight = Flight(jobs=jobs)
    assert [job.spec.job_id for job in flight.brain.open_jobs] == [1]
    flight.ticks(40)
    assert flight.states[1] is JobState.RUNNING
    assert flight.tick(jobs=[spec(2, now_s=flight.now_s)]).transitions == ()


# --- telecommands ------------------------------------------------------------------------------------


def stages(decision: Decision) -> list[tuple[int, int]]:
    return [(v.stage, v.code) for v in decision.verifications]


@pytest.mark.parametrize(
    ("verb", "values", "stages_", "effect"),
    [
        ("ping", (), [(1, 0), (7, 0)], Pong()),
        ("hk.report", (1,), [(1, 0), (7, 0)], ReportHousekeeping(1)),
        ("mode", (int(Mode.COMPUTE),), [(2, 4)], None),  # it is in COMPUTE
        ("param.set", ("die_max_c", 70.0), [(1, 0), (7, 0)], None),
        ("param.set", ("die_max_c", 700.0), [(2, 2)], None),
        ("job.cancel", (77,), [(2, 4)], None),
        ("job.submit", (5, "x", 100.0, 1.0, 1.0, 3000.0, 1), [(1, 0), (7, 0)], None),
    ],
)
def test_each_command_is_verified_once(verb, values, stages_, effect):  # type: ignore[no-untyped-def]
    flight = Flight()
    decision = flight.tick(sent=[flight.command(verb, *values)])
    assert stages(decision) == stages_
    assert decision.effects == ((effect,) if effect is not None else ())
    tally = flight.brain.tally
    assert tally.commands_rejected == (stages_[0][0] == 2)
    assert tally.commands_accepted == 2 + (stages_[0][0] == 1)  # two took it to COMPUTE


def test_an_unknown_command_is_rejected() -> None:
    flight = Flight()
    assert stages(flight.tick(sent=[Received(9, 99, 1, b"")])) == [(2, 1)]


def test_a_parameter_takes_effect_in_the_same_tick() -> None:
    flight = Flight()
    plan = flight.log[-1].plan
    decision = flight.tick(sent=[flight.command("param.set", "battery_floor_frac", 0.94)])
    assert flight.brain.parameters["battery_floor_frac"] == 0.94
    assert decision.plan != plan
    assert max(decision.plan.budget_w) < max(plan.budget_w)


def test_jobs_from_the_ground_are_answered_at_once_and_cancelled_on_demand() -> None:
    flight = Flight()
    flight.tick(sent=[flight.command("job.submit", 5, "x", 900.0, 1.0, 1.0, 6000.0, 1)])
    assert flight.answers[5] == 1
    assert flight.states[5] is JobState.RUNNING
    decision = flight.tick(sent=[flight.command("job.cancel", 5), flight.command("job.cancel", 5)])
    assert stages(decision) == [(1, 0), (7, 0), (2, 4)]
    assert flight.states[5] is JobState.CANCELLED
    assert flight.brain.tally.broken == 0
    again = flight.tick(sent=[flight.command("job.submit", 5, "x", 900.0, 1.0, 1.0, 6000.0, 1)])
    assert stages(again) == [(2, 5)]


@pytest.mark.parametrize("mode", [Mode.STANDBY, Mode.SAFE])
def test_leaving_compute_sheds_and_coming_back_runs_again(mode: Mode) -> None:
    flight = Flight()
    flight.tick(jobs=[spec(1, 3000.0, 20_000.0, now_s=flight.now_s)])
    assert flight.brain.nodes[0].power_mode > 0
    decision = flight.tick(sent=[flight.command("mode", int(mode))])
    assert all(node.power_mode == 0 for node in decision.nodes)
    assert decision.shed == ""  # asked for, not suffered
    flight.tick(sent=[flight.command("mode", int(Mode.STANDBY))])
    assert flight.tick(sent=[flight.command("mode", int(Mode.COMPUTE))]).nodes[0].power_mode > 0


# --- faults --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"blind": ("plate_c", "bus_c")}, "state unknown without plate_c, bus_c"),
        ({"guardian": False}, "guardian does not answer"),
        ({"plate_c": 57.0}, "plate_c = 57.00 beyond 55.00"),
    ],
)
def test_a_fault_sheds_at_once_and_work_goes_on_after_it(fault: dict[str, object], reason: str) -> None:
    flight = Flight()
    flight.tick(jobs=[spec(1, 3000.0, 30_000.0, now_s=flight.now_s)])
    flight.ticks(5)
    assert flight.brain.nodes[0].power_mode > 0
    persistence = 2 if "plate_c" in fault else 0
    flight.ticks(persistence, **fault)
    decision = flight.tick(**fault)  # type: ignore[arg-type]
    assert decision.shed == reason
    assert all(node.power_mode == 0 for node in decision.nodes)
    flight.ticks(30, **fault)
    assert flight.events.count("shed") == flight.brain.tally.sheds == 1  # one shed, however long
    decision = flight.tick()
    assert decision.shed == ""
    if not fault.get("guardian", True):
        assert flight.brain.mode is Mode.SAFE  # the ground decides when to go on
        flight.tick(sent=[flight.command("mode", int(Mode.STANDBY))])
        decision = flight.tick(sent=[flight.command("mode", int(Mode.COMPUTE))])
    assert decision.nodes[0].power_mode > 0
    assert flight.states[1] is JobState.RUNNING
    flight.tick(**fault)  # type: ignore[arg-type]
    flight.ticks(2, **fault)
    assert flight.brain.tally.sheds == 2


def test_the_governors_shed_is_one_event_and_lasts_until_it_finds_otherwise() -> None:
    flight = Flight()
    flight.tick(jobs=[spec(1, 3000.0, 30_000.0, now_s=flight.now_s)])
    flight.ticks(12)
    hot = (*WARM_C[:4], 56.0, *WARM_C[5:])
    flight.ticks(100, celsius=hot)
    assert flight.log[-1].shed
    sheds = [decision.shed for decision in flight.log[-60:]]
    assert all(sheds)
    assert flight.events.count("shed") == flight.brain.tally.sheds == 1
    flight.ticks(70)
    assert flight.log[-1].shed == ""
    assert flight.brain.nodes[0].power_mode > 0


def test_a_cut_that_stands_is_reported_once() -> None:
    flight = Flight()
    flight.tick(jobs=[spec(i, 9000.0, 90_000.0, now_s=flight.now_s) for i in (1, 2, 3, 4)])
    assert all(node.power_mode > 0 for node in flight.brain.nodes)
    flight.ticks(3)
    before = flight.events.count("cap_reduced")
    near = (*WARM_C[:4], 53.3, 49.0, *WARM_C[6:])
    flight.ticks(55, celsius=near)
    cuts = flight.events.count("cap_reduced") - before
    assert 0 < cuts <= 16


def test_a_dark_node_is_left_at_once_and_its_job_moves() -> None:
    flight = Flight()
    flight.tick(jobs=[spec(1, 3000.0, 30_000.0, now_s=flight.now_s)])
    flight.ticks(3)
    assert flight.brain.nodes[0].job_id == 1
    runaway = (100.0, *WARM_C[1:])
    decision = flight.tick(dark=(0,), celsius=runaway)
    assert (decision.nodes[0].power_mode, decision.nodes[0].job_id) == (0, 0)
    assert decision.nodes[1].job_id == 1
    assert decision.nodes[1].power_mode > 0
    assert decision.shed == ""
    stays = flight.ticks(100, dark=(0,), celsius=runaway)
    assert stays.nodes[1].power_mode > 0
    assert not stays.plan.is_fallback
    back = flight.ticks(2)
    assert back.nodes[1].job_id == 1  # it stays where it is


def test_nodes_never_draw_more_than_the_rail_carries() -> None:
    flight = Flight()
    flight.tick(jobs=[spec(i, 9000.0, 90_000.0, now_s=flight.now_s, activity=1.3) for i in (1, 2, 3, 4)])
    for _ in range(200):
        decision = flight.tick(charge=1.0)
        draws = sum(MODES[n.power_mode].draw_w * (1.3 if n.power_mode else 1.0) for n in decision.nodes)
        assert draws <= governor.payload_w(M.parameters, M) + 1e-9


def test_unspent_budget_is_kept_for_a_minute_and_not_longer() -> None:
    """A budget below one node's first step is spent in turns: on and off, and on average no more than it."""
    flight = Flight()
    flight.tick(sent=[flight.command("param.set", "payload_max_w", 40.0)])
    flight.tick(jobs=[spec(i, 9000.0, 90_000.0, now_s=flight.now_s) for i in (1, 2, 3, 4)])
    drawn_j = budget_j = 0.0
    for _ in range(1200):
        decision = flight.tick()
        drawn_j += sum(MODES[n.power_mode].draw_w for n in decision.nodes)
        budget_j += decision.plan.budget_at(flight.now_s)
    assert drawn_j <= budget_j * 1.01 + 60.0 * 40.0
    assert drawn_j > 0.8 * budget_j


# --- modes ---------------------------------------------------------------------------------------------


def autonomous() -> Mission:
    return dataclasses.replace(M, safe_exit_autonomous=True)


def test_boot_goes_to_safe_and_stays_there() -> None:
    flight = Flight(to=Mode.SAFE)
    flight.ticks(100)
    assert flight.brain.mode is Mode.SAFE
    assert flight.tick(jobs=[spec(1, now_s=flight.now_s)]).transitions[-1].detail == "MODE"


def test_an_autonomous_satellite_leaves_safe_when_charged_and_whole() -> None:
    flight = Flight(autonomous(), to=Mode.STANDBY)  # BOOT, SAFE and STANDBY in its first tick
    assert flight.events.count("mode_changed") == 2
    assert flight.tick().mode is Mode.COMPUTE
    flight.tick(guardian=False)
    assert flight.tick(guardian=False).mode is Mode.SAFE
    assert flight.tick(charge=0.79).mode is Mode.SAFE
    assert flight.tick(blind=("plate_c",)).mode is Mode.SAFE
    flight.tick()
    assert flight.tick().mode is Mode.COMPUTE


@pytest.mark.parametrize("mode", [Mode.SAFE, Mode.STANDBY])
def test_what_the_ground_chose_holds_against_autonomy(mode: Mode) -> None:
    flight = Flight(autonomous(), to=Mode.STANDBY)
    flight.ticks(5)
    flight.tick(sent=[flight.command("mode", int(mode))])
    assert {flight.tick().mode for _ in range(100)} == {mode}
    flight.tick(guardian=False)
    assert {flight.tick().mode for _ in range(100)} == {Mode.SAFE}
    flight.tick(sent=[flight.command("mode", int(Mode.STANDBY))])
    flight.tick(sent=[flight.command("mode", int(Mode.COMPUTE))])
    flight.tick(guardian=False)
    flight.ticks(2)
    assert flight.brain.mode is Mode.COMPUTE  # the ground let go


@pytest.mark.parametrize("flown", [M, autonomous()])
def test_command_loss_goes_safe_once_and_waits_for_the_ground(flown: Mission) -> None:
    flight = Flight(flown, to=Mode.STANDBY)
    flight.tick(sent=[flight.command("mode", int(Mode.COMPUTE))])
    silence_s = flown.parameters["command_loss_s"]
    flight.ticks(int(silence_s / 3600.0), 3600.0)
    assert flight.brain.mode is Mode.COMPUTE
    flight.ticks(50, 60.0)
    assert flight.brain.mode is Mode.SAFE
    assert flight.events.count("command_loss") == 1
    flight.tick(sent=[flight.command("ping")])
    flight.ticks(2)
    assert flight.brain.mode is (Mode.COMPUTE if flown.safe_exit_autonomous else Mode.SAFE)

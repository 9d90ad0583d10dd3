"""Flies a scenario in virtual time: flight software, true satellite, line and ground station in one process.

Called by `hil run`. The supervisor is the one that flies, built by `flightsw.compose`; only its board,
guardian, runner, inbox and port are the rig's. Time is a counter; the machine's clock is read for `timing.json`
and nothing else. What the run was worth is judged from the truth, never from what the flight software says.
"""

from __future__ import annotations

import json
import os
import platform
from array import array
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from time import perf_counter
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from flightsw import compose
from flightsw.decide.brain import Brain
from flightsw.decide.estimator import Estimator
from flightsw.dictionary.sensors import fitted_names
from flightsw.errors import ConfigError, FlightError
from flightsw.guardian import GuardianLink, InProcessGuardian
from flightsw.mission import parse as parse_mission
from flightsw.orbit import Attitude
from flightsw.physics.units import J_PER_WH
from flightsw.recorder import fingerprint, read_recording
from flightsw.state import Ahead, Decision, JobSpec, JobState, Mode, NodeCommand, RefusalReason
from ground.archive import Archive, EventEntry
from ground.files import FileDesk, folder_of
from ground.station import CommandState, Station
from hil import link_keys, metering
from hil.channel import LineEnd, VirtualLine
from hil.checks import PythonCheck
from hil.faults import FaultyJobs, ObeyedCaps
from hil.inject import FaultSpan, Injector, Live, Operator, Probe, TestedFlight, sources
from hil.jobs import FIRST_STREAM_ID, JobStream, StreamConfig, VirtualRunner
from hil.plant.environment import TruthEnvironment, build_environment
from hil.plant.propagator import start_from_tle
from hil.plant.satellite import Caps, Load, Truth, TruthSatellite, disperse
from hil.scenario import Edges, Scenario
from hil.signals import Record, held
from hil.verdict import Finding, Level, Verdict, overall

TICK_S = 1.0
RECORDING = "boot-0001.fswrec"

LEVELS = {"sil": Level.SIL, "sil-framed": Level.SIL, "serial": Level.PIL, "emulated": Level.PIL, "board": Level.HIL}
"""What a pass on each bench shows."""

_COMMIT_S = 10.0  # the ground's archive writes in groups of this age: nobody watches a virtual pass
_PROGRESS_TICKS = 256
_PROBED = ("decision.", "flight.", "link.")  # kept by nothing else

Column = npt.NDArray[np.float32]


class Draws(IntEnum):
    """What a run draws random numbers for; each has a stream of its own under the scenario's seed."""

    SENSORS = 0
    JOBS = 1
    DISPERSION = 2
    CLOUDS = 3
    LINE = 4


def generator(seed: int, purpose: Draws) -> np.random.Generator:
    """Random numbers for one purpose of a run."""
    return np.random.Generator(np.random.PCG64((seed, int(purpose))))


# --- what is noted during a run ----------------------------------------------------------------------


class Bar(NamedTuple):
    """One stretch of a job on a node."""

    job_id: int
    node: int
    from_s: float
    to_s: float


@dataclass(slots=True)
class JobHistory:
    """What became of one job, as the flight software decided it."""

    spec: JobSpec
    state: JobState
    detail: str = ""
    promised_s: float | None = None
    ended_s: float | None = None

    def is_broken(self, end_s: float) -> bool:
        """True when it was promised and its deadline passed within the run without it being finished.

        A job that the ground cancelled or that failed by itself breaks no promise of the satellite.
        """
        if self.promised_s is None or self.state in (JobState.CANCELLED, JobState.FAILED):
            return False
        if self.state is JobState.FINISHED:
            return self.ended_s is not None and self.ended_s > self.spec.deadline_s
        return self.state.is_final or self.spec.deadline_s < end_s


class Logbook:
    """Follows the decisions: what became of each job, and which job was on which node when."""

    def __init__(self, node_count: int) -> None:
        self.jobs: dict[int, JobHistory] = {}
        self.bars: list[Bar] = []
        self.modes: list[tuple[float, Mode]] = []
        self._nodes: tuple[NodeCommand, ...] = ()
        self._since: list[tuple[int, float]] = [(0, 0.0)] * node_count
        self.forecasts: list[Ahead] = []  # made on board while computing, each from where the one before ends

    def note(self, decision: Decision) -> None:
        """Take in one decision."""
        now_s = decision.now_s
        if not self.modes or self.modes[-1][1] is not decision.mode:
            self.modes.append((now_s, decision.mode))
        ahead = decision.ahead
        if ahead is not None and decision.mode is Mode.COMPUTE and (
                not self.forecasts or ahead.made_s >= self.forecasts[-1].end_s):
            self.forecasts.append(ahead)
        for job_id, state, detail, _, spec in decision.transitions:
            history = self.jobs.get(job_id)
            if history is None:
                if spec is None:
                    continue
                history = self.jobs[job_id] = JobHistory(spec, state)
            history.state, history.detail = state, detail
            if state is JobState.PROMISED and history.promised_s is None:
                history.promised_s = now_s
            if state.is_final:
                history.ended_s = now_s
        if decision.nodes is not self._nodes:
            self._nodes = decision.nodes
            for i, node in enumerate(decision.nodes):
                self._set(i, node.job_id if node.power_mode > 1 else 0, now_s)

    def close(self, now_s: float) -> None:
        """End the stretches that are under way."""
        for i in range(len(self._since)):
            self._set(i, 0, now_s)

    def _set(self, node: int, job_id: int, now_s: float) -> None:
        before, since_s = self._since[node]
        if before == job_id:
            return
        if before and now_s > since_s:
            self.bars.append(Bar(before, node, since_s, now_s))
        self._since[node] = (job_id, now_s)


class Trace:
    """The truth, tick by tick, as columns of 32-bit floats."""

    def __init__(self, node_count: int) -> None:
        self.names = (
            *fitted_names(node_count), "array_available_w", "tx_w", "heater_w", "budget_w",
            *(f"node{i}_mode" for i in range(node_count)), *(f"node{i}_cap_w" for i in range(node_count)),
        )
        self._cells = array("f")
        self._table = np.empty((0, len(self.names)), np.float32)

    def add(self, satellite: TruthSatellite, budget_w: float, nodes: tuple[NodeCommand, ...]) -> None:
        """Note where the satellite stands; `nodes` are the commands in force."""
        out = satellite.plant.output
        extend = self._cells.extend
        extend(satellite.values)
        extend((out.array_available_w, out.tx_w, out.heater_w, budget_w))
        extend(satellite.modes)
        extend([node.cap_w for node in nodes])

    def close(self) -> None:
        """Make the columns readable; nothing is added after this."""
        self._table = np.frombuffer(self._cells, np.float32).reshape(-1, len(self.names))

    def __len__(self) -> int:
        return len(self._cells) // len(self.names)

    def __getitem__(self, name: str) -> Column:
        return self._table[:, self.names.index(name)]

    def group(self, pattern: str, count: int) -> Column:
        """Columns (n, count) of all nodes, `{}` in `pattern` standing for the node."""
        return np.stack([self[pattern.format(i)] for i in range(count)], axis=1)


@dataclass(frozen=True, slots=True)
class Contact:
    """One stretch in which a station sees the satellite, by the truth."""

    from_s: float
    to_s: float


@dataclass(frozen=True, slots=True)
class Crossing:
    """One limit and how the truth kept it: times crossed, seconds beyond it, greatest depth, nearest value."""

    limit: str
    bound: float
    unit: str
    count: int
    seconds: float
    depth: float
    nearest: float


@dataclass(frozen=True, slots=True)
class Flight:
    """A run that has been flown, and all that its report needs."""

    scenario: Scenario
    folder: Path
    metrics: dict[str, object]
    timing: dict[str, object]
    trace: Trace
    logbook: Logbook
    contacts: tuple[Contact, ...]
    crossings: tuple[Crossing, ...]
    events: tuple[EventEntry, ...]
    lit_frac: npt.NDArray[np.float64]
    start_unix_s: float
    findings: tuple[Finding, ...] = ()
    spans: tuple[FaultSpan, ...] = ()
    tick_ms: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    bench: str = "sil"
    retries: int = 0  # of the bench; counted and shown, never hidden

    @property
    def verdict(self) -> Verdict:
        """The worst of the findings."""
        return overall(self.findings)

    @property
    def level(self) -> Level:
        """What requirements this run can close."""
        return LEVELS[self.bench]


# --- the run -----------------------------------------------------------------------------------------


def surroundings(scenario: Scenario) -> TruthEnvironment:
    """Compute the true orbit and all that it does to the satellite, for the whole run."""
    tle = scenario.tle
    start = start_from_tle(tle.line1, tle.line2, scenario.start_unix_s + scenario.ahead_s)
    clouds = int(generator(scenario.seed, Draws.CLOUDS).integers(2**31))
    return build_environment(start, scenario.duration_s + TICK_S, Attitude(scenario.truth.attitude), clouds)


def in_contact(scenario: Scenario, around: TruthEnvironment) -> npt.NDArray[np.bool_]:
    """Tell for each tick whether a station sees the satellite."""
    if scenario.link.contact == "always":
        return np.ones(around.t_s.size, np.bool_)
    seen = np.zeros(around.t_s.size, np.bool_)
    for station in scenario.mission.stations:
        elevation = around.elevation_deg(station.latitude_deg, station.longitude_deg, station.altitude_m)
        seen |= elevation >= station.min_elevation_deg
    return seen


def stretches(flags: npt.NDArray[np.bool_]) -> tuple[Contact, ...]:
    """Stretches of ticks in which `flags` holds."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return tuple(Contact(float(a) * TICK_S, float(b) * TICK_S)
                 for a, b in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def edges_of(scenario: Scenario, around: TruthEnvironment) -> Edges:
    """When the true passes and eclipses of a run begin and end. An eclipse under way at the start has no entry."""
    passes, eclipses = stretches(in_contact(scenario, around)), stretches(around.illumination_frac < 0.5)
    end_s = float(around.t_s.size) * TICK_S
    return {
        "pass.rise": tuple(each.from_s for each in passes),
        "pass.set": tuple(each.to_s for each in passes if each.to_s < end_s),
        "eclipse.entry": tuple(each.from_s for each in eclipses if each.from_s > 0.0),
        "eclipse.exit": tuple(each.to_s for each in eclipses if each.to_s < end_s),
    }


def draw_truth(scenario: Scenario) -> Truth:
    """Draw the satellite of the scenario's seed from its drawings."""
    return disperse(scenario.truth, scenario.dispersion, generator(scenario.seed, Draws.DISPERSION))


def true_satellite(scenario: Scenario, truth: Truth, around: TruthEnvironment, edges: Edges,
                   caps: Caps, load: Load) -> TruthSatellite:
    """Build the scenario's satellite with its start, losses and those sensor faults whose time is known beforehand."""
    faults = [fault for step in scenario.faults if (fault := step.sensor_fault(edges)) is not None]
    return TruthSatellite(truth, around, caps, load, start=scenario.start,
                          sensors=generator(scenario.seed, Draws.SENSORS), faults=faults,
                          node_lost_s=scenario.node_lost_s)


class Ends(NamedTuple):
    """What a flight software is connected to in a run; `folder` is where it keeps its state."""

    scenario: Scenario
    satellite: TruthSatellite
    guardian: GuardianLink
    runner: VirtualRunner
    inbox: JobStream
    port: LineEnd
    folder: Path


class FlightSoftware(Protocol):
    """The flight software under test, wherever it runs."""

    @property
    def failures(self) -> int:
        """Ticks that failed since the start."""

    @property
    def sheds(self) -> int:
        """Sheds that were decided since the start."""

    def tick(self, now_s: float, /) -> Decision | None:
        """Have one tick decided and carried out; None when it failed and everything was shed."""

    def close(self) -> None:
        """End it in order."""


class SupervisorHere:
    """The supervisor in this process, connected to the truth directly."""

    def __init__(self, ends: Ends) -> None:
        scenario = ends.scenario
        with ExitStack() as stack:
            ring = stack.enter_context(link_keys.board_ring(scenario, ends.folder))
            parts = compose.Parts(ends.satellite, ends.guardian, ends.runner, ends.inbox, ends.port,
                                  always_transmit=scenario.link.contact == "always", duty_throttle=False, ring=ring)
            self.supervisor = compose.build(scenario.mission, scenario.mission_toml, parts, ends.folder,
                                            str(scenario.mission_path))
            stack.callback(self.supervisor.close)
            self.close = stack.pop_all().close
        self.tick = self.supervisor.tick

    @property
    def failures(self) -> int:
        """See `FlightSoftware`."""
        return self.supervisor.failures

    @property
    def sheds(self) -> int:
        """See `FlightSoftware`."""
        return self.supervisor.brain.tally.sheds


class Run:
    """One scenario on its way: truth, line, ground and flight software, tick by tick. Use it as a context manager.

    `connect` brings up the flight software for the bench of that name. Raises ConfigError, StoreError, or BoardError
    where the flight software is elsewhere and does not answer.
    """

    def __init__(self, scenario: Scenario, folder: Path, connect: Callable[[Ends], FlightSoftware] = SupervisorHere,
                 bench: str = "sil") -> None:
        mission, seed, link = scenario.mission, scenario.seed, scenario.link
        self._began_s = perf_counter()
        self.scenario = scenario
        self.folder = folder
        self.bench = bench
        around = surroundings(scenario)
        seen = in_contact(scenario, around)
        self.contacts = stretches(seen)
        self.now_s = 0.0
        self.in_contact = False
        self.decision: Decision | None = None
        edges = edges_of(scenario, around)
        truth = draw_truth(scenario)
        nodes = truth.compute.nodes
        stream_config = scenario.jobs or StreamConfig(overload=0.0)
        self.stream = JobStream(stream_config, scenario.examples, scenario.duration_s, generator(seed, Draws.JOBS))
        self.jobs = FaultyJobs(nodes, truth.compute.restore_s, stream_config, seed, scenario.examples)
        guardian = InProcessGuardian(compose.guardian_config(mission))
        caps = ObeyedCaps(guardian)
        self.satellite = true_satellite(scenario, truth, around, edges, caps, self.jobs)
        self.line = VirtualLine(link.baud, link.latency_s, link.bit_error_rate,
                                int(generator(seed, Draws.LINE).integers(2**31)))
        onboard = folder / "flight"
        onboard.mkdir()
        link_keys.hand_out(scenario, folder)
        self.flight = TestedFlight(
            connect, Ends(scenario, self.satellite, guardian, self.jobs, self.stream, self.line.a, onboard), caps,
            steps_clock=any(step.kind == "board.clock_step" for step in scenario.faults))
        self.book, self.trace = Logbook(nodes), Trace(nodes)
        self._stack = ExitStack()
        self.archive = self._stack.enter_context(Archive(folder / "ground.sqlite", commit_s=_COMMIT_S))
        seals = self._stack.enter_context(link_keys.ground_seals(scenario, folder))
        self.files: FileDesk | None = None

        def session() -> Station:
            station = Station(self.line.b, self.archive, scid=mission.link.spacecraft_id, apid=mission.link.apid,
                              epoch_s=scenario.start_unix_s, stack=compose.stack_of(mission), seals=seals)
            if self.files is not None:
                self.files.drop()
            self.files = FileDesk(station, folder_of(self.archive.path), scenario.link.baud)
            self._stack.callback(self.files.drop)
            return station

        self.operator = Operator(scenario, session, edges)
        self.injector = Injector(scenario, bench, self.satellite, self.line, caps, self.jobs, self.flight,
                                 self.operator, onboard, edges)
        known = sources(self, self.injector.is_active)
        self.live = self.injector.live = Live(known, self.operator)
        wanted = {name for check in scenario.checks for name in check.signals}
        if any(isinstance(check, PythonCheck) for check in scenario.checks):
            wanted |= known.keys()  # what it asks for is not known beforehand
        self._probe = Probe(sorted(name for name in wanted if name.startswith(_PROBED)), known)
        self._seen: list[bool] = seen.tolist()
        self._off = (NodeCommand(0, mission.compute.modes[0].cap_w, 0),) * mission.compute.nodes
        self._budget_w = 0.0
        self._watch = _Stopwatch()
        self._flight_s = self._link_s = self._truth_s = 0.0
        self._is_closed = False

    @property
    def ticks(self) -> int:
        """Ticks of the whole run."""
        return int(self.scenario.duration_s / TICK_S)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End flight software, faults and ground."""
        if not self._is_closed:
            self._is_closed = True
            self.flight.close()
            self.injector.close()
            self._stack.close()

    def tick(self) -> Decision | None:
        """One tick: faults, line, flight software, ground, truth. Reads the machine's clock for the stopwatch only."""
        t0 = perf_counter()
        now_s, line, satellite = self.now_s, self.line, self.satellite
        self.injector.step(now_s)
        self.in_contact = line.up = self._seen[satellite.tick]
        line.advance(now_s)
        t1 = perf_counter()
        decision = self.decision = self.flight.tick(now_s)
        t2 = perf_counter()
        if decision is not None:
            self.book.note(decision)
            nodes, self._budget_w = decision.nodes, decision.plan.budget_at(decision.now_s)
        else:
            nodes = self._off
        self.operator.poll(now_s)
        if self.files is not None and not self.operator.is_down:
            self.files.poll(now_s)
        if self.operator.is_waiting:
            self.operator.look(self.live, now_s)
        t3 = perf_counter()
        self.trace.add(satellite, self._budget_w, nodes)
        if self._probe.names:
            self._probe.sample()
        satellite.advance()
        self.now_s = now_s + TICK_S
        t4 = perf_counter()
        self._watch.tick_ms.append((t2 - t1) * 1e3)
        self._link_s += t1 - t0 + t3 - t2
        self._flight_s += t2 - t1
        self._truth_s += t4 - t3
        return decision

    def finish(self) -> Flight:
        """End the run where it stands, judge it, and leave what was found in its folder."""
        satellite, trace, book, line = self.satellite, self.trace, self.book, self.line
        scenario = self.scenario = replace(self.scenario, duration_s=self.now_s)
        operator, station = self.operator, self.operator.station
        self.flight.close()
        self.archive.flush()
        elapsed_s = perf_counter() - self._began_s
        events = tuple(self.archive.events())
        gaps = self.archive.gaps()
        self.injector.close()
        trace.close()
        book.close(scenario.duration_s)
        crossings = judge_limits(scenario, trace)
        metrics = _metrics(scenario, satellite, trace, book, self.stream, crossings)
        drawn_j = metering.true_energy_j(book.bars, trace.group("node{}_w", satellite.truth.compute.nodes), TICK_S)
        metrics |= metering.judge(events, drawn_j, trace["bus_w"], TICK_S, scenario.start_unix_s)
        metrics |= {
            "failed_ticks": self.flight.failures,
            "sheds": self.flight.sheds,
            "ground_passes": 0 if scenario.link.contact == "always" else len(self.contacts),
            "telemetry_packets": station.packets,
            "telemetry_frames_lost": station.lost_frames,
            "telemetry_frames_bad": station.bad_frames,
        "telemetry_octets_corrected": station.corrected_octets,
            "telemetry_gaps": len(gaps),
            "telecommands_sent": len(operator.requests),
            "telecommands_completed": operator.count(CommandState.COMPLETED),
            "telecommands_refused": operator.count(CommandState.REJECTED, CommandState.FAILED),
            "telecommands_unanswered": operator.count(CommandState.NO_ANSWER, CommandState.SENT,
                                                      CommandState.ACCEPTED, CommandState.NOT_SENT),
            "telecommands_left_out": operator.left_out,
            "line_bits_flipped": line.a_to_b.flipped_bits + line.b_to_a.flipped_bits,
            "line_octets_lost": line.a_to_b.lost_octets + line.b_to_a.lost_octets,
            "line_octets_overrun": line.a_to_b.overrun_octets + line.b_to_a.overrun_octets,
            "line_octets_down": line.a_to_b.delivered_octets,
            "line_octets_up": line.b_to_a.delivered_octets,
        }
        self._watch.parts_s = {"flight": self._flight_s, "link_and_ground": self._link_s, "truth": self._truth_s}
        timing = self._watch.summary(scenario.duration_s, elapsed_s)
        findings = self._judge(Record(len(trace), self._columns(metrics), events, scenario.start_unix_s))
        self.close()
        write_json(self.folder / "run.json", metrics)
        write_json(self.folder / "timing.json", timing)
        write_verdict(self.folder, self.bench, findings)
        return Flight(scenario, self.folder, metrics, timing, trace, book, self.contacts, crossings, events,
                      satellite.around.illumination_frac, scenario.start_unix_s, findings, tuple(self.injector.spans),
                      np.frombuffer(self._watch.tick_ms), self.bench, self.flight.retries)

    def _judge(self, record: Record) -> tuple[Finding, ...]:
        """Hold every check against the run; what the scenario waives keeps its verdict and does not count."""
        findings = [check.judge(record) for check in self.scenario.checks]
        if (faults := self.injector.finding()) is not None:
            findings.append(faults)
        waivers, verifies = self.scenario.waivers, self.scenario.verifies
        own = {check.name for check in self.scenario.own_checks}
        return tuple(replace(each, waived=waivers.get(each.name, "") if each.verdict is not Verdict.PASS else "",
                             verifies=(*each.verifies, *(verifies if each.name in own else ()))) for each in findings)

    def _columns(self, metrics: dict[str, object]) -> Callable[[str], npt.ArrayLike]:
        """Say where the column of each signal comes from once the run is over."""
        probed, trace, scenario = self._probe.columns(), self.trace, self.scenario
        ticks, nodes, around = len(trace), scenario.truth.compute.nodes, self.satellite.around
        truth: dict[str, Callable[[], npt.ArrayLike]] = {
            "die_max_c": lambda: trace.group("die{}_c", nodes).max(axis=1),
            "payload_w": lambda: trace.group("node{}_w", nodes).sum(axis=1),
            "in_eclipse": lambda: around.illumination_frac[:ticks] < 0.5,
            "in_contact": lambda: self._seen[:ticks],
        }

        def column(name: str) -> npt.ArrayLike:
            """One signal's column."""
            group, _, rest = name.partition(".")
            if name in probed:
                return probed[name]
            if group == "truth":
                return truth[rest]() if rest in truth else trace[rest]
            if group == "parameter":
                return scenario.mission.parameters[rest]
            if group == "metric":
                return float(str(metrics[rest]))
            if group == "fault":
                at_s = np.arange(ticks)
                spans = [(at_s >= span.from_s) & (at_s < span.to_s) for span in self.injector.spans if span.id == rest]
                return np.asarray(np.logical_or.reduce([np.zeros(ticks, np.bool_), *spans]))
            return held(self.archive.samples(name), scenario.start_unix_s, ticks)

        return column


def fly(scenario: Scenario, folder: Path, advanced: Callable[[int], object] = lambda _ticks: None,
        connect: Callable[[Ends], FlightSoftware] = SupervisorHere, bench: str = "sil") -> Flight:
    """Fly `scenario` and leave everything but the report in `folder`, which must be empty.

    `advanced` is called now and then with the ticks done since; for the rest see `Run`.
    """
    with Run(scenario, folder, connect, bench) as run:
        ticks = run.ticks
        for done in range(1, ticks + 1):
            run.tick()
            if done % _PROGRESS_TICKS == 0:
                advanced(_PROGRESS_TICKS)
        advanced(ticks % _PROGRESS_TICKS)
        return run.finish()


class _Stopwatch:
    """What the run cost on this machine."""

    def __init__(self) -> None:
        self.tick_ms = array("d")
        self.parts_s: dict[str, float] = {}

    def summary(self, duration_s: float, elapsed_s: float) -> dict[str, object]:
        """Contents of `timing.json`."""
        ticks = np.frombuffer(self.tick_ms)
        p50, p90, p99 = np.percentile(ticks, [50, 90, 99]).tolist()
        return {
            "realtime_factor": round(duration_s / elapsed_s, 1),
            "elapsed_s": round(elapsed_s, 3),
            "tick_ms": {"p50": round(p50, 4), "p90": round(p90, 4), "p99": round(p99, 4),
                        "max": round(float(ticks.max()), 4)},
            "us_per_tick": {name: round(1e6 * part_s / ticks.size, 2) for name, part_s in self.parts_s.items()},
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.python_implementation()} "
                       f"{platform.python_version()}",
        }


# --- what it was worth -------------------------------------------------------------------------------


def judge_limits(scenario: Scenario, trace: Trace) -> tuple[Crossing, ...]:
    """Hold the true values against the limits that the mission started with."""
    limits, nodes = scenario.mission.parameters, scenario.mission.compute.nodes
    charging = trace["battery_a"] > 0.0
    # Distance inside the limit for each tick, the value itself, and its unit.
    rows = (
        ("battery_floor_frac", trace["battery_soc_frac"], 1.0, "frac"),
        ("battery_cutoff_frac", trace["battery_soc_frac"], 1.0, "frac"),
        ("die_max_c", trace.group("die{}_c", nodes).max(axis=1), -1.0, "degC"),
        ("plate_max_c", trace["plate_c"], -1.0, "degC"),
        ("radiator_max_c", trace["radiator_c"], -1.0, "degC"),
        ("battery_max_c", trace["battery_c"], -1.0, "degC"),
        ("battery_min_c", np.where(charging, trace["battery_c"], np.float32(np.inf)), 1.0, "degC"),
        ("payload_max_w", trace.group("node{}_w", nodes).sum(axis=1), -1.0, "W"),
    )
    return tuple(_crossing(name, limits[name], unit, np.asarray(values, np.float64), sign)
                 for name, values, sign, unit in rows)


def _crossing(name: str, bound: float, unit: str, values: npt.NDArray[np.float64], sign: float) -> Crossing:
    """Judge one limit; `sign` is 1 where values must stay above it and -1 where below."""
    inside = sign * (values - bound)
    beyond = inside < 0.0
    count = int(np.count_nonzero(beyond[1:] & ~beyond[:-1])) + int(beyond[0])
    return Crossing(name, bound, unit, count, float(np.count_nonzero(beyond)) * TICK_S,
                    float(max(0.0, -inside.min())), float(values[int(np.argmin(inside))]))


def _metrics(scenario: Scenario, satellite: TruthSatellite, trace: Trace, book: Logbook, stream: JobStream,
             crossings: tuple[Crossing, ...]) -> dict[str, object]:
    """What the run was worth, by the truth; no times of this machine."""
    nodes = scenario.mission.compute.nodes
    state = satellite.plant.state
    jobs = book.jobs.values()
    finished = [job for job in jobs if job.state is JobState.FINISHED]
    modes = trace.group("node{}_mode", nodes)
    from_ground = sum(job.spec.value for job_id, job in book.jobs.items() if job_id < FIRST_STREAM_ID)
    return {
        "scenario": scenario.id,
        "mission": scenario.mission.name,
        "truth": scenario.truth.name,
        "seed": scenario.seed,
        "duration_s": scenario.duration_s,
        "orbits": scenario.duration_s / scenario.orbit_s,
        "limits_crossed": sum(crossing.count for crossing in crossings),
        "limits": {crossing.limit: {"bound": crossing.bound, "count": crossing.count, "depth": crossing.depth,
                                    "nearest": crossing.nearest if np.isfinite(crossing.nearest) else None,
                                    "seconds": crossing.seconds}
                   for crossing in crossings},
        "jobs_offered": len(book.jobs),
        "jobs_finished": len(finished),
        "jobs_refused": sum(job.state is JobState.REFUSED for job in jobs),
        "jobs_refused_by_reason": refusals(book),
        "jobs_open_at_end": sum(not job.state.is_final for job in jobs),
        "promises_made": sum(job.promised_s is not None for job in jobs),
        "promises_broken": sum(job.is_broken(scenario.duration_s) for job in jobs),
        "value_finished": sum(job.spec.value for job in finished),
        "value_offered": sum(job.value for job in stream.jobs) + from_ground,
        "work_finished_units": sum(job.spec.work_units for job in finished),
        "energy_harvested_wh": state.harvested_j / J_PER_WH,
        "energy_used_wh": state.consumed_j / J_PER_WH,
        "energy_compute_wh": sum(state.node_j[i] for i in range(nodes)) / J_PER_WH,
        "energy_shunted_wh": state.shunted_j / J_PER_WH,
        "energy_unmet_wh": state.unmet_j / J_PER_WH,
        "battery_soc_frac_min": float(trace["battery_soc_frac"].min()),
        "battery_soc_frac_end": satellite.charge_frac,
        "battery_c_min": float(trace["battery_c"].min()),
        "battery_c_max": float(trace["battery_c"].max()),
        "die_c_max": float(trace.group("die{}_c", nodes).max()),
        "plate_c_max": float(trace["plate_c"].max()),
        "radiator_c_max": float(trace["radiator_c"].max()),
        "payload_w_max": float(trace.group("node{}_w", nodes).sum(axis=1).max()),
        "power_mode_changes": int(np.count_nonzero(np.diff(modes, axis=0))),
        "tx_s": float(np.count_nonzero(trace["tx_w"] > 0.0)) * TICK_S,
    }


def refusals(book: Logbook) -> dict[str, int]:
    """Refused jobs by named reason; a job with two reasons counts under both."""
    counts = dict.fromkeys((reason.name for reason in RefusalReason), 0)
    for job in book.jobs.values():
        if job.state is JobState.REFUSED:
            for name in job.detail.split(", "):
                counts[name] = counts.get(name, 0) + 1
    return {name: count for name, count in counts.items() if count}


def write_json(path: Path, content: dict[str, object]) -> None:
    """Write sorted, indented JSON with numbers to nine digits, the same text for the same content."""
    path.write_text(json.dumps(_rounded(content), indent=2, sort_keys=True, allow_nan=False) + "\n", "utf-8")


def write_verdict(folder: Path, bench: str, findings: Sequence[Finding]) -> None:
    """Write `verdict.json`: every finding of a run on a bench, and what they come to."""
    write_json(folder / "verdict.json", {
        "verdict": overall(findings).value, "bench": bench, "level": LEVELS[bench].name,
        "findings": {each.name: {
            "verdict": each.verdict.value, "detail": each.detail, "margin": each.margin, "unit": each.unit,
            "worst_s": each.worst_s, "waived": each.waived, "statement": each.statement,
            "verifies": list(each.verifies)} for each in findings}})


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.9g}") if isinstance(value, float) else value


# --- folders -----------------------------------------------------------------------------------------


def new_folder(out: Path, scenario: Scenario) -> Path:
    """Make the next free folder for a run of `scenario` in `out`."""
    for number in range(1, 100_000):
        folder = out / f"{scenario.id}-{scenario.seed}-{number:03d}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(str(folder), f"cannot be made: {error.strerror}") from error
        return folder
    raise ConfigError(str(out), f"has 99,999 runs of {scenario.id} already")


def point_latest(folder: Path) -> None:
    """Let `latest` beside `folder` point to it."""
    link, fresh = folder.parent / "latest", folder.parent / f".latest-{os.getpid()}"
    fresh.symlink_to(folder.name)
    fresh.replace(link)


# --- replay ------------------------------------------------------------------------------------------


class Replay(NamedTuple):
    """Outcome of a replay: ticks compared, and the time of the first that came out differently."""

    ticks: int
    diverged_s: float | None


def find_recording(run: Path) -> Path:
    """Recording of a run's folder, or `run` itself where it is a file; ConfigError when there is none."""
    path = run if run.is_file() else run / "flight" / RECORDING
    if not path.is_file():
        raise ConfigError(str(run), f"has no recording {path}")
    return path


def replay(recording: Path) -> Replay:
    """Decide every recorded tick again, from its recorded inputs, and compare with what flew."""
    start, ticks = read_recording(recording)
    mission = parse_mission(start.mission_toml, f"{recording}: mission")
    forecaster = compose.forecaster_of(mission, str(recording))
    brain = Brain(mission, forecaster, start.jobs, start.orders)
    estimator = Estimator(mission, forecaster)
    done = 0
    for inputs, decided in ticks:
        try:
            estimate = estimator.update(inputs.readings, brain.parameters["blind_after_s"])
            again = fingerprint(brain.decide(estimate, inputs))
        except FlightError:
            again = -1
        if again != decided:
            return Replay(done, inputs.now_s)
        done += 1
    return Replay(done, None)

"""Flies a scenario without link, ground and disk: the supervisor's own loop around any policy, for comparisons.

Called by `hil.compare`. The supervisor, the board, the guardian's core and the runner are those of `hil.run`; what
speaks, records or writes is replaced by stand-ins that live here only. The satellite is set to work by
telecommands that reach it in its first seconds; no other ground is there. Decisions are those of a full run
with the same telecommands (tests/hil/test_compare.py).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from flightsw import compose
from flightsw.decide.brain import Brain, Tally
from flightsw.dictionary.commands import COMMANDS, pack_arguments
from flightsw.dictionary.orders import Orders
from flightsw.errors import ConfigError
from flightsw.facts import FactFile, Facts
from flightsw.guardian import InProcessGuardian
from flightsw.jobs.ledger import Ledger, LedgerEntry
from flightsw.link.serial_port import ByteStream
from flightsw.link.services import CommandReceiver
from flightsw.mission import Mission
from flightsw.orderbook import OrderBook
from flightsw.physics.forecast import Forecaster
from flightsw.physics.units import J_PER_WH
from flightsw.recorder import Recorder
from flightsw.reporting import Reporting
from flightsw.state import (
    Decision,
    Estimate,
    Event,
    FileRead,
    Inputs,
    JobTransition,
    JobView,
    Mode,
    NodeCommand,
    Received,
)
from flightsw.supervisor import Inbox, Supervisor
from hil import run
from hil.jobs import JobStream, StreamConfig, VirtualRunner
from hil.plant.environment import TruthEnvironment
from hil.plant.satellite import Truth
from hil.run import TICK_S, Crossing, Logbook, Trace, generator, judge_limits
from hil.scenario import Scenario


class Policy(Protocol):
    """What decides: the flight brain, or a baseline behind the same door."""

    parameters: dict[str, float]
    mode: Mode
    tally: Tally

    @property
    def open_jobs(self) -> tuple[JobView, ...]:
        """Jobs that are not in a final state."""

    @property
    def nodes(self) -> tuple[NodeCommand, ...]:
        """What the compute nodes were last commanded."""

    def energy_left_j(self, job_id: int) -> float | None:
        """What is left of the energy reserved for a job."""

    def decide(self, estimate: Estimate, inputs: Inputs) -> Decision:
        """Return this tick's decision."""


MakePolicy = Callable[[Mission, Forecaster], Policy]


def flight_brain(mission: Mission, forecaster: Forecaster) -> Policy:
    """The brain that flies."""
    return Brain(mission, forecaster)


class _Timed:
    """A policy whose decisions are timed; everything else passes through."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.decide_ms = array("d")

    def __getattr__(self, name: str) -> object:
        return getattr(self._policy, name)

    def decide(self, estimate: Estimate, inputs: Inputs) -> Decision:
        """See `Policy`."""
        begun = perf_counter()
        decision = self._policy.decide(estimate, inputs)
        self.decide_ms.append((perf_counter() - begun) * 1e3)
        return decision


# --- stand-ins for what speaks, records and writes ---------------------------------------------------


class _Memory:
    """A ledger that forgets with the process."""

    def __init__(self) -> None:
        self.entries: dict[int, LedgerEntry] = {}
        self.open_jobs: tuple[LedgerEntry, ...] = ()  # none from before

    def record(self, transitions: Sequence[JobTransition], obt_s: float, _usages: object) -> None:
        for job_id, state, detail, done_units, spec in transitions:
            before = self.entries.get(job_id)
            declared = spec if before is None else before.spec
            if declared is not None:
                self.entries[job_id] = LedgerEntry(declared, state, detail, done_units, obt_s, 0)

    def note(self, _usages: object) -> None:
        pass

    def close(self) -> None:
        pass


class _NoOrders:
    """An order book in which nothing is ever written."""

    orders = Orders()

    def close(self) -> None:
        pass


class _Facts:
    def __init__(self) -> None:
        self.facts = Facts(1, Mode.BOOT.name, 0.0)

    def note(self, mode: Mode, now_s: float) -> None:
        self.facts = Facts(1, mode.name, now_s)


class _Silence:
    """Reporting that says nothing."""

    def event(self, *_: object) -> None:
        pass

    def report(self, *_: object) -> tuple[Event, ...]:
        return ()

    transmit = event


class _Fingerprints:
    """A recorder that keeps the decisions' fingerprints."""

    failure = ""

    def __init__(self) -> None:
        self.kept = array("L")

    def record(self, _inputs: Inputs, decided: int) -> None:
        self.kept.append(decided)

    def close(self) -> None:
        pass


class _Script:
    """Port and receiver in one: telecommands by the tick in which they are heard."""

    frames_rejected = 0

    def __init__(self, commands: Mapping[float, Sequence[Received]]) -> None:
        self._commands = commands
        self.now_s = 0.0

    def read(self) -> bytes:
        return b"\0" if self.now_s in self._commands else b""

    def push(self, _octets: bytes) -> Sequence[Received]:
        return self._commands[self.now_s]

    def begin_tick(self) -> None:
        pass

    def control_words(self) -> tuple[int, ...]:
        return ()

    def status(self) -> dict[str, float]:
        return {}


def wake_up() -> dict[float, Sequence[Received]]:
    """Telecommands that take the satellite from SAFE to COMPUTE in its first seconds."""
    row = COMMANDS["mode"]
    return {at_s: (Received(number, row.service, row.subservice, pack_arguments(row, (int(mode),))),)
            for number, (at_s, mode) in enumerate(((1.0, Mode.STANDBY), (2.0, Mode.COMPUTE)), start=1)}


# --- the run -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class World:
    """A scenario's truth for one seed, shared by all policies that fly in it."""

    scenario: Scenario
    around: TruthEnvironment
    truth: Truth
    stream_config: StreamConfig

    @classmethod
    def of(cls, scenario: Scenario, around: TruthEnvironment) -> World:
        """Draw the satellite of the scenario's seed. ConfigError for faults that only a full run makes."""
        edges = run.edges_of(scenario, around)
        if beyond := [f"{step.id} ({step.kind})" for step in scenario.faults if step.sensor_fault(edges) is None]:
            raise ConfigError(str(scenario.path), f"has faults that this loop without link, disk and ground does not "
                              f"make, only of sensors at known times: {', '.join(beyond)}; fly it with hil run")
        return cls(scenario, around, run.draw_truth(scenario), scenario.jobs or StreamConfig(overload=0.0))

    def stream(self) -> JobStream:
        """Return the jobs of the run, from the first."""
        return JobStream(self.stream_config, self.scenario.examples, self.scenario.duration_s,
                         generator(self.scenario.seed, run.Draws.JOBS))


@dataclass(frozen=True, slots=True)
class Flown:
    """What a lean run leaves. `value_under_way` is that of jobs begun and not ended, by the share that is done."""

    crossings: tuple[Crossing, ...]
    book: Logbook
    trace: Trace
    decide_ms: npt.NDArray[np.float64]
    tally: Tally
    failures: int
    units_done: float
    value_under_way: float
    compute_wh: float
    shunted_wh: float
    transmitting: npt.NDArray[np.bool_]
    fingerprints: tuple[int, ...] = field(repr=False)


def fly(world: World, make: MakePolicy, commands: Mapping[float, Sequence[Received]] | None = None,
        inbox: Inbox | None = None) -> Flown:
    """Fly one policy in `world`.

    `commands` are what the ground sends, `wake_up` when not given; `inbox` stands in for the stream of jobs.
    """
    scenario, mission = world.scenario, world.scenario.mission
    where = str(scenario.mission_path)
    forecaster = compose.forecaster_of(mission, where)
    policy = make(mission, forecaster)
    timed = _Timed(policy)
    nodes = world.truth.compute.nodes
    runner = VirtualRunner(nodes, world.truth.compute.restore_s, world.stream_config, scenario.seed)
    guardian = InProcessGuardian(compose.guardian_config(mission))
    satellite = run.true_satellite(scenario, world.truth, world.around, run.edges_of(scenario, world.around), guardian,
                                   runner)
    script = _Script(wake_up() if commands is None else commands)
    fingerprints = _Fingerprints()
    # The supervisor names the real parts; these stand in for them by what it calls.
    supervisor = Supervisor(
        mission, board=satellite, guardian=guardian, runner=runner, inbox=inbox or world.stream(),
        port=cast(ByteStream, script), receiver=cast(CommandReceiver, script), reporting=cast(Reporting, _Silence()),
        ledger=cast(Ledger, _Memory()), brain=cast(Brain, timed), facts=cast(FactFile, _Facts()),
        forecaster=forecaster, recorder=cast(Recorder, fingerprints), order_book=cast(OrderBook, _NoOrders()),
        read_upload=lambda name: FileRead(name, "", "nothing is sent up"), boot_count=1,
        always_transmit=scenario.link.contact == "always", duty_throttle=False)
    book, trace = Logbook(nodes), Trace(nodes)
    off = (NodeCommand(0, mission.compute.modes[0].cap_w, 0),) * nodes
    ticks = int(scenario.duration_s / TICK_S)
    transmitting = np.zeros(ticks, np.bool_)
    for tick in range(ticks):
        now_s = script.now_s = tick * TICK_S
        decision = supervisor.tick(now_s)
        if decision is not None:
            book.note(decision)
            trace.add(satellite, decision.plan.budget_at(now_s), decision.nodes)
        else:
            trace.add(satellite, 0.0, off)
        transmitting[tick] = satellite.transmitting
        satellite.advance()
    trace.close()
    book.close(scenario.duration_s)
    units, under_way, state = runner.units_done, runner.value_under_way, satellite.plant.state
    supervisor.close()
    return Flown(judge_limits(scenario, trace), book, trace, np.frombuffer(timed.decide_ms), policy.tally,
                 supervisor.failures, units, under_way, sum(state.node_j[i] for i in range(nodes)) / J_PER_WH,
                 state.shunted_j / J_PER_WH, transmitting, tuple(fingerprints.kept))

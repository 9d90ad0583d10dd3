"""What makes a run more than a flight: faults that begin and end, an operator who follows a script, live signals.

Owned by `hil.run`, which calls `Injector.step` first in each tick. `TestedFlight` is the flight software as faults see
it: it can be killed, frozen and started again on every bench whose `connect` can bring it up twice. It judges nothing.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import numpy as np

from flightsw import compose
from flightsw.dictionary.sensors import fitted_names
from flightsw.guardian import GuardianLink, GuardianStatus, InProcessGuardian
from flightsw.state import Decision, NodeCap, RawReading
from flightsw.supervisor import PERIOD_S, Supervisor
from ground.station import CommandState, Station
from hil.channel import VirtualLine
from hil.faults import LIBRARY, FaultyJobs, FlightControl, Given, ObeyedCaps, Part, StationControl, TornPort
from hil.plant.satellite import TruthSatellite
from hil.scenario import Edges, FaultStep, GroundStep, Scenario
from hil.signals import Column, Record
from hil.verdict import Finding, Verdict

if TYPE_CHECKING:
    from hil.run import Ends, FlightSoftware

_ANYWHERE = frozenset({Part.TRUTH, Part.LINE, Part.CAPS, Part.JOBS, Part.STATION})
PARTS: Mapping[str, frozenset[Part]] = {
    "sil": _ANYWHERE | {Part.FLIGHT, Part.CLOCK, Part.DISK, Part.FILES, Part.MEMORY},
    "sil-framed": _ANYWHERE, "serial": _ANYWHERE, "emulated": _ANYWHERE, "board": _ANYWHERE,
}
"""What each bench of `hil run` offers to faults."""


def needs(step: FaultStep) -> str:
    """Say what a fault needs, and where that is, where not every bench has it; empty where all do."""
    benches = [name for name, parts in PARTS.items() if step.part in parts]
    if len(benches) == len(PARTS):
        return ""
    return f"needs {step.part.value}: " + (f"bench {' or '.join(benches)}" if benches else "fly it with hil serial")


# --- the flight software -----------------------------------------------------------------------------


class _InProcess(Protocol):
    """A flight software whose parts can be reached."""

    supervisor: Supervisor


class _SteppedBoard:
    """A board whose clock may be ahead of the truth's: readings are stamped by it."""

    def __init__(self, flight: TestedFlight, satellite: TruthSatellite) -> None:
        self._flight = flight
        self._satellite = satellite
        self.set_transmitter = satellite.set_transmitter
        self.describe = satellite.describe

    def read_sensors(self, now_s: float) -> Sequence[RawReading | None]:
        """See `Board`."""
        ahead_s = self._flight.clock_ahead_s
        readings = self._satellite.read_sensors(now_s - ahead_s)
        if not ahead_s:
            return readings
        return [reading and RawReading(reading.value, reading.sampled_s + ahead_s) for reading in readings]


class _SteppedGuardian:
    """The guardian, whose clock does not step with the supervisor's."""

    def __init__(self, flight: TestedFlight, guardian: GuardianLink) -> None:
        self._flight = flight
        self._guardian = guardian

    def renew(self, now_s: float, lease_s: float, caps: Sequence[NodeCap]) -> GuardianStatus:
        """See `GuardianLink`."""
        return self._guardian.renew(now_s - self._flight.clock_ahead_s, lease_s, caps)

    def status(self, now_s: float) -> GuardianStatus:
        """See `GuardianLink`."""
        return self._guardian.status(now_s - self._flight.clock_ahead_s)


class TestedFlight:
    """The flight software under test; a `FlightSoftware` itself, and the `FlightControl` of faults."""

    __test__ = False  # no test case, whatever its name says to pytest

    def __init__(self, connect: Callable[[Ends], FlightSoftware], ends: Ends, caps: ObeyedCaps, *,
                 steps_clock: bool) -> None:
        self.clock_ahead_s = 0.0
        self.boots = 0
        self._connect = connect
        self._ends = ends
        self._caps = caps
        self._steps_clock = steps_clock
        self._software: FlightSoftware | None = None
        self._frozen_since_s: float | None = None
        self._stalled_s = 0.0  # what the latest tick takes longer than none
        self._now_s = 0.0
        self._is_over = False
        self._failures = self._sheds = 0  # of those that ended
        self.start()

    @property
    def failures(self) -> int:
        """Ticks that failed since the first start."""
        return self._failures + (0 if self._software is None else self._software.failures)

    @property
    def sheds(self) -> int:
        """Sheds that were decided since the first start."""
        return self._sheds + (0 if self._software is None else self._software.sheds)

    @property
    def retries(self) -> int:
        """What the bench had to repeat to reach it; 0 where it is in this process."""
        return int(getattr(self._software, "retries", 0))

    @property
    def is_running(self) -> bool:
        """True while it is neither dead nor frozen."""
        return self._software is not None and self._frozen_since_s is None

    def tick(self, now_s: float) -> Decision | None:
        """Have one tick decided; None when it failed, or nobody was there to decide."""
        if self._software is not None and self._frozen_since_s is None and self._stalled_s:
            late_s = now_s - self._now_s - PERIOD_S
            if late_s + PERIOD_S < self._stalled_s:
                return None  # it is still in the tick before
            self._stalled_s = 0.0
            if late_s > 0.0:
                self.supervisor.note_overrun(now_s + self.clock_ahead_s, late_s, int(late_s))
        self._now_s = now_s
        if self._software is None or self._frozen_since_s is not None:
            return None
        return self._software.tick(now_s + self.clock_ahead_s)

    def close(self) -> None:
        """End it in order, for good."""
        if self._software is not None and not self._is_over:
            self._software.close()
        self._is_over = True

    def kill(self) -> None:
        """End it without warning; of what it had in hand nothing is finished. Its jobs' processes go with it."""
        if self._software is None:
            return
        self._failures, self._sheds = self.failures, self.sheds
        self._software.close()  # writes nothing that a restart would read but a recording's last minute
        self._software, self._stalled_s = None, 0.0

    def start(self) -> None:
        """Start it from what it left; nothing where it runs."""
        if self._software is not None or self._is_over:
            return
        ends = self._ends
        if self._steps_clock:
            ends = ends._replace(satellite=cast(TruthSatellite, _SteppedBoard(self, ends.satellite)),
                                 guardian=_SteppedGuardian(self, ends.guardian))
        self._software = self._connect(ends)
        self.boots += 1

    def boot(self) -> None:
        """Start it with a guardian of its own, as after a power cut."""
        guardian = InProcessGuardian(compose.guardian_config(self._ends.scenario.mission), self._now_s)
        self._caps.asked = guardian
        self._ends = self._ends._replace(guardian=guardian)
        self.start()

    def freeze(self) -> None:
        """Stop it where it stands."""
        self._frozen_since_s = self._now_s

    def thaw(self, now_s: float) -> None:
        """Let it go on, late."""
        since_s, self._frozen_since_s = self._frozen_since_s, None
        if since_s is not None and self._software is not None:
            late_s = now_s - since_s
            self.supervisor.note_overrun(now_s + self.clock_ahead_s, late_s, int(late_s))

    def stall(self, seconds: float) -> None:
        """Let what it does in this tick take so much longer; ticks that come due meanwhile are left out."""
        self._stalled_s += seconds

    @property
    def supervisor(self) -> Supervisor:
        """The supervisor itself, where it is in this process."""
        return cast(_InProcess, self._software).supervisor

    def parameters(self) -> dict[str, float]:
        """Its parameters, in its own memory."""
        return self.supervisor.brain.parameters


# --- the ground --------------------------------------------------------------------------------------


class Operator:
    """The ground's end: follows the script, polls the station, and can lose its session."""

    def __init__(self, scenario: Scenario, make_station: Callable[[], Station], edges: Edges) -> None:
        self.station = make_station()
        self._make_station = make_station
        self._torn: TornPort | None = None
        self._sessions: list[Station] = [self.station]
        due = [(at_s, step) for step in scenario.ground
               if step.at is not None and (at_s := step.at.resolve(edges)) is not None]
        self._due = sorted(due, key=lambda entry: entry[0])
        self._waiting = [step for step in scenario.ground if step.when is not None]
        self.left_out = len(scenario.ground) - len(due) - len(self._waiting)
        self.requests: list[int] = []
        self.lost_packets = 0  # of sessions that crashed

    @property
    def is_down(self) -> bool:
        """True while there is no session."""
        return self._torn is not None and self._torn.is_torn

    @property
    def is_waiting(self) -> bool:
        """True while a telecommand waits for its condition."""
        return bool(self._waiting)

    def poll(self, now_s: float) -> None:
        """Take what the line brought and send what is due."""
        if self._torn is not None and self._torn.is_torn:
            self._torn.read()
            return
        self.station.poll(now_s)
        while self._due and self._due[0][0] <= now_s and not self.is_down:
            self._send(self._due.pop(0)[1], now_s)

    def look(self, live: Record, now_s: float) -> None:
        """Send what waited for a condition that is true now."""
        for step in [step for step in self._waiting if step.when is not None and step.when.is_true_now(live)]:
            if not self.is_down:
                self._waiting.remove(step)
                self._send(step, now_s)

    def send(self, verb: str, values: Sequence[float | int | str], now_s: float) -> int:
        """Send one telecommand; return its request id."""
        self.requests.append(self.station.send(verb, values, now_s).request_id)
        return self.requests[-1]

    def _send(self, step: GroundStep, now_s: float) -> None:
        self.send(step.verb, step.values, now_s)

    def state(self, request_id: int) -> CommandState:
        """How far a telecommand got, as the session that knows it best says."""
        states = []
        for session in self._sessions:
            try:
                states.append(session.command(request_id).state)
            except KeyError:
                continue
        return states[-1]

    def count(self, *states: CommandState) -> int:
        """Commands that are in one of `states`."""
        return sum(1 for request_id in self.requests if self.state(request_id) in states)

    def tear(self, octets: int) -> None:
        """See `StationControl`."""
        self._torn = TornPort(self.station.link, octets)
        self.station.link = self._torn

    def restore(self) -> None:
        """See `StationControl`."""
        self._torn = None
        packets = self.station.packets
        self.station = self._make_station()
        self.station.packets = packets
        self._sessions.append(self.station)


# --- signals while the run goes on -------------------------------------------------------------------


class Seen(Protocol):
    """A run as signals see it."""

    scenario: Scenario
    satellite: TruthSatellite
    line: VirtualLine
    operator: Operator
    flight: TestedFlight
    decision: Decision | None
    now_s: float
    in_contact: bool


def sources(run: Seen, is_active: Callable[[str], bool]) -> dict[str, Callable[[], float]]:
    """Return what gives the present value of each signal that is known while a run goes on, but telemetry's."""
    satellite, nodes = run.satellite, run.scenario.truth.compute.nodes
    names = fitted_names(nodes)

    def true(i: int) -> Callable[[], float]:
        return lambda: satellite.values[i]

    def decided(read: Callable[[Decision], float]) -> Callable[[], float]:
        return lambda: math.nan if run.decision is None else float(read(run.decision))

    def node(i: int, field: str) -> Callable[[], float]:
        return decided(lambda decision: getattr(decision.nodes[i], field))

    dies, watts = ([names.index(what.format(i)) for i in range(nodes)] for what in ("die{}_c", "node{}_w"))
    directions = (run.line.a_to_b, run.line.b_to_a)
    out = satellite.plant.output
    return {
        **{f"truth.{name}": true(i) for i, name in enumerate(names)},
        "truth.array_available_w": lambda: out.array_available_w, "truth.tx_w": lambda: out.tx_w,
        "truth.heater_w": lambda: out.heater_w,
        "truth.die_max_c": lambda: max(satellite.values[i] for i in dies),
        "truth.payload_w": lambda: sum(satellite.values[i] for i in watts),
        "truth.in_eclipse": lambda: float(satellite.around.illumination_frac[satellite.tick] < 0.5),
        "truth.in_contact": lambda: float(run.in_contact),
        **{f"truth.node{i}_mode": (lambda i=i: float(satellite.modes[i])) for i in range(nodes)},  # type: ignore[misc]
        "decision.mode": decided(lambda d: d.mode), "decision.budget_w": decided(lambda d: d.plan.budget_at(d.now_s)),
        "decision.shed": decided(lambda d: bool(d.shed)), "decision.alive": lambda: float(run.decision is not None),
        "decision.working_nodes": decided(lambda d: sum(node.power_mode > 1 for node in d.nodes)),
        "decision.cap_max_w": decided(lambda d: max(node.cap_w for node in d.nodes)),
        **{f"decision.node{i}_cap_w": node(i, "cap_w") for i in range(nodes)},
        **{f"decision.node{i}_job": node(i, "job_id") for i in range(nodes)},
        "flight.boots": lambda: float(run.flight.boots), "flight.failed_ticks": lambda: float(run.flight.failures),
        "flight.running": lambda: float(run.flight.is_running),
        "link.telemetry_packets": lambda: float(run.operator.station.packets),
        "link.frames_lost": lambda: float(run.operator.station.lost_frames),
        "link.frames_bad": lambda: float(run.operator.station.bad_frames),
        "link.silence_s": lambda: run.now_s - (run.operator.station.heard_s or 0.0),
        "link.bits_flipped": lambda: float(sum(way.flipped_bits for way in directions)),
        "link.octets_lost": lambda: float(sum(way.lost_octets for way in directions)),
        "link.octets_overrun": lambda: float(sum(way.overrun_octets for way in directions)),
        "link.commands_sent": lambda: float(len(run.operator.requests)),
        "link.commands_completed": lambda: float(run.operator.count(CommandState.COMPLETED)),
        "link.commands_refused": lambda: float(run.operator.count(CommandState.REJECTED, CommandState.FAILED)),
        **{f"parameter.{name}": (lambda value=value: value)  # type: ignore[misc] # bound now
           for name, value in run.scenario.mission.parameters.items()},
        **{f"fault.{step.id}": (lambda name=step.id: float(is_active(name)))  # type: ignore[misc] # bound now
           for step in run.scenario.faults},
        "t_s": lambda: run.now_s,
    }


class Live(Record):
    """The present values of a run's signals, as a record of one tick."""

    def __init__(self, known: Mapping[str, Callable[[], float]], operator: Operator) -> None:
        super().__init__(1, lambda _name: math.nan)
        self._known = known
        self._operator = operator

    def __getitem__(self, name: str) -> Column:
        """Return the present value; of telemetry the newest that the ground has."""
        read = self._known.get(name)
        if read is not None:
            return np.array([read()])
        sample = self._operator.station.latest(name)
        return np.array([math.nan if sample is None or sample.value is None else float(sample.value)])


class Probe:
    """Columns of signals that nothing else keeps, sampled once a tick."""

    def __init__(self, names: Sequence[str], known: Mapping[str, Callable[[], float]]) -> None:
        self.names = tuple(name for name in names if name in known)
        self._reads = [known[name] for name in self.names]
        self._cells = array("d")

    def sample(self) -> None:
        """Take one row."""
        self._cells.extend([read() for read in self._reads])

    def columns(self) -> dict[str, Column]:
        """All columns."""
        table = np.frombuffer(self._cells).reshape(-1, max(1, len(self.names)))
        return {name: table[:, i] for i, name in enumerate(self.names)}


# --- faults ------------------------------------------------------------------------------------------


class FaultSpan(NamedTuple):
    """One fault as it was: on from `from_s` to `to_s`."""

    id: str
    kind: str
    target: str
    from_s: float
    to_s: float


@dataclass(slots=True)
class _Active:
    step: FaultStep
    from_s: float
    to_s: float
    effect: Iterator[None] | None


class Injector:
    """Begins and ends the faults of one run; the `Rig` that they act on."""

    def __init__(self, scenario: Scenario, bench: str, satellite: TruthSatellite, line: VirtualLine, caps: ObeyedCaps,
                 jobs: FaultyJobs, flight: TestedFlight, operator: Operator, state_folder: Path, edges: Edges) -> None:
        self.parts = PARTS[bench]
        self.satellite = satellite
        self.line = line
        self.latency_s = scenario.link.latency_s
        self.bit_error_rate = scenario.link.bit_error_rate
        self.caps = caps
        self.jobs = jobs
        self.flight: FlightControl = flight
        self.station: StationControl = operator
        self.state_folder = state_folder
        self.now_s = 0.0
        self.spans: list[FaultSpan] = []
        self.live: Record | None = None  # set by the run before its first tick
        self._bench = bench
        self._seed = scenario.seed
        self._edges = edges
        self._unable = [step for step in scenario.faults if step.part not in self.parts]
        able = [step for step in scenario.faults if step not in self._unable]
        timed = [(at_s, i, step) for i, step in enumerate(able)
                 if step.at is not None and (at_s := step.at.resolve(edges)) is not None]
        self._due = sorted(timed, key=lambda entry: entry[:2])
        self._waiting = [step for step in able if step.when is not None]
        self._left_out = [step for step in able if step.at is not None and step.at.resolve(edges) is None]
        self._active: list[_Active] = []
        for step in self._waiting:
            if step.kind in ("sensor.delay", "sensor.replay"):
                satellite.remember(step.target)

    def is_active(self, name: str) -> bool:
        """Tell whether a fault is on."""
        return any(active.step.id == name for active in self._active)

    def generator(self, given: Given) -> random.Random:
        """See `Rig`."""
        return random.Random(f"{self._seed}/{given.from_s}/{given.target}/{sorted(given.values.items())}")

    def inject(self, step: FaultStep) -> None:
        """Begin a fault now, at `now_s`; one of a sensor that has a time is in the satellite already."""
        from_s, to_s = self.now_s, self.now_s + step.lasts_s
        given = Given(step.target, step.values, from_s, to_s)
        effect: Iterator[None] | None = None
        if step.hook is not None:
            effect = step.hook(self, given)
        else:
            row = LIBRARY[step.kind]
            if row.is_moment:
                to_s = from_s + 1.0
            # A sensor's fault whose time was known is in the satellite from the start.
            if row.effect is not None and step.sensor_fault(self._edges) is None:
                effect = row.effect(self, given)
        self._active.append(_Active(step, from_s, to_s, effect))
        self._advance(self._active[-1])

    def step(self, now_s: float) -> None:
        """End what is over, take one step in what is on, and begin what is due. First thing in a tick."""
        self.now_s = now_s
        for active in [active for active in self._active if now_s >= active.to_s]:
            self._end(active)
        for active in self._active:
            self._advance(active)
        while self._due and self._due[0][0] <= now_s:
            self.inject(self._due.pop(0)[2])
        if self._waiting and self.live is not None:
            live = self.live
            for step in [step for step in self._waiting if step.when is not None and step.when.is_true_now(live)]:
                self._waiting.remove(step)
                self.inject(step)

    def close(self) -> None:
        """End the record of faults that are still on; what they did stays as it is, but for the machine's own parts."""
        for active in [*self._active]:
            self._end(active)

    def _advance(self, active: _Active) -> None:
        if active.effect is not None and next(active.effect, self) is self:
            active.effect = None  # a hook that has nothing more to do

    def _end(self, active: _Active) -> None:
        self._active.remove(active)
        self.spans.append(FaultSpan(active.step.id, active.step.kind, active.step.target, active.from_s,
                                    min(active.to_s, self.now_s)))
        close = getattr(active.effect, "close", None)
        if close is not None:
            close()

    def finding(self) -> Finding | None:
        """Whether all faults of the scenario were there; None where it has none."""
        began = len(self.spans) + len(self._active)
        unable = [f"{step.id} ({step.kind}) needs {step.part.value}, which bench {self._bench} does not offer "
                  f"({needs(step).partition(': ')[2]})" for step in self._unable]
        never = [f"{step.id} ({step.kind}) never began" for step in
                 (*self._waiting, *self._left_out, *(step for _, _, step in self._due))]
        if not (began or unable or never):
            return None
        problems = [*unable, *never]
        return Finding("faults", Verdict.INCONCLUSIVE if problems else Verdict.PASS,
                       "; ".join(problems) or f"{began} began as they should", "every fault of the scenario began")

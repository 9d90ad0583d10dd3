"""Lockstep with a simulated satellite: its messages, and the board's end of the rig line in that pace.

One message each way carries a whole tick, so that the flight software decides the same on any machine, however fast,
and at any distance: what differs from a run in one process is only where the octets go. `flightsw run --lockstep`
flies it; the plant's end is `hil.lockstep`. Frames are those of `flightsw.board.rig`; numbers are big-endian.

    TICK  u32 sequence | f64 time | f64 step | u32 room | u16 sensors | u32 heard
          sensors x (u8 state, f64 sampled, f64 value) | heard octets of the ground line
          JSON [submitted, progress, active]
          `room` is what the ground line takes this tick; silence of a sensor is a state, so no fault stalls time.
    TOCK  u32 sequence | f64 next wake | u32 failed ticks | u32 sheds | u8 flags | u8 nodes | f64 lease | u32 said
          nodes x (f64 cap, f64 duty, u32 job placed, f64 its duty)
          u32 fingerprint | u8 mode | f64 budget | nodes x (u8 power mode, f64 cap, u32 job)
          said octets for the ground line | JSON [ended, transitions, events, shed, forecast]
    NAK   nothing: what came last was no frame, send it again.

TICK and TOCK end with a CRC-32 of their own besides the frame's, as they are longer than the frame's guarantees. A
TICK with the sequence of the last one gets the same TOCK again; the loop never runs twice. The guardian here is its own
state machine in this process, on the time of the ticks: a lease that is real time's means nothing in lockstep. Jobs are
simulated too. Never reads a clock, never waits.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from flightsw.board.rig import FrameCutter, Kind, Pace, SensorState, check_hello, encode_frame, encode_hello
from flightsw.dictionary.sensors import SENSORS, fitted_names
from flightsw.errors import LinkError
from flightsw.guardian import GuardianLink, GuardianStatus
from flightsw.jobs.base import Placement
from flightsw.jobs.ledger import LedgerEntry
from flightsw.jobs.meter import Activity
from flightsw.link.serial_port import ByteStream
from flightsw.recorder import fingerprint
from flightsw.state import (
    NODE_COUNT_MAX,
    Ahead,
    Decision,
    Event,
    JobProgress,
    JobSpec,
    JobState,
    JobTransition,
    Mode,
    NodeCap,
    NodeCommand,
    Outlook,
    Pause,
    Plan,
    RawReading,
)

FRAME_OCTETS_MAX: Final = 262_144
GROUND_OCTETS_MAX: Final = 65_536
"""Most octets of the ground line that one message carries."""
PERIOD_S: Final = 1.0

_TICK: Final = struct.Struct(">IddIHI")
_READINGS: Final = struct.Struct(">" + len(SENSORS) * "Bdd")
_TOCK: Final = struct.Struct(">IdIIBBdI")
_NODES: Final = [struct.Struct(">" + n * "ddId") for n in range(NODE_COUNT_MAX + 1)]
_DECIDED: Final = [struct.Struct(">IBd" + n * "BdI") for n in range(NODE_COUNT_MAX + 1)]
_CRC: Final = struct.Struct(">I")
_TRANSMITTING, _RENEWED, _PLACED, _HAS_DECIDED = 1, 2, 4, 8
_UNCHANGED: Final = False  # in place of a forecast that was sent before


class Tick(NamedTuple):
    """What the plant says before a tick at `t_s`; `room_octets` bounds what the board may say to the ground."""

    sequence: int
    t_s: float
    step_s: float
    room_octets: int
    readings: tuple[RawReading | None, ...]
    heard: bytes = b""
    submitted: tuple[JobSpec, ...] = ()
    progress: tuple[JobProgress, ...] = ()
    active: tuple[tuple[int, Activity], ...] = ()


class Placed(NamedTuple):
    """What one node holds: a job (0: none) and its share of time."""

    job_id: int
    duty_frac: float


class Decided(NamedTuple):
    """What a bench needs to know of a decision."""

    fingerprint: int
    mode: Mode
    budget_w: float
    nodes: tuple[NodeCommand, ...]
    transitions: tuple[JobTransition, ...] = ()
    events: tuple[Event, ...] = ()
    shed: str = ""
    ahead: Ahead | None = None

    def decision(self, now_s: float) -> Decision:
        """Return it as far as it is known: a plan of one slot, no verifications and effects."""
        plan = Plan(now_s, (math.inf,), (self.budget_w,), (), 0.0, now_s, 0.0, "", False)
        return Decision(now_s, self.mode, self.nodes, plan, self.transitions, (), (), self.events, self.shed,
                        self.ahead)


class Tock(NamedTuple):
    """What the board answers after a tick. `caps` are empty where no lease was renewed, `placed` where the tick
    failed before; `decided` is None for a tick that failed. Where `is_ahead_new` is false the last forecast stands and
    none is in the message.
    """

    sequence: int
    next_wake_s: float
    failures: int
    sheds: int
    transmitting: bool
    lease_s: float = 0.0
    caps: tuple[NodeCap, ...] = ()
    placed: tuple[Placed, ...] = ()
    ended: tuple[int, ...] = ()
    said: bytes = b""
    decided: Decided | None = None
    is_ahead_new: bool = True


# --- the messages ------------------------------------------------------------------------------------


def encode_tick(tick: Tick) -> bytes:
    """Build a TICK frame."""
    fields: list[float] = []
    for reading in tick.readings:
        if reading is None:
            fields += (SensorState.NOT_FITTED, 0.0, math.nan)
        elif reading.value is None:
            fields += (SensorState.FAILED, reading.sampled_s, math.nan)
        else:
            fields += (SensorState.SAMPLED, reading.sampled_s, reading.value)
    tail = b""
    if tick.submitted or tick.progress or tick.active:
        tail = _json([[dataclasses.astuple(spec) for spec in tick.submitted], tick.progress, tick.active])
    return _frame(Kind.TICK, b"".join((
        _TICK.pack(tick.sequence & 0xFFFFFFFF, tick.t_s, tick.step_s, tick.room_octets, len(tick.readings),
                   len(tick.heard)), _READINGS.pack(*fields), tick.heard, tail)))


def decode_tick(payload: bytes) -> Tick:
    """Read a TICK payload; LinkError when it is not one, or not of our table of sensors."""
    body = _checked(payload, "TICK")
    try:
        sequence, t_s, step_s, room, count, heard_octets = _TICK.unpack_from(body)
        if count != len(SENSORS) or not (math.isfinite(t_s) and 0.0 < step_s < math.inf):
            raise LinkError(f"TICK of {count} sensors at {t_s} s by {step_s} s, expected {len(SENSORS)}")
        fields = _READINGS.unpack_from(body, _TICK.size)
        at = _TICK.size + _READINGS.size
        heard, tail = body[at:at + heard_octets], body[at + heard_octets:]
        submitted, progress, active = json.loads(tail) if tail else ((), (), ())
        readings = tuple([
            None if state == SensorState.NOT_FITTED else
            RawReading(value if SensorState(state) is SensorState.SAMPLED else None, sampled_s)
            for state, sampled_s, value in zip(fields[::3], fields[1::3], fields[2::3], strict=True)
        ])
        return Tick(sequence, t_s, step_s, room, readings, heard, tuple(map(_spec, submitted)),
                    tuple(JobProgress(*fields) for fields in progress),
                    tuple((job_id, Activity(*fields)) for job_id, fields in active))
    except (struct.error, ValueError, TypeError) as error:
        raise LinkError(f"TICK of {len(payload)} octets: {error}") from error


def encode_tock(tock: Tock) -> bytes:
    """Build a TOCK frame."""
    decided, nodes = tock.decided, len(tock.caps) or len(tock.placed)
    if decided is not None:
        nodes = len(decided.nodes)
    flags = (_TRANSMITTING * tock.transmitting | _RENEWED * bool(tock.caps) | _PLACED * bool(tock.placed)
             | _HAS_DECIDED * (decided is not None))
    per_node: list[float] = []
    for i in range(nodes):
        cap, placed = tock.caps[i] if tock.caps else None, tock.placed[i] if tock.placed else None
        per_node += (cap.cap_w, cap.duty_frac) if cap else (0.0, 0.0)
        per_node += placed or (0, 0.0)
    parts = [_TOCK.pack(tock.sequence & 0xFFFFFFFF, tock.next_wake_s, tock.failures, tock.sheds, flags, nodes,
                        tock.lease_s, len(tock.said)), _NODES[nodes].pack(*per_node)]
    rest: list[object] = [tock.ended, (), (), "", _UNCHANGED]
    if decided is not None:
        commands = [value for node in decided.nodes for value in node]
        parts.append(_DECIDED[nodes].pack(decided.fingerprint, decided.mode, decided.budget_w, *commands))
        rest[1:4] = [[_transition_fields(each) for each in decided.transitions], decided.events, decided.shed]
        if tock.is_ahead_new:
            rest[4] = decided.ahead
    parts.append(tock.said)
    if any(rest) or rest[4] is None:
        parts.append(_json(rest))
    return _frame(Kind.TOCK, b"".join(parts))


def decode_tock(payload: bytes) -> Tock:
    """Read a TOCK payload; LinkError when it is not one."""
    body = _checked(payload, "TOCK")
    try:
        sequence, next_wake_s, failures, sheds, flags, nodes, lease_s, said_octets = _TOCK.unpack_from(body)
        at = _TOCK.size
        per_node = _NODES[nodes].unpack_from(body, at)
        at += _NODES[nodes].size
        starts = range(0, 4 * nodes, 4)
        caps = tuple(NodeCap(per_node[i], per_node[i + 1], 0) for i in starts) if flags & _RENEWED else ()
        placed = tuple(Placed(per_node[i + 2], per_node[i + 3]) for i in starts) if flags & _PLACED else ()
        head = None
        if flags & _HAS_DECIDED:
            head = _DECIDED[nodes].unpack_from(body, at)
            at += _DECIDED[nodes].size
        said, tail = body[at:at + said_octets], body[at + said_octets:]
        ended, transitions, events, shed, ahead = json.loads(tail) if tail else ((), (), (), "", _UNCHANGED)
        decided = None if head is None else Decided(
            head[0], Mode(head[1]), head[2], tuple(NodeCommand(*head[i:i + 3]) for i in range(3, len(head), 3)),
            tuple(map(_transition, transitions)), tuple(Event(name, tuple(args)) for name, args in events), shed,
            _ahead(ahead) if isinstance(ahead, list) else None)
        return Tock(sequence, next_wake_s, failures, sheds, bool(flags & _TRANSMITTING), lease_s, caps, placed,
                    tuple(ended), said, decided, ahead is not _UNCHANGED)
    except (struct.error, ValueError, TypeError, LookupError) as error:
        raise LinkError(f"TOCK of {len(payload)} octets: {error}") from error


def encode_nak() -> bytes:
    """Build a NAK frame."""
    return encode_frame(Kind.NAK, b"")


def _frame(kind: Kind, body: bytes) -> bytes:
    return encode_frame(kind, body + _CRC.pack(zlib.crc32(body)))


def _checked(payload: bytes, what: str) -> bytes:
    body = payload[:-_CRC.size]
    if len(payload) < _CRC.size or _CRC.unpack_from(payload, len(body))[0] != zlib.crc32(body):
        raise LinkError(f"{what} of {len(payload)} octets does not close")
    return body


def _json(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _spec(fields: list[Any]) -> JobSpec:  # Any: JSON values, here and below
    spec = JobSpec(*fields)
    return dataclasses.replace(spec, pause=Pause(spec.pause))


def _transition_fields(transition: JobTransition) -> list[object]:
    job_id, state, detail, done_units, spec = transition[:5]
    return [job_id, state, detail, done_units, None if spec is None else dataclasses.astuple(spec)]


def _transition(fields: list[Any]) -> JobTransition:
    job_id, state, detail, done_units, spec = fields
    return JobTransition(job_id, JobState(state), detail, done_units, None if spec is None else _spec(spec))


def _ahead(fields: list[Any]) -> Ahead:
    made_s, step_s, charge, charge_worst, hottest, hottest_worst, *outlooks = fields
    plan, plan_worst, present, present_worst = [Outlook(tuple(margin), tuple(at_s)) for margin, at_s in outlooks]
    return Ahead(made_s, step_s, tuple(charge), tuple(charge_worst), tuple(hottest), tuple(hottest_worst), plan,
                 plan_worst, present, present_worst)


# --- the board's end ---------------------------------------------------------------------------------


class LockstepBoard:
    """All that surrounds a supervisor, at the other end of one line: board, runner, inbox, ground port, guardian.

    `serve` takes what came and runs the loop for each new TICK. `guardian` is asked on the time of the ticks.
    """

    def __init__(self, port: ByteStream, guardian: GuardianLink, nodes: int) -> None:
        self.refused = ""  # why the other end's HELLO was not accepted
        self.ticks = 0
        self.repeats = 0  # TICKs that were answered again
        self._port = port
        self._guardian = guardian
        self._nodes = nodes
        self._cutter = FrameCutter(FRAME_OCTETS_MAX)
        self._bad_messages = 0
        self._tick: Tick | None = None
        self._answer = b""
        self._ahead: Ahead | None = None
        self._groups = (0,) * nodes
        # Of the tick that is under way.
        self._heard = bytearray()
        self._said = bytearray()
        self._submitted: list[JobSpec] = []
        self._progress: list[JobProgress] = []
        self._ended: list[int] = []
        self._placed: tuple[Placed, ...] = ()
        self._caps: tuple[NodeCap, ...] = ()
        self._lease_s = 0.0
        self._transmitting = False

    @property
    def bad_frames(self) -> int:
        """Frames and messages that were not valid."""
        return self._cutter.bad_frames + self._bad_messages

    @property
    def fitted(self) -> frozenset[str]:
        """Names of the sensors that the plant says it has; none before the first TICK."""
        readings = self._tick.readings if self._tick else (None,) * len(SENSORS)
        return frozenset(row.name for row, reading in zip(SENSORS, readings, strict=True) if reading is not None)

    def greet(self) -> None:
        """Tell the plant that this end is here."""
        self._port.write(encode_hello(Pace.LOCKSTEP))

    def serve(self, run: Callable[[float], tuple[Decision | None, int, int]]) -> None:
        """Take what came; for each new TICK call `run` with its time: the decision, failed ticks and sheds so far."""
        bad = self._cutter.bad_frames
        for kind, payload in self._cutter.push(self._port.read()):
            try:
                if kind == Kind.TICK:
                    self._step(decode_tick(payload), run)
                elif kind == Kind.HELLO:
                    check_hello(payload, Pace.LOCKSTEP)
                    self.refused = ""
                    self.greet()
                else:
                    raise LinkError(f"message of kind {kind:#x} is not for a board in lockstep")  # noqa: TRY301 # counted
            except LinkError as error:
                self._bad_messages += 1
                if kind == Kind.HELLO:
                    self.refused = str(error)
        if self._cutter.bad_frames != bad:
            self._port.write(encode_nak())

    def _step(self, tick: Tick, run: Callable[[float], tuple[Decision | None, int, int]]) -> None:
        last = self._tick
        if last is not None and tick.sequence == last.sequence:
            self.repeats += 1
            self._port.write(self._answer)
            return
        if last is not None and not tick.t_s > last.t_s:
            raise LinkError(f"TICK {tick.sequence} at {tick.t_s} s, after one at {last.t_s} s")
        self._tick = tick
        self.ticks += 1
        self._heard += tick.heard
        self._submitted += tick.submitted
        self._progress += tick.progress
        decision, failures, sheds = run(tick.t_s)
        decided, is_ahead_new = None, False
        if decision is not None:
            is_ahead_new, self._ahead = decision.ahead is not self._ahead, decision.ahead
            decided = Decided(fingerprint(decision), decision.mode, decision.plan.budget_at(tick.t_s), decision.nodes,
                              decision.transitions, decision.events, decision.shed, decision.ahead)
        tock = Tock(tick.sequence, tick.t_s + PERIOD_S, failures, sheds, self._transmitting, self._lease_s, self._caps,
                    self._placed, tuple(self._ended), bytes(self._said), decided, is_ahead_new)
        self._answer = encode_tock(tock)
        self._ended.clear()
        self._said.clear()
        self._caps, self._placed, self._lease_s = (), (), 0.0
        self._port.write(self._answer)

    # --- Board

    def read_sensors(self, _now_s: float) -> Sequence[RawReading | None]:
        """See `Board`: the readings of the tick that is under way."""
        return self._tick.readings if self._tick else (None,) * len(SENSORS)

    def set_transmitter(self, on: bool) -> None:
        """See `Board`."""
        self._transmitting = on

    def describe(self) -> tuple[str, ...]:
        """See `Board`."""
        return (f"rig in lockstep: {len(fitted_names(self._nodes))} sensors come with each TICK",)

    # --- Runner: jobs are the plant's

    def place(self, _now_s: float, placements: Sequence[Placement]) -> tuple[int, ...]:
        """See `Runner`."""
        self._placed = tuple([Placed(0 if job is None else job.job_id, duty_frac) for job, duty_frac, *_ in placements])
        return self._groups

    def poll(self, _now_s: float) -> tuple[JobProgress, ...]:
        """See `Runner`."""
        progress, self._progress = tuple(self._progress), []
        return progress

    def notes(self) -> tuple[Event, ...]:
        """See `Runner`; nothing is saved on the rig."""
        return ()

    def active(self) -> Mapping[int, Activity]:
        """See `Runner`."""
        return dict(self._tick.active) if self._tick else {}

    def end(self, job_id: int) -> None:
        """See `Runner`."""
        self._ended.append(job_id)

    def close(self) -> None:
        """See `Runner`. The plant ends its jobs with the run."""

    # --- Inbox

    def take(self, _now_s: float, _known: Mapping[int, LedgerEntry]) -> tuple[JobSpec, ...]:
        """See `Inbox`."""
        submitted, self._submitted = tuple(self._submitted), []
        return submitted

    def news(self) -> tuple[Event, ...]:
        """See `Inbox`."""
        return ()

    # --- the ground line

    def read(self) -> bytes:
        """See `ByteStream`."""
        heard = bytes(self._heard)
        self._heard.clear()
        return heard

    def write(self, octets: bytes) -> int:
        """See `ByteStream`. What the line has no room for is lost, as on the line itself."""
        room = self._tick.room_octets - len(self._said) if self._tick else 0
        accepted = octets[:max(0, room)]
        self._said += accepted
        return len(accepted)

    # --- the guardian

    def renew(self, now_s: float, lease_s: float, caps: Sequence[NodeCap]) -> GuardianStatus:
        """See `GuardianLink`. The plant is told what was asked for, and renews its own guardian with it."""
        self._caps, self._lease_s = tuple(caps), lease_s
        return self._guardian.renew(now_s, lease_s, caps)

    def status(self, now_s: float) -> GuardianStatus:
        """See `GuardianLink`."""
        return self._guardian.status(now_s)

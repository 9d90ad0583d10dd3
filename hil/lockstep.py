"""The plant's end of a rig line in lockstep: one exchange a tick, and a flight software that is somewhere else.

`RemoteFlight` stands where `hil.run` has its supervisor, so that one loop, one truth, one ground and one report serve
every bench. `Wire` carries octets to a board in this process (`InProcessBoard`), to a process behind a pseudo-terminal,
or to a real adapter. The messages are those of `flightsw.lockstep`.

An exchange is repeated until it is answered: at once when either end saw a frame that was none, else every
`retry_s`. A TICK is idempotent by its sequence, so a repeat costs time and nothing else. Only the deadline ends it.
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple, Protocol

from flightsw.board.rig import FrameCutter, Kind, Pace, check_hello, encode_hello
from flightsw.errors import BoardError, LinkError
from flightsw.guardian import GuardianLink
from flightsw.jobs.base import Placement, Runner
from flightsw.link.serial_port import ByteStream
from flightsw.lockstep import FRAME_OCTETS_MAX, GROUND_OCTETS_MAX, Tick, Tock, decode_tock, encode_tick
from flightsw.state import Ahead, Decision, JobSpec
from flightsw.supervisor import Inbox
from hil.channel import LineEnd
from hil.plant.satellite import STEP_S, TruthSatellite


class Wire(ByteStream, Protocol):
    """Octets to a board and back."""

    def wait(self, within_s: float) -> bool:
        """Wait at most so long for octets; return whether there may be some. BoardError when the wire is gone."""


class Counters(NamedTuple):
    """What the exchanges of a run took."""

    exchanges: int
    repeats: int
    bad_frames: int
    octets_down: int
    octets_up: int
    slowest_s: float


class LockstepLink:
    """The plant's end of one line. `alive` tells, in an error, whether whatever should answer is still there."""

    def __init__(self, wire: Wire, *, deadline_s: float = 10.0, retry_s: float = 0.5) -> None:
        self._wire = wire
        self._deadline_s = deadline_s
        self._retry_s = retry_s
        self._cutter = FrameCutter(FRAME_OCTETS_MAX)
        self._sequence = 0
        self._exchanges = self._repeats = self._down = self._up = self._bad = 0
        self._slowest_s = 0.0

    @property
    def counters(self) -> Counters:
        """Counters since the start."""
        return Counters(self._exchanges, self._repeats, self._bad + self._cutter.bad_frames, self._down, self._up,
                        self._slowest_s)

    def greet(self, within_s: float) -> None:
        """Exchange HELLOs; BoardError when nobody answers, or somebody with another table or pace."""
        refused = ""
        give_up_s = time.monotonic() + within_s
        while (left_s := give_up_s - time.monotonic()) > 0.0:
            self._wire.write(encode_hello(Pace.LOCKSTEP))
            if not self._wire.wait(min(left_s, self._retry_s)):
                continue
            for kind, payload in self._cutter.push(self._wire.read()):
                if kind == Kind.HELLO:
                    try:
                        check_hello(payload, Pace.LOCKSTEP)
                    except LinkError as error:
                        refused = f": {error}"
                    else:
                        return
        raise BoardError(f"no board answered the rig within {within_s:g} s{refused}")

    def exchange(self, tick: Tick) -> Tock:
        """Send one tick under the next sequence and return its answer; BoardError after the deadline."""
        self._sequence += 1
        frame = encode_tick(tick._replace(sequence=self._sequence))
        begun_s = time.monotonic()
        self._send(frame)
        retry_at_s = begun_s + self._retry_s
        while True:
            now_s = time.monotonic()
            if now_s - begun_s > self._deadline_s:
                raise BoardError(f"the board did not answer the tick at T+{tick.t_s:g} s within {self._deadline_s:g} s "
                                 f"({self._repeats} repeats so far)")
            ready = self._wire.wait(max(0.0, min(retry_at_s, begun_s + self._deadline_s) - now_s))
            tock, again = self._receive() if ready else (None, False)
            if tock is not None:
                self._exchanges += 1
                self._slowest_s = max(self._slowest_s, time.monotonic() - begun_s)
                return tock
            if again or time.monotonic() >= retry_at_s:
                self._repeats += 1
                self._send(frame)
                retry_at_s = time.monotonic() + self._retry_s

    def _send(self, frame: bytes) -> None:
        self._up += len(frame)
        self._wire.write(frame)

    def _receive(self) -> tuple[Tock | None, bool]:
        """Return the answer that was waited for, if it came, and whether something came that calls for a repeat."""
        octets = self._wire.read()
        self._down += len(octets)
        bad, found, again = self._cutter.bad_frames, None, False
        for kind, payload in self._cutter.push(octets):
            try:
                if kind == Kind.TOCK:
                    tock = decode_tock(payload)
                    found = tock if tock.sequence == self._sequence else found  # an older one: answered twice
                elif kind in (Kind.NAK, Kind.HELLO):  # a HELLO: it has begun anew, and what was sent before is lost
                    again = True
            except LinkError:
                self._bad += 1
                again = True
        return found, again or self._cutter.bad_frames != bad


class RemoteFlight:
    """A flight software behind a lockstep link, with the doors of the supervisor that `hil.run` uses.

    What the supervisor does to guardian, runner, transmitter and ground line in one process is done here when its
    answer comes, in the same order.
    """

    def __init__(self, link: LockstepLink, satellite: TruthSatellite, guardian: GuardianLink, runner: Runner,
                 inbox: Inbox, port: LineEnd) -> None:
        self.failures = 0
        self.sheds = 0
        self.fingerprints: list[int] = []  # the command log: one a tick, 0 where it failed
        self._link = link
        self._satellite = satellite
        self._guardian = guardian
        self._runner = runner
        self._inbox = inbox
        self._port = port
        self._specs: dict[int, JobSpec] = {}
        self._ahead: Ahead | None = None

    def tick(self, now_s: float) -> Decision | None:
        """Have one tick decided; None when it failed. BoardError when nobody answers in time."""
        heard = self._port.read()
        submitted = self._inbox.take(now_s, {})
        self._specs.update((spec.job_id, spec) for spec in submitted)
        progress = self._runner.poll(now_s)
        tock = self._link.exchange(Tick(
            0, now_s, STEP_S, min(self._port.free_octets, GROUND_OCTETS_MAX),
            tuple(self._satellite.read_sensors(now_s)), heard, submitted, progress,
            tuple(self._runner.active().items())))
        if not math.isclose(tock.next_wake_s, now_s + STEP_S):
            raise BoardError(f"the board wants to wake at T+{tock.next_wake_s:g} s, the plant steps by {STEP_S:g} s")
        self._carry_out(tock, now_s)
        self.failures, self.sheds = tock.failures, tock.sheds
        if tock.decided is None:
            self.fingerprints.append(0)
            return None
        self.fingerprints.append(tock.decided.fingerprint)
        if tock.is_ahead_new:
            self._ahead = tock.decided.ahead
        return tock.decided.decision(now_s)._replace(ahead=self._ahead)

    def _carry_out(self, tock: Tock, now_s: float) -> None:
        if tock.decided is not None:
            for transition in tock.decided.transitions:
                if transition.spec is not None:
                    self._specs[transition.job_id] = transition.spec
        for job_id in tock.ended:
            self._runner.end(job_id)
        if tock.placed:
            self._runner.place(now_s, [Placement(self._specs.get(job_id), duty_frac)
                                       for job_id, duty_frac in tock.placed])
        if tock.caps:
            self._guardian.renew(now_s, tock.lease_s, tock.caps)
        self._satellite.set_transmitter(tock.transmitting)
        if tock.said:
            self._port.write(tock.said)

    @property
    def retries(self) -> int:
        """Messages of the sensor link that had to be sent again."""
        return self._link.counters.repeats

    def close(self) -> None:
        """Nothing: whoever started the other end ends it."""


class Loop(ByteStream):
    """One end of a pair of octet streams in memory."""

    def __init__(self, incoming: bytearray, outgoing: bytearray) -> None:
        self._incoming, self._outgoing = incoming, outgoing

    def read(self) -> bytes:
        """See `ByteStream`."""
        octets = bytes(self._incoming)
        self._incoming.clear()
        return octets

    def write(self, octets: bytes) -> int:
        """See `ByteStream`."""
        self._outgoing += octets
        return len(octets)

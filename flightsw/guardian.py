"""The supervisor's side of the guardian, the only writer of power caps.

Owns the lease messages (layout: c_kernels/include/guardian_core.h) and the guardian process: finding it,
starting it, noticing that it died. The supervisor renews a lease each tick and reads back what is in force;
the virtual-time bench uses `InProcessGuardian`, which runs the program's own state machine. Never decides a
cap, never writes a cap file, never reads a clock.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import socket
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from pathlib import Path
from typing import NamedTuple, Protocol

from flightsw.errors import BoardError, ConfigError, LinkError
from flightsw.kernels import GuardianCore
from flightsw.state import NODE_COUNT_MAX, NodeCap

GUARDIAN_PROGRAM = Path(__file__).resolve().parent / "_bin" / "guardian"

_MAGIC = 0x47575346
_VERSION = 1
_LEASE, _HELLO, _STATUS, _BEACON = 1, 2, 0x81, 0x82
_STATUS_MAX = 224
_UNKNOWN_MW = 0xFFFFFFFF
_CRC = struct.Struct("<I")
_LEASES = [struct.Struct("<IBBBBQI" + n * "IiHH") for n in range(NODE_COUNT_MAX + 1)]
_STATUSES = [struct.Struct("<IBBBBQQIiI11IIII" + n * "IIiHBB") for n in range(NODE_COUNT_MAX + 1)]

# A started or found guardian answers in well under a millisecond; one that needs seconds is stuck.
_START_WAIT_MS = 2000


class Rejection(IntEnum):
    """Why a lease was not taken; the codes of guardian_core.h."""

    LENGTH = -3
    MAGIC = -4
    VERSION = -5
    CRC = -6
    KIND = -7
    NODES = -8
    SEQUENCE = -9
    LEASE = -10
    CAP = -11
    DUTY = -12
    PGID = -13


class GuardianHealth(Enum):
    """What the supervisor knows of the guardian."""

    ALIVE = "alive"
    SILENT = "silent"  # connected, but has left leases unanswered for longer than they last
    DEAD = "dead"  # no connection; caps in force are unknown


class NodeInForce(NamedTuple):
    """What the guardian enforces on one node; `read_back_w` is None where the cap file gave no number."""

    cap_w: float
    read_back_w: float | None
    pgid: int
    duty_frac: float
    running: bool
    cap_fault: bool
    group_gone: bool
    group_refused: bool


class GuardianStatus(NamedTuple):
    """The guardian's last answer. `nodes` is empty when the guardian is dead: unknown is not a number.

    `result` is 0 or a `Rejection` of the message with `answered_sequence`; `rejected` counts in the order of
    `Rejection`; `lease_left_s` is as of that answer.
    """

    health: GuardianHealth
    expired: bool
    alone: bool
    clock_stepped: bool
    memory_locked: bool
    watchdog_petted: bool
    last_sequence: int
    answered_sequence: int
    lease_left_s: float
    result: int
    accepted: int
    rejected: tuple[int, ...]
    clock_steps: int
    overruns: int
    uptime_s: int
    nodes: tuple[NodeInForce, ...]


_DEAD = GuardianStatus(
    GuardianHealth.DEAD, True, False, False, False, False, 0, 0, 0.0, 0, 0, (0,) * len(Rejection), 0, 0, 0, ()
)


@dataclass(frozen=True, slots=True)
class GuardianConfig:
    """Limits that the guardian holds whatever a lease asks for.

    `floor_w` is the cap of each node (1..8) without a lease, `ceiling_w` the highest a lease may ask for
    (floor..2000 W), `lease_max_s` the longest lease (0.001..60 s); after `alone_after_s` (0.001..86400 s)
    without a lease the guardian counts as alone and beacons. Raises ConfigError.
    """

    floor_w: tuple[float, ...]
    ceiling_w: tuple[float, ...]
    lease_max_s: float
    alone_after_s: float = 10.0

    def __post_init__(self) -> None:
        n_nodes = len(self.floor_w)
        if not 1 <= n_nodes <= NODE_COUNT_MAX or len(self.ceiling_w) != n_nodes:
            raise ConfigError(
                "guardian",
                f"{n_nodes} floors and {len(self.ceiling_w)} ceilings, want 1..{NODE_COUNT_MAX} of each",
            )
        for node, (floor_w, ceiling_w) in enumerate(zip(self.floor_w, self.ceiling_w, strict=True)):
            if not (0.0 <= floor_w <= ceiling_w and 0.001 <= ceiling_w <= 2000.0):
                raise ConfigError(
                    "guardian",
                    f"node {node}: floor {floor_w} W, ceiling {ceiling_w} W, "
                    "want 0 <= floor <= ceiling and 0.001 <= ceiling <= 2000 W",
                )
        if not 0.001 <= self.lease_max_s <= 60.0:
            raise ConfigError("guardian", f"lease_max_s {self.lease_max_s} outside 0.001..60 s")
        if not 0.001 <= self.alone_after_s <= 86400.0:
            raise ConfigError("guardian", f"alone_after_s {self.alone_after_s} outside 0.001..86400 s")

    @property
    def floor_mw(self) -> list[int]:
        """Floors in the guardian's unit."""
        return [_to_mw(cap_w) for cap_w in self.floor_w]

    @property
    def ceiling_mw(self) -> list[int]:
        """Ceilings in the guardian's unit."""
        return [_to_mw(cap_w) for cap_w in self.ceiling_w]

    @property
    def lease_max_ms(self) -> int:
        """Longest lease in the guardian's unit."""
        return _to_ms(self.lease_max_s)

    @property
    def alone_after_ms(self) -> int:
        """Time to loneliness in the guardian's unit."""
        return _to_ms(self.alone_after_s)


class GuardianLink(Protocol):
    """What the supervisor needs of a guardian."""

    def renew(self, now_s: float, lease_s: float, caps: Sequence[NodeCap]) -> GuardianStatus:
        """Ask for `caps`, one a node, for `lease_s` from now; return the newest known status."""

    def status(self, now_s: float) -> GuardianStatus:
        """Return the newest known status without asking for anything."""


def _to_mw(cap_w: float) -> int:
    # Down, never up; the nudge keeps 0.29 W (which is 289.999... mW in binary) at 290 mW.
    return int(cap_w * 1000.0 + 1e-6)


def _to_ms(duration_s: float) -> int:
    return int(duration_s * 1000.0 + 1e-6)


def encode_lease(sequence: int, lease_s: float, caps: Sequence[NodeCap]) -> bytes:
    """Encode a LEASE message.

    Raises BoardError for what the message cannot carry: a value that is not finite or out of its field's range.
    The guardian judges the rest (ceilings, longest lease).
    """
    if not 1 <= len(caps) <= NODE_COUNT_MAX:
        raise BoardError(f"lease for {len(caps)} nodes, want 1..{NODE_COUNT_MAX}")
    if not 0.0 <= lease_s <= 3600.0:
        raise BoardError(f"lease of {lease_s} s, want 0..3600 s")
    fields: list[int] = []
    for node, (cap_w, duty_frac, pgid) in enumerate(caps):
        if not (0.0 <= cap_w <= 1e6 and 0.0 <= duty_frac <= 1.0 and 0 <= pgid < 2**31):
            raise BoardError(
                f"node {node}: cap {cap_w} W, duty {duty_frac}, pgid {pgid}; want 0..1e6 W, 0..1 and 0..2147483647"
            )
        fields += (_to_mw(cap_w), pgid, int(duty_frac * 1000.0 + 1e-6), 0)
    body = _LEASES[len(caps)].pack(_MAGIC, _VERSION, _LEASE, len(caps), 0, sequence, _to_ms(lease_s), *fields)
    return body + _CRC.pack(zlib.crc32(body))


def encode_hello(token: int) -> bytes:
    """Encode a HELLO message; it changes nothing and is answered with `token` as `answered_sequence`."""
    body = _LEASES[0].pack(_MAGIC, _VERSION, _HELLO, 0, 0, token, 0)
    return body + _CRC.pack(zlib.crc32(body))


def decode_status(message: bytes) -> GuardianStatus:
    """Decode a STATUS answer or a BEACON record; raises LinkError when it is neither, or damaged."""
    if len(message) < _STATUSES[0].size + 4 or (len(message) - _STATUSES[0].size - 4) % 16 != 0:
        raise LinkError(f"guardian status of {len(message)} bytes, want 96 + 16 per node")
    n_nodes = (len(message) - _STATUSES[0].size - 4) // 16
    if n_nodes > NODE_COUNT_MAX or zlib.crc32(message[:-4]) != _CRC.unpack_from(message, len(message) - 4)[0]:
        raise LinkError(f"guardian status of {len(message)} bytes is damaged")
    values = _STATUSES[n_nodes].unpack_from(message)
    magic, version, kind, claimed, flags, last_sequence, answered_sequence = values[:7]
    if magic != _MAGIC or version != _VERSION or kind not in (_STATUS, _BEACON) or claimed != n_nodes:
        raise LinkError(f"guardian status: magic {magic:#x}, version {version}, kind {kind:#x}, {claimed} nodes")
    nodes = []
    for at in range(24, 24 + 6 * n_nodes, 6):
        cap_mw, read_back_mw, pgid, duty_permille, node_flags, _ = values[at : at + 6]
        nodes.append(
            NodeInForce(
                cap_mw / 1000.0,
                None if read_back_mw == _UNKNOWN_MW else read_back_mw / 1000.0,
                pgid,
                duty_permille / 1000.0,
                node_flags & 1 != 0,
                node_flags & 2 != 0,
                node_flags & 4 != 0,
                node_flags & 8 != 0,
            )
        )
    return GuardianStatus(
        GuardianHealth.ALIVE,
        flags & 1 != 0,
        flags & 2 != 0,
        flags & 4 != 0,
        flags & 16 != 0,
        flags & 32 != 0,
        last_sequence,
        answered_sequence,
        values[7] / 1000.0,
        values[8],
        values[9],
        values[10:21],
        values[21],
        values[22],
        values[23],
        tuple(nodes),
    )


class InProcessGuardian:
    """The guardian's own state machine in this process, for virtual time; writes no files, signals no one."""

    def __init__(self, config: GuardianConfig, start_s: float = 0.0) -> None:
        self._core = GuardianCore(
            config.floor_mw, config.ceiling_mw, config.lease_max_ms, config.alone_after_ms, _to_us(start_s)
        )
        self._sequence = 0

    def renew(self, now_s: float, lease_s: float, caps: Sequence[NodeCap]) -> GuardianStatus:
        """Ask for `caps` and return what is then in force."""
        self._sequence += 1
        self._core.message(_to_us(now_s), encode_lease(self._sequence, lease_s, caps))
        return self.status(now_s)

    def status(self, now_s: float) -> GuardianStatus:
        """Return what is in force at `now_s`: the plant reads its caps here, renewed or not."""
        return decode_status(self._core.status(_to_us(now_s)))


def _to_us(now_s: float) -> int:
    return round(now_s * 1e6)


class ProcessGuardian:
    """The guardian program behind its socket.

    `start` blocks until a guardian answers; `renew` and `status` wait at most `answer_wait_s` for the answer
    of this tick (0: never) and otherwise return the last one. A lost guardian is a status, not an exception:
    the supervisor goes SAFE and calls `start` again. `options` are passed to the program as they are
    (`--cap-path 0=/sys/...`, `--watchdog`, `--beacon`; see `guardian --help`).
    """

    def __init__(
        self,
        config: GuardianConfig,
        socket_path: Path,
        caps_dir: Path,
        *,
        options: Sequence[str] = (),
        program: Path = GUARDIAN_PROGRAM,
        answer_wait_s: float = 0.002,
    ) -> None:
        if len(os.fsencode(socket_path)) > 100:
            raise ConfigError("guardian", f"socket path {socket_path} is longer than 100 bytes")
        if not (math.isfinite(answer_wait_s) and 0.0 <= answer_wait_s <= 1.0):
            raise ConfigError("guardian", f"answer_wait_s {answer_wait_s} outside 0..1 s")
        self._config = config
        self._socket_path = socket_path
        self._arguments = _arguments(config, socket_path, caps_dir, options)
        self._program = program
        self._answer_wait_ms = round(answer_wait_s * 1000.0)
        self._socket: socket.socket | None = None
        self._poll = select.poll()
        self._spawned_pid: int | None = None
        self._sequence = 0
        self._status = _DEAD
        self._unanswered_since_s: float | None = None
        self._lease_s = config.lease_max_s

    @property
    def pid(self) -> int | None:
        """Process number of the connected guardian, None when there is none."""
        return None if self._socket is None else _peer_pid(self._socket)

    def start(self) -> GuardianStatus:
        """Connect to the running guardian or start one, and continue its sequence.

        A guardian that is there but does not answer is killed and replaced. Raises BoardError with the
        guardian's own words when none can be had.
        """
        self.close()
        self._reap()
        status = self._hello()
        if status is None:
            self._spawn()
            status = self._hello()
        if status is None:
            raise BoardError(f"guardian at {self._socket_path} was started and does not answer")
        if len(status.nodes) != len(self._config.floor_w):
            self.close()
            raise BoardError(
                f"guardian at {self._socket_path} serves {len(status.nodes)} nodes, want {len(self._config.floor_w)}"
            )
        self._sequence = status.last_sequence
        self._status = status
        self._unanswered_since_s = None
        return status

    def renew(self, now_s: float, lease_s: float, caps: Sequence[NodeCap]) -> GuardianStatus:
        """Ask for `caps`, one a node, for `lease_s` from now; return the newest known status."""
        message = encode_lease(self._sequence + 1, lease_s, caps)
        if self._socket is None:
            return self._status
        self._sequence += 1
        self._lease_s = lease_s
        if self._unanswered_since_s is None:
            self._unanswered_since_s = now_s
        try:
            self._socket.send(message)
        except BlockingIOError:
            pass  # its queue is full because it does not read: `status` reports it silent in time
        except OSError:
            return self._lose()
        return self._collect(now_s, self._answer_wait_ms)

    def status(self, now_s: float) -> GuardianStatus:
        """Return the newest known status without asking for anything."""
        return self._collect(now_s, 0)

    def close(self) -> None:
        """Leave the guardian to itself: its lease runs out, then it holds the floor."""
        if self._socket is not None:
            self._poll.unregister(self._socket)
            self._socket.close()
            self._socket = None
        self._status = _DEAD

    def stop(self) -> None:
        """End the guardian: floor, leased groups stopped, process gone. Raises BoardError when it stays."""
        self._collect(0.0, 0)  # a guardian that ended already has left a number that may be a stranger's
        pid = self.pid
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        ended = self._wait_for_end()
        self.close()
        self._reap(block=ended)
        if not ended:
            raise BoardError(f"guardian {pid} did not end within {_START_WAIT_MS} ms of SIGTERM")

    def _collect(self, now_s: float, wait_ms: int) -> GuardianStatus:
        """Take in the answers that are there; the last one counts."""
        if self._socket is None:
            return self._status
        while self._poll.poll(wait_ms):
            try:
                message = self._socket.recv(_STATUS_MAX)
                status = decode_status(message) if message else None
            except (OSError, LinkError):
                status = None
            if status is None:
                return self._lose()
            self._status = status
            self._unanswered_since_s = None
            wait_ms = 0
        since_s = self._unanswered_since_s
        if since_s is not None and now_s - since_s >= self._lease_s:
            self._status = self._status._replace(health=GuardianHealth.SILENT)
        return self._status

    def _lose(self) -> GuardianStatus:
        self.close()
        self._reap()
        return self._status

    def _hello(self) -> GuardianStatus | None:
        """Connect and ask for the status; None when nobody is there or answers. Kills one that is stuck."""
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            link.connect(os.fspath(self._socket_path))
        except OSError:
            link.close()
            return None
        link.setblocking(False)
        self._socket = link
        self._poll.register(link, select.POLLIN)
        with contextlib.suppress(OSError, LinkError):
            link.send(encode_hello(1))
            if self._poll.poll(_START_WAIT_MS):
                return decode_status(link.recv(_STATUS_MAX))
            os.kill(_peer_pid(link), signal.SIGKILL)
            self._wait_for_end()
        self.close()
        self._reap()
        return None

    def _wait_for_end(self) -> bool:
        """Wait, bounded, until the guardian's end of the connection is closed."""
        while self._socket is not None and self._poll.poll(_START_WAIT_MS):
            try:
                if not self._socket.recv(_STATUS_MAX):
                    return True
            except OSError:
                return True
        return False

    def _spawn(self) -> None:
        """Start the program in a session of its own, so that it outlives us, and wait until it is ready."""
        ready, theirs = os.pipe()
        try:
            self._spawned_pid = os.posix_spawn(
                self._program,
                [str(self._program), *self._arguments, "--ready-fd", "3"],
                {},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_RDWR, 0),
                    (os.POSIX_SPAWN_DUP2, theirs, 2),
                    (os.POSIX_SPAWN_DUP2, theirs, 3),
                ],
                setsid=True,
            )
        except OSError as error:
            os.close(ready)
            raise BoardError(f"guardian program {self._program} cannot be started: {error.strerror}") from error
        finally:
            os.close(theirs)
        poll = select.poll()
        poll.register(ready, select.POLLIN)
        words = b""
        while not words.endswith(b"\n") and poll.poll(_START_WAIT_MS):
            more = os.read(ready, 500)
            if not more:
                break
            words += more
        os.close(ready)
        if words != b"\n":
            self._reap()
            raise BoardError(words.decode(errors="replace").strip() or "guardian was not ready in time")

    def _reap(self, *, block: bool = False) -> None:
        """Collect our own ended child; a guardian that we found running is not ours to collect."""
        if self._spawned_pid is None:
            return
        try:
            pid, _ = os.waitpid(self._spawned_pid, 0 if block else os.WNOHANG)
        except ChildProcessError:
            pid = self._spawned_pid
        if pid == self._spawned_pid:
            self._spawned_pid = None


def _peer_pid(link: socket.socket) -> int:
    pid: int = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return pid


def _arguments(config: GuardianConfig, socket_path: Path, caps_dir: Path, options: Sequence[str]) -> list[str]:
    return [
        *("--socket", str(socket_path), "--caps-dir", str(caps_dir), "--nodes", str(len(config.floor_w))),
        *("--floor-mw", ",".join(map(str, config.floor_mw))),
        *("--ceiling-mw", ",".join(map(str, config.ceiling_mw))),
        *("--lease-max-ms", str(config.lease_max_ms), "--alone-after-ms", str(config.alone_after_ms)),
        *options,
    ]

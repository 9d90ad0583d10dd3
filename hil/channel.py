"""The serial line between satellite and ground, emulated: pacing, latency, bit errors, overruns, outages.

One model, two drivers. `VirtualLine` lives in virtual time and moves when the rig advances it, bit for bit
the same for one seed. `PtyLine` runs the same model in real time, or a stated multiple, between two
pseudo-terminals that any program can open as serial ports. Octets take 10 bits on the line (8N1); bit errors
hit the 8 that carry data.
"""

from __future__ import annotations

import math
import os
import random
import select
import sys
import threading
import time
import tty
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

BITS_PER_OCTET = 10
_NEVER = sys.maxsize
_PTY_CHUNK_OCTETS = 65536


class Direction:
    """One way of the line: a bounded FIFO whose octets arrive one octet time after another.

    Counters are octets, but `flipped_bits`. The FIFO holds what was accepted and not yet read at the far end.
    """

    __slots__ = (
        "_bits_to_error",
        "_chunks",
        "_fifo_octets",
        "_free_at_s",
        "_held_octets",
        "_latency_s",
        "_log_no_error",
        "_octet_s",
        "_random",
        "_received",
        "delivered_octets",
        "flipped_bits",
        "lost_octets",
        "overrun_octets",
        "tampers",
    )

    def __init__(self, octet_s: float, latency_s: float, fifo_octets: int, seed: str) -> None:
        self._octet_s = octet_s
        self._latency_s = latency_s
        self._fifo_octets = fifo_octets
        self._random = random.Random(seed)
        self._chunks: deque[tuple[float, bytes]] = deque()  # arrival of the first octet, octets
        self._received = bytearray()
        self._held_octets = 0
        self._free_at_s = 0.0  # when the transmitter has sent all that it holds
        self._log_no_error = 0.0
        self._bits_to_error = _NEVER
        self.delivered_octets = 0
        self.overrun_octets = 0  # refused because the FIFO was full
        self.lost_octets = 0  # arrived while the line was down
        self.flipped_bits = 0
        self.tampers: list[Callable[[bytes], bytes]] = []  # faults: what each makes of the octets that arrive

    @property
    def free_octets(self) -> int:
        """Octets that `send` would accept now."""
        return self._fifo_octets - self._held_octets

    def set_bit_error_rate(self, bit_error_rate: float) -> None:
        """Draw the distance to the next error anew: geometric, so memoryless at a change of rate."""
        if not 0.0 <= bit_error_rate <= 0.5:
            raise ValueError(f"bit error rate {bit_error_rate} outside 0..0.5")
        self._log_no_error = math.log1p(-bit_error_rate)
        self._bits_to_error = self._draw()

    def send(self, octets: bytes, now_s: float) -> int:
        """Queue what fits; return how many octets that is and count the rest as overrun."""
        accepted = min(len(octets), self._fifo_octets - self._held_octets)
        if accepted < len(octets):
            self.overrun_octets += len(octets) - accepted
            octets = octets[:accepted]
        if accepted:
            start_s = max(self._free_at_s, now_s)
            self._chunks.append((start_s + self._octet_s + self._latency_s, octets))
            self._free_at_s = start_s + accepted * self._octet_s
            self._held_octets += accepted
        return accepted

    def next_arrival_s(self) -> float:
        """When the next octet arrives; infinity where none is under way."""
        return self._chunks[0][0] if self._chunks else math.inf

    def advance(self, now_s: float, up: bool) -> None:
        """Let every octet arrive that is due by `now_s`."""
        chunks = self._chunks
        while chunks and chunks[0][0] <= now_s:
            first_s, octets = chunks.popleft()
            due = int((now_s - first_s) / self._octet_s + 1e-6) + 1
            if due < len(octets):
                chunks.appendleft((first_s + due * self._octet_s, octets[due:]))
                octets = octets[:due]
            if not up:
                self.lost_octets += len(octets)
                self._held_octets -= len(octets)
                continue
            self.delivered_octets += len(octets)
            bits = 8 * len(octets)
            if self._bits_to_error < bits:
                octets = self._corrupt(octets)
            elif self._log_no_error:
                self._bits_to_error -= bits
            for tamper in self.tampers:
                sent = len(octets)
                octets = tamper(octets)
                self._held_octets += len(octets) - sent
            self._received += octets

    def inject(self, octets: bytes) -> None:
        """Let octets arrive now that nobody sent."""
        self._held_octets += len(octets)
        self._received += octets

    def set_latency(self, latency_s: float) -> None:
        """Change the latency of what is sent from now on; octets never overtake each other."""
        self._free_at_s = max(self._free_at_s, self._free_at_s + self._latency_s - latency_s)
        self._latency_s = latency_s

    def take(self) -> bytes:
        """Read all octets that have arrived."""
        if not self._received:
            return b""
        octets = bytes(self._received)
        self._received.clear()
        self._held_octets -= len(octets)
        return octets

    def _corrupt(self, octets: bytes) -> bytes:
        damaged = bytearray(octets)
        bits = 8 * len(octets)
        at = self._bits_to_error
        while at < bits:
            damaged[at >> 3] ^= 0x80 >> (at & 7)
            self.flipped_bits += 1
            at += 1 + self._draw()
        self._bits_to_error = at - bits
        return bytes(damaged)

    def _draw(self) -> int:
        """Good bits before the next error, by inversion of the geometric distribution."""
        if not self._log_no_error:
            return _NEVER
        return int(math.log(1.0 - self._random.random()) / self._log_no_error)


class LineEnd:
    """One end of a virtual line; a `ByteStream`."""

    __slots__ = ("_incoming", "_line", "_outgoing")

    def __init__(self, line: VirtualLine, outgoing: Direction, incoming: Direction) -> None:
        self._line = line
        self._outgoing = outgoing
        self._incoming = incoming

    def read(self) -> bytes:
        """Take the octets that have arrived."""
        return self._incoming.take()

    @property
    def free_octets(self) -> int:
        """Octets that `write` would accept now."""
        return self._outgoing.free_octets

    def write(self, octets: bytes) -> int:
        """Start sending at the line's present time; return how many octets fitted."""
        return self._outgoing.send(octets, self._line.now_s)


class VirtualLine:
    """A full-duplex serial line in virtual time, with ends `a` and `b`.

    The FIFO of each direction is 64 KiB unless said, over five seconds of 115,200 baud: a 1 Hz loop that
    serves its port once a tick stands for one that serves it on readiness. Line state acts on octets as
    they arrive.
    """

    def __init__(
        self,
        baud: int,
        latency_s: float = 0.0,
        bit_error_rate: float = 0.0,
        seed: int = 0,
        fifo_octets: int = 65536,
    ) -> None:
        """Raise ValueError where a parameter is out of range."""
        if baud <= 0:
            raise ValueError(f"baud {baud} is not positive")
        if not 0.0 <= latency_s < math.inf:
            raise ValueError(f"latency {latency_s} s is not finite and positive")
        if fifo_octets <= 0:
            raise ValueError(f"FIFO of {fifo_octets} octets")
        octet_s = BITS_PER_OCTET / baud
        self.now_s = 0.0
        self.up = True
        self.a_to_b = Direction(octet_s, latency_s, fifo_octets, f"{seed}/a_to_b")
        self.b_to_a = Direction(octet_s, latency_s, fifo_octets, f"{seed}/b_to_a")
        self.set_bit_error_rate(bit_error_rate)
        self.a = LineEnd(self, self.a_to_b, self.b_to_a)
        self.b = LineEnd(self, self.b_to_a, self.a_to_b)

    def set_bit_error_rate(self, bit_error_rate: float) -> None:
        """Change the rate of both directions from now on."""
        self.a_to_b.set_bit_error_rate(bit_error_rate)
        self.b_to_a.set_bit_error_rate(bit_error_rate)

    def advance(self, now_s: float) -> None:
        """Move the line to `now_s`; raise ValueError where that is in its past."""
        if now_s < self.now_s:
            raise ValueError(f"line at {self.now_s} s cannot go back to {now_s} s")
        self.now_s = now_s
        self.a_to_b.advance(now_s, self.up)
        self.b_to_a.advance(now_s, self.up)

    def next_arrival_s(self) -> float:
        """When the next octet arrives at either end; infinity where none is under way."""
        return min(self.a_to_b.next_arrival_s(), self.b_to_a.next_arrival_s())


class PtyLine:
    """A serial line between two pseudo-terminals, pumped by one thread. Use it as a context manager.

    `port_a` and `port_b` are what programs open; `names` makes symlinks to them, for fixed port names. A
    sender meets back-pressure, as on a real port; octets that a receiver leaves too long are lost and
    counted as its direction's overrun. While octets are under way the pump wakes on an absolute grid of
    `step_s`, so that lateness of this machine never adds up; otherwise it sleeps until a port has data.

    Opening a port discards what waits on it, here as on hardware.
    """

    def __init__(
        self,
        baud: int,
        latency_s: float = 0.0,
        bit_error_rate: float = 0.0,
        seed: int = 0,
        rate: float = 1.0,
        names: tuple[Path, Path] | None = None,
        fifo_octets: int = 4096,
        step_s: float = 0.001,
    ) -> None:
        """Open both terminals and start the pump at `rate` times real time. Raises ValueError or OSError."""
        if not 0.0 < rate < math.inf:
            raise ValueError(f"rate {rate} is not positive")
        self.line = VirtualLine(baud, latency_s, bit_error_rate, seed, fifo_octets)
        self.fault: OSError | None = None  # why the pump stopped, if not on `close`
        self._rate = rate
        self._step_s = step_s
        self._descriptors: list[int] = []
        self._links: list[Path] = []
        try:
            self._master_a, self.port_a = self._open_pty()
            self._master_b, self.port_b = self._open_pty()
            self._wake_read, self._wake_write = os.pipe()
            self._descriptors += [self._wake_read, self._wake_write]
            for name, port in zip(names or (), (self.port_a, self.port_b), strict=False):
                name.unlink(missing_ok=True)
                name.symlink_to(port)
                self._links.append(name)
        except OSError:
            self._release()
            raise
        self._lock = threading.Lock()
        self._pump = threading.Thread(target=self._run, name="pty-line", daemon=True)
        self._pump.start()

    def set_up(self, up: bool) -> None:
        """Cut or restore the line; what arrives while it is cut is lost."""
        with self._lock:
            self.line.up = up

    def set_bit_error_rate(self, bit_error_rate: float) -> None:
        """Change the bit error rate of both directions."""
        with self._lock:
            self.line.set_bit_error_rate(bit_error_rate)

    def close(self) -> None:
        """Stop the pump and hang up both terminals, as pulling the adapter does."""
        if self._descriptors:
            os.write(self._wake_write, b"x")
            self._pump.join()
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_pty(self) -> tuple[int, str]:
        master, slave = os.openpty()
        # The slave stays open here too, else the master reads an error until somebody opens it.
        self._descriptors += [master, slave]
        tty.setraw(slave)
        os.set_blocking(master, False)
        return master, os.ttyname(slave)

    def _release(self) -> None:
        for name in self._links:
            name.unlink(missing_ok=True)
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._links.clear()
        self._descriptors.clear()

    def _run(self) -> None:
        line = self.line
        ways = (
            (self._master_a, line.a, line.a_to_b),
            (self._master_b, line.b, line.b_to_a),
        )
        origin_s = time.monotonic()
        elapsed_s = 0.0
        try:
            while True:
                with self._lock:
                    line.advance(elapsed_s * self._rate)
                    for master, end, outgoing in ways:
                        _from_pty(master, end, outgoing.free_octets)
                    for master, end, outgoing in ways:
                        arrived = end.read()
                        if arrived:
                            incoming = line.b_to_a if outgoing is line.a_to_b else line.a_to_b
                            incoming.overrun_octets += len(arrived) - _to_pty(master, arrived)
                    next_s = line.next_arrival_s() / self._rate
                if next_s < math.inf:
                    steps = math.ceil(max(next_s, elapsed_s) / self._step_s)
                    wait_s = max(0.0, origin_s + steps * self._step_s - time.monotonic())
                    ready = select.select([self._wake_read], [], [], wait_s)[0]
                else:
                    ready = select.select([self._wake_read, self._master_a, self._master_b], [], [])[0]
                if self._wake_read in ready:
                    return
                elapsed_s = time.monotonic() - origin_s
        except OSError as e:
            self.fault = e


def _from_pty(master: int, end: LineEnd, room_octets: int) -> None:
    if room_octets:
        try:
            end.write(os.read(master, min(room_octets, _PTY_CHUNK_OCTETS)))
        except BlockingIOError:
            return


def _to_pty(master: int, octets: bytes) -> int:
    try:
        return os.write(master, octets)
    except BlockingIOError:
        return 0

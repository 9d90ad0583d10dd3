"""The serial port: octets in, octets out, and never a wait.

Owns the one use of pyserial. The composition roots of the flight program and the ground station open it;
the loop reads and writes it through `ByteStream`, which the rig's virtual line satisfies as well. Once
open, trouble is a value: a pulled adapter reads as no octets and sets `fault`; `reconnect` tries again.

Two traps are kept out. Reading octet by octet is slower than a 921,600 baud line, so a read takes all that
waits. With a write timeout of zero, pyserial 3.5 spins for ever on a full transmit buffer, so writes go to
the descriptor, which is non-blocking, and what does not fit waits in a bounded backlog.
"""

from __future__ import annotations

import errno
import os
import termios
from types import TracebackType
from typing import Protocol, Self

import serial

from flightsw.errors import BoardError


class ByteStream(Protocol):
    """A full-duplex octet stream that never blocks and never raises while in use."""

    def read(self) -> bytes:
        """Take all octets received since the last call; empty where there are none."""

    def write(self, octets: bytes, /) -> int:
        """Send `octets`; return how many were accepted. The rest is lost, and counted by the stream."""


class SerialPort:
    """An exclusively locked 8N1 port. Its descriptor suits `select` while `fault` is None."""

    def __init__(self, path: str, baud: int, backlog_octets: int | None = None, retry_s: float = 1.0) -> None:
        """Open the port; raise BoardError with port, baud and the system's reason where that fails.

        `backlog_octets` bounds what waits to be sent; by default two seconds of the line, at least 16 KiB.
        """
        self.path = path
        self.baud = baud
        self.fault: str | None = None  # why the port is down; None while it is up
        self.overrun_octets = 0  # offered to `write` and lost: backlog full, or port down
        self.disconnects = 0
        self._backlog = bytearray()
        self._backlog_limit_octets = max(16384, baud // 5) if backlog_octets is None else backlog_octets
        self._retry_s = retry_s
        self._retry_at_s = 0.0
        self._port = self._open()

    def _open(self) -> serial.Serial:
        try:
            return serial.Serial(self.path, self.baud, timeout=0, exclusive=True)
        except (OSError, ValueError, termios.error) as e:
            raise BoardError(f"serial port {self.path} at {self.baud} baud: {_reason(e)}") from e

    def read(self) -> bytes:
        """Take all octets that wait, and send what the backlog holds; empty while the port is down."""
        if self.fault is not None:
            return b""
        try:
            self._drain()
            waiting = self._port.in_waiting
            return self._port.read(waiting) if waiting else b""
        except (OSError, termios.error) as e:
            self._lose(e)
            return b""

    def write(self, octets: bytes) -> int:
        """Send `octets` whole or, where the backlog is full or the port down, not at all; return 0 then."""
        if self.fault is not None or len(self._backlog) + len(octets) > self._backlog_limit_octets:
            self.overrun_octets += len(octets)
            return 0
        self._backlog += octets
        try:
            self._drain()
        except (OSError, termios.error) as e:
            self._lose(e)
            return 0
        return len(octets)

    @property
    def backlog_octets(self) -> int:
        """Octets accepted and not yet taken by the operating system."""
        return len(self._backlog)

    def fileno(self) -> int:
        """The descriptor to wait on, -1 while the port is down."""
        return self._port.fileno() if self.fault is None else -1

    def reconnect(self, now_s: float) -> bool:
        """Reopen a port that is down, at most every `retry_s`; return whether it is up. Never raises."""
        if self.fault is None:
            return True
        if now_s < self._retry_at_s:
            return False
        self._retry_at_s = now_s + self._retry_s
        try:
            self._port = self._open()
        except BoardError as e:
            self.fault = str(e)
            return False
        self.fault = None
        return True

    def close(self) -> None:
        """Close the port for good; octets still in the backlog are dropped."""
        self._port.close()
        self.fault = self.fault or f"serial port {self.path} is closed"
        self._retry_at_s = float("inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _drain(self) -> None:
        while self._backlog:
            try:
                del self._backlog[: os.write(self._port.fileno(), self._backlog)]
            except BlockingIOError:
                return

    def _lose(self, error: Exception) -> None:
        self.fault = f"serial port {self.path} at {self.baud} baud: {_reason(error)}"
        self.disconnects += 1
        self.overrun_octets += len(self._backlog)
        self._backlog.clear()
        self._port.close()


_PLAINLY = {
    errno.EAGAIN: "in use by another program",
    errno.EBUSY: "in use by another program",
    errno.ENOENT: "no such port; is the adapter plugged in?",
    errno.ENODEV: "no such port; is the adapter plugged in?",
    errno.ENXIO: "no such port; is the adapter plugged in?",
    errno.EIO: "lost; was the adapter pulled?",
    errno.EACCES: "not permitted; is this user in the port's group?",
}
"""What a number of the operating system means for a port."""


def _reason(error: Exception) -> str:
    """What the operating system's number means, else its words; pyserial's where it gave none."""
    code = getattr(error, "errno", None)
    return _PLAINLY.get(code) or os.strerror(code) if code else str(error)

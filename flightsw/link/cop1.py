"""COP-1, the service that delivers telecommands complete and in order: FARM-1 on board, FOP-1 on the ground.

Source: 232.1-B-2. The satellite's `Farm` says which frames of type AD come next and tells the ground in the CLCW; the
ground's `Fop` keeps what it sent until it is acknowledged, sends it again when it was lost, and asks for the window to
be opened again after a lockout. Frames of type BD pass both by, always. `Farm` is asked only about frames that are
authentic; `Fop` hands over contents, not frames, so that a frame that goes out again is sealed again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum

from flightsw.link.frames import Clcw
from flightsw.link.tc_frames import TcKind

WINDOW = 64
"""Sliding window of the receiver, half of it behind (232.1-B-2, section 5: W, PW, NW)."""

UNLOCK = bytes(1)
_SET_VR = bytes((0x82, 0x00))


def set_vr(value: int) -> bytes:
    """Data of the control command that sets the number expected next."""
    return _SET_VR + bytes((value & 0xFF,))


class Farm:
    """FARM-1: which AD frame is next, and the flags of the CLCW."""

    def __init__(self) -> None:
        self.expected = 0  # V(R)
        self.lockout = False
        self.wait = False
        self.retransmit = False
        self.b_count = 0  # accepted frames of types BD and BC, modulo 4

    def take(self, sequence: int, *, has_room: bool) -> bool:
        """Tell whether the AD frame of this number is accepted (events E1 to E5)."""
        if self.lockout:
            return False
        ahead = (sequence - self.expected) & 0xFF
        if ahead == 0:
            self.retransmit = self.wait = not has_room
            if has_room:
                self.expected = (self.expected + 1) & 0xFF
            return has_room
        if ahead < WINDOW // 2:
            self.retransmit = True
        elif ahead < 256 - WINDOW // 2:
            self.lockout = True
        return False

    def bypass(self) -> None:
        """Count a BD frame (E6)."""
        self.b_count = (self.b_count + 1) & 3

    def control(self, data: bytes) -> bool:
        """Obey a BC frame (E7, E8); False where it is no control command."""
        if data == UNLOCK:
            self.lockout = self.wait = self.retransmit = False
        elif len(data) == 3 and data[:2] == _SET_VR:
            if not self.lockout:
                self.wait = self.retransmit = False
                self.expected = data[2]
        else:
            return False
        self.bypass()
        return True

    def release(self) -> None:
        """Say that there is room again (E10)."""
        self.wait = False

    def clcw(self) -> Clcw:
        """Build what every TM frame reports of it."""
        return Clcw(lockout=self.lockout, wait=self.wait, retransmit=self.retransmit, farm_b_count=self.b_count,
                    report_value=self.expected)


class FopState(Enum):
    """States of FOP-1: S1, S2, S3, S5, S6. S4, which waits for the next CLCW, is left out: see `Fop.start`."""

    ACTIVE = "active"
    RETRANSMIT = "retransmitting"
    WAIT = "waiting for room"
    UNLOCKING = "unlocking"
    INITIAL = "not started"


class Fop:
    """FOP-1. `transmit(kind, sequence, data)` puts one frame on the line; times are the caller's.

    `start` synchronises with what the satellite expects, out of a lockout if need be. After an `alert` nothing is sent
    in sequence until `start` is called again; what waited is dropped, for nobody knows how far it got.
    """

    def __init__(self, transmit: Callable[[TcKind, int, bytes], object], *, window: int = WINDOW // 4,
                 timeout_s: float = 5.0, limit: int = 5) -> None:
        self.state = FopState.INITIAL
        self.alert = ""  # why the service ended; empty while it has not
        self.acknowledged = 0
        self.retransmitted = 0
        self._transmit = transmit
        self._window = window
        self._timeout_s = timeout_s
        self._limit = limit
        self._waiting: deque[bytes] = deque()
        self._sent: deque[bytes] = deque()  # not acknowledged yet, the oldest first
        self._next = 0  # V(S)
        self._tries = 1
        self._expires_s: float | None = None

    @property
    def is_idle(self) -> bool:
        """True when nothing waits to be sent or acknowledged."""
        return not self._waiting and not self._sent

    def start(self, now_s: float) -> None:
        """Begin the service (directive "initiate with unlock"): the answer to it is a CLCW, said at once.

        A satellite that has nothing to report says none for a while, so waiting for one would take that long.
        """
        self.state, self.alert, self._tries = FopState.UNLOCKING, "", 0
        self._sent.clear()
        self._unlock(now_s)

    def send(self, data: bytes, now_s: float) -> None:
        """Queue one packet; it goes out when the window is open."""
        if self.state is FopState.INITIAL:
            self.start(now_s)
        self._waiting.append(data)
        self._send_waiting(now_s)

    def hear(self, clcw: Clcw, now_s: float) -> None:
        """Take the CLCW of a received frame."""
        if self.state is FopState.INITIAL:
            return
        if self.state is FopState.UNLOCKING:
            self._synchronise(clcw, now_s)
            return
        if clcw.lockout:
            self._end("the satellite's receiver is locked")
            return
        accepted = (clcw.report_value - self._oldest) & 0xFF
        if accepted > len(self._sent):
            self._end(f"the satellite expects frame {clcw.report_value}, never sent")
            return
        for _ in range(accepted):
            self._sent.popleft()
        self.acknowledged += accepted
        if accepted:
            self._tries = 1
            self._expires_s = now_s + self._timeout_s if self._sent else None
        if not self._sent:
            self._expires_s = None
        if clcw.wait:
            self.state = FopState.WAIT
        elif not clcw.retransmit:
            self.state = FopState.ACTIVE
        elif accepted or self.state is not FopState.RETRANSMIT:
            self.state = FopState.RETRANSMIT
            self._send_again(now_s)
        self._send_waiting(now_s)

    def tick(self, now_s: float) -> None:
        """Look at the timer (E16, E17, E18)."""
        if self._expires_s is None or now_s < self._expires_s:
            return
        if self._tries >= self._limit:
            self._end(f"no acknowledgement after {self._limit} transmissions")
        elif self.state is FopState.UNLOCKING:
            self._unlock(now_s)
        elif self.state is FopState.WAIT:
            self._tries += 1
            self._expires_s = now_s + self._timeout_s
        else:
            self._send_again(now_s)

    @property
    def _oldest(self) -> int:
        """Number of the oldest frame that is not acknowledged: NN(R)."""
        return (self._next - len(self._sent)) & 0xFF

    def _synchronise(self, clcw: Clcw, now_s: float) -> None:
        if clcw.lockout or clcw.wait:
            return
        self.state, self._tries, self._expires_s = FopState.ACTIVE, 1, None
        self._next = clcw.report_value
        self._send_waiting(now_s)

    def _unlock(self, now_s: float) -> None:
        self._tries += 1
        self._expires_s = now_s + self._timeout_s
        self._transmit(TcKind.BC, 0, UNLOCK)

    def _send_waiting(self, now_s: float) -> None:
        while (self.state in (FopState.ACTIVE, FopState.RETRANSMIT) and self._waiting
               and len(self._sent) < self._window):
            data = self._waiting.popleft()
            self._transmit(TcKind.AD, self._next, data)
            self._sent.append(data)
            self._next = (self._next + 1) & 0xFF
            self._expires_s = now_s + self._timeout_s

    def _send_again(self, now_s: float) -> None:
        if self._tries >= self._limit:
            self._end(f"no acknowledgement after {self._limit} transmissions")
            return
        self._tries += 1
        self._expires_s = now_s + self._timeout_s
        oldest = self._oldest
        self.retransmitted += len(self._sent)
        for number, data in enumerate(self._sent):
            self._transmit(TcKind.AD, (oldest + number) & 0xFF, data)

    def _end(self, why: str) -> None:
        self.state, self.alert, self._expires_s = FopState.INITIAL, why, None
        self._sent.clear()
        self._waiting.clear()

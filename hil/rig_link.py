"""The plant's end of the rig line: sensors down to the board, actuators back.

Used by `hil serial` on a pseudo-terminal and fit for a real adapter. The messages are `flightsw.board.rig`'s. Never
paces and never waits: the bench sends sensors when its own clock says so, whatever the board does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from flightsw.board.rig import (
    Actuators,
    FrameCutter,
    Kind,
    check_hello,
    decode_actuators,
    decode_echo,
    encode_hello,
    encode_sensors,
    encode_sync,
)
from flightsw.errors import LinkError
from flightsw.link.serial_port import ByteStream
from flightsw.state import RawReading
from hil.sysfs_tree import SysfsTree
from hil.timekeeping import ClockSync, Echo, Punctuality


class PlantLink:
    """One plant's end; `actuators` is the board's latest word, None before the first.

    `ticks` has how late the board's ticks began, `clock` what its clock is like beside ours.
    """

    def __init__(self, port: ByteStream, period_s: float = 1.0, rate: float = 1.0,
                 tree: SysfsTree | None = None) -> None:
        self.ticks = Punctuality(period_s, rate)
        self.clock = ClockSync(rate)
        self.overruns = 0  # periods that the board left out, over all its starts
        self._overruns_now = 0
        self._tree = tree  # where the readings are served as files as well
        self.actuators: Actuators | None = None
        self.heard_s = -math.inf
        self.greetings = 0  # HELLOs heard: one or more for each start of a board
        self.refused = ""  # why the board's HELLO was not accepted
        self.bad_messages = 0
        self._port = port
        self._cutter = FrameCutter()
        self._sequence = 0

    @property
    def bad_frames(self) -> int:
        """Frames and messages that were not valid."""
        return self._cutter.bad_frames + self.bad_messages

    def poll(self, now_s: float) -> None:
        """Take what the board sent and answer its greeting."""
        for kind, payload in self._cutter.push(self._port.read()):
            try:
                if kind == Kind.ACTUATORS:
                    self._take_actuators(decode_actuators(payload))
                    self.heard_s = now_s
                elif kind == Kind.ECHO:
                    echo = decode_echo(payload)
                    self.clock.add(Echo(echo.sent_s, now_s, echo.board_s))
                elif kind == Kind.HELLO:
                    check_hello(payload)
                    self.greetings += 1
                    self._port.write(encode_hello())
                else:
                    raise LinkError(f"message of kind {kind:#x} is not for a plant")  # noqa: TRY301 # counted below
            except LinkError as error:
                self.bad_messages += 1
                self.refused = str(error)

    def sync(self, now_s: float) -> None:
        """Ask for the board's clock."""
        self._sequence += 1
        self._port.write(encode_sync(self._sequence, now_s))

    def _take_actuators(self, actuators: Actuators) -> None:
        self.actuators = actuators
        self.ticks.add(actuators.late_s)
        before = self._overruns_now if actuators.overruns >= self._overruns_now else 0  # a new start counts from 0
        self.overruns += actuators.overruns - before
        self._overruns_now = actuators.overruns

    def send_sensors(self, t_s: float, readings: Sequence[RawReading | None]) -> None:
        """Send what the plant's sensors read at `t_s`."""
        if self._tree is not None:
            self._tree.write(readings)
        self._sequence += 1
        self._port.write(encode_sensors(self._sequence, t_s, readings))

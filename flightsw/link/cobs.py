"""Consistent overhead byte stuffing for a bench: units of any length between zero octets, each with a CRC-16.

For a cable between two machines, and for ground software that knows no transfer frames. On a line without coding it
loses fewer packets than frames do, for an error costs one packet; it has no virtual channels, no CLCW and nothing
that a Reed-Solomon code could work on. `stack.py` puts it where transfer frames would be.

The stuffing is written here and not taken from a library: `bytes.split` does the work at the speed of C in fewer
lines than an adapter, and the one library at hand would need a compiler on every board. It is the oracle of the tests.

Source: Cheshire and Baker, Consistent Overhead Byte Stuffing, IEEE/ACM Transactions on Networking 7 (2), 1999.
"""

from __future__ import annotations

from collections.abc import Callable

from flightsw.link.frames import PacketQueues
from flightsw.link.packets import PACKET_OCTETS_MAX, crc16

_RUN_MAX = 254
STUFFED_FRAC = _RUN_MAX / (_RUN_MAX + 1)  # of the octets on the line, those that were to be sent
_CRC_OCTETS = 2
_UNIT_OCTETS_MAX = PACKET_OCTETS_MAX + _CRC_OCTETS
_STUFFED_OCTETS_MAX = _UNIT_OCTETS_MAX + _UNIT_OCTETS_MAX // _RUN_MAX + 2


def stuff(octets: bytes) -> bytes:
    """Replace zero octets by the distance to the next one; the result has none and is 1 in 254 longer."""
    stuffed = bytearray()
    for run in octets.split(b"\0"):
        while len(run) >= _RUN_MAX:
            stuffed.append(_RUN_MAX + 1)
            stuffed += run[:_RUN_MAX]
            run = run[_RUN_MAX:]  # noqa: PLW2901 # the rest of the same run
        stuffed.append(len(run) + 1)
        stuffed += run
    return bytes(stuffed)


def unstuff(stuffed: bytes) -> bytes | None:
    """Undo `stuff`; None where `stuffed` ends inside a run."""
    octets = bytearray()
    at, end = 0, len(stuffed)
    while at < end:
        distance = stuffed[at]
        octets += stuffed[at + 1 : at + distance]
        at += distance
        if distance <= _RUN_MAX and at < end:
            octets.append(0)
    return bytes(octets) if at == end else None


def encode_unit(unit: bytes) -> bytes:
    """Put a unit that ends in its own CRC-16 on the line, between zeros: noise before it is shut off."""
    return b"\0" + stuff(unit) + b"\0"


class UnitDecoder:
    """Cut a stream of octets into units whose CRC-16 closes. What does not close is counted, never raised."""

    __slots__ = ("_buffer", "_overlong", "bad_units", "skipped_octets", "units")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._overlong = False  # what is in the buffer is the end of something longer than any unit
        self.units = 0
        self.bad_units = 0
        self.skipped_octets = 0  # octets of bad units

    def push(self, octets: bytes) -> list[bytes]:
        """Take received octets; return the units ended by them, CRC included."""
        *ended, rest = octets.split(b"\0")
        units: list[bytes] = []
        for piece in ended:
            self._buffer += piece
            if self._buffer:
                self._end(units)
        self._buffer += rest
        if len(self._buffer) > _STUFFED_OCTETS_MAX:
            self.skipped_octets += len(self._buffer)
            self._buffer.clear()
            self._overlong = True
        return units

    def _end(self, units: list[bytes]) -> None:
        unit = None if self._overlong else unstuff(bytes(self._buffer))
        if unit is not None and len(unit) > _CRC_OCTETS and crc16(unit) == 0:
            units.append(unit)
            self.units += 1
        else:
            self.bad_units += 1
            self.skipped_octets += len(self._buffer)
        self._buffer.clear()
        self._overlong = False


class UnitSender(PacketQueues):
    """The satellite's end: queued packets, one after another, each in its own unit."""

    unit_octets = 1  # any octet may wait for the next turn

    def __init__(self, queue_octets: dict[int, int]) -> None:
        """Raise LinkError where a channel or a bound is out of range."""
        super().__init__(queue_octets)
        self._begun = bytearray()  # of the unit on the line

    def set_ocf(self, *_words: int) -> None:
        """Drop them: there is no field for them."""

    def say_ocf(self) -> None:
        """Do nothing, for the same reason."""

    def take(self, budget_octets: int) -> bytes:
        """Return what goes on the line now, at most `budget_octets`."""
        begun = self._begun
        while len(begun) < budget_octets and (channel := self._next_channel()) is not None:
            packet = channel.queue.popleft()
            channel.queued_octets -= len(packet)
            begun += encode_unit(packet + crc16(packet).to_bytes(_CRC_OCTETS, "big"))
        octets = bytes(begun[:budget_octets])
        del begun[:budget_octets]
        return octets


class UnitReceiver:
    """The ground's end: packets from units."""

    lost_frames = 0
    unsealed_frames = 0
    corrected_octets = 0

    def __init__(self) -> None:
        self.on_frame: Callable[[bytes], object] | None = None  # never called: there are no frames
        self._decoder = UnitDecoder()

    def push(self, octets: bytes) -> list[bytes]:
        """Take received octets; return the packets completed by them."""
        return [unit[:-_CRC_OCTETS] for unit in self._decoder.push(octets)]

    def take_control_words(self) -> list[int]:
        """Return none: units have no control field."""
        return []

    @property
    def heard_frames(self) -> int:
        """Units that closed."""
        return self._decoder.units

    @property
    def bad_frames(self) -> int:
        """Units that did not close."""
        return self._decoder.bad_units

    @property
    def skipped_octets(self) -> int:
        """Octets of units that did not close."""
        return self._decoder.skipped_octets

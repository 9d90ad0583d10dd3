"""TM transfer frames: packets of several priorities in frames of one length.

Owns TM transfer frames (132.0-B-3) with virtual channels, first header pointer, counters, operational
control field and frame error control, and the CLCW (232.0-B-4, section 4.2). The flight side frames packets,
the ground side the reverse; `coding.py` is below, `packets.py` above, `tc_frames.py` beside. It does not know the
line's rate: the caller passes the number of frames it may send. Nothing blocks, nothing grows without bound, and
received octets never raise in `TmDeframer`.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from flightsw.errors import LinkError
from flightsw.link.packets import IDLE_APID, IDLE_PACKET_OCTETS_MIN, PRIMARY_OCTETS, crc16, idle_packet

VC_REPORTS = 0  # verification and events
VC_HOUSEKEEPING = 1
VC_FILES = 2
VC_IDLE = 7

TM_FRAME_OCTETS = 223
SCID_MAX = 0x3FF

_TM_HEADER = struct.Struct(">HBBH")
_TM_HEADER_OCTETS = 6
_OCF_OCTETS = 4
_FECF_OCTETS = 2
TM_FRAME_OVERHEAD_OCTETS = _TM_HEADER_OCTETS + _OCF_OCTETS + _FECF_OCTETS
_NO_SECONDARY_HEADER = 0x1800  # data field status: packets, forward order, segment length 3
_FHP_NONE = 0x7FF  # no packet starts in this frame
_FHP_IDLE = 0x7FE  # only idle data in this frame


class Clcw(NamedTuple):
    """Communications link control word: what the spacecraft says of the uplink, in every TM frame.

    `farm_b_count` counts accepted BD frames, modulo 4. The flags and `report_value` belong to COP-1.
    """

    vcid: int = 0
    no_rf_available: bool = False
    no_bit_lock: bool = False
    lockout: bool = False
    wait: bool = False
    retransmit: bool = False
    farm_b_count: int = 0
    report_value: int = 0

    def pack(self) -> int:
        """Build the 32-bit word: type 0, version 0, COP-1 in effect. Counters are taken modulo their width."""
        return (
            0x01000000
            | (self.vcid & 0x3F) << 18
            | self.no_rf_available << 15
            | self.no_bit_lock << 14
            | self.lockout << 13
            | self.wait << 12
            | self.retransmit << 11
            | (self.farm_b_count & 3) << 9
            | self.report_value & 0xFF
        )

    @classmethod
    def unpack(cls, word: int) -> Clcw:
        """Read a 32-bit operational control field. Raises LinkError where it is not a CLCW."""
        if word >> 31 & 1 or word >> 29 & 3:
            raise LinkError(f"operational control field {word:#010x} is not a version-1 CLCW")
        return cls(
            vcid=word >> 18 & 0x3F,
            no_rf_available=bool(word >> 15 & 1),
            no_bit_lock=bool(word >> 14 & 1),
            lockout=bool(word >> 13 & 1),
            wait=bool(word >> 12 & 1),
            retransmit=bool(word >> 11 & 1),
            farm_b_count=word >> 9 & 3,
            report_value=word & 0xFF,
        )


class _Channel:
    """Packets waiting on one virtual channel, and the rest of the one that a frame boundary cut."""

    __slots__ = (
        "counter",
        "dropped_packets",
        "header_bits",
        "limit_octets",
        "passed_over",
        "queue",
        "queued_octets",
        "rest",
        "rest_is_idle",
    )

    def __init__(self, limit_octets: int) -> None:
        self.header_bits = 0  # of a frame's first two octets
        self.limit_octets = limit_octets
        self.queue: deque[bytes] = deque()
        self.queued_octets = 0
        self.rest = b""
        self.rest_is_idle = False
        self.counter = 0
        self.dropped_packets = 0
        self.passed_over = 0  # turns that other channels had while this one waited

    @property
    def waits(self) -> bool:
        return bool(self.queue) or (bool(self.rest) and not self.rest_is_idle)


class PacketQueues:
    """Packets waiting on virtual channels: the most urgent channel goes first, and none waits for ever.

    `queue_octets` maps each virtual channel to its bound, in order of priority. A packet that does not fit
    pushes out the oldest ones of its own channel, which are counted. A channel that others were preferred to
    `PASSED_OVER_MAX` times in a row has the next turn, so each that waits has at least one in sixteen.
    """

    PASSED_OVER_MAX = 15

    def __init__(self, queue_octets: dict[int, int]) -> None:
        """Raise LinkError where a channel or a bound is out of range."""
        self._channels: dict[int, _Channel] = {}
        for vcid, limit_octets in queue_octets.items():
            if not 0 <= vcid < VC_IDLE:
                raise LinkError(f"TM framer: virtual channel {vcid} outside 0..{VC_IDLE - 1}")
            if limit_octets <= 0:
                raise LinkError(f"TM framer: queue of virtual channel {vcid} holds {limit_octets} octets")
            self._channels[vcid] = _Channel(limit_octets)
        self._by_priority = tuple(self._channels.values())

    def submit(self, vcid: int, packet: bytes) -> bool:
        """Queue one space packet; return False, counted, where it alone exceeds the channel's bound.

        Raises LinkError where the channel was not given.
        """
        channel = self._channels.get(vcid)
        if channel is None:
            raise LinkError(f"TM framer: no virtual channel {vcid}, has {sorted(self._channels)}")
        octets = len(packet)
        if octets > channel.limit_octets:
            channel.dropped_packets += 1
            return False
        channel.queued_octets += octets
        while channel.queued_octets > channel.limit_octets:
            channel.queued_octets -= len(channel.queue.popleft())
            channel.dropped_packets += 1
        channel.queue.append(packet)
        return True

    def queued_octets(self, vcid: int) -> int:
        """Octets of whole packets waiting on a channel."""
        return self._channels[vcid].queued_octets

    def dropped_packets(self, vcid: int) -> int:
        """Packets of a channel that were pushed out or refused since start."""
        return self._channels[vcid].dropped_packets

    def _next_channel(self) -> _Channel | None:
        """Give the next turn to the channel whose it is; None where none waits."""
        waiting = [channel for channel in self._by_priority if channel.waits]
        if not waiting:
            return None
        chosen = waiting[0]
        if len(waiting) > 1:
            for channel in reversed(waiting):
                if channel.passed_over >= self.PASSED_OVER_MAX:
                    chosen = channel
                channel.passed_over += 1
        chosen.passed_over = 0
        return chosen


def close_frame(body: bytes) -> bytes:
    """Add the frame error control field to a frame that lacks it."""
    return body + crc16(body).to_bytes(_FECF_OCTETS, "big")


class TmFramer(PacketQueues):
    """Cut queued packets into TM frames of one length.

    A packet that is partly sent is always finished. A frame that packets do not fill is closed with an idle
    packet, so nothing waits for company. `close` makes of a frame without its error control field what is
    handed out: by default the whole frame, in a `Stack` what goes on the line. It may add `seal_octets`.
    """

    def __init__(
        self,
        scid: int,
        queue_octets: dict[int, int],
        frame_octets: int = TM_FRAME_OCTETS,
        ocf: bool = True,
        close: Callable[[bytes], bytes] = close_frame,
        seal_octets: int = 0,
    ) -> None:
        """Raise LinkError where the identifier, a channel, a bound or the length is out of range."""
        super().__init__(queue_octets)
        if not 0 <= scid <= SCID_MAX:
            raise LinkError(f"TM framer: spacecraft id {scid} outside 0..{SCID_MAX}")
        overhead = _TM_HEADER_OCTETS + _FECF_OCTETS + (_OCF_OCTETS if ocf else 0) + seal_octets
        if not overhead + IDLE_PACKET_OCTETS_MIN <= frame_octets <= 2048:
            raise LinkError(
                f"TM framer: frame of {frame_octets} octets outside "
                f"{overhead + IDLE_PACKET_OCTETS_MIN}..2048 octets"
            )
        self.frame_octets = frame_octets
        self.data_octets = frame_octets - overhead
        self.frames_sent = 0
        self._ocf = ocf
        self._close_frame = close
        self._ocf_words: tuple[bytes, ...] = (struct.pack(">I", Clcw().pack()),)
        self._master_counter = 0
        self._idle_channel = _Channel(0)
        for vcid, channel in {**self._channels, VC_IDLE: self._idle_channel}.items():
            channel.header_bits = scid << 4 | vcid << 1 | int(ocf)
        self._fill = tuple(
            idle_packet(max(room, IDLE_PACKET_OCTETS_MIN)) for room in range(self.data_octets + 1)
        )
        self._idle_data = b"\x55" * self.data_octets

    def set_ocf(self, *words: int) -> None:
        """Send these 32-bit words in turn, one a frame, from now on: a CLCW and a frame security report."""
        self._ocf_words = tuple([struct.pack(">I", word) for word in words])

    def next_frame(self) -> bytes | None:
        """Build the next frame of the channel whose turn it is; None where none has packets."""
        channel = self._next_channel()
        return None if channel is None else self._data_frame(channel)

    def frames(self, count: int) -> list[bytes]:
        """Build up to `count` frames; fewer where the queues are empty before."""
        frames: list[bytes] = []
        while len(frames) < count and (channel := self._next_channel()) is not None:
            frames.append(self._data_frame(channel))
        return frames

    def idle_frame(self) -> bytes:
        """Build an only-idle-data frame on VC7: it carries nothing but the CLCW."""
        return self._close(self._idle_channel, _FHP_IDLE, self._idle_data)

    def _data_frame(self, channel: _Channel) -> bytes:
        room = self.data_octets
        rest = channel.rest
        parts = [rest[:room]]
        channel.rest = rest[room:]
        room -= len(parts[0])
        first_header = self.data_octets - room if room else _FHP_NONE
        queue = channel.queue
        while room and queue:
            packet = queue.popleft()
            octets = len(packet)
            channel.queued_octets -= octets
            if octets <= room:
                parts.append(packet)
                room -= octets
            else:
                parts.append(packet[:room])
                channel.rest = packet[room:]
                channel.rest_is_idle = False
                room = 0
        if room:
            fill = self._fill[room]
            parts.append(fill[:room])
            channel.rest = fill[room:]
            channel.rest_is_idle = True
        return self._close(channel, first_header, b"".join(parts))

    def _close(self, channel: _Channel, first_header: int, data: bytes) -> bytes:
        body = (
            _TM_HEADER.pack(
                channel.header_bits, self._master_counter, channel.counter, _NO_SECONDARY_HEADER | first_header
            )
            + data
        )
        if self._ocf:
            body += self._ocf_words[self.frames_sent % len(self._ocf_words)]
        self._master_counter = (self._master_counter + 1) & 0xFF
        channel.counter = (channel.counter + 1) & 0xFF
        self.frames_sent += 1
        return self._close_frame(body)


class _ReceivingChannel:
    """The next expected counter and the packet in progress of one virtual channel."""

    __slots__ = ("next_counter", "partial")

    def __init__(self, next_counter: int) -> None:
        self.next_counter = next_counter
        self.partial: bytearray | None = None  # None until a packet start is known


class TmDeframer:
    """Put packets together again from TM frames of one spacecraft. Garbage is counted, never raised.

    Frames lost are told from the counters, modulo 256 for each gap, so an outage longer than 256 frames
    is undercounted. A packet that a lost frame cut is dropped, never patched.
    """

    def __init__(self, scid: int, frame_octets: int = TM_FRAME_OCTETS) -> None:
        self._scid = scid
        self._frame_octets = frame_octets
        self._channels: dict[int, _ReceivingChannel] = {}
        self._next_master: int | None = None
        self.ocf: int | None = None  # operational control field of the last frame that had one
        self.frames = 0
        self.idle_frames = 0
        self.bad_frames = 0  # wrong length, error control, version or inner structure
        self.foreign_frames = 0  # another spacecraft's
        self.lost_frames = 0  # by the master channel counter
        self.lost_frames_by_vc: dict[int, int] = {}
        self.broken_packets = 0  # begun and never finished, or not ending where the next one starts

    def push(self, frame: bytes) -> list[tuple[int, bytes]]:
        """Take one frame; return what it completes as (virtual channel, packet), idle packets left out."""
        if len(frame) != self._frame_octets or crc16(frame):
            self.bad_frames += 1
            return []
        return self.push_checked(frame)

    def push_checked(self, frame: bytes) -> list[tuple[int, bytes]]:
        """Do the same with a frame whose length and error control were found right already."""
        identity, master, counter, status = _TM_HEADER.unpack_from(frame)
        if identity >> 14 or status >> 11 != _NO_SECONDARY_HEADER >> 11:
            self.bad_frames += 1
            return []
        if identity >> 4 != self._scid:
            self.foreign_frames += 1
            return []
        self.frames += 1
        if self._next_master is not None:
            self.lost_frames += (master - self._next_master) & 0xFF
        self._next_master = (master + 1) & 0xFF
        end = self._frame_octets - _FECF_OCTETS
        if identity & 1:
            end -= _OCF_OCTETS
            self.ocf = int.from_bytes(frame[end : end + _OCF_OCTETS], "big")

        vcid = identity >> 1 & 7
        channel = self._channels.get(vcid)
        if channel is None:
            channel = self._channels[vcid] = _ReceivingChannel(counter)
            self.lost_frames_by_vc[vcid] = 0
        elif counter != channel.next_counter:
            self.lost_frames_by_vc[vcid] += (counter - channel.next_counter) & 0xFF
            self._abandon(channel)
        channel.next_counter = (counter + 1) & 0xFF
        first_header = status & 0x7FF
        if first_header == _FHP_IDLE:
            self.idle_frames += 1
            return []
        packets = self._packets(channel, frame[_TM_HEADER_OCTETS:end], first_header)
        return [(vcid, packet) for packet in packets]

    def _packets(self, channel: _ReceivingChannel, data: bytes, first_header: int) -> list[bytes]:
        octets = len(data)
        if first_header == _FHP_NONE:
            return self._continue(channel, data)
        if first_header >= octets:
            self.bad_frames += 1
            self._abandon(channel)
            return []
        packets = self._continue(channel, data[:first_header])
        self._abandon(channel)
        at = first_header
        while octets - at >= PRIMARY_OCTETS:
            if data[at] >> 5:  # not a space packet: wait for the next frame that starts one
                self.broken_packets += 1
                return packets
            after = at + (data[at + 4] << 8 | data[at + 5]) + 7
            if after > octets:
                break
            if (data[at] << 8 | data[at + 1]) & 0x7FF != IDLE_APID:
                packets.append(data[at:after])
            at = after
        channel.partial = bytearray(data[at:])
        return packets

    def _continue(self, channel: _ReceivingChannel, data: bytes) -> list[bytes]:
        """Add to the packet begun in earlier frames; return it where that makes it whole."""
        partial = channel.partial
        if partial is None:
            return []
        partial += data
        if len(partial) < PRIMARY_OCTETS:
            return []
        stated = (partial[4] << 8 | partial[5]) + 7
        if stated > len(partial):
            return []
        if stated < len(partial):
            self._abandon(channel)
            return []
        channel.partial = bytearray()
        return [] if (partial[0] << 8 | partial[1]) & 0x7FF == IDLE_APID else [bytes(partial)]

    def _abandon(self, channel: _ReceivingChannel) -> None:
        if channel.partial:
            self.broken_packets += 1
        channel.partial = None

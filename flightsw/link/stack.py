"""The stack that a mission chose: packets to octets on the serial line and back, and commands the other way.

Satellite, station, bridge and rig take the ends of their line from one `Stack`, made of the `[link]` keys of the
mission file; nothing else knows what lies between a packet and the line. Every end is bounded and never blocks;
received octets are counted where they are of no use, never raised.

`cadu` (default) is for radios and ground stations: TM transfer frames, randomised, behind sync markers, with or
without Reed-Solomon code; CLTUs up. `cobs` is for a bench: packets with a CRC between zero octets, and TC frames the
same way up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from flightsw.errors import LinkError
from flightsw.kernels import FrameCodec
from flightsw.link import cobs
from flightsw.link.coding import CaduSynchroniser, CltuDecoder, encode_cltu
from flightsw.link.frames import TM_FRAME_OCTETS, TM_FRAME_OVERHEAD_OCTETS, TmDeframer, TmFramer, close_frame
from flightsw.link.sdls import OVERHEAD_OCTETS, TelemetrySeal
from flightsw.link.tc_frames import RejectedFrameError

FRAMINGS: Final = ("cadu", "cobs")
FRAME_OCTETS: Final = (TM_FRAME_OCTETS, 5 * TM_FRAME_OCTETS)

_FECF_OCTETS = 2
_CLOSED = bytes(_FECF_OCTETS)  # where the error control field was, which the deframer leaves out
_CONTROL_WORDS_MAX = 64


class TmSender(Protocol):
    """The satellite's end of the downlink: packets on virtual channels in, octets for the line out."""

    @property
    def unit_octets(self) -> int:
        """Octets that go on the line in one piece: less than this may have to wait."""

    def submit(self, vcid: int, packet: bytes, /) -> bool:
        """Queue one space packet; see `PacketQueues.submit`."""

    def queued_octets(self, vcid: int, /) -> int:
        """Octets of whole packets waiting on a channel."""

    def dropped_packets(self, vcid: int, /) -> int:
        """Packets of a channel that were pushed out or refused since start."""

    def set_ocf(self, *words: int) -> None:
        """Say these words of the uplink in turn from now on, where the stack has a field for them."""

    def say_ocf(self) -> None:
        """Say them in the next octets, whether there are packets or not."""

    def take(self, budget_octets: int, /) -> bytes:
        """Return what goes on the line now, at most `budget_octets`."""


class TmReceiver(Protocol):
    """The ground's end of the downlink: octets in, packets out, and counts of what did not come through."""

    on_frame: Callable[[bytes], object] | None
    """Called with every valid frame, opened; None for nobody. A stack without frames never calls it."""

    @property
    def heard_frames(self) -> int:
        """Frames, or units of a stack without frames, that closed."""

    @property
    def bad_frames(self) -> int:
        """Those that did not, or were not this spacecraft's."""

    @property
    def unsealed_frames(self) -> int:
        """Those that closed and were not the satellite's, or came a second time."""

    @property
    def lost_frames(self) -> int:
        """Those missing by the counter in those received."""

    @property
    def skipped_octets(self) -> int:
        """Octets received outside frames."""

    @property
    def corrected_octets(self) -> int:
        """Wrong octets that the code put right."""

    def take_control_words(self) -> list[int]:
        """Operational control fields of the frames received since the last call."""

    def push(self, octets: bytes, /) -> list[bytes]:
        """Take received octets; return the packets completed by them."""


class TcReceiver(Protocol):
    """The satellite's end of the uplink."""

    def push(self, octets: bytes, /) -> list[bytes]:
        """Take received octets; return TC frames, each with up to 6 octets of fill, as yet unchecked."""


@dataclass(frozen=True, slots=True)
class Stack:
    """How one mission's line is coded; both ends must be made from equal ones. Keys as in the mission file."""

    framing: str = "cadu"
    reed_solomon: bool = False
    frame_octets: int = TM_FRAME_OCTETS

    def __post_init__(self) -> None:
        """Raise LinkError where the choices do not go together."""
        if self.framing not in FRAMINGS:
            raise LinkError(f"link framing {self.framing!r}, known are {', '.join(FRAMINGS)}")
        if self.frame_octets not in FRAME_OCTETS:
            raise LinkError(f"link frame_octets {self.frame_octets}, known are {FRAME_OCTETS[0]} and "
                            f"{FRAME_OCTETS[1]} octets")
        if self.framing == "cobs" and self.reed_solomon:
            raise LinkError("link reed_solomon needs framing 'cadu': 'cobs' has no blocks of one length")

    @property
    def seals_telemetry(self) -> bool:
        """Whether telemetry goes in frames, which can be sealed."""
        return self.framing != "cobs"

    @property
    def interleave(self) -> int:
        """Codewords in a frame's block, 0 where frames are not coded."""
        return self.frame_octets // TM_FRAME_OCTETS if self.reed_solomon else 0

    def packet_octets_s(self, baud: int, *, sealed: bool) -> float:
        """Octets of packets that a line of `baud` (8N1) takes down in a second, its frames full.

        Of units, which differ in length and are not sealed, the limit for long ones.
        """
        line_octets_s = baud / 10.0
        if self.framing == "cobs":
            return line_octets_s * cobs.STUFFED_FRAC
        header = TM_FRAME_OVERHEAD_OCTETS + (OVERHEAD_OCTETS if sealed else 0)
        return line_octets_s * (self.frame_octets - header) / FrameCodec(self.frame_octets, self.interleave).line_octets

    def sender(self, scid: int, queue_octets: dict[int, int], seal: TelemetrySeal | None = None) -> TmSender:
        """Make the satellite's end of the downlink; `queue_octets` as in `PacketQueues`. Units are not sealed."""
        if self.framing == "cobs":
            return cobs.UnitSender(queue_octets)
        return _CaduSender(self, scid, queue_octets, seal)

    def receiver(self, scid: int, seal: TelemetrySeal | None = None) -> TmReceiver:
        """Make the ground's end of the downlink."""
        return cobs.UnitReceiver() if self.framing == "cobs" else _CaduReceiver(self, scid, seal)

    def tc_receiver(self) -> TcReceiver:
        """Make the satellite's end of the uplink."""
        return cobs.UnitDecoder() if self.framing == "cobs" else CltuDecoder()

    def encode_tc(self, frame: bytes) -> bytes:
        """Put one TC frame on the line. Raises LinkError where it is empty or too long."""
        return cobs.encode_unit(frame) if self.framing == "cobs" else encode_cltu(frame)


class _CaduSender(TmFramer):
    def __init__(self, stack: Stack, scid: int, queue_octets: dict[int, int], seal: TelemetrySeal | None) -> None:
        self._codec = FrameCodec(stack.frame_octets, stack.interleave)
        self._seal = seal
        self._has_news = False  # the control field is to be said even where no packet waits
        super().__init__(scid, queue_octets, stack.frame_octets, close=self._encode,
                         seal_octets=OVERHEAD_OCTETS if seal else 0)
        self.unit_octets = self._codec.line_octets

    def say_ocf(self) -> None:
        """Say the control field, all its words, in the next frames."""
        self._has_news = True

    def take(self, budget_octets: int) -> bytes:
        """Return whole CADUs."""
        count = budget_octets // self.unit_octets
        frames = self.frames(count)
        if self._has_news and len(frames) < count:
            self._has_news = False
            frames += [self.idle_frame() for _ in range(min(2, count) - len(frames))]
        return b"".join(frames)

    def _encode(self, body: bytes) -> bytes:
        return self._codec.encode(body if self._seal is None else self._seal.seal(body))


class _CaduReceiver:
    def __init__(self, stack: Stack, scid: int, seal: TelemetrySeal | None) -> None:
        self.unsealed_frames = 0
        self._control_words: list[int] = []
        self._seal = seal
        self.on_frame: Callable[[bytes], object] | None = None
        self._synchroniser = CaduSynchroniser(stack.frame_octets, interleave=stack.interleave)
        self._deframer = TmDeframer(scid, stack.frame_octets - (OVERHEAD_OCTETS if seal else 0))

    def push(self, octets: bytes) -> list[bytes]:
        deframer, seal = self._deframer, self._seal
        packets: list[bytes] = []
        for frame in self._synchroniser.push(octets):
            if seal is not None:
                try:
                    frame = seal.unseal(frame[:-_FECF_OCTETS]) + _CLOSED  # noqa: PLW2901 # the same frame, opened
                except RejectedFrameError:
                    self.unsealed_frames += 1
                    continue
            if self.on_frame is not None:
                self.on_frame(close_frame(frame[:-_FECF_OCTETS]))
            packets += [packet for _, packet in deframer.push_checked(frame)]
            if deframer.ocf is not None:
                self._control_words.append(deframer.ocf)
        del self._control_words[:-_CONTROL_WORDS_MAX]
        return packets

    @property
    def heard_frames(self) -> int:
        return self._synchroniser.frames

    @property
    def bad_frames(self) -> int:
        return self._synchroniser.bad_frames + self._deframer.bad_frames + self._deframer.foreign_frames

    @property
    def lost_frames(self) -> int:
        return self._deframer.lost_frames

    @property
    def skipped_octets(self) -> int:
        return self._synchroniser.skipped_octets

    @property
    def corrected_octets(self) -> int:
        return self._synchroniser.corrected_octets

    def take_control_words(self) -> list[int]:
        words, self._control_words = self._control_words, []
        return words


STANDARD = Stack()
"""What a mission file that says nothing has."""

"""TC transfer frames: telecommands, and the commands of COP-1, as frames of their own length.

Owns the layout of TC frames (232.0-B-4, section 4.1) of types AD (in sequence), BD (bypass) and BC (control of the
receiver), and why a frame is not accepted. `secure` and `unseal` are the door for `sdls.py`: what they are given as
header is the whole of it, segment header included. The ground builds frames, the satellite reads them; `coding.py`
is below, `packets.py` above.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from flightsw.errors import LinkError
from flightsw.link.frames import SCID_MAX
from flightsw.link.packets import crc16

TC_FRAME_OVERHEAD_OCTETS = 8  # header 5, segment header 1, FECF 2
TC_FRAME_OCTETS_MAX = 1024

_HEADER = struct.Struct(">HHB")
_HEADER_OCTETS = 5
_FECF_OCTETS = 2
_FRAME_OCTETS_MIN = 8  # header 5, one octet that is a control command or a segment header, FECF 2
_UNSEGMENTED = 0xC0
_FILL_MAX = 7  # octets of a codeblock, all but the first of which may be fill


class Reject(IntEnum):
    """Why an uplink frame was not accepted, in the order of the checks. Telemetry counts each by itself."""

    FECF = 0  # length or error control
    SCID = 1  # another spacecraft's
    TYPE = 2  # version, flags, virtual channel or segmentation that this receiver does not take
    SPI = 3  # no key of this index is in force
    MAC = 4  # not sealed with the key that it names, or changed since
    REPLAY = 5  # its counter is used up
    WINDOW = 6  # its counter is further ahead than any loss explains
    SEQUENCE = 7  # not the frame that COP-1 expects, or a lockout
    PACKET = 8  # authentic, and no telecommand for this application


class RejectedFrameError(LinkError):
    """An uplink frame that was not accepted, and `why`."""

    def __init__(self, why: Reject, text: str) -> None:
        super().__init__(text)
        self.why = why


class TcKind(IntEnum):
    """Bypass flag and control command flag."""

    AD = 0b00
    BD = 0b10
    BC = 0b11


class TcFrame(NamedTuple):
    """One TC frame and what is in it: a packet, or a control command of type BC. `spi` is 0 for one in clear."""

    kind: TcKind
    scid: int
    vcid: int
    sequence: int
    map_id: int
    data: bytes
    spi: int = 0


Secure = Callable[[bytes, bytes], bytes]
"""From header and data to what stands between header and error control."""
Unseal = Callable[[bytes, bytes], tuple[int, bytes]]
"""From header and what follows it to the SPI and the data; RejectedFrameError where they are not authentic."""


def build_tc_frame(data: bytes, scid: int, vcid: int = 0, map_id: int = 0, *, kind: TcKind = TcKind.BD,
                   sequence: int = 0, secure: Secure | None = None, overhead_octets: int = 0) -> bytes:
    """Build a frame of one unsegmented packet or one control command, FECF included.

    `secure` adds `overhead_octets`. Raises LinkError where an identifier is out of range or the frame would exceed
    1024 octets.
    """
    room = TC_FRAME_OCTETS_MAX - TC_FRAME_OVERHEAD_OCTETS - overhead_octets
    if not 0 < len(data) <= room:
        raise LinkError(f"TC frame: packet of {len(data)} octets outside 1..{room} octets")
    if not 0 <= scid <= SCID_MAX:
        raise LinkError(f"TC frame: spacecraft id {scid} outside 0..{SCID_MAX}")
    if not 0 <= vcid <= 0x3F:
        raise LinkError(f"TC frame: virtual channel {vcid} outside 0..63")
    if not 0 <= map_id <= 0x3F:
        raise LinkError(f"TC frame: MAP id {map_id} outside 0..63")
    segment = b"" if kind is TcKind.BC else bytes((_UNSEGMENTED | map_id,))
    octets = _HEADER_OCTETS + len(segment) + len(data) + overhead_octets + _FECF_OCTETS
    header = _HEADER.pack(kind << 12 | scid, vcid << 10 | (octets - 1), sequence & 0xFF) + segment
    body = header + (data if secure is None else secure(header, data))
    return body + crc16(body).to_bytes(_FECF_OCTETS, "big")


def parse_tc_frame(octets: bytes, scid: int, vcid: int = 0, unseal: Unseal | None = None) -> TcFrame:
    """Read a frame from the contents of a CLTU, whose fill of up to 6 octets is cut off.

    Raises RejectedFrameError where the length, the error control, the spacecraft, the channel or the type is not what
    this spacecraft accepts, or `unseal` says so.
    """
    if len(octets) < _FRAME_OCTETS_MIN:
        raise RejectedFrameError(
            Reject.FECF, f"TC frame of {len(octets)} octets is shorter than {_FRAME_OCTETS_MIN} octets")
    flags, length, sequence = _HEADER.unpack_from(octets)
    stated = (length & 0x3FF) + 1
    if not _FRAME_OCTETS_MIN <= stated <= len(octets) < stated + _FILL_MAX:
        raise RejectedFrameError(Reject.FECF, f"TC frame states {stated} octets, its CLTU carries {len(octets)} octets")
    frame = octets[:stated]
    if crc16(frame):
        stored = int.from_bytes(frame[-_FECF_OCTETS:], "big")
        raise RejectedFrameError(Reject.FECF, f"TC frame of {stated} octets carries error control {stored:#06x}, "
                                              f"computed {crc16(frame[:-_FECF_OCTETS]):#06x}")
    if flags & SCID_MAX != scid:
        raise RejectedFrameError(Reject.SCID, f"TC frame for spacecraft {flags & SCID_MAX}, this is spacecraft {scid}")
    kind = _KINDS.get(flags >> 10)
    if kind is None:
        raise RejectedFrameError(Reject.TYPE, f"TC frame with version and flags {flags >> 10:#04x}, expected 0x00, "
                                              "0x08 or 0x0c: AD, BD or BC")
    if length >> 10 != vcid:
        raise RejectedFrameError(Reject.TYPE, f"TC frame on virtual channel {length >> 10}, expected {vcid}")
    at, map_id = _HEADER_OCTETS, 0
    if kind is not TcKind.BC:
        segment = frame[at]
        at += 1
        if segment & 0xC0 != _UNSEGMENTED:
            raise RejectedFrameError(Reject.TYPE, f"TC frame with segment flags {segment >> 6}, expected 3, "
                                                  "unsegmented")
        map_id = segment & 0x3F
    field = frame[at:-_FECF_OCTETS]
    if not field:
        raise RejectedFrameError(Reject.TYPE, "TC frame without data")
    spi, data = (0, field) if unseal is None else unseal(frame[:at], field)
    return TcFrame(kind, scid, vcid, sequence, map_id, data, spi)


_KINDS = {kind << 2: kind for kind in TcKind}

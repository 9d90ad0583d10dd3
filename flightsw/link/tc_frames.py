"""TC transfer frames: telecommands as frames of their own length.

Owns the layout of TC frames (232.0-B-4, section 4.1) of type BD, the bypass service that needs no state at either
end. The ground builds them, the satellite reads them; `coding.py` is below, `packets.py` above.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from flightsw.errors import LinkError
from flightsw.link.frames import SCID_MAX
from flightsw.link.packets import crc16

_FECF_OCTETS = 2
_TC_HEADER = struct.Struct(">HHBB")
TC_FRAME_OVERHEAD_OCTETS = 8  # header 5, segment header 1, FECF 2
TC_FRAME_OCTETS_MAX = 1024
_TC_BYPASS_DATA = 0x2000  # version 0, bypass flag set, control command flag clear: type BD
_TC_FLAGS_MASK = 0xFC00
_UNSEGMENTED = 0xC0


class TcFrame(NamedTuple):
    """One TC frame of type BD and the single packet in it."""

    scid: int
    vcid: int
    map_id: int
    data: bytes


def build_tc_frame(packet: bytes, scid: int, vcid: int = 0, map_id: int = 0) -> bytes:
    """Build a BD frame of one unsegmented packet, FECF included.

    Raises LinkError where an identifier is out of range or the frame would exceed 1024 octets.
    """
    octets = len(packet) + TC_FRAME_OVERHEAD_OCTETS
    if not TC_FRAME_OVERHEAD_OCTETS < octets <= TC_FRAME_OCTETS_MAX:
        raise LinkError(
            f"TC frame: packet of {len(packet)} octets outside "
            f"1..{TC_FRAME_OCTETS_MAX - TC_FRAME_OVERHEAD_OCTETS} octets"
        )
    if not 0 <= scid <= SCID_MAX:
        raise LinkError(f"TC frame: spacecraft id {scid} outside 0..{SCID_MAX}")
    if not 0 <= vcid <= 0x3F:
        raise LinkError(f"TC frame: virtual channel {vcid} outside 0..63")
    if not 0 <= map_id <= 0x3F:
        raise LinkError(f"TC frame: MAP id {map_id} outside 0..63")
    body = (
        _TC_HEADER.pack(_TC_BYPASS_DATA | scid, vcid << 10 | (octets - 1), 0, _UNSEGMENTED | map_id) + packet
    )
    return body + crc16(body).to_bytes(_FECF_OCTETS, "big")


def parse_tc_frame(octets: bytes, scid: int, vcid: int = 0) -> TcFrame:
    """Read a BD frame from the contents of a CLTU, whose fill of up to 6 octets is cut off.

    Raises LinkError where the length, the error control, the spacecraft, the channel or the type is not
    what this spacecraft accepts.
    """
    if len(octets) <= TC_FRAME_OVERHEAD_OCTETS:
        raise LinkError(
            f"TC frame of {len(octets)} octets is shorter than {TC_FRAME_OVERHEAD_OCTETS + 1} octets"
        )
    flags, length, _, segment = _TC_HEADER.unpack_from(octets)
    stated = (length & 0x3FF) + 1
    if not TC_FRAME_OVERHEAD_OCTETS < stated <= len(octets) < stated + 7:
        raise LinkError(f"TC frame states {stated} octets, its CLTU carries {len(octets)} octets")
    frame = octets[:stated]
    if crc16(frame):
        stored = int.from_bytes(frame[-_FECF_OCTETS:], "big")
        raise LinkError(
            f"TC frame of {stated} octets carries error control {stored:#06x}, "
            f"computed {crc16(frame[:-_FECF_OCTETS]):#06x}"
        )
    if flags & _TC_FLAGS_MASK != _TC_BYPASS_DATA:
        raise LinkError(f"TC frame with version and flags {flags >> 10:#04x}, expected 0x08: bypass, data")
    if flags & SCID_MAX != scid:
        raise LinkError(f"TC frame for spacecraft {flags & SCID_MAX}, this is spacecraft {scid}")
    if length >> 10 != vcid:
        raise LinkError(f"TC frame on virtual channel {length >> 10}, expected {vcid}")
    if segment & 0xC0 != _UNSEGMENTED:
        raise LinkError(f"TC frame with segment flags {segment >> 6}, expected 3, unsegmented")
    return TcFrame(scid, vcid, segment & 0x3F, frame[6:-_FECF_OCTETS])

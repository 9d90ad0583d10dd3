"""Space packets with the headers of the packet utilisation standard: the bytes of one TC or one TM.

Owns the layout of the CCSDS primary header (133.0-B-2, section 4.1), of the PUS-C secondary headers
(ECSS-E-ST-70-41C, sections 7.4.3 and 7.4.4) and of the CRC-16 that closes a packet (its annex B). Services
on both ends call it once a packet. It knows nothing of what a service means, counts nothing and keeps
no state. `icd.py` states the same layouts as an interface document; tests hold the two together.

On-board time is CUC (301.0-B-4, level 2: agency-defined epoch) with 4 octets of seconds and 2 octets of
2^-16 s. The epoch is 1970-01-01T00:00:00 UTC without leap seconds, the count that every ground computer
shows; it ends in 2106. The P-field is implied (0x2D) and not sent.
"""

from __future__ import annotations

import binascii
import struct
from typing import NamedTuple

from flightsw.errors import LinkError

PRIMARY_OCTETS = 6
TC_OVERHEAD_OCTETS = 13  # primary 6, secondary 5, CRC 2
TM_OVERHEAD_OCTETS = 21  # primary 6, secondary 7, time 6, CRC 2
PACKET_OCTETS_MAX = 65542
IDLE_PACKET_OCTETS_MIN = 7
IDLE_APID = 0x7FF

_TC = struct.Struct(">HHHBBBH")
_TM = struct.Struct(">HHHBBBHHIH")
_UINT16 = struct.Struct(">H")
_PRIMARY = struct.Struct(">HHH")

_TYPE_BARE_TC = 0x1000  # packet version 0, type TC, no secondary header
_TYPE_TC = 0x1800  # packet version 0, type TC, secondary header present
_TYPE_TM = 0x0800  # packet version 0, type TM, secondary header present
_TYPE_MASK = 0xF800
_UNSEGMENTED = 0xC000
_PUS_C = 0x20  # PUS version 2; the low half is the ack flags of a TC, the time status of a TM
_IDLE_FILL = b"\x55"
_CUC_TICKS_PER_S = 65536.0


class Telecommand(NamedTuple):
    """One PUS-C telecommand. `ack_flags` are those of the standard, acceptance in bit 0."""

    apid: int
    seq_count: int
    ack_flags: int
    service: int
    subservice: int
    source_id: int
    data: bytes


class Telemetry(NamedTuple):
    """One PUS-C telemetry packet. `obt_s` is on-board time, in seconds of the epoch of this module."""

    apid: int
    seq_count: int
    service: int
    subservice: int
    msg_counter: int
    destination_id: int
    obt_s: float
    data: bytes


def crc16(octets: bytes) -> int:
    """CRC-16/CCITT with all ones preset; zero over a message that ends in its own CRC.

    Source: ECSS-E-ST-70-41C annex B; 132.0-B-3 section 4.1.6 for the same sequence in frames.
    """
    return binascii.crc_hqx(octets, 0xFFFF)


def pack_tc(tc: Telecommand) -> bytes:
    """Build the octets of `tc`, CRC included. Raises LinkError that names the field out of range."""
    apid, seq_count, ack_flags, service, subservice, source_id, data = tc
    if not (0 <= apid < IDLE_APID and 0 <= seq_count <= 0x3FFF and 0 <= ack_flags <= 0xF):
        raise _field_error("TC", tc._asdict())
    try:
        body = (
            _TC.pack(
                _TYPE_TC | apid,
                _UNSEGMENTED | seq_count,
                len(data) + TC_OVERHEAD_OCTETS - 7,
                _PUS_C | ack_flags,
                service,
                subservice,
                source_id,
            )
            + data
        )
    except struct.error as e:
        raise _field_error("TC", tc._asdict()) from e
    return body + _UINT16.pack(binascii.crc_hqx(body, 0xFFFF))


def unpack_tc(packet: bytes) -> Telecommand:
    """Read exactly one telecommand. Raises LinkError where a length, the CRC or a header field is wrong."""
    _check_envelope("TC", packet, TC_OVERHEAD_OCTETS)
    packet_id, sequence, _, version, service, subservice, source_id = _TC.unpack_from(packet)
    apid = packet_id & 0x7FF
    if packet_id & _TYPE_MASK != _TYPE_TC or apid == IDLE_APID or sequence < _UNSEGMENTED or version >> 4 != 2:
        raise _header_error("TC", packet_id, sequence, version)
    return Telecommand(
        apid, sequence & 0x3FFF, version & 0xF, service, subservice, source_id, bytes(packet[11:-2])
    )


def pack_tm(tm: Telemetry) -> bytes:
    """Build the octets of `tm`, CRC included; time is cut to 2^-16 s.

    Raises LinkError that names the field out of range.
    """
    apid, seq_count, service, subservice, msg_counter, destination_id, obt_s, data = tm
    if not (0 <= apid < IDLE_APID and 0 <= seq_count <= 0x3FFF and 0.0 <= obt_s < 4294967296.0):
        raise _field_error("TM", tm._asdict())
    ticks = int(obt_s * _CUC_TICKS_PER_S)
    try:
        body = (
            _TM.pack(
                _TYPE_TM | apid,
                _UNSEGMENTED | seq_count,
                len(data) + TM_OVERHEAD_OCTETS - 7,
                _PUS_C,
                service,
                subservice,
                msg_counter,
                destination_id,
                ticks >> 16,
                ticks & 0xFFFF,
            )
            + data
        )
    except struct.error as e:
        raise _field_error("TM", tm._asdict()) from e
    return body + _UINT16.pack(binascii.crc_hqx(body, 0xFFFF))


def unpack_tm(packet: bytes) -> Telemetry:
    """Read exactly one TM packet. Raises LinkError where a length, the CRC or a header field is wrong."""
    _check_envelope("TM", packet, TM_OVERHEAD_OCTETS)
    packet_id, sequence, _, version, service, subservice, msg_counter, destination_id, coarse_s, fine = (
        _TM.unpack_from(packet)
    )
    apid = packet_id & 0x7FF
    if packet_id & _TYPE_MASK != _TYPE_TM or apid == IDLE_APID or sequence < _UNSEGMENTED or version >> 4 != 2:
        raise _header_error("TM", packet_id, sequence, version)
    return Telemetry(
        apid,
        sequence & 0x3FFF,
        service,
        subservice,
        msg_counter,
        destination_id,
        coarse_s + fine / _CUC_TICKS_PER_S,
        bytes(packet[19:-2]),
    )


def file_apid(apid: int) -> int:
    """Application id under which the files of application `apid` travel: the next one."""
    return apid + 1


def pack_file_packet(apid: int, seq_count: int, pdu: bytes, *, is_telecommand: bool) -> bytes:
    """Build the space packet of one CFDP PDU: no secondary header and no CRC, as the PDU has its own.

    Raises LinkError where a field is out of range or the PDU is empty or longer than a packet.
    """
    if not (0 <= apid < IDLE_APID and 0 <= seq_count <= 0x3FFF and 0 < len(pdu) <= PACKET_OCTETS_MAX - PRIMARY_OCTETS):
        raise LinkError(f"file packet of APID {apid}, count {seq_count}, {len(pdu)} octets: APID outside "
                        f"0..{IDLE_APID - 1}, count outside 0..16383 or octets outside "
                        f"1..{PACKET_OCTETS_MAX - PRIMARY_OCTETS}")
    return _PRIMARY.pack((_TYPE_BARE_TC if is_telecommand else 0) | apid, _UNSEGMENTED | seq_count, len(pdu) - 1) + pdu


def file_pdu_of(packet: bytes, apid: int) -> bytes | None:
    """Return the PDU in a file packet of application `apid`, of either type; None for any other packet."""
    if len(packet) <= PRIMARY_OCTETS:
        return None
    packet_id, sequence, length = _PRIMARY.unpack_from(packet)
    if packet_id & ~_TYPE_BARE_TC != apid or sequence < _UNSEGMENTED or length + 7 != len(packet):
        return None
    return packet[PRIMARY_OCTETS:]


def idle_packet(octets: int) -> bytes:
    """Build an idle packet (133.0-B-2, section 4.1.3.3.4.4) that fills `octets`, 7 to 65542."""
    if not IDLE_PACKET_OCTETS_MIN <= octets <= PACKET_OCTETS_MAX:
        raise LinkError(
            f"idle packet of {octets} octets outside {IDLE_PACKET_OCTETS_MIN}..{PACKET_OCTETS_MAX} octets"
        )
    header = _PRIMARY.pack(IDLE_APID, _UNSEGMENTED, octets - 7)
    return header + _IDLE_FILL * (octets - PRIMARY_OCTETS)


def _check_envelope(kind: str, packet: bytes, octets_min: int) -> None:
    octets = len(packet)
    if octets < octets_min:
        raise LinkError(f"{kind} packet of {octets} octets is shorter than {octets_min} octets")
    stated = (packet[4] << 8 | packet[5]) + 7
    if stated != octets:
        raise LinkError(f"{kind} packet of {octets} octets states a length of {stated} octets")
    if binascii.crc_hqx(packet, 0xFFFF):
        stored = packet[-2] << 8 | packet[-1]
        raise LinkError(
            f"{kind} packet of {octets} octets carries CRC {stored:#06x}, computed {crc16(packet[:-2]):#06x}"
        )


def _header_error(kind: str, packet_id: int, sequence: int, version: int) -> LinkError:
    apid = packet_id & 0x7FF
    if packet_id >> 13:
        return LinkError(f"{kind} packet of APID {apid}: packet version {packet_id >> 13}, expected 0")
    if (packet_id ^ (_TYPE_TC if kind == "TC" else _TYPE_TM)) & 0x1000:
        return LinkError(f"{kind} packet expected, found a packet of the other type from APID {apid}")
    if not packet_id & 0x0800:
        return LinkError(f"{kind} packet of APID {apid} has no secondary header")
    if apid == IDLE_APID:
        return LinkError(f"{kind} packet carries the idle APID {IDLE_APID}")
    if sequence < _UNSEGMENTED:
        return LinkError(f"{kind} packet of APID {apid}: sequence flags {sequence >> 14}, expected 3")
    return LinkError(f"{kind} packet of APID {apid}: PUS version {version >> 4}, expected 2")


_FIELD_MAX: dict[str, int] = {
    "apid": IDLE_APID - 1,
    "seq_count": 0x3FFF,
    "ack_flags": 0xF,
    "service": 0xFF,
    "subservice": 0xFF,
    "source_id": 0xFFFF,
    "msg_counter": 0xFFFF,
    "destination_id": 0xFFFF,
}


def _field_error(kind: str, fields: dict[str, object]) -> LinkError:
    """Name the first field that does not fit. Only called once packing has failed."""
    for name, limit in _FIELD_MAX.items():
        value = fields.get(name, 0)
        if not isinstance(value, int) or not 0 <= value <= limit:
            return LinkError(f"{kind} packet: {name} {value!r} outside 0..{limit}")
    obt_s = fields.get("obt_s", 0.0)
    if not isinstance(obt_s, (int, float)) or not 0.0 <= obt_s < 4294967296.0:
        return LinkError(f"{kind} packet: obt_s {obt_s!r} outside 0..4294967296 s")
    overhead = TC_OVERHEAD_OCTETS if kind == "TC" else TM_OVERHEAD_OCTETS
    data = fields["data"]
    octets = len(data) if isinstance(data, (bytes, bytearray)) else 0
    return LinkError(f"{kind} packet: data of {octets} octets exceed {PACKET_OCTETS_MAX - overhead} octets")

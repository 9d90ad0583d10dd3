"""Every layout on the wire as an executable interface document: the place of record for what the octets mean.

Reads and builds the same octets as the flight code, declared field by field with construct, byte-aligned with masks
(its bit structures are eight times slower). Packets and frames are declared here; housekeeping, events, reports and
telecommands come out of the dictionary's rows, from which the flight code compiles its `struct` layouts once at
start: tests hold the two together on every row. Documents and tools import it; the flight path never does, for
construct costs 49 ms and 7 MiB at import.

    from flightsw.link.icd import HOUSEKEEPING, TM_PACKET
    report = TM_PACKET.parse(octets).body.value
    HOUSEKEEPING["power"].parse(report.data).battery_v
"""

from __future__ import annotations

from collections.abc import Iterable

from construct import (
    Bytes,
    BytesInteger,
    Checksum,
    Computed,
    Const,
    Construct,
    Float32b,
    Float64b,
    GreedyBytes,
    Int8ub,
    Int16ub,
    Int32sb,
    Int32ub,
    PascalString,
    Prefixed,
    RawCopy,
    Rebuild,
    Struct,
    Terminated,
    len_,
    this,
)

from flightsw.dictionary import commands, events, reports, telemetry
from flightsw.link.packets import crc16

# 133.0-B-2, section 4.1.3. The length field is the octets after the primary header, less one.
PRIMARY_HEADER = Struct(
    "packet_id"
    / Rebuild(
        Int16ub,
        this.version << 13 | this.is_telecommand << 12 | this.has_secondary_header << 11 | this.apid,
    ),
    "version" / Computed(this.packet_id >> 13),
    "is_telecommand" / Computed(this.packet_id >> 12 & 1),
    "has_secondary_header" / Computed(this.packet_id >> 11 & 1),
    "apid" / Computed(this.packet_id & 0x7FF),
    "sequence" / Rebuild(Int16ub, this.sequence_flags << 14 | this.seq_count),
    "sequence_flags" / Computed(this.sequence >> 14),
    "seq_count" / Computed(this.sequence & 0x3FFF),
    "data_length" / Int16ub,
)

# ECSS-E-ST-70-41C, section 7.4.4.1.
TC_PACKET = Struct(
    "body"
    / RawCopy(
        Struct(
            "packet_id" / Rebuild(Int16ub, 0x1800 | this.apid),
            "apid" / Computed(this.packet_id & 0x7FF),
            "sequence" / Rebuild(Int16ub, 0xC000 | this.seq_count),
            "seq_count" / Computed(this.sequence & 0x3FFF),
            "data_length" / Rebuild(Int16ub, len_(this.data) + 6),
            "version_and_ack" / Rebuild(Int8ub, 0x20 | this.ack_flags),
            "ack_flags" / Computed(this.version_and_ack & 0xF),
            "service" / Int8ub,
            "subservice" / Int8ub,
            "source_id" / Int16ub,
            "data" / Bytes(this.data_length - 6),
        )
    ),
    "crc" / Checksum(Int16ub, crc16, this.body.data),
)

# ECSS-E-ST-70-41C, section 7.4.3.1; time is CUC 4+2, see packets.py for the epoch.
TM_PACKET = Struct(
    "body"
    / RawCopy(
        Struct(
            "packet_id" / Rebuild(Int16ub, 0x0800 | this.apid),
            "apid" / Computed(this.packet_id & 0x7FF),
            "sequence" / Rebuild(Int16ub, 0xC000 | this.seq_count),
            "seq_count" / Computed(this.sequence & 0x3FFF),
            "data_length" / Rebuild(Int16ub, len_(this.data) + 14),
            "version_and_time_status" / Const(0x20, Int8ub),
            "service" / Int8ub,
            "subservice" / Int8ub,
            "msg_counter" / Int16ub,
            "destination_id" / Int16ub,
            "coarse_s" / Int32ub,
            "fine_s_by_65536" / Int16ub,
            "data" / Bytes(this.data_length - 14),
        )
    ),
    "crc" / Checksum(Int16ub, crc16, this.body.data),
)

# 727.0-B-5, section 5.1. `data` holds the directive code first unless `flags` says file data; with a CRC it ends in it.
CFDP_PDU = Struct(
    "flags" / Int8ub,
    "version" / Computed(this.flags >> 5),
    "is_file_data" / Computed(this.flags >> 4 & 1),
    "toward_sender" / Computed(this.flags >> 3 & 1),
    "unacknowledged" / Computed(this.flags >> 2 & 1),
    "has_crc" / Computed(this.flags >> 1 & 1),
    "is_large" / Computed(this.flags & 1),
    "data_length" / Rebuild(Int16ub, len_(this.data)),
    "sizes" / Int8ub,
    "id_octets" / Computed((this.sizes >> 4 & 7) + 1),
    "sequence_octets" / Computed((this.sizes & 7) + 1),
    "source_id" / BytesInteger(this.id_octets),
    "sequence" / BytesInteger(this.sequence_octets),
    "destination_id" / BytesInteger(this.id_octets),
    "data" / Bytes(this.data_length),
)

# --- frames ------------------------------------------------------------------------------------------


# 232.0-B-4, section 4.2.
CLCW = Struct(
    "word"
    / Rebuild(
        Int32ub,
        0x01000000 | this.vcid << 18 | this.no_rf_available << 15 | this.no_bit_lock << 14 | this.lockout << 13
        | this.wait << 12 | this.retransmit << 11 | this.farm_b_count << 9 | this.report_value,
    ),
    "vcid" / Computed(this.word >> 18 & 0x3F),
    "no_rf_available" / Computed(this.word >> 15 & 1),
    "no_bit_lock" / Computed(this.word >> 14 & 1),
    "lockout" / Computed(this.word >> 13 & 1),
    "wait" / Computed(this.word >> 12 & 1),
    "retransmit" / Computed(this.word >> 11 & 1),
    "farm_b_count" / Computed(this.word >> 9 & 3),
    "report_value" / Computed(this.word & 0xFF),
)


def tm_frame(octets: int, *, ocf: bool = True) -> Construct:
    """Declare a TM transfer frame of `octets` octets (132.0-B-3, section 4.1), with or without control field."""
    return Struct(
        "body"
        / RawCopy(
            Struct(
                "master" / Rebuild(Int16ub, this.scid << 4 | this.vcid << 1 | int(ocf)),
                "version" / Computed(this.master >> 14),
                "scid" / Computed(this.master >> 4 & 0x3FF),
                "vcid" / Computed(this.master >> 1 & 7),
                "has_ocf" / Computed(this.master & 1),
                "master_count" / Int8ub,
                "channel_count" / Int8ub,
                "status" / Rebuild(Int16ub, 0x1800 | this.first_header),
                "first_header" / Computed(this.status & 0x7FF),
                "data" / Bytes(octets - 8 - (4 if ocf else 0)),
                "ocf" / (CLCW if ocf else Computed(None)),
            )
        ),
        "fecf" / Checksum(Int16ub, crc16, this.body.data),
        Terminated,
    )


# 232.0-B-4, section 4.1; one unsegmented packet of type AD or BD. Sealed, `data` is `SEALED` (355.0-B-2).
TC_FRAME = Struct(
    "body"
    / RawCopy(
        Struct(
            "identity" / Rebuild(Int16ub, this.bypass << 13 | this.control << 12 | this.scid),
            "bypass" / Computed(this.identity >> 13 & 1),
            "control" / Computed(this.identity >> 12 & 1),
            "scid" / Computed(this.identity & 0x3FF),
            "channel_and_length" / Rebuild(Int16ub, this.vcid << 10 | (len_(this.data) + 7)),
            "vcid" / Computed(this.channel_and_length >> 10),
            "sequence" / Int8ub,
            "segment" / Rebuild(Int8ub, 0xC0 | this.map_id),
            "map_id" / Computed(this.segment & 0x3F),
            "data" / Bytes((this.channel_and_length & 0x3FF) - 7),
        )
    ),
    "fecf" / Checksum(Int16ub, crc16, this.body.data),
    Terminated,
)


def sealed(octets: int) -> Construct:
    """Declare what stands in a sealed frame in place of `octets` octets of data (355.0-B-2, AES-256-GCM)."""
    return Struct("spi" / Int16ub, "vector" / Bytes(12), "data" / Bytes(octets), "mac" / Bytes(16), Terminated)


# --- what the dictionary says ------------------------------------------------------------------------

_TYPES: dict[str, Construct] = {
    "u8": Int8ub, "u16": Int16ub, "u32": Int32ub, "i32": Int32sb, "f32": Float32b, "f64": Float64b,
    "text": PascalString(Int8ub, "utf8"), "octets": Prefixed(Int8ub, GreedyBytes),
    "request": Prefixed(Int8ub, Struct("service" / Int8ub, "subservice" / Int8ub, "data" / GreedyBytes)),
}


def _layout(head: Iterable[Construct], fields: Iterable[tuple[str, str]]) -> Construct:
    """Declare source or application data: a head, then fields of dictionary types, then nothing more."""
    return Struct(*head, *(name / _TYPES[kind] for name, kind in fields), Terminated)


HOUSEKEEPING: dict[str, Construct] = {
    row.name: _layout(["structure" / Const(row.sid, Int8ub)], ((point.name, point.kind) for point in row.points))
    for row in telemetry.HOUSEKEEPING
}
"""Source data of 3,25 by structure."""

COMPRESSED_HOUSEKEEPING = Struct("structure" / Int8ub, "count" / Int8ub, "crc" / Int16ub, "compressed" / GreedyBytes)
"""Source data of 3,130; `compressed` is CCSDS 124.0-B-1."""

EVENTS: dict[str, Construct] = {
    row.name: _layout(["number" / Const(row.number, Int16ub)],
                      ((f"argument{i}", kind) for i, kind in enumerate(row.args)))
    for row in events.EVENTS
}
"""Source data of 5,severity by event."""

REPORTS: dict[str, Construct] = {
    row.name: _layout([], ((field.name, field.kind) for field in row.fields)) for row in reports.REPORTS
}
"""Source data of all other reports that are rows."""

VERIFICATION: dict[int, Construct] = {
    stage: _layout([], (("request_id", "u32"), *fields))
    for stage, fields in {
        1: (), 2: (("code", "u16"), ("text", "text")), 3: (), 5: (("step", "u16"),), 7: (),
        8: (("code", "u16"), ("text", "text")),
    }.items()
}
"""Source data of 1,stage."""

PARAMETER_REPORT = _layout([], (("parameter", "u16"), ("value", "f64")))
"""Source data of 20,2."""

COMMANDS: dict[str, Construct] = {
    row.verb: _layout([] if row.function is None else ["function" / Const(row.function, Int8ub)],
                      ((arg.name, arg.kind) for arg in row.args))
    for row in commands.COMMANDS.values()
}
"""Application data of every telecommand by verb."""

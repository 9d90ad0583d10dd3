"""Packet layouts as an executable interface document: the place of record for what is on the wire.

Reads and builds the same octets as `packets.py`, declared field by field with construct, byte-aligned
with masks (its bit structures are eight times slower). Tests, documents and tools import it; the
flight path never does, for construct costs 49 ms and 7 MiB at import.

    from flightsw.link.icd import TM_PACKET
    TM_PACKET.parse(octets).body.value.service
"""

from __future__ import annotations

from construct import (
    Bytes,
    BytesInteger,
    Checksum,
    Computed,
    Const,
    Int8ub,
    Int16ub,
    Int32ub,
    RawCopy,
    Rebuild,
    Struct,
    len_,
    this,
)

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

"""CFDP protocol data units: every file transfer message as octets, and back, and the checksums of files.

Owns the layouts of CCSDS 727.0-B-5, section 5: fixed header, metadata, file data, EOF, NAK, Finished, ACK, prompt
and keep alive, with or without a CRC and large-file fields. `cfdp.py` is the only caller in flight; `icd.py` states
the header a second time as interface document. It keeps no state and knows nothing of what a transaction does.

File segments are contiguous octets: record boundaries and segment metadata are read over, never sent. Of the options
(TLVs) the bodies are handed on as they are; the entity uses none.
"""

from __future__ import annotations

import binascii
import struct
import zlib
from array import array
from enum import IntEnum
from typing import Final, NamedTuple

from flightsw.errors import LinkError

LARGE_FILE_OCTETS: Final = 1 << 32
"""From this size on, offsets and sizes take 8 octets."""

NAME_OCTETS_MAX: Final = 255
_VERSION: Final = 1
_CRC_OCTETS: Final = 2
_SMALL: Final = struct.Struct(">I")
_LARGE: Final = struct.Struct(">Q")
_FIXED: Final = struct.Struct(">BHB")
_EOF: Final = struct.Struct(">BI")


class Directive(IntEnum):
    """Table 5-4: what a PDU that is no file data says."""

    EOF = 4
    FINISHED = 5
    ACK = 6
    METADATA = 7
    NAK = 8
    PROMPT = 9
    KEEP_ALIVE = 12


class Condition(IntEnum):
    """Table 5-5: why a transaction ended or what is wrong with it."""

    NO_ERROR = 0
    POSITIVE_ACK_LIMIT = 1
    KEEP_ALIVE_LIMIT = 2
    INVALID_MODE = 3
    FILESTORE_REJECTION = 4
    CHECKSUM_FAILURE = 5
    SIZE_ERROR = 6
    NAK_LIMIT = 7
    INACTIVITY = 8
    INVALID_STRUCTURE = 9
    CHECK_LIMIT = 10
    UNSUPPORTED_CHECKSUM = 11
    SUSPENDED = 14
    CANCELLED = 15


class ChecksumType(IntEnum):
    """File checksums (registry of 727.0-B-5, annex C): modular, CRC-32 (IEEE 802.3), none."""

    MODULAR = 0
    CRC_32 = 3
    NULL = 15


class FileStatus(IntEnum):
    """What the receiver did with the file."""

    DISCARDED = 0
    REJECTED = 1
    RETAINED = 2
    UNREPORTED = 3


class TransactionStatus(IntEnum):
    """What the one who acknowledges knows of the transaction."""

    UNDEFINED = 0
    ACTIVE = 1
    TERMINATED = 2
    UNRECOGNISED = 3


class Header(NamedTuple):
    """The fixed header, sizes of its own fields included; `toward_sender` is the direction."""

    source_id: int
    sequence: int
    destination_id: int
    toward_sender: bool = False
    unacknowledged: bool = False
    has_crc: bool = True
    is_large: bool = False
    id_octets: int = 1
    sequence_octets: int = 4

    @property
    def octets(self) -> int:
        """Octets of the header on the wire."""
        return 4 + 2 * self.id_octets + self.sequence_octets


class Metadata(NamedTuple):
    """What the file is: size, names, how its checksum is made."""

    size: int
    source_name: str
    destination_name: str
    checksum_type: int = ChecksumType.CRC_32
    closure_requested: bool = False
    options: bytes = b""


class FileData(NamedTuple):
    """A stretch of the file."""

    offset: int
    data: bytes


class Eof(NamedTuple):
    """The whole file has been sent, or the transaction is cancelled; `fault` is the entity id then."""

    condition: int
    checksum: int
    size: int
    fault: bytes = b""


class Finished(NamedTuple):
    """How the transaction ended at the receiver."""

    condition: int
    is_complete: bool
    file_status: int
    options: bytes = b""


class Ack(NamedTuple):
    """An EOF or a Finished was received."""

    directive: int
    condition: int
    status: int


class Nak(NamedTuple):
    """Stretches that are missing between `start` and `end`; (0, 0) asks for the metadata."""

    start: int
    end: int
    segments: tuple[tuple[int, int], ...]


class Prompt(NamedTuple):
    """The sender asks for a keep alive or for a NAK."""

    keep_alive: bool


class KeepAlive(NamedTuple):
    """How far the receiver has come."""

    progress: int


Pdu = Metadata | FileData | Eof | Finished | Ack | Nak | Prompt | KeepAlive


def pack(header: Header, pdu: Pdu) -> bytes:
    """Build the octets of one PDU. Raises LinkError that names what does not fit."""
    is_file_data = isinstance(pdu, FileData)
    try:
        data = _body(pdu, _LARGE if header.is_large else _SMALL)
        octets = len(data) + (_CRC_OCTETS if header.has_crc else 0)
        head = _FIXED.pack(
            _VERSION << 5 | is_file_data << 4 | header.toward_sender << 3 | header.unacknowledged << 2
            | header.has_crc << 1 | header.is_large,
            octets,
            (header.id_octets - 1) << 4 | (header.sequence_octets - 1),
        )
        body = b"".join((
            head,
            header.source_id.to_bytes(header.id_octets, "big"),
            header.sequence.to_bytes(header.sequence_octets, "big"),
            header.destination_id.to_bytes(header.id_octets, "big"),
            data,
        ))
    except (struct.error, OverflowError, ValueError) as e:
        shown = pdu._replace(data=b"") if isinstance(pdu, FileData) else pdu
        raise LinkError(f"CFDP PDU {shown} with {header}: {e}") from e
    return body + binascii.crc_hqx(body, 0xFFFF).to_bytes(_CRC_OCTETS, "big") if header.has_crc else body


def unpack(octets: bytes) -> tuple[Header, Pdu]:
    """Read exactly one PDU. Raises LinkError where length, version, CRC or a field is wrong."""
    if len(octets) < _FIXED.size:
        raise LinkError(f"CFDP PDU of {len(octets)} octets is shorter than {_FIXED.size} octets")
    flags, length, sizes = _FIXED.unpack_from(octets)
    id_octets, sequence_octets = (sizes >> 4 & 7) + 1, (sizes & 7) + 1
    start = 4 + 2 * id_octets + sequence_octets
    if flags >> 5 != _VERSION:
        raise LinkError(f"CFDP PDU of version {flags >> 5}, expected {_VERSION}")
    if len(octets) != start + length:
        raise LinkError(f"CFDP PDU of {len(octets)} octets states a length of {start + length} octets")
    has_crc, end = bool(flags & 2), len(octets)
    if has_crc:
        if length < _CRC_OCTETS or binascii.crc_hqx(octets, 0xFFFF):
            raise LinkError(f"CFDP PDU of {len(octets)} octets with a wrong CRC")
        end -= _CRC_OCTETS
    header = Header(
        int.from_bytes(octets[4 : 4 + id_octets], "big"),
        int.from_bytes(octets[4 + id_octets : start - id_octets], "big"),
        int.from_bytes(octets[start - id_octets : start], "big"),
        bool(flags & 8), bool(flags & 4), has_crc, bool(flags & 1), id_octets, sequence_octets,
    )
    number = _LARGE if header.is_large else _SMALL
    data = octets[start:end]
    try:
        return header, _file_data(data, number, bool(sizes & 8)) if flags & 16 else _directive(data, number)
    except (struct.error, IndexError, ValueError) as e:
        raise LinkError(f"CFDP PDU of {len(octets)} octets, its content {data[:16].hex()}...: {e}") from e


def _body(pdu: Pdu, number: struct.Struct) -> bytes:
    if isinstance(pdu, FileData):
        return number.pack(pdu.offset) + pdu.data
    if isinstance(pdu, Nak):
        flat = [edge for segment in pdu.segments for edge in segment]
        return bytes((Directive.NAK,)) + struct.pack(f">{len(flat) + 2}{number.format[-1]}", pdu.start, pdu.end, *flat)
    if isinstance(pdu, Metadata):
        first = pdu.closure_requested << 6 | pdu.checksum_type
        return b"".join((bytes((Directive.METADATA, first)), number.pack(pdu.size), _name(pdu.source_name),
                         _name(pdu.destination_name), pdu.options))
    if isinstance(pdu, Eof):
        fault = bytes((6, len(pdu.fault))) + pdu.fault if pdu.fault else b""
        return bytes((Directive.EOF,)) + _EOF.pack(pdu.condition << 4, pdu.checksum) + number.pack(pdu.size) + fault
    if isinstance(pdu, Finished):
        state = pdu.condition << 4 | (not pdu.is_complete) << 2 | pdu.file_status
        return bytes((Directive.FINISHED, state)) + pdu.options
    if isinstance(pdu, Ack):
        subtype = pdu.directive == Directive.FINISHED
        return bytes((Directive.ACK, pdu.directive << 4 | subtype, pdu.condition << 4 | pdu.status))
    if isinstance(pdu, Prompt):
        return bytes((Directive.PROMPT, pdu.keep_alive << 7))
    return bytes((Directive.KEEP_ALIVE,)) + number.pack(pdu.progress)


def _file_data(data: bytes, number: struct.Struct, has_metadata: bool) -> FileData:
    at = 1 + (data[0] & 0x3F) if has_metadata else 0
    (offset,) = number.unpack_from(data, at)
    return FileData(offset, data[at + number.size :])


def _directive(data: bytes, number: struct.Struct) -> Pdu:
    code, size = data[0], number.size
    if code == Directive.NAK:
        if (len(data) - 1) % (2 * size):
            raise ValueError("NAK with half a segment request")
        edges = struct.unpack(f">{(len(data) - 1) // size}{number.format[-1]}", data[1:])
        return Nak(edges[0], edges[1], tuple(zip(edges[2::2], edges[3::2], strict=True)))
    if code == Directive.ACK:
        return Ack(data[1] >> 4, data[2] >> 4, data[2] & 3)
    if code == Directive.EOF:
        condition, checksum = _EOF.unpack_from(data, 1)
        (file_size,) = number.unpack_from(data, 1 + _EOF.size)
        rest = data[1 + _EOF.size + size :]
        return Eof(condition >> 4, checksum, file_size, rest[2 : 2 + rest[1]] if rest else b"")
    if code == Directive.FINISHED:
        return Finished(data[1] >> 4, not data[1] & 4, data[1] & 3, data[2:])
    if code == Directive.METADATA:
        (file_size,) = number.unpack_from(data, 2)
        source, at = _read_name(data, 2 + size)
        destination, at = _read_name(data, at)
        return Metadata(file_size, source, destination, data[1] & 0xF, bool(data[1] & 0x40), data[at:])
    if code == Directive.PROMPT:
        return Prompt(bool(data[1] & 0x80))
    if code == Directive.KEEP_ALIVE:
        return KeepAlive(number.unpack_from(data, 1)[0])
    raise ValueError(f"directive {code} is none of {[int(known) for known in Directive]}")


def _name(text: str) -> bytes:
    octets = text.encode()
    if len(octets) > NAME_OCTETS_MAX:
        raise ValueError(f"file name of {len(octets)} octets, limit {NAME_OCTETS_MAX}")
    return bytes((len(octets),)) + octets


def _read_name(data: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + data[at]
    if end > len(data):
        raise ValueError(f"file name ends at octet {end} of {len(data)}")
    return data[at + 1 : end].decode(), end


class Checksum:
    """A file's checksum (section 4.2.2), made piece by piece in the file's order.

    Raises LinkError for a type that is not `ChecksumType`.
    """

    def __init__(self, kind: int) -> None:
        if kind not in list(ChecksumType):
            raise LinkError(f"file checksum of type {kind}, known are {[int(known) for known in ChecksumType]}")
        self._kind = kind
        self._value = 0
        self._rest = b""

    def update(self, octets: bytes) -> None:
        """Take the next octets."""
        if self._kind == ChecksumType.CRC_32:
            self._value = zlib.crc32(octets, self._value)
        elif self._kind == ChecksumType.MODULAR:
            octets = self._rest + octets
            whole = len(octets) & ~3
            self._rest = octets[whole:]
            self._value = (self._value + _sum_words(octets[:whole])) & 0xFFFFFFFF

    @property
    def value(self) -> int:
        """Checksum of what was taken so far."""
        if not self._rest:
            return self._value
        return (self._value + int.from_bytes(self._rest.ljust(4, b"\0"), "big")) & 0xFFFFFFFF


def _sum_words(octets: bytes) -> int:
    words = array("I", octets)
    if _SMALL.pack(1) != array("I", (1,)).tobytes():
        words.byteswap()
    return sum(words)

"""CFDP PDUs: every field comes back, the standard's layouts bit by bit, garbage is a LinkError and nothing else."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.errors import LinkError
from flightsw.link import cfdp_pdu as pdus
from flightsw.link.cfdp_pdu import (
    Ack,
    Checksum,
    ChecksumType,
    Condition,
    Directive,
    Eof,
    FileData,
    Finished,
    Header,
    KeepAlive,
    Metadata,
    Nak,
    Pdu,
    Prompt,
    pack,
    unpack,
)
from flightsw.link.icd import CFDP_PDU

HEADER = Header(1, 7, 2)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@st.composite
def messages(draw: st.DrawFn) -> tuple[Header, Pdu]:
    id_octets, sequence_octets = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    identity = st.integers(0, 256**id_octets - 1)
    is_large = draw(st.booleans())
    header = Header(draw(identity), draw(st.integers(0, 256**sequence_octets - 1)), draw(identity),
                    draw(st.booleans()), draw(st.booleans()), draw(st.booleans()), is_large, id_octets, sequence_octets)
    size = st.integers(0, 2**64 - 1 if is_large else 2**32 - 1)
    nibble = st.integers(0, 15)
    return header, draw(st.one_of(
        st.builds(FileData, size, st.binary(max_size=1100)),
        st.builds(Metadata, size, NAMES, NAMES, nibble, st.booleans(), st.binary(max_size=40)),
        st.builds(Eof, nibble, st.integers(0, 2**32 - 1), size, st.binary(max_size=8)),
        st.builds(Finished, nibble, st.booleans(), st.integers(0, 3), st.binary(max_size=40)),
        st.builds(Ack, st.sampled_from([Directive.EOF, Directive.FINISHED]), nibble, st.integers(0, 3)),
        st.builds(Nak, size, size, st.lists(st.tuples(size, size), max_size=20).map(tuple)),
        st.builds(Prompt, st.booleans()),
        st.builds(KeepAlive, size),
    ))


@given(messages())
def test_every_pdu_comes_back(message: tuple[Header, Pdu]) -> None:
    octets = pack(*message)
    assert unpack(octets) == message
    header, read = message[0], CFDP_PDU.parse(octets)
    assert (read.source_id, read.sequence, read.destination_id) == header[:3]
    assert (read.is_large, read.has_crc, read.toward_sender) == (header.is_large, header.has_crc, header.toward_sender)
    assert CFDP_PDU.build(read) == octets


@given(st.binary(max_size=64), st.booleans())
def test_garbage_is_a_link_error(octets: bytes, likely: bool) -> None:
    if likely and len(octets) > 11:  # a good fixed header, then anything
        octets = bytes((0x20 | octets[0] & 0x1D,)) + (len(octets) - 11).to_bytes(2, "big") + b"\x03" + octets[4:]
    try:
        unpack(octets)
    except LinkError:
        return
    assert octets[0] >> 5 == 1


@given(messages(), st.data())
def test_one_flipped_bit_is_found(message: tuple[Header, Pdu], data: st.DataObject) -> None:
    octets = bytearray(pack(message[0]._replace(has_crc=True), message[1]))
    bit = data.draw(st.integers(0, 8 * len(octets) - 1).filter(lambda bit: bit != 6))  # bit 6 says that there is a CRC
    octets[bit >> 3] ^= 0x80 >> (bit & 7)
    with pytest.raises(LinkError):
        unpack(bytes(octets))


@pytest.mark.parametrize(("pdu", "content"), [
    (Eof(0, 0xDEADBEEF, 1000), "0400deadbeef000003e8"),
    (Eof(15, 0, 5, b"\x01"), "04f00000000000000005060101"),
    (Finished(0, True, 2), "0502"),
    (Finished(4, False, 1), "0545"),
    (Ack(Directive.FINISHED, 0, 2), "065102"),
    (Ack(Directive.EOF, 15, 1), "0640f1"),
    (Metadata(3, "a", "bc"), "0703000000030161026263"),
    (Nak(0, 9, ((0, 0), (3, 7))), "080000000000000009" + 16 * "0" + "0000000300000007"),
    (Prompt(True), "0980"),
    (KeepAlive(258), "0c00000102"),
])
def test_layouts_are_those_of_the_standard(pdu: Pdu, content: str) -> None:
    octets = pack(HEADER._replace(has_crc=False), pdu)
    assert octets.hex() == f"20{len(content) // 2:04x}03010000000702" + content


def test_file_data_is_told_by_its_type_bit() -> None:
    assert pack(HEADER._replace(has_crc=False), FileData(5, b"xy")).hex() == "30000603010000000702000000057879"


def test_segment_metadata_is_read_over() -> None:
    octets = bytearray(pack(HEADER._replace(has_crc=False), FileData(5, b"xy")))
    octets[3] |= 8
    octets[10:10] = b"\xc2MM"
    octets[2] += 3
    assert unpack(bytes(octets))[1] == FileData(5, b"xy")


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(LinkError, match="limit 255"):
        pack(HEADER, Metadata(1, "x" * 256, "y"))
    with pytest.raises(LinkError, match="offset=4294967296"):
        pack(HEADER, FileData(2**32, b"x"))
    with pytest.raises(LinkError, match="destination_id=256"):
        pack(HEADER._replace(destination_id=256), Prompt(False))


@given(st.binary(max_size=300), st.lists(st.integers(0, 300)))
def test_a_checksum_does_not_depend_on_the_pieces(octets: bytes, cuts: list[int]) -> None:
    words = octets + bytes(-len(octets) % 4)
    expected = {
        ChecksumType.CRC_32: zlib.crc32(octets),
        ChecksumType.NULL: 0,
        ChecksumType.MODULAR: sum(int.from_bytes(words[i : i + 4], "big") for i in range(0, len(words), 4)) % 2**32,
    }
    for kind, value in expected.items():
        checksum, at = Checksum(kind), 0
        for cut in [*sorted(cuts), len(octets)]:
            checksum.update(octets[at:cut])
            at = max(at, cut)
        assert checksum.value == value


def test_an_unknown_checksum_is_named() -> None:
    with pytest.raises(LinkError, match="type 2"):
        Checksum(2)
    assert Condition.UNSUPPORTED_CHECKSUM == 11
    assert pdus.LARGE_FILE_OCTETS == 2**32

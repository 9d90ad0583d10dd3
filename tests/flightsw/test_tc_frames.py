"""TC transfer frames: layout, what returns, and what must be refused."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.errors import LinkError
from flightsw.link.packets import crc16
from flightsw.link.tc_frames import TcFrame, TcKind, build_tc_frame, parse_tc_frame

SCID = 0x1A5


def _reseal(frame: bytes, at: int, octet: int) -> bytes:
    body = frame[:at] + bytes((octet,)) + frame[at + 1 : -2]
    return body + crc16(body).to_bytes(2, "big")


def test_tc_frame_is_laid_out_as_the_standard_says() -> None:
    frame = build_tc_frame(b"\x01\x02\x03", scid=0x2F6, vcid=5, map_id=9)
    # version 0, bypass 1, control 0, spacecraft; channel, length less one; sequence 0; unsegmented, MAP
    assert frame[:-2].hex() == "22f6" + "140a" + "00" + "c9" + "010203"
    assert crc16(frame) == 0


@given(st.binary(min_size=1, max_size=1016), st.integers(0, 1023), st.integers(0, 63), st.integers(0, 63))
def test_tc_frames_return_with_and_without_fill(packet: bytes, scid: int, vcid: int, map_id: int) -> None:
    frame = build_tc_frame(packet, scid, vcid, map_id)
    for fill in (b"", b"\x55" * 6):
        assert parse_tc_frame(frame + fill, scid, vcid) == TcFrame(TcKind.BD, scid, vcid, 0, map_id, packet)


TC = build_tc_frame(b"0123456789", SCID)


@pytest.mark.parametrize(
    ("octets", "complaint"),
    [
        (TC[:7], "TC frame of 7 octets is shorter than 8 octets"),
        (TC[:-1], "states 18 octets, its CLTU carries 17 octets"),
        (TC + b"\x55" * 7, "states 18 octets, its CLTU carries 25 octets"),
        (TC[:8] + b"?" + TC[9:], "carries error control 0x"),
        (_reseal(TC, 0, TC[0] | 0x40), "version and flags 0x18, expected 0x00, 0x08 or 0x0c: AD, BD or BC"),
        (_reseal(TC, 0, TC[0] & 0xDF | 0x10), "version and flags 0x04, expected"),
        (build_tc_frame(b"x", SCID + 1), f"for spacecraft {SCID + 1}, this is spacecraft {SCID}"),
        (build_tc_frame(b"x", SCID, vcid=3), "on virtual channel 3, expected 0"),
        (_reseal(TC, 5, 0x40), "segment flags 1, expected 3"),
    ],
)
def test_a_tc_frame_that_is_not_ours_is_refused_and_named(octets: bytes, complaint: str) -> None:
    with pytest.raises(LinkError, match=complaint):
        parse_tc_frame(octets, SCID)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((b"", SCID), r"packet of 0 octets outside 1\.\.1016 octets"),
        ((bytes(1017), SCID), "packet of 1017 octets outside"),
        ((b"x", -1), "spacecraft id -1 outside"),
        ((b"x", SCID, 64), "virtual channel 64 outside"),
        ((b"x", SCID, 0, 64), "MAP id 64 outside"),
    ],
)
def test_a_tc_frame_that_cannot_be_is_refused(arguments: tuple[object, ...], complaint: str) -> None:
    with pytest.raises(LinkError, match=complaint):
        build_tc_frame(*arguments)


@given(st.binary(max_size=60))
def test_random_octets_are_no_tc_frame(octets: bytes) -> None:
    with pytest.raises(LinkError):
        parse_tc_frame(octets, SCID)


def test_no_one_or_two_wrong_bits_make_a_tc_frame() -> None:
    positions = range(8 * len(TC))
    for pair in itertools.chain(itertools.combinations(positions, 1), itertools.combinations(positions, 2)):
        damaged = bytearray(TC)
        for bit in pair:
            damaged[bit >> 3] ^= 0x80 >> (bit & 7)
        with pytest.raises(LinkError):
            parse_tc_frame(bytes(damaged), SCID)


def test_the_shortest_frame_unlocks_and_one_without_data_is_refused() -> None:
    unlock = build_tc_frame(b"\0", SCID, kind=TcKind.BC)
    assert len(unlock) == 8
    assert parse_tc_frame(unlock + bytes(6), SCID).data == b"\0"
    body = TC[:2] + bytes((0, 7)) + TC[4:6]
    with pytest.raises(LinkError, match="without data"):
        parse_tc_frame(body + crc16(body).to_bytes(2, "big"), SCID)

"""Randomisers, markers, codeblocks: published vectors, and streams cut, damaged and buried in noise."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.errors import LinkError
from flightsw.kernels import FrameCodec
from flightsw.link.coding import (
    ASM,
    CLTU_START,
    CLTU_TAIL,
    CaduSynchroniser,
    CltuDecoder,
    bch_parity,
    encode_cltu,
    randomise_tc,
)
from flightsw.link.packets import crc16

FRAME_OCTETS = 40
CADU_OCTETS = FRAME_OCTETS + 4

# SpacePyLibrary, by way of the Yamcs test of its CLTU generator.
TC_FRAME = bytes.fromhex("22F600230082000F001DFF000000000F001EFF000000000F001FFF000000000FAC8F0068")
TC_CLTU = bytes.fromhex(
    "EB9022F60023008200240F001DFF00000034000F001EFF00001000000F001FFF00D80000000FAC8F00906855555555555506C5C5C5C5C5C5C579"
)


def _frame(number: int) -> bytes:
    body = random.Random(number).randbytes(FRAME_OCTETS - 2)
    return body + crc16(body).to_bytes(2, "big")


FRAMES = [_frame(number) for number in range(12)]
CODEC = FrameCodec(FRAME_OCTETS)
CADUS = [CODEC.encode(frame[:-2]) for frame in FRAMES]
STREAM = b"".join(CADUS)


def _flip(octets: bytes, *bits: int) -> bytes:
    damaged = bytearray(octets)
    for bit in bits:
        damaged[bit >> 3] ^= 0x80 >> (bit & 7)
    return bytes(damaged)


def _pieces(octets: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(octets) + 1) for cut in cuts), len(octets)]
    return [octets[a:b] for a, b in itertools.pairwise(edges)]


def test_the_randomiser_gives_the_published_sequence() -> None:
    assert randomise_tc(bytes(8)).hex().upper() == "FF399E5A68E906F5"


def test_the_randomiser_repeats_after_255_octets_and_undoes_itself() -> None:
    sequence = randomise_tc(bytes(600))
    assert sequence[255:510] == sequence[:255]
    assert sum(octet.bit_count() for octet in sequence[:255]) == 255 * 128 * 8 // 255
    message = random.Random(1).randbytes(600)
    assert randomise_tc(randomise_tc(message)) == message


@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_any_cutting_of_the_stream_gives_the_same_frames(cuts: list[int]) -> None:
    synchroniser = CaduSynchroniser(FRAME_OCTETS)
    frames = [frame for piece in _pieces(STREAM, cuts) for frame in synchroniser.push(piece)]
    assert frames == FRAMES
    assert (synchroniser.frames, synchroniser.bad_frames, synchroniser.skipped_octets) == (len(FRAMES), 0, 0)


def test_a_frame_is_handed_on_with_its_last_octet() -> None:
    synchroniser = CaduSynchroniser(FRAME_OCTETS)
    assert synchroniser.push(STREAM[: CADU_OCTETS - 1]) == []
    assert synchroniser.push(STREAM[CADU_OCTETS - 1 : CADU_OCTETS]) == [FRAMES[0]]


def test_noise_before_and_between_is_skipped_and_counted() -> None:
    noise = bytes(range(50)) + ASM[:3]
    synchroniser = CaduSynchroniser(FRAME_OCTETS)
    stream = noise + STREAM[: 2 * CADU_OCTETS] + noise + STREAM[2 * CADU_OCTETS :]
    assert synchroniser.push(stream) == FRAMES
    assert synchroniser.skipped_octets == 2 * len(noise)


def test_a_false_marker_swallows_no_frame() -> None:
    synchroniser = CaduSynchroniser(FRAME_OCTETS)
    assert synchroniser.push(ASM + b"text on the console" + STREAM) == FRAMES


@pytest.mark.parametrize("lost", [1, 7, FRAME_OCTETS])
def test_lost_octets_cost_only_the_frame_that_lost_them(lost: int) -> None:
    at = 5 * CADU_OCTETS + 6
    stream = STREAM[:at] + STREAM[at + lost :]
    next_kept = 7 if lost == FRAME_OCTETS else 6  # the longest gap takes the next marker with it
    assert CaduSynchroniser(FRAME_OCTETS).push(stream) == FRAMES[:5] + FRAMES[next_kept:]


def test_doubled_octets_cost_only_the_frame_that_has_them() -> None:
    at = 5 * CADU_OCTETS + 10
    stream = STREAM[: at + 5] + STREAM[at:]
    assert CaduSynchroniser(FRAME_OCTETS).push(stream) == FRAMES[:5] + FRAMES[6:]


def test_four_wrong_marker_bits_keep_lock_and_five_do_not() -> None:
    marker = 8 * CADU_OCTETS * 3
    four = _flip(STREAM, *(marker + bit for bit in (0, 9, 20, 31)))
    assert CaduSynchroniser(FRAME_OCTETS).push(four) == FRAMES
    five = _flip(four, marker + 15)
    assert CaduSynchroniser(FRAME_OCTETS).push(five) == FRAMES[:3] + FRAMES[4:]
    assert CaduSynchroniser(FRAME_OCTETS, asm_bit_errors=0).push(four) == FRAMES[:3] + FRAMES[4:]


def test_a_damaged_marker_is_not_taken_without_lock() -> None:
    assert CaduSynchroniser(FRAME_OCTETS).push(_flip(STREAM, 5)) == FRAMES[1:]


def test_bit_errors_in_a_frame_cost_that_frame_and_keep_lock() -> None:
    synchroniser = CaduSynchroniser(FRAME_OCTETS)
    damaged = _flip(STREAM, 8 * (2 * CADU_OCTETS + 20), 8 * (3 * CADU_OCTETS) + 3)
    assert synchroniser.push(damaged) == FRAMES[:2] + FRAMES[3:]
    assert synchroniser.locked
    assert (synchroniser.bad_frames, synchroniser.skipped_octets) == (1, 0)


def test_a_bad_frame_at_the_end_of_a_push_keeps_lock_on_the_marker_to_come() -> None:
    synchroniser = CaduSynchroniser(FRAME_OCTETS)
    damaged = _flip(STREAM, 8 * (CADU_OCTETS + 20), 8 * 2 * CADU_OCTETS + 3)
    assert synchroniser.push(damaged[: 2 * CADU_OCTETS + 2]) == FRAMES[:1]
    assert synchroniser.push(damaged[2 * CADU_OCTETS + 2 :]) == FRAMES[2:]
    assert synchroniser.skipped_octets == 0


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_marker_cut_by_a_push_is_found_after_noise(cut: int) -> None:
    synchroniser = CaduSynchroniser(FRAME_OCTETS)
    assert synchroniser.push(b"noise" + STREAM[:cut]) == []
    assert synchroniser.push(STREAM[cut:]) == FRAMES


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=8), st.integers(0, 30))
def test_a_good_stream_is_received_after_any_noise(noise: bytes, cuts: list[int], markers: int) -> None:
    synchroniser = CaduSynchroniser(FRAME_OCTETS)
    for piece in _pieces(noise + ASM * markers, cuts):
        synchroniser.push(piece)
    received = synchroniser.push(STREAM)
    assert received == FRAMES or received == FRAMES[1:]  # noise may end in the head of a marker
    assert len(synchroniser._rest) < 2 * CADU_OCTETS


@given(st.lists(st.sets(st.integers(0, 8 * CADU_OCTETS - 1), max_size=3), min_size=12, max_size=12))
def test_up_to_three_wrong_bits_a_frame_never_pass(bits: list[set[int]]) -> None:
    damaged = b"".join(
        _flip(cadu, *wrong) for cadu, wrong in zip(CADUS, bits, strict=True)
    )
    received = CaduSynchroniser(FRAME_OCTETS).push(damaged)
    assert set(received) <= set(FRAMES)


@pytest.mark.parametrize(
    ("information", "parity"),
    [
        ("22F600FF00421A", 0x12),
        ("8CC00E010D1906", 0x5A),
        ("301B0009008200", 0x54),
        ("10E4C155555555", 0x3E),
    ],
)
def test_bch_gives_the_published_parities(information: str, parity: int) -> None:
    assert bch_parity(bytes.fromhex(information)) == parity


def test_cltu_is_the_published_one() -> None:
    assert encode_cltu(TC_FRAME) == TC_CLTU
    assert CltuDecoder().push(TC_CLTU) == [TC_FRAME + b"\x55" * 6]


@given(
    st.lists(st.binary(min_size=1, max_size=1024), min_size=1, max_size=4),
    st.lists(st.integers(0, 5000), max_size=20),
    st.booleans(),
)
def test_cltus_survive_any_cutting(frames: list[bytes], cuts: list[int], randomised: bool) -> None:
    decoder = CltuDecoder(randomised)
    stream = b"".join(encode_cltu(frame, randomised) for frame in frames)
    contents = [content for piece in _pieces(stream, cuts) for content in decoder.push(piece)]
    assert [content[: len(frame)] for content, frame in zip(contents, frames, strict=True)] == frames
    assert all(len(content) - len(frame) < 7 for content, frame in zip(contents, frames, strict=True))
    assert (decoder.bad_codeblocks, decoder.skipped_octets) == (0, 0)


def test_a_bad_codeblock_ends_the_cltu_and_is_counted() -> None:
    decoder = CltuDecoder()
    damaged = _flip(TC_CLTU, 8 * (2 + 8 * 2) + 4)
    assert decoder.push(damaged + TC_CLTU) == [TC_FRAME[:14], TC_FRAME + b"\x55" * 6]
    assert decoder.bad_codeblocks == 1


def test_the_filler_bit_is_checked() -> None:
    decoder = CltuDecoder()
    assert decoder.push(_flip(TC_CLTU, 8 * 10 - 1)) == []
    assert decoder.bad_codeblocks == 1


def test_a_damaged_tail_costs_nothing() -> None:
    decoder = CltuDecoder()
    assert decoder.push(_flip(TC_CLTU, 8 * len(TC_CLTU) - 1) + TC_CLTU) == [TC_FRAME + b"\x55" * 6] * 2


def test_a_cltu_cut_short_costs_only_itself() -> None:
    noise = CltuDecoder()
    assert noise.push(b"noise" + TC_CLTU + b"noise" + CLTU_START[:1]) == [TC_FRAME + b"\x55" * 6]
    assert noise.skipped_octets == 10
    for kept in range(len(TC_CLTU) - len(CLTU_TAIL)):
        received = CltuDecoder().push(TC_CLTU[:kept] + TC_CLTU)
        assert received[-1] == TC_FRAME + b"\x55" * 6


def test_an_endless_cltu_is_ended_at_the_longest_frame() -> None:
    block = bytes(7) + bytes((bch_parity(bytes(7)),))
    decoder = CltuDecoder()
    contents = decoder.push(CLTU_START + block * 1000)
    assert contents == [bytes(7 * 147)]
    assert decoder.bad_codeblocks == 1
    assert len(decoder._buffer) <= 2


@pytest.mark.parametrize("octets", [0, 1025])
def test_a_frame_that_fits_no_cltu_is_refused(octets: int) -> None:
    with pytest.raises(LinkError, match=rf"TC frame of {octets} octets, limit 1\.\.1024 octets"):
        encode_cltu(bytes(octets))


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_noise_never_raises_and_never_piles_up(pieces: list[bytes]) -> None:
    decoder = CltuDecoder()
    synchroniser = CaduSynchroniser(FRAME_OCTETS)
    for piece in pieces:
        decoder.push(piece)
        synchroniser.push(piece)
        assert len(decoder._buffer) < 10
        assert len(synchroniser._rest) < CADU_OCTETS + 4

"""Reed-Solomon and frame kernels against published vectors, a plain reference, libfec, and damage of every weight."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import libfec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flightsw.errors import KernelError
from flightsw.kernels import FrameCodec, ReedSolomon
from flightsw.link.packets import crc16

# CCSDS 131.0-B-5, section 4 and annex F, as plainly as it can be written.
EXP = [1]
for _ in range(254):
    EXP.append(EXP[-1] << 1 ^ (0x187 if EXP[-1] & 0x80 else 0))
LOG = {value: power for power, value in enumerate(EXP)}
ROOTS = [EXP[11 * j % 255] for j in range(112, 144)]
DUAL_OF_BIT = [0x7B, 0xAF, 0x99, 0xFA, 0x86, 0xEC, 0xEF, 0x8D]


def multiply(a: int, b: int) -> int:
    return EXP[(LOG[a] + LOG[b]) % 255] if a and b else 0


def to_dual(value: int) -> int:
    dual = 0
    for bit in range(8):
        dual ^= DUAL_OF_BIT[bit] if value >> bit & 1 else 0
    return dual


TO_DUAL = [to_dual(value) for value in range(256)]
FROM_DUAL = [TO_DUAL.index(value) for value in range(256)]
GENERATOR = [1]
for root in ROOTS:
    GENERATOR = [a ^ multiply(b, root) for a, b in zip([*GENERATOR, 0], [0, *GENERATOR], strict=True)]


def reference_parity(data: bytes) -> bytes:
    remainder = [0] * 32
    for octet in data:
        fed_back = FROM_DUAL[octet] ^ remainder[0]
        remainder = [a ^ multiply(fed_back, g) for a, g in zip([*remainder[1:], 0], GENERATOR[1:], strict=True)]
    return bytes(TO_DUAL[value] for value in remainder)


def randomised(octets: bytes) -> bytes:
    """131.0-B-5, section 10.4, bit by bit."""
    state, out = [1] * 8, bytearray()
    for octet in octets:
        mask = 0
        for _ in range(8):
            mask = mask << 1 | state[0]
            state = [*state[1:], state[0] ^ state[3] ^ state[5] ^ state[7]]
        out.append(octet ^ mask)
    return bytes(out)


def damaged(octets: bytes, places: Iterator[int] | list[int], seed: int = 0) -> bytes:
    draw = random.Random(seed)
    wrong = bytearray(octets)
    for at in places:
        wrong[at] ^= draw.randrange(1, 256)
    return bytes(wrong)


# --- the code ---------------------------------------------------------------------------------------------


def test_published_vectors() -> None:
    code = ReedSolomon()
    parity = code.encode(bytes(range(223)))[223:]
    assert parity.hex().upper() == "4FFB92DD557EC67F27FB8982CF58F8FD028AD117FCEF6B2793D0418826578651"
    parity = code.encode(bytes(222) + b"\1")[223:]
    assert parity.hex().upper() == "660827F283411B8B28E61FAD2759C879C85927AD1FE6288B1B4183F227086601"


def test_the_conventional_vector_by_the_reference() -> None:
    """Data 00..DE in the conventional basis (libfec, reedsolo): the same code seen through the map of bases."""
    data = bytes(TO_DUAL[value] for value in range(223))
    parity = ReedSolomon().encode(data)[223:]
    assert bytes(FROM_DUAL[octet] for octet in parity).hex().upper() == (
        "2FBD4FB4748494B9ACD554627212EEB3EBED41191DE1D36320EA49290B25ABCF")


@pytest.mark.parametrize("interleave", [1, 2, 3, 4, 5, 6, 8])
def test_blocks_are_those_of_the_reference(interleave: int) -> None:
    data = random.Random(interleave).randbytes(223 * interleave)
    block = ReedSolomon(interleave).encode(data)
    assert block[: 223 * interleave] == data
    for i in range(interleave):
        assert block[223 * interleave + i :: interleave] == reference_parity(data[i::interleave])


@pytest.mark.parametrize("interleave", [1, 5])
@pytest.mark.parametrize("errors", [0, 1, 2, 7, 8, 15, 16])
def test_up_to_sixteen_wrong_octets_in_each_codeword_are_put_right(interleave: int, errors: int) -> None:
    code = ReedSolomon(interleave)
    for seed in range(40):
        draw = random.Random(f"{seed}/{errors}")
        data = draw.randbytes(223 * interleave)
        places = [p * interleave + i for i in range(interleave) for p in draw.sample(range(255), errors)]
        assert code.decode(damaged(code.encode(data), places, seed)) == (data, errors * interleave)


def test_every_single_octet_and_every_burst_of_sixteen() -> None:
    code = ReedSolomon()
    data = random.Random(3).randbytes(223)
    block = code.encode(data)
    for at in range(255):
        assert code.decode(damaged(block, [at], at)) == (data, 1)
    for at in range(240):
        assert code.decode(damaged(block, range(at, at + 16), at)) == (data, 16)


def test_seventeen_are_refused_in_any_of_the_codewords() -> None:
    code = ReedSolomon(5)
    data = random.Random(4).randbytes(1115)
    block = code.encode(data)
    for i in range(5):
        for seed in range(40):
            places = [p * 5 + i for p in random.Random(seed).sample(range(255), 17)]
            assert code.decode(damaged(block, places, seed)) is None


@settings(max_examples=200)
@given(st.binary(min_size=255, max_size=255))
def test_what_is_handed_out_is_always_a_codeword(block: bytes) -> None:
    code = ReedSolomon()
    found = code.decode(block)
    if found is not None:
        data, wrong = found
        assert sum(a != b for a, b in zip(code.encode(data), block, strict=True)) == wrong <= 16


def test_libfec_encodes_the_same_and_each_repairs_what_the_other_sent() -> None:
    theirs, ours = libfec.load(), ReedSolomon(5)
    for seed in range(200):
        draw = random.Random(seed)
        data = draw.randbytes(1115)
        block = ours.encode(data)
        codewords = theirs.encode_five(libfec.contiguous(data + bytes(160)))
        assert libfec.interleaved(codewords) == block
        places = [p * 5 + i for i in range(5) for p in draw.sample(range(255), seed % 17)]
        wrong = damaged(block, places, seed)
        assert ours.decode(wrong) == (data, len(places))
        assert theirs.decode_five(libfec.contiguous(wrong)) == (codewords, len(places))


def test_libfec_refuses_what_we_refuse() -> None:
    theirs, ours = libfec.load(), ReedSolomon(5)
    block = ours.encode(random.Random(5).randbytes(1115))
    for seed in range(300):
        draw = random.Random(seed)
        wrong = damaged(block, [p * 5 for p in draw.sample(range(255), 17 + seed % 44)], seed)
        assert (ours.decode(wrong) is None) == (theirs.decode_five(libfec.contiguous(wrong))[1] < 0)


# --- the frame --------------------------------------------------------------------------------------------

CODECS = [(40, 0), (223, 0), (223, 1), (1115, 0), (1115, 5), (2048, 0), (1784, 8)]


@pytest.mark.parametrize(("frame_octets", "interleave"), CODECS)
def test_the_line_carries_marker_code_and_randomiser(frame_octets: int, interleave: int) -> None:
    codec = FrameCodec(frame_octets, interleave)
    body = random.Random(frame_octets).randbytes(frame_octets - 2)
    frame = body + crc16(body).to_bytes(2, "big")
    block = ReedSolomon(interleave).encode(frame) if interleave else frame
    line = codec.encode(body)
    assert line == bytes.fromhex("1ACFFC1D") + randomised(block)
    assert len(line) == codec.line_octets == 4 + codec.block_octets
    assert codec.decode(line[4:]) == frame
    assert codec.corrected_octets == 0


def test_the_randomiser_is_the_published_one() -> None:
    line = FrameCodec(300).encode(bytes(298))
    assert line[4:20].hex().upper() == "FF480EC09A0D70BC8E2C93ADA7B746CE"
    assert line[4:259][:43] == line[259:302]


@pytest.mark.parametrize("octets", range(3, 40))
def test_the_check_is_that_of_the_standard_for_every_length(octets: int) -> None:
    body = random.Random(octets).randbytes(octets - 2)
    frame = FrameCodec(octets).decode(FrameCodec(octets).encode(body)[4:])
    assert frame == body + crc16(body).to_bytes(2, "big")


def test_an_uncoded_frame_with_any_wrong_bit_is_refused() -> None:
    codec = FrameCodec(223)
    block = codec.encode(random.Random(1).randbytes(221))[4:]
    for bit in range(8 * 223):
        wrong = bytearray(block)
        wrong[bit >> 3] ^= 1 << (bit & 7)
        assert codec.decode(bytes(wrong)) is None


def test_a_coded_frame_is_repaired_and_counted() -> None:
    codec = FrameCodec(1115, 5)
    body = random.Random(2).randbytes(1113)
    block = codec.encode(body)[4:]
    frame = codec.decode(damaged(block, range(300, 380)))
    assert frame is not None
    assert frame[:-2] == body
    assert codec.corrected_octets == 80
    assert codec.decode(damaged(block, range(300, 385))) is None
    assert codec.corrected_octets == 80


@pytest.mark.parametrize(("frame_octets", "interleave"), [(2, 0), (2049, 0), (223, 5), (1115, 1), (2007, 9), (223, -1)])
def test_codecs_that_cannot_be_are_refused(frame_octets: int, interleave: int) -> None:
    with pytest.raises(KernelError, match="fsw_frame_init"):
        FrameCodec(frame_octets, interleave)


def test_wrong_lengths_are_refused() -> None:
    codec = FrameCodec(223, 1)
    for octets in (0, 220, 222, 223):
        with pytest.raises(KernelError, match="length"):
            codec.encode(bytes(octets))
    for octets in (0, 223, 254, 256):
        with pytest.raises(KernelError, match="length"):
            codec.decode(bytes(octets))
    for octets, call in itertools.product((0, 222, 255), (ReedSolomon(2).encode, ReedSolomon(2).decode)):
        with pytest.raises(KernelError, match="octets"):
            call(bytes(octets))
    for interleave in (0, 9):
        with pytest.raises(KernelError, match="interleave"):
            ReedSolomon(interleave)

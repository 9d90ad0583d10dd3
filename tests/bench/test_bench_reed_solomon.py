"""The Reed-Solomon kernel beside libfec: a block of interleave 5, the work of five codewords on either side.

libfec is given its codewords contiguous and all five in one call; ours come interleaved, as they are on the line.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from flightsw.kernels import FrameCodec, ReedSolomon
from tests.c_kernels import libfec

DATA = random.Random(1).randbytes(1115)
CODE = ReedSolomon(5)
BLOCK = CODE.encode(DATA)


def _wrong(errors: int) -> bytes:
    wrong = bytearray(BLOCK)
    for i in range(5):
        for p in random.Random(i).sample(range(255), errors):
            wrong[5 * p + i] ^= 0x5A
    return bytes(wrong)


@pytest.mark.benchmark(group="Reed-Solomon, 1,115 octets: encode")
@pytest.mark.parametrize("by", ["flightsw", "libfec"])
def test_bench_encode(benchmark: BenchmarkFixture, by: str) -> None:
    if by == "flightsw":
        assert benchmark(CODE.encode, DATA) == BLOCK
    else:
        codewords = benchmark(libfec.load().encode_five, libfec.contiguous(DATA + bytes(160)))
        assert libfec.interleaved(codewords) == BLOCK


GROUP = "Reed-Solomon, 1,115 octets: decode, {} wrong a codeword"


@pytest.mark.parametrize("errors", [
    pytest.param(errors, marks=pytest.mark.benchmark(group=GROUP.format(errors))) for errors in (0, 1, 8, 16)
])
@pytest.mark.parametrize("by", ["flightsw", "libfec"])
def test_bench_decode(benchmark: BenchmarkFixture, by: str, errors: int) -> None:
    wrong = _wrong(errors)
    if by == "flightsw":
        assert benchmark(CODE.decode, wrong) == (DATA, 5 * errors)
    else:
        codewords, corrected = benchmark(libfec.load().decode_five, libfec.contiguous(wrong))
        assert (libfec.interleaved(codewords), corrected) == (BLOCK, 5 * errors)


@pytest.mark.benchmark(group="one frame to the line and back: check, code, randomiser, marker")
@pytest.mark.parametrize(("frame_octets", "interleave"), [(223, 0), (223, 1), (1115, 0), (1115, 5)])
@pytest.mark.parametrize("way", ["encode", "decode"])
def test_bench_frame(benchmark: BenchmarkFixture, way: str, frame_octets: int, interleave: int) -> None:
    codec = FrameCodec(frame_octets, interleave)
    body = random.Random(2).randbytes(frame_octets - 2)
    line = codec.encode(body)
    work: Callable[[], bytes | None] = (lambda: codec.encode(body)) if way == "encode" else (
        lambda: codec.decode(line[4:]))
    assert benchmark(work)

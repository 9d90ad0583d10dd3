"""What a housekeeping packet costs: from the points to the octets of the packet and back to the points.

Peers in the same run: the interface document (construct, compiled where it can be), spacepackets for the headers with
`struct` for the points, and CCSDS 124.0-B compression, both ends, on telemetry that moves as a satellite's does.
"""

from __future__ import annotations

import functools
import random
import struct
from collections.abc import Callable, Sequence

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from spacepackets.ecss.tm import PusTm

from flightsw.dictionary.telemetry import BY_SID, MISSING, POINT_INDEX, POINTS, pack_housekeeping, unpack_housekeeping
from flightsw.link import icd
from flightsw.link.compress import SeriesCompressor, SeriesDecompressor
from flightsw.link.packets import Telemetry, pack_tm, unpack_tm

SID = 3  # nodes_a: 20 points in 69 octets
ROW = BY_SID[SID]


def pools(count: int) -> list[list[float | int]]:
    """Samples of all points: sensors with noise of a few of their steps, counters that count, jobs that change."""
    drawn = random.Random(1)
    made = []
    pool: list[float | int] = [MISSING if point.kind.startswith("f") else 0 for point in POINTS]
    for second in range(count):
        for point in ROW.points:
            at = POINT_INDEX[point.name]
            if point.kind == "f32":
                pool[at] = round(20.0 + 10.0 * (second % 900) / 900.0 + drawn.gauss(0.0, 0.05), 2)
            elif second % 60 == 0:
                pool[at] = drawn.randrange(5)
        made.append(list(pool))
    return made


def ours(pool: Sequence[float | int]) -> tuple[float | int, ...]:
    packet = pack_tm(Telemetry(100, 5, 3, 25, 1, 0, 1.75e9, pack_housekeeping(SID, pool)))
    return unpack_housekeeping(unpack_tm(packet).data)[1]


def document(pool: Sequence[float | int]) -> tuple[float | int, ...]:
    layout = icd.HOUSEKEEPING[ROW.name]
    data = layout.build({point.name: pool[POINT_INDEX[point.name]] for point in ROW.points})
    fields = {"apid": 100, "seq_count": 5, "service": 3, "subservice": 25, "msg_counter": 1, "destination_id": 0,
              "coarse_s": 1_750_000_000, "fine_s_by_65536": 0, "data": data}
    read = layout.parse(icd.TM_PACKET.parse(icd.TM_PACKET.build({"body": {"value": fields}})).body.value.data)
    return tuple([read[point.name] for point in ROW.points])


def spacepackets(layout: struct.Struct, pool: Sequence[float | int]) -> tuple[float | int, ...]:
    data = layout.pack(SID, *[pool[POINT_INDEX[point.name]] for point in ROW.points])
    packet = PusTm(service=3, message_subtype=25, timestamp=bytes(6), source_data=data, apid=100, seq_count=5,
                   message_counter=1).pack()
    unpacked: tuple[float | int, ...] = layout.unpack(PusTm.unpack(bytes(packet), timestamp_len=6).source_data)[1:]
    return unpacked


PEERS: dict[str, Callable[[Sequence[float | int]], tuple[float | int, ...]]] = {
    "flightsw": ours,
    "construct": document,
    "spacepackets": functools.partial(spacepackets, struct.Struct(">B" + "".join(
        {"f32": "f", "u8": "B", "u32": "I"}[point.kind] for point in ROW.points))),
}


@pytest.mark.benchmark(group="housekeeping packet of 69 octets of points, encode and decode")
@pytest.mark.parametrize("by", PEERS)
def test_bench_encode_and_decode(benchmark: BenchmarkFixture, by: str) -> None:
    pool = pools(1)[0]
    values = benchmark(PEERS[by], pool)
    assert values == ours(pool)


@pytest.mark.benchmark(group="the same, compressed and expanded")
@pytest.mark.parametrize("end", ["compress", "expand"])
def test_bench_compression(benchmark: BenchmarkFixture, end: str) -> None:
    packets = [pack_housekeeping(SID, pool) for pool in pools(300)]
    made: list[bytes] = []

    def compress() -> None:
        series = SeriesCompressor()
        made[:] = [series.pack(packet) for packet in packets]

    def expand() -> list[bytes | None]:
        series = SeriesDecompressor({SID: len(packets[0])})
        return [series.unpack(packet) for packet in made]

    compress()
    if end == "compress":
        benchmark(compress)
    else:
        assert benchmark(expand) == packets
    benchmark.extra_info["packets"] = len(packets)
    benchmark.extra_info["ratio"] = sum(map(len, packets)) / sum(map(len, made))

"""POCKET+ against ESA's reference output; whatever is lost or broken, what comes out is what went in or nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.dictionary.telemetry import HOUSEKEEPING, MISSING, POINT_INDEX, POINTS, housekeeping_octets
from flightsw.errors import LinkError
from flightsw.link.compress import Compressor, Decompressor, SeriesCompressor, SeriesDecompressor
from flightsw.link.packets import pack_tm, unpack_tm
from flightsw.link.services import COMPRESSED_REPORT, HousekeepingExpander, Reporter
from flightsw.link.stack import STANDARD

VECTORS = Path(__file__).parents[1] / "data/pocket_plus"
OCTETS = {row.sid: housekeeping_octets(row.sid) for row in HOUSEKEEPING}
PLAIN = 25


@pytest.mark.parametrize(("packets", "expected", "robustness"), [
    ("simple.bin", "simple.pkt", 1), ("edges.bin", "edges.pkt", 1), ("simple.bin", "robust.pkt", 7)])
def test_output_is_that_of_the_reference_bit_for_bit(packets: str, expected: str, robustness: int) -> None:
    data = (VECTORS / packets).read_bytes()
    compressor, decompressor, out = Compressor(90, robustness, 10, 20, 50), Decompressor(90), b""
    for at in range(0, len(data), 90):
        compressed = compressor.compress(data[at:at + 90])
        assert decompressor.decompress(compressed, 0) == data[at:at + 90]
        out += compressed
    assert out == (VECTORS / expected).read_bytes()


def walk(seed: int, octets: int, count: int) -> list[bytes]:
    """Packets in which some bits never change, some now and then, some always, and which now and then jump."""
    drawn = random.Random(seed)
    busy = [drawn.choice((0.0, 0.0, 0.02, 0.5)) for _ in range(8 * octets)]
    now, packets = 0, []
    for _ in range(count):
        rate = 1.0 if drawn.random() > 0.03 else 10.0
        for i, chance in enumerate(busy):
            now ^= (drawn.random() < chance * rate) << i
        packets.append(now.to_bytes(octets, "big"))
    return packets


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(0, 7), st.integers(1, 12), st.integers(1, 20))
def test_after_any_losses_what_comes_out_is_what_went_in_or_nothing(seed: int, octets: int, robustness: int,
                                                                   renew: int, complete: int) -> None:
    packets, drawn = walk(seed, octets, 60), random.Random(seed + 1)
    compressor, decompressor = Compressor(octets, robustness, renew, complete, complete), Decompressor(octets)
    lost, waited = 0, None
    for packet in packets:
        compressed = compressor.compress(packet)
        if drawn.random() < 0.25:
            lost += 1
            continue
        came = decompressor.decompress(compressed, lost)
        assert came in (packet, None)
        if lost <= robustness and waited is False:
            assert came is not None  # losses that it is made for cost nothing but themselves
        waited, lost = came is None, 0


def test_losses_beyond_its_robustness_are_over_with_the_next_complete_packet() -> None:
    packets = walk(3, 20, 200)
    compressor, decompressor = Compressor(20, 2, 20, 30, 30), Decompressor(20)
    compressed = [compressor.compress(packet) for packet in packets]
    for i in range(63):
        assert decompressor.decompress(compressed[i], 0) == packets[i]
    came = [decompressor.decompress(compressed[i], 20 if i == 83 else 0) for i in range(83, 200)]
    assert came[:7] == [None] * 7
    assert came[7:] == packets[90:]


@given(st.binary(max_size=80), st.integers(1, 12), st.integers(0, 20))
def test_anything_is_a_packet_or_nothing_or_a_link_error(data: bytes, octets: int, lost: int) -> None:
    compressor, decompressor = Compressor(octets, 1, 5, 5, 5), Decompressor(octets)
    first = compressor.compress(bytes(octets))
    decompressor.decompress(first, 0)
    try:
        came = decompressor.decompress(data, lost)
    except LinkError:
        assert decompressor.decompress(compressor.compress(bytes(octets)), 0) == bytes(octets)  # a complete one
        return
    assert came is None or len(came) == octets


@given(st.integers(0, 2**32), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 7)), min_size=1, max_size=4))
def test_a_damaged_series_never_gives_a_packet_that_did_not_go_in(seed: int, flips: list[tuple[int, int]]) -> None:
    series, ground = SeriesCompressor(), SeriesDecompressor({7: 13})
    for i, packet in enumerate(walk(seed, 12, 40)):
        data = bytearray(series.pack(b"\x07" + packet))
        if i % 5 == 3:
            for at, bit in flips:
                data[4 + at % (len(data) - 4)] ^= 1 << bit
        try:
            came = ground.unpack(bytes(data))
        except LinkError:
            continue
        assert came in (b"\x07" + packet, None)


def test_a_restarted_satellite_is_taken_up_at_once() -> None:
    ground, packets = SeriesDecompressor({7: 13}), [b"\x07" + packet for packet in walk(5, 12, 50)]
    for life in range(4):
        series = SeriesCompressor()
        for packet in packets[life:life + 11]:
            assert ground.unpack(series.pack(packet)) == packet


@pytest.mark.parametrize("data", [b"", b"\x07\x00\x00", b"\x63\x00\x00\x00\x00"])
def test_what_is_of_no_series_is_refused(data: bytes) -> None:
    with pytest.raises(LinkError):
        SeriesDecompressor({7: 13}).unpack(data)


@pytest.mark.parametrize(("octets", "robustness"), [(0, 1), (8192, 1), (10, 8), (10, -1)])
def test_what_the_standard_has_no_code_for_is_refused(octets: int, robustness: int) -> None:
    with pytest.raises(LinkError):
        Compressor(octets, robustness, 1, 1, 1)
    with pytest.raises(LinkError, match="packet of 2 octets"):
        Compressor(3, 0, 1, 1, 1).compress(b"12")


def test_housekeeping_comes_back_plain_through_the_frames() -> None:
    sent = Reporter(42, 100, 100_000, compress=True)
    plain = Reporter(42, 100, 100_000)
    pool: list[float | int] = [MISSING if point.kind.startswith("f") else 0 for point in POINTS]
    receiver, reference, expander = STANDARD.receiver(42), STANDARD.receiver(42), HousekeepingExpander()
    drawn, octets, expected = random.Random(1), 0, 0
    for second in range(0, 2000, 10):
        pool[POINT_INDEX["battery_v"]] = 16.0 + round(drawn.gauss(0.0, 0.02), 2)
        pool[POINT_INDEX["tick_count"]] = second
        for row in HOUSEKEEPING[:3]:
            sent.housekeeping(row.sid, pool, float(second))
            plain.housekeeping(row.sid, pool, float(second))
        compressed = [unpack_tm(packet) for packet in receiver.push(sent.take(100_000))]
        whole = [unpack_tm(packet) for packet in reference.push(plain.take(100_000))]
        assert {(tm.service, tm.subservice) for tm in compressed} == {(3, COMPRESSED_REPORT)}
        assert {(tm.service, tm.subservice) for tm in whole} == {(3, PLAIN)}
        for small, big in zip(compressed, whole, strict=True):
            assert expander.expand(small) == big
            octets, expected = octets + len(pack_tm(small)), expected + len(pack_tm(big))
    assert octets < 0.5 * expected
    curves = next(row.sid for row in HOUSEKEEPING if row.name == "ahead_curves")
    sent.housekeeping(curves, pool, 2000.0)  # new each time: as it is
    assert [unpack_tm(packet).subservice for packet in receiver.push(sent.take(100_000))] == [PLAIN]

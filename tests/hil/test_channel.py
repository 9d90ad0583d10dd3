"""The line emulator: when octets arrive, which are damaged, what is lost, in virtual time and on ptys."""

from __future__ import annotations

import math
import select
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.link.serial_port import ByteStream, SerialPort
from hil.channel import PtyLine, VirtualLine


def test_octets_arrive_one_octet_time_apart_after_the_latency() -> None:
    line = VirtualLine(baud=1000, latency_s=0.5)  # 10 ms an octet
    line.advance(2.0)
    assert line.a.write(b"abc") == 3
    assert line.next_arrival_s() == pytest.approx(2.51)
    arrivals = []
    for millisecond in range(2000, 2600):
        line.advance(millisecond / 1000 + 0.0005)
        arrivals += [(millisecond, octet) for octet in line.b.read()]
    assert arrivals == [(2510, ord("a")), (2520, ord("b")), (2530, ord("c"))]
    assert line.next_arrival_s() == math.inf


def test_writes_queue_behind_one_another_and_directions_do_not() -> None:
    line = VirtualLine(baud=1000)
    line.a.write(b"12")
    line.a.write(b"34")
    line.b.write(b"xy")
    line.advance(0.0301)
    assert line.b.read() == b"123"
    assert line.a.read() == b"xy"
    line.advance(0.0401)
    assert line.b.read() == b"4"


@given(
    st.lists(st.tuples(st.floats(0.0, 0.05), st.binary(max_size=30)), max_size=30),
    st.sampled_from([9600, 115200, 921600]),
    st.floats(0.0, 0.3),
)
def test_nothing_is_lost_reordered_or_faster_than_the_line(
    steps: list[tuple[float, bytes]], baud: int, latency_s: float
) -> None:
    line = VirtualLine(baud, latency_s)
    now_s, sent, received = 0.0, b"", b""
    for step_s, octets in steps:
        now_s += step_s
        line.advance(now_s)
        received += line.b.read()
        assert len(received) <= max(0.0, now_s - latency_s) * baud / 10 + 1
        line.a.write(octets)
        sent += octets
    assert sent.startswith(received)
    line.advance(now_s + latency_s + (len(sent) + 1) * 10 / baud)
    assert received + line.b.read() == sent


@given(st.lists(st.floats(0.0, 0.2), max_size=20), st.integers(0, 5))
def test_damage_does_not_depend_on_how_time_is_cut(steps: list[float], seed: int) -> None:
    def damaged(cuts: list[float]) -> bytes:
        line = VirtualLine(9600, 0.01, bit_error_rate=0.01, seed=seed)
        line.a.write(bytes(1000))
        received, now_s = b"", 0.0
        for step_s in [*cuts, 10.0]:
            now_s += step_s
            line.advance(now_s)
            received += line.b.read()
        return received

    assert damaged(steps) == damaged([])


@pytest.mark.parametrize("bit_error_rate", [1e-4, 1e-2, 0.5])
def test_the_bit_error_rate_is_met_and_counted(bit_error_rate: float) -> None:
    octets = 200_000 if bit_error_rate < 1e-3 else 20_000
    line = VirtualLine(1_000_000, bit_error_rate=bit_error_rate, seed=3, fifo_octets=octets)
    line.a.write(bytes(octets))
    line.advance(1e3)
    flipped = int.from_bytes(line.b.read(), "big").bit_count()
    assert flipped == line.a_to_b.flipped_bits
    expected = 8 * octets * bit_error_rate
    assert abs(flipped - expected) < 5.0 * math.sqrt(expected)  # seeded: the same every time


def test_seeds_and_directions_differ_and_repeat() -> None:
    def received(seed: int) -> tuple[bytes, bytes]:
        line = VirtualLine(115200, bit_error_rate=0.01, seed=seed)
        line.a.write(bytes(500))
        line.b.write(bytes(500))
        line.advance(1.0)
        return line.a.read(), line.b.read()

    assert received(1) == received(1)
    assert len({*received(1), *received(2)}) == 4


def test_the_rate_of_errors_can_change_in_flight() -> None:
    line = VirtualLine(115200)
    line.a.write(bytes(500))
    line.advance(0.02)
    assert line.a_to_b.flipped_bits == 0
    line.set_bit_error_rate(0.5)
    line.advance(1.0)
    assert line.a_to_b.flipped_bits > 0
    line.set_bit_error_rate(0.0)
    line.b.read()
    line.a.write(bytes(500))
    line.advance(2.0)
    assert line.b.read() == bytes(500)


def test_a_full_fifo_takes_the_first_octets_and_counts_the_rest() -> None:
    line = VirtualLine(1000, fifo_octets=10)
    assert line.a.write(b"0123456789abc") == 10
    assert line.a.write(b"d") == 0
    assert line.a_to_b.overrun_octets == 4
    line.advance(1.0)
    assert line.a.write(b"e") == 0  # arrived, not yet read
    assert line.b.read() == b"0123456789"
    assert line.a.write(b"f") == 1
    line.advance(2.0)
    assert line.b.read() == b"f"
    assert line.a_to_b.delivered_octets == 11


def test_a_line_that_is_down_loses_what_arrives_and_nothing_else() -> None:
    line = VirtualLine(1000, fifo_octets=6)
    line.a.write(b"012345")
    line.advance(0.0201)
    line.up = False
    line.advance(0.0401)
    line.up = True
    line.advance(0.0601)
    assert line.b.read() == b"0145"
    assert line.a_to_b.lost_octets == 2
    assert line.a.write(b"abcdef") == 6  # lost octets leave the FIFO


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"baud": 0}, "baud 0 is not positive"),
        ({"baud": 9600, "latency_s": -1.0}, "latency -1.0 s"),
        ({"baud": 9600, "bit_error_rate": 0.6}, r"bit error rate 0.6 outside 0\.\.0.5"),
        ({"baud": 9600, "fifo_octets": 0}, "FIFO of 0 octets"),
    ],
)
def test_a_line_that_cannot_be_is_refused(arguments: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        VirtualLine(**arguments)


def test_time_does_not_go_back() -> None:
    line = VirtualLine(9600)
    line.advance(5.0)
    with pytest.raises(ValueError, match=r"line at 5\.0 s cannot go back to 4\.0 s"):
        line.advance(4.0)


def _exchange(a: SerialPort, b: SerialPort, from_a: bytes, from_b: bytes) -> tuple[bytes, bytes]:
    """Send both ways at once, as fast as the ports take it, until everything has come."""
    at_a, at_b = b"", b""
    sent_a, sent_b = 0, 0
    deadline_s = time.monotonic() + 60.0
    while len(at_b) < len(from_a) or len(at_a) < len(from_b):
        assert time.monotonic() < deadline_s, f"{len(at_a)} of {len(from_b)}, {len(at_b)} of {len(from_a)}"
        select.select([a, b], [], [], 0.002)
        at_a += a.read()
        at_b += b.read()
        if not a.backlog_octets:
            sent_a += a.write(from_a[sent_a : sent_a + 500])
        if not b.backlog_octets:
            sent_b += b.write(from_b[sent_b : sent_b + 500])
    return at_a, at_b


def test_two_programs_talk_at_full_duplex_and_no_faster_than_the_line() -> None:
    from_a, from_b = bytes(range(256)) * 40, bytes(reversed(range(256))) * 40
    with (
        PtyLine(baud=115200, rate=4.0) as line,
        SerialPort(line.port_a, 115200) as a,
        SerialPort(line.port_b, 115200) as b,
    ):
        began_s = time.monotonic()
        assert _exchange(a, b, from_a, from_b) == (from_b, from_a)
        assert time.monotonic() - began_s >= len(from_a) * 10 / 115200 / 4.0
        assert line.fault is None
        assert line.line.a_to_b.overrun_octets == line.line.b_to_a.overrun_octets == 0


def test_pty_damage_is_that_of_virtual_time() -> None:
    message = bytes(2000)
    virtual = VirtualLine(921600, bit_error_rate=1e-3, seed=7)
    virtual.a.write(message)
    virtual.b.write(message)
    virtual.advance(1.0)
    with (
        PtyLine(921600, bit_error_rate=1e-3, seed=7) as line,
        SerialPort(line.port_a, 921600) as a,
        SerialPort(line.port_b, 921600) as b,
    ):
        assert _exchange(a, b, message, message) == (virtual.a.read(), virtual.b.read())


def test_a_cut_pty_line_loses_octets_and_comes_back() -> None:
    with (
        PtyLine(921600) as line,
        SerialPort(line.port_a, 921600) as a,
        SerialPort(line.port_b, 921600) as b,
    ):
        line.set_up(False)
        a.write(b"lost")
        deadline_s = time.monotonic() + 30.0
        while line.line.a_to_b.lost_octets < 4:
            assert time.monotonic() < deadline_s
            time.sleep(0.001)
        line.set_up(True)
        assert _exchange(a, b, b"kept", b"") == (b"", b"kept")


def test_names_point_at_the_ports_and_go_with_the_line(tmp_path: Path) -> None:
    names = (tmp_path / "satellite", tmp_path / "ground")
    line = PtyLine(115200, names=names)
    assert [str(name.readlink()) for name in names] == [line.port_a, line.port_b]
    port: ByteStream
    with SerialPort(str(names[0]), 115200) as port:
        line.close()
        assert port.read() == b""
        assert port.fault is not None
        assert not any(name.is_symlink() for name in names)
        line.close()  # twice does no harm
        with PtyLine(115200, names=names):
            assert port.reconnect(now_s=0.0)


def test_a_bad_pty_line_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rate 0 is not positive"):
        PtyLine(9600, rate=0)
    kept = tmp_path / "port"
    with pytest.raises(OSError, match="No such file or directory"):
        PtyLine(9600, names=(kept, tmp_path / "missing" / "port"))
    assert not kept.is_symlink()

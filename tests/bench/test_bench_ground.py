"""Packets a second from the line into the archive, beside plain SQLite on the same rows in the same run."""

from __future__ import annotations

import itertools
import sqlite3
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from flightsw.dictionary.telemetry import BY_SID, POINT_INDEX, POINTS
from flightsw.link.services import Reporter
from ground.archive import Archive
from ground.columns import layout_of
from ground.station import Station
from ground.watch import Screen

SCID, APID = 42, 100
PACKETS = 200
POOL: list[float | int] = [20.0 if point.kind in {"f32", "f64"} else 3 for point in POINTS]
POOL[POINT_INDEX["mode"]] = 15


class Wire:
    def __init__(self) -> None:
        self.waiting = b""

    def read(self) -> bytes:
        octets, self.waiting = self.waiting, b""
        return octets

    def write(self, octets: bytes) -> int:
        return len(octets)


class Downlink:
    """A satellite that never repeats a packet: counters and times go on as in flight."""

    def __init__(self) -> None:
        self.reporter = Reporter(SCID, APID, 1 << 20)
        self.reported = itertools.count()

    def take(self, packets: int) -> bytes:
        for i in itertools.islice(self.reported, packets):
            self.reporter.housekeeping(1 + i % 3, POOL, float(i))
        return self.reporter.take(1 << 22)


@pytest.mark.benchmark(group="ground archive, 200 packets")
def test_bench_archive_batch(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    octets = bytes(layout_of(BY_SID[1]).octets)
    with Archive(tmp_path / "a.sqlite") as archive:
        def write() -> None:
            for i in range(PACKETS):
                archive.add_packet(1.0, 2.0, APID, 3, 25, i, octets)
                archive.add_housekeeping(1)
            assert archive.tend(0.0)

        benchmark(write)


@pytest.mark.benchmark(group="ground archive, 200 packets")
def test_bench_plain_sqlite_a_commit_each(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """The peer: the same two rows a packet written as they come, WAL and NORMAL as well."""
    values = POOL[: len(BY_SID[1].points)]
    connection = sqlite3.connect(tmp_path / "b.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("CREATE TABLE p (id INTEGER PRIMARY KEY, r REAL, o REAL, a, s, b, q, x BLOB)")
    connection.execute("CREATE INDEX p_r ON p (r)")
    columns = ", ".join(f"c{i}" for i in range(len(values)))
    connection.execute(f"CREATE TABLE h (id INTEGER PRIMARY KEY, o REAL, {columns})")
    connection.execute("CREATE INDEX h_o ON h (o)")
    marks = ",".join("?" * len(values))

    def write() -> None:
        for i in range(PACKETS):
            connection.execute("BEGIN")
            row = connection.execute("INSERT INTO p VALUES (NULL,?,?,?,?,?,?,?)",
                                     (1.0, 2.0, APID, 3, 25, i, b"x" * 80)).lastrowid
            connection.execute(f"INSERT INTO h VALUES (?,?,{marks})", (row, 2.0, *values))
            connection.execute("COMMIT")

    benchmark(write)
    connection.close()


@pytest.mark.benchmark(group="ground station, 200 packets in one poll")
def test_bench_station_burst(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    downlink, wire = Downlink(), Wire()
    with Archive(tmp_path / "a.sqlite") as archive:
        station = Station(wire, archive, scid=SCID, apid=APID, epoch_s=0.0)

        def receive() -> None:
            wire.waiting = downlink.take(PACKETS)

        # pytest-benchmark does not type this method.
        benchmark.pedantic(lambda: station.poll(0.0), setup=receive, rounds=300)  # type: ignore[no-untyped-call]
        assert station.packets == 300 * PACKETS
        assert station.undecoded_packets == station.lost_frames == 0


@pytest.mark.benchmark(group="ground station, a tick of 2 packets")
@pytest.mark.parametrize("commit_s", [0.0, 60.0])
def test_bench_station_tick(benchmark: BenchmarkFixture, tmp_path: Path, commit_s: float) -> None:
    downlink, wire, ticks = Downlink(), Wire(), itertools.count()
    with Archive(tmp_path / "a.sqlite", commit_s=commit_s) as archive:
        station = Station(wire, archive, scid=SCID, apid=APID, epoch_s=0.0)

        def receive() -> None:
            wire.waiting = downlink.take(2)

        # pytest-benchmark does not type this method.
        benchmark.pedantic(lambda: station.poll(float(next(ticks))), setup=receive, rounds=5000)  # type: ignore[no-untyped-call]
        assert station.packets == 10_000


@pytest.mark.benchmark(group="ground screen")
def test_bench_screen_80x24(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    wire = Wire()
    with Archive(tmp_path / "a.sqlite") as archive:
        station = Station(wire, archive, scid=SCID, apid=APID, epoch_s=0.0)
        screen = Screen(station, 0.0, "bench", colour=True)
        wire.waiting = Downlink().take(3)
        station.poll(0.0)
        benchmark(lambda: screen.paint(1.0, 80, 24, ""))

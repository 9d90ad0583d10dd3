from __future__ import annotations

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_satellite import add_report, report_packet

from flightsw.dictionary.events import BY_NAME, Severity
from flightsw.dictionary.telemetry import BY_SID, HOUSEKEEPING, Point
from flightsw.errors import StoreError
from ground import archive as archive_module
from ground.archive import APPLICATION_ID, PENDING_MAX, SCHEMA_VERSION, Archive

SUN = [p.name for p in BY_SID[1].points].index("sun_frac")


def power(sun_frac: float) -> list[float | int]:
    values: list[float | int] = [15, *[1.0] * (len(BY_SID[1].points) - 1)]
    values[SUN] = sun_frac
    return values


def add_power(archive: Archive, obt_s: float, sun_frac: float) -> None:
    add_report(archive, obt_s, 1, power(sun_frac))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pass.sqlite"


def test_what_was_added_is_read_back_in_another_session(path: Path) -> None:
    with Archive(path) as archive:
        add_power(archive, 1.0, 0.25)
        add_power(archive, 2.0, math.nan)
        row = BY_NAME["sensor_lost"]
        archive.add_packet(1003.0, 3.0, 100, 5, 3, 3, b"e")
        archive.add_event(3.0, row, ("die0_c", "stale"), "Sensor die0_c has no value: stale")
        archive.add_packet(1004.0, 4.0, 100, 20, 2, 4, b"p")
        archive.add_parameter(4.0, 3, "die_max_c", 75.0)
        archive.add_packet(1005.0, None, 101, None, None, 5, b"\xff")
        archive.add_gap(1006.0, "TM frames", 3)
        assert archive.tend(0.0)
    with Archive(path) as archive:
        add_power(archive, 5.0, 0.75)
    with Archive(path, read_only=True) as archive:
        assert archive.samples("sun_frac") == [(1.0, 0.25), (2.0, None), (5.0, 0.75)]
        assert archive.samples("sun_frac", 2.0, 5.0) == [(2.0, None)]
        latest = {row.point: row for row in archive.latest()}
        assert latest["sun_frac"] == ("sun_frac", 0.75, 5.0, 1005.0)
        assert latest["mode"].value == 15
        assert "plate_c" not in latest
        (event,) = archive.events()
        assert (event.name, event.severity, event.args) == ("sensor_lost", Severity.MEDIUM, ("die0_c", "stale"))
        assert archive.events(severity=Severity.HIGH) == []
        assert archive.parameters() == {"die_max_c": 75.0}
        assert archive.gaps() == [(1006.0, "TM frames", 3)]
        packets = list(archive.packets())
        assert [p.octets for p in packets] == [
            report_packet(1.0, 1, power(0.25)), report_packet(2.0, 1, power(math.nan)), b"e", b"p", b"\xff",
            report_packet(5.0, 1, power(0.75))]
        assert packets[4][2:6] == (None, 101, None, None)


def test_commands_keep_every_stage(path: Path) -> None:
    with Archive(path) as archive:
        first = archive.add_command(0x1864C000, 10.0, "mode", (85,), b"tc", "sent")
        second = archive.add_command(0x1864C001, 11.0, "ping", (), b"tc", "sent")
        for stage, code, text in ((1, 0, ""), (8, 4, "not possible")):
            archive.add_packet(12.0, 5.0, 100, 1, stage, 0, b"v")
            archive.add_verification(first, 0x1864C000, stage, code, text, 5.0)
        archive.set_state(first, "failed")
        archive.add_packet(13.0, 6.0, 100, 1, 1, 0, b"v")
        archive.add_verification(None, 0xDEAD, 1, 0, "", 6.0)
    with Archive(path, read_only=True) as archive:
        mode, ping = archive.commands()
        assert (mode.command_id, mode.state, mode.args) == (first, "failed", (85,))
        assert [(s.stage, s.code, s.text, s.received_s) for s in mode.stages] == [
            (1, 0, "", 12.0), (8, 4, "not possible", 12.0)]
        assert (ping.command_id, ping.stages) == (second, ())
        assert archive.commands(until_s=11.0) == [mode]
        assert archive.command_of(0x1864C001) == ping
        assert archive.command_of(7) is None


def test_counter_goes_on_after_a_restart_and_wraps(path: Path) -> None:
    with Archive(path) as archive:
        assert [archive.take_count("tc", 3) for _ in range(2)] == [0, 1]
    with Archive(path) as archive:
        assert [archive.take_count("tc", 3) for _ in range(3)] == [2, 0, 1]
        assert archive.take_count("other", 3) == 0


def test_group_is_committed_by_count_or_by_time(path: Path) -> None:
    with Archive(path, commit_count=3, commit_s=10.0) as archive, Archive(path, read_only=True) as reader:
        add_power(archive, 1.0, 0.1)
        assert not archive.tend(100.0)
        assert not archive.tend(109.9)
        assert reader.samples("sun_frac") == []
        assert archive.tend(110.0)
        assert len(reader.samples("sun_frac")) == 1
        for obt_s in (2.0, 3.0, 4.0):
            assert archive.tend(111.0) == (obt_s == 2.0)
            add_power(archive, obt_s, 0.1)
        assert archive.tend(111.0)
        assert len(reader.samples("sun_frac")) == 4


def test_two_writers_share_a_file(path: Path) -> None:
    with Archive(path) as one, Archive(path) as two:
        for i in range(4):
            add_power(one, 2.0 * i, 0.1)
            add_power(two, 2.0 * i + 1.0, 0.2)
            assert one.tend(float(i))
            assert two.tend(float(i))
        assert len({one.take_count("tc", 100), two.take_count("tc", 100), one.take_count("tc", 100)}) == 3
        assert [t for t, _ in one.samples("sun_frac")] == [float(i) for i in range(8)]


def test_newer_dictionary_adds_points_and_an_older_one_drops_none(path: Path) -> None:
    extra = BY_SID[1]._replace(points=(*BY_SID[1].points, Point("panel_c", "f32", "degC", "New sensor.")))
    newer = (extra, *HOUSEKEEPING[1:])
    with Archive(path) as archive:
        add_power(archive, 1.0, 0.5)
    with Archive(path, structures=newer) as archive:
        add_report(archive, 2.0, 1, [*power(0.6), 21.5], extra)
        archive.flush()
        assert archive.samples("panel_c") == [(2.0, 21.5)]
        assert {row.point: row.value for row in archive.latest()}["panel_c"] == 21.5
    with Archive(path) as archive:
        add_power(archive, 3.0, 0.7)
        archive.flush()
        assert archive.samples("panel_c") == [(2.0, 21.5)]
        assert [t for t, _ in archive.samples("sun_frac")] == [1.0, 2.0, 3.0]
        assert "panel_c" in archive.points


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(archive_module, "SEAL_PACKETS", 16)
    return 16


def fill(archive: Archive, count: int) -> None:
    """Two structures in turn, and an event after every tenth packet; one value in seven is missing."""
    for i in range(count):
        add_power(archive, float(i), math.nan if i % 7 == 3 else i / 100)
        add_report(archive, i + 0.5, 2, [i, -i, i * 1e-30, 1e30, math.inf])
        if i % 10 == 9:
            archive.add_packet(1000.0 + i, float(i), 100, 5, 1, 0, b"event")
            archive.add_event(float(i), BY_NAME["sighted"], (), "")
        assert archive.tend(float(i))


def test_sealed_packets_answer_as_rows_do_octet_for_octet(tmp_path: Path, small_blocks: int) -> None:
    with Archive(tmp_path / "sealed.sqlite") as archive:
        fill(archive, 100)
        assert archive._select("SELECT count(*) FROM blocks WHERE packet_count = 16") == [(10,)]
    archive_module.SEAL_PACKETS = 1 << 30  # restored by the fixture
    with Archive(tmp_path / "rows.sqlite") as archive:
        fill(archive, 100)
    with (Archive(tmp_path / "sealed.sqlite", read_only=True) as sealed,
          Archive(tmp_path / "rows.sqlite", read_only=True) as rows):
        assert sealed._select("SELECT count(*) FROM packets WHERE layout IS NOT NULL")[0][0] <= 4 * small_blocks
        assert list(sealed.packets()) == list(rows.packets())
        assert list(sealed.packets(1010.0, 1050.0)) == list(rows.packets(1010.0, 1050.0))
        assert sealed.packets_after(37, 50) == rows.packets_after(37, 50) == list(rows.packets())[37:87]
        assert sealed.packet_before(1010.2) == rows.packet_before(1010.2) == 22
        assert sealed.packet_before(0.0) == 0
        assert sealed.latest() == rows.latest()
        assert sealed.span() == rows.span() == (0.0, 99.5)
        for point in ("sun_frac", "mode", "plate_c", "bus_c", "array_c"):
            assert sealed.samples(point) == rows.samples(point)
            assert sealed.samples(point, 13.0, 55.5) == rows.samples(point, 13.0, 55.5)
        assert sealed.events() == rows.events()
        assert len(sealed.events()) == 10


def test_decimation_keeps_every_peak(path: Path, small_blocks: int) -> None:
    with Archive(path) as archive:
        for i in range(1000):
            add_power(archive, float(i), 1.0 if i == 777 else -1.0 if i == 333 else math.nan if i == 500 else 0.0)
            archive.tend(float(i))
        for stretches in (7, 20, 100, 400):  # blocks of 16 s are shorter than a stretch, or longer
            found = archive.decimated("sun_frac", stretches=stretches)
            assert found.lows is not None
            assert found.obt_s.size <= stretches
            assert (np.nanmax(found.values), np.nanmin(found.lows)) == (1.0, -1.0)
            assert abs(found.obt_s[np.nanargmax(found.values)] - 777) <= 1000 / stretches + small_blocks
            assert (np.diff(found.obt_s) > 0).all()
        few = archive.decimated("sun_frac", 770.0, 780.0)
        assert few.lows is None
        assert few.values.tolist() == [0.0] * 7 + [1.0] + [0.0] * 2
        assert archive.decimated("sun_frac", 2000.0, 3000.0).obt_s.size == 0
        assert archive.decimated("plate_c").obt_s.size == 0


def test_two_writers_seal_nothing_twice(path: Path, small_blocks: int) -> None:
    with Archive(path) as one, Archive(path) as two:
        for i in range(60):
            add_power(one, 2.0 * i, 0.1)
            add_power(two, 2.0 * i + 1.0, 0.2)
            assert one.tend(float(i))
            assert two.tend(float(i))
        assert [t for t, _ in one.samples("sun_frac")] == [float(i) for i in range(120)]
        assert one._select("SELECT count(*) FROM blocks")[0][0] >= 5


def test_full_disk_hinders_sealing_and_loses_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "SEAL_PACKETS", 1000)
    with Archive(path) as archive:
        for i in range(2000):  # packs badly
            add_report(archive, float(i), 1, [15, *(math.sin(i * k) for k in range(1, len(BY_SID[1].points)))])
        archive.flush()
        fill_disk(archive, True)
        archive.add_gap(0.0, "x", 1)
        assert archive.tend(0.0)
        assert archive._select("SELECT count(*) FROM blocks") == [(0,)]
        assert len(archive.samples("sun_frac")) == 2000
        fill_disk(archive, False)
        archive.add_gap(0.0, "x", 1)
        assert archive.tend(100.0)
        assert archive._select("SELECT count(*) FROM blocks") == [(1,)]
        assert len(archive.samples("sun_frac")) == 2000


def test_damaged_block_is_named(path: Path, small_blocks: int) -> None:
    with Archive(path) as archive:
        fill(archive, 60)
        archive._connection.execute("UPDATE columns SET octets = x'00' WHERE block = 1")
        with pytest.raises(StoreError, match=r"pass\.sqlite: block 1 is corrupt"):
            archive.samples("sun_frac")
        with pytest.raises(StoreError, match="block 1 is corrupt"):
            list(archive.packets())


def test_acknowledged_events_stay_acknowledged(path: Path) -> None:
    with Archive(path) as archive:
        fill(archive, 30)
        first, second, _ = archive.newest_events()
        archive.acknowledge([first.event_id], 5.0)
        archive.acknowledge([first.event_id, second.event_id], 6.0)
        archive.add_note(7.0, "check.py", "ping completed")
    with Archive(path, read_only=True) as archive:
        assert [e.acknowledged_s for e in archive.events()] == [5.0, 6.0, None]
        assert [e.event_id for e in archive.newest_events(second.event_id)] == [archive.events()[2].event_id]
        assert archive.notes() == [(7.0, "check.py", "ping completed")]


@pytest.mark.parametrize("read_only", [False, True])
def test_files_that_are_not_ours_are_refused_untouched(tmp_path: Path, read_only: bool) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("x" * 5000)
    with pytest.raises(StoreError, match=r"notes\.txt cannot be opened: file is not a database"):
        Archive(text, read_only=read_only)
    foreign = tmp_path / "foreign.sqlite"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    before = foreign.read_bytes()
    with pytest.raises(StoreError, match=r"foreign\.sqlite is not a ground archive"):
        Archive(foreign, read_only=read_only)
    assert foreign.read_bytes() == before
    with pytest.raises(StoreError, match=r"cannot be opened|does not exist"):
        Archive(tmp_path, read_only=read_only)


def test_newer_schema_missing_file_and_missing_directory_are_refused(path: Path) -> None:
    Archive(path).close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(StoreError, match=f"has schema {SCHEMA_VERSION + 1}, .* reads {SCHEMA_VERSION}"):
        Archive(path)
    with pytest.raises(StoreError, match="does not exist"):
        Archive(path.with_name("none.sqlite"), read_only=True)
    with pytest.raises(StoreError, match=r"directory .* does not exist"):
        Archive(path.parent / "none" / "a.sqlite")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write every file")
def test_read_only_file_is_refused_for_writing(path: Path) -> None:
    Archive(path).close()
    path.chmod(0o400)
    with pytest.raises(StoreError, match="readonly"):
        Archive(path)


def fill_disk(archive: Archive, full: bool) -> None:
    """Bound the file at its size, which SQLite reports as it does a full disk, or lift the bound."""
    connection = archive._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0] if full else 1 << 30
    connection.execute(f"PRAGMA max_page_count = {pages}")


def test_full_disk_keeps_what_waits_and_recovers(path: Path) -> None:
    with Archive(path) as archive:
        add_power(archive, 0.0, 0.5)
        assert archive.tend(0.0)
        fill_disk(archive, True)
        for i in range(1, 400):
            add_power(archive, float(i), 0.5)
        with pytest.raises(StoreError, match=r"pass\.sqlite cannot be written: .*full"):
            archive.tend(1.0)
        assert not archive.is_broken
        assert archive.pending == 399
        assert not archive.tend(1.5)  # tried again a second later, not at every call
        with pytest.raises(StoreError, match="full"):
            archive.tend(2.5)
        fill_disk(archive, False)
        assert archive.tend(4.0)
        assert [t for t, _ in archive.samples("sun_frac")] == [float(i) for i in range(400)]
        assert archive.gaps() == []


def test_memory_is_bounded_while_the_disk_is_full_and_the_loss_is_noted(path: Path) -> None:
    with Archive(path, commit_s=math.inf, commit_count=1 << 30) as archive:
        for i in range(PENDING_MAX + 10):
            add_power(archive, float(i), float(i))
        assert archive.pending == PENDING_MAX // 2 + 10
        assert archive.lost_packets == PENDING_MAX // 2
        archive.flush()
        samples = archive.samples("sun_frac")
        assert len(samples) == PENDING_MAX // 2 + 10
        assert all(obt_s == value for obt_s, value in samples)  # rows still belong to their packets
        assert [(gap.source, gap.lost) for gap in archive.gaps()] == [("archive", PENDING_MAX // 2)]


def test_error_that_no_retry_cures_ends_the_archive(path: Path) -> None:
    archive = Archive(path)
    archive._connection.execute("DROP TABLE packets")
    add_power(archive, 1.0, 0.5)
    with pytest.raises(StoreError, match="no such table"):
        archive.tend(0.0)
    assert archive.is_broken
    with pytest.raises(StoreError, match="no such table"):
        archive.tend(10.0)
    archive.close()


WRITER = """
import sys
from pathlib import Path
from tiny_satellite import add_report
from ground import archive
archive.SEAL_PACKETS = 100
archive = archive.Archive(Path(sys.argv[1]))
i = 0
while True:
    for _ in range(7):
        i += 1
        add_report(archive, float(i), 2, [float(i)] * 5)
    if archive.tend(float(i)):
        print(i, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 50, 400])
def test_what_was_shown_survives_sigkill(path: Path, lines: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)})
    assert process.stdout is not None
    for _ in range(lines):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    shown = max(int(line) for line in [str(lines * 7), *process.stdout.read().split()])
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    with Archive(path) as archive:
        kept = [packet.obt_s for packet in archive.packets()]
        assert kept == list(range(1, len(kept) + 1))
        assert len(kept) >= shown
        assert [value for _, value in archive.samples("plate_c")] == kept
        assert len(kept) % 7 == 0  # a group is there as a whole or not at all


def test_event_arguments_are_valid_json(path: Path) -> None:
    with Archive(path) as archive:
        archive.add_packet(1.0, 1.0, 100, 5, 1, 0, b"")
        archive.add_event(1.0, BY_NAME["job_refused"], (1, "energy", "battery", math.nan), "refused")
        archive.flush()
        assert archive.events()[0].args == (1, "energy", "battery", None)
        (stored,) = archive._connection.execute("SELECT args FROM events").fetchone()
        json.loads(stored, parse_constant=pytest.fail)

"""`ground audit verify` with a log from the satellite's own writer and heads from an archive."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flightsw.dictionary.audit import Action
from flightsw.dictionary.events import BY_NAME
from flightsw.jobs.audit import AuditLog, Note
from flightsw.state import Event
from ground.__main__ import main
from ground.archive import Archive


@pytest.fixture
def flown(tmp_path: Path) -> tuple[Path, Path]:
    """A log of some records and an archive with two heads of it."""
    log = AuditLog(tmp_path / "audit", "iss_like", 0.0)
    row = BY_NAME["audit_head"]
    with Archive(tmp_path / "ground.sqlite") as archive:
        for i in range(1, 21):
            log.append([Note("satellite", Action.DATA_UNPACKED, f"job {i}")], 100.0 * i)
            event: Event | None = log.head_event(100.0 * i)
            if event is not None:
                archive.add_packet(1.0, 100.0 * i, 100, 5, 1, 0, b"")
                archive.add_event(100.0 * i, row, event.args, row.text.format(*event.args))
    log.export(tmp_path / "audit.log")
    log.close()
    return tmp_path / "audit.log", tmp_path / "ground.sqlite"


def test_a_whole_log_is_whole_and_says_how_far_heads_vouch(
    flown: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    log, archive = flown
    assert main(["audit", "verify", str(log), "--archive", str(archive)]) == 0
    out = capsys.readouterr().out
    assert "whole: 21 records up to 21" in out
    assert "records behind 20 are vouched for by no head yet" in out
    assert main(["audit", "verify", str(log)]) == 0
    assert "no head to compare with" in capsys.readouterr().out


def test_one_changed_byte_is_found_and_located(flown: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    log, archive = flown
    octets = log.read_bytes()
    log.write_bytes(octets.replace(b'"job 7"', b'"job 8"', 1))
    assert main(["audit", "verify", str(log), "--archive", str(archive), "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)["breaks"]
    assert (found["harm"], found["line"], found["first"]) == ("edited", 8, 8)


def test_a_cut_log_is_found_by_the_heads(flown: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    log, archive = flown
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:15]))
    assert main(["audit", "verify", str(log)]) == 0
    assert main(["audit", "verify", str(log), "--archive", str(archive)]) == 1
    assert "truncated: the log ends with record 15, head 20 was seen" in capsys.readouterr().out


def test_a_log_in_two_files_is_one(flown: tuple[Path, Path], tmp_path: Path) -> None:
    log, archive = flown
    lines = log.read_bytes().splitlines(keepends=True)
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"".join(lines[:9]))
    other.write_bytes(b"".join(lines[9:]))
    assert main(["audit", "verify", str(one), str(other), "--archive", str(archive)]) == 0
    assert main(["audit", "verify", str(other), str(one), "--archive", str(archive)]) == 1


def test_a_forked_log_and_a_missing_file_are_trouble(
    flown: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    log, path = flown
    row = BY_NAME["audit_head"]
    with Archive(path) as archive:
        archive.add_packet(9.0, 9.0, 100, 5, 1, 0, b"")
        archive.add_event(9.0, row, (20, "0" * 64), "")
    assert main(["audit", "verify", str(log), "--archive", str(path)]) == 4
    assert "forked" in capsys.readouterr().err
    assert main(["audit", "verify", str(log) + "x"]) == 4

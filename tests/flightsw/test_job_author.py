"""`flightsw job`: from an empty folder to a bundle that the satellite takes, and what it says on the way."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from flightsw.__main__ import main
from flightsw.jobs.bundle import examine
from flightsw.jobs.customers import load_customers

SDK = Path(__file__).resolve().parents[2] / "flightsw" / "sdk.py"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def say(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["job", *words]) == code
    out, err = capsys.readouterr()
    return out + err


def test_from_an_empty_folder_to_a_bundle_that_verifies(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "next: put your work into" in say(capsys, "new", "mask", "--customer", "Example Ltd")
    checked = say(capsys, "check", "mask")
    assert checked.splitlines()[-1].startswith("mask: good. 1000 x step")
    assert "advice: profile: missing" in checked
    say(capsys, "pack", "mask")
    assert "not signed" in say(capsys, "show", "mask.job")
    told = say(capsys, "keygen", "ltd.key", "--customer", "Example Ltd")
    assert stat.S_IMODE((here / "ltd.key").stat().st_mode) == 0o600
    (here / "customers.toml").write_text(told[told.index("[[customer]]"):])
    signed = say(capsys, "sign", "mask.job", "--key", "ltd.key")
    assert "signed for Example Ltd; on board it is job " in signed
    assert "signature not checked" in say(capsys, "show", "mask.job")
    assert "signature good" in say(capsys, "show", "mask.job", "--customers", "customers.toml")
    keys = {name: bytes.fromhex(c.public_key) for name, c in load_customers(here / "customers.toml").items()}
    assert examine((here / "mask.job").read_bytes(), keys).manifest.id == "mask"


def test_the_template_runs_as_it_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say(capsys, "new", "mask", "--customer", "Example Ltd")
    text = (here / "mask" / "job.toml").read_text().replace("units = 1000 ", "units = 20 ")
    (here / "mask" / "job.toml").write_text(text)
    measured = say(capsys, "profile", "mask", "--measured-on", "test bench")
    assert 'measured_on = "test bench"' in measured
    (here / "mask" / "job.toml").write_text(text + measured)
    assert "advice" not in say(capsys, "check", "mask")


def test_check_knows_which_programs_can_run_by_themselves(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say(capsys, "new", "mask", "--customer", "Example Ltd")
    path = here / "mask" / "job.toml"
    text = path.read_text().replace('command = ["python3", "in/job.py"', 'command = ["in/job.py"')
    path.write_text(text)
    assert "job.executables: job.py is missing, and job.command runs it" in say(capsys, "check", "mask", code=2)
    path.write_text(text.replace("# executables = [\"tool\"]", 'executables = ["job.py"]'))
    assert "job.py is neither a program" in say(capsys, "check", "mask", code=2)
    (here / "mask" / "job.py").write_text("#!/usr/bin/env python3\n" + (here / "mask" / "job.py").read_text())
    assert "mask: good" in say(capsys, "check", "mask")


def test_check_says_everything_wrong_at_once_with_its_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say(capsys, "new", "mask", "--customer", "Example Ltd")
    path = here / "mask" / "job.toml"
    text = path.read_text().replace("units = 1000 ", "units = 0 ").replace('class = "internal"', 'class = "secret"')
    path.write_text(text.replace("memory_mb = 64 ", "memory_gb = 64 "))
    lines = path.read_text().splitlines()
    told = say(capsys, "check", "mask", code=2).splitlines()
    assert told[-1] == "mask: 4 to put right"
    for line in told[:-1]:
        where, _, problem = line.partition(": ")
        number = int(where.rpartition(":")[2])
        key = problem.split(" ")[0].rstrip(":").rpartition(".")[2]
        assert key in lines[number - 1] or lines[number - 1] == "[needs]", line
    assert "4 to put right; see" in say(capsys, "pack", "mask", code=2)
    assert not (here / "mask.job").exists()


def test_check_looks_at_the_files_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say(capsys, "new", "mask", "--customer", "Example Ltd")
    path = here / "mask" / "job.toml"
    text = path.read_text().replace('"in/job.py"', '"in/run.py"')
    path.write_text(text.replace("deadline_s = 7200.0", "deadline_s = 700.0"))
    (here / "mask" / "sdk.py").write_text("# changed\n")
    (here / "mask" / "job.py").unlink()
    (here / "mask" / "notes.txt").touch()
    told = say(capsys, "check", "mask", code=2)
    for part in ("job.inputs: job.py is not there", "job.command: in/run.py, but job.inputs has no run.py",
                 "the work takes 1000 s of a node", "advice: job.inputs: notes.txt is not listed",
                 "advice: job.inputs: sdk.py is not the one", "mask: 3 to put right"):
        assert part in told
    path.write_text("[job\n")
    assert "line 1" in say(capsys, "check", "mask", code=2)


def test_wrong_values_missing_files_and_contradictions_are_said_together(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say(capsys, "new", "mask", "--customer", "Example Ltd")
    path = here / "mask" / "job.toml"
    text = path.read_text()
    for old, new in (("units = 1000 ", "units = 0 "), ('"sdk.py"]', '"sdk.py", "scene.npy"]'),
                     ("deadline_s = 7200.0", 'deadline_s = 7200.0\ndeadline_utc = "2027-03-20T12:00:00Z"'),
                     ('class = "internal"', 'class = "restricted"'), ("activity_frac = 1.0", ""),
                     ('# regions_allowed = ["EU_EEA"]', 'regions_allowed = ["EUROPE"]'),
                     ('contract = "checkpoint"', 'contract = "none"'), ('rerun = "none"', 'rerun = "sampled"')):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    regions = Path(__file__).resolve().parents[2] / "missions" / "regions.toml"
    told = say(capsys, "check", "mask", "--regions", str(regions), code=2)
    for part in ("work.units = 0 is out of range", "job.inputs: scene.npy is not there as a regular file",
                 "job.deadline_s: expected exactly one of", "data.encrypt = false: data of class",
                 "data.stations: missing",
                 "power.activity_frac: expected exactly one of", "EUROPE is not among the satellite's regions: ",
                 "pause.checkpoint_deadline_s: only with", 'pause.contract = "none": data with regions',
                 "integrity.sample_frac: missing"):
        assert part in told, part
    assert "mask: 10 to put right" in told


def test_a_job_that_tells_no_progress_has_a_profile_all_the_same(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say(capsys, "new", "mask", "--customer", "Example Ltd")
    (here / "mask" / "job.py").write_text("open('out/total.txt', 'w').write(str(sum(range(3_000_000))))")
    told = say(capsys, "profile", "mask")
    path = here / "mask" / "job.toml"
    path.write_text(path.read_text() + told)
    assert "mask: good. 1000 x step" in say(capsys, "check", "mask")
    assert "profile: missing" not in say(capsys, "check", "mask")
    assert "put the lines from [profile] on into mask/job.toml" in told


def test_wrong_use_is_said_in_a_line_and_nothing_is_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say(capsys, "new", "mask", "--customer", "Example Ltd")
    assert "File exists" in say(capsys, "new", "mask", "--customer", "Example Ltd", code=2)
    assert "expected 1..48 letters" in say(capsys, "keygen", "a.key", "--customer", "A/B", code=2)
    (here / "a.key").write_text("-----BEGIN")
    assert "File exists" in say(capsys, "keygen", "a.key", "--customer", "A", code=2)
    say(capsys, "pack", "mask")
    assert "no private key as" in say(capsys, "sign", "mask.job", "--key", "a.key", code=2)
    assert "No such file" in say(capsys, "sign", "none.job", "--key", "a.key", code=2)
    (here / "mask.job").write_bytes(b"x" * 600)
    assert "no archive header" in say(capsys, "show", "mask.job", code=3)


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["job", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for verb in ("new", "check", "profile", "pack", "sign", "keygen", "show"):
        assert f"flightsw job {verb}" in text


def test_the_program_of_the_template_goes_on_where_it_was(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say(capsys, "new", "mask", "--customer", "Example Ltd")
    for name in ("out", "work", "checkpoint"):
        (here / name).mkdir()
    (here / "checkpoint.request").write_text('{"deadline_s": 10}')
    words = [sys.executable, "mask/job.py", "--units"]
    environment = {**os.environ, "FLIGHTSW_JOB_DIR": str(here)}
    subprocess.run([*words, "5"], check=True, env=environment, timeout=60)
    assert (here / "checkpoint" / "MARK").exists()
    (here / "checkpoint").rename(here / "checkpoint.good")
    (here / "checkpoint.request").unlink()
    subprocess.run([*words, "7"], check=True, env=environment, timeout=60)
    again = (here / "out" / "total.txt").read_text()
    (here / "checkpoint.good" / "MARK").unlink()
    subprocess.run([*words, "7"], check=True, env=environment, timeout=60)
    assert (here / "out" / "total.txt").read_text() == again

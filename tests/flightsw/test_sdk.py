"""The job's side of the protocol, against the satellite's own side of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flightsw import sdk
from flightsw.jobs import checkpoint

SOURCE = Path(sdk.__file__)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLIGHTSW_JOB_DIR", str(tmp_path))
    for name in ("in", "out", "work"):
        (tmp_path / name).mkdir()
    return tmp_path


def ask(job: Path, deadline_s: float = 20.0) -> None:
    (job / "checkpoint").mkdir()
    (job / checkpoint.REQUEST).write_text(json.dumps({"deadline_s": deadline_s}))


def judged(job: Path) -> checkpoint.Checkpoint:
    """The satellite's judgement of what the job saved."""
    checking = checkpoint.check(job / checkpoint.WRITTEN, 1 << 20)
    while True:
        try:
            next(checking)
        except StopIteration as end:
            found: checkpoint.Checkpoint = end.value
            return found


def test_one_file_is_enough_and_works_where_there_is_no_satellite(tmp_path: Path) -> None:
    (tmp_path / "sdk.py").write_bytes(SOURCE.read_bytes())
    program = ("import sdk\nsdk.progress(3)\nassert sdk.budget() == (None,) * 4\nassert not sdk.should_pause()\n"
               "assert sdk.restore() is None\nassert sdk.checkpoint(3, b'x')\nprint(sdk.restore().done_units)\n")
    (tmp_path / "job.py").write_text(program)
    ran = subprocess.run([sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import job"],
                         cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False, env={})
    assert (ran.stdout, ran.stderr) == ("3\n", "")
    assert (tmp_path / "progress").read_text().strip() == "3"


def test_progress_is_written_in_place(job: Path) -> None:
    (job / "progress").write_text("")
    inode = (job / "progress").stat().st_ino
    sdk.progress(1234)
    sdk.progress(7)
    assert (job / "progress").read_text().strip() == "7"
    assert (job / "progress").stat().st_ino == inode


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '{"time_s": "soon"}', '{"time_s": true}', "\0"])
def test_a_budget_that_is_not_known_is_none_never_a_number(job: Path, text: str) -> None:
    (job / "budget.json").write_text(text)
    assert sdk.budget() == sdk.Budget()
    assert not sdk.should_pause()


def test_budget_and_the_coming_drop(job: Path) -> None:
    (job / "budget.json").write_text('{"energy_j": 500, "time_s": 60.5, "share_frac": 0.5, "power_drop_in_s": 40}')
    assert sdk.budget() == sdk.Budget(500.0, 60.5, 0.5, 40.0)
    assert not sdk.should_pause()
    assert sdk.should_pause(lead_s=40.0)


def test_a_checkpoint_that_was_asked_for_passes_the_satellites_comparison(job: Path) -> None:
    assert not sdk.should_save()
    assert sdk.checkpoint_due_s() is None
    ask(job)
    assert (sdk.should_save(), sdk.should_pause(), sdk.checkpoint_due_s()) == (True, True, 20.0)
    assert sdk.checkpoint(40, b"state")
    assert not sdk.should_save()
    assert judged(job)[:3] == (40, 1, 5)
    checkpoint.keep(job)
    (job / checkpoint.REQUEST).unlink()
    saved = sdk.restore()
    assert saved is not None
    assert (saved.done_units, saved.read()) == (40, b"state")


def test_the_newest_whole_state_is_restored(job: Path) -> None:
    ask(job)
    big = job / "work" / "big"
    big.write_bytes(bytes(3 << 20))
    assert sdk.checkpoint(10, big)
    checkpoint.keep(job)
    (job / checkpoint.REQUEST).unlink()
    assert sdk.checkpoint(20, b"twenty")
    assert sdk.checkpoint(30, b"thirty")
    assert [saved.done_units for saved in [sdk.restore()] if saved] == [30]
    (job / "work" / "saved" / "state").write_bytes(b"thirsty")
    assert [saved.done_units for saved in [sdk.restore()] if saved] == [20]
    (job / "work" / "saved.old" / "MARK").write_text("{}")
    saved = sdk.restore()
    assert saved is not None
    assert (saved.done_units, saved.read()) == (10, bytes(3 << 20))


def test_killed_between_any_two_steps_a_whole_state_is_left(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(BaseException):
        pass

    steps = {"left": 10**6}

    def wrap(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def step(*args: object, **options: object) -> object:
            steps["left"] -= 1
            if steps["left"] < 0:
                raise KilledError
            return real(*args, **options)
        monkeypatch.setattr(owner, name, step)

    for name in ("mkdir", "open", "rename", "exists"):
        wrap(Path, name)
    wrap(sdk.shutil, "rmtree")
    assert sdk.checkpoint(1, b"1")
    last = 1
    for left in range(40):
        steps["left"] = left
        try:
            assert sdk.checkpoint(last + 1, b"%d" % (last + 1))
            break
        except KilledError:
            steps["left"] = 10**6
        saved = sdk.restore()
        assert saved is not None
        assert saved.done_units in {last, last + 1}
        assert saved.read() == b"%d" % saved.done_units
        last = saved.done_units
    else:
        pytest.fail("a checkpoint has more steps than were looked at")


def test_a_disk_that_is_full_is_an_answer_not_an_error(job: Path) -> None:
    (job / "work").rmdir()
    (job / "work").write_text("in the way")
    assert not sdk.checkpoint(1, b"1")
    (job / "progress").mkdir()
    sdk.progress(1)

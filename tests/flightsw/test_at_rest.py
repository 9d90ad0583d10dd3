"""An encrypted job's data lies in the open only where it is worked on: inputs, checkpoints, results; and it goes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_intake import CUSTOMER, KEY, START_UNIX_S, make
from test_intake import Satellite as Taking

from flightsw.errors import StoreError
from flightsw.jobs.at_rest import AtRest
from flightsw.jobs.audit import AuditLog
from flightsw.jobs.base import Placement
from flightsw.jobs.bundle import pack, sign
from flightsw.jobs.custody import Custody
from flightsw.jobs.intake import Intake
from flightsw.jobs.ledger import LedgerEntry
from flightsw.jobs.onboard import Bundle, OnboardJobs
from flightsw.jobs.policy import BorderWatch, Regions
from flightsw.jobs.runner import ProcessRunner
from flightsw.jobs.vault import CHUNK_OCTETS, KeyState, Vault
from flightsw.state import JobProgress, JobState, JobTransition

ROOT = Path(__file__).resolve().parents[2]
SECRET = b"the customer's own words "
PROGRAM = """
import sdk, time
saved = sdk.restore()
done = saved.done_units if saved else 0
data = (sdk.folder() / "in" / "data").read_bytes()
while done < 40:
    sdk.progress(done)
    if sdk.should_save():
        done = 30
        sdk.checkpoint(done, data)
    if (sdk.folder() / "work" / "end").exists() or done == 30 and saved:
        break
    time.sleep(0.005)
(sdk.folder() / "out" / "result").write_bytes(data + (saved.read() if saved else b""))
"""


class Board:
    """Intake, custody and jobs as the flight program puts them together, with one encrypted job handed over."""

    def __init__(self, folder: Path, data: bytes, program: str = PROGRAM, more: str = "") -> None:
        self.folder = folder
        self.bundles: dict[str, Bundle] = {}
        self.processes = ProcessRunner(folder / "jobs", Path(sys.executable))
        self.vault = Vault(folder / "vault", random.Random(1).randbytes)
        self.custody = Custody(self.bundles, BorderWatch(Regions({}, 1.0, 0.0), None, 0.0, 0.0), self.vault,  # type: ignore[arg-type]
                               AuditLog(folder / "audit", "test", 0.0),
                               lambda job_id: self.processes.folder(job_id) / "out", folder / "results")
        self.jobs = OnboardJobs(self.processes, self.bundles, self.custody.at_rest)
        source = folder.parent / "source"
        source.mkdir()
        (source / "sdk.py").write_bytes((ROOT / "flightsw" / "sdk.py").read_bytes())
        make(source, "one", ("[power]", '[data]\nclass = "personal"\nowner = "Ada"\nretention_s = 100\n'
                             f"encrypt = true\n{more}[power]"), data)
        text = (source / "job.toml").read_text().replace('["job.py", "data"]', '["job.py", "data", "sdk.py"]')
        (source / "job.toml").write_text(text)
        (source / "job.py").write_text(program)
        (folder / "inbox").mkdir(parents=True)
        (folder / "inbox" / "a.job").write_bytes(sign(pack(source), KEY))
        self.intake = Intake(folder / "inbox", folder / "shelf", {"Example": CUSTOMER}, {}, START_UNIX_S, self.bundles,
                             receive=self.custody.receive)
        specs = [spec for now_s in range(60) for spec in self.intake.take(float(now_s), {})]
        self.spec = specs[0]
        self.now_s = 100.0

    def lies_open(self, *, but: str = "?") -> list[str]:
        """Files below the state folder in which the secret can be read."""
        return [str(path.relative_to(self.folder)) for path in self.folder.rglob("*")
                if path.is_file() and SECRET in path.read_bytes() and but not in str(path)]

    def tick(self, duty_frac: float | None = 1.0) -> list[JobProgress]:
        """One tick with the job on its node (None: another one has it)."""
        self.now_s += 0.01
        found = list(self.jobs.poll(self.now_s))
        self.jobs.place(self.now_s, [Placement(self.spec if duty_frac is not None else None, duty_frac or 0.0)])
        return found

    def until(self, done: Callable[[list[JobProgress]], object], duty_frac: float | None = 1.0) -> list[JobProgress]:
        for _ in range(4000):
            found = self.tick(duty_frac)
            if done(found):
                return found
            time.sleep(0.005)
        pytest.fail("it never came to that")

    def finish(self, state: JobState = JobState.FINISHED) -> None:
        """What the supervisor does when the job's end is durable."""
        entries = {self.spec.job_id: LedgerEntry(self.spec, state, "", 0.0, 0.0, 1)}
        self.custody.committed([JobTransition(self.spec.job_id, state, "", 0.0, None)], entries, 1000.0)
        self.jobs.end(self.spec.job_id)
        self.until(lambda _: self.spec.job_id not in self.jobs._running, None)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    made = Board(tmp_path / "state", SECRET * 10)
    yield made
    made.jobs.close()
    made.custody.close()


def test_on_the_shelf_nothing_can_be_read_and_the_job_reads_it_all(board: Board) -> None:
    assert board.lies_open() == []
    board.until(lambda _: board.jobs._running)
    number = f"{board.spec.job_id:010d}"
    assert board.lies_open() == [f"jobs/{number}/in/data"]
    (board.processes.folder(board.spec.job_id) / "work" / "end").touch()
    (end,) = board.until(lambda found: any(p.ended for p in found))
    assert end.succeeded, end.detail
    assert board.lies_open(but="in/data") == [], "its end is told when its result is sealed"
    board.finish()
    assert board.lies_open() == []
    assert not board.processes.folder(board.spec.job_id).exists()
    target = board.folder / "taken"
    for _ in board.custody.at_rest.take_out(board.spec.job_id, "result", target):
        pass
    assert target.read_bytes() == SECRET * 10
    target.unlink()
    assert board.custody.may_downlink(board.spec.job_id, "Weilheim", 0.0) == ""
    board.custody.tend(1099.0)
    assert board.vault.entries[board.spec.job_id].state is KeyState.ACTIVE
    board.custody.tend(1160.0)
    assert board.vault.entries[board.spec.job_id].state is KeyState.DESTROYED
    assert not list((board.folder / "results").iterdir())
    assert board.custody.may_downlink(board.spec.job_id, "Weilheim", 0.0).endswith("has no results")


def test_a_saved_job_rests_sealed_and_goes_on_from_its_checkpoint(board: Board) -> None:
    board.until(lambda _: board.jobs._running)
    board.until(lambda found: any(p.done_units >= 0.0 for p in found))
    board.jobs._processes.save(board.spec.job_id, board.now_s, 20.0)
    board.until(lambda _: board.spec.job_id not in board.jobs._running, 0.0)
    assert board.lies_open() == []
    assert not board.processes.folder(board.spec.job_id).exists()
    assert (board.folder / "results" / f"{board.spec.job_id}.checkpoint" / "1" / "MARK").exists()
    (end,) = board.until(lambda found: any(p.ended for p in found))
    assert end.succeeded, end.detail
    board.finish()
    assert not (board.folder / "results" / f"{board.spec.job_id}.checkpoint").exists()
    target = board.folder / "taken"
    for _ in board.custody.at_rest.take_out(board.spec.job_id, "result", target):
        pass
    assert target.read_bytes() == SECRET * 20, "data and what was restored of it"


def test_erased_while_it_waits_it_fails_and_stays_unread(board: Board) -> None:
    board.custody.erase_customer("Example", 5.0, "ground")
    (end,) = board.until(lambda found: any(p.ended for p in found))
    assert not end.succeeded
    assert end.detail.startswith("inputs not unsealed: vault: the key of job ")
    assert board.lies_open() == []
    board.finish(JobState.FAILED)
    assert board.lies_open() == []


def test_sealing_takes_many_short_steps(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "vault", random.Random(1).randbytes)
    vault.create(1, "Ada", 0.0)
    (tmp_path / "data").write_bytes(bytes(100 * CHUNK_OCTETS))
    sealing = list(vault.sealing_file(1, tmp_path / "data", tmp_path / "sealed"))
    unsealing = list(vault.unsealing_file(1, "data", tmp_path / "sealed", tmp_path / "back"))
    assert (len(sealing), len(unsealing)) == (3, 3)  # 2 MiB each
    assert (tmp_path / "back").read_bytes() == bytes(100 * CHUNK_OCTETS)
    half = vault.sealing_file(1, tmp_path / "data", tmp_path / "cut")
    next(half)
    half.close()
    assert not list(tmp_path.glob("cut*")), "what was broken off leaves nothing"
    with pytest.raises(StoreError):
        list(vault.unsealing_file(1, "other", tmp_path / "sealed", tmp_path / "back"))


@pytest.mark.parametrize(("result", "same"), [("data", True), ("os.urandom(8)", False)])
def test_a_bundle_that_asks_for_it_is_run_twice_and_silent_corruption_is_found(
    tmp_path: Path, result: str, same: bool
) -> None:
    """From the signed manifest to the job's end, sealed inputs and all."""
    program = ("import os\ndata = open('in/data', 'rb').read()\nprint('ran', flush=True)\n"
               f"open('out/result', 'wb').write({result})\n")
    board = Board(tmp_path / "state", SECRET, program, '[integrity]\nrerun = "duplicate"\n')
    assert board.spec.work_units == 80.0, "twice the work is declared to the planner"
    (end,) = board.until(lambda found: any(p.ended for p in found))
    assert end.succeeded == same
    assert end.detail.startswith("SHA-256 " if same else "two runs differ: SHA-256 ")
    board.finish(JobState.FINISHED if same else JobState.FAILED)
    assert board.lies_open() == []
    board.jobs.close()
    board.custody.close()


def test_a_job_that_swaps_its_inputs_for_links_gets_no_second_run(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for name in ("job.py", "data", "sdk.py"):
        (tmp_path / "other" / name).write_bytes(SECRET)
    program = (f"import os\nos.rename('in', 'work/in')\nos.symlink({str(tmp_path / 'other')!r}, 'in')\n"
               "open('out/result', 'w')\n")
    board = Board(tmp_path / "state", b"data", program, '[integrity]\nrerun = "duplicate"\n')
    (end,) = board.until(lambda found: any(p.ended for p in found))
    assert (end.succeeded, end.detail) == (False, "second run: its inputs were replaced by links")
    assert board.lies_open() == []
    board.jobs.end(board.spec.job_id)
    assert (tmp_path / "other" / "data").read_bytes() == SECRET
    board.jobs.close()
    board.custody.close()


def test_of_a_checkpoint_only_what_its_mark_lists_is_sealed_and_no_link_is_followed(tmp_path: Path) -> None:
    """Its job runs on while it is sealed: what it turned into a link would come back to it in the open."""
    vault = Vault(tmp_path / "vault", random.Random(1).randbytes)
    vault.create(1, "Ada", 0.0)
    at_rest, good, other = AtRest(vault, tmp_path / "results"), tmp_path / "good", tmp_path / "other"
    for folder in (good, other):
        folder.mkdir()
        (folder / "state").write_bytes(SECRET)
        digest = hashlib.sha256(SECRET).hexdigest()
        (folder / "MARK").write_text(json.dumps({"done_units": 1, "files": {"state": digest}}))
    (good / "more").write_bytes(SECRET)
    list(at_rest.seal_checkpoint(1, good, 1 << 20))
    kept = tmp_path / "results" / "1.checkpoint" / "1"
    assert sorted(path.name for path in kept.iterdir()) == ["MARK", "state"]
    (good / "state").unlink()
    (good / "state").symlink_to(other / "state")
    with pytest.raises(OSError, match="symbolic link"):
        list(at_rest.seal_checkpoint(1, good, 1 << 20))
    (good / "state").unlink()
    with (good / "state").open("wb") as file:
        file.truncate(1 << 40)  # takes no room, but would when it is sealed
    with pytest.raises(StoreError, match="file state of job 1: above 1048576 octets"):
        list(at_rest.seal_checkpoint(1, good, 1 << 20))
    (good / "state").unlink()
    os.mkfifo(good / "state")
    with pytest.raises(StoreError, match="no regular file"):
        list(at_rest.seal_checkpoint(1, good, 1 << 20))
    (good / "MARK").write_text(json.dumps({"done_units": 1, "files": {"../other/state": digest}}))
    with pytest.raises(StoreError, match="plain file names"):
        list(at_rest.seal_checkpoint(1, good, 1 << 20))
    good.rename(tmp_path / "away")
    good.symlink_to(other)
    with pytest.raises(OSError, match=r"Not a directory|symbolic link"):
        list(at_rest.seal_checkpoint(1, good, 1 << 20))
    list(at_rest.unseal_checkpoint(1, tmp_path / "back"))
    assert (tmp_path / "back" / "state").read_bytes() == SECRET, "the first one stands"


def test_satellite_without_keys_takes_jobs_as_before(tmp_path: Path) -> None:
    satellite = Taking(tmp_path)
    satellite.drop(make(tmp_path / "src"))
    satellite.tick(12)
    assert not next(iter(satellite.bundles.values())).sealed

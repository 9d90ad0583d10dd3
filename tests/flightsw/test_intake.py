"""Bundles on their way from the inbox to the ledger: whole or not at all, once, with a reason for each refusal.

The fault tests cut intake off at each of its system calls in turn, as SIGKILL would, and let it fail there; a real
SIGKILL of a real process is the last word.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flightsw.jobs import intake
from flightsw.jobs.bundle import job_number, pack, sign
from flightsw.jobs.customers import Customer
from flightsw.jobs.intake import Intake
from flightsw.jobs.ledger import LedgerEntry
from flightsw.jobs.onboard import Bundle
from flightsw.jobs.policy import problems_of
from flightsw.state import JobSpec, JobState, Pause

ROOT = Path(__file__).resolve().parents[2]
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
CUSTOMER = Customer("Example", KEY.public_key().public_bytes_raw().hex(), open_jobs=4, disk_mb=64.0)
START_UNIX_S = 1_800_000_000.0
MANIFEST = """
[job]
id = "{id}"
name = "Test job"
customer = "Example"
command = ["python3", "in/job.py"]
inputs = ["job.py", "data"]
outputs = ["result"]
value = 3.0
deadline_s = 600.0
answer_due_s = 60.0
[work]
units = 40
unit = "step"
[needs]
memory_mb = 128
disk_mb = 4
[pause]
contract = "checkpoint"
checkpoint_deadline_s = 5
[power]
activity_frac = 0.9
"""


def make(folder: Path, job_id: str = "one", change: tuple[str, str] = ("", ""), data: bytes = b"x" * 3000) -> bytes:
    folder.mkdir(exist_ok=True)
    (folder / "job.toml").write_text(MANIFEST.format(id=job_id).replace(*change))
    (folder / "job.py").write_text("print(1)\n")
    (folder / "data").write_bytes(data)
    return sign(pack(folder), KEY)


def rules(more: str) -> tuple[str, str]:
    """Change to a manifest that adds data rules."""
    return "[power]", f'[data]\nclass = "internal"\nowner = "Example"\nretention_s = 10\n{more}\n[power]'


class Satellite:
    """An intake with a ledger in memory, which outlives it, and time that goes on by a second a tick."""

    def __init__(self, folder: Path, customer: Customer = CUSTOMER, untrusted: str = "") -> None:
        self.folder = folder
        self.customer = customer
        self.untrusted = untrusted
        self.known: dict[int, LedgerEntry] = {}
        self.submitted: list[JobSpec] = []
        self.said: list[str] = []
        self.now_s = 100.0
        self.boot()

    def boot(self) -> None:
        self.bundles: dict[str, Bundle] = {}
        self.intake = Intake(self.folder / "inbox", self.folder / "shelf", {"Example": self.customer},
                             {"15W": 10.0, "25W": 20.0}, START_UNIX_S, self.bundles, self.untrusted,
                             lambda manifest: problems_of(manifest.data, manifest.pause, ("CH",), ("Weilheim",)))

    def drop(self, octets: bytes, name: str = "a.job") -> None:
        (self.folder / "inbox").mkdir(exist_ok=True)
        (self.folder / "inbox" / name).write_bytes(octets)

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            self.now_s += 1.0
            specs = self.intake.take(self.now_s, self.known)
            self.said += [f"{event.name}: {', '.join(map(str, event.args))}" for event in self.intake.news()]
            for spec in specs:
                if spec.job_id not in self.known:
                    self.submitted.append(spec)
                    self.known[spec.job_id] = LedgerEntry(spec, JobState.QUEUED, "", 0.0, self.now_s, 0)

    def end(self, number: int) -> None:
        self.known[number] = self.known[number]._replace(state=JobState.FINISHED)

    @property
    def inbox(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "inbox").iterdir())

    @property
    def shelf(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "shelf").iterdir())


NUMBER = job_number("Example", "one")


@pytest.fixture
def satellite(tmp_path: Path) -> Satellite:
    return Satellite(tmp_path)


def test_a_bundle_becomes_a_job_with_its_declaration_and_read_only_files(satellite: Satellite, tmp_path: Path) -> None:
    satellite.drop(make(tmp_path / "src"))
    satellite.tick(12)
    assert satellite.submitted == [JobSpec(NUMBER, "Test job", 40.0, 0.9, 3.0, satellite.submitted[0].arrival_s,
                                           satellite.submitted[0].arrival_s + 600.0,
                                           satellite.submitted[0].arrival_s + 60.0, Pause.CHECKPOINT, "Example/one")]
    assert satellite.said == [f"bundle_accepted: a.job, {NUMBER}, Example, one"]
    assert satellite.inbox == []
    bundle = satellite.bundles["Example/one"]
    assert (bundle.folder / "data").read_bytes() == b"x" * 3000
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (bundle.folder, *bundle.folder.iterdir())]
    assert all(mode & 0o222 == 0 for mode in modes)


def test_its_files_go_when_it_ends_and_it_never_runs_again(satellite: Satellite, tmp_path: Path) -> None:
    octets = make(tmp_path / "src")
    satellite.drop(octets)
    satellite.tick(12)
    satellite.drop(octets, "again.job")
    satellite.tick(12)
    assert satellite.said[-1] == f"bundle_repeated: again.job, {NUMBER}"
    satellite.end(NUMBER)
    satellite.tick()
    assert satellite.bundles == {}
    assert satellite.shelf == [f"{NUMBER}.submitted"]
    satellite.boot()
    satellite.drop(octets)
    satellite.tick(12)
    satellite.known.clear()  # the ledger forgets ended jobs in the end
    satellite.drop(octets)
    satellite.tick(12)
    assert len(satellite.submitted) == 1
    assert satellite.inbox == []


def test_a_file_that_still_grows_is_left_alone(satellite: Satellite, tmp_path: Path) -> None:
    octets = make(tmp_path / "src")
    for size in range(512, len(octets), 512):
        satellite.drop(octets[:size])
        satellite.tick()
    satellite.drop(octets, "notes.txt")
    assert satellite.said == []
    satellite.drop(octets)
    satellite.tick(12)
    assert len(satellite.submitted) == 1
    assert satellite.inbox == ["notes.txt"]


def test_a_large_bundle_takes_many_ticks(satellite: Satellite, tmp_path: Path) -> None:
    satellite.drop(make(tmp_path / "src", data=bytes(8 << 20)))
    satellite.tick(8)
    assert satellite.submitted == []
    satellite.tick(12)
    assert len(satellite.submitted) == 1


def test_a_bundle_that_comes_under_the_name_of_one_being_read_is_read_next(
    satellite: Satellite, tmp_path: Path
) -> None:
    satellite.drop(make(tmp_path / "src", data=bytes(8 << 20)))
    satellite.tick(6)
    (tmp_path / "inbox" / "new").write_bytes(make(tmp_path / "src", "two"))
    (tmp_path / "inbox" / "new").rename(tmp_path / "inbox" / "a.job")
    satellite.tick(24)
    assert [spec.job_id for spec in satellite.submitted] == [NUMBER, job_number("Example", "two")]
    assert satellite.inbox == []


class Case(NamedTuple):
    message: str
    change: tuple[str, str] = ("", "")
    spoil: Callable[[bytes], bytes] = bytes
    customer: Customer = CUSTOMER
    untrusted: str = ""


REFUSED = {
    "forged": Case(
        "the signature does not match the key of 'Example'",
        spoil=lambda octets: sign(octets, Ed25519PrivateKey.generate())),
    "flipped": Case("data: SHA-256 is", spoil=lambda octets: octets.replace(b"xxxx", b"xxxy", 1)),
    "cut": Case("cut off at octet", spoil=lambda octets: octets[:-700]),
    "mode": Case("no mode MAXN here; known: 15W, 25W", ("activity_frac = 0.9", "by_mode_w = {MAXN = 9}")),
    "draw": Case("2.00 times a mode's nominal draw", ("activity_frac = 0.9", 'by_mode_w = {"15W" = 20}')),
    "late": Case("job.deadline_utc has passed", ("deadline_s = 600.0", 'deadline_utc = "2027-01-01T00:00:00Z"')),
    "open jobs": Case("has 0 open jobs, its quota is 0", customer=replace(CUSTOMER, open_jobs=0)),
    "disk": Case("above its quota of 3 MB", customer=replace(CUSTOMER, disk_mb=3.0)),
    "region": Case("data: region 'MARS' is not on board; known: CH", rules('regions_allowed = ["MARS"]')),
    "station": Case("data: station 'Kiruna' is not the mission's", rules('stations = ["Kiruna"]')),
    "untrusted": Case("untrusted jobs are refused: no seccomp", untrusted="no seccomp"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_bundle_is_refused_with_its_reason_and_changes_nothing(case: str, tmp_path: Path) -> None:
    message, change, spoil, customer, untrusted = REFUSED[case]
    satellite = Satellite(tmp_path, customer, untrusted)
    satellite.drop(spoil(make(tmp_path / "src", change=change)))
    satellite.tick(12)
    assert len(satellite.said) == 1
    assert satellite.said[0].startswith("bundle_refused: a.job, ")
    assert message in satellite.said[0]
    assert (satellite.submitted, satellite.bundles, satellite.inbox, satellite.shelf) == ([], {}, [], [])


def test_power_by_mode_counts_relative_to_the_modes_of_this_satellite(satellite: Satellite, tmp_path: Path) -> None:
    satellite.drop(make(tmp_path / "src", change=("activity_frac = 0.9", 'by_mode_w = {"15W" = 8, "25W" = 19}')))
    satellite.tick(12)
    assert satellite.submitted[0].activity_frac == pytest.approx(0.95)


def test_a_trusted_customer_runs_without_the_missing_layer(tmp_path: Path) -> None:
    satellite = Satellite(tmp_path, replace(CUSTOMER, trusted=True), "no seccomp")
    satellite.drop(make(tmp_path / "src"))
    satellite.tick(12)
    assert len(satellite.submitted) == 1


def test_an_id_is_not_used_for_two_bundles(satellite: Satellite, tmp_path: Path) -> None:
    satellite.drop(make(tmp_path / "src"))
    satellite.tick(12)
    for again in range(2):  # while it is open, and after it ended
        satellite.drop(make(tmp_path / "src", change=("value = 3.0", "value = 9.0")))
        satellite.tick(12)
        assert satellite.said[-1] == "bundle_refused: a.job, job.id = 'one' was used by 'Example' for another bundle"
        if not again:
            satellite.end(NUMBER)
    assert len(satellite.submitted) == 1


def test_work_is_what_the_highest_mode_does_in_the_core_seconds(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "a.job").write_bytes(make(tmp_path / "one"))
    intake = Intake(tmp_path / "inbox", tmp_path / "shelf", {"Example": CUSTOMER}, {}, START_UNIX_S, {},
                    units_per_core_s=1.25)
    (spec,) = [spec for now_s in range(30) for spec in intake.take(float(now_s), {})][:1]
    assert spec.work_units == 50.0


def test_a_checked_job_counts_twice(satellite: Satellite, tmp_path: Path) -> None:
    satellite.drop(make(tmp_path / "src", change=("[power]", '[integrity]\nrerun = "duplicate"\n[power]')))
    satellite.tick(12)
    assert satellite.submitted[0].work_units == 80.0


def test_what_is_no_file_is_refused_or_left_alone(satellite: Satellite, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(make(tmp_path / "src"))
    inbox = tmp_path / "inbox"
    (inbox / "link.job").symlink_to(secret)
    os.mkfifo(inbox / "pipe.job")
    (inbox / "folder.job").mkdir()
    with (inbox / "huge.job").open("wb") as file:
        file.truncate(1 << 40)
    (inbox / os.fsdecode(b"\xff.job")).write_bytes(b"x")
    satellite.tick(20)
    assert satellite.inbox == ["folder.job"]
    assert secret.exists()
    assert sorted(said.split(", ", 1)[1] for said in satellite.said) == [
        "1099511627776 octets, a bundle has at most 67108864", "cut off at octet 1", "no regular file",
        "no regular file, but a link"]


def test_a_full_disk_refuses_once_changes_nothing_and_the_bundle_waits(
    satellite: Satellite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    satellite.drop(make(tmp_path / "src"))
    real = os.statvfs
    full = os.statvfs_result((4096, 4096, 10**6, 100, 100, 10**6, 10**6, 10**6, 0, 255))
    monkeypatch.setattr(intake.os, "statvfs", lambda _path: full)
    satellite.tick(300)
    assert satellite.said == ["bundle_refused: a.job, needs 0.0 MB, 0.0 MB of disk are free; tried again in 600 s"]
    assert (satellite.submitted, satellite.inbox, satellite.shelf) == ([], ["a.job"], [])
    monkeypatch.setattr(intake.os, "statvfs", real)
    satellite.tick(320)
    assert len(satellite.submitted) == 1


def test_a_job_that_the_ledger_did_not_get_is_offered_again(satellite: Satellite, tmp_path: Path) -> None:
    satellite.drop(make(tmp_path / "src"))
    satellite.tick(12)
    satellite.known.clear()
    satellite.intake._submitted.clear()
    (tmp_path / "shelf" / f"{NUMBER}.submitted").unlink()
    satellite.tick(5)
    assert len(satellite.submitted) == 1
    satellite.tick(60)
    assert len(satellite.submitted) == 2


def test_rot_on_the_shelf_does_not_keep_the_satellite_from_starting(satellite: Satellite, tmp_path: Path) -> None:
    satellite.drop(make(tmp_path / "src"))
    satellite.tick(12)
    shelf = tmp_path / "shelf"
    (shelf / f"{NUMBER}" / "job.toml").chmod(0o644)
    (shelf / f"{NUMBER}" / "job.toml").write_bytes(b"\0" * 100)
    (shelf / "stray").write_text("?")
    satellite.boot()
    satellite.tick()
    assert satellite.said[-1].startswith("intake_failed: ")
    assert satellite.shelf == [f"{NUMBER}.submitted"]
    assert satellite.bundles == {}


def test_only_so_many_ended_jobs_are_remembered(
    satellite: Satellite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "REMEMBERED_MAX", 2)
    for job_id in ("one", "two", "three", "four"):
        satellite.drop(make(tmp_path / "src", job_id))
        satellite.tick(12)
        satellite.end(job_number("Example", job_id))
        satellite.tick(2)
    assert satellite.shelf == sorted(f"{job_number('Example', job_id)}.submitted" for job_id in ("three", "four"))


# --- faults -----------------------------------------------------------------------------------------

CALLS = ("open", "fsync", "rename", "mkdir", "unlink", "chmod", "rmdir", "scandir", "statvfs")


class KilledError(BaseException):
    """Stands for SIGKILL; nothing in intake may catch it."""


class Faults:
    """Counts the system calls of intake, and at a chosen one kills the process or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = -1
        self.after = False  # the call itself is still made
        self.error: int = 0
        self.count = 0
        self.is_armed = False
        self.is_dead = False
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name: str, call: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*args: object, **options: object) -> object:
            if self.is_dead:
                raise KilledError  # a killed process cleans nothing up
            if not self.is_armed:
                return call(*args, **options)
            self.count += 1
            if self.count != self.at:
                return call(*args, **options)
            if self.error:
                raise OSError(self.error, os.strerror(self.error), "injected")
            self.is_dead = True
            if self.after:
                with contextlib.suppress(OSError):
                    result = call(*args, **options)
                    if isinstance(result, contextlib.AbstractContextManager):
                        result.__exit__(None, None, None)  # a folder that is being read
                    elif isinstance(result, int):
                        os.close(result)
            raise KilledError
        return wrapped


def a_life(satellite: Satellite, faults: Faults, ticks: int = 14) -> bool:
    """Boot and tick with faults armed, then lose what is in memory; False when it was killed on the way."""
    faults.is_armed, faults.count = True, 0
    try:
        satellite.boot()
        satellite.tick(ticks)
    except KilledError:
        return False
    finally:
        faults.is_dead = True
        if satellite.intake._reading is not None:
            with contextlib.suppress(KilledError):
                satellite.intake._reading.close()
        faults.is_armed = faults.is_dead = False
    return True


def check_whole_or_nothing(satellite: Satellite) -> None:
    """What counts as a job on the shelf is all there; what the ledger knows was submitted once."""
    for name in satellite.shelf:
        if name.isdigit():
            assert sorted(path.name for path in (satellite.folder / "shelf" / name).iterdir()) == [
                ".sha256", "data", "job.py", "job.toml"]
            assert (satellite.folder / "shelf" / name / "data").read_bytes() == b"x" * 3000
    assert len(satellite.submitted) <= 1


def test_killed_at_every_call_it_leaves_nothing_or_a_whole_job_and_then_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    octets = make(tmp_path / "src")
    faults = Faults(monkeypatch)
    kills = 0
    for after in (False, True):
        at = 0
        while True:
            at += 1
            satellite = Satellite(tmp_path / f"{after}{at}")
            satellite.drop(octets)
            faults.at, faults.after = at, after
            if a_life(satellite, faults):
                break
            kills += 1
            check_whole_or_nothing(satellite)
            faults.at = -1
            assert a_life(satellite, faults)
            check_whole_or_nothing(satellite)
            assert [spec.job_id for spec in satellite.submitted] == [NUMBER], (at, after)
            assert satellite.inbox == []
            assert satellite.shelf == [f"{NUMBER}", f"{NUMBER}.submitted"]
            satellite.end(NUMBER)
            satellite.tick()
            assert satellite.shelf == [f"{NUMBER}.submitted"]
    assert kills > 60


def test_killed_again_and_again_and_while_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(20270320)
    octets = make(tmp_path / "src")
    faults = Faults(monkeypatch)
    for round_number in range(40):
        satellite = Satellite(tmp_path / str(round_number))
        satellite.drop(octets)
        for _ in range(6):
            faults.at, faults.after = rng.randint(1, 45), rng.random() < 0.5
            a_life(satellite, faults, ticks=rng.randint(1, 10))
            check_whole_or_nothing(satellite)
            if NUMBER in satellite.known and rng.random() < 0.5:
                satellite.end(NUMBER)
        faults.at = -1
        assert a_life(satellite, faults)
        assert [spec.job_id for spec in satellite.submitted] == [NUMBER]
        satellite.end(NUMBER)
        satellite.tick()
        assert (satellite.inbox, satellite.shelf) == ([], [f"{NUMBER}.submitted"])


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_call_that_fails_costs_a_delay_never_a_tick_or_a_job(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    octets = make(tmp_path / "src")
    faults = Faults(monkeypatch)
    faults.error = error
    for at in range(1, 200):
        satellite = Satellite(tmp_path / str(at))
        satellite.drop(octets)
        faults.at, faults.count, faults.is_armed = at, 0, True
        satellite.tick(14)  # raises when intake lets an error through
        faults.is_armed = False
        if faults.count < at:
            break
        check_whole_or_nothing(satellite)
        satellite.tick(620)
        assert [spec.job_id for spec in satellite.submitted] == [NUMBER], (at, satellite.said)
        assert satellite.inbox == []
    else:
        pytest.fail("intake makes more calls than were looked at")


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_intake import Satellite
satellite = Satellite(Path(sys.argv[1]))
print("up", flush=True)
while True:
    satellite.tick()
"""


def test_a_real_sigkill_at_a_random_moment(tmp_path: Path) -> None:
    rng = random.Random(7)
    octets = make(tmp_path / "src", data=b"x" * 3000)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    satellite = Satellite(tmp_path / "sat")
    satellite.drop(octets)
    for _ in range(8):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path / "sat"), str(Path(__file__).parent)],
                                 stdout=subprocess.PIPE, env=environment)
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        time.sleep(rng.uniform(0.0, 0.004))
        child.send_signal(signal.SIGKILL)
        child.wait(60)
        child.stdout.close()
        check_whole_or_nothing(satellite)
    satellite.boot()
    satellite.tick(12)
    # A child's ledger died with it: what it marked as submitted must not be submitted again.
    assert len(satellite.submitted) <= 1
    assert f"{NUMBER}.submitted" in satellite.shelf
    assert satellite.inbox == []

"""Bundles that arrive on board: from the inbox folder through every check into the ledger, or not at all.

`Intake` is the supervisor's `Inbox` in flight. It owns the inbox folder, where the ground's file transfer or a hand
puts bundles, and the shelf, where the files of accepted jobs lie read-only until they end. Called once a tick; one
bundle is read at a time, a MiB a tick, so that no tick waits for it. It never runs a job and decides only whether a
bundle is what it should be; whether its job is promised is admission's affair.

    inbox/NAME.job             read once it has not changed for two seconds; removed when its job is whole on the shelf
    shelf/.new/                a bundle that is being unpacked; means nothing
    shelf/NUMBER/              a whole accepted job: job.toml, its inputs, and .sha256, which names the bundle
    shelf/NUMBER.submitted     its job is or was in the ledger and is never submitted again

A job becomes whole by one rename. Killed at any moment, the satellite finds either nothing of it or all of it when it
starts again, and goes on from there: a job on the shelf that is not marked as submitted is submitted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from flightsw.errors import BoardError, ConfigError, JobError, StoreError
from flightsw.jobs import bundle
from flightsw.jobs.bundle import BUNDLE_OCTETS_MAX, MANIFEST_FILE, SUFFIX, Contents, job_number
from flightsw.jobs.customers import Customer
from flightsw.jobs.ledger import LedgerEntry
from flightsw.jobs.manifest import ACTIVITY_MAX_FRAC, Manifest, load_manifest
from flightsw.jobs.onboard import Bundle
from flightsw.jobs.vault import Steps
from flightsw.state import Event, JobSpec

Receive = Callable[[int, Manifest, Path, float], Steps]

REMEMBERED_MAX: Final = 4_096
"""How many ended jobs are remembered, and so recognised when their bundles come again."""

_SETTLED_S: Final = 2.0
_AGAIN_AFTER_S: Final = 600.0  # a bundle for which there was no room
_SUBMIT_AGAIN_S: Final = 60.0
_MB: Final = 1 << 20
_RESERVE_OCTETS: Final = 32 * _MB  # the ledger and the recording come first
_NEW: Final = ".new"
_SHA256: Final = ".sha256"
_MARK: Final = ".submitted"


class _Shelved(NamedTuple):
    """An accepted job that has not ended."""

    bundle: Bundle
    key: str
    sha256: str
    octets: int


class _Seen(NamedTuple):
    """A file of the inbox as it was when it was first seen so."""

    facts: tuple[int, int, int]
    since_s: float


class Intake:
    """An `Inbox` fed by files. `bundles` are the accepted jobs by `JobSpec.manifest`, for `OnboardJobs`."""

    def __init__(
        self, inbox: Path, shelf: Path, customers: Mapping[str, Customer], mode_draw_w: Mapping[str, float],
        obt_offset_s: float, bundles: dict[str, Bundle], untrusted_problem: str = "",
        policy_problems: Callable[[Manifest], Sequence[str]] = lambda _manifest: (), units_per_core_s: float = 1.0,
        receive: Receive | None = None,
    ) -> None:
        """Take up what an earlier life left. BoardError when the folders cannot be used.

        `mode_draw_w` is each power mode's nominal draw; `obt_offset_s` turns `now_s` into Unix time; `bundles` are
        added to. With an `untrusted_problem` only trusted customers' jobs are taken, and others told that.
        `policy_problems` says what of a job's data rules this satellite cannot keep. `units_per_core_s` is the work
        that a core does which is not held back: the rate of the highest power mode. `receive` (job number, manifest,
        folder, Unix time) seals the inputs of the jobs that want it; without it none are sealed.
        """
        self._inbox = inbox
        self._shelf = shelf
        self._customers = customers
        self._keys = {name: bytes.fromhex(customer.public_key) for name, customer in customers.items()}
        self._mode_draw_w = mode_draw_w
        self._obt_offset_s = obt_offset_s
        self._bundles = bundles
        self._untrusted_problem = untrusted_problem
        self._policy_problems = policy_problems
        self._units_per_core_s = units_per_core_s
        self._receive_data = receive
        self._shelved: dict[int, _Shelved] = {}
        self._submitted: dict[int, str] = {}  # SHA-256 of the bundle by number, oldest first
        self._offered_s: dict[int, float] = {}
        self._seen: dict[str, _Seen] = {}
        self._news: list[Event] = []
        self._reading: Generator[None, None, None] | None = None
        self._trouble = ""
        try:
            for folder in (inbox, shelf):
                folder.mkdir(parents=True, exist_ok=True)
            paths = sorted(shelf.iterdir())
        except OSError as e:
            raise BoardError(f"{e.filename or shelf}: {e.strerror}") from e
        for path in paths:
            try:
                self._take_up(path)
            except (ConfigError, OSError) as error:  # rot must not keep the satellite from starting
                self._tell("intake_failed", f"{path}: {error}")

    def take(self, now_s: float, known: Mapping[int, LedgerEntry]) -> tuple[JobSpec, ...]:
        """See `supervisor.Inbox`. One step of reading; never raises for what a bundle or the disk does."""
        try:
            self._settle(known)
            if self._reading is None:
                name = self._next_file(now_s)
                if name:
                    self._reading = self._receive(name, now_s)
            if self._reading is not None and next(self._reading, self) is self:
                self._reading = None
            self._trouble = ""
        except OSError as e:
            self._reading = None
            trouble, self._trouble = self._trouble, f"{e.filename or self._shelf}: {e.strerror}"
            if trouble != self._trouble:  # said once, however many ticks it lasts
                self._tell("intake_failed", self._trouble)
        due = [number for number in self._shelved if number not in self._submitted
               and now_s >= self._offered_s.get(number, now_s)]
        for number in due:
            self._offered_s[number] = now_s + _SUBMIT_AGAIN_S
        return tuple([self._spec(number, now_s) for number in due])

    def news(self) -> tuple[Event, ...]:
        """See `supervisor.Inbox`."""
        news, self._news = self._news, []
        return tuple(news)

    # --- the shelf ----------------------------------------------------------------------------------

    def _take_up(self, path: Path) -> None:
        """Read one entry of the shelf; what is not whole is swept away."""
        number = path.name.removesuffix(_MARK)
        if not (len(number) == 10 and number.isascii() and number.isdigit()):
            _sweep(path)
        elif path.name.endswith(_MARK):
            self._submitted[int(number)] = path.read_text("ascii", "replace")
        else:
            try:
                manifest = load_manifest(path / MANIFEST_FILE)
                sha256 = (path / _SHA256).read_text("ascii", "replace")
                octets = sum((path / name).stat().st_size for name in (MANIFEST_FILE, *manifest.inputs))
            except (ConfigError, OSError):
                _sweep(path)
                raise
            self._put(int(number), manifest, sha256, octets)

    def _put(self, number: int, manifest: Manifest, sha256: str, octets: int) -> None:
        key = f"{manifest.customer}/{manifest.id}"
        self._bundles[key] = Bundle(manifest, self._folder(number), self._seals(manifest))
        self._shelved[number] = _Shelved(self._bundles[key], key, sha256, octets)

    def _seals(self, manifest: Manifest) -> bool:
        return self._receive_data is not None and manifest.data.encrypt

    def _folder(self, number: int) -> Path:
        return self._shelf / f"{number:010d}"

    def _settle(self, known: Mapping[int, LedgerEntry]) -> None:
        """Mark what the ledger has, and sweep away the files of what has ended."""
        for number in [*self._shelved]:
            entry = known.get(number)
            if entry is not None and number not in self._submitted:
                self._mark(number, self._shelved[number].sha256)
            if number not in self._submitted:
                continue
            if entry is None or entry.state.is_final:
                shelved = self._shelved.pop(number)
                del self._bundles[shelved.key]
                _sweep(self._folder(number))

    def _mark(self, number: int, sha256: str) -> None:
        """Remember durably that a job was submitted; the oldest of those that ended is forgotten for it."""
        path = self._folder(number).with_suffix(_MARK)
        with path.open("w", encoding="ascii") as file:
            file.write(sha256)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(self._shelf)
        self._submitted[number] = sha256
        excess = len(self._submitted) - REMEMBERED_MAX
        for old in [old for old in self._submitted if old not in self._shelved][:max(0, excess)]:
            self._folder(old).with_suffix(_MARK).unlink(missing_ok=True)
            del self._submitted[old]

    # --- the inbox ----------------------------------------------------------------------------------

    def _next_file(self, now_s: float) -> str:
        """Name of a bundle that has lain unchanged long enough; "" for none."""
        seen: dict[str, _Seen] = {}
        ready = []
        with os.scandir(self._inbox) as entries:
            for entry in entries:
                if not entry.name.endswith(SUFFIX) or entry.is_dir(follow_symlinks=False):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    facts = _facts(entry.stat(follow_symlinks=False))
                    before = self._seen.get(entry.name)
                    seen[entry.name] = before if before is not None and before.facts == facts else _Seen(facts, now_s)
                    if now_s - seen[entry.name].since_s >= _SETTLED_S:
                        ready.append(entry.name)
        self._seen = seen
        return min(ready, default="")

    def _receive(self, name: str, now_s: float) -> Generator[None, None, None]:
        """Take one bundle in, or say why not. A bad one is deleted; one for which there is no room waits."""
        path, read = self._inbox / name, self._seen[name].facts
        try:
            try:
                with _open_bundle(path) as stream:
                    self._check_room(os.fstat(stream.fileno()).st_size)
                    read = _facts(os.fstat(stream.fileno()))
                    number, contents = yield from self._unpack(stream, now_s)
            except (JobError, StoreError) as error:
                self._tell("bundle_refused", name, str(error))
            else:
                if contents is None:
                    self._tell("bundle_repeated", name, number)
                else:
                    self._put(number, contents.manifest, contents.sha256, sum(contents.files.values()))
                    self._tell("bundle_accepted", name, number, contents.customer, contents.manifest.id)
            with contextlib.suppress(FileNotFoundError):
                if _facts(path.stat(follow_symlinks=False)) == read:  # else another one has come under its name
                    path.unlink()
        except OSError as error:
            self._tell("bundle_refused", name, f"{error.strerror}; tried again in {_AGAIN_AFTER_S:g} s")
            if name in self._seen:
                self._seen[name] = self._seen[name]._replace(since_s=now_s + _AGAIN_AFTER_S - _SETTLED_S)
        finally:
            _sweep(self._shelf / _NEW)

    def _unpack(self, stream: BinaryIO, now_s: float) -> Generator[None, None, tuple[int, Contents | None]]:
        """Return the job's number and contents once it is whole on the shelf; no contents: it is known already."""
        new = self._shelf / _NEW
        _sweep(new)
        new.mkdir(mode=0o700)
        contents = yield from bundle.read(stream, self._keys, lambda name: _create(new / name))
        manifest = contents.manifest
        number = job_number(manifest.customer, manifest.id)
        before = self._submitted.get(number)
        if before is None and number in self._shelved:
            before = self._shelved[number].sha256
        if before is not None:
            if before != contents.sha256:
                raise JobError(f"job.id = {manifest.id!r} was used by {manifest.customer!r} for another bundle")
            return number, None
        self._judge(contents, now_s)
        if self._receive_data is not None:
            yield from self._receive_data(number, manifest, new, now_s + self._obt_offset_s)
        with _create(new / _SHA256) as file:
            file.write(contents.sha256.encode())
        for name in (_SHA256, *contents.files):
            fd = os.open(new / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            yield
        _sync_folder(new)
        new.chmod(0o555)
        _sweep(self._folder(number))  # one that came this far and then failed
        new.rename(self._folder(number))
        _sync_folder(self._shelf)
        return number, contents

    def _judge(self, contents: Contents, now_s: float) -> None:
        """Compare a job with its customer's quota and this satellite; JobError says what it does not keep."""
        manifest, customer = contents.manifest, self._customers[contents.customer]
        if self._untrusted_problem and not customer.trusted:
            raise JobError(f"untrusted jobs are refused: {self._untrusted_problem}")
        policy = self._policy_problems(manifest)
        if policy:
            raise JobError(f"data: {'; '.join(policy)}")
        unknown = [mode for mode in manifest.power_by_mode_w if mode not in self._mode_draw_w]
        if unknown:
            raise JobError(f"power.by_mode_w: no mode {', '.join(unknown)} here; known: {', '.join(self._mode_draw_w)}")
        if self._activity_frac(manifest) > ACTIVITY_MAX_FRAC:
            raise JobError(f"power.by_mode_w: {self._activity_frac(manifest):.2f} times a mode's nominal draw, at most "
                           f"{ACTIVITY_MAX_FRAC:g}")
        left_s = manifest.deadline_after_s(now_s + self._obt_offset_s)
        if left_s <= 0.0:
            raise JobError(f"job.deadline_utc has passed {-left_s:.0f} s ago")
        theirs = [job for job in self._shelved.values() if job.bundle.manifest.customer == customer.name]
        if len(theirs) >= customer.open_jobs:
            raise JobError(f"{customer.name} has {len(theirs)} open jobs, its quota is {customer.open_jobs}")
        held_mb = sum(job.octets / _MB + job.bundle.manifest.disk_mb for job in theirs)
        wanted_mb = sum(contents.files.values()) / _MB + manifest.disk_mb
        if held_mb + wanted_mb > customer.disk_mb:
            raise JobError(f"{wanted_mb:.1f} MB of disk with {held_mb:.1f} MB held by {customer.name}: above its quota "
                           f"of {customer.disk_mb:g} MB")
        self._check_room(int(manifest.disk_mb * _MB))

    def _check_room(self, octets: int) -> None:
        """OSError (ENOSPC) unless the disk has `octets` beside what the satellite itself needs."""
        facts = os.statvfs(self._shelf)
        free = facts.f_bavail * facts.f_frsize
        if free < octets + _RESERVE_OCTETS:
            raise OSError(errno.ENOSPC, f"needs {octets / _MB:.1f} MB, {max(0, free - _RESERVE_OCTETS) / _MB:.1f} MB "
                                        "of disk are free")

    def _spec(self, number: int, now_s: float) -> JobSpec:
        """The job as it goes before admission at `now_s`."""
        shelved = self._shelved[number]
        manifest = shelved.bundle.manifest
        deadline_s = now_s + manifest.deadline_after_s(now_s + self._obt_offset_s)
        work_units = manifest.node_s * self._units_per_core_s * manifest.runs(number)
        return JobSpec(number, manifest.name, work_units, self._activity_frac(manifest), manifest.value, now_s,
                       deadline_s, min(deadline_s, now_s + manifest.answer_due_s), manifest.pause, shelved.key)

    def _activity_frac(self, manifest: Manifest) -> float:
        """Draw relative to a mode's nominal; of several modes the largest."""
        if manifest.activity_frac is not None:
            return manifest.activity_frac
        return max(watts / self._mode_draw_w.get(mode, watts) for mode, watts in manifest.power_by_mode_w.items())

    def _tell(self, event: str, *args: str | int) -> None:
        self._news.append(Event(event, args))


def _facts(found: os.stat_result) -> tuple[int, int, int]:
    """Tell one state of a file from another."""
    return found.st_ino, found.st_size, found.st_mtime_ns


def _open_bundle(path: Path) -> BinaryIO:
    """Open a file of the inbox, whatever it is; JobError unless it is one that a bundle can be."""
    if path.is_symlink():
        raise JobError("no regular file, but a link")
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    stream = os.fdopen(fd, "rb")
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > BUNDLE_OCTETS_MAX:
        stream.close()
        raise JobError(f"{facts.st_size} octets, a bundle has at most {BUNDLE_OCTETS_MAX}"
                       if stat.S_ISREG(facts.st_mode) else "no regular file")
    return stream


def _create(path: Path) -> BinaryIO:
    """Make a new read-only file."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o444), "wb")


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sweep(path: Path) -> None:
    """Remove what may be there, a read-only folder too. A shelved one first loses its number, so that it never
    looks whole again.
    """
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        path.chmod(0o700)
        if not path.name.startswith(_NEW):
            path = path.rename(path.with_name(f"{_NEW}-{path.name}"))
        shutil.rmtree(path)

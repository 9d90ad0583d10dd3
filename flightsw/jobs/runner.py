"""Jobs as operating-system processes: start, pause, resume, save, end, watch, and hash what they leave.

Owns the processes and their folders. Called through `onboard.OnboardJobs` by the supervisor's act stage, once a
tick. Never decides which job runs, never throttles (the guardian stops and continues the process groups that `start`
returns), never reads a clock. What holds a job back is `sandbox`'s.

What a job finds, with its folder as working directory and as FLIGHTSW_JOB_DIR:

    in/                  the bundle's inputs, copied, read-only; declared executables may be run
    out/                 where it leaves its outputs
    work/                its own; kept when the job is started again, so that it can go on where it was
    progress             units done as decimal text, written in place (`os.pwrite`, at most 32 octets)
    budget.json          what is left for it, from `tell`
    checkpoint.request   comes with SIGUSR1: write your state into checkpoint/, and its MARK last (see `checkpoint`)
    checkpoint.good/     its last saved state that was found whole, to start from; absent on a first start

Standard input is empty; standard output and error go to a bounded log. A job has `terminate`'s grace between SIGTERM
and SIGKILL, and every process of its group ends with it. A job whose processes together hold more memory than declared
is ended at the poll that finds it; so is one whose folder holds more than its disk beside its inputs, checkpoints
included.

Contracts of interruption: `none` and `stop_continue` are stopped by SIGSTOP, and by the freezer where there is a
cgroup, wherever they are (not by SIGTSTP: POSIX drops that for a group without a parent in its session, and a job can
ignore it); `checkpoint` can also be saved, which frees its memory and outlives the board.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import json
import math
import os
import shutil
import signal
import stat
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from flightsw.errors import JobError
from flightsw.jobs import checkpoint, launch
from flightsw.jobs.cgroup import Cgroup, Limits
from flightsw.jobs.manifest import Manifest
from flightsw.jobs.meter import NOTHING, SessionUsage, measure_folder, read_sessions
from flightsw.jobs.sandbox import BARE, PROCESSES_MAX, Sandbox
from flightsw.state import Pause

LOG_OCTETS_MAX: Final = 262_144
IO_OCTETS_S_MAX: Final = 20 << 20
"""What one job may read, and write, of the disk in a second: it must not keep the journal's syncs waiting."""

_MB: Final = 1 << 20
_PIPE_OCTETS: Final = 65_536
_HASH_OCTETS_A_POLL: Final = 4 * _MB  # about 10 ms on a small board
_CORES_MAX: Final = 8
_BESIDE_CORES: Final = 0.1  # of measured use that is no core of its own
_SANDBOX_PROCESSES: Final = 3  # in its session, and not its own
_DEADLINE_MAX_S: Final = 2_592_000.0  # of a job that names an instant
_MEASURE_EVERY_S: Final = 1.0
_LOGS_MAX: Final = 64
_ANY: Final = 1 << 62
_DEFAULTED_SIGNALS: Final = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ProcessState(enum.Enum):
    """What a job's process is doing, as far as its runner made it."""

    RUNNING = "running"
    PAUSED = "paused"
    SAVING = "saving"  # asked for a checkpoint, within its deadline
    VERIFYING = "verifying"  # stopped; what it saved is being compared with its MARK
    ENDING = "ending"  # asked to end, within its grace
    CHECKING = "checking"  # ended by itself with exit code 0; its outputs are being hashed
    FINISHED = "finished"
    FAILED = "failed"
    TERMINATED = "terminated"
    SAVED = "saved"  # ended with a good checkpoint; the next start goes on from there
    UNSAVED = "unsaved"  # ended without the checkpoint it was asked for; the next start goes on from the one before

    @property
    def is_final(self) -> bool:
        """Whether the report will not change any more."""
        return self in _FINAL


_FINAL: Final = frozenset({
    ProcessState.FINISHED, ProcessState.FAILED, ProcessState.TERMINATED, ProcessState.SAVED, ProcessState.UNSAVED,
})
_ALIVE: Final = frozenset({ProcessState.RUNNING, ProcessState.PAUSED, ProcessState.SAVING, ProcessState.VERIFYING})


class ProcessReport(NamedTuple):
    """One job at one poll. `exit_code` is negative for a signal, None while it runs.

    `cpu_s` includes children that it waited for; `max_rss_mb` is the most private memory that all its processes were
    seen to hold together, `written_octets` the most that its folder was seen to. `result_sha256` is set when it
    FINISHED; `detail` says why when it FAILED or is UNSAVED, and what was saved when it is SAVED. `saved_units` is
    the work in its good checkpoint, None while this start has made none, and `saves` how many it has made.
    """

    job_id: int
    units_done: int
    state: ProcessState
    exit_code: int | None
    cpu_s: float
    max_rss_mb: float
    result_sha256: str
    detail: str
    written_octets: int = 0
    saved_units: int | None = None
    saves: int = 0


class ProcessRunner:
    """Runs jobs as child processes of this one, each in a session and folder of its own.

    Call it from one long-lived thread: a job dies with the thread that started it.
    """

    def __init__(self, run_folder: Path, interpreter: Path, sandbox: Sandbox = BARE) -> None:
        """Keep job folders in `run_folder`; `interpreter` is the Python that launches jobs and that they find
        first on their path. `sandbox` holds every job. Ends what a killed supervisor left there.
        """
        self._run_folder = run_folder.resolve()  # jobs have another working directory
        self._interpreter = interpreter
        self._sandbox = sandbox
        self._jobs: dict[int, _Job] = {}
        _end_orphans(self._run_folder)

    def start(
        self, job_id: int, manifest: Manifest, bundle: Path, *, again: bool = False, expected_sha256: str = ""
    ) -> int:
        """Start a job of the bundle folder; return the process group that throttling applies to.

        A folder left by an earlier start is taken up again, `work/`, good checkpoint and all. With `again` it is
        not: the job is run a second time from the beginning, and fails when its outputs are not `expected_sha256`.

        JobError when it runs already, an input is missing or the system refuses.
        """
        if job_id in self._jobs:
            raise JobError(f"job {job_id}: has been started and not released")
        folder = self.folder(job_id)
        try:
            if again:
                shutil.rmtree(folder, ignore_errors=True)
            job = self._spawn(job_id, manifest, folder, bundle, expected_sha256)
        except OSError as e:
            raise JobError(f"job {job_id} ({manifest.id}): cannot start: {e}") from e
        self._jobs[job_id] = job
        return job.pid

    def folder(self, job_id: int) -> Path:
        """Where the job's `in`, `out`, `work`, `progress` and `log` are."""
        return self._run_folder / f"{job_id:010d}"

    def pause(self, job_id: int) -> None:
        """Stop all its processes where they are; nothing happens when it has ended or is being saved.

        Whoever throttles the process group must leave it alone until `resume`.
        """
        job = self._job(job_id)
        if job.state is ProcessState.RUNNING:
            job.stop()
            job.state = ProcessState.PAUSED

    def resume(self, job_id: int) -> None:
        """Let a paused job go on; nothing happens when it has ended."""
        job = self._job(job_id)
        if job.state is ProcessState.PAUSED:
            job.state = ProcessState.RUNNING
            job.go_on()

    def save(self, job_id: int, now_s: float, deadline_s: float, *, go_on: bool = False) -> None:
        """Ask for a checkpoint within `deadline_s`, then end the job, or let it `go_on`.

        It must be given time to run until it is VERIFYING. What it saves counts once it is found whole: the state
        is then SAVED (RUNNING with `go_on`), else UNSAVED. JobError when its contract is another.
        """
        job = self._job(job_id)
        if job.manifest.pause is not Pause.CHECKPOINT:
            raise JobError(f"job {job_id} ({job.manifest.id}): its pause contract is no checkpoint")
        if job.state in (ProcessState.RUNNING, ProcessState.PAUSED):
            job.ask_for_checkpoint(now_s, deadline_s, go_on=go_on)

    def prolong(self, job_id: int, by_s: float) -> None:
        """Put off the deadline of a checkpoint that is being written; nothing happens when none is."""
        job = self._job(job_id)
        if job.state is ProcessState.SAVING:
            job.save_by_s += by_s

    def tell(self, job_id: int, budget: Mapping[str, float | None]) -> None:
        """Write what is left for a job into its `budget.json`; nothing happens when it has ended."""
        job = self._job(job_id)
        if job.state in _ALIVE:
            _put(job.folder / "budget.json", json.dumps(dict(budget)).encode(), job.user)

    def terminate(self, job_id: int, now_s: float, grace_s: float) -> None:
        """Ask it to end, and kill it at the first poll after `grace_s`; nothing happens when it is ending."""
        job = self._job(job_id)
        if job.state in _ALIVE:
            job.state = ProcessState.ENDING
            job.kill_at_s = now_s + grace_s
            job.signal(signal.SIGTERM)
            job.go_on()  # a stopped process takes no SIGTERM

    def poll(self, now_s: float) -> tuple[ProcessReport, ...]:
        """Report every job that was started and not released; never blocks.

        Some 2 ms for the process table and, once a second, 10 us for each file of a job's folder; where outputs are
        hashed, the time for 4 MiB.
        """
        usages = read_sessions({job.pid: job.memory_octets_max for job in self._jobs.values() if not job.is_reaped})
        return tuple([job.poll(now_s, usages.get(job.pid, NOTHING)) for job in self._jobs.values()])

    def release(self, job_id: int) -> None:
        """Forget a job whose final report has been recorded; its folder stays. JobError while it runs."""
        job = self._job(job_id)
        if not job.state.is_final:
            raise JobError(f"job {job_id}: cannot be released while {job.state.value}")
        del self._jobs[job_id]

    def discard(self, job_id: int) -> None:
        """Delete the folder of a job that is not running, outputs and all."""
        if job_id in self._jobs:
            raise JobError(f"job {job_id}: cannot be discarded before it is released")
        shutil.rmtree(self.folder(job_id), ignore_errors=True)

    def tidy(self, job_id: int, *, keep_log: bool) -> None:
        """Delete what a job that has ended leaves, but for its log; the newest `_LOGS_MAX` logs stay."""
        folder = self.folder(job_id)
        if not keep_log:
            self.discard(job_id)
            return
        with contextlib.suppress(FileNotFoundError):
            for path in folder.iterdir():
                if path.name != "log":
                    checkpoint.remove(path)
        logs = sorted((path for path in self._run_folder.iterdir() if [p.name for p in path.glob("*")] == ["log"]),
                      key=lambda path: path.stat().st_mtime)
        for path in logs[:-_LOGS_MAX]:
            shutil.rmtree(path, ignore_errors=True)

    def left_behind(self) -> tuple[int, ...]:
        """Jobs of which there is a folder."""
        return tuple([int(path.name) for path in self._run_folder.iterdir() if path.name.isdecimal()])

    def close(self) -> None:
        """Kill whatever still runs, and wait for it."""
        for job in self._jobs.values():
            job.kill()
        self._jobs.clear()

    def _job(self, job_id: int) -> _Job:
        try:
            return self._jobs[job_id]
        except KeyError as e:
            raise JobError(f"job {job_id}: was not started") from e

    def _spawn(self, job_id: int, manifest: Manifest, folder: Path, bundle: Path, expected_sha256: str) -> _Job:
        memory_octets, disk_octets = int(manifest.memory_mb * _MB), int(manifest.disk_mb * _MB)
        user, resumes = _prepare(folder, manifest, bundle, self._sandbox)
        cgroup = None
        if self._sandbox.cgroups is not None:
            measured = 1.0 if manifest.profile is None else manifest.profile.activity_frac
            cores = min(max(1, math.ceil(measured - _BESIDE_CORES)), _CORES_MAX)
            cgroup = self._sandbox.cgroups.make(job_id, Limits(memory_octets, PROCESSES_MAX, cores, IO_OCTETS_S_MAX))
        order = self._sandbox.order(
            folder, memory_octets, disk_octets, int(manifest.deadline_s or _DEADLINE_MAX_S) * _CORES_MAX, user,
            cgroup.entry if cgroup else "", disk_octets if resumes else 0,
        )
        work = str(folder / "work")
        environment = {
            "PATH": f"{self._interpreter.parent}:/usr/bin:/bin",
            "HOME": work,
            "TMPDIR": work,
            "LANG": "C.UTF-8",
            "FLIGHTSW_JOB_DIR": str(folder),
            # One job gets one core of its node; libraries that start a thread a core would fight over it.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        log_read, log_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(log_write, True)
        descriptors = [log_read]
        try:
            descriptors += (_create(folder / name, user if name == "progress" else 0) for name in ("log", "progress"))
            pid = os.posix_spawn(
                self._interpreter,
                (str(self._interpreter), "-I", "-S", launch.__file__, "outside", json.dumps(order),
                 *manifest.command_words()),
                environment,
                file_actions=(
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log_write, 1),
                    (os.POSIX_SPAWN_DUP2, log_write, 2),
                ),
                setsid=True,
                setsigmask=(signal.SIGUSR1,),  # not to end by it before it can ignore it; `launch` opens the mask
                setsigdef=_DEFAULTED_SIGNALS,
            )
        except OSError:
            for fd in descriptors:
                os.close(fd)
            if cgroup is not None:
                cgroup.remove()
            raise
        finally:
            os.close(log_write)
        return _Job(job_id, manifest, folder, pid, tuple(descriptors), user, cgroup, expected_sha256,
                    measure_folder(folder / "in", _ANY).octets, wrapped=bool(self._sandbox.bwrap))


class _Job:
    """One started job and all that is open for it."""

    def __init__(
        self, job_id: int, manifest: Manifest, folder: Path, pid: int, descriptors: tuple[int, ...], user: int,
        cgroup: Cgroup | None, expected_sha256: str, input_octets: int, *, wrapped: bool,
    ) -> None:
        self.pid = pid
        self.folder = folder
        self.manifest = manifest
        self.user = user
        self.state = ProcessState.RUNNING
        self.kill_at_s = float("inf")
        self._job_id = job_id
        self._descriptors = descriptors
        self._pipe_fd, self._log_fd, self._progress_fd = descriptors
        self._cgroup = cgroup
        self._expected_sha256 = expected_sha256
        self._input_octets = input_octets
        self._wrapped = wrapped
        self._log_room = LOG_OCTETS_MAX
        self.memory_octets_max = int(manifest.memory_mb * _MB)
        self._disk_octets_max = int(manifest.disk_mb * _MB)
        self._measured_s = float("-inf")
        self._processes: tuple[int, ...] = ()
        self._units_done = 0
        self._exit_code: int | None = None
        self._cpu_s = 0.0
        self._peak_octets = 0
        self._written_octets = 0
        self._result_sha256 = ""
        self._detail = ""
        self._breach = ""
        self._digest: Generator[None, None, str] = _digest(folder, manifest)
        self.save_by_s = float("inf")
        self._goes_on = False
        self._verification: Generator[None, None, checkpoint.Checkpoint] | None = None
        self._saved_units: int | None = None
        self._saves = 0

    @property
    def is_reaped(self) -> bool:
        """Whether its process is gone and its number may be another's."""
        return self._exit_code is not None

    def poll(self, now_s: float, usage: SessionUsage) -> ProcessReport:
        if self._exit_code is None:
            self._watch(now_s, usage)
        if self.state is ProcessState.VERIFYING:
            self._verify()
        elif self._exit_code is not None and self.state is ProcessState.CHECKING:
            self._check_outputs()
        return ProcessReport(
            self._job_id,
            self._units_done,
            self.state,
            self._exit_code,
            self._cpu_s,
            self._peak_octets / _MB,
            self._result_sha256,
            self._detail,
            self._written_octets,
            self._saved_units,
            self._saves,
        )

    def signal(self, number: signal.Signals) -> None:
        """Signal the whole group. Only before it is reaped: until then its id cannot be another's."""
        if self._exit_code is None:
            os.killpg(self.pid, number)

    def stop(self) -> None:
        """Stop every process; in a cgroup, also against a SIGCONT from anywhere."""
        self.signal(signal.SIGSTOP)
        if self._cgroup is not None:
            self._cgroup.freeze(True)

    def go_on(self) -> None:
        """Undo `stop`."""
        if self._cgroup is not None:
            self._cgroup.freeze(False)
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it now and take its exit status."""
        if self._exit_code is None:
            self._kill_processes()
            self._reap()
        self._digest.close()
        if self._verification is not None:
            self._verification.close()

    def ask_for_checkpoint(self, now_s: float, deadline_s: float, *, go_on: bool) -> None:
        self.save_by_s = now_s + deadline_s
        self._goes_on = go_on
        self.state = ProcessState.SAVING
        _make_folder(self.folder / checkpoint.WRITTEN, self.user)
        _put(self.folder / checkpoint.REQUEST, json.dumps({"deadline_s": deadline_s}).encode(), self.user)
        self.go_on()
        self.signal(signal.SIGUSR1)

    def _watch(self, now_s: float, usage: SessionUsage) -> None:
        # The end is looked for first, so that what is read after it is the last word.
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        self._read_log()
        self._read_progress()
        self._measure(now_s, usage)
        if ended:
            self._kill_processes()  # whatever it left behind
            self._reap()
        elif now_s >= self.kill_at_s or self._breach:
            self._kill_processes()
        elif self.state is ProcessState.SAVING:
            if checkpoint.is_written(self.folder):
                self._begin_verification()
            elif now_s >= self.save_by_s:
                self._lose_checkpoint("not written within its deadline")

    def _measure(self, now_s: float, usage: SessionUsage) -> None:
        """Take in what all its processes use, and note when that is more than it may."""
        self._processes = usage.processes
        core_s, memory_octets = usage.core_s, usage.memory_octets
        if self._cgroup is not None:
            counted = self._cgroup.usage()
            core_s = max(core_s, counted.core_s)
            memory_octets = max(memory_octets, counted.memory_peak_octets or 0)
        self._cpu_s = max(self._cpu_s, core_s)
        self._peak_octets = max(self._peak_octets, memory_octets)
        if usage.memory_octets > self.memory_octets_max:
            self._breach = (f"all its processes hold {usage.memory_octets / _MB:.0f} MB of memory, "
                            f"needs.memory_mb is {self.manifest.memory_mb:g} MB")
        if len(usage.processes) > PROCESSES_MAX + _SANDBOX_PROCESSES:
            self._breach = f"runs {len(usage.processes)} processes, limit {PROCESSES_MAX}"
        if now_s - self._measured_s >= _MEASURE_EVERY_S:
            self._measured_s = now_s
            held_max = self._input_octets + 2 * self._disk_octets_max
            octets, entries, whole = measure_folder(self.folder, held_max, usage.processes)
            octets -= self._input_octets
            self._written_octets = max(self._written_octets, octets)
            if octets > self._disk_octets_max + LOG_OCTETS_MAX:
                self._breach = (f"its folder holds {octets / _MB:.1f} MB beside its inputs, "
                                f"needs.disk_mb is {self.manifest.disk_mb:g} MB")
            elif not whole:
                self._breach = f"its folder cannot be measured: {entries} entries seen"

    def _kill_processes(self) -> None:
        self.signal(signal.SIGKILL)
        if self._cgroup is not None:
            self._cgroup.kill()
        elif self._exit_code is None:
            # Its session's number is taken as long as we have not reaped its leader.
            for pid in self._processes:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    if os.getsid(pid) == self.pid:
                        os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        _, status, usage = os.wait4(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if self._wrapped and code > 128:  # the sandbox program's way to say by which signal the job ended
            code = 128 - code
        self._exit_code = code
        self._cpu_s = max(self._cpu_s, usage.ru_utime + usage.ru_stime)
        for fd in self._descriptors:
            os.close(fd)
        out_of_memory = False
        if self._cgroup is not None:
            out_of_memory = self._cgroup.was_out_of_memory()
            self._cgroup.remove()
        if self.state is ProcessState.VERIFYING:
            return
        if self._breach:
            self.state = ProcessState.FAILED
            self._detail = self._breach
        elif self.state is ProcessState.ENDING:
            self.state = ProcessState.TERMINATED
        elif self.state is ProcessState.SAVING and code == 0 and checkpoint.is_written(self.folder):
            self._goes_on = False
            self._begin_verification()
        elif code == 0:
            self.state = ProcessState.CHECKING
        else:
            self.state = ProcessState.FAILED
            self._detail = "out of memory" if out_of_memory else (
                f"exit code {code}" if code > 0 else f"killed by {_signal_name(-code)}")

    def _begin_verification(self) -> None:
        self.stop()
        self.state = ProcessState.VERIFYING
        self._verification = checkpoint.check(self.folder / checkpoint.WRITTEN, self._disk_octets_max)

    def _verify(self) -> None:
        if self._verification is None:
            return
        try:
            next(self._verification)
        except StopIteration as end:
            self._keep_checkpoint(end.value)
        except (ValueError, OSError) as e:
            self._lose_checkpoint(str(e))

    def _keep_checkpoint(self, found: checkpoint.Checkpoint) -> None:
        ends = not self._goes_on or self._exit_code is not None
        if ends and self._exit_code is None:
            self._kill_processes()
            self._reap()
        try:
            checkpoint.keep(self.folder)
        except OSError as e:
            self._lose_checkpoint(str(e))
            return
        self._saved_units = found.done_units
        self._saves += 1
        self._detail = (f"checkpoint of {found.done_units} units, {found.files} files, {found.octets} octets, "
                        f"MARK SHA-256 {found.mark_sha256}")
        self.state = ProcessState.SAVED if ends else ProcessState.RUNNING
        with contextlib.suppress(OSError):
            (self.folder / checkpoint.REQUEST).unlink()
        if not ends:
            self.go_on()

    def _lose_checkpoint(self, why: str) -> None:
        """End it without the checkpoint: what it did since the last good one is to be done again."""
        if self._exit_code is None:
            self.state = ProcessState.ENDING
            self._kill_processes()
            self._reap()
        since = "the good one before" if os.path.lexists(self.folder / checkpoint.GOOD) else "the beginning"
        self._detail = f"checkpoint not kept: {why}; starts again from {since}"
        self.state = ProcessState.UNSAVED

    def _check_outputs(self) -> None:
        try:
            next(self._digest)
        except StopIteration as end:
            self._result_sha256 = str(end.value)
            self.state = ProcessState.FINISHED
            if self._expected_sha256 not in ("", self._result_sha256):
                self._detail = (f"two runs differ: SHA-256 {self._expected_sha256} at first, "
                                f"{self._result_sha256} again")
                self.state = ProcessState.FAILED
        except (JobError, OSError) as e:
            self._detail = str(e)
            self.state = ProcessState.FAILED

    def _read_log(self) -> None:
        try:
            octets = os.read(self._pipe_fd, _PIPE_OCTETS)
        except BlockingIOError:
            return
        if octets and self._log_room:
            self._log_room -= os.write(self._log_fd, octets[: self._log_room])

    def _read_progress(self) -> None:
        text = os.pread(self._progress_fd, 32, 0).strip()
        # The job writes this file: what is no number of units that can be is not believed.
        if text.isdigit() and int(text) <= self.manifest.work_units:
            self._units_done = int(text)


def _end_orphans(run_folder: Path) -> None:
    """Kill launchers whose supervisor died before they bound their end to its own.

    They would see that themselves, were it not that the guardian stops a group that is leased no more.
    """
    for name in os.listdir("/proc"):  # noqa: PTH208 - names are what is wanted
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, TypeError, IndexError):
            words = Path("/proc", name, "cmdline").read_bytes().decode().split("\0")
            at = words.index(launch.__file__)
            order = launch.Order(*json.loads(words[at + 2]))
            parent_pid = int(Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[1])
            if words[at + 1] == "outside" and Path(order.folder).parent == run_folder and (
                parent_pid != order.parent_pid
            ):
                os.kill(int(name), signal.SIGKILL)


def _prepare(folder: Path, manifest: Manifest, bundle: Path, sandbox: Sandbox) -> tuple[int, bool]:
    """Make the job's folder, with fresh inputs; what it had in `work`, `out` and its good checkpoint stays.

    Returns its user (0: ours), and whether there is a checkpoint to start from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    user = sandbox.user_for(folder)
    resumes = checkpoint.prepare(folder)
    for name in ("in", "out", "work"):
        (folder / name).mkdir(exist_ok=True)
    shutil.rmtree(folder / "in")
    (folder / "in").mkdir()
    if user and folder.stat().st_uid != user:
        for parent, folders, files in os.walk(folder):
            for name in (*folders, *files):
                os.chown(Path(parent, name), user, user, follow_symlinks=False)
        os.chown(folder, user, user)
        folder.chmod(0o700)
        os.chown(folder / "in", 0, 0)
    for name in manifest.inputs:
        target = folder / "in" / name
        shutil.copyfile(bundle / name, target)
        target.chmod(0o555 if name in manifest.executables else 0o444)
    return user, resumes


def _create(path: Path, user: int) -> int:
    """Make a file anew and open it; a link that a job left there is not followed."""
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    if user:
        os.fchown(fd, user, user)
    return fd


def _put(path: Path, octets: bytes, user: int) -> None:
    """Replace a small file whole. The job may do what it likes in its folder: that is then its own loss."""
    fresh = path.with_name(path.name + ".new")
    with contextlib.suppress(OSError):
        fd = _create(fresh, user)
        try:
            os.write(fd, octets)
        finally:
            os.close(fd)
        fresh.replace(path)


def _make_folder(path: Path, user: int) -> None:
    with contextlib.suppress(OSError):
        path.mkdir()
        if user:
            os.chown(path, user, user, follow_symlinks=False)


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _digest(folder: Path, manifest: Manifest) -> Generator[None, None, str]:
    """Return the SHA-256 over name, length and content of all outputs in the manifest's order.

    Yields after each 4 MiB. JobError when an output is missing, no regular file (links are not followed), or
    all of them are more than the job's disk.
    """
    digest = hashlib.sha256()
    room = int(manifest.disk_mb * _MB)
    for name in manifest.outputs:
        try:
            folder_fd = os.open(folder / "out", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                fd = os.open(name, flags, dir_fd=folder_fd)
            finally:
                os.close(folder_fd)
        except OSError as e:
            raise JobError(f"output {name}: {e.strerror}") from e
        try:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode):
                raise JobError(f"output {name}: no regular file")
            room -= facts.st_size
            if room < 0:
                raise JobError(f"output {name}: outputs are larger than the {manifest.disk_mb:g} MB of disk")
            digest.update(f"{name}\0{facts.st_size}\0".encode())
            while octets := os.read(fd, _HASH_OCTETS_A_POLL):
                digest.update(octets)
                yield
        finally:
            os.close(fd)
    return digest.hexdigest()

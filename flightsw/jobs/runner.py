"""Jobs as operating-system processes: start, pause, resume, end, watch, and hash what they leave.

Owns the processes and their folders. Called through `onboard.OnboardJobs` by the supervisor's act stage, once a
tick. Never decides which job runs, never throttles (the guardian
stops and continues the process groups that `start` returns), never reads a clock.

What a job finds, with its folder as working directory:

    in/        the bundle's inputs, copied, read-only
    out/       where it leaves its outputs
    work/      its own; kept when the job is started again, so that it can go on where it was
    progress   units done as decimal text, written in place (`os.pwrite`, at most 32 octets)

Standard input is empty; standard output and error go to a bounded log. A job has `terminate`'s grace
between SIGTERM and SIGKILL, and every process of its group ends with it.
"""

from __future__ import annotations

import enum
import hashlib
import os
import shutil
import signal
import stat
from collections.abc import Generator
from pathlib import Path
from typing import Final, NamedTuple

from flightsw.errors import JobError
from flightsw.jobs import launch
from flightsw.jobs.manifest import Manifest

LOG_OCTETS_MAX: Final = 262_144

_MB: Final = 1 << 20
_PIPE_OCTETS: Final = 65_536
_HASH_OCTETS_A_POLL: Final = 4 * _MB  # about 10 ms on a small board
_DEFAULTED_SIGNALS: Final = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ProcessState(enum.Enum):
    """What a job's process is doing, as far as its runner made it."""

    RUNNING = "running"
    PAUSED = "paused"
    ENDING = "ending"  # asked to end, within its grace
    CHECKING = "checking"  # ended by itself with exit code 0; its outputs are being hashed
    FINISHED = "finished"
    FAILED = "failed"
    TERMINATED = "terminated"

    @property
    def is_final(self) -> bool:
        """Whether the report will not change any more."""
        return self in _FINAL


_FINAL: Final = frozenset({ProcessState.FINISHED, ProcessState.FAILED, ProcessState.TERMINATED})


class ProcessReport(NamedTuple):
    """One job at one poll. `exit_code` is negative for a signal, None while it runs.

    `cpu_s` includes children that it waited for; `max_rss_mb` is its own, as of the last poll before its
    end. `result_sha256` is set when it FINISHED, `detail` says why when it FAILED.
    """

    job_id: int
    units_done: int
    state: ProcessState
    exit_code: int | None
    cpu_s: float
    max_rss_mb: float
    result_sha256: str
    detail: str


def limits_enforced() -> tuple[str, ...]:
    """What holds every job that a `ProcessRunner` runs, one line each."""
    return (
        "memory: private memory of each process up to needs.memory_mb (RLIMIT_DATA, RLIMIT_AS)",
        "disk: each file up to needs.disk_mb (RLIMIT_FSIZE); outputs together up to needs.disk_mb, or it fails",
        f"log: the first {LOG_OCTETS_MAX} octets of output are kept; a flood slows the job, nothing else",
        "files: 256 open files; no core dumps; standard input empty; environment made anew",
        "privileges: none are gained by exec (no_new_privs); runs behind the supervisor (nice 10)",
        "end: its process dies with the supervisor (PDEATHSIG); its process group dies with it",
    )


def limits_not_enforced() -> tuple[str, ...]:
    """What a `ProcessRunner` does not hold back, one line each: run only jobs that are trusted with it."""
    return (
        "number of processes: a fork bomb is not stopped (RLIMIT_NPROC counts a user, not a job)",
        "memory of all its processes together, and shared memory files",
        "disk: number and sum of files while it runs; disk bandwidth",
        "processor time and number of cores, other than by the guardian stopping the process group",
        "network, other users' processes and the files that its user may read or write",
        "descendants that leave its session (setsid) survive it; grandchildren survive a killed supervisor",
    )


class ProcessRunner:
    """Runs jobs as child processes of this one, each in a session and folder of its own.

    Call it from one long-lived thread: a job dies with the thread that started it.
    """

    def __init__(self, run_folder: Path, interpreter: Path, wrapper: tuple[str, ...] = ()) -> None:
        """Keep job folders in `run_folder`; `interpreter` is the Python that launches jobs and that they find
        first on their path. `wrapper` words go before each job's command: the place for a sandbox program.
        """
        self._run_folder = run_folder
        self._interpreter = interpreter
        self._wrapper = wrapper
        self._jobs: dict[int, _Job] = {}

    def start(self, job_id: int, manifest: Manifest, bundle: Path) -> int:
        """Start a job of the bundle folder; return the process group that throttling applies to.

        A folder left by an earlier start is taken up again, `work/` and all.

        JobError when it runs already, an input is missing or the system refuses.
        """
        if job_id in self._jobs:
            raise JobError(f"job {job_id}: has been started and not released")
        folder = self.folder(job_id)
        try:
            _prepare(folder, manifest, bundle)
            job = self._spawn(job_id, manifest, folder)
        except OSError as e:
            raise JobError(f"job {job_id} ({manifest.id}): cannot start: {e}") from e
        self._jobs[job_id] = job
        return job.pid

    def folder(self, job_id: int) -> Path:
        """Where the job's `in`, `out`, `work`, `progress` and `log` are."""
        return self._run_folder / f"{job_id:010d}"

    def pause(self, job_id: int) -> None:
        """Stop all its processes where they are; nothing happens when it has ended.

        Whoever throttles the process group must leave it alone until `resume`.
        """
        job = self._job(job_id)
        if job.state is ProcessState.RUNNING:
            job.signal(signal.SIGSTOP)
            job.state = ProcessState.PAUSED

    def resume(self, job_id: int) -> None:
        """Let a paused job go on; nothing happens when it has ended."""
        job = self._job(job_id)
        if job.state is ProcessState.PAUSED:
            job.signal(signal.SIGCONT)
            job.state = ProcessState.RUNNING

    def terminate(self, job_id: int, now_s: float, grace_s: float) -> None:
        """Ask it to end, and kill it at the first poll after `grace_s`; nothing happens when it is ending."""
        job = self._job(job_id)
        if job.state in (ProcessState.RUNNING, ProcessState.PAUSED):
            job.state = ProcessState.ENDING
            job.kill_at_s = now_s + grace_s
            job.signal(signal.SIGTERM)
            job.signal(signal.SIGCONT)  # a stopped process takes no SIGTERM

    def poll(self, now_s: float) -> tuple[ProcessReport, ...]:
        """Report every job that was started and not released; never blocks.

        Some 10 us a job; where outputs are hashed, the time for 4 MiB.
        """
        return tuple([job.poll(now_s) for job in self._jobs.values()])

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

    def _spawn(self, job_id: int, manifest: Manifest, folder: Path) -> _Job:
        limits = (str(os.getpid()), str(int(manifest.memory_mb * _MB)), str(int(manifest.disk_mb * _MB)))
        words = (str(self._interpreter), "-I", "-S", launch.__file__, *limits, str(folder))
        work = str(folder / "work")
        environment = {
            "PATH": f"{self._interpreter.parent}:/usr/bin:/bin",
            "HOME": work,
            "TMPDIR": work,
            "LANG": "C.UTF-8",
            # One job gets one core of its node; libraries that start a thread a core would fight over it.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        log_read, log_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(log_write, True)
        descriptors = [log_read]
        try:
            for name in ("log", "progress"):
                (folder / name).unlink(missing_ok=True)  # a link that a job left here is not followed
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                descriptors.append(os.open(folder / name, flags, 0o644))
            pid = os.posix_spawn(
                self._interpreter,
                (*words, *self._wrapper, *manifest.command_words()),
                environment,
                file_actions=(
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log_write, 1),
                    (os.POSIX_SPAWN_DUP2, log_write, 2),
                ),
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULTED_SIGNALS,
            )
        except OSError:
            for fd in descriptors:
                os.close(fd)
            raise
        finally:
            os.close(log_write)
        try:
            descriptors += (os.open(f"/proc/{pid}/{name}", os.O_RDONLY) for name in ("stat", "status"))
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        return _Job(job_id, manifest, folder, pid, tuple(descriptors))


class _Job:
    """One started job and all that is open for it."""

    def __init__(self, job_id: int, manifest: Manifest, folder: Path, pid: int, descriptors: tuple[int, ...]) -> None:
        self.pid = pid
        self.state = ProcessState.RUNNING
        self.kill_at_s = float("inf")
        self._job_id = job_id
        self._manifest = manifest
        self._folder = folder
        self._descriptors = descriptors
        self._pipe_fd, self._log_fd, self._progress_fd, self._stat_fd, self._status_fd = descriptors
        self._log_room = LOG_OCTETS_MAX
        self._tick_hz = os.sysconf("SC_CLK_TCK")
        self._units_done = 0
        self._exit_code: int | None = None
        self._cpu_s = 0.0
        self._max_rss_mb = 0.0
        self._result_sha256 = ""
        self._detail = ""
        self._digest: Generator[None, None, str] = _digest(folder, manifest)

    def poll(self, now_s: float) -> ProcessReport:
        if self._exit_code is None:
            self._watch(now_s)
        elif self.state is ProcessState.CHECKING:
            self._check_outputs()
        return ProcessReport(
            self._job_id,
            self._units_done,
            self.state,
            self._exit_code,
            self._cpu_s,
            self._max_rss_mb,
            self._result_sha256,
            self._detail,
        )

    def signal(self, number: signal.Signals) -> None:
        """Signal the whole group. Only before it is reaped: until then its id cannot be another's."""
        if self._exit_code is None:
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """End it now and take its exit status."""
        if self._exit_code is None:
            self.signal(signal.SIGKILL)
            self._reap()
        self._digest.close()

    def _watch(self, now_s: float) -> None:
        # The end is looked for first, so that what is read after it is the last word.
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        self._read_log()
        self._read_progress()
        if ended:
            self.signal(signal.SIGKILL)  # whatever it left behind in its group
            self._reap()
            return
        self._read_usage()
        if now_s >= self.kill_at_s:
            self.signal(signal.SIGKILL)

    def _reap(self) -> None:
        _, status, usage = os.wait4(self.pid, 0)
        self._exit_code = code = os.waitstatus_to_exitcode(status)
        self._cpu_s = usage.ru_utime + usage.ru_stime
        for fd in self._descriptors:
            os.close(fd)
        if self.state is ProcessState.ENDING:
            self.state = ProcessState.TERMINATED
        elif code == 0:
            self.state = ProcessState.CHECKING
        else:
            self.state = ProcessState.FAILED
            self._detail = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"

    def _check_outputs(self) -> None:
        try:
            next(self._digest)
        except StopIteration as end:
            self._result_sha256 = str(end.value)
            self.state = ProcessState.FINISHED
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
        if text.isdigit() and int(text) <= self._manifest.work_units:
            self._units_done = int(text)

    def _read_usage(self) -> None:
        # proc_pid_stat(5): behind the name in parentheses, field 3 first; 14..17 are the processor times.
        fields = os.pread(self._stat_fd, 1024, 0).rpartition(b")")[2].split()
        self._cpu_s = sum(map(int, fields[11:15])) / self._tick_hz
        peak_kb = os.pread(self._status_fd, 4096, 0).partition(b"VmHWM:")[2].split(maxsplit=1)
        if peak_kb:  # absent once the process has ended
            self._max_rss_mb = int(peak_kb[0]) / 1024.0


def _prepare(folder: Path, manifest: Manifest, bundle: Path) -> None:
    """Make the job's folder, with fresh inputs; what it had in `work` and `out` stays."""
    for name in ("in", "out", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "in")
    (folder / "in").mkdir()
    for name in manifest.inputs:
        target = folder / "in" / name
        shutil.copyfile(bundle / name, target)
        target.chmod(0o444)


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

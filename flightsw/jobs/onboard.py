"""The nodes' jobs as real processes: what dispatch placed on a node runs, what it took off waits.

`OnboardJobs` is the `Runner` of the flight program, on top of `ProcessRunner`. It turns a submitted job's name
into the manifest of the same id, progress in the manifest's units into the job's own, and placements into starts
and pauses. It never throttles: the guardian does that with the process groups that `place` returns. Called by
the supervisor's act stage, once a tick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from flightsw.errors import ConfigError, JobError
from flightsw.jobs.base import Placement
from flightsw.jobs.manifest import Manifest, load_manifest
from flightsw.jobs.runner import ProcessReport, ProcessRunner, ProcessState
from flightsw.state import JobProgress, JobSpec

_GRACE_S = 5.0
"""Between SIGTERM and SIGKILL for a job that is cancelled or late."""


class Bundle(NamedTuple):
    """A folder with a `job.toml`, and what that says."""

    manifest: Manifest
    folder: Path


def load_bundles(folder: Path) -> tuple[dict[str, Bundle], tuple[str, ...]]:
    """Read every `*/job.toml` of `folder`: bundles by manifest id, and what is wrong with the others.

    A bundle that cannot be read or repeats an id is left out: it must not keep the satellite from starting.
    """
    bundles: dict[str, Bundle] = {}
    problems: list[str] = []
    for path in sorted(folder.glob("*/job.toml")):
        try:
            manifest = load_manifest(path)
        except ConfigError as error:
            problems.append(str(error))
            continue
        if manifest.id in bundles:
            problems.append(f"{path}: job.id = {manifest.id!r} is taken by {bundles[manifest.id].folder}")
            continue
        bundles[manifest.id] = Bundle(manifest, path.parent)
    return bundles, tuple(problems)


class _Running(NamedTuple):
    """One started job: its process group, its declaration, and how to turn the process's units into its own."""

    group: int
    spec: JobSpec
    units_per_process_unit: float


class OnboardJobs:
    """Runs the jobs that are placed, from `bundles`; times are the supervisor's `now_s`."""

    def __init__(self, processes: ProcessRunner, bundles: Mapping[str, Bundle]) -> None:
        self._processes = processes
        self._bundles = bundles
        self._running: dict[int, _Running] = {}
        self._ending: set[int] = set()
        self._ended: set[int] = set()  # the process is gone, its end not yet taken in by `end`
        self._failed: list[JobProgress] = []
        self._placed: tuple[int, ...] = ()
        self._cpu_s: dict[int, float] = {}
        self._now_s = 0.0

    def place(self, now_s: float, placements: Sequence[Placement]) -> tuple[int, ...]:
        """See `Runner`. A job starts when it first may run; one whose name is no manifest fails here."""
        self._now_s = now_s
        self._placed = tuple([0 if job is None else job.job_id for job, _ in placements])
        for job_id in self._running.keys() - set(self._placed) - self._ending - self._ended:
            self._processes.pause(job_id)
        return tuple([0 if job is None else self._hold(job, duty_frac) for job, duty_frac in placements])

    def poll(self, now_s: float) -> tuple[JobProgress, ...]:
        """See `Runner`."""
        self._now_s = now_s
        progress, self._failed = self._failed, []
        for report in self._processes.poll(now_s):
            job_id = report.job_id
            self._cpu_s[job_id] = report.cpu_s
            if report.exit_code is not None:
                self._ended.add(job_id)
            if job_id in self._ending:
                if report.state.is_final:
                    self._forget(job_id)
            else:
                progress.append(self._progress(report))
        return tuple(progress)

    def end(self, job_id: int) -> None:
        """See `Runner`."""
        if job_id not in self._running:
            return
        if job_id in self._ended:
            self._ending.add(job_id)
        else:
            self._processes.terminate(job_id, self._now_s, _GRACE_S)
            self._ending.add(job_id)

    def close(self) -> None:
        """See `Runner`. Folders stay, so that the next start goes on where the jobs were."""
        self._processes.close()

    def processor_s(self) -> tuple[float, ...]:
        """Processor time that the job of each node has used so far, 0 for none."""
        return tuple([self._cpu_s.get(job_id, 0.0) for job_id in self._placed])

    @property
    def placed(self) -> tuple[int, ...]:
        """Job id on each node, 0 for none."""
        return self._placed

    def _hold(self, job: JobSpec, duty_frac: float) -> int:
        """Let a node's job run or wait; return its process group, 0 while it has none."""
        job_id = job.job_id
        running = self._running.get(job_id)
        if running is None:
            if duty_frac <= 0.0:
                return 0
            running = self._start(job)
        if running is None or job_id in self._ended or job_id in self._ending:
            return 0
        if duty_frac > 0.0:
            self._processes.resume(job_id)
        else:
            self._processes.pause(job_id)
        return running.group

    def _start(self, job: JobSpec) -> _Running | None:
        bundle = self._bundles.get(job.manifest)
        if bundle is None:
            known = ", ".join(sorted(self._bundles)) or "none"
            self._fail(job, f"no manifest {job.manifest!r} on board; known: {known}")
            return None
        try:
            group = self._processes.start(job.job_id, bundle.manifest, bundle.folder)
        except JobError as error:
            self._fail(job, str(error))
            return None
        running = _Running(group, job, job.work_units / bundle.manifest.work_units)
        self._running[job.job_id] = running
        return running

    def _fail(self, job: JobSpec, detail: str) -> None:
        self._failed.append(JobProgress(job.job_id, 0.0, ended=True, succeeded=False, detail=detail))

    def _progress(self, report: ProcessReport) -> JobProgress:
        running = self._running[report.job_id]
        done_units = min(report.units_done * running.units_per_process_unit, running.spec.work_units)
        if report.state is ProcessState.FINISHED:
            return JobProgress(report.job_id, running.spec.work_units, ended=True, succeeded=True,
                               detail=f"SHA-256 {report.result_sha256}")
        return JobProgress(report.job_id, done_units, report.state.is_final, succeeded=False, detail=report.detail)

    def _forget(self, job_id: int) -> None:
        self._processes.release(job_id)
        self._ending.discard(job_id)
        self._ended.discard(job_id)
        del self._running[job_id]
        self._cpu_s.pop(job_id, None)

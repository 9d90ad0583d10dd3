"""The nodes' jobs as real processes: what dispatch placed on a node runs, what it took off waits.

`OnboardJobs` is the `Runner` of the flight program, on top of `ProcessRunner`. It turns a submitted job's name
into the manifest of the same id, progress in the manifest's units into the job's own, and placements into starts
and pauses. It never throttles: the guardian does that with the process groups that `place` returns. Called by
the supervisor's act stage, once a tick.

A job whose contract is a checkpoint is saved every few minutes and before the power drops, while it may run, and
goes on; so a kill or a reset costs it minutes. One that does not save in time starts again from the last good
checkpoint, and fails after three times. A job that is drawn to be checked runs twice, and fails when its two results
differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from flightsw.errors import ConfigError, JobError
from flightsw.jobs.base import Placement
from flightsw.jobs.manifest import Manifest, load_manifest
from flightsw.jobs.meter import Activity
from flightsw.jobs.runner import ProcessReport, ProcessRunner, ProcessState
from flightsw.state import JobProgress, JobSpec

_GRACE_S = 5.0
"""Between SIGTERM and SIGKILL for a job that is cancelled or late."""
_SAVE_EVERY_S = 300.0
_SAVE_AGAIN_S = 60.0  # at the earliest, however near the drop is
_UNSAVED_MAX = 3
_SLOWEST_FRAC = 0.05
_TELL_EVERY_S = 1.0
_MB = 1 << 20
_LOST = frozenset({ProcessState.SAVED, ProcessState.UNSAVED})


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


@dataclass(slots=True)
class _Running:
    """One started job: its process group, its declaration, what it runs and for which time of how many."""

    group: int
    spec: JobSpec
    bundle: Bundle
    runs: int
    saved_s: float
    run: int = 0
    told_s: float = float("-inf")

    def done_units(self, process_units: float) -> float:
        """Work units of the spec for those of the process: all its runs together are the work."""
        share = (self.run + process_units / self.bundle.manifest.work_units) / self.runs
        return self.spec.work_units * min(share, 1.0)


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
        self._active: dict[int, Activity] = {}
        self._nodes: dict[int, int] = {}  # of the jobs that may run
        self._unsaved: dict[int, int] = {}
        self._now_s = 0.0

    def place(self, now_s: float, placements: Sequence[Placement]) -> tuple[int, ...]:
        """See `Runner`. A job starts when it first may run; one whose name is no manifest fails here."""
        self._now_s = now_s
        self._placed = tuple([0 if placement.job is None else placement.job.job_id for placement in placements])
        self._nodes = {placement.job.job_id: node for node, placement in enumerate(placements)
                       if placement.job is not None and placement.duty_frac > 0.0}
        for job_id in self._running.keys() - set(self._placed) - self._ending - self._ended:
            self._processes.pause(job_id)
        return tuple([self._hold(placement) for placement in placements])

    def poll(self, now_s: float) -> tuple[JobProgress, ...]:
        """See `Runner`."""
        self._now_s = now_s
        progress, self._failed = self._failed, []
        self._active = {}
        for report in self._processes.poll(now_s):
            job_id = report.job_id
            if job_id not in self._ending:
                self._active[job_id] = self._activity(report)
            if report.exit_code is not None:
                self._ended.add(job_id)
            if job_id in self._ending:
                if report.state.is_final:
                    self._forget(job_id)
                    self._unsaved.pop(job_id, None)
            elif report.state in _LOST and not self._gives_up(report):
                self._forget(job_id)  # the next placement starts it from its good checkpoint
            elif report.state is ProcessState.FINISHED and self._begins_again(report):
                self._ended.discard(job_id)
            else:
                progress.append(self._progress(report))
        return tuple(progress)

    def active(self) -> Mapping[int, Activity]:
        """See `Runner`. What a job uses while it is being ended is on nobody's account."""
        return self._active

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
        found = [self._active.get(job_id) for job_id in self._placed]
        return tuple([0.0 if activity is None else activity.core_s for activity in found])

    @property
    def placed(self) -> tuple[int, ...]:
        """Job id on each node, 0 for none."""
        return self._placed

    def _hold(self, placement: Placement) -> int:
        """Let a node's job run or wait; return its process group, 0 while it has none."""
        job, duty_frac = placement.job, placement.duty_frac
        if job is None:
            return 0
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
            self._save_in_time(running, placement)
        else:
            self._processes.pause(job_id)
        if self._now_s - running.told_s >= _TELL_EVERY_S:
            running.told_s = self._now_s
            self._processes.tell(job_id, {"energy_j": placement.energy_left_j, "share_frac": duty_frac,
                                          "time_s": max(0.0, job.deadline_s - self._now_s),
                                          "power_drop_in_s": placement.power_drop_in_s})
        return running.group

    def _save_in_time(self, running: _Running, placement: Placement) -> None:
        """Ask a job for a checkpoint every few minutes, and just before there is less power for it."""
        deadline_s = running.bundle.manifest.checkpoint_deadline_s
        if deadline_s is None:
            return
        deadline_s /= max(placement.duty_frac, _SLOWEST_FRAC)  # declared for a node of its own
        drop_s, since_s = placement.power_drop_in_s, self._now_s - running.saved_s
        drops = drop_s is not None and drop_s <= 2.0 * deadline_s and since_s >= max(_SAVE_AGAIN_S, 2.0 * deadline_s)
        if drops or since_s >= _SAVE_EVERY_S:
            running.saved_s = self._now_s
            self._processes.save(running.spec.job_id, self._now_s, deadline_s, go_on=True)

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
        running = _Running(group, job, bundle, bundle.manifest.runs(job.job_id), self._now_s)
        self._running[job.job_id] = running
        return running

    def _fail(self, job: JobSpec, detail: str) -> None:
        self._failed.append(JobProgress(job.job_id, 0.0, ended=True, succeeded=False, detail=detail))

    def _activity(self, report: ProcessReport) -> Activity:
        running = self._running[report.job_id]
        return Activity(self._nodes.get(report.job_id, -1), running.group, running.bundle.manifest.customer,
                        report.cpu_s, int(report.max_rss_mb * _MB), report.written_octets)

    def _progress(self, report: ProcessReport) -> JobProgress:
        running = self._running[report.job_id]
        done_units = running.done_units(report.units_done)
        if report.state is ProcessState.FINISHED:
            return JobProgress(report.job_id, running.spec.work_units, ended=True, succeeded=True,
                               detail=f"SHA-256 {report.result_sha256}")
        return JobProgress(report.job_id, done_units, report.state.is_final, succeeded=False, detail=report.detail)

    def _begins_again(self, report: ProcessReport) -> bool:
        """Whether a job that finished is to be checked by another run, which then began. No units are reported
        between the runs.
        """
        running = self._running[report.job_id]
        if running.run + 1 >= running.runs:
            return False
        self._processes.release(report.job_id)
        try:
            running.group = self._processes.start(report.job_id, running.bundle.manifest, running.bundle.folder,
                                                  again=True, expected_sha256=report.result_sha256)
        except JobError as error:
            del self._running[report.job_id]
            self._fail(running.spec, str(error))
        running.run += 1
        running.saved_s = self._now_s
        return True

    def _gives_up(self, report: ProcessReport) -> bool:
        """Whether a job has failed to save itself too often; its end is then a failure."""
        if report.state is ProcessState.UNSAVED:
            self._unsaved[report.job_id] = self._unsaved.get(report.job_id, 0) + 1
        return self._unsaved.get(report.job_id, 0) >= _UNSAVED_MAX

    def _forget(self, job_id: int) -> None:
        self._processes.release(job_id)
        self._ending.discard(job_id)
        self._ended.discard(job_id)
        del self._running[job_id]

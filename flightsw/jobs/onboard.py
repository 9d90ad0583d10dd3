"""The nodes' jobs as real processes: what dispatch placed on a node runs, what it took off waits.

`OnboardJobs` is the `Runner` of the flight program, on top of `ProcessRunner`. It turns a submitted job's name
into the manifest of the same id, progress in the manifest's units into the job's own, and placements into starts
and pauses. It never throttles: the guardian does that with the process groups that `place` returns. Called by
the supervisor's act stage, once a tick.

A job whose contract is a checkpoint is saved every few minutes and before the power drops, while it may run, and
goes on; so a kill or a reset costs it minutes. One that must make room for another job on its node keeps the node until
it has saved itself, is ended, and goes on from there later. One that does not save in time starts again from the last
good checkpoint, and fails after three times. A job that is drawn to be checked runs twice, and fails when its two
results differ.

The data of an encrypted job lies in the open only in its folder while it is on a node or waits in memory: before its
start its inputs and checkpoint are unsealed, after it its checkpoint or results are sealed (`at_rest`), a step a tick.
"""

from __future__ import annotations

import enum
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from flightsw.errors import ConfigError, JobError, StoreError
from flightsw.jobs import checkpoint
from flightsw.jobs.at_rest import AtRest
from flightsw.jobs.base import Placement
from flightsw.jobs.manifest import Manifest, load_manifest
from flightsw.jobs.meter import Activity
from flightsw.jobs.runner import ProcessReport, ProcessRunner, ProcessState
from flightsw.jobs.vault import Steps
from flightsw.state import Event, JobProgress, JobSpec

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
    """A folder with a `job.toml`, and what that says; whether the inputs in it are sealed."""

    manifest: Manifest
    folder: Path
    sealed: bool = False


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


class _Kind(enum.Enum):
    """What is being sealed or unsealed for a job."""

    INPUTS = "inputs not unsealed"
    CHECKPOINT = "checkpoint not sealed"
    RESULTS = "results not sealed"


class OnboardJobs:
    """Runs the jobs that are placed, from `bundles`; times are the supervisor's `now_s`.

    `at_rest` seals what encrypted jobs leave; without it nothing is. A clock that runs `rate` times as fast gives a
    process as many times the seconds that it declared.
    """

    def __init__(self, processes: ProcessRunner, bundles: Mapping[str, Bundle], at_rest: AtRest | None = None,
                 rate: float = 1.0) -> None:
        self._processes = processes
        self._bundles = bundles
        self._at_rest = at_rest
        self._rate = rate
        self._chores: dict[int, tuple[_Kind, Steps]] = {}  # one a job; one step of one of them a tick
        self._done: dict[int, _Kind] = {}
        self._leaving: dict[int, int] = {}  # by node: a job that saves itself before another may have the node
        self._saves: dict[int, int] = {}
        self._closing: set[int] = set()  # the process is gone, what it left is being sealed
        self._notes: list[Event] = []
        self._running: dict[int, _Running] = {}
        self._ending: set[int] = set()
        self._ended: set[int] = set()  # the process is gone, its end not yet taken in by `end`
        self._failed: list[JobProgress] = []
        self._placed: tuple[int, ...] = ()
        self._placed_s = 0.0
        self._active: dict[int, Activity] = {}
        self._nodes: dict[int, int] = {}  # of the jobs that may run
        self._unsaved: dict[int, int] = {}
        self._now_s = 0.0

    def place(self, now_s: float, placements: Sequence[Placement]) -> tuple[int, ...]:
        """See `Runner`. A job starts when it first may run; one whose name is no manifest fails here."""
        for job_id in self._running.keys() - self._nodes.keys():
            self._processes.prolong(job_id, now_s - self._placed_s)  # without time to run nobody saves himself in time
        self._now_s = self._placed_s = now_s
        placed = tuple([0 if placement.job is None else placement.job.job_id for placement in placements])
        self._nodes = {placement.job.job_id: node for node, placement in enumerate(placements)
                       if placement.job is not None and placement.duty_frac > 0.0}
        for node in [node for node, job_id in self._leaving.items() if job_id in placed]:
            del self._leaving[node]  # it is back
        for job_id in self._running.keys() - set(placed) - self._ending - self._ended:
            if not self._makes_room(job_id, placements):
                self._processes.pause(job_id)
        self._placed = placed
        return tuple([self._hold(node, placement) for node, placement in enumerate(placements)])

    def poll(self, now_s: float) -> tuple[JobProgress, ...]:
        """See `Runner`. Sealing and unsealing go on by a step."""
        self._now_s = now_s
        progress, self._failed = self._failed, []
        progress += self._step()
        self._active = {}
        for report in self._processes.poll(now_s):
            job_id = report.job_id
            if job_id not in self._ending:
                self._active[job_id] = self._activity(report)
            if report.exit_code is not None:
                self._ended.add(job_id)
            if report.state is not ProcessState.SAVING:
                self._leaving = {node: leaving for node, leaving in self._leaving.items() if leaving != job_id}
            if job_id in self._ending:
                if report.state.is_final:
                    self._forget(job_id, ends=True)
            elif report.state in _LOST and not self._gives_up(report):
                if report.state is ProcessState.UNSAVED or self._is_sealed(job_id, _Kind.CHECKPOINT):
                    self._note(report)
                    self._forget(job_id)  # the next placement starts it from its good checkpoint
            elif report.state is ProcessState.FINISHED and self._begins_again(report):
                self._ended.discard(job_id)
            elif report.state is ProcessState.FINISHED and not self._is_sealed(job_id, _Kind.RESULTS):
                progress.append(self._progress(report)._replace(ended=False, succeeded=False, detail=""))
            else:
                if report.saves != self._saves.get(job_id, 0) and not report.state.is_final:
                    self._saves[job_id] = report.saves
                    self._seal(job_id, _Kind.CHECKPOINT)
                progress.append(self._progress(report))
        return tuple(progress)

    def notes(self) -> tuple[Event, ...]:
        """See `Runner`."""
        notes, self._notes = self._notes, []
        return tuple(notes)

    def sweep(self, open_jobs: Collection[int]) -> None:
        """Delete what jobs that are open no more left behind when an earlier life was cut off."""
        for job_id in set(self._processes.left_behind()) - set(open_jobs):
            self._processes.tidy(job_id, keep_log=True)

    def active(self) -> Mapping[int, Activity]:
        """See `Runner`. What a job uses while it is being ended is on nobody's account."""
        return self._active

    def end(self, job_id: int) -> None:
        """See `Runner`."""
        self._unsaved.pop(job_id, None)
        self._drop_chore(job_id)
        if job_id not in self._running:
            self._processes.discard(job_id)  # of one that was saved and waited
            return
        if job_id in self._ended:
            self._ending.add(job_id)
        else:
            self._processes.terminate(job_id, self._now_s, _GRACE_S * self._rate)
            self._ending.add(job_id)

    def close(self) -> None:
        """See `Runner`. Folders stay, so that the next start goes on where the jobs were."""
        for job_id in [*self._chores]:
            self._drop_chore(job_id)
        self._processes.close()

    def processor_s(self) -> tuple[float, ...]:
        """Processor time that the job of each node has used so far, 0 for none."""
        found = [self._active.get(job_id) for job_id in self._placed]
        return tuple([0.0 if activity is None else activity.core_s for activity in found])

    @property
    def placed(self) -> tuple[int, ...]:
        """Job id on each node, 0 for none."""
        return self._placed

    def _makes_room(self, job_id: int, placements: Sequence[Placement]) -> bool:
        """Whether a job that was taken off its node saves itself there first: where another job is to run and it can.

        A node that is given to nobody, or no time, has no power to save with: there it is stopped where it is.
        """
        running = self._running[job_id]
        deadline_s = running.bundle.manifest.checkpoint_deadline_s
        node = self._placed.index(job_id) if job_id in self._placed else -1
        if job_id in self._leaving.values():
            return True
        if deadline_s is None or not 0 <= node < len(placements):
            return False
        taker = placements[node]
        if taker.job is None or taker.duty_frac <= 0.0:
            return False
        self._leaving[node] = job_id
        self._processes.save(job_id, self._now_s, deadline_s * self._rate / max(taker.duty_frac, _SLOWEST_FRAC))
        return True

    def _hold(self, node: int, placement: Placement) -> int:
        """Let a node's job run or wait; return its process group, 0 while it has none."""
        job, duty_frac = placement.job, placement.duty_frac
        leaving = self._running.get(self._leaving.get(node, 0))
        if leaving is not None:
            self._nodes[leaving.spec.job_id] = node
            if job is not None:
                self._nodes.pop(job.job_id, None)
                if job.job_id in self._running and job.job_id not in self._ended | self._ending:
                    self._processes.pause(job.job_id)
            return leaving.group
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
        deadline_s *= self._rate / max(placement.duty_frac, _SLOWEST_FRAC)  # declared for a node of its own
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
        inputs = bundle.folder
        if bundle.sealed and self._at_rest is not None:
            if job.job_id in self._chores:
                return None
            if self._done.pop(job.job_id, None) is not _Kind.INPUTS:
                self._chores[job.job_id] = _Kind.INPUTS, self._unseal(self._at_rest, job.job_id, bundle)
                return None
            inputs = self._staging(job.job_id)
            self._put_checkpoint(job.job_id)
        try:
            group = self._processes.start(job.job_id, bundle.manifest, inputs)
        except JobError as error:
            self._fail(job, str(error))
            return None
        finally:
            if inputs != bundle.folder:
                shutil.rmtree(inputs, ignore_errors=True)
        running = _Running(group, job, bundle, bundle.manifest.runs(job.job_id), self._now_s)
        self._running[job.job_id] = running
        return running

    # --- at rest ------------------------------------------------------------------------------------

    def _staging(self, job_id: int) -> Path:
        """Where a job's inputs wait for its start, and its checkpoint in a folder beside them."""
        folder = self._processes.folder(job_id)
        return folder.with_name(f"{folder.name}.in")

    def _unseal(self, at_rest: AtRest, job_id: int, bundle: Bundle) -> Steps:
        """Bring inputs and, where the job's folder was put to rest, its checkpoint into the open."""
        staging = self._staging(job_id)
        shutil.rmtree(staging, ignore_errors=True)
        yield from at_rest.unseal_inputs(job_id, bundle.manifest, bundle.folder, staging)
        if not self._processes.folder(job_id).exists():
            yield from at_rest.unseal_checkpoint(job_id, staging / checkpoint.GOOD)

    def _put_checkpoint(self, job_id: int) -> None:
        good = self._staging(job_id) / checkpoint.GOOD
        if good.exists():
            self._processes.folder(job_id).mkdir()
            good.rename(self._processes.folder(job_id) / checkpoint.GOOD)

    def _seal(self, job_id: int, kind: _Kind) -> bool:
        """Begin to seal what an encrypted job has left; False where there is nothing to seal with."""
        manifest = self._running[job_id].bundle.manifest
        if self._at_rest is None or not manifest.data.encrypt:
            return False
        self._drop_chore(job_id)
        folder = self._processes.folder(job_id)
        self._chores[job_id] = kind, (
            self._at_rest.seal_results(job_id, manifest, folder / "out") if kind is _Kind.RESULTS
            else self._at_rest.seal_checkpoint(job_id, folder / checkpoint.GOOD, 2 * int(manifest.disk_mb * _MB)))
        return True

    def _is_sealed(self, job_id: int, kind: _Kind) -> bool:
        """Whether what an ended job left is sealed, or need not or cannot be; begins to seal it when first asked."""
        if job_id not in self._closing and self._seal(job_id, kind):
            self._closing.add(job_id)
        return job_id not in self._chores

    def _step(self) -> list[JobProgress]:
        """Go on with one chore; return the end of a job that cannot go on without it."""
        if not self._chores:
            return []
        job_id = next(iter(self._chores))
        kind, steps = self._chores.pop(job_id)
        try:
            next(steps)
            self._chores[job_id] = kind, steps  # behind the others
        except StopIteration:
            self._done[job_id] = kind
        except (OSError, StoreError) as error:
            if kind is not _Kind.CHECKPOINT:  # an open checkpoint is as good for going on, and a newer one replaces it
                return [JobProgress(job_id, 0.0, ended=True, succeeded=False, detail=f"{kind.value}: {error}")]
        return []

    def _drop_chore(self, job_id: int) -> None:
        self._done.pop(job_id, None)
        chore = self._chores.pop(job_id, None)
        if chore is not None:
            chore[1].close()
            if chore[0] is _Kind.INPUTS:
                shutil.rmtree(self._staging(job_id), ignore_errors=True)

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
        inputs, staging = running.bundle.folder, self._staging(report.job_id)
        try:
            if running.bundle.sealed:
                inputs = self._take_back_inputs(report.job_id, staging)
            running.group = self._processes.start(report.job_id, running.bundle.manifest, inputs,
                                                  again=True, expected_sha256=report.result_sha256)
        except (JobError, OSError) as error:
            del self._running[report.job_id]
            self._fail(running.spec, f"second run: {error}")
        finally:
            if running.bundle.sealed:
                checkpoint.remove(staging)
        running.run += 1
        running.saved_s = self._now_s
        return True

    def _take_back_inputs(self, job_id: int, staging: Path) -> Path:
        """Put the inputs of a run that has ended where the next one takes them from. JobError when they are links,
        which we could follow further than the job.
        """
        checkpoint.remove(staging)
        inputs = (self._processes.folder(job_id) / "in").rename(staging)
        if any(path.is_symlink() for path in (inputs, *inputs.iterdir())):
            raise JobError("its inputs were replaced by links")
        return inputs

    def _gives_up(self, report: ProcessReport) -> bool:
        """Whether a job has failed to save itself too often; its end is then a failure."""
        if report.state is ProcessState.UNSAVED:
            self._unsaved[report.job_id] = self._unsaved.get(report.job_id, 0) + 1
        return self._unsaved.get(report.job_id, 0) >= _UNSAVED_MAX

    def _note(self, report: ProcessReport) -> None:
        """Tell of a checkpoint that a job was ended with, or could not be."""
        name = "job_saved" if report.state is ProcessState.SAVED else "job_not_saved"
        self._notes.append(Event(name, (report.job_id, report.detail)))

    def _forget(self, job_id: int, *, ends: bool = False) -> None:
        """Let go of a job's process; what it leaves in the open goes where the job ends or was put to rest."""
        self._processes.release(job_id)
        self._ending.discard(job_id)
        self._ended.discard(job_id)
        self._saves.pop(job_id, None)
        self._closing.discard(job_id)
        encrypted = self._running.pop(job_id).bundle.manifest.data.encrypt
        if ends:
            self._processes.tidy(job_id, keep_log=not encrypted)
        elif self._done.pop(job_id, None) is _Kind.CHECKPOINT:
            self._processes.discard(job_id)

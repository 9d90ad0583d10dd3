"""Work for the satellite in virtual time: a seeded stream of jobs, and a runner that lets the truth do them.

`JobStream` is the supervisor's inbox, `VirtualRunner` its runner and the plant's load. What a job declares and
what it is differ by a seeded error, which only the truth knows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flightsw.declared import number
from flightsw.jobs.base import Placement
from flightsw.jobs.ledger import LedgerEntry
from flightsw.jobs.manifest import Manifest
from flightsw.jobs.meter import Activity
from flightsw.state import Event, JobProgress, JobSpec, Pause

FIRST_STREAM_ID = 1_000_000
"""Jobs of the stream count from here; lower ids are free for the ground."""

_PROGRESS_EVERY_S = 10.0
_ORBIT_S = 5580.0  # unit of the slack below: a low orbit
_CUT_SIGMA = 2.0
_TRUE_MEMORY_OCTETS = 64 << 20
_TRUE_OCTETS_A_UNIT = 1000


@dataclass(frozen=True, slots=True)
class JobClass:
    """One kind of customer. Work and slack are drawn around these."""

    name: str
    share: float
    median_units: float
    value_per_unit: float
    slack_low_s: float
    slack_high_s: float
    pause: Pause


CLASSES = (
    JobClass("urgent", 0.15, 350.0, 2.0, 300.0, 2400.0, Pause.STOP_CONTINUE),
    JobClass("normal", 0.45, 1500.0, 1.0, 0.7 * _ORBIT_S, 3.0 * _ORBIT_S, Pause.STOP_CONTINUE),
    JobClass("background", 0.40, 4500.0, 0.5, 2.0 * _ORBIT_S, 8.0 * _ORBIT_S, Pause.CHECKPOINT),
)
"""A day's customers: few small urgent ones, many ordinary ones, large ones that can wait (own assumption, with
slack from minutes to eight orbits)."""


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """How much work arrives, and how wrong its declarations are.

    `sustainable_units_s` is what the satellite can do on orbit average without end (stated, not computed);
    `overload` times that arrives. `example_share` of the arrivals are the example jobs' manifests, each a batch
    of `example_batch` runs. Every third orbit brings `burst_factor` times the arrivals.

    When an owner wants an answer: an urgent one `answer_urgent_s` after arrival, a normal one after
    `answer_normal_frac` of the slack, a background one after `answer_background_frac` of it, shortly before the
    job would have to start on a node in its reference mode.
    """

    sustainable_units_s: float = number("units/s", 0.01, 100.0, 1.0)
    overload: float = number("", 0.0, 20.0, 1.5)
    activity_low: float = number("frac", 0.3, 1.5, 0.75)
    activity_high: float = number("frac", 0.3, 1.5, 1.10)
    activity_error_frac: float = number("frac", 0.0, 0.5, 0.02)
    work_error_frac: float = number("frac", 0.0, 0.5, 0.0)
    example_share: float = number("frac", 0.0, 1.0, 0.0)
    example_batch: int = number("runs", 1, 100_000, 1)
    burst_factor: float = number("", 1.0, 20.0, 1.0)
    answer_urgent_s: float = number("s", 0.0, 3600.0, 60.0)
    answer_normal_frac: float = number("frac", 0.0, 1.0, 0.25)
    answer_background_frac: float = number("frac", 0.0, 1.0, 0.9)


class JobStream:
    """Jobs that arrive on board by themselves; an `Inbox`. All of them are drawn at the start."""

    def __init__(self, config: StreamConfig, examples: Sequence[Manifest], duration_s: float,
                 generator: np.random.Generator) -> None:
        self.jobs = tuple(_draw(config, examples, duration_s, generator))
        self._next = 0

    def take(self, now_s: float, _known: Mapping[int, LedgerEntry]) -> tuple[JobSpec, ...]:
        """Jobs that arrived since the last call."""
        first = self._next
        while self._next < len(self.jobs) and self.jobs[self._next].arrival_s <= now_s:
            self._next += 1
        return self.jobs[first:self._next]

    def news(self) -> tuple[Event, ...]:
        """Nothing: an arrival is told by what becomes of it."""
        return ()


def _draw(config: StreamConfig, examples: Sequence[Manifest], duration_s: float,
          generator: np.random.Generator) -> list[JobSpec]:
    """Arrivals without memory (Poisson), classes by share, sizes log-normal, slack log-uniform."""
    sigma = 0.5  # of the logarithm of a job's size
    mean_units = sum(c.share * c.median_units for c in CLASSES) * math.exp(0.5 * sigma**2)
    share = config.example_share if examples else 0.0
    if share:
        example_units = sum(_example_units(m, config.example_batch) for m in examples) / len(examples)
        mean_units += share * (example_units - mean_units)
    rate_hz = config.overload * config.sustainable_units_s / mean_units
    jobs: list[JobSpec] = []
    at_s = 0.0
    while rate_hz > 0.0:
        in_burst = int(at_s // _ORBIT_S) % 3 == 2
        at_s += generator.exponential(1.0 / (rate_hz * (config.burst_factor if in_burst else 1.0)))
        if at_s >= duration_s:
            break
        job_id = FIRST_STREAM_ID + len(jobs)
        arrival_s = float(math.ceil(at_s))
        if generator.random() < share:
            manifest = examples[int(generator.integers(len(examples)))]
            jobs.append(from_manifest(manifest, job_id, arrival_s, config.example_batch))
        else:
            jobs.append(_from_class(config, job_id, arrival_s, sigma, generator))
    return jobs


def _from_class(config: StreamConfig, job_id: int, arrival_s: float, sigma: float,
                generator: np.random.Generator) -> JobSpec:
    kind = CLASSES[int(generator.choice(len(CLASSES), p=[c.share for c in CLASSES]))]
    size = math.exp(sigma * float(np.clip(generator.standard_normal(), -_CUT_SIGMA, _CUT_SIGMA)))
    units = float(round(kind.median_units * size))
    value = units * kind.value_per_unit * math.exp(0.3 * float(np.clip(generator.standard_normal(), -2.0, 2.0)))
    slack_s = kind.slack_low_s * (kind.slack_high_s / kind.slack_low_s) ** float(generator.random())
    activity = float(generator.uniform(config.activity_low, config.activity_high))
    return JobSpec(job_id, kind.name, units, round(activity, 3), round(value, 1), arrival_s,
                   round(arrival_s + units + slack_s), round(arrival_s + _answer_after_s(config, kind, slack_s)),
                   kind.pause)


def _answer_after_s(config: StreamConfig, kind: JobClass, slack_s: float) -> float:
    """How long the owner waits for an answer."""
    if kind.name == "urgent":
        return min(config.answer_urgent_s, slack_s)
    return slack_s * (config.answer_normal_frac if kind.name == "normal" else config.answer_background_frac)


def _example_units(manifest: Manifest, batch: int) -> float:
    """Work of `batch` runs: measured core-seconds, one unit being a second of a node in its reference mode.

    The examples use one core and a node gives a job the whole of itself; a manifest that was never measured
    counts its own units as seconds.
    """
    core_s = manifest.work_core_s
    return max(1.0, float(round(batch * (manifest.work_units if core_s is None else core_s))))


def from_manifest(manifest: Manifest, job_id: int, arrival_s: float, batch: int = 1) -> JobSpec:
    """Return the job that `batch` runs of an example make, submitted at `arrival_s`."""
    units = _example_units(manifest, batch)
    activity = 1.0 if manifest.activity_frac is None else manifest.activity_frac
    return JobSpec(job_id, manifest.id, units, activity, manifest.value * batch, arrival_s,
                   arrival_s + units + manifest.deadline_after_s(0.0), arrival_s + manifest.answer_due_s,
                   manifest.pause, manifest.id)


def true_job(spec: JobSpec, config: StreamConfig, seed: int) -> tuple[float, float]:
    """True activity and true work units of a job; its errors hang on seed and id alone."""
    generator = np.random.Generator(np.random.PCG64((seed, spec.job_id)))
    activity, work = np.clip(generator.standard_normal(2), -_CUT_SIGMA, _CUT_SIGMA)
    return (spec.activity_frac * (1.0 + config.activity_error_frac * float(activity)),
            spec.work_units * (1.0 + config.work_error_frac * float(work)))


class _TrueJob:
    """A job as it really is."""

    __slots__ = ("activity", "core_s", "done_units", "spec", "true_units")

    def __init__(self, spec: JobSpec, activity: float, true_units: float) -> None:
        self.spec = spec
        self.activity = activity
        self.true_units = true_units
        self.done_units = 0.0
        self.core_s = 0.0

    @property
    def declared_done_units(self) -> float:
        """Progress as the job itself reports it: its share of the whole, in declared units."""
        return self.spec.work_units * min(1.0, self.done_units / self.true_units)


class VirtualRunner:
    """Runs jobs on the true nodes: a `Runner` for the supervisor, a `Load` for the plant.

    A job that starts or resumes on a node first takes `restore_s` at full draw. Whether it may pause is its
    own affair: one that cannot loses its progress. `units_done` is all work since the start, finished or not.
    A job pays as its manifest's customer, one without a manifest as its class; it uses one core while it works, holds
    `_TRUE_MEMORY_OCTETS` and writes `_TRUE_OCTETS_A_UNIT`.
    """

    def __init__(self, node_count: int, restore_s: float, config: StreamConfig, seed: int,
                 examples: Sequence[Manifest] = ()) -> None:
        self._restore_s = restore_s
        self._config = config
        self._seed = seed
        self._customers = {manifest.id: manifest.customer for manifest in examples}
        self._jobs: dict[int, _TrueJob] = {}
        self._active: dict[int, Activity] = {}
        self._on: list[_TrueJob | None] = [None] * node_count
        self._ran: list[_TrueJob | None] = [None] * node_count  # may have run since the last `place`
        self._is_held = [False] * node_count  # on the node, but given no time
        self._restoring_s = [0.0] * node_count
        self._ended: list[JobProgress] = []
        self._report_due_s = 0.0
        self.units_done = 0.0
        self._groups = (0,) * node_count

    @property
    def on_nodes(self) -> list[int]:
        """Job on each node, 0 for none."""
        return [0 if job is None else job.spec.job_id for job in self._on]

    def place(self, now_s: float, placements: Sequence[Placement]) -> tuple[int, ...]:
        """See `Runner`; there are no processes, so no process groups."""
        del now_s
        for node, (spec, duty_frac, *_) in enumerate(placements):
            before = self._on[node]
            if spec is None or spec.work_units <= 0.0:
                job = None
            elif before is not None and before.spec.job_id == spec.job_id:
                job = before
            else:
                job = self._jobs.get(spec.job_id) or self._admit(spec)
                if job.done_units >= job.true_units:  # it has ended and waits to be noticed
                    job = None
            if job is not before:
                self._leave(before)
                self._on[node] = job
                self._restoring_s[node] = self._restore_s
            self._is_held[node] = duty_frac <= 0.0
            self._ran[node] = None if duty_frac <= 0.0 else job
        return self._groups

    def poll(self, now_s: float) -> tuple[JobProgress, ...]:
        """See `Runner`; progress comes every ten seconds, an end at once."""
        self._active = {}
        for node, ran in enumerate(self._ran):
            if ran is not None and ran.spec.job_id in self._jobs:
                self._active[ran.spec.job_id] = Activity(
                    node, 0, self._customers.get(ran.spec.manifest, ran.spec.name), ran.core_s, _TRUE_MEMORY_OCTETS,
                    int(ran.done_units) * _TRUE_OCTETS_A_UNIT)
        if now_s < self._report_due_s and not self._ended:
            return ()
        reports, self._ended = self._ended, []
        if now_s >= self._report_due_s:
            self._report_due_s = now_s + _PROGRESS_EVERY_S
            reports += [JobProgress(job.spec.job_id, job.declared_done_units, False, False, "")
                        for job in self._on if job is not None and job.done_units > 0.0]
        return tuple(reports)

    def active(self) -> Mapping[int, Activity]:
        """See `Runner`."""
        return self._active

    def notes(self) -> tuple[Event, ...]:
        """See `Runner`; nothing is ever saved here."""
        return ()

    def end(self, job_id: int) -> None:
        """See `Runner`."""
        self._jobs.pop(job_id, None)
        for node, job in enumerate(self._on):
            if job is not None and job.spec.job_id == job_id:
                self._on[node] = None

    def close(self) -> None:
        """See `Runner`."""
        for job_id in list(self._jobs):
            self.end(job_id)

    @property
    def value_under_way(self) -> float:
        """Value of the jobs that have not ended, by the share of each that is done."""
        return sum(job.spec.value * min(1.0, job.done_units / job.true_units) for job in self._jobs.values())

    def activities(self) -> list[float | None]:
        """See `hil.plant.satellite.Load`."""
        return [None if job is None or held else job.activity
                for job, held in zip(self._on, self._is_held, strict=True)]

    def work(self, now_s: float, dt_s: float, rates: Sequence[float]) -> None:
        """See `hil.plant.satellite.Load`. A node that stopped must restore its job when it goes on."""
        del now_s
        for node, rate in enumerate(rates):
            job = self._on[node]
            if job is None:
                continue
            if rate <= 0.0:
                self._restoring_s[node] = self._restore_s
                if job.spec.pause is Pause.NONE:
                    job.done_units = 0.0
                continue
            left_s = dt_s
            job.core_s += dt_s
            if self._restoring_s[node] > 0.0:
                spent_s = min(left_s, self._restoring_s[node])
                self._restoring_s[node] -= spent_s
                left_s -= spent_s
            job.done_units += rate * left_s
            self.units_done += rate * left_s
            if job.done_units >= job.true_units:
                self._ended.append(JobProgress(job.spec.job_id, job.spec.work_units, True, True, f"node {node}"))
                self._on[node] = None

    def _admit(self, spec: JobSpec) -> _TrueJob:
        """Make the truth of a job that is seen for the first time."""
        job = _TrueJob(spec, *true_job(spec, self._config, self._seed))
        self._jobs[spec.job_id] = job
        return job

    @staticmethod
    def _leave(job: _TrueJob | None) -> None:
        """A job is taken off its node."""
        if job is not None and job.spec.pause is Pause.NONE:
            job.done_units = 0.0

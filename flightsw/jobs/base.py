"""What the supervisor needs of whatever runs jobs: real processes on a board, or the rig's truth in a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from flightsw.jobs.meter import Activity
from flightsw.state import Event, JobProgress, JobSpec


class Placement(NamedTuple):
    """What one node holds: a job (None: nothing) and the share of time that it may run (0: paused).

    `power_drop_in_s` is when the plan affords clearly less compute power than now, None when it does not;
    `energy_left_j` what is left of the energy that was reserved for the job, None without a promise.
    """

    job: JobSpec | None
    duty_frac: float
    power_drop_in_s: float | None = None
    energy_left_j: float | None = None


class Runner(Protocol):
    """Runs jobs on nodes. Never raises for a job's own failure: that is a `JobProgress`."""

    def place(self, now_s: float, placements: Sequence[Placement]) -> tuple[int, ...]:
        """Make the nodes hold these jobs; return the process group of each node's job, 0 for none.

        A job that is on no node any more is paused and kept, so that it can go on later.
        """

    def poll(self, now_s: float) -> tuple[JobProgress, ...]:
        """Progress and ends since the last call."""

    def active(self) -> Mapping[int, Activity]:
        """What the jobs that may have run since the last `place` have used, as of the last `poll`; ended ones are in
        it until `end`.
        """

    def notes(self) -> tuple[Event, ...]:
        """What there is to report of jobs beside progress and ends since the last call."""

    def end(self, job_id: int) -> None:
        """End a job for good and free what it holds; unknown ids are ignored."""

    def close(self) -> None:
        """End every job."""

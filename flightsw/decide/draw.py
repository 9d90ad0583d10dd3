"""Learns what each job really draws: its node's measured power in a known mode over the mode's nominal.

Plans, dispatch and admission reckon with the measured draw, above or below the declared one; accounts charge it
(`accounts.py`); the governor takes whichever is more, and the guardian's cap holds whatever is drawn. A job
that draws more than it declared is reported once. Kept by the brain for the jobs that it has promised.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from flightsw.decide.robust import RobustMean
from flightsw.dictionary.sensors import INDEX, SENSORS
from flightsw.mission import Mission
from flightsw.state import Event, JobSpec, JobView, NodeCommand

LOOK_EVERY_S = 10.0

_SAMPLES = 6  # a minute
_REACH = 0.1
_CREDIBLE = (0.5, 1.6)  # of the declared draw; outside, the node is not at work or its sensor is wrong
_WORTH_FRAC = 0.005  # a smaller change of a job's draw changes no plan
_WORKING_MODE = 2  # off and idle say nothing of a job


class _Drawn:
    """One job's measured activity, and its declaration with that in place of the declared one."""

    __slots__ = ("mean", "reported", "spec")

    def __init__(self) -> None:
        self.mean = RobustMean(_SAMPLES, _REACH)
        self.reported = False
        self.spec: JobSpec | None = None


class JobDraw:
    """Measured activity of the jobs that run or ran and are not at their end."""

    def __init__(self, mission: Mission) -> None:
        self._nominal_w = tuple(mode.draw_w for mode in mission.compute.modes)
        self._margin = mission.margins.draw_frac
        self._accuracy_w = SENSORS[INDEX["node0_w"]].accuracy
        self._drawn: dict[int, _Drawn] = {}
        self._before: Sequence[NodeCommand] = ()
        self._looked_s = -LOOK_EVERY_S

    def as_drawn(self, jobs: Sequence[JobView]) -> list[JobView]:
        """Return `jobs` with the measured activity in place of the declared one, where it is known."""
        drawn = [self._drawn.get(job.spec.job_id) for job in jobs]
        return [job if one is None or one.spec is None else job._replace(spec=one.spec)
                for job, one in zip(jobs, drawn, strict=True)]

    def look(self, now_s: float, nodes: Sequence[NodeCommand], node_w: Sequence[float | None],
             jobs: Mapping[int, JobView]) -> list[Event]:
        """Take the draw of nodes that hold the job and mode that they held at the last look; report overdraws."""
        if now_s - self._looked_s < LOOK_EVERY_S:
            return []
        self._looked_s = now_s
        before, self._before = self._before, nodes
        events = []
        for last, node, watts in zip(before, nodes, node_w, strict=False):  # before the first look there are none
            job = jobs.get(node.job_id)
            if node == last and job is not None and watts is not None and node.power_mode >= _WORKING_MODE:
                events += self._take(job.spec, watts, self._nominal_w[node.power_mode])
        return events

    def _take(self, declared: JobSpec, watts: float, nominal_w: float) -> list[Event]:
        """Take one look at a job's node in a mode of nominal draw `nominal_w`."""
        activity = watts / nominal_w
        if not _CREDIBLE[0] * declared.activity_frac <= activity <= _CREDIBLE[1] * declared.activity_frac:
            return []
        drawn = self._drawn.setdefault(declared.job_id, _Drawn())
        drawn.mean.update(activity)
        mean = drawn.mean.value
        if mean is None:
            return []
        if drawn.spec is None or abs(mean - drawn.spec.activity_frac) > _WORTH_FRAC:
            drawn.spec = dataclasses.replace(declared, activity_frac=mean)
        sure_w = mean * nominal_w - self._accuracy_w
        if drawn.reported or sure_w <= declared.activity_frac * (1.0 + self._margin) * nominal_w:
            return []
        drawn.reported = True
        return [Event("job_overdraws", (declared.job_id, declared.activity_frac, mean))]

    def forget(self, job_id: int) -> None:
        """Drop a job that has come to its end."""
        self._drawn.pop(job_id, None)

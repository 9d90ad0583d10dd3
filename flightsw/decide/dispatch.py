"""Which promised job runs on which node and in which power mode, now. Pure; called every few seconds.

Whole jobs on real nodes: earliest deadline first, staying where they are (a move costs a restore). Modes
rise along the efficient hull of the mode table, where they buy most work for a watt, and only inside the
plan's budget; a job that would otherwise be late is served first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from flightsw.mission import PowerMode
from flightsw.state import JobView, NodeCommand


class Step(NamedTuple):
    """One step up the hull of the mode table: the mode it leads to, and what it costs and brings."""

    power_mode: int
    extra_w: float
    extra_rate: float


def hull_steps(modes: Sequence[PowerMode]) -> tuple[Step, ...]:
    """Steps from `off` along the upper concave hull of rate over draw, in falling worth a watt."""
    steps: list[Step] = []
    at = 0
    while True:
        best, best_worth = -1, 0.0
        for i in range(at + 1, len(modes)):
            extra_w = modes[i].draw_w - modes[at].draw_w
            worth = (modes[i].rate - modes[at].rate) / extra_w
            if worth > best_worth:
                best, best_worth = i, worth
        if best < 0:
            return tuple(steps)
        steps.append(Step(best, modes[best].draw_w - modes[at].draw_w, modes[best].rate - modes[at].rate))
        at = best


def place(jobs: Sequence[JobView], nodes: int, dark: Sequence[int], placed: Sequence[int]) -> list[JobView | None]:
    """Choose the job of each node: the `nodes` jobs of earliest deadline, each staying where it is.

    `placed[i]` is the job id that node i holds now (0: none). Nodes in `dark` hold nothing.
    """
    usable = [i for i in range(nodes) if i not in dark]
    chosen = sorted(jobs, key=lambda job: (job.spec.deadline_s, job.spec.job_id))[: len(usable)]
    by_id = {job.spec.job_id: job for job in chosen}
    result: list[JobView | None] = [None] * nodes
    for i in usable:
        result[i] = by_id.pop(placed[i], None)
    waiting = iter([job for job in chosen if job.spec.job_id in by_id])
    for i in usable:
        if result[i] is None:
            result[i] = next(waiting, None)
    return result


def set_modes(placed: Sequence[JobView | None], modes: Sequence[PowerMode], steps: Sequence[Step],
              budget_w: float, now_s: float) -> tuple[NodeCommand, ...]:
    """Give each node with a job a power mode within `budget_w`; empty nodes are off."""
    off_w = modes[0].draw_w
    left_w = budget_w - off_w * len(placed)
    drawn_w = [off_w] * len(placed)
    level = [-1] * len(placed)  # index into steps; -1 is off
    # Tightest first: share of the remaining time that the job needs in the reference mode.
    order = sorted(
        (i for i, job in enumerate(placed) if job is not None),
        key=lambda i: _tightness(placed[i], now_s), reverse=True,
    )
    for rung, step in enumerate(steps):
        for i in order:
            job = placed[i]
            if job is None or level[i] != rung - 1:
                continue
            cost_w = modes[step.power_mode].draw_w * job.spec.activity_frac - drawn_w[i]
            if cost_w <= left_w:
                left_w -= cost_w
                drawn_w[i] += cost_w
                level[i] = rung
    commands = []
    for i, job in enumerate(placed):
        mode = 0 if level[i] < 0 else steps[level[i]].power_mode
        commands.append(NodeCommand(mode, modes[mode].cap_w, job.spec.job_id if job is not None else 0))
    return tuple(commands)


def _tightness(job: JobView | None, now_s: float) -> float:
    """Rate that the job needs from now on to end in time; larger is more urgent."""
    if job is None:
        return 0.0
    left_s = max(1.0, job.spec.deadline_s - now_s)
    return (job.spec.work_units - job.done_units) / left_s

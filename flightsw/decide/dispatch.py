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


def rung_of(power_mode: int, steps: Sequence[Step]) -> int:
    """Index of the highest step at or below a power mode; -1 is off."""
    return max((rung for rung, step in enumerate(steps) if step.power_mode <= power_mode), default=-1)


def set_modes(placed: Sequence[JobView | None], before: Sequence[int], modes: Sequence[PowerMode],
              steps: Sequence[Step], target_w: float, rail_w: float, now_s: float,
              start_s: float) -> tuple[NodeCommand, ...]:
    """Give each node with a job a power mode so that all draw about `target_w`; empty nodes are off.

    `before[i]` is the rung that node i stands on. Power is in steps and a start takes time, so a node climbs when half
    a step is to spare and comes down when more than half a step is overdrawn; the caller keeps the account over time.
    A job that would be late otherwise is given what it needs, within `rail_w`; one that stands still must be begun
    `start_s` ahead: its restore, and the decisions until then.
    """
    off_w = modes[0].draw_w

    def draw_w(i: int, rung: int) -> float:
        job = placed[i]
        if job is None or rung < 0:
            return off_w
        return modes[steps[rung].power_mode].draw_w * job.spec.activity_frac

    stopped = [_tightness(job, now_s + start_s) for job in placed]
    tightness = [stopped[i] if rung < 0 else _tightness(placed[i], now_s) for i, rung in enumerate(before)]
    held = [i for i, job in enumerate(placed) if job is not None]
    needed = [-1] * len(placed)
    rungs = [-1] * len(placed)
    for i in held:
        rates = [modes[step.power_mode].rate for step in steps]
        needed[i] = next((r for r, rate in enumerate(rates) if rate >= _HASTE * tightness[i]), len(steps) - 1)
        needed[i] = needed[i] if stopped[i] > _RELAXED * rates[0] else -1  # could it be begun anew in time?
        rungs[i] = max(before[i], needed[i])
    _level(rungs, needed, tightness, held)
    total_w = sum(draw_w(i, rung) for i, rung in enumerate(rungs))

    while total_w > target_w or total_w > rail_w:
        # Down: the least urgent node on the highest rung, what is needed last.
        above = [i for i in held if rungs[i] > needed[i]] or [i for i in held if rungs[i] >= 0 and total_w > rail_w]
        if not above:
            break
        i = min(above, key=lambda i: (-rungs[i], tightness[i], i))
        saved_w = draw_w(i, rungs[i]) - draw_w(i, rungs[i] - 1)
        if total_w - target_w <= _HALF * saved_w and total_w <= rail_w:
            break
        rungs[i] -= 1
        total_w -= saved_w
    for rung in range(len(steps)):
        # Up: the most urgent node first, every node to one rung before any to the next.
        for i in sorted(held, key=lambda i: (-tightness[i], i)):
            cost_w = draw_w(i, rung) - draw_w(i, rung - 1)
            if rungs[i] == rung - 1 and target_w - total_w >= _HALF * cost_w and total_w + cost_w <= rail_w:
                rungs[i] = rung
                total_w += cost_w
        if any(rungs[i] < rung for i in held):
            break  # power for a whole rung comes with time; a higher rung would do less with it
    commands = []
    for job, rung in zip(placed, rungs, strict=True):
        mode = 0 if rung < 0 else steps[rung].power_mode
        commands.append(NodeCommand(mode, modes[mode].cap_w, job.spec.job_id if job is not None else 0))
    return tuple(commands)


_HALF = 0.5
_HASTE = 1.05  # of the rate that just meets the deadline
_RELAXED = 0.6  # of the lowest working rate: a job with more time than this waits for power to spare
_LEAST_S = 1e-3  # no time left: whatever work is left is urgent


def _level(rungs: list[int], needed: Sequence[int], tightness: Sequence[float], held: Sequence[int]) -> None:
    """Bring nodes two or more rungs apart nearer each other: the hull bends down, so a watt does more work there.

    No node goes below what its job needs.
    """
    while True:
        above = [i for i in held if rungs[i] > needed[i]]
        if not above:
            return
        high = max(above, key=lambda i: (rungs[i], -tightness[i], -i))
        low = min(held, key=lambda i: (rungs[i], -tightness[i], i))
        if rungs[high] - rungs[low] < 2:
            return
        rungs[high] -= 1
        rungs[low] += 1


def _tightness(job: JobView | None, from_s: float) -> float:
    """Rate that the job needs from `from_s` on to end in time; larger is more urgent."""
    if job is None:
        return 0.0
    left_s = max(_LEAST_S, job.spec.deadline_s - from_s)
    return (job.spec.work_units - job.done_units) / left_s

"""What an answer costs by how many jobs are promised: `make bench-admission` measures it and draws the plot.

The satellite is full: of jobs of 1 to 50 min that asked for a little more than it can do by the brain's own plan,
those that found room. Asked are distinct jobs with deadlines over that whole time; the fuller, the more of them are
refused and want a counter-offer. Counted is processor time of all that one answer takes, from the list of promises
to the answer. As in the flight program, garbage that is there from the start is not collected.

The peer answers the same by laying out all jobs anew for the deadline asked and for one at each place behind it.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from heapq import heapreplace
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "flightsw"))

from reference_satellite import estimate, mission
from test_brain import Flight

from flightsw.decide.accounts import Accounts
from flightsw.decide.admission import HELD_BACK_FRAC, Desk
from flightsw.decide.capacity import CapacityCurve
from flightsw.state import Decision, Estimate, Inputs, JobSpec, JobState, JobView, Mode, Plan, Promise

SIZES = (10, 30, 100, 300, 1000, 2000, 4000)
PEER_SIZES = (10, 30, 100, 300, 1000)
LIMITS_MS = {100: 20.0, 2000: 200.0}
"""Most that the slowest answer in a hundred may take, by jobs promised."""

M = mission()
NODES, RATE_MAX, RESTORE = M.compute.nodes, M.compute.modes[-1].rate, M.compute.restore_s


class Cost(NamedTuple):
    """Seconds that each of many answers, or ticks, took beside so many jobs."""

    jobs: int
    seconds: Sequence[float]

    def ms(self, percent: float) -> float:
        return float(np.percentile(self.seconds, percent)) * 1e3


@cache
def own_plan() -> Plan:
    """The plan that a brain without jobs makes."""
    return Flight().log[-1].plan


def capacity() -> CapacityCurve:
    return CapacityCurve(own_plan(), own_plan().made_s, NODES, RATE_MAX, HELD_BACK_FRAC)


def job(job_id: int, work_units: float, deadline_s: float, due_s: float = 0.0) -> JobSpec:
    return JobSpec(job_id, f"job {job_id}", work_units, 1.0, work_units, 0.0, deadline_s, due_s)


def promised(count: int, seed: int = 1) -> list[JobView]:
    """Promises that fit: of jobs that ask for a little more than there is, those that still found room."""
    rng, curve = np.random.default_rng(seed), capacity()
    free, room, jobs = [0.0] * NODES, 3000.0, []
    while len(jobs) < count:
        work = float(rng.uniform(60.0, 3000.0))
        room += float(rng.uniform(0.0, 3000.0)) / NODES
        if free[0] + work + RESTORE < room - 1.0:
            heapreplace(free, free[0] + work + RESTORE)
            deadline_s = curve.time_of(room)
            assert deadline_s is not None
            jobs.append(JobView(job(len(jobs) + 1, work, deadline_s), JobState.PROMISED, 0.0, -1))
    return [jobs[i] for i in rng.permutation(count)]


def asked(jobs: list[JobView], count: int, seed: int = 2) -> list[JobSpec]:
    """Distinct jobs with deadlines over the whole time that is promised."""
    rng = np.random.default_rng(seed)
    last_s = 1.1 * max(view.spec.deadline_s for view in jobs)
    return [job(10**6 + i, float(rng.uniform(60.0, 3000.0)), float(rng.uniform(3000.0, last_s))) for i in range(count)]


def accounts_of_the_plan() -> Accounts:
    accounts = Accounts(M)
    accounts.follow(own_plan(), 1.0, (), M.parameters["battery_floor_frac"])
    return accounts


def answer(jobs: list[JobView], accounts: Accounts, spec: JobSpec) -> float | None:
    """One answer from the beginning: its deadline, or the one that is offered instead."""
    now_s = own_plan().made_s
    desk = Desk(jobs, own_plan(), accounts.room(now_s, jobs), estimate(now_s), Mode.COMPUTE, M)
    given = desk.answer(spec)
    return given.finish_by_s if isinstance(given, Promise) else given.counter_deadline_s


def peer_answer(jobs: list[JobView], spec: JobSpec) -> float | None:
    """The same by trying: all jobs laid out anew for the deadline asked for, and for one at each place behind it."""
    curve = capacity()
    others = sorted((view.spec.deadline_s, view.spec.work_units) for view in jobs)

    def fits(deadline_s: float) -> bool:
        free = [0.0] * NODES
        for by_s, work in sorted([*others, (deadline_s, spec.work_units)]):
            load = free[0] + work + RESTORE
            if load > curve.units_by(by_s):
                return False
            heapreplace(free, load)
        return True

    free, after_s = [0.0] * NODES, spec.deadline_s
    if fits(after_s):
        return after_s
    for by_s, work in [*others, (float("inf"), 0.0)]:
        ends_s = curve.time_of(free[0] + spec.work_units + RESTORE)
        deadline_s = max(after_s, ends_s or 0.0) + 1.0
        if deadline_s < by_s and fits(deadline_s):
            return deadline_s
        heapreplace(free, free[0] + work + RESTORE)
        after_s = max(after_s, by_s)
    return None


def timed(calls: list[Callable[[], object]]) -> list[float]:
    seconds = []
    gc.collect()
    gc.freeze()
    for call in calls:
        began = time.thread_time()
        call()
        seconds.append(time.thread_time() - began)
    gc.unfreeze()
    return seconds


def answers(count: int, *, asks: int = 200) -> Cost:
    """Answers beside `count` promised jobs."""
    jobs = promised(count)
    accounts = accounts_of_the_plan()
    return Cost(count, timed([lambda spec=spec: answer(jobs, accounts, spec) for spec in asked(jobs, asks)]))


def peer_answers(count: int, *, asks: int = 60) -> Cost:
    """The same for the peer."""
    jobs = promised(count)
    return Cost(count, timed([lambda spec=spec: peer_answer(jobs, spec) for spec in asked(jobs, asks)]))


def ticks(count: int, *, seconds: int = 200) -> Cost:
    """Whole decisions, one a second, each with one job that arrives and is answered at once.

    Two thirds of `count` jobs are promised, the others wait for an answer.
    """
    rng = np.random.default_rng(3)
    held = promised(max(1, count * 2 // 3))
    waiting = [JobView(job(2 * 10**6 + i, float(rng.uniform(60.0, 3000.0)), 1e7, 9e6), JobState.QUEUED, 0.0, -1)
               for i in range(count - len(held))]
    flight = Flight(jobs=(*held, *waiting))
    flight.brain.parameters["jobs_open_max"] = 2.0 * SIZES[-1]
    decide, spent = flight.brain.decide, []

    def timed_decide(state: Estimate, inputs: Inputs) -> Decision:
        began = time.thread_time()
        decision = decide(state, inputs)
        spent.append(time.thread_time() - began)
        return decision

    flight.brain.decide = timed_decide  # type: ignore[method-assign] # it is measured
    gc.collect()
    gc.freeze()
    for arriving in asked(held, seconds):
        flight.tick(jobs=[arriving])
    gc.unfreeze()
    return Cost(count, spent)


def growth(costs: Sequence[Cost], percent: float) -> float:
    """Exponent of n that fits the cost from 100 jobs on, where it has left the fixed part behind."""
    n, ms = zip(*((cost.jobs, cost.ms(percent)) for cost in costs if cost.jobs >= 100), strict=True)
    return float(np.polyfit(np.log(n), np.log(ms), 1)[0])


def draw(path: Path, ours: Sequence[Cost], peers: Sequence[Cost], whole: Sequence[Cost]) -> None:
    """Draw processor time by jobs, both logarithmic, with n log n and the limits."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.use("Agg")
    figure, axes = plt.subplots(figsize=(8.0, 5.2), dpi=130)

    def line(costs: Sequence[Cost], percent: float, **look: object) -> None:
        axes.plot([c.jobs for c in costs], [c.ms(percent) for c in costs], **look)  # type: ignore[arg-type]

    n = np.geomspace(SIZES[0], SIZES[-1], 100)
    scale = ours[-1].ms(50.0) / (SIZES[-1] * np.log2(SIZES[-1]))
    axes.plot(n, scale * n * np.log2(n), color="0.6", lw=5, alpha=0.45, solid_capstyle="round", label="n log n")
    line(peers, 99.0, color="#b3541e", marker="s", ms=4, lw=1.2, ls="--", label="all laid out for each place, p99")
    line(ours, 50.0, color="#1f5fa8", marker="o", ms=4.5, lw=1.6, label="answer, median")
    line(ours, 99.0, color="#1f5fa8", marker="o", ms=4.5, lw=1.2, ls=":", mfc="white", label="answer, p99")
    line(whole, 99.0, color="#2e7d4f", marker="^", ms=5, lw=1.2, ls=":", mfc="white", label="tick with an answer, p99")
    for jobs, limit_ms in LIMITS_MS.items():
        axes.plot([jobs / 1.35, jobs * 1.35], [limit_ms, limit_ms], color="#a01c1c", lw=2.5, solid_capstyle="butt")
        axes.annotate(f"limit {limit_ms:.0f} ms", (jobs, limit_ms), xytext=(0, 5), textcoords="offset points",
                      ha="center", color="#a01c1c", fontsize=9)
    axes.set(xscale="log", yscale="log", xlabel="jobs promised (answer) or open (tick)", ylabel="processor time, ms",
             xlim=(8, 5200))
    axes.set_title("An answer to one job, by how many are promised already", loc="left", fontsize=11)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(which="major", color="0.88", lw=0.8)
    axes.grid(which="minor", color="0.95", lw=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure answers by how many jobs are promised; draw the plot.")
    parser.add_argument("picture", type=Path)
    picture = parser.parse_args().picture
    ours, peers, whole = [], [], []
    sys.stdout.write(f"{'jobs':>6}{'answer ms, p50':>16}{'p99':>8}{'tick ms, p50':>15}{'p99':>8}{'peer ms, p50':>15}"
                     f"{'p99':>8}\n")
    for count in SIZES:
        ours.append(answers(count))
        whole.append(ticks(count))
        row = f"{ours[-1].ms(50.0):16.2f}{ours[-1].ms(99.0):8.2f}{whole[-1].ms(50.0):15.2f}{whole[-1].ms(99.0):8.2f}"
        if count in PEER_SIZES:
            peers.append(peer_answers(count))
            row += f"{peers[-1].ms(50.0):15.2f}{peers[-1].ms(99.0):8.2f}"
        sys.stdout.write(f"{count:6}{row}\n")
    p50, p99 = growth(ours, 50.0), growth(ours, 99.0)
    sys.stdout.write(f"growth from 100 jobs on, as a power of n: answer p50 {p50:.2f}, p99 {p99:.2f}, "
                     f"tick p99 {growth(whole, 99.0):.2f}, peer p99 {growth(peers, 99.0):.2f}\n")
    draw(picture, ours, peers, whole)


if __name__ == "__main__":
    main()

"""Dispatch: whole jobs on real nodes, inside the budget."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_satellite import mission

from flightsw.decide.dispatch import hull_steps, place, set_modes
from flightsw.mission import PowerMode
from flightsw.state import JobSpec, JobState, JobView

MODES = mission().compute.modes
STEPS = hull_steps(MODES)
OFF_W = MODES[0].draw_w


def job(job_id: int, deadline_s: float = 1000.0, work: float = 100.0, activity: float = 1.0,
        done: float = 0.0) -> JobView:  # fmt: skip
    spec = JobSpec(job_id, f"job{job_id}", work, activity, 1.0, 0.0, deadline_s, 0.0)
    return JobView(spec, JobState.PROMISED, done, -1)


jobs_lists = st.lists(st.builds(
    job, st.integers(1, 40), st.integers(1, 5).map(lambda i: 500.0 * i), st.floats(1.0, 5000.0), st.floats(0.5, 1.5),
), max_size=10, unique_by=lambda j: j.spec.job_id)  # fmt: skip
dark_sets = st.sets(st.integers(0, 3)).map(tuple)


# --- hull ----------------------------------------------------------------------------------------------


def mode(draw_w: float, rate: float) -> PowerMode:
    return PowerMode(f"{draw_w}", draw_w + 1.0, draw_w, rate, 0)


def test_the_reference_hull_leaves_out_idle_and_the_dominated_mode() -> None:
    assert [step.power_mode for step in STEPS] == [3, 4, 5]  # 10W does less for a watt than off and 15W in turns
    assert sum(step.extra_w for step in STEPS) == pytest.approx(MODES[5].draw_w - OFF_W)
    assert sum(step.extra_rate for step in STEPS) == pytest.approx(MODES[5].rate)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0.5, 10.0), st.floats(0.0, 1.0)), min_size=1, max_size=6))
def test_the_hull_is_concave_and_above_every_mode(gaps: list[tuple[float, float]]) -> None:
    modes = [mode(0.4, 0.0), mode(4.5, 0.0)]
    for extra_w, extra_rate in gaps:
        modes.append(mode(modes[-1].draw_w + extra_w, modes[-1].rate + extra_rate))
    steps = hull_steps(modes)
    worth = [step.extra_rate / step.extra_w for step in steps]
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(worth))
    corners = [(modes[0].draw_w, 0.0)]
    for step in steps:
        corners.append((corners[-1][0] + step.extra_w, corners[-1][1] + step.extra_rate))
        assert corners[-1] == pytest.approx((modes[step.power_mode].draw_w, modes[step.power_mode].rate))
    for m in modes:
        for (w0, r0), (w1, r1) in itertools.pairwise(corners):
            if w0 <= m.draw_w <= w1:
                assert m.rate <= r0 + (r1 - r0) * (m.draw_w - w0) / (w1 - w0) + 1e-9


# --- placing -------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(jobs_lists, dark_sets, st.lists(st.integers(0, 40), min_size=4, max_size=4))
def test_whole_jobs_earliest_deadline_first_and_none_moves_for_nothing(
    jobs: list[JobView], dark: tuple[int, ...], before: list[int]
) -> None:
    before = [j if before.index(j) == i else 0 for i, j in enumerate(before)]  # a job is on one node only
    placed = place(jobs, 4, dark, before)
    ids = [j.spec.job_id for j in placed if j is not None]
    assert len(set(ids)) == len(ids)
    usable = [i for i in range(4) if i not in dark]
    urgent = sorted(jobs, key=lambda j: (j.spec.deadline_s, j.spec.job_id))[: len(usable)]
    assert set(ids) == {j.spec.job_id for j in urgent}
    for i in range(4):
        here = placed[i]
        if i in dark:
            assert here is None
        elif before[i] in ids:
            assert here is not None
            assert here.spec.job_id == before[i]  # stays


# --- modes ---------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(jobs_lists, dark_sets, st.floats(0.0, 160.0))
def test_never_above_the_budget_and_empty_nodes_are_off(
    jobs: list[JobView], dark: tuple[int, ...], budget_w: float
) -> None:
    placed = place(jobs, 4, dark, [0] * 4)
    commands = set_modes(placed, MODES, STEPS, budget_w, 0.0)
    draws = [MODES[c.power_mode].draw_w * (p.spec.activity_frac if p and c.power_mode else 1.0)
             for c, p in zip(commands, placed, strict=True)]  # fmt: skip
    assert sum(draws) <= max(budget_w, 4 * OFF_W) + 1e-9
    for command, here in zip(commands, placed, strict=True):
        assert command.power_mode in (0, 3, 4, 5)
        assert command.cap_w == MODES[command.power_mode].cap_w
        assert command.job_id == (here.spec.job_id if here else 0)
        if here is None:
            assert command.power_mode == 0
    # Nothing is left lying: no node could go one step up for what is left.
    left_w = budget_w - sum(draws)
    for i, (command, here) in enumerate(zip(commands, placed, strict=True)):
        rungs = [0, *(s.power_mode for s in STEPS)]
        at = rungs.index(command.power_mode)
        if here is not None and at + 1 < len(rungs) and left_w > 0.0:
            assert MODES[rungs[at + 1]].draw_w * here.spec.activity_frac - draws[i] > left_w - 1e-9


@settings(max_examples=200, deadline=None)
@given(jobs_lists, st.floats(0.0, 150.0), st.floats(0.0, 30.0))
def test_more_budget_never_does_less(jobs: list[JobView], budget_w: float, more_w: float) -> None:
    jobs = [j._replace(spec=JobSpec(j.spec.job_id, "", 100.0, 1.0, 1.0, 0.0, j.spec.deadline_s, 0.0)) for j in jobs]
    placed = place(jobs, 4, (), [0] * 4)
    rate = [sum(MODES[c.power_mode].rate for c in set_modes(placed, MODES, STEPS, w, 0.0))
            for w in (budget_w, budget_w + more_w)]  # fmt: skip
    assert rate[0] <= rate[1] + 1e-9


@pytest.mark.parametrize(
    ("budget_w", "expected"),
    [
        (0.0, [0, 0, 0]),
        (4 * OFF_W + 13.5, [0, 0, 0]),
        (4 * OFF_W + 13.7, [3, 0, 0]),  # the tightest first
        (4 * OFF_W + 3 * 13.6 + 0.1, [3, 3, 3]),  # most work for a watt: all before one more
        (4 * OFF_W + 3 * 13.6 + 8.1, [4, 3, 3]),
        (150.0, [5, 5, 5]),
    ],
)
def test_modes_rise_where_they_buy_most(budget_w: float, expected: list[int]) -> None:
    jobs = [job(1, 200.0, 190.0), job(2, 400.0, 100.0), job(3, 800.0, 100.0)]
    commands = set_modes(place(jobs, 4, (), [0] * 4), MODES, STEPS, budget_w, 0.0)
    assert [c.power_mode for c in commands[:3]] == expected
    assert commands[3].power_mode == 0


def test_what_is_done_makes_a_job_less_tight() -> None:
    jobs = [job(1, 200.0, 190.0, done=180.0), job(2, 400.0, 100.0)]
    commands = set_modes(place(jobs, 4, (), [0] * 4), MODES, STEPS, 4 * OFF_W + 13.7, 0.0)
    assert [c.power_mode for c in commands] == [0, 3, 0, 0]

"""Dispatch: whole jobs on real nodes, inside the budget."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_satellite import mission

from flightsw.decide.dispatch import hull_steps, place, rung_of, set_modes
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

TOP = len(STEPS) - 1
RUNG = {0: -1} | {step.power_mode: rung for rung, step in enumerate(STEPS)}
RATES = [MODES[step.power_mode].rate for step in STEPS]
ALL_OFF_W = 4 * OFF_W
RAIL_W = 200.0  # carries everything
NOWHERE = [-1] * 4


def relaxed(job_id: int, activity: float = 1.0) -> JobView:
    return job(job_id, 10_000.0 + job_id, 100.0, activity)


def draw_w(here: JobView | None, rung: int) -> float:
    if here is None or rung < 0:
        return OFF_W
    return MODES[STEPS[rung].power_mode].draw_w * here.spec.activity_frac


def total_of(placed: Sequence[JobView | None], rungs: Sequence[int]) -> float:
    return sum(draw_w(here, rung) for here, rung in zip(placed, rungs, strict=True))


def rungs_of(placed: Sequence[JobView | None], before: Sequence[int], target_w: float, rail_w: float = RAIL_W,
             now_s: float = 0.0, start_s: float = 0.0) -> list[int]:  # fmt: skip
    """Rungs that `set_modes` chooses, its commands held to what is always true of them."""
    commands = set_modes(placed, before, MODES, STEPS, target_w, rail_w, now_s, start_s)
    for command, here in zip(commands, placed, strict=True):
        assert command.power_mode in RUNG
        assert command.cap_w == MODES[command.power_mode].cap_w
        assert command.job_id == (here.spec.job_id if here else 0)
        assert here is not None or command.power_mode == 0
    return [RUNG[command.power_mode] for command in commands]


def needed_rung(here: JobView | None, now_s: float = 0.0) -> int:
    """Rung that keeps a job from being late: 5 % faster than it must, none while little speed would do."""
    if here is None:
        return -1
    rate = (here.spec.work_units - here.done_units) / max(1.0, here.spec.deadline_s - now_s)
    if rate <= 0.6 * RATES[0]:
        return -1
    return min((rung for rung in range(len(STEPS)) if RATES[rung] >= 1.05 * rate), default=TOP)


any_jobs = st.builds(
    job, st.just(0), st.integers(1, 5).map(lambda i: 500.0 * i), st.floats(1.0, 3000.0), st.floats(0.5, 1.5),
)  # fmt: skip
relaxed_jobs = st.floats(0.5, 1.5).map(lambda activity: relaxed(0, activity))
rungs_before = st.lists(st.integers(-1, TOP), min_size=4, max_size=4)
targets = st.floats(0.0, 190.0)


def on_four(jobs: st.SearchStrategy[JobView]) -> st.SearchStrategy[list[JobView | None]]:
    """Four nodes, some of them empty, job i + 1 on node i."""
    nodes = st.lists(st.none() | jobs | jobs, min_size=4, max_size=4)
    return nodes.map(lambda held: [j and j._replace(spec=dataclasses.replace(j.spec, job_id=i + 1))
                                   for i, j in enumerate(held)])  # fmt: skip


def held_at(placed: Sequence[JobView | None], before: Sequence[int]) -> list[int]:
    """Rungs to stand on: none where there is no job."""
    return [rung if here else -1 for rung, here in zip(before, placed, strict=True)]


@settings(max_examples=300, deadline=None)
@given(jobs_lists, dark_sets, rungs_before, targets, st.floats(0.0, 190.0), st.floats(0.0, 400.0))
def test_never_above_the_rail_and_empty_and_dark_nodes_are_off(
    jobs: list[JobView], dark: tuple[int, ...], before: list[int], target_w: float, rail_w: float, now_s: float
) -> None:
    placed = place(jobs, 4, dark, [0] * 4)
    rungs = rungs_of(placed, held_at(placed, before), target_w, rail_w, now_s)
    assert total_of(placed, rungs) <= max(rail_w, ALL_OFF_W) + 1e-9
    assert all(rungs[i] == -1 for i in range(4) if i in dark or placed[i] is None)


@settings(max_examples=500, deadline=None)
@given(on_four(any_jobs), rungs_before, targets, st.floats(30.0, 190.0), st.floats(0.0, 400.0))
def test_within_half_a_step_of_the_target_unless_jobs_are_tight_or_nothing_is_left(
    placed: list[JobView | None], before: list[int], target_w: float, rail_w: float, now_s: float
) -> None:
    rungs = rungs_of(placed, held_at(placed, before), target_w, rail_w, now_s)
    total_w = total_of(placed, rungs)
    # Above: more than half a step only for what jobs need.
    steps_w = [draw_w(here, rung) - draw_w(here, rung - 1) for here, rung in zip(placed, rungs, strict=True)
               if rung > needed_rung(here, now_s)]  # fmt: skip
    if steps_w:
        assert total_w - target_w <= 0.5 * max(steps_w) + 1e-9
    # Below: none of the lowest could go up a step that is half paid for and that the rail carries.
    lowest = min((rung for here, rung in zip(placed, rungs, strict=True) if here), default=TOP)
    for here, rung in zip(placed, rungs, strict=True):
        if here is not None and rung == lowest < TOP:
            cost_w = draw_w(here, rung + 1) - draw_w(here, rung)
            assert target_w - total_w < 0.5 * cost_w + 1e-9 or total_w + cost_w > rail_w - 1e-9


@settings(max_examples=300, deadline=None)
@given(on_four(any_jobs), rungs_before, st.floats(-0.999, 0.999), st.floats(0.0, 400.0))
def test_a_target_moved_by_less_than_half_a_step_changes_nothing(
    placed: list[JobView | None], before: list[int], share: float, now_s: float
) -> None:
    lowest = min((max(rung, needed_rung(here, now_s)) for rung, here in zip(before, placed, strict=True) if here),
                 default=-1)  # fmt: skip
    before = [max(min(rung, lowest + 1), needed_rung(here, now_s)) if here else -1
              for rung, here in zip(before, placed, strict=True)]  # fmt: skip
    steps_w = [draw_w(here, rung) - draw_w(here, rung - 1) for here, at in zip(placed, before, strict=True) if here
               for rung in (at, at + 1) if 0 <= rung <= TOP]  # fmt: skip
    target_w = total_of(placed, before) + share * 0.5 * min(steps_w, default=0.0)
    assert rungs_of(placed, before, target_w, RAIL_W, now_s) == before


@settings(max_examples=300, deadline=None)
@given(on_four(any_jobs), rungs_before, targets, st.floats(10.0, 190.0))
def test_a_target_that_stands_still_is_met_once_and_for_all(
    placed: list[JobView | None], before: list[int], target_w: float, rail_w: float
) -> None:
    rungs = held_at(placed, before)
    for _ in range(6):
        rungs, earlier = rungs_of(placed, rungs, target_w, rail_w), rungs
    assert rungs == earlier


@settings(max_examples=500, deadline=None)
@given(on_four(any_jobs), rungs_before, targets, st.floats(10.0, 190.0), st.floats(0.0, 400.0))
def test_a_job_that_would_be_late_gets_what_it_needs_where_the_rail_carries_it(
    placed: list[JobView | None], before: list[int], target_w: float, rail_w: float, now_s: float
) -> None:
    needed = [needed_rung(here, now_s) for here in placed]
    rungs = rungs_of(placed, held_at(placed, before), target_w, rail_w, now_s)
    if total_of(placed, needed) <= rail_w - 1e-9:
        assert all(rung >= need for rung, need in zip(rungs, needed, strict=True))
    else:  # what is not needed is taken away before anything that is
        rungs = rungs_of(placed, held_at(placed, before), 0.0, rail_w, now_s)
        assert all(rung <= need for rung, need in zip(rungs, needed, strict=True))


@settings(max_examples=300, deadline=None)
@given(on_four(relaxed_jobs), targets)
def test_all_climb_one_rung_before_any_climbs_the_next(placed: list[JobView | None], target_w: float) -> None:
    rungs = rungs_of(placed, NOWHERE, target_w)
    lowest = min((rung for here, rung in zip(placed, rungs, strict=True) if here), default=TOP)
    for here, rung in zip(placed, rungs, strict=True):
        if here is None or rung == TOP or rung > lowest:
            continue
        # Were none above the rung that this one lacks, it could still not be paid.
        level_w = total_of(placed, [min(other, rung + 1) for other in rungs])
        assert target_w - level_w < 0.5 * (draw_w(here, rung + 1) - draw_w(here, rung)) + 1e-9


@settings(max_examples=300, deadline=None)
@given(on_four(st.just(relaxed(0))), rungs_before, targets, st.floats(0.0, 30.0))
def test_more_budget_never_does_less(
    placed: list[JobView | None], before: list[int], target_w: float, more_w: float
) -> None:
    before = held_at(placed, before)
    poor, rich = (sum(RATES[rung] for rung in rungs_of(placed, before, w) if rung >= 0)
                  for w in (target_w, target_w + more_w))  # fmt: skip
    assert poor <= rich + 1e-9


@settings(max_examples=300, deadline=None)
@given(on_four(any_jobs), rungs_before, targets)
def test_no_node_stands_two_rungs_above_another_but_for_need(
    placed: list[JobView | None], before: list[int], target_w: float
) -> None:
    rungs = rungs_of(placed, held_at(placed, before), target_w)
    lowest = min((rung for here, rung in zip(placed, rungs, strict=True) if here), default=TOP)
    for here, rung in zip(placed, rungs, strict=True):
        assert here is None or rung <= max(lowest + 1, needed_rung(here))


def test_unlevel_nodes_are_levelled_at_the_same_power() -> None:
    placed = [job(1, 1000.0, 300.0), job(2, 1000.0, 200.0), job(3, 1000.0, 100.0), None]
    assert rungs_of(placed, [1, 1, -1, -1], ALL_OFF_W + 3 * 13.6 + 8.0) == [1, 0, 0, -1]


def test_a_stopped_job_is_tighter_by_its_restore() -> None:
    placed = [job(1, 1000.0, 663.0), None, None, None]
    assert [rungs_of(placed, [before, -1, -1, -1], 0.0, start_s=10.0)[0] for before in (-1, 0)] == [1, 0]


@pytest.mark.parametrize("left_units", [0.5, 2.0, 10.0, 60.0])
@pytest.mark.parametrize("phase_s", [0, 3, 9])
def test_the_rest_of_a_job_is_not_left_until_its_restore_takes_too_long(left_units: float, phase_s: int) -> None:
    """No power to spare: what is left is begun in time all the same, decisions every ten seconds, 15 s to restore."""
    done, on_s, rung, deadline_s = 100.0 - left_units, 0, -1, 400.0
    for now_s in range(int(deadline_s)):
        if now_s % 10 == phase_s:
            rung = rungs_of([job(1, deadline_s, 100.0, done=done), None, None, None], [rung, -1, -1, -1], 0.0,
                            now_s=float(now_s), start_s=15.0 + 2 * 10.0)[0]
        on_s = on_s + 1 if rung >= 0 else 0
        done += RATES[rung] if on_s > 15 else 0.0
        if done >= 100.0:
            return
    pytest.fail(f"{100.0 - done:.1f} units were left at the deadline")


@pytest.mark.parametrize(
    ("before", "above_off_w", "expected"),
    [
        ([-1, -1, -1], 0.0, [-1, -1, -1]),
        ([-1, -1, -1], 6.7, [-1, -1, -1]),  # less than half of the first step, 13.6 W
        ([-1, -1, -1], 6.9, [0, -1, -1]),  # the tightest first
        ([-1, -1, -1], 3 * 13.6, [0, 0, 0]),  # most work for a watt: all before one more
        ([-1, -1, -1], 3 * 13.6 + 3.9, [0, 0, 0]),
        ([-1, -1, -1], 3 * 13.6 + 4.1, [1, 0, 0]),
        ([-1, -1, -1], 150.0, [2, 2, 2]),
        ([0, 0, -1], 13.6 + 6.9, [0, 0, -1]),  # half a step overdrawn: the account pays it back later
        ([0, 0, -1], 13.6 + 3.9, [0, -1, -1]),  # more: the least tight goes
        ([2, 1, 0], 13.6, [0, -1, -1]),  # the highest first, then the least tight
        ([0, 1, 2], 0.0, [-1, -1, -1]),
    ],
)
def test_modes_move_where_it_buys_most_and_costs_least(
    before: list[int], above_off_w: float, expected: list[int]
) -> None:
    placed = [job(1, 1000.0, 300.0), job(2, 1000.0, 200.0), job(3, 1000.0, 100.0), None]
    assert rungs_of(placed, [*before, -1], ALL_OFF_W + above_off_w) == [*expected, -1]


@pytest.mark.parametrize(("work", "rung"), [(420.0, -1), (421.0, 0), (666.0, 0), (667.0, 1), (953.0, 2), (5000.0, 2)])
def test_what_is_needed_is_given_without_any_budget(work: float, rung: int) -> None:
    assert rungs_of([job(1, 1000.0, work), None, None, relaxed(4)], NOWHERE, 0.0) == [rung, -1, -1, -1]


def test_a_short_rail_is_taken_from_the_relaxed_before_the_tight() -> None:
    placed = [relaxed(1), job(2, 1000.0, 900.0), relaxed(3), job(4, 1000.0, 500.0)]
    assert rungs_of(placed, [2, 2, 2, 2], 150.0, 2 * OFF_W + 22.0 + 14.0) == [-1, 1, -1, 0]
    assert rungs_of(placed, [2, 2, 2, 2], 150.0, 3 * OFF_W + 14.0) == [-1, 0, -1, -1]


def test_what_is_done_makes_a_job_less_tight() -> None:
    placed = [job(1, 1000.0, 390.0, done=300.0), job(2, 1000.0, 300.0), None, None]
    assert rungs_of(placed, NOWHERE, ALL_OFF_W + 13.6) == [-1, 0, -1, -1]
    urgent = job(1, 1000.0, 900.0)
    assert rungs_of([urgent, None, None, None], NOWHERE, 0.0) == [1, -1, -1, -1]
    assert rungs_of([urgent._replace(done_units=800.0), None, None, None], NOWHERE, 0.0) == NOWHERE


def test_time_that_passes_makes_a_job_tighter() -> None:
    placed = [job(1, 1000.0, 400.0), None, None, None]
    assert [rungs_of(placed, NOWHERE, 0.0, now_s=t)[0] for t in (0.0, 100.0, 500.0, 650.0, 990.0)] == [-1, 0, 1, 2, 2]


def test_rungs_are_read_off_the_mode_that_a_node_is_in() -> None:
    assert [rung_of(mode, STEPS) for mode in range(len(MODES))] == [-1, -1, -1, 0, 1, 2]

"""Admission: promises that fit, refusals that name every reason, counter-offers that are kept."""

from __future__ import annotations

import dataclasses
from heapq import heapreplace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_satellite import estimate, mission

from flightsw.decide.accounts import Accounts
from flightsw.decide.admission import HELD_BACK_FRAC, Desk, cost_units
from flightsw.state import (
    Estimate,
    JobSpec,
    JobState,
    JobView,
    Mode,
    NodeCommand,
    Plan,
    Promise,
    Refusal,
    RefusalReason,
)  # fmt: skip

M = mission()
NODES = M.compute.nodes


def plan(rate_units_s: float, slots: int = 180, binding: str = "battery_floor_frac") -> Plan:
    ends = tuple(60.0 * (i + 1) for i in range(slots))
    return Plan(0.0, ends, (30.0 * rate_units_s,) * slots, (rate_units_s,) * slots, 0.72, 4321.0, 5.0, binding, False)


def spec(job_id: int = 1, work: float = 600.0, deadline_s: float = 5000.0, activity: float = 1.0) -> JobSpec:
    return JobSpec(job_id, "job", work, activity, 1.0, 0.0, deadline_s, 0.0)


def promised(rows: list[tuple[float, float]]) -> list[JobView]:
    return [JobView(spec(100 + i, work, deadline_s), JobState.PROMISED, 0.0, -1)
            for i, (work, deadline_s) in enumerate(rows)]  # fmt: skip


def answer(job: JobSpec, others: list[JobView], rate: float = 2.0, dark: tuple[int, ...] = ()) -> Promise | Refusal:
    return ask(job, others, plan(rate), estimate(0.0, dark=dark), Mode.COMPUTE)


def ask(job: JobSpec, others: list[JobView], p: Plan, e: Estimate, mode: Mode) -> Promise | Refusal:
    return desk(others, p, e, mode).answer(job)


def desk(others: list[JobView], p: Plan, e: Estimate, mode: Mode = Mode.COMPUTE) -> Desk:
    accounts = Accounts(M)
    accounts.follow(p, 1.0, (), M.parameters["battery_floor_frac"])
    return Desk(others, p, accounts.room(0.0, others), e, mode, M)


jobs = st.builds(
    spec, st.just(1), st.integers(10, 4000).map(float), st.integers(100, 20_000).map(float),
    st.sampled_from([0.75, 1.0, 1.1, 1.5]),
)  # fmt: skip
rows = st.tuples(st.integers(10, 3000).map(float), st.integers(100, 20_000).map(float))
loads = st.lists(rows, max_size=8).map(promised)
rates = st.sampled_from([0.0, 0.3, 1.0, 2.0, 4.0])


@settings(max_examples=200, deadline=None)
@given(jobs, loads, rows, rates)
def test_one_more_promise_never_turns_a_refusal_into_a_promise(
    job: JobSpec, others: list[JobView], row: tuple[float, float], rate: float
) -> None:
    more = [*others, JobView(spec(99, *row), JobState.RUNNING, 0.0, 0)]
    if isinstance(answer(job, others, rate), Refusal):
        assert isinstance(answer(job, more, rate), Refusal)


@settings(max_examples=200, deadline=None)
@given(jobs, loads, rates, st.floats(0.0, 1.0))
def test_less_work_draw_or_competition_never_turns_a_promise_into_a_refusal(
    job: JobSpec, others: list[JobView], rate: float, share: float
) -> None:
    if isinstance(answer(job, others, rate), Promise):
        assert isinstance(answer(dataclasses.replace(job, work_units=job.work_units * share), others, rate), Promise)
        assert isinstance(answer(dataclasses.replace(job, activity_frac=0.7), others, rate), Promise)
        ahead = [o._replace(done_units=share * o.spec.work_units) for o in others]
        assert isinstance(answer(job, ahead, rate), Promise)
        assert isinstance(answer(job, others, rate + 1.0), Promise)


@settings(max_examples=250, deadline=None)
@given(jobs, loads, rates)
def test_a_counter_offer_is_admitted_when_it_is_taken_up_and_nothing_clearly_earlier_is(
    job: JobSpec, others: list[JobView], rate: float
) -> None:
    first = answer(job, others, rate)
    if isinstance(first, Promise):
        assert first.finish_by_s == job.deadline_s
        return
    if first.counter_deadline_s is None:
        return
    assert first.counter_deadline_s > job.deadline_s
    taken = dataclasses.replace(job, deadline_s=first.counter_deadline_s)
    assert isinstance(answer(taken, others, rate), Promise)
    span_s = first.counter_deadline_s - job.deadline_s
    for share in (0.0, 0.25, 0.5, 0.75, 0.9):
        earlier = dataclasses.replace(job, deadline_s=job.deadline_s + share * span_s)
        near = min((abs(earlier.deadline_s - o.spec.deadline_s) for o in others), default=1e9)
        if near > 2.5 and first.counter_deadline_s - earlier.deadline_s > 2.5:
            assert isinstance(answer(earlier, others, rate), Refusal)


def ends_of(jobs: list[JobSpec], per_s: float) -> dict[int, float]:
    """When each job ends where a free node takes the next by deadline and does `per_s` units a second."""
    free_s = [0.0] * NODES
    ends_s = {}
    for job in sorted(jobs, key=lambda job: (job.deadline_s, job.job_id)):
        ends_s[job.job_id] = free_s[0] + (job.work_units * max(1.0, job.activity_frac) + M.compute.restore_s) / per_s
        heapreplace(free_s, ends_s[job.job_id])
    return ends_s


offers = st.lists(st.tuples(st.integers(10, 4000).map(float), st.integers(100, 20_000).map(float),
                            st.sampled_from([0.75, 1.0, 1.5])), max_size=30)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(offers, st.sampled_from([0.3, 1.0, 2.0]), st.randoms(use_true_random=False))
def test_what_one_desk_promises_fits_and_is_what_a_fresh_desk_would(
    offered: list[tuple[float, float, float]], rate: float, random
) -> None:  # type: ignore[no-untyped-def]
    p, e = plan(rate), estimate(0.0)
    one, kept = desk([], p, e), []
    for job_id, (work, deadline_s, activity) in enumerate(offered, 1):
        job = spec(job_id, work, deadline_s, activity)
        views = [JobView(known, JobState.PROMISED, 0.0, -1) for known in kept]
        random.shuffle(views)
        answered = one.answer(job)
        assert desk(views, p, e).answer(job) == answered  # in whatever order the promises are listed
        unheard = one.answer(job, counter_offer=False)
        assert unheard == (answered if isinstance(answered, Promise) else answered._replace(counter_deadline_s=None))
        if isinstance(answered, Promise):
            one.promise(job)
            kept.append(job)
    ends_s = ends_of(kept, rate / NODES * (1.0 - HELD_BACK_FRAC))
    assert all(ends_s[job.job_id] <= job.deadline_s + 1e-6 for job in kept)


def test_counter_offers_are_made_where_they_can_be() -> None:
    refusal = answer(spec(work=3000.0, deadline_s=3000.0), [])
    assert isinstance(refusal, Refusal)
    # One node's share of 2 units/s is 0.5, of which a tenth is held back.
    assert refusal.counter_deadline_s == pytest.approx((3000.0 + M.compute.restore_s) / 0.45, abs=1.5)
    nothing = answer(spec(), [], rate=0.0)
    assert isinstance(nothing, Refusal)
    assert nothing.counter_deadline_s is None


@pytest.mark.parametrize(
    ("work", "fits"),
    [((5000.0 * 0.5 * (1.0 - HELD_BACK_FRAC)) - 10.1, True), ((5000.0 * 0.5 * (1.0 - HELD_BACK_FRAC)) - 9.9, False)],
)
def test_the_edge_counts_share_reserve_and_restore(work: float, fits: bool) -> None:
    assert isinstance(answer(spec(work=work), []), Promise) is fits


def test_a_thirsty_job_takes_more_of_the_plan() -> None:
    """The plan is in watts: work at 1.5 times the nominal draw takes 1.5 times the capacity."""
    assert isinstance(answer(spec(work=1600.0, activity=1.0), []), Promise)
    assert isinstance(answer(spec(work=1600.0, activity=1.5), []), Refusal)
    assert cost_units(spec(7, 1600.0, activity=1.5), 100.0) == pytest.approx(1500.0 * 1.5)
    assert cost_units(spec(7, 1600.0, activity=0.75), 100.0) == pytest.approx(1500.0)  # it is no faster for it


@pytest.mark.parametrize(
    ("job", "rate", "binding", "mode", "state", "reasons"),
    [
        (spec(), 2.0, "x", Mode.SAFE, {}, {RefusalReason.MODE}),
        (spec(), 2.0, "x", Mode.BOOT, {}, {RefusalReason.MODE}),
        (spec(), 2.0, "x", Mode.COMPUTE, {"blind": ("plate_c",)}, {RefusalReason.STATE_UNKNOWN}),
        (spec(), 2.0, "x", Mode.COMPUTE, {"dark": (0, 1, 2, 3)}, {RefusalReason.NO_NODE}),
        (spec(deadline_s=100.0), 4.7, "x", Mode.COMPUTE, {}, {RefusalReason.DEADLINE_TOO_SOON, RefusalReason.CAPACITY}),
        (spec(), 0.1, "battery_floor_frac", Mode.COMPUTE, {}, {RefusalReason.ENERGY}),
        (spec(), 0.1, "radiator_max_c", Mode.COMPUTE, {}, {RefusalReason.HEAT}),
        (spec(), 0.1, "die_max_c", Mode.COMPUTE, {}, {RefusalReason.HEAT}),
        (spec(), 0.1, "none", Mode.COMPUTE, {}, {RefusalReason.CAPACITY}),
        (spec(deadline_s=100.0), 0.1, "plate_max_c", Mode.SAFE, {"blind": ("bus_c",)},
         {RefusalReason.MODE, RefusalReason.STATE_UNKNOWN, RefusalReason.DEADLINE_TOO_SOON, RefusalReason.HEAT}),
        (spec(deadline_s=100.0), 0.1, "plate_max_c", Mode.SAFE, {"blind": ("bus_c",), "dark": (0, 1, 2, 3)},
         {RefusalReason.MODE, RefusalReason.STATE_UNKNOWN, RefusalReason.NO_NODE, RefusalReason.DEADLINE_TOO_SOON}),
    ],
)  # fmt: skip
def test_all_reasons_are_evaluated(job, rate, binding, mode, state, reasons):  # type: ignore[no-untyped-def]
    refusal = ask(job, [], plan(rate, binding=binding), estimate(0.0, **state), mode)
    assert isinstance(refusal, Refusal)
    assert set(refusal.reasons) == reasons
    assert len(refusal.reasons) == len(reasons)
    closed = reasons & {RefusalReason.MODE, RefusalReason.STATE_UNKNOWN, RefusalReason.NO_NODE}
    if closed:
        assert refusal.counter_deadline_s is None  # no deadline would help
        assert refusal.binding_limit in {reason.name.lower() for reason in closed}
    else:
        assert (refusal.binding_limit, refusal.binding_at_s) == (binding, 4321.0)


def test_dark_nodes_leave_less_room() -> None:
    job, others = spec(work=3000.0), promised([(3000.0, 5000.0)] * 3)
    assert isinstance(answer(job, others, 4.0), Promise)
    assert isinstance(answer(job, others, 4.0, dark=(0, 1)), Refusal)


def test_what_is_reserved_is_what_the_work_costs_under_the_plan() -> None:
    promise = answer(spec(work=600.0, activity=1.1), [])
    assert isinstance(promise, Promise)
    plan_j_per_unit = (60.0 - NODES * M.compute.modes[0].draw_w) / 2.0
    assert promise.energy_j == pytest.approx((600.0 + M.compute.restore_s) * plan_j_per_unit * 1.1)
    assert promise.heat_j == promise.energy_j


def test_a_reserve_that_does_not_last_is_named_beside_capacity_and_alone() -> None:
    """Work that fits as units and not as joules: what is open draws far more than it declared."""
    p, e = plan(2.0), estimate(0.0)
    p = p._replace(battery_min_frac=M.parameters["battery_floor_frac"], hottest_margin_k=50.0)
    others = promised([(2000.0, 10_000.0)] * 6)
    accounts = Accounts(M)
    accounts.follow(p, 1.0, (), M.parameters["battery_floor_frac"])
    for job in others:
        accounts.open(job.spec, 1.0)
    job = spec(work=1000.0, deadline_s=10_000.0)

    def ask_now(asked: JobSpec) -> Promise | Refusal:
        return Desk(others, p, accounts.room(0.0, others), e, Mode.COMPUTE, M).answer(asked)

    assert isinstance(ask_now(job), Promise)
    for now_s in range(0, 200):
        for first in range(0, 6, 4):
            held = tuple(NodeCommand(4, 25.0, o.spec.job_id) for o in others[first:first + 4])
            accounts.book(2.0 * now_s + first / 4, held, (40.0,) * len(held))
    refusal = ask_now(job)
    assert isinstance(refusal, Refusal)
    assert refusal.reasons == (RefusalReason.ENERGY,)
    assert (refusal.binding_limit, refusal.binding_at_s) == ("battery_floor_frac", p.slot_end_s[-1])
    assert refusal.counter_deadline_s is not None
    assert refusal.counter_deadline_s > job.deadline_s
    assert isinstance(ask_now(dataclasses.replace(job, deadline_s=refusal.counter_deadline_s)), Promise)

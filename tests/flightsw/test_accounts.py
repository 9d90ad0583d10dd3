"""Accounts: reserved for what is left to do, charged as measured, settled once, with room up to every sunrise."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_satellite import forecaster, mission

from flightsw.decide.accounts import Accounts
from flightsw.decide.brain import Brain
from flightsw.state import JobSpec, JobState, JobView, NodeCommand, Plan, RefusalReason

M = mission()
OFF_W = M.compute.modes[0].draw_w
RESTORE = M.compute.restore_s
RATE_MAX = M.compute.modes[-1].rate
FLOOR = M.parameters["battery_floor_frac"]
WORKING = 4  # the mode of rate 1


def plan(budget_w: tuple[float, ...] = (60.0,) * 90, *, lowest_frac: float = FLOOR, margin_k: float = 0.0) -> Plan:
    ends = tuple(60.0 * (i + 1) for i in range(len(budget_w)))
    rates = tuple((watts - 4 * OFF_W) / 20.0 for watts in budget_w)
    return Plan(0.0, ends, budget_w, rates, lowest_frac, 0.0, margin_k, "battery_floor_frac", is_fallback=False)


def spec(job_id: int = 1, work: float = 600.0, deadline_s: float = 5000.0, activity: float = 1.0) -> JobSpec:
    return JobSpec(job_id, "job", work, activity, 1.0, 0.0, deadline_s, 0.0)


def view(job: JobSpec, done: float = 0.0) -> JobView:
    return JobView(job, JobState.RUNNING, done, 0)


def following(p: Plan, sunrises_s: tuple[float, ...] = (), activity: float = 1.0) -> Accounts:
    accounts = Accounts(M)
    accounts.follow(p, activity, sunrises_s, FLOOR)
    return accounts


def work(accounts: Accounts, job: JobSpec, watts: float | None, seconds: int, mode: int = WORKING) -> None:
    nodes = (NodeCommand(mode, 25.0, job.job_id), *(NodeCommand(0, 0.5, 0),) * 3)
    for second in range(seconds + 1):
        accounts.book(float(second), nodes, (watts, OFF_W, OFF_W, OFF_W))


def test_a_settlement_says_what_was_declared_reserved_used_and_drawn() -> None:
    accounts, job = following(plan()), spec(activity=1.1)
    accounts.open(job, 12_345.0)
    work(accounts, job, 26.0, 300)
    settled = accounts.settle(1)
    assert settled is not None
    assert settled.declared_j == pytest.approx(600.0 * 1.1 * (22.0 - OFF_W))
    assert settled.reserved_j == 12_345.0
    assert settled.used_j == pytest.approx(300.0 * (26.0 - OFF_W))
    assert settled.drew_frac == pytest.approx((26.0 - OFF_W) / (22.0 * 1.1 - OFF_W))
    assert accounts.settle(1) is None


def test_what_is_not_measured_is_charged_as_declared_and_teaches_nothing() -> None:
    accounts, job = following(plan()), spec()
    accounts.open(job, 1.0)
    work(accounts, job, None, 300)
    settled = accounts.settle(1)
    assert settled is not None
    assert settled.used_j == pytest.approx(300.0 * (22.0 - OFF_W))
    assert settled.drew_frac == 1.0


def test_an_off_node_and_a_job_without_a_promise_are_not_charged() -> None:
    accounts, job = following(plan()), spec()
    accounts.open(job, 1.0)
    work(accounts, job, 26.0, 100, mode=0)
    work(accounts, spec(2), 26.0, 100)
    settled = accounts.settle(1)
    assert settled is not None
    assert settled.used_j == 0.0


@pytest.mark.parametrize(("watts", "factor"), [(33.0, 33.0 - OFF_W), (11.0, 22.0 - OFF_W)])
def test_a_job_that_draws_more_than_declared_reserves_more_for_its_rest_and_never_less(
    watts: float, factor: float
) -> None:
    accounts, job = following(plan()), spec()
    accounts.open(job, 1.0)
    work(accounts, job, watts, 300)
    reserved_j = accounts.balance(300.0, [view(job, 300.0)]).reserved_j
    assert reserved_j == pytest.approx((300.0 + RESTORE) * 20.0 * factor / (22.0 - OFF_W))


def test_reservations_after_a_restart_are_for_what_is_left() -> None:
    accounts = following(plan())
    accounts.reopen(view(spec(), 400.0))
    settled = accounts.settle(1)
    assert settled is not None
    assert settled.reserved_j == pytest.approx((200.0 + RESTORE) * 20.0)


def test_a_promise_counts_the_same_in_its_tick_and_after_it() -> None:
    accounts, job = following(plan(), (1800.0,)), spec(deadline_s=1800.0)
    room = accounts.room(0.0, [])
    room.take(job, job.work_units)
    assert room.next_mark.due_j == accounts.room(0.0, [view(job)]).next_mark.due_j == pytest.approx(room.energy_j(job))


def test_a_brain_that_starts_again_reserves_for_the_promises_it_finds() -> None:
    left, waiting, over = spec(1), spec(2), spec(3)
    brain = Brain(M, forecaster(), (
        view(left, 400.0)._replace(state=JobState.PROMISED), view(waiting)._replace(state=JobState.QUEUED),
        view(over)._replace(state=JobState.FINISHED)))  # fmt: skip
    first = M.compute.modes[WORKING]
    price_j = (first.draw_w - OFF_W) / first.rate  # of the reference mode: there is no plan yet
    assert brain._accounts.settle(1).reserved_j == pytest.approx((200.0 + RESTORE) * price_j)  # type: ignore[union-attr]
    assert brain._accounts.settle(2) is brain._accounts.settle(3) is None


def test_room_is_what_the_plan_spends_and_leaves_up_to_the_next_sunrise() -> None:
    p = plan((60.0,) * 30 + (30.0,) * 30 + (60.0,) * 30, lowest_frac=FLOOR + 0.01, margin_k=2.0)
    accounts = following(p, (3600.0,))
    balance = accounts.balance(600.0, [])
    spends_j = 1200.0 * (60.0 - 4 * OFF_W) + 1800.0 * (30.0 - 4 * OFF_W)
    store_j_k = M.thermal.plate_heat_capacity_j_k + M.thermal.radiator_heat_capacity_j_k
    assert balance.energy_room_j == pytest.approx(spends_j + 0.01 * M.battery.capacity_wh * 3600.0)
    assert balance.heat_room_j == pytest.approx(spends_j + 2.0 * store_j_k)
    early, late = spec(1, 500.0, 3000.0), spec(2, 500.0, 3600.0 + 300.0)
    balance = accounts.balance(600.0, [view(early), view(late)])
    due_units = 500.0 + RESTORE + max(0.0, 500.0 + RESTORE - 300.0 * RATE_MAX)
    assert balance.due_j == pytest.approx(due_units * 20.0)
    after = accounts.balance(3600.0, [])
    assert after.energy_room_j == pytest.approx(1800.0 * (60.0 - 4 * OFF_W) + 0.01 * M.battery.capacity_wh * 3600.0)


@pytest.mark.parametrize(
    ("lowest_frac", "margin_k", "reasons"),
    [(FLOOR, 50.0, (RefusalReason.ENERGY,)), (1.0, 0.0, (RefusalReason.HEAT,)),
     (FLOOR, 0.0, (RefusalReason.ENERGY, RefusalReason.HEAT)), (1.0, 50.0, None)],
)  # fmt: skip
def test_what_there_is_not_enough_of_is_named(
    lowest_frac: float, margin_k: float, reasons: tuple[RefusalReason, ...] | None
) -> None:
    accounts = following(plan((20.0,) * 90, lowest_frac=lowest_frac, margin_k=margin_k), (2700.0,))
    shortage = accounts.room(0.0, []).shortage(spec(work=3000.0, deadline_s=2700.0))
    assert (shortage.reasons if shortage else None) == reasons
    if shortage:
        assert shortage.at_s == 2700.0


jobs = st.builds(spec, st.integers(1, 9), st.integers(10, 4000).map(float), st.integers(100, 20_000).map(float),
                 st.sampled_from([0.75, 1.0, 1.5]))  # fmt: skip
plans = st.builds(lambda *w: plan(tuple(x for x in w for _ in range(30))), *[st.floats(1.6, 100.0)] * 3)


@settings(max_examples=200, deadline=None)
@given(jobs, st.lists(jobs, max_size=6), plans, st.floats(0.0, 6000.0))
def test_there_is_room_from_the_deadline_that_a_shortage_names(
    job: JobSpec, others: list[JobSpec], p: Plan, now_s: float
) -> None:
    room = following(p, (1800.0, 3600.0)).room(now_s, [view(o) for o in others])
    shortage = room.shortage(job)
    if shortage is None:
        later = dataclasses.replace(job, deadline_s=job.deadline_s + 500.0)
        assert room.shortage(later) is None
        return
    assert shortage.fits_from_s > job.deadline_s
    assert room.shortage(dataclasses.replace(job, deadline_s=shortage.fits_from_s)) is None
    assert room.shortage(dataclasses.replace(job, deadline_s=shortage.fits_from_s - 2.0)) is not None


@settings(max_examples=100, deadline=None)
@given(jobs, st.lists(jobs, max_size=6), jobs, plans)
def test_one_more_promise_leaves_less_room(job: JobSpec, others: list[JobSpec], more: JobSpec, p: Plan) -> None:
    accounts = following(p, (1800.0,))
    alone, beside = (accounts.room(0.0, [view(o) for o in held]) for held in (others, [*others, more]))
    if alone.shortage(job) is not None:
        assert beside.shortage(job) is not None

"""Bans: what they cost, who may run beside them, and a brain that holds, refuses and resumes by them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_satellite import estimate
from test_brain import Flight, M, spec

from flightsw.decide.accounts import Accounts
from flightsw.decide.admission import Desk
from flightsw.decide.capacity import CapacityCurve
from flightsw.decide.windows import NO_WINDOWS, NOT_KNOWN, Windows
from flightsw.state import (
    Ban,
    BanNews,
    JobSpec,
    JobState,
    JobView,
    Mode,
    Pause,
    Plan,
    Promise,
    Refusal,
    RefusalReason,
)

JOB = JobSpec(1, "mask", 100.0, 1.0, 1.0, 0.0, 1000.0, 0.0, Pause.STOP_CONTINUE, "eu_only")
FREE_JOB = replace(JOB, job_id=2, manifest="any")


def news(*spans: tuple[float, float, str], from_s: float = 0.0, to_s: float = 1e6) -> BanNews:
    return BanNews("eu_only", from_s, to_s, tuple(Ban(*span) for span in spans))


def known(*spans: tuple[float, float, str], from_s: float = 0.0, to_s: float = 1e6, now_s: float = 0.0) -> Windows:
    return NO_WINDOWS.learn([news(*spans, from_s=from_s, to_s=to_s)], now_s)


@st.composite
def timetables(draw: st.DrawFn) -> list[tuple[float, float, str]]:
    edges = sorted(draw(st.sets(st.integers(0, 1000), max_size=20)))
    return [(float(a), float(b), draw(st.sampled_from("XYZ"))) for a, b in zip(edges[::2], edges[1::2], strict=False)]


@given(timetables(), st.integers(0, 1000), st.integers(0, 1000))
def test_lost_time_is_the_seconds_counted_one_by_one(
    spans: list[tuple[float, float, str]], one: int, other: int
) -> None:
    windows, (low, high) = known(*spans), sorted((one, other))
    banned = [windows.ban_at(JOB, s + 0.5) is not None for s in range(low, high)]
    assert banned == [any(a <= s < b for a, b, _ in spans) for s in range(low, high)]
    assert windows.lost_s(JOB, low, high) == sum(banned)
    assert windows.lost_s(FREE_JOB, low, high) == 0.0


@given(timetables(), st.floats(-10.0, 1100.0))
def test_the_next_edge_is_the_next_change(spans: list[tuple[float, float, str]], now_s: float) -> None:
    edges = [e for a, b, _ in spans for e in (a, b)] + [1e6]
    assert known(*spans).next_edge_s(now_s) == min(e for e in edges if e > now_s)


@given(timetables(), timetables(), st.integers(0, 1000))
def test_later_news_replaces_what_was_known_from_its_beginning_on(
    before: list[tuple[float, float, str]], after: list[tuple[float, float, str]], cut: int
) -> None:
    fresh = [(a + cut, b + cut, r) for a, b, r in after]
    windows = known(*before).learn([news(*fresh, from_s=cut)], 0.0)
    for s in range(2000):
        spans = before if s < cut else fresh
        assert (windows.ban_at(JOB, s + 0.5) is not None) == any(a <= s < b for a, b, _ in spans)


def test_what_is_not_known_is_forbidden_and_the_past_is_forgotten() -> None:
    windows = known((10.0, 20.0, "X"), (500.0, 600.0, "Y"), to_s=800.0)
    assert windows.ban_at(JOB, 799.0) is None
    assert windows.ban_at(JOB, 800.0) == Ban(800.0, math.inf, NOT_KNOWN)
    later = windows.learn([], 100.0)
    assert later.lost_s(JOB, 100.0, 1000.0) == 300.0
    assert later.next_edge_s(0.0) == 500.0


def test_a_job_that_loses_time_hurries_and_one_under_a_ban_is_not_there() -> None:
    windows = known((10.0, 20.0, "X"), (500.0, 600.0, "Y"))
    jobs = [JobView(JOB, JobState.RUNNING, 0.0, 0), JobView(FREE_JOB, JobState.RUNNING, 0.0, 1)]
    assert [job.spec.deadline_s for job in windows.free(jobs, 0.0)] == [890.0, 1000.0]
    assert [job.spec.job_id for job in windows.free(jobs, 15.0)] == [2]
    assert windows.free(jobs, 700.0) == jobs
    assert NO_WINDOWS.free(jobs, 15.0) == jobs
    assert not NO_WINDOWS


def test_lost_capacity_is_what_a_node_could_have_done_in_the_bans() -> None:
    plan = Plan(0.0, (100.0, 200.0), (1.0, 1.0), (2.0, 0.0), 0.9, 0.0, 10.0, "", False)
    curve = CapacityCurve(plan, 0.0, 1, 10.0, 0.0)
    windows = known((50.0, 150.0, "X"))
    assert windows.lost_units(JOB, 1000.0, 0.0, curve, 5.0) == pytest.approx(100.0 + 5.0)
    assert windows.lost_units(JOB, 75.0, 0.0, curve, 0.0) == pytest.approx(50.0)
    assert windows.lost_units(FREE_JOB, 1000.0, 0.0, curve, 5.0) == 0.0
    assert windows.binding(JOB, 0.0, 1000.0) == Ban(50.0, 150.0, "X")


def ruled(job_id: int, work: float = 300.0, in_s: float = 4000.0, **more: float) -> JobSpec:
    return replace(spec(job_id, work, in_s, **more), manifest="eu_only")  # type: ignore[arg-type] # names are right


def test_a_running_job_is_held_at_the_border_and_goes_on_behind_it() -> None:
    flight = Flight()
    now_s = flight.now_s
    jobs = [ruled(1, 600.0, 4000.0, now_s=now_s), spec(2, 3000.0, 8000.0, now_s=now_s)]
    flight.tick(bans=(news((60.0, 200.0, "US"), to_s=1e5),), jobs=jobs)
    placed = {}
    while flight.now_s < 260.0:
        decision = flight.tick()
        placed[flight.now_s] = {node.job_id for node in decision.nodes if node.power_mode >= 2}
    assert 1 in placed[59.0]
    assert not any(1 in ids for at_s, ids in placed.items() if 60.0 <= at_s < 200.0)
    assert all(2 in ids for at_s, ids in placed.items() if at_s >= 70.0), "a job without policy is not disturbed"
    assert 1 in placed[250.0]
    assert flight.events.count("job_held") == flight.events.count("job_resumed") == 1


def test_a_job_without_enough_lawful_time_is_refused_with_the_region_and_a_deadline_that_fits() -> None:
    flight = Flight()
    now_s = flight.now_s
    bans = (news((now_s + 100.0, 3000.0, "US"), (3500.0, 3600.0, "CH"), to_s=1e5),)
    decision = flight.tick(bans=bans, jobs=[ruled(1, 500.0, 3000.0, now_s=now_s)])
    (refused,) = [event for event in decision.events if event.name == "job_refused"]
    assert refused.args[1] == "POLICY"
    assert refused.args[2] == "region US"
    offer = str(refused.args[4])
    assert offer.startswith("T+")
    deadline_s = float(offer[2:].split(maxsplit=1)[0])
    flight.tick(jobs=[ruled(2, 500.0, deadline_s + 1.0 - flight.now_s, now_s=flight.now_s)])
    assert flight.states[2] in (JobState.PROMISED, JobState.RUNNING)
    while flight.states[2] is not JobState.FINISHED:
        assert flight.now_s < deadline_s + 1.0
        flight.tick(5.0)


def test_a_job_beyond_what_is_known_is_refused() -> None:
    flight = Flight()
    asked = ruled(1, 300.0, 3000.0, now_s=flight.now_s)
    decision = flight.tick(bans=(news(to_s=flight.now_s + 60.0),), jobs=[asked])
    (refused,) = [event for event in decision.events if event.name == "job_refused"]
    assert refused.args[1:3] == ("POLICY", f"region {NOT_KNOWN}")
    assert refused.args[4] == "none"


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(50, 3000), st.integers(10, 600)), max_size=6), st.integers(0, 2**20))
def test_nothing_runs_under_a_ban_and_no_promise_is_broken_by_one(bans: list[tuple[int, int]], seed: int) -> None:
    spans, at_s = [], 0.0
    for begin, length in sorted(bans):
        if begin > at_s:
            spans.append((float(begin), float(begin + length), "X"))
            at_s = begin + length
    flight = Flight()
    now_s = flight.now_s
    jobs = [ruled(1 + i, 200.0 + seed % 700, 1500.0 + 400.0 * i, now_s=now_s) for i in range(6)]
    flight.tick(bans=(news(*spans, to_s=1e5),), jobs=jobs)
    while flight.now_s < 4200.0:
        decision = flight.tick(5.0)
        banned = any(a <= flight.now_s < b for a, b, _ in spans)
        assert not banned or not any(node.power_mode >= 2 and node.job_id for node in decision.nodes)
    assert flight.brain.tally.broken == 0


def test_lawful_time_in_which_the_plan_affords_nothing_is_no_time() -> None:
    """Banned while the sun shines, lawful in the dark: there is time enough, and no power in it."""
    lit, dark, rate = 2000.0, 4000.0, 4.0
    sun = Plan(0.0, (lit, dark), (100.0, 0.0), (rate, 0.0), 0.9, 0.0, 10.0, "battery_floor_frac", False)
    state = estimate(0.0)
    accounts = Accounts(M)
    accounts.follow(sun, 1.0, (), M.parameters["battery_floor_frac"])
    asked = ruled(1, 300.0, dark)

    def answered(windows: Windows) -> Promise | Refusal:
        return Desk([], sun, accounts.room(0.0, []), state, Mode.COMPUTE, M, windows).answer(asked)

    assert isinstance(answered(NO_WINDOWS), Promise)
    assert isinstance(answered(known((lit, dark, "US"))), Promise)
    refused = answered(known((0.0, lit - 50.0, "US")))
    assert isinstance(refused, Refusal)
    assert refused.reasons == (RefusalReason.POLICY,)
    assert (refused.binding_limit, refused.binding_at_s) == ("region US", 0.0)

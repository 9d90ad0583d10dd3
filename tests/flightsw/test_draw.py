"""What a job really draws: known within a minute at its cap, bounded, reported once when more than declared."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_satellite import mission

from flightsw.decide.draw import JobDraw
from flightsw.state import Event, JobSpec, JobState, JobView, NodeCommand

MODES = mission().compute.modes
REFERENCE = 4
DECLARED = 0.9
JOB = JobView(JobSpec(7, "job", 1000.0, DECLARED, 10.0, 0.0, 9000.0, 0.0), JobState.RUNNING, 0.0, 0)
OFF = NodeCommand(0, MODES[0].cap_w, 0)


def on(power_mode: int = REFERENCE, job_id: int = 7) -> tuple[NodeCommand, ...]:
    return (NodeCommand(power_mode, MODES[power_mode].cap_w, job_id), OFF, OFF, OFF)


def watch(draw: JobDraw, watts: list[float | None], *, from_s: float = 0.0, power_mode: int = REFERENCE) -> list[Event]:
    """One look every ten seconds at a node that draws `watts`."""
    return [event for i, value in enumerate(watts)
            for event in draw.look(from_s + 10.0 * i, on(power_mode), (value, 0.4, 0.4, 0.4), {7: JOB})]  # fmt: skip


def activity(draw: JobDraw) -> float:
    return draw.as_drawn([JOB])[0].spec.activity_frac


@given(st.floats(0.65, 1.35), st.sampled_from(range(2, len(MODES))), st.floats(-0.3, 0.3), st.integers(0, 1000))
def test_a_minute_at_a_known_cap_tells_the_draw(real: float, power_mode: int, bias_w: float, seed: int) -> None:
    nominal_w = MODES[power_mode].draw_w
    noise_w = 0.04 * np.random.default_rng(seed).standard_normal(30)
    draw = JobDraw(mission())
    watch(draw, [real * DECLARED * nominal_w + bias_w + float(noise) for noise in noise_w], power_mode=power_mode)
    assert activity(draw) == pytest.approx(real * DECLARED, abs=0.35 / nominal_w + 0.006)


def test_nothing_is_known_at_first_and_all_else_stays_as_declared() -> None:
    draw = JobDraw(mission())
    assert draw.as_drawn([JOB]) == [JOB]
    watch(draw, [22.0] * 5)
    assert draw.as_drawn([JOB]) == [JOB]
    watch(draw, [22.0] * 20, from_s=100.0)
    assert draw.as_drawn([JOB])[0].spec == dataclasses.replace(JOB.spec, activity_frac=activity(draw))
    draw.forget(7)
    assert draw.as_drawn([JOB]) == [JOB]


@pytest.mark.parametrize(("real", "reported"), [(0.8, False), (1.0, False), (1.05, False), (1.15, True), (1.3, True)])
def test_only_a_real_overdraw_is_reported_and_only_once(real: float, reported: bool) -> None:
    watts: list[float | None] = [real * DECLARED * MODES[REFERENCE].draw_w] * 50
    events = watch(JobDraw(mission()), watts)
    assert [event.name for event in events] == ["job_overdraws"] * reported
    if reported:
        assert events[0].args == (7, DECLARED, pytest.approx(real * DECLARED))


def test_a_change_of_mode_or_job_says_nothing_of_the_draw() -> None:
    """Power was read while the other mode still held."""
    draw = JobDraw(mission())
    for i in range(100):
        draw.look(10.0 * i, on(3 if i % 2 else 4), (35.0, 0.4, 0.4, 0.4), {7: JOB})
        draw.look(2000.0 + 10.0 * i, on(1), (4.5, 0.4, 0.4, 0.4), {7: JOB})
    assert draw.as_drawn([JOB]) == [JOB]


@given(st.lists(st.one_of(st.none(), st.floats(-0.5, 120.0)), max_size=60))
def test_whatever_a_sensor_says_the_draw_is_one_that_a_job_can_have(watts: list[float | None]) -> None:
    one, other = JobDraw(mission()), JobDraw(mission())
    assert watch(one, watts) == watch(other, watts)
    assert activity(one) == activity(other)
    assert 0.5 * DECLARED <= activity(one) <= 1.6 * DECLARED


def test_a_stuck_or_wild_sensor_hardly_moves_what_is_known() -> None:
    draw = JobDraw(mission())
    watch(draw, [DECLARED * 22.0] * 30)
    watch(draw, [1.5 * DECLARED * 22.0, 0.0, None], from_s=300.0)
    assert activity(draw) == pytest.approx(DECLARED, abs=0.02)

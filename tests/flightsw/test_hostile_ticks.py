"""The hostile examples run as processes beside the real loop in real time: no tick is late by a period or more."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_supervisor import Flight, job

from flightsw.clock import MonotonicClock
from flightsw.executive import Executive, StopRequest
from flightsw.jobs.onboard import OnboardJobs, load_bundles
from flightsw.jobs.runner import ProcessRunner
from flightsw.jobs.sandbox import Sandbox, probe
from flightsw.state import JobState

HOSTILE = Path(__file__).resolve().parents[2] / "examples" / "hostile"


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    (tmp_path / "jobs").mkdir()
    found = probe(tmp_path / "jobs", Path(sys.executable))
    yield found
    found.close()


@pytest.mark.parametrize("ticks", [8, pytest.param(180, marks=pytest.mark.long)])
def test_the_hostile_set_makes_no_tick_late_by_a_period(tmp_path: Path, sandbox: Sandbox, ticks: int) -> None:
    bundles, problems = load_bundles(HOSTILE)
    assert problems == ()
    flight = Flight(tmp_path / "flight")
    jobs = OnboardJobs(ProcessRunner(tmp_path / "jobs", Path(sys.executable), sandbox), bundles)
    flight.supervisor._runner = jobs
    flight.to_compute()
    flight.inbox.jobs = [dataclasses.replace(job(number, flight.now_s, 5.0), manifest=name)
                         for number, name in enumerate(bundles, 1)]
    lateness_s: list[float] = []
    left_out: list[int] = []

    with StopRequest() as stop:

        def after_tick(_now_s: float, late_s: float, overruns: int) -> None:
            lateness_s.append(late_s)
            left_out.append(overruns)
            stop.asked = len(lateness_s) >= ticks

        Executive(flight.supervisor, MonotonicClock(1.0, flight.now_s + 1.0), stop, [], after_tick).run()
    states = {entry.spec.manifest: entry.state for entry in flight.ledger().values()}
    flight.supervisor.close()
    started = [name for name, state in states.items() if state not in (JobState.QUEUED, JobState.PROMISED)]
    print(f"{len(lateness_s)} ticks beside {len(started)} attacks, latest began {max(lateness_s) * 1e3:.1f} ms late")
    assert flight.supervisor.failures == 0
    assert left_out[-1] == 0, f"a tick was late by {max(lateness_s):.3f} s: the executive left {left_out[-1]} out"
    assert len(started) >= min(4, ticks)
    assert all(states[name] is not JobState.REFUSED for name in bundles)

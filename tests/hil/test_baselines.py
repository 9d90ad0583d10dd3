import math
from dataclasses import replace

import pytest

from flightsw import compose
from flightsw.state import JobSpec, JobState, JobView
from hil import baselines, lean, run, scenario

BRAIN = scenario.SCENARIOS / "brain"


@pytest.fixture(scope="module")
def world():
    flown = scenario.load(BRAIN / "overload3_iss.toml", duration="2 orbits")
    return lean.World.of(flown, run.surroundings(flown))


def fly(world, name):
    return lean.fly(world, lambda mission, forecaster: baselines.make(name, mission, forecaster))


@pytest.mark.parametrize("name", baselines.NAMES)
def test_every_baseline_works_and_answers(world, name):
    flown = fly(world, name)
    assert flown.failures == 0
    assert flown.units_done > 1000.0
    assert flown.book.jobs
    assert all(job.promised_s is not None or job.state.name == "REFUSED" for job in flown.book.jobs.values())


def test_the_energy_test_refuses_what_no_sunlight_will_pay(world):
    class Inbox:
        def take(self, now_s, known):
            spec = JobSpec(1_000_000, "large", 50_000.0, 1.0, 1.0, 100.0, 7000.0, 100.0)
            return (spec, replace(spec, job_id=1_000_001, work_units=100.0)) if now_s == 100.0 else ()

        def news(self):
            return ()

    def outcome(name):
        flown = lean.fly(world, lambda mission, forecaster: baselines.make(name, mission, forecaster), inbox=Inbox())
        return [flown.book.jobs[job_id].state for job_id in (1_000_000, 1_000_001)]

    assert outcome("duty-density") == [JobState.EXPIRED, JobState.FINISHED]
    assert outcome("duty-density-energy") == [JobState.REFUSED, JobState.FINISHED]


def view_of(world, charge_frac, plate_c, now_s=0.0):
    mission = world.scenario.mission
    view = baselines.View(mission, compose.forecaster_of(mission, "mission"))
    view.charge_frac, view.plate_c, view.now_s = charge_frac, plate_c, now_s
    return view


def test_bang_bang_stays_off_until_both_have_recovered(world):
    levels = baselines.BangBang(mode=3, charge_off_frac=0.72, charge_on_frac=0.76, plate_off_c=53.0, plate_on_c=48.0)
    nothing = [None] * 4
    for charge, plate, expected in ((0.9, 40.0, 3), (0.715, 40.0, 0), (0.75, 40.0, 0), (0.77, 50.0, 0),
                                    (0.77, 47.0, 3), (0.9, 54.0, 0)):
        assert levels.modes(view_of(world, charge, plate), nothing) == [expected] * 4


def test_step_wise_goes_one_step_a_poll(world):
    levels = baselines.StepWise(top=4, plate_trip_c=50.0, charge_trip_frac=0.76, poll_s=60.0)
    seen = [levels.modes(view_of(world, 0.9, 51.0 + poll, 60.0 * poll), [None])[0] for poll in range(4)]
    assert seen == [3, 2, 0, 0]  # rising beyond the trip; idle does no work and is off
    seen = [levels.modes(view_of(world, 0.9, 49.0, 60.0 * poll), [None])[0] for poll in range(4, 8)]
    assert seen == [2, 3, 4, 4]


def test_power_allocator_gives_less_when_hotter_and_less_charged(world):
    job = next(iter(fly(world, "fixed-edf").book.jobs.values()))
    placed = [JobView(job.spec, JobState.PROMISED, 0.0, -1)] * 4
    most = sum(baselines.PowerAllocator().modes(view_of(world, 0.9, 30.0), placed))
    for charge, plate in ((0.9, 60.0), (0.73, 30.0)):
        assert sum(baselines.PowerAllocator().modes(view_of(world, charge, plate), placed)) < most
    assert baselines.PowerAllocator().modes(view_of(world, 0.70, 30.0), placed) == [0] * 4


def test_duty_spends_the_average_over_its_period(world):
    levels = baselines.Duty(average_frac=1.0, period_s=100.0)
    spent, view = 0.0, view_of(world, 0.9, 30.0)
    for second in range(100):
        view.now_s = float(second)
        spent += sum(view.draws_w[mode] for mode in levels.modes(view, [None] * 4)) / 100.0
    assert spent == pytest.approx(view.average_w, rel=0.02)


def test_lazy_starts_no_sooner_than_it_must(world):
    job = next(iter(fly(world, "fixed-edf").book.jobs.values()))
    spec = replace(job.spec, deadline_s=50_000.0)
    placed = [JobView(spec, JobState.PROMISED, 0.0, -1)]
    view = view_of(world, 0.75, 30.0)
    levels = baselines.Lazy()
    started = math.inf
    for now_s in range(0, 50_000, 500):
        view.now_s = float(now_s)
        if levels.modes(view, placed)[0]:
            started = now_s
            break
    assert 0 <= started < 50_000
    assert levels.modes(view_of(world, 0.96, 30.0), placed)[0] == levels.mode  # the store is full


def test_an_unknown_baseline_is_refused(world):
    with pytest.raises(KeyError):
        fly(world, "duty-luck")

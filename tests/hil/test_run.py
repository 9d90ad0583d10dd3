"""Runs in virtual time: repeatable, replayable, judged by the truth; the stream of jobs and who does them."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from flightsw import recorder
from flightsw.errors import ConfigError
from flightsw.jobs.base import Placement
from flightsw.jobs.manifest import load_manifest
from flightsw.recorder import read_recording
from flightsw.state import Decision, JobSpec, JobState, JobTransition, Mode, NodeCommand, Pause, Plan
from ground.archive import Archive
from hil import run
from hil.__main__ import main
from hil.jobs import CLASSES, FIRST_STREAM_ID, JobStream, StreamConfig, VirtualRunner
from hil.scenario import find, load

ROOT = Path(__file__).resolve().parents[2]


# --- a short flight -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flown(tmp_path_factory):
    scenario = load(find("short_iss"), duration="4200 s")
    return run.fly(scenario, tmp_path_factory.mktemp("flight"))


def test_a_run_leaves_everything(flown):
    names = {path.name for path in flown.folder.iterdir()}
    assert {"run.json", "timing.json", "ground.sqlite", "flight"} <= names
    assert run.find_recording(flown.folder).name == run.RECORDING
    metrics = json.loads((flown.folder / "run.json").read_text())
    assert list(metrics) == sorted(metrics)
    assert {
        "scenario", "mission", "seed", "orbits", "limits_crossed", "limits", "promises_made", "promises_broken",
        "jobs_finished", "jobs_refused", "value_finished", "value_offered", "energy_used_wh", "energy_harvested_wh",
        "battery_soc_frac_min", "die_c_max", "plate_c_max", "telemetry_packets", "telecommands_sent",
        "telecommands_completed", "telemetry_frames_lost",
    } <= metrics.keys()
    timing = json.loads((flown.folder / "timing.json").read_text())
    assert {"realtime_factor", "tick_ms", "machine"} <= timing.keys()
    assert {"p50", "p90", "p99", "max"} == timing["tick_ms"].keys()


def test_the_flight_did_its_work(flown):
    m = flown.metrics
    assert m["failed_ticks"] == 0
    assert m["limits_crossed"] == 0
    assert m["telecommands_completed"] == m["telecommands_sent"] == 6
    assert m["jobs_finished"] >= 1
    assert m["value_finished"] > 0.0
    assert [mode for _, mode in flown.logbook.modes] == [Mode.SAFE, Mode.STANDBY, Mode.COMPUTE]
    assert len(flown.trace) == 4200


def test_the_ground_archived_what_flew(flown):
    with Archive(flown.folder / "ground.sqlite", read_only=True) as archive:
        charge = np.array([value for _, value in archive.samples("battery_soc_frac")])
        assert archive.parameters()["plan_period_s"] == 120.0 or any(
            event.name == "parameter_set" for event in archive.events())
    truth = flown.trace["battery_soc_frac"]
    assert charge.size > 300
    assert abs(charge[-1] - truth[-1]) < 0.02
    assert charge.min() == pytest.approx(truth.min(), abs=0.02)


def test_same_scenario_and_seed_same_octets(flown, tmp_path):
    again = run.fly(flown.scenario, tmp_path)
    for name in ("run.json", f"flight/{run.RECORDING}"):
        assert (again.folder / name).read_bytes() == (flown.folder / name).read_bytes(), name
    assert again.events == flown.events


def test_another_seed_is_another_run(flown, tmp_path):
    other = run.fly(load(find("short_iss"), seed=8, duration="600 s"), tmp_path)
    assert other.metrics["seed"] == 8
    assert not np.array_equal(other.trace["plate_c"][:600], flown.trace["plate_c"][:600])


def test_energy_of_the_run_adds_up(flown):
    m, trace = flown.metrics, flown.trace
    assert trace["bus_w"].sum() / 3600.0 == pytest.approx(m["energy_used_wh"], rel=2e-3)
    assert trace["array_w"].sum() / 3600.0 == pytest.approx(m["energy_harvested_wh"], rel=2e-3)
    assert m["energy_compute_wh"] < m["energy_used_wh"]


def test_a_recording_replays_identically(flown, capsys):
    assert run.replay(run.find_recording(flown.folder)) == run.Replay(4200, None)
    assert main(["replay", str(flown.folder)]) == 0
    assert capsys.readouterr().out == "4200 ticks identical\n"


def test_a_replay_finds_the_first_tick_that_differs(flown, tmp_path, capsys):
    """Bend one believed reading by a little, as a changed estimator would, and leave the rest."""
    start, ticks = read_recording(run.find_recording(flown.folder))
    path = tmp_path / "bent.fswrec"
    bent = recorder.Recorder(path, start, 10**9)
    for inputs, decided in ticks:
        bent.record(inputs, decided ^ (inputs.now_s == 1234.0))
    bent.close()
    assert run.replay(path) == run.Replay(1234, 1234.0)
    assert main(["replay", str(path)]) == 1
    assert capsys.readouterr().out == "diverged at T+1234 s, after 1234 identical ticks\n"


def test_replay_of_nothing_is_refused(tmp_path, capsys):
    assert main(["replay", str(tmp_path)]) == 2
    assert "has no recording" in capsys.readouterr().err


def test_a_sensor_fault_reaches_the_ground(tmp_path):
    text = find("short_iss").read_text("utf-8").replace("../../", f"{ROOT}/").replace("../plant", f"{ROOT}/hil/plant")
    path = tmp_path / "faulty.toml"
    path.write_text(text.replace('duration = "2 orbits"', 'duration = "600 s"')
                    + '\n[[fault]]\nat = "T+200 s"\nsensor = "plate_c"\nkind = "nan"\nfor = "60 s"\n')
    flown = run.fly(load(path), tmp_path)
    texts = [event.text for event in flown.events]
    assert "Sensor plate_c has no value: NOT_FINITE" in texts
    assert "Sensor plate_c has a value again" in texts


# --- judging ------------------------------------------------------------------------------------------


class Columns(dict):
    def group(self, pattern, count):
        return np.stack([self[pattern.format(i)] for i in range(count)], axis=1)


def columns(**changed):
    quiet = {"battery_soc_frac": 0.9, "battery_a": 1.0, "plate_c": 30.0, "radiator_c": 20.0, "battery_c": 15.0}
    quiet |= {f"die{i}_c": 50.0 for i in range(4)} | {f"node{i}_w": 14.0 for i in range(4)}
    return Columns({name: np.array(changed.get(name, [value] * 8), np.float32) for name, value in quiet.items()})


def judged(**changed):
    return {c.limit: c for c in run.judge_limits(load(find("day_iss")), columns(**changed))}


def test_quiet_truth_crosses_nothing():
    assert not any(crossing.count or crossing.seconds or crossing.depth for crossing in judged().values())


def test_crossings_are_counted_timed_and_measured():
    found = judged(die2_c=[79.0, 81.0, 83.5, 79.0, 80.0, 80.5, 60.0, 60.0])["die_max_c"]
    assert (found.count, found.seconds, found.depth, found.nearest) == (2, 3.0, 3.5, 83.5)
    low = judged(battery_soc_frac=[0.69, 0.69, 0.71, 0.75, 0.6, 0.59, 0.8, 0.8])
    assert (low["battery_floor_frac"].count, low["battery_floor_frac"].seconds) == (2, 4.0)
    assert low["battery_cutoff_frac"].depth == pytest.approx(0.01, abs=1e-6)


def test_a_cold_battery_counts_only_while_it_charges():
    cold = [-2.0] * 8
    assert judged(battery_c=cold, battery_a=[-1.0] * 8)["battery_min_c"].count == 0
    assert math.isinf(judged(battery_c=cold, battery_a=[-1.0] * 8)["battery_min_c"].nearest)
    assert judged(battery_c=cold)["battery_min_c"].seconds == 8.0


def test_payload_power_is_the_sum_of_the_nodes():
    assert judged(node0_w=[70.0] * 8)["payload_max_w"].depth == pytest.approx(12.0)


SPEC = JobSpec(7, "a", 100.0, 1.0, 10.0, 0.0, 500.0, 0.0)
PLAN = Plan(0.0, (60.0,), (50.0,), (2.0,), 0.8, 100.0, 10.0, "", False)


def decision(now_s, *transitions, nodes=None, mode=Mode.COMPUTE):
    nodes = nodes or (NodeCommand(0, 0.5, 0),)
    return Decision(now_s, mode, nodes, PLAN, transitions, (), (), (), "")


@pytest.mark.parametrize(("states", "end_s", "broken"), [
    ([(JobState.PROMISED, 1), (JobState.RUNNING, 2), (JobState.FINISHED, 400)], 1000.0, False),
    ([(JobState.PROMISED, 1), (JobState.RUNNING, 2), (JobState.FINISHED, 501)], 1000.0, True),
    ([(JobState.PROMISED, 1), (JobState.EXPIRED, 501)], 1000.0, True),
    ([(JobState.PROMISED, 1), (JobState.WITHDRAWN, 300)], 1000.0, True),
    ([(JobState.PROMISED, 1), (JobState.CANCELLED, 300)], 1000.0, False),
    ([(JobState.PROMISED, 1), (JobState.RUNNING, 2)], 400.0, False),
    ([(JobState.PROMISED, 1), (JobState.RUNNING, 2)], 600.0, True),
    ([(JobState.REFUSED, 1)], 1000.0, False),
    ([(JobState.EXPIRED, 501)], 1000.0, False),
])
def test_promises_are_judged_by_the_deadline(states, end_s, broken):
    book = run.Logbook(1)
    book.note(decision(0.0, JobTransition(7, JobState.QUEUED, "", 0.0, SPEC)))
    for state, now_s in states:
        book.note(decision(float(now_s), JobTransition(7, state, "", 0.0, None)))
    assert book.jobs[7].is_broken(end_s) is broken


def test_bars_follow_the_nodes():
    book = run.Logbook(1)
    on, idle = (NodeCommand(3, 15.0, 7),), (NodeCommand(0, 0.5, 7),)
    for now_s, nodes in ((0.0, idle), (10.0, on), (25.0, on), (40.0, idle), (60.0, on)):
        book.note(decision(now_s, nodes=nodes))
    book.close(70.0)
    assert book.bars == [run.Bar(7, 0, 10.0, 40.0), run.Bar(7, 0, 60.0, 70.0)]


def test_refusals_count_under_each_reason():
    book = run.Logbook(1)
    for job_id, detail in ((7, "ENERGY, HEAT"), (8, "HEAT")):
        spec = JobSpec(job_id, "a", 100.0, 1.0, 10.0, 0.0, 500.0, 0.0)
        book.note(decision(0.0, JobTransition(job_id, JobState.QUEUED, "", 0.0, spec),
                           JobTransition(job_id, JobState.REFUSED, detail, 0.0, None)))
    assert run.refusals(book) == {"ENERGY": 1, "HEAT": 2}


# --- folders ------------------------------------------------------------------------------------------


def test_folders_count_up_and_latest_follows(tmp_path):
    scenario = load(find("short_iss"))
    folders = [run.new_folder(tmp_path / "out", scenario) for _ in range(2)]
    assert [folder.name for folder in folders] == ["short_iss-7-001", "short_iss-7-002"]
    for folder in folders:
        run.point_latest(folder)
    assert (tmp_path / "out" / "latest").resolve() == folders[1].resolve()


def test_an_impossible_folder_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        run.new_folder(tmp_path / "file", load(find("short_iss")))


# --- jobs ---------------------------------------------------------------------------------------------


def stream(seed=3, duration_s=86400.0, examples=(), **changed):
    return JobStream(StreamConfig(**changed), examples, duration_s, np.random.default_rng(seed))


def test_streams_are_seeded_and_in_order():
    jobs = stream().jobs
    assert jobs == stream().jobs != stream(seed=4).jobs
    assert [job.job_id for job in jobs] == list(range(FIRST_STREAM_ID, FIRST_STREAM_ID + len(jobs)))
    assert all(a.arrival_s <= b.arrival_s for a, b in itertools.pairwise(jobs))
    for job in jobs:
        assert job.arrival_s <= job.answer_due_s <= job.deadline_s
        assert job.deadline_s - job.arrival_s > job.work_units  # the reference mode makes it
        assert 0.75 <= job.activity_frac <= 1.10


def test_as_much_work_arrives_as_stated():
    jobs = stream(duration_s=3e6, sustainable_units_s=2.0, overload=1.5).jobs
    assert sum(job.work_units for job in jobs) / 3e6 == pytest.approx(3.0, rel=0.05)
    for kind in CLASSES:
        share = sum(job.name == kind.name for job in jobs) / len(jobs)
        assert share == pytest.approx(kind.share, abs=0.03)
        median = np.median([job.work_units for job in jobs if job.name == kind.name])
        assert median == pytest.approx(kind.median_units, rel=0.1)


def test_examples_take_their_share_of_the_arrivals():
    manifests = tuple(load_manifest(path) for path in sorted((ROOT / "examples" / "jobs").glob("*/job.toml")))
    jobs = stream(duration_s=1e6, examples=manifests, example_share=0.3, example_batch=20, overload=1.0,
                  sustainable_units_s=2.0).jobs
    names = {manifest.id for manifest in manifests}
    from_examples = [job for job in jobs if job.name in names]
    assert len(from_examples) / len(jobs) == pytest.approx(0.3, abs=0.05)
    assert {job.name for job in from_examples} == names
    assert sum(job.work_units for job in jobs) / 1e6 == pytest.approx(2.0, rel=0.1)


def test_the_inbox_gives_each_job_once_when_it_arrives():
    inbox = stream()
    taken = []
    for now_s in range(0, 86400, 100):
        fresh = inbox.take(float(now_s), {})
        assert all(now_s - 100 < job.arrival_s <= now_s for job in fresh)
        taken += fresh
    assert tuple(taken) == inbox.jobs[: len(taken)]


def test_no_overload_no_jobs():
    assert stream(overload=0.0).jobs == ()


def runner(**changed):
    return VirtualRunner(2, 10.0, StreamConfig(activity_error_frac=0.0, **changed), seed=1)


def job(job_id=1, units=100.0, pause=Pause.STOP_CONTINUE):
    return JobSpec(job_id, "a", units, 0.9, 10.0, 0.0, 5000.0, 0.0, pause)


def spend(target, seconds, rate=1.0, specs=(None, None)):
    ends = []
    for t in range(seconds):
        target.place(float(t), [Placement(spec, 1.0) for spec in specs])
        target.work(float(t), 1.0, [rate, rate])
        ends += [progress for progress in target.poll(t + 1.0) if progress.ended]
    return ends


def test_a_job_takes_restore_and_work():
    nodes = runner()
    ends = spend(nodes, 109, specs=(job(), None))
    assert ends == []
    (end,) = spend(nodes, 1, specs=(job(), None))
    assert (end.job_id, end.done_units, end.ended, end.succeeded) == (1, 100.0, True, True)
    assert nodes.on_nodes == [0, 0]


def test_activity_is_there_while_the_job_is():
    nodes = runner()
    nodes.place(0.0, [Placement(job(), 1.0), Placement(None, 0.0)])
    assert nodes.activities() == [pytest.approx(0.9), None]
    nodes.place(1.0, [Placement(job(), 0.0), Placement(None, 0.0)])
    assert nodes.activities() == [None, None]


def test_a_moved_job_keeps_its_progress_and_restores_again():
    nodes = runner()
    spend(nodes, 60, specs=(job(), None))
    assert spend(nodes, 59, specs=(None, job())) == []
    assert len(spend(nodes, 1, specs=(None, job()))) == 1


def test_a_job_that_cannot_pause_begins_anew():
    nodes = runner()
    spend(nodes, 60, specs=(job(pause=Pause.NONE), None))
    spend(nodes, 1)
    assert spend(nodes, 109, specs=(job(pause=Pause.NONE), None)) == []
    assert len(spend(nodes, 1, specs=(job(pause=Pause.NONE), None))) == 1


def test_a_stopped_node_restores_before_it_goes_on():
    nodes = runner()
    spend(nodes, 30, specs=(job(), None))
    spend(nodes, 5, rate=0.0, specs=(job(), None))
    assert spend(nodes, 89, specs=(job(), None)) == []
    assert len(spend(nodes, 1, specs=(job(), None))) == 1


def test_an_ended_job_is_forgotten():
    nodes = runner()
    spend(nodes, 50, specs=(job(), None))
    nodes.end(1)
    nodes.end(99)
    assert nodes.on_nodes == [0, 0]
    assert len(spend(nodes, 110, specs=(job(), None))) == 1


def test_truth_of_a_job_hangs_on_seed_and_id_only():
    def activity(seed, job_id):
        nodes = VirtualRunner(1, 0.0, StreamConfig(activity_error_frac=0.1), seed)
        nodes.place(0.0, [Placement(job(job_id), 1.0)])
        return nodes.activities()[0]

    assert activity(1, 5) == activity(1, 5)
    assert len({activity(1, 5), activity(2, 5), activity(1, 6), 0.9}) == 4


def test_work_is_what_was_declared_unless_the_scenario_says_otherwise():
    nodes = VirtualRunner(1, 0.0, StreamConfig(work_error_frac=0.2), 1)
    nodes.place(0.0, [Placement(job(units=1000.0), 1.0)])
    done = 0
    while not any(progress.ended for progress in nodes.poll(float(done))):
        nodes.work(float(done), 1.0, [1.0])
        done += 1
    assert done != 1000
    assert 600 <= done <= 1400


def test_progress_is_told_every_ten_seconds():
    nodes = runner()
    told = []
    for t in range(60):
        nodes.place(float(t), [Placement(job(), 1.0), Placement(None, 0.0)])
        told += [(t, progress.done_units) for progress in nodes.poll(float(t))]
        nodes.work(float(t), 1.0, [1.0, 0.0])
    assert told == [(20, 10.0), (30, 20.0), (40, 30.0), (50, 40.0)]

"""Jobs of the bundles as processes on nodes: starts, pauses, ends and failures as the supervisor sees them."""

import sys
import time
from pathlib import Path

import pytest

from flightsw.jobs.base import Placement
from flightsw.jobs.onboard import OnboardJobs, load_bundles
from flightsw.jobs.runner import ProcessRunner
from flightsw.state import JobProgress, JobSpec

ROOT = Path(__file__).resolve().parents[2]
NOTHING = Placement(None, 0.0)
MANIFEST = """
[job]
id = "{id}"
name = "Test job"
customer = "Test"
command = ["python3", "in/job.py"]
inputs = ["job.py"]
outputs = ["result"]
value = 1.0
deadline_s = 60.0
[work]
units = 4
unit = "step"
[needs]
memory_mb = 128
disk_mb = 1
[pause]
contract = "stop_continue"
[power]
activity_frac = 1.0
"""
QUICK = """
import os
def report(units):
    fd = os.open("progress", os.O_WRONLY)
    os.pwrite(fd, b"%-20d" % units, 0)
report(3)
open("out/result", "w").write("42")
"""
SLOW = QUICK + "import time\ntime.sleep(60)\n"
BROKEN = "raise SystemExit(3)\n"


def bundle(folder: Path, job_id: str, program: str) -> None:
    path = folder / job_id
    path.mkdir(parents=True)
    (path / "job.toml").write_text(MANIFEST.format(id=job_id))
    (path / "job.py").write_text(program)


@pytest.fixture
def jobs(tmp_path):
    for name, program in (("quick", QUICK), ("slow", SLOW), ("broken", BROKEN)):
        bundle(tmp_path / "bundles", name, program)
    bundles, problems = load_bundles(tmp_path / "bundles")
    assert problems == ()
    onboard = OnboardJobs(ProcessRunner(tmp_path / "run", Path(sys.executable)), bundles)
    yield onboard
    onboard.close()


def spec(job_id: int, manifest: str) -> JobSpec:
    return JobSpec(job_id, manifest, 100.0, 1.0, 1.0, 0.0, 1e6, 0.0, manifest=manifest)


def until(onboard: OnboardJobs, done, seconds: float = 20.0) -> JobProgress:
    """Poll until a progress satisfies `done`; fails when none does."""
    give_up_s = time.monotonic() + seconds
    while time.monotonic() < give_up_s:
        for progress in onboard.poll(0.0):
            if done(progress):
                return progress
        time.sleep(0.01)
    pytest.fail("no such progress came")


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_placed_job_runs_and_finishes_with_all_its_work_and_a_hash(jobs):
    (group,) = jobs.place(0.0, [Placement(spec(1, "quick"), 1.0)])
    assert group > 0
    progress = until(jobs, lambda p: p.ended)
    assert (progress.job_id, progress.done_units, progress.succeeded) == (1, 100.0, True)
    assert progress.detail.startswith("SHA-256 ")
    assert jobs.place(0.0, [Placement(spec(1, "quick"), 1.0)]) == (0,)  # its group is gone and must not be leased
    jobs.end(1)
    assert jobs.poll(0.0) == ()
    assert jobs.poll(0.0) == ()


def test_progress_is_in_the_jobs_own_units(jobs):
    jobs.place(0.0, [Placement(spec(1, "slow"), 1.0)])
    progress = until(jobs, lambda p: p.done_units > 0.0)
    assert progress.done_units == pytest.approx(75.0)  # three of four steps of a hundred units
    assert not progress.ended


def test_a_job_without_time_does_not_start_and_a_waiting_one_is_stopped(jobs):
    job = spec(1, "slow")
    assert jobs.place(0.0, [Placement(job, 0.0)]) == (0,)
    (group,) = jobs.place(0.0, [Placement(job, 0.5)])
    until(jobs, lambda p: p.done_units > 0.0)
    assert jobs.place(0.0, [Placement(job, 0.0)]) == (group,)
    time.sleep(0.05)
    assert state_of(group) == "T"
    jobs.place(0.0, [Placement(job, 1.0)])
    time.sleep(0.05)
    assert state_of(group) != "T"
    assert jobs.place(0.0, [NOTHING]) == (0,)  # taken off its node: kept, not run
    time.sleep(0.05)
    assert state_of(group) == "T"
    assert jobs.place(0.0, [NOTHING, Placement(job, 1.0)]) == (0, group)  # goes on elsewhere, the same process
    assert jobs.placed == (0, 1)


def test_an_unknown_name_and_a_broken_program_fail_with_a_clear_word(jobs):
    assert jobs.place(0.0, [Placement(spec(1, "poem"), 1.0), Placement(spec(2, "broken"), 1.0)])[0] == 0
    progress = until(jobs, lambda p: p.job_id == 1)
    assert progress.ended
    assert not progress.succeeded
    assert progress.detail == "no manifest 'poem' on board; known: broken, quick, slow"
    progress = until(jobs, lambda p: p.job_id == 2 and p.ended)
    assert not progress.succeeded
    assert progress.detail == "exit code 3"


def test_an_ended_job_is_terminated_and_forgotten(jobs):
    (group,) = jobs.place(0.0, [Placement(spec(1, "slow"), 1.0)])
    until(jobs, lambda p: p.done_units > 0.0)
    jobs.end(1)
    jobs.end(1)
    jobs.end(99)
    give_up_s = time.monotonic() + 20.0
    while Path(f"/proc/{group}").exists() and time.monotonic() < give_up_s:
        assert jobs.poll(0.0) == ()
        assert jobs.active() == {}  # its account is closed
        time.sleep(0.01)
    assert not Path(f"/proc/{group}").exists()
    assert jobs.place(0.0, [NOTHING]) == (0,)


def test_what_a_job_uses_is_told_for_the_node_that_it_may_run_on(jobs):
    (_, group) = jobs.place(0.0, [NOTHING, Placement(spec(1, "slow"), 1.0)])
    until(jobs, lambda p: p.done_units > 0.0)
    first = jobs.active()[1]
    assert (first.node, first.process, first.customer) == (1, group, "Test")
    assert first.core_s > 0.0
    assert first.peak_octets > 1 << 20
    jobs.place(0.0, [NOTHING, Placement(spec(1, "slow"), 0.0)])
    jobs.poll(0.0)
    assert jobs.active()[1].node == -1
    jobs.place(0.0, [Placement(spec(1, "slow"), 0.3)])
    jobs.poll(0.0)
    assert jobs.active()[1].node == 0


def test_a_bad_bundle_is_left_out_with_its_problem(tmp_path):
    bundle(tmp_path, "good", QUICK)
    bundle(tmp_path, "twin", QUICK)
    (tmp_path / "twin" / "job.toml").write_text(MANIFEST.format(id="good"))
    bundle(tmp_path, "bad", QUICK)
    (tmp_path / "bad" / "job.toml").write_text("[job]\n")
    bundles, problems = load_bundles(tmp_path)
    assert bundles.keys() == {"good"}
    assert len(problems) == 2
    assert "bad/job.toml" in problems[0]
    assert "is taken by" in problems[1]
    assert load_bundles(tmp_path / "none") == ({}, ())


def test_the_examples_are_all_offered():
    bundles, problems = load_bundles(ROOT / "examples" / "jobs")
    assert bundles.keys() == {"cloud_mask", "matrix_workload", "telemetry_pack"}
    assert problems == ()


SAVING = """
import sdk, time
saved = sdk.restore()
done = saved.done_units if saved else 1
while done < 4:
    sdk.progress(done)
    if sdk.should_save():
        sdk.checkpoint(3, b"three")
    if (sdk.folder() / "work" / "end").exists() or done == 3:
        break
    time.sleep(0.01)
(sdk.folder() / "out" / "result").write_text(f"{done} {sdk.budget().energy_j} {sdk.budget().power_drop_in_s}")
"""
CHECKPOINT = ('contract = "stop_continue"', 'contract = "checkpoint"\ncheckpoint_deadline_s = 5')


@pytest.fixture
def savers(tmp_path):
    for name, program in (("saver", SAVING), ("deaf", SLOW)):
        bundle(tmp_path / "bundles", name, program)
        path = tmp_path / "bundles" / name
        (path / "sdk.py").write_bytes((ROOT / "flightsw" / "sdk.py").read_bytes())
        text = MANIFEST.format(id=name).replace(*CHECKPOINT).replace('["job.py"]', '["job.py", "sdk.py"]')
        (path / "job.toml").write_text(text)
    for name, program in (("steady", QUICK), ("fickle", QUICK.replace('"42"', "str(os.getpid())"))):
        bundle(tmp_path / "bundles", name, program)
        (tmp_path / "bundles" / name / "job.toml").write_text(
            MANIFEST.format(id=name) + '[integrity]\nrerun = "duplicate"\n')
    bundles, problems = load_bundles(tmp_path / "bundles")
    assert problems == ()
    onboard = OnboardJobs(ProcessRunner(tmp_path / "run", Path(sys.executable)), bundles)
    yield onboard
    onboard.close()


def folder_of(tmp_path: Path, job_id: int) -> Path:
    return tmp_path / "run" / f"{job_id:010d}"


def wait_for(onboard: OnboardJobs, now_s: float, done) -> None:
    give_up_s = time.monotonic() + 20.0
    while not done():
        assert time.monotonic() < give_up_s
        onboard.poll(now_s)
        time.sleep(0.01)


def test_a_job_is_told_what_is_left_and_saved_before_the_power_drops(savers, tmp_path):
    job = spec(1, "saver")
    (group,) = savers.place(0.0, [Placement(job, 1.0, 500.0, 800.0)])
    until(savers, lambda p: p.done_units > 0.0)
    folder = folder_of(tmp_path, 1)
    assert not (folder / "checkpoint.request").exists()
    savers.place(100.0, [Placement(job, 1.0, 9.0, 700.0)])
    assert (folder / "checkpoint.request").exists()
    wait_for(savers, 100.0, (folder / "checkpoint.good" / "MARK").exists)
    assert savers.place(101.0, [Placement(job, 1.0, 8.0, 690.0)]) == (group,)  # it goes on
    (folder / "work" / "end").touch()
    progress = until(savers, lambda p: p.ended)
    assert progress.succeeded
    assert (folder / "out" / "result").read_text() == "1 690.0 8.0"


def test_a_saved_job_starts_again_from_there_after_the_supervisor_died(savers, tmp_path):
    job = spec(1, "saver")
    savers.place(0.0, [Placement(job, 1.0)])
    until(savers, lambda p: p.done_units > 0.0)
    savers.place(300.0, [Placement(job, 1.0)])  # every five minutes, whatever the plan says
    wait_for(savers, 300.0, (folder_of(tmp_path, 1) / "checkpoint.good" / "MARK").exists)
    savers.close()
    bundles, _ = load_bundles(tmp_path / "bundles")
    again = OnboardJobs(ProcessRunner(tmp_path / "run", Path(sys.executable)), bundles)
    again.place(310.0, [Placement(job, 1.0)])
    assert until(again, lambda p: p.ended).succeeded
    assert (folder_of(tmp_path, 1) / "out" / "result").read_text().startswith("3 ")
    again.close()


def test_a_job_that_never_saves_fails_with_the_reason(savers, tmp_path):
    job, now_s = spec(1, "deaf"), 0.0
    for _ in range(3):
        savers.place(now_s, [Placement(job, 1.0)])
        wait_for(savers, now_s, (folder_of(tmp_path, 1) / "out" / "result").exists)
        (folder_of(tmp_path, 1) / "out" / "result").unlink()
        savers.place(now_s + 300.0, [Placement(job, 1.0)])
        now_s += 306.0
        for _ in range(500):
            ended = [p for p in savers.poll(now_s) if p.ended]
            if ended or 1 not in savers._running:
                break
            time.sleep(0.01)
    assert [(p.succeeded, p.detail.split(":")[0]) for p in ended] == [(False, "checkpoint not kept")]


def test_a_job_that_must_make_room_saves_itself_first_and_goes_on_from_there(savers, tmp_path):
    job, other = spec(1, "saver"), spec(2, "steady")
    (group,) = savers.place(0.0, [Placement(job, 1.0)])
    until(savers, lambda p: p.done_units > 0.0)
    assert savers.place(1.0, [Placement(other, 1.0)]) == (group,), "the node is still its own"
    assert 2 not in savers._running
    wait_for(savers, 1.0, lambda: 1 not in savers._running)
    (note,) = savers.notes()
    assert note.name == "job_saved"
    assert note.args[0] == 1
    assert str(note.args[1]).startswith("checkpoint of 3 units, 1 files, 5 octets, MARK SHA-256 ")
    (second,) = savers.place(2.0, [Placement(other, 1.0)])
    assert second not in (0, group)
    until(savers, lambda p: p.job_id == 2 and p.ended)
    savers.end(2)
    savers.place(3.0, [Placement(job, 1.0)])
    assert until(savers, lambda p: p.job_id == 1 and p.ended).succeeded
    assert (folder_of(tmp_path, 1) / "out" / "result").read_text().startswith("3 ")


def test_who_does_not_save_itself_in_time_loses_the_node_and_that_is_said(savers, tmp_path):
    job, other = spec(1, "deaf"), spec(2, "steady")
    savers.place(0.0, [Placement(job, 1.0)])
    wait_for(savers, 0.0, (folder_of(tmp_path, 1) / "out" / "result").exists)
    savers.place(1.0, [Placement(other, 0.5)])
    for now_s in (1.0, 10.9):  # five seconds on a whole node are ten on half of one
        savers.poll(now_s)
        assert 1 in savers._running
    wait_for(savers, 11.1, lambda: 1 not in savers._running)
    (note,) = savers.notes()
    assert note.args == (1, "checkpoint not kept: not written within its deadline; starts again from the beginning")


def test_a_node_without_time_for_anybody_stops_its_job_where_it_is(savers, tmp_path):
    job = spec(1, "deaf")
    (group,) = savers.place(0.0, [Placement(job, 1.0)])
    wait_for(savers, 0.0, (folder_of(tmp_path, 1) / "out" / "result").exists)
    assert savers.place(1.0, [Placement(spec(2, "steady"), 0.0)]) == (0,)
    time.sleep(0.05)
    assert state_of(group) == "T"
    assert not (folder_of(tmp_path, 1) / "checkpoint.request").exists()
    savers.place(2.0, [Placement(job, 1.0)])
    savers.place(303.0, [Placement(job, 1.0)])  # asked to save itself, and then left without time
    for now_s in range(304, 400):
        savers.place(float(now_s), [Placement(job, 0.0)])
    savers.poll(400.0)
    assert 1 in savers._running


def test_what_is_left_of_an_ended_job_goes_and_its_log_stays(savers, tmp_path):
    savers.place(0.0, [Placement(spec(1, "steady"), 1.0)])
    until(savers, lambda p: p.ended)
    savers.end(1)
    savers.poll(1.0)
    assert [path.name for path in folder_of(tmp_path, 1).iterdir()] == ["log"]
    for name in ("work", "in"):
        (folder_of(tmp_path, 7) / name).mkdir(parents=True)
        (folder_of(tmp_path, 8) / name).mkdir(parents=True)
    savers.sweep({8})
    assert list(folder_of(tmp_path, 7).iterdir()) == []
    assert (folder_of(tmp_path, 8) / "work").exists()


def test_a_checked_job_runs_twice_and_two_results_must_be_one(savers):
    savers.place(0.0, [Placement(spec(1, "steady"), 1.0), Placement(spec(2, "fickle"), 1.0)])
    ends = {}
    halves = []
    give_up_s = time.monotonic() + 20.0
    while len(ends) < 2 and time.monotonic() < give_up_s:
        for progress in savers.poll(0.0):
            halves.append(progress.done_units)
            if progress.ended:
                ends[progress.job_id] = progress
        time.sleep(0.005)
    assert (ends[1].succeeded, ends[1].done_units) == (True, 100.0)
    assert not ends[2].succeeded
    assert ends[2].detail.startswith("two runs differ: SHA-256 ")
    assert all(units <= 50.0 or units >= 87.0 for units in halves)  # 3 of 4 steps of either half, or all

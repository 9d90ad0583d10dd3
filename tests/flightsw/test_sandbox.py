"""The sandbox on this machine: what a job sees, what is held and what is said about it. Skips what is not there."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flightsw.clock import MonotonicClock
from flightsw.errors import JobError
from flightsw.jobs import selftest
from flightsw.jobs.hostile import ATTACKS
from flightsw.jobs.manifest import load_manifest, parse_manifest
from flightsw.jobs.runner import ProcessReport, ProcessRunner, ProcessState
from flightsw.jobs.sandbox import BARE, USER_BASE, USER_COUNT, Sandbox, limits_enforced, limits_not_enforced, probe
from flightsw.jobs.selftest import THREATENS, Finding, SelfTest, run_self_test

PYTHON = Path(sys.executable)
ROOT = Path(__file__).resolve().parents[2]
MANIFEST = """
[job]
id = "probe"
name = "Probe"
customer = "Test"
command = ["python3", "in/job.py"]
inputs = ["job.py"]
outputs = ["result"]
value = 1.0
deadline_s = 60.0
[work]
units = 10
unit = "step"
[needs]
memory_mb = 128
disk_mb = 4
[pause]
contract = "checkpoint"
checkpoint_deadline_s = 5.0
[power]
activity_frac = 1.0
"""


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def sandbox(run_folder: Path) -> Iterator[Sandbox]:
    found = probe(run_folder, PYTHON)
    yield found
    found.close()


@pytest.fixture
def walled(sandbox: Sandbox) -> Sandbox:
    if not sandbox.bwrap:
        pytest.skip("; ".join(sandbox.absent))
    return sandbox


@pytest.fixture
def start(sandbox: Sandbox, run_folder: Path, tmp_path: Path) -> Iterator[Callable[..., ProcessRunner]]:
    runner = ProcessRunner(run_folder, PYTHON, sandbox)

    def begin(source: str, job_id: int = 1, **options: object) -> ProcessRunner:
        (tmp_path / "job.py").write_text("import os, signal, sys, time\n" + source)
        runner.start(job_id, parse_manifest(MANIFEST.encode(), "x"), tmp_path, **options)  # type: ignore[arg-type]
        return runner

    yield begin
    runner.close()
    for job_id in range(20):
        runner.discard(job_id)


def until(runner: ProcessRunner, wanted: Callable[[ProcessReport], bool], now_s: float = 0.0) -> ProcessReport:
    while True:
        for report in runner.poll(now_s):
            if wanted(report):
                return report
        time.sleep(0.005)


def final(runner: ProcessRunner, now_s: float = 0.0) -> ProcessReport:
    return until(runner, lambda report: report.state.is_final, now_s)


def log_of(runner: ProcessRunner, job_id: int = 1) -> str:
    return (runner.folder(job_id) / "log").read_text()


def test_an_ordinary_job_with_numpy_and_a_child_does_its_work(start) -> None:  # type: ignore[no-untyped-def]
    runner = start(
        "import numpy, subprocess, tempfile, multiprocessing\n"
        "words = subprocess.run(['sh', '-c', 'echo $FLIGHTSW_JOB_DIR'], capture_output=True, text=True).stdout\n"
        "assert words.strip() == os.getcwd() == os.environ['FLIGHTSW_JOB_DIR']\n"
        "tempfile.TemporaryFile().write(b'x')\n"
        "open('out/result', 'w').write(str(numpy.arange(4).sum()))\n"
    )
    report = final(runner)
    assert report.state is ProcessState.FINISHED, (report, log_of(runner))
    assert report.cpu_s > 0.0
    assert report.written_octets > 0


def test_a_relative_run_folder_is_the_same_one(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = ProcessRunner(Path("run"), PYTHON, sandbox)
    (tmp_path / "job.py").write_text(
        "import os; assert os.environ['FLIGHTSW_JOB_DIR'] == os.getcwd(); open('out/result', 'w')")
    runner.start(1, parse_manifest(MANIFEST.encode(), "x"), tmp_path)
    assert final(runner).state is ProcessState.FINISHED, log_of(runner)
    runner.close()


def test_a_job_sees_itself_alone(start, walled: Sandbox) -> None:  # type: ignore[no-untyped-def]
    runner = start(
        "assert os.getuid() != 0\n"
        "assert not any(map(os.path.exists, ('/home', '/etc/passwd', '/root/.bashrc')))\n"
        "assert [p for p in os.listdir('/proc') if p.isdigit()] == ['1', str(os.getpid())], os.listdir('/proc')\n"
        "assert os.listdir('..') == [os.path.basename(os.getcwd())]\n"
        "for path in ('/x', '/dev/x', '/usr/x', 'in/x', '../x'):\n"
        "    try: open(path, 'w'); sys.exit(path)\n"
        "    except OSError: pass\n"
        "open('/tmp/x', 'w').write('private')\n"
        "open('out/result', 'w')\n"
    )
    report = final(runner)
    assert report.state is ProcessState.FINISHED, log_of(runner)
    owner = runner.folder(1).stat().st_uid
    assert (USER_BASE <= owner < USER_BASE + USER_COUNT) == walled.own_users


def test_each_job_has_its_own_user_and_keeps_it(start, walled: Sandbox) -> None:  # type: ignore[no-untyped-def]
    if not walled.own_users:
        pytest.skip("; ".join(walled.absent))
    for job_id in (1, 2):
        runner = start("open('out/result', 'w'); open('work/mine', 'a').write('x')", job_id)
    for job_id in (1, 2):
        until(runner, lambda report, job_id=job_id: report.job_id == job_id and report.state.is_final)
    users = [runner.folder(job_id).stat().st_uid for job_id in (1, 2)]
    assert users[0] != users[1]
    runner.release(1)
    start("open('work/mine', 'a').write('x'); open('out/result', 'w')", 1)
    until(runner, lambda report: report.job_id == 1 and report.state is ProcessState.FINISHED)
    assert runner.folder(1).stat().st_uid == users[0]
    assert (runner.folder(1) / "work" / "mine").read_text() == "xx"


def test_exit_codes_and_signals_come_through(start) -> None:  # type: ignore[no-untyped-def]
    runner = start("sys.exit(7)", 1)
    assert final(runner).detail == "exit code 7"
    runner.release(1)
    start("os.kill(os.getpid(), signal.SIGABRT)", 2)
    assert final(runner)[3] == -6
    runner.release(2)
    start("signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); open('work/ready', 'w'); time.sleep(60)", 3)
    until(runner, lambda _: (runner.folder(3) / "work" / "ready").exists())
    runner.terminate(3, now_s=0.0, grace_s=1e9)
    report = final(runner)
    assert (report.state, report.exit_code) == (ProcessState.TERMINATED, 5)


SAVING = (
    "import hashlib, json\n"
    "n, asked = 0, []\n"
    "if os.path.exists('checkpoint.good/state'): n = int(open('checkpoint.good/state').read())\n"
    "signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))\n"
    "print('from', n, flush=True)\n"
    "open('work/ready', 'w')\n"
    "while True:\n"
    "    n += 1; time.sleep(0.005)\n"
    "    if asked and os.path.exists('checkpoint.request'):\n"
    "        asked.clear()\n"
    "        open('checkpoint/state', 'w').write(str(n))\n"
    "        digest = hashlib.sha256(str(n).encode()).hexdigest() if 'lie' not in sys.argv else '0' * 64\n"
    "        open('checkpoint/new', 'w').write(json.dumps({'done_units': n, 'files': {'state': digest}}))\n"
    "        os.rename('checkpoint/new', 'checkpoint/MARK')\n"
)


def saved(start, source: str, wait_s: float = 5.0, **save: bool) -> tuple[ProcessRunner, ProcessReport]:  # type: ignore[no-untyped-def]
    runner: ProcessRunner = start(source)
    ready = runner.folder(1) / "work" / "ready"
    until(runner, lambda _: ready.exists())
    ready.unlink()
    runner.save(1, 100.0, wait_s, **save)
    report = until(runner, lambda report: report.state.is_final or report.saved_units is not None, 100.0)
    return runner, report


def test_a_saved_job_goes_on_where_it_was(start) -> None:  # type: ignore[no-untyped-def]
    runner, report = saved(start, SAVING)
    assert report.state is ProcessState.SAVED
    assert report.saved_units is not None
    assert report.saved_units > 0
    assert report.detail.startswith(f"checkpoint of {report.saved_units} units, 1 files")
    runner.release(1)
    again, second = saved(start, SAVING, go_on=True)
    assert f"from {report.saved_units}" in log_of(again)
    assert (second.state, second.exit_code) == (ProcessState.RUNNING, None)
    assert second.saved_units is not None
    assert second.saved_units > report.saved_units


def test_what_is_not_whole_does_not_count_and_the_good_one_stays(start) -> None:  # type: ignore[no-untyped-def]
    runner, first = saved(start, SAVING)
    runner.release(1)
    liar, report = saved(start, SAVING.replace("'lie' not in sys.argv", "False"))
    assert report.state is ProcessState.UNSAVED
    assert "SHA-256 is" in report.detail
    assert report.detail.endswith("starts again from the good one before")
    liar.release(1)
    third, _ = saved(start, SAVING, go_on=True)
    assert f"from {first.saved_units}" in log_of(third)


def test_a_job_that_does_not_save_in_time_starts_from_the_beginning(start) -> None:  # type: ignore[no-untyped-def]
    runner = start("open('work/ready', 'w'); time.sleep(60)")
    until(runner, lambda _: (runner.folder(1) / "work" / "ready").exists())
    runner.save(1, 100.0, 5.0)
    for _ in range(5):
        (report,) = runner.poll(104.9)
        assert report.state is ProcessState.SAVING
    report = final(runner, 105.0)
    assert report.detail == "checkpoint not kept: not written within its deadline; starts again from the beginning"


def test_a_checkpoint_that_rotted_is_put_aside(start) -> None:  # type: ignore[no-untyped-def]
    runner, _ = saved(start, SAVING)
    runner.release(1)
    (runner.folder(1) / "checkpoint.good" / "state").write_text("999")
    again, _ = saved(start, SAVING, go_on=True)
    assert "from 0" in log_of(again)
    assert "put aside: state: SHA-256 is" in log_of(again)
    assert (again.folder(1) / "checkpoint.bad" / "state").exists()


def test_only_a_job_with_that_contract_is_saved(run_folder: Path, tmp_path: Path) -> None:
    runner = ProcessRunner(run_folder, PYTHON)
    (tmp_path / "job.py").write_text("import time; time.sleep(60)")
    text = MANIFEST.replace('"checkpoint"', '"stop_continue"').replace("checkpoint_deadline_s = 5.0", "")
    runner.start(1, parse_manifest(text.encode(), "x"), tmp_path)
    with pytest.raises(JobError, match=r"job 1 \(probe\): its pause contract is no checkpoint"):
        runner.save(1, 0.0, 1.0)
    runner.close()


def test_the_budget_reaches_the_job_and_no_link_leads_out(start, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    victim = tmp_path / "victim"
    victim.write_text("mine")
    runner = start(
        f"os.symlink({str(victim)!r}, 'budget.json'); os.symlink({str(victim)!r}, 'budget.json.new')\n"
        "open('work/ready', 'w')\n"
        "while os.path.islink('budget.json'): time.sleep(0.005)\n"
        "open('out/result', 'w').write(open('budget.json').read())\n"
    )
    until(runner, lambda _: (runner.folder(1) / "work" / "ready").exists())
    runner.tell(1, {"energy_left_j": 12.5, "power_drops_in_s": None})
    assert final(runner).state is ProcessState.FINISHED, log_of(runner)
    assert (runner.folder(1) / "out" / "result").read_text() == '{"energy_left_j": 12.5, "power_drops_in_s": null}'
    assert victim.read_text() == "mine"


def test_a_second_run_must_give_the_same(start) -> None:  # type: ignore[no-untyped-def]
    runner = start("open('out/result', 'w').write('a'); open('work/x', 'w')")
    first = final(runner)
    runner.release(1)
    start("assert not os.path.exists('work/x'); open('out/result', 'w').write('a')", 1, again=True,
          expected_sha256=first.result_sha256)
    assert final(runner).state is ProcessState.FINISHED, log_of(runner)
    runner.release(1)
    start("open('out/result', 'w').write('b')", 1, again=True, expected_sha256=first.result_sha256)
    report = final(runner)
    second = hashlib.sha256(b"result\x001\x00b").hexdigest()
    assert report.state is ProcessState.FAILED
    assert report.detail == f"two runs differ: SHA-256 {first.result_sha256} at first, {second} again"


ENDLESS = ("quiet", "ignore_signals", "endless_output")  # the self-test outlasts these


@pytest.mark.parametrize("attack", [name for name in ATTACKS if name not in ENDLESS])
def test_every_hostile_example_is_contained(sandbox: Sandbox, walled: Sandbox, run_folder: Path, attack: str) -> None:
    folder = ROOT / "examples" / "hostile" / attack
    runner = ProcessRunner(run_folder, PYTHON, sandbox)
    try:
        runner.start(9, load_manifest(folder / "job.toml"), folder, again=True)
        clock, slowest_s = MonotonicClock(), 0.0
        report = None
        while report is None or not report.state.is_final:
            began_s = clock.now_s()
            (report,) = runner.poll(began_s)
            slowest_s = max(slowest_s, clock.now_s() - began_s)
            time.sleep(0.02)
        verdict = runner.folder(9) / "out" / "verdict"
        text = verdict.read_text() if verdict.exists() else ""
        assert text.startswith("HELD") or (not text and (report.exit_code or 0) < 0), (report, text, log_of(runner, 9))
        assert slowest_s < 1.0, "a poll may not take a tick's period"
    finally:
        runner.close()
        runner.discard(9)
    assert not Path("/etc/hostile-wrote").exists()
    assert not Path("/tmp/hostile-wrote").exists()


def test_the_self_test_holds_where_the_layers_are(walled: Sandbox, run_folder: Path) -> None:
    test = run_self_test(walled, run_folder, PYTHON, MonotonicClock())
    assert {finding.attack for finding in test.findings} == set(THREATENS)
    assert test.broken == (), test.lines()
    assert test.took_s < selftest.WITHIN_S
    assert test.problem == ""


def test_the_self_test_catches_a_sandbox_that_is_none(run_folder: Path) -> None:
    test = run_self_test(BARE, run_folder, PYTHON, MonotonicClock())
    broken = {finding.attack for finding in test.broken}
    assert broken >= {"network", "write_outside", "read_other", "trace_other", "leave_session", "hidden_memory"}
    assert not broken & {"memory_hog", "memory_herd", "disk_filler", "ignore_signals", "endless_output"}
    assert test.problem.startswith("the sandbox does not hold ")
    assert "network (BROKE: reached 127.0.0.1)" in test.problem
    assert any(line.startswith("  BROKE network") for line in test.lines())
    assert not Path(f"/etc/hostile-{os.getpid()}").exists(), "what the attack wrote is cleared away"


def test_one_layer_less_is_found(walled: Sandbox, run_folder: Path) -> None:
    """Take the filter away: the session can be left, and the self-test says so."""
    test = run_self_test(dataclasses.replace(walled, seccomp=b""), run_folder, PYTHON, MonotonicClock())
    assert "leave_session" in {finding.attack for finding in test.broken}


def test_what_is_said_follows_the_layers() -> None:
    everything = Sandbox("/usr/bin/bwrap", own_users=True, seccomp=b"x", landlock=7)
    lines = limits_not_enforced(BARE)
    assert any(line.startswith("network") for line in lines)
    assert not any(line.startswith("network") for line in limits_not_enforced(everything))
    assert any("a poll that finds more ends the job" in line for line in limits_not_enforced(everything))
    for given in (BARE, everything):
        assert not set(limits_enforced(given)) & set(limits_not_enforced(given))
    finding = Finding("network", "network", held=True, detail="HELD")
    assert SelfTest((finding,), ("no cgroup v2 is mounted",), 1.0).lines()[-1] == "  absent: no cgroup v2 is mounted"


def test_without_bubblewrap_jobs_still_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    (tmp_path / "run").mkdir()
    bare = probe(tmp_path / "run", PYTHON)
    assert bare.bwrap == ""
    assert any("bubblewrap" in reason for reason in bare.absent)
    runner = ProcessRunner(tmp_path / "run", PYTHON, bare)
    (tmp_path / "job.py").write_text("open('out/result', 'w')")
    runner.start(1, parse_manifest(MANIFEST.encode(), "x"), tmp_path)
    assert final(runner).state is ProcessState.FINISHED, log_of(runner)
    runner.close()
    bare.close()

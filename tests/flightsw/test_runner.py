"""Real processes: what a job finds, what it may not do, and how it is stopped, ended and accounted."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flightsw.clock import MonotonicClock
from flightsw.errors import JobError
from flightsw.jobs.manifest import Manifest, parse_manifest
from flightsw.jobs.profile import profile_job
from flightsw.jobs.runner import (
    LOG_OCTETS_MAX,
    ProcessReport,
    ProcessRunner,
    ProcessState,
)
from flightsw.jobs.sandbox import limits_enforced, limits_not_enforced

PYTHON = Path(sys.executable)
MANIFEST = """
[job]
id = "probe"
name = "Probe"
customer = "Test"
command = ["python3", "in/job.py", "{units}"]
inputs = ["job.py"]
outputs = ["result"]
value = 1.0
deadline_s = 60.0
[work]
units = 10
unit = "step"
[needs]
memory_mb = 64
disk_mb = 1
[pause]
contract = "stop_continue"
[power]
activity_frac = 1.0
"""


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[ProcessRunner]:
    opened = ProcessRunner(tmp_path / "run", PYTHON)
    before = open_files()
    yield opened
    opened.close()
    assert open_files() == before, "a file descriptor is left open"


def bundle(tmp_path: Path, source: str) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir(exist_ok=True)
    (folder / "job.py").write_text("import os, signal, sys, time\n" + source)
    (folder / "job.toml").write_text(MANIFEST)
    return folder


def manifest(**changes: str) -> Manifest:
    text = MANIFEST
    for old, new in changes.items():
        line = next(line for line in text.splitlines() if line.startswith(f"{old} = "))
        text = text.replace(line, f"{old} = {new}")
    return parse_manifest(text.encode(), "job.toml")


def poll_until(runner: ProcessRunner, wanted: Callable[[ProcessReport], bool], now_s: float = 0.0) -> ProcessReport:
    """Poll until the one job's report is as wanted; the test's own time limit ends a vain wait."""
    while True:
        (report,) = runner.poll(now_s)
        if wanted(report):
            return report
        time.sleep(0.005)


def finished(runner: ProcessRunner, now_s: float = 0.0) -> ProcessReport:
    return poll_until(runner, lambda report: report.state.is_final, now_s)


def process_state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "gone"


def gone(pid: int) -> bool:
    return process_state(pid) in ("gone", "Z")


PROGRESS = "def report(n): f = os.open('progress', os.O_WRONLY); os.pwrite(f, b'%-20d\\n' % n, 0); os.close(f)\n"
SPIN = PROGRESS + "n = 0\nwhile True:\n    n += 1\n    n % 1000 or report(min(n // 1000, 10))\n"


def test_a_job_runs_in_its_folder_and_its_result_is_hashed(runner: ProcessRunner, tmp_path: Path) -> None:
    source = PROGRESS + (
        "assert sys.stdin.read() == ''\n"
        "assert sorted(os.listdir()) == ['in', 'log', 'out', 'progress', 'work'], os.listdir()\n"
        "assert os.getsid(0) == os.getpgid(0) == os.getpid()\n"
        "assert os.nice(0) >= 10\n"
        "assert 'NoNewPrivs:\\t1' in open('/proc/self/status').read()\n"
        "assert not os.stat('in/job.py').st_mode & 0o222\n"
        "print(sorted(os.environ))\n"
        "open('out/result', 'w').write('units ' + sys.argv[1])\n"
        "report(10)\n"
    )
    pgid = runner.start(7, manifest(), bundle(tmp_path, source))
    assert os.getpgid(pgid) == pgid
    report = finished(runner)
    assert report.detail == ""
    expected = hashlib.sha256(b"result\x008\x00units 10").hexdigest()
    assert report[:4] == (7, 10, ProcessState.FINISHED, 0)
    assert report.result_sha256 == expected
    assert report.cpu_s > 0.0
    log = (runner.folder(7) / "log").read_text()
    assert "PATH" in log
    assert "PYTEST" not in log
    assert runner.poll(0.0) == (report,), "the final report stays until it is released"
    runner.release(7)
    assert runner.poll(0.0) == ()
    runner.discard(7)
    assert not runner.folder(7).exists()


def test_a_declared_executable_runs_by_itself_and_another_does_not(runner: ProcessRunner, tmp_path: Path) -> None:
    folder = bundle(tmp_path, "")
    shutil.copyfile("/bin/cp", folder / "tool")
    native = manifest(command='["in/tool", "in/job.py", "out/result"]',
                      inputs='["job.py", "tool"]\nexecutables = ["tool"]')
    runner.start(1, native, folder)
    assert finished(runner).state is ProcessState.FINISHED
    assert (runner.folder(1) / "out" / "result").read_bytes() == (folder / "job.py").read_bytes()
    runner.release(1)
    runner.start(2, dataclasses.replace(native, executables=()), folder)
    report = finished(runner)
    assert (report.state, report.detail) == (ProcessState.FAILED, "exit code 127")
    assert (runner.folder(2) / "log").read_text() == "launch: in/tool: Permission denied\n"


def test_pause_stops_all_processing_and_resume_goes_on(runner: ProcessRunner, tmp_path: Path) -> None:
    pid = runner.start(1, manifest(), bundle(tmp_path, "child = os.fork()\n" + SPIN))
    poll_until(runner, lambda report: report.units_done == 10 and report.cpu_s > 0.05)
    children = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    runner.pause(1)
    poll_until(runner, lambda _: {process_state(p) for p in (pid, *children)} == {"T"})
    first = runner.poll(0.0)
    time.sleep(0.05)
    assert runner.poll(0.0) == first
    assert first[0].state is ProcessState.PAUSED
    runner.resume(1)
    poll_until(runner, lambda report: report.cpu_s > first[0].cpu_s + 0.02)
    runner.terminate(1, now_s=0.0, grace_s=0.0)
    assert finished(runner).state is ProcessState.TERMINATED
    assert len(children) == 1
    poll_until(runner, lambda _: gone(children[0]))
    for command in (runner.pause, runner.resume):
        command(1)  # nothing to do for a job that has ended


def test_a_job_that_heeds_sigterm_ends_within_its_grace(runner: ProcessRunner, tmp_path: Path) -> None:
    source = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\nopen('work/ready', 'w')\ntime.sleep(600)\n"
    runner.start(1, manifest(), bundle(tmp_path, source))
    poll_until(runner, lambda _: (runner.folder(1) / "work" / "ready").exists())
    runner.pause(1)
    runner.terminate(1, now_s=0.0, grace_s=1e9)
    report = finished(runner, now_s=1.0)
    assert (report.state, report.exit_code) == (ProcessState.TERMINATED, 5)


def test_a_job_that_ignores_sigterm_is_killed_after_its_grace(runner: ProcessRunner, tmp_path: Path) -> None:
    source = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nopen('work/ready', 'w')\ntime.sleep(600)\n"
    pid = runner.start(1, manifest(), bundle(tmp_path, source))
    poll_until(runner, lambda _: (runner.folder(1) / "work" / "ready").exists())
    runner.terminate(1, now_s=100.0, grace_s=5.0)
    runner.terminate(1, now_s=104.0, grace_s=50.0)  # a second request does not extend the first
    for _ in range(10):
        assert runner.poll(104.9)[0].state is ProcessState.ENDING
        time.sleep(0.01)
    assert not gone(pid)
    report = finished(runner, now_s=105.0)
    assert (report.state, report.exit_code) == (ProcessState.TERMINATED, -signal.SIGKILL)


def test_what_a_job_leaves_in_its_group_dies_with_it(runner: ProcessRunner, tmp_path: Path) -> None:
    source = "child = os.fork()\nif child == 0: time.sleep(600)\nopen('out/result', 'w').write(str(child))\n"
    runner.start(1, manifest(), bundle(tmp_path, source))
    assert finished(runner).state is ProcessState.FINISHED
    child = int((runner.folder(1) / "out" / "result").read_text())
    poll_until(runner, lambda _: gone(child))


@pytest.mark.parametrize(
    ("source", "detail", "log"),
    [
        ("x = bytearray(200 << 20)", "exit code 1", "MemoryError"),
        ("open('out/result', 'wb').write(bytes(2 << 20))", "exit code 1", "File too large"),
        ("x = [open('in/job.py') for _ in range(300)]", "exit code 1", "Too many open files"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV", ""),
        ("open('in/job.py')", "output result: No such file or directory", ""),
        ("os.symlink('/etc/passwd', 'out/result')", "output result: Too many levels of symbolic links", ""),
        ("os.rmdir('out'); os.symlink('/etc', 'out')", "output result: Not a directory", ""),
        ("os.mkfifo('out/result')", "output result: no regular file", ""),
        ("os.mkdir('out/result')", "output result: no regular file", ""),
        ("os.truncate(os.open('out/result', 65), 1 << 20); os.mkdir('x')", "", ""),
    ],
)
def test_a_job_that_breaks_its_bounds_or_its_word_fails(
    runner: ProcessRunner, tmp_path: Path, source: str, detail: str, log: str
) -> None:
    runner.start(1, manifest(), bundle(tmp_path, source))
    report = finished(runner)
    assert report.state is (ProcessState.FAILED if detail else ProcessState.FINISHED)
    assert report.detail == detail
    assert log in (runner.folder(1) / "log").read_text()


def test_outputs_larger_than_the_declared_disk_fail_together(runner: ProcessRunner, tmp_path: Path) -> None:
    source = "for n in 'ab': open('out/' + n, 'wb').write(bytes(700 << 10))"
    runner.start(1, manifest(outputs='["a", "b"]'), bundle(tmp_path, source))
    report = finished(runner)
    assert report.detail == "output b: outputs are larger than the 1 MB of disk"


def test_inputs_do_not_count_as_disk_and_everything_else_does(runner: ProcessRunner, tmp_path: Path) -> None:
    folder = bundle(tmp_path, "import os\nopen('out/result', 'w')\nopen('work/ready', 'w')\ntime.sleep(600)\n")
    (folder / "large").write_bytes(bytes(3 << 20))
    runner.start(1, manifest(inputs='["job.py", "large"]'), folder)
    poll_until(runner, lambda _: (runner.folder(1) / "work" / "ready").exists(), 1.0)
    assert runner.poll(3.0)[0].written_octets < 1 << 20
    (runner.folder(1) / "work" / "fill").write_bytes(bytes(1_500_000))
    report = finished(runner, 5.0)
    assert report.detail == "its folder holds 1.4 MB beside its inputs, needs.disk_mb is 1 MB"


def test_a_command_that_is_not_there_fails_and_says_so(runner: ProcessRunner, tmp_path: Path) -> None:
    runner.start(1, manifest(command='["no-such-program"]'), bundle(tmp_path, ""))
    assert finished(runner).detail == "exit code 127"
    assert "no-such-program: No such file" in (runner.folder(1) / "log").read_text()


def test_a_flood_of_output_is_cut_and_blocks_nothing(runner: ProcessRunner, tmp_path: Path) -> None:
    runner.start(1, manifest(), bundle(tmp_path, "while True: os.write(2, b'x' * 65536)"))
    log = runner.folder(1) / "log"
    poll_until(runner, lambda _: log.stat().st_size == LOG_OCTETS_MAX)
    for _ in range(50):
        runner.poll(0.0)
    assert log.stat().st_size == LOG_OCTETS_MAX


def test_progress_that_cannot_be_is_not_believed(runner: ProcessRunner, tmp_path: Path) -> None:
    source = (
        "f = os.open('progress', os.O_WRONLY)\n"
        "for text in (b'7', b'11', b'-3', b'nan', b'\\xb2', b'9' * 32, b'4.5', b''):\n"
        "    os.truncate(f, 0); os.pwrite(f, text, 0); open('work/step', 'w').write(repr(text))\n"
        "    while os.path.exists('work/step'): time.sleep(0.001)\n"
        "open('out/result', 'w')\n"
    )
    runner.start(1, manifest(), bundle(tmp_path, source))
    step = runner.folder(1) / "work" / "step"
    for _ in range(8):
        poll_until(runner, lambda _: step.exists() and step.stat().st_size > 0)
        assert runner.poll(0.0)[0].units_done == 7
        step.unlink()
    assert finished(runner).units_done == 7


def test_a_job_started_again_finds_its_work_and_fresh_inputs(runner: ProcessRunner, tmp_path: Path) -> None:
    source = (
        "steps = open('work/steps', 'a+'); steps.write('x'); steps.flush(); steps.seek(0)\n"
        "n = len(steps.read())\n"
        "os.chmod('in/job.py', 0o644); open('in/job.py', 'a').write('#')\n"
        "os.unlink('progress'); os.symlink(os.path.abspath('work/steps'), 'progress')\n"
        "open('out/result', 'w').write(str(n)); sys.exit(n < 3)\n"
    )
    folder = bundle(tmp_path, source)
    for attempt in (1, 2, 3):
        runner.start(1, manifest(), folder)
        report = finished(runner)
        runner.release(1)
        assert (report.state is ProcessState.FINISHED) == (attempt == 3)
    assert (runner.folder(1) / "work" / "steps").read_text() == "xxx", "a link left by the job was followed"


def test_misuse_is_an_error_that_names_the_job(runner: ProcessRunner, tmp_path: Path) -> None:
    folder = bundle(tmp_path, "time.sleep(600)")
    with pytest.raises(JobError, match=r"job 1 \(probe\): cannot start: .*none.dat"):
        runner.start(1, manifest(inputs='["none.dat"]'), folder)
    runner.start(1, manifest(), folder)
    with pytest.raises(JobError, match="job 1: has been started and not released"):
        runner.start(1, manifest(), folder)
    with pytest.raises(JobError, match="job 1: cannot be released while running"):
        runner.release(1)
    with pytest.raises(JobError, match="job 1: cannot be discarded before it is released"):
        runner.discard(1)
    with pytest.raises(JobError, match="job 2: was not started"):
        runner.pause(2)
    missing = ProcessRunner(tmp_path / "run2", tmp_path / "no-python")
    before = open_files()
    with pytest.raises(JobError, match="cannot start"):
        missing.start(1, manifest(), folder)
    assert open_files() == before


def test_closing_kills_what_runs(tmp_path: Path) -> None:
    runner = ProcessRunner(tmp_path / "run", PYTHON)
    pids = [runner.start(n, manifest(), bundle(tmp_path, "time.sleep(600)")) for n in range(3)]
    runner.close()
    assert all(gone(pid) for pid in pids)




def test_a_job_dies_with_a_killed_supervisor(tmp_path: Path) -> None:
    folder = bundle(tmp_path, "open('work/ready', 'w')\ntime.sleep(600)\n")
    source = (
        "import sys, time; from pathlib import Path\n"
        "from flightsw.jobs.manifest import load_manifest\n"
        "from flightsw.jobs.runner import ProcessRunner\n"
        "runner = ProcessRunner(Path(sys.argv[2]), Path(sys.executable))\n"
        "pid = runner.start(1, load_manifest(Path(sys.argv[1], 'job.toml')), Path(sys.argv[1]))\n"
        "while not (runner.folder(1) / 'work' / 'ready').exists(): time.sleep(0.005)\n"
        "print(pid, flush=True); time.sleep(600)\n"
    )
    supervisor = subprocess.Popen(
        [sys.executable, "-c", source, str(folder), str(tmp_path / "run")], stdout=subprocess.PIPE
    )
    assert supervisor.stdout is not None
    pid = int(supervisor.stdout.readline())
    supervisor.stdout.close()
    assert not gone(pid)
    supervisor.kill()
    supervisor.wait()
    while not gone(pid):
        time.sleep(0.005)


def test_a_launcher_that_was_stopped_as_its_supervisor_died_is_ended_by_the_next(tmp_path: Path) -> None:
    folder = bundle(tmp_path, "open('out/result', 'w')")
    source = (
        "import os, signal, sys, time; from pathlib import Path\n"
        "from flightsw.jobs.manifest import load_manifest\n"
        "from flightsw.jobs.runner import ProcessRunner\n"
        "runner = ProcessRunner(Path(sys.argv[2]), Path(sys.executable))\n"
        "pid = runner.start(1, load_manifest(Path(sys.argv[1], 'job.toml')), Path(sys.argv[1]))\n"
        "os.kill(pid, signal.SIGSTOP); print(pid, flush=True); time.sleep(600)\n"
    )
    supervisor = subprocess.Popen(
        [sys.executable, "-c", source, str(folder), str(tmp_path / "run")], stdout=subprocess.PIPE
    )
    assert supervisor.stdout is not None
    pid = int(supervisor.stdout.readline())
    supervisor.stdout.close()
    supervisor.kill()
    supervisor.wait()
    while process_state(pid) == "R":  # the signal is on its way to another processor
        time.sleep(0.005)
    assert process_state(pid) == "T"
    ProcessRunner(tmp_path / "other", PYTHON).close()
    assert process_state(pid) == "T", "another satellite's launcher was ended"
    ProcessRunner(tmp_path / "run", PYTHON).close()
    while not gone(pid):
        time.sleep(0.005)


def test_what_is_and_is_not_enforced_is_said() -> None:
    assert any("memory" in line for line in limits_enforced())
    assert any("network" in line for line in limits_not_enforced())
    assert not set(limits_enforced()) & set(limits_not_enforced())


def test_a_profile_is_measured_by_running_the_job(tmp_path: Path) -> None:
    source = PROGRESS + (
        "began = time.process_time()\n"
        "while time.process_time() < began + 0.3: pass\n"
        "report(10); open('out/result', 'w')\n"
    )
    folder = bundle(tmp_path, source)
    profile, sha256 = profile_job(folder / "job.toml", tmp_path / "run", PYTHON, MonotonicClock(), "here")
    assert 10 / 3.0 < profile.units_per_core_s <= 10 / 0.3
    assert 2.0 < profile.peak_memory_mb < 64.0
    assert 0.0 < profile.activity_frac <= 1.1
    assert sha256 == hashlib.sha256(b"result\x000\x00").hexdigest()
    (folder / "job.py").write_text("raise SystemExit('no camera')")
    with pytest.raises(JobError, match="job probe: exit code 1: no camera"):
        profile_job(folder / "job.toml", tmp_path / "run", PYTHON, MonotonicClock(), "here")

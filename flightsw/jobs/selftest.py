"""Does the sandbox hold? Run the hostile set in it, look from outside, and say which limits stood.

Called once at the start of the flight program and by `flightsw check`, with the runner's folder and the sandbox that
real jobs will get. Nothing is believed because it is configured: a limit holds when its attack failed here and now.
Never judges a job: `SelfTest.problem` says why none may run that is not trusted; whose jobs are trusted is in
the customers' file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from flightsw.clock import Clock
from flightsw.errors import JobError
from flightsw.jobs import hostile
from flightsw.jobs.manifest import Manifest, parse_manifest
from flightsw.jobs.runner import LOG_OCTETS_MAX, ProcessReport, ProcessRunner, ProcessState
from flightsw.jobs.sandbox import Sandbox, limits_not_enforced

WITHIN_S: Final = 30.0
"""Longest time that the whole self-test takes; what has not ended by then has not held."""

_POLL_S: Final = 0.05
_MEMORY_MB, _DISK_MB = 48, 4
_SETTLE_S: Final = 0.3
_MANIFEST: Final = f"""
[job]
id = "self-test"
name = "Self-test of the sandbox"
customer = "flightsw"
command = ["attack"]
inputs = []
outputs = ["verdict"]
value = 0.0
deadline_s = 60.0
[work]
units = 1
unit = "attack"
[needs]
memory_mb = {_MEMORY_MB}
disk_mb = {_DISK_MB}
[pause]
contract = "stop_continue"
[power]
activity_frac = 1.0
"""


class Finding(NamedTuple):
    """One attack: what it threatens, whether that held, and how it went."""

    attack: str
    threatens: str
    held: bool
    detail: str


THREATENS: Final[Mapping[str, str]] = {
    "fork_bomb": "number of processes",
    "memory_hog": "memory of a process",
    "memory_herd": "memory of a job",
    "shared_memory": "shared memory of a job",
    "hidden_memory": "memory that no process shows",
    "disk_filler": "disk of a job",
    "hidden_disk": "files without a name",
    "network": "network",
    "write_outside": "files outside its folder",
    "read_other": "files of other jobs",
    "trace_other": "other processes",
    "become_root": "privileges",
    "mount": "mounts",
    "user_namespace": "user namespaces",
    "leave_session": "throttling by process group",
    "priority": "processor priority",
    "ignore_signals": "pausing and ending",
    "endless_output": "log",
}


class SelfTest(NamedTuple):
    """What the self-test found. `absent` are the layers that this machine lacks, each with its reason."""

    findings: tuple[Finding, ...]
    absent: tuple[str, ...]
    took_s: float

    @property
    def broken(self) -> tuple[Finding, ...]:
        """Attacks that got through."""
        return tuple([finding for finding in self.findings if not finding.held])

    @property
    def problem(self) -> str:
        """Say why no job may run here that is not trusted; "" when every attack failed."""
        if not self.broken:
            return ""
        return "the sandbox does not hold " + "; ".join(
            f"{finding.threatens} ({finding.detail})" for finding in self.broken)

    def lines(self) -> list[str]:
        """Report for `flightsw check`, one line a finding."""
        held = len(self.findings) - len(self.broken)
        return [
            f"sandbox: {held} of {len(self.findings)} attacks held, in {self.took_s:.1f} s",
            *(f"  {'held ' if finding.held else 'BROKE'} {finding.threatens}: {finding.detail}"
              for finding in self.findings),
            *(f"  absent: {reason}" for reason in self.absent),
        ]


def run_self_test(sandbox: Sandbox, run_folder: Path, interpreter: Path, clock: Clock) -> SelfTest:
    """Run every attack in `sandbox`, with folders in `run_folder`; takes some seconds, at most `WITHIN_S`."""
    began_s = clock.now_s()
    runner = ProcessRunner(run_folder, interpreter, sandbox)
    test = _Test(runner, run_folder, clock, began_s + WITHIN_S)
    try:
        findings = test.run()
    finally:
        runner.close()
        for number in range(len(hostile.ATTACKS)):
            runner.discard(number)
    return SelfTest(tuple(findings), (*sandbox.absent, *limits_not_enforced(sandbox)), clock.now_s() - began_s)


class _Test:
    """One run of the hostile set."""

    def __init__(self, runner: ProcessRunner, run_folder: Path, clock: Clock, give_up_s: float) -> None:
        self._runner = runner
        self._run_folder = run_folder
        self._clock = clock
        self._give_up_s = give_up_s
        self._numbers = {name: number for number, name in enumerate(hostile.ATTACKS)}

    def run(self) -> list[Finding]:
        # Alone, because on old kernels its processes count as everybody's of the same user.
        findings = [self._judge(name, report) for name, report in self._fight({"fork_bomb": ()}).items()]
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            neighbour = self._start("quiet", ())
            self._wait_ready("quiet")
            secret = self._runner.folder(self._numbers["quiet"]) / "work" / "secret"
            marks = [folder / f"hostile-{os.getpid()}" for folder in
                     (self._run_folder, Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/etc"))]
            reports = self._fight({
                "memory_hog": (str(_MEMORY_MB),),
                "memory_herd": (str(_MEMORY_MB),),
                "shared_memory": (str(_MEMORY_MB),),
                "hidden_memory": (str(_MEMORY_MB),),
                "disk_filler": (str(_DISK_MB),),
                "hidden_disk": (str(_DISK_MB),),
                "network": (str(listener.getsockname()[1]),),
                "write_outside": tuple(map(str, marks)),
                "read_other": (str(secret),),
                "trace_other": (str(neighbour), str(os.getpid())),
                "become_root": (),
                "mount": (),
                "user_namespace": (),
                "leave_session": (),
                "priority": (),
            })
            wrote = [str(mark) for mark in marks if mark.exists()]
            for mark in marks:
                mark.unlink(missing_ok=True)
        findings += [self._judge(name, report) for name, report in reports.items()]
        if wrote:
            findings = [finding._replace(held=False, detail=f"wrote {', '.join(wrote)}")
                        if finding.attack == "write_outside" else finding for finding in findings]
        return findings + self._outlast("ignore_signals", "endless_output")

    def _start(self, name: str, arguments: tuple[str, ...]) -> int:
        command = ("python3", "-I", "-S", hostile.__file__, name, *arguments)
        manifest: Manifest = dataclasses.replace(parse_manifest(_MANIFEST.encode(), "self-test"), command=command)
        return self._runner.start(self._numbers[name], manifest, self._run_folder, again=True)

    def _fight(self, attacks: Mapping[str, tuple[str, ...]]) -> dict[str, ProcessReport | None]:
        """Start these at once and wait for all of them; None for one that could not start or did not end."""
        reports: dict[str, ProcessReport | None] = dict.fromkeys(attacks)
        for name, arguments in attacks.items():
            with contextlib.suppress(JobError):
                self._start(name, arguments)
        waiting = {self._numbers[name]: name for name in attacks}
        while waiting and self._clock.now_s() < self._give_up_s:
            for report in self._poll():
                if report.state.is_final and report.job_id in waiting:
                    reports[waiting.pop(report.job_id)] = report
        return reports

    def _judge(self, name: str, report: ProcessReport | None) -> Finding:
        if report is None:
            return Finding(name, THREATENS[name], held=False, detail="did not end in time")
        verdict = ""
        with contextlib.suppress(OSError):
            verdict = (self._runner.folder(report.job_id) / "out" / "verdict").read_text()
        if report.state is ProcessState.FINISHED:
            return Finding(name, THREATENS[name], verdict.startswith("HELD"), verdict)
        # Ended by its limits before it could say so; an attack that merely could not run proves nothing.
        ended = report.exit_code is not None and report.exit_code < 0
        return Finding(name, THREATENS[name], ended and not verdict.startswith("BROKE"), report.detail)

    def _outlast(self, *names: str) -> list[Finding]:
        """Pause and end jobs that do not listen; look at what they do meanwhile, and at their logs."""
        problems: dict[str, list[str]] = {name: [] for name in names}
        for name in names:
            with contextlib.suppress(JobError):
                self._start(name, ())
        ready = [name for name in names if self._wait_ready(name)]
        for name in ready:
            self._runner.pause(self._numbers[name])
        self._pass(_SETTLE_S)
        before = self._reports()
        self._pass(_SETTLE_S)
        after = self._reports()
        for name in ready:
            number = self._numbers[name]
            if after[number].cpu_s > before[number].cpu_s:
                problems[name].append("goes on while it is paused")
            self._runner.resume(number)
            self._runner.terminate(number, self._clock.now_s(), _SETTLE_S)
        while self._clock.now_s() < self._give_up_s and not all(
            self._reports()[self._numbers[name]].state.is_final for name in ready
        ):
            pass
        for name in names:
            number = self._numbers[name]
            if name not in ready:
                problems[name].append("did not start")
            elif not self._reports()[number].state.is_final:
                problems[name].append("does not end")
            elif (self._runner.folder(number) / "log").stat().st_size > LOG_OCTETS_MAX:
                problems[name].append("log is too long")
        return [Finding(name, THREATENS[name], not found, "; ".join(found) or "HELD: paused, ended, log bounded")
                for name, found in problems.items()]

    def _wait_ready(self, name: str) -> bool:
        ready = self._runner.folder(self._numbers[name]) / "work" / "ready"
        while not ready.exists() and self._clock.now_s() < self._give_up_s:
            self._poll()
        return ready.exists()

    def _reports(self) -> dict[int, ProcessReport]:
        return {report.job_id: report for report in self._poll()}

    def _pass(self, duration_s: float) -> None:
        until_s = self._clock.now_s() + duration_s
        while self._clock.now_s() < until_s:
            self._poll()

    def _poll(self) -> tuple[ProcessReport, ...]:
        now_s = self._clock.now_s()
        self._clock.wait_until(now_s + _POLL_S)
        return self._runner.poll(now_s + _POLL_S)

"""SIGKILL at random moments to supervisor, job or guardian: every acknowledged job gives exactly one result.

A small supervisor runs real jobs with ledger, runner and guardian by the rules of the real one: record, then
acknowledge; record, then act; what ran before a restart keeps its promise and starts again. It is forked, so that a
restart costs milliseconds. `python -m tests.flightsw.job_kills 1000` is the long form (`make job-kills`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from flightsw.errors import BoardError, StoreError
from flightsw.guardian import GuardianConfig, GuardianHealth, ProcessGuardian
from flightsw.jobs.ledger import Ledger
from flightsw.jobs.manifest import Manifest, parse_manifest
from flightsw.jobs.runner import ProcessReport, ProcessRunner, ProcessState
from flightsw.jobs.sandbox import BARE, Sandbox, probe
from flightsw.state import JobSpec, JobState, JobTransition, NodeCap
from flightsw.store import Store, StoreLimits

LIMITS = StoreLimits(segment_octets=50_000, journal_octets=400_000)
NODES = 3
WAITING_MAX = 8
MANIFEST = """
[job]
id = "victim"
name = "Victim"
customer = "Test"
command = ["python3", "-I", "-S", "in/job.py", "{units}"]
inputs = ["job.py"]
outputs = ["result"]
value = 1.0
deadline_s = 600.0
[work]
units = 1
unit = "step"
[needs]
memory_mb = 64
disk_mb = 4
[pause]
contract = "checkpoint"
checkpoint_deadline_s = 2.0
[power]
activity_frac = 1.0
"""
JOB = """
import hashlib, json, os, signal, sys, time
asked = []
signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
at, value = 0, b"begin"
try:
    at, text = json.load(open("checkpoint.good/state")); value = bytes.fromhex(text)
except OSError:
    pass
while at < 25:
    value = hashlib.sha256(value + sys.argv[1].encode()).digest(); at += 1
    time.sleep(0.002)
    if asked:
        asked.clear()
        text = json.dumps([at, value.hex()])
        open("checkpoint/state", "w").write(text)
        mark = {"done_units": at, "files": {"state": hashlib.sha256(text.encode()).hexdigest()}}
        open("checkpoint/new", "w").write(json.dumps(mark))
        os.rename("checkpoint/new", "checkpoint/MARK")
open("out/result", "w").write(value.hex())
"""


def expected_sha256(number: int) -> str:
    """What job `number` must give, however often it was interrupted."""
    value = b"begin"
    for _ in range(25):
        value = hashlib.sha256(value + str(number).encode()).digest()
    text = value.hex()
    return hashlib.sha256(f"result\0{len(text)}\0{text}".encode()).hexdigest()


class Verdict(NamedTuple):
    """What a campaign found; `kills` by victim."""

    kills: dict[str, int]
    acknowledged: int
    results: int
    restarts: int
    saved: int
    problems: list[str]


def open_store(folder: Path) -> Store:
    """Open the ledger's store, as init would: again when a child caught between fork and exec still holds its lock."""
    while True:
        try:
            return Store(folder, limits=LIMITS)
        except StoreError as e:
            if not isinstance(e.__cause__, BlockingIOError):
                raise
            time.sleep(0.01)


def supervise(folder: Path, seed: int, out: int, sandbox: Sandbox, after: int, *, drain: bool, hasty: bool) -> None:
    """Run jobs until killed or, with `drain`, until none is open; say on `out` what was acknowledged.

    New jobs get numbers above `after`.
    """
    rng = random.Random(seed)
    manifest = parse_manifest(MANIFEST.encode(), "victim")
    ledger = Ledger(open_store(folder / "ledger"))
    runner = ProcessRunner(folder / "run", Path(sys.executable), sandbox)
    guardian = ProcessGuardian(GuardianConfig((1.0,) * NODES, (10.0,) * NODES, 5.0), folder / "guardian.sock", folder)
    guardian.start()

    def say(line: str) -> None:
        os.write(out, f"{line}\n".encode())

    def to(job_id: int, state: JobState, detail: str = "", spec: JobSpec | None = None) -> JobTransition:
        return JobTransition(job_id, state, detail, 0.0, spec)

    if ledger.anomalies:
        say(f"problem ledger: {ledger.anomalies}")
    ledger.record([to(entry.spec.job_id, JobState.PROMISED, "supervisor restarted") for entry in ledger.open_jobs
                   if entry.state in (JobState.RUNNING, JobState.PAUSED)], 0.0)
    groups: dict[int, int] = {}
    say("open")
    while not drain or ledger.open_jobs:
        now_s = time.monotonic()
        if not drain and rng.random() < 0.3:
            number = after = max(after, *ledger.entries, 0) + 1
            spec = JobSpec(number, "victim", 1.0, 1.0, 1.0, 0.0, 600.0, 0.0, manifest="victim")
            submission = [to(number, JobState.QUEUED, spec=spec), to(number, JobState.PROMISED)]
            if hasty:
                say(f"ack {number}")
                time.sleep(0.005)
            ledger.record(submission, 0.0)
            if not hasty:
                say(f"ack {number}")
            waiting = [entry.spec.job_id for entry in ledger.open_jobs if entry.state is JobState.PROMISED]
            if len(waiting) > WAITING_MAX:
                ledger.record([to(waiting[-1], JobState.CANCELLED)], 0.0)
        for report in runner.poll(now_s):
            take(ledger, runner, groups, report, say, to)
        for entry in ledger.open_jobs:
            job_id = entry.spec.job_id
            if entry.state is JobState.PROMISED and len(groups) < NODES:
                ledger.record([to(job_id, JobState.RUNNING)], 0.0)
                groups[job_id] = runner.start(job_id, numbered(manifest, job_id), folder)
            elif entry.state is JobState.RUNNING and job_id in groups and rng.random() < 0.02:
                runner.save(job_id, now_s, 2.0)
        running = [*groups.values()][:NODES]
        caps = [NodeCap(10.0, 1.0, group) for group in running] + [NodeCap(1.0, 0.0, 0)] * (NODES - len(running))
        if guardian.renew(now_s, 2.0, caps).health is not GuardianHealth.ALIVE:
            with contextlib.suppress(BoardError):
                guardian.start()
        say(f"pids {guardian.pid or 0} {' '.join(map(str, running))}")
        time.sleep(0.01)
    runner.close()
    guardian.stop()
    say("drained")


def take(ledger, runner, groups, report: ProcessReport, say, to) -> None:  # type: ignore[no-untyped-def]
    """Record one job's end before anything else happens with it."""
    job_id, state = report.job_id, report.state
    if report.exit_code is not None:
        groups.pop(job_id, None)  # its group is gone and must not be leased
    if not state.is_final:
        return
    if state is ProcessState.FINISHED:
        ledger.record([to(job_id, JobState.FINISHED, report.result_sha256)], 0.0)
        say(f"result {job_id} {report.result_sha256}")
    elif report.detail.startswith("killed by") or state in (ProcessState.SAVED, ProcessState.UNSAVED):
        say(f"again {job_id} {state.name}")
        ledger.record([to(job_id, JobState.PROMISED, report.detail)], 0.0)
    else:
        ledger.record([to(job_id, JobState.FAILED, report.detail)], 0.0)
        say(f"problem job {job_id}: {report.detail}")
    runner.release(job_id)
    if state is ProcessState.FINISHED:
        runner.discard(job_id)


def numbered(manifest: Manifest, job_id: int) -> Manifest:
    """Give each job work of its own, so that no result can be taken for another's."""
    return dataclasses.replace(manifest, work_units=job_id)


class _Supervisor:
    """A forked supervisor and what it says."""

    def __init__(self, folder: Path, seed: int, sandbox: Sandbox, after: int, *, drain: bool = False,
                 hasty: bool = False) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self._read)
                supervise(folder, seed, write, sandbox, after, drain=drain, hasty=hasty)
                code = 0
            finally:
                os._exit(code)
        os.close(write)
        self._file = os.fdopen(self._read, "rb")

    def lines(self) -> Iterator[str]:
        """Whole lines until it ends; the last one may have been cut off by its death."""
        for line in self._file:
            if line.endswith(b"\n"):
                yield line.decode().rstrip()

    def end(self) -> int:
        """Wait for its end."""
        self._file.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def campaign(folder: Path, kills: int, seed: int = 1, sandbox: Sandbox = BARE, *, hasty: bool = False) -> Verdict:
    """Kill `kills` times, let it drain, and compare what was acknowledged with what the ledger holds."""
    (folder / "job.py").write_text(JOB)
    rng = random.Random(seed)
    counts = {"supervisor": 0, "job": 0, "guardian": 0}
    acknowledged: set[int] = set()
    results: dict[int, list[str]] = {}
    ends: dict[int, tuple[JobState, str]] = {}
    problems: list[str] = []
    restarts = saved = 0

    def hear(line: str) -> None:
        nonlocal restarts, saved
        word, _, rest = line.partition(" ")
        if word == "ack":
            acknowledged.add(int(rest))
        elif word == "result":
            job_id, sha256 = rest.split()
            results.setdefault(int(job_id), []).append(sha256)
        elif word == "problem":
            problems.append(rest)
        elif word == "again":
            restarts += 1
            saved += rest.endswith(" SAVED")

    while sum(counts.values()) < kills:
        supervisor = _Supervisor(folder, rng.randrange(1 << 30), sandbox, max(acknowledged, default=0), hasty=hasty)
        victims = {"job": 0, "guardian": 0}
        act_at_s = time.monotonic() + rng.uniform(0.0, 0.12)
        for line in supervisor.lines():
            hear(line)
            if line.startswith("pids"):
                _, guardian, *groups = line.split()
                victims = {"guardian": int(guardian), "job": int(rng.choice(groups)) if groups else 0}
            if time.monotonic() < act_at_s:
                continue
            act_at_s = time.monotonic() + rng.uniform(0.0, 0.12)
            victim = rng.choices(("supervisor", "job", "guardian"), (5, 3, 2))[0]
            pid = supervisor.pid if victim == "supervisor" else victims[victim]
            if pid and sum(counts.values()) < kills:
                time.sleep(rng.uniform(0.0, 0.015))  # anywhere in the tick, not where it speaks
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    counts[victim] += 1
            if sum(counts.values()) >= kills:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(supervisor.pid, signal.SIGKILL)
        code = supervisor.end()
        if code != -signal.SIGKILL:
            problems.append(f"supervisor ended with {code}")
            break
        problems += _note_ends(folder, ends)
    supervisor = _Supervisor(folder, 0, sandbox, 0, drain=True)
    for line in supervisor.lines():
        hear(line)
    if supervisor.end() != 0:
        problems.append("the last supervisor did not drain")
    problems += _note_ends(folder, ends)
    for number in sorted(acknowledged):
        state, detail = ends.get(number, (None, ""))
        said = results.get(number, [])
        if state is None:
            problems.append(f"job {number}: acknowledged and lost")
        elif state is JobState.FINISHED and detail != expected_sha256(number):
            problems.append(f"job {number}: another result than without kills")
        elif state not in (JobState.FINISHED, JobState.CANCELLED):
            problems.append(f"job {number}: {state.name} {detail}")
        if len(said) > 1 or (said and said != [detail]):
            problems.append(f"job {number}: told {len(said)} results, the ledger has {state} {detail}")
    finished = sum(state is JobState.FINISHED for state, _ in ends.values())
    return Verdict(counts, len(acknowledged), finished, restarts, saved, problems)


def _note_ends(folder: Path, ends: dict[int, tuple[JobState, str]]) -> Iterator[str]:
    """Take in the final states of the ledger as it now is on disk; one that changed was a second result."""
    ledger = Ledger(open_store(folder / "ledger"))
    ledger.close()
    if ledger.anomalies:
        yield f"ledger: {ledger.anomalies}"
    for number, entry in ledger.entries.items():
        if entry.state.is_final and ends.setdefault(number, (entry.state, entry.detail)) != (entry.state, entry.detail):
            yield f"job {number}: ended as {ends[number]}, then as {entry.state} {entry.detail}"


def main() -> int:
    """Run the long form in a folder that it removes; 0 when nothing was lost or doubled."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "run").mkdir()
        sandbox = probe(folder / "run", Path(sys.executable))
        began_s = time.monotonic()
        verdict = campaign(folder, kills, sandbox=sandbox)
        sandbox.close()
        print(f"{kills} kills in {time.monotonic() - began_s:.0f} s: {verdict.kills}; {verdict.acknowledged} jobs "
              f"acknowledged, {verdict.results} finished, {verdict.restarts} started again, {verdict.saved} of them "
              "from a checkpoint")
        print("\n".join(verdict.problems) or "none lost, none doubled, every result as without kills")
    return bool(verdict.problems)


if __name__ == "__main__":
    raise SystemExit(main())

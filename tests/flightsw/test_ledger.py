"""The job ledger: legal lives, replay, duplicates, bounds, and fifty supervisors killed at work."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flightsw.errors import JobError, StoreError
from flightsw.jobs.ledger import CLOSED_MAX, LEGAL, OPEN_MAX, Ledger, LedgerEntry
from flightsw.state import JobSpec, JobState, JobTransition, Pause, Usage
from flightsw.store import Store, StoreLimits

QUEUED, PROMISED, RUNNING = JobState.QUEUED, JobState.PROMISED, JobState.RUNNING
PAUSED, FINISHED, REFUSED = JobState.PAUSED, JobState.FINISHED, JobState.REFUSED


def spec(job_id: int, name: str = "mask", arrival_s: float = 5.0) -> JobSpec:
    return JobSpec(job_id, name, 100.5, 0.9, 3.0, arrival_s, arrival_s + 600.0, arrival_s, Pause.CHECKPOINT, "m")


def to(job_id: int, state: JobState, new: JobSpec | None = None, done_units: float = 0.0) -> JobTransition:
    return JobTransition(job_id, state, f"to {state.name}", done_units, new)


def submit(job_id: int) -> JobTransition:
    return to(job_id, QUEUED, spec(job_id))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "jobs")
    yield opened
    opened.close()


def reopened(store: Store, tmp_path: Path) -> Ledger:
    store.close()
    again = Store(tmp_path / "jobs")
    replayed = Ledger(again)
    again.close()
    return replayed


def test_a_life_is_replayed_as_it_was_recorded(store: Store, tmp_path: Path) -> None:
    ledger = Ledger(store)
    ledger.record([submit(1), submit(2)], obt_s=10.0)
    ledger.record([to(1, PROMISED), to(2, REFUSED)], obt_s=11.0)
    ledger.record([to(1, RUNNING)], obt_s=12.0)
    ledger.record([to(1, PAUSED, done_units=40.25)], obt_s=13.0)
    ledger.record([to(1, RUNNING), to(1, PROMISED), to(1, RUNNING)], obt_s=14.0)
    assert ledger.entries[1] == LedgerEntry(spec(1), RUNNING, "to RUNNING", 0.0, 14.0, 2)
    assert [entry.spec.job_id for entry in ledger.open_jobs] == [1]
    assert ledger.open_jobs is ledger.open_jobs, "reading must not rebuild the view"
    replayed = reopened(store, tmp_path)
    assert dict(replayed.entries) == dict(ledger.entries)
    assert replayed.anomalies == ()


@pytest.mark.parametrize(("before", "after"), list(itertools.product(JobState, JobState)))
def test_only_legal_transitions_are_recorded(store: Store, tmp_path: Path, before: JobState, after: JobState) -> None:
    ways = {QUEUED: [], PROMISED: [PROMISED], REFUSED: [REFUSED], RUNNING: [PROMISED, RUNNING]}
    ways[PAUSED] = [*ways[RUNNING], PAUSED]
    way = ways.get(before, [*ways[RUNNING], before])
    ledger = Ledger(store)
    ledger.record([submit(1), *(to(1, state) for state in way)], obt_s=0.0)
    sequence = store.sequence
    if after in LEGAL.get(before, ()):
        ledger.record([to(1, after)], obt_s=1.0)
        assert ledger.entries[1].state is after
    else:
        with pytest.raises(JobError, match=f"{before.name} -> {after.name} is illegal"):
            ledger.record([to(1, after)], obt_s=1.0)
        assert (ledger.entries[1].state, store.sequence) == (before, sequence)


def test_no_final_state_leads_anywhere_and_every_open_one_can_end() -> None:
    assert not any(state.is_final for state in LEGAL)
    assert set(LEGAL) == {state for state in JobState if not state.is_final}
    assert all(any(after.is_final for after in LEGAL[state]) for state in LEGAL)


def test_a_repeated_submission_runs_once(store: Store) -> None:
    ledger = Ledger(store)
    ledger.record([submit(1), submit(1)], obt_s=0.0)
    ledger.record([to(1, PROMISED), to(1, RUNNING), to(1, FINISHED)], obt_s=1.0)
    sequence = store.sequence
    ledger.record([to(1, QUEUED, spec(1, arrival_s=99.0))], obt_s=100.0)
    assert store.sequence == sequence == 4
    assert (ledger.entries[1].state, ledger.entries[1].starts) == (FINISHED, 1)
    with pytest.raises(JobError, match="belongs to another job, 'mask'"):
        ledger.record([to(1, QUEUED, spec(1, name="other"))], obt_s=101.0)


def test_an_illegal_transition_spoils_its_whole_call(store: Store) -> None:
    ledger = Ledger(store)
    with pytest.raises(JobError, match="never submitted"):
        ledger.record([submit(1), to(2, PROMISED)], obt_s=0.0)
    assert (dict(ledger.entries), store.sequence) == ({}, 0)
    with pytest.raises(JobError, match="declared as job 3"):
        ledger.record([to(2, QUEUED, spec(3))], obt_s=0.0)
    with pytest.raises(JobError, match="RUNNING is no first state"):
        ledger.record([to(2, RUNNING, spec(2))], obt_s=0.0)


def test_open_jobs_are_bounded_and_old_ended_ones_forgotten(tmp_path: Path) -> None:
    limits = StoreLimits(segment_octets=200_000, journal_octets=1_200_000)
    store = Store(tmp_path / "jobs", limits=limits)
    ledger = Ledger(store)
    for job_id in range(0, CLOSED_MAX + 21, 3):  # each three end in another order than they came in
        ledger.record([submit(job_id), submit(job_id + 1), submit(job_id + 2)], obt_s=float(job_id))
        for ending in (job_id + 1, job_id + 2, job_id):
            ledger.record([to(ending, REFUSED)], obt_s=float(job_id))
    forgotten = set(range(CLOSED_MAX + 22)) - set(ledger.entries)
    assert forgotten == {*range(21), 22}
    ledger.record([submit(10_000 + n) for n in range(50)], obt_s=0.0)
    for n in range(50, OPEN_MAX, 34):  # of names as long as a telecommand can say, and longer in JSON
        ledger.record([to(job_id, QUEUED, dataclasses.replace(spec(job_id), name='"' * 48, manifest='"' * 48))
                       for job_id in range(10_000 + n, 10_034 + n)], obt_s=0.0)
    with pytest.raises(JobError, match="4097 open jobs above the limit of 4096"):
        ledger.record([submit(9)], obt_s=0.0)
    store.close()
    assert store.octets_used < limits.journal_octets
    again = Store(tmp_path / "jobs", limits=limits)
    assert again.recovery.snapshot is not None
    replayed = Ledger(again)
    assert list(replayed.entries.items()) == list(ledger.entries.items())
    assert replayed.open_jobs == ledger.open_jobs
    again.close()


def test_rot_in_the_journal_is_an_anomaly_and_the_later_state_stands(store: Store, tmp_path: Path) -> None:
    ledger = Ledger(store)
    for change in (submit(1), submit(2), to(1, PROMISED), to(1, RUNNING), to(2, PROMISED)):
        ledger.record([change], obt_s=0.0)
    store.close()
    (segment,) = (tmp_path / "jobs").glob("journal-*")
    octets = bytearray(segment.read_bytes())
    for victim in (b'"job_id":2,"state":"QUEUED"', b'"job_id":1,"state":"PROMISED"'):
        octets[octets.find(victim)] ^= 1
    segment.write_bytes(octets)
    again = Store(tmp_path / "jobs")
    replayed = Ledger(again)
    again.close()
    assert replayed.entries[1].state is RUNNING
    assert 2 not in replayed.entries
    assert replayed.anomalies == (
        "record 4: job 1: QUEUED -> RUNNING is illegal",
        "record 5: job 2: PROMISED but never submitted",
    )


def test_a_store_with_other_content_is_refused(store: Store, tmp_path: Path) -> None:
    store.append(1, b"not a transition")
    store.close()
    again = Store(tmp_path / "jobs")
    with pytest.raises(StoreError, match="not readable"):
        Ledger(again)
    again.close()


def test_nothing_is_shown_that_was_not_made_durable(store: Store) -> None:
    ledger = Ledger(store)
    ledger.record([submit(1)], obt_s=0.0)
    store.close()
    with pytest.raises(StoreError, match="refuses writes"):
        ledger.record([to(1, PROMISED)], obt_s=1.0)
    assert ledger.entries[1].state is QUEUED


def test_what_a_job_has_used_so_far_can_be_noted_between_its_transitions(store: Store, tmp_path: Path) -> None:
    ledger = Ledger(store)
    ledger.record([submit(1), to(1, PROMISED), to(1, RUNNING), submit(2)], obt_s=10.0)
    (before,) = [entry.usage for entry in ledger.open_jobs if entry.spec.job_id == 1]
    noted = {1: Usage("Ada", 5.0, 2.0, 100, 200), 3: Usage("Ada", 1.0, 1.0, 1, 1)}
    ledger.note(noted)
    sequence = store.append(9, b"")
    ledger.note(noted)  # nothing new, nothing written
    assert store.append(9, b"") == sequence + 1
    assert before is None
    assert [entry.usage for entry in ledger.open_jobs] == [noted[1], None]


def test_noted_usage_is_replayed_and_no_settled_account_is_changed(store: Store, tmp_path: Path) -> None:
    ledger = Ledger(store)
    ledger.record([submit(1), to(1, PROMISED), to(1, RUNNING), submit(2), to(2, PROMISED), to(2, RUNNING)], obt_s=10.0)
    ledger.note({1: Usage("Ada", 5.0, 2.0, 100, 200), 2: Usage("Bo", 6.0, 2.0, 100, 200)})
    ledger.record([to(2, FINISHED)], 11.0, {2: Usage("Bo", 7.0, 3.0, 100, 200)})
    ledger.note({2: Usage("Bo", 9.0, 3.0, 100, 200)})
    again = reopened(store, tmp_path)
    assert again.entries == ledger.entries
    assert [again.entries[i].usage.energy_j for i in (1, 2)] == [5.0, 7.0]


def test_what_a_job_used_is_durable_with_its_end(store: Store, tmp_path: Path) -> None:
    ledger = Ledger(store)
    used = Usage("Ada", 120.5, 60.25, 1 << 20, 4096)
    ledger.record([submit(1), submit(2), to(1, PROMISED), to(1, RUNNING)], obt_s=0.0)
    assert ledger.entries[1].usage is None
    ledger.record([to(1, PAUSED)], 1.0, {1: used._replace(energy_j=60.0), 2: used})
    ledger.record([to(1, RUNNING)], 2.0)
    assert ledger.entries[1].usage == used._replace(energy_j=60.0), "totals stay until newer ones come"
    assert ledger.entries[2].usage is None, "totals go only with a transition"
    ledger.record([to(1, FINISHED)], 3.0, {1: used})
    store.close()
    again = Store(tmp_path / "jobs")
    replayed = Ledger(again)
    assert dict(replayed.entries) == dict(ledger.entries)
    assert replayed.entries[1].usage == used
    again.snapshot(json.dumps({"entries": [
        {**entry._asdict(), "state": entry.state.name, "spec": dataclasses.asdict(entry.spec)}
        for entry in replayed.entries.values()]}).encode())
    again.close()
    third = Store(tmp_path / "jobs")
    assert Ledger(third).entries[1].usage == used
    third.close()


WORKER = """
import os, random, sys
from pathlib import Path
from flightsw.jobs.ledger import LEGAL, Ledger
from flightsw.state import JobSpec, JobState, JobTransition
from flightsw.store import Store, StoreLimits

store = Store(Path(sys.argv[1]), limits=StoreLimits(segment_octets=20_000, journal_octets=120_000))
ledger = Ledger(store)
rng = random.Random(int(sys.argv[2]))
number = max(ledger.entries, default=0)
os.write(1, b"open\\n")
while True:
    live = ledger.open_jobs
    if len(live) < 20 or rng.random() < 0.2:
        number += 1
        spec = JobSpec(number, "mask", 1.0, 0.9, 1.0, 0.0, 600.0, 0.0)
        change = JobTransition(number, JobState.QUEUED, "", 0.0, spec)
    else:
        job = rng.choice(live)
        change = JobTransition(job.spec.job_id, rng.choice(sorted(LEGAL[job.state])), "", 0.0, None)
    ledger.record([change], obt_s=0.0)
    os.write(1, f"{change.job_id} {change.state.name}\\n".encode())
"""


def test_fifty_kills_lose_nothing_acknowledged(tmp_path: Path) -> None:
    assert acknowledged_over_kills(tmp_path, WORKER, 50) > 500


def test_the_kill_test_catches_an_acknowledgement_before_the_record(tmp_path: Path) -> None:
    record, acknowledge = WORKER.splitlines()[-2:]
    pause = "    __import__('time').sleep(0.002)"
    hasty = WORKER.replace(f"{record}\n{acknowledge}", f"{acknowledge}\n{pause}\n{record}")
    assert hasty != WORKER
    with pytest.raises(AssertionError):
        acknowledged_over_kills(tmp_path, hasty, 50)


def acknowledged_over_kills(tmp_path: Path, source: str, kills: int) -> int:
    """Kill a working ledger `kills` times; check after each that all it acknowledged is there."""
    rng = random.Random(11)
    history: dict[int, list[str]] = {}
    acknowledged = 0
    for kill in range(kills):
        worker = subprocess.Popen(
            [sys.executable, "-c", source, str(tmp_path / "jobs"), str(kill)],
            stdout=subprocess.PIPE,
        )
        assert worker.stdout is not None
        lines: list[str] = []
        wanted = rng.randint(1, 120)
        for line in worker.stdout:
            lines.append(line.decode())
            if len(lines) == wanted:
                # Somewhere in the work on the next one, or the one after.
                worker.send_signal(signal.SIGKILL)
        lines = [line for line in lines if line.endswith("\n")]
        assert worker.wait() == -signal.SIGKILL
        worker.stdout.close()
        for line in lines[1:]:
            job_id, state = line.split()
            history.setdefault(int(job_id), []).append(state)
            acknowledged += 1
        store = Store(tmp_path / "jobs", limits=StoreLimits(segment_octets=20_000, journal_octets=120_000))
        ledger = Ledger(store)
        store.close()
        assert ledger.anomalies == ()
        assert store.recovery.damages == ()
        extra = 0
        for job_id, entry in ledger.entries.items():
            states = history.setdefault(job_id, [])
            if not states or entry.state.name != states[-1]:
                # The one that was under way when the signal came: durable, and not yet acknowledged.
                extra += 1
                states.append(entry.state.name)
            assert entry.starts == starts(states)
        assert extra <= 1
        forgotten = set(history) - set(ledger.entries)
        assert all(JobState[history[job_id][-1]].is_final for job_id in forgotten)
        assert not forgotten or len(ledger.entries) >= CLOSED_MAX
    return acknowledged


def starts(states: list[str]) -> int:
    return sum(after == "RUNNING" and before != "PAUSED" for before, after in itertools.pairwise(["", *states]))

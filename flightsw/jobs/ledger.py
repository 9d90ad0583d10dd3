"""Every job's life as durable transitions: the journal is the truth, the view in memory is its replay.

Owns which job is in which state. Called by the supervisor, which records the transitions of a tick before
it acknowledges any of them. Never starts or stops a process, never decides, never reads a clock.

A job submitted twice under one id runs once. After a crash at any point each acknowledged transition is
there, and of the ones under way a prefix. A job that was running then reads as running: whoever starts
processes restarts it (RUNNING -> PROMISED -> RUNNING, counted in `starts`).

What a job has used (`Usage`, totals since its submission) goes with any of its transitions, and is noted now and then
between them; the last one stands. A job is settled by the totals of its final transition: they are durable with its
end or not at all.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from flightsw.errors import JobError, StoreError
from flightsw.state import JobSpec, JobState, JobTransition, Pause, Usage
from flightsw.store import Store

OPEN_MAX: Final = 4096
"""Of long names too, a snapshot of this many stays below the store's limit."""

CLOSED_MAX: Final = 512
"""How many ended jobs are remembered, and so recognised when they are submitted again."""

_TRANSITION, _USAGE = 1, 2
_ENDINGS: Final = frozenset({JobState.CANCELLED, JobState.EXPIRED, JobState.WITHDRAWN})

LEGAL: Final[Mapping[JobState, frozenset[JobState]]] = MappingProxyType(
    {
        JobState.QUEUED: _ENDINGS | {JobState.PROMISED, JobState.REFUSED},
        JobState.PROMISED: _ENDINGS | {JobState.RUNNING, JobState.FAILED},
        # Back to PROMISED: its process was lost with the supervisor or the node. FINISHED from PAUSED: it
        # ended between the decision to pause it and the signal.
        JobState.RUNNING: _ENDINGS | {JobState.PAUSED, JobState.PROMISED, JobState.FINISHED, JobState.FAILED},
        JobState.PAUSED: _ENDINGS | {JobState.RUNNING, JobState.PROMISED, JobState.FINISHED, JobState.FAILED},
    }
)
"""Where a job may go from each state; a final state leads nowhere."""

_SPEC_FIELDS: Final = tuple(field.name for field in dataclasses.fields(JobSpec))
_FIRST: Final = frozenset({JobState.QUEUED, JobState.PROMISED, JobState.REFUSED})


class LedgerEntry(NamedTuple):
    """Where a job is: since when (`changed_obt_s`), with how much work done, started how many times, for what.

    `usage` is None while nothing was metered.
    """

    spec: JobSpec
    state: JobState
    detail: str
    done_units: float
    changed_obt_s: float
    starts: int
    usage: Usage | None = None


class Ledger:
    """The jobs of one satellite. Reading costs a dictionary look-up; recording costs one sync."""

    def __init__(self, store: Store) -> None:
        """Replay what `store` recovered. StoreError when its content is intact but not a ledger's.

        `anomalies` lists transitions that do not follow from what is left, which rot in the journal
        explains: the later state is taken, because its record is intact.
        """
        self._store = store
        self._entries: dict[int, LedgerEntry] = {}
        self._closed: dict[int, None] = {}  # ids of ended jobs, oldest first
        self._open: tuple[LedgerEntry, ...] | None = None
        anomalies: list[str] = []
        try:
            if store.recovery.snapshot is not None:
                for fields in json.loads(store.recovery.snapshot)["entries"]:
                    self._take(_entry_from(fields))
            for record in store.recovery.records:
                if record.kind == _USAGE:
                    self._take_usage(*json.loads(record.payload))
                    continue
                change, obt_s, usage = _transition_from(json.loads(record.payload))
                before = self._entries.get(change.job_id)
                problem = _problem(change, before)
                if problem:
                    anomalies.append(f"record {record.sequence}: {problem}")
                if before is not None or change.spec is not None:
                    self._take(_after(change, before, obt_s, usage))
        except (ValueError, KeyError, TypeError) as e:
            raise StoreError(f"job ledger: stored content is not readable: {e!r}") from e
        self.anomalies = tuple(anomalies)

    @property
    def entries(self) -> Mapping[int, LedgerEntry]:
        """Every known job by id, ended ones included."""
        return MappingProxyType(self._entries)

    @property
    def open_jobs(self) -> tuple[LedgerEntry, ...]:
        """The jobs that have not ended, in the order they were submitted; built once per change."""
        if self._open is None:
            self._open = tuple(e for e in self._entries.values() if not e.state.is_final)
        return self._open

    def record(
        self, transitions: Sequence[JobTransition], obt_s: float, usages: Mapping[int, Usage] = MappingProxyType({})
    ) -> None:
        """Make `transitions` durable, in order and under one sync, then show them in the view.

        `usages` are totals by job id; those of the jobs in `transitions` go with them. A repeated submission (a known
        id, the same declaration, other times) is passed over. JobError, with nothing recorded, for an illegal
        transition, an id reused for another job, or more than `OPEN_MAX` open jobs. StoreError when the storage
        fails: nothing may be acknowledged.
        """
        pending: dict[int, LedgerEntry] = {}
        steps: list[LedgerEntry] = []
        payloads: list[tuple[int, bytes]] = []
        for change in transitions:
            before = pending.get(change.job_id) or self._entries.get(change.job_id)
            if before is not None and change.spec is not None and change.state in _FIRST:
                if _declaration(change.spec) != _declaration(before.spec):
                    raise JobError(f"job {change.job_id}: the id belongs to another job, {before.spec.name!r}")
                if change.state is JobState.QUEUED or change.state is before.state:
                    continue
            problem = _problem(change, before)
            if problem:
                raise JobError(problem)
            usage = usages.get(change.job_id)
            pending[change.job_id] = _after(change, before, obt_s, usage)
            steps.append(pending[change.job_id])
            payloads.append((_TRANSITION, _encode(_transition_fields(change, obt_s, usage))))
        if not payloads:
            return
        fresh = sum(not e.state.is_final for job_id, e in pending.items() if job_id not in self._entries)
        ended = sum(e.state.is_final for job_id, e in pending.items() if job_id in self._entries)
        if fresh and len(self.open_jobs) + fresh - ended > OPEN_MAX:
            raise JobError(f"{len(self.open_jobs) + fresh - ended} open jobs above the limit of {OPEN_MAX}")
        self._append(payloads)
        for entry in steps:
            self._take(entry)

    def note(self, usages: Mapping[int, Usage]) -> None:
        """Make what open jobs have used so far durable: a kill then costs the bill no more than since the last note."""
        news = [(job_id, usage) for job_id, usage in usages.items()
                if job_id in self._entries and self._entries[job_id].usage != usage]
        if news:
            self._append([(_USAGE, _encode(one)) for one in news])
            for job_id, usage in news:
                self._take_usage(job_id, list(usage))

    def close(self) -> None:
        """Let go of the storage, so that another supervisor can open it."""
        self._store.close()

    def _append(self, payloads: Sequence[tuple[int, bytes]]) -> None:
        """Write records under one sync, after a snapshot where one is due."""
        if self._store.snapshot_due:
            entries = [_entry_fields(entry) for entry in self._entries.values()]
            self._store.snapshot(_encode({"entries": entries}))
        self._store.append_many(payloads)

    def _take_usage(self, job_id: int, fields: list[Any]) -> None:
        """Show what a job has used so far; rot may have cost us the job itself."""
        entry = self._entries.get(job_id)
        if entry is not None and not entry.state.is_final:
            self._open = None
            self._entries[job_id] = entry._replace(usage=_usage_from(fields))

    def _take(self, entry: LedgerEntry) -> None:
        """Show an entry. Ended jobs stand in the order of their end, also in a snapshot, and leave in it."""
        job_id = entry.spec.job_id
        self._open = None
        self._closed.pop(job_id, None)
        if entry.state.is_final:
            self._entries.pop(job_id, None)
            self._closed[job_id] = None
            if len(self._closed) > CLOSED_MAX:
                oldest = next(iter(self._closed))
                del self._closed[oldest], self._entries[oldest]
        self._entries[job_id] = entry


def _problem(change: JobTransition, before: LedgerEntry | None) -> str:
    """Say what is illegal about `change`; empty when nothing is."""
    if before is None:
        if change.spec is None:
            return f"job {change.job_id}: {change.state.name} but never submitted"
        if change.spec.job_id != change.job_id:
            return f"job {change.job_id}: declared as job {change.spec.job_id}"
        if change.state not in _FIRST:
            return f"job {change.job_id}: {change.state.name} is no first state"
    elif change.state not in LEGAL.get(before.state, frozenset()):
        return f"job {change.job_id}: {before.state.name} -> {change.state.name} is illegal"
    return ""


def _after(change: JobTransition, before: LedgerEntry | None, obt_s: float, usage: Usage | None) -> LedgerEntry:
    spec = change.spec if before is None else before.spec
    if spec is None:
        raise JobError(f"job {change.job_id}: {change.state.name} but never submitted")
    started = change.state is JobState.RUNNING and (before is None or before.state is not JobState.PAUSED)
    starts = (0 if before is None else before.starts) + started
    if usage is None and before is not None:
        usage = before.usage
    return LedgerEntry(spec, change.state, change.detail, change.done_units, obt_s, starts, usage)


def _declaration(spec: JobSpec) -> JobSpec:
    """The part of a spec that a repeated submission shares with the first: all but the times."""
    return dataclasses.replace(spec, arrival_s=0.0, deadline_s=0.0, answer_due_s=0.0)


def _encode(fields: Mapping[str, Any] | tuple[int, Usage]) -> bytes:  # Any: JSON values
    """Encode as text, so that a journal can be read by eye and salvaged over a slow link."""
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def _transition_fields(change: JobTransition, obt_s: float, usage: Usage | None) -> dict[str, Any]:
    fields = {**change._asdict(), "state": change.state.name, "obt_s": obt_s}
    if usage is not None:
        fields["usage"] = usage
    fields["spec"] = None if change.spec is None else _spec_fields(change.spec)
    return fields


def _transition_from(fields: dict[str, Any]) -> tuple[JobTransition, float, Usage | None]:
    obt_s = float(fields.pop("obt_s"))
    usage = _usage_from(fields.pop("usage", None))
    fields["state"] = JobState[fields["state"]]
    fields["spec"] = None if fields["spec"] is None else _spec_from(fields["spec"])
    return JobTransition(**fields), obt_s, usage


def _entry_fields(entry: LedgerEntry) -> dict[str, Any]:
    return {**entry._asdict(), "state": entry.state.name, "spec": _spec_fields(entry.spec)}


def _entry_from(fields: dict[str, Any]) -> LedgerEntry:
    fields["state"] = JobState[fields["state"]]
    fields["spec"] = _spec_from(fields["spec"])
    fields["usage"] = _usage_from(fields.get("usage"))
    return LedgerEntry(**fields)


def _usage_from(fields: list[Any] | None) -> Usage | None:
    return None if fields is None else Usage(*fields)


def _spec_fields(spec: JobSpec) -> dict[str, Any]:
    """Return what `dataclasses.asdict` does, six times as fast: a snapshot has thousands."""
    return {name: getattr(spec, name) for name in _SPEC_FIELDS}


def _spec_from(fields: dict[str, Any]) -> JobSpec:
    return JobSpec(**{**fields, "pause": Pause(fields["pause"])})

"""The audit log on board: what was done to a customer's job and data, durable, chained, and told to the ground.

Owns the log's folder. The supervisor notes a tick's transitions through `note_transitions` after the ledger has them;
intake, vault and downlink note theirs. Never decides anything, never reads a clock, holds no content of a customer.

Records (`dictionary/audit.py`) go through the journal of `store.py`, so that each is on the medium when `append`
returns and a power cut leaves a prefix. When the journal is to be compacted, its records are first written to a
closed part, a plain text file of whole lines; `export` puts the parts and the journal together into the one file that
`ground audit verify` takes. The folder is bounded: the oldest part goes when there are more than `PARTS_MAX`, and
the log says so. Rot that costs records is said in the log as well; the ground then finds the gap and the reason.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from flightsw.dictionary.audit import NO_RECORD, Action, AuditRecord, line_hash, pack_record, unpack_record
from flightsw.errors import LinkError, StoreError
from flightsw.state import Event, JobState, JobTransition
from flightsw.store import Disk, OsDisk, Store, StoreLimits, replace_file

PARTS_MAX: Final = 64
HEAD_EVERY_S: Final = 600.0
"""Time between heads in telemetry: what an intruder on board could cut off unnoticed is not older."""

SATELLITE: Final = "satellite"
_LIMITS: Final = StoreLimits(segment_octets=1 << 18, journal_octets=6 << 18, snapshot_octets=1 << 12)
_RECORD: Final = 1

_OF_STATE: Final = {
    JobState.QUEUED: Action.JOB_RECEIVED,
    JobState.PROMISED: Action.JOB_ACCEPTED,
    JobState.REFUSED: Action.JOB_REFUSED,
    JobState.RUNNING: Action.PROCESSING_STARTED,
    JobState.PAUSED: Action.PROCESSING_PAUSED,
    JobState.FINISHED: Action.RESULT_PRODUCED,
}


class Note(NamedTuple):
    """What is to be logged; sequence, time and chain are the log's."""

    actor: str
    action: Action
    object: str
    detail: str = ""


class AuditLog:
    """One satellite's log. StoreError when it cannot be written: what must be logged must then not be done."""

    def __init__(self, folder: Path, mission: str, obt_s: float, disk: Disk | None = None,
                 limits: StoreLimits = _LIMITS) -> None:
        """Open the log or begin one for `mission`."""
        self._folder = folder
        self._disk: Disk = OsDisk() if disk is None else disk
        self._store = Store(folder, self._disk, limits)
        self._sequence, self._head, paused = 0, NO_RECORD, []
        self._lines: list[bytes] = []
        recovery = self._store.recovery
        try:
            if recovery.snapshot is not None:
                self._sequence, self._head, paused = json.loads(recovery.snapshot)
            self._paused: set[int] = set(paused)
            for record in recovery.records:
                self._sequence, self._head = unpack_record(record.payload).sequence, line_hash(record.payload)
                self._lines.append(record.payload)
            self._parts = self._whole_parts()
        except (ValueError, TypeError, LinkError, OSError) as e:
            raise StoreError(f"audit log {folder}: stored content is not readable: {e!r}") from e
        self._sent_s = obt_s - HEAD_EVERY_S
        self._sent_head = ""
        if self._sequence == 0:
            self.append([Note(SATELLITE, Action.LOG_BEGAN, mission)], obt_s)
        lost = sum(damage.records_lost for damage in recovery.damages)
        if recovery.damages:
            self.append([Note(SATELLITE, Action.LOG_DAMAGED, mission, f"{lost} records lost to rot")], obt_s)

    @property
    def sequence(self) -> int:
        """Number of the last record."""
        return self._sequence

    @property
    def head(self) -> str:
        """Hash of the last record."""
        return self._head

    def append(self, notes: Sequence[Note], obt_s: float) -> None:
        """Write records, in order and under one sync."""
        if not notes:
            return
        if self._store.snapshot_due:
            self._close_part(obt_s)
        lines, sequence, head = [], self._sequence, self._head
        for note in notes:
            sequence += 1
            lines.append(pack_record(AuditRecord(sequence, float(obt_s), *note, head)))
            head = line_hash(lines[-1])
        self._store.append_many([(_RECORD, line) for line in lines])
        self._lines += lines
        self._sequence, self._head = sequence, head

    def note_transitions(self, transitions: Iterable[JobTransition], obt_s: float) -> None:
        """Log what a tick's durable transitions mean for customers' jobs."""
        self.append([self._note_of(change) for change in transitions], obt_s)

    def head_event(self, obt_s: float) -> Event | None:
        """Return the head for telemetry when it is time to send it and it is another than the last."""
        if obt_s - self._sent_s < HEAD_EVERY_S or self._head == self._sent_head:
            return None
        self._sent_s, self._sent_head = obt_s, self._head
        return Event("audit_head", (self._sequence, self._head))

    def lines(self) -> list[bytes]:
        """Return all lines that are kept, oldest first."""
        closed = [line for part in self._parts for line in self._disk.read(self._folder / part.name).splitlines()]
        last = self._parts[-1].last if self._parts else 0
        return closed + [line for line in self._lines if unpack_record(line).sequence > last]

    def export(self, path: Path) -> int:
        """Write the log as the ground verifies it, one file, whole or not at all; return the number of its records."""
        steps = self.exporting(path)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return int(end.value)

    def exporting(self, path: Path) -> Generator[None, None, int]:
        """Do what `export` does, in steps of a part each; what is logged meanwhile is in it."""
        fresh, records, last = path.with_name(path.name + ".tmp"), 0, 0
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as file:
            while (part := next((part for part in self._parts if part.first > last), None)) is not None:
                octets = self._disk.read(self._folder / part.name)
                file.write(octets)
                file.flush()
                os.fdatasync(file.fileno())
                records, last = records + octets.count(b"\n"), part.last
                yield
            rest = [line for line in self._lines if unpack_record(line).sequence > last]
            file.write(b"".join(line + b"\n" for line in rest))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        return records + len(rest)

    def close(self) -> None:
        """Let go of the storage."""
        self._store.close()

    def _note_of(self, change: JobTransition) -> Note:
        action = _OF_STATE.get(change.state, Action.JOB_ENDED)
        if change.state is JobState.RUNNING and change.job_id in self._paused:
            action = Action.PROCESSING_RESUMED
        if change.state is JobState.PAUSED:
            self._paused.add(change.job_id)
        else:
            self._paused.discard(change.job_id)
        name = f"job {change.job_id}" if change.spec is None else f"job {change.job_id} {change.spec.name}"
        detail = f"{change.state.name}: {change.detail}" if action is Action.JOB_ENDED else change.detail
        return Note(SATELLITE, action, name, detail)

    def _close_part(self, obt_s: float) -> None:
        """Write the journal's records to a part, then let the journal drop them."""
        last = self._parts[-1].last if self._parts else 0
        fresh = [line for line in self._lines if unpack_record(line).sequence > last]
        try:
            if fresh:
                part = _Part(unpack_record(fresh[0]).sequence, self._sequence)
                replace_file(self._disk, self._folder / part.name, b"".join(line + b"\n" for line in fresh))
                self._parts.append(part)
            self._store.snapshot(json.dumps([self._sequence, self._head, sorted(self._paused)]).encode())
            self._lines.clear()
            while len(self._parts) > PARTS_MAX:
                part = self._parts.pop(0)
                self.append([Note(SATELLITE, Action.LOG_DROPPED, f"records {part.first}..{part.last}",
                                  str(part.last))], obt_s)
                self._disk.unlink(self._folder / part.name)
        except OSError as e:
            raise StoreError(f"audit log {self._folder}: part not written: {e}") from e

    def _whole_parts(self) -> list[_Part]:
        parts = sorted(filter(None, map(_part_of, self._disk.names(self._folder))))
        return [part for part in parts if part.last <= self._sequence]


class _Part(NamedTuple):
    """A closed part of the log: its first and last sequence numbers."""

    first: int
    last: int

    @property
    def name(self) -> str:
        return f"audit-{self.first:010d}-{self.last:010d}.log"


def _part_of(name: str) -> _Part | None:
    kind, _, rest = name.partition("-")
    first, _, last = rest.removesuffix(".log").partition("-")
    if kind != "audit" or not (first.isdecimal() and last.isdecimal()):
        return None
    part = _Part(int(first), int(last))
    return part if part.name == name else None

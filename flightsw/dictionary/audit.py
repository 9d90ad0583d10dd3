"""The audit log's records: one line of JSON each, chained by SHA-256; written on board, verified on the ground.

A record is what was done to a customer's job or data, by whom and when; no content of theirs. A line names the hash
of the line before, so that an edit, a deletion or another order breaks the chain at its place. The hash of the last
line, the head, goes down with telemetry: what follows a head that was seen can be cut off unnoticed only until the
next one is.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from itertools import pairwise
from typing import Final, NamedTuple

from flightsw.errors import LinkError

LINE_OCTETS_MAX: Final = 6144
TEXT_MAX: Final = 120
NO_RECORD: Final = "0" * 64
"""What the first record names as the hash before it."""

_HASH: Final = re.compile(r"[0-9a-f]{64}")


class Action(Enum):
    """Everything that is logged."""

    LOG_BEGAN = "log.began"
    LOG_DAMAGED = "log.damaged"
    LOG_DROPPED = "log.dropped"
    JOB_RECEIVED = "job.received"
    JOB_ACCEPTED = "job.accepted"
    JOB_REFUSED = "job.refused"
    JOB_ENDED = "job.ended"
    DATA_UNPACKED = "data.unpacked"
    PROCESSING_STARTED = "processing.started"
    PROCESSING_PAUSED = "processing.paused"
    PROCESSING_RESUMED = "processing.resumed"
    RESULT_PRODUCED = "result.produced"
    RESULT_DOWNLINKED = "result.downlinked"
    RESULT_ERASED = "result.erased"
    KEY_CREATED = "key.created"
    KEY_DESTROYED = "key.destroyed"
    POLICY_VIOLATED = "policy.violated"


class AuditRecord(NamedTuple):
    """One record. `previous` is the SHA-256 of the line before, in hexadecimal."""

    sequence: int
    obt_s: float
    actor: str
    action: Action
    object: str
    detail: str
    previous: str


def pack_record(record: AuditRecord) -> bytes:
    """Return a record's line without its end. Texts are cut to `TEXT_MAX` characters; the line is pure ASCII."""
    return json.dumps({
        "sequence": record.sequence, "obt_s": record.obt_s, "actor": record.actor[:TEXT_MAX],
        "action": record.action.value, "object": record.object[:TEXT_MAX], "detail": record.detail[:TEXT_MAX],
        "previous": record.previous,
    }, separators=(",", ":"), allow_nan=False).encode()


def unpack_record(line: bytes) -> AuditRecord:
    """Read a line; LinkError unless it is exactly what `pack_record` makes of the record that it says."""
    if len(line) > LINE_OCTETS_MAX:
        raise LinkError(f"audit record of {len(line)} octets, limit {LINE_OCTETS_MAX}")
    try:
        fields = json.loads(line)
        record = AuditRecord(**{**fields, "action": Action(fields["action"])})
        valid = (
            type(record.sequence) is int and record.sequence > 0
            and type(record.obt_s) is float and math.isfinite(record.obt_s)
            and all(type(text) is str for text in (record.actor, record.object, record.detail, record.previous))
            and _HASH.fullmatch(record.previous) is not None
            and pack_record(record) == line
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise LinkError(f"not an audit record: {line[:60]!r}") from error
    if not valid:
        raise LinkError(f"not an audit record as it was written: {line[:60]!r}")
    return record


def line_hash(line: bytes) -> str:
    """Return the hash that the next record names, and that is the head while there is none."""
    return hashlib.sha256(line).hexdigest()


class Harm(Enum):
    """What can be wrong with a log."""

    EDITED = "edited"
    DELETED = "deleted"
    INSERTED = "inserted"
    REORDERED = "reordered"
    TRUNCATED = "truncated"
    REWRITTEN = "rewritten"


class Break(NamedTuple):
    """Where a log is not what was written: line (from 1, 0 where there is none) and sequence numbers, inclusive."""

    harm: Harm
    line: int
    first: int
    last: int
    text: str


class Verdict(NamedTuple):
    """What a log is worth: its records, its head, the last record that a head seen on the ground vouches for."""

    records: int
    last: int
    head: str
    anchored: int
    breaks: tuple[Break, ...]


def verify(lines: Iterable[bytes], heads: Mapping[int, str]) -> Verdict:
    """Check a log (lines without their ends) against the heads seen: sequence -> hash. Every break is found.

    Only records behind the last head can have been rewritten or cut off unnoticed; `anchored` says up to where not.
    """
    kept: list[_Line] = []
    breaks: list[Break] = []
    unreadable: list[int] = []
    count = 0
    for count, octets in enumerate(lines, 1):
        try:
            kept.append(_Line(count, unpack_record(octets), line_hash(octets)))
        except LinkError as error:
            unreadable.append(count)
            breaks.append(Break(Harm.EDITED, count, 0, 0, str(error)))
    by_sequence = _in_order(kept, breaks)
    _find_gaps(by_sequence, unreadable, heads, breaks)
    _check_chain(by_sequence, heads, breaks)
    last = by_sequence[-1] if by_sequence else None
    last_sequence = last.record.sequence if last else 0
    seen = max(heads, default=0)
    if seen > last_sequence:
        breaks.append(Break(Harm.TRUNCATED, 0, last_sequence + 1, seen,
                            f"the log ends with record {last_sequence}, head {seen} was seen"))
    vouched = [one.record.sequence for one in by_sequence if heads.get(one.record.sequence) == one.hash]
    return Verdict(count, last_sequence, last.hash if last else NO_RECORD, max(vouched, default=0),
                   tuple(sorted(breaks, key=lambda b: (b.line or math.inf, b.first))))


class _Line(NamedTuple):
    number: int
    record: AuditRecord
    hash: str


def _in_order(lines: Sequence[_Line], breaks: list[Break]) -> list[_Line]:
    """Return the lines by sequence, each number once, and note what stood elsewhere or twice."""
    by_sequence: dict[int, _Line] = {}
    for one in lines:
        sequence = one.record.sequence
        first = by_sequence.setdefault(sequence, one)
        if first is not one:
            breaks.append(Break(Harm.INSERTED, one.number, sequence, sequence,
                                f"record {sequence} stands in line {first.number} already"))
    kept = sorted(by_sequence.values(), key=lambda one: one.record.sequence)
    # The fewest lines whose removal leaves the others in order are those that were moved.
    moved = {one.number for one in kept} - _longest_rise([one.number for one in kept])
    breaks.extend(Break(Harm.REORDERED, one.number, one.record.sequence, one.record.sequence,
                        f"record {one.record.sequence} does not stand in its place")
                  for one in kept if one.number in moved)
    return kept


def _longest_rise(numbers: Sequence[int]) -> set[int]:
    """Members of a longest rising subsequence (patience sorting)."""
    piles: list[int] = []
    tops: list[int] = []
    before: dict[int, int | None] = {}
    for number in numbers:
        low, high = 0, len(tops)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if tops[middle] < number else (low, middle)
        before[number] = piles[low - 1] if low else None
        if low == len(tops):
            tops.append(number)
            piles.append(number)
        else:
            tops[low] = piles[low] = number
    rise: set[int] = set()
    at = piles[-1] if piles else None
    while at is not None:
        rise.add(at)
        at = before[at]
    return rise


def _find_gaps(lines: Sequence[_Line], unreadable: Sequence[int], heads: Mapping[int, str],
               breaks: list[Break]) -> None:
    """Note missing numbers: edited beyond reading where as many unreadable lines stand there, else deleted."""
    dropped = max((int(one.record.detail) for one in lines
                   if one.record.action is Action.LOG_DROPPED and one.record.detail.isdecimal()), default=0)
    before_sequence, before_number = 0, 0
    for one in lines:
        sequence = one.record.sequence
        missing = sequence - before_sequence - 1
        here = sum(before_number < number < one.number for number in unreadable)
        begins = before_sequence == 0 and (heads.get(sequence - 1) == one.record.previous or sequence - 1 <= dropped)
        if missing > here and not begins:
            breaks.append(Break(Harm.DELETED, one.number, before_sequence + 1, sequence - 1,
                                f"{missing - here} of the records {before_sequence + 1}..{sequence - 1} are not there"))
        before_sequence, before_number = sequence, one.number


def _check_chain(lines: Sequence[_Line], heads: Mapping[int, str], breaks: list[Break]) -> None:
    """Note edited records. A link that does not hold blames the record that another link or a head blames too."""
    holds = {
        after.record.sequence: after.record.previous == before.hash
        for before, after in pairwise(lines)
        if after.record.sequence == before.record.sequence + 1
    }
    wrong: dict[int, str] = {}
    if lines and lines[0].record.sequence == 1 and lines[0].record.previous != NO_RECORD:
        wrong[1] = "it names a record before the first"
    for before, after in pairwise(lines):
        sequence = after.record.sequence
        if holds.get(sequence, True) or before.record.sequence in wrong:
            continue
        is_sound = heads.get(before.record.sequence) == before.hash
        if is_sound or not holds.get(sequence + 1, True) or heads.get(sequence, after.hash) != after.hash:
            wrong[sequence] = f"it does not follow from record {before.record.sequence}"
        else:
            wrong[before.record.sequence] = f"record {sequence} followed from another"
    breaks.extend(Break(Harm.EDITED, one.number, one.record.sequence, one.record.sequence,
                        f"record {one.record.sequence} was changed: {wrong[one.record.sequence]}")
                  for one in lines if one.record.sequence in wrong)
    good = 0
    for one in lines:
        sequence = one.record.sequence
        seen = heads.get(sequence)
        if seen == one.hash:
            good = sequence
        elif seen is not None and not any(good < changed <= sequence for changed in wrong):
            breaks.append(Break(Harm.REWRITTEN, one.number, good + 1, sequence,
                                f"record {sequence} is not the one whose head was seen: rewritten behind {good}"))
            return

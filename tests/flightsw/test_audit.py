"""The audit log: every kind of harm found and placed, every acknowledged record kept through power cuts."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_store import SMALL, CuttableDisk, PowerCutError

from flightsw.dictionary.audit import (
    NO_RECORD,
    Action,
    AuditRecord,
    Harm,
    line_hash,
    pack_record,
    unpack_record,
    verify,
)
from flightsw.dictionary.events import BY_NAME
from flightsw.errors import LinkError, StoreError
from flightsw.jobs import audit
from flightsw.jobs.audit import HEAD_EVERY_S, AuditLog, Note
from flightsw.state import JobSpec, JobState, JobTransition

FOLDER = Path("/a")
LENGTH = 30


def chain(length: int = LENGTH) -> list[bytes]:
    lines: list[bytes] = []
    for i in range(1, length + 1):
        previous = line_hash(lines[-1]) if lines else NO_RECORD
        lines.append(pack_record(AuditRecord(i, 10.0 * i, "satellite", Action.JOB_RECEIVED, f"job {i}", "x", previous)))
    return lines


def heads(lines: list[bytes], *sequences: int) -> dict[int, str]:
    return {sequence: line_hash(lines[sequence - 1]) for sequence in sequences}


def edited(line: bytes, **fields: object) -> bytes:
    return pack_record(unpack_record(line)._replace(**fields))  # type: ignore[arg-type] # the names are right


RECORDS = st.builds(
    AuditRecord, st.integers(1, 2**31), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=120),
    st.sampled_from(Action), st.text(max_size=120), st.text(max_size=120), st.just(NO_RECORD),
)  # fmt: skip


@given(RECORDS)
def test_a_line_says_what_was_put_into_it(record: AuditRecord) -> None:
    line = pack_record(record)
    assert unpack_record(line) == record
    assert line.isascii()
    assert b"\n" not in line


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda t: t.encode("utf-8", "replace"))))
def test_any_octets_are_refused(line: bytes) -> None:
    with pytest.raises(LinkError):
        unpack_record(line)


@given(RECORDS, st.integers(0, 10_000), st.integers(0, 7))
def test_any_other_spelling_of_a_record_is_refused_or_another_record(record: AuditRecord, at: int, bit: int) -> None:
    line = bytearray(pack_record(record))
    line[at % len(line)] ^= 1 << bit
    with contextlib.suppress(LinkError):
        assert unpack_record(bytes(line)) != record


@pytest.mark.parametrize("sequence", [0, -1, True, 1.0, "1", None])
def test_a_wrong_number_is_refused(sequence: object) -> None:
    with pytest.raises(LinkError):
        unpack_record(pack_record(AuditRecord(sequence, 1.0, "a", Action.JOB_ENDED, "b", "c", NO_RECORD)))  # type: ignore[arg-type]


# --- verification ------------------------------------------------------------------------------------


def test_what_was_written_is_whole() -> None:
    lines = chain()
    verdict = verify(lines, heads(lines, 10, 20))
    assert (verdict.records, verdict.last, verdict.anchored, verdict.breaks) == (LENGTH, LENGTH, 20, ())
    assert verdict.head == line_hash(lines[-1])
    assert verify([], {}).breaks == ()


@given(st.integers(1, LENGTH - 1), st.sampled_from(["obt_s", "actor", "object", "detail", "previous", "action"]))
def test_an_edited_record_is_found_in_its_line(at: int, field: str) -> None:
    lines = chain()
    wrong = {"obt_s": 1.5, "actor": "mallory", "object": "job 0", "detail": "y", "previous": "f" * 64,
             "action": Action.JOB_ACCEPTED}[field]  # fmt: skip
    lines[at - 1] = edited(lines[at - 1], **{field: wrong})
    (found,) = verify(lines, {}).breaks
    assert (found.harm, found.line, found.first, found.last) == (Harm.EDITED, at, at, at)


@settings(max_examples=300)
@given(st.integers(0, 10**6), st.integers(0, 7))
def test_a_single_changed_bit_anywhere_is_found_and_located(at: int, bit: int) -> None:
    lines = chain()
    octets = bytearray(b"\n".join(lines))
    at %= len(octets)
    line = octets[:at].count(b"\n") + 1
    octets[at] ^= 1 << bit
    found = verify(bytes(octets).split(b"\n"), heads(lines, LENGTH)).breaks
    assert found
    assert any(abs(one.line - line) <= 1 or one.first <= line <= one.last for one in found), (line, found)


def test_the_last_record_is_only_safe_with_a_head() -> None:
    lines = chain()
    seen = heads(lines, LENGTH, 12)
    lines[-1] = edited(lines[-1], detail="y")
    assert verify(lines, {}).breaks == ()
    (found,) = verify(lines, seen).breaks
    assert found.harm is Harm.REWRITTEN
    assert (found.first, found.last, found.line) == (13, LENGTH, LENGTH)


@given(st.integers(1, LENGTH - 1), st.integers(1, 5))
def test_deleted_records_are_named(first: int, count: int) -> None:
    lines = chain()
    count = min(count, LENGTH - first)
    del lines[first - 1 : first - 1 + count]
    (found,) = verify(lines, {}).breaks
    assert (found.harm, found.line, found.first, found.last) == (Harm.DELETED, first, first, first + count - 1)


@given(st.integers(0, LENGTH - 1), st.integers(0, LENGTH - 1))
def test_a_record_out_of_its_place_is_found(source: int, target: int) -> None:
    lines = chain()
    lines.insert(target, lines.pop(source))
    found = verify(lines, {}).breaks
    assert {one.harm for one in found} == (set() if source == target else {Harm.REORDERED})
    if abs(source - target) > 1:
        assert [one.line for one in found] == [target + 1]


def test_truncation_is_found_by_the_heads_only() -> None:
    lines = chain()
    seen = heads(lines, 10, 25)
    assert verify(lines[:20], heads(lines, 10)).breaks == ()
    (found,) = verify(lines[:20], seen).breaks
    assert (found.harm, found.first, found.last) == (Harm.TRUNCATED, 21, 25)
    (gone,) = verify([], seen).breaks
    assert (gone.harm, gone.first, gone.last) == (Harm.TRUNCATED, 1, 25)


@given(st.integers(1, LENGTH), st.integers(1, LENGTH), st.integers(1, LENGTH))
def test_a_chain_forged_anew_is_found_from_the_first_head_behind_the_change(change: int, one: int, other: int) -> None:
    lines = chain()
    seen = heads(lines, one, other)
    lines[change - 1] = edited(lines[change - 1], detail="forged")
    for i in range(change, LENGTH):
        lines[i] = edited(lines[i], previous=line_hash(lines[i - 1]))
    found = verify(lines, seen).breaks
    behind = [sequence for sequence in seen if sequence >= change]
    assert [(b.harm, b.last) for b in found] == ([(Harm.REWRITTEN, min(behind))] if behind else [])


def test_an_inserted_or_repeated_record_is_found() -> None:
    lines = chain()
    lines.insert(7, lines[3])
    (found,) = verify(lines, {}).breaks
    assert (found.harm, found.line, found.first) == (Harm.INSERTED, 8, 4)


def test_a_line_that_is_no_record_is_edited_not_deleted() -> None:
    lines = chain()
    lines[4] = b"gone"
    (found,) = verify(lines, {}).breaks
    assert (found.harm, found.line) == (Harm.EDITED, 5)


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1))
def test_random_harm_is_never_overlooked(seed: int) -> None:
    rng, lines = random.Random(seed), chain()
    seen, harmed = heads(lines, LENGTH), list(lines)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(harmed))
        kind = rng.randrange(5)
        if kind == 0:
            del harmed[at]
        elif kind == 1:
            harmed.insert(at, rng.choice(lines))
        elif kind == 2:
            harmed.insert(at, harmed.pop(rng.randrange(len(harmed))))
        elif kind == 3:
            del harmed[at:]
        else:
            harmed[at] = edited(lines[at % LENGTH], detail=str(rng.random()))
        if not harmed:
            break
    assert bool(verify(harmed, seen).breaks) == (harmed != lines)


# --- on board ----------------------------------------------------------------------------------------


def note(i: int) -> Note:
    return Note("satellite", Action.KEY_CREATED, f"job {i}", "z" * 100)


def log_on(disk: CuttableDisk, obt_s: float = 0.0) -> AuditLog:
    return AuditLog(FOLDER, "iss_like", obt_s, disk, SMALL)


def test_the_log_goes_on_where_it_was_and_the_export_is_whole(tmp_path: Path) -> None:
    first = AuditLog(tmp_path / "audit", "iss_like", 1.0)
    first.append([note(1), note(2)], 2.0)
    first.close()
    again = AuditLog(tmp_path / "audit", "iss_like", 3.0)
    again.append([note(3)], 4.0)
    again.export(tmp_path / "out.log")
    again.close()
    lines = (tmp_path / "out.log").read_bytes().splitlines()
    verdict = verify(lines, {again.sequence: again.head})
    assert (verdict.records, verdict.anchored, verdict.breaks) == (4, 4, ())
    assert [unpack_record(line).object for line in lines] == ["iss_like", "job 1", "job 2", "job 3"]


def test_a_long_log_is_bounded_and_says_what_it_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "PARTS_MAX", 3)
    disk = CuttableDisk()
    log = log_on(disk)
    for i in range(1, 400):
        log.append([note(i)], float(i))
    assert len([name for name in disk.names_live if name.startswith("audit-")]) == 3
    lines = log.lines()
    verdict = verify(lines, {log.sequence: log.head})
    assert verdict.breaks == ()
    assert verdict.records < 300
    assert any(unpack_record(line).action is Action.LOG_DROPPED for line in lines)
    assert verify(lines[1:], {}).breaks, "what was not dropped by the log itself is missed"


def test_rot_is_said_in_the_log_and_found_by_the_ground(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit", "iss_like", 0.0)
    for i in range(1, 6):
        log.append([note(i)], float(i))
    log.close()
    (segment,) = [path for path in (tmp_path / "audit").iterdir() if path.name.startswith("journal-")]
    octets = bytearray(segment.read_bytes())
    octets[octets.index(b"job 3")] ^= 1
    segment.write_bytes(octets)
    again = AuditLog(tmp_path / "audit", "iss_like", 9.0)
    (found,) = verify(again.lines(), {}).breaks
    assert (found.harm, found.first, found.last) == (Harm.DELETED, 4, 4)
    assert unpack_record(again.lines()[-1]).action is Action.LOG_DAMAGED


def test_transitions_become_records_with_region_and_resumption() -> None:
    log = log_on(CuttableDisk())
    spec = JobSpec(5, "mask", 1.0, 1.0, 1.0, 0.0, 1.0, 0.0)
    states = [(JobState.QUEUED, ""), (JobState.PROMISED, ""), (JobState.RUNNING, "node 0"),
              (JobState.PAUSED, "region US"), (JobState.RUNNING, "node 1"),
              (JobState.FINISHED, "SHA-256 ab")]  # fmt: skip
    for state, detail in states:
        log.note_transitions([JobTransition(5, state, detail, 0.0, spec if state is JobState.QUEUED else None)], 1.0)
    log.note_transitions([JobTransition(6, JobState.REFUSED, "POLICY", 0.0, spec),
                          JobTransition(7, JobState.CANCELLED, "telecommand", 0.0, None)], 2.0)  # fmt: skip
    records = [unpack_record(line) for line in log.lines()][1:]
    assert [(r.action.value, r.detail) for r in records] == [
        ("job.received", ""), ("job.accepted", ""), ("processing.started", "node 0"),
        ("processing.paused", "region US"), ("processing.resumed", "node 1"), ("result.produced", "SHA-256 ab"),
        ("job.refused", "POLICY"), ("job.ended", "CANCELLED: telecommand"),
    ]  # fmt: skip
    assert records[0].object == "job 5 mask"


def test_heads_go_down_every_ten_minutes_when_there_is_a_new_one() -> None:
    log = log_on(CuttableDisk())
    event = log.head_event(0.0)
    assert event is not None
    assert event.args == (1, log.head)
    BY_NAME[event.name].text.format(*event.args)
    log.append([note(1)], 1.0)
    assert log.head_event(HEAD_EVERY_S - 1.0) is None
    later = log.head_event(HEAD_EVERY_S)
    assert later is not None
    assert later.args == (2, log.head)
    assert log.head_event(10 * HEAD_EVERY_S) is None


@pytest.mark.parametrize("seed", range(150))
def test_power_cuts_lose_no_acknowledged_record_and_break_no_chain(seed: int) -> None:
    rng, disk = random.Random(seed), CuttableDisk()
    acknowledged: list[str] = []
    maybe: list[str] = []
    number = 0
    for _ in range(6):
        disk.fuse = rng.randint(3, 120)
        try:
            log = log_on(disk)
            while True:
                maybe = [f"job {number + i}" for i in range(rng.randint(1, 3))]
                number += len(maybe)
                log.append([note(int(name[4:])) for name in maybe], 1.0)
                acknowledged += maybe
                maybe = []
        except PowerCutError:
            disk.cut(rng)
        log = log_on(disk)
        lines = log.lines()
        assert verify(lines, {log.sequence: log.head}).breaks == ()
        kept = [r.object for r in map(unpack_record, lines) if r.action is Action.KEY_CREATED]
        assert kept[: len(acknowledged)] == acknowledged
        assert kept[len(acknowledged) :] == maybe[: len(kept) - len(acknowledged)]
        acknowledged, maybe = kept, []


def test_a_log_that_cannot_be_written_says_so() -> None:
    disk = CuttableDisk()
    log = log_on(disk)
    disk.fail["sync"] = OSError(5, "I/O error")
    with pytest.raises(StoreError):
        log.append([note(1)], 1.0)
    assert log.sequence == 1

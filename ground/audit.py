"""`ground audit verify`: is the audit log that came down the one that was written on board?

Owns the reading of log files and of heads from an archive, and the words of the verdict. The checking itself is the
dictionary's (`flightsw/dictionary/audit.py`), so that it reads exactly what the satellite writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from flightsw.dictionary.audit import Verdict, verify
from flightsw.errors import StoreError
from ground.archive import Archive

FILE_OCTETS_MAX: Final = 256 << 20


def heads_of(archive: Archive) -> dict[int, str]:
    """Return every head that telemetry brought, sequence -> hash; StoreError when two contradict each other."""
    heads: dict[int, str] = {}
    for event in archive.events():
        if event.name == "audit_head":
            sequence, found = int(event.args[0] or 0), str(event.args[1])
            if heads.setdefault(sequence, found) != found:
                raise StoreError(f"archive {archive.path}: two heads of audit record {sequence}: "
                                 "the log on board was forked")
    return heads


def verify_files(paths: Sequence[Path], heads: dict[int, str]) -> Verdict:
    """Check one log, which may come in several files in order."""
    return verify((line for path in paths for line in _lines(path)), heads)


def report(verdict: Verdict, heads: dict[int, str]) -> Iterator[str]:
    """Say what a verdict means, one line a finding."""
    for found in verdict.breaks:
        where = f"line {found.line}" if found.line else "end"
        yield f"{where}: {found.harm.value}: {found.text}"
    if verdict.breaks:
        yield f"NOT WHOLE: {len(verdict.breaks)} findings in {verdict.records} records"
        return
    yield f"whole: {verdict.records} records up to {verdict.last}, head {verdict.head}"
    if not heads:
        yield "no head to compare with: a log that was rewritten or cut off as a whole would not be noticed"
    elif verdict.anchored < verdict.last:
        yield f"records behind {verdict.anchored} are vouched for by no head yet"


def as_json(verdict: Verdict) -> dict[str, object]:
    """Return a verdict as JSON's types."""
    return {**verdict._asdict(), "breaks": [{**b._asdict(), "harm": b.harm.value} for b in verdict.breaks]}


def _lines(path: Path) -> list[bytes]:
    try:
        if path.stat().st_size > FILE_OCTETS_MAX:
            raise StoreError(f"audit log {path}: {path.stat().st_size} octets, limit {FILE_OCTETS_MAX}")
        octets = path.read_bytes()
    except OSError as error:
        raise StoreError(f"audit log {path}: {error.strerror}") from error
    lines = octets.split(b"\n")
    return lines[:-1] if not lines[-1] else lines

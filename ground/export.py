"""Telemetry, events and commands out of an archive, as tables that other programs read: CSV, JSON lines, Parquet.

Long form, one sample a row, because structures come at different times. A missing value is an empty cell, null in JSON
and Parquet: never a number.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from flightsw.errors import ConfigError, LinkError, StoreError
from ground.archive import Archive

FORMATS = ("csv", "jsonl", "parquet")
_PARQUET_ROWS = 1 << 20
Row = tuple[object, ...]


def table(archive: Archive, what: Sequence[str], since_s: float,
          until_s: float) -> tuple[tuple[str, ...], Iterator[Row]]:
    """Return column names and rows: of `events`, of `commands`, or of points (all of them where none is named).

    LinkError names what the archive does not have.
    """
    if list(what) == ["events"]:
        return ("obt_s", "received_s", "severity", "name", "text"), (
            (e.obt_s, e.received_s, e.severity.name, e.name, e.text) for e in archive.events(since_s, until_s))
    if list(what) == ["commands"]:
        return ("sent_s", "verb", "args", "state", "stages"), (
            (c.sent_s, c.verb, json.dumps(c.args), c.state,
             json.dumps([[s.stage, round(s.received_s - c.sent_s, 3), s.text] for s in c.stages]))
            for c in archive.commands(since_s, until_s))
    points = list(what) or archive.points
    unknown = [point for point in points if point not in archive.points]
    if unknown:
        raise LinkError(f"no point {unknown[0]!r} in archive {archive.path}; `ground show latest` lists them")
    return ("obt_s", "point", "value"), _samples(archive, points, since_s, until_s)


def _samples(archive: Archive, points: Sequence[str], since_s: float, until_s: float) -> Iterator[Row]:
    for point in points:
        for obt_s, value in archive.samples(point, since_s, until_s):
            yield obt_s, point, value


def write_text(names: Sequence[str], rows: Iterator[Row], form: str, out: TextIO) -> int:
    """Write rows as CSV or JSON lines; return how many."""
    count = 0
    if form == "csv":
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(names)
        for row in rows:
            writer.writerow(["" if _is_missing(cell) else cell for cell in row])
            count += 1
        return count
    for row in rows:
        cells = (None if _is_missing(cell) else cell for cell in row)
        out.write(json.dumps(dict(zip(names, cells, strict=True))) + "\n")
        count += 1
    return count


def write_parquet(names: Sequence[str], rows: Iterator[Row], path: Path) -> int:
    """Write rows as Parquet, a million at a time; return how many.

    ConfigError where the extra is not installed, StoreError where the file cannot be written.
    """
    try:
        import pyarrow  # noqa: PLC0415 # an extra of 170 MB
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(str(path), "Parquet needs the extra 'parquet': pip install '.[parquet]'") from error
    kinds = {"obt_s": pyarrow.float64(), "received_s": pyarrow.float64(), "sent_s": pyarrow.float64(),
             "value": pyarrow.float64()}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in names])
    count = 0
    try:
        with parquet.ParquetWriter(path, schema) as writer:
            while chunk := list(itertools.islice(rows, _PARQUET_ROWS)):
                columns = [[None if _is_missing(row[i]) else row[i] for row in chunk] for i in range(len(names))]
                writer.write_table(pyarrow.table(columns, schema=schema))
                count += len(chunk)
    except OSError as error:
        raise StoreError(f"{path}: {os.strerror(error.errno) if error.errno else error}") from error
    return count


def _is_missing(cell: object) -> bool:
    return cell is None or (isinstance(cell, float) and not math.isfinite(cell))

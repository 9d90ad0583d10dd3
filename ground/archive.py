"""The ground archive: everything that was received and sent, in one SQLite file that may span years.

Owns the schema, the grouping of writes and every query. A `Station` writes to it; the console, reports and `ground
show` read. It never reads a clock. What it keeps is packets as received: telemetry points are read out of them by the
layouts that the file names, so a later dictionary loses nothing.

Housekeeping is nearly all of a year. Its packets come as rows; as soon as there are twice `SEAL_PACKETS` of one
structure, the older half is sealed: rows become one block with a compressed column for each point
(`ground.columns`) and its least and greatest value. A question about one point then reads that point's columns of the
blocks that overlap, and a plot of a year reads no column at all.

Durability. The file is in WAL mode with synchronous=NORMAL. A commit is in the operating system's cache
when `tend` returns, so SIGKILL of the ground at any moment loses nothing that was committed; a power cut
may lose the commits since the last checkpoint and never corrupts. FULL would add an fsync to every commit
(milliseconds, beside 40 us) for a second copy of what the satellite still holds. Rows wait in memory, not in
an open transaction, until their group is written: readers are never locked out and a failed write loses
nothing: the group stays and is written once the disk has room again. Sealing is one transaction: a packet is a row or
in a block, never both, never neither.

Times: `obt_s` is the satellite's stamp, `received_s` Unix seconds of the ground. A value that was missing is
None.
"""

from __future__ import annotations

import json
import math
import sqlite3
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np

from flightsw.dictionary.commands import Value
from flightsw.dictionary.events import EventRow, Severity
from flightsw.dictionary.telemetry import HOUSEKEEPING, Housekeeping
from flightsw.errors import StoreError
from ground import columns
from ground.columns import Array, Layout

APPLICATION_ID = 0x46535747
"""Marks a SQLite file as a ground archive ("FSWG", PRAGMA application_id)."""

SCHEMA_VERSION = 2
"""Schema of the tables (PRAGMA user_version); a point more in the dictionary is not a new version."""

SEAL_PACKETS = 4096
"""Packets of a block: an hour at 1 Hz. Larger ones pack no better, and a day's question would read too much."""

PENDING_MAX = 50_000
"""Packets that wait in memory, at most, while the disk is full: half a minute of the fastest link."""

T = TypeVar("T")

_BUSY_S = 2.0
_RETRY_S = 1.0
_SEAL_RETRY_S = 60.0
_CHUNK_IDS = 20_000
_ID_MAX = (1 << 63) - 1
_CURABLE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
"""Errors after which the next commit may succeed; any other ends the archive (an I/O error is no hope)."""

_SCHEMA = (
    "CREATE TABLE packets (id INTEGER PRIMARY KEY, received_s REAL NOT NULL, obt_s REAL, apid INTEGER NOT NULL,"
    " service INTEGER, subservice INTEGER, seq INTEGER NOT NULL, octets BLOB NOT NULL, layout INTEGER)",
    "CREATE INDEX packets_received ON packets (received_s)",
    "CREATE INDEX packets_layout ON packets (layout, obt_s) WHERE layout IS NOT NULL",
    "CREATE TABLE layouts (id INTEGER PRIMARY KEY, sid INTEGER NOT NULL, name TEXT NOT NULL,"
    " octets INTEGER NOT NULL, columns TEXT NOT NULL)",
    # Packets of a block differ in their ids, times and octets only: the rest stands in the block.
    "CREATE TABLE blocks (id INTEGER PRIMARY KEY, layout INTEGER NOT NULL, obt_first_s REAL NOT NULL,"
    " obt_last_s REAL NOT NULL, received_first_s REAL NOT NULL, received_last_s REAL NOT NULL,"
    " packet_first INTEGER NOT NULL, packet_last INTEGER NOT NULL, packet_count INTEGER NOT NULL,"
    " ids BLOB NOT NULL, obt BLOB NOT NULL, received BLOB NOT NULL, headers BLOB NOT NULL)",
    "CREATE INDEX blocks_obt ON blocks (layout, obt_last_s, obt_first_s)",
    "CREATE INDEX blocks_received ON blocks (received_last_s, packet_first)",
    "CREATE INDEX blocks_packet ON blocks (packet_last, packet_first)",
    "CREATE TABLE columns (id INTEGER PRIMARY KEY, block INTEGER NOT NULL, number INTEGER NOT NULL,"
    " minimum REAL, maximum REAL, octets BLOB NOT NULL)",
    "CREATE UNIQUE INDEX columns_block ON columns (block, number, minimum, maximum)",
    "CREATE TABLE acknowledged (packet_id INTEGER PRIMARY KEY, at_s REAL NOT NULL)",
    "CREATE TABLE notes (id INTEGER PRIMARY KEY, at_s REAL NOT NULL, source TEXT NOT NULL, text TEXT NOT NULL)",
    "CREATE TABLE events (packet_id INTEGER PRIMARY KEY, obt_s REAL NOT NULL, number INTEGER NOT NULL,"
    " name TEXT NOT NULL, severity INTEGER NOT NULL, text TEXT NOT NULL, args TEXT NOT NULL)",
    "CREATE INDEX events_obt ON events (obt_s)",
    "CREATE TABLE parameters (packet_id INTEGER PRIMARY KEY, obt_s REAL NOT NULL, number INTEGER NOT NULL,"
    " name TEXT NOT NULL, value REAL)",
    "CREATE INDEX parameters_number ON parameters (number, packet_id)",
    "CREATE TABLE commands (id INTEGER PRIMARY KEY, request_id INTEGER NOT NULL, sent_s REAL NOT NULL,"
    " verb TEXT NOT NULL, args TEXT NOT NULL, octets BLOB NOT NULL, state TEXT NOT NULL)",
    "CREATE INDEX commands_request ON commands (request_id)",
    "CREATE TABLE verifications (packet_id INTEGER PRIMARY KEY, command_id INTEGER,"
    " request_id INTEGER NOT NULL, stage INTEGER NOT NULL,"
    " code INTEGER NOT NULL, text TEXT NOT NULL, obt_s REAL NOT NULL)",
    "CREATE INDEX verifications_command ON verifications (command_id)",
    "CREATE TABLE gaps (id INTEGER PRIMARY KEY, received_s REAL NOT NULL, source TEXT NOT NULL, lost INTEGER)",
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL)",
)

_PACKET = "INSERT INTO packets VALUES (?,?,?,?,?,?,?,?,?)"
_EVENT = "INSERT INTO events VALUES (?,?,?,?,?,?,?)"
_PARAMETER = "INSERT INTO parameters VALUES (?,?,?,?,?)"
_VERIFICATION = "INSERT INTO verifications VALUES (?,?,?,?,?,?,?)"
_GAP = "INSERT INTO gaps (received_s, source, lost) VALUES (?,?,?)"
_STATE = "UPDATE commands SET state = ? WHERE id = ?"
_COUNTER = "INSERT INTO counters VALUES (?,?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"


_IS_SHORT = "b.obt_first_s >= ? AND b.obt_last_s < ? AND b.obt_last_s - b.obt_first_s <= ?"
"""Blocks within a window whose least and greatest stand for all their samples."""


class PacketRow(NamedTuple):
    """One received packet; `service` and `subservice` are None where it had no valid PUS header."""

    packet_id: int
    received_s: float
    obt_s: float | None
    apid: int
    service: int | None
    subservice: int | None
    seq: int
    octets: bytes


class LatestRow(NamedTuple):
    """The value of one point in the structure received last; None is missing."""

    point: str
    value: float | int | None
    obt_s: float
    received_s: float


class EventEntry(NamedTuple):
    """One event report; `args` as sent, None for a number that was not finite. `event_id` names it in this file,
    `acknowledged_s` says when an operator took note of it, None while nobody did.
    """

    obt_s: float
    received_s: float
    number: int
    name: str
    severity: Severity
    text: str
    args: tuple[float | int | str | None, ...]
    event_id: int = 0
    acknowledged_s: float | None = None


class StageEntry(NamedTuple):
    """One verification report of a command (stages of PUS service 1)."""

    stage: int
    code: int
    text: str
    obt_s: float
    received_s: float


class CommandEntry(NamedTuple):
    """One command as sent, its last known state and every verification report that came back."""

    command_id: int
    request_id: int
    sent_s: float
    verb: str
    args: tuple[Value, ...]
    state: str
    stages: tuple[StageEntry, ...]


class GapEntry(NamedTuple):
    """Something that did not arrive; `lost` is None where the counters do not tell how much."""

    received_s: float
    source: str
    lost: int | None


class NoteEntry(NamedTuple):
    """One line that a procedure or an operator left in the archive."""

    at_s: float
    source: str
    text: str


class Series(NamedTuple):
    """Values of one point by on-board time; NaN is missing. With `lows` None they are samples as received, else each
    stands for a stretch of time: `values` the greatest and `lows` the least in it.
    """

    obt_s: Array
    values: Array
    lows: Array | None = None


class _Where(NamedTuple):
    """Where a point stands in the packets of one layout."""

    layout: int
    number: int
    kind: str
    at: int


class Archive:
    """One archive file, open for writing or for reading.

    A decoded row belongs to the packet added last. Nothing added is in the file before `tend` or `flush`.
    Raises StoreError, with the path, where the file cannot be used.
    """

    def __init__(self, path: Path, *, read_only: bool = False, commit_count: int = 256, commit_s: float = 0.0,
                 structures: Sequence[Housekeeping] = HOUSEKEEPING) -> None:
        """Open or make the archive at `path`.

        A group is committed when it holds `commit_count` packets or is `commit_s` old; with the default, 0,
        every `tend` commits what waits.
        """
        self.path = path
        self.lost_packets = 0  # could not be kept while the file could not be written
        self._read_only = read_only
        self._commit_count = commit_count
        self._commit_s = commit_s
        self._packets: deque[list[Any]] = deque()
        self._decoded: dict[str, list[tuple[int, tuple[object, ...]]]] = {}
        self._other: list[tuple[str, tuple[object, ...]]] = []
        self._waiting_since_s: float | None = None
        self._retry_at_s = -math.inf
        self._broken = ""
        self._seal_at_s = -math.inf
        self._connection = self._open()
        self._layouts = {number: Layout(sid, name, octets, tuple(map(tuple, json.loads(text))))
                         for number, sid, name, octets, text in self._select("SELECT * FROM layouts ORDER BY id")}
        if not read_only:
            self._add_layouts(structures)
        self._current = {(layout.sid, layout.octets): number for number, layout in self._layouts.items()}
        self._rows_of: dict[int, int] = dict(self._select(
            "SELECT layout, count(*) FROM packets WHERE layout IS NOT NULL GROUP BY layout"))
        self._where: dict[str, list[_Where]] = {}
        for number, layout in self._layouts.items():
            for i, (name, kind, at) in enumerate(layout.columns):
                self._where.setdefault(name, []).append(_Where(number, i, kind, at))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what waits and close the file; StoreError when it could not be written."""
        try:
            if not self._read_only and not self._broken:
                self.flush()
        finally:
            self._connection.close()

    # -- writing

    def add_packet(self, received_s: float, obt_s: float | None, apid: int, service: int | None,
                   subservice: int | None, seq: int, octets: bytes) -> None:
        """Keep one packet as received. The rows added next are decoded from it."""
        if len(self._packets) >= PENDING_MAX:
            self._drop_oldest()
        self._packets.append([received_s, obt_s, apid, service, subservice, seq, octets, None])

    def add_housekeeping(self, sid: int) -> None:
        """Take the packet added last for a report of structure `sid`: its points can be asked for."""
        row = self._packets[-1]
        row[7] = self._current[sid, len(row[6])]

    def add_event(self, obt_s: float, row: EventRow, args: Sequence[float | int | str], text: str) -> None:
        """Keep an event report and its text."""
        self._add(_EVENT, (obt_s, row.number, row.name, int(row.severity), text, _json(args)))

    def add_parameter(self, obt_s: float, number: int, name: str, value: float) -> None:
        """Keep a reported on-board parameter."""
        self._add(_PARAMETER, (obt_s, number, name, value))

    def add_verification(self, command_id: int | None, request_id: int, stage: int, code: int, text: str,
                         obt_s: float) -> None:
        """Keep a verification report; `command_id` is None for a request that this archive never sent."""
        self._add(_VERIFICATION, (command_id, request_id, stage, code, text, obt_s))

    def add_gap(self, received_s: float, source: str, lost: int | None) -> None:
        """Note that `lost` units of `source` (for instance "APID 100") did not arrive."""
        if len(self._other) < PENDING_MAX:
            self._other.append((_GAP, (received_s, source, lost)))

    def add_note(self, at_s: float, source: str, text: str) -> None:
        """Keep a line of a procedure or an operator."""
        self._other.append(("INSERT INTO notes (at_s, source, text) VALUES (?,?,?)", (at_s, source, text)))

    def acknowledge(self, event_ids: Iterable[int], at_s: float) -> None:
        """Note that an operator took note of events; what was acknowledged before stays as it is."""
        self._other += [("INSERT OR IGNORE INTO acknowledged VALUES (?,?)", (event_id, at_s))
                        for event_id in event_ids]

    def set_state(self, command_id: int, state: str) -> None:
        """Note the state of a command."""
        self._other.append((_STATE, (state, command_id)))

    def counter(self, name: str) -> int:
        """Return the value of counter `name`, 0 before it was ever kept."""
        rows = self._select("SELECT value FROM counters WHERE name = ?", name)
        return int(rows[0][0]) if rows else 0

    def keep_counter(self, name: str, value: int) -> None:
        """Keep a value of counter `name` together with the packets that wait: both are in the file, or neither."""
        self._other.append((_COUNTER, (name, value)))

    def take_count(self, name: str, modulus: int) -> int:
        """Return the next value of counter `name`, in the file before it is returned: never used twice."""
        return self._write_now(
            "INSERT INTO counters VALUES (:name, 0)"
            " ON CONFLICT (name) DO UPDATE SET value = (value + 1) % :modulus RETURNING value",
            {"name": name, "modulus": modulus},
        )

    def add_command(self, request_id: int, sent_s: float, verb: str, args: Sequence[Value], octets: bytes,
                    state: str) -> int:
        """Keep a command that is about to be sent and return its id; it is in the file on return."""
        return self._write_now(
            "INSERT INTO commands (request_id, sent_s, verb, args, octets, state) VALUES"
            " (:request, :sent, :verb, :args, :octets, :state) RETURNING id",
            {"request": request_id, "sent": sent_s, "verb": verb, "args": _json(args), "octets": octets,
             "state": state},
        )

    def command_of(self, request_id: int) -> CommandEntry | None:
        """Return the command sent last under `request_id`, without its stages; None when there is none."""
        rows = self._select("SELECT id, request_id, sent_s, verb, args, state FROM commands"
                            " WHERE request_id = ? ORDER BY id DESC LIMIT 1", request_id)
        return _command_entry(rows[0], ()) if rows else None

    @property
    def pending(self) -> int:
        """Packets that wait to be written."""
        return len(self._packets)

    def tend(self, now_s: float) -> bool:
        """Commit when a group is due; True when all that was added is in the file.

        StoreError when it could not be written: what waits is kept (up to `PENDING_MAX` packets) and tried
        again a second later, unless the file itself is broken.
        """
        if not self._packets and not self._other:
            return True
        if self._waiting_since_s is None:
            self._waiting_since_s = now_s
        due = now_s - self._waiting_since_s >= self._commit_s or len(self._packets) >= self._commit_count
        if not due or now_s < self._retry_at_s:
            return False
        self._retry_at_s = now_s + _RETRY_S
        self.flush()
        self._retry_at_s = -math.inf
        full = next((number for number, rows in self._rows_of.items() if rows >= 2 * SEAL_PACKETS), None)
        if full is not None and now_s >= self._seal_at_s:
            try:
                self._seal(full)
            except StoreError:  # nothing is lost: the packets are rows, and room may come
                self._seal_at_s = now_s + _SEAL_RETRY_S
        return True

    def flush(self) -> None:
        """Commit all that was added, as one transaction."""
        if self._broken:
            raise StoreError(self._broken)
        if not self._packets and not self._other:
            return
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            first = self._take_ids(len(self._packets))
            connection.executemany(_PACKET, [(first + i, *row) for i, row in enumerate(self._packets)])
            for sql, rows in self._decoded.items():
                connection.executemany(sql, [(first + i, *row) for i, row in rows])
            for sql, row in self._other:
                connection.execute(sql, row)
            if self.lost_packets:
                connection.execute(_GAP, (self._packets[0][0] if self._packets else 0.0, "archive",
                                          self.lost_packets))
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failure(error) from error
        for packet in self._packets:
            if packet[7] is not None:
                self._rows_of[packet[7]] = self._rows_of.get(packet[7], 0) + 1
        self._packets.clear()
        self._decoded.clear()
        self._other.clear()
        self.lost_packets = 0
        self._waiting_since_s = None

    # -- queries

    @property
    def points(self) -> list[str]:
        """Every point that the archive can be asked for, whichever dictionary it came from."""
        return list(self._where)

    def latest(self) -> list[LatestRow]:
        """Return every point's value in the structure received last; structures never received are left out."""
        newest: dict[int, tuple[int, float, float, int, bytes]] = {}
        for number, layout in self._layouts.items():
            found = self._select("SELECT id, received_s, obt_s, octets FROM packets WHERE layout = ?"
                                 " ORDER BY id DESC LIMIT 1", number)
            if found and found[0][0] > newest.get(layout.sid, (0,))[0]:
                packet_id, received_s, obt_s, octets = found[0]
                newest[layout.sid] = (packet_id, received_s, obt_s, number, octets)
        return [
            LatestRow(name, _plain(kind, columns.raw_values(kind, at, [octets])[0]), obt_s, received_s)
            for _, received_s, obt_s, number, octets in newest.values()
            for name, kind, at in self._layouts[number].columns
        ]

    def samples(self, point: str, since_s: float = -math.inf,
                until_s: float = math.inf) -> list[tuple[float, float | int | None]]:
        """Return (`obt_s`, value) of one point with `since_s` <= `obt_s` < `until_s`, oldest first."""
        found = self.series(point, since_s, until_s)
        whole = all(where.kind[0] != "f" for where in self._where[point])
        if whole:
            return [(t, int(v)) for t, v in zip(found.obt_s.tolist(), found.values.tolist(), strict=True)]
        return [(t, v if math.isfinite(v) else None)
                for t, v in zip(found.obt_s.tolist(), found.values.tolist(), strict=True)]

    def series(self, point: str, since_s: float = -math.inf, until_s: float = math.inf) -> Series:
        """Return every sample of one point with `since_s` <= `obt_s` < `until_s`, oldest first."""
        return self._read(point, since_s, until_s)

    def decimated(self, point: str, since_s: float = -math.inf, until_s: float = math.inf,
                  stretches: int = 1000) -> Series:
        """Return samples as `series` does where they are few, else least and greatest for each of `stretches`.

        No peak is lost. Blocks shorter than a stretch are not opened: their least and greatest are in an index.
        """
        found = self._find(point)
        first_s, last_s = self.span(point)
        since_s, until_s = max(since_s, first_s), min(until_s, math.nextafter(last_s, math.inf))
        step_s = (until_s - since_s) / stretches
        if not step_s > 0.0:
            return self._read(point, since_s, until_s)
        short = [row for where in found for row in self._select(
            "SELECT b.obt_first_s, b.obt_last_s, c.minimum, c.maximum FROM blocks b JOIN columns c"
            f" ON c.block = b.id AND c.number = ? WHERE b.layout = ? AND {_IS_SHORT}",
            where.number, where.layout, since_s, until_s, step_s)]
        rest = self._read(point, since_s, until_s, step_s)
        if not short:
            return thinned(rest, since_s, step_s, stretches)
        table = np.array(short, np.float64)  # None becomes NaN
        return thinned(Series(np.append(rest.obt_s, 0.5 * (table[:, 0] + table[:, 1])),
                               np.append(rest.values, table[:, 3]), np.append(rest.values, table[:, 2])),
                        since_s, step_s, stretches)

    def _read(self, point: str, since_s: float, until_s: float, short_s: float = -1.0) -> Series:
        """Read samples of a window out of rows, and out of blocks but those within it and up to `short_s` long."""
        times: list[Array] = []
        values: list[Array] = []
        for where in self._find(point):
            for block, obt, octets in self._select(
                "SELECT b.id, b.obt, c.octets FROM blocks b JOIN columns c ON c.block = b.id AND c.number = ?"
                f" WHERE b.layout = ? AND b.obt_last_s >= ? AND b.obt_first_s < ? AND NOT ({_IS_SHORT}) ORDER BY b.id",
                where.number, where.layout, since_s, until_s, since_s, until_s, short_s,
            ):
                times.append(self._unpacked(block, columns.unpack_times, obt))
                values.append(self._unpacked(block, partial(columns.values_of, where.kind), octets))
            rows = self._select("SELECT obt_s, octets FROM packets WHERE layout = ? AND obt_s >= ? AND obt_s < ?"
                                " ORDER BY id", where.layout, since_s, until_s)
            times.append(np.array([row[0] for row in rows], np.float64))
            values.append(columns.raw_values(where.kind, where.at, [row[1] for row in rows]))
        obt_s, value = np.concatenate(times), np.concatenate(values)
        inside = np.flatnonzero((obt_s >= since_s) & (obt_s < until_s))
        order = inside[np.argsort(obt_s[inside], kind="stable")]
        return Series(obt_s[order], value[order])

    def span(self, point: str | None = None) -> tuple[float, float]:
        """Return first and last on-board time of `point`, or of all housekeeping; (inf, -inf) where there is none."""
        numbers = list(self._layouts) if point is None else [where.layout for where in self._find(point)]
        found = [row for number in numbers for row in (
            *self._select("SELECT min(obt_s), max(obt_s) FROM packets WHERE layout = ?", number),
            *self._select("SELECT min(obt_first_s), max(obt_last_s) FROM blocks WHERE layout = ?", number),
        ) if row[0] is not None]
        return (min((row[0] for row in found), default=math.inf), max((row[1] for row in found), default=-math.inf))

    def events(self, since_s: float = -math.inf, until_s: float = math.inf,
               severity: Severity = Severity.INFO) -> list[EventEntry]:
        """Return events of at least `severity` with `since_s` <= `obt_s` < `until_s`, oldest first."""
        return self._events("e.obt_s >= ? AND e.obt_s < ? AND e.severity >= ? ORDER BY e.obt_s, e.packet_id",
                            since_s, until_s, int(severity))

    def newest_events(self, after_id: int = 0, until_id: int = _ID_MAX, count: int = 500) -> list[EventEntry]:
        """Return the newest `count` events of packets after `after_id` up to `until_id`, in the order of reception."""
        return self._events("e.packet_id > ? AND e.packet_id <= ? ORDER BY e.packet_id DESC LIMIT ?",
                            after_id, until_id, count)[::-1]

    def _events(self, where: str, *values: float) -> list[EventEntry]:
        rows = self._select(
            "SELECT e.obt_s, p.received_s, e.number, e.name, e.severity, e.text, e.args, e.packet_id, a.at_s"
            " FROM events e JOIN packets p ON p.id = e.packet_id LEFT JOIN acknowledged a ON a.packet_id = e.packet_id"
            f" WHERE {where}", *values)
        return [EventEntry(obt, received, number, name, Severity(level), text, tuple(json.loads(args)), event_id, ack)
                for obt, received, number, name, level, text, args, event_id, ack in rows]

    def notes(self, since_s: float = -math.inf, until_s: float = math.inf) -> list[NoteEntry]:
        """Return notes with `since_s` <= `at_s` < `until_s` in the order they were made."""
        return [NoteEntry(*row) for row in self._select(
            "SELECT at_s, source, text FROM notes WHERE at_s >= ? AND at_s < ? ORDER BY id", since_s, until_s)]

    def commands(self, since_s: float = -math.inf, until_s: float = math.inf) -> list[CommandEntry]:
        """Return commands with `since_s` <= `sent_s` < `until_s` in the order they were sent."""
        return self._commands("sent_s >= ? AND sent_s < ? ORDER BY id", since_s, until_s)

    def newest_commands(self, until_s: float = math.inf, count: int = 200) -> list[CommandEntry]:
        """Return the newest `count` commands sent before `until_s` in the order they were sent."""
        return self._commands("sent_s < ? ORDER BY id DESC LIMIT ?", until_s, count)[::-1]

    def _commands(self, where: str, *values: float) -> list[CommandEntry]:
        rows = self._select(f"SELECT id, request_id, sent_s, verb, args, state FROM commands WHERE {where}", *values)
        stages: dict[int, list[StageEntry]] = {}
        if rows:
            ids = [row[0] for row in rows]
            for command_id, *stage in self._select(
                "SELECT v.command_id, v.stage, v.code, v.text, v.obt_s, p.received_s FROM verifications v"
                " JOIN packets p ON p.id = v.packet_id WHERE v.command_id >= ? AND v.command_id <= ?"
                " ORDER BY v.packet_id", min(ids), max(ids),
            ):
                stages.setdefault(command_id, []).append(StageEntry(*stage))
        return [_command_entry(row, tuple(stages.get(row[0], ()))) for row in rows]

    def parameters(self, until_id: int = _ID_MAX) -> dict[str, float]:
        """Return the value of every on-board parameter as reported last, in packets up to `until_id`."""
        return dict(self._select("SELECT name, value FROM parameters WHERE packet_id IN"
                                 " (SELECT max(packet_id) FROM parameters WHERE packet_id <= ? GROUP BY number)"
                                 " AND value IS NOT NULL", until_id))

    def gaps(self) -> list[GapEntry]:
        """Return everything that is known not to have arrived, in the order it was noticed."""
        return [GapEntry(*row) for row in self._select("SELECT received_s, source, lost FROM gaps ORDER BY id")]

    def packets(self, since_s: float = -math.inf, until_s: float = math.inf) -> Iterator[PacketRow]:
        """Yield packets with `since_s` <= `received_s` < `until_s` in the order they were received."""
        firsts = [row[0] for row in (
            *self._select("SELECT min(id) FROM packets WHERE received_s >= ? AND received_s < ?", since_s, until_s),
            *self._select("SELECT min(packet_first) FROM blocks WHERE received_last_s >= ? AND received_first_s < ?",
                          since_s, until_s)) if row[0] is not None]
        lasts = [row[0] for row in (
            *self._select("SELECT max(id) FROM packets WHERE received_s >= ? AND received_s < ?", since_s, until_s),
            *self._select("SELECT max(packet_last) FROM blocks WHERE received_last_s >= ? AND received_first_s < ?",
                          since_s, until_s)) if row[0] is not None]
        opened: dict[int, list[PacketRow]] = {}
        for low in range(min(firsts, default=0), max(lasts, default=-1) + 1, _CHUNK_IDS):
            rows = self._packets_of(low, low + _CHUNK_IDS, opened)
            yield from (row for row in rows if since_s <= row.received_s < until_s)

    def packets_after(self, packet_id: int, count: int = _CHUNK_IDS) -> list[PacketRow]:
        """Return the packets that were received after one, at most `count` ids further, in order."""
        return self._packets_of(packet_id + 1, packet_id + 1 + count, {})

    def packet_before(self, received_s: float) -> int:
        """Return the id of the last packet received before a time, 0 where there is none."""
        found = [row[0] for row in (
            # Of the newest thousand, not the newest: a clock that was set back leaves later packets with earlier times.
            *self._select("SELECT max(id) FROM (SELECT id FROM packets WHERE received_s < ?"
                          " ORDER BY received_s DESC LIMIT 1000)", received_s),
            *self._select("SELECT max(packet_last) FROM blocks WHERE received_last_s < ?", received_s))
            if row[0] is not None]
        for block, in self._select("SELECT id FROM blocks WHERE received_last_s >= ? AND received_first_s < ?",
                                   received_s, received_s):
            found += [row.packet_id for row in self._open_block(block) if row.received_s < received_s]
        return max(found, default=0)

    def reception_times(self, since_s: float = -math.inf, until_s: float = math.inf) -> Array:
        """Return when each packet of a window was received, in order."""
        found = [np.array([row[0] for row in self._select(
            "SELECT received_s FROM packets WHERE received_s >= ? AND received_s < ?", since_s, until_s)], np.float64)]
        for block, octets in self._select("SELECT id, received FROM blocks WHERE received_last_s >= ?"
                                          " AND received_first_s < ?", since_s, until_s):
            times = self._unpacked(block, columns.unpack_times, octets)
            found.append(times[(times >= since_s) & (times < until_s)])
        return np.sort(np.concatenate(found))

    def last_reception_s(self) -> float:
        """Return when the newest packet was received, -inf where there is none."""
        found = [*self._select("SELECT max(received_s) FROM packets"),
                 *self._select("SELECT max(received_last_s) FROM blocks")]
        return max((row[0] for row in found if row[0] is not None), default=-math.inf)

    def obt_span(self, since_s: float, until_s: float) -> tuple[float, float]:
        """Return first and last on-board time of the packets received in a window, the window where there are none."""
        found = self._select("SELECT min(obt_s), max(obt_s) FROM packets WHERE received_s >= ? AND received_s < ?",
                             since_s, until_s)
        for block, obt, octets in self._select("SELECT id, obt, received FROM blocks WHERE received_last_s >= ?"
                                               " AND received_first_s < ?", since_s, until_s):
            times = self._unpacked(block, columns.unpack_times, octets)
            inside = self._unpacked(block, columns.unpack_times, obt)[(times >= since_s) & (times < until_s)]
            found += [(float(inside.min()), float(inside.max()))] if inside.size else []
        known = [row for row in found if row[0] is not None]
        if not known:
            return since_s, until_s
        return min(row[0] for row in known), max(row[1] for row in known)

    def examine(self) -> list[str]:
        """Read the whole file and say what is in it; StoreError names what is not as it was written."""
        problems = [row[0] for row in self._select("PRAGMA integrity_check(3)") if row[0] != "ok"]
        if problems:
            raise StoreError(f"archive {self.path} is damaged: {'; '.join(problems)}")
        sealed = 0
        for block, first, last, count in self._select("SELECT id, packet_first, packet_last, packet_count FROM blocks"):
            rows = self._open_block(block)
            sealed += len(rows)
            if (len(rows), rows[0].packet_id, rows[-1].packet_id) != (count, first, last):
                raise StoreError(f"archive {self.path}: block {block} holds {len(rows)} packets, not {count}")
        counts = [(name, self._select(f"SELECT count(*) FROM {name}")[0][0])
                  for name in ("packets", "events", "commands", "gaps", "notes")]
        return [f"{sealed} packets in blocks", *(f"{count} {name}" for name, count in counts)]

    # -- inside

    def _take_ids(self, count: int) -> int:
        """Return the first of `count` packet ids, never used before, within a transaction."""
        last: int = self._connection.execute(
            "INSERT INTO counters VALUES ('packets', :n) ON CONFLICT (name) DO UPDATE SET value = value + :n"
            " RETURNING value", {"n": count}).fetchone()[0]
        return last - count + 1

    def _packets_of(self, low: int, high: int, opened: dict[int, list[PacketRow]]) -> list[PacketRow]:
        """Return the packets with ids in `low`..`high` - 1; blocks that stay of use are kept in `opened`."""
        self._connection.execute("BEGIN")  # rows and blocks of one moment: nothing is sealed in between
        try:
            rows = [PacketRow(*row) for row in self._select(
                "SELECT id, received_s, obt_s, apid, service, subservice, seq, octets FROM packets"
                " WHERE id >= ? AND id < ? ORDER BY id", low, high)]
            blocks = [row[0] for row in self._select(
                "SELECT id FROM blocks WHERE packet_last >= ? AND packet_first < ?", low, high)]
            for block in opened.keys() - set(blocks):
                del opened[block]
            for block in blocks:
                if block not in opened:
                    opened[block] = self._open_block(block)
        finally:
            self._connection.execute("COMMIT")
        if not blocks:
            return rows
        return sorted(rows + [row for found in opened.values() for row in found if low <= row.packet_id < high])

    def _seal(self, number: int) -> None:
        """Turn the oldest `SEAL_PACKETS` rows of one layout into a block."""
        connection, layout = self._connection, self._layouts[number]
        try:
            connection.execute("BEGIN IMMEDIATE")
            rows = connection.execute("SELECT id, received_s, obt_s, octets FROM packets WHERE layout = ?"
                                      " ORDER BY id LIMIT ?", (number, SEAL_PACKETS)).fetchall()
            if len(rows) == SEAL_PACKETS:  # fewer where another writer sealed them
                ids, received_s, obt_s, packets = zip(*rows, strict=True)
                headers, made = columns.columns_of(layout, packets)
                block = connection.execute(
                    "INSERT INTO blocks VALUES (NULL,?,?,?,?,?,?,?,?,?,?,?,?) RETURNING id",
                    (number, min(obt_s), max(obt_s), min(received_s), max(received_s), ids[0], ids[-1], len(ids),
                     columns.pack_numbers(ids), columns.pack_times(np.array(obt_s)),
                     columns.pack_times(np.array(received_s)), headers)).fetchone()[0]
                connection.executemany("INSERT INTO columns VALUES (NULL,?,?,?,?,?)",
                                       [(block, i, c.minimum, c.maximum, c.octets) for i, c in enumerate(made)])
                connection.execute("DELETE FROM packets WHERE layout = ? AND id <= ?", (number, ids[-1]))
            left = connection.execute("SELECT count(*) FROM packets WHERE layout = ?", (number,)).fetchone()[0]
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failure(error) from error
        self._rows_of[number] = left

    def _open_block(self, block: int) -> list[PacketRow]:
        """Return the packets of a block as they were received."""
        number, ids, obt, received, headers = self._select(
            "SELECT layout, ids, obt, received, headers FROM blocks WHERE id = ?", block)[0]
        stored = [row[0] for row in self._select("SELECT octets FROM columns WHERE block = ? ORDER BY number", block)]
        packets = self._unpacked(block, lambda _: columns.packets_of(self._layouts[number], headers, stored), b"")
        return [
            PacketRow(packet_id, received_s, obt_s, (octets[0] << 8 | octets[1]) & 0x7FF, octets[7], octets[8],
                      (octets[2] << 8 | octets[3]) & 0x3FFF, octets)
            for packet_id, received_s, obt_s, octets in zip(
                columns.unpack_numbers(ids), columns.unpack_times(received).tolist(),
                columns.unpack_times(obt).tolist(), packets, strict=True)
        ]

    def _unpacked(self, block: int, unpack: Callable[[bytes], T], octets: bytes) -> T:
        try:
            return unpack(octets)
        except (zlib.error, ValueError) as error:
            raise StoreError(f"archive {self.path}: block {block} is corrupt: {error}") from error

    def _find(self, point: str) -> list[_Where]:
        found = self._where.get(point)
        if found is None:
            raise StoreError(f"archive {self.path}: no point {point!r}")
        return found

    def _add_layouts(self, structures: Sequence[Housekeeping]) -> None:
        """Name this dictionary's layouts in the file; those of others stay."""
        known = {layout: number for number, layout in self._layouts.items()}
        for row in structures:
            layout = columns.layout_of(row)
            if layout not in known:
                number = self._write_now("INSERT INTO layouts VALUES (NULL, :sid, :name, :octets, :columns)"
                                         " RETURNING id",
                                         {"sid": layout.sid, "name": layout.name, "octets": layout.octets,
                                          "columns": layout.to_text()})
                self._layouts[number] = layout
            else:  # the newest of equal size is the one in use
                self._layouts[known[layout]] = self._layouts.pop(known[layout])

    def _add(self, sql: str, row: tuple[object, ...]) -> None:
        rows = self._decoded.get(sql)
        if rows is None:
            rows = self._decoded[sql] = []
        rows.append((len(self._packets) - 1, row))

    def _drop_oldest(self) -> None:
        """Give up the oldest half of what waits; it is noted as a gap once the file can be written."""
        dropped = len(self._packets) // 2
        for _ in range(dropped):
            self._packets.popleft()
        self.lost_packets += dropped
        for sql, rows in self._decoded.items():
            self._decoded[sql] = [(i - dropped, row) for i, row in rows if i >= dropped]

    def _write_now(self, sql: str, values: dict[str, object]) -> int:
        """Commit what waits, then one statement that returns a number."""
        self.flush()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            found: int = self._connection.execute(sql, values).fetchone()[0]
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failure(error) from error
        return found

    def _failure(self, error: sqlite3.Error) -> StoreError:
        """Roll back and say what happened; remember an error that no later write can cure."""
        if self._connection.in_transaction:
            self._connection.rollback()
        message = f"archive {self.path} cannot be written: {error}"
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF not in _CURABLE:
            self._broken = message
        return StoreError(message)

    @property
    def is_broken(self) -> bool:
        """True when no later write can succeed."""
        return bool(self._broken)

    # The rows of a query are what its columns say; sqlite3 cannot tell a type checker.
    def _select(self, sql: str, *values: float | str) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"archive {self.path} cannot be read: {error}") from error

    def _open(self) -> sqlite3.Connection:
        path = self.path.absolute()
        if self._read_only and not path.is_file():
            raise StoreError(f"archive {self.path} does not exist")
        if not path.parent.is_dir():
            raise StoreError(f"archive {self.path}: directory {path.parent} does not exist")
        uri = f"{path.as_uri()}?mode={'ro' if self._read_only else 'rwc'}"
        connection = None
        try:
            connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None)
            self._check_is_ours(connection)
            if not self._read_only:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                _make_tables(connection)
        except (sqlite3.Error, StoreError) as error:
            if connection is not None:
                connection.close()
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"archive {self.path} cannot be opened: {error}") from error
        return connection

    def _check_is_ours(self, connection: sqlite3.Connection) -> None:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        is_empty = not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application != APPLICATION_ID and (self._read_only or not is_empty):
            raise StoreError(f"archive {self.path} is not a ground archive")
        if application == APPLICATION_ID and version != SCHEMA_VERSION:
            raise StoreError(f"archive {self.path} has schema {version}, this ground station reads {SCHEMA_VERSION}")


def _command_entry(row: tuple[int, int, float, str, str, str], stages: tuple[StageEntry, ...]) -> CommandEntry:
    command_id, request_id, sent_s, verb, args, state = row
    return CommandEntry(command_id, request_id, sent_s, verb, tuple(json.loads(args)), state, stages)


def _make_tables(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _plain(kind: str, value: float) -> float | int | None:
    return (float(value) if math.isfinite(value) else None) if kind[0] == "f" else int(value)


def thinned(found: Series, since_s: float, step_s: float, stretches: int) -> Series:
    """Return least and greatest of each stretch of `step_s`, or the samples where they are at most two a stretch."""
    if found.obt_s.size <= 2 * stretches and found.lows is None:
        return found
    lows = found.values if found.lows is None else found.lows
    order = np.argsort(found.obt_s, kind="stable")
    obt_s, values, lows = found.obt_s[order], found.values[order], lows[order]
    place = np.minimum(((obt_s - since_s) / step_s).astype(np.int64), stretches - 1)
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    return Series(since_s + (place[starts] + 0.5) * step_s, np.fmax.reduceat(values, starts),
                  np.fmin.reduceat(lows, starts))


def _json(values: Sequence[float | int | str]) -> str:
    """JSON has no NaN or infinity; null stands for them as NULL does in a column."""
    return json.dumps([None if isinstance(v, float) and not math.isfinite(v) else v for v in values])

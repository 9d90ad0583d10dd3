"""The ground archive: everything that was received and sent, in one SQLite file that may span years.

Owns the schema, which is made from the dictionary, the grouping of writes and every query. A `Station`
writes to it; the console and `ground show` read. It never decodes an octet and never reads a clock: raw
packets are kept as received, so a later dictionary can decode them again.

Durability. The file is in WAL mode with synchronous=NORMAL. A commit is in the operating system's cache
when `tend` returns, so SIGKILL of the ground at any moment loses nothing that was committed; a power cut
may lose the commits since the last checkpoint and never corrupts. FULL would add an fsync to every commit
(milliseconds, beside 40 us) for a second copy of what the satellite still holds. Rows wait in memory, not in
an open transaction, until their group is written: readers are never locked out and a failed write loses
nothing: the group stays and is written once the disk has room again.

Times: `obt_s` is the satellite's stamp, `received_s` Unix seconds of the ground. A value that was missing is
NULL.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from flightsw.dictionary.commands import Value
from flightsw.dictionary.events import EventRow, Severity
from flightsw.dictionary.telemetry import HOUSEKEEPING, Housekeeping
from flightsw.errors import StoreError

APPLICATION_ID = 0x46535747
"""Marks a SQLite file as a ground archive ("FSWG", PRAGMA application_id)."""

SCHEMA_VERSION = 1
"""Layout of the fixed tables (PRAGMA user_version); a point more in the dictionary is not a new version."""

PENDING_MAX = 50_000
"""Packets that wait in memory, at most, while the disk is full: half a minute of the fastest link."""

_BUSY_S = 2.0
_RETRY_S = 1.0
_CURABLE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
"""Errors after which the next commit may succeed; any other ends the archive (an I/O error is no hope)."""

_SCHEMA = (
    "CREATE TABLE packets (id INTEGER PRIMARY KEY, received_s REAL NOT NULL, obt_s REAL, apid INTEGER NOT NULL,"
    " service INTEGER, subservice INTEGER, seq INTEGER NOT NULL, octets BLOB NOT NULL)",
    "CREATE INDEX packets_received ON packets (received_s)",
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

_PACKET = "INSERT INTO packets VALUES (?,?,?,?,?,?,?,?)"
_EVENT = "INSERT INTO events VALUES (?,?,?,?,?,?,?)"
_PARAMETER = "INSERT INTO parameters VALUES (?,?,?,?,?)"
_VERIFICATION = "INSERT INTO verifications VALUES (?,?,?,?,?,?,?)"
_GAP = "INSERT INTO gaps (received_s, source, lost) VALUES (?,?,?)"
_STATE = "UPDATE commands SET state = ? WHERE id = ?"


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
    """One event report; `args` as sent, None for a number that was not finite."""

    obt_s: float
    received_s: float
    number: int
    name: str
    severity: Severity
    text: str
    args: tuple[float | int | str | None, ...]


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
        self._packets: deque[tuple[object, ...]] = deque()
        self._decoded: dict[str, list[tuple[int, tuple[object, ...]]]] = {}
        self._other: list[tuple[str, tuple[object, ...]]] = []
        self._waiting_since_s: float | None = None
        self._retry_at_s = -math.inf
        self._broken = ""
        self._connection = self._open(structures)
        self._housekeeping_sql = {
            row.sid: _insert_sql(_table(row), ["packet_id", "obt_s", *(p.name for p in row.points)])
            for row in structures
        }
        self._tables = self._structure_tables()

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
        self._packets.append((received_s, obt_s, apid, service, subservice, seq, octets))

    def add_housekeeping(self, sid: int, obt_s: float, values: Sequence[float | int]) -> None:
        """Keep the values of structure `sid`; NaN becomes NULL."""
        self._add(self._housekeeping_sql[sid], (obt_s, *values))

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

    def set_state(self, command_id: int, state: str) -> None:
        """Note the state of a command."""
        self._other.append((_STATE, (state, command_id)))

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
            first = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM packets").fetchone()[0]
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
        self._packets.clear()
        self._decoded.clear()
        self._other.clear()
        self.lost_packets = 0
        self._waiting_since_s = None

    # -- queries

    @property
    def points(self) -> list[str]:
        """Every point that the archive has a column for, whichever dictionary it came from."""
        return list(self._tables)

    def latest(self) -> list[LatestRow]:
        """Return every point's value in the structure received last; structures never received are left out."""
        rows = []
        for table in dict.fromkeys(self._tables.values()):
            names = [point for point, where in self._tables.items() if where == table]
            columns = ", ".join(f't."{name}"' for name in names)
            found = self._select(f"SELECT p.received_s, t.obt_s, {columns} FROM {table} t"
                                 " JOIN packets p ON p.id = t.packet_id ORDER BY t.packet_id DESC LIMIT 1")
            for received_s, obt_s, *values in found:
                rows += [LatestRow(n, v, obt_s, received_s) for n, v in zip(names, values, strict=True)]
        return rows

    def samples(self, point: str, since_s: float = -math.inf,
                until_s: float = math.inf) -> list[tuple[float, float | int | None]]:
        """Return (`obt_s`, value) of one point with `since_s` <= `obt_s` < `until_s`, oldest first."""
        table = self._tables.get(point)
        if table is None:
            raise StoreError(f"archive {self.path}: no point {point!r}")
        return self._select(f'SELECT obt_s, "{point}" FROM {table} WHERE obt_s >= ? AND obt_s < ?'
                            " ORDER BY obt_s, packet_id", since_s, until_s)

    def events(self, since_s: float = -math.inf, until_s: float = math.inf,
               severity: Severity = Severity.INFO) -> list[EventEntry]:
        """Return events of at least `severity` with `since_s` <= `obt_s` < `until_s`, oldest first."""
        rows = self._select(
            "SELECT e.obt_s, p.received_s, e.number, e.name, e.severity, e.text, e.args FROM events e"
            " JOIN packets p ON p.id = e.packet_id"
            " WHERE e.obt_s >= ? AND e.obt_s < ? AND e.severity >= ? ORDER BY e.obt_s, e.packet_id",
            since_s, until_s, int(severity))
        return [EventEntry(obt, received, number, name, Severity(level), text, tuple(json.loads(args)))
                for obt, received, number, name, level, text, args in rows]

    def commands(self, since_s: float = -math.inf, until_s: float = math.inf) -> list[CommandEntry]:
        """Return commands with `since_s` <= `sent_s` < `until_s` in the order they were sent."""
        stages: dict[int, list[StageEntry]] = {}
        for command_id, *stage in self._select(
            "SELECT v.command_id, v.stage, v.code, v.text, v.obt_s, p.received_s FROM verifications v"
            " JOIN packets p ON p.id = v.packet_id JOIN commands c ON c.id = v.command_id"
            " WHERE c.sent_s >= ? AND c.sent_s < ? ORDER BY v.packet_id", since_s, until_s,
        ):
            stages.setdefault(command_id, []).append(StageEntry(*stage))
        return [
            _command_entry(row, tuple(stages.get(row[0], ())))
            for row in self._select(
                "SELECT id, request_id, sent_s, verb, args, state FROM commands"
                " WHERE sent_s >= ? AND sent_s < ? ORDER BY id", since_s, until_s)
        ]

    def parameters(self) -> dict[str, float]:
        """Return the value of every on-board parameter as reported last."""
        return dict(self._select("SELECT name, value FROM parameters WHERE packet_id IN"
                                 " (SELECT max(packet_id) FROM parameters GROUP BY number)"
                                 " AND value IS NOT NULL"))

    def gaps(self) -> list[GapEntry]:
        """Return everything that is known not to have arrived, in the order it was noticed."""
        return [GapEntry(*row) for row in self._select("SELECT received_s, source, lost FROM gaps ORDER BY id")]

    def packets(self, since_s: float = -math.inf, until_s: float = math.inf) -> Iterator[PacketRow]:
        """Yield packets with `since_s` <= `received_s` < `until_s` in the order they were received."""
        after = 0
        while rows := self._select("SELECT * FROM packets WHERE received_s >= ? AND received_s < ? AND id > ?"
                                   " ORDER BY id LIMIT 1000", since_s, until_s, after):
            yield from (PacketRow(*row) for row in rows)
            after = rows[-1][0]

    # -- inside

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
    def _select(self, sql: str, *values: float) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"archive {self.path} cannot be read: {error}") from error

    def _open(self, structures: Sequence[Housekeeping]) -> sqlite3.Connection:
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
                _bring_up_to_date(connection, structures)
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
        if version > SCHEMA_VERSION:
            raise StoreError(f"archive {self.path} has schema {version}, this ground station reads up to "
                             f"{SCHEMA_VERSION}")

    def _structure_tables(self) -> dict[str, str]:
        """Map every point to the table that has its column, as the file itself says."""
        tables = self._select(r"SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'hk\_%'"
                              r" ESCAPE '\' ORDER BY rowid")
        return {column[1]: table for table, in tables
                for column in self._select(f"PRAGMA table_info({table})")[2:]}


def _command_entry(row: tuple[int, int, float, str, str, str], stages: tuple[StageEntry, ...]) -> CommandEntry:
    command_id, request_id, sent_s, verb, args, state = row
    return CommandEntry(command_id, request_id, sent_s, verb, tuple(json.loads(args)), state, stages)


def _table(row: Housekeeping) -> str:
    return f"hk_{row.name}"


def _insert_sql(table: str, columns: Sequence[str]) -> str:
    names = ", ".join(f'"{column}"' for column in columns)
    return f"INSERT INTO {table} ({names}) VALUES ({','.join('?' * len(columns))})"


def _bring_up_to_date(connection: sqlite3.Connection, structures: Sequence[Housekeeping]) -> None:
    """Make the tables, and add the columns that this dictionary has more; nothing is ever dropped."""
    connection.execute("BEGIN IMMEDIATE")
    if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    for row in structures:
        table = _table(row)
        connection.execute(f"CREATE TABLE IF NOT EXISTS {table}"
                           " (packet_id INTEGER PRIMARY KEY, obt_s REAL NOT NULL)")
        connection.execute(f"CREATE INDEX IF NOT EXISTS {table}_obt ON {table} (obt_s)")
        present = {column[1] for column in connection.execute(f"PRAGMA table_info({table})")}
        for point in row.points:
            if point.name not in present:
                kind = "REAL" if point.kind in {"f32", "f64"} else "INTEGER"
                connection.execute(f'ALTER TABLE {table} ADD COLUMN "{point.name}" {kind}')
    connection.execute("COMMIT")


def _json(values: Sequence[float | int | str]) -> str:
    """JSON has no NaN or infinity; null stands for them as NULL does in a column."""
    return json.dumps([None if isinstance(v, float) and not math.isfinite(v) else v for v in values])

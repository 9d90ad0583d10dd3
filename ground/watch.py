"""The live view of `ground watch`: what was received last, as a screen of text or as one line a report.

Owns layout, colour and wording; `__main__` drives it. It reads a `Station` and changes nothing. Rows, units,
limits and code names come from the dictionary, so a new point appears by itself. Colour is never the only sign:
`!` marks a crossed limit, `~` a value near one, `?` a stale one.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import Enum, IntEnum
from typing import NamedTuple, Protocol

from flightsw.dictionary.commands import COMMANDS, Value, words_of
from flightsw.dictionary.events import Severity
from flightsw.dictionary.reports import ReportRow
from flightsw.dictionary.telemetry import HOUSEKEEPING, POINT_BY_NAME, Housekeeping, Point
from flightsw.state import Request
from ground.station import (
    CommandRecord,
    CommandReport,
    CommandState,
    EventReport,
    HousekeepingReport,
    ParameterReport,
    Report,
    Station,
    TableReport,
)

STALE_PERIODS = 3.0
"""A structure is stale when it has not come for this many of its periods."""

_WARNING_BAND = {"degC": 5.0, "frac": 0.05}
"""How near to its limit a value of a unit is shown as near."""

_UNIT_SUFFIX = {"degC": "_c", "frac": "_frac", "W": "_w", "V": "_v", "A": "_a", "Wh": "_wh", "K": "_k", "s": "_s"}
_INDEXED = re.compile(r"([a-z]+)(\d+)_(\w+)")
_MODE = POINT_BY_NAME["mode"]
_MODE_ROW = next(row for row in HOUSEKEEPING if _MODE in row.points)
_CELL = 26
_NODE_CELL = 12
_KEPT = 200


class Level(Enum):
    """How a value stands: its mark, and its colour as an ANSI SGR code."""

    GOOD = (" ", "")
    NEAR = ("~", "33")
    CROSSED = ("!", "1;31")
    MISSING = (" ", "35")
    STALE = ("?", "2")

    @property
    def mark(self) -> str:
        """One character that says the same without colour."""
        return self.value[0]

    @property
    def sgr(self) -> str:
        """ANSI attributes, empty for none."""
        return self.value[1]


class _Span(NamedTuple):
    text: str
    sgr: str = ""


_Line = list[_Span]
_SEVERITY_SGR = {Severity.INFO: "", Severity.LOW: "36", Severity.MEDIUM: "33", Severity.HIGH: "1;31"}
_STATE_SGR = {CommandState.COMPLETED: "32", CommandState.REJECTED: "1;31", CommandState.FAILED: "1;31",
              CommandState.NO_ANSWER: "33", CommandState.NOT_SENT: "1;31"}


def utc_text(unix_s: float) -> str:
    """Return Unix seconds as ISO 8601 UTC to the second, or the number where no calendar holds it."""
    try:
        return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{unix_s:.0f}"


def value_text(point: Point, value: float | int | None) -> str:
    """Return a value as shown, without unit: code name, whole number, or 3 to 4 figures; never a made-up one."""
    if value is None or not math.isfinite(value):
        return "missing"
    if point.enum is not None:
        return _code_text(point.enum, value)
    if isinstance(value, int):
        return str(value)
    size = abs(value)
    return f"{value:.3f}" if size < 10.0 else f"{value:.1f}" if size < 10_000.0 else f"{value:.0f}"


class Limits(Protocol):
    """What knows the limits in force: a `Station`, or a console's model of an archive."""

    def limit(self, parameter: str) -> float:
        """Return the value of an on-board parameter."""


def limit_level(point: Point, value: float | int | None, limits: Limits) -> tuple[Level, str]:
    """Return how a fresh value stands to its limits, and the limit that says so."""
    if value is None or not math.isfinite(value):
        return Level.MISSING, ""
    near = ""
    band = _WARNING_BAND.get(point.unit, 0.0)
    for name, sign, relation in ((point.upper, 1.0, ">"), (point.lower, -1.0, "<")):
        if not name:
            continue
        limit = limits.limit(name)
        beyond = sign * (value - limit)
        text = f"{relation} {name} {limit:g} {point.unit}"
        if beyond > 0.0:
            return Level.CROSSED, text
        if beyond > -band:
            near = text
    return (Level.NEAR, near) if near else (Level.GOOD, "")


def report_line(report: Report, station: Station, epoch_s: float) -> str:
    """Return one report as one line: time of reception, what it is, values with units and crossed limits."""
    head = utc_text(epoch_s + report.received_s)
    if isinstance(report, HousekeepingReport):
        parts = []
        for point, value in zip(report.row.points, report.values, strict=True):
            level, limit = limit_level(point, value, station)
            text = value_text(point, value)
            unit = f" {point.unit}" if point.unit and level is not Level.MISSING else ""
            parts.append(f"{point.name}={text}{unit}" + (f" ({limit})" if level is Level.CROSSED else ""))
        return f"{head} {report.row.name}: {', '.join(parts)}"
    if isinstance(report, EventReport):
        return f"{head} event {report.row.severity.name} {report.row.name}: {report.text}"
    if isinstance(report, CommandReport):
        return f"{head} command {_command_text(report.record)}"
    if isinstance(report, ParameterReport):
        unit = f" {report.row.unit}" if report.row.unit else ""
        return f"{head} parameter {report.row.name} = {report.value:g}{unit}"
    if isinstance(report, TableReport):
        return f"{head} {report_text(report.row, report.args)}"
    return f"{head} pong"


def report_text(row: ReportRow, args: Sequence[Value]) -> str:
    """Return a report as an operator reads it: codes by name, commands in words, values with units."""
    parts = []
    for field, value in zip(row.fields, args, strict=True):
        if field.enum is not None:
            text = _code_text(field.enum, value)
        elif field.kind == "octets":
            octets = bytes.fromhex(str(value))
            text = repr(words_of(Request(octets[0], octets[1], octets[2:])) if len(octets) > 1 else value)
        elif field.name in {"obt_s", "at_s"}:
            text = utc_text(float(value))
        elif isinstance(value, float):
            text = f"{value:.3f} {field.unit}".rstrip()
        else:
            text = str(value) or "''"
        parts.append(f"{field.name}={text}")
    return f"{row.name}: {', '.join(parts)}"


def command_text(verb: str, values: Sequence[Value]) -> str:
    """Return a command as an operator types it, codes by their names."""
    row = COMMANDS.get(verb)
    kinds = [arg.enum for arg in row.args] if row else []
    texts = [_code_text(kind, value) if kind is not None else str(value)
             for value, kind in itertools.zip_longest(values, kinds[: len(values)])]
    return " ".join([verb, *texts])


def _code_text(kind: type[IntEnum], value: float | str) -> str:
    return next((member.name for member in kind if member == value), str(value))


def _command_text(record: CommandRecord) -> str:
    why = f": {record.text}" if record.text else ""
    return f"{command_text(record.verb, record.args)} {record.state}{why}"


class Screen:
    """Composes the screen from a station; remembers the events and commands that it was told of."""

    def __init__(self, station: Station, epoch_s: float, title: str, colour: bool) -> None:
        self._station = station
        self._epoch_s = epoch_s
        self._title = title
        self._colour = colour
        self._events: deque[EventReport] = deque(maxlen=_KEPT)
        self._commands: dict[int, CommandRecord] = {}
        station.listen(self._hear)

    def _hear(self, report: Report) -> None:
        if isinstance(report, EventReport):
            self._events.append(report)
        elif isinstance(report, CommandReport):
            self._commands.pop(report.record.command_id, None)
            self._commands[report.record.command_id] = report.record
            if len(self._commands) > _KEPT:
                del self._commands[next(iter(self._commands))]

    def paint(self, now_s: float, columns: int, rows: int, trouble: str) -> str:
        """Return the octets for a terminal of `columns` x `rows`: every line of it, from the top left corner."""
        lines = self.lines(now_s, columns, rows, trouble)
        return "\x1b[H" + "\r\n".join(self._draw(line, columns) + "\x1b[K" for line in lines) + "\x1b[J"

    def lines(self, now_s: float, columns: int, rows: int, trouble: str) -> list[_Line]:
        """Lay the screen out: header, trouble, values, limits, commands, events; at most `rows` lines."""
        top = [self._header(now_s)]
        if trouble:
            top.append([_Span(trouble, "1;37;41")])
        commands = [self._command_line(record, now_s) for record in list(self._commands.values())[-3:]]
        limits = self._limit_lines(now_s)[: max(1, rows // 8)]
        below = [*limits, [_Span("-- commands and events " + "-" * max(0, columns - 23), "2")], *commands]
        event_rows_min = min(3, len(self._events)) if self._events else 1
        room = rows - len(top) - len(below) - event_rows_min
        values = self._value_lines(now_s, columns, room)
        room = rows - len(top) - len(values) - len(below)
        events = [self._event_line(event) for event in list(self._events)[-room:]] if room > 0 else []
        return (top + values + below + (events or [[_Span("no events received", "2")]]))[:rows]

    def _header(self, now_s: float) -> _Line:
        station = self._station
        if station.heard_s is None:
            heard, sgr = "no signal", "1;33"
        else:
            age_s = now_s - station.heard_s
            heard, sgr = f"heard {age_text(age_s)} ago", "1;33" if age_s > 60.0 else "1"
        mode = station.latest(_MODE.name)
        text = value_text(_MODE, mode.value) if mode else "unknown"
        if mode and is_stale(_MODE_ROW, mode.received_s, now_s):
            text += Level.STALE.mark
        return [_Span(f"mode {text}  ", "1"), _Span(heard, sgr),
                _Span(f"  packets {station.packets}  lost frames {station.lost_frames}"
                      f"  bad {station.bad_frames + station.bad_packets + station.undecoded_packets}  {self._title}")]

    def _value_lines(self, now_s: float, columns: int, room: int) -> list[_Line]:
        """Lay out the structures that fit, in the dictionary's order, and name those that do not."""
        received = self._station.received
        absent = [row.name for row in HOUSEKEEPING if row.period_s and row.sid not in received]
        blocks = {row.name: self._block(received[row.sid], now_s, columns)
                  for row in HOUSEKEEPING if row.sid in received}
        if absent or sum(map(len, blocks.values())) > room:
            room -= 1  # for the line that names what is not shown
        lines: list[_Line] = []
        hidden = []
        for name, block in blocks.items():
            if len(lines) + len(block) > room:
                hidden.append(name)
            else:
                lines += block
        notes = []
        if absent:
            notes.append(f"not received yet: {', '.join(absent)}")
        if hidden:
            notes.append(f"no room for: {', '.join(hidden)}")
        if notes:
            lines.append([_Span("; ".join(notes), "2")])
        return lines

    def _block(self, report: HousekeepingReport, now_s: float, columns: int) -> list[_Line]:
        row = report.row
        stale = is_stale(row, report.received_s, now_s)
        age = f"{row.name} {age_text(now_s - report.received_s)} ago"
        cells = [_Span(f"[{age}]"[:_CELL].ljust(_CELL), "1;33" if stale else "1")]
        tabled: dict[str, dict[str, tuple[Point, float | int]]] = {}
        for point, value in zip(row.points, report.values, strict=True):
            indexed = _INDEXED.fullmatch(point.name)
            if indexed:
                prefix, index, suffix = indexed.groups()
                tabled.setdefault(index, {})[f"{prefix}_{suffix}"] = (point, value)
            else:
                cells.append(self._cell(point, value, stale, row.name))
        table: list[_Line] = []
        if tabled:
            table = self._table(cells.pop(0), tabled, stale)
        across = max(1, (columns + 1) // (_CELL + 1))
        return table + [[span for cell in cells[i : i + across] for span in (cell, _Span(" "))]
                        for i in range(0, len(cells), across)]

    def _cell(self, point: Point, value: float | int, stale: bool, structure: str) -> _Span:
        level = Level.STALE if stale else limit_level(point, value, self._station)[0]
        text = value_text(point, value)
        shown = f"{text} {point.unit}" if point.unit and text != "missing" else text
        label = point.name.removesuffix(_UNIT_SUFFIX.get(point.unit, " ")).removeprefix(f"{structure}_")
        room = _CELL - 2 - len(shown)
        return _Span(f"{label[:room]:<{room}} {shown}{level.mark}", level.sgr)

    def _table(self, head: _Span, tabled: dict[str, dict[str, tuple[Point, float | int]]],
               stale: bool) -> list[_Line]:
        """One line for each index that has any value; a part that is not fitted has none."""
        titles = list(dict.fromkeys(title for cells in tabled.values() for title in cells))
        first = _CELL - 6
        lines: list[_Line] = [[_Span(f"{head.text:<{first}.{first}}", head.sgr),
                               *(_Span(f"{title:>{_NODE_CELL - 1}} ", "2") for title in titles)]]
        for index, cells in tabled.items():
            if all(math.isnan(value) or not value for _, value in cells.values()):
                continue
            line = [_Span(f"  {index}".ljust(first))]
            for title in titles:
                if title not in cells:
                    line.append(_Span(" " * _NODE_CELL))
                    continue
                point, value = cells[title]
                level = Level.STALE if stale else limit_level(point, value, self._station)[0]
                text = value_text(point, value)
                shown = f"{text} {point.unit}" if point.unit and text != "missing" else text
                line.append(_Span(f"{shown:>{_NODE_CELL - 1}}{level.mark}", level.sgr))
            lines.append(line)
        return lines

    def _limit_lines(self, now_s: float) -> list[_Line]:
        """Name every crossed limit with its value; a stale value crosses nothing."""
        lines: list[_Line] = []
        for report in self._station.received.values():
            if is_stale(report.row, report.received_s, now_s):
                continue
            for point, value in zip(report.row.points, report.values, strict=True):
                level, limit = limit_level(point, value, self._station)
                if level is Level.CROSSED:
                    lines.append([_Span(f"! {point.name} {value_text(point, value)} {limit}", level.sgr)])
        return lines

    def _command_line(self, record: CommandRecord, now_s: float) -> _Line:
        return [_Span(f"{age_text(now_s - record.sent_s):>6} ago  "),
                _Span(_command_text(record), _STATE_SGR.get(record.state, ""))]

    def _event_line(self, event: EventReport) -> _Line:
        return [_Span(f"{utc_text(event.obt_s)[11:]} {event.row.severity.name:<6} "),
                _Span(event.text, _SEVERITY_SGR[event.row.severity])]

    def _draw(self, line: _Line, columns: int) -> str:
        """Return a line cut to the screen; text of the satellite reaches the terminal without control codes."""
        drawn, room = [], columns
        for text, sgr in line:
            plain = "".join(c if c.isprintable() else "?" for c in text)[:room]
            room -= len(plain)
            drawn.append(f"\x1b[{sgr}m{plain}\x1b[0m" if sgr and self._colour else plain)
        return "".join(drawn)


def is_stale(row: Housekeeping, received_s: float, now_s: float) -> bool:
    """Return whether a structure of a known period has been silent for too long."""
    return row.period_s > 0.0 and now_s - received_s > STALE_PERIODS * row.period_s


def age_text(age_s: float) -> str:
    """Return an age as an operator reads it: seconds, minutes, hours."""
    if age_s < 100.0:
        return f"{age_s:.1f} s" if age_s < 10.0 else f"{age_s:.0f} s"
    if age_s < 6000.0:
        return f"{age_s / 60.0:.0f} min"
    return f"{age_s / 3600.0:.0f} h"

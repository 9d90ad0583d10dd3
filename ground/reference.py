"""The dictionary as a page to read: every report, point, event, telecommand and parameter, in Markdown.

Everything comes out of the dictionary's rows. Called by `ground dictionary`; docs/dictionary.md is its output, and a
test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum

from flightsw.dictionary.commands import COMMANDS, Arg, Command
from flightsw.dictionary.events import EVENTS
from flightsw.dictionary.parameters import PARAMETERS, number_text
from flightsw.dictionary.reports import REPORTS
from flightsw.dictionary.telemetry import HOUSEKEEPING, OCTETS_MAX, POINTS, TEXT_MAX_OCTETS, Point
from flightsw.state import Mode

_HEAD = f"""\
# Dictionary

What the satellite says and understands. Made by `ground dictionary --markdown`; the rows are in
[flightsw/dictionary](../flightsw/dictionary), which is where to change anything. The same as declarations that read and
build octets, headers and frames included, is [flightsw/link/icd.py](../flightsw/link/icd.py); for other ground software
there is `ground dictionary --xtce`.

Packets are CCSDS space packets with PUS-C headers (ECSS-E-ST-70-41C); numbers are big-endian, without padding. Types:
`u8` `u16` `u32` unsigned, `i32` signed, `f32` `f64` IEEE 754, where NaN is a missing value; `text` is `u8` count and
UTF-8, up to {TEXT_MAX_OCTETS} octets; `octets` is `u8` count and octets, up to {OCTETS_MAX}; `request` is a
telecommand in words, on the link as `octets`: service, subservice, application data.
"""


def markdown() -> str:
    """Return the page."""
    return "\n".join([_HEAD, *_telemetry(), *_reports(), *_events(), *_commands(), *_parameters()])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def _codes(enum: type[IntEnum] | None) -> str:
    return "" if enum is None else " " + ", ".join(f"{member:d} {member.name}" for member in enum)


def _limits(point: Point) -> str:
    return " ".join(f"{relation} `{name}`" for relation, name in (("<=", point.upper), (">=", point.lower)) if name)


def _telemetry() -> Iterator[str]:
    yield "## Housekeeping (3,25)\n"
    yield (f"{len(HOUSEKEEPING)} structures, {len(POINTS)} points. Source data is `u8` structure id and the points in "
           "order. `hk.period` sets how often a structure comes. With `link.compress_housekeeping` in the mission file "
           "structures go down as 3,130: `u8` structure id, `u8` count, `u16` CRC-16 of the source data as it was, and "
           "the points compressed (CCSDS 124.0-B); the ground station archives what they stand for.\n")
    for row in HOUSEKEEPING:
        period = f"every {row.period_s:g} s" if row.period_s else "on request"
        yield f"### {row.sid} {row.name}, {period}\n"
        yield from _table(("point", "type", "unit", "limit", "meaning"), (
            (f"`{point.name}`", point.kind, point.unit, _limits(point), point.description + _codes(point.enum))
            for point in row.points))


def _reports() -> Iterator[str]:
    yield "## Other reports\n"
    yield ("Verification is 1,1 accepted, 1,2 not accepted, 1,3 started, 1,5 step done, 1,7 completed, 1,8 failed: "
           "`u32` request id (the first four octets of the telecommand packet), then for 1,5 `u16` step, for 1,2 and "
           "1,8 `u16` code and `text`. 17,2 answers a ping. 20,2 is `u16` parameter number and `f64` value.\n")
    for row in REPORTS:
        yield f"### {row.name} ({row.service},{row.subservice})\n\n{row.description}\n"
        yield from _table(("field", "type", "unit", "meaning"), (
            (f"`{field.name}`", field.kind, field.unit, field.description + _codes(field.enum))
            for field in row.fields))


def _events() -> Iterator[str]:
    yield "## Events (5,severity)\n"
    yield "Source data is `u16` number and the arguments.\n"
    yield from _table(("number", "event", "severity", "text", "arguments"), (
        (str(row.number), f"`{row.name}`", row.severity.name, row.text, " ".join(row.args)) for row in EVENTS))


def _commands() -> Iterator[str]:
    yield "## Telecommands\n"
    yield ("`ground send VERB` checks the same bounds as the satellite. Application data is the function id where "
           "there is one (`u8`), then the arguments.\n")
    for row in COMMANDS.values():
        function = "" if row.function is None else f", function {row.function}"
        yield f"### `{row.verb}` ({row.service},{row.subservice}{function})\n\n{row.description}\n"
        yield _conditions(row) + "\n"
        if row.args:
            yield from _table(("argument", "type", "bounds", "meaning"), (
                (f"`{arg.name}`", arg.kind, _bounds(arg), arg.description) for arg in row.args))


def _conditions(row: Command) -> str:
    modes = "any" if row.modes == frozenset(Mode) else ", ".join(mode.name for mode in sorted(row.modes))
    needs = ", needs working storage" if row.durable else ""
    return f"Mode: {modes}{needs}.{' **Hazardous.**' if row.hazardous else ''}"


def _bounds(arg: Arg) -> str:
    if arg.enum is not None:
        return _codes(arg.enum).strip()
    if arg.kind in {"text", "request"}:
        return f"up to {arg.high:g} octets"
    return f"{number_text(arg.low)}..{number_text(arg.high)} {arg.unit}".rstrip()


def _parameters() -> Iterator[str]:
    yield "## On-board parameters (service 20)\n"
    yield "`param.set` changes one within its range; the mission file sets where they start.\n"
    yield from _table(("number", "parameter", "default", "range", "unit", "meaning"), (
        (str(row.number), f"`{row.name}`", f"{row.default:g}", f"{row.low:g}..{row.high:g}", row.unit, row.description)
        for row in PARAMETERS))

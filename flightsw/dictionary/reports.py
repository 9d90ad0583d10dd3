"""Every report that is neither housekeeping nor event: one row each, with its fields.

The answer to a telecommand that asks for a table or a time. Field types are those of `dictionary.telemetry.PACK`,
`text` and `octets`. Packing, decoding, archive, console and XTCE come out of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from flightsw.dictionary.events import Severity
from flightsw.dictionary.telemetry import pack_values, unpack_values
from flightsw.errors import LinkError

Value = float | int | str


class Field(NamedTuple):
    """One field of a report; `enum` names its codes."""

    name: str
    kind: str
    unit: str
    description: str
    enum: type[IntEnum] | None = None


class ReportRow(NamedTuple):
    """One report: PUS service and subservice, name and fields in order. One row of a table goes in one packet."""

    service: int
    subservice: int
    name: str
    description: str
    fields: tuple[Field, ...]


class OffOn(IntEnum):
    """Whether something is in force."""

    OFF = 0
    ON = 1


class SequenceState(IntEnum):
    """What a stored sequence is doing."""

    STORED = 0
    RUNNING = 1


_COMMAND = Field("command", "octets", "", "Service, subservice and application data of the command.")
_SUMMARY = (
    Field("state", "u8", "", "Whether they are in force.", OffOn),
    Field("count", "u16", "", "How many there are."),
)

REPORTS: tuple[ReportRow, ...] = (
    ReportRow(9, 2, "time", "On-board time, with the clock that it is made of.", (
        Field("obt_s", "f64", "s", "On-board time (Unix) when the report was made."),
        Field("now_s", "f64", "s", "Seconds since the mission's start by the supervisor's clock."),
        Field("correction_s", "f64", "s", "What commands have added to on-board time."),
    )),
    ReportRow(11, 10, "schedule_entry", "One time-tagged command.", (
        Field("number", "u32", "", "Its number."),
        Field("at_s", "f64", "s", "On-board time (Unix) at which it runs."),
        _COMMAND,
    )),
    ReportRow(11, 13, "schedule_summary", "How many time-tagged commands wait.", _SUMMARY),
    ReportRow(12, 130, "monitor_summary", "How many monitoring definitions there are.", _SUMMARY),
    ReportRow(12, 9, "monitor_definition", "One monitoring definition.", (
        Field("number", "u16", "", "Its number."),
        Field("point", "text", "", "Housekeeping point."),
        Field("low", "f64", "", "Lower limit, in the point's unit."),
        Field("high", "f64", "", "Upper limit, in the point's unit."),
        Field("samples", "u8", "", "Samples in a row that make a crossing or a return."),
        Field("severity", "u8", "", "Severity of its event.", Severity),
        Field("state", "u8", "", "Whether it is in force.", OffOn),
    )),
    ReportRow(19, 11, "action_definition", "One event-action.", (
        Field("number", "u16", "", "Its number."),
        Field("event", "text", "", "Event that sets it off."),
        Field("subject", "text", "", "What the event's first argument must be; empty for any."),
        Field("left", "u8", "", "How many times it still runs."),
        Field("state", "u8", "", "Whether it is in force.", OffOn),
        _COMMAND,
    )),
    ReportRow(19, 130, "action_summary", "How many event-actions there are.", _SUMMARY),
    ReportRow(21, 130, "sequence_summary", "How many stored sequences there are.", _SUMMARY),
    ReportRow(21, 7, "sequence", "One stored sequence.", (
        Field("name", "text", "", "Its name."),
        Field("state", "u8", "", "What it is doing.", SequenceState),
        Field("count", "u16", "", "How many commands it has."),
        Field("done", "u16", "", "How many of them have run."),
        Field("sha256", "text", "", "SHA-256 of its file, in hexadecimal."),
    )),
)

BY_NAME: dict[str, ReportRow] = {row.name: row for row in REPORTS}
BY_CODE: dict[tuple[int, int], ReportRow] = {(row.service, row.subservice): row for row in REPORTS}
_KINDS: dict[str, tuple[str, ...]] = {row.name: tuple(field.kind for field in row.fields) for row in REPORTS}


def pack_report(row: ReportRow, args: Sequence[Value]) -> bytes:
    """Pack a report's source data; LinkError names the value that does not fit."""
    return pack_values(_KINDS[row.name], args)


def unpack_report(service: int, subservice: int, data: bytes) -> tuple[ReportRow, tuple[Value, ...]]:
    """Unpack a report's source data; LinkError when it is not one of the dictionary."""
    row = BY_CODE.get((service, subservice))
    if row is None:
        raise LinkError(f"report {service},{subservice} is not in the dictionary")
    return row, unpack_values(_KINDS[row.name], data)

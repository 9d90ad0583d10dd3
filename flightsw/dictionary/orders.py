"""Standing orders: what the ground leaves on board to be done without it, as tables that both ends can read.

Time-tagged commands, monitoring definitions, event-actions, stored sequences and the switches over them. Holds
rows, their bounds and the one form in which they are written down; runs nothing (`decide.standing` does) and does no
I/O (`flightsw.orderbook` does).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from flightsw.errors import LinkError
from flightsw.state import (
    Action,
    MonitorDefinition,
    OrderChange,
    OrderTable,
    Request,
    Scheduled,
    StoredSequence,
    Switch,
)

SCHEDULE_MAX = 256
MONITORS_MAX = 64
ACTIONS_MAX = 64
SEQUENCES_MAX = 32
SEQUENCE_OCTETS_MAX = 3900
"""Written down as one record of the journal, where each of its characters may take two."""

SCHEDULE_ON, ACTIONS_ON, CLOCK_CORRECTION_S = "schedule", "actions", "clock_correction_s"
"""Keys of the switches; a switch that was never set is on, the correction is 0."""


class Orders:
    """The tables, each a mapping from key to row in the order that rows were added."""

    def __init__(self, changes: Iterable[OrderChange] = ()) -> None:
        self.schedule: dict[int, Scheduled] = {}
        self.monitors: dict[int, MonitorDefinition] = {}
        self.actions: dict[int, Action] = {}
        self.sequences: dict[str, StoredSequence] = {}
        self._switches: dict[str, Switch] = {}
        self._tables: dict[OrderTable, dict[Any, Any]] = {  # Any: each table has its own key and row
            OrderTable.SCHEDULE: self.schedule, OrderTable.MONITORS: self.monitors, OrderTable.ACTIONS: self.actions,
            OrderTable.SEQUENCES: self.sequences, OrderTable.SWITCHES: self._switches,
        }
        for change in changes:
            self.take(change)

    def take(self, change: OrderChange) -> None:
        """Set or delete a row."""
        table = self._tables[change.table]
        if change.row is None:
            table.pop(change.key, None)
        else:
            table[change.key] = change.row

    def changes(self) -> Iterator[OrderChange]:
        """The changes that make these tables out of empty ones."""
        for table, rows in self._tables.items():
            for key, row in rows.items():
                yield OrderChange(table, key, row)

    @property
    def schedule_on(self) -> bool:
        """Whether time-tagged commands are run."""
        return self._switch(SCHEDULE_ON, 1.0) != 0.0

    @property
    def actions_on(self) -> bool:
        """Whether event-actions are in force."""
        return self._switch(ACTIONS_ON, 1.0) != 0.0

    @property
    def clock_correction_s(self) -> float:
        """What commands have added to on-board time."""
        return self._switch(CLOCK_CORRECTION_S, 0.0)

    def awaits(self, event: str) -> bool:
        """Whether an event-action waits for `event`."""
        return any(action.event == event for action in self.actions.values())

    def _switch(self, key: str, default: float) -> float:
        switch = self._switches.get(key)
        return default if switch is None else switch.value


class Step(NamedTuple):
    """One line of a sequence: seconds after the line before, and the command in words."""

    delay_s: float
    words: str


def parse_sequence(text: str) -> tuple[Step, ...]:
    """Read a sequence: `sequence COUNT`, then COUNT lines `DELAY_S VERB ARGUMENT...`; LinkError names the line.

    Printable ASCII; empty lines and lines that begin with `#` say nothing.
    """
    if len(text) > SEQUENCE_OCTETS_MAX:
        raise LinkError(f"sequence of {len(text)} octets, limit {SEQUENCE_OCTETS_MAX}")
    if not all(" " <= character <= "~" or character == "\n" for character in text):
        raise LinkError("sequence has characters that are not printable ASCII")
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1)
             if line.strip() and not line.lstrip().startswith("#")]
    head = lines[0][1].split() if lines else []
    if len(head) != 2 or head[0] != "sequence" or not head[1].isdecimal():
        raise LinkError("sequence does not begin with `sequence COUNT`")
    if int(head[1]) != len(lines) - 1 or len(lines) == 1:
        raise LinkError(f"sequence says {head[1]} commands and has {len(lines) - 1}")
    steps = []
    for number, line in lines[1:]:
        delay, _, words = line.partition(" ")
        try:
            delay_s = float(delay)
        except ValueError as error:
            raise LinkError(f"line {number}: {delay!r} is not a number of seconds") from error
        if not 0.0 <= delay_s <= 604800.0:  # false for NaN as well
            raise LinkError(f"line {number}: {delay} s outside 0..604800 s")
        steps.append(Step(delay_s, words.strip()))
    return tuple(steps)


# --- as written down ---------------------------------------------------------------------------------


def to_json(change: OrderChange) -> list[Any]:  # Any: JSON values
    """A change as JSON values, requests in hexadecimal."""
    row: list[Any] | None = None
    if change.row is not None:
        row = [[value.service, value.subservice, value.data.hex()] if isinstance(value, Request) else value
               for value in change.row]
    return [int(change.table), change.key, row]


def from_json(fields: list[Any]) -> OrderChange:  # Any: JSON values
    """Read what `to_json` wrote; ValueError, TypeError or LookupError when it is something else."""
    number, key, row = fields
    table = OrderTable(number)
    return OrderChange(table, key, None if row is None else _ROWS[table](*row))


def _request(fields: list[Any]) -> Request:  # Any: JSON values
    service, subservice, data = fields
    return Request(service, subservice, bytes.fromhex(data))


_ROWS: dict[OrderTable, Callable[..., Any]] = {  # Any: each table has its own row
    OrderTable.SCHEDULE: lambda number, at_s, request: Scheduled(number, at_s, _request(request)),
    OrderTable.MONITORS: MonitorDefinition,
    OrderTable.ACTIONS: lambda number, event, subject, left, request, enabled: Action(
        number, event, subject, left, _request(request), enabled),
    OrderTable.SEQUENCES: StoredSequence,
    OrderTable.SWITCHES: Switch,
}


def encode(change: OrderChange) -> bytes:
    """A change as text, so that a journal can be read by eye."""
    return json.dumps(to_json(change), separators=(",", ":")).encode()

"""Runs standing orders: which kept command is due now, by its time, by an event or by its sequence. Pure.

The brain asks `due` once a tick, gives every command it gets back through the gate that a received one goes
through, and tells `carried_out` how it ended. Changes of the tables come back to be written down before anything
of the tick is acknowledged. Nothing here knows what a command does.

Nothing runs late unasked: a time-tagged command whose time is long past, after a restart or a step of the clock, is
reported as missed and forgotten. A sequence under way ends with the supervisor. Nothing loops: a
kept command carries none, a sequence starts none, and an event-action is spent after the times it was given.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from types import MappingProxyType
from typing import NamedTuple

from flightsw.dictionary.commands import open_sequence, words_of
from flightsw.dictionary.orders import Orders
from flightsw.errors import LinkError
from flightsw.state import (
    Event,
    FileRead,
    OrderChange,
    OrderTable,
    Request,
    StoredSequence,
    Verification,
)

STARTED, STEP_DONE, COMPLETED, FAILED = 3, 5, 7, 8
_NOT_POSSIBLE = 4


class Due(NamedTuple):
    """A kept command that is to run now; `origin` says for whom, `sequence` names the one it is a step of."""

    origin: str
    request: Request
    sequence: str = ""


class Turn(NamedTuple):
    """What a tick's standing orders have changed and said; lists, to be added to."""

    orders: list[OrderChange]
    events: list[Event]
    verifications: list[Verification]


class _Run:
    """A sequence under way. `request_id` is that of the telecommand that started it, None for none."""

    __slots__ = ("done", "due_s", "request_id", "steps")

    def __init__(self, steps: tuple[tuple[float, Request], ...], now_s: float, request_id: int | None) -> None:
        self.steps = steps
        self.done = 0
        self.due_s = now_s + steps[0][0]
        self.request_id = request_id


class Standing:
    """The standing orders of one satellite; `changes` make the tables as they were written down."""

    def __init__(self, changes: Iterable[OrderChange] = ()) -> None:
        self.orders = Orders(changes)
        self._runs: dict[str, _Run] = {}
        self._loads: dict[str, tuple[str, int, int]] = {}  # name -> (SHA-256, request id, station)
        self._noted: list[Event] = []  # events that set something off in the next tick
        self._next_obt_s = -math.inf  # no time-tagged command is due before

    @property
    def running(self) -> MappingProxyType[str, int]:
        """Sequences under way, each with the number of commands that have run."""
        return MappingProxyType({name: run.done for name, run in self._runs.items()})

    def note(self, events: Sequence[Event]) -> None:
        """Take in events that were reported; what they set off is due in the next tick."""
        if self.orders.actions:
            self._noted.extend(event for event in events if self.orders.awaits(event.name))

    def change(self, change: OrderChange, turn: Turn) -> None:
        """Set or delete a row of a table."""
        self.orders.take(change)
        turn.orders.append(change)
        self._next_obt_s = -math.inf

    def due(self, now_s: float, obt_s: float, late_s: float, turn: Turn) -> list[Due]:
        """Commands to run now: by their times, then steps of sequences, then by events; each is given out once."""
        found: list[Due] = []
        if self._noted:
            self._set_off(found, turn)
        if self._runs:
            self._next_steps(now_s, found)
        if obt_s >= self._next_obt_s:
            self._release(obt_s, late_s, found, turn)
        return found

    def _release(self, obt_s: float, late_s: float, found: list[Due], turn: Turn) -> None:
        orders = self.orders
        ripe = sorted((row.at_obt_s, row.number) for row in orders.schedule.values() if row.at_obt_s <= obt_s)
        for at_s, number in ripe:
            request = orders.schedule[number].request
            self.change(OrderChange(OrderTable.SCHEDULE, number, None), turn)
            if orders.schedule_on and obt_s - at_s <= late_s:
                found.append(Due(f"schedule {number}", request))
            else:
                why = "too late" if orders.schedule_on else "the schedule is off"
                turn.events.append(Event("command_missed", (number, words_of(request), obt_s - at_s, why)))
        self._next_obt_s = min((row.at_obt_s for row in orders.schedule.values()), default=math.inf)

    def _set_off(self, found: list[Due], turn: Turn) -> None:
        noted, self._noted = self._noted, []
        if not self.orders.actions_on:
            return
        for number, action in list(self.orders.actions.items()):
            if not action.enabled or action.left == 0:
                continue
            if not any(event.name == action.event and action.subject in ("", str(event.args[0]) if event.args else "")
                       for event in noted):
                continue
            self.change(OrderChange(OrderTable.ACTIONS, number, action._replace(left=action.left - 1)), turn)
            found.append(Due(f"action {number}", action.request))
            if action.left == 1:
                turn.events.append(Event("action_spent", (number,)))

    # --- sequences -----------------------------------------------------------------------------------

    def expect(self, name: str, sha256: str, request_id: int, station: int) -> None:
        """Remember what the file `name` must be when it comes, and who asked for it."""
        self._loads[name] = (sha256, request_id, station)

    def load(self, files: Sequence[FileRead], may_send: Callable[[int, str], bool], turn: Turn) -> None:
        """Keep files that are the sequences they were said to be, and say nothing that their station may not."""
        for name, text, problem in files:
            sha256, request_id, station = self._loads.pop(name)
            wrong, count = problem, 0
            if not wrong:
                wrong, count = _problem(text, sha256)
            if not wrong:
                verbs = {words_of(request).split()[0] for _, request in open_sequence(text)}
                wrong = ", ".join(sorted(verb for verb in verbs if not may_send(station, verb)))
                wrong = wrong and f"the station may not send {wrong}"
            if wrong:
                turn.events.append(Event("sequence_failed", (name, 0, wrong)))
            else:
                self.change(OrderChange(OrderTable.SEQUENCES, name, StoredSequence(name, sha256, text)), turn)
                turn.events.append(Event("sequence_loaded", (name, count)))
            _verify(request_id, FAILED if wrong else COMPLETED, turn, text=wrong)

    def start(self, name: str, now_s: float, request_id: int | None, turn: Turn) -> None:
        """Begin a sequence, if it still is what was loaded."""
        stored = self.orders.sequences[name]
        wrong, _ = _problem(stored.text, stored.sha256)
        if wrong:
            turn.events.append(Event("sequence_failed", (name, 0, wrong)))
            _verify(request_id, FAILED, turn, text=wrong)
            return
        self._runs[name] = _Run(open_sequence(stored.text), now_s, request_id)
        _verify(request_id, STARTED, turn)

    def stop(self, name: str, why: str, turn: Turn) -> None:
        """End a sequence before its end."""
        run = self._runs.pop(name)
        turn.events.append(Event("sequence_failed", (name, run.done, why)))
        _verify(run.request_id, FAILED, turn, text=f"after {run.done} commands: {why}")

    def _next_steps(self, now_s: float, found: list[Due]) -> None:
        """Give out the next command of each sequence; one a tick, so that each is judged by what the last one did."""
        for name, run in self._runs.items():
            if now_s >= run.due_s:
                found.append(Due(f"{name} {run.done + 1}", run.steps[run.done][1], name))

    def carried_out(self, due: Due, problem: str, turn: Turn) -> None:
        """Say how a command ended that `due` gave out; `problem` is empty where it was done."""
        words = words_of(due.request)
        turn.events.append(Event("stored_command_rejected", (due.origin, words, problem)) if problem
                           else Event("stored_command_done", (due.origin, words)))
        run = self._runs.get(due.sequence)
        if run is None:
            return
        if problem:
            self.stop(due.sequence, problem, turn)
            return
        run.done += 1
        _verify(run.request_id, STEP_DONE, turn, code=run.done)
        if run.done == len(run.steps):
            del self._runs[due.sequence]
            turn.events.append(Event("sequence_ended", (due.sequence, run.done)))
            _verify(run.request_id, COMPLETED, turn)
        else:
            run.due_s += run.steps[run.done][0]


def _problem(text: str, sha256: str) -> tuple[str, int]:
    """Say why a text is not the sequence that it should be, empty when it is; and how many commands it has."""
    found = hashlib.sha256(text.encode()).hexdigest()
    if found != sha256:
        return f"its SHA-256 is {found}, not {sha256}"[:110], 0
    try:
        return "", len(open_sequence(text))
    except LinkError as error:
        return str(error), 0


def _verify(request_id: int | None, stage: int, turn: Turn, code: int = 0, text: str = "") -> None:
    if request_id is not None:
        turn.verifications.append(Verification(request_id, stage, _NOT_POSSIBLE if stage == FAILED else code, text))

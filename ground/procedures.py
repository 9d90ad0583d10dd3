"""Procedures: Python scripts that send, look and decide, with every step recorded; and pass plans made of them.

A procedure is a file with `def run(op)`; `op` is an `Operator`. A command that does not complete, or a condition that
does not come true in time, ends it. The same script runs dry (nothing is sent, every verb, argument and point is
checked), against a satellite through whoever owns the port, and against a rig in virtual time: that is what a `Link`
is for. Each step goes into the archive as a note.

A pass plan is a TOML file of [[step]]s, each with `send` or `run`, a `priority` (1 first) and the `seconds` that it is
thought to take. In a pass its steps run in order of priority as long as they fit; the others wait for the next pass.
"""

from __future__ import annotations

import ast
import math
import operator
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from flightsw.declared import Reader, number, problems_error, read_toml, text
from flightsw.dictionary.commands import COMMANDS, Value, check_argument, parse_text_argument
from flightsw.dictionary.telemetry import POINT_BY_NAME
from flightsw.errors import ConfigError, FlightError, LinkError
from ground.passes import Contact
from ground.relay import Progress
from ground.station import CommandState, command_row
from ground.watch import command_text, value_text

_LOOK_S = 0.5


class ProcedureError(FlightError):
    """A step of a procedure did not come out as it must."""


class Link(Protocol):
    """What a procedure acts on."""

    def send(self, verb: str, values: Sequence[Value], timeout_s: float) -> Progress:
        """Send a command and wait for its end."""

    def latest(self, point: str) -> float | int | None:
        """Return the latest value of a point; None when missing, stale or never received."""

    def now_s(self) -> float:
        """Return the time."""

    def pause(self, seconds: float) -> None:
        """Let time go on."""

    def note(self, line: str) -> None:
        """Keep one line of the record."""


_COMPARE: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


class Condition:
    """A condition on telemetry, like `mode == COMPUTE and die0_c < 80`: points, numbers, code names, comparisons,
    `and`, `or`, `not`. A comparison with a value that is missing or stale is false, whichever it is.
    """

    def __init__(self, source: str) -> None:
        """Read it; LinkError says what is not a condition or not a point."""
        self.source = source
        try:
            self._tree = ast.parse(source.strip(), mode="eval").body
        except (SyntaxError, ValueError) as error:
            raise LinkError(f"{source!r} is no condition") from error
        self.points: list[str] = []
        self._check(self._tree)

    def holds(self, latest: Callable[[str], float | int | None]) -> bool:
        """Return whether it holds."""
        return self._truth(self._tree, latest)

    def _check(self, node: ast.expr) -> None:
        if isinstance(node, ast.BoolOp):
            for part in node.values:
                self._check(part)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            self._check(node.operand)
        elif isinstance(node, ast.Compare) and all(type(op) in _COMPARE for op in node.ops):
            sides = [node.left, *node.comparators]
            named = [side.id for side in sides if isinstance(side, ast.Name) and side.id in POINT_BY_NAME]
            self.points += named
            codes = {code for name in named for code in POINT_BY_NAME[name].enum or ()}
            names = {code.name: int(code) for code in codes}
            for side in sides:
                if isinstance(side, ast.Name) and side.id not in POINT_BY_NAME and side.id not in names:
                    raise LinkError(f"{self.source!r}: {side.id!r} is neither a point nor a code of {named}")
                if not isinstance(side, ast.Name):
                    self._number(side)
            if not named:
                raise LinkError(f"{self.source!r} compares no point")
            self._codes = {**getattr(self, "_codes", {}), **names}
        else:
            raise LinkError(f"{self.source!r} is no condition: it has {ast.unparse(node)!r}")

    def _number(self, node: ast.expr) -> float:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self._number(node.operand)
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
            return float(node.value)
        raise LinkError(f"{self.source!r}: {ast.unparse(node)!r} is not a number")

    def _truth(self, node: ast.expr, latest: Callable[[str], float | int | None]) -> bool:
        if isinstance(node, ast.BoolOp):
            parts = (self._truth(part, latest) for part in node.values)
            return all(parts) if isinstance(node.op, ast.And) else any(parts)
        if isinstance(node, ast.UnaryOp):
            return not self._truth(node.operand, latest)
        assert isinstance(node, ast.Compare)  # `_check` let nothing else through
        sides = [self._value(side, latest) for side in (node.left, *node.comparators)]
        return all(a is not None and b is not None and _COMPARE[type(op)](a, b)
                   for a, op, b in zip(sides, node.ops, sides[1:], strict=False))

    def _value(self, node: ast.expr, latest: Callable[[str], float | int | None]) -> float | int | None:
        if not isinstance(node, ast.Name):
            return self._number(node)
        return latest(node.id) if node.id in POINT_BY_NAME else self._codes[node.id]


class Operator:
    """What a procedure is given. Everything that it does is recorded as done."""

    def __init__(self, link: Link, *, dry: bool = False, timeout_s: float = 30.0) -> None:
        self.dry = dry
        self._link = link
        self._timeout_s = timeout_s

    def send(self, verb: str, *words: object, timeout: float | None = None) -> None:
        """Send a telecommand, arguments as an operator types them, and wait until it completed."""
        values = read_arguments(verb, [str(word) for word in words])
        line = command_text(verb, values)
        if self.dry:
            self._link.note(f"would send {line}")
            return
        last = self._link.send(verb, values, timeout or self._timeout_s)
        why = f": {last.text}" if last.text else ""
        self._link.note(f"sent {line}: {last.state}{why}")
        if last.state is not CommandState.COMPLETED:
            raise ProcedureError(f"{line} {last.state}{why}")

    def expect(self, condition: str, within: float = 0.0) -> None:
        """Wait until a condition on telemetry holds, at most `within` seconds."""
        read = Condition(condition)
        if self.dry:
            self._link.note(f"would expect {condition} within {within:g} s")
            return
        until_s = self._link.now_s() + within
        while not read.holds(self._link.latest):
            if self._link.now_s() >= until_s:
                found = ", ".join(f"{name} {value_text(POINT_BY_NAME[name], self._link.latest(name))}"
                                  for name in dict.fromkeys(read.points))
                self._link.note(f"expected {condition} within {within:g} s: no ({found})")
                raise ProcedureError(f"{condition} did not hold within {within:g} s: {found}")
            self._link.pause(min(_LOOK_S, max(0.0, until_s - self._link.now_s())))
        self._link.note(f"expected {condition}: yes")

    def value(self, point: str) -> float | int | None:
        """Return the latest value of a point; None when missing, stale or never received, and in a dry run."""
        if point not in POINT_BY_NAME:
            raise LinkError(f"no point {point!r}")
        return None if self.dry else self._link.latest(point)

    def wait(self, seconds: float) -> None:
        """Wait."""
        self._link.note(f"{'would wait' if self.dry else 'wait'} {seconds:g} s")
        if not self.dry:
            self._link.pause(seconds)

    def note(self, line: str) -> None:
        """Leave a line in the record."""
        self._link.note(line)


def read_arguments(verb: str, words: Sequence[str]) -> tuple[Value, ...]:
    """Return a command's arguments read from words and checked against its bounds; LinkError says what is wrong."""
    row = command_row(verb)
    if len(words) != len(row.args):
        wanted = " ".join(arg.name.upper() for arg in row.args) or "no arguments"
        raise LinkError(f"{verb} takes {wanted}; {len(words)} given")
    values = []
    for arg, word in zip(row.args, words, strict=True):
        value = parse_text_argument(arg, word)
        problem = check_argument(arg, value)
        if problem:
            raise LinkError(f"{verb}: {problem}")
        values.append(value)
    return tuple(values)


def run_file(path: Path, op: Operator) -> None:
    """Run a procedure; ProcedureError or LinkError where it ended before its end."""
    op.note(f"{'dry run' if op.dry else 'run'} of {path.name} begins")
    try:
        _load(path)(op)
    except FlightError as error:
        op.note(f"{path.name} ended early: {error}")
        raise
    except Exception as error:  # whatever the script raises is told in its own words
        op.note(f"{path.name} ended early: {type(error).__name__}: {error}")
        raise ProcedureError(f"{path.name}: {type(error).__name__}: {error}") from error
    op.note(f"{path.name} done")


def _load(path: Path) -> Callable[[Operator], object]:
    try:
        source = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), str(error)) from error
    names: dict[str, object] = {"__name__": path.stem, "__file__": str(path)}
    exec(compile(source, str(path), "exec"), names)  # a procedure is the operator's own program
    run = names.get("run")
    if not callable(run):
        raise ConfigError(str(path), "has no function run(op)")
    return run


# -- pass plans


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a pass plan: a telecommand as typed, or a procedure beside the plan."""

    send: str = text(".*", "a telecommand", "")
    run: str = text(".*", "a procedure's file", "")
    priority: int = number("", 1, 99, 50)
    seconds: float = number("s", 1.0, 3600.0, 15.0)
    station: str = text(".*", "a station's name", "")

    @property
    def title(self) -> str:
        """What it does, in a word."""
        return self.send or self.run


class Plan(NamedTuple):
    """A pass plan in the order in which its steps are to be done."""

    path: Path
    steps: tuple[Step, ...]


def load_plan(path: Path) -> Plan:
    """Read a pass plan and check all that it would send; ConfigError lists every problem."""
    reader, rows = Reader(), read_toml(path).get("step", [])
    if not isinstance(rows, list) or not rows:
        raise ConfigError(str(path), "no [[step]]")
    steps = [step for i, row in enumerate(rows) if (step := reader.build(Step, row, f"step[{i}].")) is not None]
    for i, step in enumerate(steps):
        if bool(step.send) == bool(step.run):
            reader.problems.append(f"step[{i}]: needs either send or run")
        elif step.send:
            reader.problems += [f"step[{i}].send: {problem}" for problem in _problems_of(step.send)]
        elif not (path.parent / step.run).is_file():
            reader.problems.append(f"step[{i}].run: {path.parent / step.run} does not exist")
    if reader.problems:
        raise problems_error(str(path), reader.problems)
    return Plan(path, tuple(sorted(steps, key=lambda step: step.priority)))


def _problems_of(line: str) -> list[str]:
    try:
        words = shlex.split(line)
        read_arguments(words[0] if words else "", words[1:])
        if COMMANDS[words[0]].hazardous:
            return [f"{words[0]} is hazardous: an operator sends it"]
    except (LinkError, ValueError) as error:
        return [str(error)]
    return []


def fitting(plan: Plan, contact: Contact, done: Sequence[str], now_s: float = -math.inf) -> list[tuple[Step, bool]]:
    """Return the steps that are not done, in order, and whether each fits into what is left of a pass."""
    left_s = contact.los_s - max(now_s, contact.aos_s)
    found = []
    for step in plan.steps:
        if step.title in done:
            continue
        fits = step.station in {"", contact.site.name} and step.seconds <= left_s
        left_s -= step.seconds if fits else 0.0
        found.append((step, fits))
    return found


def run_step(plan: Plan, step: Step, op: Operator) -> None:
    """Do one step of a plan."""
    if step.run:
        run_file(plan.path.parent / step.run, op)
    else:
        words = shlex.split(step.send)
        op.send(words[0], *words[1:])

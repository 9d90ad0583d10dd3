"""Expressions over named signals, and the checks in time that are made of them.

An expression is a small part of Python's grammar, parsed with `ast` against a list of allowed nodes and never
evaluated as code. Names are those of `hil.signals`; every name, unit and function is checked when a scenario is read.
Truth has three values: where a signal has no value an expression is neither true nor false. Comparisons carry a
margin (how far from turning over), so that a check can say how near it came.

    truth.battery_soc_frac >= 25 % and not decision.shed
    rate(truth.plate_c) < 0.5 K/s
    event("sensor_lost", "plate_c") > 0

Used by `hil.scenario` (off line) and by the benches (on a `hil.signals.Record`). It judges signals; verdicts of runs
are `hil.verdict`'s.
"""

from __future__ import annotations

import ast
import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flightsw.state import Mode
from hil.signals import MODE_UNIT, Column, Record, Signal, is_event
from hil.verdict import Finding, Verdict

Flags = npt.NDArray[np.bool_]

COVERAGE_MIN_FRAC = 0.5
"""A check whose signals had a value for less than this share of its time decides nothing."""

_UNITS: dict[str, tuple[float, str]] = {
    "s": (1.0, "s"), "min": (60.0, "s"), "h": (3600.0, "s"), "degC": (1.0, "degC"), "K": (1.0, "K"), "W": (1.0, "W"),
    "V": (1.0, "V"), "A": (1.0, "A"), "Wh": (1.0, "Wh"), "frac": (1.0, "frac"), "%": (0.01, "frac"),
    "jobs": (1.0, "jobs"), "K/s": (1.0, "K/s"), "W/s": (1.0, "W/s"), "frac/s": (1.0, "frac/s"),
}
_QUANTITY = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*("
                       + "|".join(sorted((re.escape(unit) for unit in _UNITS), key=len, reverse=True)) + r")(?![\w(/])")
_ANY = None
"""Unit of a number that was written without one: it fits where any unit does."""


class ExpressionError(ValueError):
    """An expression that cannot be meant; the text says which part of it and why."""


class Judged(NamedTuple):
    """Truth of an expression on every tick: `yes`, `no`, or neither; `margin` is None where it has no distance."""

    yes: Flags
    no: Flags
    margin: Column | None
    unit: str


_Number = Callable[[Record], Column]
_Truth = Callable[[Record], Judged]


class _Node(NamedTuple):
    """A part of an expression: its unit, and what computes it; exactly one of the two is there."""

    unit: str | None
    number: _Number | None = None
    truth: _Truth | None = None


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression. `signals` are the names that it needs; `live` is true where all are known in flight."""

    text: str
    signals: frozenset[str]
    live: bool
    judge: _Truth

    def is_true_now(self, record: Record) -> bool:
        """Tell whether it holds on the last tick of `record`."""
        return bool(self.judge(record).yes[-1])


def parse(text: str, known: Mapping[str, Signal]) -> Expression:
    """Parse a condition; ExpressionError says what is wrong with it."""
    plain = _QUANTITY.sub(lambda m: f"_quantity({m[1]}, '{m[2]}')", text)
    try:
        tree = ast.parse(plain.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ExpressionError(f"{text!r}: {getattr(error, 'msg', error)}") from error
    reader = _Reader(known)
    try:
        truth = reader.truth(tree.body)
    except ExpressionError as error:
        raise ExpressionError(f"{text!r}: {error}") from error
    return Expression(text, frozenset(reader.signals), reader.live, truth)


class _Reader:
    """Turns syntax into closures; collects the names on the way."""

    def __init__(self, known: Mapping[str, Signal]) -> None:
        self._known = known
        self.signals: set[str] = set()
        self.live = True

    def truth(self, node: ast.expr) -> _Truth:
        """Read what is true or false; a number is true where it is not zero."""
        read = self._read(node)
        if read.truth is not None:
            return read.truth
        number = _number_of(read, node)
        if read.unit == MODE_UNIT:
            raise ExpressionError(f"{_shown(node)} is a mode: compare it, like decision.mode == SAFE")

        def nonzero(record: Record) -> Judged:
            values = number(record)
            known = ~np.isnan(values)
            return Judged(known & (values != 0.0), known & (values == 0.0), None, "")

        return nonzero

    def _read(self, node: ast.expr) -> _Node:
        if isinstance(node, ast.Constant):
            return self._constant(node)
        if isinstance(node, (ast.Name, ast.Attribute)):
            return self._name(node)
        if isinstance(node, ast.UnaryOp):
            return self._unary(node)
        if isinstance(node, ast.BoolOp):
            parts = [self.truth(value) for value in node.values]
            return _Node(_ANY, truth=_both(parts) if isinstance(node.op, ast.And) else _either(parts))
        if isinstance(node, ast.BinOp):
            return self._binary(node)
        if isinstance(node, ast.Compare):
            return self._compare(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        raise ExpressionError(f"{_shown(node)}: {type(node).__name__} is not allowed here; known are numbers with "
                              f"units, signals, + - * /, comparisons, and, or, not, {', '.join(_FUNCTIONS)}")

    def _constant(self, node: ast.Constant) -> _Node:
        if isinstance(node.value, bool) or not isinstance(node.value, (int, float)):
            raise ExpressionError(f"{node.value!r} is not a number")
        value = float(node.value)
        return _Node(_ANY, number=lambda record: np.full(record.ticks, value))

    def _name(self, node: ast.Name | ast.Attribute) -> _Node:
        name = ast.unparse(node)
        if name in Mode.__members__:
            code = float(Mode[name])
            return _Node(MODE_UNIT, number=lambda record: np.full(record.ticks, code))
        signal = self._known.get(name)
        if signal is None:
            near = difflib.get_close_matches(name, self._known, 3, 0.5)
            raise ExpressionError(f"no signal {name!r}" + (f"; near: {', '.join(near)}" if near else ""))
        self.signals.add(name)
        self.live &= signal.live
        return _Node(signal.unit, number=lambda record: record[name])

    def _unary(self, node: ast.UnaryOp) -> _Node:
        if isinstance(node.op, ast.Not):
            part = self.truth(node.operand)
            return _Node(_ANY, truth=lambda record: _not(part(record)))
        read = self._read(node.operand)
        number = _number_of(read, node)
        if isinstance(node.op, ast.USub):
            return _Node(read.unit, number=lambda record: -number(record))
        raise ExpressionError(f"{_shown(node)}: only - and not stand before a term")

    def _binary(self, node: ast.BinOp) -> _Node:
        left, right = self._read(node.left), self._read(node.right)
        a, b = _number_of(left, node.left), _number_of(right, node.right)
        if isinstance(node.op, ast.Add):
            return _Node(_sum_unit(left.unit, right.unit, node, "+"), number=lambda record: a(record) + b(record))
        if isinstance(node.op, ast.Sub):
            return _Node(_sum_unit(left.unit, right.unit, node, "-"), number=lambda record: a(record) - b(record))
        if isinstance(node.op, ast.Mult):
            return _Node(_product_unit(left.unit, right.unit), number=lambda record: a(record) * b(record))
        if isinstance(node.op, ast.Div):
            unit = "" if left.unit == right.unit else _product_unit(left.unit, right.unit, "/")

            def quotient(record: Record) -> Column:
                divisor = b(record)
                return a(record) / np.where(divisor == 0.0, np.nan, divisor)  # no value, not a number made up

            return _Node(unit, number=quotient)
        raise ExpressionError(f"{_shown(node)}: only + - * / are known")

    def _compare(self, node: ast.Compare) -> _Node:
        terms = [node.left, *node.comparators]
        reads = [self._read(term) for term in terms]
        parts: list[_Truth] = []
        for i, op in enumerate(node.ops):
            left, right = reads[i], reads[i + 1]
            unit = _same_unit(left.unit, right.unit, node)
            make = _COMPARISONS.get(type(op))
            if make is None:
                raise ExpressionError(f"{_shown(node)}: only < <= > >= == != compare")
            if unit == MODE_UNIT and type(op) not in (ast.Eq, ast.NotEq):
                raise ExpressionError(f"{_shown(node)}: modes have no order")
            parts.append(make(_number_of(left, terms[i]), _number_of(right, terms[i + 1]),
                              "K" if unit == "degC" else unit or ""))
        return _Node(_ANY, truth=_both(parts) if len(parts) > 1 else parts[0])

    def _call(self, node: ast.Call) -> _Node:
        name = node.func.id if isinstance(node.func, ast.Name) else _shown(node.func)
        if name == "_quantity" and len(node.args) == 2:
            return _quantity(node)
        make = _FUNCTIONS.get(name)
        if make is None or node.keywords:
            raise ExpressionError(f"no function {name}; known are {', '.join(_FUNCTIONS)}")
        return make(self, node)

    # --- functions -----------------------------------------------------------------------------------

    def _numbers(self, node: ast.Call, count: int | None = None) -> list[_Node]:
        if not node.args or (count is not None and len(node.args) != count):
            raise ExpressionError(f"{_shown(node)}: takes {count or 'one or more'} terms, {len(node.args)} given")
        reads = [self._read(arg) for arg in node.args]
        for read, arg in zip(reads, node.args, strict=True):
            _number_of(read, arg)
        return reads

    def _abs(self, node: ast.Call) -> _Node:
        (read,) = self._numbers(node, 1)
        number = _number_of(read, node)
        return _Node(read.unit, number=lambda record: np.abs(number(record)))

    def _extreme(self, node: ast.Call, pick: np.ufunc) -> _Node:
        reads = self._numbers(node)
        unit = reads[0].unit
        for read in reads[1:]:
            unit = _same_unit(unit, read.unit, node)
        numbers = [_number_of(read, node) for read in reads]
        return _Node(unit, number=lambda record: pick.reduce([number(record) for number in numbers]))

    def _rate(self, node: ast.Call) -> _Node:
        (read,) = self._numbers(node, 1)
        number = _number_of(read, node)
        unit = "K" if read.unit == "degC" else read.unit
        self.live = False

        def rate(record: Record) -> Column:
            return np.diff(number(record), prepend=np.nan)

        return _Node(f"{unit}/s" if unit else unit, number=rate)

    def _over_time(self, node: ast.Call, compute: Callable[[Column, int], Column]) -> _Node:
        if len(node.args) != 2:
            raise ExpressionError(f"{_shown(node)}: takes a term and a duration, like (truth.plate_c, 60 s)")
        read = self._read(node.args[0])
        number = _number_of(read, node)
        span_s = _literal_s(node.args[1])
        self.live = False
        return _Node(read.unit, number=lambda record: compute(number(record), max(1, round(span_s))))

    def _valid(self, node: ast.Call) -> _Node:
        (read,) = self._numbers(node, 1)
        number = _number_of(read, node)

        def valid(record: Record) -> Judged:
            missing = np.isnan(number(record))
            return Judged(~missing, missing, None, "")

        return _Node(_ANY, truth=valid)

    def _event(self, node: ast.Call) -> _Node:
        words = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        if not 1 <= len(node.args) <= 2 or len(words) != len(node.args):
            raise ExpressionError(f'{_shown(node)}: takes an event and words of its text, like event("sensor_lost", '
                                  '"plate_c")')
        if not is_event(words[0]):
            raise ExpressionError(f"no event {words[0]!r} in the dictionary")
        self.live = False
        name, said = words[0], words[1] if len(words) == 2 else ""
        return _Node("", number=lambda record: record.events(name, said))


def _trailing_mean(values: Column, ticks: int) -> Column:
    whole = np.full(values.size, np.nan)
    if values.size >= ticks:
        whole[ticks - 1:] = np.lib.stride_tricks.sliding_window_view(values, ticks).mean(axis=1)
    return whole


def _earlier(values: Column, ticks: int) -> Column:
    return np.concatenate((np.full(min(ticks, values.size), np.nan), values[:-ticks]))


_FUNCTIONS: dict[str, Callable[[_Reader, ast.Call], _Node]] = {
    "abs": _Reader._abs,
    "min": lambda reader, node: reader._extreme(node, np.minimum),
    "max": lambda reader, node: reader._extreme(node, np.maximum),
    "rate": _Reader._rate,
    "mean": lambda reader, node: reader._over_time(node, _trailing_mean),
    "ago": lambda reader, node: reader._over_time(node, _earlier),
    "valid": _Reader._valid,
    "event": _Reader._event,
}
"""What an expression may call: the two over time take (term, duration) and look back."""


def _comparison(compare: np.ufunc, sign: float) -> Callable[[_Number, _Number, str], _Truth]:
    """Make a comparison; `sign` is that of left less right where it holds, 0 where it has no distance."""
    def make(a: _Number, b: _Number, unit: str) -> _Truth:
        def judge(record: Record) -> Judged:
            left, right = a(record), b(record)
            known = ~(np.isnan(left) | np.isnan(right))
            yes = compare(left, right)
            return Judged(yes & known, ~yes & known, sign * (left - right) if sign else None, unit)

        return judge

    return make


_COMPARISONS: dict[type[ast.cmpop], Callable[[_Number, _Number, str], _Truth]] = {
    ast.Lt: _comparison(np.less, -1.0), ast.LtE: _comparison(np.less_equal, -1.0),
    ast.Gt: _comparison(np.greater, 1.0), ast.GtE: _comparison(np.greater_equal, 1.0),
    ast.Eq: _comparison(np.equal, 0.0), ast.NotEq: _comparison(np.not_equal, 0.0),
}


def _not(judged: Judged) -> Judged:
    return Judged(judged.no, judged.yes, None if judged.margin is None else -judged.margin, judged.unit)


def _both(parts: Sequence[_Truth]) -> _Truth:
    def judge(record: Record) -> Judged:
        judged = [part(record) for part in parts]
        yes = np.logical_and.reduce([each.yes for each in judged])
        no = np.logical_or.reduce([each.no for each in judged])
        units = {each.unit for each in judged}
        margins = [each.margin for each in judged if each.margin is not None]
        comparable = len(units) == 1 and len(margins) == len(judged)
        return Judged(yes, no, np.minimum.reduce(margins) if comparable else None, judged[0].unit if comparable else "")

    return judge


def _either(parts: Sequence[_Truth]) -> _Truth:
    negated = _both([lambda record, part=part: _not(part(record)) for part in parts])  # type: ignore[misc] # bound
    return lambda record: _not(negated(record))


def _number_of(read: _Node, node: ast.expr) -> _Number:
    if read.number is None:
        raise ExpressionError(f"{_shown(node)} is true or false, a number is expected")
    return read.number


def _same_unit(a: str | None, b: str | None, node: ast.expr) -> str | None:
    if a is not _ANY and b is not _ANY and a != b:
        raise ExpressionError(f"{_shown(node)}: {a or 'a plain number'} beside {b or 'a plain number'}")
    if MODE_UNIT in (a, b) and a != b:
        raise ExpressionError(f"{_shown(node)}: a mode is compared with {', '.join(Mode.__members__)}")
    return b if a is _ANY else a


def _sum_unit(a: str | None, b: str | None, node: ast.expr, sign: str) -> str | None:
    if sign == "-" and a == b == "degC":
        return "K"
    if a == "degC" and b == "K":
        return "degC"
    return _same_unit(a, b, node)


def _product_unit(a: str | None, b: str | None, sign: str = "*") -> str | None:
    """A factor without unit, or a share, leaves the other's unit."""
    if b in (_ANY, "", "frac"):
        return a
    if a in (_ANY, "", "frac") and sign == "*":
        return b
    return f"{a or '1'}{sign}{b}"


def _quantity(node: ast.Call) -> _Node:
    number, unit = node.args
    if not (isinstance(number, ast.Constant) and isinstance(number.value, (int, float))
            and isinstance(unit, ast.Constant) and unit.value in _UNITS):
        raise ExpressionError(f"{_shown(node)} is no quantity")
    factor, name = _UNITS[str(unit.value)]
    value = float(number.value) * factor
    return _Node(name, number=lambda record: np.full(record.ticks, value))


def _literal_s(node: ast.expr) -> float:
    if isinstance(node, ast.Call) and len(node.args) == 2 and isinstance(node.args[1], ast.Constant):
        factor, name = _UNITS.get(str(node.args[1].value), (0.0, ""))
        if name == "s" and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, (int, float)):
            return float(node.args[0].value) * factor
    raise ExpressionError(f"{_shown(node)}: a duration like 60 s is expected")


def _shown(node: ast.expr) -> str:
    """Show the source of a node as it was written."""
    return re.sub(r"_quantity\(([^,]+), '([^']+)'\)", r"\1 \2", ast.unparse(node))


# --- checks in time ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a scenario. `kind` says which of the expressions are there and what they mean.

    always  `holds` on every tick; beyond it for at most `grace_s` at a time
    expect  each time that `after` becomes true, `holds` within `within_s`
    until   from each time that `after` becomes true `holds` stands, `grace_s` apart, until `release` is true
    final   `holds` on the last tick

    `during` limits all to ticks on which it is true, `from_s`..`to_s` to a part of the run.
    """

    name: str
    kind: str
    statement: str
    holds: Expression
    after: Expression | None = None
    release: Expression | None = None
    during: Expression | None = None
    within_s: float = math.inf
    grace_s: float = 0.0
    from_s: float = 0.0
    to_s: float = math.inf
    verifies: tuple[str, ...] = ()

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """All expressions of the check."""
        return tuple(each for each in (self.holds, self.after, self.release, self.during) if each is not None)

    @property
    def signals(self) -> frozenset[str]:
        """Names that it needs."""
        return frozenset().union(*(each.signals for each in self.expressions))

    def judge(self, record: Record) -> Finding:
        """Hold it against a run."""
        with np.errstate(invalid="ignore"):  # what is infinite on both sides has no distance
            holds = self.holds.judge(record)
            scope = (record["t_s"] >= self.from_s) & (record["t_s"] < self.to_s)
            if self.during is not None:
                scope &= self.during.judge(record).yes
            verdict, detail, margin, unit, worst_s = _KINDS[self.kind](self, record, holds, scope)
        return Finding(self.name, verdict, detail, self.statement, margin, unit, worst_s, self.verifies)

    def starts(self, record: Record, scope: Flags) -> list[int]:
        """Ticks at which `after` becomes true within the scope; the scope's first tick where there is no `after`."""
        if self.after is None:
            return [int(tick) for tick in np.flatnonzero(scope)[:1]]
        true = self.after.judge(record).yes & scope
        return [int(tick) for tick in np.flatnonzero(true & ~np.concatenate(([False], true[:-1])))]


@dataclass(frozen=True, slots=True)
class PythonCheck:
    """A check by a function of the scenario's hooks: given the run's `Record`, it returns whether it holds, or by how
    much (a margin, negative where it does not), or such a value and a detail.
    """

    name: str
    statement: str
    function: Callable[[Record], object]
    verifies: tuple[str, ...] = ()

    @property
    def signals(self) -> frozenset[str]:
        """None that are known beforehand: it asks the record for what it needs."""
        return frozenset()

    def judge(self, record: Record) -> Finding:
        """Hold it against a run; what the function raises is the rig's error."""
        try:
            result = self.function(record)
            value, detail = result if isinstance(result, tuple) else (result, "")
            margin = None if isinstance(value, (bool, np.bool_)) else float(value)
        except Exception as error:  # the author's own code: whatever it raises
            return Finding(self.name, Verdict.ERROR, f"{type(error).__name__}: {error}", f"python {self.statement}",
                           verifies=self.verifies)
        holds = bool(value) if margin is None else margin >= 0.0
        return Finding(self.name, Verdict.PASS if holds else Verdict.FAIL, str(detail), f"python {self.statement}",
                       margin, verifies=self.verifies)


_Outcome = tuple[Verdict, str, float | None, str, float | None]


def _judge_always(check: Check, _record: Record, holds: Judged, scope: Flags) -> _Outcome:
    seen = scope & (holds.yes | holds.no)
    if not seen.any():
        return Verdict.INCONCLUSIVE, "its signals never had a value in its time", None, "", None
    margin, worst = _worst(holds, seen)
    bad = holds.no & scope
    spans = [(a, b) for a, b in _spans(bad) if b - a > check.grace_s]
    if spans:
        longest = max(spans, key=lambda span: span[1] - span[0])
        return (Verdict.FAIL, f"{_times(len(spans))} violated, {sum(b - a for a, b in spans)} s in all, longest "
                f"{longest[1] - longest[0]} s from T+{longest[0]} s", margin, holds.unit,
                float(longest[0] if worst is None else worst))
    coverage = np.count_nonzero(seen) / np.count_nonzero(scope)
    if coverage < COVERAGE_MIN_FRAC:
        return (Verdict.INCONCLUSIVE, f"its signals had a value for {coverage:.0%} of its time only", margin,
                holds.unit, worst)
    brief = np.count_nonzero(bad)
    detail = f"held on {np.count_nonzero(seen & holds.yes):,} ticks"
    return Verdict.PASS, detail + (f", {brief} within grace" if brief else ""), margin, holds.unit, worst


def _judge_expect(check: Check, record: Record, holds: Judged, scope: Flags) -> _Outcome:
    starts = check.starts(record, scope)
    if not starts:
        return Verdict.INCONCLUSIVE, "what it waits for never came", None, "", None
    yes = np.flatnonzero(holds.yes)
    at = np.searchsorted(yes, starts)
    slowest, slowest_s, open_at = -1.0, 0.0, None
    for start, index in zip(starts, at.tolist(), strict=True):
        if index < yes.size:
            took = float(yes[index] - start)
        elif record.ticks - start <= check.within_s and check.within_s < math.inf:
            open_at = start
            continue
        else:
            took = math.inf
        if took > slowest:
            slowest, slowest_s = took, float(start)
    margin = check.within_s - slowest if slowest < math.inf and check.within_s < math.inf and slowest >= 0.0 else None
    if slowest > check.within_s or slowest == math.inf:
        when = "never" if slowest == math.inf else f"only after {slowest:.0f} s"
        return Verdict.FAIL, f"came {when} (after T+{slowest_s:.0f} s)", margin, "s", slowest_s
    if open_at is not None:
        return Verdict.INCONCLUSIVE, f"the run ended before its time was up (after T+{open_at} s)", margin, "s", open_at
    return Verdict.PASS, f"{_times(len(starts))}, slowest after {slowest:.0f} s", margin, "s", slowest_s


def _judge_until(check: Check, record: Record, holds: Judged, scope: Flags) -> _Outcome:
    if check.release is None:
        raise ValueError(f"{check.name}: a check of kind until without its end")
    starts = check.starts(record, scope)
    if not starts:
        return Verdict.INCONCLUSIVE, "what it begins with never came", None, "", None
    ends = np.flatnonzero(check.release.judge(record).yes)
    stands = np.zeros(record.ticks, np.bool_)
    for start in starts:
        index = int(np.searchsorted(ends, start))
        end = int(ends[index]) if index < ends.size else None
        if end is None or end - start > check.within_s:
            when = "never came" if end is None else f"came only after {end - start} s"
            return Verdict.FAIL, f"its end {when} (from T+{start} s)", None, "", float(start)
        stands[start:end] = True
    spans = [(a, b) for a, b in _spans(holds.no & stands) if b - a > check.grace_s]
    margin, worst = _worst(holds, stands & (holds.yes | holds.no))
    if spans:
        first = spans[0]
        return (Verdict.FAIL, f"left {_times(len(spans))} before its end, first for {first[1] - first[0]} s from "
                f"T+{first[0]} s", margin, holds.unit, float(first[0]))
    return Verdict.PASS, f"stood {_times(len(starts))} to its end", margin, holds.unit, worst


def _judge_final(_check: Check, record: Record, holds: Judged, _scope: Flags) -> _Outcome:
    last = record.ticks - 1
    if not (holds.yes[last] or holds.no[last]):
        return Verdict.INCONCLUSIVE, "its signals have no value at the end", None, "", None
    margin = float(holds.margin[last]) if holds.margin is not None else None
    return (Verdict.PASS, "holds at the end", margin, holds.unit, None) if holds.yes[last] else (
        Verdict.FAIL, "does not hold at the end", margin, holds.unit, None)


_KINDS: dict[str, Callable[[Check, Record, Judged, Flags], _Outcome]] = {
    "always": _judge_always, "expect": _judge_expect, "until": _judge_until, "final": _judge_final,
}


def _worst(holds: Judged, seen: Flags) -> tuple[float | None, float | None]:
    """Least margin and its tick among `seen`; None where the expression has no distance or it is without bound."""
    if holds.margin is None or not seen.any():
        return None, None
    inside = np.where(seen & ~np.isnan(holds.margin), holds.margin, np.inf)
    worst = int(np.argmin(inside))
    return (float(inside[worst]), float(worst)) if np.isfinite(inside[worst]) else (None, None)


def _spans(flags: Flags) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"

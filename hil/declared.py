"""Declared files of the rig: TOML -> frozen dataclasses whose fields carry unit, range and default.

Used by the truth file and the scenario. All problems of a file are collected, each with key, value and range,
so that an author sees them at once. It owns no numbers and shares none with the flight's mission reader.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from flightsw.errors import ConfigError
from flightsw.mission import read_toml

T = TypeVar("T")
_NO_DEFAULT = dataclasses.MISSING


def number(unit: str, low: float, high: float, default: Any = _NO_DEFAULT) -> Any:  # Any: as dataclasses.field
    """Declare a number, or numbers, with unit and inclusive range."""
    return dataclasses.field(default=default, metadata={"unit": unit, "low": low, "high": high})


def text(pattern: str, expected: str, default: Any = _NO_DEFAULT, key: str = "") -> Any:  # Any: as above
    """Declare a text that matches `pattern` as a whole; `expected` says so in words.

    `key` is its key in the file where that cannot be a field's name.
    """
    metadata = {"pattern": re.compile(pattern), "expected": expected} | ({"key": key} if key else {})
    return dataclasses.field(default=default, metadata=metadata)


class Reader:
    """Builds dataclasses from TOML tables; `problems` lists everything that is wrong so far."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def build(self, cls: type[T], table: object, path: str) -> T | None:
        """Build `cls` from a table; None when something in it is wrong."""
        if not isinstance(table, dict):
            self.problems.append(f"{path.rstrip('.')} = {_short(table)}: a table is expected")
            return None
        hints = get_type_hints(cls)
        fields = {
            field.metadata.get("key", field.name): field
            for field in dataclasses.fields(cls)  # type: ignore[arg-type] # T is a dataclass
        }
        before = len(self.problems)
        known = f"; known here: {', '.join(fields)}"  # said once a table
        for key, value in table.items():
            if key not in fields:
                self.problems.append(f"{path}{key} = {_short(value)}: unknown key{known}")
                known = ""
        values: dict[str, object] = {}
        for key, field in fields.items():
            if key in table:
                values[field.name] = self._value(hints[field.name], table[key], f"{path}{key}", field.metadata)
            elif field.default is _NO_DEFAULT and field.default_factory is _NO_DEFAULT:
                self.problems.append(f"{path}{key}: missing{_range_text(field.metadata)}")
        return cls(**values) if len(self.problems) == before else None

    def _value(self, kind: Any, raw: object, path: str, bounds: Any) -> object:  # Any: typing's own objects
        origin = get_origin(kind)
        if origin is types.UnionType:  # only ever "X | None": absent is None, present is X
            kind = get_args(kind)[0]
            origin = get_origin(kind)
        if dataclasses.is_dataclass(kind):
            return self.build(kind, raw, path + ".")  # type: ignore[arg-type] # a dataclass type, not instance
        if origin is tuple:
            if not isinstance(raw, list):
                self.problems.append(f"{path} = {_short(raw)}: an array is expected{_range_text(bounds)}")
                return ()
            return tuple(self._value(get_args(kind)[0], item, f"{path}[{i}]", bounds) for i, item in enumerate(raw))
        if origin is dict:
            if not isinstance(raw, dict):
                self.problems.append(f"{path} = {_short(raw)}: a table is expected")
                return {}
            return {key: self._value(get_args(kind)[1], item, f"{path}.{key}", bounds) for key, item in raw.items()}
        if kind is str:
            if not isinstance(raw, str) or not bounds["pattern"].fullmatch(raw):
                self.problems.append(f"{path} = {_short(raw)}: expected {bounds['expected']}")
            return raw
        is_number = isinstance(raw, (int, float)) and not isinstance(raw, bool)
        if not is_number or (kind is int and not isinstance(raw, int)):
            what = "a whole number" if kind is int else "a number"
            self.problems.append(f"{path} = {_short(raw)}: {what} is expected{_range_text(bounds)}")
            return raw
        value = float(raw)  # type: ignore[arg-type] # checked to be int or float just above
        if not (math.isfinite(value) and bounds["low"] <= value <= bounds["high"]):
            self.problems.append(f"{path} = {_short(raw)} is out of range{_range_text(bounds)}")
        return raw if kind is int else value


def load(cls: type[T], path: Path) -> T:
    """Read `path` as `cls`; ConfigError lists every problem, one a line."""
    reader = Reader()
    result = reader.build(cls, read_toml(path), "")
    if result is None:
        raise ConfigError(str(path), "\n  ".join(reader.problems))
    return result


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _range_text(bounds: Any) -> str:  # Any: a dataclass field's metadata mapping
    if "expected" in bounds:
        return f" (expected {bounds['expected']})"
    if "unit" not in bounds:
        return ""
    unit = f" {bounds['unit']}" if bounds["unit"] else ""
    return f" (range {bounds['low']:g}..{bounds['high']:g}{unit})"

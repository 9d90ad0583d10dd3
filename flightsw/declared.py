"""Declared files: TOML -> frozen dataclasses whose fields carry unit, range and default.

The one reader behind mission files, the rig's truth files and scenarios. All problems of a file are
collected, each with key, value and range, so that an author sees them at once and nothing is flown before.
It owns no numbers.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
import types
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from flightsw.errors import ConfigError

T = TypeVar("T")
_NO_DEFAULT = dataclasses.MISSING
_KIND_TEXT: dict[type, str] = {
    bool: "true or false", str: "a text", int: "a whole number", float: "a number",
}


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

    def build(self, cls: type[T], table: object, path: str = "") -> T | None:
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
        return self._scalar(kind, raw, path, bounds)

    def _scalar(self, kind: type, raw: object, path: str, bounds: Any) -> object:  # Any: field metadata
        if kind is bool or kind is str:
            if not isinstance(raw, kind):
                self.problems.append(f"{path} = {_short(raw)}: {_KIND_TEXT[kind]} is expected")
            elif "pattern" in bounds and not bounds["pattern"].fullmatch(raw):
                self.problems.append(f"{path} = {_short(raw)}: expected {bounds['expected']}")
            return raw
        if isinstance(raw, bool) or not isinstance(raw, int if kind is int else (int, float)):
            self.problems.append(f"{path} = {_short(raw)}: {_KIND_TEXT[kind]} is expected{_range_text(bounds)}")
            return raw
        if "low" not in bounds:
            return raw  # its owner has the range
        if not bounds["low"] <= raw <= bounds["high"]:  # false for NaN as well
            self.problems.append(f"{path} = {_short(raw)} is out of range{_range_text(bounds)}")
            return raw
        return raw if kind is int else float(raw)


def parse_toml(octets: str, where: str) -> dict[str, Any]:  # Any: TOML values
    """Parse TOML; ConfigError names `where` and, for a syntax error, line and column."""
    try:
        return tomllib.loads(octets)
    except ValueError as error:  # also numbers of thousands of digits
        raise ConfigError(where, f"is not valid TOML: {error}") from error


def read_text(path: Path) -> str:
    """Read a text file; ConfigError names it and the system's reason."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), f"is not valid TOML: it is not UTF-8: {error}") from error


def read_toml(path: Path) -> dict[str, Any]:  # Any: TOML values
    """Read a TOML file; ConfigError names the file and what is wrong with it."""
    return parse_toml(read_text(path), str(path))


def load(cls: type[T], path: Path) -> T:
    """Read `path` as `cls`; ConfigError lists every problem, one a line."""
    reader = Reader()
    result = reader.build(cls, read_toml(path))
    if result is None:
        raise problems_error(str(path), reader.problems)
    return result


def problems_error(where: str, problems: list[str]) -> ConfigError:
    """One error that lists every problem of a file, one a line."""
    return ConfigError(where, "\n  ".join(problems))


def _range_text(bounds: Any) -> str:  # Any: a dataclass field's metadata mapping
    if "expected" in bounds:
        return f" (expected {bounds['expected']})"
    if "unit" not in bounds:
        return ""
    unit = f" {bounds['unit']}" if bounds["unit"] else ""
    return f" (range {bounds['low']:g}..{bounds['high']:g}{unit})"


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."

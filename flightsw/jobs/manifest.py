"""`job.toml` -> `Manifest`: what a job's author declares, every key bounded, with its unit.

Called by the command line when it checks a job and by whoever submits or starts one. Never runs anything.
An unknown, missing or out-of-range key is an error; all errors of a file are reported together, each with
file, key, value and range.

    [job]      id  name  customer  command  inputs  outputs  value  deadline_s  answer_due_s?
    [work]     units  unit
    [needs]    memory_mb  disk_mb
    [pause]    contract  checkpoint_deadline_s?
    [power]    activity_frac | by_mode_w
    [profile]? units_per_core_s  peak_memory_mb  activity_frac  measured_on
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from flightsw.errors import ConfigError
from flightsw.state import Pause

MANIFEST_OCTETS_MAX: Final = 16_384
UNITS_WORD: Final = "{units}"


@dataclass(frozen=True, slots=True)
class Profile:
    """What one core of `measured_on` made of the job, unthrottled.

    `activity_frac` is CPU time over elapsed time: how much of the core's power it draws.
    """

    units_per_core_s: float
    peak_memory_mb: float
    activity_frac: float
    measured_on: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A job as its author declares it.

    `inputs` are the files of the bundle, its programs too, that the job finds in `in/`; `outputs` those it
    leaves in `out/`; both plain names. `deadline_s` and `answer_due_s` count from submission. Power is
    declared either as `activity_frac` of a mode's nominal draw or as `power_by_mode_w`.
    """

    id: str
    name: str
    customer: str
    command: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    value: float
    deadline_s: float
    answer_due_s: float
    work_units: int
    unit: str
    memory_mb: float
    disk_mb: float
    pause: Pause
    checkpoint_deadline_s: float | None
    activity_frac: float | None
    power_by_mode_w: Mapping[str, float]
    profile: Profile | None

    @property
    def work_core_s(self) -> float | None:
        """Core-seconds of the whole work on the profiled machine; None when it was never measured."""
        return None if self.profile is None else self.work_units / self.profile.units_per_core_s

    def command_words(self) -> tuple[str, ...]:
        """Return the command with the word `{units}` replaced by the declared work."""
        return tuple(str(self.work_units) if word == UNITS_WORD else word for word in self.command)


def load_manifest(path: Path) -> Manifest:
    """Read and check a `job.toml`. ConfigError lists everything that is wrong with it."""
    try:
        octets = path.read_bytes()
    except OSError as e:
        raise ConfigError(str(path), e.strerror or str(e)) from e
    return parse_manifest(octets, str(path))


def parse_manifest(octets: bytes, where: str) -> Manifest:
    """Check the text of a manifest; `where` names it in errors. ConfigError lists everything wrong."""
    if len(octets) > MANIFEST_OCTETS_MAX:
        raise ConfigError(where, f"{len(octets)} octets above the limit of {MANIFEST_OCTETS_MAX}")
    try:
        table = tomllib.loads(octets.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ConfigError(where, f"not TOML: {e}") from e
    values, problems = _check(table)
    if not problems:
        problems = list(_contradictions(values))
    if problems:
        raise ConfigError(where, f"\n{where}: ".join(problems))
    return _build(values)


class _Rule(NamedTuple):
    """What a key may hold: `accept` returns the value to keep, or None to refuse it."""

    expected: str
    accept: Callable[[object], Any]  # Any: each rule has its own type, and _build puts each in its place
    required: bool = True


def _number(unit: str, low: float, high: float, *, required: bool = True) -> _Rule:
    def accept(value: object) -> float | None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return float(value) if math.isfinite(value) and low <= value <= high else None

    return _Rule(f"{low:g}..{high:g} {unit}".rstrip(), accept, required)


def _whole(unit: str, low: int, high: int) -> _Rule:
    def accept(value: object) -> int | None:
        return value if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high else None

    return _Rule(f"a whole number {low}..{high} {unit}", accept)


def _text(pattern: str, expected: str) -> _Rule:
    compiled = re.compile(pattern)

    def accept(value: object) -> str | None:
        return value if isinstance(value, str) and compiled.fullmatch(value) else None

    return _Rule(expected, accept)


def _list(item: _Rule, low: int, high: int, *, unique: bool) -> _Rule:
    def accept(value: object) -> tuple[str, ...] | None:
        if not isinstance(value, list) or not low <= len(value) <= high:
            return None
        kept = tuple(item.accept(entry) for entry in value)
        return None if None in kept or (unique and len(set(kept)) < len(kept)) else kept

    return _Rule(f"{low}..{high}{' different' if unique else ''} entries, each {item.expected}", accept)


def _watts_by_mode(low_w: float, high_w: float) -> _Rule:
    watts = _number("W", low_w, high_w)

    def accept(value: object) -> Mapping[str, float] | None:
        if not isinstance(value, dict) or not 1 <= len(value) <= 16:
            return None
        kept = {mode: watts.accept(entry) for mode, entry in value.items()}
        valid = all(_MODE.accept(mode) for mode in kept) and None not in kept.values()
        return MappingProxyType(kept) if valid else None

    return _Rule(f"1..16 modes, each {watts.expected}", accept, required=False)


def _one_of(**choices: Pause) -> _Rule:
    def accept(value: object) -> Pause | None:
        return choices.get(value) if isinstance(value, str) else None

    return _Rule(" or ".join(f'"{choice}"' for choice in choices), accept)


_TITLE: Final = _text(r"[^\x00-\x1f\x7f]{1,80}", "1..80 printable characters")
_WORD: Final = _text(r"[^\x00]{1,512}", "1..512 characters without NUL")
_FILE: Final = _text(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", "a plain file name of 1..64 letters, digits, dots, _ and -")
_MODE: Final = _text(r"[A-Za-z0-9._ -]{1,32}", "1..32 letters, digits, dots, spaces, _ and -")

_RULES: Final[Mapping[str, _Rule]] = MappingProxyType(
    {
        "job.id": _text(r"[a-z0-9][a-z0-9_-]{0,39}", "1..40 characters of a-z, 0-9, _ and -"),
        "job.name": _TITLE,
        "job.customer": _TITLE,
        "job.command": _list(_WORD, 1, 64, unique=False),
        "job.inputs": _list(_FILE, 0, 64, unique=True),
        "job.outputs": _list(_FILE, 1, 64, unique=True),
        "job.value": _number("", 0.0, 1e6),
        "job.deadline_s": _number("s", 1.0, 2_592_000.0),  # 30 days
        "job.answer_due_s": _number("s", 0.0, 86_400.0, required=False),
        "work.units": _whole("units", 1, 10**12),
        "work.unit": _TITLE,
        "needs.memory_mb": _number("MB", 1.0, 262_144.0),
        "needs.disk_mb": _number("MB", 1.0, 262_144.0),
        "pause.contract": _one_of(none=Pause.NONE, stop_continue=Pause.STOP_CONTINUE, checkpoint=Pause.CHECKPOINT),
        "pause.checkpoint_deadline_s": _number("s", 1.0, 3_600.0, required=False),
        "power.activity_frac": _number("frac", 0.01, 1.5, required=False),  # a stress load exceeds nominal
        "power.by_mode_w": _watts_by_mode(0.1, 2_000.0),
        "profile.units_per_core_s": _number("units per core-second", 1e-6, 1e9),
        "profile.peak_memory_mb": _number("MB", 0.1, 262_144.0),
        "profile.activity_frac": _number("frac", 0.0, 64.0),  # above 1: more than one core
        "profile.measured_on": _TITLE,
    }
)
_SECTIONS: Final = tuple(dict.fromkeys(key.partition(".")[0] for key in _RULES))
_OPTIONAL_SECTIONS: Final = frozenset({"profile"})


def _check(table: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:  # Any: TOML values
    """Return the accepted values by dotted key, and what is wrong with the others."""
    values: dict[str, Any] = {}
    problems = [f"{name}: unknown key" for name in table if name not in _SECTIONS]
    for section in _SECTIONS:
        content = table.get(section)
        if content is None and section in _OPTIONAL_SECTIONS:
            continue
        if not isinstance(content, dict):
            problems.append(f"[{section}]: " + ("missing" if content is None else "must be a section"))
            continue
        problems += [
            f"{section}.{k} = {_short(v)}: unknown key" for k, v in content.items() if f"{section}.{k}" not in _RULES
        ]
        for key, rule in _RULES.items():
            if not key.startswith(f"{section}."):
                continue
            given = content.get(key.partition(".")[2])
            if given is None:
                if rule.required:
                    problems.append(f"{key}: missing, expected {rule.expected}")
                continue
            kept = rule.accept(given)
            if kept is None:
                problems.append(f"{key} = {_short(given)}: expected {rule.expected}")
            values[key] = kept
    return values, problems


def _contradictions(values: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong between keys that are each right."""
    if ("power.activity_frac" in values) == ("power.by_mode_w" in values):
        yield "[power]: expected exactly one of activity_frac and by_mode_w"
    saves = values["pause.contract"] is Pause.CHECKPOINT
    if saves != ("pause.checkpoint_deadline_s" in values):
        yield "pause.checkpoint_deadline_s: " + ("missing" if saves else "only with contract checkpoint")
    if values.get("job.answer_due_s", 0.0) > values["job.deadline_s"]:
        yield f"job.answer_due_s = {values['job.answer_due_s']:g}: above deadline_s {values['job.deadline_s']:g} s"
    peak_mb = values.get("profile.peak_memory_mb", 0.0)
    if peak_mb > values["needs.memory_mb"]:
        yield f"needs.memory_mb = {values['needs.memory_mb']:g}: below the measured peak of {peak_mb:g} MB"


def _build(values: dict[str, Any]) -> Manifest:
    profile = None
    if "profile.measured_on" in values:
        names = ("units_per_core_s", "peak_memory_mb", "activity_frac", "measured_on")
        profile = Profile(*(values[f"profile.{name}"] for name in names))
    return Manifest(
        id=values["job.id"],
        name=values["job.name"],
        customer=values["job.customer"],
        command=values["job.command"],
        inputs=values["job.inputs"],
        outputs=values["job.outputs"],
        value=values["job.value"],
        deadline_s=values["job.deadline_s"],
        answer_due_s=values.get("job.answer_due_s", 0.0),
        work_units=values["work.units"],
        unit=values["work.unit"],
        memory_mb=values["needs.memory_mb"],
        disk_mb=values["needs.disk_mb"],
        pause=values["pause.contract"],
        checkpoint_deadline_s=values.get("pause.checkpoint_deadline_s"),
        activity_frac=values.get("power.activity_frac"),
        power_by_mode_w=values.get("power.by_mode_w", MappingProxyType({})),
        profile=profile,
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

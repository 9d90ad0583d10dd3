"""`job.toml` -> `Manifest`: what a job's author declares, every key bounded, with its unit.

Called by the author's tools, by intake and by whoever submits or starts a job. Never runs anything. An unknown,
missing or out-of-range key is an error; all errors of a file are reported together.

    [job]        id  name  customer  command  inputs  executables?  outputs  value
                 deadline_s | deadline_utc  answer_due_s?
    [work]       units  unit
    [needs]      memory_mb  disk_mb
    [pause]      contract  checkpoint_deadline_s?
    [power]      activity_frac | by_mode_w
    [data]?      class  owner  regions_allowed?  regions_forbidden?  stations?  retention_s?  encrypt?
    [integrity]? rerun  sample_frac?
    [profile]?   units_per_core_s  peak_memory_mb  activity_frac  measured_on
"""

from __future__ import annotations

import datetime
import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

from flightsw.declared import Reader, number, parse_toml, problems_error, text
from flightsw.errors import ConfigError
from flightsw.state import Pause

T = TypeVar("T")

MANIFEST_OCTETS_MAX: Final = 16_384
FILES_MAX: Final = 64
WORDS_MAX: Final = 64
NAMES_MAX: Final = 64
SUMS_FILE: Final = "SHA256SUMS"
SIGNATURE_FILE: Final = "SHA256SUMS.sig"
UNITS_WORD: Final = "{units}"
DEADLINE_MAX_S: Final = 2_592_000.0  # 30 days
RETENTION_DEFAULT_S: Final = 604_800.0
ACTIVITY_MAX_FRAC: Final = 1.5  # a stress load exceeds nominal

ID_PATTERN: Final = r"[a-z0-9][a-z0-9_-]{0,39}"
FILE_PATTERN: Final = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}"
CUSTOMER_PATTERN: Final = r"[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,46}[A-Za-z0-9])?"
CUSTOMER_EXPECTED: Final = "1..48 letters, digits, spaces, dots, _ and -, a letter or digit at both ends"
_MODE: Final = re.compile(r"[A-Za-z0-9._ -]{1,32}")
_TITLE: Final = (r"[^\x00-\x1f\x7f-\x9f]{1,80}", "1..80 printable characters")
_FILE: Final = (FILE_PATTERN, "plain file names of 1..64 letters, digits, dots, _ and -")
_PLACE: Final = (r"[^\x00-\x1f\x7f-\x9f]{1,64}", "names of 1..64 printable characters")
_PAUSES: Final = {"none": Pause.NONE, "stop_continue": Pause.STOP_CONTINUE, "checkpoint": Pause.CHECKPOINT}


class DataClass(Enum):
    """How much harm it does when others read the job's data."""

    PUBLIC = "public"
    INTERNAL = "internal"
    PERSONAL = "personal"
    RESTRICTED = "restricted"


class Rerun(Enum):
    """Which jobs are run a second time, so that a silent error shows as two different results."""

    NONE = "none"
    SAMPLED = "sampled"  # a share of the jobs, drawn on board
    DUPLICATE = "duplicate"


def _choice(choices: type[Enum] | Mapping[str, object], default: str | None = None, key: str = "") -> Any:  # as text()
    words = list(choices) if isinstance(choices, Mapping) else [member.value for member in choices]
    expected = " or ".join(f'"{word}"' for word in words)
    pattern = "|".join(words)
    return text(pattern, expected, key=key) if default is None else text(pattern, expected, default, key)


@dataclass(frozen=True, slots=True)
class Profile:
    """What one core of `measured_on` made of the job, unthrottled.

    `activity_frac` is CPU time over elapsed time: how much of the core's power it draws.
    """

    units_per_core_s: float = number("units per core-second", 1e-6, 1e9)
    peak_memory_mb: float = number("MB", 0.1, 262_144.0)
    activity_frac: float = number("frac", 0.0, 64.0)  # above 1: more than one core
    measured_on: str = text(*_TITLE)


@dataclass(frozen=True, slots=True)
class DataPolicy:
    """Where the job's data may be worked on and sent down, how long it is kept, and how.

    `regions_*` are names of polygons in the satellite's regions file. Empty `regions_allowed` or `stations`:
    anywhere, any. `retention_s` counts from the job's end; then its data is erased.
    """

    data_class: DataClass = DataClass.INTERNAL
    owner: str = ""
    regions_allowed: tuple[str, ...] = ()
    regions_forbidden: tuple[str, ...] = ()
    stations: tuple[str, ...] = ()
    retention_s: float = RETENTION_DEFAULT_S
    encrypt: bool = False
    is_declared: bool = False


@dataclass(frozen=True, slots=True)
class Integrity:
    """How its result is checked. `sample_frac` of the jobs run twice: 0 for none of them, 1 for all."""

    rerun: Rerun = Rerun.NONE
    sample_frac: float = 0.0


@dataclass(frozen=True, slots=True)
class Manifest:
    """A job as its author declares it.

    `inputs` are the files of the bundle, its programs too, that the job finds in `in/`; `outputs` those it
    leaves in `out/`; both plain names. `executables` are those inputs that may be run by themselves. The deadline is
    either `deadline_s` after acceptance or the instant `deadline_unix_s`; `answer_due_s` counts from submission. Power
    is declared either as `activity_frac` of a mode's nominal draw or as `power_by_mode_w`.
    """

    id: str
    name: str
    customer: str
    command: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    value: float
    deadline_s: float | None
    deadline_unix_s: float | None
    answer_due_s: float
    work_units: int
    unit: str
    memory_mb: float
    disk_mb: float
    pause: Pause
    checkpoint_deadline_s: float | None
    activity_frac: float | None
    power_by_mode_w: Mapping[str, float]
    data: DataPolicy
    integrity: Integrity
    profile: Profile | None
    executables: tuple[str, ...] = ()

    @property
    def work_core_s(self) -> float | None:
        """Core-seconds of the whole work on the profiled machine; None when it was never measured."""
        return None if self.profile is None else self.work_units / self.profile.units_per_core_s

    @property
    def node_s(self) -> float:
        """Work in seconds of a core that is not held back; a unit that was never measured counts as one."""
        core_s = self.work_core_s
        return max(1.0, float(math.ceil(self.work_units if core_s is None else core_s)))

    def deadline_after_s(self, unix_s: float) -> float:
        """Seconds from `unix_s` to the deadline of a job accepted then; not above 0 when that has passed."""
        if self.deadline_unix_s is not None:
            return self.deadline_unix_s - unix_s
        return DEADLINE_MAX_S if self.deadline_s is None else self.deadline_s

    def runs(self, job_id: int) -> int:
        """How often the job of this number is run: twice when it is drawn to be checked. Follows from the number."""
        drawn_frac = int.from_bytes(hashlib.sha256(str(job_id).encode()).digest()[:4], "big") / 2**32
        return 2 if drawn_frac < self.integrity.sample_frac else 1

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
    manifest, problems = examine(octets, where)
    if manifest is None:
        raise problems_error(where, problems)
    return manifest


def examine(octets: bytes, where: str) -> tuple[Manifest | None, list[str]]:
    """Return the manifest, or None and what is wrong, each problem opening with its key.

    ConfigError when it is too long or no TOML.
    """
    if len(octets) > MANIFEST_OCTETS_MAX:
        raise ConfigError(where, f"{len(octets)} octets above the limit of {MANIFEST_OCTETS_MAX}")
    try:
        table = parse_toml(octets.decode(), where)
    except (UnicodeDecodeError, RecursionError) as e:
        raise ConfigError(where, f"is not valid TOML: {e}") from e
    reader = Reader()
    declared = reader.build(_File, table)
    problems = reader.problems + list(_contradictions(table))
    return (_flatten(declared), []) if declared is not None and not problems else (None, problems)


# --- the file's own shape ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Job:
    command: tuple[str, ...] = text(r"[^\x00]{1,512}", "words of 1..512 characters without NUL")
    inputs: tuple[str, ...] = text(*_FILE)
    outputs: tuple[str, ...] = text(*_FILE)
    id: str = text(ID_PATTERN, "1..40 characters of a-z, 0-9, _ and -")
    name: str = text(*_TITLE)
    customer: str = text(CUSTOMER_PATTERN, CUSTOMER_EXPECTED)
    value: float = number("", 0.0, 1e6)
    executables: tuple[str, ...] = text(*_FILE, default=())
    deadline_s: float | None = number("s", 1.0, DEADLINE_MAX_S, None)
    deadline_utc: str | None = text(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "an instant like 2027-03-20T12:00:00Z", None)
    answer_due_s: float = number("s", 0.0, 86_400.0, 0.0)


@dataclass(frozen=True, slots=True)
class _Work:
    units: int = number("units", 1, 10**12)
    unit: str = text(*_TITLE)


@dataclass(frozen=True, slots=True)
class _Needs:
    memory_mb: float = number("MB", 1.0, 262_144.0)
    disk_mb: float = number("MB", 1.0, 262_144.0)


@dataclass(frozen=True, slots=True)
class _PauseContract:
    contract: str = _choice(_PAUSES)
    checkpoint_deadline_s: float | None = number("s", 1.0, 3_600.0, None)


@dataclass(frozen=True, slots=True)
class _Power:
    activity_frac: float | None = number("frac", 0.01, ACTIVITY_MAX_FRAC, None)
    by_mode_w: dict[str, float] | None = number("W", 0.1, 2_000.0, None)  # noqa: RUF009 # it makes a field


@dataclass(frozen=True, slots=True)
class _Data:
    data_class: str = _choice(DataClass, key="class")
    owner: str = text(*_TITLE)
    regions_allowed: tuple[str, ...] = text(*_PLACE, default=())
    regions_forbidden: tuple[str, ...] = text(*_PLACE, default=())
    stations: tuple[str, ...] = text(*_PLACE, default=())
    retention_s: float = number("s", 0.0, 31_536_000.0, RETENTION_DEFAULT_S)  # a year
    encrypt: bool = False


@dataclass(frozen=True, slots=True)
class _Integrity:
    rerun: str = _choice(Rerun, "none")
    sample_frac: float | None = number("frac", 0.001, 1.0, None)


@dataclass(frozen=True, slots=True)
class _File:
    job: _Job
    work: _Work
    needs: _Needs
    pause: _PauseContract
    power: _Power
    data: _Data | None = None
    integrity: _Integrity | None = None
    profile: Profile | None = None


def _contradictions(table: Mapping[str, object]) -> Iterator[str]:
    """Yield what no range of a single value can say, of every section that is right in itself."""
    job, needs = _section(_Job, table, "job"), _section(_Needs, table, "needs")
    pause, power = _section(_PauseContract, table, "pause"), _section(_Power, table, "power")
    data, integrity = _section(_Data, table, "data"), _section(_Integrity, table, "integrity")
    profile = _section(Profile, table, "profile")
    if job is not None:
        yield from _job_problems(job)
    if power is not None:
        yield from _power_problems(power)
    if pause is not None and (pause.contract == "checkpoint") != (pause.checkpoint_deadline_s is not None):
        yield "pause.checkpoint_deadline_s: " + (
            "missing" if pause.checkpoint_deadline_s is None else "only with contract checkpoint")
    if data is not None:
        for name in ("regions_allowed", "regions_forbidden", "stations"):
            yield from _list_problems(f"data.{name}", getattr(data, name), 0, NAMES_MAX)
        both = sorted(set(data.regions_allowed) & set(data.regions_forbidden))
        if both:
            yield f"data.regions_forbidden: {', '.join(both)} in regions_allowed too"
        if data.data_class in {"personal", "restricted"} and not data.encrypt:
            yield f'data.encrypt = false: data of class "{data.data_class}" is kept encrypted'
        if data.data_class == "restricted" and not data.stations:
            yield 'data.stations: missing; data of class "restricted" names the stations that may have it'
        if pause is not None and pause.contract == "none" and (data.regions_allowed or data.regions_forbidden):
            yield 'pause.contract = "none": data with regions needs a job that can be paused before a border'
    if integrity is not None and (integrity.rerun == "sampled") != (integrity.sample_frac is not None):
        yield "integrity.sample_frac: " + ("missing" if integrity.sample_frac is None else "only with rerun sampled")
    if profile is not None and needs is not None and profile.peak_memory_mb > needs.memory_mb:
        yield f"needs.memory_mb = {needs.memory_mb:g}: below the measured peak of {profile.peak_memory_mb:g} MB"


def _section(cls: type[T], table: Mapping[str, object], name: str) -> T | None:
    """One section; None when it is not there or wrong, which was said before."""
    return Reader().build(cls, table[name]) if name in table else None


def _job_problems(job: _Job) -> Iterator[str]:
    yield from _list_problems("job.command", job.command, 1, WORDS_MAX, distinct=False)
    yield from _list_problems("job.inputs", job.inputs, 0, FILES_MAX)
    yield from _list_problems("job.outputs", job.outputs, 1, FILES_MAX)
    yield from _list_problems("job.executables", job.executables, 0, FILES_MAX)
    strange = [name for name in job.executables if name not in job.inputs]
    if strange:
        yield f"job.executables: {', '.join(strange)} not in job.inputs"
    for name in ("job.toml", SUMS_FILE, SIGNATURE_FILE):
        if name in job.inputs:
            yield f"job.inputs: {name} is in every bundle and is not listed"
    if (job.deadline_s is None) == (job.deadline_utc is None):
        yield "job.deadline_s: expected exactly one of deadline_s and deadline_utc"
    if job.deadline_utc is not None and _unix_s(job.deadline_utc) is None:
        yield f"job.deadline_utc = {job.deadline_utc!r}: there is no such instant"
    if job.deadline_s is not None and job.answer_due_s > job.deadline_s:
        yield f"job.answer_due_s = {job.answer_due_s:g}: above deadline_s {job.deadline_s:g} s"


def _power_problems(power: _Power) -> Iterator[str]:
    if (power.activity_frac is None) == (power.by_mode_w is None):
        yield "power.activity_frac: expected exactly one of activity_frac and by_mode_w"
    if power.by_mode_w is not None:
        if not 1 <= len(power.by_mode_w) <= 16:
            yield f"power.by_mode_w: {len(power.by_mode_w)} modes, expected 1..16"
        for mode in power.by_mode_w:
            if not _MODE.fullmatch(mode):
                yield f"power.by_mode_w.{mode!r}: expected modes of 1..32 letters, digits, dots, spaces, _ and -"


def _list_problems(key: str, entries: tuple[str, ...], low: int, high: int, *, distinct: bool = True) -> Iterator[str]:
    if not low <= len(entries) <= high:
        yield f"{key}: {len(entries)} entries, expected {low}..{high}"
    twice = sorted({entry for entry in entries if entries.count(entry) > 1}) if distinct else []
    if twice:
        yield f"{key}: {', '.join(twice)} listed twice"


def _unix_s(instant: str) -> float | None:
    try:
        return datetime.datetime.fromisoformat(instant).timestamp()
    except (ValueError, OverflowError):
        return None


def _flatten(given: _File) -> Manifest:
    job, data, integrity = given.job, given.data, given.integrity
    policy = DataPolicy(owner=job.customer)
    if data is not None:
        policy = DataPolicy(DataClass(data.data_class), data.owner, data.regions_allowed, data.regions_forbidden,
                            data.stations, data.retention_s, data.encrypt, is_declared=True)
    check = Integrity()
    if integrity is not None:
        rerun = Rerun(integrity.rerun)
        whole = 1.0 if rerun is Rerun.DUPLICATE else 0.0
        check = Integrity(rerun, whole if integrity.sample_frac is None else integrity.sample_frac)
    return Manifest(
        id=job.id,
        name=job.name,
        customer=job.customer,
        command=job.command,
        inputs=job.inputs,
        outputs=job.outputs,
        value=job.value,
        deadline_s=job.deadline_s,
        deadline_unix_s=None if job.deadline_utc is None else _unix_s(job.deadline_utc),
        answer_due_s=job.answer_due_s,
        work_units=given.work.units,
        unit=given.work.unit,
        memory_mb=given.needs.memory_mb,
        disk_mb=given.needs.disk_mb,
        pause=_PAUSES[given.pause.contract],
        checkpoint_deadline_s=given.pause.checkpoint_deadline_s,
        activity_frac=given.power.activity_frac,
        power_by_mode_w=MappingProxyType(given.power.by_mode_w or {}),
        data=policy,
        integrity=check,
        profile=given.profile,
        executables=job.executables,
    )

"""Scenario file (TOML) -> one frozen description of a run: mission, truth, link, jobs, ground script, faults, checks.

Every key is bounded and has a unit; everything that is wrong with a scenario, its mission file, its truth file,
the telecommands of its ground script, its faults and its expressions is found by `load`, before anything runs. What
is drawn is drawn here, from the seed and the place of the key in the file. See docs/scenarios.md and hil/scenarios.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import random
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from flightsw import mission as flight_mission
from flightsw.compose import start_unix_s
from flightsw.declared import Reader, number, parse_toml, read_toml, text
from flightsw.dictionary.commands import Value, check_argument, parse_text_argument
from flightsw.errors import ConfigError, LinkError
from flightsw.jobs.manifest import Manifest, load_manifest
from flightsw.mission import Mission
from flightsw.orbit import Orbit, Tle, parse_tle
from flightsw.state import NODE_COUNT_MAX
from ground.station import command_row
from hil.checks import Check, Expression, ExpressionError, PythonCheck, parse
from hil.faults import LIBRARY, Effect, Fault, Part, sensor_fault
from hil.jobs import FIRST_STREAM_ID, StreamConfig
from hil.plant.satellite import StartState, Truth, load_truth
from hil.plant.sensors import FAULT_KINDS, SensorFault
from hil.signals import Signal, catalogue
from hil.verdict import REQUIREMENT_ID, REQUIREMENTS, Requirement, load_requirements

SCENARIOS = Path(__file__).resolve().parent / "scenarios"
STANDARD = Path(__file__).resolve().parent / "standard_checks.toml"
"""Checks that every run is held against, whatever its scenario asks for beside them."""

DURATION_MIN_S, DURATION_MAX_S = 60.0, 777_600.0
"""At most nine days: what one recording holds on board, and 200 MB of truth in memory."""

_UNIT_S = {"s": 1.0, "min": 60.0, "h": 3600.0, "day": 86_400.0, "days": 86_400.0}
_SPAN = r"(\d+(?:\.\d+)?) ?(s|min|h|days?|orbits?)"
_DURATION = re.compile(_SPAN)
_ANCHORS = ("pass.rise", "pass.set", "eclipse.entry", "eclipse.exit")
_MOMENT = re.compile(rf"(?:T|(pass|{'|'.join(map(re.escape, _ANCHORS))})(?: ?(\d+))?)(?: ?([+-]) ?{_SPAN})?")
_MOMENT_TEXT = ('like "T+600 s", "pass 1 + 30 s" or "eclipse.entry 2 - 60 s" (s, min, h, day, orbits; '
                f"{', '.join(_ANCHORS)})")
_PATH = (r"[^\x00]{1,255}", "a path, relative to this file")
_EXPRESSION = (r".{1,400}", "a condition over signals, like truth.plate_c > 50 degC")
_WHEN = "a condition over signals that are known in flight"
_ID = (r"[a-z][a-z0-9_.]{0,39}", "1..40 of a-z, 0-9, _ and ., a letter first")
_REQUIREMENT = (REQUIREMENT_ID, "ids of requirements, like REQ-PWR-3")
_HOOK = "hook."
_DRAWS = ("uniform", "log_uniform", "normal", "choice")


@dataclass(frozen=True, slots=True)
class LinkSetup:
    """The line between satellite and ground; `contact` is "passes" or "always"."""

    baud: int = number("baud", 1200, 4_000_000, 115_200)
    latency_s: float = number("s", 0.0, 10.0, 0.01)
    bit_error_rate: float = number("", 0.0, 0.01, 0.0)
    contact: str = text(r"passes|always", "passes or always", "passes")


@dataclass(frozen=True, slots=True)
class JobsSetup(StreamConfig):
    """The stream of jobs; `examples` are job folders whose manifests take part in it."""

    examples: tuple[str, ...] = text(*_PATH, ())


@dataclass(frozen=True, slots=True)
class GroundRow:
    """One telecommand of the ground script, as `ground send` takes it: at a moment, or when a condition comes true."""

    send: str = text(r".{1,200}", "a telecommand: verb and arguments")
    at: str = text(_MOMENT.pattern, _MOMENT_TEXT, "")
    when: str = text(_EXPRESSION[0], _WHEN, "")


@dataclass(frozen=True, slots=True)
class FaultRow:
    """One fault of the library. What other keys there are depends on its kind (`hil faults`).

    `sensor` with a kind of sensor fault is the short form of `kind = "sensor.KIND"` and `target`.
    """

    kind: str = text(r"[a-z][a-z0-9_.]{0,60}", "the kind of a fault, see hil faults")
    at: str = text(_MOMENT.pattern, _MOMENT_TEXT, "")
    when: str = text(_EXPRESSION[0], _WHEN, "")
    id: str = text(*_ID, "")
    target: str = text(r"[A-Za-z0-9_]{1,40}", "what the fault is aimed at", "")
    sensor: str = text(r"[a-z0-9_]{1,40}", "the name of a sensor", "")
    lasts: str = text(_DURATION.pattern, 'a duration like "10 min"', "", key="for")


@dataclass(frozen=True, slots=True)
class CheckRow:
    """One check, with exactly one of `always`, `never`, `expect`, `hold`, `final` and `python`."""

    id: str = text(*_ID, "")
    always: str = text(*_EXPRESSION, "")
    never: str = text(*_EXPRESSION, "")
    expect: str = text(*_EXPRESSION, "")
    hold: str = text(*_EXPRESSION, "")
    final: str = text(*_EXPRESSION, "")
    python: str = text(r"[A-Za-z_]\w{0,60}", "the name of a function in the file of hooks", "")
    after: str = text(*_EXPRESSION, "")
    until: str = text(*_EXPRESSION, "")
    during: str = text(*_EXPRESSION, "")
    within: str = text(_DURATION.pattern, 'a duration like "5 s"', "")
    grace: str = text(_DURATION.pattern, 'a duration like "2 s"', "")
    begin: str = text(_DURATION.pattern, 'a duration from the start like "10 min"', "", key="from")
    end: str = text(_DURATION.pattern, 'a duration from the start like "2 h"', "", key="to")
    verifies: tuple[str, ...] = text(*_REQUIREMENT, ())


@dataclass(frozen=True, slots=True)
class WaiverRow:
    """One check whose failure does not count in this scenario, and why."""

    check: str = text(r"[a-z0-9_.]{1,60}", "the id of a check")
    reason: str = text(r".{10,300}", "10..300 characters")


@dataclass(frozen=True, slots=True)
class Difference:
    """How this truth differs from its file without the flight software knowing; factors multiply the file's numbers.

    `ahead_s` puts the satellite that far ahead of where its elements say, so that eclipses come as much earlier.
    """

    array_factor: float = number("", 0.1, 2.0, 1.0)
    radiator_factor: float = number("", 0.1, 2.0, 1.0)
    battery_factor: float = number("", 0.1, 2.0, 1.0)
    sensor_noise_factor: float = number("", 0.0, 20.0, 1.0)
    sensor_bias_factor: float = number("", 0.0, 20.0, 1.0)
    ahead_s: float = number("s", 0.0, 600.0, 0.0)

    def apply(self, truth: Truth) -> Truth:
        """Return the truth that differs; where the satellite stands is left to the run."""
        sensors = {name: dataclasses.replace(kind, noise=kind.noise * self.sensor_noise_factor,
                                             bias=kind.bias * self.sensor_bias_factor)
                   for name, kind in truth.sensors.items()}
        array, structure, battery = truth.array, truth.structure, truth.battery
        return dataclasses.replace(
            truth, sensors=sensors,
            array=dataclasses.replace(array, health_frac=min(1.0, array.health_frac * self.array_factor)),
            structure=dataclasses.replace(
                structure, radiator_emissivity=min(1.0, structure.radiator_emissivity * self.radiator_factor)),
            battery=dataclasses.replace(battery, capacity_wh=battery.capacity_wh * self.battery_factor))


@dataclass(frozen=True, slots=True)
class LossRow:
    """A compute node dies: it draws nothing, works nothing and its sensors are silent."""

    at: str = text(_DURATION.pattern, 'a duration from the start like "2 h"')
    node: int = number("", 0, NODE_COUNT_MAX - 1)


@dataclass(frozen=True, slots=True)
class OrbitRow:
    """Another orbit than the mission file's, for flight software and truth alike; empty keeps the file's."""

    tle: str = text(r"[\x20-\x7e\n]*", "two or three lines of elements", "")
    start_utc: str = text(r"[0-9TZ:+.-]*", "an instant like 2026-03-20T12:00:00Z", "")


@dataclass(frozen=True, slots=True)
class _File:
    """A scenario file as it stands."""

    id: str = text(r"[a-z0-9][a-z0-9_-]{0,39}", "1..40 characters of a-z, 0-9, _ and -")
    description: str = text(r"[^\x00-\x1f\x7f]{1,200}", "1..200 printable characters")
    mission: str = text(*_PATH)
    truth: str = text(*_PATH)
    duration: str = text(_DURATION.pattern, 'a duration like "1 day", "15 orbits" or "3600 s"')
    seed: int = number("", 0, 2**32 - 1)
    dispersion: float = number("", 0.0, 3.0, 0.0)
    start: StartState = field(default_factory=StartState)
    link: LinkSetup = field(default_factory=LinkSetup)
    jobs: JobsSetup | None = None
    verifies: tuple[str, ...] = text(*_REQUIREMENT, ())
    requirements: str = text(*_PATH, "")
    hooks: str = text(*_PATH, "")
    ground: tuple[GroundRow, ...] = ()
    fault: tuple[FaultRow, ...] = ()
    check: tuple[CheckRow, ...] = ()
    waive: tuple[WaiverRow, ...] = ()
    loss: tuple[LossRow, ...] = ()
    orbit: OrbitRow = field(default_factory=OrbitRow)
    difference: Difference = field(default_factory=Difference)


Edges = Mapping[str, tuple[float, ...]]
"""When the true satellite's passes and eclipses begin and end, s from the start, for each of the anchors."""


class Moment(NamedTuple):
    """A time in a run: `after_s` from the start or, where `number` counts from 1, from that edge of `anchor`."""

    number: int
    after_s: float
    anchor: str = "pass.rise"

    def resolve(self, edges: Edges) -> float | None:
        """Return the time on the run's axis; None where there is no such edge in the run."""
        if self.number == 0:
            return self.after_s
        times_s = edges[self.anchor]
        return times_s[self.number - 1] + self.after_s if self.number <= len(times_s) else None

    @property
    def words(self) -> str:
        """What it hangs on, for messages."""
        return f"{'pass' if self.anchor == 'pass.rise' else self.anchor} {self.number}"


class GroundStep(NamedTuple):
    """One telecommand to be sent, checked against the dictionary: at `at`, or as soon as `when` is true."""

    at: Moment | None
    verb: str
    values: tuple[Value, ...]
    text: str
    when: Expression | None = None


class FaultStep(NamedTuple):
    """One fault to come: at `at`, or as soon as `when` is true; `lasts_s` may be infinite."""

    id: str
    kind: str
    target: str
    values: Mapping[str, float]
    at: Moment | None
    lasts_s: float
    when: Expression | None = None
    hook: Effect | None = None

    @classmethod
    def of_sensor(cls, fault: SensorFault) -> FaultStep:
        """Return the step that makes one true sensor's fault."""
        kind, target, values = sensor_fault(fault.sensor, fault.kind, fault.amount)
        return cls(f"{fault.sensor}_{fault.kind}", kind, target, values, Moment(0, fault.from_s),
                   fault.to_s - fault.from_s)

    @property
    def part(self) -> Part:
        """What it needs of a bench; a hook is given the truth."""
        return LIBRARY[self.kind].part if self.hook is None else Part.TRUTH

    def sensor_fault(self, edges: Edges) -> SensorFault | None:
        """Return it as a fault of a true sensor on the run's axis; None where it is none, or its time is not known."""
        from_s = self.at.resolve(edges) if self.at is not None else None
        if from_s is None or not self.kind.startswith("sensor."):
            return None
        return SensorFault(from_s, from_s + self.lasts_s, self.target, self.kind.removeprefix("sensor."),
                           next(iter(self.values.values()), 0.0))


@dataclass(frozen=True, slots=True)
class Scenario:
    """A run, complete and checked. `mission_toml` is the mission file's text; `jobs` is None for no stream."""

    id: str
    description: str
    path: Path
    mission: Mission
    mission_path: Path
    mission_toml: str
    tle: Tle
    start_unix_s: float
    orbit_s: float
    truth: Truth
    duration_s: float
    seed: int
    dispersion: float
    start: StartState
    link: LinkSetup
    jobs: JobsSetup | None
    examples: tuple[Manifest, ...]
    ground: tuple[GroundStep, ...]
    faults: tuple[FaultStep, ...]
    node_lost_s: tuple[float, ...]
    ahead_s: float
    checks: tuple[Check | PythonCheck, ...] = ()
    verifies: tuple[str, ...] = ()
    waivers: Mapping[str, str] = field(default_factory=dict)
    requirements: Mapping[str, Requirement] = field(default_factory=dict)
    drawn: Mapping[str, object] = field(default_factory=dict)

    @property
    def own_checks(self) -> tuple[Check | PythonCheck, ...]:
        """The checks of the file itself; they come before those that every run is held against."""
        return self.checks[:len(self.checks) - len(_standard())]


def find(name: str) -> Path:
    """Path of a scenario: a file, or the name of one of the rig's own."""
    path = Path(name)
    own = SCENARIOS / f"{name.removesuffix('.toml')}.toml"
    if not path.is_file() and own.is_file():
        return own
    return path


def load(path: Path, *, seed: int | None = None, duration: str | None = None) -> Scenario:
    """Read and check a scenario and all it names; ConfigError lists everything that is wrong.

    `seed` and `duration` replace the file's.
    """
    table = read_toml(path)
    if seed is not None:
        table["seed"] = seed
    if duration is not None:
        table["duration"] = duration
    reader = Reader()
    problems = reader.problems
    drawn: dict[str, object] = {}
    table = _draw(table, table.get("seed"), "", drawn, problems)
    amounts = _take_amounts(table)
    given = reader.build(_File, table, "")
    if given is None or problems:
        raise ConfigError(str(path), "\n  ".join(problems))
    base = path.resolve().parent
    mission_path, truth_path = base / given.mission, base / given.truth
    try:
        mission = flight_mission.load(mission_path)
        mission_toml = mission_path.read_text("utf-8")
        for name, wanted in (("tle", given.orbit.tle), ("start_utc", given.orbit.start_utc)):
            if wanted:
                mission_toml = mission_toml.replace(getattr(mission.orbit, name).strip("\n"), wanted.strip("\n"))
                mission = dataclasses.replace(mission, orbit=dataclasses.replace(mission.orbit, **{name: wanted}))
        tle = parse_tle(mission.orbit.tle, f"{given.mission}: orbit.tle")
        start_s = start_unix_s(mission, given.mission)
        orbit_s = Orbit(tle).period_s
    except ConfigError as error:
        raise ConfigError(str(path), f"mission: {error}") from error
    try:
        truth = load_truth(truth_path)
    except ConfigError as error:
        raise ConfigError(str(path), f"truth: {error}") from error
    if truth.compute.nodes != mission.compute.nodes:
        problems.append(f"truth: {truth.compute.nodes} compute nodes, the mission has {mission.compute.nodes}")
    duration_s = seconds(given.duration, orbit_s)
    if not DURATION_MIN_S <= duration_s <= DURATION_MAX_S:
        problems.append(f"duration = {given.duration!r} is {duration_s:.0f} s, out of range "
                        f"(range {DURATION_MIN_S:g}..{DURATION_MAX_S:g} s)")
    node_lost_s = [math.inf] * truth.compute.nodes
    for i, row in enumerate(given.loss):
        if row.node >= truth.compute.nodes:
            problems.append(f"loss[{i}].node = {row.node}: the satellite has nodes 0..{truth.compute.nodes - 1}")
        else:
            node_lost_s[row.node] = min(node_lost_s[row.node], seconds(row.at, orbit_s))
    examples = _load_examples(given.jobs, base, problems)
    try:
        hooks = _load_hooks(base / given.hooks) if given.hooks else None
        requirements = load_requirements(base / given.requirements if given.requirements else REQUIREMENTS)
    except ConfigError as error:
        raise ConfigError(str(path), "\n  ".join([*problems, str(error)])) from error
    context = _Context(orbit_s, mission.compute.nodes, hooks, problems, {})
    ids = tuple(row.id or f"fault{i + 1}" for i, row in enumerate(given.fault))
    context.known.update(catalogue(mission.compute.nodes, ids))
    ground = tuple(_ground_step(row, i, context) for i, row in enumerate(given.ground))
    faults = tuple(_fault_step(row, ids[i], amounts[i], i, context) for i, row in enumerate(given.fault))
    checks = [*(_check(row, f"check[{i}]", i, context) for i, row in enumerate(given.check)),
              *(_check(row, row.id, i, context) for i, row in enumerate(_standard()))]
    _check_names(given, ids, checks, requirements, problems)
    if problems:
        raise ConfigError(str(path), "\n  ".join(problems))
    return Scenario(given.id, given.description, path, mission, mission_path, mission_toml, tle, start_s, orbit_s,
                    given.difference.apply(truth), float(int(duration_s)), given.seed, given.dispersion, given.start,
                    given.link, given.jobs, examples, tuple(step for step in ground if step),
                    tuple(step for step in faults if step), tuple(node_lost_s), given.difference.ahead_s,
                    tuple(check for check in checks if check), given.verifies,
                    {row.check: row.reason for row in given.waive}, requirements, drawn)


def seconds(span: str, orbit_s: float) -> float:
    """Return a duration like "10 min" in seconds; ValueError where it is none."""
    match = _DURATION.fullmatch(span)
    if match is None:
        raise ValueError(f"{span!r} is no duration")
    return float(match[1]) * (orbit_s if match[2].startswith("orbit") else _UNIT_S[match[2]])


def _moment(at: str, orbit_s: float) -> Moment:
    match = _MOMENT.fullmatch(at)
    if match is None:
        raise ValueError(f"{at!r} is no moment")
    after_s = 0.0
    if match[4]:
        after_s = float(match[4]) * (orbit_s if match[5].startswith("orbit") else _UNIT_S[match[5]])
    anchor = "pass.rise" if match[1] in (None, "pass") else match[1]
    return Moment(int(match[2] or 1) if match[1] else 0, -after_s if match[3] == "-" else after_s, anchor)


def _load_examples(jobs: JobsSetup | None, base: Path, problems: list[str]) -> tuple[Manifest, ...]:
    if jobs is None:
        return ()
    if jobs.activity_high < jobs.activity_low:
        problems.append(f"jobs.activity_high = {jobs.activity_high:g} is below activity_low")
    if jobs.example_share > 0.0 and not jobs.examples:
        problems.append(f"jobs.example_share = {jobs.example_share:g}, but examples is empty")
    manifests = []
    for folder in jobs.examples:
        try:
            manifests.append(load_manifest(base / folder / "job.toml"))
        except ConfigError as error:
            problems.append(f"jobs.examples: {error}")
            continue
        if manifests[-1].deadline_s is None:
            problems.append(f"jobs.examples: {folder}: a job that comes many times needs deadline_s, not an instant")
    return tuple(manifests)


class _Context(NamedTuple):
    """What the rows of a file are checked against; `problems` collects."""

    orbit_s: float
    nodes: int
    hooks: ModuleType | None
    problems: list[str]
    known: dict[str, Signal]

    def duration(self, span: str, default_s: float) -> float:
        """Return a duration that may be left out."""
        return seconds(span, self.orbit_s) if span else default_s

    def expression(self, words: str, where: str, *, live: bool = False) -> Expression | None:
        """Parse an expression that may be left out; None as well where it is wrong."""
        if not words:
            return None
        try:
            expression = parse(words, self.known)
        except ExpressionError as error:
            self.problems.append(f"{where} = {error}")
            return None
        if live and not expression.live:
            self.problems.append(f"{where} = {words!r}: metrics, events and what looks back in time are "
                                 "known after the run only")
        return expression

    def hook(self, name: str, where: str) -> Callable[..., Any] | None:  # Any: what the author's function returns
        """Return a function of the file of hooks."""
        if self.hooks is None:
            self.problems.append(f"{where} = {name!r}: the scenario names no file of hooks")
            return None
        function = getattr(self.hooks, name, None)
        if not callable(function):
            self.problems.append(f"{where} = {name!r}: {self.hooks.__file__} has no such function")
            return None
        return function  # type: ignore[no-any-return] # callable, by the line above

    def start(self, at: str, when: str, where: str) -> tuple[Moment | None, Expression | None]:
        """Return when a row is due: exactly one of its two keys says so."""
        if bool(at) == bool(when):
            self.problems.append(f"{where}: one of at ({_MOMENT_TEXT}) and when ({_WHEN}) is expected")
            return Moment(0, 0.0), None
        return (_moment(at, self.orbit_s) if at else None), self.expression(when, f"{where}.when", live=True)


# --- what is drawn -----------------------------------------------------------------------------------


def _draw(value: Any, seed: object, where: str, drawn: dict[str, object], problems: list[str]) -> Any:  # Any: TOML
    """Replace every distribution in a file by a value, drawn from the seed and its place alone."""
    if isinstance(value, list):
        return [_draw(item, seed, f"{where}[{i}]", drawn, problems) for i, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if len(value) == 1 and (name := next(iter(value))) in _DRAWS:
        try:
            drawn[where] = _drawn(name, value[name], random.Random(f"{seed}/{where}"))
        except (ValueError, TypeError) as error:
            problems.append(f"{where} = {value!r}: {error}")
            return 0
        return drawn[where]
    return {key: _draw(item, seed, f"{where}.{key}".lstrip("."), drawn, problems) for key, item in value.items()}


def _drawn(name: str, bounds: Any, stream: random.Random) -> object:  # Any: TOML
    if name == "choice":
        if not isinstance(bounds, list) or not bounds:
            raise ValueError("choice takes an array of values")
        return stream.choice(bounds)
    if not isinstance(bounds, list) or len(bounds) != 2:
        raise ValueError(f"{name} takes two values")
    if all(isinstance(bound, str) for bound in bounds):
        return _drawn_text(name, bounds[0], bounds[1], stream)
    low, high = (float(bound) for bound in bounds)
    if name == "normal":
        return stream.gauss(low, high)
    if low > high or (name == "log_uniform" and low <= 0.0):
        raise ValueError(f"{name} from {low:g} to {high:g}")
    value = low * (high / low) ** stream.random() if name == "log_uniform" else stream.uniform(low, high)
    return round(value) if all(isinstance(bound, int) for bound in bounds) else value


def _drawn_text(name: str, low: str, high: str, stream: random.Random) -> str:
    """Draw between two texts that differ in their last number only, like "T+10 min" and "T+20 min"."""
    parts = [re.fullmatch(r"(.*?)(\d+(?:\.\d+)?)(\D*)", bound) for bound in (low, high)]
    if None in parts or len({(part[1], part[3]) for part in parts if part}) != 1:
        raise ValueError("the two may differ in one number only, like \"T+10 min\" and \"T+20 min\"")
    a, b = (float(part[2]) for part in parts if part)
    middle = _drawn(name, [a, b], stream)
    return f"{parts[0][1] if parts[0] else ''}{middle:.3f}{parts[0][3] if parts[0] else ''}"


def _take_amounts(table: dict[str, Any]) -> list[dict[str, object]]:  # Any: TOML values
    """Take what belongs to its kind out of each fault; the rest is the same for all."""
    known = {entry.metadata.get("key", entry.name) for entry in dataclasses.fields(FaultRow)}
    rows = table.get("fault")
    if not isinstance(rows, list):
        return []
    return [{key: row.pop(key) for key in [*row] if key not in known} if isinstance(row, dict) else {} for row in rows]


# --- rows --------------------------------------------------------------------------------------------


def _load_hooks(path: Path) -> ModuleType:
    """Import a scenario's own file of hooks; ConfigError where it cannot be."""
    spec = importlib.util.spec_from_file_location(f"hooks_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"hooks = {path}", "is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the author's own code: whatever it raises
        raise ConfigError(f"hooks = {path}", f"{type(error).__name__}: {error}") from error
    return module


def _ground_step(row: GroundRow, index: int, context: _Context) -> GroundStep | None:
    """Check one row against the dictionary, as `ground send` would."""
    where, problems = f"ground[{index}].send = {row.send!r}", context.problems
    at, when = context.start(row.at, row.when, f"ground[{index}]")
    try:
        words = shlex.split(row.send)
        command = command_row(words[0])
        if len(words) - 1 != len(command.args):
            wanted = " ".join(arg.name.upper() for arg in command.args) or "no arguments"
            problems.append(f"{where}: {command.verb} takes {wanted}; {len(words) - 1} given")
            return None
        values = tuple(parse_text_argument(arg, word) for arg, word in zip(command.args, words[1:], strict=True))
    except (LinkError, ValueError) as error:  # shlex raises ValueError for an open quotation
        problems.append(f"{where}: {error}")
        return None
    wrong = [problem for arg, value in zip(command.args, values, strict=True)
             if (problem := check_argument(arg, value))]
    if command.verb == "job.submit" and isinstance(values[0], int) and values[0] >= FIRST_STREAM_ID:
        wrong.append(f"job = {values[0]} belongs to the stream; ids below {FIRST_STREAM_ID} are the ground's")
    problems.extend(f"{where}: {problem}" for problem in wrong)
    return GroundStep(at, command.verb, values, row.send, when)


def _fault_step(row: FaultRow, name: str, amounts: dict[str, object], index: int, context: _Context
                ) -> FaultStep | None:
    """Check one row against the library."""
    where, problems = f"fault[{index}]", context.problems
    at, when = context.start(row.at, row.when, where)
    lasts_s = context.duration(row.lasts, math.inf)
    if row.kind.startswith(_HOOK):
        hook = context.hook(row.kind.removeprefix(_HOOK), f"{where}.kind")
        values = {key: float(value) for key, value in amounts.items() if isinstance(value, (int, float))}
        return FaultStep(name, row.kind, row.target, values, at, lasts_s, when, hook)
    kind, target = (f"sensor.{row.kind}", row.sensor) if row.sensor else (row.kind, row.target)
    if row.sensor and row.kind not in FAULT_KINDS:
        problems.append(f"{where}.kind = {row.kind!r}: expected {' or '.join(FAULT_KINDS)}")
        return None
    fault = LIBRARY.get(kind)
    if fault is None:
        near = [known for known in LIBRARY if known.partition(".")[0] == kind.partition(".")[0]]
        problems.append(f"{where}.kind = {kind!r}: no such fault; known: {', '.join(near or LIBRARY)}")
        return None
    targets = fault.targets(context.nodes)
    key = "sensor" if row.sensor else "target"
    if target not in (targets or ("",)):
        expected = f"not fitted; fitted are {', '.join(targets)}" if kind.startswith("sensor.") and target else (
            f"{fault.target_is} is expected: {', '.join(targets)}" if targets else f"{kind} has no target")
        problems.append(f"{where}.{key} = {target!r}: {expected}")
    if not row.lasts and row.sensor:
        problems.append(f"{where}.for: missing (expected a duration like \"10 min\")")
    if fault.is_moment and row.lasts:
        problems.append(f"{where}.for = {row.lasts!r}: {kind} is at a moment and for good")
    return FaultStep(name, kind, target, _fault_values(fault, amounts, where, problems), at, lasts_s, when)


def _fault_values(fault: Fault, amounts: dict[str, object], where: str, problems: list[str]) -> dict[str, float]:
    params = {param.name: param for param in fault.params}
    known = f"; {fault.kind} takes {', '.join(params) or 'none'}"
    problems.extend(f"{where}.{key} = {value!r}: unknown key{known}" for key, value in amounts.items()
                    if key not in params)
    values = {}
    for name, param in params.items():
        value = amounts.get(name, param.default)
        bounds = f"(range {param.low:g}..{param.high:g}{f' {param.unit}' if param.unit else ''})"
        if value is None:
            problems.append(f"{where}.{name}: missing {bounds}")
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            problems.append(f"{where}.{name} = {value!r}: a number is expected {bounds}")
        elif not param.low <= value <= param.high:
            problems.append(f"{where}.{name} = {value!r} is out of range {bounds}")
        else:
            values[name] = float(value)
    return values


_CHECK_KINDS = ("always", "never", "expect", "hold", "final", "python")
_CHECK_TAKES = {
    "always": {"grace", "during", "from", "to"}, "never": {"grace", "during", "from", "to"},
    "expect": {"after", "within", "during", "from", "to"},
    "hold": {"after", "until", "within", "grace", "during", "from", "to"}, "final": set(), "python": set(),
}


def _check(row: CheckRow, where: str, index: int, context: _Context) -> Check | PythonCheck | None:
    """Check one row and make the check that it means."""
    given = {entry.metadata.get("key", entry.name): value for entry in dataclasses.fields(CheckRow)
             if (value := getattr(row, entry.name))}
    kinds = [kind for kind in _CHECK_KINDS if kind in given]
    if len(kinds) != 1:
        context.problems.append(f"{where}: exactly one of {', '.join(_CHECK_KINDS)} is expected; "
                                f"{' and '.join(kinds) or 'none'} given")
        return None
    (kind,) = kinds
    problems = [f"{where}.{key}: does not go with {kind}" for key in given
                if key not in {kind, "id", "verifies", *_CHECK_TAKES[kind]}]
    if kind == "hold" and not row.until:
        problems.append(f"{where}.until: missing; hold stands until something is true")
    context.problems.extend(problems)
    name = row.id or f"check{index + 1}"
    if kind == "python":
        hook = context.hook(row.python, f"{where}.python")
        return PythonCheck(name, row.python, hook, row.verifies) if hook is not None else None
    words = str(given[kind])
    holds = context.expression(f"not ({words})" if kind == "never" else words, f"{where}.{kind}")
    others = {key: context.expression(str(given.get(key, "")), f"{where}.{key}")
              for key in ("after", "until", "during")}
    if kind != "final" and any(not each.live for each in (holds, *others.values())
                               if each is not None and any(name.startswith("metric.") for name in each.signals)):
        context.problems.append(f"{where}.{kind}: a metric is known at the end only: use final")
    if holds is None:
        return None
    statement = f"{kind} {words}" + "".join(
        f", {key} {given[key]}" for key in ("after", "until", "within", "during", "grace", "from", "to")
        if key in given)
    return Check(name, {"never": "always", "hold": "until"}.get(kind, kind), statement, holds, others["after"],
                 others["until"], others["during"], context.duration(row.within, math.inf),
                 context.duration(row.grace, 0.0), context.duration(row.begin, 0.0),
                 context.duration(row.end, math.inf), row.verifies)


@dataclass(frozen=True, slots=True)
class _Standard:
    check: tuple[CheckRow, ...]


def _standard() -> tuple[CheckRow, ...]:
    reader = Reader()
    rows = reader.build(_Standard, parse_toml(STANDARD.read_text("utf-8"), str(STANDARD)))
    if rows is None:
        raise ConfigError(str(STANDARD), "\n  ".join(reader.problems))
    return rows.check


def _check_names(given: _File, faults: Sequence[str], checks: Sequence[Check | PythonCheck | None],
                 requirements: Mapping[str, Requirement], problems: list[str]) -> None:
    """Look for ids that are there twice, and for requirements and checks that are not there."""
    names = [check.name for check in checks if check is not None]
    for what, ids in (("fault", faults), ("check", names)):
        problems.extend(f"{what}.id = {name!r} is there twice" for name in sorted({n for n in ids if ids.count(n) > 1}))
    problems.extend(f"waive.check = {row.check!r}: no such check; checks are {', '.join(names)}" for row in given.waive
                    if row.check not in names)
    named = [("verifies", given.verifies), *((f"{check.name}: verifies", check.verifies) for check in checks if check)]
    problems.extend(f"{where}: no requirement {name!r}" for where, ids in named for name in ids
                    if name not in requirements)

"""Scenario file (TOML) -> one frozen description of a run: mission, truth, link, jobs, ground script, faults.

Every key is bounded and has a unit; everything that is wrong with a scenario, its mission file, its truth file
and the telecommands of its ground script is found by `load`, before anything runs. See hil/scenarios.
"""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from flightsw import mission as flight_mission
from flightsw.compose import start_unix_s
from flightsw.declared import Reader, number, read_toml, text
from flightsw.dictionary.commands import Value, check_argument, parse_text_argument
from flightsw.dictionary.sensors import fitted_names
from flightsw.errors import ConfigError, LinkError
from flightsw.jobs.manifest import Manifest, load_manifest
from flightsw.mission import Mission
from flightsw.orbit import Orbit, Tle, parse_tle
from flightsw.state import NODE_COUNT_MAX
from ground.station import command_row
from hil.jobs import FIRST_STREAM_ID, StreamConfig
from hil.plant.satellite import StartState, Truth, load_truth
from hil.plant.sensors import FAULT_KINDS, SensorFault

SCENARIOS = Path(__file__).resolve().parent / "scenarios"
DURATION_MIN_S, DURATION_MAX_S = 60.0, 777_600.0
"""At most nine days: what one recording holds on board, and 200 MB of truth in memory."""

_UNIT_S = {"s": 1.0, "min": 60.0, "h": 3600.0, "day": 86_400.0, "days": 86_400.0}
_SPAN = r"(\d+(?:\.\d+)?) ?(s|min|h|days?|orbits?)"
_DURATION = re.compile(_SPAN)
_MOMENT = re.compile(rf"(?:T|pass (\d+)) ?\+ ?{_SPAN}")
_MOMENT_TEXT = 'like "T+600 s" or "pass 1 + 30 s" (s, min, h, day, orbits)'
_PATH = (r"[^\x00]{1,255}", "a path, relative to this file")


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
    """One telecommand of the ground script, as `ground send` takes it."""

    at: str = text(_MOMENT.pattern, _MOMENT_TEXT)
    send: str = text(r".{1,200}", "a telecommand: verb and arguments")


@dataclass(frozen=True, slots=True)
class FaultRow:
    """One sensor fault; `amount` is what kind "bias" adds, in the sensor's unit."""

    at: str = text(_MOMENT.pattern, _MOMENT_TEXT)
    sensor: str = text(r"[a-z0-9_]{1,40}", "the name of a sensor")
    kind: str = text("|".join(FAULT_KINDS), " or ".join(FAULT_KINDS))
    lasts: str = text(_DURATION.pattern, 'a duration like "10 min"', key="for")
    amount: float = number("", -1e4, 1e4, 0.0)


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
    ground: tuple[GroundRow, ...] = ()
    fault: tuple[FaultRow, ...] = ()
    loss: tuple[LossRow, ...] = ()
    orbit: OrbitRow = field(default_factory=OrbitRow)
    difference: Difference = field(default_factory=Difference)


class Moment(NamedTuple):
    """A time in a run: `after_s` from the start or, where `pass_number` counts from 1, from that pass's rise."""

    pass_number: int
    after_s: float

    def resolve(self, rises_s: tuple[float, ...]) -> float | None:
        """Return the time on the run's axis; None where there is no such pass in the run."""
        if self.pass_number == 0:
            return self.after_s
        return rises_s[self.pass_number - 1] + self.after_s if self.pass_number <= len(rises_s) else None


class GroundStep(NamedTuple):
    """One telecommand to be sent, checked against the dictionary."""

    at: Moment
    verb: str
    values: tuple[Value, ...]
    text: str


class FaultStep(NamedTuple):
    """One sensor fault to come."""

    at: Moment
    lasts_s: float
    sensor: str
    kind: str
    amount: float

    def resolve(self, rises_s: tuple[float, ...]) -> SensorFault | None:
        """Return the fault on the run's axis; None where its pass is not in the run."""
        from_s = self.at.resolve(rises_s)
        return None if from_s is None else SensorFault(from_s, from_s + self.lasts_s, self.sensor, self.kind,
                                                       self.amount)


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
    given = reader.build(_File, table, "")
    problems = reader.problems
    if given is None:
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
    duration_s = _seconds(given.duration, orbit_s)
    if not DURATION_MIN_S <= duration_s <= DURATION_MAX_S:
        problems.append(f"duration = {given.duration!r} is {duration_s:.0f} s, out of range "
                        f"(range {DURATION_MIN_S:g}..{DURATION_MAX_S:g} s)")
    node_lost_s = [math.inf] * truth.compute.nodes
    for i, row in enumerate(given.loss):
        if row.node >= truth.compute.nodes:
            problems.append(f"loss[{i}].node = {row.node}: the satellite has nodes 0..{truth.compute.nodes - 1}")
        else:
            node_lost_s[row.node] = min(node_lost_s[row.node], _seconds(row.at, orbit_s))
    examples = _load_examples(given.jobs, base, problems)
    ground = tuple(_ground_step(row, i, orbit_s, problems) for i, row in enumerate(given.ground))
    faults = tuple(_fault_step(row, i, orbit_s, mission, problems) for i, row in enumerate(given.fault))
    if problems:
        raise ConfigError(str(path), "\n  ".join(problems))
    return Scenario(given.id, given.description, path, mission, mission_path, mission_toml, tle, start_s, orbit_s,
                    given.difference.apply(truth), float(int(duration_s)), given.seed, given.dispersion, given.start,
                    given.link, given.jobs, examples, tuple(step for step in ground if step), faults,
                    tuple(node_lost_s), given.difference.ahead_s)


def _seconds(span: str, orbit_s: float) -> float:
    match = _DURATION.fullmatch(span)
    if match is None:
        raise ValueError(f"{span!r} is no duration")
    return float(match[1]) * (orbit_s if match[2].startswith("orbit") else _UNIT_S[match[2]])


def _moment(at: str, orbit_s: float) -> Moment:
    match = _MOMENT.fullmatch(at)
    if match is None:
        raise ValueError(f"{at!r} is no moment")
    seconds = float(match[2]) * (orbit_s if match[3].startswith("orbit") else _UNIT_S[match[3]])
    return Moment(int(match[1] or 0), seconds)


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


def _ground_step(row: GroundRow, index: int, orbit_s: float, problems: list[str]) -> GroundStep | None:
    """Check one row against the dictionary, as `ground send` would."""
    where = f"ground[{index}].send = {row.send!r}"
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
    return GroundStep(_moment(row.at, orbit_s), command.verb, values, row.send)


def _fault_step(row: FaultRow, index: int, orbit_s: float, mission: Mission, problems: list[str]) -> FaultStep:
    fitted = fitted_names(mission.compute.nodes)
    if row.sensor not in fitted:
        problems.append(f"fault[{index}].sensor = {row.sensor!r}: not fitted; fitted are {', '.join(fitted)}")
    return FaultStep(_moment(row.at, orbit_s), _seconds(row.lasts, orbit_s), row.sensor, row.kind, row.amount)

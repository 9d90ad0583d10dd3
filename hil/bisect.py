"""Where two runs part: `hil bisect` finds the first tick that differs and names what differs in it.

Reads recordings (and, where a recording stayed on the board, the command logs that a bench leaves). First what went
in: readings by sensor, telecommands, jobs, progress, guardian. Where that differs, both runs are decided again up
to this tick, to say what it made of the estimate and the decision. Where it does not, the flight software itself is
another: this one is asked which of the two it flies like.

`hil replay --times` is here as well: one recording decided again many times must give the same decisions, bit by bit.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import sys
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from flightsw import compose
from flightsw.decide.brain import Brain
from flightsw.decide.estimator import Estimator
from flightsw.dictionary.sensors import SENSORS
from flightsw.errors import BoardError, ConfigError
from flightsw.mission import parse as parse_mission
from flightsw.recorder import Start, fingerprint, read_recording
from flightsw.recorder import Tick as Recorded
from flightsw.state import Decision, Estimate, Inputs, Quality
from hil import run
from hil.benches import COMMANDS
from hil.engines import Lost, Processes

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

EXIT_SAME, EXIT_DIFFER = 0, 1
_REPLAY_WITHIN_S: Final = 3600.0
_SHOWN: Final = 20


class Difference(NamedTuple):
    """One thing that differs between two ticks: what it is, and what it is in each."""

    what: str
    a: str
    b: str


class Parting(NamedTuple):
    """The first tick that differs, after `ticks` that do not."""

    ticks: int
    now_s: float
    differences: tuple[Difference, ...]


class Redecided(NamedTuple):
    """One recorded tick, decided again."""

    recorded: Recorded
    estimate: Estimate
    decision: Decision


def redecide(recording: Path) -> Iterator[Redecided]:
    """Decide a recording again, tick by tick."""
    start, ticks = read_recording(recording)
    mission = parse_mission(start.mission_toml, f"{recording}: mission")
    forecaster = compose.forecaster_of(mission, str(recording))
    brain = Brain(mission, forecaster, start.jobs, start.orders)
    estimator = Estimator(mission, forecaster)
    for tick in ticks:
        estimate = estimator.update(tick.inputs.readings, brain.parameters["blind_after_s"])
        yield Redecided(tick, estimate, brain.decide(estimate, tick.inputs))


# --- where two runs part -----------------------------------------------------------------------------


def part(a: Path, b: Path) -> Parting | None:
    """Return where two recordings part; None where one is the other's beginning, or the same."""
    start_a, ticks_a = read_recording(a)
    start_b, ticks_b = read_recording(b)
    if start_a != start_b:
        return Parting(0, 0.0, tuple(_starts(start_a, start_b)))
    for number, (one, other) in enumerate(zip(ticks_a, ticks_b, strict=False)):
        if one == other:
            continue
        found = _inputs(one.inputs, other.inputs)
        found += _consequences(a, b, number) if found else _whose(a, one, other, number)
        return Parting(number, one.inputs.now_s, tuple(found))
    return None


def _starts(a: Start, b: Start) -> list[Difference]:
    found = [Difference(f"start: {name}", repr(one), repr(other))
             for name, one, other in zip(Start._fields, a, b, strict=True) if name != "mission_toml" and one != other]
    lines = itertools.zip_longest(a.mission_toml.splitlines(), b.mission_toml.splitlines(), fillvalue="nothing")
    return found + [Difference(f"mission, line {number}", one.strip(), other.strip())
                    for number, (one, other) in enumerate(lines, start=1) if one != other]


def _inputs(a: Inputs, b: Inputs) -> list[Difference]:
    """What differs between the inputs of two ticks, sensors by name."""
    found = []
    readings = (a.readings, b.readings)
    for i, row in enumerate(SENSORS):
        one, other = ((each.values[i], each.qualities[i], each.sampled_s[i]) for each in readings)
        if one != other:
            found.append(Difference(f"reading {row.name}", _reading(*one, row.unit), _reading(*other, row.unit)))
    found += [Difference(f"input {name}", repr(one), repr(other))
              for name, one, other in zip(Inputs._fields, a, b, strict=True) if name != "readings" and one != other]
    return found


def _reading(value: float | None, quality: int, sampled_s: float, unit: str) -> str:
    shown = "none" if value is None else f"{value!r} {unit}"
    return f"{shown}, {Quality(quality).name}, sampled at {sampled_s!r} s"


def _consequences(a: Path, b: Path, number: int) -> list[Difference]:
    """What other inputs made of estimate and decision."""
    one, other = (next(itertools.islice(redecide(path), number, None)) for path in (a, b))
    return [*_fields("estimate", one.estimate, other.estimate), *_fields("decision", one.decision, other.decision)]


def _whose(a: Path, one: Recorded, other: Recorded, number: int) -> list[Difference]:
    """Which of two decisions from the same inputs is this flight software's."""
    decision = next(itertools.islice(redecide(a), number, None)).decision
    mine = fingerprint(decision)
    like = {one.fingerprint: "like A", other.fingerprint: "like B"}.get(mine, "like neither")
    return [Difference("decision, from the same inputs", f"{one.fingerprint:08x}", f"{other.fingerprint:08x}"),
            Difference(f"this flight software decides {like}", f"{mine:08x}", f"mode {decision.mode.name}, shed "
                       f"{decision.shed or 'nothing'}, {len(decision.transitions)} transitions")]


def _fields(what: str, one: object, other: object) -> Iterator[Difference]:
    """Fields of two NamedTuples that differ, down to the innermost."""
    if one == other:
        return
    names = getattr(one, "_fields", None)
    if names is not None and type(one) is type(other):
        for name in names:
            yield from _fields(f"{what}.{name}", getattr(one, name), getattr(other, name))
    elif isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from _fields(f"{what}[{i}]", a, b)
    else:
        yield Difference(what, repr(one), repr(other))


def part_of_logs(a: Path, b: Path) -> Parting | None:
    """Return where two command logs part."""
    logs = []
    for path in (a, b):
        log = array("I", path.read_bytes())
        if sys.byteorder == "little":
            log.byteswap()
        logs.append(log)
    for number, (one, other) in enumerate(zip(*logs, strict=False)):
        if one != other:
            return Parting(number, number * run.TICK_S, (Difference("decision", f"{one:08x}", f"{other:08x}"),))
    return None


# --- many replays ------------------------------------------------------------------------------------


class Digest(NamedTuple):
    """A recording decided again: ticks, the time of the first that came out differently, SHA-256 of all decisions."""

    ticks: int
    diverged_s: float | None
    sha256: str


def digest(recording: Path) -> Digest:
    """Decide a recording again; every bit of every estimate and decision goes into the digest."""
    total, done = hashlib.sha256(), 0
    for tick, estimate, decision in redecide(recording):
        if fingerprint(decision) != tick.fingerprint:
            return Digest(done, tick.inputs.now_s, total.hexdigest())
        total.update(repr((estimate, decision)).encode())  # repr of a float tells it from every other
        done += 1
    return Digest(done, None, total.hexdigest())


def replay_often(recording: Path, times: int, workers: int) -> list[Digest]:
    """Decide a recording again `times` times, in processes of their own; BoardError where one was lost."""
    engine: Processes[Path, Digest] = Processes(digest, workers, _REPLAY_WITHIN_S)
    found = []
    try:
        for _ in range(times):
            engine.submit(recording)
        for _, result in engine.as_completed():
            if isinstance(result, Lost):
                raise BoardError(f"a replay of {recording} {result.outcome}: {result.detail}")
            found.append(result)
    finally:
        engine.close()
    return found


# --- command line ------------------------------------------------------------------------------------


def add_command(commands: Commands) -> None:
    """Add `hil bisect`."""
    parser = commands.add_parser(
        "bisect", help="find the first tick in which two runs differ, and what differs",
        description="Hold two recorded runs against each other, tick by tick. Where their inputs part, say which, and "
        "what that made of estimate and decision; where only the decisions part, say which of the two this flight "
        "software would take. Runs without a recording are held against each other by their command logs.",
        epilog=f"Exit status: {EXIT_SAME} the same, {EXIT_DIFFER} they differ, 2 bad input or files.")
    parser.add_argument("a", type=Path, metavar="RUN_A", help="a run's folder, recording or command log")
    parser.add_argument("b", type=Path, metavar="RUN_B", help="another")
    parser.set_defaults(run=_bisect)


def _bisect(options: argparse.Namespace) -> int:
    paths: Sequence[Path] = (options.a, options.b)
    logs = [path if path.name == COMMANDS else path / COMMANDS for path in paths]
    recordings = [path if path.is_file() else path / "flight" / run.RECORDING for path in paths]
    if all(path.is_file() and path.name != COMMANDS for path in recordings):
        parting = part(*recordings)
        counts = [sum(1 for _ in read_recording(path)[1]) for path in recordings]
    elif all(path.is_file() for path in logs):
        parting = part_of_logs(*logs)
        counts = [path.stat().st_size // 4 for path in logs]
    else:
        raise ConfigError(str(options.a), f"and {options.b} have neither two recordings nor two command logs")
    if parting is not None:
        print(f"the first {parting.ticks} ticks are the same; the runs part at T+{parting.now_s:g} s:")
        for what, a, b in parting.differences[:_SHOWN]:
            print(f"  {what}\n    A {_short(a)}\n    B {_short(b)}")
        if len(parting.differences) > _SHOWN:
            print(f"  and {len(parting.differences) - _SHOWN} more")
        return EXIT_DIFFER
    if counts[0] != counts[1]:
        print(f"the same for {min(counts)} ticks; then {'A' if counts[0] < counts[1] else 'B'} ends")
        return EXIT_DIFFER
    print(f"{counts[0]} ticks are the same")
    return EXIT_SAME


def _short(text: str) -> str:
    return text if len(text) <= 100 else text[:97] + "..."


def replay_command(recording: Path, times: int, workers: int | None) -> int:
    """Carry out `hil replay --times`: print what came of it and return the exit status."""
    found = replay_often(recording, times, workers or os.cpu_count() or 1)
    odd = [each for each in found if each.diverged_s is not None]
    digests = {each.sha256 for each in found}
    print(f"{times} replays of {found[0].ticks} ticks: {len(digests)} outcome{'s' * (len(digests) > 1)}, "
          f"{len(odd)} diverged from what flew")
    for sha256 in sorted(digests):
        count = sum(each.sha256 == sha256 for each in found)
        print(f"SHA-256 of all estimates and decisions: {sha256} ({count} times)")
    return EXIT_DIFFER if odd or len(digests) > 1 or not found[0].ticks else EXIT_SAME

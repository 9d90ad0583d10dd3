"""The rig's command line: `hil run`, `hil serial`, `hil check`, `hil faults`, `hil replay`, `hil compare`,
`hil channels`, `hil governor-search`, `hil rig`, `hil campaign`, `hil merge`, `hil bisect`.

A sub-command is a function that adds its parser and sets `run` to what it does; it stands in `_COMMANDS`. One
of a module of its own adds one line there.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from flightsw.errors import ConfigError, FlightError
from flightsw.state import NODE_COUNT_MAX
from hil import (
    bisect,
    campaign,
    channels,
    compare,
    emulated,
    faults,
    governor_search,
    inject,
    outside,
    random_faults,
    rig,
    serial_bench,
)
from hil import run as flight
from hil import scenario as scenarios
from hil.benches import BENCHES, Bench
from hil.selftest import suite
from hil.verdict import EXIT_STATUS, Finding, Verdict

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_BENCHES: dict[str, Bench] = BENCHES | {"emulated": emulated.emulated}
_EXIT_RUN_TEXT = ("Exit status: 0 PASS, 1 FAIL, 2 bad input or files, 3 INCONCLUSIVE (a check decided nothing, a fault "
                  "did not begin, or the rig was late), 4 ERROR (the rig broke), 130 interrupted.")
EXIT_OK, EXIT_DIFFERS, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130
_EXIT_TEXT = "Exit status: 0 done, 1 the replay differs, 2 bad input or files, 130 interrupted."


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other bad input does."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: {message}\n")


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    parser: argparse.ArgumentParser = _Parser(
        prog="hil", description="Rig of the compute satellite: fly scenarios, replay recordings.", epilog=_EXIT_TEXT)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in _COMMANDS:
        add(commands)
    options = parser.parse_args(words)
    try:
        status: int = options.run(options)
    except FlightError as error:
        print(f"hil {options.command}: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print(f"hil {options.command}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return status


# --- run ---------------------------------------------------------------------------------------------


def _add_run(commands: Commands) -> None:
    parser = commands.add_parser(
        "run", help="fly a scenario in virtual time, judge it and write a report", epilog=_EXIT_RUN_TEXT,
        description="Fly a scenario in virtual time and write report, metrics, recording and ground archive into a new "
        "folder. The flight software is in this process, or elsewhere and in lockstep with the truth: it decides the "
        "same on every bench.")
    _add_scenario(parser)
    parser.add_argument("--bench", choices=(*_BENCHES, "board"), default="sil", metavar="NAME",
                        help=f"where the flight software is: {', '.join(_BENCHES)} or board (sil)")
    parser.add_argument("--rig", type=Path, metavar="FILE", help="the rig of --bench board (rig.toml)")
    parser.add_argument("--random-faults", type=int, default=0, metavar="N",
                        help="add N faults from the library, drawn from the seed, as a campaign does (0)")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="where runs are kept (out)")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="JUnit XML here too (always in the run's folder)")
    parser.set_defaults(run=_run)


def _add_scenario(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scenario", metavar="SCENARIO", help="a scenario file, or the name of one of hil/scenarios")
    parser.add_argument("--seed", type=int, metavar="N", help="in place of the scenario's seed")
    parser.add_argument("--duration", metavar="TIME", help='in place of the scenario\'s, like "2 orbits" or "1 h"')


def _load(options: argparse.Namespace) -> scenarios.Scenario:
    return scenarios.load(scenarios.find(options.scenario), seed=options.seed, duration=options.duration)


def _run(options: argparse.Namespace) -> int:
    try:
        from tqdm import tqdm  # noqa: PLC0415 # an extra: only runs need it

        from hil import junit, report  # noqa: PLC0415 # draws with matplotlib, an extra as well
    except ImportError as error:
        print(f"hil run: needs the extra 'hil' ({error.name} is not installed): pip install '.[hil]'", file=sys.stderr)
        return EXIT_BAD_INPUT
    scenario = random_faults.add(_load(options), options.random_faults, options.bench)
    bench = _bench(options)
    folder = flight.new_folder(options.out, scenario)
    hours = scenario.duration_s / 3600.0
    print(f"flying {scenario.id}: {hours:.1f} h ({scenario.duration_s / scenario.orbit_s:.1f} orbits) of mission "
          f"{scenario.mission.name}, seed {scenario.seed}")
    try:
        with tqdm(total=int(scenario.duration_s), unit=" s", unit_scale=True, disable=None, leave=False,
                  desc=scenario.id) as bar, bench(scenario, folder) as connect:
            flown = flight.fly(scenario, folder, bar.update, connect, options.bench)
    except ConfigError:
        raise
    except (FlightError, OSError) as error:  # the rig broke, whatever the flight software did: no verdict on that
        broken = (Finding("rig", Verdict.ERROR, str(error), "the rig flies the scenario to its end"),)
        flight.write_verdict(folder, options.bench, broken)
        junit.write_broken(scenario.id, broken, folder)
        said, verdict = f"ERROR             rig: {error}\nverdict           ERROR: the rig broke", Verdict.ERROR
    else:
        report.write(flown)
        junit.write(flown)
        said, verdict = report.summary(flown), flown.verdict
    if options.junit is not None:
        options.junit.parent.mkdir(parents=True, exist_ok=True)
        options.junit.write_bytes((folder / junit.FILE).read_bytes())
    flight.point_latest(folder)
    print(said)
    return EXIT_STATUS[verdict]


def _bench(options: argparse.Namespace) -> Bench:
    if options.bench != "board":
        return _BENCHES[options.bench]
    if options.rig is None:
        raise ConfigError("--bench board", "needs --rig: the file that describes the rig")
    return functools.partial(rig.board, options.rig)


# --- check -------------------------------------------------------------------------------------------


def _add_check(commands: Commands) -> None:
    parser = commands.add_parser(
        "check", help="check a scenario and all it names, and show what will happen when", epilog=_EXIT_TEXT,
        description="Check a scenario, its mission, truth and telecommands without flying it; list its passes "
        "and when the ground script's commands are due.")
    _add_scenario(parser)
    parser.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    scenario = _load(options)
    around = flight.surroundings(scenario)
    contacts = flight.stretches(flight.in_contact(scenario, around))
    edges = flight.edges_of(scenario, around)
    print(f"{scenario.path}: {scenario.id}, mission {scenario.mission.name}, truth {scenario.truth.name}, "
          f"{scenario.duration_s:.0f} s, {scenario.duration_s / scenario.orbit_s:.2f} orbits, seed {scenario.seed}")
    for number, contact in enumerate(contacts, start=1):
        print(f"  pass {number}: T+{contact.from_s:.0f} s, {contact.to_s - contact.from_s:.0f} s long")
    def due(step: scenarios.GroundStep | scenarios.FaultStep) -> tuple[float | None, str]:
        if step.at is None:
            return None, f"when {step.when.text if step.when is not None else 'never'}"
        at_s = step.at.resolve(edges)
        return at_s, f"{step.at.words} is not in this run" if at_s is None else f"T+{at_s:.0f} s"

    for step in scenario.ground:
        at_s, when = due(step)
        heard = at_s is None or any(contact.from_s <= at_s < contact.to_s for contact in contacts)
        print(f"  send {step.text}: {when}{'' if heard else ', outside every pass'}")
    for fault in scenario.faults:
        lasts = f"for {fault.lasts_s:.0f} s" if fault.lasts_s < math.inf else "for good"
        print(f"  fault {fault.id}: {' '.join(filter(None, (fault.kind, fault.target)))}: {due(fault)[1]} {lasts}"
              + (f"; {inject.needs(fault)}" if inject.needs(fault) else ""))
    for key, value in scenario.drawn.items():
        print(f"  drawn {key} = {value}")
    for check in scenario.checks:
        print(f"  check {check.name}: {check.statement}"
              + (f" [{', '.join(check.verifies)}]" if check.verifies else "")
              + (f"; waived: {scenario.waivers[check.name]}" if check.name in scenario.waivers else ""))
    return EXIT_OK


# --- faults ------------------------------------------------------------------------------------------


def _add_faults(commands: Commands) -> None:
    parser = commands.add_parser(
        "faults", help="list the fault library: kinds, targets, parameters", epilog="Exit status: 0 done.",
        description="List every fault that a scenario may name, what it needs of a bench, what it can be aimed at, "
        "and its parameters with range and unit.")
    parser.add_argument("--nodes", type=int, default=4, metavar="N", choices=range(1, NODE_COUNT_MAX + 1),
                        help="compute nodes of the satellite (4)")
    parser.set_defaults(run=_faults)


def _faults(options: argparse.Namespace) -> int:
    print(faults.table(options.nodes))
    return EXIT_OK


# --- replay ------------------------------------------------------------------------------------------


def _add_replay(commands: Commands) -> None:
    parser = commands.add_parser(
        "replay", help="decide a recorded run again and compare", epilog=_EXIT_TEXT,
        description="Feed the recorded inputs of a run to estimator and decisions again, and compare every "
        "decision with the one that flew.")
    parser.add_argument("what", type=Path, metavar="RUN", help="a run's folder (for instance out/latest) or recording")
    parser.add_argument("--times", type=int, default=1, metavar="N",
                        help="decide it N times, and compare every estimate and decision bit by bit (1)")
    parser.add_argument("--jobs", type=int, metavar="P", help="processes for that (cores)")
    parser.set_defaults(run=_replay)


def _replay(options: argparse.Namespace) -> int:
    recording = flight.find_recording(options.what)
    if options.times > 1:
        return bisect.replay_command(recording, options.times, options.jobs)
    outcome = flight.replay(recording)
    if outcome.diverged_s is not None:
        print(f"diverged at T+{outcome.diverged_s:.0f} s, after {outcome.ticks} identical ticks")
        return EXIT_DIFFERS
    if outcome.ticks == 0:
        print(f"hil replay: {options.what} holds no ticks", file=sys.stderr)
        return EXIT_BAD_INPUT
    print(f"{outcome.ticks} ticks identical")
    return EXIT_OK


_COMMANDS: tuple[Callable[[Commands], None], ...] = (_add_run, serial_bench.add_command, _add_check, _add_faults,
                                                   _add_replay, compare.add_command, channels.add_command,
                                                   governor_search.add_command, rig.add_command,
                                                   outside.add_command, campaign.add_commands, suite.add_command,
                                                   bisect.add_command)


if __name__ == "__main__":
    sys.exit(main())

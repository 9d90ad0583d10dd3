"""`hil selftest`: the fault scenarios must pass with the flight software as it is, and fail with each planted defect.

A suite that lets a broken flight software through is worth nothing; this is how it is held to account. Each defect
names the one check that must fail. Flights are shared out over processes; a defect lives in the process that flies it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from flightsw.errors import ConfigError
from hil import scenario as scenarios
from hil.run import fly
from hil.selftest.defects import DEFECTS, Defect, planted
from hil.verdict import Verdict, overall

EXIT_CAUGHT, EXIT_MISSED = 0, 1
SHORT = ("telemetry.is_in_kelvin", "link.transmitter_is_always_on", "link.completion_is_not_told")
"""Three defects that show within minutes of flight: the form for every commit."""


class Outcome(NamedTuple):
    """What became of one flight; `defect` is empty for the flight software as it is.

    `is_right` is whether it came out as it must: whole flight software passes, a defect is caught by its check.
    `failed` are the checks that failed.
    """

    defect: str
    scenario: str
    is_right: bool
    detail: str
    failed: tuple[str, ...]


def whole(scenario: str, duration_s: float | None = None) -> Outcome:
    """Fly a scenario with the flight software as it is."""
    loaded = scenarios.load(scenarios.find(scenario), duration=None if duration_s is None else f"{duration_s:g} s")
    with tempfile.TemporaryDirectory(prefix="hil-selftest-") as folder:
        findings = fly(loaded, Path(folder)).findings
    bad = tuple(each.name for each in findings if each.verdict is not Verdict.PASS and not each.waived)
    verdict = overall(findings)
    return Outcome("", scenario, verdict is Verdict.PASS, f"{verdict.value}: {len(findings)} checks", bad)


def broken(name: str) -> Outcome:
    """Fly a defect, as long as it needs, and look whether its check fails. Whatever the defect makes of the rest."""
    defect = DEFECTS[name]
    loaded = scenarios.load(scenarios.find(defect.scenario), duration=f"{defect.flown_s:g} s")
    with tempfile.TemporaryDirectory(prefix="hil-selftest-") as folder, planted(defect):
        findings = {each.name: each for each in fly(loaded, Path(folder)).findings}
    failed = tuple(each.name for each in findings.values() if each.verdict is Verdict.FAIL and not each.waived)
    found = findings[defect.caught_by]
    return Outcome(name, defect.scenario, found.verdict is Verdict.FAIL,
                   found.detail if found.verdict is Verdict.FAIL else f"not caught: {found.verdict.value}", failed)


def outcomes(defects: Sequence[Defect], processes: int) -> Iterator[Outcome]:
    """Fly each scenario that the defects name, whole, and each defect; in the order in which they end."""
    with ProcessPoolExecutor(processes) as pool:
        tasks = [pool.submit(whole, name) for name in dict.fromkeys(defect.scenario for defect in defects)]
        tasks += [pool.submit(broken, defect.name) for defect in defects]
        for task in as_completed(tasks):
            yield task.result()


def table(defects: Sequence[Defect], flown: Sequence[Outcome]) -> str:
    """Return the summary: whole flights first, then one line a defect."""
    by_defect = {outcome.defect: outcome for outcome in flown if outcome.defect}
    lines = [f"{outcome.scenario:36}{'passes' if outcome.is_right else 'FAILS':8}{outcome.detail}"
             + (f"; not: {', '.join(outcome.failed)}" if outcome.failed else "")
             for outcome in sorted(flown, key=lambda each: each.scenario) if not outcome.defect]
    for defect in defects:
        outcome = by_defect[defect.name]
        others = [name for name in outcome.failed if name != defect.caught_by]
        lines.append(f"{defect.name:36}{'caught' if outcome.is_right else 'MISSED':8}{defect.caught_by} in "
                     f"{defect.scenario}: {outcome.detail}" + (f"; also {', '.join(others)}" if others else ""))
    caught = sum(by_defect[defect.name].is_right for defect in defects)
    passed = [outcome for outcome in flown if not outcome.defect]
    lines.append(f"{caught} of {len(defects)} defects caught; {sum(each.is_right for each in passed)} of {len(passed)} "
                 "scenarios pass with the flight software as it is")
    return "\n".join(lines)


# --- the command -------------------------------------------------------------------------------------


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `hil selftest` to the rig's commands."""
    parser = commands.add_parser(
        "selftest", help="plant defects in the flight software; the scenarios must fail each of them",
        description="Fly the fault scenarios with the flight software as it is (they must pass) and with each of the "
        "planted defects (the check that the defect names must fail).",
        epilog=f"Exit status: {EXIT_CAUGHT} every defect caught and every whole flight passed, {EXIT_MISSED} "
        "otherwise, 2 bad input, 130 interrupted.")
    parser.add_argument("--defects", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--short", action="store_true", help=f"only {', '.join(SHORT)}")
    parser.add_argument("--list", action="store_true", help="list the defects and fly nothing")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), metavar="P", help="processes (2)")
    parser.set_defaults(run=_selftest)


def _selftest(options: argparse.Namespace) -> int:
    from tqdm import tqdm  # noqa: PLC0415 # an extra

    names = options.defects or (SHORT if options.short else tuple(DEFECTS))
    unknown = [name for name in names if name not in DEFECTS]
    if unknown or options.jobs < 1:
        raise ConfigError("--defects, --jobs", f"{', '.join(unknown) or options.jobs}: expected are some of "
                          f"{', '.join(DEFECTS)}, and at least 1 process")
    defects = [DEFECTS[name] for name in names]
    if options.list:
        for defect in defects:
            print(f"{defect.name:36}{defect.about} Caught by {defect.caught_by} in {defect.scenario}.")
        return EXIT_CAUGHT
    total = len(defects) + len({defect.scenario for defect in defects})
    flown = []
    with contextlib.closing(tqdm(total=total, unit="flight", disable=None, file=sys.stderr)) as bar:
        for outcome in outcomes(defects, options.jobs):
            flown.append(outcome)
            bar.update(1)
    print(table(defects, flown))
    return EXIT_CAUGHT if all(outcome.is_right for outcome in flown) else EXIT_MISSED

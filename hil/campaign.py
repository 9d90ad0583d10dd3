"""Campaigns: one scenario flown many times, each time with another seed, satellite and faults.

A run is (scenario hash, seed) and gives one line of JSON, the same on whatever machine and engine it was flown; the
file of lines is the campaign. It is appended to as runs end, so that whatever stops a campaign costs the runs in
flight: started again, it flies what is missing. Shards of one campaign are merged by `hil merge`. A run that crashed or
took too long is a line like any other. `hil campaign`, `hil merge`; the engines are in `hil.engines`.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import hashlib
import itertools
import json
import math
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

import numpy as np

from flightsw import mission as flight_mission
from flightsw.errors import ConfigError
from hil import engines, random_faults, run
from hil.engines import Lost
from hil.scenario import Scenario, find, load

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

EXIT_CROSSED: Final = 1
_KILL_AFTER: Final = 1.5  # times the time limit: a worker that does not notice it itself is ended
_WORST: Final = 5
_Z_95: Final = 1.959964
_BANDS: Final = ("battery_soc_frac_min", "die_c_max", "plate_c_max", "radiator_c_max", "value_frac",
                 "work_finished_units", "promises_broken")
_SWEPT: Final[dict[str, tuple[str, str]]] = {
    "battery_wh": ("battery", "capacity_wh"), "array_m2": ("array", "area_m2"),
    "radiator_m2": ("thermal", "radiator_area_m2"),
}
"""What a sweep may change: table and key of the mission; the truth changes by the same ratio."""
_SIZE_WORDS: Final = {"battery_wh": "battery, Wh", "array_m2": "array, m²", "radiator_m2": "radiator, m²"}

Line = dict[str, Any]  # Any: JSON values


# --- one run -----------------------------------------------------------------------------------------


class Unit(NamedTuple):
    """One run of a campaign; `sizes` replaces sizes of the satellite."""

    number: int
    scenario: str
    hash: str
    seed: int
    duration: str | None
    faults: int
    sizes: tuple[tuple[str, float], ...]
    limit_s: float


class _TooLongError(Exception):
    """A run took longer than it may."""


def seed_of(campaign_seed: int, number: int) -> int:
    """Seed of run `number`: of the SHA-256 of both, so that runs of two campaigns have nothing in common."""
    return int.from_bytes(hashlib.sha256(f"{campaign_seed}/{number}".encode()).digest()[:4])


def hash_of(scenario: Scenario, faults: int, sizes: Sequence[tuple[str, float]]) -> str:
    """Return what a campaign flies, but for its seeds, as sixteen hexadecimal digits."""
    parts = (scenario.path.read_text("utf-8"), scenario.mission_path.read_text("utf-8"), repr(scenario.duration_s),
             repr(dataclasses.asdict(load(scenario.path, seed=0).truth)), str(faults), repr(tuple(sizes)))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def scenario_of(unit: Unit) -> Scenario:
    """Return the scenario of a unit, as it is flown."""
    scenario = load(Path(unit.scenario), seed=unit.seed, duration=unit.duration)
    return random_faults.add(resized(scenario, dict(unit.sizes)), unit.faults)


def resized(scenario: Scenario, sizes: Mapping[str, float]) -> Scenario:
    """Return the scenario with a satellite of other sizes, which flight software and truth know alike."""
    for name, size in sizes.items():
        table, key = _SWEPT[name]
        before: float = getattr(getattr(scenario.mission, table), key)
        toml, count = re.subn(rf"(?m)(^\[{table}\]\n(?:(?!\[).*\n)*?{key}\s*=\s*)[0-9.e+-]+", rf"\g<1>{size!r}",
                              scenario.mission_toml)
        if count != 1:
            raise ConfigError(str(scenario.mission_path), f"{table}.{key} is there {count} times, cannot be replaced")
        ratio, truth = size / before, scenario.truth
        if name == "battery_wh":
            battery = truth.battery
            truth = dataclasses.replace(truth, battery=dataclasses.replace(
                battery, capacity_wh=battery.capacity_wh * ratio, resistance_ohm=battery.resistance_ohm / ratio,
                charge_limit_w=battery.charge_limit_w * ratio))
        elif name == "array_m2":
            truth = dataclasses.replace(truth, array=dataclasses.replace(
                truth.array, area_m2=truth.array.area_m2 * ratio,
                heat_capacity_j_k=truth.array.heat_capacity_j_k * ratio))
        else:
            structure = truth.structure
            truth = dataclasses.replace(truth, structure=dataclasses.replace(
                structure, root_area_m2=structure.root_area_m2 * ratio, tip_area_m2=structure.tip_area_m2 * ratio))
        scenario = dataclasses.replace(scenario, mission=flight_mission.parse(toml, str(scenario.mission_path)),
                                       mission_toml=toml, truth=truth)
    return scenario


def fly(unit: Unit) -> Line:
    """Fly one unit and return its line. Nothing in it tells where or how fast it was flown."""
    give_up_s = time.monotonic() + unit.limit_s

    def advanced(_ticks: int) -> None:
        if time.monotonic() > give_up_s:
            raise _TooLongError

    line: Line = {"run": unit.number, "scenario": unit.hash, "seed": unit.seed} | dict(unit.sizes)
    try:
        scenario = scenario_of(unit)
        flown = _flown(scenario, advanced)
        found = random_faults.outcomes(flown)
        if random_faults.untold(found):
            found = _told(scenario, flown, advanced)
    except _TooLongError:
        return line | {"outcome": "timed out", "detail": f"took longer than {unit.limit_s:g} s"}
    except Exception as error:  # a run that breaks the rig is a result of the campaign
        return line | {"outcome": "crashed", "detail": f"{type(error).__name__}: {error}"}
    metrics = flown.metrics
    offered = float(str(metrics["value_offered"]))
    value = float(str(metrics["value_finished"]))
    kept = ("limits_crossed", "promises_made", "promises_broken", "failed_ticks", "jobs_finished", "jobs_refused",
            "work_finished_units", "battery_soc_frac_min", "die_c_max", "plate_c_max", "radiator_c_max", "orbits",
            "energy_compute_wh")
    margins = [each.margin for each in flown.findings if each.name.startswith("limit.") and each.margin is not None]
    return line | {
        "outcome": flown.verdict.value, "detail": "; ".join(
            f"{each.name}: {each.detail}" for each in flown.findings
            if each.verdict.value != "PASS" and not each.waived),
        "margin": min(margins, default=None), "value_frac": value / offered if offered else None,
        "faults": [each._asdict() for each in found], "drawn": {key: str(at) for key, at in scenario.drawn.items()},
    } | {name: metrics[name] for name in kept}


def _told(scenario: Scenario, flown: run.Flight,
          advanced: Any) -> tuple[random_faults.Outcome, ...]:  # Any: a callback
    """Say more of faults that nothing told of: a flight without faults shows what is usual, one with a fault alone what
    that one does.
    """
    healthy = _flown(dataclasses.replace(scenario, faults=()), advanced)
    found = random_faults.outcomes(flown, healthy)
    untold = {each.id for each in random_faults.untold(found)}
    steps = {step.id: step for step in scenario.faults}
    return tuple(random_faults.outcomes(_flown(dataclasses.replace(scenario, faults=(steps[each.id],)), advanced),
                                        healthy)[0] if each.id in untold else each for each in found)


def _flown(scenario: Scenario, advanced: Any) -> run.Flight:  # Any: a callback
    with tempfile.TemporaryDirectory(prefix="hil-campaign-") as folder:
        return run.fly(scenario, Path(folder), advanced)


# --- the file of lines -------------------------------------------------------------------------------


class Book:
    """The lines of a campaign in a file, one writer at a time; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open the file and read what is in it; a torn last line is cut off. ConfigError where that cannot be."""
        self.lines: list[Line] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: TextIO = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise ConfigError(str(path), f"cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise ConfigError(str(path), "is being written by another campaign") from error
        self._file.seek(0)
        whole = 0
        for text in self._file:
            if not text.endswith("\n"):
                break
            try:
                self.lines.append(json.loads(text))
            except ValueError as error:
                raise ConfigError(str(path), f"line {len(self.lines) + 1} is no JSON: {error}") from error
            whole += len(text.encode())
        os.truncate(path, whole)

    def add(self, line: Line) -> None:
        """Write one line, and keep it whatever happens then."""
        self._file.write(_text(line) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.lines.append(line)

    def __enter__(self) -> Book:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _text(line: Line) -> str:
    return json.dumps(line, sort_keys=True, separators=(",", ":"), allow_nan=False)


def read_lines(path: Path) -> list[Line]:
    """Read a campaign's file; ConfigError where it is none. A torn last line is passed over."""
    try:
        texts = path.read_text("utf-8").split("\n")[:-1]
        return [json.loads(text) for text in texts]
    except (OSError, ValueError) as error:
        raise ConfigError(str(path), f"is no campaign: {error}") from error


def merge(groups: Iterable[Sequence[Line]]) -> list[Line]:
    """Return the lines of several files in order of their runs; ConfigError where two of one run differ."""
    found: dict[tuple[str, int], Line] = {}
    for line in itertools.chain.from_iterable(groups):
        before = found.setdefault((line["scenario"], line["seed"]), line)
        if before != line:
            raise ConfigError("merge", f"run {line['run']} with seed {line['seed']} came out differently in two files")
    return sorted(found.values(), key=lambda line: (line["run"], line["scenario"]))


# --- what came of it ---------------------------------------------------------------------------------


def wilson(passed: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a rate (Wilson 1927): never beyond 0 and 1, right for few runs as well."""
    if total == 0:
        return 0.0, 1.0
    rate, square = passed / total, _Z_95**2
    middle = (rate + square / (2 * total)) / (1.0 + square / total)
    half = _Z_95 / (1.0 + square / total) * math.sqrt(rate * (1.0 - rate) / total + square / (4 * total**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def summary(lines: Sequence[Line], command: str) -> list[str]:
    """Return what came of a campaign, in lines; `command` flies one run of it again, with its seed behind."""
    total = len(lines)
    outcomes = Counter(line["outcome"] for line in lines)
    low, high = wilson(outcomes["PASS"], total)
    flown = [line for line in lines if "orbits" in line]
    crossed = [line for line in flown if line["limits_crossed"]]
    said = [
        f"runs              {total}: " + ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items())),
        f"orbits            {sum(line['orbits'] for line in flown):.0f}",
        f"pass rate         {outcomes['PASS'] / max(total, 1):.1%}, with 95 % confidence {low:.1%} to {high:.1%}",
        f"limits crossed    {sum(line['limits_crossed'] for line in flown)} in {len(crossed)} runs",
        f"promises          {sum(line['promises_made'] for line in flown)} made, "
        f"{sum(line['promises_broken'] for line in flown)} broken",
    ]
    for name in _BANDS:
        values = [line[name] for line in flown if line.get(name) is not None]
        if values:
            bands = np.percentile(values, [0.0, 5.0, 50.0, 95.0, 100.0])
            said.append(f"{name:22}" + "  ".join(f"{label} {value:.4g}" for label, value in
                                                   zip(("least", "5 %", "50 %", "95 %", "most"), bands, strict=True)))
    said += _faults_told(flown)
    worst = sorted((line for line in lines if line["outcome"] != "PASS"),
                   key=lambda line: (line.get("limits_crossed", 0) == 0, line.get("margin") or 0.0, line["run"]))
    said += [f"worst             run {line['run']}: {line['outcome']}: {line['detail'][:160]}\n"
             f"                  {command} --seed {line['seed']}" for line in worst[:_WORST]]
    return said


def _faults_told(flown: Sequence[Line]) -> list[str]:
    """How many faults of each kind there were, and what became of them."""
    faults = [(line, fault) for line in flown for fault in line["faults"]]
    if not faults:
        return []
    said = ["faults            kind                    injected  noticed  harmless only  neither"]
    neither: list[str] = []
    for kind in sorted({fault["kind"] for _, fault in faults}):
        mine = [(line, fault) for line, fault in faults if fault["kind"] == kind]
        noticed = sum(bool(fault["noticed_by"]) for _, fault in mine)
        harmless = sum(fault["is_harmless"] and not fault["noticed_by"] for _, fault in mine)
        lost = [(line, fault) for line, fault in mine if not fault["is_harmless"] and not fault["noticed_by"]]
        neither += [f"neither           run {line['run']} seed {line['seed']} {fault['id']} ({fault['kind']} "
                    f"{fault['target']} at T+{fault['from_s']:.0f} s)" for line, fault in lost]
        said.append(f"                  {kind:24}{len(mine):8d}{noticed:9d}{harmless:15d}{len(lost):9d}")
    return said + neither


def sizing(lines: Sequence[Line], names: Sequence[str]) -> list[str]:
    """Return the table of a sweep: what each size of the satellite gets done."""
    said = ["".join(f"{name:>14}" for name in names) + "    runs  work an orbit   value done  least charge  crossed"]
    for sizes in sorted({tuple(line[name] for name in names) for line in lines}):
        mine = [line for line in lines if tuple(line[name] for name in names) == sizes and "orbits" in line]
        if mine:
            work = np.mean([line["work_finished_units"] / line["orbits"] for line in mine])
            value = np.mean([line["value_frac"] or 0.0 for line in mine])
            said.append("".join(f"{size:14g}" for size in sizes)
                        + f"{len(mine):8d}{work:15.0f}{value:13.1%}"
                          f"{min(line['battery_soc_frac_min'] for line in mine):14.1%}"
                          f"{sum(line['limits_crossed'] for line in mine):9d}")
    return said


def plot_sizing(lines: Sequence[Line], names: Sequence[str], path: Path) -> None:
    """Draw the work an orbit and the least charge over the first size, a curve for each of the others; shades reach
    over the seeds, and a red cross is a run that crossed a limit.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 # an extra

    figure = Figure(figsize=(7.0, 6.2), layout="constrained")
    work, charge = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    flown = [line for line in lines if "orbits" in line]
    for rest in sorted({tuple(line[name] for name in names[1:]) for line in flown}):
        mine = [line for line in flown if tuple(line[name] for name in names[1:]) == rest]
        sizes = sorted({line[names[0]] for line in mine})
        label = "; ".join(f"{_SIZE_WORDS[name]}: {size:g}" for name, size in zip(names[1:], rest, strict=True))
        for axes, key in ((work, "work_finished_units"), (charge, "battery_soc_frac_min")):
            found = [[line[key] / line["orbits"] if axes is work else 100.0 * line[key]
                      for line in mine if line[names[0]] == size] for size in sizes]
            axes.plot(sizes, [float(np.mean(each)) for each in found], marker="o", label=label or "mean of the seeds")
            axes.fill_between(sizes, [min(each) for each in found], [max(each) for each in found], alpha=0.2)
    crossed = [line for line in flown if line["limits_crossed"]]
    charge.plot([line[names[0]] for line in crossed], [100.0 * line["battery_soc_frac_min"] for line in crossed],
                ls="none", marker="x", color="red", label="crossed a limit" if crossed else None)
    work.set(ylabel="work finished, node-seconds an orbit", ylim=(0.0, None))
    charge.set(xlabel=_SIZE_WORDS[names[0]], ylabel="least charge, %")
    for axes in (work, charge):
        axes.grid(alpha=0.3)
    work.legend(loc="lower right")
    figure.savefig(path)


# --- command line ------------------------------------------------------------------------------------


def add_commands(commands: Commands) -> None:
    """Add `hil campaign` and `hil merge`."""
    parser = commands.add_parser(
        "campaign", help="fly a scenario many times over seeds, satellites and faults",
        description="Fly a scenario once for each run of a campaign, each with its own seed, and say how many passed, "
        "how the rest came out, and how to fly the worst again. Started again with the same --out it flies what is "
        "missing.",
        epilog=f"Exit status: 0 no limit crossed and every fault noticed or harmless, {EXIT_CROSSED} otherwise, 2 bad "
        "input or files, 130 interrupted.")
    parser.add_argument("scenario", metavar="SCENARIO", help="a scenario file, or the name of one of hil/scenarios")
    parser.add_argument("--runs", type=_positive, required=True, metavar="N", help="how many runs (of each size)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of the campaign (1)")
    parser.add_argument("--duration", metavar="TIME", help="in place of the scenario's")
    parser.add_argument("--random-faults", type=int, default=0, metavar="N",
                        help="faults drawn from the library for each run, besides the scenario's own (0)")
    parser.add_argument("--sweep", action="append", default=[], type=_sweep, metavar="NAME=FROM:TO:STEP",
                        help=f"fly all runs for each size of {', '.join(_SWEPT)}; may be given more than once")
    parser.add_argument("--shard", type=_shard, default=(1, 1), metavar="I/N", help="only each Nth run, from the Ith")
    parser.add_argument("--engine", metavar="dask://HOST:PORT", help="a Dask cluster (default: this machine)")
    parser.add_argument("--jobs", type=_positive, default=os.cpu_count() or 1, metavar="P", help="processes (cores)")
    parser.add_argument("--limit", type=float, default=600.0, metavar="S", help="longest that a run may take (600 s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the campaign's file (out/campaign-NAME.jsonl)")
    parser.set_defaults(run=_campaign)
    parser = commands.add_parser(
        "merge", help="put the shards of a campaign together",
        description="Write the runs of several campaign files, each once and in order, into a new one, and sum up.",
        epilog="Exit status: 0 done, 2 bad input, or one run that came out differently in two files.")
    parser.add_argument("out", type=Path, metavar="OUT", help="file to write")
    parser.add_argument("parts", type=Path, nargs="+", metavar="FILE", help="files of the shards")
    parser.set_defaults(run=_merge)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: 1 or more is expected")
    return number


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r}: expected I/N with I from 1 to N, like 3/10")
    return int(match[1]), int(match[2])


def _sweep(text: str) -> tuple[str, tuple[float, ...]]:
    name, _, span = text.partition("=")
    try:
        low, high, step = (float(word) for word in span.split(":"))
    except ValueError:
        low, high, step = 0.0, -1.0, 0.0
    if name not in _SWEPT or not (0.0 < low <= high and step > 0.0):
        raise argparse.ArgumentTypeError(f"{text!r}: expected one of {', '.join(_SWEPT)} and its sizes, like "
                                         "battery_wh=100:300:50")
    return name, tuple(low + step * i for i in range(int((high - low) / step + 1e-9) + 1))


def units_of(options: argparse.Namespace) -> list[Unit]:
    """Return the units of a campaign's shard."""
    path = find(options.scenario)
    scenario = load(path, duration=options.duration)
    names = [name for name, _ in options.sweep]
    units = []
    for sizes in itertools.product(*(values for _, values in options.sweep)):
        sized = tuple(zip(names, sizes, strict=True))
        resized(scenario, dict(sized))  # what cannot be flown is said before anything is
        digest = hash_of(scenario, options.random_faults, sized)
        units += [Unit(number, str(path), digest, seed_of(options.seed, number), options.duration,
                       options.random_faults, sized, options.limit) for number in range(options.runs)]
    first, count = options.shard
    return [unit for unit in units if unit.number % count == first - 1]


def fly_all(units: Sequence[Unit], book: Book, engine_at: str | None, workers: int) -> Iterator[Line]:
    """Fly those units that the book does not have; each line is written down before it is given."""
    done = {(line["scenario"], line["seed"]) for line in book.lines}
    missing = [unit for unit in units if (unit.hash, unit.seed) not in done]
    limit_s = _KILL_AFTER * max((unit.limit_s for unit in missing), default=1.0) + 30.0
    engine: engines.Engine[Unit, Line] = engines.connect(engine_at, fly, workers, limit_s)
    try:
        for unit in missing:
            engine.submit(unit)
        for unit, result in engine.as_completed():
            line = result if not isinstance(result, Lost) else {
                "run": unit.number, "scenario": unit.hash, "seed": unit.seed, "outcome": result.outcome,
                "detail": result.detail} | dict(unit.sizes)
            book.add(line)
            yield line
    finally:
        engine.close()


def _campaign(options: argparse.Namespace) -> int:
    from tqdm import tqdm  # noqa: PLC0415 # an extra

    units = units_of(options)
    out = options.out or Path("out") / f"campaign-{find(options.scenario).stem}.jsonl"
    with Book(out) as book:
        wanted = {(unit.hash, unit.seed) for unit in units}
        before = sum((line["scenario"], line["seed"]) in wanted for line in book.lines)
        print(f"{len(units)} runs, {before} of them flown before; written to {out}", flush=True)
        bad = 0
        with tqdm(total=len(units), initial=before, unit="run", disable=None, smoothing=0.05) as bar:
            for line in fly_all(units, book, options.engine, options.jobs):
                bad += line["outcome"] != "PASS"
                bar.set_postfix(not_passed=bad, refresh=False)
                bar.update(1)
        lines = [line for line in book.lines if (line["scenario"], line["seed"]) in wanted]
    names = [name for name, _ in options.sweep]
    command = f"hil run {options.scenario}" + (f" --duration {options.duration!r}" if options.duration else "") + (
        f" --random-faults {options.random_faults}" if options.random_faults else "")
    return _sum_up(sorted(lines, key=lambda line: line["run"]), command, names, out)


def _merge(options: argparse.Namespace) -> int:
    lines = merge(read_lines(path) for path in options.parts)
    options.out.write_text("".join(_text(line) + "\n" for line in lines), "utf-8")
    names = [name for name in _SWEPT if all(name in line for line in lines)]
    _sum_up(lines, "hil run SCENARIO", names, options.out)
    return 0


def _sum_up(lines: Sequence[Line], command: str, names: Sequence[str], out: Path) -> int:
    print("\n".join(summary(lines, command)))
    if names:
        print("\n".join(sizing(lines, names)))
        plot = out.with_suffix(".svg")
        plot_sizing(lines, names, plot)
        print(f"plot              {plot}")
    flown = [line for line in lines if "orbits" in line]
    lost = any(not fault["noticed_by"] and not fault["is_harmless"] for line in flown for fault in line["faults"])
    return EXIT_CROSSED if lost or len(flown) < len(lines) or any(line["limits_crossed"] for line in flown) else 0


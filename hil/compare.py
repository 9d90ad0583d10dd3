"""`hil compare`: the flight brain beside the baselines, on the same seeds, held against the clairvoyant bound.

Flies every policy in the lean loop (`hil.lean`), one task a seed and policy, over the machine's cores; each
result is a row of `results.jsonl`, so that an interrupted comparison goes on where it stopped. Ends in one table,
one plot and `results.json`. A schedule that kept its limits and is worth more than its bound proves the bound
wrong: that is an error of the rig, said loudly, and no table is a verdict then.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flightsw import compose
from flightsw.errors import ConfigError
from flightsw.jobs.ledger import LedgerEntry
from flightsw.mission import Mission
from flightsw.physics.forecast import Forecaster
from flightsw.physics.units import J_PER_WH, KELVIN
from flightsw.state import Event, JobSpec, JobState
from hil import baselines, lean, run
from hil import scenario as scenarios
from hil.jobs import FIRST_STREAM_ID, StreamConfig

if TYPE_CHECKING:
    from hil.bound import Relaxation, Solution

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

FLIGHT, BOUND = "flight", "bound"
POLICIES = (FLIGHT, *baselines.NAMES)
EXIT_BOUND_WRONG = 3
_BAND_SLACK_K = 0.3  # the band was flown in steps of 10 s, schedules in steps of 1 s
_TOLERANCE = 1e-6  # of HiGHS, relative
_ENDLESS_UNITS, _ENDLESS_S = 1e7, 1e9

Row = dict[str, Any]  # Any: JSON values
Celsius = npt.NDArray[np.float32]  # one a second


class Task(NamedTuple):
    """One policy, or the bound, on one seed."""

    scenario: str
    duration: str | None
    seed: int
    policy: str
    divisible: bool


# --- one row -----------------------------------------------------------------------------------------


class _Endless:
    """An inbox with one job a node that never ends: work is divisible and every unit is worth one."""

    def __init__(self, nodes: int) -> None:
        self.jobs = tuple(JobSpec(FIRST_STREAM_ID + i, "endless", _ENDLESS_UNITS, 1.0, _ENDLESS_UNITS, 3.0, _ENDLESS_S,
                                  3.0) for i in range(nodes))
        self._given = False

    def take(self, now_s: float, _known: Mapping[int, LedgerEntry]) -> tuple[JobSpec, ...]:
        """See `flightsw.supervisor.Inbox`."""
        if self._given or now_s < self.jobs[0].arrival_s:
            return ()
        self._given = True
        return self.jobs

    def news(self) -> tuple[Event, ...]:
        """See `flightsw.supervisor.Inbox`."""
        return ()


@functools.lru_cache(maxsize=2)
def _world(path: str, duration: str | None, seed: int, *, divisible: bool) -> lean.World:
    scenario = scenarios.load(Path(path), seed=seed, duration=duration)
    world = lean.World.of(scenario, run.surroundings(scenario))
    if divisible:
        world = replace(world, stream_config=StreamConfig(overload=0.0, activity_error_frac=0.0))
    return world


def work_on(task: Task) -> Row:
    """Fly or bound one task and return its row."""
    world = _world(task.scenario, task.duration, task.seed, divisible=task.divisible)
    row = _bound_row(world, task) if task.policy == BOUND else _flown_row(world, task)
    return {"seed": task.seed, "policy": task.policy, **row}


def _flown_row(world: lean.World, task: Task) -> Row:
    def make(mission: Mission, forecaster: Forecaster) -> lean.Policy:
        if task.policy == FLIGHT:
            return lean.flight_brain(mission, forecaster)
        return baselines.make(task.policy, mission, forecaster)

    inbox = _Endless(world.truth.compute.nodes) if task.divisible else None
    flown = lean.fly(world, make, inbox=inbox)
    end_s = world.scenario.duration_s
    jobs = flown.book.jobs
    finished = [job for job in jobs.values() if job.state is JobState.FINISHED]
    modes = flown.trace.group("node{}_mode", world.truth.compute.nodes)
    p50, p99, most = np.percentile(flown.decide_ms, [50, 99, 100]).tolist()
    return {
        "value": flown.units_done if task.divisible else sum(job.spec.value for job in finished),
        "value_accrued": flown.units_done if task.divisible else (
            sum(job.spec.value for job in finished) + flown.value_under_way),
        "value_closed": sum(job.spec.value for job in finished if job.spec.deadline_s <= end_s),
        "units": flown.units_done,
        "compute_wh": flown.compute_wh,
        "shunted_wh": flown.shunted_wh,
        "finished": len(finished),
        "offered": len(jobs),
        "crossings": {c.limit: [c.count, c.seconds, c.depth] for c in flown.crossings if c.count},
        "broken": 0 if task.divisible else sum(job.is_broken(end_s) for job in jobs.values()),
        "states": {str(job_id): job.state.name for job_id, job in jobs.items()},
        "refusals": run.refusals(flown.book),
        "switches": int(np.count_nonzero(np.diff(modes, axis=0))),
        "idle_frac": float(np.mean(modes < 2)),
        "decide_ms": [p50, p99, most],
        "failed_ticks": flown.failures,
        "end_charge_frac": float(flown.trace["battery_soc_frac"][-1]),
        "surface_c": surface_extremes(flown.trace["radiator_c"], flown.trace["bus_c"]),
    }


def surface_extremes(root_c: Celsius, bus_c: Celsius) -> list[list[list[float]]]:
    """Lowest and highest temperature of the radiator's root and of the bus in each whole slot of the bound."""
    from hil import bound  # noqa: PLC0415 # needs highspy, an extra

    width = int(bound.SLOT_S)
    slots = [row[:len(row) // width * width].reshape(-1, width) for row in (root_c, bus_c)]
    return [[pick(slot, axis=1).round(3).tolist() for slot in slots] for pick in (np.min, np.max)]


def _band_c(relaxation: Relaxation) -> list[list[list[float]]]:
    """The bound's band in the form of `surface_extremes`."""
    return [[(band[:, surface] - KELVIN).round(3).tolist() for surface in (0, 2)] for band in relaxation.band_k]


def transmissions(world: lean.World) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Seconds in which the flight software transmits: its own forecast of passes, or always."""
    scenario = world.scenario
    seconds = int(scenario.duration_s)
    if scenario.link.contact == "always":
        return np.ones(seconds, np.bool_)
    forecaster = compose.forecaster_of(scenario.mission, str(scenario.mission_path))
    return np.fromiter((forecaster.sky(float(t)).pass_in_s == 0.0 for t in range(seconds)), np.bool_, seconds)


def _bound_row(world: lean.World, task: Task) -> Row:
    from hil import bound  # noqa: PLC0415 # needs highspy, an extra

    scenario = world.scenario
    relaxation = bound.Relaxation(world.truth, world.around, scenario.start, scenario.mission.parameters,
                                  transmissions(world), node_lost_s=scenario.node_lost_s)
    if task.divisible:
        relaxation.settle()
        solution = relaxation.divisible()
        kept = relaxation.divisible(scenario.start.charge_frac)
        return {"value": solution.amount, "units": solution.amount, "solve_s": solution.solve_s,
                **_kept(world, kept),
                "band_c": _band_c(relaxation)}
    jobs = world.stream().jobs
    every, closed = (bound.works_of(jobs, world.stream_config, scenario.seed, world.truth, scenario.duration_s,
                                    closed_only=only) for only in (False, True))
    relaxation.settle(every)
    solution = relaxation.value(every)
    kept = relaxation.value(every, scenario.start.charge_frac)
    return {
        "value": solution.amount,
        "value_closed": relaxation.value(closed).amount if closed else 0.0,
        "units": float(sum(work.units * fraction for work, fraction in zip(every, solution.fractions, strict=True))),
        "fractions": {str(work.job_id): round(float(fraction), 4)
                      for work, fraction in zip(every, solution.fractions, strict=True)},
        "values": {str(work.job_id): work.value for work in every},
        "offered_value": sum(work.value for work in every),
        "compute_wh": float(solution.compute_w.mean()) * scenario.duration_s / J_PER_WH,
        "end_charge_frac": float(solution.charge_frac[-1]),
        **_kept(world, kept),
        "solve_s": solution.solve_s,
        "columns": solution.columns,
        "band_c": _band_c(relaxation),
    }


def _kept(world: lean.World, solution: Solution) -> Row:
    """What the bound is when the charge ends where it began, and what a watt-hour more or less changes it by."""
    return {"capacity_wh": world.truth.battery.capacity_wh, "kept_charge_frac": world.scenario.start.charge_frac,
            "kept_value": solution.amount, "kept_price_per_wh": solution.end_price_per_wh}


# --- all rows ----------------------------------------------------------------------------------------


def fingerprint(scenario: scenarios.Scenario, *, divisible: bool) -> str:
    """Hash of all that a row hangs on besides seed and policy: files of the scenario, and the code."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256(f"{scenario.duration_s} {divisible} {scenario.truth!r}".encode())
    digest.update(scenario.path.read_bytes() + scenario.mission_toml.encode())
    for path in sorted(path for folder in ("flightsw", "hil", "c_kernels") for path in (root / folder).rglob("*")
                       if path.suffix in {".py", ".c", ".h"}):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def read_rows(path: Path, key: str) -> dict[tuple[int, str], Row]:
    """Rows of an earlier, perhaps interrupted comparison that belong to this one."""
    rows: dict[tuple[int, str], Row] = {}
    if path.is_file():
        for line in path.read_text("utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # the line that was being written when it was interrupted
                continue
            if row.get("key") == key:
                rows[row["seed"], row["policy"]] = row
    return rows


def collect(tasks: Sequence[Task], key: str, path: Path, processes: int) -> dict[tuple[int, str], Row]:
    """Work on what is not in `path` yet, showing progress; return all rows."""
    from tqdm import tqdm  # noqa: PLC0415 # an extra

    rows = read_rows(path, key)
    left = [task for task in tasks if (task.seed, task.policy) not in rows]
    if path.is_file() and not path.read_bytes().endswith(b"\n"):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")  # ends the line that was being written when the last comparison was interrupted
    with path.open("a", encoding="utf-8") as file, ProcessPoolExecutor(processes, initializer=_mute) as pool, \
            tqdm(total=len(tasks), initial=len(tasks) - len(left), unit="run", disable=None) as bar:
        for done in as_completed([pool.submit(work_on, task) for task in left]):
            row = {"key": key, **done.result()}
            rows[row["seed"], row["policy"]] = row
            file.write(json.dumps(row) + "\n")
            file.flush()
            bar.update(1)
    return rows


def _mute() -> None:
    """Let a worker print nothing: HiGHS greets whoever makes a solver."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


# --- what they say -----------------------------------------------------------------------------------


class Summary(NamedTuple):
    """One policy over all seeds; ratios are medians of value over the bound, but for `ratio_p5` and `ratio_min`.

    `ratio_kept` holds it against the bound of schedules that leave as much charge; `ratio_accrued` counts jobs that
    are under way at the end by the share that is done, as the bound does.
    """

    policy: str
    ratio_median: float
    ratio_p5: float
    ratio_min: float
    ratio_kept: float
    ratio_accrued: float
    crossed_runs: int
    crossed_s: float
    broken: int
    refused: int
    refused_wanted: int
    switches: float
    decide_ms: tuple[float, float, float]


def kept_bound(bound: Row, end_charge_frac: float) -> float:
    """Bound of schedules that end with this charge: tangent at the start charge, never above the bound of all."""
    if "kept_value" not in bound:
        return float(bound["value"])
    spent_wh = (bound["kept_charge_frac"] - end_charge_frac) * bound["capacity_wh"]
    return float(min(bound["value"], bound["kept_value"] + bound["kept_price_per_wh"] * spent_wh))


def violations(rows: Mapping[tuple[int, str], Row]) -> list[str]:
    """Schedules that did better than their bound, and bounds that do not hold for a schedule."""
    found = []
    for (seed, policy), row in sorted(rows.items()):
        bound = rows.get((seed, BOUND))
        if policy == BOUND or bound is None or row["crossings"]:
            continue  # a schedule that crosses a limit is outside what the bound speaks of
        for name in ("value", "value_accrued", "value_closed"):
            most = bound.get("value" if name == "value_accrued" else name, np.inf)
            if row[name] > most * (1.0 + _TOLERANCE) + _TOLERANCE:
                found.append(f"seed {seed}: {policy} has {name} {row[name]:.1f}, above the bound {most:.1f}")
        kept = kept_bound(bound, row["end_charge_frac"])
        if row["value"] > kept * (1.0 + _TOLERANCE) + _TOLERANCE and row["value"] <= bound["value"]:
            found.append(f"seed {seed}: {policy} has value {row['value']:.1f}, above the bound {kept:.1f} of its "
                         f"end charge")
        for outside_k, surface in _outside(row["surface_c"], bound["band_c"]):
            found.append(f"seed {seed}: {policy} had the {surface} {outside_k:.2f} K outside the band that every "
                         f"schedule should keep to")
    return found


def _outside(surface_c: list[list[list[float]]], band_c: list[list[list[float]]]) -> list[tuple[float, str]]:
    """How far each surface was outside its band at the most, where it was."""
    found = []
    for place, surface in enumerate(("radiator", "bus")):
        count = len(surface_c[0][place])
        below = np.array(band_c[0][place][:count]) - np.array(surface_c[0][place])
        above = np.array(surface_c[1][place]) - np.array(band_c[1][place][:count])
        outside_k = float(np.maximum(below, above).max(initial=0.0))
        if outside_k > _BAND_SLACK_K:
            found.append((outside_k, surface))
    return found


def summarise(rows: Mapping[tuple[int, str], Row], policies: Iterable[str], seeds: Sequence[int]) -> list[Summary]:
    """One line a policy."""
    lines = []
    for policy in policies:
        mine = [rows[seed, policy] for seed in seeds]
        ratios = [row["value"] / rows[seed, BOUND]["value"] for seed, row in zip(seeds, mine, strict=True)]
        wanted = sum(rows[seed, BOUND].get("fractions", {}).get(job_id, 0.0) > 0.99
                     for seed, row in zip(seeds, mine, strict=True)
                     for job_id, state in row["states"].items() if state == "REFUSED")
        times = np.array([row["decide_ms"] for row in mine])
        lines.append(Summary(
            policy, float(np.median(ratios)), float(np.percentile(ratios, 5)), min(ratios),
            float(np.median([row["value"] / kept_bound(rows[seed, BOUND], row["end_charge_frac"])
                             for seed, row in zip(seeds, mine, strict=True)])),
            float(np.median([row["value_accrued"] / rows[seed, BOUND]["value"]
                             for seed, row in zip(seeds, mine, strict=True)])),
            sum(bool(row["crossings"]) for row in mine),
            sum(seconds for row in mine for _, seconds, _ in row["crossings"].values()),
            sum(row["broken"] for row in mine),
            sum(state == "REFUSED" for row in mine for state in row["states"].values()), wanted,
            float(np.mean([row["switches"] for row in mine])),
            (float(np.median(times[:, 0])), float(times[:, 1].max()), float(times[:, 2].max()))))
    return lines


def losses(rows: Mapping[tuple[int, str], Row], policy: str, seeds: Sequence[int]) -> dict[str, float]:
    """Where a policy's value went, as shares of the bound's: what the bound takes of each job, by how the job ended.

    "gained" is finished value beyond the bound's share. The loss once more, by cause: "units_short" is what the
    policy's work, finished or not, falls short of the bound's at the bound's mean worth; of that "energy_short" is
    energy that its nodes did not draw, "charge_left" of it what stood in the battery at the end; the
    rest is work for a watt-hour (modes, restores). What units do not explain is selection and unfinished work.
    """
    total: Counter[str] = Counter()
    bound_value = 0.0
    for seed in seeds:
        bound, row = rows[seed, BOUND], rows[seed, policy]
        bound_value += bound["value"]
        total["units_short"] += bound["value"] * (1.0 - row["units"] / bound["units"])
        total["energy_short"] += bound["value"] * (1.0 - row["compute_wh"] / bound["compute_wh"])
        total["charge_left"] += bound["value"] * bound["capacity_wh"] / bound["compute_wh"] * (
            row["end_charge_frac"] - bound["end_charge_frac"])
        for job_id, fraction in bound["fractions"].items():
            state, value = row["states"].get(job_id, "NOT_SEEN"), bound["values"][job_id]
            if state == "FINISHED":
                total["gained"] -= value * (1.0 - fraction)
            else:
                total[state.lower()] += value * fraction
    return {name: amount / bound_value for name, amount in total.items()}


def table(lines: Sequence[Summary]) -> str:
    """Return the table as text."""
    head = (f"{'policy':26}{'value/bound':>12}{'p5':>7}{'least':>7}{'kept':>7}{'accrued':>9}{'crossed':>9}"
            f"{'seconds':>9}{'broken':>8}{'refused':>9}{'wanted':>8}{'switches':>10}{'decide ms p50/p99/max':>26}")
    body = [f"{s.policy:26}{s.ratio_median:12.3f}{s.ratio_p5:7.3f}{s.ratio_min:7.3f}{s.ratio_kept:7.3f}"
            f"{s.ratio_accrued:9.3f}{s.crossed_runs:9d}{s.crossed_s:9.0f}{s.broken:8d}{s.refused:9d}{s.refused_wanted:8d}{s.switches:10.0f}"
            f"{'{:.3f} / {:.2f} / {:.0f}'.format(*s.decide_ms):>26}" for s in lines]
    return "\n".join([head, *body])


def draw(lines: Sequence[Summary], rows: Mapping[tuple[int, str], Row], seeds: Sequence[int], title: str,
         path: Path) -> None:
    """Draw value over bound of every run, and promises broken, one line a policy."""
    import matplotlib as mpl  # noqa: PLC0415 # an extra

    mpl.use("Agg")
    from matplotlib.figure import Figure  # noqa: PLC0415 # an extra

    figure = Figure(figsize=(10.0, 1.5 + 0.32 * len(lines)), layout="constrained")
    value, broken = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    for place, line in enumerate(reversed(lines)):
        for crossed, colour in ((False, "tab:blue"), (True, "tab:red")):
            ratios = [rows[seed, line.policy]["value"] / rows[seed, BOUND]["value"] for seed in seeds
                      if bool(rows[seed, line.policy]["crossings"]) is crossed]
            value.scatter(ratios, [place] * len(ratios), s=14, color=colour, alpha=0.6)
        value.plot([line.ratio_median] * 2, [place - 0.35, place + 0.35], color="black")
        broken.barh(place, line.broken / len(seeds), color="tab:gray")
    value.set_yticks(range(len(lines)), [line.policy for line in reversed(lines)])
    value.axvline(1.0, color="black", linewidth=0.8)
    value.set_xlabel("value over bound; red: a limit was crossed; bar: median")
    broken.set_xlabel("promises broken in a run")
    figure.suptitle(title)
    figure.savefig(path)


# --- the command -------------------------------------------------------------------------------------


def add_command(commands: Commands) -> None:
    """Add `hil compare`."""
    parser = commands.add_parser(
        "compare", help="fly the brain and the baselines on the same seeds, held against the bound",
        description="Fly the flight brain and baselines on the same seeds without link and ground, and print value "
        "over the clairvoyant bound, limits crossed, promises broken, refusals and decision times.",
        epilog=f"Exit status: 0 done, 2 bad input or files, {EXIT_BOUND_WRONG} the bound is wrong, 130 interrupted.")
    parser.add_argument("scenario", metavar="SCENARIO", help="a scenario file, or the name of one of hil/scenarios")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="how many seeds (5)")
    parser.add_argument("--first-seed", type=int, default=1, metavar="S", help="the first of them (1)")
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), metavar="NAME",
                        help=f"which policies: {', '.join(POLICIES)}")
    parser.add_argument("--divisible", action="store_true", help="endless divisible work in place of the job stream")
    parser.add_argument("--duration", metavar="TIME", help='in place of the scenario\'s, like "8 orbits"')
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="P", help="processes (all cores)")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="where comparisons are kept (out)")
    parser.set_defaults(run=compare)


def compare(options: argparse.Namespace) -> int:
    """Run the command."""
    scenario = scenarios.load(scenarios.find(options.scenario), duration=options.duration)
    for policy in options.policies:
        levels, _, rest = policy.partition("-")
        if policy != FLIGHT and (levels not in baselines.LEVELS or rest.split("-")[0] not in baselines.ORDERS):
            raise ConfigError("--policies", f"{policy!r} is not known; known: {', '.join(POLICIES)}")
    if options.seeds < 1 or options.jobs < 1:
        raise ConfigError("--seeds, --jobs", f"{options.seeds} and {options.jobs}: at least 1 is expected")
    if not options.divisible and scenario.jobs is None:
        raise ConfigError(str(scenario.path), "has no [jobs]; add --divisible for endless work")
    name = f"compare-{scenario.id}{'-divisible' if options.divisible else ''}"
    folder = options.out / name
    folder.mkdir(parents=True, exist_ok=True)
    seeds = list(range(options.first_seed, options.first_seed + options.seeds))
    policies = list(dict.fromkeys(options.policies))
    tasks = [Task(str(scenario.path), options.duration, seed, policy, options.divisible)
             for seed in seeds for policy in (BOUND, *policies)]
    key = fingerprint(scenario, divisible=options.divisible)
    rows = collect(tasks, key, folder / "results.jsonl", options.jobs)
    rows = {(task.seed, task.policy): rows[task.seed, task.policy] for task in tasks}
    lines = summarise(rows, policies, seeds)
    wrong = violations(rows)
    lost = {} if options.divisible else {policy: losses(rows, policy, seeds) for policy in policies}
    title = f"{scenario.description}; {len(seeds)} seeds from {seeds[0]}"
    run.write_json(folder / "results.json", {
        "scenario": scenario.id, "key": key, "divisible": options.divisible, "seeds": [float(seed) for seed in seeds],
        "policies": {line.policy: line._asdict() for line in lines}, "lost": lost, "bound_wrong": wrong,
        "bound_solve_s": max(rows[seed, BOUND]["solve_s"] for seed in seeds),
    })
    draw(lines, rows, seeds, title, folder / "compare.svg")
    print(title)
    print(table(lines))
    if FLIGHT in lost:
        shares = ", ".join(f"{name} {share:+.3f}" for name, share in sorted(lost[FLIGHT].items()))
        print(f"flight's loss against the bound, by what became of the bound's jobs: {shares}")
    print(f"written to {folder}")
    for line in wrong:
        print(f"ERROR: {line}", file=sys.stderr)
    return EXIT_BOUND_WRONG if wrong else 0

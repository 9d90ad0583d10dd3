"""`hil channels`: lose every telemetry channel in turn, in every way, at its worst moment; the truth judges limits.

For each sensor that the mission fits: first a healthy flight tells when the true value was about to rise and to
fall the most; then the scenario is flown once more for each of these moments and each way to fail, from
there to the end. Flies the lean loop (`hil.lean`), one task a flight, over the machine's cores. A healthy flight
also counts false alarms: sensors that were doubted though nothing was wrong with them.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from flightsw.dictionary.sensors import SENSORS, fitted_names
from flightsw.errors import ConfigError
from flightsw.mission import Mission
from flightsw.physics.forecast import Forecaster
from flightsw.state import Decision, Estimate, Inputs
from hil import lean, run
from hil import scenario as scenarios
from hil.plant.sensors import SensorFault
from hil.scenario import FaultStep

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

KINDS = ("dropout", "stuck", "nan")
MOMENTS = ("rise", "fall")
SCENARIO = "brain/overload15_iss"
EXIT_CROSSED = 1
_AHEAD_S = 1800  # a channel's worst moment is the one before the largest change within this time
_SETTLED_S = 3600  # before this the run is not what it will be
_HEALTHY = SensorFault(0.0, 0.0, "", "", 0.0)


class Task(NamedTuple):
    """One flight; a fault of no kind is a healthy one."""

    scenario: str
    duration: str
    seed: int
    fault: SensorFault


class Outcome(NamedTuple):
    """What became of one flight. `noticed_s` is how long after the fault the sensor counted as lost."""

    task: Task
    crossed: tuple[str, ...]
    noticed_s: float | None
    lost: tuple[str, ...]
    broken: int
    compute_wh: float
    failed_ticks: int


class _Listening:
    """The flight brain, and what it said of lost sensors."""

    def __init__(self, policy: lean.Policy) -> None:
        self._policy = policy
        self.lost: list[tuple[float, str, str]] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._policy, name)

    def decide(self, estimate: Estimate, inputs: Inputs) -> Decision:
        """See `lean.Policy`."""
        decision = self._policy.decide(estimate, inputs)
        self.lost.extend((inputs.now_s, str(event.args[0]), str(event.args[1]))
                         for event in decision.events if event.name == "sensor_lost")
        return decision


@functools.lru_cache(maxsize=1)
def _world(path: str, duration: str, seed: int) -> lean.World:
    scenario = scenarios.load(Path(path), seed=seed, duration=duration)
    return lean.World.of(scenario, run.surroundings(scenario))


def _fly(task: Task) -> tuple[lean.Flown, _Listening]:
    world = _world(task.scenario, task.duration, task.seed)
    fault = task.fault
    if fault.kind:
        faults = (*world.scenario.faults, FaultStep.of_sensor(fault))
        world = replace(world, scenario=replace(world.scenario, faults=faults))
    listening: list[_Listening] = []

    def make(mission: Mission, forecaster: Forecaster) -> lean.Policy:
        listening.append(_Listening(lean.flight_brain(mission, forecaster)))
        return listening[0]  # type: ignore[return-value] # passes on all that it is not

    return lean.fly(world, make), listening[0]


def fly(task: Task) -> Outcome:
    """Fly one task."""
    flown, listening = _fly(task)
    fault = task.fault
    noticed = [at_s - fault.from_s for at_s, name, _ in listening.lost if name == fault.sensor]
    crossed = tuple(f"{c.limit} by {c.depth:.3g} {c.unit} for {c.seconds:.0f} s" for c in flown.crossings if c.count)
    lost = tuple(f"{name} {quality} at T+{at_s:.0f} s" for at_s, name, quality in listening.lost
                 if name != fault.sensor)
    return Outcome(task, crossed, noticed[0] if noticed else None, lost, flown.tally.broken, flown.compute_wh,
                   flown.failures)


def worst_moments(values: npt.NDArray[np.float64]) -> dict[str, float]:
    """When the truth is about to rise and to fall the most, s; `values` has one a second."""
    ahead = min(_AHEAD_S, len(values) // 4)
    first = min(_SETTLED_S, len(values) // 4)
    windows = np.lib.stride_tricks.sliding_window_view(values, ahead)[first:]
    now = values[first:first + len(windows)]
    return {"rise": float(first + np.argmax(windows.max(axis=1) - now)),
            "fall": float(first + np.argmax(now - windows.min(axis=1)))}


def healthy(task: Task) -> tuple[Outcome, dict[str, dict[str, float]]]:
    """Fly without a fault; return the outcome and each channel's worst moments."""
    flown, _ = _fly(task)
    world = _world(task.scenario, task.duration, task.seed)
    names = fitted_names(world.truth.compute.nodes)
    moments = {name: worst_moments(np.asarray(flown.trace[name], np.float64)) for name in names}
    return fly(task), moments


def tasks_of(task: Task, moments: dict[str, dict[str, float]], channels: Sequence[str],
             kinds: Sequence[str] = KINDS) -> list[Task]:
    """One task for each channel, way to fail and moment."""
    end_s = scenarios.DURATION_MAX_S
    return [task._replace(fault=SensorFault(moments[name][when], end_s, name, kind, 0.0))
            for name in channels for kind in kinds for when in MOMENTS]


def table(outcomes: Sequence[Outcome], healthy_wh: float) -> str:
    """Return one line a channel and way to fail: limits crossed, when it was noticed, what compute was left."""
    head = (f"{'channel':18}{'fails':9}{'at T+ s':>14}{'crossed':>9}{'noticed after s':>17}{'promises broken':>17}"
            f"{'compute':>9}")
    order = {row.name: i for i, row in enumerate(SENSORS)}
    lines = []
    for kind_of in sorted({(o.task.fault.sensor, o.task.fault.kind) for o in outcomes},
                          key=lambda key: (order[key[0]], KINDS.index(key[1]))):
        mine = sorted((o for o in outcomes if (o.task.fault.sensor, o.task.fault.kind) == kind_of),
                      key=lambda o: o.task.fault.from_s)
        at = " ".join(f"{o.task.fault.from_s:.0f}" for o in mine)
        noticed = " ".join("never" if o.noticed_s is None else f"{o.noticed_s:.0f}" for o in mine)
        lines.append(f"{kind_of[0]:18}{kind_of[1]:9}{at:>14}{sum(bool(o.crossed) for o in mine):9d}{noticed:>17}"
                     f"{sum(o.broken for o in mine):17d}{min(o.compute_wh for o in mine) / healthy_wh:9.2f}")
    return "\n".join([head, *lines])


def problems(outcome: Outcome) -> list[str]:
    """What must not be: a limit crossed, a tick failed, another sensor doubted than the one that failed."""
    fault = outcome.task.fault
    who = f"{fault.sensor} {fault.kind} from T+{fault.from_s:.0f} s" if fault.kind else "healthy"
    found = [f"{who}: {crossing}" for crossing in outcome.crossed]
    if outcome.failed_ticks:
        found.append(f"{who}: {outcome.failed_ticks} ticks failed")
    found.extend(f"{who}: false alarm: {name}" for name in outcome.lost if "IMPLAUSIBLE" in name)
    return found


# --- the command -------------------------------------------------------------------------------------


def add_command(commands: Commands) -> None:
    """Add `hil channels`."""
    parser = commands.add_parser(
        "channels", help="lose every telemetry channel in turn, in every way; count limits crossed",
        description="Fly a scenario once for each sensor, each way to fail (dropped, stuck, NaN) and each of its two "
        "worst moments: before its largest rise and its largest fall. The true satellite says which limits were "
        "crossed.",
        epilog=f"Exit status: 0 no limit crossed and no false alarm, {EXIT_CROSSED} otherwise, 2 bad input or files, "
        "130 interrupted.")
    parser.add_argument("scenario", metavar="SCENARIO", nargs="?", default=SCENARIO,
                        help=f"a scenario file, or the name of one of hil/scenarios ({SCENARIO})")
    parser.add_argument("--duration", default="8 h", metavar="TIME", help="how long each flight is (8 h)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of the scenario (1)")
    parser.add_argument("--channels", nargs="+", metavar="NAME", help="only these sensors")
    parser.add_argument("--faults", nargs="+", choices=KINDS, default=list(KINDS), help="only these ways to fail")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), metavar="P", help="processes (2)")
    parser.set_defaults(run=channels)


def channels(options: argparse.Namespace) -> int:
    """Run the command."""
    from tqdm import tqdm  # noqa: PLC0415 # an extra

    path = scenarios.find(options.scenario)
    scenario = scenarios.load(path, seed=options.seed, duration=options.duration)
    fitted = fitted_names(scenario.mission.compute.nodes)
    unknown = [name for name in options.channels or () if name not in fitted]
    if unknown or options.jobs < 1:
        raise ConfigError("--channels, --jobs", f"{', '.join(unknown) or options.jobs}: expected are some of "
                          f"{', '.join(fitted)}, and at least 1 process")
    task = Task(str(path), options.duration, options.seed, _HEALTHY)
    first, moments = healthy(task)
    tasks = tasks_of(task, moments, options.channels or fitted, options.faults)
    with ProcessPoolExecutor(options.jobs) as pool, tqdm(total=len(tasks), unit="flight", disable=None) as bar:
        outcomes = []
        for done in as_completed([pool.submit(fly, each) for each in tasks]):
            outcomes.append(done.result())
            bar.update(1)
    print(f"{scenario.description}; seed {options.seed}, {scenario.duration_s / 3600.0:.1f} h a flight; compute is the "
          f"least share of a healthy flight's {first.compute_wh:.0f} Wh")
    print(table(outcomes, first.compute_wh))
    wrong = [line for outcome in (first, *outcomes) for line in problems(outcome)]
    print(f"{len(outcomes)} flights, {sum(bool(o.crossed) for o in outcomes)} with a limit crossed, "
          f"{sum('false alarm' in line for line in wrong)} false alarms")
    for line in wrong:
        print(line)
    return EXIT_CROSSED if wrong else 0

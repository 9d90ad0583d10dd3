"""What a user's own bench test holds in its hands: a rig, its satellite and its ground station.

Behind the fixtures of `hil.pytest_plugin`, and fit for a script as well. Everything is in virtual time: it moves when
the test says so, and the same test does the same every time. It judges nothing by itself but the time that it waits.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flightsw.dictionary.commands import parse_text_argument
from flightsw.errors import ConfigError
from flightsw.state import Decision
from ground.archive import EventEntry
from ground.station import CommandState, command_row
from hil.checks import ExpressionError, parse
from hil.faults import LIBRARY
from hil.run import Flight, Run
from hil.scenario import FaultStep, find, load, seconds
from hil.signals import catalogue


class Rig:
    """One scenario on the bench, moved on by the test. Times are texts like "10 min", or seconds."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._known = catalogue(run.scenario.truth.compute.nodes, [step.id for step in run.scenario.faults])
        self._injected = 0

    @property
    def now_s(self) -> float:
        """Time since the start."""
        return self._run.now_s

    @property
    def decision(self) -> Decision | None:
        """What the flight software decided last; None where that tick failed."""
        return self._run.decision

    def run(self, lasts: float | str) -> None:
        """Fly on for a while. Raises ConfigError beyond the scenario's end."""
        end_s = self._run.now_s + self._seconds(lasts)
        if end_s > self._run.ticks:
            raise ConfigError(self._run.scenario.id, f"T+{end_s:.0f} s is beyond its end at T+{self._run.ticks} s: "
                              "give it a longer duration")
        while self._run.now_s < end_s:
            self._run.tick()

    def until(self, condition: str, within: float | str) -> float:
        """Fly on until a condition over signals is true; return how long that took, s. AssertionError where it is not.

        The condition may name what is known in flight: truth, telemetry, decisions, link.
        """
        try:
            expression = parse(condition, self._known)
        except ExpressionError as error:
            raise ConfigError("until", str(error)) from error
        if not expression.live:
            raise ConfigError("until", f"{condition!r}: events, metrics and functions over time are known afterwards")
        since_s = self._run.now_s
        end_s = min(since_s + self._seconds(within), self._run.ticks)
        while not expression.is_true_now(self._run.live):
            if self._run.now_s >= end_s:
                raise AssertionError(f"{condition!r} was not true within {within}, until T+{end_s:.0f} s")
            self._run.tick()
        return self._run.now_s - since_s

    def value(self, signal: str) -> float:
        """Present value of a signal, NaN where it has none; KeyError where there is no such signal."""
        if signal not in self._known:
            raise KeyError(signal)
        return float(self._run.live[signal][-1])

    def inject(self, kind: str, target: str = "", lasts: float | str = math.inf, **values: float) -> str:
        """Begin a fault of the library now; return its id. ConfigError names a wrong kind, target or value."""
        row = LIBRARY.get(kind)
        if row is None or row.part not in self._run.injector.parts or row.effect is None:
            raise ConfigError("inject", f"no fault {kind!r} on bench {self._run.bench}; hil faults lists them")
        targets = row.targets(self._run.scenario.truth.compute.nodes) or ("",)
        if target not in targets:
            raise ConfigError("inject", f"{kind}: target {target!r}, expected is one of {', '.join(targets) or 'none'}")
        given = {param.name: values.get(param.name, param.default) for param in row.params}
        for param in row.params:
            value = given[param.name]
            if value is None or not param.low <= value <= param.high:
                raise ConfigError("inject", f"{kind}: {param.name} = {value}, range {param.low:g}..{param.high:g} "
                                            f"{param.unit}")
        if unknown := values.keys() - given.keys():
            raise ConfigError("inject", f"{kind} has no parameter {', '.join(sorted(unknown))}")
        self._injected += 1
        name = f"injected{self._injected}"
        injector = self._run.injector
        injector.now_s = self._run.now_s
        amounts = {key: float(value) for key, value in given.items() if value is not None}
        injector.inject(FaultStep(name, kind, target, amounts, None, self._seconds(lasts)))
        return name

    def finish(self) -> Flight:
        """End the run here and judge it: findings, metrics, verdict."""
        return self._run.finish()

    def _seconds(self, lasts: float | str) -> float:
        return seconds(lasts, self._run.scenario.orbit_s) if isinstance(lasts, str) else float(lasts)


class Satellite:
    """The true satellite: `satellite.plate_c` is the signal `truth.plate_c` now."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def __getattr__(self, name: str) -> float:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._rig.value(f"truth.{name}")
        except KeyError as error:
            raise AttributeError(f"no signal truth.{name}") from error


class Ground:
    """The ground station of the rig."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def send(self, words: str) -> int:
        """Send a telecommand as `ground send` takes it; return its request id. Raises LinkError or ValueError."""
        verb, *arguments = shlex.split(words)
        row = command_row(verb)
        values = tuple(parse_text_argument(arg, word) for arg, word in zip(row.args, arguments, strict=True))
        return self._run.operator.send(verb, values, self._run.now_s)

    def state(self, request: int) -> str:
        """How far a telecommand got: sent, accepted, completed, rejected, ..."""
        return self._run.operator.state(request).value

    @property
    def sent(self) -> int:
        """Telecommands sent so far, the script's included."""
        return len(self._run.operator.requests)

    @property
    def completed(self) -> int:
        """Telecommands that were carried out."""
        return self._run.operator.count(CommandState.COMPLETED)

    def latest(self, point: str) -> float | None:
        """Newest telemetry of a point; None where it was never received, or travelled as missing."""
        sample = self._run.operator.station.latest(point)
        return None if sample is None or sample.value is None else float(sample.value)

    def events(self, name: str = "", words: str = "") -> list[EventEntry]:
        """Events received so far, of that name and with those words in their text."""
        self._run.archive.flush()
        return [event for event in self._run.archive.events() if name in ("", event.name) and words in event.text]

    def heard(self, name: str, words: str = "") -> bool:
        """Tell whether such an event was received."""
        return bool(self.events(name, words))


@contextmanager
def bench(scenario: str | Path, folder: Path, *, seed: int | None = None, duration: str | None = None
          ) -> Iterator[tuple[Rig, Satellite, Ground]]:
    """Put a scenario (a file, or the name of one of the rig's own) on the bench; `folder` must be empty."""
    with Run(load(find(str(scenario)), seed=seed, duration=duration), folder) as run:
        rig = Rig(run)
        yield rig, Satellite(rig), Ground(run)

"""Every signal that checks and conditions may name: its unit, and where its values come from.

`hil.scenario` asks for names and units before anything flies; a bench fills a `Record` with what it saw. All
columns are on the ticks of the run. A value that was not there is NaN, never a number: telemetry before it was first
received or while its sensor is missing, decisions of a tick that was not flown.

    truth.NAME      the true satellite, every tick
    NAME            flight telemetry as the ground has it, held from its on-board stamp to the next
    decision.NAME   what the flight software decided, every tick
    flight.NAME     the supervisor as a process: starts, failed ticks
    link.NAME       counters of line and station
    parameter.NAME  the mission's parameters, as they stood at the start
    fault.ID        1 while that fault of the scenario is on
    metric.NAME     what the run was worth; known at its end, for `final` only
    t_s             seconds since the start
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from flightsw.dictionary.events import BY_NAME as EVENT_BY_NAME
from flightsw.dictionary.parameters import PARAMETERS
from flightsw.dictionary.sensors import INDEX, SENSORS, fitted_names
from flightsw.dictionary.telemetry import HOUSEKEEPING
from flightsw.state import Mode

Column = npt.NDArray[np.float64]

MODE_UNIT = "mode"
"""Unit of a spacecraft mode: compared with the modes' names only."""

METRICS: Mapping[str, str] = {
    "promises_made": "jobs", "promises_broken": "jobs", "jobs_offered": "jobs", "jobs_finished": "jobs",
    "jobs_refused": "jobs", "jobs_open_at_end": "jobs", "value_finished": "", "value_offered": "",
    "work_finished_units": "", "limits_crossed": "", "failed_ticks": "", "sheds": "", "energy_harvested_wh": "Wh",
    "energy_used_wh": "Wh", "energy_compute_wh": "Wh", "energy_unmet_wh": "Wh", "ground_passes": "",
    "telecommands_sent": "", "telecommands_completed": "", "telecommands_refused": "", "telecommands_unanswered": "",
    "telemetry_packets": "", "power_mode_changes": "", "tx_s": "s",
}
"""Metrics of a run (`run.json`) that a `final` check may name, with their units."""

_DECISION = {"mode": MODE_UNIT, "budget_w": "W", "shed": "", "alive": "", "working_nodes": "", "cap_max_w": "W"}
_FLIGHT = {"boots": "", "failed_ticks": "", "running": ""}
_LINK = {"telemetry_packets": "", "frames_lost": "", "frames_bad": "", "silence_s": "s", "bits_flipped": "",
         "octets_lost": "", "octets_overrun": "", "commands_sent": "", "commands_completed": "", "commands_refused": ""}


class Signal(NamedTuple):
    """One signal; `live` is true where its value is known while the run goes on."""

    unit: str
    live: bool


def catalogue(nodes: int, faults: Iterable[str] = ()) -> dict[str, Signal]:
    """Return all signals of a satellite with `nodes` compute nodes and these faults."""
    fitted = fitted_names(nodes)
    truth = {name: SENSORS[INDEX[name]].unit for name in fitted}
    truth |= {"array_available_w": "W", "tx_w": "W", "heater_w": "W", "die_max_c": "degC", "payload_w": "W",
              "in_eclipse": "", "in_contact": ""}
    truth |= {f"node{i}_mode": "" for i in range(nodes)}
    decision = _DECISION | {f"node{i}_cap_w": "W" for i in range(nodes)} | {f"node{i}_job": "" for i in range(nodes)}
    absent = {row.name for row in SENSORS} - set(fitted)
    telemetry = {point.name: MODE_UNIT if point.enum is Mode else point.unit
                 for row in HOUSEKEEPING for point in row.points
                 if point.name not in absent and not point.name.startswith(tuple(f"node{i}_" for i in range(nodes, 8)))}
    groups = (("truth.", truth, True), ("", telemetry, True), ("decision.", decision, True),
              ("flight.", _FLIGHT, True), ("link.", _LINK, True),
              ("parameter.", {row.name: row.unit for row in PARAMETERS}, True),
              ("fault.", dict.fromkeys(faults, ""), True), ("metric.", METRICS, False), ("", {"t_s": "s"}, True))
    return {prefix + name: Signal(unit, live) for prefix, names, live in groups for name, unit in names.items()}


class Stamped(Protocol):
    """An event report as the archive keeps it."""

    @property
    def obt_s(self) -> float:
        """On-board time of the event."""

    @property
    def name(self) -> str:
        """Its row in the dictionary."""

    @property
    def text(self) -> str:
        """Its text with arguments."""


class Record:
    """Columns of one run, made when they are first asked for; `ticks` is their length.

    `sources` makes the column of a name that is not there yet; KeyError where it cannot.
    """

    def __init__(self, ticks: int, sources: Callable[[str], npt.ArrayLike], events: Sequence[Stamped] = (),
                 start_unix_s: float = 0.0) -> None:
        self.ticks = ticks
        self._sources = sources
        self._events = events
        self._start_unix_s = start_unix_s
        self._columns: dict[str, Column] = {"t_s": np.arange(ticks, dtype=np.float64)}

    def __getitem__(self, name: str) -> Column:
        """Return one signal's column; a constant fills it."""
        column = self._columns.get(name)
        if column is None:
            column = np.asarray(self._sources(name), np.float64)
            column = self._columns[name] = np.full(self.ticks, float(column)) if column.ndim == 0 else column
        return column

    def events(self, name: str, words: str) -> Column:
        """Return how many events `name` whose text contains `words` were stamped by each tick."""
        at = [min(max(0, math.ceil(event.obt_s - self._start_unix_s - 1e-6)), self.ticks)
              for event in self._events if event.name == name and words in event.text]
        return np.cumsum(np.bincount(at, minlength=self.ticks + 1)[: self.ticks]).astype(np.float64)


def held(samples: Iterable[tuple[float, float | int | None]], start_unix_s: float, ticks: int) -> Column:
    """Hold telemetry samples (on-board time, value) until the next one; NaN before the first and while missing."""
    if not (rows := list(samples)):
        return np.full(ticks, np.nan)
    since = np.array([math.ceil(obt_s - start_unix_s - 1e-6) for obt_s, _ in rows])
    values = np.array([math.nan, *(math.nan if value is None else float(value) for _, value in rows)])
    return values[np.searchsorted(since, np.arange(ticks), side="right")]


def is_event(name: str) -> bool:
    """Tell whether the dictionary has this event."""
    return name in EVENT_BY_NAME

"""What the console knows: an archive, read on as it grows.

Owns the operator's picture of the satellite: latest values, trends, jobs, events, commands. It follows an archive and
nothing else, so all that it shows is in the file, a session under way and a replayed one look the same, and any
number of consoles can follow one watcher. Time is passed in; it draws nothing and sends nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flightsw.dictionary import parameters
from flightsw.dictionary.telemetry import HOUSEKEEPING, unpack_housekeeping
from flightsw.errors import LinkError
from flightsw.link.packets import unpack_tm
from flightsw.link.services import STAGE_FAILED, STAGE_NOT_ACCEPTED
from flightsw.state import Mode
from ground.archive import Archive, CommandEntry, EventEntry, PacketRow, Series
from ground.passes import Sky
from ground.station import HousekeepingReport, state_after
from ground.watch import is_stale

TRENDS = ("battery_soc_frac", "sun_frac", "array_w", "bus_w", "budget_w", "plate_c", "radiator_c", "battery_c",
          "bus_c", "array_c", *(f"die{i}_c" for i in range(8)), *(f"node{i}_w" for i in range(8)))
TREND_S = 2.5 * 3600.0
"""How far back trends reach."""

_KEPT = 1000
_WHERE = {point.name: (row.sid, i) for row in HOUSEKEEPING for i, point in enumerate(row.points)}
_MODE_ROW = next(row for row in HOUSEKEEPING if any(point.name == "mode" for point in row.points))
_REJECTED = (STAGE_NOT_ACCEPTED, STAGE_FAILED)
_OPEN = ("queued", "promised", "running", "held")
_STATE_OF_EVENT = {
    "job_queued": "queued", "job_promised": "promised", "job_refused": "refused", "job_started": "running",
    "job_finished": "finished", "job_failed": "failed", "job_withdrawn": "withdrawn", "job_cancelled": "cancelled",
    "job_expired": "expired", "job_held": "held", "job_resumed": "running",
}


class Job(NamedTuple):
    """One job as events told of it: state, what was said last, when, and until when it is promised (mission time)."""

    job_id: int
    name: str
    state: str
    text: str
    obt_s: float
    due_s: float | None = None
    node: int | None = None

    @property
    def is_open(self) -> bool:
        """True while something is still to happen to it."""
        return self.state in _OPEN


class Ahead(NamedTuple):
    """The on-board forecast as received: charge and hottest junction under the plan, and in the worst case."""

    made_s: float
    charge: Series
    charge_worst: Series
    hottest: Series
    hottest_worst: Series


class _Trend:
    """Samples of one point, at most one a second."""

    def __init__(self) -> None:
        self.samples: deque[tuple[float, float]] = deque()

    def add(self, obt_s: float, value: float) -> None:
        samples = self.samples
        if samples and obt_s < samples[-1][0]:
            return  # an older one that was stored and sent late is in the archive
        if samples and int(samples[-1][0]) == int(obt_s):
            samples[-1] = (obt_s, value)
        else:
            samples.append((obt_s, value))
        while samples[0][0] < obt_s - TREND_S:
            samples.popleft()


class Model:
    """The picture at `now_s` (Unix) of what `archive` held then; `refresh` moves it on."""

    def __init__(self, archive: Archive, sky: Sky | None = None, *, by_satellite: bool = False) -> None:
        """With `by_satellite`, passes are by the satellite's clock: that of a rig is not of our days."""
        self.archive = archive
        self.sky = sky
        self._by_satellite = by_satellite
        self.now_s = -math.inf
        self.heard_s: float | None = None
        self.packets = 0  # taken since the console began
        self.undecoded = 0
        self.last_id = 0
        self.received: dict[int, HousekeepingReport] = {}
        self.parameters: dict[str, float] = {}
        self.events: deque[EventEntry] = deque(maxlen=_KEPT)
        self.jobs: dict[int, Job] = {}
        self.commands: list[CommandEntry] = []
        self.ahead: Ahead | None = None
        self.revision = 0  # counts what came
        self._names: dict[int, str] = {}
        self._trends = {name: _Trend() for name in TRENDS if name in _WHERE}
        self._event_id = 0
        self._mode_event: EventEntry | None = None  # the newest change
        self._mission_start_s = math.inf if sky is None or sky.start_s is None else sky.start_s
        self._commands_s = -math.inf

    # -- moving on

    def start(self, now_s: float) -> None:
        """Take in what the archive held before `now_s`, without reading it packet by packet."""
        self.last_id = self.archive.packet_before(now_s)
        for row in self.archive.packets_after(max(0, self.last_id - 4000), min(4000, self.last_id)):
            self._take(row)
        if self.received:
            obt_s = max(report.obt_s for report in self.received.values())
            for name, trend in self._trends.items():
                if name in self.archive.points:
                    found = self.archive.decimated(name, obt_s - TREND_S, math.nextafter(obt_s, math.inf), 2000)
                    trend.samples.clear()
                    for at_s, value in zip(found.obt_s.tolist(), found.values.tolist(), strict=True):
                        trend.add(at_s, value)
        self.packets = 0
        self._refresh_others(now_s)
        self.now_s = now_s
        self.revision += 1

    def refresh(self, now_s: float) -> bool:
        """Take in what was received up to `now_s`; True when anything came."""
        if now_s < self.now_s:
            return False
        before, came = self.revision, False
        while True:
            rows = self.archive.packets_after(self.last_id)
            for row in rows:
                if row.received_s > now_s:
                    break
                self._take(row)
                self.last_id = row.packet_id
                came = True
            else:
                if rows:
                    continue
            break
        if came or now_s - self._commands_s >= 1.0:
            self._refresh_others(now_s)
        self.now_s = now_s
        self.revision += came
        return self.revision != before

    def _take(self, row: PacketRow) -> None:
        self.packets += 1
        if self.heard_s is None or row.received_s > self.heard_s:
            self.heard_s = row.received_s
        if (row.service, row.subservice) != (3, 25):
            return
        try:
            tm = unpack_tm(row.octets)
            structure, values = unpack_housekeeping(tm.data)
        except LinkError:
            self.undecoded += 1
            return
        report = HousekeepingReport(row.received_s, tm.obt_s, structure, values)
        self.received[structure.sid] = report
        for point, value in zip(structure.points, values, strict=True):
            trend = self._trends.get(point.name)
            if trend is not None:
                trend.add(tm.obt_s, float(value))
        if structure.name == "ahead_curves":
            self._foresee(report)

    def _foresee(self, report: HousekeepingReport) -> None:
        values = dict(zip((point.name for point in report.row.points), report.values, strict=True))
        made_s, step_s = values["ahead_made_s"], values["ahead_step_s"]
        if not (math.isfinite(made_s) and math.isfinite(step_s) and step_s > 0.0):
            return
        # Mission time is told by the forecast that was sent soonest after it was made, where no mission file tells it.
        self._mission_start_s = min(self._mission_start_s, report.obt_s - made_s)
        count = sum(name.startswith("ahead") and name.endswith("_frac") for name in values)
        times = np.asarray(self._mission_start_s + made_s + step_s * np.arange(1, count + 1), np.float64)
        curves = [Series(times, np.array([float(values[f"{kind}{i}_{unit}"]) for i in range(count)]))
                  for unit in ("frac", "c") for kind in ("ahead", "worst")]
        self.ahead = Ahead(times[0] - step_s, *curves)

    def _refresh_others(self, now_s: float) -> None:
        self._commands_s = now_s
        last = self.last_id
        commands = [_as_of(entry, now_s) for entry in self.archive.newest_commands(math.nextafter(now_s, math.inf))]
        if commands != self.commands:
            self.commands = commands
            self.revision += 1
            for entry in commands:
                if entry.verb == "job.submit" and len(entry.args) > 1:
                    self._names[int(entry.args[0])] = str(entry.args[1])
                    self._note_rejection(entry)
        for event in self.archive.newest_events(self._event_id, last, _KEPT):
            self._event_id = event.event_id
            self.events.append(event)
            self._note_job(event)
            if event.name == "mode_changed":
                self._mode_event = event
        self.parameters = self.archive.parameters(last)

    def _note_rejection(self, entry: CommandEntry) -> None:
        """Put a submission that the satellite did not take onto the board: it is where its owner looks."""
        job_id = int(entry.args[0])
        wrong = next((stage for stage in entry.stages if stage.stage in _REJECTED), None)
        if wrong is not None and job_id not in self.jobs:
            self.jobs[job_id] = Job(job_id, "", "rejected", f"Job {job_id} rejected: {wrong.text}", wrong.received_s)

    def _note_job(self, event: EventEntry) -> None:
        if event.name == "bundle_accepted":
            self._names[int(event.args[1] or 0)] = f"{event.args[3]} of {event.args[2]}"
        state = _STATE_OF_EVENT.get(event.name)
        if state is None:
            return
        job_id = int(event.args[0] or 0)
        before = self.jobs.get(job_id)
        due = event.args[1] if event.name == "job_promised" else before.due_s if before else None
        node = event.args[1] if event.name in {"job_started", "job_resumed"} else None
        self.jobs[job_id] = Job(job_id, self._names.get(job_id, ""), state, event.text, event.obt_s,
                                None if due is None else float(due), None if node is None else int(node))

    # -- asking

    def limit(self, parameter: str) -> float:
        """Return the value of an on-board parameter as reported last, or else the dictionary's default."""
        return self.parameters.get(parameter, parameters.BY_NAME[parameter].default)

    def value(self, point: str) -> tuple[float | int | None, bool]:
        """Return the latest value of a point, None where missing or never received, and whether it is stale."""
        where = _WHERE.get(point)
        report = self.received.get(where[0]) if where else None
        if where is None or report is None:
            return None, False
        value = report.values[where[1]]
        return value if math.isfinite(value) else None, self.is_stale(report)

    def mode(self) -> tuple[Mode | None, bool]:
        """Return the mode, by its latest report or a change told since, and whether that is stale."""
        value, stale = self.value("mode")
        row, told = _MODE_ROW, self._mode_event
        report = self.received.get(row.sid)
        if told is not None and str(told.args[1]) in Mode.__members__ and (report is None or told.obt_s > report.obt_s):
            return Mode[str(told.args[1])], is_stale(row, told.received_s, self.now_s)
        return None if value is None or value not in set(Mode) else Mode(int(value)), stale

    def is_stale(self, report: HousekeepingReport) -> bool:
        """Return whether a structure has been silent too long."""
        return is_stale(report.row, report.received_s, self.now_s)

    def name_of(self, job: Job) -> str:
        """Return a job's name where it was ever told."""
        return job.name or self._names.get(job.job_id, "")

    def utc_of(self, mission_s: float) -> float | None:
        """Return a mission time (T+) as Unix seconds, None while it is not known what T+0 was."""
        return self._mission_start_s + mission_s if math.isfinite(self._mission_start_s) else None

    @property
    def obt_s(self) -> float:
        """On-board time now, as far as known: plots are in the satellite's time."""
        newest = max(self.received.values(), key=lambda report: report.received_s, default=None)
        return self.now_s if newest is None else newest.obt_s + max(0.0, self.now_s - newest.received_s)

    @property
    def sky_s(self) -> float:
        """The time by which passes are told."""
        return self.obt_s if self._by_satellite else self.now_s

    def trend(self, point: str) -> Series:
        """Return the recent samples of a point of `TRENDS`."""
        found = self._trends.get(point)
        samples = np.array(found.samples if found else (), np.float64).reshape(-1, 2)
        return Series(samples[:, 0], samples[:, 1])

    def hottest(self) -> Series:
        """Return the recent temperature of the hottest junction."""
        found = [self.trend(f"die{i}_c") for i in range(8)]
        known = [series for series in found if series.obt_s.size and np.isfinite(series.values).any()]
        if not known or any(series.obt_s.size != known[0].obt_s.size for series in known):
            return known[0] if known else Series(np.empty(0), np.empty(0))
        return Series(known[0].obt_s, np.fmax.reduce([series.values for series in known]))

    def nodes_w(self) -> Series:
        """Return the recent draw of all nodes together; missing where any fitted node's is."""
        found = [self.trend(f"node{i}_w") for i in range(8)]
        known = [series for series in found if series.obt_s.size and np.isfinite(series.values).any()]
        if not known or any(series.obt_s.size != known[0].obt_s.size for series in known):
            return Series(np.empty(0), np.empty(0))
        return Series(known[0].obt_s, np.sum([series.values for series in known], axis=0))

    def eclipses(self, since_s: float, until_s: float) -> list[tuple[float, float]]:
        """Return eclipses in a window: predicted from the elements, else as the sun sensor saw them."""
        if self.sky is not None:
            return self.sky.eclipses(since_s, until_s)
        sun = self.trend("sun_frac")
        dark = np.flatnonzero(np.diff(np.concatenate(([0], (sun.values < 0.5).astype(np.int8), [0]))))
        ends = np.append(sun.obt_s, sun.obt_s[-1:])
        seen = [(float(ends[a]), float(ends[b])) for a, b in zip(dark[::2], dark[1::2], strict=True)]
        return [(a, b) for a, b in seen if b > since_s and a < until_s]


def _as_of(entry: CommandEntry, now_s: float) -> CommandEntry:
    """Return a command as it stood at a time: what a replay shows."""
    stages = tuple(stage for stage in entry.stages if stage.received_s <= now_s)
    return entry if len(stages) == len(entry.stages) else entry._replace(
        stages=stages, state=state_after(stage.stage for stage in stages))


def open_jobs(jobs: Sequence[Job]) -> list[Job]:
    """Return jobs in the order of a board: running, promised, held, queued, then the latest of the others."""
    order = {"running": 0, "promised": 1, "held": 2, "queued": 3}
    return sorted(jobs, key=lambda job: (order.get(job.state, 4),
                                         (job.due_s or math.inf) if job.is_open else -job.obt_s))

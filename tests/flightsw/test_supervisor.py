"""The loop as it flies: a real supervisor in virtual time on a scripted board, line, runner and inbox."""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from flightsw import compose, mission
from flightsw.decide.brain import Brain
from flightsw.decide.estimator import Estimator
from flightsw.dictionary.commands import COMMANDS, FailureCode, Value, digest_of, pack_arguments
from flightsw.dictionary.sensors import SENSORS, fitted_names
from flightsw.dictionary.telemetry import unpack_event, unpack_housekeeping
from flightsw.errors import StoreError
from flightsw.facts import FactFile, Facts
from flightsw.guardian import GuardianHealth, GuardianStatus, InProcessGuardian
from flightsw.jobs.base import Placement
from flightsw.jobs.custody import Custody
from flightsw.jobs.ledger import Ledger, LedgerEntry
from flightsw.jobs.meter import Activity
from flightsw.link.coding import CaduSynchroniser
from flightsw.link.frames import TmDeframer
from flightsw.link.packets import Telemetry, unpack_tm
from flightsw.link.services import VerificationReport, build_telecommand, unpack_parameter, unpack_verification
from flightsw.recorder import fingerprint, read_recording
from flightsw.state import (
    AHEAD_POINTS,
    Decision,
    Event,
    JobProgress,
    JobSpec,
    JobState,
    Limit,
    Mode,
    NodeCap,
    Pause,
    RawReading,
    Usage,
)
from flightsw.store import OsDisk, Store
from flightsw.supervisor import Supervisor

MISSION_FILE = Path(__file__).parents[2] / "missions" / "dawn_dusk.toml"
MISSION = mission.load(MISSION_FILE)
START_S = compose.start_unix_s(MISSION, "m.toml")
NODES = MISSION.compute.nodes
OFF_W = MISSION.compute.modes[0].cap_w
FLOOR = (OFF_W,) * NODES
GOOD = {
    "sun_frac": 1.0, "array_w": 60.0, "battery_v": 16.0, "battery_a": 1.0, "battery_soc_frac": 0.95, "bus_w": 20.0,
    "array_c": 40.0,
}
"""Readings of a healthy satellite in sunlight; 20 degC and 0.4 W where nothing is said."""


class ScriptedBoard:
    """Delivers what the script says; `values` replaces readings, None is a device that does not answer."""

    def __init__(self) -> None:
        self.values: dict[str, float | None] = {}
        self.transmitter: list[bool] = []
        self.trouble: Exception | None = None

    def read_sensors(self, now_s: float) -> Sequence[RawReading | None]:
        if self.trouble is not None:
            raise self.trouble
        fitted = fitted_names(NODES)
        values = {**GOOD, **self.values}
        return [
            RawReading(values.get(row.name, 0.4 if row.name.endswith("_w") else 20.0), now_s)
            if row.name in fitted else None
            for row in SENSORS
        ]

    def set_transmitter(self, on: bool) -> None:
        self.transmitter.append(on)

    def describe(self) -> tuple[str, ...]:
        return ()


class ScriptedRunner:
    """Holds what it is told to; jobs make progress only when the script says so."""

    def __init__(self) -> None:
        self.placements: Sequence[Placement] = ()
        self.progress: list[JobProgress] = []
        self.ended: list[int] = []
        self.used: dict[int, Activity] = {}
        self.closed = False

    def place(self, now_s: float, placements: Sequence[Placement]) -> tuple[int, ...]:
        self.placements = tuple(placements)
        return tuple(0 if placement.job is None else 1000 + placement.job.job_id for placement in placements)

    def poll(self, now_s: float) -> tuple[JobProgress, ...]:
        progress, self.progress = tuple(self.progress), []
        return progress

    def active(self) -> dict[int, Activity]:
        return self.used

    def notes(self) -> tuple[Event, ...]:
        return ()

    def end(self, job_id: int) -> None:
        self.ended.append(job_id)

    def close(self) -> None:
        self.closed = True

    @property
    def running(self) -> set[int]:
        return {p.job.job_id for p in self.placements if p.job is not None and p.duty_frac > 0.0}


class ScriptedInbox:
    def __init__(self) -> None:
        self.jobs: list[JobSpec] = []

    def take(self, now_s: float, known: object) -> tuple[JobSpec, ...]:
        jobs, self.jobs = tuple(self.jobs), []
        return jobs

    def news(self) -> tuple[Event, ...]:
        return ()


class ScriptedPort:
    """The satellite's end of the line; everything that was sent is kept."""

    def __init__(self) -> None:
        self.incoming = b""
        self.sent = b""
        self.trouble: Exception | None = None

    def read(self) -> bytes:
        octets, self.incoming = self.incoming, b""
        return octets

    def write(self, octets: bytes) -> int:
        if self.trouble is not None:
            raise self.trouble
        self.sent += octets
        return len(octets)


class MortalGuardian(InProcessGuardian):
    """The real state machine; `dead` cuts the connection, `refuses` rejects what it is asked."""

    dead = False
    refuses = False

    def renew(self, now_s: float, lease_s: float, caps: Sequence[NodeCap]) -> GuardianStatus:
        if self.dead:
            return self.status(now_s)._replace(health=GuardianHealth.DEAD, nodes=())
        status = super().renew(now_s, lease_s, caps)
        return status._replace(result=-11) if self.refuses else status

    def caps_w(self, now_s: float) -> tuple[float, ...]:
        return tuple(node.cap_w for node in self.status(now_s).nodes)


class Heard(NamedTuple):
    """Everything that the ground made of the line so far."""

    packets: list[Telemetry]

    @property
    def events(self) -> list[Event]:
        found = [unpack_event(tm.data) for tm in self.packets if tm.service == 5]
        return [Event(row.name, args) for row, args in found]

    @property
    def verifications(self) -> list[VerificationReport]:
        return [unpack_verification(tm.subservice, tm.data) for tm in self.packets if tm.service == 1]

    @property
    def points(self) -> dict[str, float | int]:
        """The latest value of each point."""
        found: dict[str, float | int] = {}
        for tm in self.packets:
            if tm.service == 3:
                row, values = unpack_housekeeping(tm.data)
                found |= zip([point.name for point in row.points], values, strict=True)
        return found

    def named(self, name: str) -> list[Event]:
        return [event for event in self.events if event.name == name]


class Flight:
    """A supervisor with its scripted surroundings in `folder`; `fly` runs ticks of one second."""

    def __init__(self, folder: Path, flown: mission.Mission = MISSION, *, always_transmit: bool = True,
                 custody: Custody | None = None) -> None:
        flown = dataclasses.replace(flown, link=dataclasses.replace(flown.link, security="clear"))
        self.board, self.runner = ScriptedBoard(), ScriptedRunner()
        self.inbox, self.port = ScriptedInbox(), ScriptedPort()
        self.guardian = MortalGuardian(compose.guardian_config(flown))
        self.folder = folder
        parts = compose.Parts(self.board, self.guardian, self.runner, self.inbox, self.port,
                              always_transmit=always_transmit, custody=custody)
        self.supervisor: Supervisor = compose.build(flown, MISSION_FILE.read_text(), parts, folder, "m.toml")
        self.now_s = 0.0
        self._seq_count = 0

    def tick(self) -> Decision | None:
        self.now_s += 1.0
        return self.supervisor.tick(self.now_s)

    def fly(self, ticks: int) -> list[Decision]:
        """Run ticks, all of which must work."""
        decisions = [self.tick() for _ in range(ticks)]
        assert None not in decisions, self.heard.events[-3:]
        return [decision for decision in decisions if decision is not None]

    def command(self, verb: str, *values: Value) -> int:
        """Put a telecommand on the line; return its request id."""
        self._seq_count = (self._seq_count + 1) & 0x3FFF
        link = MISSION.link
        built = build_telecommand(COMMANDS[verb], values, apid=link.apid, seq_count=self._seq_count,
                                  scid=link.spacecraft_id)
        self.port.incoming += built.octets
        return built.request_id

    def arm(self, verb: str, *values: Value) -> int:
        """Arm a hazardous command; return the request id of its arming."""
        row = COMMANDS[verb]
        return self.command("arm", digest_of(row.service, row.subservice, pack_arguments(row, values)))

    def to_compute(self) -> None:
        """Boot and go up to COMPUTE by telecommand."""
        self.fly(1)
        self.command("mode", int(Mode.STANDBY))
        self.command("mode", int(Mode.COMPUTE))
        self.fly(2)
        assert self.supervisor.mode is Mode.COMPUTE

    @property
    def caps_w(self) -> tuple[float, ...]:
        return self.guardian.caps_w(self.now_s)

    @property
    def heard(self) -> Heard:
        synchroniser, deframer = CaduSynchroniser(), TmDeframer(MISSION.link.spacecraft_id)
        frames = synchroniser.push(self.port.sent)
        return Heard([unpack_tm(packet) for frame in frames for _, packet in deframer.push(frame)])

    def stages(self, request_id: int) -> list[int]:
        return [report.stage for report in self.heard.verifications if report.request_id == request_id]

    def ledger(self) -> dict[int, LedgerEntry]:
        """What a supervisor that started now would find."""
        with tempfile.TemporaryDirectory() as copy:
            ledger = Ledger(Store(self.killed(Path(copy) / "killed") / "ledger"))
            ledger.close()
            return dict(ledger.entries)

    def killed(self, folder: Path) -> Path:
        """What is on the medium now, as a kill would leave it."""
        return Path(shutil.copytree(self.folder, folder))


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Flight]]:
    """Start a flight, by default in a folder that is new; all end with the test."""
    flying: list[Flight] = []

    def start(folder: Path | None = None, flown: mission.Mission = MISSION, *, always_transmit: bool = True) -> Flight:
        flying.append(Flight(folder or tmp_path / f"satellite {len(flying)}", flown, always_transmit=always_transmit))
        return flying[-1]

    yield start
    for one in flying:
        one.supervisor.close()


@pytest.fixture
def flight(launch: Callable[..., Flight]) -> Flight:
    return launch()


def job(job_id: int, now_s: float, work_units: float = 30.0, deadline_s: float = 3600.0) -> JobSpec:
    return JobSpec(job_id, f"job {job_id}", work_units, 1.0, 5.0, now_s, now_s + deadline_s, now_s,
                   Pause.CHECKPOINT, "m")


SUBMIT: tuple[Value, ...] = (7, "mask", 30.0, 1.0, 5.0, 3600.0, int(Pause.CHECKPOINT))


# --- boot, telecommands, modes --------------------------------------------------------------------------


def test_boot_goes_to_safe_and_says_so(flight: Flight) -> None:
    (decision,) = flight.fly(1)
    assert decision.mode is flight.supervisor.mode is Mode.SAFE
    assert flight.caps_w == FLOOR
    assert flight.board.transmitter == [True]
    assert flight.heard.events[:3] == [Event("boot", (1, "BOOT")), Event("link_clear", ()),
                                       Event("mode_changed", ("BOOT", "SAFE", "boot"))]
    assert FactFile(flight.folder).facts == Facts(1, "SAFE", 1.0)
    points = flight.heard.points
    assert points["mode"] == Mode.SAFE
    assert points["battery_soc_frac"] == pytest.approx(0.95)
    assert points["die0_c"] == 20.0
    assert math.isnan(points.get("die5_c", math.nan))
    assert [points[f"node{i}_cap_w"] for i in range(NODES)] == pytest.approx(FLOOR)


def test_telemetry_is_stamped_with_on_board_time(flight: Flight) -> None:
    flight.fly(3)
    assert {tm.obt_s - START_S for tm in flight.heard.packets} == {0.0, 1.0}  # boot is announced before the first tick


def test_telecommand_is_accepted_and_completed(flight: Flight) -> None:
    request = flight.command("ping")
    flight.fly(1)
    assert flight.heard.verifications == [VerificationReport(request, 1, 0, ""), VerificationReport(request, 7, 0, "")]
    assert [tm.subservice for tm in flight.heard.packets if tm.service == 17] == [2]
    flight.fly(30)
    assert flight.heard.points["tc_accepted"] == 1
    assert flight.heard.points["tc_rejected"] == 0


def test_several_telecommands_of_one_tick_are_served_in_order(flight: Flight) -> None:
    requests = [flight.command("ping") for _ in range(5)]
    flight.fly(1)
    assert [report.request_id for report in flight.heard.verifications] == [r for r in requests for _ in range(2)]


def test_mode_changes_one_legal_step_at_a_time(flight: Flight) -> None:
    flight.fly(1)
    refused = flight.command("mode", int(Mode.COMPUTE))
    flight.fly(1)
    assert flight.supervisor.mode is Mode.SAFE
    (report,) = flight.heard.verifications
    assert (report.request_id, report.stage, report.code) == (refused, 2, FailureCode.NOT_POSSIBLE)
    assert report.text == "SAFE -> COMPUTE is not legal; legal: STANDBY"
    for verb, values, mode in (("mode", (0x33,), Mode.STANDBY), ("mode", (0x55,), Mode.COMPUTE),
                               ("mode", (0x33,), Mode.STANDBY), ("safe", (), Mode.SAFE)):
        request = flight.command(verb, *values)
        flight.fly(1)
        assert flight.supervisor.mode is mode
        assert flight.stages(request) == [1, 7]
        assert FactFile(flight.folder).facts.mode == mode.name
    assert len(flight.heard.named("mode_changed")) == 5


def test_rejected_telecommand_changes_nothing_and_says_why(flight: Flight) -> None:
    flight.fly(1)
    request = flight.command("job.submit", *SUBMIT)
    flight.fly(1)
    (report,) = flight.heard.verifications
    assert (report.request_id, report.stage, report.code) == (request, 2, FailureCode.WRONG_MODE)
    assert report.text == "job.submit needs mode COMPUTE, STANDBY, mode is SAFE"
    assert flight.ledger() == {}


def test_parameter_is_set_and_reported(flight: Flight) -> None:
    flight.command("param.set", "die_max_c", 75.5)
    flight.command("param.report", "die_max_c")
    flight.fly(1)
    assert flight.heard.named("parameter_set") == [Event("parameter_set", ("die_max_c", 75.5))]
    (report,) = [tm.data for tm in flight.heard.packets if tm.service == 20]
    assert unpack_parameter(report) == (3, 75.5)


def test_housekeeping_follows_its_period_and_comes_when_asked(flight: Flight) -> None:
    def times(sid: int) -> list[float]:
        return [tm.obt_s - START_S for tm in flight.heard.packets if tm.service == 3 and tm.data[0] == sid]

    flight.command("hk.period", 2, 0.0)
    flight.command("hk.period", 1, 4.0)
    flight.fly(13)
    flight.command("hk.report", 2)
    flight.fly(1)
    assert times(1) == [5.0, 9.0, 13.0]
    assert times(2) == [14.0]
    assert times(3) == [1.0, 10.0]  # on the grid of its period, which began at 0
    assert times(4) == []  # four nodes only


def test_missing_sensor_is_missing_on_the_ground_and_named(flight: Flight) -> None:
    flight.board.values["radiator_c"] = None
    flight.fly(12)
    assert math.isnan(flight.heard.points["radiator_c"])
    assert flight.heard.named("sensor_lost") == [Event("sensor_lost", ("radiator_c", "MISSING"))]


def test_charge_that_was_never_known_is_missing_on_the_ground(flight: Flight) -> None:
    for name in ("battery_soc_frac", "battery_v", "battery_a"):
        flight.board.values[name] = None
    flight.fly(12)
    assert math.isnan(flight.heard.points["battery_low_frac"])
    assert math.isnan(flight.heard.points["battery_high_frac"])


def test_garbage_on_the_line_is_counted_and_harms_nothing(flight: Flight) -> None:
    flight.port.incoming = bytes(range(256)) * 20
    flight.fly(1)
    request = flight.command("ping")
    damaged = bytearray(flight.port.incoming)
    damaged[20] ^= 0xFF
    flight.port.incoming = bytes(damaged) + flight.port.incoming
    flight.fly(31)
    assert flight.stages(request) == [1, 7]
    assert flight.heard.points["frames_rejected"] == 1


def test_overrun_is_an_event_and_counted(flight: Flight) -> None:
    flight.fly(1)
    flight.supervisor.note_overrun(0.0, 0.25, 2)
    flight.fly(30)
    assert flight.heard.named("tick_overrun") == [Event("tick_overrun", (0.25, 2))]
    assert flight.heard.points["overrun_count"] == 1


@pytest.mark.parametrize("moved_s", [600.0, 1.0, -30.0])
def test_a_clock_that_steps_is_told_once(flight: Flight, moved_s: float) -> None:
    flight.fly(40)
    flight.now_s += moved_s
    flight.fly(31)
    told = flight.heard.named("clock_stepped")
    assert [event.args[0] for event in told] == [pytest.approx(moved_s)]


def test_a_late_tick_is_no_step_of_the_clock(flight: Flight) -> None:
    flight.fly(2)
    flight.supervisor.note_overrun(flight.now_s + 8.4, 7.4, 7)
    flight.now_s += 7.4
    flight.fly(1)
    flight.now_s -= 0.4  # the tick after comes when it would have come anyway
    flight.fly(31)
    assert not flight.heard.named("clock_stepped")


# --- jobs -----------------------------------------------------------------------------------------------


def test_job_runs_from_submission_to_its_end(flight: Flight) -> None:
    flight.to_compute()
    request = flight.command("job.submit", *SUBMIT)
    flight.fly(1)
    assert flight.stages(request) == [1, 7]
    assert flight.runner.running == {7}
    entry = flight.ledger()[7]
    assert (entry.state, entry.starts, entry.spec.name) == (JobState.RUNNING, 1, "mask")
    assert max(flight.caps_w) > OFF_W
    flight.fly(5)
    flight.runner.progress = [JobProgress(7, 30.0, True, True, "exit 0")]
    flight.fly(1)
    entry = flight.ledger()[7]
    assert (entry.state, entry.done_units, entry.detail) == (JobState.FINISHED, 30.0, "exit 0")
    assert flight.runner.ended == [7]
    flight.fly(31)
    assert flight.caps_w == FLOOR
    assert flight.runner.running == set()
    names = [event.name for event in flight.heard.events if event.name.startswith("job_")]
    assert names == ["job_queued", "job_promised", "job_started", "job_finished"]
    assert flight.heard.points["jobs_finished"] == 1
    assert flight.heard.points["value_finished"] == 5.0


def test_an_ended_job_is_settled_once_by_what_was_measured_over_restart_and_end(
    launch: Callable[..., Flight], tmp_path: Path
) -> None:
    first = launch()
    first.to_compute()
    first.inbox.jobs = [job(8, first.now_s), job(9, first.now_s)]
    first.fly(2)
    watts = 0.4  # of a node, as the board says
    for second in range(11):
        first.runner.used = {8: Activity(0, 500, "Aerial", 0.5 * second, 4096, 100)}
        first.fly(1)
    first.command("safe")  # paused: what it has used so far is durable now
    first.fly(1)
    assert first.ledger()[8].usage == Usage("Aerial", pytest.approx(12.0 * watts), 5.0, 4096, 100)
    again = launch(first.killed(tmp_path / "again"))
    again.now_s = first.now_s + 30.0
    again.to_compute()
    for second in range(5):
        again.runner.used = {8: Activity(0, 600, "Aerial", 0.5 * second, 2048, 200)}
        again.fly(1)
    again.runner.progress = [JobProgress(8, 30.0, True, True, "exit 0"), JobProgress(9, 0.0, True, False, "exit 1")]
    again.fly(1)
    again.runner.used = {}
    again.fly(5)
    used = Usage("Aerial", pytest.approx(18.0 * watts), 7.0, 4096, 200)
    assert again.ledger()[8].usage == used
    assert [event.args for event in again.heard.named("job_settled")] == [(8, *used, 5.0)]  # 9 never ran


def test_every_joule_of_the_bus_is_a_jobs_or_the_houses(flight: Flight) -> None:
    flight.to_compute()
    flight.inbox.jobs = [job(8, flight.now_s, 5000.0, 7200.0)]
    flight.fly(2)
    for second in range(3600):
        flight.runner.used = {8: Activity(1, 500, "Aerial", 0.5 * second, 4096, 100)}
        flight.tick()
    bus_j, jobs_j, house_j, unmetered_s = map(float, flight.heard.named("energy_balance")[0].args)
    assert bus_j == pytest.approx(jobs_j + house_j)
    assert jobs_j == pytest.approx(0.4 * 3596.0, rel=2e-3)
    assert bus_j == pytest.approx(20.0 * 3600.0, rel=2e-3)
    assert unmetered_s == 0.0


def test_job_of_the_inbox_is_answered_and_a_cancelled_one_ends(flight: Flight) -> None:
    flight.to_compute()
    flight.inbox.jobs = [job(8, flight.now_s), job(9, flight.now_s, work_units=1e6)]
    flight.fly(1)
    assert {i: entry.state for i, entry in flight.ledger().items()} == {8: JobState.RUNNING, 9: JobState.REFUSED}
    (refused,) = flight.heard.named("job_refused")
    assert refused.args[:2] == (9, "DEADLINE_TOO_SOON, CAPACITY") or "DEADLINE_TOO_SOON" in str(refused.args[1])
    flight.command("job.cancel", 8)
    flight.fly(1)
    assert flight.ledger()[8].state is JobState.CANCELLED
    assert flight.runner.ended == [9, 8]
    assert flight.runner.running == set()


def test_the_forecast_of_limits_goes_down_and_is_missing_while_the_state_is_not_known(flight: Flight) -> None:
    flight.to_compute()
    for sid in (7, 8, 9):
        flight.command("hk.report", sid)
    flight.fly(1)
    points = flight.heard.points
    assert points["draw_limit"] == Limit.NONE  # all nodes are off
    assert points["draw_limit_s"] == points["die_max_draw_worst_s"] == math.inf
    assert (points["plan_limit"] == Limit.NONE) == math.isinf(points["plan_limit_s"])
    assert points["battery_floor_worst_frac"] < points["battery_floor_margin_frac"] < 0.3
    assert points["plate_max_worst_k"] < points["plate_max_margin_k"]
    curve = [points[f"ahead{i}_frac"] for i in range(AHEAD_POINTS)]
    assert min(curve) > 0.7
    assert all(points[f"worst{i}_frac"] <= share for i, share in enumerate(curve))
    assert all(points[f"worst{i}_c"] > points[f"ahead{i}_c"] for i in range(AHEAD_POINTS))
    flight.board.values["plate_c"] = None
    flight.fly(120)
    flight.command("hk.report", 7)
    flight.command("hk.report", 8)
    flight.fly(1)
    assert math.isnan(flight.heard.points["plate_max_margin_k"])
    assert flight.heard.points["draw_limit"] == flight.heard.points["plan_limit"] == Limit.UNKNOWN
    assert math.isnan(flight.heard.points["draw_limit_s"])


def test_leaving_compute_pauses_the_jobs_and_drops_the_caps_in_the_same_tick(flight: Flight) -> None:
    flight.to_compute()
    flight.inbox.jobs = [job(8, flight.now_s)]
    flight.fly(2)
    assert flight.runner.running == {8}
    flight.command("safe")
    flight.fly(1)
    assert flight.runner.running == set()
    assert [p.job.job_id for p in flight.runner.placements if p.job is not None] == [8]  # kept, so that it can go on
    assert flight.caps_w == FLOOR


def test_restart_keeps_promises_and_runs_them_again(launch: Callable[..., Flight], tmp_path: Path) -> None:
    first = launch()
    first.to_compute()
    first.inbox.jobs = [job(8, first.now_s), job(9, first.now_s)]
    first.fly(2)
    first.command("job.cancel", 9)
    first.fly(1)
    assert first.ledger()[8].state is JobState.RUNNING
    second = launch(first.killed(tmp_path / "again"))
    second.now_s = first.now_s + 30.0
    assert {i: entry.state for i, entry in second.ledger().items()} == {8: JobState.PROMISED, 9: JobState.CANCELLED}
    second.fly(1)
    assert second.supervisor.mode is Mode.SAFE
    assert second.heard.events[0] == Event("boot", (2, "COMPUTE"))
    second.command("job.submit", 9, *SUBMIT[1:])
    for mode in (Mode.STANDBY, Mode.COMPUTE):
        second.command("mode", int(mode))
    second.command("job.submit", 9, *SUBMIT[1:])
    second.fly(2)
    assert second.runner.running == {8}
    entry = second.ledger()[8]
    assert (entry.state, entry.starts) == (JobState.RUNNING, 2)
    rejected = [r.code for r in second.heard.verifications if r.stage == 2]
    assert rejected == [FailureCode.WRONG_MODE, FailureCode.DUPLICATE]  # an id that was used stays used
    assert FactFile(second.folder).facts.boot_count == 2
    assert sorted(p.name for p in second.folder.glob("*.fswrec")) == ["boot-0001.fswrec", "boot-0002.fswrec"]


# --- durable before acknowledged ------------------------------------------------------------------------


def test_job_is_on_the_medium_before_its_acknowledgement_is_on_the_line(
    flight: Flight, monkeypatch: pytest.MonkeyPatch
) -> None:
    flight.to_compute()
    request = flight.command("job.submit", *SUBMIT)
    stages_at_sync: list[list[int]] = []
    sync = OsDisk.sync

    def watched(disk: OsDisk, fd: int) -> None:
        stages_at_sync.append(flight.stages(request))
        sync(disk, fd)

    monkeypatch.setattr(OsDisk, "sync", watched)
    flight.fly(1)
    assert stages_at_sync
    assert all(stages == [] for stages in stages_at_sync)
    assert flight.stages(request) == [1, 7]


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_broken_store_acknowledges_nothing_and_sheds(
    flight: Flight, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    flight.to_compute()
    flight.inbox.jobs = [job(8, flight.now_s)]
    flight.fly(2)
    assert flight.caps_w != FLOOR

    def broken(*_args: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(OsDisk, operation, broken)
        request = flight.command("job.submit", *SUBMIT)
        assert flight.tick() is None
    assert flight.stages(request) == []
    assert flight.caps_w == FLOOR
    assert flight.supervisor.failures == 1
    (event,) = flight.heard.named("store_failed")
    assert f": {operation} " in str(event.args[0])
    assert not flight.heard.named("tick_failed")
    assert not [e for e in flight.heard.named("job_promised") if e.args[0] == 7]
    if operation == "write":  # what was written and not synced may be there or not
        assert 7 not in flight.ledger()
    again = flight.command("mode", int(Mode.STANDBY))
    ping = flight.command("ping")
    flight.inbox.jobs = [job(9, flight.now_s)]
    flight.fly(20)  # the loop goes on in SAFE: heard, shed, nothing begun that would have to be durable
    assert flight.supervisor.failures == 1
    assert flight.supervisor.mode is Mode.SAFE
    assert flight.caps_w == FLOOR
    assert flight.stages(request) == []
    assert flight.stages(again) == [2]
    assert flight.stages(ping) == [1, 7]
    assert not {7, 9} & set(flight.runner.running)
    assert flight.heard.named("shed")[-1].args == ("durable storage failed",)


def test_broken_facts_fail_one_tick_not_every_one(flight: Flight) -> None:
    flight.fly(1)
    for path in flight.folder.glob("facts-*"):
        path.unlink()
        path.mkdir()
        (path / "in the way").touch()
    flight.command("mode", int(Mode.STANDBY))
    assert flight.tick() is None
    assert flight.heard.named("store_failed")
    flight.fly(590)
    flight.now_s += 600.0
    assert flight.tick() is None  # tried again after ten minutes
    flight.fly(5)
    assert flight.supervisor.failures == 2


# --- what breaks ----------------------------------------------------------------------------------------


class BoomError(Exception):
    """An error that nobody expects."""


def boom(*_args: object) -> object:
    raise BoomError("lost \udcff")


@pytest.mark.parametrize(
    ("part", "method"),
    [("board", "read_sensors"), ("inbox", "take"), ("runner", "poll"), ("runner", "place"), ("port", "read"),
     ("port", "write"), ("guardian", "renew")],
)
def test_tick_that_fails_sheds_everything_and_the_next_works(
    flight: Flight, monkeypatch: pytest.MonkeyPatch, part: str, method: str
) -> None:
    flight.to_compute()
    flight.inbox.jobs = [job(8, flight.now_s)]
    flight.fly(2)
    assert flight.caps_w != FLOOR
    request = flight.command("hk.report", 1)
    with monkeypatch.context() as patch:
        patch.setattr(getattr(flight, part), method, boom)
        assert flight.tick() is None
        if part != "guardian":  # one that cannot be told lets its lease run out
            assert flight.caps_w == FLOOR
    assert flight.guardian.caps_w(flight.now_s + 21.0) == FLOOR
    assert flight.supervisor.failures == 1
    flight.fly(31)
    said = [] if method == "write" else [Event("tick_failed", (r"BoomError: lost \udcff",))]  # lost with the line
    assert flight.heard.named("tick_failed") == said
    assert flight.heard.points["shed_count"] == 1
    assert flight.caps_w != FLOOR
    assert flight.runner.running == {8}
    if (part, method) in {("board", "read_sensors"), ("port", "read")}:  # failed before it was decided on
        assert flight.stages(request) == [1, 7]


def test_tick_that_fails_over_and_over_sheds_each_time(flight: Flight) -> None:
    flight.to_compute()
    flight.board.trouble = BoomError("no bus")
    for _ in range(50):
        assert flight.tick() is None
        assert flight.caps_w == FLOOR
    flight.board.trouble = None
    flight.fly(2)
    assert flight.supervisor.failures == 50
    assert flight.supervisor.mode is Mode.COMPUTE


def test_programmed_exits_pass(flight: Flight, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_now_s: float) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(flight.board, "read_sensors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        flight.tick()


@pytest.mark.parametrize("how", ["dead", "refuses"])
def test_guardian_that_is_lost_means_safe(flight: Flight, how: str) -> None:
    flight.to_compute()
    flight.inbox.jobs = [job(8, flight.now_s)]
    flight.fly(2)
    setattr(flight.guardian, how, True)
    flight.fly(2)
    assert flight.supervisor.mode is Mode.SAFE
    assert flight.runner.running == set()
    flight.fly(30)
    assert flight.caps_w == FLOOR
    assert len(flight.heard.named("guardian_lost")) == 1
    assert flight.heard.points["guardian_flags"] == (1 if how == "dead" else 2)
    if how == "dead":
        assert math.isnan(flight.heard.points["node0_cap_w"])  # unknown is not a number
    setattr(flight.guardian, how, False)
    flight.fly(31)
    assert len(flight.heard.named("guardian_back")) == 1
    assert flight.heard.points["guardian_flags"] == 0
    assert flight.supervisor.mode is Mode.SAFE  # leaving it takes a telecommand


def test_blind_satellite_computes_nothing(flight: Flight) -> None:
    flight.to_compute()
    flight.inbox.jobs = [job(8, flight.now_s, work_units=600.0)]
    flight.fly(2)
    flight.board.values["plate_c"] = None
    flight.fly(32)
    assert flight.caps_w == FLOOR
    assert flight.runner.running == set()
    assert flight.heard.named("blind") == [Event("blind", ("plate_c",))]
    flight.board.values.clear()
    flight.fly(2)
    assert flight.runner.running == {8}


def test_closing_ends_the_jobs_and_the_recording(tmp_path: Path) -> None:
    flight = Flight(tmp_path)
    flight.fly(3)
    flight.supervisor.close()
    assert flight.runner.closed
    _, ticks = read_recording(tmp_path / "boot-0001.fswrec")
    assert len(list(ticks)) == 3


# --- the line and the sky ---------------------------------------------------------------------------------


@pytest.mark.parametrize("baud", [1200, 9600, 115_200])
def test_line_is_filled_and_never_overfilled(launch: Callable[..., Flight], baud: int) -> None:
    link = dataclasses.replace(MISSION.link, baud=baud)
    flight = launch(flown=dataclasses.replace(MISSION, link=link))
    for sid in range(1, 8):
        flight.command("hk.period", sid, 1.0)
    rate, frame = baud / 10.0, 227
    sent = []
    for _ in range(120):
        flight.inbox.jobs = [job(int(1000 + flight.now_s), flight.now_s)]
        for _ in range(baud // 500):
            flight.command("ping")
        flight.fly(1)
        sent.append(len(flight.port.sent))
    for i, octets in enumerate(sent):
        for j in range(i + 1, len(sent)):
            assert sent[j] - octets <= rate * (j - i + 1.0) + frame
    assert sent[-1] >= rate * 119 - frame  # always more to say than the line takes
    assert flight.heard.packets


def test_late_tick_makes_up_for_one_second_at_most(flight: Flight) -> None:
    for _ in range(1200):
        flight.command("ping")
    flight.fly(1)
    before = len(flight.port.sent)
    flight.now_s += 30.0
    flight.fly(1)
    assert 10_000 < len(flight.port.sent) - before <= 11_520 + 227


def next_sky(of: Callable[[float], bool], start_s: float = 0.0) -> float:
    """First whole second from `start_s` at which `of` is true."""
    now_s = start_s
    while not of(now_s):
        now_s += 10.0
    while of(now_s - 1.0):
        now_s -= 1.0
    return now_s


def test_transmitter_is_on_in_a_pass_only_and_nothing_waits_in_vain(launch: Callable[..., Flight]) -> None:
    forecaster = compose.forecaster_of(MISSION, "m.toml")
    aos_s = next_sky(lambda now_s: forecaster.sky(now_s).pass_in_s == 0.0, 600.0)
    los_s = next_sky(lambda now_s: forecaster.sky(now_s).pass_in_s > 0.0, aos_s)
    flight = launch(always_transmit=False)
    flight.now_s = aos_s - 21.0
    flight.fly(20)
    assert flight.port.sent == b""
    assert flight.board.transmitter == []
    flight.fly(10)
    assert flight.board.transmitter == [True]
    assert flight.heard.events[0].name == "boot"
    (event,) = flight.heard.named("ground_pass")
    assert event.args[0] in {station.name for station in MISSION.stations}
    assert 60.0 < float(event.args[1]) < los_s - aos_s + 2.0  # the next station's pass may begin before it ends
    flight.now_s = los_s - 3.0
    flight.fly(10)
    assert flight.board.transmitter == [True, False]


def test_eclipse_is_reported_with_its_length(flight: Flight) -> None:
    forecaster = compose.forecaster_of(MISSION, "m.toml")
    into_s = next_sky(lambda now_s: forecaster.sky(now_s).in_eclipse, 600.0)
    out_s = next_sky(lambda now_s: not forecaster.sky(now_s).in_eclipse, into_s)
    flight.now_s = into_s - 3.0
    flight.fly(5)
    assert len(flight.heard.named("eclipse_entered")) == 1
    flight.now_s = out_s - 3.0
    flight.fly(5)
    (event,) = flight.heard.named("eclipse_left")
    assert event.args[0] == pytest.approx(out_s - into_s, abs=2.0)


# --- determinism and replay -------------------------------------------------------------------------------


def eventful(folder: Path) -> Flight:
    """Seven minutes with commands, jobs, lost sensors, garbage, a lost guardian and a hot plate."""
    flight = Flight(folder)
    flight.to_compute()
    for i in range(400):
        flight.board.values["battery_soc_frac"] = 0.95 - 0.0001 * i
        flight.board.values["battery_a"] = math.sin(0.1 * i)
        flight.board.values["die1_c"] = None if 50 <= i < 100 else 30.0 + 10.0 * math.sin(0.05 * i)
        flight.board.values["plate_c"] = 56.0 if 300 <= i < 310 else 25.0
        if i % 40 == 0:
            flight.inbox.jobs = [job(100 + i, flight.now_s, work_units=40.0 + i, deadline_s=600.0 + i)]
        if i % 55 == 10:
            flight.runner.progress = [JobProgress(100 + i // 40 * 40, 17.25, False, False, "")]
        if i % 90 == 80:
            flight.runner.progress = [JobProgress(100 + i // 80 * 40, 60.0, True, i % 4 == 0, "exit")]
        if i == 120:
            flight.command("job.submit", *SUBMIT)
            flight.command("param.set", "dispatch_period_s", 5.0)
            flight.port.incoming += bytes(range(200))
        flight.guardian.dead = 200 <= i < 205
        if i in (230, 231):
            flight.command("mode", int(Mode.STANDBY if i == 230 else Mode.COMPUTE))
        flight.fly(1)
    flight.supervisor.close()
    return flight


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Flight, Flight]:
    return eventful(tmp_path_factory.mktemp("a")), eventful(tmp_path_factory.mktemp("b"))


def test_same_inputs_give_the_same_recording_and_the_same_downlink(twice: tuple[Flight, Flight]) -> None:
    one, two = twice
    names = {event.name for event in one.heard.events}
    assert names >= {"job_promised", "job_started", "job_finished", "job_failed", "sensor_lost", "sensor_back", "shed",
                     "guardian_lost", "guardian_back", "limit_crossed", "limit_cleared", "parameter_set"}
    assert one.port.sent == two.port.sent
    assert (one.folder / "boot-0001.fswrec").read_bytes() == (two.folder / "boot-0001.fswrec").read_bytes()
    assert one.ledger() == two.ledger()


def replayed(path: Path) -> Iterable[tuple[int, int]]:
    """Fingerprints of the decisions that flew and of those that a new brain makes of the same inputs."""
    start, ticks = read_recording(path)
    copy = path.with_suffix(".toml")
    copy.write_text(start.mission_toml)
    flown = mission.load(copy)
    forecaster = compose.forecaster_of(flown, "replay")
    brain = Brain(flown, forecaster, start.jobs)
    estimator = Estimator(flown, forecaster)
    for inputs, flew in ticks:
        estimate = estimator.update(inputs.readings, brain.parameters["blind_after_s"])
        yield flew, fingerprint(brain.decide(estimate, inputs))


def test_recorded_flight_replays_to_the_same_decisions(twice: tuple[Flight, Flight]) -> None:
    pairs = list(replayed(twice[0].folder / "boot-0001.fswrec"))
    assert len(pairs) == 403
    assert [again for _, again in pairs] == [flew for flew, _ in pairs]
    assert len({flew for flew, _ in pairs}) == len(pairs)  # a fingerprint that never changes would prove nothing


def test_flight_after_a_restart_replays_too(launch: Callable[..., Flight], tmp_path: Path) -> None:
    first = launch()
    first.to_compute()
    first.inbox.jobs = [job(8, first.now_s), job(9, first.now_s)]
    first.fly(5)
    second = launch(first.killed(tmp_path / "again"))
    second.now_s = 60.0
    second.to_compute()
    second.fly(60)
    assert second.runner.running == {8, 9}
    second.supervisor.close()
    pairs = list(replayed(second.folder / "boot-0002.fswrec"))
    assert len(pairs) == 63
    assert all(flew == again for flew, again in pairs)


def test_folder_that_holds_no_valid_facts_does_not_fly(tmp_path: Path) -> None:
    Flight(tmp_path).supervisor.close()
    for path in tmp_path.glob("facts-*"):
        path.write_bytes(b"rot")
    with pytest.raises(StoreError, match="none of three copies is valid"):
        Flight(tmp_path)

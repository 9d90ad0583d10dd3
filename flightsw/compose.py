"""Builds the flight software out of its parts; the only place that knows them all.

The flight program (`__main__`), the rig and the tests differ in what they pass in: a board, a guardian, a
runner of jobs, an inbox and a serial line. Everything else is the same everywhere.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flightsw.board.base import Board
from flightsw.decide.authority import Authority
from flightsw.decide.brain import Brain
from flightsw.errors import ConfigError, KernelError
from flightsw.facts import FactFile
from flightsw.files import FileService, Result
from flightsw.guardian import GuardianConfig, GuardianLink
from flightsw.jobs.audit import AuditLog
from flightsw.jobs.base import Runner
from flightsw.jobs.custody import Custody
from flightsw.jobs.ledger import Ledger
from flightsw.jobs.onboard import Bundle
from flightsw.jobs.policy import BorderWatch, Regions
from flightsw.jobs.vault import Entropy, Vault
from flightsw.link.keys import IN_FORCE, TELEMETRY, KeyRing, Rollover, family_of
from flightsw.link.sdls import CommandSeal, TelemetrySeal
from flightsw.link.serial_port import ByteStream
from flightsw.link.services import CommandReceiver, Reporter
from flightsw.link.stack import Stack
from flightsw.mission import Mission
from flightsw.orbit import Orbit, parse_tle
from flightsw.orderbook import OrderBook, read_upload
from flightsw.physics import model
from flightsw.physics.forecast import STEP_S, Forecaster
from flightsw.physics.units import J_PER_WH, KELVIN
from flightsw.recorder import Recorder, Start
from flightsw.reporting import Reporting
from flightsw.state import Bounded, Estimate, Event, JobSpec, JobState, JobTransition, JobView
from flightsw.store import Store
from flightsw.supervisor import Inbox, Supervisor

UPLOADS = "files"
"""Folder of the state in which files arrive that the ground sends up."""
RECORDING_LIMIT_OCTETS = 64_000_000


@dataclass(frozen=True, slots=True)
class Parts:
    """What differs from bench to bench. Without a `ring` the link is in clear, which a mission must have asked for."""

    board: Board
    guardian: GuardianLink
    runner: Runner
    inbox: Inbox
    port: ByteStream
    always_transmit: bool = False
    duty_throttle: bool = True
    custody: Custody | None = None
    boot_events: tuple[Event, ...] = ()
    bundle_inbox: Path | None = None
    result_of: Callable[[JobSpec], Result | None] = lambda _spec: None
    ring: KeyRing | None = None


def start_unix_s(mission: Mission, where: str) -> float:
    """Unix time of the mission's start; ConfigError when it is not an instant in UTC."""
    text = mission.orbit.start_utc
    try:
        instant = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(where, f"orbit.start_utc = {text!r}: an instant like 2026-03-20T12:00:00Z") from error
    if instant.tzinfo is None:
        raise ConfigError(where, f"orbit.start_utc = {text!r} has no time zone; end it with Z")
    return instant.timestamp()


def forecaster_of(mission: Mission, where: str) -> Forecaster:
    """Forecaster of a mission; ConfigError names what is wrong with its TLE, its start or its thermal network."""
    tle = parse_tle(mission.orbit.tle, f"{where}: orbit.tle")
    start_s = start_unix_s(mission, where)
    age_days = abs(start_s - tle.epoch_unix_s) / 86400.0
    if age_days > 30.0:
        raise ConfigError(where, f"orbit.tle is {age_days:.1f} days away from orbit.start_utc, limit 30 days")
    forecaster = Forecaster(mission, Orbit(tle), start_s)
    full_j = mission.battery.capacity_wh * J_PER_WH
    room = Bounded(KELVIN + 20.0, KELVIN + 20.0, KELVIN + 20.0)
    idle = Estimate(0.0, Bounded(full_j, full_j, full_j), (room,) * model.node_index(mission).total, None, None,
                    (None,) * mission.compute.nodes, None, (), ())
    try:
        forecaster.first_crossing(idle, (0.0,) * mission.compute.nodes, STEP_S, mission.parameters)
    except KernelError as error:
        raise ConfigError(where, f"the flight model cannot be rolled out in steps of {STEP_S:g} s: {error}") from error
    return forecaster


def guardian_config(mission: Mission) -> GuardianConfig:
    """Floors and ceilings of the caps: the draw of an off node, and the highest mode's cap."""
    modes, nodes = mission.compute.modes, mission.compute.nodes
    return GuardianConfig((modes[0].cap_w,) * nodes, (modes[-1].cap_w,) * nodes, 60.0)


def stack_of(mission: Mission) -> Stack:
    """How the mission's line is coded, for both ends."""
    return Stack(mission.link.framing, mission.link.reed_solomon, mission.link.frame_octets)


def custody_of(mission: Mission, where: str, bundles: Mapping[str, Bundle], regions: Regions,
               outputs_of: Callable[[int], Path], folder: Path, entropy: Entropy, now_s: float) -> Custody:
    """Build what keeps the data rules of the jobs in `bundles`, with keys, sealed results and log in `folder`."""
    tle = parse_tle(mission.orbit.tle, f"{where}: orbit.tle")
    start_s = start_unix_s(mission, where)
    borders = BorderWatch(regions, Orbit(tle).ground_track, tle.epoch_unix_s, start_s)
    log = AuditLog(folder / "audit", mission.name, start_s + now_s)
    return Custody(bundles, borders, Vault(folder / "vault", entropy), log, outputs_of, folder / "results",
                   folder / "files" / "audit.log")


def build(mission: Mission, mission_toml: str, parts: Parts, folder: Path, where: str) -> Supervisor:
    """Build a supervisor that keeps its ledger, facts and recording in `folder` and counts a boot."""
    forecaster = forecaster_of(mission, where)
    start_s = start_unix_s(mission, where)
    facts = FactFile(folder)
    last = facts.facts
    facts.count_boot()
    boot_count = facts.facts.boot_count
    ledger = Ledger(Store(folder / "ledger"))
    order_book = OrderBook(Store(folder / "orders"))
    orders = tuple(order_book.orders.changes())
    # What ran when the last supervisor ended has lost its process: it keeps its promise and starts again.
    ledger.record([
        JobTransition(entry.spec.job_id, JobState.PROMISED, "supervisor restarted", entry.done_units, None)
        for entry in ledger.open_jobs if entry.state in (JobState.RUNNING, JobState.PAUSED)
    ], start_s + last.now_s)
    if parts.custody is not None:
        parts.custody.begin(ledger.entries, start_s + last.now_s)
    jobs = tuple(JobView(entry.spec, entry.state, entry.done_units, -1) for entry in ledger.entries.values())
    recorder = Recorder(folder / f"boot-{boot_count:04d}.fswrec",
                        Start(mission_toml, start_s, boot_count, last.mode, jobs, orders), RECORDING_LIMIT_OCTETS)
    link, ring = mission.link, parts.ring
    if ring is None and link.security != "clear":
        raise ConfigError(where, f"link.security = {link.security!r} and no keys: only 'clear' flies without")
    stack = stack_of(mission)
    seals = (None, None) if ring is None else (
        CommandSeal(ring), TelemetrySeal(ring, encrypt=link.security == "encrypted"))
    reporting = Reporting(mission, Reporter(link.spacecraft_id, link.apid, link.store_octets, stack, seals[1],
                                             compress=link.compress_housekeeping), parts.port)
    brain = Brain(mission, forecaster, jobs, orders)
    custody = parts.custody
    files = FileService(folder, parts.bundle_inbox, parts.result_of) if custody is None else FileService(
        folder, parts.bundle_inbox, parts.result_of, custody.downlinked, forbids=custody.may_downlink,
        is_kept=custody.at_rest.has_results)
    for entry in ledger.entries.values():
        if entry.state is JobState.FINISHED:  # its result is noted already, unless we ended just before
            files.finished(entry.spec)
    authority = Authority(mission.stations)
    receiver = CommandReceiver(link.spacecraft_id, link.apid, stack, seals[0],
                               lambda spi: authority.may_send(family_of(spi), "file.get"))
    supervisor = Supervisor(
        mission, board=parts.board, guardian=parts.guardian, runner=parts.runner, inbox=parts.inbox,
        port=parts.port, receiver=receiver, reporting=reporting,
        ledger=ledger, facts=facts, brain=brain, forecaster=forecaster,
        recorder=recorder, order_book=order_book, read_upload=partial(read_upload, folder / UPLOADS),
        boot_count=boot_count, always_transmit=parts.always_transmit, duty_throttle=parts.duty_throttle,
        custody=custody, files=files, rollover=None if ring is None else Rollover(ring),
    )
    supervisor.announce_boot(last.now_s, last.mode)
    for event in (*_link_events(ring), *parts.boot_events):
        reporting.event(event, forecaster.start_unix_s + last.now_s)
    return supervisor


def _link_events(ring: KeyRing | None) -> list[Event]:
    """What each station must know after a boot: which counters are used up. Or that there is nothing to know."""
    if ring is None:
        return [Event("link_clear", ())]
    return [Event("uplink_counter", (one.spi, float(one.used)))
            for family in ring.keys.families if family != TELEMETRY
            for one in ring.family(family) if one.state in IN_FORCE]

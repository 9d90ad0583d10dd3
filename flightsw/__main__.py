"""The flight program and its command line: `flightsw run`, `flightsw check`, `flightsw sensors`, `flightsw job`.

The composition root of what flies: it opens ports, state and guardian, builds the parts, runs the loop, and turns
errors into one line and an exit code. Everything that decides is below and knows nothing of this file.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

from flightsw import mission as mission_file
from flightsw.board import jetson, linux, raspberry_pi
from flightsw.board.base import Board
from flightsw.board.linux import BoardFile, Candidate, LinuxBoard
from flightsw.board.rig import BOARD_FILE, RigBoard
from flightsw.clock import MonotonicClock
from flightsw.compose import Parts, build, custody_of, forecaster_of, guardian_config, stack_of, start_unix_s
from flightsw.decide import planner
from flightsw.decide.estimator import Estimator
from flightsw.dictionary.audit import verify
from flightsw.dictionary.sensors import SENSORS, fitted_names
from flightsw.errors import BoardError, ConfigError, FlightError
from flightsw.executive import (
    BusyMeter,
    Executive,
    GroundOnly,
    KeptGuardian,
    StopRequest,
    follow,
    go_real_time,
    hold,
    resume_time_s,
)
from flightsw.facts import FactFile
from flightsw.files import Result
from flightsw.guardian import InProcessGuardian, ProcessGuardian
from flightsw.jobs import author
from flightsw.jobs.audit import AuditLog
from flightsw.jobs.customers import load_customers
from flightsw.jobs.intake import Intake, Receive
from flightsw.jobs.manifest import Manifest
from flightsw.jobs.onboard import Bundle, OnboardJobs, load_bundles
from flightsw.jobs.policy import Regions, load_regions, problems_of
from flightsw.jobs.runner import ProcessRunner
from flightsw.jobs.sandbox import probe
from flightsw.jobs.selftest import SelfTest, run_self_test
from flightsw.keyfile import DEFAULT_FILE, End, open_ring
from flightsw.link.keys import KeyRing
from flightsw.link.serial_port import SerialPort
from flightsw.lockstep import FRAME_OCTETS_MAX, LockstepBoard
from flightsw.mission import Mission
from flightsw.orbit import Orbit, parse_tle
from flightsw.physics.units import J_PER_WH, KELVIN
from flightsw.state import NODE_COUNT_MAX, Bounded, Estimate, Event, JobSpec, Quality, Readings
from flightsw.supervisor import Inbox

EXIT_OK, EXIT_USAGE, EXIT_DEVICE = 0, 2, 3

_BOARDS: Final[dict[str, tuple[Candidate, ...]]] = {
    "linux": linux.CANDIDATES, "raspberry_pi": raspberry_pi.CANDIDATES, "jetson": jetson.CANDIDATES,
}
_MODELS: Final = (("raspberry pi", "raspberry_pi"), ("jetson", "jetson"))
_EXAMPLE_JOBS: Final = Path(__file__).resolve().parents[1] / "examples" / "jobs"
_PLANT_ANSWERS_WITHIN_S: Final = 10.0
_DAY_S: Final = 86_400.0
_RATE_MAX: Final = 60.0

_DESCRIPTION = "The flight software of a compute satellite."
_EPILOG = """\
examples:
  flightsw check missions/iss_like.toml
        what a mission file means: orbit, eclipses, passes, power
  flightsw sensors --board raspberry_pi
        which sensors this machine has, and which it would need
  flightsw job --help
        make jobs: from an empty folder to a signed bundle
  flightsw run --mission missions/iss_like.toml --port /dev/ttyUSB0
        fly: this machine's sensors, its processes as jobs, the ground at the other end of the port

exit codes: 0 ended as asked, 2 wrong use or configuration, 3 device, port or storage trouble
"""
_RUN_HELP = """\
Fly the mission on this machine until SIGTERM or SIGINT. Sensors are this machine's own (see `flightsw sensors`) or,
with --rig-port, those of a simulated satellite. Jobs named in a `job.submit` telecommand run as processes: the name is
the id of a manifest in --jobs. With --customers, signed bundles in the inbox are checked and become jobs by
themselves. Power caps go through the guardian, a small program of its own that drops them to the
floor when this one stops renewing them. A satellite that lacks the sensors it needs flies, answers, and keeps its
compute off.
"""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one `flightsw` command and return its exit code."""
    options = _parser().parse_args(argv)
    try:
        code: int = options.action(options)
    except FlightError as error:
        print(f"flightsw {options.command}: {'; '.join(map(str.strip, str(error).splitlines()))}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_DEVICE
    except KeyboardInterrupt:
        return EXIT_OK
    return code


# --- run ---------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    """Build the real parts, fly until asked to stop, end in order."""
    if options.rate != 1.0 and options.rig_port is None:
        raise ConfigError("--rate", f"{options.rate:g} needs --rig-port: a real satellite has one rate")
    where = str(options.mission)
    mission = mission_file.load(options.mission)
    if options.clear:
        mission = dataclasses.replace(mission, link=dataclasses.replace(mission.link, security="clear"))
    if mission.flight and options.rig_port is not None:
        raise ConfigError(where, "flight = true: a satellite that flies takes no readings from a rig (--rig-port)")
    forecaster_of(mission, where)  # what is wrong with orbit or start is said before anything is opened
    folder = _make_folder(options.state or Path("state") / mission.name)
    if options.lockstep:
        return _run_lockstep(options, mission, folder)
    if options.port is None:
        raise ConfigError("--port", "is missing: the serial port to the ground")
    with ExitStack() as stack:
        stack.enter_context(hold(folder))
        stop = stack.enter_context(StopRequest())
        ring = _ring(stack, options, mission)
        board_file = linux.load_board_file(options.board_file) if options.board_file else BoardFile()
        port = stack.enter_context(SerialPort(options.port, options.baud or mission.link.baud))
        ports: list[tuple[SerialPort, Callable[[float], None]]] = []
        rig: RigBoard | None = None
        board: Board
        if options.rig_port is not None:
            rig_port = stack.enter_context(SerialPort(options.rig_port, options.rig_baud))
            board = rig = RigBoard(rig_port, mission.compute.nodes, _rig_devices(options, mission))
            ports.append((rig_port, rig.serve))
        else:
            board = _local_board(options, board_file, mission.compute.nodes)
        bundles, problems = load_bundles(options.jobs)
        # Without a regions file every policy that names a region forbids everything.
        regions_file = options.regions or options.mission.with_name("regions.toml")
        regions = load_regions(regions_file) if options.regions or regions_file.exists() else Regions({}, 1.0, 0.0)
        stations = [station.name for station in mission.stations]

        def policy_problems(manifest: Manifest) -> list[str]:
            return problems_of(manifest.data, manifest.pause, regions.names, stations)

        unlawful = {name: found for name, bundle in bundles.items() if (found := policy_problems(bundle.manifest))}
        for name, found in unlawful.items():
            problems += (f"{bundles.pop(name).folder}: {'; '.join(found)}",)
        jobs_folder = _make_folder(folder / "jobs")
        sandbox = probe(jobs_folder, Path(sys.executable))
        stack.callback(sandbox.close)
        # Before the guardian: attacks are over before anything is leased to a job.
        attacked = run_self_test(sandbox, jobs_folder, Path(sys.executable), MonotonicClock())
        processes = ProcessRunner(jobs_folder, Path(sys.executable), sandbox)
        run_folder = _make_folder(options.run_dir or folder / "run")
        limits = guardian_config(mission)
        guardian = KeptGuardian(
            ProcessGuardian(limits, run_folder / "guardian.sock", run_folder, options=board_file.guardian_options),
            limits.floor_w, options.rate)
        # A guardian that pets a watchdog is not ended with us: that would reset the board.
        stack.callback(guardian.close, stop="--watchdog" not in board_file.guardian_options)
        noted_s = FactFile(folder).facts.now_s
        custody = custody_of(mission, where, bundles, regions, lambda job_id: processes.folder(job_id) / "out", folder,
                             os.urandom, noted_s)
        jobs = OnboardJobs(processes, bundles, custody.at_rest, options.rate)
        inbox = _inbox(options, mission, folder, bundles, attacked, policy_problems, custody.receive)
        supervisor = build(mission, options.mission.read_text("utf-8"),
                           Parts(board, guardian, jobs, inbox, port,
                                 options.always_transmit,
                                 boot_events=(_sandbox_event(attacked),), custody=custody,
                                 bundle_inbox=_inbox_folder(options, folder),
                                 result_of=_results(bundles, folder / "results"), ring=ring), folder, where)
        stack.callback(supervisor.close)
        jobs.sweep({view.spec.job_id for view in supervisor.brain.open_jobs})
        clock = MonotonicClock(options.rate, resume_time_s(folder, noted_s, options.rate))
        if rig is not None:
            _await_plant(rig, clock, _PLANT_ANSWERS_WITHIN_S * options.rate, options.rig_port, stop)
        for line in (*_start_report(mission, board, port, bundles, problems, folder), *attacked.lines()):
            print(line, flush=True)
        gc.collect()
        gc.freeze()  # what was built stays; the collector need not look at it again
        if options.real_time:
            print(f"real time: {go_real_time(options.real_time)}", flush=True)
        ports.append((port, lambda _now_s: supervisor.listen()))
        Executive(supervisor, clock, stop, ports, _reporter(rig, guardian, jobs, mission.compute.nodes)).run()
    print("flightsw: ended as asked; jobs ended, caps at the floor, recording closed", flush=True)
    return EXIT_OK


def _ring(stack: ExitStack, options: argparse.Namespace, mission: Mission) -> KeyRing | None:
    """Open the keys of the link; None, loudly, where it is in clear."""
    if options.clear or mission.link.security == "clear":
        print("flightsw: THE LINK IS IN CLEAR. Anyone at the line can command this satellite.", file=sys.stderr,
              flush=True)
        return None
    if mission.link.framing == "cobs":
        print("flightsw: TELEMETRY IS IN CLEAR with framing 'cobs'; commands are sealed.", file=sys.stderr, flush=True)
    return stack.enter_context(open_ring(options.keys, End.BOARD, mission.link.spacecraft_id))


def _run_lockstep(options: argparse.Namespace, mission: Mission, folder: Path) -> int:
    """Fly in lockstep with a simulated satellite, which brings readings, jobs and the ground line with each tick."""
    if options.rig_port is None:
        raise ConfigError("--lockstep", "needs --rig-port: the port of the simulated satellite")
    with ExitStack() as stack:
        stack.enter_context(hold(folder))
        stop = stack.enter_context(StopRequest())
        port = stack.enter_context(SerialPort(options.rig_port, options.rig_baud, 2 * FRAME_OCTETS_MAX))
        board = LockstepBoard(port, InProcessGuardian(guardian_config(mission)), mission.compute.nodes)
        ring = _ring(stack, options, mission)
        supervisor = build(mission, options.mission.read_text("utf-8"),
                           Parts(board, board, board, board, board, options.always_transmit, duty_throttle=False,
                                 ring=ring),
                           folder, str(options.mission))
        stack.callback(supervisor.close)
        print(f"flightsw: mission {mission.name} in lockstep with {port.path}; state in {folder}", flush=True)
        gc.collect()
        gc.freeze()
        follow(board, port, supervisor, stop)
    print(f"flightsw: ended as asked after {board.ticks} ticks, {board.repeats} answered again, "
          f"{board.bad_frames} bad frames", flush=True)
    return EXIT_OK


def _inbox(options: argparse.Namespace, mission: Mission, folder: Path, bundles: dict[str, Bundle],
           attacked: SelfTest, policy_problems: Callable[[Manifest], Sequence[str]], receive: Receive) -> Inbox:
    """Where signed bundles come in, when there are customers."""
    inbox = _inbox_folder(options, folder)
    if inbox is None:
        return GroundOnly()
    working = {mode.name: mode.draw_w for mode in mission.compute.modes if mode.rate > 0.0}
    missing = ", ".join(finding.threatens for finding in attacked.broken)
    # On a clock that runs faster a core needs as much more of the mission's time for the same work.
    units_per_core_s = mission.compute.modes[-1].rate * options.rate
    return Intake(inbox, folder / "bundles", load_customers(options.customers), working,
                  start_unix_s(mission, str(options.mission)), bundles,
                  f"this machine does not hold back {missing}" if missing else "", policy_problems, units_per_core_s,
                  receive)


def _inbox_folder(options: argparse.Namespace, folder: Path) -> Path | None:
    """Where bundles are put for `_inbox`, None when nobody may submit any."""
    if options.customers is None:
        return None
    inbox: Path = options.inbox or folder / "inbox"
    return inbox


def _results(bundles: Mapping[str, Bundle], results: Path) -> Callable[[JobSpec], Result | None]:
    """Tell what a job that just finished has made, while its bundle is still on board."""

    def result_of(spec: JobSpec) -> Result | None:
        bundle = bundles.get(spec.manifest)
        if bundle is None:
            return None
        manifest = bundle.manifest
        folder = results / str(spec.job_id)
        return Result(spec.job_id, spec.value, tuple([folder / name for name in manifest.outputs]), manifest.data)

    return result_of


def _sandbox_event(attacked: SelfTest) -> Event:
    """What the ground hears of the sandbox's self-test."""
    if attacked.broken:
        return Event("sandbox_broken", (", ".join(finding.threatens for finding in attacked.broken),))
    return Event("sandbox_held", (len(attacked.findings), attacked.took_s))


def _rig_devices(options: argparse.Namespace, mission: Mission) -> LinuxBoard | None:
    """Drivers on the files in which a rig serves its readings, where it does."""
    if options.rig_sysfs is None:
        return None
    board_file = linux.load_board_file(options.rig_sysfs / BOARD_FILE)
    return LinuxBoard(board_file.candidates, options.rig_sysfs, mission.compute.nodes)


def _reporter(rig: RigBoard | None, guardian: KeptGuardian, jobs: OnboardJobs,
              nodes: int) -> Callable[[float, float, int], None]:
    """What is told to the simulated satellite after each tick; nothing where there is none."""
    if rig is None:
        return lambda _now_s, _late_s, _overruns: None
    meter = BusyMeter(jobs, nodes)

    def report(now_s: float, late_s: float, overruns: int) -> None:
        in_force = guardian.last.nodes
        caps_w = [math.nan if node.read_back_w is None else node.read_back_w for node in in_force]
        rig.report(now_s, caps_w or [math.nan] * nodes, meter.read(), late_s, overruns)

    return report


def _await_plant(rig: RigBoard, clock: MonotonicClock, within_s: float, path: str, stop: StopRequest) -> None:
    """Greet the plant until its sensors come; BoardError when they do not. Samples are stamped with `clock`."""
    give_up_s = clock.now_s() + within_s
    while not rig.linked and not stop.asked:
        now_s = clock.now_s()
        rig.serve(now_s)
        if now_s > give_up_s:
            raise BoardError(f"rig port {path}: no plant answered within {_PLANT_ANSWERS_WITHIN_S:g} s"
                             + (f": {rig.refused}" if rig.refused else ""))
        clock.wait_until(now_s + 0.001 * within_s)


def _start_report(mission: Mission, board: Board, port: SerialPort, bundles: Iterable[str],
                  problems: Sequence[str], folder: Path) -> list[str]:
    """What an engineer must know before walking away from the machine."""
    return [
        f"flightsw: mission {mission.name}, {mission.compute.nodes} compute nodes; state in {folder}",
        f"link: {port.path} at {port.baud} baud",
        "sensors:", *(f"  {line}" for line in board.describe()),
        "which means:", *(f"  {line}" for line in consequences(_fitted(board), mission)),
        f"jobs on board: {', '.join(sorted(bundles)) or 'none; every job.submit will fail'}",
        *(f"  left out: {problem}" for problem in problems),
    ]


def _fitted(board: Board) -> frozenset[str]:
    if isinstance(board, (LinuxBoard, RigBoard)):
        return board.fitted
    return frozenset()


def consequences(fitted: frozenset[str], mission: Mission) -> list[str]:
    """Say what a satellite with these sensors can do, by asking the estimator that will fly."""
    values = tuple([0.5 * (row.low + row.high) if row.name in fitted else None for row in SENSORS])
    readings = Readings(0.0, values, tuple([int(Quality.NOT_FITTED if v is None else Quality.GOOD) for v in values]),
                        (0.0,) * len(values))
    estimate = Estimator(mission).update(readings, mission.parameters["blind_after_s"])
    lines = []
    if estimate.blind:
        lines.append(f"no {', no '.join(estimate.blind)}: the state is not known, compute stays off and every job is "
                     "refused with STATE_UNKNOWN")
    lines += [f"no die{node}_c: compute node {node} stays off" for node in estimate.dark_nodes]
    unmeasured = [name for name in fitted_names(mission.compute.nodes) if name not in fitted
                  and name not in estimate.blind and not name.startswith("die")]
    if unmeasured and not estimate.blind:
        lines.append(f"no {', no '.join(unmeasured)}: telemetry shows them as missing, bounds are wider")
    return lines or ["every sensor that compute needs is there"]


def _local_board(options: argparse.Namespace, board_file: BoardFile, nodes: int) -> LinuxBoard:
    """Board of this machine's own sensors."""
    name = options.board if options.board != "auto" else _detect(options.sysfs)
    return LinuxBoard(linux.merge(_BOARDS[name], board_file.candidates), options.sysfs, nodes)


def _detect(sysfs: Path) -> str:
    """Name of the board that the device tree says this is; `linux` for any other."""
    try:
        model = (sysfs / "firmware/devicetree/base/model").read_text("utf-8", "replace").lower()
    except OSError:
        return "linux"
    return next((board for words, board in _MODELS if words in model), "linux")


def _make_folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be made: {error.strerror}") from error
    return path


# --- sensors and check -------------------------------------------------------------------------------


def _sensors(options: argparse.Namespace) -> int:
    """Report this machine's devices, each with its value now."""
    board_file = linux.load_board_file(options.board_file) if options.board_file else BoardFile()
    nodes = mission_file.load(options.mission).compute.nodes if options.mission else NODE_COUNT_MAX
    board = _local_board(options, board_file, nodes)
    clock = MonotonicClock()
    board.read_sensors(clock.now_s())
    clock.wait_until(0.2)  # an energy counter says nothing before its second reading
    values = {row.name: reading for row, reading in zip(SENSORS, board.read_sensors(clock.now_s()), strict=True)}
    units = {row.name: row.unit for row in SENSORS}
    for line in board.describe():
        name = line.split()[0]
        reading = values[name]
        shown = "" if reading is None else (
            " = no value" if reading.value is None else f" = {reading.value:.3f} {units[name]}")
        print(line + shown)
    if options.mission:
        print("\n".join(consequences(board.fitted, mission_file.load(options.mission))))
    return EXIT_OK


def _check(options: argparse.Namespace) -> int:
    """Say what a mission file means."""
    mission = mission_file.load(options.mission)
    where = str(options.mission)
    forecaster = forecaster_of(mission, where)
    start_s = start_unix_s(mission, where)
    orbit = Orbit(parse_tle(mission.orbit.tle, f"{where}: orbit.tle"))
    eclipses = [e.penumbra_exit_unix_s - e.penumbra_entry_unix_s for e in orbit.eclipses(start_s, start_s + _DAY_S)]
    print(f"{where}: mission {mission.name}: {mission.description}")
    print(f"orbit: period {orbit.period_s / 60.0:.2f} min, {_DAY_S / orbit.period_s:.2f} orbits a day, starts "
          f"{_utc(start_s)}")
    print(f"eclipses of the first day: {len(eclipses)}" + (
        f", {min(eclipses) / 60.0:.1f} to {max(eclipses) / 60.0:.1f} min" if eclipses else ": always in sunlight"))
    for station in mission.stations:
        passes = orbit.passes(station, start_s, start_s + _DAY_S)
        print(f"passes over {station.name} above {station.min_elevation_deg:g} deg: {len(passes)}")
        for contact in passes:
            print(f"  {_utc(contact.aos_unix_s)}  {(contact.los_unix_s - contact.aos_unix_s) / 60.0:4.1f} min  "
                  f"{contact.peak_elevation_deg:2.0f} deg high")
    capacity_j = mission.battery.capacity_wh * J_PER_WH
    estimate = _nominal(mission, 0.95 * capacity_j)
    plan = planner.plan(forecaster, estimate, planner.RateCurve(mission), mission.parameters)
    budgets = sorted(set(plan.budget_w))
    print(f"power from {0.95:.0%} charge and 15 degC: {' or '.join(f'{w:.1f}' for w in budgets)} W for compute, lowest "
          f"charge {plan.battery_min_frac:.1%}, binding limit {plan.binding_limit or 'none'}"
          + ("; no plan keeps every limit" if plan.is_fallback else ""))
    mean_rate = sum(plan.rate_units_s) / len(plan.rate_units_s)
    print(f"work at that plan: {mean_rate * orbit.period_s:.0f} units an orbit (one unit is a second of a node in its "
          "reference mode)")
    print(_link_text(mission))
    return _check_sandbox() if options.sandbox else EXIT_OK


def _link_text(mission: Mission) -> str:
    """Say how the line is coded and what it carries."""
    link, stack = mission.link, stack_of(mission)
    units = "packets in COBS" if stack.framing == "cobs" else (
        f"frames of {stack.frame_octets} octets, {'Reed-Solomon coded' if stack.reed_solomon else 'uncoded'}")
    security = link.security
    if security == "clear":
        security = "IN CLEAR"
    elif stack.framing == "cobs":
        security = "commands sealed, telemetry in clear"
    rate_octets_s = stack.packet_octets_s(link.baud, sealed=link.security != "clear")
    return f"link: {units}, {security}; {link.baud} baud carry {rate_octets_s:,.0f} octets of packets a second"


def _audit(options: argparse.Namespace) -> int:
    """Write a state folder's audit log to a file and check it."""
    if not (options.state / "audit").is_dir():
        raise ConfigError(str(options.state), "has no audit log")
    with hold(options.state):
        log = AuditLog(options.state / "audit", "", 0.0)
        try:
            records = log.export(options.file)
        except OSError as error:
            raise BoardError(f"{options.file}: {error.strerror}") from error
        finally:
            log.close()
    found = verify(options.file.read_bytes().splitlines(), {})
    for harm in found.breaks:
        print(f"line {harm.line}: {harm.harm.value}: {harm.text}")
    print(f"{options.file}: {records} records, " + (f"{len(found.breaks)} findings" if found.breaks
                                                    else f"whole, head {found.head}"))
    return EXIT_DEVICE if found.breaks else EXIT_OK


def _check_sandbox() -> int:
    """Attack this machine's sandbox; trouble when an attack gets through."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        Path(folder).chmod(0o711)  # jobs are other users, and pass through
        sandbox = probe(Path(folder), Path(sys.executable))
        stack.callback(sandbox.close)
        attacked = run_self_test(sandbox, Path(folder), Path(sys.executable), MonotonicClock())
    print("\n".join(attacked.lines()))
    if attacked.problem:
        print(f"untrusted jobs are refused: {attacked.problem}")
    return EXIT_DEVICE if attacked.problem else EXIT_OK


def _nominal(mission: Mission, battery_j: float) -> Estimate:
    """A healthy satellite at 15 degC, for the question what a plan would afford."""
    nodes = mission.compute.nodes
    known = Bounded(KELVIN + 15.0, KELVIN + 15.0, KELVIN + 15.0)
    return Estimate(0.0, Bounded(battery_j, battery_j, battery_j), (known,) * (nodes + 5), None, None,
                    (None,) * nodes, None, (), ())


def _utc(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- arguments ---------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="flightsw", description=_DESCRIPTION, epilog=_EPILOG,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    run = commands.add_parser("run", help="fly a mission on this machine", description=_RUN_HELP)
    run.set_defaults(action=_run)
    run.add_argument("--mission", type=Path, required=True, metavar="FILE", help="mission file (TOML)")
    run.add_argument("--port", metavar="DEV", help="serial port to the ground, exclusively ours")
    run.add_argument("--baud", type=int, metavar="N", help="its speed (default: the mission's link.baud)")
    run.add_argument("--keys", type=Path, default=DEFAULT_FILE, metavar="FILE",
                     help="keys of the link, made by `ground keys new` (default: %(default)s)")
    run.add_argument("--clear", action="store_true",
                     help="fly without keys, for a test: ANYONE at the line can command this satellite")
    run.add_argument("--state", type=Path, metavar="DIR",
                     help="what must survive: jobs, facts, recordings (default: state/<mission name>)")
    run.add_argument("--run-dir", type=Path, metavar="DIR",
                     help="the guardian's socket and cap files; best on a RAM disk (default: <state>/run)")
    run.add_argument("--jobs", type=Path, default=_EXAMPLE_JOBS, metavar="DIR",
                     help="job bundles, DIR/*/job.toml (default: the examples)")
    run.add_argument("--regions", type=Path, metavar="FILE",
                     help="outlines that data policies name (default: regions.toml beside the mission file)")
    run.add_argument("--customers", type=Path, metavar="FILE",
                     help="who may submit signed bundles (TOML); without it none are taken")
    run.add_argument("--inbox", type=Path, metavar="DIR",
                     help="where signed bundles arrive, DIR/*.job (default: <state>/inbox)")
    run.add_argument("--always-transmit", action="store_true",
                     help="keep the transmitter on outside passes: the ground is at the other end of a cable")
    run.add_argument("--real-time", type=int, nargs="?", const=50, choices=range(1, 99), metavar="PRIORITY",
                     help="run the loop under SCHED_FIFO (50) with its memory locked, as far as the machine allows")
    _add_board_arguments(run)
    bench = run.add_argument_group("bench only")
    bench.add_argument("--rig-port", metavar="DEV", help="port of a simulated satellite's sensors and actuators")
    bench.add_argument("--rig-baud", type=int, default=921_600, metavar="N", help="its speed (default: %(default)s)")
    bench.add_argument("--rig-sysfs", type=Path, metavar="DIR",
                       help=f"read its sensors through the drivers, from files that DIR/{BOARD_FILE} names")
    bench.add_argument("--lockstep", action="store_true",
                       help="tick only when the simulated satellite says so; it brings jobs and ground line as well")
    bench.add_argument("--rate", type=_rate, default=1.0, metavar="X",
                       help=f"run mission time X times as fast, up to {_RATE_MAX:g}; needs --rig-port")

    check = commands.add_parser("check", help="say what a mission file means, or what is wrong with it",
                                description="Check a mission file and print orbit, eclipses, passes and power.")
    check.set_defaults(action=_check)
    check.add_argument("mission", type=Path, metavar="MISSION", help="mission file (TOML)")
    check.add_argument("--sandbox", action="store_true",
                       help="also attack the sandbox that jobs get on this machine, and say what holds")

    sensors = commands.add_parser("sensors", help="report this machine's sensors",
                                  description="List every sensor of the dictionary: its device and value, or what was "
                                              "looked for in vain.")
    sensors.set_defaults(action=_sensors)
    sensors.add_argument("--mission", type=Path, metavar="FILE", help="expect this mission's nodes, and say what is "
                                                                      "missing for it")
    _add_board_arguments(sensors)

    audit = commands.add_parser("audit", help="write out the audit log of a satellite that does not fly now",
                                description="Write the audit log of a state folder to one file and say whether it is "
                                            "whole. From a satellite that flies: `ground send data.audit`, then "
                                            "`file.get audit.log`.")
    audit.set_defaults(action=_audit)
    audit.add_argument("state", type=Path, metavar="STATE", help="state folder, as `flightsw run --state`")
    audit.add_argument("file", type=Path, metavar="FILE", help="where to write it")

    author.add_parser(commands.add_parser("job", help="make, check, pack and sign jobs for the satellite"))
    return parser


def _add_board_arguments(parser: argparse.ArgumentParser) -> None:
    board = parser.add_argument_group("board")
    board.add_argument("--board", choices=("auto", *_BOARDS), default="auto",
                       help="whose sensors to look for (default: what the device tree says)")
    board.add_argument("--board-file", type=Path, metavar="FILE", help="TOML file that names devices and cap files")
    board.add_argument("--sysfs", type=Path, default=linux.SYSFS, metavar="DIR",
                       help="where the devices are (default: %(default)s)")


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0.0 < rate <= _RATE_MAX:
        raise argparse.ArgumentTypeError(f"{text!r}: a number above 0 and up to {_RATE_MAX:g} is expected")
    return rate


if __name__ == "__main__":
    raise SystemExit(main())

"""The serial bench: the flight software as its own process behind real serial ports, against the true satellite.

Called by `hil serial`. The flight program is started as a user would start it; what it sees are two pseudo-terminals:
the line to the ground, paced and disturbed as the scenario says, and the rig line to the true satellite. This process
holds the other ends: plant, ground station with its archive, and the operator's script. Time is real, or a stated
multiple of it, on absolute deadlines.

The truth takes the caps from the guardian's files, so that they hold whoever is alive, and the nodes' draw from how
much the job processes really run. The scenario's stream of jobs stays at home: jobs here are real, and come by
telecommand. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import math
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flightsw.clock import MonotonicClock
from flightsw.compose import guardian_config, stack_of
from flightsw.dictionary.commands import Value, parse_text_argument
from flightsw.dictionary.sensors import INDEX
from flightsw.errors import ConfigError, LinkError
from flightsw.executive import go_real_time
from flightsw.guardian import GuardianHealth, GuardianStatus, NodeInForce, ProcessGuardian
from flightsw.jobs import bundle
from flightsw.jobs.ledger import Ledger, LedgerEntry
from flightsw.jobs.manifest import load_manifest
from flightsw.jobs.profile import profile_job
from flightsw.link.serial_port import SerialPort
from flightsw.state import JobState, Mode
from flightsw.store import Store
from ground.archive import Archive
from ground.files import FileDesk, folder_of
from ground.station import CommandReport, CommandState, EventReport, HousekeepingReport, Report, Station, command_row
from ground.watch import report_line
from hil import junit, link_keys, run
from hil.channel import PtyLine
from hil.plant.satellite import TruthSatellite
from hil.rig_link import PlantLink
from hil.scenario import Edges, FaultStep, Scenario, find, load
from hil.sysfs_tree import SysfsTree
from hil.timekeeping import Punctuality
from hil.verdict import Finding, Verdict, overall

RIG_BAUD = 921_600
START_WITHIN_S = 180.0  # the sandbox's self-test included, on a machine that has other things to do
EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "jobs"
_HOSTILE_JOBS = EXAMPLES.with_name("hostile")
_HOSTILE = "job.hostile"
_FIRST_ATTACK_ID = 60_001  # of the jobs that a scenario's hostile faults become
_ATTACK_S = 2.0  # of a core, declared: an attack that takes longer runs over, as one does
_BUNDLES, _CUSTOMERS = "bundles", "customers.toml"
_FLOOR_STEP_S = 0.002  # how often the cap files are looked at once the supervisor is killed
_LEASE_SLACK_S = 0.25  # a turn of the guardian (50 ms) and this machine's scheduling
_SYSFS = "sys"
_SYNC_EVERY_S = 1.0  # of this machine
_PRIORITY = 40  # of this process in real time; the flight program's is above it
_ORDINARY = "ordinary (--real-time asks for SCHED_FIFO and locked memory)"
_LATENESS = ("p50_ms", "p99_ms", "p99.9_ms", "max_ms", "drift_ms")
_SUN = 0  # of the truth's values
_STILL_FRAC = 0.02
_STARVED_FRAC = 0.5  # of their allowed time that jobs ran
_LOOK_S = 0.2  # how often the job processes are looked at
_END_WITHIN_S = 60.0
_SETTLE_S = 10.0  # of mission time in which the ground hears of the last end
_ENDINGS = {"job_finished", "job_failed", "job_withdrawn", "job_cancelled", "job_expired"}
_ALIVE = GuardianStatus(GuardianHealth.ALIVE, False, False, False, False, False, 0, 0, 0.0, 0, 0, (), 0, 0, 0, ())
_WAKE_AGAIN_S = 2.0  # of mission time between the boot heard after a restart, STANDBY and COMPUTE


@dataclass(frozen=True, slots=True)
class Options:
    """How the bench is to be run; `kill_at_s` and `restart_after_s` are mission time."""

    rate: float = 1.0
    kill_at_s: float | None = None
    restart_after_s: float | None = None
    interactive: bool = False
    jobs: Path | None = None  # job folders; None for the flight program's own choice
    signed: bool = False  # hand each of them over as a signed bundle as well
    until_done: bool = False  # end when every job has, at the scenario's duration at the latest
    check_results: bool = False
    real_time: bool = False  # both loops under SCHED_FIFO, memory locked
    sysfs: bool = False  # the readings as files, for the flight program's drivers


def hand_over(jobs: Path, folder: Path) -> Path:
    """Make a bundle of every job of `jobs` for the ground to upload, signed with a key that is then forgotten.

    Return the customers file that the flight program needs to know them.
    """
    bundles = folder / _BUNDLES
    bundles.mkdir(parents=True)
    keys: dict[str, Ed25519PrivateKey] = {}
    for path in sorted(jobs.glob("*/job.toml")):
        packed = bundle.pack(path.parent)
        key = keys.setdefault(bundle.examine(packed).manifest.customer, Ed25519PrivateKey.generate())
        (bundles / f"{path.parent.name}{bundle.SUFFIX}").write_bytes(bundle.sign(packed, key))
    customers = folder / _CUSTOMERS
    customers.write_text("".join(
        f'[[customer]]\nname = "{name}"\npublic_key = "{key.public_key().public_bytes_raw().hex()}"\ntrusted = true\n'
        for name, key in keys.items()))
    return customers


_Step = tuple[float, str, tuple[Value, ...]]  # when, verb, arguments


# --- what the truth is given -------------------------------------------------------------------------


class CapFiles:
    """The caps in force as the guardian's files say; `hil.plant.satellite.Caps`."""

    def __init__(self, folder: Path, floor_w: Sequence[float]) -> None:
        self._paths = [folder / f"node{node}_cap_mw" for node in range(len(floor_w))]
        self._caps_w = list(floor_w)  # until a guardian has written: nothing is powered above it

    def read_w(self) -> list[float]:
        """Caps of all nodes in W; the last known where a file says nothing."""
        for node, path in enumerate(self._paths):
            with contextlib.suppress(OSError, ValueError, IndexError):
                self._caps_w[node] = int(path.read_text().splitlines()[0]) / 1000.0
        return self._caps_w

    def status(self, _now_s: float) -> GuardianStatus:
        """See `Caps`; only the caps are known here."""
        nodes = tuple([NodeInForce(cap_w, cap_w, 0, 0.0, False, False, False, False) for cap_w in self.read_w()])
        return _ALIVE._replace(nodes=nodes)


class RealLoad:
    """What the job processes draw; `hil.plant.satellite.Load`.

    The board reports for each node how much of the last second its job ran. The guardian lets it run for the share
    that the power mode stands for, so a job that takes all of its share has activity 1.
    """

    def __init__(self, duties_frac: Sequence[float], nodes: int) -> None:
        self._duties_frac = duties_frac  # by power mode of the truth
        self.busy_frac: tuple[float, ...] = (0.0,) * nodes
        self.modes: Sequence[int] = (0,) * nodes
        self.ran_s = 0.0  # node-seconds in which a job really ran
        self.allowed_s = 0.0  # node-seconds that those jobs were allowed

    def activities(self) -> list[float | None]:
        """See `Load`. Less than a fiftieth of a core is no job."""
        return [
            None if busy < 0.02 else min(1.0, busy / max(self._duties_frac[mode], 0.02))
            for busy, mode in zip(self.busy_frac, self.modes, strict=True)
        ]

    def work(self, _now_s: float, dt_s: float, rates: Sequence[float]) -> None:
        """See `Load`. The processes do the work; this only counts how long."""
        for busy, mode, rate in zip(self.busy_frac, self.modes, rates, strict=True):
            if rate > 0.0:
                self.ran_s += busy * dt_s
                self.allowed_s += self._duties_frac[mode] * dt_s


# --- the flight process ------------------------------------------------------------------------------


class FlightProcess:
    """The flight program under test, started as a user would start it, in a session of its own."""

    def __init__(self, command: Sequence[str], log: Path, jobs_folder: Path) -> None:
        self._command = command
        self._log = log
        self._jobs_folder = jobs_folder.resolve()
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    @property
    def pid(self) -> int:
        """Process number of the latest start."""
        if self._process is None:
            raise ConfigError("flight program", "has not been started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """True while it has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, or start it again after its end."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log,
                                             stderr=subprocess.STDOUT, start_new_session=True)
        self.starts += 1

    def kill(self) -> None:
        """Kill it without warning and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def end(self) -> int | None:
        """Ask it to end and return its exit code; None when it had to be killed."""
        if self._process is None:
            return None
        self._process.terminate()
        try:
            return self._process.wait(_END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def last_words(self) -> str:
        """Return the last line that it printed."""
        lines = self._log.read_text("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "printed nothing"

    def jobs(self) -> dict[int, int]:
        """Job processes now: job id by process number."""
        found = {}
        for pid in _descendants(self.pid):
            with contextlib.suppress(OSError, ValueError):
                folder = Path(f"/proc/{pid}/cwd").readlink()
                if folder.parent == self._jobs_folder:
                    found[pid] = int(folder.name)
        return found


def _descendants(pid: int) -> list[int]:
    """Processes below one; a job is some way down, behind its sandbox program."""
    try:
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return children + [below for child in children for below in _descendants(child)]


def _is_alive(pid: int) -> bool:
    """True while a process of this number can still run: it is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


# --- the bench ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Kill:
    """What followed after the supervisor was killed; seconds of this machine."""

    at_s: float
    caps_before_w: list[float]
    jobs: dict[int, int]
    acknowledged: frozenset[int]
    floor_after_s: float | None = None
    jobs_gone_after_s: float | None = None
    looked_at_s: float = 0.0
    blind_s: float = 0.0  # longest time between two looks: so much later than it was may something have been seen


@dataclass(slots=True)
class _Notes:
    """What was seen from the ground and of the processes."""

    structures: dict[str, int] = field(default_factory=dict)
    promised: set[int] = field(default_factory=set)
    finished: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)
    events: dict[str, int] = field(default_factory=dict)
    command_ms: list[dict[str, object]] = field(default_factory=list)
    processes: dict[int, set[int]] = field(default_factory=dict)  # process numbers by job
    queued: set[int] = field(default_factory=set)
    handed_over: int = 0  # bundles that the satellite has answered
    still_in_eclipse_s: float = 0.0  # with a started job that did nothing
    charge_min: float = 1.0
    die_c_max: float = -math.inf


class SerialBench:
    """One run. `say` takes the lines that an operator sees."""

    def __init__(self, scenario: Scenario, folder: Path, options: Options, say: Callable[[str], None]) -> None:
        self._scenario = scenario
        self._folder = folder
        self._options = options
        self._say = say
        self._mission = scenario.mission
        self._notes = _Notes()
        self._ticks = Punctuality(run.TICK_S, options.rate)
        self._kill: _Kill | None = None
        self._restarted_at_s: float | None = None
        self._boots_before: int | None = None  # heard before a restart whose boot is waited for
        self._trouble = ""
        self._scheduled = _ORDINARY
        self.punctuality: list[str] = []
        """How punctual both loops were, as lines to print, once it has flown."""
        self._sent: list[int] = []
        self._attacks = dict(enumerate((step for step in scenario.faults
                                        if step.kind == _HOSTILE and step.at is not None), _FIRST_ATTACK_ID))
        self._floor_w = guardian_config(scenario.mission).floor_w

    @property
    def _is_expected(self) -> bool:
        """True while the flight program should be flying: never killed, or started again."""
        return self._kill is None or self._restarted_at_s is not None

    def fly(self) -> list[Finding]:
        """Fly the scenario and return the verdict; everything that was started is ended on any way out."""
        scenario, options, folder = self._scenario, self._options, self._folder
        link = scenario.link
        around = run.surroundings(scenario)
        seen = run.in_contact(scenario, around)
        edges = run.edges_of(scenario, around)
        truth = run.draw_truth(scenario)
        with ExitStack() as stack:
            run_folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hil-serial-")))
            line = stack.enter_context(PtyLine(link.baud, link.latency_s, link.bit_error_rate, scenario.seed,
                                               options.rate))
            rig_line = stack.enter_context(PtyLine(RIG_BAUD, rate=options.rate))
            caps = CapFiles(run_folder, self._floor_w)
            top_rate = truth.compute.modes[-1].rate
            load = RealLoad([mode.rate / top_rate for mode in truth.compute.modes], truth.compute.nodes)
            satellite = run.true_satellite(scenario, truth, around, edges, caps, load)
            plant_port = stack.enter_context(SerialPort(rig_line.port_b, RIG_BAUD))
            tree = SysfsTree(run_folder / _SYSFS, truth.compute.nodes) if options.sysfs else None
            if tree is not None:
                tree.write(satellite.read_sensors(0.0))
            plant = PlantLink(plant_port, run.TICK_S, options.rate, tree)
            archive = stack.enter_context(Archive(folder / "ground.sqlite"))
            ground_port = stack.enter_context(SerialPort(line.port_b, link.baud))
            station = Station(ground_port, archive, scid=self._mission.link.spacecraft_id,
                              apid=self._mission.link.apid, epoch_s=scenario.start_unix_s,
                              stack=stack_of(self._mission),
                              seals=stack.enter_context(link_keys.ground_seals(scenario, folder)))
            station.listen(self._hear(station))
            files = FileDesk(station, folder_of(archive.path), link.baud)
            stack.callback(files.close)
            for path in sorted((folder / _BUNDLES).glob(f"*{bundle.SUFFIX}")):
                files.upload(path, path.name)
            flight = FlightProcess(self._command(line.port_a, rig_line.port_a, run_folder), folder / "flight.log",
                                   folder / "flight" / "jobs")
            stack.callback(self._end_guardian, run_folder)
            stack.callback(flight.end)
            script = sorted((*((at_s, step.verb, step.values) for step in scenario.ground
                               if step.at is not None and (at_s := step.at.resolve(edges)) is not None),
                             *self._attack(edges)), key=lambda entry: entry[0])
            flight.start()
            clock = self._await_greeting(flight, plant, plant_port)
            if clock is not None:
                self._loop(clock, flight, satellite, plant, station, files, load, caps, line, seen.tolist(), script,
                           (plant_port, ground_port))
            exit_code = flight.end()
            at_floor = max(a - b for a, b in zip(caps.read_w(), self._floor_w, strict=True)) <= 0.0
            archive.flush()
            checks = self._judge(station, load, plant, exit_code, at_floor)
            self._write(station, satellite, load, line, plant, checks)
        return checks

    def timing(self, plant: PlantLink) -> dict[str, object]:
        """Contents of `timing.json` that every run has: how punctual both loops were, and what they ran under."""
        log = self._folder / "flight.log"
        said = re.findall(r"(?m)^real time: (.*)$", log.read_text("utf-8", "replace")) if log.exists() else []
        return {
            "rate": self._options.rate, "period_ms": 1e3 * run.TICK_S / self._options.rate,
            "plant": self._ticks.summary() | {"scheduling": self._scheduled},
            "flight_software": plant.ticks.summary() | {"left_out": plant.overruns,
                                                        "scheduling": said[-1] if said else _ORDINARY},
            "clock_of_flight_software": plant.clock.summary(),
        }

    def _attack(self, edges: Edges) -> Iterator[_Step]:
        """Give what the ground sends for the scenario's hostile jobs: each is submitted like any other."""
        arguments = command_row("job.submit").args
        for job_id, step in self._attacks.items():
            if step.at is not None and (at_s := step.at.resolve(edges)) is not None:
                words = (str(job_id), f"hostile_{step.target}", str(_ATTACK_S), "1.0", "1.0", "3600", "STOP_CONTINUE")
                yield at_s, "job.submit", tuple(map(parse_text_argument, arguments, words))

    def _jobs_folder(self) -> Path | None:
        """Folder of the job bundles for the flight program: with those that attack, where the scenario has any."""
        jobs = self._options.jobs
        if not self._attacks:
            return jobs
        folder = self._folder / "jobs"
        shutil.copytree(jobs or EXAMPLES, folder)
        for target in {step.target for step in self._attacks.values()}:
            shutil.copytree(_HOSTILE_JOBS / target, folder / f"hostile_{target}", dirs_exist_ok=True)
        return folder

    def _end_guardian(self, run_folder: Path) -> None:
        """End a guardian that outlived a killed supervisor; after an orderly end there is none."""
        path = run_folder / "guardian.sock"
        if path.exists():
            guardian = ProcessGuardian(guardian_config(self._mission), path, run_folder)
            guardian.start()
            guardian.stop()

    def _command(self, port: str, rig_port: str, run_folder: Path) -> list[str]:
        scenario, options = self._scenario, self._options
        mission = self._folder / "mission.toml"  # with the scenario's own orbit and start, where it has them
        mission.write_text(scenario.mission_toml, "utf-8")
        regions = scenario.mission_path.with_name("regions.toml")
        words = [
            sys.executable, "-m", "flightsw", "run", "--mission", str(mission), "--port", port,
            "--baud", str(scenario.link.baud), "--rig-port", rig_port, "--rig-baud", str(RIG_BAUD),
            "--keys", str(link_keys.hand_out(scenario, self._folder)),
            "--state", str(self._folder / "flight"), "--run-dir", str(run_folder), "--rate", f"{options.rate:g}",
        ]
        jobs = self._jobs_folder()
        words += ["--jobs", str(jobs)] if jobs else []
        words += ["--regions", str(regions)] if regions.exists() else []
        words += ["--real-time"] if options.real_time else []
        words += ["--rig-sysfs", str(run_folder / _SYSFS)] if options.sysfs else []
        if options.signed:
            words += ["--customers", str(self._folder / _CUSTOMERS)]
        return words + ["--always-transmit"] * (scenario.link.contact == "always")

    def _await_greeting(self, flight: FlightProcess, plant: PlantLink, port: SerialPort) -> MonotonicClock | None:
        """Wait until the flight program greets the plant; the mission's time begins then."""
        give_up_s = time.monotonic() + START_WITHIN_S
        while time.monotonic() < give_up_s and flight.is_running:
            select.select([port.fileno()], [], [], 0.1)
            plant.poll(0.0)
            if plant.greetings:
                return MonotonicClock(self._options.rate)
        self._trouble = (f"the flight program did not greet the plant within {START_WITHIN_S:g} s"
                         if flight.is_running else f"the flight program ended: {flight.last_words()}")
        return None

    def _loop(self, clock: MonotonicClock, flight: FlightProcess, satellite: TruthSatellite, plant: PlantLink,
              station: Station, files: FileDesk, load: RealLoad, caps: CapFiles, line: PtyLine, seen: list[bool],
              script: list[_Step], ports: tuple[SerialPort, SerialPort]) -> None:
        """Real time: plant on its ticks, everything else as octets come."""
        notes, options, tick = self._notes, self._options, 0
        ticks = int(self._scenario.duration_s / run.TICK_S)
        dies = [INDEX[f"die{node}_c"] for node in range(self._mission.compute.nodes)]
        greetings, up, look_at_s, sync_at_s = plant.greetings, True, 0.0, 0.0
        gc.collect()
        gc.freeze()  # what was built stays: no collection of it makes a tick late
        if options.real_time:
            self._scheduled = go_real_time(_PRIORITY)
            self._say(f"-- plant in real time: {self._scheduled}")
        readings = satellite.read_sensors(0.0)
        plant.send_sensors(0.0, readings)
        operator = _Keyboard() if options.interactive else None
        done_at_s: float | None = None
        while tick < ticks and (done_at_s is None or clock.now_s() < done_at_s + _SETTLE_S):
            if options.until_done and done_at_s is None and not script and self._jobs_are_done(station):
                done_at_s = clock.now_s()
            due_s = (tick + 1) * run.TICK_S
            watching = self._kill is not None and self._kill.floor_after_s is None
            until_s = min(due_s, clock.now_s() + _FLOOR_STEP_S * options.rate) if watching else due_s
            descriptors = [port.fileno() for port in ports] + ([0] if operator and operator.is_open else [])
            backlog = [port.fileno() for port in ports if port.backlog_octets]
            clock.wait_ready(until_s, descriptors, backlog)
            now_s = clock.now_s()
            station.poll(now_s)
            files.poll(now_s)
            plant.poll(now_s)
            if plant.greetings != greetings:  # a supervisor that was started again has thrown away what waited
                greetings = plant.greetings
                plant.send_sensors(satellite.now_s, readings)
            if self._kill is not None:
                self._watch_kill(self._kill, caps)
            while script and script[0][0] <= now_s:
                self._send(station, *script.pop(0)[1:], now_s)
            if operator:
                for words in operator.lines():
                    self._type(station, words, now_s)
            script = self._kill_or_restart(clock.now_s(), flight, caps, script)
            if time.monotonic() >= look_at_s:
                look_at_s = time.monotonic() + _LOOK_S
                for pid, job_id in (flight.jobs() if flight.is_running else {}).items():
                    notes.processes.setdefault(job_id, set()).add(pid)
                if not flight.is_running and self._is_expected:
                    self._trouble = f"the flight program ended by itself: {flight.last_words()}"
                    return
            if time.monotonic() >= sync_at_s:
                sync_at_s = time.monotonic() + _SYNC_EVERY_S
                plant.sync(clock.now_s())
            fault = next((port.fault for port in ports if port.fault), None)
            if fault:
                self._trouble = fault
                return
            if clock.now_s() < due_s:
                continue
            self._ticks.add(clock.now_s() - due_s)
            if seen[tick] != up:
                up = seen[tick]
                line.set_up(up)
            actuators = plant.actuators if flight.is_running else None
            load.busy_frac = actuators.busy_frac if actuators else (0.0,) * len(load.busy_frac)
            satellite.set_transmitter(bool(actuators and actuators.transmitting))
            satellite.advance()
            load.modes = satellite.modes
            tick += 1
            if satellite.values[_SUN] <= 0.0 and sum(load.busy_frac) < _STILL_FRAC and (
                    notes.processes.keys() - notes.ended):
                notes.still_in_eclipse_s += run.TICK_S
            readings = satellite.read_sensors(satellite.now_s)
            plant.send_sensors(satellite.now_s, readings)
            notes.charge_min = min(notes.charge_min, satellite.charge_frac)
            notes.die_c_max = max(notes.die_c_max, *(satellite.values[i] for i in dies))

    # --- what happens in a run

    def _hear(self, station: Station) -> Callable[[Report], None]:
        notes, epoch_s, rate = self._notes, self._scenario.start_unix_s, self._options.rate

        def hear(report: Report) -> None:
            self._say(report_line(report, station, epoch_s))
            if isinstance(report, HousekeepingReport):
                notes.structures[report.row.name] = notes.structures.get(report.row.name, 0) + 1
            elif isinstance(report, EventReport):
                name = report.row.name
                notes.events[name] = notes.events.get(name, 0) + 1
                if name.startswith("job_"):
                    job_id = int(report.args[0])
                    if name == "job_queued":
                        notes.queued.add(job_id)
                    elif name == "job_promised":
                        notes.promised.add(job_id)
                    elif name == "job_finished":
                        notes.finished.add(job_id)
                    if name in _ENDINGS or name == "job_refused":
                        notes.ended.add(job_id)
                elif name in {"bundle_accepted", "bundle_refused"}:
                    notes.handed_over += 1
            elif isinstance(report, CommandReport) and report.record.state is not CommandState.SENT:
                record = report.record
                notes.command_ms.append({
                    "verb": record.verb, "state": str(record.state),
                    "after_ms": 1e3 * (record.changed_s - record.sent_s) / rate,
                })

        return hear

    def _send(self, station: Station, verb: str, values: tuple[Value, ...], now_s: float) -> None:
        if verb == "job.submit":
            values = self._as_work_here(values)
        request_id = station.send(verb, values, now_s).request_id
        if self._is_expected:  # what is sent to a satellite that we killed ourselves is not judged
            self._sent.append(request_id)

    def _as_work_here(self, values: tuple[Value, ...]) -> tuple[Value, ...]:
        """Declare the work of a `job.submit` as what it is here: the jobs' processes take this machine's time, of
        which the mission's is `rate` times as much.
        """
        at = [arg.name for arg in command_row("job.submit").args].index("work")
        work = values[at] if at < len(values) else None
        if not isinstance(work, (int, float)):
            return values
        return (*values[:at], work * self._options.rate, *values[at + 1:])

    def _jobs_are_done(self, station: Station) -> bool:
        """Whether every job that was submitted or handed over has ended, and every telecommand has."""
        notes, handed = self._notes, len(list((self._folder / _BUNDLES).glob(f"*{bundle.SUFFIX}")))
        waiting = (self._kill is None) != (self._options.kill_at_s is None) or self._boots_before is not None or (
            self._options.restart_after_s is not None and self._restarted_at_s is None)
        states = {station.command(request).state for request in self._sent}
        return not waiting and notes.handed_over >= handed and states <= {CommandState.COMPLETED} and (
            notes.queued == notes.ended & notes.queued and bool(notes.queued))

    def _type(self, station: Station, line: str, now_s: float) -> None:
        """Send what the operator typed; what is wrong with it is said, never raised."""
        try:
            words = shlex.split(line)
            if words:
                args = command_row(words[0]).args
                # Too few or too many words reach `send`, which says what the verb takes.
                typed = [parse_text_argument(arg, word) for arg, word in zip(args, words[1:], strict=False)]
                self._send(station, words[0], (*typed, *words[1 + len(args):]), now_s)
        except (LinkError, ValueError) as error:
            self._say(f"not sent: {error}")

    def _kill_or_restart(self, now_s: float, flight: FlightProcess, caps: CapFiles,
                         script: list[_Step],
                         ) -> list[_Step]:
        """Kill the supervisor when its time has come, start it again where asked, and wake it when it is heard.

        Returns the script with what the operator sends besides.
        """
        options, kill = self._options, self._kill
        if kill is None and options.kill_at_s is not None and now_s >= options.kill_at_s:
            before_w, jobs = list(caps.read_w()), flight.jobs()
            flight.kill()
            self._kill = _Kill(time.monotonic(), before_w, jobs,
                               frozenset(self._notes.promised - self._notes.ended))
            self._say(f"-- supervisor killed at T+{now_s:.0f} s; caps {_watts(before_w)}, {len(jobs)} jobs running")
        elif (kill is not None and options.restart_after_s is not None and self._restarted_at_s is None
              and options.kill_at_s is not None and now_s >= options.kill_at_s + options.restart_after_s):
            flight.start()
            self._restarted_at_s = now_s
            self._boots_before = self._notes.events.get("boot", 0)
            self._say(f"-- supervisor started again at T+{now_s:.0f} s")
        elif self._boots_before is not None and self._notes.events.get("boot", 0) > self._boots_before:
            self._boots_before = None
            again: list[_Step] = [(now_s + _WAKE_AGAIN_S, "mode", (int(Mode.STANDBY),)),
                                  (now_s + 2.0 * _WAKE_AGAIN_S, "mode", (int(Mode.COMPUTE),))]
            return sorted([*script, *again], key=lambda entry: entry[0])
        return script

    def _watch_kill(self, kill: _Kill, caps: CapFiles) -> None:
        """Measure when the caps reach the floor and when the jobs are gone."""
        after_s = time.monotonic() - kill.at_s
        kill.blind_s, kill.looked_at_s = max(kill.blind_s, after_s - kill.looked_at_s), after_s
        if kill.jobs_gone_after_s is None and not any(map(_is_alive, kill.jobs)):
            kill.jobs_gone_after_s = after_s
        now_w = caps.read_w() if kill.floor_after_s is None else []
        if now_w and all(a <= b for a, b in zip(now_w, self._floor_w, strict=True)):
            kill.floor_after_s = after_s
            self._say(f"-- caps at the floor {after_s:.3f} s after the kill: {_watts(now_w)}")

    # --- the verdict

    def _judge(self, station: Station, load: RealLoad, plant: PlantLink, exit_code: int | None,
               at_floor: bool) -> list[Finding]:
        if self._trouble:
            return [Finding("bench", Verdict.ERROR, self._trouble)]
        notes = self._notes
        received = sum(notes.structures.values())
        checks = [_check("telemetry", {"power", "thermal", "nodes_a"} <= notes.structures.keys(),
                         f"{received} reports of {len(notes.structures)} structures, "
                         f"{station.lost_frames} frames lost"
                         + (" (frames are counted anew from the restart)" if self._restarted_at_s is not None else ""))]
        beyond = [step.id for step in self._scenario.faults
                  if step.at is None or not step.kind.startswith(("sensor.", _HOSTILE))]
        if beyond or self._scenario.own_checks:
            checks.append(Finding(
                "scenario", Verdict.INCONCLUSIVE, "this bench makes timed faults of sensors and hostile jobs only, and "
                "judges by checks of its own: fly it with hil run; left out are "
                + ", ".join((*beyond, *(check.name for check in self._scenario.own_checks)))))
        checks += [self._judge_attack(job_id, step) for job_id, step in self._attacks.items()]
        states = [station.command(request).state for request in self._sent]
        checks.append(_check("telecommands", states and set(states) == {CommandState.COMPLETED},
                             f"{states.count(CommandState.COMPLETED)} of {len(states)} accepted and completed"))
        ran = sorted(notes.finished & notes.processes.keys())
        submitted = self._options.signed or any(
            station.command(request).verb == "job.submit" for request in self._sent)
        if submitted and self._is_expected:
            share = load.ran_s / load.allowed_s if load.allowed_s else 0.0
            words = (f"finished as processes: {', '.join(map(str, ran)) or 'none'}; they ran {share:.0%} of the time "
                     "that their power modes allowed")
            starved = not ran and not notes.ended & notes.processes.keys() and share < _STARVED_FRAC
            checks.append(_check("jobs", ran, words) if not starved else
                          Finding("jobs", Verdict.INCONCLUSIVE, f"{words}: this machine had no time for them"))
            if notes.still_in_eclipse_s:
                checks.append(Finding("eclipse", Verdict.PASS, "started jobs stood still in eclipse for "
                                                             f"{notes.still_in_eclipse_s:.0f} s"))
        if self._options.check_results:
            checks.append(self._judge_results())
        if self._options.kill_at_s is not None:
            checks += self._judge_kill()
        if self._is_expected:
            checks.append(_check("orderly end", exit_code == 0 and at_floor,
                                 f"exit code {exit_code}, caps {'at' if at_floor else 'above'} the floor"))
        overran = self._ticks.overruns + plant.overruns
        checks.append(Finding("bench", Verdict.INCONCLUSIVE if overran else Verdict.PASS,
                            f"{len(self._ticks)} ticks, overruns: plant {self._ticks.overruns}, flight software "
                            f"{plant.overruns}; latest began {self._ticks.worst_s * 1e3:.0f} and "
                            f"{plant.ticks.worst_s * 1e3:.0f} ms late"))
        return checks

    def _judge_kill(self) -> Iterator[Finding]:
        kill, rate = self._kill, self._options.rate
        if kill is None:
            yield Finding("caps after kill", Verdict.INCONCLUSIVE, "the run ended before the kill")
            return
        lease_s = self._mission.parameters["lease_s"] / rate
        latest_s = lease_s + _LEASE_SLACK_S + kill.blind_s
        raised = any(a > b for a, b in zip(kill.caps_before_w, self._floor_w, strict=True))
        after_s = kill.floor_after_s
        words = (f"floor after {after_s:.3f} s" if after_s is not None else "never at the floor") + (
            f", lease {lease_s:.3f} s; before: {_watts(kill.caps_before_w)}")
        if not raised:
            yield Finding("caps after kill", Verdict.INCONCLUSIVE, "no cap was above the floor at the kill")
        else:
            yield _check("caps after kill", after_s is not None and after_s <= latest_s, words)
        gone_s = kill.jobs_gone_after_s
        yield _check("jobs after kill", gone_s is not None and gone_s <= latest_s,
                     f"{len(kill.jobs)} processes gone " + ("never" if gone_s is None else f"within {gone_s:.3f} s"))
        if self._restarted_at_s is not None:
            known = self._ledger_states()
            lost = sorted(kill.acknowledged - known.keys())
            states = ", ".join(f"{job} {known[job]}" for job in sorted(kill.acknowledged & known.keys()))
            yield _check("jobs after restart", kill.acknowledged and not lost,
                         f"acknowledged before: {states or 'none'}" + (f"; lost: {lost}" if lost else ""))

    def _judge_attack(self, job_id: int, step: FaultStep) -> Finding:
        """Held is an attack that was ended with the limit's name, or that says itself that it did not get through."""
        entry, name = self._ledger().get(job_id), f"attack {step.id}"
        if entry is None or not (entry.state in (JobState.FINISHED, JobState.FAILED)
                                 or job_id in self._notes.processes):
            state = "not known on board" if entry is None else f"{entry.state.name} {entry.detail}".strip()
            return Finding(name, Verdict.INCONCLUSIVE, f"{step.target} never ran: {state}")
        written = self._folder / "flight" / "results" / str(job_id) / "verdict"
        said = written.read_text("utf-8", "replace") if written.is_file() else (
            entry.detail if entry.state is JobState.FAILED else "ran until the end of the run took it along")
        return _check(name, not said.startswith("BROKE"), f"{step.target}: {said}")

    def _judge_results(self) -> Finding:
        """Run what finished once more on this machine, held back by nothing, and compare the outputs' hashes."""
        folders = {load_manifest(path).id: path for path in (self._options.jobs or EXAMPLES).glob("*/job.toml")}
        said = {entry.spec.manifest.rpartition("/")[2]: entry.detail.removeprefix("SHA-256 ")
                for entry in self._ledger().values()
                if entry.state is JobState.FINISHED and entry.spec.job_id not in self._attacks}
        differ = []
        for name, sha256 in said.items():
            with tempfile.TemporaryDirectory() as place:
                _, alone = profile_job(folders[name], Path(place), Path(sys.executable), MonotonicClock(), "here")
            if alone != sha256:
                differ.append(name)
        return _check("results", said and not differ, f"the same as unthrottled: {', '.join(sorted(said)) or 'none'}"
                      + (f"; others: {', '.join(differ)}" if differ else ""))

    def _ledger_states(self) -> dict[int, str]:
        """What the flight program kept on its medium, by job."""
        return {job_id: entry.state.name for job_id, entry in self._ledger().items()}

    def _ledger(self) -> Mapping[int, LedgerEntry]:
        ledger = Ledger(Store(self._folder / "flight" / "ledger"))
        ledger.close()
        return ledger.entries

    def _write(self, station: Station, satellite: TruthSatellite, load: RealLoad, line: PtyLine, plant: PlantLink,
               checks: Sequence[Finding]) -> None:
        notes, kill = self._notes, self._kill
        run.write_json(self._folder / "run.json", {
            "scenario": self._scenario.id, "mission": self._mission.name, "seed": self._scenario.seed,
            "duration_s": self._scenario.duration_s, "flown_s": satellite.now_s,
            "verdict": overall(checks).value,
            "checks": {check.name: {"verdict": check.verdict.value, "detail": check.detail} for check in checks},
            "structures_received": notes.structures, "events_received": notes.events,
            "telecommands_sent": len(self._sent), "jobs_finished": len(notes.finished),
            "job_processes": {str(job): len(pids) for job, pids in notes.processes.items()},
            "job_node_s": load.ran_s, "job_node_s_allowed": load.allowed_s,
            "battery_soc_frac_min": notes.charge_min,
            "die_c_max": notes.die_c_max if math.isfinite(notes.die_c_max) else None,
            "telemetry_packets": station.packets, "telemetry_frames_bad": station.bad_frames,
            "telemetry_frames_lost": station.lost_frames,
            "line_bits_flipped": line.line.a_to_b.flipped_bits + line.line.b_to_a.flipped_bits,
        })
        timing = self.timing(plant)
        run.write_json(self._folder / "timing.json", timing | {
            "commands": notes.command_ms,
            "kill": None if kill is None else {
                "floor_after_s": kill.floor_after_s, "jobs_gone_after_s": kill.jobs_gone_after_s,
                "lease_s": self._mission.parameters["lease_s"] / self._options.rate,
            },
        })
        self.punctuality = punctuality(timing)
        junit.write_checks(self._scenario, "hil serial", checks, properties_of(timing), self._folder)


def punctuality(timing: Mapping[str, Any]) -> list[str]:  # Any: JSON values
    """Return how punctual both loops were, as a table."""
    said = [f"{'period ' + format(timing['period_ms'], 'g') + ' ms':18}{'ticks':>8}{'overruns':>10}"
            + "".join(f"{name.removesuffix('_ms') + ' ms':>11}" for name in _LATENESS)]
    for loop in ("plant", "flight_software"):
        row = timing[loop]
        said.append(f"{loop.replace('_', ' '):18}{row['ticks']:8d}{row.get('left_out', row.get('overruns', 0)):10d}"
                    + "".join(f"{row[name]:11.3f}" for name in _LATENESS if name in row))
    clock = timing["clock_of_flight_software"]
    if "drift_ppm" in clock:
        said.append(f"{'clocks':18}apart by {1e3 * clock['offset_spread_ms']:.0f} us (1 sigma), drifting "
                    f"{clock['drift_ppm']:.3f} ppm, over {clock['echoes']} echoes")
    return said + [f"{loop.replace('_', ' '):18}{timing[loop]['scheduling']}" for loop in ("plant", "flight_software")]


def properties_of(timing: Mapping[str, Any]) -> dict[str, str]:  # Any: JSON values
    """Return the same as JUnit's properties."""
    plant, flight = timing["plant"], timing["flight_software"]
    said = {"rate": f"{timing['rate']:g}", "overruns": str(plant.get("overruns", 0) + flight["left_out"])}
    for loop, row in (("plant", plant), ("flight", flight)):
        said |= {f"{loop}_overruns": str(row.get("left_out", row.get("overruns", 0))),
                 f"{loop}_ticks": str(row["ticks"]), f"{loop}_scheduling": row["scheduling"]}
        said |= {f"{loop}_late_{name}": f"{row[name]:.6g}" for name in _LATENESS if name in row}
    return said


class _Keyboard:
    """Telecommands typed by the operator, a line each; it ends with the end of its input."""

    def __init__(self) -> None:
        self.is_open = True
        self._rest = b""

    def lines(self) -> list[str]:
        """Lines typed since the last call; never waits."""
        if not self.is_open or not select.select([0], [], [], 0.0)[0]:
            return []
        octets = os.read(0, 4096)
        self.is_open = bool(octets)
        *lines, self._rest = (self._rest + octets).split(b"\n")
        return [line.decode("utf-8", "replace") for line in lines]


def _check(name: str, passed: object, detail: str) -> Finding:
    return Finding(name, Verdict.PASS if passed else Verdict.FAIL, detail)


def _watts(caps_w: Sequence[float]) -> str:
    return " ".join(f"{cap_w:g}" for cap_w in caps_w) + " W"


# --- command line ------------------------------------------------------------------------------------


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `hil serial` to the rig's commands."""
    parser = commands.add_parser(
        "serial", help="fly the real flight program behind serial ports, in real time",
        epilog="Exit status: 0 every check passed, 1 one did not, 2 bad input or files, 130 interrupted.",
        description="Start the flight program as a process of its own behind two pseudo-terminals, give it the true "
        "satellite in real time or a multiple of it, send the scenario's telecommands from the ground station, let "
        "its jobs run as processes, and judge. The scenario's stream of jobs is left out.")
    parser.add_argument("scenario", metavar="SCENARIO", help="a scenario file, or the name of one of hil/scenarios")
    parser.add_argument("--seed", type=int, metavar="N", help="in place of the scenario's seed")
    parser.add_argument("--duration", metavar="TIME",
                        help='mission time to fly, in place of the scenario\'s: seconds, or like "10 min"')
    parser.add_argument("--rate", type=float, default=1.0, metavar="X",
                        help="mission time runs X times as fast, 0.1 to 20 (default: real time)")
    parser.add_argument("--jobs", type=Path, metavar="DIR", help="job folders, DIR/*/job.toml (the examples)")
    parser.add_argument("--signed", action="store_true",
                        help="pack those jobs, sign them with a key made for this run, and upload them over the line")
    parser.add_argument("--until-done", action="store_true",
                        help="end when every job has ended, at the scenario's duration at the latest")
    parser.add_argument("--check-results", action="store_true",
                        help="run what finished once more, unthrottled, and compare the hashes of the outputs")
    parser.add_argument("--real-time", action="store_true",
                        help="run both loops under SCHED_FIFO with their memory locked, as far as the machine allows")
    parser.add_argument("--sysfs", action="store_true",
                        help="serve the readings as sysfs files, which the flight program reads through its drivers")
    parser.add_argument("--quiet", action="store_true", help="print the verdict only, not what the ground hears")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="where runs are kept (out)")
    parser.add_argument("--interactive", action="store_true",
                        help="take telecommands from standard input as well, a line each, like: mode COMPUTE")
    parser.add_argument("--kill-supervisor-at", type=float, metavar="S", dest="kill_at",
                        help="kill the flight program (SIGKILL) at T+S of mission time and watch the caps")
    parser.add_argument("--restart-after", type=float, metavar="S",
                        help="start it again S seconds of mission time after the kill")
    parser.set_defaults(run=_serial)


def _serial(arguments: argparse.Namespace) -> int:
    """Fly, print the verdict, return the exit status."""
    if not 0.1 <= arguments.rate <= 20.0:
        raise ConfigError("--rate", f"{arguments.rate:g} is out of range (range 0.1..20)")
    if arguments.restart_after is not None and arguments.kill_at is None:
        raise ConfigError("--restart-after", "needs --kill-supervisor-at")
    duration = arguments.duration
    if duration is not None and duration.replace(".", "", 1).isdigit():
        duration += " s"
    scenario = load(find(arguments.scenario), seed=arguments.seed, duration=duration)
    folder = run.new_folder(arguments.out, scenario)
    options = Options(arguments.rate, arguments.kill_at, arguments.restart_after, arguments.interactive, arguments.jobs,
                      arguments.signed, arguments.until_done, arguments.check_results, arguments.real_time,
                      arguments.sysfs)
    if options.signed:
        hand_over(options.jobs or EXAMPLES, folder)
    _print_line(f"flying {scenario.id}: {scenario.duration_s:.0f} s of mission {scenario.mission.name} at "
                f"{options.rate:g} times real time; everything is kept in {folder}")
    bench = SerialBench(scenario, folder, options, _print_nothing if arguments.quiet else _print_line)
    with _interruptible():
        checks = bench.fly()
    run.point_latest(folder)
    for line in bench.punctuality:
        _print_line(line)
    for check in checks:
        _print_line(f"{check.verdict.value:<12} {check.name}: {check.detail}")
    verdict = overall(checks)
    _print_line(f"{verdict.value}: {folder / 'run.json'}")
    return 0 if verdict is Verdict.PASS else 1


def _print_line(text: str) -> None:
    print(text, flush=True)


def _print_nothing(_text: str) -> None:
    pass


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM and a hang-up end a run as Ctrl-C does: everything is cleaned up."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


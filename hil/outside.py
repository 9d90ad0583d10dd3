"""A satellite to talk to: the flight program in real time behind a port that the ground station of one's own opens.

Called by `hil satellite`, by operators who learn and by tests of the ground. The truth, the lines and the flight
process are those of the serial bench; nobody judges, and the scenario's telecommands are left out: who is at the port
sends. It knows the customers of the example jobs, whose signed bundles lie in the run's folder.
"""

from __future__ import annotations

import argparse
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from flightsw.clock import MonotonicClock
from flightsw.compose import guardian_config
from flightsw.errors import BoardError
from flightsw.guardian import ProcessGuardian
from flightsw.link.serial_port import SerialPort
from hil import link_keys, run
from hil.channel import PtyLine
from hil.rig_link import PlantLink
from hil.scenario import Scenario, find, load
from hil.serial_bench import EXAMPLES, RIG_BAUD, START_WITHIN_S, CapFiles, FlightProcess, RealLoad, hand_over


def fly(scenario: Scenario, folder: Path, rate: float, ready: Callable[[str, Path], object],
        ended: Callable[[], bool], link: Path | None = None) -> None:
    """Fly until `ended` says so or the scenario is over; `ready` is given the port and the keys of its line.

    `link` names the port by a symlink. Raises BoardError where the flight program does not come up.
    """
    mission = scenario.mission
    around = run.surroundings(scenario)
    seen = run.in_contact(scenario, around).tolist()
    truth = run.draw_truth(scenario)
    with ExitStack() as stack:
        run_folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hil-satellite-")))
        line = stack.enter_context(PtyLine(
            scenario.link.baud, scenario.link.latency_s, scenario.link.bit_error_rate, scenario.seed, rate,
            names=None if link is None else (run_folder / "satellite", link)))
        rig_line = stack.enter_context(PtyLine(RIG_BAUD, rate=rate))
        top_rate = truth.compute.modes[-1].rate
        work = RealLoad([mode.rate / top_rate for mode in truth.compute.modes], truth.compute.nodes)
        caps = CapFiles(run_folder, guardian_config(mission).floor_w)
        satellite = run.true_satellite(scenario, truth, around, run.edges_of(scenario, around), caps, work)
        port = stack.enter_context(SerialPort(rig_line.port_b, RIG_BAUD))
        plant = PlantLink(port, run.TICK_S, rate)
        keys = link_keys.hand_out(scenario, folder)
        customers = hand_over(EXAMPLES, folder)
        flight = FlightProcess(
            [sys.executable, "-m", "flightsw", "run", "--mission", str(scenario.mission_path), "--port", line.port_a,
             "--baud", str(scenario.link.baud), "--rig-port", rig_line.port_a, "--rig-baud", str(RIG_BAUD), "--keys",
             str(keys), "--customers", str(customers), "--state", str(folder / "flight"), "--run-dir", str(run_folder),
             "--rate", f"{rate:g}", *["--always-transmit"] * (scenario.link.contact == "always")],
            folder / "flight.log", folder / "flight" / "jobs")
        stack.callback(_end_guardian, scenario, run_folder)
        stack.callback(flight.end)
        flight.start()
        clock = _await_greeting(flight, plant, port, rate)
        ready(str(link or line.port_b), keys)
        plant.send_sensors(0.0, satellite.read_sensors(0.0))
        greetings, up, tick = plant.greetings, True, 0
        while tick < len(seen) and not ended():
            due_s = (tick + 1) * run.TICK_S
            clock.wait_ready(min(due_s, clock.now_s() + 0.5 * rate), [port.fileno()], [])
            plant.poll(clock.now_s())
            if plant.greetings != greetings:
                greetings = plant.greetings
                plant.send_sensors(satellite.now_s, satellite.read_sensors(satellite.now_s))
            if not flight.is_running:
                raise BoardError(f"the flight program ended by itself: {flight.last_words()}")
            if clock.now_s() < due_s:
                continue
            if seen[tick] != up:
                up = seen[tick]
                line.set_up(up)
            actuators = plant.actuators
            work.busy_frac = actuators.busy_frac if actuators else (0.0,) * len(work.busy_frac)
            satellite.set_transmitter(bool(actuators and actuators.transmitting))
            satellite.advance()
            work.modes = satellite.modes
            tick += 1
            plant.send_sensors(satellite.now_s, satellite.read_sensors(satellite.now_s))


def _await_greeting(flight: FlightProcess, plant: PlantLink, port: SerialPort, rate: float) -> MonotonicClock:
    """Wait until the flight program greets the plant; the mission's time begins then."""
    give_up_s = time.monotonic() + START_WITHIN_S
    while time.monotonic() < give_up_s and flight.is_running:
        select.select([port.fileno()], [], [], 0.1)
        plant.poll(0.0)
        if plant.greetings:
            return MonotonicClock(rate)
    raise BoardError(f"the flight program did not greet the plant within {START_WITHIN_S:g} s: {flight.last_words()}")


def _end_guardian(scenario: Scenario, run_folder: Path) -> None:
    path = run_folder / "guardian.sock"
    if path.exists():
        guardian = ProcessGuardian(guardian_config(scenario.mission), path, run_folder)
        guardian.start()
        guardian.stop()


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `hil satellite` to the rig's commands."""
    parser = commands.add_parser(
        "satellite", help="a satellite to talk to: the flight program behind a port for a ground station",
        description="Start the flight program against the true satellite in real time and leave the ground's end of "
        "its line to `ground console` or `ground watch`. Prints how to connect; Ctrl-C ends it.")
    parser.add_argument("scenario", metavar="SCENARIO", nargs="?", default="serial_iss",
                        help="a scenario file, or the name of one of hil/scenarios (serial_iss)")
    parser.add_argument("--duration", default="24 h", metavar="TIME", help='mission time to fly (24 h)')
    parser.add_argument("--rate", type=float, default=1.0, metavar="X", help="times as fast, 0.1 to 20 (1)")
    parser.add_argument("--link", type=Path, metavar="PATH", help="a name for the port, as a symlink")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="where runs are kept (out)")
    parser.set_defaults(run=_satellite)


def _satellite(arguments: argparse.Namespace) -> int:
    scenario = load(find(arguments.scenario), duration=arguments.duration)
    folder = run.new_folder(arguments.out, scenario)

    def ready(port: str, keys: Path) -> None:
        bundles = " ".join(str(path) for path in sorted(folder.glob("bundles/*")))
        print(f"a satellite flies until Ctrl-C; signed jobs to upload: {bundles}\nin another terminal:",
              file=sys.stderr, flush=True)
        print(f"ground console --port {port} --baud {scenario.link.baud} --keys {keys} "
              f"--archive {folder}/ground.sqlite --mission {scenario.mission_path.resolve()} "
              "--passes-by satellite", flush=True)

    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C does: everything is cleaned up
        signal.signal(number, signal.default_int_handler)
    fly(scenario, folder, arguments.rate, ready, lambda: False, arguments.link)
    return 0

"""The benches on which `hil run` flies one scenario in lockstep: the truth is the same, the flight software elsewhere.

    sil          in this process, objects from call to call
    sil-framed   in this process, every octet of the sensor link encoded and decoded
    serial       a process of its own behind a pseudo-terminal
    emulated     a Linux system in QEMU, reached by its serial port (`hil.emulated`)
    board        a real board behind a real serial port (`rig.toml`, `hil.rig`)

All but the first leave `commands.u32`, the fingerprint of every decision (big-endian), beside the report, so that the
command logs of two benches can be held against each other where the recording stays on the board.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import tty
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from flightsw import compose
from flightsw.errors import BoardError
from flightsw.guardian import InProcessGuardian
from flightsw.link.keys import KeyRing
from flightsw.link.serial_port import SerialPort
from flightsw.lockstep import FRAME_OCTETS_MAX, LockstepBoard
from flightsw.state import Decision
from flightsw.supervisor import Supervisor
from hil import link_keys, run
from hil.lockstep import LockstepLink, Loop, RemoteFlight, Wire
from hil.run import Ends, FlightSoftware, SupervisorHere
from hil.scenario import Scenario

COMMANDS: Final = "commands.u32"
START_WITHIN_S: Final = 30.0
_LOG: Final = "flight.log"
_END_WITHIN_S: Final = 10.0
_READ_OCTETS: Final = 65536

Connect = Callable[[Ends], FlightSoftware]
Bench = Callable[[Scenario, Path], contextlib.AbstractContextManager[Connect]]


def mission_file(scenario: Scenario, folder: Path) -> Path:
    """Write the mission as the scenario has it (it may fly another orbit than its file) and return the path."""
    path = folder / "mission.toml"
    path.write_text(scenario.mission_toml, "utf-8")
    return path


def remote(ends: Ends, link: LockstepLink) -> RemoteFlight:
    """Connect a run's ends to a board behind `link`."""
    return RemoteFlight(link, ends.satellite, ends.guardian, ends.runner, ends.inbox, ends.port)


def keep_commands(flight: RemoteFlight, folder: Path) -> None:
    """Leave the command log in a run's folder."""
    log = array("I", flight.fingerprints)
    if sys.byteorder == "little":
        log.byteswap()
    (folder / COMMANDS).write_bytes(log.tobytes())


# --- in this process ---------------------------------------------------------------------------------


@contextlib.contextmanager
def sil(_scenario: Scenario, _folder: Path) -> Iterator[Connect]:
    """Objects from call to call."""
    yield SupervisorHere


class _Beside:
    """A wire to a board in this process: waiting for its answer is letting it run."""

    def __init__(self, ends: Ends, ring: KeyRing | None) -> None:
        up, down = bytearray(), bytearray()
        mission, scenario = ends.scenario.mission, ends.scenario
        self._down = Loop(down, up)
        self._board = LockstepBoard(Loop(up, down), InProcessGuardian(compose.guardian_config(mission)),
                                    mission.compute.nodes)
        board = self._board
        parts = compose.Parts(board, board, board, board, board,
                              always_transmit=scenario.link.contact == "always", duty_throttle=False, ring=ring)
        self.supervisor: Supervisor = compose.build(mission, scenario.mission_toml, parts, ends.folder,
                                                    str(scenario.mission_path))
        self.read = self._down.read
        self.write = self._down.write

    def wait(self, _within_s: float) -> bool:
        """See `Wire`."""
        self._board.serve(self._tick)
        return True

    def _tick(self, now_s: float) -> tuple[Decision | None, int, int]:
        decision = self.supervisor.tick(now_s)
        return decision, self.supervisor.failures, self.supervisor.brain.tally.sheds


@contextlib.contextmanager
def sil_framed(_scenario: Scenario, folder: Path) -> Iterator[Connect]:
    """Every octet of the sensor link encoded and decoded."""
    flights: list[tuple[RemoteFlight, _Beside]] = []
    keys = contextlib.ExitStack()

    def connect(ends: Ends) -> RemoteFlight:
        wire = _Beside(ends, keys.enter_context(link_keys.board_ring(ends.scenario, ends.folder)))
        link = LockstepLink(wire)
        link.greet(1.0)
        flights.append((remote(ends, link), wire))
        return flights[-1][0]

    with keys:
        yield connect
    for flight, wire in flights:
        wire.supervisor.close()
        keep_commands(flight, folder)


# --- behind a port -----------------------------------------------------------------------------------


class PortWire:
    """A wire over a real serial port, or one that an emulator serves."""

    def __init__(self, port: SerialPort) -> None:
        self._port = port
        self.read = port.read
        self.write = port.write

    def wait(self, within_s: float) -> bool:
        """See `Wire`."""
        if self._port.fault is not None:
            raise BoardError(self._port.fault)
        backlog = [self._port.fileno()] * bool(self._port.backlog_octets)
        ready = select.select([self._port.fileno()], backlog, (), within_s)
        return bool(ready[0] or ready[1])


class PtyWire:
    """One end of a pseudo-terminal whose other end, `path`, a program opens as its serial port. No baud rate."""

    def __init__(self) -> None:
        self._master, self._slave = os.openpty()  # the slave stays open here, else a closed one is an error to read
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.path = os.ttyname(self._slave)
        self._backlog = bytearray()

    def read(self) -> bytes:
        """See `ByteStream`."""
        try:
            return os.read(self._master, _READ_OCTETS)
        except BlockingIOError:
            return b""

    def write(self, octets: bytes) -> int:
        """See `ByteStream`."""
        self._backlog += octets
        self._drain()
        return len(octets)

    def wait(self, within_s: float) -> bool:
        """See `Wire`."""
        ready = select.select([self._master], [self._master] * bool(self._backlog), (), within_s)
        self._drain()
        return bool(ready[0] or ready[1])

    def close(self) -> None:
        """Hang up."""
        os.close(self._master)
        os.close(self._slave)

    def _drain(self) -> None:
        while self._backlog:
            try:
                del self._backlog[:os.write(self._master, self._backlog)]
            except BlockingIOError:
                return


def flight_command(scenario: Scenario, folder: Path, rig_port: str) -> list[str]:
    """Return the command that starts the flight program in lockstep behind `rig_port`, with its state in `folder`."""
    words = [sys.executable, "-m", "flightsw", "run", "--mission", str(mission_file(scenario, folder)),
             "--rig-port", rig_port, "--lockstep", "--state", str(folder / "flight"),
             "--keys", str(link_keys.hand_out(scenario, folder))]
    return words + ["--always-transmit"] * (scenario.link.contact == "always")


@contextlib.contextmanager
def serial(scenario: Scenario, folder: Path) -> Iterator[Connect]:
    """The flight program as a process of its own behind a pseudo-terminal, as fast as both can."""
    with contextlib.closing(PtyWire()) as wire, _program(scenario, folder, wire.path), \
            behind(wire, folder, _last_words(folder)) as connect:
        yield connect


@contextlib.contextmanager
def over_port(scenario: Scenario, folder: Path, board_port: str, plant_port: str, baud: int) -> Iterator[Connect]:
    """The flight program as a process of its own at one end of a line, the plant at the other."""
    with SerialPort(plant_port, baud, 2 * FRAME_OCTETS_MAX) as port, _program(scenario, folder, board_port), \
            behind(PortWire(port), folder, _last_words(folder)) as connect:
        yield connect


@contextlib.contextmanager
def _program(scenario: Scenario, folder: Path, rig_port: str) -> Iterator[None]:
    """Start the flight program, and end it in order."""
    with (folder / _LOG).open("wb") as log:
        process = subprocess.Popen(flight_command(scenario, folder, rig_port), stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(_END_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def behind(wire: Wire, folder: Path, last_words: Callable[[], str], deadline_s: float = 10.0,
           start_within_s: float | None = None) -> Iterator[Connect]:
    """Connect to a flight program that is starting at the other end of `wire`.

    `last_words` says what became of it where it does not answer.
    """
    flights: list[RemoteFlight] = []
    link = LockstepLink(wire, deadline_s=deadline_s)

    def connect(ends: Ends) -> RemoteFlight:
        link.greet(START_WITHIN_S if start_within_s is None else start_within_s)
        flights.append(remote(ends, link))
        return flights[-1]

    try:
        yield connect
    except BoardError as error:
        raise BoardError(f"{error}; {last_words()}") from error
    finally:
        for flight in flights:
            keep_commands(flight, folder)
        run.write_json(folder / "line.json", dict(link.counters._asdict()))


def _last_words(folder: Path) -> Callable[[], str]:
    def words() -> str:
        lines = (folder / _LOG).read_text("utf-8", "replace").strip().splitlines()
        return f"the flight program said: {lines[-1] if lines else 'nothing'}"

    return words


BENCHES: Final[dict[str, Bench]] = {"sil": sil, "sil-framed": sil_framed, "serial": serial}

"""A rig of real parts: what it is made of (`rig.toml`), who may use it now, and how it is brought to fly.

Three layers, in labgrid's sense of them. Resources are what there is: ports by their udev paths, a power switch.
Drivers know how to use one: a command, a human who is asked, labgrid itself (`hil.rig_labgrid`). The strategy knows in
which order: a rig begins in state `unknown`, and only what was done and checked makes it known. "Off" is believed when
the line has fallen silent, "flying" when the flight software has answered. One user at a time: the lock is the
operating system's, so that it goes with whoever held it. `hil rig show|lock|power|flash`, `hil run --bench board`.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import fcntl
import getpass
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from flightsw.board.rig import Pace, encode_hello
from flightsw.declared import load, number, text
from flightsw.errors import BoardError, ConfigError
from flightsw.link.serial_port import SerialPort
from flightsw.lockstep import FRAME_OCTETS_MAX
from hil import link_keys
from hil.benches import Connect, PortWire, behind, mission_file
from hil.scenario import Scenario

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

EXIT_HELD: Final = 1
_COMMAND_WITHIN_S: Final = 600.0
_LISTEN_STEP_S: Final = 0.2
_WORDS: Final = (r"[^\x00]{1,400}", "a word of a command")
_PORT: Final = (r"/[^\x00]{1,255}", "the path of a port, best one of /dev/serial/by-id")
_DRIVER: Final = "none|manual|command|labgrid"

Ask = Callable[[str], None]


# --- rig.toml ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LinePart:
    """A serial line to the board."""

    port: str = text(*_PORT)
    baud: int = number("baud", 9600, 12_000_000, 921_600)


@dataclass(frozen=True, slots=True)
class PowerPart:
    """The power switch; `on` and `off` are commands, a word an entry."""

    driver: str = text(_DRIVER, "none, manual, command or labgrid", "manual")
    on: tuple[str, ...] = text(*_WORDS, ())
    off: tuple[str, ...] = text(*_WORDS, ())


@dataclass(frozen=True, slots=True)
class FlasherPart:
    """What puts software, mission and keys on the board and clears its state.

    `{files}` in a word is the folder with `mission.toml`, `flight.env` and the keys of the run. `when` the board is off
    (a card that is switched over) or on (a network login).
    """

    driver: str = text(_DRIVER, "none, manual, command or labgrid", "none")
    command: tuple[str, ...] = text(*_WORDS, ())
    when: str = text("off|on", "off or on", "off")


@dataclass(frozen=True, slots=True)
class StartPart:
    """What starts the flight program; with driver "none" the board starts it as it boots."""

    driver: str = text(_DRIVER, "none, manual, command or labgrid", "none")
    command: tuple[str, ...] = text(*_WORDS, ())


@dataclass(frozen=True, slots=True)
class LabgridPart:
    """Where labgrid describes this board."""

    config: str = text(r"[^\x00]{1,255}", "labgrid's environment file, relative to this one")
    target: str = text(r"[^\x00]{1,80}", "the name of a target in it", "main")


@dataclass(frozen=True, slots=True)
class RigLimits:
    """What this rig is held to."""

    boot_within_s: float = number("s", 1.0, 3600.0, 120.0)
    answer_within_s: float = number("s", 0.1, 600.0, 10.0)
    off_at_least_s: float = number("s", 0.0, 600.0, 3.0)
    run_at_most_s: float = number("s", 60.0, 1e7, 86_400.0)


@dataclass(frozen=True, slots=True)
class RigFile:
    """A rig as its file describes it. `leave` is the state in which a run leaves it."""

    line: LinePart
    name: str = text(r"[a-z0-9][a-z0-9_-]{0,39}", "1..40 characters of a-z, 0-9, _ and -")
    description: str = text(r"[^\x00-\x1f\x7f]{1,200}", "1..200 printable characters")
    leave: str = text(r"off|flying", "off or flying", "off")
    power: PowerPart = field(default_factory=PowerPart)
    flasher: FlasherPart = field(default_factory=FlasherPart)
    start: StartPart = field(default_factory=StartPart)
    console: LinePart | None = None
    labgrid: LabgridPart | None = None
    limits: RigLimits = field(default_factory=RigLimits)


def load_rig(path: Path) -> RigFile:
    """Read and check a rig's file; ConfigError lists every problem."""
    rig = load(RigFile, path)
    problems = []
    commands = {"power.on": (rig.power.driver, rig.power.on), "power.off": (rig.power.driver, rig.power.off),
                "flasher.command": (rig.flasher.driver, rig.flasher.command),
                "start.command": (rig.start.driver, rig.start.command)}
    for key, (driver, words) in commands.items():
        if bool(words) != (driver == "command" or (driver == "labgrid" and not key.startswith("power"))):
            problems.append(f"{key}: driver {driver!r} and {len(words)} words")
    if "labgrid" in {driver for driver, _ in commands.values()} and rig.labgrid is None:
        problems.append("labgrid: missing, though a driver is labgrid's")
    if problems:
        raise ConfigError(str(path), "\n  ".join(problems))
    return rig


# --- drivers -----------------------------------------------------------------------------------------


class Power(Protocol):
    """A power switch."""

    def set(self, on: bool) -> None:
        """Switch. BoardError where that cannot be done."""


class Shell(Protocol):
    """Where a command of the rig is carried out."""

    def run(self, words: Sequence[str]) -> None:
        """Carry it out and wait for its end. BoardError where it fails."""


class AskingPower:
    """A human at the switch."""

    def __init__(self, name: str, ask: Ask) -> None:
        self._name, self._ask = name, ask

    def set(self, on: bool) -> None:
        """See `Power`."""
        self._ask(f"{self._name}: switch the board's power {'ON' if on else 'OFF'}")


class CommandPower:
    """A switch that two commands work."""

    def __init__(self, part: PowerPart, shell: Shell) -> None:
        self._part, self._shell = part, shell

    def set(self, on: bool) -> None:
        """See `Power`."""
        self._shell.run(self._part.on if on else self._part.off)


class HostShell:
    """Commands on this machine; what they say goes to the terminal."""

    def run(self, words: Sequence[str]) -> None:
        """See `Shell`."""
        try:
            done = subprocess.run(words, check=False, timeout=_COMMAND_WITHIN_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BoardError(f"{words[0]}: {error}") from error
        if done.returncode:
            raise BoardError(f"{' '.join(words)}: exit status {done.returncode}")


class AskingShell:
    """A human who carries it out."""

    def __init__(self, what: str, ask: Ask) -> None:
        self._what, self._ask = what, ask

    def run(self, words: Sequence[str]) -> None:
        """See `Shell`."""
        self._ask(self._what + (f": {' '.join(words)}" if words else ""))


def ask_human(what: str) -> None:
    """Say what is to be done and wait until it was; BoardError where nobody is there."""
    if not sys.stdin.isatty():
        raise BoardError(f"{what}: a human is needed, and standard input is no terminal")
    input(f"{what}, then press Enter ")


# --- the strategy ------------------------------------------------------------------------------------


class State(enum.Enum):
    """How a rig is. Nothing is known before something was done and checked."""

    UNKNOWN = "unknown"
    OFF = "off"
    FLASHED = "flashed"
    ON = "on"
    FLYING = "flying"


class Strategy:
    """Brings a rig from one state to another. `ask` reaches the human, where one is needed."""

    def __init__(self, rig: RigFile, folder: Path, ask: Ask = ask_human) -> None:
        """`folder` is where the rig's file is. Raises ConfigError where a driver cannot be had."""
        self.state = State.UNKNOWN
        self._rig = rig
        self._ask = ask
        labgrid: tuple[Power, Shell] | None = None
        if rig.labgrid is not None:
            from hil import rig_labgrid  # noqa: PLC0415 # labgrid is an extra that few rigs need

            labgrid = rig_labgrid.connect(folder / rig.labgrid.config, rig.labgrid.target)
        self._shells: dict[str, Shell] = {"command": HostShell()} | ({"labgrid": labgrid[1]} if labgrid else {})
        powers: dict[str, Power] = {"manual": AskingPower(rig.name, ask),
                                    "command": CommandPower(rig.power, HostShell())}
        if labgrid:
            powers["labgrid"] = labgrid[0]
        self._power = powers.get(rig.power.driver)

    def off(self) -> None:
        """Cut the power, and believe it when the line has been silent for as long as the rig's limits say."""
        if self._power is None:
            return  # a board that is always on; whether it has begun anew, its greeting will tell
        self._power.set(False)
        self.state = State.UNKNOWN
        if Path(self._rig.line.port).exists():  # an adapter on the board goes with its power
            self._listen_for_silence()
        else:
            time.sleep(self._rig.limits.off_at_least_s)
        self.state = State.OFF

    def flash(self, files: Path) -> None:
        """Put software, and the mission and keys in `files`, on the board."""
        self._carry_out(f"flash the board with {files}", self._rig.flasher.driver, self._rig.flasher.command,
                        {"files": str(files)})
        self.state = State.FLASHED

    def on(self) -> None:
        """Switch the power on."""
        if self._power is not None:
            self._power.set(True)
        self.state = State.ON

    def start(self) -> None:
        """Have the flight program started, where the board does not do so itself."""
        self._carry_out("start the flight program", self._rig.start.driver, self._rig.start.command, {})

    def wait_for_port(self) -> None:
        """Wait until the line's port is there: an adapter on the board comes with its power."""
        give_up_s = time.monotonic() + self._rig.limits.boot_within_s
        while not Path(self._rig.line.port).exists():
            if time.monotonic() > give_up_s:
                raise BoardError(f"{self._rig.line.port} is not there after {self._rig.limits.boot_within_s:g} s")
            time.sleep(_LISTEN_STEP_S)

    def _carry_out(self, what: str, driver: str, words: Sequence[str], values: Mapping[str, str]) -> None:
        if driver == "none":
            return
        for name, value in values.items():
            words = [word.replace(f"{{{name}}}", value) for word in words]
        shell = self._shells.get(driver) or AskingShell(f"{self._rig.name}: {what}", self._ask)
        shell.run(words)

    def _listen_for_silence(self) -> None:
        limits, line = self._rig.limits, self._rig.line
        give_up_s = time.monotonic() + limits.boot_within_s
        with SerialPort(line.port, line.baud) as port:
            port.read()
            silent_since_s = time.monotonic()
            while time.monotonic() - silent_since_s < limits.off_at_least_s:
                if time.monotonic() > give_up_s:
                    raise BoardError(f"{self._rig.name}: the board still speaks after its power was switched off")
                port.write(encode_hello(Pace.LOCKSTEP))  # whoever is alive answers
                time.sleep(min(_LISTEN_STEP_S, limits.off_at_least_s))
                if port.read():
                    silent_since_s = time.monotonic()


# --- one user at a time ------------------------------------------------------------------------------


@contextlib.contextmanager
def lock(rig: RigFile, purpose: str) -> Iterator[None]:
    """Keep a rig to ourselves; BoardError names who has it."""
    descriptor = os.open(_lock_path(rig), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BoardError(f"rig {rig.name} is in use: {holder(rig) or 'by nobody who says so'}") from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"user": getpass.getuser(), "process": os.getpid(), "purpose": purpose,
                                          "since": time.strftime("%Y-%m-%d %H:%M:%S")}).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def holder(rig: RigFile) -> str:
    """Who has the rig now, in words; empty where nobody has."""
    try:
        with _lock_path(rig).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                said = json.loads(file.read() or b"{}")
                return ", ".join(f"{key} {value}" for key, value in said.items()) or "unknown"
    except (FileNotFoundError, ValueError):
        return ""
    return ""


def _lock_path(rig: RigFile) -> Path:
    return Path(tempfile.gettempdir()) / f"hil-rig-{rig.name}.lock"


# --- the bench ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def board(path: Path, scenario: Scenario, folder: Path, ask: Ask = ask_human) -> Iterator[Connect]:
    """Bring up the rig of `path` with the scenario's mission, fly on it, and leave it as its file says."""
    rig = load_rig(path)
    if scenario.duration_s > rig.limits.run_at_most_s:
        raise ConfigError(str(path), f"limits.run_at_most_s = {rig.limits.run_at_most_s:g} s, the scenario lasts "
                                     f"{scenario.duration_s:g} s")
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock(rig, f"hil run {scenario.id}"))
        strategy = Strategy(rig, path.resolve().parent, ask)
        strategy.off()
        if rig.leave == "off":
            stack.callback(strategy.off)
        if rig.console is not None:
            stack.enter_context(_keep_console(rig.console, folder / "console.log"))
        files = _files(scenario, folder)
        if rig.flasher.when == "off":
            strategy.flash(files)
            strategy.on()
        else:
            strategy.on()
            strategy.flash(files)
        strategy.wait_for_port()
        port = stack.enter_context(SerialPort(rig.line.port, rig.line.baud, 2 * FRAME_OCTETS_MAX))
        strategy.start()
        wire = behind(PortWire(port), folder, lambda: f"rig {rig.name} was {strategy.state.value}",
                      rig.limits.answer_within_s, rig.limits.boot_within_s)
        with wire as connect:
            yield connect
            strategy.state = State.FLYING


def _files(scenario: Scenario, folder: Path) -> Path:
    """Return a folder of the run with what the board needs of it."""
    files = folder / "board"
    files.mkdir()
    mission_file(scenario, files)
    for path in link_keys.board_files(scenario, folder):
        shutil.copy(path, files)
    always = "--always-transmit" if scenario.link.contact == "always" else ""
    (files / "flight.env").write_text(f"FLIGHTSW_OPTIONS={always}\n")
    return files


@contextlib.contextmanager
def _keep_console(part: LinePart, path: Path) -> Iterator[None]:
    """Write down what the board's console says."""
    ending = threading.Event()
    with SerialPort(part.port, part.baud) as port, path.open("wb", buffering=0) as file:

        def keep() -> None:
            while not ending.wait(_LISTEN_STEP_S):
                file.write(port.read())

        thread = threading.Thread(target=keep, name="console")
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join()
            file.write(port.read())


# --- command line ------------------------------------------------------------------------------------


def add_command(commands: Commands) -> None:
    """Add `hil rig`."""
    parser = commands.add_parser(
        "rig", help="show, lock, switch or flash a rig of real parts",
        description="Work on the rig that a rig.toml describes. Everything but `show` takes its lock first.",
        epilog=f"Exit status: 0 done, {EXIT_HELD} a command under `lock` failed, 2 bad input, or the rig is in use or "
               "broken, 130 interrupted.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, what, act in (("show", "its parts, which of them are there, and who has it", _show),
                            ("lock", "keep it while a command runs, or until interrupted", _lock),
                            ("power", "switch its power", _switch), ("flash", "put software on the board", _flash)):
        one = verbs.add_parser(verb, help=what, description=f"Rig: {what}.")
        one.add_argument("rig", type=Path, metavar="RIG", help="the rig's file (rig.toml)")
        if verb == "lock":
            one.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND", help="what to run meanwhile")
        if verb == "power":
            one.add_argument("to", choices=("on", "off", "cycle"), help="what to do")
        if verb == "flash":
            one.add_argument("files", type=Path, metavar="DIR", help="folder with mission.toml and link.keys")
        one.set_defaults(run=act)


def _show(options: argparse.Namespace) -> int:
    rig = load_rig(options.rig)
    print(f"rig {rig.name}: {rig.description}")
    for what, part in (("line", rig.line), ("console", rig.console)):
        if part is not None:
            there = "there" if Path(part.port).exists() else "not there"
            print(f"  {what:8} {part.port} at {part.baud} baud: {there}")
    for what, driver, words in (("power", rig.power.driver, rig.power.on), ("flasher", rig.flasher.driver,
                                rig.flasher.command), ("start", rig.start.driver, rig.start.command)):
        print(f"  {what:8} {driver}{': ' if words else ''}{' '.join(words)}")
    limits = rig.limits
    print(f"  limits   boots within {limits.boot_within_s:g} s, answers within {limits.answer_within_s:g} s, is off "
          f"for {limits.off_at_least_s:g} s at least, runs {limits.run_at_most_s:g} s at most")
    print(f"  state    {State.UNKNOWN.value}: nothing has been done and checked yet")
    print(f"  in use   {holder(rig) or 'by nobody'}")
    return 0


def _lock(options: argparse.Namespace) -> int:
    rig = load_rig(options.rig)
    with lock(rig, " ".join(options.words) or "hil rig lock"):
        if options.words:
            return EXIT_HELD if subprocess.run(options.words, check=False).returncode else 0
        print(f"rig {rig.name} is yours until Ctrl-C", flush=True)
        threading.Event().wait()
    return 0


def _switch(options: argparse.Namespace) -> int:
    rig = load_rig(options.rig)
    with lock(rig, f"power {options.to}"):
        strategy = Strategy(rig, options.rig.resolve().parent)
        if options.to != "on":
            strategy.off()
        if options.to != "off":
            strategy.on()
        print(f"rig {rig.name} is {strategy.state.value}")
    return 0


def _flash(options: argparse.Namespace) -> int:
    rig = load_rig(options.rig)
    with lock(rig, "flash"):
        Strategy(rig, options.rig.resolve().parent).flash(options.files)
        print(f"rig {rig.name} is flashed")
    return 0

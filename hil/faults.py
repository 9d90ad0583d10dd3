"""The fault library: every fault that a scenario may name, what it takes, where it can be had, and what it does.

A fault is a generator function: what it does before its first `yield` is its beginning, each further step is one tick
of it, and when it is closed it ends. Its row says which part of a bench it needs (`Part`); a bench that has no such
part is told so by the verdict, never passed over. `hil faults` prints the table; tests/hil/test_faults.py shows of
each one that it has its effect.

`Rig` is what faults act on. Randomness comes from the rig, one stream for each fault of a run.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import math
import os
import random
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from flightsw.dictionary.parameters import BY_NAME as PARAMETER_BY_NAME
from flightsw.dictionary.sensors import fitted_names
from flightsw.guardian import GuardianStatus
from flightsw.jobs.manifest import Manifest
from flightsw.link.serial_port import ByteStream
from flightsw.state import JobProgress
from flightsw.store import OsDisk
from hil.channel import Direction, VirtualLine
from hil.jobs import StreamConfig, VirtualRunner
from hil.plant.satellite import Caps, TruthSatellite, thermal_nodes
from hil.plant.sensors import SensorFault

_ALWAYS_ON_K = (998.0, 999.0)  # thresholds of a heater that never switches off
_HEATERS = ("battery", "plate")
_FILES = ("ledger", "facts")
HOSTILE = ("become_root", "disk_filler", "endless_output", "fork_bomb", "hidden_disk", "hidden_memory",
           "ignore_signals", "leave_session", "memory_herd", "memory_hog", "mount", "network", "priority",
           "read_other", "shared_memory", "trace_other", "user_namespace", "write_outside")
"""The jobs of examples/hostile."""


class Part(enum.Enum):
    """What a fault needs of a bench."""

    TRUTH = "truth"
    LINE = "line to the ground"
    CAPS = "caps on their way to the nodes"
    FLIGHT = "flight software that can be ended and started"
    CLOCK = "clock of the flight software"
    DISK = "disk calls of the flight software"
    FILES = "files of the flight software"
    MEMORY = "memory of the flight software"
    JOBS = "jobs in virtual time"
    PROCESSES = "jobs as processes"
    STATION = "ground station"


class Param(NamedTuple):
    """One parameter of a fault, with unit, inclusive range, and default (None: must be given)."""

    name: str
    unit: str
    low: float
    high: float
    default: float | None
    about: str


@dataclass(frozen=True, slots=True)
class Given:
    """One fault as a scenario gives it: `target` and the value of every parameter."""

    target: str
    values: Mapping[str, float]
    from_s: float
    to_s: float

    def __getitem__(self, name: str) -> float:
        """Return one parameter."""
        return self.values[name]


Effect = Callable[["Rig", Given], Iterator[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the library. `targets` lists what it may be aimed at, given the number of nodes; empty: nothing.

    `effect` is None where `hil serial` makes it and no bench of `hil run`: the verdict says so there.
    `is_moment`: it has no duration.
    """

    kind: str
    about: str
    part: Part
    params: tuple[Param, ...]
    targets: Callable[[int], Sequence[str]]
    target_is: str
    effect: Effect | None
    is_moment: bool = False


LIBRARY: dict[str, Fault] = {}


def _nothing(_nodes: int) -> Sequence[str]:
    return ()


def _nodes(nodes: int) -> Sequence[str]:
    return [str(node) for node in range(nodes)]


def _ways(_nodes: int) -> Sequence[str]:
    return ("up", "down", "both")


def _fault(kind: str, part: Part, *params: Param, targets: Callable[[int], Sequence[str]] = _nothing,
           target_is: str = "", is_moment: bool = False) -> Callable[[Effect], Effect]:
    """Add a fault to the library; the first line of its docstring says what it is. `is_moment`: it has no duration."""
    def add(effect: Effect) -> Effect:
        about = (effect.__doc__ or "").partition("\n")[0]
        LIBRARY[kind] = Fault(kind, about, part, params, targets, target_is, effect, is_moment)
        return effect

    return add


def _until_closed() -> Iterator[None]:
    while True:
        yield


# --- what faults act on ------------------------------------------------------------------------------


class ObeyedCaps:
    """The caps in force as the nodes obey them: what `asked` says, but for the nodes in `stuck`.

    `stuck` has for a node the share of a change that it carries out and the cap that it stood at; a node without power
    obeys nothing.
    """

    def __init__(self, asked: Caps) -> None:
        self.asked = asked
        self.stuck: dict[int, tuple[float, float]] = {}
        self.powered = True

    def status(self, now_s: float) -> GuardianStatus:
        """See `Caps`."""
        status = self.asked.status(now_s)
        if self.powered and not self.stuck:
            return status
        nodes = list(status.nodes)
        for node, (share, held_w) in self.stuck.items():
            nodes[node] = nodes[node]._replace(cap_w=held_w + share * (nodes[node].cap_w - held_w))
        if not self.powered:
            nodes = [node._replace(cap_w=0.0) for node in nodes]
        return status._replace(nodes=tuple(nodes))


class FaultyJobs(VirtualRunner):
    """The jobs as they really are, on nodes where they draw more than declared, hang, or crash."""

    def __init__(self, node_count: int, restore_s: float, config: StreamConfig, seed: int,
                 examples: Sequence[Manifest] = ()) -> None:
        super().__init__(node_count, restore_s, config, seed, examples)
        self.overdraw: dict[int, float] = {}
        self.hung: set[int] = set()
        self._crashed: list[JobProgress] = []

    def crash(self, node: int, detail: str) -> None:
        """End the job on a node as a crash does; nothing where there is none."""
        if job_id := self.on_nodes[node]:
            self._crashed.append(JobProgress(job_id, 0.0, True, False, detail))

    def poll(self, now_s: float) -> tuple[JobProgress, ...]:
        """See `Runner`."""
        crashed, self._crashed = self._crashed, []
        return (*super().poll(now_s), *crashed) if crashed else super().poll(now_s)

    def activities(self) -> list[float | None]:
        """See `Load`."""
        activities = super().activities()
        if self.overdraw:
            activities = [activity if activity is None else activity * self.overdraw.get(node, 1.0)
                          for node, activity in enumerate(activities)]
        return activities

    def work(self, now_s: float, dt_s: float, rates: Sequence[float]) -> None:
        """See `Load`."""
        if self.hung:
            rates = [0.0 if node in self.hung else rate for node, rate in enumerate(rates)]
        super().work(now_s, dt_s, rates)


class FlightControl(Protocol):
    """What a bench whose flight software can be ended, frozen and started offers to faults."""

    clock_ahead_s: float

    def kill(self) -> None:
        """End it without warning."""

    def start(self) -> None:
        """Start it from what it left; nothing where it runs."""

    def boot(self) -> None:
        """Start it with a guardian of its own, as after a power cut."""

    def freeze(self) -> None:
        """Stop it where it stands."""

    def thaw(self, now_s: float) -> None:
        """Let it go on, late."""

    def stall(self, seconds: float) -> None:
        """Let what it does in this tick take so much longer."""

    def parameters(self) -> dict[str, float]:
        """Its parameters, in its own memory."""


class StationControl(Protocol):
    """What a bench whose ground station can crash offers to faults."""

    def tear(self, octets: int) -> None:
        """Crash as soon as this many octets of telecommands have been sent; 0: now."""

    def restore(self) -> None:
        """Start a new session on the same archive."""


class Rig(Protocol):
    """A bench as faults see it. `parts` says what it has; the others are not touched where the part is missing."""

    parts: frozenset[Part]
    satellite: TruthSatellite
    line: VirtualLine
    latency_s: float
    bit_error_rate: float
    caps: ObeyedCaps
    jobs: FaultyJobs
    flight: FlightControl
    station: StationControl
    state_folder: Path
    now_s: float

    def generator(self, given: Given) -> random.Random:
        """Random numbers of one fault, the same in each run of a seed."""


# --- sensors -----------------------------------------------------------------------------------------


def _sensor(kind: str, about: str, *params: Param) -> None:
    """Add one of the true sensors' faults; `hil.plant.sensors` does it."""
    def effect(rig: Rig, given: Given) -> Iterator[None]:
        amount = next(iter(given.values.values()), 0.0)
        rig.satellite.inject(SensorFault(given.from_s, given.to_s, given.target, kind, amount))
        yield from _until_closed()

    effect.__doc__ = about
    _fault(f"sensor.{kind}", Part.TRUTH, *params, targets=fitted_names, target_is="a sensor")(effect)


_sensor("stuck", "Repeats its last reading as if it were fresh.")
_sensor("nan", "Reads NaN.")
_sensor("dropout", "Gives no value.")
_sensor("bias", "Reads wrong by a constant.",
        Param("amount", "its unit", -1e4, 1e4, None, "what is added"))
_sensor("drift", "Reads wrong by more and more.",
        Param("amount", "its unit/h", -1e4, 1e4, None, "what is added in an hour"))
_sensor("noise", "Has more noise.", Param("amount", "its unit", 0.0, 1e4, None, "one sigma of it"))
_sensor("delay", "Its readings come late, with their own stamps.", Param("amount", "s", 1.0, 3000.0, None, "how late"))
_sensor("replay", "Plays what it read before over and over, as if it were fresh.",
        Param("amount", "s", 1.0, 3000.0, None, "how much of its past"))


def sensor_fault(sensor: str, kind: str, amount: float) -> tuple[str, str, dict[str, float]]:
    """Return kind, target and parameters of the library's fault that a true sensor's fault is."""
    params = LIBRARY[f"sensor.{kind}"].params
    return f"sensor.{kind}", sensor, {params[0].name: amount} if params else {}


# --- the true satellite ------------------------------------------------------------------------------


@_fault("plant.string_lost", Part.TRUTH, Param("lost_frac", "frac", 0.01, 0.95, 0.25, "share of the array"))
def _string_lost(rig: Rig, given: Given) -> Iterator[None]:
    """A string of the solar array is lost."""
    model, kept = rig.satellite.plant.model, 1.0 - given["lost_frac"]
    model.array_health_frac *= kept
    with contextlib.ExitStack() as at_end:
        at_end.callback(lambda: setattr(model, "array_health_frac", min(1.0, model.array_health_frac / kept)))
        yield from _until_closed()


@_fault("plant.cells_lost", Part.TRUTH, Param("lost_frac", "frac", 0.01, 0.8, 0.33, "share of the parallel cells"))
def _cells_lost(rig: Rig, given: Given) -> Iterator[None]:
    """Cells of the battery fail open: capacity and charge in them are gone, resistance rises.

    An open cell keeps its charge: at the end it is there again.
    """
    kept = 1.0 - given["lost_frac"]
    lost_j = rig.satellite.scale_battery(kept, 1.0 / kept)
    with contextlib.ExitStack() as at_end:
        at_end.callback(rig.satellite.scale_battery, 1.0 / kept, kept, lost_j)
        yield from _until_closed()


@_fault("plant.radiator_degraded", Part.TRUTH, Param("kept_frac", "frac", 0.05, 0.99, 0.6, "emittance that is left"))
def _radiator_degraded(rig: Rig, given: Given) -> Iterator[None]:
    """The radiator emits less."""
    model, at = rig.satellite.plant.model, thermal_nodes(rig.satellite.truth.compute.nodes)
    before = {node: model.radiating_m2[node] for node in (at.root, at.tip)}
    for node, area_m2 in before.items():
        model.radiating_m2[node] = area_m2 * given["kept_frac"]
    with contextlib.ExitStack() as at_end:
        for node, area_m2 in before.items():
            at_end.callback(model.radiating_m2.__setitem__, node, area_m2)
        yield from _until_closed()


@_fault("plant.heater_stuck", Part.TRUTH, targets=lambda _nodes: _HEATERS, target_is="a heater")
def _heater_stuck(rig: Rig, given: Given) -> Iterator[None]:
    """A heater never switches off."""
    model, heater = rig.satellite.plant.model, _HEATERS.index(given.target)
    before = model.heater_on_k[heater], model.heater_off_k[heater]
    model.heater_off_k[heater], model.heater_on_k[heater] = _ALWAYS_ON_K[1], _ALWAYS_ON_K[0]
    with contextlib.ExitStack() as at_end:
        at_end.callback(model.heater_off_k.__setitem__, heater, before[1])
        at_end.callback(model.heater_on_k.__setitem__, heater, before[0])
        yield from _until_closed()


@_fault("plant.latch_up", Part.TRUTH, Param("extra_w", "W", 0.5, 60.0, 8.0, "what the node draws more"),
        Param("clears_after_s", "s", 1.0, 600.0, 2.0, "time switched off after which it is gone"),
        targets=_nodes, target_is="a node")
def _latch_up(rig: Rig, given: Given) -> Iterator[None]:
    """A node latches up: it draws more until it has been switched off for a while."""
    satellite, node, off_s = rig.satellite, int(given.target), 0.0
    with contextlib.ExitStack() as at_end:
        at_end.callback(lambda: satellite.stray_w.__setitem__(node, 0.0))
        while off_s < given["clears_after_s"]:
            satellite.stray_w[node] = given["extra_w"]
            yield
            off_s = off_s + 1.0 if satellite.modes[node] == 0 else 0.0
    yield from _until_closed()


@_fault("plant.eclipse_early", Part.TRUTH)
def _eclipse_early(rig: Rig, given: Given) -> Iterator[None]:
    """The Sun is gone, and no orbit knows of it: begin it before `eclipse.entry` for an eclipse that comes early."""
    rig.satellite.shade(min(math.ceil(given.to_s - given.from_s), 10**9) if given.to_s < math.inf else 10**9)
    yield from _until_closed()


# --- actuators ---------------------------------------------------------------------------------------


def _stuck_cap(rig: Rig, given: Given, share: float) -> Iterator[None]:
    node = int(given.target)
    rig.caps.stuck[node] = (share, rig.caps.status(rig.now_s).nodes[node].cap_w)
    with contextlib.ExitStack() as at_end:
        at_end.callback(rig.caps.stuck.pop, node, None)
        yield from _until_closed()


@_fault("actuator.ignored", Part.CAPS, targets=_nodes, target_is="a node")
def _ignored(rig: Rig, given: Given) -> Iterator[None]:
    """A node does not follow its cap: it stays where it was."""
    yield from _stuck_cap(rig, given, 0.0)


@_fault("actuator.partial", Part.CAPS, Param("share_frac", "frac", 0.01, 0.99, 0.5, "share of a change it carries out"),
        targets=_nodes, target_is="a node")
def _partial(rig: Rig, given: Given) -> Iterator[None]:
    """A node follows its cap only in part."""
    yield from _stuck_cap(rig, given, given["share_frac"])


# --- board -------------------------------------------------------------------------------------------


@_fault("board.sigkill", Part.FLIGHT)
def _sigkill(rig: Rig, _given: Given) -> Iterator[None]:
    """The supervisor is killed without warning; it starts again when the fault ends."""
    rig.flight.kill()
    with contextlib.ExitStack() as at_end:
        at_end.callback(rig.flight.start)
        yield from _until_closed()


@_fault("board.sigstop", Part.FLIGHT)
def _sigstop(rig: Rig, _given: Given) -> Iterator[None]:
    """The supervisor stands still; it goes on, late, when the fault ends."""
    rig.flight.freeze()
    with contextlib.ExitStack() as at_end:
        at_end.callback(lambda: rig.flight.thaw(rig.now_s))
        yield from _until_closed()


@_fault("board.power_cut", Part.FLIGHT)
def _power_cut(rig: Rig, _given: Given) -> Iterator[None]:
    """Board and nodes lose their power; the board boots when the fault ends."""
    rig.flight.kill()
    rig.caps.powered = False
    rig.satellite.set_transmitter(False)
    with contextlib.ExitStack() as at_end:
        at_end.callback(rig.flight.boot)
        at_end.callback(setattr, rig.caps, "powered", True)
        yield from _until_closed()


@_fault("board.clock_step", Part.CLOCK, Param("ahead_s", "s", 1.0, 86_400.0, 600.0, "how far it jumps ahead"),
        is_moment=True)
def _clock_step(rig: Rig, given: Given) -> Iterator[None]:
    """The board's clock jumps ahead, for good."""
    rig.flight.clock_ahead_s += given["ahead_s"]
    yield from _until_closed()


def _is_of(rig: Rig, path: Path) -> bool:
    """Whether a file is the flight software's, and not anybody else's in this process."""
    return str(path).startswith(str(rig.state_folder.resolve()))


def _disk_errors(rig: Rig, number: int) -> Iterator[None]:
    """Let every write of the flight software's storage fail."""
    whole = OsDisk.write

    def write(disk: OsDisk, fd: int, offset: int, octets: bytes) -> None:
        if _is_of(rig, Path(f"/proc/self/fd/{fd}").readlink()):
            raise OSError(number, os.strerror(number))
        whole(disk, fd, offset, octets)

    with contextlib.ExitStack() as at_end:
        at_end.callback(setattr, OsDisk, "write", whole)
        setattr(OsDisk, "write", write)  # noqa: B010 # a plain assignment to a method is refused by the type checker
        yield from _until_closed()


@_fault("board.disk_full", Part.DISK)
def _disk_full(rig: Rig, _given: Given) -> Iterator[None]:
    """The flight software's disk is full."""
    yield from _disk_errors(rig, errno.ENOSPC)


@_fault("board.disk_error", Part.DISK)
def _disk_error(rig: Rig, _given: Given) -> Iterator[None]:
    """Writes to the flight software's disk fail with an I/O error."""
    yield from _disk_errors(rig, errno.EIO)


@_fault("board.slow_disk", Part.DISK, Param("delay_ms", "ms", 1.0, 10_000.0, 500.0, "what each sync takes"))
def _slow_disk(rig: Rig, given: Given) -> Iterator[None]:
    """Each sync of the flight software's disk takes long: ticks are late and left out."""
    sync, sync_folder, delay_s = OsDisk.sync, OsDisk.sync_folder, 1e-3 * given["delay_ms"]

    def slow_sync(disk: OsDisk, fd: int) -> None:
        if _is_of(rig, Path(f"/proc/self/fd/{fd}").readlink()):
            rig.flight.stall(delay_s)
        sync(disk, fd)

    def slow_sync_folder(disk: OsDisk, folder: Path) -> None:
        if _is_of(rig, folder.resolve()):
            rig.flight.stall(delay_s)
        sync_folder(disk, folder)

    with contextlib.ExitStack() as at_end:
        for name, whole, slow in (("sync", sync, slow_sync), ("sync_folder", sync_folder, slow_sync_folder)):
            at_end.callback(setattr, OsDisk, name, whole)
            setattr(OsDisk, name, slow)
        yield from _until_closed()


@_fault("board.corruption", Part.FILES, Param("octets", "octets", 1.0, 4096.0, 16.0, "how many are flipped"),
        targets=lambda _nodes: _FILES, target_is="its files", is_moment=True)
def _corruption(rig: Rig, given: Given) -> Iterator[None]:
    """Octets of stored files rot; it shows when they are read again, at the next start. Of the facts, one copy does."""
    draw = rig.generator(given)
    paths = sorted((rig.state_folder / "ledger").glob("*")) if given.target == "ledger" else [
        rig.state_folder / f"facts-{draw.choice('abc')}"]
    paths = [path for path in paths if path.is_file() and path.stat().st_size]
    for _ in range(int(given["octets"]) if paths else 0):
        path = draw.choice(paths)
        with path.open("r+b") as file:
            at = draw.randrange(path.stat().st_size)
            file.seek(at)
            old = file.read(1)
            file.seek(at)
            file.write(bytes([old[0] ^ (1 << draw.randrange(8))]))
    yield from _until_closed()


@_fault("board.bit_flip", Part.MEMORY, Param("bit", "", 0.0, 63.0, 52.0, "63 is the sign, 52..62 the exponent"),
        targets=lambda _nodes: tuple(PARAMETER_BY_NAME), target_is="a parameter", is_moment=True)
def _bit_flip(rig: Rig, given: Given) -> Iterator[None]:
    """One bit of a parameter flips in the flight software's memory."""
    values = rig.flight.parameters()
    (word,) = struct.unpack("<Q", struct.pack("<d", values[given.target]))
    (values[given.target],) = struct.unpack("<d", struct.pack("<Q", word ^ (1 << int(given["bit"]))))
    yield from _until_closed()


# --- link --------------------------------------------------------------------------------------------


def _directions(rig: Rig, given: Given) -> list[Direction]:
    """Directions that a link fault is aimed at: "up" is towards the satellite."""
    ways = {"down": [rig.line.a_to_b], "up": [rig.line.b_to_a]}
    return ways.get(given.target, [rig.line.a_to_b, rig.line.b_to_a])


def _tamper(rig: Rig, given: Given, make: Callable[[Direction], Callable[[bytes], bytes]]) -> Iterator[None]:
    with contextlib.ExitStack() as at_end:
        for direction in _directions(rig, given):
            tamper = make(direction)
            direction.tampers.append(tamper)
            at_end.callback(direction.tampers.remove, tamper)
        yield from _until_closed()


@_fault("link.bit_errors", Part.LINE, Param("rate", "", 1e-9, 0.1, 1e-4, "bit error rate"), targets=_ways,
        target_is="a direction")
def _bit_errors(rig: Rig, given: Given) -> Iterator[None]:
    """Bits flip at random."""
    with contextlib.ExitStack() as at_end:
        for direction in _directions(rig, given):
            direction.set_bit_error_rate(given["rate"])
            at_end.callback(direction.set_bit_error_rate, rig.bit_error_rate)
        yield from _until_closed()


@_fault("link.bursts", Part.LINE, Param("every_octets", "octets", 10.0, 1e6, 2000.0, "octets from burst to burst"),
        Param("octets", "octets", 1.0, 1e4, 40.0, "length of a burst"), targets=_ways, target_is="a direction")
def _bursts(rig: Rig, given: Given) -> Iterator[None]:
    """Whole stretches of octets are noise."""
    draw, every, length = rig.generator(given), int(given["every_octets"]), int(given["octets"])

    def make(direction: Direction) -> Callable[[bytes], bytes]:
        passed = 0

        def tamper(octets: bytes) -> bytes:
            nonlocal passed
            noisy = bytearray(octets)
            for at in range(len(octets)):
                if (passed + at) % every < length:
                    noisy[at] = draw.randrange(256)
                    direction.flipped_bits += (noisy[at] ^ octets[at]).bit_count()
            passed += len(octets)
            return bytes(noisy)

        return tamper

    yield from _tamper(rig, given, make)


@_fault("link.cut", Part.LINE, targets=_ways, target_is="a direction")
def _cut(rig: Rig, given: Given) -> Iterator[None]:
    """Nothing arrives."""
    def make(direction: Direction) -> Callable[[bytes], bytes]:
        def tamper(octets: bytes) -> bytes:
            direction.lost_octets += len(octets)
            direction.delivered_octets -= len(octets)
            return b""

        return tamper

    yield from _tamper(rig, given, make)


@_fault("link.delay", Part.LINE, Param("extra_s", "s", 0.01, 60.0, 5.0, "latency that is added"), targets=_ways,
        target_is="a direction")
def _delay(rig: Rig, given: Given) -> Iterator[None]:
    """Everything takes longer."""
    with contextlib.ExitStack() as at_end:
        for direction in _directions(rig, given):
            direction.set_latency(rig.latency_s + given["extra_s"])
            at_end.callback(direction.set_latency, rig.latency_s)
        yield from _until_closed()


@_fault("link.duplicate", Part.LINE, targets=_ways, target_is="a direction")
def _duplicate(rig: Rig, given: Given) -> Iterator[None]:
    """Everything arrives twice."""
    yield from _tamper(rig, given, lambda _direction: lambda octets: octets + octets)


@_fault("link.garbage", Part.LINE, Param("octets_s", "octets/s", 1.0, 20_000.0, 200.0, "how much of it"), targets=_ways,
        target_is="a direction")
def _garbage(rig: Rig, given: Given) -> Iterator[None]:
    """Noise arrives that nobody sent."""
    draw = rig.generator(given)
    while True:
        for direction in _directions(rig, given):
            direction.inject(draw.randbytes(min(int(given["octets_s"]), direction.free_octets)))
        yield


@_fault("link.wrong_baud", Part.LINE, Param("ratio", "", 0.05, 20.0, 0.5, "receiver's rate over the sender's"),
        targets=_ways, target_is="a direction")
def _wrong_baud(rig: Rig, given: Given) -> Iterator[None]:
    """The receiver samples at another rate: other octets, and another number of them."""
    draw, ratio = rig.generator(given), given["ratio"]
    yield from _tamper(rig, given, lambda _direction: lambda octets: draw.randbytes(round(len(octets) * ratio)))


@_fault("link.replay", Part.LINE, Param("record_s", "s", 1.0, 3600.0, 60.0, "how long is listened first"),
        Param("every_s", "s", 1.0, 3600.0, 30.0, "time from one repetition to the next"), targets=_ways,
        target_is="a direction")
def _replay(rig: Rig, given: Given) -> Iterator[None]:
    """What was heard is sent again and again, as an attacker would."""
    heard = {id(direction): bytearray() for direction in _directions(rig, given)}

    def make(direction: Direction) -> Callable[[bytes], bytes]:
        def tamper(octets: bytes) -> bytes:
            heard[id(direction)] += octets
            return octets

        return tamper

    listening = _tamper(rig, given, make)
    since_s = rig.now_s
    while rig.now_s - since_s < given["record_s"]:
        next(listening)
        yield
    listening.close()  # type: ignore[attr-defined] # a generator, as all effects are
    while True:
        for direction in _directions(rig, given):
            direction.inject(bytes(heard[id(direction)][: direction.free_octets]))
        for _ in range(int(given["every_s"])):
            yield


# --- ground ------------------------------------------------------------------------------------------


@_fault("ground.crash", Part.STATION, Param("sent_octets", "octets", 0.0, 1e6, 0.0, "what it still sends"))
def _ground_crash(rig: Rig, given: Given) -> Iterator[None]:
    """The ground's session crashes, in the midst of what it sends; a new one begins when the fault ends."""
    rig.station.tear(int(given["sent_octets"]))
    with contextlib.ExitStack() as at_end:
        at_end.callback(rig.station.restore)
        yield from _until_closed()


class TornPort:
    """A port of a sender that dies when it has sent so many octets; `is_torn` says that it has."""

    def __init__(self, port: ByteStream, octets: int) -> None:
        self._port = port
        self._left = octets
        self.is_torn = octets == 0

    def read(self) -> bytes:
        """See `ByteStream`; what arrives for the dead is lost."""
        octets = self._port.read()
        return b"" if self.is_torn else octets

    def write(self, octets: bytes) -> int:
        """See `ByteStream`; the dead believe that they sent it."""
        self._port.write(octets[: self._left])
        self._left = max(0, self._left - len(octets))
        self.is_torn = self.is_torn or self._left == 0
        return len(octets)


# --- jobs --------------------------------------------------------------------------------------------


@_fault("job.overdraw", Part.JOBS, Param("factor", "", 1.01, 3.0, 1.3, "true draw over the declared one"),
        targets=_nodes, target_is="a node")
def _overdraw(rig: Rig, given: Given) -> Iterator[None]:
    """Whatever runs on a node draws more than its owner declared."""
    node = int(given.target)
    rig.jobs.overdraw[node] = given["factor"]
    with contextlib.ExitStack() as at_end:
        at_end.callback(rig.jobs.overdraw.pop, node, None)
        yield from _until_closed()


@_fault("job.hangs", Part.JOBS, targets=_nodes, target_is="a node")
def _hangs(rig: Rig, given: Given) -> Iterator[None]:
    """Whatever runs on a node draws its power and gets nothing done."""
    rig.jobs.hung.add(int(given.target))
    with contextlib.ExitStack() as at_end:
        at_end.callback(rig.jobs.hung.discard, int(given.target))
        yield from _until_closed()


@_fault("job.crashes", Part.JOBS, targets=_nodes, target_is="a node", is_moment=True)
def _crashes(rig: Rig, given: Given) -> Iterator[None]:
    """The job on a node crashes."""
    rig.jobs.crash(int(given.target), "killed by signal 11")
    yield from _until_closed()


LIBRARY["job.hostile"] = Fault(
    "job.hostile", "A job attacks its sandbox (`flightsw run` does so itself at each start).", Part.PROCESSES, (),
    lambda _nodes: HOSTILE, "an attack", None)


def table(nodes: int) -> str:
    """The library as `hil faults` prints it."""
    lines = []
    for row in LIBRARY.values():
        where = f"needs {row.part.value}" + ("" if row.effect is not None else "; hil serial has them")
        lines.append(f"{row.kind:24}{row.about}")
        lines.append(f"{'':24}{where}{'; at a moment, for good' if row.is_moment else ''}")
        if targets := row.targets(nodes):
            shown = ", ".join(targets) if len(targets) <= 8 else f"{', '.join(targets[:6])} ... ({len(targets)})"
            lines.append(f"{'':24}target: {row.target_is}: {shown}")
        lines.extend(
            f"{'':24}{param.name} = {'to be given' if param.default is None else f'{param.default:g}'}, "
            f"{param.low:g}..{param.high:g}{f' {param.unit}' if param.unit else ''}: {param.about}"
            for param in row.params)
    return "\n".join(lines)

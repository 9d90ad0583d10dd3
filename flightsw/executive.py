"""Real time around the supervisor: when it ticks, when it listens, how its guardian is kept, when it ends.

Used by the flight program alone; a run in virtual time calls `Supervisor.tick` itself. Ticks come at absolute
deadlines, so lateness never adds up to drift; between them the serial ports are served as soon as they have
octets. Never decides anything.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Self

from flightsw.clock import MonotonicClock
from flightsw.errors import BoardError, FlightError
from flightsw.guardian import GuardianHealth, GuardianStatus, ProcessGuardian
from flightsw.jobs.ledger import LedgerEntry
from flightsw.jobs.onboard import OnboardJobs
from flightsw.link.serial_port import SerialPort
from flightsw.lockstep import LockstepBoard
from flightsw.state import Decision, Event, JobSpec, NodeCap
from flightsw.supervisor import PERIOD_S, Supervisor

_LATE_S: Final = 0.5 * PERIOD_S
_RESTART_EVERY_S: Final = 1.0  # of the machine; a guardian that cannot start must not keep the loop from its work
_LAST_LEASE_S: Final = 1.0
_HELD_FOR_S: Final = 2.0
"""How long a killed supervisor's locks can outlive it: until a job that it was just starting has begun its program."""
_LOOK_AGAIN_S: Final = 0.02
_BUSY_OVER_S: Final = 1.0  # of the machine; the kernel counts processor time in steps of 10 ms
_Handler = Callable[[int, FrameType | None], object] | int | None  # as `signal.signal` takes and returns it
_GREET_EVERY_S: Final = 1.0  # of the machine
_MCL_CURRENT, _MCL_FUTURE = 1, 2  # <sys/mman.h>
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class StopRequest:
    """SIGTERM or SIGINT, as something that a loop can wait for, while this is entered. Main thread only."""

    def __init__(self) -> None:
        self.asked = False
        self._read, self._write = -1, -1
        self._before: dict[int, _Handler] = {}

    def fileno(self) -> int:
        """Descriptor that becomes readable with the signal."""
        return self._read

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._take) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True


class GroundOnly:
    """The inbox of a satellite on which no instrument submits jobs: they come by telecommand."""

    def take(self, _now_s: float, _known: Mapping[int, LedgerEntry]) -> tuple[JobSpec, ...]:
        """See `supervisor.Inbox`."""
        return ()

    def news(self) -> tuple[Event, ...]:
        """See `supervisor.Inbox`."""
        return ()


class KeptGuardian:
    """The guardian program, started again when it is lost.

    The supervisor sees the loss for a tick and goes to SAFE before the next guardian serves it. On a clock that
    runs `rate` times as fast, a lease is as much shorter: the guardian's own clock is always the machine's.
    """

    def __init__(self, guardian: ProcessGuardian, floor_w: Sequence[float], rate: float) -> None:
        self._guardian = guardian
        self._floor = [NodeCap(cap_w, 0.0, 0) for cap_w in floor_w]
        self._rate = rate
        self._restart_at_s = 0.0
        self.last: GuardianStatus = guardian.start()
        self.restarts = 0
        self.trouble = ""

    def renew(self, now_s: float, lease_s: float, caps: Sequence[NodeCap]) -> GuardianStatus:
        """See `GuardianLink`."""
        machine_s = now_s / self._rate
        self.last = self._guardian.renew(machine_s, lease_s / self._rate, caps)
        if self.last.health is not GuardianHealth.ALIVE and machine_s >= self._restart_at_s:
            self._restart_at_s = machine_s + _RESTART_EVERY_S
            try:
                self._guardian.start()
                self.restarts += 1
                self.trouble = ""
            except BoardError as error:
                self.trouble = str(error)
        return self.last

    def status(self, now_s: float) -> GuardianStatus:
        """See `GuardianLink`."""
        self.last = self._guardian.status(now_s / self._rate)
        return self.last

    def close(self, *, stop: bool) -> None:
        """Drop the caps to the floor, and end the guardian where `stop` says so."""
        with contextlib.suppress(FlightError):
            self._guardian.renew(0.0, _LAST_LEASE_S, self._floor)
            if stop:
                self._guardian.stop()
        self._guardian.close()


class BusyMeter:
    """How much each node's job really ran, as the share of a core over the last second of the machine."""

    def __init__(self, jobs: OnboardJobs, nodes: int) -> None:
        self._jobs = jobs
        self._busy_frac = (0.0,) * nodes
        self._since_s = time.monotonic()
        self._placed: tuple[int, ...] = ()
        self._used_s: tuple[float, ...] = ()

    def read(self) -> tuple[float, ...]:
        """Return the latest shares; a node whose job changed in between counts from then on."""
        now_s = time.monotonic()
        placed = self._jobs.placed
        if placed != self._placed or now_s - self._since_s >= _BUSY_OVER_S:
            used_s = self._jobs.processor_s()
            if placed == self._placed and self._used_s:
                elapsed_s = now_s - self._since_s
                self._busy_frac = tuple([
                    min(1.0, max(0.0, (after - before) / elapsed_s))
                    for before, after in zip(self._used_s, used_s, strict=True)
                ])
            self._placed, self._used_s, self._since_s = placed, used_s, now_s
        return self._busy_frac


class Executive:
    """The loop of the flight program. `ports` are served when they are ready: each with the call that serves it.

    `after_tick` gets the time of each tick, how late it began, and how many periods were left out so far.
    """

    def __init__(self, supervisor: Supervisor, clock: MonotonicClock, stop: StopRequest,
                 ports: Sequence[tuple[SerialPort, Callable[[float], None]]],
                 after_tick: Callable[[float, float, int], None]) -> None:
        self._supervisor = supervisor
        self._clock = clock
        self._stop = stop
        self._ports = ports
        self._after_tick = after_tick

    def run(self) -> None:
        """Tick once a second until a stop is asked for."""
        clock, supervisor, overruns = self._clock, self._supervisor, 0
        due_s = clock.now_s()
        while not self._stop.asked:
            self._serve_until(due_s)
            now_s = clock.now_s()
            late_s = now_s - due_s
            left_out = max(0, int(late_s / PERIOD_S))
            if late_s > _LATE_S:
                supervisor.note_overrun(now_s, late_s, left_out)
            for port, _ in self._ports:
                port.reconnect(now_s)
            supervisor.tick(now_s)
            overruns += left_out
            self._after_tick(now_s, late_s, overruns)
            due_s += (1 + left_out) * PERIOD_S

    def _serve_until(self, due_s: float) -> None:
        """Serve the ports until the tick is due; a port that never falls silent does not put it off."""
        clock, stop = self._clock, self._stop
        while not stop.asked and clock.now_s() < due_s:
            up = [port for port, _ in self._ports if port.fault is None]
            readable = [stop.fileno(), *(port.fileno() for port in up)]
            writable = [port.fileno() for port in up if port.backlog_octets]
            if clock.wait_ready(due_s, readable, writable):
                now_s = clock.now_s()
                for _, serve in self._ports:
                    serve(now_s)


def follow(board: LockstepBoard, port: SerialPort, supervisor: Supervisor, stop: StopRequest) -> None:
    """Tick whenever the plant at the other end of `port` says so, until a stop is asked for. No clock decides here."""

    def tick(now_s: float) -> tuple[Decision | None, int, int]:
        decision = supervisor.tick(now_s)
        return decision, supervisor.failures, supervisor.brain.tally.sheds

    while not stop.asked:
        if port.reconnect(time.monotonic()):
            if not board.ticks:
                board.greet()
            readable, writable = [stop.fileno(), port.fileno()], [port.fileno()] * bool(port.backlog_octets)
            select.select(readable, writable, (), _GREET_EVERY_S)
            board.serve(tick)
        else:
            select.select([stop.fileno()], (), (), _GREET_EVERY_S)


def go_real_time(priority: int) -> str:
    """Run before everything that is not real-time, and keep all memory in RAM; return what the machine allowed.

    Processes that are started later are ordinary again: a job never gets the priority of the loop.
    """
    said = []
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
        said.append(f"SCHED_FIFO {priority}")
    except OSError as error:
        said.append(f"no SCHED_FIFO ({error.strerror})")
    libc = ctypes.CDLL(None, use_errno=True)
    locked = libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) == 0
    said.append("memory locked" if locked else f"memory not locked ({os.strerror(ctypes.get_errno())})")
    return ", ".join(said)


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep a state folder to ourselves; BoardError when another flight program flies with it."""
    path = folder / "lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise BoardError(f"{path}: {error.strerror}") from error
    give_up_s = time.monotonic() + _HELD_FOR_S
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > give_up_s:
                    raise BoardError(f"{folder} is in use by another flight program") from error
                time.sleep(_LOOK_AGAIN_S)
        yield
    finally:
        os.close(descriptor)


def resume_time_s(folder: Path, noted_s: float, rate: float) -> float:
    """Return where the mission's time goes on, and remember how it runs on this machine.

    `noted_s` is the last time that is known to have been. When only the supervisor was restarted, the machine's own
    clock still knows how much later it is; after a reset of the board nothing does, and time goes on from `noted_s`.
    """
    path = folder / "clock.json"
    machine_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    try:
        boot_id = _BOOT_ID.read_text().strip()
    except OSError:
        boot_id = ""
    start_s = noted_s
    try:
        anchor = json.loads(path.read_text())
        if boot_id and anchor["boot_id"] == boot_id and anchor["rate"] == rate:
            start_s = max(noted_s, anchor["now_s"] + (machine_s - anchor["machine_s"]) * rate)
    except (OSError, ValueError, KeyError, TypeError):
        start_s = noted_s  # no anchor, or none that can be read: what was noted durably counts
    fresh = path.with_suffix(".new")
    try:
        fresh.write_text(json.dumps({"boot_id": boot_id, "rate": rate, "machine_s": machine_s, "now_s": start_s}))
        fresh.replace(path)
    except OSError as error:
        raise BoardError(f"{path}: {error.strerror}") from error
    return start_s

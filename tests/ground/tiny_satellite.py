"""The smallest satellite that the ground can talk to: the flight's own link and dictionary, and no brain."""

from __future__ import annotations

import math
import os
import select
import threading
import tty
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType

from flightsw.dictionary import commands, parameters
from flightsw.dictionary.commands import Context, Rejection
from flightsw.dictionary.telemetry import BY_SID, POINT_INDEX, POINTS, Housekeeping, pack_values
from flightsw.keyfile import DEFAULT_FILE, End, open_ring
from flightsw.link.keys import KeyRing
from flightsw.link.packets import Telemetry, pack_tm
from flightsw.link.sdls import CommandSeal, TelemetrySeal
from flightsw.link.services import (
    STAGE_ACCEPTED,
    STAGE_COMPLETED,
    STAGE_NOT_ACCEPTED,
    CommandReceiver,
    Reporter,
)
from flightsw.state import Effect, Event, Mode, Pong, ReportHousekeeping, SetMode, SetParameter
from ground.archive import Archive

SCID, APID = 42, 100


class TinySatellite:
    """Answers telecommands at once; `pool` is what it reports."""

    def __init__(self, ring: KeyRing | None = None) -> None:
        seals = (None, None) if ring is None else (CommandSeal(ring), TelemetrySeal(ring, encrypt=False))
        self.reporter = Reporter(SCID, APID, 1 << 20, seal=seals[1])
        self.receiver = CommandReceiver(SCID, APID, seal=seals[0])
        self.mode = Mode.SAFE
        self.limits = {row.name: row.default for row in parameters.PARAMETERS}
        self.pool: list[float | int] = [
            20.0 if point.kind in {"f32", "f64"} else 3 for point in POINTS
        ]
        self.set(mode=self.mode, battery_soc_frac=0.9, battery_low_frac=0.88, forecast_battery_min_frac=0.8,
                 array_c=math.nan, sun_frac=1.0)
        self.mute = False  # accepts and completes silently

    def set(self, **values: float) -> None:
        for name, value in values.items():
            self.pool[POINT_INDEX[name]] = value

    def uplink(self, octets: bytes, obt_s: float) -> None:
        for received in self.receiver.push(octets):
            row = commands.find(received.service, received.subservice, received.data)
            if row is None or self.mute:
                continue
            result = commands.execute(row, received.data, Context(0.0, self.mode, frozenset(), lambda _: False))
            if isinstance(result, Rejection):
                self.reporter.verification(received.request_id, STAGE_NOT_ACCEPTED, result.code, result.text, obt_s)
                continue
            self.reporter.verification(received.request_id, STAGE_ACCEPTED, 0, "", obt_s)
            for effect in result:
                self._carry_out(effect, obt_s)
            self.reporter.verification(received.request_id, STAGE_COMPLETED, 0, "", obt_s)

    def _carry_out(self, effect: Effect, obt_s: float) -> None:
        if isinstance(effect, Pong):
            self.reporter.pong(obt_s)
        elif isinstance(effect, ReportHousekeeping):
            self.reporter.housekeeping(effect.sid, self.pool, obt_s)
        elif isinstance(effect, SetParameter):
            self.limits[effect.name] = effect.value
            self.reporter.event(Event("parameter_set", (effect.name, effect.value)), obt_s)
        elif isinstance(effect, SetMode):
            self.reporter.event(Event("mode_changed", (self.mode.name, effect.mode.name, effect.reason)), obt_s)
            self.mode = effect.mode
            self.set(mode=effect.mode)

    def downlink(self) -> bytes:
        self.reporter.report_uplink(self.receiver.control_words())
        return self.reporter.take(1 << 20)


def report_packet(obt_s: float, sid: int, values: Sequence[float | int], row: Housekeeping | None = None) -> bytes:
    """A housekeeping packet as the satellite sends it."""
    types = [point.kind for point in (row or BY_SID[sid]).points]
    data = bytes((sid,)) + pack_values(types, values)
    return pack_tm(Telemetry(APID, int(obt_s) & 0x3FFF, 3, 25, int(obt_s) & 0xFFFF, 0, obt_s, data))


def add_report(archive: Archive, obt_s: float, sid: int, values: Sequence[float | int],
               row: Housekeeping | None = None) -> None:
    """Put a housekeeping report into an archive, received at 1000 s and `obt_s`."""
    archive.add_packet(1000.0 + obt_s, obt_s, APID, 3, 25, int(obt_s) & 0x3FFF, report_packet(obt_s, sid, values, row))
    archive.add_housekeeping(sid)


class Wire:
    """The ground's end of an in-memory line; `waiting` is what arrived and is not read yet."""

    def __init__(self) -> None:
        self.waiting = b""
        self.sent = b""
        self.broken = False

    def read(self) -> bytes:
        octets, self.waiting = self.waiting, b""
        return octets

    def write(self, octets: bytes) -> int:
        if self.broken:
            return 0
        self.sent += octets
        return len(octets)

    def take_sent(self) -> bytes:
        octets, self.sent = self.sent, b""
        return octets


class PtySatellite:
    """A tiny satellite behind a pseudo-terminal, reporting structures 1 to 3 every 50 ms; one at a time has keys."""

    def __init__(self, *, has_keys: bool = True) -> None:
        self._keys = ExitStack()
        self.satellite = TinySatellite(
            self._keys.enter_context(open_ring(DEFAULT_FILE, End.BOARD, SCID)) if has_keys else None)
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> PtySatellite:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._keys.close()
        os.close(self._master)
        os.close(self._slave)

    def wait_until_read(self) -> None:
        """Return once the satellite took a telecommand."""
        while not self.satellite.receiver.frames_accepted:
            self._stop.wait(0.01)

    def unplug(self) -> None:
        """End the line as pulling an adapter does: the other end hangs up."""
        self._stop.set()
        self._thread.join()
        os.close(self._master)
        self._master = os.open(os.devnull, os.O_RDONLY)

    def _run(self) -> None:
        os.set_blocking(self._master, False)
        obt_s = 1_800_000_000.0
        while not self._stop.is_set():
            if select.select([self._master], [], [], 0.05)[0]:
                self.satellite.uplink(os.read(self._master, 4096), obt_s)
            obt_s += 0.05
            for sid in (1, 2, 3):
                self.satellite.reporter.housekeeping(sid, self.satellite.pool, obt_s)
            octets = self.satellite.downlink()
            try:
                os.write(self._master, octets)
            except BlockingIOError:  # nobody listens: as in orbit, it is lost
                continue

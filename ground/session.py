"""One session with the satellite on a serial port, in real time: port, archive, station and door, turn by turn.

`ground watch` turns it in its own loop, `ground console` in a thread beside the screen. Owns the order of a turn and
the words for what is wrong with the line. What it received is found in the archive.
"""

from __future__ import annotations

import argparse
import select
import threading
import time
from contextlib import ExitStack
from types import TracebackType
from typing import NamedTuple, Self

from flightsw.clock import MonotonicClock
from flightsw.errors import FlightError, StoreError
from flightsw.link.serial_port import SerialPort
from ground.archive import Archive
from ground.cli.options import seals_of, stack_of
from ground.files import FileDesk, folder_of
from ground.relay import Door
from ground.station import Station

_WAIT_S = 0.05
_GATHER_S = 0.01
"""Octets of this long are taken together: one commit for them, and an idle processor in between."""
_DEAF_S = 5.0
_DEAF_OCTETS = 600  # two frames and more without one that closes


class LinkStatus(NamedTuple):
    """How the line does; `trouble` is empty when nothing is wrong."""

    trouble: str
    bad: int
    lost_frames: int


class Session:
    """The owner of a port. Raises BoardError or StoreError where port, archive or door cannot be had."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Open what `ground.cli.options.add_link` names."""
        self.clock = MonotonicClock()
        self.epoch_s = time.time() - self.clock.now_s()
        self._deaf_since_s = 0.0
        self._skipped_then = 0
        with ExitStack() as stack:
            self.archive = stack.enter_context(Archive(options.archive))
            self.port = stack.enter_context(SerialPort(options.port, options.baud))
            seals = stack.enter_context(seals_of(options))
            self.station = Station(self.port, self.archive, scid=options.scid, apid=options.apid, epoch_s=self.epoch_s,
                                   stack=stack_of(options), seals=seals)
            self.door = stack.enter_context(Door(self.station))
            self.files = FileDesk(self.station, folder_of(options.archive), options.baud)
            stack.callback(self.files.close)
            self.door.serve_files(self.files)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stack.close()

    def turn(self, *others: int) -> float:
        """Wait for octets or requests, at most `_WAIT_S`, or for `others`; take them; return the session's time."""
        waiting = [*others, *self.door.descriptors(), *([self.port.fileno()] if self.port.fault is None else [])]
        select.select(waiting, [], [], _WAIT_S)
        time.sleep(_GATHER_S)
        now_s = self.clock.now_s()
        self.port.reconnect(now_s)
        self.station.poll(now_s)
        self.files.poll(now_s)
        self.door.serve(now_s)
        return now_s

    def status(self, now_s: float) -> LinkStatus:
        """Return how the line does."""
        station = self.station
        bad = station.bad_frames + station.unsealed_frames + station.bad_packets + station.undecoded_packets
        trouble = (self.port.fault or station.archive_trouble or self.files.trouble or self._deaf(now_s)
                   or _security(station))
        return LinkStatus(trouble, bad, station.lost_frames)

    def _deaf(self, now_s: float) -> str:
        """Say that octets come and no frame among them: the wrong rate, or something else at the other end."""
        station = self.station
        if station.heard_s is not None and station.heard_s >= self._deaf_since_s:
            self._deaf_since_s, self._skipped_then = now_s, station.skipped_octets
        octets = station.skipped_octets - self._skipped_then
        if octets < _DEAF_OCTETS or now_s - self._deaf_since_s < _DEAF_S:
            return ""
        return (f"{octets} octets on {self.port.path} and no frame among them: is {self.port.baud} baud its rate, "
                "and the satellite at its other end?")


def _security(station: Station) -> str:
    """Say what of the link is in clear for as long as it is, or that frames are or will be refused."""
    if station.seals is None:
        return "THE LINK IS IN CLEAR: telemetry may be anyone's, and anyone can command"
    if station.seals.ring.failure:
        return (f"counters of the link keys are not kept any more, commands will soon be refused: start again when "
                f"the disk is well ({station.seals.ring.failure})")
    report = station.security
    if report is None or not report.alarm:
        return "" if station.seals_telemetry else "TELEMETRY IS IN CLEAR: it may be anyone's"
    what = "counter" if report.bad_counter else "MAC" if report.bad_mac else "key"
    return f"the satellite refused a frame for its {what}: an attack, or a station that has to catch up"


class SessionThread:
    """A session that is turned by a thread of its own until `close`."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Open the session; raises what `Session` raises."""
        self.status = LinkStatus("", 0, 0)
        self._options = options
        self._failure: FlightError | None = None
        self._opened = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ground-session")
        self._thread.start()
        self._opened.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop, and close port and archive."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with Session(self._options) as session:
                self._opened.set()
                while not self._stop.is_set():
                    self.status = session.status(session.turn())
        except StoreError as error:
            self._failure = error
            self.status = self.status._replace(trouble=f"{error}; nothing is received any more, start again")
        except FlightError as error:
            self._failure = error
        finally:
            self._opened.set()

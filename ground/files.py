"""The ground's end of file transfers: one CFDP entity beside a station's archive, for as long as a watcher runs.

Owns the folder `ARCHIVE.files`; the watcher's loop turns it after the station, and the door hands it what `ground
upload`, `download` and `files` ask. Transfers go on over passes and over restarts of the watcher: whoever asked may
have left long before. It says nothing while the satellite is silent, and never more than the line takes, so that a
telecommand waits for a quarter of a second of files at most.

    ARCHIVE.files/received/NAME    what came down, whole
    ARCHIVE.files/outgoing/NAME    a copy of what goes up, until it is there
    ARCHIVE.files/transfers/       what CFDP keeps (`flightsw.link.filestore`)
"""

from __future__ import annotations

import contextlib
import math
import re
import shutil
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from flightsw.errors import LinkError, StoreError
from flightsw.link.cfdp import Config, Entity, View
from flightsw.link.cfdp_transfer import State
from flightsw.link.filestore import Filestore, Key
from ground.station import CommandState, EventReport, Report, Station

SATELLITE_ENTITY: Final = 1
GROUND_ENTITY: Final = 2
SEGMENT_OCTETS: Final = 960  # the largest that fits a sealed TC frame with all its headers
SILENT_S: Final = 25.0
"""Without a frame for so long the signal is taken as lost: housekeeping comes every 10 s."""

WAITING: Final = "waiting for signal"
"""State of a transfer that goes on when the satellite is heard again."""

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")
_BURST_S: Final = 0.25
_FRAME_OVERHEAD_OCTETS: Final = 52  # space packet, TC frame and security around a PDU
_BITS_PER_OCTET_ON_LINE: Final = 10
_RATE_OVER_S: Final = 10.0
_TELL_EVERY_S: Final = 1.0
_REFUSED_MAX: Final = 256
_TRAIL_MAX: Final = 1024


class Progress(NamedTuple):
    """How far a transfer is, as one JSON line; `path` is where a received file lies, once it is whole."""

    transfer: str
    direction: str
    name: str
    size: int | None
    done: int
    rate_octets_s: float
    state: str
    condition: str
    path: str


Follow = Callable[[float], tuple[list[dict[str, Any]], bool]]  # Any: JSON values
"""What one client is told: lines since the last call, and whether they were the last."""


def folder_of(archive: Path) -> Path:
    """Where the files of an archive's watcher lie."""
    return archive.with_name(archive.name + ".files")


class FileDesk:
    """All transfers of one station. StoreError when the folder cannot be used."""

    def __init__(self, station: Station, folder: Path, baud: int, config: Config | None = None) -> None:
        self._station = station
        self._received = folder / "received"
        self._outgoing = folder / "outgoing"
        self._octets_per_s = baud / _BITS_PER_OCTET_ON_LINE
        self._credit_octets = 0.0
        self._credited_s = 0.0
        self._pending: bytes | None = None
        self._in_contact = False
        self._refused: dict[str, str] = {}  # why the satellite does not send a file
        self._trail: dict[Key, deque[tuple[float, int]]] = {}
        self.trouble = ""  # why files are not transferred any more; empty while they are
        try:
            for path in (self._received, self._outgoing):
                path.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise StoreError(f"files {folder}: {e.strerror}") from e
        self._store = Filestore(folder / "transfers", self._place)
        self._entity = Entity(config or Config(GROUND_ENTITY, SATELLITE_ENTITY, SEGMENT_OCTETS), self._store)
        station.file_listener = self._receive
        station.listen(self._hear)

    def close(self) -> None:
        """Save what is under way."""
        if not self.trouble:
            self._entity.close()

    def drop(self) -> None:
        """Let go of every file and save nothing, as a kill does."""
        self._store.close()

    def poll(self, now_s: float) -> None:
        """Let time pass and send what the line takes; called after the station's own poll. Never raises."""
        if not self.trouble:
            try:
                self._poll(now_s)
            except (LinkError, StoreError) as e:
                self._fail(e)

    def _poll(self, now_s: float) -> None:
        heard_s = self._station.heard_s
        self._in_contact = in_contact = heard_s is not None and now_s - heard_s < SILENT_S
        entity = self._entity
        entity.advance(now_s, in_contact)
        earned = (now_s - self._credited_s) * self._octets_per_s
        self._credited_s = now_s
        self._credit_octets = min(self._credit_octets + earned, max(earned, _BURST_S * self._octets_per_s))
        while in_contact and self._credit_octets > 0.0:
            pdu = entity.next_pdu() if self._pending is None else self._pending
            self._pending = None
            if pdu is None:
                break
            if not self._station.send_file_pdu(pdu):
                self._pending = pdu  # the port is busy
                break
            self._credit_octets -= _line_octets(pdu)
        for view in entity.news():
            if view.is_sent and view.path is not None:
                with contextlib.suppress(OSError):
                    view.path.unlink()
            entity.settle(view.key)
            self._trail.pop(view.key, None)

    def _receive(self, pdu: bytes) -> None:
        if not self.trouble:
            try:
                self._entity.receive(pdu)
            except StoreError as e:
                self._fail(e)

    def _fail(self, error: LinkError | StoreError) -> None:
        """Telemetry and commands go on without files."""
        self.trouble = f"files are not transferred any more: {error}"
        self._store.close()

    # -- what clients ask

    def views(self, now_s: float) -> list[Progress]:
        """Return every transfer that is remembered."""
        return [self._progress(view, now_s) for view in self._entity.views()]

    def upload(self, path: Path, name: str, value: float = 1.0) -> Key:
        """Send a copy of a file up under `name`. LinkError where that cannot be."""
        if not _NAME.fullmatch(name):
            raise LinkError(f"{name!r} is no name for a file on board: 1..80 letters, digits, dots, _ and -")
        if any(view.is_sent and view.name == name and not view.state.is_final for view in self._entity.views()):
            raise LinkError(f"{name} is on its way already; see `ground files`")
        copy = self._outgoing / name
        try:
            shutil.copyfile(path, copy)
        except OSError as e:
            raise LinkError(f"{path}: {e.strerror}") from e
        return self._entity.put(copy, name, value / max(1, copy.stat().st_size))

    def follow(self, request: dict[str, Any], now_s: float) -> Follow:
        """Begin what a client asks; return what it is told. LinkError for nonsense, StoreError for a full archive."""
        if self.trouble:
            raise StoreError(self.trouble)
        what, name = request.get("file"), str(request.get("name", ""))
        if what == "list":
            listed = [view._asdict() for view in self.views(now_s)]
            return lambda _now_s: (listed, True)
        if what in ("cancel", "suspend", "resume"):
            key = _key(name)
            done = self._entity.cancel(key) if what == "cancel" else self._entity.suspend(key, what == "suspend")
            if not done:
                raise LinkError(f"transfer {name} is not open; see `ground files`")
            found = [self._progress(view, now_s)._asdict() for view in self._entity.views() if view.key == key]
            return lambda _now_s: (found, True)
        if what == "upload":
            return self._follow_key(self.upload(Path(str(request.get("path", ""))), name))
        if what == "download":
            return self._follow_download(name, now_s)
        raise LinkError("request is none of list, cancel, suspend, resume, upload, download")

    def _follow_key(self, key: Key) -> Follow:
        told_s = -math.inf

        def lines(now_s: float) -> tuple[list[dict[str, Any]], bool]:
            nonlocal told_s
            view = next((view for view in self._entity.views() if view.key == key), None)
            if view is None:
                raise LinkError(f"transfer {key} is not remembered any more")
            if not view.state.is_final and now_s - told_s < _TELL_EVERY_S:
                return [], False
            told_s = now_s
            return [self._progress(view, now_s)._asdict()], view.state.is_final

        return lines

    def _follow_download(self, name: str, now_s: float) -> Follow:
        """Ask the satellite for a file, unless it is on its way, and follow it from its first PDU on."""
        known = {view.key for view in self._entity.views() if view.state.is_final or view.is_sent}
        asked: int | None = None
        self._refused.pop(name, None)
        if self._coming(name, known) is None:
            asked = self._station.send("file.get", [name], now_s).request_id
        inner: Follow | None = None

        def lines(now_s: float) -> tuple[list[dict[str, Any]], bool]:
            nonlocal inner
            if inner is None:
                key = self._coming(name, known)
                if key is not None:
                    inner = self._follow_key(key)
                elif name in self._refused:
                    raise LinkError(f"{name}: {self._refused.pop(name)}")
                elif asked is not None:
                    record = self._station.command(asked)
                    if record.state.is_final and record.state is not CommandState.COMPLETED:
                        raise StoreError(f"file.get {name} {record.state}{': ' if record.text else ''}{record.text}")
            return ([], False) if inner is None else inner(now_s)

        return lines

    def _coming(self, name: str, known: set[Key]) -> Key | None:
        """Key of the newest transfer that brings a file of that name and is not among `known`."""
        return next((view.key for view in reversed(self._entity.views())
                     if not view.is_sent and view.name == name and view.key not in known), None)

    # -- inside

    def _hear(self, report: Report) -> None:
        if isinstance(report, EventReport) and report.row.name == "file_refused":
            if len(self._refused) >= _REFUSED_MAX:
                self._refused.clear()
            self._refused[str(report.args[0])] = str(report.args[1])

    def _place(self, name: str) -> Path | None:
        return self._received / name if _NAME.fullmatch(name) else None

    def _progress(self, view: View, now_s: float) -> Progress:
        path = str(view.path) if view.state is State.DELIVERED and not view.is_sent else ""
        state = WAITING if view.state is State.ACTIVE and not self._in_contact else view.state.value
        return Progress(str(view.key), "up" if view.is_sent else "down", view.name, view.size, view.done_octets,
                        0.0 if view.state.is_final else self._rate(view, now_s), state,
                        view.condition.name.lower(), path)

    def _rate(self, view: View, now_s: float) -> float:
        """Octets of file a second over the last seconds in which somebody looked."""
        trail = self._trail.setdefault(view.key, deque(maxlen=_TRAIL_MAX))
        if not trail or trail[-1][0] < now_s:
            trail.append((now_s, view.done_octets))
        while len(trail) > 2 and now_s - trail[1][0] >= _RATE_OVER_S:
            trail.popleft()
        then_s, then = trail[0]
        return (view.done_octets - then) / (now_s - then_s) if now_s > then_s else 0.0


def _key(text: str) -> Key:
    source, _, sequence = text.partition("-")
    if not (source.isdecimal() and sequence.isdecimal()):
        raise LinkError(f"{text!r} is no transfer: SOURCE-NUMBER as `ground files` shows")
    return Key(int(source), int(sequence))


def _line_octets(pdu: bytes) -> int:
    """Octets on the line of one PDU in its own TC frame and CLTU."""
    return 8 * -(-(len(pdu) + _FRAME_OVERHEAD_OCTETS) // 7) + 10

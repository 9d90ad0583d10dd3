"""The door through which `ground send` reaches a `ground watch` that owns the port.

A Unix socket beside the archive (`FILE.sock`, mode 0600: who may use it is who owns the file). A client sends one
JSON line, `{"verb", "args", "timeout_s", "sequenced"}`, and is answered with one JSON line a stage, `Progress` by
name, until the command ends. The door serves from the watcher's own loop and never blocks it; a client that does not
read or sends nonsense is dropped.
A line with `file` is for the file desk, which answers with the transfer's progress.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from flightsw.dictionary.commands import Value
from flightsw.errors import LinkError, StoreError
from ground.files import FileDesk, Follow
from ground.station import CommandRecord, CommandReport, CommandState, Report, Station

_REQUEST_OCTETS_MAX = 8192
_CLIENTS_MAX = 16
_SPARE_S = 5.0
_PATH_OCTETS_MAX = 107  # sun_path of Linux, less its end


class Progress(NamedTuple):
    """How far a command got, `elapsed_s` after it was sent."""

    state: CommandState
    elapsed_s: float
    code: int
    text: str


def progress(record: CommandRecord) -> Progress:
    """Return where a command stands."""
    return Progress(record.state, record.changed_s - record.sent_s, record.code, record.text)


def socket_path(archive: Path) -> Path:
    """Return where the watcher of `archive` listens."""
    return archive.with_name(archive.name + ".sock")


class _Client:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.received = b""
        self.request_id: int | None = None
        self.follow: Follow | None = None  # of a file transfer
        self.untold: list[CommandRecord] = []


class Door:
    """The listening end, for the process that owns the port."""

    def __init__(self, station: Station) -> None:
        """Listen beside the station's archive; StoreError when another watcher does, or no socket can be made."""
        archive = station.archive.path
        self._station = station
        self._files: FileDesk | None = None
        self._path = socket_path(archive)
        self._clients: list[_Client] = []
        if len(os.fsencode(self._path)) > _PATH_OCTETS_MAX:
            raise StoreError(f"socket {self._path}: the path has {len(os.fsencode(self._path))} octets, limit "
                             f"{_PATH_OCTETS_MAX}; use a shorter archive path")
        other = _connect(self._path)
        if other is not None:
            other.close()
            raise StoreError(f"archive {archive}: another ground watch is using it")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        old_mask = os.umask(0o177)  # the socket is made with the mode that it keeps
        try:
            self._path.unlink(missing_ok=True)  # left by a watcher that was killed: nobody answers on it
            self._listener.bind(os.fspath(self._path))
            self._listener.listen(_CLIENTS_MAX)
        except OSError as error:
            self._listener.close()
            raise StoreError(f"socket {self._path}: {error.strerror}") from error
        finally:
            os.umask(old_mask)
        self._listener.setblocking(False)
        station.listen(self._hear)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and drop every client."""
        for client in self._clients:
            client.connection.close()
        self._clients.clear()
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def serve_files(self, files: FileDesk) -> None:
        """Let clients transfer files too."""
        self._files = files

    def descriptors(self) -> list[int]:
        """Descriptors to wait on."""
        return [self._listener.fileno(), *(client.connection.fileno() for client in self._clients)]

    def serve(self, now_s: float) -> None:
        """Take requests, send their commands, tell every client how far its command got. Never blocks."""
        self._accept()
        for client in list(self._clients):
            try:
                done = self._attend(client, now_s)
            except OSError:  # went away, or does not read
                done = True
            if done:
                client.connection.close()
                self._clients.remove(client)

    def _hear(self, report: Report) -> None:
        if isinstance(report, CommandReport):
            for client in self._clients:
                if client.request_id == report.record.request_id:
                    client.untold.append(report.record)

    def _accept(self) -> None:
        while len(self._clients) < _CLIENTS_MAX:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            connection.setblocking(False)
            self._clients.append(_Client(connection))

    def _attend(self, client: _Client, now_s: float) -> bool:
        """Serve one client; True when nothing more will be said to it."""
        if client.follow is not None:
            return _go_on(client, client.follow, now_s)
        if client.request_id is None:
            try:
                octets = client.connection.recv(_REQUEST_OCTETS_MAX)
            except BlockingIOError:
                return False
            client.received += octets
            if b"\n" not in client.received:
                return not octets or len(client.received) > _REQUEST_OCTETS_MAX
            request = _file_request(client.received)
            if request is not None:
                return self._begin_transfer(client, request, now_s)
            try:
                verb, args, timeout_s, sequenced = _read_request(client.received)
                client.request_id = self._station.send(verb, args, now_s, timeout_s, sequenced=sequenced).request_id
            except (LinkError, StoreError) as error:
                _tell(client, {"error": str(error), "usage": isinstance(error, LinkError)})
                return True
        told, client.untold = client.untold, []
        for record in told:
            _tell(client, progress(record)._asdict())
        return any(record.state.is_final for record in told)


    def _begin_transfer(self, client: _Client, request: dict[str, Any], now_s: float) -> bool:
        """Hand a request to the file desk; see `_attend`."""
        if self._files is None:
            _tell(client, {"error": "this watcher does not transfer files", "usage": True})
            return True
        try:
            client.follow = self._files.follow(request, now_s)
        except (LinkError, StoreError) as error:
            _tell(client, {"error": str(error), "usage": isinstance(error, LinkError)})
            return True
        return _go_on(client, client.follow, now_s)


def _go_on(client: _Client, follow: Follow, now_s: float) -> bool:
    """Tell a client how far its transfer is; True when nothing more will be said to it."""
    try:
        lines, over = follow(now_s)
    except (LinkError, StoreError) as error:
        lines, over = [{"error": str(error), "usage": isinstance(error, LinkError)}], True
    for line in lines:
        _tell(client, line)
    return over


def _tell(client: _Client, line: dict[str, object]) -> None:
    client.connection.sendall(json.dumps(line).encode() + b"\n")


def _file_request(octets: bytes) -> dict[str, Any] | None:  # Any: JSON values
    """Return what is asked of the file desk; None for a line that is for somebody else, or nonsense."""
    try:
        request = json.loads(octets.split(b"\n", 1)[0])
    except (ValueError, RecursionError):
        return None
    return request if isinstance(request, dict) and "file" in request else None


def _read_request(octets: bytes) -> tuple[str, list[Value], float, bool]:
    try:
        request = json.loads(octets.split(b"\n", 1)[0])
        verb, args, timeout_s = request["verb"], request["args"], float(request["timeout_s"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise LinkError("request is not a JSON line with verb, args and timeout_s") from error
    if not (isinstance(verb, str) and isinstance(args, list) and 0.0 < timeout_s <= 86400.0
            and all(isinstance(value, (int, float, str)) for value in args)):
        raise LinkError("request is not a JSON line with verb, args and timeout_s")
    return verb, args, timeout_s, bool(request.get("sequenced", False))


def _connect(path: Path) -> socket.socket | None:
    """Connect to a listening watcher; None when there is none, stale socket or not."""
    if len(os.fsencode(path)) > _PATH_OCTETS_MAX or not path.exists():
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_SPARE_S)
    try:
        connection.connect(os.fspath(path))
    except (ConnectionRefusedError, FileNotFoundError):
        connection.close()
        return None
    except OSError as error:
        connection.close()
        raise StoreError(f"socket {path}: {error.strerror or 'ground watch does not answer'}") from error
    return connection


def is_watched(archive: Path) -> bool:
    """Return whether somebody who owns the port listens beside `archive`."""
    connection = _connect(socket_path(archive))
    if connection is not None:
        connection.close()
    return connection is not None


def send_through(archive: Path, verb: str, args: Sequence[Value], timeout_s: float, *,
                 sequenced: bool = False) -> Iterator[Progress] | None:
    """Have the watcher of `archive` send a command; its stages as they come, or None when nobody watches.

    The iterator raises LinkError where the watcher refused the request, StoreError where the watcher's archive
    is in trouble or the watcher ended before the command was sent.
    """
    connection = _connect(socket_path(archive))
    return None if connection is None else _stages(connection, verb, args, timeout_s, sequenced)


def ask(archive: Path, request: Mapping[str, object]) -> Iterator[dict[str, Any]] | None:
    """Have the watcher's file desk do something; what it tells as it comes, or None when nobody watches.

    The iterator ends early where the watcher ends, and raises LinkError or StoreError where the request failed.
    """
    connection = _connect(socket_path(archive))
    return None if connection is None else _told(connection, request)


def _told(connection: socket.socket, request: Mapping[str, object]) -> Iterator[dict[str, Any]]:
    with connection, connection.makefile("rwb") as stream:
        connection.settimeout(None)  # a transfer may wait for passes
        try:
            stream.write(json.dumps(request).encode() + b"\n")
            stream.flush()
            for octets in stream:
                line: dict[str, Any] = json.loads(octets)
                if "error" in line:
                    raise (LinkError if line["usage"] else StoreError)(line["error"])
                yield line
        except OSError as error:
            raise StoreError(f"ground watch does not answer: {error}") from error


def _stages(connection: socket.socket, verb: str, args: Sequence[Value], timeout_s: float,
            sequenced: bool) -> Iterator[Progress]:
    last: Progress | None = None
    with connection, connection.makefile("rwb") as stream:
        connection.settimeout(timeout_s + _SPARE_S)
        try:
            stream.write(json.dumps({"verb": verb, "args": list(args), "timeout_s": timeout_s,
                                     "sequenced": sequenced}).encode() + b"\n")
            stream.flush()
            for line in stream:
                answer = json.loads(line)
                if "error" in answer:
                    raise (LinkError if answer["usage"] else StoreError)(answer["error"])
                last = Progress(CommandState(answer["state"]), answer["elapsed_s"], answer["code"], answer["text"])
                yield last
                if last.state.is_final:
                    return
        except OSError as error:
            reason = f"ground watch does not answer: {error}"
        else:
            reason = "ground watch ended"
    if last is None:
        raise StoreError(f"{reason}; it is not known whether {verb} was sent")
    yield Progress(CommandState.NO_ANSWER, last.elapsed_s, 0, reason)

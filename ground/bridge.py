"""Other ground software beside ours: TM and TC frames by UDP, a frame a datagram, and packets by TCP.

The station goes on archiving, and holds the keys: what is handed on is opened and checked, and what other software
sends is sealed, framed and coded here. So that software needs to know neither the serial line nor its code, and two
kinds of it can be connected at a time. Served from the session's loop; nothing here blocks, every buffer is bounded,
and what comes in wrong is counted, never raised.

`docs/bridge.md` has the configuration of Yamcs (frames) and COSMOS (packets).
"""

from __future__ import annotations

import contextlib
import socket
from typing import NamedTuple, Protocol

from flightsw.errors import BoardError, LinkError
from flightsw.link.coding import CLTU_START, CltuDecoder
from flightsw.link.packets import PRIMARY_OCTETS
from flightsw.link.tc_frames import TC_FRAME_OCTETS_MAX, parse_tc_frame
from ground.station import Station

_DATAGRAM_OCTETS_MAX = 4096
_TURN_DATAGRAMS = 64  # taken in one turn: a flood does not keep the line waiting
_TURN_OCTETS = 65536
_CLIENTS_MAX = 8
_UNSENT_OCTETS_MAX = 1 << 20  # half a minute of a fast line; a client that is further behind is dropped


class Endpoint(NamedTuple):
    """An address and a port."""

    host: str
    port: int


class Peer(Protocol):
    """One way to other ground software."""

    refused: int
    """What came from there and was not put on the line."""
    last_refusal: str

    def descriptors(self) -> list[int]:
        """Descriptors to wait on."""

    def serve(self, now_s: float) -> None:
        """Take what came, send what waits. Never blocks."""

    def close(self) -> None:
        """Let go of every socket."""


class UdpFrames:
    """Valid TM frames to one address, a frame a datagram; TC frames or CLTUs from anyone who reaches our port."""

    def __init__(self, station: Station, scid: int, to: Endpoint, at: Endpoint) -> None:
        """Listen at `at`; BoardError where that cannot be."""
        self.refused = 0
        self.last_refusal = ""
        self.lost_frames = 0  # not taken by the network
        self._station = station
        self._scid = scid
        self._to = to
        self._socket = _listen(socket.SOCK_DGRAM, at)

    def descriptors(self) -> list[int]:
        """See `Peer`."""
        return [self._socket.fileno()]

    def send(self, frame: bytes) -> None:
        """Send one TM frame; the network may lose it, as UDP does."""
        try:
            self._socket.sendto(frame, self._to)
        except OSError:
            self.lost_frames += 1

    def serve(self, now_s: float) -> None:
        """See `Peer`."""
        for _ in range(_TURN_DATAGRAMS):
            try:
                datagram = self._socket.recv(_DATAGRAM_OCTETS_MAX)
            except BlockingIOError:
                return
            except OSError:  # nobody listens where the last frame went
                continue
            try:
                self._relay(datagram, now_s)
            except LinkError as error:
                self.refused += 1
                self.last_refusal = str(error)

    def _relay(self, datagram: bytes, now_s: float) -> None:
        """Take one TC frame, as it is or in a CLTU: no frame begins as a CLTU does, for its version would be 3."""
        contents = CltuDecoder().push(datagram) if datagram.startswith(CLTU_START) else [datagram]
        if not contents:
            raise LinkError(f"datagram of {len(datagram)} octets begins as a CLTU and holds none")
        for content in contents:
            frame = parse_tc_frame(content, self._scid)
            if not self._station.relay(frame.data, now_s, frame.kind, frame.sequence):
                raise LinkError("the line took no TC frame: its port is down, or its backlog full")

    def close(self) -> None:
        """See `Peer`."""
        self._socket.close()


class _Client:
    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.received = b""
        self.unsent = bytearray()


class TcpPackets:
    """Every packet to everyone who is connected, back to back; telecommand packets from them, the same way."""

    def __init__(self, station: Station, at: Endpoint) -> None:
        """Listen at `at`; BoardError where that cannot be."""
        self.refused = 0
        self.last_refusal = ""
        self.dropped_clients = 0
        self._station = station
        self._clients: list[_Client] = []
        self._listener = _listen(socket.SOCK_STREAM, at)

    def descriptors(self) -> list[int]:
        """See `Peer`."""
        return [self._listener.fileno(), *(client.connection.fileno() for client in self._clients)]

    def send(self, packet: bytes) -> None:
        """Queue one packet for everyone."""
        for client in self._clients:
            client.unsent += packet

    def serve(self, now_s: float) -> None:
        """See `Peer`."""
        with contextlib.suppress(BlockingIOError):
            while len(self._clients) < _CLIENTS_MAX:
                self._clients.append(_Client(self._listener.accept()[0]))
        for client in list(self._clients):
            try:
                alive = self._attend(client, now_s)
            except OSError:
                alive = False
            if not alive:
                client.connection.close()
                self._clients.remove(client)
                self.dropped_clients += 1

    def _attend(self, client: _Client, now_s: float) -> bool:
        """Send and take what there is; False when the client is gone, too far behind, or out of step."""
        with contextlib.suppress(BlockingIOError):
            while client.unsent:
                del client.unsent[: client.connection.send(client.unsent)]
        if len(client.unsent) > _UNSENT_OCTETS_MAX:
            return False
        try:
            octets = client.connection.recv(_TURN_OCTETS)
        except BlockingIOError:
            return True
        received = client.received + octets
        at = 0
        while len(received) - at >= PRIMARY_OCTETS:
            end = at + PRIMARY_OCTETS + 1 + (received[at + 4] << 8 | received[at + 5])
            if end - at > TC_FRAME_OCTETS_MAX or received[at] >> 5:
                self._refuse(f"client sent {received[at : at + PRIMARY_OCTETS].hex()} where a telecommand packet of "
                             f"up to {TC_FRAME_OCTETS_MAX} octets begins; it was dropped")
                return False
            if end > len(received):
                break
            self._relay(received[at:end], now_s)
            at = end
        client.received = received[at:]
        return bool(octets)

    def _relay(self, packet: bytes, now_s: float) -> None:
        try:
            if not self._station.relay(packet, now_s):
                self._refuse("the line took no telecommand: its port is down, or its backlog full")
        except LinkError as error:
            self._refuse(str(error))

    def _refuse(self, why: str) -> None:
        self.refused += 1
        self.last_refusal = why

    def close(self) -> None:
        """See `Peer`."""
        for client in self._clients:
            client.connection.close()
        self._listener.close()


def _listen(kind: socket.SocketKind, at: Endpoint) -> socket.socket:
    opened = socket.socket(socket.AF_INET, kind)
    try:
        if kind is socket.SOCK_STREAM:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(at)
        if kind is socket.SOCK_STREAM:
            opened.listen(_CLIENTS_MAX)
    except OSError as error:
        opened.close()
        raise BoardError(f"{at.host}:{at.port}: {error.strerror or error}") from error
    opened.setblocking(False)
    return opened

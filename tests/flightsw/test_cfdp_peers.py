"""Files go both ways between our entity and two that others wrote, clean and at 5 % loss; tshark reads our PDUs.

cfdp-py cancels or raises where the line is lossy (its sender on a repeated Finished): what it raises is passed over
here as its documentation asks, and its timers are short and many. Loss is drawn by seed and the peers run on real time.
"""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from file_pair import End, content

from flightsw.link.cfdp import Config
from flightsw.link.cfdp_pdu import (
    Ack,
    ChecksumType,
    Eof,
    FileData,
    Finished,
    Header,
    KeepAlive,
    Metadata,
    Nak,
    Prompt,
    pack,
)
from flightsw.link.cfdp_transfer import State

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated as of:DeprecationWarning")  # within cfdp-py

OURS, THEIRS = 1, 2
OCTETS = 40_000
FASTER = 20.0  # our clock beside the peers', which have shortened timers


class Loop:
    """Our end and a peer: `take` gives the peer a PDU, `give` fetches what it says."""

    def __init__(self, folder: Path, config: Config, loss: float, take: Callable[[bytes], None],
                 give: Callable[[], list[bytes]]) -> None:
        self.ours = End(folder / "ours", config)
        self._loss = loss
        self._random = random.Random(7)
        self._take = take
        self._give = give

    def run(self, done: Callable[[], bool]) -> None:
        end_s = time.monotonic() + 20.0
        while not done():
            now_s = time.monotonic()
            assert now_s < end_s, self.ours.entity.views()
            self.ours.entity.advance(now_s * FASTER, True)
            for pdu in self._give():
                if self._random.random() >= self._loss:
                    self.ours.entity.receive(pdu)
            for _ in range(50):
                said = self.ours.entity.next_pdu()
                if said is None:
                    break
                if self._random.random() >= self._loss:
                    self._take(said)
            self.ours.take_news()
            time.sleep(0.001)


# -- cfdp-py


class CfdpPy:
    """Both handlers of cfdp-py as one entity."""

    def __init__(self, own: int = THEIRS, other: int = OURS) -> None:
        cfdppy = pytest.importorskip("cfdppy", reason="cfdp-py is not installed")
        from cfdppy import handler, mib, user
        from spacepackets.cfdp import ChecksumType as Kind
        from spacepackets.cfdp import TransmissionMode
        from spacepackets.countdown import Countdown
        from spacepackets.seqcount import SeqCountProvider
        from spacepackets.util import ByteFieldU8

        class Faults(mib.DefaultFaultHandlerBase):
            def notice_of_suspension_cb(self, *_: object) -> None: ...
            def notice_of_cancellation_cb(self, *_: object) -> None: ...
            def abandoned_cb(self, *_: object) -> None: ...
            def ignore_cb(self, *_: object) -> None: ...

        class Timers(mib.CheckTimerProvider):
            def provide_check_timer(self, *_: object, **__: object) -> Countdown:
                return Countdown.from_seconds(0.2)

        ended = self.ended = []

        class User(user.CfdpUserBase):
            def transaction_indication(self, *_: object) -> None: ...
            def eof_sent_indication(self, *_: object) -> None: ...
            def transaction_finished_indication(self, params: object) -> None:
                ended.append(params)

            def metadata_recv_indication(self, *_: object) -> None: ...
            def file_segment_recv_indication(self, *_: object) -> None: ...
            def report_indication(self, *_: object) -> None: ...
            def suspended_indication(self, *_: object) -> None: ...
            def resumed_indication(self, *_: object) -> None: ...
            def fault_indication(self, *_: object) -> None: ...
            def abandoned_indication(self, *_: object) -> None: ...
            def eof_recv_indication(self, *_: object) -> None: ...

        self._kept: deque[bytes] = deque()
        local = mib.LocalEntityConfig(ByteFieldU8(own), mib.IndicationConfig(), Faults())
        remote = mib.RemoteEntityConfig(
            ByteFieldU8(other), 1000, 1100, closure_requested=False, crc_on_transmission=True,
            default_transmission_mode=TransmissionMode.ACKNOWLEDGED, crc_type=Kind.CRC_32,
            positive_ack_timer_interval_seconds=0.2, positive_ack_timer_expiration_limit=50,
            nak_timer_interval_seconds=0.2, nak_timer_expiration_limit=50)
        table = mib.RemoteEntityConfigTable([remote])
        self._error = Exception  # cfdp-py's exceptions have no common base
        self._source = handler.SourceHandler(local, User(), table, Timers(), SeqCountProvider(16))
        self._dest = handler.DestHandler(local, User(), table, Timers())
        self._request = cfdppy.PutRequest
        self._mode = TransmissionMode.ACKNOWLEDGED
        self._id = ByteFieldU8(other)

    def put(self, path: Path, name: str) -> None:
        self._source.put_request(self._request(self._id, path, Path(name), self._mode, False))

    def take(self, octets: bytes) -> None:
        from cfdppy.handler import PacketDestination, get_packet_destination
        from spacepackets.cfdp.pdu import PduFactory

        pdu = PduFactory.from_raw(octets)
        handler = self._source if get_packet_destination(pdu) is PacketDestination.SOURCE_HANDLER else self._dest
        self._turn(handler, pdu)

    def give(self) -> list[bytes]:
        said: list[bytes] = []
        for handler in (self._source, self._dest):
            self._collect(handler, said)
            for _ in range(50):
                self._turn(handler, None)
                if not self._collect(handler, said):
                    break
        return said

    def _turn(self, handler: object, pdu: object) -> None:
        waiting: list[bytes] = []
        self._collect(handler, waiting)
        self._kept += waiting
        try:
            handler.state_machine(pdu)  # type: ignore[attr-defined]
        except self._error:
            return

    def _collect(self, handler: object, said: list[bytes]) -> bool:
        before = len(said)
        while self._kept:
            said.append(self._kept.popleft())
        while (holder := handler.get_next_packet()) is not None:  # type: ignore[attr-defined]
            said.append(bytes(holder.pack()))
        return len(said) > before


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_cfdp_py_receives_what_we_send(tmp_path: Path, loss: float) -> None:
    peer = CfdpPy()
    loop = Loop(tmp_path, Config(OURS, THEIRS, sequence_octets=2), loss, peer.take, peer.give)
    (tmp_path / "source").write_bytes(content(OCTETS))
    target = tmp_path / "received.bin"
    loop.ours.entity.put(tmp_path / "source", str(target), 1.0)
    loop.run(lambda: bool(loop.ours.ended))
    assert loop.ours.ended[0].state is State.DELIVERED
    assert target.read_bytes() == content(OCTETS)


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_we_receive_what_cfdp_py_sends(tmp_path: Path, loss: float) -> None:
    peer = CfdpPy()
    loop = Loop(tmp_path, Config(OURS, THEIRS), loss, peer.take, peer.give)
    (tmp_path / "source").write_bytes(content(OCTETS))
    peer.put(tmp_path / "source", "received.bin")
    loop.run(lambda: bool(loop.ours.ended) and bool(peer.ended))
    assert loop.ours.ended[0].state is State.DELIVERED
    assert (loop.ours.received / "received.bin").read_bytes() == content(OCTETS)


# -- LibreCube


class LibreCube:
    """LibreCube's entity, which has threads of its own and no CRC on PDUs."""

    def __init__(self, folder: Path) -> None:
        cfdp = pytest.importorskip("cfdp", reason="LibreCube's cfdp is not installed")
        from cfdp.filestore import NativeFileStore
        from cfdp.transport.base import Transport

        said: deque[bytes] = deque()

        class Queue(Transport):
            def request(self, data: bytes) -> None:
                said.append(bytes(data))

        self._said = said
        self._transport = Queue()
        self.ended: list[object] = []
        self.entity = cfdp.CfdpEntity(THEIRS, NativeFileStore(str(folder)), self._transport,
                                      positive_ack_timer_interval=0.2, positive_ack_timer_expiration_limit=50,
                                      nak_timer_interval=0.2, nak_timer_expiration_limit=50,
                                      transaction_finished_indication_required=True)
        self.entity.transaction_finished_indication = lambda *args, **_: self.ended.append(args)

    def take(self, octets: bytes) -> None:
        self._transport.indication(octets)

    def give(self) -> list[bytes]:
        return [self._said.popleft() for _ in range(len(self._said))]


@pytest.fixture
def librecube(tmp_path: Path) -> Iterator[LibreCube]:
    peer = LibreCube(tmp_path)
    yield peer
    for machine in [*peer.entity.machines.values()]:
        for timer in ("inactivity_timer", "ack_timer", "nak_timer"):
            if getattr(machine, timer, None) is not None:
                getattr(machine, timer).shutdown()
    peer.entity.shutdown()
    peer.entity._event_thread.join()
    peer.entity._message_thread.join()


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_librecube_receives_what_we_send(tmp_path: Path, librecube: LibreCube, loss: float) -> None:
    config = Config(OURS, THEIRS, has_crc=False, checksum_type=ChecksumType.MODULAR, sequence_octets=1)
    loop = Loop(tmp_path, config, loss, librecube.take, librecube.give)
    (tmp_path / "source").write_bytes(content(OCTETS))
    loop.ours.entity.put(tmp_path / "source", "received.bin", 1.0)
    loop.run(lambda: bool(loop.ours.ended))
    assert loop.ours.ended[0].state is State.DELIVERED
    assert (tmp_path / "received.bin").read_bytes() == content(OCTETS)


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_we_receive_what_librecube_sends(tmp_path: Path, librecube: LibreCube, loss: float) -> None:
    loop = Loop(tmp_path, Config(OURS, THEIRS), loss, librecube.take, librecube.give)
    (tmp_path / "source").write_bytes(content(OCTETS))
    librecube.entity.put(OURS, "source", "received.bin", transmission_mode=0)
    loop.run(lambda: bool(loop.ours.ended) and bool(librecube.ended))
    assert loop.ours.ended[0].state is State.DELIVERED
    assert (loop.ours.received / "received.bin").read_bytes() == content(OCTETS)


# -- tshark


def _capture(pdus: list[bytes]) -> bytes:
    """Make a pcap of UDP datagrams, one a PDU."""
    octets = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)
    for pdu in pdus:
        udp = struct.pack(">HHHH", 5555, 5555, 8 + len(pdu), 0) + pdu
        packet = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes(4), bytes(4)) + udp
        octets += struct.pack("<IIII", 0, 0, len(packet), len(packet)) + packet
    return octets


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed (Debian: tshark)")
def test_tshark_reads_every_pdu(tmp_path: Path) -> None:
    down = Header(OURS, 7, THEIRS)
    up = down._replace(toward_sender=True)
    (tmp_path / "pdus.pcap").write_bytes(_capture([
        pack(down, Metadata(2500, "a.bin", "b.bin")), pack(down, FileData(1000, b"octets")),
        pack(down, Eof(0, 0xDEADBEEF, 2500)), pack(up, Nak(0, 2500, ((0, 0), (1000, 2000)))),
        pack(up, Finished(0, True, 2)), pack(down, Ack(5, 0, 2)), pack(down, Prompt(True)), pack(up, KeepAlive(1500)),
    ]))
    fields = ["srcid", "transeqnum", "dstid", "src_file_name", "dst_file_name", "file_size", "offset", "checksum",
              "nak_sp_scope", "progress"]
    read = subprocess.run(
        ["tshark", "-r", tmp_path / "pdus.pcap", "-d", "udp.port==5555,cfdp", "-T", "fields", "-E", "separator=|",
         "-e", "_ws.col.Info", *(word for name in fields for word in ("-e", f"cfdp.{name}"))],
        capture_output=True, text=True, timeout=60, check=True)
    assert read.stdout.splitlines() == [
        "Metadata PDU|1|7|2|a.bin|b.bin|2500||||",
        "File Data PDU|1|7|2||||1000|||",
        "EOF (No error)|1|7|2|||2500||0xdeadbeef||",
        "NAK PDU|1|7|2||||||2500|",
        "Finished PDU (No error)|1|7|2|||||||",
        "ACK PDU (Finished)|1|7|2|||||||",
        "Prompt PDU (Keep Alive)|1|7|2|||||||",
        "Keep Alive PDU|1|7|2|||||||1500",
    ]

"""Other ground software at the sockets of `ground bridge`, the satellite behind a pseudo-terminal, with real keys."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_satellite import APID, SCID, PtySatellite, Wire

from flightsw.dictionary.commands import COMMANDS
from flightsw.link.coding import encode_cltu
from flightsw.link.frames import TmDeframer
from flightsw.link.packets import file_apid, pack_file_packet, unpack_tm
from flightsw.link.sdls import OVERHEAD_OCTETS
from flightsw.link.services import CommandReceiver, pack_telecommand
from flightsw.link.tc_frames import TcKind, build_tc_frame
from ground.__main__ import main
from ground.archive import Archive
from ground.bridge import Endpoint, TcpPackets, UdpFrames
from ground.station import Station

PATIENCE_S = 20.0
_, PING = pack_telecommand(COMMANDS["ping"], (), APID, 1)


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Bridge:
    """A `ground bridge` process with both kinds of sockets, and a peer at each."""

    def __init__(self, port: str, archive: Path, *options: str) -> None:
        self.frames = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.frames.bind(("127.0.0.1", 0))
        self.frames.settimeout(PATIENCE_S)
        self.tc = ("127.0.0.1", free_port(socket.SOCK_DGRAM))
        self.tcp = ("127.0.0.1", free_port(socket.SOCK_STREAM))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ground", "bridge", "--port", port, "--archive", str(archive),
             "--udp", str(self.frames.getsockname()[1]), "--udp-listen", str(self.tc[1]),
             "--tcp-listen", str(self.tcp[1]), *options], stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> Bridge:
        self.frames.recv(4096)  # it is up
        self.packets = socket.create_connection(self.tcp, PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.packets.close()
        self.frames.close()

    def stop(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        _, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, err

    def packets_from_frames(self, frame_octets: int) -> Iterator[bytes]:
        deframer = TmDeframer(SCID, frame_octets)
        while True:
            frame = self.frames.recv(4096)
            assert len(frame) == frame_octets
            yield from (packet for _, packet in deframer.push(frame))
            assert deframer.bad_frames == 0

    def packets_from_stream(self) -> Iterator[bytes]:
        received = b""
        while True:
            received += self.packets.recv(65536)
            while len(received) > 6 and len(received) >= (octets := 7 + int.from_bytes(received[4:6], "big")):
                yield received[:octets]
                received = received[octets:]


def wait_for(packets: Iterator[bytes], service: int, subservice: int) -> None:
    until_s = time.monotonic() + PATIENCE_S
    for packet in packets:
        tm = unpack_tm(packet)
        if (tm.service, tm.subservice) == (service, subservice):
            return
        assert time.monotonic() < until_s, f"{service},{subservice} never came"


@pytest.mark.parametrize("security", ["authenticated", "clear"])
def test_frames_and_packets_both_ways_and_an_archive_of_it(security: str, tmp_path: Path) -> None:
    archive = tmp_path / "pass.sqlite"
    octets = 223 if security == "clear" else 223 - OVERHEAD_OCTETS
    with (PtySatellite(has_keys=security != "clear") as satellite,
          Bridge(satellite.port, archive, "--security", security) as bridge):
        frames, packets = bridge.packets_from_frames(octets), bridge.packets_from_stream()
        wait_for(frames, 3, 25)
        wait_for(packets, 3, 25)
        bridge.frames.sendto(b"no frame at all", bridge.tc)
        bridge.frames.sendto(build_tc_frame(PING, SCID), bridge.tc)
        wait_for(frames, 17, 2)
        bridge.frames.sendto(encode_cltu(build_tc_frame(PING, SCID)), bridge.tc)
        wait_for(frames, 17, 2)
        wait_for(packets, 17, 2)
        wait_for(packets, 17, 2)
        bridge.packets.sendall(PING[:5])
        bridge.packets.sendall(PING[5:] + PING)
        wait_for(packets, 17, 2)
        wait_for(packets, 17, 2)
        code, err = bridge.stop()
        assert satellite.satellite.receiver.frames_accepted == 4
        assert satellite.satellite.receiver.frames_rejected == 0
    assert code == 0
    assert "1 refused, last: TC frame" in err
    with Archive(archive, read_only=True) as kept:
        commands = list(kept.commands())
        assert [entry.verb for entry in commands] == ["ping"] * 4
        assert len(list(kept.latest())) > 10


class Here:
    """A station on a wire, and what the satellite at its other end accepts."""

    def __init__(self, folder: Path) -> None:
        self.wire = Wire()
        self.archive = Archive(folder / "a.sqlite")
        self.station = Station(self.wire, self.archive, scid=SCID, apid=APID, epoch_s=0.0)
        self.satellite = CommandReceiver(SCID, APID)

    def accepted(self) -> int:
        before = self.satellite.frames_accepted
        self.satellite.push(self.wire.take_sent())
        return self.satellite.frames_accepted - before


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    made = Here(tmp_path)
    yield made
    made.archive.close()


def served(peer: TcpPackets | UdpFrames) -> None:
    for _ in range(20):
        peer.serve(0.0)
        time.sleep(0.002)


def test_a_client_out_of_step_is_dropped_and_another_served(here: Here) -> None:
    at = Endpoint("127.0.0.1", free_port(socket.SOCK_STREAM))
    packets = TcpPackets(here.station, at)
    with socket.create_connection(at, 5.0) as wrong, socket.create_connection(at, 5.0) as right:
        served(packets)
        wrong.sendall(b"\x18\x64\xc0\x01\xff\xff")
        right.sendall(PING)
        served(packets)
        assert wrong.recv(10) == b""
        assert here.accepted() == 1
        assert packets.refused == 1
        assert "1864c001ffff" in packets.last_refusal
        packets.send(b"packet")
        served(packets)
        assert right.recv(10) == b"packet"
    served(packets)
    assert packets.dropped_clients == 2
    packets.close()


def test_a_client_that_does_not_read_is_dropped(here: Here) -> None:
    at = Endpoint("127.0.0.1", free_port(socket.SOCK_STREAM))
    packets = TcpPackets(here.station, at)
    with socket.create_connection(at, 5.0):
        served(packets)
        for _ in range(200):
            packets.send(bytes(65536))
            packets.serve(0.0)
        served(packets)
        assert packets.dropped_clients == 1
    packets.close()


def test_what_the_line_does_not_take_is_said(here: Here) -> None:
    at, to = Endpoint("127.0.0.1", free_port(socket.SOCK_DGRAM)), Endpoint("127.0.0.1", 9)
    frames = UdpFrames(here.station, SCID, to, at)
    here.wire.broken = True
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.sendto(build_tc_frame(PING, SCID), at)
        served(frames)
        assert "took no TC frame" in frames.last_refusal
        here.wire.broken = False
        for datagram in (b"", b"\xeb\x90", encode_cltu(b"x" * 20), build_tc_frame(PING, SCID + 1), bytes(5000)):
            peer.sendto(datagram, at)
        served(frames)
        assert frames.refused == 6
        assert here.accepted() == 0
        peer.sendto(build_tc_frame(PING, SCID, kind=TcKind.AD, sequence=0), at)
        peer.sendto(build_tc_frame(b"\0", SCID, kind=TcKind.BC), at)
        peer.sendto(build_tc_frame(pack_file_packet(file_apid(APID), 0, b"pdu", is_telecommand=True), SCID), at)
        served(frames)
        assert here.accepted() == 3
    assert [entry.verb for entry in here.archive.commands()] == ["ping"] * 2  # the first one is written down, too
    frames.close()


def test_frames_to_nobody_are_lost_and_harm_nothing(here: Here) -> None:
    at = Endpoint("127.0.0.1", free_port(socket.SOCK_DGRAM))
    frames = UdpFrames(here.station, SCID, Endpoint("127.0.0.1", free_port(socket.SOCK_DGRAM)), at)
    for _ in range(5):
        frames.send(bytes(223))
        frames.serve(0.0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.sendto(build_tc_frame(PING, SCID), at)
        served(frames)
    assert here.accepted() == 1
    frames.close()


@pytest.mark.parametrize(("options", "said"), [
    ([], "give --udp or --tcp-listen"),
    (["--udp", "10017", "--framing", "cobs"], "no frames"),
])
def test_wrong_use_is_said_in_one_line(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bridge", "--port", "/dev/null", *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "host:", "0", "65536", "host:x", "-1"])
def test_what_is_no_endpoint_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bridge", "--port", "/dev/null", f"--udp={text}"])
    assert "is not a port" in capsys.readouterr().err


def test_an_address_in_use_is_said(here: Here) -> None:
    from flightsw.errors import BoardError

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(BoardError, match="in use"):
            UdpFrames(here.station, SCID, Endpoint("127.0.0.1", 9), Endpoint(*taken.getsockname()))

"""The link against software that is not ours: F´ ground data system, spacepackets, tshark.

What is not installed is skipped, with the reason. Reed-Solomon against libfec is in `test_tm_frame_kernel.py`, the
stuffing against its library in `test_stack.py`.
"""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from spacepackets.ccsds.tm_frame import TmTransferFrame

from flightsw.dictionary.commands import COMMANDS
from flightsw.link.coding import CaduSynchroniser
from flightsw.link.frames import VC_HOUSEKEEPING, TmFramer
from flightsw.link.packets import Telemetry, pack_tm
from flightsw.link.services import pack_telecommand
from flightsw.link.stack import Stack
from flightsw.link.tc_frames import parse_tc_frame

SCID = 0x44
QUEUE = {VC_HOUSEKEEPING: 1 << 20}


def _packets(count: int) -> list[bytes]:
    draw = random.Random(count)
    return [pack_tm(Telemetry(66, number, 3, 25, number, 0, 1.5e9 + number, draw.randbytes(draw.randrange(600))))
            for number in range(count)]


# --- F´ ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def fprime(monkeypatch: pytest.MonkeyPatch) -> object:
    """The deframer and framer of F´; it leaves an operational control field in the data, so ours must have none."""
    module = pytest.importorskip("fprime_gds.common.communication.ccsds.space_data_link",
                                 reason="fprime-gds is not installed (pip install -e '.[interop]')")
    return module.SpaceDataLinkFramerDeframer(SCID, VC_HOUSEKEEPING, 223)


def _deframed(fprime: object, octets: bytes) -> list[bytes]:
    packets: list[bytes] = []
    while True:
        found, octets, _ = fprime.deframe(octets)  # type: ignore[attr-defined] # of a library without types
        if found is None:
            return packets
        while found:
            end = 7 + int.from_bytes(found[4:6], "big")
            if found[:2] != b"\x07\xff":  # idle packets are left in
                packets.append(found[:end])
            found = found[end:]


@pytest.mark.filterwarnings("ignore")  # of the library's own
def test_fprime_finds_every_packet_in_our_frames(fprime: object) -> None:
    framer, packets = TmFramer(SCID, QUEUE, ocf=False), _packets(500)
    for packet in packets:
        framer.submit(VC_HOUSEKEEPING, packet)
    assert _deframed(fprime, b"".join(framer.frames(10_000))) == packets


@pytest.mark.filterwarnings("ignore")
def test_fprime_loses_only_what_a_damaged_frame_held(fprime: object) -> None:
    framer, packets = TmFramer(SCID, QUEUE, ocf=False), _packets(300)
    for packet in packets:
        framer.submit(VC_HOUSEKEEPING, packet)
    frames = framer.frames(10_000)
    for at in range(5, len(frames), 50):
        frames[at] = frames[at][:100] + bytes((frames[at][100] ^ 4,)) + frames[at][101:]
    found = _deframed(fprime, b"".join(frames))
    assert set(found) <= set(packets)
    assert len(packets) - 5 * (len(frames) // 50 + 1) <= len(found) < len(packets)


@pytest.mark.filterwarnings("ignore")
def test_we_read_a_telecommand_frame_of_fprime(fprime: object) -> None:
    _, packet = pack_telecommand(COMMANDS["ping"], (), 66, 1)
    segment_header = b"\xc0"  # F´ leaves it to whoever hands over the data
    frame = fprime.frame(segment_header + packet)  # type: ignore[attr-defined] # of a library without types
    read = parse_tc_frame(frame, SCID, VC_HOUSEKEEPING)
    assert (read.scid, read.vcid, read.data) == (SCID, VC_HOUSEKEEPING, packet)


# --- spacepackets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stack", [Stack(), Stack(reed_solomon=True), Stack(frame_octets=1115, reed_solomon=True)],
                         ids=str)
def test_spacepackets_reads_the_frames_of_every_stack(stack: Stack) -> None:
    sender, packets = stack.sender(SCID, QUEUE), _packets(100)
    sender.set_ocf(0x01000ABC)
    for packet in packets:
        sender.submit(VC_HOUSEKEEPING, packet)
    synchroniser = CaduSynchroniser(stack.frame_octets, interleave=stack.interleave)
    frames = synchroniser.push(sender.take(1 << 20))
    data = b""
    for number, frame in enumerate(frames):
        theirs = TmTransferFrame.unpack(frame, stack.frame_octets, has_error_control_field=True)
        header = theirs.primary_header
        assert (header.master_channel_id.spacecraft_id, header.vc_id) == (SCID, VC_HOUSEKEEPING)
        assert (header.vc_frame_count, header.master_ch_frame_count) == (number & 0xFF, number & 0xFF)
        assert theirs.op_ctrl_field == bytes.fromhex("01000ABC")
        data += theirs.data_field
    assert data.startswith(b"".join(packets))


# --- tshark ----------------------------------------------------------------------------------------------------------


def _capture(path: Path, packets: list[bytes]) -> None:
    """A capture of one UDP datagram a packet, as `ground bridge` and others send them."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101))  # raw IP
        for number, packet in enumerate(packets):
            udp = struct.pack(">HHHH", 10020, 10020, 8 + len(packet), 0) + packet
            ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), number, 0, 64, 17, 0, *[b"\x7f\0\0\1"] * 2)
            file.write(struct.pack("<IIII", 1_500_000_000 + number, 0, len(ip + udp), len(ip + udp)) + ip + udp)


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed (Debian: tshark)")
def test_tshark_reads_our_primary_headers(tmp_path: Path) -> None:
    """The primary header only: what follows, tshark takes for a secondary header of another agency."""
    telemetry = _packets(20)
    telecommands = [pack_telecommand(COMMANDS["ping"], (), 100, count)[1] for count in (0, 1, 0x3FFF)]
    capture = tmp_path / "packets.pcap"
    _capture(capture, telemetry + telecommands)
    fields = ("ccsds.version", "ccsds.type", "ccsds.apid", "ccsds.seqflag", "ccsds.seqnum", "ccsds.length")
    printed = subprocess.run(
        ["tshark", "-r", capture, "-d", "udp.port==10020,ccsds", "-T", "fields", *(
            word for field in fields for word in ("-e", field))],
        capture_output=True, text=True, check=True).stdout
    read = [[int(value, 0) for value in line.split("\t")] for line in printed.splitlines()]
    assert read == [[packet[0] >> 5, packet[0] >> 4 & 1, int.from_bytes(packet[:2], "big") & 0x7FF,
                     packet[2] >> 6, int.from_bytes(packet[2:4], "big") & 0x3FFF, len(packet) - 7]
                    for packet in telemetry + telecommands]

"""PDUs in space packets of their own application, on both ways, beside reports and telecommands."""

from __future__ import annotations

import pytest

from flightsw.dictionary.commands import COMMANDS
from flightsw.errors import LinkError
from flightsw.link.coding import CaduSynchroniser
from flightsw.link.frames import VC_FILES, TmDeframer
from flightsw.link.packets import file_apid, file_pdu_of, pack_file_packet
from flightsw.link.services import CommandReceiver, Reporter, build_file_uplink, build_telecommand

SCID, APID = 42, 100


@pytest.mark.parametrize("is_telecommand", [False, True])
def test_a_packet_gives_its_pdu_back(is_telecommand: bool) -> None:
    packet = pack_file_packet(101, 0x3FFF, b"pdu", is_telecommand=is_telecommand)
    assert packet == bytes.fromhex("1065" if is_telecommand else "0065") + bytes.fromhex("ffff0002") + b"pdu"
    assert file_pdu_of(packet, 101) == b"pdu"
    assert file_pdu_of(packet, 100) is None
    assert file_pdu_of(packet + b"x", 101) is None
    assert file_pdu_of(packet[:6], 101) is None


def test_what_does_not_fit_a_packet_is_refused() -> None:
    for apid, count, pdu in ((0x7FF, 0, b"x"), (1, 0x4000, b"x"), (1, 0, b""), (1, 0, bytes(65537))):
        with pytest.raises(LinkError):
            pack_file_packet(apid, count, pdu, is_telecommand=False)


def test_files_go_up_beside_telecommands() -> None:
    receiver = CommandReceiver(SCID, APID)
    ping = build_telecommand(COMMANDS["ping"], (), apid=APID, seq_count=0, scid=SCID)
    octets = build_file_uplink(b"one", apid=APID, seq_count=1, scid=SCID) + ping.octets + build_file_uplink(
        b"two" * 300, apid=APID, seq_count=2, scid=SCID)
    assert [received.request_id for received in receiver.push(octets)] == [ping.request_id]
    assert receiver.take_file_pdus() == [b"one", b"two" * 300]
    assert receiver.take_file_pdus() == []
    assert receiver.frames_accepted == 3


def test_files_go_down_on_their_channel() -> None:
    reporter = Reporter(SCID, APID, 65536)
    reporter.pong(0.0)
    for pdu in (b"a" * 1000, b"b"):
        reporter.file(pdu)
    assert reporter.waiting_file_octets == 1000 + 1 + 12
    synchroniser, deframer = CaduSynchroniser(), TmDeframer(SCID)
    packets = [found for frame in synchroniser.push(reporter.take(1 << 16)) for found in deframer.push(frame)]
    assert [file_pdu_of(packet, file_apid(APID)) for vcid, packet in packets if vcid == VC_FILES] == [b"a" * 1000, b"b"]
    assert reporter.waiting_file_octets == 0

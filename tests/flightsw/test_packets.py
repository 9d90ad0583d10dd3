"""Packets against the standard's vectors, our interface document and an independent implementation."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spacepackets.ccsds.spacepacket import SpacePacketHeader
from spacepackets.ecss.tc import PusTc
from spacepackets.ecss.tm import PusTm

from flightsw.errors import LinkError
from flightsw.link.icd import PRIMARY_HEADER, TC_PACKET, TM_PACKET
from flightsw.link.packets import (
    PACKET_OCTETS_MAX,
    TC_OVERHEAD_OCTETS,
    TM_OVERHEAD_OCTETS,
    Telecommand,
    Telemetry,
    crc16,
    idle_packet,
    pack_tc,
    pack_tm,
    unpack_tc,
    unpack_tm,
)

APID = st.integers(0, 0x7FE)
SEQUENCE = st.integers(0, 0x3FFF)
OCTET = st.integers(0, 0xFF)
WORD = st.integers(0, 0xFFFF)
OBT_S = st.integers(0, 2**48 - 1).map(lambda ticks: ticks / 65536.0)

TELECOMMAND = st.builds(
    Telecommand, APID, SEQUENCE, st.integers(0, 15), OCTET, OCTET, WORD, st.binary(max_size=300)
)
TELEMETRY = st.builds(Telemetry, APID, SEQUENCE, OCTET, OCTET, WORD, WORD, OBT_S, st.binary(max_size=300))

PING = Telecommand(apid=1, seq_count=22, ack_flags=15, service=17, subservice=1, source_id=0, data=b"")
HOUSEKEEPING = Telemetry(66, 7, 3, 25, 5, 1, 1.5, bytes(range(100)))


@pytest.mark.parametrize(
    ("message", "crc"),
    [
        ("0000", 0x1D0F),
        ("000000", 0xCC9C),
        ("ABCDEF01", 0x04A2),
        ("1456F89A0001", 0x7FD5),
        (b"123456789".hex(), 0x29B1),
        ("06000CF0000400558873C900000521", 0x75FB),
        ("2003002000FF000100001980D2C9000E197F0B001B0004000400003040D95E", 0x73EC),
    ],
)
def test_crc16_gives_the_published_values(message: str, crc: int) -> None:
    octets = bytes.fromhex(message)
    assert crc16(octets) == crc
    assert crc16(octets + crc.to_bytes(2, "big")) == 0


def test_a_ping_is_the_octets_that_another_implementation_documents() -> None:
    assert pack_tc(PING).hex(",") == "18,01,c0,16,00,06,2f,11,01,00,00,ab,62"


def test_time_is_seconds_and_their_65536th_part() -> None:
    packet = pack_tm(HOUSEKEEPING._replace(obt_s=0x65920080 + 0x4000 / 65536))
    assert packet[13:19].hex() == "659200804000"


def test_time_is_cut_and_never_lies_ahead() -> None:
    obt_s = 1_700_000_000.0 + 0.999999
    stamped_s = unpack_tm(pack_tm(HOUSEKEEPING._replace(obt_s=obt_s))).obt_s
    assert 0.0 <= obt_s - stamped_s < 2.0**-16


@given(TELECOMMAND)
def test_telecommand_agrees_with_interface_document_and_spacepackets(tc: Telecommand) -> None:
    packet = pack_tc(tc)
    assert unpack_tc(packet) == tc

    fields = {"body": {"value": tc._asdict()}}
    assert TC_PACKET.build(fields) == packet
    parsed = TC_PACKET.parse(packet).body.value
    assert Telecommand(*(parsed[name] for name in Telecommand._fields)) == tc

    peer = PusTc(
        service=tc.service,
        message_subtype=tc.subservice,
        apid=tc.apid,
        app_data=tc.data,
        seq_count=tc.seq_count,
        source_id=tc.source_id,
        ack_flags=tc.ack_flags,
    )
    assert bytes(peer.pack()) == packet
    theirs = PusTc.unpack(packet)
    assert (theirs.apid, theirs.seq_count, theirs.service, theirs.message_subtype, theirs.app_data) == (
        tc.apid,
        tc.seq_count,
        tc.service,
        tc.subservice,
        tc.data,
    )


@given(TELEMETRY)
def test_telemetry_agrees_with_interface_document_and_spacepackets(tm: Telemetry) -> None:
    packet = pack_tm(tm)
    assert unpack_tm(packet) == tm

    ticks = int(tm.obt_s * 65536)
    fields = tm._asdict() | {"coarse_s": ticks >> 16, "fine_s_by_65536": ticks & 0xFFFF}
    assert TM_PACKET.build({"body": {"value": fields}}) == packet
    parsed = TM_PACKET.parse(packet).body.value
    assert {name: parsed[name] for name in fields if name != "obt_s"} == {
        name: value for name, value in fields.items() if name != "obt_s"
    }

    peer = PusTm(
        service=tm.service,
        message_subtype=tm.subservice,
        timestamp=ticks.to_bytes(6, "big"),
        source_data=tm.data,
        apid=tm.apid,
        seq_count=tm.seq_count,
        message_counter=tm.msg_counter,
        destination_id=tm.destination_id,
    )
    assert bytes(peer.pack()) == packet
    theirs = PusTm.unpack(packet, timestamp_len=6)
    assert (theirs.apid, theirs.service, theirs.message_subtype, theirs.source_data) == (
        tm.apid,
        tm.service,
        tm.subservice,
        tm.data,
    )


@given(TELECOMMAND)
def test_primary_header_of_the_interface_document_reads_every_packet(tc: Telecommand) -> None:
    packet = pack_tc(tc)
    header = PRIMARY_HEADER.parse(packet)
    assert (header.version, header.is_telecommand, header.has_secondary_header) == (0, 1, 1)
    assert (header.apid, header.sequence_flags, header.seq_count) == (tc.apid, 3, tc.seq_count)
    assert header.data_length + 7 == len(packet)
    fields = {name: header[name] for name in header if not name.startswith("_")}
    assert PRIMARY_HEADER.build(fields) == packet[:6]


def test_idle_packet_fills_exactly_and_is_read_as_idle_by_others() -> None:
    for octets in (7, 8, 211, PACKET_OCTETS_MAX):
        packet = idle_packet(octets)
        assert len(packet) == octets
        header = SpacePacketHeader.unpack(packet)
        assert header.apid == 0x7FF
        assert header.packet_len == octets
        assert not header.sec_header_flag
    for octets in (6, PACKET_OCTETS_MAX + 1):
        with pytest.raises(LinkError, match=rf"{octets} octets outside 7\.\.65542"):
            idle_packet(octets)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"apid": 0x7FF}, r"apid 2047 outside 0\.\.2046"),
        ({"apid": -1}, "apid -1 outside"),
        ({"seq_count": 0x4000}, r"seq_count 16384 outside 0\.\.16383"),
        ({"service": 256}, r"service 256 outside 0\.\.255"),
        ({"subservice": -1}, "subservice -1 outside"),
        ({"msg_counter": 0x10000}, "msg_counter 65536 outside"),
        ({"destination_id": 0x10000}, "destination_id 65536 outside"),
        ({"obt_s": math.nan}, "obt_s nan outside"),
        ({"obt_s": math.inf}, "obt_s inf outside"),
        ({"obt_s": -0.1}, "obt_s -0.1 outside"),
        ({"obt_s": 2.0**32}, "obt_s 4294967296.0 outside"),
        ({"data": bytes(PACKET_OCTETS_MAX - TM_OVERHEAD_OCTETS + 1)}, "data of 65522 octets exceed 65521"),
    ],
)
def test_telemetry_out_of_range_names_the_field(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(LinkError, match=complaint):
        pack_tm(HOUSEKEEPING._replace(**change))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"ack_flags": 16}, r"ack_flags 16 outside 0\.\.15"),
        ({"source_id": 65536}, "source_id 65536 outside"),
        ({"service": 1.5}, "service 1.5 outside"),
        ({"data": bytes(PACKET_OCTETS_MAX - TC_OVERHEAD_OCTETS + 1)}, "data of 65530 octets exceed 65529"),
    ],
)
def test_telecommand_out_of_range_names_the_field(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(LinkError, match=complaint):
        pack_tc(PING._replace(**change))


def test_the_largest_packets_survive() -> None:
    tm = HOUSEKEEPING._replace(data=bytes(PACKET_OCTETS_MAX - TM_OVERHEAD_OCTETS))
    tc = PING._replace(data=bytes(PACKET_OCTETS_MAX - TC_OVERHEAD_OCTETS))
    assert len(pack_tm(tm)) == len(pack_tc(tc)) == PACKET_OCTETS_MAX
    assert unpack_tm(pack_tm(tm)) == tm
    assert unpack_tc(pack_tc(tc)) == tc


def _resealed(packet: bytes, at: int, octet: int) -> bytes:
    body = packet[:at] + bytes((octet,)) + packet[at + 1 : -2]
    return body + crc16(body).to_bytes(2, "big")


@pytest.mark.parametrize(
    ("at", "octet", "complaint"),
    [
        (0, 0x38, "packet version 1, expected 0"),
        (0, 0x08, "packet of the other type from APID 1"),
        (0, 0x10, "no secondary header"),
        (2, 0x40, "sequence flags 1, expected 3"),
        (6, 0x1F, "PUS version 1, expected 2"),
        (5, 0x07, "of 13 octets states a length of 14 octets"),
    ],
)
def test_a_wrong_header_with_a_good_crc_is_refused_and_named(at: int, octet: int, complaint: str) -> None:
    with pytest.raises(LinkError, match=complaint):
        unpack_tc(_resealed(pack_tc(PING), at, octet))


def test_a_command_from_the_idle_apid_is_refused() -> None:
    packet = _resealed(_resealed(pack_tc(PING), 0, 0x1F), 1, 0xFF)
    with pytest.raises(LinkError, match="idle APID 2047"):
        unpack_tc(packet)


def test_short_and_damaged_packets_are_refused_with_their_numbers() -> None:
    packet = pack_tm(HOUSEKEEPING)
    with pytest.raises(LinkError, match="TM packet of 20 octets is shorter than 21 octets"):
        unpack_tm(packet[:20])
    damaged = packet[:30] + bytes((packet[30] ^ 1,)) + packet[31:]
    with pytest.raises(LinkError, match=rf"carries CRC 0x{packet[-2:].hex()}, computed 0x"):
        unpack_tm(damaged)
    with pytest.raises(LinkError, match="TC packet expected, found a packet of the other type from APID 66"):
        unpack_tc(packet)


@given(st.binary(max_size=80))
def test_random_octets_only_ever_raise_link_error(octets: bytes) -> None:
    for unpack in (unpack_tc, unpack_tm):
        with pytest.raises(LinkError):
            unpack(octets)


@given(TELEMETRY, st.data())
def test_up_to_three_wrong_bits_never_pass(tm: Telemetry, data: st.DataObject) -> None:
    packet = bytearray(pack_tm(tm))
    positions = data.draw(st.sets(st.integers(0, 8 * len(packet) - 1), min_size=1, max_size=3))
    for bit in positions:
        packet[bit >> 3] ^= 0x80 >> (bit & 7)
    with pytest.raises(LinkError):
        unpack_tm(bytes(packet))

"""Transfer frames: packets across frame edges, priorities, losses, and what must be refused."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spacepackets.ccsds.tm_frame import TmTransferFrame
from spacepackets.ecss.tm import PusTm

from flightsw.errors import LinkError
from flightsw.link.frames import (
    TM_FRAME_OCTETS,
    VC_FILES,
    VC_HOUSEKEEPING,
    VC_IDLE,
    VC_REPORTS,
    Clcw,
    TmDeframer,
    TmFramer,
)
from flightsw.link.packets import Telemetry, crc16, idle_packet, pack_tm

SCID = 0x1A5
QUEUES = {VC_REPORTS: 4096, VC_HOUSEKEEPING: 8192, VC_FILES: 65536}


def _packet(number: int, data_octets: int) -> bytes:
    data = random.Random(number).randbytes(data_octets)
    return pack_tm(Telemetry(66, number & 0x3FFF, 3, 25, number & 0xFFFF, 0, 1.0 * number, data))


def _reseal(frame: bytes, at: int, octet: int) -> bytes:
    body = frame[:at] + bytes((octet,)) + frame[at + 1 : -2]
    return body + crc16(body).to_bytes(2, "big")


def _receive(deframer: TmDeframer, frames: list[bytes]) -> list[tuple[int, bytes]]:
    return [received for frame in frames for received in deframer.push(frame)]


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(QUEUES)), st.integers(0, 700)), max_size=12),
    st.sampled_from([40, 223, 1115]),
    st.booleans(),
    st.integers(1, 4),
)
def test_packets_of_any_length_cross_frames_of_any_length(
    lengths: list[tuple[int, int]], frame_octets: int, ocf: bool, burst: int
) -> None:
    framer = TmFramer(SCID, dict.fromkeys(QUEUES, 65536), frame_octets, ocf)
    deframer = TmDeframer(SCID, frame_octets)
    sent: dict[int, list[bytes]] = {vcid: [] for vcid in QUEUES}
    received: dict[int, list[bytes]] = {vcid: [] for vcid in QUEUES}
    for number, (vcid, data_octets) in enumerate(lengths):
        packet = _packet(number, data_octets)
        assert framer.submit(vcid, packet)
        sent[vcid].append(packet)
        for out_vcid, out in _receive(deframer, framer.frames(burst)):
            received[out_vcid].append(out)
    for out_vcid, out in _receive(deframer, framer.frames(10_000_000)):
        received[out_vcid].append(out)
    assert received == sent
    assert framer.next_frame() is None
    assert (deframer.bad_frames, deframer.lost_frames, deframer.broken_packets) == (0, 0, 0)


def test_counters_wrap_without_a_loss() -> None:
    framer, deframer = TmFramer(SCID, QUEUES), TmDeframer(SCID)
    for number in range(600):
        framer.submit(VC_HOUSEKEEPING, _packet(number, 120))
        assert _receive(deframer, framer.frames(10_000)) == [(VC_HOUSEKEEPING, _packet(number, 120))]
    assert deframer.lost_frames == 0
    assert deframer.lost_frames_by_vc == {VC_HOUSEKEEPING: 0}


def test_spacepackets_reads_frame_clcw_and_packet() -> None:
    framer = TmFramer(SCID, QUEUES)
    clcw = Clcw(vcid=3, no_bit_lock=True, farm_b_count=2, report_value=77)
    framer.set_ocf(clcw.pack())
    for number in range(5):
        framer.submit(VC_HOUSEKEEPING, _packet(number, 150))
    stream = b""
    for count in range(5):
        frame = framer.next_frame()
        assert frame is not None
        theirs = TmTransferFrame.unpack(frame, TM_FRAME_OCTETS, has_error_control_field=True)
        header = theirs.primary_header
        assert header.master_channel_id.spacecraft_id == SCID
        assert (header.vc_id, header.master_ch_frame_count, header.vc_frame_count) == (1, count, count)
        assert theirs.op_ctrl_field is not None
        assert Clcw.unpack(int.from_bytes(theirs.op_ctrl_field, "big")) == clcw
        pointer = header.frame_datafield_status.first_header_pointer
        assert theirs.data_field[pointer : pointer + 2] in (b"\x08\x42", b"\x07\xff")
        stream += theirs.data_field
    for number in range(5):
        octets = len(_packet(number, 150))
        packet, stream = stream[:octets], stream[octets:]
        assert PusTm.unpack(packet, timestamp_len=6).source_data == _packet(number, 150)[19:-2]


def test_the_urgent_channel_goes_first_even_into_a_packet_of_another() -> None:
    framer, deframer = TmFramer(SCID, QUEUES), TmDeframer(SCID)
    files = _packet(1, 1000)
    framer.submit(VC_FILES, files)
    first = framer.next_frame()
    assert first is not None
    event = _packet(2, 30)
    framer.submit(VC_REPORTS, event)
    received = _receive(deframer, [first, *framer.frames(10_000)])
    assert received == [(VC_REPORTS, event), (VC_FILES, files)]


def test_no_more_frames_are_built_than_asked_for() -> None:
    framer = TmFramer(SCID, QUEUES)
    framer.submit(VC_FILES, _packet(1, 2000))
    assert framer.frames(0) == []
    assert len(framer.frames(3)) == 3
    assert len(framer.frames(100)) == 7  # 2021 octets are ten frames of 211


def _channels(frames: list[bytes]) -> list[int]:
    return [frame[1] >> 1 & 7 for frame in frames]


def test_no_channel_that_waits_starves_and_the_most_urgent_has_the_rest() -> None:
    framer = TmFramer(SCID, dict.fromkeys(QUEUES, 1 << 20))
    for vcid in QUEUES:
        for number in range(2000):
            framer.submit(vcid, _packet(number, 211 - 21))
    turns = _channels(framer.frames(1600))
    for vcid in (VC_HOUSEKEEPING, VC_FILES):
        at = [i for i, turn in enumerate(turns) if turn == vcid]
        assert at[0] <= framer.PASSED_OVER_MAX + 1
        assert all(b - a <= framer.PASSED_OVER_MAX + 2 for a, b in itertools.pairwise(at))
    assert turns.count(VC_REPORTS) >= 1600 * 13 // 16


def test_files_fill_what_the_others_leave() -> None:
    framer = TmFramer(SCID, QUEUES)
    for number in range(100):
        framer.submit(VC_FILES, _packet(number, 400))
    assert _channels(framer.frames(3)) == [VC_FILES] * 3
    framer.submit(VC_REPORTS, _packet(1, 100))
    framer.submit(VC_HOUSEKEEPING, _packet(1, 100))
    assert _channels(framer.frames(4)) == [VC_REPORTS, VC_HOUSEKEEPING, VC_FILES, VC_FILES]


def test_a_full_queue_drops_the_oldest_and_counts() -> None:
    framer, deframer = TmFramer(SCID, {VC_HOUSEKEEPING: 1000}), TmDeframer(SCID)
    packets = [_packet(number, 279) for number in range(10)]  # 300 octets each
    assert all(framer.submit(VC_HOUSEKEEPING, packet) for packet in packets)
    assert framer.dropped_packets(VC_HOUSEKEEPING) == 7
    assert framer.queued_octets(VC_HOUSEKEEPING) == 900
    assert [packet for _, packet in _receive(deframer, framer.frames(10_000))] == packets[-3:]
    assert framer.queued_octets(VC_HOUSEKEEPING) == 0
    assert not framer.submit(VC_HOUSEKEEPING, _packet(11, 980))
    assert framer.dropped_packets(VC_HOUSEKEEPING) == 8


def test_a_begun_packet_is_finished_even_when_its_queue_overflows() -> None:
    framer, deframer = TmFramer(SCID, {VC_HOUSEKEEPING: 1000}), TmDeframer(SCID)
    begun = _packet(0, 500)
    framer.submit(VC_HOUSEKEEPING, begun)
    first = framer.frames(1)
    later = [_packet(number, 479) for number in range(1, 6)]
    for packet in later:
        framer.submit(VC_HOUSEKEEPING, packet)
    received = _receive(deframer, first + framer.frames(10_000))
    assert [packet for _, packet in received] == [begun, *later[-2:]]
    assert deframer.broken_packets == 0


def test_a_lone_packet_is_sent_at_once_and_its_fill_makes_no_further_frame() -> None:
    framer = TmFramer(SCID, QUEUES)
    # Three octets are left, and an idle packet needs seven.
    framer.submit(VC_REPORTS, _packet(1, framer.data_octets - 21 - 3))
    assert len(framer.frames(10_000)) == 1
    assert framer.next_frame() is None
    framer.submit(VC_REPORTS, _packet(2, 10))
    frame = framer.next_frame()
    assert frame is not None
    assert frame[4:6] == (0x1800 | 4).to_bytes(2, "big")  # the idle packet's last 4 octets come first


def test_idle_frames_carry_the_clcw_alone() -> None:
    framer, deframer = TmFramer(SCID, QUEUES), TmDeframer(SCID)
    framer.set_ocf(Clcw(farm_b_count=3).pack())
    frame = framer.idle_frame()
    assert len(frame) == TM_FRAME_OCTETS
    assert deframer.push(frame) == []
    assert (deframer.idle_frames, deframer.frames) == (1, 1)
    assert deframer.ocf is not None
    assert Clcw.unpack(deframer.ocf).farm_b_count == 3
    assert TmTransferFrame.unpack(frame, TM_FRAME_OCTETS, True).primary_header.vc_id == VC_IDLE


def test_a_lost_frame_costs_only_the_packets_it_carried() -> None:
    framer, deframer = TmFramer(SCID, QUEUES), TmDeframer(SCID)
    packets = [_packet(number, 100) for number in range(20)]  # 121 octets, 211 a frame
    for packet in packets:
        framer.submit(VC_HOUSEKEEPING, packet)
    frames = framer.frames(100_000)
    del frames[4]  # octets 844..1054: the end of packet 6, packet 7, the start of packet 8
    received = [packet for _, packet in _receive(deframer, frames)]
    assert received == packets[:6] + packets[9:]
    assert deframer.lost_frames == 1
    assert deframer.lost_frames_by_vc == {VC_HOUSEKEEPING: 1}
    assert deframer.broken_packets == 1


def test_joining_in_the_middle_starts_at_the_next_packet() -> None:
    framer, deframer = TmFramer(SCID, QUEUES), TmDeframer(SCID)
    packets = [_packet(number, 500) for number in range(4)]
    for packet in packets:
        framer.submit(VC_FILES, packet)
    received = [packet for _, packet in _receive(deframer, framer.frames(100_000)[1:])]
    assert received == packets[1:]
    assert (deframer.lost_frames, deframer.broken_packets) == (0, 0)


def test_frames_of_others_and_damaged_frames_are_counted() -> None:
    framer, deframer = TmFramer(SCID, QUEUES), TmDeframer(SCID + 1)
    framer.submit(VC_REPORTS, _packet(1, 100))
    frame = framer.next_frame()
    assert frame is not None
    assert deframer.push(frame) == []
    assert deframer.foreign_frames == 1
    assert deframer.push(frame[:-1]) == []
    assert deframer.push(_reseal(frame, 0, frame[0] | 0x40)) == []  # version 1
    assert deframer.push(_reseal(frame, 4, frame[4] | 0x80)) == []  # a secondary header
    assert deframer.bad_frames == 3


@settings(max_examples=200)
@given(st.data())
def test_resealed_damage_never_raises_and_recovers(data: st.DataObject) -> None:
    """Even a peer that seals nonsense with a good check sequence cannot upset the receiver for long."""
    framer, deframer = TmFramer(SCID, QUEUES), TmDeframer(SCID)
    for number in range(6):
        framer.submit(VC_HOUSEKEEPING, _packet(number, 130))
    frames = framer.frames(100_000)
    for _ in range(data.draw(st.integers(1, 5))):
        which = data.draw(st.integers(0, len(frames) - 1))
        at = data.draw(st.one_of(st.integers(0, 12), st.integers(0, TM_FRAME_OCTETS - 3)))
        frames[which] = _reseal(frames[which], at, data.draw(st.integers(0, 255)))
    _receive(deframer, frames)
    good = [_packet(number, 130) for number in range(100, 106)]
    for packet in good:
        framer.submit(VC_HOUSEKEEPING, packet)
    received = [packet for _, packet in _receive(deframer, framer.frames(100_000))]
    assert received[-5:] == good[-5:]


@given(st.lists(st.binary(max_size=300), max_size=10))
def test_garbage_is_counted_and_never_raised(frames: list[bytes]) -> None:
    deframer = TmDeframer(SCID)
    assert _receive(deframer, frames) == []
    assert deframer.bad_frames == len(frames)


@given(st.data())
def test_damaged_frames_give_only_packets_that_were_sent(data: st.DataObject) -> None:
    framer, deframer = TmFramer(SCID, QUEUES), TmDeframer(SCID)
    sent = [_packet(number, 130) for number in range(8)]
    for packet in sent:
        framer.submit(VC_HOUSEKEEPING, packet)
    damaged = []
    for frame in framer.frames(100_000):
        octets = bytearray(frame)
        for bit in data.draw(st.lists(st.integers(0, 8 * len(frame) - 1), max_size=3)):
            octets[bit >> 3] ^= 0x80 >> (bit & 7)
        damaged.append(bytes(octets))
    received = [packet for _, packet in _receive(deframer, damaged)]
    assert set(received) <= set(sent)


def test_a_lost_frame_never_splices_two_packets() -> None:
    framer, deframer = TmFramer(SCID, QUEUES), TmDeframer(SCID)
    packets = [_packet(0, 79), *(_packet(number, framer.data_octets - 21) for number in range(1, 8))]
    for packet in packets:
        framer.submit(VC_HOUSEKEEPING, packet)
    frames = framer.frames(100_000)
    del frames[3]  # the head of packet 3 and the tail of packet 4 would make up one packet's length
    assert [packet for _, packet in _receive(deframer, frames)] == packets[:3] + packets[5:]
    assert deframer.broken_packets == 1


def _misstated(octets: int, stated_octets: int) -> bytes:
    return b"\x08\x42\xc0\x00" + (stated_octets - 7).to_bytes(2, "big") + bytes(octets - 6)


@pytest.mark.parametrize(
    ("before_octets", "bad"),
    [
        (30, b"\xe8\x42\xc0\x00\x00\x21" + bytes(34)),  # packet version 7
        (30, _misstated(250, 300)),  # ends before its stated length, in a frame that starts another
        (206, _misstated(300, 50)),  # its header is cut, and the next frame starts none
    ],
)
def test_a_packet_that_is_no_space_packet_costs_only_its_neighbours(before_octets: int, bad: bytes) -> None:
    framer, deframer = TmFramer(SCID, QUEUES), TmDeframer(SCID)
    good = [_packet(1, before_octets - 21), _packet(2, 300), _packet(3, 300)]
    for packet in (good[0], bad, *good[1:]):
        framer.submit(VC_REPORTS, packet)
    received = [packet for _, packet in _receive(deframer, framer.frames(100_000))]
    assert received[0] == good[0]
    assert received[-1] == good[-1]
    assert set(received) <= set(good)
    assert deframer.broken_packets == 1


def test_an_idle_packet_that_spans_frames_is_left_out() -> None:
    framer, deframer = TmFramer(SCID, QUEUES), TmDeframer(SCID)
    for packet in (_packet(1, 10), idle_packet(400), _packet(2, 10)):
        framer.submit(VC_REPORTS, packet)
    received = _receive(deframer, framer.frames(100_000))
    assert received == [(VC_REPORTS, _packet(1, 10)), (VC_REPORTS, _packet(2, 10))]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((1024, QUEUES), r"spacecraft id 1024 outside 0\.\.1023"),
        ((SCID, {7: 100}), r"virtual channel 7 outside 0\.\.6"),
        ((SCID, {0: 0}), "virtual channel 0 holds 0 octets"),
        ((SCID, QUEUES, 18), r"frame of 18 octets outside 19\.\.2048"),
        ((SCID, QUEUES, 2049), "frame of 2049 octets outside"),
    ],
)
def test_a_framer_that_could_not_work_is_refused(arguments: tuple[object, ...], complaint: str) -> None:
    with pytest.raises(LinkError, match=complaint):
        TmFramer(*arguments)


def test_a_packet_for_an_unknown_channel_is_refused() -> None:
    with pytest.raises(LinkError, match=r"no virtual channel 5, has \[0, 1, 2\]"):
        TmFramer(SCID, QUEUES).submit(5, _packet(1, 1))


@given(
    st.builds(
        Clcw,
        st.integers(0, 63),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.integers(0, 3),
        st.integers(0, 255),
    )
)
def test_clcw_returns(clcw: Clcw) -> None:
    assert Clcw.unpack(clcw.pack()) == clcw


def test_an_ocf_of_another_type_is_no_clcw() -> None:
    with pytest.raises(LinkError, match="0x81000000 is not a version-1 CLCW"):
        Clcw.unpack(0x81000000)

"""Both ends of every stack a mission can choose: what goes in comes out, and nothing that arrives raises."""

from __future__ import annotations

import dataclasses
import random
import re

import pytest
from cobs import cobs as their_cobs
from hypothesis import given
from hypothesis import strategies as st

from flightsw.errors import ConfigError, LinkError
from flightsw.link.cobs import UnitDecoder, encode_unit, stuff, unstuff
from flightsw.link.frames import VC_FILES, VC_HOUSEKEEPING, VC_REPORTS, Clcw
from flightsw.link.packets import Telemetry, crc16, pack_tm
from flightsw.link.stack import Stack
from flightsw.link.tc_frames import build_tc_frame, parse_tc_frame
from hil.channel import VirtualLine

SCID = 66
QUEUES = {VC_REPORTS: 65536, VC_HOUSEKEEPING: 65536, VC_FILES: 1 << 20}
STACKS = [
    Stack(framing, **options)
    for framing, options in [("cadu", {}), ("cadu", {"frame_octets": 1115}), ("cadu", {"reed_solomon": True}),
                             ("cadu", {"frame_octets": 1115, "reed_solomon": True}), ("cobs", {})]
]


def _packet(number: int, octets: int) -> bytes:
    data = random.Random(number).randbytes(octets)
    return pack_tm(Telemetry(66, number & 0x3FFF, 3, 25, number & 0xFFFF, 0, 1.0 * number, data))


@pytest.fixture(params=STACKS, ids=str)
def stack(request: pytest.FixtureRequest) -> Stack:
    return request.param


def test_packets_come_out_as_they_went_in(stack: Stack) -> None:
    sender, receiver = stack.sender(SCID, QUEUES), stack.receiver(SCID)
    packets = [_packet(number, 3 + 37 * number % 900) for number in range(60)]
    for packet in packets:
        assert sender.submit(VC_FILES, packet)
    received, octets = [], b""
    while piece := sender.take(3000):
        assert len(piece) <= 3000
        octets += piece
    for at in range(0, len(octets), 97):
        received += receiver.push(octets[at : at + 97])
    assert received == packets
    assert receiver.heard_frames > 0
    assert (receiver.bad_frames, receiver.lost_frames, receiver.skipped_octets) == (0, 0, 0)


def test_less_than_one_piece_waits(stack: Stack) -> None:
    sender = stack.sender(SCID, QUEUES)
    sender.submit(VC_REPORTS, _packet(1, 50))
    assert sender.take(sender.unit_octets - 1) == b""
    assert len(sender.take(sender.unit_octets)) == sender.unit_octets


def test_the_urgent_overtake_and_the_others_do_not_starve(stack: Stack) -> None:
    sender, receiver = stack.sender(SCID, QUEUES), stack.receiver(SCID)
    for number in range(300):
        sender.submit(VC_FILES, _packet(number, 1000))
    sender.take(sender.unit_octets)
    for number in range(200):
        sender.submit(VC_REPORTS, _packet(1000 + number, 300))
    received = receiver.push(sender.take(1 << 22))
    urgent = [i for i, packet in enumerate(received) if len(packet) < 400]
    assert urgent[0] <= 1
    between = sum(len(packet) > 400 for packet in received[: urgent[-1]])
    assert 1 <= between <= 20


def test_a_clcw_reaches_the_ground_where_there_are_frames(stack: Stack) -> None:
    sender, receiver = stack.sender(SCID, QUEUES), stack.receiver(SCID)
    clcw = Clcw(farm_b_count=2, report_value=7)
    sender.set_ocf(clcw.pack())
    sender.submit(VC_REPORTS, _packet(1, 50))
    receiver.push(sender.take(1 << 16))
    assert receiver.take_control_words()[-1:] == ([] if stack.framing == "cobs" else [clcw.pack()])


def test_a_telecommand_reaches_the_satellite(stack: Stack) -> None:
    receiver = stack.tc_receiver()
    frames = [build_tc_frame(random.Random(number).randbytes(20 + number), SCID) for number in range(30)]
    octets = b"noise\0\xeb" + b"".join(stack.encode_tc(frame) for frame in frames)
    contents = [content for at in range(0, len(octets), 11) for content in receiver.push(octets[at : at + 11])]
    assert [parse_tc_frame(content, SCID).data for content in contents] == [frame[6:-2] for frame in frames]


@pytest.mark.parametrize("lost", [1, 40, 700])
def test_a_stack_recovers_from_damage_and_loss(stack: Stack, lost: int) -> None:
    sender, receiver = stack.sender(SCID, QUEUES), stack.receiver(SCID)
    packets = [_packet(number, 150) for number in range(120)]
    for packet in packets:
        sender.submit(VC_HOUSEKEEPING, packet)
    octets = sender.take(1 << 20)
    received = receiver.push(octets[:9000] + octets[9000 + lost :])
    assert set(received) <= set(packets)
    assert len(received) >= len(packets) - 20 - lost // 150
    assert received[-1] == packets[-1]


@given(st.lists(st.binary(max_size=400), max_size=8))
def test_nothing_that_arrives_raises_or_passes(pieces: list[bytes]) -> None:
    for stack in STACKS:
        receiver, tc_receiver = stack.receiver(SCID), stack.tc_receiver()
        for piece in pieces:
            receiver.push(piece)
            for content in tc_receiver.push(piece):
                with pytest.raises(LinkError):
                    parse_tc_frame(content, SCID)


def test_the_line_at_full_rate_carries_files_at_the_computed_share() -> None:
    """Link notes, section 7: packet octets a second at 115,200 baud; those of 9,600 baud scaled where it has no row."""
    expected = {("cadu", 223, 0): 10_708, ("cadu", 223, 1): 9_385, ("cadu", 1115, 0): 946 * 12,
                ("cadu", 1115, 5): 828 * 12, ("cobs", 223, 0): 11_400}
    for stack in STACKS:
        line = VirtualLine(115200)
        sender, receiver = stack.sender(SCID, QUEUES), stack.receiver(SCID)
        octets = credit = 0
        for second in range(1, 31):
            line.advance(float(second))
            while sender.queued_octets(VC_FILES) < 30_000:
                sender.submit(VC_FILES, _packet(second, 1000))
            credit += 11_520  # as `Reporting` does it: what is not a whole frame waits for the next turn
            piece = sender.take(credit)
            credit -= line.a.write(piece)
            octets += sum(len(packet) for packet in receiver.push(line.b.read()))
        assert octets / 29.0 >= 0.99 * expected[stack.framing, stack.frame_octets, stack.interleave]


def test_computed_rates_are_those_of_the_link_notes() -> None:
    for stack, baud, octets_s in [
        (Stack(), 9600, 892), (Stack(reed_solomon=True), 9600, 782), (Stack(frame_octets=1115), 9600, 946),
        (Stack(frame_octets=1115, reed_solomon=True), 9600, 828), (Stack(), 115_200, 10_708),
        (Stack(reed_solomon=True), 115_200, 9_385), (Stack(), 921_600, 85_664),
        (Stack(reed_solomon=True), 921_600, 75_080),
    ]:
        assert stack.packet_octets_s(baud, sealed=False) == pytest.approx(octets_s, rel=1e-3)
        assert stack.packet_octets_s(baud, sealed=True) < 0.98 * octets_s
    assert 11_400 < Stack("cobs").packet_octets_s(115_200, sealed=True) < 11_520


@pytest.mark.parametrize(("stack", "bit_error_rate", "least_frac"), [
    (Stack(), 1e-5, 0.95), (Stack(reed_solomon=True), 1e-3, 0.999),
    (Stack(frame_octets=1115, reed_solomon=True), 1e-3, 0.999), (Stack("cobs"), 1e-5, 0.95),
], ids=str)
def test_packets_through_a_noisy_line(stack: Stack, bit_error_rate: float, least_frac: float) -> None:
    line = VirtualLine(115200, bit_error_rate=bit_error_rate, seed=3)
    sender, receiver = stack.sender(SCID, QUEUES), stack.receiver(SCID)
    sent, received = set(), []
    for second in range(1, 91):
        line.advance(float(second))
        for number in range(60 if second < 87 else 0):
            packet = _packet(second * 100 + number, 120)
            sent.add(packet)
            sender.submit(VC_HOUSEKEEPING, packet)
        line.a.write(sender.take(11_520))
        received += receiver.push(line.b.read())
    assert len(received) == len(set(received))
    if stack.framing == "cadu":
        assert set(received) <= sent  # a packet's own CRC is not looked at here: the frame's has been
    assert len(received) >= least_frac * len(sent)
    assert line.a_to_b.flipped_bits > 0
    assert (receiver.corrected_octets > 0) == stack.reed_solomon


@pytest.mark.parametrize("options", [{"framing": "kiss"}, {"frame_octets": 300},
                                     {"framing": "cobs", "reed_solomon": True}])
def test_choices_that_do_not_go_together_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(LinkError):
        dataclasses.replace(Stack(), **options)


# --- consistent overhead byte stuffing --------------------------------------------------------------------


@given(st.one_of(st.binary(max_size=1200), st.lists(st.sampled_from([0, 1, 255]), max_size=1200).map(bytes)))
def test_stuffing_is_undone_and_holds_no_zero(octets: bytes) -> None:
    stuffed = stuff(octets)
    assert 0 not in stuffed
    assert len(stuffed) <= len(octets) + len(octets) // 254 + 1
    assert unstuff(stuffed) == octets == their_cobs.decode(stuffed)
    assert unstuff(their_cobs.encode(octets)) == octets


@pytest.mark.parametrize("run", [253, 254, 255, 508, 509])
def test_long_runs_without_zeros(run: int) -> None:
    octets = b"\x07" * run
    assert unstuff(stuff(octets + b"\0" + octets)) == octets + b"\0" + octets
    assert their_cobs.decode(stuff(octets)) == octets


@given(st.binary(max_size=600))
def test_the_decoder_of_stuffing_takes_anything(octets: bytes) -> None:
    stuffed = octets.replace(b"\0", b"\1")
    try:
        theirs = their_cobs.decode(stuffed)
    except their_cobs.DecodeError:
        theirs = None
    assert unstuff(stuffed) == theirs


def test_a_bad_unit_costs_itself_alone() -> None:
    bodies = [random.Random(number).randbytes(50) for number in range(5)]
    units = [body + crc16(body).to_bytes(2, "big") for body in bodies]
    octets = bytearray(b"".join(encode_unit(unit) for unit in units))
    octets[70] ^= 0x10  # in the second
    decoder = UnitDecoder()
    assert decoder.push(bytes(octets)) == [units[0], *units[2:]]
    assert (decoder.units, decoder.bad_units) == (4, 1)


def test_what_never_ends_is_not_kept() -> None:
    decoder = UnitDecoder()
    for _ in range(40):
        decoder.push(b"\x01" * 10_000)
    assert decoder.skipped_octets >= 300_000
    body = bytes(20)
    unit = body + crc16(body).to_bytes(2, "big")
    assert decoder.push(encode_unit(unit)) == [unit]
    assert decoder.bad_units == 1


# --- the mission file -------------------------------------------------------------------------------------


def test_a_mission_that_says_nothing_has_the_standard_stack() -> None:
    from pathlib import Path

    from flightsw import mission
    from flightsw.compose import stack_of

    path = Path(__file__).parents[2] / "missions" / "iss_like.toml"
    assert stack_of(mission.load(path)) == Stack()
    silent = re.sub(r"^(framing|frame_octets|reed_solomon) =.*\n", "", path.read_text(), flags=re.MULTILINE)
    assert stack_of(mission.parse(silent, "m")) == Stack()
    chosen = silent.replace("[link]\n", '[link]\nframing = "cobs"\nframe_octets = 1115\n')
    assert stack_of(mission.parse(chosen, "m")) == Stack("cobs", frame_octets=1115)
    chosen = silent.replace("[link]\n", "[link]\nframe_octets = 1115\nreed_solomon = true\n")
    assert stack_of(mission.parse(chosen, "m")).interleave == 5
    for wrong in ('framing = "kiss"', "frame_octets = 300", 'reed_solomon = true\nframing = "cobs"'):
        with pytest.raises(ConfigError, match=wrong.split()[0]):
            mission.parse(silent.replace("[link]\n", f"[link]\n{wrong}\n"), "m")

"""The satellite's end of the link against the ground's unpackers and an independent implementation."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spacepackets.ccsds.spacepacket import PacketId, PacketType
from spacepackets.ecss.pus_1_verification import ManagedParamsVerification, RequestId, Service1Tm
from spacepackets.ecss.pus_verificator import PusVerificator, StatusField
from spacepackets.ecss.tc import PusTc
from spacepackets.ecss.tm import ManagedParams

from flightsw.dictionary.commands import COMMANDS, Arg
from flightsw.dictionary.events import BY_NAME, EVENTS
from flightsw.dictionary.telemetry import (
    HOUSEKEEPING,
    MISSING,
    POINT_INDEX,
    POINTS,
    unpack_event,
    unpack_housekeeping,
)
from flightsw.errors import LinkError
from flightsw.link.coding import CaduSynchroniser, encode_cltu
from flightsw.link.frames import VC_HOUSEKEEPING, VC_REPORTS, Clcw, TmDeframer
from flightsw.link.packets import Telecommand, Telemetry, pack_tc, unpack_tm
from flightsw.link.services import (
    STAGE_ACCEPTED,
    STAGE_COMPLETED,
    STAGE_FAILED,
    STAGE_NOT_ACCEPTED,
    STAGE_STARTED,
    STAGE_STEP,
    BuiltTelecommand,
    CommandReceiver,
    Reporter,
    VerificationReport,
    build_telecommand,
    pack_parameter,
    pack_verification,
    unpack_parameter,
    unpack_verification,
)
from flightsw.link.tc_frames import build_tc_frame
from flightsw.state import Event, Received

SCID, APID = 42, 100
OBT_S = 1_782_043_200.5
STAGES = (STAGE_ACCEPTED, STAGE_NOT_ACCEPTED, STAGE_STARTED, STAGE_STEP, STAGE_COMPLETED, STAGE_FAILED)
ARGUMENT = {"text": "x", "f32": 1.5, "f64": 2.5}


class Heard(NamedTuple):
    """One packet as the ground received it."""

    vcid: int
    packet: bytes
    tm: Telemetry


class Ground:
    """The ground's receiving chain, without a station."""

    def __init__(self) -> None:
        self.synchroniser = CaduSynchroniser()
        self.deframer = TmDeframer(SCID)

    def hear(self, octets: bytes) -> list[Heard]:
        frames = self.synchroniser.push(octets)
        packets = [found for frame in frames for found in self.deframer.push(frame)]
        return [Heard(vcid, packet, unpack_tm(packet)) for vcid, packet in packets]


def reporter(store_octets: int = 100_000) -> Reporter:
    return Reporter(SCID, APID, store_octets)


def pool(**values: float) -> list[float | int]:
    filled: list[float | int] = [MISSING if point.kind.startswith("f") else 0 for point in POINTS]
    for name, value in values.items():
        filled[POINT_INDEX[name]] = value
    return filled


def command(verb: str, *values: float | str, seq_count: int = 1) -> BuiltTelecommand:
    return build_telecommand(COMMANDS[verb], values, apid=APID, seq_count=seq_count, scid=SCID)


# --- downlink ------------------------------------------------------------------------------------------


def test_every_event_reaches_the_ground() -> None:
    satellite, ground = reporter(), Ground()
    sent = [Event(row.name, tuple(ARGUMENT.get(kind, 7) for kind in row.args)) for row in EVENTS]
    for event in sent:
        satellite.event(event, OBT_S)
    heard = ground.hear(satellite.take(1_000_000))
    assert len(heard) == len(sent)
    for i, (event, (vcid, _, tm)) in enumerate(zip(sent, heard, strict=True)):
        row, args = unpack_event(tm.data)
        assert (row.name, args) == event
        assert (vcid, tm.apid, tm.service, tm.seq_count, tm.obt_s) == (VC_REPORTS, APID, 5, i, OBT_S)
        assert tm.subservice == row.severity


def test_every_structure_reaches_the_ground_with_its_missing_values() -> None:
    satellite, ground = reporter(), Ground()
    values = pool(battery_v=16.25, mode=0x33, boot_count=9)
    for row in HOUSEKEEPING:
        satellite.housekeeping(row.sid, values, OBT_S)
    heard = ground.hear(satellite.take(1_000_000))
    assert [unpack_housekeeping(tm.data)[0] for _, _, tm in heard] == list(HOUSEKEEPING)
    for vcid, _, tm in heard:
        assert (vcid, tm.service, tm.subservice) == (VC_HOUSEKEEPING, 3, 25)
        row, found = unpack_housekeeping(tm.data)
        for point, value in zip(row.points, found, strict=True):
            expected = values[POINT_INDEX[point.name]]
            assert value == expected or (math.isnan(value) and math.isnan(expected))


def test_pong_and_parameter_reach_the_ground() -> None:
    satellite, ground = reporter(), Ground()
    satellite.pong(OBT_S)
    satellite.parameter(3, 79.5, OBT_S)
    (pong, parameter) = [tm for _, _, tm in ground.hear(satellite.take(10_000))]
    assert (pong.service, pong.subservice, pong.data) == (17, 2, b"")
    assert (parameter.service, parameter.subservice) == (20, 2)
    assert unpack_parameter(parameter.data) == (3, 79.5)


def test_message_counters_count_each_report_type_on_its_own() -> None:
    satellite, ground = reporter(), Ground()
    for _ in range(3):
        satellite.pong(OBT_S)
        satellite.event(Event("sighted", ()), OBT_S)
    heard = [tm for _, _, tm in ground.hear(satellite.take(10_000))]
    assert [tm.seq_count for tm in heard] == list(range(6))
    assert [tm.msg_counter for tm in heard] == [0, 0, 1, 1, 2, 2]


def test_counters_wrap_where_their_fields_end() -> None:
    satellite, ground = reporter(), Ground()
    counts = []
    for _ in range(0x10002):
        satellite.pong(OBT_S)
        counts += [(tm.seq_count, tm.msg_counter) for _, _, tm in ground.hear(satellite.take(227))]
    assert counts == [(i & 0x3FFF, i & 0xFFFF) for i in range(0x10002)]


def test_reports_go_before_housekeeping_whatever_came_first() -> None:
    satellite, ground = reporter(), Ground()
    for i in range(20):
        satellite.housekeeping(1, pool(), OBT_S + i)
    satellite.event(Event("sighted", ()), OBT_S + 20)
    satellite.verification(1, STAGE_ACCEPTED, 0, "", OBT_S + 21)
    heard = ground.hear(satellite.take(1_000_000))
    assert [(tm.service, tm.subservice) for _, _, tm in heard[:2]] == [(5, 1), (1, 1)]
    assert [tm.obt_s for _, _, tm in heard[2:]] == [OBT_S + i for i in range(20)]


def test_full_store_drops_the_oldest_housekeeping_and_counts_it() -> None:
    satellite, ground = reporter(store_octets=1000), Ground()
    for i in range(100):
        satellite.housekeeping(1, pool(), OBT_S + i)
    satellite.event(Event("sighted", ()), OBT_S)
    assert satellite.waiting_octets <= 1000 + 200
    heard = ground.hear(satellite.take(1_000_000))
    assert heard[0].tm.service == 5
    kept = [tm.obt_s for _, _, tm in heard[1:]]
    assert kept == [OBT_S + i for i in range(100 - len(kept), 100)]
    assert satellite.dropped_packets == 100 - len(kept) > 0
    assert satellite.waiting_octets == 0


def test_flood_of_events_is_bounded_and_leaves_housekeeping_alone() -> None:
    satellite, ground = reporter(), Ground()
    satellite.housekeeping(1, pool(), OBT_S)
    for _ in range(20_000):
        satellite.event(Event("shed", ("x" * 120,)), OBT_S)
    assert satellite.waiting_octets < 263_000
    assert satellite.dropped_packets > 10_000
    assert 3 in [tm.service for _, _, tm in ground.hear(satellite.take(10_000_000))]


@given(st.lists(st.integers(0, 2000), max_size=20))
def test_budget_is_never_exceeded_and_nothing_is_lost(budgets: list[int]) -> None:
    satellite, ground = reporter(), Ground()
    for i in range(30):
        satellite.housekeeping(3, pool(), OBT_S + i)
    heard = []
    for budget in budgets:
        octets = satellite.take(budget)
        assert len(octets) <= budget
        assert len(octets) % 227 == 0
        heard += ground.hear(octets)
    heard += ground.hear(satellite.take(1_000_000))
    assert [tm.obt_s for _, _, tm in heard] == [OBT_S + i for i in range(30)]
    assert satellite.take(1_000_000) == b""


def test_uplink_count_travels_in_every_frame() -> None:
    satellite, ground = reporter(), Ground()
    for accepted in range(6):
        satellite.report_uplink((Clcw(farm_b_count=accepted).pack(),))
        satellite.pong(OBT_S)
        ground.hear(satellite.take(227))
        assert ground.deframer.ocf is not None
        assert Clcw.unpack(ground.deframer.ocf).farm_b_count == accepted & 3


def test_event_that_does_not_fit_its_row_is_an_error() -> None:
    satellite = reporter()
    with pytest.raises(LinkError, match="1 values for 2 fields"):
        satellite.event(Event("boot", (1,)), OBT_S)
    assert satellite.waiting_octets == 0


# --- codecs --------------------------------------------------------------------------------------------


@given(st.integers(0, 0xFFFFFFFF), st.sampled_from(STAGES), st.integers(0, 0xFFFF), st.text(max_size=30))
def test_verification_comes_back(request_id: int, stage: int, code: int, text: str) -> None:
    failed = stage in (STAGE_NOT_ACCEPTED, STAGE_FAILED)
    report = unpack_verification(stage, pack_verification(request_id, stage, code, text))
    shown = code if failed or stage == STAGE_STEP else 0
    assert report == VerificationReport(request_id, stage, shown, text if failed else "")


@given(st.integers(0, 9), st.binary(max_size=12))
def test_report_of_any_octets_is_read_or_refused(stage: int, data: bytes) -> None:
    try:
        report = unpack_verification(stage, data)
    except LinkError:
        return
    assert pack_verification(*report) == data


@pytest.mark.parametrize("data", [b"", b"\0" * 9, b"\0" * 11])
def test_parameter_report_of_the_wrong_size_is_refused(data: bytes) -> None:
    assert unpack_parameter(pack_parameter(65535, -0.5)) == (65535, -0.5)
    with pytest.raises(LinkError, match=f"of {len(data)} octets, expected 10"):
        unpack_parameter(data)


def test_bad_argument_builds_nothing() -> None:
    with pytest.raises(LinkError, match="mode: mode = 7 is none of BOOT=0"):
        command("mode", 7)


# --- uplink --------------------------------------------------------------------------------------------


def any_value(arg: Arg) -> float | int | str:
    """A value within the argument's own bounds."""
    if arg.kind in {"text", "request"}:
        return "mode SAFE" if arg.kind == "request" else "x" * int(arg.low)
    low = min(arg.enum) if arg.enum is not None else arg.low
    return float(low) if arg.kind.startswith("f") else int(low)


def test_every_command_reaches_the_satellite() -> None:
    receiver = CommandReceiver(SCID, APID)
    for i, (verb, row) in enumerate(COMMANDS.items()):
        built = command(verb, *map(any_value, row.args), seq_count=i)
        (received,) = receiver.push(built.octets)
        assert received == Received(built.request_id, row.service, row.subservice, received.data)
        assert built.packet[11:-2] == received.data
        assert built.request_id == int.from_bytes(built.packet[:4], "big")
    assert (receiver.frames_accepted, receiver.frames_rejected) == (len(COMMANDS), 0)


@given(st.lists(st.integers(1, 60), max_size=30))
def test_commands_cut_anywhere_arrive_whole(cuts: list[int]) -> None:
    receiver = CommandReceiver(SCID, APID)
    built = [command("ping", seq_count=i) for i in range(5)]
    octets = b"".join(one.octets for one in built)
    received = []
    at = 0
    for cut in cuts:
        received += receiver.push(octets[at:at + cut])
        at += cut
    received += receiver.push(octets[at:])
    assert [one.request_id for one in received] == [one.request_id for one in built]


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_garbage_is_counted_never_raised_and_the_next_command_arrives(chunks: list[bytes]) -> None:
    receiver = CommandReceiver(SCID, APID)
    for chunk in chunks:
        assert receiver.push(chunk) == []
    receiver.push(bytes(1100))  # whatever was begun is over: no CLTU is longer
    assert [one.service for one in receiver.push(command("ping").octets)] == [17]
    assert receiver.frames_accepted == 1


def test_command_for_another_is_rejected_with_the_reason() -> None:
    def cltu(scid: int = SCID, apid: int = APID, packet: bytes | None = None) -> bytes:
        ping = pack_tc(Telecommand(apid, 1, 9, 17, 1, 0, b"")) if packet is None else packet
        return encode_cltu(build_tc_frame(ping, scid))

    damaged = bytearray(cltu())
    damaged[5] ^= 1
    receiver = CommandReceiver(SCID, APID)
    for i, (octets, reason) in enumerate((
        (cltu(scid=43), "for spacecraft 43, this is spacecraft 42"),
        (cltu(apid=101), "telecommand for application 101, this is 100"),
        (cltu(packet=b"short"), "TC packet of 5 octets is shorter"),
        (cltu(packet=bytes(40)), "TC packet of 40 octets states a length of 7"),
    )):
        assert receiver.push(octets) == []
        assert receiver.frames_rejected == i + 1
        assert reason in receiver.last_rejection
    assert receiver.push(bytes(damaged)) == []  # its codeblock does not close: no frame at all
    assert receiver.frames_accepted == 0
    assert [one.service for one in receiver.push(cltu())] == [17]


# --- against an independent implementation --------------------------------------------------------------


def outside_view(heard: Heard) -> Service1Tm:
    """A service 1 report as the independent implementation reads it."""
    return Service1Tm.unpack(heard.packet, ManagedParams(timestamp_len=6),
                             ManagedParamsVerification(bytes_step_id=1, bytes_err_code=2))


def test_independent_verificator_follows_our_verification() -> None:
    satellite, ground, verificator = reporter(), Ground(), PusVerificator()
    receiver = CommandReceiver(SCID, APID)
    ends = {10: STAGE_COMPLETED, 11: STAGE_FAILED, 12: STAGE_NOT_ACCEPTED}
    for seq_count, end in ends.items():
        ping = PusTc(apid=APID, service=17, message_subtype=1, seq_count=seq_count, app_data=b"")
        assert verificator.add_tc(ping)
        (received,) = receiver.push(encode_cltu(build_tc_frame(bytes(ping.pack()), SCID)))
        if end != STAGE_NOT_ACCEPTED:
            satellite.verification(received.request_id, STAGE_ACCEPTED, 0, "", OBT_S)
        satellite.verification(received.request_id, end, 4, "not now", OBT_S)
    for heard in ground.hear(satellite.take(10_000)):
        report = outside_view(heard)
        assert verificator.add_tm(report) is not None
        if report.has_failure_notice:
            assert report.error_code is not None
            assert report.error_code.val == 4
            assert report.failure_notice is not None
            assert bytes(report.failure_notice.data) == b"\x07not now"
    for seq_count, end in ends.items():
        packet_id = PacketId(ptype=PacketType.TC, sec_header_flag=True, apid=APID)
        found = next(status for request, status in verificator.verif_dict.items()
                     if request.tc_psc.seq_count == seq_count and request.tc_packet_id == packet_id)
        accepted = end != STAGE_NOT_ACCEPTED
        assert found.accepted == (StatusField.SUCCESS if accepted else StatusField.FAILURE)
        if accepted:
            assert found.completed == (StatusField.SUCCESS if end == STAGE_COMPLETED else StatusField.FAILURE)


def test_our_telecommand_is_the_independent_ones_octet_for_octet() -> None:
    built = command("hk.report", 3, seq_count=77)
    ours = PusTc.unpack(built.packet)
    assert (ours.apid, ours.service, ours.message_subtype, ours.seq_count) == (APID, 3, 27, 77)
    assert bytes(ours.app_data) == b"\x03"
    assert ours.pack() == bytearray(built.packet)
    assert RequestId.from_pus_tc(ours).pack() == built.request_id.to_bytes(4, "big")


def test_events_row_severity_is_the_subservice() -> None:
    satellite, ground = reporter(), Ground()
    satellite.event(Event("store_failed", ("disk",)), OBT_S)
    ((_, _, tm),) = ground.hear(satellite.take(227))
    assert tm.subservice == BY_NAME["store_failed"].severity == 4

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_satellite import APID, SCID, TinySatellite, Wire

from flightsw.dictionary import events, parameters
from flightsw.dictionary.telemetry import HOUSEKEEPING, POINTS
from flightsw.errors import LinkError, StoreError
from flightsw.kernels import FrameCodec
from flightsw.link.frames import TmFramer
from flightsw.link.packets import Telemetry, pack_tm
from flightsw.state import Event
from ground.archive import Archive
from ground.station import (
    CommandReport,
    CommandState,
    EventReport,
    HousekeepingReport,
    ParameterReport,
    PongReport,
    Report,
    Station,
)

EPOCH_S = 1_800_000_000.0


class Session:
    """Ground and satellite with a wire between them, and every report that the ground was told."""

    def __init__(self, path: Path, **archive: float) -> None:
        self.archive = Archive(path, **archive)  # type: ignore[arg-type]  # the two numbers of its grouping
        self.wire = Wire()
        self.satellite = TinySatellite()
        self.station = Station(self.wire, self.archive, scid=SCID, apid=APID, epoch_s=EPOCH_S)
        self.told: list[Report] = []
        self.station.listen(self.told.append)

    def exchange(self, now_s: float) -> None:
        """Carry what was sent up, and what is reported down."""
        self.satellite.uplink(self.wire.take_sent(), EPOCH_S + now_s)
        self.wire.waiting += self.satellite.downlink()
        self.station.poll(now_s)

    def states(self) -> list[CommandState]:
        return [report.record.state for report in self.told if isinstance(report, CommandReport)]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    made = Session(tmp_path / "a.sqlite")
    yield made
    made.archive.close()


def test_every_structure_comes_through_with_its_missing_values(session: Session) -> None:
    for row in HOUSEKEEPING:
        session.satellite.reporter.housekeeping(row.sid, session.satellite.pool, EPOCH_S + 1.0)
    session.exchange(2.0)
    for point in POINTS:
        sample = session.station.latest(point.name)
        expected = session.satellite.pool[[p.name for p in POINTS].index(point.name)]
        assert sample is not None
        assert (sample.obt_s, sample.received_s) == (EPOCH_S + 1.0, 2.0)
        if math.isnan(expected):
            assert sample.value is None
        else:
            assert sample.value == pytest.approx(expected, rel=1e-6)
    assert session.station.latest("array_c") == (None, EPOCH_S + 1.0, 2.0)
    assert [r.row.sid for r in session.told if isinstance(r, HousekeepingReport)] == [r.sid for r in HOUSEKEEPING]
    assert session.archive.samples("array_c") == [(EPOCH_S + 1.0, None)]
    assert session.archive.samples("mode") == [(EPOCH_S + 1.0, 15)]


def test_before_anything_came_there_is_no_value(session: Session) -> None:
    session.station.poll(0.0)
    assert session.station.latest("battery_soc_frac") is None
    assert session.station.heard_s is None


def test_every_event_of_the_dictionary_comes_through(session: Session) -> None:
    sample: dict[str, float | int | str] = {"u8": 1, "u16": 2, "u32": 3, "i32": -4, "f32": 0.5, "f64": 0.25,
                                            "text": "mode"}
    for row in events.EVENTS:
        session.satellite.reporter.event(Event(row.name, tuple(sample[kind] for kind in row.args)), EPOCH_S)
    session.exchange(1.0)
    told = [report for report in session.told if isinstance(report, EventReport)]
    assert [report.row for report in told] == list(events.EVENTS)
    assert [entry.text for entry in session.archive.events()] == [report.text for report in told]
    assert all("{" not in report.text for report in told)
    assert session.station.undecoded_packets == 0


def test_command_is_accepted_and_completed(session: Session) -> None:
    record = session.station.send("hk.report", (2,), 1.0)
    assert record.state is CommandState.SENT
    session.exchange(2.0)
    assert session.states() == [CommandState.SENT, CommandState.ACCEPTED, CommandState.COMPLETED]
    done = session.station.command(record.request_id)
    assert (done.state, done.sent_s, done.changed_s) == (CommandState.COMPLETED, 1.0, 2.0)
    assert session.station.latest("plate_c") is not None
    (entry,) = session.archive.commands()
    assert (entry.state, [s.stage for s in entry.stages], entry.sent_s) == ("completed", [1, 7], EPOCH_S + 1.0)


def test_rejected_command_says_why(session: Session) -> None:
    record = session.station.send("mode", (0x55,), 1.0)
    session.exchange(2.0)
    rejected = session.station.command(record.request_id)
    assert rejected.state is CommandState.REJECTED
    assert "SAFE -> COMPUTE is not legal" in rejected.text
    assert session.archive.commands()[0].stages[0].text == rejected.text


def test_ping_is_answered(session: Session) -> None:
    session.station.send("ping", (), 0.0)
    session.exchange(1.0)
    assert [type(r) for r in session.told].count(PongReport) == 1


def test_bad_verb_and_bad_argument_send_nothing(session: Session) -> None:
    with pytest.raises(LinkError, match="no telecommand 'dance'"):
        session.station.send("dance", (), 0.0)
    with pytest.raises(LinkError, match="structure = 300"):
        session.station.send("hk.report", (300,), 0.0)
    assert session.wire.sent == b""
    assert session.archive.commands() == []


def test_command_times_out_and_a_late_answer_still_counts(session: Session) -> None:
    session.satellite.mute = True
    record = session.station.send("ping", (), 0.0, timeout_s=10.0)
    uplink = session.wire.sent
    session.exchange(9.9)
    assert session.station.command(record.request_id).state is CommandState.SENT
    session.exchange(10.0)
    silent = session.station.command(record.request_id)
    assert (silent.state, silent.text) == (CommandState.NO_ANSWER, "no acceptance within 10 s")
    assert session.archive.commands()[0].state == "no answer"
    session.satellite.mute = False
    session.wire.sent = uplink
    session.exchange(20.0)
    assert session.station.command(record.request_id).state is CommandState.COMPLETED
    assert session.archive.commands()[0].state == "completed"


def test_lost_completion_times_out_after_acceptance(session: Session) -> None:
    record = session.station.send("ping", (), 0.0, timeout_s=10.0)
    session.satellite.reporter.verification(record.request_id, 1, 0, "", EPOCH_S)
    session.wire.sent = b""
    session.exchange(5.0)
    session.exchange(14.9)
    assert session.station.command(record.request_id).state is CommandState.ACCEPTED
    session.exchange(15.0)
    assert session.station.command(record.request_id).text == "no completion within 10 s"


def test_lost_acceptance_does_not_hide_completion(session: Session) -> None:
    record = session.station.send("ping", (), 0.0)
    session.satellite.reporter.verification(record.request_id, 7, 0, "", EPOCH_S)
    session.wire.sent = b""
    session.exchange(1.0)
    assert session.states() == [CommandState.SENT, CommandState.COMPLETED]


def test_repeated_reports_change_nothing_and_are_archived(session: Session) -> None:
    record = session.station.send("ping", (), 0.0)
    session.exchange(1.0)
    for stage in (1, 7, 7, 2, 8):
        session.satellite.reporter.verification(record.request_id, stage, 0, "", EPOCH_S)
    session.exchange(2.0)
    assert session.states() == [CommandState.SENT, CommandState.ACCEPTED, CommandState.COMPLETED]
    assert session.station.repeated_verifications == 5
    assert len(session.archive.commands()[0].stages) == 7


def test_report_on_another_stations_command_is_kept_apart(session: Session) -> None:
    session.satellite.reporter.verification(0x1864FFFF, 1, 0, "", EPOCH_S)
    session.exchange(1.0)
    assert session.station.foreign_verifications == 1
    assert session.states() == []


def test_answer_that_comes_in_the_next_session_finds_its_command(tmp_path: Path) -> None:
    first = Session(tmp_path / "a.sqlite")
    record = first.station.send("ping", (), 100.0)
    first.archive.close()
    second = Session(tmp_path / "a.sqlite")
    second.satellite.reporter.verification(record.request_id, 1, 0, "", EPOCH_S)
    second.satellite.reporter.verification(record.request_id, 7, 0, "", EPOCH_S)
    second.exchange(500.0)
    (entry,) = second.archive.commands()
    assert (entry.state, [s.stage for s in entry.stages]) == ("completed", [1, 7])
    second.archive.close()


def test_request_ids_do_not_repeat_after_a_restart(tmp_path: Path) -> None:
    request_ids = []
    for _ in range(3):
        session = Session(tmp_path / "a.sqlite")
        request_ids += [session.station.send("ping", (), 0.0).request_id for _ in range(2)]
        session.archive.close()
    assert [request_id & 0x3FFF for request_id in request_ids] == [0, 1, 2, 3, 4, 5]


def test_line_that_does_not_take_the_command(session: Session) -> None:
    session.wire.broken = True
    assert session.station.send("ping", (), 0.0).state is CommandState.NOT_SENT
    session.station.poll(1.0)
    assert session.archive.commands()[0].state == "not sent"
    assert session.states() == [CommandState.SENT, CommandState.NOT_SENT]


def test_limits_follow_what_the_satellite_reports(session: Session) -> None:
    assert session.station.limit("die_max_c") == parameters.BY_NAME["die_max_c"].default
    session.satellite.reporter.parameter(3, 75.5, EPOCH_S)
    session.exchange(1.0)
    assert session.station.limit("die_max_c") == 75.5
    assert [r.value for r in session.told if isinstance(r, ParameterReport)] == [75.5]
    session.station.send("param.set", ("die_max_c", 70.0), 2.0)
    session.exchange(3.0)
    assert session.station.limit("die_max_c") == 70.0
    later = Station(Wire(), session.archive, scid=SCID, apid=APID, epoch_s=EPOCH_S)
    assert later.limit("die_max_c") == 70.0


def send_numbered(session: Session, count: int) -> list[bytes]:
    """Have one structure reported `count` times, value = number; return its CADUs."""
    cadus = []
    for i in range(count):
        session.satellite.set(plate_c=float(i))
        session.satellite.reporter.housekeeping(2, session.satellite.pool, EPOCH_S + i)
        cadus.append(session.satellite.downlink())
    return cadus


def received_numbers(session: Session) -> list[float]:
    return [value for _, value in session.archive.samples("plate_c") if value is not None]


def test_lost_frames_are_counted_and_noted(session: Session) -> None:
    cadus = send_numbered(session, 10)
    session.wire.waiting = b"".join(cadus[:3] + cadus[5:])
    session.station.poll(1.0)
    assert received_numbers(session) == [0, 1, 2, 5, 6, 7, 8, 9]
    assert session.station.lost_frames == 2
    assert {(gap.source, gap.lost) for gap in session.archive.gaps()} == {
        ("TM frames", 2), (f"APID {APID} service 3,25", 2)}


def test_satellite_that_restarted_is_no_gap_of_thousands(session: Session) -> None:
    for _ in range(3):
        session.satellite.reporter.housekeeping(2, session.satellite.pool, EPOCH_S)
    session.exchange(1.0)
    session.satellite = TinySatellite()
    session.satellite.reporter.housekeeping(2, session.satellite.pool, EPOCH_S)
    session.exchange(2.0)
    assert (f"APID {APID} service 3,25", None) in {(gap.source, gap.lost) for gap in session.archive.gaps()}


def test_garbage_around_and_between_frames_costs_no_frame(session: Session) -> None:
    chance = random.Random(7)
    session.wire.waiting = b"".join(
        chance.randbytes(chance.randrange(300)) + cadu for cadu in send_numbered(session, 20)) + bytes(300)
    while session.wire.waiting:  # arrives in pieces of odd sizes
        at = chance.randrange(1, 500)
        rest, session.wire.waiting = session.wire.waiting[at:], session.wire.waiting[:at]
        session.station.poll(1.0)
        session.wire.waiting = rest
    assert received_numbers(session) == list(range(20))
    assert session.station.skipped_octets > 0


def test_bit_errors_cost_only_the_frames_they_hit(session: Session) -> None:
    cadus = [bytearray(cadu) for cadu in send_numbered(session, 30)]
    for i in (4, 11, 12):
        cadus[i][40] ^= 0x10
    session.wire.waiting = b"".join(cadus)
    session.station.poll(1.0)
    assert received_numbers(session) == [i for i in range(30) if i not in {4, 11, 12}]
    assert session.station.bad_frames == 3


def frame_of(*packets: bytes) -> bytes:
    framer = TmFramer(SCID, {0: 1 << 16})
    for packet in packets:
        framer.submit(0, packet)
    codec = FrameCodec(framer.frame_octets)
    return b"".join(codec.encode(frame[:-2]) for frame in framer.frames(1 << 16))


@pytest.mark.parametrize(("service", "subservice", "data"), [
    (3, 25, b"\xfe"), (3, 25, b""), (3, 25, b"\x01\x02"), (5, 1, b"\xff\xff"), (5, 4, b"\x00\x10"),
    (1, 1, b"\x00"), (1, 4, b"\x00\x00\x00\x00"), (1, 2, b"\x00\x00\x00\x00\x00\x01\x09x"),
    (20, 2, b"\x00"), (20, 2, b"\xff\xff" + bytes(8)), (99, 1, b"?"),
])
def test_packet_that_the_dictionary_does_not_know_is_kept_raw(
        session: Session, service: int, subservice: int, data: bytes) -> None:
    packet = pack_tm(Telemetry(APID, 5, service, subservice, 0, 0, EPOCH_S, data))
    session.wire.waiting = frame_of(packet)
    session.station.poll(1.0)
    assert session.station.undecoded_packets == 1
    assert [(p.service, p.subservice, p.seq, p.octets) for p in session.archive.packets()] == [
        (service, subservice, 5, packet)]
    assert session.told == []


def test_packet_without_a_valid_header_is_kept_raw(session: Session) -> None:
    packet = bytearray(pack_tm(Telemetry(APID, 5, 17, 2, 0, 0, EPOCH_S, b"")))
    packet[-1] ^= 1
    session.wire.waiting = frame_of(bytes(packet), b"\x08\x65\xc0\x01\x00\x00\xaa")
    session.station.poll(1.0)
    assert session.station.bad_packets == 2
    assert [(p.apid, p.seq, p.service, p.obt_s) for p in session.archive.packets()] == [
        (APID, 5, None, None), (101, 1, None, None)]


def test_other_application_is_not_taken_for_ours(session: Session) -> None:
    session.wire.waiting = frame_of(pack_tm(Telemetry(APID + 1, 0, 17, 2, 0, 0, EPOCH_S, b"")))
    session.station.poll(1.0)
    assert session.station.undecoded_packets == 1
    assert session.told == []


_PACKETS = st.builds(
    Telemetry, st.just(APID), st.integers(0, 0x3FFF), st.sampled_from([1, 3, 5, 17, 20, 200]),
    st.sampled_from([1, 2, 3, 4, 7, 8, 25]), st.integers(0, 0xFFFF), st.just(0), st.floats(0.0, 4e9),
    st.binary(max_size=80)).map(pack_tm).map(frame_of)
_CHUNKS = st.lists(st.one_of(st.binary(max_size=600), _PACKETS, st.binary(max_size=60).map(
    lambda octets: frame_of(octets) if octets else b"")), max_size=6)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chunks=_CHUNKS)
def test_whatever_arrives_poll_never_raises(session: Session, chunks: list[bytes]) -> None:
    for chunk in chunks:
        session.wire.waiting = chunk
        session.station.poll(0.0)
    assert session.archive.pending == 0


def test_listeners_hear_only_what_is_in_the_archive(tmp_path: Path) -> None:
    session = Session(tmp_path / "a.sqlite", commit_s=5.0)
    session.satellite.reporter.housekeeping(2, session.satellite.pool, EPOCH_S)
    session.exchange(1.0)
    assert session.told == []
    assert session.station.latest("plate_c") is not None
    session.exchange(6.0)
    assert len(session.told) == 1
    session.archive.close()


def test_full_disk_is_trouble_that_passes(session: Session) -> None:
    connection = session.archive._connection
    connection.execute("PRAGMA max_page_count = 1")  # SQLite takes the present size: nothing may be added
    for i in range(300):
        session.satellite.reporter.housekeeping(2, session.satellite.pool, EPOCH_S + i)
    session.exchange(1.0)
    assert "full" in session.station.archive_trouble
    assert session.told == []
    with pytest.raises(StoreError, match="full"):
        session.station.send("job.submit", (1, "x" * 48, 10.0, 1.0, 1.0, 100.0, 0), 1.5)
    assert session.wire.sent == b""
    connection.execute("PRAGMA max_page_count = 1000000")
    session.exchange(2.5)
    assert session.station.archive_trouble == ""
    assert len(session.told) == 300
    assert len(session.archive.samples("plate_c")) == 300


def test_same_octets_give_the_same_archive(tmp_path: Path) -> None:
    """What virtual time needs: nothing but what is passed in reaches the file."""
    dumps = []
    for name in ("a", "b"):
        session = Session(tmp_path / name)
        for step in range(20):
            session.satellite.reporter.housekeeping(1 + step % 3, session.satellite.pool, EPOCH_S + step)
            if step % 5 == 0:
                session.station.send("ping", (), float(step))
            session.exchange(step + 0.5)
        dumps.append("\n".join(session.archive._connection.iterdump()))
        session.archive.close()
    assert dumps[0] == dumps[1]

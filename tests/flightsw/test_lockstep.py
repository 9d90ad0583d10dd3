"""Lockstep messages and the board's end: every message comes back, a repeat never runs the loop twice."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.__main__ import main
from flightsw.board.rig import Kind, Pace, decode_frame, encode_frame, encode_hello
from flightsw.dictionary.sensors import SENSORS
from flightsw.errors import LinkError
from flightsw.guardian import GuardianConfig, InProcessGuardian
from flightsw.jobs.base import Placement
from flightsw.lockstep import (
    Decided,
    LockstepBoard,
    Placed,
    Tick,
    Tock,
    decode_tick,
    decode_tock,
    encode_tick,
    encode_tock,
)
from flightsw.state import (
    Decision,
    Event,
    JobProgress,
    JobSpec,
    JobState,
    JobTransition,
    Mode,
    NodeCap,
    NodeCommand,
    Pause,
    Plan,
    RawReading,
)

ROOT = Path(__file__).resolve().parents[2]
SPEC = JobSpec(7, "a job", 100.0, 0.9, 12.5, 3.0, 4000.0, 60.0, Pause.CHECKPOINT, "manifest")
READINGS = tuple(RawReading(0.1 * i, 99.0) if i % 3 else None for i in range(len(SENSORS)))
TICK = Tick(5, 100.0, 1.0, 4096, READINGS, b"\0up\0", (SPEC,), (JobProgress(7, 3.5, False, False, ""),))
PLAN = Plan(0.0, (60.0,), (50.0,), (2.0,), 0.8, 100.0, 10.0, "", False)


def payload_of(frame: bytes) -> bytes:
    return decode_frame(frame[:-1])[1]


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1e6), st.binary(max_size=200),
       st.lists(st.one_of(st.none(), st.builds(RawReading, st.one_of(st.none(), st.floats(allow_nan=False)),
                                               st.floats(-1e6, 1e6))), min_size=len(SENSORS), max_size=len(SENSORS)))
def test_a_tick_comes_back_bit_for_bit(sequence, t_s, heard, readings):
    sent = TICK._replace(sequence=sequence, t_s=t_s, heard=heard, readings=tuple(readings))
    assert decode_tick(payload_of(encode_tick(sent))) == sent


def test_a_nan_and_a_silent_sensor_stay_what_they_are():
    readings = (RawReading(math.nan, 1.0), RawReading(None, -math.inf), None, *READINGS[3:])
    back = decode_tick(payload_of(encode_tick(TICK._replace(readings=readings)))).readings
    assert math.isnan(back[0].value)
    assert back[1:3] == (RawReading(None, -math.inf), None)


@pytest.mark.parametrize("tock", [
    Tock(1, 101.0, 0, 0, False, is_ahead_new=False),
    Tock(2, 101.0, 1, 3, True, 20.0, (NodeCap(25.4, 0.7, 0), NodeCap(0.5, 0.0, 0)), is_ahead_new=False),
    Tock(3, 101.0, 0, 0, True, 20.0, (NodeCap(25.4, 0.7, 0),), (Placed(7, 0.7),), (6, 8), b"\0down",
         Decided(0xFFFFFFFF, Mode.COMPUTE, 61.25, (NodeCommand(4, 25.4, 7),),
                 (JobTransition(7, JobState.QUEUED, "why", 0.0, SPEC),), (Event("job_finished", (7, 1.5)),), "HEAT")),
])
def test_a_tock_comes_back(tock):
    assert decode_tock(payload_of(encode_tock(tock))) == tock


@given(st.sampled_from(["tick", "tock"]), st.data())
def test_damage_that_a_frame_lets_through_is_still_refused(which, data):
    payload = bytearray(payload_of(encode_tick(TICK) if which == "tick" else encode_tock(Tock(1, 2.0, 0, 0, False))))
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(LinkError, match="does not close"):
        (decode_tick if which == "tick" else decode_tock)(bytes(payload))


@given(st.binary(max_size=400))
def test_any_payload_is_decoded_or_refused(payload):
    for decode in (decode_tick, decode_tock):
        with pytest.raises(LinkError):
            decode(payload)


class Port:
    """What the plant sent, and what the board answered."""

    def __init__(self) -> None:
        self.incoming, self.sent = b"", []

    def read(self):
        octets, self.incoming = self.incoming, b""
        return octets

    def write(self, octets):
        self.sent.append(octets)
        return len(octets)


class Loop:
    """A supervisor's loop that uses every door once a tick."""

    def __init__(self, board: LockstepBoard) -> None:
        self.board, self.times, self.seen = board, [], []

    def __call__(self, now_s):
        board = self.board
        self.times.append(now_s)
        self.seen.append((board.read(), board.read_sensors(now_s), board.take(now_s, {}), board.poll(now_s)))
        board.end(3)
        board.place(now_s, [Placement(SPEC, 0.5)])
        board.renew(now_s, 20.0, [NodeCap(15.0, 0.5, 0)])
        board.set_transmitter(True)
        written = board.write(b"x" * 5000)
        decision = Decision(now_s, Mode.COMPUTE, (NodeCommand(3, 15.0, 7),), PLAN, (), (), (), (), "")
        return decision, 0, written


def board_and_loop():
    port = Port()
    board = LockstepBoard(port, InProcessGuardian(GuardianConfig((0.5,), (30.0,), 60.0)), 1)
    return port, board, Loop(board)


def test_a_tick_runs_the_loop_and_its_answer_carries_what_was_done():
    port, board, loop = board_and_loop()
    port.incoming = encode_tick(TICK)
    board.serve(loop)
    assert loop.seen == [(b"\0up\0", READINGS, (SPEC,), TICK.progress)]
    tock = decode_tock(payload_of(port.sent[-1]))
    assert tock[:2] == (5, 101.0)
    assert (tock.transmitting, tock.lease_s, tock.caps) == (True, 20.0, (NodeCap(15.0, 0.5, 0),))
    assert (tock.placed, tock.ended) == ((Placed(7, 0.5),), (3,))
    assert tock.said == b"x" * 4096  # the room that the line had
    assert tock.decided is not None
    assert tock.decided.budget_w == 50.0


def test_a_repeated_tick_gets_the_same_answer_and_no_second_run():
    port, board, loop = board_and_loop()
    port.incoming = encode_tick(TICK) * 3
    board.serve(loop)
    assert loop.times == [100.0]
    assert len(set(port.sent)) == 1
    assert (len(port.sent), board.repeats) == (3, 2)


def test_time_never_goes_back():
    port, board, loop = board_and_loop()
    port.incoming = encode_tick(TICK) + encode_tick(TICK._replace(sequence=6, t_s=99.0))
    board.serve(loop)
    assert loop.times == [100.0]
    assert board.bad_frames == 1


def test_a_damaged_frame_is_asked_for_again():
    port, board, loop = board_and_loop()
    frame = bytearray(encode_tick(TICK))
    frame[40] ^= 1
    port.incoming = bytes(frame)
    board.serve(loop)
    assert loop.times == []
    assert [decode_frame(sent[:-1])[0] for sent in port.sent] == [Kind.NAK]


def test_an_end_in_real_time_is_refused():
    port, board, loop = board_and_loop()
    port.incoming = encode_hello(Pace.REAL_TIME)
    board.serve(loop)
    assert "lockstep" in board.refused
    assert port.sent == []
    port.incoming = encode_hello(Pace.LOCKSTEP) + encode_frame(0x1F, b"later")
    board.serve(loop)
    assert board.refused == ""
    assert len(port.sent) == 1


def test_a_forecast_is_sent_once_and_forgotten_with_the_state():
    from flightsw.state import Ahead, Outlook
    curve, outlook = (0.5,) * 2, Outlook((1.0,), (math.inf,))
    ahead = Ahead(0.0, 60.0, curve, curve, curve, curve, outlook, outlook, outlook, outlook)
    known, unknown = Decided(1, Mode.SAFE, 0.0, (), ahead=ahead), Decided(1, Mode.SAFE, 0.0, ())
    for tock in (Tock(1, 2.0, 0, 0, False, decided=known), Tock(1, 2.0, 0, 0, False, decided=unknown)):
        assert decode_tock(payload_of(encode_tock(tock))) == tock
    unchanged = Tock(1, 2.0, 0, 0, False, decided=known, is_ahead_new=False)
    assert decode_tock(payload_of(encode_tock(unchanged))) == unchanged._replace(decided=unknown)


@pytest.mark.parametrize(("flight", "words", "complaint"), [
    ("true", ["--rig-port", "/dev/null"], "flight = true: a satellite that flies takes no readings from a rig"),
    ("true", ["--rig-port", "/dev/null", "--lockstep"], "flight = true: a satellite that flies takes no readings"),
    ("false", ["--lockstep"], "--lockstep: needs --rig-port"),
    ("false", [], "--port: is missing"),
])
def test_a_satellite_that_flies_takes_no_rig_and_lockstep_needs_one(tmp_path, capsys, flight, words, complaint):
    mission = tmp_path / "mission.toml"
    mission.write_text(f"flight = {flight}\n" + (ROOT / "missions" / "iss_like.toml").read_text("utf-8"))
    assert main(["run", "--mission", str(mission), "--state", str(tmp_path), *words]) == 2
    assert complaint in capsys.readouterr().err

"""COP-1: frames in sequence over a line that loses, and through lockout, wait and the ground's restart."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.link.cop1 import UNLOCK, WINDOW, Farm, Fop, FopState, set_vr
from flightsw.link.frames import Clcw
from flightsw.link.tc_frames import TcKind


class Line:
    """FOP-1 and FARM-1 with a line between them that loses what `loses` says."""

    def __init__(self, seed: int = 0, loss_frac: float = 0.0) -> None:
        self.farm, self.fop = Farm(), Fop(self._transmit, timeout_s=3.0)
        self.has_room = True
        self.arrived: list[bytes] = []
        self.sent: list[tuple[TcKind, int]] = []
        self.now_s = 0.0
        self._random = random.Random(seed)
        self._loss_frac = loss_frac
        self._up: list[tuple[TcKind, int, bytes]] = []

    def _transmit(self, kind: TcKind, sequence: int, data: bytes) -> None:
        self.sent.append((kind, sequence))
        if self._random.random() >= self._loss_frac:
            self._up.append((kind, sequence, data))

    def turn(self, turns: int = 1) -> None:
        for _ in range(turns):
            self.now_s += 1.0
            for kind, sequence, data in self._up:
                if kind is TcKind.BC:
                    assert self.farm.control(data)
                elif self.farm.take(sequence, has_room=self.has_room):
                    self.arrived.append(data)
            self._up.clear()
            if self._random.random() >= self._loss_frac:
                self.fop.hear(Clcw.unpack(self.farm.clcw().pack()), self.now_s)
            self.fop.tick(self.now_s)


def packets(count: int) -> list[bytes]:
    return [number.to_bytes(2, "big") for number in range(count)]


def test_a_clean_line_takes_all_in_order_once() -> None:
    line = Line()
    for packet in packets(600):  # more than twice round the number of eight bits
        line.fop.send(packet, line.now_s)
    line.turn(60)
    assert line.arrived == packets(600)
    assert line.fop.is_idle
    assert line.fop.retransmitted == 0
    assert line.farm.expected == 600 % 256


@pytest.mark.parametrize("seed", range(20))
def test_a_line_that_loses_a_third_still_takes_all_in_order_once(seed: int) -> None:
    line = Line(seed, 0.3)
    for packet in packets(60):
        line.fop.send(packet, line.now_s)
    for _ in range(400):
        line.turn()
        if line.fop.alert:  # enough transmissions were lost in a row; the user begins again with what is missing
            for packet in packets(60)[len(line.arrived):]:
                line.fop.send(packet, line.now_s)
    assert line.arrived[:1] == packets(1)
    assert list(dict.fromkeys(line.arrived)) == packets(60)
    assert line.fop.retransmitted > 0


def test_a_satellite_that_speaks_only_when_there_is_news_is_not_waited_for() -> None:
    line = Line()
    hear, said = line.fop.hear, line.farm.clcw()

    def news_only(clcw: Clcw, now_s: float) -> None:
        nonlocal said
        if clcw != said:
            said = clcw
            hear(clcw, now_s)

    line.fop.hear = news_only  # type: ignore[method-assign]
    for number in range(3):
        line.fop.send(bytes((number,)), line.now_s)
        line.turn(2)
    assert line.arrived == [b"\0", b"\1", b"\2"]
    assert line.fop.is_idle
    line.fop.start(line.now_s)
    line.fop.send(b"x", line.now_s)
    line.turn(2)
    assert line.arrived[3:] == [b"x"]


def test_a_locked_receiver_is_unlocked_first() -> None:
    line = Line()
    assert not line.farm.take(100, has_room=True)
    assert line.farm.lockout
    line.farm.take(0, has_room=True)
    assert line.farm.expected == 0  # nothing is taken while it is locked
    line.fop.send(b"x", line.now_s)
    line.turn(5)
    assert line.arrived == [b"x"]
    assert (TcKind.BC, 0) in line.sent


def test_a_lockout_in_the_middle_ends_the_service() -> None:
    line = Line()
    line.fop.send(b"x", line.now_s)
    line.turn(3)
    line.farm.lockout = True
    line.turn()
    assert line.fop.state is FopState.INITIAL
    assert "locked" in line.fop.alert


def test_a_full_receiver_makes_the_ground_wait() -> None:
    line = Line()
    line.has_room = False
    line.fop.send(b"x", line.now_s)
    line.fop.send(b"y", line.now_s)
    line.turn(3)
    assert line.fop.state is FopState.WAIT
    sent = len(line.sent)
    line.turn(1)
    assert len(line.sent) == sent
    line.has_room = True
    line.farm.release()
    line.turn(6)
    assert line.arrived == [b"x", b"y"]


def test_silence_is_given_up() -> None:
    line = Line(loss_frac=1.0)
    line.fop.send(b"x", line.now_s)
    line.turn(60)
    assert line.fop.alert == "no acknowledgement after 5 transmissions"
    assert line.fop.is_idle


def test_an_acknowledgement_of_what_was_never_sent_ends_the_service() -> None:
    line = Line()
    line.fop.send(b"x", line.now_s)
    line.turn(2)
    line.fop.hear(Clcw(report_value=77), line.now_s)
    assert "expects frame 77, never sent" in line.fop.alert


@given(st.lists(st.one_of(st.integers(0, 255), st.binary(max_size=4)), max_size=60), st.booleans())
def test_farm_takes_only_what_it_expects(steps: list[int | bytes], has_room: bool) -> None:
    """Whatever comes: V(R) moves by one with an accepted frame, by a command that sets it, and by nothing else."""
    farm = Farm()
    for step in steps:
        before, locked = farm.expected, farm.lockout
        if isinstance(step, bytes):
            known = farm.control(step)
            assert known == (step == UNLOCK or (len(step) == 3 and step[:2] == b"\x82\x00"))
            assert farm.expected == (step[2] if known and len(step) == 3 and not locked else before)
            continue
        taken = farm.take(step, has_room=has_room)
        assert taken == (step == before and has_room and not locked)
        assert farm.expected == ((before + 1) & 0xFF if taken else before)
        ahead = (step - before) & 0xFF
        assert farm.lockout == (locked or WINDOW // 2 <= ahead < 256 - WINDOW // 2)


def test_control_commands_are_those_of_the_standard() -> None:
    assert UNLOCK == b"\x00"
    assert set_vr(0x1FE) == b"\x82\x00\xfe"
    farm = Farm()
    assert farm.control(set_vr(9))
    assert (farm.expected, farm.b_count) == (9, 1)
    farm.take(100, has_room=True)
    assert farm.control(set_vr(3))
    assert (farm.expected, farm.lockout) == (9, True)  # locked: only unlocking helps
    assert farm.control(UNLOCK)
    assert not farm.lockout

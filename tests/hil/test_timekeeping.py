"""Lateness and clocks: what is reported is what was put in."""

import numpy as np
import pytest

from flightsw.board.rig import Actuators, Kind, RigBoard, encode_actuators, encode_frame
from hil.rig_link import PlantLink
from hil.timekeeping import ClockSync, Echo, Punctuality


def test_lateness_is_this_machines_and_a_whole_period_is_an_overrun():
    ticks = Punctuality(1.0, rate=10.0)
    for late_s in [0.01] * 997 + [0.5, 1.0, 2.5]:
        ticks.add(late_s)
    summary = ticks.summary()
    assert (summary["ticks"], summary["overruns"], summary["max_ms"]) == (1000, 2, 250.0)
    assert summary["p50_ms"] == pytest.approx(1.0)
    assert 50.0 < summary["p99.9_ms"] <= 250.0
    assert ticks.worst_s == 0.25


def test_a_loop_that_drifts_is_told_from_one_that_is_late_now_and_then():
    steady, drifting = Punctuality(1.0, 1.0), Punctuality(1.0, 1.0)
    for i in range(1000):
        steady.add(0.2 if i % 100 == 0 else 0.001)
        drifting.add(1e-4 * i)
    assert abs(steady.summary()["drift_ms"]) < 1e-9
    assert drifting.summary()["drift_ms"] == pytest.approx(90.0, rel=0.01)
    assert Punctuality(1.0, 1.0).summary() == {"ticks": 0}


@pytest.mark.parametrize(("offset_s", "ppm", "rate"), [(0.0, 0.0, 1.0), (12.5, 30.0, 1.0), (-3.0, -80.0, 10.0)])
def test_offset_and_drift_of_the_other_clock_are_found_through_a_jittery_line(offset_s, ppm, rate):
    clock, random = ClockSync(rate), np.random.default_rng(1)
    for sent_s in np.arange(0.0, 600.0):
        there_s, back_s = 1e-3 + random.exponential(1e-3, 2)
        board_s = (sent_s + there_s) * (1.0 + ppm * 1e-6) + offset_s
        clock.add(Echo(sent_s * rate, (sent_s + there_s + back_s) * rate, board_s * rate))
    summary = clock.summary()
    assert summary["drift_ppm"] == pytest.approx(ppm, abs=1.0)
    assert summary["offset_s"] == pytest.approx(offset_s + 600.0 * ppm * 1e-6, abs=2e-3)
    assert summary["round_trip_p50_ms"] == pytest.approx(4.0, rel=0.3)


def test_too_few_echoes_say_nothing():
    clock = ClockSync(1.0)
    clock.add(Echo(0.0, 0.1, 5.0))
    assert clock.summary() == {"echoes": 1}


class Ends:
    """A line that delivers at once; each end writes into the other's `waiting`."""

    def __init__(self) -> None:
        self.waiting, self.other = bytearray(), self

    def read(self):
        octets = bytes(self.waiting)
        self.waiting.clear()
        return octets

    def write(self, octets):
        self.other.waiting += octets
        return len(octets)


def pair():
    a, b = Ends(), Ends()
    a.other, b.other = b, a
    return RigBoard(a), PlantLink(b), a


def test_a_board_answers_sync_with_its_clock():
    board, plant, _ = pair()
    for second in range(10):
        plant.sync(float(second))
        board.serve(100.0 + second)
        plant.poll(second + 0.5)
    assert plant.clock.summary()["echoes"] == 10
    assert plant.clock.summary()["offset_s"] == pytest.approx(99.75)
    assert plant.bad_frames == 0


def test_overruns_are_counted_over_a_restart_and_bad_echoes_are_refused():
    _, plant, board_end = pair()
    for overruns in (0, 2, 5, 1, 1, 4):  # the fourth is a new start's
        board_end.write(encode_actuators(Actuators(1, 10.0, False, (), (), 0.25, overruns)))
    board_end.write(encode_frame(Kind.ECHO, b"short"))
    plant.poll(1.0)
    assert plant.overruns == 9
    assert plant.ticks.worst_s == 0.25
    assert plant.bad_messages == 1

"""Overdraw: a node that draws what no job draws is told, switched off once, and told again when it is well."""

from __future__ import annotations

import pytest
from reference_satellite import mission

from flightsw.fdir.monitors import PERSISTENCE
from flightsw.fdir.overdraw import AGAIN_S, JOB_REACH, OFF_S, Overdraw
from flightsw.state import Event

M = mission()
OFF, IDLE, LOW, *_, HIGH = M.compute.modes
NODES = M.compute.nodes


class Watched:
    """The monitor and a clock that ticks once a second; node 1 is the one that something happens to."""

    def __init__(self) -> None:
        self.overdraw = Overdraw(M)
        self.now_s = 0.0

    def tick(self, watts: float | None, cap_w: float, ticks: int = 1) -> list[Event]:
        found: list[Event] = []
        for _ in range(ticks):
            self.now_s += 1.0
            draws_w, caps_w = [OFF.draw_w] * NODES, [OFF.cap_w] * NODES
            draws_w[1], caps_w[1] = watts, cap_w
            found += self.overdraw.judge(self.now_s, draws_w, caps_w)
        return found


def names(events: list[Event]) -> list[str]:
    return [event.name for event in events]


@pytest.mark.parametrize("mode", M.compute.modes)
def test_what_a_job_can_draw_is_never_told(mode) -> None:
    reach = JOB_REACH if mode.rate else 1.0
    assert Watched().tick(mode.draw_w * reach, mode.cap_w, 300) == []


def test_a_node_that_draws_at_its_floor_is_told_once_and_told_well() -> None:
    watched = Watched()
    assert watched.tick(0.4, OFF.cap_w, 20) == []
    told = watched.tick(4.0, OFF.cap_w, 60)
    assert names(told) == ["node_overdraws"]
    assert told[0].args[:3] == (1, 4.0, OFF.cap_w)
    assert watched.overdraw.off == ()  # it is off already
    assert names(watched.tick(0.4, OFF.cap_w, PERSISTENCE)) == ["node_draw_back"]


def test_a_node_at_work_is_switched_off_for_a_while() -> None:
    watched = Watched()
    watched.tick(LOW.draw_w, LOW.cap_w, 20)
    assert names(watched.tick(LOW.draw_w + 8.0, LOW.cap_w, PERSISTENCE)) == ["node_overdraws", "node_cycled"]
    assert watched.overdraw.off == (1,)
    watched.tick(OFF.draw_w, OFF.cap_w, int(OFF_S) - 1)
    assert watched.overdraw.off == (1,)
    watched.tick(OFF.draw_w, OFF.cap_w)
    assert watched.overdraw.off == ()


def test_what_comes_back_is_told_and_left_on_for_an_hour() -> None:
    watched = Watched()
    watched.tick(LOW.draw_w + 8.0, LOW.cap_w, 20)
    assert names(watched.tick(OFF.draw_w, OFF.cap_w, int(OFF_S))) == ["node_draw_back"]
    assert names(watched.tick(LOW.draw_w + 8.0, LOW.cap_w, 600)) == ["node_overdraws"]
    assert watched.overdraw.off == ()
    assert names(watched.tick(LOW.draw_w + 8.0, LOW.cap_w, int(AGAIN_S))) == ["node_cycled"]


@pytest.mark.parametrize("watts", [HIGH.draw_w, None])
def test_a_reading_of_the_cap_before_or_none_says_nothing(watts) -> None:
    watched = Watched()
    watched.tick(HIGH.draw_w, HIGH.cap_w, 20)
    assert watched.tick(watts, OFF.cap_w, 5) == []
    assert watched.tick(OFF.draw_w, OFF.cap_w, 20) == []

"""Plausibility: what is stuck is doubted soon, what only stands still, jitters or is coarse never is."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_satellite import mission

from flightsw.dictionary.events import BY_NAME
from flightsw.dictionary.sensors import INDEX, SENSORS
from flightsw.fdir.plausibility import CHANGES_BACK, GAUGE_STEP_FRAC, HEAT_STEP_K, Plausibility
from flightsw.state import Event, Quality, Readings

M = mission()
FULL_J = M.battery.capacity_wh * 3600.0
DIE_K_W = 1.0 / M.thermal.die_to_plate_w_k
DIE_S = M.thermal.die_heat_capacity_j_k * DIE_K_W
GAIN = 0.89  # kelvin of the radiator for one of the plate
WATCHED = ("battery_soc_frac", "array_w", "bus_w", "battery_v", "battery_a", "radiator_c", "plate_c",
           *(f"{what.format(i)}" for i in range(4) for what in ("die{}_c", "node{}_w")))  # fmt: skip
SETTLED_S = 800


class Satellite:
    """A satellite that keeps its balances, and the doubts of what its sensors make of it.

    Sensors tremble by a thousandth, or where `steps` are given show their true value to the step, without noise.
    """

    def __init__(self, steps: dict[str, float] | None = None) -> None:
        self.plausibility = Plausibility(M)
        self.steps = steps
        self.now_s = -1.0
        self.charge_frac = 0.9
        self.dies_k = [0.0] * 4
        self.plate_c, self.radiator_c = 20.0, 15.0
        self.events: list[Event] = []
        self.stuck: dict[str, float] = {}
        self.readings = self.tick()

    def tick(self, nodes_w: tuple[float, ...] = (0.4,) * 4, array_w: float = 14.0, *,
             silent: tuple[str, ...] = (), replace: dict[str, float] | None = None) -> Readings:  # fmt: skip
        self.now_s += 1.0
        bus_w = 13.0 + sum(nodes_w)
        pack_w = array_w - bus_w
        self.charge_frac = min(1.0, self.charge_frac + pack_w / FULL_J)
        self.plate_c += (sum(nodes_w) - 6.0 * (self.plate_c - self.radiator_c)) / 900.0
        self.radiator_c += 6.0 * (self.plate_c - self.radiator_c) / 700.0
        self.radiator_c -= 0.745 * (self.radiator_c - 14.0) / 700.0
        self.dies_k = [k + (w * DIE_K_W - k) / DIE_S for k, w in zip(self.dies_k, nodes_w, strict=True)]
        truth = {"sun_frac": 1.0, "array_w": array_w, "battery_v": 15.0, "battery_a": pack_w / 15.0,
                 "battery_soc_frac": self.charge_frac, "bus_w": bus_w, "plate_c": self.plate_c,
                 "radiator_c": self.radiator_c, "bus_c": 15.0, "battery_c": 18.0, "array_c": 40.0,
                 **{f"die{i}_c": self.plate_c + k for i, k in enumerate(self.dies_k)},
                 **{f"node{i}_w": w for i, w in enumerate(nodes_w)}}  # fmt: skip
        if self.steps is None:
            seen = {name: value + 0.001 * (self.now_s % 2.0) for name, value in truth.items()}
        else:
            seen = {name: round(value / self.steps[name]) * self.steps[name] if name in self.steps else value
                    for name, value in truth.items()}
        seen |= self.stuck | (replace or {})
        values = tuple(None if row.name in silent else seen.get(row.name) for row in SENSORS)
        qualities = tuple(int(Quality.GOOD if v is not None else Quality.MISSING) for v in values)
        self.readings, events = self.plausibility.judge(
            Readings(self.now_s, values, qualities, (self.now_s,) * len(SENSORS)))
        self.events.extend(events)
        for event in events:
            row = BY_NAME[event.name]
            assert len(event.args) == len(row.args)
            row.text.format(*event.args)
        return self.readings

    def ticks(self, count: int, *args: Any, **kwargs: Any) -> None:
        for _ in range(count):
            self.tick(*args, **kwargs)

    def stick(self, name: str) -> None:
        value = self.readings.values[INDEX[name]]
        assert value is not None
        self.stuck[name] = value

    def doubted(self) -> set[str]:
        return {SENSORS[i].name for i, q in enumerate(self.readings.qualities) if q == Quality.IMPLAUSIBLE}


def settled(**kwargs: Any) -> Satellite:
    satellite = Satellite(**kwargs)
    satellite.ticks(SETTLED_S)
    assert not satellite.events
    return satellite


# --- each rule -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nodes_w", "array_w", "within_s", "truth_moves"),
    [
        ("battery_soc_frac", (14.0,) * 4, 0.0, 140, GAUGE_STEP_FRAC * 1.4),
        ("battery_soc_frac", (0.4,) * 4, 85.0, 140, GAUGE_STEP_FRAC * 1.4),  # charging
        ("battery_a", (14.0,) * 4, 14.0, 5, 7.0),
        ("array_w", (0.4,) * 4, 90.0, 5, 80.0),
        ("bus_w", (14.0,) * 4, 80.0, 5, 60.0),
        ("die1_c", (0.4, 30.0, 0.4, 0.4), 40.0, 25, 1.4 * HEAT_STEP_K + 3.0),
        ("node1_w", (0.4, 22.0, 0.4, 0.4), 40.0, 45, 22.0),
        ("plate_c", (20.0,) * 4, 90.0, 200, 1.9 * HEAT_STEP_K),
        ("radiator_c", (20.0,) * 4, 90.0, 400, 1.7 * HEAT_STEP_K),
    ],
)
def test_a_stuck_sensor_is_doubted_while_its_truth_has_moved_little(
    name: str, nodes_w: tuple[float, ...], array_w: float, within_s: int, truth_moves: float
) -> None:
    satellite, healthy = settled(), settled()
    satellite.stick(name)
    before = satellite.readings.values[INDEX[name]]
    began_s = satellite.now_s
    while not satellite.events and satellite.now_s < began_s + within_s:
        satellite.tick(nodes_w, array_w)
        healthy.tick(nodes_w, array_w)
    assert satellite.now_s >= began_s + 3  # one sample is no evidence
    assert [event.args[0] for event in satellite.events] == [name]
    assert satellite.doubted() == {name}
    assert satellite.readings.values[INDEX[name]] is None
    now = healthy.readings.values[INDEX[name]]
    assert now is not None
    assert before is not None
    assert abs(now - before) < truth_moves
    assert not healthy.events


def test_a_doubted_sensor_stays_doubted_and_is_told_once() -> None:
    satellite = settled()
    satellite.stick("battery_soc_frac")
    satellite.ticks(2000, (14.0,) * 4, 0.0)
    assert len(satellite.events) == 1
    satellite.ticks(2000, (0.4,) * 4, 14.0)  # even when the truth stands still again
    assert satellite.doubted() == {"battery_soc_frac"}


def test_it_is_believed_again_when_it_has_moved_often_enough() -> None:
    satellite = settled()
    satellite.stick("battery_soc_frac")
    satellite.ticks(300, (14.0,) * 4, 0.0)
    satellite.stuck.clear()
    for _ in range(CHANGES_BACK):
        assert satellite.doubted() == {"battery_soc_frac"}
        satellite.tick((14.0,) * 4, 0.0)
    assert satellite.doubted() == set()
    assert len(satellite.events) == 1


def test_a_doubted_sensor_takes_part_in_no_balance() -> None:
    """A stuck current would count the charge wrongly and bring a gauge into doubt that rightly stands still."""
    satellite = settled()
    satellite.ticks(10, (14.0,) * 4, 14.0)
    satellite.stick("battery_a")
    satellite.stick("battery_soc_frac")  # for the truth does
    satellite.ticks(900)
    assert satellite.doubted() == {"battery_a"}


def test_nothing_is_doubted_for_want_of_samples() -> None:
    """The same value with the same stamp is the same sample: it says nothing of the time since."""
    satellite = settled()
    stamp_s = satellite.now_s
    for _ in range(25):
        readings = satellite.tick((0.4, 30.0, 0.4, 0.4), 40.0)
        i = INDEX["die1_c"]
        values = (*readings.values[:i], 20.4, *readings.values[i + 1:])
        late = Readings(satellite.now_s, values, readings.qualities,
                        tuple(stamp_s if j == i else satellite.now_s for j in range(len(SENSORS))))  # fmt: skip
        satellite.plausibility.judge(late)
    assert "die1_c" not in {event.args[0] for event in satellite.events}


# --- no false alarms -----------------------------------------------------------------------------------


NODES_W = st.tuples(*[st.sampled_from([0.4, 4.5, 9.5, 14.0, 22.0, 30.0])] * 4)
LOADS = st.lists(st.tuples(NODES_W, st.sampled_from([0.0, 14.0, 60.0, 95.0]), st.integers(1, 240)),
                 min_size=1, max_size=12)  # fmt: skip
COARSE = {row.name: 1.0 for row in SENSORS if row.unit in ("degC", "W")} | {
    "battery_soc_frac": 0.01, "battery_v": 0.05, "battery_a": 0.05}


@settings(max_examples=60, deadline=None)
@given(LOADS, st.booleans())
def test_coarse_and_noiseless_sensors_are_never_doubted(loads: list[Any], coarse: bool) -> None:
    """Whole degrees and watts without any noise, under any load: what stands still is no fault."""
    satellite = Satellite(COARSE if coarse else {})
    for nodes_w, array_w, for_s in loads:
        satellite.ticks(for_s, nodes_w, array_w)
    assert not satellite.events


@settings(max_examples=40, deadline=None)
@given(LOADS, st.lists(st.sets(st.sampled_from(WATCHED), max_size=3), min_size=12, max_size=12))
def test_silence_of_some_brings_no_doubt_on_others(loads: list[Any], silences: list[set[str]]) -> None:
    satellite = Satellite(COARSE)
    for (nodes_w, array_w, for_s), silent in zip(loads, silences, strict=False):
        satellite.ticks(for_s, nodes_w, array_w, silent=tuple(silent))
    assert not satellite.events


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(WATCHED), LOADS, st.floats(0.001, 5.0))
def test_a_sensor_that_moves_is_never_doubted_however_wrong(name: str, loads: list[Any], by: float) -> None:
    satellite = Satellite()
    base = satellite.readings.values[INDEX[name]]
    assert base is not None
    for nodes_w, array_w, for_s in loads:
        for _ in range(for_s):
            satellite.tick(nodes_w, array_w, replace={name: base + by * (int(satellite.now_s) % 2)})
    assert name not in {event.args[0] for event in satellite.events}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(WATCHED), LOADS)
def test_only_the_stuck_sensor_is_doubted_and_nothing_else_changes(name: str, loads: list[Any]) -> None:
    satellite = settled()
    satellite.stick(name)
    for nodes_w, array_w, for_s in loads:
        for _ in range(for_s):
            readings = satellite.tick(nodes_w, array_w)
            for row, value, quality in zip(SENSORS, readings.values, readings.qualities, strict=True):
                if quality == Quality.IMPLAUSIBLE:
                    assert row.name == name
                    assert value is None
                elif quality == Quality.GOOD:
                    assert value is not None
    assert {event.args[0] for event in satellite.events} <= {name}


def test_a_plate_that_stands_still_is_not_blamed_for_one_wild_die() -> None:
    satellite = settled()
    satellite.stick("plate_c")  # for the truth does
    for i in range(300):
        satellite.tick(replace={"die1_c": 30.0 + 10.0 * math.sin(0.05 * i)})
    assert not satellite.events


def test_of_several_that_stand_still_each_is_doubted() -> None:
    """Which of them is wrong cannot be told; none is taken for right."""
    satellite = settled()
    for name in ("array_w", "battery_a"):
        satellite.stick(name)
    satellite.ticks(10, (14.0,) * 4, 14.0)
    assert satellite.doubted() == {"array_w", "battery_a"}


def test_readings_pass_through_untouched_while_nothing_is_doubted() -> None:
    plausibility = Plausibility(M)
    readings = Readings(0.0, (None,) * len(SENSORS), (int(Quality.MISSING),) * len(SENSORS),
                        (-math.inf,) * len(SENSORS))  # fmt: skip
    judged, events = plausibility.judge(readings)
    assert judged is readings
    assert events == ()

"""Monitors: persistence, hysteresis, every limit in both directions, and a latch that silence does not open."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_satellite import mission

from flightsw.dictionary.events import BY_NAME
from flightsw.dictionary.sensors import INDEX, SENSORS, fitted_names
from flightsw.fdir.monitors import PERSISTENCE, WARN_WITHIN_FRAC, WARN_WITHIN_K, Monitors, Verdict
from flightsw.state import Quality, Readings

PARAMETERS = mission().parameters
FITTED = fitted_names(4)
CALM = {"sun_frac": 1.0, "array_w": 80.0, "battery_v": 15.0, "battery_a": 1.0, "battery_soc_frac": 0.9, "bus_w": 60.0,
        "plate_c": 20.0, "radiator_c": 10.0, "bus_c": 15.0, "battery_c": 18.0, "array_c": 40.0,
        **{f"die{i}_c": 30.0 for i in range(4)}, **{f"node{i}_w": 10.0 for i in range(4)}}  # fmt: skip

# Every limit of every fitted sensor: its parameter, the direction that is beyond, how near it warns.
LIMITS = [
    (row.name, parameter, sign, WARN_WITHIN_K if row.unit == "degC" else WARN_WITHIN_FRAC)
    for row in SENSORS if row.name in FITTED
    for parameter, sign in ((row.upper, 1.0), (row.lower, -1.0)) if parameter
]  # fmt: skip


class Watched:
    """Monitors and a clock that ticks once a second."""

    def __init__(self) -> None:
        self.monitors = Monitors(FITTED)
        self.now_s = 0.0
        self.sampled = dict.fromkeys(CALM, -math.inf)

    def tick(self, quality: Quality = Quality.MISSING, **values: float | None) -> Verdict:
        self.now_s += 1.0
        seen = CALM | values
        self.sampled |= {name: self.now_s for name, value in seen.items() if value is not None}
        listed = tuple(seen.get(row.name) for row in SENSORS)
        good = tuple(int(Quality.GOOD if v is not None else quality) for v in listed)
        sampled = tuple(self.sampled.get(row.name, -math.inf) for row in SENSORS)
        verdict = self.monitors.check(Readings(self.now_s, listed, good, sampled), PARAMETERS)
        for event in verdict.events:
            row = BY_NAME[event.name]
            assert len(event.args) == len(row.args)
            row.text.format(*event.args)
        return verdict

    def ticks(self, count: int, **values: float | None) -> list[str]:
        return [event.name for _ in range(count) for event in self.tick(**values).events]


def names(verdict: Verdict) -> list[str]:
    return [event.name for event in verdict.events]


def test_the_table_has_every_limit() -> None:
    assert {parameter for _, parameter, _, _ in LIMITS} == {
        "battery_floor_frac", "plate_max_c", "radiator_max_c", "battery_max_c", "battery_min_c", "die_max_c",
    }  # fmt: skip
    assert len(LIMITS) == 9


# --- limits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "parameter", "sign", "warn"), LIMITS)
def test_a_limit_warns_crosses_and_clears(name: str, parameter: str, sign: float, warn: float) -> None:
    limit = PARAMETERS[parameter]
    watched = Watched()
    too_cold = name == "battery_c" and sign < 0.0
    assert watched.tick() == Verdict((), "")
    assert names(watched.tick(**{name: limit - sign * 1.01 * warn})) == []
    assert names(watched.tick(**{name: limit - sign * 0.99 * warn})) == ["limit_warning"]
    assert names(watched.tick(**{name: limit - sign * 0.5 * warn})) == []  # once
    assert watched.tick(**{name: limit}) == Verdict((), "")  # at the limit is not beyond it
    for _ in range(PERSISTENCE - 1):
        assert watched.tick(**{name: limit + sign * 0.1 * warn}) == Verdict((), "")
    verdict = watched.tick(**{name: limit + sign * 0.1 * warn})
    assert names(verdict) == ["limit_crossed"]
    assert verdict.events[0].args == pytest.approx((name, limit + sign * 0.1 * warn, limit))
    assert bool(verdict.shed) is not too_cold  # what is too cold is not helped by shedding
    for value in (limit + sign * 0.1 * warn, limit, limit - sign * 0.29 * warn):
        verdict = watched.tick(**{name: value})
        assert names(verdict) == []
        assert bool(verdict.shed) is not too_cold  # hysteresis
    verdict = watched.tick(**{name: limit - sign * 0.31 * warn})
    assert (names(verdict), verdict.shed) == (["limit_cleared"], "")
    assert watched.ticks(5, **{name: limit - sign * 0.5 * warn}) == []
    assert watched.ticks(5) == []
    assert names(watched.tick(**{name: limit - sign * 0.5 * warn})) == ["limit_warning"]  # it may warn again


@pytest.mark.parametrize(("name", "parameter", "sign", "warn"), LIMITS)
def test_noise_beyond_a_limit_does_not_shed(name: str, parameter: str, sign: float, warn: float) -> None:
    limit = PARAMETERS[parameter]
    watched = Watched()
    for _ in range(20):
        beyond = [watched.tick(**{name: limit + sign * 0.2 * warn}) for _ in range(PERSISTENCE - 1)]
        inside = watched.tick(**{name: limit - sign * 0.2 * warn})
        assert all(not verdict.shed for verdict in (*beyond, inside))
        assert "limit_crossed" not in [e.name for verdict in beyond for e in verdict.events]


@pytest.mark.parametrize("name", [row.name for row in SENSORS if row.name in FITTED and not (row.upper or row.lower)])
def test_a_sensor_without_a_limit_never_sheds(name: str) -> None:
    row = SENSORS[INDEX[name]]
    watched = Watched()
    for value in (row.low, row.high):
        assert all(watched.tick(**{name: value}) == Verdict((), "") for _ in range(5))


def test_a_changed_parameter_is_a_changed_limit() -> None:
    watched = Watched()
    values = tuple(CALM.get(row.name) for row in SENSORS)
    tighter = PARAMETERS | {"plate_max_c": 19.0}
    every = len(SENSORS)
    readings = [Readings(float(i), values, (0,) * every, (float(i),) * every) for i in range(PERSISTENCE)]
    verdicts = [watched.monitors.check(r, tighter) for r in readings]
    assert verdicts[-1].shed == "plate_c = 20.00 beyond 19.00"


def test_two_limits_at_once_shed_for_one_and_report_both() -> None:
    watched = Watched()
    for _ in range(PERSISTENCE):
        verdict = watched.tick(plate_c=56.0, die2_c=85.0)
    assert names(verdict) == ["limit_crossed", "limit_crossed"]
    assert verdict.shed
    assert watched.tick(plate_c=20.0, die2_c=85.0).shed.startswith("die2_c")


# --- sensors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("quality", [Quality.MISSING, Quality.STALE, Quality.NOT_FINITE, Quality.OUT_OF_RANGE])
def test_a_sensor_is_lost_and_back_after_three_ticks(name: str, quality: Quality) -> None:
    watched = Watched()
    watched.tick()
    for _ in range(PERSISTENCE - 1):
        assert watched.tick(quality, **{name: None}) == Verdict((), "")
    verdict = watched.tick(quality, **{name: None})
    assert [(e.name, e.args) for e in verdict.events] == [("sensor_lost", (name, quality.name))]
    assert watched.ticks(50, **{name: None}) == []  # once
    assert watched.ticks(PERSISTENCE - 1) == []
    assert watched.ticks(1, **{name: None}) == []  # a gap starts the count anew
    assert watched.ticks(PERSISTENCE - 1) == []
    assert names(watched.tick()) == ["sensor_back"]
    assert watched.ticks(10) == []


def test_sensors_that_are_not_fitted_are_not_missed() -> None:
    watched = Watched()  # dies 4 to 7 never have a value
    assert watched.ticks(20) == []


@pytest.mark.parametrize("name", ["plate_c", "die1_c", "battery_soc_frac"])
def test_a_sensor_that_falls_silent_beyond_its_limit_keeps_the_shed_until_the_estimator_takes_over(name: str) -> None:
    watched = Watched()
    beyond = 0.6 if name == "battery_soc_frac" else 90.0
    for _ in range(PERSISTENCE):
        watched.tick(**{name: beyond})
    last_s = watched.now_s
    while watched.now_s - last_s < PARAMETERS["blind_after_s"]:
        assert watched.tick(**{name: None}).shed
    assert not watched.tick(**{name: None}).shed  # now `blind` or `dark_nodes` speaks
    assert watched.tick(**{name: beyond}).shed  # back, and still beyond
    assert names(watched.tick()) == ["limit_cleared"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(40.0, 70.0)), max_size=60))
def test_events_alternate_and_the_shed_follows_them(plate_c: list[float | None]) -> None:
    """Whatever the plate reads: crossed and cleared take turns, so do lost and back, and crossed means shed."""
    watched = Watched()
    crossed = lost = False
    for value in plate_c:
        verdict = watched.tick(plate_c=value)
        for event in verdict.events:
            if event.name in ("limit_crossed", "limit_cleared"):
                assert crossed is (event.name == "limit_cleared")
                crossed = not crossed
            elif event.name in ("sensor_lost", "sensor_back"):
                assert lost is (event.name == "sensor_back")
                lost = not lost
        silent_s = watched.now_s - watched.sampled["plate_c"]
        assert bool(verdict.shed) is (crossed and silent_s <= PARAMETERS["blind_after_s"])

"""Sensing: nothing that a board may deliver becomes a number that it must not become."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.dictionary.sensors import SENSORS
from flightsw.sensing import NEVER_S, sense
from flightsw.state import Quality, RawReading, Readings

NOW_S = 1000.0


class ScriptedBoard:
    """A board that delivers what it was told to."""

    def __init__(self, samples: Sequence[RawReading | None]) -> None:
        self.samples = samples

    def read_sensors(self, now_s: float) -> Sequence[RawReading | None]:
        return self.samples

    def set_transmitter(self, on: bool) -> None:
        raise AssertionError("sensing switches nothing")

    def describe(self) -> tuple[str, ...]:
        return ()


def sensed(samples: Sequence[RawReading | None]) -> Readings:
    return sense(ScriptedBoard(samples), NOW_S)


def all_but(index: int, sample: RawReading | None) -> list[RawReading | None]:
    """Good samples of every sensor but one."""
    samples: list[RawReading | None] = [RawReading(0.5 * (row.low + row.high), NOW_S) for row in SENSORS]
    samples[index] = sample
    return samples


EDGES = sorted({edge for row in SENSORS for edge in (row.low, row.high)})
NEAR_EDGES = [math.nextafter(edge, way) for edge in EDGES for way in (-math.inf, math.inf)]
VALUE = st.one_of(st.none(), st.floats(), st.sampled_from(EDGES + NEAR_EDGES), st.integers(-200, 700))
STAMP = st.one_of(st.floats(), st.floats(NOW_S - 40.0, NOW_S + 40.0), st.just(NOW_S))
SAMPLE = st.one_of(st.none(), st.builds(RawReading, VALUE, STAMP))


@given(st.lists(SAMPLE, min_size=len(SENSORS), max_size=len(SENSORS)))
def test_only_a_fresh_finite_value_in_range_becomes_a_number(samples: list[RawReading | None]) -> None:
    readings = sensed(samples)
    assert readings.now_s == NOW_S
    assert len(readings.values) == len(readings.qualities) == len(readings.sampled_s) == len(SENSORS)
    for row, sample, value, quality, sampled_s in zip(
        SENSORS, samples, readings.values, readings.qualities, readings.sampled_s, strict=True
    ):
        good = (
            sample is not None
            and sample.value is not None
            and math.isfinite(sample.value)
            and row.low <= sample.value <= row.high
            and math.isfinite(sample.sampled_s)
            and abs(NOW_S - sample.sampled_s) <= row.max_age_s
        )
        assert (value is not None) == good == (quality == Quality.GOOD)
        if good:
            assert sample is not None
            assert value == sample.value
            assert type(value) is float  # what is recorded replays to the same text
            assert sampled_s == min(sample.sampled_s, NOW_S)


@pytest.mark.parametrize("index", range(len(SENSORS)), ids=[row.name for row in SENSORS])
def test_each_reason_is_named(index: int) -> None:
    row = SENSORS[index]
    middle = 0.5 * (row.low + row.high)
    for sample, quality in (
        (RawReading(row.low, NOW_S), Quality.GOOD),
        (RawReading(row.high, NOW_S - row.max_age_s), Quality.GOOD),
        (RawReading(middle, NOW_S + 0.01), Quality.GOOD),
        (None, Quality.NOT_FITTED),
        (RawReading(None, NOW_S), Quality.MISSING),
        (RawReading(middle, NOW_S - row.max_age_s - 0.001), Quality.STALE),
        (RawReading(middle, NOW_S + row.max_age_s + 0.001), Quality.STALE),
        (RawReading(middle, math.inf), Quality.STALE),
        (RawReading(middle, math.nan), Quality.STALE),
        (RawReading(middle, NEVER_S), Quality.STALE),
        (RawReading(math.nan, NOW_S), Quality.NOT_FINITE),
        (RawReading(math.inf, NOW_S), Quality.NOT_FINITE),
        (RawReading(-math.inf, NOW_S), Quality.NOT_FINITE),
        (RawReading(math.nextafter(row.low, -math.inf), NOW_S), Quality.OUT_OF_RANGE),
        (RawReading(math.nextafter(row.high, math.inf), NOW_S), Quality.OUT_OF_RANGE),
    ):
        readings = sensed(all_but(index, sample))
        assert readings.qualities[index] == quality, sample
        assert (readings.values[index] is None) == (quality is not Quality.GOOD)
        others = [q for i, q in enumerate(readings.qualities) if i != index]
        assert others == [Quality.GOOD] * len(others)


def test_sample_from_a_little_ahead_counts_as_taken_now() -> None:
    """A device answers while the tick runs; a negative age would narrow the estimator's bounds."""
    readings = sensed(all_but(0, RawReading(0.5, NOW_S + 0.25)))
    assert readings.sampled_s[0] == NOW_S


def test_sensor_that_never_answered_has_no_time() -> None:
    assert sensed(all_but(3, None)).sampled_s[3] == NEVER_S


@pytest.mark.parametrize("count", [0, len(SENSORS) - 1, len(SENSORS) + 1])
def test_board_with_another_number_of_sensors_is_a_fault_not_a_shift(count: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        sensed([RawReading(0.5, NOW_S)] * count)

"""The learnt capacity of the pack: right for any true capacity, and never a reason to trust a pack more."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.decide.pack import PackCapacity

NOMINAL_J = 522_000.0


def cycles(true_frac: float, *, orbits: int = 4, gauge_bias: float = 0.0, flow_bias_w: float = 0.0, noise: float = 0.0,
           seed: int = 0) -> PackCapacity:
    """A pack of `true_frac` of nominal, cycled by a quarter of its charge an orbit, looked at every ten seconds."""
    rng = np.random.default_rng(seed)
    pack, charge_j = PackCapacity(NOMINAL_J), 0.95 * true_frac * NOMINAL_J
    for step in range(orbits * 556):
        watts = -0.25 * true_frac * NOMINAL_J / 2780.0 * math.copysign(1.0, math.sin(2.0 * math.pi * step / 556.0))
        charge_j += 10.0 * watts
        gauge = charge_j / (true_frac * NOMINAL_J) + gauge_bias + noise * rng.normal()
        pack.update(10.0 * (watts + flow_bias_w), gauge)
    return pack


@given(st.floats(0.5, 1.1), st.floats(-0.02, 0.02))
def test_capacity_is_learnt_whatever_the_gauge_is_off_by(true_frac: float, gauge_bias: float) -> None:
    assert cycles(true_frac, gauge_bias=gauge_bias).frac == pytest.approx(min(true_frac, 1.0), abs=0.002)


@pytest.mark.parametrize("true_frac", [0.7, 0.8, 0.95])
@pytest.mark.parametrize("flow_bias_w", [-0.75, 0.0, 0.75])
def test_noise_and_a_biased_current_sensor_cost_one_percent(true_frac: float, flow_bias_w: float) -> None:
    """One orbit, the gauge off by a quarter of a percent each time, the current by all of its accuracy."""
    for seed in range(5):
        learnt = cycles(true_frac, orbits=1, flow_bias_w=flow_bias_w, noise=0.0025, seed=seed).frac
        assert learnt == pytest.approx(true_frac, abs=0.01)


def test_a_straight_line_in_time_teaches_nothing() -> None:
    """A current sensor's constant error would look just the same."""
    pack = PackCapacity(NOMINAL_J)
    for step in range(200):
        pack.update(-0.8 * 0.001 * NOMINAL_J, 0.95 - 0.001 * step)
    assert pack.frac == 1.0


def test_a_gap_in_the_count_ends_the_stretch() -> None:
    whole, torn = PackCapacity(NOMINAL_J), PackCapacity(NOMINAL_J)
    for pack in (whole, torn):
        for step in range(2000):
            swing = math.sin(2.0 * math.pi * step / 556.0) - math.sin(2.0 * math.pi * (step - 1) / 556.0)
            gauge = 0.85 + 0.125 * math.sin(2.0 * math.pi * step / 556.0)
            if pack is torn and step % 300 == 299:
                pack.update(None, gauge)  # energy went by uncounted
            else:
                pack.update(0.8 * 0.125 * swing * NOMINAL_J, gauge)
    assert whole.frac == pytest.approx(0.8, abs=1e-6)
    assert torn.frac == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize("factor", [0.0, -1.0, 0.3, 2.0])
def test_a_ratio_that_no_pack_has_is_a_sensor_fault(factor: float) -> None:
    pack = PackCapacity(NOMINAL_J)
    gauge = before = 0.85
    for step in range(1500):
        before, gauge = gauge, 0.85 + 0.125 * math.sin(2.0 * math.pi * step / 556.0)
        pack.update(factor * (gauge - before) * NOMINAL_J, gauge)
    assert pack.frac == 1.0


@pytest.mark.parametrize("begin", [100, 700, 1200])
def test_a_stuck_gauge_is_left_out(begin: int) -> None:
    pack = PackCapacity(NOMINAL_J)
    gauge = before = 0.85
    for step in range(2200):
        before, gauge = gauge, 0.85 + 0.125 * math.sin(2.0 * math.pi * step / 556.0)
        stuck = 0.85 + 0.125 * math.sin(2.0 * math.pi * begin / 556.0)
        pack.update(0.9 * (gauge - before) * NOMINAL_J, stuck if begin <= step < begin + 400 else gauge)
        if step > begin + 800:
            assert pack.frac == pytest.approx(0.9, abs=0.04)


def test_a_missing_gauge_only_waits() -> None:
    pack = PackCapacity(NOMINAL_J)
    gauge = before = 0.85
    for step in range(1500):
        before, gauge = gauge, 0.85 + 0.125 * math.sin(2.0 * math.pi * step / 556.0)
        pack.update(0.8 * (gauge - before) * NOMINAL_J, gauge if step % 5 == 0 or step < 10 else None)
    assert pack.frac == pytest.approx(0.8, abs=1e-3)

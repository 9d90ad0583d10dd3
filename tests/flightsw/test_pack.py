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
    assert cycles(true_frac, gauge_bias=gauge_bias).frac == pytest.approx(min(true_frac, 1.0), abs=0.01)


@pytest.mark.parametrize("true_frac", [0.7, 0.8, 0.95])
@pytest.mark.parametrize("flow_bias_w", [-0.3, 0.3])
def test_noise_and_a_biased_current_sensor_cost_a_few_percent(true_frac: float, flow_bias_w: float) -> None:
    for seed in range(5):
        learnt = cycles(true_frac, flow_bias_w=flow_bias_w, noise=0.0015, seed=seed).frac
        assert learnt == pytest.approx(true_frac, abs=0.04)


def test_nothing_is_believed_before_three_swings() -> None:
    pack = PackCapacity(NOMINAL_J)
    for swing in range(4):
        pack.update(0.0, 0.9)
        assert pack.frac == (1.0 if swing < 3 else pytest.approx(0.8, abs=1e-9))
        pack.update(-0.8 * 0.15 * NOMINAL_J, 0.75)
        pack.update(None, None)  # the next swing starts afresh


def test_a_gap_in_the_count_ends_the_swing() -> None:
    pack = PackCapacity(NOMINAL_J)
    for _ in range(10):
        pack.update(0.0, 0.9)
        pack.update(None, 0.85)  # energy went by uncounted
        pack.update(0.0, 0.75)
        pack.update(-1000.0, 0.74)
    assert pack.frac == 1.0


@pytest.mark.parametrize("counted_j", [0.0, -1e7, 1e5])
def test_a_ratio_that_no_pack_has_is_a_sensor_fault(counted_j: float) -> None:
    pack = PackCapacity(NOMINAL_J)
    for gauge in (0.95, 0.7) * 8:
        pack.update(math.copysign(1.0, 0.8 - gauge) * counted_j, gauge)
    assert pack.frac == 1.0


def test_a_missing_gauge_only_waits() -> None:
    pack = PackCapacity(NOMINAL_J)
    for _ in range(8):
        pack.update(0.0, 0.9)
        pack.update(-0.8 * 0.1 * NOMINAL_J, None)
        pack.update(-0.8 * 0.1 * NOMINAL_J, 0.7)
        pack.update(None, None)
    assert pack.frac == pytest.approx(0.8)

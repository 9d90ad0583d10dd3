"""A Sun that is gone against the forecast: two witnesses of three, twice in a row."""

from __future__ import annotations

import pytest
from reference_satellite import mission

from flightsw.decide.shade import Shade

SUN_W_M2 = 1361.0
LIT = (0.98, 110.0, 45.0, 60.0)  # sun_frac, array_w, bus_w, pack_w
DARK = (0.0, 0.5, 45.0, -45.5)


def after(*looks, flux_w_m2=SUN_W_M2):  # type: ignore[no-untyped-def]
    shade = Shade(mission())
    for look in looks:
        shade.update(flux_w_m2, *look)
    return shade.is_on


def test_two_looks_in_a_row_are_believed_and_one_is_not():
    assert not after(DARK)
    assert not after(DARK, LIT, DARK)
    assert after(DARK, DARK)
    assert after(DARK, DARK, LIT)
    assert not after(DARK, DARK, LIT, LIT)


@pytest.mark.parametrize("wrong", [(0.0, 110.0, 45.0, 60.0), (0.98, 0.0, 45.0, 60.0), (0.98, 110.0, 45.0, -45.0)])
def test_one_witness_alone_is_not_believed(wrong):
    assert not after(wrong, wrong, wrong)


@pytest.mark.parametrize("missing", [0, 1, 2, 3])
def test_two_witnesses_are_enough_without_the_third(missing):
    look = tuple(None if i == missing else value for i, value in enumerate(DARK))
    assert after(look, look)


def test_sensors_that_are_silent_say_nothing():
    silent = (None, None, None, None)
    assert not after(silent, silent)


def test_night_is_no_shade():
    assert not after(DARK, DARK, flux_w_m2=0.0)
    assert not after(DARK, DARK, flux_w_m2=600.0)


def test_a_full_pack_that_takes_nothing_is_no_shade():
    full = (0.98, 44.0, 45.0, -1.0)  # the tracker gives no more than the bus takes
    assert not after(full, full)


def test_half_the_array_is_no_shade():
    half = (0.98, 40.0, 45.0, -5.0)
    assert not after(half, half)

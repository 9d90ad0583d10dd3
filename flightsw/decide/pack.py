"""Learns what the battery pack really holds: energy counted at its terminals, held against its gauge.

A gauge tells the share of full charge, a counter the energy; what a full gauge is worth is the slope of a line
through both, by least squares with a memory of some orbits. Time is a second regressor: a current sensor's
constant error, and losses that the count gets wrong, are a drift that comes and goes with no eclipse. A constant
error of the gauge is the line's foot. Planner and governor follow through `Estimate.pack_frac`. It only ever makes
the pack smaller than the mission says: a pack that seems larger is believed to be as designed.
"""

from __future__ import annotations

_FADE = 1.0 - 1.0 / 2400.0  # a sample every ten seconds: a memory of about four orbits
_TURN_MIN = 0.5  # squares of the gauge about a straight line in time: an orbit by a fifth of the charge has three
_CREDIBLE = (0.4, 1.2)  # a ratio outside says that a sensor is wrong, not the pack
_STUCK_FRAC = 0.03  # of a full pack counted while the gauge says the same: it is stuck
_JUMP_FRAC = 0.02  # of a full pack between two looks, gauge against count: one of them is wrong


class PackCapacity:
    """Capacity relative to nominal, from stretches between which gauge or counter may have failed."""

    __slots__ = ("_counted", "_gc", "_gg", "_gt", "_last", "_mean", "_moved", "_nominal_j", "_ratio", "_samples", "_tc",
                 "_time", "_tt")

    def __init__(self, nominal_j: float) -> None:
        self._nominal_j = nominal_j
        self._counted = self._time = 0.0  # of nominal capacity; samples
        self._samples = 0.0  # in this stretch, faded; the means are those of gauge, time and count in it
        self._mean = (0.0, 0.0, 0.0)
        self._gg = self._gt = self._tt = self._gc = self._tc = 0.0  # products about each stretch's means, faded
        self._last = 0.0  # gauge less count
        self._moved = (-1.0, 0.0)  # what the gauge says, and the count when it began to
        self._ratio = 1.0

    @property
    def frac(self) -> float:
        """Capacity relative to nominal, at most 1."""
        return min(self._ratio, 1.0)

    def update(self, counted_j: float | None, gauge: float | None) -> None:
        """Take the energy put into the charge since the last call (None: not known) and the gauge's word, if new."""
        if counted_j is None:
            self._samples = 0.0
            return
        self._counted += counted_j / self._nominal_j
        if gauge is None:
            return
        if gauge != self._moved[0]:
            self._moved = (gauge, self._counted)
        elif abs(self._counted - self._moved[1]) > _STUCK_FRAC:
            self._samples = 0.0
            return
        apart = gauge - self._counted
        if abs(apart - self._last) > _JUMP_FRAC:
            self._samples = 0.0
        self._last = apart
        self._time += 1.0
        self._take(gauge, self._time, self._counted)
        turns = self._gg * self._tt - self._gt * self._gt
        if turns > _TURN_MIN * self._tt:
            ratio = (self._gc * self._tt - self._tc * self._gt) / turns
            if _CREDIBLE[0] <= ratio <= _CREDIBLE[1]:
                self._ratio = ratio

    def _take(self, gauge: float, time: float, counted: float) -> None:
        """Move means and products by one sample (Welford's way, with fading)."""
        before = _FADE * self._samples
        self._samples = before + 1.0
        g, t, c = self._mean
        dg, dt, dc = gauge - g, time - t, counted - c
        share = 1.0 / self._samples
        self._mean = (g + dg * share, t + dt * share, c + dc * share)
        weight = before * share
        self._gg = _FADE * self._gg + weight * dg * dg
        self._gt = _FADE * self._gt + weight * dg * dt
        self._tt = _FADE * self._tt + weight * dt * dt
        self._gc = _FADE * self._gc + weight * dg * dc
        self._tc = _FADE * self._tc + weight * dt * dc

"""Learns what the battery pack really holds: energy counted at its terminals over a swing of its gauge.

A gauge tells the share of full charge, a counter the energy; their ratio over a swing is the pack's capacity.
A constant error of the gauge cancels, one of the current sensor has opposite signs in charging and
discharging. Planner and governor follow it through `Estimate.pack_frac`. It only ever makes the pack
smaller than the mission says: a pack that seems larger is believed to be as designed.
"""

from __future__ import annotations

_SWING_FRAC = 0.10  # of full charge: the gauge's noise is then about one percent of it
_GAIN = 0.2  # of a new swing: five of them, about two orbits, make up the answer
_SWINGS_MIN = 3  # before anything is believed
_CREDIBLE = (0.4, 1.2)  # a ratio outside says that a sensor is wrong, not the pack


class PackCapacity:
    """Capacity relative to nominal, from swings between which both gauge and counter never failed."""

    def __init__(self, nominal_j: float) -> None:
        self._nominal_j = nominal_j
        self._counted_j = 0.0
        self._from: tuple[float, float] | None = None  # gauge and counter where the swing began
        self._ratio = 1.0
        self._swings = 0

    @property
    def frac(self) -> float:
        """Capacity relative to nominal, at most 1."""
        return min(self._ratio, 1.0) if self._swings >= _SWINGS_MIN else 1.0

    def update(self, counted_j: float | None, gauge: float | None) -> None:
        """Take the energy put into the charge since the last call (None: not known) and the gauge's word."""
        if counted_j is None:
            self._from = None
            return
        self._counted_j += counted_j
        if gauge is None:
            return
        if self._from is None:
            self._from = (gauge, self._counted_j)
            return
        swing = gauge - self._from[0]
        if abs(swing) < _SWING_FRAC:
            return
        ratio = (self._counted_j - self._from[1]) / (swing * self._nominal_j)
        self._from = (gauge, self._counted_j)
        if _CREDIBLE[0] <= ratio <= _CREDIBLE[1]:
            self._swings += 1
            self._ratio += max(_GAIN, 1.0 / self._swings) * (ratio - self._ratio)

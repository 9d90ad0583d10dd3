"""Notices that the Sun is gone where the forecast has it shine: an eclipse comes early or stays late, or the satellite
points elsewhere.

Three witnesses: the coarse sun sensor, the array's own power, and a pack that carries the bus. Each can be wrong by
itself; two that agree, twice in a row, are believed. From then on the governor counts on no Sun before the next
eclipse is over (`Forecaster.first_crossing`), until the witnesses say otherwise, twice in a row as well.
"""

from __future__ import annotations

from flightsw.mission import Mission

_FLUX_MIN_W_M2 = 680.0  # half a Sun: below it dusk looks like night
_LITTLE_FRAC = 0.1  # of what the Sun sensor and the array would show
_CARRIES_FRAC = 0.8  # of the bus: a tracker that could give more would not leave this to the pack
_AGREE = 2
_LOOKS = 2


class Shade:
    """Whether the satellite is in a shadow that the orbit does not know."""

    def __init__(self, mission: Mission) -> None:
        array = mission.array
        self._m2 = array.area_m2 * array.efficiency_frac * array.mppt_frac * array.health_frac
        self._against = 0  # looks in a row that speak against what is believed
        self.is_on = False

    def update(self, flux_w_m2: float, sun_frac: float | None, array_w: float | None, bus_w: float | None,
               pack_w: float | None) -> None:
        """Take one look: forecast sunlight on the array, and what the sensors say (`pack_w` below 0: it gives)."""
        dark = (
            sun_frac is not None and sun_frac < _LITTLE_FRAC,
            array_w is not None and array_w < _LITTLE_FRAC * flux_w_m2 * self._m2,
            pack_w is not None and bus_w is not None and -pack_w > _CARRIES_FRAC * bus_w,
        )
        seems_on = flux_w_m2 >= _FLUX_MIN_W_M2 and sum(dark) >= _AGREE
        self._against = self._against + 1 if seems_on != self.is_on else 0
        if self._against >= _LOOKS:
            self.is_on, self._against = seems_on, 0

"""Learns what the solar array really gives: measured power over the flight model's, in sunlight at its temperature.

Only while the tracker surely takes all there is: the pack takes less than its charger allows and is not near its
taper, or gives. The array's power is measured twice, by its own sensor and as what loads and pack take; where
the two disagree by more than their accuracies a sensor is wrong and nothing is learnt. What is left is the array
sensor's constant error, which goes into the bound. Planner and governor follow through `Estimate.learnt`.
"""

from __future__ import annotations

from flightsw.decide.robust import RobustMean
from flightsw.dictionary.sensors import INDEX, SENSORS
from flightsw.mission import Mission
from flightsw.physics.units import KELVIN
from flightsw.state import Factor

_SAMPLES = 30  # five minutes of sunlight, looked at every ten seconds
_REACH = 0.05
_CREDIBLE = (0.4, 1.1)  # a ratio outside says shadow or a wrong sensor, not ageing
_FLUX_MIN_W_M2 = 680.0  # half a Sun: below it the sensor's accuracy is too large a share
_OF_CHARGE_LIMIT = 0.85  # chargers are set to within a tenth
_CHARGE_GUARD_FRAC = 0.04  # below the taper: the gauge's accuracy, and the charger's own idea of where it begins
_APART = 1.5  # of the accuracies together: a noisy sample may be further off than an accuracy, a stuck sensor is more
_MODEL_ERROR = 0.005  # the model's array is within 2 K of the measured one, and -0.25 %/K tells


class ArrayHealth:
    """Array power relative to the mission's."""

    def __init__(self, mission: Mission) -> None:
        array, battery = mission.array, mission.battery
        self._m2 = array.area_m2 * array.efficiency_frac * array.mppt_frac * array.health_frac
        self._reference_k = array.reference_c + KELVIN
        self._coeff_per_k = array.temp_coeff_per_k
        self._charge_w = _OF_CHARGE_LIMIT * battery.charge_limit_w
        self._charge_frac = battery.taper_start_frac - _CHARGE_GUARD_FRAC
        self._array_w, self._bus_w, self._v, self._a = (
            SENSORS[INDEX[name]].accuracy for name in ("array_w", "bus_w", "battery_v", "battery_a"))
        self._ratio = RobustMean(_SAMPLES, _REACH)
        self._error = 1.0

    @property
    def factor(self) -> Factor | None:
        """What has been learnt; None before five minutes of good samples."""
        ratio = self._ratio.value
        return None if ratio is None else Factor(ratio, self._error)

    def update(self, flux_w_m2: float, array_k: float, array_w: float, bus_w: float, volts: float, amps: float,
               charge_frac: float) -> None:
        """Take one look: forecast sunlight on the array and what the sensors say."""
        model_w = flux_w_m2 * self._m2 * (1.0 + self._coeff_per_k * (array_k - self._reference_k))
        pack_w = volts * amps
        if flux_w_m2 < _FLUX_MIN_W_M2 or not _CREDIBLE[0] * model_w <= array_w <= _CREDIBLE[1] * model_w:
            return
        error_a = self._a
        if amps > -2.0 * error_a and (pack_w > self._charge_w or charge_frac > self._charge_frac):
            return
        accuracy_w = self._array_w + self._bus_w + abs(amps) * self._v + volts * error_a
        if abs(array_w - bus_w - pack_w) > _APART * accuracy_w:
            return
        self._ratio.update(array_w / model_w)
        self._error = self._array_w / model_w + _MODEL_ERROR

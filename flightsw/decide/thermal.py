"""Learns how well the satellite gets rid of heat: the radiator, the way to it, and each node's way to the plate.

All by heat balance on measured temperatures and powers, the change of stored heat counted in, so that warming up
and eclipses need no waiting for a steady state. What goes in and what leaves are summed with a memory of about an
orbit; their ratio is the factor. What a sensor's constant error does to it is the same in every forecast that
is made with it: forecasts are right in readings, and the bound holds what readings may be off. Planner and
governor follow through `Estimate.learnt`.
"""

from __future__ import annotations

from collections.abc import Sequence

from flightsw.dictionary.sensors import INDEX, SENSORS
from flightsw.mission import Mission
from flightsw.state import Factor

_MEMORY_S = 6000.0  # about an orbit: what comes and goes with the eclipse cancels
_FIRST_S = 1800.0  # of balance before anything is believed
_GAP_S = 30.0  # looks further apart are not summed over
_CREDIBLE = (0.5, 1.3)
_STORED_ERROR = 0.05  # heat capacities are known to that share
_MODEL_ERROR = 0.005  # one lump is not quite a radiator
_SIGMA_W_M2_K4 = 5.670374419e-8  # CODATA 2018


class _Balance:
    """Heat measured and heat that the model has leave the same way, J, both with a fading memory."""

    __slots__ = ("_measured_j", "_modelled_j", "_seen_s", "_stored_j")

    def __init__(self) -> None:
        self._measured_j = self._modelled_j = self._stored_j = self._seen_s = 0.0

    def add(self, arriving_j: float, stored_j: float, modelled_j: float, dt_s: float) -> None:
        """Sum one step: heat that arrived, what of it stayed, and what the model says left."""
        keep = 1.0 - dt_s / _MEMORY_S
        self._measured_j = keep * self._measured_j + arriving_j - stored_j
        self._stored_j = keep * self._stored_j + stored_j
        self._modelled_j = keep * self._modelled_j + modelled_j
        self._seen_s += dt_s

    def factor(self, sensor_error: float) -> Factor | None:
        """Measured over modelled; None while too little was seen or no such satellite exists."""
        if self._seen_s < _FIRST_S or self._modelled_j <= 0.0:
            return None
        frac = self._measured_j / self._modelled_j
        if not _CREDIBLE[0] <= frac <= _CREDIBLE[1]:
            return None
        return Factor(frac, sensor_error + _STORED_ERROR * abs(self._stored_j) / self._modelled_j + _MODEL_ERROR)


class HeatPath:
    """Conductances and radiating power relative to the mission's."""

    def __init__(self, mission: Mission) -> None:
        thermal = mission.thermal
        self._die_j_k, self._die_w_k = thermal.die_heat_capacity_j_k, thermal.die_to_plate_w_k
        self._plate_j_k, self._radiator_j_k = thermal.plate_heat_capacity_j_k, thermal.radiator_heat_capacity_j_k
        self._plate_w_k, self._bus_w_k = thermal.plate_to_radiator_w_k, thermal.plate_to_bus_w_k
        self._radiating_w_k4 = _SIGMA_W_M2_K4 * thermal.radiator_area_m2 * thermal.radiator_emissivity
        nodes = mission.compute.nodes
        self._accuracy_k = SENSORS[INDEX["radiator_c"]].accuracy
        self._dies = tuple([_Balance() for _ in range(nodes)])
        self._plate, self._radiator = _Balance(), _Balance()
        self._before: tuple[float, float, float, list[float]] | None = None
        self._at_s = 0.0
        self._radiator_k = 300.0

    @property
    def radiator(self) -> Factor | None:
        """Heat that the radiator gets rid of. An error of its sensor counts four times: T^4."""
        return self._radiator.factor(4.0 * self._accuracy_k / self._radiator_k)

    @property
    def plate_link(self) -> Factor | None:
        """Conductance of plate to radiator."""
        return self._plate.factor(0.0)

    @property
    def die_links(self) -> tuple[Factor | None, ...]:
        """Conductance of each node to the plate."""
        return tuple([die.factor(0.0) for die in self._dies])

    def update(self, now_s: float, nodes_w: Sequence[float], dies_k: Sequence[float], plate_k: float,
               radiator_k: float, bus_k: float, absorbed_w: float) -> None:
        """Take one look at all of it; `absorbed_w` is the forecast of what the radiator takes from outside."""
        dt_s = now_s - self._at_s
        before, self._before = self._before, (plate_k, radiator_k, bus_k, list(dies_k))
        self._at_s = now_s
        if before is None or dt_s > _GAP_S:
            return
        plate_before_k, radiator_before_k, bus_before_k, dies_before_k = before
        mean_plate_k, mean_radiator_k = 0.5 * (plate_k + plate_before_k), 0.5 * (radiator_k + radiator_before_k)
        self._radiator_k = radiator_k
        arriving_j = stored_j = 0.0
        for die, watts, die_k, die_before_k in zip(self._dies, nodes_w, dies_k, dies_before_k, strict=True):
            put_j, kept_j = watts * dt_s, self._die_j_k * (die_k - die_before_k)
            die.add(put_j, kept_j, self._die_w_k * (0.5 * (die_k + die_before_k) - mean_plate_k) * dt_s, dt_s)
            arriving_j += put_j
            stored_j += kept_j
        arriving_j += self._bus_w_k * (0.5 * (bus_k + bus_before_k) - mean_plate_k) * dt_s
        stored_j += self._plate_j_k * (plate_k - plate_before_k)
        self._plate.add(arriving_j, stored_j, self._plate_w_k * (mean_plate_k - mean_radiator_k) * dt_s, dt_s)
        arriving_j += absorbed_w * dt_s
        stored_j += self._radiator_j_k * (radiator_k - radiator_before_k)
        square = mean_radiator_k * mean_radiator_k
        self._radiator.add(arriving_j, stored_j, self._radiating_w_k4 * square * square * dt_s, dt_s)

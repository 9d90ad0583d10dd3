"""Learns what the bus draws besides nodes, heater and transmitter. Followed through `Estimate.learnt`."""

from __future__ import annotations

from collections.abc import Sequence

from flightsw.decide.robust import RobustMean
from flightsw.dictionary.sensors import INDEX, SENSORS
from flightsw.mission import Mission
from flightsw.physics.units import KELVIN
from flightsw.state import Factor

_SAMPLES = 60  # ten minutes
_REACH = 0.25
_CREDIBLE = (0.5, 4.0)  # a load nobody declared may be several times the bus's own; less than half of it is a sensor
_THERMOSTAT_K = 3.0  # the heater is surely off that far above where it should go off
_QUIET_LOOKS = 4  # passes come and go within half a minute of the forecast


class IdleLoad:
    """Load of the bus itself relative to the mission's."""

    def __init__(self, mission: Mission) -> None:
        self._idle_w = mission.bus.idle_w
        self._warm_k = mission.battery.heater_off_c + KELVIN + _THERMOSTAT_K
        accuracy_w = (SENSORS[INDEX["bus_w"]].accuracy
                      + mission.compute.nodes * SENSORS[INDEX["node0_w"]].accuracy)
        self._error = accuracy_w / mission.bus.idle_w
        self._ratio = RobustMean(_SAMPLES, _REACH)
        self._quiet = 0

    @property
    def factor(self) -> Factor | None:
        """What has been learnt; None before ten minutes of good samples."""
        ratio = self._ratio.value
        return None if ratio is None else Factor(ratio, self._error)

    def update(self, bus_w: float, nodes_w: Sequence[float], battery_k: float, *, transmits: bool) -> None:
        """Take one look."""
        self._quiet = 0 if transmits else self._quiet + 1
        ratio = (bus_w - sum(nodes_w)) / self._idle_w
        if self._quiet > _QUIET_LOOKS and battery_k > self._warm_k and _CREDIBLE[0] <= ratio <= _CREDIBLE[1]:
            self._ratio.update(ratio)

"""Doubts sensors that are stuck: readings -> readings in which a sensor that cannot be right has no value.

Called by the supervisor between sensing and estimator, so that a doubted sensor is to everything behind it what a
silent one is. Redundant measurements are held together by balances: of charge, of electrical power, of heat. A
reading that stays the same proves nothing, the truth may stand still; a balance that stops closing does not say whose
fault it is. Together they do: a sensor that repeats itself bit for bit, while a balance that it takes part in has
surely moved since it began to, is stuck. Whatever constant errors sensors have cancels, as only movement counts,
and a sensor that shows any movement at all is never doubted. Knows no commands and decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from flightsw.dictionary.sensors import INDEX, SENSORS
from flightsw.fdir.monitors import PERSISTENCE
from flightsw.mission import Mission
from flightsw.physics.units import J_PER_WH
from flightsw.state import Event, Quality, Readings

GAUGE_STEP_FRAC = 0.012
"""Fuel gauges tell whole percents at the coarsest, and lag a little."""

HEAT_STEP_K = 6.0
"""Movement of a balance of heat that surely is none of steps and errors of its sensors (1 K each) and of sunlight
on the radiator."""

CHANGES_BACK = 3
"""A doubted sensor is believed again when it has changed so often."""

_MODEL_ERROR_FRAC = 0.3  # of a modelled temperature difference: interfaces are made by hand, and differ between nodes
_LOSS_ERROR_FRAC = 0.03  # of power into the pack that does not become charge
_SIGMA_W_M2_K4 = 5.670374419e-8  # CODATA 2018
_ROOM_K = 300.0  # where radiating is linearised
_UNKNOWN = (math.nan, 0.0)
_IMPLAUSIBLE = int(Quality.IMPLAUSIBLE)


class _Balance(NamedTuple):
    """A balance of redundant readings; `step` is the least movement that says something."""

    name: str
    members: tuple[str, ...]
    step: float


class _Watch:
    """One sensor: its last value and where the balances stood when it came to it."""

    __slots__ = ("against", "balances", "changes", "doubted", "index", "name", "sampled_s", "since", "since_s", "value")

    def __init__(self, name: str, balances: tuple[int, ...]) -> None:
        self.name = name
        self.index = INDEX[name]
        self.balances = balances
        self.value = math.nan
        self.sampled_s = -math.inf
        self.since: tuple[tuple[float, float], ...] = ()
        self.since_s = 0.0
        self.against = 0
        self.changes = 0
        self.doubted = False


class _Lag:
    """A first-order lag of a reading, that starts anew when the reading was missing; NaN until it has settled."""

    __slots__ = ("_for_s", "_tau_s", "_value")

    def __init__(self, tau_s: float) -> None:
        self._tau_s = tau_s
        self._value = math.nan
        self._for_s = 0.0

    def follow(self, value: float | None, dt_s: float) -> float:
        """Move on by `dt_s` towards `value`."""
        if value is None:
            self._value, self._for_s = math.nan, 0.0
            return math.nan
        if self._for_s == 0.0:
            self._value = value
        self._value += (value - self._value) * min(1.0, dt_s / self._tau_s)
        self._for_s += dt_s
        return self._value if self._for_s > 4.0 * self._tau_s else math.nan


class Plausibility:
    """Memory of one satellite's sensors and balances; the same readings in the same order give the same doubts."""

    def __init__(self, mission: Mission) -> None:
        battery, thermal, nodes = mission.battery, mission.thermal, mission.compute.nodes
        accuracy = {name: SENSORS[INDEX[name]].accuracy for name in ("array_w", "bus_w", "battery_v", "battery_a")}
        self._error_v, self._error_a = accuracy["battery_v"], accuracy["battery_a"]
        power_w = (accuracy["array_w"] + accuracy["bus_w"] + battery.full_v * self._error_a
                   + battery.charge_limit_w / battery.empty_v * self._error_v)
        self._balances = (
            _Balance("the charge counted", ("battery_soc_frac",), GAUGE_STEP_FRAC),
            _Balance("array less loads less battery", ("array_w", "bus_w", "battery_v", "battery_a"), 2.0 * power_w),
            _Balance("radiator over plate", ("radiator_c", "plate_c"), HEAT_STEP_K),
            *(_Balance(f"the heat of node {i}", (f"die{i}_c", f"node{i}_w", "plate_c"), HEAT_STEP_K)
              for i in range(nodes)),
        )
        names = dict.fromkeys(name for balance in self._balances for name in balance.members)
        self._watches = tuple(_Watch(name, tuple(j for j, balance in enumerate(self._balances)
                                                 if name in balance.members)) for name in names)
        self._array_w, self._bus_w, self._v, self._a, self._plate_c, self._radiator_c = (
            INDEX[name] for name in ("array_w", "bus_w", "battery_v", "battery_a", "plate_c", "radiator_c"))
        self._nodes = tuple((INDEX[f"die{i}_c"], INDEX[f"node{i}_w"], _Lag(
            thermal.die_heat_capacity_j_k / thermal.die_to_plate_w_k)) for i in range(nodes))
        self._die_k_w = 1.0 / thermal.die_to_plate_w_k
        # Linearised, the radiator follows the plate at this gain; what comes from outside moves it by a kelvin or two.
        radiating_w_k = 4.0 * _SIGMA_W_M2_K4 * thermal.radiator_area_m2 * thermal.radiator_emissivity * _ROOM_K**3
        out_w_k = thermal.plate_to_radiator_w_k + radiating_w_k
        self._radiator_gain = thermal.plate_to_radiator_w_k / out_w_k
        self._radiator_lag = _Lag(thermal.radiator_heat_capacity_j_k / out_w_k)
        # A pack that is larger than it should be moves its gauge less.
        self._capacity_j = battery.capacity_wh * J_PER_WH * (1.0 + mission.margins.battery_capacity_frac)
        self._resistance_ohm = battery.resistance_ohm
        load_w = (nodes * mission.compute.modes[-1].cap_w + mission.bus.idle_w + mission.bus.transmitter_w
                  + battery.heater_w)
        self._unseen_w = (-1.5 * load_w, battery.charge_limit_w)  # with what the pack loses inside
        self._flow_w = self._unseen_w
        self._count_frac = self._count_error_frac = 0.0
        self._last_s: float | None = None
        self._doubted: list[int] = []

    def judge(self, readings: Readings) -> tuple[Readings, tuple[Event, ...]]:
        """Return the readings without those that are doubted, and an event for each new doubt."""
        now_s, values, qualities, sampled_s = readings
        # No balance is struck with what is doubted.
        stand = self._stand(now_s, _without(self._doubted, values) if self._doubted else values)
        events: list[Event] = []
        self._doubted = doubted = []
        for watch in self._watches:
            value = values[watch.index]
            if value is None:
                continue
            at_s = sampled_s[watch.index]
            if value != watch.value:
                watch.value, watch.since, watch.since_s = value, stand, now_s
                watch.against = 0
                if watch.doubted:
                    watch.changes += 1
                    watch.doubted = watch.changes < CHANGES_BACK
            elif at_s > watch.sampled_s and not watch.doubted:
                moved = self._moved(watch, stand)
                watch.against = watch.against + 1 if moved is not None else 0
                if moved is not None and watch.against >= PERSISTENCE:
                    watch.doubted, watch.changes = True, 0
                    events.append(Event("sensor_implausible", (watch.name, value, now_s - watch.since_s, *moved)))
            watch.sampled_s = at_s
            if watch.doubted:
                doubted.append(watch.index)
        if not doubted:
            return readings, ()
        named = list(qualities)
        for i in doubted:
            named[i] = _IMPLAUSIBLE
        return Readings(now_s, _without(doubted, values), tuple(named), sampled_s), tuple(events)

    def _moved(self, watch: _Watch, stand: tuple[tuple[float, float], ...]) -> tuple[str, float] | None:
        """Name and movement of a balance that contradicts a sensor which says the same as before; None without.

        Who takes part in several balances is contradicted by two: one alone is another member's fault.
        """
        others = min(2, len(watch.balances)) - 1
        for j in watch.balances:
            balance, (now, error), (then, error_then) = self._balances[j], stand[j], watch.since[j]
            if math.isnan(then):  # the balance was not known when this value came
                watch.since = (*watch.since[:j], stand[j], *watch.since[j + 1:])
            elif abs(now - then) - abs(error - error_then) > balance.step:  # false while it is not known now
                if not others:
                    return balance.name, now - then
                others -= 1
        return None

    def _stand(self, now_s: float, values: tuple[float | None, ...]) -> tuple[tuple[float, float], ...]:
        """Where each balance stands: its value, NaN where a reading is missing, and what of it may be error."""
        dt_s = 0.0 if self._last_s is None else now_s - self._last_s
        self._last_s = now_s
        array_w, bus_w, volts, amps, plate_c = (
            values[self._array_w], values[self._bus_w], values[self._v], values[self._a], values[self._plate_c])
        self._count(volts, amps, dt_s)
        power = _UNKNOWN
        if array_w is not None and bus_w is not None and volts is not None and amps is not None:
            power = (array_w - bus_w - volts * amps, 0.0)
        radiator_c = values[self._radiator_c]
        follows_c = self._radiator_gain * self._radiator_lag.follow(plate_c, dt_s)
        radiator = _UNKNOWN if radiator_c is None else (radiator_c - follows_c, _MODEL_ERROR_FRAC * follows_c)
        stand = [(self._count_frac, self._count_error_frac), power, radiator]
        for die, watts, lag in self._nodes:
            die_c = values[die]
            above_k = self._die_k_w * lag.follow(values[watts], dt_s)
            stand.append(_UNKNOWN if die_c is None or plate_c is None
                         else (die_c - plate_c - above_k, _MODEL_ERROR_FRAC * above_k))
        return tuple(stand)

    def _count(self, volts: float | None, amps: float | None, dt_s: float) -> None:
        """Count the charge and how far the count may be off; what is not measured may have been anything."""
        before = self._flow_w
        self._flow_w = self._unseen_w
        if volts is not None and amps is not None:
            power_w = volts * amps
            error_w = abs(amps) * self._error_v + volts * self._error_a
            lost_w = 2.0 * self._resistance_ohm * amps * amps + _LOSS_ERROR_FRAC * abs(power_w)
            self._flow_w = (power_w - lost_w - error_w, power_w + error_w)
        low_w, high_w = min(before[0], self._flow_w[0]), max(before[1], self._flow_w[1])
        half_s = 0.5 * dt_s / self._capacity_j
        self._count_frac += (low_w + high_w) * half_s
        self._count_error_frac += (high_w - low_w) * half_s


def _without(indices: Sequence[int], values: Sequence[float | None]) -> tuple[float | None, ...]:
    """Return `values` with none at `indices`."""
    left = list(values)
    for i in indices:
        left[i] = None
    return tuple(left)

"""Readings -> what is known of the satellite, with bounds. Called once a tick; pure but for its memory.

A quantity that is measured has the sensor's accuracy as bounds. One that is not measured any more keeps
its last value while its bounds run apart at the fastest rate physics allows; when that has gone on for
`blind_after_s` the quantity counts as unknown and is named in `blind` (or the node in `dark_nodes`).
"""

from __future__ import annotations

from flightsw.dictionary.sensors import INDEX, SENSORS
from flightsw.mission import Mission
from flightsw.physics.units import KELVIN
from flightsw.state import Bounded, Estimate, Readings

_UNKNOWN_K = Bounded(KELVIN + 20.0, KELVIN - 90.0, KELVIN + 130.0)


class _Track:
    """One measured quantity: last good value, and how fast its bounds run apart when nothing comes."""

    __slots__ = ("accuracy", "best", "growth_per_s", "index", "known", "name", "offset", "seen_s")

    def __init__(self, name: str, growth_per_s: float, offset: float = 0.0) -> None:
        self.name = name
        self.index = INDEX[name]
        self.accuracy = SENSORS[self.index].accuracy
        self.growth_per_s = growth_per_s
        self.offset = offset
        self.best = 0.0
        self.seen_s = 0.0
        self.known = False

    def update(self, readings: Readings) -> Bounded | None:
        """Take this tick's value; None while the quantity was never measured."""
        value = readings.values[self.index]
        if value is not None:
            self.best = value + self.offset
            self.seen_s = readings.sampled_s[self.index]
            self.known = True
        elif not self.known:
            return None
        half = self.accuracy + self.growth_per_s * (readings.now_s - self.seen_s)
        return Bounded(self.best, self.best - half, self.best + half)


class Estimator:
    """Keeps the memory that bounds need; the same readings in the same order give the same estimates."""

    def __init__(self, mission: Mission) -> None:
        compute, thermal, battery = mission.compute, mission.thermal, mission.battery
        top_w = compute.modes[-1].cap_w
        payload_w = mission.parameters["payload_max_w"]
        # Fastest warming: all the heat into the node's own capacity. Never slower than really possible.
        self._temperatures = (
            *(_Track(f"die{i}_c", top_w / thermal.die_heat_capacity_j_k, KELVIN) for i in range(compute.nodes)),
            _Track("plate_c", payload_w / thermal.plate_heat_capacity_j_k, KELVIN),
            _Track("radiator_c", payload_w / thermal.radiator_heat_capacity_j_k, KELVIN),
            _Track("bus_c", payload_w / thermal.bus_heat_capacity_j_k, KELVIN),
            _Track("battery_c", battery.charge_limit_w / battery.heat_capacity_j_k, KELVIN),
            _Track("array_c", 2.0, KELVIN),  # K/s: a 1 kg panel at sunrise warms by less than 1 K/s
        )
        self._nodes = compute.nodes
        self._capacity_j = battery.capacity_wh * 3600.0
        self._efficiency = battery.charge_efficiency_frac
        self._load_max_w = payload_w + mission.bus.idle_w + mission.bus.transmitter_w + battery.heater_w
        self._charge_max_w = battery.charge_limit_w
        self._gauge = _Track("battery_soc_frac", 0.0)
        self._v = INDEX["battery_v"]
        self._a = INDEX["battery_a"]
        self._scalars = tuple(INDEX[name] for name in ("array_w", "bus_w", "sun_frac"))
        self._node_w = tuple(INDEX[f"node{i}_w"] for i in range(compute.nodes))
        self._battery: Bounded | None = None
        self._last_s = 0.0
        self._battery_seen_s = 0.0

    def update(self, readings: Readings, blind_after_s: float) -> Estimate:
        """Return the estimate after this tick's readings."""
        values = readings.values
        now_s = readings.now_s
        temperature_k: list[Bounded] = []
        blind: list[str] = []
        dark: list[int] = []
        for i, track in enumerate(self._temperatures):
            bounded = track.update(readings)
            if bounded is None or now_s - track.seen_s > blind_after_s:
                if i < self._nodes:
                    dark.append(i)
                elif track.name != "array_c":  # the array's temperature only bounds its own power
                    blind.append(track.name)
            temperature_k.append(_UNKNOWN_K if bounded is None else bounded)
        battery_j = self._update_battery(readings)
        if battery_j is None or now_s - self._battery_seen_s > blind_after_s:
            blind.append("battery_soc_frac")
        array_w, bus_w, sun_frac = (values[i] for i in self._scalars)
        self._last_s = now_s
        return Estimate(
            now_s,
            battery_j if battery_j is not None else Bounded(0.0, 0.0, self._capacity_j),
            tuple(temperature_k), array_w, bus_w, tuple([values[i] for i in self._node_w]), sun_frac,
            tuple(blind), tuple(dark),
        )

    def _update_battery(self, readings: Readings) -> Bounded | None:
        """Count energy at the terminals between the gauge's words, and let the gauge bound the count."""
        now_s = readings.now_s
        volts, amps, gauge = readings.values[self._v], readings.values[self._a], readings.values[self._gauge.index]
        dt_s = now_s - self._last_s
        before = self._battery
        counted: Bounded | None = None
        if before is not None:
            if volts is not None and amps is not None:
                delta_j = volts * amps * dt_s * (self._efficiency if amps > 0.0 else 1.0)
                error_j = (abs(amps) * SENSORS[self._v].accuracy + volts * SENSORS[self._a].accuracy) * dt_s
                # Pack loss is drawn from inside and not seen at the terminals: it only widens downwards.
                loss_j = 0.03 * abs(delta_j)
                counted = Bounded(before.best + delta_j, before.low + delta_j - error_j - loss_j,
                                  before.high + delta_j + error_j)
            else:
                counted = Bounded(before.best, before.low - self._load_max_w * dt_s,
                                  before.high + self._charge_max_w * dt_s)
        if gauge is not None:
            self._battery_seen_s = now_s
            capacity_j = self._capacity_j
            half_j = self._gauge.accuracy * capacity_j
            measured_j = gauge * capacity_j
            if counted is None:
                counted = Bounded(measured_j, measured_j - half_j, measured_j + half_j)
            else:
                # Intersect; where they contradict each other the gauge's own bounds are believed.
                low = max(counted.low, measured_j - half_j)
                high = min(counted.high, measured_j + half_j)
                if low > high:
                    low, high = measured_j - half_j, measured_j + half_j
                best = counted.best + (measured_j - counted.best) * min(1.0, dt_s / 600.0)
                counted = Bounded(min(max(best, low), high), low, high)
        if counted is None:
            return None
        capacity_j = self._capacity_j
        self._battery = Bounded(min(max(counted.best, 0.0), capacity_j), min(max(counted.low, 0.0), capacity_j),
                                min(max(counted.high, 0.0), capacity_j))
        return self._battery

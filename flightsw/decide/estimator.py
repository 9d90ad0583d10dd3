"""Readings -> what is known of the satellite, with bounds. Called once a tick; pure but for its memory.

A quantity that is measured has the sensor's accuracy as bounds. One that is not measured any more keeps
its last value while its bounds run apart at the fastest rate physics allows; when that has gone on for
`blind_after_s` the quantity counts as unknown and is named in `blind` (or the node in `dark_nodes`).
Every ten seconds the learners look: pack, array, heat path, idle load (`Estimate.learnt`), and whether the Sun is there
that should be.
"""

from __future__ import annotations

from typing import NamedTuple

from flightsw.decide.array import ArrayHealth
from flightsw.decide.load import IdleLoad
from flightsw.decide.pack import PackCapacity
from flightsw.decide.shade import Shade
from flightsw.decide.thermal import HeatPath
from flightsw.dictionary.sensors import INDEX, SENSORS
from flightsw.mission import Mission
from flightsw.physics.forecast import Forecaster, Surroundings
from flightsw.physics.units import J_PER_WH, KELVIN
from flightsw.state import AS_DESIGNED, Bounded, Estimate, Learnt, Readings

_LOOK_EVERY_S = 10.0
_ARRAY_C = INDEX["array_c"]
_STRUCTURE_C = tuple(INDEX[name] for name in ("plate_c", "radiator_c", "bus_c", "battery_c"))
_UNKNOWN_K = Bounded(KELVIN + 20.0, KELVIN - 90.0, KELVIN + 130.0)


class _Track:
    """One measured quantity: last good value, and how fast its bounds run apart when nothing comes."""

    __slots__ = ("accuracy", "best", "ceiling", "fall_per_s", "floor", "index", "known", "name", "offset",
                 "rise_per_s", "seen_s")

    def __init__(self, name: str, rise_per_s: float, fall_per_s: float, offset: float = 0.0) -> None:
        row = SENSORS[INDEX[name]]
        self.name = name
        self.index = INDEX[name]
        self.accuracy = row.accuracy
        self.rise_per_s = rise_per_s
        self.fall_per_s = fall_per_s
        self.offset = offset
        # Bounds end where the sensor's own range does: they stay numbers that a model can start from.
        self.floor = row.low - row.accuracy + offset
        self.ceiling = row.high + row.accuracy + offset
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
        age_s = max(0.0, readings.now_s - self.seen_s)
        return Bounded(self.best, max(self.best - self.accuracy - self.fall_per_s * age_s, self.floor),
                       min(self.best + self.accuracy + self.rise_per_s * age_s, self.ceiling))


class _Flow(NamedTuple):
    """Power into the pack's charge at one moment, W, negative when it gives."""

    best: float
    low: float
    high: float


class Estimator:
    """Keeps the memory that bounds need; the same readings in the same order give the same estimates.

    `forecaster` says what the Sun and the Earth send; without one nothing is learnt but the pack.
    """

    def __init__(self, mission: Mission, forecaster: Forecaster | None = None) -> None:
        compute, thermal, battery = mission.compute, mission.thermal, mission.battery
        top_w = compute.modes[-1].cap_w
        payload_w = compute.nodes * top_w
        die_w_k, die_j_k = thermal.die_to_plate_w_k, thermal.die_heat_capacity_j_k
        plate_k_s, radiator_k_s, bus_k_s, battery_k_s = (
            payload_w / thermal.plate_heat_capacity_j_k, payload_w / thermal.radiator_heat_capacity_j_k,
            payload_w / thermal.bus_heat_capacity_j_k, battery.charge_limit_w / battery.heat_capacity_j_k,
        )
        # Fastest warming: all the heat into the node's own capacity. Nothing cools faster than it can warm but
        # a die whose load ends: it has the plate, at most 60 K colder, next to it.
        self._temperatures = (
            *(_Track(f"die{i}_c", top_w / die_j_k, max(top_w, 60.0 * die_w_k) / die_j_k, KELVIN)
              for i in range(compute.nodes)),
            _Track("plate_c", plate_k_s, plate_k_s, KELVIN),
            _Track("radiator_c", radiator_k_s, radiator_k_s, KELVIN),
            _Track("bus_c", bus_k_s, bus_k_s, KELVIN),
            _Track("battery_c", battery_k_s, battery_k_s, KELVIN),
            _Track("array_c", 2.0, 2.0, KELVIN),  # K/s: a 1 kg panel at sunrise warms by less than 1 K/s
        )
        self._nodes = compute.nodes
        self._capacity_j = battery.capacity_wh * J_PER_WH
        self._efficiency = battery.charge_efficiency_frac
        self._resistance_ohm = battery.resistance_ohm
        self._pack_frac = mission.margins.battery_capacity_frac
        load_w = payload_w + mission.bus.idle_w + mission.bus.transmitter_w + battery.heater_w
        load_w += battery.resistance_ohm * (load_w / battery.empty_v) ** 2
        self._pack = PackCapacity(self._capacity_j)
        self._unseen = self._in_pack(_Flow(0.0, -load_w, battery.charge_limit_w))
        self._gauge = INDEX["battery_soc_frac"]
        self._v = INDEX["battery_v"]
        self._a = INDEX["battery_a"]
        self._scalars = tuple(INDEX[name] for name in ("array_w", "bus_w", "sun_frac"))
        self._node_w = tuple(INDEX[f"node{i}_w"] for i in range(compute.nodes))
        self._battery: Bounded | None = None
        self._flow: _Flow = self._unseen
        self._last_s = 0.0
        self._gauge_seen_s = 0.0
        self._forecaster = forecaster
        self._array = ArrayHealth(mission)
        self._shade = Shade(mission)
        self._heat = HeatPath(mission)
        self._idle = IdleLoad(mission)
        self._dies_c = tuple(INDEX[f"die{i}_c"] for i in range(compute.nodes))
        self._learnt: Learnt = AS_DESIGNED
        self._looked_s = 0.0
        self._pack_looked_s = -_LOOK_EVERY_S

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
        if battery_j is None or now_s - self._gauge_seen_s > blind_after_s:
            blind.append("battery_soc_frac")
        array_w, bus_w, sun_frac = (values[i] for i in self._scalars)
        self._last_s = now_s
        if self._forecaster is not None and now_s - self._looked_s >= _LOOK_EVERY_S:
            self._looked_s = now_s
            self._learn(readings, self._forecaster.surroundings(now_s))
        return Estimate(
            now_s,
            battery_j if battery_j is not None else Bounded(0.0, 0.0, self._capacity_j),
            tuple(temperature_k), array_w, bus_w, tuple([values[i] for i in self._node_w]), sun_frac,
            tuple(blind), tuple(dark), self._pack.frac, self._learnt, self._shade.is_on,
        )

    def _learn(self, readings: Readings, around: Surroundings) -> None:
        """Let each learner look at this tick's readings; one of which a reading is missing does not."""
        values = readings.values
        array_w, bus_w, sun_frac = (values[i] for i in self._scalars)
        volts, amps, charge_frac, array_c = values[self._v], values[self._a], values[self._gauge], values[_ARRAY_C]
        self._shade.update(around.array_flux_w_m2, sun_frac, array_w, bus_w,
                           None if volts is None or amps is None else volts * amps)
        if (array_w is not None and bus_w is not None and volts is not None and amps is not None
                and charge_frac is not None and array_c is not None):
            self._array.update(around.array_flux_w_m2, array_c + KELVIN, array_w, bus_w, volts, amps, charge_frac)
        nodes_w = [value for value in (values[i] for i in self._node_w) if value is not None]
        dies_k = [value + KELVIN for value in (values[i] for i in self._dies_c) if value is not None]
        plate_c, radiator_c, bus_c, battery_c = (values[i] for i in _STRUCTURE_C)
        if len(nodes_w) == self._nodes:
            if (len(dies_k) == self._nodes and plate_c is not None and radiator_c is not None and bus_c is not None):
                self._heat.update(readings.now_s, nodes_w, dies_k, plate_c + KELVIN, radiator_c + KELVIN,
                                  bus_c + KELVIN, around.radiator_heat_w)
            if bus_w is not None and battery_c is not None:
                self._idle.update(bus_w, nodes_w, battery_c + KELVIN, transmits=around.transmits)
        heat = self._heat
        self._learnt = Learnt(self._array.factor, heat.radiator, self._idle.factor, heat.plate_link, heat.die_links)

    def _update_battery(self, readings: Readings) -> Bounded | None:
        """Count charge between the gauge's words, and let the gauge bound the count.

        Charge is in joules of a pack of nominal capacity, so that it is the gauge's fraction in other words.
        """
        now_s = readings.now_s
        dt_s = now_s - self._last_s
        before, flow_before = self._battery, self._flow
        flow = self._flow = self._flow_w(readings.values[self._v], readings.values[self._a])
        known: Bounded | None = None
        if before is not None:
            # Between two samples the power lay between them.
            known = Bounded(before.best + 0.5 * (flow_before.best + flow.best) * dt_s,
                            before.low + min(flow_before.low, flow.low) * dt_s,
                            before.high + max(flow_before.high, flow.high) * dt_s)
        gauge = readings.values[self._gauge]
        seen = before is not None and flow is not self._unseen and flow_before is not self._unseen
        sampled_s = readings.sampled_s[self._gauge]
        fresh = sampled_s >= self._pack_looked_s + _LOOK_EVERY_S
        if fresh:
            self._pack_looked_s = sampled_s
        self._pack.update(0.5 * (flow_before.best + flow.best) * dt_s if seen else None, gauge if fresh else None)
        if gauge is not None:
            self._gauge_seen_s = readings.sampled_s[self._gauge]
            age_s = max(0.0, now_s - self._gauge_seen_s)
            half_j = SENSORS[self._gauge].accuracy * self._capacity_j
            measured_j = gauge * self._capacity_j
            low = measured_j - half_j + self._unseen.low * age_s
            high = measured_j + half_j + self._unseen.high * age_s
            best = measured_j
            if known is not None:
                best = known.best + (measured_j - known.best) * min(1.0, dt_s / 600.0)
                # Intersect; where they contradict each other the gauge's own bounds are believed.
                if max(low, known.low) <= min(high, known.high):
                    low, high = max(low, known.low), min(high, known.high)
            known = Bounded(min(max(best, low), high), low, high)
        if known is None:
            return None
        capacity_j = self._capacity_j
        self._battery = Bounded(*(min(max(value, 0.0), capacity_j) for value in known))
        return self._battery

    def _flow_w(self, volts: float | None, amps: float | None) -> _Flow:
        """Power into the pack's charge: what passes the terminals less what the pack's resistance takes."""
        if volts is None or amps is None:
            return self._unseen
        loss_w = self._resistance_ohm * amps * amps
        kept = self._efficiency if amps > 0.0 else 1.0
        error_v, error_a = SENSORS[self._v].accuracy, SENSORS[self._a].accuracy
        error_w = abs(amps) * error_v + (volts + error_v + 2.0 * self._resistance_ohm * abs(amps)) * error_a
        # The resistance is known to half of itself: it doubles in the cold.
        return self._in_pack(_Flow((volts * amps - loss_w) * kept, (volts * amps - 1.5 * loss_w) * kept - error_w,
                                   volts * amps - 0.5 * loss_w + error_w))

    def _in_pack(self, flow: _Flow) -> _Flow:
        """Widen for the pack's true capacity: the same power moves the charge of a smaller pack further."""
        less, more = 1.0 - self._pack_frac, 1.0 + self._pack_frac
        return _Flow(flow.best, min(flow.low / less, flow.low / more), max(flow.high / less, flow.high / more))

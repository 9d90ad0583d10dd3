"""The reference missions, states of them to start from, and a plain NumPy re-computation of their power and heat.

Written from the mission file's meanings, not from the kernel: explicit steps, one equation a line, any number of
satellites side by side (last axis).
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flightsw.compose import forecaster_of, start_unix_s
from flightsw.mission import Mission, load
from flightsw.orbit import Attitude, Orbit, parse_tle
from flightsw.physics.forecast import Forecaster
from flightsw.state import Bounded, Estimate

Array = npt.NDArray[np.float64]

MISSIONS = Path(__file__).parents[2] / "missions"
SIGMA = 5.670374419e-8
ZERO_C = 273.15
DIES, PLATE, RADIATOR, BUS, BATTERY, PANEL = slice(0, 4), 4, 5, 6, 7, 8
WARM_C = (25.0, 25.0, 25.0, 25.0, 20.0, 10.0, 15.0, 18.0, 30.0)


@functools.cache
def mission(name: str = "iss_like", attitude: str = "sun") -> Mission:
    loaded = load(MISSIONS / f"{name}.toml")
    return dataclasses.replace(loaded, array=dataclasses.replace(loaded.array, attitude=attitude))


@functools.cache
def forecaster(name: str = "iss_like", attitude: str = "sun") -> Forecaster:
    """Shared: a forecaster's answers do not depend on what it was asked before (test_forecast holds it to that)."""
    return fresh_forecaster(name, attitude)


def fresh_forecaster(name: str = "iss_like", attitude: str = "sun") -> Forecaster:
    return forecaster_of(mission(name, attitude), name)


@functools.cache
def orbit(name: str = "iss_like") -> Orbit:
    return Orbit(parse_tle(mission(name).orbit.tle, name))


def start_s(name: str = "iss_like") -> float:
    return start_unix_s(mission(name), name)


def estimate(now_s: float = 0.0, charge_frac: float = 0.9, celsius: tuple[float, ...] = WARM_C, *,
             half_frac: float = 0.005, half_k: float = 1.0, dark: tuple[int, ...] = (),
             blind: tuple[str, ...] = ()) -> Estimate:  # fmt: skip
    full_j = mission().battery.capacity_wh * 3600.0
    charge = Bounded(*(full_j * min(max(charge_frac + d, 0.0), 1.0) for d in (0.0, -half_frac, half_frac)))
    temperatures = tuple(Bounded(c + ZERO_C, c + ZERO_C - half_k, c + ZERO_C + half_k) for c in celsius)
    return Estimate(now_s, charge, temperatures, 90.0, 40.0, (None,) * 4, 1.0, blind, dark)


class Weather(NamedTuple):
    """What comes from outside, by the step: Sun on the array W/m2, absorbed heat W by node, transmitter W."""

    flux_w_m2: Array  # (steps,)
    heat_w: Array  # (steps, nodes)
    tx_w: Array  # (steps,)


@functools.cache
def weather(name: str, from_s: float, steps: int, dt_s: float, attitude: str = "sun") -> Weather:
    m, around_orbit = mission(name, attitude), orbit(name)
    unix_s = start_s(name) + from_s + (np.arange(steps) + 0.5) * dt_s
    faces = around_orbit.environment(unix_s, Attitude(attitude))
    zenith, nadir = 5, 4
    t = m.thermal
    solar, albedo, infrared = faces.solar_w_m2, faces.albedo_w_m2, faces.infrared_w_m2
    heat = np.zeros((steps, 9))
    heat[:, RADIATOR] = t.radiator_area_m2 * (
        t.radiator_absorptivity * (solar + albedo) + t.radiator_emissivity * infrared)[:, nadir]
    heat[:, BUS] = t.bus_area_m2 * (t.bus_absorptivity * (solar + albedo) + t.bus_emissivity * infrared).mean(axis=1)
    heat[:, PANEL] = m.array.area_m2 * (
        m.array.absorptivity * albedo + m.array.emissivity_both * infrared).mean(axis=1)
    tx = np.zeros(steps)
    for station in m.stations:
        for contact in around_orbit.passes(station, float(unix_s[0]), float(unix_s[-1])):
            tx[(unix_s >= contact.aos_unix_s) & (unix_s <= contact.los_unix_s)] = m.bus.transmitter_w
    return Weather(solar[:, zenith], heat, tx)


class Corner(NamedTuple):
    """Factors on the mission's numbers."""

    array: float = 1.0
    capacity: float = 1.0
    radiating: float = 1.0
    bus: float = 1.0
    draw: float = 1.0
    environment: float = 1.0


def hot_corner(m: Mission, caution: float = 1.0) -> Corner:
    """Every margin of the mission used up (`caution` 1), or that share of it: hotter and with less energy."""
    g = m.margins
    draw = g.draw_frac if caution == 1.0 else 0.3 / 14.0  # below: what a node's meter leaves in its most efficient mode
    return Corner(1.0 - caution * g.array_frac, 1.0 - caution * g.battery_capacity_frac,
                  1.0 - caution * g.radiating_frac, 1.0 + caution * g.bus_frac, 1.0 + caution * draw,
                  1.0 + caution * g.environment_frac)


def hot_start(m: Mission, state: Estimate, caution: float = 1.0) -> tuple[Array, float]:
    """Temperatures (K) that far from the best estimate to the worst credible one; charge (fraction) at its worst."""
    worst_k = np.array([b.high + m.margins.temperature_k for b in state.temperature_k])
    best_k = np.array([b.best for b in state.temperature_k])
    energy_j = state.battery_j.low if caution > 0.0 else state.battery_j.best
    return caution * worst_k + (1.0 - caution) * best_k, energy_j / (m.battery.capacity_wh * 3600.0)


def cold_corner(m: Mission) -> Corner:
    """Less energy, but colder: where the heater works most."""
    g = m.margins
    return hot_corner(m)._replace(radiating=1.0 + g.radiating_frac, environment=1.0 - g.environment_frac)


class Flown(NamedTuple):
    """Extremes of a run, last axis the satellites; and the traces, first axis the steps."""

    highest_k: Array
    lowest_frac: Array
    end_frac: Array
    temperature_k: Array
    charge_frac: Array
    heater_s: Array


def fly(m: Mission, outside: Weather, dt_s: float, first: npt.NDArray[np.int64], start_k: Array, charge_frac: Array,
        draws_w: Array, corner: Corner, heater_on: float = 0.0) -> Flown:  # fmt: skip
    """Step satellites through `outside`, satellite i from step `first[i]`; `draws_w` is (steps, nodes, satellites)."""
    b, t, a = m.battery, m.thermal, m.array
    n = m.compute.nodes
    steps, _, lanes = draws_w.shape
    heat_capacity = np.array([t.die_heat_capacity_j_k] * n + [
        t.plate_heat_capacity_j_k, t.radiator_heat_capacity_j_k, t.bus_heat_capacity_j_k, b.heat_capacity_j_k,
        a.heat_capacity_j_k])[:, None]  # fmt: skip
    radiating = np.zeros((9, 1))
    radiating[RADIATOR] = t.radiator_area_m2 * t.radiator_emissivity * corner.radiating
    radiating[BUS] = t.bus_area_m2 * t.bus_emissivity * corner.radiating
    radiating[PANEL] = a.area_m2 * a.emissivity_both * corner.radiating
    conductance = np.zeros((9, 9))
    for i, j, w_k in [*((die, PLATE, t.die_to_plate_w_k) for die in range(n)),
                      (PLATE, RADIATOR, t.plate_to_radiator_w_k), (PLATE, BUS, t.plate_to_bus_w_k),
                      (BATTERY, BUS, b.to_bus_w_k)]:  # fmt: skip
        conductance[i, j] += w_k
        conductance[j, i] += w_k
    laplace = conductance - np.diag(conductance.sum(axis=1))
    full_j = b.capacity_wh * 3600.0 * corner.capacity
    taper_w_per_j = min(b.charge_limit_w / ((1.0 - b.taper_start_frac) * full_j), 1.0 / dt_s)
    kelvin, energy = start_k.copy(), charge_frac * full_j
    heater = np.full(lanes, heater_on)
    heater_s = np.zeros(lanes)
    kelvins, charges = np.zeros((steps, 9, lanes)), np.zeros((steps, lanes))
    for step in range(steps):
        flux = outside.flux_w_m2[first + step]
        heat = outside.heat_w[first + step].T * corner.environment
        tx = outside.tx_w[first + step]
        heater = np.where(kelvin[BATTERY] > b.heater_off_c + ZERO_C, 0.0, heater)
        heater = np.where(kelvin[BATTERY] < b.heater_on_c + ZERO_C, 1.0, heater)
        heater_s += heater * dt_s
        compute = draws_w[step] * corner.draw
        load = m.bus.idle_w * corner.bus + tx + heater * b.heater_w + compute.sum(axis=0)
        efficiency = (a.efficiency_frac * a.mppt_frac * a.health_frac * corner.array
                      * (1.0 + a.temp_coeff_per_k * (kelvin[PANEL] - a.reference_c - ZERO_C)))  # fmt: skip
        offered = flux * a.area_m2 * efficiency
        pack = np.minimum(offered - load, np.minimum(b.charge_limit_w, taper_w_per_j * (full_j - energy)))
        open_v = b.empty_v + (b.full_v - b.empty_v) * energy / full_j
        amps = ((-open_v + np.sqrt(open_v**2 + 4.0 * b.resistance_ohm * pack)) / (2.0 * b.resistance_ohm))
        stored = open_v * amps * np.where(pack > 0.0, b.charge_efficiency_frac, 1.0)
        heat[:n] += compute
        heat[BATTERY] += heater * b.heater_w + pack - stored
        heat[BUS] += m.bus.idle_w * corner.bus + tx * m.bus.transmitter_heat_frac
        heat[PANEL] += flux * a.area_m2 * a.absorptivity - (load + pack)
        kelvin = kelvin + dt_s * (heat + laplace @ kelvin - SIGMA * radiating * kelvin**4) / heat_capacity
        energy = np.clip(energy + stored * dt_s, 0.0, full_j)
        kelvins[step], charges[step] = kelvin, energy / full_j
    return Flown(np.maximum(kelvins.max(axis=0), start_k), np.minimum(charges.min(axis=0), charge_frac),
                 charges[-1], kelvins, charges, heater_s)


def limits_k(parameters: dict[str, float]) -> Array:
    """Highest temperature of each node, K; infinite where there is none."""
    return ZERO_C + np.array([parameters["die_max_c"]] * 4 + [
        parameters["plate_max_c"], parameters["radiator_max_c"], np.inf, parameters["battery_max_c"], np.inf])

"""The truth plant against Basilisk, an independent simulator: orbit, shadow, panels, battery, heat.

Conventions are in the data's README. Orbit, Sun and shadow are `hil.plant`'s; battery and thermal node run
through the C plant.
"""

from __future__ import annotations

import csv
import datetime
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from flightsw.kernels import Plant
from flightsw.orbit import Attitude
from hil.plant.environment import TruthEnvironment, build_environment, sun_position_m
from hil.plant.propagator import Earth, Frame, StartState

Array = npt.NDArray[np.float64]

ROOT = Path(__file__).resolve().parents[2]
# The whole data where it lies beside the project, else the thinned copy that travels with it.
DATA = next(
    folder
    for folder in (ROOT.parent / "shared" / "data" / "basilisk_truth", ROOT / "tests/data/basilisk_truth")
    if folder.is_dir()
)
SUMMARY = json.loads((DATA / "summary.json").read_text())
PARAMS = SUMMARY["params"]
EVENT_TOLERANCE_S = {"kepler": 0.5, "j2": 2.0}


@dataclass(frozen=True)
class Case:
    """One reference run and the plant's own run of it."""

    summary: dict[str, float]
    start: StartState
    table: dict[str, Array]
    events: list[tuple[float, str, bool]]
    env: TruthEnvironment

    @property
    def rows(self) -> npt.NDArray[np.intp]:
        return self.table["t_s"].astype(np.intp)

    def sun_unit(self) -> Array:
        """Direction from satellite to Sun on the 1 s grid."""
        towards_m = sun_position_m(self.env.start_unix_s + self.env.t_s, Frame.J2000) - self.env.position_m
        return np.asarray(towards_m / np.linalg.norm(towards_m, axis=1)[:, None])

    def fixed_axes(self) -> tuple[Array, Array, Array]:
        """Zenith, orbit normal and ram of satellite B, which spins at the Keplerian rate."""
        radius, velocity = np.array(self.start.position_m), np.array(self.start.velocity_mps)
        up = radius / np.linalg.norm(radius)
        normal = np.cross(radius, velocity)
        normal /= np.linalg.norm(normal)
        angle = (self.summary["n"] * self.env.t_s)[:, None]
        zenith = np.cos(angle) * up + np.sin(angle) * np.cross(normal, up)
        return zenith, np.broadcast_to(normal, zenith.shape), np.cross(normal, zenith)

    def panel_w(self, normal: Array) -> Array:
        """Electrical power of a panel of the reference's area and efficiency."""
        cosine = np.maximum((normal * self.sun_unit()).sum(axis=1), 0.0)
        scale = float(PARAMS["panel_area"]) * float(PARAMS["panel_eff"])
        return np.asarray(self.env.direct_w_m2 * cosine * scale)


@pytest.fixture(scope="module", params=sorted(SUMMARY["cases"]))
def case(request: pytest.FixtureRequest) -> Case:
    summary = SUMMARY["cases"][request.param]
    with (DATA / f"{request.param}.csv").open() as file:
        records = list(csv.DictReader(file))
    with (DATA / f"{request.param}_events.csv").open() as file:
        events = [(float(r["t_s"]), r["level"], r["kind"] == "entry") for r in csv.DictReader(file)]
    epoch = datetime.datetime.fromisoformat(summary["epoch"]).replace(tzinfo=datetime.UTC)
    x, y, z = summary["r0_m"]
    vx, vy, vz = summary["v0_mps"]
    start = StartState(epoch.timestamp(), (x, y, z), (vx, vy, vz), Frame.J2000)
    earth = Earth(summary["MU"], summary["RE_m"], Earth().j2 if summary["grav"] == "j2" else 0.0)
    return Case(
        summary,
        start,
        {key: np.array([float(record[key]) for record in records]) for key in records[0]},
        events,
        build_environment(start, summary["steps"], Attitude.NADIR, seed=1, earth=earth),
    )


def test_reference_is_whole(case: Case) -> None:
    assert len(case.events) == 30  # six edges in each of five orbits
    assert case.table["t_s"].size > 450
    assert case.table["t_s"][-1] >= case.summary["steps"] - 60


def test_sun(case: Case) -> None:
    expected_m = np.array(case.summary["sun0_m"])
    sun_m = sun_position_m(np.array([case.start.unix_s]), Frame.J2000)[0]
    chord = sun_m / np.linalg.norm(sun_m) - expected_m / np.linalg.norm(expected_m)
    assert math.degrees(float(np.linalg.norm(chord))) * 3600.0 < 6.0
    assert np.linalg.norm(sun_m) == pytest.approx(float(np.linalg.norm(expected_m)), rel=3e-5)


def test_orbit(case: Case) -> None:
    expected_m = np.stack([case.table[key] for key in ("x_m", "y_m", "z_m")], axis=1)
    miss_m = np.linalg.norm(case.env.position_m[case.rows] - expected_m, axis=1)
    assert miss_m.max() < (0.5 if case.summary["grav"] == "kepler" else 5.0)


def test_every_eclipse_edge(case: Case) -> None:
    found = case.env.crossings
    assert [(c.level, c.entering) for c in found] == [event[1:] for event in case.events]
    tolerance_s = EVENT_TOLERANCE_S[str(case.summary["grav"])]
    for crossing, event in zip(found, case.events, strict=True):
        assert crossing.t_s == pytest.approx(event[0], abs=tolerance_s)
        if event[1] == "half":  # the reference interpolates these; the others it knows to 0.1 s
            assert crossing.t_s == pytest.approx(event[0], abs=0.05)


def test_panel_powers(case: Case) -> None:
    zenith, normal, ram = case.fixed_axes()
    pointed = np.broadcast_to(case.sun_unit()[0], zenith.shape)
    peak_w = case.table["P_sunpointed_W"].max()
    for column, axis in (
        ("P_sunpointed_W", pointed),
        ("P_zenith_W", zenith),
        ("P_orbitnormal_W", normal),
        ("P_ram_W", ram),
    ):
        assert case.panel_w(axis)[case.rows] == pytest.approx(case.table[column], rel=5e-3, abs=5e-3 * peak_w)
        if column == "P_sunpointed_W":
            assert case.panel_w(axis).mean() == pytest.approx(case.summary["P_sun_mean"], rel=5e-4)


def test_battery_and_thermal_node(case: Case) -> None:
    zenith, _, _ = case.fixed_axes()
    sun = case.sun_unit()
    sun_flux_w_m2 = (case.env.direct_w_m2 * np.maximum(sun @ sun[0], 0.0)).tolist()
    up_flux_w_m2 = (case.env.direct_w_m2 * np.maximum((zenith * sun).sum(axis=1), 0.0)).tolist()
    computing = case.env.t_s % PARAMS["compute_period_s"] < PARAMS["compute_on_s"]
    assert case.table["load_W"] == pytest.approx(
        PARAMS["base_load_W"] + PARAMS["compute_load_W"] * computing[case.rows]
    )

    plant = reference_plant()
    absorbing_m2 = PARAMS["rad_absorptivity"] * PARAMS["rad_area"]
    charge_wh, radiator_c = [PARAMS["batt_init_Wh"]], [PARAMS["rad_T0_C"]]
    for k in range(1, len(sun_flux_w_m2)):
        # Right rectangle: the values at the end of a step are held over it.
        radiator_w = PARAMS["rad_base_W"] + PARAMS["rad_compute_W"] * float(computing[k])
        plant.advance(
            sun_flux_w_m2[k],
            (radiator_w + absorbing_m2 * up_flux_w_m2[k], 0.0),
            (PARAMS["compute_load_W"] * float(computing[k]),),
            False,
            1.0,
            1,
        )
        charge_wh.append(plant.state.battery_j / 3600.0)
        radiator_c.append(plant.state.temperature_k[0] - 273.15)
    charge, radiator = np.array(charge_wh), np.array(radiator_c)
    assert charge[case.rows] == pytest.approx(case.table["batt_Wh"], abs=0.3)
    assert charge.min() == pytest.approx(case.summary["batt_min_Wh"], abs=0.3)
    assert charge[-1] == pytest.approx(case.summary["batt_end_Wh"], abs=0.3)
    assert radiator[case.rows] == pytest.approx(case.table["T_rad_C"], abs=0.1)
    # The table has the reference's wrong constant taken out; the summary's T_min and T_max still carry it.
    assert (radiator[case.rows].min(), radiator[case.rows].max()) == pytest.approx(
        (case.table["T_rad_C"].min(), case.table["T_rad_C"].max()), abs=0.1
    )


def reference_plant() -> Plant:
    """An ideal integrator as battery, a bare radiator as node 0, all other heat into a great mass, node 1."""
    plant = Plant()
    m = plant.model
    m.n_nodes, m.n_links, m.n_compute = 2, 0, 1
    m.heat_capacity_j_k[0] = PARAMS["rad_mass"] * PARAMS["rad_cp"]
    m.radiating_m2[0] = PARAMS["rad_area"] * PARAMS["rad_emissivity"]
    m.heat_capacity_j_k[1] = 1e9
    m.array_node = m.battery_node = m.bus_node = 1
    m.array_area_m2, m.array_efficiency_frac = PARAMS["panel_area"], PARAMS["panel_eff"]
    m.array_ref_k, m.array_health_frac, m.mppt_efficiency_frac = 300.0, 1.0, 1.0
    m.battery_capacity_j = PARAMS["batt_capacity_Wh"] * 3600.0
    m.battery_ocv_v[0] = 15.0
    m.charge_limit_w, m.taper_start_frac, m.charge_efficiency_frac = 1e4, 1.0, 1.0
    m.heater_on_k[0:2], m.heater_off_k[0:2] = [200.0, 200.0], [210.0, 210.0]
    m.bus_w = PARAMS["base_load_W"]
    m.die_node[0] = m.module_node[0] = 1
    m.die_heat_frac[0], m.leak_ref_k[0] = 1.0, 300.0
    m.trip_k[0], m.untrip_k[0], m.trip_w[0] = 500.0, 490.0, 0.0
    s = plant.state
    s.temperature_k[0], s.temperature_k[1] = PARAMS["rad_T0_C"] + 273.15, 300.0
    s.battery_j = PARAMS["batt_init_Wh"] * 3600.0
    plant.check(1.0)
    return plant

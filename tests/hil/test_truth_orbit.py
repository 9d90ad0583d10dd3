"""The truth's orbit and surroundings against closed forms, ERFA, and the flight's own (other) orbit model."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flightsw import orbit as flight_orbit
from flightsw.errors import ConfigError
from flightsw.mission import Station
from flightsw.orbit import FACES, Attitude, Orbit, earth_view_frac, parse_tle
from hil.plant import environment as truth
from hil.plant.propagator import Earth, Frame, StartState, propagate, start_from_tle

DAY_S = 86_400.0
LOW = """\
1 99420U 26001A   26079.50000000  .00005000  00000+0  10000-3 0  9990
2 99420  51.6000 359.8998 0003000  90.0000 270.0000 15.48795447    15
"""
DUSK = """\
1 99650U 26002A   26172.50000000  .00000200  00000+0  20000-4 0  9999
2 99650  97.9860 180.1559 0001000  90.0000 270.0000 14.73940913    10
"""
# Unix time, AU, geometric direction of date and of J2000: ERFA epv00 and bp06.
ERFA_SUN = [
    (331560000, 1.01672161, (-0.21897866, 0.89519792, 0.38816110), (-0.22361317, 0.89423339, 0.38774191)),
    (1143979200, 0.99960858, (0.97586638, 0.20034976, 0.08686067), (0.97619803, 0.19898552, 0.08626798)),
    (1578225600, 0.98324365, (0.25218635, -0.88784465, -0.38488170), (0.24746209, -0.88896256, -0.38536746)),
    (1774008000, 0.99588574, (0.99999814, -0.00177128, -0.00076618), (0.99996538, -0.00763349, -0.00331312)),
    (1782043200, 1.01620275, (-0.00255276, 0.91750340, 0.39771975), (0.00390099, 0.91749938, 0.39771807)),
    (1911816000, 1.01501415, (-0.63343351, 0.70996760, 0.30774664), (-0.62764616, 0.71427980, 0.30962018)),
    (2521972800, 0.98611596, (-0.34645668, -0.86070222, -0.37304082), (-0.35784808, -0.85677097, -0.37133309)),
]


def start_of(text: str) -> StartState:
    line1, line2 = text.splitlines()
    return start_from_tle(line1, line2, parse_tle(text, "test.tle").epoch_unix_s)


@pytest.mark.parametrize(("frame", "column"), [(Frame.OF_DATE, 2), (Frame.J2000, 3)])
def test_sun_against_erfa(frame: Frame, column: int) -> None:
    sun_m = truth.sun_position_m(np.array([float(row[0]) for row in ERFA_SUN]), frame)
    distance_m = np.linalg.norm(sun_m, axis=1)
    chord = np.linalg.norm(sun_m / distance_m[:, None] - np.array([row[column] for row in ERFA_SUN]), axis=1)
    assert np.degrees(chord).max() * 3600.0 < 6.0
    assert distance_m / 1.495978707e11 == pytest.approx([row[1] for row in ERFA_SUN], rel=3e-5)


class TestPropagator:
    def test_two_body_equals_kepler(self) -> None:
        """A day on an ellipse, against Kepler's equation solved by Newton's method."""
        earth = Earth(j2=0.0)
        a_m, e = 7.2e6, 0.03
        rate_radps = math.sqrt(earth.mu_m3ps2 / a_m**3)
        perigee_mps = math.sqrt(earth.mu_m3ps2 / a_m * (1.0 + e) / (1.0 - e))
        start = StartState(0.0, (a_m * (1.0 - e), 0.0, 0.0), (0.0, 0.0, perigee_mps), Frame.OF_DATE)
        t_s = np.linspace(0.0, DAY_S, 4001)
        anomaly = rate_radps * t_s
        for _ in range(10):
            anomaly -= (anomaly - e * np.sin(anomaly) - rate_radps * t_s) / (1.0 - e * np.cos(anomaly))
        expected_m = np.stack(
            (
                a_m * (np.cos(anomaly) - e),
                np.zeros_like(t_s),
                a_m * math.sqrt(1.0 - e * e) * np.sin(anomaly),
            ),
            axis=1,
        )
        found_m, _ = propagate(start, DAY_S, earth).at(t_s)
        assert np.linalg.norm(found_m - expected_m, axis=1).max() < 2.0

    def test_node_drifts_as_theory_says(self) -> None:
        """Secular node rate of J2, -3/2 n J2 (R/p)^2 cos i; sun-synchronous is 0.9856 deg a day."""
        for text, rate_deg in ((LOW, -4.98), (DUSK, 0.986)):
            track = propagate(start_of(text), 5 * DAY_S, Earth())
            normal = np.cross(track.position_m, track.velocity_mps)
            node = np.unwrap(np.arctan2(normal[:, 0], -normal[:, 1]))
            drift = np.polyfit(np.arange(node.size) * track.step_s / DAY_S, node, 1)[0]
            assert math.degrees(drift) == pytest.approx(rate_deg, rel=0.01)

    def test_energy_is_kept(self) -> None:
        earth = Earth()
        track = propagate(start_of(LOW), DAY_S, earth)
        distance_m = np.linalg.norm(track.position_m, axis=1)
        sin_lat = track.position_m[:, 2] / distance_m
        bulge = earth.j2 * (earth.radius_m / distance_m) ** 2 * (1.5 * sin_lat**2 - 0.5)
        energy = (
            0.5 * (track.velocity_mps**2).sum(axis=1) - earth.mu_m3ps2 / distance_m * (1.0 - bulge)
        )
        assert np.ptp(energy) / abs(energy[0]) < 1e-8

    def test_interpolation(self) -> None:
        start = start_of(DUSK)
        t_s = np.arange(0.0, 600.0, 0.7)
        coarse = propagate(start, 600.0, Earth(), 10.0).at(t_s)
        fine = propagate(start, 600.0, Earth(), 0.7)
        assert coarse[0] == pytest.approx(fine.position_m[: t_s.size], abs=2e-3)
        assert coarse[1] == pytest.approx(fine.velocity_mps[: t_s.size], abs=1e-4)
        with pytest.raises(ValueError, match="outside 0"):
            propagate(start, 600.0, Earth()).at(np.array([700.0]))

    def test_decayed_elements_have_no_start(self) -> None:
        line1, line2 = LOW.replace("10000-3", "90000-1").splitlines()
        with pytest.raises(ConfigError, match="TLE 99420: no state"):
            start_from_tle(line1, line2, 1_774_008_000.0 + 400 * DAY_S)


@pytest.fixture(scope="module", params=[LOW, DUSK], ids=["low", "dusk"])
def day(request: pytest.FixtureRequest) -> tuple[Orbit, truth.TruthEnvironment]:
    """One day of truth and the flight's orbit from the same elements."""
    start = start_of(request.param)
    return Orbit(parse_tle(request.param, "test.tle")), truth.build_environment(
        start, DAY_S, Attitude.NADIR, seed=3
    )


class TestAgainstFlight:
    def test_orbit_stays_near(self, day: tuple[Orbit, truth.TruthEnvironment]) -> None:
        orbit, env = day
        miss_m = np.linalg.norm(orbit.states(env.start_unix_s + env.t_s)[0] - env.position_m, axis=1)
        assert miss_m[0] < 1e-3
        assert 500.0 < miss_m.max() < 8_000.0  # two models of one orbit, neither copied from the other

    def test_eclipse_edges(self, day: tuple[Orbit, truth.TruthEnvironment]) -> None:
        orbit, env = day
        predicted = []
        for eclipse in orbit.eclipses(env.start_unix_s, env.start_unix_s + DAY_S):
            assert eclipse.umbra_entry_unix_s is not None
            assert eclipse.umbra_exit_unix_s is not None
            predicted += [
                eclipse.penumbra_entry_unix_s,
                eclipse.umbra_entry_unix_s,
                eclipse.umbra_exit_unix_s,
                eclipse.penumbra_exit_unix_s,
            ]
        expected_s = [t for t in np.array(predicted) - env.start_unix_s if t < DAY_S]
        found_s = [crossing.t_s for crossing in env.crossings if crossing.level != "half"]
        assert found_s == pytest.approx(expected_s, abs=1.5)
        assert abs(found_s[0] - expected_s[0]) < 0.3

    def test_passes(self, day: tuple[Orbit, truth.TruthEnvironment]) -> None:
        orbit, env = day
        station = Station("Weilheim", 47.8810, 11.0850, 650.0, 5.0)
        elevation_deg = env.elevation_deg(station.latitude_deg, station.longitude_deg, station.altitude_m)
        seen = (elevation_deg > station.min_elevation_deg).astype(int)
        aos_s = env.t_s[1:][np.diff(seen) == 1]
        predicted = orbit.passes(station, env.start_unix_s, env.start_unix_s + DAY_S)
        expected_s = [p.aos_unix_s - env.start_unix_s for p in predicted]
        assert aos_s == pytest.approx([t for t in expected_s if 0.0 < t < DAY_S], abs=3.0)

    @pytest.mark.parametrize("attitude", Attitude)
    def test_sunlight_on_every_face(self, attitude: Attitude) -> None:
        for text in (LOW, DUSK):
            orbit = Orbit(parse_tle(text, "test.tle"))
            env = truth.build_environment(start_of(text), 6000.0, attitude, seed=3)
            flight = orbit.environment(env.start_unix_s + env.t_s, attitude)
            steady = np.abs(np.gradient(flight.illumination_frac)) == 0.0
            assert env.solar_w_m2[steady] == pytest.approx(flight.solar_w_m2[steady], abs=1.0)
            assert env.array_flux_w_m2.max() > 1200.0 if attitude is Attitude.SUN else True
            # Earth light of two different models, one varying: the same faces see it, within a third.
            mean = env.infrared_w_m2.mean(axis=0)
            assert mean == pytest.approx(flight.infrared_w_m2.mean(axis=0), rel=0.35, abs=1.0)


class TestEarthLight:
    def test_uniform_earth_equals_closed_form(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            truth, "_albedo_and_emissivity", lambda s, _: (np.full_like(s, 0.3), np.full_like(s, 0.7))
        )
        rng = np.random.default_rng(5)
        axes = np.linalg.qr(rng.standard_normal((200, 3, 3)))[0]
        up = rng.standard_normal((200, 3))
        up /= np.linalg.norm(up, axis=1)[:, None]
        position_m = up * rng.uniform(6.6e6, 7.4e6, (200, 1))
        sun_m = np.tile([1.495978707e11, 0.0, 0.0], (200, 1))
        albedo, infrared = truth.earth_light_w_m2(np.zeros(200), position_m, sun_m, axes, 6_378_137.0)
        cos_nadir = -np.einsum("nij,nj->ni", axes, up)
        cos_nadir = np.stack((cos_nadir, -cos_nadir), axis=2).reshape(-1, 6)
        view = earth_view_frac(cos_nadir, np.linalg.norm(position_m, axis=1)[:, None])
        assert infrared == pytest.approx(view * 0.7 * 1361.0 / 4.0, abs=2.0)
        # Where the whole cap lies in daylight, the light is that of the place below to first order.
        noon = up[:, 0] > 0.8
        first_order = view * 0.3 * 1361.0 * up[:, :1]
        down = noon & (cos_nadir.max(axis=1) > 0.9)
        face = cos_nadir.argmax(axis=1)
        rows = np.flatnonzero(down)
        assert rows.size > 3
        assert albedo[rows, face[rows]] == pytest.approx(first_order[rows, face[rows]], rel=0.12)
        assert np.all(albedo[up[:, 0] < -0.5] == 0.0)

    def test_energy_of_the_whole_earth(self) -> None:
        """Over all directions albedo and infrared give back what the Earth takes in (Knocke's means)."""
        sin_lat = np.linspace(-1.0, 1.0, 2001)  # equal areas
        albedo, emissivity = truth._albedo_and_emissivity(sin_lat, np.full(2001, 1.774e9))
        assert albedo.mean() == pytest.approx(0.34, abs=0.005)
        assert emissivity.mean() == pytest.approx(0.68, abs=0.005)
        assert albedo.mean() + emissivity.mean() == pytest.approx(1.02, abs=0.01)

    def test_clouds_follow_the_seed(self) -> None:
        one, same, other = (
            truth.build_environment(start_of(LOW), 3000.0, Attitude.NADIR, seed) for seed in (1, 1, 2)
        )
        assert np.array_equal(one.albedo_w_m2, same.albedo_w_m2)
        assert np.array_equal(one.infrared_w_m2, same.infrared_w_m2)
        assert not np.array_equal(one.albedo_w_m2, other.albedo_w_m2)
        assert np.array_equal(one.solar_w_m2, other.solar_w_m2)

    def test_absorbed_heat(self) -> None:
        env = truth.build_environment(start_of(LOW), 600.0, Attitude.NADIR, 1)
        absorbed = env.absorbed_w_m2(np.full(6, 0.25), np.array([0.85, 0, 0, 0, 0, 0]))
        assert absorbed[:, 0] == pytest.approx(
            0.25 * (env.solar_w_m2[:, 0] + env.albedo_w_m2[:, 0]) + 0.85 * env.infrared_w_m2[:, 0]
        )
        assert absorbed[:, FACES.index("-z")] == pytest.approx(0.25 * env.solar_w_m2[:, FACES.index("-z")])


@pytest.mark.parametrize("attitude", Attitude)
def test_body_axes_are_the_flights(attitude: Attitude) -> None:
    """The attitude laws are defined once and written twice; at beta 90 too, where yaw is free."""
    rng = np.random.default_rng(11)
    position_m, velocity_mps, to_sun = rng.standard_normal((3, 100, 3))
    to_sun[0] = np.cross(position_m[0], velocity_mps[0])
    to_sun[1] = -np.cross(position_m[1], velocity_mps[1])
    to_sun /= np.linalg.norm(to_sun, axis=1)[:, None]
    axes = truth._body_axes(attitude, position_m, velocity_mps, to_sun)
    down = -position_m / np.linalg.norm(position_m, axis=1)[:, None]
    right = np.cross(velocity_mps, position_m)
    right /= np.linalg.norm(right, axis=1)[:, None]
    assert axes == pytest.approx(flight_orbit._body_axes(attitude, down, right, to_sun), abs=1e-9)
    assert axes @ axes.transpose(0, 2, 1) == pytest.approx(np.tile(np.eye(3), (100, 1, 1)), abs=1e-12)
    assert np.linalg.det(axes) == pytest.approx(1.0)

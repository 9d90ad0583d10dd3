"""Orbit, Sun, shadow, passes and face fluxes, each against a source outside this project's code."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.errors import ConfigError, KernelError
from flightsw.mission import Station
from flightsw.orbit import (
    AU_M,
    DAY_S,
    EARTH_RADIUS_M,
    FACE_NORMALS,
    FACES,
    SOLAR_CONSTANT_W_M2,
    SUN_RADIUS_M,
    Attitude,
    Orbit,
    earth_view_frac,
    gmst_rad,
    illumination_frac,
    irradiance_w_m2,
    parse_tle,
    sun_position_m,
    tle_checksum,
)

# The element set and state of the sgp4 library's own manual.
STATION_TLE = """\
ISS (ZARYA)
1 25544U 98067A   19343.69339541  .00001764  00000-0  38792-4 0  9991
2 25544  51.6439 211.2001 0007417  17.6667  85.6398 15.50103472202482
"""
LOW = """\
COMPUTE-SAT ISS-LIKE
1 99420U 26001A   26079.50000000  .00005000  00000+0  10000-3 0  9990
2 99420  51.6000 359.8998 0003000  90.0000 270.0000 15.48795447    15
"""
DUSK_JUNE = """\
COMPUTE-SAT DAWN-DUSK
1 99650U 26002A   26172.50000000  .00000200  00000+0  20000-4 0  9999
2 99650  97.9860 180.1559 0001000  90.0000 270.0000 14.73940913    10
"""
DUSK_MARCH = """\
COMPUTE-SAT DAWN-DUSK
1 99650U 26002A   26079.50000000  .00000200  00000+0  20000-4 0  9995
2 99650  97.9860  89.8998 0001000  90.0000 270.0000 14.73940913    12
"""
WEILHEIM = Station("Weilheim", 47.8810, 11.0850, 650.0, 5.0)
SVALBARD = Station("Svalbard", 78.2298, 15.4078, 450.0, 5.0)


def orbit_of(text: str) -> Orbit:
    return Orbit(parse_tle(text, "test.tle"))


def with_checksums(text: str) -> str:
    lines = text.splitlines()
    return "\n".join([lines[0], *(line[:68] + str(tle_checksum(line)) for line in lines[1:])])


class TestTle:
    def test_reads_names_lines_and_epoch(self) -> None:
        tle = parse_tle(STATION_TLE, "iss.tle")
        assert tle.name == "ISS (ZARYA)"
        assert tle.epoch_unix_s == pytest.approx(1_575_909_509.364, abs=1e-3)  # 2019-12-09T16:38:29.364Z
        assert parse_tle("\r\n".join(STATION_TLE.splitlines()[1:]), "iss.tle").name == ""

    @given(st.integers(1, 2), st.integers(2, 68), st.integers(1, 9))
    def test_any_wrong_digit_is_refused(self, line: int, column: int, shift: int) -> None:
        lines = LOW.splitlines()
        old = lines[line][column]
        if old.isdigit():
            new = str((int(old) + shift) % 10)
            lines[line] = lines[line][:column] + new + lines[line][column + 1 :]
            with pytest.raises(ConfigError, match=f"^bad.tle: line {line} column 69 \\(checksum\\)"):
                parse_tle("\n".join(lines), "bad.tle")

    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            (" 51.6000", "191.6000", r"line 2 columns 9-16 \(inclination\): 191.6 outside 0..180 deg"),
            ("359.8998", "360.8998", r"line 2 columns 18-25 \(right ascension of the node\)"),
            ("0003000", "1003000", r"perigee -?\d+\.\d km below 150 km"),
            ("15.48795447", "17.48795447", r"\(mean motion\): 17.488 outside 11.25..16.5 rev/day"),
            ("15.48795447", "15.4879544 ", r"\(mean motion\): '15.4879544 ' is not of the form"),
            ("2 99420", "2 99421", r"catalogue number\): '99420' is not '99421'"),
            ("2 99420", "2-99420", "line 2 column 2: '-' must be blank"),
            ("2 99420", "3 99420", r"line 2 column 1 \(line number\): '3' must be '2'"),
            ("26079.50000000", "26000.50000000", r"\(epoch day\): 0.5 outside 1..367 days"),
            ("26079.50000000", "26366.00000000", r"366.00000000 not in 2026, which has 365 days"),
            (" .00005000", "  00005000", r"columns 34-43 \(mean motion rate\)"),
            ("COMPUTE-SAT", "COMPUTE\nSAT", "found 4"),
        ],
    )
    def test_says_line_column_field_value_and_limit(self, old: str, new: str, said: str) -> None:
        assert old in LOW
        text = LOW.replace(old, new)
        with pytest.raises(ConfigError, match=f"^low.tle: .*{said}"):
            parse_tle(text if text.count("\n") > 3 else with_checksums(text), "low.tle")

    @pytest.mark.parametrize("tail", ["", "50", "５"])
    def test_wrong_length_or_alphabet_is_refused(self, tail: str) -> None:
        line2 = LOW.splitlines()[2][:-1] + tail
        with pytest.raises(ConfigError, match=rf"^low.tle: line 2: {len(line2)} characters, must be 69"):
            parse_tle(LOW.splitlines()[1] + "\n" + line2, "low.tle")

    @given(st.text(max_size=220))
    def test_garbage_is_a_config_error(self, text: str) -> None:
        with pytest.raises(ConfigError):
            parse_tle(text, "garbage.tle")


class TestStates:
    def test_library_example(self) -> None:
        orbit = orbit_of(STATION_TLE)
        unix_s = np.array([(2_458_827.0 + 0.362605 - 2_440_587.5) * DAY_S])
        position_m, velocity_mps = orbit.states(unix_s)
        assert position_m[0] / 1e3 == pytest.approx([-6102.44, -986.33, -2820.31], abs=0.3)
        assert velocity_mps[0] / 1e3 == pytest.approx([-1.45, -5.52, 5.10], abs=0.01)

    def test_decayed_orbit_is_an_error(self) -> None:
        orbit = orbit_of(with_checksums(LOW.replace("10000-3", "90000-1")))
        with pytest.raises(KernelError, match="sgp4"):
            orbit.states(np.array([orbit.tle.epoch_unix_s + 400 * DAY_S]))

    def test_not_a_number_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="finite"):
            orbit_of(LOW).states(np.array([math.nan]))

    def test_gmst_example(self) -> None:
        # Vallado, Fundamentals of Astrodynamics, example 3-5: 1992-08-20 12:14 UT1.
        assert math.degrees(gmst_rad(np.array([714_312_840.0]))[0]) == pytest.approx(152.578787886, abs=1e-6)

    def test_station_under_the_track_looks_straight_up(self) -> None:
        orbit = orbit_of(DUSK_JUNE)
        for offset_s in (0.0, 700.0, 1466.0, 3000.0):
            unix_s = np.array([orbit.tle.epoch_unix_s + offset_s])
            latitude, longitude, altitude_m = orbit.ground_track(unix_s)
            below = Station("below", math.degrees(latitude[0]), math.degrees(longitude[0]), 0.0, 0.0)
            _, elevation, range_m = orbit.look(below, unix_s)
            assert math.degrees(elevation[0]) == pytest.approx(90.0, abs=1e-5)
            assert range_m[0] == pytest.approx(altitude_m[0], abs=0.01)

    def test_azimuth_counts_from_north_to_east(self) -> None:
        orbit = orbit_of(LOW)
        unix_s = np.array([orbit.tle.epoch_unix_s])
        latitude, longitude, _ = orbit.ground_track(unix_s)
        lat, lon = math.degrees(latitude[0]), math.degrees(longitude[0])
        for d_lat, d_lon, azimuth_deg in ((-1, 0, 0.0), (0, -1, 90.0), (1, 0, 180.0), (0, 1, 270.0)):
            station = Station("near", lat + d_lat, lon + d_lon, 0.0, 0.0)
            azimuth = math.degrees(orbit.look(station, unix_s)[0][0])
            assert (azimuth - azimuth_deg + 180.0) % 360.0 - 180.0 == pytest.approx(0.0, abs=0.6)


# Unix time, AU, apparent direction in mean equator and equinox of date: ERFA epv00, ab and bp06.
ERFA_SUN = [
    (331560000, 1.01672161, (-0.21888332, 0.89521754, 0.38816961)),
    (845380800, 0.99697795, (-0.92448009, -0.34977125, -0.15164643)),
    (1143979200, 0.99960858, (0.97588808, 0.20026079, 0.08682209)),
    (1578225600, 0.98324365, (0.25208856, -0.88786803, -0.38489183)),
    (1774008000, 0.99588574, (0.99999794, -0.00186283, -0.00080587)),
    (1782043200, 1.01620275, (-0.00245496, 0.91750362, 0.39771985)),
    (1790164800, 1.00343638, (-0.99996445, -0.00773649, -0.00335332)),
    (1798977600, 0.98333379, (0.22266971, -0.89447084, -0.38773717)),
    (1911816000, 1.01501415, (-0.63335776, 0.71002449, 0.30777130)),
    (2154945600, 1.00318561, (0.90162940, 0.39683373, 0.17200995)),
    (2362478400, 0.98998601, (-0.64627009, -0.70016975, -0.30347535)),
    (2521972800, 0.98611596, (-0.34655115, -0.86067020, -0.37302694)),
]


class TestSunAndShadow:
    def test_sun_within_its_stated_error_of_erfa(self) -> None:
        unix_s = np.array([row[0] for row in ERFA_SUN], dtype=float)
        sun_m = sun_position_m(unix_s)
        distance_m = np.linalg.norm(sun_m, axis=1)
        chord = np.linalg.norm(sun_m / distance_m[:, None] - np.array([row[2] for row in ERFA_SUN]), axis=1)
        assert np.degrees(chord).max() < 0.01
        assert distance_m / AU_M == pytest.approx([row[1] for row in ERFA_SUN], rel=1e-4)

    def test_sun_of_the_textbook(self) -> None:
        # Vallado, example 5-1: 2006-04-02 00:00 UTC, AU, mean equator of date.
        sun_m = sun_position_m(np.array([1_143_936_000.0]))[0]
        assert sun_m / AU_M == pytest.approx([0.9771945, 0.1924424, 0.0834308], abs=2e-4)

    def test_half_disc_hidden_is_half_light(self) -> None:
        radius_m = 6.8e6
        horizon = math.asin(EARTH_RADIUS_M / radius_m)

        def lit(apart_rad: float) -> float:
            # Place the satellite so that the Earth's centre appears `apart_rad` from the Sun's.
            position_m = radius_m * np.array([[-math.cos(apart_rad), math.sin(apart_rad), 0.0]])
            return float(illumination_frac(position_m, position_m + np.array([AU_M, 0.0, 0.0]))[0])

        sun_rad = math.asin(SUN_RADIUS_M / AU_M)
        # The Earth's limb is nearly straight across the Sun's disc: 0.5 but for its curvature.
        assert lit(horizon) == pytest.approx(0.5, abs=1e-3)
        assert lit(horizon + 1.01 * sun_rad) == 1.0
        assert lit(horizon - 1.01 * sun_rad) == 0.0
        profile = [lit(horizon + f * sun_rad) for f in np.linspace(-1.02, 1.02, 103)]
        assert np.all(np.diff(profile) >= 0.0)
        assert lit(0.0) == 0.0
        assert lit(math.pi) == 1.0

    def test_irradiance_at_perihelion_and_aphelion(self) -> None:
        position_m = np.zeros((1, 3))
        for unix_s, distance_au in ((1798977600.0, 0.98333379), (1782043200.0, 1.01620275)):
            flux = irradiance_w_m2(position_m, sun_position_m(np.array([unix_s])))
            assert flux[0] == pytest.approx(SOLAR_CONSTANT_W_M2 / distance_au**2, rel=2e-4)

    @pytest.mark.parametrize(("text", "count"), [(LOW, 16), (DUSK_JUNE, 15), (DUSK_MARCH, 0)])
    def test_eclipse_edges_are_where_the_light_changes(self, text: str, count: int) -> None:
        orbit = orbit_of(text)
        start_s = orbit.tle.epoch_unix_s
        eclipses = orbit.eclipses(start_s, start_s + DAY_S)
        assert len(eclipses) == count
        for eclipse in eclipses:
            assert eclipse.umbra_entry_unix_s is not None
            assert eclipse.umbra_exit_unix_s is not None
            edge_s = np.array(
                [
                    eclipse.penumbra_entry_unix_s,
                    eclipse.umbra_entry_unix_s,
                    eclipse.umbra_exit_unix_s,
                    eclipse.penumbra_exit_unix_s,
                ]
            )
            assert np.all(np.diff(edge_s) > 0.0)
            unix_s = np.concatenate((edge_s - 0.002, edge_s + 0.002))
            lit = illumination_frac(orbit.states(unix_s)[0], sun_position_m(unix_s)).reshape(2, 4)
            assert (lit[0] == 1.0).tolist() == [True, False, False, False]
            assert (lit[0] == 0.0).tolist() == [False, False, True, False]
            assert (lit[1] == 1.0).tolist() == [False, False, False, True]
            assert (lit[1] == 0.0).tolist() == [False, True, False, False]

    def test_eclipse_under_way_is_returned_whole(self) -> None:
        orbit = orbit_of(LOW)
        start_s = orbit.tle.epoch_unix_s
        first = orbit.eclipses(start_s, start_s + DAY_S)[0]
        middle_s = 0.5 * (first.penumbra_entry_unix_s + first.penumbra_exit_unix_s)
        (again,) = orbit.eclipses(middle_s, middle_s)
        assert again.penumbra_entry_unix_s == pytest.approx(first.penumbra_entry_unix_s, abs=1e-4)
        assert again.penumbra_exit_unix_s == pytest.approx(first.penumbra_exit_unix_s, abs=1e-4)
        with pytest.raises(ValueError, match="empty"):
            orbit.eclipses(start_s, start_s - 1.0)

    def test_season_without_umbra_passes_through_grazes(self) -> None:
        """Between full sun in March and 20 min of eclipse in June some eclipses have a penumbra only."""
        orbit = orbit_of(DUSK_MARCH)
        start_s = orbit.tle.epoch_unix_s
        eclipses = orbit.eclipses(start_s, start_s + 93 * DAY_S)
        grazes = [e for e in eclipses if e.umbra_entry_unix_s is None]
        assert 0 < len(grazes) < 0.2 * len(eclipses)
        for graze in grazes:
            assert graze.umbra_exit_unix_s is None
            unix_s = np.linspace(graze.penumbra_entry_unix_s, graze.penumbra_exit_unix_s, 200)
            assert illumination_frac(orbit.states(unix_s)[0], sun_position_m(unix_s)).min() > 0.0

    @pytest.mark.parametrize(("text", "beta_deg"), [(LOW, 0.0), (DUSK_JUNE, 58.6), (DUSK_MARCH, 82.1)])
    def test_beta_angle(self, text: str, beta_deg: float) -> None:
        orbit = orbit_of(text)
        beta_rad = orbit.beta_angle_rad(np.array([orbit.tle.epoch_unix_s]))
        assert math.degrees(beta_rad[0]) == pytest.approx(beta_deg, abs=0.1)


class TestPasses:
    @pytest.mark.parametrize("station", [WEILHEIM, SVALBARD], ids=lambda s: s.name)
    @pytest.mark.parametrize("text", [LOW, DUSK_JUNE], ids=["low", "dusk"])
    def test_week_equals_brute_force(self, text: str, station: Station) -> None:
        orbit = orbit_of(text)
        start_s = orbit.tle.epoch_unix_s
        unix_s = start_s + np.arange(0.0, 7 * DAY_S, 1.0)
        elevation_deg = np.degrees(orbit.look(station, unix_s)[1])
        seen = (elevation_deg > station.min_elevation_deg).astype(int)
        aos = unix_s[1:][np.diff(seen) == 1]
        los = unix_s[1:][np.diff(seen) == -1]
        passes = orbit.passes(station, start_s, start_s + 7 * DAY_S)
        assert len(passes) == len(aos) == len(los)
        for contact, aos_s, los_s in zip(passes, aos, los, strict=True):
            assert 0.0 <= aos_s - contact.aos_unix_s <= 1.0
            assert 0.0 <= los_s - contact.los_unix_s <= 1.0
            during = elevation_deg[(unix_s >= aos_s) & (unix_s < los_s)]
            assert during.max() == pytest.approx(contact.peak_elevation_deg, abs=0.1)
            edges = orbit.look(station, np.array([contact.aos_unix_s, contact.los_unix_s]))[1]
            assert np.degrees(edges) == pytest.approx([5.0, 5.0], abs=1e-4)

    def test_passes_shorter_than_the_scan_step_are_found(self) -> None:
        orbit = orbit_of(LOW)
        start_s = orbit.tle.epoch_unix_s
        passes = orbit.passes(WEILHEIM, start_s, start_s + 7 * DAY_S)
        top = max(passes, key=lambda p: p.peak_elevation_deg if p.peak_elevation_deg < 80 else 0.0)
        high = Station("high", 47.8810, 11.0850, 650.0, top.peak_elevation_deg - 0.01)
        (brief,) = orbit.passes(high, top.aos_unix_s, top.los_unix_s)
        assert 0.0 < brief.los_unix_s - brief.aos_unix_s < 30.0
        assert brief.peak_unix_s == pytest.approx(top.peak_unix_s, abs=0.01)

    def test_never_in_view_is_no_pass(self) -> None:
        orbit = orbit_of(LOW)
        start_s = orbit.tle.epoch_unix_s
        assert orbit.passes(SVALBARD, start_s, start_s + DAY_S) == []


def view_frac_by_quadrature(cos_nadir: float, height: float) -> float:
    """Integrate the plate's cosine over the visible cap, as directions on a fine grid."""
    cap = math.asin(1.0 / height)
    theta = (np.arange(800) + 0.5) * cap / 800
    phi = (np.arange(800) + 0.5) * math.tau / 800
    sin_nadir = math.sqrt(1.0 - cos_nadir**2)
    cosine = np.cos(theta)[:, None] * cos_nadir + np.sin(theta)[:, None] * sin_nadir * np.cos(phi)
    weight = np.sin(theta)[:, None] * (cap / 800) * (math.tau / 800)
    return float((np.maximum(cosine, 0.0) * weight).sum() / math.pi)


class TestFaces:
    @pytest.mark.parametrize("angle_deg", [0, 15, 20, 30, 60, 90, 120, 150, 158, 170, 180])
    @pytest.mark.parametrize("height", [1.02, 1.0659, 1.102, 2.0])
    def test_view_factor_equals_quadrature(self, angle_deg: int, height: float) -> None:
        cos_nadir = math.cos(math.radians(angle_deg))
        frac = float(earth_view_frac(np.array(cos_nadir), np.array(height * EARTH_RADIUS_M)))
        assert frac == pytest.approx(view_frac_by_quadrature(cos_nadir, height), abs=2e-5)

    def test_nadir_attitude(self) -> None:
        orbit = orbit_of(LOW)
        unix_s = orbit.tle.epoch_unix_s + np.arange(0.0, 5580.0, 10.0)
        env = orbit.environment(unix_s, Attitude.NADIR)
        nadir, zenith = FACES.index("+z"), FACES.index("-z")
        distance_m = np.linalg.norm(orbit.states(unix_s)[0], axis=1)
        assert env.earth_view_frac[:, nadir] == pytest.approx((EARTH_RADIUS_M / distance_m) ** 2)
        assert np.all(env.earth_view_frac[:, zenith] == 0.0)
        assert np.ptp(env.earth_view_frac[:, :4], axis=1) == pytest.approx(0.0, abs=1e-12)
        # Beta is 0: a zenith plate gathers 1/pi of the flux over an orbit, the faces across next to none.
        flux = env.irradiance_w_m2.mean()
        assert env.solar_w_m2[:, zenith].mean() / flux == pytest.approx(1.0 / math.pi, rel=0.005)
        assert env.solar_w_m2[:, 2:4].max() / flux < 0.01
        # The Sun climbs ahead of the satellite after the night: ram lights first.
        dawn = np.flatnonzero(np.diff(env.illumination_frac) > 0.0)[-1] + 30
        assert env.solar_w_m2[dawn, FACES.index("+x")] > 1000.0
        assert env.solar_w_m2[dawn, FACES.index("-x")] == 0.0

    @pytest.mark.parametrize("text", [LOW, DUSK_JUNE, DUSK_MARCH])
    def test_sun_attitude(self, text: str) -> None:
        orbit = orbit_of(text)
        unix_s = orbit.tle.epoch_unix_s + np.arange(0.0, orbit.period_s, 10.0)
        env = orbit.environment(unix_s, Attitude.SUN)
        assert env.sun_body == pytest.approx(np.tile([0.0, 0.0, -1.0], (unix_s.size, 1)), abs=1e-12)
        array = env.solar_w_m2[:, FACES.index("-z")]
        assert array == pytest.approx(env.irradiance_w_m2 * env.illumination_frac)
        assert env.solar_w_m2[:, :5].max() < 1e-9
        # Over two opposite faces the Earth's light adds up as a vector along nadir: F+ - F- = cos / h2.
        frac = env.earth_view_frac
        distance_m = np.linalg.norm(orbit.states(unix_s)[0], axis=1)
        vector = frac[:, 0::2] - frac[:, 1::2]
        assert np.linalg.norm(vector, axis=1) == pytest.approx((EARTH_RADIUS_M / distance_m) ** 2)

    def test_albedo_and_infrared(self) -> None:
        orbit = orbit_of(LOW)
        unix_s = orbit.tle.epoch_unix_s + np.arange(0.0, orbit.period_s, 10.0)
        env = orbit.environment(unix_s, Attitude.NADIR)
        nadir = FACES.index("+z")
        assert np.all(env.albedo_w_m2[env.illumination_frac == 0.0] == 0.0)
        assert env.albedo_w_m2[:, nadir].max() == pytest.approx(0.30 * env.irradiance_w_m2[0] * 0.88, rel=0.02)
        assert env.infrared_w_m2[:, nadir] == pytest.approx(230.0 * env.earth_view_frac[:, nadir])
        absorbed = env.absorbed_w_m2(np.full(6, 0.25), np.full(6, 0.85))
        by_hand = 0.25 * (env.solar_w_m2 + env.albedo_w_m2) + 0.85 * env.infrared_w_m2
        assert np.array_equal(absorbed, by_hand)

    def test_both_attitudes_agree_at_orbit_noon(self) -> None:
        orbit = orbit_of(LOW)
        unix_s = orbit.tle.epoch_unix_s + np.arange(0.0, orbit.period_s, 1.0)
        noon_s = unix_s[np.argmax(orbit.environment(unix_s, Attitude.NADIR).solar_w_m2[:, 5])]
        fluxes = [orbit.environment(np.array([noon_s]), law).earth_view_frac[0] for law in Attitude]
        assert fluxes[0] == pytest.approx(fluxes[1], abs=2e-3)

    def test_extra_faces(self) -> None:
        orbit = orbit_of(LOW)
        unix_s = orbit.tle.epoch_unix_s + np.arange(0.0, 600.0, 60.0)
        canted = np.array([[0.6, 0.0, -0.8], [0.0, 0.0, -1.0]])
        env = orbit.environment(unix_s, Attitude.SUN, canted)
        assert env.solar_w_m2[:, 0] == pytest.approx(0.8 * env.solar_w_m2[:, 1])
        assert FACE_NORMALS.shape == (len(FACES), 3)

"""Where the satellite is, where the Sun is, what the Earth hides: TLE -> SGP4 -> the forecast's geometry.

Owns the flight's only orbit model. The forecast, the planner and the ground's pass table call it with Unix
times (mission epoch + on-board time) as arrays; nothing here reads a clock or keeps state between calls.

Frames: TEME of date (SGP4's own). The Sun is given in the mean equator and equinox of date, which differs
from TEME by nutation only (17 arcsec). LVLH: +x ram (completes the triad), +y against the orbit normal,
+z nadir. Body axes equal LVLH in the NADIR attitude; the array looks along body -z. UT1 = UTC is assumed
and polar motion left out (together below 0.5 km on the ground, 0.07 s on a pass).
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
import numpy.typing as npt
from sgp4.api import SGP4_ERRORS, WGS72, Satrec

from flightsw.errors import ConfigError, KernelError

Array = npt.NDArray[np.float64]

AU_M = 149_597_870_700.0  # IAU 2012 Resolution B2
SUN_RADIUS_M = 6.957e8  # IAU 2015 Resolution B3
EARTH_RADIUS_M = 6_378_137.0  # WGS84 semi-major axis, also taken for the shadow
EARTH_FLATTENING = 1.0 / 298.257223563  # WGS84
SOLAR_CONSTANT_W_M2 = 1361.0  # at 1 AU: Kopp and Lean, Geophys. Res. Lett. 38 (2011) L01706
EARTH_ALBEDO_FRAC = 0.30  # global mean, ECSS-E-ST-10-04C clause 6
EARTH_IR_W_M2 = 230.0  # global mean at the surface, ECSS-E-ST-10-04C clause 6
DAY_S = 86_400.0
UNIX_JD = 2_440_587.5  # Julian date of 1970-01-01
J2000_JD = 2_451_545.0

_SCAN_STEP_S = 30.0  # far below half an orbit, so that no extremum of a LEO margin is missed
_BISECTIONS = 25  # 30 s / 2**25 = 1 us, the resolution of a Unix time in a float64

FACES = ("+x", "-x", "+y", "-y", "+z", "-z")
FACE_NORMALS: Array = np.array(
    [[1.0, 0, 0], [-1.0, 0, 0], [0, 1.0, 0], [0, -1.0, 0], [0, 0, 1.0], [0, 0, -1.0]]
)
FACE_NORMALS.setflags(write=False)


class Attitude(Enum):
    """Attitude laws. In both the array side is body -z, so a radiator on +z sees the Earth or deep space.

    NADIR: body axes are LVLH. SUN: -z on the Sun, +y as near as it can be to LVLH +y (against the orbit
    normal); at orbit noon with the Sun in the orbit plane both laws agree.
    """

    NADIR = "nadir"
    SUN = "sun"


# --- two-line elements -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tle:
    """A checked two-line element set; made by `parse_tle` only."""

    name: str
    line1: str
    line2: str
    epoch_unix_s: float


_DECIMAL = r" *\d{1,3}\.\d{4}"
_EXPONENT = r"[ +-]\d{5}[+-]\d"
# line, first column, last column (both counted from 1), field, pattern, lowest, highest, unit. The ranges
# are those of a low orbit, which is what the search steps and the air-drag terms are made for.
_FIELDS: tuple[tuple[int, int, int, str, str, float, float, str], ...] = (
    (1, 3, 7, "catalogue number", r"[ 0-9A-HJ-NP-Z][ 0-9]{3}\d", -math.inf, math.inf, ""),
    (1, 8, 8, "classification", r"[UCS ]", -math.inf, math.inf, ""),
    (1, 10, 17, "international designator", r"[ 0-9A-Z]{8}", -math.inf, math.inf, ""),
    (1, 19, 20, "epoch year", r"\d\d", 0.0, 99.0, ""),
    (1, 21, 32, "epoch day", r"[ \d]{2}\d\.\d{8}", 1.0, 367.0, "days"),
    (1, 34, 43, "mean motion rate", r"[ +-]\.\d{8}", -0.1, 0.1, "rev/day2"),
    (1, 45, 52, "mean motion acceleration", _EXPONENT, -math.inf, math.inf, ""),
    (1, 54, 61, "drag term", _EXPONENT, -math.inf, math.inf, ""),
    (1, 63, 63, "ephemeris type", r"[ 0]", -math.inf, math.inf, ""),
    (1, 65, 68, "element set number", r" *\d+", -math.inf, math.inf, ""),
    (2, 3, 7, "catalogue number", r"[ 0-9A-HJ-NP-Z][ 0-9]{3}\d", -math.inf, math.inf, ""),
    (2, 9, 16, "inclination", _DECIMAL, 0.0, 180.0, "deg"),
    (2, 18, 25, "right ascension of the node", _DECIMAL, 0.0, 360.0, "deg"),
    (2, 27, 33, "eccentricity (decimal point assumed)", r"\d{7}", 0.0, 2_500_000.0, "e-7"),
    (2, 35, 42, "argument of perigee", _DECIMAL, 0.0, 360.0, "deg"),
    (2, 44, 51, "mean anomaly", _DECIMAL, 0.0, 360.0, "deg"),
    (2, 53, 63, "mean motion", r" *\d{1,2}\.\d{8}", 11.25, 16.5, "rev/day"),
    (2, 64, 68, "revolution number", r" *\d+", -math.inf, math.inf, ""),
)
_BLANK_COLUMNS = {1: (2, 9, 18, 33, 44, 53, 62, 64), 2: (2, 8, 17, 26, 34, 43, 52)}
_MIN_PERIGEE_M = 150e3  # below it an orbit lasts hours
_MU_WGS72 = 3.986008e14


def tle_checksum(line: str) -> int:
    """Sum modulo 10 of the first 68 columns, a minus sign counting 1 (CelesTrak, 'TLE format')."""
    return sum(int(c) if c.isdigit() else c == "-" for c in line[:68]) % 10


def parse_tle(text: str, where: str) -> Tle:
    """Read one TLE of two lines, or three with a name line first.

    Every column is checked: length, blanks, each field's form and range, checksum, equal catalogue numbers,
    epoch day within its year, perigee above 150 km. Raises ConfigError naming `where`, line, columns, field,
    value and limit; nothing is repaired. Two-digit years are 1957 to 2056.
    """
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    if len(lines) not in (2, 3):
        raise ConfigError(where, f"a TLE has 2 lines, or 3 with a name; found {len(lines)}")
    name = lines[0].removeprefix("0 ").strip() if len(lines) == 3 else ""
    line1, line2 = lines[-2:]
    for number, line in ((1, line1), (2, line2)):
        _check_line(number, line, where)
    values: dict[tuple[int, str], float] = {}
    for number, first, last, field, pattern, low, high, unit in _FIELDS:
        text_value = (line1, line2)[number - 1][first - 1 : last]
        at = f"line {number} columns {first}-{last} ({field})"
        if re.fullmatch(pattern, text_value, re.ASCII) is None:
            raise ConfigError(where, f"{at}: {text_value!r} is not of the form of this field")
        if math.isfinite(low):
            value = float(text_value)
            if not low <= value <= high:
                raise ConfigError(where, f"{at}: {value:g} outside {low:g}..{high:g} {unit}".rstrip())
            values[number, field] = value
    if line1[2:7] != line2[2:7]:
        raise ConfigError(
            where, f"lines 1 and 2 columns 3-7 (catalogue number): {line1[2:7]!r} is not {line2[2:7]!r}"
        )
    year = int(values[1, "epoch year"])
    year += 1900 if year >= 57 else 2000
    day = values[1, "epoch day"]
    new_year = datetime.date(year, 1, 1)
    days_in_year = (datetime.date(year + 1, 1, 1) - new_year).days
    if day >= days_in_year + 1:
        raise ConfigError(
            where, f"line 1 columns 21-32 (epoch day): {day:.8f} not in {year}, which has {days_in_year} days"
        )
    eccentricity = values[2, "eccentricity (decimal point assumed)"] * 1e-7
    rate_radps = values[2, "mean motion"] * math.tau / DAY_S
    perigee_m = (_MU_WGS72 / rate_radps**2) ** (1 / 3) * (1.0 - eccentricity) - EARTH_RADIUS_M
    if perigee_m < _MIN_PERIGEE_M:
        raise ConfigError(
            where,
            f"line 2 columns 27-33 and 53-63 (eccentricity, mean motion): perigee {perigee_m / 1e3:.1f} km "
            f"below {_MIN_PERIGEE_M / 1e3:.0f} km",
        )
    epoch_unix_s = (new_year - datetime.date(1970, 1, 1)).days * DAY_S + (day - 1.0) * DAY_S
    return Tle(name, line1, line2, epoch_unix_s)


def _check_line(number: int, line: str, where: str) -> None:
    """Refuse a line whose length, alphabet, number, blanks or checksum is wrong."""
    if len(line) != 69 or not line.isascii():
        raise ConfigError(where, f"line {number}: {len(line)} characters, must be 69 of ASCII")
    if line[0] != str(number):
        raise ConfigError(where, f"line {number} column 1 (line number): {line[0]!r} must be '{number}'")
    for column in _BLANK_COLUMNS[number]:
        if line[column - 1] != " ":
            raise ConfigError(where, f"line {number} column {column}: {line[column - 1]!r} must be blank")
    if line[68] != str(tle_checksum(line)):
        raise ConfigError(
            where, f"line {number} column 69 (checksum): {line[68]!r} must be '{tle_checksum(line)}'"
        )


# --- Sun, shadow, Earth ------------------------------------------------------------------------------


def sun_position_m(unix_s: Array) -> Array:
    """Return geocentric Sun positions (n, 3), mean equator and equinox of date.

    The Astronomical Almanac's low-precision formula (section C; Vallado, Algorithm 29), aberration
    included: within 0.01 deg in direction and 1e-4 in distance from 1950 to 2050.
    """
    days = (np.asarray(unix_s, dtype=np.float64) / DAY_S) + (UNIX_JD - J2000_JD)
    anomaly = np.radians(357.528 + 0.9856003 * days)
    longitude = np.radians(
        280.460 + 0.9856474 * days + 1.915 * np.sin(anomaly) + 0.020 * np.sin(2.0 * anomaly)
    )
    obliquity = np.radians(23.439 - 4.0e-7 * days)
    distance_m = AU_M * (1.00014 - 0.01671 * np.cos(anomaly) - 0.00014 * np.cos(2.0 * anomaly))
    east = np.sin(longitude)
    unit = np.stack((np.cos(longitude), east * np.cos(obliquity), east * np.sin(obliquity)), axis=-1)
    return np.asarray(distance_m[..., np.newaxis] * unit)


def irradiance_w_m2(position_m: Array, sun_m: Array) -> Array:
    """Return unshadowed solar irradiance (n,) by the inverse square of the distance to the Sun."""
    towards_m = sun_m - position_m
    return np.asarray(SOLAR_CONSTANT_W_M2 * AU_M**2 / _dot(towards_m, towards_m))


def _shadow_angles(position_m: Array, sun_m: Array) -> tuple[Array, Array, Array]:
    """Return apparent radii of Sun and Earth and the angle between their centres, rad, each (n,)."""
    towards_m = sun_m - position_m
    sun_rad = np.arcsin(SUN_RADIUS_M / _norm(towards_m))
    earth_rad = np.arcsin(np.minimum(EARTH_RADIUS_M / _norm(position_m), 1.0))
    cross = np.cross(towards_m, -position_m)
    return sun_rad, earth_rad, np.arctan2(_norm(cross), -_dot(towards_m, position_m))


def illumination_frac(position_m: Array, sun_m: Array) -> Array:
    """Return the visible share (n,) of the Sun's disc, 0 in umbra, 1 outside the penumbra.

    Overlap area of two discs (Montenbruck and Gill, Satellite Orbits, 3.4.2); spherical Earth without
    atmosphere, `position_m` and `sun_m` (n, 3) geocentric.
    """
    a, b, c = _shadow_angles(position_m, sun_m)
    frac = np.where(c >= a + b, 1.0, 0.0)
    edge = np.flatnonzero((c < a + b) & (c > np.abs(b - a)))
    a, b, c = a[edge], b[edge], c[edge]
    x = (c * c + a * a - b * b) / (2.0 * c)
    y = np.sqrt(np.maximum(a * a - x * x, 0.0))
    hidden = (
        a * a * np.arccos(np.clip(x / a, -1.0, 1.0))
        + b * b * np.arccos(np.clip((c - x) / b, -1.0, 1.0))
        - c * y
    )
    frac[edge] = 1.0 - hidden / (np.pi * a * a)
    return frac


def earth_view_frac(cos_nadir: Array, distance_m: Array) -> Array:
    """Return the view factor from a small flat plate to the Earth's sphere.

    `cos_nadir` is the cosine between plate normal and nadir, `distance_m` from the Earth's centre; they
    broadcast. Diffuse emitter; the plate's own horizon is respected (Naraghi and Chung, J. Heat Transfer 104
    (1982) 551; Howell's catalogue B-43).
    """
    h = distance_m / EARTH_RADIUS_M
    cos_nadir, h = np.broadcast_arrays(np.clip(cos_nadir, -1.0, 1.0), h)
    x = np.sqrt(h * h - 1.0)
    sin_nadir = np.sqrt(1.0 - cos_nadir * cos_nadir)
    whole = cos_nadir * h >= 1.0
    part = np.abs(cos_nadir * h) < 1.0
    frac = np.where(whole, cos_nadir / (h * h), 0.0)
    c, s, x, h = cos_nadir[part], sin_nadir[part], x[part], h[part]
    y = -x * c / s
    root = s * np.sqrt(np.maximum(1.0 - y * y, 0.0))
    frac[part] = ((c * np.arccos(np.clip(y, -1.0, 1.0)) - x * root) / (h * h) + np.arctan(root / x)) / np.pi
    return frac


# --- orbit -------------------------------------------------------------------------------------------


class Station(Protocol):
    """What the geometry needs of a ground station (`mission.Station`): its geodetic WGS84 place and the
    lowest elevation that its link closes at.
    """

    @property
    def name(self) -> str:
        """Name that a pass is listed under."""

    @property
    def latitude_deg(self) -> float:
        """Geodetic latitude, north positive."""

    @property
    def longitude_deg(self) -> float:
        """Longitude, east positive."""

    @property
    def altitude_m(self) -> float:
        """Height above the ellipsoid."""

    @property
    def min_elevation_deg(self) -> float:
        """A pass begins and ends here."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One contact: times (Unix) at which the satellite crosses the station's lowest elevation, and its top."""

    station: str
    aos_unix_s: float
    peak_unix_s: float
    los_unix_s: float
    peak_elevation_deg: float


@dataclass(frozen=True, slots=True)
class Eclipse:
    """One passage through the shadow, Unix times of its edges; no umbra edges where it only grazes."""

    penumbra_entry_unix_s: float
    umbra_entry_unix_s: float | None
    umbra_exit_unix_s: float | None
    penumbra_exit_unix_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Environment:
    """What the surroundings do to `k` plane faces at `n` times; incident fluxes, before any absorptivity.

    `sun_body` is a unit vector in body axes; `irradiance_w_m2` leaves the shadow out, `solar_w_m2` has it.
    """

    unix_s: Array  # (n,)
    illumination_frac: Array  # (n,)
    irradiance_w_m2: Array  # (n,)
    sun_body: Array  # (n, 3)
    solar_w_m2: Array  # (n, k)
    earth_view_frac: Array  # (n, k)
    albedo_w_m2: Array  # (n, k)
    infrared_w_m2: Array  # (n, k)

    def absorbed_w_m2(self, solar_absorptivity_frac: Array, infrared_emissivity_frac: Array) -> Array:
        """Return absorbed heat (n, k) for the optical properties (k,) of the faces."""
        return np.asarray(
            solar_absorptivity_frac * (self.solar_w_m2 + self.albedo_w_m2)
            + infrared_emissivity_frac * self.infrared_w_m2
        )


class Orbit:
    """SGP4 (WGS72 constants, as the elements were fitted with) of one TLE, and the geometry from it.

    All times are Unix seconds, as arrays (n,); all searches are vectorised. Raises KernelError when SGP4
    gives an error code, for instance for a decayed orbit.
    """

    def __init__(self, tle: Tle) -> None:
        self.tle = tle
        self._satrec = Satrec.twoline2rv(tle.line1, tle.line2, WGS72)
        if self._satrec.error:
            raise _sgp4_error(self._satrec.error)
        self.period_s: float = math.tau / self._satrec.no_kozai * 60.0

    def states(self, unix_s: Array) -> tuple[Array, Array]:
        """Return positions m and velocities m/s, each (n, 3), TEME."""
        unix_s = np.atleast_1d(np.asarray(unix_s, dtype=np.float64))
        if unix_s.ndim != 1 or not np.isfinite(unix_s).all():
            raise ValueError(f"times must be one row of finite Unix seconds, got shape {unix_s.shape}")
        days = np.floor(unix_s / DAY_S)
        codes, position_km, velocity_kmps = self._satrec.sgp4_array(
            UNIX_JD + days, (unix_s - days * DAY_S) / DAY_S
        )
        if codes.any():
            raise _sgp4_error(int(codes[np.flatnonzero(codes)[0]]))
        return position_km * 1e3, velocity_kmps * 1e3

    def beta_angle_rad(self, unix_s: Array) -> Array:
        """Return the Sun's elevation (n,) over the orbit plane, positive on the orbit normal's side."""
        normal = np.cross(*self.states(unix_s))
        sun_m = sun_position_m(np.atleast_1d(unix_s))
        return np.asarray(np.arcsin(_dot(_unit(normal), _unit(sun_m))))

    def ground_track(self, unix_s: Array) -> tuple[Array, Array, Array]:
        """Return geodetic latitude rad, longitude rad (-pi..pi) and WGS84 altitude m, each (n,).

        Bowring's closed form, Survey Review 23 (1976) 323: below 1 mm at these heights.
        """
        x, y, z = self._earth_fixed_m(np.atleast_1d(unix_s)).T
        polar_m = EARTH_RADIUS_M * (1.0 - EARTH_FLATTENING)
        e2 = EARTH_FLATTENING * (2.0 - EARTH_FLATTENING)
        p = np.hypot(x, y)
        reduced = np.arctan2(z * EARTH_RADIUS_M, p * polar_m)
        latitude = np.arctan2(
            z + e2 / (1.0 - e2) * polar_m * np.sin(reduced) ** 3,
            p - e2 * EARTH_RADIUS_M * np.cos(reduced) ** 3,
        )
        sin_lat = np.sin(latitude)
        altitude_m = (
            p * np.cos(latitude) + z * sin_lat - EARTH_RADIUS_M * np.sqrt(1.0 - e2 * sin_lat * sin_lat)
        )
        return latitude, np.arctan2(y, x), altitude_m

    def look(self, station: Station, unix_s: Array) -> tuple[Array, Array, Array]:
        """Return azimuth rad (from north to east, 0..2 pi), elevation rad and range m, each (n,)."""
        position_m, axes = _station_frame(station)
        east, north, up = axes @ (self._earth_fixed_m(np.atleast_1d(unix_s)) - position_m).T
        horizontal = np.hypot(east, north)
        return (
            np.mod(np.arctan2(east, north), math.tau),
            np.arctan2(up, horizontal),
            np.hypot(horizontal, up),
        )

    def passes(self, station: Station, start_unix_s: float, end_unix_s: float) -> list[Pass]:
        """Return all contacts that overlap the window, whole (edges may lie outside it), in order.

        Edges and top are within 1 ms of this orbit model's own.
        """
        limit_rad = math.radians(station.min_elevation_deg)

        def margin(unix_s: Array) -> Array:
            return self.look(station, unix_s)[1] - limit_rad

        rise, peak, fall, height = self._search(margin, start_unix_s, end_unix_s)
        return [
            Pass(station.name, aos, tca, los, math.degrees(top + limit_rad))
            for aos, tca, los, top in zip(
                rise.tolist(), peak.tolist(), fall.tolist(), height.tolist(), strict=True
            )
            if los > start_unix_s and aos < end_unix_s
        ]

    def eclipses(self, start_unix_s: float, end_unix_s: float) -> list[Eclipse]:
        """Return all shadow passages that overlap the window, whole (edges may lie outside it), in order.

        Edges are within 1 ms of this orbit model's own.
        """

        def penumbra_margin(unix_s: Array) -> Array:
            sun_rad, earth_rad, apart_rad = _shadow_angles(self.states(unix_s)[0], sun_position_m(unix_s))
            return earth_rad + sun_rad - apart_rad

        def umbra_margin(unix_s: Array) -> Array:
            sun_rad, earth_rad, apart_rad = _shadow_angles(self.states(unix_s)[0], sun_position_m(unix_s))
            return earth_rad - sun_rad - apart_rad

        entry, peak, leave, _ = self._search(penumbra_margin, start_unix_s, end_unix_s)
        near = (leave > start_unix_s) & (entry < end_unix_s)
        entry, peak, leave = entry[near], peak[near], leave[near]
        if not entry.size:
            return []
        total = umbra_margin(peak) > 0.0
        umbra_entry = _bisect(umbra_margin, entry, peak)
        umbra_exit = _bisect(umbra_margin, leave, peak)
        return [
            Eclipse(
                float(entry[i]),
                float(umbra_entry[i]) if total[i] else None,
                float(umbra_exit[i]) if total[i] else None,
                float(leave[i]),
            )
            for i in range(entry.size)
        ]

    def environment(
        self, unix_s: Array, attitude: Attitude, normals_body: Array = FACE_NORMALS
    ) -> Environment:
        """Return what reaches plane faces with unit normals `normals_body` (k, 3) at the times (n,).

        Albedo by the first-order rule: view factor x albedo x irradiance x cosine of the Sun's zenith angle
        below the satellite (Gilmore, Spacecraft Thermal Control Handbook, 2002, chapter 2).
        """
        unix_s = np.atleast_1d(np.asarray(unix_s, dtype=np.float64))
        position_m, velocity_mps = self.states(unix_s)
        sun_m = sun_position_m(unix_s)
        lit_frac = illumination_frac(position_m, sun_m)
        solar_w_m2 = irradiance_w_m2(position_m, sun_m)
        nadir = -_unit(position_m)
        sun = _unit(sun_m - position_m)
        axes = _body_axes(attitude, nadir, -_unit(np.cross(position_m, velocity_mps)), sun)
        sun_body = np.einsum("nij,nj->ni", axes, sun)
        cos_nadir = np.einsum("nij,nj->ni", axes, nadir) @ normals_body.T
        view_frac = earth_view_frac(cos_nadir, _norm(position_m)[:, np.newaxis])
        subsolar_cos = np.maximum(-_dot(nadir, _unit(sun_m)), 0.0)
        return Environment(
            unix_s=unix_s,
            illumination_frac=lit_frac,
            irradiance_w_m2=solar_w_m2,
            sun_body=sun_body,
            solar_w_m2=(lit_frac * solar_w_m2)[:, np.newaxis] * np.maximum(sun_body @ normals_body.T, 0.0),
            earth_view_frac=view_frac,
            albedo_w_m2=(EARTH_ALBEDO_FRAC * solar_w_m2 * subsolar_cos)[:, np.newaxis] * view_frac,
            infrared_w_m2=EARTH_IR_W_M2 * view_frac,
        )

    def _earth_fixed_m(self, unix_s: Array) -> Array:
        """Positions (n, 3) turned from TEME by Greenwich mean sidereal time."""
        x, y, z = self.states(unix_s)[0].T
        angle = gmst_rad(unix_s)
        cos, sin = np.cos(angle), np.sin(angle)
        return np.stack((cos * x + sin * y, cos * y - sin * x, z), axis=-1)

    def _search(
        self, margin: Callable[[Array], Array], start_unix_s: float, end_unix_s: float
    ) -> tuple[Array, Array, Array, Array]:
        """Return rise, peak and fall times and peak values of the spells in which `margin` is above 0.

        One period is added on both sides, so a spell that overlaps the window is found whole. Peaks are
        refined before they are judged, so a spell shorter than the scan step is found too.
        """
        if not 0.0 <= end_unix_s - start_unix_s < math.inf:
            raise ValueError(f"window from {start_unix_s} to {end_unix_s} Unix s is empty or unbounded")
        grid = np.arange(start_unix_s - self.period_s, end_unix_s + self.period_s, _SCAN_STEP_S)
        value = margin(grid)
        top = 1 + np.flatnonzero((value[1:-1] >= value[:-2]) & (value[1:-1] > value[2:]))
        peak = _maximise(margin, grid[top] - _SCAN_STEP_S, grid[top] + _SCAN_STEP_S)
        height = margin(peak)
        below = grid[value <= 0.0]
        after = np.searchsorted(below, peak)
        whole = (height > 0.0) & (after > 0) & (after < below.size)
        peak, height, after = peak[whole], height[whole], after[whole]
        edges = _bisect(margin, np.concatenate((below[after - 1], below[after])), np.tile(peak, 2))
        return edges[: peak.size], peak, edges[peak.size :], height


def gmst_rad(unix_s: Array) -> Array:
    """Return Greenwich mean sidereal time (n,), 0..2 pi: IAU 1982 (Vallado eq. 3-47), UT1 = UTC."""
    days = np.asarray(unix_s, dtype=np.float64) / DAY_S + (UNIX_JD - J2000_JD)
    t = days / 36_525.0
    seconds = 67_310.54841 + 3_164_400_184.812866 * t + 0.093104 * t**2 - 6.2e-6 * t**3
    return np.asarray(np.mod(seconds, DAY_S) * (math.tau / DAY_S))


def _sgp4_error(code: int) -> KernelError:
    return KernelError("sgp4", -code, SGP4_ERRORS.get(code, "unknown error code"))


def _station_frame(station: Station) -> tuple[Array, Array]:
    """Return the station's Earth-fixed position m and its east, north and up axes as rows."""
    lat, lon = math.radians(station.latitude_deg), math.radians(station.longitude_deg)
    sin_lat, cos_lat, sin_lon, cos_lon = math.sin(lat), math.cos(lat), math.sin(lon), math.cos(lon)
    e2 = EARTH_FLATTENING * (2.0 - EARTH_FLATTENING)
    normal_m = EARTH_RADIUS_M / math.sqrt(1.0 - e2 * sin_lat**2)
    axes = np.array(
        [
            [-sin_lon, cos_lon, 0.0],
            [-sin_lat * cos_lon, -sin_lat * sin_lon, cos_lat],
            [cos_lat * cos_lon, cos_lat * sin_lon, sin_lat],
        ]
    )
    scale_m = np.array([normal_m, normal_m, normal_m * (1.0 - e2)]) + station.altitude_m
    return scale_m * axes[2], axes


def _body_axes(attitude: Attitude, nadir: Array, anti_normal: Array, sun: Array) -> Array:
    """Return body axes as rows (n, 3, 3) from unit vectors (n, 3) in the inertial frame."""
    if attitude is Attitude.NADIR:
        y, z = anti_normal, nadir
    else:
        z = -sun
        y = anti_normal - _dot(anti_normal, z)[:, np.newaxis] * z
        # With the Sun along the orbit normal any yaw is as good; LVLH +x keeps it defined.
        y = np.where(_norm(y)[:, np.newaxis] > 1e-6, y, np.cross(anti_normal, nadir))
        y = _unit(y)
    return np.stack((np.cross(y, z), y, z), axis=1)


def _maximise(function: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Ternary search for one maximum in each bracket, to 1 ms of a 60 s bracket."""
    for _ in range(28):
        third = (high - low) / 3.0
        left, right = low + third, high - third
        value = function(np.concatenate((left, right)))
        rising = value[: left.size] < value[left.size :]
        low, high = np.where(rising, left, low), np.where(rising, high, right)
    return 0.5 * (low + high)


def _bisect(function: Callable[[Array], Array], outside: Array, inside: Array) -> Array:
    """Return the zero between each point with a value <= 0 and one with a value > 0."""
    for _ in range(_BISECTIONS):
        middle = 0.5 * (outside + inside)
        positive = function(middle) > 0.0
        outside, inside = np.where(positive, outside, middle), np.where(positive, middle, inside)
    return 0.5 * (outside + inside)


def _dot(a: Array, b: Array) -> Array:
    return np.asarray(np.einsum("...i,...i->...", a, b))


def _norm(a: Array) -> Array:
    return np.sqrt(_dot(a, a))


def _unit(a: Array) -> Array:
    return a / _norm(a)[..., np.newaxis]

"""What the true surroundings do to the satellite, second by second, for a whole run at once.

Built once per run by the rig; the plant is fed from its rows. It shares no number and no code with the
flight's `orbit.py` beyond the names of attitudes and faces: numeric orbit, VSOP87 Sun, its own shadow, and an
Earth whose albedo and infrared change with latitude, season and clouds, summed over the visible cap.

Left out: atmosphere at the limb (an eclipse edge is sharper than the real one), polar flattening in the
shadow, aberration (0.1 s on an edge), attitude error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flightsw.orbit import FACES, Attitude
from hil.plant.propagator import Earth, Frame, StartState, propagate

Array = npt.NDArray[np.float64]

ASTRONOMICAL_UNIT_M = 1.495978707e11
SOLAR_RADIUS_M = 6.957e8
TOTAL_SOLAR_IRRADIANCE_W_M2 = 1361.0
_TT_MINUS_UTC_S = 69.184
_ARCSEC = math.pi / 648_000.0

# Earth's heliocentric ecliptic longitude and radius, mean equinox of date: leading terms of VSOP87D
# (Bretagnon and Francou 1988; as listed in Reda and Andreas, Solar Energy 76 (2004) 577, table A4.2).
# Amplitude (1e-8 rad or AU), phase rad, rate rad/millennium; one table per power of time.
_LONGITUDE = (
    (
        (175347046.0, 0.0, 0.0),
        (3341656.0, 4.6692568, 6283.07585),
        (34894.0, 4.6261, 12566.1517),
        (3497.0, 2.7441, 5753.3849),
        (3418.0, 2.8289, 3.5231),
        (3136.0, 3.6277, 77713.7715),
        (2676.0, 4.4181, 7860.4194),
        (2343.0, 6.1352, 3930.2097),
        (1324.0, 0.7425, 11506.7698),
        (1273.0, 2.0371, 529.691),
        (1199.0, 1.1096, 1577.3435),
        (990.0, 5.233, 5884.927),
        (902.0, 2.045, 26.298),
        (857.0, 3.508, 398.149),
        (780.0, 1.179, 5223.694),
        (753.0, 2.533, 5507.553),
        (505.0, 4.583, 18849.228),
        (492.0, 4.205, 775.523),
    ),
    ((628331966747.0, 0.0, 0.0), (206059.0, 2.678235, 6283.07585), (4303.0, 2.6351, 12566.1517)),
    ((52919.0, 0.0, 0.0), (8720.0, 1.0721, 6283.0758)),
)
_RADIUS = (
    (
        (100013989.0, 0.0, 0.0),
        (1670700.0, 3.0984635, 6283.07585),
        (13956.0, 3.05525, 12566.1517),
        (3084.0, 5.1985, 77713.7715),
        (1628.0, 1.1739, 5753.3849),
        (1576.0, 2.8469, 7860.4194),
        (925.0, 5.453, 11506.77),
    ),
    ((103019.0, 1.10749, 6283.07585), (1721.0, 1.0644, 12566.1517)),
    ((4359.0, 5.7846, 6283.0758),),
)


def _series(powers: tuple[tuple[tuple[float, float, float], ...], ...], millennia: Array) -> Array:
    total = np.zeros_like(millennia)
    for power, terms in enumerate(powers):
        amplitude, phase, rate = np.array(terms).T
        waves = amplitude[:, np.newaxis] * np.cos(phase[:, np.newaxis] + np.outer(rate, millennia))
        total += waves.sum(axis=0) * millennia**power
    return total * 1e-8


def sun_position_m(unix_s: Array, frame: Frame) -> Array:
    """Return geocentric geometric Sun positions (n, 3); within 6 arcsec and 3e-5 in distance, 1980 to 2050.

    The Sun's ecliptic latitude (1 arcsec) is left out. To J2000 by the precession angles of Lieske 1979
    (Meeus, Astronomical Algorithms, 21.2).
    """
    millennia = (unix_s + _TT_MINUS_UTC_S - 946_728_000.0) / (365_250.0 * 86_400.0)
    longitude = _series(_LONGITUDE, millennia) + math.pi
    t = 10.0 * millennia
    obliquity = (84_381.448 - 46.8150 * t) * _ARCSEC
    east = np.sin(longitude)
    unit = np.stack((np.cos(longitude), east * np.cos(obliquity), east * np.sin(obliquity)), axis=1)
    sun_m = (ASTRONOMICAL_UNIT_M * _series(_RADIUS, millennia))[:, np.newaxis] * unit
    if frame is Frame.OF_DATE:
        return np.asarray(sun_m)
    zeta = (2306.2181 * t + 0.30188 * t**2 + 0.017998 * t**3) * _ARCSEC
    z = (2306.2181 * t + 1.09468 * t**2 + 0.018203 * t**3) * _ARCSEC
    theta = (2004.3109 * t - 0.42665 * t**2 - 0.041833 * t**3) * _ARCSEC
    return _turn(_turn(_turn(sun_m, z, 2), -theta, 1), zeta, 2)


def _turn(vectors: Array, angle: Array, axis: int) -> Array:
    """Turn the frame of `vectors` (n, 3) by `angle` (n,) about one axis."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    cos, sin = np.cos(angle), np.sin(angle)
    out = vectors.copy()
    out[:, i] = cos * vectors[:, i] + sin * vectors[:, j]
    out[:, j] = cos * vectors[:, j] - sin * vectors[:, i]
    return out


# --- shadow ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shadow:
    """Angles (n,) in rad that decide the light: apparent radii of Sun and Earth, and their separation."""

    sun_rad: Array
    earth_rad: Array
    apart_rad: Array

    @classmethod
    def seen_from(cls, position_m: Array, sun_m: Array, earth_radius_m: float) -> Shadow:
        """Measure the angles from the satellite; spherical Earth."""
        to_sun_m = sun_m - position_m
        sun_distance_m = np.sqrt((to_sun_m**2).sum(axis=1))
        distance_m = np.sqrt((position_m**2).sum(axis=1))
        cosine = -(to_sun_m * position_m).sum(axis=1) / (sun_distance_m * distance_m)
        return cls(
            np.arcsin(SOLAR_RADIUS_M / sun_distance_m),
            np.arcsin(earth_radius_m / distance_m),
            np.arccos(np.clip(cosine, -1.0, 1.0)),
        )

    def illumination_frac(self) -> Array:
        """Return the visible share (n,) of the solar disc: 1 less the two circular segments that overlap."""
        s, e, d = self.sun_rad, self.earth_rad, self.apart_rad
        lit = (d >= s + e).astype(np.float64)
        partly = (d < s + e) & (d > e - s)
        s, e, d = s[partly], e[partly], d[partly]
        half_sun = np.arccos(np.clip((d * d + s * s - e * e) / (2.0 * d * s), -1.0, 1.0))
        half_earth = np.arccos(np.clip((d * d + e * e - s * s) / (2.0 * d * e), -1.0, 1.0))
        segments = s * s * (half_sun - np.sin(half_sun) * np.cos(half_sun)) + e * e * (
            half_earth - np.sin(half_earth) * np.cos(half_earth)
        )
        lit[partly] = 1.0 - segments / (np.pi * s * s)
        return lit


@dataclass(frozen=True, slots=True)
class Crossing:
    """One shadow edge: seconds since the start of the run, 'penumbra', 'half' (disc half hidden) or 'umbra'."""

    t_s: float
    level: str
    entering: bool


def shadow_crossings(t_s: Array, shadow: Shadow) -> tuple[Crossing, ...]:
    """Return every shadow edge in order of time, interpolated on a grid of 1 s or so to a few ms."""
    margins = (
        ("penumbra", shadow.apart_rad - shadow.earth_rad - shadow.sun_rad),
        ("half", shadow.illumination_frac() - 0.5),
        ("umbra", shadow.apart_rad - shadow.earth_rad + shadow.sun_rad),
    )
    found = []
    for level, margin in margins:
        dark = margin < 0.0
        for i in np.flatnonzero(dark[1:] != dark[:-1]).tolist():
            part = margin[i] / (margin[i] - margin[i + 1])
            found.append(Crossing(float(t_s[i] + part * (t_s[i + 1] - t_s[i])), level, bool(dark[i + 1])))
    return tuple(sorted(found, key=lambda crossing: crossing.t_s))


# --- Earth's light -----------------------------------------------------------------------------------

_EARTH_STEP_S = 30.0  # 230 km of ground track, far below the 4,500 km wide cap
_RINGS, _SECTORS = 16, 24  # directions over the cap: within 1 % of closed forms
_CLOUD_STEP_S = 300.0  # clouds change over some 2,000 km of track
_CLOUD_ALBEDO_SIGMA, _CLOUD_INFRARED_SIGMA = 0.15, 0.05  # cloud raises albedo and lowers infrared


def _albedo_and_emissivity(sin_latitude: Array, unix_s: Array) -> tuple[Array, Array]:
    """Zonal, seasonal albedo and emissivity: Knocke, Ries and Tapley, AIAA 88-4292 (1988)."""
    season = np.cos(2.0 * np.pi / 365.25 * (unix_s / 86_400.0 + 2_440_587.5 - 2_444_960.5))
    p2 = 0.5 * (3.0 * sin_latitude**2 - 1.0)
    return (
        np.clip(0.34 + 0.10 * season * sin_latitude + 0.29 * p2, 0.0, 1.0),
        np.clip(0.68 - 0.07 * season * sin_latitude - 0.18 * p2, 0.0, 1.0),
    )


def earth_light_w_m2(
    unix_s: Array, position_m: Array, sun_m: Array, axes: Array, earth_radius_m: float
) -> tuple[Array, Array]:
    """Return albedo and infrared (n, 6) on the body faces, summed over the cap of Earth in view.

    `axes` holds body axes as rows (n, 3, 3). Diffuse ground; each of 384 directions is followed to the
    point where it meets the sphere, whose latitude and solar elevation set what it sends back.
    """
    distance_m = np.sqrt((position_m**2).sum(axis=1))
    up = position_m / distance_m[:, np.newaxis]
    sun_distance_m = np.sqrt((sun_m**2).sum(axis=1))
    sun = sun_m / sun_distance_m[:, np.newaxis]
    flux_w_m2 = TOTAL_SOLAR_IRRADIANCE_W_M2 * (ASTRONOMICAL_UNIT_M / sun_distance_m) ** 2
    # Any two axes across the vertical serve; the frame axis farthest from it gives them safely.
    side = np.cross(up, np.eye(3)[np.argmin(np.abs(up), axis=1)])
    side /= np.sqrt((side**2).sum(axis=1))[:, np.newaxis]
    ahead = np.cross(side, up)

    cos_cap = np.sqrt(1.0 - (earth_radius_m / distance_m) ** 2)
    ring = (np.arange(_RINGS) + 0.5) / _RINGS
    sector = (np.arange(_SECTORS) + 0.5) * (2.0 * np.pi / _SECTORS)
    cos_off = 1.0 - np.outer(1.0 - cos_cap, ring)  # equal solid angles (n, rings)
    sin_off = np.sqrt(1.0 - cos_off**2)
    across = np.einsum("s,ni->nsi", np.cos(sector), side) + np.einsum("s,ni->nsi", np.sin(sector), ahead)
    ray = -cos_off[:, :, None, None] * up[:, None, None, :] + sin_off[:, :, None, None] * across[:, None]
    miss2 = np.maximum((earth_radius_m / distance_m[:, np.newaxis]) ** 2 - sin_off**2, 0.0)
    reach = distance_m[:, np.newaxis] * (cos_off - np.sqrt(miss2))
    ground = (position_m[:, None, None, :] + reach[:, :, None, None] * ray) / earth_radius_m

    albedo, emissivity = _albedo_and_emissivity(ground[..., 2], unix_s[:, None, None])
    daylight = np.maximum(np.einsum("nrsi,ni->nrs", ground, sun), 0.0)
    solid_angle = 2.0 * np.pi * (1.0 - cos_cap) / (_RINGS * _SECTORS)
    exitance_w_m2 = np.stack(
        (albedo * daylight * flux_w_m2[:, None, None], emissivity * (0.25 * TOTAL_SOLAR_IRRADIANCE_W_M2))
    )
    radiance = exitance_w_m2 * (solid_angle / np.pi)[:, None, None]
    ray_body = np.einsum("nij,nrsj->nrsi", axes, ray)
    faces = np.stack((np.maximum(ray_body, 0.0), np.maximum(-ray_body, 0.0)), axis=-1)
    light = np.einsum("knrs,nrsif->knif", radiance, faces).reshape(2, -1, len(FACES))
    return light[0], light[1]


def _clouds(t_s: Array, seed: int) -> tuple[Array, Array]:
    """Factors (n,) on albedo and infrared: bounded noise at knots, straight lines between them."""
    knots = np.arange(math.ceil(float(t_s[-1]) / _CLOUD_STEP_S) + 2)
    cover = np.clip(np.random.default_rng(seed).standard_normal(knots.size), -2.0, 2.0)
    cover = np.interp(t_s / _CLOUD_STEP_S, knots, cover)
    return 1.0 + _CLOUD_ALBEDO_SIGMA * cover, 1.0 - _CLOUD_INFRARED_SIGMA * cover


# --- the whole run -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class TruthEnvironment:
    """Rows of one run on an even grid from the start; faces in the order of `flightsw.orbit.FACES`.

    `direct_w_m2` is sunlight, shadow included, on a plate that faces the Sun; the rest is incident on the
    body's faces, before any absorptivity. About 16 MB a day at 1 s.
    """

    start_unix_s: float
    t_s: Array  # (n,)
    position_m: Array  # (n, 3)
    illumination_frac: Array  # (n,)
    direct_w_m2: Array  # (n,)
    solar_w_m2: Array  # (n, 6)
    albedo_w_m2: Array  # (n, 6)
    infrared_w_m2: Array  # (n, 6)
    crossings: tuple[Crossing, ...]

    @property
    def array_flux_w_m2(self) -> Array:
        """Sunlight (n,) on the array side, body -z."""
        return self.solar_w_m2[:, FACES.index("-z")]

    def absorbed_w_m2(self, solar_absorptivity_frac: Array, infrared_emissivity_frac: Array) -> Array:
        """Return heat (n, 6) absorbed by the faces, whose optical properties (6,) are given."""
        light = (self.solar_w_m2 + self.albedo_w_m2) * solar_absorptivity_frac
        return np.asarray(light + self.infrared_w_m2 * infrared_emissivity_frac)

    def elevation_deg(self, latitude_deg: float, longitude_deg: float, altitude_m: float) -> Array:
        """Return the satellite's elevation (n,) over a station's horizon (geodetic, WGS84)."""
        lat, lon = math.radians(latitude_deg), math.radians(longitude_deg)
        centuries = ((self.start_unix_s + self.t_s) / 86_400.0 - 10_957.5) / 36_525.0
        # Mean sidereal time in degrees, Meeus 12.4.
        sidereal = np.radians((280.46061837 + 360.98564736629 * 36_525.0 * centuries) % 360.0)
        angle = sidereal + lon
        up = np.stack(
            (
                math.cos(lat) * np.cos(angle),
                math.cos(lat) * np.sin(angle),
                np.full_like(angle, math.sin(lat)),
            ),
            axis=1,
        )
        e2 = 0.00669437999014
        curvature_m = 6_378_137.0 / math.sqrt(1.0 - e2 * math.sin(lat) ** 2)
        site_m = up * np.array([1.0, 1.0, 1.0 - e2]) * curvature_m + up * altitude_m
        line_m = self.position_m - site_m
        sine = (line_m * up).sum(axis=1) / np.sqrt((line_m**2).sum(axis=1))
        return np.asarray(np.degrees(np.arcsin(sine)))


def build_environment(
    start: StartState,
    duration_s: float,
    attitude: Attitude,
    seed: int,
    earth: Earth | None = None,
    step_s: float = 1.0,
) -> TruthEnvironment:
    """Compute all rows from 0 to `duration_s`; a day at 1 s takes under half a second. `seed` moves the clouds."""
    earth = earth or Earth()
    t_s = np.arange(math.floor(duration_s / step_s) + 1, dtype=np.float64) * step_s
    unix_s = start.unix_s + t_s
    position_m, velocity_mps = propagate(start, duration_s, earth).at(t_s)
    # The Sun moves 25 arcsec in 10 min, on a line to 1e-9: interpolating saves its series per second.
    knot_s = np.arange(0.0, t_s[-1] + 1200.0, 600.0)
    knot_m = sun_position_m(start.unix_s + knot_s, start.frame)
    sun_m = np.stack([np.interp(t_s, knot_s, knot_m[:, i]) for i in range(3)], axis=1)

    shadow = Shadow.seen_from(position_m, sun_m, earth.radius_m)
    lit_frac = shadow.illumination_frac()
    to_sun_m = sun_m - position_m
    distance2_m2 = (to_sun_m**2).sum(axis=1)
    direct_w_m2 = lit_frac * (TOTAL_SOLAR_IRRADIANCE_W_M2 * ASTRONOMICAL_UNIT_M**2) / distance2_m2
    to_sun = to_sun_m / np.sqrt(distance2_m2)[:, np.newaxis]
    axes = _body_axes(attitude, position_m, velocity_mps, to_sun)
    sun_body = np.einsum("nij,nj->ni", axes, to_sun)
    sides = np.stack((sun_body, -sun_body), axis=2).reshape(-1, len(FACES))

    coarse_s = np.arange(0.0, t_s[-1] + _EARTH_STEP_S, _EARTH_STEP_S)
    nearest = np.minimum(np.rint(coarse_s / step_s).astype(np.intp), t_s.size - 1)
    light = np.concatenate(
        [
            np.concatenate(
                earth_light_w_m2(unix_s[i], position_m[i], sun_m[i], axes[i], earth.radius_m), axis=1
            )
            for i in _chunks(np.unique(nearest), 512)
        ]
    )
    at_s = t_s[np.unique(nearest)]
    light = np.stack([np.interp(t_s, at_s, column) for column in light.T], axis=1)
    albedo_factor, infrared_factor = _clouds(t_s, seed)
    return TruthEnvironment(
        start_unix_s=start.unix_s,
        t_s=t_s,
        position_m=position_m,
        illumination_frac=lit_frac,
        direct_w_m2=direct_w_m2,
        solar_w_m2=direct_w_m2[:, np.newaxis] * np.maximum(sides, 0.0),
        albedo_w_m2=albedo_factor[:, np.newaxis] * light[:, :6],
        infrared_w_m2=infrared_factor[:, np.newaxis] * light[:, 6:],
        crossings=shadow_crossings(t_s, shadow),
    )


def _chunks(rows: npt.NDArray[np.intp], size: int) -> Iterator[npt.NDArray[np.intp]]:
    """Cut `rows` so that the work on one piece stays within the cache and a long run within memory."""
    return (rows[i : i + size] for i in range(0, rows.size, size))


def _body_axes(attitude: Attitude, position_m: Array, velocity_mps: Array, to_sun: Array) -> Array:
    """Body axes as rows (n, 3, 3), after the definition of the attitude laws in `flightsw.orbit`."""
    down = -position_m / np.sqrt((position_m**2).sum(axis=1))[:, np.newaxis]
    right = np.cross(velocity_mps, position_m)
    right /= np.sqrt((right**2).sum(axis=1))[:, np.newaxis]
    if attitude is Attitude.NADIR:
        return np.stack((np.cross(right, down), right, down), axis=1)
    ram = np.cross(right, down)
    out_of_plane = np.abs((right * to_sun).sum(axis=1))[:, np.newaxis]
    reference = np.where(out_of_plane < 1.0 - 5e-13, right, ram)
    first = np.cross(to_sun, reference)  # x = y x z with z = -Sun
    first /= np.sqrt((first**2).sum(axis=1))[:, np.newaxis]
    return np.stack((first, np.cross(first, to_sun), -to_sun), axis=1)

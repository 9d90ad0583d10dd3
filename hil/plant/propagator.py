"""The true orbit: numeric propagation of a state vector, and its interpolation to any time.

Used by `hil.plant.environment` only. The flight software predicts with SGP4; the truth integrates the
equation of motion from a start state, so the two differ as a real orbit and its elements do. Air drag,
Moon and Sun, and the zonal terms above J2 are left out: after
a day the place along the track is 3 to 4 km, or 0.5 s, from SGP4's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt
from sgp4.api import SGP4_ERRORS, WGS72, Satrec

from flightsw.errors import ConfigError

Array = npt.NDArray[np.float64]
Vector = tuple[float, float, float]


class Frame(Enum):
    """Inertial axes of a start state: mean equator and equinox of date (TEME but for nutation) or of J2000."""

    OF_DATE = "of_date"
    J2000 = "j2000"


@dataclass(frozen=True, slots=True)
class Earth:
    """Gravity and size of the true Earth: EGM2008, tide-free C20 unnormalised. `j2 = 0` is two-body motion."""

    mu_m3ps2: float = 3.986004418e14
    radius_m: float = 6_378_136.3
    j2: float = 1.0826261739e-3


@dataclass(frozen=True, slots=True)
class StartState:
    """Position and velocity at one Unix time, geocentric inertial."""

    unix_s: float
    position_m: Vector
    velocity_mps: Vector
    frame: Frame


def start_from_tle(line1: str, line2: str, unix_s: float) -> StartState:
    """Return the osculating SGP4 state (WGS72) of a TLE at `unix_s`; ConfigError where SGP4 has none."""
    days, rest_s = divmod(unix_s, 86_400.0)
    code, position_km, velocity_kmps = Satrec.twoline2rv(line1, line2, WGS72).sgp4(
        2_440_587.5 + days, rest_s / 86_400.0
    )
    if code:
        raise ConfigError(f"TLE {line1[2:7]}", f"no state at Unix time {unix_s:.0f} s: {SGP4_ERRORS[code]}")
    (x, y, z), (vx, vy, vz) = position_km, velocity_kmps
    return StartState(unix_s, (x * 1e3, y * 1e3, z * 1e3), (vx * 1e3, vy * 1e3, vz * 1e3), Frame.OF_DATE)


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """States on an even grid of `step_s` from 0, with accelerations for interpolation; rows (n, 3)."""

    step_s: float
    position_m: Array
    velocity_mps: Array
    acceleration_mps2: Array

    def at(self, t_s: Array) -> tuple[Array, Array]:
        """Return positions and velocities (m, 3) at times within the grid, by cubic Hermite interpolation.

        Below 1 mm and 0.1 mm/s with steps of 10 s in low orbit.
        """
        last = self.position_m.shape[0] - 1
        if t_s.size and not (t_s.min() >= 0.0 and t_s.max() <= last * self.step_s):
            raise ValueError(f"times {t_s.min()}..{t_s.max()} s outside 0..{last * self.step_s} s")
        i = np.minimum((t_s / self.step_s).astype(np.intp), last - 1)
        u = (t_s / self.step_s - i)[:, np.newaxis]
        rise = u * u * (3.0 - 2.0 * u)
        start_slope = self.step_s * u * (1.0 - u) ** 2
        end_slope = self.step_s * u * u * (u - 1.0)

        def between(value: Array, slope: Array) -> Array:
            return np.asarray(
                value[i] + rise * (value[i + 1] - value[i]) + start_slope * slope[i] + end_slope * slope[i + 1]
            )

        return (
            between(self.position_m, self.velocity_mps),
            between(self.velocity_mps, self.acceleration_mps2),
        )


def propagate(start: StartState, duration_s: float, earth: Earth, step_s: float = 10.0) -> Trajectory:
    """Integrate from the start state over at least `duration_s` with classical RK4.

    Truncation stays below 1 m a day in low orbit with steps of 10 s. Scalar floats: an array of three costs
    ten times as much as the arithmetic.
    """
    mu, sqrt = earth.mu_m3ps2, math.sqrt
    oblateness = 1.5 * earth.j2 * earth.radius_m**2

    def pull(x: float, y: float, z: float) -> Vector:
        r2 = x * x + y * y + z * z
        k = -mu / (r2 * sqrt(r2))
        flat = oblateness / r2
        polar = 5.0 * z * z / r2
        across = k * (1.0 + flat * (1.0 - polar))
        return across * x, across * y, k * (1.0 + flat * (3.0 - polar)) * z

    h, half, sixth = step_s, 0.5 * step_s, step_s / 6.0
    x, y, z = start.position_m
    u, v, w = start.velocity_mps
    rows = []
    for _ in range(max(math.ceil(duration_s / step_s), 1) + 1):
        a1, b1, c1 = pull(x, y, z)
        rows.append((x, y, z, u, v, w, a1, b1, c1))
        u2, v2, w2 = u + half * a1, v + half * b1, w + half * c1
        a2, b2, c2 = pull(x + half * u, y + half * v, z + half * w)
        u3, v3, w3 = u + half * a2, v + half * b2, w + half * c2
        a3, b3, c3 = pull(x + half * u2, y + half * v2, z + half * w2)
        u4, v4, w4 = u + h * a3, v + h * b3, w + h * c3
        a4, b4, c4 = pull(x + h * u3, y + h * v3, z + h * w3)
        x += sixth * (u + 2.0 * (u2 + u3) + u4)
        y += sixth * (v + 2.0 * (v2 + v3) + v4)
        z += sixth * (w + 2.0 * (w2 + w3) + w4)
        u += sixth * (a1 + 2.0 * (a2 + a3) + a4)
        v += sixth * (b1 + 2.0 * (b2 + b3) + b4)
        w += sixth * (c1 + 2.0 * (c2 + c3) + c4)
    table = np.array(rows)
    return Trajectory(step_s, table[:, 0:3].copy(), table[:, 3:6].copy(), table[:, 6:9].copy())

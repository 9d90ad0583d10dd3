"""When the satellite is in sight of which station, how good the link is then, and what to send first.

Owns the contact plan. It reads elements and stations from a mission file, or stations of its own, and predicts with the
orbit model that flies too. Times are Unix seconds and passed in.

Link margin: a station's lowest elevation is where its link is taken to close with `EDGE_MARGIN_DB`; nearer, the margin
grows by the free-space loss, 20 log10 of the ranges (Friis). It is a prediction, never a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flightsw.declared import Reader, number, problems_error, read_toml
from flightsw.errors import ConfigError
from flightsw.orbit import Eclipse, Orbit, Pass, parse_tle

EDGE_MARGIN_DB = 3.0
_HORIZON_S = 86_400.0
_FRAME_EFFICIENCY = 0.93  # packets in 223-octet frames
_OCTET_BITS = 10.0  # 8N1


@dataclass(frozen=True, slots=True)
class Site:
    """A ground station; passes count from `min_elevation_deg`."""

    name: str
    latitude_deg: float = number("deg", -90.0, 90.0)
    longitude_deg: float = number("deg", -180.0, 180.0)
    altitude_m: float = number("m", -500.0, 9000.0, 0.0)
    min_elevation_deg: float = number("deg", 0.0, 60.0, 5.0)


class Look(NamedTuple):
    """Where a station sees the satellite."""

    azimuth_deg: float
    elevation_deg: float
    range_m: float
    margin_db: float


class Contact(NamedTuple):
    """One pass with what an antenna and an operator need to know of it."""

    site: Site
    aos_s: float
    peak_s: float
    los_s: float
    peak_elevation_deg: float
    rise: Look
    peak: Look
    fall: Look

    @property
    def duration_s(self) -> float:
        """Time in sight."""
        return self.los_s - self.aos_s

    def capacity_octets(self, baud: int) -> int:
        """Octets of packets that a line of `baud` carries in the pass, one way."""
        return int(self.duration_s * baud / _OCTET_BITS * _FRAME_EFFICIENCY)


class Sky:
    """One satellite and the stations that see it; what was predicted is kept."""

    def __init__(self, orbit: Orbit, sites: Sequence[Site], start_s: float | None = None) -> None:
        self.orbit = orbit
        self.start_s = start_s  # when the mission's own time began: what T+0 means
        self.sites = tuple(sites)
        self._contacts: list[Contact] = []
        self._eclipses: list[Eclipse] = []
        self._from_s = math.inf
        self._to_s = -math.inf

    def contacts(self, since_s: float, until_s: float) -> list[Contact]:
        """Return all passes that overlap a window, whole, by time of rise."""
        found = [self._contact(site, one) for site in self.sites for one in self.orbit.passes(site, since_s, until_s)]
        return sorted(found, key=lambda contact: contact.aos_s)

    def upcoming(self, now_s: float) -> list[Contact]:
        """Return the passes under way and of the next day."""
        self._predict(now_s)
        return [contact for contact in self._contacts if contact.los_s > now_s]

    def eclipses(self, since_s: float, until_s: float) -> list[tuple[float, float]]:
        """Return passages through the shadow that overlap a window near the present."""
        self._predict(since_s + _HORIZON_S / 4)
        return [(e.penumbra_entry_unix_s, e.penumbra_exit_unix_s) for e in self._eclipses
                if e.penumbra_exit_unix_s > since_s and e.penumbra_entry_unix_s < until_s]

    def look(self, site: Site, at_s: float) -> Look:
        """Return where `site` sees the satellite."""
        azimuth, elevation, distance = self.orbit.look(site, np.array([at_s]))
        edge_m = self._edge_m(site, at_s)
        return Look(math.degrees(azimuth[0]), math.degrees(elevation[0]), float(distance[0]),
                    EDGE_MARGIN_DB + 20.0 * math.log10(edge_m / float(distance[0])))

    def _edge_m(self, site: Site, at_s: float) -> float:
        """Return the range at the lowest elevation, for the present height over a round Earth."""
        position_m, _ = self.orbit.states(np.array([at_s]))
        radius_m, earth_m = float(np.linalg.norm(position_m)), 6_371_000.0
        low = math.radians(site.min_elevation_deg)
        return math.sqrt(radius_m**2 - (earth_m * math.cos(low)) ** 2) - earth_m * math.sin(low)

    def _contact(self, site: Site, one: Pass) -> Contact:
        return Contact(site, one.aos_unix_s, one.peak_unix_s, one.los_unix_s, one.peak_elevation_deg,
                       *(self.look(site, at_s) for at_s in (one.aos_unix_s, one.peak_unix_s, one.los_unix_s)))

    def _predict(self, now_s: float) -> None:
        """Look a day ahead of `now_s` and half a day back, and again when a quarter of it has gone."""
        if not self._from_s <= now_s <= self._to_s:
            self._from_s, self._to_s = now_s - _HORIZON_S / 4, now_s + _HORIZON_S / 4
            self._contacts = self.contacts(now_s - _HORIZON_S / 2, now_s + 1.25 * _HORIZON_S)
            self._eclipses = self.orbit.eclipses(now_s - _HORIZON_S / 2, now_s + 1.25 * _HORIZON_S)


def load(mission: Path, extra: Path | None = None) -> Sky:
    """Read elements and stations of a mission file; `extra` names a file with [[stations]] to use in their place.

    Raises ConfigError that names the file and what is wrong in it.
    """
    table = read_toml(mission)
    orbit = table.get("orbit")
    if not isinstance(orbit, dict) or not isinstance(orbit.get("tle"), str):
        raise ConfigError(str(mission), "no text tle in [orbit]")
    rows = (read_toml(extra) if extra else table).get("stations", [])
    where = extra or mission
    if not isinstance(rows, list) or not rows:
        raise ConfigError(str(where), "no [[stations]]")
    reader = Reader()
    sites = [site for i, row in enumerate(rows) if (site := reader.build(Site, row, f"stations[{i}].")) is not None]
    if reader.problems:
        raise problems_error(str(where), reader.problems)
    return Sky(Orbit(parse_tle(orbit["tle"], f"{mission}: orbit.tle")), sites, _start_s(orbit.get("start_utc")))


def _start_s(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None

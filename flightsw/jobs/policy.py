"""Where a job's data may be worked on and sent down: regions, the track over them, and the bans that follow.

Owns the geometry of regions and the rules of a `DataPolicy`. The composition root gives it the satellite's ground
track; the supervisor hands the bans to decide with a tick's inputs (`BorderWatch.news`) and asks again before a job
runs (`BorderWatch.unlawful`). Never pauses or erases anything, never reads a clock or a file but the regions'.

"Over a region" means that the sub-satellite point (geodetic) is inside its outline: a technical control that a
contract can refer to, not legal advice (docs/data_policy.md). What is not known is forbidden.

Outlines are spherical polygons: their edges are great-circle arcs, so that the antimeridian and the poles are
places like any other. A point is inside by its gnomonic projection, which makes the arcs straight lines. Bans are
exact by speed: no sub-satellite point moves faster than `_TRACK_RAD_S`, so two distances to a border bound all
between them, and what cannot be told within `_RESOLUTION_S` is banned. No corner is cut between samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from flightsw.declared import load, number, problems_error, text
from flightsw.errors import KernelError
from flightsw.jobs.manifest import DataClass, DataPolicy
from flightsw.state import Ban, BanNews, Pause

Array = npt.NDArray[np.float64]
Track = Callable[[Array], tuple[Array, Array, Array]]
"""Unix times (n,) -> geodetic latitude rad, longitude rad and altitude m, as `orbit.Orbit.ground_track`."""

NO_POSITION: Final = "position not known"
UNKNOWN_REGION: Final = "region not on board"

EARTH_KM: Final = 6371.0
RINGS_MAX: Final = 64
VERTICES_MAX: Final = 512
_EDGE_MAX_RAD: Final = math.radians(20.0)  # longer ones are not what their author sees on a flat map
_RADIUS_MAX_RAD: Final = math.radians(80.0)  # of a ring about its centre: what the projection holds
_CELLS_MAX: Final = 200_000  # points times edges worked on at once
_FAR_RAD: Final = 0.2  # beyond it from a ring's circle the distance to the circle will do
_TRACK_RAD_S: Final = 1.45e-3
"""Above the fastest sub-satellite point of any orbit that `orbit.parse_tle` takes: 1.34e-3 rad/s at a perigee of
150 km and eccentricity 0.25, the Earth's turn against it, and 1 % for geodetic latitude."""
_GRID_S: Final = 60.0
_RESOLUTION_S: Final = 0.25
_ACT_S: Final = 3.0
"""From a border's approach to a paused job without a checkpoint: a tick to see it, one to act, one in hand."""
_HORIZON_S: Final = 15.0 * 86_400.0  # beyond the longest deadline of `job.submit`
_PIECE_S: Final = 86_400.0
_RENEW_S: Final = 3.0 * 5_400.0  # three low orbits


class Span(NamedTuple):
    """A stretch of time."""

    from_s: float
    to_s: float


# --- regions -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RegionDeclaration:
    """One region of the file: rings of [latitude, longitude] in degrees, north and east positive, each closed.

    `holes` are rings that do not belong to it.
    """

    name: str = text(r"[A-Z][A-Z0-9_]{0,31}", "1..32 capitals, digits and _")
    description: str = text(r".{1,200}", "1..200 characters")
    source: str = text(r".{1,200}", "1..200 characters")
    rings: tuple[tuple[tuple[float, ...], ...], ...] = number("deg", -180.0, 180.0)
    holes: tuple[tuple[tuple[float, ...], ...], ...] = number("deg", -180.0, 180.0, ())


@dataclass(frozen=True, slots=True)
class RegionsFile:
    """All regions that policies may name.

    `guard_km` on both sides of an outline belongs to neither side: it covers the coarseness of outlines and the
    error of the predicted position. With elements older than `elements_age_max_days` the position is not known.
    """

    regions: tuple[RegionDeclaration, ...]
    guard_km: float = number("km", 1.0, 500.0)
    elements_age_max_days: float = number("days", 0.1, 60.0)


class Ring:
    """One simple closed outline on the sphere. `problem` says why it is not one; then it must not be used."""

    def __init__(self, degrees: Sequence[Sequence[float]]) -> None:
        latitude, longitude = np.radians(np.asarray(degrees, dtype=np.float64)).T
        self._a = unit_vectors(latitude, longitude)
        self._b = np.roll(self._a, -1, axis=0)
        centre = self._a.sum(axis=0)
        size = float(np.linalg.norm(centre))
        self.centre = centre / size if size > 1e-9 else np.array([0.0, 0.0, 1.0])
        along = np.eye(3)[int(np.argmin(np.abs(self.centre)))]
        east = np.cross(along, self.centre)
        east /= np.linalg.norm(east)
        self._axes = np.stack((east, np.cross(self.centre, east)))
        self.radius_rad = float(np.arccos(np.clip(self._a @ self.centre, -1.0, 1.0)).max())
        normals = np.cross(self._a, self._b)
        lengths = np.linalg.norm(normals, axis=1)
        edges_rad = np.arctan2(lengths, np.einsum("ij,ij->i", self._a, self._b))
        self.problem = ""
        if lengths.min() < 1e-9:
            self.problem = f"vertex {int(lengths.argmin())} is repeated"
        elif edges_rad.max() > _EDGE_MAX_RAD:
            self.problem = (f"the edge behind vertex {int(edges_rad.argmax())} spans "
                            f"{math.degrees(edges_rad.max()):.1f} deg, limit {math.degrees(_EDGE_MAX_RAD):g} deg: put "
                            "vertices between")
        elif self.radius_rad > _RADIUS_MAX_RAD:
            self.problem = (f"reaches {math.degrees(self.radius_rad):.1f} deg from its centre, limit "
                            f"{math.degrees(_RADIUS_MAX_RAD):g} deg: divide it into rings")
        if self.problem:
            return
        self._normals = normals / lengths[:, np.newaxis]
        self._from_a, self._to_b = np.cross(self._normals, self._a), np.cross(self._b, self._normals)
        self._plane = (self._a @ self._axes.T) / (self._a @ self.centre)[:, np.newaxis]
        crossing = _self_crossing(self._plane)
        if crossing is not None:
            self.problem = f"the edges behind vertices {crossing[0]} and {crossing[1]} cross"

    def distance_rad(self, points: Array) -> Array:
        """Return the angle (n,) from unit vectors (n, 3) to the outline, negative inside."""
        rows = max(1, _CELLS_MAX // len(self._a))
        parts = [points[i : i + rows] for i in range(0, len(points), rows)]
        return np.concatenate([np.where(self._holds(p), -1.0, 1.0) * self._to_edges_rad(p) for p in parts])

    def _holds(self, p: Array) -> npt.NDArray[np.bool_]:
        """Even-odd rule in the plane of the gnomonic projection; what is behind the horizon is outside."""
        height = p @ self.centre
        ahead = height > 0.05
        x, y = ((p @ self._axes.T) / np.where(ahead, height, 1.0)[:, np.newaxis]).T[:, :, np.newaxis]
        (ax, ay), (bx, by) = self._plane.T, np.roll(self._plane, -1, axis=0).T
        across = (ay > y) != (by > y)
        # Which side of the upward edge, without a division: an edge along the ray is never crossed.
        left = ((x - ax) * (by - ay) < (bx - ax) * (y - ay)) == (by > ay)
        return np.asarray(((across & left).sum(axis=1) % 2 == 1) & ahead)

    def _to_edges_rad(self, p: Array) -> Array:
        """Angle to the nearest edge: to its great circle beside it, else to its ends."""
        to_vertex = np.arccos(np.clip(p @ self._a.T, -1.0, 1.0)).min(axis=1)
        beside = (p @ self._from_a.T >= 0.0) & (p @ self._to_b.T >= 0.0)
        to_circle = np.where(beside, np.abs(p @ self._normals.T), np.inf).min(axis=1)
        to_circle_rad = np.where(to_circle <= 1.0, np.arcsin(np.minimum(to_circle, 1.0)), np.inf)
        return np.asarray(np.minimum(to_vertex, to_circle_rad))


class Region:
    """Rings that belong together, less the holes in them."""

    def __init__(self, rings: Sequence[Ring], holes: Sequence[Ring] = ()) -> None:
        self._rings = tuple(rings)
        self._holes = Region(holes) if holes else None
        self._centres = np.array([ring.centre for ring in rings])
        self._radii_rad = np.array([ring.radius_rad for ring in rings])

    def distance_rad(self, points: Array) -> Array:
        """Return the angle (n,) from unit vectors (n, 3) to the nearest outline, negative inside one.

        Far away it is the angle to the circle about a ring, which is never more.
        """
        angles = np.arccos(np.clip(points @ self._centres.T, -1.0, 1.0)) - self._radii_rad
        near = angles < _FAR_RAD
        for i in np.flatnonzero(near.any(axis=0)):
            angles[near[:, i], i] = self._rings[i].distance_rad(points[near[:, i]])
        nearest = np.asarray(angles.min(axis=1))
        return nearest if self._holes is None else np.maximum(nearest, -self._holes.distance_rad(points))


class Regions:
    """The regions on board."""

    def __init__(self, regions: Mapping[str, Region], guard_km: float, elements_age_max_s: float) -> None:
        self._regions = regions
        self.guard_rad = guard_km / EARTH_KM
        self.elements_age_max_s = elements_age_max_s

    @property
    def names(self) -> Collection[str]:
        """Names that policies may use."""
        return self._regions.keys()

    def distance_rad(self, name: str, points: Array) -> Array:
        """Return the angle (n,) from unit vectors (n, 3) to a region's outline, negative inside."""
        return self._regions[name].distance_rad(points)


def load_regions(path: Path) -> Regions:
    """Read and check a regions file; ConfigError lists every problem."""
    return _regions_of(load(RegionsFile, path), str(path))


def _regions_of(declared: RegionsFile, where: str) -> Regions:
    problems: list[str] = []
    regions: dict[str, Region] = {}
    for region in declared.regions:
        before = len(problems)
        if region.name in regions:
            problems.append(f"region {region.name}: declared twice")
        if not 1 <= len(region.rings) <= RINGS_MAX or len(region.holes) > RINGS_MAX:
            problems.append(f"region {region.name}: {len(region.rings)} rings outside 1..{RINGS_MAX}, or "
                            f"{len(region.holes)} holes above {RINGS_MAX}")
        rings = _rings_of(region.rings, f"region {region.name}, ring", problems)
        holes = _rings_of(region.holes, f"region {region.name}, hole", problems)
        if len(problems) == before:
            regions[region.name] = Region(rings, holes)
    if problems:
        raise problems_error(where, problems)
    return Regions(regions, declared.guard_km, declared.elements_age_max_days * 86_400.0)


def _rings_of(declared: Sequence[Sequence[Sequence[float]]], where: str, problems: list[str]) -> list[Ring]:
    rings: list[Ring] = []
    for i, degrees in enumerate(declared):
        problem = _ring_problem(degrees)
        if not problem:
            rings.append(Ring(degrees))
            problem = rings[-1].problem
        if problem:
            problems.append(f"{where} {i}: {problem}")
    return rings


def _ring_problem(ring: Sequence[Sequence[float]]) -> str:
    if not 3 <= len(ring) <= VERTICES_MAX:
        return f"{len(ring)} vertices outside 3..{VERTICES_MAX}"
    for i, vertex in enumerate(ring):
        if len(vertex) != 2 or not -90.0 <= vertex[0] <= 90.0:
            return f"vertex {i} = {list(vertex)}: expected [latitude -90..90, longitude -180..180]"
    return ""


def _self_crossing(plane: Array) -> tuple[int, int] | None:
    """Return two edges of a closed line (n, 2) that cross or touch, None when none do."""
    p, q = plane, np.roll(plane, -1, axis=0)
    n = len(p)
    for i in range(n - 2):
        rest = slice(i + 2, n if i else n - 1)  # neighbours share a vertex
        c, d = p[rest], q[rest]
        apart = (np.maximum(p[i], q[i]) < np.minimum(c, d)).any(axis=1) | (
            np.minimum(p[i], q[i]) > np.maximum(c, d)).any(axis=1)
        between = (_turn(p[i], q[i], c) * _turn(p[i], q[i], d) <= 0.0) & (_turn(c, d, p[i]) * _turn(c, d, q[i]) <= 0.0)
        found = np.flatnonzero(between & ~apart)
        if found.size:
            return i, i + 2 + int(found[0])
    return None


def _turn(a: Array, b: Array, c: Array) -> Array:
    return np.asarray((b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1])
                      - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0]))


def unit_vectors(latitude_rad: Array, longitude_rad: Array) -> Array:
    """Return unit vectors (n, 3) of places on the sphere."""
    cos = np.cos(latitude_rad)
    return np.stack((cos * np.cos(longitude_rad), cos * np.sin(longitude_rad), np.sin(latitude_rad)), axis=-1)


# --- rules -------------------------------------------------------------------------------------------


def problems_of(policy: DataPolicy, pause: Pause, regions: Collection[str], stations: Collection[str]) -> list[str]:
    """Say what of a policy this satellite cannot keep; empty when it can."""
    problems = [f"region {name!r} is not on board; known: {', '.join(sorted(regions)) or 'none'}"
                for name in (*policy.regions_allowed, *policy.regions_forbidden) if name not in regions]
    problems += [f"station {name!r} is not the mission's; known: {', '.join(sorted(stations))}"
                 for name in policy.stations if name not in stations]
    problems += [f"region {name!r} is both allowed and forbidden"
                 for name in policy.regions_allowed if name in policy.regions_forbidden]
    if has_borders(policy) and pause is Pause.NONE:
        problems.append("a job that cannot be paused cannot be held at a border: pause.contract = \"none\"")
    if policy.data_class in (DataClass.PERSONAL, DataClass.RESTRICTED) and not policy.encrypt:
        problems.append(f"{policy.data_class.value} data must be encrypted at rest: data.encrypt = true")
    if policy.data_class is DataClass.RESTRICTED and not policy.stations:
        problems.append("restricted data needs the stations it may be sent to: data.stations")
    return problems


def has_borders(policy: DataPolicy) -> bool:
    """Whether it matters to a policy where the satellite is."""
    return bool(policy.regions_allowed or policy.regions_forbidden)


def may_downlink_to(policy: DataPolicy, station: str) -> bool:
    """Whether results may be sent to a station; without a list to any, but restricted data to none."""
    return station in policy.stations if policy.stations else policy.data_class is not DataClass.RESTRICTED


def clearance_rad(policy: DataPolicy, regions: Regions, points: Array) -> tuple[Array, list[str]]:
    """Return how far (k, n) points (n, 3) are on the lawful side of each of a policy's k rules, and their names.

    A point is lawful when all are positive. A forbidden region reaches its guard beyond its outline, the allowed
    ones, which are one rule, end that much inside theirs.
    """
    rows: list[Array] = []
    names: list[str] = []
    for name in policy.regions_forbidden:
        names.append(name if name in regions.names else UNKNOWN_REGION)
        rows.append(regions.distance_rad(name, points) - regions.guard_rad if name in regions.names
                    else np.full(len(points), -math.inf))
    if policy.regions_allowed:
        names.append("outside " + ", ".join(policy.regions_allowed))
        inside = [-regions.distance_rad(name, points) for name in policy.regions_allowed if name in regions.names]
        rows.append(np.max(inside, axis=0) - regions.guard_rad if inside else np.full(len(points), -math.inf))
    return np.stack(rows), names


def forbidden_spans(policy: DataPolicy, regions: Regions, track: Track, from_unix_s: float, to_unix_s: float,
                    margin_s: float = 0.0) -> tuple[Ban, ...]:
    """Return when a policy's jobs may not be processed and their results not be sent, in order and apart.

    Each begins `margin_s` before the border, so that a job told to pause then has paused at the border. Edges are
    within `_RESOLUTION_S` of the guard's own, on the safe side, and the same for every window. KernelError when the
    position cannot be computed.
    """
    if not has_borders(policy) or to_unix_s <= from_unix_s:
        return ()
    # On whole minutes, so that a border comes out the same whatever window it is seen through.
    first, last = math.floor(from_unix_s / _GRID_S), math.ceil((to_unix_s + margin_s) / _GRID_S)
    grid = _GRID_S * np.arange(first, last + 1, dtype=np.float64)

    def clearance_at(unix_s: Array) -> Array:
        latitude, longitude, _ = track(unix_s)
        return np.asarray(clearance_rad(policy, regions, unit_vectors(latitude, longitude))[0].min(axis=0))

    value = clearance_at(grid)
    begin_s, end, begin_value, end_value = grid[:-1], grid[1:], value[:-1], value[1:]
    found_s: list[Array] = []
    while begin_s.size:
        step_s = end - begin_s
        mean, reach = 0.5 * (begin_value + end_value), 0.5 * _TRACK_RAD_S * step_s
        taken = (mean + reach <= 0.0) | ((mean - reach <= 0.0) & (step_s <= _RESOLUTION_S))
        found_s.append(np.stack((begin_s[taken], end[taken]), axis=1))
        split = ~taken & (mean - reach <= 0.0)
        begin_s, end, begin_value, end_value = begin_s[split], end[split], begin_value[split], end_value[split]
        middle = 0.5 * (begin_s + end)
        middle_value = clearance_at(middle) if middle.size else middle
        begin_s, end = np.concatenate((begin_s, middle)), np.concatenate((middle, end))
        begin_value, end_value = (np.concatenate((begin_value, middle_value)),
                                  np.concatenate((middle_value, end_value)))
    pieces = np.concatenate(found_s)
    # A piece may begin by its margin inside the one before: they are one.
    spans = [Span(max(from_unix_s, begin - margin_s), min(to_unix_s, end)) for begin, end in _joined(pieces, margin_s)]
    return tuple([Ban(span.from_s, span.to_s, _binding(policy, regions, track, span))
                  for span in spans if span.to_s > span.from_s])


def allowed_spans(policy: DataPolicy, regions: Regions, track: Track, from_unix_s: float, to_unix_s: float,
                  margin_s: float = 0.0) -> tuple[Span, ...]:
    """Return when a policy's jobs may be processed: all but `forbidden_spans`."""
    edges = [from_unix_s]
    for ban in forbidden_spans(policy, regions, track, from_unix_s, to_unix_s, margin_s):
        edges += [ban.from_s, ban.to_s]
    edges.append(to_unix_s)
    return tuple([Span(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a])


def downlink_spans(policy: DataPolicy, regions: Regions, track: Track, contacts: Iterable[tuple[str, float, float]],
                   margin_s: float = 0.0) -> tuple[tuple[str, Span], ...]:
    """Return when, and to which station, results may be sent; `contacts` are (station, AOS, LOS) in Unix seconds."""
    return tuple([
        (station, span) for station, aos_s, los_s in contacts if may_downlink_to(policy, station)
        for span in allowed_spans(policy, regions, track, aos_s, los_s, margin_s)
    ])


def pause_margin_s(pause: Pause, checkpoint_deadline_s: float | None) -> float:
    """Time before a border at which a job must be told to pause."""
    saving_s = checkpoint_deadline_s if pause is Pause.CHECKPOINT and checkpoint_deadline_s is not None else 0.0
    return _ACT_S + saving_s


def _joined(pieces: Array, gap_s: float) -> list[tuple[float, float]]:
    joined: list[tuple[float, float]] = []
    for begin, end in pieces[np.argsort(pieces[:, 0])].tolist():
        if joined and begin - gap_s <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined


def _binding(policy: DataPolicy, regions: Regions, track: Track, span: Span) -> str:
    """Name the rule that is broken most at the middle of a span."""
    latitude, longitude, _ = track(np.array([0.5 * (span.from_s + span.to_s)]))
    rows, names = clearance_rad(policy, regions, unit_vectors(latitude, longitude))
    return names[int(rows[:, 0].argmin())]


# --- the watch ---------------------------------------------------------------------------------------


class Rule(NamedTuple):
    """What holds for the jobs of one manifest: its policy, and how long before a border they are told to pause."""

    policy: DataPolicy
    margin_s: float


class BorderWatch:
    """The borders ahead, for the manifests on board. Times are the supervisor's `now_s`; Unix is that and an offset.

    A day more is worked out with each call until the horizon is full, then whenever three orbits have passed: some
    milliseconds each, nothing in between, and nothing at all without a policy that names regions.
    """

    def __init__(self, regions: Regions, track: Track, elements_unix_s: float, obt_offset_s: float) -> None:
        self._regions = regions
        self._track = track
        self._offset_s = obt_offset_s
        self._correction_s = 0.0
        self._expires_s = elements_unix_s + regions.elements_age_max_s - obt_offset_s
        self._rules: dict[str, Rule] = {}
        self._known_s: dict[str, float] = {}

    def correct(self, correction_s: float) -> None:
        """Take what commands have added to on-board time; where that is news, all bans are."""
        moved_s = correction_s - self._correction_s
        if moved_s:
            self._correction_s = correction_s
            self._offset_s += moved_s
            self._expires_s -= moved_s
            self._known_s.clear()

    def follow(self, rules: Mapping[str, Rule]) -> None:
        """Take the rules of all manifests on board; what is new or changed is news again from now on."""
        rules = {manifest: rule for manifest, rule in rules.items() if has_borders(rule.policy)}
        self._known_s = {m: known_s for m, known_s in self._known_s.items() if self._rules[m] == rules.get(m)}
        self._rules = rules

    def news(self, now_s: float) -> tuple[BanNews, ...]:
        """Return bans that decide does not know yet."""
        pieces = []
        for manifest, rule in self._rules.items():
            known_s = max(self._known_s.get(manifest, now_s), now_s)
            if known_s > now_s + _HORIZON_S - _RENEW_S:
                continue
            to_s = min(known_s + _PIECE_S, now_s + _HORIZON_S)
            pieces.append(BanNews(manifest, known_s, to_s, self._bans(rule, known_s, to_s)))
            self._known_s[manifest] = to_s
        return tuple(pieces)

    def unlawful(self, manifest: str, now_s: float) -> str:
        """Name the rule that a job of `manifest` would break if it were processed now; empty when none.

        It looks at the position itself, not at the bans: the second answer to a border.
        """
        rule = self._rules.get(manifest)
        return "" if rule is None else self.broken_by(rule.policy, now_s)

    def broken_by(self, policy: DataPolicy, now_s: float) -> str:
        """Name the rule of `policy` that the position at `now_s` breaks; empty when none."""
        if not has_borders(policy):
            return ""
        if now_s > self._expires_s:
            return NO_POSITION
        try:
            latitude, longitude, _ = self._track(np.array([now_s + self._offset_s]))
        except KernelError:
            return NO_POSITION
        rows, names = clearance_rad(policy, self._regions, unit_vectors(latitude, longitude))
        return names[int(rows[:, 0].argmin())] if rows.min() <= 0.0 else ""

    def _bans(self, rule: Rule, from_s: float, to_s: float) -> tuple[Ban, ...]:
        lost = Ban(max(from_s, min(to_s, self._expires_s)), to_s, NO_POSITION)
        offset_s = self._offset_s
        try:
            bans = [Ban(ban.from_s - offset_s, ban.to_s - offset_s, ban.region) for ban in forbidden_spans(
                rule.policy, self._regions, self._track, from_s + offset_s, lost.from_s + offset_s, rule.margin_s)]
        except KernelError:
            return (Ban(from_s, to_s, NO_POSITION),)
        return tuple([*bans, lost] if lost.to_s > lost.from_s else bans)

"""Regions against shapely and against themselves turned about; bans over whole days of real tracks; the watch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flightsw import mission
from flightsw.compose import start_unix_s
from flightsw.errors import ConfigError, KernelError
from flightsw.jobs import policy
from flightsw.jobs.manifest import DataClass, DataPolicy
from flightsw.jobs.policy import Array, BorderWatch, Region, Regions, Ring, Rule, unit_vectors
from flightsw.orbit import Orbit, parse_tle
from flightsw.state import Pause

ROOT = Path(__file__).parents[2]
REGIONS = policy.load_regions(ROOT / "missions/regions.toml")
MISSION = mission.load(ROOT / "missions/iss_like.toml")
ORBIT = Orbit(parse_tle(MISSION.orbit.tle, "iss"))
POLAR = Orbit(parse_tle(mission.load(ROOT / "missions/dawn_dusk.toml").orbit.tle, "sso"))
START_S = start_unix_s(MISSION, "iss")
DAY_S = 86_400.0


def at(*degrees: Sequence[float]) -> Array:
    latitude, longitude = np.radians(np.array(degrees, dtype=float)).T
    return unit_vectors(latitude, longitude)


def sphere(count: int, seed: int) -> Array:
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return np.asarray(points / np.linalg.norm(points, axis=1)[:, np.newaxis])


def turned(latitude_deg: float, longitude_deg: float, spin_deg: float, points: Array) -> Array:
    """Turn the sphere so that (0, 0) comes to a place, about which it is spun first."""
    s, a, b = np.radians((spin_deg, latitude_deg, longitude_deg))
    about_x = np.array([[1, 0, 0], [0, np.cos(s), -np.sin(s)], [0, np.sin(s), np.cos(s)]])
    about_y = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return np.asarray(points @ (about_z @ about_y @ about_x).T)


def degrees_of(points: Array) -> list[list[float]]:
    latitude = np.degrees(np.arcsin(np.clip(points[:, 2], -1.0, 1.0)))
    return np.stack((latitude, np.degrees(np.arctan2(points[:, 1], points[:, 0]))), axis=1).tolist()


@st.composite
def stars(draw: st.DrawFn) -> Array:
    """A star-shaped polygon in the plane that touches the sphere at (0, 0): straight lines are great circles there."""
    count = draw(st.integers(3, 24))
    # No gap of half a turn or more, so that the origin is inside and no edge is degenerate.
    weights = np.array(draw(st.lists(st.floats(0.3, 1.0), min_size=count, max_size=count)))
    angles = np.cumsum(weights) / weights.sum() * math.tau
    assume(np.diff(angles, append=angles[0] + math.tau).max() < 3.0)
    radii = np.array(draw(st.lists(st.floats(0.02, 0.16), min_size=count, max_size=count)))
    return np.stack((radii * np.cos(angles), radii * np.sin(angles)), axis=1)


PLACES = st.tuples(
    st.one_of(st.just(90.0), st.just(-90.0), st.floats(-90.0, 90.0)),
    st.one_of(st.just(180.0), st.just(-180.0), st.floats(-180.0, 180.0)),
    st.floats(0.0, 360.0),
)


@settings(deadline=None)
@given(stars(), PLACES, st.integers(0, 2**32 - 1))
def test_inside_is_what_shapely_says_wherever_the_polygon_lies(
    flat: Array, place: tuple[float, float, float], seed: int
) -> None:
    lift = np.concatenate((np.ones((len(flat), 1)), flat), axis=1)
    ring = Ring(degrees_of(turned(*place, lift / np.linalg.norm(lift, axis=1)[:, np.newaxis])))
    assert ring.problem == ""
    plane = np.random.default_rng(seed).uniform(-0.2, 0.2, (200, 2))
    points = np.concatenate((np.ones((200, 1)), plane), axis=1)
    points /= np.linalg.norm(points, axis=1)[:, np.newaxis]
    polygon = shapely.Polygon(flat)
    away = polygon.exterior.distance(shapely.points(plane))
    distance = Region([ring]).distance_rad(turned(*place, points))
    clear = away > 1e-7
    assert np.array_equal((distance < 0.0)[clear], shapely.contains_xy(polygon, plane)[clear])
    # The projection stretches by at most 1 / cos^2 of the angle to its centre.
    stretch = 1.0 + (plane**2).sum(axis=1).max()
    near = clear & (np.abs(distance) < policy._FAR_RAD)
    assert (np.abs(distance)[near] <= away[near] + 1e-9).all()
    assert (np.abs(distance)[near] >= away[near] / (2.0 * stretch)).all()


@given(stars(), PLACES, st.integers(0, 2**32 - 1))
def test_a_distance_never_changes_faster_than_the_point_moves(
    flat: Array, place: tuple[float, float, float], seed: int
) -> None:
    """The bans rest on this, also where the distance is only the one to the ring's circle."""
    lift = np.concatenate((np.ones((len(flat), 1)), flat), axis=1)
    region = Region([Ring(degrees_of(turned(*place, lift / np.linalg.norm(lift, axis=1)[:, np.newaxis])))])
    rng = np.random.default_rng(seed)
    one = turned(*place, at(*rng.uniform(-30.0, 30.0, (100, 2)).tolist()))
    other = one + rng.normal(scale=0.02, size=one.shape)
    other /= np.linalg.norm(other, axis=1)[:, np.newaxis]
    apart = np.arccos(np.clip((one * other).sum(axis=1), -1.0, 1.0))
    first, second = region.distance_rad(one), region.distance_rad(other)
    exact = (first < policy._FAR_RAD) & (second < policy._FAR_RAD)
    assert (np.abs(first - second)[exact] <= apart[exact] + 1e-7).all()
    assert (second[first < 0.0] <= apart[first < 0.0] + 1e-7).all(), "a point inside is never far from the region"


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("CH", [(46.95, 7.45), (46.5, 9.8)], [(48.86, 2.35), (45.46, 9.19)]),
        ("EU_EEA", [(48.86, 2.35), (52.5, 13.4), (61.0, 25.5), (40.4, -3.7)],
         [(46.95, 7.45), (52.0, -1.0), (55.8, 37.6)]),
        ("UK", [(52.0, -1.0), (54.6, -6.8)], [(53.3, -7.5), (48.86, 2.35)]),
        ("USA", [(39.0, -98.0), (64.8, -147.7), (19.6, -155.5)], [(45.4, -75.7), (19.4, -99.1), (0.0, 0.0)]),
        ("RUSSIA", [(55.8, 37.6), (66.0, 179.5), (66.5, -175.0), (62.0, 129.7)], [(64.8, -147.7), (48.0, 106.9)]),
        ("CHINA", [(39.9, 116.4), (30.0, 91.0)], [(28.6, 77.2), (35.7, 139.7)]),
        ("ANTARCTICA", [(-90.0, 0.0), (-89.0, 179.0), (-78.0, 100.0)], [(-55.0, -68.0), (90.0, 0.0)]),
    ],
)  # fmt: skip
def test_the_shipped_regions_hold_the_places_that_they_should(
    name: str, inside: list[tuple[float, float]], outside: list[tuple[float, float]]
) -> None:
    assert (REGIONS.distance_rad(name, at(*inside)) < 0.0).all()
    assert (REGIONS.distance_rad(name, at(*outside)) > 0.0).all()


def square(name: str = "BOX") -> dict[str, object]:
    return {"name": name, "description": "d", "source": "s", "rings": [[[0, 0], [0, 5], [5, 5], [5, 0]]]}


def written(tmp_path: Path, rings: str, name: str = "BOX", more: str = "") -> Path:
    path = tmp_path / "regions.toml"
    path.write_text("guard_km = 10.0\nelements_age_max_days = 7.0\n" + more + f'[[regions]]\nname = "{name}"\n'
                    f'description = "d"\nsource = "s"\nrings = {rings}\n')  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("rings", "complaint"),
    [
        ("[[[0, 0], [0, 5], [5, 5], [5, 0], [0, 0]]]", "vertex 4 is repeated"),
        ("[[[0, 0], [5, 5], [0, 5], [5, 0]]]", "the edges behind vertices 0 and 2 cross"),
        ("[[[0, 0], [0, 30], [5, 5]]]", "spans 30.0 deg, limit 20 deg"),
        ("[[[0, 0], [0, 5]]]", "2 vertices outside 3..512"),
        ("[]", "0 rings outside 1..64"),
        ("[[[91, 0], [0, 5], [5, 5]]]", "vertex 0 = [91.0, 0.0]"),
        ("[[[0, 0, 0], [0, 5], [5, 5]]]", "vertex 0 = [0.0, 0.0, 0.0]"),
        ("[[[0, 181], [0, 5], [5, 5]]]", "out of range"),
        ("[[[0, nan], [0, 5], [5, 5]]]", "out of range"),
        ('[[["a", 0], [0, 5], [5, 5]]]', "a number is expected"),
        ("[[" + ", ".join(f"[0, {x}]" for x in range(-180, 180, 15)) + "]]", "reaches 90.0 deg"),
    ],
)
def test_a_wrong_outline_is_refused_with_its_place(tmp_path: Path, rings: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        policy.load_regions(written(tmp_path, rings))
    assert complaint in str(caught.value)


def test_a_region_declared_twice_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "[[[0, 0], [0, 5], [5, 5]]]")
    path.write_text(path.read_text() + path.read_text().split("\n", 2)[2])
    with pytest.raises(ConfigError, match="declared twice"):
        policy.load_regions(path)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_regions_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("any") / "regions.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError):
        policy.load_regions(path)


# --- a day of lawfulness -----------------------------------------------------------------------------

POLICIES = {
    "forbidden": DataPolicy(regions_forbidden=("USA", "CHINA", "RUSSIA")),
    "allowed": DataPolicy(regions_allowed=("EU_EEA", "UK", "CH")),
    "both": DataPolicy(regions_allowed=("EU_EEA", "USA"), regions_forbidden=("UK", "ANTARCTICA")),
    "pole": DataPolicy(regions_forbidden=("ANTARCTICA", "EU_EEA")),
    "small": DataPolicy(regions_allowed=("CH",)),
}


def lawful_by_hand(rules: DataPolicy, regions: Regions, latitude: Array, longitude: Array) -> Array:
    """The rule as one would say it: no forbidden region within the guard, one allowed region deep enough."""
    points = unit_vectors(latitude, longitude)
    lawful = np.ones(len(points), dtype=bool)
    for name in rules.regions_forbidden:
        lawful &= regions.distance_rad(name, points) > regions.guard_rad
    if rules.regions_allowed:
        depth = [-regions.distance_rad(name, points) for name in rules.regions_allowed]
        lawful &= np.max(depth, axis=0) > regions.guard_rad
    return lawful


@pytest.mark.parametrize("orbit", [ORBIT, POLAR], ids=["iss", "polar"])
@pytest.mark.parametrize("name", POLICIES)
def test_over_a_day_no_second_is_allowed_that_is_not_and_hardly_one_is_lost(name: str, orbit: Orbit) -> None:
    rules = POLICIES[name]
    bans = policy.forbidden_spans(rules, REGIONS, orbit.ground_track, START_S, START_S + DAY_S)
    assert all(a.to_s < b.from_s for a, b in itertools.pairwise(bans))
    seconds = np.arange(START_S, START_S + DAY_S, 0.5)
    latitude, longitude, _ = orbit.ground_track(seconds)
    lawful = lawful_by_hand(rules, REGIONS, latitude, longitude)
    banned = np.zeros(len(seconds), dtype=bool)
    for ban in bans:
        banned |= (seconds >= ban.from_s) & (seconds < ban.to_s)
    assert not (lawful == banned)[lawful].all() or lawful.all()
    assert not (~banned & ~lawful).any(), "a second is allowed that is not"
    assert (banned & lawful).sum() <= 2 * len(bans), "more than an instant at each border is lost"
    assert lawful.any() or name == "small"
    assert banned.any()
    for ban in bans:
        places = {"USA", "CHINA", "RUSSIA", "UK", "ANTARCTICA", "EU_EEA"}
        assert ban.region in places or ban.region == "outside " + ", ".join(rules.regions_allowed)


def test_a_margin_pauses_before_the_border_and_costs_nothing_behind_it() -> None:
    rules = POLICIES["forbidden"]
    plain = policy.forbidden_spans(rules, REGIONS, ORBIT.ground_track, START_S, START_S + DAY_S)
    early = policy.forbidden_spans(rules, REGIONS, ORBIT.ground_track, START_S, START_S + DAY_S, 30.0)
    for ban in plain:
        (held,) = [b for b in early if b.from_s <= ban.from_s and b.to_s >= ban.to_s]
        assert held.from_s <= ban.from_s - 30.0 or held.from_s == START_S
    assert {ban.to_s for ban in early} <= {ban.to_s for ban in plain}
    # A border just behind the window's end counts within it.
    first = next(ban for ban in plain if ban.from_s > START_S + 100.0)
    (last,) = policy.forbidden_spans(rules, REGIONS, ORBIT.ground_track, first.from_s - 40.0, first.from_s - 5.0, 30.0)
    assert last.from_s == first.from_s - 30.0
    assert last.to_s == first.from_s - 5.0


def test_allowed_and_forbidden_make_up_the_time() -> None:
    for rules in POLICIES.values():
        bans = policy.forbidden_spans(rules, REGIONS, ORBIT.ground_track, START_S, START_S + DAY_S, 5.0)
        spans = policy.allowed_spans(rules, REGIONS, ORBIT.ground_track, START_S, START_S + DAY_S, 5.0)
        assert sum(s.to_s - s.from_s for s in (*bans, *spans)) == pytest.approx(DAY_S)
    assert policy.allowed_spans(DataPolicy(), REGIONS, ORBIT.ground_track, 0.0, 5.0) == ((0.0, 5.0),)


def test_a_corner_shorter_than_any_step_is_found() -> None:
    """A track that clips a corner for a second or two, between two points of the grid."""
    corner = Region([Ring([[1.0, 0.0], [15.0, 8.0], [15.0, -8.0]])])
    regions = Regions({"CORNER": corner}, 1.0, 1e9)
    rate = 1.1e-3
    guard_deg = math.degrees(regions.guard_rad)

    def track(unix_s: Array) -> tuple[Array, Array, Array]:
        return np.full_like(unix_s, math.radians(1.0 - 0.9 * guard_deg)), rate * (unix_s - 1030.0), 0.0 * unix_s

    (ban,) = policy.forbidden_spans(DataPolicy(regions_forbidden=("CORNER",)), regions, track, 0.0, 2000.0)
    assert ban.from_s < 1030.0 < ban.to_s
    assert ban.to_s - ban.from_s < 1.0


def test_no_orbit_that_is_taken_outruns_the_bound() -> None:
    """Perigee 150 km, eccentricity 0.25, against the Earth's turn: the fastest that `parse_tle` lets pass."""
    perigee_m = 6_378_137.0 + 150e3
    inertial = math.sqrt(3.986004418e14 * 1.25 / perigee_m**3)
    assert (inertial + 7.2921e-5) * 1.01 < policy._TRACK_RAD_S


def test_results_go_down_only_to_allowed_stations_and_not_over_forbidden_land() -> None:
    contacts = [(station.name, p.aos_unix_s, p.los_unix_s) for station in MISSION.stations
                for p in ORBIT.passes(station, START_S, START_S + DAY_S)]  # fmt: skip
    name = MISSION.stations[0].name
    assert contacts
    free = policy.downlink_spans(DataPolicy(), REGIONS, ORBIT.ground_track, contacts)
    assert [(s, span.from_s, span.to_s) for s, span in free] == contacts
    ruled = policy.downlink_spans(DataPolicy(stations=(name,), regions_forbidden=("EU_EEA",)), REGIONS,
                                  ORBIT.ground_track, contacts)  # fmt: skip
    for station, span in ruled:
        assert station == name
        latitude, longitude, _ = ORBIT.ground_track(np.linspace(span.from_s, span.to_s, 200))
        assert (REGIONS.distance_rad("EU_EEA", unit_vectors(latitude, longitude)) >= REGIONS.guard_rad).all()
    assert policy.downlink_spans(DataPolicy(stations=("elsewhere",)), REGIONS, ORBIT.ground_track, contacts) == ()
    secret = DataPolicy(data_class=DataClass.RESTRICTED)
    assert policy.downlink_spans(secret, REGIONS, ORBIT.ground_track, contacts) == ()


def test_what_a_satellite_cannot_keep_is_said_all_at_once() -> None:
    bad = DataPolicy(DataClass.RESTRICTED, regions_allowed=("CH", "MARS"), regions_forbidden=("CH",), stations=("X",))
    problems = policy.problems_of(bad, Pause.NONE, REGIONS.names, ["Kiruna"])
    text = "\n".join(problems)
    for words in ("'MARS' is not on board", "'X' is not the mission's", "both allowed and forbidden",
                  "cannot be held at a border", "must be encrypted"):  # fmt: skip
        assert words in text
    assert len(problems) == 5
    no_station = DataPolicy(DataClass.RESTRICTED, encrypt=True)
    assert "needs the stations" in policy.problems_of(no_station, Pause.NONE, [], [])[0]
    assert policy.problems_of(DataPolicy(), Pause.NONE, [], []) == []


# --- the watch ---------------------------------------------------------------------------------------


def watch(rules: dict[str, DataPolicy], track: policy.Track = ORBIT.ground_track, margin_s: float = 5.0) -> BorderWatch:
    made = BorderWatch(REGIONS, track, ORBIT.tle.epoch_unix_s, START_S)
    made.follow({name: Rule(rule, margin_s) for name, rule in rules.items()})
    return made


def test_when_on_board_time_moves_the_borders_move_with_it_and_are_news() -> None:
    borders = watch({"job": POLICIES["forbidden"]})
    (before,) = borders.news(0.0)
    borders.correct(0.0)
    assert borders.news(1.0)[0].from_s == before.to_s  # it has not moved
    borders.correct(600.0)
    fresh = BorderWatch(REGIONS, ORBIT.ground_track, ORBIT.tle.epoch_unix_s, START_S + 600.0)
    fresh.follow({"job": Rule(POLICIES["forbidden"], 5.0)})
    assert borders.news(2.0) == fresh.news(2.0)
    assert [borders.unlawful("job", at_s) for at_s in range(0, 6000, 300)] == [
        fresh.unlawful("job", at_s) for at_s in range(0, 6000, 300)]


def test_news_comes_a_day_at_a_time_until_the_horizon_and_then_every_few_orbits() -> None:
    borders = watch({"job": POLICIES["forbidden"], "free": DataPolicy()})
    pieces = [piece for tick in range(30) for piece in borders.news(float(tick))]
    assert {piece.manifest for piece in pieces} == {"job"}
    assert len(pieces) == 15
    assert pieces[0].from_s == 0.0
    assert all(a.to_s == b.from_s for a, b in itertools.pairwise(pieces))
    assert borders.news(10_000.0) == ()
    (later,) = borders.news(20_000.0)
    assert later.from_s == pieces[-1].to_s
    end_s = START_S + 2 * DAY_S
    whole = policy.forbidden_spans(POLICIES["forbidden"], REGIONS, ORBIT.ground_track, START_S, end_s, 5.0)
    for piece in pieces[:2]:
        for ban in piece.bans:
            assert piece.from_s <= ban.from_s < ban.to_s <= piece.to_s
            assert any(b.from_s - START_S <= ban.from_s and b.to_s - START_S >= ban.to_s for b in whole)
    total = sum(ban.to_s - ban.from_s for piece in pieces[:2] for ban in piece.bans)
    assert total == pytest.approx(sum(ban.to_s - ban.from_s for ban in whole))


def test_a_changed_policy_is_news_and_one_that_is_gone_is_not() -> None:
    borders = watch({"job": POLICIES["forbidden"]})
    assert borders.news(0.0)
    borders.follow({"job": Rule(POLICIES["allowed"], 5.0)})
    (piece,) = borders.news(50.0)
    assert piece.from_s == 50.0
    borders.follow({})
    assert borders.news(60.0) == ()
    assert borders.unlawful("job", 60.0) == ""


def test_the_second_answer_agrees_with_the_bans() -> None:
    borders = watch({"job": POLICIES["both"]}, margin_s=0.0)
    (piece,) = borders.news(0.0)
    for now_s in np.arange(0.0, DAY_S, 97.0).tolist():
        banned = any(ban.from_s <= now_s < ban.to_s for ban in piece.bans)
        assert bool(borders.unlawful("job", now_s)) == banned


def test_where_the_position_is_not_known_nothing_is_allowed() -> None:
    def lost(_unix_s: Array) -> tuple[Array, Array, Array]:
        raise KernelError("sgp4", -6, "decayed")

    borders = watch({"job": POLICIES["forbidden"]}, lost)
    (piece,) = borders.news(0.0)
    assert piece.bans == ((0.0, DAY_S, policy.NO_POSITION),)
    assert borders.unlawful("job", 0.0) == policy.NO_POSITION
    aged = watch({"job": POLICIES["forbidden"]})
    too_old_s = ORBIT.tle.epoch_unix_s - START_S + REGIONS.elements_age_max_s
    assert aged.unlawful("job", too_old_s + 1.0) == policy.NO_POSITION
    pieces = [piece for tick in range(15) for piece in aged.news(float(tick))]
    assert pieces[-1].bans[-1] == (max(pieces[-1].from_s, too_old_s), pieces[-1].to_s, policy.NO_POSITION)
    unknown = watch({"job": DataPolicy(regions_forbidden=("ATLANTIS",))})
    (piece,) = unknown.news(0.0)
    assert piece.bans == ((0.0, DAY_S, policy.UNKNOWN_REGION),)
    assert unknown.unlawful("job", 0.0) == policy.UNKNOWN_REGION


def test_margins_follow_the_pause_contract() -> None:
    assert policy.pause_margin_s(Pause.STOP_CONTINUE, None) == 3.0
    assert policy.pause_margin_s(Pause.CHECKPOINT, 40.0) == 43.0

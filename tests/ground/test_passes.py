from __future__ import annotations

from pathlib import Path

import pytest

from flightsw.errors import ConfigError
from ground.passes import EDGE_MARGIN_DB, load

MISSION = Path(__file__).resolve().parents[2] / "missions" / "iss_like.toml"
START_S = 1_774_008_000.0


def test_passes_are_those_of_the_orbit_model_by_time() -> None:
    sky = load(MISSION)
    found = sky.contacts(START_S, START_S + 86_400.0)
    assert len(found) == 10 or len(found) == 9
    assert [c.aos_s for c in found] == sorted(c.aos_s for c in found)
    for contact in found:
        assert contact.aos_s < contact.peak_s < contact.los_s
        assert contact.rise.elevation_deg == pytest.approx(contact.site.min_elevation_deg, abs=0.01)
        assert contact.peak.elevation_deg == pytest.approx(contact.peak_elevation_deg, abs=0.01)
        assert contact.rise.margin_db == pytest.approx(EDGE_MARGIN_DB, abs=0.2)
        assert contact.peak.margin_db > contact.rise.margin_db
        assert contact.peak.range_m < contact.rise.range_m
    first = sky.upcoming(START_S)[0]
    assert first == found[0]
    assert sky.upcoming(first.aos_s + 1.0)[0].aos_s == pytest.approx(first.aos_s, abs=0.01)
    assert sky.upcoming(first.los_s + 1.0)[0] != first
    assert first.capacity_octets(115_200) == int(first.duration_s * 11_520 * 0.93)


def test_eclipses_near_the_present() -> None:
    sky = load(MISSION)
    found = sky.eclipses(START_S, START_S + 3 * 5578.0)
    assert len(found) in {3, 4}
    assert all(2100.0 < b - a < 2300.0 for a, b in found)


@pytest.mark.parametrize(("text", "says"), [
    ("", "no text tle in"), ("[orbit]\ntle = 3", "no text tle in"), ("[orbit", "is not valid TOML"),
    ('[orbit]\ntle = "x"', r"no \[\[stations\]\]"),
    ('[orbit]\ntle = "x"\n[[stations]]\nname = "A"\nlatitude_deg = 91.0\nlongitude_deg = 0.0', "latitude_deg = 91.0"),
    ('[orbit]\ntle = "x"\n[[stations]]\nname = "A"\nlatitude_deg = 1.0\nlongitude_deg = 0.0', "a TLE has 2 lines"),
])
def test_files_without_sky_are_refused_with_the_reason(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "m.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load(path)


def test_stations_of_ones_own(tmp_path: Path) -> None:
    extra = tmp_path / "stations.toml"
    extra.write_text('[[stations]]\nname = "Roof"\nlatitude_deg = 48.1\nlongitude_deg = 11.6\n')
    sky = load(MISSION, extra)
    assert {c.site.name for c in sky.contacts(START_S, START_S + 86_400.0)} == {"Roof"}

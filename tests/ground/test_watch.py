from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_satellite import APID, SCID, TinySatellite, Wire

from flightsw.dictionary.telemetry import HOUSEKEEPING, POINT_BY_NAME, POINTS
from flightsw.state import Event
from ground.archive import Archive
from ground.station import Report, Station
from ground.watch import Level, Screen, command_text, is_stale, limit_level, report_line, value_text

EPOCH_S = 1_800_000_000.0


class Desk:
    def __init__(self, path: Path) -> None:
        self.wire = Wire()
        self.satellite = TinySatellite()
        self.archive = Archive(path)
        self.station = Station(self.wire, self.archive, scid=SCID, apid=APID, epoch_s=EPOCH_S)
        self.screen = Screen(self.station, EPOCH_S, "/dev/ttyUSB0", colour=True)
        self.told: list[Report] = []
        self.station.listen(self.told.append)

    def report(self, now_s: float, *sids: int) -> None:
        for sid in sids:
            self.satellite.reporter.housekeeping(sid, self.satellite.pool, EPOCH_S + now_s)
        self.exchange(now_s)

    def exchange(self, now_s: float) -> None:
        self.satellite.uplink(self.wire.take_sent(), EPOCH_S + now_s)
        self.wire.waiting += self.satellite.downlink()
        self.station.poll(now_s)

    def painted(self, now_s: float, columns: int = 80, rows: int = 24, trouble: str = "") -> list[str]:
        octets = self.screen.paint(now_s, columns, rows, trouble)
        return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", octets).split("\r\n")]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "a.sqlite")
    yield made
    made.archive.close()


def test_empty_screen_says_that_nothing_came(desk: Desk) -> None:
    text = "\n".join(desk.painted(5.0))
    assert "no signal" in text
    assert "mode unknown" in text
    assert "not received yet: power, thermal, nodes_a, jobs, forecast, health, accounts, " in text


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (160, 50), (40, 10), (20, 3), (300, 100)])
def test_screen_never_exceeds_the_terminal(desk: Desk, columns: int, rows: int) -> None:
    desk.satellite.set(battery_soc_frac=0.5, plate_c=90.0, radiator_c=90.0, battery_c=90.0, die0_c=99.0)
    desk.report(1.0, *range(1, 8))
    for i in range(12):
        desk.satellite.reporter.event(Event("shed", (f"reason {i} " + "x" * 100,)), EPOCH_S)
        desk.station.send("ping", (), 1.0)
        desk.exchange(2.0)
    lines = desk.painted(2.0, columns, rows, trouble="serial port gone")
    assert len(lines) <= rows
    assert max(len(line) for line in lines) <= columns
    assert lines[1].startswith("serial port gone"[:columns])


def test_wide_screen_shows_every_point_that_has_a_value(desk: Desk) -> None:
    desk.report(1.0, *(row.sid for row in HOUSEKEEPING if row.sid != 4))
    text = "\n".join(desk.painted(1.0, 160, 90))
    for row in HOUSEKEEPING:
        if row.sid == 4:
            continue
        for point in row.points:
            label = re.sub(r"\d", "", point.name) if row.name == "nodes_a" else re.sub(r"\d+_", "_", point.name)
            label = label.removeprefix(row.name + "_").rsplit("_", 1)[0]
            assert re.search(rf"\b{label[:15]}", text), point.name  # a long name is cut to its cell
    assert "no room" not in text
    assert re.search(r"\bbattery_soc +0\.900 frac", text)
    assert re.search(r"\bbattery_min +0\.800 frac", text)


def test_small_screen_names_what_it_leaves_out(desk: Desk) -> None:
    desk.report(1.0, 1, 2, 3, 5, 6, 7)
    assert not any(line.startswith("no room for") for line in desk.painted(1.0, rows=25))  # all of it
    lines = desk.painted(1.0)
    assert any(line.endswith("no room for: health") for line in lines)
    assert not any("overrun_count" in line for line in lines)
    assert any("margin" in line for line in lines)


def test_parts_that_are_not_fitted_have_no_line(desk: Desk) -> None:
    for i in (2, 3):
        desk.satellite.set(**{f"die{i}_c": math.nan, f"node{i}_w": math.nan, f"node{i}_cap_w": math.nan,
                              f"node{i}_mode": 0, f"node{i}_job": 0})
    desk.report(1.0, 3)
    lines = [line for line in desk.painted(1.0) if re.match(r"  \d ", line)]
    assert [line.split()[0] for line in lines] == ["0", "1"]


def test_crossed_limit_is_marked_coloured_and_named(desk: Desk) -> None:
    desk.satellite.set(die1_c=81.0, die2_c=76.0)
    desk.report(1.0, 3)
    lines = desk.painted(1.0)
    assert "! die1_c 81.0 > die_max_c 80 degC" in lines
    assert any("81.0 degC!" in line for line in lines)
    assert any("76.0 degC~" in line for line in lines)
    octets = desk.screen.paint(1.0, 80, 24, "")
    assert f"\x1b[{Level.CROSSED.sgr}m" in octets
    plain = Screen(desk.station, EPOCH_S, "", colour=False).paint(1.0, 80, 24, "")
    assert "m81" not in plain
    assert "81.0 degC!" in plain


def test_stale_values_show_their_age_and_no_limit(desk: Desk) -> None:
    desk.satellite.set(die1_c=81.0)
    desk.report(0.0, 1, 3)
    lines = desk.painted(45.0)
    assert any(line.startswith("[nodes_a 45 s ago]") for line in lines)
    assert any("81.0 degC?" in line for line in lines)
    assert not any(line.startswith("! die1_c") for line in lines)
    assert lines[0].startswith("mode SAFE?")
    assert "heard 45 s ago" in lines[0]


def test_staleness_follows_the_period() -> None:
    power, on_request = HOUSEKEEPING[0], HOUSEKEEPING[3]
    assert not is_stale(power, 0.0, 30.0)
    assert is_stale(power, 0.0, 30.1)
    assert not is_stale(on_request, 0.0, 1e6)


def test_missing_is_shown_as_missing(desk: Desk) -> None:
    desk.report(1.0, 2)
    assert any(re.search(r"array +missing", line) for line in desk.painted(1.0))
    assert "array_c=missing" in report_line(desk.told[0], desk.station, EPOCH_S)


def test_value_text() -> None:
    assert value_text(POINT_BY_NAME["mode"], 0x55) == "COMPUTE"
    assert value_text(POINT_BY_NAME["mode"], 0x56) == "86"
    assert value_text(POINT_BY_NAME["array_w"], math.nan) == "missing"
    assert value_text(POINT_BY_NAME["array_w"], math.inf) == "missing"
    assert value_text(POINT_BY_NAME["array_w"], None) == "missing"
    assert value_text(POINT_BY_NAME["array_w"], 123.456) == "123.5"
    assert value_text(POINT_BY_NAME["sun_frac"], -0.05) == "-0.050"
    assert value_text(POINT_BY_NAME["tick_count"], 4294967295) == "4294967295"


@pytest.mark.parametrize(("name", "value", "level", "limit"), [
    ("battery_c", 20.0, Level.GOOD, ""),
    ("battery_c", 41.0, Level.NEAR, "> battery_max_c 45 degC"),
    ("battery_c", 45.0, Level.NEAR, "> battery_max_c 45 degC"),
    ("battery_c", 45.1, Level.CROSSED, "> battery_max_c 45 degC"),
    ("battery_c", -0.1, Level.CROSSED, "< battery_min_c 0 degC"),
    ("battery_c", 4.9, Level.NEAR, "< battery_min_c 0 degC"),
    ("battery_c", math.nan, Level.MISSING, ""),
    ("array_w", 1e9, Level.GOOD, ""),
])
def test_limit_level(desk: Desk, name: str, value: float, level: Level, limit: str) -> None:
    assert limit_level(POINT_BY_NAME[name], value, desk.station) == (level, limit)


def test_limit_that_the_satellite_reported_colours(desk: Desk) -> None:
    desk.satellite.reporter.parameter(3, 60.0, EPOCH_S)
    desk.exchange(1.0)
    assert limit_level(POINT_BY_NAME["die0_c"], 70.0, desk.station)[0] is Level.CROSSED


def test_text_of_the_satellite_cannot_steer_the_terminal(desk: Desk) -> None:
    desk.satellite.reporter.event(Event("shed", ("\x1b[2J\x07\r\n\x9b31m",)), EPOCH_S)
    desk.exchange(1.0)
    octets = desk.screen.paint(1.0, 80, 24, "")
    assert "\x1b[2J" not in octets
    assert "\x07" not in octets
    assert "\x9b" not in octets
    assert "All compute shed: ?[2J????31m" in octets


def test_report_lines(desk: Desk) -> None:
    desk.satellite.set(battery_soc_frac=0.5)
    desk.station.send("mode", (0x55,), 1.0)
    desk.satellite.reporter.event(Event("eclipse_entered", ()), EPOCH_S)
    desk.satellite.reporter.parameter(1, 0.7, EPOCH_S)
    desk.satellite.reporter.pong(EPOCH_S)
    desk.report(2.0, 1)
    lines = [report_line(report, desk.station, EPOCH_S) for report in desk.told]
    assert lines[0] == "2027-01-15T08:00:01Z command mode COMPUTE sent"
    assert "2027-01-15T08:00:02Z event INFO eclipse_entered: Eclipse entered" in lines
    assert "2027-01-15T08:00:02Z parameter battery_floor_frac = 0.7 frac" in lines
    assert "2027-01-15T08:00:02Z pong" in lines
    assert any(line.startswith("2027-01-15T08:00:02Z command mode COMPUTE rejected: SAFE") for line in lines)
    power = lines[-1]
    assert power.startswith("2027-01-15T08:00:02Z power: mode=SAFE, sun_frac=1.000 frac, array_w=20.0 W")
    assert "battery_soc_frac=0.500 frac (< battery_floor_frac 0.7 frac)" in power
    assert len(re.findall(r"=", power)) == len(HOUSEKEEPING[0].points)


def test_command_text_names_codes() -> None:
    assert command_text("mode", (0x33,)) == "mode STANDBY"
    assert command_text("mode", (7,)) == "mode 7"
    assert command_text("job.submit", (1, "a", 2.0, 1.0, 3.0, 4.0, 2)) == "job.submit 1 a 2.0 1.0 3.0 4.0 CHECKPOINT"
    assert command_text("verb.of.a.newer.dictionary", (1, "x")) == "verb.of.a.newer.dictionary 1 x"


def test_every_unit_of_the_dictionary_has_a_label_that_tells_points_apart() -> None:
    """On one screen no two points of a structure share name and unit."""
    for row in HOUSEKEEPING:
        assert len({(p.name, p.unit) for p in row.points}) == len(row.points)
    assert len({p.name for p in POINTS}) == len(POINTS)

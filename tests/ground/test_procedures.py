from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tiny_satellite import APID, SCID, PtySatellite, TinySatellite, Wire

from flightsw.dictionary.commands import Value
from flightsw.errors import ConfigError, LinkError
from ground.archive import Archive
from ground.cli.run import fly
from ground.passes import Site, Sky
from ground.passes import load as load_sky
from ground.procedures import Condition, Operator, ProcedureError, fitting, load_plan, run_file
from ground.relay import Progress, progress
from ground.station import Station

MISSION = Path(__file__).resolve().parents[2] / "missions" / "iss_like.toml"
START_S = 1_774_008_000.0  # the mission's own start


class VirtualLink:
    """A procedure's link to a tiny satellite in virtual time, one report of each structure a second."""

    def __init__(self, archive: Archive) -> None:
        self.satellite, self.wire, self.archive = TinySatellite(), Wire(), archive
        self.station = Station(self.wire, archive, scid=SCID, apid=APID, epoch_s=0.0)
        self.t_s = 0.0
        self.lines: list[str] = []

    def _step(self) -> None:
        self.satellite.uplink(self.wire.take_sent(), self.t_s)
        for sid in (1, 2, 3):
            self.satellite.reporter.housekeeping(sid, self.satellite.pool, self.t_s)
        self.wire.waiting += self.satellite.downlink()
        self.station.poll(self.t_s)

    def send(self, verb: str, values: Sequence[Value], timeout_s: float) -> Progress:
        record = self.station.send(verb, values, self.t_s, timeout_s)
        while not record.state.is_final:
            self.pause(0.5)
            record = self.station.command(record.request_id)
        return progress(record)

    def latest(self, point: str) -> float | int | None:
        sample = self.station.latest(point)
        return sample.value if sample else None

    def now_s(self) -> float:
        return self.t_s

    def pause(self, seconds: float) -> None:
        self.t_s += seconds
        self._step()

    def note(self, line: str) -> None:
        self.lines.append(f"{self.t_s:g} {line}")
        self.archive.add_note(self.t_s, "test.py", line)


@pytest.fixture
def link(tmp_path: Path):
    with Archive(tmp_path / "a.sqlite") as archive:
        yield VirtualLink(archive)


def script(tmp_path: Path, body: str) -> Path:
    path = tmp_path / "test.py"
    path.write_text(body)
    return path


GOOD = """
def run(op):
    op.send("ping")
    op.send("mode", "STANDBY")
    op.expect("mode == STANDBY and plate_c < 30", within=10)
    if op.value("battery_soc_frac") is not None and op.value("battery_soc_frac") > 0.5:
        op.note("charge is good")
    op.wait(5)
"""


def test_procedure_runs_in_virtual_time_and_is_recorded(link: VirtualLink, tmp_path: Path) -> None:
    run_file(script(tmp_path, GOOD), Operator(link))
    assert [line.split(" ", 1)[1] for line in link.lines] == [
        "run of test.py begins", "sent ping: completed", "sent mode STANDBY: completed",
        "expected mode == STANDBY and plate_c < 30: yes", "charge is good", "wait 5 s", "test.py done"]
    link.archive.flush()
    assert [note.text for note in link.archive.notes()] == [line.split(" ", 1)[1] for line in link.lines]
    assert [command.verb for command in link.archive.commands()] == ["ping", "mode"]


def test_dry_run_sends_nothing_and_checks_everything(link: VirtualLink, tmp_path: Path) -> None:
    run_file(script(tmp_path, GOOD), Operator(link, dry=True))
    assert link.archive.commands() == []
    assert link.t_s == 0.0
    assert "0 would send mode STANDBY" in link.lines
    for line, says in (('op.send("dance")', "no telecommand 'dance'"), ('op.send("mode")', "mode takes MODE; 0 given"),
                       ('op.send("hk.period", 1, 9999)', "period = 9999 s outside"),
                       ('op.expect("volts > 1")', "compares no point|neither a point"),
                       ('op.value("volts")', "no point"),
                       ('op.expect("__import__(\'os\')")', "is no condition")):
        with pytest.raises(LinkError, match=says):
            run_file(script(tmp_path, f"def run(op):\n    {line}\n"), Operator(link, dry=True))


def test_step_that_fails_ends_it_with_the_reason(link: VirtualLink, tmp_path: Path) -> None:
    with pytest.raises(ProcedureError, match="mode COMPUTE rejected: SAFE -> COMPUTE is not legal"):
        run_file(script(tmp_path, 'def run(op):\n    op.send("mode", "COMPUTE")\n    op.send("ping")\n'),
                 Operator(link))
    with pytest.raises(ProcedureError, match=r"plate_c > 50 did not hold within 3 s: plate_c 20\.0"):
        run_file(script(tmp_path, 'def run(op):\n    op.expect("plate_c > 50", within=3)\n'), Operator(link))
    with pytest.raises(ProcedureError, match="ZeroDivisionError"):
        run_file(script(tmp_path, "def run(op):\n    1 / 0\n"), Operator(link))
    with pytest.raises(ConfigError, match="no function run"):
        run_file(script(tmp_path, "x = 1\n"), Operator(link))
    assert "ping" not in [command.verb for command in link.archive.commands()]
    assert "ended early" in link.lines[-1]


@pytest.mark.parametrize(("source", "latest", "holds"), [
    ("plate_c < 30", {"plate_c": 20.0}, True), ("plate_c < 30", {"plate_c": None}, False),
    ("not plate_c < 30", {"plate_c": 40.0}, True), ("10 < plate_c <= 20", {"plate_c": 20.0}, True),
    ("mode == SAFE or mode == STANDBY", {"mode": 51}, True), ("mode != SAFE", {"mode": 15}, False),
    ("plate_c > -5.5", {"plate_c": -6.0}, False), ("plate_c < radiator_c", {"plate_c": 1.0, "radiator_c": 2.0}, True),
])
def test_conditions(source: str, latest: dict[str, float | None], holds: bool) -> None:
    assert Condition(source).holds(latest.get) is holds


PLAN = """
[[step]]
send = "hk.report 8"
priority = 2
seconds = 300
[[step]]
send = "ping"
priority = 1
[[step]]
send = "hk.report 9"
priority = 3
seconds = 200
"""


def test_plan_is_ordered_checked_and_fitted_into_the_pass(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    plan = load_plan(path)
    assert [step.title for step in plan.steps] == ["ping", "hk.report 8", "hk.report 9"]
    contact = load_sky(MISSION).contacts(1_774_008_000.0, 1_774_094_400.0)[0]  # 399 s
    assert [(s.title, fits) for s, fits in fitting(plan, contact, [])] == [
        ("ping", True), ("hk.report 8", True), ("hk.report 9", False)]
    assert [(s.title, fits) for s, fits in fitting(plan, contact, ["hk.report 8"])] == [
        ("ping", True), ("hk.report 9", True)]
    assert not any(fits for _, fits in fitting(plan, contact, [], contact.los_s - 5.0))


def test_plan_runs_unattended_over_passes_and_a_restart(link: VirtualLink, tmp_path: Path) -> None:
    sky = load_sky(MISSION)
    link.t_s = START_S
    plan = tmp_path / "plan.toml"
    plan.write_text("""
        [[step]]
        send = "mode COMPUTE"      # not legal from SAFE: fails in the first pass, holds in the second
        priority = 1
        [[step]]
        run = "test.py"
        priority = 2
        [[step]]
        send = "hk.report 3"
        station = "Weilheim"
        """)
    script(tmp_path, 'def run(op):\n    op.send("mode", "STANDBY")\n    op.expect("mode == STANDBY", within=20)\n')
    assert fly(load_plan(plan), sky, Operator(link), link) == 0
    link.archive.flush()
    said = [(seen_by(sky, note.at_s), note.text) for note in link.archive.notes()]
    assert [one for one in said if one[1].startswith(("step", "waiting"))] == [
        ("", "waiting for Santiago, AOS 2026-03-20T13:14:27Z"),
        ("Santiago", "step failed: mode COMPUTE: mode COMPUTE rejected: SAFE -> COMPUTE is not legal; legal: STANDBY"),
        ("Santiago", "step done: test.py"),
        ("", "waiting for Weilheim, AOS 2026-03-20T13:44:04Z"),
        ("Weilheim", "step done: mode COMPUTE"),
        ("Weilheim", "step done: hk.report 3"),
    ]
    link.lines.clear()
    link.t_s = START_S
    assert fly(load_plan(plan), sky, Operator(link), link, ["mode COMPUTE", "test.py"]) == 0  # after a kill
    assert [line.split(" ", 1)[1] for line in link.lines if "step" in line] == ["step done: hk.report 3"]


def seen_by(sky: Sky, at_s: float) -> str:
    return next((c.site.name for c in sky.contacts(at_s, at_s + 1.0) if c.aos_s <= at_s < c.los_s - 0.01), "")


def test_the_program_does_a_plan_by_itself_in_the_next_pass(tmp_path: Path) -> None:
    """With its own port, from before AOS to its end; a second start finds that all is done."""
    plan, archive, stations = tmp_path / "plan.toml", tmp_path / "a.sqlite", station_of_now(tmp_path)
    plan.write_text('[[step]]\nsend = "ping"\n[[step]]\nsend = "mode STANDBY"\n')
    words = [sys.executable, "-m", "ground", "run", str(plan), "--mission", str(stations), "--archive", str(archive)]
    with PtySatellite() as satellite:
        first = subprocess.run([*words, "--port", satellite.port], capture_output=True, text=True, timeout=60,
                               check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    assert [line.split("Z ", 1)[1].split(",")[0] for line in first.stdout.splitlines()] == [
        "waiting for Here", "sent ping: completed", "step done: ping", "sent mode STANDBY: completed",
        "step done: mode STANDBY"]
    with Archive(archive, read_only=True) as made:
        assert [(c.verb, c.state) for c in made.commands()] == [("ping", "completed"), ("mode", "completed")]
    again = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (again.returncode, again.stdout.split(",")[0]) == (0, "plan.toml: all steps are done")


def station_of_now(tmp_path: Path) -> Path:
    """Return a mission whose one station sees the satellite rise some six seconds from now."""
    text, orbit, now_s = MISSION.read_text(), load_sky(MISSION).orbit, time.time()
    over_s = now_s + 40.0
    for _ in range(3):
        latitude, longitude, _ = (float(found[0]) for found in orbit.ground_track(np.array([over_s])))
        here = Site("Here", math.degrees(latitude), math.degrees(longitude), min_elevation_deg=60.0)
        over_s += now_s + 6.0 - Sky(orbit, [here]).upcoming(over_s - 1.0)[0].aos_s
    path = tmp_path / "mission.toml"
    path.write_text(text[: text.index("[[stations]]")] + f"""
        [[stations]]
        name = "Here"
        latitude_deg = {here.latitude_deg}
        longitude_deg = {here.longitude_deg}
        min_elevation_deg = 60.0
        """)
    return path


@pytest.mark.parametrize(("text", "says"), [
    ("", r"no \[\[step\]\]"), ("[[step]]\npriority = 1", "needs either send or run"),
    ('[[step]]\nsend = "mode FAST"', "mode = 'FAST'"), ('[[step]]\nsend = "data.erase x"', "hazardous"),
    ('[[step]]\nrun = "none.py"', "does not exist"), ('[[step]]\nsend = "ping"\npriority = 0', "out of range"),
])
def test_plan_that_cannot_run_unattended_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_plan(path)

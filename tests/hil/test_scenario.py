"""Scenario files: the shipped ones load, wrong ones are refused with every problem named."""

from pathlib import Path

import pytest

from flightsw.errors import ConfigError
from flightsw.state import Mode
from hil import scenario
from hil.__main__ import main
from hil.plant.sensors import SensorFault
from hil.scenario import SCENARIOS, Moment, find, load

SHIPPED = sorted(SCENARIOS.glob("*.toml"))
ROOT = Path(__file__).resolve().parents[2]

GOOD = f"""
id = "tiny"
description = "Ten minutes"
mission = "{ROOT}/missions/iss_like.toml"
truth = "{ROOT}/hil/plant/compsat_16u.toml"
duration = "10 min"
seed = 1
"""


def write(tmp_path, text):
    path = tmp_path / "tiny.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_scenarios_load(path):
    loaded = load(path)
    assert loaded.id == path.stem
    assert loaded.ground


def test_the_three_named_scenarios_are_there():
    assert {"day_iss", "day_dawn_dusk", "short_iss"} <= {path.stem for path in SHIPPED}


def test_the_day_is_a_day_of_fifteen_orbits():
    day = load(find("day_iss"))
    assert day.duration_s == 86400.0
    assert day.duration_s / day.orbit_s > 15.0
    assert day.jobs.overload == 1.5
    assert {step.verb for step in day.ground} >= {"mode", "ping", "param.set", "job.submit"}


def test_defaults_and_replacements(tmp_path):
    path = write(tmp_path, GOOD)
    plain = load(path)
    assert (plain.seed, plain.duration_s, plain.link.contact, plain.jobs) == (1, 600.0, "passes", None)
    other = load(path, seed=9, duration="2 orbits")
    assert other.seed == 9
    assert other.duration_s == int(2.0 * other.orbit_s)


@pytest.mark.parametrize(("added", "expected"), [
    ('colour = "red"', r"colour = 'red': unknown key; known here: id, "),
    ("dispersion = 7", r"dispersion = 7 is out of range \(range 0..3\)"),
    ("[start]\ncharge_frac = 2.0", r"start.charge_frac = 2.0 is out of range \(range 0.05..1 frac\)"),
    ("[link]\nbaud = 9600.5", r"link.baud = 9600.5: a whole number is expected \(range 1200..4e\+06 baud\)"),
    ('[link]\ncontact = "sometimes"', r"link.contact = 'sometimes': expected passes or always"),
    ('[[ground]]\nat = "pass one"\nsend = "ping"', r"ground\[0\].at = 'pass one': expected like"),
    ('[[ground]]\nat = "T+5 s"\nsend = "jump"', r"ground\[0\].send = 'jump': no telecommand 'jump'; known: data.erase, hk.period, "),
    ('[[ground]]\nat = "T+5 s"\nsend = "mode"', r"mode takes MODE; 0 given"),
    ('[[ground]]\nat = "T+5 s"\nsend = "mode FLYING"', r"mode = 'FLYING' is not a whole number or one of BOOT"),
    ('[[ground]]\nat = "T+5 s"\nsend = "hk.period 1 9999"', r"period = 9999 s outside 0..3600 s"),
    ('[[ground]]\nat = "T+5 s"\nsend = "ping \'"', r"No closing quotation"),
    ('[[ground]]\nat = "T+5 s"\nsend = "job.submit 1000000 a 10 1 1 100 0"', r"job = 1000000 belongs to the stream"),
    ('[[fault]]\nat = "T+5 s"\nsensor = "die7_c"\nkind = "nan"\nfor = "1 min"', r"'die7_c': not fitted; fitted are"),
    ('[[fault]]\nat = "T+5 s"\nsensor = "die1_c"\nkind = "melts"\nfor = "1 min"', r"expected stuck or nan or"),
    ('[[fault]]\nat = "T+5 s"\nsensor = "die1_c"\nkind = "nan"', r"fault\[0\].for: missing"),
    ("[jobs]\noverload = nan", r"jobs.overload = nan is out of range"),
    ("[jobs]\nexample_share = 0.5", r"example_share = 0.5, but examples is empty"),
    ('[jobs]\nexamples = ["nowhere"]', r"nowhere/job.toml: No such file"),
])
def test_wrong_keys_and_values_are_named(tmp_path, added, expected):
    path = write(tmp_path, GOOD + added + "\n")
    with pytest.raises(ConfigError, match=expected) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_all_problems_come_at_once(tmp_path):
    path = write(tmp_path, GOOD.replace("seed = 1", "seed = -1").replace('id = "tiny"', 'id = "Tiny!"')
                 + "[link]\nlatency_s = 99\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    for key in ("seed", "id", "link.latency_s"):
        assert f"{key} = " in str(caught.value)


@pytest.mark.parametrize(("old", "new", "expected"), [
    ("iss_like.toml", "no_such.toml", r"mission: .*no_such.toml: cannot be read"),
    ("compsat_16u.toml", "no_such.toml", r"truth: .*no_such.toml: cannot be read"),
    ('"10 min"', '"5 s"', r"duration = '5 s' is 5 s, out of range \(range 60..777600 s\)"),
    ('"10 min"', '"ten minutes"', r"duration = 'ten minutes': expected a duration"),
])
def test_missing_files_and_durations(tmp_path, old, new, expected):
    with pytest.raises(ConfigError, match=expected):
        load(write(tmp_path, GOOD.replace(old, new)))


def test_moments_hang_on_passes():
    assert Moment(0, 600.0).resolve(()) == 600.0
    assert Moment(2, 30.0).resolve((100.0, 900.0)) == 930.0
    assert Moment(3, 30.0).resolve((100.0, 900.0)) is None


def test_commands_are_parsed_as_the_ground_does(tmp_path):
    path = write(tmp_path, GOOD + '[[ground]]\nat = "pass 2 + 1.5 min"\nsend = "mode standby"\n')
    (step,) = load(path).ground
    assert step[:3] == (Moment(2, 90.0), "mode", (int(Mode.STANDBY),))


def test_faults_become_spans(tmp_path):
    path = write(tmp_path, GOOD + '[[fault]]\nat = "pass 1 + 5 s"\nsensor = "plate_c"\nkind = "bias"\n'
                                  'for = "2 min"\namount = -4.0\n')
    (step,) = load(path).faults
    assert step.resolve((1000.0,)) == SensorFault(1005.0, 1125.0, "plate_c", "bias", -4.0)
    assert step.resolve(()) is None


def test_check_tells_what_will_happen(tmp_path, capsys):
    path = write(tmp_path, GOOD.replace('"10 min"', '"2 h"')
                 + '[[ground]]\nat = "pass 1 + 10 s"\nsend = "ping"\n'
                   '[[ground]]\nat = "T+5 s"\nsend = "ping"\n[[ground]]\nat = "pass 9 + 1 s"\nsend = "ping"\n')
    assert main(["check", str(path)]) == 0
    said = capsys.readouterr().out
    assert "pass 1: T+44" in said
    assert "send ping: T+5 s, outside every pass" in said
    assert "send ping: pass 9 is not in this run" in said


def test_check_refuses_in_one_line_with_a_status(tmp_path, capsys):
    path = write(tmp_path, GOOD + '[[ground]]\nat = "T+5 s"\nsend = "jump"\n')
    assert main(["check", str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith(f"hil check: {path}: ground[0].send = 'jump': no telecommand 'jump'")


def test_a_scenario_that_is_not_there(capsys):
    assert main(["run", "no_such_scenario"]) == 2
    assert capsys.readouterr().err == "hil run: no_such_scenario: cannot be read: No such file or directory\n"


def test_a_file_wins_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find("day_iss") == scenario.SCENARIOS / "day_iss.toml"
    Path("day_iss").write_text("x")
    assert find("day_iss") == Path("day_iss")

"""Scenario files: the shipped ones load, wrong ones are refused with every problem named."""

import json
import math
import re
from pathlib import Path

import pytest

from flightsw.errors import ConfigError, KernelError
from flightsw.state import Mode
from hil import run, scenario
from hil.__main__ import main
from hil.faults import LIBRARY
from hil.plant.satellite import TruthSatellite
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
    ('[[ground]]\nat = "T+5 s"\nsend = "jump"', r"ground\[0\].send = 'jump': no telecommand 'jump'; known: "),
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
    edges = {"pass.rise": (100.0, 900.0), "eclipse.entry": (2000.0,)}
    assert Moment(0, 600.0).resolve(edges) == 600.0
    assert Moment(2, 30.0).resolve(edges) == 930.0
    assert Moment(3, 30.0).resolve(edges) is None
    assert Moment(1, -120.0, "eclipse.entry").resolve(edges) == 1880.0


@pytest.mark.parametrize(("text", "moment"), [
    ("T+5 s", Moment(0, 5.0)), ("T + 1.5 min", Moment(0, 90.0)), ("pass 2 + 30 s", Moment(2, 30.0)),
    ("eclipse.entry+120s", Moment(1, 120.0, "eclipse.entry")),
    ("eclipse.exit 3 - 1 min", Moment(3, -60.0, "eclipse.exit")),
    ("pass.set", Moment(1, 0.0, "pass.set")), ("pass.rise 2", Moment(2, 0.0)),
])
def test_moments_are_read(tmp_path, text, moment):
    path = write(tmp_path, GOOD + f'[[ground]]\nat = "{text}"\nsend = "ping"\n')
    assert load(path).ground[0].at == moment


def test_commands_are_parsed_as_the_ground_does(tmp_path):
    path = write(tmp_path, GOOD + '[[ground]]\nat = "pass 2 + 1.5 min"\nsend = "mode standby"\n')
    (step,) = load(path).ground
    assert step[:3] == (Moment(2, 90.0), "mode", (int(Mode.STANDBY),))


def test_faults_become_spans(tmp_path):
    path = write(tmp_path, GOOD + '[[fault]]\nat = "pass 1 + 5 s"\nsensor = "plate_c"\nkind = "bias"\n'
                                  'for = "2 min"\namount = -4.0\n')
    (step,) = load(path).faults
    assert (step.id, step.kind, step.target, step.values) == ("fault1", "sensor.bias", "plate_c", {"amount": -4.0})
    assert step.sensor_fault({"pass.rise": (1000.0,)}) == SensorFault(1005.0, 1125.0, "plate_c", "bias", -4.0)
    assert step.sensor_fault({"pass.rise": ()}) is None


def test_faults_of_the_library_take_their_own_parameters(tmp_path):
    path = write(tmp_path, GOOD + '[[fault]]\nid = "cells"\nwhen = "truth.battery_soc_frac < 80 %"\n'
                                  'kind = "plant.cells_lost"\nlost_frac = 0.25\n'
                                  '[[fault]]\nat = "T+1 min"\nkind = "link.cut"\ntarget = "up"\nfor = "30 s"\n')
    cells, cut = load(path).faults
    assert (cells.at, cells.when.text, cells.values) == (None, "truth.battery_soc_frac < 80 %", {"lost_frac": 0.25})
    assert math.isinf(cells.lasts_s)
    assert (cut.id, cut.target, cut.lasts_s, cut.at) == ("fault2", "up", 30.0, Moment(0, 60.0))


FAULT = '[[fault]]\nat = "T+5 s"\n'
CHECK = "[[check]]\n"


@pytest.mark.parametrize(("added", "expected"), [
    (FAULT + 'kind = "link.melts"',
     r"fault\[0\].kind = 'link.melts': no such fault; known: link.bit_errors, link.bursts"),
    (FAULT + 'kind = "link.cut"\ntarget = "left"',
     r"fault\[0\].target = 'left': a direction is expected: up, down, both"),
    (FAULT + 'kind = "plant.latch_up"\ntarget = "4"', r"fault\[0\].target = '4': a node is expected: 0, 1, 2, 3"),
    (FAULT + 'kind = "plant.string_lost"\nlost_frac = 2', r"lost_frac = 2 is out of range \(range 0.01..0.95 frac\)"),
    (FAULT + 'kind = "plant.string_lost"\nlost_w = 2', r"lost_w = 2: unknown key; plant.string_lost takes lost_frac"),
    (FAULT + 'kind = "sensor.bias"\ntarget = "plate_c"',
     r"fault\[0\].amount: missing \(range -10000..10000 its unit\)"),
    (FAULT + 'when = "t_s > 5"\nkind = "board.sigkill"', r"fault\[0\]: one of at \(.*\) and when"),
    ('[[fault]]\nkind = "board.sigkill"', r"fault\[0\]: one of at"),
    ('[[fault]]\nkind = "board.sigkill"\nwhen = "metric.sheds > 1"', r"known after the run only"),
    (FAULT + 'kind = "board.clock_step"\nfor = "1 s"', r"board.clock_step is at a moment and for good"),
    (2 * (FAULT + 'kind = "board.sigkill"\nid = "a"\n'), r"fault.id = 'a' is there twice"),
    (FAULT + 'kind = "hook.x"', r"the scenario names no file of hooks"),
    (CHECK + 'always = "truth.plat_c < 50 degC"',
     r"check\[0\].always = .*no signal 'truth.plat_c'; near: truth.plate_c"),
    (CHECK + 'always = "truth.plate_c < 50 W"', r"degC beside W"),
    (CHECK + 'always = "truth.plate_c < 50"\nnever = "decision.shed"', r"exactly one of .*always and never given"),
    (CHECK + 'grace = "5 s"', r"exactly one of .*none given"),
    (CHECK + 'always = "decision.shed"\nwithin = "5 s"', r"check\[0\].within: does not go with always"),
    (CHECK + 'hold = "decision.shed"', r"check\[0\].until: missing"),
    (CHECK + 'always = "metric.sheds < 5"', r"a metric is known at the end only: use final"),
    (CHECK + 'final = "metric.promises_made == 5"\nverifies = ["REQ-PWR-99"]', r"no requirement 'REQ-PWR-99'"),
    (CHECK + 'final = "metric.promises_made == 5"\nverifies = ["PWR"]', r"expected ids of requirements"),
    (CHECK + 'id = "ticks"\nfinal = "metric.sheds == 0"', r"check.id = 'ticks' is there twice"),
    ('[[waive]]\ncheck = "limits"\nreason = "because we can"',
     r"waive.check = 'limits': no such check; checks are limit.batt"),
    ('hooks = "nowhere.py"', r"nowhere.py: is not a Python file"),
    ("dispersion = { uniform = [2.0, 1.0] }", r"dispersion = .*: uniform from 2 to 1"),
    ('duration = { uniform = ["10 min", "2 h"] }', r"may differ in one number only"),
])
def test_wrong_faults_checks_and_draws_are_named(tmp_path, added, expected):
    good = GOOD.replace('duration = "10 min"\n', "") if added.startswith("duration") else GOOD
    path = write(tmp_path, good + added + "\n")
    with pytest.raises(ConfigError, match=expected):
        load(path)


def test_what_is_drawn_hangs_on_seed_and_place_alone(tmp_path):
    drawn = ('dispersion = { uniform = [0.5, 1.5] }\n[start]\ncharge_frac = { normal = [0.8, 0.01] }\n'
             '[link]\nbaud = { choice = [9600, 115200] }\n[[fault]]\nkind = "plant.string_lost"\n'
             'at = { uniform = ["T+1 min", "T+8 min"] }\nlost_frac = { log_uniform = [0.01, 0.5] }\n')
    path = write(tmp_path, GOOD + drawn)
    first, again, other = load(path), load(path), load(path, seed=2)
    assert first.drawn == again.drawn != other.drawn
    assert list(first.drawn) == ["dispersion", "start.charge_frac", "link.baud", "fault[0].at", "fault[0].lost_frac"]
    for each in (first, other):
        assert 0.5 <= each.dispersion <= 1.5
        assert 60.0 <= each.faults[0].at.after_s <= 480.0
        assert 0.01 <= each.faults[0].values["lost_frac"] <= 0.5
    longer = write(tmp_path, GOOD + 'hooks = "h.py"\n' + drawn)
    (tmp_path / "h.py").write_text("")
    assert load(longer).drawn == first.drawn


def test_checks_and_waivers_are_taken_over(tmp_path):
    (tmp_path / "h.py").write_text("def quiet(record):\n    return True\n")
    path = write(tmp_path, GOOD + 'verifies = ["REQ-PWR-1"]\nhooks = "h.py"\n'
                 '[[check]]\nid = "soon"\nexpect = "decision.shed"\nafter = "t_s > 60"\nwithin = "5 s"\n'
                 '[[check]]\npython = "quiet"\n'
                 '[[waive]]\ncheck = "promises"\nreason = "nothing is promised here"\n')
    loaded = load(path)
    soon, quiet = loaded.checks[:2]
    assert (soon.kind, soon.within_s) == ("expect", 5.0)
    assert soon.statement == "expect decision.shed, after t_s > 60, within 5 s"
    assert quiet.name == "check2"
    assert {check.name for check in loaded.checks[2:]} >= {"limit.die", "promises", "ticks"}
    assert loaded.waivers == {"promises": "nothing is promised here"}
    assert loaded.verifies == ("REQ-PWR-1",)


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


# --- a run and its verdict ----------------------------------------------------------------------------


def test_the_exit_status_follows_the_verdict(tmp_path, capsys):
    flights = {"FAIL": ('always = "truth.plate_c > 90 degC"', 1),
               "INCONCLUSIVE": ('expect = "t_s > 1"\nafter = "truth.plate_c > 90 degC"', 3)}
    for name, (check, status) in flights.items():
        path = write(tmp_path, GOOD.replace('"10 min"', '"60 s"') + f'[[check]]\nid = "own"\n{check}\n')
        assert main(["run", str(path), "--out", str(tmp_path)]) == status
        assert f"verdict           {name}:" in capsys.readouterr().out
        kept = json.loads((tmp_path / "latest" / "verdict.json").read_text())
        assert (kept["verdict"], kept["level"], kept["findings"]["own"]["verdict"]) == (name, "SIL", name)


def test_a_rig_that_breaks_is_an_error_not_a_failure(tmp_path, capsys, monkeypatch):
    def break_down(_satellite):
        raise KernelError("fsw_plant_advance", -14, "a temperature left 1..1000 K")

    monkeypatch.setattr(TruthSatellite, "advance", break_down)
    path = write(tmp_path, GOOD.replace('"10 min"', '"60 s"'))
    assert main(["run", str(path), "--out", str(tmp_path), "--junit", str(tmp_path / "sub" / "j.xml")]) == 4
    assert "verdict           ERROR: the rig broke" in capsys.readouterr().out
    assert json.loads((tmp_path / "latest" / "verdict.json").read_text())["verdict"] == "ERROR"
    assert 'type="ERROR"' in (tmp_path / "sub" / "j.xml").read_text()


def test_hooks_are_faults_and_checks_of_the_authors_own(tmp_path):
    (tmp_path / "own.py").write_text("""
def warm(rig, given):
    for _ in range(int(given["ticks"])):
        rig.satellite.plant.state.temperature_k[rig.satellite.truth.compute.nodes * 2] += 1.0
        yield

def is_warm(record):
    return float(record["truth.plate_c"].max()) - 30.0, "hottest plate over 30 degC"
""")
    path = write(tmp_path, GOOD.replace('"10 min"', '"60 s"') + 'hooks = "own.py"\n[[check]]\nid = "own"\n'
                 'python = "is_warm"\n[[fault]]\nid = "heat"\nat = "T+5 s"\nkind = "hook.warm"\nticks = 30\n')
    (tmp_path / "run").mkdir()
    flown = run.fly(load(path), tmp_path / "run")
    own = next(finding for finding in flown.findings if finding.name == "own")
    assert (own.verdict.value, own.detail) == ("PASS", "hottest plate over 30 degC")
    assert 5.0 < own.margin < 15.0
    assert [span.kind for span in flown.spans] == ["hook.warm"]


def test_a_waived_failure_does_not_count_and_is_told(tmp_path, capsys):
    path = write(tmp_path, GOOD.replace('"10 min"', '"60 s"') + '[[check]]\nid = "own"\nfinal = "truth.plate_c > 90"\n'
                 '[[waive]]\ncheck = "own"\nreason = "the plate is cold here"\n')
    assert main(["run", str(path), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "FAIL              own: does not hold at the end (waived: the plate is cold here)" in said
    assert "verdict           PASS: 10 of 11 checks passed, 1 waived" in said


# --- the document ------------------------------------------------------------------------------------


def test_the_document_is_true(tmp_path):
    text = (ROOT / "docs" / "scenarios.md").read_text("utf-8")
    whole, waiver, drawn = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    whole = whole.replace("../../missions", f"{ROOT}/missions").replace("../plant", f"{ROOT}/hil/plant")
    loaded = load(write(tmp_path, whole))
    assert [check.name for check in loaded.own_checks] == ["noticed", "charge"]
    top, _, rows = drawn.partition("\n\n")
    assert load(write(tmp_path, whole.replace("seed = 7", f"seed = 7\n{top}") + waiver + rows)).drawn
    groups = dict(re.findall(r"^\| `([a-z]+)\.` \| ([a-z_, ]+) \|$", text, re.MULTILINE))
    assert {f"{group}.{kind}" for group, kinds in groups.items() for kind in kinds.split(", ")} == set(LIBRARY)

"""The pytest plugin: scenario files as tests, and a bench test in ten lines."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from flightsw.errors import ConfigError
from hil.testing import bench

pytest_plugins = "pytester"
ROOT = Path(__file__).resolve().parents[2]
SCENARIO = f"""
id = "tiny"
description = "One minute"
mission = "{ROOT}/missions/iss_like.toml"
truth = "{ROOT}/hil/plant/compsat_16u.toml"
duration = "60 s"
seed = 1
[[check]]
id = "warm"
always = "truth.plate_c > 0 degC"
verifies = ["REQ-THM-2"]
[[check]]
id = "hot"
always = "truth.plate_c > 50 degC"
[[check]]
id = "agreed"
always = "truth.plate_c > 60 degC"
[[check]]
id = "never_asked"
expect = "decision.shed"
after = "truth.plate_c > 60 degC"
[[waive]]
check = "agreed"
reason = "the plate is cold here"
"""
TEN_LINES = '''
import pytest

@pytest.mark.scenario("serial_iss", duration="5 min")
def test_a_silent_plate_sensor_stops_compute(rig, satellite, ground):
    rig.until("truth.payload_w > 10 W", within="2 min")
    rig.inject("sensor.dropout", "plate_c", lasts="2 min")
    assert rig.until("decision.shed", within="45 s") > 20.0
    assert ground.heard("sensor_lost", "plate_c") and satellite.plate_c < 55.0
    assert ground.state(ground.send("ping")) == "sent"

def test_without_a_scenario(rig):
    pass
'''


@pytest.fixture
def run_pytest(pytester):
    (pytester.path / "tiny.toml").write_text(SCENARIO)
    (pytester.path / "broken.toml").write_text(SCENARIO.replace("truth.plate_c > 0 degC", "truth.plat_c > 0 degC"))
    (pytester.path / "test_own.py").write_text(TEN_LINES)
    return lambda *words: str(pytester.runpytest_inprocess("-p", "hil.pytest_plugin", "-W", "error", "-rA",
                                                           *words).stdout)


def test_a_scenario_file_is_a_test_for_each_check(run_pytest, pytester):
    said = run_pytest("tiny.toml", "--junitxml=out.xml")
    assert "PASSED tiny.toml::warm" in said
    assert "FAILED tiny.toml::hot" in said
    assert "FAIL tiny.toml hot: once violated, 60 s in all, longest 60 s from T+0 s" in said
    assert "FAILED tiny.toml::never_asked" in said
    assert "INCONCLUSIVE tiny.toml never_asked" in said
    assert "waived: the plate is cold here" in said
    assert "2 failed, 11 passed, 1 skipped" in said
    cases = {case.get("name"): case for case in ElementTree.parse(pytester.path / "out.xml").iter("testcase")}
    own = {each.get("name"): each.get("value") for each in cases["warm"].iter("property")}
    assert own["requirements"] == "REQ-THM-2"
    assert own["level"] == "SIL"
    assert float(own["margin"].split()[0]) > 0.0


def test_collecting_is_opt_in_and_precise(run_pytest):
    assert "toml" not in run_pytest("--collect-only", "-q")
    said = run_pytest("--scenarios", "--collect-only", "-q")
    assert "tiny.toml::warm" in said
    assert "no signal 'truth.plat_c'; near: truth.plate_c" in said
    assert "tiny.toml::hot" not in run_pytest("tiny.toml", "--collect-only", "-q", "-k", "warm")


def test_a_bench_test_in_ten_lines(run_pytest):
    said = run_pytest("test_own.py")
    assert "PASSED test_own.py::test_a_silent_plate_sensor_stops_compute" in said
    assert "rig, satellite and ground need a scenario: @pytest.mark.scenario(" in said


def test_the_rig_refuses_what_it_cannot_do(tmp_path):
    with bench("serial_iss", tmp_path, duration="60 s") as (rig, satellite, ground):
        rig.run("5 s")
        assert rig.now_s == 5.0
        assert satellite.plate_c == rig.value("truth.plate_c")
        assert ground.latest("plate_c") == pytest.approx(satellite.plate_c, abs=2.0)
        for wrong in (lambda: rig.inject("link.melts"), lambda: rig.inject("link.cut", "left"),
                      lambda: rig.inject("sensor.bias", "plate_c"), lambda: rig.inject("job.hostile", "mount"),
                      lambda: rig.inject("sensor.bias", "plate_c", amount=1.0, volume=2.0),
                      lambda: rig.until("event('shed') > 0", "1 s"), lambda: rig.until("truth.plat_c > 1", "1 s"),
                      lambda: rig.run("2 h")):
            with pytest.raises(ConfigError):
                wrong()
        with pytest.raises(AssertionError, match=r"was not true within 3 s, until T\+8 s"):
            rig.until("truth.plate_c > 90 degC", within="3 s")
        with pytest.raises(AttributeError, match=r"no signal truth.plat_c"):
            _ = satellite.plat_c
        with pytest.raises(KeyError):
            rig.value("nothing")
        rig.inject("link.cut", "both", lasts="11 s")
        rig.run("12 s")
        assert rig.value("link.octets_lost") > 0.0
        flown = rig.finish()
    assert flown.metrics["duration_s"] == 20.0
    assert [span.kind for span in flown.spans] == ["link.cut"]

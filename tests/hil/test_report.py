"""The report: complete in itself, true to the run, safe with any text."""

import dataclasses
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from flightsw.dictionary.events import Severity
from ground.archive import EventEntry
from hil import junit, report, run
from hil.__main__ import main
from hil.inject import FaultSpan
from hil.provenance import config_hash
from hil.report import envelope
from hil.scenario import FaultStep, find, load
from hil.verdict import Finding, Verdict


@pytest.fixture(scope="module")
def flown(tmp_path_factory):
    scenario = dataclasses.replace(load(find("day_iss"), duration="2 h"), description="A <b>bold</b> & short run")
    return run.fly(scenario, tmp_path_factory.mktemp("flight"))


@pytest.fixture(scope="module")
def page(flown):
    return report.write(flown).read_text("utf-8")


def test_the_page_needs_nothing_else(page):
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page.replace("xlink:href", "href"))
    assert "@import" not in page
    assert "url(" not in re.sub(r"url\(#[^)]*\)", "", page)
    assert len(page) < 1_000_000


def test_the_five_plots_and_the_timing_are_well_formed(page):
    plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(plots) == 6
    for plot in plots:
        ElementTree.fromstring(plot)


def test_texts_are_escaped(page):
    assert "A &lt;b&gt;bold&lt;/b&gt; &amp; short run" in page
    assert "<b>bold</b>" not in page


def test_numbers_are_the_runs(flown, page):
    m = flown.metrics
    assert f"<b>{m['promises_broken']} / {m['promises_made']}</b>" in page
    assert f"{100.0 * m['battery_soc_frac_min']:.1f} %" in page
    assert f"{m['die_c_max']:.1f} °C" in page
    for crossing in flown.crossings:
        assert f"<td>{crossing.limit}</td>" in page


def test_the_command_flies_it_again(flown, page, monkeypatch):
    words = report.command(flown)
    assert "--seed 7" in words
    assert '--duration "7200 s"' in words
    assert "hil run" in page
    assert "hil replay" in page


def test_a_crossed_limit_stands_out(flown):
    bad = dataclasses.replace(flown.crossings[0], count=2, seconds=30.0, depth=0.05)
    spoilt = dataclasses.replace(flown, crossings=(bad, *flown.crossings[1:]),
                                 metrics={**flown.metrics, "limits_crossed": 2})
    page = report.write(spoilt).read_text("utf-8")
    assert '<div class="tile bad"><b>2</b><span>limits crossed' in page
    assert "<tr class=bad><td>battery_floor_frac" in page
    report.write(flown)


FINDINGS = (
    Finding("cold <plate>", Verdict.FAIL, "once violated", "never truth.plate_c < 0", -3.5, "K", 4711.0,
            ("REQ-THM-2",)),
    Finding("limit.die", Verdict.PASS, "held", "always truth.die_max_c <= 80", 12.25, "K", 600.0, ("REQ-THM-1",)),
    Finding("soon", Verdict.INCONCLUSIVE, "never came", "expect decision.shed"),
    Finding("known", Verdict.FAIL, "does not hold", "final t_s < 0", waived="agreed <on> Monday"),
)


SPANS = (FaultSpan("cut", "link.cut", "up", 600.0, 1200.0),)


def judged(flown, findings=FINDINGS, folder=None):
    return dataclasses.replace(flown, findings=findings, spans=SPANS, folder=folder or flown.folder)


def test_the_verdict_its_requirements_and_margins_stand_first(flown, tmp_path):
    page = report.write(judged(flown, folder=tmp_path)).read_text("utf-8")
    assert '<div class="verdict v-FAIL"><b>FAIL</b><span>1 of 4 checks passed, 1 waived; not: cold &lt;pl' in page
    assert page.index("class=matrix") < page.index("class=checks") < page.index("<svg")
    matrix = re.search(r"<table class=matrix.*?</table>", page, re.DOTALL)[0]
    assert re.search(r"REQ-THM-1</td>.*?shown at SIL", matrix, re.DOTALL)
    assert re.search(r"REQ-THM-2</td>.*?failed", matrix, re.DOTALL)
    checks = re.search(r"<table class=checks.*?</table>", page, re.DOTALL)[0]
    assert "-3.5 K" in checks
    assert "T+4,711 s" in checks
    assert "waived: agreed &lt;on&gt; Monday" in checks
    assert "<td>link.cut up</td>" in page
    assert "commit " in page


@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_banner_says_the_verdict(flown, verdict):
    assert f"v-{verdict.value}" in report._banner(judged(flown, [Finding("c", verdict, "")]))


def test_junit_says_what_a_build_server_and_a_reviewer_ask_for(flown):
    suite = junit.suite(judged(flown))
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4", "failures": "1", "errors": "1", "skipped": "1"}
    said = {each.get("name"): each.get("value") for each in suite.find("properties")}
    assert {"verdict", "seed", "commit", "config_sha256", "bench", "level", "time", "retries",
            "tick_ms_p99"} <= said.keys()
    assert (said["verdict"], said["level"], said["seed"]) == ("FAIL", "SIL", "7")
    assert said["requirement.REQ-THM-1"] == "shown below its level"
    cases = {case.get("name"): case for case in suite.findall("testcase")}
    assert cases["cold <plate>"].find("failure").get("message") == "once violated"
    assert cases["soon"].find("error").get("type") == "INCONCLUSIVE"
    assert cases["known"].find("skipped").get("message") == "waived: agreed <on> Monday"
    own = {each.get("name"): each.get("value") for each in cases["limit.die"].find("properties")}
    assert own == {"statement": "always truth.die_max_c <= 80", "requirements": "REQ-THM-1", "margin": "12.25 K",
                   "worst_s": "600"}
    again = ElementTree.parse(junit.write(judged(flown))).getroot()
    assert again.get("tests") == "4"


def test_the_hash_of_the_configuration_follows_what_is_flown(flown):
    other = dataclasses.replace(flown.scenario, seed=8)
    assert config_hash(flown.scenario) == config_hash(flown.scenario) != config_hash(other)


def test_summary_says_speed_and_place(flown):
    said = report.summary(flown)
    assert "times real time" in said
    assert said.splitlines()[-1].endswith("report.html")
    assert "limits crossed    0" in said


@pytest.mark.parametrize("size", [0, 1, 7, 999, 1000, 1001, 5000, 86400])
def test_decimation_keeps_extremes(size):
    values = np.random.default_rng(size).standard_normal(size)
    ticks, kept = envelope(values, 1000)
    assert len(ticks) == len(kept) <= 1002
    assert (np.diff(ticks) >= 0).all()
    if size:
        assert (kept.min(), kept.max()) == (values.min(), values.max())
        assert np.array_equal(values[ticks.astype(int)], kept)


def test_the_command_line_makes_a_whole_run(tmp_path, capsys):
    assert main(["run", "short_iss", "--duration", "10 min", "--seed", "5", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert (tmp_path / "latest" / "report.html").is_file()
    assert (tmp_path / "latest").resolve().name == "short_iss-5-001"
    assert ElementTree.parse(tmp_path / "latest" / "junit.xml").getroot().get("failures") == "0"
    assert "seed 5" in said.out
    assert said.err == ""  # no progress bar where nobody watches


def test_the_table_of_faults_says_how_much_and_who_noticed(flown):
    span = FaultSpan("gauge", "sensor.bias", "plate_c", 60.0, 120.0)
    step = FaultStep("gauge", "sensor.bias", "plate_c", {"amount": 4.0}, None, 60.0)
    never = FaultStep("later", "plant.string_lost", "", {"lost_frac": 0.25}, None, 60.0)
    hurt = dataclasses.replace(flown, spans=(span,), scenario=dataclasses.replace(flown.scenario, faults=(step, never)))
    said = report._faults(hurt)
    assert "sensor.bias plate_c: amount 4 its unit" in said
    assert "nothing; no limit, promise or tick was lost" in said
    assert "60 s" in said
    assert "plant.string_lost: lost_frac 0.25 frac" in said
    assert "did not begin" in said
    told = EventEntry(flown.start_unix_s + 70.0, 0.0, 13, "sensor_lost", Severity.MEDIUM, "", ("plate_c", "STALE"))
    assert "sensor_lost" in report._faults(dataclasses.replace(hurt, events=(told,)))

"""The report: complete in itself, true to the run, safe with any text."""

import dataclasses
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from hil import report, run
from hil.__main__ import main
from hil.report import envelope
from hil.scenario import find, load


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


def test_the_five_plots_are_well_formed(page):
    plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(plots) == 5
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
    assert "seed 5" in said.out
    assert said.err == ""  # no progress bar where nobody watches

"""Statements: sums, missing figures, the comparison with the ground, and any file refused or read."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flightsw.dictionary.events import BY_NAME
from flightsw.errors import ConfigError, StoreError
from ground import bill
from ground.__main__ import main
from ground.archive import Archive
from ground.bill import Settlement, Tariff

TARIFF = Tariff("here", "EUR", "e", "p", 0.20, 1.5)
ROOT = Path(__file__).parents[2]


def settled(job_id: int, customer: str = "Aerial", energy_j: float | None = 3.6e6, at_s: float = 100.0) -> Settlement:
    return Settlement(at_s, job_id, customer, energy_j, 60.0, 2e6, 5e5, 3.0)


def archived(path: Path, *settlements: Settlement, gap: bool = False) -> Path:
    row = BY_NAME["job_settled"]
    with Archive(path) as archive:
        for one in settlements:
            args = [math.nan if a is None else a for a in one[1:]]
            archive.add_packet(one.obt_s, one.obt_s, 100, 5, 1, 0, b"")
            archive.add_event(one.obt_s, row, args, row.text.format(*args))
        if gap:
            archive.add_gap(1.0, "APID 100", 3)
    return path


def test_a_kilowatt_hour_costs_what_the_tariff_says_times_pue() -> None:
    made = bill.statement([settled(1), settled(2, energy_j=1.8e6), settled(3, "Berg")], TARIFF)
    assert [(line.customer, line.job_id, line.jobs) for line in made.lines] == [
        ("Aerial", 1, 1), ("Aerial", 2, 1), ("Aerial", 0, 2), ("Berg", 3, 1), ("Berg", 0, 1)]  # fmt: skip
    assert [line.ground_cost for line in made.lines] == pytest.approx([0.3, 0.15, 0.45, 0.3, 0.3])
    total = made.lines[2]
    assert (total.energy_j, total.core_s, total.peak_octets, total.written_octets, total.value) == (
        5.4e6, 120.0, 2e6, 1e6, 6.0)  # fmt: skip


def test_what_was_not_metered_is_missing_and_not_charged() -> None:
    made = bill.statement([settled(1), settled(2, energy_j=None)], TARIFF)
    assert made.lines[1].energy_j is None
    assert made.lines[1].ground_cost is None
    assert made.lines[2].energy_j == 3.6e6
    assert made.notes == ("jobs without a measured energy, left out of the sums: 1",)
    row = list(bill.as_text(made, TARIFF))[2]
    assert row.split()[4:6] == ["-", "-"]


def test_a_job_that_was_settled_twice_counts_once() -> None:
    same = bill.statement([settled(1), settled(1, at_s=200.0)], None)
    assert (same.lines[-1].energy_j, same.notes) == (3.6e6, ())
    other = bill.statement([settled(1, energy_j=1.0, at_s=200.0), settled(1)], None)
    assert other.lines[-1].energy_j == 1.0
    assert "settled twice" in other.notes[0]


@given(st.lists(st.builds(settled, st.integers(1, 50), st.sampled_from(["A", "B"]),
                          st.one_of(st.none(), st.floats(0.0, 1e9)), st.floats(0.0, 1e9))))  # fmt: skip
def test_sums_are_those_of_their_lines(settlements: list[Settlement]) -> None:
    made = bill.statement(settlements, TARIFF)
    for total in (line for line in made.lines if not line.job_id):
        own = [line for line in made.lines if line.job_id and line.customer == total.customer]
        assert total.jobs == len(own)
        known = [line.energy_j for line in own if line.energy_j is not None]
        assert total.energy_j == (math.fsum(known) if known else None)
        assert total.unmetered == len(own) - len(known)
    assert len({line.job_id for line in made.lines if line.job_id}) == len({s.job_id for s in settlements})


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, octets: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "ledger"
    path.write_bytes(octets)
    if octets.strip():
        with pytest.raises(StoreError, match="line"):
            bill.from_lines(path, -math.inf, math.inf)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=3), max_leaves=4)  # fmt: skip


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["job_id", "obt_s", "customer", "energy_j", "core_s", "value"]), JSON))
def test_any_object_is_a_settlement_of_believable_figures_or_refused(
    tmp_path_factory: pytest.TempPathFactory, fields: dict[str, object]
) -> None:
    path = tmp_path_factory.mktemp("any") / "ledger"
    path.write_text(json.dumps(fields))
    try:
        found = bill.from_lines(path, -math.inf, math.inf)
    except StoreError:
        return
    for one in found:
        assert all(figure is None or (math.isfinite(figure) and figure >= 0.0) for figure in one[3:])
    list(bill.as_json(bill.statement(found, TARIFF)))


def test_the_shipped_tariff_is_sound_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    tariff = bill.load_tariff(ROOT / "examples/tariff.toml")
    assert tariff.currency == "EUR"
    bad = tmp_path / "tariff.toml"
    bad.write_text('name = "x"\ncurrency = "euro"\npue = 0.5\nenergy_source = "s"\npue_source = "s"\n')
    with pytest.raises(ConfigError) as caught:
        bill.load_tariff(bad)
    for words in ("currency", "pue = 0.5", "energy_per_kwh: missing"):
        assert words in str(caught.value)


# --- the command -------------------------------------------------------------------------------------


def test_a_bill_from_an_archive_and_from_its_own_lines_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = archived(tmp_path / "a.sqlite", settled(1), settled(2, "Berg", None, 2000.0), gap=True)
    assert main(["bill", str(path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "settlements may be missing: 1" in err
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["job_id"], line["energy_j"]) for line in lines] == [(1, 3.6e6), (2, None)]
    assert lines[0]["energy_wh"] == 1000.0
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text(out)
    assert main(["bill", str(ledger), "--tariff", str(ROOT / "examples/tariff.toml")]) == 0
    text = capsys.readouterr().out
    assert "0.316000" in text
    assert "Uptime Institute" in text
    assert "1,000.000" in text


def test_a_bill_is_cut_to_customer_and_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = archived(tmp_path / "a.sqlite", settled(1), settled(2, "Berg"), settled(3, at_s=5000.0))
    assert main(["bill", str(path), "--customer", "Aerial", "--to", "5000", "--json"]) == 0
    assert [json.loads(line)["job_id"] for line in capsys.readouterr().out.splitlines()] == [1]
    assert main(["bill", str(path), "--from", "9000"]) == 0
    assert "no settled jobs" in capsys.readouterr().out
    assert main(["bill", str(tmp_path / "none")]) == 4
    assert "No such file" in capsys.readouterr().err

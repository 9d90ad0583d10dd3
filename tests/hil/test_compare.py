import json
from dataclasses import replace

import pytest

pytest.importorskip("highspy")
pytest.importorskip("matplotlib")

from flightsw.errors import ConfigError
from flightsw.recorder import read_recording
from flightsw.state import JobState, Mode
from hil import compare, lean, run, scenario
from hil.__main__ import main

BRAIN = scenario.SCENARIOS / "brain"
KINDS = ("nominal", "overload15", "overload3", "bursts", "declared", "noise", "degraded", "aged", "early", "lost")


def test_a_lean_run_decides_what_a_full_run_decides(tmp_path):
    """The same telecommands at the same ticks: every decision of an orbit is the same, bit for bit."""
    flown = scenario.load(scenario.SCENARIOS / "short_iss.toml", duration="1 orbits")
    full = run.fly(flown, tmp_path)
    _, ticks = read_recording(run.find_recording(tmp_path))
    recorded = list(ticks)
    commands = {tick.inputs.now_s: tick.inputs.received for tick in recorded if tick.inputs.received}
    assert commands
    bare = lean.fly(lean.World.of(flown, run.surroundings(flown)), lean.flight_brain, commands)
    assert bare.fingerprints == tuple(tick.fingerprint for tick in recorded)
    assert bare.tally.value_finished == pytest.approx(full.metrics["value_finished"])
    assert {job_id: job.state for job_id, job in bare.book.jobs.items()} == {
        job_id: job.state for job_id, job in full.logbook.jobs.items()}
    assert bare.crossings == full.crossings


def test_the_satellite_wakes_up_without_a_ground():
    flown = scenario.load(BRAIN / "nominal_iss.toml", duration="600 s")
    bare = lean.fly(lean.World.of(flown, run.surroundings(flown)), lean.flight_brain)
    assert [mode for _, mode in bare.book.modes] == [Mode.SAFE, Mode.STANDBY, Mode.COMPUTE]
    assert bare.failures == 0


@pytest.mark.parametrize("case", ["iss", "sso"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_scenario_loads_for_both_missions(kind, case):
    flown = scenario.load(BRAIN / f"{kind}_{case}.toml")
    plain = scenario.load(BRAIN / f"nominal_{case}.toml")
    assert flown.jobs is not None
    if kind == "degraded":
        assert flown.truth.array.health_frac == pytest.approx(0.85 * plain.truth.array.health_frac)
    if kind == "lost":
        assert flown.node_lost_s[2] == 18_000.0


@pytest.mark.parametrize(("name", "dark_frac"), [("nominal_iss60", 0.27), ("nominal_sso90", 0.0)])
def test_other_beta_angles_see_other_eclipses(name, dark_frac):
    flown = scenario.load(BRAIN / f"{name}.toml", duration="3 orbits")
    assert (run.surroundings(flown).illumination_frac < 0.5).mean() == pytest.approx(dark_frac, abs=0.02)


def test_a_lost_node_is_silent_and_does_nothing():
    flown = replace(scenario.load(BRAIN / "overload15_iss.toml", duration="1 h"))
    flown = replace(flown, node_lost_s=(float("inf"), float("inf"), 1200.0, float("inf")))
    bare = lean.fly(lean.World.of(flown, run.surroundings(flown)), lean.flight_brain)
    assert bare.trace["node2_w"][1210:].max() == 0.0
    assert bare.trace["node1_w"].max() > 5.0
    assert bare.failures == 0


def test_an_orbit_ahead_brings_the_eclipse_forward():
    flown = scenario.load(BRAIN / "early_iss.toml", duration="1 orbits")
    behind = replace(flown, ahead_s=0.0)
    first = [next(c.t_s for c in run.surroundings(s).crossings if c.level == "half") for s in (flown, behind)]
    assert first[1] - first[0] == pytest.approx(60.0, abs=1.0)


BAND_C = [[[-20.0], [0.0]], [[50.0], [40.0]]]  # lowest, highest; radiator, bus; one slot


def _row(policy, value, crossings=None, radiator=(0.0, 40.0)):
    return {"seed": 1, "policy": policy, "value": value, "value_accrued": value, "value_closed": 0.0,
            "crossings": crossings or {}, "end_charge_frac": 0.9,
            "surface_c": [[[radiator[0]], [10.0]], [[radiator[1]], [30.0]]]}


def test_what_a_schedule_leaves_in_the_battery_lowers_its_bound():
    bound = {"seed": 1, "policy": "bound", "value": 100.0, "kept_value": 97.0, "kept_price_per_wh": 0.2,
             "kept_charge_frac": 0.9, "capacity_wh": 100.0, "value_closed": 100.0, "band_c": BAND_C}
    assert [compare.kept_bound(bound, frac) for frac in (0.7, 0.85, 0.9, 0.95)] == pytest.approx([100, 98, 97, 96])
    rows = {(1, "bound"): bound, (1, "flight"): _row("flight", 96.9)}
    assert compare.violations(rows) == []
    rows[1, "flight"] = _row("flight", 97.1)
    assert "of its end charge" in compare.violations(rows)[0]


def test_a_schedule_above_its_bound_is_an_error():
    bound = {"seed": 1, "policy": "bound", "value": 100.0, "value_closed": 50.0, "band_c": BAND_C}
    rows = {(1, "bound"): bound, (1, "good"): _row("good", 99.9),
            (1, "crosses"): _row("crosses", 120.0, {"x": [1, 1, 1]})}
    assert compare.violations(rows) == []
    rows[1, "better"] = _row("better", 100.1)
    assert "above the bound" in compare.violations(rows)[0]
    rows[1, "better"] = _row("better", 90.0, radiator=(-23.0, 40.0))
    assert "had the radiator 3.00 K outside the band" in compare.violations(rows)[0]
    rows[1, "better"] = _row("better", 90.0) | {"value_accrued": 100.1}
    assert "has value_accrued 100.1, above the bound 100.0" in compare.violations(rows)[0]


def test_compare_prints_a_table_writes_its_files_and_goes_on_where_it_stopped(tmp_path, capsys):
    words = ["compare", str(BRAIN / "overload15_sso.toml"), "--duration", "40 min", "--seeds", "2", "--policies",
             "flight", "fixed-edf", "--jobs", "1", "--out", str(tmp_path)]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "value/bound" in text
    folder = tmp_path / "compare-brain_overload15_sso"
    results = json.loads((folder / "results.json").read_text())
    assert set(results["policies"]) == {"flight", "fixed-edf"}
    assert results["bound_wrong"] == []
    assert (folder / "compare.svg").stat().st_size > 1000
    lines = (folder / "results.jsonl").read_text().splitlines()
    assert len(lines) == 6
    (folder / "results.jsonl").write_text("\n".join(lines[:3]) + '\n{"key": "torn')
    assert main(words) == 0
    assert len((folder / "results.jsonl").read_text().splitlines()) == 7  # three, the torn line, three


def test_compare_names_what_it_does_not_know(tmp_path, capsys):
    scenario_path = str(BRAIN / "nominal_iss.toml")
    assert main(["compare", scenario_path, "--policies", "magic", "--out", str(tmp_path)]) == 2
    assert "magic" in capsys.readouterr().err
    assert main(["compare", scenario_path, "--seeds", "0", "--out", str(tmp_path)]) == 2


def test_value_is_lost_where_the_bounds_jobs_went():
    bound = {"value": 100.0, "units": 10.0, "compute_wh": 200.0, "capacity_wh": 100.0, "end_charge_frac": 0.7,
             "fractions": {"1": 1.0, "2": 1.0, "3": 0.5}, "values": {"1": 50.0, "2": 40.0, "3": 20.0}}
    row = {"units": 9.0, "compute_wh": 190.0, "end_charge_frac": 0.8,
           "states": {"1": JobState.FINISHED.name, "2": "REFUSED", "3": "FINISHED"}}
    shares = compare.losses({(1, "bound"): bound, (1, "flight"): row}, "flight", [1])
    assert shares == pytest.approx({"refused": 0.4, "gained": -0.1, "units_short": 0.1, "energy_short": 0.05,
                                    "charge_left": 0.05})


def test_a_fault_that_the_lean_loop_cannot_make_is_refused():
    flown = scenario.load(scenario.find("faults/power"))
    with pytest.raises(ConfigError, match=r"latch \(plant.latch_up\), early .* fly it with hil run"):
        lean.World.of(flown, run.surroundings(flown))

"""Campaigns: the same lines on every engine and after every interruption; what happens to a worker is a line too."""

import functools
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flightsw.errors import ConfigError
from hil import campaign, engines, random_faults
from hil.__main__ import main
from hil.engines import Lost
from hil.inject import FaultSpan
from hil.scenario import find, load

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["campaign", "campaign_iss", "--duration", "300 s", "--jobs", "2"]


def run(out: Path, *words: str) -> list[campaign.Line]:
    assert main([*SHORT, *words, "--out", str(out)]) == 0
    return sorted(campaign.read_lines(out), key=lambda line: line["run"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("campaign") / "whole.jsonl", "--runs", "3", "--random-faults", "1")


def test_every_run_has_its_own_seed_satellite_and_fault(whole, capsys):
    assert [line["run"] for line in whole] == [0, 1, 2]
    assert [line["seed"] for line in whole] == [campaign.seed_of(1, number) for number in range(3)]
    assert len({line["drawn"]["jobs.overload"] for line in whole}) == 3
    assert all(len(line["faults"]) <= 1 for line in whole)
    assert {line["outcome"] for line in whole} <= {"PASS", "FAIL", "INCONCLUSIVE"}


def test_shards_merged_are_the_whole_campaign_octet_for_octet(whole, tmp_path, capsys):
    for shard in ("1/2", "2/2"):
        run(tmp_path / shard[0], "--runs", "3", "--random-faults", "1", "--shard", shard)
    assert main(["merge", str(tmp_path / "all"), str(tmp_path / "2"), str(tmp_path / "1"), str(tmp_path / "1")]) == 0
    assert campaign.read_lines(tmp_path / "all") == whole
    assert "runs              3:" in capsys.readouterr().out


def test_runs_that_differ_are_never_merged(whole):
    other = [whole[0] | {"promises_made": -1}]
    with pytest.raises(ConfigError, match="came out differently"):
        campaign.merge([whole, other])


def test_a_campaign_that_was_killed_goes_on_and_repeats_nothing(whole, tmp_path):
    out = tmp_path / "killed.jsonl"
    words = [*SHORT, "--runs", "3", "--random-faults", "1", "--jobs", "1", "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-m", "hil", *words], cwd=ROOT, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    give_up_s = time.monotonic() + 60.0
    while not (out.exists() and b"\n" in out.read_bytes()) and time.monotonic() < give_up_s:
        time.sleep(0.02)
    process.kill()
    process.wait()
    kept = out.read_bytes()
    first = kept[:kept.index(b"\n") + 1]
    out.write_bytes(kept + b'{"run": 9, "torn')
    assert run(out, "--runs", "3", "--random-faults", "1") == whole
    assert out.read_bytes().startswith(first)
    assert len(campaign.read_lines(out)) == 3


def test_one_writer_at_a_time(tmp_path, capsys):
    with campaign.Book(tmp_path / "book"):
        assert main([*SHORT, "--runs", "1", "--out", str(tmp_path / "book")]) == 2
    assert "is being written by another campaign" in capsys.readouterr().err


# --- engines -----------------------------------------------------------------------------------------


def misbehave(how: str) -> str:
    if how == "raise":
        raise ValueError("bad luck")
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hang":
        time.sleep(60.0)
    return how.upper()


def results_of(items, give_up_after_s):
    engine = engines.Processes(misbehave, 2, give_up_after_s)
    for item in items:
        engine.submit(item)
    results = dict(engine.as_completed())
    engine.close()
    assert results.keys() == set(items)
    return results


def test_workers_that_raise_or_die_are_counted_and_the_rest_is_done():
    results = results_of(["a", "raise", "b", "die", "c"], give_up_after_s=100.0)
    assert {item: results[item] for item in "abc"} == {item: item.upper() for item in "abc"}
    assert results["raise"] == Lost("crashed", "ValueError: bad luck")
    assert results["die"] == Lost("crashed", "its process ended")


def test_a_worker_that_hangs_is_counted():
    assert results_of(["hang"], give_up_after_s=1.0)["hang"] == Lost("timed out", "no result within 1 s")


def test_a_run_that_takes_too_long_or_breaks_is_a_line(tmp_path, capsys):
    assert main([*SHORT, "--runs", "1", "--limit", "0", "--out", str(tmp_path / "late")]) == campaign.EXIT_CROSSED
    (line,) = campaign.read_lines(tmp_path / "late")
    assert (line["outcome"], line["detail"]) == ("timed out", "took longer than 0 s")
    said = capsys.readouterr().out
    assert "1 timed out" in said
    assert f"hil run campaign_iss --duration '300 s' --seed {line['seed']}" in said


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="dask.distributed is not installed")
def test_two_dask_workers_give_the_same_lines(whole, tmp_path):
    script = tmp_path / "cluster.py"
    script.write_text(
        "from distributed import LocalCluster\nimport sys\nif __name__ == '__main__':\n"
        "    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)\n"
        "    print(cluster.scheduler_address, flush=True)\n    sys.stdin.read()\n    cluster.close()\n")
    cluster = subprocess.Popen([sys.executable, str(script)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True)
    try:
        address = cluster.stdout.readline().strip().removeprefix("tcp://")
        words = [sys.executable, "-m", "hil", *SHORT, "--runs", "3", "--random-faults", "1", "--engine",
                 f"dask://{address}", "--out", str(tmp_path / "dask")]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120.0, check=False)
    finally:
        cluster.communicate()
    assert done.returncode == 0, done.stderr
    assert sorted(campaign.read_lines(tmp_path / "dask"), key=lambda line: line["run"]) == whole


def test_an_engine_that_is_not_there_is_said(tmp_path, capsys):
    assert main([*SHORT, "--runs", "1", "--engine", "slurm://here", "--out", str(tmp_path / "a")]) == 2
    assert "expected dask://HOST:PORT" in capsys.readouterr().err


# --- numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("passed", "total", "low", "high"), [
    (0, 0, 0.0, 1.0), (10, 10, 0.7225, 1.0), (0, 10, 0.0, 0.2775), (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I
])
def test_the_interval_of_a_rate_is_wilsons(passed, total, low, high):
    assert campaign.wilson(passed, total) == pytest.approx((low, high), abs=1e-4)


def test_seeds_of_two_campaigns_have_nothing_in_common():
    seeds = {campaign.seed_of(campaign_seed, number) for campaign_seed in (1, 2) for number in range(5000)}
    assert len(seeds) > 9990  # of 2**32


def line(**changed):
    return {"run": 1, "scenario": "ab", "seed": 5, "outcome": "PASS", "detail": "", "orbits": 2.0, "limits_crossed": 0,
            "promises_made": 3, "promises_broken": 0, "faults": [], "work_finished_units": 100.0, "value_frac": 0.5,
            "battery_soc_frac_min": 0.8, "margin": 0.1, **changed}


def test_the_worst_come_first_with_the_command_that_flies_them_again():
    lines = [line(run=1), line(run=2, seed=22, outcome="FAIL", margin=0.05, detail="promises: 1"),
             line(run=3, seed=33, outcome="FAIL", limits_crossed=1, margin=-0.2, detail="limit.floor: by 0.2")]
    said = "\n".join(campaign.summary(lines, "hil run x"))
    assert said.index("hil run x --seed 33") < said.index("hil run x --seed 22")
    assert "limits crossed    1 in 1 runs" in said
    assert "--seed 5" not in said


def test_a_fault_that_was_neither_noticed_nor_harmless_is_named():
    fault = {"id": "random0", "kind": "sensor.bias", "target": "plate_c", "from_s": 950.0, "to_s": 990.0,
             "noticed_by": [], "is_harmless": False}
    said = campaign.summary([line(faults=[fault], outcome="FAIL", limits_crossed=1)], "hil run x")
    assert any("neither           run 1 seed 5 random0 (sensor.bias plate_c at T+950 s)" in each for each in said)


def test_a_sweep_resizes_truth_and_belief_alike_and_is_summed_up():
    scenario = load(find("campaign_iss"))
    big = campaign.resized(scenario, {"battery_wh": 2.0 * scenario.mission.battery.capacity_wh, "array_m2": 1.0})
    assert big.mission.battery.capacity_wh == 2.0 * scenario.mission.battery.capacity_wh
    assert big.truth.battery.capacity_wh == pytest.approx(2.0 * scenario.truth.battery.capacity_wh)
    assert big.truth.array.area_m2 == pytest.approx(scenario.truth.array.area_m2 / scenario.mission.array.area_m2)
    assert big.mission.thermal == scenario.mission.thermal
    runs = ((100.0, 50.0), (100.0, 70.0), (200.0, 90.0))
    lines = [line(battery_wh=wh, work_finished_units=work) for wh, work in runs]
    table = campaign.sizing(lines, ["battery_wh"])
    assert table[1].split()[:3] == ["100", "2", "30"]
    assert table[2].split()[:3] == ["200", "1", "45"]


def test_a_sweep_draws_a_plot(tmp_path):
    lines = [line(battery_wh=wh, array_m2=a, work_finished_units=wh * a) for wh in (100.0, 200.0) for a in (0.5, 1.0)]
    campaign.plot_sizing(lines, ["battery_wh", "array_m2"], tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert "<!-- battery, Wh -->" in drawn
    assert "<!-- least charge, % -->" in drawn
    assert "<!-- array, m²: 0.5 -->" in drawn


@pytest.mark.parametrize(("words", "complaint"), [
    (["--shard", "4/3"], "expected I/N"),
    (["--sweep", "battery_wh=300:100:50"], "expected one of battery_wh"),
    (["--sweep", "mass_kg=1:2:1"], "expected one of battery_wh"),
    (["--runs", "0"], "1 or more is expected"),
])
def test_wrong_use_is_said(words, complaint, capsys):
    with pytest.raises(SystemExit):
        main([*SHORT, "--runs", "1", *words])
    assert complaint in capsys.readouterr().err


# --- random faults -----------------------------------------------------------------------------------


def test_random_faults_hang_on_the_seed_alone_and_stay_within_the_library():
    scenario = load(find("campaign_iss"))
    first = random_faults.add(scenario, 300)
    assert first.faults == random_faults.add(scenario, 300).faults
    assert first.faults != random_faults.add(load(find("campaign_iss"), seed=2), 300).faults
    from hil.faults import LIBRARY
    assert {step.kind for step in first.faults} == set(random_faults.kinds())
    for step in first.faults:
        row = LIBRARY[step.kind]
        targets = row.targets(4)
        assert step.target in targets if targets else step.target == ""
        for param in row.params:
            assert param.low <= step.values[param.name] <= param.high, step


class Flown:
    def __init__(self, events, metrics=None):
        self.start_unix_s = 1000.0
        self.events, self.spans = events, [FaultSpan("f", "sensor.bias", "plate_c", 900.0, 960.0)]
        self.metrics = {"limits_crossed": 0, "promises_broken": 0, "failed_ticks": 0} | (metrics or {})


class Entry:
    def __init__(self, name, at_s, *args, severity=3, heard_s=None):
        self.name, self.obt_s, self.args, self.severity = name, 1000.0 + at_s, args, severity
        self.received_s = 1000.0 + (at_s if heard_s is None else heard_s)


def test_what_names_the_sensor_in_time_is_notice_and_what_happens_anyway_is_none():
    told = functools.partial(random_faults.outcomes)
    assert told(Flown([Entry("sensor_lost", 930.0, "plate_c", "STALE")]))[0].noticed_by == ("sensor_lost",)
    assert told(Flown([Entry("sensor_lost", 930.0, "bus_c", "STALE")]))[0].noticed_by == ()
    assert told(Flown([Entry("sensor_lost", 100.0, "plate_c", "STALE")]))[0].noticed_by == ()
    crossed = Flown([Entry("shed", 1000.0), Entry("low_charge", 1000.0)], {"limits_crossed": 1})
    assert random_faults.untold(told(crossed))
    assert told(crossed, Flown([Entry("low_charge", 1000.0)]))[0].noticed_by == ("shed",)


def test_events_are_in_time_by_the_rigs_clock_whatever_the_boards_has_done():
    """A step an hour ahead tells of itself, and does not hide what comes after."""
    flown = Flown([Entry("clock_stepped", 4500.0, 3600.0), Entry("sensor_lost", 4550.0, "plate_c", "STALE")])
    flown.spans.append(FaultSpan("c", "board.clock_step", "", 900.0, 901.0))
    assert [each.noticed_by for each in random_faults.outcomes(flown)] == [("sensor_lost",), ("clock_stepped",)]


def test_a_start_counts_when_it_is_heard_as_its_stamp_is_from_before_the_kill():
    flown = Flown([Entry("boot", 880.0, 2, "COMPUTE", severity=1, heard_s=961.0)])
    flown.spans = [FaultSpan("k", "board.sigkill", "", 900.0, 960.0)]
    assert random_faults.outcomes(flown)[0].noticed_by == ("boot",)


def test_what_happens_every_day_is_no_notice_whatever_it_names():
    flown = Flown([Entry("job_started", 930.0, 1000002, 2, severity=1), Entry("sun_missing", 930.0)])
    flown.spans = [FaultSpan("f", "plant.latch_up", "2", 900.0, 960.0),
                   FaultSpan("g", "plant.eclipse_early", "", 900.0, 960.0)]
    assert [each.noticed_by for each in random_faults.outcomes(flown)] == [(), ("sun_missing",)]


def test_a_fault_that_nothing_told_of_is_flown_alone(monkeypatch):
    """Two faults, one of which crossed a limit: of the other, alone, everything is well."""
    scenario = random_faults.add(load(find("campaign_iss"), duration="2000 s"), 2)
    flights = []

    def flown(scenario, _advanced):
        flights.append([step.id for step in scenario.faults])
        result = Flown([], {"limits_crossed": int("random0" in flights[-1])})
        result.spans = [FaultSpan(step.id, "sensor.bias", "plate_c", 0.0, 1.0) for step in scenario.faults]
        return result

    monkeypatch.setattr(campaign, "_flown", flown)
    found = campaign._told(scenario, flown(scenario, None), None)
    assert flights == [["random0", "random1"], [], ["random0"], ["random1"]]
    assert [each.is_harmless for each in found] == [False, True]
    assert [each.id for each in random_faults.untold(found)] == ["random0"]

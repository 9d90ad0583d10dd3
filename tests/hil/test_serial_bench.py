"""The serial bench end to end: the real flight program, guardian and jobs as processes behind real ports."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hil.__main__ import main
from hil.serial_bench import CapFiles, RealLoad, SerialBench, properties_of, punctuality
from hil.verdict import Finding, Verdict, overall

ROOT = Path(__file__).resolve().parents[2]
SCENARIO = """
id = "serial_test"
description = "Short run for the test of the serial bench"
mission = "{root}/missions/iss_like.toml"
truth = "{root}/hil/plant/compsat_16u.toml"
duration = "{duration} s"
seed = 7
[link]
bit_error_rate = 1e-6
contact = "always"
{ground}
"""


def scenario_file(folder: Path, duration_s: int, **at_s: int) -> Path:
    """Write a scenario that sends each of `at_s`, verb and arguments joined by `__`, at its second."""
    ground = "\n".join(f'[[ground]]\nat = "T+{second} s"\nsend = "{send.replace("__", " ")}"'
                       for send, second in at_s.items())
    path = folder / "serial_test.toml"
    path.write_text(SCENARIO.format(root=ROOT, duration=duration_s, ground=ground))
    return path


def small_jobs(folder: Path, units: int) -> Path:
    """Copy an example job, cut down to `units`."""
    bundle = folder / "bundles" / "telemetry_pack"
    shutil.copytree(ROOT / "examples" / "jobs" / "telemetry_pack", bundle)
    manifest = bundle / "job.toml"
    manifest.write_text(re.sub(r"(?m)^units = \d+", f"units = {units}", manifest.read_text()))
    return bundle.parent


def verdicts(folder: Path, code: int) -> dict[str, str]:
    """Verdicts of the run's checks; how evenly this machine kept the plant's time is not judged here."""
    run = json.loads((folder / "run.json").read_text())
    assert (code == 0) == (run["verdict"] == "PASS")
    return {name: check["verdict"] for name, check in run["checks"].items() if name != "bench"}


def processes_in(folder: Path) -> list[str]:
    """Command lines of all processes that name `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words:
            found.append(words)
    return found


def test_telemetry_commands_and_a_throttled_job_end_to_end(tmp_path, capsys):
    scenario = scenario_file(tmp_path, 2800, **{
        "ping": 8, "mode__STANDBY": 12, "param.set__payload_max_w__18": 14, "mode__COMPUTE": 16,
        "job.submit__11__telemetry_pack__30__0.95__3__3000__STOP_CONTINUE": 20})
    with scenario.open("a") as file:
        file.write('[[fault]]\nid = "forks"\nat = "T+24 s"\nkind = "job.hostile"\ntarget = "fork_bomb"\n')
    out = tmp_path / "out"
    code = main(["serial", str(scenario), "--rate", "10", "--out", str(out), "--jobs", str(small_jobs(tmp_path, 6)),
                 "--until-done", "--check-results"])
    said = capsys.readouterr().out
    assert verdicts(out / "latest", code) == dict.fromkeys(
        ("telemetry", "attack forks", "telecommands", "jobs", "results", "orderly end"), "PASS"), said
    assert "attack forks: fork_bomb: HELD after" in said
    suite = ElementTree.parse(out / "latest" / "junit.xml").getroot()
    properties = {each.get("name"): each.get("value") for each in suite.find("properties")}
    assert {"overruns", "plant_late_p99.9_ms", "flight_late_max_ms", "plant_scheduling"} <= properties.keys()
    assert {"attack forks", "bench"} <= {case.get("name") for case in suite.findall("testcase")}
    run = json.loads((out / "latest" / "run.json").read_text())
    assert {"power", "thermal", "nodes_a", "health"} <= run["structures_received"].keys()
    assert run["telecommands_sent"] == 6
    assert run["events_received"]["job_finished"] == 2
    assert run["job_processes"]["11"] == 1
    # 18 W for all nodes allow the 15 W mode, which is 0.70 / 1.18 of the time: never more, however fast the machine.
    assert 0.0 < run["job_node_s"] <= 1.15 * run["job_node_s_allowed"]
    assert "node0_mode=3" in said
    commands = json.loads((out / "latest" / "timing.json").read_text())["commands"]
    assert [c["state"] for c in commands if c["verb"] == "ping"] == ["accepted", "completed"]
    assert "event INFO job_finished: Job 11 finished, 300 units" in said
    assert "power: mode=COMPUTE" in said
    assert processes_in(tmp_path) == []


def test_killing_the_supervisor_drops_the_caps_within_the_lease_and_loses_no_job(tmp_path, capsys):
    scenario = scenario_file(tmp_path, 2800, **{
        "mode__STANDBY": 6, "mode__COMPUTE": 10,
        "job.submit__11__telemetry_pack__30__0.95__3__3000__STOP_CONTINUE": 14})
    out = tmp_path / "out"
    code = main(["serial", str(scenario), "--rate", "8", "--out", str(out), "--jobs", str(small_jobs(tmp_path, 24)),
                 "--kill-supervisor-at", "30", "--restart-after", "30", "--until-done"])
    said = capsys.readouterr().out
    assert verdicts(out / "latest", code) == dict.fromkeys(
        ("telemetry", "telecommands", "jobs", "caps after kill", "jobs after kill", "jobs after restart",
         "orderly end"), "PASS"), said
    checks = json.loads((out / "latest" / "run.json").read_text())["checks"]
    kill = json.loads((out / "latest" / "timing.json").read_text())["kill"]
    assert kill["lease_s"] == 2.5
    assert 0.0 < kill["floor_after_s"] <= kill["lease_s"] + 0.25
    assert checks["jobs after restart"]["detail"] == "acknowledged before: 11 FINISHED"
    assert processes_in(tmp_path) == []


def test_an_interrupted_bench_leaves_nothing_behind(tmp_path):
    scenario = scenario_file(tmp_path, 600, ping=8)
    process = subprocess.Popen([sys.executable, "-m", "hil", "serial", str(scenario), "--out", str(tmp_path / "out"),
                                "--rate", "5"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "event INFO boot" in line:
                break
        process.send_signal(signal.SIGTERM)
        _, complaint = process.communicate(timeout=20.0)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert complaint.splitlines() == ["hil serial: interrupted"]
    assert processes_in(tmp_path) == []


def test_a_flight_program_that_cannot_start_is_an_error_with_its_own_words(tmp_path, capsys):
    scenario = scenario_file(tmp_path, 60, ping=8)
    (tmp_path / "out" / "serial_test-7-001").mkdir(parents=True)  # taken: the bench takes the next
    flight = tmp_path / "out" / "serial_test-7-002" / "flight"

    def occupy(self):
        flight.write_text("in the way")
        return original(self)

    original = SerialBench.fly
    SerialBench.fly = occupy
    try:
        assert main(["serial", str(scenario), "--out", str(tmp_path / "out")]) == 1
    finally:
        SerialBench.fly = original
    said = capsys.readouterr().out
    assert re.search(r"ERROR +bench: the flight program ended: flightsw run: .*flight: cannot be made", said)


@pytest.mark.parametrize(("extra", "words"), [
    (["--rate", "0"], "--rate: 0 is out of range (range 0.1..20)"),
    (["--restart-after", "5"], "--restart-after: needs --kill-supervisor-at"),
    (["--duration", "5"], "duration = '5 s' is 5 s, out of range"),
])
def test_wrong_use_is_one_line(tmp_path, capsys, extra, words):
    assert main(["serial", str(scenario_file(tmp_path, 60, ping=8)), *extra]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_caps_come_from_the_guardians_files_and_the_last_word_counts(tmp_path):
    caps = CapFiles(tmp_path, [0.5, 0.5])
    assert caps.read_w() == [0.5, 0.5]
    (tmp_path / "node1_cap_mw").write_text("25000\n")
    assert [node.cap_w for node in caps.status(0.0).nodes] == [0.5, 25.0]
    (tmp_path / "node1_cap_mw").write_text("")
    assert caps.read_w() == [0.5, 25.0]


def test_a_job_draws_for_the_share_of_its_share_that_it_ran():
    load = RealLoad([0.0, 0.0, 0.4, 1.0], 4)
    load.modes = (2, 2, 3, 3)
    load.busy_frac = (0.4, 0.2, 0.0, 0.9)
    assert load.activities() == [1.0, 0.5, None, 0.9]
    load.work(0.0, 1.0, (0.4, 0.0, 1.0, 1.0))
    assert load.ran_s == pytest.approx(1.3)
    assert load.allowed_s == pytest.approx(2.4)


def test_the_result_says_how_punctual_both_loops_were_and_under_what():
    summary = {"ticks": 300, "overruns": 1, "p50_ms": 0.3, "p99_ms": 10.1, "p99.9_ms": 52.4, "max_ms": 156.9,
               "drift_ms": -0.02}
    timing = {"rate": 10.0, "period_ms": 100.0, "plant": summary | {"scheduling": "SCHED_FIFO 40, memory locked"},
              "flight_software": summary | {"left_out": 2, "scheduling": "no SCHED_FIFO (Operation not permitted)"},
              "clock_of_flight_software": {"echoes": 30, "drift_ppm": -21.6, "offset_spread_ms": 0.459}}
    head, plant, flight, clocks, *under = punctuality(timing)
    assert head.split() == ["period", "100", "ms", "ticks", "overruns", "p50", "ms", "p99", "ms", "p99.9", "ms", "max",
                            "ms", "drift", "ms"]
    assert plant.split() == ["plant", "300", "1", "0.300", "10.100", "52.400", "156.900", "-0.020"]
    assert flight.split()[:4] == ["flight", "software", "300", "2"]
    assert "drifting -21.600 ppm" in clocks
    assert "SCHED_FIFO 40, memory locked" in under[0]
    assert "not permitted" in under[1]
    said = properties_of(timing)
    assert (said["overruns"], said["plant_overruns"], said["flight_overruns"]) == ("3", "1", "2")
    assert said["plant_late_p99.9_ms"] == "52.4"


def test_the_worst_check_is_the_verdict():
    checks = [Finding(verdict.name, verdict, "") for verdict in Verdict]
    assert overall(checks) is Verdict.ERROR
    assert overall(checks[:2]) is Verdict.FAIL
    assert overall([checks[0], checks[2]]) is Verdict.INCONCLUSIVE
    assert overall(checks[:1]) is Verdict.PASS
    assert overall([]) is Verdict.PASS

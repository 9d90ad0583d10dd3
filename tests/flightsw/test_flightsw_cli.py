"""The flight program's command line: what it says of missions and sensors, and what it says when it cannot fly."""

import json
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flightsw import mission as mission_file
from flightsw.__main__ import EXIT_DEVICE, EXIT_OK, EXIT_USAGE, consequences, main
from flightsw.clock import MonotonicClock
from flightsw.dictionary.sensors import fitted_names
from flightsw.errors import BoardError
from flightsw.executive import resume_time_s
from flightsw.facts import FactFile
from hil.channel import PtyLine

ROOT = Path(__file__).resolve().parents[2]
MISSION = ROOT / "missions" / "iss_like.toml"


def complaint(capsys, argv, code):
    """Run the program, expect `code`, and return the one line that it wrote to standard error."""
    try:
        ended = main(argv)
    except SystemExit as end:
        ended = end.code
    written = capsys.readouterr()
    assert ended == code, written.err
    assert "Traceback" not in written.err + written.out
    (line,) = [line for line in written.err.splitlines() if "THE LINK IS IN CLEAR" not in line]
    return line


def test_check_says_what_a_mission_means(capsys):
    assert main(["check", str(MISSION)]) == EXIT_OK
    said = capsys.readouterr().out
    assert re.search(r"period 92\.9\d min, 15\.4\d orbits a day", said)
    assert re.search(r"eclipses of the first day: 1[56], 3[5-7]\.\d to 3[5-7]\.\d min", said)
    assert "passes over Weilheim above 5 deg: 5" in said
    assert re.search(r"work at that plan: \d{4,} units an orbit", said)


@pytest.mark.parametrize(("change", "words"), [
    (("capacity_wh = 145.0", "capacity_wh = -1.0"), "battery.capacity_wh = -1.0"),
    (("[battery]", "[battery]\ncolour = 3"), "battery.colour"),
    (("15.48795447", "15.48795448"), "orbit.tle"),
    (("2026-03-20T12:00:00Z", "yesterday"), "orbit.start_utc = 'yesterday'"),
    (("[battery]", "[battery"), "is not valid TOML"),
])
def test_a_bad_mission_is_one_line_that_names_file_key_and_value(tmp_path, capsys, change, words):
    path = tmp_path / "bad.toml"
    text = MISSION.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    for argv in (["check", str(path)], ["run", "--mission", str(path), "--port", "/dev/null"]):
        line = complaint(capsys, argv, EXIT_USAGE)
        assert str(path) in line
        assert words in line


def test_several_problems_are_still_one_line(tmp_path, capsys):
    path = tmp_path / "bad.toml"
    path.write_text(MISSION.read_text().replace("capacity_wh = 145.0", "capacity_wh = -1.0").replace(
        "nodes = 4", "nodes = 40"))
    line = complaint(capsys, ["check", str(path)], EXIT_USAGE)
    assert "capacity_wh" in line
    assert "compute.nodes" in line


def run_with(tmp_path, *extra):
    return ["run", "--mission", str(MISSION), "--state", str(tmp_path / "state"), "--clear", *extra]


def test_it_does_not_fly_without_keys_unless_told_to_and_then_it_shouts(tmp_path, capsys):
    argv = ["run", "--mission", str(MISSION), "--state", str(tmp_path / "s"), "--keys", str(tmp_path / "none"),
            "--port", str(tmp_path / "no-port")]
    said = complaint(capsys, argv, EXIT_USAGE)
    assert said == f"flightsw run: {tmp_path / 'none'}: cannot be read: No such file or directory"
    assert main([*argv, "--clear"]) == EXIT_DEVICE
    assert "THE LINK IS IN CLEAR. Anyone at the line can command" in capsys.readouterr().err
    bench = tmp_path / "bench.toml"
    bench.write_text(MISSION.read_text().replace('framing = "cadu"', 'framing = "cobs"'))
    assert main([*argv[:2], str(bench), *argv[3:]]) == EXIT_USAGE
    assert "TELEMETRY IS IN CLEAR with framing 'cobs'" in capsys.readouterr().err


@pytest.mark.parametrize(("argv", "code", "words"), [
    ([], EXIT_USAGE, "COMMAND"),
    (["fly"], EXIT_USAGE, "invalid choice: 'fly'"),
    (["check", "/no/such.toml"], EXIT_USAGE, "/no/such.toml: cannot be read"),
    (["run", "--port", "/dev/null"], EXIT_USAGE, "--mission"),
    (["sensors", "--board", "toaster"], EXIT_USAGE, "invalid choice: 'toaster'"),
    (["sensors", "--board-file", "/no/board.toml"], EXIT_USAGE, "/no/board.toml: cannot be read"),
])
def test_wrong_use_is_one_line(capsys, argv, code, words):
    assert words in complaint(capsys, argv, code)


@pytest.mark.parametrize(("extra", "code", "words"), [
    (["--port", "/dev/no_such_port"], EXIT_DEVICE, "serial port /dev/no_such_port at 115200 baud: no such port"),
    (["--port", "/dev/null"], EXIT_DEVICE, "serial port /dev/null"),
    (["--port", "/dev/null", "--rate", "10"], EXIT_USAGE, "--rate: 10 needs --rig-port"),
    (["--port", "/dev/null", "--rate", "fast"], EXIT_USAGE, "'fast': a number above 0"),
    (["--port", "/dev/null", "--rate", "0"], EXIT_USAGE, "'0': a number above 0"),
    (["--port", "/dev/null", "--board-file", "/no/board.toml"], EXIT_USAGE, "/no/board.toml"),
])
def test_what_cannot_fly_says_why_in_one_line(tmp_path, capsys, extra, code, words):
    assert words in complaint(capsys, run_with(tmp_path, *extra), code)


def test_a_state_folder_that_cannot_be_made_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    argv = ["run", "--mission", str(MISSION), "--port", "/dev/null", "--state", str(tmp_path / "file" / "state")]
    assert "cannot be made" in complaint(capsys, argv, EXIT_USAGE)


def test_damaged_facts_do_not_fly(tmp_path, capsys):
    state = tmp_path / "state"
    state.mkdir()
    for copy in "abc":
        (state / f"facts-{copy}").write_bytes(b"rot")
    with PtyLine(115200) as line:
        assert "facts" in complaint(capsys, run_with(tmp_path, "--port", line.port_a), EXIT_DEVICE)


def test_sensors_reports_each_device_with_its_value_and_what_is_missing(tmp_path, capsys):
    files = {"class/thermal/thermal_zone0/type": "cpu-thermal", "class/thermal/thermal_zone0/temp": "48312",
             "firmware/devicetree/base/model": "Raspberry Pi 5 Model B Rev 1.0\0"}
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert main(["sensors", "--sysfs", str(tmp_path), "--mission", str(MISSION)]) == EXIT_OK
    said = capsys.readouterr().out
    assert "die0_c            thermal zone cpu-thermal (class/thermal/thermal_zone0/temp) = 48.312 degC" in said
    assert "ina260" in said  # the device tree made it look for a Raspberry Pi's monitors
    assert "STATE_UNKNOWN" in said
    assert "no die3_c: compute node 3 stays off" in said
    assert "no die0_c" not in said


def test_consequences_follow_the_estimator():
    mission = mission_file.load(MISSION)
    everything = frozenset(fitted_names(4))
    assert consequences(everything, mission) == ["every sensor that compute needs is there"]
    assert consequences(everything - {"die2_c"}, mission) == ["no die2_c: compute node 2 stays off"]
    (line,) = consequences(everything - {"battery_soc_frac"}, mission)
    assert line.startswith("no battery_soc_frac: the state is not known")
    assert consequences(everything - {"array_w"}, mission)[0].startswith("no array_w: telemetry")


def test_time_goes_on_after_a_restart_and_never_back(tmp_path):
    assert resume_time_s(tmp_path, 0.0, 1000.0) == 0.0
    assert resume_time_s(tmp_path, 0.0, 1000.0) > 0.0  # only the program was restarted: the machine's clock knows
    assert resume_time_s(tmp_path, 1e9, 1000.0) == 1e9  # what was noted durably is never undone
    assert resume_time_s(tmp_path, 5.0, 2.0) == 5.0  # another rate: the anchor says nothing
    anchor = json.loads((tmp_path / "clock.json").read_text())
    (tmp_path / "clock.json").write_text(json.dumps(anchor | {"boot_id": "another boot"}))
    assert resume_time_s(tmp_path, 5.0, 2.0) == 5.0
    (tmp_path / "clock.json").write_text("rot")
    assert resume_time_s(tmp_path, 5.0, 2.0) == 5.0
    with pytest.raises(BoardError, match="No such file"):
        resume_time_s(tmp_path / "missing", 5.0, 2.0)


def test_clock_goes_on_from_a_given_time_and_wakes_for_octets():
    clock = MonotonicClock(rate=100.0, start_s=5000.0)
    assert 5000.0 <= clock.now_s() < 6000.0
    read, write = os.pipe()
    try:
        assert not clock.wait_ready(clock.now_s() + 0.1, [read], [])
        os.write(write, b"x")
        assert clock.wait_ready(clock.now_s() + 1e6, [read], [])
    finally:
        os.close(read)
        os.close(write)


def test_it_flies_without_sensors_and_ends_in_order_on_sigterm(tmp_path):
    with PtyLine(115200) as line:
        argv = [sys.executable, "-m", "flightsw", *run_with(tmp_path, "--port", line.port_a, "--sysfs", str(tmp_path),
                                                            "--run-dir", str(tmp_path / "r"), "--always-transmit")]
        ground = os.open(line.port_b, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
        process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            while not select.select([ground], [], [], 0.5)[0]:  # until telemetry comes
                assert process.poll() is None, process.communicate()[0].decode()
            cap = tmp_path / "r" / "node0_cap_mw"
            assert cap.read_text() == "500\n"
            second = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=200.0, check=False)
            assert second.returncode == EXIT_DEVICE
            assert second.stderr == f"flightsw run: {tmp_path / 'state'} is in use by another flight program\n"
            assert (tmp_path / "r" / "guardian.sock").exists()  # the first one's guardian is left alone
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=200.0)[0].decode()
        finally:
            process.kill()
            process.wait()
            os.close(ground)
    assert process.returncode == EXIT_OK, said
    assert "STATE_UNKNOWN" in said
    assert "ended as asked" in said
    assert not (tmp_path / "r" / "guardian.sock").exists()
    assert FactFile(tmp_path / "state").facts.boot_count == 1


def test_a_plant_that_does_not_answer_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("flightsw.__main__._PLANT_ANSWERS_WITHIN_S", 0.2)
    with PtyLine(115200) as line, PtyLine(115200) as rig:
        argv = run_with(tmp_path, "--port", line.port_a, "--rig-port", rig.port_a, "--run-dir", str(tmp_path / "r"))
        assert "no plant answered within 0.2 s" in complaint(capsys, argv, EXIT_DEVICE)
    assert not (tmp_path / "r" / "guardian.sock").exists()  # nothing is left running

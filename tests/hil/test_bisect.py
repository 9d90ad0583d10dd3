"""Two runs that part: the first tick, and the name of what differs."""

import math
from pathlib import Path

import pytest

from flightsw import recorder
from flightsw.dictionary.sensors import INDEX
from flightsw.recorder import read_recording
from hil import benches, bisect, run
from hil.__main__ import main
from hil.scenario import find, load

TICKS = 400


@pytest.fixture(scope="module")
def flown(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bisect")
    scenario = load(find("short_iss"), duration=f"{TICKS} s")
    with benches.sil_framed(scenario, folder) as connect:
        return run.fly(scenario, folder, connect=connect, bench="sil-framed").folder


def bent(flown: Path, path: Path, change, until: int = 10**9) -> Path:
    """Copy a recording, changed by `change(inputs, fingerprint)`."""
    start, ticks = read_recording(run.find_recording(flown))
    copy = recorder.Recorder(path, start, 10**9)
    for number, (inputs, decided) in enumerate(ticks):
        if number < until:
            copy.record(*change(inputs, decided))
    copy.close()
    return path


def test_a_run_is_the_same_as_itself(flown, capsys):
    assert main(["bisect", str(flown), str(flown)]) == 0
    assert capsys.readouterr().out == f"{TICKS} ticks are the same\n"


def test_another_reading_is_named_with_what_came_of_it(flown, tmp_path, capsys):
    i = INDEX["plate_c"]

    def warmer(inputs, decided):
        readings = inputs.readings
        if inputs.now_s < 123.0:
            return inputs, decided
        values = (*readings.values[:i], readings.values[i] + 1.5, *readings.values[i + 1:])
        return inputs._replace(readings=readings._replace(values=values)), decided

    assert main(["bisect", str(flown), str(bent(flown, tmp_path / "b", warmer))]) == 1
    said = capsys.readouterr().out
    assert said.startswith("the first 123 ticks are the same; the runs part at T+123 s:\n  reading plate_c\n    A ")
    assert "  estimate.temperature_k[" in said
    assert "reading radiator_c" not in said


def test_another_decision_from_the_same_inputs_is_told_from_ours(flown, tmp_path, capsys):
    copy = bent(flown, tmp_path / "b", lambda inputs, decided: (inputs, decided ^ (inputs.now_s == 50.0)))
    assert main(["bisect", str(flown), str(copy)]) == 1
    said = capsys.readouterr().out
    assert "part at T+50 s" in said
    assert "this flight software decides like A" in said
    assert main(["bisect", str(copy), str(flown)]) == 1
    assert "this flight software decides like B" in capsys.readouterr().out


def test_a_run_that_ends_early_and_another_mission_are_said(flown, tmp_path, capsys):
    short = bent(flown, tmp_path / "short", lambda *same: same, until=100)
    assert main(["bisect", str(flown), str(short)]) == 1
    assert "the same for 100 ticks; then B ends" in capsys.readouterr().out
    start, _ = read_recording(run.find_recording(flown))
    other = start._replace(mission_toml=start.mission_toml.replace("iss_like", "another", 1))
    recorder.Recorder(tmp_path / "other", other, 10**9).close()
    assert main(["bisect", str(flown), str(tmp_path / "other")]) == 1
    assert "mission, line " in capsys.readouterr().out


def test_command_logs_do_where_the_recording_stayed_on_the_board(flown, tmp_path, capsys):
    log = bytearray((flown / benches.COMMANDS).read_bytes())
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / benches.COMMANDS).write_bytes(log)
    log[4 * 77] ^= 1
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / benches.COMMANDS).write_bytes(log)
    assert main(["bisect", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert "the first 77 ticks are the same; the runs part at T+77 s" in capsys.readouterr().out
    assert main(["bisect", str(tmp_path / "a"), str(tmp_path)]) == 2


def test_replays_are_the_same_to_the_last_bit(flown, tmp_path, capsys):
    assert main(["replay", str(flown), "--times", "3"]) == 0
    said = capsys.readouterr().out
    assert f"3 replays of {TICKS} ticks: 1 outcome, 0 diverged from what flew" in said
    assert "(3 times)" in said
    copy = bent(flown, tmp_path / "b", lambda inputs, decided: (inputs, decided ^ (inputs.now_s == 50.0)))
    assert main(["replay", str(copy), "--times", "2"]) == 1
    assert "2 diverged from what flew" in capsys.readouterr().out


def test_a_digest_tells_neighbouring_floats_apart(flown, tmp_path):
    i = INDEX["battery_v"]

    def nudged(inputs, decided):
        readings = inputs.readings
        if inputs.now_s != 60.0 or readings.values[i] is None:
            return inputs, decided
        values = (*readings.values[:i], math.nextafter(readings.values[i], math.inf), *readings.values[i + 1:])
        return inputs._replace(readings=readings._replace(values=values)), decided

    assert bisect.digest(run.find_recording(flown)) == bisect.digest(run.find_recording(flown))
    parting = bisect.part(run.find_recording(flown), bent(flown, tmp_path / "b", nudged))
    assert parting is not None
    assert parting.differences[0].what == "reading battery_v"

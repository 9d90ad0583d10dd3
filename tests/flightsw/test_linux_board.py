"""The generic Linux board on sysfs trees of its own: units, matches, failures, reports, board files."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.board import jetson, linux, raspberry_pi
from flightsw.board.linux import Candidate, LinuxBoard, load_board_file, merge
from flightsw.dictionary.sensors import INDEX, SENSORS
from flightsw.errors import ConfigError


def put(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def read(board: LinuxBoard, name: str, now_s: float = 1.0):
    return board.read_sensors(now_s)[INDEX[name]]


def test_a_machine_without_devices_has_no_sensors_and_says_what_it_looked_for(tmp_path):
    board = LinuxBoard(linux.CANDIDATES, tmp_path, nodes=1)
    assert board.read_sensors(0.0) == (None,) * len(SENSORS)
    assert board.fitted == frozenset()
    lines = board.describe()
    assert len(lines) == 13
    assert all("not fitted" in line for line in lines)
    assert any("cpu-thermal" in line for line in lines)


def test_raspberry_pi_with_a_power_monitor_and_a_gauge(tmp_path):
    put(tmp_path, {
        "class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "class/thermal/thermal_zone0/temp": "48312\n",
        "class/hwmon/hwmon1/name": "ina219\n",
        "class/hwmon/hwmon1/power1_input": "21450000\n",
        "class/power_supply/max17048/type": "Battery\n",
        "class/power_supply/max17048/capacity": "87\n",
        "class/power_supply/max17048/voltage_now": "15870000\n",
        "class/power_supply/max17048/temp": "213\n",
    })
    board = LinuxBoard(raspberry_pi.CANDIDATES, tmp_path, nodes=1)
    expected = {"die0_c": 48.312, "bus_w": 21.45, "battery_soc_frac": 0.87, "battery_v": 15.87, "battery_c": 21.3}
    assert board.fitted == set(expected)
    for name, value in expected.items():
        reading = read(board, name, 7.0)
        assert reading.value == pytest.approx(value)
        assert reading.sampled_s == 7.0
    assert "thermal zone cpu-thermal (class/thermal/thermal_zone0/temp)" in "\n".join(board.describe())


@pytest.mark.parametrize("labels", [
    {"in1_label": "VDD_IN", "in2_label": "VDD_CPU_GPU_CV"},
    {"in1_label": "VDD_IN", "curr1_label": "VDD_IN"},
])
def test_jetson_rail_is_voltage_times_current(tmp_path, labels):
    put(tmp_path, {
        "class/thermal/thermal_zone8/type": "tj-thermal",
        "class/thermal/thermal_zone8/temp": "51500",
        "class/hwmon/hwmon3/name": "ina3221\n",
        **{f"class/hwmon/hwmon3/{file}": label + "\n" for file, label in labels.items()},
        "class/hwmon/hwmon3/in1_input": "5040\n", "class/hwmon/hwmon3/curr1_input": "1250\n",
        "class/hwmon/hwmon3/in2_input": "5032\n", "class/hwmon/hwmon3/curr2_input": "600\n",
    })
    board = LinuxBoard(jetson.CANDIDATES, tmp_path)
    assert read(board, "node0_w").value == pytest.approx(6.3)
    assert read(board, "die0_c").value == pytest.approx(51.5)
    (tmp_path / "class/hwmon/hwmon3/curr1_input").write_text("")
    assert read(board, "node0_w").value is None


def test_first_candidate_that_is_there_serves_and_a_board_file_comes_first(tmp_path):
    put(tmp_path, {
        "class/thermal/thermal_zone0/type": "acpitz", "class/thermal/thermal_zone0/temp": "20000",
        "class/hwmon/hwmon0/name": "k10temp", "class/hwmon/hwmon0/temp1_input": "61000",
        "devices/mcp9808/value": "612",
    })
    board = LinuxBoard(linux.CANDIDATES, tmp_path)
    assert read(board, "die0_c").value == 61.0
    own = put(tmp_path, {"board.toml": """
        watchdog = "/dev/watchdog0"
        [[sensor]]
        sensor = "die0_c"
        kind = "path"
        file = "devices/mcp9808/value"
        scale = 0.0625
        offset = -1.0
        [[cap]]
        node = 0
        path = "/sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw"
        unit = "uw"
    """}) / "board.toml"
    file = load_board_file(own)
    board = LinuxBoard(merge(linux.CANDIDATES, file.candidates), tmp_path)
    assert read(board, "die0_c").value == 612 * 0.0625 - 1.0
    assert file.guardian_options == (
        "--cap-path", "0=/sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw", "--cap-unit", "0=uw",
        "--watchdog", "/dev/watchdog0")


def meter(root: Path, energy_uj: object) -> LinuxBoard:
    put(root, {"class/powercap/intel-rapl:0/name": "package-0\n",
               "class/powercap/intel-rapl:0/energy_uj": f"{energy_uj}\n",
               "class/powercap/intel-rapl:0/max_energy_range_uj": "262143328850\n"})
    return LinuxBoard(linux.CANDIDATES, root)


def test_energy_counter_becomes_power_and_its_wrap_is_seen(tmp_path):
    board = meter(tmp_path, 262143000000)
    assert read(board, "node0_w", 10.0).value is None  # one sample of a counter is no power
    counter = tmp_path / "class/powercap/intel-rapl:0/energy_uj"
    counter.write_text("262143300000")
    assert read(board, "node0_w", 10.5).value == pytest.approx(0.6)
    counter.write_text("9971150")  # wrapped: 28,850 to the end of the range, 9,971,150 behind it
    assert read(board, "node0_w", 11.5).value == pytest.approx(10.0)
    counter.write_text("oops")
    assert read(board, "node0_w", 12.5).value is None
    counter.write_text("50000000")
    assert read(board, "node0_w", 13.5).value is None  # begins anew
    assert read(board, "node0_w", 13.5).value is None  # no time has passed
    assert read(board, "node0_w", 14.5).value == 0.0


def test_energy_counter_that_jumps_back_without_a_known_range_has_no_value(tmp_path):
    board = meter(tmp_path, 5000000)
    (tmp_path / "class/powercap/intel-rapl:0/max_energy_range_uj").unlink()
    read(board, "node0_w", 1.0)
    (tmp_path / "class/powercap/intel-rapl:0/energy_uj").write_text("10")
    assert read(board, "node0_w", 2.0).value is None


@pytest.mark.parametrize("content", [
    "", "\n", " ", "nan", "inf", "0x10", "1e3", "1_000", "48 c", "--5", "48\n49", "\0", "٤٨", "9" * 60, "12.",
])
def test_what_is_no_number_is_no_value(tmp_path, content):
    put(tmp_path, {"class/thermal/thermal_zone0/type": "cpu-thermal", "class/thermal/thermal_zone0/temp": content})
    reading = read(LinuxBoard(linux.CANDIDATES, tmp_path), "die0_c")
    assert reading.value is None
    assert reading.sampled_s == 1.0


@given(st.binary(max_size=80))
def test_no_content_raises(tmp_path_factory, content):
    root = tmp_path_factory.getbasetemp() / "fuzz"
    put(root, {"class/thermal/thermal_zone0/type": "cpu-thermal"})
    (root / "class/thermal/thermal_zone0/temp").write_bytes(content)
    reading = read(LinuxBoard(linux.CANDIDATES, root), "die0_c")
    assert reading.value is None or isinstance(reading.value, float)


def test_unreadable_devices_fail_and_never_raise_or_block(tmp_path):
    put(tmp_path, {"class/thermal/thermal_zone0/type": "cpu-thermal"})
    temp = tmp_path / "class/thermal/thermal_zone0/temp"
    temp.mkdir()
    assert read(LinuxBoard(linux.CANDIDATES, tmp_path), "die0_c").value is None
    temp.rmdir()
    os.mkfifo(temp)  # a device that would never answer
    assert read(LinuxBoard(linux.CANDIDATES, tmp_path), "die0_c").value is None


def test_a_device_that_goes_away_fails_and_is_found_again_under_another_number(tmp_path):
    put(tmp_path, {"class/hwmon/hwmon2/name": "k10temp", "class/hwmon/hwmon2/temp1_input": "50000"})
    board = LinuxBoard(linux.CANDIDATES, tmp_path)
    assert read(board, "die0_c", 0.0).value == 50.0
    (tmp_path / "class/hwmon/hwmon2").rename(tmp_path / "class/hwmon/hwmon5")
    assert read(board, "die0_c", 1.0).value is None  # fitted, and no value: not the last one
    assert read(board, "die0_c", 5.0).value is None
    assert read(board, "die0_c", 12.0).value is None  # looks for it now
    assert read(board, "die0_c", 13.0).value == 50.0


@pytest.mark.parametrize(("text", "words"), [
    ("[[sensor]]\nsensor = 'die9_c'\nkind = 'zone'\nmatch = 'x'", "sensor[0]: sensor = 'die9_c'"),
    ("[[sensor]]\nsensor = 'die0_c'\nkind = 'laser'", "kind = 'laser': one of zone, hwmon"),
    ("[[sensor]]\nsensor = 'die0_c'\nkind = 'zone'", "match: missing"),
    ("[[sensor]]\nsensor = 'die0_c'\nkind = 'hwmon'", "file or label: missing"),
    ("[[sensor]]\nsensor = 'die0_c'\nkind = 'path'\nfile = 'x'\nscale = 'big'", "scale = 'big'"),
    ("[[sensor]]\nsensor = 'die0_c'\nkind = 'path'\nfile = 3", "file = 3: a text"),
    ("[[sensor]]\nsensor = 'die0_c'\nkind = 'path'\nfile = 'x'\nspeed = 1", "speed: unknown key"),
    ("[[cap]]\nnode = 8\npath = '/x'", "node = 8"),
    ("[[cap]]\nnode = 0\npath = '/x'\nunit = 'kw'", "unit = 'kw'"),
    ("sensor = 3", "an array of tables"),
    ("watchdog = 1", "watchdog = 1"),
    ("colour = 'red'", "colour: unknown key"),
    ("= 3", "not valid TOML"),
])
def test_a_bad_board_file_names_file_key_and_value(tmp_path, text, words):
    path = tmp_path / "board.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_board_file(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_a_board_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_board_file(tmp_path / "none.toml")


@pytest.mark.parametrize("candidates", [linux.CANDIDATES, raspberry_pi.CANDIDATES, jetson.CANDIDATES])
def test_every_candidate_is_of_the_dictionary(candidates):
    assert all(candidate.sensor in INDEX for candidate in candidates)
    assert all(isinstance(candidate, Candidate) for candidate in candidates)

"""A rig of parts: one user at a time, nothing believed before it was done and checked.

The board here is the flight program as a process behind a pseudo-terminal; its power switch is a command that starts
and kills it, so every step of the strategy has its effect.
"""

import functools
import importlib.util
import select
import sys
import threading
from pathlib import Path

import pytest

from flightsw.errors import BoardError, ConfigError
from flightsw.link.serial_port import SerialPort
from hil import benches, rig, run
from hil.__main__ import main
from hil.channel import PtyLine
from hil.scenario import find, load

RIG = """
name = "{name}"
description = "A board in a test"
leave = "{leave}"
[line]
port = "{port}"
[power]
driver = "command"
on = ["{python}", "{switch}", "on"]
off = ["{python}", "{switch}", "off"]
[flasher]
driver = "command"
command = ["{python}", "{switch}", "flash", "{{files}}"]
[limits]
boot_within_s = 20.0
off_at_least_s = 0.3
"""
SWITCH = """
import os, pathlib, shutil, signal, subprocess, sys, time
here = pathlib.Path(__file__).parent
pid = here / "pid"
with (here / "done").open("a") as done:
    done.write(sys.argv[1] + "\\n")
if sys.argv[1] == "flash":
    shutil.rmtree(here / "state", ignore_errors=True)
    shutil.copytree(sys.argv[2], here / "files", dirs_exist_ok=True)
elif sys.argv[1] == "on":
    program = subprocess.Popen([sys.executable, "-m", "flightsw", "run", "--mission", str(here / "files/mission.toml"),
        "--keys", str(here / "files/link.keys"), "--rig-port", (here / "port").read_text(), "--lockstep",
        "--always-transmit", "--state", str(here / "state")],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(here / "said").open("w"), cwd={root!r})
    pid.write_text(str(program.pid))
elif pid.exists():
    if (here / "stubborn").exists():
        sys.exit(0)
    os.kill(int(pid.read_text()), signal.SIGKILL)
    pid.unlink()
    time.sleep(0.1)
"""


@pytest.fixture
def bench(tmp_path):
    """A rig file, and the line between its board and the plant."""
    with PtyLine(4_000_000, fifo_octets=1 << 20) as line:
        (tmp_path / "port").write_text(line.port_a)
        (tmp_path / "switch.py").write_text(SWITCH.replace("{root!r}", repr(str(Path(rig.__file__).parents[1]))))
        path = tmp_path / "rig.toml"
        path.write_text(RIG.format(name=f"test{abs(hash(tmp_path)) % 10**9}", leave="off", port=line.port_b,
                                   python=sys.executable, switch=tmp_path / "switch.py"))
        yield path
        if (tmp_path / "pid").exists():
            (tmp_path / "stubborn").unlink(missing_ok=True)
            rig.HostShell().run([sys.executable, str(tmp_path / "switch.py"), "off"])


def test_a_board_is_switched_flashed_flown_and_left_off_with_the_same_command_log(bench, tmp_path):
    scenario, logs = load(find("short_iss"), duration="60 s"), []
    for number, where in enumerate((functools.partial(rig.board, bench), benches.sil_framed)):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        with where(scenario, folder) as connect:
            run.fly(scenario, folder, connect=connect)
        logs.append((folder / benches.COMMANDS).read_bytes())
    assert (tmp_path / "done").read_text().split() == ["off", "flash", "on", "off"]
    assert not (tmp_path / "pid").exists()
    assert logs[0] == logs[1]
    assert len(logs[0]) == 4 * 60


def test_the_board_bench_needs_a_rig(capsys):
    assert main(["run", "short_iss", "--bench", "board"]) == 2
    assert "needs --rig" in capsys.readouterr().err


def test_a_board_that_goes_on_speaking_is_not_off(bench, tmp_path):
    strategy = rig.Strategy(rig.load_rig(bench), tmp_path)
    assert strategy.state is rig.State.UNKNOWN
    (tmp_path / "run").mkdir()
    strategy.flash(rig._files(load(find("short_iss"), duration="60 s"), tmp_path / "run"))
    strategy.on()
    assert strategy.state is rig.State.ON
    described = rig.load_rig(bench)
    with SerialPort(described.line.port, described.line.baud) as port:
        assert select.select([port], [], [], 20.0)[0]  # it is up, and greets
    (tmp_path / "stubborn").touch()
    bench.write_text(bench.read_text().replace("boot_within_s = 20.0", "boot_within_s = 4.0"))
    strategy = rig.Strategy(rig.load_rig(bench), tmp_path)
    with pytest.raises(BoardError, match="still speaks after its power was switched off"):
        strategy.off()
    assert strategy.state is rig.State.UNKNOWN
    (tmp_path / "stubborn").unlink()
    strategy.off()
    assert strategy.state is rig.State.OFF


def test_one_user_at_a_time_and_the_other_is_told_who(bench, capsys):
    described = rig.load_rig(bench)
    assert rig.holder(described) == ""
    with rig.lock(described, "a long test"):
        assert "purpose a long test" in rig.holder(described)
        assert main(["rig", "show", str(bench)]) == 0
        assert "in use   user" in capsys.readouterr().out
        assert main(["rig", "power", str(bench), "on"]) == 2
        assert f"rig {described.name} is in use: user" in capsys.readouterr().err
    assert main(["rig", "lock", str(bench), sys.executable, "-c", "raise SystemExit(3)"]) == rig.EXIT_HELD
    assert rig.holder(described) == ""


def test_show_says_what_is_there_and_that_the_state_is_unknown(bench, capsys):
    assert main(["rig", "show", str(bench)]) == 0
    said = capsys.readouterr().out
    assert ": there" in said
    assert "state    unknown" in said
    assert "in use   by nobody" in said


def test_a_manual_driver_asks_the_human(tmp_path):
    path = tmp_path / "rig.toml"
    path.write_text('name = "hand"\ndescription = "By hand"\n[line]\nport = "/nowhere"\n[flasher]\ndriver = "manual"\n'
                    '[limits]\noff_at_least_s = 0.0\n')
    asked = []
    strategy = rig.Strategy(rig.load_rig(path), tmp_path, asked.append)
    strategy.off()
    strategy.flash(tmp_path)
    strategy.on()
    assert asked == ["hand: switch the board's power OFF", f"hand: flash the board with {tmp_path}",
                     "hand: switch the board's power ON"]
    with pytest.raises(BoardError, match="a human is needed"):
        rig.ask_human("press")


@pytest.mark.parametrize(("changed", "complaint"), [
    ('[power]\ndriver = "command"\n', "power.on: driver 'command' and 0 words"),
    ('[power]\ndriver = "labgrid"\n', "labgrid: missing, though a driver is labgrid's"),
    ('[power]\ndriver = "magic"\n', "expected none, manual, command or labgrid"),
    ('[limits]\nboot_within_s = 0\n', "boot_within_s = 0 is out of range"),
])
def test_a_wrong_rig_file_is_refused_with_the_reason(tmp_path, changed, complaint):
    path = tmp_path / "rig.toml"
    path.write_text('name = "a"\ndescription = "b"\n[line]\nport = "/dev/null"\n' + changed)
    with pytest.raises(ConfigError, match=complaint):
        rig.load_rig(path)


def test_a_run_longer_than_the_rig_allows_is_refused(bench, tmp_path):
    bench.write_text(bench.read_text() + "run_at_most_s = 100\n")
    with pytest.raises(ConfigError, match="the scenario lasts 120 s"), \
            rig.board(bench, load(find("short_iss"), duration="120 s"), tmp_path):
        pass


def test_the_console_is_kept(tmp_path):
    with PtyLine(921_600) as line:
        said = threading.Timer(0.2, lambda: Path(line.port_a).write_bytes(b"hello from the board\n"))
        with rig._keep_console(rig.LinePart(port=line.port_b), tmp_path / "console.log"):
            said.start()
            said.join()
            for _ in range(100):
                if (tmp_path / "console.log").stat().st_size or threading.Event().wait(0.05):
                    break
    assert b"hello from the board" in (tmp_path / "console.log").read_bytes()


GRID = """
name = "grid"
description = "By labgrid"
[line]
port = "/nowhere"
[power]
driver = "labgrid"
[labgrid]
config = "env.yaml"
"""


@pytest.mark.skipif(importlib.util.find_spec("labgrid") is None, reason="labgrid is not installed")
def test_labgrid_switches_the_power(tmp_path):
    switch = tmp_path / "switch"
    (tmp_path / "env.yaml").write_text(f"""
targets:
  main:
    drivers:
      ExternalPowerDriver:
        cmd_on: 'sh -c "echo on >> {switch}"'
        cmd_off: 'sh -c "echo off >> {switch}"'
        delay: 0.0
""")
    path = tmp_path / "rig.toml"
    path.write_text(GRID + "[limits]\noff_at_least_s = 0.0\n")
    strategy = rig.Strategy(rig.load_rig(path), tmp_path)
    strategy.off()
    strategy.on()
    assert switch.read_text().split() == ["off", "on"]


def test_without_labgrid_the_rig_says_so(tmp_path):
    if importlib.util.find_spec("labgrid") is not None:
        pytest.skip("labgrid is installed")
    path = tmp_path / "rig.toml"
    path.write_text(GRID)
    with pytest.raises(ConfigError, match="needs labgrid, which is not installed"):
        rig.Strategy(rig.load_rig(path), tmp_path)


def test_the_raspberry_pis_rig_file_is_a_rig():
    described = rig.load_rig(Path(rig.__file__).parents[1] / "boards" / "raspberry_pi" / "rig.toml")
    assert (described.line.baud, described.flasher.when, described.leave) == (921_600, "on", "off")


def test_a_board_that_is_flashed_over_the_network_is_switched_on_first(bench, tmp_path):
    bench.write_text(bench.read_text().replace("[limits]", 'when = "on"\n[limits]'))
    with rig.board(bench, load(find("short_iss"), duration="60 s"), tmp_path):
        assert (tmp_path / "done").read_text().split() == ["off", "on", "flash"]
    assert (tmp_path / "files" / "flight.env").read_text() == "FLIGHTSW_OPTIONS=--always-transmit\n"

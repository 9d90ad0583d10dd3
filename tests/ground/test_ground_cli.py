from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import pty
import re
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_satellite import PtySatellite, add_report

from flightsw.dictionary.commands import COMMANDS
from flightsw.dictionary.parameters import PARAMETERS
from flightsw.dictionary.telemetry import HOUSEKEEPING
from ground.__main__ import main
from ground.archive import Archive

GROUND = [sys.executable, "-m", "ground"]
PATIENCE_S = 20.0


@pytest.fixture
def satellite() -> Iterator[PtySatellite]:
    with PtySatellite() as made:
        yield made


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "pass.sqlite"


def ground(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*GROUND, *map(str, args)], capture_output=True, text=True, timeout=60, check=False)


class Watch:
    """A `ground watch` whose standard output is a pipe that a thread empties: a full one would hold the watch up."""

    def __init__(self, port: str, archive: Path) -> None:
        self.process = subprocess.Popen([*GROUND, "watch", "--port", port, "--archive", str(archive)],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._read = 0
        self._changed = threading.Condition()
        self._over = False
        self._reader = threading.Thread(target=self._empty)
        self._reader.start()

    def _empty(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def __enter__(self) -> Watch:
        self.wait_for("power:")
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    def wait_for(self, text: str) -> str:
        """Return the next line with `text` in it."""
        with self._changed:
            while True:
                while self._read < len(self.lines):
                    line = self.lines[self._read]
                    self._read += 1
                    if text in line:
                        return line
                assert not self._over, f"{text!r} never came; watch ended with {self.process.wait()}"
                self._changed.wait(1.0)

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str]:
        self.process.send_signal(number)
        self.process.wait(PATIENCE_S)
        self._reader.join()
        assert self.process.stderr is not None
        return self.process.returncode, self.process.stderr.read()


def usage_error(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def failure(capsys: pytest.CaptureFixture[str], code: int, *args: str) -> str:
    assert main(args) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def help_of(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*args, "--help"])
    assert stop.value.code == 0
    return " ".join(capsys.readouterr().out.split())


# -- help and wrong use


def test_send_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "send")
    for row in COMMANDS.values():
        assert f"{row.verb} {row.description}" in text
    assert "exit codes: 0 completed" in text


@pytest.mark.parametrize("verb", sorted(COMMANDS))
def test_verb_help_explains_every_argument(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    text = help_of(capsys, "send", verb)
    row = COMMANDS[verb]
    assert row.description in text
    for arg in row.args:
        assert f"{arg.name.upper()} {arg.description}" in text
        for member in arg.enum or ():
            assert f"{member.name}={member:d}" in text
        if arg.kind != "text" and arg.enum is None:
            assert f"{arg.low:.10g}..{arg.high:.10g} {arg.unit}".rstrip() in text
    if any(arg.name == "parameter" for arg in row.args):
        assert all(parameter.name in text for parameter in PARAMETERS)
    if any(arg.name == "structure" for arg in row.args):
        assert all(f"{structure.sid}={structure.name}" in text for structure in HOUSEKEEPING)


@pytest.mark.parametrize(("args", "says"), [
    ((), "required: COMMAND"),
    (("fly",), "invalid choice: 'fly'"),
    (("watch",), "required: --port"),
    (("watch", "--port", "x", "--baud", "fast"), "'fast' is not a whole number in 50..4000000"),
    (("send",), "required: VERB"),
    (("send", "dance"), "invalid choice: 'dance'"),
    (("send", "mode"), "required: MODE"),
    (("send", "ping", "extra"), "unrecognized arguments: extra"),
    (("send", "ping", "--timeout", "-1"), "'-1' is not a number of seconds"),
    (("send", "--scid", "1024", "ping"), "'1024' is not a whole number in 0..1023"),
    (("show", "--archive", "x", "--since", "noon"), "'noon' is neither ISO 8601 nor seconds"),
    (("show", "--archive", "x", "events", "--severity", "BAD"), "invalid choice: 'BAD'"),
])
def test_wrong_use_is_one_line_and_exit_2(capsys: pytest.CaptureFixture[str], args: tuple[str, ...],
                                          says: str) -> None:
    assert says in usage_error(capsys, *args)


@pytest.mark.parametrize(("args", "says"), [
    (("mode", "FAST"), "mode = 'FAST' is not a whole number or one of BOOT, SAFE"),
    (("mode", "7"), "mode = 7 is none of BOOT=0"),
    (("hk.report", "0"), "hk.report: structure = 0 "),
    (("hk.period", "1", "-5"), "hk.period: period = -5"),
    (("job.submit", "1", "x", "nan", "1", "1", "60", "0"), "job.submit: work = nan units"),
    (("param.set", "p" * 65, "1"), "parameter has 65 octets, limit 64"),
])
def test_bad_argument_is_one_line_and_exit_2(capsys: pytest.CaptureFixture[str], args: tuple[str, ...],
                                             says: str) -> None:
    assert says in failure(capsys, 2, "send", "--port", "/dev/null", *args)


def test_bad_port_and_bad_archive_are_one_line_and_exit_4(
        capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "/dev/none at 115200 baud: no such port;" in failure(capsys, 4, "watch", "--port", "/dev/none")
    assert "/dev/none at 9600 baud" in failure(capsys, 4, "send", "--port", "/dev/none", "--baud", "9600", "ping")
    assert "give the serial port with --port" in failure(capsys, 4, "send", "ping")
    assert "does not exist" in failure(capsys, 4, "show", "--archive", "none.sqlite")
    Path("text").write_text("not a database, and long enough to be taken for one")
    assert "not a database" in failure(capsys, 4, "watch", "--port", "/dev/none", "--archive", "text")
    assert "directory" in failure(capsys, 4, "watch", "--port", "/dev/none", "--archive", "no/where.sqlite")


# -- show


def test_show(capsys: pytest.CaptureFixture[str], archive: Path) -> None:
    with Archive(archive) as writer:
        for i in range(3):
            add_report(writer, 10.0 + i, 2, [float(i), 1.0, 2.0, 3.0, float("nan")])
    at = ("show", "--archive", str(archive))
    assert main([*at, "plate_c", "--since", "11", "--until", "1970-01-01T00:00:12", "--json"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [{"obt_s": 11.0, "value": 1.0}]
    assert main([*at, "array_c"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"1970-01-01T00:00:1{i}Z missing" for i in range(3)]
    assert main([*at, "--json"]) == 0
    latest = {row["point"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert latest["plate_c"] == {"point": "plate_c", "value": 2.0, "obt_s": 12.0, "received_s": 1012.0,
                                 "unit": "degC"}
    assert latest["array_c"]["value"] is None
    assert main([*at, "gaps"]) == 0
    assert capsys.readouterr().out == ""
    assert "no point 'volts'" in failure(capsys, 2, *at, "volts")


# -- against a satellite behind a pseudo-terminal


def test_send_on_its_own_port(satellite: PtySatellite, archive: Path) -> None:
    at = ("send", "--port", satellite.port, "--archive", archive)
    done = ground(*at, "ping")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(" after")[0] for line in done.stdout.splitlines()] == [
        "ping sent", "ping accepted", "ping completed"]
    rejected = ground(*at, "mode", "COMPUTE", "--json")
    stages = [json.loads(line) for line in rejected.stdout.splitlines()]
    assert rejected.returncode == 1
    assert [(s["verb"], s["state"], s["code"]) for s in stages] == [("mode", "sent", 0), ("mode", "rejected", 4)]
    assert "SAFE -> COMPUTE is not legal" in stages[-1]["text"]
    satellite.satellite.mute = True
    silent = ground(*at, "ping", "--timeout", "0.3")
    assert silent.returncode == 3
    assert "ping no answer" in silent.stdout
    assert "no acceptance within 0.3 s" in silent.stdout
    shown = ground("show", "--archive", archive, "commands", "--json")
    entries = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [(e["verb"], e["state"], [s["stage"] for s in e["stages"]]) for e in entries] == [
        ("ping", "completed", [1, 7]), ("mode", "rejected", [2]), ("ping", "no answer", [])]


def test_watch_prints_a_line_a_report_and_sends_for_others(satellite: PtySatellite, archive: Path) -> None:
    door = Path(f"{archive}.sock")
    with Watch(satellite.port, archive) as watch:
        assert stat.S_IMODE(door.stat().st_mode) == 0o600
        completed = ground("send", "--archive", archive, "param.set", "die_max_c", "70")
        assert (completed.returncode, completed.stderr) == (0, "")
        assert [line.split(" after")[0] for line in completed.stdout.splitlines()] == [
            "param.set sent", "param.set accepted", "param.set completed"]
        rejected = ground("send", "--archive", archive, "mode", "COMPUTE")
        assert rejected.returncode == 1
        assert "is not legal" in rejected.stdout
        satellite.satellite.mute = True
        assert ground("send", "--archive", archive, "ping", "--timeout", "0.3").returncode == 3
        watch.wait_for("ping no answer")
        code, err = watch.stop()
    assert (code, err) == (0, "")
    assert not door.exists()
    text = "".join(watch.lines)
    assert "param.set die_max_c 70.0 completed" in text
    assert "event INFO parameter_set: Parameter die_max_c = 70" in text
    assert re.search(r"Z thermal: plate_c=20.0 degC, .*array_c=missing", text)


def test_second_watch_is_refused_while_the_first_runs(satellite: PtySatellite, archive: Path,
                                                      tmp_path: Path) -> None:
    with PtySatellite(has_keys=False) as other, Watch(satellite.port, archive):
        same_port = ground("watch", "--port", satellite.port, "--archive", tmp_path / "other.sqlite")
        assert same_port.returncode == 4
        assert "in use by another program" in same_port.stderr
        same_archive = ground("watch", "--port", other.port, "--archive", archive, "--security", "clear")
        assert same_archive.returncode == 4
        assert "another ground watch is using it" in same_archive.stderr
        if importlib.util.find_spec("textual") is not None:
            console = ground("console", "--port", satellite.port, "--archive", archive)
            assert console.returncode == 4
            assert "without --port this console follows it" in console.stderr
        assert ground("send", "--archive", archive, "ping").returncode == 0  # the first still serves


def test_everything_printed_before_sigkill_is_archived_and_its_socket_is_stale(
        satellite: PtySatellite, archive: Path) -> None:
    with Watch(satellite.port, archive) as watch:
        for _ in range(10):
            watch.wait_for("thermal:")
        watch.stop(signal.SIGKILL)
    whole = [line for line in watch.lines if line.endswith("\n")]
    with Archive(archive, read_only=True) as reader:
        for structure, point in (("power", "array_w"), ("thermal", "plate_c"), ("nodes_a", "die0_c")):
            assert len(reader.samples(point)) >= sum(f" {structure}:" in line for line in whole) > 0
    assert Path(f"{archive}.sock").exists()
    assert "give the serial port" in ground("send", "--archive", archive, "ping").stderr
    assert ground("send", "--archive", archive, "--port", satellite.port, "ping").returncode == 0
    with Watch(satellite.port, archive):  # takes the stale socket over
        assert ground("send", "--archive", archive, "ping").returncode == 0


def test_every_sender_hears_of_its_own_command_only(satellite: PtySatellite, archive: Path) -> None:
    with Watch(satellite.port, archive) as watch:
        satellite.satellite.mute = True
        silent = subprocess.Popen([*GROUND, "send", "--archive", str(archive), "--timeout", "3", "safe"],
                                  stdout=subprocess.PIPE, text=True)
        watch.wait_for("safe sent")
        satellite.wait_until_read()
        satellite.satellite.mute = False
        answered = ground("send", "--archive", archive, "ping")
        out, _ = silent.communicate(timeout=PATIENCE_S)
    assert (answered.returncode, silent.returncode) == (0, 3)
    assert [line.split()[:2] for line in answered.stdout.splitlines()] == [
        ["ping", "sent"], ["ping", "accepted"], ["ping", "completed"]]
    assert [line.split(" after")[0] for line in out.splitlines()] == ["safe sent", "safe no answer"]


def test_nonsense_at_the_door_does_not_disturb_the_watch(satellite: PtySatellite, archive: Path) -> None:
    with Watch(satellite.port, archive) as watch:
        for octets in (b"\n", b"[1]\n", b'{"verb": 1}\n', b"\xff\xfe\n", b"x" * 20000, b"",
                       b'{"verb": "mode", "args": ["x"], "timeout_s": 1}\n',
                       b'{"verb": "dance", "args": [], "timeout_s": 1}\n',
                       b'{"verb": "ping", "args": [], "timeout_s": NaN}\n', b"[" * 5000 + b"\n"):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE_S)
                client.connect(f"{archive}.sock")
                client.sendall(octets)
                client.shutdown(socket.SHUT_WR)
                try:
                    answer = client.recv(4096)
                except ConnectionResetError:
                    answer = b""
                assert answer == b"" or "error" in json.loads(answer)
        assert ground("send", "--archive", archive, "ping").returncode == 0
        assert watch.process.poll() is None


def test_unplugged_adapter_is_told_and_watch_goes_on(archive: Path) -> None:
    with PtySatellite() as made, Watch(made.port, archive) as watch:
        made.unplug()
        assert watch.process.stderr is not None
        line = watch.process.stderr.readline()
        assert line.startswith(f"ground watch: serial port {made.port} at 115200 baud")
        assert watch.process.poll() is None
        refused = ground("send", "--archive", archive, "ping")
        assert refused.returncode == 4
        assert "ping not sent" in refused.stdout
        assert watch.stop(signal.SIGTERM)[0] == 0


def test_reader_that_leaves_ends_watch_quietly(satellite: PtySatellite, archive: Path) -> None:
    process = subprocess.Popen([*GROUND, "watch", "--port", satellite.port, "--archive", str(archive)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, "")


def test_watch_on_a_terminal_paints_a_screen(satellite: PtySatellite, archive: Path) -> None:
    satellite.satellite.set(die1_c=90.0)
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "LINES", "NO_COLOR"}}
    process = subprocess.Popen([*GROUND, "watch", "--port", satellite.port, "--archive", str(archive)],
                               stdout=terminal, stderr=subprocess.PIPE, env=environment)
    os.close(terminal)
    octets = b""
    wanted = b"! die1_c 90.0 > die_max_c 80 degC"
    give_up = time.monotonic() + PATIENCE_S
    while wanted not in octets and time.monotonic() < give_up:
        octets += os.read(screen, 65536)
    process.send_signal(signal.SIGINT)
    while select.select([screen], [], [], PATIENCE_S)[0]:
        try:
            octets += os.read(screen, 65536)
        except OSError:  # the terminal's other end is closed
            break
    _, err = process.communicate(timeout=PATIENCE_S)
    os.close(screen)
    assert (process.returncode, err) == (0, b"")
    assert octets.startswith(b"\x1b[?1049h")
    assert octets.endswith(b"\x1b[?1049l")
    page = octets.decode().split("\x1b[H")[-1].split("\x1b[J")[0]
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", page).replace("\r", "").split("\n")
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "! die1_c 90.0 > die_max_c 80 degC" in lines
    assert lines[0].startswith("mode SAFE  heard 0.")


def test_a_station_is_chosen_where_the_keys_are_held(capsys: pytest.CaptureFixture[str]) -> None:
    said = failure(capsys, 2, "send", "--station", "Inuvik", "ping")
    assert "--station goes with --port: a ground watch seals with the keys of its own station" in said


def test_an_archive_is_looked_for_where_watch_makes_it(
        capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert "archive ground.sqlite does not exist" in failure(capsys, 4, "show")

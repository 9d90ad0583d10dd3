"""What can go wrong on a desk: adapter, rate, noise, disk, a second console, a kill; each is told and passes."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_satellite import SCID, PtySatellite, TinySatellite

from flightsw.errors import BoardError, StoreError
from ground.archive import Archive
from ground.cli.options import add_link
from ground.session import Session, SessionThread

PATIENCE_S = 20.0


class Adapter:
    """A port under a fixed name that is pulled and plugged in again; `feed` is what its line carries."""

    def __init__(self, name: Path) -> None:
        self.name = name
        self._master: int | None = None
        self._slave = -1

    def plug(self) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.name.unlink(missing_ok=True)
        self.name.symlink_to(os.ttyname(self._slave))

    def pull(self) -> None:
        if self._master is not None:
            self.name.unlink(missing_ok=True)
            os.close(self._slave)
            os.close(self._master)
            self._master = None

    def feed(self, octets: bytes) -> None:
        assert self._master is not None
        assert len(octets) < 4000  # what a terminal takes without a reader
        os.write(self._master, octets)


@pytest.fixture
def adapter(tmp_path: Path) -> Iterator[Adapter]:
    made = Adapter(tmp_path / "ttyUSB0")
    made.plug()
    yield made
    made.pull()


def options(port: Path | str, archive: Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_link(parser, defaults=True)
    return parser.parse_args(["--port", str(port), "--archive", str(archive), "--security", "clear"])


def turn_until(session: Session, condition: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_s, session.status(session.clock.now_s())
        session.turn()


def report(satellite: TinySatellite, obt_s: float) -> bytes:
    satellite.reporter.housekeeping(1, satellite.pool, obt_s)
    return satellite.downlink()


def trouble(session: Session) -> str:
    """What is wrong beside that the link is in clear, which is said last."""
    said = session.status(session.clock.now_s()).trouble
    return "" if "IN CLEAR" in said else said


def test_pulled_adapter_is_told_and_found_again(adapter: Adapter, tmp_path: Path) -> None:
    satellite = TinySatellite()
    with Session(options(adapter.name, tmp_path / "a.sqlite")) as session:
        adapter.feed(report(satellite, 1.0))
        turn_until(session, lambda: session.station.packets == 1)
        assert trouble(session) == ""
        adapter.pull()
        turn_until(session, lambda: trouble(session) != "")
        assert f"serial port {adapter.name} at 115200 baud" in trouble(session)
        adapter.plug()
        turn_until(session, lambda: trouble(session) == "")
        adapter.feed(report(satellite, 2.0))
        turn_until(session, lambda: session.station.packets == 2)
    with Archive(tmp_path / "a.sqlite", read_only=True) as archive:
        assert [t for t, _ in archive.samples("sun_frac")] == [1.0, 2.0]


def test_what_is_not_protected_is_said_for_as_long_as_it_is(
        adapter: Adapter, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = options(adapter.name, tmp_path / "a.sqlite")
    bench.security, bench.framing = "authenticated", "cobs"
    with Session(bench) as session:
        assert "TELEMETRY IS IN CLEAR" in capsys.readouterr().err
        assert session.status(0.0).trouble == "TELEMETRY IS IN CLEAR: it may be anyone's"
        assert session.station.seals is not None
        session.station.seals.ring.failure = "fact: No space left on device"
        assert session.status(0.0).trouble.startswith("counters of the link keys are not kept any more")
        session.station.seals.ring.failure = ""
    bench.framing = "cadu"
    with Session(bench) as session:
        assert session.status(0.0).trouble == ""


def test_wrong_rate_or_noise_is_told_and_forgotten_with_the_first_frame(adapter: Adapter, tmp_path: Path) -> None:
    satellite = TinySatellite()
    noise = bytes(range(1, 256)) * 5
    with Session(options(adapter.name, tmp_path / "a.sqlite")) as session:
        session.clock._origin_s -= 10.0  # type: ignore[attr-defined] # the session is ten seconds old
        adapter.feed(noise)
        turn_until(session, lambda: trouble(session) != "")
        assert "and no frame among them: is 115200 baud its rate" in trouble(session)
        adapter.feed(noise + report(satellite, 1.0))
        turn_until(session, lambda: session.station.packets == 1 and trouble(session) == "")


def test_second_owner_of_port_or_archive_is_refused_with_the_reason(tmp_path: Path) -> None:
    archive = tmp_path / "a.sqlite"
    with (PtySatellite(has_keys=False) as one, PtySatellite(has_keys=False) as other,
          SessionThread(options(one.port, archive))):
        with pytest.raises(BoardError, match="in use by another program"):
            SessionThread(options(one.port, tmp_path / "b.sqlite"))
        with pytest.raises(StoreError, match="another ground watch is using it"):
            SessionThread(options(other.port, archive))
    with PtySatellite(has_keys=False) as one, SessionThread(options(one.port, archive)) as again:  # cured
        assert again.status.trouble in {"", "THE LINK IS IN CLEAR: telemetry may be anyone's, and anyone can command"}


def test_full_disk_is_told_by_the_session_and_passes(adapter: Adapter, tmp_path: Path) -> None:
    satellite = TinySatellite()
    with Session(options(adapter.name, tmp_path / "a.sqlite")) as session:
        connection = session.archive._connection
        connection.execute("PRAGMA max_page_count = 1")
        for i in range(200):
            adapter.feed(report(satellite, float(i)))
            session.turn()
        turn_until(session, lambda: session.station.packets == 200 and "full" in trouble(session))
        connection.execute("PRAGMA max_page_count = 1000000")
        turn_until(session, lambda: trouble(session) == "")
        assert len(session.archive.samples("sun_frac")) == 200


FULL = """
import contextlib, sys
from pathlib import Path
import test_session as desk
from ground.session import Session
folder = Path(sys.argv[1])
adapter = desk.Adapter(folder.parent / "ttyUSB0")
adapter.plug()
satellite, sent = desk.TinySatellite(), 0
def hear(session, count):
    global sent
    for _ in range(count):
        adapter.feed(desk.report(satellite, float(sent)))
        sent += 1
        session.turn()
    desk.turn_until(session, lambda: session.station.packets == sent)
with Session(desk.options(adapter.name, folder / "a.sqlite")) as session:
    hear(session, 20)
    desk.turn_until(session, lambda: session.archive.pending == 0)
    room = folder / "room"
    with room.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    while not desk.trouble(session):
        hear(session, 20)
    print(desk.trouble(session))
    hear(session, 100)
    room.unlink()
    desk.turn_until(session, lambda: not desk.trouble(session) and session.archive.pending == 0)
    print(len(session.archive.samples("sun_frac")) == sent, session.archive.lost_packets)
"""


def test_a_file_system_without_room_is_told_and_loses_nothing(tmp_path: Path) -> None:
    """A real one of 1 MiB, in a name space of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    space = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=1m none "$0" && exec "$@"', str(folder)]
    if shutil.which("unshare") is None or subprocess.run([*space, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs a mount name space of its own")
    done = subprocess.run([*space, sys.executable, "-c", FULL, str(folder)], capture_output=True, text=True, timeout=60,
                          check=False, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)})
    assert done.returncode == 0, done.stderr
    told, whole = done.stdout.splitlines()
    assert "cannot be written" in told
    assert "full" in told
    assert whole == "True 0"


KILLED = """
import sys, threading, time
from pathlib import Path
from ground.archive import Archive
from ground.console.model import Model
import test_session
from ground import archive
archive.SEAL_PACKETS = 8  # sealed at every moment
from ground.session import SessionThread
path = Path(sys.argv[2])
with SessionThread(test_session.options(sys.argv[1], path)), Archive(path, read_only=True) as reader:
    model = Model(reader)
    while True:
        model.refresh(time.time())
        if "mode" in reader.points and model.received:
            print(model.last_id, flush=True)  # what a screen would show now
"""


def kill(folder: Path, after: int, later_s: float = 0.0) -> int:
    """Kill the ground `later_s` after it showed something `after` times; return the packets that had been shown."""
    archive = folder / "a.sqlite"
    with PtySatellite(has_keys=False) as satellite:
        process = subprocess.Popen([sys.executable, "-c", KILLED, satellite.port, str(archive)], stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, text=True,
                                   env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)})
        assert process.stdout is not None
        shown = [process.stdout.readline() for _ in range(after)]
        time.sleep(later_s)
        process.send_signal(signal.SIGKILL)
        shown += process.stdout.readlines()
        process.stdout.close()
        process.wait()
    last = max(int(line) for line in shown if line.endswith("\n"))
    with Archive(archive, read_only=True) as reader:
        assert [row.packet_id for row in reader.packets()][:last] == list(range(1, last + 1))
        assert reader.examine()
    return last


@pytest.mark.parametrize("after", [1, 60])
def test_nothing_that_a_console_showed_is_lost_by_sigkill(tmp_path: Path, after: int) -> None:
    assert kill(tmp_path, after) > 0


@pytest.mark.long
@pytest.mark.timeout(900)
def test_nothing_that_a_console_showed_is_lost_by_two_hundred_kills(tmp_path: Path) -> None:
    """At random moments of one archive that goes on: in a commit, while a block is made, between the two."""
    chance, before = random.Random(7), 0
    for _ in range(200):
        last = kill(tmp_path, 1, chance.uniform(0.0, 1.0))
        assert last >= before
        before = last
    print(f"200 kills, {before} packets shown, none lost")


def test_screen_that_hangs_holds_no_packet_up(tmp_path: Path) -> None:
    """The session's thread owes the screen nothing: what comes meanwhile is in the archive."""
    archive = tmp_path / "a.sqlite"
    with PtySatellite(has_keys=False) as satellite, SessionThread(options(satellite.port, archive)):
        hang = threading.Event()
        hang.wait(0.6)  # nobody follows
        with Archive(archive, read_only=True) as reader:
            assert len(list(reader.packets())) >= 9
        assert SCID == 42

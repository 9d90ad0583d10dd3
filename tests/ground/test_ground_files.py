"""File transfers as an operator sees them: the desk in virtual time, and the commands through a real watcher."""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_satellite import APID, SCID, TinySatellite, Wire

from flightsw.errors import LinkError, StoreError
from flightsw.files import FileService
from flightsw.link.cfdp_transfer import State
from flightsw.state import Effect, FileOrder
from flightsw.store import OsDisk
from ground.__main__ import main
from ground.archive import Archive
from ground.files import WAITING, FileDesk, folder_of
from ground.station import Station

EPOCH_S = 1_800_000_000.0
BAUD = 115_200


def content(octets: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(octets)


class FileSatellite(TinySatellite):
    """A tiny satellite that has files."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.files = FileService(folder, folder / "inbox")

    def _carry_out(self, effect: Effect, obt_s: float) -> None:
        if isinstance(effect, FileOrder):
            self.files.order(effect)
        else:
            super()._carry_out(effect, obt_s)

    def turn(self, now_s: float, octets: bytes, budget_octets: int) -> bytes:
        self.uplink(octets, EPOCH_S + now_s)
        self.files.receive(self.receiver.take_file_pdus())
        for event in self.files.work(now_s, EPOCH_S + now_s, ""):
            self.reporter.event(event, EPOCH_S + now_s)
        while self.reporter.waiting_file_octets < budget_octets and (pdu := self.files.next_pdu()) is not None:
            self.reporter.file(pdu)
        return self.reporter.take(budget_octets)


class Link:
    """Station, desk and satellite on a wire that carries `budget` octets a turn each way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.satellite = FileSatellite(folder / "satellite")
        self.now_s = 0.0
        self.up = True
        self.start()

    def start(self) -> None:
        self.wire = Wire()
        self.archive = Archive(self.folder / "pass.sqlite")
        self.station = Station(self.wire, self.archive, scid=SCID, apid=APID, epoch_s=EPOCH_S)
        self.desk = FileDesk(self.station, folder_of(self.archive.path), BAUD)

    def restart(self) -> None:
        self.desk._store.close()  # killed
        self.archive.close()
        self.start()

    def turn(self) -> None:
        self.now_s += 0.1
        self.satellite.reporter.housekeeping(1, self.satellite.pool, EPOCH_S + self.now_s)
        octets = self.wire.take_sent()
        assert len(octets) <= BAUD / 10 * 0.25 + 2000
        down = self.satellite.turn(self.now_s, octets if self.up else b"", 1152)
        self.wire.waiting += down if self.up else b""
        self.station.poll(self.now_s)
        self.desk.poll(self.now_s)

    def until(self, done: Callable[[], object], limit_s: float = 300.0) -> None:
        end_s = self.now_s + limit_s
        while not done():
            assert self.now_s < end_s, self.desk.views(self.now_s)
            self.turn()

    def ask(self, **request: str) -> list[dict[str, object]]:
        follow = self.desk.follow(request, self.now_s)
        told: list[dict[str, object]] = []
        for _ in range(3000):
            self.turn()
            lines, over = follow(self.now_s)
            told += lines
            if over:
                return told
        raise AssertionError(told)


@pytest.fixture
def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    monkeypatch.setattr(OsDisk, "sync", lambda _self, _fd: None)  # as a killed process leaves it, and quicker
    monkeypatch.setattr(OsDisk, "sync_folder", lambda _self, _folder: None)
    made = Link(tmp_path)
    yield made
    made.desk.close()
    made.archive.close()


def test_up_and_down_again(link: Link, tmp_path: Path) -> None:
    (tmp_path / "table.bin").write_bytes(content(60_000))
    told = link.ask(file="upload", path=str(tmp_path / "table.bin"), name="table.bin")
    assert told[-1]["state"] == "delivered"
    assert told[-1]["direction"] == "up"
    assert 5 < len(told) < 15  # 60 kB at 9.6 kB/s, a line a second
    assert any(8_000 < float(str(line["rate_octets_s"])) < 11_000 for line in told)
    assert (tmp_path / "satellite" / "files" / "table.bin").read_bytes() == content(60_000)
    assert list((tmp_path / "pass.sqlite.files" / "outgoing").iterdir()) == []
    told = link.ask(file="download", name="table.bin")
    assert told[-1]["state"] == "delivered"
    assert Path(str(told[-1]["path"])).read_bytes() == content(60_000)
    assert [line["transfer"] for line in link.ask(file="list")] == ["1-1", "2-1"]


def test_a_bundle_goes_to_the_inbox(link: Link, tmp_path: Path) -> None:
    (tmp_path / "mine.job").write_bytes(content(5_000))
    assert link.ask(file="upload", path=str(tmp_path / "mine.job"), name="mine.job")[-1]["state"] == "delivered"
    assert (tmp_path / "satellite" / "inbox" / "mine.job").read_bytes() == content(5_000)


def test_transfers_outlive_the_watcher_and_silence(link: Link, tmp_path: Path) -> None:
    (tmp_path / "table.bin").write_bytes(content(100_000))
    link.desk.upload(tmp_path / "table.bin", "table.bin")
    (tmp_path / "table.bin").unlink()  # a copy is sent
    for _ in range(40):
        link.turn()
    link.up = False
    for _ in range(400):
        link.turn()
    sent = link.desk.views(link.now_s)[0].done
    for _ in range(400):
        link.turn()
    assert link.desk.views(link.now_s)[0][4:7] == (sent, 0.0, WAITING)  # nothing is said while nothing is heard
    link.restart()
    link.up = True
    link.until(lambda: link.desk.views(link.now_s)[0].state == "delivered")
    assert (tmp_path / "satellite" / "files" / "table.bin").read_bytes() == content(100_000)


def test_what_cannot_be_is_said(link: Link, tmp_path: Path) -> None:
    link.turn()
    with pytest.raises(LinkError, match="no such file on board"):
        link.ask(file="download", name="none.bin")
    with pytest.raises(LinkError, match="is no name"):
        link.ask(file="upload", path=str(tmp_path), name="a/b")
    with pytest.raises(LinkError, match="No such file"):
        link.ask(file="upload", path=str(tmp_path / "none"), name="none")
    with pytest.raises(LinkError, match="is no transfer"):
        link.ask(file="cancel", name="x")
    with pytest.raises(LinkError, match="not open"):
        link.ask(file="cancel", name="2-7")
    with pytest.raises(LinkError, match="none of"):
        link.ask(file="eat")
    (tmp_path / "a").write_bytes(content(50_000))
    link.desk.upload(tmp_path / "a", "a")
    with pytest.raises(LinkError, match="on its way already"):
        link.desk.upload(tmp_path / "a", "a")
    link.satellite.mute = True
    with pytest.raises(StoreError, match="no answer"):
        link.ask(file="download", name="b")


def test_an_upload_is_suspended_resumed_and_cancelled(link: Link, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content(50_000))
    key = link.desk.upload(tmp_path / "a", "a")
    link.turn()
    assert link.ask(file="suspend", name=str(key))[0]["state"] == "suspended"
    done = link.desk.views(link.now_s)[0].done
    for _ in range(20):
        link.turn()
    assert link.desk.views(link.now_s)[0].done == done
    assert link.ask(file="resume", name=str(key))[0]["state"] == "active"
    link.until(lambda: link.desk.views(link.now_s)[0].done > done)
    assert link.ask(file="cancel", name=str(key))[0]["state"] == State.CANCELLED
    link.until(lambda: link.desk._entity.is_idle)
    assert list((tmp_path / "satellite" / "files").iterdir()) == []


def test_failed_storage_ends_transfers_and_not_the_session(link: Link, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(content(50_000))
    link.desk.upload(tmp_path / "a", "a")
    link.turn()

    def fail(_self: OsDisk, _source: Path, _target: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(OsDisk, "rename", fail)
    for _ in range(100):
        link.turn()
    link.up = False
    for _ in range(400):  # what is under way is saved when the signal is lost
        link.turn()
    assert "Input/output error" in link.desk.trouble
    packets = link.station.packets
    link.up = True
    for _ in range(10):
        link.turn()
    assert link.station.packets > packets
    with pytest.raises(StoreError, match="not transferred any more"):
        link.ask(file="list")


# -- the commands


class PtyFileSatellite:
    def __init__(self, folder: Path) -> None:
        self._satellite = FileSatellite(folder)
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> PtyFileSatellite:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        os.close(self._master)
        os.close(self._slave)

    def _run(self) -> None:
        os.set_blocking(self._master, False)
        now_s, rest = 0.0, b""
        while not self._stop.is_set():
            octets = os.read(self._master, 65536) if select.select([self._master], [], [], 0.02)[0] else b""
            now_s += 0.1
            self._satellite.reporter.housekeeping(1, self._satellite.pool, EPOCH_S + now_s)
            rest += self._satellite.turn(now_s, octets, 2000)
            try:
                rest = rest[os.write(self._master, rest[:4000]) :]
            except BlockingIOError:
                continue


def test_commands_through_a_watcher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / "pass.sqlite"

    def run(*args: object) -> tuple[int, str, str]:
        code = main([*map(str, args), "--archive", str(archive)])
        return code, *capsys.readouterr()

    (tmp_path / "mine.job").write_bytes(content(5_000))
    (tmp_path / "table.bin").write_bytes(content(6_000))
    said = tmp_path / "said"
    with PtyFileSatellite(tmp_path / "satellite") as satellite:
        with said.open("wb") as out:
            watch = subprocess.Popen([sys.executable, "-m", "ground", "watch", "--port", satellite.port, "--archive",
                                      str(archive), "--security", "clear"], stdout=out, stderr=subprocess.DEVNULL)
        try:
            for _ in range(1000):
                if "power:" in said.read_text():
                    break
                time.sleep(0.02)
            code, out_text, err = run("upload", tmp_path / "mine.job")
            assert (code, err) == (0, "")
            assert "mine.job: 100% of 5,000 octets, delivered" in out_text
            assert run("upload", tmp_path / "table.bin", "--name", "t.bin")[0] == 0
            code, out_text, err = run("download", "t.bin", "--to", tmp_path / "back.bin", "--json")
            assert (code, err) == (0, "")
            assert json.loads(out_text.splitlines()[-1])["state"] == "delivered"
            assert (tmp_path / "back.bin").read_bytes() == content(6_000)
            assert [line.split()[:3] for line in run("files")[1].splitlines()] == [
                ["1-1", "down", "t.bin:"], ["2-1", "up", "mine.job:"], ["2-2", "up", "t.bin:"]]
            assert run("download", "none") == (2, "", "ground download: none: no such file on board\n")
        finally:
            watch.terminate()
            watch.wait(timeout=20)
    assert (tmp_path / "satellite" / "inbox" / "mine.job").read_bytes() == content(5_000)
    code, _, err = run("files")
    assert code == 4
    assert "no ground watch is running" in err

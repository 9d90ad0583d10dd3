"""The file service on board: where uploads land, what orders do, how results leave and when they are delivered."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from file_pair import GROUND, SATELLITE, End, content

from flightsw import files
from flightsw.files import FileService, Result, compressed
from flightsw.jobs.manifest import DataClass, DataPolicy
from flightsw.link.cfdp import Config
from flightsw.link.cfdp_transfer import State
from flightsw.link.filestore import Filestore
from flightsw.state import FileOrder, JobSpec, Pause
from flightsw.store import OsDisk

OPEN = DataPolicy()


def spec(job_id: int, value: float = 10.0) -> JobSpec:
    return JobSpec(job_id, "job", 1.0, 1.0, value, 0.0, 1000.0, 0.0, Pause.NONE, "job")


class Sat:
    """A file service and a ground entity, a tick a second."""

    def __init__(self, folder: Path, inbox: Path | None = None) -> None:
        self.folder = folder / "sat"
        self.inbox = inbox
        self.results: dict[int, Result] = {}
        self.delivered: list[tuple[int, str]] = []
        self.forbidden = ""
        self.erased: set[int] = set()
        self.ground = End(folder / "ground", Config(GROUND, SATELLITE))
        self.station: str | None = "KIRUNA"
        self.now_s = 0.0
        self.heard: list[tuple[str, tuple[object, ...]]] = []
        self.start()

    def start(self) -> None:
        if hasattr(self, "service"):
            self.service._store.close()  # as the kernel does for a killed process: nothing is saved
        self.service = FileService(self.folder, self.inbox, lambda job: self.results.get(job.job_id),
                                   lambda job_id, station, _obt_s: self.delivered.append((job_id, station)),
                                   forbids=lambda _job_id, _station, _now_s: self.forbidden,
                                   is_kept=lambda job_id: job_id not in self.erased)

    def job(self, job_id: int, outputs: dict[str, bytes], policy: DataPolicy = OPEN, value: float = 10.0) -> None:
        folder = self.folder / f"job{job_id}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, octets in outputs.items():
            (folder / name).write_bytes(octets)
        self.results[job_id] = Result(job_id, value, tuple(folder / name for name in outputs), policy)
        self.service.finished(spec(job_id, value))

    def tick(self) -> None:
        self.now_s += 1.0
        for event in self.service.work(self.now_s, self.now_s, self.station):
            self.heard.append((event.name, event.args))
        sent = 0
        while sent < 11 and (pdu := self.service.next_pdu()) is not None:
            self.ground.entity.receive(pdu)
            sent += 1
        self.ground.entity.advance(self.now_s, self.station is not None)
        self.ground.take_news()
        up = []
        while (pdu := self.ground.entity.next_pdu()) is not None and len(up) < 11:
            up.append(pdu)
        self.service.receive(up)

    def until(self, done: Callable[[], bool]) -> None:
        for _ in range(2000):
            if done():
                return
            self.tick()
        raise AssertionError(self.heard)

    def events(self, name: str) -> list[tuple[object, ...]]:
        return [args for heard, args in self.heard if heard == name]

    def got(self, name: str) -> bytes:
        return (self.ground.received / name).read_bytes()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the medium: what a killed process leaves is the same."""
    monkeypatch.setattr(OsDisk, "sync", lambda _self, _fd: None)
    monkeypatch.setattr(OsDisk, "sync_folder", lambda _self, _folder: None)


@pytest.fixture
def sat(tmp_path: Path) -> Sat:
    return Sat(tmp_path, tmp_path / "sat" / "inbox")


def upload(sat: Sat, name: str, octets: bytes) -> None:
    path = sat.ground.folder / name
    path.write_bytes(octets)
    sat.ground.entity.put(path, name, 1.0)


def test_a_result_is_held_at_a_border_in_the_middle_of_its_way_and_goes_on_behind_it(sat: Sat) -> None:
    sat.job(5, {"out.bin": content(200_000)})
    sat.until(lambda: len(list(sat.ground.received.parent.rglob("*"))) > 0 and sat.now_s > 20.0)
    sat.forbidden = "over BOX"
    sat.tick()
    sent = [sat.service.next_pdu() for _ in range(50)]
    assert not any(pdu is not None and len(pdu) > 100 for pdu in sent), "no file data leaves over the box"
    for _ in range(30):
        sat.tick()
    assert sat.delivered == []
    sat.forbidden = ""
    sat.until(lambda: sat.delivered == [(5, "KIRUNA")])


def test_a_bundle_lands_in_the_inbox_and_other_files_in_their_folder(sat: Sat) -> None:
    upload(sat, "mine.job", content(5000))
    upload(sat, "table.bin", content(300))
    sat.until(lambda: len(sat.events("file_received")) == 2)
    assert (sat.folder / "inbox" / "mine.job").read_bytes() == content(5000)
    assert (sat.folder / "files" / "table.bin").read_bytes() == content(300)
    assert sat.events("file_received") == [("mine.job", 5000.0), ("table.bin", 300.0)]


def test_a_satellite_without_customers_takes_no_bundles(tmp_path: Path) -> None:
    sat = Sat(tmp_path)
    upload(sat, "mine.job", content(500))
    sat.until(lambda: len(sat.ground.ended) == 1)
    assert sat.ground.ended[0].state is State.FAILED
    assert sat.events("file_failed") == [("mine.job", "2-1", "failed, filestore_rejection")]


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "x" * 81, ""])
def test_only_plain_names_are_taken(sat: Sat, name: str) -> None:
    upload_path = sat.ground.folder / "source"
    upload_path.write_bytes(b"x")
    sat.ground.entity.put(upload_path, name, 1.0)
    sat.until(lambda: len(sat.ground.ended) == 1)
    assert sat.ground.ended[0].state is State.FAILED


def test_files_are_listed_sent_and_deleted_on_order(sat: Sat) -> None:
    upload(sat, "table.bin", content(3000))
    sat.until(lambda: bool(sat.events("file_received")))
    sat.service.order(FileOrder("list"))
    sat.service.order(FileOrder("get", "table.bin"))
    sat.service.order(FileOrder("get", "table.bin"))
    sat.service.order(FileOrder("delete", "table.bin"))
    sat.until(lambda: bool(sat.events("file_delivered")))
    assert sat.events("file_listed") == [("table.bin", 3000.0)]
    assert sat.events("files_listed")[0][:2] == (1, 0)
    assert sat.events("file_refused") == [("table.bin", "is on its way already"),
                                          ("table.bin", "is on its way to the ground")]
    assert sat.got("table.bin") == content(3000)
    sat.service.order(FileOrder("delete", "table.bin"))
    sat.service.order(FileOrder("get", "table.bin"))
    sat.service.order(FileOrder("get", "../facts-a"))
    sat.tick()
    assert sat.events("file_deleted") == [("table.bin",)]
    assert sat.events("file_refused")[2:] == [("table.bin", "no such file on board"),
                                              ("../facts-a", "no such file on board")]


def test_transfers_are_suspended_resumed_and_cancelled_on_order(sat: Sat) -> None:
    upload(sat, "table.bin", content(100_000))
    sat.until(lambda: len(sat.ground.entity.views()) > 0)
    for _ in range(2):
        sat.tick()
    sat.service.order(FileOrder("suspend", "", 2, 1))
    sat.service.order(FileOrder("resume", "", 2, 1))
    sat.service.order(FileOrder("cancel", "", 2, 1))
    sat.service.order(FileOrder("cancel", "", 2, 99))
    sat.until(lambda: len(sat.ground.ended) == 1)
    assert sat.ground.ended[0].state is State.CANCELLED
    assert sat.events("file_refused") == [("transfer 2-99", "not open")]


def test_a_result_goes_down_by_itself_and_is_then_marked_as_delivered(sat: Sat) -> None:
    outputs = {"mask.bin": bytes(60_000), "log.csv": b"1,2\n"}
    sat.job(7, outputs)
    sat.until(lambda: bool(sat.events("result_delivered")))
    with tarfile.open(fileobj=io.BytesIO(sat.got("job-7.tar.xz"))) as tar:
        assert {member.name: tar.extractfile(member).read() for member in tar} == outputs  # type: ignore[union-attr]
    assert sat.delivered == [(7, "KIRUNA")]
    assert sorted(path.name for path in (sat.folder / "outbox").iterdir()) == ["7.sent"]
    sat.start()
    sat.service.finished(spec(7))  # the ledger still knows it
    for _ in range(50):
        sat.tick()
    assert sat.delivered == [(7, "KIRUNA")]


def test_the_more_valuable_result_goes_first(sat: Sat) -> None:
    sat.station = None
    sat.job(1, {"a": content(50_000, 1)}, value=1.0)
    sat.job(2, {"a": content(50_000, 2)}, value=100.0)
    for _ in range(20):
        sat.tick()
    sat.station = "KIRUNA"
    sat.until(lambda: len(sat.delivered) == 2)
    assert [job_id for job_id, _ in sat.delivered] == [2, 1]


@pytest.mark.parametrize("begun_s", [1.0, 3.0, 60.0])
def test_of_an_erased_result_no_copy_is_left_and_nothing_more_is_sent(sat: Sat, begun_s: float) -> None:
    sat.station = None
    sat.job(7, {"a": content(200_000)})
    sat.job(8, {"a": content(5_000)})
    sat.until(lambda: sat.now_s >= begun_s)  # while it waits, is packed, or is offered
    sat.erased = {7}
    for _ in range(11):
        sat.tick()
    assert not [path.name for path in (sat.folder / "outbox").iterdir() if path.name.startswith(("7", "job-7"))]
    sat.station = "KIRUNA"
    sat.until(lambda: sat.delivered == [(8, "KIRUNA")])
    sat.service.order(FileOrder("get", "job-7.tar.xz"))
    sat.tick()
    assert ("job-7.tar.xz", "no such file on board") in sat.events("file_refused")
    assert not (sat.ground.received / "job-7.tar.xz").exists()


@pytest.mark.parametrize("policy", [DataPolicy(stations=("SVALBARD",)), DataPolicy(data_class=DataClass.RESTRICTED,
                                                                                   stations=("SVALBARD",))])
def test_a_result_waits_for_a_station_that_may_have_it(sat: Sat, policy: DataPolicy) -> None:
    sat.job(7, {"a": content(20_000)}, policy)
    for station in ("KIRUNA", "", None, "KIRUNA"):
        sat.station = station
        for _ in range(30):
            sat.tick()
    assert sat.ground.entity.views() == []
    sat.service.order(FileOrder("get", "job-7.tar.xz"))  # nor on somebody's word
    sat.start()
    for _ in range(30):
        sat.tick()
    assert sat.ground.entity.views() == []
    sat.station = "SVALBARD"
    sat.until(lambda: len(sat.delivered) == 1)
    assert sat.delivered == [(7, "SVALBARD")]


@pytest.mark.parametrize("after", range(0, 14))
def test_a_restart_at_any_tick_loses_and_doubles_nothing(tmp_path: Path, after: int) -> None:
    sat = Sat(tmp_path)
    sat.job(7, {"a": content(70_000)})
    for _ in range(after):
        sat.tick()
    sat.start()
    sat.service.finished(spec(7))
    sat.until(lambda: bool(sat.delivered) and sat.ground.entity.is_idle)
    assert sat.delivered == [(7, "KIRUNA")]
    assert [view.name for view in sat.ground.ended] == ["job-7.tar.xz"]


def test_a_link_that_a_job_left_is_not_followed(sat: Sat, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    sat.job(7, {"a": b"x"})
    output = sat.folder / "job7" / "a"
    output.unlink()
    output.symlink_to(tmp_path / "secret")
    for _ in range(5):
        sat.tick()
    assert sat.events("file_failed")[0][0] == "job-7.tar.xz"
    assert not list((sat.folder / "outbox").glob("*.xz"))


def test_packing_is_repeatable(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content(100_000))
    assert b"".join(compressed([tmp_path / "a"])) == b"".join(compressed([tmp_path / "a"]))


def test_a_full_disk_takes_nothing_in_and_goes_on_when_there_is_room(sat: Sat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RESERVE_OCTETS", 1 << 62)
    upload(sat, "table.bin", content(30_000))
    for _ in range(30):
        sat.tick()
    assert sat.events("file_received") == []
    monkeypatch.setattr(files, "RESERVE_OCTETS", 0)
    sat.until(lambda: bool(sat.events("file_received")))


def test_failed_storage_ends_file_transfer_and_nothing_else(sat: Sat, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(sat, "table.bin", content(30_000))
    sat.tick()

    def fail(_self: OsDisk, _fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(OsDisk, "sync", fail)
    for _ in range(10):
        sat.tick()
    assert len(sat.events("files_failed")) == 1
    assert sat.service.next_pdu() is None
    sat.service.order(FileOrder("get", "x"))
    sat.tick()
    assert "storage failed" in str(sat.events("file_refused")[0][1])
    sat.service.close()


def test_another_medium_takes_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Filestore(tmp_path / "state", lambda name: tmp_path / "far" / name)
    key = files.Key(1, 1)
    assert store.write(key, 0, b"octets")
    renames: list[Path] = []
    original = OsDisk.rename

    def rename(self: OsDisk, source: Path, target: Path) -> None:
        renames.append(source)
        if source.suffix == ".part":
            raise OSError(18, "Invalid cross-device link")
        original(self, source, target)

    monkeypatch.setattr(OsDisk, "rename", rename)
    store.deliver(key, tmp_path / "far" / "a", 6)
    assert (tmp_path / "far" / "a").read_bytes() == b"octets"
    assert not store.has_part(key)

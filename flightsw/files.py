"""Files between satellite and ground: what comes up lands where it belongs, results go down by themselves.

Owns the folders of files, the outbox of results and the satellite's CFDP entity. The supervisor hands it received PDUs,
file orders of telecommands and finished jobs, lets it work once a tick, and takes PDUs for what the line has room for.
Whether a result may go to the station in sight is its data policy's affair (`jobs.policy`).

    files/NAME             what the ground put there or may get; a bundle (NAME.job) goes to the inbox instead
    outbox/NUMBER.json     a finished job whose result is not on the ground: its outputs and the rules for them
    outbox/job-NUMBER.tar.xz   its outputs in one file
    outbox/NUMBER.sent     its result is on the ground
    transfers/             what CFDP keeps (`link.filestore`)

A result is noted before its bundle leaves the shelf, packed a piece a tick, sent by value for each octet, and marked as
delivered when the ground has said that it holds the whole file. When storage fails, files are not transferred any more,
and nothing else is harmed.

Outputs are compressed with LZMA (xz): of what was measured the best on results (docs/files.md), and a hundred times
faster than the line. Its dictionary of 1 MiB keeps the encoder at 12 MiB of memory.
"""

from __future__ import annotations

import json
import lzma
import os
import re
import stat
import tarfile
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from flightsw.errors import LinkError, StoreError
from flightsw.jobs.manifest import DataClass, DataPolicy
from flightsw.jobs.policy import may_downlink_to
from flightsw.link.cfdp import Config, Entity, View
from flightsw.link.cfdp_transfer import State
from flightsw.link.filestore import Filestore, Key
from flightsw.state import Event, FileOrder, JobSpec
from flightsw.store import OsDisk, replace_file

SATELLITE_ENTITY: Final = 1
GROUND_ENTITY: Final = 2
RESERVE_OCTETS: Final = 64 << 20
"""Room on the disk that files leave to the ledger, the recording and the jobs."""

SENT_MAX: Final = 4096
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")
_BUNDLE: Final = ".job"
_TAG: Final = "job "
_ASKED_FOR: Final = 1e12  # value for each octet of what the ground asks for: before every result
_LISTED_MAX: Final = 100
_STEP_OCTETS: Final = 32_768  # compressed in one tick: some 30 ms, three times what the line takes
_BLOCK: Final = 512
_SWEEP_EVERY_S: Final = 10.0
_XZ: Final = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 20}]


class Result(NamedTuple):
    """What a finished job made and by which rules it may leave. `value` is the job's."""

    job_id: int
    value: float
    outputs: tuple[Path, ...]
    policy: DataPolicy


class FileService:
    """The satellite's end of all file transfers. `inbox` is where bundles go, None where none are taken."""

    def __init__(self, folder: Path, inbox: Path | None,
                 result_of: Callable[[JobSpec], Result | None] = lambda _spec: None,
                 delivered: Callable[[int, str, float], None] = lambda _job_id, _station, _obt_s: None,
                 config: Config | None = None,
                 forbids: Callable[[int, str, float], str] = lambda _job_id, _station, _now_s: "",
                 is_kept: Callable[[int], bool] = lambda _job_id: True) -> None:
        """Take up what an earlier life left in `folder`. StoreError when it cannot be used.

        `result_of` tells what a job made and when that is None, that there is nothing to send; `delivered` hears
        of each result that is on the ground, over which station and when; `forbids` says why a job's result may not
        go to a station from where we are now, "" when it may, and is asked as long as one is on its way. What a job
        made is no more sent, and its copies here are deleted, soon after `is_kept` says that it was erased.
        """
        self._files = folder / "files"
        self._outbox = folder / "outbox"
        self._inbox = inbox
        self._result_of = result_of
        self._delivered = delivered
        self._forbids = forbids
        self._is_kept = is_kept
        self._swept_s = float("-inf")
        self._now_s = 0.0
        self._disk = OsDisk()
        try:
            for path in (self._files, self._outbox):
                self._disk.make_folder(path)
            self._results = {result.job_id: result for path in sorted(self._outbox.glob("*.json"))
                             if (result := _read_result(path)) is not None}
            self._sent = sorted(int(path.stem) for path in self._outbox.glob("*.sent"))
        except OSError as e:
            raise StoreError(f"files in {folder}: {e.strerror}") from e
        self._store = Filestore(folder / "transfers", self._place, self._disk)
        self._entity = Entity(config or Config(SATELLITE_ENTITY, GROUND_ENTITY), self._store)
        on_their_way = {view.tag for view in self._entity.views() if not view.state.is_final}
        self._to_pack = [job_id for job_id in self._results if f"{_TAG}{job_id}" not in on_their_way]
        self._packing: Generator[None, None, None] | None = None
        self._packed_job = 0
        self._station: str | None = None
        self._checked_s = 0.0
        self._failure = ""
        self._events = [Event("file_failed", (name, name, "its state was damaged")) for name in self._store.damaged]

    # -- what the supervisor brings

    def receive(self, pdus: Sequence[bytes]) -> None:
        """Take PDUs of accepted frames."""
        if not self._failure:
            try:
                for pdu in pdus:
                    self._entity.receive(pdu)
            except StoreError as e:
                self._fail(e)

    def finished(self, spec: JobSpec) -> None:
        """Note, durably, that a job's result is to be sent; nothing when it was noted before or has none."""
        job_id = spec.job_id
        if self._failure or job_id in self._results or job_id in self._sent:
            return
        result = self._result_of(spec)
        if result is None:
            return
        fields = {"job_id": job_id, "value": result.value, "outputs": [str(path) for path in result.outputs],
                  "data_class": result.policy.data_class.value, "stations": result.policy.stations}
        try:
            replace_file(self._disk, self._outbox / f"{job_id}.json", json.dumps(fields).encode())
        except OSError as e:
            self._fail(StoreError(f"result of job {job_id} not noted: {e}"))
            return
        self._results[job_id] = result
        self._to_pack.append(job_id)

    def order(self, order: FileOrder) -> None:
        """Carry out what a telecommand asks for; the answer is an event."""
        if self._failure:
            self._tell("file_refused", order.name or order.verb, f"storage failed: {self._failure}")
            return
        try:
            if order.verb == "list":
                self._list()
            elif order.verb == "get":
                self._get(order.name)
            elif order.verb == "delete":
                self._delete(order.name)
            else:
                key = Key(order.source_id, order.sequence)
                done = (self._entity.cancel(key) if order.verb == "cancel"
                        else self._entity.suspend(key, order.verb == "suspend"))
                self._hold()  # what goes on may still not be for the station in sight
                if not done:
                    self._tell("file_refused", f"transfer {key}", "not open")
        except StoreError as e:
            self._fail(e)
        except OSError as e:
            self._tell("file_refused", order.name, e.strerror or str(e))

    def work(self, now_s: float, obt_s: float, station: str | None) -> list[Event]:
        """Let a tick's time pass; `station` is the one that hears us, None for none. Return what there is to say."""
        self._now_s = now_s
        if not self._failure:
            try:
                if station != self._station:
                    self._station = station
                    self._hold()
                if now_s - self._swept_s >= _SWEEP_EVERY_S:
                    self._swept_s = now_s
                    for job_id in [job_id for job_id in self._results if not self._is_kept(job_id)]:
                        self._withdraw(job_id)
                self._entity.advance(now_s, station is not None)
                if not self._entity.is_idle and now_s - self._checked_s >= 1.0:
                    self._checked_s = now_s
                    self._hold()
                    self._store.is_full = _free_octets(self._files) < RESERVE_OCTETS
                for view in self._entity.news():
                    self._take(view, obt_s)
                if self._packing is not None or (self._to_pack and self._entity.can_put):
                    self._pack()
            except StoreError as e:
                self._fail(e)
        events, self._events = self._events, []
        return events

    def next_pdu(self) -> bytes | None:
        """Return the PDU that goes on the line next."""
        if self._failure:
            return None
        try:
            return self._entity.next_pdu()
        except StoreError as e:
            self._fail(e)
            return None

    def close(self) -> None:
        """Save what is under way."""
        if not self._failure:
            self._entity.close()

    # -- orders

    def _list(self) -> None:
        entries = sorted((entry.name, entry.stat().st_size) for folder in (self._files, self._outbox)
                         for entry in os.scandir(folder) if _FILE_NAME.fullmatch(entry.name) and entry.is_file()
                         and (folder is self._files or entry.name.endswith(".xz")))
        for name, octets in entries[:_LISTED_MAX]:
            self._tell("file_listed", name, octets)
        active = sum(not view.state.is_final for view in self._entity.views())
        self._tell("files_listed", len(entries), active, _free_octets(self._files))

    def _get(self, name: str) -> None:
        path = self._find(name)
        if path is None:
            return
        if any(view.path == path and view.is_sent and not view.state.is_final for view in self._entity.views()):
            self._tell("file_refused", name, "is on its way already")
            return
        number = re.fullmatch(r"job-(\d+)\.tar\.xz", name) if path.parent == self._outbox else None
        self._put(path, _ASKED_FOR, f"{_TAG}{int(number[1])}" if number else "")

    def _delete(self, name: str) -> None:
        path = self._find(name)
        if path is None:
            return
        if path.parent != self._files or any(view.path == path and not view.state.is_final
                                             for view in self._entity.views()):
            self._tell("file_refused", name, "is on its way to the ground")
            return
        self._disk.unlink(path)
        self._disk.sync_folder(self._files)
        self._tell("file_deleted", name)

    def _find(self, name: str) -> Path | None:
        for folder in (self._files, self._outbox):
            if _FILE_NAME.fullmatch(name) and (folder / name).is_file() and not name.endswith((".json", ".sent")):
                return folder / name
        self._tell("file_refused", name, "no such file on board")
        return None

    # -- transfers

    def _place(self, name: str) -> Path | None:
        if not _FILE_NAME.fullmatch(name):
            return None
        if name.endswith(_BUNDLE):
            return None if self._inbox is None else self._inbox / name
        return self._files / name

    def _put(self, path: Path, density: float, tag: str) -> bool:
        try:
            self._entity.put(path, path.name, density, tag)
        except LinkError as e:
            self._tell("file_refused", path.name, str(e))
            return False
        self._hold()
        return True

    def _hold(self) -> None:
        """Keep back what its policy does not let go to the station in sight; what is not known is not let go."""
        station = self._station or ""
        self._entity.hold(lambda tag: self._may_go(tag, station))

    def _may_go(self, tag: str, station: str) -> bool:
        if not tag:
            return True
        job_id = int(tag.removeprefix(_TAG))
        result = self._results.get(job_id)
        return result is not None and may_downlink_to(result.policy, station) and not self._forbids(
            job_id, station, self._now_s)

    def _take(self, view: View, obt_s: float) -> None:
        """Draw the consequences of a transfer's end, then let it be settled: in this order, so that none is lost."""
        if view.state is not State.DELIVERED:
            self._tell("file_failed", view.name, str(view.key),
                       view.state if view.condition == 0 else f"{view.state}, {view.condition.name.lower()}")
        elif not view.is_sent:
            self._tell("file_received", view.name, float(view.size or 0))
        elif view.tag:
            self._deliver(int(view.tag.removeprefix(_TAG)), view, obt_s)
        else:
            self._tell("file_delivered", view.name, float(view.size or 0))
        self._entity.settle(view.key)

    def _deliver(self, job_id: int, view: View, obt_s: float) -> None:
        """Mark a result as delivered, durably; what it was sent from is not needed any more."""
        if job_id not in self._results:  # was marked before a restart
            return
        try:
            replace_file(self._disk, self._outbox / f"{job_id}.sent", b"")
            for path in (self._outbox / f"{job_id}.json", view.path):
                if path is not None and path.exists():
                    self._disk.unlink(path)
            self._sent.append(job_id)
            for old in self._sent[:-SENT_MAX]:
                self._disk.unlink(self._outbox / f"{old}.sent")
            del self._sent[:-SENT_MAX]
        except OSError as e:
            raise StoreError(f"delivery of job {job_id} not marked: {e}") from e
        del self._results[job_id]
        self._delivered(job_id, self._station or "", obt_s)
        self._tell("result_delivered", job_id, float(view.size or 0))

    # -- results

    def _withdraw(self, job_id: int) -> None:
        """Forget a result that was erased, and every copy of it that was made to be sent."""
        if self._packing is not None and self._packed_job == job_id:
            self._packing.close()
            self._packing = None
        for view in self._entity.views():
            if view.tag == f"{_TAG}{job_id}" and not view.state.is_final:
                self._entity.cancel(view.key)
        packed = self._outbox / f"job-{job_id}.tar.xz"
        try:
            for path in (packed.with_name(packed.name + ".new"), packed, self._outbox / f"{job_id}.json"):
                path.unlink(missing_ok=True)
            self._disk.sync_folder(self._outbox)
        except OSError as e:
            raise StoreError(f"result of job {job_id} not withdrawn: {e}") from e
        del self._results[job_id]

    def _pack(self) -> None:
        """Pack results a piece at a time, one after the other."""
        if self._packing is None:
            self._packed_job = self._to_pack.pop(0)
            result = self._results.get(self._packed_job)
            if result is None:  # delivered or erased in the meantime
                return
            self._packing = self._pack_result(result)
        if next(self._packing, self) is self:
            self._packing = None

    def _pack_result(self, result: Result) -> Generator[None, None, None]:
        path = self._outbox / f"job-{result.job_id}.tar.xz"
        if not path.exists():
            fresh = path.with_name(path.name + ".new")
            try:
                with fresh.open("wb") as file:
                    for piece in compressed(result.outputs):
                        file.write(piece)
                        yield
                    file.flush()
                    os.fsync(file.fileno())
                fresh.rename(path)
                self._disk.sync_folder(self._outbox)
            except OSError as e:  # outputs that are gone, or a full disk: tried again at the next start
                self._tell("file_failed", path.name, f"job {result.job_id}", f"not packed: {e.strerror or e}")
                return
        self._put(path, result.value / max(1, path.stat().st_size), f"{_TAG}{result.job_id}")

    def _fail(self, error: StoreError) -> None:
        self._failure = str(error)
        self._store.close()
        self._tell("files_failed", self._failure)

    def _tell(self, event: str, *args: float | int | str) -> None:
        self._events.append(Event(event, args))


def compressed(paths: Sequence[Path]) -> Generator[bytes, None, None]:
    """Pack files into a tar archive and compress it; yield the octets, many of them empty, a small step each.

    The same files give the same octets: no times, no owners. OSError when one cannot be read.
    """
    encoder = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=_XZ)
    for path in paths:
        with _open_output(path) as file:
            left = os.fstat(file.fileno()).st_size
            head = tarfile.TarInfo(path.name)
            head.size = left
            yield encoder.compress(head.tobuf(tarfile.USTAR_FORMAT))
            padding = -left % _BLOCK
            while left:
                piece = file.read(min(left, _STEP_OCTETS))
                if not piece:
                    raise OSError(f"{path.name} became shorter")
                left -= len(piece)
                yield encoder.compress(piece)
            yield encoder.compress(bytes(padding))
    yield encoder.compress(bytes(2 * _BLOCK)) + encoder.flush()


def _open_output(path: Path) -> BinaryIO:
    """Open what a job left, and nothing that a link in it leads to."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fd = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)
    file = os.fdopen(fd, "rb")
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        file.close()
        raise OSError(f"{path.name} is no regular file")
    return file


def _read_result(path: Path) -> Result | None:
    """Read what was noted of a result; None for what rotted: the ledger still has the job."""
    try:
        fields: dict[str, Any] = json.loads(path.read_bytes())  # Any: JSON values
        policy = DataPolicy(data_class=DataClass(fields["data_class"]), stations=tuple(fields["stations"]))
        return Result(int(fields["job_id"]), float(fields["value"]), tuple(map(Path, fields["outputs"])), policy)
    except (ValueError, KeyError, TypeError):
        return None


def _free_octets(folder: Path) -> int:
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize

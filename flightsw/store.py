"""Durable storage: what was acknowledged survives a power cut, and what rotted is found, never believed.

Owns three on-disk forms: the append-only journal in segments, the A/B snapshots that bound it, and small
critical facts kept three times. Called by the job ledger, the recorder and the composition root, each with
a folder of its own. Never decides what a record means, never retries a failed sync, never reads a clock.

    Store       state = newest valid snapshot + replay of the journal behind it
    TripleFact  mode, boot count, key epoch, counters: three copies, vote, scrub at open, fail closed

A journal record (big-endian) is the design's, section 7:

    magic 4 | length 2 | sequence 8 | previous hash 8 | type 2 | payload <= 8192 | CRC 4

- The top bit of `type` says "same sync as the record before". A damaged stretch that is followed by a
  record without this bit was once synced, so it is rot: it is reported and reading resumes behind it.
  Otherwise it is the torn end of the last write, which nobody was told of: it is cut off, and what is
  left is a prefix of what was written.
- CRC-32 (IEEE 802.3, `zlib`, in C) stands where the design has CRC-32C: up to 11 KiB both detect every
  error of up to three bits (Hamming distance 4; Koopman, DSN 2002), records end below that, and a table
  in Python would take seconds to replay a segment on a small board. It is seeded with the record's
  offset, so that a record quoted inside a payload or written to a wrong place is not valid there.
- The previous hash (BLAKE2b, 8 octets) chains records, so that a stale or swapped one is not accepted.

Disk access goes through the `Disk` protocol, so that tests cut the power at every operation.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from flightsw.errors import StoreError

MAX_PAYLOAD_OCTETS: Final = 8192
MAX_KIND: Final = 0x7FFF
MAX_FACT_OCTETS: Final = 1024

_MAGIC: Final = b"\xf5J\x01\x9c"  # not UTF-8, so no text payload holds it
_HEADER: Final = struct.Struct(">4sHQ8sH")
_CRC: Final = struct.Struct(">I")
_FRAME_OCTETS: Final = _HEADER.size + _CRC.size
_SAME_SYNC: Final = 0x8000

_SNAPSHOT_MAGIC: Final = b"\xf5S\x01\x9c"
_SNAPSHOT: Final = struct.Struct(">4sQQ8sI")  # magic, generation, last sequence covered, its hash, length
_SNAPSHOT_FILES: Final = ("snapshot-a", "snapshot-b")
_SHA256_OCTETS: Final = 32

_FACT_MAGIC: Final = b"\xf5T\x01\x9c"
_FACT: Final = struct.Struct(">4sQH")  # magic, generation, length


class Disk(Protocol):
    """The file operations that storage needs, each as strong as the system call it is named after."""

    def make_folder(self, folder: Path) -> None:
        """Create `folder` and its parents, durably; no error when it exists."""

    def names(self, folder: Path) -> list[str]:
        """Names of the files in `folder`, in any order."""

    def read(self, path: Path) -> bytes:
        """Return the whole file."""

    def open(self, path: Path) -> int:
        """Open for writing and lock; create when absent, never truncate. The name is not yet durable."""

    def write(self, fd: int, offset: int, octets: bytes) -> None:
        """Write all `octets` at `offset`; on OSError any part of them may have been written."""

    def truncate(self, fd: int, length: int) -> None:
        """Cut or extend the file to `length` octets."""

    def sync(self, fd: int) -> None:
        """fdatasync: return only when data and length are on the medium."""

    def close(self, fd: int) -> None:
        """Close, and release the lock."""

    def rename(self, source: Path, target: Path) -> None:
        """Replace `target` atomically. Not durable before `sync_folder`."""

    def unlink(self, path: Path) -> None:
        """Remove a name. Not durable before `sync_folder`."""

    def sync_folder(self, folder: Path) -> None:
        """Make the names in `folder` durable."""


class OsDisk:
    """The operating system's files, made with `mode`. One open for writing is locked against a second process."""

    def __init__(self, mode: int = 0o640) -> None:
        self._mode = mode

    def make_folder(self, folder: Path) -> None:
        """See `Disk`."""
        if not folder.is_dir():
            self.make_folder(folder.parent)
            folder.mkdir(exist_ok=True)
            self.sync_folder(folder.parent)

    def names(self, folder: Path) -> list[str]:
        """See `Disk`."""
        return [path.name for path in folder.iterdir()]

    def read(self, path: Path) -> bytes:
        """See `Disk`."""
        return path.read_bytes()

    def open(self, path: Path) -> int:
        """See `Disk`; BlockingIOError when another process has the file open for writing."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, self._mode)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return fd

    def write(self, fd: int, offset: int, octets: bytes) -> None:
        """See `Disk`."""
        view = memoryview(octets)
        while view:
            written = os.pwrite(fd, view, offset)
            view = view[written:]
            offset += written

    def truncate(self, fd: int, length: int) -> None:
        """See `Disk`."""
        os.ftruncate(fd, length)

    def sync(self, fd: int) -> None:
        """See `Disk`."""
        os.fdatasync(fd)

    def close(self, fd: int) -> None:
        """See `Disk`."""
        os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        """See `Disk`."""
        source.rename(target)

    def unlink(self, path: Path) -> None:
        """See `Disk`."""
        path.unlink()

    def sync_folder(self, folder: Path) -> None:
        """See `Disk`."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class Record(NamedTuple):
    """One journal record: `sequence` counts from 1 over the life of the store, `kind` is its owner's."""

    sequence: int
    kind: int
    payload: bytes


class Damage(NamedTuple):
    """A stretch of a file that was once synced and cannot be read any more."""

    file: str
    offset: int
    octets: int
    records_lost: int


@dataclass(frozen=True, slots=True)
class Recovery:
    """What opening a store found. State is `snapshot` (None: from nothing), then `records` in order.

    `torn_octets` is the unacknowledged end that was cut off (or, indistinguishable from it, rot within
    the last sync). `damages` is loss of synced data, and comes back at each open until it is compacted.
    """

    snapshot: bytes | None
    records: tuple[Record, ...]
    damages: tuple[Damage, ...]
    torn_octets: int


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """Bounds of a store on disk; all that it holds stays below the journal's plus three snapshots'."""

    segment_octets: int = 1 << 20
    journal_octets: int = 8 << 20
    snapshot_octets: int = 4 << 20

    def __post_init__(self) -> None:
        low, high = MAX_PAYLOAD_OCTETS + _FRAME_OCTETS, 4 << 20
        if not low <= self.segment_octets <= high:
            raise StoreError(f"segment of {self.segment_octets} octets outside {low}..{high}")
        # Two snapshot periods are kept, each of up to a segment and one last write of up to another, then
        # the segment that the older period began in, then the write that is under way.
        if self.journal_octets < 6 * self.segment_octets:
            raise StoreError(f"journal limit {self.journal_octets} octets below six segments of {self.segment_octets}")


class Store:
    """An append-only journal with A/B snapshots in one folder, for one owner in one process."""

    def __init__(self, folder: Path, disk: Disk | None = None, limits: StoreLimits | None = None) -> None:
        """Open or create the store and repair its end; `recovery` tells what was found.

        StoreError when the folder cannot be used or another process has it open.
        """
        self._folder = folder
        self._disk: Disk = OsDisk() if disk is None else disk
        self._limits = StoreLimits() if limits is None else limits
        self._failure = ""
        self._fd: int | None = None
        self._segments: dict[int, int] = {}  # first sequence -> octets, in order; the last is written to
        self._slots: dict[str, _Snapshot] = {}
        self._sequence = 0
        self._chain = bytes(8)
        self._octets_since_snapshot = 0
        try:
            self._disk.make_folder(folder)
            self.recovery = self._recover()
        except OSError as e:
            self.close()
            raise StoreError(f"store {folder}: cannot be opened: {e}") from e

    def append(self, kind: int, payload: bytes) -> int:
        """Write one record; return its sequence number once it is on the medium. See `append_many`."""
        return self.append_many(((kind, payload),))

    def append_many(self, items: Sequence[tuple[int, bytes]]) -> int:
        """Write (kind 0..32767, payload) records under one sync; return the last sequence number.

        After a power cut a prefix of the records may be there, never a later one without the earlier.
        StoreError: nothing of the call may be acknowledged. A full disk leaves the store as it was and
        usable; a failed sync ends the store's life, because the kernel drops such pages and forgets it.
        """
        self._check_usable()
        limits, size = self._limits, 0
        for kind, payload in items:
            if not 0 <= kind <= MAX_KIND:
                raise StoreError(f"store {self._folder}: record type {kind} outside 0..{MAX_KIND}")
            if len(payload) > MAX_PAYLOAD_OCTETS:
                raise StoreError(f"store {self._folder}: payload of {len(payload)} octets above {MAX_PAYLOAD_OCTETS}")
            size += len(payload) + _FRAME_OCTETS
        if size == 0:
            return self._sequence
        if size > limits.segment_octets:
            raise StoreError(f"store {self._folder}: {size} octets in one sync above {limits.segment_octets}")
        if self.octets_used + size > limits.journal_octets:
            raise StoreError(f"store {self._folder}: journal full at {self.octets_used} octets: snapshot first")
        first, offset = self._writable_segment(size)
        framed = bytearray()
        sequence, chain, same_sync = self._sequence, self._chain, 0
        for kind, payload in items:
            sequence += 1
            head = _HEADER.pack(_MAGIC, len(payload), sequence, chain, kind | same_sync)
            record = head + payload
            record += _CRC.pack(zlib.crc32(record, offset + len(framed)))
            framed += record
            chain, same_sync = _hash(record), _SAME_SYNC
        self._write_durably(offset, bytes(framed))
        self._segments[first] = offset + size
        self._octets_since_snapshot += size
        self._sequence, self._chain = sequence, chain
        return sequence

    def snapshot(self, state: bytes) -> None:
        """Store `state` as the result of all records so far, then drop what both snapshots cover.

        The older of the two slots is replaced; segments stay until neither slot needs them, so that one
        rotten snapshot costs a longer replay and nothing else. StoreError as for `append_many`.
        """
        self._check_usable()
        if len(state) > self._limits.snapshot_octets:
            raise StoreError(
                f"store {self._folder}: snapshot of {len(state)} octets above {self._limits.snapshot_octets}"
            )
        slot = min(_SNAPSHOT_FILES, key=lambda name: self._slots.get(name, _NO_SNAPSHOT).generation)
        generation = max((s.generation for s in self._slots.values()), default=0) + 1
        taken = _Snapshot(generation, self._sequence, self._chain, b"")
        try:
            replace_file(self._disk, self._folder / slot, _pack_snapshot(taken, state))
        except _SyncError as e:
            raise self._fail(f"snapshot {slot}: {e}") from e
        except OSError as e:
            raise StoreError(f"store {self._folder}: snapshot {slot}: {e}") from e
        self._slots[slot] = taken
        self._octets_since_snapshot = 0
        try:
            self._end_segment()
            self._drop_covered()
        except OSError as e:
            raise self._fail(f"compaction: {e}") from e

    @property
    def snapshot_due(self) -> bool:
        """Whether a segment's worth of records has been written since the last snapshot."""
        return self._octets_since_snapshot >= self._limits.segment_octets

    @property
    def octets_used(self) -> int:
        """Octets of all journal segments."""
        return sum(self._segments.values())

    @property
    def sequence(self) -> int:
        """Sequence number of the last durable record; 0 when there is none."""
        return self._sequence

    @property
    def failure(self) -> str:
        """Why the store refuses writes; empty while it is usable."""
        return self._failure

    def close(self) -> None:
        """Release the segment. Everything acknowledged is on the medium already."""
        self._failure = self._failure or "closed"
        fd, self._fd = self._fd, None
        if fd is not None:
            self._disk.close(fd)

    def _check_usable(self) -> None:
        if self._failure:
            raise StoreError(f"store {self._folder}: refuses writes: {self._failure}")

    def _fail(self, why: str) -> StoreError:
        self._failure = why
        return StoreError(f"store {self._folder}: {why}; no further writes")

    def _writable_segment(self, size: int) -> tuple[int, int]:
        """Return (first sequence, offset) of the open segment that takes `size` octets more."""
        if self._fd is not None:
            first, offset = next(reversed(self._segments.items()))
            if offset + size <= self._limits.segment_octets:
                return first, offset
        first = self._sequence + 1
        try:
            self._end_segment()
            self._fd = self._disk.open(self._folder / _segment_name(first))
        except OSError as e:
            raise StoreError(f"store {self._folder}: new segment: {e}") from e
        self._segments[first] = 0
        try:
            self._disk.sync_folder(self._folder)
        except OSError as e:
            raise self._fail(f"sync of the folder: {e}") from e
        return first, 0

    def _end_segment(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            self._disk.close(fd)

    def _write_durably(self, offset: int, octets: bytes) -> None:
        fd = self._fd
        if fd is None:
            raise self._fail("no open segment")
        try:
            self._disk.write(fd, offset, octets)
        except OSError as e:
            # A full disk: take back the part that was written, so that the journal ends where it ended.
            try:
                self._disk.truncate(fd, offset)
                self._disk.sync(fd)
            except OSError as undo:
                raise self._fail(f"write at {offset}: {e}; taking it back: {undo}") from e
            raise StoreError(f"store {self._folder}: write of {len(octets)} octets: {e}") from e
        try:
            self._disk.sync(fd)
        except OSError as e:
            raise self._fail(f"sync at {offset}: {e}") from e

    def _drop_covered(self) -> None:
        """Remove the segments that lie wholly below both snapshots (an absent one covers nothing)."""
        covered = min(self._slots.get(name, _NO_SNAPSHOT).sequence for name in _SNAPSHOT_FILES)
        firsts = list(self._segments)
        following = zip_longest(firsts, firsts[1:], fillvalue=self._sequence + 1)
        dropped = [first for first, beyond in following if beyond <= covered + 1]
        for first in dropped:
            self._disk.unlink(self._folder / _segment_name(first))
            del self._segments[first]
        if dropped:
            self._disk.sync_folder(self._folder)

    def _recover(self) -> Recovery:
        names = self._disk.names(self._folder)
        damages: list[Damage] = []
        newest = _NO_SNAPSHOT
        for name in _SNAPSHOT_FILES:
            if name in names:
                octets = self._disk.read(self._folder / name)
                found = _unpack_snapshot(octets)
                if found is None:
                    damages.append(Damage(name, 0, len(octets), 0))
                    continue
                self._slots[name] = found._replace(state=b"")
                newest = max(newest, found)
        firsts = sorted(first for first in map(_segment_first, names) if first)
        # What the snapshot covers need not be read, or even be there.
        while len(firsts) > 1 and firsts[1] <= newest.sequence + 1:
            first = firsts.pop(0)
            self._segments[first] = len(self._disk.read(self._folder / _segment_name(first)))
        scan = _Scan(newest)
        for first, following in zip_longest(firsts, firsts[1:]):
            octets = self._disk.read(self._folder / _segment_name(first))
            self._segments[first] = scan.read_segment(first, octets, following)
        end = (scan.sequence, scan.chain or bytes(8))
        self._sequence, self._chain = max(end, (newest.sequence, newest.chain))
        self._octets_since_snapshot = sum(self._segments[first] for first in firsts)
        if firsts:
            # A killed process may have left records or names that were never synced. They are believed
            # from now on, so they are made durable now.
            self._fd = self._disk.open(self._folder / _segment_name(firsts[-1]))
            if scan.torn_octets:
                self._disk.truncate(self._fd, self._segments[firsts[-1]])
            self._disk.sync(self._fd)
            if scan.sequence < newest.sequence:
                self._end_segment()  # its end rotted after the snapshot: numbers go on in a new one
        self._disk.sync_folder(self._folder)
        state = newest.state if newest.generation else None
        return Recovery(state, tuple(scan.records), (*damages, *scan.damages), scan.torn_octets)


class TripleFact:
    """One small fact (up to 1024 octets) in three files, by preference on devices or places far apart.

    Reading takes the majority, else the highest generation, and rewrites every copy that differs. With
    no valid copy it raises: a counter that starts again at zero is worse than a satellite that asks.
    """

    def __init__(self, paths: Sequence[Path], disk: Disk | None = None) -> None:
        """Read, vote and scrub. StoreError when no copy is valid or two differ at one generation."""
        if len(set(paths)) != 3:
            raise StoreError(f"a fact needs three different files, not {len(set(paths))}")
        self._paths = tuple(paths)
        self._disk: Disk = OsDisk() if disk is None else disk
        self._failure = ""
        copies = [self._read(path) for path in self._paths]
        votes = Counter(copy for copy in copies if copy is not None)
        if not votes:
            raise StoreError(f"fact {self._paths[0].name}: none of three copies is valid")
        ranked = sorted(votes, key=lambda copy: (votes[copy] > 1, copy[0]), reverse=True)
        if len(ranked) > 1 and votes[ranked[0]] == 1 and ranked[0][0] == ranked[1][0]:
            raise StoreError(f"fact {self._paths[0].name}: copies differ at generation {ranked[0][0]}")
        self._generation, self._value = ranked[0]
        self.repaired = tuple(path for path, copy in zip(self._paths, copies, strict=True) if copy != ranked[0])
        self._write(self.repaired, self._generation, self._value)

    @classmethod
    def create(cls, paths: Sequence[Path], value: bytes, disk: Disk | None = None) -> TripleFact:
        """Write a fact for the first time. StoreError when any of its files exists, valid or not."""
        fact = cls.__new__(cls)
        fact._paths, fact._disk = tuple(paths), OsDisk() if disk is None else disk
        fact._failure, fact.repaired = "", ()
        try:
            for path in fact._paths:
                fact._disk.make_folder(path.parent)
                if path.name in fact._disk.names(path.parent):
                    raise StoreError(f"fact {path}: exists already")
        except OSError as e:
            raise StoreError(f"fact {fact._paths[0].name}: {e}") from e
        fact._generation, fact._value = 0, b""
        fact.set(value)
        return fact

    @property
    def value(self) -> bytes:
        """The last value that was durably set."""
        return self._value

    def set(self, value: bytes) -> None:
        """Write all three copies, one after the other; return when each is on the medium.

        StoreError: not acknowledged, and the fact refuses writes until it is opened again.
        """
        if self._failure:
            raise StoreError(f"fact {self._paths[0].name}: refuses writes: {self._failure}")
        if len(value) > MAX_FACT_OCTETS:
            raise StoreError(f"fact {self._paths[0].name}: {len(value)} octets above {MAX_FACT_OCTETS}")
        self._write(self._paths, self._generation + 1, value)
        self._generation += 1
        self._value = value

    def _write(self, paths: Sequence[Path], generation: int, value: bytes) -> None:
        octets = _FACT.pack(_FACT_MAGIC, generation, len(value)) + value
        octets += _CRC.pack(zlib.crc32(octets))
        for path in paths:
            try:
                replace_file(self._disk, path, octets)
            except OSError as e:
                self._failure = f"{path}: {e}"
                raise StoreError(f"fact {path}: not written: {e}") from e

    def _read(self, path: Path) -> tuple[int, bytes] | None:
        try:
            octets = self._disk.read(path)
        except OSError:
            return None  # a lost or unreadable copy is what the other two are for
        if len(octets) < _FACT.size + _CRC.size:
            return None
        magic, generation, length = _FACT.unpack_from(octets)
        body, crc = octets[: -_CRC.size], octets[-_CRC.size :]
        if magic != _FACT_MAGIC or length != len(body) - _FACT.size or crc != _CRC.pack(zlib.crc32(body)):
            return None
        return generation, body[_FACT.size :]


class _Snapshot(NamedTuple):
    generation: int
    sequence: int
    chain: bytes
    state: bytes


_NO_SNAPSHOT: Final = _Snapshot(0, 0, bytes(8), b"")


class _Frame(NamedTuple):
    record: Record
    previous: bytes
    same_sync: bool
    end: int
    hash: bytes


class _Scan:
    """Reads segments in order, behind a snapshot: collects records, and what is missing between them."""

    def __init__(self, snapshot: _Snapshot) -> None:
        self.sequence = snapshot.sequence
        self.chain: bytes | None = snapshot.chain  # None: the record before is lost, nothing to compare with
        self.records: list[Record] = []
        self.damages: list[Damage] = []
        self.torn_octets = 0
        self._covered = snapshot.sequence
        self._started = False

    def read_segment(self, first: int, octets: bytes, following: int | None) -> int:
        """Take a segment named `first`; return the octets to keep. `following` is None for the last one."""
        name = _segment_name(first)
        if not self._started:
            self._started = True
            if first > self.sequence + 1:
                self.damages.append(Damage(name, 0, 0, first - 1 - self.sequence))
            if first != self.sequence + 1:
                self.sequence, self.chain = first - 1, None
        offset = 0
        for start, frame in _frames(octets):
            if not self._continues(frame):
                continue
            if start != offset or frame.record.sequence != self.sequence + 1:
                if following is None and all(f.same_sync for _, f in _frames(octets, start)):
                    break  # nothing was synced behind it: the torn end of the last write
                lost = frame.record.sequence - 1 - self.sequence
                self.damages.append(Damage(name, offset, start - offset, lost))
            if frame.record.sequence > self._covered:
                self.records.append(frame.record)
            self.sequence, self.chain, offset = frame.record.sequence, frame.hash, frame.end
        if following is None:
            self.torn_octets = len(octets) - offset
            return offset
        lost = following - 1 - self.sequence
        if lost or offset != len(octets):
            self.damages.append(Damage(name, offset, len(octets) - offset, lost))
        if lost:
            self.sequence, self.chain = following - 1, None
        return len(octets)

    def _continues(self, frame: _Frame) -> bool:
        """Whether the frame may come next: its predecessor's hash fits, or the predecessor is lost."""
        if frame.record.sequence == self.sequence + 1:
            return self.chain is None or frame.previous == self.chain
        return frame.record.sequence > self.sequence


def _frames(octets: bytes, offset: int = 0) -> Iterator[tuple[int, _Frame]]:
    """Yield (offset, frame) of each valid frame from `offset` on, searching for the magic behind damage."""
    while offset >= 0:
        frame = _frame_at(octets, offset)
        if frame is None:
            offset = octets.find(_MAGIC, offset + 1)
        else:
            yield offset, frame
            offset = frame.end


def _frame_at(octets: bytes, offset: int) -> _Frame | None:
    if offset + _FRAME_OCTETS > len(octets):
        return None
    magic, length, sequence, previous, kind = _HEADER.unpack_from(octets, offset)
    body_end = offset + _HEADER.size + length
    end = body_end + _CRC.size
    if magic != _MAGIC or length > MAX_PAYLOAD_OCTETS or end > len(octets):
        return None
    if zlib.crc32(octets[offset:body_end], offset) != _CRC.unpack_from(octets, body_end)[0]:
        return None
    record = Record(sequence, kind & MAX_KIND, octets[offset + _HEADER.size : body_end])
    return _Frame(record, previous, bool(kind & _SAME_SYNC), end, _hash(octets[offset:end]))


def _hash(record: bytes) -> bytes:
    return hashlib.blake2b(record, digest_size=8).digest()


def _segment_name(first: int) -> str:
    return f"journal-{first:016x}"


def _segment_first(name: str) -> int:
    """First sequence number of a segment file, 0 for any other file."""
    prefix, _, digits = name.partition("-")
    if prefix != "journal" or len(digits) != 16 or not set(digits) <= set("0123456789abcdef"):
        return 0
    return int(digits, 16)


def _pack_snapshot(taken: _Snapshot, state: bytes) -> bytes:
    head = _SNAPSHOT.pack(_SNAPSHOT_MAGIC, taken.generation, taken.sequence, taken.chain, len(state))
    octets = head + _CRC.pack(zlib.crc32(head)) + state
    return octets + hashlib.sha256(octets).digest()


def _unpack_snapshot(octets: bytes) -> _Snapshot | None:
    """Return the snapshot, or None unless header CRC, length and SHA-256 of everything agree."""
    state_at = _SNAPSHOT.size + _CRC.size
    if len(octets) < state_at + _SHA256_OCTETS:
        return None
    magic, generation, sequence, chain, length = _SNAPSHOT.unpack_from(octets)
    if magic != _SNAPSHOT_MAGIC or len(octets) != state_at + length + _SHA256_OCTETS:
        return None
    if zlib.crc32(octets[: _SNAPSHOT.size]) != _CRC.unpack_from(octets, _SNAPSHOT.size)[0]:
        return None
    if hashlib.sha256(octets[:-_SHA256_OCTETS]).digest() != octets[-_SHA256_OCTETS:]:
        return None
    return _Snapshot(generation, sequence, chain, octets[state_at : state_at + length])


class _SyncError(OSError):
    """A sync failed: unlike a full disk, nothing that this disk says can be trusted any more."""


def replace_file(disk: Disk, path: Path, octets: bytes) -> None:
    """Replace a file atomically and durably: after a power cut it is the old or the new one, whole."""
    fresh = path.with_name(path.name + ".tmp")
    fd = disk.open(fresh)
    try:
        disk.truncate(fd, 0)
        disk.write(fd, 0, octets)
        try:
            disk.sync(fd)
        except OSError as e:
            raise _SyncError(*e.args) from e
    finally:
        disk.close(fd)
    disk.rename(fresh, path)
    try:
        disk.sync_folder(path.parent)
    except OSError as e:
        raise _SyncError(*e.args) from e

"""Power cuts, bit flips, full disks and failing syncs against the durable store.

`CuttableDisk` keeps, per file and folder, what was synced and what is pending. A cut keeps a random subset of
the pending changes: writes in 512-octet sectors, lengths, and names (POSIX promises no order before a sync).
Each life of a store opens what the cut left, checks it against what was acknowledged, goes on, and is cut
again at a random disk operation: also in the middle of its recovery.
"""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from flightsw.errors import StoreError
from flightsw.store import (
    MAX_KIND,
    MAX_PAYLOAD_OCTETS,
    Damage,
    OsDisk,
    Record,
    Store,
    StoreLimits,
    TripleFact,
)

FOLDER = Path("/s")
SMALL = StoreLimits(segment_octets=MAX_PAYLOAD_OCTETS + 28, journal_octets=50_000, snapshot_octets=20_000)
SECTOR = 512


class PowerCutError(BaseException):
    """Raised by the disk at the chosen operation; nothing in the store may catch it."""


class Inode:
    def __init__(self) -> None:
        self.synced = b""
        self.live = bytearray()
        self.pending: list[tuple[int, bytes] | int] = []  # a write (offset, octets) or a new length

    def survive(self, rng: random.Random) -> None:
        """Become what a power cut leaves."""
        kept = bytearray(self.synced)
        keep_frac = rng.choice((0.0, 0.3, 0.7, 0.95, 1.0))
        for change in self.pending:
            if isinstance(change, int):
                if rng.random() < keep_frac:
                    _resize(kept, change)
                continue
            offset, octets = change
            end = offset + len(octets)
            while offset < end:
                stop = min(end, (offset // SECTOR + 1) * SECTOR)
                if rng.random() < keep_frac:
                    if len(kept) < stop:
                        _resize(kept, stop)
                    kept[offset:stop] = octets[len(octets) - (end - offset) : len(octets) - (end - stop)]
                offset = stop
        if len(kept) > len(self.synced) and rng.random() < 0.3:
            del kept[rng.randint(len(self.synced), len(kept)) :]
        self.synced, self.live, self.pending = bytes(kept), kept, []


def _resize(octets: bytearray, length: int) -> None:
    if length < len(octets):
        del octets[length:]
    else:
        octets.extend(bytes(length - len(octets)))


class CuttableDisk:
    """A disk in memory with one folder; `fuse` operations from now the power is cut."""

    def __init__(self) -> None:
        self.names_synced: dict[str, Inode] = {}
        self.names_live: dict[str, Inode] = {}
        self.names_pending: list[tuple[str, str, Inode | None]] = []  # (name bound, name freed, inode)
        self.files: dict[int, Inode] = {}
        self.fuse = -1
        self.operations = 0
        self.fail_at = -1
        self.fail_errno = errno.EIO
        self.room = 1 << 40
        self.fail: dict[str, OSError] = {}

    def _tick(self, operation: str) -> None:
        if self.fuse == 0:
            raise PowerCutError
        self.fuse -= 1
        self.operations += 1
        if self.operations == self.fail_at:
            raise OSError(self.fail_errno, os.strerror(self.fail_errno))
        if operation in self.fail:
            raise self.fail[operation]

    def cut(self, rng: random.Random) -> None:
        """Lose the power: open files close, names and contents become what survives."""
        names = dict(self.names_synced)
        keep_frac = rng.choice((0.0, 0.5, 1.0))
        for bound, freed, inode in self.names_pending:
            if rng.random() < keep_frac:
                if inode is not None:
                    names[bound] = inode
                names.pop(freed, None)
        for inode in set(names.values()):
            inode.survive(rng)
        self.names_synced, self.names_live, self.names_pending = names, dict(names), []
        self.files.clear()
        self.fuse = -1

    def make_folder(self, folder: Path) -> None:
        self._tick("make_folder")

    def names(self, folder: Path) -> list[str]:
        self._tick("names")
        return list(self.names_live)

    def read(self, path: Path) -> bytes:
        self._tick("read")
        if path.name not in self.names_live:
            raise FileNotFoundError(path)
        return bytes(self.names_live[path.name].live)

    def open(self, path: Path) -> int:
        self._tick("open")
        if path.name not in self.names_live:
            inode = Inode()
            self.names_live[path.name] = inode
            self.names_pending.append((path.name, "", inode))
        fd = max(self.files, default=2) + 1
        self.files[fd] = self.names_live[path.name]
        return fd

    def write(self, fd: int, offset: int, octets: bytes) -> None:
        inode = self.files[fd]
        # A cut in the middle of a write: the part before it may be on the medium.
        if self.fuse == 0:
            inode.pending.append((offset, octets))
        self._tick("write")
        if len(octets) > self.room:
            octets, error = octets[: self.room], OSError(errno.ENOSPC, "no space left")
        else:
            error = None
        self.room -= len(octets)
        inode.pending.append((offset, octets))
        if len(inode.live) < offset + len(octets):
            _resize(inode.live, offset + len(octets))
        inode.live[offset : offset + len(octets)] = octets
        if error is not None:
            raise error

    def truncate(self, fd: int, length: int) -> None:
        self._tick("truncate")
        inode = self.files[fd]
        self.room += max(0, len(inode.live) - length)
        inode.pending.append(length)
        _resize(inode.live, length)

    def sync(self, fd: int) -> None:
        self._tick("sync")
        inode = self.files[fd]
        inode.synced, inode.pending = bytes(inode.live), []

    def close(self, fd: int) -> None:
        del self.files[fd]

    def rename(self, source: Path, target: Path) -> None:
        self._tick("rename")
        inode = self.names_live.pop(source.name)
        self.names_live[target.name] = inode
        self.names_pending.append((target.name, source.name, inode))

    def unlink(self, path: Path) -> None:
        self._tick("unlink")
        del self.names_live[path.name]
        self.names_pending.append(("", path.name, None))

    def sync_folder(self, folder: Path) -> None:
        self._tick("sync_folder")
        self.names_synced, self.names_pending = dict(self.names_live), []


class NoDataSync(CuttableDisk):
    def sync(self, fd: int) -> None:
        self._tick("sync")


class NoFolderSync(CuttableDisk):
    def sync_folder(self, folder: Path) -> None:
        self._tick("sync_folder")


class NoSyncAfterTruncate(CuttableDisk):
    """Takes a cut-off end back without making it durable, as a store that skips that sync would."""

    def __init__(self) -> None:
        super().__init__()
        self.truncated: set[Inode] = set()

    def truncate(self, fd: int, length: int) -> None:
        super().truncate(fd, length)
        self.truncated.add(self.files[fd])

    def sync(self, fd: int) -> None:
        if self.files[fd] in self.truncated:
            self._tick("sync")
            self.truncated.discard(self.files[fd])
        else:
            super().sync(fd)


class Life:
    """What the owner of a store believes: the payloads acknowledged, and those under way at a cut."""

    def __init__(self) -> None:
        self.acknowledged: list[bytes] = []
        self.in_flight: list[bytes] = []

    def check(self, store: Store) -> None:
        """The store holds all that was acknowledged, then a prefix of what was under way, and no more."""
        recovery = store.recovery
        assert recovery.damages == ()
        snapshot = recovery.snapshot or b""
        found = [snapshot[i : i + 8] for i in range(0, len(snapshot), 8)]
        assert [r.sequence for r in recovery.records] == list(
            range(len(found) + 1, len(found) + 1 + len(recovery.records))
        )
        found += [r.payload[:8] for r in recovery.records]
        expected = self.acknowledged + self.in_flight
        assert len(found) >= len(self.acknowledged), "an acknowledged record is lost"
        assert found == expected[: len(found)]
        self.acknowledged, self.in_flight = found, []


def live(disk: CuttableDisk, life: Life, rng: random.Random, number: int) -> None:
    """Open, check, then write until the power is cut."""
    store = Store(FOLDER, disk, SMALL)
    life.check(store)
    for count in range(1_000):
        life.in_flight = [
            (number << 20 | count << 4 | i).to_bytes(8, "big") for i in range(rng.choice((1, 1, 1, 3, 6)))
        ]
        # Payloads from below a sector to several sectors; the first 8 octets are the identity.
        items = [(7, name + bytes(rng.choice((0, 40, 700, 1300)))) for name in life.in_flight]
        if store.snapshot_due or rng.random() < 0.05:
            # Only the last 200 are remembered as state; the model's list is cut the same way.
            store.snapshot(b"".join(life.acknowledged))
        store.append_many(items)
        life.acknowledged, life.in_flight = life.acknowledged + life.in_flight, []


def cut_power(disk: CuttableDisk, cuts: int, seed: int) -> None:
    rng = random.Random(seed)
    life = Life()
    for number in range(cuts):
        if number % 50 == 0:  # a fresh satellite now and then keeps histories short
            disk.__init__()  # type: ignore[misc]  # same object, so that its class stays the variant under test
            life = Life()
        disk.fuse = rng.choice((rng.randint(0, 8), rng.randint(0, 60)))
        with pytest.raises(PowerCutError):
            live(disk, life, rng, number)
        disk.cut(rng)


def test_no_acknowledged_record_is_lost_over_thousands_of_power_cuts() -> None:
    cut_power(CuttableDisk(), 4_000, seed=1)


@pytest.mark.parametrize("disk", [NoDataSync, NoFolderSync, NoSyncAfterTruncate])
def test_the_power_cut_test_catches_a_missing_sync(disk: type[CuttableDisk]) -> None:
    with pytest.raises(AssertionError):
        cut_power(disk(), 4_000, seed=2)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_whatever_operation_fails_nothing_is_acknowledged_falsely(code: int) -> None:
    rng = random.Random(code)
    refusals = 0
    for operation in range(1, 400):
        disk, life = CuttableDisk(), Life()
        disk.fail_at, disk.fail_errno = operation, code
        disk.fuse = operation + rng.randint(0, 30)
        for number in range(operation * 8, operation * 8 + 8):
            try:
                live(disk, life, rng, number)
            except StoreError as e:
                refusals += os.strerror(code) in str(e)
            except PowerCutError:
                break
        disk.cut(rng)
        life.check(Store(FOLDER, disk, SMALL))
    assert refusals > 300


def test_records_come_back_in_order_over_segments_and_snapshots(tmp_path: Path) -> None:
    store = Store(tmp_path / "s", limits=SMALL)
    assert store.recovery.snapshot is None
    assert [store.append(n % 5, bytes([n]) * 900) for n in range(12)] == list(range(1, 13))
    assert store.append_many([(1, b"x"), (MAX_KIND, b"")]) == 14
    store.close()
    again = Store(tmp_path / "s", limits=SMALL)
    assert again.recovery.records[0] == Record(1, 0, bytes(900))
    assert [r.sequence for r in again.recovery.records] == list(range(1, 15))
    assert again.recovery.records[-1] == Record(14, MAX_KIND, b"")
    again.snapshot(b"state")
    assert again.append(3, b"after") == 15
    again.close()
    last = Store(tmp_path / "s", limits=SMALL)
    assert (last.recovery.snapshot, last.recovery.records) == (b"state", (Record(15, 3, b"after"),))
    last.close()


def test_size_stays_bounded_when_snapshots_are_taken_when_due() -> None:
    disk = CuttableDisk()
    store = Store(FOLDER, disk, SMALL)
    largest = 0
    for _ in range(2_000):
        if store.snapshot_due:
            store.snapshot(bytes(5_000))
        store.append(1, bytes(200))
        largest = max(largest, sum(len(inode.live) for inode in disk.names_live.values()))
    assert largest < SMALL.journal_octets + 3 * SMALL.snapshot_octets
    assert store.sequence == 2_000


def test_a_journal_without_snapshots_fills_up_and_says_so() -> None:
    store = Store(FOLDER, CuttableDisk(), SMALL)
    for _ in range(SMALL.journal_octets // 228):
        store.append(1, bytes(200))
    with pytest.raises(StoreError, match=r"journal full .* snapshot first"):
        store.append(1, bytes(200))
    store.snapshot(b"")
    store.snapshot(b"")
    store.append(1, bytes(200))


def test_every_single_bit_flip_is_found_and_the_rest_is_kept() -> None:
    disk = CuttableDisk()
    store = Store(FOLDER, disk, SMALL)
    for n in range(20):
        store.append(n, bytes([n]) * (n * 3))
    store.close()
    (inode,) = disk.names_live.values()
    clean = bytes(inode.live)
    truth = store_records(disk)
    for bit in range(len(clean) * 8):
        inode.live = bytearray(clean)
        inode.live[bit // 8] ^= 1 << bit % 8
        again = Store(FOLDER, disk, SMALL)
        again.close()
        found = again.recovery
        lost = set(truth) - set(found.records)
        assert set(found.records) <= set(truth)
        assert len(lost) == 1
        # In the last sync a flip cannot be told from a torn write; anywhere else it is counted as loss.
        if lost == {truth[-1]}:
            assert found.torn_octets > 0
        else:
            assert [d.records_lost for d in found.damages] == [1]
    inode.live = bytearray(clean)


def store_records(disk: CuttableDisk) -> tuple[Record, ...]:
    store = Store(FOLDER, disk, SMALL)
    store.close()
    assert store.recovery.damages == ()
    return store.recovery.records


def test_random_damage_in_segments_is_never_believed_and_always_reported() -> None:
    rng = random.Random(5)
    disk = CuttableDisk()
    store = Store(FOLDER, disk, SMALL)
    for n in range(40):
        store.append_many([(n, rng.randbytes(rng.randint(0, 500))) for _ in range(rng.randint(1, 3))])
    store.close()
    truth = set(store_records(disk))
    clean = {name: bytes(inode.live) for name, inode in disk.names_live.items()}
    assert len(clean) > 2
    for _ in range(1_500):
        for name, octets in clean.items():
            disk.names_live[name].live = bytearray(octets)
        victim = disk.names_live[rng.choice(sorted(clean))].live
        at = rng.randrange(len(victim))
        span = rng.choice((1, 3, 40, 2_000))
        before = bytes(victim[at : at + span])
        victim[at : at + span] = rng.choice((rng.randbytes(len(before)), bytes(len(before))))
        if victim[at : at + span] == before:
            continue
        again = Store(FOLDER, disk, SMALL)
        again.close()
        found = again.recovery
        assert set(found.records) < truth
        lost = len(truth) - len(found.records)
        counted = sum(d.records_lost for d in found.damages)
        assert counted == lost or (counted < lost and found.torn_octets > 0)


def test_a_lost_segment_is_reported_with_its_record_count() -> None:
    disk = CuttableDisk()
    store = Store(FOLDER, disk, SMALL)
    for _ in range(30):
        store.append(1, bytes(1000))
    store.close()
    middle = sorted(disk.names_live)[1]
    del disk.names_live[middle]
    again = Store(FOLDER, disk, SMALL)
    lost = 30 - len(again.recovery.records)
    assert lost == 7
    (damage,) = again.recovery.damages
    assert damage.records_lost == lost
    assert again.append(1, b"on") == 31


def test_a_rotten_snapshot_costs_a_longer_replay_and_nothing_else() -> None:
    for rotten_first in (False, True):
        disk = CuttableDisk()
        store = Store(FOLDER, disk, SMALL)
        for n in range(1, 31):
            store.append(1, bytes([n]))
            if n % 10 == 0:
                store.snapshot(bytes([n]))
        store.append(1, bytes([31]))
        store.close()
        newest, older = ("snapshot-a", "snapshot-b")
        victim = disk.names_live[newest if rotten_first else older].live
        for bit in range(0, len(victim) * 8, 7):
            victim[bit // 8] ^= 1 << bit % 8
            again = Store(FOLDER, disk, SMALL)
            again.close()
            state, records = again.recovery.snapshot, again.recovery.records
            assert state == (bytes([20]) if rotten_first else bytes([30]))
            assert [r.payload[0] for r in records] == list(range(state[0] + 1, 32))
            assert len(again.recovery.damages) == 1
            victim[bit // 8] ^= 1 << bit % 8


def test_the_end_of_a_covered_segment_may_rot_without_reusing_its_numbers() -> None:
    disk = CuttableDisk()
    store = Store(FOLDER, disk, SMALL)
    for _ in range(3):
        store.append(1, b"old")
    store.snapshot(b"three")
    store.close()
    (segment,) = (name for name in disk.names_live if name.startswith("journal"))
    disk.names_live[segment].live[-1] ^= 1
    again = Store(FOLDER, disk, SMALL)
    assert again.append(1, b"new") == 4
    again.close()
    last = Store(FOLDER, disk, SMALL).recovery
    assert (last.snapshot, last.records, last.damages) == (b"three", (Record(4, 1, b"new"),), ())


def test_a_record_quoted_in_a_payload_is_not_taken_for_one() -> None:
    disk = CuttableDisk()
    store = Store(FOLDER, disk, SMALL)
    store.append(1, b"first")
    (inode,) = disk.names_live.values()
    quoted = bytes(inode.live)
    store.append(2, quoted)
    store.append(3, b"last")
    store.close()
    inode.live[len(quoted)] ^= 0xFF  # the magic of the record that quotes
    recovery = Store(FOLDER, disk, SMALL).recovery
    assert [r.kind for r in recovery.records] == [1, 3]
    assert [d.records_lost for d in recovery.damages] == [1]


def test_a_full_disk_refuses_before_any_acknowledgement_and_recovers() -> None:
    disk = CuttableDisk()
    store = Store(FOLDER, disk, SMALL)
    store.append(1, b"kept")
    for room in range(0, 300, 13):
        disk.room = room
        with pytest.raises(StoreError, match="no space left"):
            store.append_many([(2, bytes(200)), (3, bytes(200))])
    disk.room = 10_000
    assert store.append(4, b"after") == 2
    store.close()
    assert [r.payload for r in store_records(disk)] == [b"kept", b"after"]
    disk.room = 10
    full = Store(FOLDER, disk, SMALL)
    with pytest.raises(StoreError, match="snapshot-a"):
        full.snapshot(bytes(1000))
    disk.room = 10_000
    full.snapshot(b"ok")
    assert full.append(5, b"on") == 3


@pytest.mark.parametrize("operation", ["sync", "sync_folder"])
def test_a_failed_sync_is_fatal(operation: str) -> None:
    disk = CuttableDisk()
    store = Store(FOLDER, disk, SMALL)
    if operation == "sync":
        store.append(1, b"kept")
    disk.fail[operation] = OSError(errno.EIO, "input/output error")
    with pytest.raises(StoreError, match="no further writes"):
        store.append(1, b"lost")
    disk.fail.clear()
    with pytest.raises(StoreError, match="refuses writes"):
        store.append(1, b"never")
    with pytest.raises(StoreError, match="refuses writes"):
        store.snapshot(b"never")
    assert "input/output error" in store.failure


def test_a_failed_undo_of_a_short_write_is_fatal() -> None:
    disk = CuttableDisk()
    store = Store(FOLDER, disk, SMALL)
    store.append(1, b"kept")
    disk.room = 5
    disk.fail["truncate"] = OSError(errno.EIO, "input/output error")
    with pytest.raises(StoreError, match="taking it back"):
        store.append(1, bytes(100))
    assert store.failure


def test_bounds_are_refused_with_value_and_limit(tmp_path: Path) -> None:
    store = Store(tmp_path, limits=SMALL)
    with pytest.raises(StoreError, match=r"8193 octets above 8192"):
        store.append(1, bytes(8193))
    with pytest.raises(StoreError, match=r"type 32768 outside 0\.\.32767"):
        store.append(0x8000, b"")
    with pytest.raises(StoreError, match="in one sync above"):
        store.append_many([(1, bytes(8000)), (1, bytes(8000))])
    with pytest.raises(StoreError, match=r"20001 octets above 20000"):
        store.snapshot(bytes(20_001))
    assert store.append_many([]) == 0
    store.close()
    with pytest.raises(StoreError, match="below six segments"):
        StoreLimits(segment_octets=10_000, journal_octets=59_999)
    with pytest.raises(StoreError, match="outside"):
        StoreLimits(segment_octets=1_000)


def test_a_second_opener_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append(1, b"mine")
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path)
    store.close()
    Store(tmp_path).close()


def test_os_disk_makes_nested_folders_and_refuses_a_file_in_their_place(tmp_path: Path) -> None:
    OsDisk().make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path / "file")


PATHS = tuple(Path(f"/s/mode-{n}") for n in "abc")


def test_fact_power_cuts_lose_no_acknowledged_value() -> None:
    assert fact_cuts(CuttableDisk(), 3_000) == 3_000


@pytest.mark.parametrize("disk", [NoDataSync, NoFolderSync])
def test_the_fact_test_catches_a_missing_sync(disk: type[CuttableDisk]) -> None:
    with pytest.raises((AssertionError, StoreError)):
        fact_cuts(disk(), 3_000)


def fact_cuts(disk: CuttableDisk, cuts: int) -> int:
    rng = random.Random(3)
    fact = TripleFact.create(PATHS, b"0", disk)
    fact.set(b"1")
    acknowledged = attempted = 1
    rotten = False
    for _ in range(cuts):
        disk.fuse = rng.randint(0, 40)
        try:
            fact = TripleFact(PATHS, disk)
            rotten = False
            assert acknowledged <= int(fact.value) <= attempted
            attempted = acknowledged = int(fact.value)
            while True:
                attempted = acknowledged + 1
                fact.set(b"%d" % attempted)
                acknowledged = attempted
        except PowerCutError:
            disk.cut(rng)
            if not rotten and rng.random() < 0.2:  # and one copy rots before the next scrub
                rotten = True
                inode = disk.names_live.get(rng.choice(PATHS).name, Inode())
                inode.live[:1] = b"?"
                inode.synced = bytes(inode.live)
    return cuts


def test_fact_takes_the_majority_scrubs_and_fails_closed(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}" / "mode" for n in range(3)]
    TripleFact.create(paths, b"SAFE").set(b"STANDBY")
    good = paths[0].read_bytes()
    paths[1].write_bytes(b"\x00" * 20)
    paths[2].unlink()
    fact = TripleFact(paths)
    assert (fact.value, fact.repaired) == (b"STANDBY", (paths[1], paths[2]))
    assert [path.read_bytes() for path in paths] == [good] * 3
    assert TripleFact(paths).repaired == ()
    for path in paths:
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(StoreError, match="none of three copies is valid"):
        TripleFact(paths)
    with pytest.raises(StoreError, match="exists already"):
        TripleFact.create(paths, b"SAFE")


def test_every_bit_flip_of_one_copy_is_repaired() -> None:
    disk = CuttableDisk()
    TripleFact.create(PATHS, b"counter=12345", disk)
    size = len(disk.names_live["mode-a"].live)
    for path in PATHS:
        for bit in range(size * 8):
            disk.names_live[path.name].live[bit // 8] ^= 1 << bit % 8
            fact = TripleFact(PATHS, disk)
            assert (fact.value, fact.repaired) == (b"counter=12345", (path,))


def test_fact_refuses_two_different_values_of_one_generation() -> None:
    one, two = CuttableDisk(), CuttableDisk()
    TripleFact.create(PATHS, b"1", one)
    TripleFact.create(PATHS, b"2", two)
    one.names_live["mode-b"] = two.names_live["mode-b"]
    del one.names_live["mode-c"]
    with pytest.raises(StoreError, match="differ at generation 1"):
        TripleFact(PATHS, one)


def test_fact_bounds_and_failure() -> None:
    disk = CuttableDisk()
    fact = TripleFact.create(PATHS, b"1", disk)
    with pytest.raises(StoreError, match="1025 octets above 1024"):
        fact.set(bytes(1025))
    disk.fail["sync"] = OSError(errno.EIO, "input/output error")
    with pytest.raises(StoreError, match="not written"):
        fact.set(b"2")
    disk.fail.clear()
    with pytest.raises(StoreError, match="refuses writes"):
        fact.set(b"2")
    assert fact.value == b"1"
    assert TripleFact(PATHS, disk).value in (b"1", b"2")
    with pytest.raises(StoreError, match="three different files"):
        TripleFact([PATHS[0]] * 3, disk)


def test_damage_is_named_by_file_and_place() -> None:
    disk = CuttableDisk()
    store = Store(FOLDER, disk, SMALL)
    for _ in range(3):
        store.append(1, bytes(10))
    store.close()
    disk.names_live["journal-0000000000000001"].live[40] ^= 1
    assert Store(FOLDER, disk, SMALL).recovery.damages == (Damage("journal-0000000000000001", 38, 38, 1),)

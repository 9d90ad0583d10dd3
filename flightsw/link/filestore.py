"""What file transfers keep on the medium: the state of each one, what was received so far, and the files they end in.

Owns a folder with the transfers' state and parts; `cfdp.Entity` calls it, both ends use it, and the composition root
says where a received file goes (`place`). It never decides anything about a transfer and never reads a clock.

    SOURCE-SEQUENCE.tx    state as JSON and its CRC-32, replaced atomically
    SOURCE-SEQUENCE.part  what was received, at its offsets; means nothing beyond what the state says
    sequence-a b c        how far sequence numbers are used up: a fact kept three times, ahead of use
    lock                  held by the process whose transfers these are

Order is what makes it safe: a part is synced before a state that counts on it, a file is whole and in place before a
state says so. An error of a sync is final for the medium, as everywhere (`store.py`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from flightsw.errors import StoreError
from flightsw.store import Disk, OsDisk, TripleFact, replace_file

Place = Callable[[str], Path | None]
"""Where a received file of that name goes; None when it is not taken."""

_STATE: Final = ".tx"
_PART: Final = ".part"
_RESERVED: Final = 64  # sequence numbers a write
_OPEN_MAX: Final = 32


class Key(NamedTuple):
    """Transaction id: who sends, and its number there."""

    source_id: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.source_id}-{self.sequence}"


class Filestore:
    """The medium under one entity's transfers. StoreError means that it cannot be trusted any more."""

    def __init__(self, folder: Path, place: Place, disk: Disk | None = None) -> None:
        """Open the folder or make it; what an earlier life left is in `saved`, what rotted in `damaged`.

        StoreError when it cannot be used or another process has it open.
        """
        self._folder = folder
        self._place = place
        self._disk: Disk = OsDisk() if disk is None else disk
        self._parts: dict[Key, int] = {}
        self._sources: dict[Path, int] = {}
        self.is_full = False  # set by who watches the disk: nothing more is taken in
        self.saved: dict[Key, dict[str, Any]] = {}  # Any: JSON values
        self.damaged: list[str] = []
        self._lock: int | None = None
        try:
            self._disk.make_folder(folder)
            self._lock = self._disk.open(folder / "lock")
            self._open()
        except BlockingIOError as e:
            raise StoreError(f"transfers {folder}: another program is using them") from e
        except StoreError:
            self.close()
            raise
        except OSError as e:
            self.close()
            raise StoreError(f"transfers {folder}: cannot be opened: {e}") from e
        self._next = self._reserved = int(self._fact.value)

    def _open(self) -> None:
        """Read what is there, and sweep away what belongs to nothing."""
        folder = self._folder
        paths = [folder / f"sequence-{copy}" for copy in "abc"]
        names = self._disk.names(folder)
        if any(path.name in names for path in paths):
            self._fact = TripleFact(paths, self._disk)
        else:
            self._fact = TripleFact.create(paths, b"0", self._disk)
        for name in sorted(names):
            if name.endswith(_STATE):
                self._load(name)
        for name in names:
            if name.endswith((_PART, ".tmp")) and _key(name) not in self.saved:
                self._disk.unlink(folder / name)

    def take_sequence(self) -> int:
        """Return a sequence number that was never used, 1 and up."""
        if self._next == self._reserved:
            self._fact.set(b"%d" % (self._reserved + _RESERVED))
            self._reserved += _RESERVED
        self._next += 1
        return self._next

    # -- state

    def save(self, key: Key, state: Mapping[str, Any]) -> None:
        """Replace a transfer's state, durably."""
        text = json.dumps(state, separators=(",", ":")).encode()
        try:
            replace_file(self._disk, self._state(key), text + b"\n%08x\n" % zlib.crc32(text))
        except OSError as e:
            raise StoreError(f"transfer {key}: state not written: {e}") from e

    def drop(self, key: Key) -> None:
        """Forget a transfer: its state, and its part if there still is one."""
        self.drop_part(key)
        self._unlink(self._state(key))

    def _load(self, name: str) -> None:
        text, _, crc = self._disk.read(self._folder / name).rstrip(b"\n").rpartition(b"\n")
        key = _key(name)
        if key is None or crc != b"%08x" % zlib.crc32(text):
            self.damaged.append(name)
            self._disk.unlink(self._folder / name)
        else:
            self.saved[key] = json.loads(text)

    # -- what is received

    def write(self, key: Key, offset: int, octets: bytes) -> bool:
        """Write a stretch of a part; False when the disk has no room. Not durable before `sync`."""
        if self.is_full:
            return False
        try:
            self._disk.write(self._part(key), offset, octets)
        except OSError:
            return False
        return True

    def sync(self, key: Key) -> None:
        """Return when all that was written of a part is on the medium."""
        fd = self._parts.get(key)
        if fd is not None:
            try:
                self._disk.sync(fd)
            except OSError as e:
                raise StoreError(f"transfer {key}: part not synced: {e}") from e

    def read_part(self, key: Key, offset: int, octets: int) -> bytes:
        """Read a stretch of a part; shorter where it ends."""
        try:
            return os.pread(self._part(key), octets, offset)
        except OSError as e:
            raise StoreError(f"transfer {key}: part not readable: {e}") from e

    def has_part(self, key: Key) -> bool:
        """Whether anything of a transfer was received and not put in place."""
        return key in self._parts or self._part_path(key).exists()

    def drop_part(self, key: Key) -> None:
        """Throw away what was received."""
        self._close_part(key)
        self._unlink(self._part_path(key))

    def target(self, name: str) -> Path | None:
        """Where a file of that name goes; None when it is not taken."""
        return self._place(name)

    def deliver(self, key: Key, target: Path, size: int) -> None:
        """Put a whole part in place under its name, durably."""
        try:
            fd = self._part(key)
            self._disk.truncate(fd, size)
            self._disk.sync(fd)
            self._close_part(key)
            self._disk.make_folder(target.parent)
            self._move(self._part_path(key), target)
            self._disk.sync_folder(target.parent)
            self._disk.sync_folder(self._folder)
        except OSError as e:
            raise StoreError(f"transfer {key}: {target.name} not put in place: {e}") from e

    # -- what is sent

    def size(self, source: Path) -> int | None:
        """Octets of a file that is to be sent; None when it cannot be read."""
        try:
            return os.fstat(self._source(source)).st_size
        except OSError:
            return None

    def read(self, source: Path, offset: int, octets: int) -> bytes | None:
        """Read a stretch of a file that is sent; None when it cannot be read or has become shorter."""
        try:
            read = os.pread(self._source(source), octets, offset)
        except OSError:
            return None
        return read if len(read) == octets else None

    def release(self, source: Path) -> None:
        """Close a file that was sent."""
        fd = self._sources.pop(source, None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        """Let go of every file."""
        for key in [*self._parts]:
            self._close_part(key)
        for source in [*self._sources]:
            self.release(source)
        if self._lock is not None:
            self._disk.close(self._lock)
            self._lock = None

    # -- inside

    def _state(self, key: Key) -> Path:
        return self._folder / f"{key}{_STATE}"

    def _part_path(self, key: Key) -> Path:
        return self._folder / f"{key}{_PART}"

    def _part(self, key: Key) -> int:
        fd = self._parts.get(key)
        if fd is None:
            while len(self._parts) >= _OPEN_MAX:
                oldest = next(iter(self._parts))
                self.sync(oldest)  # what is closed unsynced would be believed by the next checkpoint
                self._close_part(oldest)
            fd = self._parts[key] = self._disk.open(self._part_path(key))
        return fd

    def _close_part(self, key: Key) -> None:
        fd = self._parts.pop(key, None)
        if fd is not None:
            self._disk.close(fd)

    def _source(self, source: Path) -> int:
        fd = self._sources.get(source)
        if fd is None:
            while len(self._sources) >= _OPEN_MAX:
                self.release(next(iter(self._sources)))
            fd = self._sources[source] = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        return fd

    def _move(self, part: Path, target: Path) -> None:
        try:
            self._disk.rename(part, target)
        except OSError as e:
            if e.errno != errno.EXDEV:
                raise
            replace_file(self._disk, target, part.read_bytes())  # onto another medium there is no rename
            self._disk.unlink(part)

    def _unlink(self, path: Path) -> None:
        with contextlib.suppress(OSError):  # what stays by chance is swept at the next opening, or loaded as ended
            self._disk.unlink(path)


def _key(name: str) -> Key | None:
    source, _, sequence = name.partition(".")[0].partition("-")
    return Key(int(source), int(sequence)) if source.isdecimal() and sequence.isdecimal() else None

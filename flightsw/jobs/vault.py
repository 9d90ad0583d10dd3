"""Encryption at rest with a key for each job, and erasure that needs no trust in the medium's copies.

Owns the keys and the sealed files' format. Whoever unpacks a bundle or keeps a result seals and unseals through it;
the supervisor lets it expire what is due. Never decides what may be read, never reads a clock, never draws
randomness by itself (`entropy` is passed in), never writes a key anywhere but into its folder.

Keys. All job keys stand in one keyring, sealed as a whole under the key-encryption key (KEK) of its generation;
KEK and keyring are files of mode 0600, the KEK three times with a vote (`store.TripleFact`), the keyring twice.
To erase, the keys that stay go into a keyring of the next generation under a fresh KEK, and the old KEK is
overwritten, synced and removed: every older copy of the keyring, wherever the medium kept one, is then noise, and
with it every copy of the erased jobs' data. On flash an overwritten sector may live on in a spare one: where that
matters, `folder` lies on a medium that truly overwrites (FRAM) or behind a secure element. An erasure that a power
cut interrupts has either not happened or is completed at the next opening.

Sealed file: `magic 4 | salt 16 | chunks`, each chunk 65,536 octets of plaintext (the last one any number up to that)
and its AES-256-GCM tag. The file's key is HKDF-SHA-256 of the job's key and the fresh salt, so that a nonce, the
chunk's index and whether it is the last, is never used twice under one key (the STREAM construction: Hoang,
Reyhanitabar, Rogaway and Vizar, CRYPTO 2015). Job, file name, index and last flag are authenticated with each chunk:
a change, a cut, another order and a chunk or file from elsewhere are all found. An older version of the same file is
not: its hash in the ledger tells.
"""

from __future__ import annotations

import base64
import json
import os
import stat
import struct
from collections import deque
from collections.abc import Callable, Generator, Mapping
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from flightsw.errors import StoreError
from flightsw.store import Disk, OsDisk, TripleFact, replace_file

Entropy = Callable[[int], bytes]
"""Returns so many octets fit for keys, as `os.urandom`."""

KEYS_MAX: Final = 1024
TOMBSTONES_MAX: Final = 1024
CHUNK_OCTETS: Final = 65_536
CHUNKS_MAX: Final = 1 << 32

Steps = Generator[None, None, None]
"""Work that yields after each 2 MiB, so that no tick waits for it."""

_CHUNKS_A_STEP: Final = 32

_KEY_OCTETS: Final = 32
_NONCE_OCTETS: Final = 12
_TAG_OCTETS: Final = 16
_MAGIC: Final = b"\xf5V\x01\x9c"
_SALT_OCTETS: Final = 16
_CHUNK_NONCE: Final = struct.Struct(">7xI?")  # index, whether it is the last
_KEY_MODE: Final = 0o600


class KeyState(Enum):
    """Where a job's key is in its life; there is no way back from DESTROYED."""

    ACTIVE = "active"
    DESTROYED = "destroyed"


class KeyEntry(NamedTuple):
    """What is known of a job's key, the key itself aside. `expires_obt_s` is None while the job is open."""

    job_id: int
    customer: str
    state: KeyState
    created_obt_s: float
    expires_obt_s: float | None
    destroyed_obt_s: float | None
    reason: str


class KeyDisk(OsDisk):
    """Files that only their owner may read; one that others may read is refused."""

    def __init__(self) -> None:
        super().__init__(_KEY_MODE)

    def read(self, path: Path) -> bytes:
        """See `Disk`."""
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise StoreError(f"key file {path}: mode {mode:o}, must be {_KEY_MODE:o}")
        return super().read(path)


class Vault:
    """The keys of one satellite's jobs. StoreError when they cannot be kept or read: then nothing is sealed."""

    def __init__(self, folder: Path, entropy: Entropy, disk: Disk | None = None) -> None:
        """Open the vault or make one, and complete an erasure that was under way.

        StoreError when a keyring is there and none can be opened: a vault that starts anew would hide the loss.
        """
        self._folder = folder
        self._entropy = entropy
        self._disk: Disk = KeyDisk() if disk is None else disk
        self._failure = ""
        self._keys: dict[int, bytes] = {}
        self._entries: dict[int, KeyEntry] = {}
        self._revision = 0
        self._trouble = ""
        try:
            self._disk.make_folder(folder)
            names = self._disk.names(folder)
            generations = sorted({_generation(name) for name in names if _generation(name)}, reverse=True)
            opened = next((g for g in generations if self._take(g)), 0)
            if not opened and any(name.startswith("keyring-") and not name.endswith(".tmp") for name in names):
                raise StoreError(f"vault {folder}: no keyring can be opened: {self._trouble or 'its key is gone'}")
            if opened:
                self._generation = opened
                self._destroy_all_but(opened)
            else:
                self._destroy_all_but(0)
                self._begin(1)
        except OSError as e:
            raise StoreError(f"vault {folder}: cannot be opened: {e}") from e

    @property
    def entries(self) -> Mapping[int, KeyEntry]:
        """Every key by job, destroyed ones included (the last `TOMBSTONES_MAX`)."""
        return MappingProxyType(self._entries)

    def create(self, job_id: int, customer: str, obt_s: float) -> None:
        """Make a job's key, durably; nothing happens when it has one.

        StoreError when the key was destroyed: what was erased is not begun again under the same number.
        """
        known = self._entries.get(job_id)
        if known is not None:
            if known.state is KeyState.DESTROYED or known.customer != customer:
                raise StoreError(f"vault: job {job_id} has a key of {known.customer!r}, {known.state.value}")
            return
        if len(self._keys) >= KEYS_MAX:
            raise StoreError(f"vault: {len(self._keys)} keys, limit {KEYS_MAX}")
        entry = KeyEntry(job_id, customer, KeyState.ACTIVE, obt_s, None, None, "")
        self._change(self._keys | {job_id: self._draw(_KEY_OCTETS)}, self._entries | {job_id: entry})

    def keep_until(self, job_id: int, expires_obt_s: float) -> None:
        """Set when a job's key is to be destroyed: its end and the retention that its policy grants."""
        entry = self._active(job_id)
        self._change(self._keys, self._entries | {job_id: entry._replace(expires_obt_s=expires_obt_s)})

    def expire(self, obt_s: float) -> tuple[KeyEntry, ...]:
        """Destroy every key that is due; return what became of them."""
        due = [e.job_id for e in self._entries.values()
               if e.state is KeyState.ACTIVE and e.expires_obt_s is not None and e.expires_obt_s <= obt_s]
        return self._destroy(due, obt_s, "retention expired") if due else ()

    def erase_job(self, job_id: int, obt_s: float, reason: str) -> tuple[KeyEntry, ...]:
        """Destroy a job's key; nothing when it has none. On return no copy of its data can be read."""
        entry = self._entries.get(job_id)
        return self._destroy([job_id], obt_s, reason) if entry is not None and entry.state is KeyState.ACTIVE else ()

    def erase_customer(self, customer: str, obt_s: float, reason: str) -> tuple[KeyEntry, ...]:
        """Destroy all keys of a customer's jobs."""
        due = [e.job_id for e in self._entries.values() if e.state is KeyState.ACTIVE and e.customer == customer]
        return self._destroy(due, obt_s, reason) if due else ()

    def seal(self, job_id: int, name: str, source: BinaryIO, target: BinaryIO) -> None:
        """Encrypt `source` into `target` as file `name` of a job, in one pass and constant memory."""
        _exhaust(self._sealing(job_id, name, source, target))

    def _sealing(
        self, job_id: int, name: str, source: BinaryIO, target: BinaryIO, octets_max: int = CHUNKS_MAX * CHUNK_OCTETS
    ) -> Steps:
        self._active(job_id)
        salt = self._draw(_SALT_OCTETS)
        target.write(_MAGIC + salt)
        cipher = _file_cipher(self._keys[job_id], salt)
        index, chunk = 0, _read_whole(source, CHUNK_OCTETS)
        while True:
            following = _read_whole(source, CHUNK_OCTETS) if len(chunk) == CHUNK_OCTETS else b""
            is_last = not following
            target.write(cipher.encrypt(_CHUNK_NONCE.pack(index, is_last), chunk, _label(job_id, name, index, is_last)))
            if is_last:
                return
            index, chunk = index + 1, following
            if index % _CHUNKS_A_STEP == 0:
                yield
            if index * CHUNK_OCTETS >= octets_max:
                raise StoreError(f"file {name} of job {job_id}: above {octets_max} octets")

    def unseal(self, job_id: int, name: str, source: BinaryIO, target: BinaryIO) -> None:
        """Decrypt `source` into `target`. StoreError, naming the chunk, for whatever was not sealed like this.

        Chunks are written as they are verified: `target` is whole only when this returns. `unseal_file` hides that.
        """
        _exhaust(self._unsealing(job_id, name, source, target))

    def _unsealing(self, job_id: int, name: str, source: BinaryIO, target: BinaryIO) -> Steps:
        self._active(job_id)
        where = f"sealed file {name} of job {job_id}"
        head = _read_whole(source, len(_MAGIC) + _SALT_OCTETS)
        if len(head) < len(_MAGIC) + _SALT_OCTETS or head[: len(_MAGIC)] != _MAGIC:
            raise StoreError(f"{where}: begins with {head[:4]!r}, not a sealed file")
        cipher = _file_cipher(self._keys[job_id], head[len(_MAGIC) :])
        index, chunk = 0, _read_whole(source, CHUNK_OCTETS + _TAG_OCTETS)
        while True:
            full = len(chunk) == CHUNK_OCTETS + _TAG_OCTETS
            following = _read_whole(source, CHUNK_OCTETS + _TAG_OCTETS) if full else b""
            is_last = not following
            if len(chunk) < _TAG_OCTETS or index >= CHUNKS_MAX:
                raise StoreError(f"{where}: cut at chunk {index}")
            try:
                plain = cipher.decrypt(_CHUNK_NONCE.pack(index, is_last), chunk, _label(job_id, name, index, is_last))
            except InvalidTag as e:
                raise StoreError(f"{where}: chunk {index} was changed, moved or cut, or is of another file") from e
            target.write(plain)
            if is_last:
                return
            index, chunk = index + 1, following
            if index % _CHUNKS_A_STEP == 0:
                yield

    def seal_file(self, job_id: int, source: Path, target: Path) -> None:
        """Encrypt a file, durably, under its own name; `target` appears whole or not at all."""
        _exhaust(self.sealing_file(job_id, source, target))

    def sealing_file(self, job_id: int, source: Path, target: Path, folder_fd: int | None = None,
                     octets_max: int = CHUNKS_MAX * CHUNK_OCTETS) -> Steps:
        """Do what `seal_file` does, in steps; `source` may be in an open folder.

        StoreError when it is no regular file (links are not followed) or has more than `octets_max`.
        """
        fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise StoreError(f"file {source.name} of job {job_id}: no regular file")
        with os.fdopen(fd, "rb") as plain:
            yield from _writing(target, lambda sealed: self._sealing(job_id, source.name, plain, sealed, octets_max))

    def unseal_file(self, job_id: int, name: str, source: Path, target: Path) -> None:
        """Decrypt a file; `target` appears only when all of it is authentic."""
        _exhaust(self.unsealing_file(job_id, name, source, target))

    def unsealing_file(self, job_id: int, name: str, source: Path, target: Path) -> Steps:
        """Do what `unseal_file` does, in steps."""
        with source.open("rb") as sealed:
            yield from _writing(target, lambda plain: self._unsealing(job_id, name, sealed, plain))

    # -- inside

    def _active(self, job_id: int) -> KeyEntry:
        entry = self._entries.get(job_id)
        if entry is None:
            raise StoreError(f"vault: job {job_id} has no key")
        if entry.state is KeyState.DESTROYED:
            raise StoreError(f"vault: the key of job {job_id} was destroyed: {entry.reason}")
        return entry

    def _draw(self, octets: int) -> bytes:
        drawn = self._entropy(octets)
        if len(drawn) != octets or not any(drawn):
            raise StoreError(f"vault: the random source gave {len(drawn)} octets, or zeros, where {octets} were asked")
        return drawn

    def _destroy(self, job_ids: list[int], obt_s: float, reason: str) -> tuple[KeyEntry, ...]:
        self._check_usable()
        entries = dict(self._entries)
        for job_id in job_ids:
            # Behind the others: the tombstones that are forgotten first are the oldest.
            entries[job_id] = entries.pop(job_id)._replace(state=KeyState.DESTROYED, destroyed_obt_s=obt_s,
                                                           reason=reason)
        dead = [e.job_id for e in entries.values() if e.state is KeyState.DESTROYED]
        for job_id in dead[: max(0, len(dead) - TOMBSTONES_MAX)]:
            del entries[job_id]
        keys = {job_id: key for job_id, key in self._keys.items() if job_id not in job_ids}
        self._keys, self._entries = keys, entries  # first: what is not erased for certain is not used either
        try:
            self._begin(self._generation + 1)
            self._destroy_all_but(self._generation)
        except (OSError, StoreError) as e:
            raise self._fail(f"erasure not completed: {e}") from e
        return tuple([entries[job_id] for job_id in job_ids if job_id in entries])

    def _change(self, keys: dict[int, bytes], entries: dict[int, KeyEntry]) -> None:
        self._check_usable()
        try:
            self._write_keyring(self._generation, self._kek, self._revision + 1, keys, entries)
        except OSError as e:
            raise self._fail(f"keyring not written: {e}") from e
        self._revision += 1
        self._keys, self._entries = keys, entries

    def _begin(self, generation: int) -> None:
        """Put everything under a fresh KEK. From its first whole keyring on the new generation is the valid one."""
        kek = self._draw(_KEY_OCTETS)
        TripleFact.create(self._kek_paths(generation), kek, self._disk)
        self._write_keyring(generation, kek, self._revision + 1, self._keys, self._entries)
        self._generation, self._kek = generation, kek
        self._revision += 1

    def _write_keyring(self, generation: int, kek: bytes, revision: int, keys: Mapping[int, bytes],
                       entries: Mapping[int, KeyEntry]) -> None:
        plain = json.dumps({
            "revision": revision,
            "entries": [[*e[:2], e.state.value, *e[3:]] for e in entries.values()],
            "keys": {job_id: base64.b64encode(key).decode() for job_id, key in keys.items()},
        }).encode()
        nonce = self._draw(_NONCE_OCTETS)
        sealed = _MAGIC + nonce + AESGCM(kek).encrypt(nonce, plain, b"keyring %d" % generation)
        for path in self._keyring_paths(generation):
            replace_file(self._disk, path, sealed)

    def _take(self, generation: int) -> bool:
        """Open a generation's keyring, the newer copy of two; False when there is none that can be opened."""
        try:
            kek = TripleFact(self._kek_paths(generation), self._disk).value
        except StoreError as e:
            self._trouble = str(e)
            return False
        found: dict[str, Any] = {}  # Any: JSON values
        stale: list[Path] = []
        newest = b""
        for path in self._keyring_paths(generation):
            try:
                sealed = self._disk.read(path)
                head = len(_MAGIC) + _NONCE_OCTETS
                plain = AESGCM(kek).decrypt(sealed[len(_MAGIC) : head], sealed[head:], b"keyring %d" % generation)
                content = json.loads(plain)
            except (FileNotFoundError, InvalidTag, ValueError):
                stale.append(path)
                continue
            if found and content["revision"] != found["revision"]:
                stale.append(path)
            if not found or content["revision"] > found["revision"]:
                found, newest = content, sealed
        if not found:
            return False
        self._kek, self._revision = kek, found["revision"]
        self._entries = {
            fields[0]: KeyEntry(fields[0], fields[1], KeyState(fields[2]), *fields[3:]) for fields in found["entries"]
        }
        self._keys = {int(job_id): base64.b64decode(key) for job_id, key in found["keys"].items()}
        if stale:
            for path in self._keyring_paths(generation):
                replace_file(self._disk, path, newest)
        return True

    def _destroy_all_but(self, generation: int) -> None:
        """Overwrite, sync and remove every KEK of another generation, then what they open."""
        others = [name for name in self._disk.names(self._folder)
                  if _generation(name) != generation or name.endswith(".tmp")]
        for name in sorted(others):  # `kek` before `keyring`
            path = self._folder / name
            if name.startswith("kek-"):
                fd = self._disk.open(path)
                try:
                    self._disk.write(fd, 0, bytes(len(self._disk.read(path))))
                    self._disk.sync(fd)
                finally:
                    self._disk.close(fd)
            self._disk.unlink(path)
        if others:
            self._disk.sync_folder(self._folder)

    def _kek_paths(self, generation: int) -> list[Path]:
        return [self._folder / f"kek-{generation:08d}-{copy}" for copy in "abc"]

    def _keyring_paths(self, generation: int) -> list[Path]:
        return [self._folder / f"keyring-{generation:08d}-{copy}" for copy in "ab"]

    def _check_usable(self) -> None:
        if self._failure:
            raise StoreError(f"vault {self._folder}: refuses changes: {self._failure}")

    def _fail(self, why: str) -> StoreError:
        self._failure = why
        return StoreError(f"vault {self._folder}: {why}; no further changes")


def _generation(name: str) -> int:
    """Generation that a file of the vault belongs to, 0 for any other file."""
    kind, _, rest = name.partition("-")
    return int(rest[:8]) if kind in ("kek", "keyring") and rest[:8].isdecimal() else 0


def _file_cipher(key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), _KEY_OCTETS, salt, b"flightsw sealed file").derive(key))


def _label(job_id: int, name: str, index: int, is_last: bool) -> bytes:
    return struct.pack(">QI?", job_id, index, is_last) + name.encode()


def _read_whole(source: BinaryIO, octets: int) -> bytes:
    """Read exactly so many octets, or up to the end: a raw stream may give fewer at a time."""
    parts, missing = [], octets
    while missing:
        part = source.read(missing)
        if not part:
            break
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _exhaust(steps: Steps) -> None:
    deque(steps, maxlen=0)


def _writing(target: Path, fill: Callable[[BinaryIO], Steps]) -> Steps:
    """Let `fill` write a file of mode 0600, then show it under its name, durably; on any error it is gone.

    Each step is on the medium before the next, so that the last one does not wait for all of it.
    """
    fresh = target.with_name(target.name + ".tmp")
    fresh.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _KEY_MODE), "wb") as file:
            for _ in fill(file):
                file.flush()
                os.fdatasync(file.fileno())
                yield
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(target)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    OsDisk().sync_folder(target.parent)

"""A job's saved state: a folder whose last file, MARK, says what must be in it.

    checkpoint/MARK    {"done_units": 40, "files": {"state.npy": "<SHA-256 in hex>", ...}}

Owns the check of such a folder and its places in a job's folder: the job writes into `checkpoint`, and MARK last;
what was checked is kept as `checkpoint.good`, from which the job starts again. Called by the runner, a piece at a
time, before a job counts as saved, and by `launch` before it is started from there. Whatever the job wrote there
is judged, never followed: no links, no devices, no more files and octets than it may have.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

WRITTEN, GOOD, BAD = "checkpoint", "checkpoint.good", "checkpoint.bad"
MARK: Final = "MARK"
REQUEST: Final = "checkpoint.request"
"""File in the job's folder that asks for a checkpoint: {"deadline_s": seconds it has}; SIGUSR1 comes with it."""

_OLD: Final = "checkpoint.old"
_FILES_MAX: Final = 256
_MARK_OCTETS_MAX: Final = 65_536
_HASH_OCTETS_A_STEP: Final = 4 << 20  # about 10 ms on a small board
_FILE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class Checkpoint(NamedTuple):
    """A checkpoint whose every file is as MARK says; `mark_sha256` names it."""

    done_units: int
    files: int
    octets: int
    mark_sha256: str


def is_written(folder: Path) -> bool:
    """Whether the job in `folder` says that its checkpoint is complete."""
    return os.path.lexists(folder / WRITTEN / MARK)


def check(folder: Path, octets_max: int) -> Generator[None, None, Checkpoint]:
    """Compare the checkpoint in `folder` with its MARK and make it durable; yields after each 4 MiB.

    ValueError says what is wrong with it, OSError what cannot be read.
    """
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with _regular_file(MARK, folder_fd) as mark:
            octets = mark.read(_MARK_OCTETS_MAX + 1)
        done_units, files = _parse(octets)
        room = octets_max
        for name, expected in files.items():
            digest = hashlib.sha256()
            with _regular_file(name, folder_fd) as file:
                while piece := file.read(_HASH_OCTETS_A_STEP):
                    room -= len(piece)
                    if room < 0:
                        raise ValueError(f"{name}: checkpoint is larger than {octets_max} octets")
                    digest.update(piece)
                    yield
                os.fsync(file.fileno())
            if digest.hexdigest() != expected:
                raise ValueError(f"{name}: SHA-256 is {digest.hexdigest()}, {MARK} says {expected}")
        os.fsync(folder_fd)
    finally:
        os.close(folder_fd)
    return Checkpoint(done_units, len(files), octets_max - room, hashlib.sha256(octets).hexdigest())


def names(folder_fd: int) -> tuple[str, ...]:
    """Return the files of the checkpoint in an open folder, MARK last. ValueError and OSError as from `check`."""
    with _regular_file(MARK, folder_fd) as mark:
        return (*_parse(mark.read(_MARK_OCTETS_MAX + 1))[1], MARK)


def keep(folder: Path) -> None:
    """Make what was checked the good checkpoint, in steps of which each leaves a good one behind."""
    remove(folder / _OLD)
    with contextlib.suppress(FileNotFoundError):
        (folder / GOOD).rename(folder / _OLD)
    (folder / WRITTEN).rename(folder / GOOD)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    remove(folder / _OLD)


def prepare(folder: Path) -> bool:
    """Clear away what an interrupted checkpoint left; return whether there is a good one to start from."""
    remove(folder / WRITTEN)
    remove(folder / REQUEST)
    if os.path.lexists(folder / _OLD) and not os.path.lexists(folder / GOOD):
        (folder / _OLD).rename(folder / GOOD)  # cut off between the steps of `keep`
    remove(folder / _OLD)
    return os.path.lexists(folder / GOOD)


def reject(folder: Path) -> None:
    """Put a good checkpoint aside that is good no more; kept for who wants to know why."""
    remove(folder / BAD)
    (folder / GOOD).rename(folder / BAD)


def clear(folder: Path) -> None:
    """Forget every checkpoint, so that the job starts from the beginning."""
    for name in (WRITTEN, REQUEST, GOOD, BAD, _OLD):
        remove(folder / name)


def _parse(octets: bytes) -> tuple[int, dict[str, str]]:
    if len(octets) > _MARK_OCTETS_MAX:
        raise ValueError(f"{MARK}: larger than {_MARK_OCTETS_MAX} octets")
    try:
        content = json.loads(octets)
        done_units, files = content["done_units"], content["files"]
        valid = type(done_units) is int and 0 <= done_units <= 10**12 and len(files) <= _FILES_MAX and all(
            _FILE.fullmatch(name) and _SHA256.fullmatch(sha256) for name, sha256 in files.items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise ValueError(f"{MARK}: not readable: {e!r}") from e
    if not valid:
        raise ValueError(f"{MARK}: want done_units 0..1e12 and up to {_FILES_MAX} plain file names with a SHA-256 each")
    return done_units, files


@contextlib.contextmanager
def _regular_file(name: str, folder_fd: int) -> Iterator[BinaryIO]:
    """Open without following links or waiting for a device."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError(f"{name}: no regular file")
        yield file


def remove(path: Path) -> None:
    """Remove a file, link or folder that may not be there. What a link leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

"""Files of link keys: one secret file, and beside it three copies of each end's counters.

    FILE                one line a key: SPI, 64 hexadecimal digits, whose; mode 0600
    FILE.board-a .. -c  the satellite's counters and states of its slots
    FILE.ground-a .. -c the ground's

Keys and counters are made together and live together: a key file whose counters are gone is refused, for nobody could
say which counters are used. One process at a time holds one end. Both programs use this module; `flightsw/link/keys.py`
says what the keys are for.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from flightsw.errors import ConfigError, StoreError
from flightsw.link.keys import Key, KeyRing, Keys, first_marks
from flightsw.store import TripleFact

DEFAULT_FILE = Path("~/.flightsw/link.keys")
"""Outside every repository; what both programs take where nothing else is said."""

_HEAD = "# Link keys. SECRET: who can read this file can command the satellite."


class End(StrEnum):
    """Whose counters."""

    BOARD = "board"
    GROUND = "ground"


def write_keys(path: Path, keys: Keys, *, is_secret: bool = True) -> None:
    """Write a new key file and both ends' counters at zero; ConfigError where it may not be.

    Keys that are not secret, a rig's, may lie in a repository.
    """
    path = path.expanduser().absolute()
    inside = next((folder for folder in path.parents if (folder / ".git").exists()), None)
    if is_secret and inside is not None:
        raise ConfigError(str(path), f"lies in the repository {inside}; keys are kept outside")
    lines = [_HEAD, f"spacecraft {keys.scid}", *(f"{key.spi} {key.octets.hex()} {key.name}" for key in keys.keys)]
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for end in End:
            TripleFact.create(_marks(path, end), first_marks(keys))
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except (OSError, StoreError) as error:
        raise ConfigError(str(path), f"cannot be made: {getattr(error, 'strerror', None) or error}") from error


def read_keys(path: Path) -> Keys:
    """Read a key file; ConfigError where it is not one, or others than its owner may touch it."""
    path = path.expanduser()
    try:
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            lines = [line.split(maxsplit=2) for line in file if line.strip() and not line.startswith("#")]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if mode & 0o077:
        raise ConfigError(str(path), f"has mode {mode:04o}: others may touch it; chmod 600")
    try:
        (word, scid), *rows = lines
        keys = Keys(int(scid), tuple([Key(int(spi), name.strip(), bytes.fromhex(key)) for spi, key, name in rows]))
    except ValueError as error:
        raise ConfigError(str(path), "is not a file of link keys") from error
    if word != "spacecraft" or not keys.keys or len({key.spi for key in keys.keys}) != len(keys.keys) or any(
            len(key.octets) != 32 or not 0 < key.spi < 0xFFFF for key in keys.keys):
        raise ConfigError(str(path), "is not a file of link keys")
    return keys


@contextmanager
def open_ring(path: Path, end: End, scid: int) -> Iterator[KeyRing]:
    """Hold one end's keys and counters; on the way out write down exactly what is used.

    ConfigError where the file is of another spacecraft or another process holds this end, StoreError where the
    counters are gone.
    """
    path = path.expanduser()
    keys = read_keys(path)
    if keys.scid != scid:
        raise ConfigError(str(path), f"has keys of spacecraft {keys.scid}, this is {scid}")
    marks = _marks(path, end)
    lock = os.open(marks[0].with_name(f"{path.name}.{end}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(str(path), f"another process holds the {end}'s end of these keys") from error
        ring = KeyRing(keys, TripleFact(marks))
        try:
            yield ring
        finally:
            ring.close()
    finally:
        os.close(lock)


def _marks(path: Path, end: End) -> tuple[Path, ...]:
    return tuple([path.with_name(f"{path.name}.{end}-{copy}") for copy in "abc"])

"""Landlock: a process gives up the file system, but for what is listed (landlock(7), Linux 5.13 and later).

Called by `launch` in the process that becomes a job. Uses the rights of whatever version the kernel has: 1 files,
2 links between folders, 3 truncation, 4 TCP ports, 5 device controls, 6 signals and abstract sockets.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

# The numbers are the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_WANTED: Final = 1
_PATH_BENEATH: Final = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 1 << 1, 1 << 2, 1 << 3
_READ: Final = _EXECUTE | _READ_FILE | _READ_DIR
_FILE_RIGHTS: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14 | 1 << 15  # truncate, ioctl_dev
_RIGHTS_OF_VERSION: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_RIGHTS: Final = (1 << 16) - 1
_NET_RIGHTS: Final = 3  # bind and connect
_SCOPES: Final = 3  # abstract sockets and signals
_RULESET: Final = struct.Struct("=QQQ")
_RULE: Final = struct.Struct("=Qi")


def version() -> int:
    """Return the kernel's version of Landlock, 0 for none."""
    return max(0, _call(_CREATE_RULESET, None, 0, _VERSION_WANTED))


def restrict(read_only: Iterable[str], read_write: Iterable[str]) -> None:
    """Take everything but these trees from this process and its children, for good.

    A path that is not there is passed over. OSError when the kernel refuses.
    """
    known = version()
    rights = _RIGHTS_OF_VERSION.get(known, _RIGHTS)
    attributes = _RULESET.pack(rights, _NET_RIGHTS if known >= 4 else 0, _SCOPES if known >= 6 else 0)
    length = 8 if known < 4 else 16 if known < 6 else 24
    ruleset = _checked(_CREATE_RULESET, attributes, length, 0)
    try:
        for paths, allowed in ((read_only, _READ), (read_write, rights)):
            for path in paths:
                _allow(ruleset, path, allowed & rights)
        _checked(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not Path(path).is_dir():
            rights &= _FILE_RIGHTS
        _checked(_ADD_RULE, ruleset, _PATH_BENEATH, _RULE.pack(rights, fd), 0)
    finally:
        os.close(fd)


def _call(number: int, *arguments: int | bytes | None) -> int:
    words = [ctypes.c_char_p(word) if isinstance(word, bytes) or word is None else ctypes.c_long(word)
             for word in arguments]
    return int(ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *words))


def _checked(number: int, *arguments: int | bytes | None) -> int:
    result = _call(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock: {os.strerror(code)}")
    return result

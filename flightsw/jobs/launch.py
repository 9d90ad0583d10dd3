"""Become a job: set the limits that only the process itself can set, then run its command in its place.

Run by `ProcessRunner` as a program of its own; the supervisor knows only where the file is. A program
between supervisor and job costs some milliseconds once and keeps Python code out of the moment between
fork and exec, where it would wait for ever on a lock that another thread held. It reads nothing else.

    python -I -S launch.py PARENT_PID MEMORY_OCTETS FILE_OCTETS FOLDER COMMAND...
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_MAPPED_ALLOWANCE_OCTETS = 1 << 30  # address space for code and libraries, which are mapped and not memory
_NICE = 10  # the supervisor comes first


def main(argv: list[str]) -> None:
    """Set limits and exec; return only by SystemExit 127 when the command cannot be run."""
    parent_pid, memory_octets, file_octets = (int(word) for word in argv[1:4])
    folder, command = argv[4], argv[5:]
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for option, value in ((_PR_SET_PDEATHSIG, signal.SIGKILL), (_PR_SET_NO_NEW_PRIVS, 1)):
        if prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
            raise SystemExit(f"launch: prctl {option}: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent_pid:
        raise SystemExit("launch: the supervisor died before the job began")
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_DATA: memory_octets,
        resource.RLIMIT_AS: memory_octets + _MAPPED_ALLOWANCE_OCTETS,
        resource.RLIMIT_FSIZE: file_octets,
        resource.RLIMIT_NOFILE: 256,
    }
    for limit, value in limits.items():
        hard = resource.getrlimit(limit)[1]
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (bounded, bounded))
    os.nice(_NICE)
    try:
        os.chdir(folder)
        os.execvp(command[0], command)
    except OSError as e:
        sys.stderr.write(f"launch: {command[0]}: {e.strerror}\n")
        raise SystemExit(127) from e


if __name__ == "__main__":
    main(sys.argv)

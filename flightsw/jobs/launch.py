"""Become a job: set the limits that only the process itself can set, then run its command in its place.

Run by `ProcessRunner` as a program of its own; the supervisor knows only where the file is. A program between
supervisor and job costs some milliseconds once and keeps Python code out of the moment between fork and exec,
where it would wait for ever on a lock that another thread held. It reads nothing but its order and, where the job
has one, its checkpoint.

    python -I -S launch.py outside ORDER COMMAND...     what holds the sandbox program too; starts that, if any
    python -I -S launch.py inside ORDER COMMAND...      what holds the job alone; becomes its command

ORDER is an `Order` as JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Final, NamedTuple

# Isolated mode finds nothing of ours by itself; behind the library, so that nothing of ours shadows it.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from flightsw.jobs import checkpoint, landlock

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_MAPPED_ALLOWANCE_OCTETS = 1 << 30  # address space for code and libraries, which are mapped and not memory
_NICE = 10  # the supervisor comes first
# A sandbox program gets the job's signals with its group, and must not end by them.
_SIGNALS_FOR_THE_JOB: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class Order(NamedTuple):
    """How to become a job. Limits of 0 are not set; empty words, paths and filters mean without.

    `wrapper` is the sandbox program with its arguments; the filter is then its to load. `user` is the job's user
    and group (0: stay who we are). `read_write` empty: no Landlock.
    """

    parent_pid: int
    folder: str
    memory_octets: int
    file_octets: int
    processes: int
    cpu_s: int
    user: int
    cgroup_entry: str
    wrapper: tuple[str, ...]
    seccomp_hex: str
    read_only: tuple[str, ...]
    read_write: tuple[str, ...]
    checkpoint_octets: int


def main(argv: list[str]) -> None:
    """Do one stage; return only by SystemExit, 127 when the command cannot be run."""
    stage, order, command = argv[1], Order(*json.loads(argv[2])), argv[3:]
    try:
        if stage == "outside":
            _outside(order, command)
        _inside(order, command)
    except OSError as e:
        sys.stderr.write(f"launch: {e.strerror}" + (f": {e.filename}\n" if e.filename else "\n"))
        raise SystemExit(126) from e


def _outside(order: Order, command: list[str]) -> None:
    """Bind our end to the supervisor's and go into the cgroup; with a sandbox program, become that."""
    _die_with(order.parent_pid)
    if order.cgroup_entry:
        Path(order.cgroup_entry).write_text("0")
    if order.checkpoint_octets:
        _judge_checkpoint(order)
    for number in _SIGNALS_FOR_THE_JOB:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.nice(_NICE)
    if not order.wrapper:
        return
    words = [*order.wrapper]
    if order.seccomp_hex:
        filter_fd = os.memfd_create("seccomp", 0)
        os.write(filter_fd, bytes.fromhex(order.seccomp_hex))
        os.lseek(filter_fd, 0, os.SEEK_SET)
        words += ["--seccomp", str(filter_fd)]
    inner = json.dumps(order._replace(parent_pid=0, seccomp_hex="", wrapper=()))
    os.execv(words[0], [*words, "--", sys.executable, "-I", "-S", __file__, "inside", inner, *command])


def _inside(order: Order, command: list[str]) -> None:
    """Set limits, give up rights, run the command."""
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_DATA: order.memory_octets,
        resource.RLIMIT_AS: order.memory_octets + _MAPPED_ALLOWANCE_OCTETS,
        resource.RLIMIT_FSIZE: order.file_octets,
        resource.RLIMIT_NOFILE: 256,
    }
    if order.processes:
        limits[resource.RLIMIT_NPROC] = order.processes
    if order.cpu_s:
        limits[resource.RLIMIT_CPU] = order.cpu_s
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if order.read_write:
        landlock.restrict(order.read_only, order.read_write)
    for limit, value in limits.items():
        hard = resource.getrlimit(limit)[1]
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (bounded, bounded))
    if order.user:
        os.setgroups([])
        os.setresgid(order.user, order.user, order.user)
        os.setresuid(order.user, order.user, order.user)
    os.chdir(order.folder)  # as who may enter it: our rights over all files are gone already
    if order.parent_pid:
        _die_with(order.parent_pid)  # a change of user forgets it
    if order.seccomp_hex:
        _load_filter(bytes.fromhex(order.seccomp_hex))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # SIGUSR1 stays ignored until the job asks for it
    try:
        os.execvp(command[0], command)
    except OSError as e:
        sys.stderr.write(f"launch: {command[0]}: {e.strerror}\n")
        raise SystemExit(127) from e


def _die_with(parent_pid: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        raise SystemExit("launch: the supervisor died before the job began")


def _judge_checkpoint(order: Order) -> None:
    """Put a checkpoint aside that has rotted since it was saved, so that the job starts from the beginning."""
    folder = Path(order.folder)
    try:
        for _ in checkpoint.check(folder / checkpoint.GOOD, order.checkpoint_octets):
            pass
    except (ValueError, OSError) as e:
        checkpoint.reject(folder)
        sys.stderr.write(f"launch: checkpoint put aside: {e}\n")


def _load_filter(program: bytes) -> None:
    text = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):  # struct sock_fprog
        _fields_ = (("length", ctypes.c_ushort), ("text", ctypes.c_void_p))

    whole = Program(len(program) // 8, ctypes.addressof(text))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(whole))


def _prctl(option: int, value: int, more: int = 0) -> None:
    words = (ctypes.c_ulong(number) for number in (value, more, 0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(option, *words) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")


if __name__ == "__main__":
    main(sys.argv)

"""Jobs that try to do harm: the other side of the sandbox's self-test. Every attack is bounded by itself.

Run as a job, by the self-test at start-up and from `examples/hostile` on a bench:

    python3 -m flightsw.jobs.hostile ATTACK [ARGUMENT...]

An attack that ends writes `out/verdict`, which opens with HELD or BROKE; one that must be ended writes `work/ready`
and goes on for ever. Imports nothing of ours, so that a broken path shows as a failed attack, not as a held one.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

_MB = 1 << 20
_PROCESSES_TOO_MANY = 200
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_PTRACE_ATTACH = 16
_LIBC = ctypes.CDLL(None, use_errno=True)


def _wait(duration_s: float) -> None:
    select.select([], [], [], duration_s)


def fork_bomb() -> str:
    """Fork until it is refused, or 200 times."""
    children: list[int] = []
    try:
        while len(children) < _PROCESSES_TOO_MANY:
            child = os.fork()
            if child == 0:
                _wait(30.0)
                os._exit(0)
            children.append(child)
    except OSError as e:
        return f"HELD after {len(children)} processes: {e.strerror}"
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
    return f"BROKE: {len(children)} processes"


def memory_hog(limit_mb: str) -> str:
    """Take three times the declared memory in one process."""
    taken: list[bytearray] = []
    try:
        for _ in range(3 * int(limit_mb)):
            taken.append(bytearray(b"x") * _MB)
    except MemoryError:
        return f"HELD at {len(taken)} MB"
    _wait(5.0)  # whoever counts now and then needs time to count
    return f"BROKE: {len(taken)} MB"


def memory_herd(limit_mb: str) -> str:
    """Take three times the declared memory in four processes, each within its own limit."""
    heard, tell = os.pipe()
    for _ in range(4):
        if os.fork() == 0:
            kept = bytearray(b"x") * (3 * int(limit_mb) * _MB // 4)
            os.write(tell, b"x")
            _wait(30.0)
            os._exit(len(kept) % 2)
    os.close(tell)
    took = 0
    while took < 4 and os.read(heard, 1):
        took += 1
    if took < 4:
        return f"HELD: {took} of 4 processes got their part"
    _wait(5.0)
    return "BROKE: three times the memory, for five seconds"


def shared_memory(limit_mb: str) -> str:
    """Take three times the declared memory as pages that belong to no process alone."""
    try:
        whole = mmap.mmap(-1, 3 * int(limit_mb) * _MB)  # shared by default
        for at in range(0, len(whole), 4096):
            whole[at] = 1
    except (OSError, ValueError) as e:
        return f"HELD: {e}"
    _wait(5.0)
    return "BROKE: three times the memory, shared, for five seconds"


def hidden_memory(limit_mb: str) -> str:
    """Take three times the declared memory where no process shows it: memfd files, System V segments, both unmapped."""
    taken, piece = 0, b"x" * _MB
    _LIBC.shmat.restype = ctypes.c_void_p
    with contextlib.suppress(OSError):
        while taken < 3 * int(limit_mb):
            file = os.memfd_create("hidden")
            for _ in range(2):
                taken += os.write(file, piece) // _MB
    while taken < 3 * int(limit_mb):
        segment = _LIBC.shmget(0, ctypes.c_size_t(_MB), 0o1600)
        address = _LIBC.shmat(segment, None, 0) if segment >= 0 else None
        if address is None or address == ctypes.c_void_p(-1).value:
            return f"HELD at {taken} MB: {os.strerror(ctypes.get_errno())}"
        ctypes.memset(address, 1, _MB)
        _LIBC.shmdt(ctypes.c_void_p(address))
        taken += 1
    _wait(5.0)
    return f"BROKE: {taken} MB that no process shows"


def disk_filler(limit_mb: str) -> str:
    """Write three times the declared disk in files that are each within the limit."""
    try:
        for number in range(6):
            with Path(f"work/fill{number}").open("wb") as file:
                file.write(bytes(int(limit_mb) * _MB // 2))
                file.flush()
                os.fsync(file.fileno())
    except OSError as e:
        return f"HELD: {e.strerror}"
    _wait(5.0)
    return "BROKE: three times the disk, for five seconds"


def hidden_disk(limit_mb: str) -> str:
    """Write three times the declared disk in files without a name: held by a mapping, or by a message under way."""
    here, _there = socket.socketpair()
    sent = 0
    try:
        for number in range(6):
            with Path("work/hidden").open("w+b") as file:
                Path("work/hidden").unlink()
                file.write(bytes(int(limit_mb) * _MB // 2))
                file.flush()
                os.fsync(file.fileno())
                if number % 2:
                    with contextlib.suppress(OSError):
                        sent += socket.send_fds(here, [b"x"], [file.fileno()])
                        continue
                _LIBC.mmap(None, ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(),
                           ctypes.c_long(0))  # kept, without a descriptor
    except OSError as e:
        return f"HELD: {e.strerror}"
    _wait(5.0)
    return f"BROKE: three times the disk, for five seconds, {sent} files of it in messages"


def network(port: str) -> str:
    """Reach a listener on this machine, and a name server elsewhere."""
    why = ""
    for kind, address in ((socket.SOCK_STREAM, ("127.0.0.1", int(port))), (socket.SOCK_DGRAM, ("192.0.2.1", 53))):
        try:
            with socket.socket(socket.AF_INET, kind) as link:
                link.settimeout(2.0)
                link.connect(address)
                return f"BROKE: reached {address[0]}"
        except OSError as e:
            why = e.strerror or ""
    return f"HELD: {why}"


def write_outside(*paths: str) -> str:
    """Make files where it has no business; whoever asked looks whether they are there."""
    wrote: list[str] = []
    for path in paths:
        with contextlib.suppress(OSError):
            Path(path).write_text("hostile")
            wrote.append(path)
    return f"HELD: saw itself write {', '.join(wrote) or 'nothing'}"


def read_other(path: str) -> str:
    """Read a file of another job."""
    try:
        content = Path(path).read_text()
    except OSError as e:
        return f"HELD: {e.strerror}"
    return f"BROKE: read {len(content)} characters of another job"


def trace_other(*pids: str) -> str:
    """Signal, trace and read other processes: another job's and the supervisor's, or without names whoever is there."""
    why = ""
    for pid in map(int, pids or {*range(3, 2_000)} - {os.getpid()}):
        if _LIBC.ptrace(_PTRACE_ATTACH, pid, None, None) == 0:
            return f"BROKE: traced process {pid}"
        try:
            os.kill(pid, signal.SIGCONT)
        except OSError as e:
            why = e.strerror or ""
        else:
            return f"BROKE: signalled process {pid}"
        with contextlib.suppress(OSError):
            octets = len(Path(f"/proc/{pid}/environ").read_bytes())
            return f"BROKE: read {octets} octets of the environment of process {pid}"
    return f"HELD: {why}"


def become_root() -> str:
    """Become the superuser, or read what only that may."""
    with contextlib.suppress(OSError):
        os.setresuid(0, 0, 0)
        return "BROKE: is user 0"
    for path in ("/etc/shadow", "/proc/1/mem"):
        with contextlib.suppress(OSError):
            Path(path).open("rb").close()
            return f"BROKE: opened {path}"
    return "HELD"


def mount() -> str:
    """Mount something, after a mount namespace of its own."""
    _LIBC.unshare(_CLONE_NEWNS)
    if _LIBC.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0:
        return "BROKE: mounted a file system"
    return f"HELD: {os.strerror(ctypes.get_errno())}"


def user_namespace() -> str:
    """Make a user namespace, in which it would be the superuser over much kernel code."""
    if _LIBC.unshare(_CLONE_NEWUSER) == 0:
        return "BROKE: made a user namespace"
    return f"HELD: {os.strerror(ctypes.get_errno())}"


def leave_session() -> str:
    """Leave the group that throttling and ending go by."""
    if os.fork() == 0:
        with contextlib.suppress(OSError):
            os.setsid()
            _wait(30.0)
        os._exit(0)
    if os.fork() == 0:
        try:
            os.setpgid(0, 0)
        except OSError:
            os._exit(0)
        os._exit(1)
    _, status = os.wait()
    return "BROKE: left its process group" if status else "HELD"


def priority() -> str:
    """Go before everybody else, the supervisor too."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)
        return "BROKE: runs at nice -20"
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        return "BROKE: runs in real time"
    return "HELD"


def ignore_signals() -> str:
    """Ignore every polite signal, and never end."""
    for number in (signal.SIGTERM, signal.SIGTSTP, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    Path("work/ready").touch()
    while True:
        pass


def endless_output() -> str:
    """Write to standard output for ever."""
    Path("work/ready").touch()
    while True:
        os.write(1, b"x" * 65_536)


def quiet() -> str:
    """Do nothing for ever: what others attack."""
    Path("work/secret").write_text("secret")
    Path("work/ready").touch()
    while True:
        _wait(60.0)


ATTACKS: dict[str, Callable[..., str]] = {
    attack.__name__: attack
    for attack in (
        fork_bomb, memory_hog, memory_herd, shared_memory, hidden_memory, disk_filler, hidden_disk, network,
        write_outside, read_other, trace_other, become_root, mount, user_namespace, leave_session, priority,
        ignore_signals, endless_output, quiet,
    )
}

if __name__ == "__main__":
    verdict = ATTACKS[sys.argv[1]](*sys.argv[2:])
    Path("out/verdict").write_text(verdict)

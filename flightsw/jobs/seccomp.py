"""The system calls that a job may not make, as a classic BPF program for the kernel (seccomp(2), filter mode).

Owns the list of refused calls and a small assembler for it. Called by `sandbox`, which hands the program to
bubblewrap, and by `launch`, which loads it where there is no bubblewrap. Knows x86-64 and aarch64.

What is refused: leaving the process group or session (throttling and ending go by it), sockets of every kind,
namespaces, mounts, tracing and reading other processes, keys, kernel modules, clocks, priorities, BPF, io_uring,
memory and files that no measure of a process shows (memfd, System V memory and queues, descriptors sent in a message),
and every call that is newer than this list. Everything else is allowed: a numeric job needs some sixty calls, its
libraries a hundred more, and a list of those would break with the next C library.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

_INSTRUCTION: Final = struct.Struct("=HBBI")  # struct sock_filter: code, jump if true, jump if false, k
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06

# struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6]; both machines are little-endian.
_NR_AT, _ARCH_AT, _ARG0_LOW_AT = 0, 4, 16

_ALLOW: Final = 0x7FFF0000
_KILL_PROCESS: Final = 0x80000000
_ERRNO: Final = 0x00050000

_CLONE_NEW: Final = 0x7E020080  # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET and TIME


class _Machine(NamedTuple):
    """A processor architecture: its audit number, its last known system call and the numbers of the refused."""

    audit: int
    last_call: int
    calls: Mapping[str, int]


# Numbers from asm/unistd_64.h and asm-generic/unistd.h of Linux 6.1; above 423 both machines share them.
_SHARED: Final = MappingProxyType({
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "pidfd_open": 434, "clone3": 435, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442,
    "quotactl_fd": 443, "memfd_secret": 447, "process_mrelease": 448,
})
_LAST_CALL: Final = 450
MACHINES: Final[Mapping[str, _Machine]] = MappingProxyType({
    "x86_64": _Machine(0xC000003E, _LAST_CALL, MappingProxyType(_SHARED | {
        "shmget": 29, "socket": 41, "sendmsg": 46, "clone": 56, "msgget": 68, "ptrace": 101, "syslog": 103,
        "setpgid": 109, "setsid": 112, "personality": 135, "setpriority": 141, "sched_setparam": 142,
        "sched_setscheduler": 144, "vhangup": 153, "pivot_root": 155, "adjtimex": 159, "chroot": 161,
        "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168,
        "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173, "init_module": 175,
        "delete_module": 176, "quotactl": 179, "lookup_dcookie": 212, "clock_settime": 227, "mbind": 237,
        "set_mempolicy": 238, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250,
        "ioprio_set": 251, "migrate_pages": 256, "unshare": 272, "move_pages": 279, "perf_event_open": 298,
        "fanotify_init": 300, "name_to_handle_at": 303, "open_by_handle_at": 304, "clock_adjtime": 305,
        "sendmmsg": 307, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312,
        "finit_module": 313, "sched_setattr": 314, "memfd_create": 319, "kexec_file_load": 320, "bpf": 321,
        "userfaultfd": 323,
    })),
    "aarch64": _Machine(0xC00000B7, _LAST_CALL, MappingProxyType(_SHARED | {
        "lookup_dcookie": 18, "ioprio_set": 30, "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51,
        "vhangup": 58, "quotactl": 60, "acct": 89, "personality": 92, "unshare": 97, "kexec_load": 104,
        "init_module": 105, "delete_module": 106, "clock_settime": 112, "syslog": 116, "ptrace": 117,
        "sched_setparam": 118, "sched_setscheduler": 119, "setpriority": 140, "reboot": 142, "setpgid": 154,
        "setsid": 157, "sethostname": 161, "setdomainname": 162, "settimeofday": 170, "adjtimex": 171,
        "msgget": 186, "shmget": 194, "socket": 198, "sendmsg": 211, "add_key": 217, "request_key": 218,
        "keyctl": 219, "clone": 220, "swapon": 224, "swapoff": 225, "mbind": 235, "set_mempolicy": 237,
        "migrate_pages": 238, "move_pages": 239, "perf_event_open": 241, "fanotify_init": 262,
        "name_to_handle_at": 264, "open_by_handle_at": 265, "clock_adjtime": 266, "setns": 268, "sendmmsg": 269,
        "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "finit_module": 273,
        "sched_setattr": 274, "memfd_create": 279, "bpf": 280, "userfaultfd": 282, "kexec_file_load": 294,
    })),
})


def filter_program(machine: str) -> bytes:
    """Assemble the filter for `machine` (as `os.uname().machine` says it); empty for one that is not known.

    A call of another architecture, and of the x32 kind, kills the process. `clone3` is answered with ENOSYS: its
    flags lie in memory, where no filter can see them, and every C library then uses `clone`.
    """
    if machine not in MACHINES:
        return b""
    audit, last_call, calls = MACHINES[machine]
    absent = _ERRNO | errno.ENOSYS
    refused = sorted(number for name, number in calls.items() if name not in ("clone", "clone3"))
    return b"".join([
        _op(_LOAD, _ARCH_AT),
        _op(_IF_EQUAL, audit, if_true=1),
        _op(_RETURN, _KILL_PROCESS),
        _op(_LOAD, _NR_AT),
        *_when(_IF_AT_LEAST, 0x40000000, _KILL_PROCESS),  # x32: the same calls under other numbers
        *_when(_IF_AT_LEAST, last_call + 1, absent),
        *_when(_IF_EQUAL, calls["clone3"], absent),
        _op(_IF_EQUAL, calls["clone"], if_false=4),
        _op(_LOAD, _ARG0_LOW_AT),
        *_when(_IF_ANY_BIT, _CLONE_NEW, _ERRNO | errno.EPERM),
        _op(_RETURN, _ALLOW),
        *(word for number in refused for word in _when(_IF_EQUAL, number, _ERRNO | errno.EPERM)),
        _op(_RETURN, _ALLOW),
    ])


def _op(code: int, k: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, if_true, if_false, k)


def _when(condition: int, k: int, verdict: int) -> tuple[bytes, bytes]:
    """Two instructions: return `verdict` when the condition holds, else fall through."""
    return _op(condition, k, if_false=1), _op(_RETURN, verdict)

"""The filter as the kernel reads it: run by a small interpreter of classic BPF, for every call of both machines."""

from __future__ import annotations

import errno
import struct

import pytest

from flightsw.jobs.seccomp import MACHINES, filter_program

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
CLONE_NEWUSER, CLONE_VM_THREAD = 0x10000000, 0x3D0F00


def verdict(program: bytes, machine: str, number: int, arg0: int = 0, audit: int | None = None) -> int:
    """What the kernel answers a call; the data is struct seccomp_data."""
    audit = MACHINES[machine].audit if audit is None else audit
    data = struct.pack("=iIQ6Q", number, audit, 0, arg0, 0, 0, 0, 0, 0)
    words = list(struct.iter_unpack("=HBBI", program))
    at = value = 0
    while True:
        code, if_true, if_false, k = words[at]
        at += 1
        if code == 0x20:
            (value,) = struct.unpack_from("=I", data, k)
        elif code == 0x06:
            return int(k)
        else:
            holds = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[code]
            at += if_true if holds else if_false


@pytest.mark.parametrize("machine", MACHINES)
def test_every_call_gets_the_answer_it_should(machine: str) -> None:
    program = filter_program(machine)
    refused = set(MACHINES[machine].calls.values()) - {MACHINES[machine].calls[name] for name in ("clone", "clone3")}
    for number in range(600):
        answer = verdict(program, machine, number)
        if number > MACHINES[machine].last_call or number == MACHINES[machine].calls["clone3"]:
            assert answer == ENOSYS
        else:
            assert answer == (EPERM if number in refused else ALLOW)


@pytest.mark.parametrize("machine", MACHINES)
def test_threads_are_made_and_namespaces_are_not(machine: str) -> None:
    program, clone = filter_program(machine), MACHINES[machine].calls["clone"]
    assert verdict(program, machine, clone, CLONE_VM_THREAD) == ALLOW
    for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, CLONE_NEWUSER, 0x20000000, 0x40000000, 0x80):
        assert verdict(program, machine, clone, CLONE_VM_THREAD | flag) == EPERM


def test_another_machines_calls_and_x32_kill() -> None:
    program = filter_program("x86_64")
    assert verdict(program, "x86_64", 0, audit=0x40000003) == KILL  # i386, where 0 is another call
    assert verdict(program, "x86_64", 0x40000000 + 41) == KILL
    assert len(program) % 8 == 0
    assert len(program) // 8 < 4096  # the kernel's bound
    assert filter_program("riscv64") == b""

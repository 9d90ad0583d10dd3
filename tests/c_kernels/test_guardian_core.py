"""The guardian's core: message layout, every rejection, expiry, pacing, and its fuzz driver under sanitizers."""

from __future__ import annotations

import random
import re
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from flightsw._kernels import ffi, lib
from hypothesis import given
from hypothesis import strategies as st

from flightsw.errors import KernelError
from flightsw.guardian import GUARDIAN_PROGRAM, Rejection, decode_status, encode_hello, encode_lease
from flightsw.kernels import GuardianCore
from flightsw.state import NodeCap

ROOT = Path(__file__).resolve().parents[2]
C = ROOT / "c_kernels"
FLOOR_MW = [1000, 1500]
CEILING_MW = [15000, 10000]
START_US = 1_000_000
S = 1_000_000  # microseconds

# Two nodes, sequence 0x0102030405060708, 20 s; written down once, by hand from the layout in the header.
GOLDEN_LEASE = bytes.fromhex(
    "46535747" "01" "01" "02" "00" "0807060504030201" "204e0000"
    "983a0000" "d2040000" "f401" "0000"
    "dc050000" "00000000" "e803" "0000"
    "656eaf2b"
)  # fmt: skip


def new_core(now_us: int = START_US) -> GuardianCore:
    return GuardianCore(FLOOR_MW, CEILING_MW, 20_000, 10_000, now_us)


def lease(sequence: int, *caps: NodeCap, lease_s: float = 5.0) -> bytes:
    return encode_lease(sequence, lease_s, caps or (NodeCap(12.0, 1.0, 100), NodeCap(9.0, 1.0, 200)))


def caps_mw(core: GuardianCore, now_us: int) -> list[int]:
    return [round(node.cap_w * 1000.0) for node in decode_status(core.status(now_us)).nodes]


def altered(message: bytes, offset: int, code: str, value: int) -> bytes:
    """`message` with one field changed and the checksum put right."""
    body = bytearray(message[:-4])
    struct.pack_into("<" + code, body, offset, value)
    return bytes(body) + struct.pack("<I", zlib.crc32(body))


def test_the_golden_lease_is_the_same_on_both_sides() -> None:
    caps = (NodeCap(15.0, 0.5, 1234), NodeCap(1.5, 1.0, 0))
    assert encode_lease(0x0102030405060708, 20.0, caps) == GOLDEN_LEASE
    core = new_core()
    # Its sequence is far ahead of a new core's: everything before that check is right, so this is the answer.
    assert core.message(START_US, GOLDEN_LEASE) == Rejection.SEQUENCE
    assert core.message(START_US, altered(GOLDEN_LEASE, 8, "Q", 7)) == 0
    status = decode_status(core.status(START_US))
    assert status.last_sequence == status.answered_sequence == 7
    assert status.lease_left_s == 20.0
    assert [(n.cap_w, n.pgid, n.duty_frac, n.running) for n in status.nodes] == [
        (15.0, 1234, 0.5, True),
        (1.5, 0, 1.0, False),
    ]


def test_the_golden_status_is_the_same_on_both_sides() -> None:
    core = new_core()
    assert core.message(START_US, lease(5)) == 0
    assert core.message(START_US, b"noise") == Rejection.LENGTH
    expected = struct.pack(
        "<IBBBBQQIiI11IIII" + 2 * "IIiHBB",
        *(0x47575346, 1, 0x81, 2, 0, 5, 0, 3000, -3, 1),
        *(1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        *(0, 0, 2),
        *(12000, 12000, 100, 1000, 1, 0),
        *(9000, 9000, 200, 1000, 1, 0),
    )
    assert core.status(START_US + 2 * S) == expected + struct.pack("<I", zlib.crc32(expected))


def test_the_header_and_python_name_the_same_codes() -> None:
    header = (C / "include" / "guardian_core.h").read_text(encoding="utf-8")
    codes = {name: int(code) for name, code in re.findall(r"FSW_GUARDIAN_E_(\w+) = (-\d+)", header)}
    own = {"ARG", "STATE", "CONFIG"}
    assert {name: code for name, code in codes.items() if name not in own} == {r.name: r.value for r in Rejection}


GOOD = lease(1)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"", Rejection.LENGTH),
        (GOOD[:-1], Rejection.CRC),
        (GOOD + b"\0", Rejection.CRC),
        (GOOD * 3, Rejection.LENGTH),
        (altered(GOOD[:-4], 0, "I", 0x47575346), Rejection.LENGTH),
        (altered(GOOD, 0, "I", 0x47575347), Rejection.MAGIC),
        (altered(GOOD, 4, "B", 2), Rejection.VERSION),
        (GOOD[:20] + b"\xff" + GOOD[21:], Rejection.CRC),
        (altered(GOOD, 5, "B", 0), Rejection.KIND),
        (altered(GOOD, 5, "B", 0x81), Rejection.KIND),
        (altered(GOOD, 7, "B", 1), Rejection.KIND),
        (altered(GOOD, 30, "H", 1), Rejection.KIND),
        (lease(1, NodeCap(1.0, 1.0, 0)), Rejection.NODES),
        (altered(encode_hello(1), 16, "I", 1), Rejection.LEASE),
        (lease(0), Rejection.SEQUENCE),
        (lease(2**20 + 1), Rejection.SEQUENCE),
        (lease(2**64 - 1), Rejection.SEQUENCE),
        (altered(GOOD, 16, "I", 0), Rejection.LEASE),
        (altered(GOOD, 16, "I", 20001), Rejection.LEASE),
        (altered(GOOD, 20, "I", 15001), Rejection.CAP),
        (altered(GOOD, 32, "I", 10001), Rejection.CAP),
        (altered(GOOD, 28, "H", 1001), Rejection.DUTY),
        (altered(GOOD, 24, "I", 1), Rejection.PGID),
        (altered(GOOD, 36, "i", -1), Rejection.PGID),
        (altered(GOOD, 36, "i", -(2**31)), Rejection.PGID),
    ],
)
def test_a_wrong_message_changes_only_its_counter(message: bytes, code: Rejection) -> None:
    core = new_core()
    assert core.message(START_US, message) == code
    status = decode_status(core.status(START_US))
    assert status.expired
    assert [round(node.cap_w * 1000) for node in status.nodes] == FLOOR_MW
    assert status.rejected == tuple(int(cause is code) for cause in Rejection)
    assert (status.result, status.accepted, status.last_sequence) == (code, 0, 0)
    assert core.message(START_US, GOOD) == 0


def test_replayed_and_old_leases_are_refused() -> None:
    core = new_core()
    assert core.message(START_US, lease(5)) == 0
    assert core.message(START_US, lease(5)) == Rejection.SEQUENCE
    assert core.message(START_US, lease(4)) == Rejection.SEQUENCE
    assert core.message(START_US, lease(6)) == 0


def test_hello_changes_nothing_and_is_echoed() -> None:
    core = new_core()
    assert core.message(START_US, lease(5)) == 0
    assert core.message(START_US + S, encode_hello(77)) == 0
    status = decode_status(core.status(START_US + S))
    assert (status.answered_sequence, status.last_sequence, status.lease_left_s) == (77, 5, 4.0)


def test_a_lease_ends_to_the_microsecond() -> None:
    core = new_core()
    assert core.message(START_US, lease(1, lease_s=5.0)) == 0
    assert caps_mw(core, START_US + 5 * S - 1) == [12000, 9000]
    status = decode_status(core.status(START_US + 5 * S))
    assert status.expired
    assert not status.alone
    assert [(n.cap_w, n.duty_frac, n.running, n.pgid) for n in status.nodes] == [
        (1.0, 0.0, False, 100),
        (1.5, 0.0, False, 200),
    ]
    assert decode_status(core.status(START_US + 10 * S)).alone


def test_expiry_does_not_raise_a_cap_below_the_floor() -> None:
    core = new_core()
    assert core.message(START_US, lease(1, NodeCap(0.0, 0.0, 0), NodeCap(9.0, 1.0, 0))) == 0
    assert caps_mw(core, START_US + 60 * S) == [0, 1500]


def test_a_clock_that_goes_back_ends_the_lease_until_a_newer_one() -> None:
    core = new_core()
    assert core.message(START_US, lease(1)) == 0
    assert caps_mw(core, START_US + S) == [12000, 9000]
    status = decode_status(core.status(START_US + S - 1))
    assert status.expired
    assert status.clock_stepped
    assert status.clock_steps == 1
    assert caps_mw(core, START_US + 2 * S) == FLOOR_MW
    assert core.message(START_US + 2 * S, lease(2)) == 0
    status = decode_status(core.status(START_US + 2 * S))
    assert not status.expired
    assert not status.clock_stepped


@given(st.binary(max_size=200))
def test_no_byte_string_raises_a_cap(message: bytes) -> None:
    core = new_core()
    assert core.message(START_US, lease(9, NodeCap(2.0, 0.5, 100), NodeCap(0.5, 0.5, 200))) == 0
    assert core.message(START_US, message) < 0
    assert caps_mw(core, START_US) == [2000, 500]


@given(
    position=st.integers(0, len(GOLDEN_LEASE) - 1),
    change=st.integers(1, 255),
)
def test_no_damaged_lease_is_taken(position: int, change: int) -> None:
    damaged = bytearray(lease(1))
    damaged[position] ^= change
    core = new_core()
    assert core.message(START_US, bytes(damaged)) < 0
    assert caps_mw(core, START_US) == FLOOR_MW


_steps = st.lists(
    st.tuples(
        st.integers(-2 * S, 8 * S),  # time step
        st.integers(0, 6),  # sequence
        st.integers(0, 16000),  # cap of node 0, mW
        st.integers(0, 25000),  # lease, ms
    ),
    max_size=30,
)


@given(_steps)
def test_caps_are_those_of_the_newest_valid_live_lease_or_the_floor(steps: list[tuple[int, int, int, int]]) -> None:
    core, now_us, newest, ends_us, expected = new_core(), START_US, 0, 0, 1000
    for step_us, sequence, cap_mw, lease_ms in steps:
        backwards = step_us < 0 and now_us > 0
        now_us = max(0, now_us + step_us)
        if backwards or now_us >= ends_us:
            expected, ends_us = min(expected, 1000), 0
        message = altered(lease(sequence), 16, "I", lease_ms)
        code = core.message(now_us, altered(message, 20, "I", cap_mw))
        valid = sequence > newest and 1 <= lease_ms <= 20000 and cap_mw <= 15000
        assert (code == 0) == valid
        if valid:
            newest, ends_us, expected = sequence, now_us + lease_ms * 1000, cap_mw
        assert caps_mw(core, now_us)[0] == expected


@pytest.mark.parametrize("duty_frac", [0.0, 0.05, 0.3, 0.5, 0.777, 0.95, 1.0])
def test_a_group_runs_its_share_however_unevenly_time_comes(duty_frac: float) -> None:
    rng = random.Random(7)
    core, now_us, run_us, running = new_core(), START_US, 0, False
    assert core.message(now_us, lease(1, NodeCap(1.0, duty_frac, 100), NodeCap(1.0, 1.0, 0), lease_s=20.0)) == 0
    for _ in range(300):
        step_us = rng.randrange(10_000, 90_000)
        now_us += step_us
        run_us += step_us * running
        running = decode_status(core.status(now_us)).nodes[0].running
    assert run_us / (now_us - START_US) == pytest.approx(duty_frac, abs=0.01)


def test_a_group_on_two_nodes_gets_the_least_share() -> None:
    core, runs = new_core(), 0
    assert core.message(START_US, lease(1, NodeCap(1.0, 0.8, 100), NodeCap(1.0, 0.2, 100), lease_s=20.0)) == 0
    for turn in range(200):
        nodes = decode_status(core.status(START_US + turn * 50_000)).nodes
        assert nodes[0].running == nodes[1].running
        runs += nodes[0].running
    assert runs == pytest.approx(40, abs=2)


@pytest.mark.parametrize(
    ("floor_mw", "ceiling_mw", "lease_max_ms", "alone_after_ms"),
    [
        ([], [], 1000, 1000),
        ([0] * 9, [1] * 9, 1000, 1000),
        ([1], [1, 1], 1000, 1000),
        ([2], [1], 1000, 1000),
        ([0], [0], 1000, 1000),
        ([0], [2_000_001], 1000, 1000),
        ([0], [1], 0, 1000),
        ([0], [1], 60_001, 1000),
        ([0], [1], 1000, 0),
        ([0], [1], 1000, 86_400_001),
    ],
)
def test_a_bad_configuration_is_refused(
    floor_mw: list[int], ceiling_mw: list[int], lease_max_ms: int, alone_after_ms: int
) -> None:
    with pytest.raises(KernelError, match="fsw_guardian_init"):
        GuardianCore(floor_mw, ceiling_mw, lease_max_ms, alone_after_ms, 0)


def test_a_damaged_state_is_never_used() -> None:
    core = new_core()
    core._state.cap_mw[0] ^= 1 << 13
    with pytest.raises(KernelError, match="damaged"):
        core.status(START_US)
    with pytest.raises(KernelError, match="damaged"):
        core.message(START_US, GOOD)


def test_missing_arguments_are_refused() -> None:
    state, config = ffi.new("struct fsw_guardian_state *"), ffi.new("struct fsw_guardian_config *")
    out, io, length = ffi.new("struct fsw_guardian_out *"), ffi.new("struct fsw_guardian_io *"), ffi.new("size_t *")
    status = ffi.new("uint8_t[]", lib.FSW_GUARDIAN_STATUS_MAX)
    config.n_nodes, config.lease_max_ms, config.alone_after_ms = 8, 1000, 1000
    config.ceiling_mw = [1] * 8
    null, arg = ffi.NULL, lib.FSW_GUARDIAN_E_ARG
    assert lib.fsw_guardian_init(null, config, 0) == lib.fsw_guardian_init(state, null, 0) == arg
    assert lib.fsw_guardian_init(state, config, 0) == 0
    assert lib.fsw_guardian_message(null, 0, b"", 0) == lib.fsw_guardian_message(state, 0, null, 0) == arg
    assert lib.fsw_guardian_tick(null, 0, out) == lib.fsw_guardian_tick(state, 0, null) == arg

    def encode(kind: int, room: int, where: object = status) -> int:
        return int(lib.fsw_guardian_status(state, kind, io, where, room, length))

    assert encode(lib.FSW_GUARDIAN_STATUS, 224) == 0
    assert length[0] == lib.FSW_GUARDIAN_STATUS_MAX
    assert encode(lib.FSW_GUARDIAN_STATUS, 223) == encode(lib.FSW_GUARDIAN_STATUS, 224, null) == arg
    assert encode(lib.FSW_GUARDIAN_LEASE, 224) == lib.FSW_GUARDIAN_E_KIND
    state.now_us += 1
    assert encode(lib.FSW_GUARDIAN_STATUS, 224) == lib.FSW_GUARDIAN_E_STATE


# --- fuzz driver ------------------------------------------------------------------------------------------

WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wstrict-prototypes", "-Werror"]


def build_fuzz(target: Path, core: Path, *flags: str) -> None:
    command: list[str | Path] = [
        "gcc",
        *WARNINGS,
        *flags,
        "-I",
        C / "include",
        "-o",
        target,
        C / "fuzz" / "fuzz_guardian.c",
        core,
    ]
    subprocess.run(command, check=True)


def test_fuzzing_under_sanitizers_breaks_no_promise(tmp_path: Path) -> None:
    fuzz = tmp_path / "fuzz_guardian"
    build_fuzz(fuzz, C / "src" / "guardian_core.c", "-g", "-O1", "-fsanitize=address,undefined",
               "-fno-sanitize-recover=all")  # fmt: skip
    done = subprocess.run([fuzz, "3000", "20240611"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "3000 scripts" in done.stdout


def test_the_libfuzzer_entry_compiles_alone(tmp_path: Path) -> None:
    source = C / "fuzz" / "fuzz_guardian.c"
    command: list[str | Path] = [
        "gcc",
        *WARNINGS,
        "-DFSW_LIBFUZZER",
        "-I",
        C / "include",
        "-c",
        "-o",
        tmp_path / "entry.o",
        source,
    ]
    subprocess.run(command, check=True)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("sequence <= state->last_sequence ||", "sequence < state->last_sequence ||"),
        ("if (now_us < state->now_us) {", "if (0) {"),
        ("return FSW_GUARDIAN_E_CAP;", "continue;"),
        ("state->duty_permille[i] = 0;", ""),
        ("least(state->cap_mw[i], state->config.floor_mw[i])", "state->config.floor_mw[i]"),
        ("now_us - state->granted_us >= state->lease_us", "now_us - state->granted_us > state->lease_us"),
        ("pgid == 1 ||", ""),
        ("if (get_u32(message + length - CRC) != crc32(message, length - CRC))", "if (0)"),
    ],
)
def test_the_fuzz_driver_finds_a_planted_fault(tmp_path: Path, right: str, wrong: str) -> None:
    text = (C / "src" / "guardian_core.c").read_text(encoding="utf-8")
    assert text.count(right) == 1
    broken = tmp_path / "broken.c"
    broken.write_text(text.replace(right, wrong), encoding="utf-8")
    fuzz = tmp_path / "fuzz_broken"
    build_fuzz(fuzz, broken)
    done = subprocess.run([fuzz, "3000", "1"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "broken promise" in done.stderr


def test_the_program_imports_neither_heap_nor_stdio() -> None:
    listing = subprocess.run(["nm", "-u", GUARDIAN_PROGRAM], capture_output=True, text=True, check=True).stdout
    imported = set(re.findall(r" U (\w+)", listing))
    assert "ppoll" in imported
    banned = re.compile(
        r"(_*)(malloc|calloc|realloc|reallocarray|aligned_alloc|posix_memalign|memalign|free|strdup|asprintf|s?brk"
        r"|\w*printf\w*|f?puts|putchar|f(open|close|read|write|flush|gets)|getline|perror|pthread_\w+)"
    )
    assert not {name for name in imported if banned.fullmatch(name)}

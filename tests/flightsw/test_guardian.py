"""The guardian program as the supervisor meets it: leases, deaths on both sides, job groups, cap files."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flightsw.errors import BoardError, ConfigError, LinkError
from flightsw.guardian import (
    GUARDIAN_PROGRAM,
    GuardianConfig,
    GuardianHealth,
    GuardianStatus,
    InProcessGuardian,
    ProcessGuardian,
    Rejection,
    decode_status,
    encode_lease,
)
from flightsw.state import NodeCap

ROOT = Path(__file__).resolve().parents[2]
CONFIG = GuardianConfig(floor_w=(1.0, 1.5), ceiling_w=(15.0, 10.0), lease_max_s=60.0)
BUSY = [sys.executable, "-S", "-c", "while True: pass"]


def wait_for(what: Callable[[], bool]) -> None:
    """Poll until `what()`; far longer than ever needed, so that a loaded machine does not fail a test."""
    for _ in range(1500):
        if what():
            return
        time.sleep(0.02)
    pytest.fail("waited 30 s in vain")


def process_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


class Rig:
    """One run directory with a guardian in it, and job groups; `end` leaves no process behind."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.links: list[ProcessGuardian] = []
        self.jobs: list[subprocess.Popen[bytes]] = []

    def link(self, *options: str, config: GuardianConfig = CONFIG, answer_wait_s: float = 1.0) -> ProcessGuardian:
        link = ProcessGuardian(
            config, self.directory / "s", self.directory, options=options, answer_wait_s=answer_wait_s
        )
        self.links.append(link)
        return link

    def job(self) -> int:
        job = subprocess.Popen(BUSY, start_new_session=True)
        self.jobs.append(job)
        return job.pid

    def caps_mw(self) -> list[int]:
        return [int((self.directory / f"node{i}_cap_mw").read_text().split("\n")[0]) for i in range(2)]

    def end(self) -> None:
        for job in self.jobs:
            job.kill()
            job.wait()
        for link in self.links:
            link.status(0.0)
            if link.pid is not None:
                os.kill(link.pid, signal.SIGCONT)
            link.stop()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.end()


def caps(cap0_w: float = 12.0, cap1_w: float = 9.0, *, duty_frac: float = 1.0, pgid: int = 0) -> list[NodeCap]:
    return [NodeCap(cap0_w, duty_frac, pgid), NodeCap(cap1_w, 1.0, 0)]


def test_a_lease_sets_the_caps_and_reads_them_back(rig: Rig) -> None:
    link = rig.link()
    status = link.start()
    assert status.expired
    assert rig.caps_mw() == [1000, 1500]
    status = link.renew(0.0, 60.0, caps(12.0, 9.0))
    assert (status.health, status.result, status.expired) == (GuardianHealth.ALIVE, 0, False)
    assert [(n.cap_w, n.read_back_w) for n in status.nodes] == [(12.0, 12.0), (9.0, 9.0)]
    assert rig.caps_mw() == [12000, 9000]
    link.renew(1.0, 60.0, caps(0.29, 0.0))
    assert [path.read_text() for path in sorted(rig.directory.glob("node*"))] == ["290\n", "0\n"]


def test_a_refused_lease_leaves_the_old_one_in_force_and_says_why(rig: Rig) -> None:
    link = rig.link()
    link.start()
    link.renew(0.0, 60.0, caps(5.0))
    status = link.renew(1.0, 60.0, caps(15.001))
    assert status.result == Rejection.CAP
    assert status.rejected[list(Rejection).index(Rejection.CAP)] == 1
    assert (status.nodes[0].cap_w, rig.caps_mw()[0]) == (5.0, 5000)
    assert link.renew(2.0, 60.0, caps(6.0)).nodes[0].read_back_w == 6.0


def test_without_renewal_the_caps_fall_to_the_floor(rig: Rig) -> None:
    link = rig.link()
    link.start()
    assert link.renew(0.0, 0.2, caps()).nodes[0].cap_w == 12.0
    wait_for(lambda: rig.caps_mw() == [1000, 1500])
    assert link.start().expired


SUPERVISOR = """
import os, subprocess, sys, time
from pathlib import Path
from flightsw.guardian import GuardianConfig, ProcessGuardian
from flightsw.state import NodeCap
run = Path(sys.argv[1])
job = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"], start_new_session=True)
link = ProcessGuardian(GuardianConfig((1.0, 1.5), (15.0, 10.0), 60.0), run / "s", run)
link.start()
for tick in range(6000):
    link.renew(tick * 0.05, 0.5, [NodeCap(12.0, 1.0, job.pid), NodeCap(9.0, 1.0, 0)])
    if tick == 0:
        print(job.pid, flush=True)
    time.sleep(0.05)
"""


def test_killing_the_supervisor_drops_the_caps_and_stops_its_jobs(rig: Rig) -> None:
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, rig.directory], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert supervisor.stdout is not None
    job = int(supervisor.stdout.readline())
    try:
        time.sleep(1.2)  # more than two leases
        assert rig.caps_mw() == [12000, 9000]
        assert process_state(job) in "RS"
        supervisor.kill()
        supervisor.wait()
        wait_for(lambda: rig.caps_mw() == [1000, 1500])
        wait_for(lambda: process_state(job) == "T")
        # A restarted supervisor finds the same guardian, its jobs and its sequence.
        link = rig.link()
        status = link.start()
        assert status.expired
        assert status.accepted > 10
        assert status.last_sequence == status.accepted
        assert status.nodes[0].pgid == job
        status = link.renew(0.0, 60.0, caps(8.0, 8.0, pgid=job))
        assert status.result == 0
        assert status.last_sequence == status.accepted
        assert rig.caps_mw() == [8000, 8000]
        wait_for(lambda: process_state(job) in "RS")
    finally:
        os.kill(job, signal.SIGKILL)
        supervisor.kill()
        supervisor.wait()
        supervisor.stdout.close()


def test_a_second_link_finds_the_running_guardian(rig: Rig) -> None:
    first, second = rig.link(), rig.link()
    first.start()
    first.renew(0.0, 60.0, caps())
    assert second.start().last_sequence == 1
    assert second.pid == first.pid
    assert second.renew(0.0, 60.0, caps(3.0)).last_sequence == 2
    # The elder one is now behind: refused, not obeyed.
    assert first.renew(0.0, 60.0, caps(14.0)).result == Rejection.SEQUENCE
    assert rig.caps_mw() == [3000, 9000]


def test_a_restarted_supervisor_always_gets_in(rig: Rig) -> None:
    for sequence in range(12):  # three times the connections that the guardian keeps
        assert rig.link().start().last_sequence == sequence
        assert rig.links[-1].renew(0.0, 60.0, caps()).result == 0


def test_a_killed_guardian_is_a_status_and_can_be_replaced(rig: Rig) -> None:
    link = rig.link()
    link.start()
    link.renew(0.0, 60.0, caps())
    pid = link.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: link.status(1.0).health is GuardianHealth.DEAD)
    status = link.renew(1.0, 60.0, caps())
    assert status.health is GuardianHealth.DEAD
    assert status.nodes == ()
    status = link.start()
    assert link.pid != pid
    assert (status.health, status.last_sequence) == (GuardianHealth.ALIVE, 0)
    assert rig.caps_mw() == [1000, 1500]
    assert link.renew(2.0, 60.0, caps()).result == 0


def test_a_stuck_guardian_is_silent_and_start_replaces_it(rig: Rig) -> None:
    link = rig.link(answer_wait_s=0.0)
    link.start()
    pid = link.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: process_state(pid) == "T")
    assert link.renew(0.0, 5.0, caps()).health is GuardianHealth.ALIVE
    assert link.renew(4.9, 5.0, caps()).health is GuardianHealth.ALIVE
    assert link.renew(5.0, 5.0, caps()).health is GuardianHealth.SILENT
    assert link.start().health is GuardianHealth.ALIVE
    assert link.pid != pid


def test_sigterm_leaves_floor_and_stopped_groups(rig: Rig) -> None:
    link, job = rig.link(), rig.job()
    link.start()
    link.renew(0.0, 60.0, caps(pgid=job))
    link.stop()
    assert rig.caps_mw() == [1000, 1500]
    wait_for(lambda: process_state(job) == "T")
    assert not (rig.directory / "s").exists()


def test_the_end_does_not_raise_a_cap_below_the_floor(rig: Rig) -> None:
    link = rig.link()
    link.start()
    link.renew(0.0, 60.0, caps(0.5, 9.0))
    link.stop()
    assert rig.caps_mw() == [500, 1500]


def test_a_group_runs_only_while_a_lease_names_it(rig: Rig) -> None:
    link, job = rig.link(), rig.job()
    link.start()
    link.renew(0.0, 60.0, caps(duty_frac=0.0, pgid=job))
    wait_for(lambda: process_state(job) == "T")
    assert link.renew(0.0, 60.0, caps(pgid=job)).nodes[0].running
    wait_for(lambda: process_state(job) in "RS")
    link.renew(0.0, 60.0, caps())
    wait_for(lambda: process_state(job) == "T")
    link.renew(0.0, 60.0, [NodeCap(1.0, 1.0, 0), NodeCap(1.0, 1.0, job)])
    wait_for(lambda: process_state(job) in "RS")


def test_the_share_that_was_asked_for_is_the_cpu_time_that_is_used(rig: Rig) -> None:
    link, throttled, free = rig.link(), rig.job(), rig.job()
    link.start()
    link.renew(0.0, 60.0, [NodeCap(12.0, 0.3, throttled), NodeCap(9.0, 1.0, free)])
    before = cpu_ticks(throttled), cpu_ticks(free)
    stopped: list[bool] = []

    def free_has_worked() -> bool:
        stopped.append(process_state(throttled) == "T")
        return cpu_ticks(free) - before[1] >= 2.0 * os.sysconf("SC_CLK_TCK")

    wait_for(free_has_worked)
    used, used_free = cpu_ticks(throttled) - before[0], cpu_ticks(free) - before[1]
    # The share of time in which it may run is the guardian's alone; the CPU time got in it is also a matter
    # of what else the machine does, hence the wide bounds.
    assert 0.55 < sum(stopped) / len(stopped) < 0.85
    assert 0.08 < used / used_free < 0.65


def test_an_ended_group_is_noticed_and_left_alone(rig: Rig) -> None:
    link, job = rig.link(), rig.job()
    link.start()
    link.renew(0.0, 60.0, caps(pgid=job))
    rig.jobs[0].kill()
    rig.jobs[0].wait()
    wait_for(lambda: link.renew(0.0, 60.0, caps(pgid=job)).nodes[0].group_gone)


def test_the_leaseholders_and_the_guardians_own_group_are_never_signalled(rig: Rig) -> None:
    link = rig.link()
    link.start()
    assert link.pid is not None
    for pgid in (os.getpgrp(), link.pid):
        status = link.renew(0.0, 60.0, caps(duty_frac=0.0, pgid=pgid))
        assert status.result == 0
        assert status.nodes[0].group_refused
    assert process_state(link.pid) in "RS"


def test_a_cap_file_of_a_board_is_written_in_its_own_unit(rig: Rig) -> None:
    powercap, rail = rig.directory / "uw", rig.directory / "w"
    powercap.write_text("99000000\n")
    rail.write_text("99\n")
    link = rig.link("--cap-path", f"0={powercap}", "--cap-unit", "0=uw", "--cap-path", f"1={rail}",
                    "--cap-unit", "1=w")  # fmt: skip
    link.start()
    status = link.renew(0.0, 60.0, caps(12.345, 9.9))
    assert powercap.read_text().split("\n")[0] == "12345000"
    assert rail.read_text().split("\n")[0] == "9"
    assert [node.read_back_w for node in status.nodes] == [12.345, 9.0]
    assert not any(node.cap_fault for node in status.nodes)


def test_a_cap_that_cannot_be_written_is_reported_and_never_a_number(rig: Rig) -> None:
    link = rig.link("--cap-path", "1=/dev/full")
    link.start()
    status = link.renew(0.0, 60.0, caps())
    assert [(node.cap_fault, node.read_back_w) for node in status.nodes] == [(False, 12.0), (True, None)]


def test_a_lost_cap_is_written_again(rig: Rig) -> None:
    link = rig.link()
    link.start()
    link.renew(0.0, 60.0, caps())
    (rig.directory / "node0_cap_mw").write_text("77777\n")
    wait_for(lambda: rig.caps_mw() == [12000, 9000])


def test_alone_it_beacons(rig: Rig) -> None:
    config = GuardianConfig(CONFIG.floor_w, CONFIG.ceiling_w, 60.0, alone_after_s=0.2)
    beacon = rig.directory / "beacon"
    link = rig.link("--beacon", str(beacon), config=config)
    link.start()
    link.renew(0.0, 0.1, caps())
    size = 96 + 16 * 2
    wait_for(lambda: beacon.stat().st_size >= size)
    status = decode_status(beacon.read_bytes()[:size])
    assert status.alone
    assert status.expired
    assert status.last_sequence == 1
    assert [node.cap_w for node in status.nodes] == [1.0, 1.5]


def test_the_watchdog_is_petted_by_the_loop_only(rig: Rig) -> None:
    watchdog = rig.directory / "watchdog"
    watchdog.touch()
    link = rig.link("--watchdog", str(watchdog))
    link.start()
    wait_for(lambda: watchdog.stat().st_size >= 2)
    assert link.renew(0.0, 60.0, caps()).watchdog_petted
    assert link.pid is not None
    os.kill(link.pid, signal.SIGSTOP)
    wait_for(lambda: process_state(link.pid or 0) == "T")
    size = watchdog.stat().st_size
    time.sleep(2.5)
    assert watchdog.stat().st_size == size


def test_too_long_alone_the_watchdog_is_left_to_bite(rig: Rig) -> None:
    watchdog = rig.directory / "watchdog"
    watchdog.touch()
    config = GuardianConfig(CONFIG.floor_w, CONFIG.ceiling_w, 60.0, alone_after_s=0.1)
    link = rig.link("--watchdog", str(watchdog), "--alone-reset-s", "1", config=config)
    link.start()

    def petted() -> bool:
        return link.start().watchdog_petted  # a HELLO is no lease

    wait_for(petted)
    wait_for(lambda: not petted())
    assert link.renew(0.0, 60.0, caps()).result == 0
    wait_for(petted)


def test_it_works_in_a_session_of_its_own(rig: Rig) -> None:
    link = rig.link()
    link.start()
    assert link.pid is not None
    assert os.getsid(link.pid) == link.pid
    assert (rig.directory / "s").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can name another user as the supervisor")
def test_another_user_is_turned_away(rig: Rig) -> None:
    arguments = [word for pair in GOOD.items() for word in pair]
    guardian = subprocess.Popen([GUARDIAN_PROGRAM, *arguments, "--peer-uid", "65534"], cwd=rig.directory)
    try:
        wait_for((rig.directory / "node1_cap_mw").exists)
        assert (rig.directory / "s").stat().st_uid == 65534
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as us:
            us.connect(str(rig.directory / "s"))
            us.settimeout(30)
            assert us.recv(300) == b""
        with pytest.raises(BoardError, match="another guardian holds it"):
            rig.link().start()
        assert guardian.poll() is None
    finally:
        guardian.terminate()
        assert guardian.wait() == 0


def test_garbage_on_the_socket_is_answered_and_counted(rig: Rig) -> None:
    link = rig.link()
    link.start()
    link.renew(0.0, 60.0, caps())
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.connect(str(rig.directory / "s"))
        for message in (b"x", b"x" * 120, b"x" * 4000, encode_lease(2, 60.0, [NodeCap(1.0, 1.0, 0)])):
            stranger.send(message)
            status = decode_status(stranger.recv(300))
    assert status.rejected[0] == 2
    assert status.result == Rejection.NODES
    assert rig.caps_mw() == [12000, 9000]


def test_in_process_and_program_give_the_same_answers(rig: Rig) -> None:
    link, inside = rig.link(), InProcessGuardian(CONFIG)
    link.start()

    def essence(status: GuardianStatus) -> GuardianStatus:
        return status._replace(lease_left_s=0.0, uptime_s=0, overruns=0, memory_locked=False)

    for cap_w in (3.0, 16.0, 0.0, 15.0):
        assert essence(link.renew(0.0, 60.0, caps(cap_w))) == essence(inside.renew(0.0, 60.0, caps(cap_w)))


def test_in_process_lease_ends_in_virtual_time() -> None:
    inside = InProcessGuardian(CONFIG)
    assert inside.renew(100.0, 20.0, caps()).nodes[0].cap_w == 12.0
    assert inside.status(119.999).nodes[0].cap_w == 12.0
    status = inside.status(120.0)
    assert (status.expired, status.nodes[0].cap_w, status.nodes[1].cap_w) == (True, 1.0, 1.5)


# --- what is refused before anything runs ------------------------------------------------------------------

GOOD = {"--socket": "s", "--caps-dir": ".", "--nodes": "2", "--floor-mw": "1000", "--ceiling-mw": "5000,6000",
        "--lease-max-ms": "1000"}  # fmt: skip


def run_program(directory: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [GUARDIAN_PROGRAM, *arguments], cwd=directory, capture_output=True, text=True, check=False, timeout=30
    )


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"--nodes": "9"}, 2, "--nodes 9: want a number of nodes of 1..8"),
        ({"--nodes": "two"}, 2, "--nodes two"),
        ({"--nodes": None}, 2, "--nodes: missing"),
        ({"--socket": None}, 2, "--socket: missing"),
        ({"--socket": "x" * 101}, 2, "1..100 bytes"),
        ({"--caps-dir": ""}, 2, "--caps-dir: unknown option, or no value"),
        ({"--floor-mw": "6000"}, 2, "floor 0..ceiling"),
        ({"--floor-mw": "-1"}, 2, "0..2000000 mW"),
        ({"--floor-mw": "1,2,3"}, 2, "one for each node"),
        ({"--ceiling-mw": "1e3"}, 2, "0..2000000 mW"),
        ({"--ceiling-mw": "99999999999999999999"}, 2, "0..2000000 mW"),
        ({"--lease-max-ms": "60001"}, 2, "1..60000 ms"),
        ({"--alone-after-ms": "0"}, 2, "1..86400000 ms"),
        ({"--cap-path": "0"}, 2, "NODE=VALUE"),
        ({"--cap-path": "2=f"}, 2, "not below --nodes"),
        ({"--cap-unit": "0=kw"}, 2, "uw, mw or w"),
        ({"--peer-uid": "root"}, 2, "user number"),
        ({"--volume": "11"}, 2, "--volume: unknown option"),
        ({"--caps-dir": "nowhere"}, 3, "nowhere/node0_cap_mw: No such file or directory"),
        ({"--cap-path": "0=missing"}, 3, "cap file missing: No such file or directory"),
        ({"--watchdog": "missing"}, 3, "watchdog missing: No such file or directory"),
        ({"--beacon": "no/such"}, 3, "beacon no/such: No such file or directory"),
        ({"--beacon": "fd:77"}, 3, "beacon fd:77: Bad file descriptor"),
        ({"--socket": "no/such"}, 3, "No such file or directory"),
    ],
)
def test_bad_arguments_give_one_clear_line(
    tmp_path: Path, changes: dict[str, str | None], code: int, says: str
) -> None:
    arguments = [word for option, value in (GOOD | changes).items() if value is not None for word in (option, value)]
    done = run_program(tmp_path, arguments)
    assert done.returncode == code
    assert re.fullmatch(r"guardian: [^\n]+\n", done.stderr)
    assert says in done.stderr


def test_help_teaches(tmp_path: Path) -> None:
    done = run_program(tmp_path, ["--help"])
    assert done.returncode == 0
    source = (ROOT / "c_kernels" / "guardian" / "options.h").read_text(encoding="utf-8")
    for option in set(re.findall(r'strcmp\(option, "(--[a-z-]+)"\)', source)):
        assert f"  {option} " in done.stdout


def test_a_second_guardian_is_refused(rig: Rig) -> None:
    rig.link().start()
    done = run_program(rig.directory, [word for pair in GOOD.items() for word in pair])
    assert (done.returncode, done.stderr) == (3, "guardian: socket s: another guardian holds it\n")


def test_a_guardian_that_cannot_start_says_why(tmp_path: Path) -> None:
    link = ProcessGuardian(CONFIG, tmp_path / "s", tmp_path / "nowhere")
    with pytest.raises(BoardError, match="No such file or directory"):
        link.start()
    link = ProcessGuardian(CONFIG, tmp_path / "s", tmp_path, program=tmp_path / "none")
    with pytest.raises(BoardError, match="cannot be started"):
        link.start()


def test_a_guardian_of_another_size_is_refused(rig: Rig) -> None:
    rig.link().start()
    other = rig.link(config=GuardianConfig((1.0,), (2.0,), 5.0))
    with pytest.raises(BoardError, match="serves 2 nodes, want 1"):
        other.start()


@pytest.mark.parametrize(
    "make",
    [
        lambda: GuardianConfig((), (), 5.0),
        lambda: GuardianConfig((1.0,) * 9, (1.0,) * 9, 5.0),
        lambda: GuardianConfig((2.0,), (1.0,), 5.0),
        lambda: GuardianConfig((float("nan"),), (1.0,), 5.0),
        lambda: GuardianConfig((1.0,), (float("inf"),), 5.0),
        lambda: GuardianConfig((1.0,), (1.0,), 61.0),
        lambda: GuardianConfig((1.0,), (1.0,), 5.0, alone_after_s=0.0),
        lambda: ProcessGuardian(CONFIG, Path("x" * 101), Path()),
    ],
)
def test_a_bad_configuration_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match="guardian: "):
        make()


@pytest.mark.parametrize("cap", [NodeCap(float("nan"), 1.0, 0), NodeCap(-1.0, 1.0, 0), NodeCap(1.0, 1.1, 0),
                                 NodeCap(1.0, float("nan"), 0), NodeCap(1.0, 1.0, -5)])  # fmt: skip
def test_what_is_no_cap_is_never_sent(cap: NodeCap) -> None:
    with pytest.raises(BoardError, match="node 0"):
        encode_lease(1, 5.0, [cap])


def test_a_damaged_status_is_refused() -> None:
    with pytest.raises(LinkError, match="bytes"):
        decode_status(b"")
    with pytest.raises(LinkError, match="damaged"):
        decode_status(bytes(112))

"""One cgroup a job: what is written where, on folders like the kernel's, and the freezer where there is one."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from flightsw.errors import JobError
from flightsw.jobs.cgroup import Cgroup, CgroupTree, CgroupUsage, Limits, open_tree
from flightsw.jobs.sandbox import Sandbox, limits_enforced, limits_not_enforced


def hierarchy(tmp_path: Path, own: str, controllers: str = "cpuset cpu io memory pids") -> tuple[Path, Path]:
    """A mount point and a /proc/self that say so."""
    mount, proc = tmp_path / "sys fs", tmp_path / "proc"
    here = mount / own.lstrip("/")
    here.mkdir(parents=True)
    proc.mkdir()
    (here / "cgroup.controllers").write_text(controllers)
    (here / "cgroup.subtree_control").write_text("cpu")
    shown = str(mount).replace(" ", "\\040")
    (proc / "mounts").write_text(f"tmpfs /run tmpfs rw 0 0\ncgroup2 {shown} cgroup2 rw 0 0\n")
    (proc / "cgroup").write_text(f"4:memory:/elsewhere\n0::{own}\n")
    return here, proc


def test_the_superuser_of_a_plain_machine_divides_the_topmost(tmp_path: Path) -> None:
    here, proc = hierarchy(tmp_path, "/")
    tree, why = open_tree("ours", proc)
    assert tree is not None
    assert (tree.root, why) == (here / "ours", "")
    assert (here / "cgroup.subtree_control").read_text() == "+pids"  # the last one written; the kernel adds them up
    tree.close()


def test_a_delegated_one_is_left_for_a_leaf_first(tmp_path: Path) -> None:
    here, proc = hierarchy(tmp_path, "/system.slice/flight.service")
    tree, _ = open_tree("ours", proc)
    assert tree is not None
    assert tree.root == here / "ours"
    assert (here / "supervisor" / "cgroup.procs").read_text() == "0"
    (proc / "cgroup").write_text("0::/system.slice/flight.service/supervisor\n")
    again, _ = open_tree("ours", proc)
    assert again is not None
    assert again.root == tree.root, "a supervisor that is started again finds the same place"


def test_what_the_service_manager_did_not_give_away_is_left_alone(tmp_path: Path) -> None:
    here, proc = hierarchy(tmp_path, "/system.slice/flight.service")
    tree, why = open_tree("ours", proc, service_manager=tmp_path)
    assert tree is None
    assert why.endswith("the service must say Delegate=cpu memory pids io")
    assert sorted(path.name for path in here.iterdir()) == ["cgroup.controllers", "cgroup.subtree_control"]
    try:
        os.setxattr(here, "user.delegate", b"1")
    except OSError as e:
        pytest.skip(f"no extended attributes on {here}: {e.strerror}")
    assert open_tree("ours", proc, service_manager=tmp_path)[0] is not None


def test_without_a_hierarchy_or_the_right_to_it_the_reason_is_said(tmp_path: Path) -> None:
    assert open_tree("ours", tmp_path) == (None, "no cgroup v2 is mounted")
    here, proc = hierarchy(tmp_path, "/")
    (here / "ours").write_text("in the way")
    tree, why = open_tree("ours", proc)
    assert tree is None
    assert "is not delegated to us" in why


def test_limits_go_to_the_controllers_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory io")
    tree = CgroupTree(tmp_path, "8:0")
    made: Path = tmp_path / "job-0000000007"
    cgroup = tree.make(7, Limits(64 << 20, 32, 1.5, 1 << 20))
    assert cgroup.path == made
    wanted = {"memory.max": "67108864", "memory.oom.group": "1", "cpu.weight": "10", "cpu.max": "150000 100000",
              "io.max": "8:0 rbps=1048576 wbps=1048576"}
    assert {path.name: path.read_text() for path in made.iterdir()} == wanted
    # These folders hold files that a real one is removed with: like one whose last process has not died yet.
    assert tree.make(7, Limits(1, 1, 0.0)).path == tmp_path / "job-0000000007.1"
    for _ in range(14):
        tree.make(7, Limits(1, 1, 0.0))
    with pytest.raises(JobError, match=r"job 7: cgroup .*busy"):
        tree.make(7, Limits(1, 1, 0.0))


def test_a_disk_that_cannot_be_limited_is_said_and_keeps_no_job_from_starting(tmp_path: Path) -> None:
    _, proc = hierarchy(tmp_path, "/")
    tree, _ = open_tree("ours", proc, disk="8:0")
    assert tree is not None
    assert not tree.limits_disk, "these folders have no io.max, as a disk without a queue has none"
    tree.root.mkdir(exist_ok=True)
    (tree.root / "cgroup.subtree_control").write_text("io cpu")
    again = CgroupTree(tree.root)
    assert [path.name for path in again.make(1, Limits(1, 1, 1.0, 1 << 20)).path.iterdir()] == ["cpu.weight", "cpu.max"]
    named = Sandbox(cgroups=again)
    assert "disk bandwidth" in limits_not_enforced(named)
    assert "disk: bandwidth (io.max)" in limits_enforced(Sandbox(cgroups=CgroupTree(tree.root, "8:0")))


def test_counters_are_read_and_absent_ones_are_no_number(tmp_path: Path) -> None:
    cgroup = Cgroup(tmp_path)
    assert cgroup.usage() == CgroupUsage(0.0, None, None)
    (tmp_path / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\nsystem_usec 2\n")
    (tmp_path / "memory.current").write_text("5\n")
    (tmp_path / "io.stat").write_text("8:0 rbytes=1 wbytes=20 rios=1 wios=2\n259:0 rbytes=3 wbytes=22\n")
    assert cgroup.usage() == CgroupUsage(2.5, 5, 42)
    (tmp_path / "memory.peak").write_text("9\n")
    (tmp_path / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    assert cgroup.usage().memory_peak_octets == 9
    assert cgroup.was_out_of_memory()


def test_a_frozen_job_does_not_run_whatever_signals_it_gets(tmp_path: Path) -> None:
    tree, why = open_tree(f"test-{tmp_path.stat().st_ino:x}")
    if tree is None:
        pytest.skip(why)
    cgroup = tree.make(1, Limits(64 << 20, 32, 0.0))
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path(cgroup.entry).write_text("0")
        while True:
            pass
    try:
        while cgroup.usage().core_s < 0.05:
            time.sleep(0.01)
        assert cgroup.processes() == (child,)
        cgroup.freeze(True)
        while "frozen 1" not in (cgroup.path / "cgroup.events").read_text():
            time.sleep(0.01)
        used_s = cgroup.usage().core_s
        os.kill(child, signal.SIGCONT)
        time.sleep(0.1)
        assert cgroup.usage().core_s == used_s
    finally:
        cgroup.kill()  # also out of the ice
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        cgroup.remove()
        tree.close()
    assert not tree.root.exists()

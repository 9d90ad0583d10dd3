"""One cgroup v2 a job: what the kernel itself then counts and holds back (Documentation/admin-guide/cgroup-v2).

Owns the folders below one delegated cgroup. Called by `sandbox` and the runner. Uses the controllers that are
there; a hierarchy without any still freezes and kills whole jobs. Never touches a cgroup that it did not make,
except to hand controllers down to its children. Under systemd the service says `Delegate=cpu memory pids io`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
from pathlib import Path
from typing import Final, NamedTuple

from flightsw.errors import JobError

CONTROLLERS: Final = ("cpu", "memory", "pids", "io")

_SUPERVISOR: Final = "supervisor"
_LEFT_BEHIND_MAX: Final = 16
_CLOSE_TRIES, _CLOSE_WAIT_S = 50, 0.01
_CPU_PERIOD_US: Final = 100_000


class Limits(NamedTuple):
    """What one job may take; `cores` and `io_octets_s` of 0 mean without bound."""

    memory_octets: int
    processes: int
    cores: float
    io_octets_s: int = 0


class CgroupUsage(NamedTuple):
    """What a job's cgroup has counted. None: the controller that would know is not there."""

    core_s: float
    memory_peak_octets: int | None
    written_octets: int | None


class CgroupTree:
    """The delegated cgroup below which each job gets its own."""

    def __init__(self, root: Path, disk: str = "") -> None:
        """Use the folder `root`; `disk` is the `major:minor` of the device that `io_octets_s` is about."""
        self.root = root
        self._disk = disk
        self.limits_disk = bool(disk)
        self._dying: set[Path] = set()  # of ended jobs, while the kernel still counts a process in them
        self.controllers: frozenset[str] = frozenset(_words(root / "cgroup.subtree_control")) & set(CONTROLLERS)

    def close(self) -> None:
        """Remove the tree, when the last killed process has died; where a job runs on, it stays."""
        self._dying.update(self.root.glob("job-*"))
        for _ in range(_CLOSE_TRIES):
            self._sweep()
            with contextlib.suppress(OSError):
                self.root.rmdir()
            if not self.root.exists():
                return
            select.select([], [], [], _CLOSE_WAIT_S)

    def _sweep(self) -> None:
        """Remove the cgroups of ended jobs that are empty by now."""
        for path in tuple(self._dying):
            with contextlib.suppress(OSError):
                path.rmdir()
            if not path.exists():
                self._dying.discard(path)

    def make(self, job_id: int, limits: Limits) -> Cgroup:
        """Make the job's cgroup and set its limits. JobError when the kernel refuses one that it offers."""
        settings: list[tuple[str, str, str]] = [
            ("memory", "memory.max", str(limits.memory_octets)),
            ("memory", "memory.swap.max", "0"),
            ("memory", "memory.oom.group", "1"),
            ("pids", "pids.max", str(limits.processes)),
            ("cpu", "cpu.weight", "10"),  # behind the supervisor, which has the default of 100
        ]
        if limits.cores:
            settings.append(("cpu", "cpu.max", f"{int(limits.cores * _CPU_PERIOD_US)} {_CPU_PERIOD_US}"))
        if limits.io_octets_s and self._disk:
            settings.append(("io", "io.max", f"{self._disk} rbps={limits.io_octets_s} wbps={limits.io_octets_s}"))
        self._sweep()
        try:
            path = self._fresh(f"job-{job_id:010d}")
            for controller, name, value in settings:
                # A kernel without swap has no memory.swap.max, and needs none.
                if controller in self.controllers and (name != "memory.swap.max" or (path / name).exists()):
                    (path / name).write_text(value)
        except OSError as e:
            raise JobError(f"job {job_id}: cgroup {e.filename or self.root}: {e.strerror}") from e
        return Cgroup(path, self._dying)

    def _fresh(self, name: str) -> Path:
        """Make a new folder; clear away those left by supervisors that were killed, or pass over what still dies."""
        for path in (self.root / name, *(self.root / f"{name}.{n}" for n in range(1, _LEFT_BEHIND_MAX))):
            with contextlib.suppress(OSError):
                Cgroup(path).kill()
                path.rmdir()
            if not path.exists():
                path.mkdir()
                self._dying.discard(path)
                return path
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(self.root / name))


class Cgroup:
    """One job's cgroup; it outlives the job's processes until `remove`."""

    def __init__(self, path: Path, dying: set[Path] | None = None) -> None:
        """Speak for the folder `path`; what cannot be removed at once goes into `dying`."""
        self.path = path
        self._dying = set() if dying is None else dying

    @property
    def entry(self) -> str:
        """File that a process writes `0` into to join."""
        return str(self.path / "cgroup.procs")

    def freeze(self, frozen: bool) -> None:
        """Stop or continue every process, whatever signals it ignores or gets."""
        self._write("cgroup.freeze", "1" if frozen else "0")

    def kill(self) -> None:
        """SIGKILL every process in it; kernels before 5.14 know no `cgroup.kill` and get a signal for each."""
        if (self.path / "cgroup.kill").exists():
            self._write("cgroup.kill", "1")
            return
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)

    def processes(self) -> tuple[int, ...]:
        """Process ids in it; empty when it is gone."""
        return tuple(map(int, _words(self.path / "cgroup.procs")))

    def usage(self) -> CgroupUsage:
        """Read the counters."""
        cpu = _table(self.path / "cpu.stat")
        peak = _words(self.path / "memory.peak") or _words(self.path / "memory.current")
        written = [int(word[7:]) for word in _words(self.path / "io.stat") if word.startswith("wbytes=")]
        return CgroupUsage(
            cpu.get("usage_usec", 0) * 1e-6,
            int(peak[0]) if peak else None,
            sum(written) if (self.path / "io.stat").exists() else None,
        )

    def was_out_of_memory(self) -> bool:
        """Whether the kernel killed something in it for memory."""
        return _table(self.path / "memory.events").get("oom_kill", 0) > 0

    def remove(self) -> None:
        """Remove it; one in which a killed process has not died yet is removed with the next `make`."""
        try:
            self.path.rmdir()
        except OSError:
            self._dying.add(self.path)

    def _write(self, name: str, value: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.path / name).write_text(value)


def open_tree(
    name: str, proc: Path = Path("/proc/self"), disk: str = "", service_manager: Path = Path("/run/systemd/system")
) -> tuple[CgroupTree | None, str]:
    """Make the cgroup `name` below one that is ours to divide; return it, or None and why there is none.

    Ours is our own, if it was delegated; the supervisor then moves into a leaf beside `name`, because a cgroup that
    hands controllers down may hold no process itself. The superuser of a machine without a service manager is in the
    topmost one, which may.
    """
    mount, own = _mount_point(proc / "mounts"), _own_path(proc / "cgroup")
    if mount is None or own is None:
        return None, "no cgroup v2 is mounted"
    here = mount / own
    if service_manager.exists() and not _is_delegated(here.parent if here.name == _SUPERVISOR else here):
        return None, f"cgroup {here} is the service manager's: the service must say Delegate=cpu memory pids io"
    try:
        if own != Path():
            here = here.parent if here.name == _SUPERVISOR else here
            leaf = here / _SUPERVISOR
            leaf.mkdir(exist_ok=True)
            (leaf / "cgroup.procs").write_text("0")
        _hand_down(here)
        root = here / name
        root.mkdir(exist_ok=True)
        _hand_down(root)
        (root / "probe").mkdir(exist_ok=True)
        disk = disk if _takes_io_limit(root / "probe", disk) else ""
        (root / "probe").rmdir()
    except OSError as e:
        return None, f"cgroup {here} is not delegated to us: {e.strerror}"
    return CgroupTree(root, disk), ""


def _takes_io_limit(probe: Path, disk: str) -> bool:
    """Whether the kernel can limit this disk: one without a request queue of its own (loop, overlay) it cannot."""
    try:
        fd = os.open(probe / "io.max", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, f"{disk} rbps=max wbps=max".encode())
    except OSError:
        return False
    finally:
        os.close(fd)
    return bool(disk)


def _is_delegated(folder: Path) -> bool:
    """Whether the service manager gave `folder` away (systemd.resource-control(5), Delegate=)."""
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            return os.getxattr(folder, name) == b"1"
    return False


def _hand_down(folder: Path) -> None:
    """Offer the controllers that are there to the children of `folder`."""
    missing = set(_words(folder / "cgroup.controllers")) & set(CONTROLLERS)
    missing -= set(_words(folder / "cgroup.subtree_control"))
    for controller in sorted(missing):
        with contextlib.suppress(OSError):  # a controller that is held back leaves the others
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def _mount_point(mounts: Path) -> Path | None:
    for line in _lines(mounts):
        fields = line.split()
        if len(fields) > 2 and fields[2] == "cgroup2":
            return Path(fields[1].encode().decode("unicode_escape"))  # a blank is written as \040
    return None


def _own_path(cgroup: Path) -> Path | None:
    own = [line[3:] for line in _lines(cgroup) if line.startswith("0::")]
    return Path(own[0].lstrip("/")) if own else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return [word for line in _lines(path) for word in line.split()]


def _table(path: Path) -> dict[str, int]:
    """Read a file of `name number` lines."""
    return {name: int(value) for name, value in (line.split() for line in _lines(path))}

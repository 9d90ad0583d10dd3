"""What holds a job: own user, namespaces (bubblewrap), cgroup v2, seccomp, Landlock, rlimits, each where it is there.

Owns the choice of layers on this machine, and the words that put a job behind them. Called by the runner for each
job, and at the start of the flight program, which then runs `selftest` behind the same layers: what they really hold
is what counts, `limits_not_enforced` only says what cannot hold because its layer is absent.

Two ways lead into bubblewrap. The superuser starts it as itself and the job, the last process, becomes a user of its
own (one a job folder, who owns the folder). Anybody else needs unprivileged user namespaces: `--unshare-user
--disable-userns`. The job stays in the session that the runner made for it and the filter keeps it there, because the
guardian throttles process groups; therefore no `--new-session` (there is no terminal to be guarded from).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flightsw.errors import JobError
from flightsw.jobs import checkpoint, landlock, launch
from flightsw.jobs.cgroup import CgroupTree, open_tree
from flightsw.jobs.seccomp import filter_program

PROCESSES_MAX: Final = 64
"""Processes and threads of one job."""

USER_BASE: Final = 400_000  # between the subordinate ids of users and those of containers
USER_COUNT: Final = 8192

_MB: Final = 1 << 20
_PRIVATE_TMP_OCTETS_MAX: Final = 64 * _MB  # it is memory, so it is small
_PROBE_WAIT_S: Final = 20.0
_PR_GET_SECCOMP: Final = 21
_SANDBOX_USER: Final = 65_534  # nobody, as the job sees itself in a user namespace
_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/shm")


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The layers that every job gets. The default has none but what each process sets for itself (rlimits).

    `bwrap` is the program's path, "" for without; `own_users` needs the superuser; `landlock` is the kernel's
    version. `absent` says of each layer that is not there why.
    """

    bwrap: str = ""
    own_users: bool = False
    cgroups: CgroupTree | None = None
    seccomp: bytes = b""
    landlock: int = 0
    absent: tuple[str, ...] = ()

    @property
    def counts_processes(self) -> bool:
        """Whether RLIMIT_NPROC counts the job alone, and not all that its user runs."""
        return self.own_users or bool(self.bwrap)

    def order(
        self, folder: Path, memory_octets: int, file_octets: int, cpu_s: int, user: int, cgroup_entry: str,
        checkpoint_octets: int,
    ) -> launch.Order:
        """Say how a process becomes the job of `folder`; limits of 0 are not set."""
        return launch.Order(
            parent_pid=os.getpid(),
            folder=str(folder),
            memory_octets=memory_octets,
            file_octets=file_octets,
            processes=PROCESSES_MAX if self.counts_processes else 0,
            cpu_s=cpu_s,
            user=user,
            cgroup_entry=cgroup_entry,
            wrapper=tuple(self._bwrap_words(folder, memory_octets)) if self.bwrap else (),
            seccomp_hex=self.seccomp.hex(),
            read_only=(*_system(), "/proc", "/etc") if self.landlock else (),
            read_write=self._writable(folder) if self.landlock else (),
            checkpoint_octets=checkpoint_octets,
        )

    def close(self) -> None:
        """Give back what `probe` made; jobs must have ended."""
        if self.cgroups is not None:
            self.cgroups.close()

    def user_for(self, folder: Path) -> int:
        """Return the user of a job's folder, 0 for our own: its owner, or one that owns no folder beside it."""
        if not self.own_users:
            return 0
        owner = folder.stat().st_uid
        if _is_job_user(owner):
            return owner
        taken = {entry.stat(follow_symlinks=False).st_uid for entry in os.scandir(folder.parent)}
        user = next((u for u in range(USER_BASE, USER_BASE + USER_COUNT) if u not in taken), 0)
        if not user:
            raise JobError(f"{folder}: all {USER_COUNT} users of jobs own a folder")
        return user

    def _writable(self, folder: Path) -> tuple[str, ...]:
        return (str(folder), *_DEVICES, "/tmp") if self.bwrap else (str(folder), *_DEVICES[:-1])

    def _bwrap_words(self, folder: Path, memory_octets: int) -> Iterator[str]:
        tmp_octets = str(min(memory_octets, _PRIVATE_TMP_OCTETS_MAX))
        yield from (self.bwrap, "--die-with-parent", "--unshare-net", "--unshare-pid", "--unshare-ipc", "--unshare-uts")
        yield "--unshare-cgroup-try"
        if self.own_users:
            yield from ("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
        else:
            yield from ("--unshare-user", "--disable-userns")
            yield from ("--uid", str(_SANDBOX_USER), "--gid", str(_SANDBOX_USER))
        yield from ("--proc", "/proc", "--dev", "/dev")
        yield from ("--perms", "1777", "--size", tmp_octets, "--tmpfs", "/dev/shm", "--remount-ro", "/dev")
        yield from ("--perms", "1777", "--size", tmp_octets, "--tmpfs", "/tmp")
        made: set[Path] = {Path("/"), Path("/tmp")}
        for path in map(Path, _system()):
            if path.is_symlink() and len(path.parts) == 2:  # /bin -> usr/bin
                yield from ("--symlink", str(path.readlink()), str(path))
                continue
            yield from _parents(path, made)
            yield from ("--ro-bind-try", str(path), str(path))
        yield from _parents(folder, made)
        yield from ("--bind", str(folder), str(folder), "--ro-bind", str(folder / "in"), str(folder / "in"))
        good = str(folder / checkpoint.GOOD)
        yield from ("--ro-bind-try", good, good, "--remount-ro", "/")


BARE: Final = Sandbox(absent=("no sandbox was asked for",))


def probe(run_folder: Path, interpreter: Path) -> Sandbox:
    """Find the strongest sandbox in which `interpreter` can start on this machine, with folders in `run_folder`.

    Tries, does not guess: containers, old kernels and security modules forbid what looks allowed.
    """
    run_folder = run_folder.resolve()
    bwrap, root = shutil.which("bwrap") or "", os.geteuid() == 0
    facts = run_folder.stat()  # names this satellite's jobs: two flight programs on one machine do not share them
    cgroups, why = open_tree(f"flightsw-{facts.st_dev:x}-{facts.st_ino:x}", disk=_disk_of(run_folder))
    absent = [why] if why else []
    if cgroups is not None:
        lacking = sorted({"cpu", "io", "memory", "pids"} - cgroups.controllers)
        absent += [f"cgroup v2 has no {', '.join(lacking)} controller to give"] if lacking else []
        if "io" in cgroups.controllers and not cgroups.limits_disk:
            absent.append(f"the kernel cannot limit the disk under {run_folder}")
    filtered = filter_program(os.uname().machine) if _kernel_filters() else b""
    if not filtered:
        absent.append(f"no seccomp filter for {os.uname().machine}" if _kernel_filters() else "kernel without seccomp")
    version = landlock.version()
    if not version:
        absent.append("kernel without Landlock")
    if not bwrap:
        absent.append("bubblewrap (program bwrap) is not installed")
    ways = [(bwrap, True), (bwrap, False)] if bwrap else []
    for program, own_users in (*ways, ("", True), ("", False)):
        if own_users and not root:
            continue
        sandbox = Sandbox(program, own_users, cgroups, filtered, version)
        trouble = _try(sandbox, run_folder, interpreter)
        if not trouble:
            if not own_users:
                absent.append("jobs run as our own user" if root else "jobs run as our own user: we are not root")
            return Sandbox(program, own_users, cgroups, filtered, version, tuple(absent))
        way = ("" if program else "without ") + "bubblewrap" + (" with own users" if own_users else "")
        absent.append(f"{way}: {trouble}")
    return Sandbox(absent=tuple(absent))


def limits_enforced(sandbox: Sandbox = BARE) -> tuple[str, ...]:
    """What holds every job that runs in `sandbox`, one line each."""
    return tuple([held for holds, held, _ in _limits(sandbox) if holds])


def limits_not_enforced(sandbox: Sandbox = BARE) -> tuple[str, ...]:
    """What `sandbox` does not hold back, one line each: run only jobs that are trusted with it."""
    return tuple([lacking for holds, _, lacking in _limits(sandbox) if not holds])


def _limits(sandbox: Sandbox) -> Iterator[tuple[bool, str, str]]:
    """Yield every limit: whether it holds, what then holds, and what does not otherwise."""
    controllers = frozenset() if sandbox.cgroups is None else sandbox.cgroups.controllers
    walled, filtered = bool(sandbox.bwrap), bool(sandbox.seccomp)
    yield True, "memory: private memory of each process up to needs.memory_mb (RLIMIT_DATA, RLIMIT_AS)", ""
    yield ("memory" in controllers, "memory: of all its processes together (memory.max)",
           "memory of all its processes together between two polls; a poll that finds more ends the job")
    if walled and "memory" not in controllers:
        most_mb = _PRIVATE_TMP_OCTETS_MAX // _MB
        yield False, "", f"memory: private /tmp and /dev/shm, up to {most_mb} MB each, come on top"
    yield True, "disk: each file, and all outputs together, up to needs.disk_mb (RLIMIT_FSIZE)", ""
    yield (False, "", "disk: sum of files between two polls; a poll that finds more than needs.disk_mb ends the job")
    limits_disk = "io" in controllers and sandbox.cgroups is not None and sandbox.cgroups.limits_disk
    yield limits_disk, "disk: bandwidth (io.max)", "disk bandwidth"
    yield True, "log: the first octets of output are kept; a flood slows the job, nothing else", ""
    yield True, "files: 256 open files; no core dumps; standard input empty; environment made anew", ""
    yield True, "privileges: none are gained by exec (no_new_privs); runs behind the supervisor (nice 10)", ""
    yield True, "end: its process dies with the supervisor (PDEATHSIG); its process group dies with it", ""
    yield ("pids" in controllers or sandbox.counts_processes, f"processes: {PROCESSES_MAX} with their threads",
           "number of processes: a fork bomb is not stopped (RLIMIT_NPROC counts a user, not a job)")
    yield ("cpu" in controllers, "processor: the cores that it was measured with (cpu.max), behind others (cpu.weight)",
           "processor time and number of cores, other than by the guardian stopping the process group")
    yield walled or filtered, "network: none (network namespace, no sockets)", "network"
    yield (walled or bool(sandbox.landlock), "files: only its own folder is written; what others own is not seen",
           "the files that its user may read or write")
    yield walled or sandbox.own_users, "processes of others: not signalled, not traced", "its user's other processes"
    yield (walled and filtered, "descendants: stay in its session, die with it",
           "descendants that leave its session (setsid) survive it" if not filtered
           else "grandchildren survive a killed supervisor")


def _parents(path: Path, made: set[Path]) -> Iterator[str]:
    """Words that make the folders above `path` so that every user may pass."""
    for parent in reversed(path.parents):
        if parent not in made and not parent.is_relative_to("/usr"):
            made.add(parent)
            yield from ("--perms", "0755", "--dir", str(parent))


def _system() -> tuple[str, ...]:
    """Trees that a job reads: the system's, and the interpreter's with its libraries and this package."""
    prefixes = {sys.prefix, sys.base_prefix, str(Path(__file__).resolve().parents[1])}
    prefixes |= {sysconfig.get_path("purelib"), sysconfig.get_path("stdlib")}
    ours = sorted(p for p in prefixes - {*_SYSTEM}
                  if not any(p != q and Path(p).is_relative_to(q) for q in (*prefixes, *_SYSTEM)))
    return (*(path for path in _SYSTEM if os.path.lexists(path)), *ours)


def _is_job_user(user: int) -> bool:
    return USER_BASE <= user < USER_BASE + USER_COUNT


def _kernel_filters() -> bool:
    return int(ctypes.CDLL(None).prctl(_PR_GET_SECCOMP, 0, 0, 0, 0)) >= 0


def _disk_of(folder: Path) -> str:
    """`major:minor` of the whole disk under `folder`, as io.max wants it; "" when there is none to be found."""
    device = folder.stat().st_dev
    link = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    with contextlib.suppress(OSError):
        disk = link.resolve(strict=True)
        if (disk / "partition").exists():
            disk = disk.parent
        return (disk / "dev").read_text().strip()
    return ""


def _try(sandbox: Sandbox, run_folder: Path, interpreter: Path) -> str:
    """Start Python in the sandbox as a job would be; return what went wrong."""
    folder = run_folder / "probe"
    try:
        (folder / "in").mkdir(parents=True, exist_ok=True)
        user = sandbox.user_for(folder)
        if user:
            os.chown(folder, user, user)
        order = sandbox.order(folder, 512 * _MB, _MB, 60, user, "", 0)
        test = "import os; open('written', 'w').close(); os.fork() or os._exit(0); os.wait()"
        tried = subprocess.run(
            [interpreter, "-I", "-S", launch.__file__, "outside", json.dumps(order), interpreter, "-c", test],
            capture_output=True, timeout=_PROBE_WAIT_S, check=False, env={}, text=True, start_new_session=True,
        )
        if tried.returncode == 0:
            return ""
        return (tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"])[-1]
    except (OSError, subprocess.SubprocessError) as e:
        return str(e)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

"""What jobs use: joules by share of the measured rails, processor time, memory, files.

Owns the arithmetic of the bill (`Meter`, pure: time and readings are passed in) and the readers of /proc and of a
job's folder (`read_sessions`, `measure_folder`), which the runner calls once a poll. Never decides, never charges a
reading that is not there.

How a joule finds its payer: a node's rail power over an interval goes to the jobs that may run on that node, in
proportion to the processor time that each used in it; what the bus drew beyond the jobs is the house's (supervisor,
idle nodes, conversion loss). So all accounts together are the bus's energy, whatever the shares: what can be wrong is
the integral (trapezoids between samples) and the split between jobs of one node. A job that draws more than it
declared is charged what it drew.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from flightsw.state import Usage

GAP_MAX_S: Final = 5.0
"""Longest time between two readings over which power is believed to have run straight from one to the other."""

ENTRIES_MAX: Final = 10_000
"""Files and folders that a job's folder may hold: so many are measured in some 50 ms on a small board."""

MAPPINGS_MAX: Final = 20_000
"""Mappings of a job's processes together: what lies behind more is not looked at, so a job may not have more."""

_Sample = tuple[float, float | None, tuple[float | None, ...]]  # when, power of the bus, power of each node
_PAGE_OCTETS: Final = os.sysconf("SC_PAGE_SIZE")
_TICK_HZ: Final = os.sysconf("SC_CLK_TCK")
_BLOCK_OCTETS: Final = 512


class Activity(NamedTuple):
    """One job's counters at one instant, all since its `process` began; another process begins at 0.

    `node` is where it may run now, -1 for nowhere; `customer` is who pays.
    """

    node: int
    process: int
    customer: str
    core_s: float
    peak_octets: int
    written_octets: int


class _Account:
    """One job's account: what earlier processes used, and the latest counters of the present one."""

    __slots__ = ("before", "energy_j", "latest")

    def __init__(self, before: Usage) -> None:
        self.before = before
        self.energy_j = before.energy_j
        self.latest: Activity | None = None

    def follow(self, activity: Activity) -> float:
        """Take in newer counters; return the processor time used since the last ones."""
        latest = self.latest
        if latest is not None and latest.process != activity.process:
            self.before = self.usage()
            latest = None
        self.latest = activity
        return activity.core_s if latest is None else activity.core_s - latest.core_s

    def usage(self) -> Usage:
        """Totals since the job's submission."""
        if self.latest is None:
            return self.before
        _, _, customer, core_s, peak_octets, written_octets = self.latest
        return Usage(customer, self.energy_j, self.before.core_s + core_s, max(self.before.peak_octets, peak_octets),
                     written_octets)


class Meter:
    """Accounts of all jobs and of the house since the meter was made; `take` is called once a tick.

    Energy over an interval in which a rail has no reading, or which is longer than `GAP_MAX_S`, is charged to
    nobody: it adds to `unmetered_s`, and the statement says so. `bus_j` and `jobs_j` count since the meter was made,
    jobs that are settled included.
    """

    def __init__(self, carried: Mapping[int, Usage] = MappingProxyType({})) -> None:
        """Start from nothing, or from the totals that the ledger kept of jobs that go on (`carried`)."""
        self._accounts = {job_id: _Account(usage) for job_id, usage in carried.items()}
        self._last: _Sample | None = None
        self.bus_j = 0.0
        self.jobs_j = 0.0
        self.unmetered_s = 0.0

    def take(
        self, now_s: float, bus_w: float | None, node_w: Sequence[float | None], active: Mapping[int, Activity]
    ) -> None:
        """Account for the time since the last call: power of bus and nodes now, and the counters of the jobs that may
        have run in it.
        """
        on_nodes: list[list[tuple[_Account, float]]] = [[] for _ in node_w]
        for job_id, activity in active.items():
            account = self._accounts.get(job_id)
            if account is None:
                account = self._accounts[job_id] = _Account(Usage(activity.customer, 0.0, 0.0, 0, 0))
            used_s = account.follow(activity)
            if activity.node >= 0:
                on_nodes[activity.node].append((account, used_s))
        last, now = self._last, (now_s, bus_w, tuple(node_w))
        self._last = now
        if last is not None and now_s > last[0]:
            self._share(last, now, on_nodes)

    def settle(self, job_id: int) -> Usage | None:
        """Return a job's totals and close its account; None when it never ran. Its joules stay in `jobs_j`."""
        account = self._accounts.pop(job_id, None)
        return None if account is None else account.usage()

    @property
    def usages(self) -> dict[int, Usage]:
        """Totals of the open accounts by job."""
        return {job_id: account.usage() for job_id, account in self._accounts.items()}

    @property
    def house_j(self) -> float:
        """Energy of the bus that no job is charged."""
        return self.bus_j - self.jobs_j

    def _share(self, then: _Sample, now: _Sample, on_nodes: Sequence[Sequence[tuple[_Account, float]]]) -> None:
        """Charge the energy between two samples; `on_nodes` has each node's jobs with the processor time they used."""
        then_s, bus_before_w, before_w = then
        now_s, bus_w, after_w = now
        dt_s = now_s - then_s
        if dt_s > GAP_MAX_S:
            self.unmetered_s += dt_s
            return
        charged_j, unmetered = 0.0, bus_w is None or bus_before_w is None
        for a_w, b_w, jobs in zip(before_w, after_w, on_nodes, strict=True):
            if not jobs:
                continue
            if a_w is None or b_w is None:
                unmetered = True
                continue
            energy_j = 0.5 * (a_w + b_w) * dt_s
            charged_j += energy_j
            total_s = sum([used_s for _, used_s in jobs])
            for account, used_s in jobs:
                # A job that waits holds its node all the same.
                account.energy_j += energy_j * (used_s / total_s if total_s > 0.0 else 1.0 / len(jobs))
        self.jobs_j += charged_j
        if bus_w is not None and bus_before_w is not None:
            self.bus_j += 0.5 * (bus_before_w + bus_w) * dt_s
        else:
            self.bus_j += charged_j  # what is known of it
        self.unmetered_s += dt_s if unmetered else 0.0


class SessionUsage(NamedTuple):
    """All processes of one session: processor time, ended children included; memory of their own; their ids.

    Memory is what is resident and of no file. Pages that processes share are counted once for each as long as all
    together stay below the limit, and by share (Pss) as soon as they do not.
    """

    core_s: float
    memory_octets: int
    processes: tuple[int, ...]


NOTHING: Final = SessionUsage(0.0, 0, ())


def read_sessions(memory_max: Mapping[int, int], proc: Path = Path("/proc")) -> dict[int, SessionUsage]:
    """Look through the process table once for sessions, given by leader with the memory in octets that each may hold.

    Some 15 us a process of the machine. Processes that end meanwhile are passed over.
    """
    found: dict[int, SessionUsage] = dict.fromkeys(memory_max, NOTHING)
    resident_octets = dict.fromkeys(memory_max, 0)
    if not found:
        return found
    for name in os.listdir(proc):  # noqa: PTH208 - names are what is wanted; a Path each would double the time
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            # proc_pid_stat(5): behind the name in parentheses, field 3 first; 6 is the session, 14..17 the times.
            fields = _read(f"{proc}/{name}/stat").rpartition(b")")[2].split()
            session = int(fields[3])
            if session not in found:
                continue
            resident, shared = _read(f"{proc}/{name}/statm").split()[1:3]
            resident_octets[session] += int(resident) * _PAGE_OCTETS
            core_s, memory_octets, processes = found[session]
            found[session] = SessionUsage(
                core_s + sum(map(int, fields[11:15])) / _TICK_HZ,
                memory_octets + max(0, int(resident) - int(shared)) * _PAGE_OCTETS,
                (*processes, int(name)),
            )
    for session, usage in found.items():
        if resident_octets[session] > memory_max[session]:
            shares = [_share_octets(f"{proc}/{pid}/smaps_rollup") for pid in usage.processes]
            found[session] = usage._replace(memory_octets=sum(shares))
    return found


def _share_octets(path: str) -> int:
    """A process's share of the memory that is of no file; 0 for one that is gone."""
    with contextlib.suppress(OSError):
        lines = (line.split() for line in _read(path).splitlines())
        return sum(int(line[1]) << 10 for line in lines if line[0] in (b"Pss_Anon:", b"Pss_Shmem:"))
    return 0


class FolderUsage(NamedTuple):
    """Octets on disk and entries of a folder; `whole` is false when there was more, or something unreadable."""

    octets: int
    entries: int
    whole: bool


def measure_folder(folder: Path, octets_max: int, processes: Collection[int] = ()) -> FolderUsage:
    """Add up what is below `folder`, and what `processes` keep open there that has no name any more.

    Stops at more than `octets_max` or `ENTRIES_MAX`. Links are not followed.
    """
    octets, entries, whole = 0, 0, True
    waiting = [str(folder)]
    while waiting and octets <= octets_max and entries <= ENTRIES_MAX:
        try:
            with os.scandir(waiting.pop()) as found:
                for entry in found:
                    facts = entry.stat(follow_symlinks=False)
                    octets += facts.st_blocks * _BLOCK_OCTETS
                    entries += 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    if octets > octets_max or entries > ENTRIES_MAX:
                        break
        except FileNotFoundError:
            continue  # removed while we looked
        except OSError:
            whole = False  # a job that hides its files has too many of them
    hidden_octets, seen_whole = _nameless_octets(processes, folder.stat().st_dev)
    return FolderUsage(octets + hidden_octets, entries, whole and seen_whole and not waiting)


def _nameless_octets(processes: Collection[int], device: int) -> tuple[int, bool]:
    """Octets of deleted files on `device` that processes hold open or mapped, and whether all could be seen."""
    octets: dict[int, int] = {}
    mappings, whole = 0, True
    for pid in processes:
        with contextlib.suppress(OSError):  # gone meanwhile
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    _note_nameless(octets, entry.stat(), device)
        with contextlib.suppress(OSError), Path(f"/proc/{pid}/maps").open("rb") as maps:
            for line in maps:
                mappings += 1
                if mappings > MAPPINGS_MAX:
                    return sum(octets.values()), False
                if line.endswith(b"(deleted)\n"):
                    try:
                        mapped = Path(f"/proc/{pid}/map_files/{line.split()[0].decode()}").stat()
                        _note_nameless(octets, mapped, device)
                    except PermissionError:  # not ours to look at: what it may hide there counts as too much
                        major, minor = line.split()[3].split(b":")
                        whole &= os.makedev(int(major, 16), int(minor, 16)) != device
                    except FileNotFoundError:
                        continue
    return sum(octets.values()), whole


def _note_nameless(octets: dict[int, int], facts: os.stat_result, device: int) -> None:
    if facts.st_nlink == 0 and facts.st_dev == device:
        octets[facts.st_ino] = facts.st_blocks * _BLOCK_OCTETS


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)

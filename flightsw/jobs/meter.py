"""What jobs use: joules by share of the measured rails, processor time, memory, files.

Owns the arithmetic of the bill (`Meter`, pure: time and readings are passed in) and the readers of /proc and of a
job's folder (`read_sessions`, `measure_folder`), which the runner calls once a poll. Never decides, never charges a
reading that is not there.

How a joule finds its payer: a node's rail power over an interval goes to the jobs on that node in proportion to the
processor time that each used in it; what the bus drew beyond the jobs is the house's (supervisor, idle nodes,
conversion loss). So all accounts together are the bus's energy, whatever the shares: what can be wrong is the integral
(trapezoids between samples) and the split between jobs of one node. A job that draws more than it declared is charged
what it drew.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from flightsw.state import Usage

GAP_MAX_S: Final = 5.0
"""Longest time between two readings over which power is believed to have run straight from one to the other."""

ENTRIES_MAX: Final = 10_000
"""Files and folders that a job's folder may hold: so many are measured in some 50 ms on a small board."""

_PAGE_OCTETS: Final = os.sysconf("SC_PAGE_SIZE")
_TICK_HZ: Final = os.sysconf("SC_CLK_TCK")
_BLOCK_OCTETS: Final = 512


class Activity(NamedTuple):
    """One job's counters at one instant, all since its start: on which node, for whom, and what it has used."""

    node: int
    customer: str
    core_s: float
    peak_octets: int
    written_octets: int


class Meter:
    """Accounts of all jobs and of the house since the meter was made; `take` is called once a tick.

    Energy over an interval in which a rail has no reading, or which is longer than `GAP_MAX_S`, is charged to
    nobody: it adds to `unmetered_s`, and the statement says so. `bus_j` and `jobs_j` count since the meter was made,
    jobs that are settled included.
    """

    def __init__(self, carried: Mapping[int, Usage] | None = None) -> None:
        """Start from nothing, or from the totals that the ledger kept of jobs that go on (`carried`)."""
        self._carried = dict(carried or {})
        self._usages = dict(self._carried)
        self._last: tuple[float, float | None, tuple[float | None, ...]] | None = None
        self._core_s: dict[int, float] = {}
        self._energy_j = {job_id: usage.energy_j for job_id, usage in self._usages.items()}
        self.bus_j = 0.0
        self.jobs_j = 0.0
        self.unmetered_s = 0.0

    def take(
        self, now_s: float, bus_w: float | None, node_w: Sequence[float | None], active: Mapping[int, Activity]
    ) -> None:
        """Account for the time since the last call: power of bus and nodes now, and every started job's counters."""
        used_s = {job_id: activity.core_s - self._core_s.get(job_id, 0.0) for job_id, activity in active.items()}
        if self._last is not None and now_s > self._last[0]:
            self._share(now_s, bus_w, node_w, active, used_s)
        self._last = (now_s, bus_w, tuple(node_w))
        self._core_s = {job_id: activity.core_s for job_id, activity in active.items()}
        for job_id, (_, customer, core_s, peak_octets, written_octets) in active.items():
            before = self._carried.get(job_id, Usage(customer, 0.0, 0.0, 0, 0))
            self._usages[job_id] = Usage(customer, self._energy_j.get(job_id, 0.0), before.core_s + core_s,
                                         max(before.peak_octets, peak_octets), written_octets)

    def restarted(self, job_id: int) -> None:
        """Note that the job's process begins anew, its counters at 0: what it used before stays on its account."""
        if job_id in self._usages:
            self._carried[job_id] = self._usages[job_id]
        self._core_s.pop(job_id, None)

    def settle(self, job_id: int) -> Usage | None:
        """Return a job's totals and close its account; None when it never ran. Its joules stay in `jobs_j`."""
        for table in (self._carried, self._core_s, self._energy_j):
            table.pop(job_id, None)
        return self._usages.pop(job_id, None)

    @property
    def usages(self) -> Mapping[int, Usage]:
        """Open accounts by job."""
        return self._usages

    @property
    def house_j(self) -> float:
        """Energy of the bus that no job is charged."""
        return self.bus_j - self.jobs_j

    def _share(self, now_s: float, bus_w: float | None, node_w: Sequence[float | None],
               active: Mapping[int, Activity], used_s: Mapping[int, float]) -> None:
        if self._last is None:
            return
        then_s, bus_before_w, node_before_w = self._last
        dt_s = now_s - then_s
        if dt_s > GAP_MAX_S:
            self.unmetered_s += dt_s
            return
        charged_before_j, unmetered = self.jobs_j, bus_w is None or bus_before_w is None
        for node, (before_w, after_w) in enumerate(zip(node_before_w, node_w, strict=True)):
            here = [job_id for job_id, activity in active.items() if activity.node == node and used_s[job_id] > 0.0]
            total_s = sum(used_s[job_id] for job_id in here)
            if not here:
                continue
            if before_w is None or after_w is None:
                unmetered = True
                continue
            energy_j = 0.5 * (before_w + after_w) * dt_s
            for job_id in here:
                share_j = energy_j * used_s[job_id] / total_s
                self._energy_j[job_id] = self._energy_j.get(job_id, 0.0) + share_j
                self.jobs_j += share_j
        if bus_w is not None and bus_before_w is not None:
            self.bus_j += 0.5 * (bus_before_w + bus_w) * dt_s
        else:
            self.bus_j += self.jobs_j - charged_before_j  # what is known of it
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
    device = folder.stat().st_dev
    for pid in processes:
        octets += _nameless_octets(pid, device)
    return FolderUsage(octets, entries, whole and not waiting)


def _nameless_octets(pid: int, device: int) -> int:
    """Octets of deleted files on `device` that a process holds open; 0 for a process that is gone."""
    seen: dict[int, int] = {}
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                facts = entry.stat()
                if facts.st_nlink == 0 and facts.st_dev == device:
                    seen[facts.st_ino] = facts.st_blocks * _BLOCK_OCTETS
    return sum(seen.values())


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)

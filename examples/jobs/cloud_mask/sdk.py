"""What a job can ask of the satellite and tell it. Copy this file into a bundle as `sdk.py`; it needs nothing else.

    import sdk

    saved = sdk.restore()                       # None on a first start
    state, done = (saved.read(), saved.done_units) if saved else (b"", 0)
    while done < UNITS:
        state, done = step(state), done + 1
        sdk.progress(done)
        if sdk.should_save():
            sdk.checkpoint(done, state)

Every call is cheap (some microseconds; `checkpoint` costs a write) and works outside the satellite too, where
nothing is ever asked and everything left is unknown. Nothing here raises for what the satellite does.

The protocol, for jobs in other languages: files in the folder that FLIGHTSW_JOB_DIR names, which is also the working
directory.

    in/                 the bundle's files, read-only
    out/                where the job leaves its outputs
    work/               its own; kept when it is started again
    progress            job writes: units done in decimal, in place at offset 0, at most 32 octets
    budget.json         satellite writes, once a second, by rename: energy_j, time_s, share_frac, power_drop_in_s;
                        a number, or null where it is not known
    checkpoint.request  satellite writes, by rename: {"deadline_s": 20.0}. The job then has so long to write its state
                        into files in checkpoint/, and last, by rename, checkpoint/MARK:
                        {"done_units": 40, "files": {"state": "<SHA-256 in hex>"}}. The satellite compares every file
                        with MARK before the job counts as saved, and removes the request. SIGUSR1 comes with a
                        request, and is ignored unless the job installs a handler.
    checkpoint.good/    the last state that was compared, with its MARK; to start from
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

_STATE, _MARK = "state", "MARK"
_KEPT, _KEPT_NEW, _KEPT_OLD = "work/saved", "work/saved.new", "work/saved.old"


class Budget(NamedTuple):
    """What is left for the job; None where it is not known.

    `energy_j` of what was reserved for it, `time_s` to its deadline. `share_frac` of the time it may run now;
    `power_drop_in_s` seconds from now that falls, None when no drop is in sight.
    """

    energy_j: float | None = None
    time_s: float | None = None
    share_frac: float | None = None
    power_drop_in_s: float | None = None


class Saved(NamedTuple):
    """A state of the job that is whole: its hash was compared. `path` is the file that holds it."""

    done_units: int
    path: Path

    def read(self) -> bytes:
        """Return the state."""
        return self.path.read_bytes()


def folder() -> Path:
    """Return the job's folder, with `in`, `out` and `work` in it."""
    return Path(os.environ.get("FLIGHTSW_JOB_DIR", "."))


def progress(done_units: int) -> None:
    """Tell how many work units are done, of those that the manifest declares."""
    try:
        fd = os.open(folder() / "progress", os.O_WRONLY | os.O_CREAT, 0o644)
    except OSError:
        return
    try:
        os.pwrite(fd, b"%-20d\n" % done_units, 0)
    except OSError:
        return  # told again with the next unit
    finally:
        os.close(fd)


def budget() -> Budget:
    """Return what is left for the job, as of a second ago."""
    content = _read_json(folder() / "budget.json")
    numbers = (content.get(name) for name in Budget._fields)
    return Budget(*(float(n) if isinstance(n, (int, float)) and not isinstance(n, bool) else None for n in numbers))


def should_pause(lead_s: float = 30.0) -> bool:
    """Whether this is a good moment to finish what is under way: a checkpoint is asked for, or power will drop
    within `lead_s`. The job may go on; it will be stopped where it is when it must.
    """
    drop_in_s = budget().power_drop_in_s
    return should_save() or (drop_in_s is not None and drop_in_s <= lead_s)


def should_save() -> bool:
    """Whether the satellite asks for a checkpoint and has not got it."""
    return (folder() / "checkpoint.request").exists() and not (folder() / "checkpoint" / _MARK).exists()


def checkpoint_due_s() -> float | None:
    """Return the seconds that a checkpoint may take, counted from the request; None when none is asked for."""
    deadline_s = _read_json(folder() / "checkpoint.request").get("deadline_s")
    return float(deadline_s) if isinstance(deadline_s, (int, float)) else None


def checkpoint(done_units: int, state: "bytes | os.PathLike[str]") -> bool:
    """Save `state`, given as octets or as a file, with the work that is in it; return whether that worked.

    When the satellite asked, it goes where the satellite compares it; else into `work`, where it outlives the process.
    """
    if should_save():
        return _save(folder() / "checkpoint", done_units, state)
    fresh, kept, old = (folder() / name for name in (_KEPT_NEW, _KEPT, _KEPT_OLD))
    shutil.rmtree(fresh, ignore_errors=True)
    if not _save(fresh, done_units, state):
        return False
    try:  # a kill between any two of these leaves a whole state under one of the names
        shutil.rmtree(old, ignore_errors=True)
        if kept.exists():
            kept.rename(old)
        fresh.rename(kept)
    except OSError:
        return False
    return True


def restore() -> "Saved | None":
    """Return the newest state that is whole, None when there is none: then begin from the beginning."""
    found = [_load(folder() / name) for name in ("checkpoint.good", _KEPT, _KEPT_NEW, _KEPT_OLD)]
    whole = [saved for saved in found if saved is not None]
    return max(whole, key=lambda saved: saved.done_units, default=None)


def _save(into: Path, done_units: int, state: "bytes | os.PathLike[str]") -> bool:
    digest = hashlib.sha256()
    try:
        into.mkdir(parents=True, exist_ok=True)
        with (into / _STATE).open("wb") as file:
            if isinstance(state, bytes):
                digest.update(state)
                file.write(state)
            else:
                with Path(state).open("rb") as source:
                    while piece := source.read(1 << 20):
                        digest.update(piece)
                        file.write(piece)
        mark = into / (_MARK + ".new")
        mark.write_text(json.dumps({"done_units": done_units, "files": {_STATE: digest.hexdigest()}}))
        mark.rename(into / _MARK)
    except OSError:
        return False
    return True


def _load(where: Path) -> "Saved | None":
    mark = _read_json(where / _MARK)
    done_units, files = mark.get("done_units"), mark.get("files")
    if not isinstance(done_units, int) or not isinstance(files, dict):
        return None
    digest = hashlib.sha256()
    try:
        with (where / _STATE).open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError:
        return None
    return Saved(done_units, where / _STATE) if digest.hexdigest() == files.get(_STATE) else None


def _read_json(path: Path) -> "dict[str, object]":
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

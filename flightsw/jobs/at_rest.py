"""What jobs leave on the medium while no process works on it: results until their time is over and, of jobs whose data
is encrypted, everything sealed: inputs on the shelf, the last good checkpoint, results.

    FOLDER/JOB/                 results by name, and .about: whose they are, under which rules, until when
    FOLDER/JOB.checkpoint/N/    the checkpoint of an encrypted job; the greatest N that has its MARK counts

Owns these folders. Sealing and unsealing come in steps, which `onboard` and `intake` take one a tick. `custody` makes
and destroys the keys and says who may see what; nothing of that is decided here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from flightsw.errors import StoreError
from flightsw.jobs import checkpoint
from flightsw.jobs.checkpoint import MARK
from flightsw.jobs.manifest import DataClass, DataPolicy, Manifest
from flightsw.jobs.vault import KeyState, Steps, Vault

_ABOUT: Final = ".about"
_FRESH: Final = "."  # before the name of a file that is not whole yet; no declared name begins like that


class Kept(NamedTuple):
    """Results of one job: whose, under which rules, and when they are to go."""

    job_id: int
    customer: str
    outputs: tuple[str, ...]
    policy: DataPolicy
    expires_obt_s: float


class AtRest:
    """The results and sealed checkpoints in `folder`."""

    def __init__(self, vault: Vault, folder: Path) -> None:
        """Use `folder`, which need not be there yet."""
        self._vault = vault
        self._folder = folder

    # --- inputs -------------------------------------------------------------------------------------

    def seal_inputs(self, job_id: int, manifest: Manifest, shelf: Path) -> Steps:
        """Seal a job's inputs where they lie."""
        for name in manifest.inputs:
            fresh = shelf / f"{_FRESH}{name}"
            yield from self._vault.sealing_file(job_id, shelf / name, fresh)
            fresh.replace(shelf / name)

    def unseal_inputs(self, job_id: int, manifest: Manifest, shelf: Path, target: Path) -> Steps:
        """Bring a job's inputs into the new folder `target`."""
        target.mkdir(mode=0o700, parents=True)
        for name in manifest.inputs:
            yield from self._vault.unsealing_file(job_id, name, shelf / name, target / name)

    # --- checkpoints --------------------------------------------------------------------------------

    def seal_checkpoint(self, job_id: int, good: Path, octets_max: int) -> Steps:
        """Seal a checkpoint that was found whole; what was kept before goes when this one is complete.

        Its job may run on and do with the folder what it likes: no link is followed, and no more is sealed than MARK
        lists and the job may hold. What does not fit its MARK then is found when it is started from.
        """
        place = self._checkpoints(job_id)
        last = self._last_checkpoint(job_id)
        target = place / str(1 if last is None else int(last.name) + 1)
        folder_fd = os.open(good, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            names = checkpoint.names(folder_fd)
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            for name in names:
                yield from self._vault.sealing_file(job_id, Path(name), target / name, folder_fd, octets_max)
                octets_max -= (target / name).stat().st_size
        except ValueError as e:
            raise StoreError(f"checkpoint of job {job_id}: {e}") from e
        finally:
            os.close(folder_fd)
        for path in place.iterdir():
            if path != target:
                shutil.rmtree(path)

    def unseal_checkpoint(self, job_id: int, target: Path) -> Steps:
        """Bring the checkpoint that is kept into the new folder `target`; nothing when there is none."""
        last = self._last_checkpoint(job_id)
        if last is not None:
            target.mkdir(mode=0o700)
            for path in last.iterdir():
                yield from self._vault.unsealing_file(job_id, path.name, path, target / path.name)

    def _checkpoints(self, job_id: int) -> Path:
        return self._folder / f"{job_id}.checkpoint"

    def _last_checkpoint(self, job_id: int) -> Path | None:
        place = self._checkpoints(job_id)
        whole = [path for path in place.iterdir() if (path / MARK).exists()] if place.exists() else []
        return max(whole, key=lambda path: int(path.name), default=None)

    # --- results ------------------------------------------------------------------------------------

    def seal_results(self, job_id: int, manifest: Manifest, outputs: Path) -> Steps:
        """Seal what an encrypted job made and remove it there; nothing when its key was destroyed meanwhile."""
        entry = self._vault.entries.get(job_id)
        if entry is None or entry.state is KeyState.DESTROYED:
            return
        target = self._folder / str(job_id)
        target.mkdir(parents=True, exist_ok=True)
        for name in manifest.outputs:
            if (outputs / name).exists() or not (target / name).exists():  # not sealed before a kill
                yield from self._vault.sealing_file(job_id, outputs / name, target / name)
                (outputs / name).unlink()

    def keep_results(self, job_id: int, manifest: Manifest, outputs: Path, expires_obt_s: float) -> None:
        """Move the results of a job that is not encrypted here, and write down under which rules all of them lie."""
        target = self._folder / str(job_id)
        target.mkdir(parents=True, exist_ok=True)
        if not manifest.data.encrypt:
            for name in manifest.outputs:
                with contextlib.suppress(FileNotFoundError):  # moved before a kill
                    (outputs / name).rename(target / name)
        policy = {**dataclasses.asdict(manifest.data), "data_class": manifest.data.data_class.value}
        fresh = target / f"{_FRESH}new"
        fresh.write_text(json.dumps({"customer": manifest.customer, "outputs": manifest.outputs, "policy": policy,
                                     "expires_obt_s": expires_obt_s}))
        fresh.replace(target / _ABOUT)

    def results(self, job_id: int) -> Kept | None:
        """What is known of a job's results; None when there are none."""
        try:
            about = json.loads((self._folder / str(job_id) / _ABOUT).read_text())
            return Kept(job_id, about["customer"], tuple(about["outputs"]), _policy_of(about["policy"]),
                        float(about["expires_obt_s"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None  # gone, or rotten: what cannot be read is nobody's

    def has_results(self, job_id: int) -> bool:
        """Whether a job's results are kept: a look at the folder only."""
        return (self._folder / str(job_id) / _ABOUT).exists()

    def all_results(self) -> list[Kept]:
        """Results of all jobs, by number."""
        numbers = sorted(int(path.name) for path in self._folder.glob("*") if path.name.isdecimal())
        return [kept for kept in map(self.results, numbers) if kept is not None]

    def take_out(self, job_id: int, name: str, target: Path) -> Steps:
        """Bring one result into the file `target` as it was made. StoreError when it was changed or its key is gone."""
        kept, source = self.results(job_id), self._folder / str(job_id) / name
        if kept is not None and kept.policy.encrypt:
            yield from self._vault.unsealing_file(job_id, name, source, target)
        else:
            shutil.copyfile(source, target)

    def discard(self, job_id: int) -> None:
        """Remove everything that is kept of a job; sealed files are noise by then."""
        for path in (self._folder / str(job_id), self._checkpoints(job_id)):
            shutil.rmtree(path, ignore_errors=True)

    def discard_checkpoint(self, job_id: int) -> None:
        """Remove the checkpoint of a job that has ended."""
        shutil.rmtree(self._checkpoints(job_id), ignore_errors=True)


def _policy_of(fields: Mapping[str, object]) -> DataPolicy:
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    return DataPolicy(**{**fields, **lists, "data_class": DataClass(fields["data_class"])})  # type: ignore[arg-type]

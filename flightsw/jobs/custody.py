"""A job's data rules in force: bans ahead of time, a last look before it runs, keys, retention, and the log of it all.

The supervisor calls it at four places of a tick; it owns the order in which `policy`, `vault` and `audit` hear of
things. It never decides which job runs: decide has the bans, and what would run against them is stopped and said.
A job without a declared policy costs a look-up here, and is logged like any other.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from flightsw.dictionary.audit import Action
from flightsw.errors import StoreError
from flightsw.jobs.audit import SATELLITE, AuditLog, Note
from flightsw.jobs.ledger import LedgerEntry
from flightsw.jobs.manifest import Manifest
from flightsw.jobs.onboard import Bundle
from flightsw.jobs.policy import BorderWatch, Rule, pause_margin_s
from flightsw.jobs.vault import KeyEntry, KeyState, Vault
from flightsw.state import BanNews, Event, JobSpec, JobState, JobTransition

_EXPIRE_EVERY_S: Final = 60.0


class Custody:
    """The rules of the manifests in `bundles`, which others add to and take from.

    `outputs_of` gives the folder in which an ended job's outputs lie; those of an encrypted job are sealed into
    `sealed/JOB/` and removed there before its end is told.
    """

    def __init__(self, bundles: Mapping[str, Bundle], borders: BorderWatch, vault: Vault, log: AuditLog,
                 outputs_of: Callable[[int], Path], sealed: Path) -> None:
        self._bundles = bundles
        self._followed: dict[str, Bundle] = {}
        self._borders = borders
        self._vault = vault
        self._log = log
        self._outputs_of = outputs_of
        self._sealed = sealed
        self._stopped: dict[int, str] = {}
        self._expired_obt_s = 0.0

    def bans(self, now_s: float) -> tuple[BanNews, ...]:
        """Return what decide must hear of bans this tick; called when the inbox has been looked into."""
        if self._followed != self._bundles:
            self._followed = dict(self._bundles)
            self._borders.follow({
                key: Rule(bundle.manifest.data, pause_margin_s(bundle.manifest.pause,
                                                               bundle.manifest.checkpoint_deadline_s))
                for key, bundle in self._followed.items()
            })
        return self._borders.news(now_s)

    def committed(self, transitions: Sequence[JobTransition], entries: Mapping[int, LedgerEntry],
                  obt_s: float) -> None:
        """Follow a tick's transitions, durable in `entries` by now: log them, make keys, seal results, let retention
        begin. StoreError: something that must be kept could not be; nothing durable may be begun any more.
        """
        self._log.note_transitions(transitions, obt_s)
        for change in transitions:
            bundle = self._bundles.get(entries[change.job_id].spec.manifest)
            manifest = None if bundle is None else bundle.manifest
            if change.state is JobState.RUNNING and manifest is not None and manifest.data.encrypt:
                self._make_key(change.job_id, manifest.customer, obt_s)
            elif change.state.is_final:
                self._end(change, manifest, obt_s)

    def stops(self, job: JobSpec, now_s: float, obt_s: float) -> tuple[bool, tuple[Event, ...]]:
        """Look whether a job that is about to run may; if not, log it, and return the event when it is news."""
        rule = self._borders.unlawful(job.manifest, now_s)
        if not rule:
            self._stopped.pop(job.job_id, None)
            return False, ()
        if self._stopped.get(job.job_id) == rule:
            return True, ()
        self._stopped[job.job_id] = rule
        self._log.append([Note(SATELLITE, Action.POLICY_VIOLATED, f"job {job.job_id}", rule)], obt_s)
        return True, (Event("policy_violated", (job.job_id, rule)),)

    def erase_customer(self, customer: str, obt_s: float, actor: str) -> tuple[KeyEntry, ...]:
        """Destroy all of a customer's keys on somebody's word; return what became of them."""
        return self._note_destroyed(self._vault.erase_customer(customer, obt_s, f"by {actor}"), obt_s, actor)

    def tend(self, obt_s: float) -> tuple[Event, ...]:
        """Destroy the keys whose time is over, once a minute; return the log's head when it is to be sent."""
        if obt_s - self._expired_obt_s >= _EXPIRE_EVERY_S:
            self._expired_obt_s = obt_s
            self._note_destroyed(self._vault.expire(obt_s), obt_s, SATELLITE)
        head = self._log.head_event(obt_s)
        return () if head is None else (head,)

    def downlinked(self, job_id: int, station: str, obt_s: float) -> None:
        """Log that the ground holds a job's result, received by `station`."""
        self._log.append([Note(SATELLITE, Action.RESULT_DOWNLINKED, f"job {job_id}", station)], obt_s)

    def close(self) -> None:
        """Let go of the log."""
        self._log.close()

    def _make_key(self, job_id: int, customer: str, obt_s: float) -> None:
        if job_id not in self._vault.entries:
            self._vault.create(job_id, customer, obt_s)
            self._log.append([Note(SATELLITE, Action.KEY_CREATED, f"job {job_id}", customer)], obt_s)

    def _end(self, change: JobTransition, manifest: Manifest | None, obt_s: float) -> None:
        """Seal what an encrypted job made; from now on its retention runs. One that made nothing keeps no key."""
        self._stopped.pop(change.job_id, None)
        entry = self._vault.entries.get(change.job_id)
        if entry is None:
            return
        if entry.state is KeyState.DESTROYED:  # erased while it ran: what it made goes unsealed and unseen
            shutil.rmtree(self._outputs_of(change.job_id), ignore_errors=True)
            return
        if change.state is not JobState.FINISHED or manifest is None:
            gone = self._vault.erase_job(change.job_id, obt_s, change.state.name.lower())
            self._note_destroyed(gone, obt_s, SATELLITE)
            return
        self._vault.keep_until(change.job_id, obt_s + manifest.data.retention_s)
        target = self._sealed / str(change.job_id)
        try:
            target.mkdir(parents=True, exist_ok=True)
            for name in manifest.outputs:
                plain = self._outputs_of(change.job_id) / name
                self._vault.seal_file(change.job_id, plain, target / name)
                plain.unlink()
        except OSError as e:
            raise StoreError(f"results of job {change.job_id} not sealed: {e}") from e

    def _note_destroyed(self, gone: tuple[KeyEntry, ...], obt_s: float, actor: str) -> tuple[KeyEntry, ...]:
        self._log.append([Note(actor, Action.KEY_DESTROYED, f"job {e.job_id}", f"{e.customer}: {e.reason}")
                          for e in gone], obt_s)
        for entry in gone:  # noise by now: only the room that it takes is given back
            folder = self._sealed / str(entry.job_id)
            with contextlib.suppress(OSError):
                for path in folder.iterdir():
                    path.unlink()
                folder.rmdir()
        return gone

"""A job's data rules in force: bans ahead of time, a last look before it runs, keys, retention, and the log of it all.

The supervisor calls it at four places of a tick; it owns the order in which `policy`, `vault` and `audit` hear of
things. It never decides which job runs: decide has the bans, and what would run against them is stopped and said.
A job without a declared policy costs a look-up here, and is logged like any other.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Final

from flightsw.dictionary.audit import Action
from flightsw.errors import StoreError
from flightsw.jobs.at_rest import AtRest
from flightsw.jobs.audit import SATELLITE, AuditLog, Note
from flightsw.jobs.ledger import LedgerEntry
from flightsw.jobs.manifest import Manifest
from flightsw.jobs.onboard import Bundle
from flightsw.jobs.policy import BorderWatch, Rule, may_downlink_to, pause_margin_s
from flightsw.jobs.vault import KeyEntry, KeyState, Steps, Vault
from flightsw.state import BanNews, Event, JobSpec, JobState, JobTransition

_EXPIRE_EVERY_S: Final = 60.0


class Custody:
    """The rules of the manifests in `bundles`, which others add to and take from.

    `outputs_of` gives the folder in which an ended job's outputs lie; they go into `results/JOB/` before its end is
    told, those of an encrypted job sealed. `at_rest` has them, for those who send them down.
    """

    def __init__(self, bundles: Mapping[str, Bundle], borders: BorderWatch, vault: Vault, log: AuditLog,
                 outputs_of: Callable[[int], Path], results: Path, log_copy: Path | None = None) -> None:
        self._bundles = bundles
        self._followed: dict[str, Bundle] = {}
        self._borders = borders
        self._vault = vault
        self._log = log
        self._outputs_of = outputs_of
        self.at_rest = AtRest(vault, results)
        self._log_copy = log_copy
        self._copying: Generator[None, None, int] | None = None
        self._stopped: dict[int, str] = {}
        self._expired_obt_s = 0.0

    def bans(self, now_s: float, correction_s: float = 0.0) -> tuple[BanNews, ...]:
        """Return what decide must hear of bans this tick; called when the inbox has been looked into.

        `correction_s` is what commands have added to on-board time.
        """
        self._borders.correct(correction_s)
        if self._followed != self._bundles:
            self._followed = dict(self._bundles)
            self._borders.follow({
                key: Rule(bundle.manifest.data, pause_margin_s(bundle.manifest.pause,
                                                               bundle.manifest.checkpoint_deadline_s))
                for key, bundle in self._followed.items()
            })
        return self._borders.news(now_s)

    def begin(self, entries: Mapping[int, LedgerEntry], obt_s: float) -> None:
        """Log and keep the results of jobs that finished in an earlier life, should it have ended just then."""
        for job_id, entry in entries.items():
            bundle = self._bundles.get(entry.spec.manifest)
            if entry.state is JobState.FINISHED and bundle is not None and self.at_rest.results(job_id) is None and (
                    self._outputs_of(job_id).exists()):
                change = JobTransition(job_id, entry.state, entry.detail, entry.done_units, None)
                self._log.note_transitions([change], obt_s)  # rather twice than never
                self._end(change, bundle.manifest, obt_s)

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

    def receive(self, job_id: int, manifest: Manifest, shelf: Path, obt_s: float) -> Steps:
        """Log that a job's data has arrived and, where it is to be encrypted, make its key and seal it on the shelf."""
        self._log.append([Note(SATELLITE, Action.DATA_UNPACKED, f"job {job_id}", manifest.customer)], obt_s)
        if manifest.data.encrypt:
            self._make_key(job_id, manifest.customer, obt_s)
            yield from self.at_rest.seal_inputs(job_id, manifest, shelf)

    def may_downlink(self, job_id: int, station: str, now_s: float) -> str:
        """Say why a job's results may not be sent to `station` from here and now; "" when they may.

        To be asked before a file is begun and as long as it is being sent: borders and stations change under way.
        """
        kept = self.at_rest.results(job_id)
        if kept is None:
            return f"job {job_id} has no results"
        if not may_downlink_to(kept.policy, station):
            return f"station {station or 'unknown'} is none of: {', '.join(kept.policy.stations) or 'none'}"
        rule = self._borders.broken_by(kept.policy, now_s)
        return f"over {rule}" if rule else ""

    def erase_customer(self, customer: str, obt_s: float, actor: str) -> tuple[KeyEntry, ...]:
        """Destroy all of a customer's keys on somebody's word, and its results without one; return the keys' fate."""
        for kept in self.at_rest.all_results():
            if kept.customer == customer and not kept.policy.encrypt:
                self._erase_results(kept.job_id, obt_s, actor, f"{customer}: by {actor}")
        return self._note_destroyed(self._vault.erase_customer(customer, obt_s, f"by {actor}"), obt_s, actor)

    def export_log(self) -> None:
        """Begin to copy the audit log to `log_copy`, a part a tick; `tend` tells when it is there."""
        if self._log_copy is not None:
            self._copying = self._log.exporting(self._log_copy)

    def _go_on_copying(self) -> tuple[Event, ...]:
        if self._copying is None or self._log_copy is None:
            return ()
        try:
            next(self._copying)
        except StopIteration as end:
            self._copying = None
            return (Event("audit_exported", (self._log_copy.name, int(end.value))),)
        except OSError as error:
            self._copying = None
            return (Event("audit_not_exported", (error.strerror or str(error),)),)
        return ()

    def tend(self, obt_s: float) -> tuple[Event, ...]:
        """Erase what has been kept for its time, once a minute; return the log's head when it is to be sent."""
        if obt_s - self._expired_obt_s >= _EXPIRE_EVERY_S:
            self._expired_obt_s = obt_s
            for kept in self.at_rest.all_results():
                if kept.expires_obt_s <= obt_s and not kept.policy.encrypt:
                    self._erase_results(kept.job_id, obt_s, SATELLITE, f"{kept.customer}: retention expired")
            self._note_destroyed(self._vault.expire(obt_s), obt_s, SATELLITE)
        head = self._log.head_event(obt_s)
        return (*self._go_on_copying(), *(() if head is None else (head,)))

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
        """Keep what a finished job made; from now on its retention runs. One that made nothing keeps no key."""
        job_id = change.job_id
        self._stopped.pop(job_id, None)
        self.at_rest.discard_checkpoint(job_id)
        entry = self._vault.entries.get(job_id)
        erased = entry is not None and entry.state is KeyState.DESTROYED  # while it ran: what it made is nobody's
        if erased:
            shutil.rmtree(self._outputs_of(job_id), ignore_errors=True)
        if change.state is not JobState.FINISHED or manifest is None or erased:
            gone = self._vault.erase_job(job_id, obt_s, change.state.name.lower())
            self._note_destroyed(gone, obt_s, SATELLITE)
            return
        expires_obt_s = obt_s + manifest.data.retention_s
        try:
            if entry is not None:
                self._vault.keep_until(job_id, expires_obt_s)
                for _ in self.at_rest.seal_results(job_id, manifest, self._outputs_of(job_id)):
                    pass  # all but always done by now, a step a tick
            self.at_rest.keep_results(job_id, manifest, self._outputs_of(job_id), expires_obt_s)
        except OSError as e:
            raise StoreError(f"results of job {job_id} not kept: {e}") from e

    def _erase_results(self, job_id: int, obt_s: float, actor: str, why: str) -> None:
        self._log.append([Note(actor, Action.RESULT_ERASED, f"job {job_id}", why)], obt_s)
        self.at_rest.discard(job_id)

    def _note_destroyed(self, gone: tuple[KeyEntry, ...], obt_s: float, actor: str) -> tuple[KeyEntry, ...]:
        self._log.append([Note(actor, Action.KEY_DESTROYED, f"job {e.job_id}", f"{e.customer}: {e.reason}")
                          for e in gone], obt_s)
        for entry in gone:  # noise by now: only the room that it takes is given back
            self.at_rest.discard(entry.job_id)
        return gone

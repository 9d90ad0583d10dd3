"""Custody: what policy, vault and log hear of a job's life, in which order, and what is stopped."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from test_brain import Flight, spec
from test_supervisor import Flight as Supervised

from flightsw import mission
from flightsw.__main__ import EXIT_OK, main
from flightsw.compose import start_unix_s
from flightsw.dictionary.audit import Action, unpack_record, verify
from flightsw.errors import StoreError
from flightsw.jobs.audit import AuditLog, Note
from flightsw.jobs.custody import Custody
from flightsw.jobs.ledger import Ledger
from flightsw.jobs.manifest import DataPolicy, Manifest, load_manifest
from flightsw.jobs.onboard import Bundle
from flightsw.jobs.policy import (
    Array,
    BorderWatch,
    Region,
    Regions,
    Ring,
    Rule,
    clearance_rad,
    load_regions,
    unit_vectors,
)
from flightsw.jobs.vault import KeyState, Vault
from flightsw.orbit import Orbit, parse_tle
from flightsw.state import JobSpec, JobState, JobTransition
from flightsw.store import Store, StoreLimits

ROOT = Path(__file__).parents[2]
EXAMPLE = load_manifest(ROOT / "examples/jobs/cloud_mask/job.toml")
BOX = Regions({"BOX": Region([Ring([[-5, 10], [-5, 20], [5, 20], [5, 10]])])}, 1.0, 1e9)


def track(unix_s: Array) -> tuple[Array, Array, Array]:
    """Along the equator, a degree in 20 s, from longitude 0."""
    return 0.0 * unix_s, np.radians(unix_s / 20.0), 0.0 * unix_s


def manifest(**data: object) -> Manifest:
    return dataclasses.replace(EXAMPLE, data=DataPolicy(**data))  # type: ignore[arg-type] # names are right


class Satellite:
    """Custody with its parts in a folder, and a ledger that is written first."""

    def __init__(self, folder: Path, seed: int = 1, **bundles: Manifest) -> None:
        self.folder = folder
        self.bundles = {key: Bundle(made, folder) for key, made in bundles.items()}
        self.vault = Vault(folder / "vault", random.Random(seed).randbytes)
        self.log = AuditLog(folder / "audit", "test", 0.0)
        self.ledger = Ledger(Store(folder / "ledger"))
        self.custody = Custody(self.bundles, BorderWatch(BOX, track, 0.0, 0.0), self.vault, self.log,
                               lambda job_id: folder / f"out-{job_id}", folder / "sealed",
                               folder / "files/audit.log")  # fmt: skip

    def go(self, job_id: int, *states: JobState, key: str = "secret", obt_s: float = 10.0) -> None:
        for state in states:
            spec = JobSpec(job_id, f"job{job_id}", 10.0, 1.0, 1.0, 0.0, 1e6, 0.0, manifest=key)
            changes = [JobTransition(job_id, state, "", 0.0, spec if state is JobState.QUEUED else None)]
            self.ledger.record(changes, obt_s)
            self.custody.committed(changes, self.ledger.entries, obt_s)

    def actions(self) -> list[str]:
        return [unpack_record(line).action.value for line in self.log.lines()][1:]


START = (JobState.QUEUED, JobState.PROMISED, JobState.RUNNING)


def outputs(folder: Path, job_id: int) -> None:
    (folder / f"out-{job_id}").mkdir()
    for name in EXAMPLE.outputs:
        (folder / f"out-{job_id}" / name).write_bytes(b"result of " + name.encode())


def test_an_encrypted_jobs_results_are_sealed_kept_and_erased_when_due(tmp_path: Path) -> None:
    satellite = Satellite(tmp_path, secret=manifest(encrypt=True, retention_s=1000.0))
    satellite.go(5, *START)
    outputs(tmp_path, 5)
    satellite.go(5, JobState.FINISHED, obt_s=100.0)
    assert list((tmp_path / "out-5").iterdir()) == []
    name = EXAMPLE.outputs[0]
    sealed = tmp_path / "sealed/5" / name
    assert b"result" not in sealed.read_bytes()
    satellite.vault.unseal_file(5, name, sealed, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"result of " + name.encode()
    copy = sealed.read_bytes()
    satellite.custody.tend(1099.0)
    assert satellite.vault.entries[5].state is KeyState.ACTIVE
    satellite.custody.tend(1160.0)
    assert satellite.vault.entries[5].state is KeyState.DESTROYED
    assert not sealed.exists()
    sealed.parent.mkdir(exist_ok=True)
    sealed.write_bytes(copy)
    with pytest.raises(StoreError, match="destroyed"):
        satellite.vault.unseal_file(5, name, sealed, tmp_path / "again")
    assert satellite.actions() == ["job.received", "job.accepted", "processing.started", "key.created",
                                   "result.produced", "key.destroyed"]  # fmt: skip
    assert verify(satellite.log.lines(), {}).breaks == ()


def test_a_job_without_encryption_has_no_key_and_one_that_fails_keeps_none(tmp_path: Path) -> None:
    satellite = Satellite(tmp_path, plain=manifest(), secret=manifest(encrypt=True))
    satellite.go(1, *START, JobState.FINISHED, key="plain")
    satellite.go(2, *START, JobState.FAILED)
    satellite.go(3, *START, JobState.PROMISED, JobState.RUNNING, key="gone")
    assert {e.job_id: e.state for e in satellite.vault.entries.values()} == {2: KeyState.DESTROYED}
    assert satellite.actions().count("key.created") == satellite.actions().count("key.destroyed") == 1


def test_a_customer_is_erased_on_somebodys_word(tmp_path: Path) -> None:
    satellite = Satellite(tmp_path, secret=manifest(encrypt=True))
    satellite.go(1, *START)
    satellite.go(2, *START)
    gone = satellite.custody.erase_customer(EXAMPLE.customer, 50.0, "ground")
    assert {entry.job_id for entry in gone} == {1, 2}
    last = unpack_record(satellite.log.lines()[-1])
    assert (last.actor, last.action.value) == ("ground", "key.destroyed")
    outputs(tmp_path, 1)
    satellite.go(1, JobState.FINISHED)
    assert not (tmp_path / "out-1").exists(), "what it makes after that is nobody's"
    assert not (tmp_path / "sealed").exists()


def test_bans_follow_what_is_on_board_and_what_would_run_against_them_is_stopped_once_said(tmp_path: Path) -> None:
    satellite = Satellite(tmp_path, ruled=manifest(regions_forbidden=("BOX",)), free=manifest())
    (news,) = satellite.custody.bans(0.0)
    assert news.manifest == "ruled"
    (first, *_) = news.bans
    assert first.region == "BOX"
    assert first.from_s == pytest.approx(200.0 - 3.0, abs=1.0)  # the guard of 1 km is 0.2 s here
    job = JobSpec(9, "x", 1.0, 1.0, 1.0, 0.0, 1e6, 0.0, manifest="ruled")
    assert satellite.custody.stops(job, 100.0, 100.0) == (False, ())
    stopped, (event,) = satellite.custody.stops(job, 300.0, 300.0)
    assert stopped
    assert event.args == (9, "BOX")
    assert satellite.custody.stops(job, 301.0, 301.0) == (True, ())
    assert satellite.custody.stops(dataclasses.replace(job, manifest="free"), 300.0, 300.0) == (False, ())
    assert satellite.actions() == ["policy.violated"]
    del satellite.bundles["ruled"]
    assert satellite.custody.bans(2.0) == ()
    assert satellite.custody.stops(job, 302.0, 302.0) == (False, ())


def test_results_that_cannot_be_sealed_are_a_storage_failure(tmp_path: Path) -> None:
    satellite = Satellite(tmp_path, secret=manifest(encrypt=True))
    satellite.go(5, *START)
    with pytest.raises(StoreError, match="results of job 5 not kept"):
        satellite.go(5, JobState.FINISHED)


def test_the_log_is_copied_in_steps_with_what_is_logged_meanwhile(tmp_path: Path) -> None:
    satellite = Satellite(tmp_path)
    copy = tmp_path / "files" / "audit.log"
    log = AuditLog(tmp_path / "log", "test", 0.0, limits=StoreLimits(1 << 17, 6 << 17, 1 << 12))
    custody = Custody({}, BorderWatch(BOX, track, 0.0, 0.0), satellite.vault, log, lambda _job_id: tmp_path,
                      tmp_path / "results", copy)
    for number in range(60):
        log.append([Note("ground", Action.KEY_CREATED, f"job {number}.{i}", "x" * 80) for i in range(20)], 1.0)
    said = []
    custody.export_log()
    for number in range(50):
        log.append([Note("ground", Action.KEY_CREATED, f"later {number}")], 2.0)
        said += [event for event in custody.tend(3.0 + number) if event.name != "audit_head"]
    ((name, records),) = [event.args for event in said]
    lines = copy.read_bytes().splitlines()
    assert (name, records) == ("audit.log", len(lines))
    assert verify(lines, {}).breaks == ()
    assert 1201 < records < 1251
    custody.close()


def test_the_head_goes_down(tmp_path: Path) -> None:
    satellite = Satellite(tmp_path)
    (event,) = satellite.custody.tend(0.0)
    assert event.name == "audit_head"
    assert satellite.custody.tend(1.0) == ()
    satellite.custody.close()


@pytest.mark.parametrize("hours", [3.0, pytest.param(24.0, marks=pytest.mark.long)])
def test_along_a_real_track_nothing_runs_where_it_may_not_and_promises_hold(hours: float) -> None:
    """The brain, second by second, with the bans of the watch; the track itself is asked who was right."""
    rules = {"eu": DataPolicy(regions_allowed=("EU_EEA", "UK", "USA")),
             "not_us": DataPolicy(regions_forbidden=("USA",))}  # fmt: skip
    regions = load_regions(ROOT / "missions/regions.toml")
    flown = mission.load(ROOT / "missions/iss_like.toml")
    orbit = Orbit(parse_tle(flown.orbit.tle, "iss"))
    start_s = start_unix_s(flown, "iss")
    watch = BorderWatch(regions, orbit.ground_track, orbit.tle.epoch_unix_s, start_s)
    watch.follow({key: Rule(rule, 3.0) for key, rule in rules.items()})
    flight = Flight()
    ran: list[tuple[float, str]] = []
    number, keys = 1, ("eu", "not_us", "")
    while flight.now_s < hours * 3600.0:
        jobs = []
        if int(flight.now_s) % 600 == 0:
            jobs = [dataclasses.replace(spec(number + i, 150.0, 7200.0, now_s=flight.now_s), manifest=key)
                    for i, key in enumerate(keys)]  # fmt: skip
            number += len(keys)
        decision = flight.tick(bans=watch.news(flight.now_s + 1.0), jobs=jobs)
        for node in decision.nodes:
            if node.power_mode >= 2 and node.job_id:
                ran.append((flight.now_s, keys[(node.job_id - 1) % len(keys)]))
    for key, rule in rules.items():
        # A decision holds until the next: a job that runs at a second runs until the one after.
        seconds = np.array([at_s + more for at_s, own in ran if own == key for more in (0.0, 1.0)])
        latitude, longitude, _ = orbit.ground_track(seconds + start_s)
        assert seconds.size > 100
        assert (clearance_rad(rule, regions, unit_vectors(latitude, longitude))[0] > 0.0).all()
    assert sum(own == "" for _, own in ran) > 1000
    assert flight.brain.tally.broken == 0
    assert flight.events.count("job_held") > 0


@pytest.mark.parametrize("step_s", [11.0, pytest.param(1.0, marks=pytest.mark.long)])
def test_over_a_days_passes_nothing_is_sent_from_where_or_to_whom_it_may_not(tmp_path: Path, step_s: float) -> None:
    """Through every pass of a day, for each of four policies; the track itself is asked who was right."""
    regions = load_regions(ROOT / "missions/regions.toml")
    flown = mission.load(ROOT / "missions/iss_like.toml")
    orbit, start_s = Orbit(parse_tle(flown.orbit.tle, "iss")), start_unix_s(flown, "iss")
    names = [station.name for station in flown.stations]
    policies = {1: DataPolicy(regions_forbidden=("EU_EEA",)), 2: DataPolicy(regions_allowed=("EU_EEA", "USA")),
                3: DataPolicy(stations=(names[0],)), 4: DataPolicy(stations=("Elsewhere",))}  # fmt: skip
    satellite = Satellite(tmp_path)
    custody = Custody({}, BorderWatch(regions, orbit.ground_track, orbit.tle.epoch_unix_s, start_s), satellite.vault,
                      satellite.log, lambda job_id: tmp_path / f"out-{job_id}", tmp_path / "results")
    for job_id, policy in policies.items():
        outputs(tmp_path, job_id)
        made = dataclasses.replace(EXAMPLE, data=policy)
        custody.at_rest.keep_results(job_id, made, tmp_path / f"out-{job_id}", 1e12)
    sent = {job_id: [0, 0] for job_id in policies}
    for station in flown.stations:
        for contact in orbit.passes(station, start_s, start_s + 86_400.0):
            for unix_s in np.arange(np.ceil(contact.aos_unix_s), contact.los_unix_s, step_s):
                point = unit_vectors(*(np.array(angle) for angle in orbit.ground_track(np.array([unix_s]))[:2]))
                for job_id, policy in policies.items():
                    lawful = not policy.regions_forbidden + policy.regions_allowed or bool(
                        (clearance_rad(policy, regions, point)[0] > 0.0).all())
                    lawful &= not policy.stations or station.name in policy.stations
                    assert (custody.may_downlink(job_id, station.name, float(unix_s) - start_s) == "") == lawful
                    sent[job_id][lawful] += 1
    assert min(sent[1]) > 10, "the border lies within sight"
    assert min(sent[2]) > 10
    assert sent[4][True] == 0
    assert sent[3][True] > 100
    assert custody.may_downlink(9, names[0], 0.0) == "job 9 has no results"
    assert custody.may_downlink(4, names[0], 0.0) == f"station {names[0]} is none of: Elsewhere"
    old_s = regions.elements_age_max_s + orbit.tle.epoch_unix_s - start_s + 1.0
    assert custody.may_downlink(1, names[0], old_s) == "over position not known"


def test_results_without_encryption_are_kept_for_their_time_and_then_gone(tmp_path: Path) -> None:
    satellite = Satellite(tmp_path, plain=manifest(retention_s=1000.0))
    satellite.go(1, *START, key="plain")
    outputs(tmp_path, 1)
    satellite.go(1, JobState.FINISHED, key="plain", obt_s=100.0)
    (kept,) = satellite.custody.at_rest.all_results()
    assert (kept.customer, kept.outputs, kept.expires_obt_s) == (EXAMPLE.customer, EXAMPLE.outputs, 1100.0)
    assert (tmp_path / "sealed/1" / EXAMPLE.outputs[0]).read_bytes().startswith(b"result of ")
    satellite.custody.tend(1099.0)
    assert satellite.custody.at_rest.all_results() == [kept]
    satellite.custody.tend(1160.0)
    assert satellite.custody.at_rest.all_results() == []
    assert satellite.actions()[-1] == "result.erased"


def test_a_kill_between_the_end_and_the_keeping_of_a_result_loses_nothing(tmp_path: Path) -> None:
    satellite = Satellite(tmp_path, plain=manifest())
    satellite.go(1, *START, key="plain")
    outputs(tmp_path, 1)
    satellite.ledger.record([JobTransition(1, JobState.FINISHED, "", 0.0, None)], 50.0)  # and there it was killed
    satellite.custody.begin(satellite.ledger.entries, 60.0)
    assert satellite.actions()[-1] == "result.produced"
    assert [kept.job_id for kept in satellite.custody.at_rest.all_results()] == [1]


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Callable[[Satellite], Supervised]]:
    flying: list[Supervised] = []

    def start(satellite: Satellite) -> Supervised:
        flying.append(Supervised(tmp_path / "flight", custody=satellite.custody))
        flying[-1].to_compute()
        return flying[-1]

    yield start
    for flight in flying:
        flight.supervisor.close()


Launch = Callable[[Satellite], Supervised]


def ruled_job(job_id: int, now_s: float, key: str) -> JobSpec:
    return JobSpec(job_id, f"job{job_id}", 500.0, 1.0, 1.0, now_s, now_s + 4000.0, now_s, manifest=key)


def test_the_supervisor_pauses_before_the_border_and_logs_it_all(tmp_path: Path, supervised: Launch) -> None:
    satellite = Satellite(tmp_path, ruled=manifest(regions_forbidden=("BOX",)), free=manifest())
    flight = supervised(satellite)
    flight.inbox.jobs = [ruled_job(1, flight.now_s, "ruled"), ruled_job(2, flight.now_s, "free")]
    held: list[float] = []
    while flight.now_s < 430.0:  # the scripted gauge stands still, and is doubted for it soon after
        flight.fly(1)
        if flight.now_s > 10.0:
            assert 2 in flight.runner.running
            if 1 not in flight.runner.running:
                held.append(flight.now_s)
    assert held[0] == pytest.approx(197.0, abs=1.0)
    assert held[-1] == pytest.approx(400.0, abs=12.0)
    assert held == list(np.arange(held[0], held[-1] + 1.0))
    records = map(unpack_record, satellite.log.lines())
    ruled = [(r.action.value, r.detail) for r in records if r.object.startswith("job 1")]
    assert [action for action, _ in ruled] == ["job.received", "job.accepted", "processing.started",
                                               "processing.paused", "processing.resumed"]  # fmt: skip
    assert ("processing.paused", "region BOX") in ruled
    assert not any(action == "policy.violated" for action in satellite.actions())
    (head, *_) = flight.heard.named("audit_head")
    assert verify(satellite.log.lines(), {int(head.args[0]): str(head.args[1])}).breaks == ()


def test_the_supervisor_stops_what_decide_would_let_run(
    tmp_path: Path, supervised: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decide hears of no ban: the last look at the position stands alone."""
    satellite = Satellite(tmp_path, ruled=manifest(regions_forbidden=("BOX",)))
    monkeypatch.setattr(satellite.custody, "bans", lambda *_: satellite.custody._borders.follow(
        {"ruled": Rule(satellite.bundles["ruled"].manifest.data, 0.0)}) or ())
    flight = supervised(satellite)
    flight.inbox.jobs = [ruled_job(1, flight.now_s, "ruled")]
    while flight.now_s < 300.0:
        flight.fly(1)
        assert flight.now_s < 10.0 or (1 in flight.runner.running) == (flight.now_s < 200.0)
    assert [event.args for event in flight.heard.named("policy_violated")] == [(1, "BOX")]


def test_the_ground_erases_a_customer(tmp_path: Path, supervised: Launch) -> None:
    satellite = Satellite(tmp_path, secret=manifest(encrypt=True))
    flight = supervised(satellite)
    flight.inbox.jobs = [ruled_job(1, flight.now_s, "secret")]
    flight.fly(2)
    assert satellite.vault.entries[1].state is KeyState.ACTIVE
    flight.arm("data.erase", EXAMPLE.customer)
    request = flight.command("data.erase", EXAMPLE.customer)
    flight.fly(1)
    assert flight.stages(request) == [1, 7]
    assert satellite.vault.entries[1].state is KeyState.DESTROYED
    assert [event.args for event in flight.heard.named("data_erased")] == [(EXAMPLE.customer, 1)]
    flight.arm("data.erase", "")
    refused = flight.command("data.erase", "")
    flight.fly(1)
    assert flight.stages(refused) == [2]


def test_the_ground_asks_for_the_audit_log_and_finds_it_whole_or_where_it_was_changed(
    tmp_path: Path, supervised: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    satellite = Satellite(tmp_path, secret=manifest(encrypt=True))
    flight = supervised(satellite)
    flight.inbox.jobs = [ruled_job(1, flight.now_s, "secret")]
    flight.fly(3)
    request = flight.command("data.audit")
    flight.fly(3)
    assert flight.stages(request) == [1, 7]
    ((name, records),) = [event.args for event in flight.heard.named("audit_exported")]
    copy = tmp_path / "files" / str(name)
    lines = copy.read_bytes().splitlines()
    actions = [unpack_record(line).action.value for line in lines]
    assert records == len(lines)
    assert actions[1:] == ["job.received", "job.accepted", "processing.started", "key.created"]
    (head, *_) = flight.heard.named("audit_head")
    heads = {int(head.args[0]): str(head.args[1])}
    assert verify(lines, heads).breaks == ()
    lines[2] = lines[2].replace(b"job 1", b"job 2")
    (harm,) = verify(lines, heads).breaks
    assert harm.line == 3
    satellite.custody.close()  # on the bench, when it does not fly
    assert main(["audit", str(tmp_path), str(tmp_path / "bench.log")]) == EXIT_OK
    assert f"bench.log: {len(lines)} records, whole, head " in capsys.readouterr().out
    assert (tmp_path / "bench.log").read_bytes() == copy.read_bytes()

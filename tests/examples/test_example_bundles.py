"""The example jobs as a customer hands them over: packed, signed, taken in, throttled, paused, finished."""

from __future__ import annotations

import re
import shutil
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flightsw import sdk
from flightsw.jobs.base import Placement
from flightsw.jobs.bundle import BUNDLE_OCTETS_MAX, examine, job_number, pack, sign
from flightsw.jobs.customers import Customer
from flightsw.jobs.intake import Intake
from flightsw.jobs.manifest import load_manifest
from flightsw.jobs.onboard import Bundle, OnboardJobs
from flightsw.jobs.runner import ProcessRunner
from flightsw.state import JobProgress, JobSpec

JOBS = Path(__file__).parents[2] / "examples" / "jobs"
NAMES = ("cloud_mask", "matrix_workload", "telemetry_pack")
CUSTOMER = "Example customer"
UNITS = {"cloud_mask": 24, "telemetry_pack": 10, "matrix_workload": 8}


@pytest.mark.parametrize("job", NAMES)
def test_each_example_packs_signs_and_carries_the_sdk_as_it_is(job: str) -> None:
    key = Ed25519PrivateKey.generate()
    octets = sign(pack(JOBS / job), key)
    contents = examine(octets, {CUSTOMER: key.public_key().public_bytes_raw()})
    assert contents.manifest.id == job
    assert contents.manifest.data.is_declared
    assert len(octets) < BUNDLE_OCTETS_MAX // 100
    assert (JOBS / job / "sdk.py").read_bytes() == Path(sdk.__file__).read_bytes()


def finish(jobs: OnboardJobs, spec: JobSpec, pauses: int) -> JobProgress:
    """Run a job to its end, taking it off its node now and then."""
    share = spec.work_units / (pauses + 1)
    paused = 0
    give_up_s = time.monotonic() + 120.0
    while time.monotonic() < give_up_s:
        jobs.place(0.0, [Placement(spec, 1.0)])
        for progress in jobs.poll(0.0):
            if progress.job_id != spec.job_id:
                continue
            if progress.ended:
                jobs.end(spec.job_id)
                return progress
            if paused < pauses and progress.done_units > share * (paused + 1):
                paused += 1
                jobs.place(0.0, [Placement(spec, 0.0)] if paused % 2 else [Placement(None, 0.0)])
                time.sleep(0.05)
        time.sleep(0.005)
    pytest.fail("the job did not end")


def test_examples_run_from_signed_bundles_and_their_results_are_those_of_an_unthrottled_run(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    (tmp_path / "inbox").mkdir()
    for job in NAMES:
        source = tmp_path / "source" / job
        shutil.copytree(JOBS / job, source)
        text = (source / "job.toml").read_text()
        (source / "job.toml").write_text(re.sub(r"(?m)^units = \d+", f"units = {UNITS[job]}", text))
        (tmp_path / "inbox" / f"{job}.job").write_bytes(sign(pack(source), key))
    bundles: dict[str, Bundle] = {}
    intake = Intake(tmp_path / "inbox", tmp_path / "shelf",
                    {CUSTOMER: Customer(CUSTOMER, key.public_key().public_bytes_raw().hex())}, {}, 0.0, bundles)
    specs = [spec for now_s in range(60) for spec in intake.take(float(now_s), {})]
    assert {spec.manifest for spec in specs} == {f"{CUSTOMER}/{job}" for job in NAMES}
    assert [event.name for event in intake.news()] == ["bundle_accepted"] * 3
    onboard = OnboardJobs(ProcessRunner(tmp_path / "run", Path(sys.executable)), bundles)
    plain = OnboardJobs(ProcessRunner(tmp_path / "plain", Path(sys.executable)), {
        job: Bundle(load_manifest(tmp_path / "source" / job / "job.toml"), tmp_path / "source" / job) for job in NAMES})
    try:
        for spec in specs:
            job = spec.manifest.partition("/")[2]
            assert spec.job_id == job_number(CUSTOMER, job)
            throttled = finish(onboard, spec, pauses=3)
            alone = finish(plain, JobSpec(1 + NAMES.index(job), job, 100.0, 1.0, 1.0, 0.0, 1e6, 0.0, manifest=job), 0)
            assert throttled.succeeded, throttled.detail
            assert (throttled.detail, throttled.done_units) == (alone.detail, spec.work_units)
    finally:
        onboard.close()
        plain.close()

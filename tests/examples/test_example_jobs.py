"""The example jobs do real work, give the same result however they are interrupted, and tell the truth."""

from __future__ import annotations

import csv
import json
import lzma
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flightsw.jobs.manifest import Manifest, load_manifest
from flightsw.jobs.runner import ProcessReport, ProcessRunner, ProcessState

JOBS = Path(__file__).parents[2] / "examples" / "jobs"
SMALL = {"cloud_mask": 24, "telemetry_pack": 10, "matrix_workload": 8}


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[ProcessRunner]:
    opened = ProcessRunner(tmp_path / "run", Path(sys.executable))
    yield opened
    opened.close()


def manifest(job: str, units: int = 0) -> Manifest:
    full = load_manifest(JOBS / job / "job.toml")
    return replace(full, work_units=units or SMALL[job])


def run(runner: ProcessRunner, job: str, job_id: int = 1, units: int = 0) -> ProcessReport:
    runner.start(job_id, manifest(job, units), JOBS / job)
    return until(runner, job_id, 10**9)


def until(runner: ProcessRunner, job_id: int, units_done: int) -> ProcessReport:
    """Poll until the job has done so many units, or ended."""
    while True:
        report = next(report for report in runner.poll(0.0) if report.job_id == job_id)
        if report.state.is_final or report.units_done >= units_done:
            return report
        time.sleep(0.003)


@pytest.mark.parametrize("job", SMALL)
def test_manifest_is_complete_and_the_bundle_small(job: str) -> None:
    full = load_manifest(JOBS / job / "job.toml")
    assert full.id == job
    assert full.profile is not None
    assert full.work_core_s is not None
    assert 10.0 <= full.work_core_s <= 60.0
    sizes = [(JOBS / job / name).stat().st_size for name in full.inputs]
    assert sum(sizes) < 210_000


@pytest.mark.parametrize("job", SMALL)
def test_result_is_the_same_paused_killed_or_left_alone(runner: ProcessRunner, job: str) -> None:
    plain = run(runner, job, job_id=1)
    assert (plain.state, plain.detail, plain.units_done) == (ProcessState.FINISHED, "", SMALL[job])

    runner.start(2, manifest(job), JOBS / job)
    assert until(runner, 2, SMALL[job] // 3).state is ProcessState.RUNNING
    runner.pause(2)
    runner.resume(2)
    before = until(runner, 2, SMALL[job] * 3 // 4)
    assert before.state is ProcessState.RUNNING
    runner.terminate(2, now_s=0.0, grace_s=0.0)
    assert until(runner, 2, 10**9).state is ProcessState.TERMINATED
    runner.release(2)

    runner.start(2, manifest(job), JOBS / job)
    first = until(runner, 2, 1)
    assert first.units_done > 1, "it began again from nothing"
    assert until(runner, 2, 10**9).result_sha256 == plain.result_sha256


def test_a_torn_end_of_a_checkpoint_is_cut_off(runner: ProcessRunner) -> None:
    for job, name in (("cloud_mask", "mask.bin"), ("telemetry_pack", "telemetry.pack")):
        plain = run(runner, job, 1, units=5)
        runner.release(1)
        output = runner.folder(1) / "out" / name
        output.write_bytes(output.read_bytes()[:-7])
        again = run(runner, job, 1, units=5)
        assert again.result_sha256 == plain.result_sha256
        runner.release(1)
        runner.discard(1)


def test_cloud_mask_finds_the_bright_cold_pixels(runner: ProcessRunner) -> None:
    assert run(runner, "cloud_mask").state is ProcessState.FINISHED
    out = runner.folder(1) / "out"
    masks = np.unpackbits(np.fromfile(out / "mask.bin", dtype=np.uint8)).reshape(-1, 128, 128).astype(bool)
    table = csv.DictReader((out / "cloud_permille.csv").read_text().splitlines())
    assert [int(row["cloud_permille"]) for row in table] == [int(m.sum()) * 1000 // 128**2 for m in masks]
    scene = np.load(JOBS / "cloud_mask" / "scene.npy")
    cloudiest = int(np.argmax(masks.sum(axis=(1, 2))))
    assert 0.05 < masks[cloudiest].mean() < 0.95
    rows = (np.arange(128) + 37 * cloudiest) % 256
    columns = (np.arange(128) + 37 * 3 * cloudiest) % 256
    visible, thermal = scene[:, rows[:, None], columns].astype(float)
    cloud = masks[cloudiest]
    assert visible[cloud].mean() > visible[~cloud].mean() + 40
    assert thermal[cloud].mean() < thermal[~cloud].mean() - 25


def test_packed_telemetry_unpacks_to_the_file(runner: ProcessRunner) -> None:
    """Decode the first block with a decoder of its own, in plain integers."""
    assert run(runner, "telemetry_pack", units=16).state is ProcessState.FINISHED
    out = runner.folder(1) / "out"
    octets = (out / "telemetry.pack").read_bytes()
    raw = (JOBS / "telemetry_pack" / "telemetry.bin").read_bytes()
    frames = [struct.unpack_from("<16H", raw, 32 * n) for n in range(1024)]
    columns: list[list[int]] = []
    while octets:
        _, channel, back, order, planes, lc, lp, pb, length, _ = struct.unpack_from("<HBBBBBBBHI", octets)
        packed, octets = octets[15 : 15 + length], octets[15 + length :]
        chain = [{"id": lzma.FILTER_LZMA2, "dict_size": 4096, "lc": lc, "lp": lp, "pb": pb}]
        text = lzma.decompress(packed, lzma.FORMAT_RAW, filters=chain)
        low, high = (text[:1024], text[1024:]) if planes else (text[::2], text[1::2])
        values = [a | b << 8 for a, b in zip(low, high, strict=True)]
        for _ in range(order):
            total = 0
            for n, difference in enumerate(values):
                total = (total + difference) & 0xFFFF
                values[n] = total
        if back:
            values = [(a + b) & 0xFFFF for a, b in zip(values, columns[channel - back], strict=True)]
        assert len(columns) == channel
        columns.append(values)
    assert list(zip(*columns, strict=True)) == frames
    summary = json.loads((out / "summary.json").read_text())
    assert summary["octets_before"] == 16 * 2048
    assert summary["octets_after"] < 0.4 * summary["octets_before"]


def test_matrix_workload_is_exact(runner: ProcessRunner) -> None:
    """One unit against 64-bit integers, which cannot round."""
    assert run(runner, "matrix_workload", units=1).state is ProcessState.FINISHED
    prime, size = 2_097_143, 384
    a, b, x = (sequence(seed, size * size, prime).reshape(size, size) for seed in (1, 2, 3))
    for _ in range(20):
        x = ((a @ x) % prime + b) % prime
    result = np.fromfile(runner.folder(1) / "out" / "matrix.u32", dtype="<u4").reshape(size, size)
    assert np.array_equal(result, x)


def sequence(seed: int, count: int, prime: int) -> np.ndarray:
    values = []
    for _ in range(count):
        seed = (seed * 48_271 + 11) % prime
        values.append(seed)
    return np.array(values, dtype=np.int64)


@pytest.mark.parametrize(
    ("job", "maker", "made"),
    [
        ("cloud_mask", "make_scene.py", "scene.npy"),
        ("telemetry_pack", "make_telemetry.py", "telemetry.bin"),
    ],
)
def test_inputs_are_what_their_maker_makes(tmp_path: Path, job: str, maker: str, made: str) -> None:
    source = (JOBS / job / maker).read_text()
    exec(compile(source, str(tmp_path / maker), "exec"), {"__name__": "__main__", "__file__": str(tmp_path / maker)})
    fresh = np.frombuffer((tmp_path / made).read_bytes(), dtype=np.uint8)
    kept = np.frombuffer((JOBS / job / made).read_bytes(), dtype=np.uint8)
    # Sines and Fourier sums may differ in the last place between machines, and so a few values by one.
    assert fresh.shape == kept.shape
    assert (fresh != kept).mean() < 0.01

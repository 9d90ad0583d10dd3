"""Measure a job: run it once, unthrottled, and see what it makes of one core.

Called by the command line for a job's author, who copies the result into `[profile]` of the manifest; the
planner's first guess at a job's speed and draw comes from there. Never called in flight.
"""

from __future__ import annotations

from pathlib import Path

from flightsw.clock import Clock
from flightsw.errors import JobError
from flightsw.jobs.manifest import Profile, load_manifest
from flightsw.jobs.runner import ProcessRunner, ProcessState

_POLL_S = 0.02
_CPU_STEP_S = 0.01  # what the kernel counts in
_MEMORY_MIN_MB = 0.1  # of one that ended before it was looked at
_JOB_ID = 1


def profile_job(
    manifest_path: Path, run_folder: Path, interpreter: Path, clock: Clock, measured_on: str
) -> tuple[Profile, str]:
    """Run the job to its end on this machine; return its profile and the SHA-256 of its outputs.

    The machine should have a core free. JobError when the job fails. ConfigError for its manifest.
    """
    manifest = load_manifest(manifest_path)
    runner = ProcessRunner(run_folder, interpreter)
    runner.discard(_JOB_ID)
    began_s = ended_s = clock.now_s()
    runner.start(_JOB_ID, manifest, manifest_path.parent)
    try:
        (report,) = runner.poll(began_s)
        while not report.state.is_final:
            clock.wait_until(clock.now_s() + _POLL_S)
            if report.exit_code is None:
                ended_s = clock.now_s()
            (report,) = runner.poll(ended_s)
    finally:
        runner.close()
        log = (runner.folder(_JOB_ID) / "log").read_text(errors="replace").strip()
        runner.discard(_JOB_ID)
    if report.state is not ProcessState.FINISHED:
        raise JobError(f"job {manifest.id}: {report.detail}" + (f": {log.splitlines()[-1]}" if log else ""))
    profile = Profile(
        units_per_core_s=manifest.work_units / max(report.cpu_s, _CPU_STEP_S),  # it finished, told of it or not
        peak_memory_mb=max(report.max_rss_mb, _MEMORY_MIN_MB),
        activity_frac=report.cpu_s / max(ended_s - began_s, _POLL_S),
        measured_on=measured_on,
    )
    return profile, report.result_sha256

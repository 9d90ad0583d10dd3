"""Where a result comes from: the commit that was flown, and a hash of everything that configured it.

Used by report and JUnit, never by what is compared between runs: a commit is no part of a run.
"""

from __future__ import annotations

import functools
import hashlib
import subprocess
from pathlib import Path

from hil.scenario import Scenario

_ROOT = Path(__file__).resolve().parents[1]


@functools.cache
def commit() -> str:
    """Commit of this source tree, with a mark where files differ from it; empty where there is no repository."""
    try:
        return subprocess.run(["git", "describe", "--always", "--abbrev=12", "--dirty"], cwd=_ROOT, check=True,
                              capture_output=True, text=True, timeout=10.0).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def config_hash(scenario: Scenario) -> str:
    """SHA-256, shortened, of scenario, mission, truth and seed as they were flown."""
    parts = (scenario.path.read_bytes() if scenario.path.is_file() else b"", scenario.mission_toml.encode(),
             repr(scenario.truth).encode(), repr((scenario.seed, scenario.duration_s)).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]

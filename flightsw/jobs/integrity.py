"""Which finished jobs run a second time, so that a silent error shows as two results; pure.

Called by whoever takes a job's end from the runner. The second run is a transition of its own in the ledger
(RUNNING -> PROMISED with `again_detail`, then RUNNING again), its cost is on the job's account like any other, and
`ProcessRunner.start(..., again=True, expected_sha256=...)` makes it fail when its outputs differ.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

_AGAIN: Final = re.compile(r"first run gave SHA-256 ([0-9a-f]{64}); runs again")


def runs_again(job_id: int, result_sha256: str, sample_frac: float) -> bool:
    """Whether a job of which `sample_frac` are to be checked is one of them; the same answer every time.

    The first result takes part in the draw, so that nobody knows before it whether it will be checked.
    """
    drawn = hashlib.sha256(f"{job_id} {result_sha256}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") < sample_frac * 2.0**64


def work_factor(sample_frac: float) -> float:
    """Work that a job is to be expected to take relative to one run: the declared cost of the check."""
    return 1.0 + sample_frac


def again_detail(result_sha256: str) -> str:
    """Word the transition back to PROMISED, so that the first result is durable before the second run begins."""
    return f"first run gave SHA-256 {result_sha256}; runs again"


def expected_sha256(detail: str) -> str:
    """Return the first result from a transition's detail; "" when it speaks of none."""
    found = _AGAIN.fullmatch(detail)
    return found[1] if found else ""

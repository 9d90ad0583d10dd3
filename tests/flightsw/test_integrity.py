"""Second runs: who is drawn, at which cost, and what the ledger remembers in between."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from flightsw.jobs.integrity import again_detail, expected_sha256, runs_again, work_factor


def sha(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def test_the_declared_share_of_jobs_runs_again():
    for frac in (0.0, 0.1, 0.5, 1.0):
        drawn = sum(runs_again(n, sha(n), frac) for n in range(4_000))
        assert abs(drawn / 4_000 - frac) < 0.03
        assert work_factor(frac) == 1.0 + frac


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0))
def test_the_draw_is_the_same_after_a_restart_and_grows_with_the_share(job_id, frac):
    assert runs_again(job_id, sha(1), frac) == runs_again(job_id, sha(1), frac)
    assert runs_again(job_id, sha(1), 1.0) or not runs_again(job_id, sha(1), frac)


def test_the_first_result_comes_back_from_the_ledger():
    assert expected_sha256(again_detail(sha(7))) == sha(7)
    for other in ("", "supervisor restarted", again_detail("zz"), again_detail(sha(7)) + " or not"):
        assert expected_sha256(other) == ""

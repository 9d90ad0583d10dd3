"""Two hundred SIGKILLs lose no acknowledged job and double no result; a supervisor that is hasty is caught."""

from __future__ import annotations

from pathlib import Path

import pytest
from job_kills import campaign


@pytest.mark.timeout(600)
def test_two_hundred_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    verdict = campaign(tmp_path, 200)
    assert verdict.problems == []
    assert sum(verdict.kills.values()) == 200
    assert min(verdict.kills.values()) > 10
    assert verdict.acknowledged > 20
    assert verdict.results > 5
    assert verdict.restarts > 5


def test_the_campaign_catches_an_acknowledgement_before_the_record(tmp_path: Path) -> None:
    verdict = campaign(tmp_path, 80, hasty=True)
    assert any(problem.endswith("acknowledged and lost") for problem in verdict.problems), verdict

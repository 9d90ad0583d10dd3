"""Files over the emulated line: the cases of the campaign with less to send, and the rates that must be kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from file_campaign import CASES, Case, fly

from flightsw.store import OsDisk


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the medium: what a killed process leaves is the same."""
    monkeypatch.setattr(OsDisk, "sync", lambda _self, _fd: None)
    monkeypatch.setattr(OsDisk, "sync_folder", lambda _self, _folder: None)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_file_arrives_as_it_was_sent(tmp_path: Path, case: Case) -> None:
    fly(case, 40_000, tmp_path)


@pytest.mark.parametrize("case", [case for case in CASES if case.rate_frac_min and case.bit_error_rate != 1e-4],
                         ids=lambda case: case.name)
def test_a_clean_line_is_used(tmp_path: Path, case: Case) -> None:
    assert fly(case, 512 << 10, tmp_path).rate_frac >= case.rate_frac_min

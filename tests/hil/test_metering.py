"""Joules billed agree with the plant: 3 % in all, 10 % job by job; a meter that errs is caught."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from metering_day import problems_of

from flightsw.jobs.meter import Meter
from hil.metering import true_energy_j


def test_three_hours_of_bills_agree_with_the_true_satellite(tmp_path: Path) -> None:
    assert problems_of("short_iss", tmp_path) == []


def test_a_meter_that_forgets_a_tick_in_eight_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = Meter._share
    calls = []

    def forgets(self, then, now, on_nodes):  # type: ignore[no-untyped-def]
        calls.append(now)
        if len(calls) % 8:
            share(self, then, now, on_nodes)

    monkeypatch.setattr(Meter, "_share", forgets)
    assert len(problems_of("short_iss", tmp_path, duration="80 min")) == 3


def test_a_job_is_charged_by_the_truth_for_the_ticks_after_its_placement_on_each_of_its_nodes() -> None:
    node_w = np.array([[1, 10], [2, 20], [3, 30], [4, 40]], np.float32)
    assert true_energy_j([(7, 0, 0.0, 2.0), (8, 1, 1.0, 2.0), (7, 1, 2.0, 3.0)], node_w, 1.0) == {7: 45.0, 8: 30.0}

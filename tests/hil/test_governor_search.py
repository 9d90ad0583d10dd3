"""The search for a late shed: it finds none, and it finds what it is shown."""

from __future__ import annotations

import pytest

from flightsw.decide import governor
from flightsw.physics import model
from flightsw.physics.forecast import Forecaster
from hil import governor_search
from hil.__main__ import main

TASKS = [governor_search.Task(name, seed, 100, truths=True) for name in governor_search.SCENARIOS for seed in (7, 8)]


def found(tasks: list[governor_search.Task]) -> list[str]:
    governor_search.forget()
    return [line for task in tasks for line in governor_search.search(task).findings]


@pytest.mark.parametrize("task", TASKS)
def test_no_shed_comes_too_late(task: governor_search.Task) -> None:
    tally = governor_search.search(task)
    assert tally.findings == ()
    assert tally.approved > 20
    assert tally.near > 4  # states where it matters
    assert tally.on_truth > 5
    assert set(tally.room) == {(plant, limit) for plant in ("model", "truth") for limit in governor_search.LIMITS}


def test_it_finds_a_governor_that_believes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(governor, "approve", lambda wanted, *_: governor.Approval(tuple(wanted), (), ""))
    lines = found(TASKS)
    for limit in ("battery_floor_frac", "die_max_c", "plate_max_c", "payload_max_w"):
        assert any(f"{limit} crossed by" in line for line in lines), limit


@pytest.mark.parametrize("flaw", ["holds_too_short", "no_margins", "no_bounds"])
def test_it_finds_a_flaw_of_the_check(flaw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that is only a little wrong: the wrong hold, a model without margins, estimates without bounds."""
    first_crossing, fill_constants = Forecaster.first_crossing, model.fill_constants
    if flaw == "holds_too_short":
        monkeypatch.setattr(Forecaster, "first_crossing",
                            lambda self, estimate, draws, _, parameters: first_crossing(
                                self, estimate, draws, 10.0, parameters))
    elif flaw == "no_margins":
        monkeypatch.setattr(model, "fill_constants", lambda rollout, mission, _, *learnt: fill_constants(
            rollout, mission, 0.0, *learnt))
    else:
        monkeypatch.setattr(Forecaster, "first_crossing",
                            lambda self, estimate, draws, hold_s, parameters: first_crossing(
                                self, estimate._replace(
                                    battery_j=estimate.battery_j._replace(low=estimate.battery_j.best),
                                    temperature_k=tuple(b._replace(high=b.best) for b in estimate.temperature_k)),
                                draws, hold_s, parameters))
    assert found([*TASKS, *(task._replace(seed=task.seed + 10) for task in TASKS)])


def test_the_command_says_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["governor-search", "--states", "60", "--jobs", "1", "--seed", "3"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("60 states:")
    assert text.endswith("0 sheds came too late\n")
    assert main(["governor-search", "--states", "0"]) == 2


@pytest.fixture(autouse=True)
def _fresh_forecasters() -> None:
    """A forecaster is kept between tasks and knows its model from when it was made."""
    governor_search.forget()

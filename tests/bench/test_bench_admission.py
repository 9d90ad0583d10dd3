"""What an answer costs by how many jobs are promised, beside laying out all for each place; and a whole tick."""

import admission_scaling as scaling
import pytest


@pytest.mark.parametrize("promised", [10, 30, 100, 200])
def test_the_peer_answers_alike(promised: int):
    jobs, accounts = scaling.promised(promised), scaling.accounts_of_the_plan()
    for spec in scaling.asked(jobs, 20):
        assert scaling.answer(jobs, accounts, spec) == pytest.approx(scaling.peer_answer(jobs, spec))


@pytest.mark.parametrize("promised", scaling.SIZES)
def test_answers(benchmark, promised: int):
    benchmark.group = "admission: 200 distinct answers"
    cost = benchmark.pedantic(scaling.answers, args=(promised,), rounds=1)
    note(benchmark, "answer", cost)


@pytest.mark.parametrize("promised", scaling.PEER_SIZES)
def test_answers_of_the_peer(benchmark, promised: int):
    """Where it can be waited for: 60 of the same questions."""
    benchmark.group = "admission: 60 distinct answers, all jobs laid out for each place"
    cost = benchmark.pedantic(scaling.peer_answers, args=(promised,), rounds=1)
    note(benchmark, "peer's answer", cost)


@pytest.mark.parametrize("open_jobs", scaling.SIZES)
def test_ticks(benchmark, open_jobs: int):
    benchmark.group = "admission: 200 ticks, each with an answer"
    cost = benchmark.pedantic(scaling.ticks, args=(open_jobs,), rounds=1)
    note(benchmark, "tick", cost)


def note(benchmark, what: str, cost: scaling.Cost) -> None:
    benchmark.extra_info.update(what=what, jobs=cost.jobs, p50_ms=cost.ms(50.0), p99_ms=cost.ms(99.0))

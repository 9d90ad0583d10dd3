"""The truth plant beside Basilisk: steps a second of a loop that is closed in Python every step.

Basilisk 2.12.1 did 10,000 to 12,700 steps/s (CPU time, one satellite with eclipse, panel, battery and a thermal node,
returning to Python every step; the run that made tests/data/basilisk_truth). It is 267 MB, so it is not run here.
"""

import time

import pytest

from flightsw.kernels import Plant
from hil.plant.satellite import fill_model, thermal_nodes
from hil.scenario import find, load

BASILISK_STEPS_S = 12_700
STEPS = 20_000


def plant() -> Plant:
    truth = load(find("short_iss")).truth
    made, at = Plant(), thermal_nodes(truth.compute.nodes)
    fill_model(made, truth)
    for node in range(at.total):
        made.state.temperature_k[node] = 285.0
    made.state.battery_j = 0.9 * made.model.battery_capacity_j
    made.advance(1300.0, [5.0] * at.total, [10.0] * truth.compute.nodes, False, 1e-6, 1)
    return made


@pytest.mark.benchmark(timer=time.process_time)
def test_a_loop_closed_every_step(benchmark):
    """A thermostat on the first die decides its power from the state of the step before."""
    benchmark.group = "truth plant: steps called back from Python"
    made = plant()

    def fly() -> None:
        state, draw_w, step = made.state, made.held.compute_w, made.step
        for _ in range(STEPS):
            draw_w[0] = 0.0 if state.temperature_k[0] > 345.0 else 25.0
            step(1.0)

    benchmark.pedantic(fly, rounds=30, warmup_rounds=1)
    rate = STEPS / benchmark.stats.stats.min
    benchmark.extra_info["steps_per_s"] = round(rate)
    benchmark.extra_info["times_basilisk"] = round(rate / BASILISK_STEPS_S, 1)
    assert 344.0 < made.state.temperature_k[0] < 346.0  # the loop was closed


@pytest.mark.benchmark(timer=time.process_time)
def test_in_bulk(benchmark):
    benchmark.group = "truth plant: steps in one call"
    made = plant()
    heat_w, draw_w = list(made.held.heat_w)[:made.model.n_nodes], [10.0] * made.model.n_compute
    benchmark.pedantic(made.advance, (1300.0, heat_w, draw_w, False, 1.0, STEPS), rounds=30, warmup_rounds=1)
    benchmark.extra_info["steps_per_s"] = round(STEPS / benchmark.stats.stats.min)

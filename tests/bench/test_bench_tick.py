"""What a tick costs: the unmodified supervisor, truth, line, ground station and archive in one process."""

import itertools
from pathlib import Path

from hil import run, scenario

SECONDS = 5600  # one orbit


def test_one_orbit_with_all_parts(benchmark, tmp_path: Path):
    benchmark.group = "loop: one orbit of the reference mission, 1 Hz"
    plan = scenario.load(scenario.find("short_iss"), duration=f"{SECONDS} s")
    numbers = itertools.count()

    def fly() -> run.Flight:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        return run.fly(plan, folder)

    flight = benchmark.pedantic(fly, rounds=3, warmup_rounds=1)
    assert flight.metrics["failed_ticks"] == 0
    per_tick_us = benchmark.stats.stats.median / SECONDS * 1e6
    benchmark.extra_info["us_per_tick"] = round(per_tick_us, 1)
    benchmark.extra_info["times_real_time"] = round(1e6 / per_tick_us)
    benchmark.extra_info["us_per_tick_by_part"] = flight.timing["us_per_tick"]

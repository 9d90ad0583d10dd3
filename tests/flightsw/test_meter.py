"""The bill: joules by share, their sum the bus, and what is never charged."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.jobs.meter import ENTRIES_MAX, GAP_MAX_S, Activity, Meter, measure_folder, read_sessions
from flightsw.state import Usage


def active(node: int, core_s: float, customer: str = "Ada", process: int = 1) -> Activity:
    return Activity(node, process, customer, core_s, 1000, 2000)


def test_a_node_alone_pays_for_all_of_it_and_the_house_for_the_rest() -> None:
    meter = Meter()
    for t in range(11):
        meter.take(float(t), 40.0, (10.0, 5.0), {1: active(0, 0.7 * t)})
    assert meter.settle(1) == Usage("Ada", pytest.approx(100.0), pytest.approx(7.0), 1000, 2000)
    assert (meter.bus_j, meter.jobs_j, meter.house_j) == pytest.approx((400.0, 100.0, 300.0))
    assert meter.usages == {}


def test_jobs_of_one_node_share_by_processor_time_and_idle_ones_pay_nothing() -> None:
    meter = Meter()
    for t in range(11):
        meter.take(float(t), 40.0, (10.0,), {1: active(0, 0.6 * t), 2: active(0, 0.2 * t), 3: active(0, 5.0)})
    assert meter.usages[1].energy_j == pytest.approx(75.0)
    assert meter.usages[2].energy_j == pytest.approx(25.0)
    assert meter.usages[3].energy_j == 0.0


def test_who_holds_a_node_pays_for_it_while_it_waits_and_not_when_it_is_taken_off() -> None:
    meter = Meter()
    for t in range(11):
        meter.take(float(t), 40.0, (10.0,), {1: active(0, 3.0)})
    for t in range(11, 21):
        meter.take(float(t), 40.0, (10.0,), {1: active(-1, 3.0)})
    assert meter.usages[1].energy_j == pytest.approx(100.0)
    assert meter.house_j == pytest.approx(700.0)


@given(st.lists(st.tuples(st.floats(0.1, 3.0), st.floats(5.0, 90.0), st.floats(0.0, 40.0), st.floats(0.0, 40.0),
                          st.floats(0.0, 2.0), st.floats(0.0, 2.0)), min_size=2, max_size=40))
def test_all_accounts_together_are_the_bus(steps) -> None:  # type: ignore[no-untyped-def]
    meter, now_s, used_s, bus_j, last = Meter(), 0.0, [0.0, 0.0, 0.0], 0.0, None
    for dt_s, house_w, a_w, b_w, a_s, b_s in steps:
        now_s += dt_s
        bus_w = house_w + a_w + b_w
        bus_j += 0.0 if last is None else 0.5 * (last + bus_w) * dt_s
        last = bus_w
        used_s = [used_s[0] + a_s, used_s[1] + b_s, used_s[2] + 0.5 * b_s]
        meter.take(now_s, bus_w, (a_w, b_w),
                   {1: active(0, used_s[0]), 2: active(1, used_s[1]), 3: active(1, used_s[2])})
    total_j = meter.house_j + sum(usage.energy_j for usage in meter.usages.values())
    assert total_j == pytest.approx(bus_j, rel=1e-9, abs=1e-9)
    assert meter.house_j >= -1e-9 * bus_j
    assert meter.unmetered_s == 0.0


def test_a_day_at_one_hertz_is_within_half_a_percent_of_the_truth() -> None:
    """Stated error: a node that follows duty cycles and eclipses, sampled once a second against its exact integral."""
    meter, truth_j, core_s = Meter(), 0.0, 0.0
    for t in range(0, 20_000):
        duty = 0.5 + 0.5 * math.sin(2 * math.pi * t / 5_560.0)
        meter.take(float(t), 20.0 + 8.0 * duty, (2.0 + 8.0 * duty,), {1: active(0, core_s)})
        core_s += duty + 1e-6
        middle = 0.5 + 0.5 * math.sin(2 * math.pi * (t + 0.5) / 5_560.0)
        truth_j += 2.0 + 8.0 * middle if t < 19_999 else 0.0
    assert meter.usages[1].energy_j == pytest.approx(truth_j, rel=5e-3)


def test_what_is_not_measured_is_charged_to_nobody() -> None:
    meter = Meter()
    meter.take(0.0, 40.0, (10.0,), {1: active(0, 0.0)})
    meter.take(1.0, 40.0, (None,), {1: active(0, 1.0)})
    meter.take(2.0, 40.0, (10.0,), {1: active(0, 2.0)})
    assert (meter.usages[1].energy_j, meter.usages[1].core_s, meter.unmetered_s) == (0.0, 2.0, 2.0)
    meter.take(2.0 + 2 * GAP_MAX_S, 40.0, (10.0,), {1: active(0, 12.0)})
    assert (meter.usages[1].energy_j, meter.unmetered_s) == (0.0, 2.0 + 2 * GAP_MAX_S)
    meter.take(3.0 + 2 * GAP_MAX_S, None, (10.0,), {1: active(0, 13.0)})
    assert meter.usages[1].energy_j == 10.0  # its rail is known, the bus is not
    assert meter.bus_j == pytest.approx(90.0)
    assert meter.house_j == pytest.approx(80.0)


def test_totals_go_on_over_restarts_of_job_and_supervisor() -> None:
    first = Meter()
    for t in range(4):
        first.take(float(t), 20.0, (10.0,), {1: active(0, float(t))})
    for t in range(4, 7):
        first.take(float(t), 20.0, (10.0,), {1: active(0, float(t - 4), process=2)})
    assert first.usages[1][1:3] == pytest.approx((60.0, 5.0))
    second = Meter(first.usages)
    for t in range(3):
        second.take(float(t), 20.0, (10.0,), {1: active(0, float(t))})
    assert second.usages[1][1:3] == pytest.approx((80.0, 7.0))
    assert second.house_j == pytest.approx(20.0)


def test_overdraw_is_charged() -> None:
    meter = Meter()
    for t in range(11):
        meter.take(float(t), 60.0, (30.0,), {1: active(0, 4.0 * t)})  # four cores where one was declared
    assert meter.usages[1][1:3] == pytest.approx((300.0, 40.0))


def test_a_session_is_read_whole() -> None:
    source = "import os; ballast = bytearray(b'x') * (32 << 20); os.fork()\nwhile len(ballast): pass"
    leader = subprocess.Popen([sys.executable, "-I", "-S", "-c", source], start_new_session=True)
    child = leader.pid
    try:
        usage = read_sessions({child: 1 << 40})[child]
        while len(usage.processes) < 2 or usage.core_s < 0.1 or usage.memory_octets < 60 << 20:
            usage = read_sessions({child: 1 << 40})[child]
        shared = read_sessions({child: 1 << 20})[child]
        assert 32 << 20 <= shared.memory_octets < 60 << 20, "pages that two processes share count once"
        others = [pid for pid in usage.processes if pid != child]
    finally:
        for pid in (*read_sessions({child: 1 << 40})[child].processes,):
            os.kill(pid, 9)
        leader.wait()
    assert len(others) == 1
    assert read_sessions({}) == {}


def test_a_folder_is_measured_with_what_hides_in_it(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(bytes(100_000))
    (tmp_path / "link").symlink_to("/usr")
    octets, entries, whole = measure_folder(tmp_path, 1 << 20)
    assert 100_000 <= octets < 150_000
    assert (entries, whole) == (4, True)
    with (tmp_path / "gone").open("wb") as file:
        file.write(bytes(500_000))
        file.flush()
        (tmp_path / "gone").unlink()
        assert measure_folder(tmp_path, 1 << 20, [os.getpid()]).octets >= octets + 500_000
    assert measure_folder(tmp_path, 50_000).octets > 50_000
    for n in range(ENTRIES_MAX + 1):
        (tmp_path / "a" / str(n)).touch()
    assert not measure_folder(tmp_path, 1 << 20).whole

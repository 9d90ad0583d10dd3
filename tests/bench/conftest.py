"""After the tables of the plugin: what a reader asks first, cost of a tick, of an answer, rollouts per second."""

from __future__ import annotations

from typing import Any


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    session = getattr(config, "_benchmarksession", None)
    benchmarks = session.benchmarks if session else []
    summarise_ticks(terminalreporter, [bench for bench in benchmarks if "us_per_tick" in bench.extra_info])
    summarise_admission(terminalreporter, [bench for bench in benchmarks if "p99_ms" in bench.extra_info])
    summarise_rollouts(terminalreporter, [bench for bench in benchmarks if "rollouts_per_s" in bench.extra_info])


def summarise_ticks(terminalreporter: Any, rows: list[Any]) -> None:
    for bench in rows:
        info = bench.extra_info
        terminalreporter.section("cost of a tick")
        parts = ", ".join(f"{part.replace('_', ' ')} {us:.1f}" for part, us in info["us_per_tick_by_part"].items())
        terminalreporter.write_line(
            f"{info['us_per_tick']:.1f} us a tick of 1 s, set-up included: {info['times_real_time']:,} times real "
            f"time; of it, in us: {parts}"
        )


def summarise_admission(terminalreporter: Any, rows: list[Any]) -> None:
    if not rows:
        return
    terminalreporter.section("admission by jobs promised (answer) or open (tick), ms of processor time")
    for row in (bench.extra_info for bench in rows):
        terminalreporter.write_line(
            f"{row['what']:16}{row['jobs']:6}   p50 {row['p50_ms']:7.2f}   p99 {row['p99_ms']:7.2f}")


def summarise_rollouts(terminalreporter: Any, rows: list[Any]) -> None:
    if not rows:
        return
    write = terminalreporter.write_line
    terminalreporter.section("rollouts of one orbit")
    numpy_s = {b.extra_info["precision"]: b.stats.min for b in rows if b.extra_info["what"] == "NumPy"}
    write(f"{'':42}{'ms':>9}{'rollouts/s':>12}{'x NumPy':>9}{'GFLOP/s':>9}{'of FMA peak':>13}")
    for bench in sorted(rows, key=lambda b: (b.extra_info["precision"], b.stats.min)):
        info, best_s = bench.extra_info, bench.stats.min
        name = f"{info['what']}, {info['precision']}-bit"
        ratio = f"{numpy_s[info['precision']] / best_s:.1f}" if info["precision"] in numpy_s else ""
        share = f"{info['fma_peak_percent']:.1f} % {info['peak_of']}" if "fma_peak_percent" in info else ""
        write(
            f"{name:42}{best_s * 1e3:9.1f}{info['rollouts_per_s']:12,}{ratio:>9}{info['gflop_per_s']:9.1f}{share:>17}"
        )
    write(rows[0].extra_info["counting_rule"])
    for what, gflop_per_s in rows[0].extra_info["peaks_f32"].items():
        write(f"FMA peak of this core in 32-bit arithmetic, measured in this run, {what}: {gflop_per_s:.1f} GFLOP/s")

"""A year of 1 Hz housekeeping, 60 parameters, into the archive by its own door; then questions of one day each.

Called by `make archive-year`. The packets are real ones, made from a seed: orbits with eclipses, drifts over the year,
sensor noise in steps of a converter, counters and modes. Prints what each question took; exits 1 when one of a day and
one parameter takes a second or more.
"""

from __future__ import annotations

import argparse
import binascii
import time
from pathlib import Path

import numpy as np

from flightsw.dictionary.telemetry import Housekeeping, Point
from ground.archive import Archive
from ground.chart import Shade, Trace, svg
from ground.columns import layout_of

START_S = 1_774_008_000.0  # 2026-03-20T12:00:00Z
DAY_S, ORBIT_S = 86_400, 5578
CHUNK = 4096
SENSORS = 48
ROW = Housekeeping(200, "year", 1.0, (
    *(Point(f"sensor{i:02d}_{'c' if i % 2 else 'w'}", "f32", "degC" if i % 2 else "W", "A sensor.")
      for i in range(SENSORS)),
    *(Point(f"mode{i}", "u8", "", "A mode.") for i in range(4)),
    *(Point(f"count{i}", "u32", "", "A counter.") for i in range(8)),
))


def packets(first: int, count: int, chance: np.random.Generator) -> list[bytes]:
    """Packets of `count` seconds from second `first` of the year on."""
    t = np.arange(first, first + count, dtype=np.float64)
    phase, lit = 2.0 * np.pi * t / ORBIT_S, (t % ORBIT_S) < 0.62 * ORBIT_S
    layout = layout_of(ROW)
    matrix = np.zeros((count, layout.octets - 2), np.uint8)

    def put(at: int, values: np.ndarray, kind: str) -> None:
        matrix[:, at : at + np.dtype(kind).itemsize] = values.astype(kind).view(np.uint8).reshape(count, -1)

    put(0, np.full(count, 0x0864), ">u2")
    put(2, 0xC000 | (t.astype(np.int64) & 0x3FFF), ">u2")
    put(4, np.full(count, layout.octets - 7), ">u2")
    matrix[:, 6:9] = (0x20, 3, 25)
    put(9, t.astype(np.int64) & 0xFFFF, ">u2")
    put(13, (START_S + t).astype(np.int64), ">u4")
    matrix[:, 19] = ROW.sid
    for i, (_, kind, at) in enumerate(layout.columns):
        if i < SENSORS:
            shape = 20.0 + i + (5.0 + i / 4) * np.sin(phase + i) + 3.0 * lit + 2.0 * np.sin(t / DAY_S / 58.0 + i)
            put(at, np.round((shape + chance.normal(0.0, 0.15, count)) / 0.05) * 0.05, ">f4")
        elif kind == "u8":
            put(at, np.where(lit, 85, 51), "u1")
        else:
            put(at, t // (i - SENSORS + 1), ">u4")
    bodies, size = matrix.tobytes(), matrix.shape[1]
    return [body + binascii.crc_hqx(body, 0xFFFF).to_bytes(2, "big")
            for body in (bodies[i : i + size] for i in range(0, len(bodies), size))]


def make(path: Path, days: int) -> None:
    """Make the archive of `days`."""
    chance, began_s, seconds = np.random.default_rng(7), time.perf_counter(), days * DAY_S
    with Archive(path, structures=(ROW,)) as archive:
        for first in range(0, seconds, CHUNK):
            for i, octets in enumerate(packets(first, min(CHUNK, seconds - first), chance)):
                obt_s = START_S + first + i
                archive.add_packet(obt_s + 0.4, obt_s, 100, 3, 25, (first + i) & 0x3FFF, octets)
                archive.add_housekeeping(ROW.sid)
            archive.tend(float(first))
    took_s = time.perf_counter() - began_s
    size = path.stat().st_size
    print(f"{seconds:,} packets of {len(ROW.points)} parameters in {took_s:.0f} s, {seconds / took_s:,.0f} packets/s; "
          f"{size / 1e9:.2f} GB, {size / seconds:.0f} octets a packet of {layout_of(ROW).octets}")


def ask(path: Path, days: int, questions: int) -> float:
    """Ask for one parameter of one day, at random; return the longest time in s."""
    chance, took = np.random.default_rng(11), []
    for _ in range(questions):
        name = ROW.points[int(chance.integers(len(ROW.points)))].name
        day_s = START_S + int(chance.integers(max(1, days - 1))) * DAY_S + int(chance.integers(DAY_S))
        began_s = time.perf_counter()
        with Archive(path, read_only=True, structures=(ROW,)) as archive:
            found = archive.series(name, day_s, day_s + DAY_S)
        took.append(time.perf_counter() - began_s)
        if days > 1 and found.obt_s.size < min(DAY_S, START_S + days * DAY_S - day_s) - 1:
            raise SystemExit(f"{name} from {day_s}: {found.obt_s.size} samples")
    print(f"one day of one parameter, opening the file each time, {questions} at random: median "
          f"{1e3 * float(np.median(took)):.0f} ms, worst {1e3 * max(took):.0f} ms")
    with Archive(path, read_only=True, structures=(ROW,)) as archive:
        began_s = time.perf_counter()
        day = archive.decimated("sensor07_c", START_S, START_S + DAY_S)
        shades = [Shade(START_S + i * ORBIT_S + 0.62 * ORBIT_S, START_S + (i + 1) * ORBIT_S) for i in range(15)]
        drawn = svg([Trace("sensor07_c", day)], "degC", shades=shades)
        path.with_suffix(".day.svg").write_text(drawn)
        print(f"the plot of a day: {1e3 * (time.perf_counter() - began_s):.0f} ms")
        began_s = time.perf_counter()
        year = archive.decimated("sensor07_c")
        path.with_suffix(".year.svg").write_text(svg([Trace("sensor07_c", year)], "degC"))
        print(f"the plot of all {days} days, no peak left out: {1e3 * (time.perf_counter() - began_s):.0f} ms")
    return max(took)


def main() -> int:
    """Make, ask, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--days", type=int, default=365)
    options = parser.parse_args()
    options.path.parent.mkdir(parents=True, exist_ok=True)
    for old in options.path.parent.glob(options.path.name + "*"):
        old.unlink()
    make(options.path, options.days)
    return int(ask(options.path, options.days, 100) >= 1.0)


if __name__ == "__main__":
    raise SystemExit(main())

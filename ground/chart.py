"""Plots of telemetry over time: as SVG for reports and files, as braille dots for terminals.

Owns scales, ticks and drawing; it is told what to draw and reads nothing. A missing value breaks its line: nothing
is drawn where nothing is known. A decimated series is drawn from its least to its greatest, so that no peak is lost.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ground.archive import Series, thinned

COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")
_TICKS = 5
_TIME_STEPS_S = (1, 2, 5, 10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800,
                 604800, 2629800, 7889400)
_GAP_PERIODS = 5.0  # a pause this much longer than usual breaks a line
_BRAILLE = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])


class Trace(NamedTuple):
    """One line of a plot; `ahead` is drawn dashed, as what has not happened yet."""

    name: str
    series: Series
    ahead: bool = False


class Shade(NamedTuple):
    """A stretch of time that is shaded, for instance an eclipse."""

    from_s: float
    to_s: float


class Limit(NamedTuple):
    """A horizontal line."""

    name: str
    value: float


class Cell(NamedTuple):
    """One character of a terminal plot and the trace that it belongs to, -1 for none."""

    char: str
    trace: int


def window(traces: Sequence[Trace]) -> tuple[float, float]:
    """Return first and last time of the traces, at least a second apart; (0, 1) where there is nothing."""
    edges = [(float(t.series.obt_s[0]), float(t.series.obt_s[-1])) for t in traces if t.series.obt_s.size]
    if not edges:
        return 0.0, 1.0
    low, high = min(e[0] for e in edges), max(e[1] for e in edges)
    return low, max(high, low + 1.0)


def scale(traces: Sequence[Trace], limits: Sequence[Limit] = ()) -> tuple[float, float]:
    """Return the range of values to draw: all finite ones, limits that are near, and some air."""
    found = [np.concatenate((t.series.values, t.series.values if t.series.lows is None else t.series.lows))
             for t in traces]
    values = np.concatenate(found) if found else np.empty(0)
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    reach = max(high - low, 0.02 * abs(high), 1e-3)
    near = [limit.value for limit in limits if low - reach <= limit.value <= high + reach]
    low, high = min([low, *near]), max([high, *near])
    air = 0.06 * max(high - low, reach)
    return low - air, high + air


def ticks(low: float, high: float, count: int = _TICKS) -> list[float]:
    """Return round values in a range, 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= rough * 0.999)
    return [round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def time_ticks(low_s: float, high_s: float, count: int) -> list[tuple[float, str]]:
    """Return round UTC times in a range with their labels."""
    rough = (high_s - low_s) / max(count, 1)
    step = next((s for s in _TIME_STEPS_S if s >= rough), _TIME_STEPS_S[-1])
    form = "%H:%M:%S" if step < 60 else "%H:%M" if step < 86400 else "%d %b"
    found = []
    for i in range(math.ceil(low_s / step), math.floor(high_s / step) + 1):
        try:
            moment = datetime.fromtimestamp(i * step, UTC)
        except (ValueError, OverflowError, OSError):
            return []
        found.append((float(i * step), moment.strftime("%d %b" if step < 86400 and not (i * step) % 86400 else form)))
    return found


# -- SVG


def svg(traces: Sequence[Trace], unit: str, *, title: str = "", shades: Sequence[Shade] = (),
        limits: Sequence[Limit] = (), span: tuple[float, float] | None = None, now_s: float | None = None,
        width: int = 960, height: int = 260) -> str:
    """Return one plot as an SVG element, readable without script, fonts or style sheets of others."""
    low_s, high_s = span or window(traces)
    low, high = scale(traces, limits)
    left, right, top, bottom = 56, width - 12, 26, height - 24

    def x(at_s: float) -> float:
        return left + (right - left) * (min(max(at_s, low_s), high_s) - low_s) / (high_s - low_s)

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / (high - low)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="100%" role="img"'
             ' font-family="system-ui, sans-serif" font-size="11" fill="#444">',
             f'<rect width="{width}" height="{height}" fill="#fff"/>']
    for shade in shades:
        if shade.to_s > low_s and shade.from_s < high_s:
            a, b = x(shade.from_s), x(shade.to_s)
            parts.append(f'<rect x="{a:.1f}" y="{top}" width="{b - a:.1f}" height="{bottom - top}" fill="#eceff4"/>')
    for value in ticks(low, high):
        parts.append(f'<path d="M{left} {y(value):.1f}H{right}" stroke="#ddd"/>'
                     f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for at_s, label in time_ticks(low_s, high_s, 9):
        parts.append(f'<path d="M{x(at_s):.1f} {bottom}v4" stroke="#999"/>'
                     f'<text x="{x(at_s):.1f}" y="{height - 6}" text-anchor="middle">{label}</text>')
    for limit in limits:
        if low <= limit.value <= high:
            parts.append(f'<path d="M{left} {y(limit.value):.1f}H{right}" stroke="#c00" stroke-dasharray="6 3"/>'
                         f'<text x="{right}" y="{y(limit.value) - 4:.1f}" text-anchor="end" fill="#c00">'
                         f'{html.escape(limit.name)} {limit.value:g}</text>')
    if now_s is not None and low_s < now_s < high_s:
        parts.append(f'<path d="M{x(now_s):.1f} {top}V{bottom}" stroke="#888"/>')
    legend = left
    parts.append(f'<text x="6" y="15">{html.escape(unit)}</text>')
    if title:
        parts.append(f'<text x="{left}" y="15" font-weight="bold" fill="#222">{html.escape(title)}</text>')
        legend += 8 * len(title) + 20
    for i, trace in enumerate(traces):
        colour = COLOURS[i % len(COLOURS)]
        dash = ' stroke-dasharray="4 3"' if trace.ahead else ""
        for points in _runs(trace.series):
            lows = trace.series.lows
            if lows is None:
                line = " ".join(f"{x(trace.series.obt_s[j]):.1f},{y(trace.series.values[j]):.1f}" for j in points)
                parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.3"{dash}/>')
            else:
                band = [f"{x(trace.series.obt_s[j]):.1f},{y(trace.series.values[j]):.1f}" for j in points]
                band += [f"{x(trace.series.obt_s[j]):.1f},{y(lows[j]):.1f}" for j in points[::-1]]
                parts.append(f'<polygon points="{" ".join(band)}" fill="{colour}" fill-opacity="0.35"'
                             f' stroke="{colour}" stroke-width="0.8"/>')
        parts.append(f'<path d="M{legend} 11h18" stroke="{colour}" stroke-width="2"{dash}/>'
                     f'<text x="{legend + 22}" y="15">{html.escape(trace.name)}</text>')
        legend += 36 + 7 * len(trace.name)
    return "".join(parts) + "</svg>"


def _runs(series: Series) -> list[list[int]]:
    """Return the indices of samples that belong together: finite, and without a long pause."""
    if not series.obt_s.size:
        return []
    steps = np.diff(series.obt_s)
    usual_s = float(np.median(steps)) if steps.size else 1.0
    broken = ~np.isfinite(series.values)
    starts = np.concatenate(([True], steps > _GAP_PERIODS * max(usual_s, 1e-6)))
    runs: list[list[int]] = []
    fresh = True
    for i in range(series.obt_s.size):
        if broken[i]:
            fresh = True
            continue
        if fresh or starts[i]:
            runs.append([])
        runs[-1].append(i)
        fresh = False
    return runs


# -- terminal


def braille(traces: Sequence[Trace], columns: int, rows: int, span: tuple[float, float],
            bounds: tuple[float, float]) -> list[list[Cell]]:
    """Return `rows` of `columns` cells; where two traces meet, the later one gives the cell its colour."""
    (low_s, high_s), (low, high) = span, bounds
    width, height = 2 * columns, 4 * rows
    dots = np.zeros((height, width), np.int16)
    for number, trace in enumerate(traces, start=1):
        series = thinned(trace.series, low_s, (high_s - low_s) / width, width)
        lows = series.values if series.lows is None else series.lows
        x = ((series.obt_s - low_s) / (high_s - low_s) * width).astype(np.int64)
        with np.errstate(invalid="ignore"):
            tops, ends = (np.clip((high - v) / (high - low) * height, 0, height - 1) for v in (series.values, lows))
        for run in _runs(series):
            last: tuple[int, int] | None = None
            for i in run:
                col = int(x[i])
                if not 0 <= col < width:
                    last = None
                    continue
                top, end = int(tops[i]), int(ends[i])
                if last is not None:
                    _stroke(dots, last, (col, top), number, trace.ahead)
                if not trace.ahead or col % 4 < 2:
                    dots[top : end + 1, col] = number
                last = (col, end)
    squares = dots.reshape(rows, 4, columns, 2)
    bits = ((squares > 0) * _BRAILLE[:, np.newaxis, :]).sum(axis=(1, 3)).tolist()
    owners = squares.max(axis=(1, 3)).tolist()
    return [[Cell(chr(0x2800 + b) if b else " ", owner - 1) for b, owner in zip(row, own, strict=True)]
            for row, own in zip(bits, owners, strict=True)]


def _stroke(dots: npt.NDArray[np.int16], start: tuple[int, int], end: tuple[int, int], number: int,
            dashed: bool) -> None:
    """Join two dots."""
    right, down = end[0] - start[0], end[1] - start[1]
    steps = max(abs(right), abs(down))
    for k in range(1, steps):
        col = start[0] + round(right * k / steps)
        if not dashed or col % 4 < 2:
            dots[start[1] + round(down * k / steps), col] = number

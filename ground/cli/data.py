"""`ground plot`, `ground export`, `ground report`: what an archive holds, as pictures, tables and pages."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from flightsw.dictionary import parameters
from flightsw.dictionary.telemetry import POINT_BY_NAME
from flightsw.errors import LinkError, StoreError
from ground import export, passes, report
from ground.archive import Archive
from ground.chart import Limit, Trace, braille, scale, svg, ticks, time_ticks, window
from ground.cli.options import EXIT_COMPLETED, EXIT_REJECTED, Commands, instant
from ground.watch import utc_text

_SGR = ("94", "91", "92", "95", "93", "96")


def add_plot(commands: Commands) -> None:
    """Add `ground plot`."""
    parser = commands.add_parser(
        "plot", help="plot points over time", epilog="exit codes: 0 plotted, 1 nothing to plot, 2 wrong use, 4 trouble",
        description="Plot points of an archive on the terminal, or as SVG with --out. Nothing is left out: where there "
        "are more samples than room, the least and greatest of each stretch are drawn.")
    parser.add_argument("points", nargs="+", metavar="POINT", help="names as `ground show latest` prints them")
    _add_span(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="SVG file in place of the terminal")
    parser.add_argument("--json", action="store_true", help="the plotted numbers, one JSON object a point")
    parser.set_defaults(run=_plot)


def add_export(commands: Commands) -> None:
    """Add `ground export`."""
    parser = commands.add_parser(
        "export", help="write telemetry, events or commands as CSV, JSON lines or Parquet",
        epilog="exit codes: 0 done, 1 no rows, 2 wrong use, 4 trouble",
        description="Write samples of points (all where none is named), `events` or `commands`. A missing value is an "
        "empty cell, never a number.")
    parser.add_argument("what", nargs="*", metavar="WHAT", help="points, or events, or commands")
    _add_span(parser)
    parser.add_argument("--format", choices=export.FORMATS, help="csv, or by the end of FILE's name")
    parser.add_argument("--out", type=Path, metavar="FILE", help="file in place of standard output")
    parser.set_defaults(run=_export)


def add_report(commands: Commands) -> None:
    """Add `ground report`."""
    parser = commands.add_parser(
        "report", help="write what happened in a pass or on a day as HTML with plots",
        epilog="exit codes: 0 written, 1 nothing received then, 2 wrong use, 4 trouble",
        description="Write one HTML file: limits and how near they came, plots, commands, procedures, jobs, events.")
    parser.add_argument("what", metavar="PASS|DAY",
                        help="latest (the last pass), a moment in a pass (ISO 8601 or Unix seconds), "
                        "or a day: 2026-03-20")
    parser.add_argument("--archive", type=Path, required=True, metavar="FILE", help="the archive")
    parser.add_argument("--mission", type=Path, metavar="FILE", help="mission file, for eclipses from its elements")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to (report-WHAT.html)")
    parser.add_argument("--json", action="store_true", help="one JSON object that names the file")
    parser.set_defaults(run=_report)


def _add_span(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--archive", type=Path, required=True, metavar="FILE", help="the archive")
    parser.add_argument("--since", type=instant, default=-math.inf, metavar="TIME",
                        help="from then on: ISO 8601 UTC or Unix seconds, on-board time")
    parser.add_argument("--until", type=instant, default=math.inf, metavar="TIME", help="before then")


def _plot(options: argparse.Namespace) -> int:
    with Archive(options.archive, read_only=True) as archive:
        unknown = [point for point in options.points if point not in archive.points]
        if unknown:
            raise LinkError(f"no point {unknown[0]!r} in archive {archive.path}; `ground show latest` lists them")
        traces = [Trace(p, archive.decimated(p, options.since, options.until)) for p in options.points]
        known = archive.parameters()
    rows = [POINT_BY_NAME[p] for p in options.points if p in POINT_BY_NAME]
    unit = ", ".join(dict.fromkeys(row.unit for row in rows if row.unit))
    limits = [Limit(name, known.get(name, parameters.BY_NAME[name].default))
              for name in dict.fromkeys(n for row in rows for n in (row.upper, row.lower) if n)]
    if not any(np.isfinite(trace.series.values).any() for trace in traces):
        print("ground plot: nothing received then", file=sys.stderr)
        return EXIT_REJECTED
    if options.json:
        for trace in traces:
            lows = trace.series.lows
            print(json.dumps({"point": trace.name, "obt_s": trace.series.obt_s.tolist(),
                              "value": _listed(trace.series.values), "low": None if lows is None else _listed(lows)}))
    elif options.out:
        _write(options.out, svg(traces, unit, limits=limits))
    else:
        _print_plot(traces, unit, limits)
    return EXIT_COMPLETED


def _listed(values: np.ndarray) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _print_plot(traces: list[Trace], unit: str, limits: list[Limit]) -> None:
    size, span, bounds = shutil.get_terminal_size(), window(traces), scale(traces, limits)
    columns, rows = max(20, size.columns - 11), max(5, min(20, size.lines - 4))
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    marks = {int((bounds[1] - t) / (bounds[1] - bounds[0]) * rows): f"{t:g}" for t in ticks(*bounds, rows // 3)}
    names = "  ".join(_coloured(t.name, i, colour) for i, t in enumerate(traces))
    print(f"{names}  [{unit}]  {utc_text(span[0])} to {utc_text(span[1])}")
    for r, row in enumerate(braille(traces, columns, rows, span, bounds)):
        print(f"{marks.get(r, ''):>9} {'┤' if r in marks else '│'}"
              + "".join(_coloured(c.char, c.trace, colour) if c.trace >= 0 else c.char for c in row))
    axis = [" "] * columns
    for at_s, label in time_ticks(*span, columns // 16):
        c = int((at_s - span[0]) / (span[1] - span[0]) * columns) - len(label) // 2
        if 0 <= c <= columns - len(label):
            axis[c : c + len(label)] = label
    print(" " * 11 + "".join(axis).rstrip())


def _coloured(text: str, index: int, colour: bool) -> str:
    return f"\x1b[{_SGR[index % len(_SGR)]}m{text}\x1b[0m" if colour else text


def _export(options: argparse.Namespace) -> int:
    form = options.format or (options.out.suffix.lstrip(".") if options.out else "csv")
    if form not in export.FORMATS:
        raise LinkError(f"format {form!r}; known: {', '.join(export.FORMATS)}")
    with Archive(options.archive, read_only=True) as archive:
        names, rows = export.table(archive, options.what, options.since, options.until)
        if form == "parquet":
            if options.out is None:
                raise LinkError("Parquet goes into a file: give --out FILE")
            count = export.write_parquet(names, rows, options.out)
        elif options.out:
            try:
                with options.out.open("w", encoding="utf-8", newline="") as out:
                    count = export.write_text(names, rows, form, out)
            except OSError as error:
                raise StoreError(f"{options.out}: {error.strerror}") from error
        else:
            count = export.write_text(names, rows, form, sys.stdout)
    return EXIT_COMPLETED if count else EXIT_REJECTED


def _report(options: argparse.Namespace) -> int:
    sky = passes.load(options.mission) if options.mission else None
    with Archive(options.archive, read_only=True) as archive:
        title, stretch = _stretch(archive, options.what)
        if stretch is None:
            print(f"ground report: {title}: nothing was received", file=sys.stderr)
            return EXIT_REJECTED
        page = report.write(archive, title, stretch, sky)
    out = options.out or Path(f"report-{options.what.replace(':', '')}.html")
    _write(out, page)
    print(json.dumps({"file": str(out), "title": title}) if options.json else f"{title}: {out}")
    return EXIT_COMPLETED


def _stretch(archive: Archive, what: str) -> tuple[str, report.Stretch | None]:
    """Return title and time of what is to be reported."""
    if what == "latest":
        last_s = archive.last_reception_s()
        one = report.pass_at(archive, last_s) if math.isfinite(last_s) else None
        return "Latest pass" if one is None else f"Pass of {utc_text(one.from_s)}", one
    try:
        day = datetime.strptime(what, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
    except ValueError:
        try:
            at_s = instant(what)
        except argparse.ArgumentTypeError as error:
            raise LinkError(str(error)) from error
        one = report.pass_at(archive, at_s)
        return f"Pass of {utc_text(one.from_s)}", one
    times = archive.reception_times(day, day + 86_400.0)
    return f"Day {what}", report.Stretch(float(times[0]), float(times[-1])) if times.size else None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error

"""What happened in a pass or on a day, as one HTML file with plots that needs nothing else.

Owns wording and layout of the report; everything in it is read from the archive. A pass is a stretch of reception with
no pause longer than `PAUSE_S`; what the satellite stored and sent then is of the time before it, so plots reach back
over the telemetry that came.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flightsw.dictionary import parameters
from flightsw.dictionary.events import Severity
from flightsw.dictionary.telemetry import HOUSEKEEPING
from flightsw.errors import LinkError
from flightsw.state import Mode
from ground.archive import Archive
from ground.chart import Limit, Shade, Trace, svg
from ground.passes import Sky
from ground.watch import command_text, utc_text

PAUSE_S = 300.0
_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #222; max-width: 1000px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 22px; margin-bottom: 0 } h2 { font-size: 16px; margin: 1.8em 0 .4em; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: 2px 10px 2px 0; vertical-align: top }
th { font-weight: 600; color: #666 } td.n { text-align: right; font-variant-numeric: tabular-nums }
.high, .bad { color: #b00020; font-weight: 600 } .medium { color: #9a6700 } .quiet { color: #777 }
.facts { display: flex; flex-wrap: wrap; gap: .6em 2.2em; margin: 1em 0 } .facts b { display: block; font-size: 20px }
svg { border: 1px solid #eee; margin: .3em 0 } @media print { body { margin: 0 } }
"""
_PLOTS = (
    ("Charge", "frac", ("battery_soc_frac", "battery_low_frac"), ("battery_floor_frac", "battery_cutoff_frac")),
    ("Power", "W", ("array_w", "bus_w", "budget_w"), ()),
    ("Temperatures", "degC", ("plate_c", "radiator_c", "battery_c"),
     ("plate_max_c", "radiator_max_c", "battery_max_c")),
    ("Junctions", "degC", tuple(f"die{i}_c" for i in range(8)), ("die_max_c",)),
    ("Nodes", "W", tuple(f"node{i}_w" for i in range(8)), ()),
)


class Stretch(NamedTuple):
    """A stretch of reception, Unix seconds."""

    from_s: float
    to_s: float


def receptions(archive: Archive, since_s: float = -math.inf, until_s: float = math.inf) -> list[Stretch]:
    """Return the passes that an archive holds, as it received them."""
    times = archive.reception_times(since_s, until_s)
    if not times.size:
        return []
    breaks = np.flatnonzero(np.diff(times) > PAUSE_S)
    firsts, lasts = np.append(0, breaks + 1), np.append(breaks, times.size - 1)
    return [Stretch(float(times[a]), float(times[b])) for a, b in zip(firsts, lasts, strict=True)]


def pass_at(archive: Archive, at_s: float) -> Stretch:
    """Return the pass that a moment lies in; LinkError names those near it."""
    found = receptions(archive, at_s - 86_400.0, at_s + 86_400.0)
    for one in found:
        if one.from_s - PAUSE_S <= at_s <= one.to_s + PAUSE_S:
            return one
    near = ", ".join(utc_text(one.from_s) for one in found) or "none within a day"
    raise LinkError(f"no reception at {utc_text(at_s)} in archive {archive.path}; passes: {near}")


def write(archive: Archive, title: str, stretch: Stretch, sky: Sky | None = None) -> str:
    """Return the report of a stretch of reception as HTML."""
    since_s, until_s = stretch.from_s, math.nextafter(stretch.to_s, math.inf)
    obt = archive.obt_span(since_s, until_s)
    packets = archive.reception_times(since_s, until_s).size
    events = [e for e in archive.events(obt[0] - 86_400.0, obt[1] + 1.0) if since_s <= e.received_s < until_s]
    commands = archive.commands(since_s, until_s)
    gaps = [gap for gap in archive.gaps() if since_s <= gap.received_s < until_s]
    lost = sum(gap.lost or 0 for gap in gaps if gap.source == "TM frames")
    jobs = Counter(e.name for e in events)
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_e(title)}</title><style>{_STYLE}</style>",
        f"<h1>{_e(title)}</h1><p class=quiet>Received {utc_text(stretch.from_s)} to {utc_text(stretch.to_s)}; "
        f"telemetry of {utc_text(obt[0])} to {utc_text(obt[1])}.</p>",
        "<div class=facts>", *(f"<div><b>{value}</b>{_e(label)}</div>" for label, value in (
            ("packets", f"{packets:,}"), ("frames lost", f"{lost:,}"), ("commands", len(commands)),
            ("completed", sum(c.state == "completed" for c in commands)), ("jobs promised", jobs["job_promised"]),
            ("refused", jobs["job_refused"]), ("finished", jobs["job_finished"]),
            ("events of note", sum(e.severity >= Severity.MEDIUM for e in events)))), "</div>",
        _limits(archive, obt), _plots(archive, obt, sky),
    ]
    if commands:
        parts.append("<h2>Commands</h2><table><tr><th>sent<th>command<th>state<th>stages</tr>")
        for c in commands:
            stages = " ".join(f"1,{s.stage} {s.received_s - c.sent_s:.1f} s" for s in c.stages)
            why = "; ".join(s.text for s in c.stages if s.text)
            bad = "" if c.state == "completed" else " class=bad"
            parts.append(f"<tr><td>{utc_text(c.sent_s)[11:-1]}<td>{_e(command_text(c.verb, c.args))}"
                         f"<td{bad}>{_e(c.state)}<td>{_e(stages)} {_e(why)}</tr>")
        parts.append("</table>")
    notes = archive.notes(since_s, until_s)
    if notes:
        parts.append("<h2>Procedures and notes</h2><table>" + "".join(
            f"<tr><td>{utc_text(n.at_s)[11:-1]}<td>{_e(n.source)}<td>{_e(n.text)}</tr>" for n in notes) + "</table>")
    board = [e for e in events if e.name in {"job_refused", "job_failed", "job_withdrawn", "job_expired"}]
    if board:
        parts.append("<h2>Jobs that were not done, and why</h2><table>" + "".join(
            f"<tr><td>{utc_text(e.obt_s)[11:-1]}<td>{_e(e.text)}</tr>" for e in board) + "</table>")
    parts.append("<h2>Events</h2><table>" + "".join(
        f"<tr class={e.severity.name.lower()}><td>{utc_text(e.obt_s)[5:-1].replace('T', ' ')}<td>{e.severity.name}"
        f"<td>{_e(e.text)}<td>{'' if e.acknowledged_s is None else 'acknowledged'}</tr>" for e in events) + "</table>")
    if gaps:
        parts.append("<h2>What did not arrive</h2><table>" + "".join(
            f"<tr><td>{utc_text(g.received_s)[11:-1]}<td>{_e(g.source)}<td>"
            f"{'unknown number' if g.lost is None else g.lost}</tr>" for g in gaps) + "</table>")
    return "".join(parts) + "</html>\n"


def _plots(archive: Archive, obt: tuple[float, float], sky: Sky | None) -> str:
    span = (obt[0], max(obt[1], obt[0] + 60.0))
    shades = [Shade(*edges) for edges in _eclipses(archive, span, sky)]
    values = archive.parameters()
    parts = ["<h2>Telemetry</h2><p class=quiet>Eclipses are shaded; a line breaks where nothing was received.</p>"]
    for title, unit, names, limits in _PLOTS:
        found = [Trace(name, archive.decimated(name, span[0], math.nextafter(span[1], math.inf)))
                 for name in names if name in archive.points]
        traces = [trace for trace in found if np.isfinite(trace.series.values).any()]
        if traces:
            rows = [Limit(name, values.get(name, parameters.BY_NAME[name].default)) for name in limits]
            parts.append(svg(traces, unit, title=title, shades=shades, limits=rows, span=span))
    return "".join(parts)


def _eclipses(archive: Archive, span: tuple[float, float], sky: Sky | None) -> Sequence[tuple[float, float]]:
    if sky is not None:
        return [(e.penumbra_entry_unix_s, e.penumbra_exit_unix_s) for e in sky.orbit.eclipses(*span)]
    if "sun_frac" not in archive.points:
        return []
    sun = archive.series("sun_frac", *span)
    dark = np.flatnonzero(np.diff(np.concatenate(([0], (sun.values < 0.5).astype(np.int8), [0]))))
    ends = np.append(sun.obt_s, sun.obt_s[-1:])
    return [(float(ends[a]), float(ends[b])) for a, b in zip(dark[::2], dark[1::2], strict=True)]


def _limits(archive: Archive, obt: tuple[float, float]) -> str:
    """Say for each limited point how near it came, by the limits as reported last."""
    values, rows = archive.parameters(), []
    for point in (p for row in HOUSEKEEPING for p in row.points if p.upper or p.lower):
        if point.name not in archive.points:
            continue
        found = archive.decimated(point.name, obt[0], math.nextafter(obt[1], math.inf))
        lows = found.values if found.lows is None else found.lows
        if not np.isfinite(found.values).any():
            continue
        for name, sign, nearest in ((point.upper, 1.0, np.nanmax(found.values)), (point.lower, -1.0, np.nanmin(lows))):
            if name:
                limit = values.get(name, parameters.BY_NAME[name].default)
                beyond = sign * (float(nearest) - limit)
                bad = " class=bad" if beyond > 0.0 else ""
                cells = (f"<td>{_e(point.name)}<td class=n>{float(nearest):.3f} {_e(point.unit)}<td>{_e(name)}"
                         f"<td class=n>{limit:g}<td{bad}>{'CROSSED' if beyond > 0.0 else 'kept'}")
                rows.append((beyond, f"<tr>{cells}</tr>"))
    if "mode" in archive.points:
        seen = {int(v) for v in archive.series("mode", obt[0], obt[1] + 1.0).values if math.isfinite(v)}
        modes = ", ".join(m.name for m in Mode if int(m) in seen)
    else:
        modes = "unknown"
    rows.sort(key=lambda row: -row[0])
    unit_note = f"<p>Modes: {_e(modes)}.</p>"
    return (f"<h2>Limits</h2>{unit_note}<table><tr><th>point<th>nearest<th>limit<th>value<th></tr>"
            + "".join(row for _, row in rows) + "</table>") if rows else unit_note


def _e(text: object) -> str:
    return html.escape(str(text))



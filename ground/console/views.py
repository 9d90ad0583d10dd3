"""What the console shows, as lines of styled text: one function a page, from the model and the size of the screen.

Owns layout, wording and colour. Pure: the same model and size give the same lines, so a page is tested as text and
the application only has to repaint lines that changed. Colour is never the only sign: `!` marks a crossed limit, `~` a
value near one, `?` a stale one.
"""

from __future__ import annotations

import itertools
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flightsw.dictionary.events import Severity
from flightsw.dictionary.telemetry import HOUSEKEEPING, POINT_BY_NAME, Point
from ground.archive import CommandEntry, EventEntry, Series
from ground.chart import Trace, braille, scale, ticks, time_ticks
from ground.console.model import Job, Model, open_jobs
from ground.passes import Contact
from ground.station import HousekeepingReport
from ground.watch import Level, age_text, command_text, limit_level, utc_text, value_text

Span = tuple[str, str]
Line = list[Span]

PLAIN, DIM, BOLD, TITLE = "", "dim", "bold", "bold cyan"
BLUE, GREEN, YELLOW, RED = "#5fafff", "#87d75f", "#ffd75f", "#ff5f5f"  # of the 256 that every terminal has
CYAN, VIOLET, ORANGE = "#5fd7d7", "#d787ff", "#ffaf5f"
_LEVEL_STYLE = {Level.GOOD: "", Level.NEAR: "yellow", Level.CROSSED: "bold red", Level.MISSING: "magenta",
                Level.STALE: "dim italic"}
_SEVERITY_STYLE = {Severity.INFO: "", Severity.LOW: "cyan", Severity.MEDIUM: "yellow", Severity.HIGH: "bold red"}
_JOB_STYLE = {"running": "bold green", "promised": "green", "held": "yellow", "queued": "cyan", "refused": "yellow",
              "rejected": "yellow", "failed": "bold red", "withdrawn": "bold red", "expired": "yellow",
              "finished": "dim", "cancelled": "dim"}
_STATE_STYLE = {"completed": "green", "accepted": "cyan", "sent": "cyan", "rejected": "bold red", "failed": "bold red",
                "no answer": "yellow", "not sent": "bold red"}
_ECLIPSE = " on grey19"
_MODE_STYLE = {"COMPUTE": "bold black on green", "STANDBY": "bold black on cyan", "SAFE": "bold black on yellow"}
_MISSION_TIME = re.compile(r"T\+(\d+) s")
_PAST_S, _AHEAD_S = 5700.0, 5700.0
_BAR = 24


class Status(NamedTuple):
    """What only the owner of the port knows: its name, trouble, and counts of frames."""

    source: str
    trouble: str = ""
    bad: int = 0
    lost_frames: int = 0
    mode: str = "live"  # live, following, replay
    rate: float = 1.0  # of a replay: 0 is paused, infinite is at its end


# -- pieces


def cut(line: Line, width: int) -> Line:
    """Return a line cut to a width, with nothing in it that steers a terminal."""
    out: Line = []
    for text, style in line:
        if width <= 0:
            break
        plain = "".join(c if c.isprintable() else "?" for c in text[:width])
        out.append((plain, style))
        width -= len(plain)
    return out


def fill(line: Line, width: int) -> Line:
    """Return a line of exactly a width."""
    made = cut(line, width)
    return [*made, (" " * (width - sum(len(text) for text, _ in made)), PLAIN)]


def beside(left: Sequence[Line], right: Sequence[Line], left_width: int, rows: int) -> list[Line]:
    """Put two columns side by side, two characters apart."""
    return [fill(left[i] if i < len(left) else [], left_width) + [("  ", PLAIN)] + (right[i] if i < len(right) else [])
            for i in range(rows)]


def rule(title: str, width: int, note: str = "") -> Line:
    """Return the line over a block."""
    tail = f" {note} " if note else ""
    dashes = max(0, width - len(title) - 4 - len(tail))
    return [("─ ", DIM), (title, TITLE), (" " + "─" * dashes, DIM), (tail, DIM), ("─", DIM)]


def clock_text(seconds: float) -> str:
    """Return a time span as a clock shows it."""
    whole = max(0, int(seconds))
    if whole >= 86_400:
        return f"{whole // 86_400} d {whole % 86_400 // 3600:02d}:{whole % 3600 // 60:02d}"
    return f"{whole // 3600:02d}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def time_text(unix_s: float) -> str:
    """Return the time of day, UTC."""
    return utc_text(unix_s)[11:-1]


# -- header


def header(model: Model, status: Status, width: int) -> list[Line]:
    """Two lines: mode, signal and link; then the pass clock. What is wrong with the line takes lines of its own."""
    now_s = model.now_s
    mode, stale = model.mode()
    text = mode.name if mode is not None else "unknown"
    style = "bold black on white" if stale else _MODE_STYLE.get(text, "bold reverse")
    first: Line = [(f" {text}{'?' if stale else ''} ", style),
                   (f" {utc_text(now_s)[:19].replace('T', ' ')}Z", BOLD)]
    if model.heard_s is None:
        first.append(("  no signal", "bold yellow"))
    else:
        age_s = max(0.0, now_s - model.heard_s)
        first.append((f"  heard {age_text(age_s)} ago", "bold yellow" if age_s > 60.0 else "green"))
    if status.mode == "replay":
        rate = "paused" if not status.rate else f"x{status.rate:g}" if math.isfinite(status.rate) else "at its end"
        first.append((f"  REPLAY {rate}", "bold magenta"))
    open_events = sum(e.severity >= Severity.MEDIUM and e.acknowledged_s is None for e in model.events)
    if open_events:
        first.append((f"  {open_events} to acknowledge", "bold red"))
    first.append((f"  packets {model.packets}"
                  + (f"  bad {status.bad}" if status.bad else "")
                  + (f"  lost frames {status.lost_frames}" if status.lost_frames else "") + f"  {status.source}", DIM))
    wrong = textwrap.wrap(status.trouble, width - 2)[:3]
    return [cut(first, width), cut(pass_clock(model, model.sky_s, width), width),
            *([(part, "bold white on red") for part, _ in fill([(f" {line}", PLAIN)], width)] for line in wrong)]


def pass_clock(model: Model, now_s: float, width: int) -> Line:
    """Say which station sees the satellite until when and how well, or which will next."""
    if model.sky is None:
        seconds, stale = model.value("pass_in_s")
        if seconds is None or not math.isfinite(seconds):
            return [(" no passes: start with --mission for the pass clock", DIM)]
        doubt = "?" if stale else ""
        if not seconds:
            return [(f" IN PASS, says the satellite{doubt}", "bold green")]
        return [(f" next pass in {clock_text(seconds)}, says the satellite{doubt}", BOLD)]
    contacts = model.sky.upcoming(now_s)
    if not contacts:
        return [(" no pass in the next day", "yellow")]
    first = contacts[0]
    if first.aos_s > now_s:
        return [(f" AOS {first.site.name} in {clock_text(first.aos_s - now_s)}", BOLD),
                (f"  at {time_text(first.aos_s)}Z, {first.duration_s / 60.0:.0f} min,"
                 f" {first.peak_elevation_deg:.0f}° high,"
                 f" margin {first.rise.margin_db:+.0f} to {first.peak.margin_db:+.0f} dB", PLAIN)]
    look = model.sky.look(first.site, now_s)
    done = (now_s - first.aos_s) / first.duration_s
    arrow = "↑" if now_s < first.peak_s else "↓"
    line: Line = [(f" PASS {first.site.name} ", "bold black on green"),
                  (f" LOS in {clock_text(first.los_s - now_s)[3:]} ", BOLD),
                  ("█" * int(done * _BAR), "green"), ("░" * (_BAR - int(done * _BAR)), DIM),
                  (f" {look.elevation_deg:.0f}°{arrow} margin {look.margin_db:+.1f} dB", BOLD)]
    if width >= 100:
        line.append((f"  azimuth {look.azimuth_deg:.0f}°, {look.range_m / 1e3:,.0f} km,"
                     f" peak {first.peak_elevation_deg:.0f}°", PLAIN))
    return line


# -- values


def cell(model: Model, report: HousekeepingReport, point: Point, value: float, width: int, label: str = "") -> Line:
    """Return one value: name, number, unit and mark in `width` characters."""
    stale = model.is_stale(report)
    level = Level.STALE if stale else limit_level(point, value, model)[0]
    text = value_text(point, value)
    shown = f"{text} {point.unit}".rstrip() if text != "missing" else text
    room = width - 2 - len(shown)
    name = (label or point.name)[:room]
    return [(name, DIM if stale else PLAIN), (" " * (room - len(name) + 1), PLAIN),
            (shown, _LEVEL_STYLE[level] or BOLD), (level.mark, _LEVEL_STYLE[level])]


def values(model: Model, width: int) -> list[Line]:
    """All structures with all their points, in columns; then the limits that are crossed."""
    across = max(1, width // 39)
    room = width // across - 1
    lines: list[Line] = crossed(model)
    for row in HOUSEKEEPING:
        report = model.received.get(row.sid)
        if report is None:
            if row.period_s:
                lines.append(cut([("─ ", DIM), (row.name, TITLE), (" not received yet", DIM)], width))
            continue
        age = f"{age_text(max(0.0, model.now_s - report.received_s))} ago"
        lines.append(rule(f"{row.name} ({row.sid})", width, ("STALE, " if model.is_stale(report) else "") + age))
        shown = [(p, v) for p, v in zip(row.points, report.values, strict=True)]
        if row.name == "ahead_curves":
            shown = shown[:2]
        cells = [cell(model, report, point, value, room) for point, value in shown]
        down = -(-len(cells) // across)
        for i in range(down):
            line: Line = []
            for column in cells[i::down]:
                line += [*fill(column, room), (" ", PLAIN)]
            lines.append(line)
    return lines


def crossed(model: Model) -> list[Line]:
    """Name every crossed limit with value and threshold; a stale value crosses nothing."""
    lines: list[Line] = []
    for report in model.received.values():
        if model.is_stale(report):
            continue
        for point, value in zip(report.row.points, report.values, strict=True):
            level, limit = limit_level(point, value, model)
            if level is Level.CROSSED:
                lines.append([(f"! {point.name} {value_text(point, value)} {limit}", "bold red")])
    return lines


def nodes(model: Model, width: int) -> list[Line]:
    """One line a node that is there: draw, cap, junction, job."""
    lines: list[Line] = [rule("nodes", width)]
    for i in range(8):
        power, stale = model.value(f"node{i}_w")
        if power is None:
            continue
        cap, job, die = (model.value(name)[0] for name in (f"node{i}_cap_w", f"node{i}_job", f"die{i}_c"))
        level = limit_level(POINT_BY_NAME[f"die{i}_c"], die, model)[0]
        shown = f"{'?' if die is None else f'{die:.1f}'} degC"
        lines.append(cut([(f"{i} {power:>5.1f} W", DIM if stale else BOLD), (f" of {cap or 0.0:>4.1f}  ", DIM),
                          (f"{shown:>10}{level.mark}", DIM if stale else _LEVEL_STYLE[level] or BOLD),
                          (f" {job}" if job else "", "green")], width))
    return lines


_VITALS = (
    ("charge", "battery_soc_frac"), ("charge at least", "battery_low_frac"), ("array", "array_w"), ("bus", "bus_w"),
    ("compute budget", "budget_w"), ("battery", "battery_v"), ("current", "battery_a"), ("sun", "sun_frac"),
    ("cold plate", "plate_c"), ("radiator", "radiator_c"), ("battery temperature", "battery_c"), ("die 0", "die0_c"),
    ("die 1", "die1_c"), ("die 2", "die2_c"), ("die 3", "die3_c"), ("eclipse in", "eclipse_in_s"),
    ("sun in", "sun_in_s"),
    ("lowest charge ahead", "forecast_battery_min_frac"), ("thermal margin ahead", "forecast_margin_k"),
)


def vitals(model: Model, width: int, rows: int) -> list[Line]:
    """The values that an operator looks at first, in the order of their weight."""
    lines = crossed(model)[:3]
    for label, name in _VITALS:
        if len(lines) >= rows:
            break
        sid = next(row.sid for row in HOUSEKEEPING if any(p.name == name for p in row.points))
        report = model.received.get(sid)
        if report is None:
            gap = " " * max(1, width - len(label) - 10)
            lines.append(fill([(label, DIM), (gap, PLAIN), ("not heard", "magenta")], width))
            continue
        index = next(i for i, p in enumerate(report.row.points) if p.name == name)
        point, value = report.row.points[index], report.values[index]
        if point.unit == "s" and math.isfinite(value):
            doubt = model.is_stale(report)
            text = "now" if not value else clock_text(value)
            lines.append([(label, PLAIN), (" " * max(1, width - 1 - len(label) - len(text)), PLAIN),
                          (text, DIM if doubt else BOLD), ("?" if doubt else " ", DIM)])
        else:
            lines.append(cell(model, report, point, value, width, label))
    return lines


# -- plots


def plot(model: Model, title: str, unit: str, curves: Sequence[tuple[Trace, str]], width: int, rows: int,
         now_s: float) -> list[Line]:
    """One plot of `rows` lines: rule with legend, dots, time axis; eclipses shaded, the forecast dashed after now."""
    label = 7
    columns, high_rows = max(8, width - label), max(2, rows - 2)
    span = (now_s - _PAST_S, now_s + _AHEAD_S)
    inside = [(trace._replace(series=_inside(trace.series, span)), style) for trace, style in curves]
    shown = [(trace, style) for trace, style in inside if trace.series.obt_s.size]
    head: Line = [("─ ", DIM), (title, TITLE), (f" {unit} " if unit else " ", DIM)]
    head += [(f" {trace.name}", style) for trace, style in shown]
    used = sum(len(text) for text, _ in head)
    head.append((" " + "─" * max(0, width - used - 1), DIM))
    if not shown:
        return [cut(head, width), [(" nothing received yet", DIM)]] + [[] for _ in range(rows - 2)]
    bounds = scale([trace for trace, _ in shown])
    grid = braille([trace for trace, _ in shown], columns, high_rows, span, bounds)
    at_now = int(columns * _PAST_S / (_PAST_S + _AHEAD_S))
    dark = np.zeros(columns, np.bool_)
    for low_s, high_s in model.eclipses(*span):
        a, b = ((s - span[0]) / (span[1] - span[0]) * columns for s in (low_s, high_s))
        dark[max(0, round(a)) : max(0, round(b))] = True
    marks = {min(high_rows - 1, max(0, int((bounds[1] - t) / (bounds[1] - bounds[0]) * high_rows))): f"{t:g}"
             for t in ticks(*bounds, max(3, high_rows // 2))}
    lines: list[Line] = [cut(head, width)]
    for r, row in enumerate(grid):
        line: Line = [(f"{marks.get(r, ''):>{label - 2}} ", DIM), ("┤" if r in marks else "│", DIM)]
        for c, (char, number) in enumerate(row):
            style = DIM if number < 0 else shown[number][1]
            line.append(("┊" if char == " " and c == at_now else char, style + _ECLIPSE if dark[c] else style))
        lines.append(_joined(line))
    axis = [" "] * columns
    for at_s, text in time_ticks(*span, max(2, columns // 12)):
        c = int((at_s - span[0]) / (span[1] - span[0]) * columns) - len(text) // 2
        if 0 <= c <= columns - len(text) and abs(c + len(text) / 2 - at_now) > len(text) / 2 + 3:
            axis[c : c + len(text)] = text
    axis[at_now - 1 : at_now + 2] = "now"
    lines.append([(" " * label, PLAIN), ("".join(axis), DIM)])
    return lines[:rows]


def charge_plot(model: Model, width: int, rows: int, now_s: float) -> list[Line]:
    """Charge, and the on-board forecast of it: planned and worst."""
    curves = [(Trace("measured", model.trend("battery_soc_frac")), BLUE)]
    if model.ahead is not None:
        curves += [(Trace("worst", model.ahead.charge_worst, ahead=True), RED),
                   (Trace("planned", model.ahead.charge, ahead=True), CYAN)]
    return plot(model, "charge", "frac", curves, width, rows, now_s)


def temperature_plot(model: Model, width: int, rows: int, now_s: float) -> list[Line]:
    """Hottest junction, plate, radiator and battery, and the forecast of the first."""
    curves = [(Trace("battery", model.trend("battery_c")), BLUE), (Trace("radiator", model.trend("radiator_c")), GREEN),
              (Trace("plate", model.trend("plate_c")), VIOLET), (Trace("die", model.hottest()), RED)]
    if model.ahead is not None:
        curves.append((Trace("planned", model.ahead.hottest, ahead=True), ORANGE))
    title, unit = ("temperature", "degC") if width >= 60 else ("temp", "")
    return plot(model, title, unit, curves, width, rows, now_s)


def power_plot(model: Model, width: int, rows: int, now_s: float) -> list[Line]:
    """Array, bus, all nodes together, and what the plan affords."""
    curves = [(Trace("budget", model.trend("budget_w")), CYAN), (Trace("array", model.trend("array_w")), YELLOW),
              (Trace("bus", model.trend("bus_w")), GREEN), (Trace("nodes", model.nodes_w()), RED)]
    return plot(model, "power", "W", curves, width, rows, now_s)


Plot = Callable[[Model, int, int, float], list[Line]]
Draw = Callable[[Model, Plot, int, int], list[Line]]


def draw_now(model: Model, plot: Plot, width: int, rows: int) -> list[Line]:
    """Draw a plot as of now; the application keeps what was drawn for a while."""
    return plot(model, width, rows, model.obt_s)


def plots(model: Model, width: int, rows: int, draw: Draw = draw_now) -> list[Line]:
    """The three plots below one another."""
    each = max(4, rows // 3)
    return [*draw(model, charge_plot, width, each), *draw(model, temperature_plot, width, each),
            *draw(model, power_plot, width, rows - 2 * each)]


def _inside(series: Series, span: tuple[float, float]) -> Series:
    keep = (series.obt_s >= span[0]) & (series.obt_s <= span[1])
    return Series(series.obt_s[keep], series.values[keep])


def _joined(line: Line) -> Line:
    """Join neighbours of one style."""
    out: Line = []
    for text, style in line:
        if out and out[-1][1] == style:
            out[-1] = (out[-1][0] + text, style)
        else:
            out.append((text, style))
    return out


# -- jobs, events, commands, passes


_COUNTED = ("running", "promised", "held", "queued", "refused", "rejected", "failed", "finished")


def jobs(model: Model, width: int) -> list[Line]:
    """The job board: counts, then one line a job with state, name, node, due time and what was said last."""
    return [jobs_rule(model, width), *(job_line(model, job, width) for job in open_jobs(list(model.jobs.values())))]


def jobs_rule(model: Model, width: int) -> Line:
    """Return the line over the job board, with its counts."""
    states = [job.state for job in model.jobs.values()]
    counts = "  ".join(f"{states.count(s)} {s}" for s in _COUNTED if states.count(s))
    return rule("jobs", width, counts or "none told of yet")


def job_line(model: Model, job: Job, width: int) -> Line:
    """Return one job's line; a refusal says why."""
    due = model.utc_of(job.due_s) if job.due_s is not None and job.is_open else None
    when = f"by {time_text(due)}" if due is not None else f"at {time_text(job.obt_s)}"
    node = f"node {job.node}" if job.node is not None and job.state == "running" else ""
    text = job.text.removeprefix("Promise of ").removeprefix("Job ").removeprefix("job ").partition(" ")[2]
    text = text.removeprefix(job.state).lstrip(":, ") if job.state != "running" else ""
    return cut([(f"{job.state:<9} ", _JOB_STYLE.get(job.state, "")), (f"{job.job_id:>10} ", BOLD),
                (f"{_name(model, job)[:16]:<16} ", PLAIN), (f"{when} ", PLAIN), (node, "green"), (text, DIM)], width)


def _name(model: Model, job: Job) -> str:
    return model.name_of(job).partition(" of ")[0]


def job_detail(model: Model, job: Job) -> str:
    """Return all that was said last of a job, mission times with the time of day."""
    name = model.name_of(job)
    return in_utc(model, f"{utc_text(job.obt_s)}  {f'{name}: ' if name else ''}{job.text}")


def in_utc(model: Model, said: str) -> str:
    """Put the time of day beside each mission time (T+) in what the satellite said."""
    def with_utc(found: re.Match[str]) -> str:
        moment = model.utc_of(float(found[1]))
        return found[0] if moment is None else f"{found[0]} ({utc_text(moment)})"

    return _MISSION_TIME.sub(with_utc, said)


def chosen(lines: Sequence[Line], index: int, detail: str, width: int, rows: int) -> list[Line]:
    """Show a list around the chosen line, and that line's whole text below."""
    wrapped = textwrap.wrap("".join(c if c.isprintable() else "?" for c in detail), width - 2)[:4] or [""]
    room = max(1, rows - len(wrapped) - 1)
    first = max(0, min(index - room // 2, len(lines) - room))
    shown = [[(text, "reverse") for text, _ in fill(line, width)] if i == index else line
             for i, line in enumerate(lines[first : first + room], start=first)]
    shown += [[] for _ in range(room - len(shown))]
    return [*shown, rule(f"{index + 1} of {len(lines)}" if lines else "none", width),
            *([(f" {text}", PLAIN)] for text in wrapped)]


def event_line(event: EventEntry, width: int) -> Line:
    """Return one event's line; `*` marks what nobody has acknowledged."""
    open_ = event.acknowledged_s is None and event.severity >= Severity.MEDIUM
    style = _SEVERITY_STYLE[event.severity] if event.acknowledged_s is None else DIM
    mark = "*" if open_ else "✓" if event.acknowledged_s is not None else " "
    return cut([(f"{mark} ", "bold red" if open_ else DIM), (f"{time_text(event.obt_s)} ", DIM),
                (f"{event.severity.name:<6} ", style), (event.text, style)], width)


def commands(model: Model, width: int, rows: int = 1 << 30) -> list[Line]:
    """Commands, the newest first, with each stage of verification and when it came."""
    lines: list[Line] = []
    for entry in reversed(model.commands):
        lines += command_lines(entry, width)
        if len(lines) >= rows:
            break
    return lines[:rows] or [[(" no command sent yet; press : to send one", DIM)]]


def command_lines(entry: CommandEntry, width: int) -> list[Line]:
    """Return a command and its stages, in two lines where one is too short; then why, where it went wrong."""
    line: Line = [(f"{time_text(entry.sent_s)} ", DIM), (command_text(entry.verb, entry.args), BOLD)]
    stages: Line = [("  sent", DIM)]
    for stage in entry.stages:
        stages.append((f" → {STAGE_NAME.get(stage.stage, f'1,{stage.stage}')} {stage.received_s - entry.sent_s:.1f} s",
                       "bold red" if stage.stage % 2 == 0 else "green"))
    if not entry.stages or entry.state in {"no answer", "not sent"}:
        stages.append((f" → {entry.state}", _STATE_STYLE.get(entry.state, "")))
    indent: Line = [("         ", PLAIN)]
    fits = sum(len(text) for text, _ in line + stages) <= width
    lines = [[*line, *stages]] if fits else [line, [*indent[:1], *stages]]
    why = next((f"{stage.text} (code {stage.code})" for stage in entry.stages if stage.stage % 2 == 0), "")
    lines += [[*indent, (part, "red")] for part in textwrap.wrap(why, max(20, width - 9))[:2]]
    return [cut(one, width) for one in lines]


STAGE_NAME = {1: "accepted", 2: "REJECTED", 3: "started", 4: "START FAILED", 5: "progress", 6: "PROGRESS FAILED",
              7: "completed", 8: "FAILED", 10: "ROUTING FAILED"}


def passes(model: Model, width: int) -> list[Line]:
    """The passes of the next day."""
    if model.sky is None:
        return [[(" start with --mission FILE to predict passes from its elements and stations", DIM)]]
    now_s = model.sky_s
    lines: list[Line] = [cut([(f"  {'station':<10} {'AOS (UTC)':<14} {'in':>9} {'min':>5} {'high':>5} {'azimuth':>11}"
                              f" {'margin dB':>11}", BOLD)], width)]
    return lines + [pass_line(contact, now_s, width) for contact in model.sky.upcoming(now_s)]


def pass_line(contact: Contact, now_s: float, width: int) -> Line:
    """Return one pass's line."""
    under_way = contact.aos_s <= now_s
    moment = datetime.fromtimestamp(contact.aos_s, UTC).strftime("%m-%d %H:%M:%S")
    wait = "now" if under_way else clock_text(contact.aos_s - now_s)
    return cut([(f"{'>' if under_way else ' '} {contact.site.name[:10]:<10} {moment:<14} {wait:>9} "
                 f"{contact.duration_s / 60.0:>5.1f} {contact.peak_elevation_deg:>4.0f}° "
                 f"{contact.rise.azimuth_deg:>4.0f}→{contact.peak.azimuth_deg:>3.0f}→{contact.fall.azimuth_deg:>3.0f} "
                 f" {contact.rise.margin_db:>+3.0f} to {contact.peak.margin_db:>+3.0f}",
                 "bold green" if under_way else PLAIN)], width)


def files(transfers: Sequence[Mapping[str, Any]], width: int) -> list[Line]:
    """File transfers as the owner of the port tells of them: how far, how fast, in which state."""
    if not transfers:
        return [[(" no transfers; : upload FILE sends one, : download NAME gets one", DIM)]]
    name_room, bar_room = (26, 20) if width >= 100 else (22, 8)
    titles = f" {'number':>6}   {'name':<{name_room}} {'':<{bar_room}} {'done':>4} {'size':>10} {'rate':>10} state"
    lines: list[Line] = [cut([(titles, BOLD)], width)]
    for one in transfers:
        size, done = one["size"], one["done"]
        share = done / size if size else float(one["state"] == "delivered")
        bar = int(bar_room * min(1.0, share))
        over = one["state"] in {"delivered", "failed", "cancelled"}
        style = {"delivered": "green", "failed": "bold red", "cancelled": "yellow"}.get(one["state"], "")
        rate = "" if over else f"{one['rate_octets_s'] / 1000.0:.1f} kB/s"
        state = one["state"] if one["condition"] in {"no_error", ""} else f"{one['state']}: {one['condition']}"
        numbers = f" {share:>4.0%} {'' if size is None else f'{size:,}':>10} {rate:>10} "
        lines.append(cut([(f" {one['transfer']:>6} {'↑' if one['direction'] == 'up' else '↓'} ", PLAIN),
                          (f"{one['name'] or '(not known yet)':<{name_room}.{name_room}} ", BOLD),
                          ("█" * bar, "green"), ("░" * (bar_room - bar), DIM), (numbers, PLAIN),
                          (state, style)], width))
    where = next((Path(one["path"]).parent for one in transfers if one["direction"] == "down" and one["path"]), None)
    return lines if where is None else [*lines, [], cut([(f" received files: {where}", DIM)], width)]


# -- overview


def overview(model: Model, width: int, rows: int, draw: Draw = draw_now) -> list[Line]:
    """Everything at once, as far as the screen reaches: vitals, plots, jobs, commands, events."""
    left = 34 if width < 100 else 40
    right = width - left - 2
    if width < 100 or rows < 30:
        top = max(8, rows - 9)
        lines = beside([rule("now", left), *vitals(model, left, top - 1)],
                       [*draw(model, charge_plot, right, (top + 1) // 2),
                        *draw(model, temperature_plot, right, top // 2)], left, top)
        lines += jobs(model, width)[:3]
        lines += [rule("commands", width), *commands(model, width, 1)]
        newest = [event_line(event, width) for event in itertools.islice(reversed(model.events), rows)]
        return [*lines, rule("events", width), *newest][:rows]
    top = rows - 17
    third = top // 3
    right_lines = [*draw(model, charge_plot, right, third), *draw(model, temperature_plot, right, third),
                   *draw(model, power_plot, right, top - 2 * third)]
    now = [rule("now", left), *vitals(model, left, top - 1)]
    lines = beside([*now, [], *nodes(model, left)] if top - len(now) > 4 else now, right_lines, left, top)
    half = width // 2 - 1
    board = jobs(model, half)[:8]
    history = [rule("commands", width - half - 2), *commands(model, width - half - 2, 7)]
    lines += beside(board, history, half, 8)
    newest = [event_line(event, width) for event in itertools.islice(reversed(model.events), rows)]
    return [*lines, rule("events", width), *newest][:rows]

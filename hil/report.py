"""One run as one HTML file: verdict, requirements, checks, plots, tables, and the command that flies it again.

Called by `hil run` after the flight. Reads a `Flight` and draws; it judges nothing. The file is complete in
itself (inline SVG, no script, nothing fetched), for the screen and for paper.
"""

from __future__ import annotations

import io
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from flightsw.dictionary.events import Severity
from flightsw.state import JobState
from hil import random_faults
from hil.faults import LIBRARY
from hil.provenance import commit, config_hash
from hil.run import Flight, JobHistory, refusals, stretches
from hil.verdict import Closure, Finding, Verdict, matrix

_POINTS = 1000
_EVENTS_MAX = 60
_WIDTH_IN = 10.6

# Okabe and Ito's colours: told apart by everybody, and in grey.
_BLUE, _ORANGE, _GREEN, _RED, _SKY, _PINK, _GREY, _INK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#8a8f98", "#1f2933")
_NIGHT = "#dde3ec"
_SHADES = ("grey is eclipse", "blue marks on top are ground contacts",
           "an orange line is where a fault began, the bar below it how long it lasted")
_STYLE: Any = {  # Any: matplotlib types the keys of its settings in its own way, which changes
    "svg.fonttype": "none", "svg.hashsalt": "report", "font.family": "sans-serif", "font.size": 9,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": _GREY, "axes.labelcolor": _INK,
    "xtick.color": _INK, "ytick.color": _INK, "text.color": _INK, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": "#ffffff", "grid.linewidth": 0.8, "axes.facecolor": "#f6f8fb", "legend.frameon": False,
    "legend.fontsize": 8.5, "lines.linewidth": 1.2, "patch.linewidth": 0.0,
}

Values = npt.NDArray[np.floating[Any]]

_OUTCOMES = (
    ("finished", _GREEN), ("open at the end", _SKY), ("promise broken", _RED), ("failed", _INK),
    ("cancelled", _GREY),
)


def write(flown: Flight) -> Path:
    """Write `report.html` into the run's folder and return its path."""
    path = flown.folder / "report.html"
    with mpl.rc_context(_STYLE):
        path.write_text(_page(flown), "utf-8")
    return path


def summary(flown: Flight) -> str:
    """What `hil run` prints when it is done."""
    m, t = flown.metrics, flown.timing
    share = _share(m["value_finished"], m["value_offered"])
    lines = [
        *(f"{each.verdict.value:<17} {each.name}: {each.detail}" + (f" (waived: {each.waived})" if each.waived else "")
          for each in flown.findings if each.verdict is not Verdict.PASS),
        f"verdict           {flown.verdict.value}: {_passed(flown.findings)}",
        f"limits crossed    {m['limits_crossed']}",
        f"promises          {m['promises_made']} made, {m['promises_broken']} broken",
        f"jobs              {m['jobs_offered']} offered, {m['jobs_finished']} finished, {m['jobs_refused']} refused, "
        f"{m['jobs_open_at_end']} open at the end",
        f"value             {m['value_finished']:.0f} of {m['value_offered']:.0f} offered ({share})",
        f"energy            {m['energy_harvested_wh']:.0f} Wh harvested, {m['energy_used_wh']:.0f} Wh used, "
        f"{m['energy_compute_wh']:.0f} Wh of it for compute",
        f"bill              {m['energy_billed_wh']:.1f} Wh for {m['jobs_settled']} jobs; by the truth "
        f"{m['energy_settled_jobs_wh']:.1f} Wh ({_error(m['billing_error_frac'])}, worst job "
        f"{_error(m['billing_error_worst_job_frac'])})",
        f"battery           lowest {100.0 * _number(m['battery_soc_frac_min']):.1f} %",
        f"hottest           junction {m['die_c_max']:.1f}, plate {m['plate_c_max']:.1f}, "
        f"radiator {m['radiator_c_max']:.1f} degC",
        f"link              {m['telemetry_packets']} telemetry packets, {m['telemetry_frames_lost']} frames lost; "
        f"{m['telecommands_completed']} of {m['telecommands_sent']} telecommands completed",
        f"speed             {t['realtime_factor']:,.0f} times real time ({t['elapsed_s']:.1f} s)",
        f"report            {_near(flown.folder / 'report.html')}",
    ]
    return "\n".join(lines)


# --- page --------------------------------------------------------------------------------------------


_CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: #1f2933; margin: 0;
       background: #fff; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 24px 48px; }
h1 { font-size: 25px; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 16px; margin: 30px 0 8px; }
p { margin: 4px 0 10px; } .soft { color: #5b6673; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); gap: 10px; margin: 18px 0 8px; }
.tile { border: 1px solid #dde3ec; border-radius: 8px; padding: 10px 13px; border-left: 5px solid #8a8f98; }
.tile b { display: block; white-space: nowrap; font-size: 22px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { color: #5b6673; font-size: 13px; }
.good { border-left-color: #009E73; } .bad { border-left-color: #D55E00; background: #fdf3ec; }
figure { margin: 0 0 6px; break-inside: avoid; } figure svg { width: 100%; height: auto; display: block; }
figcaption { color: #5b6673; font-size: 13px; margin-top: 0; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 4px 10px 4px 0; border-bottom: 1px solid #e6ebf1; vertical-align: top; }
th { color: #5b6673; font-weight: 600; } td.n, th.n { text-align: right; }
tr.bad td { color: #b04500; font-weight: 600; }
.verdict { display: flex; align-items: baseline; gap: 18px; border-radius: 8px; padding: 12px 18px; margin: 16px 0 6px;
           color: #fff; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.verdict b { font-size: 26px; letter-spacing: 0.04em; } .verdict span { font-size: 15px; }
.v-PASS { background: #00785a; } .v-FAIL { background: #b8430f; } .v-INCONCLUSIVE { background: #8a6100; }
.v-ERROR { background: #3a3f4a; }
.mark { display: inline-block; min-width: 92px; padding: 0 7px; border-radius: 4px; color: #fff; font-size: 12px;
        font-weight: 600; text-align: center; white-space: nowrap;
        print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.m-shown, .m-open { background: #8a6100; } .m-waived { background: #5b6673; } td code { font-size: 12px; }
.checks td:nth-child(2), .matrix td:first-child { white-space: nowrap; font-weight: 600; }
.checks td:nth-child(n+4) { white-space: nowrap; } td code { overflow-wrap: anywhere; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 0 36px; } .two section { break-inside: avoid; }
pre { background: #f6f8fb; border: 1px solid #dde3ec; border-radius: 6px; padding: 10px 13px; overflow-x: auto;
      font-size: 13px; white-space: pre-wrap; }
@media screen and (max-width: 760px) { .two { grid-template-columns: 1fr; } }
@media print { body { font-size: 11px; } main { max-width: none; padding: 0; } h2 { margin-top: 16px; }
  table { font-size: 10.5px; } td, th { padding: 2px 8px 2px 0; } h2 { break-after: avoid; }
  .tiles { grid-template-columns: repeat(7, 1fr); gap: 6px; } .tile { padding: 5px 7px; }
  figcaption { font-size: 10px; } .tile b { font-size: 14px; } .tile span { font-size: 10px; }
  figure svg { width: 88%; } tr { break-inside: avoid; } @page { margin: 14mm; }
  .verdict { padding: 7px 12px; } .verdict b { font-size: 19px; } .verdict span { font-size: 12px; }
  .mark { font-size: 9px; min-width: 70px; } td code { font-size: 9px; } }
"""


def _page(flown: Flight) -> str:
    scenario, m = flown.scenario, flown.metrics
    figures = (
        ("Charge", "Blue: true state of charge. Dashed: what the flight software expected when it made each forecast "
         "(dot); the shade reaches down to its worst case.", _draw_charge, 2.1),
        ("Power", "What the array gives, what all loads and the compute nodes draw, and the plan's budget for them.",
         _draw_power, 2.6),
        ("Temperatures", "Hottest junction of all nodes, cold plate, radiator and battery, with their limits.",
         _draw_heat, 3.4),
        ("Power modes", "What the caps in force let each node do.", _draw_modes, 1.8),
        ("Jobs", "One bar for each stretch of a job on a node; crosses are refusals.", _draw_jobs, 2.2),
    )
    parts = [
        f"<h1>{escape(scenario.id)}</h1>",
        f"<p>{escape(scenario.description)}.</p>",
        _banner(flown),
        f"<p class=soft>Mission {escape(scenario.mission.name)}, true satellite {escape(scenario.truth.name)}, "
        f"{scenario.duration_s / 3600.0:.1f} h, {m['orbits']:.1f} orbits, seed {scenario.seed}; bench "
        f"{escape(flown.bench)}, level {flown.level.name}; commit {escape(commit() or 'unknown')}, configuration "
        f"{config_hash(scenario)}. Judged by the truth, not by what the flight software says.</p>",
        _tiles(flown),
        "<h2>Requirements</h2>", _requirements(flown),
        "<h2>Checks</h2>", _checks(flown),
        *(("<h2>Faults</h2>", _faults(flown)) if flown.spans or scenario.faults else ()),
        f"<p class=soft>In all plots: {', '.join(_SHADES if flown.spans else _SHADES[:2])}; time runs in hours since "
        "the start.</p>",
        *(_figure(flown, *figure) for figure in figures),
        "<h2>Limits</h2>", _limits(flown),
        "<div class=two>",
        _section("Jobs", _pairs(_job_rows(flown))),
        _section("Refusals by reason", _pairs(_refusal_rows(flown))),
        _section("Energy and heat", _pairs(_energy_rows(flown))),
        _section("Link and ground", _pairs(_link_rows(flown))),
        "</div>",
        "<h2>Events that the ground received</h2>", _events(flown),
        "<div class=two>",
        _section("This machine", _timing_figure(flown) + _pairs(_timing_rows(flown))),
        _section("Fly it again", f"<pre>{escape(command(flown))}\n"
                 f"hil replay {escape(shlex.quote(str(_near(flown.folder))))}</pre>"
                 "<p class=soft>The same scenario and seed give the same run.json, verdict.json and recording, octet "
                 "by octet.</p>"),
        "</div>",
    ]
    return (f'<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
            f"<title>{escape(scenario.id)}, seed {scenario.seed}</title><style>{_CSS}</style>\n<main>\n"
            + "\n".join(parts) + "\n</main></html>\n")


def command(flown: Flight) -> str:
    """Return the command line that flies this run again."""
    scenario = flown.scenario
    return (f"hil run {shlex.quote(str(_near(scenario.path)))} --seed {scenario.seed} "
            f'--duration "{scenario.duration_s:.0f} s"')


def _near(path: Path) -> Path:
    """`path` as seen from the present folder, when it is inside it."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 # resolve() would follow `latest`
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


_MARKS = {Verdict.PASS: "v-PASS", Verdict.FAIL: "v-FAIL", Verdict.INCONCLUSIVE: "v-INCONCLUSIVE",
          Verdict.ERROR: "v-ERROR"}
_CLOSURES = {Closure.CLOSED: "v-PASS", Closure.SHOWN: "m-shown", Closure.FAILED: "v-FAIL", Closure.OPEN: "m-open"}


def _mark(kind: str, words: str) -> str:
    return f'<span class="mark {kind}">{escape(words)}</span>'


def _banner(flown: Flight) -> str:
    """The verdict, and what it hangs on."""
    bad = [each.name for each in flown.findings if each.verdict is not Verdict.PASS and not each.waived]
    words = f"{_passed(flown.findings)}{'; not: ' + ', '.join(bad[:6]) if bad else ''}{', ...' if len(bad) > 6 else ''}"
    return (f'<div class="verdict {_MARKS[flown.verdict]}"><b>{flown.verdict.value}</b><span>{escape(words)}</span>'
            "</div>")


def _rows(kind: str, head: Sequence[str], rows: Iterable[tuple[Sequence[str], bool]]) -> str:
    """A table of ready-made cells."""
    body = "".join(f"<tr{' class=bad' if bad else ''}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
                   for cells, bad in rows)
    return (f"<table class={kind}><thead><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr></thead>"
            f"<tbody>{body}</tbody></table>")


def _requirements(flown: Flight) -> str:
    """What this run says of each requirement that it bears on. A pass below a requirement's level leaves it open."""
    lines = matrix(flown.findings, dict(flown.scenario.requirements), flown.level)
    if not lines:
        return "<p>No check of this run bears on a requirement.</p>"
    counts = Counter(line.closure for line in lines)
    said = ", ".join(f"{count} {closure.value}" for closure, count in counts.items())
    table = _rows("matrix", ("requirement", "what it asks for", "level", "this run", "by the checks"), (
        ((line.requirement.id, escape(line.requirement.text), line.requirement.level,
          _mark(_CLOSURES[line.closure],
                f"shown at {flown.level.name}" if line.closure is Closure.SHOWN else line.closure.value),
          escape(", ".join(line.findings))), line.closure is Closure.FAILED) for line in lines))
    return (f"{table}<p class=soft>{escape(said)}. A pass below a requirement's level shows it there and leaves it "
            "open.</p>")


def _checks(flown: Flight) -> str:
    """Every check with margin and worst time; first what did not pass, then as the scenario lists them."""
    order = [Verdict.ERROR, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS]

    def row(each: Finding) -> tuple[Sequence[str], bool]:
        waived = f"<br>waived: {escape(each.waived)}" if each.waived else ""
        return ((_mark("m-waived" if each.waived else _MARKS[each.verdict],
                       "waived" if each.waived else each.verdict.value), escape(each.name),
                 f"<code>{escape(each.statement)}</code><br>{escape(each.detail)}{waived}",
                 "" if each.margin is None else escape(_margin(each)),
                 "" if each.worst_s is None else f"T+{each.worst_s:,.0f} s"),
                each.verdict is not Verdict.PASS and not each.waived)

    return _rows("checks", ("verdict", "check", "statement and outcome", "margin", "worst at"),
                 (row(each) for each in sorted(flown.findings, key=lambda each: order.index(each.verdict))))


def _margin(finding: Finding) -> str:
    margin = finding.margin if finding.margin is not None else 0.0
    if finding.unit == "frac":
        return f"{100.0 * margin:+.2f} %"
    return f"{margin:{'+,.0f' if abs(margin) >= 1000.0 else '+.3g'}} {finding.unit}".rstrip()


def _faults(flown: Flight) -> str:
    """What was injected, how much of it, and who noticed; and what of it did not begin."""
    steps = {step.id: step for step in flown.scenario.faults}
    began = {span.id for span in flown.spans}
    rows = []
    for span, outcome in sorted(zip(flown.spans, random_faults.outcomes(flown), strict=True),
                                key=lambda pair: pair[0].from_s):
        told = ", ".join(outcome.noticed_by) or ("nothing; no limit, promise or tick was lost" if outcome.is_harmless
                                                 else "nothing that names it")
        for_good = span.to_s >= flown.scenario.duration_s - 1.0
        rows.append(((span.id, _what(span.kind, span.target, steps[span.id].values if span.id in steps else {}), told,
                      f"T+{span.from_s:,.0f} s", "to the end" if for_good else f"{span.to_s - span.from_s:,.0f} s"),
                     False))
    rows += [((step.id, _what(step.kind, step.target, step.values), "", "did not begin", ""), True)
             for step in steps.values() if step.id not in began]
    return _table(("fault", "what", "told on board by", "began", "lasted"), rows, left=3)


def _what(kind: str, target: str, values: Mapping[str, float]) -> str:
    """Return kind, target and amounts of a fault in words."""
    units = {param.name: param.unit for param in LIBRARY[kind].params} if kind in LIBRARY else {}
    amounts = ", ".join(f"{name} {value:.4g} {units.get(name, '')}".rstrip() for name, value in values.items())
    return f"{kind} {target}".rstrip() + (f": {amounts}" if amounts else "")


def _tiles(flown: Flight) -> str:
    m, t = flown.metrics, flown.timing
    tiles = (
        (m["limits_crossed"], "limits crossed", not m["limits_crossed"]),
        (f"{m['promises_broken']} / {m['promises_made']}", "promises broken", not m["promises_broken"]),
        (f"{m['jobs_finished']} / {m['jobs_offered']}", "jobs finished", None),
        (_share(m["value_finished"], m["value_offered"]), "of the value offered", None),
        (f"{100.0 * _number(m['battery_soc_frac_min']):.1f} %", "lowest charge", None),
        (f"{m['die_c_max']:.1f} °C", "hottest junction", None),
        (f"{t['realtime_factor']:,.0f} ×", "real time", None),
    )
    kinds = {True: "tile good", False: "tile bad", None: "tile"}
    return "<div class=tiles>" + "".join(
        f'<div class="{kinds[good]}"><b>{escape(str(value))}</b><span>{escape(label)}</span></div>'
        for value, label, good in tiles) + "</div>"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _table(head: Sequence[str], rows: Iterable[tuple[Sequence[object], bool]], left: int = 1) -> str:
    """A table whose columns from `left` on are numbers; rows marked bad stand out."""
    def cells(tag: str, values: Sequence[object]) -> str:
        return "".join(f"<{tag}{' class=n' if i >= left else ''}>{escape(str(value))}</{tag}>"
                       for i, value in enumerate(values))

    body = "".join(f"<tr{' class=bad' if bad else ''}>{cells('td', row)}</tr>" for row, bad in rows)
    return f"<table><thead><tr>{cells('th', head)}</tr></thead><tbody>{body}</tbody></table>"


def _pairs(rows: Iterable[tuple[str, object]]) -> str:
    return "<table>" + "".join(f"<tr><td>{escape(name)}</td><td class=n>{escape(str(value))}</td></tr>"
                               for name, value in rows) + "</table>"


def _limits(flown: Flight) -> str:
    def row(name: str, bound: float, unit: str, nearest: float, count: int, seconds: float, depth: float
            ) -> tuple[Sequence[object], bool]:
        shown = f"{nearest:.3g} {unit}" if np.isfinite(nearest) else "never at risk"
        return (name, f"{bound:g} {unit}", shown, count, f"{seconds:.0f} s", f"{depth:.3g} {unit}"), count > 0

    return _table(("limit", "bound", "nearest", "crossed", "time beyond", "depth"),
                  (row(c.limit, c.bound, c.unit, c.nearest, c.count, c.seconds, c.depth) for c in flown.crossings))


def _job_rows(flown: Flight) -> list[tuple[str, object]]:
    m = flown.metrics
    return [
        ("offered", m["jobs_offered"]), ("promised", m["promises_made"]), ("finished", m["jobs_finished"]),
        ("refused", m["jobs_refused"]), ("open at the end", m["jobs_open_at_end"]),
        ("promises broken", m["promises_broken"]), ("value finished", f"{m['value_finished']:,.0f}"),
        ("value offered", f"{m['value_offered']:,.0f}"), ("work finished", f"{m['work_finished_units']:,.0f} units"),
        ("changes of power mode", m["power_mode_changes"]),
    ]


def _refusal_rows(flown: Flight) -> list[tuple[str, object]]:
    counts = refusals(flown.logbook)
    if not counts:
        return [("no job was refused", "")]
    return [*Counter(counts).most_common()]


def _energy_rows(flown: Flight) -> list[tuple[str, object]]:
    m = flown.metrics
    return [
        *((label, f"{m[key]:,.1f} Wh") for label, key in (
            ("harvested", "energy_harvested_wh"), ("left in the array", "energy_shunted_wh"),
            ("used by all loads", "energy_used_wh"), ("of it by compute", "energy_compute_wh"),
            ("asked for and not carried", "energy_unmet_wh"))),
        ("charge at the end", f"{100.0 * _number(m['battery_soc_frac_end']):.1f} %"),
        ("hottest plate", f"{m['plate_c_max']:.1f} °C"), ("hottest radiator", f"{m['radiator_c_max']:.1f} °C"),
        ("battery", f"{m['battery_c_min']:.1f} to {m['battery_c_max']:.1f} °C"),
        ("most for compute", f"{m['payload_w_max']:.1f} W"),
    ]


def _link_rows(flown: Flight) -> list[tuple[str, object]]:
    m = flown.metrics
    return [
        ("ground passes", m["ground_passes"]), ("transmitter on", f"{m['tx_s']:,.0f} s"),
        ("telemetry packets received", f"{m['telemetry_packets']:,}"),
        ("frames lost", m["telemetry_frames_lost"]), ("frames that did not close", m["telemetry_frames_bad"]),
        ("octets down / up", f"{m['line_octets_down']:,} / {m['line_octets_up']:,}"),
        ("octets lost without contact", f"{m['line_octets_lost']:,}"),
        ("octets overrun", f"{m['line_octets_overrun']:,}"), ("bits flipped", m["line_bits_flipped"]),
        ("telecommands sent", m["telecommands_sent"]), ("completed", m["telecommands_completed"]),
        ("refused", m["telecommands_refused"]), ("without answer", m["telecommands_unanswered"]),
    ]


def _timing_rows(flown: Flight) -> list[tuple[str, object]]:
    timing = flown.timing
    ticks, parts = timing["tick_ms"], timing["us_per_tick"]
    if not isinstance(ticks, dict) or not isinstance(parts, dict):
        raise TypeError("timing lacks its tables")
    return [
        ("times real time", f"{timing['realtime_factor']:,.0f}"), ("flown in", f"{timing['elapsed_s']:.1f} s"),
        *((f"flight tick, {name}", f"{value:.3f} ms") for name, value in ticks.items()),
        *((f"{name.replace('_', ' ')}, per tick", f"{value:.0f} µs") for name, value in parts.items()),
        ("time", "waits for the flight software"), ("repeats on the bench's link", flown.retries),
        ("machine", timing["machine"]),
    ]


def _events(flown: Flight) -> str:
    """Counts of all events, and the grave ones in full."""
    if not flown.events:
        return "<p>None.</p>"
    counts = Counter((event.name, event.severity) for event in flown.events)
    listed = [event for event in flown.events if event.severity >= Severity.MEDIUM]
    rows = [((f"T+{event.obt_s - flown.start_unix_s:,.0f} s", event.severity.name, event.text),
             event.severity is Severity.HIGH) for event in listed[:_EVENTS_MAX]]
    more = f"<p class=soft>and {len(listed) - _EVENTS_MAX} more.</p>" if len(listed) > _EVENTS_MAX else ""
    table = _table(("time", "severity", "event"), rows, left=9) + more if rows else "<p>None above severity LOW.</p>"
    said = ", ".join(f"{escape(name)} {count}" for (name, _), count in sorted(counts.items()))
    return f"{table}<p class=soft>All {len(flown.events)} events: {said}.</p>"


def _passed(findings: Sequence[Finding]) -> str:
    """How many checks passed, and which came nearest to failing."""
    passed = sum(each.verdict is Verdict.PASS for each in findings)
    waived = sum(bool(each.waived) for each in findings)
    return f"{passed} of {len(findings)} checks passed" + (f", {waived} waived" if waived else "")


def _number(value: object) -> float:
    if not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _share(part: object, whole: object) -> str:
    return f"{100.0 * _number(part) / _number(whole):.0f} %" if _number(whole) > 0.0 else "none"


def _error(frac: object) -> str:
    return "none" if frac is None else f"{100.0 * _number(frac):+.2f} %"


# --- plots -------------------------------------------------------------------------------------------


def _timing_figure(flown: Flight) -> str:
    """How long the flight software's ticks took, on logarithmic axes: the tail is what matters."""
    figure = Figure(figsize=(5.0, 1.7))
    figure.subplots_adjust(0.11, 0.24, 0.98, 0.97)
    axes = figure.add_subplot()
    edges = np.geomspace(0.01, max(10.0, float(flown.tick_ms.max(initial=0.0))), 61)
    axes.hist(np.clip(flown.tick_ms, edges[0], None), bins=edges.tolist(), color=_BLUE)
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=1.0)
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("flight tick, ms", labelpad=1)
    axes.set_ylabel("ticks", labelpad=1)
    axes.tick_params(length=0, which="both")
    return f"<figure>{_svg(figure)}</figure>"


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=False, metadata={"Date": None})
    svg = out.getvalue()
    return svg[svg.index("<svg"):]


def _figure(flown: Flight, title: str, caption: str, draw: Callable[[Axes, Flight], None], height_in: float) -> str:
    figure = Figure(figsize=(_WIDTH_IN, height_in))
    # The same edges in every figure, so that a moment stands at one place all the way down the page.
    figure.subplots_adjust(0.7 / _WIDTH_IN, 0.26 / height_in, 1.0 - 0.7 / _WIDTH_IN, 1.0 - 0.34 / height_in)
    axes = figure.add_subplot()
    draw(axes, flown)
    _shade(axes, flown)
    hours = flown.scenario.duration_s / 3600.0
    axes.set_xlim(0.0, hours)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=13, steps=[1, 2, 2.5, 3, 5, 6, 10]))
    axes.tick_params(length=0)
    return f"<figure><h2>{escape(title)}</h2>{_svg(figure)}<figcaption>{escape(caption)}</figcaption></figure>"


def _shade(axes: Axes, flown: Flight) -> None:
    """Eclipses and faults behind the curves, contacts as marks on top."""
    for dark in stretches(flown.lit_frac < 0.5):
        axes.axvspan(dark.from_s / 3600.0, dark.to_s / 3600.0, color=_NIGHT, zorder=0, lw=0)
    spans = sorted(flown.spans, key=lambda span: span.from_s)
    for i, span in enumerate(spans):
        lane = sum(before.to_s > span.from_s for before in spans[:i])
        axes.axvline(span.from_s / 3600.0, color=_ORANGE, lw=0.9, zorder=1)
        axes.axvspan(span.from_s / 3600.0, span.to_s / 3600.0, 0.03 * lane, 0.03 * lane + 0.02, color=_ORANGE,
                     alpha=0.8, lw=0, zorder=1.5)
    if flown.scenario.link.contact == "passes":
        across = axes.get_xaxis_transform()
        for contact in flown.contacts:
            axes.plot([contact.from_s / 3600.0, contact.to_s / 3600.0], [1.015, 1.015], color=_BLUE, lw=4,
                      solid_capstyle="butt", clip_on=False, transform=across)


def envelope(values: Values, points: int = _POINTS) -> tuple[Values, Values]:
    """Return ticks and values of at most `points` that keep every bucket's least and greatest, in order."""
    buckets = points // 2
    if values.size <= points:
        return np.arange(values.size, dtype=np.float64), values
    per_bucket = -(-values.size // buckets)
    starts = np.arange(0, values.size, per_bucket)
    padded = np.concatenate((values, np.full(per_bucket * starts.size - values.size, values[-1]))).reshape(
        starts.size, per_bucket)
    least, greatest = padded.argmin(axis=1), padded.argmax(axis=1)
    at = np.sort(np.stack((starts + least, starts + greatest), axis=1), axis=1).ravel()
    at = np.minimum(at, values.size - 1)
    return at.astype(np.float64), values[at]


def _curve(axes: Axes, values: Values, label: str, colour: str, **style: Any) -> None:  # Any: matplotlib's
    ticks, kept = envelope(values)
    axes.plot(ticks / 3600.0, kept, label=label, color=colour, **style)


def _limit_line(axes: Axes, value: float, label: str, colour: str = _RED) -> None:
    axes.axhline(value, color=colour, lw=0.9, ls=(0, (5, 3)), zorder=2)
    axes.annotate(label, (1.0, value), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
                  va="center", color=colour, fontsize=8, annotation_clip=False)


def _legend(axes: Axes, **options: Any) -> None:  # Any: matplotlib's
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.04), ncols=8, handlelength=1.4, columnspacing=1.6,
                borderaxespad=0.0, handleheight=0.9, **options)


def _draw_charge(axes: Axes, flown: Flight) -> None:
    limits = flown.scenario.mission.parameters
    charge = 100.0 * flown.trace["battery_soc_frac"]
    _curve(axes, charge, "charge", _BLUE)
    for ahead in flown.logbook.forecasts:
        begin_s = int(ahead.made_s)
        hours = (begin_s + np.arange(len(ahead.charge_frac) + 1) * ahead.step_s) / 3600.0
        expected, worst = (np.array([charge[begin_s], *(100.0 * share for share in curve)])
                           for curve in (ahead.charge_frac, ahead.charge_worst_frac))
        axes.fill_between(hours, worst, expected, color=_INK, alpha=0.07, lw=0.0)
        axes.plot(hours, expected, color=_INK, lw=0.9, ls=(0, (4, 2)), marker="o", markevery=[0], ms=3.0)
    floor, cutoff = 100.0 * limits["battery_floor_frac"], 100.0 * limits["battery_cutoff_frac"]
    _limit_line(axes, floor, "floor")
    if charge.min() < floor:
        _limit_line(axes, cutoff, "cut-off")
    axes.set_ylim(min(float(charge.min()), floor) - 2.0, 101.0)
    axes.set_ylabel("charge, %")
    for span in flown.spans:
        axes.annotate(span.id, (span.from_s / 3600.0, 1.0), xycoords=("data", "axes fraction"), xytext=(2, -3),
                      textcoords="offset points", rotation=90, va="top", ha="left", fontsize=7, color="#8a5a00")


def _draw_power(axes: Axes, flown: Flight) -> None:
    trace, nodes = flown.trace, flown.scenario.mission.compute.nodes
    _curve(axes, trace["array_w"], "array", _ORANGE)
    _curve(axes, trace["bus_w"], "all loads", _SKY)
    _curve(axes, trace.group("node{}_w", nodes).sum(axis=1), "compute", _GREEN, lw=0.9)
    _curve(axes, trace["budget_w"], "plan's budget", _INK, lw=1.0, ls=":")
    axes.set_ylim(bottom=0.0)
    axes.set_ylabel("power, W")
    _legend(axes)


def _draw_heat(axes: Axes, flown: Flight) -> None:
    trace, limits = flown.trace, flown.scenario.mission.parameters
    hottest = trace.group("die{}_c", flown.scenario.mission.compute.nodes).max(axis=1)
    for values, label, colour, limit in (
        (hottest, "junction", _RED, "die_max_c"), (trace["plate_c"], "plate", _ORANGE, "plate_max_c"),
        (trace["radiator_c"], "radiator", _BLUE, "radiator_max_c"),
        (trace["battery_c"], "battery", _GREEN, "battery_max_c"),
    ):
        _curve(axes, values, label, colour, lw=1.0)
        _limit_line(axes, limits[limit], f"{label}", colour)
    axes.set_ylabel("temperature, °C")
    _legend(axes)


def _draw_modes(axes: Axes, flown: Flight) -> None:
    modes = flown.scenario.truth.compute.modes
    nodes = flown.scenario.mission.compute.nodes
    chosen = flown.trace.group("node{}_mode", nodes)
    # The mode that a node was in for most of each bucket: an average would show modes that never were.
    per_bucket = max(1, len(chosen) // _POINTS)
    whole = chosen[: len(chosen) // per_bucket * per_bucket].reshape(-1, per_bucket, nodes)
    shares = np.stack([(whole == mode).sum(axis=1) for mode in range(len(modes))])
    colours: list[Any] = ["#ffffff00", "#b9c1cc", *mpl.colormaps["viridis_r"](np.linspace(0.08, 0.92, len(modes) - 2))]
    edges_h = np.arange(whole.shape[0] + 1) * per_bucket / 3600.0
    axes.pcolormesh(
        edges_h, np.arange(nodes + 1) - 0.5,
        np.ma.masked_equal(shares.argmax(axis=0).T, 0), cmap=ListedColormap(colours),
        vmin=-0.5, vmax=len(modes) - 0.5, rasterized=True,
    )
    axes.grid(visible=False)
    _lanes(axes, [f"node {i}" for i in range(nodes)])
    _legend(axes, handles=[Patch(facecolor=colour, edgecolor=_GREY, lw=0.5, label=mode.name)
                           for colour, mode in zip(colours, modes, strict=True)])


def _outcome(job: JobHistory, end_s: float) -> str:
    if job.is_broken(end_s):
        return "promise broken"
    if job.state is JobState.FINISHED:
        return "finished"
    if job.state is JobState.CANCELLED:
        return "cancelled"
    return "failed" if job.state.is_final else "open at the end"


def _draw_jobs(axes: Axes, flown: Flight) -> None:
    book, end_s, nodes = flown.logbook, flown.scenario.duration_s, flown.scenario.mission.compute.nodes
    colour_of, shown = dict(_OUTCOMES), set()
    for lane in range(nodes):
        bars = [bar for bar in book.bars if bar.node == lane]
        outcomes = [_outcome(book.jobs[bar.job_id], end_s) for bar in bars]
        shown.update(outcomes)
        axes.broken_barh([(bar.from_s / 3600.0, (bar.to_s - bar.from_s) / 3600.0) for bar in bars],
                         (lane - 0.38, 0.76), facecolors=[colour_of[outcome] for outcome in outcomes],
                         edgecolors="#ffffff", linewidths=0.25)
    refused = [job.ended_s / 3600.0 for job in book.jobs.values()
               if job.state is JobState.REFUSED and job.ended_s is not None]
    axes.plot(refused, [nodes] * len(refused), ls="none", marker="x", ms=5, color=_PINK, mew=1.4)
    axes.grid(visible=False)
    _lanes(axes, [*(f"node {i}" for i in range(nodes)), "refused"])
    _legend(axes, handles=[Patch(facecolor=colour, label=label) for label, colour in _OUTCOMES if label in shown])


def _lanes(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)

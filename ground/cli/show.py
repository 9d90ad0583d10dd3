"""`ground show`: ask an archive."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from flightsw.dictionary.events import Severity
from flightsw.dictionary.reports import BY_CODE, unpack_report
from flightsw.dictionary.telemetry import POINT_BY_NAME
from flightsw.errors import LinkError
from flightsw.link.packets import unpack_tm
from ground.archive import Archive
from ground.cli.options import EXIT_COMPLETED, Commands, instant, plain
from ground.watch import command_text, report_text, utc_text, value_text


def add_command(commands: Commands) -> None:
    """Add `ground show`."""
    show = commands.add_parser(
        "show", help="query an archive", description="Print what an archive holds, as text or JSON lines.")
    show.add_argument("what", nargs="?", default="latest", metavar="WHAT",
                      help="latest (default), events, commands, reports, gaps, or the name of a point")
    show.add_argument("--archive", type=Path, default=Path("ground.sqlite"), metavar="FILE",
                      help="the archive (ground.sqlite)")
    show.add_argument("--since", type=instant, default=-math.inf, metavar="TIME",
                      help="from then on: ISO 8601 UTC or Unix seconds (on-board time; for commands, sending)")
    show.add_argument("--until", type=instant, default=math.inf, metavar="TIME", help="before then")
    show.add_argument("--severity", choices=[s.name for s in Severity], default=Severity.INFO.name,
                      help="least severity of the events shown")
    show.add_argument("--json", action="store_true", help="one JSON object a line; null is missing")
    show.set_defaults(run=_show)


def _show(options: argparse.Namespace) -> int:
    """Answer a question from an archive; it may be the one that a watcher is writing."""
    span = (options.since, options.until)
    with Archive(options.archive, read_only=True) as archive:
        lines: Iterable[tuple[str, dict[str, object]]]
        if options.what == "latest":
            lines = _latest_lines(archive)
        elif options.what == "events":
            lines = ((f"{utc_text(e.obt_s)} {e.severity.name:<6} {e.name}: {e.text}",
                      {**e._asdict(), "severity": e.severity.name})
                     for e in archive.events(*span, Severity[options.severity]))
        elif options.what == "commands":
            lines = _command_lines(archive, span)
        elif options.what == "reports":
            lines = _report_lines(archive, span)
        elif options.what == "gaps":
            lines = ((f"{utc_text(g.received_s)} {g.source}: {'unknown number' if g.lost is None else g.lost} lost",
                      g._asdict()) for g in archive.gaps())
        else:
            lines = _sample_lines(archive, options.what, span)
        for text, fields in lines:
            print(json.dumps({key: _finite(value) for key, value in fields.items()}) if options.json
                  else plain(text))
    return EXIT_COMPLETED


def _latest_lines(archive: Archive) -> Iterator[tuple[str, dict[str, object]]]:
    for row in archive.latest():
        text, unit = _shown(row.point, row.value)
        yield (f"{row.point:<26} {text:>12} {unit:<5} at {utc_text(row.obt_s)}",
               {**row._asdict(), "unit": unit})


def _sample_lines(archive: Archive, point: str,
                  span: tuple[float, float]) -> Iterator[tuple[str, dict[str, object]]]:
    if point not in archive.points:
        raise LinkError(f"no point {point!r} in archive {archive.path}; `ground show latest` lists them")
    for obt_s, value in archive.samples(point, *span):
        text, unit = _shown(point, value)
        yield f"{utc_text(obt_s)} {text} {unit}".rstrip(), {"obt_s": obt_s, "value": value}


def _command_lines(archive: Archive, span: tuple[float, float]) -> Iterator[tuple[str, dict[str, object]]]:
    for entry in archive.commands(*span):
        lines = [f"{utc_text(entry.sent_s)} {command_text(entry.verb, entry.args)}: {entry.state}"]
        lines += [f"  1,{s.stage} after {s.received_s - entry.sent_s:.2f} s{': ' + s.text if s.text else ''}"
                  for s in entry.stages]
        yield "\n".join(lines), {**entry._asdict(), "stages": [stage._asdict() for stage in entry.stages]}


def _report_lines(archive: Archive, span: tuple[float, float]) -> Iterator[tuple[str, dict[str, object]]]:
    """Times and rows of on-board tables, out of the packets as they were received."""
    for packet in archive.packets():
        if (packet.service, packet.subservice) not in BY_CODE or packet.obt_s is None:
            continue
        if not span[0] <= packet.obt_s < span[1]:
            continue
        tm = unpack_tm(packet.octets)
        try:
            row, args = unpack_report(tm.service, tm.subservice, tm.data)
        except LinkError:  # of another dictionary
            continue
        text = f"{utc_text(packet.obt_s)} {report_text(row, args)}"
        if row.name == "time":  # the report is as old as its way down was long
            text += f", ground's clock {packet.received_s - float(args[0]):+.3f} s at reception"
        yield text, {"obt_s": packet.obt_s, "received_s": packet.received_s, "report": row.name,
                     **dict(zip((field.name for field in row.fields), args, strict=True))}


def _shown(name: str, value: float | int | None) -> tuple[str, str]:
    """Return value and unit of a point; one that only a newer dictionary knows is shown bare."""
    point = POINT_BY_NAME.get(name)
    if point is None:
        return "missing" if value is None else f"{value:g}", ""
    return value_text(point, value), point.unit if value is not None else ""


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value

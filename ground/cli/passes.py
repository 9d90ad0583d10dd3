"""`ground pass`: when the satellite is in sight, how well, and what to send first."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from ground import passes
from ground.archive import Archive
from ground.cli.options import EXIT_COMPLETED, EXIT_REJECTED, Commands, instant, whole
from ground.passes import Contact
from ground.procedures import fitting, load_plan
from ground.watch import utc_text


def add_command(commands: Commands) -> None:
    """Add `ground pass`."""
    parser = commands.add_parser(
        "pass", help="predict passes and say what to send first", epilog="exit codes: 0 passes found, 1 none",
        description="Predict the passes of a mission's elements over its stations: times, angles, link margin and how "
        "much a line of --baud carries. With a pass plan, the steps of the next pass in the order they are sent.")
    parser.add_argument("--mission", type=Path, required=True, metavar="FILE", help="mission file: TLE, stations")
    parser.add_argument("--stations", type=Path, metavar="FILE", help="[[stations]] in place of the mission's")
    parser.add_argument("--from", dest="since", type=instant, metavar="TIME", help="from then on (now)")
    parser.add_argument("--hours", type=whole(1, 720), default=24, metavar="N", help="how far ahead (24)")
    parser.add_argument("--baud", type=whole(50, 4_000_000), default=115200, metavar="N", help="its rate (115200)")
    parser.add_argument("--plan", type=Path, metavar="FILE", help="a pass plan")
    parser.add_argument("--archive", type=Path, metavar="FILE", help="archive that says which steps are done")
    parser.add_argument("--json", action="store_true", help="one JSON object a pass")
    parser.set_defaults(run=_passes)


def _passes(options: argparse.Namespace) -> int:
    sky = passes.load(options.mission, options.stations)
    since_s = time.time() if options.since is None else options.since
    found = sky.contacts(since_s, since_s + 3600.0 * options.hours)
    for i, contact in enumerate(found):
        steps = _steps(options, contact) if i == 0 and options.plan else []
        if options.json:
            print(json.dumps(_fields(contact, options.baud) | ({"steps": steps} if steps else {})))
            continue
        print(f"{contact.site.name:<12} AOS {utc_text(contact.aos_s)}  LOS {utc_text(contact.los_s)}  "
              f"{contact.duration_s:>4.0f} s  {contact.peak_elevation_deg:>3.0f} deg high  azimuth "
              f"{contact.rise.azimuth_deg:03.0f} {contact.peak.azimuth_deg:03.0f} {contact.fall.azimuth_deg:03.0f}  "
              f"margin {contact.rise.margin_db:+.0f} to {contact.peak.margin_db:+.0f} dB  "
              f"{contact.capacity_octets(options.baud) / 1e6:.2f} MB")
        for step in steps:
            print(f"    {step['priority']:>2}  {step['seconds']:>4.0f} s  {step['step']}"
                  + ("" if step["fits"] else "  (next pass)"))
    return EXIT_COMPLETED if found else EXIT_REJECTED


def _steps(options: argparse.Namespace, contact: Contact) -> list[dict[str, object]]:
    plan, done = load_plan(options.plan), []
    if options.archive:
        with Archive(options.archive, read_only=True) as archive:
            done = [note.text.removeprefix("step done: ") for note in archive.notes()
                    if note.source == plan.path.name and note.text.startswith("step done: ")]
    return [{"step": step.title, "priority": step.priority, "seconds": step.seconds, "fits": fits}
            for step, fits in fitting(plan, contact, done)]


def _fields(contact: Contact, baud: int) -> dict[str, object]:
    return {
        "station": contact.site.name, "aos_s": round(contact.aos_s, 3), "peak_s": round(contact.peak_s, 3),
        "los_s": round(contact.los_s, 3), "duration_s": round(contact.duration_s, 1),
        "peak_elevation_deg": round(contact.peak_elevation_deg, 2),
        "azimuth_deg": [round(look.azimuth_deg, 1) for look in (contact.rise, contact.peak, contact.fall)],
        "margin_db": [round(look.margin_db, 1) for look in (contact.rise, contact.peak, contact.fall)],
        "capacity_octets": contact.capacity_octets(baud),
    }

"""`ground bill`: what customers' jobs used."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from flightsw.errors import StoreError
from ground import bill
from ground.archive import Archive
from ground.cli.options import EXIT_COMPLETED, Commands, instant, plain


def add_command(commands: Commands) -> None:
    """Add `ground bill`."""
    parser = commands.add_parser(
        "bill", help="state what customers' jobs used",
        description="Print what each settled job used, by customer, and what the same work costs on the ground.")
    parser.add_argument("source", type=Path, metavar="ARCHIVE|LEDGER",
                        help="an archive, or settlements as JSON lines as --json prints them")
    parser.add_argument("--customer", metavar="X", help="only this customer's jobs")
    parser.add_argument("--from", dest="since", type=instant, default=-math.inf, metavar="TIME",
                        help="settled from then on: ISO 8601 UTC or Unix seconds, on-board time")
    parser.add_argument("--to", dest="until", type=instant, default=math.inf, metavar="TIME", help="before then")
    parser.add_argument("--tariff", type=Path, metavar="FILE",
                        help="what a data centre on the ground asks (examples/tariff.toml)")
    parser.add_argument("--json", action="store_true", help="one JSON object a job; null is not metered")
    parser.set_defaults(run=_bill)


def _bill(options: argparse.Namespace) -> int:
    """State what customers' jobs used."""
    tariff = bill.load_tariff(options.tariff) if options.tariff else None
    notes: list[str] = []
    if _is_archive(options.source):
        with Archive(options.source, read_only=True) as archive:
            settlements, notes = bill.from_archive(archive, options.since, options.until)
    else:
        settlements = bill.from_lines(options.source, options.since, options.until)
    made = bill.statement(settlements, tariff, options.customer)
    made = made._replace(notes=(*made.notes, *notes))
    for line in bill.as_json(made) if options.json else bill.as_text(made, tariff):
        print(line if options.json else plain(line))
    if options.json:
        for note in made.notes:
            print(f"ground bill: {note}", file=sys.stderr)
    return EXIT_COMPLETED


def _is_archive(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(16) == b"SQLite format 3\0"
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error

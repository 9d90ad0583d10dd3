"""`ground dictionary` and `ground sequence`: what both ends know, as files for other software and for people."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from flightsw.dictionary.commands import open_sequence
from flightsw.dictionary.orders import parse_sequence
from flightsw.errors import LinkError, StoreError
from ground.cli.options import EXIT_COMPLETED, EXIT_TEXT, Commands, whole
from ground.reference import markdown
from ground.xtce import xtce


def add_command(commands: Commands) -> None:
    """Add `ground dictionary` and `ground sequence`."""
    export = commands.add_parser(
        "dictionary", help="write the dictionary as XTCE or as a page to read",
        description="Write every telemetry point, event, report, telecommand and parameter to a file.")
    which = export.add_mutually_exclusive_group(required=True)
    which.add_argument("--xtce", type=Path, metavar="FILE", help="XTCE 1.2, for other ground software")
    which.add_argument("--markdown", type=Path, metavar="FILE", help="a page to read (docs/dictionary.md)")
    export.add_argument("--apid", type=whole(1, 2039), default=100, metavar="N",
                        help="application id of the mission, for --xtce (100)")
    export.set_defaults(run=_dictionary)

    check = commands.add_parser(
        "sequence", help="check a file of commands and say its SHA-256", epilog=EXIT_TEXT,
        description="Check a sequence as the satellite will, before it is sent up: `sequence COUNT`, then COUNT lines "
        "`DELAY_S VERB ARGUMENT...`; # begins a comment. Then: send the file, `ground send sequence.load NAME SHA256`, "
        "`ground send sequence.start NAME`.")
    check.add_argument("file", type=Path, metavar="FILE", help="the sequence")
    check.set_defaults(run=_sequence)


def _dictionary(options: argparse.Namespace) -> int:
    path, text = (options.xtce, xtce(options.apid)) if options.xtce else (options.markdown, markdown())
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    print(f"{path}: {len(text.encode())} octets")
    return EXIT_COMPLETED


def _sequence(options: argparse.Namespace) -> int:
    try:
        octets: bytes = options.file.read_bytes()
        text = octets.decode("ascii")
    except OSError as error:
        raise StoreError(f"{options.file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LinkError(f"{options.file} is not ASCII text") from error
    steps = parse_sequence(text)
    open_sequence(text)
    print(f"{options.file.name}: {len(steps)} commands in {sum(step.delay_s for step in steps):g} s, "
          f"SHA-256 {hashlib.sha256(octets).hexdigest()}")
    return EXIT_COMPLETED

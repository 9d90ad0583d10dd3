"""`ground audit`: whether the satellite's audit log is whole."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ground import audit
from ground.archive import Archive
from ground.cli.options import EXIT_COMPLETED, EXIT_REJECTED, Commands, plain


def add_command(commands: Commands) -> None:
    """Add `ground audit`."""
    parser = commands.add_parser(
        "audit", help="verify an audit log",
        description="Check the satellite's audit log against itself and against the heads that telemetry brought.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    verify = actions.add_parser("verify", help="say whether a log is whole, and where it is not",
                                epilog="exit codes: 0 whole, 1 not whole, 2 wrong use, 4 trouble with a file")
    verify.add_argument("files", type=Path, nargs="+", metavar="FILE", help="the log, in one or more files in order")
    verify.add_argument("--archive", type=Path, metavar="FILE", help="archive with the heads seen in telemetry")
    verify.add_argument("--json", action="store_true", help="one JSON object")
    verify.set_defaults(run=_audit_verify)


def _audit_verify(options: argparse.Namespace) -> int:
    """Say whether an audit log is whole."""
    heads: dict[int, str] = {}
    if options.archive:
        with Archive(options.archive, read_only=True) as archive:
            heads = audit.heads_of(archive)
    verdict = audit.verify_files(options.files, heads)
    for line in [json.dumps(audit.as_json(verdict))] if options.json else audit.report(verdict, heads):
        print(line if options.json else plain(line))
    return EXIT_REJECTED if verdict.breaks else EXIT_COMPLETED

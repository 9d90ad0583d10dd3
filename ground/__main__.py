"""The ground station's command line.

The composition root of the ground: a command opens port, archive and clock, and turns errors into one line and an exit
code. A group of commands is a module of `ground.cli`, or of its subject, and one line in `_GROUPS`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence

from flightsw.errors import FlightError, LinkError
from ground.cli import audit, bill, bridge, console, data, dictionary, files, job, keys, passes, run, send, show, watch
from ground.cli.options import EXIT_COMPLETED, EXIT_TROUBLE, EXIT_USAGE, Commands, Parser

_GROUPS: tuple[Callable[[Commands], None], ...] = (
    console.add_command,
    watch.add_command,
    send.add_command,
    files.add_upload,
    files.add_download,
    files.add_files,
    show.add_command,
    console.add_replay,
    passes.add_command,
    run.add_command,
    run.add_check,
    job.add_command,
    data.add_plot,
    data.add_export,
    data.add_report,
    bill.add_command,
    audit.add_command,
    bridge.add_command,
    keys.add_command,
    dictionary.add_command,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one `ground` command and return its exit code."""
    parser: argparse.ArgumentParser = Parser(prog="ground", description="Ground station of the compute satellite.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in _GROUPS:
        add(commands)
    options = parser.parse_args(argv)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except LinkError as error:
        return _complain(options, error, EXIT_USAGE)
    except FlightError as error:
        return _complain(options, error, EXIT_TROUBLE)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_COMPLETED
    return code


def _complain(options: argparse.Namespace, error: FlightError, code: int) -> int:
    print(f"ground {options.command}: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

"""`ground watch`: own the port; archive what comes, show it, and send for others."""

from __future__ import annotations

import argparse
import math
import os
import shutil
import signal
import sys
from contextlib import ExitStack

from ground.cli.options import EXIT_COMPLETED, EXIT_TEXT, Commands, add_link, plain
from ground.session import Session
from ground.station import Report, Station
from ground.watch import Screen, report_line

_REFRESH_S = 0.2


def add_command(commands: Commands) -> None:
    """Add `ground watch`."""
    parser = commands.add_parser(
        "watch", help="show live telemetry and archive it", epilog=EXIT_TEXT,
        description="Receive, archive and show telemetry: a live screen on a terminal, else one line a report. "
        "Marks: ! limit crossed, ~ near its limit, ? stale. Ctrl-C ends it.")
    add_link(parser, defaults=True, port_required=True)
    parser.set_defaults(run=_watch)


def _watch(options: argparse.Namespace) -> int:
    """Own the port: archive and show what comes, and send for `ground send`, until interrupted."""
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stopped.append(received))
    with ExitStack() as stack:
        session = stack.enter_context(Session(options))
        view = (_Terminal(session.station, session.epoch_s, options.port) if sys.stdout.isatty()
                else _Lines(session.station, session.epoch_s))
        stack.enter_context(view)
        while not stopped:
            now_s = session.turn()
            view.refresh(now_s, session.status(now_s).trouble)
    return EXIT_COMPLETED


class _Lines:
    """Output that is not a terminal: one line a report; trouble goes to standard error when it changes."""

    def __init__(self, station: Station, epoch_s: float) -> None:
        self._station = station
        self._epoch_s = epoch_s
        self._trouble = ""

    def __enter__(self) -> _Lines:
        self._station.listen(self._print)
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _print(self, report: Report) -> None:
        print(plain(report_line(report, self._station, self._epoch_s)), flush=True)

    def refresh(self, _now_s: float, trouble: str) -> None:
        """Say what is wrong when it changes."""
        if trouble != self._trouble:
            self._trouble = trouble
            print(f"ground watch: {trouble or 'recovered'}", file=sys.stderr, flush=True)


class _Terminal:
    """A terminal: the whole screen, at most five times a second, on the alternate page."""

    def __init__(self, station: Station, epoch_s: float, title: str) -> None:
        self._screen = Screen(station, epoch_s, title, colour="NO_COLOR" not in os.environ)
        self._painted_s = -math.inf

    def __enter__(self) -> _Terminal:
        sys.stdout.write("\x1b[?1049h\x1b[?25l\x1b[?7l")  # alternate page, no cursor, no wrapping
        return self

    def __exit__(self, *_: object) -> None:
        sys.stdout.write("\x1b[?7h\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()

    def refresh(self, now_s: float, trouble: str) -> None:
        """Paint when it is time to."""
        if now_s - self._painted_s >= _REFRESH_S:
            self._painted_s = now_s
            size = shutil.get_terminal_size()
            sys.stdout.write(self._screen.paint(now_s, size.columns, size.lines, trouble))
            sys.stdout.flush()

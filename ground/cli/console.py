"""`ground console` and `ground replay`: the console on a live session, beside one, or on the past."""

from __future__ import annotations

import argparse
import gc
import math
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from flightsw.clock import MonotonicClock
from flightsw.errors import BoardError, LinkError, StoreError
from ground import passes
from ground.archive import Archive
from ground.cli.options import EXIT_COMPLETED, EXIT_TEXT, EXIT_TROUBLE, Commands, add_link, instant, whole
from ground.relay import is_watched
from ground.session import SessionThread

_RATES = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_JUMP_S = 60.0
_TURN_S = 0.001
_ASK_S = 1.0  # between questions whether somebody owns the port


def add_command(commands: Commands) -> None:
    """Add `ground console`."""
    parser = commands.add_parser(
        "console", help="work a pass: telemetry, plots, jobs, events, commands on one screen", epilog=EXIT_TEXT,
        description="The operator's console. With --port it owns the port, archives and sends; without, it follows "
        "the archive of a `ground watch` or console that does, and sends through it. Press ? for the keys.")
    add_link(parser, defaults=True)
    _add_mission(parser)
    parser.add_argument("--web", type=whole(1, 65535), nargs="?", const=8000, metavar="N",
                        help="serve it to browsers of this machine on TCP port N (8000); needs the extra 'web'")
    parser.set_defaults(run=_console)


def add_replay(commands: Commands) -> None:
    """Add `ground replay`."""
    parser = commands.add_parser(
        "replay", help="see a recorded pass again on the same console", epilog=EXIT_TEXT,
        description="Show an archive as it was received, on the console, from a moment on.")
    parser.add_argument("archive", type=Path, metavar="ARCHIVE", help="the archive")
    parser.add_argument("--since", type=instant, metavar="TIME",
                        help="begin there: ISO 8601 UTC or Unix seconds of reception (the archive's first packet)")
    parser.add_argument("--rate", type=float, default=10.0, metavar="X", help="times as fast as it was (10)")
    _add_mission(parser)
    parser.set_defaults(run=_replay)


def _add_mission(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mission", type=Path, metavar="FILE",
                        help="mission file, for passes and eclipses from its elements and stations")
    parser.add_argument("--passes-by", choices=("ground", "satellite"), default="ground",
                        help="whose clock passes are told by; a rig's satellite lives in days of its own (ground)")


def _console(options: argparse.Namespace) -> int:
    if not _has_textual():
        return EXIT_TROUBLE
    sky = passes.load(options.mission) if options.mission else None
    with ExitStack() as stack:
        session = stack.enter_context(_session(options)) if options.port else None
        if options.web:
            return _serve(options)
        from ground.console.app import Console  # noqa: PLC0415 # an extra: only the console needs it
        from ground.console.model import Model  # noqa: PLC0415
        from ground.console.views import Status  # noqa: PLC0415

        clock = MonotonicClock(start_s=time.time())  # a clock that is set meanwhile moves no age
        asked_s, alone = -math.inf, ""

        def status() -> Status:
            nonlocal asked_s, alone
            if session is not None:
                return Status(f"{options.port} {options.baud}", *session.status)
            if clock.now_s() - asked_s >= _ASK_S:
                asked_s = clock.now_s()
                alone = "" if is_watched(options.archive) else (
                    "nobody owns the port: start ground watch or console --port")
            return Status(f"following {options.archive.name}", alone, mode="following")

        model = Model(stack.enter_context(Archive(options.archive, read_only=True)), sky,
                      by_satellite=options.passes_by == "satellite")
        model.start(time.time())
        settle()
        Console(options.archive, model, clock.now_s, status).run()
        print(f"to see it again: {_replay_line(options)}")
        return EXIT_TROUBLE if session is not None and session.status.trouble else EXIT_COMPLETED


def _session(options: argparse.Namespace) -> SessionThread:
    try:
        return SessionThread(options)
    except (BoardError, StoreError) as error:
        if is_watched(options.archive):  # by another console, of which this one wants a second screen
            raise type(error)(f"{error}; without --port this console follows it") from error
        raise


def settle() -> None:
    """Keep keys quick beside the session's thread.

    What is in memory by now is never searched for garbage again (a search of it took 70 ms), and the threads take turns
    each millisecond.
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(_TURN_S)


def _replay_line(options: argparse.Namespace) -> str:
    words = ["ground", "replay", str(options.archive)]
    words += ["--mission", str(options.mission)] if options.mission else []
    words += ["--passes-by", "satellite"] if options.passes_by == "satellite" else []
    return shlex.join(words)


def _serve(options: argparse.Namespace) -> int:
    """Serve a console that follows the archive to each browser; this process goes on owning the port."""
    try:
        from ground.console.web import ConsoleServer  # noqa: PLC0415 # an extra
    except ImportError:
        print("ground console: --web needs the extra 'web': pip install '.[web]'", file=sys.stderr)
        return EXIT_TROUBLE
    words = [sys.executable, "-m", "ground", "console", "--archive", str(options.archive)]
    words += ["--mission", str(options.mission)] if options.mission else []
    words += ["--passes-by", options.passes_by]
    try:
        ConsoleServer(shlex.join(words), options.web).serve()
    except OSError as error:
        print(f"ground console: port {options.web} of this machine: {error.strerror}", file=sys.stderr)
        return EXIT_TROUBLE
    return EXIT_COMPLETED


class ReplayClock:
    """A clock that goes over the past: paused, at a rate, or set elsewhere."""

    def __init__(self, start_s: float, end_s: float, rate: float, real_s: Callable[[], float]) -> None:
        """It stands still at `end_s`."""
        self.rate = rate
        self._end_s = end_s
        self._real_s = real_s
        self._from_s, self._then_s = start_s, real_s()
        self._resume = rate or 1.0

    def now_s(self) -> float:
        """The moment of the past that is shown."""
        return min(self._end_s, self._from_s + (self._real_s() - self._then_s) * self.rate)

    @property
    def is_over(self) -> bool:
        """True at the end."""
        return self.now_s() >= self._end_s

    def steer(self, key: str) -> None:
        """Pause or go on (blank), faster (+), slower (-), a minute on (])."""
        self._from_s, self._then_s = self.now_s(), self._real_s()
        if key == " ":
            self._resume, self.rate = (self.rate or self._resume), 0.0 if self.rate else self._resume
        elif key == "+":
            self.rate = min((rate for rate in _RATES if rate > self.rate), default=_RATES[-1])
        elif key == "-":
            self.rate = max((rate for rate in _RATES if rate < self.rate), default=0.0)
        else:
            self._from_s += _JUMP_S if key == "]" else -_JUMP_S


def _replay(options: argparse.Namespace) -> int:
    if not _has_textual():
        return EXIT_TROUBLE
    from ground.console.app import Console  # noqa: PLC0415 # an extra: only the console needs it
    from ground.console.model import Model  # noqa: PLC0415
    from ground.console.views import Status  # noqa: PLC0415

    if not 0.0 <= options.rate <= 1000.0:
        raise LinkError(f"rate {options.rate:g} outside 0..1000")
    sky = passes.load(options.mission) if options.mission else None
    with Archive(options.archive, read_only=True) as archive:
        first = next(iter(archive.packets_after(0, 1)), None) or next(archive.packets(), None)
        if first is None:
            raise StoreError(f"archive {options.archive} holds no packet")
        start_s = first.received_s if options.since is None else options.since
        clock = ReplayClock(start_s, archive.last_reception_s(), options.rate, MonotonicClock().now_s)

        def fresh(at_s: float) -> Model:
            model = Model(archive, sky, by_satellite=options.passes_by == "satellite")
            model.start(at_s)
            return model

        def status() -> Status:
            return Status(options.archive.name, mode="replay", rate=math.inf if clock.is_over else clock.rate)

        def steer(key: str) -> None:
            clock.steer(key)
            if key == "[":  # what was shown since is not known yet there
                app.model = fresh(clock.now_s())

        app = Console(options.archive, fresh(start_s), clock.now_s, status, steer)
        app.run()
    return EXIT_COMPLETED


def _has_textual() -> bool:
    try:
        import textual  # noqa: F401, PLC0415 # an extra
    except ImportError:
        print("ground: the console needs the extra 'console': pip install '.[console]'", file=sys.stderr)
        return False
    return True

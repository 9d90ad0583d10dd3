"""What all groups of `ground` commands share: exit codes, readers of arguments, text that is safe on a terminal.

A group of commands is a module with `add_command(commands)`, which adds its parser and sets `run` to what it does; it
stands in one line of `ground.__main__`. `run(options)` returns an exit code.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, TypeAlias

from flightsw.errors import ConfigError
from flightsw.keyfile import DEFAULT_FILE, End, open_ring
from flightsw.link.keys import TELEMETRY
from flightsw.link.sdls import SECURITY
from flightsw.link.stack import FRAME_OCTETS, FRAMINGS, STANDARD, Stack
from ground.station import Seals

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

EXIT_COMPLETED, EXIT_REJECTED, EXIT_USAGE, EXIT_NO_ANSWER, EXIT_TROUBLE = range(5)
EXIT_TEXT = ("exit codes: 0 completed, 1 rejected or failed, 2 wrong use, 3 no answer, "
             "4 port or archive trouble")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """See `argparse.ArgumentParser.error`."""
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")


def plain(text: str) -> str:
    """Keep what the satellite wrote from steering the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def add_link(parser: argparse.ArgumentParser, defaults: bool, port_required: bool = False) -> None:
    """Options of the line. A verb takes them as well, and then leaves the defaults to `send`."""
    def default(value: object) -> object:
        return value if defaults else argparse.SUPPRESS

    parser.add_argument("--port", default=default(None), required=port_required, metavar="DEV",
                        help="serial port")
    parser.add_argument("--baud", type=whole(50, 4_000_000), default=default(115200), metavar="N",
                        help="its rate (115200)")
    parser.add_argument("--archive", type=Path, default=default(Path("ground.sqlite")), metavar="FILE",
                        help="archive, made where it does not exist (ground.sqlite)")
    parser.add_argument("--scid", type=whole(0, 1023), default=default(42), metavar="N",
                        help="spacecraft id of the mission (42)")
    parser.add_argument("--apid", type=whole(1, 2039), default=default(100), metavar="N",
                        help="application id of the mission (100)")
    parser.add_argument("--framing", choices=FRAMINGS, default=default(STANDARD.framing),
                        help=f"link.framing of the mission ({STANDARD.framing})")
    parser.add_argument("--frame-octets", type=int, choices=FRAME_OCTETS, default=default(STANDARD.frame_octets),
                        help=f"link.frame_octets of the mission ({STANDARD.frame_octets})")
    parser.add_argument("--reed-solomon", action="store_true", default=default(STANDARD.reed_solomon),
                        help="link.reed_solomon of the mission is true")
    parser.add_argument("--security", choices=SECURITY, default=default(SECURITY[0]),
                        help=f"link.security of the mission ({SECURITY[0]})")
    parser.add_argument("--keys", type=Path, default=default(DEFAULT_FILE), metavar="FILE",
                        help=f"keys of the link, see `ground keys` ({DEFAULT_FILE})")
    parser.add_argument("--station", default=default(None), metavar="NAME",
                        help="whose keys commands are sealed with (the mission's first station)")


@contextmanager
def seals_of(options: argparse.Namespace) -> Iterator[Seals | None]:
    """Hold the keys that the options of the line name; None, loudly, where the link is to be in clear.

    ConfigError where they cannot be used or the station has none, StoreError where their counters are gone.
    """
    if options.security == "clear":
        print("ground: THE LINK IS IN CLEAR. Telemetry may be anyone's, and anyone can command this satellite.",
              file=sys.stderr, flush=True)
        yield None
        return
    if options.framing == "cobs":
        print("ground: TELEMETRY IS IN CLEAR with framing 'cobs'. It may be anyone's.", file=sys.stderr, flush=True)
    with open_ring(options.keys, End.GROUND, options.scid) as ring:
        stations = {name: family for family, name in ring.keys.families.items() if family != TELEMETRY}
        station = options.station or next(iter(stations), "")
        if station not in stations:
            raise ConfigError(str(options.keys), f"has no keys of station {station!r}; known: {', '.join(stations)}")
        yield Seals(ring, stations[station], options.security == "encrypted")


def stack_of(options: argparse.Namespace) -> Stack:
    """Return the stack that the options of the line name; LinkError where they do not go together."""
    return Stack(options.framing, options.reed_solomon, options.frame_octets)


def instant(text: str) -> float:
    """Read a time: ISO 8601, UTC where it names no zone, or Unix seconds."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither ISO 8601 nor seconds") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def timeout(text: str) -> float:
    """Read a number of seconds to wait."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value <= 86400.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds in 0..86400")
    return value


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return a reader of whole numbers in `low`..`high`."""
    def read(text: str) -> int:
        try:
            value = int(text, 0)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number in {low}..{high}")
        return value

    return read

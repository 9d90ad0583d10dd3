"""`ground keys`: make the keys of a link, and show which there are. A key itself is never shown."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from flightsw.declared import read_toml
from flightsw.errors import ConfigError
from flightsw.keyfile import DEFAULT_FILE, End, open_ring, read_keys, write_keys
from flightsw.link.keys import KEY_OCTETS, family_of, make_keys
from ground.cli.options import EXIT_COMPLETED, Commands


def add_command(commands: Commands) -> None:
    """Add `ground keys` with `new` and `show`."""
    keys = commands.add_parser("keys", help="make or show the keys of the link",
                               description="Keys of the link: made once for a mission, kept by both of its ends.")
    verbs = keys.add_subparsers(dest="keys_command", required=True, metavar="COMMAND")
    new = verbs.add_parser(
        "new", help="make the keys of a mission",
        description="Make keys for every station of a mission and for its telemetry, and the counters of both ends. "
        "Copy FILE and FILE.board-* to the satellite, FILE and FILE.ground-* to the stations; a file without its "
        "counters is refused.")
    new.add_argument("mission", type=Path, metavar="MISSION", help="mission file (TOML)")
    new.set_defaults(run=_new)
    show = verbs.add_parser("show", help="show which keys there are, their states and counters, and no key")
    show.set_defaults(run=_show)
    for parser in (new, show):
        parser.add_argument("--keys", type=Path, default=DEFAULT_FILE, metavar="FILE",
                            help=f"key file ({DEFAULT_FILE})")


def _new(options: argparse.Namespace) -> int:
    table = read_toml(options.mission)
    try:
        scid = int(table["link"]["spacecraft_id"])
        stations = [str(station["name"]) for station in table["stations"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(str(options.mission), f"has no spacecraft id or no stations: {error!r}") from error
    keys = make_keys(scid, stations, _random())
    write_keys(options.keys, keys)
    print(f"{len(keys.keys)} keys of spacecraft {scid} in {options.keys}: telemetry, {', '.join(stations)}\n"
          f"fingerprint {keys.fingerprint.hex()}; keep it secret, keep a copy, and keep counters and keys together")
    return EXIT_COMPLETED


def _random() -> Iterator[bytes]:
    while True:
        yield os.urandom(KEY_OCTETS)


def _show(options: argparse.Namespace) -> int:
    keys = read_keys(options.keys)
    print(f"spacecraft {keys.scid}, fingerprint {keys.fingerprint.hex()}, in {options.keys.expanduser()}")
    with open_ring(options.keys, End.GROUND, keys.scid) as ring:
        for key in keys.keys:
            association = ring.find(key.spi)
            if association is not None:
                print(f"SPI {key.spi:4}  {key.name:<20} {association.state.name:<10} "
                      f"{'received' if not family_of(key.spi) else 'sent'} up to {association.used}")
    return EXIT_COMPLETED

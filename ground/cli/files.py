"""`ground upload`, `ground download` and `ground files`: file transfers, through the watcher that owns the port."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flightsw.errors import LinkError, StoreError
from ground.cli.options import EXIT_COMPLETED, EXIT_REJECTED, EXIT_TEXT, Commands, plain
from ground.relay import ask

_OVER = {"delivered", "failed", "cancelled"}


def add_upload(commands: Commands) -> None:
    """Add `ground upload`."""
    parser = commands.add_parser(
        "upload", help="send a file to the satellite", epilog=EXIT_TEXT,
        description="Send a file up and wait until the satellite holds all of it. A signed bundle (NAME.job) goes to "
        "its inbox and becomes a job by itself. Needs the `ground watch` that owns the archive; the transfer goes on "
        "there over passes and restarts when this command is ended.")
    parser.add_argument("file", type=Path, metavar="FILE", help="what to send")
    parser.add_argument("--name", metavar="NAME", help="its name on board (its own)")
    _add_common(parser)
    parser.set_defaults(run=_upload)


def add_download(commands: Commands) -> None:
    """Add `ground download`."""
    parser = commands.add_parser(
        "download", help="get a file from the satellite", epilog=EXIT_TEXT,
        description="Ask for a file on board and wait until all of it is here. `ground send file.list` names them; "
        "results of finished jobs come down by themselves. Needs the `ground watch` that owns the archive.")
    parser.add_argument("name", metavar="NAME", help="the file on board")
    parser.add_argument("--to", type=Path, metavar="PATH", help="copy it there (it stays in ARCHIVE.files/received)")
    _add_common(parser)
    parser.set_defaults(run=_download)


def add_files(commands: Commands) -> None:
    """Add `ground files`."""
    parser = commands.add_parser(
        "files", help="show file transfers, or act on one", epilog=EXIT_TEXT,
        description="Show the transfers that the watcher remembers: how far, how fast, in which state.")
    act = parser.add_mutually_exclusive_group()
    act.add_argument("--cancel", metavar="TRANSFER", help="end one at both ends")
    act.add_argument("--suspend", metavar="TRANSFER", help="stop an upload for the time being")
    act.add_argument("--resume", metavar="TRANSFER", help="let it go on")
    _add_common(parser)
    parser.set_defaults(run=_files)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--archive", type=Path, default=Path("ground.sqlite"), metavar="FILE",
                        help="archive of the watcher (ground.sqlite)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def _upload(options: argparse.Namespace) -> int:
    path = options.file.absolute()
    if not path.is_file():
        raise LinkError(f"{options.file}: no such file")
    last = _show(_ask(options, file="upload", path=str(path), name=options.name or path.name), options.json)
    return EXIT_COMPLETED if last.get("state") == "delivered" else EXIT_REJECTED


def _download(options: argparse.Namespace) -> int:
    last = _show(_ask(options, file="download", name=options.name), options.json)
    if last.get("state") != "delivered":
        return EXIT_REJECTED
    if options.to is not None:
        try:
            shutil.copy(last["path"], options.to)
        except OSError as e:
            raise StoreError(f"{options.to}: {e.strerror}; the file is in {last['path']}") from e
    return EXIT_COMPLETED


def _files(options: argparse.Namespace) -> int:
    verb = next((verb for verb in ("cancel", "suspend", "resume") if getattr(options, verb)), "list")
    lines = list(_ask(options, file=verb, name=getattr(options, verb, "")))
    for line in lines:
        _print(line, options.json)
    if not lines and not options.json:
        print("no transfers")
    return EXIT_COMPLETED


def _ask(options: argparse.Namespace, **request: str) -> Iterator[dict[str, Any]]:  # Any: JSON values
    lines = ask(options.archive, request)
    if lines is None:
        raise StoreError(f"no ground watch is running on archive {options.archive}; start one, it does the transfers")
    return lines


def _show(lines: Iterator[dict[str, Any]], as_json: bool) -> dict[str, Any]:
    """Print progress until the transfer is over; return the last line."""
    last: dict[str, Any] = {}
    try:
        for line in lines:
            last = line
            _print(line, as_json)
    except KeyboardInterrupt:
        print("left; the transfer goes on in ground watch, see `ground files`", file=sys.stderr)
        raise
    if last.get("state") not in _OVER:
        raise StoreError("ground watch ended; the transfer goes on with the next one")
    return last


def _print(line: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(line), flush=True)
        return
    size = line["size"]
    share = "size not known" if size is None else f"{line['done'] / max(1, size):4.0%} of {size:,} octets"
    rate = line["rate_octets_s"]
    words = f"{line['transfer']:>7} {line['direction']:<4} {line['name'] or '(name not known)'}: {share}"
    if line["state"] not in _OVER:
        words += f", {rate / 1000.0:.1f} kB/s"
        if rate > 0.0 and size is not None:
            words += f", {(size - line['done']) / rate:.0f} s left"
    if line["state"] != "active":
        words += f", {line['state']}"
    if line["condition"] != "no_error":
        words += f" ({line['condition']})"
    if line["path"]:
        words += f", in {line['path']}"
    print(plain(words), flush=True)

"""Standing orders, durable: every change of their tables is in the journal before anything of it is acknowledged.

Opened by the composition root, written by the supervisor; the truth is the journal, the tables are its replay. Also
reads the files that sequences are loaded from, for decide does no I/O. Never runs an order, never reads a clock.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from flightsw.dictionary.orders import SEQUENCE_OCTETS_MAX, Orders, encode, from_json, to_json
from flightsw.errors import StoreError
from flightsw.state import FileRead, OrderChange
from flightsw.store import Store

_CHANGE = 1


class OrderBook:
    """The standing orders of one satellite as written down; `orders` are the tables."""

    def __init__(self, store: Store) -> None:
        """Replay what `store` recovered; StoreError when its content is intact but not an order book's."""
        self._store = store
        self.orders: Final = Orders()
        try:
            if store.recovery.snapshot is not None:
                for fields in json.loads(store.recovery.snapshot):
                    self.orders.take(from_json(fields))
            for record in store.recovery.records:
                self.orders.take(from_json(json.loads(record.payload)))
        except (ValueError, LookupError, TypeError) as error:
            raise StoreError(f"order book: stored content is not readable: {error!r}") from error

    def record(self, changes: Sequence[OrderChange]) -> None:
        """Make `changes` durable, in order and under one sync; StoreError: nothing of it may be acknowledged."""
        if self._store.snapshot_due:
            self._store.snapshot(json.dumps([to_json(change) for change in self.orders.changes()]).encode())
        self._store.append_many([(_CHANGE, encode(change)) for change in changes])
        for change in changes:
            self.orders.take(change)

    def close(self) -> None:
        """Let go of the storage, so that another supervisor can open it."""
        self._store.close()


def read_upload(folder: Path, name: str) -> FileRead:
    """Read a file that the ground sent up to `folder`, as a sequence may be long."""
    try:
        with (folder / name).open("rb") as file:
            octets = file.read(SEQUENCE_OCTETS_MAX + 1)
    except OSError as error:
        return FileRead(name, "", f"file {name}: {error.strerror}")
    if len(octets) > SEQUENCE_OCTETS_MAX:
        return FileRead(name, "", f"file {name} is longer than {SEQUENCE_OCTETS_MAX} octets")
    try:
        return FileRead(name, octets.decode("ascii"), "")
    except UnicodeDecodeError:
        return FileRead(name, "", f"file {name} is not ASCII text")

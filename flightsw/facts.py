"""The few facts that must survive everything: number of starts, last mode, last time on the mission's axis.

Kept three times on the medium and voted on at open (`store.TripleFact`); written at a boot, at a mode change
and every ten minutes. With no valid copy the satellite does not guess: opening fails.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from flightsw.errors import StoreError
from flightsw.state import Mode
from flightsw.store import TripleFact


@dataclass(frozen=True, slots=True)
class Facts:
    """The few things that must survive everything: starts, last mode, last time on the mission's axis."""

    boot_count: int
    mode: str
    now_s: float


class FactFile:
    """`Facts` kept three times in a folder."""

    def __init__(self, folder: Path) -> None:
        paths = [folder / f"facts-{copy}" for copy in "abc"]
        if any(path.exists() for path in paths):
            self._fact = TripleFact(paths)
            try:
                self.facts = Facts(**json.loads(self._fact.value))
            except (ValueError, TypeError) as error:
                raise StoreError(f"facts in {folder} are intact but not readable: {error}") from error
        elif (folder / "ledger").exists():
            raise StoreError(f"facts in {folder} are gone, but its ledger is there: not a first boot")
        else:
            self.facts = Facts(0, Mode.BOOT.name, 0.0)
            self._fact = TripleFact.create(paths, self._encode())

    def count_boot(self) -> None:
        """Count one start, durably."""
        self._set(dataclasses.replace(self.facts, boot_count=self.facts.boot_count + 1))

    def note(self, mode: Mode, now_s: float) -> None:
        """Write down mode and time, durably."""
        self._set(dataclasses.replace(self.facts, mode=mode.name, now_s=now_s))

    def _set(self, facts: Facts) -> None:
        self.facts = facts
        self._fact.set(self._encode())

    def _encode(self) -> bytes:
        return json.dumps(dataclasses.asdict(self.facts)).encode()

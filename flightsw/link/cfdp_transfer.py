"""One CFDP transfer as its sender or its receiver knows it: what was sent, what is missing, when it is tried again.

Owns the arithmetic of stretches and gaps, the timer with its backoff, and which part of all that is kept through a
restart. `cfdp.py` asks and tells; nothing here reads a clock, touches the medium or knows of other transfers.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from flightsw.link.cfdp_pdu import Checksum, ChecksumType, Condition, Eof, FileStatus, Header, Metadata, Nak
from flightsw.link.filestore import Key

GAPS_MAX: Final = 4096
_SLOWER_MAX: Final = 16.0  # times the first interval


class State(StrEnum):
    """Where a transfer stands."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    HELD = "held"  # not to be sent to the station that is in sight
    DELIVERED = "delivered"  # the whole file is in place at the receiver
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """True when the transfer has ended."""
        return self in (State.DELIVERED, State.FAILED, State.CANCELLED)


class Transfer:
    """What sender and receiver have in common: identity, timer with backoff, how it ended."""

    is_sent: bool

    def __init__(self, key: Key, header: Header) -> None:
        self.key = key
        self.header = header
        self.state = State.ACTIVE
        self.condition = Condition.NO_ERROR
        self.is_told = False  # its end has been taken in by whoever owns the files
        self.is_acknowledged = False
        self.due_s = -math.inf  # contact time
        self.tries = 0
        self.tag = ""

    @property
    def is_closed(self) -> bool:
        """Nothing is left to be said or told."""
        return self.is_told and self.is_acknowledged

    def again(self, contact_s: float, retry_s: float) -> None:
        """Set the timer, each time twice as long up to a bound."""
        self.due_s = contact_s + retry_s * min(2.0**self.tries, _SLOWER_MAX)
        self.tries += 1

    def wake(self, contact_s: float) -> None:
        """Try again now: signal was acquired, or the other end was heard."""
        self.due_s = contact_s
        self.tries = 0

    def saved(self) -> dict[str, Any]:
        """Common part of the state on the medium."""
        return {"header": self.header, "state": self.state.value, "condition": self.condition, "told": self.is_told,
                "acknowledged": self.is_acknowledged, "tag": self.tag}

    def restore(self, saved: dict[str, Any]) -> None:
        """Take up the common part."""
        state = State(saved["state"])
        self.state = State.ACTIVE if state is State.HELD else state
        self.condition = Condition(saved["condition"])
        self.is_told, self.is_acknowledged, self.tag = saved["told"], saved["acknowledged"], saved["tag"]


class Sender(Transfer):
    """One file on its way out."""

    is_sent = True

    def __init__(self, key: Key, header: Header, path: Path, name: str, size: int, density: float) -> None:
        super().__init__(key, header)
        self.path = path
        self.name = name
        self.size = size
        self.density = density
        self.checksum_type: int = ChecksumType.CRC_32
        self.next_offset = 0
        self.resend: list[tuple[int, int]] = []
        self.metadata_due = True
        self.sum_size = size  # how much of the file the EOF is about: less than all when it is cancelled
        self.summed = 0
        self.sum: Checksum | None = None
        self.eof_acknowledged = False
        self.saved_octets = 0

    def ask(self, nak: Nak) -> int:
        """Take what the receiver misses; return how many octets that is."""
        ranges = [(start, min(end, self.size)) for start, end in nak.segments if start < min(end, self.size)]
        if any(segment == (0, 0) for segment in nak.segments):
            self.metadata_due = True
        self.resend = _merge([*self.resend, *ranges])
        return sum(end - start for start, end in ranges)

    def next_data(self, segment_octets: int) -> tuple[int, int, bool] | None:
        """Return (offset, octets, whether it is sent again) of what goes next and count it as sent."""
        if self.resend:
            start, end = self.resend[0]
            cut = min(end, start + segment_octets)
            if cut < end:
                self.resend[0] = (cut, end)
            else:
                del self.resend[0]
            return start, cut - start, True
        if self.next_offset < self.sum_size:
            start = self.next_offset
            self.next_offset = min(self.sum_size, start + segment_octets)
            return start, self.next_offset - start, False
        return None

    def saved(self) -> dict[str, Any]:
        """See `Transfer`. What is sent again is not kept: the receiver asks for it."""
        return {**super().saved(), "path": str(self.path), "name": self.name, "size": self.size,
                "density": self.density, "checksum_type": self.checksum_type, "next_offset": self.next_offset}

    @classmethod
    def restored(cls, key: Key, saved: dict[str, Any]) -> Sender:
        """Make it again as it was saved."""
        made = cls(key, Header(*saved["header"]), Path(saved["path"]), saved["name"], saved["size"], saved["density"])
        made.restore(saved)
        made.checksum_type, made.next_offset = saved["checksum_type"], saved["next_offset"]
        made.saved_octets = made.next_offset
        made.metadata_due = made.next_offset == 0
        if made.state.is_final:
            made.sum_size = made.next_offset
        return made


class Receiver(Transfer):
    """One file on its way in. `gaps` are the stretches missing below `reach`."""

    is_sent = False

    def __init__(self, key: Key, header: Header) -> None:
        super().__init__(key, header)
        self.metadata: Metadata | None = None
        self.eof: Eof | None = None
        self.gaps: list[tuple[int, int]] = []
        self.reach = 0
        self.asked = 0  # what is missing below was asked for
        self.metadata_asked = False
        self.nak_forced = False
        self.eof_answer_due = False
        self.keep_alive_due = False
        self.status = FileStatus.UNREPORTED
        self.sum: Checksum | None = None
        self.summed = 0
        self.unsaved_octets = 0
        self.saved_s = 0.0
        self.path: Path | None = None

    @property
    def size(self) -> int | None:
        """Octets of the file, None while nothing has told."""
        if self.eof is not None:
            return self.eof.size
        return None if self.metadata is None else self.metadata.size

    @property
    def is_whole(self) -> bool:
        """All of the file and of what is said about it is here."""
        return self.metadata is not None and self.eof is not None and not self.gaps and self.reach == self.eof.size

    def cover(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return what of [start, end) is new."""
        fresh = []
        at = max(0, bisect_right(self.gaps, (start, math.inf)) - 1)
        while at < len(self.gaps) and self.gaps[at][0] < end:
            low, high = max(start, self.gaps[at][0]), min(end, self.gaps[at][1])
            if low < high:
                fresh.append((low, high))
            at += 1
        if end > self.reach:
            fresh.append((max(start, self.reach), end))
        return fresh

    def fill(self, start: int, end: int) -> bool:
        """Note that [start, end) is here; False, and nothing noted, where that makes too many gaps."""
        at = max(0, bisect_right(self.gaps, (start, math.inf)) - 1)
        last = at
        left: list[tuple[int, int]] = []
        while last < len(self.gaps) and self.gaps[last][0] < end:
            low, high = self.gaps[last]
            left += [piece for piece in ((low, min(high, start)), (max(low, end), high)) if piece[0] < piece[1]]
            last += 1
        opens = start > self.reach
        if len(self.gaps) - (last - at) + len(left) + opens > GAPS_MAX:
            return False
        self.gaps[at:last] = left
        if opens:
            self.gaps.append((self.reach, start))
        self.reach = max(self.reach, end)
        return True

    @property
    def is_asking(self) -> bool:
        """Something is missing that was not asked for since it was last in doubt."""
        if self.nak_forced or (self.metadata is None and not self.metadata_asked):
            return True
        return bool(self.gaps) and self.asked < self.gaps[-1][1]

    def next_nak(self, segments_max: int) -> Nak:
        """Return the next request for what is missing and was not asked for."""
        segments: list[tuple[int, int]] = []
        if self.metadata is None and not self.metadata_asked:
            segments.append((0, 0))
            self.metadata_asked = True
        start = self.asked
        at = max(0, bisect_right(self.gaps, (start, math.inf)) - 1)
        for low, high in self.gaps[at:]:
            if high > start:
                segments.append((max(low, start), high))
                if len(segments) == segments_max:
                    break
        whole = len(segments) < segments_max
        self.asked = self.reach if whole else segments[-1][1]
        self.nak_forced = False
        return Nak(start, max(self.asked, start), tuple(segments))

    def ask_again(self) -> None:
        """Count nothing as asked for."""
        self.asked = 0
        self.metadata_asked = False

    def saved(self) -> dict[str, Any]:
        """See `Transfer`."""
        metadata = None if self.metadata is None else self.metadata._replace(options=b"")
        return {**super().saved(), "metadata": None if metadata is None else [*metadata[:5]],
                "eof": None if self.eof is None else [*self.eof[:3]], "gaps": self.gaps, "reach": self.reach,
                "status": self.status, "path": None if self.path is None else str(self.path)}

    @classmethod
    def restored(cls, key: Key, saved: dict[str, Any]) -> Receiver:
        """Make it again as it was saved."""
        made = cls(key, Header(*saved["header"]))
        made.restore(saved)
        made.metadata = None if saved["metadata"] is None else Metadata(*saved["metadata"])
        made.eof = None if saved["eof"] is None else Eof(*saved["eof"])
        made.gaps = [(low, high) for low, high in saved["gaps"]]
        made.reach = saved["reach"]
        made.status = FileStatus(saved["status"])
        made.path = None if saved["path"] is None else Path(saved["path"])
        return made


def _merge(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged

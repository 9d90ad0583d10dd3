"""Space Data Link Security: every frame sealed with AES-256-GCM, and what a receiver says of those that are not.

Owns the security header and trailer (355.0-B-2): SPI 2 octets, initialisation vector 12, MAC 16. The vector is a
96-bit counter that starts at 1; it is also the sequence number, and is compared as the one integer that it is. What
is authenticated is the whole frame: header, segment header, SPI, vector, data and, in telemetry, the operational
control field. (The standard's masks leave 34 of the 40 header bits of a TC frame, and all of the control field, to
whoever wants to change them.)

A received frame is judged in this order, and nothing is remembered of it before the last step: a key in force, the
MAC, the counter against replay, the counter against the window, the mark of the counter on the medium. Counters only
go up, so a frame that comes late is refused like one that comes twice.

`keys.py` has the keys. The satellite uses `CommandSeal.unseal` and `TelemetrySeal.seal`, the ground the other two.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag

from flightsw.errors import LinkError, StoreError
from flightsw.link.keys import IN_FORCE, RESERVE, TELEMETRY, Association, KeyRing, SlotState, family_of
from flightsw.link.tc_frames import Reject, RejectedFrameError

SECURITY: Final = ("authenticated", "encrypted", "clear")
"""What a mission may choose for its link: telemetry authenticated, or encrypted as well, or nothing at all."""

HEADER_OCTETS: Final = 14
MAC_OCTETS: Final = 16
OVERHEAD_OCTETS: Final = HEADER_OCTETS + MAC_OCTETS

WINDOW: Final = 64 * RESERVE
"""How far ahead of the last one a telecommand's counter may be: 64 restarts of the ground, or 16,384 lost frames.

A window of 64 frames would lock a station out by its own restart, which skips up to 256 counters."""
TELEMETRY_WINDOW: Final = 1 << 40
"""The same for telemetry: more than any outage loses, and a sender without storage skips 2^32."""

_OCF_OCTETS = 4
_TM_HEADER_OCTETS = 6


def _security_header(spi: int, counter: int) -> bytes:
    return spi.to_bytes(2, "big") + counter.to_bytes(12, "big")


class SecurityReport(NamedTuple):
    """Frame security report: what became of the last sealed frame, in turn with the CLCW (355.0-B-2, section 4.2.5).

    `alarm`: something was refused since the last frame that was accepted. `counter_low` are the low eight bits of the
    last accepted counter under `spi`.
    """

    alarm: bool = False
    bad_counter: bool = False
    bad_mac: bool = False
    bad_spi: bool = False
    spi: int = 0
    counter_low: int = 0

    def pack(self) -> int:
        """Build the 32-bit word: type 1, version 4."""
        return (0xC0000000 | self.alarm << 27 | self.bad_counter << 26 | self.bad_mac << 25 | self.bad_spi << 24
                | self.spi << 8 | self.counter_low)

    @classmethod
    def unpack(cls, word: int) -> SecurityReport:
        """Read a 32-bit operational control field. Raises LinkError where it is not a frame security report."""
        if word >> 28 != 0xC:
            raise LinkError(f"operational control field {word:#010x} is not a frame security report")
        return cls(bool(word >> 27 & 1), bool(word >> 26 & 1), bool(word >> 25 & 1), bool(word >> 24 & 1),
                   word >> 8 & 0xFFFF, word & 0xFF)


class _Seal:
    """What both directions share: sealing under one's own key in force, opening under those of `families`."""

    _taken: Collection[SlotState] = IN_FORCE

    def __init__(self, ring: KeyRing, window: int) -> None:
        self.ring = ring
        self._window = window

    def _seal(self, family: int, header: bytes, data: bytes, tail: bytes, *, encrypt: bool) -> bytes:
        association = self.ring.in_force(family)
        if association is None:
            raise StoreError(f"no key of {self.ring.keys.families.get(family, family)} is in force")
        security_header = _security_header(association.spi, self.ring.draw(association))
        clear = header + security_header + tail
        iv = security_header[2:]
        if encrypt:
            return security_header + association.cipher.encrypt(iv, data, clear)
        return security_header + data + association.cipher.encrypt(iv, b"", clear + data)

    def _open(self, families: Collection[int], header: bytes, field: bytes, tail: bytes, *,
              encrypted: bool) -> tuple[int, bytes]:
        if len(field) < OVERHEAD_OCTETS:
            raise RejectedFrameError(Reject.SPI, f"sealed field of {len(field)} octets, at least {OVERHEAD_OCTETS}")
        spi = field[0] << 8 | field[1]
        association = self.ring.find(spi) if family_of(spi) in families else None
        if association is None or association.state not in self._taken:
            raise RejectedFrameError(Reject.SPI, f"no key of SPI {spi} is in force here")
        security_header, rest = field[:HEADER_OCTETS], field[HEADER_OCTETS:]
        iv = security_header[2:]
        clear = header + security_header + tail
        try:
            if encrypted:
                data = association.cipher.decrypt(iv, rest, clear)
            else:
                data, mac = rest[:-MAC_OCTETS], rest[-MAC_OCTETS:]
                association.cipher.decrypt(iv, mac, clear + data)
        except InvalidTag as error:
            raise RejectedFrameError(Reject.MAC, f"MAC under SPI {spi} is wrong") from error
        counter = int.from_bytes(iv, "big")
        if counter <= association.used:
            raise RejectedFrameError(Reject.REPLAY, f"counter {counter} of SPI {spi} is used up to {association.used}")
        if counter - association.used > self._window:
            raise RejectedFrameError(Reject.WINDOW, f"counter {counter} of SPI {spi} is {counter - association.used} "
                                                    f"ahead, limit {self._window}")
        self._commit(association, counter)
        return spi, data

    def _commit(self, association: Association, counter: int) -> None:
        self.ring.commit(association, counter)


class CommandSeal(_Seal):
    """TC frames: always encrypted. The ground seals as station `family`; the satellite opens those of all stations."""

    def __init__(self, ring: KeyRing, family: int = TELEMETRY) -> None:
        super().__init__(ring, WINDOW)
        self._family = family
        self._stations = frozenset(ring.keys.families) - {TELEMETRY}

    def seal(self, header: bytes, data: bytes) -> bytes:
        """Return what stands between header and error control. StoreError where no key is in force."""
        return self._seal(self._family, header, data, b"", encrypt=True)

    def unseal(self, header: bytes, field: bytes) -> tuple[int, bytes]:
        """Return SPI and data of what stands there; RejectedFrameError says why it is not accepted."""
        return self._open(self._stations, header, field, b"", encrypted=True)


class TelemetrySeal(_Seal):
    """TM frames: authenticated and, where the mission asks, encrypted. Sealed on board, opened on the ground.

    The satellite chooses its key: the ground takes any that is not retired.
    """

    _taken = frozenset(SlotState) - {SlotState.RETIRED}

    def __init__(self, ring: KeyRing, *, encrypt: bool) -> None:
        super().__init__(ring, TELEMETRY_WINDOW)
        self._encrypt = encrypt

    def seal(self, body: bytes) -> bytes:
        """Seal a frame that has its operational control field and room for `OVERHEAD_OCTETS`, and no error control."""
        header, data, ocf = body[:_TM_HEADER_OCTETS], body[_TM_HEADER_OCTETS:-_OCF_OCTETS], body[-_OCF_OCTETS:]
        return header + self._seal(TELEMETRY, header, data, ocf, encrypt=self._encrypt) + ocf

    def unseal(self, body: bytes) -> bytes:
        """Undo `seal`; RejectedFrameError where the frame is not the satellite's, or was received before."""
        header, field, ocf = body[:_TM_HEADER_OCTETS], body[_TM_HEADER_OCTETS:-_OCF_OCTETS], body[-_OCF_OCTETS:]
        _, data = self._open((TELEMETRY,), header, field, ocf, encrypted=self._encrypt)
        return header + data + ocf

    def _commit(self, association: Association, counter: int) -> None:
        """Follow it: the station writes it down with the packets that the frame brought, both or neither."""
        self.ring.follow(association, counter)

"""Lossless compression of packets of one fixed length: POCKET+ (CCSDS 124.0-B-1), both ends.

Each packet is compressed by itself and at once. A *mask* marks the bits that have changed of late; only they are
sent, and how the mask has changed. Changes are repeated in the packets that follow, so that up to `robustness` lost
packets in a row do no harm; after more, the next packet that carries everything takes the decompressor up again.

The satellite's reporter and the ground's station call it, one series for each housekeeping structure. Bits to be picked
are kept as text of 0 and 1, because Python picks characters out of a text faster than bits out of a number. Own
implementation of the standard's equations; where they leave the order of bits open (within `k`) it does as ESA's
reference (tests/data/pocket_plus).
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Final

from flightsw.errors import LinkError
from flightsw.link.packets import crc16

ROBUSTNESS_MAX: Final = 7
_ROBUSTNESS: Final = 2
_RENEW_PACKETS: Final = 20
_COMPLETE_PACKETS: Final = 30
_SERIES = struct.Struct(">BBH")  # which series, count, CRC-16 of the packet as it was
_WINDOW: Final = 15  # the longest reach of V, four bits
_TERMINATOR: Final = "10"


def _count(number: int) -> str:
    """Self-delimiting code of a number from 1 (equation 9)."""
    if number == 1:
        return "0"
    if number < 34:
        return f"110{number - 2:05b}"
    return f"111{number - 2:0{2 * (number - 2).bit_length() - 6}b}"


def _runs(vector: int) -> str:
    """Run-length code of the ones in a vector, its last bit first (equation 10)."""
    parts, before = [], -1
    while vector:
        lowest = vector & -vector
        at = lowest.bit_length() - 1
        parts.append(_count(at - before))
        before = at
        vector ^= lowest
    return "".join(parts) + _TERMINATOR


def _picker(mask: int, bits: int) -> Callable[[str], str]:
    """What takes the bits out of a text of `bits` bits where a mask has ones, from the last to the first."""
    places = _places(mask, bits)
    if not places:
        return lambda _: ""
    if len(places) == 1:
        return itemgetter(*places)
    pick = itemgetter(*places)
    return lambda text: "".join(pick(text))


def _places(mask: int, bits: int) -> list[int]:
    return [bits - 1 - i for i in range(mask.bit_length()) if mask >> i & 1]


class Compressor:
    """Compresses packets of `octets` octets.

    Every `renew` packets bits that have calmed down leave the mask; every `send_mask` packets the whole mask is sent
    and every `complete` packets the whole packet, as both are in the first ones.
    """

    def __init__(self, octets: int, robustness: int, renew: int, send_mask: int, complete: int) -> None:
        if not 0 <= robustness <= ROBUSTNESS_MAX or not 1 <= 8 * octets <= 0xFFFF:
            raise LinkError(f"compression of {octets} octets, robustness {robustness}: 1..8191, 0..{ROBUSTNESS_MAX}")
        self._bits = 8 * octets
        self._robustness = robustness
        self._periods = (renew, send_mask, complete)
        self._sent = 0
        self._before = 0
        self._mask = self._build = 0
        self._changes: deque[int] = deque(maxlen=_WINDOW + 1)  # of the mask, the latest first
        self._renewals: deque[bool] = deque(maxlen=_WINDOW + 1)
        self._picked = 0
        self._pick = _picker(0, self._bits)

    def compress(self, packet: bytes) -> bytes:
        """Return one packet compressed; LinkError where its length is another."""
        if 8 * len(packet) != self._bits:
            raise LinkError(f"packet of {len(packet)} octets, compression is of {self._bits // 8}")
        now = int.from_bytes(packet, "big")
        t = self._sent
        first = t <= self._robustness
        renew, send_mask, complete = [not first and t % period == 0 for period in self._periods]
        send_mask, complete = first or send_mask, first or complete
        change = now ^ self._before if t else 0
        mask = change | (self._build if renew else self._mask)
        self._build = 0 if renew or t == 0 else self._build | change
        self._changes.appendleft(mask ^ self._mask if t else 0)
        self._renewals.appendleft(renew)
        self._mask, self._before, self._sent = mask, now, t + 1
        head, wanted = self._head(t)
        code = head + ("0" if send_mask or complete else "1")
        if send_mask or complete:
            code += "1" + _runs(mask ^ (mask << 1 & (1 << self._bits) - 1)) if send_mask else "0"
            code += "1" if complete else "0"
        text = f"{now:0{self._bits}b}"
        if complete:
            return _octets(code + _count(self._bits) + text)
        if wanted != self._picked:
            self._picked, self._pick = wanted, _picker(wanted, self._bits)
        return _octets(code + self._pick(text))

    def _head(self, t: int) -> tuple[str, int]:
        """What has happened to the mask within reach (equation 12), and which bits the decompressor needs for it."""
        reach = robustness = self._robustness
        if t > robustness:
            while reach < min(_WINDOW, t) and not self._changes[reach + 1]:
                reach += 1
        changed = 0
        for i in range(min(robustness, t) + 1):
            changed |= self._changes[i]
        code = _runs(changed) + f"{reach:04b}"
        if not (reach and changed):
            return code, self._mask
        calmed = changed & ~self._mask
        if not calmed:
            return code + "0", self._mask
        states = f"{calmed:0{self._bits}b}"
        twice = sum(list(self._renewals)[: reach + 1]) >= 2
        code += f"1{''.join([states[at] for at in reversed(_places(changed, self._bits))])}{int(twice)}"
        return code, self._mask | changed if twice else self._mask


def _octets(text: str) -> bytes:
    """Fill up to octets with zeros."""
    size = -(-len(text) // 8)
    return int(text.ljust(8 * size, "0"), 2).to_bytes(size, "big")


class _Bits:
    """Reads a compressed packet; LinkError where it ends too soon."""

    def __init__(self, data: bytes) -> None:
        self._text = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}" if data else ""
        self._at = 0

    def take(self, count: int) -> str:
        """Return the next `count` bits."""
        at = self._at
        self._at = at + count
        if self._at > len(self._text):
            raise LinkError(f"compressed packet of {len(self._text)} bits ends within its fields")
        return self._text[at:self._at]

    def count(self) -> int:
        """Read a number as `_count` writes it; 0 for the end of runs."""
        if self.take(1) == "0":
            return 1
        if self.take(1) == "0":
            return 0
        if self.take(1) == "0":
            return int(self.take(5), 2) + 2
        zeros = 0
        while self.take(1) == "0":
            zeros += 1
        return int("1" + self.take(zeros + 5), 2) + 2

    def runs(self, bits: int) -> int:
        """Read a vector as `_runs` writes it."""
        vector, at = 0, -1
        while step := self.count():
            at += step
            if at >= bits:
                raise LinkError(f"compressed packet names bit {at} of {bits}")
            vector |= 1 << at
        return vector

    def end(self) -> None:
        """Check that nothing but filling is left."""
        left = self._text[self._at:]
        if len(left) > 7 or "1" in left:
            raise LinkError(f"compressed packet has {len(left)} bits more than its fields")


class Decompressor:
    """Takes packets of `octets` octets up again, as they come or with some missing."""

    def __init__(self, octets: int) -> None:
        self._bits = 8 * octets
        self._mask: int | None = None  # None: not known any more
        self._before: str | None = None

    def decompress(self, data: bytes, lost: int) -> bytes | None:
        """Return the packet, or None while it cannot be known; `lost` packets are missing before it.

        LinkError where the data is no compressed packet of this length; after it a complete packet is waited for.
        """
        try:
            text = self._read(_Bits(data), lost)
        except LinkError:
            self.lose_step()
            raise
        return None if text is None else int(text, 2).to_bytes(self._bits // 8, "big")

    def lose_step(self) -> None:
        """Know nothing any more until the next complete packet."""
        self._mask = self._before = None

    def _read(self, bits: _Bits, lost: int) -> str | None:
        changed = bits.runs(self._bits)
        reach = int(bits.take(4), 2)
        calmed, twice = 0, False
        if reach and changed and bits.take(1) == "1":
            places = _places(changed, self._bits)
            for at, state in zip(reversed(places), bits.take(len(places)), strict=True):
                calmed |= int(state) << self._bits - 1 - at
            twice = bits.take(1) == "1"
        if lost > reach:
            self.lose_step()
        if self._mask is not None:
            self._mask = self._mask ^ changed if not reach else (self._mask | changed) & ~calmed
        complete = False
        if bits.take(1) == "0":
            if bits.take(1) == "1":
                self._mask = self._unfold(bits.runs(self._bits))
            complete = bits.take(1) == "1"
        if complete:
            if bits.count() != self._bits:
                raise LinkError(f"compressed packet is of another length than {self._bits} bits")
            self._before = bits.take(self._bits)
            bits.end()
            return self._before
        if self._mask is None or self._before is None:
            self._before = None
            return None
        places = _places(self._mask | changed if twice else self._mask, self._bits)
        fresh = list(self._before)
        for at, bit in zip(places, bits.take(len(places)), strict=True):
            fresh[at] = bit
        bits.end()
        self._before = "".join(fresh)
        return self._before

    def _unfold(self, edges: int) -> int:
        """Return the mask whose every bit, with the one after it, makes `edges`."""
        shift = 1
        while shift < self._bits:
            edges ^= edges << shift & (1 << self._bits) - 1
            shift *= 2
        return edges


class SeriesCompressor:
    """The satellite's end: packets that begin with the number of their series, each compressed within it."""

    def __init__(self) -> None:
        self._series: dict[int, tuple[Compressor, int]] = {}

    def pack(self, data: bytes) -> bytes:
        """Return one packet for the link: series, count, CRC-16 of what went in, and the compressed rest."""
        number = data[0]
        compressor, count = self._series.get(number) or (
            Compressor(len(data) - 1, _ROBUSTNESS, _RENEW_PACKETS, _COMPLETE_PACKETS, _COMPLETE_PACKETS), 0)
        self._series[number] = compressor, count + 1 & 0xFF
        return _SERIES.pack(number, count, crc16(data)) + compressor.compress(data[1:])


class SeriesDecompressor:
    """The ground's end; `octets` says how long a packet of each series is, its number included."""

    def __init__(self, octets: Mapping[int, int]) -> None:
        self._octets = octets
        self._series: dict[int, tuple[Decompressor, int]] = {}

    def unpack(self, data: bytes) -> bytes | None:
        """Return a packet as it went in, or None while too many before it are missing; LinkError where it is none.

        What does not have the CRC of what went in is never returned: the two ends are out of step, as after a
        restart of the satellite.
        """
        if len(data) < _SERIES.size or data[0] not in self._octets:
            raise LinkError(f"compressed report of {len(data)} octets is of no series of the dictionary")
        number, count, crc = _SERIES.unpack_from(data)
        decompressor, expected = self._series.get(number) or (Decompressor(self._octets[number] - 1), count)
        self._series[number] = decompressor, count + 1 & 0xFF
        rest = decompressor.decompress(data[_SERIES.size:], count - expected & 0xFF)
        if rest is None:
            return None
        packet = data[:1] + rest
        if crc16(packet) != crc:
            decompressor.lose_step()
            return None
        return packet

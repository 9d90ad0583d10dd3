"""Which compression of housekeeping is worth it, on a recorded run: `compression_day.py out/latest/ground.sqlite`.

Every structure of the run's archive that comes at least once a minute, in the order it was made, through what flies
and through what might have: all carry a count and a CRC as POCKET+ does, and all can be taken up again after a loss (a
whole packet every 30th).
"""

from __future__ import annotations

import sys
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

from flightsw.dictionary.telemetry import BY_SID
from flightsw.link.compress import SeriesCompressor
from flightsw.link.packets import TM_OVERHEAD_OCTETS, unpack_tm
from ground.archive import Archive

HEAD_OCTETS = 3  # count and CRC-16; the structure's id is in the packet
WHOLE_EVERY = 30


def series_of(path: Path) -> dict[int, list[bytes]]:
    """Source data of 3,25 by structure, by time."""
    found: dict[int, list[tuple[float, bytes]]] = defaultdict(list)
    with Archive(path, read_only=True) as archive:
        for packet in archive.packets():
            if (packet.service, packet.subservice) == (3, 25) and packet.obt_s is not None:
                data = unpack_tm(packet.octets).data
                found[data[0]].append((packet.obt_s, data))
    return {sid: [data for _, data in sorted(rows)] for sid, rows in found.items()
            if 0.0 < BY_SID[sid].period_s <= 60.0}


def pocket(packets: list[bytes]) -> Iterator[int]:
    series = SeriesCompressor()
    return (len(series.pack(packet)) for packet in packets)


def preset(packets: list[bytes]) -> Iterator[int]:
    """Deflate with ten packets of the run's first hour as dictionary, known to both ends."""
    typical = b"".join(packets[100:200:10])
    return (HEAD_OCTETS + _deflated(packet, typical) for packet in packets)


def against_whole(packets: list[bytes]) -> Iterator[int]:
    """Deflate with the last whole packet as dictionary."""
    for i, packet in enumerate(packets):
        if i % WHOLE_EVERY == 0:
            whole = packet
            yield HEAD_OCTETS + len(packet)
        else:
            yield HEAD_OCTETS + _deflated(packet, whole)


def octet_mask(packets: list[bytes]) -> Iterator[int]:
    """Octets that differ from the last whole packet, and a mask of which they are."""
    for i, packet in enumerate(packets):
        if i % WHOLE_EVERY == 0:
            whole = packet
            yield HEAD_OCTETS + len(packet)
        else:
            differ = sum(a != b for a, b in zip(packet, whole, strict=True))
            yield HEAD_OCTETS + -(-len(packet) // 8) + differ


def _deflated(packet: bytes, dictionary: bytes) -> int:
    packer = zlib.compressobj(9, zlib.DEFLATED, -9, 9, zlib.Z_DEFAULT_STRATEGY, dictionary)
    return len(packer.compress(packet)) + len(packer.flush())


CANDIDATES: dict[str, Callable[[list[bytes]], Iterator[int]]] = {
    "POCKET+ (flown)": pocket, "deflate, preset dictionary": preset, "deflate, last whole packet": against_whole,
    "octet mask, last whole packet": octet_mask,
}


def main() -> None:
    series = series_of(Path(sys.argv[1]))
    count = sum(map(len, series.values()))
    plain = sum(len(packet) for packets in series.values() for packet in packets)
    print(f"{count} packets of {len(series)} structures, {plain} octets of source data")
    for name, sizes in CANDIDATES.items():
        began_s = perf_counter()
        packed = {sid: sum(sizes(packets)) for sid, packets in series.items()}
        each_us = (perf_counter() - began_s) / count * 1e6
        total = sum(packed.values())
        headers = count * TM_OVERHEAD_OCTETS
        ratios = ", ".join(f"{sid}: {sum(map(len, series[sid])) / packed[sid]:.2f}" for sid in sorted(series))
        print(f"{name:<30} {plain / total:.2f} of source data, {(plain + headers) / (total + headers):.2f} of whole "
              f"packets, {each_us:.0f} us a packet ({ratios})")


if __name__ == "__main__":
    main()

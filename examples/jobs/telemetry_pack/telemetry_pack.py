"""Pack a telemetry file without loss, as small as a search can make it.

The file holds frames of 16 channels, int16 little-endian. Each unit is one channel of one block of 1024
frames: it is predicted from none or one of the three channels before it and by differences of order 0 to 3,
with and without its octets split into planes, and coded with every setting of LZMA that makes sense; the
shortest wins. Every record is decoded again and compared before the job ends.

The packed file is the checkpoint: records are appended whole, and a torn one is cut off at the start.
"""

import argparse
import itertools
import json
import lzma
import struct
import zlib
from pathlib import Path

import numpy as np
import sdk

CHANNELS = 16
FRAMES_A_BLOCK = 1024
RECORD = struct.Struct("<HBBBBBBBHI")  # block, channel, back, order, planes, lc, lp, pb, length, CRC-32
PACKED = Path("out/telemetry.pack")


def coder(lc: int, lp: int, pb: int) -> list[dict[str, int]]:
    """Return the LZMA filter chain of one setting."""
    return [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 4096, "lc": lc, "lp": lp, "pb": pb}]


def predicted(column: np.ndarray, order: int, planes: bool) -> bytes:
    """Return the differences of `order` (modulo 2^16), optionally with low octets before high ones."""
    values = column.astype("<u2")
    for _ in range(order):
        values = np.diff(values, prepend=np.uint16(0)).astype("<u2")
    octets = values.view(np.uint8).reshape(-1, 2)
    return (octets.T if planes else octets).tobytes()


def restored(octets: bytes, order: int, planes: bool) -> np.ndarray:
    """Undo `predicted`."""
    raw = np.frombuffer(octets, dtype=np.uint8)
    values = np.ascontiguousarray(raw.reshape(2, -1).T if planes else raw.reshape(-1, 2)).view("<u2").ravel()
    for _ in range(order):
        values = np.cumsum(values, dtype=np.uint16)
    return values.astype("<u2")


def reference(frames: np.ndarray, block: int, channel: int, back: int) -> np.ndarray:
    """Return the channel `back` places before this one, or zeros for none."""
    return frames[block, :, channel - back] if back else np.zeros(FRAMES_A_BLOCK, dtype="<u2")


def pack(frames: np.ndarray, block: int, channel: int) -> bytes:
    """Return the shortest record of one channel of one block."""
    candidates = []
    for back, order, planes in itertools.product(range(min(channel, 3) + 1), range(4), (False, True)):
        residual = frames[block, :, channel] - reference(frames, block, channel, back)
        octets = predicted(residual, order, planes)
        for lc, lp, pb in itertools.product(range(5), (0, 1), (0, 1, 2)):
            if lc + lp <= 4:
                packed = lzma.compress(octets, lzma.FORMAT_RAW, filters=coder(lc, lp, pb))
                candidates.append((len(packed), back, order, planes, lc, lp, pb, packed))
    length, back, order, planes, lc, lp, pb, packed = min(candidates)
    crc = zlib.crc32(packed)
    return RECORD.pack(block, channel, back, order, planes, lc, lp, pb, length, crc) + packed


def records(octets: bytes) -> list[tuple[int, tuple[int, ...], bytes]]:
    """Return (end, header, packed) of the whole records at the start of `octets`."""
    found, offset = [], 0
    while offset + RECORD.size <= len(octets):
        header = RECORD.unpack_from(octets, offset)
        packed = octets[offset + RECORD.size : offset + RECORD.size + header[8]]
        if len(packed) < header[8] or zlib.crc32(packed) != header[9]:
            break
        offset += RECORD.size + header[8]
        found.append((offset, header, packed))
    return found


def verify(frames: np.ndarray) -> None:
    """Unpack every record, from unpacked channels only; ArithmeticError unless each is what it was."""
    unpacked = np.zeros_like(frames)
    for _, (block, channel, back, order, planes, lc, lp, pb, _, _), packed in records(PACKED.read_bytes()):
        octets = lzma.decompress(packed, lzma.FORMAT_RAW, filters=coder(lc, lp, pb))
        column = restored(octets, order, bool(planes)) + reference(unpacked, block, channel, back)
        unpacked[block, :, channel] = column
        if not np.array_equal(column, frames[block, :, channel]):
            raise ArithmeticError(f"block {block} channel {channel} does not unpack to what it was")


def main() -> None:
    """Pack the first `--units` channel blocks and prove that they unpack to what they were."""
    frames = np.fromfile("in/telemetry.bin", dtype="<u2").reshape(-1, FRAMES_A_BLOCK, CHANNELS)
    work = list(itertools.product(range(len(frames)), range(CHANNELS)))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=len(work))
    units = min(parser.parse_args().units, len(work))
    PACKED.touch()
    kept = records(PACKED.read_bytes())[:units]
    with PACKED.open("ab") as out:
        out.truncate(kept[-1][0] if kept else 0)
        sdk.progress(len(kept))
        for number in range(len(kept), units):
            block, channel = work[number]
            out.write(pack(frames, block, channel))
            out.flush()
            sdk.progress(number + 1)
    verify(frames)
    before, after = units * FRAMES_A_BLOCK * 2, PACKED.stat().st_size
    summary = {"units": units, "octets_before": before, "octets_after": after, "verified": True}
    Path("out/summary.json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Housekeeping packets turned on their side: one compressed column for each point, and the packets back from them.

Owns how a block of packets of one structure is stored. `Archive` seals full blocks with it and reads single points
out of them; it does no I/O. Packets of a structure differ in few octets, so a column is the difference of each value
to the one before, as whole numbers, with the octets of equal weight together, deflated: a third to a hundredth of
its size. Nothing is rounded: `packets` gives back every octet. The CRC that closes a packet is computed again.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from flightsw.dictionary.telemetry import PACK, Housekeeping
from flightsw.link.packets import crc16

Array: TypeAlias = npt.NDArray[np.float64]

_HEADER_OCTETS = 20  # primary and secondary header, time, structure id: before the first point
_CRC_OCTETS = 2
_LEVEL = 1  # of zlib: 6 takes three times as long and saves 3 %
_DTYPE = {kind: np.dtype(f">{code}") for kind, code in
          {"u8": "u1", "u16": "u2", "u32": "u4", "i32": "i4", "f32": "f4", "f64": "f8"}.items()}


class Layout(NamedTuple):
    """Where the points of a structure stand in its packets: name, type and first octet of each."""

    sid: int
    name: str
    octets: int  # of a whole packet
    columns: tuple[tuple[str, str, int], ...]

    def to_text(self) -> str:
        """Return the columns as the archive keeps them."""
        return json.dumps(self.columns)


def layout_of(row: Housekeeping) -> Layout:
    """Return the layout of a structure of the dictionary."""
    columns, at = [], _HEADER_OCTETS
    for point in row.points:
        columns.append((point.name, point.kind, at))
        at += struct.calcsize(PACK[point.kind])
    return Layout(row.sid, row.name, at + _CRC_OCTETS, tuple(columns))


class Column(NamedTuple):
    """One point of a block: its least and greatest finite value (None where there is none), and its octets."""

    name: str
    minimum: float | None
    maximum: float | None
    octets: bytes


def columns_of(layout: Layout, packets: Sequence[bytes]) -> tuple[bytes, list[Column]]:
    """Return the packets' headers, packed, and one column a point."""
    matrix = np.frombuffer(b"".join(packets), np.uint8).reshape(len(packets), layout.octets)
    columns = []
    for name, kind, at in layout.columns:
        cells = np.ascontiguousarray(matrix[:, at : at + _DTYPE[kind].itemsize])
        values = cells.view(_DTYPE[kind])[:, 0].astype(np.float64)
        finite = values[np.isfinite(values)]
        least, greatest = (float(finite.min()), float(finite.max())) if finite.size else (None, None)
        columns.append(Column(name, least, greatest, _pack(cells.view(f">u{cells.shape[1]}")[:, 0])))
    header = matrix[:, :_HEADER_OCTETS]
    return zlib.compress(np.diff(header, axis=0, prepend=np.zeros((1, _HEADER_OCTETS), np.uint8)).T.tobytes(),
                         _LEVEL), columns


def values_of(kind: str, octets: bytes) -> Array:
    """Return the values of one column."""
    words = _unpack(octets, _DTYPE[kind].itemsize)
    return words.view(_DTYPE[kind].newbyteorder("=")).astype(np.float64)


def raw_values(kind: str, at: int, packets: Sequence[bytes]) -> Array:
    """Return the values of one point out of whole packets."""
    if not packets:
        return np.empty(0)
    matrix = np.frombuffer(b"".join(packets), np.uint8).reshape(len(packets), -1)
    cells = np.ascontiguousarray(matrix[:, at : at + _DTYPE[kind].itemsize])
    return cells.view(_DTYPE[kind])[:, 0].astype(np.float64)


def packets_of(layout: Layout, header: bytes, columns: Sequence[bytes]) -> list[bytes]:
    """Return the packets of a block, octet for octet; `columns` follow those of `layout`."""
    turned = np.frombuffer(zlib.decompress(header), np.uint8).reshape(_HEADER_OCTETS, -1)
    count = turned.shape[1]
    matrix = np.empty((count, layout.octets - _CRC_OCTETS), np.uint8)
    matrix[:, :_HEADER_OCTETS] = np.cumsum(turned, axis=1, dtype=np.uint8).T
    for (_, kind, at), octets in zip(layout.columns, columns, strict=True):
        width = _DTYPE[kind].itemsize
        matrix[:, at : at + width] = _unpack(octets, width).astype(f">u{width}").view(np.uint8).reshape(count, width)
    bodies = matrix.tobytes()
    size = matrix.shape[1]
    found = (bodies[i : i + size] for i in range(0, len(bodies), size))
    return [body + crc16(body).to_bytes(2, "big") for body in found]


def pack_times(times_s: Array) -> bytes:
    """Pack times of a block."""
    return _pack(times_s.astype(">f8").view(">u8"))


def unpack_times(octets: bytes) -> Array:
    """Unpack times of a block."""
    return _unpack(octets, 8).view(np.float64)


def pack_numbers(numbers: Sequence[int]) -> bytes:
    """Pack ids of a block."""
    return _pack(np.array(numbers, ">u8"))


def unpack_numbers(octets: bytes) -> list[int]:
    """Unpack ids of a block."""
    found: list[int] = _unpack(octets, 8).tolist()
    return found


def _pack(words: npt.NDArray[np.unsignedinteger]) -> bytes:
    """Deflate unsigned big-endian words: differences modulo their size, octets of equal weight together."""
    native = words.astype(words.dtype.newbyteorder("="))
    steps = np.diff(native, prepend=native.dtype.type(0)).astype(words.dtype)
    return zlib.compress(steps.view(np.uint8).reshape(words.size, -1).T.tobytes(), _LEVEL)


def _unpack(octets: bytes, width: int) -> npt.NDArray[np.unsignedinteger]:
    turned = np.frombuffer(zlib.decompress(octets), np.uint8).reshape(width, -1)
    steps = np.ascontiguousarray(turned.T).view(f">u{width}")[:, 0]
    native = np.dtype(f"u{width}")
    return np.cumsum(steps.astype(native), dtype=native)

"""Throw mutated octets at every parser of the link that is written in Python: `make fuzz`, or as a script.

    python tests/flightsw/parser_fuzz.py EXECUTIONS [SEED]

A parser returns, or raises LinkError; a decoder of a stream never raises, and what it keeps is bounded. Samples are
valid, then bits are flipped and pieces cut, doubled, moved and made up; half of the time the CRC is put right again,
so that what lies behind it is reached. The same seed gives the same octets.
"""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from flightsw.dictionary.commands import COMMANDS
from flightsw.dictionary.events import EVENTS
from flightsw.dictionary.telemetry import (
    HOUSEKEEPING,
    POINTS,
    pack_event,
    pack_housekeeping,
    unpack_event,
    unpack_housekeeping,
)
from flightsw.errors import LinkError
from flightsw.link import cfdp_pdu
from flightsw.link.cobs import UnitDecoder, encode_unit
from flightsw.link.coding import CaduSynchroniser, CltuDecoder, encode_cltu
from flightsw.link.compress import SeriesCompressor, SeriesDecompressor
from flightsw.link.frames import VC_HOUSEKEEPING, Clcw, TmDeframer, TmFramer
from flightsw.link.packets import Telecommand, Telemetry, crc16, pack_tc, pack_tm, unpack_tc, unpack_tm
from flightsw.link.services import unpack_parameter, unpack_verification
from flightsw.link.stack import Stack
from flightsw.link.tc_frames import TcKind, build_tc_frame, parse_tc_frame

SCID = 42
_KEPT_OCTETS_MAX = 70_000
_ARGUMENT = {"text": "words", "f32": 1.5, "f64": 2.5}

Parser = Callable[[bytes], object]


def _samples() -> dict[str, list[bytes]]:
    pool: list[Any] = [0 if point.kind.startswith("u") else 1.5 for point in POINTS]
    reports = [pack_housekeeping(row.sid, pool) for row in HOUSEKEEPING]
    events = [pack_event(row, tuple(_ARGUMENT.get(kind, 7) for kind in row.args)) for row in EVENTS]
    tm = [pack_tm(Telemetry(100, 1, 3, 25, 1, 0, 1e9, data)) for data in reports]
    tc = [pack_tc(Telecommand(100, 1, 9, row.service, row.subservice, 0, bytes(12))) for row in COMMANDS.values()]
    framer = TmFramer(SCID, {VC_HOUSEKEEPING: 1 << 20})
    for packet in tm * 3:
        framer.submit(VC_HOUSEKEEPING, packet)
    tc_frames = [build_tc_frame(packet, SCID) for packet in tc]
    tc_frames += [build_tc_frame(b"\0", SCID, kind=TcKind.BC), build_tc_frame(b"\x82\0\7", SCID, kind=TcKind.BC)]
    header = cfdp_pdu.Header(1, 2, 3)
    pdus = [cfdp_pdu.pack(header, pdu) for pdu in (
        cfdp_pdu.Metadata(5000, "results/one.bin", "one.bin"), cfdp_pdu.FileData(100, bytes(200)),
        cfdp_pdu.Eof(cfdp_pdu.Condition.NO_ERROR, 0x1234, 5000), cfdp_pdu.Nak(0, 5000, ((0, 100), (200, 300))))]
    compressor = SeriesCompressor()
    compressed = [compressor.pack(data) for data in reports * 8]
    return {"compressed": compressed, "reports": reports, "events": events, "TM packets": tm, "TC packets": tc,
            "TC frames": tc_frames, "TM frames": framer.frames(100), "CFDP": pdus, "short": [bytes(10), bytes(4)]}


def _lines(samples: dict[str, list[bytes]]) -> dict[str, list[bytes]]:
    """What goes over the line, a few units at a time."""
    lines: dict[str, list[bytes]] = {"CLTU": [], "COBS": []}
    for frame in samples["TC frames"]:
        lines["CLTU"].append(encode_cltu(frame))
        lines["COBS"].append(encode_unit(frame))
    for coded in (False, True):
        sender = Stack(reed_solomon=coded).sender(SCID, {VC_HOUSEKEEPING: 1 << 20})
        for packet in samples["TM packets"]:
            sender.submit(VC_HOUSEKEEPING, packet)
        lines[f"CADU {coded}"] = [sender.take(2 * sender.unit_octets) for _ in range(4)]
    return lines


def mutate(draw: random.Random, octets: bytes, others: Sequence[bytes]) -> bytes:
    """Return `octets` with one to four things wrong."""
    wrong = bytearray(octets)
    for _ in range(draw.randrange(1, 5)):
        at = draw.randrange(len(wrong) + 1)
        how = draw.randrange(6)
        if how == 0 and at < len(wrong):
            wrong[at] ^= 1 << draw.randrange(8)
        elif how == 1:
            del wrong[at : at + draw.randrange(1, 9)]
        elif how == 2:
            wrong[at:at] = draw.randbytes(draw.randrange(1, 9))
        elif how == 3:
            wrong[at:at] = wrong[at : at + draw.randrange(1, 30)]
        elif how == 4 and at < len(wrong):
            wrong[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF))
        else:
            wrong[at:] = draw.choice(others)[at:]
    if draw.random() < 0.5 and len(wrong) > 2:
        wrong[-2:] = crc16(bytes(wrong[:-2])).to_bytes(2, "big")
    return bytes(wrong)


def run(executions: int, seed: int = 1) -> dict[str, int]:
    """Execute; return how many inputs each parser took. Raises what a parser should not have raised."""
    draw = random.Random(seed)
    samples = _samples()
    lines = _lines(samples)
    deframer, cltus, units = TmDeframer(SCID), CltuDecoder(), UnitDecoder()
    plain, coded = CaduSynchroniser(), CaduSynchroniser(interleave=1)
    series = SeriesDecompressor({data[0]: len(data) for data in samples["reports"]})
    parsers: list[tuple[str, Parser, list[bytes], Callable[[], int]]] = [
        ("TC packets", unpack_tc, samples["TC packets"], int),
        ("TM packets", unpack_tm, samples["TM packets"], int),
        ("housekeeping", unpack_housekeeping, samples["reports"], int),
        ("compressed housekeeping", series.unpack, samples["compressed"], int),
        ("events", unpack_event, samples["events"], int),
        ("verification", lambda octets: unpack_verification(2, octets), samples["short"], int),
        ("parameters", unpack_parameter, samples["short"], int),
        ("control words", lambda octets: Clcw.unpack(int.from_bytes(octets[:4], "big")), samples["short"], int),
        ("TC frames", lambda octets: parse_tc_frame(octets, SCID), samples["TC frames"], int),
        ("CFDP", cfdp_pdu.unpack, samples["CFDP"], int),
        ("TM frames", deframer.push, samples["TM frames"],
         lambda: max((len(channel.partial or b"") for channel in deframer._channels.values()), default=0)),
        ("CLTUs", cltus.push, lines["CLTU"], lambda: len(cltus._buffer) + len(cltus._taken)),
        ("units", units.push, lines["COBS"], lambda: len(units._buffer)),
        ("CADUs", plain.push, lines["CADU False"], lambda: len(plain._rest)),
        ("coded CADUs", coded.push, lines["CADU True"], lambda: len(coded._rest)),
    ]
    raises = {"TM frames", "CLTUs", "units", "CADUs", "coded CADUs"}.isdisjoint
    counts = dict.fromkeys((name for name, *_ in parsers), 0)
    for number in range(executions):
        name, parse, good, kept_octets = parsers[number % len(parsers)]
        octets = mutate(draw, draw.choice(good), good)
        try:
            with contextlib.suppress(*(LinkError,) if raises((name,)) else ()):
                parse(octets)
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}, execution {number}: {octets.hex()}") from error
        assert kept_octets() <= _KEPT_OCTETS_MAX, name
        counts[name] += 1
    return counts


def main() -> int:
    """Run in pieces, so that a failure names a seed that shows it soon."""
    executions, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    began_s, done = time.monotonic(), 0
    while done < executions:
        piece = min(100_000, executions - done)
        run(piece, seed)
        done, seed = done + piece, seed + 1
        print(f"\r{time.monotonic() - began_s:7.0f} s  Python parsers {done:,}", end="", flush=True)
    print(f"\n{done:,} executions, none failed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

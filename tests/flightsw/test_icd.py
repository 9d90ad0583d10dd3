"""The interface document and what flies build and read the same octets, on every row and every frame."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from construct import Construct
from hypothesis import given, settings
from hypothesis import strategies as st

from flightsw.dictionary import commands, events, reports, telemetry
from flightsw.dictionary.commands import COMMANDS, Arg, Command, pack_arguments, request_of
from flightsw.dictionary.events import EVENTS, EventRow
from flightsw.dictionary.reports import REPORTS, ReportRow
from flightsw.dictionary.telemetry import HOUSEKEEPING, OCTETS_MAX, POINT_INDEX, POINTS, Housekeeping
from flightsw.link import icd
from flightsw.link.compress import SeriesCompressor
from flightsw.link.frames import VC_REPORTS, Clcw, TmFramer
from flightsw.link.services import pack_parameter, pack_verification
from flightsw.link.tc_frames import TcKind, build_tc_frame

WHOLE = {"u8": (0, 0xFF), "u16": (0, 0xFFFF), "u32": (0, 0xFFFFFFFF), "i32": (-(2**31), 2**31 - 1)}
Value = float | int | str
FEW = settings(max_examples=5)  # of each of some two hundred rows


def values(kind: str) -> st.SearchStrategy[Value]:
    if kind in WHOLE:
        return st.integers(*WHOLE[kind])
    if kind == "text":
        return st.text(max_size=30)
    if kind == "octets":
        return st.binary(max_size=OCTETS_MAX).map(bytes.hex)
    return st.floats(width=32 if kind == "f32" else 64)


def plain(kind: str, value: object) -> object:
    """A value as construct has it."""
    return bytes.fromhex(value) if kind == "octets" and isinstance(value, str) else value


def agree(layout: Construct, names: Sequence[str], kinds: Sequence[str], given_values: Sequence[object],
          octets: bytes) -> None:
    """Both build `octets`, and the document reads the values out of them."""
    shown = {name: plain(kind, value) for name, kind, value in zip(names, kinds, given_values, strict=True)}
    assert layout.build(shown) == octets
    read = layout.parse(octets)
    for name, value in shown.items():
        assert read[name] == value or (isinstance(value, float) and math.isnan(value) and math.isnan(read[name])), name


@pytest.mark.parametrize("row", HOUSEKEEPING, ids=lambda row: row.name)
@FEW
@given(data=st.data())
def test_housekeeping(row: Housekeeping, data: st.DataObject) -> None:
    pool: list[float | int] = [0] * len(POINTS)
    drawn = [data.draw(values(point.kind)) for point in row.points]
    for point, value in zip(row.points, drawn, strict=True):
        assert not isinstance(value, str)
        pool[POINT_INDEX[point.name]] = value
    agree(icd.HOUSEKEEPING[row.name], [point.name for point in row.points], [point.kind for point in row.points],
          drawn, telemetry.pack_housekeeping(row.sid, pool))


@pytest.mark.parametrize("row", EVENTS, ids=lambda row: row.name)
@FEW
@given(data=st.data())
def test_events(row: EventRow, data: st.DataObject) -> None:
    drawn = [data.draw(values(kind)) for kind in row.args]
    agree(icd.EVENTS[row.name], [f"argument{i}" for i in range(len(drawn))], row.args, drawn,
          events_octets(row, drawn))


def events_octets(row: EventRow, drawn: Sequence[Value]) -> bytes:
    assert events.BY_NUMBER[row.number] is row
    return telemetry.pack_event(row, drawn)


@pytest.mark.parametrize("row", REPORTS, ids=lambda row: row.name)
@FEW
@given(data=st.data())
def test_reports(row: ReportRow, data: st.DataObject) -> None:
    drawn = [data.draw(values(field.kind)) for field in row.fields]
    agree(icd.REPORTS[row.name], [field.name for field in row.fields], [field.kind for field in row.fields], drawn,
          reports.pack_report(row, drawn))


def argument(arg: Arg) -> st.SearchStrategy[Value]:
    if arg.kind == "request":
        return st.sampled_from(["ping", "mode SAFE", "hk.period 1 5"])
    if arg.kind == "text":
        return st.text(alphabet="abc é", max_size=int(arg.high) // 2)
    if arg.enum is not None:
        return st.sampled_from([int(member) for member in arg.enum])
    if arg.kind in WHOLE:
        return st.integers(int(arg.low), int(arg.high))
    # What a 32-bit float cannot say is rounded on both sides, but not beyond a bound.
    return st.integers(math.ceil(arg.low), math.floor(arg.high)).map(float).filter(lambda value: abs(value) < 2**24)


@pytest.mark.parametrize("row", COMMANDS.values(), ids=lambda row: row.verb)
@FEW
@given(data=st.data())
def test_telecommands(row: Command, data: st.DataObject) -> None:
    drawn = [data.draw(argument(arg)) for arg in row.args]
    shown = [request_of(str(value))._asdict() if arg.kind == "request" else value
             for arg, value in zip(row.args, drawn, strict=True)]
    octets = pack_arguments(row, drawn)
    assert commands.find(row.service, row.subservice, octets) is row
    agree(icd.COMMANDS[row.verb], [arg.name for arg in row.args], ["" for _ in row.args], shown, octets)


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFF), st.text(max_size=30))
def test_verification_and_parameters(request_id: int, code: int, text: str) -> None:
    fields = {"request_id": request_id, "code": code, "step": code, "text": text}
    for stage, layout in icd.VERIFICATION.items():
        octets = pack_verification(request_id, stage, code, text)
        assert layout.build(fields) == octets
        assert all(value == fields[name] for name, value in layout.parse(octets).items() if name in fields)
    assert icd.PARAMETER_REPORT.build({"parameter": code, "value": 1.5}) == pack_parameter(code, 1.5)


def test_compressed_housekeeping() -> None:
    read = icd.COMPRESSED_HOUSEKEEPING.parse(SeriesCompressor().pack(bytes((3, 1, 2))))
    assert (read.structure, read.count, read.crc) == (3, 0, icd.crc16(bytes((3, 1, 2))))


@given(st.builds(Clcw, st.integers(0, 63), st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.booleans(),
                 st.integers(0, 3), st.integers(0, 255)))
def test_control_word(clcw: Clcw) -> None:
    octets = clcw.pack().to_bytes(4, "big")
    assert icd.CLCW.build(clcw._asdict()) == octets
    read = icd.CLCW.parse(octets)
    assert Clcw(*(read[name] for name in Clcw._fields)) == clcw


@pytest.mark.parametrize("octets", [223, 1115])
def test_telemetry_frames(octets: int) -> None:
    framer = TmFramer(42, {VC_REPORTS: 8192}, frame_octets=octets)
    for _ in range(3):
        framer.submit(VC_REPORTS, bytes.fromhex("0864c0000002") + bytes(3))
        frame = framer.next_frame()
        assert frame is not None
        read = icd.tm_frame(octets).parse(frame)
        shown = read.body.value
        assert (shown.version, shown.scid, shown.vcid, shown.has_ocf, shown.first_header) == (0, 42, 0, 1, 0)
        assert icd.tm_frame(octets).build({"body": {"value": shown}}) == frame


@given(st.binary(min_size=1, max_size=200), st.integers(0, 63), st.sampled_from([TcKind.AD, TcKind.BD]),
       st.integers(0, 255))
def test_telecommand_frames(data: bytes, map_id: int, kind: TcKind, sequence: int) -> None:
    frame = build_tc_frame(data, 42, 3, map_id, kind=kind, sequence=sequence)
    shown = icd.TC_FRAME.parse(frame).body.value
    assert (shown.scid, shown.vcid, shown.map_id, shown.sequence, shown.data) == (42, 3, map_id, sequence, data)
    assert shown.bypass << 1 | shown.control == kind
    assert icd.TC_FRAME.build({"body": {"value": shown}}) == frame
    sealed = icd.sealed(len(data)).build({"spi": 3, "vector": bytes(12), "data": data, "mac": bytes(16)})
    assert len(sealed) == len(data) + 30

"""The dictionary's tables hold together, and what they pack is what they unpack; the rest is refused."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.dictionary import commands, telemetry
from flightsw.dictionary.commands import COMMANDS, Arg, Command, Context, FailureCode, Rejection, Value
from flightsw.dictionary.events import EVENTS, EventRow
from flightsw.dictionary.parameters import BY_NAME, PARAMETERS, check_value
from flightsw.dictionary.sensors import INDEX, SENSORS, fitted_names
from flightsw.dictionary.telemetry import (
    HOUSEKEEPING,
    MISSING,
    OCTETS_MAX,
    PACK,
    POINT_INDEX,
    POINTS,
    TEXT_MAX_OCTETS,
    Housekeeping,
    pack_event,
    pack_housekeeping,
    pack_values,
    unpack_event,
    unpack_housekeeping,
    unpack_values,
)
from flightsw.errors import LinkError
from flightsw.state import LEGAL_TRANSITIONS, NODE_COUNT_MAX, JobSpec, Mode, Pause, SetMode, SubmitJob

RANGE_OF_KIND = {"u8": (0, 0xFF), "u16": (0, 0xFFFF), "u32": (0, 0xFFFFFFFF), "i32": (-(2**31), 2**31 - 1)}
KINDS = [*PACK, "text", "octets"]
IDS = [row.verb for row in COMMANDS.values()]


def numbers(kind: str) -> st.SearchStrategy[Value]:
    if kind == "text":
        return st.text(max_size=TEXT_MAX_OCTETS // 4)
    if kind == "octets":
        return st.binary(max_size=OCTETS_MAX).map(bytes.hex)
    if kind in RANGE_OF_KIND:
        return st.integers(*RANGE_OF_KIND[kind])
    return st.floats(width=32 if kind == "f32" else 64)


def same(left: Sequence[Value], right: Sequence[Value]) -> bool:
    """Equal, where NaN equals NaN."""
    return repr(tuple(left)) == repr(tuple(right))


# --- tables ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        [row.name for row in SENSORS],
        [row.name for row in POINTS],
        [row.name for row in EVENTS],
        [row.number for row in EVENTS],
        [row.name for row in PARAMETERS],
        [row.number for row in PARAMETERS],
        [row.name for row in HOUSEKEEPING],
        [row.sid for row in HOUSEKEEPING],
        [(row.service, row.subservice, row.function) for row in COMMANDS.values()],
    ],
    ids=["sensor", "point", "event", "event number", "parameter", "parameter number", "structure", "sid", "command"],
)
def test_names_and_numbers_are_unique(keys: list[object]) -> None:
    assert len(set(keys)) == len(keys)


def test_limits_name_existing_parameters_of_the_same_unit() -> None:
    named = [(row.name, row.unit, limit) for row in (*SENSORS, *POINTS) for limit in (row.upper, row.lower) if limit]
    assert len(named) > 20
    for name, unit, limit in named:
        assert limit in BY_NAME, f"{name} is limited by {limit}"
        assert BY_NAME[limit].unit == unit, f"{name} in {unit}, {limit} in {BY_NAME[limit].unit}"


def test_limits_can_be_crossed_by_a_reading_that_is_believed() -> None:
    """A limit outside its sensor's range would never be seen to be crossed."""
    for row in SENSORS:
        if row.upper:
            assert BY_NAME[row.upper].high < row.high, row.name
        if row.lower:
            assert BY_NAME[row.lower].low > row.low, row.name


def test_sensor_rows_are_sane() -> None:
    for row in SENSORS:
        assert row.low < row.high, row.name
        assert 0.0 < row.accuracy < row.high - row.low, row.name
        assert row.max_age_s > 0.0, row.name


def test_every_sensor_is_a_point_of_the_structure_that_it_names() -> None:
    structures = {row.name: {point.name for point in row.points} for row in HOUSEKEEPING}
    for row in SENSORS:
        assert row.name in structures[row.packet]
        assert POINTS[POINT_INDEX[row.name]].unit == row.unit


@pytest.mark.parametrize("nodes", range(1, NODE_COUNT_MAX + 1))
def test_fitted_sensors_follow_the_number_of_nodes(nodes: int) -> None:
    fitted = fitted_names(nodes)
    assert [INDEX[name] for name in fitted] == list(range(len(fitted)))
    assert f"die{nodes - 1}_c" in fitted
    assert f"node{nodes - 1}_w" in fitted
    assert f"die{nodes}_c" not in fitted


def test_parameters_default_inside_their_bounds_and_nothing_outside_is_taken() -> None:
    for row in PARAMETERS:
        assert row.low <= row.default <= row.high, row.name
        assert row.low < row.high, row.name
        for value in (row.low, row.default, row.high):
            assert check_value(row.name, value) is None
        for value in (math.nextafter(row.low, -math.inf), math.nextafter(row.high, math.inf), math.nan, math.inf,
                      -math.inf, 10**400):
            problem = check_value(row.name, value)
            assert problem is not None
            assert row.name in problem
            assert row.unit in problem
            assert f"{row.low:g}..{row.high:g}" in problem
    assert "no parameter 'nonsense'" in str(check_value("nonsense", 1.0))


def test_mode_codes_are_four_bits_apart_and_every_mode_can_reach_safe() -> None:
    codes = [int(mode) for mode in Mode]
    assert all((a ^ b).bit_count() >= 4 for a in codes for b in codes if a != b)
    assert set(LEGAL_TRANSITIONS) == set(Mode)
    assert all(Mode.SAFE in LEGAL_TRANSITIONS[mode] for mode in Mode if mode is not Mode.SAFE)
    assert all(mode not in follow for mode, follow in LEGAL_TRANSITIONS.items())
    assert all(Mode.BOOT not in follow for follow in LEGAL_TRANSITIONS.values())


# --- housekeeping ------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", HOUSEKEEPING, ids=lambda row: row.name)
@given(data=st.data())
def test_housekeeping_comes_back_as_it_was_packed(row: Housekeeping, data: st.DataObject) -> None:
    values = [data.draw(numbers(point.kind)) for point in row.points]
    pool: list[float | int] = [0] * len(POINTS)
    for point, value in zip(row.points, values, strict=True):
        assert not isinstance(value, str)
        pool[POINT_INDEX[point.name]] = value
    found, unpacked = unpack_housekeeping(pack_housekeeping(row.sid, pool))
    assert found is row
    assert same(unpacked, values)


@pytest.mark.parametrize("row", HOUSEKEEPING, ids=lambda row: row.name)
def test_missing_values_stay_missing(row: Housekeeping) -> None:
    pool = [MISSING if point.kind.startswith("f") else 0 for point in POINTS]
    _, values = unpack_housekeeping(pack_housekeeping(row.sid, pool))
    for point, value in zip(row.points, values, strict=True):
        assert math.isnan(value) == point.kind.startswith("f"), point.name


@pytest.mark.parametrize("row", HOUSEKEEPING, ids=lambda row: row.name)
def test_housekeeping_of_the_wrong_size_is_refused(row: Housekeeping) -> None:
    octets = pack_housekeeping(row.sid, [0] * len(POINTS))
    for wrong in (octets[:-1], octets + b"\0", octets[:1]):
        with pytest.raises(LinkError, match=f"{row.name} has {len(wrong)} octets, dictionary says {len(octets)}"):
            unpack_housekeeping(wrong)


@pytest.mark.parametrize("data", [b"", b"\x00", b"\xff" * 80])
def test_housekeeping_of_no_known_structure_is_refused(data: bytes) -> None:
    with pytest.raises(LinkError, match="not in the dictionary"):
        unpack_housekeeping(data)


# --- values and events ---------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(KINDS).flatmap(lambda kind: st.tuples(st.just(kind), numbers(kind))), max_size=8),
       st.binary(max_size=3))
def test_values_come_back_and_other_lengths_are_refused(fields: list[tuple[str, Value]], head: bytes) -> None:
    kinds = [kind for kind, _ in fields]
    values = [value for _, value in fields]
    octets = head + pack_values(kinds, values)
    assert same(unpack_values(kinds, octets, len(head)), values)
    with pytest.raises(LinkError, match="octets more than"):
        unpack_values(kinds, octets + b"\0", len(head))
    if fields:
        with pytest.raises(LinkError, match="ends at"):
            unpack_values(kinds, octets[:-1], len(head))


@given(st.lists(st.sampled_from(KINDS), max_size=6), st.binary(max_size=60))
def test_unpacking_anything_gives_values_or_a_link_error(kinds: list[str], data: bytes) -> None:
    try:
        values = unpack_values(kinds, data)
    except LinkError:
        return
    assert len(values) == len(kinds)


@pytest.mark.parametrize(
    ("kind", "value"),
    [("u8", -1), ("u8", 256), ("u16", 0x10000), ("u32", -1), ("u32", 2**32), ("i32", 2**31), ("u8", 1.5),
     ("f32", 1e39), ("f32", 10**400), ("f64", "text")],
)
def test_value_that_does_not_fit_its_type_is_named(kind: str, value: Value) -> None:
    with pytest.raises(LinkError, match=f"does not fit type {kind}"):
        pack_values([kind], [value])


def test_wrong_number_of_values_is_refused() -> None:
    with pytest.raises(LinkError, match="1 values for 2 fields"):
        pack_values(["u8", "u8"], [1])


@given(st.text(alphabet=st.characters(), min_size=1))
def test_text_is_cut_between_characters_never_inside_one(text: str) -> None:
    """Any text goes down, also one with surrogates such as the name of a file that is no UTF-8."""
    octets = pack_values(["text"], [text * 20])
    assert octets[0] == len(octets) - 1 <= TEXT_MAX_OCTETS
    assert octets[0] > TEXT_MAX_OCTETS - 4 or octets[0] >= 20
    (read,) = unpack_values(["text"], octets)
    assert str(read) in (text * 20).encode("utf-8", "backslashreplace").decode()


def test_text_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(LinkError, match="not UTF-8"):
        unpack_values(["text"], b"\x01\xff")


@pytest.mark.parametrize("row", EVENTS, ids=lambda row: row.name)
@given(data=st.data())
def test_every_event_comes_back_and_formats(row: EventRow, data: st.DataObject) -> None:
    args = [data.draw(numbers(kind)) for kind in row.args]
    found, unpacked = unpack_event(pack_event(row, args))
    assert found is row
    assert same(unpacked, args)
    text = row.text.format(*unpacked)
    assert "{" not in row.text or text != row.text


def test_every_argument_of_an_event_is_shown() -> None:
    for row in EVENTS:
        for i in range(len(row.args)):
            assert f"{{{i}" in row.text, f"{row.name} does not show argument {i}"


def test_event_that_is_none_is_refused() -> None:
    for data, problem in ((b"", "0 octets"), (b"\0", "1 octets"), (b"\xff\xff", "event 65535 is not")):
        with pytest.raises(LinkError, match=problem):
            unpack_event(data)
    with pytest.raises(LinkError, match="0 values for 2 fields"):
        pack_event(EVENTS[0], [])


# --- telecommands --------------------------------------------------------------------------------------


def context(mode: Mode = Mode.COMPUTE, known: frozenset[int] = frozenset()) -> Context:
    return Context(100.0, mode, known, known.__contains__)


KNOWN_NAMES = {"parameter": "die_max_c", "point": "battery_v", "event": "boot", "sha256": "a" * 64, "name": "evening",
               "command": "mode SAFE", "low": -1e12, "high": 1e12}


def legal_values(arg: Arg) -> list[Value]:
    if arg.name in KNOWN_NAMES:
        return [KNOWN_NAMES[arg.name]]
    if arg.name == "structure":
        return [1, 7]
    if arg.kind == "text":
        return ["", "x" * int(arg.high)]
    if arg.enum is not None:
        return [int(member) for member in arg.enum]
    whole = arg.kind in RANGE_OF_KIND
    return [int(arg.low), int(arg.high)] if whole else [arg.low, arg.high]


def illegal_values(arg: Arg) -> list[Value]:
    if arg.kind == "request":
        return ["", "'", "launch", "mode", "mode UP", "job.cancel 0", "data.erase acme", "action.add 1 boot '' 1 ping"]
    if arg.kind == "text":
        return ["x" * (int(arg.high) + 1), "é" * int(arg.high), "\udcff"]
    if arg.enum is not None:
        return [value for value in range(256) if value not in list(arg.enum)]
    if arg.kind in RANGE_OF_KIND:
        return [int(arg.low) - 1, int(arg.high) + 1, 10**400]
    return [arg.low - 1.0, arg.high * 1.001, math.nan, math.inf, -math.inf, 10**400, "1"]


def sample(row: Command) -> list[Value]:
    return [80.0 if (row.verb, arg.name) == ("param.set", "value") else legal_values(arg)[-1] for arg in row.args]


def raw_arguments(row: Command, values: Sequence[Value]) -> bytes:
    """What a ground without checks would send; struct.error and LinkError where it cannot be written."""
    head = b"" if row.function is None else bytes((row.function,))
    return head + pack_values(["octets" if arg.kind == "request" else arg.kind for arg in row.args], [
        commands.octets_of(commands.request_of(str(value))).hex() if arg.kind == "request" else value
        for arg, value in zip(row.args, values, strict=True)])


@pytest.mark.parametrize("row", COMMANDS.values(), ids=IDS)
def test_command_is_found_by_its_code_and_runs_at_its_bounds(row: Command) -> None:
    for i, arg in enumerate(row.args):
        if (row.verb, arg.name) == ("param.set", "value") or (row.service == 12 and arg.name in {"low", "high"}):
            continue  # bounded by the parameter, or by each other, instead
        for value in legal_values(arg):
            values = sample(row)
            values[i] = value
            data = commands.pack_arguments(row, values)
            assert commands.find(row.service, row.subservice, data) is row
            result = commands.execute(row, data, context(Mode.STANDBY, frozenset({0xFFFFFFFF})))
            if isinstance(result, Rejection):  # the bounds were passed: only the handler may have said no
                assert result.code in {FailureCode.NOT_POSSIBLE, FailureCode.DUPLICATE}, result


@pytest.mark.parametrize("row", COMMANDS.values(), ids=IDS)
def test_arguments_out_of_bounds_are_refused_on_both_sides(row: Command) -> None:
    for i, arg in enumerate(row.args):
        for value in illegal_values(arg):
            values = sample(row)
            values[i] = value
            with pytest.raises(LinkError, match=f"{row.verb}: {arg.name} "):
                commands.pack_arguments(row, values)
            try:
                data = raw_arguments(row, values)
            except LinkError:
                continue  # cannot even be written
            if value == "\udcff":
                continue  # written as what it is not
            result = commands.execute(row, data, context())
            assert isinstance(result, Rejection), (arg.name, value)
            assert result.code == FailureCode.BAD_ARGUMENTS
            assert arg.name in result.text


@pytest.mark.parametrize("row", COMMANDS.values(), ids=IDS)
def test_wrong_sizes_are_refused_on_both_sides(row: Command) -> None:
    with pytest.raises(LinkError, match=f"{row.verb} takes"):
        commands.pack_arguments(row, [*sample(row), 1])
    data = commands.pack_arguments(row, sample(row))
    for wrong in (data + b"\0", data[:-1])[: 2 if data else 1]:
        found = commands.find(row.service, row.subservice, wrong)
        if found is None:
            continue  # the function code itself was cut off
        result = commands.execute(found, wrong, context())
        assert isinstance(result, Rejection)
        assert result.code == FailureCode.BAD_ARGUMENTS


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("row", COMMANDS.values(), ids=IDS)
def test_mode_gate(row: Command, mode: Mode) -> None:
    result = commands.execute(row, commands.pack_arguments(row, sample(row)), context(mode))
    refused = isinstance(result, Rejection) and result.code == FailureCode.WRONG_MODE
    assert refused == (mode not in row.modes)
    if refused:
        assert isinstance(result, Rejection)
        assert mode.name in result.text


@given(st.sampled_from(list(COMMANDS.values())), st.binary(max_size=90), st.sampled_from(Mode))
def test_whatever_arrives_is_effects_or_a_rejection_that_fits_its_report(row: Command, data: bytes,
                                                                         mode: Mode) -> None:
    head = b"" if row.function is None else bytes((row.function,))
    result = commands.execute(row, head + data, context(mode))
    if isinstance(result, Rejection):
        assert result.code in list(FailureCode)
        assert result.text
    else:
        assert result


def test_code_that_no_command_has_is_not_found() -> None:
    for service, subservice, data in ((8, 1, b""), (8, 1, b"\xff"), (8, 2, b"\x01"), (200, 1, b""), (17, 2, b"")):
        assert commands.find(service, subservice, data) is None


def test_command_declared_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="declared twice"):
        commands.telecommand("ping", 99, 1)(COMMANDS["ping"].handler)
    with pytest.raises(ValueError, match="declared twice"):
        commands.telecommand("new", 17, 1)(COMMANDS["ping"].handler)
    assert "new" not in COMMANDS


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("wanted", Mode)
def test_only_legal_mode_changes_are_accepted(mode: Mode, wanted: Mode) -> None:
    row = COMMANDS["mode"]
    result = commands.execute(row, commands.pack_arguments(row, [int(wanted)]), context(mode))
    if wanted in LEGAL_TRANSITIONS[mode]:
        assert result == (SetMode(wanted, "telecommand"),)
    else:
        assert isinstance(result, Rejection)
        assert result.code == FailureCode.NOT_POSSIBLE
    assert commands.execute(COMMANDS["safe"], b"\x02", context(mode)) == (SetMode(Mode.SAFE, "telecommand"),)


def test_submitted_job_is_timed_on_board() -> None:
    row = COMMANDS["job.submit"]
    data = commands.pack_arguments(row, [7, "mask", 60.0, 0.5, 3.0, 600.0, int(Pause.CHECKPOINT)])
    assert commands.execute(row, data, context()) == (
        SubmitJob(JobSpec(7, "mask", 60.0, 0.5, 3.0, 100.0, 700.0, 100.0, Pause.CHECKPOINT, "mask")),)
    again = commands.execute(row, data, context(known=frozenset({7})))
    assert isinstance(again, Rejection)
    assert again.code == FailureCode.DUPLICATE


def test_handlers_refuse_what_bounds_cannot() -> None:
    for verb, values, problem in (
        ("hk.report", [99], "no structure 99"),
        ("hk.period", [99, 10.0], "no structure 99"),
        ("hk.period", [1, 0.5], "at least 1 s"),
        ("param.set", ["nonsense", 1.0], "no parameter 'nonsense'"),
        ("param.set", ["die_max_c", 1000.0], "outside 40..100 degC"),
        ("param.report", ["nonsense"], "no parameter 'nonsense'"),
        ("job.cancel", [5], "job 5 is not open"),
    ):
        row = COMMANDS[verb]
        result = commands.execute(row, commands.pack_arguments(row, values), context())
        assert isinstance(result, Rejection), verb
        assert problem in result.text


# --- what an operator types ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "enum", "text", "value"),
    [("u8", None, "12", 12), ("u8", None, "0x1F", 31), ("f32", None, "1.5", 1.5), ("f64", None, "-1e3", -1000.0),
     ("u8", Mode, "standby", 0x33), ("u8", Mode, "STANDBY", 0x33), ("u8", Mode, "15", 15),
     ("u8", Pause, "checkpoint", 2), ("text", None, "12", "12"), ("text", None, "", "")],
)
def test_typed_text_becomes_a_value(kind: str, enum: type[Mode] | None, text: str, value: Value) -> None:
    parsed = commands.parse_text_argument(Arg("x", kind, "", 0, 255, "", enum), text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("kind", "enum", "text", "problem"),
    [("u8", None, "1.5", "x = '1.5' is not a whole number"), ("u8", None, "", "whole number"),
     ("f32", None, "warm", "x = 'warm' is not a number"), ("u8", Mode, "sleep", "one of BOOT, SAFE"),
     ("u32", None, "9" * 5000, "whole number")],
)
def test_typed_text_that_is_no_value_is_refused(kind: str, enum: type[Mode] | None, text: str, problem: str) -> None:
    with pytest.raises(LinkError, match=problem):
        commands.parse_text_argument(Arg("x", kind, "", 0, 255, "", enum), text)


@pytest.mark.parametrize("row", COMMANDS.values(), ids=IDS)
def test_value_that_is_shown_can_be_typed_again(row: Command) -> None:
    for arg in row.args:
        for value in legal_values(arg):
            assert commands.parse_text_argument(arg, str(value)) == value


def test_refusal_shows_the_value_exactly() -> None:
    """A value just beyond its bound is told from the bound."""
    row = COMMANDS["job.cancel"]
    with pytest.raises(LinkError, match=r"job = 4294967296 outside 1\.\.4294967295"):
        commands.pack_arguments(row, [2**32])


def test_layout_on_the_link_is_big_endian_without_padding() -> None:
    row = COMMANDS["job.submit"]
    data = commands.pack_arguments(row, [7, "ab", 60.0, 0.5, 3.0, 600.0, 2])
    assert data == struct.pack(">BIB2sffffB", 10, 7, 2, b"ab", 60.0, 0.5, 3.0, 600.0, 2)
    assert telemetry.unpack_values(["u8", "u32"], data[:5]) == (10, 7)

"""Recordings: what decide was given comes back bit for bit, and a damaged file is never taken for flight."""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flightsw.dictionary.sensors import SENSORS
from flightsw.errors import StoreError
from flightsw.recorder import Recorder, Start, Tick, fingerprint, read_recording
from flightsw.state import (
    Ban,
    BanNews,
    Decision,
    Event,
    FileRead,
    Inputs,
    JobProgress,
    JobSpec,
    JobState,
    JobTransition,
    JobView,
    Mode,
    NodeCommand,
    Pause,
    Plan,
    Pong,
    Quality,
    Readings,
    Received,
    Verification,
)

COUNT = len(SENSORS)
LIMIT = 1_000_000
SPEC = JobSpec(7, "mask Ä\n", 60.5, 0.9, 3.25, 10.0, 610.0, 20.0, Pause.CHECKPOINT, "mask")
START = Start('name = "x"\n', 1.78e9, 3, "SAFE", (JobView(SPEC, JobState.PROMISED, 1.5, -1),))


def readings(now_s: float, missing: int = -1) -> Readings:
    values: list[float | None] = [0.1 * i + now_s for i in range(COUNT)]
    qualities = [int(Quality.GOOD)] * COUNT
    stamps = [now_s - 0.125] * COUNT
    if missing >= 0:
        values[missing], qualities[missing], stamps[missing] = None, int(Quality.STALE), -math.inf
    return Readings(now_s, tuple(values), tuple(qualities), tuple(stamps))


def quiet(now_s: float) -> Inputs:
    return Inputs(now_s, readings(now_s), (), (), (), True)


def busy(now_s: float) -> Inputs:
    return Inputs(
        now_s, readings(now_s, missing=3),
        (Received(0x1864C000, 8, 1, b"\x00\xff"), Received(1, 17, 1, b"")),
        (SPEC, dataclasses.replace(SPEC, job_id=8, pause=Pause.NONE)),
        (JobProgress(7, 30.25, False, False, ""), JobProgress(8, 60.5, True, True, "exit 0")),
        False,
        noticed=(Event("tick_overrun", (0.5, 1)),),
        files=(FileRead("evening", "sequence 1\n0 ping\n", ""), FileRead("b", "", "no such file")),
    )


def record(path: Path, inputs: list[Inputs], limit: int = LIMIT, start: Start = START) -> Recorder:
    recorder = Recorder(path, start, limit)
    for i, one in enumerate(inputs):
        recorder.record(one, i)
    recorder.close()
    return recorder


def read(path: Path) -> tuple[Start, list[Tick]]:
    start, ticks = read_recording(path)
    return start, list(ticks)


FINITE = st.floats(allow_nan=False)
UINT32 = st.integers(0, 0xFFFFFFFF)
TEXT = st.text(max_size=12)
SPECS = st.builds(JobSpec, UINT32, TEXT, FINITE, FINITE, FINITE, FINITE, FINITE, FINITE, st.sampled_from(Pause), TEXT)
ANY_READINGS = st.lists(
    st.tuples(st.one_of(st.none(), FINITE), st.sampled_from([int(q) for q in Quality]), FINITE),
    min_size=COUNT, max_size=COUNT,
)
ANY_INPUTS = st.builds(
    lambda now_s, rows, received, submitted, progress, answers, bans, noticed, files: Inputs(
        now_s, Readings(now_s, *(tuple(column) for column in zip(*rows, strict=True))),
        tuple(received), tuple(submitted), tuple(progress), answers, bans=tuple(bans),
        noticed=tuple(noticed), files=tuple(files),
    ),
    FINITE, ANY_READINGS,
    st.lists(st.builds(Received, UINT32, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=40)),
             max_size=2),
    st.lists(SPECS, max_size=2),
    st.lists(st.builds(JobProgress, UINT32, FINITE, st.booleans(), st.booleans(), TEXT), max_size=2),
    st.booleans(),
    st.lists(st.builds(BanNews, TEXT, FINITE, FINITE, st.lists(st.builds(Ban, FINITE, FINITE, TEXT), max_size=2)
                       .map(tuple)), max_size=2),
    st.lists(st.builds(Event, TEXT, st.lists(FINITE | TEXT, max_size=3).map(tuple)), max_size=2),
    st.lists(st.builds(FileRead, TEXT, TEXT, TEXT), max_size=2),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture,
                                                  HealthCheck.data_too_large])
@given(st.lists(ANY_INPUTS, max_size=2),
       st.lists(st.builds(JobView, SPECS, st.sampled_from(JobState), FINITE, st.integers(-1, 7)), max_size=2), TEXT)
def test_every_kind_of_input_comes_back(tmp_path: Path, inputs: list[Inputs], jobs: list[JobView],
                                        toml: str) -> None:
    start = Start(toml, 0.5, 1, "BOOT", tuple(jobs))
    record(tmp_path / "r", inputs, start=start)
    assert read(tmp_path / "r") == (start, [Tick(one, i) for i, one in enumerate(inputs)])


def test_missing_value_is_no_number_after_replay_either(tmp_path: Path) -> None:
    record(tmp_path / "r", [busy(5.0)])
    _, (tick,) = read(tmp_path / "r")
    assert tick == Tick(busy(5.0), 0)
    assert tick.inputs.readings.values[3] is None
    assert all(value is not None for i, value in enumerate(tick.inputs.readings.values) if i != 3)


def test_same_inputs_give_the_same_file(tmp_path: Path) -> None:
    inputs = [busy(float(t)) if t % 7 == 0 else quiet(float(t)) for t in range(200)]
    record(tmp_path / "a", inputs)
    record(tmp_path / "b", inputs)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_tick_of_many_large_telecommands_is_recorded(tmp_path: Path) -> None:
    """A late tick takes in all that waited, which may be more than 64 KiB."""
    flood = quiet(1.0)._replace(received=tuple(Received(i, 8, 1, bytes(1000)) for i in range(200)))
    recorder = record(tmp_path / "r", [flood])
    assert recorder.failure == ""
    assert read(tmp_path / "r")[1] == [Tick(flood, 0)]


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0.0, 1.0))
def test_torn_end_costs_the_last_ticks_only(tmp_path: Path, share: float) -> None:
    path = tmp_path / "whole"
    inputs = [busy(float(t)) if t % 5 == 0 else quiet(float(t)) for t in range(150)]
    if not path.exists():
        record(path, inputs)
    octets = path.read_bytes()
    torn = tmp_path / "torn"
    torn.write_bytes(octets[: int(share * len(octets))])
    try:
        start, ticks = read(torn)
    except StoreError:
        assert share < 0.2  # torn inside the head: nothing to replay
        return
    assert start == START
    assert ticks == [Tick(one, i) for i, one in enumerate(inputs)][: len(ticks)]
    if share == 1.0:
        assert len(ticks) == len(inputs)


def test_recorder_that_was_killed_leaves_all_but_the_last_minute(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "r", START, LIMIT)
    inputs = [quiet(float(t)) for t in range(150)]
    for i, one in enumerate(inputs):
        recorder.record(one, i)
    _, ticks = read(tmp_path / "r")  # as a kill would leave it: neither closed nor flushed
    assert len(ticks) >= 120
    assert ticks == [Tick(one, i) for i, one in enumerate(inputs)][: len(ticks)]
    recorder.close()
    assert len(read(tmp_path / "r")[1]) == 150


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_flipped_bit_is_an_error_never_another_flight(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "whole"
    inputs = [busy(float(t)) if t % 5 == 0 else quiet(float(t)) for t in range(30)]
    if not path.exists():
        record(path, inputs)
    octets = bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(octets) - 1))
    octets[bit // 8] ^= 1 << bit % 8
    (tmp_path / "flipped").write_bytes(octets)
    try:
        found = read(tmp_path / "flipped")
    except StoreError:
        return
    assert found == (START, [Tick(one, i) for i, one in enumerate(inputs)])  # a bit without meaning


def damaged(path: Path, plain: bytes) -> Path:
    path.write_bytes(b"FSWREC01" + zlib.compress(plain))
    return path


HEAD = json.dumps({**START._asdict(), "jobs": []}).encode() + b"\n"


@pytest.mark.parametrize(
    "head", [b"", b"{}", b"[]\n", b"3\n", b"null\n", b'{"jobs": 3}\n', b'{"jobs": [[]]}\n', b'{"jobs": []}\n',
             HEAD[:-1], b"\xff\n", b'{"jobs": [[[1,2],1,1,1]]}\n'],
)
def test_head_that_is_none_is_refused(tmp_path: Path, head: bytes) -> None:
    with pytest.raises(StoreError, match="no valid head"):
        read(damaged(tmp_path / "r", head))


def test_tick_whose_variable_part_is_none_is_refused(tmp_path: Path) -> None:
    record(tmp_path / "r", [busy(1.0)])
    plain = zlib.decompress((tmp_path / "r").read_bytes()[8:])
    for before, after in ((b'"exit 0"', b'"exit 0\xff'), (b"[[[409", b'"""409'), (b',"00ff"]', b',"00fg"]')):
        assert plain.count(before) == 1
        with pytest.raises(StoreError, match=r"damaged in the tick at 1\.0 s"):
            read(damaged(tmp_path / "damaged", plain.replace(before, after)))


@pytest.mark.parametrize("octets", [b"", b"FSWREC0", b"SQLite format 3\0", b"\x1f\x8b\x08"])
def test_file_that_is_no_recording_is_refused(tmp_path: Path, octets: bytes) -> None:
    (tmp_path / "r").write_bytes(octets)
    with pytest.raises(StoreError, match="is not a recording"):
        read(tmp_path / "r")


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="none: No such file"):
        read(tmp_path / "none")
    with pytest.raises(StoreError, match="No such file"):
        Recorder(tmp_path / "none" / "r", START, LIMIT)


def test_full_recording_ends_and_says_so(tmp_path: Path) -> None:
    inputs = [quiet(float(t)) for t in range(2000)]
    recorder = record(tmp_path / "r", inputs, limit=20_000)
    assert recorder.failure == "recording is full at 20000 octets"
    assert (tmp_path / "r").stat().st_size <= 20_000 + len(b"FSWREC01")
    start, ticks = read(tmp_path / "r")
    assert start == START
    assert 60 <= len(ticks) < 2000
    assert ticks == [Tick(one, i) for i, one in enumerate(inputs)][: len(ticks)]


def test_full_disk_ends_the_recording_and_never_a_tick() -> None:
    recorder = Recorder(Path("/dev/full"), START, LIMIT)
    for t in range(300):
        recorder.record(quiet(float(t)), t)
    assert recorder.failure == "recording: No space left on device"
    recorder.close()


def test_full_disk_at_the_end_is_no_error_either() -> None:
    recorder = Recorder(Path("/dev/full"), START, LIMIT)
    recorder.record(quiet(0.0), 0)
    recorder.close()
    assert recorder.failure == "recording: No space left on device"


# --- fingerprints --------------------------------------------------------------------------------------

PLAN = Plan(0.0, (60.0, 120.0), (50.0, 20.0), (1.0, 0.5), 0.8, 60.0, 5.0, "die_max_c", False)
DECISION = Decision(1.0, Mode.SAFE, (NodeCommand(0, 0.5, 0),), PLAN, (), (), (), (), "")


@pytest.mark.parametrize(
    "other",
    [
        DECISION._replace(now_s=2.0),
        DECISION._replace(mode=Mode.STANDBY),
        DECISION._replace(nodes=(NodeCommand(0, 0.5, 1),)),
        DECISION._replace(plan=PLAN._replace(made_s=1.0)),
        DECISION._replace(plan=PLAN._replace(budget_w=(50.000000001, 20.0))),
        DECISION._replace(transitions=(JobTransition(1, JobState.QUEUED, "", 0.0, SPEC),)),
        DECISION._replace(verifications=(Verification(1, 1, 0, ""),)),
        DECISION._replace(effects=(Pong(),)),
        DECISION._replace(events=(Event("sighted", ()),)),
        DECISION._replace(shed="guardian does not answer"),
    ],
)
def test_fingerprint_tells_decisions_apart(other: Decision) -> None:
    assert fingerprint(other) != fingerprint(DECISION)
    assert fingerprint(DECISION._replace()) == fingerprint(DECISION)

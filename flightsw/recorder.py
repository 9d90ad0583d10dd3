"""Records what decide was given each tick, so that any minute of flight replays to the same decisions.

One file a run: a JSON line (mission, start, open jobs), then zlib-compressed tick records. A tick record is
a fixed part (time, guardian, values, qualities, sample times of all sensors), the variable part as JSON when
there is any, and a CRC-32 of the decision. The file is bounded; when it is full recording ends and says
so. Losing it loses no acknowledged thing, so it is flushed once a minute, not synced.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from flightsw.dictionary import orders
from flightsw.dictionary.sensors import SENSORS
from flightsw.errors import StoreError
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
    JobView,
    OrderChange,
    Pause,
    Readings,
    Received,
)

_COUNT = len(SENSORS)
_FIXED = struct.Struct(f"<d??{_COUNT}d{_COUNT}B{_COUNT}dII")
_FLUSH_TICKS = 60
_MAGIC = b"FSWREC01"


class Start(NamedTuple):
    """What the brain began with: enough, with the ticks, to run it again."""

    mission_toml: str
    start_unix_s: float
    boot_count: int
    last_mode: str
    jobs: tuple[JobView, ...]
    orders: tuple[OrderChange, ...] = ()


class Tick(NamedTuple):
    """One recorded tick and the fingerprint of the decision that flew."""

    inputs: Inputs
    fingerprint: int


def fingerprint(decision: Decision) -> int:
    """CRC-32 of everything in a decision that acts or speaks."""
    plan = decision.plan
    return zlib.crc32(repr((
        decision.now_s, int(decision.mode), decision.nodes, plan.made_s, plan.budget_w[:4], plan.battery_min_frac,
        decision.transitions, decision.verifications, decision.effects, decision.events, decision.shed,
        decision.orders,
    )).encode())


class Recorder:
    """Writes one recording."""

    def __init__(self, path: Path, start: Start, limit_octets: int) -> None:
        try:
            self._file: BinaryIO = path.open("wb")
            self._file.write(_MAGIC)
        except OSError as error:
            raise StoreError(f"recording {path}: {error.strerror}") from error
        self._packer = zlib.compressobj(1)
        self._limit_octets = limit_octets
        self._written = 0
        self._ticks = 0
        self.failure = ""
        head = json.dumps({**start._asdict(), "jobs": [_job_to_json(job) for job in start.jobs],
                           "orders": [orders.to_json(change) for change in start.orders]})
        self._put(head.encode() + b"\n")

    def record(self, inputs: Inputs, decided: int) -> None:
        """Record one tick and its decision's fingerprint; never raises, `failure` says why it ended."""
        if self.failure:
            return
        readings = inputs.readings
        values = [math.nan if value is None else value for value in readings.values]
        variable = b""
        if (inputs.received or inputs.submitted or inputs.progress or inputs.bans or inputs.noticed
                or inputs.files):
            variable = json.dumps([
                [[r.request_id, r.service, r.subservice, r.data.hex(), *filter(None, (r.spi,))]
                 for r in inputs.received],
                [_spec_to_json(spec) for spec in inputs.submitted],
                inputs.progress,
                inputs.bans,
                inputs.noticed,
                inputs.files,
            ], separators=(",", ":")).encode()
        self._put(_FIXED.pack(inputs.now_s, inputs.guardian_answers, inputs.storage_works, *values, *readings.qualities,
                              *readings.sampled_s, decided, len(variable)) + variable)
        self._ticks += 1
        if self._ticks % _FLUSH_TICKS == 0:
            self._flush(zlib.Z_SYNC_FLUSH)

    def close(self) -> None:
        """End the recording; never raises, also when it has ended already."""
        if self._file.closed:
            return
        if not self.failure:
            self._flush(zlib.Z_FINISH)
        try:
            self._file.close()
        except OSError as error:
            self.failure = self.failure or f"recording: {error.strerror}"

    def _put(self, octets: bytes) -> None:
        self._write(self._packer.compress(octets))

    def _flush(self, how: int) -> None:
        self._write(self._packer.flush(how))
        try:
            if not self.failure:
                self._file.flush()
        except OSError as error:
            self.failure = f"recording: {error.strerror}"

    def _write(self, packed: bytes) -> None:
        if not packed or self.failure:
            return
        if self._written + len(packed) > self._limit_octets:
            self.failure = f"recording is full at {self._limit_octets} octets"
            return
        try:
            self._file.write(packed)
        except OSError as error:
            self.failure = f"recording: {error.strerror}"
        self._written += len(packed)


def read_recording(path: Path) -> tuple[Start, Iterator[Tick]]:
    """Open a recording; StoreError when it is not one or is damaged, also later, from the ticks.

    A torn end ends the ticks without an error.
    """
    try:
        octets = path.read_bytes()
    except OSError as error:
        raise StoreError(f"recording {path}: {error.strerror}") from error
    if octets[: len(_MAGIC)] != _MAGIC:
        raise StoreError(f"{path} is not a recording: it begins with {octets[:8]!r}")
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(octets[len(_MAGIC):])
    except zlib.error as error:
        raise StoreError(f"recording {path} is damaged: {error}") from error
    end_of_head = plain.find(b"\n")
    try:
        head = json.loads(plain[:end_of_head])
        jobs = tuple(_job_from_json(job) for job in head.pop("jobs"))
        kept = tuple(orders.from_json(change) for change in head.pop("orders", []))
        start = Start(**head, jobs=jobs, orders=kept)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise StoreError(f"recording {path} has no valid head: {error}") from error
    return start, _ticks(plain, end_of_head + 1, path)


def _ticks(plain: bytes, at: int, path: Path) -> Iterator[Tick]:
    while at + _FIXED.size <= len(plain):
        now_s, guardian_answers, storage_works, *rest = _FIXED.unpack_from(plain, at)
        values, qualities = rest[:_COUNT], rest[_COUNT:2 * _COUNT]
        sampled, (decided, size) = rest[2 * _COUNT:3 * _COUNT], rest[3 * _COUNT:]
        at += _FIXED.size
        if at + size > len(plain):
            return
        try:
            variable = _variable_part(plain[at:at + size]) if size else _NOTHING
        except (ValueError, TypeError) as error:
            raise StoreError(f"recording {path} is damaged in the tick at {now_s!r} s: {error}") from error
        at += size
        readings = Readings(now_s, tuple(None if math.isnan(v) else v for v in values), tuple(qualities),
                            tuple(sampled))
        yield Tick(Inputs(now_s, readings, variable.received, variable.submitted, variable.progress, guardian_answers,
                          storage_works, variable.bans, variable.noticed, variable.files), decided)


class _Variable(NamedTuple):
    """What most ticks have none of."""

    received: tuple[Received, ...] = ()
    submitted: tuple[JobSpec, ...] = ()
    progress: tuple[JobProgress, ...] = ()
    bans: tuple[BanNews, ...] = ()
    noticed: tuple[Event, ...] = ()
    files: tuple[FileRead, ...] = ()


_NOTHING = _Variable()


def _variable_part(octets: bytes) -> _Variable:
    received, submitted, progress, bans, *newer = json.loads(octets)
    noticed, files = newer or ((), ())  # older recordings end with the bans
    return _Variable(
        tuple(Received(number, service, subservice, bytes.fromhex(data), *spi)  # none where it was in clear
              for number, service, subservice, data, *spi in received),
        tuple(_spec_from_json(spec) for spec in submitted),
        tuple(JobProgress(*fields) for fields in progress),
        tuple(BanNews(manifest, from_s, to_s, tuple(Ban(*ban) for ban in spans))
              for manifest, from_s, to_s, spans in bans),
        tuple(Event(name, tuple(args)) for name, args in noticed),
        tuple(FileRead(*fields) for fields in files),
    )


def _spec_to_json(spec: JobSpec) -> list[object]:
    return [spec.job_id, spec.name, spec.work_units, spec.activity_frac, spec.value, spec.arrival_s,
            spec.deadline_s, spec.answer_due_s, int(spec.pause), spec.manifest]


def _spec_from_json(fields: list[Any]) -> JobSpec:  # Any: JSON values
    number, name, work, activity, value, arrival_s, deadline_s, due_s, pause, manifest = fields
    return JobSpec(number, name, work, activity, value, arrival_s, deadline_s, due_s, Pause(pause), manifest)


def _job_to_json(job: JobView) -> list[object]:
    return [_spec_to_json(job.spec), int(job.state), job.done_units, job.node]


def _job_from_json(fields: list[Any]) -> JobView:  # Any: JSON values
    return JobView(_spec_from_json(fields[0]), JobState(fields[1]), fields[2], fields[3])

"""The serial rig board: sensors and actuators of a simulated satellite, over a second serial line.

Owns both ends' messages and the board's end, `RigBoard`. The flight program opens it with `--rig-port`; the plant's end
is `hil.rig_link`. Everything above the board is what flies. Never paces anything: a line that is silent or noisy gives
old samples, which the loop judges by their age, and no tick ever waits for it.

A frame is COBS (Cheshire and Baker, 1999), ended by a zero octet, around `u8 version | u8 kind | payload | u16 CRC`
(CRC-16 of CCSDS 132.0-B-3, over all before it); numbers are big-endian.

    HELLO      u32 dictionary | u8 sensors | u8 pace
               Each end sends it when it opens its port, because opening throws away what waits there, and answers the
               other's: the board each second until sensors come, the plant once for each that it hears. `dictionary` is
               a checksum of the sensors' names: two ends with different tables, or of which one waits for the other
               and one does not (`Pace`), never talk past each other.
    SENSORS    u32 sequence | f64 time | u8 count | count x (u8 state, f32 age, f64 value)
               All sensors of the dictionary, in order. A sensor that is silent or not fitted is a state in the message,
               so a sensor fault never stalls time. `age` is of the sample, in s, as the message is sent.
    ACTUATORS  u32 sequence | f64 time | f32 late | u32 overruns | u8 transmitter | u8 nodes
               nodes x (f32 cap, f32 busy)
               After each tick. `sequence` names the SENSORS that it acted on; how late the tick began, and how many
               periods were left out so far; the cap in W as the guardian read it back, NaN when it is not known; busy
               is the share of the last second that the node's job really ran.
    SYNC       u32 sequence | f64 time
               The plant's clock, once a second; answered at once.
    ECHO       u32 sequence | f64 time | f64 board
               The SYNC it answers, and the board's clock as it was served: offset, drift and round trip come of it.

Kinds 0x10 to 0x1F are those of lockstep (`flightsw.lockstep`); an end that does not know a kind counts it and goes on.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from flightsw.board.linux import LinuxBoard
from flightsw.dictionary.sensors import SENSORS, fitted_names
from flightsw.errors import LinkError
from flightsw.link.packets import crc16
from flightsw.link.serial_port import ByteStream
from flightsw.state import NODE_COUNT_MAX, RawReading

VERSION: Final = 2
BOARD_FILE: Final = "board.toml"
"""In a folder of files that a plant serves its readings in: which file is which sensor's, as a board file says it."""

FRAME_OCTETS_MAX: Final = 1024

_HEAD: Final = struct.Struct(">BB")
_CRC: Final = struct.Struct(">H")
_HELLO: Final = struct.Struct(">IBB")
_SENSORS_HEAD: Final = struct.Struct(">IdB")
_SENSOR: Final = struct.Struct(">Bfd")
_SENSORS: Final = struct.Struct(">IdB" + len(SENSORS) * "Bfd")
_ACTUATORS: Final = [struct.Struct(">IdfIBB" + n * "ff") for n in range(NODE_COUNT_MAX + 1)]
_SYNC: Final = struct.Struct(">Id")
_ECHO: Final = struct.Struct(">Idd")
_BOARD_S: Final = struct.Struct(">d")
_COBS_RUN: Final = 254

_HELLO_EVERY_S: Final = 1.0
_SILENT_AFTER_S: Final = 5.0
_NEVER_S: Final = -math.inf

DICTIONARY: Final = zlib.crc32(",".join(row.name for row in SENSORS).encode())
"""Names the table of sensors that both ends must share."""


class Kind(IntEnum):
    """Kinds of message."""

    HELLO = 1
    SENSORS = 2
    ACTUATORS = 3
    SYNC = 4
    ECHO = 5
    TICK = 0x10
    TOCK = 0x11
    NAK = 0x12


class Pace(IntEnum):
    """Who keeps the time of a rig line."""

    REAL_TIME = 0  # each end its own clock
    LOCKSTEP = 1  # the plant; the board runs when it is told to


class SensorState(IntEnum):
    """What a SENSORS message says of one sensor."""

    SAMPLED = 0
    FAILED = 1  # fitted, and gives no value
    NOT_FITTED = 2


class Sensors(NamedTuple):
    """A SENSORS message: samples of the dictionary's sensors, `sampled_s` on the sender's time `t_s`."""

    sequence: int
    t_s: float
    readings: tuple[RawReading | None, ...]


class Actuators(NamedTuple):
    """An ACTUATORS message; `caps_w` and `busy_frac` have one entry a node, NaN where a cap is not known."""

    sequence: int
    t_s: float
    transmitting: bool
    caps_w: tuple[float, ...]
    busy_frac: tuple[float, ...]
    late_s: float = 0.0
    overruns: int = 0


class Echo(NamedTuple):
    """A board's answer to SYNC number `sequence`, sent at the plant's `sent_s`, heard at the board's `board_s`."""

    sequence: int
    sent_s: float
    board_s: float


def encode_frame(kind: int, payload: bytes) -> bytes:
    """Frame one message, final zero octet included."""
    body = _HEAD.pack(VERSION, kind) + payload
    body += _CRC.pack(crc16(body))
    out = bytearray()
    for block in body.split(b"\0"):
        at = 0
        while len(block) - at >= _COBS_RUN:  # a full run stands for itself, without a zero behind it
            out.append(_COBS_RUN + 1)
            out += block[at:at + _COBS_RUN]
            at += _COBS_RUN
        out.append(len(block) - at + 1)
        out += block[at:]
    out.append(0)
    return bytes(out)


def decode_frame(octets: bytes) -> tuple[int, bytes]:
    """Return kind and payload of one frame without its final zero; LinkError names the check that failed."""
    body = bytearray()
    at = 0
    while at < len(octets):
        code = octets[at]
        run = octets[at + 1:at + code]
        if code == 0 or len(run) != code - 1 or 0 in run:
            raise LinkError(f"rig frame of {len(octets)} octets is no COBS")
        body += run
        at += code
        if code <= _COBS_RUN and at < len(octets):
            body.append(0)
    if len(body) < _HEAD.size + _CRC.size or crc16(bytes(body[:-2])) != _CRC.unpack_from(body, len(body) - 2)[0]:
        raise LinkError(f"rig frame of {len(octets)} octets does not close")
    version, kind = _HEAD.unpack_from(body)
    if version != VERSION:
        raise LinkError(f"rig frame of version {version}, this is {VERSION}")
    return kind, bytes(body[_HEAD.size:-_CRC.size])


class FrameCutter:
    """Cuts a stream of octets into messages; what is none is counted. Memory is bounded by one frame."""

    def __init__(self, frame_octets_max: int = FRAME_OCTETS_MAX) -> None:
        self.bad_frames = 0
        self._limit_octets = frame_octets_max
        self._rest = bytearray()
        self._skipping = False  # inside something longer than any frame

    def push(self, octets: bytes) -> list[tuple[int, bytes]]:
        """Take received octets and return the messages that they complete, as (kind, payload)."""
        messages = []
        *ended, rest = octets.split(b"\0")
        for part in ended:
            frame = bytes(self._rest + part)
            self._rest.clear()
            if self._skipping or len(frame) > self._limit_octets:
                self._skipping = False
                self.bad_frames += 1
            elif frame:
                try:
                    messages.append(decode_frame(frame))
                except LinkError:
                    self.bad_frames += 1
        self._rest += rest
        if len(self._rest) > self._limit_octets:
            self._rest.clear()
            self._skipping = True
        return messages


def encode_hello(pace: Pace = Pace.REAL_TIME) -> bytes:
    """Build a HELLO frame."""
    return encode_frame(Kind.HELLO, _HELLO.pack(DICTIONARY, len(SENSORS), pace))


def check_hello(payload: bytes, pace: Pace = Pace.REAL_TIME) -> None:
    """LinkError when a HELLO is not from an end with our table of sensors and our pace."""
    if len(payload) != _HELLO.size or _HELLO.unpack(payload)[:2] != (DICTIONARY, len(SENSORS)):
        raise LinkError("the other end of the rig line has another table of sensors")
    if payload[-1] != pace:
        raise LinkError("one end of the rig line runs in lockstep and the other in real time")


def encode_sync(sequence: int, t_s: float) -> bytes:
    """Build a SYNC frame."""
    return encode_frame(Kind.SYNC, _SYNC.pack(sequence & 0xFFFFFFFF, t_s))


def decode_echo(payload: bytes) -> Echo:
    """Read an ECHO payload; LinkError when it is not one."""
    if len(payload) != _ECHO.size:
        raise LinkError(f"ECHO of {len(payload)} octets, expected {_ECHO.size}")
    echo = Echo(*_ECHO.unpack(payload))
    if not (math.isfinite(echo.sent_s) and math.isfinite(echo.board_s)):
        raise LinkError(f"ECHO: sent at {echo.sent_s} s, heard at {echo.board_s} s")
    return echo


def encode_sensors(sequence: int, t_s: float, readings: Sequence[RawReading | None]) -> bytes:
    """Build a SENSORS frame of what a plant's board reads at `t_s`."""
    fields: list[float] = []
    for reading in readings:
        if reading is None:
            fields += (SensorState.NOT_FITTED, 0.0, math.nan)
        elif reading.value is None:
            fields += (SensorState.FAILED, t_s - reading.sampled_s, math.nan)
        else:
            fields += (SensorState.SAMPLED, t_s - reading.sampled_s, reading.value)
    return encode_frame(Kind.SENSORS, _SENSORS.pack(sequence & 0xFFFFFFFF, t_s, len(readings), *fields))


def decode_sensors(payload: bytes) -> Sensors:
    """Read a SENSORS payload; LinkError when it is not one, or not of our table."""
    if len(payload) != _SENSORS.size:
        raise LinkError(f"SENSORS of {len(payload)} octets, expected {_SENSORS.size}")
    sequence, t_s, count = _SENSORS_HEAD.unpack_from(payload)
    if count != len(SENSORS) or not math.isfinite(t_s):
        raise LinkError(f"SENSORS of {count} sensors at {t_s} s, expected {len(SENSORS)}")
    readings: list[RawReading | None] = []
    for state, age_s, value in _SENSOR.iter_unpack(payload[_SENSORS_HEAD.size:]):
        if state == SensorState.NOT_FITTED:
            readings.append(None)
        elif state > SensorState.NOT_FITTED or not age_s >= 0.0:
            raise LinkError(f"SENSORS: state {state}, age {age_s} s")
        else:
            readings.append(RawReading(value if state == SensorState.SAMPLED else None, t_s - age_s))
    return Sensors(sequence, t_s, tuple(readings))


def encode_actuators(actuators: Actuators) -> bytes:
    """Build an ACTUATORS frame."""
    nodes = [value for pair in zip(actuators.caps_w, actuators.busy_frac, strict=True) for value in pair]
    count = len(actuators.caps_w)
    return encode_frame(Kind.ACTUATORS, _ACTUATORS[count].pack(
        actuators.sequence, actuators.t_s, actuators.late_s, actuators.overruns & 0xFFFFFFFF,
        int(actuators.transmitting), count, *nodes))


def decode_actuators(payload: bytes) -> Actuators:
    """Read an ACTUATORS payload; LinkError when it is not one."""
    head = _ACTUATORS[0]
    count = payload[head.size - 1] if len(payload) >= head.size else -1
    if not 0 <= count <= NODE_COUNT_MAX or len(payload) != _ACTUATORS[count].size:
        raise LinkError(f"ACTUATORS of {len(payload)} octets for {count} nodes")
    sequence, t_s, late_s, overruns, transmitting, _, *nodes = _ACTUATORS[count].unpack(payload)
    busy_frac = tuple(nodes[1::2])
    if transmitting > 1 or not math.isfinite(t_s + late_s) or not all(0.0 <= share <= 1.0 for share in busy_frac):
        raise LinkError(f"ACTUATORS: time {t_s} s, late {late_s} s, transmitter {transmitting}, busy {busy_frac}")
    return Actuators(sequence, t_s, bool(transmitting), tuple(nodes[0::2]), busy_frac, late_s, overruns)


class RigBoard:
    """A `Board` whose devices are on the other end of `port`; `nodes` bounds what `describe` expects.

    Where the plant serves its readings as files, `devices` reads them; the line then carries time and actuators.
    """

    def __init__(self, port: ByteStream, nodes: int = NODE_COUNT_MAX, devices: LinuxBoard | None = None) -> None:
        self.refused = ""  # why the other end's HELLO was not accepted
        self._port = port
        self._nodes = nodes
        self._devices = devices
        self._cutter = FrameCutter()
        self._greeted_at_s = _NEVER_S
        self._heard_at_s = _NEVER_S
        self._sensors: Sensors | None = None
        self._bad_messages = 0
        self._transmitting = False
        self._readings: tuple[RawReading | None, ...] = (RawReading(None, _NEVER_S),) * len(SENSORS)

    @property
    def linked(self) -> bool:
        """True once the plant's sensors have come."""
        return self._sensors is not None

    @property
    def bad_frames(self) -> int:
        """Frames and messages that were not valid."""
        return self._cutter.bad_frames + self._bad_messages

    @property
    def fitted(self) -> frozenset[str]:
        """Names of the sensors that the plant says it has."""
        if not self.linked:
            return frozenset()
        if self._devices is not None:
            return self._devices.fitted
        return frozenset(row.name for row, reading in zip(SENSORS, self._readings, strict=True) if reading is not None)

    def serve(self, now_s: float) -> None:
        """Take what came, stamp it with `now_s`, and greet where nothing comes. Call it when octets wait."""
        for kind, payload in self._cutter.push(self._port.read()):
            try:
                self._take(kind, payload, now_s)
            except LinkError as error:
                self._bad_messages += 1
                self.refused = str(error) if kind == Kind.HELLO else self.refused
        if now_s - self._heard_at_s >= _SILENT_AFTER_S and now_s - self._greeted_at_s >= _HELLO_EVERY_S:
            self._greeted_at_s = now_s
            self._port.write(encode_hello())

    def read_sensors(self, now_s: float) -> Sequence[RawReading | None]:
        """See `Board`. Before the first SENSORS every sensor has failed; after the last they only grow old."""
        self.serve(now_s)
        return self._readings if self._devices is None else self._devices.read_sensors(now_s)

    def set_transmitter(self, on: bool) -> None:
        """See `Board`. Goes out with the next `report`."""
        self._transmitting = on

    def report(self, now_s: float, caps_w: Sequence[float], busy_frac: Sequence[float], late_s: float = 0.0,
               overruns: int = 0) -> None:
        """Tell the plant what is in force after a tick: caps as read back, each node's load, our own punctuality."""
        sequence = 0 if self._sensors is None else self._sensors.sequence
        self._port.write(encode_actuators(
            Actuators(sequence, now_s, self._transmitting, tuple(caps_w), tuple(busy_frac), late_s, overruns)))

    def describe(self) -> tuple[str, ...]:
        """One line for the plant and one for each sensor that it does not have."""
        if not self.linked:
            return ("rig: no plant has answered" + (f": {self.refused}" if self.refused else ""),)
        if self._devices is not None:
            return ("rig: the plant's readings, through this machine's drivers", *self._devices.describe())
        expected, fitted = fitted_names(self._nodes), self.fitted
        missing = [f"{name:<17} not fitted on the rig's satellite" for name in expected if name not in fitted]
        return (f"rig: {len(expected) - len(missing)} of {len(expected)} sensors are served by the plant", *missing)

    def _take(self, kind: int, payload: bytes, now_s: float) -> None:
        if kind == Kind.SENSORS:
            sensors = decode_sensors(payload)
            # Ages travel, not times: the plant's clock and ours need not agree.
            shift_s = now_s - sensors.t_s
            self._readings = tuple([
                None if reading is None else RawReading(reading.value, reading.sampled_s + shift_s)
                for reading in sensors.readings
            ])
            self._sensors = sensors
            self._heard_at_s = now_s
        elif kind == Kind.SYNC:
            if len(payload) != _SYNC.size:
                raise LinkError(f"SYNC of {len(payload)} octets, expected {_SYNC.size}")
            self._port.write(encode_frame(Kind.ECHO, payload + _BOARD_S.pack(now_s)))
        elif kind == Kind.HELLO:
            check_hello(payload)
            self.refused = ""
        else:
            raise LinkError(f"message of kind {kind:#x} is not for a board in real time")

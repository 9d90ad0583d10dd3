"""Every telemetry point and housekeeping structure; packing and unpacking come out of the rows.

A point is one value with type and unit. Sensors are points by being sensors. A housekeeping structure
(PUS service 3) is an ordered list of points with a period; on the link it is `u8 structure id` and the
points' values, big-endian, no padding. A missing value travels as NaN and is shown as missing.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from flightsw.dictionary.events import BY_NUMBER as EVENT_BY_NUMBER
from flightsw.dictionary.events import EventRow
from flightsw.dictionary.sensors import SENSORS
from flightsw.errors import LinkError
from flightsw.state import AHEAD_POINTS, LIMITS, NODE_COUNT_MAX, Limit, Mode

PACK: dict[str, str] = {"u8": "B", "u16": "H", "u32": "I", "i32": "i", "f32": "f", "f64": "d"}
"""Type names of the dictionary and their `struct` codes.

Besides them `text` is `u8 length` and UTF-8 octets, `octets` is `u8 length` and octets, hexadecimal as a value.
"""

TEXT_MAX_OCTETS = 120
OCTETS_MAX = 200
MISSING = math.nan
"""How a missing value is packed, and nothing else: no code computes with it."""


class Point(NamedTuple):
    """One telemetry point; `upper`/`lower` name the parameters that limit it; `enum` names its codes."""

    name: str
    kind: str
    unit: str
    description: str
    upper: str = ""
    lower: str = ""
    enum: type[IntEnum] | None = None


class Housekeeping(NamedTuple):
    """One housekeeping structure: id, name, default period in seconds (0: only on request) and points."""

    sid: int
    name: str
    period_s: float
    points: tuple[Point, ...]


def _sensor_points(packet: str) -> tuple[Point, ...]:
    return tuple(Point(s.name, "f32", s.unit, s.description, s.upper, s.lower)
                 for s in SENSORS if s.packet == packet)


def _node_points(nodes: range) -> tuple[Point, ...]:
    return tuple(
        point
        for i in nodes
        for point in (
            Point(f"node{i}_cap_w", "f32", "W", f"Cap in force at the guardian for node {i}."),
            Point(f"node{i}_mode", "u8", "", f"Power mode of node {i}, index into the mission's table."),
            Point(f"node{i}_job", "u32", "", f"Job on node {i}, 0 for none."),
        )
    )


def _limit_points(limit: Limit) -> tuple[Point, ...]:
    """Margins of the plan in the limit's own unit, and when the present draw would cross it."""
    name, _, scale = limit.name.lower().rpartition("_")
    unit, suffix = ("frac", "frac") if scale == "frac" else ("K", "k")
    return (
        Point(f"{name}_margin_{suffix}", "f32", unit, f"Nearest that the plan comes to {limit.name.lower()}."),
        Point(f"{name}_worst_{suffix}", "f32", unit, "The same in the worst case."),
        Point(f"{name}_draw_s", "f32", "s", f"Seconds until the present draw crosses {limit.name.lower()}."),
        Point(f"{name}_draw_worst_s", "f32", "s", "The same in the worst case."),
    )


HOUSEKEEPING: tuple[Housekeeping, ...] = (
    Housekeeping(1, "power", 10.0, (
        Point("mode", "u8", "", "Spacecraft mode.", enum=Mode),
        *_sensor_points("power"),
        Point("battery_low_frac", "f32", "frac", "Lower bound of the charge estimate.",
              lower="battery_floor_frac"),
        Point("battery_high_frac", "f32", "frac", "Upper bound of the charge estimate."),
        Point("budget_w", "f32", "W", "Compute power that the plan affords now."),
    )),
    Housekeeping(2, "thermal", 10.0, _sensor_points("thermal")),
    Housekeeping(3, "nodes_a", 10.0, (*_sensor_points("nodes_a"), *_node_points(range(4)))),
    Housekeeping(4, "nodes_b", 0.0, (*_sensor_points("nodes_b"), *_node_points(range(4, NODE_COUNT_MAX)))),
    Housekeeping(5, "jobs", 30.0, (
        Point("jobs_queued", "u16", "jobs", "Waiting for an answer."),
        Point("jobs_promised", "u16", "jobs", "Promised and not yet finished."),
        Point("jobs_running", "u16", "jobs", "On a node now."),
        Point("jobs_finished", "u32", "jobs", "Finished since the last start."),
        Point("jobs_refused", "u32", "jobs", "Refused since the last start."),
        Point("promises_broken", "u32", "jobs", "Promised and not finished by the deadline."),
        Point("value_finished", "f32", "", "Value of all finished jobs."),
        Point("energy_reserved_wh", "f32", "Wh", "Energy, and as much heat, reserved for open promises."),
    )),
    Housekeeping(7, "forecast", 60.0, (
        Point("plan_made_s", "f64", "s", "When the plan in force was made."),
        Point("forecast_battery_min_frac", "f32", "frac", "Lowest charge that the plan expects.",
              lower="battery_floor_frac"),
        Point("forecast_battery_min_s", "f32", "s", "Seconds until then."),
        Point("forecast_margin_k", "f32", "K", "Smallest distance of a temperature to its limit."),
        Point("eclipse_in_s", "f32", "s", "Seconds until the next eclipse, 0 inside one."),
        Point("sun_in_s", "f32", "s", "Seconds until the next sunrise, 0 in sunlight."),
        Point("pass_in_s", "f32", "s", "Seconds until the next ground pass, 0 inside one."),
        Point("draw_limit", "u8", "", "Limit crossed first if the nodes go on drawing what they draw, worst case.",
              enum=Limit),
        Point("draw_limit_s", "f32", "s", "Seconds until then, infinite where there is none in sight."),
    )),
    Housekeeping(6, "health", 30.0, (
        Point("boot_count", "u32", "", "Starts of the supervisor."),
        Point("tick_count", "u32", "", "Ticks since the last start."),
        Point("overrun_count", "u32", "", "Ticks that began late."),
        Point("tc_accepted", "u32", "", "Telecommands accepted."),
        Point("tc_rejected", "u32", "", "Telecommands rejected."),
        Point("frames_rejected", "u32", "", "Uplink frames that were not valid."),
        Point("tm_dropped", "u32", "", "Telemetry packets dropped because the downlink store was full."),
        Point("guardian_flags", "u8", "", "0 when the guardian answers and holds a live lease."),
        Point("shed_count", "u32", "", "Times that everything was shed."),
    )),
    Housekeeping(10, "accounts", 60.0, (
        Point("energy_due_wh", "f32", "Wh", "Of it, to be used before the next sunrise."),
        Point("energy_room_wh", "f32", "Wh", "Energy that new promises may still use before then."),
        Point("heat_room_wh", "f32", "Wh", "Heat that new promises may still make before then."),
        Point("energy_used_wh", "f32", "Wh", "Energy that settled jobs used, since the last start."),
        Point("energy_overdraft_wh", "f32", "Wh", "Of it, used beyond what was reserved."),
    )),
    Housekeeping(11, "uplink", 60.0, (
        Point("reject_fecf", "u32", "", "Uplink frames refused since the last start: length or error control."),
        Point("reject_scid", "u32", "", "The same: another spacecraft's."),
        Point("reject_type", "u32", "", "The same: version, flags, channel or segmentation."),
        Point("reject_spi", "u32", "", "The same: no key of this index is in force."),
        Point("reject_mac", "u32", "", "The same: not sealed with the key that it names."),
        Point("reject_replay", "u32", "", "The same: counter used up."),
        Point("reject_window", "u32", "", "The same: counter too far ahead."),
        Point("reject_sequence", "u32", "", "The same: not the frame that COP-1 expects."),
        Point("reject_packet", "u32", "", "The same: authentic, and no telecommand for this application."),
        Point("uplink_spi", "u16", "", "One of the stations' keys in force, the next one each minute; 0 for none."),
        Point("uplink_counter", "f64", "", "Its counter; none up to it is taken again."),
        Point("keys_active", "u32", "", "Slot of the active key, two bits for each sender, telemetry's lowest."),
        Point("keys_on_trial", "u16", "", "Senders whose next key is on trial, a bit each, telemetry's lowest."),
        Point("uplink_expected", "u8", "", "Number of the frame that COP-1 expects next."),
        Point("uplink_locked", "u8", "", "1 while COP-1 takes no frame in sequence until it is unlocked."),
    )),
    Housekeeping(8, "ahead", 60.0, (
        Point("plan_limit", "u8", "", "Limit crossed first under the plan, worst case.", enum=Limit),
        Point("plan_limit_s", "f32", "s", "Seconds until then, as above."),
        *(point for limit in LIMITS for point in _limit_points(limit)),
    )),
    Housekeeping(9, "ahead_curves", 300.0, (
        Point("ahead_made_s", "f64", "s", "When the forecast was made."),
        Point("ahead_step_s", "f32", "s", "Time between its points; point 0 is one step after it was made."),
        *(
            point
            for i in range(AHEAD_POINTS)
            for point in (
                Point(f"ahead{i}_frac", "f32", "frac", f"Charge under the plan, point {i}."),
                Point(f"worst{i}_frac", "f32", "frac", f"The same in the worst case, point {i}."),
                Point(f"ahead{i}_c", "f32", "degC", f"Hottest junction under the plan, point {i}."),
                Point(f"worst{i}_c", "f32", "degC", f"The same in the worst case, point {i}."),
            )
        ),
    )),
)

BY_SID: dict[int, Housekeeping] = {row.sid: row for row in HOUSEKEEPING}
POINTS: tuple[Point, ...] = tuple(point for row in HOUSEKEEPING for point in row.points)
POINT_INDEX: dict[str, int] = {point.name: i for i, point in enumerate(POINTS)}
POINT_BY_NAME: dict[str, Point] = {point.name: point for point in POINTS}

_STRUCTS: dict[int, struct.Struct] = {
    row.sid: struct.Struct(">B" + "".join(PACK[p.kind] for p in row.points)) for row in HOUSEKEEPING
}
_SLICES: dict[int, slice] = {
    row.sid: slice(POINT_INDEX[row.points[0].name], POINT_INDEX[row.points[0].name] + len(row.points))
    for row in HOUSEKEEPING
}


def housekeeping_octets(sid: int) -> int:
    """Octets of structure `sid` as `pack_housekeeping` makes it."""
    return _STRUCTS[sid].size


def pack_housekeeping(sid: int, pool: Sequence[float | int]) -> bytes:
    """Pack structure `sid` from `pool`, one value for each of `POINTS` (MISSING where there is none)."""
    return _STRUCTS[sid].pack(sid, *pool[_SLICES[sid]])


def unpack_housekeeping(data: bytes) -> tuple[Housekeeping, tuple[float | int, ...]]:
    """Unpack a housekeeping report's source data; LinkError when it is not one."""
    row = BY_SID.get(data[0]) if data else None
    if row is None:
        named = data[0] if data else "of no octets"
        raise LinkError(f"housekeeping structure {named} is not in the dictionary")
    layout = _STRUCTS[row.sid]
    if len(data) != layout.size:
        raise LinkError(f"housekeeping {row.name} has {len(data)} octets, dictionary says {layout.size}")
    return row, layout.unpack(data)[1:]


def pack_values(types: Sequence[str], values: Sequence[float | int | str]) -> bytes:
    """Pack `values` by dictionary `types`; LinkError names the value that does not fit."""
    if len(types) != len(values):
        raise LinkError(f"{len(values)} values for {len(types)} fields")
    parts: list[bytes] = []
    for kind, value in zip(types, values, strict=True):
        if kind == "text":
            # A lone surrogate, as in the name of a file that is no UTF-8, is sent as it is written in Python.
            octets = str(value).encode("utf-8", "backslashreplace")
            if len(octets) > TEXT_MAX_OCTETS:  # cut between characters, never inside one
                octets = octets[:TEXT_MAX_OCTETS].decode("utf-8", "ignore").encode("utf-8")
            parts.append(bytes((len(octets),)) + octets)
            continue
        if kind == "octets":
            try:
                octets = bytes.fromhex(str(value))
            except ValueError as error:
                raise LinkError(f"value {value!r} is not hexadecimal") from error
            if len(octets) > OCTETS_MAX:
                raise LinkError(f"field of {len(octets)} octets, limit {OCTETS_MAX}")
            parts.append(bytes((len(octets),)) + octets)
            continue
        try:
            parts.append(struct.pack(">" + PACK[kind], value))
        except (struct.error, OverflowError) as error:
            raise LinkError(f"value {value!r} does not fit type {kind}") from error
    return b"".join(parts)


def unpack_values(types: Sequence[str], data: bytes, offset: int = 0) -> tuple[float | int | str, ...]:
    """Unpack fields of dictionary `types`, which must fill `data` from `offset` to its end exactly."""
    values: list[float | int | str] = []
    at = offset
    for kind in types:
        if kind in {"text", "octets"}:
            end = at + 1 + data[at] if at < len(data) else at + 1
            if end > len(data):
                raise LinkError(f"{kind} field at octet {at} ends at {end}, data at {len(data)}")
            if kind == "octets":
                values.append(data[at + 1:end].hex())
                at = end
                continue
            try:
                values.append(data[at + 1:end].decode("utf-8"))
            except UnicodeDecodeError as error:
                raise LinkError(f"text field at octet {at} is not UTF-8") from error
        else:
            code = ">" + PACK[kind]
            end = at + struct.calcsize(code)
            if end > len(data):
                raise LinkError(f"{kind} field at octet {at} ends at {end}, data at {len(data)}")
            values.append(struct.unpack_from(code, data, at)[0])
        at = end
    if at != len(data):
        raise LinkError(f"{len(data) - at} octets more than the dictionary's fields")
    return tuple(values)


def pack_event(row: EventRow, args: Sequence[float | int | str]) -> bytes:
    """Pack an event report's source data: `u16 number` and its arguments."""
    return struct.pack(">H", row.number) + pack_values(row.args, args)


def unpack_event(data: bytes) -> tuple[EventRow, tuple[float | int | str, ...]]:
    """Unpack an event report's source data; LinkError when it is not one."""
    if len(data) < 2:
        raise LinkError(f"event report of {len(data)} octets, at least 2 expected")
    number = int.from_bytes(data[:2], "big")
    row = EVENT_BY_NUMBER.get(number)
    if row is None:
        raise LinkError(f"event {number} is not in the dictionary")
    return row, unpack_values(row.args, data, 2)

"""Everything the satellite says: events, verification, housekeeping, and when the transmitter is on.

Last stage of the loop. Bounded and droppable: what the line does not take now waits in the reporter's
bounded store; nothing here can delay a tick or fail it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from flightsw.dictionary import parameters as parameter_table
from flightsw.dictionary.sensors import SENSORS
from flightsw.dictionary.telemetry import HOUSEKEEPING, MISSING, POINT_INDEX, POINTS
from flightsw.fdir.defined import DefinedMonitors
from flightsw.link.serial_port import ByteStream
from flightsw.link.services import Reporter, UplinkStatus
from flightsw.mission import Mission
from flightsw.physics.forecast import Sky
from flightsw.state import (
    AHEAD_POINTS,
    LIMITS,
    Ahead,
    Decision,
    Estimate,
    Event,
    Limit,
    MonitorDefinition,
    Pong,
    Readings,
    ReportHousekeeping,
    ReportParameter,
    SendReport,
    SetHousekeepingPeriod,
)

_SENSOR_POINTS = tuple(POINT_INDEX[row.name] for row in SENSORS)
_BITS_PER_OCTET_ON_LINE = 10  # start, eight data, stop
_BURST_S = 1.0  # most line time that a late tick may make up for at once


class Counters(NamedTuple):
    """Numbers that only the supervisor knows."""

    boot_count: int
    tick_count: int
    overrun_count: int
    tc_accepted: int
    tc_rejected: int
    frames_rejected: int
    guardian_flags: int
    shed_count: int
    jobs_queued: int
    jobs_promised: int
    jobs_running: int
    jobs_finished: int
    jobs_refused: int
    promises_broken: int
    value_finished: float
    energy_reserved_wh: float
    energy_due_wh: float
    energy_room_wh: float
    heat_room_wh: float
    energy_used_wh: float
    energy_overdraft_wh: float


_AHEAD_POINTS = POINT_INDEX["plan_limit"]
_CURVE_POINTS = POINT_INDEX["ahead_made_s"]
_COUNTER_POINTS = tuple(
    (POINT_INDEX[name], i) for i, name in enumerate(Counters._fields)
)
_UPLINK_POINTS = tuple(POINT_INDEX[name] for name in UplinkStatus._fields)


class Reporting:
    """Turns decisions into packets and packets into octets on the line."""

    def __init__(self, mission: Mission, reporter: Reporter, port: ByteStream) -> None:
        self._reporter = reporter
        self._port = port
        self._capacity_j = mission.battery.capacity_wh * 3600.0
        self._octets_per_s = mission.link.baud / _BITS_PER_OCTET_ON_LINE
        self._credit_limit_octets = _BURST_S * self._octets_per_s + reporter.unit_octets
        self._pool: list[float | int] = [0 if point.kind.startswith("u") else MISSING for point in POINTS]
        self._period_s = {row.sid: row.period_s for row in HOUSEKEEPING}
        if mission.compute.nodes > 4:
            self._period_s[4] = self._period_s[3]
        self._due_s = {sid: 0.0 for sid, period_s in self._period_s.items() if period_s > 0.0}
        self._monitors = DefinedMonitors()
        self._monitored_s = -math.inf
        self._credit_octets = 0.0  # line time not used yet: frames are whole, a tick's share of the line is not
        self._credited_until_s = 0.0

    def event(self, event: Event, obt_s: float) -> None:
        """Report one event."""
        self._reporter.event(event, obt_s)

    def report(self, obt_s: float, readings: Readings, estimate: Estimate, decision: Decision, sky: Sky,
               caps_w: Callable[[], tuple[float, ...]], counters: Callable[[], Counters],
               uplink: Callable[[], UplinkStatus], values: Mapping[str, float],
               monitors: Mapping[int, MonitorDefinition]) -> list[Event]:
        """Queue what this tick has to say; `caps_w`, `counters` and `uplink` are asked only when they are due.

        Return the events, not yet reported, of the points that `monitors` define.
        """
        reporter = self._reporter
        for request_id, stage, code, text in decision.verifications:
            reporter.verification(request_id, stage, code, text, obt_s)
        for event in decision.events:
            reporter.event(event, obt_s)
        now_s = decision.now_s
        asked = self._carry_out(decision, obt_s, values)
        due = [sid for sid, due_s in self._due_s.items() if now_s >= due_s]
        sample = bool(monitors) and now_s - self._monitored_s >= values["monitor_period_s"]
        if not due and not asked and not sample:
            return []
        self._fill_pool(readings, estimate, decision, sky, caps_w(), counters(), uplink())
        for sid in due:
            # On the grid of its period, so that a late tick is not a slower rate; after a gap it starts afresh.
            next_s = self._due_s[sid] + self._period_s[sid]
            self._due_s[sid] = next_s if next_s > now_s else now_s + self._period_s[sid]
            reporter.housekeeping(sid, self._pool, obt_s)
        for sid in asked:
            reporter.housekeeping(sid, self._pool, obt_s)
        if not sample:
            return []
        self._monitored_s = now_s
        return self._monitors.check(monitors, self._pool)

    def transmit(self, now_s: float, control_words: tuple[int, ...]) -> None:
        """Put on the line what its rate takes since the last call; call only while a station listens.

        `control_words` go out in turn, one in each frame: what the satellite says of the uplink.
        """
        self._reporter.report_uplink(control_words)
        earned = (now_s - self._credited_until_s) * self._octets_per_s
        self._credited_until_s = now_s
        self._credit_octets = min(self._credit_octets + earned, self._credit_limit_octets)
        octets = self._reporter.take(int(self._credit_octets))
        if octets:
            self._credit_octets -= len(octets)
            self._port.write(octets)

    def stock_files(self, now_s: float, next_pdu: Callable[[], bytes | None]) -> None:
        """Take as many octets of files as the line may send in the next `transmit`, and no more.

        What waits here could not be overtaken by a more valuable file, nor be held for another station.
        """
        room = self._credit_octets + (now_s - self._credited_until_s) * self._octets_per_s
        room = min(room, 2.0 * _BURST_S * self._octets_per_s)
        while self._reporter.waiting_file_octets < room:
            pdu = next_pdu()
            if pdu is None:
                return
            self._reporter.file(pdu)

    def _carry_out(self, decision: Decision, obt_s: float, values: Mapping[str, float]) -> list[int]:
        """Serve what telecommands ask of the link; return the structures to send once."""
        asked: list[int] = []
        for effect in decision.effects:
            if isinstance(effect, Pong):
                self._reporter.pong(obt_s)
            elif isinstance(effect, SendReport):
                self._reporter.report(effect.name, effect.args, obt_s)
            elif isinstance(effect, ReportHousekeeping):
                asked.append(effect.sid)
            elif isinstance(effect, ReportParameter):
                row = parameter_table.BY_NUMBER[effect.number]
                self._reporter.parameter(row.number, values[row.name], obt_s)
            elif isinstance(effect, SetHousekeepingPeriod):
                self._period_s[effect.sid] = effect.period_s
                self._due_s.pop(effect.sid, None)
                if effect.period_s > 0.0:
                    self._due_s[effect.sid] = decision.now_s + effect.period_s
        return asked

    def _fill_pool(self, readings: Readings, estimate: Estimate, decision: Decision, sky: Sky,
                   caps_w: tuple[float, ...], counters: Counters, uplink: UplinkStatus) -> None:
        pool = self._pool
        for at, value in zip(_SENSOR_POINTS, readings.values, strict=True):
            pool[at] = MISSING if value is None else value
        for at, i in _COUNTER_POINTS:
            pool[at] = counters[i]
        for at, number in zip(_UPLINK_POINTS, uplink, strict=True):
            pool[at] = number
        plan = decision.plan
        now_s = decision.now_s
        charge_known = "battery_soc_frac" not in estimate.blind
        for name, value in (
            ("mode", int(decision.mode)),
            ("battery_low_frac", estimate.battery_j.low / self._capacity_j if charge_known else MISSING),
            ("battery_high_frac", estimate.battery_j.high / self._capacity_j if charge_known else MISSING),
            ("budget_w", plan.budget_at(now_s)),
            ("tm_dropped", self._reporter.dropped_packets),
            ("plan_made_s", plan.made_s),
            ("forecast_battery_min_frac", plan.battery_min_frac),
            ("forecast_battery_min_s", plan.battery_min_at_s - now_s),
            ("forecast_margin_k", plan.hottest_margin_k),
            ("eclipse_in_s", sky.eclipse_in_s),
            ("sun_in_s", sky.sun_in_s),
            ("pass_in_s", sky.pass_in_s),
        ):
            pool[POINT_INDEX[name]] = value
        _fill_ahead(pool, decision.ahead)
        for i, (node, cap_w) in enumerate(zip(decision.nodes, caps_w, strict=True)):
            pool[POINT_INDEX[f"node{i}_cap_w"]] = cap_w
            pool[POINT_INDEX[f"node{i}_mode"]] = node.power_mode
            pool[POINT_INDEX[f"node{i}_job"]] = node.job_id


def _fill_ahead(pool: list[float | int], ahead: Ahead | None) -> None:
    """Write both structures of the forecast, in the order of their points; missing where there is none."""
    draw_limit, draw_limit_s = Limit.UNKNOWN, MISSING
    values: list[float | int] = [Limit.UNKNOWN, MISSING, *(MISSING,) * (4 * len(LIMITS))]
    curves: list[float] = [MISSING] * (2 + 4 * AHEAD_POINTS)
    if ahead is not None:
        draw_limit, draw_limit_s = ahead.present_worst.next_crossing()
        values = [*ahead.plan_worst.next_crossing()]
        for of_limit in zip(ahead.plan.margin, ahead.plan_worst.margin, ahead.present.crossing_s,
                            ahead.present_worst.crossing_s, strict=True):
            values.extend(of_limit)
        curves = [ahead.made_s, ahead.step_s]
        for point in zip(ahead.charge_frac, ahead.charge_worst_frac, ahead.hottest_c, ahead.hottest_worst_c,
                         strict=True):
            curves.extend(point)
    pool[POINT_INDEX["draw_limit"]], pool[POINT_INDEX["draw_limit_s"]] = draw_limit, draw_limit_s
    pool[_AHEAD_POINTS:_AHEAD_POINTS + len(values)] = values
    pool[_CURVE_POINTS:_CURVE_POINTS + len(curves)] = curves

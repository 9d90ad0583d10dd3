"""Faults drawn at random from the library, and what became of each: noticed on board, harmless, or neither.

Used by campaigns and by `hil run --random-faults`, so that one seed of a campaign flies again alone. Amounts are drawn
within what may credibly happen to one satellite on one day (`_AMOUNTS`), not within what the library takes.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from flightsw.dictionary.events import Severity
from flightsw.dictionary.sensors import INDEX, SENSORS
from ground.archive import EventEntry
from hil.faults import LIBRARY, Fault, Part
from hil.inject import PARTS, FaultSpan
from hil.run import Flight
from hil.scenario import FaultStep, Moment, Scenario

_SETTLE_S: Final = 900.0  # nothing begins before the satellite works
_QUIET_END_S: Final = 1200.0  # or so late that nothing can come of it
_LASTS_S: Final = (60.0, 1800.0)
_EARLY_ECLIPSE_S: Final = 600.0
_NOTICED_WITHIN_S: Final = 1800.0  # after its end, at the latest
_STAMP_S: Final = 0.001  # stamps are cut to 2**-16 s

_AMOUNTS: Final[dict[tuple[str, str], tuple[float, float]]] = {
    ("plant.string_lost", "lost_frac"): (0.05, 0.4),
    ("plant.cells_lost", "lost_frac"): (0.05, 0.33),
    ("plant.radiator_degraded", "kept_frac"): (0.6, 0.95),
    ("plant.latch_up", "extra_w"): (1.0, 8.0),
    ("plant.latch_up", "clears_after_s"): (1.0, 10.0),
    ("actuator.partial", "share_frac"): (0.1, 0.9),
    ("board.clock_step", "ahead_s"): (1.0, 3600.0),
    ("board.corruption", "octets"): (1.0, 64.0),
    ("board.bit_flip", "bit"): (0.0, 63.0),
    ("link.bit_errors", "rate"): (1e-6, 1e-3),
    ("link.bursts", "every_octets"): (500.0, 20_000.0),
    ("link.bursts", "octets"): (5.0, 200.0),
    ("link.delay", "extra_s"): (0.1, 10.0),
    ("link.garbage", "octets_s"): (10.0, 2000.0),
    ("link.wrong_baud", "ratio"): (0.25, 4.0),
    ("link.replay", "record_s"): (10.0, 300.0),
    ("link.replay", "every_s"): (10.0, 120.0),
    ("ground.crash", "sent_octets"): (0.0, 2000.0),
    ("job.overdraw", "factor"): (1.05, 1.5),
}
_OF_RANGE: Final = {"sensor.bias": (-0.2, 0.2), "sensor.drift": (-0.5, 0.5), "sensor.noise": (0.0, 0.05)}
"""Amounts as shares of the sensor's own range (for a drift: an hour's)."""

_TOLD_BY: Final[dict[str, str]] = {"board.clock_step": "clock_stepped", "plant.eclipse_early": "sun_missing"}
"""Events that are of one kind of fault and name no target."""

_OVERDRAWS: Final = frozenset({"plant.latch_up", "job.overdraw"})
"""Faults that show on board as a draw of the job that is on the node."""

_WHOLE: Final = frozenset({"octets", "bit", "every_octets", "sent_octets"})


_NOT_DRAWN: Final = frozenset({"board.slow_disk"})
"""What came to the library after the seeds of campaigns were written down: they fly the same faults as before."""


def kinds(bench: str = "sil") -> tuple[str, ...]:
    """Kinds of fault that are drawn for a bench: those that it can do."""
    return tuple(sorted(kind for kind, row in LIBRARY.items() if row.effect is not None and row.part in PARTS[bench]
                        and row.part is not Part.PROCESSES and kind not in _NOT_DRAWN))


def add(scenario: Scenario, count: int, bench: str = "sil") -> Scenario:
    """Return the scenario with `count` faults more, drawn from its seed alone."""
    steps = tuple(_draw(scenario, number, random.Random(f"{scenario.seed}/random fault/{number}"), bench)
                  for number in range(count))
    return dataclasses.replace(scenario, faults=scenario.faults + steps) if count else scenario


def _draw(scenario: Scenario, number: int, stream: random.Random, bench: str) -> FaultStep:
    kind = stream.choice(kinds(bench))
    row = LIBRARY[kind]
    targets = tuple(row.targets(scenario.mission.compute.nodes))
    target = stream.choice(targets) if targets else ""
    values = {param.name: _amount(row, param.name, target, stream) for param in row.params}
    latest_s = max(_SETTLE_S + 1.0, scenario.duration_s - _QUIET_END_S)
    at_s = float(round(stream.uniform(_SETTLE_S, latest_s)))
    lasts_s = float(round(math.exp(stream.uniform(*map(math.log, _LASTS_S)))))
    if kind == "plant.eclipse_early":
        lasts_s = min(lasts_s, _EARLY_ECLIPSE_S)
    return FaultStep(f"random{number}", kind, target, values, Moment(0, at_s), lasts_s)


def _amount(row: Fault, name: str, target: str, stream: random.Random) -> float:
    if row.kind in _OF_RANGE:
        sensor = SENSORS[INDEX[target]]
        low, high = _OF_RANGE[row.kind]
        return stream.uniform(low, high) * (sensor.high - sensor.low)
    param = next(param for param in row.params if param.name == name)
    low, high = _AMOUNTS.get((row.kind, name), (max(param.low, 10.0), min(param.high, 600.0)))
    value = math.exp(stream.uniform(math.log(low), math.log(high))) if low > 0.0 else stream.uniform(low, high)
    return float(round(value)) if name in _WHOLE else value


# --- what became of them -----------------------------------------------------------------------------


class Outcome(NamedTuple):
    """One fault of one run. `noticed_by` are the events and counters that tell of it; `is_harmless` is whether the run
    kept every limit and every promise, and lost no tick.
    """

    id: str
    kind: str
    target: str
    from_s: float
    to_s: float
    noticed_by: tuple[str, ...]
    is_harmless: bool


def outcomes(flown: Flight, healthy: Flight | None = None) -> tuple[Outcome, ...]:
    """Say of each fault of a run what became of it.

    An event counts as notice of a fault where it came in its time and names its target or, given the same run without
    faults (`healthy`), is one that does not happen there.
    """
    metrics = flown.metrics
    is_harmless = not (metrics["limits_crossed"] or metrics["promises_broken"] or metrics["failed_ticks"])
    return tuple(Outcome(span.id, span.kind, span.target, span.from_s, span.to_s,
                         tuple(sorted(_notices(span, flown, healthy))), is_harmless) for span in flown.spans)


def _notices(span: FaultSpan, flown: Flight, healthy: Flight | None) -> set[str]:
    found = set()
    usual = {event.name for event in _in_time(healthy, span)} if healthy is not None else None
    for event in _in_time(flown, span):
        names_it = span.target and span.target in (str(arg) for arg in event.args) and (
            span.kind.startswith("sensor.")
            or (event.severity > Severity.INFO and event.name.startswith(("node", "job"))))
        restarted = event.name in ("boot", "tick_overrun") and span.kind.startswith("board.")
        its_job = event.name == "job_overdraws" and span.kind in _OVERDRAWS and any(
            bar.job_id == event.args[0] and str(bar.node) == span.target
            and bar.from_s < span.to_s + 1.0 and span.from_s < bar.to_s for bar in flown.logbook.bars)
        storage = event.name in ("store_failed", "tick_failed", "recording_ended") and span.kind.startswith("board.")
        new = usual is not None and event.severity > Severity.INFO and event.name not in usual
        if names_it or restarted or its_job or storage or new or event.name == _TOLD_BY.get(span.kind):
            found.add(event.name)
    if span.kind.startswith("link."):
        found |= {name for name in ("telemetry_frames_bad", "telemetry_frames_lost", "telemetry_gaps",
                                    "line_octets_lost") if flown.metrics[name]}
    return found


def _in_time(flown: Flight, span: FaultSpan) -> Iterator[EventEntry]:
    """Give the events in which a fault can be noticed, whatever its steps have made of the on-board clock."""
    epoch_s = flown.start_unix_s
    for event in flown.events:
        if event.name == "clock_stepped":
            epoch_s += float(event.args[0] or 0.0)
        # A start is stamped with the last time that was written down before it, which may be before the fault.
        at_s = event.received_s - flown.start_unix_s if event.name == "boot" else event.obt_s - epoch_s
        if span.from_s - _STAMP_S <= at_s <= span.to_s + _NOTICED_WITHIN_S:
            yield event


def untold(found: Sequence[Outcome]) -> list[Outcome]:
    """Return those that were neither noticed nor harmless."""
    return [each for each in found if not each.noticed_by and not each.is_harmless]

"""Deliberately broken flight code: one well-defined defect each, planted in this process for one flight.

A defect says what it breaks, in which scenario that shows, and the check that must fail. It is made of replacements of
functions of the flight software, each wrapping what it replaces; nothing of the rig is touched, so that a check that
lets one through is a check that is worth nothing. Used by `hil selftest`; flight code is whole again afterwards.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flightsw import supervisor
from flightsw.decide import brain, dispatch, governor, planner
from flightsw.decide.admission import Desk
from flightsw.decide.draw import JobDraw
from flightsw.decide.estimator import Estimator
from flightsw.decide.price import Demand as PriceOfWork
from flightsw.dictionary import commands
from flightsw.dictionary.sensors import INDEX
from flightsw.facts import FactFile
from flightsw.fdir.monitors import Monitors, Verdict
from flightsw.fdir.plausibility import Plausibility
from flightsw.guardian import InProcessGuardian
from flightsw.jobs.ledger import Ledger
from flightsw.link import services
from flightsw.link.sdls import CommandSeal
from flightsw.link.services import CommandReceiver, Reporter
from flightsw.physics.forecast import Forecaster
from flightsw.reporting import Reporting
from flightsw.state import Estimate, JobSpec, Mode, Promise, Quality, Readings, SetParameter

Replacement = tuple[object, str, object]
"""Owner, attribute, and what stands there while the defect is planted."""


@dataclass(frozen=True, slots=True)
class Defect:
    """One defect; `flown_s` is how much of the scenario is enough for `caught_by` to fail."""

    name: str
    about: str
    scenario: str
    caught_by: str
    flown_s: float
    make: Callable[[], Sequence[Replacement]]


DEFECTS: dict[str, Defect] = {}


def _defect(name: str, scenario: str, caught_by: str, flown_s: float
            ) -> Callable[[Callable[[], Sequence[Replacement]]], Callable[[], Sequence[Replacement]]]:
    def add(make: Callable[[], Sequence[Replacement]]) -> Callable[[], Sequence[Replacement]]:
        DEFECTS[name] = Defect(name, (make.__doc__ or "").partition("\n")[0], f"faults/{scenario}", caught_by, flown_s,
                               make)
        return make

    return add


@contextlib.contextmanager
def planted(defect: Defect) -> Iterator[None]:
    """Fly with a defect. AttributeError where the flight software has changed so that it cannot be planted."""
    replacements = defect.make()
    before = [(owner, name, vars(owner)[name]) for owner, name, _ in replacements]
    try:
        for owner, name, broken in replacements:
            setattr(owner, name, broken)
        yield
    finally:
        for owner, name, whole in before:
            setattr(owner, name, whole)


Whole = Callable[..., Any]  # Any: whatever the function of the flight software takes and returns


def _wrap(owner: object, name: str, around: Callable[..., object]) -> Replacement:
    """Replace a function by `around(whole, *arguments)`."""
    whole: Whole = vars(owner)[name]
    return owner, name, lambda *arguments, **named: around(whole, *arguments, **named)


# --- sensing ------------------------------------------------------------------------------------------


def _believe(quality: Quality, value: Callable[[int], float]) -> Sequence[Replacement]:
    """Let readings of one bad quality pass as good."""
    def sense(whole: Whole, board: object, now_s: float) -> Readings:
        readings: Readings = whole(board, now_s)
        bad = [i for i, found in enumerate(readings.qualities) if found == quality]
        values, qualities, sampled_s = list(readings.values), list(readings.qualities), list(readings.sampled_s)
        for i in bad:
            values[i], qualities[i], sampled_s[i] = value(i), int(Quality.GOOD), now_s
        return Readings(now_s, tuple(values), tuple(qualities), tuple(sampled_s))

    return [_wrap(supervisor, "sense", sense)]


@_defect("sensing.silence_is_zero", "sensors", "silent_told", 700.0)
def _silence_is_zero() -> Sequence[Replacement]:
    """A sensor that does not answer reads 0."""
    return _believe(Quality.MISSING, lambda _i: 0.0)


@_defect("sensing.nan_is_zero", "sensors", "nan_told", 1000.0)
def _nan_is_zero() -> Sequence[Replacement]:
    """NaN reads 0."""
    return _believe(Quality.NOT_FINITE, lambda _i: 0.0)


@_defect("sensing.range_is_not_looked_at", "sensors", "range_told", 1250.0)
def _range_is_not_looked_at() -> Sequence[Replacement]:
    """A value outside its sensor's range is believed."""
    return _believe(Quality.OUT_OF_RANGE, lambda _i: 500.0)


@_defect("sensing.age_is_not_looked_at", "sensors", "late_told", 1450.0)
def _age_is_not_looked_at() -> Sequence[Replacement]:
    """A value that is too old is believed."""
    return _believe(Quality.STALE, lambda _i: 20.0)


# --- monitors and estimator ---------------------------------------------------------------------------


def _without_events(name: str) -> Sequence[Replacement]:
    def check(whole: Whole, *arguments: object) -> Verdict:
        verdict: Verdict = whole(*arguments)
        return Verdict(tuple(event for event in verdict.events if event.name != name), verdict.shed)

    return [_wrap(Monitors, "check", check)]


@_defect("monitors.loss_is_not_told", "sensors", "nan_told", 1000.0)
def _loss_is_not_told() -> Sequence[Replacement]:
    """Nobody hears of a sensor that is lost."""
    return _without_events("sensor_lost")


@_defect("monitors.return_is_not_told", "sensors", "back_told", 800.0)
def _return_is_not_told() -> Sequence[Replacement]:
    """Nobody hears that a sensor is back."""
    return _without_events("sensor_back")


@_defect("plausibility.never_doubts", "sensors", "stuck_doubted", 3000.0)
def _never_doubts() -> Sequence[Replacement]:
    """A sensor that is stuck is believed for ever."""
    return [(Plausibility, "judge", lambda _self, readings: (readings, ()))]


@_defect("estimator.is_never_blind", "sensors", "blind_stops", 700.0)
def _is_never_blind() -> Sequence[Replacement]:
    """Compute goes on without the temperature of the plate."""
    def update(whole: Whole, *arguments: object) -> Estimate:
        estimate: Estimate = whole(*arguments)
        return estimate._replace(blind=())

    return [_wrap(Estimator, "update", update)]


@_defect("estimator.has_no_dark_nodes", "sensors", "dark_node_off", 1000.0)
def _has_no_dark_nodes() -> Sequence[Replacement]:
    """A node whose temperature nobody knows goes on."""
    def update(whole: Whole, *arguments: object) -> Estimate:
        estimate: Estimate = whole(*arguments)
        return estimate._replace(dark_nodes=())

    return [_wrap(Estimator, "update", update)]


@_defect("estimator.charge_has_no_doubt", "sensors", "charge_is_bounded", 600.0)
def _charge_has_no_doubt() -> Sequence[Replacement]:
    """The charge is known exactly, 3 % too high."""
    def update(whole: Whole, *arguments: object) -> Estimate:
        estimate: Estimate = whole(*arguments)
        high_j = estimate.battery_j.best * 1.03
        return estimate._replace(battery_j=estimate.battery_j._replace(best=high_j, low=high_j, high=high_j))

    return [_wrap(Estimator, "update", update)]


# --- decisions ----------------------------------------------------------------------------------------


@_defect("mode.leaves_safe_by_itself", "sensors", "stays_safe", 300.0)
def _leaves_safe_by_itself() -> Sequence[Replacement]:
    """SAFE is left without a telecommand."""
    def keep(whole: Whole, self: brain.Brain, now_s: float, estimate: Estimate, inputs: object, turn: object) -> None:
        whole(self, now_s, estimate, inputs, turn)
        if self.mode is Mode.SAFE and now_s >= 60.0:
            self.mode = Mode.STANDBY

    return [_wrap(brain.Brain, "_keep_mode", keep)]


@_defect("mode.silence_is_ignored", "silence", "safe_after_silence", 3700.0)
def _silence_is_ignored() -> Sequence[Replacement]:
    """The ground may be silent for ever."""
    def keep(whole: Whole, self: brain.Brain, now_s: float, *others: object) -> None:
        self._heard_s = now_s
        whole(self, now_s, *others)

    return [_wrap(brain.Brain, "_keep_mode", keep)]


@_defect("mode.gate_is_open", "passes", "forbidden_refused", 4800.0)
def _gate_is_open() -> Sequence[Replacement]:
    """A command that its mode forbids is accepted, and does nothing."""
    def execute(whole: Whole, *arguments: object) -> object:
        result = whole(*arguments)
        return () if isinstance(result, commands.Rejection) else result

    return [_wrap(commands, "execute", execute)]


@_defect("parameters.are_not_set", "sensors", "parameter_taken", 300.0)
def _are_not_set() -> Sequence[Replacement]:
    """A parameter is accepted and not set."""
    def take(whole: Whole, self: object, effect: object, *others: object) -> None:
        if not isinstance(effect, SetParameter):
            whole(self, effect, *others)

    return [_wrap(brain.Brain, "_take", take)]


@_defect("dispatch.ignores_the_budget", "power", "follows_budget", 3600.0)
def _ignores_the_budget() -> Sequence[Replacement]:
    """Jobs get whatever power there is, whatever the plan affords."""
    def set_modes(whole: Whole, placed: object, before: object, modes: object, steps: object, _budget_w: float,
                  *others: object, **named: object) -> object:
        return whole(placed, before, modes, steps, 120.0, *others, **named)

    return [_wrap(dispatch, "set_modes", set_modes)]


@_defect("limits.nobody_looks", "power", "limit.battery_floor", 5400.0)
def _nobody_looks() -> Sequence[Replacement]:
    """Neither plan nor governor knows a limit: full power, always."""
    def approve(_whole: Whole, wanted: Sequence[object], *_others: object) -> governor.Approval:
        return governor.Approval(tuple(wanted), (), "")  # type: ignore[arg-type] # node commands, passed through

    def plan(whole: Whole, *arguments: object) -> object:
        made = whole(*arguments)
        return made._replace(budget_w=(110.0,) * len(made.budget_w))

    return [_wrap(governor, "approve", approve), _wrap(planner, "plan", plan)]


@_defect("admission.promises_everything", "crowd", "much_refused", 8367.0)
def _promises_everything() -> Sequence[Replacement]:
    """Every job is promised."""
    def answer(_whole: Whole, _self: Desk, spec: JobSpec, **_named: object) -> Promise:
        return Promise(spec.job_id, spec.deadline_s, 1.0, 1.0)

    return [_wrap(Desk, "answer", answer), (PriceOfWork, "price", lambda *_arguments: 0.0)]


@_defect("jobs.overdraw_is_not_seen", "heat", "overdraw_told", 1800.0)
def _overdraw_is_not_seen() -> Sequence[Replacement]:
    """A job that draws more than it declared is not found out."""
    return [(JobDraw, "look", lambda *_arguments: ())]


@_defect("jobs.end_is_not_noticed", "power", "jobs_end", 11_157.0)
def _end_is_not_noticed() -> Sequence[Replacement]:
    """What jobs report of themselves is not read."""
    return [(brain.Brain, "_follow", lambda *_arguments: None)]


@_defect("jobs.crash_is_not_told", "heat", "crash_told", 1500.0)
def _crash_is_not_told() -> Sequence[Replacement]:
    """A crashed job counts as one that goes on."""
    def follow(whole: Whole, self: object, inputs: Any, turn: object) -> None:  # Any: a NamedTuple's _replace
        told = tuple(each for each in inputs.progress if each.succeeded or not each.ended)
        whole(self, inputs._replace(progress=told), turn)

    return [_wrap(brain.Brain, "_follow", follow)]


# --- supervisor, guardian, storage --------------------------------------------------------------------


@_defect("guardian.lease_is_too_long", "board", "floor_after_kill", 700.0)
def _lease_is_too_long() -> Sequence[Replacement]:
    """Caps outlive a dead supervisor by a minute."""
    def renew(whole: Whole, self: object, now_s: float, _lease_s: float, caps: object) -> object:
        return whole(self, now_s, 60.0, caps)

    return [_wrap(InProcessGuardian, "renew", renew)]


@_defect("ledger.forgets", "board", "jobs_kept", 760.0)
def _forgets() -> Sequence[Replacement]:
    """Jobs are acknowledged, and not written down."""
    return [(Ledger, "_append", lambda *_arguments: None)]


@_defect("facts.start_is_not_counted", "board", "start_counted", 700.0)
def _start_is_not_counted() -> Sequence[Replacement]:
    """Every start is the first."""
    def count(whole: Whole, self: FactFile) -> None:
        if self.facts.boot_count == 0:
            whole(self)

    return [_wrap(FactFile, "count_boot", count)]


@_defect("supervisor.hides_lateness", "board", "lateness_told", 1300.0)
def _hides_lateness() -> Sequence[Replacement]:
    """Ticks that were left out are not told."""
    return [(supervisor.Supervisor, "note_overrun", lambda *_arguments: None)]


@_defect("supervisor.lives_on_without_storage", "board", "safe_without_disk", 1900.0)
def _lives_on_without_storage() -> Sequence[Replacement]:
    """A failed write is ignored."""
    def append(whole: Whole, *arguments: object) -> None:
        with contextlib.suppress(Exception):
            whole(*arguments)

    return [_wrap(Ledger, "_append", append)]


@_defect("supervisor.fails_now_and_then", "sensors", "ticks", 400.0)
def _fails_now_and_then() -> Sequence[Replacement]:
    """A tick in a hundred fails."""
    def update(whole: Whole, self: object, readings: Readings, *others: object) -> object:
        if readings.now_s % 100.0 == 99.0:
            raise ZeroDivisionError("planted")
        return whole(self, readings, *others)

    return [_wrap(Estimator, "update", update)]


# --- reporting and link -------------------------------------------------------------------------------


@_defect("telemetry.is_frozen", "sensors", "charge_is_true", 2600.0)
def _is_frozen() -> Sequence[Replacement]:
    """Housekeeping says what it said in the first minute."""
    def fill(whole: Whole, self: object, readings: Readings, *others: object) -> None:
        if readings.now_s < 60.0:
            whole(self, readings, *others)

    return [_wrap(Reporting, "_fill_pool", fill)]


@_defect("telemetry.is_in_kelvin", "sensors", "plate_is_true", 120.0)
def _is_in_kelvin() -> Sequence[Replacement]:
    """The plate's temperature goes down in kelvin."""
    at = INDEX["plate_c"]

    def report(whole: Whole, self: object, obt_s: float, readings: Readings, *others: object) -> None:
        values = [value + 273.15 if i == at and value is not None else value for i, value in enumerate(readings.values)]
        whole(self, obt_s, readings._replace(values=tuple(values)), *others)

    return [_wrap(Reporting, "report", report)]


@_defect("telemetry.missing_is_a_number", "sensors", "missing_is_missing", 700.0)
def _missing_is_a_number() -> Sequence[Replacement]:
    """A missing value travels as 0."""
    def housekeeping(whole: Whole, self: object, sid: int, pool: Sequence[float], obt_s: float) -> None:
        whole(self, sid, [0.0 if math.isnan(value) else value for value in pool], obt_s)

    return [_wrap(Reporter, "housekeeping", housekeeping)]


@_defect("telemetry.stops_when_blind", "sensors", "housekeeping_comes", 800.0)
def _stops_when_blind() -> Sequence[Replacement]:
    """The satellite says nothing while it does not know its state."""
    def transmit(whole: Whole, self: supervisor.Supervisor, *others: object) -> None:
        if not self.brain._blind:
            whole(self, *others)

    return [_wrap(supervisor.Supervisor, "_transmit", transmit)]


@_defect("events.are_stamped_late", "sensors", "back_told", 1000.0)
def _are_stamped_late() -> Sequence[Replacement]:
    """Events bear a time two minutes after they happened."""
    def event(whole: Whole, self: object, what: object, obt_s: float) -> None:
        whole(self, what, obt_s + 120.0)

    return [_wrap(Reporter, "event", event)]


@_defect("forecast.eclipse_is_late", "sensors", "eclipse_told", 2400.0)
def _eclipse_is_late() -> Sequence[Replacement]:
    """Eclipses are expected ten minutes after they come."""
    def sky(whole: Whole, self: object, now_s: float) -> object:
        return whole(self, max(0.0, now_s - 600.0))

    return [_wrap(Forecaster, "sky", sky)]


@_defect("link.completion_is_not_told", "sensors", "answered", 320.0)
def _completion_is_not_told() -> Sequence[Replacement]:
    """Telecommands are carried out, and nobody says so."""
    def verification(whole: Whole, self: object, request_id: int, stage: int, *others: object) -> None:
        if stage != services.STAGE_COMPLETED:
            whole(self, request_id, stage, *others)

    return [_wrap(Reporter, "verification", verification)]


@_defect("link.transmitter_is_always_on", "passes", "quiet_outside_passes", 300.0)
def _transmitter_is_always_on() -> Sequence[Replacement]:
    """The transmitter is on outside passes."""
    def transmit(whole: Whole, self: supervisor.Supervisor, *others: object) -> None:
        self._always_transmit = True
        whole(self, *others)

    return [_wrap(supervisor.Supervisor, "_transmit", transmit)]


@_defect("link.repetitions_are_accepted", "link", "once_only", 800.0)
def _repetitions_are_accepted() -> Sequence[Replacement]:
    """What was accepted once is accepted again when it comes again."""
    seen: dict[bytes, tuple[int, bytes]] = {}

    def unseal(whole: Whole, self: object, header: bytes, field: bytes) -> tuple[int, bytes]:
        if field not in seen:
            seen[field] = whole(self, header, field)
        return seen[field]

    return [_wrap(CommandSeal, "unseal", unseal)]


@_defect("link.rejections_are_not_counted", "link", "corrupt_refused", 1500.0)
def _rejections_are_not_counted() -> Sequence[Replacement]:
    """Frames that do not pass are dropped without a trace."""
    return [(CommandReceiver, "frames_rejected", property(lambda _self: 0))]

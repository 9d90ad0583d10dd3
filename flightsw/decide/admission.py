"""Admission: a promise, or a refusal with every reason, the binding limit and when it would fit. Pure.

A job is admitted only when it and all jobs promised before fit the plan's capacity, laid out whole and in
order of deadline (`capacity.py`), and when energy and heat last through the coming eclipses beside what is
reserved (`accounts.py`). Capacity in a job's bans is lost to it (`windows.py`). A promise is never traded for a
better job later.
"""

from __future__ import annotations

from collections.abc import Iterable

from flightsw.decide.accounts import Room
from flightsw.decide.capacity import CapacityCurve, Demand, Layout
from flightsw.decide.windows import NO_WINDOWS, Windows
from flightsw.mission import Mission
from flightsw.state import Estimate, JobSpec, JobView, Mode, Plan, Promise, Refusal, RefusalReason

HELD_BACK_FRAC = 0.10
"""Share of the planned capacity that is never promised: it pays for switching and for plan errors."""

_OFFERS_TRIED = 50
"""Deadlines looked at for a counter-offer between bans, before there is none."""


class Desk:
    """Answers the jobs of one tick, each against all promises before it, those of the tick itself included.

    `room` is what the accounts of the promised jobs leave of the plan, `windows` are the bans of all jobs.
    """

    def __init__(self, promised: Iterable[JobView], plan: Plan, room: Room, estimate: Estimate, mode: Mode,
                 mission: Mission, windows: Windows = NO_WINDOWS) -> None:
        compute = mission.compute
        nodes = compute.nodes - len(estimate.dark_nodes)
        self._plan = plan
        self._room = room
        self._windows = windows
        self._now_s = estimate.now_s
        self._rate_max = compute.modes[-1].rate
        self._overhead = compute.restore_s
        self._closed: list[RefusalReason] = []  # why no deadline would help
        if mode is not Mode.COMPUTE:  # nothing runs, and nobody knows for how long
            self._closed.append(RefusalReason.MODE)
        if estimate.blind:
            self._closed.append(RefusalReason.STATE_UNKNOWN)
        if nodes <= 0:
            self._closed.append(RefusalReason.NO_NODE)
        self._curve = CapacityCurve(plan, self._now_s, max(1, nodes), self._rate_max, HELD_BACK_FRAC)
        demands = [self._demand(job.spec, job.spec.deadline_s, job.done_units) for job in promised]
        self._layout = Layout(demands, self._curve, max(1, nodes), self._overhead)

    def promise(self, spec: JobSpec) -> None:
        """Count a job among the promised ones."""
        self._layout.add(self._demand(spec, spec.deadline_s))
        self._room.take(spec, spec.work_units)

    def answer(self, spec: JobSpec, *, counter_offer: bool = True) -> Promise | Refusal:
        """Answer one job. All reasons for a refusal are evaluated, not only the first.

        `counter_offer` false spares the search for one where nobody will hear it.
        """
        now_s, plan = self._now_s, self._plan
        reasons = self._closed.copy()
        binding, binding_at_s = (reasons[0].name.lower(), now_s) if reasons else ("deadline", spec.deadline_s)
        in_time = self._need_s(spec) <= spec.deadline_s - now_s
        if not in_time:
            reasons.append(RefusalReason.DEADLINE_TOO_SOON)
        if RefusalReason.NO_NODE in self._closed:
            return Refusal(spec.job_id, tuple(reasons), binding, binding_at_s, None)
        if not self._layout.takes(Demand(spec.job_id, spec.deadline_s, cost_units(spec))):
            reasons.append(_scarcity(plan))
            if not self._closed:
                binding, binding_at_s = plan.binding_limit, plan.battery_min_at_s
        elif self._windows and in_time and not self._fits_beside_bans(spec, spec.deadline_s):
            reasons.append(RefusalReason.POLICY)
            if not self._closed:
                ban = self._windows.binding(spec, now_s, spec.deadline_s)
                binding, binding_at_s = f"region {ban.region}", ban.from_s
        shortage = self._room.shortage(spec)
        if shortage is not None:
            if not reasons:
                binding, binding_at_s = _reserve(shortage.reasons[0], plan), shortage.at_s
            reasons.extend(reason for reason in shortage.reasons if reason not in reasons)
        if not reasons:
            energy_j = self._room.energy_j(spec)
            return Promise(spec.job_id, spec.deadline_s, energy_j, energy_j)
        counter_s = None
        if counter_offer and not self._closed:
            counter_s = self._counter_offer_s(spec, spec.deadline_s if shortage is None else shortage.fits_from_s)
        return Refusal(spec.job_id, tuple(reasons), binding, binding_at_s, counter_s)

    def _counter_offer_s(self, spec: JobSpec, not_before_s: float) -> float | None:
        """Earliest deadline that would be promised, between the job's bans too; None when there is none."""
        now_s, units, windows = self._now_s, cost_units(spec), self._windows
        counter_s = self._layout.earliest_deadline_s(units, max(not_before_s, now_s + self._need_s(spec)))
        if not windows:
            return counter_s
        for _ in range(_OFFERS_TRIED):
            if counter_s is None or self._fits_beside_bans(spec, counter_s):
                return counter_s
            # Each later deadline may have more bans before it: add what they cost and look again.
            lost_units = self._demand(spec, counter_s).lost_units
            free_s = now_s + self._need_s(spec) + windows.lost_s(spec, now_s, counter_s)
            counter_s = self._layout.earliest_deadline_s(units + lost_units, max(counter_s + 1.0, free_s))
        return counter_s if counter_s is not None and self._fits_beside_bans(spec, counter_s) else None

    def _fits_beside_bans(self, spec: JobSpec, by_s: float) -> bool:
        lawful_s = by_s - self._now_s - self._windows.lost_s(spec, self._now_s, by_s)
        return self._need_s(spec) <= lawful_s and self._layout.takes(self._demand(spec, by_s))

    def _demand(self, spec: JobSpec, by_s: float, done_units: float = 0.0) -> Demand:
        lost_units = self._windows.lost_units(spec, by_s, self._now_s, self._curve, self._overhead)
        return Demand(spec.job_id, by_s, cost_units(spec, done_units), lost_units)

    def _need_s(self, spec: JobSpec) -> float:
        """Time that the job takes at the highest rate."""
        return (spec.work_units + self._overhead) / self._rate_max


def cost_units(spec: JobSpec, done_units: float = 0.0) -> float:
    """Capacity that the rest of a job takes: a job that draws more than nominal gets less done for a watt."""
    return max(0.0, spec.work_units - done_units) * max(1.0, spec.activity_frac)


def _scarcity(plan: Plan) -> RefusalReason:
    """Name what the plan is short of by the limit that binds it."""
    if plan.binding_limit == "battery_floor_frac":
        return RefusalReason.ENERGY
    if plan.binding_limit.endswith("_max_c"):
        return RefusalReason.HEAT
    return RefusalReason.CAPACITY


def _reserve(reason: RefusalReason, plan: Plan) -> str:
    """Name the limit behind a reserve that does not last."""
    if reason is RefusalReason.ENERGY:
        return "battery_floor_frac"
    return plan.binding_limit if plan.binding_limit.endswith("_max_c") else "radiator_max_c"

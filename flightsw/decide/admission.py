"""Admission: a promise, or a refusal with every reason, the binding limit and when it would fit. Pure.

A job is admitted only when it and all jobs promised before fit the plan's capacity, laid out whole and in
order of deadline (`capacity.py`), and when energy and heat last through the coming eclipses beside what is
reserved (`accounts.py`). Capacity in a job's bans is lost to it (`windows.py`). A promise is never traded for a
better job later.
"""

from __future__ import annotations

from collections.abc import Sequence

from flightsw.decide.accounts import Room
from flightsw.decide.capacity import CapacityCurve, Demand, earliest_deadline_s, first_misfit
from flightsw.decide.windows import NO_WINDOWS, Windows
from flightsw.mission import Mission
from flightsw.state import Estimate, JobSpec, JobView, Mode, Plan, Promise, Refusal, RefusalReason

HELD_BACK_FRAC = 0.10
"""Share of the planned capacity that is never promised: it pays for switching and for plan errors."""


_OFFERS_TRIED = 50
"""Deadlines looked at for a counter-offer between bans, before there is none."""


def cost_units(spec: JobSpec, done_units: float) -> float:
    """Capacity that the rest of a job takes: a job that draws more than nominal gets less done for a watt."""
    return max(0.0, spec.work_units - done_units) * max(1.0, spec.activity_frac)


def demands_of(jobs: Sequence[JobView]) -> list[Demand]:
    """What the promised jobs still ask for."""
    return [Demand(job.spec.job_id, job.spec.deadline_s, cost_units(job.spec, job.done_units)) for job in jobs]


def supply(plan: Plan, estimate: Estimate, mission: Mission) -> CapacityCurve:
    """What one usable node can do by when, less what is held back; the same for all jobs of a tick."""
    nodes = max(1, mission.compute.nodes - len(estimate.dark_nodes))
    return CapacityCurve(plan, estimate.now_s, nodes, mission.compute.modes[-1].rate, HELD_BACK_FRAC)


def admit(spec: JobSpec, promised: Sequence[JobView], plan: Plan, curve: CapacityCurve, room: Room,
          estimate: Estimate, mode: Mode, mission: Mission, windows: Windows = NO_WINDOWS) -> Promise | Refusal:
    """Answer one job; `curve` is `supply` of the plan, `room` what the accounts of `promised` leave of it.

    `windows` are the bans of all jobs. All reasons for a refusal are evaluated, not only the first.
    """
    now_s = estimate.now_s
    compute = mission.compute
    nodes = compute.nodes - len(estimate.dark_nodes)
    rate_max = compute.modes[-1].rate
    overhead = compute.restore_s
    reasons: list[RefusalReason] = []
    if mode is not Mode.COMPUTE:  # nothing runs, and nobody knows for how long
        reasons.append(RefusalReason.MODE)
    if estimate.blind:
        reasons.append(RefusalReason.STATE_UNKNOWN)
    if nodes <= 0:
        reasons.append(RefusalReason.NO_NODE)
    closed = bool(reasons)  # no deadline would help
    binding, binding_at_s = (reasons[0].name.lower(), now_s) if closed else ("deadline", spec.deadline_s)
    need_s = (spec.work_units + overhead) / rate_max
    if need_s > spec.deadline_s - now_s:
        reasons.append(RefusalReason.DEADLINE_TOO_SOON)
    if nodes <= 0:
        return Refusal(spec.job_id, tuple(reasons), binding, binding_at_s, None)
    others, units = demands_of(promised), cost_units(spec, 0.0)
    if windows:
        others = [demand._replace(lost_units=windows.lost_units(job.spec, job.spec.deadline_s, now_s, curve, overhead))
                  for demand, job in zip(others, promised, strict=True)]

    def fits(by_s: float, lost_units: float) -> bool:
        demand = Demand(spec.job_id, by_s, units, lost_units)
        return first_misfit([*others, demand], curve, nodes, overhead) is None

    def fits_beside_bans(by_s: float) -> bool:
        return (need_s <= by_s - now_s - windows.lost_s(spec, now_s, by_s)
                and fits(by_s, windows.lost_units(spec, by_s, now_s, curve, overhead)))

    if not fits(spec.deadline_s, 0.0):
        reasons.append(_scarcity(plan))
        if not closed:
            binding, binding_at_s = plan.binding_limit, plan.battery_min_at_s
    elif windows and need_s <= spec.deadline_s - now_s and not fits_beside_bans(spec.deadline_s):
        reasons.append(RefusalReason.POLICY)
        if not closed:
            ban = windows.binding(spec, now_s, spec.deadline_s)
            binding, binding_at_s = f"region {ban.region}", ban.from_s
    shortage = room.shortage(spec)
    if shortage is not None:
        if not reasons:
            binding, binding_at_s = _reserve(shortage.reasons[0], plan), shortage.at_s
        reasons.extend(reason for reason in shortage.reasons if reason not in reasons)
    if not reasons:
        energy_j = room.energy_j(spec)
        return Promise(spec.job_id, spec.deadline_s, energy_j, energy_j)
    not_before_s = max(spec.deadline_s, now_s + need_s, shortage.fits_from_s if shortage is not None else 0.0)
    counter_s = None if closed else earliest_deadline_s(units, not_before_s, others, curve, nodes, overhead)
    for _ in range(_OFFERS_TRIED if windows else 0):
        if counter_s is None or fits_beside_bans(counter_s):
            break
        # Each later deadline may have more bans before it: add what they cost and look again.
        lost_units = windows.lost_units(spec, counter_s, now_s, curve, overhead)
        lost_s = windows.lost_s(spec, now_s, counter_s)
        not_before_s = max(counter_s + 1.0, now_s + need_s + lost_s)
        counter_s = earliest_deadline_s(units + lost_units, not_before_s, others, curve, nodes, overhead)
    if windows and counter_s is not None and not fits_beside_bans(counter_s):
        counter_s = None
    return Refusal(spec.job_id, tuple(reasons), binding, binding_at_s, counter_s)


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

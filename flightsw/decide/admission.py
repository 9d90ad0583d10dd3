"""Admission: a promise, or a refusal with every reason, the binding limit and when it would fit. Pure.

A job is admitted only when it and all jobs promised before fit the plan's capacity, laid out whole and in
order of deadline (`capacity.py`). A promise is never traded for a better job later.
"""

from __future__ import annotations

from collections.abc import Sequence

from flightsw.decide.capacity import CapacityCurve, Demand, first_misfit
from flightsw.mission import Mission
from flightsw.state import Estimate, JobSpec, JobView, Mode, Plan, Promise, Refusal, RefusalReason

HELD_BACK_FRAC = 0.10
"""Share of the planned capacity that is never promised: it pays for switching and for plan errors."""


def draw_w(mission: Mission, activity_frac: float) -> float:
    """Power of one node in its reference mode (rate 1, or the nearest to it) at a job's activity."""
    reference = min(mission.compute.modes[2:], key=lambda mode: abs(mode.rate - 1.0))
    return reference.draw_w * activity_frac


def demands_of(jobs: Sequence[JobView]) -> list[Demand]:
    """What the promised jobs still ask for."""
    return [Demand(job.spec.job_id, job.spec.deadline_s, max(0.0, job.spec.work_units - job.done_units))
            for job in jobs]


def admit(spec: JobSpec, promised: Sequence[JobView], plan: Plan, estimate: Estimate, mode: Mode,
          mission: Mission) -> Promise | Refusal:
    """Answer one job. All reasons for a refusal are evaluated, not only the first."""
    now_s = estimate.now_s
    compute = mission.compute
    nodes = compute.nodes - len(estimate.dark_nodes)
    rate_max = compute.modes[-1].rate
    overhead = compute.restore_s
    reasons: list[RefusalReason] = []
    if mode not in (Mode.STANDBY, Mode.COMPUTE):
        reasons.append(RefusalReason.MODE)
    if estimate.blind:
        reasons.append(RefusalReason.STATE_UNKNOWN)
    if nodes <= 0:
        reasons.append(RefusalReason.NO_NODE)
    if len(promised) >= mission.parameters["jobs_open_max"]:
        reasons.append(RefusalReason.QUEUE_FULL)
    if reasons:
        return Refusal(spec.job_id, tuple(reasons), reasons[0].name.lower(), now_s, None)
    if (spec.work_units + overhead) / rate_max > spec.deadline_s - now_s:
        reasons.append(RefusalReason.DEADLINE_TOO_SOON)
    curve = CapacityCurve(plan, now_s, nodes, rate_max, HELD_BACK_FRAC)
    demands = demands_of(promised)
    demands.append(Demand(spec.job_id, spec.deadline_s, spec.work_units))
    misfit = first_misfit(demands, curve, nodes, overhead)
    binding, binding_at_s = "deadline", spec.deadline_s
    if misfit is not None:
        reasons.append(_scarcity(plan))
        binding, binding_at_s = plan.binding_limit, plan.battery_min_at_s
    if not reasons:
        energy_j = spec.work_units * draw_w(mission, spec.activity_frac)
        return Promise(spec.job_id, spec.deadline_s, energy_j, energy_j)
    return Refusal(spec.job_id, tuple(reasons), binding, binding_at_s,
                   _counter_deadline_s(spec, demands[:-1], curve, nodes, overhead))


def _scarcity(plan: Plan) -> RefusalReason:
    """Name what the plan is short of by the limit that binds it."""
    if plan.binding_limit == "battery_floor_frac":
        return RefusalReason.ENERGY
    if plan.binding_limit.endswith("_max_c"):
        return RefusalReason.HEAT
    return RefusalReason.CAPACITY


def _counter_deadline_s(spec: JobSpec, others: list[Demand], curve: CapacityCurve, nodes: int,
                        overhead: float) -> float | None:
    """Earliest later deadline that would have been promised, to the second; None when there is none.

    Fitting is monotone in the candidate's deadline except that moving it behind another job delays that
    job less, so bisection over the deadline is exact.
    """
    last = max((d.deadline_s for d in others), default=spec.deadline_s)
    total = sum(d.units + overhead for d in others) + spec.work_units + overhead
    ends_s = curve.time_of(total)  # all of it on one node: certainly enough
    if ends_s is None:
        return None
    low, high = spec.deadline_s, max(last, ends_s) + 1.0
    if first_misfit([*others, Demand(spec.job_id, high, spec.work_units)], curve, nodes, overhead) is not None:
        return None
    while high - low > 1.0:
        middle = 0.5 * (low + high)
        candidate = Demand(spec.job_id, middle, spec.work_units)
        if first_misfit([*others, candidate], curve, nodes, overhead) is None:
            high = middle
        else:
            low = middle
    return high

"""How much compute power each slot of the next orbits affords. Pure; called once a minute.

A search over two power levels, one for sunlight and one for eclipse, first over all of the range and then
finer around the best. The candidates of a round are rolled out on the nonlinear flight model in one batch, leaning
to its pessimistic corner; the most work that crosses no limit and does not live off the battery wins. When none
qualifies the plan is the least load, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from flightsw.decide.dispatch import Step, hull_steps
from flightsw.decide.governor import payload_w
from flightsw.mission import Mission
from flightsw.physics.forecast import SLOT_S, Forecaster, LevelOutcome
from flightsw.state import Estimate, Plan

_LEVELS = 12
_FINER = 6.0
_ROUNDS = 2  # of a search six times finer around the best: a third of a watt in the end

Watts = npt.NDArray[np.float64]


class RateCurve:
    """Most work per second that all nodes together do at a total power: the concave hull of the modes.

    `activity` is what the jobs at hand draw relative to the modes' nominal.
    """

    def __init__(self, mission: Mission, activity: float = 1.0) -> None:
        nodes, modes = mission.compute.nodes, mission.compute.modes
        steps: Sequence[Step] = hull_steps(modes)
        watts = [nodes * modes[0].draw_w]
        rates = [0.0]
        drawn_w = modes[0].draw_w
        for step in steps:
            extra_w = modes[step.power_mode].draw_w * activity - drawn_w
            drawn_w += extra_w
            for _ in range(nodes):  # nodes climb one by one
                watts.append(watts[-1] + extra_w)
                rates.append(rates[-1] + step.extra_rate)
        self._watts = np.array(watts)
        self._rates = np.array(rates)
        self.least_w = watts[0]
        self.most_w = watts[-1]
        self._mission = mission

    def rail_w(self, parameters: Mapping[str, float]) -> float:
        """Most that can be drawn at once on the payload rail: the highest of the nodes' steps that it carries.

        Between two steps power can be shared over time; above the last one that fits it cannot.
        """
        carried = self._watts[self._watts <= payload_w(parameters, self._mission)]
        return float(carried[-1]) if carried.size else self.least_w

    def rate_units_s(self, total_w: Watts) -> Watts:
        """Work units per second at total power (any shape)."""
        return np.asarray(np.interp(total_w, self._watts, self._rates))


def plan(forecaster: Forecaster, estimate: Estimate, curve: RateCurve, parameters: Mapping[str, float]) -> Plan:
    """Search the two levels; the result's budgets hold for slots of one minute."""
    top_w = min(curve.most_w, curve.rail_w(parameters))
    levels = np.linspace(curve.least_w, top_w, _LEVELS)
    coarse = _best(forecaster, estimate, curve, parameters, levels, levels)
    if coarse is None:
        return _fallback(forecaster, estimate, curve, parameters)
    best, step_w = coarse, float(levels[1] - levels[0])
    for _ in range(_ROUNDS):
        finer = _best(forecaster, estimate, curve, parameters, _around(best[0], step_w, curve.least_w, top_w),
                      _around(best[1], step_w, curve.least_w, top_w))
        best, step_w = finer or best, step_w / _FINER
    sun_w, eclipse_w, outcome, lane = best
    return _to_plan(forecaster, estimate, curve, sun_w, eclipse_w, outcome, lane, fallback=False)


def _best(forecaster: Forecaster, estimate: Estimate, curve: RateCurve, parameters: Mapping[str, float],
          sun_levels: Watts, eclipse_levels: Watts) -> tuple[float, float, LevelOutcome, int] | None:
    """Roll out all pairs of levels; return the best allowed one, None when there is none."""
    sun_w, eclipse_w = (axis.ravel() for axis in np.meshgrid(sun_levels, eclipse_levels, indexing="ij"))
    outcome = forecaster.compare_levels(estimate, sun_w, eclipse_w, parameters)
    if not outcome.allowed.any():
        return None
    work = outcome.sunlit_s * curve.rate_units_s(sun_w) + outcome.eclipse_s * curve.rate_units_s(eclipse_w)
    lane = int(np.argmax(np.where(outcome.allowed, work, -1.0)))
    return float(sun_w[lane]), float(eclipse_w[lane]), outcome, lane


def _around(level_w: float, step_w: float, least_w: float, most_w: float) -> Watts:
    """Twelve levels around a coarse one, the coarse one among them."""
    offsets = np.arange(-5, 7) / _FINER * step_w
    return np.clip(level_w + offsets, least_w, most_w)


def _fallback(forecaster: Forecaster, estimate: Estimate, curve: RateCurve, parameters: Mapping[str, float]) -> Plan:
    """Plan the least load: all nodes off."""
    least = np.array([curve.least_w])
    outcome = forecaster.compare_levels(estimate, least, least, parameters)
    return _to_plan(forecaster, estimate, curve, curve.least_w, curve.least_w, outcome, 0, fallback=True)


def without_forecast(now_s: float, curve: RateCurve) -> Plan:
    """Plan the least load where nothing can be rolled out; what it leads to is not known (NaN)."""
    return Plan(now_s, (now_s + SLOT_S,), (curve.least_w,), (0.0,), math.nan, now_s, math.nan, "forecast",
                is_fallback=True)


def _to_plan(forecaster: Forecaster, estimate: Estimate, curve: RateCurve, sun_w: float, eclipse_w: float,
             outcome: LevelOutcome, lane: int, *, fallback: bool) -> Plan:
    ends_s, lit = forecaster.lit_slots(estimate.now_s)
    budget = np.where(lit, sun_w, eclipse_w)
    return Plan(
        estimate.now_s, tuple(ends_s.tolist()), tuple(budget.tolist()), tuple(curve.rate_units_s(budget).tolist()),
        float(outcome.battery_min_frac[lane]), float(outcome.battery_min_at_s[lane]),
        float(outcome.hottest_margin_k[lane]), outcome.binding_limit(lane), fallback,
    )

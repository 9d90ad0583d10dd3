"""The account of every promise: energy and heat reserved through the coming eclipses, settled against measured use.

A promise reserves what its job's work costs at the price of the plan under which it was given. What its node draws
is booked on it each tick; the reservation shrinks with the work that is done, not with the energy that is used, and a
job that draws more than it declared reserves more for its rest: the next one finds less room. At its end an account
is settled. Every joule that a node draws ends as heat on the plate, so energy and heat reserve the same joules
out of different room. Counted is what a node draws above what it draws when it is off. The brain keeps the accounts
and admission asks for their room; nothing here promises, refuses or commands.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from flightsw.mission import Mission
from flightsw.physics.units import J_PER_WH
from flightsw.state import JobSpec, JobView, NodeCommand, Plan, RefusalReason

_SURE_AFTER_S = 60.0
"""Time on a node after which a measured draw is believed against the declared one."""


class Settlement(NamedTuple):
    """What became of one reservation: declared for the reference mode, reserved, and used as measured.

    `drew_frac` is the measured draw relative to the declared one in the modes that the job was given.
    """

    declared_j: float
    reserved_j: float
    used_j: float
    drew_frac: float


class Shortage(NamedTuple):
    """Why a job finds no room: reasons, the first time at which there is none, and from which deadline there is."""

    reasons: tuple[RefusalReason, ...]
    at_s: float
    fits_from_s: float


class Balance(NamedTuple):
    """All accounts in one: reserved, of it due before the next sunrise, and the room that is left until then."""

    reserved_j: float
    due_j: float
    energy_room_j: float
    heat_room_j: float


class _Account:
    """One open promise. `expected_j` is what it would have drawn, by its declaration, while `measured_j` was drawn."""

    __slots__ = ("expected_j", "measured_j", "on_node_s", "reserved_j", "spec", "unseen_j")

    def __init__(self, spec: JobSpec, reserved_j: float) -> None:
        self.spec = spec
        self.reserved_j = reserved_j
        self.measured_j = 0.0
        self.expected_j = 0.0
        self.unseen_j = 0.0
        self.on_node_s = 0.0

    def drew_frac(self) -> float:
        """Measured draw relative to the declared one, 1 until it is known."""
        return self.measured_j / self.expected_j if self.on_node_s >= _SURE_AFTER_S and self.expected_j > 0.0 else 1.0


class _Mark:
    """A moment up to which energy and heat must last: a sunrise, or the plan's end."""

    __slots__ = ("due_j", "energy_j", "heat_j", "until_s")

    def __init__(self, until_s: float, energy_j: float, heat_j: float) -> None:
        self.until_s = until_s
        self.energy_j = energy_j
        self.heat_j = heat_j
        self.due_j = 0.0


class Room:
    """What the plan affords up to each coming sunrise, less what open promises must have used by then.

    A job must have used by a moment what its deadline leaves no time to do after it, at the highest rate.
    """

    def __init__(self, marks: Sequence[_Mark], price_j: float, rate_max: float, overhead_units: float) -> None:
        self._marks = marks
        self._price_j = price_j
        self._rate_max = rate_max
        self._overhead_units = overhead_units

    @property
    def next_mark(self) -> _Mark:
        """The next sunrise, or the plan's end where there is none."""
        return self._marks[0]

    def energy_j(self, spec: JobSpec) -> float:
        """Energy that a job reserves, and as much heat."""
        return (spec.work_units + self._overhead_units) * spec.activity_frac * self._price_j

    def shortage(self, spec: JobSpec) -> Shortage | None:
        """Say what there is not enough of for a new job; None when there is room for it."""
        need_j = self.energy_j(spec)
        later_w = self._rate_max * spec.activity_frac * self._price_j
        reasons: list[RefusalReason] = []
        at_s, fits_from_s = 0.0, spec.deadline_s
        for mark in self._marks:
            due_j = need_j - later_w * max(0.0, spec.deadline_s - mark.until_s)
            energy_j, heat_j = max(0.0, mark.energy_j - mark.due_j), max(0.0, mark.heat_j - mark.due_j)
            if due_j <= energy_j and due_j <= heat_j:
                continue
            at_s = at_s or mark.until_s
            if due_j > energy_j and RefusalReason.ENERGY not in reasons:
                reasons.append(RefusalReason.ENERGY)
            if due_j > heat_j and RefusalReason.HEAT not in reasons:
                reasons.append(RefusalReason.HEAT)
            fits_from_s = max(fits_from_s, mark.until_s + (need_j - min(energy_j, heat_j)) / later_w + 1.0)
        return Shortage(tuple(reasons), at_s, fits_from_s) if reasons else None

    def take(self, spec: JobSpec, units_left: float, drew_frac: float = 1.0) -> None:
        """Set aside what a promised job still needs, a start with it."""
        price_j = self._price_j * spec.activity_frac * drew_frac
        need_units = units_left + self._overhead_units
        for mark in self._marks:
            units = need_units - self._rate_max * max(0.0, spec.deadline_s - mark.until_s)
            mark.due_j += max(0.0, units) * price_j


class Accounts:
    """The open promises' accounts. After a restart `reopen` builds them from what the job ledger knows."""

    def __init__(self, mission: Mission) -> None:
        modes = mission.compute.modes
        off_w = modes[0].draw_w
        reference = min(modes[2:], key=lambda mode: abs(mode.rate - 1.0))
        self._declared_j = (reference.draw_w - off_w) / reference.rate
        self._price_j = self._declared_j
        self._off_w = off_w
        self._all_off_w = mission.compute.nodes * off_w
        self._working_w = tuple(mode.draw_w if i > 0 else 0.0 for i, mode in enumerate(modes))
        self._rate_max = modes[-1].rate
        self._overhead_units = mission.compute.restore_s
        self._capacity_j = mission.battery.capacity_wh * J_PER_WH
        self._store_j_k = mission.thermal.plate_heat_capacity_j_k + mission.thermal.radiator_heat_capacity_j_k
        self._open: dict[int, _Account] = {}
        self._booked_s: float | None = None
        self._ends_s: tuple[float, ...] = ()
        self._spends_w: list[float] = []
        self._spent_j: list[float] = []
        self._made_s = 0.0
        self._marks_s: list[float] = []
        self._spare_j = (0.0, 0.0)

    def reopen(self, job: JobView) -> None:
        """Reserve for the rest of a promise from before a restart; its account counts from here."""
        self.open(job.spec, (_left_units(job) + self._overhead_units) * job.spec.activity_frac * self._price_j)

    def open(self, spec: JobSpec, energy_j: float) -> None:
        """Reserve `energy_j` for a new promise."""
        self._open[spec.job_id] = _Account(spec, energy_j)

    def book(self, now_s: float, nodes: Sequence[NodeCommand], node_w: Sequence[float | None]) -> None:
        """Charge each node's draw since the last call to the job that it holds; called every tick.

        A draw that is not measured is charged as declared and teaches nothing.
        """
        last_s, self._booked_s = self._booked_s, now_s
        if last_s is None or not self._open:
            return
        dt_s = now_s - last_s
        for node, watts in zip(nodes, node_w, strict=True):
            account = self._open.get(node.job_id)
            if account is None or node.power_mode == 0:
                continue
            expected_j = (self._working_w[node.power_mode] * account.spec.activity_frac - self._off_w) * dt_s
            if watts is None:
                account.unseen_j += expected_j
            else:
                account.measured_j += max(0.0, watts - self._off_w) * dt_s
                account.expected_j += expected_j
                account.on_node_s += dt_s

    def left_j(self, job_id: int) -> float | None:
        """Energy of a promise's reserve that is not used up, None without one."""
        account = self._open.get(job_id)
        return None if account is None else max(0.0, account.reserved_j - account.measured_j - account.unseen_j)

    def settle(self, job_id: int) -> Settlement | None:
        """Close a job's account; None when it had none."""
        account = self._open.pop(job_id, None)
        if account is None:
            return None
        used_j = account.measured_j + account.unseen_j
        declared_j = account.spec.work_units * account.spec.activity_frac * self._declared_j
        return Settlement(declared_j, account.reserved_j, used_j, account.drew_frac())

    def follow(self, plan: Plan, activity_frac: float, sunrises_s: Iterable[float], floor_frac: float) -> None:
        """Take in a new plan, made for jobs of mean `activity_frac`: what it spends, by when, for how much work."""
        self._made_s, self._ends_s = plan.made_s, plan.slot_end_s
        self._spends_w = [max(0.0, budget_w - self._all_off_w) for budget_w in plan.budget_w]
        self._spent_j = []
        at_s, spent_j, units = plan.made_s, 0.0, 0.0
        for end_s, spends_w, rate in zip(plan.slot_end_s, self._spends_w, plan.rate_units_s, strict=True):
            spent_j += spends_w * (end_s - at_s)
            units += rate * (end_s - at_s)
            at_s = end_s
            self._spent_j.append(spent_j)
        if units > 0.0:
            self._price_j = spent_j / units / activity_frac
        # What the plan leaves above the floor, and what plate and radiator take up until the nearest limit.
        self._spare_j = (max(0.0, plan.battery_min_frac - floor_frac) * self._capacity_j,
                         max(0.0, plan.hottest_margin_k) * self._store_j_k)
        self._marks_s = [*(s for s in sunrises_s if s < at_s), at_s]

    def room(self, now_s: float, promised: Iterable[JobView]) -> Room:
        """Room for new promises beside those in `promised`, by the plan followed last."""
        spent_j = self._spent_by_j(now_s)
        energy_j, heat_j = self._spare_j
        marks = [_Mark(at_s, self._spent_by_j(at_s) - spent_j + energy_j, self._spent_by_j(at_s) - spent_j + heat_j)
                 for at_s in self._marks_s if at_s > now_s or at_s == self._marks_s[-1]]
        room = Room(marks, self._price_j, self._rate_max, self._overhead_units)
        for job in promised:
            room.take(job.spec, _left_units(job), self._drew_frac(job.spec.job_id))
        return room

    def balance(self, now_s: float, promised: Sequence[JobView]) -> Balance:
        """Sum up what is reserved and what room is left until the next sunrise."""
        reserved_j = sum(
            (_left_units(job) + self._overhead_units) * job.spec.activity_frac * self._price_j
            * self._drew_frac(job.spec.job_id) for job in promised
        )
        mark = self.room(now_s, promised).next_mark
        return Balance(reserved_j, mark.due_j, mark.energy_j - mark.due_j, mark.heat_j - mark.due_j)

    def _drew_frac(self, job_id: int) -> float:
        """What a job's rest is reckoned at: more than declared where it draws more, never less."""
        account = self._open.get(job_id)
        return max(1.0, account.drew_frac()) if account is not None else 1.0

    def _spent_by_j(self, time_s: float) -> float:
        """Energy that the plan spends on compute from its making until `time_s`, within its slots."""
        i = bisect_right(self._ends_s, time_s)
        before_j = self._spent_j[i - 1] if i else 0.0
        if i == len(self._ends_s):
            return before_j
        begin_s = self._ends_s[i - 1] if i else self._made_s
        return before_j + self._spends_w[i] * max(0.0, time_s - begin_s)


def _left_units(job: JobView) -> float:
    return max(0.0, job.spec.work_units - job.done_units)

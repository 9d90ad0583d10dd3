"""When jobs may not be processed because of where the satellite will be: the planner's knowledge of regions. Pure.

The act side works out from orbit and data policy when a manifest's jobs are banned (`jobs/policy.py`) and hands
that in with a tick's inputs; here it is kept, and answers dispatch (who may run now) and admission (how much time
is lost before a deadline). A manifest that was never named has no policy: it costs one look-up in an empty table.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from flightsw.decide.capacity import CapacityCurve
from flightsw.state import Ban, BanNews, JobSpec, JobView

NOT_KNOWN: Final = "not known yet"
"""Stands for a region where the track has not been worked out: unknown is forbidden."""


class _Timetable:
    """The bans of one manifest, in order and apart; the last one has no end."""

    def __init__(self, bans: Sequence[Ban]) -> None:
        self.bans = tuple(bans)
        self._from_s = [ban.from_s for ban in self.bans]
        self._lost_s = [0.0]
        for ban in self.bans:
            self._lost_s.append(self._lost_s[-1] + ban.to_s - ban.from_s)

    def ban_at(self, now_s: float) -> Ban | None:
        i = bisect_right(self._from_s, now_s) - 1
        return self.bans[i] if i >= 0 and now_s < self.bans[i].to_s else None

    def lost_s(self, from_s: float, to_s: float) -> float:
        return self._lost_until(to_s) - self._lost_until(from_s)

    def between(self, from_s: float, to_s: float) -> tuple[Ban, ...]:
        """Bans that overlap a span, cut to it."""
        first = max(0, bisect_right(self._from_s, from_s) - 1)
        return tuple([Ban(max(ban.from_s, from_s), min(ban.to_s, to_s), ban.region)
                      for ban in self.bans[first:bisect_right(self._from_s, to_s)]
                      if ban.to_s > from_s and ban.from_s < to_s])

    def next_edge_s(self, now_s: float) -> float:
        ban = self.ban_at(now_s)
        if ban is not None:
            return ban.to_s
        i = bisect_right(self._from_s, now_s)
        return self._from_s[i] if i < len(self._from_s) else math.inf

    def _lost_until(self, time_s: float) -> float:
        i = bisect_right(self._from_s, time_s) - 1
        if i < 0:
            return 0.0
        return self._lost_s[i] + min(time_s, self.bans[i].to_s) - self._from_s[i]


class Windows:
    """What is known of bans, by manifest. Never changed: `learn` returns another one."""

    def __init__(self, tables: Mapping[str, _Timetable] | None = None) -> None:
        self._tables: Mapping[str, _Timetable] = tables or {}

    def __bool__(self) -> bool:
        return bool(self._tables)

    def learn(self, news: Sequence[BanNews], now_s: float) -> Windows:
        """Return what is known with `news`, without what is over."""
        tables = {
            manifest: _Timetable([ban for ban in table.bans if ban.to_s > now_s])
            for manifest, table in self._tables.items()
        }
        for piece in news:
            old = tables.get(piece.manifest)
            kept = [] if old is None else list(old.between(-math.inf, piece.from_s))
            bans = [*kept, *piece.bans]
            if math.isfinite(piece.to_s):
                bans.append(Ban(piece.to_s, math.inf, NOT_KNOWN))
            tables[piece.manifest] = _Timetable(bans)
        return Windows(tables)

    def ban_at(self, spec: JobSpec, now_s: float) -> Ban | None:
        """Return the ban that a job is under; None when it may run."""
        table = self._tables.get(spec.manifest)
        return None if table is None else table.ban_at(now_s)

    def lost_s(self, spec: JobSpec, from_s: float, to_s: float) -> float:
        """Seconds of a span in which a job may not run."""
        table = self._tables.get(spec.manifest)
        return 0.0 if table is None else table.lost_s(from_s, to_s)

    def lost_units(self, spec: JobSpec, deadline_s: float, now_s: float, curve: CapacityCurve,
                   overhead_units: float) -> float:
        """Work units that one node could do in a job's bans up to a deadline, and what its restarts cost."""
        table = self._tables.get(spec.manifest)
        if table is None:
            return 0.0
        bans = table.between(now_s, deadline_s)
        return sum(curve.units_by(ban.to_s) - curve.units_by(ban.from_s) for ban in bans) + overhead_units * len(bans)

    def binding(self, spec: JobSpec, from_s: float, to_s: float) -> Ban:
        """The first ban of the region that costs a job most of a span, which must not be free of them."""
        bans = self._tables[spec.manifest].between(from_s, to_s)
        cost_s: dict[str, float] = {}
        for ban in bans:
            cost_s[ban.region] = cost_s.get(ban.region, 0.0) + ban.to_s - ban.from_s
        worst = max(cost_s, key=lambda region: (cost_s[region], region))
        return next(ban for ban in bans if ban.region == worst)

    def free(self, jobs: Sequence[JobView], now_s: float) -> list[JobView]:
        """Jobs that may run now. What one will lose before its deadline moves that forward, so that it hurries."""
        if not self._tables:
            return list(jobs)
        result = []
        for job in jobs:
            spec = job.spec
            table = self._tables.get(spec.manifest)
            if table is None:
                result.append(job)
            elif table.ban_at(now_s) is None:
                lost_s = table.lost_s(now_s, spec.deadline_s)
                result.append(job._replace(spec=replace(spec, deadline_s=spec.deadline_s - lost_s)) if lost_s else job)
        return result

    def next_edge_s(self, now_s: float) -> float:
        """When a ban begins or ends next; infinity when nothing is known to."""
        return min((table.next_edge_s(now_s) for table in self._tables.values()), default=math.inf)


NO_WINDOWS: Final = Windows()
"""What a satellite knows whose jobs have no data policy."""

"""Watches what each node draws under the cap in force: readings and caps -> events, and nodes to be kept off.

Called by the supervisor in every tick. More than any job makes a node draw in its power mode is a latch-up, or a cap
that the node does not follow. It is reported, and the node is switched off for a while, which ends a latch-up; not
again within the hour, as what comes back has another cause. Less than that is a job's overdraw, which the brain
learns. It only ever takes power away; decides nothing and shares no state with who does.
"""

from __future__ import annotations

from collections.abc import Sequence

from flightsw.dictionary.sensors import INDEX, SENSORS
from flightsw.fdir.monitors import PERSISTENCE
from flightsw.mission import Mission
from flightsw.state import Event

OFF_S = 15.0
"""How long a node is kept off: supplies discharge and latched structures let go within a few seconds."""

AGAIN_S = 3600.0
"""A node is not switched off again within this time."""

JOB_REACH = 1.5
"""The most that a job is believed to draw, over its mode's nominal draw: owners err by a third."""

_POWER_W = SENSORS[INDEX["node0_w"]]
_SETTLED_S = _POWER_W.max_age_s + 2.0  # from then on a reading is of this cap


class _Watch:
    """One node: the cap that it is under, and how its draw has compared with that."""

    __slots__ = ("again_s", "beyond", "bound_w", "cap_w", "off_until_s", "over", "since_s", "within")

    def __init__(self) -> None:
        self.cap_w = -1.0
        self.bound_w = 0.0
        self.since_s = 0.0
        self.beyond = 0
        self.within = 0
        self.over = False
        self.off_until_s = self.again_s = -AGAIN_S


class Overdraw:
    """Memory of one satellite's nodes."""

    def __init__(self, mission: Mission) -> None:
        self._modes = mission.compute.modes
        self._off_w = self._modes[0].cap_w
        self._watches = tuple(_Watch() for _ in range(mission.compute.nodes))
        self.off: tuple[int, ...] = ()
        """Nodes that are to be kept off now."""

    def judge(self, now_s: float, node_w: Sequence[float | None], caps_w: Sequence[float]) -> list[Event]:
        """Compare each node's draw with the cap that was in force until now; return what there is to tell."""
        events: list[Event] = []
        for node, (watch, watts, cap_w) in enumerate(zip(self._watches, node_w, caps_w, strict=True)):
            if cap_w != watch.cap_w:
                watch.cap_w, watch.bound_w, watch.since_s, watch.beyond = cap_w, self._bound_w(cap_w), now_s, 0
            if watts is None or now_s - watch.since_s < _SETTLED_S:
                continue
            if watts <= watch.bound_w:
                watch.beyond, watch.within = 0, watch.within + 1
                if watch.over and watch.within >= PERSISTENCE:
                    watch.over = False
                    events.append(Event("node_draw_back", (node, watts)))
                continue
            watch.beyond, watch.within = watch.beyond + 1, 0
            if watch.beyond < PERSISTENCE:
                continue
            if not watch.over:
                watch.over = True
                events.append(Event("node_overdraws", (node, watts, cap_w, watch.bound_w)))
            if cap_w > self._off_w and now_s >= watch.again_s:
                watch.off_until_s, watch.again_s = now_s + OFF_S, now_s + AGAIN_S
                events.append(Event("node_cycled", (node, OFF_S)))
        self.off = tuple([node for node, watch in enumerate(self._watches) if now_s < watch.off_until_s])
        return events

    def _bound_w(self, cap_w: float) -> float:
        """Return the most that a node can truthfully be measured to draw under a cap."""
        number, mode = max(((i, mode) for i, mode in enumerate(self._modes) if mode.cap_w <= cap_w),
                           default=(0, self._modes[0]), key=lambda entry: entry[0])
        return max(mode.cap_w, mode.draw_w * (JOB_REACH if number > 1 else 1.0)) + _POWER_W.accuracy

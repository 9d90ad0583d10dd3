"""The bill held against the truth: what jobs were charged for, beside what their nodes really drew for them.

Called when a run has been flown. The charges are those that the ground received; the truth is the plant's own power of
bus and nodes, the latter over the stretches in which a job was on one. The two share no number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from flightsw.physics.units import J_PER_WH
from ground.archive import EventEntry
from ground.bill import settlements_of

Stretch = tuple[int, int, float, float]
"""Job, node, and from when until when the job was on it, in s of the run."""


def true_energy_j(stretches: Sequence[Stretch], node_w: npt.NDArray[np.float32], tick_s: float) -> dict[int, float]:
    """Return what each job's nodes drew while it was on them; row i of `node_w` (ticks, nodes) is the tick before i."""
    energy_j: dict[int, float] = {}
    for job_id, node, from_s, to_s in stretches:
        first, last = round(from_s / tick_s) + 1, round(to_s / tick_s) + 1
        energy_j[job_id] = energy_j.get(job_id, 0.0) + float(node_w[first:last, node].sum(dtype=np.float64)) * tick_s
    return energy_j


def judge(events: Sequence[EventEntry], true_j: dict[int, float], bus_w: npt.NDArray[np.float32], tick_s: float,
          start_unix_s: float) -> dict[str, object]:
    """Compare settlements and the last balance among `events` with the truth; an error is None where there is none.

    `bus_w` is the true power of the bus in the tick before each.
    """
    settled = [(one.energy_j, true_j[one.job_id]) for one in settlements_of(events)
               if one.energy_j is not None and true_j.get(one.job_id, 0.0) > 0.0]
    billed_j, drawn_j = math.fsum(billed for billed, _ in settled), math.fsum(drawn for _, drawn in settled)
    balances = [event for event in events if event.name == "energy_balance"]
    bus_error = None
    if balances:
        bus_j = float(bus_w[1:round((balances[-1].obt_s - start_unix_s) / tick_s) + 1].sum(dtype=np.float64)) * tick_s
        bus_error = float(balances[-1].args[0] or 0.0) / bus_j - 1.0
    return {
        "jobs_settled": len(settled),
        "energy_billed_wh": billed_j / J_PER_WH,
        "energy_settled_jobs_wh": drawn_j / J_PER_WH,
        "billing_error_frac": billed_j / drawn_j - 1.0 if settled else None,
        "billing_error_worst_job_frac": max((billed / drawn - 1.0 for billed, drawn in settled), key=abs, default=None),
        "bus_ledger_error_frac": bus_error,
    }

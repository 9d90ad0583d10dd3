"""Raw samples -> believed readings: the one place where a value is accepted or refused.

Called first thing in every tick. A device that failed, is late, says NaN or something outside its row's
range, or stamps what it says with a time that cannot be, gives no value and the reason; nothing downstream
ever sees a made-up number.
"""

from __future__ import annotations

import math

from flightsw.board.base import Board
from flightsw.dictionary.sensors import SENSORS
from flightsw.state import Quality, Readings

_ROWS = tuple((row.low, row.high, row.max_age_s) for row in SENSORS)
_GOOD, _MISSING, _STALE = int(Quality.GOOD), int(Quality.MISSING), int(Quality.STALE)
_NOT_FINITE, _OUT_OF_RANGE = int(Quality.NOT_FINITE), int(Quality.OUT_OF_RANGE)
_NOT_FITTED = int(Quality.NOT_FITTED)
NEVER_S = -math.inf
"""`sampled_s` of a sensor that has never answered."""


def sense(board: Board, now_s: float) -> Readings:
    """Read every sensor of the dictionary once and judge each sample."""
    values: list[float | None] = []
    qualities: list[int] = []
    sampled: list[float] = []
    for raw, (low, high, max_age_s) in zip(board.read_sensors(now_s), _ROWS, strict=True):
        if raw is None:
            values.append(None)
            qualities.append(_NOT_FITTED)
            sampled.append(NEVER_S)
            continue
        value, sampled_s = raw
        # A device answers while the tick runs, so its stamp may be a little ahead; one that is further ahead
        # than it may be behind comes from a wrong clock and says nothing of the value's age.
        sampled.append(now_s if sampled_s > now_s else sampled_s)
        if value is None:
            quality = _MISSING
        elif low <= value <= high:  # false for NaN as well
            quality = _GOOD if -max_age_s <= now_s - sampled_s <= max_age_s else _STALE
        else:
            quality = _OUT_OF_RANGE if math.isfinite(value) else _NOT_FINITE
        qualities.append(quality)
        values.append(float(value) if quality == _GOOD and value is not None else None)
    return Readings(now_s, tuple(values), tuple(qualities), tuple(sampled))

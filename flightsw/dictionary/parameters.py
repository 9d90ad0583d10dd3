"""On-board parameters (PUS service 20): one row each, with bounds. Limits are parameters.

The mission file sets their start values in `[parameters]`, the ground changes them by telecommand, the
monitors, the planner and the console's colours read the same rows.
"""

from __future__ import annotations

from typing import NamedTuple


class Parameter(NamedTuple):
    """One parameter. `low` and `high` bound what mission or ground may set, inclusive, in `unit`."""

    number: int
    name: str
    unit: str
    default: float
    low: float
    high: float
    description: str


PARAMETERS: tuple[Parameter, ...] = (
    Parameter(1, "battery_floor_frac", "frac", 0.70, 0.20, 0.95,
              "Planned discharge never goes below this charge (cycle life)."),
    Parameter(2, "battery_cutoff_frac", "frac", 0.60, 0.05, 0.90,
              "Below this charge everything but the bus is shed at once."),
    Parameter(3, "die_max_c", "degC", 80.0, 40.0, 100.0, "Highest junction temperature of a compute node."),
    Parameter(4, "plate_max_c", "degC", 55.0, 20.0, 80.0, "Highest temperature of the cold plate."),
    Parameter(5, "radiator_max_c", "degC", 50.0, 10.0, 80.0, "Highest temperature of the radiator."),
    Parameter(6, "battery_max_c", "degC", 45.0, 20.0, 60.0, "Highest temperature of the battery."),
    Parameter(7, "battery_min_c", "degC", 0.0, -20.0, 15.0, "Lowest temperature at which it may be charged."),
    Parameter(8, "payload_max_w", "W", 100.0, 5.0, 400.0, "Most the compute nodes may draw together."),
    Parameter(9, "plan_period_s", "s", 60.0, 10.0, 600.0, "Time between plans when nothing happens."),
    Parameter(10, "dispatch_period_s", "s", 10.0, 1.0, 60.0, "Time between dispatch decisions."),
    Parameter(11, "lease_s", "s", 20.0, 2.0, 60.0, "Life of a cap at the guardian without renewal."),
    Parameter(12, "blind_after_s", "s", 30.0, 5.0, 300.0,
              "A sensor needed for compute may be silent this long before compute stops."),
    Parameter(13, "command_loss_s", "s", 259200.0, 3600.0, 1209600.0,
              "Silence of the ground after which the satellite goes to SAFE."),
    Parameter(14, "safe_exit_charge_frac", "frac", 0.80, 0.30, 1.0,
              "Charge at which SAFE may be left without a telecommand, where the mission allows it."),
    Parameter(15, "jobs_open_max", "jobs", 256.0, 1.0, 4096.0, "Jobs that may be open at once."),
    Parameter(16, "limit_ahead_s", "s", 300.0, 0.0, 7200.0,
              "A limit that the present draw would cross within this time, at worst, is reported."),
    Parameter(17, "schedule_late_s", "s", 5.0, 1.0, 3600.0,
              "A time-tagged command that is later than this is missed: reported, not run."),
    Parameter(18, "monitor_period_s", "s", 5.0, 1.0, 600.0,
              "Time between samples of the points that monitoring definitions watch."),
    Parameter(19, "arm_valid_s", "s", 60.0, 5.0, 600.0, "A hazardous command must follow its arming within this time."),
    Parameter(20, "key_trial_s", "s", 600.0, 10.0, 86400.0, "A key on trial is taken back unless confirmed by then."),
    Parameter(21, "time_report_s", "s", 0.0, 0.0, 3600.0, "Time between reports of on-board time; 0 for none."),
)

BY_NAME: dict[str, Parameter] = {row.name: row for row in PARAMETERS}
BY_NUMBER: dict[int, Parameter] = {row.number: row for row in PARAMETERS}


def number_text(value: float) -> str:
    """Return `value` as an error shows it: whole numbers in full, others to ten figures, so that a value just
    beyond its bound does not look like the bound.
    """
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def check_value(name: str, value: float) -> str | None:
    """Return why `value` may not be set as parameter `name`, or None when it may."""
    row = BY_NAME.get(name)
    if row is None:
        return f"no parameter {name!r}; known: {', '.join(sorted(BY_NAME))}"
    if not row.low <= value <= row.high:  # false for NaN as well
        return f"{name} = {number_text(value)} {row.unit} outside {row.low:g}..{row.high:g} {row.unit}"
    return None

"""A flown scenario's bill against the true satellite; as a program, of two mission days (`make metering`)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hil import run
from hil.scenario import find, load

BOUNDS = {"billing_error_frac": 0.03, "billing_error_worst_job_frac": 0.10, "bus_ledger_error_frac": 0.03}


def problems_of(name: str, folder: Path, duration: str | None = None, seed: int | None = None) -> list[str]:
    """Fly a scenario; say where its bill differs from the truth by more than it may."""
    metrics = run.fly(load(find(name), seed=seed, duration=duration), folder).metrics
    errors = {key: metrics[key] for key in BOUNDS}
    print(f"{name}, seed {metrics['seed']}: {metrics['jobs_settled']} jobs settled, {metrics['energy_billed_wh']:.1f} "
          f"Wh billed, {metrics['energy_settled_jobs_wh']:.1f} Wh by the truth; {errors}")
    return [f"{name}: {key} = {error}, at most {BOUNDS[key]}" for key, error in errors.items()
            if not isinstance(error, float) or not abs(error) <= BOUNDS[key]]


def main() -> int:
    """Fly a day on both reference orbits; 0 when every joule is where it belongs."""
    problems = []
    for name in ("day_iss", "day_dawn_dusk"):
        with tempfile.TemporaryDirectory() as folder:
            problems += problems_of(name, Path(folder))
    print("\n".join(problems) or "the bill agrees with the truth")
    return bool(problems)


if __name__ == "__main__":
    raise SystemExit(main())

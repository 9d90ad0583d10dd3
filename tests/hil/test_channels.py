"""Every channel lost: a short form of `hil channels`, and that it would tell a limit crossed from none."""

from __future__ import annotations

import numpy as np
import pytest

from flightsw.fdir.plausibility import Plausibility
from flightsw.state import Event, Readings
from hil import channels, scenario
from hil.__main__ import main
from hil.plant.sensors import SensorFault

PATH = scenario.SCENARIOS / "brain" / "overload15_iss.toml"
SHORT = ("battery_soc_frac", "die0_c", "plate_c")
TASK = channels.Task(str(PATH), "1.5 orbits", 1, SensorFault(0.0, 0.0, "", "", 0.0))


@pytest.fixture(scope="module")
def moments():  # type: ignore[no-untyped-def]
    first, moments = channels.healthy(TASK)
    assert channels.problems(first) == []
    assert first.lost == ()
    return moments


@pytest.mark.parametrize("kind", channels.KINDS)
@pytest.mark.parametrize("name", SHORT)
def test_a_lost_channel_crosses_no_limit(name, kind, moments):  # type: ignore[no-untyped-def]
    """At the worse moment: charge about to fall, temperatures about to rise."""
    rise, fall = channels.tasks_of(TASK, moments, [name], [kind])
    outcome = channels.fly(fall if name == "battery_soc_frac" else rise)
    assert channels.problems(outcome) == []
    assert outcome.noticed_s is not None
    assert outcome.noticed_s < 1200.0 if kind == "stuck" else outcome.noticed_s <= 40.0


def test_a_stuck_gauge_is_what_would_cross_a_limit_if_it_were_believed(monkeypatch):  # type: ignore[no-untyped-def]
    """From nightfall of the third orbit on, every eclipse is flown as if it took nothing out of the battery."""
    stuck = TASK._replace(duration="4 orbits", fault=SensorFault(13223.0, 1e6, "battery_soc_frac", "stuck", 0.0))
    assert channels.problems(channels.fly(stuck)) == []

    def believe(self: Plausibility, readings: Readings) -> tuple[Readings, tuple[Event, ...]]:
        return readings, ()

    monkeypatch.setattr(Plausibility, "judge", believe)
    outcome = channels.fly(stuck)
    (line,) = channels.problems(outcome)
    assert "battery_floor_frac by" in line
    assert outcome.noticed_s is None


def test_worst_moments_are_before_the_largest_changes() -> None:
    t = np.arange(4000.0)
    values = np.where(t < 2000.0, 0.0, np.where(t < 2010.0, 5.0, np.where(t < 3000.0, 4.0, -3.0)))
    found = channels.worst_moments(values)
    assert 1000.0 <= found["rise"] < 2000.0
    assert 2000.0 <= found["fall"] < 2010.0


def test_the_command_prints_a_table_and_its_status_says_whether_all_is_well(capsys) -> None:  # type: ignore[no-untyped-def]
    words = ["channels", str(PATH), "--duration", "30 min", "--channels", "radiator_c", "--jobs", "1"]
    assert main([*words, "--faults", "nan"]) == 0
    text = capsys.readouterr().out
    assert "radiator_c        nan" in text
    assert "2 flights, 0 with a limit crossed, 0 false alarms" in text
    assert main([*words[:4], "--channels", "magic"]) == 2
    assert "magic: expected are some of sun_frac" in capsys.readouterr().err

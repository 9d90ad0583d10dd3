"""The suite is held to account: planted defects are caught, and are gone afterwards."""

import pytest

from hil.__main__ import main
from hil.scenario import SCENARIOS, find, load
from hil.selftest.defects import DEFECTS, planted
from hil.selftest.suite import SHORT, Outcome, broken, table

FAULTS = sorted((SCENARIOS / "faults").glob("*.toml"))


def test_there_are_enough_and_each_names_a_check_of_its_scenario():
    assert len(DEFECTS) >= 20
    checks = {path.stem: {check.name for check in load(path).checks} for path in FAULTS}
    for defect in DEFECTS.values():
        assert defect.caught_by in checks[defect.scenario.removeprefix("faults/")], defect.name
        assert defect.about.endswith("."), defect.name
        assert defect.flown_s <= load(find(defect.scenario)).duration_s


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_can_be_planted_and_leaves_the_flight_software_whole(name):
    owners = [(owner, attribute) for owner, attribute, _ in DEFECTS[name].make()]
    before = [vars(owner)[attribute] for owner, attribute in owners]
    with planted(DEFECTS[name]):
        assert all(vars(owner)[attribute] is not whole
                   for (owner, attribute), whole in zip(owners, before, strict=True))
    assert [vars(owner)[attribute] for owner, attribute in owners] == before


def test_a_defect_is_gone_also_when_the_flight_breaks():
    owner, attribute, _ = DEFECTS["plausibility.never_doubts"].make()[0]
    whole = vars(owner)[attribute]
    with pytest.raises(RuntimeError), planted(DEFECTS["plausibility.never_doubts"]):
        raise RuntimeError("rig")
    assert vars(owner)[attribute] is whole


@pytest.mark.parametrize("name", SHORT)
def test_the_short_form_catches_its_defects(name):
    outcome = broken(name)
    assert outcome.is_right, outcome


def test_the_table_says_what_was_missed():
    defects = [DEFECTS[name] for name in SHORT[:2]]
    said = " ".join(table(defects, [Outcome("", "faults/sensors", True, "PASS: 30 checks", ()),
                           Outcome("", "faults/passes", False, "FAIL: 16 checks", ("promises",)),
                           Outcome(SHORT[0], "faults/sensors", True, "once violated", ("plate_is_true", "ticks")),
                           Outcome(SHORT[1], "faults/passes", False, "not caught: PASS", ())]).split())
    assert "faults/passes FAILS FAIL: 16 checks; not: promises" in said
    assert "telemetry.is_in_kelvin caught plate_is_true in faults/sensors: once violated; also ticks" in said
    assert "link.transmitter_is_always_on MISSED" in said
    assert said.endswith("1 of 2 defects caught; 1 of 2 scenarios pass with the flight software as it is")


def test_the_list_and_wrong_names(capsys):
    assert main(["selftest", "--list"]) == 0
    assert capsys.readouterr().out.count("Caught by") == len(DEFECTS)
    assert main(["selftest", "--defects", "no.such"]) == 2
    assert "no.such: expected are some of" in capsys.readouterr().err

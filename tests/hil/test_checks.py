"""Expressions and checks in time, on records made by hand."""

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.state import Mode
from hil.checks import Check, ExpressionError, PythonCheck, parse
from hil.signals import METRICS, Record, catalogue, held
from hil.verdict import (
    EXIT_STATUS,
    Closure,
    Finding,
    Level,
    Requirement,
    Verdict,
    load_requirements,
    matrix,
    overall,
)

KNOWN = catalogue(4, ("bad",))


class Event:
    def __init__(self, obt_s, name, text):
        self.obt_s, self.name, self.text = obt_s, name, text


def record(events=(), **columns):
    table = {name.replace("__", "."): np.asarray(values, float) for name, values in columns.items()}
    return Record(max(len(values) for values in table.values()), table.__getitem__, events, 1000.0)


def judged(text, **columns):
    return parse(text, KNOWN).judge(record(**columns))


# --- expressions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "columns", "yes"), [
    ("truth.plate_c > 50", {"truth__plate_c": [40, 50, 60]}, [0, 0, 1]),
    ("truth.plate_c >= 50 degC", {"truth__plate_c": [40, 50, 60]}, [0, 1, 1]),
    ("40 < truth.plate_c <= 50", {"truth__plate_c": [40, 50, 60]}, [0, 1, 0]),
    ("truth.battery_soc_frac < 40 %", {"truth__battery_soc_frac": [0.39, 0.41]}, [1, 0]),
    ("truth.plate_c - plate_c < 2 K", {"truth__plate_c": [40, 50], "plate_c": [39, 40]}, [1, 0]),
    ("plate_c + 5 K > 40 degC", {"plate_c": [34, 36]}, [0, 1]),
    ("abs(truth.battery_a) > 1 A", {"truth__battery_a": [-2, 0.5]}, [1, 0]),
    ("max(truth.die0_c, truth.die1_c) > 60", {"truth__die0_c": [50, 70], "truth__die1_c": [61, 10]}, [1, 1]),
    ("min(truth.die0_c, truth.die1_c) > 20", {"truth__die0_c": [50, 70], "truth__die1_c": [61, 10]}, [1, 0]),
    ("rate(truth.plate_c) > 1 K/s", {"truth__plate_c": [1, 1.5, 4]}, [0, 0, 1]),
    ("mean(truth.plate_c, 2 s) > 3", {"truth__plate_c": [9, 1, 6]}, [0, 1, 1]),
    ("ago(truth.plate_c, 2 s) > 3", {"truth__plate_c": [9, 1, 6]}, [0, 0, 1]),
    ("decision.mode == SAFE", {"decision__mode": [Mode.SAFE, Mode.COMPUTE]}, [1, 0]),
    ("decision.shed and not fault.bad", {"decision__shed": [1, 1, 0], "fault__bad": [0, 1, 0]}, [1, 0, 0]),
    ("t_s > 1 min", {"truth__plate_c": [0] * 62}, [0] * 61 + [1]),
    ("truth.payload_w * 0.5 + 1 W > 10 W", {"truth__payload_w": [10, 20]}, [0, 1]),
    ("truth.battery_v * truth.battery_a > 10", {"truth__battery_v": [10, 20], "truth__battery_a": [1, 1]}, [0, 1]),
    ("truth.payload_w / truth.array_w > 0.5", {"truth__payload_w": [10, 9], "truth__array_w": [10, 0]}, [1, 0]),
    ("valid(plate_c)", {"plate_c": [1, math.nan]}, [1, 0]),
    ("-truth.battery_a > 1 A", {"truth__battery_a": [-2, 0.5]}, [1, 0]),
])
def test_expressions_mean_what_they_say(text, columns, yes):
    found = judged(text, **columns)
    assert found.yes.tolist() == [bool(value) for value in yes]
    assert not (found.yes & found.no).any()


def test_events_are_counted_by_name_and_words():
    events = [Event(1002.0, "sensor_lost", "Sensor plate_c"), Event(1004.0, "sensor_lost", "Sensor bus_c"),
              Event(1009.0, "shed", "All")]
    seen = record(events, truth__plate_c=[0] * 8)
    assert parse('event("sensor_lost") == 2', KNOWN).judge(seen).yes.tolist() == [False] * 4 + [True] * 4
    assert parse('event("sensor_lost", "plate_c") == 1', KNOWN).judge(seen).yes.tolist() == [False] * 2 + [True] * 6
    assert not parse('event("shed")', KNOWN).judge(seen).yes.any()


@pytest.mark.parametrize(("text", "problem"), [
    ("truth.plate", "no signal 'truth.plate'; near: truth.plate_c"),
    ("truth.plate_c > 5 W", "degC beside W"),
    ("truth.plate_c > truth.bus_w", "degC beside W"),
    ("decision.mode == 3", "a mode is compared with BOOT, SAFE"),
    ("decision.mode > SAFE", "modes have no order"),
    ("decision.mode", "is a mode: compare it"),
    ("__import__('os').system('true')", "no function"),
    ("(lambda: 1)()", "no function"),
    ("[1, 2]", "List is not allowed here"),
    ("truth.plate_c ** 2 > 1", r"only \+ - \* / are known"),
    ("truth.plate_c if 1 else 2", "IfExp is not allowed"),
    ("truth.plate_c in 3", "only < <= > >= == != compare"),
    ('"text" == "text"', "'text' is not a number"),
    ("True", "True is not a number"),
    ("event(1)", "takes an event and words"),
    ('event("no_such")', "no event 'no_such'"),
    ("abs()", "takes 1 terms, 0 given"),
    ("mean(truth.plate_c, 3)", "a duration like 60 s is expected"),
    ("(truth.plate_c > 1) > 2", "is true or false, a number is expected"),
    ("truth.plate_c >", "invalid syntax"),
    ("truth.plate_c > 1; x", "invalid syntax"),
    ("max(truth.plate_c, 5 W) > 1", "degC beside W"),
])
def test_what_cannot_be_meant_is_refused(text, problem):
    with pytest.raises(ExpressionError, match=problem):
        parse(text, KNOWN)


@given(st.text(max_size=60))
def test_any_text_is_an_expression_or_a_clear_error(text):
    with contextlib.suppress(ExpressionError):
        assert parse(text, KNOWN).text == text


def test_what_is_missing_is_neither_true_nor_false():
    found = judged("plate_c > 5 and truth.plate_c > 5", plate_c=[math.nan, math.nan, 9], truth__plate_c=[9, 1, 9])
    assert found.yes.tolist() == [False, False, True]
    assert found.no.tolist() == [False, True, False]  # false whatever the missing one says
    either = judged("plate_c > 5 or truth.plate_c > 5", plate_c=[math.nan, math.nan, 9], truth__plate_c=[9, 1, 9])
    assert (either.yes.tolist(), either.no.tolist()) == ([True, False, True], [False, False, False])
    assert not (judged("not plate_c > 5", plate_c=[math.nan]).yes.any())


def test_margins_follow_and_or_and_not():
    columns = {"truth__plate_c": [40.0], "truth__bus_c": [10.0]}
    assert judged("truth.plate_c < 50 and truth.bus_c < 12", **columns).margin == [2.0]
    assert judged("truth.plate_c < 50 or truth.bus_c < 12", **columns).margin == [10.0]
    assert judged("not truth.plate_c < 50", **columns).margin == [-10.0]
    assert judged("truth.plate_c < 50 and truth.bus_w < 12", **columns, truth__bus_w=[1.0]).margin is None


def test_telemetry_is_held_from_its_stamp():
    column = held([(1002.0, 5.0), (1004.5, None), (1006.0, 7.0)], 1000.0, 9)
    np.testing.assert_array_equal(column, [math.nan] * 2 + [5.0] * 3 + [math.nan] + [7.0] * 3)
    assert np.isnan(held([], 1000.0, 3)).all()


def test_only_what_is_known_in_flight_is_live():
    assert parse("truth.plate_c > 1 and plate_c > 1 and decision.shed", KNOWN).live
    for late in ('event("shed")', "metric.sheds > 1", "rate(plate_c) > 1", "mean(plate_c, 5 s) > 1"):
        assert not parse(late, KNOWN).live


# --- checks -------------------------------------------------------------------------------------------


def check(kind, holds, **given):
    texts = {key: parse(given.pop(key), KNOWN) for key in ("after", "release", "during") if key in given}
    return Check("c", kind, holds, parse(holds, KNOWN), **texts, **given)


def plate(values, **columns):
    return record(truth__plate_c=values, **columns)


def test_always_tells_margin_and_worst_time():
    found = check("always", "truth.plate_c <= 50").judge(plate([10, 47, 30]))
    assert (found.verdict, found.margin, found.unit, found.worst_s) == (Verdict.PASS, 3.0, "K", 1.0)
    found = check("always", "truth.plate_c <= 50").judge(plate([10, 51, 52, 30, 60]))
    assert (found.verdict, found.margin, found.worst_s) == (Verdict.FAIL, -10.0, 4.0)
    assert found.detail == "2 times violated, 3 s in all, longest 2 s from T+1 s"


@pytest.mark.parametrize(("grace_s", "verdict"), [(0.0, Verdict.FAIL), (1.0, Verdict.FAIL), (2.0, Verdict.PASS)])
def test_grace_is_for_one_stretch_at_a_time(grace_s, verdict):
    found = check("always", "truth.plate_c <= 50", grace_s=grace_s).judge(plate([51, 51, 30, 51, 51]))
    assert found.verdict is verdict
    if verdict is Verdict.PASS:
        assert found.detail == "held on 1 ticks, 4 within grace"


def test_scope_limits_a_check():
    hot = plate([60, 30, 60, 30, 60], fault__bad=[0, 1, 0, 1, 0])
    assert check("always", "truth.plate_c <= 50", during="fault.bad").judge(hot).verdict is Verdict.PASS
    assert check("always", "truth.plate_c <= 50", from_s=1.0, to_s=2.0).judge(hot).verdict is Verdict.PASS
    assert check("always", "truth.plate_c <= 50", from_s=1.0, to_s=3.0).judge(hot).verdict is Verdict.FAIL
    assert check("always", "truth.plate_c <= 50", from_s=9.0).judge(hot).verdict is Verdict.INCONCLUSIVE


def test_signals_without_values_decide_nothing():
    missing = [math.nan] * 6
    assert check("always", "plate_c < 50").judge(record(plate_c=missing)).verdict is Verdict.INCONCLUSIVE
    assert check("always", "plate_c < 50").judge(record(plate_c=[*missing, 1, 1])).verdict is Verdict.INCONCLUSIVE
    assert check("always", "plate_c < 50").judge(record(plate_c=[*missing, *[1] * 6])).verdict is Verdict.PASS
    assert check("always", "plate_c < 50").judge(record(plate_c=[*missing, 60])).verdict is Verdict.FAIL
    assert check("final", "plate_c < 50").judge(record(plate_c=[1, math.nan])).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(("shed", "verdict", "margin"), [
    ([0, 0, 1, 1, 1, 1, 1, 1], Verdict.PASS, 3.0), ([0, 0, 0, 1, 1, 1, 1, 1], Verdict.PASS, 2.0),
    ([0, 0, 0, 0, 0, 0, 1, 1], Verdict.FAIL, -1.0), ([0] * 8, Verdict.FAIL, None),
])
def test_expect_within(shed, verdict, margin):
    hot = plate([1, 1, 9, 9, 1, 1, 1, 1], decision__shed=shed)
    found = check("expect", "decision.shed", after="truth.plate_c > 5", within_s=3.0).judge(hot)
    assert (found.verdict, found.margin) == (verdict, margin)
    assert found.worst_s == 2.0


def test_expect_is_for_each_time_and_knows_the_end_of_the_run():
    twice = plate([1, 9, 1, 1, 9, 1], decision__shed=[0, 1, 0, 0, 0, 1])
    found = check("expect", "decision.shed", after="truth.plate_c > 5", within_s=2.0).judge(twice)
    assert (found.verdict, found.detail) == (Verdict.PASS, "2 times, slowest after 1 s")
    cut = plate([1, 1, 1, 9], decision__shed=[0, 0, 0, 0])
    assert check("expect", "decision.shed", after="truth.plate_c > 5",
                 within_s=2.0).judge(cut).verdict is Verdict.INCONCLUSIVE
    assert check("expect", "decision.shed", after="truth.plate_c > 50",
                 within_s=2.0).judge(cut).verdict is Verdict.INCONCLUSIVE
    assert check("expect", "decision.shed").judge(plate([1, 1], decision__shed=[0, 1])).verdict is Verdict.PASS


def test_until_stands_to_its_end():
    seen = plate([1, 9, 9, 9, 1], decision__shed=[0, 1, 1, 0, 0], fault__bad=[0, 0, 0, 1, 0])
    held_up = check("until", "decision.shed", after="truth.plate_c > 5", release="fault.bad")
    assert held_up.judge(seen).verdict is Verdict.PASS
    left = plate([1, 9, 9, 9, 1], decision__shed=[0, 1, 0, 0, 0], fault__bad=[0, 0, 0, 1, 0])
    found = held_up.judge(left)
    assert (found.verdict, found.worst_s) == (Verdict.FAIL, 2.0)
    never = plate([1, 9, 9, 9, 1], decision__shed=[0, 1, 1, 1, 1], fault__bad=[0] * 5)
    assert "its end never came" in held_up.judge(never).detail


def test_final_looks_at_the_last_tick():
    assert check("final", "truth.plate_c > 5").judge(plate([1, 9])).verdict is Verdict.PASS
    assert check("final", "truth.plate_c > 5").judge(plate([9, 1])).verdict is Verdict.FAIL


def test_python_checks_return_truth_margin_or_both():
    seen = plate([1, 9])
    for returned, verdict, margin in ((True, Verdict.PASS, None), (False, Verdict.FAIL, None),
                                      (2.5, Verdict.PASS, 2.5), ((-1.0, "low"), Verdict.FAIL, -1.0)):
        found = PythonCheck("c", "f", lambda _record, value=returned: value).judge(seen)
        assert (found.verdict, found.margin) == (verdict, margin)
    assert PythonCheck("c", "f", lambda rec: rec["truth.plate_c"].max() < 10).judge(seen).verdict is Verdict.PASS
    broken = PythonCheck("c", "f", lambda rec: 1 / 0).judge(seen)
    assert (broken.verdict, broken.detail) == (Verdict.ERROR, "ZeroDivisionError: division by zero")


# --- verdicts and requirements ------------------------------------------------------------------------


def finding(verdict, verifies=("REQ-PWR-1",), waived="", name="c"):
    return Finding(name, verdict, "", verifies=verifies, waived=waived)


def test_the_worst_that_is_not_waived_counts():
    everything = [finding(verdict) for verdict in Verdict]
    assert overall(everything) is Verdict.ERROR
    assert overall(everything[:3]) is Verdict.FAIL
    assert overall([everything[0], everything[2]]) is Verdict.INCONCLUSIVE
    assert overall([everything[0], finding(Verdict.FAIL, waived="because")]) is Verdict.PASS
    assert sorted(EXIT_STATUS.values()) == [0, 1, 3, 4]


@pytest.mark.parametrize(("verdicts", "level", "required", "closure"), [
    (["PASS", "PASS"], Level.SIL, "SIL", Closure.CLOSED),
    (["PASS"], Level.SIL, "HIL", Closure.SHOWN),
    (["PASS"], Level.PIL, "HIL", Closure.SHOWN),
    (["PASS"], Level.HIL, "PIL", Closure.CLOSED),
    (["PASS", "FAIL"], Level.HIL, "SIL", Closure.FAILED),
    (["PASS", "INCONCLUSIVE"], Level.SIL, "SIL", Closure.OPEN),
])
def test_a_pass_closes_at_its_own_level_only(verdicts, level, required, closure):
    requirements = {"REQ-PWR-1": Requirement("REQ-PWR-1", required, "The battery stays full.")}
    (line,) = matrix([finding(Verdict[verdict]) for verdict in verdicts], requirements, level)
    assert line.closure is closure


def test_a_waived_failure_closes_nothing_and_others_are_left_out():
    requirements = {"REQ-PWR-1": Requirement("REQ-PWR-1", "SIL", "The battery stays full."),
                    "REQ-PWR-2": Requirement("REQ-PWR-2", "SIL", "The battery stays cold.")}
    (line,) = matrix([finding(Verdict.FAIL, waived="because")], requirements, Level.SIL)
    assert (line.requirement.id, line.closure) == ("REQ-PWR-1", Closure.FAILED)


def test_the_projects_requirements_load_and_double_ones_do_not(tmp_path):
    assert len(load_requirements()) >= 20
    path = tmp_path / "r.toml"
    row = '[[requirement]]\nid = "REQ-PWR-1"\nlevel = "SIL"\ntext = "The battery stays full."\n'
    path.write_text(row + row)
    with pytest.raises(Exception, match="'REQ-PWR-1' is there twice"):
        load_requirements(path)


def test_metrics_that_checks_may_name_are_there(tmp_path):
    import json

    from hil import run
    from hil.scenario import find, load
    run.fly(load(find("serial_iss"), duration="60 s"), tmp_path)
    assert METRICS.keys() <= json.loads((tmp_path / "run.json").read_text()).keys()

"""Standing orders in flight: each runs through the gate, survives a kill, is never run late, never loops, replays."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_supervisor import START_S, Flight, flight, launch

from flightsw.decide.standing import Standing, Turn
from flightsw.dictionary import orders
from flightsw.dictionary.commands import (
    COMMANDS,
    Context,
    execute,
    open_sequence,
    pack_arguments,
    request_of,
    storing_problem,
    words_of,
)
from flightsw.dictionary.orders import SEQUENCE_OCTETS_MAX, Orders, parse_sequence
from flightsw.dictionary.reports import REPORTS, ReportRow, pack_report, unpack_report
from flightsw.dictionary.telemetry import MISSING, POINT_INDEX, POINTS
from flightsw.errors import LinkError, StoreError
from flightsw.fdir.defined import DefinedMonitors
from flightsw.orderbook import OrderBook, read_upload
from flightsw.state import (
    Action,
    Event,
    FileRead,
    Mode,
    MonitorDefinition,
    OrderChange,
    OrderTable,
    Request,
    Scheduled,
    StoredSequence,
    Switch,
)
from flightsw.store import Store
from hil.run import replay

__all__ = ["flight", "launch"]  # fixtures
Launch = Callable[..., Flight]
PING = request_of("ping")


def reports(flown: Flight, name: str) -> list[tuple[float | int | str, ...]]:
    found = [unpack_report(tm.service, tm.subservice, tm.data) for tm in flown.heard.packets if tm.service in
             {9, 11, 12, 19, 21}]
    return [args for row, args in found if row.name == name]


def put(flown: Flight, name: str, text: str) -> str:
    """Put a file where what the ground sends up arrives; return its SHA-256."""
    (flown.folder / "files").mkdir(exist_ok=True)
    (flown.folder / "files" / name).write_text(text)
    return hashlib.sha256(text.encode()).hexdigest()


# --- time-tagged commands ------------------------------------------------------------------------------


def test_a_time_tagged_command_runs_at_its_time_through_the_gate(flight: Flight) -> None:
    flight.fly(1)
    for number, (at_s, words) in enumerate([(10.0, "mode STANDBY"), (10.0, "mode COMPUTE"), (12.0, "mode COMPUTE"),
                                            (15.5, "hk.report 4"), (5.0, "job.cancel 9")], 1):
        flight.command("schedule.insert", number, START_S + at_s, words)
    flight.fly(8)
    assert flight.supervisor.mode is Mode.SAFE
    flight.fly(1)
    assert flight.supervisor.mode is Mode.COMPUTE  # both, in the order of their numbers
    flight.fly(10)
    assert flight.heard.named("stored_command_done") == [
        Event("stored_command_done", ("schedule 1", "mode STANDBY")),
        Event("stored_command_done", ("schedule 2", "mode COMPUTE")),
        Event("stored_command_done", ("schedule 4", "hk.report 4")),
    ]
    assert [event.args for event in flight.heard.named("stored_command_rejected")] == [
        ("schedule 5", "job.cancel 9", "job 9 is not open"),
        ("schedule 3", "mode COMPUTE", "COMPUTE -> COMPUTE is not legal; legal: SAFE, STANDBY"),
    ]
    assert "node5_mode" in flight.heard.points  # structure 4


def test_a_time_tagged_command_survives_a_kill_and_a_missed_one_is_reported_not_run(launch: Launch,
                                                                                    tmp_path: Path) -> None:
    first = launch()
    first.fly(1)
    first.command("schedule.insert", 1, START_S + 20.0, "mode STANDBY")
    first.command("schedule.insert", 2, START_S + 60.0, "mode STANDBY")
    first.command("schedule.insert", 3, START_S + 60.0, "hk.report 2")
    first.command("schedule.delete", 3)
    first.fly(2)
    again = launch(first.killed(tmp_path / "again"))
    again.now_s = 40.0
    again.fly(5)
    assert again.supervisor.mode is Mode.SAFE
    assert again.heard.named("command_missed") == [
        Event("command_missed", (1, "mode STANDBY", pytest.approx(21.0), "too late"))]
    again.fly(20)
    assert again.supervisor.mode is Mode.STANDBY
    third = launch(again.killed(tmp_path / "third"))  # neither comes again
    third.now_s = 100.0
    third.fly(3)
    assert third.supervisor.mode is Mode.SAFE
    assert not third.heard.named("command_missed")


def test_while_the_schedule_is_off_commands_are_missed(flight: Flight) -> None:
    flight.fly(1)
    flight.command("schedule.off")
    flight.command("schedule.insert", 1, START_S + 4.0, "mode STANDBY")
    flight.fly(6)
    assert flight.supervisor.mode is Mode.SAFE
    assert [event.args[3] for event in flight.heard.named("command_missed")] == ["the schedule is off"]
    flight.command("schedule.on")
    flight.command("schedule.insert", 2, START_S + 12.0, "mode STANDBY")
    flight.command("schedule.report")
    flight.fly(1)
    assert reports(flight, "schedule_summary") == [(1, 1)]
    assert [(number, at_s, words_of(Request(c[0], c[1], c[2:]))) for number, at_s, command in
            reports(flight, "schedule_entry") if (c := bytes.fromhex(str(command)))] == [
                (2, START_S + 12.0, "mode STANDBY")]
    flight.fly(8)
    assert flight.supervisor.mode is Mode.STANDBY


@pytest.mark.parametrize(("values", "why"), [
    ((1, START_S - 1.0, "ping"), "was 2.0 s ago"), ((7, START_S + 99.0, "ping"), "7 waits already")])
def test_what_cannot_be_scheduled_is_refused(flight: Flight, values: tuple[int, float, str], why: str) -> None:
    flight.command("schedule.insert", 7, START_S + 90.0, "ping")
    request = flight.command("schedule.insert", *values)
    flight.fly(1)
    (report,) = [report for report in flight.heard.verifications if report.request_id == request]
    assert report.stage == 2
    assert why in report.text


def test_more_commands_than_there_is_room_for_are_refused() -> None:
    full = Orders(OrderChange(OrderTable.SCHEDULE, i, Scheduled(i, 9e9, PING)) for i in range(orders.SCHEDULE_MAX))
    assert len(full.schedule) == orders.SCHEDULE_MAX
    row = COMMANDS["schedule.insert"]
    context = Context(0.0, Mode.SAFE, frozenset(), lambda _: False, orders=full)
    result = execute(row, pack_arguments(row, (9999, 1e9, "ping")), context)
    assert "256 time-tagged commands wait already" in str(result)


# --- monitors and event-actions ------------------------------------------------------------------------


def test_a_monitor_sets_off_an_action_until_it_is_spent(launch: Launch, tmp_path: Path) -> None:
    first = launch()
    first.fly(1)
    first.command("param.set", "monitor_period_s", 1.0)
    first.command("monitor.add", 7, "battery_v", 14.0, 16.5, 3, 3)
    first.command("action.add", 1, "monitor_medium", "7", 2, "mode STANDBY")
    first.command("action.add", 2, "monitor_medium", "8", 9, "hk.report 1")  # of another monitor
    first.fly(5)
    again = launch(first.killed(tmp_path / "again"))  # definitions are durable, parameters start afresh
    again.now_s = first.now_s
    again.command("param.set", "monitor_period_s", 1.0)
    again.board.values["battery_v"] = 13.0
    again.fly(2)
    assert not again.heard.named("monitor_medium")  # three samples make a crossing
    again.board.values["battery_v"] = None
    again.fly(4)
    assert not again.heard.named("monitor_medium")  # a missing value says nothing
    again.board.values["battery_v"] = 13.0
    again.fly(5)
    assert [event.args[:2] for event in again.heard.named("monitor_medium")] == [(7, "battery_v")]
    assert again.supervisor.mode is Mode.STANDBY
    for volts in (16.0, 13.0, 16.0, 13.0):
        again.board.values["battery_v"] = volts
        again.fly(5)
    assert len(again.heard.named("monitor_medium")) == 3
    assert len(again.heard.named("monitor_cleared")) == 2
    assert [event.args[0] for event in again.heard.named("stored_command_rejected")] == ["action 1"]  # STANDBY already
    assert again.heard.named("action_spent") == [Event("action_spent", (1,))]
    again.command("action.report")
    again.command("monitor.report")
    again.fly(1)
    assert reports(again, "action_definition")[0][:5] == (1, "monitor_medium", "7", 0, 1)
    assert reports(again, "monitor_definition") == [(7, "battery_v", 14.0, 16.5, 3, 3, 1)]


def test_what_others_than_decide_report_sets_off_an_action_too(flight: Flight) -> None:
    flight.fly(1)
    flight.command("action.add", 1, "tick_overrun", "", 1, "mode STANDBY")
    flight.fly(1)
    flight.supervisor.note_overrun(flight.now_s, 0.9, 1)
    flight.fly(1)
    assert flight.supervisor.mode is Mode.STANDBY


def test_actions_that_set_each_other_off_come_to_an_end(flight: Flight) -> None:
    flight.fly(1)
    flight.command("action.add", 1, "parameter_set", "plan_period_s", 200, "param.set dispatch_period_s 11")
    flight.command("action.add", 2, "parameter_set", "dispatch_period_s", 5, "param.set plan_period_s 61")
    flight.command("param.set", "plan_period_s", 60.0)
    flight.fly(30)
    assert len(flight.heard.named("parameter_set")) == 1 + 6 + 5
    assert flight.heard.named("action_spent") == [Event("action_spent", (2,))]


@pytest.mark.parametrize("stop", ["action.off", "action.disable", "action.delete", "action.reset"])
def test_actions_can_be_taken_out_of_force(flight: Flight, stop: str) -> None:
    flight.command("action.add", 1, "parameter_set", "", 9, "mode STANDBY")
    flight.command(stop, *((1,) if COMMANDS[stop].args else ()))
    flight.fly(1)
    flight.command("param.set", "plan_period_s", 70.0)
    flight.fly(3)
    assert flight.supervisor.mode is Mode.SAFE


@given(st.lists(st.tuples(st.sampled_from([1.0, 2.0, 3.0, MISSING]), st.booleans()), max_size=40), st.integers(1, 4))
def test_a_defined_monitor_speaks_once_a_crossing(samples: list[tuple[float, bool]], count: int) -> None:
    monitors, pool = DefinedMonitors(), [0.0] * len(POINTS)
    crossed, against, said, expected = False, 0, [], []
    for value, enabled in samples:
        pool[POINT_INDEX["battery_v"]] = value
        row = MonitorDefinition(3, "battery_v", 1.5, 2.5, count, 4, enabled)
        said.append(monitors.check({3: row}, pool))
        if not enabled:  # another definition: afresh
            crossed, against = False, 0
        elif not math.isnan(value):
            against = against + 1 if (value != 2.0) != crossed else 0
            if against == count:
                crossed, against = not crossed, 0
                expected.append("monitor_high" if crossed else "monitor_cleared")
    assert [event.name for events in said for event in events] == expected
    assert all(len(events) <= 1 for events in said)


# --- sequences -----------------------------------------------------------------------------------------

GOOD = "# go to work\nsequence 3\n0 mode STANDBY\n2.5 hk.report 4\n\n3 mode COMPUTE\n"


def test_a_sequence_is_verified_step_by_step(flight: Flight) -> None:
    sha256 = put(flight, "evening", GOOD)
    loaded = flight.command("sequence.load", "evening", sha256)
    flight.fly(2)
    assert flight.stages(loaded) == [1, 7]
    started = flight.command("sequence.start", "evening")
    flight.command("sequence.report")
    flight.fly(3)
    assert flight.stages(started) == [1, 3, 5]
    assert flight.supervisor.mode is Mode.STANDBY
    again = flight.command("sequence.start", "evening")
    flight.fly(6)
    assert flight.stages(again) == [2]
    assert flight.stages(started) == [1, 3, 5, 5, 5, 7]
    assert [report.code for report in flight.heard.verifications if report.stage == 5] == [1, 2, 3]
    assert flight.supervisor.mode is Mode.COMPUTE
    assert reports(flight, "sequence") == [("evening", 1, 3, 0, sha256)]
    assert flight.heard.named("sequence_ended") == [Event("sequence_ended", ("evening", 3))]


def test_a_rejected_command_ends_a_sequence(flight: Flight) -> None:
    flight.command("sequence.load", "up", put(flight, "up", "sequence 3\n0 mode STANDBY\n0 mode STANDBY\n0 safe\n"))
    flight.fly(2)
    started = flight.command("sequence.start", "up")
    flight.fly(5)
    assert flight.stages(started) == [1, 3, 5, 8]
    assert flight.supervisor.mode is Mode.STANDBY
    assert flight.heard.named("sequence_failed")[0].args[:2] == ("up", 1)


def test_a_sequence_can_be_stopped_and_unloaded_and_ends_with_the_supervisor(launch: Launch, tmp_path: Path) -> None:
    first = launch()
    first.command("sequence.load", "a", put(first, "a", "sequence 2\n0 ping\n20 mode STANDBY\n"))
    first.fly(2)
    first.command("sequence.start", "a")
    first.fly(3)
    busy = first.command("sequence.unload", "a")
    first.fly(1)
    assert first.stages(busy) == [2]
    again = launch(first.killed(tmp_path / "again"))
    again.now_s = first.now_s
    again.fly(30)
    assert again.supervisor.mode is Mode.SAFE  # still stored, not under way
    stopped = first.command("sequence.stop", "a")
    first.fly(30)
    assert first.stages(stopped) == [1, 7]
    assert first.supervisor.mode is Mode.SAFE
    gone = first.command("sequence.unload", "a")
    none = first.command("sequence.start", "a")
    first.fly(1)
    assert (first.stages(gone), first.stages(none)) == ([1, 7], [2])


@pytest.mark.parametrize(("text", "why"), [
    (GOOD.replace("mode COMPUTE", "mode  COMPUTE"), "SHA-256"), (None, "No such file"), ("x" * 4000, "longer than"),
])
def test_a_file_that_is_not_the_one_that_was_meant_is_not_loaded(flight: Flight, text: str | None, why: str) -> None:
    sha256 = hashlib.sha256(GOOD.encode()).hexdigest()
    if text is not None:
        put(flight, "evening", text)
    loaded = flight.command("sequence.load", "evening", sha256)
    flight.fly(2)
    assert flight.stages(loaded) == [1, 8]
    assert why in str(flight.heard.named("sequence_failed")[0].args[2])
    started = flight.command("sequence.start", "evening")
    flight.fly(1)
    assert flight.stages(started) == [2]


@pytest.mark.parametrize("text", [
    "", "sequence", "sequence 2\n0 ping\n", "sequence 0\n", "sequence 1\nping\n", "sequence 1\n-1 ping\n",
    "sequence 1\nnan ping\n", "sequence 1\n0 launch\n", "sequence 1\n0 data.erase acme\n",
    "sequence 1\n0 sequence.start b\n", "sequence 1\n0 schedule.insert 1 9 ping\n", "sequence 1\n0 ping\x01\n",
])
def test_a_file_that_is_no_sequence_is_refused_whatever_its_hash(text: str) -> None:
    with pytest.raises(LinkError):
        open_sequence(text)
    standing, turn = Standing(), Turn([], [], [])
    standing.expect("a", hashlib.sha256(text.encode()).hexdigest(), 5, 1)
    standing.load((FileRead("a", text, ""),), lambda _station, _verb: True, turn)
    assert not standing.orders.sequences
    assert [verification.stage for verification in turn.verifications] == [8]


def test_a_sequence_says_nothing_that_its_station_may_not() -> None:
    standing, turn = Standing(), Turn([], [], [])
    standing.expect("a", hashlib.sha256(GOOD.encode()).hexdigest(), 5, 2)
    standing.load((FileRead("a", GOOD, ""),), lambda station, verb: (station, verb) == (2, "hk.report"), turn)
    assert not standing.orders.sequences
    (verification,) = turn.verifications
    assert (verification.stage, verification.text) == (8, "the station may not send mode")


@pytest.mark.parametrize("words", ["arm 0123456789abcdef", "key.roll 1", "key.confirm 1", "data.erase acme",
                                   f"sequence.load a {'0' * 64}"])
def test_what_depends_on_who_sends_it_is_not_kept(words: str) -> None:
    with pytest.raises(LinkError, match="by hand"):
        request_of(words)


def test_a_stored_sequence_that_does_not_match_its_hash_never_runs() -> None:
    stored = StoredSequence("a", hashlib.sha256(GOOD.encode()).hexdigest(), GOOD.replace("COMPUTE", "SAFE"))
    standing, turn = Standing([OrderChange(OrderTable.SEQUENCES, "a", stored)]), Turn([], [], [])
    standing.start("a", 0.0, 1, turn)
    assert not standing.running
    assert [verification.stage for verification in turn.verifications] == [8]
    assert standing.due(100.0, 100.0, 5.0, turn) == []


# --- time ------------------------------------------------------------------------------------------------


def test_on_board_time_is_set_within_bounds_and_kept(launch: Launch, tmp_path: Path) -> None:
    first = launch()
    first.fly(2)
    sky = first.supervisor._forecaster.sky(3.0)
    first.command("schedule.insert", 1, START_S + 2000.0, "mode STANDBY")
    first.command("schedule.insert", 2, START_S + 1004.0, "hk.report 4")
    too_far = first.command("time.set", START_S + 86_500.0)
    first.command("time.set", START_S + 1000.0)
    first.command("time.adjust", 0.5)
    first.command("time.report")
    first.fly(1)
    first.command("ping")
    first.fly(1)
    assert first.stages(too_far) == [2]
    assert [args[2] for args in reports(first, "time")] == [997.0, 997.5, 997.5]
    assert {tm.obt_s - START_S for tm in first.heard.packets if tm.obt_s > START_S + 500.0} == {1000.5, 1001.5}
    assert first.supervisor._forecaster.sky(3.0).eclipse_in_s != sky.eclipse_in_s  # the orbit goes with it
    assert [event.args[0] for event in first.heard.named("time_corrected")] == [997.0, 0.5]
    again = launch(first.killed(tmp_path / "again"))
    again.now_s = first.now_s
    again.fly(3)
    assert again.heard.packets[-1].obt_s - START_S == pytest.approx(again.now_s + 997.5)
    assert again.heard.named("stored_command_done") == [
        Event("stored_command_done", ("schedule 2", "hk.report 4"))]


def test_the_time_is_reported_by_itself_at_the_rate_asked_for(flight: Flight) -> None:
    flight.fly(5)
    assert reports(flight, "time") == []
    refused, taken = flight.command("time.rate", 12), flight.command("time.rate", 2)
    flight.fly(13)
    told = [args[1] for args in reports(flight, "time")]
    assert [after - before for before, after in itertools.pairwise(told)] == [4.0] * (len(told) - 1)
    assert len(told) in {3, 4}
    assert (flight.stages(refused), flight.stages(taken)) == ([2], [1, 7])
    flight.command("time.rate", 255)
    flight.fly(10)
    assert len(reports(flight, "time")) == len(told)


def test_time_may_only_be_moved_a_little_while_computing(flight: Flight) -> None:
    flight.to_compute()
    refused, taken = flight.command("time.set", START_S + 100.0), flight.command("time.adjust", -2.0)
    flight.fly(3)
    assert (flight.stages(refused), flight.stages(taken)) == ([2], [1, 7])


# --- the same again --------------------------------------------------------------------------------------


def test_a_flight_with_standing_orders_replays_bit_for_bit(launch: Launch, tmp_path: Path) -> None:
    first = launch()
    first.command("sequence.load", "evening", put(first, "evening", GOOD))
    first.command("param.set", "monitor_period_s", 1.0)
    first.command("monitor.add", 7, "battery_v", 14.0, 16.5, 1, 3)
    first.command("action.add", 1, "monitor_medium", "", 5, "sequence.start evening")
    first.command("action.add", 2, "tick_overrun", "", 5, "time.adjust 1.5")
    first.command("schedule.insert", 1, START_S + 30.0, "hk.report 1")
    first.fly(3)
    first.supervisor.close()
    again = launch(first.killed(tmp_path / "again"))
    again.now_s = first.now_s
    again.command("param.set", "monitor_period_s", 1.0)
    again.fly(2)
    again.board.values["battery_v"] = 13.0
    again.supervisor.note_overrun(again.now_s, 0.6, 0)
    again.fly(40)
    assert len(again.heard.named("stored_command_done")) == 6
    again.supervisor.close()
    for number in (1, 2):
        again_replayed = replay(again.folder / f"boot-000{number}.fswrec")
        assert again_replayed.diverged_s is None
        assert again_replayed.ticks >= 3


# --- written down ----------------------------------------------------------------------------------------

REQUESTS = st.builds(Request, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=30))
NUMBER = st.integers(0, 0xFFFF)
ROWS = st.one_of(
    st.builds(lambda n, t, r: OrderChange(OrderTable.SCHEDULE, n, Scheduled(n, t, r)), NUMBER,
              st.floats(0.0, 4e9), REQUESTS),
    st.builds(lambda n, p, low, high, k, s, e: OrderChange(
        OrderTable.MONITORS, n, MonitorDefinition(n, p, low, high, k, s, e)), NUMBER, st.text(max_size=9),
        st.floats(-1e12, 1e12), st.floats(-1e12, 1e12), NUMBER, st.integers(1, 4), st.booleans()),
    st.builds(lambda n, e, s, k, r, on: OrderChange(OrderTable.ACTIONS, n, Action(n, e, s, k, r, on)), NUMBER,
              st.text(max_size=9), st.text(max_size=9), NUMBER, REQUESTS, st.booleans()),
    st.builds(lambda n, h, t: OrderChange(OrderTable.SEQUENCES, n, StoredSequence(n, h, t)), st.text(max_size=9),
              st.text(max_size=64), st.text(alphabet=st.characters(max_codepoint=126, min_codepoint=32))),
    st.builds(lambda k, v: OrderChange(OrderTable.SWITCHES, k, Switch(v)), st.text(max_size=9), st.floats(-1e6, 1e6)),
    st.builds(lambda t, n: OrderChange(t, n, None), st.sampled_from(OrderTable), NUMBER),
)


@given(ROWS)
def test_a_change_is_read_as_it_was_written(change: OrderChange) -> None:
    assert orders.from_json(json.loads(orders.encode(change))) == change


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=12))
def test_reading_anything_as_a_change_gives_one_or_a_known_error(content: object) -> None:
    try:
        change = orders.from_json(content)  # type: ignore[arg-type] # anything is the point
    except (ValueError, LookupError, TypeError):
        return
    assert isinstance(change, OrderChange)


def test_the_order_book_brings_back_what_was_recorded(tmp_path: Path) -> None:
    book = OrderBook(Store(tmp_path / "orders"))
    for i in range(40):
        book.record([OrderChange(OrderTable.SCHEDULE, i, Scheduled(i, float(i), PING)),
                     OrderChange(OrderTable.SWITCHES, "schedule", Switch(float(i % 2)))])
    book.record([OrderChange(OrderTable.SCHEDULE, i, None) for i in range(0, 40, 2)])
    kept = list(book.orders.changes())
    book.close()
    again = OrderBook(Store(tmp_path / "orders"))
    assert list(again.orders.changes()) == kept
    assert sorted(again.orders.schedule) == list(range(1, 40, 2))
    again.close()


def test_an_order_book_of_something_else_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "orders")
    store.append(1, b"[9,1,null]")
    store.close()
    with pytest.raises(StoreError, match="not readable"):
        OrderBook(Store(tmp_path / "orders"))


def test_the_longest_sequence_fits_a_record_of_the_journal(tmp_path: Path) -> None:
    text = '"' * SEQUENCE_OCTETS_MAX
    book = OrderBook(Store(tmp_path / "orders"))
    book.record([OrderChange(OrderTable.SEQUENCES, "n" * 48, StoredSequence("n" * 48, "f" * 64, text))])
    book.close()


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xe9")
    assert read_upload(tmp_path, "latin").problem == "file latin is not ASCII text"
    assert "Is a directory" in read_upload(tmp_path.parent, tmp_path.name).problem


# --- parsers against anything ----------------------------------------------------------------------------


WORDS = ["sequence", "1", "2", "0", "1e3", "ping", "mode", "SAFE", " ", "\n", "#", "'", "hk.report"]


@given(st.text(max_size=200) | st.lists(st.sampled_from(WORDS), max_size=20).map(" ".join))
def test_any_text_is_a_sequence_or_a_link_error(text: str) -> None:
    try:
        steps = open_sequence(text)
    except LinkError:
        return
    assert len(steps) == len(parse_sequence(text)) > 0
    assert all(storing_problem(request) is None for _, request in steps)


@given(st.text(max_size=80))
def test_any_words_are_a_request_or_a_link_error(words: str) -> None:
    try:
        request = request_of(words)
    except LinkError:
        return
    assert request_of(words_of(request)) == request


@given(REQUESTS)
def test_any_request_has_words(request_: Request) -> None:
    words = words_of(request_)
    if storing_problem(request_) is None:
        assert request_of(words) == request_


@pytest.mark.parametrize("row", REPORTS, ids=lambda row: row.name)
@given(data=st.data())
def test_every_report_comes_back_and_anything_else_is_a_link_error(row: ReportRow, data: st.DataObject) -> None:
    octets = data.draw(st.binary(max_size=120))
    try:
        found, args = unpack_report(row.service, row.subservice, octets)
    except LinkError:
        return
    assert found is row
    assert pack_report(row, args) == octets or "nan" in map(str, args)

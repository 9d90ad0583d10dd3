"""The console: its picture of an archive, its pages as text, its keys through the pilot."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_satellite import APID, SCID, TinySatellite, Wire, add_report

from flightsw.dictionary.commands import COMMANDS
from flightsw.dictionary.events import BY_NAME
from flightsw.dictionary.parameters import PARAMETERS
from flightsw.dictionary.telemetry import BY_SID
from flightsw.state import AHEAD_POINTS, Event
from ground.archive import Archive
from ground.console import palette, views
from ground.console.model import Model, open_jobs
from ground.console.views import Status
from ground.passes import load as load_sky
from ground.station import Station

textual = pytest.importorskip("textual", reason="the console needs the extra 'console'")

MISSION = Path(__file__).resolve().parents[2] / "missions" / "iss_like.toml"
START_S = 1_774_008_000.0  # the mission's own start: its elements are of that day


class Pass:
    """A tiny satellite on a wire, its station and archive, and a model that follows it; mission time is `t_s`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.archive = Archive(path)
        self.wire = Wire()
        self.satellite = TinySatellite()
        self.station = Station(self.wire, self.archive, scid=SCID, apid=APID, epoch_s=START_S)
        self.reader = Archive(path, read_only=True)
        self.model = Model(self.reader, load_sky(MISSION))
        self.t_s = 0.0

    def close(self) -> None:
        self.reader.close()
        self.archive.close()

    def report(self, *sids: int, t_s: float) -> None:
        self.t_s = t_s
        for sid in sids:
            self.satellite.reporter.housekeeping(sid, self.satellite.pool, START_S + t_s)
        self.exchange()

    def event(self, name: str, *args: float | str) -> None:
        self.satellite.reporter.event(Event(name, args), START_S + self.t_s)
        self.exchange()

    def exchange(self) -> None:
        self.satellite.uplink(self.wire.take_sent(), START_S + self.t_s)
        self.wire.waiting += self.satellite.downlink()
        self.station.poll(self.t_s)
        self.model.refresh(START_S + self.t_s)


@pytest.fixture
def one(tmp_path: Path):
    made = Pass(tmp_path / "pass.sqlite")
    yield made
    made.close()


def text(lines: list[views.Line]) -> str:
    return "\n".join("".join(part for part, _ in line) for line in lines)


def ahead(satellite: TinySatellite, made_s: float) -> None:
    satellite.set(ahead_made_s=made_s, ahead_step_s=300.0,
                  **{f"ahead{i}_frac": 0.9 - i / 200 for i in range(AHEAD_POINTS)},
                  **{f"worst{i}_frac": 0.88 - i / 180 for i in range(AHEAD_POINTS)})


# -- model


def test_model_shows_only_what_is_in_the_archive_and_all_of_it(one: Pass) -> None:
    for i in range(50):
        one.satellite.set(plate_c=float(i))
        one.report(1, 2, t_s=10.0 * i)
    assert one.model.packets == one.station.packets == 100
    assert one.model.value("plate_c") == (49.0, False)
    assert one.model.trend("plate_c").values.tolist() == list(range(50))
    assert one.model.value("array_c") == (None, False)
    assert one.model.value("jobs_queued") == (None, False)
    one.model.refresh(START_S + 10_000.0)
    assert one.model.value("plate_c") == (49.0, True)
    late = Model(one.reader)
    late.start(START_S + 10_000.0)
    assert late.value("plate_c") == (49.0, True)
    assert late.trend("plate_c").values.tolist() == list(range(50))


def test_model_as_of_a_moment_knows_nothing_later(one: Pass) -> None:
    one.report(1, t_s=10.0)
    one.station.send("ping", (), 11.0)
    one.t_s = 12.0
    one.exchange()
    one.satellite.set(mode=85)
    one.report(1, t_s=20.0)
    one.event("job_failed", 7, "no such program")
    past = Model(one.reader)
    past.start(START_S + 11.5)
    assert past.value("mode") == (15, False)
    assert [(c.verb, c.state, c.stages) for c in past.commands] == [("ping", "sent", ())]
    assert not past.events
    past.refresh(START_S + 12.0)
    assert past.commands[0].state == "completed"
    past.refresh(START_S + 30.0)
    assert past.value("mode") == (85, False)
    assert [event.name for event in past.events] == ["job_failed"]


def test_job_board_follows_events_and_says_why(one: Pass) -> None:
    one.report(1, t_s=5.0)
    one.station.send("job.submit", (5, "cloud_mask", 20.0, 0.9, 3.0, 3600.0, 0), 5.0)
    one.event("job_queued", 5, 20.0, 3.0, 3600.0, 100.0)
    one.event("job_promised", 5, 3600.0, 1.0, 1.0)
    one.event("job_started", 5, 2)
    one.event("job_promised", 6, 1800.0, 1.0, 1.0)
    one.event("job_refused", 7, "ENERGY", "BATTERY_FLOOR_FRAC", 900.0, "T+7200 s")
    assert [(job.job_id, job.state) for job in open_jobs(list(one.model.jobs.values()))] == [
        (5, "running"), (6, "promised"), (7, "refused")]
    board = text(views.jobs(one.model, 140))
    assert "1 running  1 promised  1 refused" in board
    assert "running            5 cloud_mask       by 13:00:00 node 2" in board
    assert "ENERGY; binding BATTERY_FLOOR_FRAC at T+900 s; deadline that would do: T+7200 s" in board


def test_a_submission_that_was_rejected_is_on_the_board_and_never_shown_as_accepted(one: Pass) -> None:
    one.report(1, t_s=5.0)
    sent = one.station.send("job.submit", (5, "cloud_mask", 20.0, 0.9, 3.0, 3600.0, 0), 6.0)
    one.wire.take_sent()
    for received_s in (7.0, 9.0):  # said twice
        one.archive.add_packet(START_S + received_s, START_S + received_s, APID, 1, 2, 0, b"")
        one.archive.add_verification(sent.command_id, sent.request_id, 2, 3, "needs mode COMPUTE", START_S)
        one.archive.flush()
    past = Model(one.reader)
    past.start(START_S + 8.0)  # between the two
    assert past.commands[0].state == "rejected"
    board = text(views.jobs(past, 120))
    assert "1 rejected" in board
    assert "rejected           5 cloud_mask       at 12:00:07" in board
    assert "needs mode COMPUTE" in board


def test_long_commands_show_their_stages_on_a_narrow_screen(one: Pass) -> None:
    one.report(1, t_s=5.0)
    one.station.send("job.submit", (5, "a_long_name_of_a_job", 20.0, 0.9, 3.0, 3600.0, 0), 6.0)
    one.t_s = 7.0
    one.exchange()
    page = text(views.commands(one.model, 80))
    assert page.splitlines()[0].endswith(" NONE")
    assert "sent → REJECTED 1.0 s" in page.splitlines()[1]


def test_mission_times_are_told_in_utc(one: Pass) -> None:
    one.report(1, t_s=5.0)
    assert views.in_utc(one.model, "deadline T+3600 s, T+x") == "deadline T+3600 s (2026-03-20T13:00:00Z), T+x"


# -- pages


def test_header_tells_mode_signal_and_the_pass(one: Pass) -> None:
    one.model.refresh(START_S)
    assert "unknown" in text(views.header(one.model, Status("dev"), 80))
    assert "no signal" in text(views.header(one.model, Status("dev"), 80))
    one.report(1, t_s=4400.0)  # before the pass over Santiago at 13:14:27
    head = text(views.header(one.model, Status("dev", bad=2), 80))
    assert " SAFE  2026-03-20 13:13:20Z  heard 0.0 s ago  packets 1  bad 2  dev" in head
    assert "AOS Santiago in 00:01:0" in head
    assert "14° high" in head
    one.report(1, t_s=4600.0)
    head = text(views.header(one.model, Status("dev"), 80))
    assert "PASS Santiago  LOS in 04:2" in head
    assert "margin +" in head
    one.model.refresh(START_S + 4700.0)
    head = text(views.header(one.model, Status("dev", "port is gone"), 120))
    assert "SAFE?" in head
    assert "heard 100 s ago" in head or "heard 2 min ago" in head
    assert "port is gone" in head
    wrong = "what is wrong can be read at any width"
    narrow = views.header(one.model, Status("dev", f"{wrong}; {wrong}; {wrong}"), 60)
    assert " ".join("".join(t for t, _ in line) for line in narrow[2:]).split() == f"{wrong}; {wrong}; {wrong}".split()


def test_a_change_of_mode_shows_before_the_next_housekeeping(one: Pass) -> None:
    one.report(1, t_s=10.0)
    one.t_s = 12.0
    one.event("mode_changed", "SAFE", "STANDBY", "telecommand")
    assert text(views.header(one.model, Status("dev"), 80)).startswith(" STANDBY  2026")
    one.satellite.set(mode=15)
    one.report(1, t_s=20.0)  # newer: the mode is what the satellite reports
    assert text(views.header(one.model, Status("dev"), 80)).startswith(" SAFE  2026")
    one.t_s = 22.0
    one.event("mode_changed", "SAFE", "STANDBY", "telecommand")
    one.model.refresh(START_S + 200.0)
    assert text(views.header(one.model, Status("dev"), 80)).startswith(" STANDBY?  2026")


def test_values_are_marked_by_limit_and_age(one: Pass) -> None:
    one.satellite.set(die0_c=90.0, die1_c=78.0, plate_c=30.0)
    one.report(1, 2, 3, t_s=1.0)
    page = text(views.values(one.model, 80))
    assert "! die0_c 90.0 > die_max_c 80 degC" in page
    assert "90.0 degC!" in page
    assert "78.0 degC~" in page
    assert "array_c                        missing" in page
    assert "jobs not received yet" in page
    assert max(map(len, page.splitlines())) <= 80
    one.model.refresh(START_S + 100.0)
    page = text(views.values(one.model, 80))
    assert "STALE" in page
    assert "90.0 degC?" in page
    assert "die_max_c" not in page


@pytest.mark.parametrize("size", [(80, 20), (120, 40), (160, 46)])
def test_every_page_fits_its_screen(one: Pass, size: tuple[int, int]) -> None:
    ahead(one.satellite, 0.0)
    for i in range(20):
        one.report(1, 2, 3, 5, 9, t_s=10.0 * i)
    one.event("job_refused", 7, "ENERGY", "BATTERY_FLOOR_FRAC", 900.0, "T+7200 s")
    width, rows = size
    for made in (views.overview(one.model, width, rows), views.plots(one.model, width, rows),
                 views.values(one.model, width), views.jobs(one.model, width), views.passes(one.model, width)):
        lines = text(made).splitlines()
        assert max(map(len, lines)) <= width
    assert len(views.overview(one.model, width, rows)) <= rows


def test_plot_shows_forecast_after_now_and_shades_eclipses(one: Pass) -> None:
    ahead(one.satellite, 3000.0)
    for i in range(100):
        one.satellite.set(battery_soc_frac=0.9 + 0.001 * (i % 10))
        one.report(1, t_s=2000.0 + 10.0 * i)
    before = text(views.charge_plot(one.model, 100, 12, one.model.obt_s))
    assert "planned" not in before
    one.report(9, t_s=3000.0)
    lines = views.charge_plot(one.model, 100, 12, one.model.obt_s)
    after = text(lines)
    assert "planned" in after
    now = after.splitlines()[-1].index("now") + 1
    drawn = [line[now + 2:] for line in after.splitlines()[1:-1]]
    assert any(char not in " ┊" for line in drawn for char in line)
    assert any("on grey19" in style for line in lines for _, style in line)  # eclipse of 12:28 to 13:05
    assert one.model.ahead is not None
    assert one.model.ahead.made_s == pytest.approx(START_S + 3000.0)


def test_missing_values_are_no_line_and_no_number(one: Pass) -> None:
    one.satellite.set(battery_soc_frac=math.nan)
    one.report(1, t_s=1.0)
    assert "missing" in text(views.vitals(one.model, 34, 20))
    assert not np.isfinite(one.model.trend("battery_soc_frac").values).any()
    plot = text(views.charge_plot(one.model, 60, 8, one.model.obt_s))
    assert all(not 0x2801 <= ord(char) <= 0x28FF for char in plot)


def test_what_the_satellite_wrote_steers_no_terminal(one: Pass) -> None:
    one.report(1, t_s=1.0)
    one.event("job_failed", 3, "\x1b[2J\x07 bad")
    page = text([views.event_line(event, 80) for event in one.model.events]) + text(views.jobs(one.model, 80))
    assert "?[2J? bad" in page
    assert page.replace("\n", "").isprintable()


# -- palette


@pytest.mark.parametrize("verb", sorted(COMMANDS))
def test_palette_completes_every_verb_and_hints_every_argument(verb: str) -> None:
    assert verb in [choice.word for choice in palette.read(verb[:3]).choices]
    row = COMMANDS[verb]
    line = verb
    for arg in row.args:
        reading = palette.read(line + " ")
        assert arg.description in reading.hint
        number = max(arg.low, 50.0) if arg.name == "value" else arg.low
        line += " " + (next(iter(arg.enum)).name if arg.enum else "die_max_c" if arg.name == "parameter"
                       else '"two words"' if arg.kind == "text" else '"mode SAFE"' if arg.kind == "request"
                       else f"{number:g}")
    reading = palette.read(line)
    assert reading.problem == ""
    assert reading.row is row
    assert reading.values is not None
    assert len(reading.values) == len(row.args)


@pytest.mark.parametrize(("line", "problem"), [
    ("dance", "no telecommand 'dance'"), ("mode FAST", "mode = 'FAST' is not a whole number"),
    ("hk.period 1 4000", "period = 4000 s outside 0..3600 s"), ("ping 1", "ping takes 0 arguments"),
    ("param.set die_max_c 900", "die_max_c = 900 outside 40..100 degC"), ("param.set none 1", "no parameter 'none'"),
    ("hk.period 1", "still to come: PERIOD"),
])
def test_palette_says_what_is_wrong_before_it_is_sent(line: str, problem: str) -> None:
    reading = palette.read(line)
    assert problem in reading.problem
    assert reading.values is None


def test_palette_takes_orders_for_files() -> None:
    assert [choice.word for choice in palette.read("uplo").choices] == ["upload"]
    assert palette.read("upload ").order is None
    assert palette.read('upload "/tmp/my job.job"').order == ("upload", "/tmp/my job.job")
    assert palette.read("download result.tar").order == ("download", "result.tar")
    assert "takes one NAME" in palette.read("download a b").problem


def test_palette_completes_files(tmp_path: Path) -> None:
    def files(verb: str, word: str) -> list[palette.Choice]:
        return [palette.Choice(name, verb) for name in ("jobs/", "job.job") if name.startswith(word)]

    reading = palette.read("upload jo", files)
    assert [choice.word for choice in reading.choices] == ["jobs/", "job.job"]
    assert palette.complete("upload jo", reading.choices[0]) == "upload jobs/"
    assert palette.complete("upload jo", reading.choices[1]) == "upload job.job "


def test_files_show_progress_and_rate() -> None:
    one = {"transfer": "1:7", "direction": "up", "name": "cloud_mask.job", "size": 1000, "done": 500,
           "rate_octets_s": 2500.0, "state": "active", "condition": "no_error", "path": ""}
    page = text(views.files([one, {**one, "state": "failed", "condition": "file_checksum", "size": None}], 120))
    assert "1:7 ↑ cloud_mask.job             ██████████░░░░░░░░░░  50%      1,000   2.5 kB/s active" in page
    assert "failed: file_checksum" in page
    assert "no transfers" in text(views.files([], 80))


def test_palette_completion_takes_bounds_and_names_from_the_dictionary() -> None:
    reading = palette.read("param.set die")
    assert [choice.word for choice in reading.choices] == ["die_max_c"]
    assert "40..100 degC" in reading.choices[0].meaning
    assert palette.complete("param.set die", reading.choices[0]) == "param.set die_max_c "
    assert {choice.word for choice in palette.read("param.report ").choices} == {row.name for row in PARAMETERS}
    assert [choice.word for choice in palette.read("mode s").choices] == ["SAFE", "STANDBY"]
    assert palette.words_of('job "two words" x') == ["job", "two words", "x"]


# -- the application, through the pilot


def piloted(one: Pass, size: tuple[int, int], act: Callable[..., Awaitable[None]], **more: object) -> object:
    from ground.console.app import Console

    app = Console(one.path, one.model, lambda: START_S + one.t_s, lambda: Status("dev"), **more)  # type: ignore[arg-type]

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await act(app, pilot)

    asyncio.run(run())
    return app


def screen(app: object) -> str:
    """What the base screen shows, line by line."""
    from ground.console.app import Lines

    return "\n".join(text(app.screen_stack[0].query_one(f"#{name}", Lines)._lines)  # type: ignore[attr-defined]
                     for name in ("head", "tabs", "body", "foot"))


def test_keys_reach_every_page_and_help(one: Pass) -> None:
    one.report(1, 2, 3, 5, t_s=10.0)
    one.event("job_refused", 7, "ENERGY", "BATTERY_FLOOR_FRAC", 900.0, "T+7200 s")
    seen = []

    async def act(app, pilot) -> None:
        for key, expected in (("1", "─ now ─"), ("2", "─ power (1) ─"), ("3", "─ temperature"), ("4", "1 refused"),
                              ("5", "LOW    Job 7 refused"), ("6", "no command sent yet"), ("7", "Weilheim"),
                              ("8", "no transfers")):
            await pilot.press(key)
            await pilot.pause()
            assert expected in screen(app)
            seen.append(key)
        await pilot.press("tab")
        await pilot.pause()
        assert "─ now ─" in screen(app)
        await pilot.press("question_mark")
        await pilot.pause()
        assert type(app.screen).__name__ == "Help"
        await pilot.press("escape")
        await pilot.press("4")
        await pilot.pause()
        assert "deadline that would do: T+7200 s" in screen(app)  # the chosen job's whole text
        await pilot.press("q")

    piloted(one, (80, 24), act)
    assert len(seen) == 8


def test_acknowledgement_persists_and_is_seen_by_other_consoles(one: Pass) -> None:
    one.report(1, t_s=10.0)
    one.event("sensor_lost", "die0_c", "stale")
    one.event("sighted")

    async def act(app, pilot) -> None:
        await pilot.press("5")
        await pilot.pause()
        assert "1 to acknowledge" in screen(app)
        assert "* 12:00:10 MEDIUM Sensor die0_c" in screen(app)
        await pilot.press("s", "s")
        await pilot.pause()
        assert "is known again" not in screen(app)
        await pilot.press("a")
        await pilot.pause()
        assert "✓ 12:00:10 MEDIUM Sensor die0_c" in screen(app)
        assert "to acknowledge" not in screen(app)

    piloted(one, (100, 24), act)
    assert [e.acknowledged_s for e in one.archive.events()] == [START_S + 10.0, None]
    other = Model(one.reader)
    other.start(START_S + 20.0)
    assert [e.acknowledged_s is None for e in other.events] == [False, True]


def test_only_lines_that_changed_are_painted(one: Pass) -> None:
    from ground.console.app import Lines

    one.report(1, 2, 3, t_s=10.0)

    async def act(app, pilot) -> None:
        await pilot.press("2")
        await pilot.pause()
        body = app.screen_stack[0].query_one("#body", Lines)
        body.painted = 0
        one.satellite.set(plate_c=41.5)
        one.report(2, t_s=10.0)
        app.tick()
        assert 1 <= body.painted <= 3
        app.tick()
        assert body.painted <= 3

    piloted(one, (80, 24), act)


def test_hazardous_command_is_armed_then_fired_and_escape_disarms(one: Pass) -> None:
    sent = []
    one.report(1, t_s=10.0)

    async def act(app, pilot) -> None:
        answer = ["completed", ""]

        def send(row, values, heard) -> None:
            sent.append(row.verb)
            if heard is not None:
                heard("sent", "")
                heard(*answer)

        async def type_in(line: str) -> None:
            app.screen.query_one("#line").value = line
            await pilot.press("enter")
            await pilot.pause()

        app.send = send
        await pilot.press("colon")
        await type_in("data.erase acme")
        assert sent == ["arm"]
        assert "ARMED: data.erase acme" in text(app.screen.query_one("#choices")._lines)
        await type_in("fire")
        assert sent == ["arm"]
        await type_in("FIRE")
        assert sent == ["arm", "data.erase"]
        await pilot.press("colon")
        await type_in("data.erase acme")
        await pilot.press("escape")
        assert type(app.screen).__name__ != "Palette"
        answer[:] = ["rejected", "not its authority"]
        await pilot.press("colon")
        await type_in("data.erase acme")
        assert "not armed: rejected: not its authority" in text(app.screen.query_one("#choices")._lines)
        await type_in("FIRE")
        assert sent == ["arm", "data.erase", "arm", "arm"]
        await pilot.press("escape")
        answer[:] = ["completed", ""]
        await pilot.press("colon")
        await type_in("data.erase acme")
        one.t_s += 61.0  # for longer than the satellite stays armed
        app.screen._tick()
        await pilot.pause()
        assert type(app.screen).__name__ != "Palette"
        await pilot.press("colon", *"hk.rep", "tab", "2", "enter")
        await pilot.pause()
        assert sent[-1] == "hk.report"

    piloted(one, (80, 24), act)


def test_keys_that_come_all_at_once_are_taken_in_order(one: Pass) -> None:
    from textual.events import Key

    sent = []
    one.report(1, t_s=10.0)

    async def act(app, pilot) -> None:
        app.send = lambda row, values, heard: sent.append((row.verb, *values))
        for key, char in (("colon", ":"), *((c, c) for c in "ping"), ("enter", "\r")):
            app.post_message(Key(key, char))
        await pilot.pause(0.2)
        assert sent == [("ping",)]
        await pilot.press("colon", *"hk.report 19", "backspace", "space", "backspace", "left", "left", "end", "enter")
        await pilot.pause()
        assert sent[1:] == [("hk.report", 1)]

    piloted(one, (80, 24), act)


def test_replay_goes_over_the_same_console_and_sends_nothing(one: Pass) -> None:
    from ground.cli.console import ReplayClock

    real = [0.0]
    clock = ReplayClock(START_S, START_S + 100.0, 10.0, lambda: real[0])
    real[0] = 3.0
    assert clock.now_s() == START_S + 30.0
    clock.steer(" ")
    real[0] = 5.0
    assert (clock.rate, clock.now_s()) == (0.0, START_S + 30.0)
    clock.steer(" ")
    clock.steer("+")
    assert clock.rate == 30.0
    clock.steer("]")
    assert clock.now_s() == START_S + 90.0
    clock.steer("-")
    clock.steer("[")
    assert (clock.rate, clock.now_s(), clock.is_over) == (10.0, START_S + 30.0, False)
    real[0] = 500.0
    assert (clock.now_s(), clock.is_over) == (START_S + 100.0, True)
    clock.steer("[")
    assert clock.now_s() == START_S + 40.0


def test_archive_that_grows_by_blocks_is_followed_without_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ground.archive.SEAL_PACKETS", 50)
    size = len(BY_SID[2].points)
    with Archive(tmp_path / "a.sqlite") as archive, Archive(tmp_path / "a.sqlite", read_only=True) as reader:
        model = Model(reader)
        for i in range(1000):
            add_report(archive, float(i), 2, [float(i)] * size)
            archive.add_packet(1000.0 + i, float(i), APID, 5, 1, 0, b"")
            archive.add_event(float(i), BY_NAME["sighted"], (), "")
            archive.tend(float(i))
            if i % 130 == 129:
                model.refresh(1000.0 + i)
        model.refresh(5000.0)
        assert model.packets == 2000
        assert model.trend("plate_c").values.tolist() == list(range(1000))

"""The console: pages of `views` on a terminal, keys, the command palette. Everything works from the keyboard.

Owns what is on the screen and nothing else: it follows an archive through `Model`, five times a second at most, and
repaints only lines that changed. Commands go through the door of whoever owns the port, in a thread, and come back
through the archive. It is given its clock.
"""

from __future__ import annotations

import functools
import math
import textwrap
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.events import Key, Resize
from textual.geometry import Region
from textual.screen import ModalScreen
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input

from flightsw.dictionary.commands import COMMANDS, Command, Value, digest_of, pack_arguments
from flightsw.dictionary.events import Severity
from flightsw.errors import FlightError
from ground.archive import Archive, EventEntry
from ground.console import palette, views
from ground.console.model import Job, Model, open_jobs
from ground.console.palette import Choice
from ground.console.views import Line, Status, time_text
from ground.relay import Progress, ask, send_through
from ground.station import CommandState
from ground.watch import command_text, utc_text

REFRESH_S = 0.2
_SAID_TICKS = 100  # 20 s
_PAGES = ("overview", "values", "plots", "jobs", "events", "commands", "passes", "files")
_PARTS = ("head", "tabs", "body", "foot")
_PLOT_S = 2.0  # between drawings of a plot
_TIMEOUT_S = 30.0
_HELP = """\
 1..8            pages         Tab, Shift+Tab   next page, the one before
 Up Down         scroll; choose a job or an event    PgUp PgDn Home End
 :               command: type, Tab completes, Enter sends, Esc leaves;
                 Up on an empty line brings the last one back.
                 A hazardous one is armed on board by Enter, sent by FIRE.
 :upload FILE    send a file; a signed bundle (NAME.job) becomes a job
 :download NAME  get a file; file.list has the satellite name them
 s               events: least severity shown
 a   A           events: acknowledge the chosen one, all shown
 Space + -       replay: pause, faster, slower    ] [  a minute on, back
 ?   q           this help; leave (the session goes with it)

 ! limit crossed   ~ near a limit   ? stale   * not acknowledged
 Plots: shaded is eclipse; dotted, after now, the satellite's forecast.
 What is missing is written so; it is never a number."""


Sender = Callable[[Command, tuple[Value, ...], Callable[[str, str], object] | None], None]


@functools.lru_cache(4096)
def _style(text: str) -> Style:
    return Style.parse(text)


class Lines(Widget):
    """Lines of styled text; a line is repainted when it is another one than before."""

    def __init__(self, *, id: str) -> None:  # noqa: A002 # Textual's own name
        super().__init__(id=id)
        self._lines: list[Line] = []
        self.painted = 0  # lines repainted since the start

    def show(self, lines: list[Line]) -> None:
        """Show lines from the top."""
        before, self._lines = self._lines, lines
        width = self.size.width
        for y in range(min(self.size.height, max(len(before), len(lines)))):
            if (before[y] if y < len(before) else None) != (lines[y] if y < len(lines) else None):
                self.painted += 1
                self.refresh(Region(0, y, width, 1))

    def render_line(self, y: int) -> Strip:
        """See `Widget`."""
        base = self.rich_style
        line = self._lines[y] if y < len(self._lines) else []
        strip = Strip([Segment(text, base + _style(style)) for text, style in views.cut(line, self.size.width)])
        return strip.extend_cell_length(self.size.width, base)


class Help(ModalScreen[None]):
    """The keys."""

    BINDINGS: ClassVar = [Binding("escape,question_mark,q,enter", "dismiss", "close")]

    def compose(self) -> ComposeResult:
        """See `Screen`."""
        yield Lines(id="help")

    def on_resize(self, _: Resize) -> None:
        """Show once the size is known."""
        self.call_after_refresh(lambda: self.query_one("#help", Lines).show(
            [[("keys", "bold cyan")], *([(line, "")] for line in _HELP.splitlines())]))


class CommandLine(Input):
    """The palette's line. Its keys are taken in the order of typing: a binding would overtake the letters before it."""

    def __init__(self, keys: dict[str, Callable[[], object]]) -> None:
        super().__init__(placeholder="telecommand", id="line", select_on_focus=False)
        self._line_keys: dict[str, Callable[[], object]] = {
            **keys, "enter": lambda: self.post_message(Input.Submitted(self, self.value))}

    def on_key(self, event: Key) -> None:
        """Complete, choose, send or leave."""
        if event.key in self._line_keys:
            self.take(event)

    def take(self, event: Key) -> None:
        """Take a key, also one that was typed before the line was there."""
        action = self._line_keys.get(event.key)
        if action is not None:
            action()
        elif event.character and event.is_printable:
            self.insert_text_at_cursor(event.character)
        else:
            return
        event.stop()
        event.prevent_default()


class Palette(ModalScreen[None]):
    """Type a telecommand: choices, bounds and problems as it grows. A hazardous one is armed on board by the first
    Enter, and sent by the word FIRE once the satellite has said that it is armed.
    """

    def __init__(self, send: Sender, order: Callable[[str, str], None], files: Callable[[str, str], list[Choice]],
                 now: Callable[[], float], armed_s: float, history: list[str]) -> None:
        """`files` gives what a verb's word may become; `armed_s` is how long the satellite stays armed."""
        super().__init__()
        self._send = send
        self._order = order
        self._files = files
        self._now = now
        self._armed_s = armed_s
        self._history = history
        self._chosen = 0
        self._hazard: tuple[Command, tuple[Value, ...]] | None = None
        self._armed_until_s = -math.inf
        self._refused = ""

    def compose(self) -> ComposeResult:
        """See `Screen`."""
        with Vertical(id="palette"):
            yield CommandLine({"escape": self.dismiss, "tab": self._complete, "down": lambda: self._move(1),
                               "up": lambda: self._move(-1)})
            yield Lines(id="choices")

    def on_mount(self) -> None:
        """See `Screen`."""
        self.set_interval(1.0, self._tick)
        self.query_one(Input).focus()
        self.call_after_refresh(self._show)

    def on_key(self, event: Key) -> None:
        """Keys that were typed before the line had the focus, as a slow connection brings them: all at once."""
        self.query_one(CommandLine).take(event)

    def on_resize(self, _: Resize) -> None:
        """See `Screen`."""
        self.call_after_refresh(self._show)

    def on_input_changed(self, _: Input.Changed) -> None:
        """Read the line again."""
        self._chosen = 0
        self._show()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Send, arm or fire."""
        if self._hazard is not None:
            if event.value.strip() == "FIRE" and self._now() < self._armed_until_s:
                self._finish(*self._hazard)
            return
        reading = self._read(event.value.rstrip())
        if reading.order is not None:
            self._history.append(event.value.rstrip())
            self._order(*reading.order)
            self.dismiss()
            return
        if reading.row is None or reading.values is None:
            if reading.choices:
                self._complete()
            return
        if reading.row.hazardous:
            row, values = self._hazard = (reading.row, reading.values)
            line = self.query_one(Input)
            line.value = ""
            line.placeholder = "FIRE"
            digest = digest_of(row.service, row.subservice, pack_arguments(row, values))
            self._send(COMMANDS["arm"], (digest,), self._hear_arming)
            self._show()
            return
        self._finish(reading.row, reading.values)

    def _read(self, line: str) -> palette.Reading:
        return palette.read(line, self._files)

    def _complete(self) -> None:
        """Take the choice that is marked."""
        line = self.query_one(Input)
        reading = self._read(line.value)
        if self._hazard is None and reading.choices:
            line.value = palette.complete(line.value, reading.choices[min(self._chosen, len(reading.choices) - 1)])
            line.cursor_position = len(line.value)

    def _move(self, step: int) -> None:
        """Mark another choice; on an empty line, go through what was sent before."""
        line = self.query_one(Input)
        if step < 0 and self._chosen == 0 and self._history and not line.value:
            line.value = self._history[-1]
            line.cursor_position = len(line.value)
            return
        count = len(self._read(line.value).choices)
        self._chosen = max(0, min(count - 1, self._chosen + step))
        self._show()

    def _finish(self, row: Command, values: tuple[Value, ...]) -> None:
        self._history.append(command_text(row.verb, values))
        self._send(row, values, None)
        self.dismiss()

    def _hear_arming(self, state: str, why: str) -> None:
        if state == CommandState.COMPLETED:
            self._armed_until_s = self._now() + self._armed_s
        elif state not in {CommandState.SENT, CommandState.ACCEPTED}:
            self._refused = f"not armed: {state}{': ' if why else ''}{why}"
        if self.is_mounted:
            self._show()

    def _tick(self) -> None:
        if self._hazard is not None:
            if -math.inf < self._armed_until_s <= self._now():
                self.dismiss()
                return
            self._show()

    def _show(self) -> None:
        lines = self.query_one("#choices", Lines)
        width = lines.size.width
        if self._hazard is not None:
            text, left_s = command_text(self._hazard[0].verb, self._hazard[1]), self._armed_until_s - self._now()
            told = ((f" {self._refused} ", "bold yellow") if self._refused else
                    (f" ARMED: {text} ", "bold white on red") if left_s > 0.0 else
                    (f" arming {text} ... ", "bold black on yellow"))
            lines.show([
                views.cut([told], width), views.cut([(self._hazard[0].description, "bold")], width),
                views.cut([(f"type FIRE and Enter within {left_s:.0f} s; Esc leaves it unfired" if left_s > 0.0
                            else "Esc leaves", "yellow")], width)])
            return
        reading = self._read(self.query_one(Input).value)
        shown: list[Line] = [views.cut([(reading.problem or reading.hint, "bold red" if reading.problem else "cyan")],
                                       width)]
        if reading.problem and reading.hint:
            shown.append(views.cut([(reading.hint, "cyan")], width))
        if reading.row is not None and reading.row.hazardous:
            shown.append([("HAZARDOUS: Enter arms it on board, then FIRE sends it", "bold red")])
        marked = reading.choices[min(self._chosen, len(reading.choices) - 1)].meaning if reading.choices else ""
        whole = textwrap.wrap(marked, width - 2) if len(marked) > width - 20 else []
        room = max(1, lines.size.height - len(shown) - len(whole))
        first = max(0, self._chosen - room + 1)
        for i, choice in enumerate(reading.choices[first : first + room], start=first):
            style = "reverse" if i == self._chosen else ""
            shown.append(views.fill([(f" {choice.word:<18} ", f"bold {style}".strip()), (choice.meaning, style)],
                                    width))
        shown += [[] for _ in range(lines.size.height - len(shown) - len(whole))]
        lines.show([*shown, *([(f" {line}", "cyan")] for line in whole)])


class Console(App[None]):
    """The application; `clock` gives Unix seconds of the picture, `status` what the owner of the port says."""

    ENABLE_COMMAND_PALETTE = False
    TITLE = "ground console"
    CSS = """
    Screen { layout: vertical; background: black; color: ansi_white; }
    #head { height: 2; }
    #tabs { height: 1; }
    #body { height: 1fr; }
    #foot { height: 1; }
    Palette, Help { align: center middle; background: black 60%; }
    #palette { width: 94%; max-width: 110; height: 18; max-height: 90%; border: round cyan; background: black; }
    #line { border: none; height: 1; background: #303030; margin: 0 0 1 0; padding: 0 1; }
    #choices { height: 1fr; padding: 0 1; }
    #help { width: 78; height: 18; max-height: 100%; border: round cyan; background: black; padding: 0 1; }
    """

    def __init__(self, archive: Path, model: Model, clock: Callable[[], float], status: Callable[[], Status],
                 steer: Callable[[str], None] | None = None) -> None:
        super().__init__(ansi_color=False)
        self.model = model
        self._path = archive
        self._clock = clock
        self._status = status
        self._steer = steer
        self._page = 0
        self._tops = dict.fromkeys(_PAGES, 0)
        self._severity = Severity.INFO
        self._said, self._said_ticks = "", 0
        self._history: list[str] = []
        self._transfers: list[dict[str, Any]] = []
        self._drawn: dict[tuple[views.Plot, int, int], tuple[Model, float, list[Line]]] = {}
        self._plots_owed = 0  # to this painting

    def compose(self) -> ComposeResult:
        """See `App`."""
        for name in _PARTS:
            yield Lines(id=name)

    def on_mount(self) -> None:
        """Begin to follow the archive."""
        self.set_interval(REFRESH_S, self.tick)
        self.set_interval(1.0, self._look_at_files)
        self.call_after_refresh(self.tick)

    def on_resize(self, _: Resize) -> None:
        """See `App`."""
        self.call_after_refresh(self.paint)

    def tick(self) -> None:
        """Take in what came, and paint."""
        self._said_ticks -= 1
        if not self._said_ticks:
            self._said = ""
        newest = self.model.events[-1].event_id if self.model.events else 0
        try:
            self.model.refresh(self._clock())
        except FlightError as error:
            self.say(str(error))
        told = [e for e in self.model.events if e.event_id > newest and e.severity >= Severity.LOW]
        if told:
            self.say(f"{time_text(told[-1].obt_s)} {told[-1].text}")
        self.paint()

    def paint(self) -> None:
        """Show the present page; lines that stayed the same are not painted."""
        self._plots_owed = 0
        parts = list(self.screen_stack[0].query(Lines)) if self.screen_stack else []
        if len(parts) != len(_PARTS):  # not there yet, or there no more
            return
        head, tabs, body, foot = parts
        width, rows = body.size
        if not width or not rows:
            return
        try:
            top = views.header(self.model, self._status(), width)
            if head.size.height != len(top):
                head.styles.height = len(top)
            head.show(top)
            tabs.show([self._tabs(width)])
            body.show(self._body(width, rows))
        except FlightError as error:  # for instance elements that are too old to predict a pass from
            self.say(str(error))
        foot.show([self._foot(width)])
        if self._plots_owed > 1:
            self.call_after_refresh(self.paint)

    def say(self, text: str) -> None:
        """Put a word into the last line until the next key, for a while at most."""
        self._said, self._said_ticks = text, _SAID_TICKS

    # -- keys

    def on_key(self, event: Key) -> None:
        """Keys of the pages; a modal screen has its own, and those that were on their way while it came."""
        if len(self.screen_stack) > 1:
            if isinstance(self.screen, Palette):
                self.screen.post_message(Key(event.key, event.character))
            return
        self._said = ""
        act: dict[str, Callable[[], object]] = {
            "q": self.exit, "question_mark": lambda: self.push_screen(Help()),
            "colon": self._command, "s": self._filter, "a": lambda: self._acknowledge(False),
            "A": lambda: self._acknowledge(True),
            "tab": lambda: self._turn(1), "shift+tab": lambda: self._turn(-1),
            "down": lambda: self._scroll(1), "j": lambda: self._scroll(1), "up": lambda: self._scroll(-1),
            "k": lambda: self._scroll(-1), "pagedown": lambda: self._scroll(self.size.height - 5),
            "pageup": lambda: self._scroll(5 - self.size.height), "home": lambda: self._scroll(-10**6),
            "end": lambda: self._scroll(10**6),
        }
        action = act.get(event.key)
        if action is not None:
            action()
        elif event.character and event.character in "12345678":
            self._page = int(event.character) - 1
        elif self._steer is not None and event.character in {" ", "+", "-", "]", "["}:
            self._steer(event.character)
        else:
            return
        event.stop()
        event.prevent_default()
        self.paint()

    def _turn(self, step: int) -> None:
        self._page = (self._page + step) % len(_PAGES)

    def _scroll(self, step: int) -> None:
        self._tops[_PAGES[self._page]] = max(0, self._tops[_PAGES[self._page]] + step)

    def _filter(self) -> None:
        self._severity = Severity(self._severity % 4 + 1)
        self._tops["events"] = 0
        self.say(f"events of at least {self._severity.name}")

    def _events(self) -> list[EventEntry]:
        return [event for event in reversed(self.model.events) if event.severity >= self._severity]

    def _acknowledge(self, every: bool) -> None:
        shown, at = self._events(), self._tops["events"]
        chosen = [e for e in (shown if every else shown[at : at + 1]) if e.acknowledged_s is None]
        if not chosen:
            self.say("nothing to acknowledge")
            return
        at_s = self._clock()
        try:
            with Archive(self._path) as archive:
                archive.acknowledge([event.event_id for event in chosen], at_s)
        except FlightError as error:
            self.say(str(error))
            return
        ids = {event.event_id for event in chosen}
        for i, event in enumerate(self.model.events):
            if event.event_id in ids:
                self.model.events[i] = event._replace(acknowledged_s=at_s)
        self.say(f"acknowledged {len(chosen)}")

    def _command(self) -> None:
        if self._status().mode == "replay":
            self.say("this is a replay: nothing is sent")
            return
        armed_s = self.model.limit("arm_valid_s")
        self.push_screen(Palette(self.send, self.order_file, self._files, self._clock, armed_s, self._history))

    def _files(self, verb: str, word: str) -> list[Choice]:
        """Return files that a word may become: of this machine to send, those that the satellite told of to get."""
        if verb == "download":
            told = {str(e.args[0]): e.text for e in self.model.events if e.name in {"file_listed", "file_received"}}
            return [Choice(name, text) for name, text in told.items() if name.startswith(word) and name != word]
        folder, _, begun = word.rpartition("/")
        try:
            found = sorted((Path(folder or "/") if "/" in word else Path()).expanduser().iterdir())
        except OSError:
            return []
        head = word[: len(word) - len(begun)]
        return [Choice(f"{head}{path.name}{'/' if path.is_dir() else ''}", "")
                for path in found if path.name.startswith(begun) and " " not in path.name
                and (path.name != begun or path.is_dir())]

    def send(self, row: Command, values: tuple[Value, ...], heard: Callable[[str, str], object] | None = None) -> None:
        """Send a command through the owner of the port; its stages come back through the archive.

        `heard` is told each state and why, "not sent" where it was not.
        """
        self.say(f"sending {command_text(row.verb, values)}")

        def tell(state: str, why: str) -> None:
            self.say(f"{row.verb} {state}{': ' if why else ''}{why}")
            if heard is not None:
                heard(state, why)

        def follow() -> None:
            last: Progress | None = None
            try:
                stages = send_through(self._path, row.verb, values, _TIMEOUT_S)
                if stages is None:
                    self.call_from_thread(tell, CommandState.NOT_SENT, "no ground watch or console owns the port")
                    return
                for last in stages:
                    self.call_from_thread(tell, last.state, last.text)
            except FlightError as error:
                self.call_from_thread(tell, CommandState.NO_ANSWER if last else CommandState.NOT_SENT, str(error))
            except RuntimeError:  # the console was closed meanwhile; the archive has the rest
                return

        threading.Thread(target=follow, daemon=True, name=f"send {row.verb}").start()

    def order_file(self, verb: str, name: str) -> None:
        """Have the owner of the port send or get a file; how far it is stands on the page of files."""
        path, upwards = Path(name).expanduser().absolute(), verb == "upload"
        request = {"file": verb, "name": path.name, "path": str(path)} if upwards else {
            "file": verb, "name": name}
        if upwards and not path.is_file():
            self.say(f"{name}: no such file")
            return
        self._page = _PAGES.index("files")
        self._ask_files(request, lambda line: self.say(
            f"{verb} {path.name}: {line['state']}" + (f", in {line['path']}" if line["path"] and not upwards else "")))

    def _ask_files(self, request: dict[str, str], told: Callable[[dict[str, Any]], object],
                   ended: Callable[[], object] = lambda: None) -> None:
        """Ask the owner's file desk in a thread."""

        def follow() -> None:
            try:
                for line in ask(self._path, request) or ():
                    self.call_from_thread(told, line)
                self.call_from_thread(ended)
            except FlightError as error:
                self.call_from_thread(self.say, str(error))
            except RuntimeError:  # the console was closed meanwhile; the transfer goes on
                return

        threading.Thread(target=follow, daemon=True, name="files").start()

    def _look_at_files(self) -> None:
        """Once a second while they are shown: ask how the transfers do."""
        if _PAGES[self._page] != "files" or self._status().mode == "replay":
            return
        found: list[dict[str, Any]] = []
        self._ask_files({"file": "list", "name": ""}, found.append, lambda: setattr(self, "_transfers", found))

    # -- pages

    def _tabs(self, width: int) -> Line:
        line: Line = []
        for i, name in enumerate(_PAGES):
            line += [(f" {i + 1} ", "bold reverse" if i == self._page else "bold"),
                     (f"{name} ", "reverse" if i == self._page else "dim")]
        return views.fill(line, width)

    def _foot(self, width: int) -> Line:
        if self._said:
            return views.fill([(f" {self._said}", "bold yellow")], width)
        keys = " : command   ? help   q quit"
        if _PAGES[self._page] == "events":
            keys += f"   s severity ({self._severity.name})   a acknowledge   A all"
        if self._steer is not None:
            keys += "   Space + - [ ] replay"
        return views.fill([(keys, "dim")], width)

    def _draw(self, model: Model, plot: views.Plot, width: int, rows: int) -> list[Line]:
        """Draw a plot, or show it as it was drawn a moment ago: it moves by a dot in a minute.

        One is drawn in a painting, the next in one that follows: a key never waits for all of them.
        """
        place = (plot, width, rows)
        blank: list[Line] = [[] for _ in range(rows)]
        before, drawn_s, lines = self._drawn.get(place, (None, -math.inf, blank))
        if before is model and 0.0 <= model.now_s - drawn_s < _PLOT_S:
            return lines
        if self._plots_owed == 0:
            lines = views.draw_now(model, plot, width, rows)
            self._drawn[place] = (model, model.now_s, lines)
        self._plots_owed += 1
        return lines

    def _body(self, width: int, rows: int) -> list[Line]:
        name, model = _PAGES[self._page], self.model
        if name in {"overview", "plots"}:
            return (views.overview if name == "overview" else views.plots)(model, width, rows, self._draw)
        if name in {"events", "jobs"}:
            found: Sequence[EventEntry | Job] = (self._events() if name == "events"
                                                 else open_jobs(list(model.jobs.values())))
            at = self._tops[name] = max(0, min(self._tops[name], len(found) - 1))
            lines = [views.event_line(one, width) if isinstance(one, EventEntry) else views.job_line(model, one, width)
                     for one in found]
            head = views.jobs_rule(model, width) if name == "jobs" else None
            text = ("" if not found else views.job_detail(model, one) if isinstance(one := found[at], Job)
                    else views.in_utc(model, f"{utc_text(one.obt_s)}  {one.text}"))
            return [*([head] if head else []),
                    *views.chosen(lines, at, text, width, rows - (head is not None))]
        if name == "files":
            return views.files(self._transfers, width)[:rows]
        lines = {"values": views.values, "commands": views.commands, "passes": views.passes}[name](model, width)
        top = self._tops[name] = max(0, min(self._tops[name], len(lines) - rows))
        return lines[top : top + rows]

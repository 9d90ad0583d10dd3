"""`ground run`: procedures and pass plans; `ground check`: what they would do, and whether an archive is whole."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from flightsw.clock import MonotonicClock
from flightsw.dictionary.commands import Value
from flightsw.errors import FlightError, LinkError, StoreError
from ground import passes
from ground.archive import Archive
from ground.cli.options import EXIT_COMPLETED, EXIT_REJECTED, Commands, add_link, plain
from ground.console.model import Model
from ground.passes import Contact, Sky
from ground.procedures import Link, Operator, Plan, ProcedureError, fitting, load_plan, run_file, run_step
from ground.relay import Progress, send_through
from ground.session import SessionThread
from ground.station import CommandState
from ground.watch import utc_text

_RUN_EXITS = "exit codes: 0 done, 1 a step failed, 2 wrong use, 4 port, archive or file trouble"
_GUARD_S = 5.0  # nothing is begun so near to the end of a pass


def add_command(commands: Commands) -> None:
    """Add `ground run`."""
    parser = commands.add_parser(
        "run", help="run a procedure or a pass plan", epilog=_RUN_EXITS,
        description="Run a procedure (FILE.py with run(op)) now, or a pass plan (FILE.toml with [[step]]s) pass after "
        "pass until all its steps are done. Through the owner of the archive's port, or as its owner with --port. "
        "Every step is noted in the archive.")
    parser.add_argument("file", type=Path, metavar="FILE", help="procedure or plan")
    add_link(parser, defaults=True)
    parser.add_argument("--mission", type=Path, metavar="FILE", help="mission file: a plan's passes come from it")
    parser.add_argument("--dry-run", action="store_true", help="send nothing; check and say what would be done")
    parser.add_argument("--now", action="store_true", help="do a plan's steps now, without waiting for a pass")
    parser.add_argument("--again", action="store_true",
                        help="do a plan's steps anew, also those that the archive says are done")
    parser.set_defaults(run=_run)


def add_check(commands: Commands) -> None:
    """Add `ground check`."""
    parser = commands.add_parser(
        "check", help="check procedures, pass plans, missions and archives", epilog="exit codes: 0 sound, 1 not",
        description="Check files before they are needed: a procedure is run dry, a plan's steps and a mission's passes "
        "are read, an archive is read whole, block by block.")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="*.py, *.toml, or an archive")
    parser.add_argument("--json", action="store_true", help="one JSON object a file")
    parser.set_defaults(run=_check)


class _DoorLink:
    """A procedure's link through the owner of the port; `prefix` names the script in the archive's notes."""

    def __init__(self, archive: Path, reader: Archive, source: str) -> None:
        self._path = archive
        self._source = source
        clock = MonotonicClock(start_s=time.time())
        self._clock = clock
        self._model = Model(reader)
        self._model.start(clock.now_s())

    def send(self, verb: str, values: Sequence[Value], timeout_s: float) -> Progress:
        stages = send_through(self._path, verb, values, timeout_s)
        if stages is None:
            raise StoreError(f"nobody owns the port of archive {self._path}: start ground watch, or give --port")
        last = Progress(CommandState.NO_ANSWER, 0.0, 0, "")
        for last in stages:  # noqa: B007 # the last one counts
            pass
        return last

    def latest(self, point: str) -> float | int | None:
        self._model.refresh(self._clock.now_s())
        value, stale = self._model.value(point)
        return None if stale else value

    def now_s(self) -> float:
        return self._clock.now_s()

    def pause(self, seconds: float) -> None:
        self._clock.wait_until(self._clock.now_s() + seconds)

    def note(self, line: str) -> None:
        with Archive(self._path) as archive:
            archive.add_note(self.now_s(), self._source, line)
        print(f"{utc_text(self.now_s())} {plain(line)}", flush=True)


class _DryLink(_DoorLink):
    """A link on which nothing is sent and nothing kept."""

    def __init__(self, say: list[str] | None = None) -> None:
        self._said = say

    def note(self, line: str) -> None:
        if self._said is None:
            print(plain(line), flush=True)
        else:
            self._said.append(line)

    def now_s(self) -> float:
        return 0.0


def _run(options: argparse.Namespace) -> int:
    is_plan = options.file.suffix == ".toml"
    plan = load_plan(options.file) if is_plan else None
    if options.dry_run:
        op = Operator(_DryLink(), dry=True)
        _in_order([options.file] if plan is None else plan.steps, plan, op)
        return EXIT_COMPLETED
    if plan is not None and options.mission is None and not options.now:
        raise LinkError("a plan needs --mission for its passes, or --now")
    sky = passes.load(options.mission) if options.mission else None
    with ExitStack() as stack:
        if options.port:
            stack.enter_context(SessionThread(options))
        reader = stack.enter_context(Archive(options.archive, read_only=True))
        link = _DoorLink(options.archive, reader, options.file.name)
        op = Operator(link)
        try:
            if plan is None:
                run_file(options.file, op)
            elif options.now or sky is None:
                _in_order(plan.steps, plan, op)
            else:
                done = () if options.again else _done(plan, reader)
                if len(done) == len(plan.steps):
                    print(f"{plan.path.name}: all steps are done, says {options.archive}; --again does them anew")
                return fly(plan, sky, op, link, done)
        except (ProcedureError, LinkError) as error:
            print(f"ground run: {error}", flush=True)
            return EXIT_REJECTED
    return EXIT_COMPLETED


def _in_order(steps: Iterable[object], plan: Plan | None, op: Operator) -> None:
    for step in steps:
        if plan is None:
            run_file(Path(str(step)), op)
        else:
            run_step(plan, step, op)  # type: ignore[arg-type] # a plan's steps


def _done(plan: Plan, reader: Archive) -> tuple[str, ...]:
    """Return the plan's steps that were done before, by the archive: what a restarted run need not do again."""
    titles = {note.text.removeprefix("step done: ") for note in reader.notes()
              if note.source == plan.path.name and note.text.startswith("step done: ")}
    return tuple(step.title for step in plan.steps if step.title in titles)


def fly(plan: Plan, sky: Sky, op: Operator, link: Link, before: Sequence[str] = ()) -> int:
    """Do a plan's steps, unattended, pass after pass; a step that failed is tried once more in a later pass.

    Steps of `before` are done already. Returns an exit code.
    """
    failed: dict[str, int] = {}
    done = list(before)
    while left := [step for step in plan.steps if step.title not in done and failed.get(step.title, 0) < 2]:
        contact = _next_pass(sky, link.now_s(), {step.station for step in left})
        if contact is None:
            link.note("no pass in the next day")
            return EXIT_REJECTED
        if contact.aos_s > link.now_s():
            link.note(f"waiting for {contact.site.name}, AOS {utc_text(contact.aos_s)}")
            link.pause(contact.aos_s - link.now_s())
        tried: list[str] = []
        while link.now_s() < contact.los_s - _GUARD_S:
            out = [*done, *tried, *(title for title, times in failed.items() if times > 1)]
            step = next((step for step, fits in fitting(plan, contact, out, link.now_s()) if fits), None)
            if step is None:
                break
            tried.append(step.title)
            try:
                run_step(plan, step, op)
            except FlightError as error:
                failed[step.title] = failed.get(step.title, 0) + 1
                link.note(f"step failed: {step.title}: {error}")
            else:
                done.append(step.title)
                link.note(f"step done: {step.title}")
        if any(step.title not in done and failed.get(step.title, 0) < 2 for step in plan.steps):
            link.pause(max(0.0, contact.los_s - link.now_s()))
    return EXIT_REJECTED if any(title not in done for title in failed) else EXIT_COMPLETED


def _next_pass(sky: Sky, now_s: float, wanted: set[str]) -> Contact | None:
    return next((contact for contact in sky.upcoming(now_s)
                 if contact.los_s - _GUARD_S > now_s and wanted & {"", contact.site.name}), None)


# -- check


def _check(options: argparse.Namespace) -> int:
    sound = True
    for path in options.files:
        said: list[str] = []
        try:
            said += _examine(path)
            problem = ""
        except FlightError as error:
            problem, sound = str(error), False
        if options.json:
            print(json.dumps({"file": str(path), "sound": not problem, "problem": problem, "notes": said}))
        else:
            for line in said:
                print(f"  {plain(line)}")
            print(f"{path}: {plain(problem) or 'sound'}")
    return EXIT_COMPLETED if sound else EXIT_REJECTED


def _examine(path: Path) -> list[str]:
    said: list[str] = []
    if path.suffix == ".py":
        run_file(path, Operator(_DryLink(said), dry=True))
    elif path.suffix == ".toml":
        if "[[step]]" in path.read_text("utf-8", "replace"):
            plan = load_plan(path)
            for step in plan.steps:
                if step.run:
                    run_step(plan, step, Operator(_DryLink(said), dry=True))
            said += [f"{step.priority:>2} {step.seconds:4.0f} s {step.title}" for step in plan.steps]
        else:
            sky = passes.load(path)
            start_s = sky.start_s or sky.orbit.tle.epoch_unix_s
            said += [f"{contact.site.name} {utc_text(contact.aos_s)} {contact.duration_s:.0f} s"
                     for contact in sky.contacts(start_s, start_s + 86_400.0)]
    else:
        with Archive(path, read_only=True) as archive:
            said += archive.examine()
    return said

"""`ground job`: submit a job and hear the answer; the job board."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from flightsw.dictionary.commands import COMMANDS, Value, check_argument
from flightsw.errors import LinkError, StoreError
from flightsw.state import Pause
from ground.archive import Archive, EventEntry
from ground.cli.options import EXIT_COMPLETED, EXIT_NO_ANSWER, EXIT_REJECTED, Commands, plain, timeout, whole
from ground.console.model import Model, open_jobs
from ground.relay import Progress, send_through
from ground.station import CommandState
from ground.watch import utc_text

_ANSWERS = {"job_promised": "promised", "job_refused": "refused", "job_queued": "queued"}
_LOOK_S = 0.2


def add_command(commands: Commands) -> None:
    """Add `ground job`."""
    parser = commands.add_parser("job", help="submit a job and hear the answer; list the job board",
                                 description="Jobs, as the satellite tells of them.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    submit = actions.add_parser(
        "submit", help="submit a job and wait for the promise or the refusal",
        epilog="exit codes: 0 promised or queued, 1 refused or failed, 2 wrong use, 3 no answer, 4 trouble",
        description="Submit a job by telecommand through the owner of the archive's port, and wait for the satellite's "
        "answer: a promise, or a refusal that says why and which deadline would do.")
    submit.add_argument("name", metavar="NAME", help="the job's name; a known manifest's name runs that manifest")
    submit.add_argument("--id", type=whole(1, 0xFFFFFFFF), metavar="N", help="job id, never used before (the time)")
    submit.add_argument("--work", type=float, required=True, metavar="UNITS",
                        help="one unit is a second of a node in its reference mode")
    submit.add_argument("--value", type=float, default=1.0, metavar="V", help="what finishing it is worth (1)")
    submit.add_argument("--deadline", type=float, required=True, metavar="S", help="seconds from reception")
    submit.add_argument("--activity", type=float, default=1.0, metavar="F",
                        help="declared draw relative to the mode's nominal (1)")
    submit.add_argument("--pause", choices=[p.name for p in Pause], default=Pause.STOP_CONTINUE.name,
                        help="how it may be interrupted")
    submit.add_argument("--archive", type=Path, default=Path("ground.sqlite"), metavar="FILE",
                        help="archive of the owner of the port (ground.sqlite)")
    submit.add_argument("--timeout", type=timeout, default=60.0, metavar="S", help="seconds to wait (60)")
    submit.add_argument("--json", action="store_true", help="one JSON object")
    submit.set_defaults(run=_submit)
    board = actions.add_parser("list", help="list jobs and why they were refused")
    board.add_argument("--archive", type=Path, default=Path("ground.sqlite"), metavar="FILE", help="(ground.sqlite)")
    board.add_argument("--json", action="store_true", help="one JSON object a job")
    board.set_defaults(run=_list)


def _submit(options: argparse.Namespace) -> int:
    job_id = options.id or int(time.time()) & 0xFFFFFFFF
    values: list[Value] = [job_id, options.name, options.work, options.activity, options.value, options.deadline,
                           int(Pause[options.pause])]
    row = COMMANDS["job.submit"]
    for arg, value in zip(row.args, values, strict=True):
        problem = check_argument(arg, value)
        if problem:
            raise LinkError(f"{row.verb}: {problem}")
    with Archive(options.archive, read_only=True) as archive:
        before = archive.newest_events(count=1)
        stages = send_through(options.archive, row.verb, values, options.timeout)
        if stages is None:
            raise StoreError(f"nobody owns the port of archive {options.archive}: start ground watch or ground console")
        last = Progress(CommandState.NO_ANSWER, 0.0, 0, "")
        for last in stages:  # noqa: B007 # the last one counts
            pass
        if last.state is not CommandState.COMPLETED:
            _tell(options, job_id, str(last.state), last.text)
            return EXIT_NO_ANSWER if last.state is CommandState.NO_ANSWER else EXIT_REJECTED
        answer = _await(archive, job_id, before[0].event_id if before else 0, options.timeout)
    if answer is None:
        _tell(options, job_id, "no answer", f"none within {options.timeout:g} s; the satellite has the job")
        return EXIT_NO_ANSWER
    _tell(options, job_id, _ANSWERS[answer.name], answer.text)
    return EXIT_REJECTED if answer.name == "job_refused" else EXIT_COMPLETED


def _await(archive: Archive, job_id: int, after_id: int, within_s: float) -> EventEntry | None:
    """Wait for the answer; a job that is queued is waited for further, and told as queued at the end."""
    give_up_s, queued = time.monotonic() + within_s, None
    while True:
        for event in archive.newest_events(after_id):
            if event.name in _ANSWERS and event.args[0] == job_id:
                if event.name != "job_queued":
                    return event
                queued = event
        if time.monotonic() >= give_up_s:
            return queued
        time.sleep(_LOOK_S)


def _tell(options: argparse.Namespace, job_id: int, state: str, text: str) -> None:
    print(json.dumps({"job": job_id, "state": state, "text": text}) if options.json
          else f"job {job_id} {state}: {plain(text)}", flush=True)


def _list(options: argparse.Namespace) -> int:
    with Archive(options.archive, read_only=True) as archive:
        model = Model(archive)
        model.start(time.time())
        for job in open_jobs(list(model.jobs.values())):
            name = model.name_of(job)
            print(json.dumps({**job._asdict(), "name": name}) if options.json else
                  plain(f"{job.state:<9} {job.job_id:>8} {name:<20} {utc_text(job.obt_s)} {job.text}"))
    return EXIT_COMPLETED

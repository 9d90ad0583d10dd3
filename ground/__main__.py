"""The ground station's command line: `ground watch`, `ground send`, `ground show`, `ground bill`, `ground audit`.

The composition root of the ground: it opens port, archive and clock, and turns errors into one line and an exit
code. Verbs, arguments and their help come from the dictionary.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import select
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from flightsw.clock import MonotonicClock
from flightsw.dictionary.commands import COMMANDS, Arg, Command, Value, check_argument, parse_text_argument
from flightsw.dictionary.events import Severity
from flightsw.dictionary.parameters import PARAMETERS
from flightsw.dictionary.telemetry import HOUSEKEEPING, POINT_BY_NAME
from flightsw.errors import BoardError, FlightError, LinkError, StoreError
from flightsw.link.serial_port import SerialPort
from ground import audit, bill
from ground.archive import Archive
from ground.relay import Door, Progress, progress, send_through
from ground.station import CommandReport, CommandState, Report, Station
from ground.watch import Screen, command_text, report_line, utc_text, value_text

EXIT_COMPLETED, EXIT_REJECTED, EXIT_USAGE, EXIT_NO_ANSWER, EXIT_TROUBLE = range(5)

_EXIT_OF_STATE = {
    CommandState.COMPLETED: EXIT_COMPLETED,
    CommandState.REJECTED: EXIT_REJECTED,
    CommandState.FAILED: EXIT_REJECTED,
    CommandState.NO_ANSWER: EXIT_NO_ANSWER,
    CommandState.NOT_SENT: EXIT_TROUBLE,
}
_EXIT_TEXT = ("exit codes: 0 completed, 1 rejected or failed, 2 wrong use, 3 no answer, "
              "4 port or archive trouble")
_REFRESH_S = 0.2
_WAIT_S = 0.05
_GATHER_S = 0.01
"""Octets of this long are taken together: one commit for them, and an idle processor in between."""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one `ground` command and return its exit code."""
    options = _parser().parse_args(argv)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except LinkError as error:
        return _complain(options, error, EXIT_USAGE)
    except FlightError as error:
        return _complain(options, error, EXIT_TROUBLE)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_COMPLETED
    return code


def _complain(options: argparse.Namespace, error: FlightError, code: int) -> int:
    print(f"ground {options.command}: {error}", file=sys.stderr)
    return code


# -- watch


def _watch(options: argparse.Namespace) -> int:
    """Own the port: archive and show what comes, and send for `ground send`, until interrupted."""
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stopped.append(received))
    clock = MonotonicClock()
    epoch_s = time.time() - clock.now_s()
    with ExitStack() as stack:
        archive = stack.enter_context(Archive(options.archive))
        port = stack.enter_context(SerialPort(options.port, options.baud))
        station = Station(port, archive, scid=options.scid, apid=options.apid, epoch_s=epoch_s)
        door = stack.enter_context(Door(station))
        view = _Terminal(station, epoch_s, options.port) if sys.stdout.isatty() else _Lines(station, epoch_s)
        stack.enter_context(view)
        while not stopped:
            waiting = door.descriptors() + ([port.fileno()] if port.fault is None else [])
            select.select(waiting, [], [], _WAIT_S)
            time.sleep(_GATHER_S)
            now_s = clock.now_s()
            port.reconnect(now_s)
            station.poll(now_s)
            door.serve(now_s)
            view.refresh(now_s, port.fault or station.archive_trouble)
    return EXIT_COMPLETED


class _Lines:
    """Output that is not a terminal: one line a report; trouble goes to standard error when it changes."""

    def __init__(self, station: Station, epoch_s: float) -> None:
        self._station = station
        self._epoch_s = epoch_s
        self._trouble = ""

    def __enter__(self) -> _Lines:
        self._station.listen(self._print)
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _print(self, report: Report) -> None:
        print(_plain(report_line(report, self._station, self._epoch_s)), flush=True)

    def refresh(self, _now_s: float, trouble: str) -> None:
        """Say what is wrong when it changes."""
        if trouble != self._trouble:
            self._trouble = trouble
            print(f"ground watch: {trouble or 'recovered'}", file=sys.stderr, flush=True)


class _Terminal:
    """A terminal: the whole screen, at most five times a second, on the alternate page."""

    def __init__(self, station: Station, epoch_s: float, title: str) -> None:
        self._screen = Screen(station, epoch_s, title, colour="NO_COLOR" not in os.environ)
        self._painted_s = -math.inf

    def __enter__(self) -> _Terminal:
        sys.stdout.write("\x1b[?1049h\x1b[?25l\x1b[?7l")  # alternate page, no cursor, no wrapping
        return self

    def __exit__(self, *_: object) -> None:
        sys.stdout.write("\x1b[?7h\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()

    def refresh(self, now_s: float, trouble: str) -> None:
        """Paint when it is time to."""
        if now_s - self._painted_s >= _REFRESH_S:
            self._painted_s = now_s
            size = shutil.get_terminal_size()
            sys.stdout.write(self._screen.paint(now_s, size.columns, size.lines, trouble))
            sys.stdout.flush()


# -- send


def _send(options: argparse.Namespace) -> int:
    """Send one command and follow it to its end."""
    row: Command = options.row
    values = [_argument(row, arg, text) for arg, text in
              zip(row.args, (getattr(options, f"arg_{arg.name}") for arg in row.args), strict=True)]
    stages = send_through(options.archive, row.verb, values, options.timeout)
    if stages is None:
        if options.port is None:
            raise StoreError(f"no ground watch is running on archive {options.archive}; "
                             "give the serial port with --port")
        stages = _send_alone(options, row, values)
    state = CommandState.NO_ANSWER
    for stage in stages:
        state = stage.state
        _print_stage(row.verb, stage, options.json)
    return _EXIT_OF_STATE[state]


def _argument(row: Command, arg: Arg, text: str) -> Value:
    value = parse_text_argument(arg, text)
    problem = check_argument(arg, value)
    if problem:
        raise LinkError(f"{row.verb}: {problem}")
    return value


def _send_alone(options: argparse.Namespace, row: Command, values: Sequence[Value]) -> Iterator[Progress]:
    """Open the port for one command; everything received meanwhile is archived."""
    clock = MonotonicClock()
    with Archive(options.archive) as archive, SerialPort(options.port, options.baud) as port:
        station = Station(port, archive, scid=options.scid, apid=options.apid,
                          epoch_s=time.time() - clock.now_s())
        station.poll(clock.now_s())
        sent = station.send(row.verb, values, clock.now_s(), options.timeout)
        told = deque([progress(sent)])

        def hear(report: Report) -> None:
            if isinstance(report, CommandReport) and report.record.request_id == sent.request_id:
                told.append(progress(report.record))

        station.listen(hear)
        ended = False
        while not ended:
            station.poll(clock.now_s())
            ended = any(stage.state.is_final for stage in told)
            while told:
                yield told.popleft()
            if port.fault is not None:
                raise BoardError(port.fault)
            if not ended:
                select.select([port.fileno()], [], [], _WAIT_S)


def _print_stage(verb: str, stage: Progress, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"verb": verb, **stage._asdict()}), flush=True)
        return
    why = f": {_plain(stage.text)}" if stage.text else ""
    code = f" (code {stage.code})" if stage.code else ""
    print(f"{verb} {stage.state} after {stage.elapsed_s:.2f} s{why}{code}", flush=True)


# -- show


def _show(options: argparse.Namespace) -> int:
    """Answer a question from an archive; it may be the one that a watcher is writing."""
    span = (options.since, options.until)
    with Archive(options.archive, read_only=True) as archive:
        lines: Iterable[tuple[str, dict[str, object]]]
        if options.what == "latest":
            lines = _latest_lines(archive)
        elif options.what == "events":
            lines = ((f"{utc_text(e.obt_s)} {e.severity.name:<6} {e.name}: {e.text}",
                      {**e._asdict(), "severity": e.severity.name})
                     for e in archive.events(*span, Severity[options.severity]))
        elif options.what == "commands":
            lines = _command_lines(archive, span)
        elif options.what == "gaps":
            lines = ((f"{utc_text(g.received_s)} {g.source}: {'unknown number' if g.lost is None else g.lost} lost",
                      g._asdict()) for g in archive.gaps())
        else:
            lines = _sample_lines(archive, options.what, span)
        for text, fields in lines:
            print(json.dumps({key: _finite(value) for key, value in fields.items()}) if options.json
                  else _plain(text))
    return EXIT_COMPLETED


def _latest_lines(archive: Archive) -> Iterator[tuple[str, dict[str, object]]]:
    for row in archive.latest():
        text, unit = _shown(row.point, row.value)
        yield (f"{row.point:<26} {text:>12} {unit:<5} at {utc_text(row.obt_s)}",
               {**row._asdict(), "unit": unit})


def _sample_lines(archive: Archive, point: str,
                  span: tuple[float, float]) -> Iterator[tuple[str, dict[str, object]]]:
    if point not in archive.points:
        raise LinkError(f"no point {point!r} in archive {archive.path}; `ground show latest` lists them")
    for obt_s, value in archive.samples(point, *span):
        text, unit = _shown(point, value)
        yield f"{utc_text(obt_s)} {text} {unit}".rstrip(), {"obt_s": obt_s, "value": value}


def _command_lines(archive: Archive, span: tuple[float, float]) -> Iterator[tuple[str, dict[str, object]]]:
    for entry in archive.commands(*span):
        lines = [f"{utc_text(entry.sent_s)} {command_text(entry.verb, entry.args)}: {entry.state}"]
        lines += [f"  1,{s.stage} after {s.received_s - entry.sent_s:.2f} s{': ' + s.text if s.text else ''}"
                  for s in entry.stages]
        yield "\n".join(lines), {**entry._asdict(), "stages": [stage._asdict() for stage in entry.stages]}


def _shown(name: str, value: float | int | None) -> tuple[str, str]:
    """Return value and unit of a point; one that only a newer dictionary knows is shown bare."""
    point = POINT_BY_NAME.get(name)
    if point is None:
        return "missing" if value is None else f"{value:g}", ""
    return value_text(point, value), point.unit if value is not None else ""


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(text: str) -> str:
    """Keep what the satellite wrote from steering the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


# -- bill and audit


def _bill(options: argparse.Namespace) -> int:
    """State what customers' jobs used."""
    tariff = bill.load_tariff(options.tariff) if options.tariff else None
    notes: list[str] = []
    if _is_archive(options.source):
        with Archive(options.source, read_only=True) as archive:
            settlements, notes = bill.from_archive(archive, options.since, options.until)
    else:
        settlements = bill.from_lines(options.source, options.since, options.until)
    made = bill.statement(settlements, tariff, options.customer)
    made = made._replace(notes=(*made.notes, *notes))
    for line in bill.as_json(made) if options.json else bill.as_text(made, tariff):
        print(line if options.json else _plain(line))
    if options.json:
        for note in made.notes:
            print(f"ground bill: {note}", file=sys.stderr)
    return EXIT_COMPLETED


def _is_archive(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(16) == b"SQLite format 3\0"
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error


def _audit_verify(options: argparse.Namespace) -> int:
    """Say whether an audit log is whole."""
    heads: dict[int, str] = {}
    if options.archive:
        with Archive(options.archive, read_only=True) as archive:
            heads = audit.heads_of(archive)
    verdict = audit.verify_files(options.files, heads)
    for line in [json.dumps(audit.as_json(verdict))] if options.json else audit.report(verdict, heads):
        print(line if options.json else _plain(line))
    return EXIT_REJECTED if verdict.breaks else EXIT_COMPLETED


# -- the command line


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ground", description="Ground station of the compute satellite.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    watch = commands.add_parser(
        "watch", help="show live telemetry and archive it", epilog=_EXIT_TEXT,
        description="Receive, archive and show telemetry: a live screen on a terminal, else one line a report. "
        "Marks: ! limit crossed, ~ near its limit, ? stale. Ctrl-C ends it.")
    _add_link(watch, defaults=True, port_required=True)
    watch.set_defaults(run=_watch)

    send = commands.add_parser(
        "send", help="send a telecommand and wait for its end", epilog=_EXIT_TEXT,
        description="Send one telecommand, through the `ground watch` that owns the archive where one runs, "
        "else through --port. `ground send VERB --help` explains a verb.")
    _add_link(send, defaults=True)
    _add_follow(send, defaults=True)
    verbs = send.add_subparsers(dest="verb", required=True, metavar="VERB", title="verbs")
    for row in COMMANDS.values():
        _add_verb(verbs.add_parser(
            row.verb, help=row.description, description=_verb_text(row), epilog=_EXIT_TEXT,
            formatter_class=argparse.RawDescriptionHelpFormatter), row)
    send.set_defaults(run=_send)

    show = commands.add_parser(
        "show", help="query an archive", description="Print what an archive holds, as text or JSON lines.")
    show.add_argument("what", nargs="?", default="latest", metavar="WHAT",
                      help="latest (default), events, commands, gaps, or the name of a point")
    show.add_argument("--archive", type=Path, required=True, metavar="FILE", help="the archive")
    show.add_argument("--since", type=_instant, default=-math.inf, metavar="TIME",
                      help="from then on: ISO 8601 UTC or Unix seconds (on-board time; for commands, sending)")
    show.add_argument("--until", type=_instant, default=math.inf, metavar="TIME", help="before then")
    show.add_argument("--severity", choices=[s.name for s in Severity], default=Severity.INFO.name,
                      help="least severity of the events shown")
    show.add_argument("--json", action="store_true", help="one JSON object a line; null is missing")
    show.set_defaults(run=_show)

    _add_bill(commands.add_parser(
        "bill", help="state what customers' jobs used",
        description="Print what each settled job used, by customer, and what the same work costs on the ground."))
    _add_audit(commands.add_parser(
        "audit", help="verify an audit log",
        description="Check the satellite's audit log against itself and against the heads that telemetry brought."))
    return parser


def _add_bill(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="ARCHIVE|LEDGER",
                        help="an archive, or settlements as JSON lines as --json prints them")
    parser.add_argument("--customer", metavar="X", help="only this customer's jobs")
    parser.add_argument("--from", dest="since", type=_instant, default=-math.inf, metavar="TIME",
                        help="settled from then on: ISO 8601 UTC or Unix seconds, on-board time")
    parser.add_argument("--to", dest="until", type=_instant, default=math.inf, metavar="TIME", help="before then")
    parser.add_argument("--tariff", type=Path, metavar="FILE",
                        help="what a data centre on the ground asks (examples/tariff.toml)")
    parser.add_argument("--json", action="store_true", help="one JSON object a job; null is not metered")
    parser.set_defaults(run=_bill)


def _add_audit(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    verify = actions.add_parser("verify", help="say whether a log is whole, and where it is not",
                                epilog="exit codes: 0 whole, 1 not whole, 2 wrong use, 4 trouble with a file")
    verify.add_argument("files", type=Path, nargs="+", metavar="FILE", help="the log, in one or more files in order")
    verify.add_argument("--archive", type=Path, metavar="FILE", help="archive with the heads seen in telemetry")
    verify.add_argument("--json", action="store_true", help="one JSON object")
    verify.set_defaults(run=_audit_verify)


def _add_link(parser: argparse.ArgumentParser, defaults: bool, port_required: bool = False) -> None:
    """Options of the line. A verb takes them as well, and then leaves the defaults to `send`."""
    def default(value: object) -> object:
        return value if defaults else argparse.SUPPRESS

    parser.add_argument("--port", default=default(None), required=port_required, metavar="DEV",
                        help="serial port")
    parser.add_argument("--baud", type=_whole(50, 4_000_000), default=default(115200), metavar="N",
                        help="its rate (115200)")
    parser.add_argument("--archive", type=Path, default=default(Path("ground.sqlite")), metavar="FILE",
                        help="archive, made where it does not exist (ground.sqlite)")
    parser.add_argument("--scid", type=_whole(0, 1023), default=default(42), metavar="N",
                        help="spacecraft id of the mission (42)")
    parser.add_argument("--apid", type=_whole(1, 2039), default=default(100), metavar="N",
                        help="application id of the mission (100)")


def _add_follow(parser: argparse.ArgumentParser, defaults: bool) -> None:
    parser.add_argument("--timeout", type=_timeout, default=30.0 if defaults else argparse.SUPPRESS, metavar="S",
                        help="seconds to wait for acceptance, and then for completion (30)")
    parser.add_argument("--json", action="store_true", default=False if defaults else argparse.SUPPRESS,
                        help="one JSON object a stage")


def _add_verb(parser: argparse.ArgumentParser, row: Command) -> None:
    for arg in row.args:
        parser.add_argument(f"arg_{arg.name}", metavar=arg.name.upper(), help=_argument_text(arg).replace("%", "%%"))
    _add_link(parser, defaults=False)
    _add_follow(parser, defaults=False)
    parser.set_defaults(row=row)


def _verb_text(row: Command) -> str:
    allowed = "any" if len(row.modes) == 4 else ", ".join(sorted(mode.name for mode in row.modes))
    hazard = "\nHAZARDOUS" if row.hazardous else ""
    function = "" if row.function is None else f", function {row.function}"
    text = f"{row.description}\nPUS service {row.service},{row.subservice}{function}; modes: {allowed}{hazard}"
    names = {arg.name for arg in row.args}
    if "parameter" in names:
        text += "\n\nparameters:" + "".join(
            f"\n  {p.name:<22} {_range(p.low, p.high, p.unit):<22} {p.description}" for p in PARAMETERS)
    if "structure" in names:
        text += "\n\nstructures: " + ", ".join(f"{s.sid}={s.name}" for s in HOUSEKEEPING)
    return text


def _argument_text(arg: Arg) -> str:
    if arg.kind == "text":
        kind = f"text, up to {arg.high:g} octets"
    elif arg.enum is not None:
        kind = f"{arg.kind}, {' | '.join(f'{member.name}={member:d}' for member in arg.enum)}"
    else:
        kind = f"{arg.kind}, {_range(arg.low, arg.high, arg.unit)}"
    return f"{arg.description} [{kind}]"


def _range(low: float, high: float, unit: str) -> str:
    """Return bounds in full figures, up to ten of them."""
    return f"{low:.10g}..{high:.10g} {unit}".rstrip()


def _instant(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither ISO 8601 nor seconds") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _timeout(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value <= 86400.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds in 0..86400")
    return value


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            value = int(text, 0)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number in {low}..{high}")
        return value

    return read


if __name__ == "__main__":
    sys.exit(main())

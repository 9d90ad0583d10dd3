"""`ground send`: one telecommand, followed to its end. Verbs, arguments and help come from the dictionary."""

from __future__ import annotations

import argparse
import json
import select
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence

from flightsw.clock import MonotonicClock
from flightsw.dictionary.commands import (
    COMMANDS,
    Arg,
    Command,
    Value,
    check_argument,
    digest_of,
    pack_arguments,
    parse_text_argument,
)
from flightsw.dictionary.parameters import PARAMETERS
from flightsw.dictionary.telemetry import HOUSEKEEPING
from flightsw.errors import BoardError, LinkError, StoreError
from flightsw.link.serial_port import SerialPort
from ground.archive import Archive
from ground.cli.options import (
    EXIT_COMPLETED,
    EXIT_NO_ANSWER,
    EXIT_REJECTED,
    EXIT_TEXT,
    EXIT_TROUBLE,
    Commands,
    add_link,
    plain,
    seals_of,
    stack_of,
    timeout,
)
from ground.relay import Progress, progress, send_through
from ground.station import CommandReport, CommandState, Report, Station

_EXIT_OF_STATE = {
    CommandState.COMPLETED: EXIT_COMPLETED,
    CommandState.REJECTED: EXIT_REJECTED,
    CommandState.FAILED: EXIT_REJECTED,
    CommandState.NO_ANSWER: EXIT_NO_ANSWER,
    CommandState.NOT_SENT: EXIT_TROUBLE,
}
_WAIT_S = 0.05


def add_command(commands: Commands) -> None:
    """Add `ground send` with a verb for each telecommand."""
    send = commands.add_parser(
        "send", help="send a telecommand and wait for its end", epilog=EXIT_TEXT,
        description="Send one telecommand, through the `ground watch` that owns the archive where one runs, "
        "else through --port. `ground send VERB --help` explains a verb.")
    add_link(send, defaults=True)
    _add_follow(send, defaults=True)
    verbs = send.add_subparsers(dest="verb", required=True, metavar="VERB", title="verbs")
    for row in COMMANDS.values():
        _add_verb(verbs.add_parser(
            row.verb, help=row.description, description=_verb_text(row), epilog=EXIT_TEXT,
            formatter_class=argparse.RawDescriptionHelpFormatter), row)
    send.set_defaults(run=_send)


def _add_follow(parser: argparse.ArgumentParser, defaults: bool) -> None:
    parser.add_argument("--timeout", type=timeout, default=30.0 if defaults else argparse.SUPPRESS, metavar="S",
                        help="seconds to wait for acceptance, and then for completion (30)")
    parser.add_argument("--arm", action="store_true", default=False if defaults else argparse.SUPPRESS,
                        help="do not send a hazardous command, but arm it: send it again without this to fire")
    parser.add_argument("--sequence", action="store_true", default=False if defaults else argparse.SUPPRESS,
                        help="send it in sequence, again until it is there (COP-1)")
    parser.add_argument("--json", action="store_true", default=False if defaults else argparse.SUPPRESS,
                        help="one JSON object a stage")


def _add_verb(parser: argparse.ArgumentParser, row: Command) -> None:
    for arg in row.args:
        parser.add_argument(f"arg_{arg.name}", metavar=arg.name.upper(), help=_argument_text(arg).replace("%", "%%"))
    add_link(parser, defaults=False)
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
    elif arg.kind == "request":
        kind = f"{_range(arg.low, arg.high, 'octets')}, such as 'hk.period 1 5'"
    elif arg.unit == "UTC":
        kind = f"ISO 8601 or Unix seconds, {_range(arg.low, arg.high, arg.unit)}"
    elif arg.enum is not None:
        kind = f"{arg.kind}, {' | '.join(f'{member.name}={member:d}' for member in arg.enum)}"
    else:
        kind = f"{arg.kind}, {_range(arg.low, arg.high, arg.unit)}"
    return f"{arg.description} [{kind}]"


def _range(low: float, high: float, unit: str) -> str:
    """Return bounds in full figures, up to ten of them."""
    return f"{low:.10g}..{high:.10g} {unit}".rstrip()


def _send(options: argparse.Namespace) -> int:
    """Send one command and follow it to its end."""
    row: Command = options.row
    values = [_argument(row, arg, text) for arg, text in
              zip(row.args, (getattr(options, f"arg_{arg.name}") for arg in row.args), strict=True)]
    if options.arm:
        row, values = COMMANDS["arm"], [_digest(row, values)]
    elif row.hazardous:
        print(f"{row.verb} is hazardous: it is carried out only if it was armed, with --arm, just before",
              file=sys.stderr, flush=True)
    if options.station is not None and options.port is None:
        raise LinkError("--station goes with --port: a ground watch seals with the keys of its own station")
    stages = send_through(options.archive, row.verb, values, options.timeout, sequenced=options.sequence)
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


def _digest(row: Command, values: Sequence[Value]) -> str:
    """What arms exactly this command; LinkError where it needs none."""
    if not row.hazardous:
        raise LinkError(f"{row.verb} is not hazardous: it needs no arming")
    return digest_of(row.service, row.subservice, pack_arguments(row, values))


def _argument(row: Command, arg: Arg, text: str) -> Value:
    value = parse_text_argument(arg, text)
    problem = check_argument(arg, value)
    if problem:
        raise LinkError(f"{row.verb}: {problem}")
    return value


def _send_alone(options: argparse.Namespace, row: Command, values: Sequence[Value]) -> Iterator[Progress]:
    """Open the port for one command; everything received meanwhile is archived."""
    clock = MonotonicClock()
    with (Archive(options.archive) as archive, SerialPort(options.port, options.baud) as port,
          seals_of(options) as seals):
        station = Station(port, archive, scid=options.scid, apid=options.apid,
                          epoch_s=time.time() - clock.now_s(), stack=stack_of(options), seals=seals)
        station.poll(clock.now_s())
        sent = station.send(row.verb, values, clock.now_s(), options.timeout, sequenced=options.sequence)
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
    why = f": {plain(stage.text)}" if stage.text else ""
    code = f" (code {stage.code})" if stage.code else ""
    print(f"{verb} {stage.state} after {stage.elapsed_s:.2f} s{why}{code}", flush=True)

"""Every telecommand: one decorated pure handler each.

The decorator's row and the handler's signature are the whole declaration: parsing, bounds, mode gate,
acceptance and completion reports, `ground send` verb with its help, and XTCE come out of it. A handler
turns arguments into effects or a rejection; it touches nothing. The supervisor carries effects out.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple

from flightsw.dictionary import events, orders, parameters
from flightsw.dictionary.events import Severity
from flightsw.dictionary.orders import Orders, parse_sequence
from flightsw.dictionary.telemetry import BY_SID, OCTETS_MAX, PACK, POINT_INDEX, pack_values, unpack_values
from flightsw.errors import LinkError
from flightsw.state import (
    LEGAL_TRANSITIONS,
    Action,
    Arm,
    CancelJob,
    ChangeKey,
    Effect,
    EraseData,
    ExportAudit,
    FileOrder,
    JobSpec,
    KeyStep,
    LoadSequence,
    Mode,
    MonitorDefinition,
    OrderChange,
    OrderTable,
    Pause,
    Pong,
    ReportHousekeeping,
    ReportParameter,
    Request,
    Scheduled,
    SendReport,
    SetHousekeepingPeriod,
    SetMode,
    SetParameter,
    StartSequence,
    StopSequence,
    SubmitJob,
    Switch,
)

Value = float | int | str


class Rejection(NamedTuple):
    """Why a well-formed command is not carried out now: failure code (PUS 1) and text."""

    code: int
    text: str


class FailureCode(IntEnum):
    """Failure notice codes of verification reports (PUS 1,2 / 1,8)."""

    UNKNOWN_COMMAND = 1
    BAD_ARGUMENTS = 2
    WRONG_MODE = 3
    NOT_POSSIBLE = 4
    DUPLICATE = 5
    NOT_AUTHORISED = 6
    NOT_ARMED = 7


_NO_ORDERS = Orders()


class Context(NamedTuple):
    """What a handler may know. `running` are the sequences under way, each with the commands that have run."""

    now_s: float
    mode: Mode
    open_jobs: frozenset[int]
    known_jobs: Callable[[int], bool]
    storage_works: bool = True
    obt_s: float = 0.0
    orders: Orders = _NO_ORDERS
    running: Mapping[str, int] = MappingProxyType({})


class Arg(NamedTuple):
    """One argument: type of `dictionary.telemetry.PACK`, `text` or `request`, unit, bounds, meaning, code names.

    A `request` is a telecommand in words, as an operator types it; on the link it is `octets`: service, subservice
    and application data. A number in unit `UTC` is a Unix time and may be typed as ISO 8601.
    """

    name: str
    kind: str
    unit: str
    low: float
    high: float
    description: str
    enum: type[IntEnum] | None = None


Handler = Callable[..., "tuple[Effect, ...] | Rejection"]


class Command(NamedTuple):
    """One telecommand. `function` is the PUS 8 function id, None where the subservice says it all.

    A `durable` one promises something that must survive a restart, and needs working storage.
    """

    verb: str
    service: int
    subservice: int
    function: int | None
    args: tuple[Arg, ...]
    modes: frozenset[Mode]
    hazardous: bool
    durable: bool
    description: str
    handler: Handler


COMMANDS: dict[str, Command] = {}
_BY_CODE: dict[tuple[int, int, int | None], Command] = {}
_ALL = frozenset(Mode)
_AWAKE = frozenset({Mode.STANDBY, Mode.COMPUTE})


def telecommand(verb: str, service: int, subservice: int, *args: Arg, function: int | None = None,
                modes: frozenset[Mode] = _ALL, hazardous: bool = False,
                durable: bool = False) -> Callable[[Handler], Handler]:
    """Declare the decorated pure function as the handler of a telecommand; its docstring is the help."""

    def declare(handler: Handler) -> Handler:
        row = Command(verb, service, subservice, function, args, modes, hazardous, durable,
                      (handler.__doc__ or "").strip().splitlines()[0], handler)
        code = (service, subservice, function)
        if verb in COMMANDS or code in _BY_CODE:
            raise ValueError(f"telecommand {verb} {code} is declared twice")
        COMMANDS[verb] = row
        _BY_CODE[code] = row
        return handler

    return declare


def pack_arguments(row: Command, values: Sequence[Value]) -> bytes:
    """Pack application data of one command after checking every value; LinkError names what is wrong."""
    if len(values) != len(row.args):
        wanted = " ".join(arg.name.upper() for arg in row.args) or "no arguments"
        raise LinkError(f"{row.verb} takes {wanted}; {len(values)} given")
    for arg, value in zip(row.args, values, strict=True):
        problem = check_argument(arg, value)
        if problem:
            raise LinkError(f"{row.verb}: {problem}")
    head = b"" if row.function is None else struct.pack(">B", row.function)
    return head + pack_values(_wire_kinds(row), [
        octets_of(request_of(str(value))).hex() if arg.kind == "request" else value
        for arg, value in zip(row.args, values, strict=True)
    ])


def _wire_kinds(row: Command) -> list[str]:
    return ["octets" if arg.kind == "request" else arg.kind for arg in row.args]


def request_of(words: str) -> Request:
    """Make the request that `words` say, as an operator types them; LinkError says what is wrong with them."""
    try:
        verb, *texts = shlex.split(words)
    except ValueError as error:  # also of no words at all
        raise LinkError(f"{words!r} is not a telecommand: {error}") from error
    row = COMMANDS.get(verb)
    if row is None:
        raise LinkError(f"no telecommand {verb!r}")
    if len(texts) != len(row.args):
        raise LinkError(f"{verb} takes {len(row.args)} arguments; {len(texts)} given")
    values = [parse_text_argument(arg, text) for arg, text in zip(row.args, texts, strict=True)]
    request = Request(row.service, row.subservice, pack_arguments(row, values))
    problem = storing_problem(request)
    if problem:
        raise LinkError(problem)
    return request


def words_of(request: Request) -> str:
    """Say a request in words that `request_of` reads, or in hexadecimal where the dictionary does not have it."""
    row = find(*request)
    if row is None:
        return octets_of(request).hex()
    try:
        values = unpack_values(_wire_kinds(row), request.data, 0 if row.function is None else 1)
    except LinkError:
        return octets_of(request).hex()
    return shlex.join([row.verb, *(
        next((member.name for member in arg.enum or () if member == value), str(value))
        for arg, value in zip(row.args, values, strict=True))])


def octets_of(request: Request) -> bytes:
    """A request as it goes over the link inside another command or a report."""
    return bytes((request.service, request.subservice)) + request.data


_BY_HAND = frozenset({"arm", "key.roll", "key.confirm", "sequence.load"})


def storing_problem(request: Request) -> str | None:
    """Say why `request` may not be kept on board to be run later, or None.

    What is kept must be able to run by itself: known, within bounds, not hazardous, not itself a carrier of commands,
    and none of those for which it matters who sends them.
    """
    row = find(*request)
    if row is None:
        return f"no telecommand with service {request.service}, subservice {request.subservice}"
    if row.hazardous or row.verb in _BY_HAND:
        return f"{row.verb} is run by hand or not at all"
    if any(arg.kind == "request" for arg in row.args):
        return f"{row.verb} carries a command: it is not carried itself"
    octets = len(request.data) + 2
    if octets > OCTETS_MAX:
        return f"{row.verb} with its arguments has {octets} octets, limit {OCTETS_MAX} for a command that is kept"
    opened = _arguments(row, request.data)
    return opened.text if isinstance(opened, Rejection) else None


def check_argument(arg: Arg, value: Value) -> str | None:
    """Return what is wrong with `value` for `arg`, or None."""
    if arg.kind == "text":
        try:
            size = len(str(value).encode("utf-8"))
        except UnicodeEncodeError:
            return f"{arg.name} = {value!r} is not UTF-8 text"
        return None if size <= arg.high else f"{arg.name} has {size} octets, limit {arg.high:g}"
    if arg.kind == "request":
        try:
            request_of(str(value))
        except LinkError as error:
            return f"{arg.name} = {value!r}: {error}"
        return None
    if isinstance(value, str):
        return f"{arg.name} = {value!r} is not a number"
    if not arg.low <= value <= arg.high:  # false for NaN as well
        unit = f" {arg.unit}" if arg.unit else ""
        return (f"{arg.name} = {parameters.number_text(value)}{unit} outside "
                f"{arg.low:.10g}..{arg.high:.10g}{unit}")
    if arg.enum is not None and value not in [int(member) for member in arg.enum]:
        names = ", ".join(f"{member.name}={member:d}" for member in arg.enum)
        return f"{arg.name} = {parameters.number_text(value)} is none of {names}"
    return None


def parse_text_argument(arg: Arg, text: str) -> Value:
    """Read `text` as an operator types it (a number or a code's name); LinkError when it is neither."""
    if arg.kind in {"text", "request"}:
        return text
    if arg.enum is not None and text.upper() in arg.enum.__members__:
        return int(arg.enum[text.upper()])
    try:
        if arg.unit == "UTC" and not text.replace(".", "", 1).isdecimal():
            moment = datetime.fromisoformat(text)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        return float(text) if arg.kind in {"f32", "f64"} else int(text, 0)
    except ValueError as error:
        names = "" if arg.enum is None else f" or one of {', '.join(arg.enum.__members__)}"
        raise LinkError(f"{arg.name} = {text!r} is not a {PACK_NAME[arg.kind]}{names}") from error


PACK_NAME: dict[str, str] = {code: ("number" if code in {"f32", "f64"} else "whole number") for code in PACK}


def find(service: int, subservice: int, data: bytes) -> Command | None:
    """Return the command that a telecommand packet's service, subservice and first octet name."""
    row = _BY_CODE.get((service, subservice, None))
    if row is None and data:
        row = _BY_CODE.get((service, subservice, data[0]))
    return row


def execute(row: Command, data: bytes, context: Context) -> tuple[Effect, ...] | Rejection:
    """Check and run a command, received or kept on board: arguments, bounds, mode gate, then its handler. Pure."""
    values = _arguments(row, data)
    if isinstance(values, Rejection):
        return values
    if context.mode not in row.modes:
        allowed = ", ".join(sorted(mode.name for mode in row.modes))
        return Rejection(FailureCode.WRONG_MODE,
                         f"{row.verb} needs mode {allowed}, mode is {context.mode.name}")
    if row.durable and not context.storage_works:
        return Rejection(FailureCode.NOT_POSSIBLE, f"{row.verb} needs durable storage, which has failed")
    result: tuple[Effect, ...] | Rejection = row.handler(context, *values)
    return result


def _arguments(row: Command, data: bytes) -> tuple[Value | Request, ...] | Rejection:
    """Unpack and check a command's arguments."""
    try:
        values = unpack_values(_wire_kinds(row), data, 0 if row.function is None else 1)
    except LinkError as error:
        return Rejection(FailureCode.BAD_ARGUMENTS, str(error))
    opened: list[Value | Request] = []
    for arg, value in zip(row.args, values, strict=True):
        if arg.kind == "request":
            octets = bytes.fromhex(str(value))
            if len(octets) < 2:
                return Rejection(FailureCode.BAD_ARGUMENTS, f"{arg.name} has {len(octets)} octets, at least 2 expected")
            request = Request(octets[0], octets[1], octets[2:])
            wrong = storing_problem(request)
            problem = f"{arg.name} = {value}: {wrong}" if wrong else None
            opened.append(request)
        else:
            problem = check_argument(arg, value)
            opened.append(value)
        if problem:
            return Rejection(FailureCode.BAD_ARGUMENTS, problem)
    return tuple(opened)


def digest_of(service: int, subservice: int, data: bytes) -> str:
    """Digest of exactly one command, by which it is armed: 8 octets of SHA-256, hexadecimal."""
    return hashlib.sha256(bytes((service, subservice)) + data).hexdigest()[:16]


def carried_verbs(row: Command, data: bytes) -> tuple[str, ...]:
    """Verbs of the commands that a command carries to be run later; none where its arguments are wrong."""
    if not any(arg.kind == "request" for arg in row.args):
        return ()
    opened = _arguments(row, data)
    if isinstance(opened, Rejection):
        return ()
    found = [find(*value) for value in opened if isinstance(value, Request)]
    return tuple([carried.verb for carried in found if carried is not None])


@telecommand("arm", 8, 1, Arg("digest", "text", "", 16, 16, "Digest of the command, see ground send --arm."),
             function=20)
def _arm(_context: Context, digest: str) -> tuple[Effect, ...] | Rejection:
    """Arm one hazardous command, which must then follow from the same station in time."""
    if len(digest) != 16 or not set(digest) <= set("0123456789abcdef"):
        return Rejection(FailureCode.NOT_POSSIBLE, f"digest = {digest!r}: 16 hexadecimal digits are expected")
    return (Arm(digest),)


_SENDER = Arg("sender", "u8", "", 0, 10, "0: telemetry, else a station, in the mission's order.")


@telecommand("key.roll", 8, 1, _SENDER, function=21, durable=True)
def _key_roll(_context: Context, sender: int) -> tuple[Effect, ...]:
    """Put a sender's next key on trial; it is taken back unless confirmed in time."""
    return (ChangeKey(KeyStep.ROLL, sender),)


@telecommand("key.confirm", 8, 1, _SENDER, function=22, durable=True)
def _key_confirm(_context: Context, sender: int) -> tuple[Effect, ...]:
    """Confirm a sender's key on trial, a station's by that key itself; the key before it is retired."""
    return (ChangeKey(KeyStep.CONFIRM, sender),)


@telecommand("ping", 17, 1)
def _ping(_context: Context) -> tuple[Effect, ...]:
    """Ask whether the satellite is alive; it answers with a PUS 17,2 report."""
    return (Pong(),)


@telecommand("mode", 8, 1, Arg("mode", "u8", "", 0, 255, "Mode to go to.", Mode), function=1, durable=True)
def _mode(context: Context, mode: int) -> tuple[Effect, ...] | Rejection:
    """Change the spacecraft mode; only legal transitions are accepted."""
    wanted = Mode(mode)
    if wanted not in LEGAL_TRANSITIONS[context.mode]:
        legal = ", ".join(sorted(m.name for m in LEGAL_TRANSITIONS[context.mode]))
        return Rejection(FailureCode.NOT_POSSIBLE,
                         f"{context.mode.name} -> {wanted.name} is not legal; legal: {legal}")
    return (SetMode(wanted, "telecommand"),)


@telecommand("safe", 8, 1, function=2)
def _safe(_context: Context) -> tuple[Effect, ...]:
    """Go to SAFE from any mode: all compute is shed."""
    return (SetMode(Mode.SAFE, "telecommand"),)


@telecommand("hk.report", 3, 27, Arg("structure", "u8", "", 1, 255, "Housekeeping structure id."))
def _hk_report(_context: Context, structure: int) -> tuple[Effect, ...] | Rejection:
    """Send one housekeeping structure now."""
    if structure not in BY_SID:
        return Rejection(FailureCode.BAD_ARGUMENTS, f"no structure {structure}; known: {sorted(BY_SID)}")
    return (ReportHousekeeping(structure),)


@telecommand("hk.period", 3, 31, Arg("structure", "u8", "", 1, 255, "Housekeeping structure id."),
             Arg("period", "f32", "s", 0.0, 3600.0, "Seconds between reports; 0 stops them."))
def _hk_period(_context: Context, structure: int, period: float) -> tuple[Effect, ...] | Rejection:
    """Set how often a housekeeping structure is sent."""
    if structure not in BY_SID:
        return Rejection(FailureCode.BAD_ARGUMENTS, f"no structure {structure}; known: {sorted(BY_SID)}")
    if 0.0 < period < 1.0:
        return Rejection(FailureCode.BAD_ARGUMENTS, f"period = {period:g} s, at least 1 s or 0")
    return (SetHousekeepingPeriod(structure, period),)


@telecommand("param.set", 20, 3, Arg("parameter", "text", "", 0, 64, "Name of the parameter."),
             Arg("value", "f64", "", -1e12, 1e12, "New value, in the parameter's unit."))
def _param_set(_context: Context, parameter: str, value: float) -> tuple[Effect, ...] | Rejection:
    """Set an on-board parameter within its bounds."""
    problem = parameters.check_value(parameter, value)
    if problem:
        return Rejection(FailureCode.BAD_ARGUMENTS, problem)
    return (SetParameter(parameter, value),)


@telecommand("param.report", 20, 1, Arg("parameter", "text", "", 0, 64, "Name of the parameter."))
def _param_report(_context: Context, parameter: str) -> tuple[Effect, ...] | Rejection:
    """Report the value of an on-board parameter."""
    row = parameters.BY_NAME.get(parameter)
    if row is None:
        return Rejection(FailureCode.BAD_ARGUMENTS, f"no parameter {parameter!r}")
    return (ReportParameter(row.number),)


@telecommand(
    "job.submit", 8, 1,
    Arg("job", "u32", "", 1, 0xFFFFFFFF, "Job id, never used before."),
    Arg("name", "text", "", 0, 48, "Name of the job; a known manifest's name runs that manifest."),
    Arg("work", "f32", "units", 1.0, 1e6, "Work; one unit is a second of a node in its reference mode."),
    Arg("activity", "f32", "frac", 0.1, 1.5, "Declared draw relative to the mode's nominal."),
    Arg("value", "f32", "", 0.0, 1e9, "What finishing it is worth."),
    Arg("deadline", "f32", "s", 1.0, 1209600.0, "Seconds from reception until it must be finished."),
    Arg("pause", "u8", "", 0, 2, "How it may be interrupted.", Pause),
    function=10, modes=_AWAKE, durable=True,
)
def _job_submit(context: Context, job: int, name: str, work: float, activity: float, value: float,
                deadline: float, pause: int) -> tuple[Effect, ...] | Rejection:
    """Submit a job; the answer is a promise or a refusal that says why and when it would fit."""
    if context.known_jobs(job):
        return Rejection(FailureCode.DUPLICATE, f"job {job} is known already")
    return (SubmitJob(JobSpec(job, name, work, activity, value, context.now_s, context.now_s + deadline,
                              context.now_s, Pause(pause), name)),)


@telecommand("job.cancel", 8, 1, Arg("job", "u32", "", 1, 0xFFFFFFFF, "Job id."), function=11,
             durable=True)
def _job_cancel(context: Context, job: int) -> tuple[Effect, ...] | Rejection:
    """Stop a job for good; its process is ended and its promise is void."""
    if job not in context.open_jobs:
        return Rejection(FailureCode.NOT_POSSIBLE, f"job {job} is not open")
    return (CancelJob(job),)


@telecommand("data.erase", 8, 1, Arg("customer", "text", "", 0, 80, "Customer whose sealed data is erased."),
             function=12, hazardous=True, durable=True)
def _data_erase(_context: Context, customer: str) -> tuple[Effect, ...] | Rejection:
    """Destroy the keys of a customer's sealed data for good; cancel the customer's open jobs first."""
    if not customer:
        return Rejection(FailureCode.NOT_POSSIBLE, "customer is empty: nobody's data")
    return (EraseData(customer),)


_NAMED_FILE = Arg("name", "text", "", 0, 80, "Name of the file.")
_TRANSFER = (Arg("source", "u8", "", 0, 255, "Entity that sends: 1 the satellite, 2 the ground."),
             Arg("sequence", "u32", "", 1, 0xFFFFFFFF, "Number of the transfer there, as `ground files` shows it."))


@telecommand("data.audit", 8, 1, function=13)
def _data_audit(_context: Context) -> tuple[Effect, ...]:
    """Copy the audit log to the file audit.log, to be had with file.get and checked with `ground audit verify`."""
    return (ExportAudit(),)


@telecommand("file.list", 8, 1, function=40)
def _file_list(_context: Context) -> tuple[Effect, ...]:
    """Report the files on board, an event each."""
    return (FileOrder("list"),)


@telecommand("file.get", 8, 1, _NAMED_FILE, function=41, durable=True)
def _file_get(_context: Context, name: str) -> tuple[Effect, ...]:
    """Send a file down, before all others; `ground download` says this and waits for it."""
    return (FileOrder("get", name),)


@telecommand("file.delete", 8, 1, _NAMED_FILE, function=42, durable=True)
def _file_delete(_context: Context, name: str) -> tuple[Effect, ...]:
    """Delete a file on board."""
    return (FileOrder("delete", name),)


@telecommand("file.cancel", 8, 1, *_TRANSFER, function=43, durable=True)
def _file_cancel(_context: Context, source: int, sequence: int) -> tuple[Effect, ...]:
    """End a file transfer before its time, at both ends."""
    return (FileOrder("cancel", source_id=source, sequence=sequence),)


@telecommand("file.suspend", 8, 1, *_TRANSFER, function=44, durable=True)
def _file_suspend(_context: Context, source: int, sequence: int) -> tuple[Effect, ...]:
    """Stop a file transfer until file.resume; what has arrived stays."""
    return (FileOrder("suspend", source_id=source, sequence=sequence),)


@telecommand("file.resume", 8, 1, *_TRANSFER, function=45, durable=True)
def _file_resume(_context: Context, source: int, sequence: int) -> tuple[Effect, ...]:
    """Let a suspended file transfer go on."""
    return (FileOrder("resume", source_id=source, sequence=sequence),)


# --- on-board time (PUS 9) ---------------------------------------------------------------------------

CORRECTION_MAX_S = 86_400.0
"""The most that commands may have added to on-board time in all; the orbit is forecast from it."""


@telecommand("time.rate", 9, 1, Arg("exponent", "u8", "", 0, 255, "0 to 11; 255 for none."))
def _time_rate(_context: Context, exponent: int) -> tuple[Effect, ...] | Rejection:
    """Report the time every 2^exponent seconds by itself: parameter time_report_s."""
    if 11 < exponent < 255:
        return Rejection(FailureCode.BAD_ARGUMENTS, f"exponent = {exponent} outside 0..11 and 255")
    return (SetParameter("time_report_s", 0.0 if exponent == 255 else 2.0**exponent),)


@telecommand("time.report", 9, 128)
def _time_report(context: Context) -> tuple[Effect, ...]:
    """Report on-board time and the clock that it is made of, to correlate it with the ground's."""
    return (SendReport("time", (context.obt_s, context.now_s, context.orders.clock_correction_s)),)


@telecommand("time.set", 9, 129, Arg("at", "f64", "UTC", 0.0, 4294967295.0, "On-board time from now on."),
             modes=frozenset({Mode.SAFE, Mode.STANDBY}), durable=True)
def _time_set(context: Context, at_s: float) -> tuple[Effect, ...] | Rejection:
    """Set on-board time; the orbit is forecast anew, commands whose time is jumped over are missed."""
    return _correct(context, at_s - context.obt_s)


@telecommand("time.adjust", 9, 130, Arg("seconds", "f64", "s", -10.0, 10.0, "What is added to on-board time."),
             durable=True)
def _time_adjust(context: Context, seconds: float) -> tuple[Effect, ...] | Rejection:
    """Move on-board time by a little, in any mode."""
    return _correct(context, seconds)


def _correct(context: Context, seconds: float) -> tuple[Effect, ...] | Rejection:
    correction_s = context.orders.clock_correction_s + seconds
    if abs(correction_s) > CORRECTION_MAX_S:
        return Rejection(FailureCode.NOT_POSSIBLE, f"correction of {correction_s:.3f} s in all outside "
                                                   f"-{CORRECTION_MAX_S:g}..{CORRECTION_MAX_S:g} s")
    return (_switch(orders.CLOCK_CORRECTION_S, correction_s),
            SendReport("time", (context.obt_s + seconds, context.now_s, correction_s)))


def _switch(key: str, value: float) -> OrderChange:
    return OrderChange(OrderTable.SWITCHES, key, Switch(value))


# --- time-tagged commands (PUS 11) -------------------------------------------------------------------

_NUMBER = Arg("number", "u16", "", 1, 0xFFFF, "Its number.")
_COMMAND = Arg("command", "request", "", 0, OCTETS_MAX, "The telecommand in words, in quotation marks.")
_SCHEDULED = Arg("number", "u32", "", 1, 0xFFFFFFFF, "Its number, free until it has run.")


@telecommand("schedule.insert", 11, 4, _SCHEDULED,
             Arg("at", "f64", "UTC", 0.0, 4294967295.0, "On-board time at which it runs."), _COMMAND, durable=True)
def _schedule_insert(context: Context, number: int, at_s: float, request: Request) -> tuple[Effect, ...] | Rejection:
    """Keep a command and run it at its time; late by more than schedule_late_s it is reported, never run."""
    if number in context.orders.schedule:
        return Rejection(FailureCode.DUPLICATE, f"time-tagged command {number} waits already")
    if at_s <= context.obt_s:
        return Rejection(FailureCode.NOT_POSSIBLE, f"at = {at_s:.1f} was {context.obt_s - at_s:.1f} s ago")
    if len(context.orders.schedule) >= orders.SCHEDULE_MAX:
        return Rejection(FailureCode.NOT_POSSIBLE, f"{orders.SCHEDULE_MAX} time-tagged commands wait already")
    return (OrderChange(OrderTable.SCHEDULE, number, Scheduled(number, at_s, request)),)


@telecommand("schedule.delete", 11, 5, _SCHEDULED, durable=True)
def _schedule_delete(context: Context, number: int) -> tuple[Effect, ...] | Rejection:
    """Forget a time-tagged command."""
    return _delete(OrderTable.SCHEDULE, number, number in context.orders.schedule, "time-tagged command")


def _delete(table: OrderTable, key: int | str, is_there: bool, what: str) -> tuple[Effect, ...] | Rejection:
    if not is_there:
        return Rejection(FailureCode.NOT_POSSIBLE, f"no {what} {key}")
    return (OrderChange(table, key, None),)


@telecommand("schedule.reset", 11, 3, durable=True)
def _schedule_reset(context: Context) -> tuple[Effect, ...]:
    """Forget all time-tagged commands."""
    return (*(OrderChange(OrderTable.SCHEDULE, number, None) for number in context.orders.schedule),
            SendReport("schedule_summary", (int(context.orders.schedule_on), 0)))


@telecommand("schedule.on", 11, 1, durable=True)
def _schedule_on(_context: Context) -> tuple[Effect, ...]:
    """Run time-tagged commands when their time comes."""
    return (_switch(orders.SCHEDULE_ON, 1.0),)


@telecommand("schedule.off", 11, 2, durable=True)
def _schedule_off(_context: Context) -> tuple[Effect, ...]:
    """Run no time-tagged commands; those whose time comes meanwhile are reported as missed."""
    return (_switch(orders.SCHEDULE_ON, 0.0),)


@telecommand("schedule.report", 11, 16)
def _schedule_report(context: Context) -> tuple[Effect, ...]:
    """Report every time-tagged command, in the order of their times."""
    waiting = sorted(context.orders.schedule.values(), key=lambda row: (row.at_obt_s, row.number))
    return (SendReport("schedule_summary", (int(context.orders.schedule_on), len(waiting))), *(
        SendReport("schedule_entry", (row.number, row.at_obt_s, octets_of(row.request).hex())) for row in waiting))


# --- monitoring definitions (PUS 12) -----------------------------------------------------------------

_MONITOR_ARGS = (
    _NUMBER,
    Arg("point", "text", "", 0, 64, "Housekeeping point."),
    Arg("low", "f64", "", -1e12, 1e12, "Lower limit, in the point's unit."),
    Arg("high", "f64", "", -1e12, 1e12, "Upper limit, in the point's unit."),
    Arg("samples", "u8", "", 1, 255, "Samples in a row that make a crossing or a return."),
    Arg("severity", "u8", "", 1, 4, "Severity of its event.", Severity),
)


@telecommand("monitor.add", 12, 5, *_MONITOR_ARGS, durable=True)
def _monitor_add(context: Context, number: int, point: str, low: float, high: float, samples: int,
                 severity: int) -> tuple[Effect, ...] | Rejection:
    """Watch a housekeeping point from now on; an event says when it leaves its limits and when it is back."""
    if number in context.orders.monitors:
        return Rejection(FailureCode.DUPLICATE, f"monitor {number} is there already")
    if len(context.orders.monitors) >= orders.MONITORS_MAX:
        return Rejection(FailureCode.NOT_POSSIBLE, f"there are {orders.MONITORS_MAX} monitors already")
    return _monitor(MonitorDefinition(number, point, low, high, samples, severity, True))


@telecommand("monitor.modify", 12, 7, *_MONITOR_ARGS, durable=True)
def _monitor_modify(context: Context, number: int, point: str, low: float, high: float, samples: int,
                    severity: int) -> tuple[Effect, ...] | Rejection:
    """Change a monitor; it begins afresh."""
    before = context.orders.monitors.get(number)
    if before is None:
        return Rejection(FailureCode.NOT_POSSIBLE, f"no monitor {number}")
    return _monitor(MonitorDefinition(number, point, low, high, samples, severity, before.enabled))


def _monitor(row: MonitorDefinition) -> tuple[Effect, ...] | Rejection:
    if row.point not in POINT_INDEX:
        return Rejection(FailureCode.BAD_ARGUMENTS, f"no housekeeping point {row.point!r}")
    if row.low >= row.high:
        return Rejection(FailureCode.BAD_ARGUMENTS, f"low = {row.low:g} is not below high = {row.high:g}")
    return (OrderChange(OrderTable.MONITORS, row.number, row),)


@telecommand("monitor.delete", 12, 6, _NUMBER, durable=True)
def _monitor_delete(context: Context, number: int) -> tuple[Effect, ...] | Rejection:
    """Forget a monitor."""
    return _delete(OrderTable.MONITORS, number, number in context.orders.monitors, "monitor")


@telecommand("monitor.enable", 12, 1, _NUMBER, durable=True)
def _monitor_enable(context: Context, number: int) -> tuple[Effect, ...] | Rejection:
    """Put a monitor in force."""
    return _enable_monitor(context, number, True)


@telecommand("monitor.disable", 12, 2, _NUMBER, durable=True)
def _monitor_disable(context: Context, number: int) -> tuple[Effect, ...] | Rejection:
    """Keep a monitor, but out of force."""
    return _enable_monitor(context, number, False)


def _enable_monitor(context: Context, number: int, enabled: bool) -> tuple[Effect, ...] | Rejection:
    row = context.orders.monitors.get(number)
    if row is None:
        return Rejection(FailureCode.NOT_POSSIBLE, f"no monitor {number}")
    return (OrderChange(OrderTable.MONITORS, number, row._replace(enabled=enabled)),)


@telecommand("monitor.report", 12, 8)
def _monitor_report(context: Context) -> tuple[Effect, ...]:
    """Report every monitoring definition."""
    rows = context.orders.monitors.values()
    return (SendReport("monitor_summary", (1, len(rows))), *(
        SendReport("monitor_definition", (*row[:-1], int(row.enabled))) for row in rows))


# --- event-actions (PUS 19) --------------------------------------------------------------------------


@telecommand(
    "action.add", 19, 1, _NUMBER,
    Arg("event", "text", "", 0, 64, "Event that sets it off."),
    Arg("subject", "text", "", 0, 64, "What the event's first argument must be; '' for any."),
    Arg("times", "u8", "", 1, 255, "How many times it may run before it is spent."),
    _COMMAND, durable=True,
)
def _action_add(context: Context, number: int, event: str, subject: str, times: int,
                request: Request) -> tuple[Effect, ...] | Rejection:
    """Run a command when an event happens; a second later, at most once a second, and only so many times."""
    if number in context.orders.actions:
        return Rejection(FailureCode.DUPLICATE, f"event-action {number} is there already")
    if event not in events.BY_NAME:
        return Rejection(FailureCode.BAD_ARGUMENTS, f"no event {event!r}")
    if event in STORED_COMMAND_EVENTS:
        return Rejection(FailureCode.BAD_ARGUMENTS, f"{event} tells of commands that run by themselves: no action "
                                                    "follows from it")
    if len(context.orders.actions) >= orders.ACTIONS_MAX:
        return Rejection(FailureCode.NOT_POSSIBLE, f"there are {orders.ACTIONS_MAX} event-actions already")
    return (OrderChange(OrderTable.ACTIONS, number, Action(number, event, subject, times, request, True)),)


STORED_COMMAND_EVENTS = frozenset({"stored_command_done", "stored_command_rejected", "action_spent"})


@telecommand("action.delete", 19, 2, _NUMBER, durable=True)
def _action_delete(context: Context, number: int) -> tuple[Effect, ...] | Rejection:
    """Forget an event-action."""
    return _delete(OrderTable.ACTIONS, number, number in context.orders.actions, "event-action")


@telecommand("action.reset", 19, 3, durable=True)
def _action_reset(context: Context) -> tuple[Effect, ...]:
    """Forget all event-actions."""
    return (*(OrderChange(OrderTable.ACTIONS, number, None) for number in context.orders.actions),
            SendReport("action_summary", (int(context.orders.actions_on), 0)))


@telecommand("action.enable", 19, 4, _NUMBER, durable=True)
def _action_enable(context: Context, number: int) -> tuple[Effect, ...] | Rejection:
    """Put an event-action in force."""
    return _enable_action(context, number, True)


@telecommand("action.disable", 19, 5, _NUMBER, durable=True)
def _action_disable(context: Context, number: int) -> tuple[Effect, ...] | Rejection:
    """Keep an event-action, but out of force."""
    return _enable_action(context, number, False)


def _enable_action(context: Context, number: int, enabled: bool) -> tuple[Effect, ...] | Rejection:
    row = context.orders.actions.get(number)
    if row is None:
        return Rejection(FailureCode.NOT_POSSIBLE, f"no event-action {number}")
    return (OrderChange(OrderTable.ACTIONS, number, row._replace(enabled=enabled)),)


@telecommand("action.on", 19, 8, durable=True)
def _action_on(_context: Context) -> tuple[Effect, ...]:
    """Let events set off their actions."""
    return (_switch(orders.ACTIONS_ON, 1.0),)


@telecommand("action.off", 19, 9, durable=True)
def _action_off(_context: Context) -> tuple[Effect, ...]:
    """Let no event set off anything."""
    return (_switch(orders.ACTIONS_ON, 0.0),)


@telecommand("action.report", 19, 10)
def _action_report(context: Context) -> tuple[Effect, ...]:
    """Report every event-action."""
    rows = context.orders.actions.values()
    return (SendReport("action_summary", (int(context.orders.actions_on), len(rows))), *(
        SendReport("action_definition", (row.number, row.event, row.subject, row.left, int(row.enabled),
                                         octets_of(row.request).hex())) for row in rows))


# --- stored sequences (PUS 21) -----------------------------------------------------------------------

_SEQUENCE = Arg("name", "text", "", 1, 48, "Its name, which is that of its file.")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,47}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@telecommand("sequence.load", 21, 2, _SEQUENCE,
             Arg("sha256", "text", "", 64, 64, "SHA-256 of the file, in hexadecimal."), durable=True)
def _sequence_load(context: Context, name: str, sha256: str) -> tuple[Effect, ...] | Rejection:
    """Take a file that was sent up as a sequence, if it is the file that was meant."""
    if not _FILE_NAME.fullmatch(name):
        return Rejection(FailureCode.BAD_ARGUMENTS, f"name = {name!r}: letters, digits, '.', '_' and '-'")
    if not _SHA256.fullmatch(sha256):
        return Rejection(FailureCode.BAD_ARGUMENTS, f"sha256 = {sha256!r} is not 64 hexadecimal digits")
    if name in context.running:
        return Rejection(FailureCode.NOT_POSSIBLE, f"sequence {name} is running")
    if name not in context.orders.sequences and len(context.orders.sequences) >= orders.SEQUENCES_MAX:
        return Rejection(FailureCode.NOT_POSSIBLE, f"there are {orders.SEQUENCES_MAX} sequences already")
    return (LoadSequence(name, sha256),)


@telecommand("sequence.unload", 21, 3, _SEQUENCE, durable=True)
def _sequence_unload(context: Context, name: str) -> tuple[Effect, ...] | Rejection:
    """Forget a stored sequence."""
    if name in context.running:
        return Rejection(FailureCode.NOT_POSSIBLE, f"sequence {name} is running")
    return _delete(OrderTable.SEQUENCES, name, name in context.orders.sequences, "sequence")


@telecommand("sequence.start", 21, 4, _SEQUENCE, durable=True)
def _sequence_start(context: Context, name: str) -> tuple[Effect, ...] | Rejection:
    """Run a stored sequence: start, each command and the end are verified; a rejected command ends it."""
    if name not in context.orders.sequences:
        return Rejection(FailureCode.NOT_POSSIBLE, f"no sequence {name!r}")
    if name in context.running:
        return Rejection(FailureCode.NOT_POSSIBLE, f"sequence {name} is running already")
    return (StartSequence(name),)


@telecommand("sequence.stop", 21, 5, _SEQUENCE)
def _sequence_stop(context: Context, name: str) -> tuple[Effect, ...] | Rejection:
    """Stop a sequence that is running."""
    if name not in context.running:
        return Rejection(FailureCode.NOT_POSSIBLE, f"sequence {name!r} is not running")
    return (StopSequence(name),)


@telecommand("sequence.report", 21, 6)
def _sequence_report(context: Context) -> tuple[Effect, ...]:
    """Report every stored sequence and how far it has run."""
    rows = context.orders.sequences.values()
    return (SendReport("sequence_summary", (1, len(rows))), *(
        SendReport("sequence", (row.name, int(row.name in context.running), len(parse_sequence(row.text)),
                                context.running.get(row.name, 0), row.sha256)) for row in rows))


def open_sequence(text: str) -> tuple[tuple[float, Request], ...]:
    """Read a sequence to seconds after the command before and requests; LinkError says which command is wrong.

    A sequence starts no sequence, so that none can run for ever.
    """
    opened = []
    for i, (delay_s, words) in enumerate(parse_sequence(text), 1):
        try:
            request = request_of(words)
        except LinkError as error:
            raise LinkError(f"command {i}: {error}") from error
        if find(*request) is COMMANDS["sequence.start"]:
            raise LinkError(f"command {i}: a sequence starts no sequence")
        opened.append((delay_s, request))
    return tuple(opened)

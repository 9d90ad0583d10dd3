"""Every telecommand: one decorated pure handler each.

The decorator's row and the handler's signature are the whole declaration: parsing, bounds, mode gate,
acceptance and completion reports, `ground send` verb with its help, and XTCE come out of it. A handler
turns arguments into effects or a rejection; it touches nothing. The supervisor carries effects out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import NamedTuple

from flightsw.dictionary import parameters
from flightsw.dictionary.telemetry import BY_SID, PACK, pack_values, unpack_values
from flightsw.errors import LinkError
from flightsw.state import (
    LEGAL_TRANSITIONS,
    CancelJob,
    Effect,
    EraseData,
    JobSpec,
    Mode,
    Pause,
    Pong,
    ReportHousekeeping,
    ReportParameter,
    SetHousekeepingPeriod,
    SetMode,
    SetParameter,
    SubmitJob,
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


class Context(NamedTuple):
    """What a handler may know."""

    now_s: float
    mode: Mode
    open_jobs: frozenset[int]
    known_jobs: Callable[[int], bool]
    storage_works: bool = True


class Arg(NamedTuple):
    """One argument: type of `dictionary.telemetry.PACK` or `text`, unit, bounds, meaning, code names."""

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
    return head + pack_values([arg.kind for arg in row.args], values)


def check_argument(arg: Arg, value: Value) -> str | None:
    """Return what is wrong with `value` for `arg`, or None."""
    if arg.kind == "text":
        try:
            size = len(str(value).encode("utf-8"))
        except UnicodeEncodeError:
            return f"{arg.name} = {value!r} is not UTF-8 text"
        return None if size <= arg.high else f"{arg.name} has {size} octets, limit {arg.high:g}"
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
    if arg.kind == "text":
        return text
    if arg.enum is not None and text.upper() in arg.enum.__members__:
        return int(arg.enum[text.upper()])
    try:
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
    """Check and run a received command: arguments, bounds, mode gate, then its handler. Pure."""
    try:
        values = unpack_values([arg.kind for arg in row.args], data, 0 if row.function is None else 1)
    except LinkError as error:
        return Rejection(FailureCode.BAD_ARGUMENTS, str(error))
    for arg, value in zip(row.args, values, strict=True):
        problem = check_argument(arg, value)
        if problem:
            return Rejection(FailureCode.BAD_ARGUMENTS, problem)
    if context.mode not in row.modes:
        allowed = ", ".join(sorted(mode.name for mode in row.modes))
        return Rejection(FailureCode.WRONG_MODE,
                         f"{row.verb} needs mode {allowed}, mode is {context.mode.name}")
    if row.durable and not context.storage_works:
        return Rejection(FailureCode.NOT_POSSIBLE, f"{row.verb} needs durable storage, which has failed")
    result: tuple[Effect, ...] | Rejection = row.handler(context, *values)
    return result


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

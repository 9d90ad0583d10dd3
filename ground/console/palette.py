"""The command line of the console: what can be typed next, and what is wrong with what was typed.

Pure; names of files are given to it. Verbs, arguments, bounds and code names come from the dictionary, so a new
telecommand completes by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from flightsw.dictionary.commands import COMMANDS, Arg, Command, Value, check_argument, parse_text_argument
from flightsw.dictionary.parameters import BY_NAME, PARAMETERS
from flightsw.dictionary.telemetry import HOUSEKEEPING
from flightsw.errors import LinkError


class Choice(NamedTuple):
    """One way to go on: what the word becomes, and what it means."""

    word: str
    meaning: str


FILE_VERBS = {"upload": ("FILE", "Send a file of this machine to the satellite; a signed bundle becomes a job."),
              "download": ("NAME", "Get a file from the satellite; file.list names them.")}
"""What the owner of the port does with files; not telecommands themselves."""

_SELDOM = ("arm", "key.")  # typed by hand: hardly ever; they stand last


class Reading(NamedTuple):
    """What a typed line amounts to: choices for its last word, the hint for that word, what is wrong, and the command,
    or the order to the owner's file desk, once it is whole and within bounds.
    """

    choices: tuple[Choice, ...]
    hint: str
    problem: str
    row: Command | None = None
    values: tuple[Value, ...] | None = None
    order: tuple[str, str] | None = None


def words_of(line: str) -> list[str]:
    """Split a line; the last word is empty after a blank. Text with blanks stands in double quotes."""
    words, word, quoted, inside = [], "", False, False
    for char in line:
        if char == '"':
            quoted, inside = not quoted, True
        elif char == " " and not quoted:
            if word or inside:
                words.append(word)
            word, inside = "", False
        else:
            word += char
    return [*words, word]


def read(line: str, files: Callable[[str, str], Sequence[Choice]] = lambda _verb, _word: ()) -> Reading:
    """Read a line as far as it was typed; `files` gives the files that a verb's word may become."""
    words = words_of(line.lstrip())
    row = COMMANDS.get(words[0])
    if words[0] in FILE_VERBS:
        name, meaning = FILE_VERBS[words[0]]
        whole = len(words) == 2 and bool(words[1])
        choices = tuple(files(words[0], words[1])) if len(words) == 2 else ()
        return Reading(choices, f"{name}: {meaning}", "" if len(words) < 3 else f"{words[0]} takes one {name}",
                       order=(words[0], words[1]) if whole else None)
    if len(words) == 1 and (row is None or row.args):
        known = [*(Choice(verb, meaning) for verb, (_, meaning) in FILE_VERBS.items()),
                 *(Choice(c.verb, ("HAZARDOUS  " if c.hazardous else "") + c.description) for c in COMMANDS.values())]
        choices = tuple(sorted((one for one in known if words[0] in one.word),
                               key=lambda one: (not one.word.startswith(words[0]), one.word.startswith(_SELDOM))))
        problem = "" if choices else f"no telecommand {words[0]!r}"
        return Reading(choices, "a telecommand; Tab completes", problem)
    if row is None:
        return Reading((), "", f"no telecommand {words[0]!r}")
    typed = words[1:]
    arg = row.args[len(typed) - 1] if 0 < len(typed) <= len(row.args) else None
    choices = _choices(row, arg, typed) if arg is not None else ()
    if typed[-1:] == [""]:
        typed = typed[:-1]
    if len(typed) > len(row.args):
        return Reading((), "", f"{row.verb} takes {len(row.args)} arguments", row)
    hint = argument_text(arg) if arg is not None else "Enter sends it"
    values: list[Value] = []
    for one, word in zip(row.args, typed, strict=False):
        problem = _problem(row, one, word, values)
        if problem:
            return Reading(choices, hint, problem, row)
    whole = len(values) == len(row.args)
    missing = "" if whole else f"still to come: {' '.join(a.name.upper() for a in row.args[len(values):])}"
    return Reading(choices, hint if not whole or choices else "Enter sends it", missing, row,
                   tuple(values) if whole else None)


def complete(line: str, choice: Choice) -> str:
    """Return the line with its last word replaced by a choice, and a blank where it ends there."""
    head = line[: len(line) - len(words_of(line)[-1])]
    return f"{head}{choice.word}{'' if choice.word.endswith('/') else ' '}"


def argument_text(arg: Arg) -> str:
    """Return name, bounds, unit and meaning of an argument."""
    if arg.enum is not None:
        bounds = "one of " + ", ".join(member.name for member in arg.enum)
    elif arg.kind == "text":
        bounds = f"text, up to {arg.high:g} octets"
    elif arg.kind == "request":
        bounds = "a telecommand with its arguments, in double quotes"
    else:
        bounds = f"{arg.low:.10g}..{arg.high:.10g} {arg.unit}".rstrip()
    return f"{arg.name.upper()}: {arg.description} [{bounds}]"


def _choices(row: Command, arg: Arg, typed: list[str]) -> tuple[Choice, ...]:
    word = typed[-1] if typed else ""
    if arg.enum is not None:
        found = [Choice(member.name, f"{member:d}") for member in arg.enum]
    elif arg.name == "parameter":
        found = [Choice(p.name, f"{p.low:g}..{p.high:g} {p.unit}  {p.description}") for p in PARAMETERS]
    elif arg.name == "structure":
        found = [Choice(str(s.sid), s.name) for s in HOUSEKEEPING]
    else:
        if row.verb == "param.set" and arg.name == "value" and typed and typed[0] in BY_NAME:
            p = BY_NAME[typed[0]]
            return (Choice(f"{p.default:g}", f"default; {p.low:g}..{p.high:g} {p.unit}"),) if not word else ()
        return ()
    return tuple(c for c in found if word.upper() in c.word.upper() and c.word != word)


def _problem(row: Command, arg: Arg, word: str, values: list[Value]) -> str:
    """Take one argument into `values`, or say what is wrong with it."""
    try:
        value = parse_text_argument(arg, word)
    except LinkError as error:
        return str(error)
    problem = check_argument(arg, value)
    if not problem and arg.name == "parameter" and value not in BY_NAME:
        problem = f"no parameter {word!r}"
    if not problem and row.verb == "param.set" and arg.name == "value":
        p = BY_NAME.get(str(values[0])) if values else None
        if p is not None and not p.low <= float(value) <= p.high:
            problem = f"{p.name} = {word} outside {p.low:g}..{p.high:g} {p.unit}".rstrip()
    if problem:
        return problem
    values.append(value)
    return ""

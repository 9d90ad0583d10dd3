"""How a run came out: four verdicts, findings with their margins, and the requirements that they close.

Used by every bench, the report, JUnit and the exit status. It judges findings, never signals (`hil.checks` does).
A verdict is the worst of its findings; a bench that was late or broke is never a pass.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flightsw.declared import Reader, problems_error, read_toml, text

REQUIREMENTS = Path(__file__).resolve().parent / "requirements.toml"
REQUIREMENT_ID = r"REQ-[A-Z]{2,5}-\d{1,3}"


class Verdict(enum.Enum):
    """How a check or a run came out (the four of ECSS-E-ST-10-02 verification reports)."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"


EXIT_STATUS = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3, Verdict.ERROR: 4}
"""Status of `hil run`; 2 is bad input."""


@dataclass(frozen=True, slots=True)
class Finding:
    """How one check came out.

    `margin` is how far inside it stayed at the worst, in `unit`, negative beyond; None where a check has no distance.
    `worst_s` is when that was. `waived` is the reason why a failure does not count, as the scenario states it.
    """

    name: str
    verdict: Verdict
    detail: str
    statement: str = ""
    margin: float | None = None
    unit: str = ""
    worst_s: float | None = None
    verifies: tuple[str, ...] = ()
    waived: str = ""


def overall(findings: Iterable[Finding]) -> Verdict:
    """Return the worst verdict of the findings that are not waived: ERROR, FAIL, INCONCLUSIVE, PASS."""
    found = {finding.verdict for finding in findings if not finding.waived}
    return next((verdict for verdict in (Verdict.ERROR, Verdict.FAIL, Verdict.INCONCLUSIVE) if verdict in found),
                Verdict.PASS)


# --- requirements ------------------------------------------------------------------------------------


class Level(enum.IntEnum):
    """On what a requirement must be shown: in virtual time, on processes in lockstep or behind ports, on hardware."""

    SIL = 1
    PIL = 2
    HIL = 3


@dataclass(frozen=True, slots=True)
class Requirement:
    """One requirement; a pass below `level` shows it there and leaves it open."""

    id: str = text(REQUIREMENT_ID, "like REQ-PWR-3")
    level: str = text("SIL|PIL|HIL", "SIL, PIL or HIL")
    text: str = text(r".{10,300}", "10..300 characters")


@dataclass(frozen=True, slots=True)
class _Requirements:
    requirement: tuple[Requirement, ...]


def load_requirements(path: Path = REQUIREMENTS) -> dict[str, Requirement]:
    """Read a requirements file; ConfigError lists every problem, a double id too."""
    reader = Reader()
    given = reader.build(_Requirements, read_toml(path))
    found: dict[str, Requirement] = {}
    for i, row in enumerate(given.requirement if given is not None else ()):
        if row.id in found:
            reader.problems.append(f"requirement[{i}].id = {row.id!r} is there twice")
        found[row.id] = row
    if reader.problems:
        raise problems_error(str(path), reader.problems)
    return found


class Closure(enum.Enum):
    """What a run says of a requirement."""

    CLOSED = "closed"
    SHOWN = "shown below its level"
    FAILED = "failed"
    OPEN = "not decided"


@dataclass(frozen=True, slots=True)
class Trace:
    """One line of the requirement matrix; `findings` are the names of the checks that bear on it."""

    requirement: Requirement
    closure: Closure
    findings: tuple[str, ...]


def matrix(findings: Sequence[Finding], requirements: dict[str, Requirement], level: Level) -> tuple[Trace, ...]:
    """Return what a run at `level` says of each requirement that it bears on.

    A requirement is closed only where all of its findings pass, none of them waived, at its own level or above.
    """
    traces = []
    for requirement in requirements.values():
        mine = [finding for finding in findings if requirement.id in finding.verifies]
        if not mine:
            continue
        if any(finding.verdict is Verdict.FAIL for finding in mine):
            closure = Closure.FAILED
        elif any(finding.verdict is not Verdict.PASS for finding in mine):
            closure = Closure.OPEN
        else:
            closure = Closure.CLOSED if level >= Level[requirement.level] else Closure.SHOWN
        traces.append(Trace(requirement, closure, tuple(finding.name for finding in mine)))
    return tuple(traces)

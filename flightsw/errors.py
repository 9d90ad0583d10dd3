"""Exceptions of the project, one tree.

    FlightError
    +-- ConfigError      a mission, scenario, TLE or manifest that must not be flown
    +-- LinkError        a byte sequence that is not a valid frame, packet or command
    +-- KernelError      a C kernel refused its input
    +-- BoardError       a device or file of the board failed
    +-- StoreError       durable storage failed or is corrupt
    +-- JobError         a job bundle, process or sandbox failed

Expected trouble is a value (a reading's quality, a `Refusal`), never an exception. A message names the
object, the value, the limit and the unit.
"""

from __future__ import annotations


class FlightError(Exception):
    """Base of all errors that the project raises on purpose; its text is fit for an operator."""


class ConfigError(FlightError):
    """A configuration that must not be flown. `where` names the file and, where known, the key."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem


class LinkError(FlightError):
    """A byte sequence that is not a valid frame, packet or command."""


class KernelError(FlightError):
    """The C function `function` returned the negative status `code`."""

    def __init__(self, function: str, code: int, meaning: str = "") -> None:
        super().__init__(f"kernel {function} returned {code}" + (f": {meaning}" if meaning else ""))
        self.function = function
        self.code = code


class BoardError(FlightError):
    """A device, port or file of the board failed."""


class StoreError(FlightError):
    """Durable storage failed or is corrupt; never retried in hope."""


class JobError(FlightError):
    """A job bundle, process or sandbox failed."""

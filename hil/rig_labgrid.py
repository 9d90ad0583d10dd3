"""Rigs that labgrid describes: its power switch and its shell behind the doors of `hil.rig`.

Imported only where a `rig.toml` names a labgrid environment; labgrid is not among the rig's own requirements. Whatever
labgrid can switch (PDUs, USB hubs, relays) and reach (SSH, serial shell), here or through its exporters, will do.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from flightsw.errors import BoardError, ConfigError
from hil.rig import Power, Shell


class _LabgridPower:
    def __init__(self, target: Any) -> None:  # Any: labgrid's own types, here and below
        self._target = target

    def set(self, on: bool) -> None:
        """See `Power`."""
        power = _driver(self._target, "PowerProtocol")
        _do(power.on if on else power.off)


class _LabgridShell:
    def __init__(self, target: Any) -> None:
        self._target = target

    def run(self, words: Sequence[str]) -> None:
        """See `Shell`. The command is run on the board, by labgrid's shell or SSH driver."""
        shell = _driver(self._target, "CommandProtocol")
        _do(lambda: shell.run_check(" ".join(words)))


def connect(config: Path, target: str) -> tuple[Power, Shell]:
    """Return power switch and shell of a labgrid target; ConfigError where labgrid or the target is not there."""
    try:
        labgrid: ModuleType = importlib.import_module("labgrid")
    except ImportError as error:
        raise ConfigError(str(config), "needs labgrid, which is not installed: pip install labgrid") from error
    try:
        found = labgrid.Environment(str(config)).get_target(target)
    except Exception as error:  # labgrid raises many kinds; each says what is wrong with the environment
        raise ConfigError(str(config), f"labgrid: {error}") from error
    if found is None:
        raise ConfigError(str(config), f"has no target {target!r}")
    return _LabgridPower(found), _LabgridShell(found)


def _driver(target: Any, protocol: str) -> Any:
    try:
        return target.get_driver(protocol)  # activates it
    except Exception as error:  # as above
        raise BoardError(f"labgrid has no {protocol} for this target: {error}") from error


def _do(action: Callable[[], object]) -> None:
    try:
        action()
    except Exception as error:  # as above
        raise BoardError(f"labgrid: {error}") from error

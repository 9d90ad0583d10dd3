"""Link keys of a rig: made from the scenario's seed, and handed to both ends of its line before a run.

Good for nothing else: whoever has the scenario has the keys. Real ones come from `ground keys new`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flightsw.keyfile import End, open_ring, write_keys
from flightsw.link.keys import KeyRing, make_keys
from ground.station import Seals
from hil.scenario import Scenario

FILE = "link.keys"
_STATION = 1  # the rig speaks as the first station of the mission


def hand_out(scenario: Scenario, folder: Path) -> Path:
    """Return the key file of a run, written into its folder where it is not there yet."""
    mission, path = scenario.mission, folder / FILE
    if not path.exists():
        write_keys(path, make_keys(mission.link.spacecraft_id, [station.name for station in mission.stations],
                                   _octets(scenario.seed)), is_secret=False)
    return path


def board_files(scenario: Scenario, folder: Path) -> list[Path]:
    """Return what the satellite's end needs, to be copied to where it flies."""
    path = hand_out(scenario, folder)
    return [path, *sorted(path.parent.glob(f"{FILE}.{End.BOARD}-*"))]


@contextmanager
def board_ring(scenario: Scenario, onboard: Path) -> Iterator[KeyRing | None]:
    """The satellite's end, for flight software whose folder `onboard` lies in the run's."""
    if scenario.mission.link.security == "clear":
        yield None
        return
    with open_ring(hand_out(scenario, onboard.parent), End.BOARD, scenario.mission.link.spacecraft_id) as ring:
        yield ring


@contextmanager
def ground_seals(scenario: Scenario, folder: Path) -> Iterator[Seals | None]:
    """The ground's end."""
    link = scenario.mission.link
    if link.security == "clear":
        yield None
        return
    with open_ring(hand_out(scenario, folder), End.GROUND, link.spacecraft_id) as ring:
        yield Seals(ring, _STATION, link.security == "encrypted")


def _octets(seed: int) -> Iterator[bytes]:
    number = 0
    while True:
        yield hashlib.sha256(f"rig key {number} of seed {seed}".encode()).digest()
        number += 1

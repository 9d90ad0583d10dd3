"""Who may send what, and hazardous commands in two steps.

The brain asks before it obeys a received command. A station may send the verbs that the mission file gives it, also
inside a command that carries another. A hazardous command is carried out only if the same station armed it a short
time before, by the digest of exactly this command; arming serves once. Without keys there are no stations, only the
two steps. Never looks at anything but its arguments: a recorded run replays through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from flightsw.dictionary import commands
from flightsw.dictionary.commands import FailureCode, Rejection
from flightsw.mission import Station
from flightsw.state import Received


class Authority:
    """What each station may do; `stations` are the mission's, in its order."""

    def __init__(self, stations: Sequence[Station]) -> None:
        self._stations = tuple(stations)
        self._armed: dict[int, tuple[str, float]] = {}  # by SPI: digest, and until when it serves

    def refusal(self, received: Received, now_s: float) -> Rejection | None:
        """Say why a known command is not carried out, or None; an arming that it needs is used up."""
        row = commands.find(received.service, received.subservice, received.data)
        if row is None:
            return None
        for verb in (row.verb, *commands.carried_verbs(row, received.data)):
            if not self.may_send(received.station, verb):
                return Rejection(FailureCode.NOT_AUTHORISED, f"{self._name(received.station)} may not send {verb}")
        if row.hazardous:
            digest, until_s = self._armed.pop(received.spi, ("", 0.0))
            if digest != commands.digest_of(received.service, received.subservice, received.data):
                return Rejection(FailureCode.NOT_ARMED, f"{row.verb} is hazardous and this one is not armed")
            if now_s > until_s:
                return Rejection(FailureCode.NOT_ARMED, f"{row.verb} was armed until {now_s - until_s:.0f} s ago")
        return None

    def arm(self, spi: int, digest: str, until_s: float) -> None:
        """Arm the command of this digest for who holds this SPI, in place of any other."""
        self._armed[spi] = (digest, until_s)

    def may_send(self, station: int, verb: str) -> bool:
        """Whether the mission lets a station send a verb."""
        if station == 0:
            return True  # in clear: whoever can speak can command
        if station > len(self._stations):
            return False
        return any(fnmatchcase(verb, pattern) for pattern in self._stations[station - 1].may_send)

    def _name(self, station: int) -> str:
        return self._stations[station - 1].name if station <= len(self._stations) else f"station {station}"

"""What the supervisor needs of a board. Everything that differs between a test, a bench and the real
satellite stands behind these two doors and the serial port.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from flightsw.state import RawReading


class Board(Protocol):
    """Sensors and the switches that are not power caps (those belong to the guardian alone)."""

    def read_sensors(self, now_s: float) -> Sequence[RawReading | None]:
        """Latest sample of each of `dictionary.sensors.SENSORS`, in order; None where none is fitted.

        A device that fails to answer gives a reading whose value is None. Never raises, never blocks.
        """

    def set_transmitter(self, on: bool) -> None:
        """Switch the downlink transmitter."""

    def describe(self) -> tuple[str, ...]:
        """One line for each device found and each expected one that is not there."""

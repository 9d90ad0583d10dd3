"""Flood the flight program's uplink at line rate, in real time, and see how long good commands take meanwhile.

    python tests/flightsw/flood_line.py [SECONDS]      (make flood: 60)

`flightsw run` is a process of its own behind a pseudo-terminal of 115,200 baud. Between octets of the flood, recorded
frames sent again as they are or with a bit flipped, a station sends pings at random moments; each is timed until its
verification is here. First without the flood, then with it. `test_forge.py` holds the bound in virtual time.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from flightsw import mission
from flightsw.keyfile import End, open_ring, write_keys
from flightsw.link.keys import KEY_OCTETS, make_keys
from flightsw.link.serial_port import SerialPort
from ground.archive import Archive
from ground.station import CommandState, Seals, Station
from hil.channel import PtyLine

BAUD = 115_200
OCTETS_PER_S = BAUD // 10
MISSION = Path(__file__).parents[2] / "missions" / "iss_like.toml"
_SETTLED_S = 3.0  # of pings first, which are what the flood repeats
_KEPT = 50


class Outcome(NamedTuple):
    """Delays of the pings, octets of flood a second, and what the program used of a processor."""

    delays_s: list[float]
    flood_octets_s: float
    busy_frac: float


class Recorded:
    """The port, and what went out through it."""

    def __init__(self, port: SerialPort) -> None:
        self._port = port
        self.frames: list[bytes] = []

    def read(self) -> bytes:
        return self._port.read()

    def write(self, octets: bytes) -> int:
        self.frames = [*self.frames[1 - _KEPT:], octets]
        return self._port.write(octets)


class Flood:
    """Octets of attacks at the rate of the line, in whole frames as far as a command does not come between."""

    def __init__(self, port: SerialPort, recorded: Recorded) -> None:
        self._port = port
        self._recorded = recorded
        self._random = random.Random(1)
        self._begun_s = time.monotonic() + _SETTLED_S
        self._rest = b""
        self.octets = 0

    def keep_up(self) -> None:
        """Send what the line could have carried by now."""
        due = int((time.monotonic() - self._begun_s) * OCTETS_PER_S) - self.octets
        while len(self._rest) < due:
            frame = bytearray(self._random.choice(self._recorded.frames))
            if self._random.random() < 0.7:
                frame[self._random.randrange(2, len(frame))] ^= 1 << self._random.randrange(8)
            self._rest += frame
        self._send(due)

    def end_frame(self) -> None:
        """Let a good command follow: nobody can put octets into the middle of it on a line with one sender."""
        self._send(len(self._rest))

    def _send(self, octets: int) -> None:
        if octets > 0:
            self._port.write(self._rest[:octets])
            self.octets += len(self._rest[:octets])
            self._rest = self._rest[octets:]


def fly(folder: Path, seconds: float, *, flooded: bool) -> Outcome:
    """Time pings for so long; AssertionError where one is not carried out."""
    flown = mission.load(MISSION)
    keys = folder / "link.keys"
    write_keys(keys, make_keys(flown.link.spacecraft_id, [one.name for one in flown.stations],
                               iter(lambda: os.urandom(KEY_OCTETS), b"")), is_secret=False)
    with PtyLine(BAUD) as line:
        program = subprocess.Popen(
            [sys.executable, "-m", "flightsw", "run", "--mission", MISSION, "--port", line.port_a, "--keys", keys,
             "--always-transmit", "--state", folder / "state"], stdout=subprocess.DEVNULL)
        try:
            with (open_ring(keys, End.GROUND, flown.link.spacecraft_id) as ring,
                  Archive(folder / "ground.sqlite") as archive, SerialPort(line.port_b, BAUD) as port):
                recorded = Recorded(port)
                station = Station(recorded, archive, scid=flown.link.spacecraft_id, apid=flown.link.apid,
                                  epoch_s=time.time() - time.monotonic(), seals=Seals(ring, 1, encrypted=False))
                while station.heard_s is None:
                    time.sleep(0.05)
                    station.poll(time.monotonic())
                flood = Flood(port, recorded)
                busy_s, begun_s = _busy_s(program.pid), time.monotonic()
                delays_s = _ping(station, flood if flooded else None, seconds)
                took_s = time.monotonic() - begun_s
                return Outcome(delays_s, flood.octets / took_s, (_busy_s(program.pid) - busy_s) / took_s)
        finally:
            program.terminate()
            program.wait()


def _ping(station: Station, flood: Flood | None, seconds: float) -> list[float]:
    draw, delays_s = random.Random(2), []
    begun_s = next_s = time.monotonic()
    sent = None
    while (now_s := time.monotonic()) - begun_s < seconds or sent is not None:
        station.poll(now_s)
        if sent is not None:
            state = station.command(sent.request_id).state
            assert state is not CommandState.NO_ANSWER, f"no answer to the ping at {sent.sent_s - begun_s:.1f} s"
            if state is not CommandState.SENT:
                delays_s.append(now_s - sent.sent_s)
                sent, next_s = None, now_s + draw.random()
        elif now_s >= next_s:
            if flood is not None:
                flood.end_frame()
            sent = station.send("ping", (), time.monotonic(), 10.0)
        if flood is not None:
            flood.keep_up()
        time.sleep(0.01)
    return delays_s


def _busy_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Print both; 1 where the flood costs more than a tick."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    worst_s = []
    for flooded in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            delays_s, flood_octets_s, busy_frac = fly(Path(folder), seconds, flooded=flooded)
        worst_s.append(max(delays_s))
        print(f"flood of {flood_octets_s:6.0f} octets/s: {len(delays_s)} pings, all carried out, after "
              f"{sorted(delays_s)[len(delays_s) // 2]:.2f} s (median), {worst_s[-1]:.2f} s (most); "
              f"{busy_frac:.1%} of a core", flush=True)
    return int(worst_s[1] > worst_s[0] + 1.0)


if __name__ == "__main__":
    sys.exit(main())

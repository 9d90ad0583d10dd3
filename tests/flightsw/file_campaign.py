"""Files over the emulated serial line, through everything that flies: how fast, and through what.

The satellite's file service with its link at 1 Hz, the station with its file desk at 10 Hz, and the virtual line at
115,200 baud between them. Rates are held against the computed ones: octets of file that the line carries when nothing
else is sent (8N1, segments of 1000 octets), in clear those of the link notes' table, sealed with 30 octets less in each
frame. `python tests/flightsw/file_campaign.py` is the long
form (`make files`): 1 MiB each. `test_file_line.py` runs the same cases with less, in virtual time as well.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from flightsw import mission
from flightsw.files import FileService
from flightsw.keyfile import End, read_keys, write_keys
from flightsw.link.keys import KeyRing, make_keys
from flightsw.link.sdls import CommandSeal, TelemetrySeal
from flightsw.link.services import CommandReceiver, Reporter
from flightsw.link.stack import Stack
from flightsw.reporting import Reporting
from flightsw.state import Event, FileOrder
from flightsw.store import TripleFact
from ground.archive import Archive
from ground.files import FileDesk
from ground.station import Seals, Station
from hil.channel import VirtualLine

BAUD = 115_200
SCID, APID = 42, 100
EPOCH_S = 1_800_000_000.0
DOWN_OCTETS_S = {False: 10_519.0, True: 9_219.0}  # computed, uncoded and with Reed-Solomon
UP_OCTETS_S = 9_577.0 * 960.0 / 982.0  # computed for the largest TC frames, sealed, less the headers of a PDU
_PDU_FRAC = 1000.0 / 1018.0
MISSION = mission.load(Path(__file__).parents[2] / "missions" / "iss_like.toml")


class Tampered:
    """A line's end whose writes are spoilt: whole frames lost, octets repeated, stretches in another order."""

    def __init__(self, end: object, unit_octets: int, seed: int) -> None:
        self._end = end
        self._unit_octets = unit_octets
        self._random = random.Random(seed)
        self.lost_frac = 0.0
        self.disorder_frac = 0.0  # of pieces of some 100 octets

    def read(self) -> bytes:
        octets: bytes = self._end.read()  # type: ignore[attr-defined]
        return octets

    def write(self, octets: bytes) -> int:
        step = self._unit_octets or len(octets)
        units = [octets[at : at + step] for at in range(0, len(octets), step)]
        spoilt = b"".join(unit for unit in units if self._random.random() >= self.lost_frac)
        if self.disorder_frac:
            spoilt = self._disorder(spoilt)
        self._end.write(spoilt)  # type: ignore[attr-defined]
        return len(octets)

    def _disorder(self, octets: bytes) -> bytes:
        pieces, at = [], 0
        while at < len(octets):
            end = at + self._random.randrange(1, 200)
            pieces.append(octets[at:end])
            at = end
        for i in range(len(pieces) - 1):
            if self._random.random() < self.disorder_frac:
                if self._random.random() < 0.5:
                    pieces[i] *= 2
                else:
                    pieces[i], pieces[i + 1] = pieces[i + 1], pieces[i]
        return b"".join(pieces)


class Bench:
    """Both ends and the line between them, in virtual time."""

    def __init__(self, folder: Path, stack: Stack, *, sealed: bool = False, seed: int = 1) -> None:
        self.folder = folder
        self.stack = stack
        self.keys = folder / "link.keys" if sealed else None
        if self.keys is not None:
            octets = (hashlib.sha256(bytes((number,))).digest() for number in range(8))
            write_keys(self.keys, make_keys(SCID, ["Main"], octets), is_secret=False)
        self.line = VirtualLine(BAUD, latency_s=0.02, seed=seed)
        unit = self.stack.sender(SCID, {0: 1000}).unit_octets
        self.port = Tampered(self.line.a, unit, seed)
        self.wire = Tampered(self.line.b, 0, seed + 1)
        self.in_pass = True
        self.now_s = 0.0
        self._steps = 0
        self.start_satellite()
        self.start_ground()

    def start_satellite(self) -> None:
        link = dataclasses.replace(MISSION.link, baud=BAUD)
        ring = self._ring(End.BOARD)
        self.files = FileService(self.folder / "satellite", None)
        self.receiver = CommandReceiver(SCID, APID, self.stack, None if ring is None else CommandSeal(ring))
        self.reporter = Reporter(SCID, APID, 65_536, self.stack,
                                 None if ring is None else TelemetrySeal(ring, encrypt=False))
        for key in () if ring is None else ring.stations_in_force:
            self.reporter.event(Event("uplink_counter", (key.spi, float(key.used))), EPOCH_S + self.now_s)
        self.reporting = Reporting(dataclasses.replace(MISSION, link=link), self.reporter, self.port)
        self.reporting.transmit(self.now_s, self.receiver.control_words())

    def start_ground(self) -> None:
        ring = self._ring(End.GROUND)
        self.archive = Archive(self.folder / "ground.sqlite", commit_s=10.0)
        self.station = Station(self.wire, self.archive, scid=SCID, apid=APID, epoch_s=EPOCH_S, stack=self.stack,
                               seals=None if ring is None else Seals(ring, 1, encrypted=False))
        self.desk = FileDesk(self.station, self.folder / "ground", BAUD)

    def _ring(self, end: End) -> KeyRing | None:
        """Open an end's keys. Those of a killed process are never closed: the next one goes on at their marks."""
        path = self.keys
        return None if path is None else KeyRing(
            read_keys(path), TripleFact([path.with_name(f"{path.name}.{end}-{copy}") for copy in "abc"]))

    def kill_satellite(self) -> None:
        self.files._store.close()  # its descriptors, as the kernel does
        self.start_satellite()

    def kill_ground(self) -> None:
        self.desk._store.close()
        self.archive.close()
        self.start_ground()

    def step(self) -> None:
        """Go on by a tenth of a second."""
        self._steps += 1
        self.now_s = self._steps / 10.0
        self.line.advance(self.now_s)
        self.receiver.push(self.port.read())
        self.files.receive(self.receiver.take_file_pdus())
        if self._steps % 10 == 0:
            self._tick()
        self.station.poll(self.now_s)
        self.desk.poll(self.now_s)

    def _tick(self) -> None:
        obt_s = EPOCH_S + self.now_s
        for event in self.files.work(self.now_s, obt_s, "KIRUNA" if self.in_pass else None):
            self.reporter.event(event, obt_s)
        if self._steps % 100 == 0:
            self.reporter.pong(obt_s)  # housekeeping's part: the ground hears that there is somebody
        if self.in_pass:
            self.reporting.stock_files(self.now_s, self.files.next_pdu)
            self.reporting.transmit(self.now_s, self.receiver.control_words())

    def until(self, done: Callable[[], bool], limit_s: float) -> float:
        begun_s = self.now_s
        while not done():
            if self.now_s - begun_s > limit_s:
                raise AssertionError(f"not done after {limit_s:.0f} s: {self.desk.views(self.now_s)}")
            self.step()
        return self.now_s - begun_s

    def close(self) -> None:
        self.files.close()
        self.desk.close()
        self.archive.close()


Trouble = Callable[[Bench], None]


class Case(NamedTuple):
    """One transfer: the way, the code, what happens to the line, and when what happens to the ends."""

    name: str
    up: bool = False
    coded: bool = False
    sealed: bool = False
    frame_octets: int = 223
    bit_error_rate: float = 0.0
    lost_frac: float = 0.0
    disorder_frac: float = 0.0
    at: tuple[tuple[float, Trouble], ...] = ()  # share of the file received, what then happens
    rate_frac_min: float = 0.0

    @property
    def stack(self) -> Stack:
        """How the line is coded."""
        return Stack(reed_solomon=self.coded, frame_octets=self.frame_octets)

    @property
    def computed_octets_s(self) -> float:
        """Octets of file a second that the line can carry."""
        if self.up:
            return UP_OCTETS_S
        if self.sealed:
            return self.stack.packet_octets_s(BAUD, sealed=True) * _PDU_FRAC
        return DOWN_OCTETS_S[self.coded]


class Outcome(NamedTuple):
    """How long it took, octets of file a second, and that beside the computed rate."""

    took_s: float
    rate_octets_s: float
    rate_frac: float


def outage(seconds: float, *, foreseen: bool) -> Trouble:
    """Cut the line; a pass that ends as foreseen ends the sending too."""

    def cut(bench: Bench) -> None:
        bench.line.up, bench.in_pass = False, not foreseen
        end_s = bench.now_s + seconds
        while bench.now_s < end_s:
            bench.step()
        bench.line.up = bench.in_pass = True

    return cut


MINUTES = (outage(180.0, foreseen=True), outage(240.0, foreseen=False))
REBOOTS: tuple[tuple[float, Trouble], ...] = ((0.3, Bench.kill_satellite), (0.5, Bench.kill_ground),
                                              (0.7, Bench.kill_satellite), (0.8, Bench.kill_ground))

CASES = (
    Case("clean", rate_frac_min=0.95),
    Case("clean, Reed-Solomon", coded=True, rate_frac_min=0.95),
    Case("clean, up", up=True, rate_frac_min=0.95),
    Case("clean, sealed", sealed=True, rate_frac_min=0.95),
    Case("clean, sealed, Reed-Solomon", sealed=True, coded=True, rate_frac_min=0.95),
    Case("clean, sealed, frames of 1115 octets", sealed=True, frame_octets=1115, rate_frac_min=0.95),
    Case("clean, sealed, up", sealed=True, up=True, rate_frac_min=0.95),
    Case("BER 1e-4, Reed-Solomon", coded=True, bit_error_rate=1e-4, rate_frac_min=0.95),
    Case("BER 1e-3, Reed-Solomon", coded=True, bit_error_rate=1e-3),
    Case("BER 1e-5", bit_error_rate=1e-5),
    Case("BER 1e-5, up", up=True, bit_error_rate=1e-5),
    Case("BER 1e-4", bit_error_rate=1e-4),
    Case("30 % of frames lost both ways", lost_frac=0.3),
    Case("30 % of frames lost both ways, up", up=True, lost_frac=0.3),
    Case("outages of 3 and 4 minutes", at=((0.3, MINUTES[0]), (0.6, MINUTES[1]))),
    Case("outages of 3 and 4 minutes, up", up=True, at=((0.3, MINUTES[0]), (0.6, MINUTES[1]))),
    Case("two reboots of each end", at=REBOOTS),
    Case("two reboots of each end, up", up=True, at=REBOOTS),
    Case("octets repeated and out of order", disorder_frac=0.01),
    Case("octets repeated and out of order, up", up=True, disorder_frac=0.01),
    Case("two reboots of each end, sealed", sealed=True, at=REBOOTS),
    Case("two reboots of each end, sealed, up", sealed=True, up=True, at=REBOOTS),
    Case("all of it", bit_error_rate=1e-5, lost_frac=0.1, disorder_frac=0.003,
         at=((0.2, MINUTES[0]), (0.4, Bench.kill_satellite), (0.5, MINUTES[1]), (0.7, Bench.kill_ground))),
)


def fly(case: Case, octets: int, folder: Path, seed: int = 1) -> Outcome:
    """Transfer a file of `octets` through a case; AssertionError where it does not arrive as it was sent."""
    bench = Bench(folder, case.stack, sealed=case.sealed, seed=seed)
    content = random.Random(seed).randbytes(octets)
    while bench.now_s < 12.0 or bench.now_s % 1.0:  # until the ground has heard the satellite
        bench.step()
    bench.line.set_bit_error_rate(case.bit_error_rate)
    for end in (bench.port, bench.wire):
        end.lost_frac, end.disorder_frac = case.lost_frac, case.disorder_frac
    if case.up:
        (folder / "table.bin").write_bytes(content)
        bench.desk.upload(folder / "table.bin", "table.bin")
    else:
        (folder / "satellite" / "files" / "table.bin").write_bytes(content)
        bench.files.order(FileOrder("get", "table.bin"))

    def received_frac() -> float:
        views = bench.files._entity.views() if case.up else bench.desk._entity.views()
        return views[0].done_octets / octets if views else 0.0

    target = folder / ("satellite/files" if case.up else "ground/received") / "table.bin"
    limit_s = 60.0 * octets / 10_000.0 + 1000.0
    begun_s = bench.now_s
    for share, trouble in case.at:
        bench.until(lambda share=share: received_frac() >= share, limit_s)  # type: ignore[misc]
        trouble(bench)
    bench.until(target.exists, limit_s)
    took_s = bench.now_s - begun_s
    # Both ends come to know it, whatever is lost, and are then done.
    bench.until(lambda: bench.desk._entity.is_idle and bench.files._entity.is_idle, 600.0)
    bench.close()
    assert target.read_bytes() == content, case.name
    rate = octets / took_s
    return Outcome(took_s, rate, rate / case.computed_octets_s)


def main() -> int:
    """Run all cases with 1 MiB and print what a reader of the acceptance wants."""
    failed = 0
    for case in CASES:
        begun_s = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcome = fly(case, 1 << 20, Path(folder))
            except AssertionError as error:
                failed += 1
                print(f"FAIL {case.name}: {error}", flush=True)
                continue
        slow = outcome.rate_frac < case.rate_frac_min
        failed += slow
        mark = "SLOW" if slow else "ok  "
        print(f"{mark} {case.name:<40} {outcome.took_s:7.1f} s {outcome.rate_octets_s:8.0f} octets/s "
              f"{outcome.rate_frac:6.1%} of the computed rate, hash equal ({time.monotonic() - begun_s:.1f} s here)",
              flush=True)
    print(f"{len(CASES) - failed} of {len(CASES)} cases passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

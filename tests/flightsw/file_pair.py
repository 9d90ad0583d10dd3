"""Two CFDP entities and the space between them, in virtual time: loss, repetition, disorder, outages, restarts."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from flightsw.link.cfdp import Config, Entity, View
from flightsw.link.filestore import Filestore
from flightsw.store import OsDisk

SATELLITE, GROUND = 1, 2


class QuickDisk(OsDisk):
    """Files without the medium's slowness: what a killed process leaves is the same."""

    def sync(self, fd: int) -> None:
        pass

    def sync_folder(self, folder: Path) -> None:
        pass


class End:
    """One end with its folder; `restart` is a kill and a new start."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder = folder
        self.config = config
        self.ended: list[View] = []
        self.settles = True
        self.received = folder / "received"
        self.start()

    def start(self) -> None:
        self.store = Filestore(self.folder / "state", self.place, QuickDisk())
        self.entity = Entity(self.config, self.store)

    def place(self, name: str) -> Path | None:
        return None if "/" in name else self.received / name

    def restart(self) -> None:
        self.store.close()  # as the kernel does for a killed process: nothing else is saved
        self.start()

    def take_news(self) -> None:
        for view in self.entity.news():
            self.ended.append(view)
            if self.settles:
                self.entity.settle(view.key)


class Pair:
    """`lose` tells for each PDU whether it is lost; `step_s` a turn of both loops."""

    def __init__(self, folder: Path, seed: int = 0, loss: float = 0.0, per_step: int = 11, *,
                 down: Config | None = None, up: Config | None = None) -> None:
        self.satellite = End(folder / "satellite", down or Config(SATELLITE, GROUND))
        self.ground = End(folder / "ground", up or Config(GROUND, SATELLITE))
        self.random = random.Random(seed)
        self.loss = loss
        self.repeat = 0.0
        self.disorder = 0.0
        self.per_step = per_step
        self.now_s = 0.0
        self.in_contact = True
        self.sent: list[tuple[int, bytes]] = []
        self.spoil: Callable[[bytes], bytes | None] = lambda pdu: pdu
        self._under_way: list[tuple[End, bytes]] = []

    def step(self, step_s: float = 1.0) -> None:
        """Let one turn pass: what was sent in the last one arrives."""
        self.now_s += step_s
        arriving, self._under_way = self._under_way, []
        for end, pdu in arriving:
            if self.in_contact:
                end.entity.receive(pdu)
        for end, other in ((self.satellite, self.ground), (self.ground, self.satellite)):
            end.entity.advance(self.now_s, self.in_contact)
            for _ in range(self.per_step):
                pdu = end.entity.next_pdu()
                if pdu is None:
                    break
                self.sent.append((end.config.entity_id, pdu))
                self._post(other, pdu)
            end.take_news()
        if self.disorder:
            self._under_way.sort(key=lambda _: self.random.random() < self.disorder)

    def _post(self, other: End, pdu: bytes) -> None:
        if self.random.random() < self.loss:
            return
        spoilt = self.spoil(pdu)
        if spoilt is not None:
            self._under_way += [(other, spoilt)] * (2 if self.random.random() < self.repeat else 1)

    def run(self, until: Callable[[], bool], limit_s: float = 5000.0) -> float:
        """Step until something holds; return how long it took."""
        begun_s = self.now_s
        while not until():
            assert self.now_s - begun_s < limit_s, (self.satellite.entity.views(), self.ground.entity.views())
            self.step()
        return self.now_s - begun_s

    def quiet(self) -> bool:
        return self.satellite.entity.is_idle and self.ground.entity.is_idle and not self._under_way


def content(octets: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(octets)

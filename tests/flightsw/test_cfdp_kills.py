"""SIGKILL at each operation on the medium, at either end: nothing that was said is taken back, the file arrives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from file_pair import GROUND, End, Pair, QuickDisk, content

from flightsw.link import cfdp
from flightsw.link.cfdp_pdu import Ack, Directive, Eof, Finished, unpack
from flightsw.link.cfdp_transfer import State

OCTETS = 8_500


class Killed(BaseException):
    """What no handler in the code under test catches."""


class DeadlyDisk(QuickDisk):
    """Ends the process at its operation number `at`; a write is half done by then."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def _live(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed

    def open(self, path: Path) -> int:
        self._live()
        return super().open(path)

    def write(self, fd: int, offset: int, octets: bytes) -> None:
        if self.left == 1:
            super().write(fd, offset, octets[: len(octets) // 2])
        self._live()
        super().write(fd, offset, octets)

    def truncate(self, fd: int, length: int) -> None:
        self._live()
        super().truncate(fd, length)

    def sync(self, fd: int) -> None:
        self._live()

    def rename(self, source: Path, target: Path) -> None:
        self._live()
        super().rename(source, target)
        self._live()

    def unlink(self, path: Path) -> None:
        self._live()
        super().unlink(path)

    def sync_folder(self, folder: Path) -> None:
        self._live()


def said(pair: Pair, by: int) -> set[str]:
    """What the other end may count on."""
    found = set()
    for sender, pdu in pair.sent:
        message = unpack(pdu)[1]
        if sender == by and isinstance(message, Ack):
            found.add("acknowledged " + Directive(message.directive).name)
        elif sender == by and isinstance(message, (Eof, Finished)):
            found.add(type(message).__name__)
    return found


def check(end: End, promised: set[str]) -> None:
    """Hold what is on the medium after a kill against what was said before it."""
    views = end.entity.views()
    if end.config.entity_id == GROUND:
        if "acknowledged EOF" in promised:
            assert json.loads((end.folder / "state" / "1-1.tx").read_text().splitlines()[0])["eof"] is not None
        if "Finished" in promised:
            assert views[0].state is State.DELIVERED
            assert (end.received / "a.bin").read_bytes() == content(OCTETS)
    elif "acknowledged FINISHED" in promised:
        assert views[0].state is State.DELIVERED
    else:
        assert len(views) == 1


@pytest.mark.parametrize("victim", ["satellite", "ground"])
def test_a_kill_at_any_operation_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str) -> None:
    monkeypatch.setattr(cfdp, "_CHECKPOINT_OCTETS", 2_000)
    kills = 0
    for at in range(1, 400, 3 if victim == "ground" else 2):  # each of them in turn takes three times as long
        pair = Pair(tmp_path / str(at), seed=at, loss=0.15, per_step=4)
        path = pair.satellite.folder / "source"
        path.write_bytes(content(OCTETS))
        pair.satellite.entity.put(path, "a.bin", 1.0)
        end: End = getattr(pair, victim)
        end.store._disk = DeadlyDisk(at)
        try:
            pair.run(pair.quiet)
        except Killed:
            kills += 1
            promised = said(pair, end.config.entity_id)
            end.restart()
            check(end, promised)
            pair.run(pair.quiet)
        else:
            break
        assert (pair.ground.received / "a.bin").read_bytes() == content(OCTETS)
        assert {view.state for view in [*pair.satellite.ended, *pair.ground.ended]} == {State.DELIVERED}
        assert list((pair.ground.folder / "state").glob("*.part")) == []
    assert kills > (20 if victim == "ground" else 8)

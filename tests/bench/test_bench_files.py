"""What a file transfer costs: 256 KiB from sender to receiver in one process, both ends, clean.

The peer is cfdp-py with the same segments, CRC and checksum. It keeps nothing over a restart; ours is measured with
its state on the medium as in flight, and without waiting for the medium.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from flightsw.link import filestore
from flightsw.store import OsDisk

sys.path.append(str(Path(__file__).parents[1] / "flightsw"))

from file_pair import Pair, content
from test_cfdp_peers import CfdpPy

OCTETS = 256 << 10
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated as of:DeprecationWarning")  # within cfdp-py


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Path]:
    return (tmp_path / str(i) for i in itertools.count())


def _ours(folder: Path) -> None:
    pair = Pair(folder, per_step=64)
    source = folder / "satellite" / "source"
    source.write_bytes(content(OCTETS))
    pair.satellite.entity.put(source, "a.bin", 1.0)
    pair.run(lambda: len(pair.satellite.ended) == 1)
    assert (pair.ground.received / "a.bin").stat().st_size == OCTETS


def test_ours(benchmark: BenchmarkFixture, folders: Iterator[Path]) -> None:
    benchmark.pedantic(_ours, setup=lambda: ((next(folders),), {}), rounds=10)


def test_ours_on_the_medium(benchmark: BenchmarkFixture, folders: Iterator[Path],
                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("file_pair.QuickDisk", OsDisk)
    assert filestore.OsDisk is OsDisk
    benchmark.pedantic(_ours, setup=lambda: ((next(folders),), {}), rounds=10)


def test_cfdp_py(benchmark: BenchmarkFixture, folders: Iterator[Path]) -> None:
    def transfer(folder: Path) -> None:
        folder.mkdir()
        (folder / "source").write_bytes(content(OCTETS))
        sender, receiver = CfdpPy(1, 2), CfdpPy(2, 1)
        sender.put(folder / "source", str(folder / "a.bin"))
        while not (sender.ended and receiver.ended):
            for pdu in sender.give():
                receiver.take(pdu)
            for pdu in receiver.give():
                sender.take(pdu)
        assert (folder / "a.bin").stat().st_size == OCTETS

    benchmark.pedantic(transfer, setup=lambda: ((next(folders),), {}), rounds=10)

"""Facts that must survive: counted at each start, voted from three copies, refused when none is valid."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from flightsw.errors import StoreError
from flightsw.facts import FactFile, Facts
from flightsw.state import Mode
from flightsw.store import TripleFact

COPIES = ("facts-a", "facts-b", "facts-c")


def flip(path: Path) -> None:
    octets = bytearray(path.read_bytes())
    octets[len(octets) // 2] ^= 0x10
    path.write_bytes(octets)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


DAMAGES: list[Callable[[Path], None]] = [flip, cut, empty, remove]


def flown(folder: Path) -> Facts:
    """Facts of a satellite that started twice and reached COMPUTE."""
    facts = FactFile(folder)
    facts.count_boot()
    facts = FactFile(folder)
    facts.count_boot()
    facts.note(Mode.COMPUTE, 1234.5)
    return facts.facts


def test_first_start_finds_nothing_and_writes_three_copies(tmp_path: Path) -> None:
    assert FactFile(tmp_path).facts == Facts(0, "BOOT", 0.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == list(COPIES)


def test_each_start_is_counted_and_the_rest_is_kept(tmp_path: Path) -> None:
    for boot in range(1, 6):
        facts = FactFile(tmp_path)
        assert facts.facts.boot_count == boot - 1
        facts.count_boot()
        facts.note(Mode.STANDBY, 10.0 * boot)
        assert FactFile(tmp_path).facts == Facts(boot, "STANDBY", 10.0 * boot)


def test_nothing_is_lost_when_it_is_not_closed(tmp_path: Path) -> None:
    assert flown(tmp_path) == FactFile(tmp_path).facts == Facts(2, "COMPUTE", 1234.5)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("names", [c for n in (1, 2) for c in itertools.combinations(COPIES, n)])
def test_one_good_copy_is_enough_and_the_others_are_repaired(
    tmp_path: Path, names: tuple[str, ...], damage: Callable[[Path], None]
) -> None:
    expected = flown(tmp_path)
    for name in names:
        damage(tmp_path / name)
    assert FactFile(tmp_path).facts == expected
    (survivor,) = {path.read_bytes() for path in tmp_path.iterdir()}  # scrubbed: all three are one again
    assert b"COMPUTE" in survivor


@pytest.mark.parametrize("damage", [flip, cut, empty])
def test_without_a_valid_copy_it_does_not_guess(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    flown(tmp_path)
    for name in COPIES:
        damage(tmp_path / name)
    with pytest.raises(StoreError, match="none of three copies is valid"):
        FactFile(tmp_path)


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b'{"boot_count": 1}', b"\xff", b"null"])
def test_copies_that_are_intact_and_no_facts_are_refused(tmp_path: Path, value: bytes) -> None:
    TripleFact.create([tmp_path / name for name in COPIES], value)
    with pytest.raises(StoreError, match="intact but not readable"):
        FactFile(tmp_path)


def test_interrupted_first_start_is_finished_by_the_next(tmp_path: Path) -> None:
    FactFile(tmp_path)
    for name in COPIES[1:]:
        (tmp_path / name).unlink()
    facts = FactFile(tmp_path)
    facts.count_boot()
    assert FactFile(tmp_path).facts.boot_count == 1


def test_medium_that_refuses_is_told(tmp_path: Path) -> None:
    facts = FactFile(tmp_path)
    for name in COPIES:
        (tmp_path / name).unlink()
    tmp_path.rmdir()
    with pytest.raises(StoreError, match="not written"):
        facts.count_boot()
    with pytest.raises(StoreError, match="refuses writes"):
        facts.note(Mode.SAFE, 1.0)

"""A checkpoint counts when every file is as its MARK says, and there is a good one after every crash."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from flightsw.jobs import checkpoint


def write(folder: Path, contents: dict[str, bytes], done_units: int = 4, **mark: object) -> Path:
    target = folder / checkpoint.WRITTEN
    target.mkdir(parents=True, exist_ok=True)
    for name, octets in contents.items():
        (target / name).write_bytes(octets)
    files = {name: hashlib.sha256(octets).hexdigest() for name, octets in contents.items()}
    (target / checkpoint.MARK).write_text(json.dumps({"done_units": done_units, "files": files} | mark))
    return target


def judge(folder: Path, octets_max: int = 1 << 20) -> checkpoint.Checkpoint:
    steps = checkpoint.check(folder, octets_max)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: checkpoint.Checkpoint = end.value
            return found


def test_what_is_as_marked_counts(tmp_path: Path) -> None:
    target = write(tmp_path, {"a.npy": b"abc", "b": b""})
    assert checkpoint.is_written(tmp_path)
    assert judge(target)[:3] == (4, 2, 3)


@pytest.mark.parametrize(
    ("mark", "complaint"),
    [
        ({"done_units": -1}, "want done_units"),
        ({"done_units": True}, "want done_units"),
        ({"files": {"../a": "0" * 64}}, "want done_units"),
        ({"files": {"a": "0"}}, "want done_units"),
        ({"files": {"a": "0" * 64}}, "MARK says 0000"),
        ({"files": {"gone": "0" * 64}}, "No such file"),
        ({"files": ["a"]}, "not readable"),
        ({"files": 3}, "not readable"),
    ],
)
def test_a_mark_that_lies_does_not(tmp_path: Path, mark: dict[str, object], complaint: str) -> None:
    target = write(tmp_path, {"a": b"abc"}, **mark)
    with pytest.raises((ValueError, OSError), match=complaint):
        judge(target)


def test_links_devices_and_too_much_are_not_followed(tmp_path: Path) -> None:
    target = write(tmp_path, {"a": b"abc"})
    with pytest.raises(ValueError, match="larger than 2 octets"):
        judge(target, 2)
    (target / "a").unlink()
    (target / "a").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        judge(target)
    (target / "a").unlink()
    os.mkfifo(target / "a")
    with pytest.raises(ValueError, match="no regular file"):
        judge(target)
    (target / checkpoint.MARK).write_bytes(b"[" * 60_000)
    with pytest.raises(ValueError, match="not readable"):
        judge(target)


def test_there_is_a_good_one_wherever_the_machine_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut `keep` off before each of its steps; what `prepare` then finds is the old or the new one, whole."""
    real = Path.rename
    for cut in range(3):
        folder = tmp_path / str(cut)
        write(folder, {"a": b"old"}, 1)
        checkpoint.keep(folder)
        write(folder, {"a": b"new"}, 2)
        calls = iter(range(10))

        def rename(path: Path, target: Path, calls=calls, cut=cut) -> Path:  # type: ignore[no-untyped-def]
            if next(calls) == cut:
                raise KeyboardInterrupt
            return real(path, target)

        monkeypatch.setattr(Path, "rename", rename)
        try:
            checkpoint.keep(folder)
            finished = True
        except KeyboardInterrupt:
            finished = False
        monkeypatch.undo()
        assert checkpoint.prepare(folder)
        assert judge(folder / checkpoint.GOOD).done_units == (2 if finished else 1)
        assert sorted(p.name for p in folder.iterdir()) == [checkpoint.GOOD]
        assert finished == (cut == 2)


def test_a_rotten_one_is_put_aside_and_clear_forgets_all(tmp_path: Path) -> None:
    write(tmp_path, {"a": b"abc"})
    checkpoint.keep(tmp_path)
    checkpoint.reject(tmp_path)
    assert not checkpoint.prepare(tmp_path)
    assert (tmp_path / checkpoint.BAD / "a").exists()
    checkpoint.clear(tmp_path)
    assert list(tmp_path.iterdir()) == []

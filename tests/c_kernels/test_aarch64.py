"""Plant, rollout and frame codec on aarch64 (cross-built, emulated) give the very bits that they give here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from c_kernels.crossbuild import __main__ as crossbuild

MISSING = crossbuild.missing_packages()
needs_cross_tools = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> crossbuild.Hashes:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("not installed: a C compiler")
    return crossbuild.kernel_hashes(compiler, tmp_path_factory.mktemp("here"))


def test_every_path_here_has_one_hash(here: crossbuild.Hashes) -> None:
    assert crossbuild.differences(here, here) == []
    assert {"0", "1"} <= here["rollout_f32"].keys()


@needs_cross_tools
def test_aarch64_gives_the_same_bits(here: crossbuild.Hashes, tmp_path: Path) -> None:
    options = (crossbuild.TARGETS[0], "-static")
    there = crossbuild.kernel_hashes(crossbuild.CROSS_COMPILER, tmp_path, *options, emulator=crossbuild.EMULATOR)
    assert crossbuild.differences(here, there) == []
    assert there["rollout_f64"].keys() == {"0", "1"}


@needs_cross_tools
def test_one_rounding_less_is_seen(here: crossbuild.Hashes, tmp_path: Path) -> None:
    """The comparison can fail: fused multiply-add, which aarch64 has, changes every hash but the frame codec's."""
    options = (crossbuild.TARGETS[0], "-static", "-ffp-contract=fast")
    there = crossbuild.kernel_hashes(crossbuild.CROSS_COMPILER, tmp_path, *options, emulator=crossbuild.EMULATOR)
    assert len(crossbuild.differences(here, there)) == len(here) - 1


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert crossbuild.main() == 2
    assert "apt install gcc-aarch64-linux-gnu qemu-user-static" in capsys.readouterr().err

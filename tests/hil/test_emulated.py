"""The emulated bench: what it puts into the image, what it says where something is missing, and one flight."""

import os
import shutil
import stat
import subprocess

import pytest

from flightsw.errors import ConfigError
from hil import benches, emulated, run
from hil.scenario import find, load

WHY_NOT = emulated.missing() or ("" if os.environ.get("HIL_EMULATED") else "half a minute: make emulated")


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_the_overlay_unpacks_to_what_was_put_in(tmp_path):
    files = {"flight/start": b"go\n", "flight/flightsw/_bin/guardian": bytes(range(256)) * 5, "flight/empty": b""}
    modes = {"flight/start": 0o644, "flight/flightsw/_bin/guardian": 0o755, "flight/empty": 0o600}
    subprocess.run(["cpio", "--quiet", "-id"], input=emulated.archive(files, modes), cwd=tmp_path, check=True)
    for name, content in files.items():
        assert (tmp_path / name).read_bytes() == content
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == modes[name]


def test_what_is_missing_is_said_and_nothing_is_faked(tmp_path, monkeypatch):
    monkeypatch.setattr(emulated, "_QEMU", "qemu-of-nobody")
    scenario = load(find("short_iss"), duration="60 s")
    with pytest.raises(ConfigError, match="qemu-of-nobody is not installed"), emulated.emulated(scenario, tmp_path):
        pass
    monkeypatch.setattr(emulated, "_QEMU", "true")
    assert "make emulated-image builds them" in emulated.missing(tmp_path)


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
def test_an_emulated_machine_gives_the_same_command_log(tmp_path):
    scenario = load(find("short_iss"), duration="60 s")
    logs = []
    for bench in (emulated.emulated, benches.sil_framed):
        folder = tmp_path / bench.__name__
        folder.mkdir()
        with bench(scenario, folder) as connect:
            flown = run.fly(scenario, folder, connect=connect)
        logs.append((folder / benches.COMMANDS).read_bytes())
        assert flown.metrics["failed_ticks"] == 0
    assert logs[0] == logs[1]
    assert "emulated board: Linux" in (tmp_path / "emulated" / "console.log").read_text()

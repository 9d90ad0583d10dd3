"""The sandbox on a kernel that gives cgroup v2 every controller, which the machine that runs the tests need not."""

import os
import re
import time
from pathlib import Path

import pytest

from hil import emulated

WHY_NOT = emulated.missing() or ("" if os.environ.get("HIL_EMULATED") else "two minutes: make emulated")
GIVE_UP_S = 280.0


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
def test_every_controller_holds_and_the_hostile_set_with_it(tmp_path: Path) -> None:
    start = b"mount -t cgroup2 none /sys/fs/cgroup\nexec python3 /flight/emulated_sandbox.py\n"
    program = Path(__file__).with_name("emulated_sandbox.py").read_bytes()
    files, modes = emulated.software({"flight/start": start, "flight/emulated_sandbox.py": program})
    console, said = tmp_path / "console.log", ""
    with emulated.booted(emulated.archive(files, modes), tmp_path):
        give_up_s = time.monotonic() + GIVE_UP_S
        while "the flight program ended" not in said and time.monotonic() < give_up_s:
            time.sleep(0.5)
            said = console.read_text("utf-8", "replace") if console.exists() else ""
    half, frozen = (float(cores) for cores in re.findall(r"cores: ([0-9.]+) ", said))
    assert 0.4 < half < 0.55, "cpu.max"
    assert frozen == 0.0, "cgroup.freeze"
    assert "sandbox: 18 of 18 attacks held" in said, said
    assert re.search(r"held  shared memory of a job: out of memory", said), "memory.max"
    absent = re.findall(r"absent: (.*)", said)
    for name in ("cgroup v2 has no", "processor time", "number of processes", "memory of all its processes together"):
        assert not any(line.startswith(name) for line in absent), absent

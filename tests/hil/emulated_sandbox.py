"""What holds jobs in an emulated machine whose kernel gives cgroup v2 every controller; run there by its test.

Prints lines for the test to read: what half a core allows, what a frozen job uses, and the sandbox's self-test.
"""

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from flightsw.clock import MonotonicClock
from flightsw.jobs import selftest
from flightsw.jobs.cgroup import Limits, open_tree
from flightsw.jobs.sandbox import probe


def cores_used(limits: Limits, *, frozen: bool) -> float:
    """Cores that a job of two busy processes uses under these limits."""
    tree, why = open_tree("cores")
    assert tree is not None, why
    cgroup = tree.make(1, limits)
    child = os.fork()
    if child == 0:
        Path(cgroup.entry).write_text("0")
        os.fork()
        while True:
            pass
    while cgroup.usage().core_s < 0.05:
        time.sleep(0.01)
    cgroup.freeze(frozen)
    while frozen and "frozen 1" not in (cgroup.path / "cgroup.events").read_text():
        time.sleep(0.01)
    began_s, before_s = time.monotonic(), cgroup.usage().core_s
    time.sleep(4.0)
    used = (cgroup.usage().core_s - before_s) / (time.monotonic() - began_s)
    os.kill(child, signal.SIGKILL)
    cgroup.kill()
    os.waitpid(child, 0)
    cgroup.remove()
    tree.close()
    return used


def main() -> None:
    """Measure, then attack."""
    print(f"cores: {cores_used(Limits(64 << 20, 32, 0.5), frozen=False):.3f} of a half", flush=True)
    print(f"cores: {cores_used(Limits(64 << 20, 32, 0.0), frozen=True):.3f} frozen", flush=True)
    selftest.WITHIN_S = 600.0  # the emulated processor is a hundred times slower
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        sandbox = probe(Path(folder), Path(sys.executable))
        found = selftest.run_self_test(sandbox, Path(folder), Path(sys.executable), MonotonicClock())
        print("\n".join(found.lines()), flush=True)
        sandbox.close()


if __name__ == "__main__":
    main()

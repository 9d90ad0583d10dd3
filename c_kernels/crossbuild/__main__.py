"""Show that plant, rollout and frame codec give the same bits on x86-64 and aarch64: `make aarch64`.

Builds `hash_kernels.c` with the kernels for this machine and, with Debian's cross compiler, for aarch64; runs the
latter under qemu's user emulation and compares the hashes. This is about correctness: emulation says nothing
about speed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from c_kernels.build import INCLUDE, NUMERIC, WARNINGS, sources

HERE = Path(__file__).resolve().parent
CROSS_COMPILER = "aarch64-linux-gnu-gcc"
EMULATOR = "qemu-aarch64-static"
PACKAGES = {CROSS_COMPILER: "gcc-aarch64-linux-gnu", EMULATOR: "qemu-user-static"}
# The least machine that counts, and the cores of the boards the flight software is meant for.
TARGETS = ("-march=armv8-a", "-mcpu=cortex-a72", "-mcpu=cortex-a76")

Hashes = dict[str, dict[str, str]]  # name -> path -> hash


def missing_packages() -> list[str]:
    """Debian packages that hold what is not installed here."""
    return [package for program, package in PACKAGES.items() if shutil.which(program) is None]


def kernel_hashes(compiler: str, folder: Path, *options: str, emulator: str | None = None) -> Hashes:
    """Compile in `folder` with the kernels' own flags and `options`, run, return the hashes printed."""
    program = folder / "hash_kernels"
    kernels = [path for path in sources("src") if not path.stem.startswith("guardian")]
    command = [compiler, *NUMERIC, *WARNINGS, "-Werror", *options, "-I", INCLUDE, "-o", program,
               HERE / "hash_kernels.c", *kernels, "-lm"]
    subprocess.run([str(word) for word in command], check=True)
    run = [str(program)] if emulator is None else [emulator, str(program)]
    printed = subprocess.run(run, check=True, capture_output=True, text=True, timeout=280).stdout
    hashes: Hashes = {}
    for line in printed.splitlines():
        name, path, digest = line.split()
        hashes.setdefault(name, {})[path] = digest
    return hashes


def differences(here: Hashes, there: Hashes) -> list[str]:
    """What is not the same: every path of a name, on either machine, must have one hash."""
    found = [f"{name}: only on one machine" for name in here.keys() ^ there.keys()]
    for name in here.keys() & there.keys():
        digests = {**{f"here, path {path}": digest for path, digest in here[name].items()},
                   **{f"aarch64, path {path}": digest for path, digest in there[name].items()}}
        if len(set(digests.values())) > 1:
            found.append(f"{name}: " + "; ".join(f"{where} {digest}" for where, digest in digests.items()))
    return found


def main() -> int:
    """Compare and print; 0 when all bits agree, 1 when not, 2 when a tool is missing."""
    missing = missing_packages()
    if missing:
        print(f"aarch64: {' and '.join(missing)} not installed. On Debian: apt install {' '.join(missing)}",
              file=sys.stderr)
        return 2
    faults = []
    with tempfile.TemporaryDirectory() as name:
        here = kernel_hashes(os.environ.get("CC", "cc"), Path(name))
        for target in TARGETS:
            there = kernel_hashes(CROSS_COMPILER, Path(name), target, "-static", emulator=EMULATOR)
            found = differences(here, there)
            faults += [f"{target}: {fault}" for fault in found]
            for kernel, digests in there.items():
                paths = ", ".join(here[kernel])
                same = "differs from" if any(fault.startswith(f"{kernel}:") for fault in found) else "equals"
                print(f"{target:17} {kernel:12} {next(iter(digests.values()))}  paths {', '.join(digests)}: "
                      f"{same} this machine's paths {paths}")
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())

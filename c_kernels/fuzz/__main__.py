"""Run every fuzz driver under address and undefined-behaviour sanitizers until told counts: `make fuzz`.

Compiles the drivers with gcc and gives each its share of the executions, in pieces with seeds of their own, so that a
piece that fails is named and runs again alone. Prints a running count; ends with 1 at the first broken promise. With
`--log` finished pieces are noted: a run that was stopped goes on where it was, unless the program is another.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from c_kernels.build import HERE, INCLUDE, NUMERIC, WARNINGS

SOURCES = {
    "guardian": ["guardian_core.c"],
    "plant": ["plant.c"],
    "rollout": ["rollout.c", "rollout_base.c", "rollout_avx2.c", "rollout_avx512.c"],
    "tm_frame": ["tm_frame.c", "reed_solomon.c"],
}
# Executions of one piece, about ten seconds, and parts of the whole: the codec first.
PIECE = {"tm_frame": 500_000, "guardian": 10_000, "plant": 100_000, "rollout": 1_000}
PARTS = {"tm_frame": 97.4, "guardian": 0.5, "plant": 2, "rollout": 0.1}
SANITIZE = ["-g", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"]


def compile_driver(kernel: str, folder: Path, *, compiler: str = "gcc", optimise: str = "-O2") -> Path:
    """Compile the driver of `kernel` with sanitizers; return the program."""
    numeric = [flag for flag in NUMERIC if flag != "-O3"]
    program = folder / f"fuzz_{kernel}"
    command = [compiler, *numeric, optimise, *SANITIZE, "-Werror", *WARNINGS, "-I", INCLUDE, "-o", program,
               HERE / "fuzz" / f"fuzz_{kernel}.c", *(HERE / "src" / name for name in SOURCES[kernel]), "-lm"]
    subprocess.run([str(word) for word in command], check=True)
    return program


def _finished(log: Path | None) -> set[tuple[str, str, int, int]]:
    """Pieces that the log has as finished: kernel, digest of the program, executions, seed."""
    if log is None or not log.exists():
        return set()
    return {tuple(json.loads(line)) for line in log.read_text(encoding="utf-8").splitlines()}


def main() -> int:
    """Fuzz and print; 0 when every promise was kept."""
    parser = argparse.ArgumentParser(prog="python -m c_kernels.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("executions", type=int, nargs="?", default=100_000_000, help="of all drivers together")
    parser.add_argument("--seed", type=int, default=1, help="of the first piece")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="pieces at a time")
    parser.add_argument("--kernel", choices=SOURCES, action="append", help="only this one (may be repeated)")
    parser.add_argument("--log", type=Path, help="note finished pieces here, and leave out those already noted")
    options = parser.parse_args()
    kernels = options.kernel or list(PARTS)
    finished = _finished(options.log)
    whole = sum(PARTS[kernel] for kernel in kernels)
    done = dict.fromkeys(kernels, 0)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as name, concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        pieces = {}
        for kernel in kernels:
            program = compile_driver(kernel, Path(name))
            digest = hashlib.sha256(program.read_bytes()).hexdigest()
            share = int(options.executions * PARTS[kernel] / whole)
            for number, at in enumerate(range(0, share, PIECE[kernel])):
                runs, seed = min(PIECE[kernel], share - at), options.seed + number
                piece = kernel, digest, runs, seed
                if piece in finished:
                    done[kernel] += runs
                    continue
                command = [str(program), str(runs), str(seed)]
                pieces[pool.submit(subprocess.run, command, capture_output=True, text=True)] = piece
        for future in concurrent.futures.as_completed(pieces):
            kernel, _, runs, seed = pieces[future]
            ended = future.result()
            if ended.returncode:
                print(f"\n{kernel}, {runs} executions from seed {seed}:\n{ended.stderr[-4000:]}", file=sys.stderr)
                pool.shutdown(cancel_futures=True)
                return 1
            done[kernel] += runs
            if options.log is not None:
                with options.log.open("a", encoding="utf-8") as log:
                    log.write(json.dumps(pieces[future]) + "\n")
            print(f"\r{time.monotonic() - began_s:7.0f} s  " + "  ".join(f"{k} {n:,}" for k, n in done.items()),
                  end="", flush=True)
    print(f"\n{sum(done.values()):,} executions, every promise kept")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

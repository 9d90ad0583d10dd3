"""The plant and rollout kernels under address and undefined-behaviour sanitizers, driven by their fuzzers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from c_kernels.build import INCLUDE, NUMERIC, WARNINGS
from c_kernels.fuzz import __main__ as driver
from c_kernels.fuzz.__main__ import SOURCES

C = INCLUDE.parent
SANITIZE = ["-g", "-O0", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]


def compile_fuzz(compiler: str, kernel: str, target: Path, *options: str) -> None:
    numeric = [flag for flag in NUMERIC if flag != "-O3"]
    sources = [C / "fuzz" / f"fuzz_{kernel}.c", *(C / "src" / name for name in SOURCES[kernel])]
    command = [compiler, *numeric, *options, "-I", INCLUDE, "-o", target, *sources, "-lm"]
    subprocess.run([str(word) for word in command], check=True)


def run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize(("kernel", "runs"), [("plant", 20_000), ("rollout", 3000), ("tm_frame", 20_000)])
def test_fuzzing_under_sanitizers_breaks_no_promise(kernel: str, runs: int, tmp_path: Path) -> None:
    program = tmp_path / f"fuzz_{kernel}"
    compile_fuzz("gcc", kernel, program, *SANITIZE, "-fsanitize=address,undefined", "-Werror", *WARNINGS)
    assert "every promise kept" in run(program, str(runs), "7")


@pytest.mark.skipif(shutil.which("clang") is None, reason="libFuzzer comes with clang, which is not installed")
@pytest.mark.parametrize("kernel", SOURCES)
def test_libfuzzer_finds_nothing(kernel: str, tmp_path: Path) -> None:
    program = tmp_path / f"fuzz_{kernel}"
    compile_fuzz("clang", kernel, program, *SANITIZE, "-fsanitize=fuzzer,address,undefined", "-DFSW_LIBFUZZER")
    run(program, "-runs=5000", "-seed=7", "-max_len=16384", f"-artifact_prefix={tmp_path}/")


def test_a_broken_promise_is_seen(tmp_path: Path) -> None:
    """The driver can fail: with the check on battery_node taken out, the sanitizer must stop the run."""
    source = (C / "src" / "plant.c").read_text(encoding="utf-8")
    broken = source.replace("int ok = is_node(m, m->battery_node) &&", "int ok =")
    assert broken != source
    (tmp_path / "plant.c").write_text(broken, encoding="utf-8")
    program = tmp_path / "fuzz_broken"
    command = [
        "gcc", "-std=c11", *SANITIZE, "-fsanitize=address,undefined", "-I", str(INCLUDE), "-o", str(program),
        str(C / "fuzz" / "fuzz_plant.c"), str(tmp_path / "plant.c"), "-lm",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    done = subprocess.run([str(program), "20000", "7"], capture_output=True, check=False, timeout=200)
    assert done.returncode != 0


@pytest.mark.parametrize(("source", "right", "wrong"), [
    ("reed_solomon.c", "length > ERRORS || ", ""),
    ("reed_solomon.c", "for (size_t p = 1; p < DATA; p += 3)", "for (size_t p = 1; p <= DATA; p += 3)"),
    ("reed_solomon.c", "wrong += repaired;", "wrong = repaired;"),
    ("tm_frame.c", "n >= 8; n -= 8", "n >= 7; n -= n < 8 ? n : 8"),
    ("tm_frame.c", "out_octets != block_octets", "0"),
])
def test_a_fault_planted_in_the_codec_is_seen(source: str, right: str, wrong: str, tmp_path: Path) -> None:
    program = tmp_path / "fuzz_broken"
    for name in SOURCES["tm_frame"]:
        text = (C / "src" / name).read_text(encoding="utf-8")
        assert name != source or right in text
        (tmp_path / name).write_text(text.replace(right, wrong) if name == source else text, encoding="utf-8")
    command = ["gcc", "-std=c11", *SANITIZE, "-fsanitize=address,undefined", "-I", str(INCLUDE), "-o", str(program),
               str(C / "fuzz" / "fuzz_tm_frame.c"), *(str(tmp_path / name) for name in SOURCES["tm_frame"])]
    subprocess.run(command, check=True)
    done = subprocess.run([program, "20000", "7"], capture_output=True, check=False, timeout=200)
    assert done.returncode != 0


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces that the log of an earlier run has are not run again; a log of another program counts for nothing."""
    log = tmp_path / "fuzz.log"

    def fuzz(executions: int) -> str:
        words = ["fuzz", str(executions), "--kernel", "plant", "--jobs", "1", "--log", str(log)]
        monkeypatch.setattr(sys, "argv", words)
        assert driver.main() == 0
        return log.read_text(encoding="utf-8")

    monkeypatch.setitem(driver.PIECE, "plant", 100)
    before = fuzz(200)
    assert before.count("\n") == 2
    after = fuzz(300)
    assert after.startswith(before)
    assert after.count("\n") == 3
    log.write_text(before.replace('"plant", "', '"plant", "0'), encoding="utf-8")
    assert fuzz(300).count("\n") == 5

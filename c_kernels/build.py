"""Build recipe of all C code: the cffi module `flightsw._kernels` and the guardian program.

A header is the only declaration of a kernel: the part of each `include/*.h` between the lines
`/* cffi: begin */` and `/* cffi: end */` is given to `cdef`, and the same file is `#include`d, so the
two cannot drift apart.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
INCLUDE = HERE / "include"
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wstrict-prototypes"]
# Bit-identical results on every machine need -ffp-contract=off; -ffast-math is banned because any
# library linked with it flips denormals for the whole process.
NUMERIC = ["-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]


def sources(folder: str) -> list[Path]:
    """C sources of one folder, in a fixed order."""
    return sorted((HERE / folder).glob("*.c"))


def headers() -> list[Path]:
    """Public kernel headers, in a fixed order."""
    return sorted(INCLUDE.glob("*.h"))


def cdef_of(header: Path) -> str:
    """Return the marked part of `header`; raise ValueError when it has none."""
    text = header.read_text(encoding="utf-8")
    parts = re.findall(r"/\* cffi: begin \*/\n(.*?)/\* cffi: end \*/", text, re.S)
    if not parts:
        raise ValueError(f"{header}: no '/* cffi: begin */' ... '/* cffi: end */' part")
    return "\n".join(parts)


def compile_guardian(target: Path) -> None:
    """Compile `guardian/*.c` with the guardian's pure core into the executable `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [
        os.environ.get("CC", "cc"), "-std=c11", "-O2", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong",
        "-Werror", *WARNINGS, "-I", str(INCLUDE), "-o", str(target),
        *map(str, sources("guardian")), str(HERE / "src" / "guardian_core.c"),
    ]
    subprocess.run(command, check=True)


def check_warnings() -> None:
    """Compile every C file with all warnings as errors, for `make check`; nothing is kept."""
    for path in [*sources("src"), *sources("guardian")]:
        subprocess.run([os.environ.get("CC", "cc"), *NUMERIC, *WARNINGS, "-Werror", "-I", str(INCLUDE), "-c",
                        "-o", os.devnull, str(path)], check=True)


def make_ffibuilder() -> FFI:
    """Describe the module `flightsw._kernels` to setuptools."""
    ffi = FFI()
    for header in headers():
        ffi.cdef(cdef_of(header))
    root = HERE.parent
    ffi.set_source(
        "flightsw._kernels",
        "\n".join(f'#include "{header.name}"' for header in headers()),
        sources=[str(path.relative_to(root)) for path in sources("src")],
        depends=[str(path.relative_to(root)) for path in [*headers(), *(HERE / "src").glob("*.h")]],
        include_dirs=[str(INCLUDE.relative_to(root))],
        extra_compile_args=[*NUMERIC, *WARNINGS, "-fvisibility=hidden"],
    )
    return ffi


ffibuilder = make_ffibuilder()


if __name__ == "__main__":
    if sys.argv[1:] != ["--check"]:
        raise SystemExit("usage: python -m c_kernels.build --check")
    check_warnings()

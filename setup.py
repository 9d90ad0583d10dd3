"""Build the cffi kernel module and the guardian program; everything else is in pyproject.toml."""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).resolve().parent))
from c_kernels import build as c_build


class BuildKernelsAndGuardian(build_ext):
    """`build_ext` that also compiles the guardian executable into `flightsw/_bin/`."""

    def run(self) -> None:
        """Build the extension modules, then the program."""
        super().run()
        root = Path(__file__).resolve().parent if self.inplace else Path(self.build_lib)
        c_build.compile_guardian(root / "flightsw" / "_bin" / "guardian")


setup(cffi_modules=["c_kernels/build.py:ffibuilder"], cmdclass={"build_ext": BuildKernelsAndGuardian})

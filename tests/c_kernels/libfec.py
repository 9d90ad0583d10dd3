"""libfec, the peer of the Reed-Solomon kernel: five codewords a call, so that the way to C costs it nothing."""

from __future__ import annotations

import ctypes.util
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from cffi import FFI

_SHIM = """
void encode_rs_ccsds(unsigned char *data, unsigned char *parity, int pad);
int decode_rs_ccsds(unsigned char *data, int *eras_pos, int no_eras, int pad);
void encode_five(unsigned char *codewords) { for (int i = 0; i < 5; i++) {
    encode_rs_ccsds(codewords + 255 * i, codewords + 255 * i + 223, 0); } }
int decode_five(unsigned char *codewords) { int worst = 0; for (int i = 0; i < 5; i++) {
    const int found = decode_rs_ccsds(codewords + 255 * i, 0, 0, 0);
    worst = found < 0 ? -1000 : worst + found; } return worst; }
"""


class Libfec:
    """Codewords of 255 octets, contiguous."""

    def __init__(self, folder: Path) -> None:
        source, target = folder / "five.c", folder / "five.so"
        source.write_text(_SHIM)
        # As Debian installs it without its -dev package: by the library's full name.
        library = f"-l:{ctypes.util.find_library('fec')}"
        subprocess.run(["cc", "-O3", "-shared", "-fPIC", "-o", target, source, library], check=True)
        self._ffi = FFI()
        self._ffi.cdef("void encode_five(unsigned char *); int decode_five(unsigned char *);")
        self._lib = self._ffi.dlopen(str(target))
        self._octets = self._ffi.new("unsigned char[]", 1275)
        self._view = self._ffi.buffer(self._octets)

    def encode_five(self, data: bytes) -> bytes:
        """Five times 223 octets of information, parity left open -> five codewords."""
        self._view[:] = data
        self._lib.encode_five(self._octets)
        return self._view[:]

    def decode_five(self, codewords: bytes) -> tuple[bytes, int]:
        """Five codewords repaired, and how many octets were wrong; negative where one is beyond repair."""
        self._view[:] = codewords
        wrong = self._lib.decode_five(self._octets)
        return self._view[:], wrong


def load() -> Libfec:
    """Load it, or skip the test that asks."""
    if ctypes.util.find_library("fec") is None or shutil.which("cc") is None:
        pytest.skip("libfec is not installed (Debian: libfec0)")
    return Libfec(Path(tempfile.mkdtemp(prefix="libfec-")))


def contiguous(block: bytes) -> bytes:
    """Codewords of an interleaved block, one after another."""
    interleave = len(block) // 255
    return b"".join(block[i::interleave] for i in range(interleave))


def interleaved(codewords: bytes) -> bytes:
    """The reverse."""
    count = len(codewords) // 255
    return bytes(codewords[255 * i + p] for p in range(255) for i in range(count))

"""The emulated bench: a Linux system in QEMU, reached by its serial port.

`hil run --bench emulated` boots the image of `boards/qemu_x86` with the flight software of this checkout put in, as one
flashes a board, and flies it in lockstep over the machine's second serial port; the first is its console, kept in
`console.log`. Its kernel, its Python and its libraries are the image's, its clock and its speed the emulator's: the
command log must not care. Says what is missing where QEMU or the image is not there. The processor is emulated as well:
hardware virtualization within a virtual machine was seen to hang without a word, and speed is nothing here.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from flightsw.errors import BoardError, ConfigError
from flightsw.link.serial_port import SerialPort
from flightsw.lockstep import FRAME_OCTETS_MAX
from hil import link_keys
from hil.benches import Connect, PortWire, behind
from hil.scenario import Scenario

IMAGE: Final = Path(__file__).resolve().parents[1] / "build" / "emulated"
BAUD: Final = 115_200
START_WITHIN_S: Final = 180.0
DEADLINE_S: Final = 60.0
_QEMU: Final = "qemu-system-x86_64"
_SOURCES: Final = Path(__file__).resolve().parents[1]
_PACKAGE: Final = "flightsw"
_CONSOLE: Final = "console.log"
_MEMORY_MB: Final = 1536
_PYTHON: Final = (3, 11)  # of the image
_PTY: Final = re.compile(rb"char device redirected to (/dev/pts/\d+) \(label rig\)")


def missing(image: Path = IMAGE) -> str:
    """Return what this machine lacks for the bench, in words; empty when nothing is."""
    if shutil.which(_QEMU) is None:
        return f"{_QEMU} is not installed; on Debian: apt install --no-install-recommends qemu-system-x86"
    absent = [name for name in ("vmlinuz", "image.cpio.gz") if not (image / name).is_file()]
    if absent:
        return f"there is no {' and no '.join(absent)} in {image}; make emulated-image builds them"
    if sys.version_info[:2] != _PYTHON:
        return f"the image has Python 3.11, this is {sys.version_info[0]}.{sys.version_info[1]}: kernels do not fit"
    return ""


@contextlib.contextmanager
def emulated(scenario: Scenario, folder: Path) -> Iterator[Connect]:
    """Boot the image with the flight software in it; ConfigError says what is missing."""
    problem = missing()
    if problem:
        raise ConfigError("--bench emulated", problem)
    with booted(overlay(scenario, folder), folder) as path, SerialPort(path, BAUD, 2 * FRAME_OCTETS_MAX) as port, \
            behind(PortWire(port), folder, lambda: _last_words(folder), DEADLINE_S, START_WITHIN_S) as connect:
        yield connect


@contextlib.contextmanager
def booted(archived: bytes, folder: Path) -> Iterator[str]:
    """Run the emulated machine with an archive put into its image; yields the path of its second serial port."""
    initrd = folder / "initrd"
    with initrd.open("wb") as packed:
        with (IMAGE / "image.cpio.gz").open("rb") as base:
            shutil.copyfileobj(base, packed)
        packed.write(bytes(-packed.tell() % 4))  # an archive begins on a multiple of four
        packed.write(archived)  # the kernel unpacks one archive after the other
    command = [
        _QEMU, "-accel", "tcg", "-cpu", "max", "-m", str(_MEMORY_MB), "-kernel", str(IMAGE / "vmlinuz"),
        "-initrd", str(initrd), "-no-reboot", "-nodefaults", "-display", "none",
        # A loaded host is late with the first timer interrupts, for which the kernel would give up.
        "-append", "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check",
        "-chardev", f"file,id=console,path={folder / _CONSOLE}", "-serial", "chardev:console",
        "-chardev", "pty,id=rig", "-serial", "chardev:rig",
    ]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield _port_of(process)
    finally:
        process.kill()  # pulling its plug: nothing in it is kept
        process.communicate()
        initrd.unlink(missing_ok=True)


def _port_of(process: subprocess.Popen[bytes]) -> str:
    """Read what QEMU says until it names the port."""
    said = b""
    assert process.stdout is not None
    for line in process.stdout:
        said += line
        found = _PTY.search(line)
        if found:
            return found[1].decode()
    raise BoardError(f"{_QEMU} ended: {said.decode(errors='replace').strip() or 'it said nothing'}")


def _last_words(folder: Path) -> str:
    path = folder / _CONSOLE
    lines = path.read_text("utf-8", "replace").strip().splitlines() if path.exists() else []
    return f"the console's last line: {lines[-1] if lines else 'nothing'}"


# --- what is put into the image ----------------------------------------------------------------------


def overlay(scenario: Scenario, folder: Path) -> bytes:
    """Return the archive with the flight software, the mission as the scenario has it, keys, and how to start it."""
    always = " --always-transmit" if scenario.link.contact == "always" else ""
    start = (f"exec python3 -m flightsw run --mission /flight/mission.toml --rig-port /dev/ttyS1 --rig-baud {BAUD} "
             f"--lockstep --state /tmp/state --keys /flight/{link_keys.FILE}{always}\n")
    files, modes = software({"flight/mission.toml": scenario.mission_toml.encode(), "flight/start": start.encode()})
    for path in link_keys.board_files(scenario, folder):
        name = f"flight/{path.name}"
        files[name], modes[name] = path.read_bytes(), 0o600
    return archive(files, modes)


def software(beside: dict[str, bytes]) -> tuple[dict[str, bytes], dict[str, int]]:
    """Return the flight software's files, and those `beside` it, with their modes."""
    files, modes = dict(beside), dict.fromkeys(beside, 0o644)
    package = _SOURCES / _PACKAGE
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            name = f"flight/{path.relative_to(_SOURCES)}"
            files[name] = path.read_bytes()
            modes[name] = 0o755 if os.access(path, os.X_OK) else 0o644
    return files, modes


def archive(files: dict[str, bytes], modes: dict[str, int]) -> bytes:
    """Return an initramfs archive ("newc", see the kernel's buffer-format.rst) of `files` and their folders."""
    folders = sorted({str(parent) for name in files for parent in Path(name).parents if str(parent) != "."})
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in folders]
    entries += [(name, stat.S_IFREG | modes[name], files[name]) for name in sorted(files)]
    out = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08X" % value for value in fields) + name.encode() + b"\0"
        out += bytes(-len(out) % 4) + content
        out += bytes(-len(out) % 4)
    return bytes(out)

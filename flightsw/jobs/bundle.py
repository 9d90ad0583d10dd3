"""A job in one file: `job.toml` and its inputs, the hash of each, and its customer's signature.

Owns the format. Called by the author's tools and by intake on board. It writes only where its caller lets it, follows
nothing that an archive says, and believes nothing before the signature over all hashes is verified.

A bundle is a plain ustar archive (POSIX.1-2001, no extensions, not compressed: it cannot grow when it is
unpacked) of regular files with these members in this order, and nothing else:

    SHA256SUMS       one line "<SHA-256>  <name>" for each file below, as `sha256sum --check` reads it
    SHA256SUMS.sig   "customer <name>" and "ed25519 <128 hex digits>", a line each; absent until it is signed
    job.toml         the manifest
    ...              the manifest's inputs, in its order

The signature (Ed25519, RFC 8032) is over a line `flightsw job bundle 1` followed by SHA256SUMS. Headers hold name and
size only; a header that is not the very one that `pack` writes is refused, so one bundle has one form.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from flightsw.errors import ConfigError, JobError
from flightsw.jobs.manifest import (
    CUSTOMER_PATTERN,
    FILE_PATTERN,
    FILES_MAX,
    MANIFEST_OCTETS_MAX,
    SIGNATURE_FILE,
    SUMS_FILE,
    Manifest,
    parse_manifest,
)

BUNDLE_OCTETS_MAX: Final = 64 << 20
SUFFIX: Final = ".job"
MANIFEST_FILE: Final = "job.toml"

_CONTEXT: Final = b"flightsw job bundle 1\n"
_BLOCK: Final = tarfile.BLOCKSIZE
_END: Final = bytes(2 * _BLOCK)
_SUMS_OCTETS_MAX: Final = 8_192
_SIGNATURE_OCTETS_MAX: Final = 256
_OCTETS_A_STEP: Final = 1 << 20  # a few milliseconds of hashing and writing on a small board
_NAME: Final = re.compile(FILE_PATTERN)
_SUMS_LINE: Final = re.compile(rf"([0-9a-f]{{64}})  ({FILE_PATTERN})")
_SIGNATURE: Final = re.compile(rf"customer ({CUSTOMER_PATTERN})\ned25519 ([0-9a-f]{{128}})\n")
_KINDS: Final = {
    tarfile.SYMTYPE: "a symbolic link", tarfile.LNKTYPE: "a hard link", tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device", tarfile.FIFOTYPE: "a pipe", tarfile.DIRTYPE: "a folder",
}


class Contents(NamedTuple):
    """What a bundle holds. `sha256` is that of SHA256SUMS and so stands for all of it.

    `customer` is who signed it, "" when nobody did; `files` are octets by name, `job.toml` among them.
    """

    manifest: Manifest
    manifest_octets: bytes
    sha256: str
    customer: str
    files: Mapping[str, int]


def job_number(customer: str, job_id: str) -> int:
    """Return the number by which ledger, link and ground know a customer's job.

    It follows from the two names, so that a job submitted twice is one job. Its highest bit is set: numbers
    below 2^31 are left to operators.
    """
    digest = hashlib.sha256(f"{customer}/{job_id}".encode()).digest()
    return 0x8000_0000 | int.from_bytes(digest[:4], "big")


# --- writing ----------------------------------------------------------------------------------------


def pack(folder: Path) -> bytes:
    """Return the unsigned bundle of a folder with a `job.toml` and its inputs.

    ConfigError for the manifest. JobError when a file is missing, no regular file, or all are too large.
    """
    path = folder / MANIFEST_FILE
    try:
        octets = path.read_bytes()
        manifest = parse_manifest(octets, str(path))
        members = {MANIFEST_FILE: octets}
        for name in manifest.inputs:
            source = folder / name
            if source.is_symlink() or not source.is_file():
                raise JobError(f"{source}: an input must be there as a regular file")
            if source.stat().st_size > BUNDLE_OCTETS_MAX:
                raise JobError(f"{source}: {source.stat().st_size} octets, a bundle has at most {BUNDLE_OCTETS_MAX}")
            members[name] = source.read_bytes()
    except OSError as e:
        raise JobError(f"{e.filename}: {e.strerror}") from e
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in members.items())
    packed = b"".join([_member(SUMS_FILE, sums.encode()), *(_member(*member) for member in members.items()), _END])
    if len(packed) > BUNDLE_OCTETS_MAX:
        raise JobError(f"{folder}: {len(packed)} octets, a bundle has at most {BUNDLE_OCTETS_MAX}")
    return packed


def sign(bundle: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return the bundle signed with its customer's key, in place of any signature it has. JobError for a bad one."""
    contents = examine(bundle)
    archive = _Archive(io.BytesIO(bundle))
    sums = _small(archive, SUMS_FILE, _SUMS_OCTETS_MAX)
    rest = archive.offset
    if contents.customer:
        _small(archive, SIGNATURE_FILE, _SIGNATURE_OCTETS_MAX)
        rest = archive.offset
    signature = f"customer {contents.manifest.customer}\ned25519 {key.sign(_CONTEXT + sums).hex()}\n"
    return _member(SUMS_FILE, sums) + _member(SIGNATURE_FILE, signature.encode()) + bundle[rest:]


def _member(name: str, content: bytes) -> bytes:
    return _header(name, len(content)) + content + bytes(-len(content) % _BLOCK)


def _header(name: str, size: int) -> bytes:
    """Return the one header that a file of a bundle may have: mode 0644, nobody's, at the epoch."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


# --- reading ----------------------------------------------------------------------------------------


def examine(bundle: bytes, keys: Mapping[str, bytes] | None = None) -> Contents:
    """Read a bundle in memory and return what it holds; see `read`."""
    reading = read(io.BytesIO(bundle), keys, lambda _name: io.BytesIO())
    while True:
        try:
            next(reading)
        except StopIteration as end:
            contents: Contents = end.value
            return contents


def read(
    stream: BinaryIO, keys: Mapping[str, bytes] | None, create: Callable[[str], BinaryIO]
) -> Generator[None, None, Contents]:
    """Check a bundle from end to end in one pass; return what it holds, having yielded after each MiB.

    `keys` are the customers' public keys (32 octets); with None a signature is not asked for and not checked.
    `create` makes the file to which the octets of a plain name go, and each is closed; none is made before the
    signature is verified, and nothing counts before the end is reached. JobError says what is wrong with the bundle;
    an OSError is of the stream or of `create`.
    """
    archive = _Archive(stream)
    sums_octets = _small(archive, SUMS_FILE, _SUMS_OCTETS_MAX)
    sums = _parse_sums(sums_octets)
    signature = b""
    name, size = archive.next_member()
    if name == SIGNATURE_FILE:
        signature = _content(archive, name, size, _SIGNATURE_OCTETS_MAX)
        name, size = archive.next_member()
    customer = _verify(sums_octets, signature, keys)
    manifest_octets = b""
    manifest: Manifest | None = None
    files: dict[str, int] = {}
    for expected, sha256 in sums.items():
        if name != expected:
            raise JobError(f"{name or 'the end'} where {SUMS_FILE} has {expected}")
        files[name] = size
        if name == MANIFEST_FILE:
            manifest_octets = _content(archive, name, size, MANIFEST_OCTETS_MAX)
            _compare(name, hashlib.sha256(manifest_octets).hexdigest(), sha256)
            manifest = _manifest(manifest_octets, customer, tuple(sums))
        digest = hashlib.sha256()
        with create(name) as file:
            if name == MANIFEST_FILE:
                file.write(manifest_octets)
            else:
                for piece in archive.pieces(size):
                    digest.update(piece)
                    file.write(piece)
                    yield
        if name != MANIFEST_FILE:
            _compare(name, digest.hexdigest(), sha256)
        name, size = archive.next_member()
    if name:
        raise JobError(f"{name} is not in {SUMS_FILE}")
    archive.end()
    if manifest is None:
        raise JobError(f"{SUMS_FILE} has no {MANIFEST_FILE}")
    return Contents(manifest, manifest_octets, hashlib.sha256(sums_octets).hexdigest(), customer, files)


class _Archive:
    """Members of an archive one after another, within `BUNDLE_OCTETS_MAX`; JobError for what no bundle has."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.offset = 0

    def next_member(self) -> tuple[str, int]:
        """Return name and size of the next member, whose content must then be read; ("", 0) at the end."""
        at = self.offset
        block = self._take(_BLOCK)
        if block == _END[:_BLOCK]:
            return "", 0
        try:
            info = tarfile.TarInfo.frombuf(block, "ascii", "surrogateescape")
        except (tarfile.TarError, ValueError) as e:
            raise JobError(f"octet {at}: no archive header: {e}") from e
        shown = ascii(info.name)
        if info.type in _KINDS:
            raise JobError(f"{shown} is {_KINDS[info.type]}, a bundle has regular files only")
        if info.name.startswith("/") or ".." in info.name.split("/"):
            raise JobError(f"{shown} points out of its folder")
        if not _NAME.fullmatch(info.name):
            raise JobError(f"{shown} is no plain file name of 1..64 letters, digits, dots, _ and -")
        if not 0 <= info.size <= BUNDLE_OCTETS_MAX - self.offset:
            raise JobError(f"{shown}: {info.size} octets, a bundle has at most {BUNDLE_OCTETS_MAX}")
        if block != _header(info.name, info.size):
            raise JobError(f"{shown}: its header is not as a bundle's is (type, mode, owner, time or extension)")
        return info.name, info.size

    def pieces(self, size: int) -> Generator[bytes, None, None]:
        """Yield the content of a member of `size` octets."""
        left = size
        while left:
            piece = self._take(min(left, _OCTETS_A_STEP))
            left -= len(piece)
            yield piece
        if any(self._take(-size % _BLOCK)):
            raise JobError(f"octet {self.offset}: filling that is not zero")

    def end(self) -> None:
        """Check that nothing follows the end."""
        if self._take(_BLOCK) != _END[:_BLOCK] or self._stream.read(1):
            raise JobError(f"octet {self.offset}: something follows the end")

    def _take(self, count: int) -> bytes:
        taken = b""
        while len(taken) < count:
            piece = self._stream.read(count - len(taken))
            if not piece:
                raise JobError(f"cut off at octet {self.offset + len(taken)}")
            taken += piece
        self.offset += count
        return taken


def _small(archive: _Archive, expected: str, octets_max: int) -> bytes:
    name, size = archive.next_member()
    if name != expected:
        raise JobError(f"{name or 'the end'} where a bundle has {expected}")
    return _content(archive, name, size, octets_max)


def _content(archive: _Archive, name: str, size: int, octets_max: int) -> bytes:
    if size > octets_max:
        raise JobError(f"{name}: {size} octets above the limit of {octets_max}")
    return b"".join(archive.pieces(size))


def _parse_sums(octets: bytes) -> dict[str, str]:
    """Return SHA-256 by name, in order."""
    sums: dict[str, str] = {}
    lines = octets.decode("ascii", "replace").split("\n")
    if lines.pop():
        raise JobError(f"{SUMS_FILE}: the last line has no end")
    if len(lines) > FILES_MAX + 1:
        raise JobError(f"{SUMS_FILE}: {len(lines)} files, a bundle has at most {FILES_MAX + 1}")
    for number, line in enumerate(lines, 1):
        match = _SUMS_LINE.fullmatch(line)
        if match is None:
            raise JobError(f"{SUMS_FILE} line {number}: expected a SHA-256, two spaces and a plain file name")
        if match[2] in sums or match[2] in {SUMS_FILE, SIGNATURE_FILE}:
            raise JobError(f"{SUMS_FILE} line {number}: {match[2]} is there twice")
        sums[match[2]] = match[1]
    if next(iter(sums), "") != MANIFEST_FILE:
        raise JobError(f"{SUMS_FILE}: {MANIFEST_FILE} must come first")
    return sums


def _verify(sums: bytes, signature: bytes, keys: Mapping[str, bytes] | None) -> str:
    """Return who signed; "" when nobody did and nobody need."""
    if not signature:
        if keys is not None:
            raise JobError("not signed")
        return ""
    match = _SIGNATURE.fullmatch(signature.decode("ascii", "replace"))
    if match is None:
        raise JobError(f"{SIGNATURE_FILE}: expected a line with the customer and one with the signature")
    customer = match[1]
    if keys is not None:
        if customer not in keys:
            raise JobError(f"customer {customer!r} has no key on board")
        try:
            Ed25519PublicKey.from_public_bytes(keys[customer]).verify(bytes.fromhex(match[2]), _CONTEXT + sums)
        except InvalidSignature as e:
            raise JobError(f"the signature does not match the key of {customer!r}") from e
    return customer


def _manifest(octets: bytes, customer: str, listed: tuple[str, ...]) -> Manifest:
    """Return the manifest, which must agree with the signature and list exactly the other files, in this order."""
    try:
        manifest = parse_manifest(octets, MANIFEST_FILE)
    except ConfigError as e:
        raise JobError(str(e)) from e
    if customer and manifest.customer != customer:
        raise JobError(f"signed by {customer!r}, but its job.customer is {manifest.customer!r}")
    for name in listed[1:]:
        if name not in manifest.inputs:
            raise JobError(f"{name} is not among job.inputs")
    for name in manifest.inputs:
        if name not in listed:
            raise JobError(f"{name} of job.inputs is missing")
    if listed[1:] != manifest.inputs:
        raise JobError("its files are not in the order of job.inputs")
    return manifest


def _compare(name: str, sha256: str, expected: str) -> None:
    if sha256 != expected:
        raise JobError(f"{name}: SHA-256 is {sha256}, {SUMS_FILE} says {expected}")

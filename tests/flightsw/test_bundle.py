"""Bundles: what is packed is read again, and nothing else is; whatever an archive says, it stays in its folder."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flightsw.errors import ConfigError, JobError
from flightsw.jobs import bundle
from flightsw.jobs.bundle import Contents, examine, job_number, pack, read, sign
from flightsw.jobs.customers import Customer, load_customers

MANIFEST = """
[job]
id = "mask"
name = "Mask"
customer = "Example Ltd"
command = ["python3", "in/mask.py"]
inputs = ["mask.py", "scene.bin"]
outputs = ["out.bin"]
value = 1.0
deadline_s = 60.0
[work]
units = 4
unit = "step"
[needs]
memory_mb = 64
disk_mb = 1
[pause]
contract = "stop_continue"
[power]
activity_frac = 1.0
"""
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEYS = {"Example Ltd": KEY.public_key().public_bytes_raw()}
FILES = {"job.toml": MANIFEST.encode(), "mask.py": b"print(1)\n", "scene.bin": bytes(range(256)) * 5}
GOOD = [*FILES.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source")
    for name, content in FILES.items():
        (path / name).write_bytes(content)
    return path


@pytest.fixture(scope="module")
def signed(folder: Path) -> bytes:
    return sign(pack(folder), KEY)


def member(name: str, content: bytes = b"", /, **facts: object) -> bytes:
    """A member as any tar program may write it."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for fact, value in facts.items():
        setattr(info, fact, value)
    return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape") + content + bytes(-len(content) % 512)


def assemble(files: list[tuple[str, bytes]], *, key: Ed25519PrivateKey = KEY, customer: str = "Example Ltd",
             listed: list[tuple[str, bytes]] | None = None) -> bytes:
    """Make a signed archive of any files, listing `listed`."""
    names = files if listed is None else listed
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in names).encode()
    signature = key.sign(b"flightsw job bundle 1\n" + sums).hex()
    return b"".join([
        member("SHA256SUMS", sums), member("SHA256SUMS.sig", f"customer {customer}\ned25519 {signature}\n".encode()),
        *(member(*file) for file in files), bytes(1024),
    ])


def unpack(octets: bytes, into: Path) -> Contents:
    """Read a bundle into a folder, as intake does."""
    reading = read(io.BytesIO(octets), KEYS, lambda name: (into / name).open("xb"))
    while True:
        try:
            next(reading)
        except StopIteration as end:
            contents: Contents = end.value
            return contents


def test_what_is_packed_and_signed_is_read_again(folder: Path, signed: bytes, tmp_path: Path) -> None:
    contents = unpack(signed, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == FILES
    assert (contents.customer, contents.manifest.id) == ("Example Ltd", "mask")
    assert contents.files == {name: len(content) for name, content in FILES.items()}
    assert contents == examine(signed) == examine(pack(folder))._replace(customer="Example Ltd")


def test_one_folder_makes_one_archive_and_signing_again_replaces_the_signature(folder: Path, signed: bytes) -> None:
    other = Ed25519PrivateKey.generate()
    assert pack(folder) == pack(folder)
    assert sign(signed, KEY) == signed
    assert sign(sign(signed, other), KEY) == signed
    with pytest.raises(JobError, match="the signature does not match the key of 'Example Ltd'"):
        examine(sign(signed, other), KEYS)


def test_the_systems_own_tools_read_it(signed: bytes, tmp_path: Path) -> None:
    (tmp_path / "mask.job").write_bytes(signed)
    subprocess.run(["tar", "xf", "mask.job"], cwd=tmp_path, check=True, timeout=60)
    checked = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path, check=True, timeout=60,
                             capture_output=True, text=True)
    assert checked.stdout.splitlines() == [f"{name}: OK" for name in FILES]


def test_an_unsigned_one_is_for_authors_only(folder: Path) -> None:
    assert examine(pack(folder)).customer == ""
    with pytest.raises(JobError, match="not signed"):
        examine(pack(folder), KEYS)


def changed(**facts: object) -> Callable[[], bytes]:
    """An archive in which the header of one member, mask.py, has these facts."""
    def make() -> bytes:
        whole, content = assemble(GOOD), FILES["mask.py"]
        plain = member("mask.py", content)
        assert plain in whole
        return whole.replace(plain, member("mask.py", content, **facts))
    return make


WRONG: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "cut off at octet 0"),
    "text": (lambda: b"x" * 600, "octet 0: no archive header"),
    "no sums": (lambda: bytes(1024), "the end where a bundle has SHA256SUMS"),
    "other first": (lambda: member("job.toml", FILES["job.toml"]) + bytes(1024), "job.toml where a bundle has SHA256"),
    "cut off": (lambda: assemble(GOOD)[:-1500], "cut off at octet"),
    "no end": (lambda: assemble(GOOD)[:-512], "cut off at octet"),
    "trailing": (lambda: assemble(GOOD) + b"\0", "something follows the end"),
    "other key": (lambda: assemble(GOOD, key=Ed25519PrivateKey.generate()), "the signature does not match"),
    "unknown customer": (lambda: assemble(GOOD, customer="Nobody"), "customer 'Nobody' has no key"),
    "changed file": (lambda: assemble(GOOD).replace(b"print(1)", b"print(2)"), "mask.py: SHA-256 is"),
    "changed manifest": (
        lambda: assemble(GOOD).replace(b"value = 1.0", b"value = 9.0"), "job.toml: SHA-256 is"),
    "changed sums": (
        lambda: assemble(GOOD).replace(b"  scene.bin\n", b"  scena.bin\n"), "the signature does not match"),
    "unlisted": (lambda: assemble([*GOOD, ("extra", b"")], listed=GOOD), "extra is not in SHA"),
    "not an input": (lambda: assemble([*GOOD, ("extra", b"")]), "extra is not among job.inputs"),
    "missing": (lambda: assemble(GOOD[:-1]), "scene.bin of job.inputs is missing"),
    "listed only": (
        lambda: assemble(GOOD[:-1], listed=GOOD), "the end where SHA256SUMS has scene"),
    "duplicate": (lambda: assemble([*GOOD, ("mask.py", b"")], listed=GOOD), "mask.py is not in"),
    "listed twice": (lambda: assemble([*GOOD, ("mask.py", b"")]), "line 4: mask.py is there twice"),
    "order": (lambda: assemble(GOOD[:1] + GOOD[:0:-1]), "not in the order of job.inputs"),
    "manifest last": (lambda: assemble(GOOD[::-1]), "job.toml must come first"),
    "no manifest": (lambda: assemble([]), "job.toml must come first"),
    "bad manifest": (lambda: assemble([("job.toml", b"[job]\n")]), "job.toml: job.command: missing"),
    "other's manifest": (
        lambda: assemble([("job.toml", MANIFEST.replace("Example Ltd", "Other").encode())]),
        "signed by 'Example Ltd', but its job.customer is 'Other'"),
    "listed path": (lambda: assemble([("job.toml", b""), ("../x", b"")]), "SHA256SUMS line 2: expected a SHA-256"),
    "parent": (changed(name="../mask.py"), "'../mask.py' points out of its folder"),
    "absolute": (changed(name="/tmp/mask.py"), "'/tmp/mask.py' points out of its folder"),
    "subfolder": (changed(name="a/mask.py"), "'a/mask.py' is no plain file name"),
    "hidden": (changed(name=".profile"), "'.profile' is no plain file name"),
    "not ascii": (changed(name="mäsk.py"), "is no plain file name"),
    "symbolic link": (changed(type=tarfile.SYMTYPE, linkname="/etc/passwd"), "is a symbolic link"),
    "hard link": (changed(type=tarfile.LNKTYPE, linkname="job.toml"), "is a hard link"),
    "device": (changed(type=tarfile.CHRTYPE, devmajor=1, devminor=8), "is a device"),
    "pipe": (changed(type=tarfile.FIFOTYPE), "is a pipe"),
    "folder": (changed(type=tarfile.DIRTYPE), "is a folder"),
    "set-user-id": (changed(mode=0o4755), "header is not as a bundle's is"),
    "owner": (changed(uid=0, uname="root"), "header is not as a bundle's is"),
    "sparse": (changed(type=tarfile.GNUTYPE_SPARSE), "header is not as a bundle's is"),
    "extension": (changed(type=tarfile.XHDTYPE), "header is not as a bundle's is"),
    "old name type": (changed(type=tarfile.AREGTYPE), "header is not as a bundle's is"),
    "compressed bomb": (lambda: gzip.compress(bytes(64 << 20)), "octet 0: no archive header"),
    "huge": (changed(size=1 << 32), "4294967296 octets, a bundle has at most 67108864"),
    "long manifest": (
        lambda: assemble([("job.toml", MANIFEST.encode() + b"#" * 16384)]), "octets above the limit of 16384"),
    "filling": (lambda: assemble(GOOD).replace(b"print(1)\n\0", b"print(1)\n\1"), "filling that is not"),
}


@pytest.mark.parametrize("case", WRONG)
def test_each_wrong_bundle_is_refused_with_its_reason_and_writes_nothing_before_the_signature(
    case: str, tmp_path: Path
) -> None:
    make, message = WRONG[case]
    (tmp_path / "into").mkdir()
    with pytest.raises(JobError) as caught:
        unpack(make(), tmp_path / "into")
    assert message in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["into"]
    if "signature" in message or "customer" in message:
        assert list((tmp_path / "into").iterdir()) == []


def test_too_many_files_are_refused() -> None:
    files = [("job.toml", FILES["job.toml"]), *((f"f{n}", b"") for n in range(65))]
    with pytest.raises(JobError, match="66 files, a bundle has at most 65"):
        examine(assemble(files), KEYS)


def test_a_folder_that_makes_no_bundle_says_why(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"job.toml: No such file"):
        pack(tmp_path)
    (tmp_path / "job.toml").write_text(MANIFEST)
    with pytest.raises(JobError, match=r"mask.py: an input must be there as a regular file"):
        pack(tmp_path)
    (tmp_path / "mask.py").symlink_to("/etc/passwd")
    with pytest.raises(JobError, match=r"mask.py: an input must be there as a regular file"):
        pack(tmp_path)
    (tmp_path / "mask.py").unlink()
    (tmp_path / "mask.py").touch()
    os.truncate(tmp_path / "mask.py", bundle.BUNDLE_OCTETS_MAX + 1)
    with pytest.raises(JobError, match=r"mask.py: 67108865 octets, a bundle has at most 67108864"):
        pack(tmp_path)


def test_a_large_file_is_read_in_steps(tmp_path: Path) -> None:
    big = bytes(3 << 20)
    files = [("job.toml", FILES["job.toml"]), ("mask.py", b""), ("scene.bin", big)]
    steps: Iterator[None] = read(io.BytesIO(assemble(files)), KEYS, lambda name: (tmp_path / name).open("xb"))
    assert sum(1 for _ in steps) == 3
    assert (tmp_path / "scene.bin").read_bytes() == big


def test_numbers_are_the_customers_own_and_leave_the_low_half_free() -> None:
    assert job_number("a", "x") == job_number("a", "x")
    assert len({job_number(customer, job_id) for customer in "ab" for job_id in "xy"}) == 4
    assert job_number("a", "x") >= 1 << 31


# --- any octets -------------------------------------------------------------------------------------


def judged(octets: bytes, into: Path) -> bool:
    """Whether a bundle is accepted; anything raised but JobError, or written elsewhere, fails the test."""
    def create(name: str) -> io.BufferedWriter:
        assert (into / name).parent == into
        assert name not in {"", ".", ".."}
        return (into / name).open("xb")
    try:
        for _ in read(io.BytesIO(octets), KEYS, create):
            pass
    except JobError:
        return False
    finally:
        for path in into.iterdir():
            path.unlink()
    return True


FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(octets=st.binary(max_size=2048))
def test_any_octets_are_refused(octets: bytes, tmp_path: Path) -> None:
    assert not judged(octets, tmp_path)


@FUZZ
@given(data=st.data())
def test_any_change_of_a_good_bundle_is_refused(data: st.DataObject, signed: bytes, tmp_path: Path) -> None:
    at = data.draw(st.integers(0, len(signed) - 1))
    kind = data.draw(st.sampled_from(["flip", "delete", "insert", "cut", "splice"]))
    octets = bytearray(signed)
    if kind == "flip":
        octets[at] ^= data.draw(st.integers(1, 255))
    elif kind == "delete":
        del octets[at:at + data.draw(st.integers(1, 1024))]
    elif kind == "insert":
        octets[at:at] = data.draw(st.binary(min_size=1, max_size=1024))
    elif kind == "cut":
        del octets[at:]
    else:
        block = at // 512 * 512
        octets[block:block] = member(data.draw(st.text(st.characters(codec="ascii"), min_size=1, max_size=60)),
                                     type=data.draw(st.sampled_from([b"0", b"1", b"2", b"5", b"L", b"x", b"g", b"S"])))
    if bytes(octets) != signed:
        assert not judged(bytes(octets), tmp_path)


NAMES = st.sampled_from(["job.toml", "mask.py", "scene.bin", "..", "/etc/x", "a/../../b", "x\0y", "SHA256SUMS"])


@FUZZ
@given(files=st.lists(st.tuples(NAMES, st.sampled_from([*FILES.values(), b"", b"\0" * 512])), max_size=5))
def test_a_customer_with_a_good_key_cannot_write_outside_either(
    files: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    accepted = judged(assemble(files), tmp_path)
    assert accepted == ([name for name, _ in files] == list(FILES) and files[0][1] == FILES["job.toml"])


@FUZZ
@given(data=st.data())
def test_a_manifest_of_any_octets_under_a_good_signature_is_refused_or_read(
    data: st.DataObject, tmp_path: Path
) -> None:
    manifest = data.draw(st.binary(max_size=300) | st.text(max_size=300).map(str.encode)
                         | st.sampled_from([b"[" * 5000, b"a=" + b"[" * 9000, b"a=" + b"9" * 9000]))
    assert not judged(assemble([("job.toml", manifest), ("mask.py", b""), ("scene.bin", b"")]), tmp_path)


# --- customers --------------------------------------------------------------------------------------


def test_customers_are_read_and_everything_wrong_is_said(tmp_path: Path) -> None:
    path = tmp_path / "customers.toml"
    key = KEYS["Example Ltd"].hex()
    path.write_text(f'[[customer]]\nname = "Example Ltd"\npublic_key = "{key}"\n')
    assert load_customers(path) == {"Example Ltd": Customer("Example Ltd", key)}
    path.write_text(f'[[customer]]\nname = "A"\npublic_key = "{key}"\n' * 2)
    with pytest.raises(ConfigError, match="customer 'A' is there twice"):
        load_customers(path)
    path.write_text('[[customer]]\nname = "A/B"\npublic_key = "12"\nopen_jobs = 1000\n')
    with pytest.raises(ConfigError) as caught:
        load_customers(path)
    assert len(str(caught.value).splitlines()) == 3

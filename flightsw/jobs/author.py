"""`flightsw job`: what an author of jobs needs, from an empty folder to a signed bundle.

Called by the command line on the author's own machine; no satellite and no network is needed. Never called in flight.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import re
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from flightsw.clock import MonotonicClock
from flightsw.declared import parse_toml
from flightsw.errors import ConfigError, JobError
from flightsw.jobs import bundle
from flightsw.jobs.bundle import BUNDLE_OCTETS_MAX, MANIFEST_FILE, SUFFIX, job_number
from flightsw.jobs.customers import load_customers
from flightsw.jobs.manifest import (
    CUSTOMER_EXPECTED,
    CUSTOMER_PATTERN,
    FILE_PATTERN,
    ID_PATTERN,
    Manifest,
    Rerun,
    examine,
)
from flightsw.jobs.policy import load_regions
from flightsw.jobs.profile import profile_job
from flightsw.state import Pause

_SDK: Final = Path(__file__).resolve().parents[1] / "sdk.py"
_LONG_S: Final = 1_800.0  # about an eclipse
_PROGRAM: Final = '''"""Count to the declared work, a step at a time: put your own work in place of `step`."""

import argparse
from pathlib import Path

import sdk


def step(total: int) -> int:
    """Do one work unit."""
    return total + sum(range(100_000))


def main() -> None:
    """Go on from the last saved state, do the rest, leave the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, required=True)
    units = parser.parse_args().units
    saved = sdk.restore()
    done, total = (saved.done_units, int(saved.read())) if saved else (0, 0)
    while done < units:
        total, done = step(total), done + 1
        sdk.progress(done)
        if sdk.should_save():
            sdk.checkpoint(done, b"%d" % total)
    Path("out/total.txt").write_text(f"{total}\\n")


if __name__ == "__main__":
    main()
'''
_TEMPLATE: Final = '''# What the satellite must know of this job. Check it with: flightsw job check {folder}
[job]
id = "{job_id}"                     # yours to choose; one id is one job and runs once
name = "{job_id}"                   # for people
customer = "{customer}"             # whose key signs it
command = ["python3", "in/job.py", "--units", "{{units}}"]   # run in the job's folder; {{units}} is work.units
inputs = ["job.py", "sdk.py"]       # files beside this one; the job finds them in in/, read-only
# executables = ["tool"]            # those of them that are programs by themselves: command = ["in/tool", ...]
outputs = ["total.txt"]             # files that it must leave in out/
value = 1.0                         # what finishing it is worth to you
deadline_s = 7200.0                 # from acceptance; or an instant: deadline_utc = "2027-03-20T12:00:00Z"
answer_due_s = 600.0                # how long you can wait for promise or refusal; waiting gives better odds

[work]
units = 1000                        # how much there is to do, in your own units
unit = "step"

[needs]
memory_mb = 64                      # all its processes together; above it the job is ended
disk_mb = 4                         # all that it writes: out/, work/ and checkpoints

[pause]
contract = "checkpoint"             # or "stop_continue": may be stopped anywhere; or "none": starts from nothing again
checkpoint_deadline_s = 10          # how long it may take to save itself, on a node of its own

[power]
activity_frac = 1.0                 # draw relative to a busy node's; or by_mode_w = {{"15W" = 11.5}}

[data]
class = "internal"                  # public, internal, personal or restricted; the last two need encrypt = true
owner = "{customer}"
# regions_allowed = ["EU_EEA"]      # where it may be processed, by the satellite's regions file; without: anywhere
# regions_forbidden = ["USA"]       # where it may not
# stations = ["Weilheim"]           # where it may be sent down; without: any; restricted data must say
retention_s = 86400                 # kept so long after its end, then erased
encrypt = false

[integrity]
rerun = "none"                      # "duplicate": run twice and compare; "sampled" with sample_frac: some of your jobs

# [profile]                         # flightsw job profile {folder} measures it; the planner believes it
'''
_DESCRIPTION = """\
Make jobs for the satellite. A job is a folder with a job.toml and its files; it travels as one signed file, a bundle.

  flightsw job new mask --customer "Example Ltd"   a folder to start from
  flightsw job check mask                          everything that is wrong with it, at once
  flightsw job profile mask                        what one core makes of it, for job.toml
  flightsw job keygen ltd.key --customer "Example Ltd"
  flightsw job pack mask                           mask.job
  flightsw job sign mask.job --key ltd.key         ready to be sent up
  flightsw job show mask.job                       what is in it, and by whom
"""


class Problem(NamedTuple):
    """Something wrong, or (`is_advice`) worth knowing, at a line of job.toml."""

    line: int
    text: str
    is_advice: bool = False


# --- check ------------------------------------------------------------------------------------------


def check(folder: Path, regions: Collection[str] | None = None) -> tuple[Manifest | None, list[Problem]]:
    """Return the folder's manifest and everything wrong with it, in the order of its lines.

    `regions` are the satellite's, None when they are not known. ConfigError when there is no job.toml, or none that
    is TOML.
    """
    path = folder / MANIFEST_FILE
    try:
        octets = path.read_bytes()
    except OSError as e:
        raise ConfigError(str(path), e.strerror or str(e)) from e
    manifest, wrong = examine(octets, str(path))
    text = octets.decode("utf-8", "replace")
    table = parse_toml(text, str(path))
    wrong += _files_problems(folder, table)
    if regions is not None:
        wrong += [f"data.{key}: {name} is not among the satellite's regions: {', '.join(sorted(regions))}"
                  for key in ("regions_allowed", "regions_forbidden") for name in _words(table, "data", key)
                  if name not in regions]
    lines = _lines(text)
    problems = [Problem(_line_of(lines, text), text) for text in wrong]
    if manifest is not None:
        problems += (problem._replace(line=_line_of(lines, problem.text)) for problem in _look(folder, manifest))
    return manifest, sorted(problems, key=lambda problem: (problem.is_advice, problem.line))


def _files_problems(folder: Path, table: Mapping[str, object]) -> Iterator[str]:
    """Yield what is wrong between job.toml and the files beside it, also where other things in it are wrong."""
    inputs, command, executables = (_words(table, "job", key) for key in ("inputs", "command", "executables"))
    octets = 0
    for name in dict.fromkeys(inputs):
        source = folder / name
        if not re.fullmatch(FILE_PATTERN, name):
            continue  # said by the manifest
        if source.is_symlink() or not source.is_file():
            yield f"job.inputs: {name} is not there as a regular file"
        else:
            octets += source.stat().st_size
    if octets > BUNDLE_OCTETS_MAX:
        yield f"job.inputs: {octets} octets together, a bundle has at most {BUNDLE_OCTETS_MAX}"
    for word in command:
        if word.startswith("in/") and word[3:] not in inputs:
            yield f"job.command: {word}, but job.inputs has no {word[3:]}"
    program = command[0] if command else ""
    if program.startswith("in/") and program[3:] not in executables:
        yield f"job.executables: {program[3:]} is missing, and job.command runs it by itself"
    for name in executables:
        with contextlib.suppress(OSError), (folder / name).open("rb") as file:
            if file.read(2) not in (b"#!", b"\x7fE"):
                yield f"job.executables: {name} is neither a program of this kind of machine nor a script"


def _words(table: Mapping[str, object], section: str, key: str) -> list[str]:
    """The texts of a list, as far as they are there."""
    found = table.get(section)
    words = found.get(key) if isinstance(found, dict) else None
    return [word for word in words if isinstance(word, str)] if isinstance(words, list) else []


def _look(folder: Path, manifest: Manifest) -> Iterator[Problem]:
    """Yield what a manifest alone does not show."""
    if manifest.deadline_s is not None and manifest.node_s > manifest.deadline_s:
        yield Problem(0, f"job.deadline_s = {manifest.deadline_s:g}: the work takes {manifest.node_s:g} s of a node")
    if manifest.pause is Pause.NONE and manifest.node_s > _LONG_S:
        yield Problem(0, f"pause.contract: with none, an interruption costs all of {manifest.node_s:g} s", True)
    if manifest.profile is None:
        yield Problem(0, f"profile: missing; a unit is planned as a second of a node. `flightsw job profile {folder}` "
                         "measures it", True)
    if not manifest.data.is_declared:
        yield Problem(0, "data: missing; its data counts as internal, may be processed and sent down anywhere", True)
    if "sdk.py" in manifest.inputs and (folder / "sdk.py").is_file() and (
            (folder / "sdk.py").read_bytes() != _SDK.read_bytes()):
        yield Problem(0, "job.inputs: sdk.py is not the one that comes with this version", True)
    known = {MANIFEST_FILE, *manifest.inputs}
    for name in sorted(path.name for path in folder.iterdir() if path.is_file() and path.name not in known):
        if not name.startswith("."):
            yield Problem(0, f"job.inputs: {name} is not listed and stays behind", True)


def _lines(text: str) -> dict[str, int]:
    """Return the line of each key and section of a TOML text, by dotted name."""
    found: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[{1,2}\s*([A-Za-z0-9_.-]+)\s*\]", line):
            section = header[1]
            found.setdefault(section, number)
        elif key := re.match(r"\s*([A-Za-z0-9_.-]+)\s*=", line):
            found.setdefault(f"{section}.{key[1]}" if section else key[1], number)
    return found


def _line_of(lines: dict[str, int], problem: str) -> int:
    """Return the line that a problem is about: its key's, else its section's, else the first."""
    match = re.match(r"[A-Za-z0-9_.-]+", problem)
    key = match[0] if match else ""
    while key not in lines and "." in key:
        key = key.rpartition(".")[0]
    return lines.get(key, 1)


# --- the verbs --------------------------------------------------------------------------------------


def _new(options: argparse.Namespace) -> int:
    folder: Path = options.folder
    job_id = options.id or re.sub(r"[^a-z0-9_-]+", "-", folder.name.lower()).strip("-_")
    if not re.fullmatch(ID_PATTERN, job_id):
        raise ConfigError("--id", f"{job_id!r}: expected 1..40 characters of a-z, 0-9, _ and -")
    _check_customer(options.customer)
    content = {
        MANIFEST_FILE: _TEMPLATE.format(job_id=job_id, customer=options.customer, folder=folder),
        "job.py": _PROGRAM, "sdk.py": _SDK.read_text("utf-8"),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in content.items():
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as e:
        raise ConfigError(str(e.filename), e.strerror or str(e)) from e
    print(f"{folder}: {', '.join(content)}\nnext: put your work into {folder / 'job.py'}, declare it in "
          f"{folder / MANIFEST_FILE}, then `flightsw job check {folder}`")
    return 0


def _check(options: argparse.Namespace) -> int:
    regions = None if options.regions is None else load_regions(options.regions).names
    manifest, problems = check(options.folder, regions)
    wrong = [problem for problem in problems if not problem.is_advice]
    for problem in problems:
        advice = "advice: " if problem.is_advice else ""
        print(f"{options.folder / MANIFEST_FILE}:{problem.line}: {advice}{problem.text}")
    if wrong or manifest is None:
        print(f"{options.folder}: {len(wrong)} to put right")
        return 2
    print(f"{options.folder}: good. {_summary(manifest)}")
    return 0


def _profile(options: argparse.Namespace) -> int:
    measured_on = options.measured_on or f"{platform.machine()}, Python {platform.python_version()}"
    busy = os.getloadavg()[0] > (os.cpu_count() or 1) - 0.5
    with tempfile.TemporaryDirectory() as folder:
        profile, sha256 = profile_job(options.folder / MANIFEST_FILE, Path(folder), Path(sys.executable),
                                      MonotonicClock(), measured_on)
    print(f"[profile]\nunits_per_core_s = {profile.units_per_core_s:.4g}\n"
          f"peak_memory_mb = {profile.peak_memory_mb:.4g}\n"
          f'activity_frac = {profile.activity_frac:.3g}\nmeasured_on = "{profile.measured_on}"')
    print(f"# SHA-256 of the outputs: {sha256}")
    print(f"# put the lines from [profile] on into {options.folder / MANIFEST_FILE}")
    if busy:
        print("# this machine had other work meanwhile: measure again with a core free")
    return 0


def _pack(options: argparse.Namespace) -> int:
    folder: Path = options.folder
    wrong = [problem for problem in check(folder)[1] if not problem.is_advice]
    if wrong:
        raise ConfigError(str(folder / MANIFEST_FILE), f"{len(wrong)} to put right; see `flightsw job check {folder}`")
    octets = bundle.pack(folder)
    path: Path = options.output or Path(folder.resolve().name + SUFFIX)
    _write(path, octets)
    print(f"{path}: {len(octets)} octets, not signed yet\nnext: flightsw job sign {path} --key KEY")
    return 0


def _sign(options: argparse.Namespace) -> int:
    path: Path = options.bundle
    signed = bundle.sign(_read_bundle(path), _load_key(options.key))
    _write(path, signed)
    contents = bundle.examine(signed)
    print(f"{path}: signed for {contents.customer}; on board it is job "
          f"{job_number(contents.customer, contents.manifest.id)}\n"
          f"next: hand it to the satellite's operator, for `ground upload {path}`")
    return 0


def _keygen(options: argparse.Namespace) -> int:
    _check_customer(options.customer)
    key = Ed25519PrivateKey.generate()
    try:
        fd = os.open(options.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    except OSError as e:
        raise ConfigError(str(options.file), e.strerror or str(e)) from e
    print(f"{options.file}: keep it secret; who has it can submit jobs in your name\n"
          "for the satellite's customers file:\n")
    print(f'[[customer]]\nname = "{options.customer}"\npublic_key = "{key.public_key().public_bytes_raw().hex()}"')
    return 0


def _show(options: argparse.Namespace) -> int:
    keys = None
    if options.customers:
        keys = {name: bytes.fromhex(known.public_key) for name, known in load_customers(options.customers).items()}
    contents = bundle.examine(_read_bundle(options.bundle), keys)
    manifest = contents.manifest
    if not contents.customer:
        print(f"{options.bundle}: not signed")
    else:
        print(f"{options.bundle}: signed for {contents.customer}, signature "
              + ("good" if keys is not None else "not checked (--customers FILE checks it)"))
    print(f"job {job_number(manifest.customer, manifest.id)} on board: {manifest.id}, {manifest.name}")
    print(_summary(manifest))
    for name, octets in contents.files.items():
        print(f"  {octets:>10}  {name}")
    print(f"SHA-256 of SHA256SUMS: {contents.sha256}")
    return 0


def _summary(manifest: Manifest) -> str:
    """What a job asks for, in a line."""
    deadline = (f"within {manifest.deadline_s:g} s of acceptance" if manifest.deadline_s is not None
                else "by the instant of its deadline_utc")
    reruns = "" if manifest.integrity.rerun is Rerun.NONE else (
        f", {manifest.integrity.sample_frac:.0%} of such jobs run twice")
    return (f"{manifest.work_units} x {manifest.unit}, {manifest.node_s:g} s of a node, {deadline}, value "
            f"{manifest.value:g}, {manifest.memory_mb:g} MB memory, {manifest.disk_mb:g} MB disk, data "
            f"{manifest.data.data_class.value}{reruns}")


def _check_customer(name: str) -> None:
    if not re.fullmatch(CUSTOMER_PATTERN, name):
        raise ConfigError("--customer", f"{name!r}: expected {CUSTOMER_EXPECTED}")


def _load_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as e:
        raise ConfigError(str(path), e.strerror or str(e)) from e
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise ConfigError(str(path), "no private key as `flightsw job keygen` writes it") from e
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(str(path), "not an Ed25519 key; make one with `flightsw job keygen`")
    return key


def _read_bundle(path: Path) -> bytes:
    try:
        if path.stat().st_size > BUNDLE_OCTETS_MAX:
            raise JobError(f"{path}: {path.stat().st_size} octets, a bundle has at most {BUNDLE_OCTETS_MAX}")
        return path.read_bytes()
    except OSError as e:
        raise ConfigError(str(path), e.strerror or str(e)) from e


def _write(path: Path, octets: bytes) -> None:
    """Replace a file in one step."""
    fresh = path.with_name(path.name + ".new")
    try:
        fresh.write_bytes(octets)
        fresh.replace(path)
    except OSError as e:
        raise ConfigError(str(path), e.strerror or str(e)) from e


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Give `flightsw job` its verbs; each sets `action`."""
    parser.description = _DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    new = verbs.add_parser("new", help="make a folder to start from", description="Write a job that runs as it is: "
                           "job.toml with every key explained, a program, and the SDK.")
    new.set_defaults(action=_new)
    new.add_argument("folder", type=Path, metavar="FOLDER")
    new.add_argument("--customer", required=True, metavar="NAME", help="as the satellite's customers file has it")
    new.add_argument("--id", metavar="ID", help="job id (default: from the folder's name)")
    for name, action, text in (
        ("check", _check, "say everything that is wrong with a job, with line and reason"),
        ("profile", _profile, "run a job once, unthrottled, and print its [profile] for job.toml"),
        ("pack", _pack, "make a bundle of a folder; the same folder gives the same octets"),
    ):
        verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        verb.set_defaults(action=action)
        verb.add_argument("folder", type=Path, metavar="FOLDER", help="folder with a job.toml")
        if name == "check":
            verb.add_argument("--regions", type=Path, metavar="FILE",
                              help="the satellite's regions file: check the names in [data] too")
        elif name == "pack":
            verb.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: FOLDER.job here")
        else:
            verb.add_argument("--measured-on", metavar="TEXT", help="what to call this machine")
    sign = verbs.add_parser("sign", help="sign a bundle with its customer's key",
                            description="Sign a bundle in place; a signature that it has is replaced.")
    sign.set_defaults(action=_sign)
    sign.add_argument("bundle", type=Path, metavar="BUNDLE")
    sign.add_argument("--key", type=Path, required=True, metavar="FILE", help="private key, from `flightsw job keygen`")
    keygen = verbs.add_parser("keygen", help="make a customer's key pair",
                              description="Write a private key, for its owner only, and print the public one as the "
                                          "satellite's customers file wants it.")
    keygen.set_defaults(action=_keygen)
    keygen.add_argument("file", type=Path, metavar="FILE", help="new file for the private key")
    keygen.add_argument("--customer", required=True, metavar="NAME")
    show = verbs.add_parser("show", help="say what a bundle holds and who signed it",
                            description="Read a bundle as the satellite does and print what it holds.")
    show.set_defaults(action=_show)
    show.add_argument("bundle", type=Path, metavar="BUNDLE")
    show.add_argument("--customers", type=Path, metavar="FILE", help="check the signature against these keys")

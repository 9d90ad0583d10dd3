"""Job manifests: what is accepted, and that everything wrong is said at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.errors import ConfigError
from flightsw.jobs.manifest import (
    MANIFEST_OCTETS_MAX,
    DataClass,
    DataPolicy,
    Integrity,
    Manifest,
    Profile,
    Rerun,
    load_manifest,
    parse_manifest,
)
from flightsw.state import Pause

GOOD = """
[job]
id = "cloud-mask"
name = "Cloud mask"
customer = "Example"
command = ["python3", "in/mask.py", "--units", "{units}"]
inputs = ["mask.py", "scene.npy"]
outputs = ["mask.bin"]
value = 10
deadline_s = 5400.0

[work]
units = 96
unit = "tile"

[needs]
memory_mb = 128
disk_mb = 16

[pause]
contract = "stop_continue"

[power]
activity_frac = 0.9
"""
DATA = """
[data]
class = "restricted"
owner = "Example"
regions_allowed = []
regions_forbidden = ["EU"]
stations = ["Svalbard"]
retention_s = 3600
encrypt = true
"""
PROFILE = """
[profile]
units_per_core_s = 4.0
peak_memory_mb = 60.0
activity_frac = 0.99
measured_on = "bench"
"""


def parse(text: str) -> Manifest:
    return parse_manifest(text.encode(), "job.toml")


def test_a_manifest_is_read_with_its_defaults() -> None:
    manifest = parse(GOOD)
    assert manifest.pause is Pause.STOP_CONTINUE
    assert (manifest.answer_due_s, manifest.checkpoint_deadline_s, manifest.profile) == (0.0, None, None)
    assert manifest.command_words() == ("python3", "in/mask.py", "--units", "96")
    assert manifest.work_core_s is None
    profiled = parse(GOOD + PROFILE)
    assert profiled.profile == Profile(4.0, 60.0, 0.99, "bench")
    assert (profiled.work_core_s, profiled.node_s) == (24.0, 24.0)
    assert manifest.node_s == 96.0


def test_power_may_be_declared_by_mode() -> None:
    manifest = parse(GOOD.replace("activity_frac = 0.9", 'by_mode_w = {"15W" = 11.5, MAXN = 40}'))
    assert dict(manifest.power_by_mode_w) == {"15W": 11.5, "MAXN": 40.0}
    assert manifest.activity_frac is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('id = "cloud-mask"', 'id = "Cloud Mask"', "job.id = 'Cloud Mask': expected 1..40 characters"),
        ('id = "cloud-mask"', "", "job.id: missing (expected 1..40 characters"),
        ('customer = "Example"', 'customer = "a/b"', "job.customer = 'a/b': expected 1..48 letters"),
        ("value = 10", 'value = 10\nexecutables = ["tool"]', "job.executables: tool not in job.inputs"),
        ("value = 10", "value = nan", "job.value = nan is out of range (range 0..1e+06)"),
        ("value = 10", "value = true", "job.value = True: a number is expected (range 0..1e+06)"),
        ("value = 10", 'value = "10"', "job.value = '10': a number is expected"),
        ("deadline_s = 5400.0", "deadline_s = inf", "job.deadline_s = inf is out of range (range 1..2.592e+06 s)"),
        ("deadline_s = 5400.0", "", "expected exactly one of deadline_s and deadline_utc"),
        ("deadline_s = 5400.0", 'deadline_s = 9\ndeadline_utc = "2027-03-20T12:00:00Z"', "expected exactly one of"),
        ("deadline_s = 5400.0", 'deadline_utc = "2027-13-20T12:00:00Z"', "there is no such instant"),
        ("deadline_s = 5400.0", 'deadline_utc = "tomorrow"', "expected an instant like 2027-03-20T12:00:00Z"),
        ("units = 96", "units = 0", "work.units = 0 is out of range (range 1..1e+12 units)"),
        ("units = 96", "units = 1.5", "work.units = 1.5: a whole number is expected"),
        ("units = 96", "units = true", "work.units = True: a whole number is expected"),
        ("memory_mb = 128", "memory_mb = 0.5", "needs.memory_mb = 0.5 is out of range (range 1..262144 MB)"),
        ("disk_mb = 16", "disk_kb = 16", "needs.disk_kb = 16: unknown key; known here: memory_mb, disk_mb"),
        ("[power]", "[powr]", "powr = {'activity_frac': 0.9}: unknown key"),
        ("[power]", "[[power]]", "power = [{'activity_frac': 0.9}]: a table is expected"),
        ('"mask.bin"', '"../mask.bin"', "job.outputs[0] = '../mask.bin': expected plain file names"),
        ('"mask.bin"', '"/etc/passwd"', "job.outputs[0]"),
        ('"mask.bin"', '".."', "job.outputs[0]"),
        ('"mask.bin"', '"a", "a"', "job.outputs: a listed twice"),
        ('"mask.bin"', "1", "job.outputs[0] = 1: a text is expected"),
        ('["mask.bin"]', "[]", "job.outputs: 0 entries, expected 1..64"),
        ('["mask.bin"]', '"mask.bin"', "job.outputs = 'mask.bin': an array is expected"),
        ('"mask.py", "scene.npy"', '"job.toml"', "job.inputs: job.toml is in every bundle"),
        ('"stop_continue"', '"sometimes"', 'expected "none" or "stop_continue" or "checkpoint"'),
        ('"stop_continue"', '"checkpoint"', "pause.checkpoint_deadline_s: missing"),
        ('"stop_continue"', '"none"\ncheckpoint_deadline_s = 9', "only with contract checkpoint"),
        ("activity_frac = 0.9", "", "expected exactly one of activity_frac and by_mode_w"),
        ("activity_frac = 0.9", "activity_frac = 1\nby_mode_w = {a = 1}", "expected exactly one of activity_frac"),
        ("activity_frac = 0.9", "by_mode_w = {a = -1}", "power.by_mode_w.a = -1 is out of range (range 0.1..2000 W)"),
        ("activity_frac = 0.9", 'by_mode_w = {"a/b" = 1}', "expected modes of 1..32 letters"),
        ("activity_frac = 0.9", "by_mode_w = {}", "power.by_mode_w: 0 modes, expected 1..16"),
        ("value = 10", "value = 10\nanswer_due_s = 6000", "job.answer_due_s = 6000: above deadline_s 5400 s"),
        ('name = "Cloud mask"', 'name = "a\\u0007b"', "job.name"),
        ("[work]", "[work", "not valid TOML"),
        ("[work]", '[data]\nowner = "x"\n[work]', 'data.class: missing (expected "public" or "internal" or'),
        ("[work]", '[data]\nclass = "secret"\nowner = "x"\n[work]', "data.class = 'secret': expected"),
        ("[work]", '[data]\nclass = "personal"\nowner = "x"\n[work]', 'data of class "personal" is kept encrypted'),
        ("[work]", DATA.replace("[]", '["EU"]') + "[work]", "data.regions_forbidden: EU in regions_allowed too"),
        ("[work]", '[integrity]\nrerun = "sampled"\n[work]', "integrity.sample_frac: missing"),
        ("[work]", '[integrity]\nrerun = "duplicate"\nsample_frac = 0.1\n[work]', "only with rerun sampled"),
    ],
)
def test_each_error_names_key_value_and_range(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        parse(GOOD.replace(old, new))
    assert str(caught.value).startswith("job.toml: ")
    assert message in str(caught.value)


def test_all_errors_are_reported_together() -> None:
    text = GOOD.replace("value = 10", "value = -1").replace("units = 96", "units = 0").replace("[needs]", "[neds]")
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert [re.split("[ :]", line.strip())[0] for line in caught.value.problem.splitlines()] == [
        "neds",
        "job.value",
        "work.units",
        "needs",
    ]


def test_data_policy_and_integrity_are_read_or_have_their_defaults() -> None:
    plain = parse(GOOD)
    assert plain.data == DataPolicy(owner="Example")
    assert plain.integrity == Integrity(Rerun.NONE, 0.0)
    manifest = parse(GOOD + DATA + '[integrity]\nrerun = "sampled"\nsample_frac = 0.1\n')
    assert 150 < sum(manifest.runs(number) == 2 for number in range(2_000)) < 250
    assert manifest.data == DataPolicy(DataClass.RESTRICTED, "Example", (), ("EU",), ("Svalbard",), 3600.0, True, True)
    assert manifest.integrity == Integrity(Rerun.SAMPLED, 0.1)
    assert parse(GOOD + '[integrity]\nrerun = "duplicate"\n').integrity == Integrity(Rerun.DUPLICATE, 1.0)


def test_a_deadline_counts_from_acceptance_or_is_an_instant() -> None:
    assert parse(GOOD).deadline_after_s(1e9) == 5400.0
    instant = parse(GOOD.replace("deadline_s = 5400.0", 'deadline_utc = "2027-03-20T12:00:00Z"'))
    assert instant.deadline_unix_s == 1805544000.0
    assert instant.deadline_after_s(1805543900.0) == 100.0
    assert instant.deadline_after_s(1805544100.0) == -100.0


def test_less_memory_than_was_measured_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs.memory_mb = 128: below the measured peak of 200 MB"):
        parse(GOOD + PROFILE.replace("60.0", "200.0"))


def test_files_that_cannot_be_read_or_are_too_long(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.toml: No such file"):
        load_manifest(tmp_path / "none.toml")
    path = tmp_path / "job.toml"
    path.write_text(GOOD + "#" * MANIFEST_OCTETS_MAX)
    with pytest.raises(ConfigError, match="above the limit of 16384"):
        load_manifest(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_manifest(path)
    path.write_text(GOOD)
    assert load_manifest(path).id == "cloud-mask"


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_octets_give_a_manifest_or_a_config_error(octets: bytes) -> None:
    with pytest.raises(ConfigError):
        parse_manifest(octets, "job.toml")


@given(st.data())
def test_any_value_in_any_place_gives_a_manifest_or_a_config_error(data: st.DataObject) -> None:
    lines = GOOD.splitlines()
    index = data.draw(st.sampled_from([n for n, line in enumerate(lines) if " = " in line]))
    key = lines[index].partition(" = ")[0]
    value = data.draw(
        st.sampled_from(["nan", "-inf", "1e308", "-0", "[]", "{}", '""', "[[]]", "1979-05-27", "9" * 40, "false"])
    )
    lines[index] = f"{key} = {value}"
    if (key, value) in {("value", "-0"), ("inputs", "[]")}:
        parse("\n".join(lines))
        return
    with pytest.raises(ConfigError, match=key):
        parse("\n".join(lines))

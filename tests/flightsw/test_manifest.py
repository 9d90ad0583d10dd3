"""Job manifests: what is accepted, and that everything wrong is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.errors import ConfigError
from flightsw.jobs.manifest import MANIFEST_OCTETS_MAX, Manifest, Profile, load_manifest, parse_manifest
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
    assert profiled.work_core_s == 24.0


def test_power_may_be_declared_by_mode() -> None:
    manifest = parse(GOOD.replace("activity_frac = 0.9", 'by_mode_w = {"15W" = 11.5, MAXN = 40}'))
    assert dict(manifest.power_by_mode_w) == {"15W": 11.5, "MAXN": 40.0}
    assert manifest.activity_frac is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('id = "cloud-mask"', 'id = "Cloud Mask"', "job.id = 'Cloud Mask': expected 1..40 characters"),
        ('id = "cloud-mask"', "", "job.id: missing, expected 1..40 characters"),
        ("value = 10", "value = nan", "job.value = nan: expected 0..1e+06"),
        ("value = 10", "value = true", "job.value = True: expected 0..1e+06"),
        ("value = 10", 'value = "10"', "job.value = '10': expected 0..1e+06"),
        ("deadline_s = 5400.0", "deadline_s = inf", "job.deadline_s = inf: expected 1..2.592e+06 s"),
        ("units = 96", "units = 0", "work.units = 0: expected a whole number 1..1000000000000 units"),
        ("units = 96", "units = 1.5", "work.units = 1.5: expected a whole number"),
        ("units = 96", "units = true", "work.units = True: expected a whole number"),
        ("memory_mb = 128", "memory_mb = 0.5", "needs.memory_mb = 0.5: expected 1..262144 MB"),
        ("disk_mb = 16", "disk_kb = 16", "needs.disk_kb = 16: unknown key"),
        ("[power]", "[powr]", "powr: unknown key"),
        ("[power]", "[[power]]", "[power]: must be a section"),
        ('"mask.bin"', '"../mask.bin"', "job.outputs = ['../mask.bin']: expected 1..64 different"),
        ('"mask.bin"', '"/etc/passwd"', "job.outputs"),
        ('"mask.bin"', '".."', "job.outputs"),
        ('"mask.bin"', '"a", "a"', "job.outputs = ['a', 'a']"),
        ('"mask.bin"', "1", "job.outputs = [1]"),
        ('["mask.bin"]', "[]", "job.outputs = []"),
        ('["mask.bin"]', '"mask.bin"', "job.outputs = 'mask.bin'"),
        ('"stop_continue"', '"sometimes"', 'expected "none" or "stop_continue" or "checkpoint"'),
        ('"stop_continue"', '"checkpoint"', "pause.checkpoint_deadline_s: missing"),
        ('"stop_continue"', '"none"\ncheckpoint_deadline_s = 9', "only with contract checkpoint"),
        ("activity_frac = 0.9", "", "[power]: expected exactly one of"),
        ("activity_frac = 0.9", "activity_frac = 1\nby_mode_w = {a = 1}", "[power]: expected exactly one"),
        ("activity_frac = 0.9", "by_mode_w = {a = -1}", "power.by_mode_w = {'a': -1}: expected 1..16 modes"),
        ("activity_frac = 0.9", "by_mode_w = {}", "power.by_mode_w = {}"),
        ("value = 10", "value = 10\nanswer_due_s = 6000", "job.answer_due_s = 6000: above deadline_s 5400 s"),
        ('name = "Cloud mask"', 'name = "a\\u0007b"', "job.name"),
        ("[work]", "[work", "not TOML"),
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
    lines = str(caught.value).splitlines()
    assert all(line.startswith("job.toml: ") for line in lines)
    assert [line.split(":")[1].split("=")[0].strip() for line in lines] == [
        "neds",
        "job.value",
        "work.units",
        "[needs]",
    ]


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
    with pytest.raises(ConfigError, match="not TOML"):
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

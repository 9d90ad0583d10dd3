"""Mission files: the reference missions load, and nothing wrong in one is ever flown or passed over."""

from __future__ import annotations

import copy
import dataclasses
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw import compose, mission
from flightsw.dictionary.parameters import PARAMETERS, Parameter, number_text
from flightsw.errors import ConfigError

MISSIONS = sorted(path for path in (Path(__file__).parents[2] / "missions").glob("*.toml") if path.stem != "regions")
REFERENCE = tomllib.loads(MISSIONS[0].read_text())
Table = dict[str, Any]
Where = tuple[str | int, ...]


def numbers_of(cls: type, where: Where = ()) -> list[tuple[Where, type, Any]]:
    """Every number of a mission file: where it stands, int or float, and its declared bounds."""
    hints = get_type_hints(cls)
    found: list[tuple[Where, type, Any]] = []
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        here = (*where, field.name)
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            found += numbers_of(kind, here)
        elif get_origin(kind) is tuple and dataclasses.is_dataclass(get_args(kind)[0]):
            found += numbers_of(get_args(kind)[0], (*here, 1))
        elif kind in (int, float):
            found.append((here, kind, field.metadata))
    return found


def keys_of(table: Table, where: Where = ()) -> list[Where]:
    """Where every key of a file stands, tables included; parameters may be left out."""
    found: list[Where] = []
    for key, value in table.items():
        found.append((*where, key))
        if isinstance(value, dict) and key != "parameters":
            found += keys_of(value, (*where, key))
        elif isinstance(value, list):
            found += keys_of(value[0], (*where, key, 0))
    return found


def path_text(where: Where) -> str:
    text = ""
    for step in where:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


NUMBERS = numbers_of(mission.Mission)
KEYS = keys_of(REFERENCE)


def changed(where: Where, value: object) -> Table:
    table = copy.deepcopy(REFERENCE)
    holder: Any = table
    for step in where[:-1]:
        holder = holder[step]
    holder[where[-1]] = value
    return table


def without(where: Where) -> Table:
    table = copy.deepcopy(REFERENCE)
    holder: Any = table
    for step in where[:-1]:
        holder = holder[step]
    del holder[where[-1]]
    return table


@pytest.fixture
def load() -> Callable[[Table], mission.Mission]:
    """Load a mission from the table that its file would hold."""

    def loaded(table: Table) -> mission.Mission:
        return mission.from_table(table, "m.toml")

    return loaded


def problems(load: Callable[[Table], mission.Mission], table: Table) -> str:
    with pytest.raises(ConfigError) as caught:
        load(table)
    assert caught.value.where == "m.toml"
    return str(caught.value)


@pytest.mark.parametrize("path", MISSIONS, ids=lambda path: path.stem)
def test_reference_mission_loads(path: Path) -> None:
    loaded = mission.load(path)
    assert loaded.name == path.stem
    assert set(loaded.parameters) == {row.name for row in PARAMETERS}
    assert loaded.parameters["battery_floor_frac"] == 0.70
    assert compose.start_unix_s(loaded, str(path)) > 1.7e9
    compose.guardian_config(loaded)
    compose.forecaster_of(loaded, str(path))


def shown(value: object) -> str:
    """A value as an error shows it: long ones are cut."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def test_every_number_is_declared_with_a_range() -> None:
    assert len(NUMBERS) > 50
    for where, _, bounds in NUMBERS:
        assert bounds["low"] < bounds["high"], where


@pytest.mark.parametrize(("where", "kind", "bounds"), NUMBERS, ids=[path_text(n[0]) for n in NUMBERS])
def test_number_outside_its_range_or_of_another_type_is_named(
    load: Callable[[Table], mission.Mission], where: Where, kind: type, bounds: Any
) -> None:
    low, high = bounds["low"], bounds["high"]
    wrong: list[object] = [low - 1, high + 1, 10**400, -(10**400), math.nan, math.inf, -math.inf, "1", True, [], {}]
    if kind is int:
        wrong += [float(low), low + 0.5]
    else:
        wrong += [math.nextafter(low, -math.inf), math.nextafter(high, math.inf)]
    for value in wrong:
        text = problems(load, changed(where, value))
        assert f"{path_text(where)} = {shown(value)}" in text
        assert f"(range {low:g}..{high:g}" in text
        assert bounds["unit"] in text


@pytest.mark.parametrize("where", KEYS, ids=path_text)
def test_missing_key_is_named(load: Callable[[Table], mission.Mission], where: Where) -> None:
    assert f"{path_text(where)}: missing" in problems(load, without(where))


@pytest.mark.parametrize("where", [w for w in KEYS if not isinstance(w[-1], int)], ids=path_text)
def test_key_of_the_wrong_type_is_named(load: Callable[[Table], mission.Mission], where: Where) -> None:
    for value in (None, object):  # no TOML value is either
        text = problems(load, changed(where, value))
        assert f"{path_text(where)} = {shown(value)}: " in text
        assert " is expected" in text


@pytest.mark.parametrize("table", ["", "orbit", "array", "battery", "thermal", "bus", "compute", "margins", "link"])
def test_unknown_key_is_named_with_those_that_are_known(
    load: Callable[[Table], mission.Mission], table: str
) -> None:
    where = (table, "spin_rate") if table else ("spin_rate",)
    text = problems(load, changed(where, 1.0))
    assert f"{path_text(where)} = 1.0: unknown key; known here: " in text


def test_unknown_keys_in_arrays_and_parameters_are_named(load: Callable[[Table], mission.Mission]) -> None:
    assert "stations[1].colour = 1: unknown key" in problems(load, changed(("stations", 1, "colour"), 1))
    assert "compute.modes[2].volts = 1: unknown key" in problems(load, changed(("compute", "modes", 2, "volts"), 1))
    assert "no parameter 'nonsense'; known: " in problems(load, changed(("parameters", "nonsense"), 1))


@pytest.mark.parametrize("row", PARAMETERS, ids=lambda row: row.name)
def test_parameter_out_of_bounds_is_named(load: Callable[[Table], mission.Mission], row: Parameter) -> None:
    for value in (row.low - 1, row.high + 1, math.nan, math.inf, 10**400):
        text = problems(load, changed(("parameters", row.name), value))
        assert f"{row.name} = {number_text(value)} {row.unit}" in text
        assert f"{row.low:g}..{row.high:g} {row.unit}" in text
    for value in ("1", True, [], None):
        assert f"parameters.{row.name} = {value!r}: a number is expected" in problems(
            load, changed(("parameters", row.name), value))


def test_parameter_that_the_mission_leaves_out_has_its_default(load: Callable[[Table], mission.Mission]) -> None:
    loaded = load(changed(("parameters",), {"die_max_c": 75}))
    expected = {row.name: row.default for row in PARAMETERS} | {"die_max_c": 75.0}
    assert loaded.parameters == expected
    assert all(isinstance(value, float) for value in loaded.parameters.values())


def test_all_problems_are_told_at_once(load: Callable[[Table], mission.Mission]) -> None:
    table = changed(("bus", "idle_w"), -5.0)
    table["array"]["area_m2"] = "large"
    table["stations"][1]["latitude_deg"] = 91.0
    table["parameters"]["die_max_c"] = math.nan
    table["link"]["colour"] = 1
    del table["battery"]["full_v"]
    text = problems(load, table)
    for part in ("m.toml: ", "bus.idle_w = -5.0 is out of range (range 0.5..1000 W)", "array.area_m2 = 'large'",
                 "stations[1].latitude_deg = 91.0", "die_max_c = nan", "link.colour = 1: unknown key",
                 "battery.full_v: missing (range 3..200 V)"):
        assert part in text
    assert len(text.splitlines()) == 6


@pytest.mark.parametrize(
    ("where", "value", "problem"),
    [
        (("compute", "modes"), [], "0 modes, at least off, idle and one working mode"),
        (("compute", "modes", 3, "draw_w"), 9.5, "15W does not lie above 10W in power and rate"),
        (("compute", "modes", 3, "rate"), 0.1, "15W does not lie above 10W"),
        (("compute", "modes", 3, "cap_w"), 1.0, "15W does not lie above 10W"),
        (("compute", "modes", 1, "rate"), 0.1, "the first two modes are off and idle and do no work"),
        (("compute", "modes", 2, "rate"), 0.0, "10W is a working mode and does no work"),
        (("battery", "full_v"), 13.2, "battery.full_v = 13.2 V is not above empty_v = 13.2 V"),
        (("battery", "heater_off_c"), 5.0, "heater_off_c = 5 degC is not above heater_on_c = 5 degC"),
        (("parameters", "battery_floor_frac"), 0.6, "battery_floor_frac = 0.6 is not above battery_cutoff_frac = 0.6"),
        (("array", "attitude"), "spin", "array.attitude = 'spin': 'sun' (tracks the Sun) or 'nadir'"),
        (("stations",), [], "stations: at least one, with different names"),
        (("stations", 1, "name"), REFERENCE["stations"][0]["name"], "stations: at least one, with different names"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(
    load: Callable[[Table], mission.Mission], where: Where, value: object, problem: str
) -> None:
    assert problem in problems(load, changed(where, value))


def test_mission_whose_working_modes_do_no_work_is_refused(load: Callable[[Table], mission.Mission]) -> None:
    """Its rates would be divided by."""
    table = copy.deepcopy(REFERENCE)
    for mode in table["compute"]["modes"]:
        mode["rate"] = 0.0
    assert "max is a working mode and does no work (rate 0)" in problems(load, table)


@pytest.mark.parametrize(
    ("start_utc", "problem"),
    [("tomorrow", "an instant like"), ("2026-06-21T12:00:00", "no time zone"),
     ("2027-06-21T12:00:00Z", "days away from orbit.start_utc")],
)
def test_start_that_is_no_instant_or_far_from_the_elements_is_refused(
    load: Callable[[Table], mission.Mission], start_utc: str, problem: str
) -> None:
    loaded = load(changed(("orbit", "start_utc"), start_utc))
    with pytest.raises(ConfigError, match=problem):
        compose.forecaster_of(loaded, "m.toml")


def test_elements_that_are_none_are_refused(load: Callable[[Table], mission.Mission]) -> None:
    with pytest.raises(ConfigError, match=r"m\.toml: orbit\.tle"):
        compose.forecaster_of(load(changed(("orbit", "tle"), "no elements")), "m.toml")


def test_network_too_stiff_for_the_flight_model_is_refused(load: Callable[[Table], mission.Mission]) -> None:
    """Each number is in its range; together they would fail the first tick."""
    table = changed(("thermal", "die_heat_capacity_j_k"), 5.0)
    table["thermal"]["die_to_plate_w_k"] = 100.0
    with pytest.raises(ConfigError, match=r"m\.toml: the flight model cannot be rolled out in steps of 10 s"):
        compose.forecaster_of(load(table), "m.toml")


def test_start_counts_in_utc(load: Callable[[Table], mission.Mission]) -> None:
    loaded = load(changed(("orbit", "start_utc"), "2026-06-21T14:00:00+02:00"))
    assert compose.start_unix_s(loaded, "m.toml") == 1782043200.0


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"name = ]", "is not valid TOML: .*line 1"), (b"\xff", "is not valid TOML: .*utf-8"),
     (b"a = " + b"9" * 5000, "is not valid TOML")],
)
def test_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "m.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=problem) as caught:
        mission.load(path)
    assert caught.value.where == str(path)


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        mission.load(tmp_path / "none.toml")


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=4,
)


@given(st.lists(st.tuples(st.sampled_from(KEYS), JUNK), min_size=1, max_size=3))
def test_whatever_a_file_holds_is_a_mission_or_a_config_error(changes: list[tuple[Where, object]]) -> None:
    table = copy.deepcopy(REFERENCE)
    for where, value in changes:
        holder: Any = table
        try:
            for step in where[:-1]:
                holder = holder[step]
            holder[where[-1]] = value
        except (TypeError, KeyError, IndexError):
            continue  # an earlier change removed it
    try:
        loaded = mission.from_table(table, "m.toml")
    except ConfigError:
        return
    for where, kind, bounds in NUMBERS:
        found: Any = loaded
        for step in where:
            found = found[step] if isinstance(step, int) else getattr(found, step)
            if isinstance(found, tuple) and len(found) < 2:
                break  # a mission of one station: the second is not there
        else:
            assert type(found) is kind
            assert bounds["low"] <= found <= bounds["high"]

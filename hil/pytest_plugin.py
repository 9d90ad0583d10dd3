"""pytest plugin of the rig: scenario files are tests, and fixtures put a scenario into a test's hands.

    pytest --scenarios scenarios/           every check of every scenario below is a test
    pytest scenarios/eclipse.toml -k die    one file needs no flag

Opt-in: without `--scenarios`, and without a scenario file among the arguments, nothing is collected and nothing of the
rig is imported. A check that fails, or that decided nothing, fails; a waived one is skipped with its reason. JUnit
properties carry requirements, margin, seed and commit. With xdist use `--dist loadfile`: a file is one flight.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hil.run import Flight
    from hil.testing import Ground, Rig, Satellite
    from hil.verdict import Finding


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the rig's options."""
    group = parser.getgroup("hil", "rig of the compute satellite")
    group.addoption("--scenarios", action="store_true", help="collect scenario files (*.toml) as tests")
    group.addoption("--scenario-out", type=Path, metavar="DIR", help="keep runs with their reports here")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of the fixtures."""
    config.addinivalue_line("markers", "scenario(name, *, seed=None, duration=None): scenario that the fixtures rig, "
                                       "satellite and ground put on the bench")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect a scenario file where it was asked for."""
    if file_path.suffix != ".toml":
        return None
    if not (parent.config.getoption("--scenarios") or parent.session.isinitpath(file_path)):
        return None
    file: pytest.Collector = ScenarioFile.from_parent(parent, path=file_path)
    return file


class ScenarioFile(pytest.File):
    """One scenario, flown once when its first check is asked for."""

    _flown: Flight | None = None

    def collect(self) -> Iterable[pytest.Item]:
        """Yield a test for each check, and one for the faults where there are any."""
        from flightsw.errors import ConfigError  # noqa: PLC0415 # the rig is imported where it is used only
        from hil.scenario import load  # noqa: PLC0415

        try:
            scenario = load(self.path)
        except ConfigError as error:
            raise self.CollectError(str(error)) from error
        for name in (*(check.name for check in scenario.checks), *(["faults"] if scenario.faults else [])):
            yield CheckItem.from_parent(self, name=name)

    def finding(self, name: str) -> Finding:
        """Fly, if that was not done yet, and return what became of one check."""
        if self._flown is None:
            self._flown = self._fly()
        return next(finding for finding in self._flown.findings if finding.name == name)

    def properties(self) -> dict[str, str]:
        """What says where the results of the flight come from."""
        from hil.junit import properties  # noqa: PLC0415 # as above

        return {} if self._flown is None else properties(self._flown)

    def _fly(self) -> Flight:
        from hil import junit, report, run  # noqa: PLC0415 # as above
        from hil.scenario import load  # noqa: PLC0415

        scenario = load(self.path)
        out: Path | None = self.config.getoption("--scenario-out")
        if out is None:
            factory: pytest.TempPathFactory = self.config._tmp_path_factory  # type: ignore[attr-defined] # pytest's own
            return run.fly(scenario, factory.mktemp(scenario.id))
        flown = run.fly(scenario, run.new_folder(out, scenario))
        report.write(flown)
        junit.write(flown)
        return flown


class CheckFailedError(Exception):
    """A check of a scenario did not pass."""


class CheckItem(pytest.Item):
    """One check of a scenario."""

    parent: ScenarioFile

    def runtest(self) -> None:
        """Pass where the check passed."""
        finding = self.parent.finding(self.name)
        said = self.parent.properties() | {"statement": finding.statement, "requirements": " ".join(finding.verifies)}
        if finding.margin is not None:
            said["margin"] = f"{finding.margin:.6g} {finding.unit}".strip()
        self.user_properties.extend(said.items())
        if finding.verdict.value == "PASS":
            return
        if finding.waived:
            pytest.skip(f"waived: {finding.waived}")
        margin = f"\nmargin {finding.margin:+.4g} {finding.unit}" if finding.margin is not None else ""
        worst = f", worst at T+{finding.worst_s:,.0f} s" if finding.worst_s is not None else ""
        raise CheckFailedError(f"{finding.verdict.value} {self.path.name} {self.name}: {finding.detail}\n"
                               f"{finding.statement}{margin}{worst}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        """Say what failed without a traceback through the rig; anything else with one."""
        if isinstance(excinfo.value, CheckFailedError):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where a failure is shown."""
        return self.path, None, f"{self.path.stem}: {self.name}"


# --- fixtures ----------------------------------------------------------------------------------------


@pytest.fixture
def _bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Rig, Satellite, Ground]]:
    from hil.testing import bench  # noqa: PLC0415 # as above

    marker = request.node.get_closest_marker("scenario")
    if marker is None:
        pytest.fail('rig, satellite and ground need a scenario: @pytest.mark.scenario("short_iss", duration="1 h")')
    folder = tmp_path / "run"
    folder.mkdir()
    with bench(marker.args[0], folder, **marker.kwargs) as hands:
        yield hands


@pytest.fixture
def rig(_bench: tuple[Rig, Satellite, Ground]) -> Rig:
    """The bench itself: run, until, inject, value, finish."""
    return _bench[0]


@pytest.fixture
def satellite(_bench: tuple[Rig, Satellite, Ground]) -> Satellite:
    """The true satellite: its signals as attributes."""
    return _bench[1]


@pytest.fixture
def ground(_bench: tuple[Rig, Satellite, Ground]) -> Ground:
    """The ground station: send, state, latest, events."""
    return _bench[2]

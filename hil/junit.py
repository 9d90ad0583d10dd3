"""A run's verdict as JUnit XML: one test case a check, for the tools that every build server has.

Properties carry what a reviewer asks for: requirements with their closure, seed, commit, hash of the configuration,
bench, level, and, where time is real, how late both loops were. A waived failure is a skipped case with its reason;
what decided nothing is an error of type INCONCLUSIVE, never a pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from hil.provenance import commit, config_hash
from hil.run import Flight
from hil.scenario import Scenario
from hil.verdict import Finding, Level, Verdict, matrix, overall

FILE = "junit.xml"
WAITS = "virtual: it waits for the flight software, no tick can be late (hil serial shows punctuality)"


def write(flown: Flight) -> Path:
    """Write `junit.xml` into the run's folder and return its path."""
    return _write(suite(flown), flown.folder)


def write_checks(scenario: Scenario, bench: str, findings: Sequence[Finding], timing: Mapping[str, str],
                 folder: Path) -> Path:
    """Write `junit.xml` of a run in real time; `timing` is how late it was."""
    said = {"verdict": overall(findings).value, "scenario": scenario.id, "seed": str(scenario.seed),
            "duration_s": f"{scenario.duration_s:g}", "commit": commit(), "config_sha256": config_hash(scenario),
            "bench": bench, "level": Level.PIL.name, **timing}
    return _write(_suite(scenario.id, findings, said, f"{scenario.duration_s / float(timing['rate']):g}"), folder)


def write_broken(scenario: str, findings: Sequence[Finding], folder: Path) -> Path:
    """Write `junit.xml` of a run that the rig did not fly to its end."""
    return _write(_suite(scenario, findings, {"verdict": Verdict.ERROR.value, "commit": commit()}, "0"), folder)


def _write(root: ElementTree.Element, folder: Path) -> Path:
    tree = ElementTree.ElementTree(root)
    ElementTree.indent(tree)
    tree.write(folder / FILE, encoding="utf-8", xml_declaration=True)
    return folder / FILE


def properties(flown: Flight) -> dict[str, str]:
    """What says where a result comes from."""
    scenario, timing = flown.scenario, flown.timing
    ticks = timing["tick_ms"]
    said = {
        "verdict": flown.verdict.value, "scenario": scenario.id, "seed": str(scenario.seed),
        "duration_s": f"{scenario.duration_s:g}", "commit": commit(), "config_sha256": config_hash(scenario),
        "bench": flown.bench, "level": flown.level.name, "machine": str(timing["machine"]),
        "realtime_factor": str(timing["realtime_factor"]), "time": WAITS, "retries": str(flown.retries),
    }
    if isinstance(ticks, dict):
        said |= {f"tick_ms_{name}": str(value) for name, value in ticks.items()}
    said |= {f"requirement.{line.requirement.id}": line.closure.value
             for line in matrix(flown.findings, dict(scenario.requirements), flown.level)}
    return said


def suite(flown: Flight) -> ElementTree.Element:
    """Return the test suite of a run."""
    return _suite(flown.scenario.id, flown.findings, properties(flown), str(flown.timing["elapsed_s"]))


def _suite(scenario: str, findings: Sequence[Finding], said: Mapping[str, str], elapsed_s: str) -> ElementTree.Element:
    root = ElementTree.Element("testsuite", {
        "name": scenario, "tests": str(len(findings)),
        "failures": _count(findings, Verdict.FAIL), "errors": _count(findings, Verdict.ERROR, Verdict.INCONCLUSIVE),
        "skipped": str(sum(bool(each.waived) for each in findings)), "time": elapsed_s})
    listed = ElementTree.SubElement(root, "properties")
    for name, value in said.items():
        ElementTree.SubElement(listed, "property", {"name": name, "value": value})
    for each in findings:
        root.append(_case(scenario, each))
    return root


def _case(scenario: str, finding: Finding) -> ElementTree.Element:
    case = ElementTree.Element("testcase", {"classname": f"hil.{scenario}", "name": finding.name, "time": "0"})
    own = {"statement": finding.statement, "requirements": " ".join(finding.verifies)}
    if finding.margin is not None:
        own |= {"margin": f"{finding.margin:.6g} {finding.unit}".strip()}
    if finding.worst_s is not None:
        own |= {"worst_s": f"{finding.worst_s:g}"}
    listed = ElementTree.SubElement(case, "properties")
    for name, value in own.items():
        if value:
            ElementTree.SubElement(listed, "property", {"name": name, "value": value})
    if finding.waived:
        ElementTree.SubElement(case, "skipped", {"message": f"waived: {finding.waived}"})
    elif finding.verdict is Verdict.FAIL:
        ElementTree.SubElement(case, "failure", {"type": "FAIL", "message": finding.detail}).text = finding.statement
    elif finding.verdict is not Verdict.PASS:
        ElementTree.SubElement(case, "error", {"type": finding.verdict.value, "message": finding.detail})
    return case


def _count(findings: Iterable[Finding], *verdicts: Verdict) -> str:
    return str(sum(each.verdict in verdicts and not each.waived for each in findings))

"""The arrows of the house: who may import whom. The test of the test breaks an arrow on purpose."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Package or module -> what of the project it may import besides itself. Longest prefix wins.
ALLOWED = {
    "flightsw.errors": set(),
    "flightsw.clock": {"flightsw.errors", "flightsw.state"},
    "flightsw.state": {"flightsw.errors", "flightsw.clock"},
    "flightsw.kernels": {"flightsw.errors", "flightsw._kernels"},
    "flightsw.dictionary": {"flightsw.errors", "flightsw.state"},
    "flightsw.declared": {"flightsw.errors"},
    "flightsw.mission": {"flightsw.errors", "flightsw.state", "flightsw.declared", "flightsw.dictionary"},
    "flightsw.orbit": {"flightsw.errors", "flightsw.kernels", "flightsw.dictionary"},
    "flightsw.physics": {
        "flightsw.errors", "flightsw.state", "flightsw.kernels", "flightsw.dictionary", "flightsw.mission",
        "flightsw.orbit",
    },
    "flightsw.decide": {
        "flightsw.errors", "flightsw.state", "flightsw.dictionary", "flightsw.mission", "flightsw.physics",
        "flightsw.fdir",
    },
    "flightsw.fdir": {
        "flightsw.errors", "flightsw.state", "flightsw.dictionary", "flightsw.mission", "flightsw.physics",
    },
    "flightsw.link": {
        "flightsw.errors", "flightsw.state", "flightsw.dictionary", "flightsw.kernels",
        "flightsw.store",  # transfers are durable by the same few operations as jobs
    },
    "flightsw.board": {"flightsw.errors", "flightsw.state", "flightsw.clock", "flightsw.dictionary", "flightsw.link"},
    "flightsw.store": {"flightsw.errors", "flightsw.state", "flightsw.clock", "flightsw.dictionary"},
    "flightsw.jobs": {
        "flightsw.errors", "flightsw.state", "flightsw.clock", "flightsw.declared", "flightsw.dictionary",
        "flightsw.store",
    },
    "flightsw": {"flightsw"},  # the supervisor, guardian's client and composition root see everything
    "ground": {
        "flightsw.dictionary", "flightsw.link", "flightsw.orbit", "flightsw.errors", "flightsw.state",
        "flightsw.clock", "flightsw.declared", "flightsw.keyfile",
    },
    "hil": {"flightsw", "ground"},
}
# Decisions and the dictionary do no I/O, read no clock, draw no random numbers, write no log.
PURE = ("flightsw.decide", "flightsw.fdir", "flightsw.physics", "flightsw.dictionary", "flightsw.state")
IMPURE_MODULES = {"os", "time", "random", "secrets", "logging", "socket", "subprocess", "threading", "pathlib"}
# Only these read the operating system's clock or environment.
CLOCK_READERS = {"flightsw.clock", "flightsw.__main__", "flightsw.executive"}


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
            found.update(f"{node.module}.{alias.name}" for alias in node.names if node.module)
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def rule_of(module: str) -> str:
    return max((package for package in ALLOWED if within(module, package)), key=len)


def violations(root: Path) -> list[str]:
    modules = {
        module_name(path, root): path.read_text(encoding="utf-8")
        for package in ("flightsw", "ground", "hil")
        for path in sorted((root / package).rglob("*.py"))
    }
    wrong = []
    for module, source in modules.items():
        rule = rule_of(module)
        names = imports_of(source)
        for name in sorted(names):
            if name.startswith("."):
                wrong.append(f"{module} imports {name} relatively")
            ours = within(name, "flightsw") or within(name, "ground") or within(name, "hil")
            # `from package import name` gives both package and package.name: judge the one that is a module.
            if not ours or (name not in modules and not within(name, "flightsw._kernels")):
                top = name.split(".")[0]
                if top in IMPURE_MODULES and any(within(module, pure) for pure in PURE):
                    wrong.append(f"{module} is pure and imports {name}")
                if top == "time" and within(module, "flightsw") and module not in CLOCK_READERS:
                    wrong.append(f"{module} imports {name}: time is an argument")
                continue
            if is_only_a_package_on_the_way(name, modules, names) or within(name, rule):
                continue
            if not any(within(name, allowed) for allowed in ALLOWED[rule]):
                wrong.append(f"{module} imports {name}")
    return wrong


def is_only_a_package_on_the_way(name: str, modules: dict[str, str], names: set[str]) -> bool:
    """`from flightsw.dictionary import events` names the package only to reach the module."""
    return any(other != name and within(other, name) and other in modules for other in names)


def test_every_import_follows_the_arrows():
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("flightsw/decide/rogue.py", "from flightsw.jobs.ledger import Ledger\n", "imports flightsw.jobs.ledger"),
        ("flightsw/decide/rogue.py", "import time\n", "is pure and imports time"),
        ("flightsw/link/rogue.py", "from flightsw import mission\n", "imports flightsw.mission"),
        ("flightsw/jobs/rogue.py", "import time\n", "time is an argument"),
        ("flightsw/board/rogue.py", "from flightsw._kernels import lib\n", "imports flightsw._kernels"),
        ("flightsw/rogue.py", "import hil.run\n", "imports hil"),
        ("ground/rogue.py", "from flightsw.supervisor import Supervisor\n", "imports flightsw.supervisor"),
        ("flightsw/fdir/rogue.py", "from ..jobs import ledger\n", "relatively"),
    ],
)
def test_a_broken_arrow_is_found(tmp_path, file, line, complaint):
    for package in ("flightsw", "ground", "hil"):
        for path in (ROOT / package).rglob("*.py"):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    (tmp_path / "hil/run.py").touch()
    assert violations(tmp_path) == []
    (tmp_path / file).write_text(line)
    assert any(complaint in wrong for wrong in violations(tmp_path)), violations(tmp_path)

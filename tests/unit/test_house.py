"""The house is in order: imports point down, the fast gear stays free of the GIL, pages match the code."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from funkenshield import config, metrics, reference
from funkenshield.daemon import Daemon

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "funkenshield"

# From the ground up: a module may import those on lower floors only.
PYTHON_FLOORS = [
    {"errors", "logs", "fairness", "machine", "signals", "__init__"},
    {"files", "names"},
    {"fields"},
    {"guard", "matchers", "mistakes"},
    {"blocks"},
    {"records"},
    {"actions"},
    {"config"},
    {"programs"},
    {
        "reference",
        "expiry",
        "ground",
        "snapshot",
        "transfer",
        "authority",
        "perf",
        "identity",
        "loops",
        "tls",
        "health",
        "ports",
    },
    {"connections"},
    {"control", "nameserver", "places", "cookies", "listeners", "metrics", "purge", "scrape", "upstreams", "watch"},
    {"zones", "query", "surroundings"},
    {"rules", "deeds"},
    {"decider"},
    {"funkensturm"},
    {"forwarder"},
    {"tcp"},
    {"daemon", "demo"},
    {"cli"},
    {"__main__"},
]
COMPILED_FLOORS = [
    {"_atomic", "_course", "_epoll", "_siphash", "_random", "_load", "_policy", "_prefixes"},
    {"_clock", "_wire", "_datagrams", "_epochs", "_rates", "_ring", "_suffixes", "_wheel"},
    {"_fit", "_rdata", "_subnets"},
    {
        "_shares",
        "_answer",
        "_cookies",
        "_asked",
        "_guard",
        "_negative",
        "_proxied",
        "_upstreams",
        "_zones",
    },
    {"_freshness", "_outbox", "_purges", "_rules", "_sockets"},
    {"_denial", "_index"},
    {"_cache"},
    {"_open", "_outcome", "_shelf"},
    {"_answering"},
    {"_trying"},
    {"_waiting"},
    {"_deciding"},
    {"_inflight"},
    {"_fastpath"},
]


def floor_of(module: str, floors: list[set[str]]) -> int:
    """Return the floor that a module stands on; a module nobody placed is a mistake."""
    return next(number for number, floor in enumerate(floors) if module in floor)


def python_imports(path: Path) -> set[str]:
    """Return the modules of ours that a Python file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {node.module} if node.module else {alias.name for alias in node.names}
    return {name for name in found if (PACKAGE / f"{name}.py").exists() or (PACKAGE / f"{name}.pyx").exists()}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_python_imports_point_down(path):
    mine = floor_of(path.stem, PYTHON_FLOORS)
    for imported in python_imports(path) - {"__init__"}:
        if not imported.startswith("_"):
            assert floor_of(imported, PYTHON_FLOORS) < mine, f"{path.stem} imports {imported}"


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("_*.p[yx][xd]")), ids=lambda path: path.name)
def test_compiled_imports_point_down_and_never_into_python(path):
    text = path.read_text()
    mine = floor_of(path.stem, COMPILED_FLOORS)
    for imported in set(re.findall(r"^from \.(\w+) cimport", text, re.M)) - {path.stem}:
        assert floor_of(imported, COMPILED_FLOORS) < mine, f"{path.stem} cimports {imported}"
    assert not re.search(r"^\s*(from \.\w* import|import funkenshield|include )", text, re.M)


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("_*.pyx")), ids=lambda path: path.stem)
def test_the_gil_is_given_up_where_a_thread_works_by_itself_and_never_taken(path):
    text = path.read_text()
    assert "with gil" not in text
    assert ("with nogil" in text) == (path.stem in {"_fastpath", "_load", "_cache"})
    for line in re.findall(r"^.*\bnogil:?$", text, re.M):
        assert "noexcept" in line or line.strip() == "with nogil:" or "cdef extern" in line, line


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.p[yx]*")), ids=lambda path: path.name)
def test_each_file_opens_with_what_it_knows_and_fits_in_a_head(path):
    text = path.read_text()
    assert path.suffix == ".pyi" or text.startswith('"""')
    assert len(text.splitlines()) <= 800


@pytest.mark.parametrize(("page", "made"), [("configuration", reference.reference), ("metrics", metrics.documentation)])
def test_pages_made_from_the_code_are_up_to_date(page, made):
    assert (ROOT / "docs" / f"{page}.md").read_text() == made(), "say make docs"


def test_tables_of_conditions_and_actions_are_up_to_date():
    page = (ROOT / "docs" / "guide" / "rules.md").read_text()
    assert page == reference.with_tables(page), "say make docs"
    for name in reference.rule_tables():
        assert f"<!-- {name} -->" in page


def test_every_counter_has_a_meaning():
    source = (PACKAGE / "daemon.py").read_text()
    snapshot = source[source.index("def snapshot") : source.index("def _by_transport")]
    counted = set(re.findall(r'"(\w+)": ', snapshot))
    labelled = {"latencies", "latency_sum", "responses", "rules", "transport_queries", "upstreams"}
    assert counted == set(metrics.MEANINGS) | labelled
    assert Daemon.snapshot.__doc__


def test_every_option_is_described():
    for name, field in config.Config.model_fields.items():
        section = config.section_at([name])
        for inner, described in (section.model_fields if section else {name: field}).items():
            assert described.description or config.section_at([name, inner]), f"{name}.{inner}"


def test_every_dependency_is_named_with_its_reason():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    for requirement in wanted:
        assert f"`{re.split('[<>=]', requirement)[0]}`" in page


@pytest.mark.parametrize("page", ["README.md", "docs/forwarding.md", "docs/guide/rules.md", "docs/security.md"])
def test_the_examples_of_configuration_are_right(page, tmp_path):
    examples = re.findall(r"```toml\n(.*?)```", (ROOT / page).read_text(), re.S)
    assert examples
    for example in examples:
        file = tmp_path / "example.toml"
        file.write_text(example)
        config.load(file)


def test_the_sample_configuration_is_right():
    config.load(ROOT / "contrib" / "funkenshield.toml")


def test_the_commands_of_the_readme_exist():
    readme = (ROOT / "README.md").read_text()
    commands = set(re.findall(r"^funkenshield (\w+)", readme, re.M))
    helped = subprocess.run([sys.executable, "-m", "funkenshield", "--help"], capture_output=True, text=True).stdout
    assert commands
    for command in commands:
        assert re.search(rf"^  {command} ", helped, re.M), command


@pytest.mark.parametrize("page", ["reliability.md", "security.md"])
def test_each_promise_has_its_test(page):
    text = (ROOT / "docs" / page).read_text()
    assert "TODO(" not in text
    promised = re.findall(r"`(tests/[\w/]+\.(?:py|txt))(?:::(\w+))?`", text)
    assert len(promised) > 20
    missing = {
        (path, name)
        for path, name in promised
        if not (ROOT / path).exists() or (name and f"def {name}(" not in (ROOT / path).read_text())
    }
    assert not missing


def test_a_source_distribution_has_what_a_wheel_is_made_from():
    patterns = (ROOT / "MANIFEST.in").read_text().removeprefix("include ").split()
    included = {path for pattern in patterns for path in ROOT.glob(pattern)}
    assert included == {*PACKAGE.glob("*.pyx"), *PACKAGE.glob("*.pxd")}

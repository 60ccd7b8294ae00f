"""The house is in order: imports point down, the fast gear stays free of the GIL, pages match the code."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from funkenshield import config
from funkenshield.admin import metrics
from funkenshield.config import reference
from funkenshield.daemon import Daemon

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "funkenshield"

# From the ground up, rooms and the modules beside them: each may import what is on lower floors, and its own room.
FLOORS = [
    {"core", "errors"},
    {"wire"},
    {"config"},
    {"policy", "cache"},
    {"_fastpath", "upstream"},
    {"forward", "zones"},
    {"rules", "server"},
    {"admin", "tools"},
    {"preflight", "daemon"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
SOURCES = sorted(path for kind in ("py", "pyx", "pxd") for path in PACKAGE.rglob(f"*.{kind}"))
ROOMS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))


def name_of(path: Path) -> str:
    """Return a source's module as its path inside the package: `wire/_message`; a room's own is `wire/__init__`."""
    return str(path.relative_to(PACKAGE).with_suffix(""))


def imports_of(path: Path) -> set[str]:
    """Return the modules of ours that a source imports, wherever in it."""
    if path.suffix == ".py":
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        found = [(node.level, node.module or "", [alias.name for alias in node.names]) for node in nodes]
    else:
        lines = re.findall(r"^ *from (\.+)([\w.]*) c?import (\w*)", path.read_text(), re.M)
        found = [(len(dots), module, [name]) for dots, module, name in lines]
    imported = set()
    for level, module, names in found:
        if level:
            base = path.parents[level - 1].joinpath(*module.split("."))
            for target in {base / name for name in names} if base.is_dir() else {base}:
                here = any(target.with_suffix(f".{kind}").exists() for kind in ("py", "pyx", "pxd"))
                imported.add(name_of(target if here else base / "__init__"))
    return imported - {"__init__"}  # the version


def room_of(module: str) -> str:
    return module.partition("/")[0]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    mine = name_of(path)
    for imported in imports_of(path) if mine != "__init__" else ():
        ours = "/" in mine and room_of(imported) == room_of(mine)
        assert ours or FLOOR[room_of(imported)] < FLOOR[room_of(mine)], f"{mine} imports {imported}"


def test_no_import_leads_back():
    graph = {}
    for path in SOURCES:
        graph[name_of(path)] = graph.get(name_of(path), set()) | imports_of(path) - {name_of(path)}
    assert sum(map(len, graph.values())) > 400
    tuple(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_says_in_its_first_line_what_it_knows(room):
    docstring = (room / "__init__.py").read_text()
    assert docstring.startswith('"""')
    if list(room.glob("*.pxd")):  # or else a compiled module would load what the room imports
        assert len(docstring.splitlines()) == 1


@pytest.mark.parametrize("path", [path for path in SOURCES if path.suffix != ".py"], ids=lambda path: path.name)
def test_no_compiled_module_imports_a_python_one(path):
    for imported in imports_of(path):
        assert (PACKAGE / f"{imported}.pxd").exists(), imported
    assert not re.search(r"^ *(from \.\S* import|import funkenshield|include )", path.read_text(), re.M)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("_*.pyx")), ids=lambda path: path.stem)
def test_the_gil_is_given_up_where_a_thread_works_by_itself_and_never_taken(path):
    text = path.read_text()
    assert "with gil" not in text
    assert ("with nogil" in text) == (path.stem in {"_udp_worker", "_loadgen", "_store"})
    for line in re.findall(r"^.*\bnogil:?$", text, re.M):
        assert "noexcept" in line or line.strip() == "with nogil:" or "cdef extern" in line, line


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_file_opens_with_what_it_knows_and_fits_in_a_head(path):
    text = path.read_text()
    assert text.startswith('"""')
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
    patterns = (ROOT / "MANIFEST.in").read_text().removeprefix("recursive-include funkenshield ").split()
    included = {path for pattern in patterns for path in PACKAGE.rglob(pattern)}
    assert included == {*PACKAGE.rglob("*.pyx"), *PACKAGE.rglob("*.pxd")}

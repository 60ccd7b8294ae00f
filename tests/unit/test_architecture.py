"""The package is built as the architecture page says: imports point down, the fast gear stays free of the GIL."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "funkenshield"

# From the ground up, rooms and the modules beside them: each may import what is on lower floors, and its own room.
FLOORS = [
    {"core", "errors"},
    {"wire"},
    {"config", "xdp"},
    {"policy", "cache"},
    {"events"},
    {"_fastpath", "upstream"},
    {"forward", "zones"},
    {"rules", "server", "cluster"},
    {"quic"},
    {"admin", "tools"},
    {"web"},
    {"screen", "announce"},
    {"preflight", "reload", "upgrade"},
    {"daemon"},
    {"options"},
    {"operate"},
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
                assert here or (base.joinpath("__init__.py").exists() and is_name_in(base, target.name)), target
                imported.add(name_of(target if here else base / "__init__"))
    return imported - {"__init__"}  # the version


def is_name_in(package: Path, name: str) -> bool:
    """Tell whether a package itself has something of a name."""
    return re.search(rf"\b{name}\b", package.joinpath("__init__.py").read_text()) is not None


def room_of(module: str) -> str:
    return module.partition("/")[0]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    mine = name_of(path)
    for imported in imports_of(path) if mine != "__init__" else ():
        ours = "/" in mine and room_of(imported) == room_of(mine)
        assert ours or FLOOR[room_of(imported)] < FLOOR[room_of(mine)], f"{mine} imports {imported}"


def test_dnspython_reads_no_message_whose_cost_nobody_has_bounded():
    reading = {name_of(path) for path in SOURCES if "message.from_wire" in path.read_text()}
    assert reading == {"wire/messages"}


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


def test_what_is_compiled_stands_beside_its_source():
    """An old module that was moved would be imported by its old name for ever: tools/build removes such."""
    compiled = {path.with_name(path.name.partition(".")[0]) for path in PACKAGE.rglob("*.so")}
    may_be_left_out = {PACKAGE / "server" / name for name in ("_tls", "_http2")}  # OpenSSL's, nghttp2's headers
    assert compiled | may_be_left_out == {path.with_suffix("") for path in PACKAGE.rglob("_*.pyx")}


def test_what_may_be_left_out_is_loaded_where_it_is_wanted_alone():
    for left_out, wanting in ("_tls", "server/tls"), ("_http2", "server/http"):
        importing = {
            name_of(path) for path in SOURCES if path.suffix == ".py" and f"server/{left_out}" in imports_of(path)
        }
        assert importing == {wanting, "server/listeners", "cli"}
        for name in importing:
            tree = ast.parse((PACKAGE / f"{name}.py").read_text())
            loaded = [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
            assert not any(module.endswith(left_out) for module in loaded)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("_*.pyx")), ids=lambda path: path.stem)
def test_the_gil_is_given_up_where_a_thread_works_by_itself_and_never_taken(path):
    text = path.read_text()
    assert "with gil" not in text
    assert ("with nogil" in text) == (path.stem in {"_udp_worker", "_tcp_worker", "_loadgen", "_store", "_recorder"})
    for line in re.findall(r"^.*\bnogil:?$", text, re.M):
        assert "noexcept" in line or line.strip() == "with nogil:" or "cdef extern" in line, line


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_file_opens_with_what_it_knows_and_fits_in_a_head(path):
    text = path.read_text()
    assert text.startswith('"""')
    assert len(text.splitlines()) <= 800


def test_a_source_distribution_has_what_a_wheel_is_made_from():
    patterns = re.search(r"^recursive-include funkenshield (.*)$", (ROOT / "MANIFEST.in").read_text(), re.M)[1]
    included = {path for pattern in patterns.split() for path in PACKAGE.rglob(pattern)}
    kinds = ("*.pyx", "*.pxd", "*.bpf.c", "*.h")
    assert included == {path for kind in kinds for path in PACKAGE.rglob(kind)}

"""What tests reach of the compiled modules: gcov's counts of lines of C, as counts of the lines of Cython above them.

Before each statement, Cython writes where it is from. What it adds of its own (arguments, references, errors that are
passed on) is left out: a branch counts where the C has a condition, and that is not one for errors alone.
"""

import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FROM = re.compile(r'\s*/\* "(.+\.p(?:yx|xd))":(\d+)$')
FORGET = re.compile(r"\s*/\* function exit code \*/|/\* #### Code section: ")
CONDITION = re.compile(
    r"\s*(?:if \((?:unlikely\()?!?__pyx_[tv]_\w+\)+ (?:\{|break;)|for \(__pyx_t|switch \(\(?__pyx_[tv])"
)


@dataclass
class Counts:
    """How often each line of a source ran, and which ways each of its branches went."""

    lines: dict[int, int] = field(default_factory=dict)
    branches: dict[tuple[int, int], int] = field(default_factory=dict)  # by line and place in it

    def add(self, line: int, times: int) -> None:
        """Take the most of all copies of a line: what is inline is compiled into each module that uses it."""
        self.lines[line] = max(times, self.lines.get(line, 0))

    def merge(self, other: "Counts") -> None:
        """Take the most of both."""
        for line, times in other.lines.items():
            self.add(line, times)
        for way, times in other.branches.items():
            self.branches[way] = max(times, self.branches.get(way, 0))


def origins(source: Path) -> Iterator[tuple[int, str, int, bool]]:
    """Yield each line of C that is of a line of Cython: its number, the source, the line there; may it branch."""
    where: tuple[str, int] | None = None
    commented = False
    for number, line in enumerate(source.read_text(errors="replace").splitlines(), 1):
        if found := FROM.match(line):
            where, commented = (found[1], int(found[2])), True
        elif commented:
            commented = "*/" not in line
        elif FORGET.match(line):
            where = None
        elif where:
            yield number, *where, bool(CONDITION.match(line))


def counts(copy: Path) -> dict[str, Counts]:
    """Return the counts of each source, of all modules of a folder that was built with --coverage, and run."""
    found: dict[str, Counts] = defaultdict(Counts)
    ours = {path.name: str(path.relative_to(copy)) for path in copy.glob("funkenshield/**/*.p[yx][xd]")}
    for notes in sorted(copy.rglob("*.gcno")):
        asked = ["gcov", "--json-format", "--stdout", "--branch-probabilities", str(notes)]
        said = subprocess.run(asked, cwd=copy, capture_output=True, text=True, check=True).stdout
        for file in json.loads(said.splitlines()[0])["files"]:
            source = copy / file["file"]
            if source.suffix == ".c" and source.is_file() and "funkenshield" in source.parts:
                _take(found, source, {line["line_number"]: line for line in file["lines"]})
    named: dict[str, Counts] = defaultdict(Counts)  # by path, where Cython names a header of a folder above by its name
    for name, each in found.items():
        if (path := ours.get(Path(name).name, "")).endswith(name):
            named[path].merge(each)
    return named


def _take(found: dict[str, Counts], source: Path, measured: dict[int, dict]) -> None:
    """Add what was measured of one source of C; where a line is there twice (inline), the later one has it all."""
    places: dict[tuple[str, int], int] = defaultdict(int)
    for number, name, line, may_branch in origins(source):
        if number not in measured:
            continue
        found[name].add(line, measured[number]["count"])
        if may_branch:
            for branch in measured[number]["branches"]:
                place = places[name, line]
                places[name, line] += 1
                key = (line, place)
                found[name].branches[key] = max(branch["count"], found[name].branches.get(key, 0))

"""Pages, the sample configuration and the commands that they name match the code."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from funkenshield import config
from funkenshield.admin import commands, metrics
from funkenshield.config import reference
from funkenshield.config.types import section_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("page", "made"), [("configuration", reference.reference), ("metrics", metrics.documentation)])
def test_pages_made_from_the_code_are_up_to_date(page, made):
    assert (ROOT / "docs" / f"{page}.md").read_text() == made(), "say make docs"


def test_tables_of_conditions_and_actions_are_up_to_date():
    page = (ROOT / "docs" / "guide" / "rules.md").read_text()
    assert page == reference.with_tables(page), "say make docs"
    for name in reference.rule_tables():
        assert f"<!-- {name} -->" in page


def test_every_option_is_described():
    for name, field in config.Config.model_fields.items():
        section = section_of(field)
        for inner, described in (section.model_fields if section else {name: field}).items():
            told = reference.meaning_of(section or config.Config, inner)
            assert told or section_of(described), f"{name}.{inner}"


def test_every_dependency_is_named_with_its_reason():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    for requirement in wanted:
        assert f"`{re.split('[<>=]', requirement)[0]}`" in page


PAGES = [
    "README.md", "docs/forwarding.md", "docs/guide/encryption.md", "docs/guide/monitoring.md", "docs/guide/rules.md",
    "docs/security.md",
]  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
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
    shown = set(re.findall(r"^funkenshield (\w+)", readme, re.M))
    helped = subprocess.run([sys.executable, "-m", "funkenshield", "--help"], capture_output=True, text=True).stdout
    assert shown
    for command in shown:
        assert re.search(rf"^  {command} ", helped, re.M), command


def test_every_request_to_a_daemon_is_documented():
    page = (ROOT / "docs" / "guide" / "control.md").read_text().partition("## The protocol")[2]
    named = {name for cell in re.findall(r"^\| (`.*?) \|", page, re.M) for name in re.findall(r"`(.*?)`", cell)}
    assert named == commands.COMMANDS.keys() - {"advance"}  # for tests


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


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "Makefile", "tools/fuzz", "tools/sanitized"])
def test_tests_that_are_named_are_there(page):
    named = set(re.findall(r"\btests/[\w/]+(?:\.py)?", (ROOT / page).read_text()))
    assert named
    assert {each for each in named if not (ROOT / each).exists()} == set()

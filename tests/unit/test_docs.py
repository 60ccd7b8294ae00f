"""Pages, the sample configuration and the commands that they name match the code."""

import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.pages import PAGES, blocks

from funkenshield import cli, config
from funkenshield.admin import commands, metrics
from funkenshield.config import reference
from funkenshield.config.types import section_of
from funkenshield.tools import manual
from unit.server.certificate_helpers import Issued

ROOT = Path(__file__).parents[2]
MADE = {
    "commands": lambda: manual.commands_page(cli.main),
    "configuration": reference.reference,
    "metrics": metrics.documentation,
}


@pytest.mark.parametrize(("page", "made"), MADE.items())
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder that has what configurations in the pages name."""
    folder, issued = tmp_path_factory.mktemp("pages"), Issued()
    (folder / "fullchain.pem").write_bytes(issued.pem)
    for secret, text in {
        "key.pem": issued.key_bytes(), "tickets": b"0123456789abcdef" * 4,
        "cluster": b"0123456789abcdef" * 4, "funkenshield.token": b"0123456789abcdef",
    }.items():  # fmt: skip
        (folder / secret).write_bytes(text)
        (folder / secret).chmod(0o600)
    (folder / "blocked.txt").write_text("ads.example\n")
    (folder / "shield_rules.py").write_text("def now(query):\n    return None\n")
    return folder


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(block.text, id=f"{page}[{number}]")
        for page in PAGES
        for number, block in enumerate(blocks(page, "toml"))
    ],
)
def test_configurations_in_the_pages_pass_the_check(example, folder):
    if "certificates" in example:  # what may be left out of the build
        pytest.importorskip("funkenshield.server._tls")
    if '"https"' in example or '"http"' in example:
        pytest.importorskip("funkenshield.server._http2")
    example = re.sub(r'"/(etc/funkenshield|etc|var/lib/funkenshield|var/log/funkenshield|run)/', f'"{folder}/', example)
    (folder / "funkenshield.toml").write_text(re.sub(r'^user = ".*"$', "", example, flags=re.M))
    checked = CliRunner().invoke(cli.main, ["check", "-c", str(folder / "funkenshield.toml")])
    assert checked.exit_code == 0, checked.output


def test_the_sample_configuration_is_right():
    config.load(ROOT / "contrib" / "funkenshield.toml")


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

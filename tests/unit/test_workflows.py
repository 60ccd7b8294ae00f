"""Workflows do nothing but call make, run nothing that may change under them, and may do no more than they must."""

import re

import pytest
import yaml
from support.pages import ROOT

WORKFLOWS = {
    path.name: yaml.safe_load(path.read_text()) for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
}
pytestmark = pytest.mark.skipif(not WORKFLOWS, reason="a source distribution has none")
TARGETS = set(re.findall(r"^([a-z][a-z -]*):.*  ## ", (ROOT / "Makefile").read_text(), re.M))
TRUST = 'git config --global --add safe.directory "$GITHUB_WORKSPACE"'


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job.get("steps", ())]


@pytest.mark.parametrize("workflow", WORKFLOWS.values(), ids=WORKFLOWS)
def test_all_work_is_done_by_make(workflow):
    known = {name for names in TARGETS for name in names.split()} | {"others"}
    for run in (step["run"] for step in steps(workflow) if "run" in step and step["run"] != TRUST):
        program, *targets = re.sub(r"\w+=\S+( \S+ }})?|\$\{\{.*?\}\}", "", run).split()
        assert program == "make"
        assert set(targets) <= known
    for job in workflow["jobs"].values():
        for targets in job.get("strategy", {}).get("matrix", {}).get("target", ()):
            assert {each for each in targets.split() if "=" not in each} <= known


def test_git_is_told_whose_the_sources_are_where_what_make_runs_asks_it():
    """In a container, they are another user's."""
    first = [step.get("run", "") for step in WORKFLOWS["weekly.yml"]["jobs"]["long"]["steps"]]
    assert first.index(TRUST) < next(at for at, run in enumerate(first) if run.startswith("make"))


def test_each_file_of_a_release_is_of_one_machine():
    upload = WORKFLOWS["release.yml"]["jobs"]["wheels"]["steps"][-1]["with"]
    assert upload["path"] == "${{ matrix.runner == 'ubuntu-24.04' && 'dist' || 'dist/*.whl' }}"


@pytest.mark.parametrize("workflow", WORKFLOWS.values(), ids=WORKFLOWS)
def test_actions_are_named_by_what_they_are(workflow):
    uses = [each["uses"] for each in [*steps(workflow), *workflow["jobs"].values()] if "uses" in each]
    assert uses
    for each in uses:
        assert re.fullmatch(r"\./\.github/workflows/\w+\.yml|[\w./-]+@[0-9a-f]{40}", each)


@pytest.mark.parametrize("workflow", WORKFLOWS.values(), ids=WORKFLOWS)
def test_nothing_may_write_but_what_publishes(workflow):
    assert workflow["permissions"] == {"contents": "read"}
    writing = {name for name, job in workflow["jobs"].items() if "write" in job.get("permissions", {}).values()}
    assert writing <= {"build", "publish", "site"}


def test_forms_for_issues_can_be_read():
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert [form.name for form in forms] == ["bug.yml", "config.yml", "idea.yml"]
    for form in forms:
        assert yaml.safe_load(form.read_text())


def test_all_pythons_that_are_promised_are_tried():
    promised = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    assert WORKFLOWS["ci.yml"]["jobs"]["test"]["strategy"]["matrix"]["python"] == promised

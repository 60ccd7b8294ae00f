"""Workflows do nothing but call make, run nothing that may change under them, and may do no more than they must."""

import re

import pytest
import yaml
from support.pages import ROOT

WORKFLOWS = {
    path.name: yaml.safe_load(path.read_text()) for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
}
TARGETS = set(re.findall(r"^([a-z][a-z -]*):.*  ## ", (ROOT / "Makefile").read_text(), re.M))


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job.get("steps", ())]


@pytest.mark.parametrize("workflow", WORKFLOWS.values(), ids=WORKFLOWS)
def test_all_work_is_done_by_make(workflow):
    known = {name for names in TARGETS for name in names.split()} | {"others"}
    for run in (step["run"] for step in steps(workflow) if "run" in step):
        program, *targets = re.sub(r"\w+=\S+( \S+ }})?|\$\{\{.*?\}\}", "", run).split()
        assert program == "make"
        assert set(targets) <= known
    for job in workflow["jobs"].values():
        for target in job.get("strategy", {}).get("matrix", {}).get("target", ()):
            assert target.split()[0] in known


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

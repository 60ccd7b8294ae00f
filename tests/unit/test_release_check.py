"""What is missing for a release is told, and nothing else."""

import importlib.machinery
import importlib.util
import os
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from support.pages import ROOT

TODAY = datetime.now(UTC).date()


def loaded():
    """Return the tool, as a module."""
    loader = importlib.machinery.SourceFileLoader("release_check", str(ROOT / "tools" / "release-check"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("release_check", loader))
    loader.exec_module(module)
    return module


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Return the tool, which looks at a repository that is ready but for what is built."""
    module = loaded()
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VERSION", "1.2.3")
    monkeypatch.setattr(module, "TAG", "v1.2.3")
    monkeypatch.setattr(module, "said", lambda *_, **__: "")
    (tmp_path / "funkenshield").mkdir()
    (tmp_path / "contrib" / "man").mkdir(parents=True)
    (tmp_path / "contrib" / "man" / "funkenshield.1").write_text('.TH FUNKENSHIELD 1 "FunkenShield 1.2.3"')
    (tmp_path / "SECURITY.md").write_text("")
    (tmp_path / "CHANGELOG.md").write_text(f"# Changes\n\n## [Unreleased]\n\n## [1.2.3] - {TODAY}\n\n- All.\n")
    (tmp_path / ".gitignore").write_text("/dist/\n/build/\n")
    for command in (
        ["init", "--quiet"], ["remote", "add", "origin", "git@github.com:funkenshield/funkenshield.git"], ["add", "."],
        ["-c", "user.name=A", "-c", "user.email=a@example.com", "commit", "--quiet", "--message=All"],
    ):  # fmt: skip
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return module


def test_where_all_is_there_nothing_is_told(check):
    assert [*check.version(), *check.changes(), *check.tree(""), *check.addresses(), *check.generated()] == []


def test_a_version_that_stands_elsewhere_is_told(check, tmp_path):
    (tmp_path / "funkenshield" / "about.py").write_text('VERSION = "1.2.3"')
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    (told,) = check.version()
    assert told.startswith("funkenshield/about.py: has the version 1.2.3")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("## [Unreleased]\n\n- Some.\n\n## 1.2.2\n", "no heading ## [1.2.3]"),
        (f"## [Unreleased]\n\n## [1.2.3] - {TODAY + timedelta(days=2)}\n", "of the future"),
        (f"## [Unreleased]\n\n- Some.\n\n## [1.2.3] - {TODAY}\n", "what is unreleased belongs below 1.2.3"),
        (f"## [1.2.3] - {TODAY}\n", "no heading ## [Unreleased]"),
    ],
)
def test_what_lacks_in_the_changes_is_told(check, tmp_path, text, told):
    (tmp_path / "CHANGELOG.md").write_text(text)
    assert any(told in line for line in check.changes())


def test_a_tree_or_tag_that_is_another_one_is_told(check, tmp_path):
    (tmp_path / "new.py").write_text("")
    assert [*check.tree("v1.2.4")] == [
        "the tree is not clean: 1 files differ, or are new",
        "the tag is v1.2.4, the version 1.2.3",
        "there is no tag v1.2.4",
    ]


def test_what_is_not_built_or_old_or_would_be_refused_is_told(check, tmp_path):
    assert [line.partition(":")[0] for line in check.built(tag="")] == [
        "no source distribution of 1.2.3", "no wheel of 1.2.3", "no site of 1.2.3",
    ]  # fmt: skip
    wheel = "dist/funkenshield-1.2.3-cp311-cp311-linux_x86_64.whl"
    for name in ("dist/funkenshield-1.2.3.tar.gz", wheel, "build/site/index.html"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    os.utime(tmp_path / "dist" / "funkenshield-1.2.3.tar.gz", (0, 0))
    assert [*check.built(tag="")] == [
        "the source distribution is older than the last commit: say make wheels docs-site",
        f"{wheel}: the package index takes no wheel for linux_x86_64",
    ]


def test_a_release_has_a_wheel_for_each_python_library_and_machine(check, tmp_path):
    assert "no wheel for cp311-musllinux-aarch64" in [*check.built("v1.2.3")]
    (tmp_path / "dist").mkdir()
    tags = {"manylinux": "manylinux_2_28", "musllinux": "musllinux_1_2"}
    for each in sorted(check.promised())[:-1]:
        python, library, machine = each.split("-")
        (tmp_path / "dist" / f"funkenshield-1.2.3-{python}-{python}-{tags[library]}_{machine}.whl").write_text("")
    assert [line for line in check.built("v1.2.3") if "no wheel" in line] == ["no wheel for cp314-musllinux-x86_64"]
    assert [line for line in check.built("") if "no wheel" in line] == []


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        ("..F\nFAILED a.py::test - no\nERROR b.py\n2 failed", ["FAILED a.py::test - no", "ERROR b.py"]),
        ("python: No module named pytest", ["python: No module named pytest"]),
    ],
)
def test_what_is_generated_is_told_to_be_wrong_where_tests_cannot_be_run_too(check, monkeypatch, printed, told):
    monkeypatch.setattr(check, "said", lambda *_, **__: printed)
    assert [*check.generated()] == told


def test_an_address_that_nobody_reads_is_told(check, tmp_path):
    (tmp_path / "debian").mkdir()
    (tmp_path / "debian" / "control").write_text(f"Maintainer: All <all{check.NOBODY}>\n")
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    (told,) = check.addresses()
    assert told.startswith("debian/control: nobody reads")


def test_a_program_that_is_not_installed_is_told(monkeypatch):
    module = loaded()
    monkeypatch.setattr(module, "tool", lambda name: f"/nowhere/{name}")
    told = "it is not installed, as make release-check does it"
    assert [*module.packaged()] == [f"pyroma: {told}", f"check-manifest: {told}"]

"""The source distribution in `dist` is all that packagers build, test and ship."""

import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.release
# what is for the repository alone
LEFT_OUT = (".git", ".pre-commit", ".editorconfig")


def test_it_has_all_that_the_repository_has():
    (sdist,) = ROOT.glob("dist/*.tar.gz")
    with tarfile.open(sdist) as opened:
        packed = {name.partition("/")[2] for name in opened.getnames()}
    told = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [file for file in told.splitlines() if file not in packed and not file.startswith(LEFT_OUT)] == []
    assert not [name for name in packed if name.endswith((".so", ".pyc", ".c")) and name not in told.splitlines()]

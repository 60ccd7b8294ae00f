"""Show that who cannot build is told in one line what to do, and that nothing old stays importable."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65534


@pytest.fixture
def source(tmp_path):
    """Yield a source folder that anybody may read."""
    for folder in (tmp_path, *tmp_path.parents):
        if "pytest" not in str(folder):
            break
        folder.chmod(0o755)
    folder = tmp_path / "source"
    (folder / "funkenshield").mkdir(parents=True)
    for each in "tools/build", "setup.py", "pyproject.toml":
        (folder / each).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / each, folder / each)
    return folder


def build(source, **environment):
    """Build as one who is not root, with a Python as Debian's is without python3-venv and python3-dev."""
    python = source.parent / "python"
    python.write_text('#!/bin/sh\n[ "$1" = -c ]\n')
    python.chmod(0o755)
    who = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
    return subprocess.run(
        ["tools/build", python, ".venv"],
        cwd=source, capture_output=True, text=True, timeout=30, env={**os.environ, **environment}, **who,
    )  # fmt: skip


def test_what_is_missing_is_told_in_one_line_all_at_once(source):
    for folder in source, source / "funkenshield":
        folder.chmod(0o777)
    for compiler in "no-such-compiler", "false":
        built = build(source, CC=compiler)
        assert built.returncode == 1
        (line,) = built.stderr.splitlines()
        assert line == "please install gcc libc6-dev python3-venv python3-dev (or the like) and try again"


def test_a_source_folder_that_cannot_be_written_to_is_told(source):
    for folder in source, source / "funkenshield":
        folder.chmod(0o555)
    built = build(source)
    assert built.returncode == 1
    (line,) = built.stderr.splitlines()
    assert line.startswith(f"{source} cannot be written to")


@pytest.mark.parametrize(("number", "found"), [("0x012900", True), ("0x012800", False), (None, False)])
def test_what_speaks_http_is_built_where_nghttp2_is(number, found, tmp_path):
    assert looked_for("_http2", tmp_path, "nghttp2/nghttp2.h", number and f"NGHTTP2_VERSION_NUM {number}") == found


@pytest.mark.parametrize(
    ("header", "found"),
    [("0x30000000L", True), ("0x40000030L", True), ("0x1010117fL", False), ("0x20000000L", False), (None, False)],
)  # LibreSSL says that it is version 2
def test_what_encrypts_is_built_where_openssl_3_is(header, found, tmp_path):
    assert looked_for("_tls", tmp_path, "openssl/ssl.h", header and f"OPENSSL_VERSION_NUMBER {header}") == found


def looked_for(module, tmp_path, header, defined):
    """Tell whether a module would be built where a header defines so much; None: there is no such header."""
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\nexec gcc -nostdinc "$@"\n')
    compiler.chmod(0o755)
    if defined:
        file = tmp_path / "include" / header
        file.parent.mkdir(parents=True)
        file.write_text(f"#define {defined}\n")
    code = (
        f"import setup; library = next(each for each in setup.LIBRARIES if each.module.stem == '{module}');"
        " print(setup.has_headers(library, []), setup.ask_pkg_config('--libs', library))"
    )
    environment = {"CC": str(compiler), "CPPFLAGS": f"-I{tmp_path}/include", "PKG_CONFIG": "no-such-program"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    told, libs = done.stdout.split(" ", 1)
    assert (libs, done.stderr) == ("[]\n", "")
    return told == "True"


def test_what_was_compiled_from_a_source_that_is_gone_is_removed(source):
    package = source / "funkenshield"
    (package / "wire").mkdir()
    for folder in source, package, package / "wire":
        folder.chmod(0o777)
    for name in "_moved.cpython-311-x86_64-linux-gnu.so", "wire/_gone.abi3.so", "wire/_here.abi3.so", "wire/_here.pyx":
        (package / name).touch()
    build(source)
    left = {str(path.relative_to(package)) for path in package.rglob("_*")}
    assert left == {"wire/_here.abi3.so", "wire/_here.pyx"}


@pytest.mark.parametrize(("platform", "is_ordered"), [("linux-x86_64", True), ("linux-aarch64", False)])
def test_programs_for_the_kernel_are_for_the_machine_that_all_else_is_built_for(platform, is_ordered):
    asked = [sys.executable, "-c", "import setup; print(*setup.bpf_clang())"]
    env = {**os.environ, "_PYTHON_HOST_PLATFORM": platform}
    done = subprocess.run(asked, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert ("-DTOTAL_STORE_ORDER" in done.stdout) is is_ordered


OLD_CLANG = """#!/bin/sh
case "$*" in
    *answers.bpf.c*) echo "answers.bpf.c: there is no such instruction" >&2; exit 1 ;;
    *.bpf.c*) touch funkenshield/xdp/queries.bpf.o ;;
esac
"""


@pytest.mark.parametrize("clang", ["clang", "no-such-clang", "false", "./old-clang"])
def test_programs_for_the_kernel_are_made_where_clang_can(clang, source):
    shutil.copytree(ROOT / "funkenshield" / "xdp", source / "funkenshield" / "xdp")
    (source / "old-clang").write_text(OLD_CLANG)
    (source / "old-clang").chmod(0o755)
    made = [sys.executable, "-c", "import setup; setup.compile_programs()"]
    env = {**os.environ, "BPF_CLANG": clang, "FUNKENSHIELD_BUILD": "debug"}  # warnings are errors then
    done = subprocess.run(made, cwd=source, env=env, capture_output=True, text=True, timeout=60)
    there = clang == "clang" and shutil.which(clang)
    assert (done.returncode, bool(list(source.rglob("*.bpf.o")))) == (0, bool(there)), done.stderr
    assert ("left out: no clang" in done.stdout) is not bool(there)
    assert ("no such instruction" in done.stdout) is (clang == "./old-clang")

"""What Debian's package and the image are made of fits together. Whether they work, tests/release tells."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from funkenshield import __version__
from funkenshield.config import Config, environment, load

ROOT = Path(__file__).parents[2]
CONTAINER = ROOT / "contrib" / "container"
SCRIPTS = [
    path
    for folder in ("contrib/container", "debian", "debian/tests", "tools")
    for path in (ROOT / folder).iterdir()
    if path.is_file() and re.match(rb"#!.*\b(ba)?sh\b", path.read_bytes())
]


def read(name):
    return (ROOT / name).read_text()


def checked(program, *args):
    found = shutil.which(program, path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}")
    assert found, f"{program} is not there: install the group dev"
    done = subprocess.run([found, *args], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_is_of_this_version():
    assert (ROOT / "debian" / "changelog").read_text().startswith(f"funkenshield ({__version__}-")


def test_another_debian_takes_another_package(tmp_path):
    (line,) = re.findall(r"^sed -i .*debian/changelog$", (ROOT / "tools" / "deb").read_text(), re.M)
    (tmp_path / "debian").mkdir()
    shutil.copy(ROOT / "debian" / "changelog", tmp_path / "debian")
    subprocess.run(["sh", "-c", line], cwd=tmp_path, env=os.environ | {"debian": "13"}, check=True)
    before, after = ((root / "debian" / "changelog").read_text().splitlines() for root in (ROOT, tmp_path))
    assert after == [before[0].replace(")", "~deb13u1)", 1), *before[1:]]


def test_what_is_carried_is_pinned_and_goes_together():
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "contrib" / "requirements.txt").read_text(), re.M))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    wanted = project["project"]["dependencies"] + extras["quic"] + extras["redis"]
    for each in map(Requirement, wanted + project["build-system"]["requires"]):
        assert each.specifier.contains(pinned[each.name]), f"{each.name}: say make pins"


def test_as_installed_it_is_for_this_machine_alone_and_takes_no_port_of_others():
    config = load(ROOT / "debian" / "funkenshield.toml")
    assert all(each.host == "127.0.0.1" and each.port > 1024 for each in config.endpoints)
    assert config.host_names
    assert config.web_endpoint is None


@pytest.mark.parametrize(
    ("refused", "ran"),
    [
        ((), ["funkenshield upgrade"]),
        (("upgrade",), ["funkenshield upgrade", "funkenshield check", "deb-systemd-invoke restart"]),
        (("upgrade", "check"), ["funkenshield upgrade", "funkenshield check"]),
    ],
)
def test_a_new_version_stops_no_daemon_that_it_could_not_replace(tmp_path, refused, ran):
    for program in ("adduser", "funkenshield", "deb-systemd-invoke"):
        (tmp_path / program).write_text(f"""#!/bin/sh
echo "${{0##*/}} $1" >> {tmp_path}/ran
case " {" ".join(refused)} " in *" $1 "*) exit 1 ;; esac
""")
        (tmp_path / program).chmod(0o755)
    script = (ROOT / "debian" / "postinst").read_text().replace("-S /run/funkenshield/control.sock", "-d /")
    done = subprocess.run(
        ["sh", "-c", script, "postinst", "configure", "0.0.9-1"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0
    assert (tmp_path / "ran").read_text().splitlines()[1:] == ran  # after adduser
    assert ("serves on" in done.stderr) == ("check" in refused)


def test_the_unit_is_made_of_the_one_in_contrib():
    unit, rules = (ROOT / "contrib" / "funkenshield.service").read_text(), (ROOT / "debian" / "rules").read_text()
    replaced = re.findall(r"'s,(.*?),.*?,'", rules)
    assert len(replaced) == 2
    for each in replaced:
        assert re.search(each, unit, re.M)


def test_the_image_is_configured_right():
    config = load(CONTAINER / "funkenshield.toml", {}, {"FUNKENSHIELD_UPSTREAMS": "ns.test:53"})
    assert config.web_endpoint  # which the health check asks
    exposed = set(re.findall(r"(\d+)/(?:udp|tcp)", (CONTAINER / "Containerfile").read_text()))
    assert {str(each.port) for each in config.endpoints} == exposed


def test_the_image_is_run_by_the_name_that_it_is_built_with():
    pages = [read(page) for page in ("docs/guide/container.md", "tools/container", *CONTAINER.glob("*"))]
    built = {name for page in pages for name in re.findall(r"--tag (\S+)", page)}
    run = {name for page in pages for name in re.findall(r"^ *[Ii]mage[:=] ?(\S+)", page, re.M)}
    assert built == run == {"localhost/funkenshield"}
    assert len(re.findall(r"(?:podman|docker) build", "".join(pages))) == 5


@pytest.mark.parametrize("page", [*CONTAINER.glob("*.container"), *CONTAINER.glob("*.yaml"), "docs/guide/container.md"])
def test_variables_in_examples_configure_something(page):
    named = re.findall(r"\b(FUNKENSHIELD_\w+)[:=] ?(\S+)", (ROOT / page).read_text())
    assert named
    assert len(environment.values(dict(named), Config)) == len({name for name, _ in named})


def test_wheels_are_named_alike_and_libraries_built_wherever_wheels_are():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    repair = project["tool"]["cibuildwheel"]["repair-wheel-command"]
    assert all("auditwheel repair" in each and "--only-plat" in each for each in (repair, read("tools/wheels")))
    assert "sha256sum -c -" in read("tools/static-libraries")  # busybox has no long options


def test_where_there_is_no_zig_no_compiler_is_made_of_it(tmp_path):
    environment = {**os.environ, "TOOLS": "/bin/false", "ZIG": str(tmp_path)}
    done = subprocess.run([ROOT / "tools/with-zig", "x86_64-linux-gnu", "true"], env=environment, timeout=60)
    assert done.returncode != 0
    assert list(tmp_path.iterdir()) == []


def test_scripts_are_in_order():
    assert len(SCRIPTS) > 20
    checked("shellcheck", *SCRIPTS)


def test_the_containerfile_is_in_order():
    checked("hadolint", CONTAINER / "Containerfile")

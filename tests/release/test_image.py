"""The image localhost/funkenshield, run with no rights on a file system that is read only.

`make container-test` runs this, by podman.
"""

import json
import os
import re
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.client import ask
from support.until import until
from unit.server.certificate_helpers import Issued

from release.podman import container, has_image, podman, typed

IMAGE = "localhost/funkenshield"
CONFINED = ("--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges")
MIB = 1 << 20
SIZE_MAX = 128 * MIB
NAMESERVER = ("nameserver", "--listen", "0.0.0.0:8053")
pytestmark = [
    pytest.mark.release,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not has_image(IMAGE), reason="make container builds the image"),
]


POWERDNS = """
FROM localhost/debian:bookworm
RUN apt-get -qq update && apt-get -qq --no-install-recommends install pdns-server pdns-backend-bind >/dev/null
RUN printf 'zone "example.com" { type master; file "/etc/example.com"; };' > /etc/zones && printf \
    '$TTL 1\\n@ SOA ns hostmaster 1 3600 600 86400 1\\n@ NS ns\\nns A 192.0.2.1\\n* A 192.0.2.80\\n' > /etc/example.com
ENTRYPOINT ["pdns_server", "--config-dir=/nonexistent", "--launch=bind", "--bind-config=/etc/zones", "--guardian=no"]
"""


@pytest.fixture(scope="module")
def network():
    """Yield a network in which containers find each other by name."""
    podman("network", "rm", "--force", "shielded", check=False)
    yield podman("network", "create", "shielded")
    podman("network", "rm", "--force", "shielded")


def shield(network, *options, image=IMAGE, **environ):
    variables = [each for name, value in environ.items() for each in ("--env", f"FUNKENSHIELD_{name}={value}")]
    return container(image, "--network", network, *CONFINED, *variables, *options)


def address(running):
    return podman("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", running.name)


def main_process(running):
    """Return the number of the shield's process here: the child of the container's first."""
    first = podman("inspect", "--format", "{{.State.Pid}}", running.name)
    return int(until(lambda: Path(f"/proc/{first}/task/{first}/children").read_text().split())[0])


def processes(running):
    return podman("top", running.name, "pid", "state", "comm").splitlines()[1:]


def answered(running, name="miek.nl.", kind="MX"):
    until(lambda: "ready" in running.log, 30)
    return ask(name, kind, server=(address(running), 8054), timeout=10).answer


def test_it_is_small_and_has_no_shell_and_is_nobody():
    (told,) = json.loads(podman("image", "inspect", IMAGE))
    print(f"{told['Size'] / MIB:.0f} MiB")
    assert told["Size"] < SIZE_MAX
    assert told["Config"]["User"] == "65532:65532"
    assert "executable file" in podman("run", "--rm", "--entrypoint", "sh", IMAGE, "-c", "id", check=False)


def test_confined_it_answers_for_an_upstream_by_name_and_the_end_drains(network):
    with ExitStack() as stack:
        start = stack.enter_context
        start(container(IMAGE, "--network", network, "--name", "slow", command=[*NAMESERVER, "--delay", "2s"]))
        running = start(shield(network, UPSTREAMS="slow:8053"))
        assert answered(running)
        status = Path(f"/proc/{main_process(running)}/status").read_text()
        assert re.search(r"^Uid:\t65532\t65532\t65532\t65532$", status, re.M)
        assert re.search(r"^Cap(Eff|Bnd):\t0{16}$", status, re.M)
        assert re.search(r"^NoNewPrivs:\t1$", status, re.M)
        assert "queries" in podman("exec", running.name, "funkenshield", "stats")
        waiting = subprocess.Popen(
            ["dig", "+tries=1", "+time=10", f"@{address(running)}", "-p", "8054", "waits.miek.nl", "A"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        time.sleep(0.7)  # which the upstream will take
        began = time.monotonic()
        podman("stop", "--time", "30", running.name)
        assert time.monotonic() - began < 10
        assert "NXDOMAIN" in waiting.communicate(timeout=15)[0]
        assert podman("inspect", "--format", "{{.State.ExitCode}}", running.name) == "0"
        assert "stopped" in running.log


@pytest.mark.skipif(not has_image("localhost/debian:bookworm"), reason="tools/debian-image makes what it is made of")
def test_a_powerdns_is_found_by_its_name_wherever_it_goes(network, tmp_path):
    (tmp_path / "Containerfile").write_text(POWERDNS)
    podman("build", "--network", "host", "--tag", "localhost/powerdns", tmp_path)
    named = "--network", network, "--name", "pdns"
    with shield(network, UPSTREAMS="pdns:53") as running:
        places = set()
        for turn in "first", "second":
            with container("localhost/powerdns", *named) as powerdns:
                places.add(address(powerdns))
                until(lambda turn=turn: answered(running, f"{turn}{time.monotonic_ns()}.example.com.", "A"), 60)
        assert len(places) == 2


def is_healthy(running):
    return podman("healthcheck", "run", running.name, check=False) in ("", "healthy")


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    """Yield the image with its own check of health, for which there is time also on a machine that is busy."""
    folder = tmp_path_factory.mktemp("patient")
    ((_, *check),) = (told["Healthcheck"]["Test"] for told in json.loads(podman("image", "inspect", IMAGE)))
    (folder / "Containerfile").write_text(f"FROM {IMAGE}\nHEALTHCHECK --timeout=5m CMD {json.dumps(check)}\n")
    podman("build", "--format", "docker", "--tag", f"{IMAGE}-patient", folder)
    yield f"{IMAGE}-patient"
    podman("rmi", "--force", f"{IMAGE}-patient")


def test_it_says_how_it_is(network, patient):
    """Whether it serves, hangs, or is about to end."""
    with shield(network, image=patient, UPSTREAMS="127.0.0.1:9", LAME_DUCK="5m") as running:
        until(lambda: is_healthy(running), 60)
        process = main_process(running)
        os.kill(process, signal.SIGSTOP)
        assert not is_healthy(running)
        os.kill(process, signal.SIGCONT)
        until(lambda: is_healthy(running), 60)
        podman("kill", "--signal", "TERM", running.name)
        until(lambda: "not ready any more" in running.log, 60)
        assert not is_healthy(running)
        until(lambda: "says 503" in podman("exec", running.name, "funkenshield", "ready", check=False), 60)
        podman("kill", "--signal", "TERM", running.name)
        assert podman("wait", running.name) == "0"


def test_no_process_is_left_as_a_zombie(network, tmp_path):
    """Neither the process that serves QUIC, when it has ended, nor what others leave to the first process."""
    issued = Issued()
    (tmp_path / "all.pem").write_bytes(issued.pem + issued.key_bytes())
    (tmp_path / "all.pem").chmod(0o644)
    tmp_path.chmod(0o755)
    listeners = '[{ address = "0.0.0.0:8853", transport = "quic", certificates = { certificate = "/keys/all.pem" } }]'
    options = "--volume", f"{tmp_path}:/keys:ro"
    with shield(network, *options, UPSTREAMS="127.0.0.1:9", LISTENERS=listeners, LISTEN="0.0.0.0:8054") as running:
        until(lambda: "ready" in running.log, 30)
        process = main_process(running)
        (front,) = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        subprocess.run(["kill", "-KILL", front], check=True)
        until(lambda: "serves again" in running.log, 30)
        orphan = "import os, time; os.fork() or (os.setsid(), os.fork() or time.sleep(0.3))"
        podman("exec", running.name, "/usr/lib/funkenshield/bin/python3", "-c", orphan)
        until(lambda: len(processes(running)) == 3, 10)
        assert not [each for each in processes(running) if " Z " in each]


def test_behind_an_init_of_the_engines_it_serves_and_ends_alike(network):
    with shield(network, "--init", UPSTREAMS="127.0.0.1:9") as running:
        until(lambda: "ready" in running.log, 30)
        assert [each.split()[-1] for each in processes(running)] == ["podman-init", "tini", "funkenshield"]
        assert "tini" not in running.log  # which has nothing to complain of
        said = podman("exec", running.name, "funkenshield", "upgrade", check=False)
        assert "its container ends with this process" in said
        podman("stop", "--time", "30", running.name)
        assert podman("inspect", "--format", "{{.State.ExitCode}}", running.name) == "0"


def test_the_guide_leads_from_nothing_to_an_answer():
    first, second, *_ = typed("container.md")
    begun = time.monotonic()
    try:
        for block in first, second:
            done = subprocess.run(["sh", "-ec", block], capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stdout + done.stderr
        print(f"{time.monotonic() - begun:.1f} s from nothing to an answer")
        assert "mail.atoom.net." in done.stdout
    finally:
        podman("rm", "--force", "--time", "0", "shield", "nameserver", check=False)
        podman("network", "rm", "--force", "dns", check=False)

"""The quickstart, word for word, on a bare Debian with a service manager: from nothing to the answers that it shows.

`make deb-test` runs this, where `make wheels` has made a wheel for that Debian's Python; `dist` is the index for ours.
"""

import os
import re
import time

import pytest
from support.pages import blocks

from release.podman import ROOT, container, has_image

SUITE = os.environ.get("SUITE", "bookworm")
IMAGE = f"localhost/debian-booted:{SUITE}"
PYTHONS = {"bookworm": "cp311", "trixie": "cp313"}
WHEELS = list(ROOT.glob(f"dist/funkenshield-*-{PYTHONS.get(SUITE)}-manylinux*_x86_64.whl"))
FILE = re.compile(r"[;#] (\S+\.\w+)$", re.M)  # how a block begins that is a file
ANSWER = r"^www\.example\.com\.\t\d+\tIN\tA\t192\.0\.2\.80$"  # as dig writes it
pytestmark = [
    pytest.mark.release,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not WHEELS or not has_image(IMAGE), reason="make wheels has not made its wheel"),
]


def script():
    """Yield what a reader of the page does, for a shell whose output is in /tmp/shown."""
    for block in blocks("docs/quickstart.md"):
        if named := FILE.match(block.text):
            yield f"cat > {named[1]} <<'END'\n{block.text}END\n"
        elif block.language == "sh":
            yield block.text
            if "funkenshield run" in block.text:
                yield "until grep -q ready: /tmp/shown; do sleep 0.1; done\n"  # which the page says one sees


def test_the_quickstart_leads_from_nothing_to_an_answer():
    options = ["--systemd=always", "--volume", f"{ROOT}/dist:/dist:ro", "--env", "PIP_FIND_LINKS=/dist"]
    if authority := os.environ.get("PIP_CERT"):
        options += ["--volume", f"{authority}:/run/authority.pem:ro", "--env", "PIP_CERT=/run/authority.pem"]
    with container(IMAGE, *options) as debian:
        debian.run("systemctl is-system-running --wait || :; apt-get --quiet=2 update")
        debian.run("echo 'APT::Get::Assume-Yes \"true\";' > /etc/apt/apt.conf.d/yes")  # what a reader says
        began = time.monotonic()
        typed = f"export DEBIAN_FRONTEND=noninteractive\n{''.join(script())}wait\n"
        said = debian.run(f"bash -em > /tmp/shown 2>&1 <<'SCRIPT' || :\n{typed}SCRIPT\ncat /tmp/shown")
        print(f"{time.monotonic() - began:.1f} s from nothing to an answer\n{said}")
        assert len(re.findall(ANSWER, said, re.M)) == 3  # of the nameserver, from memory, and without the nameserver
        assert re.search(r"INFO +stopped$", said, re.M)

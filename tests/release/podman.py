"""Know how to run containers by podman (see tools/with-podman), and what the blocks of a guide have a reader type."""

import contextlib
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def podman(*args, check=True, timeout=600):
    """Run podman; return what it prints, and behind that, what it says besides."""
    done = subprocess.run(["podman", *map(str, args)], capture_output=True, text=True, timeout=timeout)
    said = (done.stdout + done.stderr).strip()
    assert done.returncode == 0 or not check, f"podman {args}: {done.returncode}\n{said}"
    return said


def has_image(image):
    return shutil.which("podman") is not None and podman("images", "--quiet", image, check=False) != ""


class Container:
    """A container that runs."""

    def __init__(self, name):
        self.name = name

    def run(self, command, check=True, timeout=600):
        """Run a command of a shell in it, from its root folder; return what that prints."""
        return podman("exec", "--workdir", "/", self.name, "sh", "-ec", command, check=check, timeout=timeout)

    @property
    def log(self):
        return podman("logs", self.name)


@contextlib.contextmanager
def container(image, *options, command=()):
    """Start a container; yield it, and remove it."""
    name = podman("run", "--detach", *options, image, *command).splitlines()[0]
    try:
        yield Container(name)
    finally:
        podman("rm", "--force", "--time", "0", name, check=False)


def typed(page):
    """Return what a guide has its reader type, block by block."""
    return re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / "guide" / page).read_text(), re.S | re.M)

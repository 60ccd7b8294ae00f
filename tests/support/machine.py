"""Know how to have a machine with a systemd of its own: process 1 of namespaces, above a copy of this machine's files.

Nothing of what happens there is seen here: files are written above ours (overlayfs), and the network is its own.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from support.until import until

ROOT = Path(__file__).parents[2]
SYSTEMD = "/lib/systemd/systemd"
CGROUPS = Path("/sys/fs/cgroup")
NAMESPACES = ("mount", "pid", "net", "uts", "ipc", "cgroup")
UNDER = "/opt/funkenshield"  # where what runs is found: units may not look into /home, /root or /tmp
WRAPPER = f"""#!/bin/sh
PYTHONPATH={UNDER}/package:{UNDER}/site exec {UNDER}/python/bin/python3 -P -m funkenshield "$@"
"""
BEGIN = """
set -e
root=$1 python=$2 site=$3 package=$4 under=$5
mount -t tmpfs tmpfs $root
mkdir $root/above $root/work $root/root
mount -t overlay overlay -o lowerdir=/,upperdir=$root/above,workdir=$root/work $root/root
cd $root/root
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for each in dev run tmp; do mount -t tmpfs -o mode=755 tmpfs $each; done
chmod 1777 tmp
for each in full null random urandom tty zero; do touch dev/$each; mount --bind /dev/$each dev/$each; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mkdir -p .$under/python .$under/site .$under/package
mount --bind $python .$under/python
mount --bind $site .$under/site
mount --bind $package .$under/package
rm -rf var/lib/funkenshield etc/systemd/system/* etc/machine-id
echo 0123456789abcdef0123456789abcdef > etc/machine-id
echo $under/python/lib > etc/ld.so.conf.d/000-funkenshield.conf
ldconfig -r .
ip link set lo up
mkdir -p mnt/old
pivot_root . mnt/old
exec env -i container=namespaces PATH=$PATH chroot . sh -c 'cd /; umount -l /mnt/old; exec "$@"' sh \
    /lib/systemd/systemd --system --unit=basic.target --log-target=console --show-status=0
"""


def why_not():
    """Tell why there can be no such machine; "": there can."""
    if os.geteuid() != 0:
        return "takes root"
    if _hierarchy() is None:
        return "takes control groups, version 2"
    missing = [each for each in (SYSTEMD, "nsenter", "pivot_root", "ip") if not shutil.which(each)]
    return f"takes {', '.join(missing)}" if missing else ""


def _hierarchy():
    """Return where control groups of version 2 can be made."""
    return next((each for each in (CGROUPS, CGROUPS / "unified") if (each / "cgroup.procs").exists()), None)


class Machine:
    """A machine, as root is there."""

    def __init__(self, pid):
        self._pid = pid
        self.root = Path(f"/proc/{pid}/root")

    def run(self, *command, check=True, within=60):
        """Return what a command prints there."""
        enter = ["nsenter", "--target", str(self._pid), *(f"--{each}" for each in NAMESPACES), "--root", "--wd=/"]
        done = subprocess.run([*enter, *command], capture_output=True, text=True, timeout=within)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self.journal()}"
        return done.stdout + done.stderr

    def journal(self):
        return self.run("journalctl", "--no-pager", "--output=cat", check=False)

    def shown(self, unit, *properties):
        """Return what systemd says of a unit."""
        said = self.run("systemctl", "show", unit, *(f"--property={each}" for each in properties))
        return dict(line.split("=", 1) for line in said.splitlines())

    def write(self, path, text, mode=0o644):
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)


@contextlib.contextmanager
def machine():
    """Run a machine where `funkenshield` is installed, with the unit of `contrib`."""
    group = _hierarchy() / f"funkenshield-{os.getpid()}"
    group.mkdir()
    with tempfile.TemporaryDirectory(prefix="funkenshield-machine-") as folder, open(f"{folder}.log", "wb") as log:
        python, site = Path(sys.base_prefix), Path(sys.prefix) / "lib" / f"python3.{sys.version_info[1]}/site-packages"
        unshare = ["unshare", "--fork", "--propagation=private", *(f"--{each}" for each in NAMESPACES)]
        process = subprocess.Popen(
            ["sh", "-c", 'echo $$ > "$0" && exec "$@"', group / "cgroup.procs", *unshare, "sh", "-c", BEGIN, "sh",
             folder, python, site, ROOT, UNDER], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            until(lambda: children.read_text().split(), 10)
            init = int(children.read_text().split()[0])
            until(lambda: Path(f"/proc/{init}/comm").read_text() == "systemd\n", 30)
            made = Machine(init)
            until(lambda: "running" in made.run("systemctl", "is-system-running", check=False), 60)
            made.write("/usr/local/bin/funkenshield", WRAPPER, 0o755)
            unit = (ROOT / "contrib" / "funkenshield.service").read_text()
            made.write("/etc/systemd/system/funkenshield.service", unit)
            yield made
        except BaseException:
            print(Path(log.name).read_text(errors="replace"))
            raise
        finally:
            with contextlib.suppress(ProcessLookupError, UnboundLocalError):
                os.kill(init, signal.SIGKILL)  # all that is there ends with it
            process.kill()
            process.wait()
            until(lambda: _remove(group), 10)
            Path(log.name).unlink()


def _remove(group):
    """Remove a control group, and all below it; False: something is left in it."""
    with contextlib.suppress(OSError):
        for each in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            each.rmdir()
        group.rmdir()
    return not group.exists()

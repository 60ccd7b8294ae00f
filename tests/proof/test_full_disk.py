"""Know that a disk that is really full (a small one of its own, so as root) costs a snapshot and no answer."""

import errno
import subprocess

import pytest
from faults.load import Load
from hostile.test_exhaustion_and_crashes import kept_in
from support.rig import NOERROR, ask_each, behind, good, names, rcodes
from support.until import until

pytestmark = pytest.mark.proof


@pytest.fixture
def disk(tmp_path):
    """Yield a folder that is a file system with room for 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(file):
    """Write to a file until there is no room; return the error that says so."""
    with file.open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(512))
        except OSError as error:
            return error.errno


def test_a_disk_without_room_keeps_the_old_snapshot_and_costs_no_answer(disk):
    path, ballast = disk / "cache", disk / "ballast"
    with behind(good, cache=kept_in(path)) as (shield, _):
        assert rcodes(ask_each(shield, names(200))) == {NOERROR: 200}
        until(lambda: path.exists() and path.stat().st_size > 8192)
        assert fill(ballast) == errno.ENOSPC
        before = path.read_bytes()
        with Load(shield) as load:
            until(lambda: f"{path}: snapshot not written: No space left on device" in shield.log)
            load.go_on(2.0)
        assert load.outcome == load.flawless
        assert path.read_bytes() == before
        assert sorted(disk.iterdir()) == sorted([path, ballast]), "no half of a snapshot takes room"
        ballast.unlink()
        until(lambda: path.read_bytes() != before)
    with behind(good, cache=kept_in(path)) as (shield, _):
        assert "snapshot restored" in shield.log

"""Know how to have a daemon replaced by another process, and how to end that one: it is nobody's child."""

import contextlib
import json
import os
import signal
import socket

from support.process import run_shield
from support.until import until


def command(shield, within=60.0, **request):
    """Return what a daemon responds to a command, however long that takes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, sock.makefile("rwb") as stream:
        sock.settimeout(within)
        sock.connect(str(shield.control))
        stream.write(json.dumps(request).encode() + b"\n")
        stream.flush()
        return json.loads(stream.readline())


class Upgradable:
    """A shield, and the processes that have taken over."""

    def __init__(self, shield):
        self.shield, self.pids = shield, [shield.process.pid]

    def upgrade(self):
        """Have it replaced; return what the command says."""
        done = command(self.shield, command="upgrade")
        if done["ok"]:
            assert done["was"] == self.pids[-1]
            self.pids.append(done["pid"])
        return done

    def end(self):
        """End the last one as a service manager does, if it is not the first."""
        if len(self.pids) > 1:
            os.kill(self.pids[-1], signal.SIGTERM)
            until(lambda: has_ended(self.pids[-1]), 10)


def has_ended(pid):
    """Tell whether a process has ended, whosever child it was or has become."""
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@contextlib.contextmanager
def upgradable(upstreams, **options):
    """Run a daemon whose command line can be started again."""
    with run_shield(upstreams, under=("env",), **options) as shield:
        running = Upgradable(shield)
        try:
            yield running
        finally:
            running.end()

"""Know how to start the command at once: a process that has loaded it forks; to load it takes half a second.

Each process of pytest has one such process, from its first start on, and another one for the process of QUIC. It has
one thread, and nothing open: what it forks has what `python -m funkenshield` has, and ends as that does. It forks
twice: what is orphaned becomes pytest's child.
"""

import atexit
import ctypes
import fcntl
import functools
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
NETWORK = "/proc/thread-self/ns/net"
REQUEST_MAX = 1 << 17  # octets of arguments and environment
PASSED_MAX, NUMBER_MAX = 32, 512  # descriptors that are passed, and below which number all others are
_one_at_a_time = threading.Lock()
_libc = ctypes.CDLL(None)


class Forked:
    """A `python -m funkenshield` with these arguments, in the manner of subprocess.Popen.

    Of our descriptors it has those that are `passed`, by the same numbers. `what` is the command, or QUIC's "front".
    """

    def __init__(self, args, *, stdout, stderr, env=os.environ, passed=(), what="command"):
        asked = {"args": [str(each) for each in args], "env": dict(env), "folder": os.getcwd(), "passed": passed}
        self.args, self.returncode = args, None
        with _one_at_a_time:
            self.pid = _fork(what, json.dumps(asked).encode(), [stdout.fileno(), stderr.fileno()], passed)

    def poll(self):
        return self._reap(os.WNOHANG)

    def wait(self, timeout=None):
        deadline = time.monotonic() + (timeout if timeout is not None else float("inf"))
        pause = 0.001
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(pause)
            pause = min(pause * 2, 0.02)
        return self.returncode

    def _reap(self, how):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, how)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def command(*args, timeout=15.0, env=os.environ):
    """Run a command to its end, as subprocess.run does, and return what it printed."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = Forked(args, stdout=out, stderr=err, env=env)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(args, code, out.read(), err.read())


def front(descriptor, passed, nice):
    """Start the process of QUIC, as `funkenshield.quic.process.begin` does."""
    return Forked([descriptor, nice], stdout=sys.__stdout__, stderr=sys.__stderr__, passed=passed, what="front")


def _fork(what, request, output, passed):
    """Have a request served in this thread's network; return the process, once it is a child of ours."""
    server = _server(what)
    with open(NETWORK) as network:
        socket.send_fds(server, [request], [*output, network.fileno(), *passed])
    pid = int(server.recv(16))
    server.recv(1)
    return pid


@functools.cache
def _server(what):
    """Return the socket on which the process that forks takes requests; its orphans are ours from now on."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, __file__, what, str(theirs.fileno())], stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
    )
    theirs.close()

    def end():
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _serve(requests):
    """Fork for each request; return what is asked of this process, in that which is forked."""
    while True:
        request, fds, _, _ = socket.recv_fds(requests, REQUEST_MAX, PASSED_MAX)
        if not request:
            os._exit(0)
        middle = os.fork()
        if not middle:
            child = os.fork()
            if not child:
                requests.detach()
                asked = json.loads(request)
                _move_in(*fds[:3], dict(zip(asked["passed"], fds[3:], strict=True)))
                return asked
            requests.send(b"%d" % child)
            os._exit(0)
        os.waitpid(middle, 0)
        requests.send(b".")
        for fd in fds:
            os.close(fd)


def _move_in(stdout, stderr, network, passed):
    """Write there, be in that network, and have what is passed by its numbers, and nothing else."""
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    if not os.path.sameopenfile(network, os.open(NETWORK, os.O_RDONLY)):
        _libc.setns(network, 0)
    most = max([NUMBER_MAX, *passed, *passed.values()]) + 1
    above = {number: fcntl.fcntl(fd, fcntl.F_DUPFD, most) for number, fd in passed.items()}
    os.closerange(3, most)
    for number, fd in above.items():
        os.dup2(fd, number)
        os.close(fd)


def _become(asked):
    """Be the command, as if it had been started like that."""
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["folder"])
    if sys.argv[1] == "front":
        front_process.main(*map(int, asked["args"]))
        os._exit(0)  # at once: there is nothing left to be told
    sys.argv[1:] = asked["args"]
    from funkenshield.__main__ import main

    main()


if __name__ == "__main__":
    sys.path[0] = os.getcwd()  # as with -m
    if sys.argv[1] == "front":
        from funkenshield.quic import front as front_process
    else:
        from funkenshield import cli, daemon  # noqa: F401 - what takes long

    gc.freeze()  # no collection looks at it, and so copies it, in what is forked
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _become(_serve(socket.socket(fileno=int(sys.argv[2]))))

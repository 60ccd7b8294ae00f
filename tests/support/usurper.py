"""Know how to be a process that takes all over from a daemon, and then never serves: it hangs, until it is killed."""

import json
import os
import socket
import sys
import time


def _receive(sock):
    """Return a message; its descriptors are closed."""
    _, fds, _, _ = socket.recv_fds(sock, 1, 253)
    with open(fds[0], "rb") as file:
        file.seek(0)
        message = json.loads(file.readline())
    for fd in fds[1:]:
        os.close(fd)
    return message


def main(control, end):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(10)
        sock.connect(control)
        sock.sendall(b'{"command": "take over", "version": 1}\n')
        _receive(sock)
        if end == "early":
            return
        sock.sendall(b'{"what": "ready", "copy": false}\n')
        while (what := _receive(sock)["what"]) != "state":
            print(what)
        print(what, flush=True)
        if end == "hang":
            time.sleep(60)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Know how to change rules while a shield runs, and what a client sees of that who asks the same all the time."""

import signal
import socket
import threading
import time

from support import quick
from support.client import LARGEST, address_of
from support.control import stats
from support.rig import PATIENT, STEADY, toml
from support.until import until


def configure(shield, upstream, **options):
    """Write the shield's configuration anew, all but where it listens, and tell it so."""
    listen = [str(address) for address in shield.addresses]
    options = {"upstreams": [str(upstream.address)], "forward": STEADY | PATIENT} | options
    write(shield.folder / "funkenshield.toml", toml(listen=listen, workers=1, **options))
    shield.process.send_signal(signal.SIGHUP)


def write(path, text):
    """Replace a file at once, as editors and packages do."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def reloaded(shield, count):
    """Wait until so many reloads are done, which may be of a hundred thousand names, beside a load."""
    until(lambda: stats(shield)["reloads"] >= count, within=30.0)


class Asking:
    """A client who asks for the address of one name, over and over, while the context is entered.

    What he got, one after the other, is in `seen`: the last octet of an address, or the RCODE in brackets.
    """

    def __init__(self, server, name):
        self._server, self._query = address_of(server), quick.query(name, quick.A)
        self._replies = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"asking {name}")

    @property
    def seen(self):
        """Return what came, each change of it once."""
        found = [reply[-1] if reply[7] else [reply[3] & 15] for reply in list(self._replies)]
        return [each for number, each in enumerate(found) if not number or each != found[number - 1]]

    def __enter__(self):
        self._thread.start()
        until(lambda: self._replies)
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _run(self):
        with socket.socket(self._server.family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(10)
            sock.connect(self._server)
            while not self._over.is_set():
                sock.send(self._query)
                self._replies.append(sock.recv(LARGEST))
                time.sleep(0.001)

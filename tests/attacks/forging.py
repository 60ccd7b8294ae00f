"""Know how a blind forger sends an upstream's answers from where it stands; of the shield it knows the address alone.

The shield asks from an address of its own, so that no other program's ports are tried.
"""

import contextlib
import subprocess
import time
from pathlib import Path

from support.upstream import ScriptedUpstream

UPSTREAM, SHIELD = "127.53.0.1", "127.53.0.2"
RATE = 50_000  # forged datagrams a second
PORTS, IDS = 28232, 65536  # that are drawn from, as Linux comes


class Impersonated(ScriptedUpstream):
    """A nameserver in whose name a forger speaks."""

    def __init__(self, handle):
        super().__init__(handle, UPSTREAM)

    def toml(self, **options):
        """Return what the configuration says of it."""
        lines = [f"{name} = {str(value).lower()}" for name, value in options.items()]
        return "\n".join(["[[upstreams]]", f'address = "{self.address}"', f'source = "{SHIELD}"', *lines, ""])

    def forge(self, port, *wires):
        """Send datagrams to a port that is known."""
        for wire in wires:
            self._datagrams.sendto(wire, (SHIELD, port))

    @contextlib.contextmanager
    def forged_blindly(self, folder, response, seconds):
        """Have a response forged for so many seconds; yield the forger, who knows how many went in the end."""
        program, fd = folder / "forge", self._datagrams.fileno()
        if not program.exists():
            source = Path(__file__).with_name("forge.c")
            subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-o", program, source], check=True)
        command = [program, str(fd), SHIELD, str(RATE), str(seconds), response.hex()]
        forging = Forging(subprocess.Popen(command, pass_fds=[fd], stdout=subprocess.PIPE, text=True))
        try:
            yield forging
            forging.sent = int(forging.process.communicate()[0])
        finally:
            forging.process.kill()
            forging.process.wait()
        forging.seconds = time.monotonic() - forging.start


class Forging:
    """A forger at work."""

    def __init__(self, process):
        self.process = process
        self.start = time.monotonic()
        self.sent = 0
        self.seconds = 0.0

    @property
    def goes_on(self):
        return self.process.poll() is None


def days_until_right(reached, seconds, *, sockets, alike, threshold, suspicion):
    """Return the days until one forged answer is believed, of a forger who stops for as long as suspicion lasts.

    So many guesses `reached` an open port within some seconds of forging; each is at one of `sockets`, and on all of
    them together no more than `alike` queries for one question wait. After `threshold` guesses, nothing is believed.
    """
    right = alike / sockets / IDS  # how likely one guess is
    turn = threshold / (reached / seconds) + suspicion
    return turn / (threshold * right) / 86400

"""What the process that strangers' QUIC comes to is started with."""

import subprocess
import sys

from support.network import as_root

STATUS = """
import subprocess
from funkenshield.quic.process import ambient_capabilities_kept_back
with ambient_capabilities_kept_back():
    subprocess.run(["grep", "CapPrm", "/proc/self/status"], check=True)
subprocess.run(["grep", "CapPrm", "/proc/self/status"], check=True)
"""


@as_root
def test_it_has_no_capability_of_the_service():
    kept = "+net_raw,+dac_override"
    under = ("setpriv", "--reuid=65534", "--clear-groups", f"--inh-caps={kept}", f"--ambient-caps={kept}", "--")
    done = subprocess.run([*under, sys.executable, "-c", STATUS], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("CapPrm:\t0000000000000000\nCapPrm:\t0000000000002002\n", "")

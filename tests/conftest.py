"""Make each process of pytest a world of its own, before anything opens a socket or starts a process.

It is alone on the network, it ends at Ctrl-C, and what daemons keep by default is kept in a folder of ours.
"""

import atexit
import os
import shutil
import signal
import tempfile

from support.alone import be_alone

if not os.environ.get("FUNKENSHIELD_NETWORK"):  # set it to keep the network, for a debugger or a capture
    be_alone()
os.environ["STATE_DIRECTORY"] = tempfile.mkdtemp(prefix="funkenshield-state-")
atexit.register(shutil.rmtree, os.environ["STATE_DIRECTORY"], ignore_errors=True)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has those that it starts with `&` ignore it

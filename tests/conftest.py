"""Make each process of pytest a world of its own, before anything opens a socket or starts a process.

It is alone on the network, it ends at Ctrl-C, and what daemons keep by default is kept in a folder of ours.
"""

import atexit
import logging
import os
import shutil
import signal
import sys
import tempfile

import pytest
from hypothesis import settings
from support.alone import be_alone

if not os.environ.get("FUNKENSHIELD_NETWORK"):  # set it to keep the network, for a debugger or a capture
    be_alone()
os.environ["STATE_DIRECTORY"] = tempfile.mkdtemp(prefix="funkenshield-state-")
for name, count in {"quick": 20, "usual": 50, "thorough": 500}.items():  # see `support.examples`
    settings.register_profile(name, deadline=None, max_examples=count)  # how long one takes is the machine's business
settings.load_profile("usual")
atexit.register(shutil.rmtree, os.environ["STATE_DIRECTORY"], ignore_errors=True)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has those that it starts with `&` ignore it


@pytest.fixture(autouse=True)
def the_log_of_this_process():
    """Undo what a command that was run here did to the log: the next test reads its own."""
    root, unraisable = logging.getLogger(), sys.unraisablehook
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    sys.unraisablehook = unraisable
    logging.captureWarnings(False)

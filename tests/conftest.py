"""Be alone on the network before anything opens a socket; what daemons keep by default is kept in a folder of ours."""

import atexit
import os
import shutil
import tempfile

from support.alone import be_alone

if not os.environ.get("FUNKENSHIELD_NETWORK"):  # set it to keep the network, for a debugger or a capture
    be_alone()
os.environ["STATE_DIRECTORY"] = tempfile.mkdtemp(prefix="funkenshield-state-")
atexit.register(shutil.rmtree, os.environ["STATE_DIRECTORY"], ignore_errors=True)

"""Be alone on the network before anything opens a socket; whose machine it is may go on with what it does."""

import os

from support.alone import be_alone

if not os.environ.get("FUNKENSHIELD_NETWORK"):  # set it to keep the network, for a debugger or a capture
    be_alone()

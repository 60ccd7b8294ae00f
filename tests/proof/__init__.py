"""Know what takes long to be shown, or wants a machine to itself: `make proof`."""

import os


def seconds(usual):
    """Return how long a load goes on: as usual, or for FUNKENSHIELD_SECONDS."""
    return int(os.environ.get("FUNKENSHIELD_SECONDS", usual))

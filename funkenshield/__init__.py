"""FunkenShield: a caching reverse proxy for DNS."""

from importlib.metadata import version

__version__ = version("funkenshield")

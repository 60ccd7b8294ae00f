"""FunkenShield: a caching reverse proxy for DNS."""


def __getattr__(name: str) -> str:
    """Return the version; it is looked up when it is wanted, for the daemon has signals to see to first."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    return version("funkenshield")

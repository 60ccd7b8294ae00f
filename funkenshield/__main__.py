"""The command `funkenshield`, which is `python -m funkenshield`, too."""

import sys

from . import signals


def main() -> None:
    """Run the command; the daemon knows what to do with signals before anything else is loaded."""
    try:
        if sys.argv[1:2] == ["run"]:
            signals.hold()
        from .cli import main as run

        run(prog_name="funkenshield")
    except signals.EndedError:
        sys.exit(0)


if __name__ == "__main__":
    main()

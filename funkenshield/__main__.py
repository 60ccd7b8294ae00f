"""The command `funkenshield`, which is `python -m funkenshield`, too."""

import sys
from importlib.util import find_spec

from .core import early_signals


def main() -> None:
    """Run the command; the daemon knows what to do with signals before anything else is loaded."""
    try:
        if sys.argv[1:2] == ["run"]:
            early_signals.hold()
        _see_that_all_is_there()
        from .cli import main as run

        run(prog_name="funkenshield")
    except early_signals.EndedError:
        sys.exit(0)


def _see_that_all_is_there() -> None:
    """End with a line where nothing has been built or installed, as in a source folder that was just cloned."""
    for needed in "click", "pydantic", "uvloop", "funkenshield.forward._miss_path":
        if find_spec(needed) is None:
            sys.exit(
                f"funkenshield: {needed} is not installed for {sys.executable}; in the source tree, use `make run`;"
                " elsewhere, `pip install funkenshield`"
            )


if __name__ == "__main__":
    main()

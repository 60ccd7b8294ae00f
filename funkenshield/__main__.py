"""`python -m funkenshield` is the command `funkenshield`."""

from .cli import main

main(prog_name="funkenshield")

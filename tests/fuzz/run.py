"""Fuzz one target with atheris: `python -m fuzz.run TARGET [libFuzzer's options]`.

Half of all new inputs are mutations of what is known; the others, of one that was just made to make sense.
"""

import logging
import sys
from importlib import import_module
from random import Random

import atheris

with atheris.instrument_imports(include=["funkenshield"]):
    target = import_module(f"fuzz.{sys.argv.pop(1)}")


def mutated(data, most, seed):
    """Return another input, of at most so many octets."""
    dice = Random(seed)
    if dice.random() < 0.5:
        data = target.made(dice)[:most]
    return atheris.Mutate(data, most)


logging.disable(logging.CRITICAL)  # targets have much to say
atheris.Setup(sys.argv, target.one, custom_mutator=mutated)
atheris.Fuzz()

"""Write the seeds of all corpora: `python -m fuzz.seed`. What a fuzzer has found beside them stays."""

from importlib import import_module
from pathlib import Path
from random import Random

from . import TARGETS

CORPUS = Path(__file__).parent / "corpus"
SEEDS = 12

if __name__ == "__main__":
    for target in TARGETS:
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        for number in range(SEEDS):
            data = import_module(f"fuzz.{target}").made(Random(number))
            (CORPUS / target / f"seed{number:02}").write_bytes(data)

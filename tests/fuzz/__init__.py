"""Octets from strangers, and what must be true whatever they are: a module for each reader of them.

Each has `one(data)`, which asserts that, and `made(dice)`, which returns an input that makes sense.
`run` fuzzes one, `seed` makes the corpora, and `test_corpus` replays them.
"""

TARGETS = (
    "answer", "chain", "config", "denial", "frame", "proxied", "query", "requests", "snapshot", "stream", "upstream",
)  # fmt: skip

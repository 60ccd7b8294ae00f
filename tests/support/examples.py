"""Know with how many examples a property is tried: with all, or with a share of them.

Counts are written for Hypothesis's usual hundred. `make test` has its profile "usual", half of that, `make check`
"quick", a fifth, and `make proof` "thorough", five times as many: so every property gets its share.
"""

from hypothesis import settings


def examples(count, **options):
    """Return settings for so many examples, or for the profile's share of them."""
    return settings(max_examples=count * settings().max_examples // 100, **options)

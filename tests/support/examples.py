"""Know with how many examples a property is tried: with all, or with a share of them.

`make check` loads Hypothesis's profile "quick", a fifth of its usual hundred: so every property gets a fifth.
"""

from hypothesis import settings


def examples(count, **options):
    """Return settings for so many examples, or for the profile's share of them."""
    return settings(max_examples=count * settings().max_examples // 100, **options)

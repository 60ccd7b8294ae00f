"""Answers: how they are kept, found, judged by their age, rendered, purged and evicted."""

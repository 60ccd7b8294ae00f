"""Anycast, beside a daemon: looks whether it answers well, decides about its routes, and tells a BGP speaker."""

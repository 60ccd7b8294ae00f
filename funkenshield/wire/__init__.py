"""Octets of DNS messages and of what travels with them, and nothing of what they are for."""

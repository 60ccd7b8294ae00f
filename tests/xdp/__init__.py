"""Queries that are taken from an interface before the network stack has them: programs, frames, a whole daemon."""

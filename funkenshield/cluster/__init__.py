"""Nodes that know of each other by a store that speaks Redis' protocol: a cache that they share, purges for all."""

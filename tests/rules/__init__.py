"""Rules and guard at the wire: the real process, what its clients get, and what its upstreams receive."""

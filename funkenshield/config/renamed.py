"""What keys and values of the configuration were called once: a file with an old name is answered with the new one.

It knows names alone. What is said of them is in `mistakes`; no old name is accepted.
"""

_PREFIXES = {"ipv4": "ipv4_prefix_length", "ipv6": "ipv6_prefix_length"}
_LIMIT = {"queries": "queries_per_second", "burst": "window", **_PREFIXES}
_RRL = {
    "answers": "responses_per_second", "nxdomains": "nxdomains_per_second", "errors": "errors_per_second",
    "all": "all_per_second", "burst": "window", **_PREFIXES,
}  # fmt: skip
_BLOCK = {"what": "type", "block": "duration", **_PREFIXES}

# By table ("": the top of the file): the old key, and the new one. A table is a path's last part but one, or the last
# two where there is another of its name.
KEYS = {
    "": {
        "any": "minimal_any", "drain": "drain_timeout", "identity": "chaos", "notify": "allow_notify_from",
        "proxies": "proxy_protocol_from", "shuffle": "rrset_roundrobin",
    },
    "cache": {"options_ignored": "skip_options"},
    "ttl": {"on_wire": "serve_original"},
    "stale": {"client_timer": "client_timeout"},
    "cookies": {"secrets": "secret_file"},
    "identity": {"server": "identity"},
    "chaos": {"server": "identity"},
    "udp": {"payload": "max_payload", "edns_udp_size": "max_payload"},
    "tcp": {
        "connections": "max_connections", "per_client": "max_connections_per_client", "queries": "max_in_flight",
        "idle": "idle_timeout",
    },
    "forward": {
        "patience": "retry_after", "try_next": "retry_on", "tries": "attempts", "open": "max_outstanding",
        "open_zone": "max_outstanding_per_zone", "forgeable": "max_outstanding_per_prefix",
        "passed_on": "max_uncached", "transfers": "max_transfers", "mismatches": "spoof_threshold",
        "port_life": "source_port_lifetime", "ports_avoided": "source_port_avoid", "connections": "max_connections",
    },
    "health": {
        "backoff": "max_backoff", "least": "min_samples", "timeouts": "timeout_ratio", "servfails": "servfail_ratio",
    },
    "upstreams": {"open": "max_outstanding"},
    "upstreams.tls": {"name": "server_name", "pins": "pin_sha256", "authorities": "ca_file"},
    "client_subnet": _PREFIXES,
    "zones": {"open": "max_outstanding", "notify": "allow_notify_from", "nsec": "aggressive_nsec"},
    "guard": {"blocked": "max_blocked", "limits": "rate_limits", "responses": "rrl", "blocks": "dynamic_blocks"},
    "limits": _LIMIT,
    "rate_limits": _LIMIT,
    "responses": _RRL,
    "rrl": _RRL,
    "blocks": _BLOCK,
    "dynamic_blocks": _BLOCK,
    "match": {"share": "source_ratio"},
    "rate": {"burst": "window", **_PREFIXES},
    "action": {"pass": "allow", "uncached": "skip_cache", "strip_option": "remove_option"},
}  # fmt: skip
LINES = {  # by old key, where its values are others, too: the old value, and the line that says the same
    "any": {"pass": "minimal_any = false", "minimal": "minimal_any = true"},
    "on_wire": {"age": "serve_original = false", "keep": "serve_original = true"},
    "nsec": {"off": "aggressive_nsec = false", "trust": "aggressive_nsec = true"},
}
VALUES = {  # by key: the old value, and the new one
    "chain": {"answers": "cache-hits"},
    "on_error": {"pass": "allow"},
    "policy": {"least-open": "least-outstanding"},
}


def new_key(table: str, key: str) -> str:
    """Return what a key of a table is called now; "" where it was never called otherwise."""
    return KEYS.get("match" if table in ("all", "any", "not") else table, {}).get(key, "")


def new_line(table: str, key: str, value: object) -> str:
    """Return the new key, with its value where that is written in another way; "" where the key has no new name."""
    new = new_key(table, key)
    return LINES.get(key, {}).get(value, new) if new and isinstance(value, str) else new


def new_value(key: str, value: object) -> str:
    """Return what a value of a key is called now; "" where it was never called otherwise."""
    return VALUES.get(key, {}).get(value, "") if isinstance(value, str) else ""

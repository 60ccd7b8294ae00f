"""Know what a daemon answers to `status`: what a test says has happened, and nothing else."""

from support.shown import counted

UNIX = 1_796_000_000.0  # a time of day


def status(*, upstreams=(), rules=(), steered=None, top=None, failures=(), blocks=(), log=(), **counters):
    """Return a response: `upstreams` are counters with a `why`, `rules` counters with what `rules list` says."""
    return {
        "about": {"version": "1.2", "host": "ns1.test", "pid": 7},
        "stats": counted(**{
            "upstreams": {f"{each['name']} {each['address']}": each for each in upstreams},
            "rules": {each["name"]: each for each in rules},
            "tls_certificate_expiry_timestamp_seconds": {},
        } | counters),
        "upstreams": [{"name": each["name"], "state": each["state"], "why": each.get("why", "")} for each in upstreams],
        "rules": list(rules),
        "steered": {"log level": None, "upstreams": {}, "rules disabled": []} | (steered or {}),
        "top": {"seconds": 0.0, "outcomes": {}, "names": [], "clients": [], "zones": []} | (top or {}),
        "failures": list(failures),
        "blocks": list(blocks),
        "log": list(log),
    }  # fmt: skip


def most(subject, **queries):
    """Return what `top` says of names, clients or zones; two underscores stand for a dot."""
    return [{subject: name.replace("__", "."), "queries": count, "error": 0} for name, count in queries.items()]


def failure(name, **more):
    """Return a failure that a client felt."""
    return {
        "time": UNIX - 60, "times": 1, "name": name, "type": "A", "upstream": "one", "reason": "timeout",
        "text": "did not answer in time",
    } | more  # fmt: skip


def block(prefix, **more):
    """Return a prefix that is blocked."""
    return {"prefix": prefix, "seconds": 90.0, "action": "drop", "reason": "by hand"} | more


def line(text, level="info"):
    """Return a line of the log."""
    return {"time": UNIX - 30, "level": level, "text": text}

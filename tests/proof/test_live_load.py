"""Know that hits, misses, TCP, TLS, rules, purges, renewed certificates and reloads all at once disturb nobody.

Under a sanitizer (`tools/sanitized`) this is the load: whoever touches what another thread holds is found here.
"""

import itertools
import json
import signal
import subprocess

import pytest
from rules.changing import reloaded, write
from support import quick
from support.certificates import HOST, Authority
from support.client import Address, free_port
from support.control import request
from support.encrypted import Door, shown
from support.pipeline import ask_all
from support.process import COMMAND, run_shield
from support.rig import PATIENT, toml
from support.upstream import ScriptedUpstream
from support.wires import record_wire, reply_wire

pytestmark = [pytest.mark.proof, pytest.mark.timeout(300)]
SECONDS, HITS, MISSES, WORKERS = 15, 2000, 200, 2  # the rates are a second's
FUNCTION = """
from funkenshield.rules import *

@shield.rule(suffix("called.test"), cache=True)
async def called(query):
    return query.respond("1 A 192.0.2.2")
"""


def large(query):
    """Answer everything for a second, after which it is refreshed or gone, with much to copy."""
    records = [record_wire(quick.A, bytes([192, 0, 2, number]), 1) for number in range(25)]
    return reply_wire(query, b"".join(records), counts=(len(records), 0, 0))


def options(number, rules_file, listener):
    """Return the configuration; no two in a row have the same rules."""
    ruled = {"match": {"suffix": "ruled.test", "not": {"qtype": "AAAA"}}, "action": {"answer": f"A 192.0.2.{number}"}}
    counted = {"match": {"rate": {"limit": 1.0}}, "action": {"tag": "fast"}}
    return {
        "forward": PATIENT,
        "rules": [counted, ruled],
        "rules_file": str(rules_file),
        "listeners": [listener],
        "guard": {"rate_limits": [{"queries_per_second": 1e6}], "rrl": {"responses_per_second": 1e6}},
    }


def perf(shield, file, rate, seconds=SECONDS):
    """Load the shield, and return the process, which prints its report."""
    where = ["-s", shield.address.host, "-p", str(shield.address.port)]
    command = [*COMMAND, "perf", "-d", file, *where, "-l", str(seconds), "-Q", str(rate), "-t", "10", "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_load_of_everything_at_once_loses_nothing(tmp_path):
    hot, cold, rules = tmp_path / "hot", tmp_path / "cold", tmp_path / "rules.py"
    hot.write_text("".join(f"h{n}.{zone}.test A\n" for n in range(50) for zone in ("kept", "ruled", "called")))
    cold.write_text("".join(f"m{n}.kept.test A\n" for n in range(2 * SECONDS * MISSES)))
    rules.write_text(FUNCTION)
    queries = [quick.query(f"h{n}.kept.test.", quick.A) for n in range(50)]
    authority = Authority(tmp_path)
    door = Door(Address("127.0.0.1", free_port()), authority)
    listener = {"address": str(door.address), "transport": "tls", "certificates": [shown(authority.issue(HOST))]}
    with (
        ScriptedUpstream(large) as upstream,
        run_shield([upstream], workers=WORKERS, toml=toml(**options(0, rules, listener))) as shield,
    ):
        session = door.session(queries[0])
        loads = [perf(shield, hot, HITS), perf(shield, cold, MISSES)]
        for number in itertools.count(1):
            assert all(reply[3] & 15 == 0 for reply in ask_all(shield, queries, tcp=True))
            assert all(reply[3] & 15 == 0 for reply in ask_all(door, queries, tls=door.context()))
            assert door.resumes(queries[0], **session)
            authority.issue(HOST)
            assert request(shield, b'{"command": "purge", "name": "kept.test", "below": true}') == [{"ok": True}]
            listen, upstreams = [str(shield.address)], [str(upstream.address)]
            told = toml(listen=listen, upstreams=upstreams, workers=WORKERS, **options(number % 200, rules, listener))
            write(shield.folder / "funkenshield.toml", told)
            shield.process.send_signal(signal.SIGHUP)
            reloaded(shield, number)
            if all(load.poll() is not None for load in loads):
                break
        reports = [json.loads(load.communicate()[0]) for load in loads]
        counted = shield.stats()
    for report in reports:
        assert (report["lost"], set(report["rcodes"])) == (0, {"NOERROR"})
    assert sum(report["answered"] for report in reports) > SECONDS * HITS / 2
    # How many of the rest miss goes with how often the machine reloads and purges meanwhile.
    assert counted["cache_hits"] > SECONDS * HITS / 3
    assert counted["cache_misses"] > SECONDS * MISSES

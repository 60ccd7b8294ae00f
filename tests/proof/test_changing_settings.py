"""Know that settings which change ten times a second disturb nobody, though the kernel stops all threads now and then.

Under a sanitizer (`tools/sanitized`) this finds who reads what was freed, or is being written: workers are stopped in
the midst of a batch, for longer than any clock would keep what they are at.
"""

import json
import signal
import threading
import time

import pytest
from rules.changing import write
from support.control import request, stats
from support.process import run_shield
from support.rig import toml
from support.upstream import ScriptedUpstream

from proof import seconds
from proof.test_live_load import PATIENT, large, perf

pytestmark = [pytest.mark.proof, pytest.mark.timeout(600)]
SECONDS = seconds(20)
HITS, MISSES, WORKERS = 2000, 100, 2  # the rates are a second's
EVERY, STOPPED, GOING = 0.1, 2.2, 1.0  # seconds: between changes, that the process is stopped, that it goes on
BURST = 10.0  # seconds: to a limit, who came before a worker was stopped comes when another one goes on


def settings(number, secrets):
    """Return a configuration; all that can be replaced in it is another than in the one before."""
    secrets.write_text(f"{number:032x}\n{number + 1:032x}\n")
    zones = [{"name": f"z{n}.test", "ttl": {"max": 1 + number % 60}} for n in range(10 + number % 3)]
    return {
        "forward": PATIENT,
        "zones": [*zones, {"name": "kept.test"}] if number % 2 else zones,
        "cookies": {"mode": "serve" if number % 2 else "off", "secret_file": str(secrets)},
        "proxy_protocol_from": [f"192.0.2.{number % 256}"],
        "minimal_any": bool(number % 2),
        "client_subnet": {"add": number % 2 == 1},
        "guard": {
            "rate_limits": [{"queries_per_second": 1e6 - number, "window": BURST}],
            "rrl": {"responses_per_second": 1e6 - number, "window": BURST},
            "access": {"deny": [f"198.51.100.{number % 256}"]},
        },
        "rules": [
            {"match": {"suffix": f"x{number}.test"}, "action": "refused"},
            {"match": {"rate": {"limit": 1e6 - number}}, "action": {"tag": "fast"}},
            {"chain": "cache-hits", "match": {"suffix": f"y{number}.test"}, "action": "allow"},
        ],
    }


class Changing(threading.Thread):
    """Changes the settings of a shield over and over, until it is told to end."""

    def __init__(self, shield, upstream, secrets):
        super().__init__(name="changing")
        self.count = 0
        self._shield, self._secrets = shield, secrets
        self._where = {"listen": [str(shield.address)], "upstreams": [str(upstream.address)], "workers": WORKERS}
        self._over = threading.Event()

    def run(self):
        while not self._over.wait(EVERY):
            self.count += 1
            told = toml(**self._where, **settings(self.count, self._secrets))
            write(self._shield.folder / "funkenshield.toml", told)
            self._shield.process.send_signal(signal.SIGHUP)
            block = {"command": "block add", "prefix": f"203.0.113.{self.count % 256}", "seconds": 1}
            assert request(self._shield, json.dumps(block).encode()) == [{"ok": True}]

    def end(self):
        self._over.set()
        self.join()


def test_settings_change_under_load_while_threads_are_stopped(tmp_path):
    hot, cold, secrets = tmp_path / "hot", tmp_path / "cold", tmp_path / "secrets"
    hot.write_text("".join(f"h{n}.{zone}.test A\n" for n in range(50) for zone in ("kept", "z1", "other")))
    cold.write_text("".join(f"m{n}.kept.test A\n" for n in range(2 * SECONDS * MISSES)))
    with (
        ScriptedUpstream(large) as upstream,
        run_shield([upstream], workers=WORKERS, toml=toml(**settings(0, secrets))) as shield,
    ):
        changing = Changing(shield, upstream, secrets)
        changing.start()
        loads = [perf(shield, hot, HITS, SECONDS), perf(shield, cold, MISSES, SECONDS)]
        while any(load.poll() is None for load in loads):
            time.sleep(GOING)
            shield.process.send_signal(signal.SIGSTOP)
            time.sleep(STOPPED)
            shield.process.send_signal(signal.SIGCONT)
        changing.end()
        reports = [json.loads(load.communicate()[0]) for load in loads]
        counted = stats(shield)
    for report in reports:
        assert (report["lost"], set(report["rcodes"])) == (0, {"NOERROR"})
    assert sum(report["answered"] for report in reports) > SECONDS * HITS / 4
    assert counted["cache_hits"] > SECONDS * HITS / 10
    assert min(changing.count, counted["reloads"]) > 10

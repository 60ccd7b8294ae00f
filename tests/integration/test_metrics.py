"""Show that Prometheus reads what it wants to read, and that whoever asks is told whether the shield serves."""

import shutil
import socket
import subprocess
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support import forked
from support.client import Address, ask, free_port
from support.process import run_shield
from support.upstream import ScriptedUpstream, answer

from funkenshield import __version__
from funkenshield.core._latency_histogram import LATENCY_BOUNDS
from funkenshield.upstream.health import STATES


def get(where, path):
    """Return status and body of a page."""
    try:
        with urllib.request.urlopen(f"http://{where}{path}", timeout=5) as page:
            return page.status, page.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def scraped():
    """Return where a shield is scraped, and two addresses: one has a name, one has none and is asked in two ways."""
    where = Address("127.0.0.1", free_port())
    with ScriptedUpstream(lambda query: answer(query, "A 192.0.2.1")) as one:
        other = Address("127.0.0.1", free_port())
        toml = (
            f'metrics.listen = "{where}"\n[[upstreams]]\nname = "ams"\naddress = "{one.address}"\n'
            f'[[upstreams]]\naddress = "{other}"\nstate = "down"\n'
            f'[[upstreams]]\naddress = "{other}"\ntransport = "tcp"\nstate = "down"\n'
            '[[rules]]\nmatch = {}\naction = "continue"\n'
        )
        with run_shield([], toml=toml) as shield:
            for tcp in (False, False, True):
                assert ask("www.test.", server=shield, tcp=tcp).answer
            yield where, str(one.address), str(other)


def samples_of(page):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_each_upstream_has_name_and_address_and_all_states_are_always_there(scraped):
    where, one, other = scraped
    status, page = get(where, "/metrics")
    assert status == 200
    found = samples_of(page)
    down = "down (forced)"
    for name, address, state in (("ams", one, "up"), (other, other, down), (f"tcp://{other}", other, down)):
        labels = (("address", address), ("upstream", name))
        states = {each: found["funkenshield_upstream_state", labels[0], ("state", each), labels[1]] for each in STATES}
        assert states == dict.fromkeys(STATES, 0) | {state: 1}
        assert found["funkenshield_upstream_up", *labels] == (state == "up")
        assert found["funkenshield_upstream_latency_seconds_count", *labels] == (state == "up")
    ams = ("address", one), ("upstream", "ams")
    assert 0 < found["funkenshield_upstream_latency_seconds_sum", *ams] < 5
    assert found["funkenshield_upstream_responses_total", ams[0], ("rcode", "NOERROR"), ams[1]] == 1
    assert not any(("upstream", other) in key for key in found if key[0] == "funkenshield_upstream_responses_total")


def test_latencies_are_histograms_with_the_same_buckets_everywhere(scraped):
    found = samples_of(get(scraped[0], "/metrics")[1])
    kinds = {key[0] for key in found if any(label == "le" for label, _ in key[1:])}
    assert kinds == {f"funkenshield_{each}_seconds_bucket" for each in ("cache_miss_latency", "upstream_latency")}
    histograms = {}
    for key, count in found.items():
        if key[0] in kinds:
            labels = dict(key[1:])
            histograms.setdefault((key[0], labels.get("upstream")), {})[float(labels["le"])] = count
    assert len(histograms) == 4  # of misses, and of three upstreams
    for (_, upstream), buckets in histograms.items():
        assert sorted(buckets) == [*LATENCY_BOUNDS, float("inf")]
        counts = [buckets[bound] for bound in sorted(buckets)]
        assert counts == sorted(counts)
        assert (counts[-2], counts[-1]) == ((1, 1) if upstream in (None, "ams") else (0, 0))


def test_queries_are_counted_by_transport_and_the_process_is_described(scraped):
    found = samples_of(get(scraped[0], "/metrics")[1])
    assert found["funkenshield_queries_total", ("transport", "udp")] == 2
    assert found["funkenshield_queries_total", ("transport", "tcp")] == 1
    assert abs(found["funkenshield_start_time_seconds",] - found["process_start_time_seconds",]) < 60
    for transport, count in (("udp", 2), ("tcp", 1)):
        for rcode, sent in (("NOERROR", count), ("SERVFAIL", 0), ("NXDOMAIN", 0), ("REFUSED", 0)):
            assert found["funkenshield_responses_total", ("rcode", rcode), ("transport", transport)] == sent
    assert found["funkenshield_build_info", ("version", __version__)] == 1
    assert found["process_resident_memory_bytes",] > 1 << 20
    assert found["process_start_time_seconds",] > 1e9
    assert found["process_cpu_seconds_total",] > 0


def test_promtool_has_nothing_to_say(scraped):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not there; tools/install-nameservers installs it")
    page = get(scraped[0], "/metrics")[1]
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [("/healthz", 200, "ok\n"), ("/healthz?x", 200, "ok\n"), ("/", 404, ""), ("/metrics/x", 404, "")],
)
def test_a_page_is_what_it_is_and_nothing_else(scraped, path, status, body):
    assert get(scraped[0], path) == (status, body)


def test_without_tcp_there_are_numbers_too():
    with (
        ScriptedUpstream(lambda query: answer(query, "A 192.0.2.1")) as upstream,
        run_shield([upstream], toml="tcp.max_connections = 0") as shield,
    ):
        assert ask("name.test.", server=shield).answer
        counted = shield.stats()
        assert (counted["tcp_accepted"], counted["queries_by_transport"]) == (
            0,
            {"udp": 1} | dict.fromkeys(("tcp", "tls", "https", "http", "quic", "h3"), 0),
        )


def test_where_it_is_scraped_and_whether_there_is_a_page_follows_the_file():
    one, other = (Address("127.0.0.1", free_port()) for _ in range(2))
    with (
        ScriptedUpstream(lambda query: answer(query, "A 192.0.2.1")) as upstream,
        run_shield([upstream], toml="") as shield,
        socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        file = shield.folder / "funkenshield.toml"
        text = file.read_text()

        def reload(more):
            file.write_text(f"{text}\n{more}")
            return shield.command("reload")

        reload(f'metrics.listen = "{one}"')
        assert (get(one, "/ready")[0], get(one, "/")[0]) == (200, 404)
        reload(f'metrics.listen = "{one}"\nweb.page = true')
        assert (get(one, "/ready")[0], get(one, "/")[0]) == (200, 200)
        reload(f'metrics.listen = "{other}"')
        assert get(other, "/ready")[0] == 200
        with pytest.raises(urllib.error.URLError):
            get(one, "/ready")
        file.write_text(f'{text}\nmetrics.listen = "127.0.0.1:{taken.getsockname()[1]}"')
        done = forked.command("reload", "--control", shield.control)
        assert (done.returncode, "cannot listen on" in done.stderr) == (1, True)
        assert get(other, "/ready")[0] == 200, "nothing has changed"
        reload("")
        with pytest.raises(urllib.error.URLError):
            get(other, "/ready")

"""Other people's clients on the other end of a wire: what they say that they got, and what the shield counted."""

import os
import re
import subprocess
from contextlib import ExitStack

import pytest
from support import quick
from support.control import stats
from support.in_kernel import PROGRAMS, InKernel
from support.process import run_shield
from support.rig import numbered
from support.until import until
from support.upstream import ScriptedUpstream

from xdp.wires import HERE, HERE_6, SERVER, SERVER_6, Wire, listener

HIT = quick.query("hit.test", quick.A)
NAMES = [f"n{number}.test" for number in range(20)]
RATE = 2000
COUNTED = "queries", "cache_hits", "cache_misses", "kernel_answers"


@pytest.fixture(params=["false", "true"], ids=["workers", "kernel"])
def running(request):
    """Yield a wire and a shield, whose kernel answers or does not; all that is asked for is in the cache."""
    with Wire() as wire, wire.near.entered(), ScriptedUpstream(numbered(1)) as upstream:
        toml = listener(wire.name, SERVER, SERVER_6, kernel_answers=request.param)
        with run_shield([upstream], toml=toml) as shield:
            for name in NAMES:
                wire.ask(quick.query(name, quick.A))
            yield wire, shield, request.param == "true"


@pytest.fixture
def listening(running):
    """Attach a program at the clients' end: else a veth keeps what the other end's program sends."""
    wire, *_ = running
    with ExitStack() as stack, wire.far.entered():
        stack.callback(os.close, InKernel(stack, PROGRAMS / "queries.bpf.o", "take_queries").attach(wire.name))
        yield


def said(wire, *command):
    """Run a client at the other end; return what it says."""
    with wire.far.entered():
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def counts_since(shield, before):
    after = stats(shield)
    return {name: after[name] - before[name] for name in COUNTED}


def numbers(pattern, text):
    return [int(each) for each in re.findall(pattern, text)]


@pytest.mark.parametrize("server", [HERE, HERE_6], ids=["IPv4", "IPv6"])
def test_kxdpgun_gets_all_answers(running, tmp_path, server):
    """It is fast: it has frames itself, at the other end."""
    wire, shield, in_kernel = running
    queries = tmp_path / "queries"
    queries.write_text("".join(f"{name} A\n" for name in NAMES))
    before = stats(shield)
    told = said(wire, "kxdpgun", "-t", "1", "-Q", str(RATE), "-i", queries, server)
    (sent,), (replies,) = numbers(r"total queries: +(\d+)", told), numbers(r"total replies: +(\d+)", told)
    counted, frames = counts_since(shield, before), stats(shield)["xdp_frames"][wire.name]
    came = counted["queries"]
    assert RATE // 4 < sent // 2 < replies <= came <= sent, "a wire, and it, lose some where they have no processor"
    assert numbers(r"responded NOERROR: +(\d+)", told) == [replies]
    assert counted == {**counted, "cache_hits": came, "cache_misses": 0}
    assert counted["kernel_answers"] > came // 2 if in_kernel else counted["kernel_answers"] == 0
    by_workers = came - counted["kernel_answers"]
    assert {name: count - before["xdp_frames"][wire.name][name] for name, count in frames.items()} == {
        "received": by_workers, "sent": by_workers, "ignored": 0, "dropped": 0
    }  # fmt: skip


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize("options", [(), ("-e", "-D"), ("-E", "10:386f637465747321")], ids=["plain", "DO", "cookie"])
def test_dnsperf_gets_all_answers(running, tmp_path, options):
    wire, shield, in_kernel = running
    queries = tmp_path / "queries"
    queries.write_text("".join(f"{name} A\nnothing.{name} AAAA\n" for name in NAMES))
    said(wire, "dnsperf", "-s", HERE, "-d", queries, "-n", "1", *options)  # into the cache
    before = stats(shield)
    told = said(wire, "dnsperf", "-s", HERE, "-d", queries, "-n", "50", "-Q", str(RATE), *options)
    sent = 50 * 2 * len(NAMES)
    assert numbers(r"Queries (?:sent|completed|lost): +(\d+)", told) == [sent, sent, 0]
    assert re.search(r"Response codes: +NOERROR \d+ \(100.00%\)", told)
    counted = counts_since(shield, before)
    assert counted == {**counted, "queries": sent, "cache_hits": sent, "cache_misses": 0}
    if in_kernel and "-E" not in options:
        assert counted["kernel_answers"] > sent // 2
    else:
        assert counted["kernel_answers"] == 0


@pytest.mark.usefixtures("listening")
def test_dig_reads_what_comes(running):
    wire, shield, in_kernel = running
    if in_kernel:
        before = stats(shield)["kernel_answers"]
        until(lambda: wire.ask(HIT) and stats(shield)["kernel_answers"] > before)
    wire.ask(HIT)
    for server in HERE, HERE_6:
        for options in (
            ("+noedns",), ("+nocookie",), ("+nocookie", "+dnssec"), ("+qr",), ("+norecurse",), ("+cdflag", "+noad"),
            ("+subnet=198.51.100.0/24",), ("+padding=128",), ("+tcp",),
        ):  # fmt: skip
            told = said(wire, "dig", f"@{server}", "hIt.TesT", "A", "+tries=1", *options)
            assert re.search(r"^hIt\.TesT\.\s+\d+\s+IN\s+A\s+192\.0\.2\.1$", told, re.M), told
            assert "status: NOERROR" in told
            assert not re.search("malformed|mismatch|[Ww]arning", told), told
            assert (re.search(r"^; COOKIE: .*\(good\)$", told, re.M) is None) == (
                options[0] in ("+noedns", "+nocookie")
            )

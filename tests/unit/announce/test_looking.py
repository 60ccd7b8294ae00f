"""What can be seen of a shield and its neighbours: over DNS, by `/ready`, by files."""

import asyncio
import contextlib
import logging
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import dns.flags
import dns.message
import pytest
from support.client import free_port
from support.upstream import ScriptedUpstream, answer, nodata, respond, servfail

from funkenshield.announce import looking
from funkenshield.announce.decision import Seen
from funkenshield.announce.looking import asked_addresses, look
from funkenshield.config import Config
from funkenshield.core.logs import RateLimited

WELL = Seen()
SOA = "SOA a. b. 1 2 3 4 5"


def wrong_answers(query):
    """Answer at last, after what cannot be meant."""
    other = answer(query, SOA)
    other.id ^= 1
    elsewhere = dns.message.make_response(dns.message.make_query("example.", "SOA", id=query.message.id))
    return [b"", b"garbage", other, query.message, elsewhere, answer(query, SOA)]


@pytest.fixture
def ready():
    """Return where `/ready` is asked for, as text, and a list of one: the status that it says."""
    statuses = [200]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.path == "/ready"
            self.send_response(statuses[0])
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}", statuses
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def nodes(*scripts):
    """Yield the addresses of servers that answer by these scripts, as text."""
    with contextlib.ExitStack() as stack:
        yield [str(stack.enter_context(ScriptedUpstream(each)).address) for each in scripts]


def soa(query):
    return answer(query, SOA)


def seen(ready, addresses, *, announced=True, **section):
    config = Config(
        metrics={"listen": ready[0]}, lame_duck=60,
        announce={"engine": "bird", "protocols": "a", "addresses": addresses, "timeout": 0.3, **section},
    )  # fmt: skip
    return asyncio.run(look(config, announced=announced))


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (soa, ""),
        (wrong_answers, ""),
        (servfail, r"^127.0.0.1:\d+ has no answer for \. SOA: SERVFAIL$"),
        (nodata, r"has no answer for \. SOA: NOERROR$"),
        (lambda query: respond(query, flags=dns.flags.TC), r": TC=1$"),
        (lambda query: None, r"^127.0.0.1:\d+ does not answer within 0.3 s$"),
    ],
)
def test_an_answer_is_good_or_it_says_why_not(ready, script, said):
    with nodes(soa, script) as addresses:
        found = seen(ready, addresses)
    assert (found.leaving, found.last) == ("", False)
    assert re.search(said, found.trouble) if said else found == WELL


def test_where_nobody_listens_it_cannot_be_asked(ready):
    assert "cannot be asked: Connection refused" in seen(ready, [f"127.0.0.1:{free_port()}"]).trouble


def test_ready_says_that_it_is_about_to_end(ready):
    with nodes(soa) as addresses:
        ready[1][0] = 503
        assert seen(ready, addresses).leaving == f"the shield is about to end, as {ready[0]} says"
        ready[1][0] = 421
        assert seen(ready, addresses) == Seen(trouble=f"not ready: {ready[0]} says 421")
        nowhere = f"127.0.0.1:{free_port()}"
        assert "Connection refused" in seen([nowhere], addresses).trouble


def test_files_of_operators_withdraw_and_keep(ready, tmp_path):
    withdraw, keep = tmp_path / "withdraw", tmp_path / "keep"
    with nodes(soa) as addresses:
        files = {"withdraw_file": str(withdraw), "keep_file": str(keep)}
        assert seen(ready, addresses, **files) == WELL
        withdraw.touch()
        assert seen(ready, addresses, **files) == Seen(leaving=f"{withdraw} is there")
        keep.touch()
        assert seen(ready, addresses, **files).last


def test_a_file_that_cannot_be_looked_for_is_a_line_in_the_log(ready, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(looking, "limited", RateLimited(logging.getLogger("test")))
    beyond = str(tmp_path / ("a" * 300))
    (tmp_path / "file").touch()
    with nodes(soa) as addresses:
        assert seen(ready, addresses, withdraw_file=beyond, keep_file=str(tmp_path / "file" / "none")) == WELL
    assert caplog.messages == [f"announce: whether {beyond} is there cannot be seen: File name too long"]


def test_others_are_asked_where_it_matters_and_one_that_answers_is_enough(ready):
    with nodes(soa, servfail, soa, servfail) as (good, bad, peer, silent):
        assert not seen(ready, [bad], peers=[silent, peer]).last
        assert seen(ready, [bad], peers=[silent, f"127.0.0.1:{free_port()}"]).last
        assert not seen(ready, [bad]).last  # who has not been told of others does not know
        assert seen(ready, [good], peers=[silent]) == WELL
        assert seen(ready, [good], peers=[silent], announced=False) == Seen(last=True)


def test_by_default_what_it_listens_on_is_asked():
    listen = ["0.0.0.0:5301", "[::]:5302", "192.0.2.1:5303"]
    assert list(map(str, asked_addresses(Config(listen=listen)))) == ["127.0.0.1:5301", "[::1]:5302", "192.0.2.1:5303"]
    chosen = {"addresses": "192.0.2.53:53"}
    assert list(map(str, asked_addresses(Config(listen=listen, announce=chosen)))) == ["192.0.2.53:53"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"announce": {"engine": "exabgp"}}, 'routes: none, and engine = "exabgp" needs some'),
        ({"announce": {"engine": "bird"}}, 'protocols: none, and engine = "bird" needs some'),
        ({"announce": {"hold": 60, "hold_max": 30}}, r"hold_max \(30 s\) is less than hold \(60 s\)"),
        ({"announce": {"attributes": "med 1\nshutdown"}}, "attributes"),
        ({"announce": {"next_hop": "self\nshutdown"}}, "next_hop"),
        ({"announce": {"protocols": "a; down"}}, "protocols"),
        ({"announce": {"engine": "bird", "protocols": "a"}, "lame_duck": 9}, "announce: metrics.listen: none"),
        (
            {"announce": {"engine": "bird", "protocols": "a"}, "lame_duck": 1, "metrics": {"listen": "127.0.0.1:9"}},
            "lame_duck: 1 s; routes are withdrawn up to 2 s",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(config, said):
    with pytest.raises(ValueError, match=said):
        Config.model_validate(config)

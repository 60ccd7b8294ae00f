"""Show the web page's API of a real shield: what it tells is what happened, and what it changes is changed."""

import contextlib
import http.client
import json

import pytest
from support.client import Address, free_port
from support.process import run_shield
from support.rig import answering, ask, data, received
from support.upstream import ScriptedUpstream

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Return a shield, its upstream, and where its page is."""
    where = Address("127.0.0.1", free_port())
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    toml = f"""
        metrics.listen = "{where}"
        web = {{page = true, token_file = "{token}"}}
        upstreams = [{{name = "<b>one</b>", address = "UPSTREAM"}}]
        zones = [{{name = "page.test"}}]
        [[rules]]
        name = "never"
        match = {{name = "never.test"}}
        action = "nxdomain"
    """
    with (
        ScriptedUpstream(answering("192.0.2.1")) as upstream,
        run_shield([], toml=toml.replace("UPSTREAM", str(upstream.address))) as shield,
    ):
        yield shield, upstream, where


def request(where, path, body=None, *, token=None, host=None):
    """Return the status and the JSON of an answer."""
    with contextlib.closing(http.client.HTTPConnection(*where, timeout=10)) as connection:
        headers = {"Host": host or str(where)} | ({"Authorization": f"Bearer {token}"} if token else {})
        if body is None:
            connection.request("GET", path, headers=headers)
        else:
            connection.request("POST", path, json.dumps(body), headers | {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def events(where, count):
    """Return the first events of the stream, as pairs of name and value."""
    found = []
    with contextlib.closing(http.client.HTTPConnection(*where, timeout=10)) as connection:
        connection.request("GET", "/api/live")
        answer = connection.getresponse()
        assert answer.getheader("Content-Type") == "text/event-stream"
        while len(found) < count:
            line = answer.readline().decode()
            if line.startswith("event: "):
                found.append((line.removeprefix("event: ").strip(), json.loads(answer.readline()[len("data: ") :])))
    return found


def test_the_stream_tells_the_hour_and_then_what_happens(shown):
    shield, _, where = shown
    for name in ("a.test", "a.test", "never.test"):
        ask(shield, name)
    (first, hour), (second, now), (third, later) = events(where, 3)
    assert (first, second, third) == ("history", "now", "now")
    assert (hour["interval"], hour["columns"][0]) == (5.0, "time")
    assert now["totals"]["queries"] >= 3
    assert now["upstreams"][0] | {"name": "<b>one</b>", "state": "up", "up": True} == now["upstreams"][0]
    assert [each["name"] for each in now["zones"]] == ["page.test"]
    assert (now["rules"][0]["name"], now["rules"][0]["matches"]) == ("never", 1)
    assert 0.5 < later["time"] - now["time"] < 5


def test_what_is_told_here_is_what_the_command_line_tells(shown):
    shield, _, where = shown
    status, told = request(where, "/api/stats")
    assert (status, told["stats"].keys()) == (200, shield.stats().keys())
    for path, command in (
        ("/api/rules/list", ["rules", "list"]), ("/api/upstream/list", ["upstream", "list"]),
        ("/api/explain?name=never.test", ["explain", "never.test"]),
    ):  # fmt: skip
        status, told = request(where, path)
        assert status == 200
        assert told.keys() <= json.loads(shield.command(*command, "--json")).keys() | {"ok", "version"}


def test_a_purge_takes_the_token_and_is_in_force_when_it_is_answered(shown):
    shield, upstream, where = shown
    for name in ("one.page.test", "one.page.test"):
        assert data(ask(shield, name)) == ["192.0.2.1"]
    for token, status in ((None, 401), (TOKEN[1:], 401), (TOKEN, 200)):
        assert request(where, "/api/purge", {"name": "page.test", "below": True}, token=token)[0] == status
        ask(shield, "one.page.test")
        assert received(upstream)["one.page.test."] == (2 if status == 200 else 1)


def test_mistakes_are_told_and_change_nothing(shown):
    _, _, where = shown
    for path, body, text in (
        ("/api/purge", {}, "name"), ("/api/purge", {"name": "a..b"}, "purge"),
        ("/api/block/add", {"prefix": "x", "seconds": 5}, "x"), ("/api/upstream/down", {"name": "none"}, "none"),
        ("/api/purge", {"name": "a.test", "elsewhere": 1}, "elsewhere"),
    ):  # fmt: skip
        status, told = request(where, path, body, token=TOKEN)
        assert status == 400, (path, body, told)
        assert text in told["error"]


def test_it_is_steered_and_shows_it(shown):
    shield, _, where = shown
    assert request(where, "/api/block/add", {"prefix": "203.0.113.0/24", "seconds": 60}, token=TOKEN)[0] == 200
    assert request(where, "/api/rules/disable", {"name": "never"}, token=TOKEN)[0] == 200
    assert data(ask(shield, "never.test")) == ["192.0.2.1"]
    assert request(where, "/api/reload", {}, token=TOKEN)[1]["reloaded"] is True
    (_, _), (_, now) = events(where, 2)
    assert [each["prefix"] for each in now["blocks"]] == ["203.0.113.0/24"]


def test_who_comes_by_a_name_that_is_not_ours_gets_nothing(shown):
    _, _, where = shown
    assert request(where, "/api/stats", host="rebound.test")[0] == 421
    for host, status in (("rebound.test", 421), (str(where), 200)):
        with contextlib.closing(http.client.HTTPConnection(*where, timeout=10)) as connection:
            connection.request("GET", "/metrics", headers={"Host": host})
            answer = connection.getresponse()
            assert answer.status == status
            assert (b"funkenshield_queries_total" in answer.read()) == (status == 200)

"""Show who gets what over HTTP: the page in a cage, the API with a token, and strangers' pages nothing."""

import asyncio
import json
import logging
import re
from pathlib import Path

import pytest
from support.shown import Clock, Steered

from funkenshield.core.logs import RateLimited
from funkenshield.errors import ConfigError
from funkenshield.web import access, api, site
from funkenshield.web.budget import BURST, SHARE, Budget
from funkenshield.web.http import Request

TOKEN = "0123456789abcdef"
PAGE = Path(site.__file__).with_name("page")


@pytest.fixture
def token(tmp_path):
    """Return the path of a token's file."""
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


def a_site(token=None, **web):
    shield = Steered({"token_file": str(token or ""), **web})
    return site.Site(shield, shield.handle, {"/ready": lambda: True, "/live": lambda: False}), shield


def ask(asked, path, *, method="GET", body=None, host="127.0.0.1:8055", token=None, prefix=b"", **fields):
    """Return a site's answer."""
    headers = ({} if host is None else {"host": host}) | {
        name.replace("_", "-"): value for name, value in fields.items()
    }
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    if body is not None:
        headers.setdefault("content-type", "application/json")
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
    path, _, query = path.partition("?")
    return asyncio.run(asked.respond(Request(method, path, query, headers, body or b"", "192.0.2.1", prefix)))


# ---------------------------------------------------------------- the page


@pytest.mark.parametrize("path", ["/", *site.FILES, "/api/overview", "/api/none", "/none", "/ready", "/live"])
def test_every_answer_is_in_the_same_cage(path):
    found = ask(a_site()[0], path).headers
    directives = dict(each.split(None, 1) for each in found["Content-Security-Policy"].split("; "))
    assert directives["default-src"] == "'none'"
    assert {directives[f"{kind}-src"] for kind in ("script", "style", "img", "connect")} == {"'self'"}
    assert {directives[each] for each in ("frame-ancestors", "base-uri", "form-action")} == {"'none'"}
    assert found["X-Content-Type-Options"] == "nosniff"
    assert not any(name.lower().startswith("access-control-") for name in found)


def test_the_page_needs_nothing_that_its_cage_forbids():
    page = (PAGE / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|https?://|<script(?![^>]*\bsrc=)", page)
    for path in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert ask(a_site()[0], f"/{path}").status == 200 or path == "metrics"


def test_no_text_of_strangers_becomes_markup():
    for path in PAGE.glob("*.js"):
        text = path.read_text()
        for forbidden in (
            "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "srcdoc",
            "DOMParser", "createContextualFragment", "setHTML", "javascript:", "http://", "https://",
        ):  # fmt: skip
            assert forbidden not in text.replace("http://www.w3.org/2000/svg", ""), (path.name, forbidden)


def test_every_file_of_the_page_is_served_with_its_kind():
    asked = a_site()[0]
    assert {name for name, _ in site.FILES.values()} == {path.name for path in PAGE.iterdir()}
    for path, (name, kind) in site.FILES.items():
        found = ask(asked, path)
        assert (found.status, found.kind, found.body) == (200, kind, (PAGE / name).read_bytes())
    assert ask(asked, "/", method="POST").status == 405
    assert ask(asked, "/../site.py").status == 404


def test_where_the_page_is_off_there_are_metrics_and_probes_alone():
    asked = a_site(page=False)[0]
    assert [ask(asked, path).status for path in ("/", "/page.js", "/api/overview", "/ready", "/live")] == [
        404, 404, 404, 200, 503,
    ]  # fmt: skip
    assert ask(asked, "/ready", method="POST").status == 405


# ---------------------------------------------------------------- strangers' pages


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8055",
        "[::1]:8055",
        "192.0.2.1:80",
        "localhost",
        "LocalHost:8055",
        "ns.test",
        "ns.test.:1",
    ],
)
def test_browsers_may_come_by_addresses_and_names_that_are_configured(host):
    assert ask(a_site(host_names=["NS.test"])[0], "/", host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.test",
        "localhost.evil.test",
        "127.0.0.1.evil.test",
        "127.1:80",
        "0x7f.1",
        "a@127.0.0.1",
        "[::1",
        "127.0.0.1:x",
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/overview", "/api/explain", "/metrics"])
def test_a_name_that_somebody_else_has_pointed_at_us_is_refused(host, path):
    assert ask(a_site(host_names=["ns.test"])[0], path, host=host).status == 421


def test_who_asks_for_a_name_that_is_not_configured_is_in_the_log_once_a_minute(caplog, monkeypatch):
    monkeypatch.setattr(access, "limited", RateLimited(logging.getLogger(access.__name__)))
    asked = a_site(page=False, host_names=["ns.test"])[0]
    for host in ("shield.example.net:9153", "other.test", "ns.test", "127.0.0.1", None):
        ask(asked, "/metrics", host=host)
    told = "which gets 421; if it is one of ours, set web.host_names"
    assert caplog.messages == [f"web: 192.0.2.1 asked for the host 'shield.example.net:9153', {told}"]


def test_no_name_makes_a_long_line_in_the_log_or_two(caplog, monkeypatch):
    monkeypatch.setattr(access, "limited", RateLimited(logging.getLogger(access.__name__)))
    ask(a_site()[0], "/", host=f"\n\x1b[2J{'x' * 5000}")
    (line,) = caplog.messages
    assert line.isprintable()
    assert len(line) < 400


def test_a_name_of_somebody_else_gets_no_metrics_where_there_is_no_page_either():
    asked = a_site(page=False, host_names=["shield.internal"])[0]
    assert [ask(asked, "/metrics", host=host).status for host in ("evil.test", "shield.internal:9153", None)] == [
        421, 200, 200,
    ]  # fmt: skip


def test_probes_may_come_by_any_name_for_they_tell_nothing():
    assert ask(a_site()[0], "/ready", host="shield.internal").status == 200


def test_the_machines_own_name_needs_no_configuration(monkeypatch):
    monkeypatch.setattr(site.socket, "gethostname", lambda: "NS1")
    asked = a_site()[0]
    assert [ask(asked, path, host="ns1:8055").status for path in ("/", "/metrics", "/api/stats")] == [200] * 3


BROWSER = "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0"


@pytest.mark.parametrize(
    "fields",
    [
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"},
        {"sec_fetch_site": "same-site", "sec_fetch_mode": "no-cors", "x_funkenshield": "page"},
        {"origin": "http://evil.test"},
        {"origin": "null"},
        {"origin": "http://192.0.2.9:8055"},
        {"origin": "http://localhost:3000"},
        {"user_agent": BROWSER},
    ],
)
def test_what_another_sites_page_asks_for_costs_nothing(fields):
    asked, shield = a_site()
    read = []
    asked.monitor._read = lambda: read.append(1) or shield.counted
    for path in ("/api/stats", "/api/overview", "/api/live", "/api/explain?name=a.test", "/api/openapi.json"):
        for _ in range(5):
            assert ask(asked, path, host="192.0.2.1:8055", **fields).status == 403, path
    assert (shield.requests, read, asked._api._budget._owed) == ([], [], {})


@pytest.mark.parametrize(
    "fields",
    [
        {"sec_fetch_site": "same-origin", "user_agent": BROWSER},
        {"origin": "http://192.0.2.1:8055", "user_agent": BROWSER},
        {"origin": "https://shield.test", "user_agent": BROWSER},
        {"x_funkenshield": "page", "user_agent": BROWSER},
        {"user_agent": "curl/8.0"},
        {},
    ],
)
def test_the_page_itself_and_machines_may_ask(fields):
    asked = a_site(host_names=["shield.test"])[0]
    assert ask(asked, "/api/stats", host="192.0.2.1:8055", **fields).status == 200


def test_the_page_sends_the_field_that_other_sites_cannot():
    assert '"X-FunkenShield"' in (PAGE / "live.js").read_text()
    assert access.OURS == "x-funkenshield"


@pytest.mark.parametrize("comes_from", ["cross-site", "same-site"])
def test_pages_of_other_sites_get_nothing(comes_from, token):
    asked, shield = a_site(token)
    for path in ("/", "/page.js", "/api/overview", "/api/stats", "/metrics"):
        assert ask(asked, path, sec_fetch_site=comes_from, sec_fetch_mode="no-cors").status == 403
    assert ask(asked, "/api/purge", method="POST", body={}, token=TOKEN, sec_fetch_site=comes_from).status == 403
    assert ask(asked, "/", sec_fetch_site=comes_from, sec_fetch_mode="navigate").status == 200, "a link"
    assert ask(asked, "/api/purge", method="OPTIONS", origin="http://evil.test").status == 403
    assert shield.requests == []


# ---------------------------------------------------------------- the token


def test_what_changes_something_takes_the_token(token):
    asked, shield = a_site(token)
    for wrong in (None, "", "x", TOKEN[:-1], TOKEN + "0", TOKEN.upper(), "\xff" * 16):
        found = ask(asked, "/api/purge", method="POST", body={"name": "a.test"}, token=wrong)
        assert (found.status, found.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert ask(asked, "/api/purge", method="POST", body={}, authorization=f"Basic {TOKEN}").status == 401
    assert ask(asked, f"/api/purge?token={TOKEN}", method="POST", body={}, cookie=f"token={TOKEN}").status == 401
    assert shield.requests == []
    found = ask(asked, "/api/purge", method="POST", body={"name": "a.test", "below": True}, token=TOKEN)
    assert (found.status, json.loads(found.body)) == (200, {"done": "purge"})
    assert shield.requests == [{"command": "purge", "name": "a.test", "below": True}]


def test_without_a_token_nothing_can_be_changed():
    asked, shield = a_site()
    for given in (None, "", "undefined"):
        assert ask(asked, "/api/purge", method="POST", body={"name": "a.test"}, token=given).status == 403
    assert shield.requests == []


def test_reading_is_open_unless_it_is_not(token):
    assert ask(a_site(token)[0], "/api/stats").status == 200
    asked = a_site(token, open_reading=False)[0]
    for path in ("/api/stats", "/api/overview", "/api/history", "/api/live", "/api/openapi.json"):
        assert ask(asked, path).status == 401
        assert ask(asked, path, token=TOKEN).status == 200
    assert ask(asked, "/").status == 200, "which has nothing to tell"


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        ("short", 0o600, "not a token"),
        ("", 0o600, "not a token"),
        ("with a space in it, and long", 0o600, "not a token"),
        (TOKEN, 0o644, "everybody may read it"),
        (None, 0, "No such file"),
    ],
)
def test_a_token_that_is_none_is_a_mistake(tmp_path, text, mode, why):
    path = tmp_path / "token"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    with pytest.raises(ConfigError, match=f"^web.token_file: .*{why}"):
        a_site(path)


def test_who_guesses_a_token_is_in_the_log(token, caplog, monkeypatch):
    monkeypatch.setattr(access, "limited", RateLimited(logging.getLogger(access.__name__)))
    asked, _ = a_site(token)
    for guess in (TOKEN, None, "0" * 16, "1" * 16):
        ask(asked, "/api/purge", method="POST", body={}, token=guess)
    assert caplog.messages == ["web page: wrong token from 192.0.2.1"]


def test_tokens_are_compared_in_constant_time(token, monkeypatch):
    compared = []
    monkeypatch.setattr(access.hmac, "compare_digest", lambda *both: compared.append(both) or False)
    assert ask(a_site(token)[0], "/api/purge", method="POST", body={}, token=TOKEN).status == 401
    assert [len(each) for each in compared[0]] == [32, 32], "digests: their length tells nothing"


# ---------------------------------------------------------------- the API


def test_members_of_a_query_are_what_the_command_takes():
    asked, shield = a_site()
    found = ask(asked, "/api/explain?name=a%20b.test&type=1&edns=false&flags=RD&flags=CD&subnet=")
    assert found.status == 200
    assert shield.requests == [
        {"command": "explain", "name": "a b.test", "type": "1", "edns": False, "flags": ["RD", "CD"], "subnet": ""}
    ]


@pytest.mark.parametrize(
    "query", ["edns=maybe", "name=%ff", "edns=[[[", "&".join("name=a" for _ in range(99)), "edns=" + "[" * 100_000]
)
def test_a_query_that_makes_no_sense_is_a_mistake_of_who_asks(query):
    asked, shield = a_site()
    found = ask(asked, f"/api/explain?{query}")
    assert (found.status, set(json.loads(found.body))) == (400, {"error"})
    assert shield.requests == []


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"name=a.test", "application/x-www-form-urlencoded"),
        (b'{"name": "a.test"}', "text/plain"),
        (b'{"name": "a.test"}', ""),
        (b"[1]", "application/json"),
        (b"{", "application/json"),
        (b"\xff", "application/json"),
        (b"[" * 10_000, "application/json"),
    ],
)
def test_a_body_that_is_no_json_object_is_a_mistake_of_who_asks(token, body, kind):
    asked, shield = a_site(token)
    found = ask(asked, "/api/purge", method="POST", body=body, token=TOKEN, content_type=kind)
    assert (found.status, set(json.loads(found.body))) == (400, {"error"})
    assert shield.requests == []


def test_what_a_command_refuses_is_told_in_a_line(token):
    found = ask(a_site(token)[0], "/api/purge", method="POST", body={"name": "wrong"}, token=TOKEN)
    assert (found.status, json.loads(found.body)) == (400, {"error": "purge: that is no name"})


def test_no_member_is_taken_for_another_command(token):
    asked, shield = a_site(token)
    ask(asked, "/api/stats?command=purge&name=.")
    ask(asked, "/api/block/list?command=reload")
    assert [each["command"] for each in shield.requests] == ["stats", "block list"]


def test_methods_and_paths_are_those_of_the_description(token):
    asked = a_site(token)[0]
    assert ask(asked, "/api/purge", token=TOKEN).headers["Allow"] == "POST"
    assert ask(asked, "/api/stats", method="POST", body={}, token=TOKEN).headers["Allow"] == "GET, HEAD"
    for path in ("/api/", "/api/advance", "/api/purge/", "/api/block%20list", "/api/block list", "/api"):
        assert ask(asked, path, token=TOKEN).status == 404
        assert ask(asked, path, method="POST", body={}, token=TOKEN).status == 404


def test_who_reads_takes_so_much_of_the_thread_and_no_more(token):
    asked, _ = a_site(token)
    clock, worked = [0.0], [0.0]
    asked._api._budget, asked._api._worked = Budget(lambda: clock[0]), lambda: worked[0]

    async def handle(request):
        worked[0] += 0.0081
        return {}

    asked._api._handle = handle
    found = [ask(asked, "/api/explain?name=a.test").status for _ in range(20)]
    assert found == [200] * 13 + [429] * 7
    assert ask(asked, "/api/purge", method="POST", body={}, token=TOKEN).status == 200, (
        "who may change waits for nobody"
    )
    clock[0] += 100.0
    assert [ask(asked, "/api/stats").status for _ in range(14)] == [200] * 13 + [429]
    clock[0] += 1.0
    assert [ask(asked, "/api/stats").status for _ in range(4)] == [200, 200, 429, 429]
    assert worked[0] <= BURST * 2 + (SHARE * 1.0) + 0.05
    assert ask(asked, "/api/stats", prefix=b"\xc0\0\3").status == 200, "a neighbour"


def test_what_others_do_while_a_command_waits_is_not_charged_to_who_asks():
    asked, _ = a_site()
    clock, worked = Clock(), Clock()
    asked._api._budget, asked._api._worked = Budget(clock), worked

    async def handle(request):
        worked.at += 0.001
        for _ in range(2):
            await asyncio.sleep(0.002)
            worked.at += 0.001
        return {}

    async def others():
        while True:
            worked.at += 0.5
            await asyncio.sleep(0)

    async def story():
        asked._api._handle = handle
        busy = asyncio.create_task(others())
        request = Request("GET", "/api/stats", headers={"host": "localhost"}, prefix=b"one")
        assert (await asked.respond(request)).status == 200
        busy.cancel()

    asyncio.run(story())
    assert worked.at > 101.0
    assert asked._api._budget._owed == {b"one": pytest.approx(0.003)}


def test_a_command_that_is_cancelled_or_fails_ends_and_is_charged():
    spent = []

    async def fails():
        await asyncio.sleep(0)
        raise ValueError("no")

    async def story():
        with pytest.raises(ValueError, match="no"):
            await api.timed(fails(), lambda: 0.0, spent.append)

        async def waits():
            await api.timed(asyncio.sleep(60), lambda: 0.0, spent.append)

        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())
    assert len(spent) == 4


def test_as_many_look_as_may(monkeypatch):
    asked, _ = a_site()
    monkeypatch.setattr(asked.monitor, "has_room", lambda prefix: False)
    found = ask(asked, "/api/live")
    assert (found.status, found.headers["Retry-After"], found.stream) == (503, "30", None)


def test_hostile_names_are_text_in_json_that_no_browser_takes_for_markup():
    asked, shield = a_site()
    shield.blocks.listed = lambda: [{"prefix": "<script>alert(1)</script>\u2028", "seconds": 1}]
    found = ask(asked, "/api/overview")
    assert found.kind == "application/json"
    assert json.loads(found.body)["blocks"][0]["prefix"] == "<script>alert(1)</script>\u2028"
    assert b"\\u2028" in found.body

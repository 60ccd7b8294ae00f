"""Rules that change, break and end while queries are with them; functions that are slow, or fail."""

import os
import signal
import textwrap
import threading
import time

import pytest
from support.rig import answering, ask, asked, behind, data, rcode, received, toml
from support.stopwatch import Stopwatch
from support.until import until


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a file of rules, and returns its path."""

    def write(text, name="shield_rules.py"):
        path = tmp_path / name
        fresh = tmp_path / f"{name}.new"
        fresh.write_text("from funkenshield.rules import *\n" * name.endswith(".py") + textwrap.dedent(text))
        os.utime(fresh, (time.time(), time.time() + write.changes))  # a change within a second is one, too
        write.changes += 1
        fresh.replace(path)
        return str(path)

    write.changes = 1
    return write


def reload(shield, before=None):
    """Have a shield read its configuration again, and wait until it has."""
    reloads = shield.stats()["reloads"] if before is None else before
    shield.process.send_signal(signal.SIGHUP)
    until(lambda: shield.stats()["reloads"] > reloads)


def rewrite(shield, upstream, **options):
    """Give a shield another configuration, in front of the same upstream; it is read at the next reload."""
    (shield.folder / "funkenshield.toml").write_text(
        f'listen = ["{shield.address}"]\n' + toml(upstreams=[str(upstream.address)], **options)
    )


def test_a_file_that_changes_is_read_again_without_a_signal(written):
    path = written("bad.test\n", "names.txt")
    rules = [{"match": {"suffix_file": path}, "action": "nxdomain"}]
    with behind(answering("192.0.2.9"), rules=rules) as (shield, _):
        assert [rcode(ask(shield, name)) for name in ("bad.test", "worse.test")] == ["NXDOMAIN", "NOERROR"]
        written("worse.test\n", "names.txt")
        until(lambda: rcode(ask(shield, "worse.test")) == "NXDOMAIN")
        assert rcode(ask(shield, "bad.test")) == "NOERROR"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def f(:\n    pass\n", ":2: "),
        ("x = 1\nno_such_name\n", ":3: NameError: name 'no_such_name' is not defined"),
        ("shield.rule(suffix('a..b'), action=drop())", "a..b is not a name"),
        (
            "shield.rule(action=drop(), chain='cache-hits', name='a')\nshield.rule(action=drop(), name='a')",
            "duplicate names: a",
        ),
        ("shield.rule(suffix_file('/no/such/file'), action=drop())", "/no/such/file: No such file"),
        ("@shield.setup\ndef up():\n    raise OSError('no database')", "setup up: OSError: no database"),
    ],
)
def test_a_broken_file_leaves_the_rules_before(written, text, told):
    path = written("shield.rule(suffix('x.test'), action=refuse())")
    with behind(answering("192.0.2.9"), rules_file=path) as (shield, _):
        written(text)
        shield.process.send_signal(signal.SIGHUP)
        until(lambda: "reload failed" in shield.log)
        assert told in shield.log
        assert "Traceback" not in shield.log
        assert rcode(ask(shield, "www.x.test")) == "REFUSED"
        written("shield.rule(suffix('x.test'), action=nxdomain())")
        until(lambda: rcode(ask(shield, "www.x.test")) == "NXDOMAIN")


def test_a_broken_table_leaves_the_rules_before():
    rules = [{"match": {"suffix": "x.test"}, "action": "refused"}]
    with behind(answering("192.0.2.9"), rules=rules) as (shield, upstream):
        rewrite(shield, upstream, rules=[{"match": {"sufix": "x.test"}, "action": "refused"}])
        shield.process.send_signal(signal.SIGHUP)
        until(lambda: "rules[1].match.sufix: no such key" in shield.log)
        assert rcode(ask(shield, "www.x.test")) == "REFUSED"


def test_rules_end_while_a_query_is_with_them(written):
    path = written("""
        import asyncio
        @shield.rule(suffix('x.test'))
        async def slow(query):
            await asyncio.sleep(0.5)
            return query.respond('A 192.0.2.1')
        @shield.rule(suffix('y.test'), cache=True)
        async def slow_and_kept(query):
            await asyncio.sleep(0.5)
            return query.respond('A 192.0.2.2')
        @shield.rule(suffix('z.test'))
        async def goes_on(query):
            await asyncio.sleep(0.5)
    """)
    with behind(answering("192.0.2.9"), rules_file=path) as (shield, _):
        found = {}

        def wait_for(name):
            found[name] = data(ask(shield, name))

        waiting = [threading.Thread(target=wait_for, args=[name]) for name in ("x.test", "y.test", "z.test")]
        for thread in waiting:
            thread.start()
        until(lambda: sum(rule["handler_calls"] for rule in shield.stats()["rules"].values()) == 3)
        written("shield.rule(suffix('test'), action=tag('none'))")
        reload(shield)
        for thread in waiting:
            thread.join()
        assert found == {"x.test": ["192.0.2.1"], "y.test": ["192.0.2.2"], "z.test": ["192.0.2.9"]}
        assert data(ask(shield, "y.test")) == ["192.0.2.9"]


def test_what_was_kept_for_a_function_ends_with_its_text(written):
    text = "@shield.rule(suffix('x.test'), cache=True)\ndef f(query):\n    return query.respond('A 192.0.2.{}')\n"
    path = written(text.format(1))
    with behind(answering("192.0.2.9"), rules_file=path) as (shield, _):
        assert [data(ask(shield, "x.test")) for _ in range(2)] == [["192.0.2.1"]] * 2
        reload(shield)
        assert data(ask(shield, "x.test")) == ["192.0.2.1"]
        assert shield.stats()["rules"]["f"]["handler_calls"] == 1
        written(text.format(2))
        reload(shield)
        assert data(ask(shield, "x.test")) == ["192.0.2.2"]


# ------------------------------------------------------------ functions


def test_a_slow_function_keeps_nobody_waiting(written):
    path = written("""
        import time
        @shield.rule(suffix('slow.test'), on_error='refused')
        def slow(query):
            time.sleep(0.8)
            return query.respond('A 192.0.2.1')
    """)
    with behind(answering("192.0.2.9"), rules_file=path) as (shield, _):
        ask(shield, "warm.test")
        found = []
        slow = threading.Thread(target=lambda: found.append(data(ask(shield, "x.slow.test"))))
        slow.start()
        until(lambda: shield.stats()["rules"]["slow"]["handler_calls"] == 1)
        stopwatch = Stopwatch()
        assert data(ask(shield, "warm.test")) == data(ask(shield, "cold.test")) == ["192.0.2.9"]
        assert stopwatch.seconds() < 0.4
        slow.join()
        assert found == [["192.0.2.1"]]


def test_functions_that_fail(written):
    path = written("""
        import asyncio
        def failing(query):
            return 1 / 0
        for how in ('servfail', 'refused', 'drop', 'allow'):
            shield.rule(suffix(how + '.test'), name=how, on_error=how)(failing)
        @shield.rule(suffix('late.test'), on_error='refused')
        async def late(query):
            await asyncio.sleep(10)
        @shield.rule(suffix('foreign.test'))
        async def foreign(query):
            import dns.message
            return await query.resolve(dns.message.make_query('elsewhere.test', 'A'))
        @shield.rule(suffix('question.test'))
        def question(query):
            return query.message
        @shield.rule(suffix('nonsense.test'))
        def nonsense(query):
            return 42
        @shield.rule(suffix('kept.test'), cache=True)
        def kept(query):
            return 1 / 0
        @shield.rule(suffix('other.test'), cache=True)
        def other(query):
            message = query.respond()
            message.question[0].name = message.question[0].name.parent()
            return message
    """)
    limits = {"timeout": 1.0, "deadline": 1.0}
    with behind(answering("192.0.2.9"), rules_file=path, forward=limits) as (shield, upstream):
        assert rcode(ask(shield, "x.servfail.test")) == "SERVFAIL"
        assert rcode(ask(shield, "x.refused.test")) == "REFUSED"
        assert ask(shield, "x.drop.test", timeout=0.3) is None
        assert data(ask(shield, "x.allow.test")) == ["192.0.2.9"]
        assert rcode(ask(shield, "x.late.test")) == "REFUSED"
        for name in ("nonsense", "foreign", "question"):
            assert rcode(ask(shield, f"x.{name}.test")) == "SERVFAIL"
        assert [rcode(ask(shield, "x.kept.test")) for _ in range(2)] == ["SERVFAIL"] * 2
        assert rcode(ask(shield, "x.other.test")) == "SERVFAIL"
        rules = shield.stats()["rules"]
        assert {name: rules[name]["handler_errors"] for name in rules} == {
            "servfail": 1, "refused": 1, "drop": 1, "allow": 1, "late": 1, "nonsense": 1,
            "foreign": 1, "question": 1, "kept": 1, "other": 1,
        }  # fmt: skip
        until(lambda: "rule kept: ZeroDivisionError: division by zero at " in shield.log)
        until(lambda: "rule late: timed out" in shield.log)
        assert "Traceback" not in shield.log
        assert received(upstream) == {"x.allow.test.": 1, "elsewhere.test.": 1}


def test_a_cached_function_is_asked_once_for_all_who_wait(written):
    path = written("""
        import asyncio
        @shield.rule(suffix('x.test'), cache=True)
        async def f(query):
            await asyncio.sleep(0.3)
            return query.respond('A 192.0.2.1')
    """)
    with behind(answering("192.0.2.9"), rules_file=path) as (shield, _):
        found = []
        threads = [threading.Thread(target=lambda: found.append(data(ask(shield, "a.x.test")))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [["192.0.2.1"]] * 8
        assert shield.stats()["rules"]["f"]["handler_calls"] == 1


def test_what_a_function_asks_on(written):
    path = written("""
        @shield.rule(suffix('x.test'), qtype('TXT'))
        async def both(query):
            import dns.message
            four = await query.resolve(dns.message.make_query(query.qname, 'A'))
            six = await query.resolve(dns.message.make_query('refused.test', 'A'))
            return query.respond(f'TXT "{four.answer[0][0]} {six.rcode().name}"')
        shield.rule(suffix('refused.test'), action=refuse())
        shield.rule(suffix('dropped.test'), action=drop(), name='behind')
        @shield.rule(suffix('y.test'), cache=True)
        async def changed(query):
            response = await query.resolve()
            response.answer[0].ttl = 5
            return response
        @shield.rule(suffix('test'), qtype('MX'))
        async def none(query):
            import dns.message
            await query.resolve(dns.message.make_query('dropped.test', 'A'))
    """)
    with behind(answering("192.0.2.9"), rules_file=path) as (shield, upstream):
        assert data(ask(shield, asked("x.test", "TXT"))) == ['"192.0.2.9 REFUSED"']
        assert [ask(shield, "y.test").answer[0].ttl in (4, 5) for _ in range(2)] == [True] * 2
        assert shield.stats()["rules"]["changed"]["handler_calls"] == 1
        assert received(upstream)["y.test."] == 1


def test_what_a_function_may_return(written):
    path = written("""
        returned = {
            'pass': allow(), 'forward': forward('default'), 'nx': nxdomain(), 'tag': tag('t'), 'uncached': skip_cache(),
            'cut': truncate(), 'answer': answer('A 192.0.2.1'), 'ttl': ttl(max=3), 'log': log('{qname} returned'),
            'delay': delay(1.2), 'go': proceed(), 'drop': drop(), 'rename': rename('rename.test', 'else.test'),
        }
        @shield.rule(suffix(*(name + '.test' for name in returned)))
        def f(query):
            return returned[query.qname.split('.')[-3].lower()]
        shield.rule(tagged('t'), action=refuse())
        @shield.rule(suffix('wire.test'))
        def wire(query):
            return query.respond(rcode='NXDOMAIN').to_wire()
    """)
    with behind(answering("192.0.2.9"), rules_file=path) as (shield, upstream):
        plain = {
            name: data(ask(shield, f"x.{name}.test")) for name in ("pass", "forward", "uncached", "delay", "go", "log")
        }
        assert set(map(tuple, plain.values())) == {("192.0.2.9",)}
        assert rcode(ask(shield, "x.nx.test")) == rcode(ask(shield, "x.wire.test")) == "NXDOMAIN"
        assert rcode(ask(shield, "x.tag.test")) == "REFUSED"
        assert ask(shield, "x.cut.test").flags & 0x0200
        assert data(ask(shield, "x.cut.test", tcp=True)) == ["192.0.2.9"]
        assert data(ask(shield, "x.answer.test")) == ["192.0.2.1"]
        assert ask(shield, "x.ttl.test").answer[0].ttl <= 3
        assert ask(shield, "x.drop.test", timeout=0.3) is None
        assert ask(shield, "x.rename.test").answer[0].name.to_text() == "x.rename.test."
        assert received(upstream)["x.else.test."] == 1
        ask(shield, "x.uncached.test")
        assert received(upstream)["x.uncached.test."] == 2
        until(lambda: "x.log.test. returned" in shield.log)

"""Show that what is recorded comes out of each sink as it should: frames, lines, files, collectors that come and go."""

import contextlib
import json
import os
import re
import resource
import socket
import struct
import threading
import time
from ipaddress import ip_address
from pathlib import Path

import dns.message
import pytest
from support.dnstap import READY, START, STOP, Collector
from support.until import until

from funkenshield.config.events import Outcome
from funkenshield.core._clock import Clock
from funkenshield.events._dnstap import MESSAGE_TYPES
from funkenshield.events._names import ASKED, EXCHANGE, KINDS, TRANSPORTS
from funkenshield.events._recorder import Output, Recorder
from funkenshield.rules import compiler as rules

CLIENT = ip_address("192.0.2.55").packed
CLIENT_6 = ip_address("2001:db8:1:2:3:4:5:6").packed
HIT, FORWARDED, DROPPED = map(KINDS.index, ("hit", "forwarded", "dropped"))
ALL = range(len(KINDS))
ROOM = 1 << 20  # octets of a sink's buffer, and of a ring


def made(name="www.example.com.", rdtype="A", opcode=0):
    """Return a query and a response, as octets."""
    query = dns.message.make_query(name, rdtype)
    query.flags |= opcode << 11
    return query.to_wire(), dns.message.make_response(query).to_wire()


@contextlib.contextmanager
def recording(*outputs, clock=None, **known):
    """Run a recorder with these outputs."""
    recorder = Recorder(clock or Clock())
    recorder.configure(outputs, **known)
    with running(recorder):
        yield recorder


@contextlib.contextmanager
def running(recorder):
    """Have the events read meanwhile."""
    thread = threading.Thread(target=recorder.run, name="recording")
    thread.start()
    try:
        yield
    finally:
        recorder.stop()
        thread.join()


def log(path, form="json", **options):
    return Output(form=form, place="file", address=os.fsencode(path), kinds=options.pop("kinds", ALL), **options)


def tap(at, types=("client_query", "client_response"), **options):
    """Return an output to a collector."""
    if isinstance(at, tuple):
        where = struct.pack("=H", socket.AF_INET) + struct.pack("!H", at[1]) + socket.inet_aton(at[0]) + bytes(8)
    else:
        where = struct.pack("=H", socket.AF_UNIX) + os.fsencode(at) + b"\0"
    return Output(
        form="dnstap", place="collector", address=where, kinds=[*options.pop("kinds", ALL), ASKED, EXCHANGE],
        types=[MESSAGE_TYPES[each] for each in types], **options,
    )  # fmt: skip


def told_of(output):
    """Return how many lines, or messages, a sink was told of, those included that wait, or were lost."""
    counted = output.counters()
    return counted["written"] + counted["waiting"] + counted["lost"]


def record_hundreds(recorder, output, hundreds, messages=1):
    """Record that many hundreds of hits, of so many messages each, no faster than they are read."""
    query, response = made()
    before = told_of(output)
    for count in range(1, hundreds + 1):
        for _ in range(100):
            assert recorder.record(HIT, query, response, address=CLIENT)
        until(lambda told=before + messages * 100 * count: told_of(output) == told)


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def writes_of(name):
    """Return how often a thread has called write(2), as the kernel counts them, also in vain."""
    (thread,) = (each for each in threading.enumerate() if each.name == name)
    counted = Path(f"/proc/self/task/{thread.native_id}/io").read_text()
    return int(re.search(r"^syscw: (\d+)$", counted, re.M)[1])


def test_the_configuration_knows_all_outcomes_and_messages():
    assert Outcome.__args__ == KINDS
    assert TRANSPORTS == rules.TRANSPORTS


# ------------------------------------------------------------ lines


def test_a_line_tells_what_became_of_a_query(tmp_path):
    readable, machine = tmp_path / "text", tmp_path / "json"
    with recording(log(readable, "text"), log(machine), upstreams={3: (b"", 53, 0, b"ams")}) as recorder:
        recorder.record(HIT, *made(), address=CLIENT, took=0.0125)
        recorder.record(FORWARDED, *made("EXAMPLE.org.", "TYPE65400"), address=CLIENT_6, transport=1, upstream=3)
        recorder.record(DROPPED, b"\0", b"", address=CLIENT)
        until(lambda: len(lines(machine)) == 3)
    hit, forwarded, dropped = map(json.loads, lines(machine))
    assert hit.pop("milliseconds") == pytest.approx(12.5, abs=5)
    assert hit.pop("time").endswith("Z")
    assert hit == {
        "client": "192.0.2.55", "transport": "udp", "name": "www.example.com.", "type": "A", "outcome": "hit",
        "rcode": "NOERROR", "octets": 33,
    }  # fmt: skip
    assert forwarded["client"] == "2001:db8:1:2:3:4:5:6"
    assert (forwarded["name"], forwarded["type"], forwarded["upstream"]) == ("EXAMPLE.org.", "TYPE65400", "ams")
    assert dropped["outcome"] == "dropped"
    assert not {"name", "type", "rcode"} & dropped.keys()
    first, second, third = (line.split(" ", 1)[1] for line in lines(readable))
    assert first.startswith("192.0.2.55 udp www.example.com. A hit NOERROR 1")
    assert first.endswith(" ms 33 octets")
    assert second.startswith("2001:db8:1:2:3:4:5:6 tcp EXAMPLE.org. TYPE65400 forwarded NOERROR 0.")
    assert second.endswith(" octets ams")
    assert third.startswith("192.0.2.55 udp - - dropped - 0.")


def test_whatever_octets_a_name_has_a_line_stays_one_line_and_json(tmp_path):
    readable, machine = tmp_path / "text", tmp_path / "json"
    labels = [bytes(range(first, min(first + 63, 256))) for first in range(0, 256, 63)]
    names = [bytes([len(label)]) + label + b"\4test\0" for label in labels] + [
        b'\3"\\\n\0',
        b"\0",
        b"\1a" * 127 + b"\0",
    ]
    with recording(log(readable, "text"), log(machine)) as recorder:
        for name in names:
            assert recorder.record(HIT, b"", b"\0\0\x80\0\0\1" + bytes(6) + name + b"\0\1\0\1", address=CLIENT)
        until(lambda: len(lines(machine)) == len(names))
    assert len(lines(readable)) == len(names)
    assert all(line.isascii() and line.isprintable() for line in lines(readable))
    told = [json.loads(line)["name"] for line in lines(machine)]
    assert [dns.name.from_text(each).to_wire() for each in told] == names
    assert [dns.name.from_text(line.split()[3]).to_wire() for line in lines(readable)] == names


def test_addresses_are_told_as_far_as_they_may_be(tmp_path):
    path = tmp_path / "log"
    with recording(log(path, ipv4=20, ipv6=36)) as recorder:
        recorder.record(HIT, *made(), address=ip_address("198.51.103.77").packed)
        recorder.record(HIT, *made(), address=ip_address("2001:db8:ffff::1").packed)
        until(lambda: len(lines(path)) == 2)
    assert [json.loads(line)["client"] for line in lines(path)] == ["198.51.96.0", "2001:db8:f000::"]


def test_each_sink_gets_what_it_wants(tmp_path):
    hits, zone, few, every = (tmp_path / name for name in ("hits", "zone", "few", "every"))
    with recording(
        log(hits, kinds=[HIT]), log(zone, zones=b"\7example\3com\0\4test\0"), log(few, sample=0.25), log(every)
    ) as recorder:
        recorder.record(HIT, *made("example.com."), address=CLIENT, draw=1)
        recorder.record(FORWARDED, *made("a.b.EXAMPLE.com."), address=CLIENT, draw=1 << 30)
        recorder.record(FORWARDED, *made("an-example.com."), address=CLIENT, draw=1 << 31)
        recorder.record(FORWARDED, *made("tes.t."), address=CLIENT, draw=(1 << 32) - 1)
        assert not recorder.record(FORWARDED, *made("not.drawn."), address=CLIENT, draw=0)
        until(lambda: len(lines(every)) == 4)
    assert [len(lines(path)) for path in (hits, zone, few)] == [1, 2, 2]


def test_a_file_is_opened_again_when_it_was_moved_or_when_that_is_asked_for(tmp_path):
    path, moved = tmp_path / "log", tmp_path / "log.1"
    with recording(log(path)) as recorder:
        recorder.record(HIT, *made("one."), address=CLIENT)
        until(lambda: lines(path))
        path.rename(moved)
        until(path.exists)  # within a second, without a word
        recorder.record(HIT, *made("two."), address=CLIENT)
        until(lambda: lines(path))
        path.rename(moved)
        recorder.reopen()
        until(path.exists, within=0.5)
        assert ['"two."' in line for line in lines(moved)] == [True]


def test_a_line_that_was_written_in_part_is_whole_in_the_next_file(tmp_path):
    path, moved = tmp_path / "log", tmp_path / "log.1"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    output = log(path)
    with recording(output) as recorder:
        record_hundreds(recorder, output, 40)  # more than a pipe takes
        os.read(reader, 5000)
        path.rename(moved)
        recorder.reopen()
        until(lambda: len(lines(path)) > 100)
    assert all(json.loads(line)["name"] == "www.example.com." for line in lines(path))
    os.close(reader)


def test_a_full_disk_is_tried_again_more_and_more_seldom():
    output = log("/dev/full")
    with recording(output) as recorder:
        recorder.record(HIT, *made(), address=CLIENT)
        until(lambda: output.counters()["failed"] == 1)
        since = time.monotonic()
        until(lambda: output.counters()["failed"] == 4)
        assert time.monotonic() - since > 0.1 + 0.2 + 0.4 - 0.05


def test_a_line_that_a_full_disk_took_in_part_goes_on_when_there_is_room(tmp_path):
    path, limit = tmp_path / "log", resource.getrlimit(resource.RLIMIT_FSIZE)
    output = log(path)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limit[1]))
        with recording(output) as recorder:
            record_hundreds(recorder, output, 1)
            until(lambda: output.counters()["failed"] >= 2)
            assert path.stat().st_size == 5000
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            until(lambda: len(lines(path)) == 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert all(json.loads(line)["name"] == "www.example.com." for line in lines(path))
    assert output.counters()["written"] == 100


def test_a_file_that_cannot_be_opened_costs_lines_and_is_tried_again(tmp_path):
    folder = tmp_path / "later"
    output = log(folder / "log")
    with recording(output) as recorder:
        recorder.record(HIT, *made(), address=CLIENT)
        until(lambda: output.counters()["failed"])
        assert os.strerror(output.error) == "No such file or directory"
        folder.mkdir()
        until(lambda: lines(folder / "log"))  # what waited is not lost
        assert output.is_open


# ------------------------------------------------------------ dnstap


@pytest.mark.parametrize("over_tcp", [False, True])
def test_a_collector_is_greeted_told_and_taken_leave_of(tmp_path, over_tcp):
    listeners = {0: (ip_address("192.0.2.1").packed, 53, 0, b""), 1: (b"", 853, 2, b"")}
    upstreams = {7: (ip_address("2001:db8::7").packed, 853, 2, b"ams")}
    with Collector(("127.0.0.1", 0) if over_tcp else tmp_path / "tap") as collector:
        output = tap(
            collector.address if over_tcp else tmp_path / "tap", MESSAGE_TYPES, identity=b"\x0a\x02ns\x12\x03one"
        )
        query, response = made()
        update = made(opcode=5)
        with recording(output, listeners=listeners, upstreams=upstreams) as recorder:
            recorder.record(HIT, query, response, address=CLIENT, port=5353, took=0.5)
            recorder.record(ASKED, query, b"", address=CLIENT_6, transport=2, listener=1)
            recorder.record(FORWARDED, *update, address=CLIENT, transport=3)
            recorder.record(EXCHANGE, query, b"", address=CLIENT, transport=1, upstream=7)
            recorder.record(EXCHANGE, b"", response, address=CLIENT, transport=0, upstream=7)
            until(lambda: len(collector.messages) == 7)
        asked, answered, waits, update_asked, update_answered, sent, came = collector.messages
        until(lambda: collector.controls == [READY, START, STOP])
    assert (asked["type"], asked["query"], asked["response"]) == ("CQ", query, None)
    assert (answered["type"], answered["query"], answered["response"]) == ("CR", None, response)
    for each in asked, answered:
        assert (each["identity"], each["version"]) == ("ns", "one")
        assert (each["family"], each["protocol"]) == (1, 1)
        assert (each["client"], each["port"], each["server"], each["server_port"]) == (
            CLIENT, 5353, listeners[0][0], 53,
        )  # fmt: skip
    assert answered["extra"] == "hit"
    assert 0.5 <= answered["answered"] - asked["asked"] < 5
    assert (waits["type"], waits["family"], waits["protocol"], waits["client"]) == ("CQ", 2, 3, CLIENT_6)
    assert (waits["server"], waits["server_port"]) == (None, 853)
    assert (update_asked["type"], update_asked["query"], update_asked["protocol"]) == ("UQ", update[0], 4)
    assert (update_answered["type"], update_answered["response"]) == ("UR", update[1])
    assert (sent["type"], sent["protocol"], sent["server"], sent["server_port"]) == ("FQ", 3, upstreams[7][0], 853)
    assert (came["type"], came["protocol"], came["response"]) == ("FR", 1, response)


def test_a_collector_whose_machine_is_gone_is_given_up():
    with Collector(("127.0.0.1", 0)) as collector, recording(tap(collector.address)):
        until(lambda: collector.controls == [READY, START])
        assert user_timeouts(collector.address) == [30_000]


def user_timeouts(address):
    """Return after how many milliseconds this process gives up peers at an address, for each connection."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(fd))) as copy:
            if copy.getpeername() == address:
                found.append(copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
    return found


def test_long_messages_and_those_of_any_length_are_framed_right(tmp_path):
    sizes = [12, 13, 100, 127, 128, 129, 200, 16000, 16384, 40000, 65535]
    with Collector(tmp_path / "tap") as collector:
        with recording(tap(tmp_path / "tap")) as recorder:
            for count, size in enumerate(sizes, 1):
                assert recorder.record(HIT, bytes(size), bytes(size), address=CLIENT)
                until(lambda expected=2 * count: len(collector.messages) == expected)
        lengths = [len(each["query"] or each["response"]) for each in collector.messages]
    assert lengths == [size for size in sizes for _ in range(2)]


def test_what_a_collector_is_not_there_for_it_gets_as_far_as_there_is_room(tmp_path):
    output = tap(tmp_path / "tap", ("client_response",))
    query, response = made()
    with recording(output) as recorder:
        assert recorder.record(HIT, query, response, address=CLIENT)
        until(lambda: output.counters()["failed"] >= 2)
        with Collector(tmp_path / "tap") as collector:
            until(lambda: len(collector.messages) == 1)
        recorder.record(HIT, query, response, address=CLIENT)
        with Collector(tmp_path / "tap") as collector:
            until(lambda: collector.messages)
            assert all(each["response"] == response for each in collector.messages)
    assert output.counters()["opened"] == 2


def test_a_collector_that_accepts_nothing_is_asked_again_later(tmp_path):
    output = tap(tmp_path / "tap")
    with Collector(tmp_path / "tap", accepts=False) as collector, recording(output):
        until(lambda: collector.connections >= 2)
        assert not output.is_open
        assert set(collector.controls) == {READY}
        until(lambda: output.error)  # which is told


def test_a_collector_that_stops_reading_costs_events_and_hears_of_whole_ones_when_it_reads_again(tmp_path):
    output = tap(tmp_path / "tap")
    query, response = made()
    with Collector(tmp_path / "tap") as collector, recording(output) as recorder:
        recorder.record(HIT, query, response, address=CLIENT)
        until(lambda: collector.messages)
        collector.going_on.clear()
        record_hundreds(recorder, output, 120, messages=2)
        assert output.counters()["lost"] > 2000
        collector.going_on.set()
        until(lambda: len(collector.messages) == output.counters()["written"])
        assert output.counters()["waiting"] == 0
        assert told_of(output) == 2 * 12_001


def test_sinks_change_and_what_stays_goes_on_without_a_loss(tmp_path):
    stays, goes, comes = (tmp_path / name for name in ("stays", "goes", "comes"))
    kept, query = log(stays), made()
    with recording(kept, log(goes)) as recorder:
        for _ in range(500):
            recorder.record(HIT, *query, address=CLIENT)
        recorder.configure((kept, log(comes)))
        for _ in range(500):
            recorder.record(HIT, *query, address=CLIENT)
        until(lambda: len(lines(stays)) == 1000)
        until(lambda: (recorder.reclaim(), len(lines(goes)) + len(lines(comes)) == 1000)[1])
        assert kept.counters()["opened"] == 1
        recorder.configure(())
        assert not recorder.record(HIT, *query, address=CLIENT)


def test_what_is_wrong_with_a_sink_is_refused():
    with pytest.raises(ValueError, match="too long"):
        Output(form="json", place="file", address=bytes(4096))
    with pytest.raises(ValueError, match="at most 16 sinks"):
        Recorder(Clock()).configure(tuple(Output(form="json", place="file", address=b"/x") for _ in range(17)))


def test_a_pipe_that_nobody_reads_costs_lines_and_nothing_else_not_even_a_try_for_each(tmp_path):
    there, here = os.pipe()
    os.set_blocking(here, False)
    path = tmp_path / "log"
    stuck = Output(form="json", place="descriptor", fd=here, kinds=ALL)
    with recording(stuck, log(path)) as recorder:
        record_hundreds(recorder, stuck, 80)
        assert stuck.counters()["lost"] > 0
        before = writes_of("recording")
        record_hundreds(recorder, stuck, 20)
        assert writes_of("recording") - before < 500  # some each time that the thread looks what there is
        until(lambda: len(lines(path)) == 10000)
    os.close(there)
    os.close(here)


def test_long_messages_leave_room_for_others_in_the_ring(tmp_path):
    path, recorder = tmp_path / "log", Recorder(Clock())
    output = tap(tmp_path / "tap", ("client_response",))
    recorder.configure((output, log(path)))
    long = made()[1] + bytes(60_000)
    for count in range(100):
        assert recorder.record(HIT, b"", long, address=CLIENT)
        assert recorder.record(HIT, *made(f"n{count}."), address=CLIENT)
    with Collector(tmp_path / "tap") as collector:
        with running(recorder):
            until(lambda: len(collector.messages) == 200)
        assert recorder.lost == output.counters()["lost"] == 0
        assert ["www" in json.loads(line)["name"] for line in lines(path)] == [True, False] * 100
        assert all(json.loads(line)["octets"] == len(long) for line in lines(path)[::2])
        told = [each["response"] for each in collector.messages[::2]]
        assert {len(each) for each in told if each is not None} == {len(long)}  # whole ones, or none
        assert 100 > output.counters()["shortened"] == told.count(None) > 80
        assert all(each["response"] for each in collector.messages[1::2])


def test_long_messages_leave_room_for_others_in_a_sink(tmp_path):
    output = tap(tmp_path / "tap", ("client_response",))
    with recording(output) as recorder:
        for count in range(1, 101):
            assert recorder.record(HIT, b"", made()[1] + bytes(60_000), address=CLIENT)
            until(lambda told=count: told_of(output) == told)
        record_hundreds(recorder, output, 20)
        assert output.counters()["lost"] == 0
        with Collector(tmp_path / "tap") as collector:
            until(lambda: len(collector.messages) == 2100)
        assert [each["response"] is None for each in collector.messages] == [False] * 9 + [True] * 91 + [False] * 2000


# ------------------------------------------------------------ sinks that end


def test_a_sink_that_is_no_more_is_sent_what_is_left(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    output = log(tmp_path / "pipe")
    with recording(output) as recorder:
        record_hundreds(recorder, output, 40)  # more than a pipe takes
        recorder.configure(())
        assert recorder.ending == (output,)
        read = b""
        while len(read.splitlines()) < 4000 or not output.is_over:
            with contextlib.suppress(BlockingIOError):
                read += os.read(reader, 1 << 16)
        recorder.reclaim()
        assert recorder.ending == ()
    assert output.counters()["written"] == len(read.splitlines()) == 4000
    assert output.counters()["lost"] == 0
    os.close(reader)


def test_what_a_sink_that_is_no_more_does_not_take_is_lost(tmp_path):
    clock = Clock()
    stuck, stays = tap(tmp_path / "tap"), log(tmp_path / "log")
    with Collector(tmp_path / "tap") as collector, recording(stuck, stays, clock=clock) as recorder:
        until(lambda: stuck.is_open)
        collector.going_on.clear()
        record_hundreds(recorder, stuck, 100, messages=2)
        recorder.configure((stays,))
        recorder.record(HIT, *made(), address=CLIENT)
        until(lambda: len(lines(tmp_path / "log")) == 10_001)
        assert not stuck.is_over
        clock.advance(2)
        until(lambda: stuck.is_over)
        counted = stuck.counters()
        assert counted["waiting"] == 0
        assert counted["written"] + counted["lost"] == 20_000


def test_a_collector_that_is_told_no_more_is_taken_leave_of(tmp_path):
    goes, stays = tap(tmp_path / "tap"), log(tmp_path / "log")
    with Collector(tmp_path / "tap") as collector, recording(goes, stays) as recorder:
        recorder.record(HIT, *made(), address=CLIENT)
        until(lambda: len(collector.messages) == 2)
        recorder.configure((stays,))
        until(lambda: collector.controls == [READY, START, STOP])
        until(lambda: goes.is_over)


def test_all_sinks_end_together(tmp_path):
    clock, pipes = Clock(), [os.pipe() for _ in range(16)]
    for _, here in pipes:
        os.set_blocking(here, False)
    stuck = [Output(form="json", place="descriptor", fd=here, kinds=ALL) for _, here in pipes]
    with recording(*stuck, clock=clock) as recorder:
        record_hundreds(recorder, stuck[0], 40)
        recorder.stop()
        # not half a second for each
        until(lambda: (clock.advance(1), all(each.is_over for each in stuck))[1], within=2.0)
    for output, (there, here) in zip(stuck, pipes, strict=True):
        assert output.is_over
        assert output.counters()["written"] + output.counters()["lost"] == 4000
        os.close(there)
        os.close(here)


# ------------------------------------------------------------ numbers


def test_who_had_a_number_is_known_until_another_has_it(tmp_path):
    path = tmp_path / "log"
    output, ams, fra = log(path), {3: (CLIENT, 53, 0, b"ams")}, {3: (CLIENT_6, 53, 0, b"fra")}
    with recording(output, upstreams=ams) as recorder:
        recorder.configure((output,))
        recorder.record(FORWARDED, *made("one."), address=CLIENT, upstream=3)
        until(lambda: len(lines(path)) == 1)
        recorder.configure((output,), upstreams=fra)
        recorder.record(FORWARDED, *made("two."), address=CLIENT, upstream=3, took=60)
        recorder.record(FORWARDED, *made("three."), address=CLIENT, upstream=3)
        until(lambda: len(lines(path)) == 3)
    assert [json.loads(line).get("upstream") for line in lines(path)] == ["ams", None, "fra"]


def test_clients_of_a_listener_that_was_closed_are_told_with_its_address(tmp_path):
    with Collector(tmp_path / "tap") as collector:
        output = tap(tmp_path / "tap")
        with recording(output, listeners={5: (CLIENT_6, 853, 2, b"")}) as recorder:
            recorder.configure((output,), listeners={6: (CLIENT_6, 443, 3, b"")})
            recorder.record(HIT, *made(), address=CLIENT_6, listener=5)
            until(lambda: len(collector.messages) == 2)
    assert {(each["server"], each["server_port"]) for each in collector.messages} == {(CLIENT_6, 853)}


@pytest.mark.parametrize("numbers", [{"listener": 64}, {"upstream": 256}, {"kind": EXCHANGE}, {"kind": EXCHANGE + 1}])
def test_a_number_that_nothing_can_have_is_refused(numbers):
    kind = numbers.pop("kind", HIT)
    with pytest.raises(ValueError, match="is not less than"):
        Recorder(Clock()).record(kind, *made(), address=CLIENT, **numbers)
    with pytest.raises(ValueError, match="is not less than"):
        Recorder(Clock()).configure((), upstreams={256: (b"", 0, 0, b"")})


# ------------------------------------------------------------ what is asked for most


def test_what_is_asked_for_most_is_counted_while_somebody_looks():
    with recording() as recorder:
        assert recorder.top(10) == {}
        assert not recorder.record(HIT, *made(), address=CLIENT)
        recorder.watch(60)
        for number in range(30):
            recorder.record(HIT, *made("WWW.example.com."), address=CLIENT)
            recorder.record(FORWARDED, *made(f"n{number}.example.org."), address=bytes([10, 0, 0, number]))
        until(lambda: sum(recorder.top(1).get("outcomes", {}).values()) == 60)
        found = recorder.top(2)
        assert found["names"][0] == (b"\3www\7example\3com\0", 30, 0)
        assert found["clients"][0] == (CLIENT, 30, 0)
        assert found["zones"] == [(b"\7example\3com\0", 30, 0), (b"\7example\3org\0", 30, 0)]
        assert found["outcomes"] == {"hit": 30, "forwarded": 30}
        assert 0 < found["seconds"] < 60
        recorder.watch(0)
        assert not recorder.record(HIT, *made(), address=CLIENT)

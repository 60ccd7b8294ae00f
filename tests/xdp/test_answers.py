"""The program that answers queries, as the kernel runs it, against a model in another language: octet for octet."""

import random
import runpy
import shutil
import struct
import subprocess
import time
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest
from support import frames
from support.frames import TAG
from support.in_kernel import CLIENT_6, PASS, PROGRAMS, REDIRECT, TX, V4, V6, VLAN, Entry, InKernel, Model
from support.quick import name_wire

from funkenshield.xdp import bpf

WWW = name_wire("www.example.com")
ADDRESS = b"\xc0\x0c\0\1\0\1\0\0\1\x2c\0\4\xc0\0\2\1"
OPT = b"\0\0\x29\4\xd0\0\0\0\0\0\0"
DO = 0x8000
ENDS = [(("192.0.2.9", 5353), V4), (CLIENT_6, V6)]


def asked(name=WWW, rdtype=1, flags=0x0100, opt=None, ident=0xABCD, payload=1232):
    """Return a plain query; `opt` are its EDNS flags."""
    more = b"" if opt is None else struct.pack("!BHHBBHH", 0, 41, payload, 0, 0, opt, 0)
    return struct.pack("!6H", ident, flags, 1, 0, 0, len(more) > 0) + name + struct.pack("!2H", rdtype, 1) + more


@pytest.fixture(scope="module")
def kernel():
    with ExitStack() as stack:
        yield InKernel(stack)


@pytest.fixture(scope="module")
def taking(kernel):
    """Return the program that answers nothing."""
    with ExitStack() as stack:
        yield InKernel(stack, PROGRAMS / "queries.bpf.o", "take_queries")


@pytest.fixture
def model(kernel):
    kernel.memory.answers[:] = bytes(len(kernel.memory.answers))
    return Model(kernel.memory)


def entries(rng, count=200):
    """Return answers of all sizes for names of all lengths, with and without OPT."""
    for _ in range(count):
        sizes = [rng.choice((1, 3, 20)) for _ in range(rng.randrange(8))]
        name = b"".join(bytes([size, *rng.choices(b"abcxyz@[`{\0\xc1\xff09-", k=size)]) for size in sizes) + b"\0"
        opt = rng.choice((None, 0, DO))
        room = 512 - 12 - len(name) - 4
        records = rng.randbytes(rng.choice((0, 16, 33, 100, room - 11, room))) if len(name) <= 128 else b""
        if opt is not None:
            records = records[: room - 11] + OPT
        yield Entry(
            name, rng.choice((1, 28, 65, 97)), records, (1, rng.randrange(9), 0, opt is not None),
            rng.choice((0, 0x0100, 0x0010, 0x0120)), opt, 0x8400 | rng.randrange(16),
        )  # fmt: skip


def spelled(rng, name):
    """Return a name in some mixture of cases; octets that are no letters have none."""
    return bytes(each - 32 if 97 <= each <= 122 and rng.randrange(2) else each for each in name)


def check(model, taking, frame, left):
    """Assert that a frame got what the model says; return whether that is an answer."""
    otherwise, reply = taking.run(frame), None
    if otherwise.action == REDIRECT:
        sent = frames.read(frame)
        length = frame.index(sent.payload) - 4  # where UDP has it, which may be shorter than IP says
        reply = model.reply_to(sent.payload[: int.from_bytes(frame[length : length + 2]) - 8])
    if reply is None:
        assert (left.action, left.frame) == (otherwise.action, frame)
        return False
    assert left.action == TX
    got = frames.read(left.frame)
    assert got.payload == reply
    assert got.checked
    assert (got.to, got.source, got.tags) == (sent.source, sent.to, sent.tags)
    assert (got.client, got.server, got.hops) == (sent.server, sent.client, 64)
    if len(frames.packed(got.server[0])) == 4:
        assert b"\0\0\x40\0\x40\x11" in left.frame[18:28], "not to be divided, and without a number"
    return True


def test_each_answer_is_given_to_who_asks_for_it(kernel, taking, model):
    rng = random.Random(1)
    for entry in entries(rng):
        model.put(entry)
    answered = 0
    for entry in [each for each in model.entries.values() if len(each.name) <= 128]:
        question = asked(spelled(rng, entry.name), entry.rdtype, entry.flags, entry.opt, rng.randrange(1 << 16))
        for ends in ENDS:
            tags = rng.choice(((), ((TAG, VLAN),), ((TAG, 0xA000 | VLAN),)))
            frame = frames.query(question, *ends, tags=tags)
            answered += check(model, taking, frame, kernel.run(frame))
    assert answered > 200


def test_what_differs_in_anything_is_another_question(kernel, model):
    for opt in (None, 0):
        model.put(Entry(WWW, 65, ADDRESS + (OPT if opt == 0 else b""), opt=opt))
    question = asked(rdtype=65)
    assert kernel.ask(question).endswith(ADDRESS)
    assert kernel.ask(asked(rdtype=65, opt=0)).endswith(ADDRESS + OPT)
    others = {
        "another type": asked(rdtype=1),
        "a type that differs as letters do": asked(rdtype=97),
        "another class": question[:-1] + b"\3",
        "another name": asked(name_wire("wwx.example.com"), 65),
        "a longer name": asked(name_wire("a.www.example.com"), 65),
        "a shorter name": asked(name_wire("example.com"), 65),
        "without RD": asked(rdtype=65, flags=0),
        "with AD": asked(rdtype=65, flags=0x0120),
        "with CD": asked(rdtype=65, flags=0x0110),
        "with DO": asked(rdtype=65, opt=DO),
        "with another EDNS flag": asked(rdtype=65, opt=0x4000),
        "with an opcode": question[:2] + b"\x29" + question[3:],
        "with TC": question[:2] + b"\3" + question[3:],
        "with AA": question[:2] + b"\5" + question[3:],
        "with RA": question[:3] + b"\x80" + question[4:],
        "with an RCODE": question[:3] + b"\1" + question[4:],
        "with two questions": question[:5] + b"\2" + question[6:],
        "with no question": question[:5] + b"\0" + question[6:],
        "with an answer": question[:7] + b"\1" + question[8:],
        "with an authority": question[:9] + b"\1" + question[10:],
        "with an OPT that is not there": question[:11] + b"\1" + question[12:],
        "with octets behind": question + b"\0",
        "with EDNS version 1": asked(rdtype=65, opt=0)[:-5] + b"\1" + asked(rdtype=65, opt=0)[-4:],
        "with an extended RCODE": asked(rdtype=65, opt=0)[:-6] + b"\1" + asked(rdtype=65, opt=0)[-5:],
        "with an option": asked(rdtype=65, opt=0)[:-1] + b"\4\0\x0a\0\0",
        "with an OPT of another owner": question[:11] + b"\1" + question[12:] + b"\1" + OPT[1:],
        "with another record": question[:11] + b"\1" + question[12:] + b"\0\0\x2a" + OPT[3:],
        "with two OPT": asked(rdtype=65, opt=0)[:11] + b"\2" + asked(rdtype=65, opt=0)[12:] + OPT,
    }
    for what, query in others.items():
        assert kernel.ask(query) == b"", what


def test_a_payload_size_is_nothing_to_an_answer_that_fits_all(kernel, model):
    model.put(Entry(WWW, 1, ADDRESS + OPT, (1, 1, 0, 1), opt=0))
    for payload in (0, 512, 65535):
        assert kernel.ask(asked(opt=0, payload=payload)).endswith(ADDRESS + OPT)


def test_an_answer_lives_until_it_dies_and_in_its_generation(kernel, model):
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    for dies, lives in ((now, False), (now + 10**10, True)):
        model.put(Entry(WWW, 1, ADDRESS, dies=dies))
        assert (kernel.ask(asked()) != b"") == lives
    for generation in (0, 4, 6, 1 << 63):  # purged since; the kernel answers nobody; a later one
        model.generation = generation
        model.set_table()
        assert kernel.ask(asked()) == b""
    model.put(Entry(WWW, 1, ADDRESS, generation=0))
    model.generation = 0
    model.set_table()
    assert kernel.ask(asked()) == b""


def test_what_is_being_written_is_not_read(kernel, model):
    model.put(Entry(WWW, 1, ADDRESS, sequence=3))
    assert kernel.ask(asked()) == b""


def compiled(folder, *options, clang=(), program="answers"):
    """Return the program as clang makes it, this one or the build's, with other options than the build's."""
    made = folder / f"{program}.bpf.o"
    builds, *usual = runpy.run_path(str(PROGRAMS.parents[1] / "setup.py"))["bpf_clang"]()
    if not clang and not shutil.which(builds):
        pytest.skip("there is no clang")
    source = PROGRAMS / f"{program}.bpf.c"
    subprocess.run([*(clang or [builds]), *usual, *options, "-c", source, "-o", made], check=True)
    return made


def clangs():
    """Return each clang that is installed, Zig's too, which makes wheels, by what is typed."""
    named = [[name] for name in ("clang", *(f"clang-{number}" for number in range(14, 30))) if shutil.which(name)]
    zig = find_spec("ziglang")
    return [*named, [str(Path(zig.origin).parent / "zig"), "clang"]] if zig else named


@pytest.mark.parametrize("options", [[], ["-UTOTAL_STORE_ORDER"]], ids=["in order", "in any order"])
@pytest.mark.parametrize("clang", clangs(), ids=lambda clang: Path(clang[0]).name)
def test_whatever_clang_makes_them_the_kernel_takes_them(clang, options, tmp_path):
    """Each leaves out other checks than the last one, which the kernel's verifier would see."""
    with ExitStack() as stack:
        InKernel(stack, compiled(tmp_path, *options, clang=clang, program="queries"), "take_queries")
        kernel = InKernel(stack, compiled(tmp_path, *options, clang=clang))
        Model(kernel.memory).put(Entry(WWW, 1, ADDRESS))
        for client, listener in ENDS:
            sent = frames.read(kernel.run(frames.query(asked(), client, listener)).frame)
            assert sent.checked
            assert sent.payload.endswith(ADDRESS)


def test_what_is_read_stays_in_order_where_the_machine_would_not_keep_it(tmp_path):
    """Both looks at the sequence have a sum that is fetched (BPF_FETCH) between them and the rest: it is a barrier."""
    path = compiled(tmp_path, "-UTOTAL_STORE_ORDER")
    program = bpf.Object.read(path).programs["answer_queries"].instructions
    fetching = [each for each in struct.iter_unpack("=BBhi", program) if (each[0], each[3]) == (0xDB, 0x01)]
    assert len(fetching) == 2
    with ExitStack() as stack:
        kernel = InKernel(stack, path)
        Model(kernel.memory).put(Entry(WWW, 1, ADDRESS))
        assert kernel.ask(asked()).endswith(ADDRESS)


def test_what_was_written_meanwhile_is_not_sent(taking, tmp_path):
    """A variant of the program is torn by itself: each time, somebody writes between its first and its last look."""
    torn = compiled(tmp_path, "-DORDER()=(((struct answer *)answer)->sequence += 2)")
    rng = random.Random(3)
    with ExitStack() as stack:
        kernel = InKernel(stack, torn)
        model = Model(kernel.memory)
        for behind in (b"", ADDRESS, 20 * ADDRESS):
            for opt in (None, 0, DO):
                model.put(Entry(WWW, 1, behind + (b"" if opt is None else OPT), (1, 9, 0, opt is not None), opt=opt))
                for ends in ENDS:
                    frame = frames.query(asked(spelled(rng, WWW), opt=opt, payload=rng.randrange(1 << 16)), *ends)
                    left = kernel.run(frame)
                    assert left.action == REDIRECT
                    assert frames.read(left.frame) == frames.read(frame)


def test_mutated_frames_get_what_they_ask_for_or_go_on_as_they_came(kernel, taking, model):
    rng = random.Random(21)
    for entry in entries(rng, 30):
        model.put(entry)
    for opt in (None, 0, DO):
        model.put(Entry(WWW, 1, ADDRESS + (OPT if opt is not None else b""), (1, 1, 0, opt is not None), opt=opt))
    whole = [
        frames.query(asked(entry.name, entry.rdtype, entry.flags, entry.opt), *ends)
        for entry in model.entries.values() for ends in ENDS if len(entry.name) <= 128
    ]  # fmt: skip
    answered = 0
    for _ in range(4000):
        frame = bytearray(rng.choice(whole))
        for _ in range(rng.randrange(3)):
            at = rng.randrange(len(frame))
            frame[at] = rng.choice((rng.randrange(256), frame[at] ^ 0x20, frame[at] ^ 1 << rng.randrange(8)))
        frame = bytes(frame[: rng.choice((len(frame), len(frame), rng.randrange(14, len(frame) + 1)))])
        answered += check(model, taking, frame, kernel.run(frame))
    assert answered > 500


def test_so_many_as_are_to_be_recorded_go_to_a_worker(kernel, model):
    model.put(Entry(WWW, 1, ADDRESS))
    for share, at_least, at_most in ((0, 400, 400), (1, 0, 0), (0.5, 120, 280)):
        model.set_table(recorded=int(share * (1 << 32)))
        assert at_least <= sum(kernel.ask(asked()) != b"" for _ in range(400)) <= at_most


def lot_of(left, frame):
    """Return what was drawn for a frame, as it is marked on its way to a worker; nothing else of it is another."""
    assert left.action == REDIRECT
    marks = left.frame[0] & 1, left.frame[6] & 1
    assert (left.frame[0] & ~1, left.frame[6] & ~1) == (frame[0], frame[6])
    assert (left.frame[1:6], left.frame[7:]) == (frame[1:6], frame[7:])
    return {(0, 0): None, (1, 0): "spared", (1, 1): "recorded"}[marks]


def test_a_worker_is_told_what_was_drawn(kernel, model, tmp_path):
    model.put(Entry(WWW, 1, ADDRESS))
    for ends in ENDS:
        there, missing = frames.query(asked(), *ends), frames.query(asked(rdtype=2), *ends)
        for recorded, lot in (0, "answered"), (1 << 32, "recorded"):
            model.set_table(recorded=recorded)
            assert lot_of(kernel.run(missing), missing) is None
            assert recorded == 0 or lot_of(kernel.run(there), there) == lot
    torn = compiled(tmp_path, "-DORDER()=(((struct answer *)answer)->sequence += 2)")
    with ExitStack() as stack:
        kernel = InKernel(stack, torn)
        model = Model(kernel.memory)
        model.put(Entry(WWW, 1, ADDRESS))
        for recorded, lot in (0, None), (1, "spared"), (1 << 32, "recorded"):
            model.set_table(recorded=recorded)
            assert lot_of(kernel.run(there), there) == lot


def test_nobody_can_mark_a_frame_but_the_program(kernel, model):
    model.put(Entry(WWW, 1, ADDRESS))
    for at in 0, 6:
        frame = bytearray(frames.query(asked()))
        frame[at] |= 1
        assert kernel.run(bytes(frame)).action == PASS


def test_names_that_differ_in_highest_bits_do_not_meet(model):
    """Two such differences would cancel out, whatever the secret is, if they went through one product alone."""
    rng = random.Random(7)
    name, other = bytearray(b"\x17" + b"x" * 23 + b"\0"), bytearray(b"\x17" + b"x" * 23 + b"\0")
    for at in 7, 11, 15:
        other[at] ^= 0x80
    met = 0
    for _ in range(200):
        model.secret = rng.getrandbits(64), rng.getrandbits(64) | 1
        met += model.place_of(Entry(bytes(name), 1, b"")) == model.place_of(Entry(bytes(other), 1, b""))
    assert met <= 2


def test_what_was_answered_is_counted(kernel, model):
    kernel.memory.answered[:] = bytes(len(kernel.memory.answered))
    model.put(Entry(WWW, 1, b"", (1, 0, 0, 0), answer_flags=0x8583))
    for ends in (*ENDS, ENDS[1]):
        assert kernel.run(frames.query(asked(), *ends)).action == TX
    kernel.ask(asked(rdtype=2))
    size = 8 * (1 + 16 + 64)
    counted = [sum(each) for each in zip(*struct.iter_unpack("=81Q", kernel.memory.answered[: 64 * size]), strict=True)]
    assert counted[0] == counted[1 + 3] == 3
    assert counted[17:20] == [1, 2, 0]


def test_what_it_costs(kernel, taking, model):
    """Against what a miss without the table costs: loosely, for others work here, too."""
    frame = frames.query(asked())
    most = min(kernel.run(frame, 100_000).nanoseconds for _ in range(5))
    assert most <= min(taking.run(frame, 100_000).nanoseconds for _ in range(5)) + 2000

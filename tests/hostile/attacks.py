"""Know what clients do who mean harm: each attack goes on as long as `going()`, and returns how much it did.

They come from addresses of their own, all over loopback where that makes it worse. What a SYN flood does is the
kernel's business: a connection that is half open here is one whose other side says nothing.
"""

import contextlib
import itertools
import random
import socket
import time

from rules.flood import flood
from support import quick
from support.client import frame

from hostile.behaved import LARGE, QUERIES

PAUSE = 0.002  # seconds after so many datagrams:
AT_ONCE = 50
SOA, AXFR = 6, 252
serial = itertools.count()


def send_while(going, shield, wires):
    """Send datagrams from one address, 25,000 a second at most, and read nothing; return how many."""
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.9.9.9", 0))
        sock.connect(shield.address)
        while going():
            for wire in itertools.islice(wires, AT_ONCE):
                sock.send(wire)
            sent += AT_ONCE
            time.sleep(PAUSE)
    return sent


def garbage(shield, going):
    """Send what is no query: noise, queries that are cut or damaged, responses, nothing, and as much as UDP takes."""
    rng = random.Random(2011)
    whole = [quick.query(f"n{n}.wild.shield.test.", n) for n in range(50)]
    made = [b"", bytes(12), b"\xff" * 65507, whole[0] + bytes(60000)]
    made += [rng.randbytes(rng.randrange(600)) for _ in range(500)]
    for query in whole:
        made += [query[: rng.randrange(len(query))], query[:2] + b"\x80" + query[3:], query[:12] + b"\xc0\x0c" * 9]
        for _ in range(5):
            at = rng.randrange(2, len(query))
            made.append(query[:at] + rng.randbytes(1) + query[at + 1 :])
    rng.shuffle(made)
    return send_while(going, shield, itertools.cycle(made))


def names_asked_once(shield, going):
    """Ask for a name that nobody has asked for, each time, and below a zone that is not there, too."""
    zones = itertools.cycle(["wild.shield.test.", "wild.shield.test.", "nobody.shield.test.", "elsewhere.test."])
    return send_while(going, shield, (quick.query(f"once{next(serial)}.{zone}", quick.A) for zone in zones))


def never_cached(shield, going):
    """Ask, each time for another name, with an option that nobody knows: only the upstream can answer that."""
    option = bytes([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 4, 0xFD, 0xE9, 0, 0])
    plain = (quick.query(f"alone{next(serial)}.wild.shield.test.", quick.A) for _ in itertools.count())
    return send_while(going, shield, (wire[:11] + b"\1" + wire[12:] + option for wire in plain))


def notifies(shield, going):
    """Say that zones have changed, and that they should be."""
    opcodes = itertools.cycle([4 << 11, 5 << 11])
    zones = itertools.cycle(["shield.test.", "wild.shield.test.", "."])
    return send_while(going, shield, (quick.query(next(zones), SOA, flags=opcode) for opcode in opcodes))


def bursts(shield, going):
    """Ask for 5,000 names at once, and then for none, again and again."""

    def in_bursts():
        while going():
            yield from (quick.query(f"burst{next(serial)}.wild.shield.test.", quick.A) for _ in range(5000))
            time.sleep(0.2)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.9.9.9", 0))
        sock.connect(shield.address)
        return sum(bool(sock.send(wire)) for wire in in_bursts())


def spoofed(shield, going):
    """Have answers sent to addresses that never asked; each is another one."""
    told = []

    def while_going():
        for source in sources():
            if not going():
                return
            told.append(source)
            yield source

    flood(shield, QUERIES[0], while_going())
    return len(told)


# ------------------------------------------------------------ streams


def sources():
    """Yield addresses of this host, hardly any of them twice; none is that of a client who means well."""
    rng = random.Random(127)
    while True:
        yield f"127.{rng.randrange(16, 250)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"


def crowd(shield, going, act, count=2000):
    """Hold so many connections, each from an address of its own, and have each `act` 20 times a second.

    Where one is refused or ended, another one is made; return how many were, in all.
    """
    made, held, from_where = 0, [], sources()
    try:
        while going():
            for _ in range(min(count - len(held), 100)):
                held.append(begin(shield, next(from_where)))
                made += 1
            held = [sock for sock in held if survives(sock, act)]
            time.sleep(0.05)
    finally:
        for sock in held:
            sock.close()
    return made


def begin(shield, source):
    """Begin a connection, and wait for nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # memory of this host that the shield has no part in
    sock.setblocking(False)
    sock.bind((source, 0))
    with contextlib.suppress(BlockingIOError):
        sock.connect(shield.address)
    return sock


def survives(sock, act):
    """Tell whether a connection is still there after its act; close it if not."""
    try:
        act(sock)
    except BlockingIOError:
        return True
    except OSError:
        sock.close()
        return False
    return True


def half_open(shield, going):
    """Connect, and say nothing."""

    def wait(sock):
        if not sock.recv(1):
            raise ConnectionError

    return crowd(shield, going, wait)


def slow_loris(shield, going):
    """Say a message of 65,535 octets, one octet at a time."""
    return crowd(shield, going, lambda sock: sock.send(b"\xff"))


def never_reading(shield, going):
    """Ask for large answers, as many as the connection takes, and read none."""
    asked = frame(LARGE) * 500
    return crowd(shield, going, lambda sock: sock.send(asked), count=200)


def transfers(shield, going):
    """Ask for the whole zone, again and again, on many connections."""
    asked = frame(quick.query("shield.test.", AXFR))
    return crowd(shield, going, lambda sock: sock.send(asked), count=200)


def come_and_go(shield, going):
    """Connect, ask, and be gone before the answer."""

    def leave(sock):
        sock.send(frame(QUERIES[0]))
        raise ConnectionError

    return crowd(shield, going, leave)


def giant_pipelines(shield, going):
    """Ask 2,000 questions in one write, again and again, and read it all; return how many, after all were answered."""
    asked = frame(QUERIES[0]) * 2000
    with contextlib.ExitStack() as stack:
        pipes = [stack.enter_context(socket.create_connection(shield.address, 5)) for _ in range(4)]
        streams = [stack.enter_context(pipe.makefile("rb")) for pipe in pipes]
        rounds = 0
        while going():
            for pipe in pipes:
                pipe.sendall(asked)
            for stream in streams:
                for _ in range(2000):
                    size = int.from_bytes(stream.read(2))
                    assert size, "the shield has closed"
                    stream.read(size)
            rounds += 1
    return rounds * len(pipes) * 2000


ATTACKS = [
    garbage,
    names_asked_once,
    never_cached,
    notifies,
    bursts,
    spoofed,
    half_open,
    slow_loris,
    never_reading,
    transfers,
    come_and_go,
    giant_pipelines,
]

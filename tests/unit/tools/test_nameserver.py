"""The small nameserver on its sockets: they carry what its zone answers whole, in time, and to the end."""

import asyncio
import contextlib
import socket

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.update
import pytest
import uvloop

from funkenshield.tools import nameserver
from funkenshield.tools.nameserver import PORT_TRIES, serve
from funkenshield.zones.local_zone import Zone
from unit.zones.test_local_zone import NOERROR, QUERY, REFUSED, assert_answers

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


class Client(asyncio.DatagramProtocol):
    """Ask over UDP, one question after the other."""

    def connection_made(self, transport):
        self.transport, self.received = transport, asyncio.Queue()

    def datagram_received(self, data, addr):
        self.received.put_nowait(data)

    async def ask(self, name, rdtype="A"):
        self.transport.sendto(dns.message.make_query(name, rdtype).to_wire())
        return dns.message.from_wire(await asyncio.wait_for(self.received.get(), 5))


@contextlib.asynccontextmanager
async def udp(address):
    transport, client = await asyncio.get_running_loop().create_datagram_endpoint(Client, remote_addr=address)
    try:
        yield client
    finally:
        transport.close()
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def tcp(address):
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def served(host="127.0.0.1", **options):
    running = await serve(host, 0, **options)
    try:
        yield running
    finally:
        await running.close()


def framed(*names, rdtype="A"):
    wires = [dns.message.make_query(name, rdtype, id=number).to_wire() for number, name in enumerate(names)]
    return b"".join(len(wire).to_bytes(2) + wire for wire in wires)


async def read(reader):
    async with asyncio.timeout(5):
        return dns.message.from_wire(await reader.readexactly(int.from_bytes(await reader.readexactly(2))))


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def run(request):
    def run(main):
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(main)

    return run


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_serves_udp_and_tcp_on_one_port(run, host):
    async def main():
        async with served(host) as running, udp(running.address) as client, tcp(running.address) as (reader, writer):
            assert running.address[0] == host
            assert running.address[1] > 0
            assert running.queries == 0
            assert len((await client.ask("www.miek.nl")).answer) == 1
            assert (await client.ask("big.miek.nl", "TXT")).flags & dns.flags.TC
            writer.write(framed("big.miek.nl", rdtype="TXT"))
            assert len((await read(reader)).answer[0]) == 13
            assert running.queries == 3

    run(main())


def test_tcp_is_pipelined_and_answered_after_the_client_has_said_all(run):
    names = [f"h{number}.load.miek.nl" for number in range(50)]

    async def main():
        async with served(delay=0.001) as running, tcp(running.address) as (reader, writer):
            writer.write(framed(*names))
            writer.write_eof()
            answers = [await read(reader) for _ in names]
            assert [answer.id for answer in answers] == list(range(50))
            assert [str(answer.answer[0].name) for answer in answers] == [f"{name}." for name in names]
            assert await reader.read() == b""

    run(main())


def test_tcp_takes_octets_as_they_come_and_lives_through_nonsense(run):
    async def main():
        async with served() as running, tcp(running.address) as (reader, writer):
            writer.write(b"\0\0" + b"\0\x05junk!" + b"\0\x0c" + QUERY[:12])
            assert (await read(reader)).rcode() == dns.rcode.FORMERR
            for octet in framed("www.miek.nl"):
                writer.write(bytes((octet,)))
                await writer.drain()
            assert (await read(reader)).rcode() == NOERROR

    run(main())


def test_udp_drops_nonsense_and_answers_on(run):
    async def main():
        async with served() as running, udp(running.address) as client:
            client.transport.sendto(b"junk")
            assert (await client.ask("www.miek.nl")).rcode() == NOERROR
            assert client.received.empty()
            assert running.queries == 2

    run(main())


def test_idle_connections_are_closed_and_others_are_not(run, monkeypatch):
    monkeypatch.setattr(nameserver, "TCP_IDLE", 0.02)

    async def main():
        async with served() as running, tcp(running.address) as (reader, writer):
            writer.write(framed("www.miek.nl")[:5])
            async with asyncio.timeout(5):
                assert await reader.read() == b""
            async with tcp(running.address) as (again, sender):
                sender.write(framed("www.miek.nl"))
                assert (await read(again)).rcode() == NOERROR

    run(main())


def test_a_delay_holds_up_each_answer_but_not_one_after_the_other(run):
    async def main():
        clock = asyncio.get_running_loop().time
        async with (
            served(delay=0.2) as running,
            udp(running.address) as client,
            tcp(running.address) as (reader, writer),
        ):
            start = clock()
            writer.write(framed(*["www.miek.nl"] * 10))
            await asyncio.gather(*(client.ask("www.miek.nl") for _ in range(10)))
            for _ in range(10):
                await read(reader)
            return clock() - start

    assert 0.19 < run(main()) < 2.0  # seconds: not 10 or 20 times the delay


def test_closing_cuts_connections_and_forgets_delayed_answers(run):
    async def main():
        async with (
            served(delay=60) as running,
            udp(running.address) as client,
            tcp(running.address) as (reader, writer),
        ):
            client.transport.sendto(QUERY)
            writer.write(framed("www.miek.nl"))
            async with asyncio.timeout(5):
                while running.queries < 2:
                    await asyncio.sleep(0)
            await running.close()
            async with asyncio.timeout(5):
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*running.address)

    run(main())


@pytest.mark.parametrize("ended", [False, True], ids=["asking", "done"])
def test_closing_while_clients_are_connected_is_no_error(run, ended):
    errors = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        async with served(delay=60) as running, tcp(running.address) as (_, writer):
            writer.write(framed("www.miek.nl"))
            if ended:
                writer.write_eof()
            async with asyncio.timeout(5):
                while not running.queries:
                    await asyncio.sleep(0)
            await asyncio.sleep(0.01)  # until the end of what is asked is seen, too
            clients = [*running._clients]
            await running.close()
            assert [client.cancelled() for client in clients] == [False]

    run(main())
    assert errors == []


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
def test_a_port_that_is_taken_is_an_error(run, kind):
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        with pytest.raises(OSError, match="in use"):
            run(serve("127.0.0.1", taken.getsockname()[1]))


def test_port_0_tries_until_udp_and_tcp_are_both_free(monkeypatch):
    ports = []
    start_server = asyncio.start_server

    async def main(busy):
        async def start(talk, host, port):
            ports.append(port)
            if len(ports) <= busy:
                raise OSError("in use")
            return await start_server(talk, host, port)

        monkeypatch.setattr(asyncio, "start_server", start)
        async with served() as running:
            assert running.address[1] == ports[-1]

    asyncio.run(main(2))
    assert len(ports) == 3
    ports.clear()
    with pytest.raises(OSError, match="in use"):
        asyncio.run(main(PORT_TRIES))
    assert len(ports) == PORT_TRIES


def test_another_zone_is_served_as_well(run):
    zone = Zone.from_text("$ORIGIN example.org.\n@ 60 SOA ns h 1 2 3 4 5\n@ 60 NS ns\nns 60 A 192.0.2.9\n")

    async def main():
        async with served(zone=zone) as running, udp(running.address) as client:
            assert_answers(await client.ask("ns.example.org"), "ns.example.org. 60 IN A 192.0.2.9")
            assert (await client.ask("miek.nl")).rcode() == REFUSED

    run(main())

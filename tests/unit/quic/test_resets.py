"""Stateless resets: whose they are, how long; and that a client of a process that has ended takes them for its end."""

import ssl

import pytest

pytest.importorskip("qh3")
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import QuicConnection
from qh3.quic.events import ConnectionTerminated
from support.quic import SECRET, SERVER, Client, Server

from funkenshield.quic.resets import RESET_MAX, RESET_MIN, TOKEN, Resets
from funkenshield.quic.strangers import cid_of

CID = b"12345678"


def test_the_next_process_has_the_same_tokens_and_another_listener_has_others():
    token = Resets(SECRET, "doq").token(CID)
    assert Resets(SECRET, "doq").token(CID) == token
    assert len({token, Resets(SECRET, "h3").token(CID), Resets(bytes(32), "doq").token(CID)}) == 3
    assert Resets(SECRET, "doq").token(b"87654321") != token


@pytest.mark.parametrize(("length", "answered"), [(9, 0), (RESET_MIN, 0), (22, 21), (43, 42), (44, 43), (1500, 43)])
def test_a_reset_is_shorter_than_what_it_answers(length, answered):
    resets = Resets(SECRET, "doq")
    made = resets.packet(CID, length)
    assert len(made) == answered <= RESET_MAX
    if made:
        assert made[0] >> 6 == 1
        assert made[-TOKEN:] == resets.token(CID)
        assert resets.packet(CID, length)[1:-TOKEN] != made[1:-TOKEN]


class Resetting(Client):
    """A client that knows what a reset is, which aioquic's does not."""

    def _begin(self):
        self.quic = QuicConnection(
            configuration=QuicConfiguration(
                is_client=True, alpn_protocols=["doq"], server_name="dns.test", verify_mode=ssl.CERT_NONE
            )
        )
        super()._begin()


@pytest.mark.parametrize("token", ["its own", "another"])
def test_a_client_takes_its_own_reset_for_the_end_and_no_other(token, certificates):
    server = Server(certificates)
    client = Resetting(server)
    client.quic.send_stream_data(0, b"\0", False)
    [(datagram, _), *_] = client.quic.datagrams_to_send(server.now)
    resets = server.resets if token == "its own" else Resets(SECRET, "h3")
    client.quic.receive_datagram(resets.packet(cid_of(datagram), len(datagram)), SERVER, server.now)
    seen = iter(client.quic.next_event, None)
    assert any(isinstance(event, ConnectionTerminated) for event in seen) == (token == "its own")

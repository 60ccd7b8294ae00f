"""Know how to come in over TLS (RFC 7858): a shield that listens for it, and clients that do well, or badly."""

import contextlib
import signal
import ssl
import struct
import subprocess
import threading
import time
from collections import Counter

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from support.certificates import HOST, believing
from support.client import Address, connected, frame, free_port
from support.control import stats
from support.nameservers import program
from support.rig import behind
from support.until import until

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
GARBAGE = b"\r\n\r\n as a terminal says it\r\n"


def shown(credentials, ocsp_response=None):
    """Return what the configuration says of a certificate."""
    files = {"certificate": credentials.certificate, "key": credentials.key, "ocsp_response": ocsp_response}
    return {option: str(file) for option, file in files.items() if file}


@contextlib.contextmanager
def encrypted(*servers, authority, certificates, listener=(), **options):
    """Run a shield as `behind` does, that listens for TLS as well; yield it, the Door, and the upstreams.

    `certificates` are credentials, or tables; `listener` is more of its table.
    """
    address = Address("127.0.0.1", free_port())
    tables = [each if isinstance(each, dict) else shown(each) for each in certificates]
    table = {"address": str(address), "transport": "tls", "certificates": tables, **dict(listener)}
    with behind(*servers, listeners=[table], **options) as (shield, *upstreams):
        yield shield, Door(address, authority), *upstreams


def tally(shield):
    """Return what the shield has counted of handshakes: by result, by version, and failures by reason."""
    counted = stats(shield)
    return Counter(counted["tls_handshakes"] | counted["tls_versions"] | counted["tls_failures"])


def reload(shield, change=None):
    """Change the text of the configuration, and have it read; wait until it counts."""
    file, before = shield.folder / "funkenshield.toml", stats(shield)["reloads"]
    if change:
        text = file.read_text()
        assert change[0] in text
        file.write_text(text.replace(*change))
    shield.process.send_signal(signal.SIGHUP)
    until(lambda: stats(shield)["reloads"] == before + 1)


class Door:
    """A listener with TLS, and how to come in."""

    def __init__(self, address, authority):
        self.address = address
        self.authority = authority

    def context(self, *, oldest=TLS12, newest=TLS13):
        """Return the context of a client that is told the truth, or nothing."""
        context = believing(self.authority)
        context.minimum_version, context.maximum_version = oldest, newest
        return context

    def plain(self, **how):
        """Connect, and say nothing."""
        return connected(self, **how)

    @contextlib.contextmanager
    def connect(self, *, context=None, name=HOST, session=None, **how):
        """Connect, and shake hands; yield the socket and a file to read from."""
        with (
            self.plain(**how) as sock,
            (context or self.context()).wrap_socket(
                sock, server_hostname=name, session=session, suppress_ragged_eofs=False
            ) as tls,
            tls.makefile("rb") as stream,
        ):
            yield tls, stream

    def ask(self, wire, **how):
        """Return the answer to a query over a connection of its own."""
        with self.connect(**how) as (sock, stream):
            sock.sendall(frame(wire))
            return read_wire(stream)

    def serves(self, wire, **how):
        """Tell whether a query over a connection of its own is answered."""
        try:
            return self.ask(wire, **how)[:2] == wire[:2]
        except (OSError, EOFError):
            return False

    def session(self, wire, **how):
        """Return a session that may be resumed, and the context that it belongs to."""
        how.setdefault("context", self.context())
        with self.connect(**how) as (sock, stream):
            sock.sendall(frame(wire))
            read_wire(stream)  # what makes the session comes before it
            return {"session": sock.session, "context": how["context"]}

    def resumes(self, wire, **session):
        """Tell whether a session is resumed; what is asked over it must be answered either way."""
        with self.connect(**session) as (sock, stream):
            sock.sendall(frame(wire))
            assert read_wire(stream)[:2] == wire[:2]
            return sock.session_reused


def read_wire(stream):
    """Return the octets of the next message; EOFError where the connection ends instead."""
    length = int.from_bytes(stream.read(2))
    if not length:
        raise EOFError
    return stream.read(length)


def has_ended(stream):
    """Tell whether the shield has ended the connection, in whatever manner."""
    try:
        return stream.read(1) == b""
    except OSError:
        return True


def ends(sock):
    """Tell whether the shield ends a connection, whatever it says before."""
    try:
        while sock.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


class ByHand:
    """A client whose octets are sent as a test likes."""

    def __init__(self, sock, context, name=HOST):
        self.sock = sock
        self._came, self._said = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._came, self._said, server_hostname=name)

    def hello(self):
        """Return the ClientHello."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._said.read()

    def shake_hands(self):
        """Shake hands; the hello may be said already."""
        self._repeated(self.tls.do_handshake)

    def flush(self):
        """Send what TLS has to say."""
        self.sock.sendall(self._said.read())

    def send(self, octets):
        self.tls.write(octets)
        self.flush()

    def read(self, count):
        """Return so many octets, or fewer where the shield ends before."""
        octets = b""
        while len(octets) < count:
            try:
                more = self._repeated(self.tls.read, count - len(octets))
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError, EOFError):
                break
            if not more:
                break
            octets += more
        return octets

    def message(self):
        """Return the octets of the next message, or none."""
        return self.read(int.from_bytes(self.read(2)))

    def finish(self):
        """Send close_notify, and go on reading."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.flush()

    def _repeated(self, step, *args):
        while True:
            try:
                done = step(*args)
            except ssl.SSLWantReadError:
                self.flush()
                octets = self.sock.recv(1 << 16)
                if not octets:
                    raise EOFError from None
                self._came.write(octets)
            else:
                self.flush()
                return done


class Secrets:
    """What a client of TLS 1.3 with TLS_AES_128_GCM_SHA256 encrypts with after its handshake, from its key log.

    The records that it makes are sent past the client, which must write nothing afterwards.
    """

    HANDSHAKE, ALERT, DATA = 22, 21, 23

    def __init__(self, log):
        (self._secret,) = (
            bytes.fromhex(line.split()[2])
            for line in log.read_text().splitlines()
            if line.startswith("CLIENT_TRAFFIC_SECRET_0 ")
        )
        self._take()

    def record(self, content, octets):
        """Return a record of this kind of content (RFC 8446 5.2)."""
        inner = octets + bytes([content])
        head = struct.pack("!BHH", self.DATA, 0x0303, len(inner) + 16)
        nonce = (int.from_bytes(self._iv) ^ self._sent).to_bytes(12)
        self._sent += 1
        return head + self._key.encrypt(nonce, inner, head)

    def key_update(self, *, wanted):
        """Return a KeyUpdate (4.6.3), and go on with the next keys; `wanted`: the server is to change its own too."""
        record = self.record(self.HANDSHAKE, bytes([24, 0, 0, 1, wanted]))
        self._secret = self._expanded("traffic upd", 32)
        self._take()
        return record

    def _take(self):
        self._key, self._iv, self._sent = AESGCM(self._expanded("key", 16)), self._expanded("iv", 12), 0

    def _expanded(self, label, length):
        name = b"tls13 " + label.encode()
        info = struct.pack("!HB", length, len(name)) + name + b"\0"
        return HKDFExpand(hashes.SHA256(), length, info).derive(self._secret)


def s_client(door, *options, sess_out=None, commands=()):
    """Return what OpenSSL's client prints, which has a session written into a file, once it came.

    It is told the `commands`, one after the other, and to quit.
    """
    command = [program("openssl"), "s_client", "-connect", str(door.address), "-CAfile", door.authority.file, *options]
    if sess_out:
        sess_out.write_bytes(b"")
        command += ["-sess_out", sess_out]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, bufsize=0) as process:
        late = threading.Timer(20.0, process.kill)
        late.start()
        printed = b""
        for line in process.stdout:
            printed += line
            if b"Verify return code" in line:
                break
        if sess_out and process.poll() is None:
            until(lambda: sess_out.stat().st_size)
        with contextlib.suppress(BrokenPipeError):
            for each in (*commands, "Q"):
                process.stdin.write(each.encode() + b"\n")
                time.sleep(0.1)  # it looks at the first letter of what it reads at once
        printed += process.stdout.read()
        late.cancel()
        return printed.decode(errors="replace")

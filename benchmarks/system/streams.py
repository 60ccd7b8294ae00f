"""Clients over TCP, TLS and HTTPS (`clients/streams.c`), the certificate they are shown, and what C is built with."""

import subprocess
from pathlib import Path
from typing import NamedTuple

from .workloads import Streams

CLIENTS = 20
LIBRARIES = ("-lssl", "-lcrypto")
CERTIFICATE, KEY = "certificate.pem", "key.pem"  # in the bench's folder: a server has one of its own below


class Said(NamedTuple):
    """What came of a load: answers and errors; connections, those that resumed a session, those that failed."""

    answered: int
    errors: int
    connections: int
    resumed: int
    failed: int
    seconds: float


def build(source: Path, program: Path, *libraries: str) -> Path:
    """Build a program in C; return its path."""
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, source, *libraries], check=True)
    return program


def build_clients(folder: Path) -> Path:
    """Build the clients; return their path."""
    return build(Path(__file__).parent / "clients" / "streams.c", folder / "clients", *LIBRARIES)


def write_certificate(folder: Path) -> None:
    """Write a certificate with an ECDSA key (P-256) that nobody vouches for."""
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", folder / KEY, "-out", folder / CERTIFICATE, "-days", "30", "-subj", "/CN=dns.bench.example",
            "-addext", "subjectAltName=DNS:dns.bench.example",
        ],
        check=True, capture_output=True,
    )  # fmt: skip


def run(clients: Path, port: int, streams: Streams, seconds: float, queries: Path) -> Said:
    """Load a server; the arguments are those of the program."""
    sessions = "resumed" if streams.resumed else "full"
    command = [clients, port, streams.over, sessions, CLIENTS, streams.open, streams.each, seconds, queries]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    *counts, elapsed = done.stdout.split()
    return Said(*map(int, counts), seconds=float(elapsed))

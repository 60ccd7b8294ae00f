"""Show that standard output blocks nobody, whoever has opened it, and whoever reads it."""

import contextlib
import os
import socket

import pytest
from support.until import until

from funkenshield.events.standard_output import StandardOutput

NOWHERE = "/proc/self/fd/no"  # what is another user's cannot be opened again


def fill(fd):
    """Write until nothing more is taken; return how many octets were."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            count += os.write(fd, b"x" * 1000)
    return count


@pytest.mark.parametrize("can_be_opened_again", [True, False])
def test_a_pipe_that_nobody_reads_blocks_nobody_and_stays_as_it_is_for_others(can_be_opened_again):
    there, here = os.pipe()
    output = StandardOutput(here, *([f"/proc/self/fd/{here}"] if can_be_opened_again else [NOWHERE]))
    written = fill(output.fd)
    assert written > 0
    assert os.get_blocking(here)
    assert not output.is_socket
    os.close(here)
    read = 0
    while read < written:
        read += len(os.read(there, 1 << 16))
    output.close()
    assert os.read(there, 1) == b""
    os.close(there)


def test_a_reader_that_is_gone_is_told():
    there, here = os.pipe()
    output = StandardOutput(here, NOWHERE)
    os.close(there)

    def is_broken():
        with contextlib.suppress(BrokenPipeError):
            os.write(output.fd, b"x")
            return False
        return True

    until(is_broken)
    output.close()
    os.close(here)


def test_a_socket_is_told_apart():
    one, other = socket.socketpair()
    with one, other:
        output = StandardOutput(one.fileno(), NOWHERE)
        assert output.is_socket
        output.close()


def test_where_it_was_closed_nothing_is_written_to_what_has_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.__stdout__", None)
    with (tmp_path / "other").open("wb") as other:
        output = StandardOutput(other.fileno(), f"/proc/self/fd/{other.fileno()}")
        os.write(output.fd, b"line")
        output.close()
    assert (tmp_path / "other").read_bytes() == b""

"""Whoever asks whether a daemon serves is told why not, in a line."""

import pytest
from click.testing import CliRunner
from support.client import free_port

from funkenshield import cli


@pytest.mark.parametrize(
    ("listen", "code", "said"),
    [
        ("", 2, "metrics.listen: none; /ready is asked for at that address"),
        ("127.0.0.1:{port}", 1, "not ready: 127.0.0.1:{port}: [Errno 111] Connection refused"),
        ("nowhere", 2, "FUNKENSHIELD_METRICS__LISTEN: metrics.listen: "),
    ],
)
def test_it_says_why_it_is_not(listen, code, said, monkeypatch):
    port = free_port()
    if listen:
        monkeypatch.setenv("FUNKENSHIELD_METRICS__LISTEN", listen.format(port=port))
    done = CliRunner().invoke(cli.main, ["ready"], catch_exceptions=False)
    assert done.exit_code == code
    assert done.stderr.startswith(f"funkenshield: {said.format(port=port)}")
    assert done.stderr.count("\n") == 1

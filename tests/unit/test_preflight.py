"""What a configuration names on this machine is looked for before anything begins; a line tells what is not there."""

import pytest
from click.testing import CliRunner

from funkenshield import cli
from funkenshield.config import Config
from funkenshield.errors import ConfigError
from funkenshield.preflight import examine
from funkenshield.server import tls

MISSING = {
    'user = "nobody-of-that-name"': "user: no user nobody-of-that-name on this machine",
    'cache.snapshot = "{0}/none/cache"': "cache.snapshot: no folder {0}/none on this machine",
    'query_log = [{{ file = "{0}/none/log" }}]': "query_log.file: no folder {0}/none on this machine",
    'cookies.secret_file = "{0}/none"': "cookies.secret_file: {0}/none: No such file or directory",
    'web = {{page = true, token_file = "{0}/none"}}': "web.token_file: {0}/none: No such file or directory",
    'upstreams = "127.0.0.1:8054"': "upstreams: 127.0.0.1:8054 is the shield itself, which listens on 127.0.0.1:8054",
}
TLS = (
    '[[upstreams]]\naddress = "127.0.0.1:853"\ntransport = "tls"\n'
    'tls.server_name = "a.test"\ntls.ca_file = "{0}/none"\n'
)


@pytest.mark.parametrize("command", ["check", "run"])
def test_all_that_is_missing_is_told_at_once(command, tmp_path):
    file = tmp_path / "f.toml"
    file.write_text("\n".join(MISSING).format(tmp_path))
    done = CliRunner().invoke(cli.main, [command, "-c", str(file)])
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [f"funkenshield: {file}: {line.format(tmp_path)}" for line in MISSING.values()]


def test_the_secret_that_nobody_named_is_made_when_it_is_wanted(tmp_path, monkeypatch):
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "none"))
    file = tmp_path / "f.toml"
    file.write_text('upstreams = "192.0.2.53:53"')
    done = CliRunner().invoke(cli.main, ["check", "-c", str(file)])
    assert (done.exit_code, done.stderr) == (0, "")


def test_what_listeners_encrypt_with_is_looked_for(tmp_path, monkeypatch):
    file = tmp_path / "f.toml"
    file.write_text(
        '[tls]\nticket_secret_file = "secret"\n[[listeners]]\naddress = "127.0.0.1:853"\ntransport = "tls"\n'
        'certificates = [{ certificate = "a", key = "k" }, { certificate = "b" }]\n'
    )
    monkeypatch.setattr(tls, "compiled", lambda: None)
    done = CliRunner().invoke(cli.main, ["check", "-c", str(file)])
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        f"funkenshield: {file}: {key}: {tmp_path}/{name}: No such file or directory"
        for key, name in (
            ("listeners.certificates.certificate", "a"),
            ("listeners.certificates.certificate", "b"),
            ("tls.ticket_secret_file", "secret"),
        )
    ]


def test_what_nodes_share_is_looked_for_at_the_start_and_at_no_reload(tmp_path):
    pytest.importorskip("hiredis")
    config = Config(cluster={"store": "redis://127.0.0.1", "secret_file": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match=r"^file: cluster.secret_file: .*none: No such file or directory$"):
        examine(config, "file")
    examine(config, "file", at_reload=True)


def test_certificates_are_looked_for(tmp_path):
    file = tmp_path / "f.toml"
    file.write_text(TLS.format(tmp_path))
    done = CliRunner().invoke(cli.main, ["check", "-c", str(file)])
    assert done.exit_code == 2
    assert f"{file}: upstream tls://127.0.0.1:853#a.test: " in done.stderr

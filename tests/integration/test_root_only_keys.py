"""A shield that was started by root has read keys that nobody else may read, and goes on with them as somebody else."""

import os
import signal
import ssl

import pytest
from support.certificates import Authority
from support.client import free_port
from support.process import run_shield
from support.until import until
from support.upstream import ScriptedUpstream, answer

pytest.importorskip("funkenshield.server._tls")
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_what_root_has_read_stays_in_use_and_what_cannot_be_followed_is_told(mode, tmp_path):
    for folder in (tmp_path, *tmp_path.parents):
        if "pytest" not in str(folder):
            break
        folder.chmod(mode)
    file, port = Authority(tmp_path).issue("dns.test").file, free_port()
    file.chmod(0o600)
    toml = (
        f'user = "nobody"\n[[listeners]]\naddress = "127.0.0.1:{port}"\ntransport = "tls"\n'
        f'certificates = {{ certificate = "{file}" }}\n'
    )
    told = f"listeners.certificates.certificate: {file}: Permission denied; let the user nobody read it;"
    with (
        ScriptedUpstream(lambda query: answer(query, "A 192.0.2.1")) as upstream,
        run_shield([upstream], toml=toml) as shield,
    ):
        shown = ssl.get_server_certificate(("127.0.0.1", port))
        assert shown in file.read_text()
        assert shield.log.count(told) == 1
        shield.folder.chmod(0o755)  # the configuration itself can be read again
        shield.process.send_signal(signal.SIGHUP)
        until(lambda: "reloaded" in shield.log)
        assert "reload failed" not in shield.log
        assert shield.log.count(told) == 1
        assert ssl.get_server_certificate(("127.0.0.1", port)) == shown

"""Show that the systemd unit's filters let the shield do all that it can be configured to do."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import filtered
from support.client import Address, ask, free_port
from support.process import COMMAND, run_shield
from support.until import until
from support.upgrades import command, has_ended
from support.upstream import ScriptedUpstream, answer

UNIT = Path(__file__).parents[2] / "contrib" / "funkenshield.service"
ALL = """
cookies = { mode = "serve" }
client_subnet = { add = true }
health = { check = "always" }
cache = { memory = "1GiB", snapshot = "kept", nxdomain_cut = true }
metrics = { listen = "METRICS" }
allow_notify_from = ["127.0.0.1"]

[[upstreams]]
address = "UPSTREAM"

[[upstreams]]
address = "127.0.0.1:1"
transport = "tcp"
groups = ["streams"]

[[upstreams]]
address = "127.0.0.2:1"
transport = "tls"
groups = ["streams"]
tls = { server_name = "ns.test" }

[[zones]]
name = "watched.test"
watch = true
watch_interval = 1

[[zones]]
name = "named.test"
upstreams = "localhost:PORT"

[[zones]]
name = "streams.test"
group = "streams"

[[rules]]
match = { suffix = "ruled.test" }
action = { call = "rules.py:f" }
"""

pytestmark = pytest.mark.skipif(bool(filtered.why_not()), reason=filtered.why_not())


@pytest.fixture
def upstream():
    with ScriptedUpstream(lambda query: answer(query, "A 192.0.2.1")) as running:
        yield running


@contextlib.contextmanager
def run_filtered(file):
    """Run the daemon of a file under the filters of the unit; yield it once it is ready, and what it said by then."""
    with subprocess.Popen(
        [*COMMAND, "run", "-c", file, "--control", file.parent / "control"], stderr=subprocess.PIPE, text=True,
        preexec_fn=filtered.load_filter(UNIT),  # noqa: PLW1509
    ) as process:  # fmt: skip
        said = [process.stderr.readline()]
        while "ready" not in said[-1]:
            assert process.poll() is None, said
            said.append(process.stderr.readline())
        yield process, said


def test_everything_at_once_under_the_filters_of_the_unit(upstream, tmp_path):
    address, metrics = Address("127.0.0.1", free_port()), Address("127.0.0.1", free_port())
    (tmp_path / "rules.py").write_text("import time\ndef f(query):\n    time.sleep(0.001)\n")
    file = tmp_path / "funkenshield.toml"
    text = ALL.replace("UPSTREAM", str(upstream.address)).replace("METRICS", str(metrics))
    text = text.replace("PORT", str(upstream.address.port))
    file.write_text(f'listen = ["{address}"]\nworkers = 2\n{text}')
    with run_filtered(file) as (process, said):
        for name in ("www.test.", "a.watched.test.", "a.ruled.test.", "a.named.test."):
            for tcp in (False, True):
                assert ask(name, server=address, tcp=tcp, timeout=10).answer
        assert not ask("a.streams.test.", server=address, timeout=10).answer
        process.send_signal(signal.SIGHUP)
        while "reloaded" not in said[-1]:
            assert process.poll() is None, said
            said.append(process.stderr.readline())
        process.terminate()
        said.extend(process.stderr.readlines())
        assert process.wait(10) == 0, said
    assert (tmp_path / "kept").stat().st_size > 0
    assert not [line for line in said if "Operation not permitted" in line or "ERROR" in line]


def test_the_file_that_comes_with_the_unit_can_be_run_under_its_filters(tmp_path):
    text = UNIT.with_suffix(".toml").read_text()
    for port in "53", "9153":
        text = text.replace(f':{port}"', f':{free_port()}"')
    file = tmp_path / "funkenshield.toml"
    file.write_text(text.replace("/var/lib/funkenshield", str(tmp_path)))
    checked = subprocess.run(
        [*COMMAND, "check", "-c", file], capture_output=True, text=True, timeout=20,
        preexec_fn=filtered.load_filter(UNIT),
    )  # fmt: skip
    assert (checked.returncode, checked.stderr) == (0, "")
    with run_filtered(file) as (process, said):
        process.terminate()
        assert process.wait(10) == 0, said


def test_another_process_takes_over_under_the_filters_of_the_unit(upstream, tmp_path):
    address, file = Address("127.0.0.1", free_port()), tmp_path / "funkenshield.toml"
    file.write_text(f'listen = ["{address}"]\nupstreams = ["{upstream.address}"]\nworkers = 2\n')
    with run_filtered(file) as (process, said):
        assert ask("www.test.", server=address).answer
        done = command(SimpleNamespace(control=tmp_path / "control"), command="upgrade")
        assert done["ok"], done
        assert process.wait(10) == 0, said
        assert ask("www.test.", server=address).answer
        os.kill(done["pid"], signal.SIGTERM)
        until(lambda: has_ended(done["pid"]), 10)
    assert upstream.count("www.test.") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
def test_who_may_not_become_another_user_is_told_so(tmp_path):
    file = tmp_path / "funkenshield.toml"
    file.write_text(f'listen = ["127.0.0.1:{free_port()}"]\nuser = "nobody"\n')
    done = subprocess.run(
        [*COMMAND, "run", "-c", file, "--control", tmp_path / "control"], capture_output=True, text=True, timeout=20,
        preexec_fn=filtered.load_filter(UNIT),
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "user: cannot change to nobody: Operation not permitted" in done.stderr


def test_a_large_cache_serves_where_no_thread_may_give_way(upstream, monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os\ndef refused(*_):\n    raise PermissionError(1, 'refused')\nos.nice = os.setpriority = refused\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with run_shield([upstream], toml='cache.memory = "1GiB"') as shield:
        assert ask("www.test.", server=shield).answer
        assert ask("www.test.", server=shield).answer
        assert "stopping" not in shield.log

"""Everything that is counted has a name and a meaning."""

from support.client import free_port

from funkenshield.admin.metrics import METRICS
from funkenshield.admin.stats import MORE
from funkenshield.config import load
from funkenshield.daemon import Daemon

PARTS = {  # that count for another counter, or by another name
    "cache_ecs_prefix_lengths", "cache_purge_rules", "latency_histogram", "outbox_send_errors", "queue_share_exceeded",
}  # fmt: skip


def test_every_counter_has_a_meaning(tmp_path):
    options = {"listen": [f"127.0.0.1:{free_port()}"], "workers": 1, "control.socket": str(tmp_path / "control.sock")}
    daemon = Daemon(load(None, options))
    daemon._bound.close()
    assert set(daemon.stats.counted()) == {*METRICS, *MORE, *PARTS}
    assert set(daemon.snapshot()) == {*METRICS, *MORE}

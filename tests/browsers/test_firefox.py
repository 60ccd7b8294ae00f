"""Show that Firefox finds pages by DNS over HTTPS (RFC 8484), by GET and by POST, and asks nothing otherwise."""

import json
import os
import subprocess

import pytest
from support.certificates import Authority
from support.client import Address, free_port
from support.control import stats
from support.encrypted import shown
from support.rig import answering, behind, received
from support.site import site

pytestmark = pytest.mark.browser


def firefox(folder, authority, page, **settings):
    """Have a browser that knows an authority and these settings look at a page."""
    lines = [f'user_pref("network.trr.{name}", {json.dumps(value)});\n' for name, value in settings.items()]
    (folder / "user.js").write_text("".join(lines))
    trust = ["certutil", "-d", f"sql:{folder}"]
    subprocess.run([*trust, "-N", "--empty-password"], check=True, timeout=20)
    subprocess.run([*trust, "-A", "-n", "authority", "-t", "C,,", "-i", authority.file], check=True, timeout=20)
    subprocess.run(
        ["firefox-esr", "--headless", "--no-remote", "--profile", folder, "--screenshot", folder / "page.png", page],
        env={**os.environ, "HOME": str(folder)}, check=True, timeout=60, capture_output=True,
    )  # fmt: skip


@pytest.mark.parametrize("get", [True, False])
def test_firefox_finds_a_page_by_it(tmp_path, get):
    authority, address = Authority(tmp_path), Address("127.0.0.1", free_port())
    listener = {"address": str(address), "transport": "https", "certificates": [shown(authority.issue("127.0.0.1"))]}
    with behind(answering("127.0.0.1"), listeners=[listener]) as (shield, upstream), site() as server:
        page = f"page.test:{server.server_port}"
        firefox(
            tmp_path, authority, f"http://{page}/", mode=3, uri=f"https://{address}/dns-query", useGET=get,
            **{"allow-rfc1918": True},
        )  # fmt: skip
        assert page in server.hosts
        asked_for = received(upstream)["page.test."]  # A, and AAAA or HTTPS
        assert 1 <= asked_for <= 3
        counted = stats(shield)["queries_by_transport"]
        assert counted.pop("https") >= asked_for
        assert not any(counted.values())

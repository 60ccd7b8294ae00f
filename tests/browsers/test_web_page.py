"""Show in a real browser that the page shows names as they are, fits on a phone, and follows the daemon's end."""

import pytest
from support.browser import Browser
from support.simulated import Simulated, page

pytestmark = pytest.mark.browser
HOSTILE = '<img src=x onerror="document.title=1"><b id=evil>\u202e"\'&lt;</b>'


class Hostile(Simulated):
    """A shield whose names a stranger has chosen."""

    def snapshot(self):
        found = super().snapshot()
        upstreams = {HOSTILE: next(iter(found["upstreams"].values())) | {"name": HOSTILE, "state": HOSTILE}}
        return found | {"upstreams": upstreams, "rules": {HOSTILE: next(iter(found["rules"].values()))}}

    def _listed(self):
        return [{"prefix": HOSTILE, "seconds": 60.0, "action": HOSTILE, "reason": HOSTILE}]

    def top(self, most=20):
        return {"seconds": 5.0, "names": [{"name": HOSTILE, "queries": 5, "error": 0}], "clients": [], "zones": []}


@pytest.fixture
def browser():
    opened = Browser()
    yield opened
    opened.close()


def test_hostile_names_are_text_and_nothing_runs(browser):
    with page(Hostile(busy=True)) as url:
        browser.open(url, (1440, 900), "dark")
        assert browser.evaluate("document.querySelectorAll('#evil, main img, main script').length") == 0
        for table in ("#upstreams", "#rules", "#blocks", "#top-names"):
            assert HOSTILE in browser.evaluate(f"document.querySelector('{table}').textContent")
        assert browser.evaluate("document.title.includes('FunkenShield')")
        assert browser.errors == []
        assert (
            browser.evaluate("(() => { try { document.body.innerHTML = 'x' } catch { return 'refused' } })()")
            == "refused"
        )


@pytest.mark.parametrize("size", [(320, 640), (390, 844), (768, 1024), (1440, 900), (2560, 1440)])
@pytest.mark.parametrize("busy", [True, False])
def test_it_fits(browser, size, busy):
    with page(Simulated(busy=busy)) as url:
        browser.open(url, size, "light")
        assert browser.evaluate("document.documentElement.scrollWidth") <= size[0]
        assert browser.errors == []


def test_it_says_when_the_daemon_is_gone(browser):
    with page(Simulated(busy=True)) as url:
        browser.open(url, (390, 844), "dark")
        assert browser.evaluate("document.getElementById('gone').hidden")
    browser.until("document.getElementById('live').dataset.state === 'gone'")
    assert "does not answer since" in browser.evaluate("document.getElementById('gone').textContent")

"""Links in the pages lead somewhere, and the menu of the site has all pages."""

import re

import pytest
from support.pages import PAGES, ROOT, anchors, links


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    for path, anchor in links(page):
        assert path.exists(), path
        if anchor:
            assert anchor in anchors(str(path.resolve().relative_to(ROOT)))


def test_the_menu_of_the_site_has_all_pages():
    menu = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    pages = {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")}
    outside = {"decisions/index.md", "reporting.md", "contributing.md", "changes.md"}  # tools/site.py makes these
    assert set(menu) - outside == {page for page in pages if not page.startswith("decisions/")}
    assert len(menu) == len(set(menu))

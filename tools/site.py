"""What the site has that is not in docs/: a list of decisions, pages from the top of the source, benchmarks' figures.

MkDocs calls the functions whose names begin with `on_`. Links are written as they work in the source: to a page, they
lead to that page on the site, and to anything else, to the repository. A page that would load something from elsewhere
ends the build.
"""

import json
import posixpath
import re
from pathlib import Path
from statistics import median

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
ABOVE = {"SECURITY.md": "reporting.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md"}
SOURCES = {page: source for source, page in ABOVE.items()}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
LOADED = re.compile(r"""<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'\s>]+|"""
                    r"""<link\b(?![^>]*\brel=["']?canonical)[^>]*\bhref=["']?(?:https?:)?//[^"'\s>]+|"""
                    r"""(?:url\(|@import )["']?(?:https?:)?//[^"')\s]+""")  # fmt: skip
EMBEDS = ("*.html", "*.css")


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add what is not in docs/."""
    for source, page in {**ABOVE, "funkenshield/web/page/icon.svg": "icon.svg"}.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    titles = (f"- [{title(decision)}]({decision.name})" for decision in DECISIONS)
    text = "\n".join(["# Decisions\n", "Previously, now, why, and what it costs.\n", *titles, ""])
    files.append(File.generated(config, "decisions/index.md", content=text))


def title(page: Path) -> str:
    """Return the heading of a page."""
    return page.read_text().partition("\n")[0].lstrip("# ")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Have links lead to where things are on the site, and put figures in their places."""
    here = SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def leads_to(link: re.Match[str]) -> str:
        there = posixpath.normpath(posixpath.join(posixpath.dirname(here), link[1]))
        on_site = ABOVE.get(there, there.removeprefix("docs/") if there.startswith("docs/") else "")
        if on_site and files.get_file_from_path(on_site):
            return posixpath.relpath(on_site, posixpath.dirname(page.file.src_uri) or ".") + (link[2] or "")
        if not (ROOT / there).exists():
            raise PluginError(f"{here}: there is no {link[1]}")
        kind = "tree" if (ROOT / there).is_dir() else "blob"
        return f"{config.extra['source']}/{kind}/main/{there}{link[2] or ''}"

    return re.sub(r"\{\{ (\w+) \}\}", lambda figure: figures()[figure[1]], LINK.sub(leads_to, markdown))


def figures() -> dict[str, str]:
    """Return what the start page tells of the benchmarks, by name."""
    results = json.loads((ROOT / "docs" / "benchmarks" / "results.json").read_text())

    def middle(which: str, name: str, key: str) -> float:
        return median(each[key] for each in results["taken"][which][name])

    memory = results["memory"]["funkenshield"]
    return {
        "hits_per_second": f"{middle('hot', 'funkenshield', 'qps'):,.0f}",
        "misses_per_second": f"{middle('miss', 'funkenshield', 'qps'):,.0f}",
        "hit_microseconds": f"{middle('hot', 'funkenshield', 'us'):.1f}",
        "nameserver_microseconds": f"{middle('hot', 'nsd', 'us'):.1f}",
        "entry_octets": f"{memory[max(memory, key=int)]:.0f}",
    }


def on_post_build(config: MkDocsConfig) -> None:
    """Look for what would be loaded from elsewhere."""
    built = Path(config.site_dir)
    loaded = {
        f"{page.relative_to(built)}: {found[0]}"
        for kind in EMBEDS
        for page in built.rglob(kind)
        for found in LOADED.finditer(page.read_text())
    }
    if loaded:
        raise PluginError("loaded from elsewhere:\n" + "\n".join(sorted(loaded)))

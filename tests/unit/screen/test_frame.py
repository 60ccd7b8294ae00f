"""Show what stands on a screen of any size, and that nothing that strangers name can steer it."""

import re

import pytest
from rich.console import Console
from support.shown import histogram, rule, upstream
from support.status import UNIX, block, failure, line, most, status

from funkenshield.screen.frame import HELP, Daemon, Look, frame, sheet
from funkenshield.screen.shown import Readings
from funkenshield.screen.tables import TABLES
from funkenshield.screen.viewer import Viewer
from funkenshield.screen.wording import as_ascii

EVIL = "\x1b]0;x\x07[bold red]\u202eevil\r\n"
SAFE = "\\x1b]0;x\\x07[bold red]\\u202eevil\\r\\n"
BUSY = {
    "top": {
        "seconds": 5.0, "outcomes": {"hit": 50_000},
        "names": most("name", www__example__com=30_000, **{f"n{n}__example__net": 100 - n for n in range(60)}),
        "clients": most("client", **{"192__0__2__17": 20_000}), "zones": most("zone", example__com=40_000),
    },
    "upstreams": [upstream("ams-1", queries=600), upstream("lhr-1", state="down", up=0, why="5 queries timed out")],
    "rules": [rule(300) | {"name": "ads", "enabled": True, "match": "suffix = ads.test.", "action": "nxdomain"}],
    "blocks": [block("198.51.100.0/24")], "failures": [failure("lost.test.")], "log": [line("reloaded")],
    "queries": 30_000, "queries_by_transport": {"udp": 30_000, "tcp": 0}, "responses": {"udp": {"NOERROR": 29_000}},
    "cache_hits": 27_000, "cache_misses": 3000,
    "cache_bytes": 64 << 20, "cache_limit_bytes": 256 << 20,
    "cache_entries": 600_000, "outstanding_queries": 48, "cache_miss_latency_histogram": histogram(b5=3000),
}  # fmt: skip
QUIET = {"cache_limit_bytes": 256 << 20, "upstreams": [upstream("ams-1")]}


def viewer_of(before=QUIET, now=BUSY, **more):
    """Return who looks at a daemon, of which that was told one second after another."""
    readings = Readings()
    upstreams = [each | {"queries": 0} for each in now["upstreams"]]
    rules = [each | {"matches": 0} for each in now.get("rules", [])]
    readings.take(status(**(before | {"upstreams": upstreams, "rules": rules})), 0.0, UNIX)
    viewer = Viewer(**more)
    viewer.shown = readings.take(status(**now), 1.0, UNIX + 1)
    return viewer


def drawn(viewer, width=80, height=24, *, colours=False, daemon=None):
    """Return the lines of a frame, as a terminal of that size gets them."""
    console = Console(
        width=width, height=height, force_terminal=True, color_system="standard" if colours else None,
        markup=False, emoji=False, highlight=False, legacy_windows=False, _environ={},
    )  # fmt: skip
    made = frame(viewer, daemon or Daemon("/run/here.sock", now=UNIX + 1), Look(width, height, colours))
    with console.capture() as captured:
        console.print(made, end="", width=width, height=height, crop=True)
    return captured.get().removesuffix("\n").split("\n")


def text(lines):
    """Return lines as one text, without what draws boxes, each with single spaces."""
    return "\n".join(" ".join(line.split()) for line in lines)


@pytest.mark.parametrize(
    "size", [(80, 24), (160, 50), (120, 40), (200, 60), (100, 50), (132, 24), (40, 12), (20, 5), (8, 3), (1, 1)]
)
def test_a_frame_is_as_large_as_the_screen(size):
    for viewer in (viewer_of(), viewer_of(QUIET, QUIET), Viewer(), viewer_of(helping=True), viewer_of(focus=3)):
        lines = drawn(viewer, *size)
        assert len(lines) == size[1]
        assert {len(line) for line in lines} == {size[0]}
        assert as_ascii("".join(lines)).isascii()
        assert "?" not in as_ascii("".join(lines)) or viewer.helping


def test_a_small_screen_shows_what_matters_and_one_table():
    shown = text(drawn(viewer_of()))
    for told in (
        "FunkenShield on ns1.test", "/run/here.sock", "live", "Queries 30,000/s", "From cache 90.0 %",
        "median 7.50 ms",
        "waiting 48", "Failed 0/s", "64.0 MiB of 256 MiB, 600,000 entries", "hits 90.0 %", "forwarded 10.0 %",
        "upstream lhr-1 is down: 5 queries timed out", "www.example.com", "6,000 60.0 %", "q quit",
    ):  # fmt: skip
        assert told in shown, told
    assert "192.0.2.17" not in shown
    assert "192.0.2.17 4,000 40.0 %" in text(drawn(viewer_of(focus=1)))


def test_a_large_screen_shows_all_tables():
    shown = text(drawn(viewer_of(), 160, 50))
    for told in (
        "www.example.com", "192.0.2.17", "example.com", "ams-1 up 600", "5 queries timed out", "ads 300",
        "suffix = ads.test. -> nx", "198.51.100.0/24 1 min 30 s", "lost.test. A", "reloaded",
        *(table.title for table in TABLES), "NOERROR", "UDP",
    ):  # fmt: skip
        assert told in shown, told


@pytest.mark.parametrize("focus", range(len(TABLES)))
def test_each_table_fits_on_a_small_screen(focus):
    lines = drawn(viewer_of(focus=focus))
    assert f" {focus + 1} {TABLES[focus].title} " in "\n".join(lines) + " "
    assert not any("…" in line for line in lines[9:10]), "no head is cut"


def test_an_idle_daemon_is_told_to_be_well():
    shown = text(drawn(viewer_of(QUIET, QUIET)))
    assert "✔ the upstream is in service, no client feels a failure" in shown
    assert "no queries now" in shown
    assert "nothing is asked for now" in shown


def test_a_daemon_that_is_gone_is_told_with_what_was_seen_last():
    daemon = Daemon("/run/here.sock", gone="No such file", since=UNIX, now=UNIX + 9)
    shown = text(drawn(viewer_of(), daemon=daemon))
    assert "not reachable" in shown
    assert "no answer since" in shown
    assert "Queries 30,000/s" in shown
    assert "/run/here.sock does not answer: No such file" in text(drawn(Viewer(), daemon=daemon))


def test_several_daemons_are_told():
    shown = text(drawn(viewer_of(), 100, daemon=Daemon("/run/here.sock", 2, 3)))
    assert "/run/here.sock (2 of 3, n: next)" in shown


@pytest.mark.parametrize("size", [(80, 24), (160, 50)])
@pytest.mark.parametrize("focus", range(len(TABLES)))
def test_hostile_names_are_shown_and_do_nothing(size, focus):
    top = {"seconds": 1.0, "outcomes": {}}
    for subject in ("name", "client", "zone"):
        top[f"{subject}s"] = [{subject: EVIL, "queries": 5, "error": 0}]
    hostile = {
        "top": top, "upstreams": [upstream(EVIL, why=EVIL, state="down", up=0)],
        "rules": [rule(1) | {"name": EVIL, "enabled": True, "match": EVIL, "action": EVIL}],
        "blocks": [block(EVIL, reason=EVIL)], "failures": [failure(EVIL, upstream=EVIL, text=EVIL)],
        "log": [line(EVIL)],
        "resolution_failures": 3, "steered": {"rules disabled": [EVIL], "log level": EVIL},
    }  # fmt: skip
    for more in ({}, {"opened": {"name": EVIL}}):
        viewer = viewer_of(hostile, hostile, focus=focus)
        if more:
            viewer.press("enter")
        viewer.say("")
        shown = "".join(drawn(viewer, *size, daemon=Daemon(EVIL, gone=EVIL)))
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", shown)
        assert "\\x1b]0;" in shown
    for said in ({"message": EVIL}, {"entry": None}):
        viewer = viewer_of(hostile, hostile, focus=focus, **said)
        viewer.press("/") if "entry" in said else None
        viewer.press("\u202e")
        assert not re.search(r"[\x00-\x1f\u202e]", "".join(drawn(viewer, *size)))


def test_without_colours_there_are_none_and_all_is_said():
    assert not any("\x1b" in each for each in drawn(viewer_of()))
    coloured = drawn(viewer_of(), colours=True)
    assert any("\x1b[" in each for each in coloured)
    assert set(re.findall(r"\x1b[^m]*(.)", "".join(coloured))) == {"m"}, "nothing but colours"


def test_the_selected_row_is_on_the_screen_wherever_it_is():
    viewer = viewer_of()
    for _ in range(60):
        viewer.press("down")
    assert "n59.example.net" in text(drawn(viewer))
    viewer.press("home")
    assert "www.example.com" in text(drawn(viewer))


def test_questions_lines_and_messages_stand_at_the_bottom():
    viewer = viewer_of()
    viewer.press("p")
    assert drawn(viewer)[-1].startswith(" Purge www.example.com?  y: yes, any other key: no")
    viewer.press("x")
    assert drawn(viewer)[-1].startswith(" nothing was changed")
    viewer.press("/")
    viewer.press("a")
    assert drawn(viewer)[-1].startswith(" Names with: a_")
    viewer.press("enter")
    assert drawn(viewer)[-1].startswith(" only with 'a', Esc: all")


def test_a_row_is_opened_with_all_that_is_cut_elsewhere():
    long = "x" * 200
    viewer = viewer_of(now=BUSY | {"log": [line(long)]}, focus=7)
    assert long not in "".join(drawn(viewer))
    viewer.press("enter")
    assert "".join(drawn(viewer)).count("x") == 200


def test_help_and_explanations_fit_on_a_small_screen():
    shown = text(drawn(viewer_of(helping=True)))
    assert all(" ".join(f"{keys} {meaning}".split()) in shown for keys, meaning in HELP)
    shown = text(drawn(viewer_of(explained=("cache no entry", f"=> {EVIL}"))))
    assert "cache no entry" in shown
    assert SAFE in shown
    assert "any key goes back" in shown


def test_a_sheet_has_all_tables():
    console = Console(width=100, force_terminal=True, color_system="standard", _environ={})
    with console.capture() as captured:
        console.print(sheet(viewer_of(), Daemon("/run/here.sock", now=UNIX), Look(100, 0, colours=False)))
    drawn = captured.get()
    shown = text(re.sub(r"\x1b\[[\d;]*m", "", drawn).split("\n"))
    for told in ("Queries 30,000/s", "www.example.com", "192.0.2.17", "lhr-1 down", "lost.test. A", "reloaded"):
        assert told in shown
    assert drawn.count("\x1b[7m") == 2, "the title, but no row"

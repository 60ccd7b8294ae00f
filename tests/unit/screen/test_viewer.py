"""Show what keys do: to the screen at once, to the daemon only after "y", and nothing but what was asked."""

import pytest
from support.shown import rule, upstream
from support.status import UNIX, block, failure, line, most, status

from funkenshield.screen.shown import Readings
from funkenshield.screen.tables import TABLES
from funkenshield.screen.viewer import Viewer

TABLE = {table.name: str(number) for number, table in enumerate(TABLES, 1)}
TOP = {
    "seconds": 5.0,
    "outcomes": {"hit": 100},
    "names": most("name", a__test=40, b__test=30, c__other=20),
    "clients": most("client", **{"192__0__2__9": 9, "192__0__2__10": 8}),
    "zones": most("zone", test=70, **{"": 3}),
}
TOP["zones"][1]["zone"] = "."
ANSWER = {
    "top": TOP,
    "upstreams": [upstream("one", queries=9), upstream("two", state="down", up=0, why="5 timeouts")],
    "rules": [rule(3) | {"name": "ads", "enabled": True, "match": "", "action": "nxdomain"}],
    "blocks": [block("198.51.100.0/24")],
    "failures": [failure("lost.test.")],
    "log": [line("reloaded")],
}

FRA = [
    upstream("fra", address="192.0.2.5:53", queries=9),
    upstream("fra", address="192.0.2.6:53", state="down", up=0, why="5 timeouts"),
]


@pytest.fixture
def viewer():
    """Return who looks at a daemon that has something in each table."""
    found = Viewer()
    look(found)
    return found


def look(viewer, **more):
    """Have the daemon tell again how it is."""
    viewer.shown = Readings().take(status(**(ANSWER | more)), 0.0, UNIX)


def press(viewer, *keys):
    """Press keys, and return what the daemon is asked for."""
    found = [viewer.press(key) for key in keys]
    assert found[:-1] == [None] * (len(keys) - 1), "nothing is asked for before the last key"
    return found[-1]


def names(viewer):
    return [viewer.table.key(row) for row in viewer.rows()]


@pytest.mark.parametrize(
    ("table", "keys", "question", "members"),
    [
        ("names", "p", "Purge a.test?", {"command": "purge", "name": "a.test", "below": False}),
        ("zones", "p", "Purge test and all names below it?", {"command": "purge", "name": "test", "below": True}),
        ("failures", "p", "Purge lost.test.?", {"command": "purge", "name": "lost.test.", "below": False}),
        ("upstreams", "d", "Drain two: it gets no new queries", {"command": "upstream drain", "name": "two"}),
        ("upstreams", "D", "Take down two: what waits for it is asked elsewhere",
         {"command": "upstream down", "name": "two"}),
        ("upstreams", "u", "Give back two: its health decides again?", {"command": "upstream up", "name": "two"}),
        ("rules", "d", "Disable rule ads?", {"command": "rules disable", "name": "ads"}),
        ("rules", "u", "Enable rule ads?", {"command": "rules enable", "name": "ads"}),
        ("blocks", "u", "Block 198.51.100.0/24 no more?", {"command": "block remove", "prefix": "198.51.100.0/24"}),
        ("changes", "r", "Read the configuration again?", {"command": "reload"}),
    ],
)  # fmt: skip
def test_what_is_selected_is_steered_after_a_question(viewer, table, keys, question, members):
    assert press(viewer, TABLE[table], *keys) is None
    assert viewer.question.text.startswith(question)
    assert press(viewer, "y").members == members
    assert viewer.question is None


@pytest.mark.parametrize(
    ("key", "question", "command"),
    [
        ("d", "Drain all 2 addresses of fra: it gets", "drain"),
        ("D", "Take down all 2 addresses of fra: what", "down"),
        ("u", "Give back all 2 addresses of fra: its", "up"),
    ],
)
def test_who_steers_one_address_of_an_upstream_is_told_that_all_are(viewer, key, question, command):
    look(viewer, upstreams=FRA)
    press(viewer, TABLE["upstreams"], key)
    assert viewer.question.text.startswith(question)
    assert press(viewer, "y").members == {"command": f"upstream {command}", "name": "fra"}


def test_addresses_of_an_upstream_are_told_apart(viewer):
    look(viewer, upstreams=[upstream("one"), *FRA])
    upstreams = TABLES[int(TABLE["upstreams"]) - 1]
    shown = [upstreams.columns[0].text(row, viewer.shown) for row in viewer.shown.tables["upstreams"]]
    assert shown == ["fra 192.0.2.6:53", "one", "fra 192.0.2.5:53"]
    (problem,) = viewer.shown.problems
    assert problem.text == "upstream fra 192.0.2.6:53 is down: 5 timeouts"
    press(viewer, TABLE["upstreams"], "/", *"2.6")
    assert [row["address"] for row in viewer.rows()] == ["192.0.2.6:53"]
    press(viewer, "enter", "d")
    assert viewer.question.text.startswith("Drain all 2 addresses of fra"), "those that are not seen included"


@pytest.mark.parametrize("key", ["n", "esc", "enter", "q", "p", " ", "down"])
def test_any_other_key_than_y_changes_nothing(viewer, key):
    assert press(viewer, "p", key, "y") is None
    assert viewer.question is None
    assert not viewer.wants_end


def test_the_whole_cache_is_called_so(viewer):
    viewer.views["zones"].selected = "."
    assert press(viewer, TABLE["zones"], "p") is None
    assert viewer.question.text == "Purge the whole cache?"


def test_a_name_is_typed_where_none_is_selected(viewer):
    assert press(viewer, TABLE["changes"], "p", *"example.cox", "backspace", "m", "enter") is None
    assert viewer.question.text == "Purge example.com and all names below it?"
    assert press(viewer, "y").members == {"command": "purge", "name": "example.com", "below": True}
    press(viewer, "p", "enter")
    assert viewer.question is None
    assert viewer.is_bad
    assert "empty" in viewer.message


def test_a_client_is_blocked_for_as_long_as_is_typed(viewer):
    press(viewer, TABLE["clients"], "b")
    assert viewer.entry.text == "192.0.2.9 1h"
    press(viewer, "backspace", "backspace", *"30m", "enter")
    assert viewer.question.text == "Block 192.0.2.9 for 30 min: drop all of its queries?"
    assert press(viewer, "y").members == {"command": "block add", "prefix": "192.0.2.9", "seconds": 1800}


@pytest.mark.parametrize(
    ("typed", "wrong"),
    [("nobody 1h", "not a prefix"), ("192.0.2.1/24 1h", "host bits"), ("192.0.2.1 soon", "not a time")],
)
def test_who_cannot_be_blocked_is_told_and_typed_again(viewer, typed, wrong):
    press(viewer, TABLE["clients"], "b", "clear", *typed, "enter")
    assert viewer.question is None
    assert wrong in viewer.message
    assert viewer.entry.text == typed
    press(viewer, "esc")
    assert viewer.entry is None


@pytest.mark.parametrize(("table", "key"), [("names", "d"), ("names", "D"), ("rules", "D"), ("clients", "u")])
def test_what_cannot_be_steered_is_told(viewer, table, key):
    press(viewer, TABLE[table], key)
    assert viewer.question is None
    assert viewer.message.startswith("select ")


def test_a_row_that_was_selected_stays_so_wherever_it_moves(viewer):
    press(viewer, "down")
    assert viewer.selected()["name"] == "b.test"
    look(viewer, top=TOP | {"names": most("name", z__test=90, a__test=40, c__other=35, b__test=30)})
    assert viewer.selected()["name"] == "b.test"
    press(viewer, "down", "down", "pagedown")
    assert viewer.selected()["name"] == "b.test", "it is the last one"
    press(viewer, "home")
    assert viewer.selected()["name"] == "z.test"
    look(viewer)
    assert viewer.selected()["name"] == "a.test", "the first, whichever that is"


def test_a_question_is_about_the_row_that_was_selected_when_it_was_asked(viewer):
    press(viewer, "p")
    look(viewer, top=TOP | {"names": most("name", z__test=90)})
    assert press(viewer, "y").members["name"] == "a.test"


def test_tables_are_sorted_by_each_column_both_ways(viewer):
    assert names(viewer) == ["a.test", "b.test", "c.other"]
    press(viewer, "S")
    assert names(viewer) == ["c.other", "b.test", "a.test"]
    press(viewer, "s", "s")
    assert names(viewer) == ["c.other", "a.test", "b.test"], "names, from their last labels on"
    press(viewer, TABLE["clients"], "s", "s")
    assert names(viewer) == ["192.0.2.9", "192.0.2.10"], "addresses, not texts"


def test_every_column_can_be_sorted_by(viewer):
    for number, table in enumerate(TABLES, 1):
        press(viewer, str(number))
        rows = set(names(viewer))
        for _ in table.columns:
            press(viewer, "s")
            assert set(names(viewer)) == rows != set()


def test_rows_are_filtered_as_is_typed_and_esc_shows_all(viewer):
    press(viewer, "/", *"TEST")
    assert names(viewer) == ["a.test", "b.test"]
    press(viewer, "enter")
    assert viewer.entry is None
    assert names(viewer) == ["a.test", "b.test"]
    press(viewer, TABLE["upstreams"])
    assert len(names(viewer)) == 2, "each table has its own"
    press(viewer, TABLE["names"], "esc")
    assert len(names(viewer)) == 3
    press(viewer, "/", *"other", "esc")
    assert len(names(viewer)) == 3
    assert viewer.limit == 50
    press(viewer, "/", "x")
    assert viewer.limit == 200, "what is looked for may be among the less frequent"


def test_what_is_typed_is_no_command(viewer):
    press(viewer, "/", *"qpy")
    assert viewer.view.wanted == "qpy"
    assert not viewer.wants_end


def test_tables_are_chosen_by_number_and_one_by_one(viewer):
    press(viewer, "4")
    assert viewer.table.name == "upstreams"
    press(viewer, "tab", "right", "backtab", "left", "left")
    assert viewer.table.name == "zones"
    press(viewer, "9")
    press(viewer, "0")
    assert viewer.table.name == "zones"


def test_pause_help_a_row_and_the_end(viewer):
    press(viewer, " ")
    assert viewer.paused
    press(viewer, " ", "?")
    assert (viewer.paused, viewer.helping) == (False, True)
    press(viewer, "q")
    assert (viewer.helping, viewer.wants_end) == (False, False), "it goes back"
    press(viewer, "enter")
    assert viewer.opened["name"] == "a.test"
    press(viewer, "x", "n", "q")
    assert (viewer.opened, viewer.wants_other, viewer.wants_end) == (None, True, True)


def test_keys_do_no_harm_before_there_is_anything_to_see():
    viewer = Viewer()
    for key in ("down", "end", "home", "enter", "p", "esc", "b", "esc", "d", "u", "s", "/", "x", "esc"):
        assert viewer.press(key) is None


@pytest.mark.parametrize(
    ("table", "keys", "response", "said"),
    [
        ("names", "py", {}, "purged: a.test"),
        ("upstreams", "dy", {"upstreams": ["two", "\x1b[2J"]}, "two: draining; \\x1b[2J: draining"),
        ("blocks", "uy", {"removed": 3}, "198.51.100.0/24: 3 removed"),
        ("names", "ry", {"reloaded": True, "errors": [], "warnings": ["workers take a restart"]},
         "reloaded; workers take a restart"),
    ],
)  # fmt: skip
def test_what_the_daemon_answers_is_said(viewer, table, keys, response, said):
    assert press(viewer, TABLE[table], *keys).done(response) == said


def test_a_reload_that_was_refused_is_an_error(viewer):
    with pytest.raises(ValueError, match="reload failed: a: no; b: no"):
        press(viewer, "r", "y").done({"reloaded": False, "errors": ["a: no", "b: no"], "warnings": []})


EXPLAINED = {"outcome": "hit", "rcode": "NOERROR", "why": "fresh", "steps": [{"step": "cache", "text": "an entry"}]}


@pytest.mark.parametrize(
    ("table", "keys", "asked"),
    [
        ("names", ["e"], ("a.test", "A")),
        ("failures", ["e"], ("lost.test.", "A")),
        ("upstreams", ["e", *"x.test mx", "enter"], ("x.test", "mx")),
        ("upstreams", ["e", *"x.test", "enter"], ("x.test", "A")),
    ],
)
def test_a_name_is_explained_without_a_question_for_that_changes_nothing(viewer, table, keys, asked):
    request = press(viewer, TABLE[table], *keys)
    assert request.members == {"command": "explain", "name": asked[0], "type": asked[1]}
    assert request.done(EXPLAINED) == ""
    assert viewer.explained[0].startswith(f"{asked[0]} {asked[1]}")
    assert viewer.explained[2:] == ("cache     an entry", "=>        hit NOERROR: fresh")
    press(viewer, "x")
    assert not viewer.explained

"""Know that the notation is strict, and that a scenario which says something wrong does not pass."""

import pytest

from conformance.notation import NotationError, read
from conformance.player import Player

UPSTREAM = "upstream www.example. A -> NOERROR, answer 300 A 192.0.2.1\n"
CLIENT = "client www.example. A -> "


@pytest.fixture
def write(tmp_path):
    def write(*lines):
        path = tmp_path / "scenario.txt"
        path.write_text("\n".join(["# A scenario.", *lines]))
        return path

    return write


@pytest.mark.parametrize(
    "line",
    [
        "sleep 5 s",
        "after 5",
        "after 5 minutes",
        "purge everything",
        "purge zone",
        "counted cache_hits",
        "upstream",
        "upstream answers now",
        "upstream asked",
        "upstream asked twice",
        "upstream asked 1 www.example. A",
        "upstream www.example. A",
        "upstream www.example. A -> NOERROR, nothing",
        "upstream www.example. A -> NOERROR then WRONG",
        "client www.example. A",
        "client www.example -> NOERROR",
        "client www.example. WRONG -> NOERROR",
        "client www.example. A -> NOERR",
        "client www.example. A, do -> NOERROR",
        "client www.example. A, held -> NOERROR",
        "client www.example. A -> NOERROR, silence",
        "client www.example. A -> NOERROR, answer A 192.0.2.1",
        "client www.example. A -> NOERROR, answer 300 A 192.0.2.300",
        "client www.example. A, cookie xyz -> NOERROR",
        "client www.example. A, ecs 192.0.2.0 -> NOERROR",
        "client hex 0g -> nothing",
        "alice wants www.example. A",
        "alice gets NOERROR, unknown",
    ],
)
def test_what_is_not_understood_is_an_error_with_its_file_and_line(write, line):
    path = write(UPSTREAM, line)
    with pytest.raises(NotationError, match=rf"^{path}:4: "):
        read(path)


def test_a_scenario_says_what_it_is_about(tmp_path):
    path = tmp_path / "scenario.txt"
    path.write_text(UPSTREAM)
    with pytest.raises(NotationError, match=rf"^{path}:1: "):
        read(path)


def test_lines_are_joined_and_comments_left_out(write):
    path = write(
        'config user = "some#"  # comment', "", "   # comment", "client www.example. A", "  -> nothing  # comment"
    )
    scenario = read(path)
    assert scenario.config == 'user = "some#"'
    assert [line.text for line in scenario.lines] == ["client www.example. A -> nothing"]
    assert scenario.lines[0].where == f"{path}:5"


@pytest.mark.parametrize(
    "wrong",
    [
        CLIENT + "NXDOMAIN, answer 300 A 192.0.2.1",
        CLIENT + "NOERROR",
        CLIENT + "NOERROR, answer 300 A 192.0.2.2",
        CLIENT + "NOERROR, answer 302 A 192.0.2.1",
        CLIENT + "NOERROR, answer 300 A 192.0.2.1, answer 300 A 192.0.2.2",
        CLIENT + "NOERROR, authority 300 A 192.0.2.1",
        CLIENT + "NOERROR, AA, answer 300 A 192.0.2.1",
        CLIENT + "NOERROR, no RD, answer 300 A 192.0.2.1",
        CLIENT + "NOERROR, no question, answer www.example. 300 A 192.0.2.1",
        CLIENT + "NOERROR, OPT, answer 300 A 192.0.2.1",
        CLIENT + "NOERROR, answer 300 A 192.0.2.1, at most 40 octets",
        CLIENT + "nothing",
        "client www.example. A, OPT -> NOERROR, no OPT, answer 300 A 192.0.2.1",
        "client www.example. A, OPT -> NOERROR, payload 1231, answer 300 A 192.0.2.1",
        "client www.example. A, OPT -> NOERROR, EDE 3, answer 300 A 192.0.2.1",
        "client other.example. A -> NOERROR",
        "alice gets NOERROR",
        "upstream asked 1",
        "upstream received www.example. A",
        "counted cache_hits 1",
        CLIENT + "NOERROR, answer 300 A 192.0.2.1\nupstream asked 2",
        CLIENT + "NOERROR, answer 300 A 192.0.2.1\nupstream received www.example. AAAA",
        CLIENT + "NOERROR, answer 300 A 192.0.2.1\nupstream received www.example. A, OPT",
        CLIENT + "NOERROR, answer 300 A 192.0.2.1\nupstream received www.example. A, no RD",
        "client www.example. A, padding 3 -> NOERROR, answer 300 A 192.0.2.1\nupstream received untouched",
        "client www.example. A, padding 3 -> NOERROR, answer 300 A 192.0.2.1\n"
        "after 5 s\nclient www.example. A, OPT -> untouched",
    ],
)
def test_what_is_wrong_does_not_pass(write, tmp_path, monkeypatch, wrong):
    monkeypatch.setattr("conformance.player.PATIENCE", 0.2)
    with pytest.raises(AssertionError), Player(read(write(UPSTREAM, wrong)), tmp_path) as player:
        player.play()

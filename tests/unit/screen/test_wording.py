"""Show that figures are short and right, and that no text of a stranger's steers the terminal."""

import pytest

from funkenshield.screen import wording


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("www.example.com.", "www.example.com."),
        ("a\x1b[2Jb\r\n\x07\x00", "a\\x1b[2Jb\\r\\n\\x07\\x00"),
        ("\u202eevil\u2066\u200b\ufeff", "\\u202eevil\\u2066\\u200b\\ufeff"),
        ("\x9b31m\ud800\U000e0001", "\\x9b31m\\ud800\\U000e0001"),
        ("[bold red]:smile:[/]", "[bold red]:smile:[/]"),
        ("münchen \u3042", "münchen \u3042"),
    ],
)
def test_text_that_is_no_plain_text_is_escaped(text, shown):
    assert wording.plain(text) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0, "0"), (0.04, "0.04"), (7.25, "7.2"), (99.96, "100"), (1234.5, "1,234"), (99_999, "99,999"),
     (412_300, "412 k"), (3_400_000, "3.40 M")],
)  # fmt: skip
def test_rates(value, shown):
    assert wording.rate(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0.0, "–"), (0.00042, "0.42 ms"), (0.0042, "4.20 ms"), (0.0312, "31.2 ms"), (0.25, "250 ms"),
     (0.9996, "1.0 s"), (2.5, "2.5 s")],
)  # fmt: skip
def test_latencies(value, shown):
    assert wording.latency(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.4, "0 s"), (59.9, "59 s"), (60, "1 min"), (3725, "1 h 2 min"), (86400 * 3 + 7200, "3 d 2 h")],
)
def test_durations(value, shown):
    assert wording.duration(value) == shown


def test_shares_sizes_and_counts():
    assert [wording.percent(each) for each in (None, 0, 0.0449, 0.9994, 1)] == [
        "–",
        "0.0 %",
        "4.5 %",
        "99.9 %",
        "100 %",
    ]
    assert [wording.octets(each) for each in (0, 1023, 1536, 268_435_456)] == ["0 B", "1023 B", "1.5 KiB", "256 MiB"]
    assert [wording.count(each) for each in (0, 1_234_567, 12_345_678, 2_345_678_901)] == [
        "0", "1,234,567", "12.3 M", "2.35 G",
    ]  # fmt: skip


@pytest.mark.parametrize("share", [-1.0, 0.0, 0.31, 1.0, 7.0])
def test_a_bar_has_the_width_that_it_is_given(share):
    for width in (0, 1, 10):
        drawn, rest = wording.bar(share, width)
        assert len(drawn) + len(rest) == width
        assert len(drawn) == min(max(share, 0), 1) * width or 0 < share < 1


def test_the_latest_value_stands_at_the_right_and_what_is_there_is_seen():
    assert wording.sparkline([9, 0, 0.001, 4, 8], 4) == " ▁▄█"
    assert wording.as_ascii(wording.sparkline([1], 3)) == "  @"
    assert wording.sparkline([], 3) == "   "
    assert wording.sparkline([1, 2], 0) == ""
    assert wording.sparkline([0, 0], 2) == "  "

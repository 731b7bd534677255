"""These tests check lengths of time on the command line."""

from __future__ import annotations

import pytest

from llmux.admin.orders import WrongValue, seconds_of
from llmux.command.words.durations import in_words, in_words_range, seconds_between
from llmux.duration_text import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("90 S", 90),
        ("15m", 900),
        ("5min", 300),
        ("5M", 300),
        (" 5 Min ", 300),
        ("2h", 7200),
        ("1.5h", 5400),
        ("1d", 86400),
    ],
)
def test_a_length_of_time_is_read_alike_on_the_command_line_and_over_http(
    text: str, seconds: float
) -> None:
    assert parse_duration(text) == seconds
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "h", "2 weeks", "-5", "0", "1e3", "nan", "9999d", "2h30", "٣s"]
)
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no length of time|longer than nothing"):
        parse_duration(text)
    with pytest.raises(WrongValue):
        seconds_of(text)


@pytest.mark.parametrize("text", ["0.001s", "0.5", "366d", "8784h"])
def test_every_length_is_read_that_the_refusal_allows(text: str) -> None:
    assert 0 < parse_duration(text) <= 366 * 86400
    with pytest.raises(ValueError, match="must be longer than nothing, and 366 days at most"):
        parse_duration("366.5d")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.42, "0.4 s"),
        (61.2, "61 s"),
        (119.9, "119 s"),
        (240, "4 min"),
        (7140, "119 min"),
        (7500, "2 h 5 min"),
        (7200, "2 h"),
        (172800, "2 d"),
        (-3, "0 s"),
    ],
)
def test_a_length_of_time_is_put_into_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


@pytest.mark.parametrize(
    ("secs", "words"),
    [
        ((9, 58), "9 to 58 s"),
        ((50, 240), "50 s to 4 min"),
        ((130, 400), "2 to 6 min"),
        ((12, 12.2), "12 s"),
        ((0, 0), "0 s"),
        ((9, None), "9 s or more"),
        ((7500, 9000), "2 h 5 min to 2 h 30 min"),
    ],
)
def test_a_range_of_time_is_put_into_words(
    secs: tuple[float, float | None], words: str
) -> None:
    assert in_words_range(secs) == words


def test_moments_are_compared_across_time_zones() -> None:
    assert seconds_between("2026-11-24T05:31:00.120Z", "2026-11-24T06:32:00.620+01:00") == 60.5

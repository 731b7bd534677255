"""This module reads and writes lengths of time as the command line does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

__all__ = ["in_words", "in_words_range", "parse_duration", "seconds_between"]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?\Z")
_SECONDS = {None: 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_LONGEST = 366 * 86400


def parse_duration(text: str) -> float:
    """
    Return the seconds that a text stands for: C{90}, C{90s}, C{15m}, C{2h}, C{1d}.

    @raise ValueError: the text is no length of time, or zero, or more than 366 days.
    """
    match = _DURATION.match(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is no length of time: give 90, 90s, 15m or 2h")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if not 0 < seconds <= _LONGEST:
        raise ValueError(
            f"a time must be longer than nothing, and 366 days at most, which {text!r} is not"
        )
    return seconds


def in_words(seconds: float) -> str:
    """Return a length of time for people: C{0.4 s}, C{61 s}, C{4 min}, C{2 h 5 min}, C{3 d}."""
    seconds = max(0.0, seconds)
    if 0.05 <= seconds < 1:
        return f"{min(seconds, 0.9):.1f} s"
    if seconds < 120:
        return f"{int(seconds)} s"
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d"


def in_words_range(secs: Sequence[float | None]) -> str:
    """
    Return a range of seconds for people: C{9 to 58 s}, C{50 s to 4 min}.

    @param secs: the shortest and the longest time; None for a longest time that is not known.
    """
    if secs[1] is None:
        return f"{in_words(secs[0] or 0.0)} or more"
    low, high = in_words(secs[0] or 0.0), in_words(secs[1])
    if low == high:
        return low
    number, _, unit = low.rpartition(" ")
    if unit == high.rpartition(" ")[2] and " " not in number and high.count(" ") == 1:
        low = number
    return f"{low} to {high}"


def seconds_between(earlier: str, later: str) -> float:
    """
    Return the seconds from one time to another, both as the daemon writes them.

    Both times come from the daemon, so that a terminal whose clock is wrong shows the right
    length.
    """
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()

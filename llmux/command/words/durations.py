"""This module writes lengths of time for people, as the command line does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

__all__ = ["in_words", "in_words_range", "seconds_between"]


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

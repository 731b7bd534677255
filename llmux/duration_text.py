"""
This module reads the durations that operators write, on the command line and in the body of a
command alike.

A duration is a number, with or without a decimal fraction, and a unit: C{s}, C{m} or C{min},
C{h}, C{d}, in small letters or capitals, with or without blanks before it.  Without a unit the
number counts seconds.
"""

from __future__ import annotations

import re

__all__ = ["LONGEST_DURATION", "parse_duration"]

LONGEST_DURATION = 366 * 86400.0
"""A duration may have this many seconds."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?", re.ASCII)
_UNITS = {None: 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> float:
    """
    Return the seconds that a text stands for: C{90}, C{90s}, C{15m}, C{2h}, C{1d}.

    @raise ValueError: the text is no duration, or zero, or more than 366 days.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is no length of time: give 90, 90s, 15m or 2h")
    seconds = float(match[1]) * _UNITS[match[2]]
    if not 0 < seconds <= LONGEST_DURATION:
        raise ValueError(
            f"a time must be longer than nothing, and 366 days at most, which {text!r} is not"
        )
    return seconds

"""This module finds which known name was meant by one that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["most_similar"]

LONGEST = 100
"""
Longer names, in characters, are not compared, because comparing takes quadratic time, and
nobody mistypes a name that long.
"""


def most_similar(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """
    Return the known name that is most similar to C{name}; None if none is similar.

    @param likeness: the least ratio of likeness, as difflib measures it: from 0 (any name) to 1
        (the same name).
    """
    if len(name) > LONGEST:
        return None
    found = get_close_matches(name.lower().replace("-", "_"), known, 1, likeness)
    return found[0] if found else None

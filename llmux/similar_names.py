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
    alike: dict[str, str] = {}
    for each in known:
        alike.setdefault(_without_case(each), each)
    found = get_close_matches(_without_case(name), alike, 1, likeness)
    return alike[found[0]] if found else None


def _without_case(name: str) -> str:
    """Return a name without what is mistaken most often: upper case, and hyphens."""
    return name.lower().replace("-", "_")

"""Which known name was meant by one that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["most_similar"]

LONGEST = 100
"""Characters; comparing takes quadratic time, and nobody mistypes a name that long."""


def most_similar(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """
    The known name that is most like C{name}; None if none is like it.

    @param likeness: the least, as difflib counts: from 0 (any name) to 1 (the same).
    """
    if len(name) > LONGEST:
        return None
    found = get_close_matches(name.lower().replace("-", "_"), known, 1, likeness)
    return found[0] if found else None

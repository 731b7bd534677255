"""
What JSON that is not quite JSON may have, and still be understood: a byte order
mark in front, blanks around it, half a pair of surrogates in a string.
"""

from __future__ import annotations

__all__ = ["BLANKS", "MARK", "sound_text", "without_mark"]

MARK = b"\xef\xbb\xbf"
"""UTF-8's byte order mark, which some editors put in front; it may be there once."""

BLANKS = b" \t\n\r"
"""What JSON allows between its parts."""


def without_mark(data: bytes) -> bytes:
    """The same without a byte order mark in front."""
    return data.removeprefix(MARK)


def sound_text(text: str) -> str:
    """
    The same with a question mark in place of half a pair of surrogates, which
    is no character: it can neither be sent nor logged.
    """
    return text.encode("utf-8", "replace").decode()

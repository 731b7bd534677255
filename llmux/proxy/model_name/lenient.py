"""
This module handles what is not allowed in JSON but is accepted here: a byte order mark in
front, and half a pair of surrogates in a string.
"""

from __future__ import annotations

__all__ = ["BLANKS", "MARK", "sound_text", "without_mark"]

MARK = b"\xef\xbb\xbf"
"""This is UTF-8's byte order mark, which some editors put in front; one is accepted."""

BLANKS = b" \t\n\r"
"""JSON allows these bytes between its parts."""


def without_mark(data: bytes) -> bytes:
    """Return the data without a byte order mark in front."""
    return data.removeprefix(MARK)


def sound_text(text: str) -> str:
    """
    Return the text with a question mark in place of half a pair of surrogates, which is no
    character, and can neither be sent nor logged.
    """
    return text.encode("utf-8", "replace").decode()

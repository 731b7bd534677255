"""
This module finds the values of a form's field C{model}, as L{llmux.proxy.model_name.form} does,
but with their places.
"""

from __future__ import annotations

from collections.abc import Generator

from multipart import (  # type: ignore[import-untyped] # it has types, but no py.typed
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)

from llmux.proxy.model_name.form import CHARSETS, LONGEST_HEADER, MOST_HEADERS, MOST_PARTS
from llmux.web.body import RequestBody
from llmux.web.splicing import Cut

__all__ = ["model_cuts"]

_FORM_STEP = 64 * 1024
"""This many bytes of a form are parsed before others may have a turn."""

_MOST_OF_HEADS = MOST_HEADERS * LONGEST_HEADER


def model_cuts(
    body: RequestBody, content_type: bytes, model: str
) -> Generator[None, None, list[Cut]]:
    """
    Return the cuts that replace each value of the field C{model} by another name.  The
    generator yields wherever others may have a turn, and returns the cuts.  A broken form is
    read up to the place where it is broken.

    @raise OSError: the body cannot be read.
    """
    cuts: list[Cut] = []
    _, options = parse_options_header(content_type.decode("latin-1"))
    delimiter = b"\r\n--" + options.get("boundary", "").encode()
    if body.piece(0, len(delimiter) - 2) == delimiter[2:]:
        at = -2
    else:
        at = yield from _find(body, delimiter, 0)
        if at < 0:
            return cuts
    for _ in range(MOST_PARTS):
        # After the delimiter comes a line break and another part, or the end.
        at += len(delimiter)
        if body.piece(at, 2) != b"\r\n":
            break
        head_end = yield from _find(body, b"\r\n\r\n", at, at + _MOST_OF_HEADS)
        if head_end < 0:
            break
        start = head_end + 4
        segment = _segment(body.piece(at, start - at))
        if segment is None:
            break
        at = yield from _find(body, delimiter, start)
        if at < 0:
            break
        if segment.name == "model" and segment.filename is None:
            charset = CHARSETS.get((segment.charset or "").lower(), "utf-8")
            cuts.append(Cut(start, at, model.encode(charset, "replace")))
    return cuts


def _find(
    body: RequestBody, what: bytes, at: int, end: int | None = None
) -> Generator[None, None, int]:
    """Find the first place from C{at} on, and before C{end}; -1 if there is none."""
    while True:
        piece = body.piece(at, _FORM_STEP)
        found = piece.find(what)
        if found >= 0:
            return at + found
        at += max(len(piece) - len(what) + 1, 0)
        if len(piece) < _FORM_STEP or (end is not None and at > end):
            return -1
        yield


def _segment(head: bytes) -> MultipartSegment | None:
    """Read the head of a part, which begins with the line break behind the delimiter."""
    parser = PushMultipartParser(
        "b", max_header_size=LONGEST_HEADER, max_header_count=MOST_HEADERS
    )
    try:
        for event in parser.parse(b"--b" + head):
            if isinstance(event, MultipartSegment):
                return event
    except (MultipartError, UnicodeError):
        pass
    return None

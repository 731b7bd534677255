"""This module writes text with styles, for a terminal or for a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TextIO

from llmux.config.error import printable

__all__ = ["RESET", "Styled", "coloured", "paint", "plain", "wants_colour"]

RESET = "\x1b[0m"

_CODES = {
    "": "",
    "strong": "\x1b[1m",
    "dim": "\x1b[2m",
    "good": "\x1b[1;32m",
    "busy": "\x1b[1;36m",
    "warn": "\x1b[1;33m",
    "bad": "\x1b[1;31m",
    "reverse": "\x1b[7m",
    "lane0": "\x1b[30;42m",
    "lane1": "\x1b[30;44m",
    "lane2": "\x1b[30;43m",
    "lane3": "\x1b[30;45m",
    "lane4": "\x1b[30;46m",
    "lane5": "\x1b[30;47m",
    "lane_bad": "\x1b[97;41m",
    "lane_dark": "\x1b[37;100m",
}


class Styled(NamedTuple):
    """
    A L{Styled} is a piece of text in one style.

    @ivar style: C{strong}, C{dim}, C{good}, C{busy}, C{warn}, C{bad}, C{reverse}, C{lane0} to
        C{lane5}, C{lane_bad}; or empty.
    """

    text: str
    style: str = ""


def plain(spans: Iterable[Styled]) -> str:
    """Return the text alone; characters that a terminal would act upon are escaped."""
    return "".join(printable(span.text) for span in spans)


def coloured(spans: Iterable[Styled]) -> str:
    """Return the text with the codes of its styles."""
    return "".join(
        f"{_CODES[span.style]}{printable(span.text)}{RESET}"
        if span.style
        else printable(span.text)
        for span in spans
    )


def paint(spans: Iterable[Styled], colour: bool) -> str:
    """Return the text, with colours or without."""
    return coloured(spans) if colour else plain(spans)


def wants_colour(stream: TextIO | None = None, environ: Mapping[str, str] = os.environ) -> bool:
    """
    Tell whether a stream is a terminal whose user has not refused colours (C{NO_COLOR},
    C{TERM=dumb}).
    """
    stream = stream or sys.stdout
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"

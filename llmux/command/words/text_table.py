"""This module lays out tables as text, and fits them to the width of a terminal."""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from llmux.command.words.styles import Styled
from llmux.config.error import printable

__all__ = ["Column", "columns_of", "cut_text", "table", "terminal_width"]

_GAP = 2
_SHORTEST = 24
"""Cells of a column that may be cut keep at least this many columns of the terminal."""


class Column(NamedTuple):
    """
    A L{Column} is one column of a table.

    @ivar heading: the heading.
    @ivar short: the heading in a terminal that is too narrow for the table.
    @ivar rank: in such a terminal columns with high ranks are left out first; those of rank 0
        stay.
    @ivar is_right: whether the cells stand at the right edge.
    @ivar may_be_cut: whether long cells are cut, rather than other columns left out.
    """

    heading: str
    short: str
    rank: int = 0
    is_right: bool = False
    may_be_cut: bool = False


def columns_of(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.combining(c)
        else 2
        if unicodedata.east_asian_width(c) in ("W", "F")
        else 1
        for c in text
    )


def cut_text(text: str, width: int) -> str:
    """Return a text that takes at most C{width} columns; a tilde says that it was cut."""
    if columns_of(text) <= width:
        return text
    while text and columns_of(text) > width - 1:
        text = text[:-1]
    return f"{text}~"


def terminal_width() -> int | None:
    """Return the width of the terminal; None if standard output is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    styles: Sequence[Sequence[str]] = (),
    width: int | None = None,
) -> Iterator[list[Styled]]:
    """
    Yield the lines of a table whose columns are as wide as their longest cell.

    @param styles: for each row, the styles of its first cells.
    @param width: how many columns of a terminal the table may take, if it can be made so
        narrow; None for any number.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    headings = [column.heading for column in columns]
    shown = list(range(len(columns)))

    def widths() -> dict[int, int]:
        return {
            i: max([columns_of(headings[i]), *(columns_of(row[i]) for row in cells)])
            for i in shown
        }

    def excess() -> int:
        return sum(widths().values()) + _GAP * (len(shown) - 1) - (width or 0)

    if width is not None and excess() > 0:
        headings = [column.short for column in columns]
        for i, column in enumerate(columns):
            if column.may_be_cut:
                keep = max(_SHORTEST, widths()[i] - max(0, excess()))
                for row in cells:
                    row[i] = cut_text(row[i], keep)
        while excess() > 0:
            last = max(shown, key=lambda i: columns[i].rank)
            if not columns[last].rank:
                break
            shown.remove(last)
    wide = widths()

    def line(row: Sequence[str], styles: Sequence[str]) -> list[Styled]:
        spans: list[Styled] = []
        for i in shown:
            pad = " " * (wide[i] - columns_of(row[i]))
            last = i == shown[-1]
            text = pad + row[i] if columns[i].is_right else row[i] if last else row[i] + pad
            spans.append(Styled(text, styles[i] if i < len(styles) else ""))
            if not last:
                spans.append(Styled(" " * _GAP))
        return spans

    yield line(headings, ["dim"] * len(columns))
    for i, row in enumerate(cells):
        yield line(row, styles[i] if i < len(styles) else ())

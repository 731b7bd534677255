"""C{llmux ps} prints the table of this module, which has a line for each model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmux.command.words.durations import in_words, in_words_range, seconds_between
from llmux.command.words.styles import Styled

__all__ = ["STATE_STYLES", "model_cells", "models_table", "table"]

HEADINGS = ("MODEL", "STATE", "SINCE", "IN-FLIGHT", "WAITERS", "OLDEST", "NEXT-TURN", "COST")
_RIGHT = frozenset({"IN-FLIGHT", "WAITERS", "OLDEST", "COST"})

STATE_STYLES: Mapping[str, str] = {
    "awake": "good",
    "waking": "busy",
    "draining": "busy",
    "sleeping": "busy",
    "checking": "warn",
    "uncertain": "bad",
    "unknown": "warn",
    "asleep": "dim",
}


def model_cells(status: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
    """Return the cells of one model, in the order of the headings."""
    since, oldest = model.get("since"), model.get("oldest_wait_secs")
    turn = model.get("turn") or {}
    last = model.get("last_switch") or {}
    cost = last.get("cost_secs")
    position = turn.get("position")
    next_turn = f"{position}." if position else "-"
    if turn.get("secs"):
        next_turn = f"{position}. in " if position else "in "
        next_turn += in_words_range(turn["secs"])
    return [
        model["name"],
        model["state"],
        in_words(seconds_between(since, status["now"])) if since else "-",
        str(model["in_flight"]),
        str(model["waiters"]),
        in_words(oldest) if oldest is not None else "-",
        next_turn,
        in_words(cost) if cost is not None else "-",
    ]


def models_table(status: Mapping[str, Any]) -> Iterator[list[Styled]]:
    """
    Yield the lines of the table of all models.

    @param status: the daemon's reply to C{GET /llmux/status}.
    """
    models = status["models"]
    rows = [model_cells(status, model) for model in models]
    styles = [["strong", STATE_STYLES.get(model["state"], "")] for model in models]
    yield from table(HEADINGS, rows, styles)


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[Sequence[str]] = ()
) -> Iterator[list[Styled]]:
    """
    Yield the lines of a table whose columns are as wide as their longest cell.

    @param styles: for each row, the styles of its first cells.
    """
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]

    def line(cells: Sequence[str], styles: Sequence[str]) -> list[Styled]:
        spans: list[Styled] = []
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            last = i == len(cells) - 1
            right = headings[i] in _RIGHT
            text = cell.rjust(width) if right else cell if last else cell.ljust(width)
            spans.append(Styled(text, styles[i] if i < len(styles) else ""))
            if not last:
                spans.append(Styled("  "))
        return spans

    yield line(headings, ["dim"] * len(headings))
    for i, row in enumerate(rows):
        yield line(row, styles[i] if i < len(styles) else ())

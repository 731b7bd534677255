"""C{llmux ps} prints the table of this module, which has a line for each model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmux.command.words.durations import in_words, in_words_range, seconds_between
from llmux.command.words.styles import Styled
from llmux.command.words.text_table import Column, table

__all__ = ["MODEL_COLUMNS", "STATE_STYLES", "model_cells", "models_table"]

MODEL_COLUMNS = (
    Column("MODEL", "MODEL", may_be_cut=True),
    Column("STATE", "STATE"),
    Column("SINCE", "SINCE", rank=4),
    Column("IN-FLIGHT", "RUN", rank=1, is_right=True),
    Column("WAITERS", "WAIT", rank=1, is_right=True),
    Column("OLDEST", "OLDEST", rank=2, is_right=True),
    Column("NEXT-TURN", "NEXT", rank=3),
    Column("COST", "COST", rank=5, is_right=True),
)

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


def models_table(status: Mapping[str, Any], width: int | None = None) -> Iterator[list[Styled]]:
    """
    Yield the lines of the table of all models.

    @param status: the daemon's reply to C{GET /llmux/status}.
    @param width: the width of the terminal; None for a table as wide as it needs to be.
    """
    models = status["models"]
    rows = [model_cells(status, model) for model in models]
    styles = [["strong", STATE_STYLES.get(model["state"], "")] for model in models]
    yield from table(MODEL_COLUMNS, rows, styles, width)

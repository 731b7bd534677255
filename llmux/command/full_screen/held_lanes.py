"""
This module draws lanes for a terminal: which models have held a resource, over the last
minutes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from llmux.command.words.styles import Styled

__all__ = ["SeenHistory", "lane_lines", "moment"]

_HOLDING = frozenset({"awake", "draining", "sleeping", "waking", "checking", "uncertain"})
_FILL = {"awake": "=", "draining": "/", "uncertain": "x"}
_HOOKS_FILL = "."
_LANE_STYLES = 6
_MOST_ROWS = 4
_MOST_KEPT = 4000

# If several states fall into one cell, the one with the lowest rank is shown, so that short
# states are not lost.
_RANKS = {"uncertain": 0, "waking": 1, "sleeping": 1, "checking": 1, "draining": 2, "awake": 3}


def moment(text: str) -> float:
    """Return the seconds since the epoch of a time that the daemon has written."""
    return datetime.fromisoformat(text).timestamp()


class _Stretch(NamedTuple):
    """
    A L{_Stretch} is a time during which a model was in one state; C{began} and C{ended} are
    seconds since the epoch.
    """

    model: str
    state: str
    place: Mapping[str, float] | None
    began: float
    ended: float


class SeenHistory:
    """
    A L{SeenHistory} knows which states each model has had: those of the daemon's history, and
    those seen since.
    """

    def __init__(self) -> None:
        self._seen: dict[str, list[tuple[float, str, Mapping[str, float] | None]]] = {}

    def load(self, document: Mapping[str, Any]) -> None:
        """Take over the daemon's reply to C{GET /llmux/history}."""
        self._seen = {
            name: [(moment(row[0]), row[1], row[2] if len(row) > 2 else None) for row in rows]
            for name, rows in document.get("models", {}).items()
        }

    def note(self, status: Mapping[str, Any]) -> None:
        """Remember the states of the models in a status."""
        for model in status["models"]:
            rows = self._seen.setdefault(model["name"], [])
            if not rows or rows[-1][1] != model["state"]:
                since = moment(model.get("since") or status["now"])
                rows.append((since, model["state"], model.get("place")))
                if len(rows) > _MOST_KEPT:
                    del rows[: _MOST_KEPT // 4]

    def stretches(self, start: float, end: float) -> Iterator[_Stretch]:
        """
        Yield the times when models held something, between two times in seconds since the
        epoch.
        """
        for name, rows in self._seen.items():
            for i, (at, state, place) in enumerate(rows):
                ended = rows[i + 1][0] if i + 1 < len(rows) else end
                if state in _HOLDING and min(ended, end) > max(at, start):
                    yield _Stretch(name, state, place, max(at, start), min(ended, end))


def lane_lines(
    history: SeenHistory,
    status: Mapping[str, Any],
    resource: Mapping[str, Any],
    *,
    end: float,
    secs: float,
    width: int,
    colour: bool,
) -> list[list[Styled]]:
    """
    Return the lines of a resource's lane, from top to bottom.

    @param end: the time of the right edge, in seconds since the epoch.
    @param secs: the length of the lane, in seconds.
    @param width: the width of the lane, in columns.
    @param colour: whether colours tell the models apart; the lane shows the models' names in
        any case.
    """
    capacity = resource["capacity"]
    places = {m["name"]: m.get("place") for m in status["models"]}
    styles = {name: f"lane{i % _LANE_STYLES}" for i, name in enumerate(places)}
    start = end - secs
    stretches = []
    for stretch in sorted(history.stretches(start, end), key=lambda s: s.began):
        place = stretch.place or places.get(stretch.model)
        units = place.get(resource["name"], 0) if place else capacity
        if units:
            stretches.append(stretch)
    rows = _rows(stretches)
    return [
        _runs(_cells(row, start, secs / width, width), styles, colour) for row in reversed(rows)
    ]


def _rows(stretches: Sequence[_Stretch]) -> list[list[_Stretch]]:
    """
    Divide stretches, which are sorted by their beginning, among rows: a model takes the lowest
    row that is free, and stays there for as long as it holds something.
    """
    rows: list[list[_Stretch]] = [[]]
    for stretch in stretches:
        own = next((r for r in rows if r and r[-1].model == stretch.model), None)
        free = next((r for r in rows if not r or r[-1].ended <= stretch.began), None)
        if own is not None and own[-1].ended >= stretch.began:
            own.append(stretch)
        elif free is not None:
            free.append(stretch)
        elif len(rows) < _MOST_ROWS:
            rows.append([stretch])
        else:
            rows[-1].append(stretch)
    return rows


def _cells(
    row: Sequence[_Stretch], start: float, step: float, width: int
) -> list[_Stretch | None]:
    """Return, for each cell of a row, the stretch that matters most."""
    cells: list[_Stretch | None] = [None] * width
    for stretch in row:
        first = max(0, int((stretch.began - start) / step))
        last = min(width - 1, max(first, int((stretch.ended - start) / step - 1e-9)))
        for column in range(first, last + 1):
            known = cells[column]
            if known is None or _RANKS[stretch.state] <= _RANKS[known.state]:
                cells[column] = stretch
    return cells


def _runs(
    cells: Sequence[_Stretch | None], styles: Mapping[str, str], colour: bool
) -> list[Styled]:
    line: list[Styled] = []
    i = 0
    while i < len(cells):
        stretch = cells[i]
        key = stretch and (stretch.model, stretch.state)
        j = i
        while j < len(cells) and _key(cells[j]) == key:
            j += 1
        line.append(_run(stretch, j - i, styles, colour))
        i = j
    return line


def _key(stretch: _Stretch | None) -> tuple[str, str] | None:
    return stretch and (stretch.model, stretch.state)


def _run(
    stretch: _Stretch | None, length: int, styles: Mapping[str, str], colour: bool
) -> Styled:
    if stretch is None:
        return Styled(" " * length)
    fill = _FILL.get(stretch.state, _HOOKS_FILL)
    style = styles.get(stretch.model, "lane0")
    if stretch.state == "uncertain":
        style = "lane_bad"
    elif stretch.state not in _FILL:
        style = "lane_dark"
    if colour and stretch.state == "awake":
        fill = " "
    text = fill * length
    name = stretch.model
    if stretch.state == "awake" and name.isascii() and len(name) + 2 <= length:
        text = f"{fill}{name}{fill * (length - len(name) - 1)}"
    return Styled(text, style)

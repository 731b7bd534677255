"""
This module makes a frame of C{llmux top}: a status and its history as lines that fit a
terminal.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from llmux.command.full_screen.held_lanes import SeenHistory, lane_lines, moment
from llmux.command.words.durations import in_words
from llmux.command.words.models_table import STATE_STYLES, model_cells
from llmux.command.words.sentence import clock_time, reason_sentence, status_sentences
from llmux.command.words.styles import Styled
from llmux.config.error import printable

__all__ = ["LANE_SECS", "by_interest", "cut", "frame_lines", "wrap"]

Line = list[Styled]
LANE_SECS = 1800.0
_SHORTEST_LANE_SECS = 60.0
_NARROW = 60
_LEAST_MODELS = 3

_COLUMNS: Sequence[tuple[str, str, int]] = (
    ("MODEL", "MODEL", 0),
    ("STATE", "STATE", 0),
    ("SINCE", "SINCE", 4),
    ("IN-FLIGHT", "RUN", 1),
    ("WAITERS", "WAIT", 1),
    ("OLDEST", "OLDEST", 2),
    ("NEXT-TURN", "NEXT", 3),
    ("COST", "COST", 5),
)
"""
Each column of the table has a heading, a short heading, and a number: if the terminal is too
narrow, columns with high numbers are left out first.
"""

_RIGHT = frozenset({"IN-FLIGHT", "WAITERS", "OLDEST", "COST"})
_LONGEST_NAME = 32


def columns(text: str) -> int:
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


def cut(line: Iterable[Styled], width: int) -> Line:
    """Return as much of a line as fits into C{width} columns."""
    fitting: Line = []
    left = width
    for text, style in line:
        text = printable(text)
        if columns(text) > left:
            while columns(text) > left:
                text = text[:-1]
            fitting.append(Styled(text, style))
            break
        left -= columns(text)
        fitting.append(Styled(text, style))
    return fitting


def wrap(line: Iterable[Styled], width: int) -> Iterator[Line]:
    """
    Yield a sentence as lines of at most C{width} columns; a word that is longer than a line is
    cut.
    """
    now: Line = []
    used = 0
    for text, style in line:
        for word in printable(text).replace(" ", " \0").split("\0"):
            length = columns(word)
            if used and used + columns(word.rstrip(" ")) > width:
                now[-1] = now[-1]._replace(text=now[-1].text.rstrip(" "))
                yield now
                now, used = [Styled("  ")], 2
                word = word.lstrip(" ")
                length = columns(word)
            now.append(Styled(word, style))
            used += length
    if now:
        yield cut(now, width)


def by_interest(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the models; those that are asleep and not waited for come last."""
    return sorted(
        status["models"],
        key=lambda m: m["state"] == "asleep" and not m["waiters"] and not m.get("backoff"),
    )


def frame_lines(
    status: Mapping[str, Any],
    history: SeenHistory,
    *,
    width: int,
    height: int | None,
    colour: bool,
    selected: str | None = None,
    lost: str | None = None,
    foot: Line | None = None,
) -> list[Line]:
    """
    Return the lines of a frame.

    @param height: the number of lines that the frame has to fill; None for as many as are
        needed.
    @param selected: the model whose line is shown reversed.
    @param lost: a sentence that says since when the daemon has not answered, and why; None if
        it answers.
    @param foot: the last line.
    """
    head = _head(status, width, lost)
    for sentence in status_sentences(status):
        head += wrap(sentence, width)
    reason = reason_sentence(status)
    if reason is not None:
        head += wrap(reason, width)
    lanes = _lanes(status, history, width, colour)
    models = by_interest(status)
    feet = [] if foot is None else [cut(foot, width)]
    if height is not None:
        # In a small terminal sentences have precedence over models, and models over lanes.
        least = min(_LEAST_MODELS, len(models)) + 1 + len(feet)
        head = head[: max(1, height - least)]
        if len(head) + len(lanes) + least > height:
            lanes = []
        room = max(0, height - len(head) - len(lanes) - len(feet) - 1)
        models = _around(models, selected, room)
    table = _table(status, models, width, selected) if models else []
    gap: list[Line] = [[]]
    if height is not None and len(head) + len(lanes) + len(table) + len(feet) + 2 > height:
        gap = []
    lines = [*head, *gap, *lanes, *(gap if lanes else []), *table]
    if height is not None:
        lines = lines[: height - len(feet)]
        lines += [[] for _ in range(height - len(feet) - len(lines))]
    return [cut(line, width) for line in lines] + feet


def _head(status: Mapping[str, Any], width: int, lost: str | None) -> list[Line]:
    title = f"llmux {status['version']}"
    time = clock_time(status["now"])
    gap = max(1, width - len(title) - len(time))
    lines: list[Line] = [[Styled(title, "strong"), Styled(" " * gap), Styled(time, "dim")]]
    if lost is not None:
        lines += wrap([Styled(lost, "bad")], width)
    return lines


def _lanes(
    status: Mapping[str, Any], history: SeenHistory, width: int, colour: bool
) -> list[Line]:
    lines: list[Line] = []
    now = moment(status["now"])
    # The time before llmux started is not known.
    secs = max(_SHORTEST_LANE_SECS, min(LANE_SECS, now - moment(status["started"])))
    for resource in status["resources"]:
        held = ", ".join(
            f"{name} {units:g}" if resource["capacity"] != 1 else name
            for name, units in resource["held"].items()
        )
        of = f" of {resource['capacity']:g}" if resource["capacity"] != 1 else ""
        lines.append([Styled(f"{resource['name']}: {held or 'free'}{of}", "dim")])
        lines += lane_lines(
            history,
            status,
            resource,
            end=now,
            secs=secs,
            width=width,
            colour=colour,
        )
    if lines:
        ago = f"{in_words(secs)} ago"
        key = "= awake  / draining  . scripts  x uncertain"
        if colour:
            key = key.replace("= awake  ", "")
        middle = key.center(width - len(ago) - 3) if width > _NARROW else ""
        lines.append([Styled(f"{ago}{middle or ' ' * (width - len(ago) - 3)}now", "dim")])
    return lines


def _around(
    models: Sequence[Mapping[str, Any]], selected: str | None, room: int
) -> list[Mapping[str, Any]]:
    """Return as many of the models as there is room for, with the selected one among them."""
    names = [m["name"] for m in models]
    at = names.index(selected) if selected in names else 0
    first = max(0, min(at - room // 2, len(models) - room))
    return list(models[first : first + room])


def _table(
    status: Mapping[str, Any],
    models: Sequence[Mapping[str, Any]],
    width: int,
    selected: str | None,
) -> list[Line]:
    rows = [[printable(cell) for cell in model_cells(status, model)] for model in models]
    longest = max(8, min(_LONGEST_NAME, width // 3))
    for row in rows:
        if len(row[0]) > longest:
            row[0] = row[0][: longest - 1] + "~"
    short = width < 2 * _NARROW
    headings = [short_one if short else long for long, short_one, _ in _COLUMNS]
    shown = list(range(len(_COLUMNS)))

    def widths() -> dict[int, int]:
        return {
            i: max([len(headings[i]), *(columns(row[i]) for row in rows)], default=0)
            for i in shown
        }

    while sum(widths().values()) + 2 * (len(shown) - 1) > width and len(shown) > 2:
        shown.remove(max(shown, key=lambda i: _COLUMNS[i][2]))
    wide = widths()

    def line(cells: Sequence[str]) -> list[str]:
        texts = []
        for i in shown:
            pad = " " * (wide[i] - columns(cells[i]))
            texts.append(pad + cells[i] if _COLUMNS[i][0] in _RIGHT else cells[i] + pad)
        return texts

    lines: list[Line] = [[Styled("  ".join(line(headings)), "dim")]]
    for model, row in zip(models, rows, strict=True):
        texts = line(row)
        if model["name"] == selected:
            text = "  ".join(texts)
            lines.append([Styled(text + " " * (width - columns(text)), "reverse")])
            continue
        state = STATE_STYLES.get(model["state"], "")
        lines.append(
            [
                Styled(texts[0] + "  ", "strong"),
                Styled(texts[1], state),
                Styled("".join("  " + text for text in texts[2:])),
            ]
        )
    return lines

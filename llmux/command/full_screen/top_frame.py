"""
This module makes a frame of C{llmux top}: a status and its history as lines that fit a
terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from llmux.command.full_screen.held_lanes import SeenHistory, lane_lines, moment
from llmux.command.words.durations import in_words
from llmux.command.words.models_table import MODEL_COLUMNS, STATE_STYLES, model_cells
from llmux.command.words.sentence import clock_time, reason_sentence, status_sentences
from llmux.command.words.styles import Styled
from llmux.command.words.text_table import columns_of, cut_text, table
from llmux.config.error import printable

__all__ = ["LANE_SECS", "by_interest", "cut", "frame_lines", "wrap"]

Line = list[Styled]
LANE_SECS = 1800.0
_SHORTEST_LANE_SECS = 60.0
_NARROW = 60
_LEAST_MODELS = 3
_LONGEST_NAME = 32


def cut(line: Iterable[Styled], width: int) -> Line:
    """Return as much of a line as fits into C{width} columns."""
    fitting: Line = []
    left = width
    for text, style in line:
        text = printable(text)
        if columns_of(text) > left:
            while columns_of(text) > left:
                text = text[:-1]
            fitting.append(Styled(text, style))
            break
        left -= columns_of(text)
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
            length = columns_of(word)
            if used and used + columns_of(word.rstrip(" ")) > width:
                now[-1] = now[-1]._replace(text=now[-1].text.rstrip(" "))
                yield now
                now, used = [Styled("  ")], 2
                word = word.lstrip(" ")
                length = columns_of(word)
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
        lines.append([Styled(_lane_title(resource, width), "dim")])
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


def _lane_title(resource: Mapping[str, Any], width: int) -> str:
    """Return what a resource is called, and by which models it is held, in one line."""
    capacity = resource["capacity"]
    of = f" of {capacity:g}" if capacity != 1 else ""
    held = [
        f"{name} {units:g}" if capacity != 1 else name
        for name, units in resource["held"].items()
    ]
    text = ""
    for count in range(min(len(held), width), -1, -1):
        more = [f"{len(held) - count} more"] if count < len(held) else []
        text = f"{resource['name']}: {', '.join(held[:count] + more) or 'free'}{of}"
        if columns_of(printable(text)) <= width:
            break
    return text


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
    rows = [model_cells(status, model) for model in models]
    longest = max(8, min(_LONGEST_NAME, width // 3))
    for row in rows:
        row[0] = cut_text(printable(row[0]), longest)
    styles = [["strong", STATE_STYLES.get(model["state"], "")] for model in models]
    headings, *lines = table(MODEL_COLUMNS, rows, styles, width)
    for i, model in enumerate(models):
        if model["name"] == selected:
            text = "".join(span.text for span in lines[i])
            lines[i] = [Styled(text + " " * (width - columns_of(text)), "reverse")]
    return [headings, *lines]

"""This module writes events and requests as lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from time import strftime
from typing import Any

from llmux.command.words.durations import in_words, in_words_range
from llmux.command.words.models_table import STATE_STYLES
from llmux.command.words.sentence import clock_time, status_sentences
from llmux.command.words.styles import Styled
from llmux.command.words.text_table import Column, table

__all__ = ["event_lines", "requests_table"]

_COLUMNS = (
    Column("TIME", "TIME", rank=3),
    Column("ID", "ID"),
    Column("MODEL", "MODEL", may_be_cut=True),
    Column("REQUEST", "REQUEST", rank=4, may_be_cut=True),
    Column("STATUS", "CODE"),
    Column("WAITED", "WAITED", rank=1),
    Column("FIRST-BYTE", "FIRST", rank=5),
    Column("TOOK", "TOOK", rank=1),
    Column("END", "END"),
)


def _secs(value: float | None) -> str:
    return "-" if value is None else in_words(value)


def _request_cells(row: Mapping[str, Any]) -> list[str]:
    at = row.get("at") or row.get("time")
    return [
        clock_time(at) if at else "-",
        str(row.get("id", "-")),
        str(row.get("model") or "-"),
        f"{row.get('method', '')} {row.get('path', '')}".strip() or "-",
        str(row.get("status") or "-"),
        _secs(row.get("waited_secs")),
        _secs(row.get("first_byte_secs")),
        _secs(row.get("service_secs")),
        str(row.get("outcome") or "-").replace("_", " "),
    ]


def _request_styles(row: Mapping[str, Any]) -> list[str]:
    status = row.get("status") or 0
    return [
        "dim",
        "dim",
        "strong",
        "",
        "bad" if status >= 500 else "warn" if status >= 400 else "",
    ]


def requests_table(
    rows: Sequence[Mapping[str, Any]], most: int, width: int | None = None
) -> Iterator[list[Styled]]:
    """
    Yield the lines of a table of requests, the latest last.

    @param most: how many requests are shown at most: the latest.
    @param width: the width of the terminal; None for a table as wide as it needs to be.
    """
    shown = sorted(rows, key=lambda row: str(row.get("at") or ""))[-most:]
    cells, styles = map(_request_cells, shown), map(_request_styles, shown)
    return table(_COLUMNS, list(cells), list(styles), width)


def event_lines(kind: str, data: Mapping[str, Any]) -> Iterator[list[Styled]]:
    """
    Yield the lines that describe an event.

    @param data: the event's JSON.
    """
    at = data.get("at") or data.get("now")
    # An event without a time has just happened.
    time = clock_time(at) if at else strftime("%H:%M:%S")
    start = [Styled(f"{time} {kind:<9}", "dim")]
    if kind == "status":
        for line in status_sentences(data):
            yield [*start, *line]
            start = [Styled(" " * 18)]
    elif kind == "request":
        for row in data.get("requests") or [data]:
            cells = _request_cells(row)
            yield [
                Styled(f"{cells[0]} {kind:<9}", "dim"),
                Styled(f"{cells[2]} ", "strong"),
                Styled(f"{cells[3]}: "),
                Styled(cells[4], _request_styles(row)[-1]),
                Styled(f", waited {cells[5]}, took {cells[7]}, {cells[8]} ({cells[1]})"),
            ]
    else:
        yield [*start, *_WORDS.get(kind, _any)(data)]


def _any(data: Mapping[str, Any]) -> list[Styled]:
    shown = [f"{k} {v}" for k, v in data.items() if k not in ("schema", "at") and v is not None]
    return [Styled(", ".join(shown))]


def _model(data: Mapping[str, Any]) -> list[Styled]:
    state = data.get("state", "?")
    counts = [
        f"{data[key]} {words}"
        for key, words in (("in_flight", "in flight"), ("waiters", "waiting"))
        if data.get(key)
    ]
    return [
        Styled(f"{data.get('name') or data.get('model')} ", "strong"),
        Styled(state, STATE_STYLES.get(state, "")),
        Styled("".join(f", {count}" for count in counts)),
    ]


def _switch(data: Mapping[str, Any]) -> list[Styled]:
    spans = [Styled("to "), Styled(str(data.get("target")), "strong")]
    if data.get("victims"):
        makes = "makes" if len(data["victims"]) == 1 else "make"
        spans.append(Styled(f", {', '.join(data['victims'])} {makes} room"))
    result = data.get("result")
    if result:
        spans += [Styled(": "), Styled(str(result), "good" if result == "ok" else "bad")]
    elif data.get("phase"):
        spans.append(Styled(f": {data['phase']}"))
    for key, words in ("drain_secs", "drain"), ("cost_secs", "cost"):
        if data.get(key) is not None:
            spans.append(Styled(f", {words} {in_words(data[key])}"))
    if not result and data.get("expected_secs"):
        spans.append(Styled(f", {in_words_range(data['expected_secs'])} are usual"))
    return spans


def _queue(data: Mapping[str, Any]) -> list[Styled]:
    oldest = data.get("oldest_wait_secs")
    wait = f", the oldest for {in_words(oldest)}" if oldest is not None else ""
    name = str(data.get("model") or data.get("name"))
    return [
        Styled(f"{name} ", "strong"),
        Styled(f"{data.get('in_flight', 0)} in flight, {data.get('waiters', 0)} waiting{wait}"),
    ]


def _decision(data: Mapping[str, Any]) -> list[Styled]:
    return [Styled(str(data.get("text") or f"{data.get('do')}: {data.get('why')}"))]


def _log(data: Mapping[str, Any]) -> list[Styled]:
    return [
        Styled(f"{data.get('model') or ''} ", "strong"),
        Styled(str(data.get("line") or data.get("text") or "")),
    ]


def _command(data: Mapping[str, Any]) -> list[Styled]:
    return [
        Styled(f"{data.get('who')}: "),
        Styled(str(data.get("verb")), "strong"),
        Styled(f" {data['model']}" if data.get("model") else ""),
        Styled(f": {data.get('result')}"),
    ]


def _reload(data: Mapping[str, Any]) -> list[Styled]:
    if not data.get("ok", True):
        return [Styled("failed", "bad"), Styled(f": {data.get('error')}")]
    return [Styled("; ".join(map(str, data.get("changes") or ["nothing changed"])))]


_WORDS: Any = {
    "model": _model,
    "switch": _switch,
    "queue": _queue,
    "decision": _decision,
    "log": _log,
    "command": _command,
    "reload": _reload,
}

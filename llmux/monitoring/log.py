"""
This module formats the log: as lines for people, or as one JSON object a line.

Structured events are those logged with an C{event} field:
C{log.info("{model} is awake", event="model_activated", model=...)}.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from string import Formatter
from typing import Any, cast

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogFilterPredicate,
    ILogObserver,
    LogEvent,
    LogLevel,
    PredicateResult,
    formatEvent,
)

from llmux.monitoring.log_stream import Later, TextStream, log_stream

__all__ = ["LOG_FORMATS", "format_json", "format_text", "is_wanted", "log_observer"]

_OURS = "llmux"
_PRINTED = frozenset({"stdout", "stderr"})
_LEVELS = (
    (LogLevel.debug, "debug"),
    (LogLevel.info, "info"),
    (LogLevel.warn, "warn"),
    (LogLevel.error, "error"),
    (LogLevel.critical, "error"),
)
# twisted.python.log leaves these keys in its events.
_LEGACY = frozenset(
    {"eventSource", "failure", "format", "isError", "logLevel", "message", "printed"}
    | {"protocol", "system", "time", "why"}
)
_NO_FIELDS = _LEGACY | {"event", "log_format", "log_level", "log_namespace", "log_time"}
_RESERVED = frozenset({"event", "level", "message", "namespace", "time", "traceback"})


def is_wanted(event: LogEvent, verbose: bool) -> bool:
    """
    Tell whether an event belongs in the log.  Without C{verbose} these are the events of llmux
    at info and above, and all others at warn and above.
    """
    if verbose:
        return True
    level = event.get("log_level")
    if level is LogLevel.debug:
        return False
    if (level is None or level is LogLevel.info) and not event.get("isError"):
        namespace = str(event.get("log_namespace", ""))
        return namespace.partition(".")[0] == _OURS or namespace in _PRINTED
    return True


def format_json(event: LogEvent) -> str:
    """
    Make one JSON object of an event, without the line's end: time (ISO 8601, UTC), level,
    namespace, message, C{event} and its fields if there are any, and C{traceback} for a
    failure.  This function never raises.
    """
    line: dict[str, object] = {
        "time": _moment(event).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": _level(event),
        "namespace": _string(event.get("log_namespace", "")),
        "message": _message(event),
    }
    if event.get("event") is not None:
        line["event"] = _string(event["event"])
    for key, value in _fields(event):
        line[f"{key}_" if key in _RESERVED else key] = _plain(value)
    traceback = _traceback(event)
    if traceback:
        line["traceback"] = traceback
    return json.dumps(line)


def format_text(event: LogEvent) -> str:
    """
    Make a line for people of an event, without the line's end:
    C{2026-11-22 12:00:01 info  model_activated: b is awake (from=a)}.

    Fields that the message does not contain follow in brackets, except those that C{log_said}
    names, because the message says them in other words.  All lines but the first are indented
    by four blanks, so that no text in the log can look like another event.  This function never
    raises.
    """
    start = f"{_local_time(event)} {_level(event):<5} "
    name = event.get("event")
    text = _message(event)
    if name is not None:
        text = f"{_string(name)}: {text}" if text else _string(name)
    said = _names_in(event.get("log_format"))
    more_said = event.get("log_said", ())
    brief = []
    blocks = []
    for key, value in _fields(event, said):
        if key in more_said or value is None or value == "":
            continue
        shown = _string(round(value, 3) if isinstance(value, float) else _plain(value))
        if "\n" in shown:
            blocks.append(f"{key}: {shown}")
        elif name is not None:
            brief.append(f"{key}={shown}")
    if brief:
        text += f" ({', '.join(brief)})"
    traceback = _traceback(event)
    if traceback:
        blocks.append(traceback)
    lines = text.split("\n")
    lines += [line for block in blocks for line in block.rstrip().split("\n")]
    return start + "\n    ".join(map(_one_line, lines))


LOG_FORMATS: dict[str, Callable[[LogEvent], str]] = {"text": format_text, "json": format_json}


def log_observer(
    stream: TextStream, log_format: str, verbose: bool, later: Later | None = None
) -> ILogObserver:
    """
    Make an observer that writes a line to C{stream} for each event that is wanted.

    If the stream cannot be written to (its terminal is closed, its disk is full), or nobody
    reads it, lines are lost and counted, and nothing else happens.

    @param log_format: one of L{LOG_FORMATS}.
    @param verbose: whether all events are wanted.
    @param later: a function like C{reactor.callLater} that may be called in any thread; if
        None, lines that a slow reader has not taken yet are sent with the next line.
    """
    format_event = LOG_FORMATS[log_format]

    def line(event: LogEvent) -> str:
        return format_event(event) + "\n"

    def notice(count: int) -> str:
        return line(_lines_lost(count))

    def wanted(event: LogEvent) -> Any:
        return PredicateResult.maybe if is_wanted(event, verbose) else PredicateResult.no

    safe: Any = log_stream(stream, notice, later)
    return FilteringLogObserver(
        FileLogObserver(safe, line), [cast(ILogFilterPredicate, wanted)]
    )


def _lines_lost(count: int) -> LogEvent:
    return {
        "log_time": time.time(),
        "log_level": LogLevel.warn,
        "log_namespace": __name__,
        "log_format": "{count} lines of this log were lost: they could not be written",
        "event": "log_lines_lost",
        "count": count,
    }


def _moment(event: LogEvent) -> datetime:
    try:
        return datetime.fromtimestamp(event["log_time"], UTC)
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def _local_time(event: LogEvent) -> str:
    try:
        moment = time.localtime(event["log_time"])
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        moment = time.localtime(0)
    return time.strftime("%Y-%m-%d %H:%M:%S", moment)


def _level(event: LogEvent) -> str:
    level = event.get("log_level")
    for known, name in _LEVELS:
        if level is known:
            return name
    return "error" if event.get("isError") else "info"


def _message(event: LogEvent) -> str:
    try:
        log_format = event["log_format"]
        pieces = _pieces(log_format)
        if pieces:
            return "".join(
                [
                    before if name is None else before + format(event[name], spec)
                    for before, name, spec in pieces
                ]
            )
    except Exception:
        # Twisted knows more kinds of formats, and says what is wrong with a format.
        pass
    try:
        return formatEvent(event)
    except Exception:
        return "(an event that cannot be formatted)"


def _fields(
    event: LogEvent, said: frozenset[str] = frozenset()
) -> Iterator[tuple[str, object]]:
    if not str(event.get("log_namespace", "")).startswith(_OURS):
        return
    for key, value in event.items():
        if key in said or key in _NO_FIELDS or key.startswith("log_"):
            continue
        yield key, value


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Enum):
        return _plain(value.value)
    return _string(value)


def _string(value: Any) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__} that cannot be shown>"


def _traceback(event: LogEvent) -> str:
    failure = event.get("log_failure")
    if failure is None:
        return ""
    try:
        return str(failure.getTraceback()).rstrip("\n")
    except Exception:
        return _string(failure)


def _names_in(log_format: object) -> frozenset[str]:
    return _names_in_text(log_format) if isinstance(log_format, str) else frozenset()


@lru_cache(maxsize=256)
def _pieces(log_format: str) -> list[tuple[str, str | None, str]] | None:
    """
    Return the pieces of a format, each a text, the name of the field that follows, and how to
    write that field.  The result is None if a field is more than a name.  The result is kept,
    since there are few formats, and the standard library would parse them anew for each event.
    """
    pieces = []
    for text, name, spec, conversion in Formatter().parse(log_format):
        if name is not None and (conversion or "{" in (spec or "") or not name.isidentifier()):
            return None
        pieces.append((text, name, spec or ""))
    return pieces


@lru_cache(maxsize=256)
def _names_in_text(log_format: str) -> frozenset[str]:
    """
    Return the names of the fields of a format.  The cache is small, because formats are few,
    and stand in the code.
    """
    try:
        return frozenset(
            field.partition(".")[0].partition("[")[0].removesuffix("()")
            for _, field, _, _ in Formatter().parse(log_format)
            if field
        )
    except ValueError:
        return frozenset()


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode("ascii")
        for c in text
    )

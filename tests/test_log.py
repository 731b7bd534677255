"""These tests check the log, for people and for programs."""

from __future__ import annotations

import json
import time
from enum import Enum
from io import StringIO, TextIOWrapper
from typing import Any

import pytest
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, globalLogPublisher
from twisted.python import log as legacy
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from llmux.monitoring.log import format_json, format_text, log_observer
from tests.conftest import LoggedFailures

MOMENT = 1795306401.25
"""This moment is 2026-11-22 00:13:21.250 UTC, in seconds since 1970."""


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


class Colour(Enum):
    RED = "red"


class Unspeakable:
    """No string can be made of this object."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


def event(
    text: str = "",
    level: Any = LogLevel.info,
    namespace: str = "llmux.x",
    **more: Any,
) -> LogEvent:
    """Make an event as Logger makes it."""
    base = {"log_format": text, "log_level": level, "log_namespace": namespace}
    return {**base, "log_time": MOMENT, **more}


def as_json(e: LogEvent) -> dict[str, Any]:
    line = format_json(e)
    assert "\n" not in line
    parsed: dict[str, Any] = json.loads(line)
    return parsed


class TestJSON:
    def test_a_structured_event_has_its_fields(self) -> None:
        e = event("{model} is awake", event="model_activated", model="b", duration_secs=1.5)
        e["from"] = "a"
        assert as_json(e) == {
            "time": "2026-11-22T00:13:21.250Z",
            "level": "info",
            "namespace": "llmux.x",
            "message": "b is awake",
            "event": "model_activated",
            "model": "b",
            "duration_secs": 1.5,
            "from": "a",
        }

    def test_a_plain_event_has_its_message_and_source(self) -> None:
        assert as_json(event("two\nlines", LogLevel.warn, "twisted.web", log_source=3)) == {
            "time": "2026-11-22T00:13:21.250Z",
            "level": "warn",
            "namespace": "twisted.web",
            "message": "two\nlines",
        }

    def test_odd_values_become_sound_json(self) -> None:
        line = as_json(
            event(
                event="odd",
                nan=float("nan"),
                colour=Colour.RED,
                nothing=None,
                flag=True,
                bytes_=b"\xff",
                unspeakable=Unspeakable(),
                half="\ud800",
                message_="mine",
                traceback="also mine",
            )
        )
        assert line["nan"] == "nan"
        assert (line["colour"], line["nothing"], line["flag"]) == ("red", None, True)
        assert line["bytes_"] == "b'\\xff'"
        assert line["unspeakable"] == "<Unspeakable that cannot be shown>"
        assert line["half"] == "\ud800"
        assert (line["message_"], line["traceback_"]) == ("mine", "also mine")

    def test_a_failure_has_its_traceback(self) -> None:
        failure = Failure(ZeroDivisionError("by nought"))
        line = as_json(event("oops", LogLevel.critical, log_failure=failure))
        assert (line["level"], line["message"]) == ("error", "oops")
        assert "ZeroDivisionError: by nought" in line["traceback"]

    @pytest.mark.parametrize(
        "broken",
        [
            {},
            {"log_format": 5},
            {"log_format": "{missing}"},
            {"log_format": "{"},
            {"log_time": "now", "log_level": [], "log_namespace": None, "isError": 1},
            {"log_time": 1e30, "log_namespace": "llmux", "log_failure": "none"},
        ],
    )
    def test_a_broken_event_is_written_all_the_same(self, broken: LogEvent) -> None:
        assert as_json(broken)["level"] in ("info", "error")
        assert format_text(broken)


class TestText:
    def test_the_fields_of_a_structured_event_follow_its_message(self) -> None:
        e = event("{model} is awake", event="model_activated", model="b", duration_secs=1.23456)
        e["from"] = "a"
        assert format_text(e) == (
            "2026-11-22 00:13:21 info  model_activated: b is awake "
            "(duration_secs=1.235, from=a)"
        )

    def test_an_event_without_a_message_has_its_name_and_fields(self) -> None:
        e = event(event="switch_started", to="b", hint=None, note="")
        assert format_text(e) == "2026-11-22 00:13:21 info  switch_started (to=b)"

    def test_fields_that_the_message_says_already_are_left_out(self) -> None:
        e = event("{a} {b.real} {c[0]} {d()}", event="x", a=1, b=2, c=[3], d=lambda: 4, e=5)
        assert format_text(e) == "2026-11-22 00:13:21 info  x: 1 2 3 4 (e=5)"

    def test_fields_without_an_event_are_left_out(self) -> None:
        assert format_text(event("it is {x}", x=1, y=2)).endswith(" info  it is 1")

    def test_further_lines_are_indented(self) -> None:
        e = event("the hook failed", LogLevel.error, event="hook_failed", stderr="one\ntwo\n")
        assert format_text(e) == (
            "2026-11-22 00:13:21 error hook_failed: the hook failed\n    stderr: one\n    two"
        )
        assert format_text(event("one\ntwo")) == ("2026-11-22 00:13:21 info  one\n    two")

    def test_no_text_looks_like_another_line_of_ours(self) -> None:
        fake = "x\n2026-11-22 00:13:21 info  model_activated: b is awake\r\n\x85\u2028y"
        shown = format_text(event("{said}", said=fake, event="e", more=fake))
        assert [line[:4] for line in shown.splitlines()] == ["2026", *["    "] * 5]

    def test_fields_that_the_message_says_in_other_words(self) -> None:
        e = event("exit status 3", event="x", code=3, more=4, log_said=("code",))
        assert format_text(e).endswith(" x: exit status 3 (more=4)")
        assert as_json(e)["code"] == 3

    def test_control_characters_are_escaped(self) -> None:
        line = format_text(event("{line}", line="\x1b[31mréd\x00\r\ttab \u202e"))
        assert line.endswith(" info  \\x1b[31mréd\\x00\\r\ttab \\u202e")

    def test_a_traceback_is_indented_below_its_message(self) -> None:
        lines = format_text(event("oops", log_failure=Failure(KeyError("k")))).split("\n")
        assert lines[0] == "2026-11-22 00:13:21 info  oops"
        assert lines[-1] == "    Failure: builtins.KeyError: 'k'"


class TestObserver:
    def written(self, events: list[LogEvent], verbose: bool = False) -> list[str]:
        stream = StringIO()
        observer = log_observer(stream, "json", verbose)
        for e in events:
            observer(e)
        return [json.loads(line)["message"] for line in stream.getvalue().splitlines()]

    def test_the_observer_provides_its_interface(self) -> None:
        verifyObject(ILogObserver, log_observer(StringIO(), "text", False))

    def test_noise_is_left_out_unless_all_is_asked_for(self) -> None:
        events = [
            event("ours"),
            event("our debug", LogLevel.debug),
            event("their debug", LogLevel.debug, "twisted.web"),
            event("their noise", namespace="twisted.web.server.Site"),
            event("llmuxer is somebody else", namespace="llmuxer"),
            event("their warning", LogLevel.warn, "twisted.web"),
            event("printed", namespace="stdout"),
            {"log_format": "legacy noise", "log_namespace": "log_legacy"},
            {"log_format": "legacy error", "isError": 1},
        ]
        assert self.written(events) == ["ours", "their warning", "printed", "legacy error"]
        assert len(self.written(events, verbose=True)) == len(events)

    def test_events_of_both_kinds_of_loggers_are_written(
        self, logged_failures: LoggedFailures
    ) -> None:
        stream = StringIO()
        observer = log_observer(stream, "text", False)
        globalLogPublisher.addObserver(observer)
        try:
            Logger("llmux.x").info("{a}", a=1)
            legacy.msg("Starting factory")
            legacy.err(ValueError("legacy"), "why")
        finally:
            globalLogPublisher.removeObserver(observer)
        logged_failures.flush()
        lines = stream.getvalue().splitlines()
        assert lines[0].endswith(" info  1")
        assert lines[1].endswith(" error why")
        assert any("ValueError: legacy" in line for line in lines)
        assert "Starting" not in stream.getvalue()

    @pytest.mark.parametrize("error", [OSError(5, "EIO"), ValueError("closed")])
    def test_a_stream_that_fails_raises_nothing(self, error: Exception) -> None:
        class Gone:
            def write(self, text: str) -> None:
                raise error

            def flush(self) -> None:
                raise error

        log_observer(Gone(), "text", False)(event("x"))

    def test_a_stream_of_another_encoding_gets_what_it_can_take(self) -> None:
        from io import BytesIO

        buffer = BytesIO()
        stream = TextIOWrapper(buffer, encoding="ascii", write_through=True)
        log_observer(stream, "text", False)(event("é\ud800"))
        assert buffer.getvalue().endswith(b"\\xe9\\ud800\n")

"""These tests check the request log, and that a simulation reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from llmux.interfaces import (
    Arrived,
    Completed,
    Failed,
    Forwarded,
    Left,
    LeftReason,
    Slept,
    Woke,
)
from llmux.monitoring.request_log import RequestLog
from llmux.simulate.trace import read_trace
from tests.world import World

EPOCH = 1_763_770_000.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "requests.jsonl"


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def request_lines(file: Path) -> list[dict[str, Any]]:
    return [line for line in lines(file) if "switch" not in line]


def make(file: Path) -> RequestLog:
    """Make a log that is opened 100 s after the switcher's clock began."""
    clock = Clock()
    clock.advance(100.0)
    return RequestLog(str(file), clock, lambda: EPOCH)


def serve(log: RequestLog, number: int, now: float = 100.0, answered: bool = True) -> None:
    log(Arrived(now, "a", number))
    log(Forwarded(now + 3, "a", number, 3.0))
    log(Completed(now + 7.5, "a", number, 4.5, answered))


def test_a_request_has_a_line(file: Path) -> None:
    log = make(file)
    serve(log, 17)
    # The request has arrived when the log was opened.
    assert lines(file) == [
        {
            "t": EPOCH,
            "model": "a",
            "service_s": 4.5,
            "id": f"{int(EPOCH):x}-17",
            "waited_s": 3.0,
            "answered": True,
        }
    ]
    log.close()


def test_the_first_request_is_no_later_than_the_others(file: Path) -> None:
    """
    The time of the first request in the log was late by the time for which it had waited and
    was served.
    """
    log = make(file)
    serve(log, 1, now=160.0)
    serve(log, 2, now=180.0)
    log.close()
    assert [line["t"] for line in lines(file)] == [EPOCH + 60, EPOCH + 80]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_the_file_belongs_to_the_user_that_the_daemon_becomes(file: Path) -> None:
    RequestLog(str(file), Clock(), owner=(12345, 54321)).close()
    found = os.stat(file)
    assert (found.st_uid, found.st_gid) == (12345, 54321)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_file_that_somebody_has_linked_there_stays_whose_it_is(
    file: Path, tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    """Root opens the file, in a directory where the daemon's user may write."""
    theirs = tmp_path / "shadow"
    theirs.touch()
    link(theirs, file)
    RequestLog(str(file), Clock(), owner=(12345, 54321)).close()
    assert theirs.stat().st_uid == 0


def test_a_request_that_met_a_dead_backend_is_one_line(file: Path) -> None:
    """The second try of a request, under another number, is the same request."""
    world = World()
    log = RequestLog(str(file), world.clock)
    world.switcher.add_observer(log)
    world.wake("a").finish()
    world.advance(10)
    asked = world.clock.seconds()
    first, other = world.ask("a"), world.ask("a")
    world.advance(2)
    world.hooks.awake.discard("a")
    assert first.report_dead() == []
    world.advance(0)
    second = first.retry(asked)
    other.leave()
    world.advance(3)
    assert second.served
    world.advance(100)
    second.finish()
    log.close()
    found = request_lines(file)
    assert [line["answered"] for line in found] == [True, False, True]
    assert found[2]["waited_s"] + found[2]["service_s"] == pytest.approx(105, abs=0.1)
    assert found[1]["t"] == found[2]["t"]


def test_nothing_is_kept_of_requests_that_are_over(file: Path) -> None:
    log = make(file)
    log(Arrived(100.0, "a", 1))
    log(Forwarded(100.0, "a", 1, 0.0))
    log(Completed(101.0, "a", 1, 1.0, True))
    serve(log, 2)
    log(Arrived(100.0, "a", 3))
    log(Left(101.0, "a", 3, LeftReason.FAILED, 1.0))
    assert not (log._arrived or log._waited or log._unanswered)
    log.close()


def test_a_request_without_an_answer_is_kept_back_for_a_minute(file: Path) -> None:
    log = make(file)
    serve(log, 1, now=100.0, answered=False)
    serve(log, 2, now=120.0)
    assert [line["id"][-1] for line in lines(file)] == ["2"]
    serve(log, 3, now=170.0)
    assert [line["id"][-1] for line in lines(file)] == ["2", "1", "3"]
    serve(log, 4, now=200.0, answered=False)
    log.close()
    assert [line["id"][-1] for line in lines(file)] == ["2", "1", "3", "4"]


def test_a_request_without_an_answer_is_kept_back_while_its_model_is_dead(file: Path) -> None:
    """A wake of the model may take a quarter of an hour."""
    log = make(file)
    serve(log, 1, now=100.0, answered=False)
    log(Failed(110.0, "a", None, 110.0))
    serve(log, 2, now=900.0, answered=False)
    log(Woke(1000.0, "a", 0, (), 100.0))
    # The first request has come back, the second has not.
    log(Forwarded(1000.0, "a", 3, 900.0))
    log(Completed(1001.0, "a", 3, 1.0, True))
    log.close()
    assert [(line["id"][-1], line["t"] - EPOCH) for line in request_lines(file)] == [
        ("2", 800),
        ("3", 0),
    ]


def test_a_client_that_left_has_a_line_with_its_patience(file: Path) -> None:
    log = make(file)
    serve(log, 1)
    log(Left(200.0, "a", 2, LeftReason.DISCONNECTED, 20.0))
    log(Left(200.0, "b", 3, LeftReason.TIMEOUT, 30.0))
    log.close()
    one, gone, late = lines(file)
    assert gone["patience_s"] == gone["waited_s"] == 20.0
    assert gone["service_s"] == 4.5, "the mean of its model"
    assert gone["t"] - one["t"] == pytest.approx(80)
    assert (gone["left"], late["left"]) == ("disconnected", "timeout")
    assert "patience_s" not in late, "it was llmux that gave up"
    assert not gone["answered"]


def test_a_switch_is_a_line_with_the_times_of_its_hooks(file: Path) -> None:
    log = make(file)
    log(Woke(100.0, "a", 0, (), None))
    log(Slept(121.5, "a", 1.5))
    log(Slept(121.0, "c", 1.0))
    log(Woke(130.0, "b", 0, ("a", "c"), 8.5))
    assert lines(file) == [
        {"t": EPOCH + 30, "switch": "b", "wake_s": 8.5, "sleep_s": {"a": 1.5, "c": 1.0}}
    ], "the model that was found awake at start cost nothing"
    log(Slept(150.0, "b", None))
    log(Woke(160.0, "a", 0, ("b",), 7.0))
    log.close()
    assert lines(file)[1:] == [{"t": EPOCH + 60, "switch": "a", "wake_s": 7.0, "sleep_s": {}}]


def test_a_sleep_that_made_room_for_nobody_is_a_line_of_its_own(file: Path) -> None:
    """A sleep makes room for nobody if a command ordered it, or if no wake follows."""
    log = make(file)
    log(Slept(110.0, "a", 1.5))
    log(Slept(115.0, "b", 2.0))
    log(Woke(130.0, "a", 0, (), 8.0))
    assert lines(file) == [
        {"t": EPOCH + 10, "switch": None, "sleep_s": {"a": 1.5}},
        {"t": EPOCH + 30, "switch": "a", "wake_s": 8.0, "sleep_s": {}},
    ]
    log.close()
    assert lines(file)[2:] == [{"t": EPOCH + 15, "switch": None, "sleep_s": {"b": 2.0}}]


def test_a_reply_that_was_cut_short_is_not_answered(file: Path) -> None:
    log = make(file)
    serve(log, 1, answered=False)
    log(Woke(1.0, "a", 0, (), 1.0))
    log.close()
    [line] = request_lines(file)
    assert not line["answered"]


def test_lines_are_kept_back_for_a_second(file: Path) -> None:
    log = make(file)
    log(Forwarded(100.0, "a", 1, 0.0))
    log(Forwarded(100.0, "a", 2, 0.0))
    log(Forwarded(100.0, "a", 3, 0.0))
    log(Completed(100.1, "a", 1, 0.1, True))
    log(Completed(100.2, "a", 2, 0.2, True))
    assert len(lines(file)) == 1
    log(Completed(100.3, "a", 3, 0.3, True))
    assert len(lines(file)) == 3, "nothing is in flight: who knows when the next one comes"
    log.close()


def test_a_reopened_log_begins_a_new_file(file: Path) -> None:
    log = make(file)
    log(Forwarded(100.0, "a", 9, 0.0))
    serve(log, 1)
    serve(log, 2)
    old = file.rename(file.with_suffix(".1"))
    serve(log, 3)
    log.reopen()
    serve(log, 4, now=200.0)
    log.close()
    assert [line["id"].split("-")[1] for line in lines(old)] == ["1", "2", "3"]
    assert [line["id"].split("-")[1] for line in lines(file)] == ["4"]
    log.reopen()
    serve(log, 5)
    log.close()
    assert len(lines(file)) == 1


def test_a_log_that_cannot_be_reopened_is_written_on(file: Path) -> None:
    logged, forget = record_log()
    log = make(file)
    file.rename(file.with_suffix(".1"))
    file.mkdir()
    log.reopen()
    serve(log, 1)
    log.close()
    forget()
    assert len(lines(file.with_suffix(".1"))) == 1
    assert logged == ["request_log_not_reopened"]


def test_a_log_in_a_missing_directory_is_refused(file: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        make(file.parent / "none" / "file")


def record_log() -> tuple[list[str], Any]:
    seen: list[str] = []

    def observe(event: LogEvent) -> None:
        if "event" in event:
            seen.append(event["event"])

    observer = cast(ILogObserver, observe)
    globalLogPublisher.addObserver(observer)
    return seen, lambda: globalLogPublisher.removeObserver(observer)


def test_a_full_disk_is_logged_once_and_breaks_nothing() -> None:
    logged, forget = record_log()
    log = RequestLog("/dev/full", Clock(), lambda: EPOCH)
    for number in range(5):
        serve(log, number, now=100.0 + 10 * number)
    log.close()
    forget()
    assert logged == ["request_log_failed"]


def test_no_line_is_torn(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes half of a line, then gets room again."""
    logged, forget = record_log()
    log = make(file)
    serve(log, 1)
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
    serve(log, 2)
    monkeypatch.setattr(os, "write", write)
    serve(log, 3)
    log.close()
    forget()
    assert [line["id"].split("-")[1] for line in lines(file)] == ["1", "3"]
    assert logged == ["request_log_failed", "request_log_recovered"]


def test_a_pipe_that_nobody_reads_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device"):
        RequestLog(str(tmp_path / "pipe"), Clock())


def test_what_a_switcher_served_is_a_trace(file: Path) -> None:
    world = World()
    log = RequestLog(str(file), world.clock)
    world.switcher.add_observer(log)
    first = world.ask("a")
    world.advance(2)
    impatient = world.ask("b")
    world.advance(3)
    impatient.leave()
    second = world.ask("b")
    first.finish()
    world.advance(10)
    second.finish()
    log.close()
    trace = read_trace(file.open("rb"))
    assert [(s.model, s.wake, s.sleeps) for s in trace.switches] == [
        ("a", 1.0, {}),
        ("b", 1.0, {"a": 1.0}),
    ]
    assert [request.model for request in trace.requests] == ["b", "a", "b"]
    assert [request.sent for request in trace.requests] == pytest.approx([2, 0, 5])
    assert [request.service for request in trace.requests] == pytest.approx([1, 4, 8])
    assert trace.requests[0].patience == pytest.approx(3.0)

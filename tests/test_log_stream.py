"""
These tests check that a log that nobody reads, or that cannot be written, costs lines and
nothing else.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher

from llmux.monitoring.log import log_observer
from llmux.monitoring.log_file import ReopenedLogFile
from llmux.monitoring.log_stream import MOST_WAITING, RETRY, PipeLogStream, log_stream

from .daemon import LLMUX, ask, backend, connect, environment, free_port, wait_until


def notice(count: int) -> str:
    return f"{count} lost\n"


class Stream:
    """This object has one end of a descriptor, and a log stream to the other end."""

    def __init__(self, ours: int, theirs: int, clock: Clock | None = None) -> None:
        self.ours = ours
        self.theirs = theirs
        os.set_blocking(theirs, False)
        self.log = PipeLogStream(ours, notice, None if clock is None else clock.callLater)

    def read(self) -> str:
        """Read everything that is there."""
        found = b""
        while True:
            try:
                piece = os.read(self.theirs, 65536)
            except BlockingIOError:
                return found.decode()
            found += piece

    def fill(self, lines: int = 20000) -> None:
        for n in range(lines):
            self.log.write(f"{n:099}\n")


def pipe() -> tuple[int, int]:
    read, write = os.pipe()
    return write, read


def terminal() -> tuple[int, int]:
    ours, theirs = pty.openpty()
    return theirs, ours


def sockets() -> tuple[int, int]:
    """Make two sockets, as systemd connects a service to its journal."""
    one, two = socket.socketpair()
    return one.detach(), two.detach()


@pytest.fixture(params=[pipe, sockets, terminal])
def stream(request: pytest.FixtureRequest) -> Iterator[Stream]:
    made = Stream(*request.param())
    yield made
    for fd in (made.ours, made.theirs):
        os.close(fd)


def numbers(text: str) -> list[int]:
    return [int(line) for line in text.split() if len(line) == 99]


def test_what_is_read_is_written_at_once(stream: Stream) -> None:
    stream.log.write("one\n")
    assert stream.read().split() == ["one"]
    stream.log.write("a surrogate: \ud800\n")
    assert stream.read().split("\n")[0].strip("\r") == "a surrogate: \\ud800"


def test_a_reader_that_stops_costs_lines_that_are_counted(stream: Stream) -> None:
    """The lines that were written are whole, and are the first ones."""
    stream.fill()
    text = stream.read()
    while True:
        stream.log.write("next\n")
        more = stream.read()
        text += more
        if more.endswith(("next\n", "next\r\n")) and "lost" in text:
            break
    found = numbers(text)
    (lost,) = (int(line.split()[0]) for line in text.splitlines() if "lost" in line)
    assert found == list(range(len(found)))
    assert len(found) >= MOST_WAITING // 100
    assert len(found) + lost + text.count("next") >= 20000
    # "next" was lost as often as it was not seen.
    assert lost >= 20000 - len(found)


def test_the_descriptor_that_others_share_stays_as_it_is(stream: Stream) -> None:
    """O_NONBLOCK on the descriptor would make the programs fail that write to it too."""
    stream.fill()
    assert os.get_blocking(stream.ours)


def test_what_waits_is_written_when_the_reader_goes_on() -> None:
    """Lines that wait are written as soon as the pipe has room, without another line."""
    clock = Clock()
    stream = Stream(*pipe(), clock)
    stream.fill(3000)
    text = stream.read()
    assert len(numbers(text)) < 3000
    for _ in range(20):
        clock.advance(RETRY)
        text += stream.read()
    assert numbers(text) == list(range(3000))
    assert clock.getDelayedCalls() == []
    os.close(stream.ours)
    os.close(stream.theirs)


def test_a_reader_that_is_gone_costs_lines(stream: Stream) -> None:
    stream.fill(5000)
    os.close(stream.theirs)
    stream.fill(5000)
    stream.theirs = os.open(os.devnull, os.O_RDONLY)


def test_without_a_file_of_its_own_a_pipe_is_asked_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This is so where another user has opened the pipe, or there is no /proc."""

    def refuse(*arguments: object) -> int:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        stream = Stream(*pipe())
    stream.fill()
    found = numbers(stream.read())
    assert found == list(range(len(found)))
    assert os.get_blocking(stream.ours)
    os.close(stream.ours)
    os.close(stream.theirs)


def test_files_are_no_pipes(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        made = log_stream(file, notice)
        assert not isinstance(made, PipeLogStream)
        made.write("one\n")
        assert (tmp_path / "log").read_text() == "one\n"


class Flaky:
    """This stream has a disk that is full now and then."""

    def __init__(self) -> None:
        self.full = False
        self.text = ""

    def write(self, text: str) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.text += text

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_line_says_how_many_were_lost(log_format: str) -> None:
    stream = Flaky()
    observer = log_observer(stream, log_format, False)
    event: LogEvent = {"log_namespace": "llmux.x", "log_format": "x", "log_time": time.time()}
    observer(event)
    stream.full = True
    for _ in range(3):
        observer(event)
    stream.full = False
    observer(event)
    observer(event)
    lines = stream.text.splitlines()
    assert len(lines) == 4
    if log_format == "json":
        found = json.loads(lines[1])
        assert (found["event"], found["count"], found["level"]) == ("log_lines_lost", 3, "warn")
    else:
        assert lines[1][20:] == (
            "warn  log_lines_lost: 3 lines of this log were lost: they could not be written"
        )


# The log file of a daemon.


def open_log_file(path: Path) -> Any:
    return ReopenedLogFile.fromFullPath(str(path))  # type: ignore[no-untyped-call]


def test_a_log_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    log = open_log_file(tmp_path / "log")
    log.write("one\n")
    (tmp_path / "log").rename(tmp_path / "log.1")
    log.reopen()
    log.write("two\n")
    assert (tmp_path / "log.1").read_text() == "one\n"
    assert (tmp_path / "log").read_text() == "two\n"
    log.close()


def test_a_log_file_that_cannot_be_made_anew_is_written_on(tmp_path: Path) -> None:
    """The file may lie in a directory of root's, for example after C{twistd --uid}."""
    log = open_log_file(tmp_path / "log")
    (tmp_path / "log").rename(tmp_path / "log.1")
    (tmp_path / "log").mkdir()
    events: list[LogEvent] = []
    observer: Callable[[LogEvent], None] = events.append
    globalLogPublisher.addObserver(observer)  # type: ignore[arg-type]  # an ILogObserver
    try:
        log.reopen()
    finally:
        globalLogPublisher.removeObserver(observer)  # type: ignore[arg-type]
    (event,) = (e for e in events if e.get("event"))
    assert (event["event"], event["error"]) == ("log_file_not_reopened", "is a directory")
    log.write("one\n")
    log.flush()
    assert (tmp_path / "log.1").read_text() == "one\n"
    log.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_log_file_is_given_to_the_user_that_the_daemon_becomes(tmp_path: Path) -> None:
    log = open_log_file(tmp_path / "log")
    log.give_to(12345, 54321)
    found = os.stat(tmp_path / "log")
    assert (found.st_uid, found.st_gid) == (12345, 54321)
    log.close()
    before = os.stat("/dev/null")
    log = open_log_file(Path("/dev/null"))
    log.give_to(12345, 54321)
    log.close()
    assert os.stat("/dev/null").st_uid == before.st_uid
    assert stat.S_ISCHR(before.st_mode)


# The whole.


def test_a_daemon_whose_log_nobody_reads_serves_on_and_obeys(tmp_path: Path) -> None:
    """The daemon used to wait for ever in a write, and SIGTERM did not end it."""
    port = free_port()
    with backend() as behind:
        (tmp_path / "config.json").write_text(
            json.dumps(
                {
                    "port": port,
                    "models": {
                        "a": {
                            "port": behind.port,
                            "wake": "seq 1 20000; touch awake",
                            "sleep": "rm -f awake",
                            "alive": "test -e awake",
                        }
                    },
                }
            )
        )
        daemon = subprocess.Popen(
            [*LLMUX, "-c", "config.json"],
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            wait_until(lambda: listens(port), "the daemon to listen")
            with closing(connect(port)) as connection:
                assert ask(connection)[0] == 200
                connection.request("GET", "/health")
                assert connection.getresponse().read()
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(30) == 0
        finally:
            daemon.kill()
            daemon.communicate()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True

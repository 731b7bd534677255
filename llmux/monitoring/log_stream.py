"""
This module has streams for a log; writing to them neither fails nor waits.

If a terminal was stopped, if nobody scrolls a pager, or if C{x} in C{llmux 2>&1 | x} hangs, a
write to the descriptor would wait, and llmux would wait with it.  A L{PipeLogStream} writes
without waiting, and keeps what does not fit until later.  O_NONBLOCK is a property of the open
file, which other programs share.  So the stream opens a file of its own (Linux'
C{/proc/self/fd}) or, for a socket, passes MSG_DONTWAIT to each send.  If neither is possible,
the stream asks poll(2) first, and writes no more than fits into a pipe that is ready.
"""

from __future__ import annotations

import os
import select
import socket
import stat
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Later", "LogStream", "PipeLogStream", "TextStream", "later_in", "log_stream"]

MOST_WAITING = 256 * 1024
"""This many bytes may wait for a reader, in addition to the 64 KiB that a pipe holds."""

RETRY = 0.25
"""Bytes that wait are tried again after this many seconds."""

_WRITTEN_WHOLE = 4096
"""This many bytes are written as a whole or not at all (PIPE_BUF of Linux)."""

Later = Callable[[float, Callable[[], None]], object]
"""A function of this type is like C{reactor.callLater}, but may be called in any thread."""


class TextStream(Protocol):
    """A L{TextStream} is an object that lines can be written to."""

    def write(self, text: str, /) -> object:
        """Write a line."""

    def flush(self) -> object:
        """Pass on all that has been written."""


class LogStream:
    """
    This stream loses lines where another stream would raise, because its terminal is closed or
    its disk is full.  When lines can be written again, a line says how many were lost.
    """

    def __init__(self, stream: TextStream, notice: Callable[[int], str]) -> None:
        """@param notice: a function that returns the line which says how many were lost."""
        self._stream = stream
        self._notice = notice
        self._lost = 0

    def write(self, text: str) -> None:
        """Write a line, or lose it."""
        if self._accepts(self._notice(self._lost) + text if self._lost else text):
            self._lost = 0
        else:
            self._lost += 1

    def flush(self) -> None:
        """Do nothing, because each line is passed on when it is written."""

    def _accepts(self, text: str) -> bool:
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self._stream.write(text.encode("ascii", "backslashreplace").decode("ascii"))
            self._stream.flush()
        except (OSError, ValueError):
            return False
        return True


class PipeLogStream(LogStream):
    """
    This stream writes to a pipe, a socket or a terminal, and never waits for its reader.  Bytes
    that the reader has not taken are kept, up to 256 KiB; lines beyond that are lost.
    """

    def __init__(
        self,
        fd: int,
        notice: Callable[[int], str],
        later: Later | None = None,
        encoding: str = "utf-8",
    ) -> None:
        """
        @param fd: the descriptor, which is neither closed nor changed.
        @param later: a function that calls back after some seconds, when the bytes that wait
            are written; if None, they are written with the next line.
        """
        self._notice = notice
        self._lost = 0
        self._send = _sender(fd)
        self._later = later
        self._encoding = encoding
        self._waiting = bytearray()
        self._will_retry = False

    def _accepts(self, text: str) -> bool:
        data = text.encode(self._encoding, "backslashreplace")
        if len(self._waiting) + len(data) > MOST_WAITING:
            return False
        self._waiting += data
        given_up = self._push()
        if given_up:
            # write() itself counts the line that it was given.
            self._lost += given_up - 1
        return not given_up

    def _push(self) -> int:
        """
        Write as many of the bytes that wait as the reader takes.

        @return: how many lines were lost because the reader has gone.
        """
        try:
            while self._waiting:
                written = self._send(bytes(self._waiting[:_WRITTEN_WHOLE]))
                if not written:
                    break
                del self._waiting[:written]
        except OSError:
            given_up = max(1, self._waiting.count(b"\n"))
            self._waiting.clear()
            return given_up
        if self._waiting and self._later is not None and not self._will_retry:
            self._will_retry = True
            self._later(RETRY, self._retry)
        return 0

    def _retry(self) -> None:
        self._will_retry = False
        self._lost += self._push()


def later_in(reactor: Any) -> Later:
    """
    Make a L{Later} of a reactor, because a line may be logged in any thread.

    @param reactor: an L{IReactorTime} and L{IReactorFromThreads}.
    """

    def later(seconds: float, call: Callable[[], None]) -> None:
        reactor.callFromThread(reactor.callLater, seconds, call)

    return later


def log_stream(
    stream: TextStream, notice: Callable[[int], str], later: Later | None = None
) -> LogStream:
    """
    Make the stream for a log that goes to C{stream}, which may be a file, a pipe, a terminal or
    an object.

    @param notice: a function that returns the line which says how many were lost.
    @param later: see L{PipeLogStream}.
    """
    try:
        fd = stream.fileno()  # type: ignore[attr-defined]  # it may have one
        mode = os.fstat(fd).st_mode
    except (AttributeError, OSError, ValueError):
        return LogStream(stream, notice)
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)):
        return LogStream(stream, notice)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return PipeLogStream(fd, notice, later, encoding)


def _sender(fd: int) -> Callable[[bytes], int]:
    """
    Make a function that writes to a descriptor without waiting, and returns how
    many bytes it has written; 0 if it would have to wait.
    """
    if stat.S_ISSOCK(os.fstat(fd).st_mode):
        connection = socket.socket(fileno=os.dup(fd))
        return _or_nothing(lambda data: connection.send(data, socket.MSG_DONTWAIT))
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        own = os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        return lambda data: os.write(fd, data) if poll.poll(0) else 0
    return _or_nothing(lambda data: os.write(own, data))


def _or_nothing(send: Callable[[bytes], int]) -> Callable[[bytes], int]:
    def sender(data: bytes) -> int:
        try:
            return send(data)
        except BlockingIOError:
            return 0

    return sender

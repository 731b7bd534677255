"""
This module reads a server's output, which goes to a file, and from there to the log.

A pipe would be closed when llmux ends, and then a server that writes would end too.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from llmux.hooks.runs.lines import Lines

__all__ = ["OutputFile"]

TRUNCATED_AT = 1024 * 1024
"""A file of which this many bytes have been read is truncated."""

MOST_READ = 64 * 1024
"""
This many bytes are read in one go, and this many are kept of an output that grows too fast.
"""

MOST_BEHIND = 256 * 1024
"""
If an output has grown by more than this many bytes since the last look, the beginning is left
out: so many lines could not be logged, and reading them would delay everything else in the
reactor.
"""

SOONEST, LATEST = 0.1, 1.0
"""
So many seconds pass between two looks at a file that grows, and at one that has not grown for
long.
"""

_TAIL = 4096
"""The last line is looked for in this many bytes at the end of the file."""


class OutputFile:
    """
    An L{OutputFile} is a file that a server appends to, and that this class reads.

    @ivar path: the path of the file, which may not exist before L{open_for_server}.
    """

    def __init__(
        self,
        clock: IReactorTime,
        path: str,
        received: Callable[[bytes], None],
        left_out: Callable[[int], None],
    ) -> None:
        """
        @param received: a function that is called with each piece of the output.
        @param left_out: a function that is called with the number of bytes that were not read
            because they came too fast.
        """
        self.path = path
        self._clock = clock
        self._received = received
        self._left_out = left_out
        self._fd: int | None = None
        self._read_to = 0
        self._pause = SOONEST
        self._look: IDelayedCall | None = None

    def open_for_server(self) -> int:
        """
        Make an empty file for a server that is about to be started, and follow the file.

        @return: a descriptor that writes at the file's end, for the caller to close.
        @raise OSError: the file cannot be made.
        """
        self.close()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        writer = os.open(self.path, flags, 0o600)
        try:
            os.ftruncate(writer, 0)
            self._follow(0)
        except OSError:
            os.close(writer)
            raise
        return writer

    def follow_from_here(self) -> None:
        """
        Follow a server that an earlier llmux has started, from the present end of the file.
        """
        if self._fd is None:
            try:
                self._follow(os.stat(self.path).st_size)
            except OSError:
                # Somebody has removed the file, which does not disturb the server.
                pass

    def _follow(self, begin: int) -> None:
        self._fd = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._read_to = begin
        self._pause = SOONEST
        self._look_later()

    def last_line(self) -> str:
        """Return the last line that is not blank; "" if there is none."""
        try:
            with open(self.path, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
                return last_line_of(file.read(_TAIL))
        except OSError:
            return ""

    def close(self) -> None:
        """Read what has been written so far, and stop following the file."""
        if self._fd is None:
            return
        self._catch_up()
        if self._look is not None and self._look.active():
            self._look.cancel()
        self._look = None
        os.close(self._fd)
        self._fd = None

    def catch_up(self) -> None:
        """Read what has been written so far."""
        if self._fd is not None:
            self._catch_up()

    def _look_later(self) -> None:
        self._look = self._clock.callLater(self._pause, self._look_now)

    def _look_now(self) -> None:
        grows = self._catch_up()
        self._pause = SOONEST if grows else min(LATEST, self._pause * 2)
        self._look_later()

    def _catch_up(self) -> bool:
        """Read what has been written since the last time, and tell whether that is anything."""
        assert self._fd is not None
        size = os.fstat(self._fd).st_size
        if size < self._read_to:
            # Somebody else has truncated it.
            self._read_to = 0
        if size == self._read_to:
            return False
        if size - self._read_to > MOST_BEHIND:
            left_out = size - self._read_to - MOST_READ
            self._read_to += left_out
            self._left_out(left_out)
        while data := os.pread(self._fd, MOST_READ, self._read_to):
            self._read_to += len(data)
            self._received(data)
            if self._read_to >= size + MOST_BEHIND:
                # The server writes as fast as this loop reads; the rest is read at the next
                # look.
                return True
        if self._read_to >= TRUNCATED_AT:
            # All has been read, except what the server may write in this moment, which is lost.
            os.ftruncate(self._fd, 0)
            self._read_to = 0
        return True


def last_line_of(output: bytes) -> str:
    """Return the last line of some output that is not blank; "" if there is none."""
    lines = Lines()
    lines.feed(output)
    whole = [line for line in [*lines.take(_TAIL), *lines.end()] if line.strip()]
    return whole[-1].decode("utf-8", "replace").strip() if whole else ""

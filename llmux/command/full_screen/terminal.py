"""This module takes a terminal over as a screen, draws on it, and gives it back as it was."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from llmux.command.words.styles import Styled, paint

__all__ = ["Screen"]

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[H\x1b[2J"
_LEAVE = "\x1b[?25h\x1b[?1049l"
_KEYS = {"\x1b[A": "up", "\x1b[B": "down", "\x1bOA": "up", "\x1bOB": "down", "\x1b": "escape"}
_ENDS = (signal.SIGTERM, signal.SIGHUP)


class Screen:
    """
    A L{Screen} owns the terminal within a C{with} block.  The terminal is given back as it was
    when the block ends, by return, by an error, by SIGINT, SIGTERM or SIGHUP, and for as long
    as the process is stopped (C{^Z}).

    @ivar size: the numbers of columns and of lines.
    """

    def __init__(self) -> None:
        self._in = sys.stdin.fileno()
        self._out = sys.stdout.fileno()
        self._before: Any = None
        self._handlers: dict[int, Any] = {}
        self._drawn: Any = None
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        os.set_blocking(self._wake_reader, False)
        self.size = (80, 24)

    def __enter__(self) -> Screen:
        self._before = termios.tcgetattr(self._in)
        for number in _ENDS:
            self._handlers[number] = signal.signal(number, self._end)
        self._handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, self._resized)
        self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._stop)
        self._take()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, before in self._handlers.items():
            # A second signal must not stop us from giving the terminal back.
            signal.signal(number, signal.SIG_IGN if number in _ENDS else before)
        self._give_back()
        for number in _ENDS:
            signal.signal(number, self._handlers[number])

    def _take(self) -> None:
        tty.setcbreak(self._in)
        self._write(_ENTER)
        self._drawn = None
        self._measure()

    def _give_back(self) -> None:
        try:
            self._write(_LEAVE)
            termios.tcsetattr(self._in, termios.TCSADRAIN, self._before)
        except (OSError, termios.error):
            # The terminal is gone (SIGHUP).
            pass

    def _end(self, number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def _resized(self, number: int, frame: FrameType | None) -> None:
        self.wake()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()
        self.wake()

    def _measure(self) -> None:
        try:
            size = os.get_terminal_size(self._out)
        except OSError:
            return
        if (size.columns, size.lines) != self.size:
            self._drawn = None
        # A terminal that does not know its size says 0.
        self.size = (size.columns or 80, size.lines or 24)

    def _write(self, text: str) -> None:
        data = text.encode(sys.stdout.encoding or "utf-8", "replace")
        while data:
            data = data[os.write(self._out, data) :]

    def wake(self) -> None:
        """End the L{wait} that runs in another thread, or else the next one."""
        try:
            os.write(self._wake_writer, b"x")
        except BlockingIOError:
            pass

    def draw(self, lines: Sequence[Sequence[Styled]], colour: bool) -> None:
        """Show these lines; there may be no more of them than the terminal has."""
        if lines == self._drawn:
            return
        cleared = "" if self._drawn is not None else "\x1b[2J"
        self._drawn = lines
        # The reversed style of the chosen line is shown without colours as well.
        texts = [
            paint(line, colour or any(span.style == "reverse" for span in line))
            for line in lines
        ]
        # Each line is cleared before it is written: after it has filled its last column,
        # clearing would remove that column.
        self._write(f"{cleared}\x1b[H\x1b[K" + "\r\n\x1b[K".join(texts))

    def wait(self, secs: float) -> Iterator[str]:
        """
        Wait for keys, for L{wake}, or for C{secs} seconds, and yield the keys.

        @raise EOFError: the terminal has been closed.
        @raise OSError: the terminal cannot be read.
        """
        ready, _, _ = select.select([self._in, self._wake_reader], [], [], secs)
        if self._wake_reader in ready:
            os.read(self._wake_reader, 4096)
        self._measure()
        if self._in in ready:
            data = os.read(self._in, 64)
            if not data:
                raise EOFError
            yield from _keys(data.decode("utf-8", "replace"))


def _keys(text: str) -> Iterator[str]:
    while text:
        for sequence, name in _KEYS.items():
            if text.startswith(sequence):
                yield name
                text = text[len(sequence) :]
                break
        else:
            yield text[0]
            text = text[1:]

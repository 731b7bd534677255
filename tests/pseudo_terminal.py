"""This module runs a program in a terminal of its own, whose screen can be read."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyte

from tests.daemon import LLMUX, PATIENCE, environment, wait_until

__all__ = ["PseudoTerminal", "pseudo_terminal"]


class PseudoTerminal:
    """
    This is the terminal of a program.

    @ivar process: the program.
    """

    def __init__(
        self, arguments: Sequence[str], cwd: Path, columns: int, lines: int, **extra: str
    ) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self.written = b""
        self._ours, self._theirs = pty.openpty()
        self._set_size(columns, lines)
        self.before = termios.tcgetattr(self._theirs)
        self.process = subprocess.Popen(
            [*LLMUX, *arguments],
            cwd=cwd,
            env=environment() | {"TERM": "xterm-256color"} | extra,
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            preexec_fn=self._own,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _own(self) -> None:
        os.setsid()
        fcntl.ioctl(self._theirs, termios.TIOCSCTTY, 0)

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._ours, 65536)
            except OSError:
                return
            if not data:
                return
            with self._lock:
                self.written += data
                self._stream.feed(data)

    def lines(self) -> list[str]:
        """Return the lines of the screen, without the blanks at their ends."""
        with self._lock:
            return [line.rstrip() for line in self._screen.display]

    def text(self) -> str:
        """Return the text of the whole screen."""
        return "\n".join(self.lines())

    def style(self, row: int, column: int) -> Any:
        """Return the character at this place, with its colours."""
        with self._lock:
            return self._screen.buffer[row][column]

    def wait_for(self, text: str) -> None:
        """Wait until this text is on the screen; an end of a line counts as a blank."""
        try:
            wait_until(lambda: text in " ".join(map(str.strip, self.lines())), repr(text))
        except AssertionError:
            raise AssertionError(f"{text!r} is not on the screen:\n{self.text()}") from None

    def type(self, keys: str) -> None:
        """Press these keys."""
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size, as a window's user does."""
        with self._lock:
            self._screen.resize(lines, columns)
        self._set_size(columns, lines)

    def wait(self) -> int:
        """Wait for the program's end, and return its exit status."""
        return self.process.wait(PATIENCE)

    def is_taken(self) -> bool:
        """
        Tell whether the terminal's modes are others than before, or a program's screen is on.
        """
        with self._lock:
            entered = self.written.rfind(b"\x1b[?1049h") > self.written.rfind(b"\x1b[?1049l")
            hidden = self.written.rfind(b"\x1b[?25l") > self.written.rfind(b"\x1b[?25h")
        return entered or hidden or termios.tcgetattr(self._theirs) != self.before

    def wait_until_given_back(self) -> None:
        """Wait until the terminal is as it was before."""
        wait_until(lambda: not self.is_taken(), "the terminal to be given back")

    def hang_up(self) -> None:
        """Close the terminal, as a window's user does."""
        if self._ours >= 0:
            os.close(self._theirs)
            # The reader notices that with the next byte, or with the end.
            ours, self._ours = self._ours, -1
            os.close(ours)

    def close(self) -> None:
        """End the program, and the terminal."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)
        if self._ours >= 0:
            os.close(self._theirs)
            self._reader.join(PATIENCE)
            os.close(self._ours)


@contextmanager
def pseudo_terminal(
    arguments: Sequence[str], cwd: Path, columns: int = 100, lines: int = 30, **extra: str
) -> Iterator[PseudoTerminal]:
    """Run a program in a terminal until the end of the C{with} block."""
    terminal = PseudoTerminal(arguments, cwd, columns, lines, **extra)
    try:
        yield terminal
    finally:
        terminal.close()

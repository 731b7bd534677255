"""This module shows a progress bar for long runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

__all__ = ["ProgressBar"]


class ProgressBar:
    """
    A progress bar appears on a terminal after a run has taken a second.

    @param stream: where to write; if that is not a terminal, nothing is shown.
    @param seconds: a function that returns the time.
    """

    PATIENCE = 1.0
    INTERVAL = 0.1
    WIDTH = 30

    def __init__(
        self, stream: TextIO, title: str, seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._title = title
        self._seconds = seconds
        self._due = seconds() + self.PATIENCE if stream.isatty() else float("inf")
        self._shown = False

    def __call__(self, part: float) -> None:
        """Show that the share C{part} of the run is done."""
        now = self._seconds()
        if now < self._due:
            return
        self._due = now + self.INTERVAL
        self._shown = True
        full = round(part * self.WIDTH)
        bar = "#" * full + "." * (self.WIDTH - full)
        self._stream.write(f"\r{self._title} [{bar}] {part:4.0%}")
        self._stream.flush()

    def clear(self) -> None:
        """Remove the bar, because the run is over."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

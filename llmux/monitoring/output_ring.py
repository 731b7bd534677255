"""
This module keeps in memory the last lines that each model's hooks and servers have written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import merge
from itertools import islice

__all__ = ["RING_BYTES", "OutputLine", "OutputRing"]

RING_BYTES = 256 * 1024
"""This many bytes of lines are kept of each model."""

_OVERHEAD = 100
"""A line takes this many bytes in addition to its text."""


class OutputLine:
    """
    An L{OutputLine} is a line that a hook, or a server that a hook left behind, has written.

    @ivar number: the number of the line; lines of all models are counted together, from 1.
    @ivar at: when the line was read, in seconds on the clock of the ring.
    @ivar stream: C{stdout}, C{stderr} or C{output}.
    @ivar text: the bytes of the line, without its end.
    """

    __slots__ = ("at", "hook", "model", "number", "stream", "text")

    def __init__(
        self, number: int, at: float, model: str, hook: str, stream: str, text: bytes
    ) -> None:
        self.number = number
        self.at = at
        self.model = model
        self.hook = hook
        self.stream = stream
        self.text = text


class OutputRing:
    """
    An L{OutputRing} has a ring of lines for each model.

    @ivar listeners: functions that are called with every new line.
    """

    def __init__(self, seconds: Callable[[], float], limit: int = RING_BYTES) -> None:
        """
        @param seconds: a function that returns the time, in seconds.
        @param limit: how many bytes are kept of each model.
        """
        self._seconds = seconds
        self._limit = limit
        self._rings: dict[str, deque[OutputLine]] = {}
        self._sizes: dict[str, int] = {}
        self._count = 0
        self.listeners: list[Callable[[OutputLine], None]] = []

    def add(self, model: str, hook: str, stream: str, text: bytes) -> None:
        """
        Keep a line, and drop the oldest lines of the model for which there is no more room.
        """
        ring = self._rings.get(model)
        if ring is None:
            ring = self._rings[model] = deque()
        self._count += 1
        line = OutputLine(self._count, self._seconds(), model, hook, stream, text)
        ring.append(line)
        size = self._sizes.get(model, 0) + len(text) + _OVERHEAD
        while size > self._limit and len(ring) > 1:
            size -= len(ring.popleft().text) + _OVERHEAD
        self._sizes[model] = size
        for listener in self.listeners:
            listener(line)

    def forget(self, model: str) -> None:
        """Drop the lines of a model that does not exist any more."""
        self._rings.pop(model, None)
        self._sizes.pop(model, None)

    def tail(self, model: str | None, count: int) -> list[OutputLine]:
        """
        Return the last lines, the oldest first.

        @param model: the model whose lines are wanted; None for all models.
        """
        if model is None:
            rings = [reversed(ring) for ring in self._rings.values()]
            latest = merge(*rings, key=lambda line: -line.number)
            found = list(islice(latest, count))
        else:
            found = list(islice(reversed(self._rings.get(model, ())), count))
        found.reverse()
        return found

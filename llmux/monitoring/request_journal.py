"""
The requests that wait, and the last that are over, for people who ask.

A request to a model that is awake pays for this with one tuple when it is over; the
requests in flight are found by their guards.  Rows for people are made when somebody
asks.  Nothing of a body is kept, and of a head only method and path.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

__all__ = ["LONGEST_PATH", "MOST_ENDED", "Ended", "OpenRequest", "RequestJournal"]

MOST_ENDED = 1000

LONGEST_PATH = 200
"""Bytes of a path that are kept."""

Ended = tuple[int, str, bytes, bytes, int, float, "float | None", float, float, int, str]
"""
A request that is over: number, model, method, path, status, when it arrived, when it
got its guard after waiting (None: at once, or never), seconds to the first byte of its
reply (negative: there was none), when it was over, bytes of the reply's body, outcome.
Times are the switcher's clock's.
"""


class OpenRequest(Protocol):
    """A request that is not over: a L{Turn<llmux.proxy.turn.Turn>}."""

    model: str
    started: float
    granted: float | None

    @property
    def number(self) -> int:
        """The number that no other request has."""

    @property
    def progress(self) -> tuple[int, float, int]:
        """The reply's status (0: none yet), seconds to its first byte, bytes of its body."""

    @property
    def has_guard(self) -> bool:
        """The request is in flight, and does not wait."""

    @property
    def what(self) -> tuple[bytes, bytes]:
        """Its method and its path."""

    def cancel(self) -> None:
        """End the request: an operator says so."""


class RequestJournal:
    """
    The requests that wait, and the last C{MOST_ENDED} that are over.

    @ivar waiting: those that wait for a model, or for what its C{alive} says.
    @ivar ended: those that are over, oldest first.
    @ivar note: appends to L{ended}.
    """

    __slots__ = ("ended", "note", "waiting")

    def __init__(self) -> None:
        self.waiting: set[Any] = set()
        self.ended: deque[Ended] = deque(maxlen=MOST_ENDED)
        self.note: Callable[[Ended], None] = self.ended.append

    def ended_since(self, last: Ended | None) -> Iterator[Ended]:
        """Those that have ended after this one, newest first; all if it is gone."""
        for ended in reversed(self.ended):
            if ended is last:
                return
            yield ended

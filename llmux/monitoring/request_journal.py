"""
The requests that llmux has, and the last that it had, for people who ask.

A request pays for this with two references: it is put into a set while it is
open, and leaves one tuple when it is over.  Rows for people are made from these
when somebody asks.  Nothing of a body is kept, and of a head only method and path.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, Protocol

__all__ = ["MOST_ENDED", "Ended", "OpenRequest", "RequestJournal"]

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

    number: int
    model: str
    status: int
    started: float
    granted: float | None
    first_byte: float
    size: int

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
    Open requests, and the last C{MOST_ENDED} that are over.

    @ivar open: the open ones.
    @ivar ended: those that are over, oldest first.
    @ivar next_number: gives the number of the next request.
    """

    __slots__ = ("ended", "next_number", "open")

    def __init__(self) -> None:
        self.open: set[Any] = set()
        self.ended: deque[Ended] = deque(maxlen=MOST_ENDED)
        self.next_number: Callable[[], int] = count(1).__next__

    def find(self, number: int) -> OpenRequest | None:
        """The open request with this number."""
        for request in self.open:
            if request.number == number:
                found: OpenRequest = request
                return found
        return None

    def ended_since(self, last: Ended | None) -> Iterator[Ended]:
        """Those that have ended after this one, newest first; all if it is gone."""
        for ended in reversed(self.ended):
            if ended is last:
                return
            yield ended

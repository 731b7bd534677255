"""
This module keeps the requests that wait, and the last that are over, for people who ask.

The cost for a request to a model that is awake is one tuple, when the request is over; requests
in flight are found by their guards.  Rows for people are made when somebody asks.  Nothing of a
body is kept, and of a head only the method and the path.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

__all__ = ["LONGEST_PATH", "MOST_ENDED", "Ended", "OpenRequest", "RequestJournal"]

MOST_ENDED = 1000

LONGEST_PATH = 200
"""This many bytes of a path are kept."""

Ended = tuple[int, str, bytes, bytes, int, float, "float | None", float, float, int, str]
"""
A request that is over is a tuple: number, model, method, path, status, when it arrived, when it
got its guard (None if it never got one), seconds to the first byte of its reply (negative if
there was none), when it was over, bytes of the reply's body, outcome.  Times are in seconds on
the switcher's clock.
"""


class OpenRequest(Protocol):
    """An open request is one that is not over: a L{Turn<llmux.proxy.turn.Turn>}."""

    model: str
    started: float
    granted: float | None

    @property
    def number(self) -> int:
        """Return the number of the request, which no other request has."""

    @property
    def progress(self) -> tuple[int, float, int]:
        """
        Return the status of the reply (0 if there is none yet), the seconds to the reply's
        first byte, and the number of bytes of the reply's body.
        """

    @property
    def has_guard(self) -> bool:
        """Tell whether the request is in flight, and does not wait."""

    @property
    def what(self) -> tuple[bytes, bytes]:
        """Return the method and the path of the request."""

    def cancel(self) -> None:
        """End the request, because an operator has said so."""


class RequestJournal:
    """
    A journal has the requests that wait, and the last L{MOST_ENDED} that are over.

    @ivar waiting: the requests that wait for a model, or for the answer of its C{alive}.
    @ivar ended: the requests that are over, the oldest first.
    @ivar note: a function that appends to L{ended}.
    """

    __slots__ = ("ended", "note", "waiting")

    def __init__(self) -> None:
        self.waiting: set[Any] = set()
        self.ended: deque[Ended] = deque(maxlen=MOST_ENDED)
        self.note: Callable[[Ended], None] = self.ended.append

    def ended_since(self, last: Ended | None) -> Iterator[Ended]:
        """
        Yield the requests that have ended after this one, the newest first; all of them if
        C{last} is not kept any more.
        """
        for ended in reversed(self.ended):
            if ended is last:
                return
            yield ended

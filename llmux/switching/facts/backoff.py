"""This module says for how long something that has failed is left alone."""

from __future__ import annotations

__all__ = ["Backoff"]


class Backoff:
    """
    A L{Backoff} is a pause after each failure in a row: C{first} seconds, doubled each time, up
    to C{longest}.

    @ivar until: when the pause ends, on the caller's clock; 0 if there is none.
    @ivar tries: the number of failures since the last success.
    @ivar reason: the reason of the last failure, in a few words.
    """

    __slots__ = ("_first", "_longest", "_next", "reason", "tries", "until")

    def __init__(self, first: float = 2.0, longest: float = 60.0) -> None:
        self._first = self._next = first
        self._longest = longest
        self.until = 0.0
        self.tries = 0
        self.reason = ""

    def failed(self, now: float, at_least: float = 0.0, reason: str = "") -> None:
        """Note one more failure, and pause for at least C{at_least} seconds from now."""
        self.tries += 1
        self.reason = reason
        self.until = now + max(self._next, at_least)
        self._next = min(self._next * 2, self._longest)

    def at_least(self, until: float) -> None:
        """Let the pause, if there is one, end no sooner than at this time."""
        if self.until:
            self.until = max(self.until, until)

    def reset(self) -> None:
        """End the pause, because there was a success."""
        self._next = self._first
        self.until = 0.0
        self.tries = 0

"""Moments of the switcher's clock, as people read them."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

__all__ = ["Moments"]

_MOST_TEXTS = 4096
"""A thousand models have come to their phases at some moment each, which is asked for again."""


class Moments:
    """
    Moments of a clock that may begin anywhere, as text: C{2026-11-24T05:31:00.120Z}.

    One offset between the two clocks is taken at the start, so that a clock that
    is set later moves nothing.
    """

    def __init__(
        self, clock: Callable[[], float], seconds: Callable[[], float] = time.time
    ) -> None:
        """
        @param clock: the switcher's clock.
        @param seconds: the time since 1970.
        """
        self._offset = seconds() - clock()
        self._texts: dict[float, str] = {}

    def of(self, moment: float) -> str:
        """The text for this moment."""
        found = self._texts.get(moment)
        if found is not None:
            return found
        if len(self._texts) >= _MOST_TEXTS:
            self._texts.clear()
        at = datetime.fromtimestamp(moment + self._offset, UTC)
        text = self._texts[moment] = at.isoformat(timespec="milliseconds")[:-6] + "Z"
        return text

    def of_day(self, moment: float) -> str:
        """The time of day in this machine's time zone, for a sentence: C{05:31:10}."""
        return time.strftime("%H:%M:%S", time.localtime(moment + self._offset))

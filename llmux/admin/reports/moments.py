"""This module writes moments of the switcher's clock as people read them."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

__all__ = ["Moments"]

_MOST_TEXTS = 4096
"""
This many texts are kept, because the same moments (when each model came to its phase) are asked
for again and again.
"""


class Moments:
    """
    L{Moments} convert times of a clock that may begin anywhere to text, as in
    C{2026-11-24T05:31:00.120Z}.

    The offset between the two clocks is measured once, at the start, so that no text changes
    when the system's clock is set.
    """

    def __init__(
        self, clock: Callable[[], float], seconds: Callable[[], float] = time.time
    ) -> None:
        """
        @param clock: the switcher's clock, in seconds.
        @param seconds: the time since 1970, in seconds.
        """
        self._offset = seconds() - clock()
        self._texts: dict[float, str] = {}

    def of(self, moment: float) -> str:
        """Return the date and time of a moment, in UTC."""
        found = self._texts.get(moment)
        if found is not None:
            return found
        if len(self._texts) >= _MOST_TEXTS:
            self._texts.clear()
        at = datetime.fromtimestamp(moment + self._offset, UTC)
        text = self._texts[moment] = at.isoformat(timespec="milliseconds")[:-6] + "Z"
        return text

    def of_day(self, moment: float) -> str:
        """
        Return the time of day of a moment in this machine's time zone, for a sentence, as in
        C{05:31:10}.
        """
        return time.strftime("%H:%M:%S", time.localtime(moment + self._offset))

"""Moments of the switcher's clock, as people read them."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

__all__ = ["Moments"]


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

    def of(self, moment: float) -> str:
        """The text for this moment."""
        at = datetime.fromtimestamp(moment + self._offset, UTC)
        return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"

    def of_day(self, moment: float) -> str:
        """The time of day in this machine's time zone, for a sentence: C{05:31:10}."""
        return time.strftime("%H:%M:%S", time.localtime(moment + self._offset))

"""
This module forecasts turns: when a model that is waited for will be awake.

A forecast is a range, which comes from earlier waits of the same kind.  Of the waits that
lasted longer than the present one has so far, nearly all ended within the range.  If too few
are known, the upper end is the time that the policy guarantees if hooks take as long as usual.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from math import ceil

__all__ = ["FirstWaits", "quantile_range"]

MOST_OWN = 60
MOST_OF_ALL = 200
ENOUGH = 12
"""A range needs this many waits that were longer than the present one."""

_LEFT_OUT = 0.06
"""This part of the waits is left out at either end."""

_LATEST = 7
"""The latest waits, this many, show whether waits become longer."""

_MARGIN = 1.25
"""A range that reaches to the longest of all known waits is widened by this factor."""


class FirstWaits:
    """
    L{FirstWaits} have the latest times from a model's first waiter to its wake, of each model
    and of all.
    """

    __slots__ = ("_all", "_own")

    def __init__(self) -> None:
        self._own: dict[str, deque[float]] = {}
        self._all: deque[float] = deque(maxlen=MOST_OF_ALL)

    def add(self, model: str, seconds: float) -> None:
        """Note how many seconds the model's first waiter had waited when the model woke."""
        own = self._own.get(model)
        if own is None:
            own = self._own[model] = deque(maxlen=MOST_OWN)
        own.append(seconds)
        self._all.append(seconds)

    def rest(self, model: str, age: float) -> tuple[float, float] | None:
        """
        Return how many more seconds a wait will last that has lasted for C{age} seconds.

        @return: the least and the most; None if too little is known.
        """
        for waits in (self._own.get(model), self._all):
            if waits is None:
                continue
            longer = sorted(wait - age for wait in waits if wait > age)
            if len(longer) >= ENOUGH:
                least, most = quantile_range(longer)
                return least, most * _growth(waits)
        return None

    def at_most(self, model: str, age: float) -> float:
        """
        Return the longest time that such a wait may still last, in seconds, when little is
        known: until one and a half times the longest wait so far or, if the wait has lasted
        longer already, as long again as it has lasted.
        """
        waits = self._own.get(model) or self._all
        longest = 1.5 * max(waits, default=0.0)
        return longest - age if longest > age else age


def _growth(waits: deque[float]) -> float:
    """
    Return by what factor the latest waits are longer than those before; 1 if they are not.
    """
    if len(waits) < 2 * _LATEST:
        return 1.0
    latest = sorted(islice(reversed(waits), _LATEST))[_LATEST // 2]
    usual = sorted(waits)[len(waits) // 2]
    return max(1.0, latest / usual) if usual else 1.0


def quantile_range(ordered: Sequence[float]) -> tuple[float, float]:
    """
    Return the range in which the next of these values will be in all but a few cases of a
    hundred.

    @param ordered: the values so far, sorted.
    """
    count = len(ordered)
    low = int(_LEFT_OUT * (count + 1)) - 1
    high = ceil((1 - _LEFT_OUT) * (count + 1)) - 1
    least = ordered[low] if low >= 0 else ordered[0] / _MARGIN
    most = ordered[high] if high < count else ordered[-1] * _MARGIN
    return least, most

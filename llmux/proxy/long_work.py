"""
This module parts long work, so that others have their turns of the reactor in between.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Cooperator

from llmux.web.limits import TURN

__all__ = ["cooperator_on", "turn_that_begins"]


def turn_that_begins() -> Callable[[], bool]:
    """Return, for a Cooperator, a function that tells whether L{TURN} seconds have passed."""
    end = perf_counter() + TURN
    return lambda: perf_counter() > end


def cooperator_on(clock: IReactorTime) -> Cooperator:
    """Return a Cooperator that works for L{TURN} seconds in a turn of this clock's reactor."""
    return Cooperator(turn_that_begins, lambda step: clock.callLater(0, step))

"""
This module has a switcher under a reactor in memory, which the worlds of the proxy and of
operators share.
"""

from __future__ import annotations

from twisted.internet.testing import MemoryReactorClock

from llmux.switching.switcher import ModelSwitcher

__all__ = ["ReactorWorld"]


class ReactorWorld:
    """This class lets time pass for a reactor in memory."""

    reactor: MemoryReactorClock
    switcher: ModelSwitcher

    def settle(self) -> None:
        """Let everything happen that takes no time."""
        for _ in range(30):
            self.reactor.advance(0)

    def advance(self, seconds: float, step: float = 0.25) -> None:
        """Let so many seconds pass, in steps."""
        while seconds > 0:
            self.reactor.advance(min(step, seconds))
            self.settle()
            seconds -= step

    def wake(self, model: str) -> None:
        """Wake a model, without leaving a request in flight."""
        self.switcher.acquire(model).addCallback(lambda guard: guard.release())
        self.advance(3)

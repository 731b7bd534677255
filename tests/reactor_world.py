"""A switcher under a reactor in memory: what worlds of the proxy and of operators share."""

from __future__ import annotations

from twisted.internet.testing import MemoryReactorClock

from llmux.switching.switcher import ModelSwitcher

__all__ = ["ReactorWorld"]


class ReactorWorld:
    """Lets time pass for a reactor in memory."""

    reactor: MemoryReactorClock
    switcher: ModelSwitcher

    def settle(self) -> None:
        """Let what takes no time happen."""
        for _ in range(30):
            self.reactor.advance(0)

    def advance(self, seconds: float, step: float = 0.25) -> None:
        """Let time pass."""
        while seconds > 0:
            self.reactor.advance(min(step, seconds))
            self.settle()
            seconds -= step

    def wake(self, model: str) -> None:
        """Have it awake, without a request."""
        self.switcher.acquire(model).addCallback(lambda guard: guard.release())
        self.advance(3)

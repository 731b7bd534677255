"""This module has a run of a hook whose result is known without running anything."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from llmux.interfaces import HookResult, IRunningHook

__all__ = ["AnsweredHook"]


@implementer(IRunningHook)
class AnsweredHook:
    """This hook ends in the reactor's next turn, with the result that it was given."""

    def __init__(self, clock: IReactorTime, result: HookResult) -> None:
        self.exited: Deferred[HookResult] = Deferred()
        self._result = result
        self._call: IDelayedCall = clock.callLater(0, self._end)

    def kill(self) -> None:
        """See L{IRunningHook.kill}."""

    def _end(self) -> None:
        self.exited.callback(self._result)

"""
Hooks that close a backend's connections before its model is put to sleep.
"""

from __future__ import annotations

from collections.abc import Mapping

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from llmux.backend.pool import BackendPool
from llmux.interfaces import HookKind, IHookRunner, IRunningHook, IWakeNotes

__all__ = ["ConnectionDroppingHooks"]


@implementer(IHookRunner, IWakeNotes)
class ConnectionDroppingHooks:
    """
    A hook runner that has another run the hooks.  Before a model's sleep hook
    starts, the unused connections to its backend are closed, for they would not
    survive (and a checkpoint of the backend may fail because of them), and
    requests that still wait for a connection are kept from going out; but not
    where several models share one server, as Ollama's do.
    """

    def __init__(
        self,
        hooks: IHookRunner,
        pool: BackendPool,
        backends: Mapping[str, tuple[str, int]],
    ) -> None:
        """
        @param backends: for each model its backend's host and port, as they are now.
        """
        self._hooks = hooks
        self._notes = IWakeNotes(hooks, None)
        self._pool = pool
        self._backends = backends

    def start(self, model: str, hook: HookKind) -> IRunningHook:
        """See L{IHookRunner.start}."""
        if hook is HookKind.SLEEP:
            address = self._backends[model]
            if list(self._backends.values()).count(address) == 1:
                self._pool.forget(*address)
            else:
                # What waits for a connection there is another model's, which may be awake.
                self._pool.close_unused(*address)
        return self._hooks.start(model, hook)

    @property
    def interrupted(self) -> frozenset[str]:
        """See L{IWakeNotes}."""
        return frozenset() if self._notes is None else self._notes.interrupted

    def end_interrupted(self) -> Deferred[None]:
        """See L{IWakeNotes.end_interrupted}."""
        return succeed(None) if self._notes is None else self._notes.end_interrupted()

"""This module closes a backend's connections before its model is put to sleep."""

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
    This hook runner has another runner run the hooks.  Before a model's sleep hook starts, it
    closes the unused connections to the backend, because they would not survive (and a
    checkpoint of the backend may fail because of them), and requests that still wait for a
    connection are not sent any more.  If several models share one server, as Ollama's do, only
    the unused connections are closed.
    """

    def __init__(
        self,
        hooks: IHookRunner,
        pool: BackendPool,
        backends: Mapping[str, tuple[str, int]],
    ) -> None:
        """@param backends: the host and port of each model's backend, as they are now."""
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
                # Requests that wait for a connection there may be for another model, which is
                # awake.
                self._pool.close_unused(*address)
        return self._hooks.start(model, hook)

    @property
    def interrupted(self) -> frozenset[str]:
        """See L{IWakeNotes}."""
        return frozenset() if self._notes is None else self._notes.interrupted

    def end_interrupted(self) -> Deferred[None]:
        """See L{IWakeNotes.end_interrupted}."""
        return succeed(None) if self._notes is None else self._notes.end_interrupted()

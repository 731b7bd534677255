"""
This module asks a backend by HTTP whether its model is awake, for models that have no C{alive}
script.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from llmux.backend.exchange import IExchange, IExchangeConnection
from llmux.backend.pool import Backend, BackendPool, PoolSettings
from llmux.backend.reply import ReplyHead
from llmux.backend.template import Repeats, RequestTemplate
from llmux.backend.whereabouts import Address
from llmux.config import ModelConfig
from llmux.hooks.runs.answered import AnsweredHook
from llmux.hooks.runs.hook_process import HookMetrics
from llmux.interfaces import HookKind, HookResult, IHookRunner, IRunningHook

__all__ = ["HealthAsking", "HealthQuestion", "health_pool"]

_YES, _NO = 0, 1
"""An C{alive} script that gives the same answers has these exit statuses."""

_FOR_EVER = 86400.0
"""This many seconds are longer than any question waits."""


def health_pool(reactor: Any) -> BackendPool:
    """
    Make a pool for questions of health.

    The pool keeps no connection, because an open connection may spoil a checkpoint of the
    backend.  It does not log that a backend cannot be reached, which is an answer here.  It has
    no time limit for connecting, because no answer is not the same as the answer no.
    """
    settings = PoolSettings(max_idle=0, logs_failures=False, connect_timeout=_FOR_EVER)
    return BackendPool(reactor, settings)


@implementer(IRunningHook, IExchange)
class HealthQuestion:
    """
    A L{HealthQuestion} is one C{GET} of a backend's health.

    Status 200 is a yes.  Any other status, a refused connection, and a connection that is
    closed without a reply are a no.  If there is no reply within the time limit, or if the
    question could not be sent because no descriptor was left, the answer is unknown.

    @ivar status: the status of the reply; None if there is no reply yet.
    """

    is_head = False
    repeats = Repeats.NEVER

    def __init__(
        self, clock: IReactorTime, backend: Backend, path: bytes, limit: float
    ) -> None:
        """
        @param limit: seconds within which the reply must begin, and end.
        """
        self.exited: Deferred[HookResult] = Deferred()
        self.status: int | None = None
        self.connection: IExchangeConnection | None = None
        self._clock = clock
        self._backend = backend
        self._head = RequestTemplate(b"GET", path, ()).render(backend.host_header, 0)
        self._limit = limit
        self._began = clock.seconds()
        self._done = False
        self._over = False
        self._deadline: IDelayedCall = clock.callLater(limit, self._time_out)
        backend.begin(self)

    def kill(self) -> None:
        """See L{IRunningHook.kill}."""
        if not self._done:
            self._hang_up()
            self._finish(None, "stopped")

    # ------------------------------------------------------------ IExchange

    def to_send(self) -> tuple[bytes, None]:
        """See L{IExchange.to_send}."""
        return self._head, None

    def begun_anew(self) -> None:
        """See L{IExchange.begun_anew}."""

    def replied(self, head: ReplyHead, data: bytes, ended: bool) -> None:
        """See L{IExchange.replied}: The status is the answer."""
        self.status = status = head.status
        self._over = ended
        self._finish(_YES if status == 200 else _NO, f"status {status}")

    def received(self, data: bytes, ended: bool) -> None:
        """See L{IExchange.received}.  The rest of the reply is ignored."""
        if ended:
            self._end()

    def failed(self, reason: str, *, backend_in_doubt: bool) -> None:
        """See L{IExchange.failed}."""
        self._end()
        if backend_in_doubt:
            self._finish(_NO, "the backend refused the connection, or closed it")
        else:
            self._finish(None, "the backend could not be asked")

    # ------------------------------------------------------------- its end

    def _time_out(self) -> None:
        self._hang_up()
        self._finish(None, f"no answer within {self._limit:g} s", timed_out=True)

    def _hang_up(self) -> None:
        self._end()
        if self.connection is not None:
            self.connection.abort()
        else:
            self._backend.withdraw(self)

    def _end(self) -> None:
        """Cancel the time limit, because the exchange is over."""
        self._over = True
        if self._deadline.active():
            self._deadline.cancel()

    def _finish(self, code: int | None, reason: str, *, timed_out: bool = False) -> None:
        if self._over:
            self._end()
        if not self._done:
            self._done = True
            duration = self._clock.seconds() - self._began
            self.exited.callback(HookResult(code, timed_out, duration, f"health: {reason}"))


@implementer(IHookRunner)
class HealthAsking:
    """
    This hook runner has another runner run the scripts, and itself asks the backends of models
    that have no C{alive} script.
    """

    _log = Logger()

    def __init__(
        self,
        hooks: IHookRunner,
        clock: IReactorTime,
        pool: BackendPool,
        models: Mapping[str, ModelConfig],
        addresses: Mapping[str, Address],
        metrics: HookMetrics | None = None,
        awake: Callable[[str], object] | None = None,
    ) -> None:
        """
        @param pool: the pool of connections to the backends; see L{health_pool}.
        @param addresses: the addresses of the backends, as they are now.
        @param awake: a function that is called with the name of a model whose backend has said
            yes.
        """
        self._hooks = hooks
        self._clock = clock
        self._pool = pool
        self._models = models
        self._addresses = addresses
        self._metrics = metrics
        self._awake = awake
        # The last unusual status of each model is kept, so that the log says it once.
        self._said: dict[str, int] = {}

    def start(self, model: str, hook: HookKind) -> IRunningHook:
        """See L{IHookRunner.start}."""
        config = self._models[model]
        if hook is not HookKind.ALIVE or config.alive is not None:
            running: IRunningHook = self._hooks.start(model, hook)
            return running
        host, port = self._addresses[model]
        if not port:
            result = HookResult(_NO, False, 0.0, "health: nobody knows where the backend is")
            return AnsweredHook(self._clock, result)
        question = HealthQuestion(
            self._clock,
            self._pool.backend(host, port),
            config.health.encode(),
            config.alive_timeout_secs,
        )
        question.exited.addCallback(self._note, model, question)
        return question

    def _note(self, result: HookResult, model: str, question: HealthQuestion) -> HookResult:
        if self._metrics is not None:
            ok = result.ok or result.says_no
            self._metrics.hook_finished(model, HookKind.ALIVE.value, result.duration, ok)
        if result.ok and self._awake is not None:
            self._awake(model)
        status = question.status
        if status in (None, 200, 503):
            self._said.pop(model, None)
        elif status is not None and self._said.get(model) != status:
            self._said[model] = status
            self._log.warn(
                "GET {path} of {model} says {status}, which counts as not awake"
                + ("; is health: set to the right path?" if status == 404 else ""),
                event="health_odd",
                model=model,
                path=self._models[model].health,
                status=status,
            )
        return result

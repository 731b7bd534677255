"""
The question whether a model is awake, put to its backend by llmux itself, for
models that have no C{alive} script.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import ResponseNeverReceived, readBody
from twisted.web.iweb import IAgent, IResponse
from zope.interface import implementer

from llmux.backend.agent import BackendAgent
from llmux.backend.pool import BackendPool, PoolSettings
from llmux.config import ModelConfig
from llmux.hooks.hook_process import HookMetrics
from llmux.interfaces import HookKind, HookResult, IHookRunner, IRunningHook

__all__ = ["HealthAsking", "HealthQuestion", "health_pool"]

_YES, _NO = 0, 1
"""The exit statuses of an alive script that would have said the same."""


def health_pool(reactor: Any) -> BackendPool:
    """
    Make a pool for questions of health.

    The pool keeps no connection, because one that is open may spoil a checkpoint
    of the backend; and it does not log that a backend is not there, which is an
    answer here.
    """
    return BackendPool(reactor, PoolSettings(max_idle=0, logs_failures=False))


@implementer(IRunningHook)
class HealthQuestion:
    """
    One C{GET} of a backend's health.

    Status 200 is a yes.  Any other status, a refused connection, and one that
    is closed without a reply are a no.  No answer within the time limit is
    none, and so is a question that could not be put for want of descriptors.
    """

    def __init__(self, clock: IReactorTime, agent: IAgent, url: bytes, limit: float) -> None:
        """
        @param limit: seconds within which the reply must begin.
        """
        self.exited: Deferred[HookResult] = Deferred()
        self.status: int | None = None
        self._clock = clock
        self._limit = limit
        self._began = clock.seconds()
        self._done = False
        self._pending: Deferred[Any] | None = None
        self._deadline: IDelayedCall = clock.callLater(limit, self._time_out)
        asked = agent.request(b"GET", url)
        if not self._done:
            self._pending = asked
        asked.addCallbacks(self._answered, self._failed)

    def kill(self) -> None:
        """See L{IRunningHook.kill}."""
        self._finish(None, "stopped")

    def _answered(self, response: IResponse) -> None:
        self.status = status = response.code
        body = readBody(response)
        body.addErrback(lambda _: None)
        self._pending = body
        self._finish(_YES if status == 200 else _NO, f"status {status}", cancels=False)

    def _failed(self, failure: Failure) -> None:
        self._pending = None
        if failure.check(ResponseNeverReceived):
            self._finish(_NO, "the backend refused the connection, or closed it")
        else:
            self._finish(None, "the backend could not be asked")

    def _time_out(self) -> None:
        self._finish(None, f"no answer within {self._limit:g} s", timed_out=True)

    def _finish(
        self, code: int | None, reason: str, *, timed_out: bool = False, cancels: bool = True
    ) -> None:
        if self._done:
            return
        self._done = True
        if self._deadline.active():
            self._deadline.cancel()
        pending, self._pending = self._pending, None
        if pending is not None and cancels:
            pending.cancel()
        duration = self._clock.seconds() - self._began
        self.exited.callback(HookResult(code, timed_out, duration, f"health: {reason}"))


@implementer(IHookRunner)
class HealthAsking:
    """
    A hook runner that has another run the scripts, and asks the backends of
    models without an C{alive} script itself.
    """

    _log = Logger()

    def __init__(
        self,
        hooks: IHookRunner,
        clock: IReactorTime,
        pool: BackendPool,
        models: Mapping[str, ModelConfig],
        metrics: HookMetrics | None = None,
    ) -> None:
        """
        @param pool: connects to the backends; see L{health_pool}.
        """
        self._hooks = hooks
        self._clock = clock
        self._agent = BackendAgent(pool)
        self._models = models
        self._metrics = metrics
        # The last odd status of each model, so that the log says it once.
        self._said: dict[str, int] = {}

    def start(self, model: str, hook: HookKind) -> IRunningHook:
        """See L{IHookRunner.start}."""
        config = self._models[model]
        if hook is not HookKind.ALIVE or config.alive is not None:
            running: IRunningHook = self._hooks.start(model, hook)
            return running
        host = f"[{config.host}]" if ":" in config.host else config.host
        url = f"http://{host}:{config.port}{config.health}".encode()
        question = HealthQuestion(self._clock, self._agent, url, config.alive_timeout_secs)
        question.exited.addCallback(self._note, model, question)
        return question

    def _note(self, result: HookResult, model: str, question: HealthQuestion) -> HookResult:
        if self._metrics is not None:
            ok = result.ok or result.says_no
            self._metrics.hook_finished(model, HookKind.ALIVE.value, result.duration, ok)
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

"""
The Resource that gives each request its model before another Resource answers it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime, ITCPTransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource, getChildForRequest
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from llmux.errors import ModelNotFound, SwitchError
from llmux.proxy.guarded import IGuardedResource, ITurn
from llmux.proxy.model_name.find import find_model, search_turns
from llmux.proxy.refusals import backend_error, from_switch_error
from llmux.web.body import RequestBody, StorageFull, body_of
from llmux.web.error_reply import ApiError, answer
from llmux.web.request import LlmuxRequest

if TYPE_CHECKING:
    from llmux.switching.switcher import InFlightGuard, ModelSwitcher

__all__ = ["RequestMetrics", "SwitchingResource"]

_SPILL_ABOVE = 64 * 1024
"""Bodies of more bytes than this wait on disk."""


class RequestMetrics(Protocol):
    """Where replies are counted."""

    def request_answered(self, model: str, status: int, seconds: float) -> None:
        """A reply with this status began, so long after its request was complete."""


@implementer(ITurn)
class _Turn:
    """
    A request that waits for its model, or has its turn.

    @ivar guard: held from the moment at which it stops waiting.
    """

    __slots__ = ("_again", "_pending", "_switching", "guard", "model", "request", "started")

    guard: InFlightGuard

    def __init__(
        self, switching: SwitchingResource, request: IRequest, model: str, started: float
    ) -> None:
        self.request = request
        self.model = model
        self.started = started
        self._switching = switching
        self._again = False
        self._pending: Deferred[object] | None = None

    def wait(self) -> None:
        """Until the model is there."""
        switching = self._switching
        pending = switching.switcher.acquire(
            self.model, arrived=self.started, retry=self._again
        )
        self._wait_for(pending)
        pending.addCallbacks(self._granted, self._refused)

    def _wait_for(self, pending: Deferred[InFlightGuard] | Deferred[bool]) -> None:
        """Nobody waits for it any more when the client has left."""
        self._pending = cast("Deferred[object]", pending)
        request = self.request
        if isinstance(request, LlmuxRequest):
            request.departed = self._left
        else:
            cast(Request, request).notifyFinish().addErrback(self._left)

    def _waited(self) -> None:
        self._pending = None
        request = self.request
        if isinstance(request, LlmuxRequest):
            request.departed = None

    def _left(self, reason: Failure | None = None) -> None:
        pending = self._pending
        if pending is not None:
            self._waited()
            pending.cancel()

    def _granted(self, guard: InFlightGuard) -> None:
        self._waited()
        self.guard = guard
        self._switching.render_turn(self)

    def _refused(self, failure: Failure) -> None:
        if self._pending is None and failure.check(CancelledError):
            return
        self._waited()
        error = failure.value
        if isinstance(error, SwitchError):
            self._answer(from_switch_error(error))
        else:
            self._switching.internal_error(self, failure)

    def _answer(self, error: ApiError) -> None:
        self._switching.refuse(self, error)

    # ------------------------------------------------------------- ITurn

    def unanswered(self, reason: str) -> None:
        """See L{ITurn.unanswered}."""
        verdict = self._switching.switcher.backend_failed(self.guard)
        self._wait_for(verdict)
        verdict.addCallbacks(self._judged, self._refused, callbackArgs=(reason,))

    def _judged(self, may_wait: bool, reason: str) -> None:
        self._waited()
        if may_wait and not self._again:
            self._again = True
            self.wait()
        else:
            self._answer(backend_error(reason))

    # ------------------------------ rendering by a Resource that knows no guards

    def finished(self, result: object) -> None:
        """The request is over, one way or the other."""
        self.guard.release(answered=not isinstance(result, Failure))

    def abort(self, reason: str) -> None:
        """End it now."""
        self.guard.release(answered=False)
        request = self.request
        if isinstance(request, LlmuxRequest):
            request.channel.abortConnection()
        else:
            cast(ITCPTransport, cast(Request, request).transport).abortConnection()


class SwitchingResource(Resource):
    """
    Has the model that a request names woken, and the request rendered by
    another Resource while that model stays awake.

    Requests that name no model are the other Resource's business at once.
    One that is no L{IGuardedResource} finds the model's name as C{llmux_model}
    of the request, and the model stays awake until the request is finished.
    """

    isLeaf = True
    route_is_stable = True
    _log = Logger()

    def __init__(
        self,
        wrapped: IResource,
        switcher: ModelSwitcher,
        clock: IReactorTime,
        *,
        max_body: int | None = None,
        metrics: RequestMetrics | None = None,
    ) -> None:
        """
        @param max_body: bytes; larger bodies get 413.
        """
        Resource.__init__(self)
        self.switcher = switcher
        self._wrapped = wrapped
        self._guarded = IGuardedResource(wrapped, None)
        self._seconds: Callable[[], float] = clock.seconds
        self._max_body = max_body
        self._metrics = metrics
        # Large bodies are searched a little in each turn of the reactor.
        self._turns = search_turns(clock)

    def render(self, request: IRequest) -> int:
        """Wait for the model; answer by way of the other Resource."""
        if isinstance(request, LlmuxRequest):
            body = request.body
            found = find_model(body, request.head.content_type, self._turns)
            if type(found) is str:
                self._take_turn(request, found, body)
                return NOT_DONE_YET
        else:
            headers = request.requestHeaders
            # Any other offer of a protocol may be ignored (RFC 9110, 7.8).
            offers = b",".join(headers.getRawHeaders(b"upgrade", ()))
            if b"websocket" in offers.lower():
                answer(
                    request,
                    ApiError(501, "WebSocket is not supported here; send plain HTTP/1.1."),
                )
                return NOT_DONE_YET
            body = body_of(request)
            if self._max_body is not None and body.length > self._max_body:
                body.close()
                answer(
                    request,
                    ApiError(413, f"The body is larger than {self._max_body} bytes."),
                )
                return NOT_DONE_YET
            content_type = headers.getRawHeaders(b"content-type", [None])[0]
            found = find_model(body, content_type, self._turns)
        if isinstance(found, Deferred):
            _Search(self, request, body, found)
        else:
            self.model_found(request, found, body)
        return NOT_DONE_YET

    def model_found(self, request: IRequest, model: str | None, body: RequestBody) -> None:
        """It is known which model is wanted, or that none is."""
        if not isinstance(request, LlmuxRequest):
            body.close()
        if model is None:
            self._render(request)
        else:
            self._take_turn(request, model, body)

    def _take_turn(self, request: IRequest, model: str, body: RequestBody) -> None:
        try:
            guard = self.switcher.acquire_now(model)
        except ModelNotFound as error:
            answer(request, from_switch_error(error))
            return
        turn = _Turn(self, request, model, self._seconds())
        if guard is not None:
            turn.guard = guard
            self.render_turn(turn)
            return
        if body.length > _SPILL_ABOVE and isinstance(request, LlmuxRequest):
            try:
                body.spill()
            except StorageFull as full:
                self._log.warn("a body waits in memory: {reason}", reason=str(full))
        turn.wait()

    # ----------------------------------------------------------- for turns

    def render_turn(self, turn: _Turn) -> None:
        """It has a guard."""
        guarded = self._guarded
        if guarded is not None:
            try:
                guarded.render_guarded(turn)
            except Exception:
                turn.guard.release(answered=False)
                self.internal_error(turn, Failure())
            return
        turn.guard.on_abort = turn.abort
        request: Any = turn.request
        request.notifyFinish().addBoth(turn.finished)
        request.llmux_model = turn.model
        self._render(request)

    def refuse(self, turn: _Turn, error: ApiError) -> None:
        """Answer without a turn."""
        if self._metrics is not None:
            self._metrics.request_answered(
                turn.model, error.status, self._seconds() - turn.started
            )
        answer(turn.request, error)

    def internal_error(self, turn: _Turn, failure: Failure) -> None:
        """Something that must not happen did."""
        cast(Request, turn.request).processingFailed(failure)

    def _render(self, request: IRequest) -> None:
        request = cast(Request, request)
        try:
            request.render(getChildForRequest(self._wrapped, request))
        except Exception:
            request.processingFailed(Failure())


class _Search:
    """The search for a model's name in a large body."""

    __slots__ = ("_body", "_request", "_search", "_switching")

    def __init__(
        self,
        switching: SwitchingResource,
        request: IRequest,
        body: RequestBody,
        search: Deferred[str | None],
    ) -> None:
        self._switching = switching
        self._request = request
        self._body = body
        self._search: Deferred[str | None] | None = search
        if isinstance(request, LlmuxRequest):
            request.departed = self._left
        else:
            cast(Request, request).notifyFinish().addErrback(self._left)
        search.addCallbacks(self._found, self._failed)

    def _left(self, reason: Failure | None = None) -> None:
        search = self._search
        if search is not None:
            self._over()
            search.cancel()
            if not isinstance(self._request, LlmuxRequest):
                self._body.close()

    def _over(self) -> None:
        self._search = None
        if isinstance(self._request, LlmuxRequest):
            self._request.departed = None

    def _found(self, model: str | None) -> None:
        if self._search is not None:
            self._over()
            self._switching.model_found(self._request, model, self._body)

    def _failed(self, failure: Failure) -> None:
        if self._search is not None:
            self._over()
            cast(Request, self._request).processingFailed(failure)

"""
This module has the Resource that finds the model of each request, and has the model woken,
before another Resource answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request

from llmux.monitoring.request_journal import RequestJournal
from llmux.proxy.guarded import IGuardedResource
from llmux.proxy.long_work import cooperator_on
from llmux.proxy.model_name.find import find_model
from llmux.proxy.refusals import RefusalLog
from llmux.proxy.stock_caller import StockCaller
from llmux.proxy.turn import RequestMetrics, Turn, TurnContext, TurnSwitcher
from llmux.web.caller import ICaller
from llmux.web.error_reply import ApiError, body_too_large, websocket_not_supported
from llmux.web.request import LlmuxRequest

if TYPE_CHECKING:
    from llmux.proxy.naming.names import Names

__all__ = ["SwitchingResource"]


def _not_counted(model: str, status: int, seconds: float) -> None:
    pass


class SwitchingResource(Resource):
    """
    This Resource has the model woken that a request names, and has the request rendered by
    another Resource while that model stays awake.

    Requests that name no model are rendered by the other Resource at once.  If the other
    Resource is no L{IGuardedResource}, the request has the model's name in its attribute
    C{llmux_model}, and the model stays awake until the request is finished.
    """

    isLeaf = True
    route_is_stable = True

    def __init__(
        self,
        wrapped: IResource,
        switcher: TurnSwitcher,
        clock: IReactorTime,
        *,
        max_body: int | None = None,
        metrics: RequestMetrics | None = None,
        refusals: RefusalLog | None = None,
        journal: RequestJournal | None = None,
        names: Names | None = None,
    ) -> None:
        """
        @param max_body: the largest size of a body, in bytes; larger ones get 413.
        @param metrics: an object that counts the replies; or None.
        @param journal: the journal of the requests; None for a new one.
        @param refusals: the log of the errors that clients get; None for a new one.
        @param names: what the names that requests give stand for; None if each model has only
            its own name.
        """
        Resource.__init__(self)
        self._max_body = max_body
        self.journal = RequestJournal() if journal is None else journal
        self._refusals = RefusalLog(clock) if refusals is None else refusals
        guarded = IGuardedResource(wrapped, None)
        # Large bodies are searched and changed in several turns of the reactor.
        self._search_turns = cooperator_on(clock)
        self._names = names
        self._context = TurnContext(
            switcher,
            switcher.acquire_now,
            wrapped,
            Turn.render_unguarded if guarded is None else guarded.render_guarded,
            _not_counted if metrics is None else metrics.request_answered,
            metrics,
            switcher.backend_in_doubt,
            self._refusals,
            clock.seconds,
            self.journal.note,
            self.journal,
            names,
            self._search_turns,
        )

    def render(self, request: IRequest) -> int:
        """Begin the request's turn."""
        caller: ICaller | None
        if isinstance(request, LlmuxRequest):
            caller = request
        else:
            caller = self._admit(request)
            if caller is None:
                return NOT_DONE_YET
        found = find_model(caller.body, caller.head.content_type, self._search_turns)
        turn = Turn(self._context, caller, request)
        if type(found) is str:
            if self._names is None:
                turn.take(found)
            else:
                turn.take_name(found)
        elif isinstance(found, Deferred):
            turn.search(found)
        else:
            turn.render_without_model()
        return NOT_DONE_YET

    def _admit(self, request: IRequest) -> ICaller | None:
        """
        Check a request of a stock Site, as our own Site has checked its requests already;
        return None if the request has been refused.
        """
        caller = StockCaller(cast(Request, request))
        error: ApiError | None = None
        # An offer of any other protocol may be ignored (RFC 9110, 7.8).
        offers = b",".join(request.requestHeaders.getRawHeaders(b"upgrade", ()))
        if b"websocket" in offers.lower():
            error = websocket_not_supported()
        elif self._max_body is not None and caller.body.length > self._max_body:
            error = body_too_large(self._max_body)
        if error is None:
            return caller
        self._refusals.answer(request, error)
        return None

"""
This module leads a request from its arrival to its end: the request waits for its model, has
its turn at the backend, and is answered or refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

from msgspec import Struct
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Cooperator
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, getChildForRequest
from twisted.web.server import Request
from zope.interface import implementer

from llmux.errors import ModelNotFound, SwitchError
from llmux.monitoring.request_journal import LONGEST_PATH, Ended, RequestJournal
from llmux.proxy.guarded import ITurn
from llmux.proxy.refusals import (
    BodyNotEdited,
    RefusalLog,
    backend_error,
    cancelled,
    from_switch_error,
    refusal_to_wait,
)
from llmux.switching.facts.model import InFlightGuard
from llmux.web.body import RequestBody, StorageFull
from llmux.web.caller import ICaller
from llmux.web.error_reply import ApiError, answer, internal_error

if TYPE_CHECKING:
    from llmux.proxy.naming.names import Names

_KEPT = slice(LONGEST_PATH)

__all__ = ["RequestMetrics", "Turn", "TurnContext", "TurnSwitcher"]


class RequestMetrics(Protocol):
    """L{RequestMetrics} count replies."""

    def request_answered(self, model: str, status: int, seconds: float) -> None:
        """
        Count a reply with this status that began C{seconds} after its request was complete.
        """

    def exchange_aborted(self, model: str, reason: str) -> None:
        """Count an exchange that was aborted."""


class TurnSwitcher(Protocol):
    """
    Turns call the switcher by these methods: see
    L{ModelSwitcher<llmux.switching.switcher.ModelSwitcher>}.
    """

    def acquire_now(self, model: str) -> InFlightGuard | None:
        """Return a guard if the model is awake and takes requests, else None."""

    def acquire(
        self, model: str, *, arrived: float | None = None, retry: bool = False
    ) -> Deferred[InFlightGuard]:
        """Return a guard when the model is awake and takes requests."""

    @property
    def latest_request(self) -> int:
        """Return the number of the request that was the last to ask for a guard."""

    def backend_failed(self, guard: InFlightGuard) -> Deferred[bool]:
        """
        Find out what is wrong with a backend that did not answer; the Deferred fires with True
        if the request may wait again.
        """

    def backend_in_doubt(self, model: str) -> None:
        """Note that the backend has answered in a way that makes its health doubtful."""


class TurnContext(Struct, frozen=True, eq=False):
    """
    A L{TurnContext} has the parts that all turns of one L{SwitchingResource} share.

    Before a turn calls an attribute of the context, it reads the attribute into a variable:
    CPython is quick at reading an attribute, and slow where it must find out whether the called
    attribute is a method.

    @ivar acquire_now: the switcher's method.
    @ivar wrapped: the Resource that answers the requests.
    @ivar render_turn: a function that has the wrapped Resource render a turn that has its
        guard.
    @ivar count: a function that is called with model, status and seconds for each reply that
        begins.
    @ivar metrics: an object that counts replies that are aborted; or None.
    @ivar in_doubt: a function that is called with a model whose backend's health is doubtful.
    @ivar seconds: a function that returns the time, in seconds.
    @ivar note: the journal's method.
    @ivar journal: the journal of the turns that wait, and of those that are over.
    @ivar names: what the names that requests give stand for; None if each model has only its
        own name, and bodies pass as they come.
    @ivar cooperator: the Cooperator that searches and changes large bodies in several turns of
        the reactor.
    """

    switcher: TurnSwitcher
    acquire_now: Callable[[str], InFlightGuard | None]
    wrapped: IResource
    render_turn: Callable[[Turn], None]
    count: Callable[[str, int, float], None]
    metrics: RequestMetrics | None
    in_doubt: Callable[[str], None]
    refusals: RefusalLog
    seconds: Callable[[], float]
    note: Callable[[Ended], None]
    journal: RequestJournal
    names: Names | None
    cooperator: Cooperator

    def render(self, request: IRequest) -> None:
        """Have the wrapped Resource answer, without a guard."""
        request = cast(Request, request)
        try:
            request.render(getChildForRequest(self.wrapped, request))
        except Exception:
            request.processingFailed(Failure())


@implementer(ITurn)
class Turn:
    """
    A L{Turn} is one request, from the moment at which the request is complete until its
    exchange with a backend is over.

    The turn waits for something (C{_pending} is set, and is cancelled if the client
    leaves), or is being rendered, or has ended.  It may wait and be rendered twice.

    @ivar model: the model's name; not set before it has been found.
    @ivar guard: the guard, which is held while the request is rendered; not set before.
    @ivar started: when the request was complete.
    @ivar granted: when the request got its guard; None if it has had none.
    @ivar status: the status of the reply; 0 before the reply has begun.
    @ivar first_byte: how many seconds passed until the reply began; -1 before.
    @ivar size: how many bytes of the reply's body have come.
    @ivar outcome: how the turn ends, if that is decided before its end; else empty.
    """

    __slots__ = (
        "_context",
        "_number",
        "_pending",
        "begun_anew",
        "caller",
        "first_byte",
        "granted",
        "guard",
        "model",
        "outcome",
        "request",
        "size",
        "started",
        "status",
    )

    _log = Logger()

    model: str
    guard: InFlightGuard

    def __init__(self, context: TurnContext, caller: ICaller, request: IRequest) -> None:
        """
        @param caller: the request, as a proxy sees it.
        @param request: the same request, as twisted.web's Resources see it.
        """
        seconds = context.seconds
        self._context = context
        self.caller = caller
        self.request = request
        self.started = seconds()
        self.begun_anew = False
        self.granted: float | None = None
        self.status = 0
        self.first_byte = -1.0
        self.size = 0
        self.outcome = ""
        self._number: int | None = None
        self._pending: Deferred[Any] | None = None

    # ---------------------------------------------------- before the backend

    def search(self, found: Deferred[str | None]) -> None:
        """Wait until the model's name has been found in a large body."""
        self._wait_for(found)
        found.addCallbacks(self._searched, self._failed)

    def _wait_for(self, pending: Deferred[Any]) -> None:
        self._pending = pending
        self.caller.departed = self._left

    def _left(self) -> None:
        """Stop waiting, because the client has left."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self.caller.departed = None
            pending.cancel()
            self._over("client_left")

    def _searched(self, model: str | None) -> None:
        self._pending = None
        if model is None:
            self.render_without_model()
        elif self._context.names is None:
            self.take(model)
        else:
            self.take_name(model)

    def render_without_model(self) -> None:
        """Have the request answered without a turn, because it names no model."""
        self.caller.departed = None
        self._context.render(self.request)

    def take_name(self, name: str) -> None:
        """Find the model that this name stands for, and change the body as the name asks."""
        names = self._context.names
        called = None if names is None else names.get(name)
        if called is None or called.plan is None:
            self.take(name if called is None else called.model)
            return
        from llmux.proxy.naming.body_edit import edit_body

        self.model = called.model
        caller = self.caller
        try:
            edited = edit_body(
                called.plan, caller.body, caller.head.content_type, self._context.cooperator
            )
        except BodyNotEdited as refused:
            self._refuse(refused.error)
            return
        except Exception:
            self._internal_error(Failure())
            return
        if isinstance(edited, Deferred):
            self._wait_for(edited)
            edited.addCallbacks(self._edited, self._failed)
        else:
            self._edited(edited)

    def _edited(self, body: RequestBody) -> None:
        self._pending = None
        self.caller.replace_body(body)
        self.take(self.model)

    def take(self, model: str) -> None:
        """Render the request, which is for this model, at once if the model is awake."""
        self.model = model
        context = self._context
        acquire_now = context.acquire_now
        try:
            guard = acquire_now(model)
        except ModelNotFound as error:
            # This reply is not counted, because clients must not be able to add label values to
            # the metrics.
            self._answer(from_switch_error(error))
            return
        if guard is not None:
            self.guard = guard
            guard.holder = self
            self.granted = self.started
            render_turn = context.render_turn
            try:
                render_turn(self)
            except Exception:
                self._rendering_failed()
            return
        refusal = refusal_to_wait(self.caller.head.headers, model)
        if refusal is not None:
            self._answer(refusal)
            return
        try:
            self.caller.set_body_aside()
        except StorageFull as full:
            self._log.warn("a body waits in memory: {reason}", reason=str(full))
        self._wait()

    def _wait(self) -> None:
        context = self._context
        context.journal.waiting.add(self)
        pending = context.switcher.acquire(
            self.model, arrived=self.started, retry=self.begun_anew
        )
        if not self.begun_anew:
            self._number = context.switcher.latest_request
        self._wait_for(pending)
        pending.addCallbacks(self._granted, self._failed)

    def _granted(self, guard: InFlightGuard) -> None:
        context = self._context
        context.journal.waiting.discard(self)
        self._pending = None
        self.guard = guard
        guard.holder = self
        self.granted = context.seconds()
        try:
            context.render_turn(self)
        except Exception:
            self._rendering_failed()

    def _failed(self, failure: Failure) -> None:
        """Answer with an error, because what the turn waited for has failed."""
        if self._pending is None and failure.check(CancelledError):
            # The client has left.
            return
        self._pending = None
        error = failure.value
        if isinstance(error, SwitchError):
            self._refuse(from_switch_error(error))
        elif isinstance(error, BodyNotEdited):
            self._refuse(error.error)
        else:
            self._internal_error(failure)

    # -------------------------------------------------------- at the backend

    def _rendering_failed(self) -> None:
        self.guard.release(answered=False)
        self._internal_error(Failure())

    def reply_began(self, status: int) -> None:
        """See L{ITurn.reply_began}."""
        context = self._context
        seconds, count = context.seconds, context.count
        self.status = status
        self.first_byte = waited = seconds() - self.started
        count(self.model, status, waited)

    def backend_in_doubt(self) -> None:
        """See L{ITurn.backend_in_doubt}."""
        self._context.in_doubt(self.model)

    def end(self, answered: bool = True, outcome: str = "client_left") -> None:
        """See L{ITurn.end}."""
        caller, guard, context = self.caller, self.guard, self._context
        caller.departed = None
        seconds = context.seconds
        over = seconds()
        guard.release(answered, over)
        self._note(over, "answered" if answered else self.outcome or outcome)

    def refuse(self, error: ApiError) -> None:
        """See L{ITurn.refuse}."""
        self.guard.release(answered=False)
        self._refuse(error)

    def cut_short(self, reason: str) -> None:
        """See L{ITurn.cut_short}."""
        context = self._context
        context.refusals.cut_off(reason, self.caller.head.path, self.model)
        if context.metrics is not None:
            context.metrics.exchange_aborted(self.model, reason)
        context.in_doubt(self.model)
        self.end(answered=False, outcome="cut_off")

    def unanswered(self, reason: str) -> None:
        """See L{ITurn.unanswered}."""
        context = self._context
        self._number = self.number
        context.journal.waiting.add(self)
        pending = context.switcher.backend_failed(self.guard)
        self._wait_for(pending)
        pending.addCallbacks(self._backend_checked, self._failed, callbackArgs=(reason,))

    def _backend_checked(self, may_wait: bool, reason: str) -> None:
        self._pending = None
        if may_wait and not self.begun_anew:
            self.begun_anew = True
            self._wait()
        else:
            self._refuse(backend_error(reason))

    # -------------------------------------------------------- answers of ours

    def _refuse(self, error: ApiError) -> None:
        if self.outcome == "cancelled":
            error = cancelled()
        self.reply_began(error.status)
        self._answer(error)

    def _answer(self, error: ApiError) -> None:
        self._over("refused")
        self.caller.departed = None
        self._context.refusals.refused(error, self.caller.head.path, self.model)
        answer(self.request, error)

    def _internal_error(self, failure: Failure) -> None:
        """Answer with 500, because of a defect in llmux or in the wrapped Resource."""
        self._over("broken")
        self.caller.departed = None
        request: Any = self.request
        if request.startedWriting or request.finished:
            request.processingFailed(failure)
        else:
            self._log.failure("a defect while answering a request", failure)
            answer(request, internal_error())

    # ------------------------------------------------------ for the journal

    @property
    def number(self) -> int:
        """See L{OpenRequest<llmux.monitoring.request_journal.OpenRequest>}."""
        return self.guard.request if self._number is None else self._number

    @property
    def progress(self) -> tuple[int, float, int]:
        """See L{OpenRequest<llmux.monitoring.request_journal.OpenRequest>}."""
        return self.status, self.first_byte, self.size

    @property
    def has_guard(self) -> bool:
        """See L{OpenRequest<llmux.monitoring.request_journal.OpenRequest>}."""
        return self._pending is None

    @property
    def what(self) -> tuple[bytes, bytes]:
        """See L{OpenRequest<llmux.monitoring.request_journal.OpenRequest>}."""
        head = self.caller.head
        return head.method, head.path[_KEPT]

    def _over(self, outcome: str) -> None:
        """Note in the journal that the request, which may have waited, is over."""
        context = self._context
        context.journal.waiting.discard(self)
        if self._number is None and not hasattr(self, "guard"):
            # The request was refused before it was known whether the model exists.
            return
        self._note(context.seconds(), self.outcome or outcome)

    def _note(self, over: float, outcome: str) -> None:
        """Keep what the journal shows of the request, which is over; nothing of its body."""
        head = self.caller.head
        note = self._context.note
        note(
            (
                self.guard.request if self._number is None else self._number,
                self.model,
                head.method,
                head.path[_KEPT],
                self.status,
                self.started,
                self.granted,
                self.first_byte,
                over,
                self.size,
                outcome,
            )
        )

    def cancel(self) -> None:
        """
        End the turn, because an operator has said so.  The client gets an error on which it
        does not retry.
        """
        self.outcome = "cancelled"
        pending = self._pending
        if pending is not None:
            self._pending = None
            pending.cancel()
            self._refuse(cancelled())
            return
        context = self._context
        if context.metrics is not None:
            context.metrics.exchange_aborted(self.model, "cancelled")
        guard = self.guard
        guard.may_wait_again = False
        if guard.on_abort is not None:
            guard.on_abort("an operator has cancelled it")

    # ------------------------------ rendering by a Resource that knows no guards

    def render_unguarded(self) -> None:
        """
        Have the wrapped Resource answer, while the turn itself keeps and releases the guard.
        """
        self.guard.on_abort = self._abort
        request: Any = self.request
        request.notifyFinish().addBoth(self._finished)
        request.llmux_model = self.model
        self._context.render(request)

    def _finished(self, result: object) -> None:
        self.end(answered=not isinstance(result, Failure))

    def _abort(self, reason: str) -> None:
        """See L{InFlightGuard.on_abort<llmux.switching.facts.model.InFlightGuard>}."""
        self.end(answered=False, outcome="cut_off")
        self.caller.cut_off()

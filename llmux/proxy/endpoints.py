"""
This module has the paths that llmux itself answers, and the tree that leaves all other paths to
the models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from time import thread_time

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request

from llmux.monitoring.metrics import CONTENT_TYPE, Metrics
from llmux.proxy.long_work import cooperator_on, turn_that_begins
from llmux.proxy.read_only import ReadOnly
from llmux.proxy.refusals import RefusalLog
from llmux.web.error_reply import ApiError

__all__ = ["NothingElse", "Root"]

_SCRAPES_COST = 0.05
"""
When scrapes have taken this many seconds of CPU time within a second, the next ones in this
second get the last text.
"""


class Root(Resource):
    """
    The root of the tree has llmux' own paths, which are those of OpenAI's API or customary;
    every other path belongs to the Resource of the models.
    """

    route_is_stable = True

    def __init__(
        self,
        models: IResource,
        rest: IResource,
        metrics: Metrics,
        clock: IReactorTime,
        refusals: RefusalLog | None = None,
        admin: Callable[[], IResource] | None = None,
        reason_not_ready: Callable[[], str | None] | None = None,
    ) -> None:
        """
        @param models: the Resource of the list of models.
        @param rest: the Resource of all other paths, which is a leaf.
        @param clock: the clock for the turns in which a long list of metrics is written.
        @param refusals: the log of the errors that clients get; None for a new one.
        @param reason_not_ready: a function that returns why requests should be sent elsewhere;
            if None, there is no path C{/ready}.
        @param admin: a function that makes the Resource of C{/llmux} when somebody first asks;
            if None, there is none.
        """
        Resource.__init__(self)
        self._rest = rest
        refusals = RefusalLog(clock) if refusals is None else refusals
        self._admin = admin
        self._own: dict[bytes, IResource] = {
            b"health": _Document(refusals, b"application/json", b'{"status": "ok"}\n'),
            b"metrics": _Exposition(refusals, metrics, clock),
            b"v1": _Version(models, rest),
        }
        if reason_not_ready is not None:
            self._own[b"ready"] = _Readiness(refusals, reason_not_ready)

    def replace(self, models: IResource, rest: IResource) -> None:
        """
        Have other Resources answer for the list of models, and for all other paths, from now
        on.  The caller must make sites forget their routes.
        """
        self._rest = rest
        self._own[b"v1"] = _Version(models, rest)

    def getChildWithDefault(self, path: bytes, request: Request) -> IResource:
        """See L{IResource.getChildWithDefault}."""
        own = self._own.get(path)
        if own is None and path == b"llmux" and self._admin is not None:
            own = self._own[path] = self._admin()
        if own is None or (own.isLeaf and request.postpath):
            return self._rest
        return own

    def render(self, request: IRequest) -> int | bytes:
        """Leave a path that ends here to the Resource of the models."""
        answered: int | bytes = self._rest.render(request)
        return answered


class NothingElse(Resource):
    """
    This Resource answers 404 for a path that is not served at this address, and for all paths
    below.
    """

    route_is_stable = True

    def __init__(self, refusals: RefusalLog) -> None:
        Resource.__init__(self)
        self._refusals = refusals

    def getChildWithDefault(self, path: bytes, request: Request) -> IResource:
        """See L{IResource.getChildWithDefault}."""
        return self

    def render(self, request: Request) -> int:
        """Refuse the request with 404."""
        path = request.path[:200].decode("ascii", "replace")
        self._refusals.answer(request, ApiError(404, f"There is no {path} here."))
        return NOT_DONE_YET


class _Version(Resource):
    """This Resource is at C{/v1}."""

    route_is_stable = True

    def __init__(self, models: IResource, rest: IResource) -> None:
        Resource.__init__(self)
        self._models = models
        self._rest = rest

    def getChildWithDefault(self, path: bytes, request: Request) -> IResource:
        return self._models if path == b"models" else self._rest

    def render(self, request: IRequest) -> int | bytes:
        answered: int | bytes = self._rest.render(request)
        return answered


class _Document(ReadOnly):
    """This Resource always has the same reply."""

    def __init__(self, refusals: RefusalLog, content_type: bytes, body: bytes) -> None:
        super().__init__(refusals)
        self._content_type = content_type
        self._body = body

    def read(self, request: Request) -> None:
        self.write(request, self._content_type, self._body)


class _Readiness(ReadOnly):
    """
    This Resource says whether llmux can do its work; if not, the reply is 503, with the reason.
    """

    def __init__(
        self, refusals: RefusalLog, reason_not_ready: Callable[[], str | None]
    ) -> None:
        super().__init__(refusals)
        self._reason_not_ready = reason_not_ready

    def read(self, request: Request) -> None:
        reason = self._reason_not_ready()
        # This refusal is not logged, because clients of this path ask every second or two, and
        # the log has the cause elsewhere.
        request.setResponseCode(200 if reason is None else 503)
        request.setHeader(b"Cache-Control", b"no-store")
        document = {"schema": 1, "ready": reason is None, "reason": reason}
        self.write(request, b"application/json", json.dumps(document).encode() + b"\n")


class _Exposition(ReadOnly):
    """
    This Resource is the page that Prometheus scrapes.  A long text is made in pieces, in
    several turns of the reactor.  If scrapes have taken L{_SCRAPES_COST} seconds of CPU time
    within a second, the next ones in this second get the last text.
    """

    _log = Logger()

    def __init__(self, refusals: RefusalLog, metrics: Metrics, clock: IReactorTime) -> None:
        super().__init__(refusals)
        self._metrics = metrics
        self._seconds: Callable[[], float] = clock.seconds
        self._cooperator = cooperator_on(clock)
        self._text: bytes | None = None
        # The requests that wait for the text that is being made; None if no text is being made.
        self._waiting: list[Request] | None = None
        # The present second, and how much CPU time scrapes have taken in it.
        self._second = 0.0
        self._cost = 0.0

    def read(self, request: Request) -> None:
        if request.method == b"HEAD":
            # The length is not known before the text has been made, and need not be sent.
            request.setHeader(b"Content-Type", CONTENT_TYPE.encode("ascii"))
            request.finish()
            return
        now = self._seconds()
        if now - self._second >= 1:
            self._second, self._cost = now, 0.0
        if self._text is not None and self._cost >= _SCRAPES_COST:
            self._answer(request, self._text)
            return
        is_first = self._waiting is None
        waiting = self._waiting = self._waiting or []
        waiting.append(request)
        gone: Deferred[None] = request.notifyFinish()
        gone.addErrback(lambda _: waiting.remove(request) if request in waiting else None)
        if is_first:
            self._put_together()

    def _put_together(self) -> None:
        pieces: list[bytes] = []
        steps = self._steps(pieces)
        is_over = turn_that_begins()
        try:
            for _ in steps:
                if is_over():
                    break
            else:
                self._done(pieces)
                return
        except Exception:
            self._failed(Failure())
            return
        rest = self._cooperator.cooperate(steps).whenDone()
        rest.addCallbacks(lambda _: self._done(pieces), self._failed)

    def _steps(self, pieces: list[bytes]) -> Iterator[None]:
        source = self._metrics.pieces()
        while True:
            began = thread_time()
            piece = next(source, None)
            self._cost += thread_time() - began
            if piece is None:
                return
            pieces.append(piece)
            yield

    def _taken(self) -> list[Request]:
        waiting, self._waiting = self._waiting or [], None
        return [*waiting]

    def _done(self, pieces: list[bytes]) -> None:
        text = self._text = b"".join(pieces)
        for request in self._taken():
            self._answer(request, text)

    def _answer(self, request: Request, text: bytes) -> None:
        self.write(request, CONTENT_TYPE.encode("ascii"), text)

    def _failed(self, failure: Failure) -> None:
        """Answer the scrapes that wait with the reason; the next scrape is tried anew."""
        error = failure.value
        reason = "an error, which is in llmux's log"
        if isinstance(error, OSError):
            reason = (error.strerror or str(error)).lower()
        else:
            self._log.failure("the metrics could not be put together", failure)
        for request in self._taken():
            self._refusals.answer(
                request,
                ApiError(503, f"The metrics cannot be read now: {reason}.", retry_after=1),
            )

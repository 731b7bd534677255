"""
This module has the site, which makes the channels of clients' connections, and knows them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import IResource
from twisted.web.server import Site

from llmux.web.access import AccessRules
from llmux.web.body import BodyStorage, ScanFactory
from llmux.web.channel import LlhttpChannel
from llmux.web.error_reply import ApiError
from llmux.web.head_memo import HeadMemo
from llmux.web.limits import Limits
from llmux.web.request import LlmuxRequest

__all__ = ["LlmuxSite"]

_SWEEP = 1.0
_MOST_ROUTES = 256
_LOG_AGAIN = 60.0
"""Refusals of one kind are logged once in this many seconds."""


class LlmuxSite(Site):
    """
    An L{LlmuxSite} is a L{Site} whose connections are of the class L{LlhttpChannel}.

    A resource that sets C{route_is_stable = True} promises that its child for a path depends on
    nothing but the path, and never changes.  If all resources from the root to the leaf promise
    this, the tree is walked only once for the path.

    @ivar request_factory: a function that makes a request of a channel, a head and a body.
    @ivar limits: the limits of requests' sizes.
    @ivar heads: the memo of heads that need not be parsed again.
    @ivar routes: for each path, its leaf, and how many segments lead there.
    @ivar stopping: whether connections take no further requests.
    @ivar idle_timeout: after how many seconds without a request a connection is closed.
    @ivar read_timeout: within how many seconds the head of a request must come; the rate of its
        body is measured over the same time.
    @ivar min_upload_rate: how many bytes per second of a body must come.
    @ivar scan: the factory of the scans that are given large bodies as they come; or None.
    @ivar access: the rules about hosts and origins, or None if all are accepted.  This must be
        set before the first connection, because heads that are remembered count as accepted.
    @ivar storage: the storage that keeps the bodies of requests.
    @ivar parse_forms: whether forms from bodies are put into C{args}, as twisted.web does by
        default; they are read into memory.
    """

    def __init__(
        self,
        resource: IResource,
        reactor: IReactorTime,
        *,
        limits: Limits | None = None,
        idle_timeout: float = 75.0,
        read_timeout: float = 60.0,
        min_upload_rate: float = 100.0,
        scan: ScanFactory | None = None,
        access: AccessRules | None = None,
        storage: BodyStorage | None = None,
        parse_forms: bool = False,
        request_factory: Callable[..., LlmuxRequest] = LlmuxRequest,
    ) -> None:
        cast(Any, super()).__init__(
            resource, parsePOSTFormSubmission=parse_forms, reactor=reactor
        )
        self.request_factory = request_factory
        self.clock = reactor
        self.limits = Limits() if limits is None else limits
        # Margins are left, because lengths do not always have the same number of digits.
        self.heads = HeadMemo(
            min(2048, self.limits.head - 64), min(64, self.limits.headers - 1)
        )
        self.routes: dict[bytes, tuple[IResource, int]] = {}
        self.stopping = False
        self.idle_timeout = idle_timeout
        self.read_timeout = read_timeout
        self.min_upload_rate = min_upload_rate
        self.scan = scan
        self.access = access
        self.storage = BodyStorage() if storage is None else storage
        self.parse_forms = parse_forms
        self._connections: set[LlhttpChannel] = set()
        self._sweep: IDelayedCall | None = None
        self._waiting: list[Deferred[None]] = []
        # For each kind of refusal, when it was logged and how many came since.
        self._refusals: dict[tuple[int, str], tuple[float, int]] = {}
        self._failures: set[object] = set()

    _log = Logger()

    # --------------------------------------------------------- the factory

    def startFactory(self) -> None:
        """Do nothing, because there is no access log, and no clock for one."""

    def stopFactory(self) -> None:
        """Do nothing, because nothing was started."""

    def log(self, request: Request) -> None:
        """Do nothing, because there is no access log."""

    def buildProtocol(self, addr: IAddress | None) -> LlhttpChannel:  # type: ignore[override] # a Site has no other use for its protocol
        """See L{IProtocolFactory.buildProtocol}."""
        return LlhttpChannel(self)

    def acceptableProtocols(self) -> list[bytes]:
        """See L{IProtocolNegotiationFactory.acceptableProtocols}."""
        return [b"http/1.1"]

    # --------------------------------------------------------- the tree

    def getResourceFor(self, request: LlmuxRequest) -> IResource:
        """Walk the tree, and remember the leaf if it is always the same for this path."""
        resource: Any = self.resource
        stable = getattr(resource, "route_is_stable", False)
        while request.postpath and not resource.isLeaf:
            segment = request.postpath.pop(0)
            request.prepath.append(segment)
            resource = resource.getChildWithDefault(segment, request)
            stable = stable and getattr(resource, "route_is_stable", False)
        if stable:
            if len(self.routes) >= _MOST_ROUTES:
                self.routes.clear()
            self.routes[request.path] = (resource, len(request.prepath))
        return cast(IResource, resource)

    def forget_ways(self) -> None:
        """
        Forget all routes and heads, because the tree, or the rules of access, have changed.
        """
        self.routes.clear()
        self.heads.clear()

    # --------------------------------------------------------- connections

    def opened(self, channel: LlhttpChannel) -> None:
        """Add a connection that has been made."""
        self._connections.add(channel)
        if self._sweep is None:
            self._sweep = self.clock.callLater(_SWEEP, self._look)

    def lost(self, channel: LlhttpChannel) -> None:
        """Remove a connection that has been lost."""
        self._connections.discard(channel)
        if not self._connections:
            if self._sweep is not None:
                self._sweep.cancel()
                self._sweep = None
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                one.callback(None)

    def _look(self) -> None:
        self._sweep = self.clock.callLater(_SWEEP, self._look)
        now = self.clock.seconds()
        for channel in list(self._connections):
            channel.look(now)

    def refused(self, error: ApiError) -> None:
        """
        Log that something was refused that is no sound request.  Each kind of refusal is logged
        once a minute.
        """
        now = self.clock.seconds()
        kind = error.status, error.code
        logged, missed = self._refusals.get(kind, (now - _LOG_AGAIN, 0))
        if now - logged < _LOG_AGAIN:
            self._refusals[kind] = logged, missed + 1
            return
        self._refusals[kind] = now, 0
        self._log.info(
            "a request was refused with {status}: {reason}{more}",
            event="request_refused",
            status=error.status,
            reason=error.message,
            more=f" (and {missed} of this kind before)" if missed else "",
        )

    def reading_failed(self, failure: Failure) -> None:
        """
        Log that reading a request has raised, which is a defect.  Each kind of failure is
        logged once.
        """
        frame = failure.frames[-1] if failure.frames else None
        kind = failure.type, frame and (frame[1], frame[2])
        if kind not in self._failures:
            self._failures.add(kind)
            self._log.failure("a request could not be read", failure)

    def connections(self) -> int:
        """Return the number of connections."""
        return len(self._connections)

    def stop_accepting_requests(self) -> None:
        """
        Close the idle connections now, and each of the others when its present request has been
        answered.
        """
        self.stopping = True
        for channel in list(self._connections):
            channel.stop()

    def all_closed(self) -> Deferred[None]:
        """
        Return a Deferred that fires when there is no connection (at once, if there is none).
        """
        waiting: Deferred[None] = Deferred(self._waiting_no_more)
        if self._connections:
            self._waiting.append(waiting)
        else:
            waiting.callback(None)
        return waiting

    def _waiting_no_more(self, waiting: Deferred[None]) -> None:
        self._waiting.remove(waiting)

    def abort_all(self) -> None:
        """Close every connection at once."""
        for channel in list(self._connections):
            channel.abortConnection()

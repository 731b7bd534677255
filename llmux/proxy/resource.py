"""
The Resource that passes requests on to models' backends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from llmux.backend.pool import Backend, BackendPool
from llmux.backend.template import RequestTemplate
from llmux.proxy.guarded import IGuardedResource, ITurn
from llmux.proxy.refusals import no_model
from llmux.proxy.relay import ChannelRelay, Relay, RequestRelay
from llmux.proxy.stalls import Stalls
from llmux.web.body import body_of
from llmux.web.error_reply import answer
from llmux.web.request import LlmuxRequest

__all__ = ["ProxyResource", "RequestMetrics"]


class RequestMetrics(Protocol):
    """Where replies are counted."""

    def request_answered(self, model: str, status: int, seconds: float) -> None:
        """A reply with this status began, so long after its request was complete."""


def _nobody_waits(model: str) -> bool:
    return False


@implementer(IGuardedResource)
class ProxyResource(Resource):
    """
    Relays requests to the backend of the model that they name.

    @ivar metrics: told of each reply, if not None.
    @ivar seconds: the time.
    """

    isLeaf = True
    route_is_stable = True

    def __init__(
        self,
        pool: BackendPool,
        backends: Mapping[str, tuple[str, int]],
        clock: IReactorTime,
        *,
        others_wait: Callable[[str], bool] = _nobody_waits,
        client_stall_timeout: float = 60.0,
        metrics: RequestMetrics | None = None,
    ) -> None:
        """
        @param backends: for each model its backend's host and port.
        @param others_wait: whether requests wait for this model to be
            drained.
        @param client_stall_timeout: seconds for which a client may then take
            no byte.
        """
        Resource.__init__(self)
        self.pool = pool
        self.metrics = metrics
        self.seconds: Callable[[], float] = clock.seconds
        self.stalls = Stalls(clock, client_stall_timeout, others_wait)
        self._backends: dict[str, Backend] = {
            model: pool.backend(host, port) for model, (host, port) in backends.items()
        }

    def render(self, request: IRequest) -> int:
        """A request that names no model."""
        answer(request, no_model())
        return NOT_DONE_YET

    def render_guarded(self, turn: ITurn) -> None:
        """See L{IGuardedResource.render_guarded}."""
        request = turn.request
        backend = self._backends[turn.model]
        relay: Relay
        if isinstance(request, LlmuxRequest):
            head = request.head
            template = head.derived
            if not isinstance(template, RequestTemplate):
                template = RequestTemplate(head.method, head.uri, head.headers)
                head.derived = template
            relay = ChannelRelay(self, turn, backend, template, request.body)
        else:
            template = RequestTemplate(
                request.method,
                request.uri,
                (
                    (name, value)
                    for name, values in request.requestHeaders.getAllRawHeaders()
                    for value in values
                ),
            )
            relay = RequestRelay(self, turn, backend, template, body_of(request))
        try:
            relay.start()
        except Exception:
            # Whatever this was, the client is answered without it: its exchange must end.
            relay.hang_up()
            raise

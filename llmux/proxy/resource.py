"""This module has the Resource that passes requests on to models' backends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from llmux.backend.pool import Backend, BackendPool
from llmux.backend.template import RequestTemplate
from llmux.backend.whereabouts import Address
from llmux.proxy.guarded import IGuardedResource, ITurn
from llmux.proxy.missing_model import explain_missing_model
from llmux.proxy.refusals import RefusalLog
from llmux.proxy.relay import ChannelRelay, Relay, RequestRelay
from llmux.proxy.stalls import Stalls
from llmux.web.body import body_of

__all__ = ["ProxyResource"]


def _nobody_waits(model: str) -> bool:
    return False


@implementer(IGuardedResource)
class ProxyResource(Resource):
    """This Resource relays requests to the backend of the model that they name."""

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
        first_byte_timeouts: Mapping[str, float | None] | None = None,
        refusals: RefusalLog | None = None,
        listed: Iterable[str] | None = None,
    ) -> None:
        """
        @param backends: the host and port of each model's backend.
        @param others_wait: a function that tells whether requests wait for this model to be
            drained.
        @param client_stall_timeout: for how many seconds a client may then take no byte.
        @param first_byte_timeouts: for each model, after how many seconds a backend that has
            not begun its reply counts as one that has refused; None, or a missing model, for no
            limit.
        @param refusals: the log of the errors that clients get; None for a new one.
        @param listed: the names that clients are told; None for those of all backends.
        """
        Resource.__init__(self)
        self._clock = clock
        self._stalls = Stalls(clock, client_stall_timeout, others_wait)
        self._refusals = RefusalLog(clock) if refusals is None else refusals
        self._pool = pool
        self._listed = tuple(backends if listed is None else listed)
        limits = self._limits = first_byte_timeouts or {}
        self._backends: dict[str, tuple[Backend, float | None]] = {
            model: (pool.backend(host, port), limits.get(model))
            for model, (host, port) in backends.items()
        }

    def backend_moved(self, model: str, address: Address) -> None:
        """Send the requests of a model to another address from now on."""
        self._backends[model] = self._pool.backend(*address), self._limits.get(model)

    def backend_forgotten(self, model: str) -> None:
        """Forget a model that does not exist any more, and has nothing in flight."""
        self._backends.pop(model, None)

    def reconfigure(
        self,
        addresses: Mapping[str, Address],
        *,
        client_stall_timeout: float,
        first_byte_timeouts: Mapping[str, float | None],
        listed: Iterable[str],
    ) -> None:
        """
        Go on with other limits, and possibly other models; C{__init__} explains the parameters.

        @param addresses: the addresses of the backends, as they are now.
        """
        self._stalls.limit(client_stall_timeout)
        self._limits = first_byte_timeouts
        self._listed = tuple(listed)
        for model, address in addresses.items():
            self.backend_moved(model, address)

    def render(self, request: IRequest) -> int:
        """Refuse a request that names no model, and say why none was found."""
        body = body_of(request)
        try:
            error = explain_missing_model(request, body, self._listed)
        finally:
            if body is not getattr(request, "body", None):
                body.close()
        self._refusals.answer(request, error)
        return NOT_DONE_YET

    def render_guarded(self, turn: ITurn) -> None:
        """See L{IGuardedResource.render_guarded}."""
        backend, first_byte_timeout = self._backends[turn.model]
        caller = turn.caller
        head = caller.head
        template: RequestTemplate | None = head.derived
        if template is None:
            template = head.derived = RequestTemplate(head.method, head.uri, head.headers)
        relay_class = RequestRelay if caller.channel is None else ChannelRelay
        relay: Relay = relay_class(self._stalls, turn, backend, template)
        if first_byte_timeout is not None:
            relay.limit_first_byte(self._clock, first_byte_timeout)
        try:
            relay.start()
        except Exception:
            # Whatever went wrong, the client gets an error, so the exchange must end.
            relay.hang_up()
            raise

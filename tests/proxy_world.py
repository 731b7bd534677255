"""
This module has the whole way from a client to a backend and back, in memory: a Site, the
switcher with hooks made of numbers, and backends whose bytes are put in by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import ClientFactory
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from twisted.web.server import Site
from zope.interface import implementer

from llmux.backend.connection import BackendConnection
from llmux.backend.pool import BackendPool
from llmux.interfaces import Completed, HookKind, PolicyEvent
from llmux.monitoring.metrics import Metrics
from llmux.policy.fifo import FifoPolicy
from llmux.proxy.drop_connections import ConnectionDroppingHooks
from llmux.proxy.guarded import IGuardedResource, ITurn
from llmux.proxy.model_name.find import scan_on_arrival
from llmux.proxy.naming.names import Names
from llmux.proxy.resource import ProxyResource
from llmux.proxy.switching_resource import SwitchingResource
from llmux.switching.facts.settings import SwitchSettings
from llmux.switching.switcher import ModelSwitcher
from llmux.web.limits import Limits
from llmux.web.site import LlmuxSite
from tests.fakes import FakeHookRunner
from tests.proxy_fakes import BackendEnd, Transport
from tests.reactor_world import ReactorWorld

__all__ = ["ClientEnd", "Guarded", "ProxyWorld", "chat", "exchange_begun"]

MODELS = {"a": ("10.0.0.1", 8001), "b": ("10.0.0.2", 8002)}


def chat(
    model: str = "a",
    *,
    method: bytes = b"POST",
    version: bytes = b"HTTP/1.1",
    headers: bytes = b"",
    padding: int = 0,
) -> bytes:
    """Write the bytes of a request for a model."""
    body = b'{"model": "%s", "x": "%s"}' % (model.encode(), b"x" * padding)
    return (
        b"%s /v1/chat/completions?q=1 %s\r\nHost: llmux\r\n%sContent-Length: %d\r\n\r\n%s"
        % (
            method,
            version,
            headers,
            len(body),
            body,
        )
    )


class _ClientTransport(StringTransport):
    def __init__(self, peer: IPv4Address) -> None:
        StringTransport.__init__(self, peerAddress=peer)
        self.aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        self.disconnecting = True


class ClientEnd:
    """
    This is a client's end of a connection.

    @ivar received: all bytes that the client was sent.
    """

    def __init__(self, site: Site) -> None:
        address = IPv4Address("TCP", "127.0.0.1", 4000)
        self.transport = _ClientTransport(address)
        channel = site.buildProtocol(address)
        assert channel is not None
        self.channel: IProtocol = channel
        channel.makeConnection(self.transport)
        self.gone = False

    def send(self, data: bytes) -> None:
        """Send some bytes of a request."""
        if not self.gone:
            self.channel.dataReceived(data)

    @property
    def received(self) -> bytes:
        return self.transport.io.getvalue()

    @property
    def closed(self) -> bool:
        """Tell whether llmux has closed the connection, in one way or the other."""
        return self.transport.disconnecting

    @property
    def cut_off(self) -> bool:
        """
        Tell whether llmux has closed the connection in the way that says that the reply is not
        complete.
        """
        return self.transport.aborted

    def block(self) -> None:
        """Read no more, as if llmux's buffers were full."""
        assert self.transport.producer is not None
        self.transport.producer.pauseProducing()

    def unblock(self) -> None:
        """Read again."""
        assert self.transport.producer is not None
        self.transport.producer.resumeProducing()

    def leave(self) -> None:
        """Close the connection, or see that it is closed."""
        if not self.gone:
            self.gone = True
            producer = self.transport.producer
            if producer is not None:
                producer.stopProducing()
            self.channel.connectionLost(Failure(ConnectionDone()))


class _Root(Resource):
    route_is_stable = True

    def __init__(self, leaf: IResource) -> None:
        Resource.__init__(self)
        self._leaf = leaf

    def getChild(self, path: bytes, request: object) -> IResource:
        return self._leaf


class _Switcher(ModelSwitcher):
    """This switcher notes of which models' backends it was told that they are in doubt."""

    doubts: list[str]

    def backend_in_doubt(self, model: str) -> None:
        self.doubts.append(model)


@implementer(IGuardedResource)
class Guarded(Resource):
    """This resource minds guards, and is made of a function."""

    isLeaf = True

    def __init__(self, render: Callable[[ITurn], object]) -> None:
        Resource.__init__(self)
        self._render = render

    def render_guarded(self, turn: ITurn) -> None:
        self._render(turn)


class ProxyWorld(ReactorWorld):
    """
    This world has two models, C{a} and C{b}, whose hooks take no time unless scripted
    otherwise.

    @ivar completed: for each exchange that has ended, whether it was answered whole; only if
        the world was made with C{observed}.
    """

    def __init__(
        self,
        *,
        stock: bool = False,
        wrapped: IResource | None = None,
        client_stall_timeout: float = 60.0,
        first_byte_timeout: float | None = None,
        observed: bool = False,
        names: Names | None = None,
        max_body: int = 10_000_000,
        **settings: Any,
    ) -> None:
        self.reactor = MemoryReactorClock()
        self.hooks = FakeHookRunner(self.reactor)
        self.metrics = Metrics()
        self.completed: list[bool] = []
        self.pool = BackendPool(self.reactor)
        self.switcher = _Switcher(
            self.reactor,
            ConnectionDroppingHooks(self.hooks, self.pool, MODELS),
            FifoPolicy(),
            dict.fromkeys(MODELS, 100.0),
            SwitchSettings(**settings),
            metrics=self.metrics,
            observers=[self._observe] if observed else [],
        )
        self.doubts: list[str] = []
        self.switcher.doubts = self.doubts
        self.proxy = ProxyResource(
            self.pool,
            MODELS,
            self.reactor,
            others_wait=self.switcher.others_wait,
            client_stall_timeout=client_stall_timeout,
            first_byte_timeouts={"a": first_byte_timeout},
        )
        self.switching = SwitchingResource(
            self.proxy if wrapped is None else wrapped,
            self.switcher,
            self.reactor,
            max_body=max_body,
            metrics=self.metrics,
            names=names,
        )
        root = _Root(self.switching)
        self.site: Site
        if stock:
            self.site = Site(root, reactor=self.reactor)
        else:
            self.site = LlmuxSite(
                root, self.reactor, limits=Limits(body=max_body), scan=scan_on_arrival
            )
        self._accepted = 0
        self.switcher.start()
        self.settle()

    def _observe(self, event: PolicyEvent) -> None:
        if isinstance(event, Completed):
            self.completed.append(event.answered)

    def in_flight(self, model: str = "a") -> int:
        """Return how many guards of a model have not been released."""
        return {name: count for name, _, count, _ in self.switcher.readings.per_model()}[model]

    def check_nothing_is_timed(self) -> None:
        """Check that no timer is left after the last client, once the pool is closed."""
        self.pool.close()
        # The site looks once more whether clients have come.
        self.advance(1.25)
        assert self.reactor.getDelayedCalls() == []

    def requests_counted(self) -> dict[tuple[str, str], int]:
        """Return how many requests the metrics have counted, by model and status."""
        found = re.findall(
            r'^llmux_requests_total\{model="(.*)",status="(.*)"\} (.*)$',
            self.metrics.expose().decode(),
            re.MULTILINE,
        )
        return {(model, status): int(float(count)) for model, status, count in found}

    def client(self) -> ClientEnd:
        """Make one more client."""
        return ClientEnd(self.site)

    def attempts(self) -> int:
        """Return how many connections are being made to backends."""
        connectors = self.reactor.connectors[self._accepted :]
        return sum(not connector.stoppedConnecting for connector in connectors)

    def accept(self) -> BackendEnd:
        """Let the oldest attempt to connect succeed."""
        connection = self._factory().buildProtocol(None)
        assert isinstance(connection, BackendConnection)
        return BackendEnd(connection, Transport())

    def refuse(self, error: Exception) -> None:
        """Let the oldest attempt to connect fail."""
        factory = self._factory()
        connector = self.reactor.connectors[self._accepted - 1]
        factory.clientConnectionFailed(connector, Failure(error))

    def _factory(self) -> ClientFactory:
        while self.reactor.connectors[self._accepted].stoppedConnecting:
            self._accepted += 1
        factory: ClientFactory = self.reactor.tcpClients[self._accepted][2]
        self._accepted += 1
        return factory

    def script(self, model: str, hook: HookKind, *outcomes: Any) -> None:
        """See L{FakeHookRunner.script}."""
        self.hooks.script(model, hook, *outcomes)


def exchange_begun(**settings: Any) -> tuple[ProxyWorld, ClientEnd, BackendEnd]:
    """Make a world whose backend has a client's request, and return it with both ends."""
    world = ProxyWorld(**settings)
    world.wake("a")
    client = world.client()
    client.send(chat())
    return world, client, world.accept()

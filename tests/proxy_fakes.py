"""
This module has what a backend connection is tested with: an exchange that keeps what it is
told, and connections whose bytes are put in by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import ClientFactory
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from llmux.backend.connection import BackendConnection
from llmux.backend.exchange import IExchange, IExchangeConnection
from llmux.backend.pool import Backend, BackendPool, PoolSettings
from llmux.backend.reply import Framing, ReplyHead
from llmux.backend.template import Repeats

__all__ = ["PLAIN", "BackendEnd", "Network", "RecordedExchange", "Reply", "Transport", "begin"]

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"


@dataclass
class Reply:
    """
    A reply is what an exchange came to.

    @ivar outcome: "ended", or the reason why it failed; empty before that.
    @ivar in_doubt: as L{IExchange.failed} was told of its backend.
    """

    status: int = 0
    block: bytes = b""
    framing: Framing | None = None
    body: bytes = b""
    outcome: str = ""
    in_doubt: bool | None = None


@implementer(IExchange)
class RecordedExchange:
    """This exchange sends C{request} and keeps the reply."""

    def __init__(
        self,
        request: bytes = b"GET / HTTP/1.1\r\nHost: b\r\n\r\n",
        *,
        is_head: bool = False,
        repeats: Repeats = Repeats.IF_UNSEEN,
    ) -> None:
        self.request = request
        self.connection: IExchangeConnection | None = None
        self.is_head = is_head
        self.repeats = repeats
        self.times_connected = 0
        self.reply = Reply()

    def to_send(self) -> tuple[bytes, IBodyProducer | None]:
        self.times_connected += 1
        return self.request, None

    def replied(self, head: ReplyHead, data: bytes, ended: bool) -> None:
        reply = self.reply
        assert not reply.status and not reply.outcome
        reply.status, reply.block, reply.framing = head.status, head.block, head.framing
        self._more(data, ended)

    def received(self, data: bytes, ended: bool) -> None:
        assert self.reply.status
        self._more(data, ended)

    def _more(self, data: bytes, ended: bool) -> None:
        assert not self.reply.outcome
        self.reply.body += data
        if ended:
            assert self.connection is None
            self.reply.outcome = "ended"

    def begun_anew(self) -> None:
        assert self.repeats is not Repeats.NEVER
        self.repeats = Repeats.NEVER

    def failed(self, reason: str, *, backend_in_doubt: bool) -> None:
        assert self.connection is None
        assert not self.reply.outcome
        self.reply.outcome = reason
        self.reply.in_doubt = backend_in_doubt


class Transport(StringTransport):
    """This transport notes that it was aborted, and ends like a real transport."""

    aborted = False
    lost = False

    def abortConnection(self) -> None:
        self.aborted = True
        self.disconnecting = True


@dataclass
class BackendEnd:
    """This is the backend's end of a connection."""

    connection: BackendConnection
    transport: Transport = field(default_factory=Transport)

    def __post_init__(self) -> None:
        self.connection.makeConnection(self.transport)

    @property
    def closed(self) -> bool:
        """Tell whether llmux has closed the connection."""
        return self.transport.disconnecting

    def take(self) -> bytes:
        """Return what was sent since the last call."""
        io = self.transport.io
        sent = io.getvalue()
        io.seek(0)
        io.truncate()
        return sent

    def send(self, data: bytes) -> None:
        """Send a part of a reply; what comes after llmux has closed is lost, as on a socket."""
        if data and not self.closed:
            self.connection.dataReceived(data)

    def close(self, *, cleanly: bool = True) -> None:
        """End the connection, whoever wished it."""
        if not self.transport.lost:
            self.transport.lost = True
            producer = self.transport.producer
            if producer is not None:
                producer.stopProducing()
            reason = ConnectionDone() if cleanly else ConnectionLost()
            self.connection.connectionLost(Failure(reason))


class Network:
    """This class has a pool of one backend, whose connections are made when a test says so."""

    def __init__(self, settings: PoolSettings | None = None, host: str = "10.0.0.1") -> None:
        self.reactor = MemoryReactorClock()
        self.pool = BackendPool(self.reactor, settings)
        self.backend: Backend = self.pool.backend(host, 8000)
        self._connected = 0

    def attempts(self) -> int:
        """Return how many attempts wait for L{connect} or L{refuse}."""
        connectors = self.reactor.connectors[self._connected :]
        return sum(not connector.stoppedConnecting for connector in connectors)

    def connect(self, transport: Transport | None = None) -> BackendEnd:
        """Let the oldest attempt succeed."""
        connection = self._factory().buildProtocol(None)
        assert isinstance(connection, BackendConnection)
        return BackendEnd(connection, transport or Transport())

    def refuse(self, error: Exception) -> None:
        """Let the oldest attempt fail."""
        factory = self._factory()
        connector = self.reactor.connectors[self._connected - 1]
        factory.clientConnectionFailed(connector, Failure(error))

    def _factory(self) -> ClientFactory:
        while self.reactor.connectors[self._connected].stoppedConnecting:
            self._connected += 1
        factory: ClientFactory = self.reactor.tcpClients[self._connected][2]
        self._connected += 1
        return factory


def begin(
    network: Network, count: int = 1, repeats: Repeats = Repeats.IF_UNSEEN
) -> list[RecordedExchange]:
    """Begin so many exchanges, which send C{1}, C{2} and so on."""
    exchanges = [
        RecordedExchange(b"%d\r\n" % number, repeats=repeats) for number in range(1, count + 1)
    ]
    for exchange in exchanges:
        network.backend.begin(exchange)
    return exchanges

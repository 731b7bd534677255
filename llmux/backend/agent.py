"""
This module has an L{IAgent} that uses the backends' connections, for treq and for other users
of agents.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IConsumer, IProtocol, IPushProducer, ITransport
from twisted.python.failure import Failure
from twisted.web.client import URI, ResponseDone, ResponseFailed, ResponseNeverReceived
from twisted.web.error import SchemeNotSupported
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import (
    UNKNOWN_LENGTH,
    IAgent,
    IBodyProducer,
    IClientRequest,
    IResponse,
)
from zope.interface import implementer

from llmux.backend.exchange import IExchange, IExchangeConnection
from llmux.backend.pool import Backend, BackendPool
from llmux.backend.reply import Framing, ReplyHead, fields_of, reason_of
from llmux.backend.template import Repeats, RequestTemplate

__all__ = ["BackendAgent"]


@implementer(IAgent)
class BackendAgent:
    """
    A L{BackendAgent} sends requests to C{http:} URIs over a pool's connections.

    The Host header is that of the headers given, else the URI's host and port; hop-by-hop
    headers are not sent.  A request fails with L{ResponseNeverReceived} or L{ResponseFailed}.
    If a request is cancelled, its connection is closed.
    """

    def __init__(self, pool: BackendPool) -> None:
        self._pool = pool

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """See L{IAgent.request}."""
        parsed = URI.fromBytes(uri)
        if parsed.scheme != b"http":
            return fail(SchemeNotSupported(f"not http: {uri!r}"))
        headers = Headers() if headers is None else headers
        backend = self._pool.backend(parsed.host.decode("ascii"), parsed.port)
        asked = _ClientRequest(method, uri, headers)
        exchange = _AgentExchange(backend, asked, parsed.originForm, bodyProducer)
        backend.begin(exchange)
        return exchange.response


@implementer(IClientRequest)
class _ClientRequest:
    def __init__(self, method: bytes, uri: bytes, headers: Headers) -> None:
        self.method = method
        self.absoluteURI = uri
        self.headers = headers


class _Chunks:
    """This consumer puts each piece of a body into a chunk."""

    def __init__(self, transport: IConsumer) -> None:
        self._transport = transport

    def write(self, data: bytes) -> None:
        if data:
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def registerProducer(self, producer: object, streaming: bool) -> None:
        raise NotImplementedError("a body producer is registered by whoever starts it")

    unregisterProducer = registerProducer


@implementer(IBodyProducer)
class _ChunkedBody:
    """This producer sends a body whose length is not known, in chunks."""

    length = UNKNOWN_LENGTH

    def __init__(self, body: IBodyProducer) -> None:
        self._body = body
        self.pauseProducing: Callable[[], None] = body.pauseProducing
        self.resumeProducing: Callable[[], None] = body.resumeProducing
        self.stopProducing: Callable[[], None] = body.stopProducing

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        chunks = cast(IConsumer, _Chunks(consumer))
        done: Deferred[None] = self._body.startProducing(chunks)
        done.addCallback(self._last, consumer)
        return done

    def _last(self, result: object, consumer: IConsumer) -> None:
        consumer.write(b"0\r\n\r\n")


@implementer(IExchange)
class _AgentExchange:
    """An L{_AgentExchange} is one request of an agent, until its response has ended."""

    def __init__(
        self,
        backend: Backend,
        asked: _ClientRequest,
        target: bytes,
        body: IBodyProducer | None,
    ) -> None:
        template = RequestTemplate(
            asked.method,
            target,
            (
                (name, value)
                for name, values in asked.headers.getAllRawHeaders()
                for value in values
            ),
        )
        (host,) = asked.headers.getRawHeaders(b"host", [backend.host_header])[:1]
        if body is not None and body.length is UNKNOWN_LENGTH:
            self._head = template.render_chunked(host)
            body = _ChunkedBody(body)
        else:
            self._head = template.render(host, 0 if body is None else cast(int, body.length))
        self._backend = backend
        self._asked = asked
        self._body = body
        self._reply: _Response | None = None
        self.connection: IExchangeConnection | None = None
        self.is_head = template.is_head
        # A producer can be started only once.
        self.repeats = template.repeats if body is None else Repeats.NEVER
        self.response: Deferred[IResponse] = Deferred(self._cancelled)

    def _cancelled(self, response: Deferred[IResponse]) -> None:
        self.hang_up()

    def hang_up(self) -> None:
        """Abort the exchange, because nobody wants the rest of it."""
        if self.connection is not None:
            self.connection.abort()
        else:
            self._backend.withdraw(self)

    # ------------------------------------------------------- IExchange

    def connected(self) -> None:
        """See L{IExchange.connected}."""
        connection = self.connection
        assert connection is not None
        connection.send(self._head)
        if self._body is not None:
            body, self._body = self._body, None
            connection.send_body(body)

    def replied(self, head: ReplyHead, data: bytes, ended: bool) -> None:
        """See L{IExchange.replied}."""
        self._reply = reply = _Response(self, self._asked, head)
        reply.more(data, ended)
        if self.connection is not None:
            # The connection is paused until somebody asks for the body.
            self.connection.pause()
        self.response.callback(reply)

    def received(self, data: bytes, ended: bool) -> None:
        """See L{IExchange.received}."""
        assert self._reply is not None
        self._reply.more(data, ended)

    def begun_anew(self) -> None:
        """See L{IExchange.begun_anew}."""
        self.repeats = Repeats.NEVER

    def failed(self, reason: str, *, backend_in_doubt: bool) -> None:
        """See L{IExchange.failed}."""
        failures = [Failure(ConnectionLost(reason))]
        if self._reply is not None:
            self._reply.end(_response_failed(failures, self._reply))
        else:
            kind = ResponseNeverReceived if backend_in_doubt else ResponseFailed
            self.response.errback(_response_failed(failures, None, kind))


@implementer(IResponse, IPushProducer)
class _Response:
    """A L{_Response} is also the transport of the protocol that takes the body."""

    def __init__(
        self, exchange: _AgentExchange, asked: _ClientRequest, head: ReplyHead
    ) -> None:
        self.version = (b"HTTP", 1, 1)
        self.code = head.status
        self.phrase = reason_of(head.block)
        self.headers = Headers()
        for name, value in fields_of(head.block):
            self.headers.addRawHeader(name, value)
        self.length: object = UNKNOWN_LENGTH
        if head.framing is Framing.LENGTH:
            (length,) = self.headers.getRawHeaders(b"content-length", [])
            self.length = int(length)
        elif head.framing is Framing.NONE:
            self.length = 0
        self.request = asked
        self.previousResponse: IResponse | None = None
        self.disconnecting = False
        self._exchange = exchange
        self._end_is_close = head.framing is Framing.UNTIL_CLOSE
        self._pieces: list[bytes] = []
        self._ended: Failure | None = None
        self._protocol: IProtocol | None = None

    def setPreviousResponse(self, response: IResponse) -> None:
        """See L{IResponse.setPreviousResponse}."""
        self.previousResponse = response

    def deliverBody(self, protocol: IProtocol) -> None:
        """See L{IResponse.deliverBody}."""
        self._protocol = protocol
        protocol.makeConnection(cast(ITransport, self))
        pieces, self._pieces = self._pieces, []
        for piece in pieces:
            protocol.dataReceived(piece)
        if self._ended is not None:
            self._say_end()
        elif not self.disconnecting:
            self.resumeProducing()

    def more(self, data: bytes, ended: bool) -> None:
        """Take the next piece of the body."""
        if data:
            if self._protocol is None:
                self._pieces.append(data)
            else:
                self._protocol.dataReceived(data)
        if ended:
            self.end(Failure(PotentialDataLoss() if self._end_is_close else ResponseDone()))

    def end(self, reason: Failure) -> None:
        """Note that the body has ended, for this reason."""
        if self._ended is None:
            self._ended = reason
            if self._protocol is not None:
                self._say_end()

    def _say_end(self) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            assert self._ended is not None
            protocol.connectionLost(self._ended)

    # ---------------------------------------------- the body's transport

    def pauseProducing(self) -> None:
        """See L{IPushProducer.pauseProducing}."""
        if self._exchange.connection is not None:
            self._exchange.connection.pause()

    def resumeProducing(self) -> None:
        """See L{IPushProducer.resumeProducing}."""
        if self._exchange.connection is not None:
            self._exchange.connection.resume()

    def stopProducing(self) -> None:
        """See L{IPushProducer.stopProducing}."""
        self.abortConnection()

    def loseConnection(self) -> None:
        """See L{ITransport.loseConnection}.  The rest of the body is not read."""
        self.abortConnection()

    def abortConnection(self) -> None:
        """See L{ITCPTransport<twisted.internet.interfaces.ITCPTransport>}."""
        self.disconnecting = True
        if self._ended is None:
            self._exchange.hang_up()
            self.end(_response_failed([Failure(ConnectionLost("aborted"))], self))


def _response_failed(
    reasons: list[Failure],
    response: IResponse | None,
    kind: Callable[..., Exception] = ResponseFailed,
) -> Failure:
    return Failure(kind(reasons, response))

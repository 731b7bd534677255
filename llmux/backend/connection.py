"""
One connection to a backend, which carries one exchange after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IProtocol,
    IPullProducer,
    ISystemHandle,
    ITCPTransport,
    ITransport,
)
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from llmux.backend.exchange import IExchange
from llmux.backend.reply import BadReply, Framing, ReplyHead
from llmux.backend.template import Repeats

if TYPE_CHECKING:
    from llmux.backend.pool import Backend

__all__ = ["BackendConnection"]

_MAX_HEAD = 128 * 1024
_SLICE = 256 * 1024
_HEAD_END = b"\r\n\r\n"
_SHORTEST_HEAD = len(b"HTTP/1.1 200")
_NO_BODY = Framing.NONE
_UNTIL_CLOSE = Framing.UNTIL_CLOSE
_MEMORABLE = 1024
_MOST_HEADS = 256
"""Heads of at most so many bytes, and so many of them, are kept for replies with the same."""
_IDLE_CLOSE = 1.0
"""
Seconds.  A backend that closes a connection because it was idle, just when a
request goes out on it, shows within a round trip.  One that closes later has
more likely died of the request, which must not be sent twice.
"""


@implementer(IPullProducer)
class _Rest:
    """What is left of a request, given to the transport slice by slice."""

    __slots__ = ("_connection", "_data", "_sent")

    def __init__(self, connection: BackendConnection, data: bytes, sent: int) -> None:
        self._connection = connection
        self._data = data
        self._sent = sent

    def resumeProducing(self) -> None:
        transport = self._connection.transport
        part = self._data[self._sent : self._sent + _SLICE]
        if part:
            self._sent += len(part)
            transport.write(part)
        else:
            transport.unregisterProducer()
            self._connection.rest_sent()

    def stopProducing(self) -> None:
        """The connection is lost, which it learns by itself."""


@implementer(IProtocol)
class BackendConnection:
    """
    A client of HTTP/1.1 over llhttp, at most one exchange at a time.

    The parser's callbacks are methods of lists: C{_may_begin} holds an item
    for each message that may begin (so that bytes after the reply make the
    parser fail), C{_to_end} one for each that has yet to end, C{_pieces} the
    decoded body.  Nobody else is called while the parser runs.

    @ivar reused: it has carried an exchange before the present one.
    @ivar idle_epoch: for its L{Backend}: when it became idle.
    @ivar generation: for its L{Backend}: connections of an old generation
        are not used again.
    """

    __slots__ = (
        "_backend",
        "_began",
        "_exchange",
        "_feed",
        "_interim",
        "_keeps_alive",
        "_may_begin",
        "_parser",
        "_partial",
        "_paused",
        "_pieces",
        "_replying",
        "_send",
        "_sending",
        "_status",
        "_to_end",
        "_until_close",
        "generation",
        "idle_epoch",
        "reused",
        "transport",
    )

    transport: Connection

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._exchange: IExchange | None = None
        self._may_begin: list[None] = []
        self._to_end: list[None] = []
        self._pieces: list[bytes] = []
        self._sending: _Rest | IBodyProducer | None = None
        self._send: Callable[[bytes], int] | None = None
        self._partial = b""
        self._interim = 0
        self._status = 0
        self._began = 0.0
        self._keeps_alive = False
        self._replying = False
        self._paused = False
        self._until_close = False
        self.generation = backend.generation
        self.idle_epoch = 0
        self.reused = False
        self._new_parser()

    def _new_parser(self) -> None:
        self._parser = HttpResponseParser(self)
        self._feed = self._parser.feed_data

    # ------------------------------------------------- the parser's callbacks

    @property
    def on_message_begin(self) -> Callable[[], None]:
        return self._may_begin.pop

    @property
    def on_body(self) -> Callable[[bytes], None]:
        return self._pieces.append

    @property
    def on_message_complete(self) -> Callable[[], None]:
        return self._to_end.pop

    def on_headers_complete(self) -> None:
        parser = self._parser
        status = parser.get_status_code()
        if status >= 200:
            self._status = status
            self._keeps_alive = parser.should_keep_alive()
        elif status == 101 or status < 100:
            raise BadReply(f"the backend replied with status {status}, which was not asked for")
        else:
            self._interim += 1
            self._may_begin.append(None)
            self._to_end.append(None)

    # ------------------------------------------------------ for exchanges

    def begin(self, exchange: IExchange) -> None:
        """Carry this exchange.  The connection is idle."""
        self._exchange = exchange
        self._may_begin.append(None)
        self._to_end.append(None)
        self._began = self._backend.seconds()
        exchange.connection = self
        exchange.connected()

    def send(self, data: bytes) -> None:
        """Send the request, or its head: the first that is sent in an exchange."""
        sent = 0
        if self._send is not None:
            try:
                sent = self._send(data)
            except OSError:
                # Full, or lost: the transport finds out which.
                sent = 0
            if sent == len(data):
                return
        elif len(data) <= _SLICE:
            self.transport.write(data)
            return
        self._sending = rest = _Rest(self, data, sent)
        self.transport.registerProducer(rest, False)

    def send_body(self, producer: IBodyProducer) -> None:
        """Send the request's body, after its head."""
        # From here on the transport may hold bytes that we do not know of:
        # what is sent later must queue behind them.
        self._send = None
        self._sending = producer
        self.transport.registerProducer(producer, True)
        try:
            sent = producer.startProducing(self.transport)
        except (OSError, ValueError):
            # No descriptor was left to open the body with, say.  The head is out: a backend
            # that is left waiting would answer into the next exchange of this connection.
            self._break("the request's body could not be read", heard=True)
            return
        sent.addCallbacks(
            self._body_sent,
            self._body_failed,
            callbackArgs=(producer,),
            errbackArgs=(producer,),
        )

    def rest_sent(self) -> None:
        """The transport has sent all of what L{send} gave it."""
        self._sending = None

    def _body_sent(self, result: object, producer: IBodyProducer) -> None:
        if self._sending is producer:
            self._sending = None
            self.transport.unregisterProducer()

    def _body_failed(self, failure: Failure, producer: IBodyProducer) -> None:
        if self._sending is producer:
            self._break("the request's body could not be read", heard=True)

    def pause(self) -> None:
        """Read no more for now."""
        self._paused = True
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Read on."""
        self._paused = False
        self.transport.resumeProducing()

    def abort(self) -> None:
        """
        Close the connection at once: the backend shall stop working on the
        request.  The exchange is told nothing more.
        """
        if self._exchange is not None:
            self._exchange.connection = None
            self._exchange = None
        self._stop_sending()
        self._backend.connection_lost(self)
        self.transport.abortConnection()

    def close(self) -> None:
        """It is idle: close it."""
        self.transport.loseConnection()

    # ------------------------------------------------------------ IProtocol

    def makeConnection(self, transport: ITransport) -> None:
        self.transport = cast(Connection, transport)
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        if ISystemHandle.providedBy(transport):
            # A request goes straight to the socket as long as nothing is
            # queued in the transport: that saves two trips through the poller.
            self._send = self.transport.getHandle().send
        self._backend.connection_made(self)

    def connectionMade(self) -> None:
        """Of L{IProtocol}; L{makeConnection} does it all."""

    def dataReceived(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            # Nothing was asked.
            self._backend.connection_lost(self)
            self.transport.abortConnection()
            return
        extra = False
        try:
            self._feed(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if self._to_end and not (exchange.is_head and self._status):
                self._break(_reason(error), heard=True)
                return
            extra = True
        pieces = self._pieces
        if self._replying:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            if not self._to_end:
                self._over(exchange, extra)
                exchange.received(data, True)
            elif data:
                exchange.received(data, False)
        elif self._status:
            self._reply_began(exchange, data, extra)
        else:
            self._partial += data
            if len(self._partial) > _MAX_HEAD:
                self._break("the head of the backend's reply is too long", heard=True)

    def _reply_began(self, exchange: IExchange, data: bytes, extra: bool) -> None:
        if self._partial:
            data = self._partial + data
            self._partial = b""
        begin = 0
        end = data.find(_HEAD_END)
        if end < _SHORTEST_HEAD or self._interim:
            begin, end = _last_head(data, self._interim)
        came = data[begin:end]
        is_head = exchange.is_head
        heads = self._backend.heads
        head = None if is_head else heads.get(came)
        if head is None:
            try:
                head = ReplyHead(came, self._status, is_head, self._keeps_alive)
            except BadReply as error:
                self._break(str(error), heard=True)
                return
            if not is_head and len(came) <= _MEMORABLE:
                if len(heads) >= _MOST_HEADS:
                    heads.clear()
                heads[came] = head
        pieces = self._pieces
        framing = head.framing
        if framing is _NO_BODY:
            if is_head:
                # llhttp expects a body that will not come.
                extra = extra or end + len(_HEAD_END) != len(data)
                self._to_end.clear()
                self._new_parser()
            data = b""
        else:
            self._until_close = framing is _UNTIL_CLOSE
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._to_end:
            self._replying = True
            exchange.replied(head, data, False)
        else:
            self._over(exchange, extra)
            exchange.replied(head, data, True)

    def _over(self, exchange: IExchange, extra: bool) -> None:
        """The reply is whole: wait for another exchange, or close."""
        self._exchange = None
        exchange.connection = None
        self._replying = False
        self._status = 0
        if self._keeps_alive and not extra and self._sending is None:
            if self._paused:
                self.resume()
            self._interim = 0
            self.reused = True
            self._backend.connection_freed(self)
            return
        self._backend.connection_lost(self)
        if self._sending is None:
            self.transport.loseConnection()
        else:
            # It replied without waiting for the whole request.
            self._stop_sending()
            self.transport.abortConnection()

    def _break(self, reason: str, heard: bool) -> None:
        """Give the exchange up."""
        exchange = self._exchange
        self.abort()
        if exchange is not None:
            exchange.failed(reason, heard)

    def _stop_sending(self) -> None:
        sending = self._sending
        if sending is not None:
            self._sending = None
            self.transport.unregisterProducer()
            sending.stopProducing()

    def connectionLost(self, reason: Failure) -> None:
        exchange = self._exchange
        self._exchange = None
        self._backend.connection_lost(self)
        # The parser and this hold each other.
        del self._parser, self._feed
        self._send = None
        # The transport has stopped the producer, if there was one.
        self._sending = None
        if exchange is None:
            return
        exchange.connection = None
        if self._replying:
            if self._until_close and reason.check(ConnectionDone):
                exchange.received(b"", True)
            else:
                exchange.failed("the backend closed the connection in mid-reply", True)
        elif self._partial:
            exchange.failed("the backend closed the connection in mid-reply", True)
        elif self.reused and self._may_repeat(exchange):
            self._backend.begin_anew(exchange)
        else:
            exchange.failed("the backend closed the connection without a reply", False)

    def _may_repeat(self, exchange: IExchange) -> bool:
        if exchange.repeats is Repeats.IF_UNSEEN:
            return self._backend.seconds() - self._began < _IDLE_CLOSE
        return exchange.repeats is Repeats.ALWAYS


def _last_head(data: bytes, interim: int) -> tuple[int, int]:
    """Where the head after C{interim} others begins and ends; llhttp has accepted them."""
    end = -len(_HEAD_END)
    for _ in range(interim + 1):
        begin = end + len(_HEAD_END)
        # llhttp lets empty lines pass in front of a status line.
        while data[begin : begin + 1] in (b"\r", b"\n"):
            begin += 1
        end = data.index(_HEAD_END, begin)
    return begin, end


def _reason(error: Exception) -> str:
    if isinstance(error.__context__, BadReply):
        return str(error.__context__)
    return "the backend sent an invalid reply"

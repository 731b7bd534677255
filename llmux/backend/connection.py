"""This module has the connection to a backend, which carries one exchange after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

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
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from llmux.backend.connection_phase import ConnectionPhase
from llmux.backend.exchange import IExchange, IExchangeConnection
from llmux.backend.reply import BadReply, Framing, ReplyHead
from llmux.backend.template import Repeats

__all__ = ["BackendConnection", "ConnectionOwner"]

_MAX_HEAD = 128 * 1024
_SLICE = 256 * 1024
_HEAD_END = b"\r\n\r\n"
_SHORTEST_HEAD = len(b"HTTP/1.1 200")
_NO_BODY = Framing.NONE
_UNTIL_CLOSE = Framing.UNTIL_CLOSE
_IDLE = ConnectionPhase.IDLE
_ASKING = ConnectionPhase.ASKING
_REPLYING = ConnectionPhase.REPLYING
_CLOSED = ConnectionPhase.CLOSED
_MEMORABLE = 1024
"""The parsed head of a reply is kept if the head has at most so many bytes."""
_MOST_HEADS = 256
"""At most so many parsed heads are kept."""
_IDLE_CLOSE = 1.0
"""
A connection may have been closed because it was idle if it was closed within this many seconds
after a request was sent on it.  Such a close, just when the request goes out, shows within one
round trip.  A backend that closes later has more likely died of the request, which must not be
sent twice.
"""


class ConnectionOwner(Protocol):
    """
    A connection calls its owner, which made the connection and keeps it.

    @ivar seconds: a function that returns the time, in seconds.
    @ivar reply_heads: see L{Backend<llmux.backend.pool.Backend>}.
    @ivar generation: a connection of another generation is outdated: a request that
        is lost on it must not be repeated.
    """

    seconds: Callable[[], float]
    reply_heads: dict[bytes, ReplyHead]
    generation: int

    def connection_made(self, connection: BackendConnection) -> None:
        """Take a new connection, which is idle."""

    def connection_freed(self, connection: BackendConnection) -> None:
        """Take a connection back whose exchange is over, and which is idle."""

    def connection_lost(self, connection: BackendConnection) -> None:
        """
        Forget a connection, which will carry nothing any more.  This method may be called
        repeatedly.
        """

    def begin_anew(self, exchange: IExchange) -> None:
        """
        Carry this exchange on a new connection, because its connection had been used before,
        and was closed without a byte of a reply.
        """


_log = Logger()


@implementer(IPullProducer)
class _UnsentPart:
    """This producer gives the unsent part of a request to the transport slice by slice."""

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

    def send_all(self) -> None:
        """
        Give all that is left to the transport, because something else will be sent after it.
        """
        transport = self._connection.transport
        transport.unregisterProducer()
        if self._sent < len(self._data):
            transport.write(self._data[self._sent :])

    def stopProducing(self) -> None:
        """
        Do nothing, because the transport is lost; the connection learns that by
        C{connectionLost}.
        """


@implementer(IProtocol, IExchangeConnection)
class BackendConnection:
    """
    A L{BackendConnection} is a client of HTTP/1.1 on llhttp, which carries at most one exchange
    at a time.

    The parser's callbacks are methods of lists: C{_may_begin} holds an item for each message
    that may begin (so that bytes after the reply make the parser fail), C{_to_end} an item for
    each message that has yet to end, C{_pieces} the decoded body.  Nothing else is called while
    the parser runs.

    @ivar phase: where the connection stands; L{llmux.backend.connection_phase} has
        the table.  C{_exchange} is set in ASKING and REPLYING, and in no other phase.
    @ivar reused: whether the connection has carried an exchange before the present one.
    @ivar idle_epoch: a number by which the owner notes when the connection became idle.
    @ivar generation: the owner's generation when the connection was made.
    """

    __slots__ = (
        "_began",
        "_exchange",
        "_feed",
        "_interim",
        "_keeps_alive",
        "_may_begin",
        "_owner",
        "_parser",
        "_partial",
        "_paused",
        "_pieces",
        "_send",
        "_sending",
        "_status",
        "_to_end",
        "_until_close",
        "generation",
        "idle_epoch",
        "phase",
        "reused",
        "transport",
    )

    transport: Connection

    def __init__(self, owner: ConnectionOwner) -> None:
        self._owner = owner
        self.phase = _IDLE
        self._exchange: IExchange | None = None
        self._may_begin: list[None] = []
        self._to_end: list[None] = []
        self._pieces: list[bytes] = []
        self._sending: _UnsentPart | IBodyProducer | None = None
        self._send: Callable[[bytes], int] | None = None
        self._partial = b""
        self._interim = 0
        self._status = 0
        self._began = 0.0
        self._keeps_alive = False
        self._paused = False
        self._until_close = False
        self.generation = owner.generation
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
        """Carry this exchange.  The connection must be idle."""
        self.phase = _ASKING
        self._exchange = exchange
        self._may_begin.append(None)
        self._to_end.append(None)
        seconds = self._owner.seconds
        self._began = seconds()
        exchange.connection = self
        try:
            data, body = exchange.to_send()
            self._write(data)
            if body is not None:
                self._write_body(body)
        except Exception:
            # Whatever went wrong, the exchange must end, and a connection with half of a
            # request must not be used again.
            _log.failure("a defect while a request was sent to a backend")
            if self._exchange is exchange:
                self._break("internal error")

    def _write(self, data: bytes) -> None:
        sent = 0
        write = self._send
        if write is not None:
            try:
                sent = write(data)
            except OSError:
                # The socket is full, or the connection is lost; the transport will find out
                # which.
                sent = 0
            if sent == len(data):
                return
        elif len(data) <= _SLICE:
            self.transport.write(data)
            return
        self._sending = rest = _UnsentPart(self, data, sent)
        self.transport.registerProducer(rest, False)

    def _write_body(self, producer: IBodyProducer) -> None:
        # From now on the transport may hold bytes that we do not know of, so later bytes must
        # go through the transport too.
        self._send = None
        if isinstance(self._sending, _UnsentPart):
            # The socket has not taken the whole head, because it was full of an earlier body
            # that the backend had answered without reading it.
            self._sending.send_all()
        self._sending = producer
        self.transport.registerProducer(producer, True)
        try:
            sent = producer.startProducing(self.transport)
        except (OSError, ValueError):
            # For instance, no descriptor was left to open the body with.  The head has been
            # sent, so the backend would answer it in the next exchange of this connection.
            self._break("the request's body could not be read")
            return
        sent.addCallbacks(
            self._body_sent,
            self._body_failed,
            callbackArgs=(producer,),
            errbackArgs=(producer,),
        )

    def rest_sent(self) -> None:
        """Note that the transport has sent what the socket had not taken at once."""
        self._sending = None

    def _body_sent(self, result: object, producer: IBodyProducer) -> None:
        if self._sending is producer:
            self._sending = None
            self.transport.unregisterProducer()

    def _body_failed(self, failure: Failure, producer: IBodyProducer) -> None:
        if self._sending is producer:
            self._break("the request's body could not be read")

    def pause(self) -> None:
        """See L{IExchangeConnection.pause}."""
        self._paused = True
        self.transport.pauseProducing()

    def resume(self) -> None:
        """See L{IExchangeConnection.resume}."""
        self._paused = False
        self.transport.resumeProducing()

    def abort(self) -> None:
        """See L{IExchangeConnection.abort}."""
        self.phase = _CLOSED
        if self._exchange is not None:
            self._exchange.connection = None
            self._exchange = None
        self._stop_sending()
        self._owner.connection_lost(self)
        self.transport.abortConnection()

    def close(self) -> None:
        """Close the connection, which must be idle."""
        self.phase = _CLOSED
        self.transport.loseConnection()

    # ------------------------------------------------------------ IProtocol

    def makeConnection(self, transport: ITransport) -> None:
        """See L{IProtocol.makeConnection}."""
        self.transport = cast(Connection, transport)
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        if ISystemHandle.providedBy(transport):
            # A request is written directly to the socket as long as nothing is queued in the
            # transport, which saves two rounds of the poller.
            self._send = self.transport.getHandle().send
        self._owner.connection_made(self)

    def connectionMade(self) -> None:
        """See L{IProtocol.connectionMade}; L{makeConnection} does all the work."""

    def dataReceived(self, data: bytes) -> None:
        """See L{IProtocol.dataReceived}."""
        exchange = self._exchange
        if exchange is None:
            # No exchange has asked for these bytes, and what comes next could not be told from
            # a reply.
            self.abort()
            return
        extra = False
        feed = self._feed
        try:
            feed(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if self._to_end and not (exchange.is_head and self._status):
                self._break(_reason(error))
                return
            extra = True
        pieces = self._pieces
        if self.phase is _REPLYING:
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
                self._break("the head of the backend's reply is too long")

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
        heads = self._owner.reply_heads
        head = None if is_head else heads.get(came)
        if head is None:
            try:
                head = ReplyHead(came, self._status, is_head, self._keeps_alive)
            except BadReply as error:
                self._break(str(error))
                return
            if not is_head and len(came) <= _MEMORABLE:
                if len(heads) >= _MOST_HEADS:
                    heads.clear()
                heads[came] = head
        pieces = self._pieces
        framing = head.framing
        if framing is _NO_BODY:
            extra = extra or head.is_ambiguous
            if is_head:
                # After a reply to HEAD llhttp expects a body, which will not come.
                extra = extra or end + len(_HEAD_END) != len(data)
                self._to_end.clear()
                self._new_parser()
            data = b""
        else:
            self._until_close = framing is _UNTIL_CLOSE
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._to_end:
            self.phase = _REPLYING
            exchange.replied(head, data, False)
        else:
            self._over(exchange, extra)
            exchange.replied(head, data, True)

    def _over(self, exchange: IExchange, extra: bool) -> None:
        """
        Wait for another exchange, or close, because the reply is complete.

        @param extra: whether more bytes than the reply have come, or may come.
        """
        self._exchange = None
        exchange.connection = None
        self._status = 0
        if self._keeps_alive and not extra and self._sending is None:
            if self._paused:
                self.resume()
            self._interim = 0
            self.reused = True
            self.phase = _IDLE
            self._owner.connection_freed(self)
            return
        self.phase = _CLOSED
        self._owner.connection_lost(self)
        if self._sending is None:
            self.transport.loseConnection()
        else:
            # The backend replied without waiting for the whole request.
            self._stop_sending()
            self.transport.abortConnection()

    def _break(self, reason: str) -> None:
        """Give up the exchange, for a reason that does not mean that the backend has died."""
        exchange = self._exchange
        self.abort()
        if exchange is not None:
            exchange.failed(reason, backend_in_doubt=False)

    def _stop_sending(self) -> None:
        sending = self._sending
        if sending is not None:
            self._sending = None
            self.transport.unregisterProducer()
            sending.stopProducing()

    def connectionLost(self, reason: Failure) -> None:
        """See L{IProtocol.connectionLost}."""
        exchange = self._exchange
        replying = self.phase is _REPLYING
        self.phase = _CLOSED
        self._exchange = None
        self._owner.connection_lost(self)
        # The parser and the connection refer to each other, which only a garbage collection
        # would end.
        del self._parser, self._feed
        self._send = None
        # The transport has stopped the producer, if there was one.
        self._sending = None
        if exchange is None:
            return
        exchange.connection = None
        if replying and self._until_close and reason.check(ConnectionDone):
            exchange.received(b"", True)
        elif replying or self._partial:
            exchange.failed(
                "the backend closed the connection in mid-reply", backend_in_doubt=False
            )
        elif self._may_repeat(exchange):
            self._owner.begin_anew(exchange)
        else:
            exchange.failed(
                "the backend closed the connection without a reply", backend_in_doubt=True
            )

    def _may_repeat(self, exchange: IExchange) -> bool:
        """
        Tell whether the backend has closed the connection because it was idle, as far as can be
        known.
        """
        owner = self._owner
        if not self.reused or self.generation != owner.generation:
            # A new connection was never idle.  A connection of an earlier generation was closed
            # because its model is going to sleep, and must not get the request again.
            return False
        if exchange.repeats is Repeats.IF_UNSEEN:
            return owner.seconds() - self._began < _IDLE_CLOSE
        return exchange.repeats is Repeats.ALWAYS


def _last_head(data: bytes, interim: int) -> tuple[int, int]:
    """
    Return where the head after C{interim} others begins and ends; llhttp has accepted all of
    them.
    """
    end = -len(_HEAD_END)
    for _ in range(interim + 1):
        begin = end + len(_HEAD_END)
        # llhttp accepts empty lines before a status line.
        while data[begin : begin + 1] in (b"\r", b"\n"):
            begin += 1
        end = data.index(_HEAD_END, begin)
    return begin, end


def _reason(error: Exception) -> str:
    """Return the text for a client about a reply that llhttp does not accept."""
    if isinstance(error.__context__, BadReply):
        return str(error.__context__)
    return "the backend sent an invalid reply"

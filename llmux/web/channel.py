"""
The server's side of a client's connection: requests in by llhttp, replies out
either through twisted.web's Request or as the very bytes that go out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import (
    IProtocol,
    IPushProducer,
    ITCPTransport,
    ITransport,
)
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from zope.interface import implementer

from llmux.web.body import RequestBody
from llmux.web.error_reply import ApiError, raw_reply
from llmux.web.reader import Item, Refusal, RequestReader
from llmux.web.reply_channel import IReplyChannel
from llmux.web.request import LlmuxRequest
from llmux.web.request_head import RequestHead
from llmux.web.transport import RequestTransport, unsent

if TYPE_CHECKING:
    from llmux.web.site import LlmuxSite

__all__ = ["LlhttpChannel"]

_READ_AHEAD = 64 * 1024
"""Bytes taken from a client that sends requests before it has its replies."""

_MOST_QUEUED = 16
"""Requests likewise."""

_LINGER = 30.0
"""
Seconds for which a client that has been refused may go on sending: closed at
once, its own bytes on the way would make its kernel drop our reply unread.
"""

_LINGER_QUIET = 5.0
"""Seconds of silence from it that end this."""


_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@implementer(IProtocol, IReplyChannel, IPushProducer)
class LlhttpChannel(RequestTransport):
    """
    One client's connection.  To the requests it makes it is what
    L{twisted.web.http.HTTPChannel} is.

    """

    __slots__ = (
        "_ahead",
        "_alone",
        "_closing",
        "_current",
        "_head_since",
        "_heads",
        "_lingers_until",
        "_max_body",
        "_paused",
        "_pumping",
        "_queue",
        "_reader",
        "_ready",
        "_send",
        "_since",
        "_touched",
        "_unsent_before",
        "site",
    )

    def __init__(self, site: LlmuxSite) -> None:
        self.site = site
        super().__init__()
        self._heads = site.heads
        self._max_body = site.limits.body
        # The request being answered, and those read after it.
        self._current: LlmuxRequest | None = None
        self._queue: list[Item] = []
        self._reader = RequestReader(self._queue, site.limits, site.heads)
        # Nothing is being read, answered or queued: the next byte begins a request.
        self._ready = True
        # The present request came whole, and nothing has happened since.
        self._alone = False
        self._closing = False
        self._lingers_until: float | None = None
        # Bytes read while they could not be answered; whether that has stopped the reading.
        self._ahead = 0
        self._paused = False
        self._pumping = False
        self._send: Callable[[bytes], int] | None = None
        # For the sweep: something has happened; when that was noticed.
        self._touched = True
        # Since when the sweep has seen a head that is not whole.
        self._head_since: float | None = None
        self._since = 0.0
        self._unsent_before = 0

    # ------------------------------------------------------------- protocol

    @property
    def factory(self) -> LlmuxSite:
        """What Requests ask for, to log."""
        return self.site

    def logPrefix(self) -> str:
        """See L{ILoggingContext.logPrefix}."""
        return "LlhttpChannel"

    def makeConnection(self, transport: ITransport) -> None:
        """See L{IProtocol.makeConnection}."""
        self.transport = transport
        self.connectionMade()

    def connectionMade(self) -> None:
        """See L{IProtocol.connectionMade}."""
        transport = self.transport
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        if isinstance(transport, Connection) and not transport.TLS:
            self._send = transport.socket.send
        transport.registerProducer(self, True)
        self.site.opened(self)

    def dataReceived(self, data: bytes) -> None:
        """See L{IProtocol.dataReceived}."""
        self._touched = True
        if self._ready:
            found = self._heads.whole_request(data)
            if found is not None:
                head, body = found
                if len(body) <= self._max_body:
                    self._ready = False
                    self._alone = True
                    self._start(head, RequestBody(body))
                    return
        if self._closing:
            return
        self._alone = False
        if self._current is not None or self._full:
            self._ahead += len(data)
        self._ready = False
        self._reader.feed(data)
        self._pump()

    def connectionLost(self, reason: Failure) -> None:
        """See L{IProtocol.connectionLost}."""
        self._send = None
        self._ready = False
        self._closing = True
        self.site.lost(self)
        self._reader.close()
        self._drop_queue()
        self.stopProducing()
        request, self._current = self._current, None
        if request is not None:
            request.connectionLost(reason)

    def _drop_queue(self) -> None:
        for item in self._queue:
            if not isinstance(item, Refusal):
                item[1].close()
        self._queue.clear()

    # -------------------------------------------------- requests, in order

    def _start(self, head: RequestHead, body: RequestBody) -> None:
        site = self.site
        self._head_since = None
        self.keeps_alive = head.keep_alive and not site.stopping
        self.client_is_http_1_0 = head.is_http_1_0
        request = self._current = site.request_factory(self, head, body)
        request.process()

    def _pump(self) -> None:
        """Go on with what has been read, and with reading, as far as may be."""
        if self._pumping:
            return
        self._pumping = True
        queue = self._queue
        while queue and self._current is None and not (self._full or self._closing):
            item = queue.pop(0)
            if isinstance(item, Refusal):
                self._refuse(
                    ApiError(item.status, item.message, item.code), with_body=not item.is_head
                )
            else:
                self._start(*item)
        self._pumping = False
        if self._closing:
            return
        busy = self._current is not None or self._full
        if not queue:
            if not busy:
                self._ahead = 0
                self._ready = not self._reader.in_message
            if self._reader.expecting and self._current is None:
                self._reader.expecting = False
                self.write_reply(_CONTINUE)
        too_much = busy and (self._ahead > _READ_AHEAD or len(queue) > _MOST_QUEUED)
        if too_much != self._paused:
            self._paused = too_much
            if too_much:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    def _reply_over(self) -> None:
        """The present request has been answered."""
        self._current = None
        self._producer = None
        self._touched = True
        if not self.keeps_alive:
            self._close()
        elif self._alone:
            self._ready = True
        else:
            self._pump()

    def _refuse(self, error: ApiError, *, with_body: bool = True) -> None:
        """Answer what is no request, and close once the client can have read it."""
        self.write_reply(raw_reply(error, with_body=with_body))
        self._reader.close()
        self._drop_queue()
        self._closing = True
        self._ready = False
        self._touched = True
        self._lingers_until = self.site.clock.seconds() + _LINGER
        if self._paused:
            self._paused = False
            self.transport.resumeProducing()
        if self._send is not None:
            # Our side ends, so that the client sees the end of the reply.
            self.transport.unregisterProducer()
            self.transport.loseWriteConnection()

    def _close(self) -> None:
        self._closing = True
        self._ready = False
        self._reader.close()
        self._drop_queue()
        transport = self.transport
        transport.unregisterProducer()
        transport.loseConnection()
        if not (
            isinstance(transport, Connection) or getattr(transport, "_appSendBuffer", True)
        ):
            # TLS: a client that reads nothing now must not keep the connection open by
            # owing us its close_notify, for which nobody need wait (RFC 8446 6.1).
            transport.transport.loseConnection()

    # -------------------------------------------------- as time goes by

    def look(self, now: float) -> None:
        """Close the connection if nothing has happened on it for too long."""
        if self._touched:
            self._touched = False
            self._since = now
        quiet = now - self._since
        site = self.site
        if self._lingers_until is not None:
            if quiet >= _LINGER_QUIET or now >= self._lingers_until:
                self.abortConnection()
        elif self._current is not None:
            return
        elif self._reader.in_message and not self._paused:
            # A byte now and then keeps a body alive, which may be large, but not a head.
            if not self._reader.in_head:
                self._head_since = None
            elif self._head_since is None:
                self._head_since = now
            slow = self._head_since is not None and now - self._head_since >= site.read_timeout
            if slow or quiet >= site.read_timeout:
                self._refuse(
                    ApiError(
                        408, f"The request did not arrive: {site.read_timeout:g} s passed."
                    )
                )
        elif quiet >= site.idle_timeout:
            unsent = self.unsent()
            if not unsent:
                self._close()
            elif unsent == self._unsent_before:
                self.abortConnection()
            self._unsent_before = unsent
            self._since = now

    def stop(self) -> None:
        """Take no further request: close now if idle, else with the present reply."""
        self.keeps_alive = False
        if self._current is None and not self._reader.in_message and not self._closing:
            self._close()

    # -------------------------------------------------- IReplyChannel

    def begin_reply(self, request: Any, producer: IPushProducer) -> None:
        """See L{IReplyChannel.begin_reply}."""
        self._producer = producer
        request.startedWriting = 1
        if self._full:
            producer.pauseProducing()

    def write_reply(self, data: bytes) -> None:
        """See L{IReplyChannel.write_reply}."""
        transport = self.transport
        if self._send is None or transport.dataBuffer or transport._tempDataBuffer:
            transport.write(data)
            return
        try:
            sent = self._send(data)
        except OSError:
            # Either it would block, or the reactor will find out why not.
            sent = 0
        if sent != len(data):
            transport.write(data[sent:])

    def unsent(self) -> int:
        """See L{IReplyChannel.unsent}."""
        return unsent(self.transport)

    def end_reply(self, request: Any) -> None:
        """See L{IReplyChannel.end_reply}."""
        request.finished = 1
        if request.touched or request.body.file is not None:
            request.let_go(None)
        if self._alone and self.keeps_alive:
            self._current = self._producer = None
            self._ready = self._touched = True
        else:
            self._reply_over()

    def abort_reply(self, request: IRequest) -> None:
        """See L{IReplyChannel.abort_reply}."""
        self._producer = None
        self.abortConnection()

    # ------------------------------- what twisted.web's Requests ask for

    def requestDone(self, request: LlmuxRequest) -> None:
        """The Request has been finished."""
        self._reply_over()

    def loseConnection(self) -> None:
        """Close once what has been written is out."""
        if not self._closing:
            self._close()

    def abortConnection(self) -> None:
        """Close at once, uncleanly."""
        self._closing = True
        self._ready = False
        self.transport.abortConnection()

    # -------------------------------------------------- IPushProducer

    def pauseProducing(self) -> None:
        """The transport has enough for now."""
        self._full = True
        self._alone = False
        if self._producer is not None:
            self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        """The transport takes more."""
        self._full = False
        if self._producer is not None:
            self._producer.resumeProducing()
        elif self._current is None:
            self._pump()

    def stopProducing(self) -> None:
        """The transport takes no more, ever."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()

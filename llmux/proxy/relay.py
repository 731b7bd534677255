"""This module passes a request to its backend, and the reply back to the client."""

from __future__ import annotations

from typing import cast

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.web.iweb import IBodyProducer
from twisted.web.server import Request
from zope.interface import implementer

from llmux.backend.exchange import IExchange, IExchangeConnection
from llmux.backend.pool import Backend
from llmux.backend.reply import ReplyHead, fields_of, reason_of
from llmux.backend.template import Repeats, RequestTemplate
from llmux.proxy.guarded import ITurn
from llmux.proxy.refusals import backend_error, cut_short
from llmux.proxy.stalls import Stalls, bytes_in_socket
from llmux.web.reply_channel import IReplyChannel
from llmux.web.transport import unsent

__all__ = ["ChannelRelay", "Relay", "RequestRelay"]

_LAST_CHUNK = b"0\r\n\r\n"
_SIZE_LINES = [b"%x\r\n" % size for size in range(4096)]
_LAST_EVENT = b"data: [DONE]"
"""A client of OpenAI's API reads nothing after this event of a stream."""


@implementer(IExchange, IPushProducer)
class Relay:
    """
    A relay is one turn at a backend.  Subclasses know how to write to the client.

    The turn is ended as soon as the backend has done its part, even if the client
    is still reading.  Before that the exchange may be ended by the client's
    departure, by the switcher, by a time limit, or because the client has stalled.

    @ivar answering: whether a reply has begun.  C{_latest} is then the last piece of its body.
    @ivar blocked: whether the relay waits for the client to take what has come.
    """

    __slots__ = (
        "_backend",
        "_first_byte_limit",
        "_latest",
        "_stalls",
        "_template",
        "answering",
        "blocked",
        "connection",
        "is_head",
        "repeats",
        "turn",
    )

    _latest: bytes

    def __init__(
        self, stalls: Stalls, turn: ITurn, backend: Backend, template: RequestTemplate
    ) -> None:
        self.turn = turn
        self.connection: IExchangeConnection | None = None
        self.is_head = template.is_head
        self.repeats = Repeats.NEVER if turn.begun_anew else template.repeats
        self.answering = False
        self.blocked = False
        self._stalls = stalls
        self._backend = backend
        self._template = template
        self._first_byte_limit: IDelayedCall | None = None

    def limit_first_byte(self, clock: IReactorTime, seconds: float) -> None:
        """End the exchange if the backend's reply has not begun after this many seconds."""
        self._first_byte_limit = clock.callLater(seconds, self._no_first_byte, seconds)

    def start(self) -> None:
        """Send the request to the backend."""
        turn = self.turn
        turn.caller.departed = self.client_left
        turn.guard.on_abort = self.aborted
        self._backend.begin(self)

    @property
    def model(self) -> str:
        """See L{BlockedExchange<llmux.proxy.stalls.BlockedExchange>}."""
        return self.turn.model

    # --------------------------------------------- what a subclass writes

    def cut_off(self) -> None:
        """Close the client's connection, so that no reply looks complete."""
        raise NotImplementedError

    def unsent(self) -> int:
        """See L{BlockedExchange<llmux.proxy.stalls.BlockedExchange>}."""
        transport = cast(Request, self.turn.request).transport
        return unsent(transport) + bytes_in_socket(transport)

    # ------------------------------------------------------- IExchange

    def to_send(self) -> tuple[bytes, IBodyProducer | None]:
        """See L{IExchange.to_send}."""
        body = self.turn.caller.body
        head = self._template.render(self._backend.host_header, body.length)
        data = body.in_memory()
        if data is not None:
            return (head + data if data else head), None
        return head, body.as_producer()

    def begun_anew(self) -> None:
        """See L{IExchange.begun_anew}."""
        self.turn.begun_anew = True
        self.repeats = Repeats.NEVER

    def replied(self, head: ReplyHead, data: bytes, ended: bool) -> None:
        """
        See L{IExchange.replied}.  Subclasses write the head, and the body as far
        as it has come.
        """
        self.answering = True
        self._latest = data
        if self._first_byte_limit is not None:
            self._stop_first_byte_limit()
        turn = self.turn
        turn.size = len(data)
        turn.reply_began(head.status)
        if head.status >= 500:
            turn.backend_in_doubt()

    def received(self, data: bytes, ended: bool) -> None:
        """See L{IExchange.received}."""
        raise NotImplementedError

    def failed(self, reason: str, *, backend_in_doubt: bool) -> None:
        """See L{IExchange.failed}."""
        self._stop_first_byte_limit()
        turn = self.turn
        if self.answering:
            self._unblock()
            turn.cut_short(reason)
            self.cut_off()
        elif backend_in_doubt:
            turn.unanswered(reason)
        else:
            turn.refuse(backend_error(reason))

    # ------------------------------------------------- ends from elsewhere

    def hang_up(self) -> None:
        """Abort the exchange with the backend."""
        self._stop_first_byte_limit()
        connection = self.connection
        if connection is not None:
            connection.abort()
        else:
            self._backend.withdraw(self)

    def aborted(self, reason: str) -> None:
        """See L{InFlightGuard.on_abort<llmux.switching.facts.model.InFlightGuard>}."""
        turn = self.turn
        self.hang_up()
        if self.answering:
            self._unblock()
            turn.end(answered=False, outcome="cut_off")
            self.cut_off()
        elif turn.guard.may_wait_again:
            turn.unanswered(reason)
        else:
            turn.refuse(cut_short(reason))

    def client_left(self) -> None:
        """
        Abort the exchange, because the client has left, so that the backend stops working at
        once.
        """
        self.hang_up()
        self._unblock()
        # Clients of event streams close the connection after the last event, which comes before
        # the last chunk.
        whole = self.answering and self._latest.rstrip().endswith(_LAST_EVENT)
        self.turn.end(answered=whole)

    def _no_first_byte(self, seconds: float) -> None:
        self._first_byte_limit = None
        self.hang_up()
        self.turn.unanswered(f"it did not begin its reply within {seconds:g} s")

    def _stop_first_byte_limit(self) -> None:
        limit, self._first_byte_limit = self._first_byte_limit, None
        if limit is not None:
            limit.cancel()

    # --------------------------------------------------- IPushProducer

    def pauseProducing(self) -> None:
        """Read nothing more from the backend, because the client does not keep up."""
        connection = self.connection
        if connection is not None:
            connection.pause()
            self.blocked = True
            self._stalls.watch(self)

    def resumeProducing(self) -> None:
        """Read from the backend again, because the client keeps up again."""
        self._unblock()
        connection = self.connection
        if connection is not None:
            connection.resume()

    def stopProducing(self) -> None:
        """Abort the exchange, because the client has left before the end of the reply."""
        self.client_left()

    def _unblock(self) -> None:
        """Note that the client no longer delays anything."""
        if self.blocked:
            self.blocked = False
            self._stalls.unwatch(self)


class ChannelRelay(Relay):
    """
    This relay is for a client on our own channel; the bytes of the reply are written directly.
    """

    __slots__ = ("_channel", "_chunked")

    _channel: IReplyChannel

    def start(self) -> None:
        """Send the request to the backend."""
        turn = self.turn
        caller = turn.caller
        channel = caller.channel
        assert channel is not None
        self._channel = channel
        self._chunked = False
        caller.departed = self.client_left
        turn.guard.on_abort = self.aborted
        self._backend.begin(self)

    def replied(self, head: ReplyHead, data: bytes, ended: bool) -> None:
        """See L{IExchange.replied}."""
        # This repeats the base class' method, because a call would cost time for each request.
        self.answering = True
        self._latest = data
        if self._first_byte_limit is not None:
            self._stop_first_byte_limit()
        turn = self.turn
        turn.size = len(data)
        turn.reply_began(head.status)
        if head.status >= 500:
            turn.backend_in_doubt()
        channel = self._channel
        start = head.start
        if channel.client_is_http_1_0:
            start = self._start_of_1_0(head)
        else:
            if not channel.keeps_alive:
                start = start[:-2] + b"Connection: close\r\n\r\n"
            if head.needs_chunks:
                self._chunked = True
                data = _chunk(data) + _LAST_CHUNK if ended else _chunk(data)
        channel.begin_reply(turn.request, self)
        channel.write_reply(start + data)
        if ended:
            self._finish()

    def _start_of_1_0(self, head: ReplyHead) -> bytes:
        channel = self._channel
        if head.needs_chunks:
            channel.keeps_alive = False
        if channel.keeps_alive:
            return head.block + b"\r\nConnection: keep-alive\r\n\r\n"
        return head.block + b"\r\n\r\n"

    def received(self, data: bytes, ended: bool) -> None:
        """See L{IExchange.received}."""
        self._latest = data
        turn = self.turn
        size = len(data)
        turn.size += size
        if ended:
            if self._chunked:
                data = _chunk(data) + _LAST_CHUNK
            if data:
                self._channel.write_reply(data)
            self._finish()
        elif not self._chunked:
            self._channel.write_reply(data)
        elif size < 4096:
            self._channel.write_reply(b"".join((_SIZE_LINES[size], data, b"\r\n")))
        else:
            self._channel.write_reply(_chunk(data))

    def _finish(self) -> None:
        if self.blocked:
            self._unblock()
        turn = self.turn
        turn.end()
        self._channel.end_reply(turn.request)

    def cut_off(self) -> None:
        """See L{Relay.cut_off}."""
        self._channel.abort_reply(self.turn.request)


class RequestRelay(Relay):
    """This relay is for a client of any Site, and writes through its Request."""

    __slots__ = ("_request",)

    _request: Request

    def start(self) -> None:
        """Send the request to the backend."""
        self._request = cast(Request, self.turn.request)
        super().start()

    def replied(self, head: ReplyHead, data: bytes, ended: bool) -> None:
        """See L{IExchange.replied}."""
        super().replied(head, data, ended)
        request = self._request
        request.setResponseCode(head.status, reason_of(head.block))
        headers = request.responseHeaders
        # A Request comes with some headers of its own.
        for name in (b"server", b"date"):
            headers.removeHeader(name)
        request.defaultContentType = None
        for name, value in fields_of(head.block):
            headers.addRawHeader(name, value)
        request.registerProducer(self, True)
        # Writing an empty piece sends the head.
        request.write(data)
        if ended:
            self._finish()

    def received(self, data: bytes, ended: bool) -> None:
        """See L{IExchange.received}."""
        self._latest = data
        self.turn.size += len(data)
        if data:
            self._request.write(data)
        if ended:
            self._finish()

    def _finish(self) -> None:
        self._unblock()
        self.turn.end()
        self._request.unregisterProducer()
        self._request.finish()

    def cut_off(self) -> None:
        """See L{Relay.cut_off}."""
        self.turn.caller.cut_off()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""

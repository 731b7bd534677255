"""
A request's way to its backend, and the reply's way back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, ITCPTransport
from twisted.python.failure import Failure
from twisted.web.server import Request
from zope.interface import implementer

from llmux.backend.connection import BackendConnection
from llmux.backend.exchange import IExchange
from llmux.backend.pool import Backend
from llmux.backend.reply import ReplyHead, fields_of, reason_of
from llmux.backend.template import RequestTemplate
from llmux.proxy.guarded import ITurn
from llmux.proxy.refusals import backend_error
from llmux.proxy.stalls import in_socket
from llmux.web.body import RequestBody
from llmux.web.error_reply import ApiError, answer
from llmux.web.reply_channel import IReplyChannel
from llmux.web.request import LlmuxRequest
from llmux.web.transport import unsent

if TYPE_CHECKING:
    from llmux.proxy.resource import ProxyResource

__all__ = ["ChannelRelay", "Relay", "RequestRelay"]

_LAST_CHUNK = b"0\r\n\r\n"
_SIZE_LINES = [b"%x\r\n" % size for size in range(4096)]


@implementer(IExchange, IPushProducer)
class Relay:
    """
    One turn at a backend.  Subclasses know how to write to the client.

    @ivar answering: a reply has begun.
    @ivar blocked: it waits for the client to take what has come.

    The guard is released as soon as the backend has done its part, even if
    the client is still reading; it is the client's departure, the switcher
    or a stalled client that may end the exchange before.
    """

    __slots__ = (
        "_backend",
        "_body",
        "_resource",
        "_template",
        "answering",
        "blocked",
        "connection",
        "is_head",
        "repeats",
        "turn",
    )

    def __init__(
        self,
        resource: ProxyResource,
        turn: ITurn,
        backend: Backend,
        template: RequestTemplate,
        body: RequestBody,
    ) -> None:
        self.turn = turn
        self.connection: BackendConnection | None = None
        self.is_head = template.is_head
        self.repeats = template.repeats
        self.answering = False
        self.blocked = False
        self._resource = resource
        self._backend = backend
        self._template = template
        self._body = body

    def start(self) -> None:
        """Ask the backend."""
        self.turn.guard.on_abort = self.aborted
        self._backend.begin(self)

    # --------------------------------------------- what a subclass writes

    def begin_answer(self, head: ReplyHead, data: bytes, ended: bool) -> None:
        """Write the head, and the body as far as it has come."""
        raise NotImplementedError

    def cut_off(self) -> None:
        """Close the client's connection so that no reply looks complete."""
        raise NotImplementedError

    def forget_client(self) -> None:
        """It will not be written to any more, or by others: break reference cycles."""
        raise NotImplementedError

    def unsent(self) -> int:
        """How many bytes of the reply the client has yet to take, as far as can be seen."""
        transport = cast(Request, self.turn.request).transport
        return unsent(transport) + in_socket(transport)

    # ------------------------------------------------------- IExchange

    def connected(self) -> None:
        """See L{IExchange.connected}."""
        connection = self.connection
        assert connection is not None
        body = self._body
        head = self._template.render(self._backend.host_header, body.length)
        data = body.in_memory()
        if data is not None:
            connection.send(head + data if data else head)
        else:
            connection.send(head)
            connection.send_body(body.as_producer())

    def replied(self, head: ReplyHead, data: bytes, ended: bool) -> None:
        """See L{IExchange.replied}."""
        self.answering = True
        resource = self._resource
        turn = self.turn
        if resource.metrics is not None:
            resource.metrics.request_answered(
                turn.model, head.status, resource.seconds() - turn.started
            )
        self.begin_answer(head, data, ended)

    def received(self, data: bytes, ended: bool) -> None:
        """See L{IExchange.received}."""
        raise NotImplementedError

    def failed(self, reason: str, heard: bool) -> None:
        """See L{IExchange.failed}."""
        turn = self.turn
        if self.answering:
            self.unblock()
            turn.guard.release(answered=False)
            self.cut_off()
        elif heard:
            self.refuse(backend_error(reason))
        else:
            self.forget_client()
            turn.unanswered(reason)

    # ------------------------------------------------- ends from elsewhere

    def refuse(self, error: ApiError) -> None:
        """Answer with an error of our own: nothing has been written yet."""
        turn, resource = self.turn, self._resource
        turn.guard.release(answered=False)
        self.forget_client()
        if resource.metrics is not None:
            resource.metrics.request_answered(
                turn.model, error.status, resource.seconds() - turn.started
            )
        answer(turn.request, error)

    def hang_up(self) -> None:
        """The backend need not go on."""
        connection = self.connection
        if connection is not None:
            connection.abort()
        else:
            self._backend.withdraw(self)

    def aborted(self, reason: str) -> None:
        """See L{InFlightGuard.on_abort<llmux.switching.switcher.InFlightGuard>}."""
        guard = self.turn.guard
        self.hang_up()
        if self.answering:
            self.failed(reason, True)
        elif guard.may_wait_again:
            self.failed(reason, False)
        else:
            self.refuse(ApiError(503, f"The request was cut short: {reason}", "aborted"))

    def client_left(self) -> None:
        """Nobody is interested any more: the backend shall stop working at once."""
        self.hang_up()
        self.unblock()
        self.forget_client()
        self.turn.guard.release(answered=False)

    # --------------------------------------------------- IPushProducer

    def pauseProducing(self) -> None:
        """The client does not keep up."""
        connection = self.connection
        if connection is not None:
            connection.pause()
            self.blocked = True
            self._resource.stalls.watch(self)

    def resumeProducing(self) -> None:
        """It does again."""
        self.unblock()
        connection = self.connection
        if connection is not None:
            connection.resume()

    def stopProducing(self) -> None:
        """The client has left in mid-reply."""
        self.client_left()

    def unblock(self) -> None:
        """The client no longer holds anything up."""
        if self.blocked:
            self.blocked = False
            self._resource.stalls.unwatch(self)


class ChannelRelay(Relay):
    """To a client on our own channel: the bytes of the reply are written as such."""

    __slots__ = ("_channel", "_chunked", "_request")

    _channel: IReplyChannel
    _request: LlmuxRequest

    def start(self) -> None:
        request = self.turn.request
        assert isinstance(request, LlmuxRequest)
        self._request = request
        self._channel = request.channel
        self._chunked = False
        request.departed = self.client_left
        self.turn.guard.on_abort = self.aborted
        self._backend.begin(self)

    def begin_answer(self, head: ReplyHead, data: bytes, ended: bool) -> None:
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
        channel.begin_reply(self._request, self)
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
        if self._chunked:
            size = len(data)
            if size < 4096:
                data = b"".join((_SIZE_LINES[size], data, b"\r\n")) if size else b""
            else:
                data = _chunk(data)
            if ended:
                data += _LAST_CHUNK
        if data:
            self._channel.write_reply(data)
        if ended:
            self._finish()

    def _finish(self) -> None:
        request = self._request
        request.departed = None
        if self.blocked:
            self.unblock()
        self.turn.guard.release()
        self._channel.end_reply(request)

    def cut_off(self) -> None:
        self._request.departed = None
        self._channel.abort_reply(self._request)

    def forget_client(self) -> None:
        self._request.departed = None


class RequestRelay(Relay):
    """To a client of any Site, through its Request."""

    __slots__ = ("_gone", "_request")

    _gone: Deferred[None] | None
    _request: Request

    def start(self) -> None:
        self._request = cast(Request, self.turn.request)
        self._gone = gone = self._request.notifyFinish()
        gone.addCallbacks(_ignored, self._left)
        super().start()

    def _left(self, reason: Failure) -> None:
        if self._gone is not None:
            self.client_left()

    def begin_answer(self, head: ReplyHead, data: bytes, ended: bool) -> None:
        request = self._request
        request.setResponseCode(head.status, reason_of(head.block))
        headers = request.responseHeaders
        # A Request comes with some of its own.
        for name in (b"server", b"date"):
            headers.removeHeader(name)
        request.defaultContentType = None
        for name, value in fields_of(head.block):
            headers.addRawHeader(name, value)
        request.registerProducer(self, True)
        # Even nothing: it sends the head.
        request.write(data)
        if ended:
            self._finish()

    def received(self, data: bytes, ended: bool) -> None:
        if data:
            self._request.write(data)
        if ended:
            self._finish()

    def _finish(self) -> None:
        request = self._request
        self.forget_client()
        self.unblock()
        self.turn.guard.release()
        request.unregisterProducer()
        request.finish()

    def cut_off(self) -> None:
        self.forget_client()
        cast(ITCPTransport, self._request.transport).abortConnection()

    def forget_client(self) -> None:
        if self._gone is not None:
            self._gone = None
            self._body.close()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def _ignored(result: object) -> None:
    pass

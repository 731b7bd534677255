"""
This module has the request of our own channel: a twisted.web Request whose attributes are
computed on first access, so that a proxied request pays only for those that it uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, TypeVar, cast, overload
from urllib.parse import unquote_to_bytes

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProducer
from twisted.python.failure import Failure
from twisted.web.http import (
    RESPONSES,
    _getMultiPartArgs,
    _MultiPartParseException,
    datetimeToString,
    parse_qs,
)
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource, _IEncodingResource
from twisted.web.server import Request
from zope.interface import implementer

from llmux._version import __version__
from llmux.web.body import RequestBody
from llmux.web.caller import ICaller
from llmux.web.error_reply import ApiError, answer
from llmux.web.limits import IN_MEMORY_AT_LEAST
from llmux.web.request_head import RequestHead
from llmux.web.transport import RequestTransport

__all__ = ["SERVER", "LlmuxRequest"]

SERVER = b"llmux/" + __version__.encode("ascii")

_T = TypeVar("_T")


class _Lazy(Generic[_T]):
    """
    An attribute of this kind is made when it is first asked for, and is an ordinary attribute
    from then on. (C{functools.cached_property} takes a lock before 3.12.)
    """

    def __init__(self, make: Callable[[Any], _T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> _Lazy[_T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> _T: ...
    def __get__(self, instance: object, owner: type) -> Any:
        if instance is None:
            return self
        value = self._make(instance)
        attributes: Any = instance.__dict__
        attributes[self._name] = value
        attributes["touched"] = True
        return value


@implementer(ICaller)
class LlmuxRequest(Request):
    """
    An L{LlmuxRequest} is complete: its head and its body have been read.

    @ivar head: the head of the request.
    @ivar body: the body, which is closed when the request is over.
    @ivar touched: whether an attribute has been made. (Looking into C{__dict__} would create
        the dict.)
    @ivar departed: see L{ICaller}; this does what C{notifyFinish} does, at almost no cost.
    """

    departed: Callable[[], None] | None = None

    if TYPE_CHECKING:
        # twisted.web gives these no types.
        def render(self, resrc: IResource) -> None: ...
        def parseCookies(self) -> None: ...
        def registerProducer(self, producer: IProducer, streaming: bool) -> None: ...
        def unregisterProducer(self) -> None: ...
        def setHeader(self, name: bytes | str, value: bytes | str) -> None: ...
        def write(self, data: bytes) -> None: ...
        def finish(self) -> None: ...
        def _handleStar(self) -> None: ...

    touched = False

    # The base class sets these in its __init__.
    queued = False
    _parsePOSTFormSubmission = False

    def __init__(self, channel: RequestTransport, head: RequestHead, body: RequestBody) -> None:
        # The __init__ of the base class is not called, because it makes the attributes that are
        # made below on first access.
        self.channel: Any = channel
        self.head = head
        self.body = body

    # ------------------------------------------------ made when asked for

    method = _Lazy[bytes](lambda self: self.head.method)
    uri = _Lazy[bytes](lambda self: self.head.uri)
    path = _Lazy[bytes](lambda self: self.head.path)
    clientproto = _Lazy[bytes](lambda self: self.head.version)
    raw_headers = _Lazy[list[tuple[bytes, bytes]]](
        lambda self: self.head.headers_for(self.body.length)
    )

    site = _Lazy[Any](lambda self: self.channel.site)
    transport = _Lazy[Any](lambda self: self.channel.transport)
    client = _Lazy[Any](lambda self: self.channel.getPeer())
    host = _Lazy[Any](lambda self: self.channel.getHost())
    notifications = _Lazy[list["Deferred[None]"]](lambda self: [])
    cookies = _Lazy[list[bytes]](lambda self: [])
    sitepath = _Lazy[list[bytes]](lambda self: [])
    # twisted.python.components.Componentized needs this attribute.
    _adapterCache = _Lazy[dict[Any, Any]](lambda self: {})

    @_Lazy
    def requestHeaders(self) -> Headers:
        headers = Headers()
        for name, value in self.raw_headers:
            headers.addRawHeader(name, value)
        return headers

    @_Lazy
    def responseHeaders(self) -> Headers:
        headers = Headers()
        if not self.channel.keeps_alive and not self.head.is_http_1_0:
            headers.setRawHeaders(b"Connection", [b"close"])
        headers.setRawHeaders(b"Server", [SERVER])
        headers.setRawHeaders(b"Date", [datetimeToString()])
        return headers

    @_Lazy
    def received_cookies(self) -> dict[bytes, bytes]:
        # parseCookies both reads and fills this attribute.
        self.__dict__["received_cookies"] = cookies = dict[bytes, bytes]()
        self.parseCookies()
        return cookies

    @_Lazy
    def args(self) -> dict[bytes, list[bytes]]:
        _, found, query = self.head.uri.partition(b"?")
        return parse_qs(query, 1) if found else {}

    @_Lazy
    def content(self) -> BinaryIO:
        return self.body.open()

    @_Lazy
    def prepath(self) -> list[bytes]:
        return self._segments()[: self._depth]

    @_Lazy
    def postpath(self) -> list[bytes]:
        return self._segments()[self._depth :]

    _depth = 0

    def _segments(self) -> list[bytes]:
        return list(map(unquote_to_bytes, self.head.path[1:].split(b"/")))

    # ------------------------------------------------------------- routing

    def process(self) -> None:
        """Find the resource, and have it answer."""
        try:
            route = self.channel.site.routes.get(self.head.path)
            if route is None:
                self._find_and_render()
            else:
                leaf, self._depth = route
                self.render(leaf)
        except BaseException:
            self.processingFailed(Failure())

    def _find_and_render(self) -> None:
        site = self.site
        if site.parse_forms and not self._parse_form():
            return
        self.prepath = []
        self.postpath = self._segments()
        if self.head.path == b"*":
            self._handleStar()
            return
        leaf = site.getResourceFor(self)
        if _IEncodingResource.providedBy(leaf):
            encoder = leaf.getEncoder(self)
            if encoder is not None:
                self._encoder = encoder
        self.render(leaf)

    def _parse_form(self) -> bool:
        """
        Add a form in the body to C{args}, as twisted.web does by default; return False if the
        form is not sound, and the request has been refused.
        """
        content_type = self.head.content_type
        if self.method != b"POST" or content_type is None or not self.body.length:
            return True
        match content_type.partition(b";")[0].strip().lower():
            case b"application/x-www-form-urlencoded":
                self.args.update(parse_qs(self.content.read(), 1))
            case b"multipart/form-data":
                try:
                    self.args.update(_getMultiPartArgs(self.content.read(), content_type))
                except _MultiPartParseException:
                    answer(self, ApiError(400, "The body is not the form that it says it is."))
                    return False
            case _:
                return True
        self.content.seek(0)
        return True

    # ---------------------------------------------------------- ICaller

    def set_body_aside(self) -> None:
        """See L{ICaller.set_body_aside}."""
        if self.body.length > IN_MEMORY_AT_LEAST:
            self.body.spill()

    def replace_body(self, body: RequestBody) -> None:
        """See L{ICaller.replace_body}."""
        self.body = body
        made = self.__dict__
        # Attributes that were made from the old body are removed, and made anew if they are
        # asked for.
        made.pop("raw_headers", None)
        content = made.pop("content", None)
        if content is not None:
            content.close()
        headers = made.get("requestHeaders")
        if headers is not None and headers.hasHeader(b"content-length"):
            headers.setRawHeaders(b"content-length", [b"%d" % body.length])

    def cut_off(self) -> None:
        """See L{ICaller.cut_off}."""
        self.channel.abortConnection()

    # ---------------------------------------------------------- the reply

    def answer_whole(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes
    ) -> None:
        """
        Send a whole reply.  The reply is the same as by C{setHeader}, C{write} and C{finish},
        but takes a fifth of the time; headers that were set before are sent as well.

        @param headers: the headers of the reply, except Content-Length.
        """
        channel = self.channel
        if "responseHeaders" in self.__dict__ or channel is None:
            self.setResponseCode(status)
            for name, value in headers:
                self.setHeader(name, value)
            self.setHeader(b"Content-Length", b"%d" % len(body))
            self.write(body)
            self.finish()
            return
        lines = [
            b"HTTP/1.1 %d %b" % (status, RESPONSES.get(status, b"Unknown Status")),
            b"Server: " + SERVER,
            b"Date: " + datetimeToString(),
        ]
        if self.head.is_http_1_0:
            if channel.keeps_alive:
                lines.append(b"Connection: keep-alive")
        elif not channel.keeps_alive:
            lines.append(b"Connection: close")
        lines += [b"%b: %b" % header for header in headers]
        lines += [b"Content-Length: %d" % len(body), b"", b""]
        reply = b"\r\n".join(lines)
        self.code = status
        self.startedWriting = 1
        channel.write_reply(reply if self.head.method == b"HEAD" else reply + body)
        channel.end_reply(self)

    # ----------------------------------------------------------- the end

    def processingFailed(self, reason: Failure) -> Failure:
        """
        Answer with an error after rendering has raised.  If a reply has begun, the connection
        is aborted, so that the reply does not look complete.
        """
        if self.finished or self._disconnected or self.startedWriting:
            self._log.failure("while answering {request}", reason, request=self)
            if self.startedWriting and not self.finished and not self._disconnected:
                self.channel.abortConnection()
            return reason
        cast(Any, super()).processingFailed(reason)
        return reason

    def let_go(self, reason: Failure | None) -> None:
        """
        Close what has been opened, because the request is over, and call back those who wait
        for that.

        @param reason: why the client has gone; None if it was answered.
        """
        attributes = self.__dict__
        self.body.close()
        if "content" in attributes:
            self.content.close()
        for waiting in attributes.pop("notifications", ()):
            if reason is None:
                waiting.callback(None)
            else:
                waiting.errback(reason)

    def _remember_channel(self) -> None:
        """Make the attributes that cannot be made later without the channel."""
        _ = self.client, self.host, self.site, self.transport

    def _cleanup(self) -> None:
        if self.producer:
            self._log.error("Producer was not unregistered for {uri}", uri=self.uri)
            self.unregisterProducer()
        self._remember_channel()
        self.channel.requestDone(self)
        del self.channel
        self.let_go(None)

    def connectionLost(self, reason: Failure) -> None:
        """End the request, because the client has gone."""
        self._disconnected = True
        if self.departed is not None:
            self.departed()
        self._remember_channel()
        self.channel = None
        self.let_go(reason)

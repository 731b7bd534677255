"""This module has the requests that come through a Site of twisted.web's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, cast

from twisted.internet.interfaces import ITCPTransport
from twisted.python.failure import Failure
from twisted.web.server import Request
from zope.interface import implementer

from llmux.web.body import RequestBody, body_of
from llmux.web.caller import ICaller
from llmux.web.request_head import RequestHead

__all__ = ["StockCaller"]


@implementer(ICaller)
class StockCaller:
    """
    A L{StockCaller} is an L{ICaller} for a L{Request<twisted.web.server.Request>} of any Site.

    The caller's body is closed when the request is over.
    """

    channel = None

    def __init__(self, request: Request) -> None:
        self.request = request
        headers = request.requestHeaders
        self.head = RequestHead(
            request.method,
            request.uri,
            request.clientproto,
            tuple(
                (name, value) for name, values in headers.getAllRawHeaders() for value in values
            ),
            keep_alive=False,
            content_type=headers.getRawHeaders(b"content-type", [None])[0],
        )
        self.body = body_of(request)
        self.departed: Callable[[], None] | None = None
        request.notifyFinish().addCallbacks(self._answered, self._left)

    def _answered(self, result: None) -> None:
        self.body.close()

    def _left(self, reason: Failure) -> None:
        departed = self.departed
        if departed is not None:
            departed()
        self.body.close()

    def set_body_aside(self) -> None:
        """
        See L{ICaller.set_body_aside}.  Nothing is done, because the Request would keep the body
        in memory anyway.
        """

    def replace_body(self, body: RequestBody) -> None:
        """See L{ICaller.replace_body}."""
        self.body = body
        request = self.request
        content = cast(BinaryIO, request.content)
        content.close()
        request.content = body.open()
        headers = request.requestHeaders
        if headers.hasHeader(b"content-length"):
            headers.setRawHeaders(b"content-length", [b"%d" % body.length])

    def cut_off(self) -> None:
        """See L{ICaller.cut_off}."""
        cast(ITCPTransport, self.request.transport).abortConnection()

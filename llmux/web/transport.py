"""
This module has the transport of a request: what twisted.web's Requests ask of the connection on
which they answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from twisted.internet._producer_helpers import _PullToPush
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IProducer,
    IPushProducer,
    ISSLTransport,
)
from twisted.internet.tcp import Connection
from twisted.web.http import NO_BODY_CODES
from twisted.web.http_headers import Headers

__all__ = ["RequestTransport", "unsent"]

_NOWHERE = UNIXAddress(None)


def unsent(transport: Any) -> int:
    """Return how many bytes that were written to this transport are still in this process."""
    count = 0
    # TLS keeps the bytes that it has not encrypted yet in a buffer of its own.
    while transport is not None and not isinstance(transport, Connection):
        count += sum(map(len, getattr(transport, "_appSendBuffer", ())))
        transport = getattr(transport, "transport", None)
    if transport is not None:
        count += len(transport.dataBuffer) - transport.offset + transport._tempDataLen
    return count


class RequestTransport:
    """
    A Request writes to a L{RequestTransport} as it would write to a
    L{twisted.web.http.HTTPChannel}.

    @ivar transport: the connection; None before it is made.
    @ivar keeps_alive: whether the connection stays open after the present reply.  Whoever
        writes the reply may set this to False.
    @ivar client_is_http_1_0: whether the client of the present request speaks HTTP/1.0.
    """

    __slots__ = ("_full", "_producer", "client_is_http_1_0", "keeps_alive", "transport")

    def __init__(self) -> None:
        self.transport: Any = None
        self.keeps_alive = True
        self.client_is_http_1_0 = False
        # The producer whose writes fill the transport, and whether the transport is full.
        self._producer: Any = None
        self._full = False

    def writeHeaders(
        self,
        version: bytes,
        code: bytes,
        reason: bytes,
        headers: Headers | Iterable[tuple[bytes, bytes]],
    ) -> None:
        """Write the head of a reply."""
        if not isinstance(headers, Headers):
            given, headers = headers, Headers()
            for name, value in given:
                headers.addRawHeader(name, value)
        connection = headers.getRawHeaders(b"Connection", [])
        if any(b"close" in value.lower() for value in connection):
            self.keeps_alive = False
        lines = [b"%b %b %b" % (version, code, reason)]
        if self.client_is_http_1_0 and self.keeps_alive:
            if headers.hasHeader(b"Content-Length") or int(code) in NO_BODY_CODES:
                lines.append(b"Connection: keep-alive")
            else:
                self.keeps_alive = False
        for name, values in headers.getAllRawHeaders():
            lines += [b"%b: %b" % (name, value) for value in values]
        lines += (b"", b"")
        self.transport.write(b"\r\n".join(lines))

    def write(self, data: bytes) -> None:
        """Write a part of the body of a reply."""
        self.transport.write(data)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Write a part of the body of a reply, in pieces."""
        self.transport.writeSequence(iovec)

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """See L{IConsumer.registerProducer}."""
        if self._producer is not None:
            raise RuntimeError(
                f"cannot register {producer}: {self._producer} was never unregistered"
            )
        if streaming:
            self._producer = producer
            if self._full:
                cast(IPushProducer, producer).pauseProducing()
        else:
            puller = self._producer = _PullToPush(producer, cast(IConsumer, self))
            puller.startStreaming()
            if self._full:
                puller.pauseProducing()

    def unregisterProducer(self) -> None:
        """See L{IConsumer.unregisterProducer}."""
        producer, self._producer = self._producer, None
        if isinstance(producer, _PullToPush):
            producer.stopStreaming()

    def getPeer(self) -> IAddress:
        """See L{ITransport.getPeer}."""
        return cast(IAddress, self.transport.getPeer())

    def getHost(self) -> IAddress:
        """See L{ITransport.getHost}."""
        try:
            return cast(IAddress, self.transport.getHost())
        except AttributeError:
            # A socket that is closed does not know its address any more.
            return _NOWHERE

    def isSecure(self) -> bool:
        """Tell whether the client uses TLS on this connection."""
        return bool(ISSLTransport.providedBy(self.transport))

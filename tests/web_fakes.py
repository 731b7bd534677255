"""
This module has the two ends of a connection in memory: a transport that records, and a function
that takes the replies on it apart with another parser, h11.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import h11
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.python.failure import Failure
from twisted.web.resource import Resource

__all__ = ["Leaf", "Reply", "Wire", "replies"]


class Wire(StringTransportWithDisconnection):
    """
    This transport has no socket.

    @ivar reading: True unless the protocol has paused the transport.
    """

    connected = True

    def __init__(self) -> None:
        StringTransportWithDisconnection.__init__(self)

    def connect(self, protocol: IProtocol) -> None:
        """Connect a protocol with this transport."""
        self.protocol = protocol
        protocol.makeConnection(self)

    def said(self) -> bytes:
        """Return all bytes that have been written."""
        return self.io.getvalue()

    @property
    def reading(self) -> bool:
        return self.producerState == "producing"

    def lose(self) -> None:
        """Lose the connection, as if the client had gone away."""
        self.connected = False
        self.protocol.connectionLost(Failure(ConnectionDone()))


class Leaf(Resource):
    """This is a Resource whose constructor has types."""

    isLeaf = True

    def __init__(self) -> None:
        Resource.__init__(self)


@dataclass
class Reply:
    """This is a reply, as a client sees it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    whole: bool = False
    interim: list[int] = field(default_factory=list)

    def header(self, name: bytes) -> bytes | None:
        """Return the value of a header, or None."""
        return dict(self.headers).get(name)


def replies(data: bytes, methods: list[bytes], *, closed: bool) -> list[Reply]:
    """
    Parse C{data} with h11, as the answers to requests with these methods.

    @param closed: True if the connection has been closed after C{data}.
    """
    found: list[Reply] = []
    for method in methods:
        if not data:
            break
        client = h11.Connection(h11.CLIENT)
        target = "*" if method == b"OPTIONS" else "/"
        client.send(h11.Request(method=method, target=target, headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        client.receive_data(data)
        reply: Reply | None = None
        interim: list[int] = []
        ended = False
        while True:
            try:
                event = client.next_event()
            except h11.RemoteProtocolError:
                if not ended:
                    raise
                break
            if event is h11.NEED_DATA:
                if closed and not ended:
                    ended = True
                    client.receive_data(b"")
                    continue
                break
            if isinstance(event, h11.InformationalResponse):
                interim.append(event.status_code)
            elif isinstance(event, h11.Response):
                reply = Reply(event.status_code, list(event.headers), interim=interim)
                found.append(reply)
            elif isinstance(event, h11.Data):
                assert reply is not None
                reply.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert reply is not None
                reply.whole = True
                break
            else:
                break
        data = client.trailing_data[0]
        if reply is None or not reply.whole:
            break
    return found

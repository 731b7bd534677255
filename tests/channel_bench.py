"""
This module has a site without sockets, its clients, and Resources that answer as a test wants.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import Clock
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from llmux.web.limits import Limits
from llmux.web.request import LlmuxRequest
from llmux.web.site import LlmuxSite
from tests.web_fakes import Leaf, Reply, Wire, replies

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
EXPECTING = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: %d\r\n\r\n"
LIMITS = Limits(body=1000, head=2000, uri=500, headers=20)


class Held(Leaf):
    """This Resource answers when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[LlmuxRequest] = []
        self.lost: list[LlmuxRequest] = []

    def render(self, request: LlmuxRequest) -> int:
        self.requests.append(request)
        ended: Deferred[None] = request.notifyFinish()
        ended.addErrback(lambda _: self.lost.append(request))
        return NOT_DONE_YET

    def answer(self, body: bytes = b"ok") -> None:
        """Answer the request that has waited for the longest time."""
        request = self.requests.pop(0)
        request.setHeader(b"content-length", b"%d" % len(body))
        request.write(body)
        request.finish()


class Echo(Leaf):
    """This Resource answers with the method, the target and the body of the request."""

    def render(self, request: LlmuxRequest) -> bytes:
        return b"%s %s %s" % (request.method, request.uri, request.content.read())


@implementer(IPushProducer)
class Producer:
    """This producer records the calls of its methods."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


class Client:
    """A client is a connection to a site, seen from the client's end."""

    def __init__(self, site: LlmuxSite) -> None:
        self.wire = Wire()
        self.clock = cast(Clock, site.clock)
        self.channel = site.buildProtocol(None)
        self.wire.connect(self.channel)

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.channel.dataReceived(piece)
            self.settle()

    def settle(self) -> None:
        """Let the channel do what it has put off to later turns of the reactor."""
        clock = self.clock
        while any(call.getTime() <= clock.seconds() for call in clock.getDelayedCalls()):
            clock.advance(0)

    def replies(self, *methods: bytes) -> list[Reply]:
        return replies(
            self.wire.said(), list(methods) or [b"GET"] * 50, closed=not self.wire.connected
        )

    def statuses(self) -> list[int]:
        return [reply.status for reply in self.replies()]


class Bench:
    """This site has a clock of its own."""

    def __init__(self, resource: Resource, **options: Any) -> None:
        self.clock = Clock()
        self.resource = resource
        self.site = LlmuxSite(resource, self.clock, limits=LIMITS, **options)

    def client(self) -> Client:
        return Client(self.site)


def held_of(bench: Bench) -> Held:
    assert isinstance(bench.resource, Held)
    return bench.resource

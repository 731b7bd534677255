"""
This script is the proxy that one would write first on Twisted: L{Site}, a L{Resource} and
L{Agent}.

    python naive_proxy.py PORT BACKEND_PORT

The proxy reads C{model} from the body and passes everything on; it switches nothing.  The
benchmark compares llmux with it: this is what a data plane in Python costs if nobody has looked
at its cost.
"""

# twisted.web has no annotations:
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import json
import sys
from typing import Any, cast

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer, IReactorCore, IReactorTCP
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http import Request
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer, IResponse
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface import implementer

_HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"host"}


@implementer(IBodyProducer)
class _Bytes:
    def __init__(self, body: bytes) -> None:
        self.body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self.body)
        return succeed(None)

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...

    def stopProducing(self) -> None: ...


class _Relay(Protocol):
    def __init__(self, request: Request) -> None:
        self.request = request
        self.gone = False
        request.notifyFinish().addErrback(self.left)

    def left(self, reason: Failure) -> None:
        self.gone = True
        if self.transport is not None:
            self.transport.loseConnection()

    def connectionMade(self) -> None:
        self.gone = self.request.channel is None

    def dataReceived(self, data: bytes) -> None:
        self.request.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.gone:
            return
        if reason.check(ResponseDone):
            self.request.finish()
        else:
            self.request.loseConnection()


def _kept(headers: Headers) -> Headers:
    return Headers(
        {k: v for k, v in headers.getAllRawHeaders() if k.lower() not in _HOP_BY_HOP}
    )


class Proxy(Resource):
    isLeaf = True

    def __init__(self, agent: Agent, backend: bytes) -> None:
        Resource.__init__(self)
        self.agent = agent
        self.backend = backend

    def render(self, request: Request) -> int:
        assert request.content is not None
        body = request.content.read()
        json.loads(body)["model"]
        d = self.agent.request(
            request.method,
            self.backend + request.uri,
            _kept(request.requestHeaders),
            _Bytes(body),
        )

        def relay(response: IResponse) -> None:
            request.setResponseCode(response.code)
            for name, values in _kept(response.headers).getAllRawHeaders():
                request.responseHeaders.setRawHeaders(name, values)
            response.deliverBody(_Relay(request))

        def failed(reason: Failure) -> None:
            request.setResponseCode(502)
            request.finish()

        d.addCallbacks(relay, failed)
        return NOT_DONE_YET


def main(port: int, backend_port: int) -> None:
    pool = HTTPConnectionPool(_reactor)
    pool.maxPersistentPerHost = 2000
    agent = Agent(_reactor, pool=pool)
    site: Any = Site(Proxy(agent, b"http://127.0.0.1:%d" % backend_port))
    tcp = cast(IReactorTCP, _reactor)
    tcp.listenTCP(port, site, backlog=4096, interface="127.0.0.1")
    cast(IReactorCore, _reactor).run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

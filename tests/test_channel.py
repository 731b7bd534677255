"""
The channel without sockets: order, limits, refusals, timeouts, back-pressure.
"""

from __future__ import annotations

import tempfile
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IPullProducer, IPushProducer
from twisted.internet.task import Clock
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer
from zope.interface.verify import verifyObject

from llmux.web.body import BodyStorage
from llmux.web.channel import ChannelPhase, LlhttpChannel
from llmux.web.limits import MOST_AHEAD, Limits
from llmux.web.reader import RequestReader
from llmux.web.reply_channel import IReplyChannel
from llmux.web.request import LlmuxRequest
from llmux.web.site import LlmuxSite
from tests.web_fakes import Leaf, Reply, Wire, replies

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
LIMITS = Limits(body=1000, head=2000, uri=500, headers=20)


class Held(Leaf):
    """Answers when the test says so."""

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
        """Answer the oldest."""
        request = self.requests.pop(0)
        request.setHeader(b"content-length", b"%d" % len(body))
        request.write(body)
        request.finish()


class Echo(Leaf):
    """Answers with what it was asked."""

    def render(self, request: LlmuxRequest) -> bytes:
        return b"%s %s %s" % (request.method, request.uri, request.content.read())


@implementer(IPushProducer)
class Producer:
    """Records."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


class Client:
    """A connection to a site, seen from the client."""

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
    """A site with a clock of its own."""

    def __init__(self, resource: Resource, **options: Any) -> None:
        self.clock = Clock()
        self.resource = resource
        self.site = LlmuxSite(resource, self.clock, limits=LIMITS, **options)

    def client(self) -> Client:
        return Client(self.site)


@pytest.fixture
def held() -> Bench:
    return Bench(Held())


@pytest.fixture
def echo() -> Bench:
    return Bench(Echo())


def held_of(bench: Bench) -> Held:
    assert isinstance(bench.resource, Held)
    return bench.resource


def test_interfaces(echo: Bench) -> None:
    channel = echo.client().channel
    verifyObject(IProtocol, channel)
    verifyObject(IReplyChannel, channel)
    verifyObject(IPushProducer, channel)


# ------------------------------------------------------------------ requests


def test_keep_alive(echo: Bench) -> None:
    client = echo.client()
    for _ in range(3):
        client.send(GET)
    assert [r.body for r in client.replies()] == [b"GET /a "] * 3
    assert client.wire.connected


def test_pipelined_requests_are_answered_one_by_one_in_order(held: Bench) -> None:
    client, resource = held.client(), held_of(held)
    client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(5)))
    for n in range(5):
        assert [r.uri for r in resource.requests] == [b"/%d" % n]
        resource.answer(b"%d" % n)
    assert [r.body for r in client.replies()] == [b"0", b"1", b"2", b"3", b"4"]


def test_a_thousand_pipelined_requests_do_not_recurse(echo: Bench) -> None:
    client = echo.client()
    client.send(GET * 3000)
    assert client.wire.said().count(b"HTTP/1.1 200") == 3000


def test_a_client_that_sends_ahead_is_read_on_while_it_waits(held: Bench) -> None:
    """A socket that is not read does not tell that its client has left (S2)."""
    client, resource = held.client(), held_of(held)
    client.send(GET * 500)
    assert client.wire.reading
    client.wire.lose()
    assert len(resource.lost) == 1


def test_what_is_sent_ahead_is_answered_in_order_however_much_it_is(held: Bench) -> None:
    client, resource = held.client(), held_of(held)
    client.send(*[b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(500)])
    for n in range(500):
        assert [r.uri for r in resource.requests] == [b"/%d" % n]
        resource.answer(b"%d" % n)
        client.settle()
    assert client.wire.said().count(b"HTTP/1.1 200") == 500


def test_no_more_than_sixteen_requests_are_parsed_ahead(held: Bench) -> None:
    client = held.client()
    client.send(GET * 500)
    assert len(client.channel._queue) == 16


def test_a_client_that_sends_far_too_much_ahead_is_told_so_in_its_turn(held: Bench) -> None:
    client, resource = held.client(), held_of(held)
    many = GET * (MOST_AHEAD // len(GET) // 4 + 16)
    for _ in range(5):
        client.send(many)
    client.send(GET * 10_000)
    assert client.wire.reading
    assert client.wire.said() == b""
    for _ in range(17):
        assert len(resource.requests) == 1
        resource.answer()
        client.settle()
    assert client.statuses() == [200] * 17 + [429]
    assert resource.requests == []


def test_a_head_that_was_sent_too_far_ahead_is_refused_without_a_body(held: Bench) -> None:
    client, resource = held.client(), held_of(held)
    client.send(GET * 17)
    for _ in range(5):
        client.send(b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n" * 2000)
    for _ in range(17):
        resource.answer()
        client.settle()
    found = client.replies(*[b"GET"] * 17, b"HEAD")
    assert [reply.status for reply in found] == [200] * 17 + [429]
    assert client.wire.said().endswith(b"\r\n\r\n")


def test_a_large_body_sent_ahead_is_taken(held: Bench) -> None:
    held.site.limits = Limits()
    client = held.client()
    client.send(GET, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n")
    for _ in range(30):
        client.send(b"x" * 100_000)
    held_of(held).answer()
    (second,) = held_of(held).requests
    assert second.body.length == 3_000_000
    client.wire.lose()


def test_what_is_sent_ahead_counts_as_memory_and_is_bounded_by_it(held: Bench) -> None:
    """What one client sends ahead is part of what all together may take (S6)."""
    storage = held.site.storage = BodyStorage(max_memory=100_000)
    first, second = held.client(), held.client()
    for client in (first, second):
        client.send(GET)
        client.send(GET * 2000)
    assert 90_000 < storage.in_memory < 120_000
    first.send(GET * 1500)
    assert first.channel._reader.closed
    assert storage.in_memory < 60_000
    second.wire.lose()
    assert storage.in_memory == 0


def test_the_memory_of_a_body_is_given_back_with_its_reply(held: Bench) -> None:
    storage = held.site.storage
    client, resource = held.client(), held_of(held)
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n", b"x" * 900)
    assert storage.in_memory == 900
    (request,) = resource.requests
    channel: LlhttpChannel = request.channel
    channel.begin_reply(request, Producer())
    channel.write_reply(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    channel.end_reply(request)
    assert storage.in_memory == 0
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n", b"x" * 900)
    client.wire.lose()
    assert storage.in_memory == 0


def test_a_client_that_takes_no_replies_is_not_read_on(held: Bench) -> None:
    client, resource = held.client(), held_of(held)
    client.send(GET)
    client.channel.pauseProducing()
    resource.answer()
    client.send(GET * 5000)
    assert not client.wire.reading
    assert resource.requests == []
    client.channel.resumeProducing()
    assert client.wire.reading
    assert len(resource.requests) == 1


def test_one_turn_of_the_reactor_answers_some_and_no_more(echo: Bench) -> None:
    """The others have their turn before a thousand pipelined requests are answered (S5)."""
    client = echo.client()
    client.channel.dataReceived(GET * 1000)
    assert 1 <= client.wire.said().count(b"HTTP/1.1 200") <= 16
    client.settle()
    assert client.wire.said().count(b"HTTP/1.1 200") == 1000


def test_what_is_left_for_a_later_turn_ends_with_the_connection(echo: Bench) -> None:
    client = echo.client()
    client.channel.dataReceived(GET * 1000)
    client.wire.lose()
    assert echo.clock.getDelayedCalls() == []


def test_a_client_that_leaves_is_noticed_while_it_waits(held: Bench) -> None:
    client, resource = held.client(), held_of(held)
    client.send(GET, GET)
    (request,) = resource.requests
    client.wire.lose()
    assert resource.lost == [request]
    assert len(resource.requests) == 1
    assert held.site.connections() == 0
    assert held.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("head", "stays"),
    [
        (b"GET / HTTP/1.1\r\nHost: x", True),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Keep-Alive, Close", False),
        (b"GET / HTTP/1.0\r\nHost: x", False),
        (b"GET / HTTP/1.0", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive", True),
    ],
)
def test_persistence(echo: Bench, head: bytes, stays: bool) -> None:
    for _ in range(2):
        client = echo.client()
        client.send(head + b"\r\n\r\n")
        (reply,) = client.replies()
        assert reply.whole
        assert client.wire.connected is stays
        if not stays and b"1.1" in head:
            assert reply.header(b"connection") == b"close"
        if stays and b"1.0" in head:
            assert reply.header(b"connection") == b"keep-alive"


def test_http_1_0_reply_of_unknown_length_ends_with_the_connection(held: Bench) -> None:
    client = held.client()
    client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    (request,) = held_of(held).requests
    request.write(b"a")
    request.write(b"b")
    request.finish()
    assert not client.wire.connected
    assert client.wire.said().endswith(b"\r\n\r\nab")


def test_what_follows_the_last_request_is_dropped(echo: Bench) -> None:
    client = echo.client()
    client.send(
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /2 HTTP/1.1\r\n\r\n"
    )
    assert [r.status for r in client.replies()] == [200]


def test_bodies(echo: Bench) -> None:
    client = echo.client()
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab", b"cde")
    client.send(
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n",
        b"2\r\nab\r",
        b"\n3;x=y\r\ncde\r\n0\r\nTrailer: t\r\n\r",
        b"\n" + GET,
    )
    assert [r.body for r in client.replies()] == [b"POST / abcde"] * 2 + [b"GET /a "]


@pytest.mark.parametrize(
    ("target", "uri"),
    [
        (b"http://h.example/x?y", b"/x?y"),
        (b"HTTPS://h:1/x", b"/x"),
        (b"http://h", b"/"),
        (b"http://h?q", b"/?q"),
        (b"/x#f", b"/x#f"),
        (b"//h/x", b"//h/x"),
    ],
)
def test_targets(echo: Bench, target: bytes, uri: bytes) -> None:
    client = echo.client()
    client.send(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    (reply,) = client.replies()
    assert reply.body == b"GET " + uri + b" "


def test_options_star(echo: Bench) -> None:
    client = echo.client()
    client.send(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
    (reply,) = client.replies(b"OPTIONS")
    assert (reply.status, reply.body) == (200, b"")


def test_head_has_no_body(echo: Bench) -> None:
    client = echo.client()
    client.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
    (reply,) = client.replies(b"HEAD")
    assert (reply.status, reply.body) == (200, b"")
    assert reply.header(b"content-length") == b"7"


def test_a_remembered_head_takes_another_length(echo: Bench) -> None:
    client = echo.client()
    for body in (b"a", b"bcd", b"", b"x" * 500):
        client.send(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        assert client.replies()[-1].body == b"POST / " + body
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001)
    assert client.statuses()[-1] == 413


def test_headers_of_a_remembered_head(held: Bench) -> None:
    client, resource = held.client(), held_of(held)
    for length in (1, 2):
        client.send(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nA: b\r\n\r\n" % length
            + b"x" * length
        )
        (request,) = resource.requests
        assert request.raw_headers == [
            (b"Host", b"x"),
            (b"Content-Length", b"%d" % length),
            (b"A", b"b"),
        ]
        assert request.getHeader(b"content-length") == b"%d" % length
        resource.answer()


# ---------------------------------------------------------------- refusals


HOST = b"Host: x\r\n"
REFUSED = [
    (b"\x16\x03\x01\x02\x00\x01", 400),
    (b"FROB / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /\r\n", 400),
    (b"GET / HTTP/0.9\r\n" + HOST + b"\r\n", 505),
    (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
    (b"PRI * HTTP/1.0\r\n\r\nX", 505),
    (b"PRI * HTTP/1.0\r\nX: y\r\n\r\nSM\r\n\r\n", 505),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    (b"DESCRIBE rtsp://x/ RTSP/1.0\r\n" + HOST + b"\r\n", 505),
    (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /  HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n", 400),
    (b"GET x HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA B: b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA\xff: b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA(: b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3, 3\r\n\r\nabc", 400),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc", 400),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x3\r\n\r\nabc", 400),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\nabc", 400),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"0" * 20 + b"5\r\n\r\nabcde", 400),
    (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\n",
        400,
    ),
    (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n"
        b"0\r\n\r\n",
        400,
    ),
    (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\na\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\na\n0\n\n", 400),
    (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 20, 400),
    (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 5000,
        400,
    ),
    (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nT: "
        + b"x" * 5000,
        400,
    ),
    (b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", 501),
    (b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    (b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\n", 417),
    (b"GET /" + b"x" * 501 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    (b"GET /" + b"x" * 5000, 414),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 5000, 431),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 2000 + b"\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 20 + b"\r\n", 431),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n", 413),
    (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        + (b"80\r\n" + b"x" * 128 + b"\r\n") * 8,
        413,
    ),
]


@pytest.mark.parametrize(("data", "status"), REFUSED)
def test_refused(echo: Bench, data: bytes, status: int) -> None:
    for pieces in ([data], [data[:7], data[7:]], [data[i : i + 1] for i in range(len(data))]):
        client = echo.client()
        client.send(*pieces)
        (reply,) = client.replies(b"GET")
        assert reply.status == status, reply
        assert reply.header(b"connection") == b"close"
        assert reply.header(b"content-type") == b"application/json"
        assert b'{"error": {"message"' in reply.body
        # Nothing more is read, and the connection ends by itself.
        client.send(GET)
        assert len(client.replies()) == 1
        echo.clock.pump([1] * 7)
        assert not client.wire.connected


UPGRADES = [
    b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n",
    b"Connection: upgrade\r\nupgrade: TLS/1.0, IRC/6.9\r\n",
]


@pytest.mark.parametrize("offer", UPGRADES)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_offer_of_another_protocol_is_ignored(
    echo: Bench, offer: bytes, framing: str
) -> None:
    """Java's HttpClient and curl --http2 make one with each request (D1; RFC 9110, 7.8)."""
    body = b"Content-Length: 3\r\n\r\nabc"
    if framing == "chunked":
        body = b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    data = b"POST /x HTTP/1.1\r\nHost: x\r\n" + offer + body
    for pieces in ([data], [data[i : i + 1] for i in range(len(data))]):
        client = echo.client()
        client.send(*pieces)
        client.send(*pieces)
        client.send(GET)
        assert [r.status for r in client.replies()] == [200] * 3
        assert [r.body for r in client.replies()] == [b"POST /x abc"] * 2 + [b"GET /a "]


def test_the_offer_itself_is_seen_by_resources(held: Bench) -> None:
    client = held.client()
    client.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + UPGRADES[0] + b"\r\n")
    (request,) = held_of(held).requests
    assert request.getHeader(b"upgrade") == b"h2c"


def test_an_error_of_the_readers_own_is_a_reply_and_one_entry_in_the_log(
    held: Bench, logged_failures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(RequestReader, "_head_read", broken)
    for _ in range(3):
        client = held.client()
        client.send(GET)
        assert client.statuses() == [500]
    assert len(logged_failures.flush(ZeroDivisionError)) == 1


def test_a_head_of_too_many_fields_is_refused_before_its_end(echo: Bench) -> None:
    """Sixteen thousand of them would take 30 ms in one turn (S5)."""
    client = echo.client()
    client.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * 2000)
    assert client.statuses() == [431]
    assert len(client.channel._reader._headers) == 21


def test_no_room_for_a_large_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    client = Client(LlmuxSite(Echo(), Clock()))
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n")
    for _ in range(30):
        client.send(b"x" * 100_000)
    (reply,) = client.replies()
    assert reply.status == 507
    client.wire.lose()


def test_a_refusal_waits_for_its_turn(held: Bench) -> None:
    client = held.client()
    client.send(GET + b"nonsense\r\n\r\n")
    assert client.wire.said() == b""
    held_of(held).answer()
    assert client.statuses() == [200, 400]


def test_lingering_ends_in_time_for_a_client_that_goes_on_sending(echo: Bench) -> None:
    client = echo.client()
    client.send(b"nonsense\r\n\r\n")
    for _ in range(29):
        client.send(b"more")
        echo.clock.advance(1)
    assert client.wire.connected
    echo.clock.pump([1, 1])
    assert not client.wire.connected


# ------------------------------------------------------------- 100-continue


EXPECTING = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: %d\r\n\r\n"


def test_continue(echo: Bench) -> None:
    client = echo.client()
    client.send(EXPECTING % 3)
    assert client.wire.said() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"ab", b"c")
    (reply,) = client.replies()
    assert (reply.interim, reply.body) == ([100], b"POST / abc")


def test_no_continue_for_a_body_that_came_along(echo: Bench) -> None:
    client = echo.client()
    client.send(EXPECTING % 3 + b"a")
    client.send(b"bc")
    (reply,) = client.replies()
    assert (reply.interim, reply.body) == ([], b"POST / abc")


def test_too_large_a_body_is_refused_before_it_is_sent(echo: Bench) -> None:
    client = echo.client()
    client.send(EXPECTING % 1001)
    (reply,) = client.replies()
    assert (reply.interim, reply.status) == ([], 413)


def test_continue_waits_for_its_turn(held: Bench) -> None:
    client = held.client()
    client.send(GET + EXPECTING % 1)
    assert client.wire.said() == b""
    held_of(held).answer()
    assert client.wire.said().endswith(b"HTTP/1.1 100 Continue\r\n\r\n")


# ------------------------------------------------------------------ timeouts


def test_an_idle_connection_is_closed(echo: Bench) -> None:
    client = echo.client()
    client.send(GET)
    echo.clock.pump([1] * 70)
    client.send(GET)
    echo.clock.pump([1] * 74)
    assert client.wire.connected
    echo.clock.pump([1] * 3)
    assert not client.wire.connected
    assert client.statuses() == [200, 200]
    assert echo.clock.getDelayedCalls() == []


def test_a_head_that_comes_by_the_byte_is_refused_in_time(echo: Bench) -> None:
    client = echo.client()
    client.send(b"GET /")
    for _ in range(63):
        client.send(b"a")
        echo.clock.pump([1])
    assert client.statuses() == [408]


def test_a_body_may_take_its_time(echo: Bench) -> None:
    echo.site.min_upload_rate = 0.9
    client = echo.client()
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n\r\n")
    for _ in range(90):
        client.send(b"x")
        echo.clock.pump([1])
    assert client.statuses() == [200]


CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n", b"x"),
        (CHUNKED + b"1;", b"x"),
        (CHUNKED + b"1\r\na\r\n0\r\nT: ", b"x"),
        (CHUNKED, b"1\r\na\r\n"),
    ],
    ids=["a body", "an extension", "a trailer", "chunks"],
)
def test_what_comes_too_slowly_is_refused(echo: Bench, begin: bytes, more: bytes) -> None:
    """A byte now and then keeps nothing alive (S12)."""
    client = echo.client()
    client.send(begin)
    for _ in range(125):
        client.send(more)
        echo.clock.pump([1])
    assert client.statuses() == [408]
    assert not client.wire.connected or client.channel._phase is ChannelPhase.LINGERING


def test_a_large_body_may_take_as_long_as_it_comes_fast_enough(echo: Bench) -> None:
    echo.site.limits = Limits()
    client = echo.client()
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n")
    for _ in range(400):
        client.send(b"x" * 150)
        echo.clock.pump([1])
    assert client.statuses() == [200]


def test_empty_lines_do_not_keep_a_connection(echo: Bench) -> None:
    client = echo.client()
    for _ in range(77):
        client.send(b"\r\n")
        echo.clock.pump([1])
    assert not client.wire.connected


@pytest.mark.parametrize("part", [b"GET / HT", GET[:-2], EXPECTING % 3 + b"ab"])
def test_half_a_request_is_refused_in_time(echo: Bench, part: bytes) -> None:
    client = echo.client()
    client.send(part)
    echo.clock.pump([1] * 59)
    assert client.wire.said() == b""
    echo.clock.pump([1] * 3)
    assert client.statuses() == [408]
    echo.clock.pump([1] * 7)
    assert not client.wire.connected


def test_a_request_being_answered_has_all_the_time(held: Bench) -> None:
    client = held.client()
    client.send(GET)
    held.clock.pump([10] * 100)
    assert client.wire.connected
    held_of(held).answer()
    assert client.statuses() == [200]


# -------------------------------------------------------------- back-pressure


def test_a_producer_is_paused_and_resumed_and_stopped(held: Bench) -> None:
    client = held.client()
    client.send(GET)
    (request,) = held_of(held).requests
    producer = Producer()
    request.registerProducer(producer, True)
    client.channel.pauseProducing()
    client.channel.resumeProducing()
    assert producer.calls == ["pause", "resume"]
    client.wire.lose()
    assert producer.calls == ["pause", "resume", "stop"]


def test_a_client_that_takes_no_replies_gets_no_more_requests_served(held: Bench) -> None:
    client, resource = held.client(), held_of(held)
    client.send(GET + GET)
    client.channel.pauseProducing()
    resource.answer()
    assert resource.requests == []
    client.channel.resumeProducing()
    assert len(resource.requests) == 1


def test_a_pull_producer(echo: Bench, tmp_path: Any) -> None:
    @implementer(IPullProducer)
    class Pulled:
        left = 3

        def __init__(self, request: LlmuxRequest) -> None:
            self.request = request

        def resumeProducing(self) -> None:
            self.request.write(b"%d" % self.left)
            self.left -= 1
            if not self.left:
                self.request.unregisterProducer()
                self.request.finish()

        def stopProducing(self) -> None:
            raise AssertionError

    bench = Bench(Held())
    client = bench.client()
    client.send(GET)
    (request,) = held_of(bench).requests
    pulled = Pulled(request)
    request.registerProducer(pulled, False)
    from twisted.internet.task import _theCooperator

    while pulled.left:
        _theCooperator._tick()
    (reply,) = client.replies()
    assert reply.body == b"321"


# --------------------------------------------------------------- the fast path


def test_a_reply_as_bytes(held: Bench) -> None:
    client, resource = held.client(), held_of(held)
    client.send(GET + GET)
    request = resource.requests.pop()
    channel: LlhttpChannel = request.channel
    producer = Producer()
    channel.begin_reply(request, producer)
    assert (channel.keeps_alive, channel.client_is_http_1_0) == (True, False)
    channel.write_reply(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na")
    channel.write_reply(b"bc")
    client.channel.pauseProducing()
    client.channel.resumeProducing()
    channel.end_reply(request)
    assert request.finished
    client.channel.pauseProducing()
    assert producer.calls == ["pause", "resume"]
    client.channel.resumeProducing()
    (second,) = resource.requests
    assert second is not request
    resource.answer(b"def")
    assert [r.body for r in client.replies()] == [b"abc", b"def"]


def test_a_reply_that_is_aborted(held: Bench) -> None:
    client, resource = held.client(), held_of(held)
    client.send(GET)
    (request,) = resource.requests
    producer = Producer()
    client.channel.begin_reply(request, producer)
    client.channel.write_reply(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na")
    client.channel.abort_reply(request)
    client.wire.connected = True
    client.wire.lose()
    assert producer.calls == []
    assert resource.lost == [request]


def test_rendering_that_fails_once_the_reply_has_begun_cuts_it_off(
    logged_failures: Any,
) -> None:
    class Broken(Leaf):
        def render(self, request: LlmuxRequest) -> int:
            request.write(b"half")
            raise ZeroDivisionError

    client = Bench(Broken()).client()
    client.send(GET)
    (reply,) = client.replies()
    assert not reply.whole
    assert not client.wire.connected
    assert len(logged_failures.flush(ZeroDivisionError)) == 1


# ----------------------------------------------------------------- stopping


def test_stop(held: Bench) -> None:
    idle, busy, partial = held.client(), held.client(), held.client()
    busy.send(GET)
    partial.send(GET[:9])
    closed = held.site.all_closed()
    held.site.stop_accepting_requests()
    assert [c.wire.connected for c in (idle, busy, partial)] == [False, True, True]
    held_of(held).answer()
    assert not busy.wire.connected
    assert busy.replies()[0].header(b"connection") == b"close"
    partial.send(GET[9:])
    held_of(held).answer()
    assert partial.replies()[0].header(b"connection") == b"close"
    assert closed.called


def test_abort_all(held: Bench) -> None:
    client = held.client()
    client.send(GET)
    held.site.abort_all()
    assert not client.wire.connected
    assert client.wire.said() == b""


@pytest.mark.parametrize("target", [b"/\nr:", b"HTTP://\nr:", b"http://x/\nr:", b"/a\nr:"])
@pytest.mark.parametrize("size", [1, 9000])
def test_a_line_feed_in_the_target_is_refused(echo: Bench, target: bytes, size: int) -> None:
    """Passed on, it would begin another line for a backend that takes LF for a line's end."""
    client = echo.client()
    client.send(b"GET %b HTTP/1.1\r\nHost: x\r\nA: %b\r\n\r\n" % (target, b"a" * size))
    assert client.statuses() == [400]


@pytest.mark.parametrize(
    "head",
    [
        b"HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        b"HEAD / HTTP/1.1\nHost: x",
        b"HEAD / HTTP/1.1\r\nHost: x\r\nHost: y",
        b"HEAD / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 300,
        b"HEAD / HTTP/9.9\r\nHost: x",
        b"HEAD /" + b"x" * 99_999,
    ],
)
@pytest.mark.parametrize("cut", [3, 5, 20, 10**6])
def test_the_refusal_of_a_head_request_has_no_body(head: bytes, cut: int) -> None:
    client = Bench(Echo()).client()
    data = head + b"\r\n\r\n"
    client.send(data[:cut], data[cut:])
    said = client.wire.said()
    assert said.startswith((b"HTTP/1.1 4", b"HTTP/1.1 505"))
    assert said.endswith(b"\r\n\r\n")

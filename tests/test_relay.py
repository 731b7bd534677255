"""
These tests check that the same bytes from a client and from a backend come to the same reply,
through llmux's own channel and through twisted.web's.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from zope.interface.verify import verifyClass, verifyObject

from llmux.proxy.guarded import IGuardedResource, ITurn
from llmux.proxy.resource import ProxyResource
from llmux.proxy.stock_caller import StockCaller
from llmux.web.caller import ICaller
from llmux.web.request import LlmuxRequest
from tests.proxy_answers import OK, SITES
from tests.proxy_world import Guarded, ProxyWorld, chat, exchange_begun
from tests.web_fakes import Reply, replies

PLAIN = OK + b"Content-Type: text/x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    OK + b"Transfer-Encoding: chunked\r\nX: y\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
)
UNTIL_CLOSE = OK + b"X: y\r\n\r\nhello world"


@dataclass
class Seen:
    """This is what a client makes of what it got."""

    replies: list[Reply]
    closed: bool
    cut_off: bool


def exchange(
    stock: bool,
    request: bytes,
    pieces: Sequence[bytes],
    *,
    closes: bool = False,
    method: bytes = b"POST",
) -> Seen:
    """Send one request, which the backend answers in these pieces."""
    world = ProxyWorld(stock=stock)
    world.wake("a")
    client = world.client()
    client.send(request)
    end = world.accept()
    for piece in pieces:
        end.send(piece)
    if closes:
        end.close()
    world.settle()
    assert world.in_flight() == 0
    if client.closed:
        client.leave()
    found = replies(client.received, [method], closed=client.closed and not client.cut_off)
    for reply in found:
        if reply.status == 502:
            # A reply of our own, with the Site's name and the time.
            own = (b"server", b"date")
            reply.headers = [h for h in reply.headers if h[0] not in own]
        reply.headers.sort()
    return Seen(found, client.closed, client.cut_off)


REPLIES = [
    (PLAIN, False),
    (CHUNKED, False),
    (UNTIL_CLOSE, True),
    (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nab", True),
    (b"HTTP/1.0 200 OK\r\n\r\nold", True),
    (b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", False),
    (b"HTTP/1.1 304 Not Modified\r\nETag: z\r\n\r\n", False),
    (b"HTTP/1.1 500 Oh No\r\nContent-Length: 0\r\n\r\n", False),
    (OK + b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n", False),
    (OK + b"Server: uvicorn\r\nDate: today\r\nContent-Length: 0\r\n\r\n", False),
    (
        OK + b"Connection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nContent-Length: 0\r\n\r\n",
        False,
    ),
    (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + PLAIN, False),
    (OK + b"Content-Length: 5\r\n\r\nhel", True),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", True),
    (b"garbage\r\n\r\n", False),
    (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", False),
    (b"HTTP/1.1 200", True),
]
REQUESTS = [
    (chat(), b"POST"),
    (chat(version=b"HTTP/1.0"), b"POST"),
    (chat(version=b"HTTP/1.0", headers=b"Connection: keep-alive\r\n"), b"POST"),
    (chat(headers=b"Connection: close\r\n"), b"POST"),
]


def cuts(sent: bytes) -> list[list[bytes]]:
    ways = [[sent], [sent[i : i + 1] for i in range(len(sent))]]
    ways += [[sent[:cut], sent[cut:]] for cut in range(1, len(sent), 7)]
    return ways


@pytest.mark.parametrize(("request_bytes", "method"), REQUESTS)
@pytest.mark.parametrize(("sent", "closes"), REPLIES)
def test_both_ways_to_relay_agree_on_the_reply(
    sent: bytes, closes: bool, request_bytes: bytes, method: bytes
) -> None:
    plain = exchange(True, request_bytes, [sent], closes=closes, method=method)
    keeps = b"HTTP/1.0" in request_bytes and b"keep-alive" in request_bytes
    for pieces in cuts(sent):
        seen = exchange(False, request_bytes, pieces, closes=closes, method=method)
        if keeps:
            # twisted.web never keeps a connection of HTTP/1.0.
            seen.closed = plain.closed
            for reply in seen.replies:
                reply.headers = [h for h in reply.headers if h[0] != b"connection"]
        if seen.cut_off:
            # How far a reply came that was cut off may differ.
            assert (plain.cut_off, plain.closed) == (True, True)
            continue
        assert seen == plain, pieces


@SITES
@pytest.mark.parametrize(
    "sent", [OK + b"Content-Length: 500\r\n\r\n", CHUNKED[:-24], OK + b"X: y\r\n\r\n"]
)
@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
def test_a_reply_to_head_has_no_body(stock: bool, sent: bytes, version: bytes) -> None:
    request = chat(method=b"HEAD", version=version)
    seen = exchange(stock, request, [sent], method=b"HEAD")
    (reply,) = seen.replies
    assert reply.status == 200
    assert reply.whole
    assert reply.body == b""
    assert reply.header(b"content-length") == (b"500" if b"500" in sent else None)
    assert not seen.cut_off


@SITES
def test_what_the_backend_is_sent(stock: bool) -> None:
    world = ProxyWorld(stock=stock)
    world.wake("a")
    client = world.client()
    body = b'{"model": "a"}'
    client.send(
        b"POST /v1/x%%20y?z=1 HTTP/1.1\r\nHost: llmux:3000\r\nAuthorization: Bearer q\r\n"
        b"Connection: keep-alive, x-private\r\nX-Private: 1\r\nTE: trailers\r\n"
        b"Expect: 100-continue\r\nX-Forwarded-For: 1.2.3.4\r\nX-Two: 1\r\nX-Two: 2\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    sent = world.accept().take()
    head, _, rest = sent.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    assert first == b"POST /v1/x%20y?z=1 HTTP/1.1"
    assert rest == body
    assert sorted(line.lower() for line in lines) == [
        b"authorization: bearer q",
        b"content-length: 14",
        b"host: 10.0.0.1:8001",
        b"x-forwarded-for: 1.2.3.4",
        b"x-two: 1",
        b"x-two: 2",
    ]


@SITES
def test_a_chunked_request_gets_a_length(stock: bool) -> None:
    world = ProxyWorld(stock=stock)
    world.wake("a")
    client = world.client()
    client.send(
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b'7\r\n{"model\r\n7\r\n": "a"}\r\n0\r\n\r\n'
    )
    world.settle()
    sent = world.accept().take()
    assert sent.endswith(b'\r\n\r\n{"model": "a"}')
    assert b"\r\nContent-Length: 14\r\n" in sent
    assert b"ransfer-" not in sent


@SITES
@pytest.mark.parametrize("method", [b"GET", b"TRACE", b"PROPFIND", b"OPTIONS", b"DELETE"])
def test_a_request_of_any_method_is_passed_on(stock: bool, method: bytes) -> None:
    world = ProxyWorld(stock=stock)
    world.wake("a")
    client = world.client()
    client.send(chat(method=method))
    end = world.accept()
    assert end.take().startswith(method + b" /v1/chat/completions?q=1 HTTP/1.1\r\n")
    end.send(PLAIN)
    assert client.received.endswith(b"hello")


@SITES
def test_each_event_is_passed_on_as_it_comes(stock: bool) -> None:
    world, client, end = exchange_begun(stock=stock)
    end.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    assert client.received.startswith(OK)
    for number in range(10):
        event = b"data: %d\n\n" % number
        end.send(b"%x\r\n%s\r\n" % (len(event), event))
        assert event in client.received
    assert world.in_flight() == 1
    end.send(b"0\r\n\r\n")
    assert world.in_flight() == 0
    assert client.received.endswith(b"0\r\n\r\n")


def test_a_small_reply_goes_out_in_one_write() -> None:
    world = ProxyWorld()
    world.wake("a")
    for reply in (PLAIN, CHUNKED):
        client = world.client()
        writes: list[bytes] = []
        client.transport.write = writes.append  # type: ignore[method-assign] # to count them
        client.send(chat())
        world.accept().send(reply)
        assert len(writes) == 1
        world.pool.forget("10.0.0.1", 8001)


@SITES
def test_requests_follow_each_other_on_both_connections(stock: bool) -> None:
    world = ProxyWorld(stock=stock)
    world.wake("a")
    client = world.client()
    client.send(chat() + chat())
    end = world.accept()
    for number in range(5):
        assert end.take().count(b"POST") == 1
        end.send(PLAIN)
        assert client.received.count(b"hello") == number + 1
        if number >= 1:
            client.send(chat())
    assert world.attempts() == 0


@SITES
def test_a_client_that_does_not_read_pauses_the_backend(stock: bool) -> None:
    world, client, end = exchange_begun(stock=stock)
    end.send(OK + b"Content-Length: 100\r\n\r\n12345")
    client.block()
    assert end.transport.producerState == "paused"
    client.unblock()
    assert end.transport.producerState == "producing"
    client.block()
    client.leave()
    assert end.transport.aborted
    assert world.in_flight() == 0
    world.check_nothing_is_timed()


@SITES
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 2", OK + b"Content-Length: 9\r\n\r\nab"])
def test_a_client_that_leaves_ends_the_exchange(stock: bool, sent: bytes) -> None:
    world, client, end = exchange_begun(stock=stock)
    end.send(sent)
    assert world.in_flight() == 1
    client.leave()
    assert end.transport.aborted
    assert world.in_flight() == 0
    end.close()


@SITES
def test_a_client_that_leaves_before_there_is_a_connection(stock: bool) -> None:
    world = ProxyWorld(stock=stock)
    world.wake("a")
    client = world.client()
    client.send(chat())
    client.leave()
    assert world.in_flight() == 0
    assert world.accept().take() == b""


@SITES
def test_a_client_that_reads_slowly_holds_no_guard(stock: bool) -> None:
    world, client, end = exchange_begun(stock=stock)
    end.send(OK + b"Content-Length: 5\r\n\r\n123")
    client.block()
    client.unblock()
    end.send(b"45")
    assert world.in_flight() == 0


@SITES
def test_the_switcher_may_end_an_exchange(stock: bool) -> None:
    for sent, status in ((b"", 503), (OK + b"Content-Length: 9\r\n\r\nab", 200)):
        world = ProxyWorld(stock=stock, drain_timeout=5.0)
        world.wake("a")
        client = world.client()
        client.send(chat())
        end = world.accept()
        end.send(sent)
        world.client().send(chat("b"))
        world.advance(4)
        assert not end.transport.aborted
        world.advance(2)
        assert end.transport.aborted
        (reply,) = replies(client.received, [b"POST"], closed=False)
        assert reply.status == status
        assert client.cut_off == (status == 200)
        if status == 503:
            assert b"drained for 5 s" in reply.body
            assert reply.header(b"retry-after") is not None
        end.close()
        world.advance(3)


def test_a_guarded_resource_and_its_caller_provide_their_interfaces() -> None:
    assert verifyClass(IGuardedResource, ProxyResource)
    for stock, kind in ((False, LlmuxRequest), (True, StockCaller)):
        turns: list[ITurn] = []
        world = ProxyWorld(stock=stock, wrapped=Guarded(turns.append))
        world.wake("a")
        world.client().send(chat())
        (turn,) = turns
        assert isinstance(turn.caller, kind)
        assert verifyObject(ICaller, turn.caller)
        assert turn.caller.body.in_memory() == b'{"model": "a", "x": ""}'
        assert turn.caller.head.path == b"/v1/chat/completions"
        turn.end()


def test_a_body_that_cannot_be_opened_ends_the_exchange_with_its_backend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def out_of_descriptors(descriptor: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    world, client, end = exchange_begun()
    end.send(PLAIN)
    world.settle()
    before = client.received
    # The next body, on the same connections, lies in a file.
    client.send(chat(padding=2_000_000)[:-1])
    monkeypatch.setattr(os, "dup", out_of_descriptors)
    client.send(chat(padding=2_000_000)[-1:])
    world.settle()
    (reply,) = replies(client.received[len(before) :], [b"POST"], closed=client.closed)
    assert reply.status == 502
    assert end.transport.aborted
    assert world.in_flight() == 0
    # Nothing that the backend still sends reaches the client, whose next request has another
    # reply.
    end.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
    world.settle()
    assert b"408" not in client.received

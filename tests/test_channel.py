"""
These tests check the channel without sockets: order, the fast path, back-pressure, its end.
"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.interfaces import IProtocol, IPullProducer, IPushProducer
from zope.interface import implementer
from zope.interface.verify import verifyObject

from llmux.web.body import BodyStorage
from llmux.web.channel import LlhttpChannel
from llmux.web.limits import MOST_AHEAD, Limits
from llmux.web.reply_channel import IReplyChannel
from llmux.web.request import LlmuxRequest
from tests.channel_bench import GET, Bench, Echo, Held, Producer, held_of
from tests.web_fakes import Leaf


@pytest.fixture
def held() -> Bench:
    return Bench(Held())


@pytest.fixture
def echo() -> Bench:
    return Bench(Echo())


def test_a_channel_provides_its_interfaces(echo: Bench) -> None:
    channel = echo.client().channel
    verifyObject(IProtocol, channel)
    verifyObject(IReplyChannel, channel)
    verifyObject(IPushProducer, channel)


# ------------------------------------------------------------------ requests


def test_a_connection_carries_several_requests(echo: Bench) -> None:
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
    """A socket that is not read does not tell that its client has left."""
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
    # One request is being answered; the storage counts the bytes that are not parsed yet.
    assert held.site.storage.in_memory == len(GET) * (500 - 1 - 16)


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
    """
    The bytes that one client sends ahead are part of what all clients together may take.
    """
    storage = held.site.storage = BodyStorage(max_memory=100_000)
    first, second = held.client(), held.client()
    for client in (first, second):
        client.send(GET)
        client.send(GET * 2000)
    assert 90_000 < storage.in_memory < 120_000
    first.send(GET * 1500)
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
    """Other clients have their turn before a thousand pipelined requests are answered."""
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
def test_a_connection_stays_open_if_version_and_header_say_so(
    echo: Bench, head: bytes, stays: bool
) -> None:
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


def test_a_body_is_read_with_a_length_or_in_chunks(echo: Bench) -> None:
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
def test_a_target_is_reduced_to_its_path(echo: Bench, target: bytes, uri: bytes) -> None:
    client = echo.client()
    client.send(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    (reply,) = client.replies()
    assert reply.body == b"GET " + uri + b" "


def test_options_of_the_whole_server_are_answered(echo: Bench) -> None:
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


def test_the_headers_of_a_remembered_head_are_those_of_this_request(held: Bench) -> None:
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


def test_a_pull_producer_is_asked_for_all_it_has(echo: Bench, tmp_path: Any) -> None:
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


def test_a_reply_may_be_written_as_bytes(held: Bench) -> None:
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


def test_an_aborted_reply_calls_its_producer_no_more(held: Bench) -> None:
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


def test_a_stopped_site_closes_each_connection_after_its_last_reply(held: Bench) -> None:
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


def test_an_aborted_site_closes_connections_in_mid_request(held: Bench) -> None:
    client = held.client()
    client.send(GET)
    held.site.abort_all()
    assert not client.wire.connected
    assert client.wire.said() == b""


@pytest.mark.parametrize("target", [b"/\nr:", b"HTTP://\nr:", b"http://x/\nr:", b"/a\nr:"])
@pytest.mark.parametrize("size", [1, 9000])
def test_a_line_feed_in_the_target_is_refused(echo: Bench, target: bytes, size: int) -> None:
    """
    A line feed that is passed on would begin another line for a backend that takes LF for a
    line's end.
    """
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

"""These tests check what the channel refuses, and when a client may send its body."""

from __future__ import annotations

import tempfile
from typing import Any

import pytest
from twisted.internet.task import Clock

from llmux.web.reader import RequestReader
from llmux.web.site import LlmuxSite
from tests.channel_bench import EXPECTING, GET, Bench, Client, Echo, Held, held_of


@pytest.fixture
def held() -> Bench:
    return Bench(Held())


@pytest.fixture
def echo() -> Bench:
    return Bench(Echo())


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
def test_a_malformed_request_is_refused_and_its_connection_closed(
    echo: Bench, data: bytes, status: int
) -> None:
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
    """
    Java's HttpClient and curl --http2 make such an offer with each request (RFC 9110, 7.8).
    """
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

    monkeypatch.setattr(RequestReader, "feed", broken)
    for _ in range(3):
        client = held.client()
        client.send(GET)
        assert client.statuses() == [500]
    assert len(logged_failures.flush(ZeroDivisionError)) == 1


def test_a_head_of_too_many_fields_is_refused_before_its_end(echo: Bench) -> None:
    """Sixteen thousand fields would take 30 ms in one turn."""
    client = echo.client()
    client.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * 2000)
    assert client.statuses() == [431]
    reader = client.channel._reader
    assert reader is not None and len(reader._headers) == 21


def test_a_large_body_without_room_is_refused_with_507(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_client_that_expects_it_is_told_to_continue(echo: Bench) -> None:
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

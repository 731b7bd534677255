"""These tests check how long the channel waits for a client."""

from __future__ import annotations

import pytest

from llmux.web.limits import Limits
from tests.channel_bench import EXPECTING, GET, Bench, Echo, Held, held_of


@pytest.fixture
def held() -> Bench:
    return Bench(Held())


@pytest.fixture
def echo() -> Bench:
    return Bench(Echo())


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
    """A byte now and then does not keep a connection open."""
    client = echo.client()
    client.send(begin)
    for _ in range(125):
        client.send(more)
        echo.clock.pump([1])
    assert client.statuses() == [408]
    echo.clock.pump([1] * 7)
    assert not client.wire.connected


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

"""These tests check the time limits of an exchange: for its client, and for its backend."""

from __future__ import annotations

import pytest

from tests.proxy_answers import OK, PLAIN, SITES
from tests.proxy_world import ProxyWorld, chat, exchange_begun
from tests.web_fakes import replies


@SITES
def test_a_stalled_client_is_cut_off_while_others_wait(stock: bool) -> None:
    world, client, end = exchange_begun(stock=stock, client_stall_timeout=60.0)
    end.send(OK + b"Content-Length: 900\r\n\r\nab")
    client.block()
    world.advance(100, step=1)
    assert not end.transport.aborted
    other = world.client()
    other.send(chat("b"))
    world.advance(8, step=1)
    assert end.transport.aborted
    assert client.cut_off
    world.advance(3)
    assert world.in_flight() == 0
    world.accept().send(PLAIN)
    assert other.received.endswith(b"hello")
    for each in (client, other):
        each.leave()
    world.check_nothing_is_timed()


@SITES
def test_a_client_that_reads_again_is_no_longer_watched(stock: bool) -> None:
    world, client, end = exchange_begun(stock=stock, client_stall_timeout=60.0)
    end.send(OK + b"Content-Length: 900\r\n\r\nab")
    client.block()
    world.client().send(chat("b"))
    world.advance(30, step=1)
    client.unblock()
    world.advance(100, step=1)
    assert not end.transport.aborted
    client.block()
    world.advance(50, step=1)
    assert not end.transport.aborted
    world.advance(20, step=1)
    assert end.transport.aborted


def test_a_slow_client_is_not_a_stalled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    world, client, end = exchange_begun(client_stall_timeout=60.0)
    end.send(OK + b"Content-Length: 900\r\n\r\nab")
    left = 1_000_000
    monkeypatch.setattr("llmux.proxy.relay.unsent", lambda transport: left)
    client.block()
    world.client().send(chat("b"))
    for _ in range(10):
        world.advance(30, step=1)
        left -= 1
    assert not end.transport.aborted
    world.advance(70, step=1)
    assert end.transport.aborted


# ------------------------------------------------------ a first byte that is due


@SITES
def test_a_backend_that_does_not_begin_its_reply_fares_as_one_that_refuses(
    stock: bool,
) -> None:
    world, client, end = exchange_begun(stock=stock, first_byte_timeout=10.0)
    world.advance(9)
    assert not end.transport.aborted
    world.advance(2)
    # The backend is alive, so another try would not succeed either.
    assert end.transport.aborted
    (reply,) = replies(client.received, [b"POST"], closed=False)
    assert reply.status == 502
    assert b"did not begin its reply within 10 s" in reply.body
    assert world.in_flight() == 0


@SITES
def test_a_dead_backend_that_does_not_begin_its_reply_is_woken_again(stock: bool) -> None:
    world = ProxyWorld(stock=stock, first_byte_timeout=10.0)
    world.wake("a")
    client = world.client()
    client.send(chat())
    world.accept()
    world.hooks.awake.discard("a")
    world.advance(12)
    world.accept().send(PLAIN)
    assert client.received.endswith(b"hello")
    assert world.in_flight() == 0


@SITES
def test_after_the_first_byte_there_is_no_limit(stock: bool) -> None:
    world, client, end = exchange_begun(stock=stock, first_byte_timeout=10.0)
    end.send(OK + b"Content-Length: 5\r\n\r\n")
    world.advance(20)
    end.send(b"hello")
    assert client.received.endswith(b"hello")
    # No timer outlives a client, or a refusal.
    client = world.client()
    client.send(chat())
    client.leave()
    client = world.client()
    client.send(chat())
    world.accept().send(b"junk\r\n\r\n")
    before = [call for call in world.reactor.getDelayedCalls() if call.getTime() > 29]
    assert [call for call in before if "first_byte" in str(call)] == []
    world.advance(20)

"""These tests check requests that wait for their model, are refused it, or lose its backend."""

from __future__ import annotations

import pytest
from twisted.internet.defer import succeed
from twisted.internet.error import ConnectionRefusedError
from zope.interface import implementer

from llmux.interfaces import HookKind, HookResult, IRunningHook
from llmux.web.site import LlmuxSite
from tests.proxy_world import ProxyWorld, chat

from .proxy_answers import PLAIN, SITES, answer_to, error_of

CHUNKED_START = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"
REFUSED = ConnectionRefusedError()


# ---------------------------------------------------------------- waiting


@SITES
@pytest.mark.parametrize(
    ("value", "status"), [(b"awake", 409), (b" Awake", 409), (b"asleep", 400), (b"", 400)]
)
def test_a_request_may_want_no_wake(stock: bool, value: bytes, status: int) -> None:
    world = ProxyWorld(stock=stock)
    client = world.client()
    client.send(chat(headers=b"X-LLMux-Only-If:%s\r\n" % value))
    world.advance(10)
    assert error_of(client)[0] == status
    assert ("a", HookKind.WAKE) not in world.hooks.started


def test_a_request_that_wants_no_wake_is_served_by_a_model_that_is_awake() -> None:
    world = ProxyWorld()
    client = world.client()
    client.send(chat())
    world.advance(5)
    end = world.accept()
    end.send(PLAIN)
    end.take()
    client.send(chat(headers=b"X-LLMux-Only-If: awake\r\n"))
    assert end.take().startswith(b"POST ")


@SITES
def test_a_request_waits_for_its_model(stock: bool) -> None:
    world = ProxyWorld(stock=stock)
    world.script("a", HookKind.WAKE, 5.0)
    client = world.client()
    client.send(chat())
    world.advance(4)
    assert client.received == b""
    assert world.attempts() == 0
    world.advance(2)
    end = world.accept()
    assert end.take().startswith(b"POST ")
    end.send(PLAIN)
    assert answer_to(client).body == b"hello"
    assert world.in_flight() == 0


@SITES
def test_all_who_wait_get_their_turn_at_once(stock: bool) -> None:
    world = ProxyWorld(stock=stock)
    clients = [world.client() for _ in range(100)]
    for client in clients:
        client.send(chat())
    world.advance(3)
    assert world.in_flight() == 100
    ends = []
    while world.attempts():
        ends.append(world.accept())
    for end in ends:
        end.send(PLAIN)
    assert [answer_to(client).status for client in clients] == [200] * 100


@SITES
def test_who_leaves_waits_no_longer(stock: bool) -> None:
    world = ProxyWorld(stock=stock)
    world.script("a", HookKind.WAKE, 5.0)
    clients = [world.client() for _ in range(3)]
    for client in clients:
        client.send(chat())
    world.advance(1)
    clients[1].leave()
    assert {name: n for name, n, *_ in world.switcher.readings.per_model()}["a"] == 2
    world.advance(6)
    assert world.in_flight() == 2


@SITES
def test_a_failed_wake_is_answered_with_503_and_a_time_to_retry(stock: bool) -> None:
    world = ProxyWorld(stock=stock)
    world.script("a", HookKind.WAKE, 1.0, 3)
    client = world.client()
    client.send(chat())
    world.advance(3)
    status, message = error_of(client)
    assert status == 503
    assert "exit status 3" in message
    assert answer_to(client).header(b"retry-after") is not None
    assert world.requests_counted() == {("a", "503"): 1}


@SITES
def test_an_unknown_model_is_answered_with_404_and_not_counted(stock: bool) -> None:
    world = ProxyWorld(stock=stock)
    client = world.client()
    client.send(chat("nobody"))
    assert error_of(client) == (404, "Model not found: nobody")
    assert world.requests_counted() == {}


@SITES
def test_a_request_that_waits_too_long_is_answered_with_504(stock: bool) -> None:
    world = ProxyWorld(stock=stock, request_timeout=10.0)
    world.script("a", HookKind.WAKE, 50.0)
    client = world.client()
    client.send(chat())
    world.advance(9)
    assert client.received == b""
    world.advance(2)
    assert error_of(client)[0] == 504


@SITES
def test_a_request_that_waits_at_the_shutdown_is_answered_with_503(stock: bool) -> None:
    world = ProxyWorld(stock=stock)
    world.script("a", HookKind.WAKE, 50.0)
    client = world.client()
    client.send(chat())
    world.switcher.stop()
    assert error_of(client) == (503, "llmux is shutting down")
    assert answer_to(client).header(b"retry-after") is not None
    world.advance(40)


def test_large_bodies_wait_on_disk() -> None:
    world = ProxyWorld()
    world.script("a", HookKind.WAKE, 5.0)
    small, large = world.client(), world.client()
    small.send(chat())
    data = chat(padding=200_000)
    for at in range(0, len(data), 65536):
        large.send(data[at : at + 65536])
    assert isinstance(world.site, LlmuxSite)
    assert world.site.storage.spooled == 200_023
    assert world.site.storage.in_memory == 23
    world.advance(6)
    sent = [world.accept() for _ in range(2)]
    bodies = [end.take().partition(b"\r\n\r\n")[2] for end in sent]
    assert bodies == [chat().partition(b"\r\n\r\n")[2], chat(padding=200_000)[-200_023:]]
    for end in sent:
        end.send(PLAIN)
    assert answer_to(large).status == 200


# --------------------------------------------- backends that do not answer


@SITES
def test_a_backend_that_refuses_and_is_alive_is_answered_with_502(stock: bool) -> None:
    world = ProxyWorld(stock=stock)
    world.wake("a")
    client = world.client()
    client.send(chat())
    world.refuse(REFUSED)
    world.advance(1)
    status, message = error_of(client)
    assert status == 502
    assert "refused" in message
    assert world.in_flight() == 0


@SITES
def test_a_backend_that_has_died_is_woken_again_for_those_without_a_reply(
    stock: bool,
) -> None:
    world = ProxyWorld(stock=stock)
    world.wake("a")
    clients = [world.client() for _ in range(4)]
    for client in clients:
        client.send(chat())
    ends = [world.accept() for _ in range(4)]
    ends[0].send(CHUNKED_START)
    world.hooks.awake.discard("a")
    ends[1].close()
    world.advance(5)
    # One request was in the middle of its reply; the others wait for their second turn.
    assert clients[0].cut_off
    assert [end.transport.aborted for end in ends] == [True, False, True, True]
    for end in [world.accept() for _ in range(3)]:
        end.send(PLAIN)
    assert [answer_to(client).status for client in clients[1:]] == [200] * 3
    assert world.in_flight() == 0


@SITES
def test_there_is_no_third_turn(stock: bool) -> None:
    world = ProxyWorld(stock=stock)
    world.wake("a")
    client = world.client()
    client.send(chat())
    for _ in range(2):
        world.hooks.awake.discard("a")
        world.refuse(REFUSED)
        world.advance(5)
    assert error_of(client)[0] == 502
    assert world.attempts() == 0
    assert world.in_flight() == 0


@SITES
def test_a_request_is_sent_twice_at_most_whatever_the_reasons(stock: bool) -> None:
    world = ProxyWorld(stock=stock)
    world.wake("a")
    first, slow = world.client(), world.client()
    first.send(chat())
    used = world.accept()
    used.send(PLAIN)
    used.take()
    client = world.client()
    client.send(chat())
    slow.send(chat())
    world.accept().send(CHUNKED_START)
    # The model drains, so that a client without an answer may wait for another turn.
    world.client().send(chat("b"))
    assert used.take().startswith(b"POST ")
    used.close()
    anew = world.accept()
    assert anew.take().startswith(b"POST ")
    anew.close()
    world.advance(1)
    assert error_of(client)[0] == 502
    slow.leave()
    world.advance(20)
    assert world.in_flight() == 0


@SITES
def test_a_second_turn_is_not_repeated(stock: bool) -> None:
    world = ProxyWorld(stock=stock)
    world.wake("a")
    client = world.client()
    client.send(chat())
    world.hooks.awake.discard("a")
    world.accept().close()
    world.advance(5)
    end = world.accept()
    assert end.take().startswith(b"POST ")
    end.close()
    world.advance(1)
    assert error_of(client)[0] == 502


@SITES
def test_a_second_turn_on_a_used_connection_is_not_repeated(stock: bool) -> None:
    world = ProxyWorld(stock=stock)
    world.wake("a")
    other, client = world.client(), world.client()
    for one in (other, client):
        one.send(chat())
    world.hooks.awake.discard("a")
    for _ in range(2):
        world.refuse(REFUSED)
    world.advance(5)
    used = world.accept()
    used.send(PLAIN)
    assert used.take().count(b"POST ") == 2
    # The second connection is still being made.
    used.close()
    world.advance(1)
    assert error_of(client)[0] == 502
    world.accept()
    assert world.attempts() == 0


@SITES
def test_a_repetition_that_did_not_go_out_leaves_another_turn(stock: bool) -> None:
    world = ProxyWorld(stock=stock)
    world.wake("a")
    world.client().send(chat())
    used = world.accept()
    used.send(PLAIN)
    client = world.client()
    client.send(chat())
    world.hooks.awake.discard("a")
    used.close()
    world.refuse(REFUSED)
    world.advance(5)
    world.accept().send(PLAIN)
    assert answer_to(client).status == 200


@SITES
def test_nothing_is_repeated_to_a_model_on_its_way_to_sleep(stock: bool) -> None:
    world = ProxyWorld(stock=stock, drain_before_switch=False, min_active=5.0)
    world.wake("a")
    world.advance(5)
    world.client().send(chat())
    used = world.accept()
    used.send(PLAIN)
    client = world.client()
    client.send(chat())
    world.script("a", HookKind.SLEEP, 2.0)
    world.client().send(chat("b"))
    world.settle()
    assert ("a", HookKind.SLEEP) in world.hooks.started
    used.close()
    world.advance(1)
    assert world.attempts() == 0
    assert client.received == b""
    # The request waits for its model's next turn, after the other model's.
    for _ in range(2):
        world.advance(3)
        world.accept().send(PLAIN)
        world.advance(5)
    assert answer_to(client).status == 200


@SITES
def test_who_waits_for_a_connection_does_not_reach_a_model_on_its_way_to_sleep(
    stock: bool,
) -> None:
    world = ProxyWorld(stock=stock, drain_before_switch=False, min_active=5.0)
    world.wake("a")
    world.advance(5)
    client, leaves = world.client(), world.client()
    for one in (client, leaves):
        one.send(chat())
    world.script("a", HookKind.SLEEP, 2.0)
    world.client().send(chat("b"))
    assert ("a", HookKind.SLEEP) in world.hooks.started
    leaves.leave()
    assert world.attempts() == 0
    for _ in range(2):
        world.advance(3)
        world.accept().send(PLAIN)
        world.advance(5)
    assert answer_to(client).status == 200
    assert world.in_flight() == 0


@SITES
def test_who_leaves_while_the_backend_is_in_doubt(stock: bool) -> None:
    world = ProxyWorld(stock=stock)
    world.wake("a")
    world.script("a", HookKind.ALIVE, 5.0)
    client = world.client()
    client.send(chat())
    world.refuse(REFUSED)
    client.leave()
    world.advance(10)
    assert client.received == b""
    assert world.attempts() == 0
    assert world.in_flight() == 0


@SITES
def test_a_hook_that_says_no_at_once_lets_the_request_wait_again(
    stock: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = ProxyWorld(stock=stock)
    world.wake("a")
    start = world.hooks.start

    @implementer(IRunningHook)
    class NotStarted:
        exited = succeed(HookResult(1, False, 0.0, "exit status 1"))

        def kill(self) -> None:
            """Do nothing, for the hook does not run."""

    def no_alive(model: str, hook: HookKind) -> IRunningHook:
        return NotStarted() if hook is HookKind.ALIVE else start(model, hook)

    monkeypatch.setattr(world.hooks, "start", no_alive)
    client = world.client()
    client.send(chat())
    world.refuse(REFUSED)
    assert client.received == b"", "it waits for another turn"
    monkeypatch.undo()
    world.advance(5)
    world.accept().send(PLAIN)
    assert answer_to(client).body == b"hello"
    assert world.in_flight() == 0


@SITES
def test_the_second_turn_keeps_the_first_ones_deadline(stock: bool) -> None:
    world = ProxyWorld(stock=stock, request_timeout=20.0)
    world.wake("a")
    client = world.client()
    client.send(chat())
    world.advance(15)
    world.script("a", HookKind.WAKE, 50.0)
    world.hooks.awake.discard("a")
    world.refuse(REFUSED)
    world.advance(4)
    assert client.received == b""
    world.advance(2)
    assert error_of(client)[0] == 504


@SITES
def test_a_backend_that_talks_nonsense_is_not_asked_again(stock: bool) -> None:
    world = ProxyWorld(stock=stock)
    world.wake("a")
    client = world.client()
    client.send(chat())
    world.accept().send(b"220 smtp.example ESMTP\r\n")
    assert error_of(client)[0] == 502
    assert HookKind.ALIVE not in [run.hook for run in world.hooks.running]

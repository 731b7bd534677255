"""These tests check Resources of other kinds that wait for a model, and other Sites."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface.verify import verifyObject

from llmux.backend.template import RequestTemplate
from llmux.proxy import switching_resource
from llmux.proxy.guarded import ITurn
from tests.conftest import LoggedFailures
from tests.proxy_world import Guarded, ProxyWorld, chat
from tests.web_fakes import replies

from .proxy_answers import PLAIN, SITES, answer_to, error_of

# ------------------------------------------------------------ other Resources


class Plain(Resource):
    """This Resource answers at once, later, or by raising; it keeps its requests."""

    def __init__(self, answer: bytes | int | Exception) -> None:
        Resource.__init__(self)
        self.answer = answer
        self.requests: list[Any] = []

    def getChild(self, path: bytes, request: IRequest) -> IResource:
        return self

    def render(self, request: IRequest) -> bytes | int:
        self.requests.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@SITES
def test_a_resource_that_answers_at_once_waits_for_its_model_first(stock: bool) -> None:
    wrapped = Plain(b"done")
    world = ProxyWorld(stock=stock, wrapped=wrapped)
    client = world.client()
    client.send(chat())
    assert wrapped.requests == []
    world.advance(3)
    assert answer_to(client).body == b"done"
    assert [request.llmux_model for request in wrapped.requests] == ["a"]
    assert world.in_flight() == 0
    client.send(chat())
    assert len(wrapped.requests) == 2


@SITES
@pytest.mark.parametrize("leaves", [False, True])
def test_a_resource_that_answers_later_holds_its_model(stock: bool, leaves: bool) -> None:
    wrapped = Plain(NOT_DONE_YET)
    world = ProxyWorld(stock=stock, wrapped=wrapped)
    world.wake("a")
    client = world.client()
    client.send(chat())
    world.client().send(chat("b"))
    world.advance(5)
    assert world.in_flight() == 1
    if leaves:
        client.leave()
    else:
        wrapped.requests[0].write(b"late")
        wrapped.requests[0].finish()
        assert answer_to(client).body == b"late"
    assert world.in_flight() == 0
    world.advance(5)
    assert [request.llmux_model for request in wrapped.requests] == ["a", "b"]


@SITES
def test_a_resource_that_raises_is_answered_with_500(
    stock: bool, logged_failures: LoggedFailures
) -> None:
    for waits in (False, True):
        world = ProxyWorld(stock=stock, wrapped=Plain(ValueError("broken")))
        if not waits:
            world.wake("a")
        client = world.client()
        client.send(chat())
        world.advance(3)
        assert answer_to(client).status == 500
        assert world.in_flight() == 0
    assert len(logged_failures.flush(ValueError)) == 2


@SITES
@pytest.mark.parametrize("waits", [False, True], ids=["used connection", "new connection"])
def test_an_exchange_that_cannot_start_on_its_connection_ends(
    stock: bool, waits: bool, monkeypatch: pytest.MonkeyPatch, logged_failures: LoggedFailures
) -> None:
    def broken(*args: object) -> None:
        raise ValueError("broken")

    world = ProxyWorld(stock=stock)
    world.wake("a")
    client = world.client()
    if not waits:
        client.send(chat())
        end = world.accept()
        end.send(PLAIN)
        world.settle()
    before = len(client.received)
    monkeypatch.setattr(RequestTemplate, "render", broken)
    client.send(chat())
    if waits:
        end = world.accept()
    world.settle()
    assert replies(client.received[before:], [b"POST"], closed=client.closed)[0].status == 502
    # The backend's connection, which may have seen half a request, is not used again.
    assert end.transport.aborted
    assert world.in_flight() == 0
    assert len(logged_failures.flush(ValueError)) == 1


@SITES
def test_a_guarded_resource_that_raises_is_answered_with_500(
    stock: bool, logged_failures: LoggedFailures
) -> None:
    def broken(turn: object) -> None:
        raise ValueError("broken")

    for waits in (False, True):
        world = ProxyWorld(stock=stock, wrapped=Guarded(broken))
        if not waits:
            world.wake("a")
        client = world.client()
        client.send(chat())
        world.advance(3)
        assert error_of(client)[0] == 500
        assert world.in_flight() == 0
    assert len(logged_failures.flush(ValueError)) == 2


@SITES
def test_a_resource_without_a_model_is_served_at_once(stock: bool) -> None:
    wrapped = Plain(b"no model")
    world = ProxyWorld(stock=stock, wrapped=wrapped)
    client = world.client()
    client.send(b"GET /x/y HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer_to(client, b"GET").body == b"no model"


@SITES
def test_the_exchange_of_a_turn_may_be_ended(stock: bool) -> None:
    world = ProxyWorld(stock=stock, wrapped=Plain(NOT_DONE_YET), drain_timeout=5.0)
    world.wake("a")
    client = world.client()
    client.send(chat())
    world.client().send(chat("b"))
    world.advance(6)
    assert client.cut_off
    assert world.in_flight("a") == 0
    client.leave()


# ------------------------------------------------------- under any other Site


def test_upgrades_are_refused_under_a_stock_site() -> None:
    world = ProxyWorld(stock=True)
    client = world.client()
    client.send(chat(headers=b"Connection: upgrade\r\nUpgrade: websocket\r\n"))
    assert error_of(client)[0] == 501


def test_too_large_a_body_under_a_stock_site() -> None:
    world = ProxyWorld(stock=True, max_body=1000)
    client = world.client()
    client.send(chat(padding=2000))
    assert error_of(client)[0] == 413


# -------------------------------------------------------- names found later


@SITES
@pytest.mark.parametrize("found", ["a", None, ValueError("broken")])
def test_a_name_that_is_found_later(
    stock: bool,
    found: str | Exception | None,
    monkeypatch: pytest.MonkeyPatch,
    logged_failures: LoggedFailures,
) -> None:
    searches: list[Deferred[str | None]] = []

    def search(*arguments: object) -> Deferred[str | None]:
        searches.append(Deferred())
        return searches[-1]

    monkeypatch.setattr(switching_resource, "find_model", search)
    world = ProxyWorld(stock=stock)
    world.wake("a")
    client = world.client()
    client.send(chat())
    assert client.received == b""
    if isinstance(found, Exception):
        searches[0].errback(found)
        assert answer_to(client).status == 500
        assert logged_failures.flush(ValueError)
    else:
        searches[0].callback(found)
        if found is None:
            assert error_of(client)[0] == 400
        else:
            world.accept().send(PLAIN)
            assert answer_to(client).status == 200
    assert world.in_flight() == 0


@SITES
def test_who_leaves_during_the_search(stock: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled: list[object] = []
    monkeypatch.setattr(switching_resource, "find_model", lambda *_: Deferred(cancelled.append))
    world = ProxyWorld(stock=stock)
    client = world.client()
    client.send(chat())
    client.leave()
    assert len(cancelled) == 1


def test_a_turn_provides_its_interface() -> None:
    turns: list[Any] = []
    world = ProxyWorld(wrapped=Guarded(turns.append))
    world.wake("a")
    client = world.client()
    client.send(chat())
    assert verifyObject(ITurn, turns[0])
    turns[0].guard.release()

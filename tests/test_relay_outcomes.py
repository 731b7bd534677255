"""
These tests check how llmux counts and logs the ends of exchanges, and what llmux refuses by
itself.
"""

from __future__ import annotations

import json

import pytest

from llmux.monitoring.log import format_json, format_text
from tests.conftest import LoggedEvents
from tests.proxy_answers import OK, PLAIN, SITES
from tests.proxy_world import ProxyWorld, chat, exchange_begun
from tests.web_fakes import replies

EVENTS = OK + b"Transfer-Encoding: chunked\r\n\r\n"
DONE = b"e\r\ndata: [DONE]\n\n\r\n"


@SITES
def test_requests_are_counted_by_model_and_status(stock: bool) -> None:
    world = ProxyWorld(stock=stock)
    world.wake("a")
    for reply in (PLAIN, b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", b"junk\r\n\r\n"):
        client = world.client()
        client.send(chat())
        world.accept().send(reply)
        world.pool.forget("10.0.0.1", 8001)
    client = world.client()
    client.send(chat("nobody"))
    assert world.requests_counted() == {("a", "200"): 1, ("a", "404"): 1, ("a", "502"): 1}
    (answer,) = replies(client.received, [b"POST"], closed=False)
    assert answer.status == 404


@SITES
@pytest.mark.parametrize(
    ("pieces", "answered"),
    [
        ([EVENTS + b"3\r\nabc\r\n", DONE], True),
        ([EVENTS + DONE], True),
        ([EVENTS + b"3\r\nabc\r\n"], False),
        ([EVENTS, DONE, b"3\r\nabc\r\n"], False),
        ([], False),
    ],
)
def test_a_client_that_leaves_after_the_last_event_was_answered(
    stock: bool, pieces: list[bytes], answered: bool
) -> None:
    world = ProxyWorld(stock=stock, observed=True)
    world.wake("a")
    world.completed.clear()
    client = world.client()
    client.send(chat())
    end = world.accept()
    for piece in pieces:
        end.send(piece)
    client.leave()
    assert world.completed == [answered]
    assert end.transport.aborted


@SITES
@pytest.mark.parametrize("closes", [False, True])
def test_a_reply_that_is_cut_off_is_logged_and_counted(
    stock: bool, closes: bool, logged: LoggedEvents
) -> None:
    world, client, end = exchange_begun(stock=stock)
    end.send(EVENTS + b"3\r\nabc\r\n")
    if closes:
        end.close()
        reason = "the backend closed the connection in mid-reply"
    else:
        end.send(b"zz\r\n")
        reason = "the backend sent an invalid reply"
    assert client.cut_off
    assert logged.of("reply_cut_off") == [
        f"reply cut off for /v1/chat/completions (model a): {reason}"
    ]
    assert f'reason="{reason}"' in world.metrics.expose().decode()
    assert world.doubts == ["a"]


@SITES
@pytest.mark.parametrize(("status", "doubts"), [(499, []), (500, ["a"]), (503, ["a"])])
def test_a_reply_of_5xx_casts_doubt_on_its_backend(
    stock: bool, status: int, doubts: list[str]
) -> None:
    world = ProxyWorld(stock=stock, observed=True)
    world.wake("a")
    client = world.client()
    client.send(chat())
    world.accept().send(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)
    assert world.doubts == doubts
    assert world.completed[-1:] == [True]


@SITES
def test_what_llmux_refuses_by_itself_is_logged(stock: bool, logged: LoggedEvents) -> None:
    world = ProxyWorld(stock=stock)
    world.wake("a")
    client = world.client()
    client.send(chat("x" * 1000))
    client = world.client()
    client.send(chat())
    world.accept().send(b"junk\r\n\r\n")
    client = world.client()
    client.send(b"GET /unknown HTTP/1.1\r\nHost: x\r\n\r\n")
    path = "/v1/chat/completions"
    lines = logged.of("request_refused")
    assert len(lines[0]) < 1500
    assert lines[0].startswith(f"404 for {path} (model xxx")
    assert lines[1] == (
        f"502 for {path} (model a): The model's backend did not answer: "
        "the backend sent an invalid reply"
    )
    assert lines[2].startswith("404 for /unknown: ")
    (event,) = [e for e in logged.events if e.get("status") == 502]
    assert format_text(event).endswith("the backend sent an invalid reply")
    fields = json.loads(format_json(event)).keys()
    assert fields - {"time", "level", "namespace", "message"} == {
        "event", "status", "path", "model", "reason",
    }  # fmt: skip


def test_a_flood_of_refusals_is_counted(logged: LoggedEvents) -> None:
    world = ProxyWorld()
    for _ in range(100):
        world.client().send(chat("nobody"))
    assert len(logged.of("request_refused")) == 10
    world.advance(1)
    (line,) = logged.of("refusals_left_out")
    assert line.startswith("90 more ")
    world.client().send(chat("nobody"))
    assert len(logged.of("request_refused")) == 11
    world.advance(2)
    assert len(logged.of("refusals_left_out")) == 1

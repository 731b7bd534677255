"""These tests check errors in OpenAI's shape, wherever they are sent."""

from __future__ import annotations

import json

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.web.server import NOT_DONE_YET, Request, Site

from llmux.errors import (
    HookFailed,
    ModelNotFound,
    NotReady,
    SwitchError,
    SwitchTimeout,
)
from llmux.proxy.refusals import backend_error, from_switch_error
from llmux.web.error_reply import ApiError, answer, raw_reply
from llmux.web.site import LlmuxSite
from tests.web_fakes import Leaf, Reply, Wire, replies

INVALID, SERVER = "invalid_request_error", "server_error"


@pytest.mark.parametrize(
    ("error", "status", "kind", "code", "param"),
    [
        (ModelNotFound("m"), 404, INVALID, "model_not_found", "model"),
        (NotReady("m", "stopping"), 503, SERVER, "model_not_ready", None),
        (SwitchTimeout("m", 5), 504, SERVER, "switch_timeout", None),
        (HookFailed("m", "exit status 1"), 503, SERVER, "hook_failed", None),
        (SwitchError("m", "a fault"), 500, SERVER, "internal_error", None),
    ],
)
def test_an_error_of_a_switch_becomes_an_error_of_the_api(
    error: SwitchError, status: int, kind: str, code: str, param: str | None
) -> None:
    made = from_switch_error(error)
    assert made.status == status
    assert json.loads(made.body()) == {
        "error": {"message": str(error), "type": kind, "code": code, "param": param}
    }
    headers = dict(made.headers())
    assert headers.pop(b"Content-Type") == b"application/json"
    assert headers == ({b"Retry-After": b"5"} if status == 503 else {})


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.0, b"1"), (0.2, b"1"), (2.0, b"2"), (2.1, b"3")]
)
def test_the_time_to_retry_is_rounded_up_to_a_whole_second(seconds: float, said: bytes) -> None:
    made = from_switch_error(HookFailed("m", "exit status 1", seconds))
    assert dict(made.headers())[b"Retry-After"] == said


def test_an_error_has_the_words_of_the_reference() -> None:
    assert from_switch_error(ModelNotFound("m")).message == "Model not found: m"
    assert backend_error("it refused").status == 502


@pytest.mark.parametrize(
    "status", [400, 404, 405, 408, 413, 414, 417, 431, 500, 501, 502, 503, 504, 505, 507]
)
def test_a_raw_reply_is_whole_with_a_body_or_without(status: int) -> None:
    error = ApiError(status, "wé")
    (reply,) = replies(raw_reply(error), [b"GET"], closed=True)
    assert (reply.status, reply.whole, reply.body) == (status, True, error.body())
    said = json.loads(reply.body)["error"]
    assert said["message"] == "wé"
    assert said["code"]
    (reply,) = replies(raw_reply(error, with_body=False), [b"HEAD"], closed=True)
    assert (reply.whole, reply.body) == (True, b"")


class Fails(Leaf):
    def render(self, request: Request) -> int:
        answer(request, ApiError(503, "not now", retry_after=2))
        return NOT_DONE_YET


def said(site: Site, method: bytes) -> Reply:
    wire = Wire()
    channel = site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
    assert channel is not None
    wire.connect(channel)
    channel.dataReceived(method + b" / HTTP/1.1\r\nHost: x\r\n\r\n")
    (reply,) = replies(wire.said(), [method], closed=False)
    wire.lose()
    return reply


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_an_error_is_the_same_on_any_channel(method: bytes) -> None:
    body = ApiError(503, "not now").body()
    for site in (LlmuxSite(Fails(), Clock()), Site(Fails(), reactor=Clock())):
        reply = said(site, method)
        assert (reply.status, reply.whole) == (503, True)
        assert reply.body == (body if method == b"GET" else b"")
        assert reply.header(b"content-length") == b"%d" % len(body)
        assert reply.header(b"retry-after") == b"2"

"""
These tests check what requests that name no model are told, through llmux's own Site and a
stock Site.
"""

from __future__ import annotations

import json

import pytest

from tests.proxy_world import ProxyWorld
from tests.web_fakes import replies

SITES = pytest.mark.parametrize("stock", [False, True], ids=["ours", "stock"])


def told(stock: bool, body: bytes, headers: bytes = b"", line: bytes = b"POST /v1/x") -> str:
    """Send a request, and return the status and the message of the error."""
    world = ProxyWorld(stock=stock)
    client = world.client()
    client.send(
        b"%b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b"
        % (line, headers, len(body), body)
    )
    world.settle()
    (reply,) = replies(client.received, [b"POST"], closed=client.closed)
    error = json.loads(reply.body)["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == ("model" if reply.status == 400 else None)
    return f"{reply.status} {error['message']}"


KNOWN = " `model` must be one of: a, b."


@SITES
@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"{}", "The body has no `model`."),
        (b'{"models": "a"}', "The body has no `model`."),
        (b'{"model": 3}', "The body's `model` is a number, and no string."),
        (b'{"model": 3.5}', "The body's `model` is a number, and no string."),
        (b'{"model": true}', "The body's `model` is true or false, and no string."),
        (b'{"model": null}', "The body's `model` is null, and no string."),
        (b'{"model": ["a"]}', "The body's `model` is a list, and no string."),
        (b'{"model": {}}', "The body's `model` is an object, and no string."),
        (b'["a"]', "The body is a list, and no JSON object."),
        (b"3", "The body is a number, and no JSON object."),
        (b"null", "The body is null, and no JSON object."),
        (b'"a"', "The body is a string, and no JSON object."),
        (
            b'{"model": "a", "x"}',
            "The body is no JSON at column 19: expecting ':' delimiter.",
        ),
        (
            b'{"model": "a",\n "x" 1}',
            "The body is no JSON at line 2, column 6: expecting ':' delimiter.",
        ),
        (
            b"{'model': 'a'}",
            "The body is no JSON at column 2: expecting property name enclosed in double "
            "quotes (strings need double quotes).",
        ),
        (b"model=a", "The body is no JSON at column 1: expecting value."),
        (b'{"model": "\xff"}', "The body is no JSON: byte 11 is not UTF-8."),
        (
            '{"model": "a"}'.encode("utf-16"),
            "The body is UTF-16 or UTF-32: send JSON in UTF-8.",
        ),
        (
            '{"model": "a"}'.encode("utf-16-be"),
            "The body is UTF-16 or UTF-32: send JSON in UTF-8.",
        ),
        (
            b'{"x": ' + b"[" * 9000,
            "The body is no JSON that can be read here: it is nested too deeply.",
        ),
        (
            b'{"x": "' + b"y" * 70_000 + b'"}',
            "The body is no JSON object with a `model`, or it is not valid JSON.",
        ),
        (
            b'{"x": "' + b"y" * 1_500_000 + b'"}',
            "The body is no JSON object with a `model`, or it is not valid JSON.",
        ),
    ],
    ids=range(22),
)
def test_what_is_wrong_with_the_body_is_said(stock: bool, body: bytes, fault: str) -> None:
    assert told(stock, body) == f"400 {fault}{KNOWN}"


@SITES
@pytest.mark.parametrize(
    ("headers", "body", "fault"),
    [
        (
            b"Content-Encoding: gzip\r\n",
            b"\x1f\x8b\x08\x00",
            "The body is gzip, which is not understood here: send it as it is.",
        ),
        (
            b"Content-Type: multipart/form-data; boundary=b\r\n",
            b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\na\r\n--b--\r\n',
            "The form has no field `model`.",
        ),
        (
            b"Content-Type: application/x-www-form-urlencoded\r\n",
            b"model=a",
            "A form of this kind is not understood here: send JSON.",
        ),
        (
            b"Content-Type: application/x-www-form-urlencoded\r\n",
            b'{"model": 1}',
            "The body's `model` is a number, and no string.",
        ),
    ],
    ids=["gzip", "multipart", "urlencoded", "curl -d"],
)
def test_what_is_wrong_with_its_kind_is_said(
    stock: bool, headers: bytes, body: bytes, fault: str
) -> None:
    assert told(stock, body, headers) == f"400 {fault}{KNOWN}"


@SITES
@pytest.mark.parametrize("line", [b"GET /", b"GET /favicon.ico", b"OPTIONS /models?x=1"])
def test_a_path_that_is_nobodys_is_told_what_there_is(stock: bool, line: bytes) -> None:
    assert told(stock, b"", line=line) == (
        f"404 There is nothing at {line.decode()}. Here are GET /v1/models, GET /health, GET "
        "/ready, GET /metrics; and any request whose JSON body names a `model` goes to that "
        "model: a, b."
    )


@SITES
def test_a_request_that_should_have_a_body_is_told_so(stock: bool) -> None:
    assert told(stock, b"") == (
        "400 The request has no body. Send JSON whose `model` is one of: a, b."
    )

"""This module reads what llmux has answered to the clients of a L{ProxyWorld}."""

from __future__ import annotations

import json

import pytest

from tests.proxy_world import ClientEnd
from tests.web_fakes import Reply, replies

__all__ = ["OK", "PLAIN", "SITES", "answer_to", "error_of"]


SITES = pytest.mark.parametrize("stock", [False, True], ids=["ours", "stock"])
"""A test with this mark runs under llmux's own Site and under a stock one."""

OK = b"HTTP/1.1 200 OK\r\n"
"""This is the begin of a backend's reply."""

PLAIN = OK + b"Content-Length: 5\r\n\r\nhello"
"""This is a whole reply of a backend."""


def answer_to(client: ClientEnd, method: bytes = b"POST") -> Reply:
    """Return the only reply that a client has got."""
    (reply,) = replies(client.received, [method], closed=client.closed)
    return reply


def error_of(client: ClientEnd) -> tuple[int, str]:
    """Return the status and the message of the error that a client has got."""
    reply = answer_to(client)
    error = json.loads(reply.body)["error"]
    assert set(error) == {"message", "type", "code", "param"}
    return reply.status, error["message"]

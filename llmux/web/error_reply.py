"""
This module makes error replies in the format of OpenAI's API, which client libraries turn into
their own exceptions.
"""

from __future__ import annotations

import json
import math

from msgspec import Struct
from twisted.web.http import RESPONSES
from twisted.web.iweb import IRequest

__all__ = [
    "ApiError",
    "answer",
    "body_too_large",
    "internal_error",
    "raw_reply",
    "websocket_not_supported",
]

_CODES = {
    400: "invalid_request",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    501: "not_supported",
    502: "backend_error",
    503: "not_ready",
    504: "timeout",
    507: "insufficient_storage",
}


class ApiError(Struct, frozen=True):
    """
    An L{ApiError} is an error reply that has not been written yet.

    @ivar status: the HTTP status.
    @ivar message: what is wrong and what to do, in words for the client.
    @ivar code: a word for programs; if empty, a word that depends on the status.
    @ivar param: the field of the request that is at fault; or None.
    @ivar retry_after: after how many seconds to try again; or None.
    """

    status: int
    message: str
    code: str = ""
    param: str | None = None
    retry_after: float | None = None

    @property
    def type(self) -> str:
        """Return OpenAI's word for who is at fault, the client or the server."""
        return "invalid_request_error" if self.status < 500 else "server_error"

    def body(self) -> bytes:
        """Return the JSON document."""
        error = {
            "message": self.message,
            "type": self.type,
            "code": self.code or _CODES.get(self.status, "error"),
            "param": self.param,
        }
        return json.dumps({"error": error}).encode() + b"\n"

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers of the reply, except Content-Length."""
        headers = [(b"Content-Type", b"application/json")]
        if self.retry_after is not None:
            headers.append((b"Retry-After", b"%d" % max(1, math.ceil(self.retry_after))))
        return headers


def internal_error() -> ApiError:
    """Return the error for a defect in llmux, which is in the log."""
    return ApiError(500, "llmux made a mistake; its log says more.", "internal_error")


def websocket_not_supported() -> ApiError:
    """Return the error for a client that wants to speak WebSocket."""
    return ApiError(
        501,
        "WebSocket is not supported here: send a plain HTTP/1.1 request; replies stream as "
        "server-sent events.",
        "not_supported",
    )


def body_too_large(limit: int) -> ApiError:
    """
    Return the error for a request's body that is too large.

    @param limit: the largest size that is accepted, in bytes.
    """
    return ApiError(
        413,
        f"The request's body is larger than {limit} bytes, which is the most that this server "
        "takes (max_body_mb in its configuration).",
        "body_too_large",
    )


def answer(request: IRequest, error: ApiError) -> None:
    """Answer a request of any channel, which has not been answered yet, with this error."""
    answer_whole = getattr(request, "answer_whole", None)
    if answer_whole is not None:
        answer_whole(error.status, error.headers(), error.body())
        return
    request.setResponseCode(error.status)
    for name, value in error.headers():
        request.setHeader(name, value)
    body = error.body()
    request.setHeader(b"Content-Length", b"%d" % len(body))
    request.write(body)
    request.finish()


def raw_reply(error: ApiError, *, with_body: bool = True) -> bytes:
    """Return the bytes of a whole HTTP/1.1 error reply, the last of its connection."""
    body = error.body()
    lines = [b"HTTP/1.1 %d %b" % (error.status, RESPONSES.get(error.status, b"Error"))]
    lines += [b"%b: %b" % header for header in error.headers()]
    lines += [b"Content-Length: %d" % len(body), b"Connection: close", b"", b""]
    return b"\r\n".join(lines) + (body if with_body else b"")

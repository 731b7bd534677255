"""This module has the head of a request, and says what the fields in it mean to this server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["HEAD_END", "MEANINGFUL", "Fields", "RequestHead", "interpret"]

HEAD_END = b"\r\n\r\n"
"""A head, and the trailers after a body, end with the end of a line and an empty line."""

_OURS = frozenset(
    (
        b"content-length",
        b"content-type",
        b"expect",
        b"host",
        b"origin",
        b"transfer-encoding",
    )
)
_LLHTTPS = frozenset((b"connection", b"proxy-connection", b"upgrade"))

MEANINGFUL = _OURS | _LLHTTPS
"""
These fields, in lower case, change how a request is read or whether it is accepted: C{_OURS} by
L{interpret}, C{_LLHTTPS} by llhttp.  Any other field is passed on.
"""

_BLANKS = (b" ", b"\t")


class Fields:
    """
    L{Fields} are the fields of a head, and the values of those that mean something to this
    server.

    @ivar headers: the fields: names as they came, values without the whitespace around them.
    @ivar hosts: the number of Host fields.
    @ivar host: the last Host, or None.
    @ivar origins: the values of all Origin fields.
    @ivar length_at: the position of Content-Length among the headers, or -1.
    @ivar content_type: the first Content-Type, or None.
    @ivar expect: the last Expect, or None.
    @ivar coding: all Transfer-Encodings, joined by commas, or None.
    """

    __slots__ = (
        "coding",
        "content_type",
        "expect",
        "headers",
        "host",
        "hosts",
        "length_at",
        "origins",
    )

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.hosts = 0
        self.host: bytes | None = None
        self.origins: list[bytes] = []
        self.length_at = -1
        self.content_type: bytes | None = None
        self.expect: bytes | None = None
        self.coding: bytes | None = None


def interpret(headers: Iterable[tuple[bytes, bytes]]) -> Fields:
    """
    Return what these header fields, as llhttp gives them, mean to this server.  The memo of
    heads keeps the results; nothing else reads a request's fields.
    """
    fields = Fields()
    kept = fields.headers
    for name, value in headers:
        if value[-1:] in _BLANKS:
            value = value.rstrip(b" \t")
        kept.append((name, value))
        name = name.lower()
        if name not in _OURS:
            continue
        if name == b"host":
            fields.hosts += 1
            fields.host = value
        elif name == b"content-length":
            fields.length_at = len(kept) - 1
        elif name == b"content-type":
            if fields.content_type is None:
                fields.content_type = value
        elif name == b"transfer-encoding":
            coding = fields.coding
            fields.coding = value if coding is None else coding + b", " + value
        elif name == b"origin":
            fields.origins.append(value)
        else:
            fields.expect = value
    return fields


class RequestHead:
    """
    A L{RequestHead} is the part of a request before the body.  Nothing of it changes except
    C{derived}, so that later requests with the same head can share it.

    @ivar method: the method, as it came.
    @ivar uri: the target, in origin form (or C{*}): without the scheme and authority of an
        absolute-form target.
    @ivar path: C{uri} up to the query.
    @ivar version: C{b"HTTP/1.1"} or C{b"HTTP/1.0"}.
    @ivar headers: the headers: names as they came, values without the whitespace around them.
        In a shared head, the value of Content-Length is another request's; use L{headers_for}.
    @ivar length_at: the position of Content-Length among the headers, or -1.
    @ivar content_type: the first Content-Type, or None.
    @ivar keep_alive: whether the client may send another request on the connection.
    @ivar expects_continue: whether the client waits for C{100 Continue} before it sends the
        body.
    @ivar derived: what a forwarder of requests has computed from this head (everything but the
        length); None at first.
    """

    __slots__ = (
        "content_type",
        "derived",
        "expects_continue",
        "headers",
        "is_http_1_0",
        "keep_alive",
        "length_at",
        "method",
        "path",
        "uri",
        "version",
    )

    def __init__(
        self,
        method: bytes,
        uri: bytes,
        version: bytes,
        headers: tuple[tuple[bytes, bytes], ...],
        keep_alive: bool,
        *,
        path: bytes | None = None,
        length_at: int = -1,
        content_type: bytes | None = None,
        expects_continue: bool = False,
    ) -> None:
        self.method = method
        self.uri = uri
        self.path = uri.partition(b"?")[0] if path is None else path
        self.version = version
        self.is_http_1_0 = version == b"HTTP/1.0"
        self.headers = headers
        self.keep_alive = keep_alive
        self.length_at = length_at
        self.content_type = content_type
        self.expects_continue = expects_continue
        self.derived: Any = None

    def headers_for(self, length: int) -> list[tuple[bytes, bytes]]:
        """Return the headers of a request with this head and a body of C{length} bytes."""
        headers = list(self.headers)
        at = self.length_at
        if at >= 0 and int(headers[at][1]) != length:
            headers[at] = (headers[at][0], b"%d" % length)
        return headers

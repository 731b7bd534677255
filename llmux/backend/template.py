"""
This module writes the head of a request as bytes, and chooses which of its lines go on to the
backend.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from llmux.backend.reply import HOP_BY_HOP

__all__ = ["Repeats", "RequestTemplate"]

_REWRITTEN = frozenset({b"content-length", b"expect", b"host"})
_EXPECT_A_BODY = frozenset({b"PATCH", b"POST", b"PUT"})
_IDEMPOTENT = frozenset({b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PUT", b"TRACE"})


class Repeats(Enum):
    """
    L{Repeats} says whether a request may be sent again on a new connection, after a connection
    that had been used before was closed without a byte of a reply.
    """

    ALWAYS = "always"
    """The method is idempotent: sending the request twice does no harm (RFC 9110 9.2.2)."""
    IF_UNSEEN = "if unseen"
    """
    The request may be repeated only if the backend closed so early that the connection must
    have been closed for being idle.
    """
    NEVER = "never"
    """The request has been sent a second time already, or its body can be read only once."""


class RequestTemplate:
    """
    A L{RequestTemplate} is the part of the head to a backend that all requests with the same
    head share.

    Hop-by-hop headers are removed, and those that Connection names, and C{Expect}, to which
    llmux itself has replied.  Host becomes the backend's, and Content-Length that of the body,
    which is complete.  No header is added: C{X-Forwarded-For} and similar headers pass as they
    came.

    @ivar is_head: whether the method is HEAD.
    @ivar repeats: whether the request may be repeated, by its method.
    """

    __slots__ = ("_fields", "_first", "_has_length", "is_head", "repeats")

    def __init__(
        self, method: bytes, uri: bytes, headers: Iterable[tuple[bytes, bytes]]
    ) -> None:
        self.is_head = method == b"HEAD"
        self.repeats = Repeats.ALWAYS if method in _IDEMPOTENT else Repeats.IF_UNSEEN
        self._has_length = method in _EXPECT_A_BODY
        self._first = b"%b %b HTTP/1.1\r\nHost: " % (method, uri)
        kept: list[tuple[bytes, bytes, bytes]] = []
        named: set[bytes] = set()
        for name, value in headers:
            lowered = name.lower()
            if lowered in _REWRITTEN:
                self._has_length = self._has_length or lowered == b"content-length"
            elif lowered not in HOP_BY_HOP:
                kept.append((lowered, name, value))
            elif lowered == b"connection":
                named.update(token.strip().lower() for token in value.split(b","))
        self._fields = b"".join(
            b"\r\n%b: %b" % (name, value)
            for lowered, name, value in kept
            if lowered not in named
        )

    def render(self, host: bytes, length: int) -> bytes:
        """
        Return the head, with the empty line at its end.

        @param host: the value of Host.
        @param length: the number of bytes of the body.
        """
        if length or self._has_length:
            return b"%b%b%b\r\nContent-Length: %d\r\n\r\n" % (
                self._first,
                host,
                self._fields,
                length,
            )
        return b"%b%b%b\r\n\r\n" % (self._first, host, self._fields)

    def render_chunked(self, host: bytes) -> bytes:
        """
        Return the head of a request whose body comes in chunks, with the empty line at its end.
        """
        return b"%b%b%b\r\nTransfer-Encoding: chunked\r\n\r\n" % (
            self._first,
            host,
            self._fields,
        )

"""
This module writes the head of a request as bytes, and chooses which of its lines go on to the
backend.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from llmux.backend.reply import HOP_BY_HOP

__all__ = ["EXPECT_A_BODY", "Repeats", "RequestTemplate"]

_REWRITTEN = frozenset({b"content-length", b"expect", b"host"})
EXPECT_A_BODY = frozenset({b"PATCH", b"POST", b"PUT"})
"""A request with one of these methods has a body, even if an empty one (RFC 9110 8.6)."""

_IDEMPOTENT = frozenset({b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PUT", b"TRACE"})


_PASSES, _STAYS, _LENGTH, _CONNECTION = range(4)
_MOST_NAMES = 1024
_LONGEST_NAME = 64

_kinds: dict[bytes, int] = {}
"""This cache says, by the name of a header as it came, what becomes of the header."""


def _kind_of(name: bytes) -> int:
    """Return what becomes of the headers of this name, and remember it."""
    lowered = name.lower()
    if lowered == b"content-length":
        kind = _LENGTH
    elif lowered == b"connection":
        kind = _CONNECTION
    else:
        kind = _STAYS if lowered in _REWRITTEN or lowered in HOP_BY_HOP else _PASSES
    if len(name) <= _LONGEST_NAME:
        if len(_kinds) >= _MOST_NAMES:
            _kinds.clear()
        _kinds[name] = kind
    return kind


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
        self._has_length = method in EXPECT_A_BODY
        self._first = b"".join((method, b" ", uri, b" HTTP/1.1\r\nHost: "))
        kinds = _kinds
        parts: list[bytes] = []
        options: list[bytes] = []
        for name, value in headers:
            kind = kinds.get(name)
            if kind is None:
                kind = _kind_of(name)
            if kind is _PASSES:
                parts += b"\r\n", name, b": ", value
            elif kind is _LENGTH:
                self._has_length = True
            elif kind is _CONNECTION and value != b"keep-alive":
                options.append(value)
        if options:
            named = {token.strip().lower() for token in b",".join(options).split(b",")}
            kept = [at for at in range(1, len(parts), 4) if parts[at].lower() not in named]
            parts = [part for at in kept for part in parts[at - 1 : at + 3]]
        self._fields = b"".join(parts)

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

"""
This module parses with h11 what llmux passes on and what llmux answers.

Comments here say where h11 is known to be stricter or more lenient than llmux on purpose.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

import h11

__all__ = ["Found", "Reply", "Unparsable", "head_problem", "replies_in", "requests_in"]

_MOST = 16 * 1024 * 1024
_AUTHORITY = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)

_STAYS_BEHIND = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te"
    b" trailer transfer-encoding upgrade".split()
)
_REWRITTEN = frozenset((b"content-length", b"expect", b"host"))

Fields = list[tuple[bytes, bytes]]


class Unparsable(Exception):
    """This error says that the bytes are no HTTP/1.1 messages."""


@dataclass
class Found:
    """
    This is a request in a stream, without what concerns one connection only.

    @ivar key: all that has to reach the backend unchanged.
    @ivar raw: the fields as they came.
    """

    method: bytes
    target: bytes
    fields: Fields
    body: bytes
    raw: Fields = field(default_factory=list)

    @property
    def key(self) -> str:
        digest = hashlib.sha256(repr((self.method, self.target, self.fields)).encode())
        digest.update(self.body)
        return digest.hexdigest()[:24]


def _end_to_end(fields: Fields) -> Fields:
    named: set[bytes] = set()
    for name, value in fields:
        if name == b"connection":
            named.update(token.strip().lower() for token in value.split(b","))
    return [
        (name, value)
        for name, value in fields
        if name not in _STAYS_BEHIND and name not in _REWRITTEN and name not in named
    ]


def _origin(target: bytes) -> bytes:
    found = _AUTHORITY.match(target)
    if found is None:
        return target
    rest = target[found.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


def _one_request(data: bytes) -> tuple[Found | None, bool, bytes]:
    """Return the first request, whether another may follow, and the rest of the data."""
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST)
    server.receive_data(data)
    request: h11.Request | None = None
    body = []
    while True:
        event = server.next_event()
        if isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            raw = [(bytes(n), bytes(v)) for n, v in request.headers]
            found = Found(
                bytes(request.method),
                _origin(bytes(request.target)),
                _end_to_end(raw),
                b"".join(body),
                raw,
            )
            last = server.their_state is h11.MUST_CLOSE
            if request.http_version == b"1.0":
                # h11 keeps no connection of HTTP/1.0; llmux does if asked, in either way.
                asking = (b"connection", b"proxy-connection")
                last = not any(n in asking and b"keep-alive" in v.lower() for n, v in raw)
            return found, not last, server.trailing_data[0]
        else:
            return None, False, data


def requests_in(data: bytes) -> tuple[list[Found], str]:
    """
    Return the requests in a stream, and how it ends: C{"whole"}, C{"last"} (the connection's
    last request, whatever follows), C{"partial"} or C{"bad"}.
    """
    found: list[Found] = []
    while True:
        # Empty lines before a request are allowed (RFC 9112, 2.2).
        data = data.lstrip(b"\r\n")
        if not data:
            return found, "whole"
        try:
            request, more, data = _one_request(data)
        except h11.RemoteProtocolError:
            return found, "bad"
        if request is None:
            return found, "partial"
        found.append(request)
        if not more:
            return found, "last"


def head_problem(request: Found) -> str:
    """
    Say what is wrong with the head of a request that llmux has passed on; empty if nothing is.
    """
    names = [name for name, _ in request.raw]
    if names.count(b"host") != 1:
        return "not one Host"
    if names.count(b"content-length") > 1:
        return "Content-Length twice"
    if b"content-length" in names and b"transfer-encoding" in names:
        return "Content-Length and Transfer-Encoding"
    behind = (_STAYS_BEHIND - {b"transfer-encoding"}).intersection(names)
    if behind:
        return f"a header that should have stayed behind: {sorted(behind)}"
    if b"expect" in names:
        return "Expect passed on"
    return ""


@dataclass
class Reply:
    """
    This is a final reply.

    @ivar whole: True if the end of the reply has come.
    @ivar by_close: True if only the connection's end shows the end of the reply.
    """

    status: int
    fields: Fields
    body: bytes
    whole: bool
    by_close: bool = False

    def get(self, name: bytes) -> bytes | None:
        """Return the value of the first field of that name, or None."""
        return next((v for n, v in self.fields if n == name), None)


def _one_reply(data: bytes, method: bytes, closed: bool) -> tuple[Reply | None, bytes, bool]:
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MOST)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    reply: Reply | None = None
    version = b""
    body: list[bytes] = []
    fed_end = False
    while True:
        try:
            event = client.next_event()
        except h11.RemoteProtocolError:
            if fed_end and reply is not None:
                # The reply was cut off.
                reply.body = b"".join(body)
                return reply, b"", False
            if fed_end and b"HTTP/1.1 "[: len(data)] == data[:9]:
                return None, b"", False
            raise
        if isinstance(event, h11.Response):
            fields = [(bytes(n), bytes(v)) for n, v in event.headers]
            reply = Reply(event.status_code, fields, b"", False)
            version = bytes(event.http_version)
        elif isinstance(event, h11.Data):
            body.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            assert reply is not None
            reply.body, reply.whole, reply.by_close = b"".join(body), True, fed_end
            more = client.their_state is not h11.MUST_CLOSE
            if version == b"1.0" and reply.get(b"connection") == b"keep-alive":
                # h11 keeps no connection of HTTP/1.0; llmux does if asked.
                more = True
            return reply, client.trailing_data[0], more
        elif event is h11.NEED_DATA and closed and not fed_end:
            fed_end = True
            client.receive_data(b"")
        elif isinstance(event, h11.InformationalResponse):
            continue
        else:
            if reply is not None:
                reply.body = b"".join(body)
            return reply, b"", False


def replies_in(data: bytes, methods: list[bytes], closed: bool) -> list[Reply]:
    """
    Return the final replies in what a client was sent.

    @param methods: the methods of the requests, as far as they are known.
    @param closed: True if the stream has ended.
    @raise Unparsable: there is something else in the data.
    """
    replies: list[Reply] = []
    while data:
        number = len(replies)
        choices = [methods[number]] if number < len(methods) else [b"GET", b"HEAD"]
        problem: Exception | None = None
        for method in choices:
            try:
                reply, rest, more = _one_reply(
                    data, b"GET" if method == b"CONNECT" else method, closed
                )
            except h11.ProtocolError as error:
                problem = problem or error
                continue
            if method == b"GET" and len(choices) == 2 and reply and not reply.whole:
                # A refusal of a HEAD request has a length and no body.
                continue
            break
        else:
            if problem is None:
                return replies
            raise Unparsable(f"reply {number + 1}: {problem}: {data[:300]!r}")
        if reply is None:
            return replies
        replies.append(reply)
        if not reply.whole:
            return replies
        if not more and rest:
            raise Unparsable(f"bytes after the last reply: {rest[:200]!r}")
        data = rest
    return replies

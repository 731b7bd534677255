"""
This module reads the head of a backend's reply as bytes, and chooses which of its lines go on
to the client.
"""

from __future__ import annotations

import re
from enum import Enum

__all__ = [
    "HOP_BY_HOP",
    "BadReply",
    "Framing",
    "ReplyHead",
    "fields_of",
    "reason_of",
]

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""
These headers concern one connection only (RFC 9110 7.6.1, RFC 2616 13.5.1); the names are in
lower case.
"""

_NEVER_NAMED = frozenset({b"content-length", b"host"})
"""A Connection header cannot remove these headers, because llmux itself writes them."""

_HOP_LINE = re.compile(rb"\r\n(%b):([^\r]*)" % b"|".join(map(re.escape, sorted(HOP_BY_HOP))))
"""This pattern matches a line of L{HOP_BY_HOP} in a head in lower case: its name, its value."""

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] [0-9]{3}(?: [\t -~\x80-\xff]*)?(?:\r\n|\Z)")
_LENGTH = re.compile(rb"\r\ncontent-length:")
_LENGTH_ABOVE_0 = re.compile(rb"\r\ncontent-length:[ \t]*0*[1-9]")
_BODILESS = frozenset({204, 304})


class BadReply(Exception):
    """
    The backend has sent something that is no reply to the request.  The error's message may be
    sent to a client.
    """


class Framing(Enum):
    """L{Framing} says how the end of a reply's body is known."""

    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until close"
    NONE = "none"
    """There is no body, even if the headers describe one: HEAD, 204, 304."""


class ReplyHead:
    """
    A L{ReplyHead} is the head of a final reply.

    @ivar status: the status, from 200 to 999.
    @ivar framing: how the end of the body is known.
    @ivar is_ambiguous: whether the reply has no body by its status, but has one by its headers:
        a 204 or 304 with Transfer-Encoding, a 204 with a Content-Length above 0.  The reply is
        passed on, but what comes after it on the connection cannot be trusted.
    @ivar block: the status line as of HTTP/1.1 and the end-to-end headers as
        they came; C{CR LF} between lines, none after the last.
    @ivar needs_chunks: whether the headers do not say how long the body is.
    @ivar start: all bytes before the body for a client of HTTP/1.1 that keeps its connection;
        the body comes in chunks if C{needs_chunks}.
    """

    __slots__ = ("block", "framing", "is_ambiguous", "needs_chunks", "start", "status")

    def __init__(self, came: bytes, status: int, head_request: bool, keeps_alive: bool) -> None:
        """
        @param came: a head that llhttp has accepted, without the empty line.
        @param head_request: whether the reply answers a HEAD request.
        @param keeps_alive: whether llhttp says that the connection stays open, which is False
            for a body that ends with the connection.
        @raise BadReply: the reply cannot be relayed.
        """
        self.status = status
        self.is_ambiguous = False
        lowered = came.lower()
        chunked = False
        if _HOP_LINE.search(lowered) is None:
            self.block = came
        else:
            chunked = self._filter(came, lowered)
        if head_request or status in _BODILESS:
            self.framing = Framing.NONE
            self.is_ambiguous = status in _BODILESS and (
                chunked or (status == 204 and _LENGTH_ABOVE_0.search(lowered) is not None)
            )
        elif chunked:
            self.framing = Framing.CHUNKED
        elif keeps_alive or _LENGTH.search(lowered) is not None:
            self.framing = Framing.LENGTH
        else:
            self.framing = Framing.UNTIL_CLOSE
        if _STATUS_LINE.match(came) is None:
            # llhttp accepts the names of other protocols, and any byte in the reason.
            raise BadReply("the backend does not speak HTTP/1.1 or HTTP/1.0")
        if not came.startswith(b"HTTP/1.1 "):
            self.block = b"HTTP/1.1 " + self.block[9:]
        self.needs_chunks = self.framing in (Framing.CHUNKED, Framing.UNTIL_CLOSE)
        end = b"\r\nTransfer-Encoding: chunked\r\n\r\n" if self.needs_chunks else b"\r\n\r\n"
        self.start = self.block + end

    def _filter(self, came: bytes, lowered: bytes) -> bool:
        """Set C{block} to the lines that pass; return True if the body comes in chunks."""
        codings: list[bytes] = []
        named: set[bytes] = set()
        kept: list[bytes] = []
        start = 0
        for match in _HOP_LINE.finditer(lowered):
            name = match[1]
            if name == b"transfer-encoding":
                codings.append(match[2].strip())
            elif name == b"connection":
                named.update(token.strip() for token in match[2].split(b","))
            kept.append(came[start : match.start()])
            start = match.end()
        kept.append(came[start:])
        block = b"".join(kept)
        named -= HOP_BY_HOP
        named -= _NEVER_NAMED
        named -= {b"close", b""}
        if named:
            first, *lines = block.split(b"\r\n")
            block = b"\r\n".join(
                [first, *(x for x in lines if x.partition(b":")[0].lower() not in named)]
            )
        self.block = block
        if not codings:
            return False
        if codings != [b"chunked"]:
            raise BadReply("the backend used a transfer coding that was not asked for")
        return True


def reason_of(block: bytes) -> bytes:
    """Return the reason phrase of a L{ReplyHead.block}."""
    return block.partition(b"\r\n")[0][13:]


def fields_of(block: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers of a L{ReplyHead.block}; names are as they came."""
    pairs = []
    for line in block.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        pairs.append((name, value.strip(b" \t")))
    return pairs

"""
The head of a backend's reply as bytes: which of its lines go on to the client.
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
"""Headers that concern one connection (RFC 9110 7.6.1, RFC 2616 13.5.1), in lower case."""

_NEVER_NAMED = frozenset({b"content-length", b"host"})
"""Headers that a Connection header cannot take away: llmux writes them itself."""

_HOP_LINE = re.compile(rb"\r\n(%b):([^\r]*)" % b"|".join(map(re.escape, sorted(HOP_BY_HOP))))
"""A line of L{HOP_BY_HOP} in a head in lower case: its name, its value."""

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] [0-9]{3}(?: [\t -~\x80-\xff]*)?(?:\r\n|\Z)")
_LENGTH = re.compile(rb"\r\ncontent-length:")
_LENGTH_ABOVE_0 = re.compile(rb"\r\ncontent-length:[ \t]*0*[1-9]")
_BODILESS = frozenset({204, 304})


class BadReply(Exception):
    """What came from the backend is no reply to the request.  The text is fit for a client."""


class Framing(Enum):
    """By what the end of a reply's body is known."""

    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until close"
    NONE = "none"
    """There is no body, whatever the headers say of one: HEAD, 204, 304."""


class ReplyHead:
    """
    The head of a final reply.

    @ivar status: from 200 to 999.
    @ivar framing: by what the end of the body is known.
    @ivar is_ambiguous: by its status the reply has no body, and by its headers it
        has: a 204 or 304 with Transfer-Encoding, a 204 with a Content-Length above 0.
        The reply passes; what comes after it on the connection cannot be trusted.
    @ivar block: the status line as of HTTP/1.1 and the end-to-end headers as
        they came; C{CR LF} between lines, none after the last.
    @ivar needs_chunks: the headers do not say how long the body is.
    @ivar start: for a client of HTTP/1.1 that keeps its connection, all that
        stands before the body, which comes in chunks if C{needs_chunks}.
    """

    __slots__ = ("block", "framing", "is_ambiguous", "needs_chunks", "start", "status")

    def __init__(self, came: bytes, status: int, head_request: bool, keeps_alive: bool) -> None:
        """
        @param came: a head that llhttp has accepted, without the empty line.
        @param head_request: the reply answers a HEAD request.
        @param keeps_alive: what llhttp says, which is False for a body that
            ends with the connection.
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
            # llhttp lets other protocols' names pass, and any byte in the reason.
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
    """Give the reason phrase of a L{ReplyHead.block}."""
    return block.partition(b"\r\n")[0][13:]


def fields_of(block: bytes) -> list[tuple[bytes, bytes]]:
    """Give the headers of a L{ReplyHead.block}, names as they came."""
    pairs = []
    for line in block.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        pairs.append((name, value.strip(b" \t")))
    return pairs

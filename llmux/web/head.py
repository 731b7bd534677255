"""
The head of a request, read once: it does not change, and a later request
with the same head may share it.
"""

from __future__ import annotations

__all__ = ["HeadMemo", "RequestHead", "memo_key"]

_LENGTH_SPELLINGS = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_SPELLING = len(_LENGTH_SPELLINGS[0])
_END = b"\r\n\r\n"
_SIZES = [b"%d" % size for size in range(4096)]
"""Numbers as they are written, which takes longer than the rest of a look-up."""


class RequestHead:
    """
    What stands before the body.  Never changed once made, except for
    C{derived}.

    @ivar method: as it came.
    @ivar uri: the target, in origin form (or C{*}): the scheme and authority
        of an absolute-form target are taken off.
    @ivar path: C{uri} up to the query.
    @ivar version: C{b"HTTP/1.1"} or C{b"HTTP/1.0"}.
    @ivar headers: names as they came, values without the whitespace around
        them.  In a head that is shared the value of Content-Length is another
        request's: ask L{headers_for}.
    @ivar length_at: where Content-Length is among the headers, or -1.
    @ivar content_type: the first Content-Type, or None.
    @ivar keep_alive: the client will send another request on the connection.
    @ivar expects_continue: it waits for C{100 Continue} before the body.
    @ivar derived: for whoever forwards requests, to keep what it has worked
        out from this head (everything but the length).  None at first.
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
        length_at: int = -1,
        content_type: bytes | None = None,
        expects_continue: bool = False,
    ) -> None:
        self.method = method
        self.uri = uri
        self.path = uri.partition(b"?")[0]
        self.version = version
        self.is_http_1_0 = version == b"HTTP/1.0"
        self.headers = headers
        self.keep_alive = keep_alive
        self.length_at = length_at
        self.content_type = content_type
        self.expects_continue = expects_continue
        self.derived: object = None

    def headers_for(self, length: int) -> list[tuple[bytes, bytes]]:
        """The headers of a request with this head and a body of C{length} bytes."""
        headers = list(self.headers)
        at = self.length_at
        if at >= 0 and int(headers[at][1]) != length:
            headers[at] = (headers[at][0], b"%d" % length)
        return headers


def memo_key(raw: bytes) -> bytes | None:
    """
    What two heads have in common that differ in nothing but the number after
    Content-Length.

    @param raw: a head without the empty line that ends it.
    @return: None if the length is not written in the usual way.
    """
    for spelling in _LENGTH_SPELLINGS:
        at = raw.find(spelling)
        if at >= 0:
            at += _SPELLING
            stop = raw.find(b"\r\n", at)
            if stop < 0:
                stop = len(raw)
            digits = raw[at:stop]
            if not digits.isdigit() or digits != b"%d" % int(digits):
                return None
            return raw[:at] + raw[stop:]
    return raw


class HeadMemo:
    """
    The heads seen of late, so that a client's hundredth request need not be
    parsed like its first.  A pure function's table: it changes no outcome.

    Heads that say how a body is to be read in any way but a plain
    Content-Length do not go in.
    """

    max_raw = 2048
    max_heads = 512

    def __init__(self) -> None:
        self._heads: dict[bytes, RequestHead] = {}

    def remember(self, raw: bytes, head: RequestHead) -> None:
        """
        Keep C{head}, which a parser made of C{raw} (the empty line at the end
        left out), if it is of the plain kind.
        """
        if len(raw) > self.max_raw or head.expects_continue:
            return
        key = memo_key(raw)
        if key is None or (head.length_at >= 0) != (key is not raw):
            return
        if len(self._heads) >= self.max_heads:
            self._heads.clear()
        self._heads[key] = head

    def whole_request(self, data: bytes) -> tuple[RequestHead, bytes] | None:
        """
        If C{data} is exactly one request whose head is known, its head and
        its body.
        """
        raw, end, body = data.partition(_END)
        before, spelling, rest = raw.partition(b"\r\nContent-Length: ")
        if not spelling:
            before, spelling, rest = raw.partition(b"\r\ncontent-length: ")
        if spelling:
            digits, line_end, after = rest.partition(b"\r\n")
            head = self._heads.get(before + spelling + line_end + after)
            size = len(body)
            if head is None or digits != (_SIZES[size] if size < 4096 else b"%d" % size):
                return None
        else:
            head = self._heads.get(raw)
            if head is None or body:
                return None
        return (head, body) if end else None

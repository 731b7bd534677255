"""
The head of a request, read once: it does not change, and a later request
with the same head may share it.
"""

from __future__ import annotations

__all__ = ["RequestHead"]


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
        self.derived: object = None

    def headers_for(self, length: int) -> list[tuple[bytes, bytes]]:
        """The headers of a request with this head and a body of C{length} bytes."""
        headers = list(self.headers)
        at = self.length_at
        if at >= 0 and int(headers[at][1]) != length:
            headers[at] = (headers[at][0], b"%d" % length)
        return headers

"""
From a client's bytes to requests: llhttp, the limits, and what llhttp is too
lenient about.  No transport and no clock here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from llmux.proxy.model_name.form import AT_ONCE, BodyScan
from llmux.web.body import BodyTooLarge, IncomingBody, RequestBody, StorageFull
from llmux.web.head_memo import HeadMemo
from llmux.web.request_head import RequestHead

__all__ = ["Item", "Limits", "Refusal", "RequestReader"]

_LINE_END = b"\r\n"
_END = b"\r\n\r\n"
_VERSIONS = (b"HTTP/1.1", b"HTTP/1.0")
_BLANKS = (b" ", b"\t")
_TELLING = frozenset(
    (b"content-length", b"content-type", b"expect", b"host", b"transfer-encoding")
)
_AUTHORITY = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Limits:
    """
    How large a request may be, in bytes.

    @ivar body: the body, once its chunked encoding is undone.
    @ivar head: the request line, the headers and the empty line after them.
    @ivar uri: the target in the request line.
    @ivar headers: how many of them.
    """

    body: int = 512 * 1024 * 1024
    head: int = 64 * 1024
    uri: int = 16 * 1024
    headers: int = 200


class Refusal(Exception):
    """
    A request that is not taken.  Nothing after it on its connection is read.

    @ivar status: the HTTP status of the answer.
    @ivar message: for the client: what is wrong, and what to do.
    @ivar code: a word for programs.
    @ivar is_head: the answer must have no body.
    """

    def __init__(self, status: int, message: str, code: str = "invalid_request") -> None:
        super().__init__(status, message, code)
        self.status = status
        self.message = message
        self.code = code
        self.is_head = False


def _after(mark: bytes, tail: bytes, data: bytes, at: int) -> int:
    """
    Where in C{data}, from C{at} on, C{mark} has just ended; it may have begun
    in C{tail}, what came before and is shorter than it.  -1 for nowhere.
    """
    if tail:
        found = (tail + data[at : at + len(mark) - 1]).find(mark)
        if found >= 0:
            return at + found + len(mark) - len(tail)
    found = data.find(mark, at)
    return -1 if found < 0 else found + len(mark)


Item = tuple[RequestHead, RequestBody] | Refusal
"""What a reader has read: a complete request, or why there are no more."""


class RequestReader:
    """
    Reads the requests of one connection.  However the same bytes are cut into
    pieces, the same requests and the same refusal come out.

    @ivar in_message: a request has begun and is not complete.
    @ivar expecting: the client waits for C{100 Continue}: the head has said
        so, and nothing of the body has come.  Set it to False when told.
    @ivar closed: no more is read: after a refusal, after a request that is
        the last of its connection, and after L{close}.
    """

    __slots__ = (
        "_body",
        "_chunk_overhead",
        "_complete",
        "_head",
        "_headers",
        "_keep_alive",
        "_limits",
        "_line_read",
        "_memo",
        "_parser",
        "_queue",
        "_raw",
        "_refusal",
        "_remaining",
        "_tail",
        "closed",
        "expecting",
        "in_message",
    )

    def __init__(self, queue: list[Item], limits: Limits, memo: HeadMemo) -> None:
        """
        @param queue: gets what is read, in order; a refusal is the last.
        @param limits: what is larger is refused.
        @param memo: learns the heads.
        """
        self._queue = queue
        self._limits = limits
        self._memo = memo
        self._parser: HttpRequestParser | None = None
        self._raw = b""
        self.closed = False
        self._begin()

    def _begin(self) -> None:
        self.in_message = False
        self.expecting = False
        self._raw = b""
        self._line_read = False
        self._headers: list[tuple[bytes, bytes]] = []
        self._keep_alive = True
        self._head: RequestHead | None = None
        self._body: IncomingBody | None = None
        self._remaining = -1
        self._tail = b""
        self._chunk_overhead = 0
        self._complete = False
        self._refusal: Refusal | None = None

    @property
    def in_head(self) -> bool:
        """A request has begun, and its head is not complete."""
        return self.in_message and self._head is None

    def close(self) -> None:
        """Read nothing more, and forget a request that is not complete."""
        self.closed = True
        self.in_message = False
        self.expecting = False
        self._parser = None
        if self._body is not None:
            self._body.discard()
            self._body = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes from the client, of any length."""
        at, size = 0, len(data)
        try:
            while at < size and not self.closed:
                before = at
                if self._head is None:
                    at = self._feed_head(data, at)
                elif self._remaining >= 0:
                    at = self._feed_sized(data, at)
                else:
                    at = self._feed_chunked(data, at)
                if self._complete:
                    self._finish()
                elif at == before:
                    # The head was whole and nothing was to follow, yet llhttp waits for more.
                    raise Refusal(400, "This is not a valid HTTP/1.1 request.")
        except Refusal as refusal:
            refusal.is_head = self._head is not None and self._head.method == b"HEAD"
            self.close()
            self._queue.append(refusal)

    # ------------------------------------------------------------------ head

    def _feed_head(self, data: bytes, at: int) -> int:
        """
        Feed the parser a head, or as much of it as there is and the limit
        allows; never a byte of what follows, so that its size is exact.
        """
        before = self._raw
        if not before:
            # Empty lines before a request are allowed, and cost nothing.
            while at < len(data) and data[at] in b"\r\n":
                at += 1
            if at == len(data):
                return at
            self.in_message = True
        # The request line apart: what is wrong with it is wrong before anything after it.
        mark = _END if self._line_read else _LINE_END
        ends = _after(mark, before[1 - len(mark) :], data, at)
        stop = len(data) if ends < 0 else ends
        limit = at + self._limits.head - len(before)
        piece = data[at : min(stop, limit)]
        raw = self._raw = before + piece
        self._execute(piece)
        if self._refusal is not None:
            raise self._refusal
        if stop > limit:
            raise self._oversized(raw)
        if ends >= 0:
            if self._line_read:
                self._head_read(raw)
            else:
                self._line_read = True
                self._check_request_line(raw[:-2])
        return stop

    def _execute(self, piece: bytes) -> None:
        parser = self._parser
        if parser is None:
            parser = self._parser = HttpRequestParser(self)
        try:
            parser.feed_data(piece)
        except HttpParserUpgrade:
            self._refusal = self._refusal or Refusal(
                501,
                "WebSocket and other upgrades, and CONNECT, are not supported here; "
                "send a plain HTTP/1.1 request.",
                "not_supported",
            )
        except HttpParserError as error:
            reason = str(error).replace("`", "")
            self._refusal = self._refusal or Refusal(
                400, f"This is not a valid HTTP/1.1 request: {reason}."
            )

    def _oversized(self, raw: bytes) -> Refusal:
        line = raw.find(b"\r\n")
        if (len(raw) if line < 0 else line) > self._limits.uri:
            return self._uri_too_long()
        return Refusal(431, f"The request's headers are larger than {self._limits.head} bytes.")

    def _uri_too_long(self) -> Refusal:
        return Refusal(414, f"The request's target is longer than {self._limits.uri} bytes.")

    def _check_request_line(self, line: bytes) -> None:
        """
        Refuse what llhttp lets pass: HTTP/0.9, which would wait for an end of
        headers that never comes, other protocols, and superfluous spaces.
        """
        words = line.split(b" ")
        if len(words) != 3:
            raise Refusal(400, "The request line is not METHOD, target and HTTP version.")
        if words[2] not in _VERSIONS or words[0] == b"PRI":
            # PRI opens HTTP/2. llhttp knows this method, and waits after the head for the
            # rest of HTTP/2's preface, which is no body that we could bound.
            raise Refusal(505, "Only HTTP/1.1 and HTTP/1.0 are supported here.")
        if len(words[1]) > self._limits.uri:
            raise self._uri_too_long()

    def _head_read(self, raw: bytes) -> None:
        """The parser has read a head: hold it against what llhttp does not mind."""
        method, target, version = raw[: raw.find(b"\r\n")].split(b" ")
        limits = self._limits
        if len(self._headers) > limits.headers:
            raise Refusal(431, f"The request has more than {limits.headers} headers.")
        hosts = 0
        length_at = -1
        content_type = expect = coding = None
        headers = []
        for name, value in self._headers:
            if value[-1:] in _BLANKS:
                value = value.rstrip(b" \t")
            headers.append((name, value))
            name = name.lower()
            if name not in _TELLING:
                continue
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                length_at = len(headers) - 1
            elif name == b"content-type":
                content_type = value if content_type is None else content_type
            elif name == b"transfer-encoding":
                coding = value if coding is None else coding + b", " + value
            else:
                expect = value
        is_1_1 = version == b"HTTP/1.1"
        if hosts > 1 or (hosts == 0 and is_1_1):
            raise Refusal(400, "An HTTP/1.1 request must have exactly one Host header.")
        if coding is not None:
            if not is_1_1:
                raise Refusal(400, "HTTP/1.0 has no Transfer-Encoding.")
            if coding.lower() != b"chunked":
                raise Refusal(501, "The only Transfer-Encoding supported here is chunked.")
        uri = target
        if not target.startswith(b"/") and target != b"*":
            authority = _AUTHORITY.match(target)
            if authority is None:
                raise Refusal(400, "The request's target is neither a path nor an http URL.")
            uri = target[authority.end() :]
            if not uri.startswith(b"/"):
                uri = b"/" + uri
        head = RequestHead(
            method,
            uri,
            version,
            tuple(headers),
            self._keep_alive,
            length_at=length_at,
            content_type=content_type,
            expects_continue=expect is not None and is_1_1,
        )
        self._head = head
        if expect is not None and is_1_1 and expect.lower() != b"100-continue":
            raise Refusal(417, "The only expectation supported here is 100-continue.")
        if coding is None:
            self._memo.remember(raw[:-4], head)
            self._remaining = int(headers[length_at][1]) if length_at >= 0 else 0
            if self._remaining > limits.body:
                raise self._body_too_large()
        if not self._complete:
            scan = BodyScan(content_type) if self._remaining > AT_ONCE else None
            self._body = IncomingBody(limits.body, scan)
            self.expecting = head.expects_continue

    def _body_too_large(self) -> Refusal:
        return Refusal(
            413,
            f"The request's body is larger than {self._limits.body} bytes, which is the most "
            "that this server takes (max_body_mb in its configuration).",
            "body_too_large",
        )

    # ------------------------------------------------------------------ body

    def _feed_sized(self, data: bytes, at: int) -> int:
        stop = min(len(data), at + self._remaining)
        self.expecting = False
        self._feed_body(data if at == 0 and stop == len(data) else data[at:stop])
        self._remaining -= stop - at
        return stop

    def _feed_chunked(self, data: bytes, at: int) -> int:
        """
        Feed up to the next empty line: a chunked message always ends with
        one, and the head of the next request must not be fed with it.
        """
        self.expecting = False
        tail = self._tail
        ends = _after(_END, tail, data, at)
        stop = len(data) if ends < 0 else ends
        self._chunk_overhead += stop - at
        self._feed_body(data[at:stop])
        if self._chunk_overhead > self._limits.head and not self._complete:
            raise Refusal(400, "The chunked body has too long a trailer or chunk extension.")
        self._tail = b"" if ends >= 0 else (tail + data[max(at, stop - 3) : stop])[-3:]
        return stop

    def _feed_body(self, piece: bytes) -> None:
        self._execute(piece)
        if self._refusal is not None:
            raise self._refusal

    def _finish(self) -> None:
        """A request is complete."""
        head, incoming = self._head, self._body
        assert head is not None
        try:
            body = RequestBody() if incoming is None else incoming.finish()
        except StorageFull as error:
            raise Refusal(507, str(error), "insufficient_storage") from error
        self._body = None
        self._begin()
        if not head.keep_alive:
            self.close()
        self._queue.append((head, body))

    # ----------------------------------------------------- called by llhttp

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head is None:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        self._keep_alive = parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        self._chunk_overhead = 0
        if self._body is None or self._refusal is not None:
            return
        try:
            self._body.write(data)
        except BodyTooLarge:
            self._refusal = self._body_too_large()
        except StorageFull as error:
            self._refusal = Refusal(507, str(error), "insufficient_storage")

    def on_message_complete(self) -> None:
        self._complete = True

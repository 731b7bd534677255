"""
This module turns a client's bytes into requests. llhttp parses them, and this module refuses
what llhttp accepts but should not.  A reader knows no transport and no clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from llmux.web.access import AccessRules
from llmux.web.body import (
    BodyStorage,
    BodyTooLarge,
    IncomingBody,
    RequestBody,
    ScanFactory,
    StorageFull,
)
from llmux.web.error_reply import ApiError, body_too_large, websocket_not_supported
from llmux.web.head_memo import HeadMemo
from llmux.web.limits import FEED_STEP, MOST_QUEUED, SCAN_ABOVE, Limits
from llmux.web.request_head import HEAD_END, Fields, RequestHead, interpret

__all__ = ["Item", "Limits", "Refusal", "RequestReader"]

_LINE_END = b"\r\n"
_VERSIONS = (b"HTTP/1.1", b"HTTP/1.0")
_AUTHORITY = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)


_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[;\r]")
_LONGEST_CHUNK_SIZE = 17
_LONGEST_LENGTH = 20
"""A Content-Length may have this many digits: no number of 64 bits has more."""

_UPGRADE_NAME = re.compile(rb"\r\nupgrade(?=:)", re.IGNORECASE)
_CONFUSED = "This is not a valid HTTP/1.1 request: its chunks do not add up."


def _never() -> bool:
    return False


class Refusal(Exception):
    """
    A refusal ends the reading of a connection, because a request is not accepted.  Nothing
    after that request is read.

    @ivar status: the HTTP status of the answer.
    @ivar message: what is wrong, and what to do, in words for the client.
    @ivar code: a word for programs.
    @ivar is_head: whether the answer must have no body.
    """

    def __init__(self, status: int, message: str, code: str = "invalid_request") -> None:
        super().__init__(status, message, code)
        self.status = status
        self.message = message
        self.code = code
        self.is_head = False


def _refused(error: ApiError) -> Refusal:
    return Refusal(error.status, error.message, error.code)


def _after(mark: bytes, tail: bytes, data: bytes, at: int) -> int:
    """
    Return where C{mark} ends for the first time in C{data}, from C{at} on; -1 if it does not.
    The mark may begin in C{tail}, the bytes that came before, which are fewer than the mark's.
    """
    if tail:
        found = (tail + data[at : at + len(mark) - 1]).find(mark)
        if found >= 0:
            return at + found + len(mark) - len(tail)
    found = data.find(mark, at)
    return -1 if found < 0 else found + len(mark)


def _check_access(access: AccessRules, fields: Fields) -> None:
    host = fields.host
    if host is not None and not access.accepts_host(host):
        raise Refusal(
            421,
            f"This server does not answer to the name {_shown(host)}. Ask for localhost or an "
            "IP address, or add the name to allowed_hosts in llmux's configuration.",
            "host_not_allowed",
        )
    for origin in fields.origins:
        if not access.accepts_origin(origin, host):
            raise Refusal(
                403,
                f"Web pages of {_shown(origin)} may not use this server. If they shall, add "
                "this origin to cors_origins in llmux's configuration.",
                "origin_not_allowed",
            )


def _shown(value: bytes) -> str:
    text = value[:200].decode("ascii", "backslashreplace")
    return f'"{text}"' if text.isprintable() else ascii(text)


Item = tuple[RequestHead, RequestBody] | Refusal
"""
An item is what a reader has read: a complete request, or the refusal after which there are no
more.
"""


class RequestReader:
    """
    A reader takes the bytes of one connection.  The requests and the refusal that come out do
    not depend on how the bytes are cut into pieces.

    @ivar in_message: whether a request has begun and is not complete.
    @ivar expecting: whether the client waits for C{100 Continue}, because the head has said so,
        and nothing of the body has come.  Whoever sends C{100 Continue} sets this to False.
    @ivar closed: whether no more is read, which is so after a refusal, after a request that is
        the last of its connection, and after L{close}.
    """

    __slots__ = (
        "_access",
        "_body",
        "_chunk_left",
        "_complete",
        "_content",
        "_head",
        "_headers",
        "_is_upgrade",
        "_keep_alive",
        "_limits",
        "_line_read",
        "_memo",
        "_overhead",
        "_parser",
        "_queue",
        "_raw",
        "_refusal",
        "_remaining",
        "_scan",
        "_storage",
        "_tail",
        "closed",
        "expecting",
        "in_message",
    )

    def __init__(
        self,
        queue: list[Item],
        limits: Limits,
        memo: HeadMemo,
        scan: ScanFactory | None = None,
        access: AccessRules | None = None,
        storage: BodyStorage | None = None,
    ) -> None:
        """
        @param queue: the list to which items are appended, in order; a refusal is the last.
        @param limits: the limits above which a request is refused.
        @param memo: the memo that learns the heads.
        @param scan: the factory of the scans that are given large bodies as they come; or None.
        @param access: the rules about hosts and origins; None if all are accepted.
        @param storage: the storage that keeps the bodies.
        """
        self._queue = queue
        self._limits = limits
        self._memo = memo
        self._scan = scan
        self._access = access
        self._storage = BodyStorage() if storage is None else storage
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
        self._is_upgrade = False
        self._head: RequestHead | None = None
        self._body: IncomingBody | None = None
        # How many bytes of a body with a Content-Length have not come yet; -1 for a chunked
        # body.
        self._remaining = -1
        # In a chunked body, how many bytes of the present chunk and of the end of line after it
        # have not come yet; 0 if a size is expected, -1 after the last chunk.
        self._chunk_left = 0
        # The beginning of a line that is not complete; after the last chunk, that of the
        # trailer.
        self._tail = b""
        # How many bytes of data have come, by the sizes of the chunks.
        self._content = 0
        # How many bytes of sizes, extensions and trailers have come since the last byte of
        # data.
        self._overhead = 0
        self._complete = False
        self._refusal: Refusal | None = None

    @property
    def in_head(self) -> bool:
        """Tell whether a request has begun, and its head is not complete."""
        return self.in_message and self._head is None

    @property
    def content(self) -> int:
        """
        Return how many bytes of the present request's body have come, without the chunked
        encoding.
        """
        return 0 if self._body is None else self._body.length

    @property
    def ready_for_more(self) -> bool:
        """Tell whether L{feed} would take more bytes, because the queue is not full."""
        return not self.closed and (self.in_message or len(self._queue) < MOST_QUEUED)

    def is_asked_for_head(self, coming: bytes) -> bool:
        """
        Tell whether the method of the request that is being read, or that begins with these
        bytes, is HEAD, so that the answer must have no body.
        """
        if self._head is not None:
            return self._head.method == b"HEAD"
        return (self._raw + coming).lstrip(_LINE_END).startswith(b"HEAD ")

    def close(self) -> None:
        """Read nothing more, and forget a request that is not complete."""
        self.closed = True
        self.in_message = False
        self.expecting = False
        self._parser = None
        if self._body is not None:
            self._body.discard()
            self._body = None

    def refuse(self, refusal: Refusal) -> None:
        """Read nothing more, and put this refusal in the place of the next request."""
        self.close()
        self._queue.append(refusal)

    def feed(self, data: bytes, at: int = 0, is_overdue: Callable[[], bool] = _never) -> int:
        """
        Take bytes from the client, from C{at} on, until C{MOST_QUEUED} items
        are queued.

        @param is_overdue: a function that is called from time to time, and says whether the
            rest is to be fed later.
        @return: the position up to which the bytes have been taken.
        """
        size = len(data)
        look = at + FEED_STEP
        try:
            while at < size and not self.closed:
                if not (self.in_message or len(self._queue) < MOST_QUEUED):
                    return at
                before = at
                if self._head is None:
                    at = self._feed_head(data, at)
                elif self._remaining >= 0:
                    at = self._feed_sized(data, at)
                elif self._chunk_left >= 0:
                    at = self._feed_chunks(data, at)
                else:
                    at = self._feed_trailer(data, at)
                if self._complete:
                    self._finish()
                elif at == before:
                    # The head is complete and no body follows, but llhttp waits for more.
                    raise Refusal(400, "This is not a valid HTTP/1.1 request.")
                if at >= look:
                    if is_overdue():
                        break
                    look = at + FEED_STEP
        except Refusal as refusal:
            head = self._head
            # If the fault is in the head itself, there is no RequestHead.
            is_head = self._raw.startswith(b"HEAD ") if head is None else head.method == b"HEAD"
            refusal.is_head = is_head
            self.refuse(refusal)
        return size if self.closed else at

    # ------------------------------------------------------------------ head

    def _feed_head(self, data: bytes, at: int) -> int:
        """
        Feed the parser a head, or as much of it as has come and the limit allows.  No byte
        after the head is fed, so that the head's size is exact.
        """
        before = self._raw
        if not before:
            # Empty lines before a request are allowed.
            if data[at] in b"\r\n":
                at = len(data) - len(data[at:].lstrip(b"\r\n"))
                if at == len(data):
                    return at
            self.in_message = True
            memo = self._memo
            ends = data.find(HEAD_END, at, at + memo.max_raw)
            if ends >= 0:
                known = memo.known(data[at:ends])
                if known is not None:
                    self._head = known
                    self._complete = True
                    return ends + len(HEAD_END)
        # The request line is fed by itself, so that a fault in it is found before any fault
        # after it.
        mark = HEAD_END if self._line_read else _LINE_END
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
            self._is_upgrade = True
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
        Refuse request lines that llhttp accepts: HTTP/0.9, which would wait for an end of
        headers that never comes; other protocols; superfluous spaces; and a line feed, which
        ends a request of HTTP/0.9 for llhttp and is part of the target for us.
        """
        if b"\n" in line:
            raise Refusal(400, "The request line holds a line feed.")
        words = line.split(b" ")
        if len(words) != 3:
            raise Refusal(400, "The request line is not METHOD, target and HTTP version.")
        if words[2] not in _VERSIONS or words[0] == b"PRI":
            # PRI begins HTTP/2. llhttp knows this method, and waits after the head for the rest
            # of HTTP/2's preface, which is no body with a limit.
            raise Refusal(505, "Only HTTP/1.1 and HTTP/1.0 are supported here.")
        if len(words[1]) > self._limits.uri:
            raise self._uri_too_long()

    def _head_read(self, raw: bytes) -> None:
        """Refuse heads that llhttp accepts; the parser has read a whole head."""
        method, target, version = raw[: raw.find(b"\r\n")].split(b" ")
        limits = self._limits
        if self._is_upgrade:
            self._decline_upgrade(raw, method)
        fields = interpret(self._headers)
        length_at, coding, expect = fields.length_at, fields.coding, fields.expect
        is_1_1 = version == b"HTTP/1.1"
        if fields.hosts > 1 or (fields.hosts == 0 and is_1_1):
            raise Refusal(400, "An HTTP/1.1 request must have exactly one Host header.")
        if self._access is not None:
            _check_access(self._access, fields)
        if coding is not None:
            if not is_1_1:
                raise Refusal(400, "HTTP/1.0 has no Transfer-Encoding.")
            if coding.lower() != b"chunked":
                raise Refusal(501, "The only Transfer-Encoding supported here is chunked.")
        length = fields.headers[length_at][1] if length_at >= 0 else b"0"
        if len(length) > _LONGEST_LENGTH:
            raise Refusal(400, f"The Content-Length has more than {_LONGEST_LENGTH} digits.")
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
            tuple(fields.headers),
            self._keep_alive,
            length_at=length_at,
            content_type=fields.content_type,
            expects_continue=expect is not None and is_1_1,
        )
        self._head = head
        if expect is not None and is_1_1 and expect.lower() != b"100-continue":
            raise Refusal(417, "The only expectation supported here is 100-continue.")
        if coding is None:
            self._memo.remember(raw[:-4], head)
            self._remaining = int(length)
            if self._remaining > limits.body:
                raise self._body_too_large()
        if not self._complete:
            scan = None
            if self._scan is not None and self._remaining > SCAN_ABOVE:
                scan = self._scan(fields.content_type)
            self._body = IncomingBody(limits.body, scan, self._storage)
            self.expecting = head.expects_continue

    def _decline_upgrade(self, raw: bytes, method: bytes) -> None:
        """
        Have llhttp read the head again without its offer to change to another protocol, which a
        server may ignore (RFC 9110, 7.8).  An offer of WebSocket is refused, because its client
        understands no other reply.
        """
        headers = self._headers
        offered = [
            protocol.strip().lower()
            for name, value in headers
            if name.lower() == b"upgrade"
            for protocol in value.split(b",")
        ]
        if method == b"CONNECT":
            raise Refusal(501, "CONNECT is not supported here: this is no proxy for others.")
        if b"websocket" in offered:
            raise _refused(websocket_not_supported())
        self._complete = False
        self._parser = None
        self._headers = []
        self._execute(_UPGRADE_NAME.sub(b"\r\nDeclined", raw))
        self._headers = headers
        if self._refusal is not None:
            raise self._refusal

    def _body_too_large(self) -> Refusal:
        return _refused(body_too_large(self._limits.body))

    # ------------------------------------------------------------------ body

    def _feed_sized(self, data: bytes, at: int) -> int:
        stop = min(len(data), at + self._remaining)
        self.expecting = False
        self._feed_body(data if at == 0 and stop == len(data) else data[at:stop])
        self._remaining -= stop - at
        return stop

    def _feed_chunks(self, data: bytes, at: int) -> int:
        """
        Feed some of a chunked body, at most to the end of the line that announces the last
        chunk.  The sizes are read here as well as by llhttp, because llhttp does not tell where
        a message ends, and the next head must not be fed together with it.  If both disagree,
        the request is refused.
        """
        self.expecting = False
        start = at
        end = min(len(data), at + FEED_STEP)
        left, tail, content = self._chunk_left, self._tail, self._content
        overhead, most = self._overhead, self._limits.head
        is_sound = True
        while at < end and left >= 0:
            if left:
                taken = min(left, end - at)
                # The last two bytes are the end of the line.
                content += max(left - 2, 0) - max(left - taken - 2, 0)
                at += taken
                left -= taken
                overhead = 0
                continue
            # Bytes beyond the limit need not be fed, because the request is refused below.
            found = data.find(b"\n", at, min(end, at + most - overhead + 1))
            stop = found + 1 if found >= 0 else min(end, at + most - overhead + 1)
            line = tail + data[at:stop]
            overhead += stop - at
            at = stop
            if found < 0:
                tail = line[:_LONGEST_CHUNK_SIZE]
                if overhead > most:
                    break
                continue
            tail = b""
            size = _CHUNK_SIZE.match(line)
            if size is None:
                is_sound = False
                break
            left = int(size[1], 16)
            left = left + 2 if left else -1
        self._chunk_left, self._tail, self._content = left, tail, content
        self._overhead = overhead
        self._feed_body(data[start:at])
        if overhead > most:
            raise self._too_much_overhead()
        if self._complete or not is_sound or self.content != content:
            raise Refusal(400, _CONFUSED)
        if left < 0:
            self._tail = _LINE_END
        return at

    def _feed_trailer(self, data: bytes, at: int) -> int:
        """Feed the body up to the empty line that ends it."""
        tail = self._tail
        limit = at + self._limits.head - self._overhead + 1
        ends = _after(HEAD_END, tail, data, at)
        stop = min(len(data) if ends < 0 else ends, limit)
        self._overhead += stop - at
        self._feed_body(data[at:stop])
        if self._overhead > self._limits.head:
            raise self._too_much_overhead()
        self._tail = (tail + data[max(at, stop - 3) : stop])[-3:]
        return stop

    def _too_much_overhead(self) -> Refusal:
        return Refusal(400, "The chunked body has too long a trailer or chunk extension.")

    def _feed_body(self, piece: bytes) -> None:
        self._execute(piece)
        if self._refusal is not None:
            raise self._refusal

    def _finish(self) -> None:
        """Put a complete request into the queue."""
        head, incoming = self._head, self._body
        assert head is not None
        try:
            body = RequestBody(b"", 0) if incoming is None else incoming.finish()
        except StorageFull as error:
            raise Refusal(507, str(error), "insufficient_storage") from error
        self._body = None
        self._begin()
        if not head.keep_alive:
            self.close()
        self._queue.append((head, body))

    # ----------------------------------------------------- called by llhttp

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head is not None:
            return
        self._headers.append((name, value))
        if len(self._headers) > self._limits.headers and self._refusal is None:
            # The refusal is raised at once, because a head of 64 KiB may have 16 000 headers.
            self._refusal = Refusal(
                431, f"The request has more than {self._limits.headers} headers."
            )
            # llhttp then ends with an error, but the answer is this refusal.
            raise self._refusal

    def on_headers_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        self._keep_alive = parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
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

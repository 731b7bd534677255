"""
This module remembers heads that were read before, so that the same bytes need not be parsed
again.
"""

from __future__ import annotations

from llmux.web.request_head import HEAD_END, MEANINGFUL, RequestHead

__all__ = ["HeadMemo", "memo_key"]

_LENGTH_SPELLINGS = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_SPELLING = len(_LENGTH_SPELLINGS[0])
_SIZES = [b"%d" % size for size in range(4096)]
"""These are numbers as text; formatting one would take longer than the rest of a look-up."""


def memo_key(raw: bytes) -> bytes | None:
    """
    Return a key that is the same for two heads which differ only in the number after
    Content-Length.

    @param raw: a head without the empty line that ends it.
    @return: the key; None if the length is not written in the usual way.
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


_TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""The name of a header may consist of these bytes (RFC 9110, 5.6.2)."""

_TEXT = bytes((9, *range(32, 127), *range(128, 256)))
"""The value of a header may consist of these bytes (RFC 9110, 5.5)."""


_OTHER, _HOST, _TYPE = range(3)


class HeadMemo:
    """
    The memo keeps the heads and the lines that were seen lately.  So a client's hundredth
    request need not be parsed like its first one, even if each request has a header of its own.
    Its tables are caches only: with or without them each request is read the same way
    (C{tests/test_channel_agreement.py}).

    Heads that say the length of the body in any other way than by a plain Content-Length are
    not kept.
    """

    max_heads = 512
    max_lines = 2048

    def __init__(self, max_raw: int = 2048, max_headers: int = 64) -> None:
        """
        @param max_raw: the size of the longest head that is kept, in bytes.
        @param max_headers: the largest number of headers of a head that is kept.
        """
        self.max_raw = max_raw
        self.max_headers = max_headers
        # The heads, by their bytes without the number after Content-Length.
        self._heads: dict[bytes, RequestHead] = {}
        # Request lines of HTTP/1.1, each with its method, target in origin form, and path.
        self._starts: dict[bytes, tuple[bytes, bytes, bytes]] = {}
        # Header lines: name and value, and which kind of header this is for us.
        self._lines: dict[bytes, tuple[tuple[bytes, bytes], int]] = {}
        # The names of headers that mean nothing to this server, as clients wrote them.
        self._names: set[bytes] = set()

    def clear(self) -> None:
        """Forget all heads, because one that was accepted may not be accepted any more."""
        self._heads.clear()
        self._starts.clear()
        self._lines.clear()

    def remember(self, raw: bytes, head: RequestHead) -> None:
        """
        Keep C{head}, which a parser has made of C{raw} (without the empty line at the end), if
        the memo can keep heads of its kind.
        """
        if len(raw) > self.max_raw or head.expects_continue:
            return
        key = memo_key(raw)
        if key is None or (head.length_at >= 0) != (key is not raw):
            return
        self._keep(key, head)
        if head.is_http_1_0:
            return
        start, *lines = raw.split(b"\r\n")
        if len(self._starts) >= self.max_heads:
            self._starts.clear()
        self._starts[start] = (head.method, head.uri, head.path)
        for line, header in zip(lines, head.headers, strict=True):
            name = header[0].lower()
            if name == b"host":
                self._learn(line, header, _HOST)
            elif name == b"content-type":
                self._learn(line, header, _TYPE)
            elif name == b"connection" and header[1].lower() == b"keep-alive":
                self._learn(line, header, _OTHER)

    def _keep(self, key: bytes, head: RequestHead) -> None:
        if len(self._heads) >= self.max_heads:
            self._heads.clear()
        self._heads[key] = head

    def _learn(self, line: bytes, header: tuple[bytes, bytes], kind: int) -> None:
        if len(self._lines) >= self.max_lines:
            self._lines.clear()
        self._lines[line] = (header, kind)

    def known(self, raw: bytes) -> RequestHead | None:
        """
        Return the head that was made of the same bytes (without the empty line at the end), if
        it has no Content-Length; else None.
        """
        head = self._heads.get(raw)
        return head if head is not None and head.length_at < 0 else None

    def whole_request(self, data: bytes) -> tuple[RequestHead, bytes] | None:
        """
        Return the head and the body if C{data} is exactly one request whose head is known, or
        consists of known lines; else None.
        """
        raw, end, body = data.partition(HEAD_END)
        before, spelling, rest = raw.partition(b"\r\nContent-Length: ")
        if not spelling:
            before, spelling, rest = raw.partition(b"\r\ncontent-length: ")
        if spelling:
            digits, line_end, after = rest.partition(b"\r\n")
            size = len(body)
            if digits != (_SIZES[size] if size < 4096 else b"%d" % size):
                return None
            key = before + spelling + line_end + after
        elif body:
            return None
        else:
            key = raw
        head = self._heads.get(key)
        if head is None:
            if len(raw) > self.max_raw:
                return None
            if spelling:
                lines = before.split(b"\r\n")
                length_at = len(lines) - 1
                if line_end:
                    lines += after.split(b"\r\n")
                head = self._put_together(key, lines, length_at, (spelling[2:-2], digits))
            else:
                head = self._put_together(key, raw.split(b"\r\n"), -1, None)
            if head is None:
                return None
        return (head, body) if end else None

    def _is_ordinary(self, name: bytes) -> bool:
        """
        Tell whether this is the name of a header that means nothing to this server, and
        remember it.
        """
        if not name or name.translate(None, _TOKEN) or name.lower() in MEANINGFUL:
            return False
        if len(self._names) >= self.max_lines:
            self._names.clear()
        self._names.add(name)
        return True

    def _put_together(
        self,
        key: bytes,
        lines: list[bytes],
        length_at: int,
        length: tuple[bytes, bytes] | None,
    ) -> RequestHead | None:
        """
        Return the head that these lines make, together with C{length}, if all lines that need a
        parser are known; else None.
        """
        start = self._starts.get(lines[0])
        if start is None or len(lines) > self.max_headers:
            return None
        known = self._lines
        hosts = 0
        content_type = None
        headers = []
        is_new = False
        del lines[0]
        for line in lines:
            entry = known.get(line)
            if entry is None:
                # llhttp gives exactly this name and value, for a line that means nothing here.
                name, colon, value = line.partition(b":")
                value = value.strip(b" \t")
                if not colon or value.translate(None, _TEXT):
                    return None
                if name not in self._names and not self._is_ordinary(name):
                    return None
                header = (name, value)
                self._learn(line, header, _OTHER)
                is_new = True
            else:
                header, kind = entry
                if kind == _HOST:
                    hosts += 1
                elif kind == _TYPE:
                    content_type = header[1] if content_type is None else content_type
            headers.append(header)
        if hosts != 1:
            return None
        if length is not None:
            headers.insert(length_at, length)
        method, uri, path = start
        head = RequestHead(
            method,
            uri,
            b"HTTP/1.1",
            tuple(headers),
            True,
            path=path,
            length_at=length_at,
            content_type=content_type,
        )
        if not is_new:
            self._keep(key, head)
        return head

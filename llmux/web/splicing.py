"""
This module makes bodies that differ in a few places from those that came; if a body is in a
file, the bytes in between are not copied.
"""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Iterable
from typing import BinaryIO, NamedTuple, cast

from llmux.web.body import RequestBody
from llmux.web.limits import FILE_PIECE

__all__ = ["Cut", "splice"]


class Cut(NamedTuple):
    """
    A cut replaces one place of a body by other bytes.

    @ivar start: where the place begins, in bytes from the body's start.
    @ivar end: where the place ends; not less than C{start}.
    @ivar put: the bytes that replace the place.
    """

    start: int
    end: int
    put: bytes


def splice(body: RequestBody, cuts: Iterable[Cut]) -> RequestBody:
    """
    Return a body that is another one with these cuts made.  The new body owns whatever the old
    one held, and the old one must not be read any more.

    @param cuts: the cuts, in the order of their places, which must not overlap.
    """
    data = body.in_memory()
    if data is not None:
        pieces: list[bytes] = []
        at = 0
        for cut in cuts:
            pieces += (data[at : cut.start], cut.put)
            at = cut.end
        pieces.append(data[at:])
        spliced = RequestBody.of(b"".join(pieces))
    else:
        spliced = _SplicedBody.in_spans(_Spans(body.length, cuts))
    spliced.held, body.held = body.held, None
    body.close()
    return spliced


class _Spans:
    """
    L{_Spans} are the parts that a spliced body consists of: some in its file, some in memory.

    @ivar length: the length of all parts together, in bytes.
    """

    def __init__(self, length: int, cuts: Iterable[Cut]) -> None:
        """@param length: the length of the file, in bytes."""
        # Where each part begins in the spliced body, and the part itself: bytes, or a place in
        # the file.
        self._starts: list[int] = []
        self._parts: list[bytes | tuple[int, int]] = []
        self.length = 0
        at = 0
        for cut in cuts:
            self._add((at, cut.start), cut.start - at)
            self._add(cut.put, len(cut.put))
            at = cut.end
        self._add((at, length), length - at)

    def _add(self, part: bytes | tuple[int, int], size: int) -> None:
        if size:
            self._starts.append(self.length)
            self._parts.append(part)
            self.length += size

    def read(self, descriptor: int, at: int, size: int) -> bytes:
        """
        Return up to C{size} bytes from C{at} on: no bytes at the end, and fewer if a part ends
        before.

        @raise OSError: the file cannot be read.
        """
        if at >= self.length or size <= 0:
            return b""
        number = bisect_right(self._starts, at) - 1
        part = self._parts[number]
        skipped = at - self._starts[number]
        if isinstance(part, bytes):
            return part[skipped : skipped + size]
        start, end = part
        start += skipped
        return os.pread(descriptor, min(size, end - start), start)


class _SplicedBody(RequestBody):
    """This body reads its file in spans, with other bytes between them."""

    # None only for the type checker: fields without defaults may not follow the base's.
    _spans: _Spans = cast(_Spans, None)

    @classmethod
    def in_spans(cls, spans: _Spans) -> _SplicedBody:
        """The body that these spans make."""
        return cls(None, spans.length, None, None, spans)

    def open(self) -> BinaryIO:
        """See L{RequestBody.open}."""
        reader = _SplicedReader(self._descriptor(), self._spans)
        return cast(BinaryIO, io.BufferedReader(reader, FILE_PIECE))

    def piece(self, at: int, size: int) -> bytes:
        """See L{RequestBody.piece}."""
        descriptor = self._descriptor()
        pieces: list[bytes] = []
        while size and (piece := self._spans.read(descriptor, at, size)):
            pieces.append(piece)
            at += len(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _SplicedReader(io.RawIOBase):
    """This reader reads a spliced body, with a descriptor of its own."""

    def __init__(self, descriptor: int, spans: _Spans) -> None:
        self._descriptor = os.dup(descriptor)
        self._spans = spans
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        ends = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._spans.length}
        self._at = max(0, ends[whence] + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # as in body.py
        data = self._spans.read(self._descriptor, self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()

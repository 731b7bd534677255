"""
The bodies of requests: small ones in memory, large ones in a file that has
no name, so that neither a crash nor a kill leaves it behind.
"""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Callable
from typing import IO, BinaryIO, Protocol, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.python.failure import Failure
from twisted.web.iweb import IBodyProducer, IRequest
from zope.interface import implementer

from llmux.web.limits import FILE_PIECE, IN_MEMORY

__all__ = [
    "IN_MEMORY",
    "BodyTooLarge",
    "IncomingBody",
    "RequestBody",
    "Scan",
    "ScanFactory",
    "StorageFull",
    "body_of",
]


class Scan(Protocol):
    """
    A scan is shown a large body piece by piece while it comes, so that nobody
    need read it again.  What it looks for is its maker's affair.

    @ivar given_up: the rest of the body need not be shown.
    """

    @property
    def given_up(self) -> bool: ...

    def feed(self, piece: bytes) -> None:
        """Take the next piece."""


ScanFactory = Callable[[bytes | None], Scan]
"""Makes a scan for a body with this Content-Type."""


class BodyTooLarge(Exception):
    """More came than may."""


class StorageFull(Exception):
    """A body could not be put on disk.  The text is fit for a client."""

    def __init__(self, error: OSError) -> None:
        super().__init__(
            "The server has no room to keep the request's body "
            f"({errno.errorcode.get(error.errno or 0, 'error')}: its temporary directory); "
            "try again later, or send a smaller one."
        )


def _write_all(file: IO[bytes], data: bytes | bytearray) -> None:
    """Write to an unbuffered file; raise L{StorageFull} if that fails."""
    try:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        raise StorageFull(error) from error


def _nameless_file() -> IO[bytes]:
    try:
        return cast(IO[bytes], tempfile.TemporaryFile(buffering=0, prefix="llmux-"))
    except OSError as error:
        raise StorageFull(error) from error


class _Reader(io.RawIOBase):
    """
    Reads a file from its start, with a position and a life of its own:
    nobody else's reads, seeks or close touch it.
    """

    def __init__(self, descriptor: int, length: int) -> None:
        self._descriptor = os.dup(descriptor)
        self._length = length
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # typeshed has no name for a writable buffer
        count = os.preadv(self._descriptor, [buffer], self._at)
        self._at += count
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


class RequestBody:
    """
    A complete body, which can be read any number of times.

    @ivar length: in bytes.
    @ivar file: where it is, if it is not in memory.
    @ivar scan: has seen all of it, as it came; None if nobody looked.
    """

    __slots__ = ("_data", "file", "length", "scan")

    def __init__(self, data: bytes = b"") -> None:
        self.scan: Scan | None = None
        self._data: bytes | None = data
        self.file: IO[bytes] | None = None
        self.length = len(data)

    @classmethod
    def from_file(cls, file: IO[bytes], length: int) -> RequestBody:
        """
        One that owns C{file}, which has a descriptor, nothing in Python's
        buffers, and C{length} bytes.
        """
        body = cls()
        body._data = None
        body.file = file
        body.length = length
        return body

    def in_memory(self) -> bytes | None:
        """The whole of it, or None if it is in a file."""
        return self._data

    def open(self) -> BinaryIO:
        """
        A reader of its own, at the start.  It outlives C{close}.

        @raise ValueError: the body is closed.
        """
        if self._data is not None:
            return io.BytesIO(self._data)
        if self.file is None:
            raise ValueError("the request's body is closed")
        return io.BufferedReader(_Reader(self.file.fileno(), self.length), FILE_PIECE)

    def piece(self, at: int, size: int) -> bytes:
        """
        Up to C{size} bytes from C{at} on, none at its end.  This takes no
        descriptor, unlike C{open}.

        @raise OSError: the file cannot be read.
        @raise ValueError: the body is closed.
        """
        if self._data is not None:
            return self._data[at : at + size]
        if self.file is None:
            raise ValueError("the request's body is closed")
        return os.pread(self.file.fileno(), size, at)

    def spill(self) -> None:
        """
        Move it from memory to a file, because it is to wait for long.

        @raise StorageFull: there is no room; it stays in memory.
        """
        data = self._data
        if not data:
            return
        file = _nameless_file()
        try:
            _write_all(file, data)
        except StorageFull:
            file.close()
            raise
        self._data, self.file = None, file

    def as_producer(self) -> _BodyProducer:
        """An L{IBodyProducer} that sends all of it; each sends it once."""
        return _BodyProducer(self)

    def close(self) -> None:
        """Let go of it.  Harmless when repeated; readers stay."""
        if self.file is not None:
            self.file.close()
            self.file = None
        self._data = None


@implementer(IBodyProducer)
class _BodyProducer:
    """
    Sends a body, a piece after another until its consumer says to pause.
    """

    def __init__(self, body: RequestBody) -> None:
        self.length = body.length
        self._body = body
        self._reader: BinaryIO | None = None
        self._consumer: IConsumer | None = None
        self._done: Deferred[None] | None = None
        self._paused = False
        self._producing = False

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """See L{IBodyProducer.startProducing}."""
        data = self._body.in_memory()
        if data is not None:
            if data:
                consumer.write(data)
            return succeed(None)
        self._reader = self._body.open()
        self._consumer = consumer
        done = self._done = Deferred(lambda _: self.stopProducing())
        self._produce()
        return done

    def _produce(self) -> None:
        if self._producing:
            return
        self._producing = True
        try:
            while not self._paused and self._reader is not None:
                try:
                    piece = self._reader.read(FILE_PIECE)
                except OSError:
                    self._end(Failure())
                    return
                if not piece:
                    self._end(None)
                    return
                assert self._consumer is not None
                self._consumer.write(piece)
        finally:
            self._producing = False

    def _end(self, result: Failure | None) -> None:
        done = self._done
        self.stopProducing()
        if done is None:
            return
        if result is None:
            done.callback(None)
        else:
            done.errback(result)

    def pauseProducing(self) -> None:
        """See L{IPushProducer.pauseProducing}."""
        self._paused = True

    def resumeProducing(self) -> None:
        """See L{IPushProducer.resumeProducing}."""
        self._paused = False
        self._produce()

    def stopProducing(self) -> None:
        """Stop for good.  What C{startProducing} returned will not fire."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._consumer = None
        self._done = None


class IncomingBody:
    """
    A body that is still on its way.

    @ivar length: how much of it has come, in bytes.
    """

    __slots__ = ("_file", "_limit", "_pending", "_scan", "length")

    def __init__(self, limit: int, scan: Scan | None = None) -> None:
        """
        @param limit: the most bytes that it may have.
        @param scan: is shown each piece as it comes.
        """
        self.length = 0
        self._scan = scan
        self._limit = limit
        self._pending = bytearray()
        self._file: IO[bytes] | None = None

    def write(self, data: bytes) -> None:
        """
        @raise BodyTooLarge: that makes it larger than its limit.
        @raise StorageFull: it could not be put on disk.
        """
        self.length += len(data)
        if self.length > self._limit:
            raise BodyTooLarge
        scan = self._scan
        if scan is not None:
            scan.feed(data)
            if scan.given_up:
                self._scan = None
        pending = self._pending
        pending += data
        if len(pending) >= FILE_PIECE and self.length > IN_MEMORY:
            self._flush()

    def _flush(self) -> None:
        if self._file is None:
            self._file = _nameless_file()
        _write_all(self._file, self._pending)
        self._pending.clear()

    def finish(self) -> RequestBody:
        """
        It is complete.

        @raise StorageFull: the rest of it could not be put on disk.
        """
        if self._file is None:
            body = RequestBody(bytes(self._pending))
        else:
            self._flush()
            body = RequestBody.from_file(self._file, self.length)
            self._file = None
        body.scan = self._scan
        return body

    def discard(self) -> None:
        """It will not be completed."""
        self._pending = bytearray()
        if self._file is not None:
            self._file.close()
            self._file = None


def body_of(request: IRequest) -> RequestBody:
    """
    The body of any Request: our own, or twisted.web's C{content}, whose
    position is left at its start.  Close it when the request is over.
    """
    body = getattr(request, "body", None)
    if isinstance(body, RequestBody):
        return body
    content = request.content
    if isinstance(content, io.BytesIO):
        return RequestBody(content.getvalue())
    length = content.seek(0, os.SEEK_END)
    content.seek(0)
    try:
        descriptor = content.fileno()
    except (AttributeError, OSError):
        data = content.read()
        content.seek(0)
        return RequestBody(data)
    content.flush()
    return RequestBody.from_file(os.fdopen(os.dup(descriptor), "rb", buffering=0), length)

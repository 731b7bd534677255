"""
This module keeps the bodies of requests: small ones in memory, others in a file that has no
name, so that no file is left behind by a crash or a kill.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import tempfile
from collections.abc import Callable
from typing import IO, BinaryIO, Protocol, cast

from msgspec import Struct
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.python.failure import Failure
from twisted.web.iweb import IBodyProducer, IRequest
from zope.interface import implementer

from llmux.web.limits import FILE_PIECE, IN_MEMORY, IN_MEMORY_AT_LEAST

__all__ = [
    "IN_MEMORY",
    "BodyStorage",
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
    A scan is given a large body piece by piece while the body comes, so that the body need not
    be read again.  The code that makes the scan decides what is looked for.

    @ivar given_up: whether the rest of the body need not be given.
    """

    @property
    def given_up(self) -> bool: ...

    def feed(self, piece: bytes) -> None:
        """Take the next piece."""


ScanFactory = Callable[[bytes | None], Scan]
"""A scan factory makes a scan for a body with this Content-Type."""


class BodyTooLarge(Exception):
    """A body has more bytes than are allowed."""


class StorageFull(Exception):
    """A body could not be put on disk.  The error's message may be sent to a client."""

    @classmethod
    def because_of(cls, error: OSError) -> StorageFull:
        """
        Return the error that says to a client what this error of the operating system means.
        """
        number = error.errno or 0
        name = errno.errorcode.get(number, "error")
        if number in (errno.EMFILE, errno.ENFILE):
            return cls(
                "The server has no file descriptor left for the request's body "
                f"({name}); try again later."
            )
        if number in (errno.ENOSPC, errno.EDQUOT):
            return cls(
                f"The server's directory for large bodies is full ({name}); try again later, "
                "or send a smaller one (spool_dir in the server's configuration)."
            )
        return cls(
            f"The server cannot keep the request's body ({name}: its directory for large "
            "bodies, spool_dir in its configuration); send a smaller one."
        )


class BodyStorage:
    """
    A storage keeps the bodies of all clients of a server within two budgets.

    @ivar in_memory: how many bytes of bodies, and of requests that were sent ahead, are in
        memory.  Bodies that came in a single read are not counted.
    @ivar spooled: how many bytes of bodies are in files.
    @ivar directory: the directory of the files; None for that of L{tempfile}.
    """

    def __init__(
        self,
        *,
        max_memory: int = sys.maxsize,
        max_spool: int = sys.maxsize,
        directory: str | None = None,
    ) -> None:
        """
        @param max_memory: the number of bytes in memory above which bodies of more than
            C{IN_MEMORY_AT_LEAST} bytes go to disk at once.
        @param max_spool: the largest number of bytes on disk.
        @param directory: the directory of the files; None for that of L{tempfile}.
        """
        self.in_memory = 0
        self.spooled = 0
        self.directory = directory
        self._max_memory = max_memory
        self._max_spool = max_spool

    def resize(self, other: BodyStorage) -> None:
        """Take over the budgets and the directory of another storage that holds nothing."""
        self.directory = other.directory
        self._max_memory, self._max_spool = other._max_memory, other._max_spool

    @property
    def memory_is_full(self) -> bool:
        """Tell whether the budget for bodies in memory is used up."""
        return self.in_memory >= self._max_memory

    def spool(self, data: bytes | bytearray) -> SpoolFile:
        """
        Return a new file that holds C{data}.

        @raise StorageFull: there is no room for the file.
        """
        try:
            spool = SpoolFile(self)
        except OSError as error:
            raise StorageFull.because_of(error) from error
        try:
            spool.write_all(data)
        except StorageFull:
            spool.close()
            raise
        return spool

    def take_room(self, size: int) -> None:
        """
        Count this many more bytes in files.

        @raise StorageFull: the budget for files would be exceeded.
        """
        if self.spooled + size > self._max_spool:
            raise StorageFull(
                "The bodies of all requests fill the "
                f"{self._max_spool // 2**20} MiB that this server keeps on disk "
                "(max_spool_mb in its configuration); try again later, or send a smaller one."
            )
        self.spooled += size


def _nameless_file(directory: str | None) -> IO[bytes]:
    return cast(IO[bytes], tempfile.TemporaryFile(buffering=0, prefix="llmux-", dir=directory))


class SpoolFile:
    """A spool file has no name and no buffer, and its bytes are counted by its storage."""

    def __init__(self, storage: BodyStorage) -> None:
        """@raise OSError: no file can be made in the storage's directory."""
        self._file = _nameless_file(storage.directory)
        self._storage = storage
        self._size = 0

    def write_all(self, data: bytes | bytearray) -> None:
        """
        Write the data at the end of the file.

        @raise StorageFull: the data could not be written, or the budget for files would be
            exceeded.
        """
        self._storage.take_room(len(data))
        self._size += len(data)
        try:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise StorageFull.because_of(error) from error

    def fileno(self) -> int:
        """Return the file's descriptor."""
        return self._file.fileno()

    def close(self) -> None:
        """Close the file, and stop counting its bytes.  Further calls do nothing."""
        self._storage.spooled -= self._size
        self._size = 0
        self._file.close()


class MemoryCharge:
    """A charge has its storage count a number of bytes in memory until the charge is closed."""

    def __init__(self, storage: BodyStorage, size: int) -> None:
        self.storage = storage
        self._size = size

    def close(self) -> None:
        """Stop counting the bytes.  Further calls do nothing."""
        self.storage.in_memory -= self._size
        self._size = 0


_UNBOUNDED = BodyStorage()
"""This storage is for bodies that no site's storage counts."""


class _FileReader(io.RawIOBase):
    """
    A reader reads a file from its start, with a position and a descriptor of its own, so that
    reads, seeks and the close of others do not affect it.
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


class RequestBody(Struct, eq=False):
    """
    A complete body can be read any number of times.

    The making of a C{Struct} is all that a small body costs.  L{of} is for those who do not
    know the body's length.

    @ivar length: the length of the body, in bytes.
    @ivar held: what C{close} closes: the file in which the body is, or the charge for the
        memory in which it is; None if there is neither.
    @ivar scan: the scan that was given the whole body while it came; None if there was none.
    """

    _data: bytes | None
    length: int
    held: IO[bytes] | SpoolFile | MemoryCharge | None = None
    scan: Scan | None = None

    @classmethod
    def of(cls, data: bytes) -> RequestBody:
        """Return a body that consists of these bytes."""
        return cls(data, len(data))

    @classmethod
    def from_file(cls, file: IO[bytes] | SpoolFile, length: int) -> RequestBody:
        """
        Return a body that owns C{file}, which has a descriptor, nothing in Python's buffers,
        and C{length} bytes.
        """
        return cls(None, length, file)

    def in_memory(self) -> bytes | None:
        """Return the whole body, or None if it is in a file."""
        return self._data

    def open(self) -> BinaryIO:
        """
        Return a new reader of the body, at its start.  The reader can be used after C{close}.

        @raise ValueError: the body is closed.
        """
        if self._data is not None:
            return io.BytesIO(self._data)
        return io.BufferedReader(_FileReader(self._descriptor(), self.length), FILE_PIECE)

    def _descriptor(self) -> int:
        held = self.held
        if held is None or isinstance(held, MemoryCharge):
            raise ValueError("the request's body is closed")
        return held.fileno()

    def piece(self, at: int, size: int) -> bytes:
        """
        Return up to C{size} bytes from C{at} on; no bytes at the body's end.  Unlike C{open},
        this takes no descriptor.

        @raise OSError: the file cannot be read.
        @raise ValueError: the body is closed.
        """
        if self._data is not None:
            return self._data[at : at + size]
        return os.pread(self._descriptor(), size, at)

    def spill(self) -> None:
        """
        Move the body from memory to a file, because its request is going to wait.

        @raise StorageFull: there is no room; the body stays in memory.
        """
        data = self._data
        if not data:
            return
        charge = self.held
        if isinstance(charge, MemoryCharge):
            self.held = charge.storage.spool(data)
            charge.close()
        else:
            self.held = _UNBOUNDED.spool(data)
        self._data = None

    def as_producer(self) -> _BodyProducer:
        """Return an L{IBodyProducer} that sends the whole body once."""
        return _BodyProducer(self)

    def close(self) -> None:
        """
        Close the body's file, or stop counting its memory.  Further calls do nothing; readers
        can still be used.
        """
        if self.held is not None:
            self.held.close()
            self.held = None
        self._data = None


@implementer(IBodyProducer)
class _BodyProducer:
    """
    A L{_BodyProducer} sends a body, one piece after the other, and stops while its consumer has
    paused it.

    C{twisted.web.client.FileBodyProducer} could be used, but its module imports OpenSSL, which
    takes 70 ms of CPU in one turn of the reactor, at the first large body, and 13 MiB.
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
        """Stop for good.  The Deferred that C{startProducing} has returned will not fire."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._consumer = None
        self._done = None


class IncomingBody:
    """
    An L{IncomingBody} is a body that has not come completely yet.

    @ivar length: how many bytes of the body have come.
    """

    __slots__ = ("_file", "_limit", "_pending", "_scan", "_storage", "length")

    def __init__(
        self, limit: int, scan: Scan | None = None, storage: BodyStorage = _UNBOUNDED
    ) -> None:
        """
        @param limit: the largest number of bytes that the body may have.
        @param scan: the scan that is given each piece as it comes; or None.
        @param storage: the storage that keeps and counts the bytes.
        """
        self.length = 0
        self._scan = scan
        self._limit = limit
        self._storage = storage
        self._pending = bytearray()
        self._file: SpoolFile | None = None

    def write(self, data: bytes) -> None:
        """
        Append the next bytes of the body.

        @raise BodyTooLarge: the body would be larger than its limit.
        @raise StorageFull: the body could not be put on disk.
        """
        self.length += len(data)
        if self.length > self._limit:
            raise BodyTooLarge
        scan = self._scan
        if scan is not None:
            scan.feed(data)
            if scan.given_up:
                self._scan = None
        pending, storage = self._pending, self._storage
        pending += data
        storage.in_memory += len(data)
        size = len(pending)
        if size > IN_MEMORY_AT_LEAST and (
            storage.memory_is_full or (size >= FILE_PIECE and self.length > IN_MEMORY)
        ):
            self._flush()

    def _flush(self) -> None:
        if self._file is None:
            self._file = self._storage.spool(self._pending)
        else:
            self._file.write_all(self._pending)
        self._forget_pending()

    def _forget_pending(self) -> None:
        self._storage.in_memory -= len(self._pending)
        self._pending = bytearray()

    def finish(self) -> RequestBody:
        """
        Return the body, which is complete.

        @raise StorageFull: the rest of the body could not be put on disk.
        """
        if self._file is None:
            body = RequestBody.of(bytes(self._pending))
            if body.length:
                body.held = MemoryCharge(self._storage, body.length)
                self._pending = bytearray()
        else:
            self._flush()
            body = RequestBody.from_file(self._file, self.length)
            self._file = None
        body.scan = self._scan
        return body

    def discard(self) -> None:
        """Forget the body, which will not be completed."""
        self._forget_pending()
        if self._file is not None:
            self._file.close()
            self._file = None


def body_of(request: IRequest) -> RequestBody:
    """
    Return the body of any Request: our own body, or twisted.web's C{content}, whose position is
    left at its start.  The caller must close the body when the request is over.
    """
    body = getattr(request, "body", None)
    if isinstance(body, RequestBody):
        return body
    content = request.content
    if isinstance(content, io.BytesIO):
        return RequestBody.of(content.getvalue())
    length = content.seek(0, os.SEEK_END)
    content.seek(0)
    try:
        descriptor = content.fileno()
    except (AttributeError, OSError):
        data = content.read()
        content.seek(0)
        return RequestBody.of(data)
    content.flush()
    return RequestBody.from_file(os.fdopen(os.dup(descriptor), "rb", buffering=0), length)

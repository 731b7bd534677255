"""
These tests check bodies in memory and on disk: what is written can be read, any number of
times, and nothing is left open.
"""

from __future__ import annotations

import errno
import io
import os
import tempfile
from pathlib import Path
from typing import IO, Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IConsumer
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IBodyProducer
from twisted.web.test.requesthelper import DummyRequest
from zope.interface import implementer
from zope.interface.verify import verifyObject

from llmux.web.body import (
    IN_MEMORY,
    BodyStorage,
    BodyTooLarge,
    IncomingBody,
    RequestBody,
    StorageFull,
    body_of,
)
from tests.interpreter import printed_by

case = SynchronousTestCase()
SMALL = b"small"
LARGE = bytes(range(256)) * (IN_MEMORY // 256 * 2 + 77)


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Check that a test leaves neither a file with a name, nor an open file without one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert list(tmp_path.iterdir()) == []
    gone = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert [path for path in gone if path.startswith(str(tmp_path))] == []


def incoming(data: bytes, step: int = 60_000) -> RequestBody:
    body = IncomingBody(len(data))
    for at in range(0, len(data), step):
        body.write(data[at : at + step])
    return body.finish()


@implementer(IConsumer)
class Taker:
    """This consumer takes so many pieces between pauses."""

    def __init__(self, at_once: int = 1000) -> None:
        self.taken: list[bytes] = []
        self.at_once = at_once
        self.producer: Any = None

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        raise AssertionError

    def unregisterProducer(self) -> None:
        raise AssertionError

    def write(self, data: bytes) -> None:
        self.taken.append(data)
        if len(self.taken) % self.at_once == 0:
            self.producer.pauseProducing()


@pytest.mark.parametrize("data", [b"", SMALL, LARGE])
@pytest.mark.parametrize("step", [999, 60_000, 10**8])
def test_what_is_written_is_read(data: bytes, step: int) -> None:
    body = incoming(data, step)
    assert body.length == len(data)
    assert body.in_memory() == (data if len(data) <= IN_MEMORY else None)
    with body.open() as first, body.open() as second:
        assert first.read(10) == data[:10]
        assert second.read() == data
        assert first.read() == data[10:]
        first.seek(-3, os.SEEK_END) if data else None
        assert first.read() == data[-3:]
    body.close()
    body.close()


def test_a_reader_outlives_the_body() -> None:
    body = incoming(LARGE)
    with body.open() as reader:
        body.close()
        assert reader.read() == LARGE
    with pytest.raises(ValueError, match="closed"):
        body.open()


def test_large_bodies_are_not_in_memory() -> None:
    storage = BodyStorage()
    body = IncomingBody(10**9, storage=storage)
    for n in range(1000):
        body.write(b"x" * 65536)
        assert storage.in_memory <= IN_MEMORY + 65536
        assert storage.in_memory + storage.spooled == (n + 1) * 65536
    body.discard()
    body.discard()


def test_a_body_is_moved_to_a_file_unless_it_is_empty() -> None:
    body = RequestBody.of(SMALL)
    body.spill()
    body.spill()
    assert body.in_memory() is None
    with body.open() as reader:
        assert reader.read() == SMALL
    body.close()
    nothing = RequestBody.of(b"")
    nothing.spill()
    assert nothing.in_memory() == b""


def test_a_body_above_its_limit_is_refused() -> None:
    body = IncomingBody(10)
    body.write(b"x" * 10)
    with pytest.raises(BodyTooLarge):
        body.write(b"x")
    body.discard()


class Full(io.RawIOBase):
    """This is a file on a disk without room."""

    def write(self, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_told_and_the_body_stays_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(**_: Any) -> IO[bytes]:
        return Full()  # type: ignore[return-value] # enough of one

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    coming = IncomingBody(10**9)
    with pytest.raises(StorageFull, match="ENOSPC"):
        coming.write(LARGE)
    coming.discard()
    body = RequestBody.of(SMALL)
    with pytest.raises(StorageFull):
        body.spill()
    assert body.in_memory() == SMALL


def test_a_missing_temporary_directory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(StorageFull, match="ENOENT"):
        RequestBody.of(SMALL).spill()


# ------------------------------------------------------------------ budgets

KIB = 1024


def some(storage: BodyStorage, size: int) -> IncomingBody:
    """Make a body of this size, which has come in pieces and is not complete."""
    body = IncomingBody(10**9, None, storage)
    for at in range(0, size, 10 * KIB):
        body.write(b"x" * min(10 * KIB, size - at))
    return body


def test_bodies_in_memory_are_counted_until_they_are_closed() -> None:
    storage = BodyStorage()
    coming = some(storage, 700 * KIB)
    assert storage.in_memory == 700 * KIB
    body = coming.finish()
    assert (storage.in_memory, storage.spooled) == (700 * KIB, 0)
    coming.discard()
    body.close()
    body.close()
    some(storage, 300 * KIB).discard()
    assert (storage.in_memory, storage.spooled) == (0, 0)


def test_bodies_on_disk_are_counted_until_they_are_closed() -> None:
    storage = BodyStorage()
    body = some(storage, 3000 * KIB).finish()
    assert (storage.in_memory, storage.spooled) == (0, 3000 * KIB)
    body.close()
    body.close()
    some(storage, 3000 * KIB).discard()
    small = some(storage, 100 * KIB).finish()
    small.spill()
    assert (storage.in_memory, storage.spooled) == (0, 100 * KIB)
    small.close()
    assert (storage.in_memory, storage.spooled) == (0, 0)


def test_where_memory_is_used_up_only_small_bodies_stay_there() -> None:
    """Half of a body from each of a thousand clients is not a gigabyte."""
    storage = BodyStorage(max_memory=1000 * KIB)
    bodies = [some(storage, 900 * KIB) for _ in range(10)]
    small = some(storage, 50 * KIB).finish()
    assert small.in_memory() is not None
    assert storage.in_memory <= 1000 * KIB + 11 * 80 * KIB
    assert storage.spooled > 7000 * KIB
    whole = [body.finish() for body in bodies]
    for body in whole:
        with body.open() as reader:
            assert reader.read() == b"x" * 900 * KIB
        body.close()
    small.close()
    assert (storage.in_memory, storage.spooled) == (0, 0)


def test_what_does_not_fit_on_disk_is_refused_with_the_remedy() -> None:
    storage = BodyStorage(max_spool=4000 * KIB)
    first = some(storage, 3000 * KIB).finish()
    second = IncomingBody(10**9, None, storage)
    with pytest.raises(StorageFull, match="max_spool_mb"):
        for _ in range(300):
            second.write(b"x" * 10 * KIB)
    second.discard()
    first.close()
    some(storage, 3000 * KIB).finish().close()
    assert (storage.in_memory, storage.spooled) == (0, 0)


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EMFILE, "descriptor"), (errno.ENOSPC, "is full"), (errno.EACCES, "cannot keep")],
)
def test_the_error_that_is_told_is_the_one_that_happened(
    number: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lack of a descriptor is not told as a missing directory."""

    def fails(**_: Any) -> IO[bytes]:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", fails)
    with pytest.raises(StorageFull, match=f"{words}.*{errno.errorcode[number]}"):
        RequestBody.of(SMALL).spill()


# ---------------------------------------------------------------- producers


@pytest.mark.parametrize("data", [b"", SMALL, LARGE])
def test_a_body_is_produced_as_often_as_asked(data: bytes) -> None:
    body = incoming(data)
    for _ in range(2):
        producer, taker = body.as_producer(), Taker()
        verifyObject(IBodyProducer, producer)
        assert producer.length == len(data)
        taker.producer = producer
        case.assertIsNone(case.successResultOf(producer.startProducing(taker)))
        assert b"".join(taker.taken) == data
    body.close()


def test_a_producer_waits_until_it_is_resumed() -> None:
    body = incoming(LARGE)
    producer, taker = body.as_producer(), Taker(at_once=2)
    taker.producer = producer
    done = producer.startProducing(taker)
    while not done.called:
        before = len(taker.taken)
        producer.resumeProducing()
        assert len(taker.taken) - before <= 2
    assert b"".join(taker.taken) == LARGE
    body.close()


def test_a_producer_is_stopped() -> None:
    body = incoming(LARGE)
    producer, taker = body.as_producer(), Taker(at_once=1)
    taker.producer = producer
    done = producer.startProducing(taker)
    producer.stopProducing()
    producer.resumeProducing()
    assert len(taker.taken) == 1
    case.assertNoResult(done)
    body.close()


def test_a_producer_is_cancelled() -> None:
    body = incoming(LARGE)
    producer, taker = body.as_producer(), Taker(at_once=1)
    taker.producer = producer
    done = producer.startProducing(taker)
    done.cancel()
    case.failureResultOf(done, CancelledError)
    producer.resumeProducing()
    assert len(taker.taken) == 1
    body.close()


def test_a_producer_whose_file_cannot_be_read_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    body = incoming(LARGE)
    monkeypatch.setattr(os, "preadv", broken)
    done = body.as_producer().startProducing(Taker())
    case.failureResultOf(done, OSError)
    body.close()


# ------------------------------------------------- other channels' requests


class WithoutDescriptor(io.RawIOBase):
    """This file has no descriptor."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._data.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        return self._data.read(size)


def test_the_body_of_a_stock_request_is_read_wherever_it_is() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(LARGE)
        for content, data in (
            (io.BytesIO(SMALL), SMALL),
            (file, LARGE),
            (WithoutDescriptor(SMALL), SMALL),
        ):
            request: Any = DummyRequest([b""])
            request.content = content
            body = body_of(request)
            assert body.length == len(data)
            with body.open() as reader:
                assert reader.read() == data
            assert request.content.read(3) == data[:3]
            body.close()


def test_sending_a_body_from_a_file_imports_nothing_large() -> None:
    """An import of OpenSSL at the first large body would hold the reactor for 70 ms."""
    code = (
        "import sys, tempfile\n"
        "from llmux.web.body import RequestBody\n"
        "file = tempfile.TemporaryFile(buffering=0)\n"
        "file.write(b'x' * 1000)\n"
        "RequestBody.from_file(file, 1000).as_producer()\n"
        "print(sorted({'OpenSSL', 'cryptography', 'twisted.web.client'} & set(sys.modules)))\n"
    )
    assert printed_by(code) == "[]\n"

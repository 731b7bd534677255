"""
These tests check that reading without a logging context does what the reactor's own polling
does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from twisted.application.reactors import IReactorInstaller, getReactorTypes
from twisted.internet import posixbase
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from llmux.daemon.reactor import LlmuxReactor
from llmux.daemon.twisted_gaps import REACTOR_PARTS, use_monotonic_clock
from tests.conftest import LoggedFailures


class Recorder(Protocol):
    """
    This protocol keeps what comes, and does what it was told to; it raises on a certain word.
    """

    def __init__(self) -> None:
        self.data = b""
        self.then: Callable[[bytes], object] = len
        self.lost: list[Failure] = []

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        self.then(data)
        if data == b"raise":
            raise ValueError("told to")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.append(reason)


class Pair:
    """A pair is two connected sockets on a reactor of their own, which is driven by hand."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.slept: list[float] = []
        self.reactor = cast(Any, LlmuxReactor(self.slept.append))
        self.iterate = self.reactor.doIteration
        self.server, self.client = Recorder(), Recorder()
        self.port: Any = self.reactor.listenTCP(
            0, Factory.forProtocol(lambda: self.server), interface="127.0.0.1"
        )
        connectProtocol(
            TCP4ClientEndpoint(self.reactor, "127.0.0.1", self.port.getHost().port),
            self.client,
        )
        self.until(lambda: bool(self.server.connected and self.client.connected))

    def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(1000):
            if condition():
                return
            self.reactor.runUntilCurrent()
            self.iterate(0.01)
        raise AssertionError("it did not happen")


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    dismantle(pair.reactor)


def dismantle(reactor: Any) -> None:
    """Close what the reactor holds open, its own wakers included."""
    for selectable in reactor.removeAll():
        selectable.connectionLost(Failure(ConnectionDone()))
    for waker in list(reactor._internalReaders):
        waker.connectionLost(Failure(ConnectionDone()))
    if isinstance(reactor, EPollReactor):
        reactor._poller.close()


def test_bytes_go_both_ways(pair: Pair) -> None:
    large = bytes(range(256)) * 40_000
    assert pair.client.transport and pair.server.transport
    pair.client.transport.write(large)
    pair.server.transport.write(b"small")
    pair.until(lambda: pair.server.data == large and pair.client.data == b"small")


def test_a_close_is_noticed(pair: Pair) -> None:
    assert pair.client.transport
    pair.client.transport.loseConnection()
    pair.until(lambda: bool(pair.server.lost and pair.client.lost))
    assert pair.server.lost[0].check(ConnectionDone)


def test_a_protocol_that_raises_loses_its_connection(
    pair: Pair, logged_failures: LoggedFailures
) -> None:
    assert pair.client.transport
    pair.client.transport.write(b"raise")
    pair.until(lambda: bool(pair.server.lost))
    assert pair.server.lost[0].check(ValueError)
    (logged,) = logged_failures.flush()
    assert "told to" in logged.getErrorMessage()
    pair.until(lambda: bool(pair.client.lost))


def test_timed_calls_are_not_held_up(pair: Pair) -> None:
    """
    Calls that events make, calls that were there before, and calls from threads are made in
    time.
    """
    reactor = pair.reactor
    happened: list[str] = []
    reactor.callLater(0.05, happened.append, "old")
    # The main loop would set this, but it is not entered here.
    reactor.running = True
    assert pair.client.transport
    pair.client.transport.write(b"x")

    def received(data: bytes) -> None:
        happened.append("read")
        reactor.callLater(0, happened.append, "new")

    pair.server.then = received
    reactor.callInThread(lambda: reactor.callFromThread(happened.append, "thread"))
    for _ in range(50):
        reactor.runUntilCurrent()
        if len(happened) == 4:
            break
        pair.iterate(reactor.timeout())
    assert set(happened) == {"old", "read", "new", "thread"}
    assert happened.index("read") < happened.index("new") < happened.index("old")
    reactor.running = False
    pool = reactor.getThreadPool()
    pool.stop()


@pytest.fixture
def crowd(pair: Pair) -> Pair:
    """
    Make a pair on a clock that is moved by hand, in whose reactor nothing is due for long.
    """
    pair.reactor.seconds = pair.clock.seconds
    pair.reactor.callLater(1000, list)
    pair.reactor.runUntilCurrent()
    pair.reactor.running = True
    return pair


def send(
    pair: Pair, count: int, apart: float, piece: bytes = b"x", *, back: bool = True
) -> None:
    """
    Send so many pieces, so many seconds apart, from the server's end (as from a backend) to the
    client's end; or from the client's end to the server's.
    """
    here, there = (pair.server, pair.client) if back else (pair.client, pair.server)
    assert here.transport
    write = here.transport.write
    left = count

    def received(data: bytes) -> None:
        nonlocal left
        left -= 1
        pair.clock.advance(apart)
        if left:
            write(piece)
        else:
            # This call makes the loop come back.
            pair.reactor.threadCallQueue.append((list, (), {}))

    there.then = received
    write(piece)
    while left:
        pair.iterate(1.0)
    pair.reactor.threadCallQueue.clear()


def test_pieces_that_come_thick_and_fast_are_read_together(crowd: Pair) -> None:
    send(crowd, 100, apart=0.0001)
    assert set(crowd.slept) == {0.0005}


def test_pieces_that_come_now_and_then_are_read_at_once(crowd: Pair) -> None:
    send(crowd, 100, apart=0.0003)
    assert not crowd.slept


def test_a_lull_ends_the_pauses(crowd: Pair) -> None:
    send(crowd, 100, apart=0.0001)
    crowd.clock.advance(10)
    send(crowd, 100, apart=0.0003)
    crowd.slept.clear()
    send(crowd, 100, apart=0.0003)
    assert not crowd.slept


def test_a_request_ends_the_pauses(crowd: Pair) -> None:
    send(crowd, 100, apart=0.0001)
    send(crowd, 1, apart=0.0001, back=False)
    crowd.slept.clear()
    send(crowd, 39, apart=0.0001)
    assert not crowd.slept


def test_large_pieces_are_read_at_once(crowd: Pair) -> None:
    send(crowd, 100, apart=0.0001, piece=bytes(8192))
    assert not crowd.slept


def test_no_pause_lasts_beyond_a_timed_call(crowd: Pair) -> None:
    crowd.reactor.callLater(0.0004, list)
    crowd.reactor.runUntilCurrent()
    send(crowd, 100, apart=0.0)
    assert not crowd.slept


def test_polling_ends_when_the_reactor_is_stopped(pair: Pair) -> None:
    """The reactor waits for no further event once a protocol has stopped it."""
    reactor = pair.reactor
    pair.server.then = lambda data: reactor.stop()
    assert pair.client.transport
    pair.client.transport.write(b"x")
    late: list[str] = []
    # A poll that overlooked the stop would end with this call.
    call = reactor.callLater(3, late.append, "the poll went on")
    reactor.run(installSignalHandlers=False)
    assert late == []
    call.cancel()


def test_the_clock_cannot_be_stepped(pair: Pair) -> None:
    before = time.monotonic()
    call = pair.reactor.callLater(7, list)
    assert before + 7 <= call.getTime() <= time.monotonic() + 7


@pytest.mark.parametrize("kind", [SelectReactor, EPollReactor])
def test_a_reactor_of_twisteds_gets_a_monotonic_clock(kind: Callable[[], Any]) -> None:
    reactor = kind()
    use_monotonic_clock(reactor)
    before = time.monotonic()
    call = reactor.callLater(7, list)
    assert before + 7 <= call.getTime() <= time.monotonic() + 7
    dismantle(reactor)


def test_a_clock_by_which_calls_were_scheduled_stays() -> None:
    reactor: Any = SelectReactor()
    reactor.callLater(7, list)
    use_monotonic_clock(reactor)
    assert abs(reactor.seconds() - time.time()) < 1
    dismantle(reactor)


def test_a_twisted_that_is_built_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "_doReadOrWrite" in REACTOR_PARTS
    monkeypatch.delattr(posixbase._PollLikeMixin, "_doReadOrWrite")
    with pytest.raises(AttributeError, match="_doReadOrWrite"):
        LlmuxReactor()


def test_twistd_finds_it_by_its_name() -> None:
    (found,) = [one for one in getReactorTypes() if one.shortName == "llmux"]
    verifyObject(IReactorInstaller, found)


class _Readable:
    """This descriptor only reads, as a hook's output does, and notes that it was told to."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.then: Callable[[], object] = int
        self.reads = 0

    def fileno(self) -> int:
        return self.descriptor

    def logPrefix(self) -> str:
        return "test"

    def doRead(self) -> None:
        self.reads += 1
        os.read(self.descriptor, 100)
        self.then()

    def connectionLost(self, reason: Failure) -> None:
        raise AssertionError("an event of another descriptor's ends this one")


def test_an_event_of_a_closed_descriptor_does_not_reach_who_has_its_number_now(
    pair: Pair,
) -> None:
    """
    A descriptor that is closed and one that is opened in one round of events may share a
    number.
    """
    reactor = pair.reactor
    (first_in, first_out), (second_in, second_out) = os.pipe(), os.pipe()
    first, second = _Readable(first_in), _Readable(second_in)
    opened: list[_Readable] = []

    def replace() -> None:
        other = second if first.reads else first
        reactor.removeReader(other)
        os.close(other.descriptor)
        read_end, write_end = os.pipe()
        assert read_end == other.descriptor, "the number is used again"
        new = _Readable(read_end)
        os.close(write_end)
        opened.append(new)
        reactor.addReader(new)

    first.then = second.then = replace
    for each in first, second:
        reactor.addReader(each)
    os.write(first_out, b"x")
    os.write(second_out, b"x")
    reactor.callLater(0, int)
    pair.iterate(0)
    assert first.reads + second.reads == 1
    (new,) = opened
    assert new.reads == 0
    for each in (first, second, new):
        reactor.removeReader(each)
    for descriptor in {first_in, second_in, first_out, second_out}:
        os.close(descriptor)

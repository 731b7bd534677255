"""These tests go through real sockets: memory, departures, closed connections."""

from __future__ import annotations

import resource
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import pytest_twisted
import treq.client
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseNeverReceived
from twisted.web.server import Site

from llmux.backend.pool import BackendPool
from llmux.policy.fifo import FifoPolicy
from llmux.proxy.model_name.find import scan_on_arrival
from llmux.proxy.resource import ProxyResource
from llmux.proxy.switching_resource import SwitchingResource
from llmux.switching.switcher import ModelSwitcher
from llmux.web.site import LlmuxSite
from tests.fakes import FakeHookRunner
from tests.proxy_world import chat

SITES = pytest.mark.parametrize("stock", [False, True], ids=["ours", "stock"])
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


PATIENCE = 60.0


def in_time(deferred: Deferred[Any]) -> Deferred[Any]:
    """Fail if the Deferred takes so long that it will never fire."""
    from twisted.internet import reactor

    return deferred.addTimeout(PATIENCE, cast(IReactorTime, reactor))


class Wire(Protocol):
    """
    A wire is one end of a connection, which a test reads and writes by itself.

    @ivar count: the number of bytes received; only the last 64 KiB of them are kept.
    """

    def __init__(self) -> None:
        self.tail = b""
        self.count = 0
        self.lost: Failure | None = None
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []

    def dataReceived(self, data: bytes) -> None:
        self.count += len(data)
        self.tail = (self.tail + data)[-65536:]
        self._look()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason
        self._look()

    def _look(self) -> None:
        for waiting in list(self._waiting):
            if waiting[0]():
                self._waiting.remove(waiting)
                waiting[1].callback(None)

    def until(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Make a Deferred that fires when the condition holds."""
        fired: Deferred[None] = Deferred()
        self._waiting.append((condition, fired))
        self._look()
        return in_time(fired)

    def got(self, data: bytes) -> Deferred[None]:
        """Make a Deferred that fires when these bytes have come."""
        return self.until(lambda: data in self.tail)

    def gone(self) -> Deferred[None]:
        """Make a Deferred that fires when the other end has closed."""
        return self.until(lambda: self.lost is not None)

    @property
    def socket(self) -> Any:
        """Return the transport."""
        assert self.transport is not None
        return self.transport


class Backend(Factory):
    """This factory accepts connections and gives them to the test."""

    noisy = False

    def __init__(self) -> None:
        self.wires: list[Wire] = []
        self._waiting: list[Deferred[Wire]] = []

    def buildProtocol(self, addr: object) -> Wire:
        wire = Wire()
        self.wires.append(wire)
        if self._waiting:
            self._waiting.pop(0).callback(wire)
        return wire

    async def accept(self, number: int) -> Wire:
        """Wait for the connection of that number."""
        while len(self.wires) <= number:
            waiting: Deferred[Wire] = Deferred()
            self._waiting.append(waiting)
            await in_time(waiting)
        return self.wires[number]


class Path:
    """A path is an address to which clients connect, and the backend behind it."""

    def __init__(self, reactor: Any, stock: bool) -> None:
        self.reactor = reactor
        self.backend = Backend()
        self._ports = [reactor.listenTCP(0, self.backend, interface="127.0.0.1")]
        self.backend_port: int = self._ports[0].getHost().port
        self.pool = BackendPool(reactor)
        switcher = ModelSwitcher(
            reactor, FakeHookRunner(reactor), FifoPolicy(), {"a": 9.0, "b": 9.0}
        )
        self.switcher = switcher
        address = ("127.0.0.1", self.backend_port)
        proxy = ProxyResource(
            self.pool, {"a": address, "b": address}, reactor, others_wait=switcher.others_wait
        )
        root = SwitchingResource(proxy, switcher, reactor)
        site: Site
        if stock:
            site = Site(root, reactor=reactor)
        else:
            site = LlmuxSite(root, reactor, scan=scan_on_arrival)
        site.noisy = False
        self._ports.append(reactor.listenTCP(0, site, interface="127.0.0.1"))
        self.port: int = self._ports[1].getHost().port
        self._wires: list[Wire] = []

    async def client(self, port: int | None = None) -> Wire:
        """Connect a client."""
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", port or self.port)
        wire: Wire = await connectProtocol(endpoint, Wire())
        self._wires.append(wire)
        return wire

    async def close(self) -> None:
        """Close everything, so that nothing is left behind."""
        for wire in self._wires + self.backend.wires:
            if wire.lost is None:
                wire.socket.abortConnection()
                await wire.gone()
        self.pool.close()
        for port in self._ports:
            await port.stopListening()
        await self.switcher.stop()


@asynccontextmanager
async def path(stock: bool = False) -> AsyncIterator[Path]:
    from twisted.internet import reactor

    built = Path(reactor, stock)
    await built.switcher.start()
    try:
        yield built
    finally:
        await built.close()


def memory() -> int:
    """Return the bytes of memory that this process has."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def writes(wire: Wire, piece: bytes, count: int) -> Deferred[None]:
    """Send a piece so many times, no faster than the other end reads."""
    done: Deferred[None] = Deferred()

    class Producer:
        left = count

        def resumeProducing(self) -> None:
            if self.left:
                self.left -= 1
                wire.socket.write(piece)
            else:
                wire.socket.unregisterProducer()
                done.callback(None)

        def stopProducing(self) -> None:
            pass

    wire.socket.registerProducer(Producer(), False)
    return done


@SITES
@pytest_twisted.ensureDeferred
async def test_a_large_reply_flows_in_little_memory(stock: bool) -> None:
    size, piece = 200 * 2**20, b"x" * 2**18
    async with path(stock) as way:
        client = await way.client()
        client.socket.write(chat())
        end = await way.backend.accept(0)
        await end.got(b"\r\n\r\n")
        end.socket.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        await client.got(b"\r\n\r\n")
        head = client.count
        before = memory()
        await writes(end, piece, size // len(piece))
        await client.until(lambda: client.count == head + size)
        assert memory() - before < 8 * 2**20


@SITES
@pytest_twisted.ensureDeferred
async def test_a_client_that_stops_reading_holds_the_backend_up_and_no_one_else(
    stock: bool,
) -> None:
    async with path(stock) as way:
        client = await way.client()
        client.socket.write(chat())
        end = await way.backend.accept(0)
        await end.got(b"\r\n\r\n")
        end.socket.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.got(b"\r\n\r\n")
        client.socket.pauseProducing()
        before = memory()
        sent = writes(end, b"10000\r\n" + b"x" * 65536 + b"\r\n", 3200)
        # Another client goes on meanwhile, until the first client's buffers are full for good.
        other = await way.client()
        steady = 0
        queued = -1
        while steady < 50:
            other.socket.write(chat())
            answering = await way.backend.accept(1)
            expected = other.count + len(PLAIN)
            await answering.got(b"}")
            answering.tail = b""
            answering.socket.write(PLAIN)
            await other.until(lambda expected=expected: other.count >= expected)  # type: ignore[misc] # mypy takes it for a function of one argument
            now = end.socket.getHost() and _sent(end)
            steady = steady + 1 if now == queued else 0
            queued = now
        assert not sent.called
        assert memory() - before < 2 * 2**20
        client.socket.resumeProducing()
        await sent
        end.socket.write(b"0\r\n\r\n")
        await client.got(b"\r\n0\r\n\r\n")


def _sent(wire: Wire) -> int:
    producer = wire.socket.producer
    return -1 if producer is None else int(producer.left)


@SITES
@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_is_noticed_by_the_backend(stock: bool) -> None:
    async with path(stock) as way:
        for number, begun in enumerate((False, True)):
            client = await way.client()
            client.socket.write(chat())
            end = await way.backend.accept(number)
            await end.got(b"}")
            if begun:
                end.socket.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab")
                await client.got(b"ab")
            client.socket.loseConnection()
            await end.gone()


@SITES
@pytest_twisted.ensureDeferred
async def test_a_connection_that_the_backend_closes_under_the_request(stock: bool) -> None:
    async with path(stock) as way:
        client = await way.client()
        client.socket.write(chat())
        end = await way.backend.accept(0)
        await end.got(b"}")
        end.socket.write(PLAIN)
        await client.got(b"hello")
        end.tail = client.tail = b""
        client.socket.write(chat())
        await end.got(b"}")
        # This is as if the connection had just been idle for too long.
        end.socket.abortConnection()
        fresh = await way.backend.accept(1)
        await fresh.got(b"}")
        fresh.socket.write(PLAIN)
        await client.got(b"hello")


@SITES
@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_reply_cut_short_does_not_look_complete(stock: bool, sent: bytes) -> None:
    async with path(stock) as way:
        client = await way.client()
        client.socket.write(chat())
        end = await way.backend.accept(0)
        await end.got(b"}")
        end.socket.write(sent)
        await client.got(b"ab")
        end.socket.loseConnection()
        await client.gone()
        assert not client.tail.endswith(b"0\r\n\r\n")
        assert client.lost is not None
        assert client.lost.check(ConnectionLost)


@SITES
@pytest_twisted.ensureDeferred
async def test_a_reply_that_comes_before_the_request_has_gone(stock: bool) -> None:
    async with path(stock) as way:
        client = await way.client()
        client.socket.write(chat(padding=9_000_000))
        end = await way.backend.accept(0)
        await end.got(b"xxx")
        end.socket.pauseProducing()
        end.socket.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await client.got(b"\r\n\r\nno")
        assert client.tail.startswith(b"HTTP/1.1 413 Too Large\r\n")
        end.socket.resumeProducing()
        await end.gone()
        client.tail = b""
        client.socket.write(chat())
        other = await way.backend.accept(1)
        await other.got(b"}")
        other.socket.write(PLAIN)
        await client.got(b"hello")


@SITES
@pytest_twisted.ensureDeferred
async def test_a_large_body_arrives_whole(stock: bool) -> None:
    request = chat(padding=5_000_000)
    async with path(stock) as way:
        client = await way.client()
        for number in range(2):
            client.socket.write(request)
            end = await way.backend.accept(0)
            await end.until(lambda end=end: end.tail.endswith(b'x"}'))  # type: ignore[misc] # as above
            head = end.count - len(request.partition(b"\r\n\r\n")[2])
            assert 0 < head < 500
            end.count = 0
            end.tail = client.tail = b""
            end.socket.write(PLAIN)
            await client.got(b"hello")
            assert len(way.backend.wires) == 1, number


# ------------------------------------------------------------------- treq


@SITES
@pytest_twisted.ensureDeferred
async def test_treq_is_served_as_a_client(stock: bool) -> None:
    """A client that people write with Twisted: a whole reply, a stream, and one it cancels."""
    async with path(stock) as way:
        connections = HTTPConnectionPool(way.reactor, persistent=False)
        client = treq.client.HTTPClient(Agent(way.reactor, pool=connections))
        uri = f"http://127.0.0.1:{way.port}/v1/chat/completions"

        asked = client.request("POST", uri, json={"model": "a"})
        end = await way.backend.accept(0)
        await end.got(b"}")
        assert b'{"model": "a"}' in end.tail or b'{"model":"a"}' in end.tail
        end.socket.write(PLAIN)
        assert await (await in_time(asked)).text() == "hello"

        end.tail = b""
        asked = client.request(
            "POST", uri, json={"model": "a", "stream": True}, unbuffered=True
        )
        await end.got(b"}")
        end.socket.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        pieces: list[bytes] = []
        collected = treq.collect(await in_time(asked), pieces.append)
        for number in range(100):
            end.socket.write(b"4\r\n%03d,\r\n" % number)
        end.socket.write(b"0\r\n\r\n")
        await in_time(collected)
        assert b"".join(pieces) == b"".join(b"%03d," % number for number in range(100))

        end.tail = b""
        asked = client.request("POST", uri, json={"model": "a"})
        await end.got(b"}")
        asked.cancel()
        # The client has gone, so that the backend need not go on.
        await end.gone()
        with pytest.raises(ResponseNeverReceived):
            await asked

"""Which connection carries what, and what happens when there is none."""

from __future__ import annotations

from typing import cast

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError, ConnectionRefusedError, TimeoutError, UserError
from twisted.internet.interfaces import (
    IConsumer,
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
    ISystemHandle,
)
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.web.iweb import IBodyProducer
from zope.interface import directlyProvides, implementer, providedBy

from llmux.proxy.head import Repeats
from llmux.proxy.pool import BackendPool, PoolSettings
from tests.proxy_fakes import BackendEnd, Network, RecordedExchange, Reply, Transport

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"
WITHOUT_REPLY = "the backend closed the connection without a reply"
REFUSED = "the backend refused the connection"


def begin(
    network: Network, count: int = 1, repeats: Repeats = Repeats.IF_UNSEEN
) -> list[RecordedExchange]:
    exchanges = [
        RecordedExchange(b"%d\r\n" % number, repeats=repeats) for number in range(1, count + 1)
    ]
    for exchange in exchanges:
        network.backend.begin(exchange)
    return exchanges


def used_before(network: Network) -> BackendEnd:
    """An idle connection that has carried an exchange."""
    begin(network)
    end = network.connect()
    end.send(PLAIN)
    end.take()
    return end


# ------------------------------------------------------------------ reuse


def test_the_last_to_become_idle_is_used_first() -> None:
    network = Network()
    begin(network, 3)
    ends = [network.connect() for _ in range(3)]
    for number in (1, 2, 0):
        ends[number].send(PLAIN)
        ends[number].take()
    begin(network, 2)
    assert [end.take() for end in ends] == [b"1\r\n", b"", b"2\r\n"]
    assert network.attempts() == 0


def test_who_waits_takes_whichever_connection_comes_first() -> None:
    network = Network(PoolSettings(max_connecting=1))
    exchanges = begin(network, 3)
    assert network.attempts() == 1
    first = network.connect()
    assert network.attempts() == 1
    first.send(PLAIN)
    assert first.take() == b"1\r\n2\r\n"
    second = network.connect()
    assert second.take() == b"3\r\n"
    for end in (first, second):
        end.send(PLAIN)
    assert [e.reply.body for e in exchanges] == [b"ab"] * 3


def test_thousands_do_not_connect_at_once() -> None:
    network = Network(PoolSettings(max_connecting=64))
    exchanges = begin(network, 5000)
    most = 0
    done = 0
    while network.attempts():
        most = max(most, network.attempts())
        end = network.connect()
        if done % 3 == 0:
            end.send(PLAIN)
        done += 1
    assert most == 64
    assert all(e.times_connected == 1 for e in exchanges)


def test_the_idle_are_limited_in_number() -> None:
    network = Network(PoolSettings(max_idle=2))
    begin(network, 3)
    ends = [network.connect() for _ in range(3)]
    for end in ends:
        end.send(PLAIN)
    assert [end.closed for end in ends] == [False, False, True]


def test_the_idle_are_closed_after_their_time() -> None:
    network = Network(PoolSettings(idle_timeout=60))
    end = used_before(network)
    network.reactor.pump([1] * 29)
    other = begin(network)
    assert end.take() == b"1\r\n"
    end.send(PLAIN)
    assert other[0].reply.outcome == "ended"
    network.reactor.pump([1] * 60)
    assert not end.closed
    network.reactor.pump([1] * 30)
    assert end.closed
    assert network.reactor.getDelayedCalls() == []


def test_a_connection_that_closes_while_idle_is_forgotten() -> None:
    network = Network()
    end = used_before(network)
    end.close()
    begin(network)
    assert network.attempts() == 1


def test_forgetting_a_backend() -> None:
    network = Network()
    begin(network, 2)
    idle, busy = network.connect(), network.connect()
    idle.send(PLAIN)
    network.pool.forget("10.0.0.1", 8000)
    network.pool.forget("10.0.0.1", 9999)
    assert idle.closed
    assert not busy.closed
    busy.send(PLAIN)
    assert busy.closed
    begin(network)
    assert network.attempts() == 1


def test_closing_the_pool() -> None:
    network = Network()
    begin(network, 2)
    idle, busy = network.connect(), network.connect()
    idle.send(PLAIN)
    network.pool.close()
    assert idle.closed
    assert not busy.closed
    busy.send(PLAIN)
    assert busy.closed
    assert network.reactor.getDelayedCalls() == []


def test_closing_the_pool_while_it_connects() -> None:
    network = Network()
    (exchange,) = begin(network)
    network.pool.close()
    (connector,) = network.reactor.connectors
    assert connector.stoppedConnecting
    network.refuse(UserError())
    assert exchange.reply.heard is False
    assert network.attempts() == 0


def test_withdrawing() -> None:
    network = Network(PoolSettings(max_connecting=1))
    first, second = begin(network, 2)
    network.backend.withdraw(first)
    end = network.connect()
    assert end.take() == b"2\r\n"
    assert first.times_connected == 0
    end.send(PLAIN)
    assert second.reply.outcome == "ended"
    assert network.attempts() == 0


# ------------------------------------------------------------- repeating


@pytest.mark.parametrize("cleanly", [True, False])
def test_a_used_connection_that_closes_without_a_word(cleanly: bool) -> None:
    network = Network()
    end = used_before(network)
    (exchange,) = begin(network)
    assert end.take() == b"1\r\n"
    end.close(cleanly=cleanly)
    assert exchange.reply == Reply()
    fresh = network.connect()
    assert fresh.take() == b"1\r\n"
    fresh.send(PLAIN)
    assert exchange.reply.body == b"ab"
    assert exchange.times_connected == 2


def test_it_is_repeated_on_a_new_connection_and_no_other() -> None:
    network = Network(PoolSettings(max_connecting=2))
    dead, other = used_before(network), None
    (exchange,) = begin(network)
    (waits,) = begin(network)
    other = network.connect()
    assert other.take() == b"1\r\n"
    dead.close()
    other.send(PLAIN)
    assert waits.reply.outcome == "ended"
    # It is idle now, and yet not used for what must have a new one.
    assert other.take() == b""
    fresh = network.connect()
    assert fresh.take() == b"1\r\n"
    fresh.close()
    assert exchange.reply == Reply(outcome=WITHOUT_REPLY, heard=False)


def test_a_post_is_not_repeated_when_the_backend_may_have_worked_on_it() -> None:
    network = Network()
    end = used_before(network)
    (exchange,) = begin(network)
    network.reactor.advance(1.5)
    end.close()
    assert exchange.reply == Reply(outcome=WITHOUT_REPLY, heard=False)
    assert network.attempts() == 0


def test_an_idempotent_request_is() -> None:
    network = Network()
    end = used_before(network)
    (exchange,) = begin(network, repeats=Repeats.ALWAYS)
    network.reactor.advance(1.5)
    end.close()
    assert network.attempts() == 1
    network.connect().send(PLAIN)
    assert exchange.reply.outcome == "ended"


def test_what_must_not_be_repeated_is_not() -> None:
    network = Network()
    end = used_before(network)
    (exchange,) = begin(network, repeats=Repeats.NEVER)
    end.close()
    assert exchange.reply == Reply(outcome=WITHOUT_REPLY, heard=False)
    assert network.attempts() == 0


def test_nothing_is_repeated_after_a_byte() -> None:
    network = Network()
    end = used_before(network)
    (exchange,) = begin(network, repeats=Repeats.ALWAYS)
    end.send(b"H")
    end.close()
    assert exchange.reply == Reply(
        outcome="the backend closed the connection in mid-reply", heard=True
    )
    assert network.attempts() == 0


def test_withdrawing_what_is_to_be_repeated() -> None:
    network = Network()
    end = used_before(network)
    (exchange,) = begin(network)
    end.close()
    network.backend.withdraw(exchange)
    assert network.connect().take() == b""


# ------------------------------------------------------------ connecting


def test_a_refusal_is_everybodys() -> None:
    network = Network(PoolSettings(max_connecting=2))
    exchanges = begin(network, 5)
    network.refuse(ConnectionRefusedError())
    assert [e.reply for e in exchanges] == [Reply(outcome=REFUSED, heard=False)] * 5
    network.refuse(ConnectionRefusedError())
    assert network.attempts() == 0
    (later,) = begin(network)
    network.connect().send(PLAIN)
    assert later.reply.outcome == "ended"


def test_a_time_limit_is_one_requests() -> None:
    network = Network(PoolSettings(max_connecting=1, connect_timeout=7))
    first, second = begin(network, 2)
    assert network.reactor.tcpClients[0][3] == 7
    network.refuse(TimeoutError())
    assert first.reply.outcome == "the backend does not accept connections (timed out)"
    assert first.reply.heard is False
    assert second.reply == Reply()
    network.connect().send(PLAIN)
    assert second.reply.outcome == "ended"


def test_another_error_is_named() -> None:
    network = Network()
    (exchange,) = begin(network)
    network.refuse(ConnectError(string="no more sockets"))
    assert "no more sockets" in exchange.reply.outcome


def test_host_headers() -> None:
    pool = BackendPool(MemoryReactorClock())
    assert pool.backend("127.0.0.1", 80).host_header == b"127.0.0.1:80"
    assert pool.backend("::1", 8000).host_header == b"[::1]:8000"
    assert pool.backend("gpu.example", 8000).host_header == b"gpu.example:8000"
    assert pool.backend("gpu.example", 8000) is pool.backend("gpu.example", 8000)


# ----------------------------------------------------------------- names


@implementer(IHostResolution)
class Resolution:
    name = "gpu"

    def cancel(self) -> None:
        raise NotImplementedError


class Names:
    """A resolver that answers when told to."""

    def __init__(self) -> None:
        self.asked: list[IResolutionReceiver] = []

    def resolveHostName(
        self, receiver: IResolutionReceiver, hostName: str, *args: object
    ) -> IHostResolution:
        assert hostName == "gpu"
        self.asked.append(receiver)
        resolution = Resolution()
        receiver.resolutionBegan(resolution)
        return resolution

    def answer(self, *addresses: str) -> None:
        receiver = self.asked.pop()
        for address in addresses:
            family = IPv6Address if ":" in address else IPv4Address
            receiver.addressResolved(family("TCP", address, 0))
        receiver.resolutionComplete()


@pytest.fixture
def named() -> tuple[Network, Names]:
    network = Network()
    names = Names()
    network.reactor.nameResolver = cast(IHostnameResolver, names)
    directlyProvides(
        network.reactor, IReactorPluggableNameResolver, *providedBy(network.reactor)
    )
    network.backend = network.pool.backend("gpu", 8000)
    return network, names


def test_a_name_is_asked_for_once_by_all(named: tuple[Network, Names]) -> None:
    network, names = named
    begin(network, 5)
    assert len(names.asked) == 1
    names.answer("10.0.0.7")
    assert [client[0] for client in network.reactor.tcpClients] == ["10.0.0.7"] * 5


def test_the_next_address_is_tried_and_remembered(named: tuple[Network, Names]) -> None:
    network, names = named
    exchange, _ = begin(network, 2)
    names.answer("::1", "127.0.0.1")
    network.refuse(ConnectionRefusedError())
    assert exchange.reply == Reply()
    assert [client[0] for client in network.reactor.tcpClients] == ["::1", "::1", "127.0.0.1"]
    network.refuse(ConnectionRefusedError())
    network.connect().send(PLAIN)
    assert exchange.reply.outcome == "ended"
    network.connect()
    begin(network, 3)
    assert network.reactor.tcpClients[-1][0] == "127.0.0.1"


def test_no_address_is_left(named: tuple[Network, Names]) -> None:
    network, names = named
    (exchange,) = begin(network)
    names.answer("::1", "127.0.0.1")
    network.refuse(ConnectionRefusedError())
    network.refuse(ConnectionRefusedError())
    assert exchange.reply.outcome == REFUSED


def test_an_unknown_name(named: tuple[Network, Names]) -> None:
    network, names = named
    exchanges = begin(network, 2)
    names.answer()
    for exchange in exchanges:
        assert "no address found for 'gpu'" in exchange.reply.outcome
        assert exchange.reply.heard is False
    begin(network)
    assert len(names.asked) == 1


def test_a_name_is_asked_for_again_after_a_while(named: tuple[Network, Names]) -> None:
    network, names = named
    begin(network)
    names.answer("10.0.0.7")
    network.connect()
    begin(network)
    assert names.asked == []
    network.reactor.advance(11)
    begin(network)
    assert len(names.asked) == 1


def test_closing_while_a_name_is_looked_up(named: tuple[Network, Names]) -> None:
    network, names = named
    (exchange,) = begin(network)
    network.pool.close()
    assert exchange.reply.heard is False
    names.answer("10.0.0.7")
    assert network.reactor.tcpClients == []


# ------------------------------------------------------ requests' bodies


@implementer(IBodyProducer)
class Body:
    """An upload that goes as far as it is told to."""

    length = 10

    def __init__(self) -> None:
        self.done: Deferred[None] = Deferred()
        self.stopped = 0
        self.consumer: IConsumer | None = None

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        self.consumer = consumer
        return self.done

    def pauseProducing(self) -> None:
        raise NotImplementedError

    def resumeProducing(self) -> None:
        raise NotImplementedError

    def stopProducing(self) -> None:
        self.stopped += 1


class Upload(RecordedExchange):
    def __init__(self, body: Body) -> None:
        super().__init__(b"HEAD;")
        self.body = body

    def connected(self) -> None:
        super().connected()
        assert self.connection is not None
        self.connection.send_body(self.body)


def upload() -> tuple[Network, Upload, BackendEnd]:
    network = Network()
    exchange = Upload(Body())
    network.backend.begin(exchange)
    return network, exchange, network.connect()


def test_a_body_follows_its_head() -> None:
    network, exchange, end = upload()
    assert exchange.body.consumer is not None
    assert end.transport.producer is exchange.body
    exchange.body.consumer.write(b"body")
    exchange.body.done.callback(None)
    assert end.take() == b"HEAD;body"
    assert end.transport.producer is None
    end.send(PLAIN)
    assert exchange.reply.outcome == "ended"
    begin(network)
    assert end.take() == b"1\r\n"
    assert exchange.body.stopped == 0


class Socket:
    """
    Takes at most C{room} bytes at a time, and notes how they came.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken: list[bytes] = []

    def send(self, data: bytes) -> int:
        if not self.room:
            raise BlockingIOError
        self.taken.append(data[: self.room])
        return len(self.taken[-1])


@implementer(ISystemHandle)
class SocketTransport(Transport):
    """One whose socket can be written to past its own queue."""

    def __init__(self, socket: Socket) -> None:
        StringTransport.__init__(self)
        self.socket = socket

    def getHandle(self) -> Socket:
        return self.socket


def on_a_socket(exchange: RecordedExchange, room: int) -> tuple[Network, Socket, BackendEnd]:
    network = Network()
    network.backend.begin(exchange)
    socket = Socket(room)
    return network, socket, network.connect(SocketTransport(socket))


def test_a_request_goes_straight_to_the_socket() -> None:
    exchange = RecordedExchange(b"request")
    network, socket, end = on_a_socket(exchange, 1000)
    assert socket.taken == [b"request"]
    end.send(PLAIN)
    begin(network)
    assert socket.taken == [b"request", b"1\r\n"]
    assert end.take() == b""


@pytest.mark.parametrize("room", [0, 3])
def test_what_the_socket_does_not_take_is_queued(room: int) -> None:
    exchange = RecordedExchange(b"request")
    _, socket, end = on_a_socket(exchange, room)
    producer = end.transport.producer
    assert producer is not None
    producer.resumeProducing()
    assert b"".join(socket.taken) + end.take() == b"request"
    socket.room = 1000
    end.send(PLAIN)
    # llmux does not know that the last of it has gone: the connection is not used again.
    assert end.transport.aborted


def test_what_the_socket_does_not_take_is_sent_before_what_follows() -> None:
    exchange = RecordedExchange(b"request")
    network, socket, end = on_a_socket(exchange, 3)
    producer = end.transport.producer
    assert producer is not None
    producer.resumeProducing()
    producer.resumeProducing()
    assert end.transport.producer is None
    end.send(PLAIN)
    socket.room = 1000
    begin(network)
    assert socket.taken == [b"req", b"1\r\n"]


def test_a_body_in_the_queue_is_not_overtaken_by_the_next_request() -> None:
    exchange = Upload(Body())
    network, socket, end = on_a_socket(exchange, 1000)
    assert exchange.body.consumer is not None
    exchange.body.consumer.write(b"body")
    exchange.body.done.callback(None)
    end.send(PLAIN)
    begin(network)
    assert socket.taken == [b"HEAD;"]
    assert end.take() == b"body1\r\n"


def test_a_reply_before_the_whole_body() -> None:
    network, exchange, end = upload()
    end.send(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
    assert exchange.reply.status == 413
    assert exchange.reply.outcome == "ended"
    assert exchange.body.stopped == 1
    assert end.transport.aborted
    begin(network)
    assert network.attempts() == 1


def test_a_reply_that_begins_before_the_whole_body() -> None:
    _, exchange, end = upload()
    end.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
    assert exchange.body.stopped == 0
    exchange.body.done.callback(None)
    end.send(b"b")
    assert exchange.reply.outcome == "ended"
    assert not end.closed


def test_a_body_that_cannot_be_read() -> None:
    _, exchange, end = upload()
    exchange.body.done.errback(OSError("disk on fire"))
    assert exchange.reply == Reply(outcome="the request's body could not be read", heard=True)
    assert end.transport.aborted


def test_a_body_that_is_there_at_once() -> None:
    for outcome in (succeed(None), fail(OSError())):
        network = Network()
        exchange = Upload(Body())
        exchange.body.done = outcome
        network.backend.begin(exchange)
        end = network.connect()
        assert end.transport.producer is None


def test_a_connection_lost_in_mid_body() -> None:
    _, exchange, end = upload()
    end.close(cleanly=False)
    assert exchange.body.stopped == 1
    assert exchange.reply == Reply(outcome=WITHOUT_REPLY, heard=False)


def test_aborting_in_mid_body() -> None:
    _, exchange, end = upload()
    assert exchange.connection is not None
    exchange.connection.abort()
    assert exchange.body.stopped == 1
    end.close()
    assert exchange.body.stopped == 1


def test_a_large_request_goes_in_slices() -> None:
    network = Network()
    exchange = RecordedExchange(b"x" * 1_000_000)
    network.backend.begin(exchange)
    end = network.connect()
    sent = end.take()
    while end.transport.producer is not None:
        end.transport.producer.resumeProducing()
        slice_sent = end.take()
        assert len(slice_sent) <= 256 * 1024
        sent += slice_sent
    assert sent == exchange.request
    end.send(PLAIN)
    assert exchange.reply.outcome == "ended"
    assert not end.closed


def test_a_reply_before_the_whole_of_a_large_request() -> None:
    network = Network()
    exchange = RecordedExchange(b"x" * 1_000_000)
    network.backend.begin(exchange)
    end = network.connect()
    end.send(PLAIN)
    assert exchange.reply.outcome == "ended"
    assert end.transport.aborted
    assert end.transport.producer is None

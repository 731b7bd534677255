"""These tests check how requests are written to a connection."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import (
    IConsumer,
    ISystemHandle,
)
from twisted.internet.testing import StringTransport
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from tests.proxy_fakes import (
    PLAIN,
    BackendEnd,
    Network,
    RecordedExchange,
    Reply,
    Transport,
    begin,
)

WITHOUT_REPLY = "the backend closed the connection without a reply"


@implementer(IBodyProducer)
class Body:
    """This upload sends as much as the test says."""

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

    def to_send(self) -> tuple[bytes, IBodyProducer | None]:
        request, _ = super().to_send()
        return request, self.body


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
    """This socket takes at most C{room} bytes at a time, and notes how they came."""

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
    """The socket of this transport can be written to past the transport's own queue."""

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


@pytest.mark.parametrize("room", [0, 2])
def test_a_body_follows_a_head_that_the_socket_did_not_take(room: int) -> None:
    exchange = Upload(Body())
    network, socket, end = on_a_socket(exchange, room)
    assert end.transport.producer is exchange.body
    assert exchange.body.consumer is not None
    exchange.body.consumer.write(b"body")
    exchange.body.done.callback(None)
    assert b"".join(socket.taken) + end.take() == b"HEAD;body"
    end.send(PLAIN)
    assert exchange.reply.outcome == "ended"
    begin(network)
    assert end.take() == b"1\r\n"


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


def test_a_reply_before_the_whole_body_ends_the_exchange() -> None:
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


def test_a_body_that_cannot_be_read_aborts_the_exchange() -> None:
    _, exchange, end = upload()
    exchange.body.done.errback(OSError("disk on fire"))
    assert exchange.reply == Reply(
        outcome="the request's body could not be read", in_doubt=False
    )
    assert end.transport.aborted


def test_a_body_that_is_there_at_once_leaves_no_producer() -> None:
    for outcome in (succeed(None), fail(OSError())):
        network = Network()
        exchange = Upload(Body())
        exchange.body.done = outcome
        network.backend.begin(exchange)
        end = network.connect()
        assert end.transport.producer is None


def test_a_connection_lost_in_mid_body_stops_the_body() -> None:
    _, exchange, end = upload()
    end.close(cleanly=False)
    assert exchange.body.stopped == 1
    assert exchange.reply == Reply(outcome=WITHOUT_REPLY, in_doubt=True)


def test_an_exchange_aborted_in_mid_body_stops_its_body_once() -> None:
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

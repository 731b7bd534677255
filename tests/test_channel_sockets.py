"""These tests check the channel on real sockets: TCP, UNIX and TLS."""

from __future__ import annotations

import datetime
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, connectProtocol, serverFromString
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import (
    Certificate,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from llmux.web.channel import LlhttpChannel
from llmux.web.limits import Limits
from llmux.web.request import LlmuxRequest
from llmux.web.site import LlmuxSite
from tests.web_fakes import Leaf, replies

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Collects(Protocol):
    """This client takes all that comes, unless told to stop."""

    transport: Any

    def __init__(self) -> None:
        self.data = bytearray()
        self.lost: Deferred[None] = Deferred()
        self._until: tuple[int, Deferred[None]] | None = None

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        if self._until is not None and len(self.data) >= self._until[0]:
            _, waiting = self._until
            self._until = None
            waiting.callback(None)

    def received(self, count: int) -> Deferred[None]:
        """Make a Deferred that fires when so many bytes have come."""
        waiting: Deferred[None] = Deferred()
        self._until = (count, waiting)
        self.dataReceived(b"")
        return waiting

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)


class Echo(Leaf):
    """This Resource answers with the body that it was sent."""

    def render(self, request: LlmuxRequest) -> bytes:
        with request.body.open() as reader:
            return reader.read()


@implementer(IPushProducer)
class Streams(Leaf):
    """This Resource answers by the channel's own methods, as fast as the client takes it."""

    PIECE = b"x" * 50_000

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.left = pieces
        self.length = pieces * len(self.PIECE)
        self.paused = self.stopped = False
        self.most_unsent = 0
        self.ended: Deferred[bool] = Deferred()

    def render(self, request: LlmuxRequest) -> int:
        self.request = request
        self.channel: LlhttpChannel = request.channel
        self.channel.begin_reply(request, self)
        self.channel.write_reply(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self.length)
        self.resumeProducing()
        return NOT_DONE_YET

    def resumeProducing(self) -> None:
        self.paused = False
        while self.left and not self.paused:
            self.left -= 1
            self.channel.write_reply(self.PIECE)
            self.most_unsent = max(self.most_unsent, self.channel.unsent())
        if not self.left and not self.ended.called:
            self.channel.end_reply(self.request)
            self.ended.callback(True)

    def pauseProducing(self) -> None:
        self.paused = True

    def stopProducing(self) -> None:
        self.stopped = True
        self.ended.callback(False)


@pytest.fixture(params=["tcp", "unix", "ssl"])
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


def certificate(directory: Path) -> Path:
    """Write a key and its own certificate for localhost into a file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path = directory / "both.pem"
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(pem)
    )
    return path


def a_turn() -> Deferred[None]:
    """Make a Deferred that fires when the reactor has ended its present turn."""
    from twisted.internet import reactor

    turn: Deferred[None] = Deferred()
    reactor.callLater(0, turn.callback, None)
    return turn


class Served:
    """This object has a site that listens, and clients of it."""

    def __init__(self, site: LlmuxSite, where: Any) -> None:
        self.site = site
        self._where = where

    async def client(self) -> Collects:
        client = Collects()
        await connectProtocol(self._where, client)
        return client


@asynccontextmanager
async def serving(
    kind: str, directory: Path, resource: Leaf, **options: Any
) -> AsyncIterator[Served]:
    from twisted.internet import reactor
    from twisted.internet.endpoints import wrapClientTLS

    site = LlmuxSite(resource, reactor, **options)
    site.noisy = False
    if kind == "unix":
        listens = f"unix:{directory}/s"
    elif kind == "ssl":
        listens = f"ssl:0:interface=127.0.0.1:privateKey={certificate(directory)}"
    else:
        listens = "tcp:0:interface=127.0.0.1"
    port = await serverFromString(reactor, listens).listen(site)
    where: Any
    if kind == "unix":
        where = clientFromString(reactor, f"unix:{directory}/s")
    else:
        number = port.getHost().port
        where = clientFromString(reactor, f"tcp:127.0.0.1:{number}")
    if kind == "ssl":
        pem = (directory / "both.pem").read_bytes()
        root = trustRootFromCertificates([Certificate.loadPEM(pem)])
        where = wrapClientTLS(optionsForClientTLS("localhost", trustRoot=root), where)
    try:
        yield Served(site, where)
    finally:
        await port.stopListening()
        site.abort_all()
        await site.all_closed()


@pytest_twisted.ensureDeferred
async def test_a_body_of_any_size_comes_back_whole(kind: str, tmp_path: Path) -> None:
    async with serving(kind, tmp_path, Echo()) as served:
        client = await served.client()
        for body in (b"", b"abc", b"x" * 3_000_000):
            before = len(client.data)
            client.transport.write(
                b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            await client.received(before + len(body) + 60)
            while True:
                (reply,) = replies(bytes(client.data[before:]), [b"POST"], closed=False)
                if reply.whole:
                    break
                await client.received(len(client.data) + 1)
            assert reply.body == body
        client.transport.loseConnection()
        await client.lost


@pytest_twisted.ensureDeferred
async def test_a_slow_client_holds_up_what_is_sent_to_it(kind: str, tmp_path: Path) -> None:
    resource = Streams(600)
    async with serving(kind, tmp_path, resource) as served:
        client = await served.client()
        client.transport.write(GET)
        await client.received(1000)
        client.transport.pauseProducing()
        # The client's side is full when the kernel's buffers are.
        while not resource.paused:
            await a_turn()
        assert resource.left > 100
        client.transport.resumeProducing()
        assert await resource.ended
        await client.received(resource.length)
        assert resource.most_unsent < 200_000
        client.transport.loseConnection()
        await client.lost


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_stops_what_is_sent_to_it(kind: str, tmp_path: Path) -> None:
    resource = Streams(600)
    async with serving(kind, tmp_path, resource) as served:
        client = await served.client()
        client.transport.write(GET)
        await client.received(1000)
        client.transport.abortConnection()
        assert not await resource.ended
        assert resource.stopped
        await client.lost


@pytest_twisted.ensureDeferred
async def test_aborting_looks_like_no_end(kind: str, tmp_path: Path) -> None:
    class Aborts(Streams):
        def pauseProducing(self) -> None:
            super().pauseProducing()
            self.left = 1
            self.channel.abort_reply(self.request)

    async with serving(kind, tmp_path, Aborts(1000)) as served:
        client = await served.client()
        client.transport.write(GET)
        await client.lost
        assert not any(r.whole for r in replies(bytes(client.data), [b"GET"], closed=True))


@pytest_twisted.ensureDeferred
async def test_the_refusal_of_a_large_body_is_read_by_a_client_that_goes_on_sending(
    kind: str, tmp_path: Path
) -> None:
    async with serving(kind, tmp_path, Echo(), limits=Limits(body=100_000)) as served:
        for framing in (b"Content-Length: 50000000", b"Transfer-Encoding: chunked"):
            client = await served.client()
            client.transport.write(b"POST / HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n")
            for _ in range(50):
                client.transport.write(b"186a0\r\n" + b"x" * 100_000 + b"\r\n")
            await client.received(300)
            (reply,) = replies(bytes(client.data), [b"POST"], closed=False)
            assert reply.status == 413
            assert reply.whole
            client.transport.loseConnection()
            await client.lost


@pytest_twisted.ensureDeferred
async def test_a_refused_client_sees_the_end(tmp_path: Path) -> None:
    async with serving("tcp", tmp_path, Echo()) as served:
        client = await served.client()
        client.transport.write(b"nonsense\r\n\r\n")
        await client.lost
        (reply,) = replies(bytes(client.data), [b"GET"], closed=True)
        assert (reply.status, reply.whole) == (400, True)


@pytest_twisted.ensureDeferred
async def test_close_after_the_last_reply(kind: str, tmp_path: Path) -> None:
    async with serving(kind, tmp_path, Echo()) as served:
        client = await served.client()
        client.transport.write(
            b"POST / HTTP/1.0\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 2_000_000
        )
        await client.lost
        (reply,) = replies(bytes(client.data), [b"POST"], closed=True)
        assert reply.body == b"x" * 2_000_000


@pytest_twisted.ensureDeferred
async def test_an_idle_client_that_reads_nothing_is_not_waited_for(
    kind: str, tmp_path: Path
) -> None:
    from twisted.internet import reactor

    async with serving(kind, tmp_path, Echo()) as served:
        client = await served.client()
        client.transport.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.received(40)
        client.transport.pauseProducing()
        served.site.stop_accepting_requests()
        await served.site.all_closed().addTimeout(5, cast(Any, reactor))
        client.transport.resumeProducing()
        await client.lost
        (reply,) = replies(bytes(client.data), [b"GET"], closed=True)
        assert reply.whole


@pytest_twisted.ensureDeferred
async def test_small_pieces_are_not_held_back(tmp_path: Path) -> None:
    transports: list[Any] = []

    class Seen(Echo):
        def render(self, request: LlmuxRequest) -> bytes:
            transports.append(request.channel.transport)
            return super().render(request)

    async with serving("tcp", tmp_path, Seen()) as served:
        client = await served.client()
        client.transport.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.received(40)
        (transport,) = transports
        assert transport.getHandle().getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        client.transport.loseConnection()
        await client.lost

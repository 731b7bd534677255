"""These tests read replies of every kind, whole and in pieces, right and wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from zope.interface.verify import verifyObject

from llmux.backend.connection_phase import ConnectionPhase
from llmux.backend.exchange import IExchange, IExchangeConnection
from llmux.backend.reply import Framing, fields_of, reason_of
from llmux.backend.template import Repeats
from tests.proxy_fakes import BackendEnd, Network, RecordedExchange, Reply

OK = b"HTTP/1.1 200 OK"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
MID_REPLY = "the backend closed the connection in mid-reply"
INVALID = "the backend sent an invalid reply"


@dataclass
class Case:
    """
    A case is a reply of the backend.

    @ivar sent: the bytes that the backend sends, in as many pieces as the network makes of
        them.
    @ivar closes: True if the backend then closes the connection ("lost": by a reset).
    @ivar reused: True if the connection may carry another request.
    """

    name: str
    sent: bytes
    reply: Reply
    closes: str = ""
    reused: bool = False
    is_head: bool = False


def ended(block: bytes, framing: Framing, body: bytes = b"") -> Reply:
    return Reply(int(block[9:12]), block, framing, body, "ended")


def broken(reason: str) -> Reply:
    return Reply(outcome=reason, in_doubt=False)


LENGTH_2 = OK + b"\r\nContent-Length: 2"
WHOLE = ended(LENGTH_2, Framing.LENGTH, b"ab")
SOUND = [
    Case("length", LENGTH_2 + b"\r\n\r\nab", WHOLE, reused=True),
    Case(
        "length 0",
        OK + b"\r\nContent-Length: 0\r\n\r\n",
        ended(OK + b"\r\nContent-Length: 0", Framing.LENGTH),
        reused=True,
    ),
    Case(
        "chunked",
        CHUNKED + b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n",
        ended(OK, Framing.CHUNKED, b"abc0123456789"),
        reused=True,
    ),
    Case(
        "chunked, with extensions and trailers",
        CHUNKED + b"3;x=y\r\nabc\r\n0\r\nX-T: 1\r\n\r\n",
        ended(OK, Framing.CHUNKED, b"abc"),
        reused=True,
    ),
    Case(
        "chunked, without a body",
        CHUNKED + b"0\r\n\r\n",
        ended(OK, Framing.CHUNKED),
        reused=True,
    ),
    Case(
        "chunked, of HTTP/1.0",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        ended(OK, Framing.CHUNKED, b"a"),
    ),
    Case(
        "until the end of the connection",
        OK + b"\r\nX: y\r\n\r\nall of it",
        ended(OK + b"\r\nX: y", Framing.UNTIL_CLOSE, b"all of it"),
        closes="cleanly",
    ),
    Case(
        "until the end, which comes at once",
        OK + b"\r\n\r\n",
        ended(OK, Framing.UNTIL_CLOSE),
        closes="cleanly",
    ),
    Case("HTTP/1.0", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab", WHOLE),
    Case(
        "HTTP/1.0 that keeps the connection",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nab",
        WHOLE,
        reused=True,
    ),
    Case(
        "Connection: close",
        OK + b"\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab",
        WHOLE,
    ),
    Case(
        "headers of the connection",
        OK + b"\r\nX-Private: 1\r\nConnection: keep-alive, x-private\r\nkeep-alive: timeout=5"
        b"\r\nX: y\r\nUpgrade: h2c\r\nProxy-Authenticate: Basic\r\nTrailer: X-T\r\nTE: trailers"
        b"\r\nContent-Length: 2\r\n\r\nab",
        ended(OK + b"\r\nX: y\r\nContent-Length: 2", Framing.LENGTH, b"ab"),
        reused=True,
    ),
    Case(
        "a Connection header that names what must stay",
        OK + b"\r\nConnection: content-length\r\nContent-Length: 2\r\n\r\nab",
        WHOLE,
        reused=True,
    ),
    Case(
        "103 and 100 first",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
        + LENGTH_2
        + b"\r\n\r\nab",
        WHOLE,
        reused=True,
    ),
    Case("empty lines first", b"\r\n\r\n" + LENGTH_2 + b"\r\n\r\nab", WHOLE, reused=True),
    Case(
        "204",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        ended(b"HTTP/1.1 204 No Content", Framing.NONE),
        reused=True,
    ),
    Case(
        "304 with the length of what it does not send",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n",
        ended(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99", Framing.NONE),
        reused=True,
    ),
    Case(
        "HEAD with a length",
        LENGTH_2 + b"\r\n\r\n",
        ended(LENGTH_2, Framing.NONE),
        reused=True,
        is_head=True,
    ),
    Case(
        "HEAD, chunked",
        CHUNKED,
        ended(OK, Framing.NONE),
        reused=True,
        is_head=True,
    ),
    Case(
        "no reason phrase",
        b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nab",
        ended(b"HTTP/1.1 200\r\nContent-Length: 2", Framing.LENGTH, b"ab"),
        reused=True,
    ),
    Case(
        "a status of the backend's own",
        b"HTTP/1.1 799 Odd\xe9\r\nContent-Length: 0\r\n\r\n",
        ended(b"HTTP/1.1 799 Odd\xe9\r\nContent-Length: 0", Framing.LENGTH),
        reused=True,
    ),
]

BROKEN = [
    Case("not HTTP", b"SSH-2.0-OpenSSH_9.6\r\n", broken(INVALID)),
    Case("a request", b"GET / HTTP/1.1\r\n\r\n", broken(INVALID)),
    Case("half a head", OK + b"\r\nContent-Le", broken(MID_REPLY), closes="cleanly"),
    Case(
        "interim replies alone",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        broken(MID_REPLY),
        closes="cleanly",
    ),
    Case(
        "101",
        b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        broken("the backend replied with status 101, which was not asked for"),
    ),
    Case(
        "101 that upgrades to nothing",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        broken("the backend replied with status 101, which was not asked for"),
    ),
    Case(
        "a status below 100",
        b"HTTP/1.1 099 Odd\r\n\r\n",
        broken("the backend replied with status 99, which was not asked for"),
    ),
    Case("two lengths", LENGTH_2 + b"\r\nContent-Length: 2\r\n\r\nab", broken(INVALID)),
    Case(
        "a length and chunks",
        LENGTH_2 + b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        broken(INVALID),
    ),
    Case("a bare line feed", OK + b"\nContent-Length: 2\n\nab", broken(INVALID)),
    Case(
        "a folded header", OK + b"\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n", broken(INVALID)
    ),
    Case(
        "a coding that nobody asked for",
        OK + b"\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        broken("the backend used a transfer coding that was not asked for"),
    ),
    Case(
        "another protocol's name",
        b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        broken("the backend does not speak HTTP/1.1 or HTTP/1.0"),
    ),
    Case(
        "a control character in the reason",
        b"HTTP/1.1 200 O\x00K\r\nContent-Length: 0\r\n\r\n",
        broken("the backend does not speak HTTP/1.1 or HTTP/1.0"),
    ),
]


def truncated(block: bytes, framing: Framing, body: bytes, reason: str = MID_REPLY) -> Reply:
    return Reply(200, block, framing, body, reason, False)


TRUNCATED = [
    Case(
        "a body shorter than its length",
        LENGTH_2 + b"\r\n\r\na",
        truncated(LENGTH_2, Framing.LENGTH, b"a"),
        closes="cleanly",
    ),
    Case(
        "chunks without the last",
        CHUNKED + b"3\r\nabc\r\n",
        truncated(OK, Framing.CHUNKED, b"abc"),
        closes="cleanly",
    ),
    Case(
        "the last chunk without its end",
        CHUNKED + b"3\r\nabc\r\n0\r\n",
        truncated(OK, Framing.CHUNKED, b"abc"),
        closes="cleanly",
    ),
    Case(
        "until the end, which is a reset",
        OK + b"\r\n\r\npart",
        truncated(OK, Framing.UNTIL_CLOSE, b"part"),
        closes="lost",
    ),
]


def pieces(sent: bytes) -> list[Sequence[bytes]]:
    """Return the bytes in one piece, cut in two at every byte, and cut at every byte."""
    ways: list[Sequence[bytes]] = [[sent]]
    ways += [[sent[:cut], sent[cut:]] for cut in range(1, len(sent))]
    ways.append([sent[i : i + 1] for i in range(len(sent))])
    return ways


def carry(case: Case, parts: Sequence[bytes]) -> tuple[RecordedExchange, BackendEnd]:
    network = Network()
    exchange = RecordedExchange(is_head=case.is_head)
    network.backend.begin(exchange)
    end = network.connect()
    assert end.take() == exchange.request
    for part in parts:
        end.send(part)
    if case.closes:
        end.close(cleanly=case.closes == "cleanly")
    if case.reused:
        assert not end.closed
        again = RecordedExchange()
        network.backend.begin(again)
        assert end.take() == again.request
        end.send(OK + b"\r\nContent-Length: 1\r\n\r\nz")
        assert again.reply.body == b"z"
    elif not case.closes:
        assert end.closed
        network.backend.begin(RecordedExchange())
        assert end.take() == b""
        assert network.attempts() == 1
    return exchange, end


@pytest.mark.parametrize("case", SOUND + BROKEN + TRUNCATED, ids=lambda case: case.name)
def test_the_reply_is_the_same_however_it_is_cut(case: Case) -> None:
    for parts in pieces(case.sent):
        exchange, _ = carry(case, parts)
        assert exchange.reply == case.reply, parts


def test_a_broken_chunk_is_noticed_when_it_comes() -> None:
    sent = CHUNKED + b"3\r\nabc\r\nzz\r\n"
    for parts in pieces(sent):
        exchange, end = carry(Case("", sent, Reply()), parts)
        reply = exchange.reply
        assert reply.outcome == INVALID
        # What came before the fault in the same piece may have been dropped with it.
        assert b"abc".startswith(reply.body)
        assert end.transport.aborted


EXTRA = [
    (LENGTH_2 + b"\r\n\r\nab", b"c"),
    (LENGTH_2 + b"\r\n\r\nab", LENGTH_2 + b"\r\n\r\nab"),
    (CHUNKED + b"1\r\na\r\n0\r\n\r\n", b"garbage"),
    (b"HTTP/1.1 204 No Content\r\n\r\n", b"body"),
    (OK + b"\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab", b"more"),
]


@pytest.mark.parametrize(("sent", "extra"), EXTRA)
def test_what_comes_after_the_reply_ends_the_connection(sent: bytes, extra: bytes) -> None:
    plain, _ = carry_all([sent])
    for cut in range(len(sent + extra)):
        together = sent + extra
        exchange, end = carry_all([together[:cut], together[cut:]])
        assert exchange.reply == plain.reply
        assert end.closed


def carry_all(
    parts: Sequence[bytes], *, is_head: bool = False
) -> tuple[RecordedExchange, BackendEnd]:
    network = Network()
    exchange = RecordedExchange(is_head=is_head)
    network.backend.begin(exchange)
    end = network.connect()
    for part in parts:
        end.send(part)
    return exchange, end


@pytest.mark.parametrize("extra", [b"ab", b"0\r\n\r\n", b"5", b"HTTP/1.1 200 OK\r\n"])
@pytest.mark.parametrize("head", [LENGTH_2 + b"\r\n\r\n", CHUNKED])
def test_a_body_in_reply_to_head_ends_the_connection(head: bytes, extra: bytes) -> None:
    for cut in range(len(head + extra)):
        together = head + extra
        exchange, end = carry_all([together[:cut], together[cut:]], is_head=True)
        assert exchange.reply.outcome == "ended"
        assert exchange.reply.body == b""
        assert end.closed


def test_bytes_on_an_idle_connection_close_it() -> None:
    network = Network()
    network.backend.begin(RecordedExchange())
    end = network.connect()
    end.send(LENGTH_2 + b"\r\n\r\nab")
    end.send(b"HTTP/1.1 408 Timeout\r\n\r\n")
    assert end.transport.aborted
    network.backend.begin(RecordedExchange())
    assert network.attempts() == 1


@pytest.mark.parametrize(
    ("head", "closes"),
    [
        (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked", True),
        (b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked", True),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 05", True),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 0", False),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5", False),
    ],
)
def test_a_bodiless_reply_that_announces_a_body_ends_the_connection(
    head: bytes, closes: bool
) -> None:
    exchange, end = carry_all([head + b"\r\n\r\n"])
    assert exchange.reply.outcome == "ended"
    assert exchange.reply.body == b""
    assert end.closed == closes


IDLE, ASKING, REPLYING, CLOSED = ConnectionPhase


def connection_in(phase: ConnectionPhase) -> tuple[RecordedExchange, BackendEnd]:
    exchange, end = carry_all(
        {
            IDLE: [LENGTH_2 + b"\r\n\r\nab"],
            ASKING: [OK],
            REPLYING: [LENGTH_2 + b"\r\n\r\na"],
            CLOSED: [b"junk"],
        }[phase]
    )
    assert end.connection.phase is phase
    return exchange, end


@pytest.mark.parametrize(
    ("phase", "event", "following"),
    [
        (IDLE, "begin", ASKING),
        (IDLE, "a byte", CLOSED),
        (IDLE, "close", CLOSED),
        (IDLE, "abort", CLOSED),
        (IDLE, "lost", CLOSED),
        (ASKING, "the head", REPLYING),
        (ASKING, "the whole", IDLE),
        (ASKING, "the whole and a byte", CLOSED),
        (ASKING, "nonsense", CLOSED),
        (ASKING, "abort", CLOSED),
        (ASKING, "lost", CLOSED),
        (REPLYING, "a byte", IDLE),
        (REPLYING, "two bytes", CLOSED),
        (REPLYING, "abort", CLOSED),
        (REPLYING, "lost", CLOSED),
        (CLOSED, "a byte", CLOSED),
        (CLOSED, "abort", CLOSED),
        (CLOSED, "lost", CLOSED),
    ],
)
def test_each_event_in_each_phase_has_its_outcome(
    phase: ConnectionPhase, event: str, following: ConnectionPhase
) -> None:
    _, end = connection_in(phase)
    connection = end.connection
    came = {
        "a byte": b"b",
        "two bytes": b"bc",
        "the head": b"\r\nContent-Length: 2\r\n\r\n",
        "the whole": b"\r\nContent-Length: 2\r\n\r\nab",
        "the whole and a byte": b"\r\nContent-Length: 2\r\n\r\nabc",
        "nonsense": b"\nnonsense\n\n",
    }
    if event == "begin":
        connection.begin(RecordedExchange())
    elif event == "close":
        connection.close()
    elif event == "abort":
        connection.abort()
    elif event == "lost":
        end.close()
    else:
        connection.dataReceived(came[event])
    assert connection.phase is following


@pytest.mark.parametrize("piece", [1000, 65536, 10**6])
def test_a_head_without_end_is_given_up(piece: int) -> None:
    exchange, end = carry_all([OK])
    for _ in range(0, 10**6, piece):
        end.send(b"\r\nX: " + b"x" * piece)
    assert exchange.reply == broken("the head of the backend's reply is too long")
    assert end.transport.aborted


def test_a_new_connection_that_closes_without_a_word_fails_the_exchange() -> None:
    for cleanly in (True, False):
        network = Network()
        exchange = RecordedExchange(repeats=Repeats.ALWAYS)
        network.backend.begin(exchange)
        network.connect().close(cleanly=cleanly)
        assert exchange.reply == Reply(
            outcome="the backend closed the connection without a reply", in_doubt=True
        )
        assert network.attempts() == 0


def test_aborting_tells_nothing_and_closes_at_once() -> None:
    exchange, end = carry_all([CHUNKED + b"1\r\na\r\n"])
    connection = exchange.connection
    assert connection is not None
    connection.abort()
    assert end.transport.aborted
    assert exchange.connection is None
    end.close()
    assert exchange.reply.outcome == ""


def test_a_connection_pauses_and_resumes_its_transport() -> None:
    exchange, end = carry_all([CHUNKED])
    connection = exchange.connection
    assert connection is not None
    connection.pause()
    assert end.transport.producerState == "paused"
    connection.resume()
    assert end.transport.producerState == "producing"
    connection.pause()
    # Some transports still deliver what they had.
    end.send(b"0\r\n\r\n")
    assert exchange.reply.outcome == "ended"
    assert end.transport.producerState == "producing"


def test_an_exchange_and_its_connection_provide_their_interfaces() -> None:
    exchange, _ = carry_all([CHUNKED])
    assert verifyObject(IExchange, exchange)
    assert verifyObject(IExchangeConnection, exchange.connection)


def test_the_fields_of_a_head_are_read() -> None:
    block = b"HTTP/1.1 200 Fine by me\r\nA: b\r\nEmpty:\r\nC:  d e \t"
    assert reason_of(block) == b"Fine by me"
    assert fields_of(block) == [(b"A", b"b"), (b"Empty", b""), (b"C", b"d e")]
    assert reason_of(b"HTTP/1.1 200") == b""

"""
This module makes the answers of the hostile backend: replies made from a grammar, and spoilt a
little.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from random import Random

from tests.fuzz.streams import mutate

__all__ = ["Close", "Script", "script"]


class Close(Enum):
    """This says what happens to the connection after the last byte."""

    KEPT = "kept"
    CLOSED = "closed"
    RESET = "reset"
    HELD = "held"
    """The backend sends nothing more for a while, and then closes the connection."""


@dataclass
class Script:
    """
    A script says what the backend does about one request.

    @ivar pieces: the pieces that the backend writes, with the seconds to wait before each.
    @ivar sound: True if this is a reply whose status and body have to reach the client.
    @ivar early: True to write before the request's body is read.
    @ivar tainted: True if the backend has sent bytes that nobody asked for on this connection
        before.
    """

    pieces: list[tuple[float, bytes]]
    close: Close
    sound: bool
    status: int = 0
    body: bytes = b""
    early: bool = False
    tainted: bool = field(default=False)


_STATUSES = (200,) * 10 + (201, 204, 304, 400, 404, 429, 500, 503)

_FIELDS = (
    b"Content-Type: application/json",
    b"Content-Type: text/event-stream",
    b"X-Empty:",
    b"x-spaced:   a b  ",
    b"Set-Cookie: a=b",
    b"Set-Cookie: c=d",
    b"Keep-Alive: timeout=5",
    b"Server: \xe9",
    b"Connection: X-Empty",
    b"Retry-After: 3",
)

_ODD_FIELDS = (
    b"Content-Length: 5",
    b"Content-Length: 3, 3",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked",
    b" folded",
    b"No colon",
    b"A\x00: b",
    b"A: b\nC: d",
    b"Upgrade: websocket",
    b"Trailer: X-T",
    b"X-Long: " + b"l" * 70_000,
)


def _cut(random: Random, data: bytes) -> list[tuple[float, bytes]]:
    kind = random.random()
    if kind < 0.6 or len(data) < 2:
        return [(0.0, data)]
    at = sorted(random.randrange(1, len(data)) for _ in range(random.randint(1, 6)))
    pause = random.choice((0.0, 0.0, 0.001, 0.01, 0.1))
    return [
        (pause, data[a:b]) for a, b in zip([0, *at], [*at, len(data)], strict=True) if a != b
    ]


def script(random: Random, key: str, method: bytes, *, calm: bool = False) -> Script:
    """
    Draw at random what the backend does about a request.

    @param key: the key of the request; the reply repeats it, so that replies can be told from
        each other.
    @param calm: True to draw only what an honest backend does.
    """
    status = 200 if calm else random.choice(_STATUSES)
    size = random.choice((0, 1, 50, 600, 5000)) if random.random() < 0.97 else 200_000
    body = (key * (size // len(key) + 1)).encode()[:size]
    fields = [b"X-Echo: " + key.encode()]
    if not calm:
        fields += random.sample(_FIELDS, random.choice((0, 1, 2)))
    close = Close.KEPT
    framing = random.choice(("length", "length", "chunked", "close"))
    bare = method == b"HEAD" or status in (204, 304)
    version = b"HTTP/1.1"
    if framing == "length":
        if status != 204:
            fields.append(b"Content-Length: %d" % len(body))
        coded = body
    elif framing == "chunked":
        if status != 204:
            fields.append(b"Transfer-Encoding: chunked")
        coded = b""
        left = body
        while left:
            n = random.randint(1, len(left)) if len(left) < 10_000 else len(left)
            coded += b"%x%b\r\n%b\r\n" % (n, random.choice((b"", b"", b";e=1")), left[:n])
            left = left[n:]
        coded += b"0\r\n" + random.choice((b"", b"", b"X-Trailer: 1\r\n")) + b"\r\n"
    else:
        coded = body
        close = Close.CLOSED
        if random.random() < 0.3:
            version = b"HTTP/1.0"
        elif random.random() < 0.5:
            fields.append(b"Connection: close")
    if bare:
        body = coded = b""
    if not calm and random.random() < 0.08 and close is Close.KEPT:
        close = Close.CLOSED
        if random.random() < 0.5:
            fields.append(b"Connection: close")
    interim = b""
    if not calm and random.random() < 0.08:
        interim = random.choice(
            (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nLink: </x>\r\n\r\n")
        ) * random.choice((1, 1, 2, 50))
    line = version + b" %d " % status + random.choice((b"OK", b"", b"Fine \xff", b"A b c"))
    sent = interim + b"\r\n".join([line, *fields, b"", b""]) + coded
    if calm or random.random() < 0.6:
        return Script(_cut(random, sent), close, True, status, body)
    kind = random.randrange(10)
    if kind < 3:
        sent = mutate(random, sent)
        close = random.choice((close, Close.CLOSED, Close.RESET, Close.HELD))
    elif kind < 6:
        # The backend sends between nothing at all and all but the last byte.
        sent = sent[: random.randrange(len(sent))] if random.random() < 0.8 else b""
        close = random.choice((Close.CLOSED, Close.CLOSED, Close.RESET, Close.HELD))
    elif kind == 6:
        sent += random.choice((b"x", b"\r\n", sent, b"HTTP/1.1 200 OK\r\n\r\n"))
    elif kind == 7:
        fields.insert(random.randrange(len(fields) + 1), random.choice(_ODD_FIELDS))
        sent = b"\r\n".join([line, *fields, b"", b""]) + coded
        close = random.choice((close, Close.CLOSED))
    elif kind == 8:
        return Script(_cut(random, sent), Close.CLOSED, False, status, body, early=True)
    else:
        sent = random.choice(
            (
                random.randbytes(200),
                b"HTTP/2.0 200 OK\r\n\r\n",
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
                b"ICY 200 OK\r\n\r\n",
                b"SSH-2.0-x\r\n",
                b"\r\n" * 1000,
                b"HTTP/1.1 99 x\r\n\r\n",
                b"HTTP/1.1 2000 x\r\n\r\n",
            )
        )
        close = random.choice((Close.CLOSED, Close.HELD, Close.KEPT))
    return Script(_cut(random, sent) if sent else [], close, False, status, body)
